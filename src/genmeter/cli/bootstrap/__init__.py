"""What ``genmeter run`` does in the main process of the job, before the script and after it.

The folder is first on ``PYTHONPATH`` because of its ``sitecustomize.py``.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import sys
from contextlib import suppress

from genmeter import patch, runtime
from genmeter.config.monitor import MonitorConfig
from genmeter.errors import EndpointError, GenmeterError
from genmeter.exporters.settings import PROMETHEUS, ExportSettings
from genmeter.monitor import GenerationMonitor, job_token_usage

__all__ = ["QUIET", "say", "start"]

QUIET = "_GENMETER_RUN_QUIET"
"""The variable of ``--quiet``."""
_USAGE_ERROR = 2


def start() -> None:
    """Open the endpoint, patch AfterImage's monitor, and register the report at exit.

    An invalid setting or a port in use ends the process with exit code 2.
    """
    try:
        # The job's own monitors set the expected samples.
        config = MonitorConfig.from_env(expected_samples=None)
        monitor = _open(config)
    except GenmeterError as error:
        say(f"genmeter run: error: {error}")
        # After an exception Python would run the script all the same.
        os._exit(_USAGE_ERROR)
    patch.install()
    # Runs before the monitor's hook, and after those of the script, which may still record.
    atexit.register(_finish, os.getpid(), monitor, config)
    if monitor is not None and monitor.endpoint_url is not None:
        say(f"metrics: {monitor.endpoint_url}")


def say(text: str) -> None:
    """Write a line to standard error, unless the script has closed it."""
    with suppress(Exception):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _open(config: MonitorConfig) -> GenerationMonitor | None:
    """Create a monitor for the whole run; None if the application has its own provider."""
    if config.meter_provider != "builtin":
        return None
    if PROMETHEUS in ExportSettings.from_env(os.environ).exporters:
        # Enabled in code, so that a port in use is an error rather than a warning.
        endpoint = dataclasses.replace(config.endpoint, enabled=True)
        config = dataclasses.replace(config, endpoint=endpoint)
    try:
        return GenerationMonitor(
            metric_handlers=[], log_handlers=[], metrics_interval=0, config=config
        )
    except EndpointError as error:
        raise EndpointError(
            f"{error}\n--host and --port set the address, such as: genmeter run --port 0 script.py"
        ) from error


def _finish(pid: int, _monitor: GenerationMonitor | None, config: MonitorConfig) -> None:
    """Print the report and shut down. The argument keeps the monitor alive until then."""
    if os.getpid() != pid:  # a forked child does not report
        return
    if QUIET not in os.environ:
        report = job_token_usage()
        is_known = report.by_model or report.without_usage
        text = f"{report}" if is_known else "No token usage recorded."
        if report.by_model and (config.prices is not None or report.cost_usd):
            text += f"\n\n{report.cost()}"
        say(f"\n{text}")
    linger, job = config.endpoint.linger, runtime.current()
    if linger and job.url() is not None:
        say(f"waiting up to {linger:g} s for one more scrape; Ctrl-C ends it")
    try:
        job.exit()
    except KeyboardInterrupt:
        say("not waiting any longer")
