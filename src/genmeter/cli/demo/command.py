"""``genmeter demo``: its arguments, and how it runs."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from genmeter.cli._arguments import checked
from genmeter.cli.demo.simulate import (
    CUSTOM_METRICS,
    MODELS,
    PRICES,
    SCORE_SCALES,
    Job,
    Plan,
)
from genmeter.cli.demo.view import headline, show_progress, summary
from genmeter.cli.live.terminal import say, stop_event
from genmeter.config.checks import PORT, count, number
from genmeter.config.monitor import MonitorConfig
from genmeter.errors import EndpointError
from genmeter.exporters.settings import EXPORTERS, PROMETHEUS, ExportSettings
from genmeter.handlers.logging import LOGGER_NAME
from genmeter.monitor import GenerationMonitor

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HELP", "add_arguments", "run"]

HELP = "simulate a generation job, with a live view, a scrape endpoint and a token report"
_EPILOG = """\
Metrics are served at http://127.0.0.1:9464/metrics unless an option or an OTEL_* or GENMETER_*
variable says otherwise. Without a terminal a line is printed every 10 seconds instead of the live
view. Ctrl-C or SIGTERM ends the job early and cancels its calls in progress; the report is still
printed.

Exit code: 0; 2 if an argument is invalid or the port is in use.
"""
_NAMES = [model.name for model in MODELS]
_TICK, _MIN_TICK = 0.1, 0.005  # seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "--duration",
        type=checked(number(1e-3, 1e7, what="seconds")),
        default=60.0,
        metavar="SECONDS",
        help="how long calls begin; the last ones end within 15 s more (default: %(default)g)",
    )
    add(
        "--rate",
        type=checked(number(1e-3, 2_000, what="calls per second")),
        default=20.0,
        metavar="CALLS",
        help="calls of models per second, on average (default: %(default)g)",
    )
    add("--seed", type=checked(count()), default=1, help="equal seeds give equal jobs (default: 1)")
    add("--port", type=checked(PORT), help="port of the endpoint, 0 for any free (default: 9464)")
    add(
        "--linger",
        type=checked(number(0, 1e7, what="seconds")),
        metavar="SECONDS",
        help="at the end, wait this long for one more scrape (default: 0)",
    )
    add(
        "--fail",
        type=_failing,
        action="append",
        default=[],
        metavar="MODEL=SHARE",
        help=f"let a share (0 to 1) of a model's calls fail; models: {', '.join(_NAMES)}",
    )
    add("--quiet", action="store_true", help="print only the address and the report")


def _failing(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    if name not in _NAMES:
        raise argparse.ArgumentTypeError(
            f"must be MODEL=SHARE with a model of {', '.join(_NAMES)}, got {text!r}"
        )
    return name, checked(number(0, 1, what="MODEL=SHARE with a share"))(share)


@contextmanager
def _without_expected_warnings() -> Iterator[None]:
    """Do not log that the usage of a call is unknown: it is simulated, and the report says so."""
    logger = logging.getLogger("genmeter")

    def is_unexpected(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("the token usage of a call of ")

    logger.addFilter(is_unexpected)
    try:
        yield
    finally:
        logger.removeFilter(is_unexpected)


@_without_expected_warnings()
def run(args: argparse.Namespace) -> int:
    """Run the demo.

    Raises:
        ConfigError: An environment variable is invalid.
        EndpointError: The port cannot be bound.
    """
    plan = Plan(duration=args.duration, rate=args.rate, seed=args.seed, failing=dict(args.fail))
    # Without a handler, logging would write the job's messages to the terminal.
    logging.getLogger(LOGGER_NAME).addHandler(logging.NullHandler())
    config = _config(plan, args.port, args.linger)
    try:
        monitor = GenerationMonitor(config=config)
    except EndpointError as error:
        raise EndpointError(
            f"{error}\nchoose a port with --port, such as: genmeter demo --port 0"
        ) from error
    with stop_event() as stop:
        job = Job(plan, monitor)
        say(headline(job))
        with show_progress(job, is_quiet=args.quiet) as show:
            began = time.monotonic()
            # Up to the next chunk of a stream, so that the times between chunks are right.
            while not job.is_done and not stop.wait(
                min(max(_MIN_TICK, job.next_at - (time.monotonic() - began)), _TICK)
            ):
                job.advance(time.monotonic() - began)
                show()
            job.cancel()
        say(summary(job))
    if config.endpoint.linger and monitor.endpoint_url is not None:
        say(f"waiting up to {config.endpoint.linger:g} s for one more scrape; Ctrl-C ends it")
    try:
        monitor.shutdown()
    except KeyboardInterrupt:
        say("not waiting any longer")
    return 0


def _config(plan: Plan, port: int | None, linger: float | None) -> MonitorConfig:
    config = MonitorConfig.from_env(
        models=tuple(_NAMES),
        expected_samples=plan.expected_samples,
        prices=PRICES,
        score_scales=SCORE_SCALES,
        custom_metrics=CUSTOM_METRICS,
        meter_provider="builtin",  # the environment cannot know that there is no application
    )
    options = {"port": port, "linger": linger}
    endpoint: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    exporters = ExportSettings.from_env(os.environ).exporters
    # Enabled in code, so that a port in use is an error rather than a warning.
    endpoint["enabled"] = port is not None or PROMETHEUS in exporters
    if PROMETHEUS not in exporters:
        # The view reads the metrics even if they are not served.
        os.environ[EXPORTERS] = ",".join([*exporters, PROMETHEUS])
    return dataclasses.replace(config, endpoint=dataclasses.replace(config.endpoint, **endpoint))
