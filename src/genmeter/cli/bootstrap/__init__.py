"""What ``genmeter run`` adds to the job's main process, before the script's first line and at its end.

The folder stands first on ``PYTHONPATH``, for the sake of its ``sitecustomize.py`` alone.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from genmeter import patch, runtime
from genmeter.config.monitor import MonitorConfig
from genmeter.errors import EndpointError, GenmeterError
from genmeter.exporters.settings import PROMETHEUS, ExportSettings
from genmeter.monitor import GenerationMonitor, process_token_usage

if TYPE_CHECKING:
    from genmeter.config.prices import PriceTable

__all__ = ["QUIET", "say", "start"]

QUIET = "_GENMETER_RUN_QUIET"
"""The variable that stands for ``--quiet``."""
_USAGE_ERROR = 2


def start() -> None:
    """Open the endpoint, patch AfterImage's monitor, and arrange for the report at the exit.

    A setting or a port that cannot be used ends the process with the exit code 2.
    """
    try:
        config = MonitorConfig.from_env(expected_samples=None)  # the job's monitors count these
        monitor = _open(config)
    except GenmeterError as error:
        say(f"genmeter run: error: {error}")
        os._exit(
            _USAGE_ERROR
        )  # an exception would be a warning of Python's, and the script would run
    patch.install()
    # Before the monitor's own hook, and after those of the script, which may record until then.
    atexit.register(_finish, os.getpid(), monitor, config)
    if monitor is not None and monitor.endpoint_url is not None:
        say(f"metrics: {monitor.endpoint_url}")


def say(text: str) -> None:
    """Write a line to standard error, which the script may have closed.

    Args:
        text: The line.
    """
    with suppress(Exception):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _open(config: MonitorConfig) -> GenerationMonitor | None:
    """Make the monitor that spans the run; none where the application's provider is asked for."""
    if config.meter_provider != "builtin":
        return None
    if PROMETHEUS in ExportSettings.from_env(os.environ).exporters:
        # Asked for in code, so that a taken port is an error rather than a warning.
        endpoint = dataclasses.replace(config.endpoint, enabled=True)
        config = dataclasses.replace(config, endpoint=endpoint)
    try:
        return GenerationMonitor(
            metric_handlers=[], log_handlers=[], metrics_interval=0, config=config
        )
    except EndpointError as error:
        raise EndpointError(
            f"{error}\n--port and --host name another place: genmeter run --port 0 script.py"
        ) from error


def _finish(pid: int, _monitor: GenerationMonitor | None, config: MonitorConfig) -> None:
    """Report and close; the monitor is kept open until then by being an argument."""
    if os.getpid() != pid:  # a forked child ends like a process of its own
        return
    if QUIET not in os.environ:
        say(_report(config.prices))
    linger, job = config.endpoint.linger, runtime.current()
    if linger and job.url() is not None:
        say(f"waiting up to {linger:g} s for one more scrape; Ctrl-C ends it")
    try:
        job.exit()
    except KeyboardInterrupt:
        say("not waiting any longer")


def _report(prices: PriceTable | None) -> str:
    report = process_token_usage()
    if not report.by_model:
        return "\nNo token usage recorded."
    cost = "" if prices is None else f"\n\n{report.cost(prices)}"
    return f"\n{report}{cost}"
