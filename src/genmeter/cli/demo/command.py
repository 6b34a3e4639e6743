"""The subcommand: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from genmeter.cli.demo.simulate import (
    CUSTOM_METRICS,
    MODELS,
    PRICES,
    SCORE_SCALES,
    Job,
    Plan,
    play,
)
from genmeter.cli.demo.view import choose_view, final_report, headline, say
from genmeter.config.monitor import MonitorConfig
from genmeter.errors import EndpointError
from genmeter.exporters.settings import EXPORTERS, PROMETHEUS, ExportSettings
from genmeter.handlers.logging import LOGGER_NAME
from genmeter.monitor import GenerationMonitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["HELP", "add_arguments", "run"]

HELP = "watch a made-up generation job: a live view, a scrape endpoint and a token report"
_EPILOG = """\
The metrics are served at http://127.0.0.1:9464/metrics unless the arguments or the variables
OTEL_* and GENMETER_* say otherwise. The live view needs a terminal and the extra "demo"
(pip install "genmeter[demo]"); without either there is a plain line every ten seconds.

The exit code is 0 also where Ctrl-C or SIGTERM ends the job early, which still prints the report;
2 where an argument cannot be used or the port is taken.
"""
_MAX_RATE = 2_000.0
_MAX_PORT = 65_535
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments.

    Args:
        parser: The subcommand's parser.
    """
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "--duration",
        type=_number("seconds, more than 0 and at most 1e7", most=1e7),
        default=60.0,
        metavar="SECONDS",
        help="how long the job lasts (default: %(default)g)",
    )
    add(
        "--rate",
        type=_number(f"calls a second, more than 0 and at most {_MAX_RATE:,.0f}", most=_MAX_RATE),
        default=20.0,
        metavar="CALLS",
        help="calls of models a second, on average (default: %(default)g)",
    )
    add("--seed", type=_whole, default=1, help="the same seed gives the same job (default: 1)")
    add("--port", type=_port, help="port of the endpoint, 0 for any free one (default: 9464)")
    add(
        "--linger",
        type=_number("seconds, 0 to 1e7", most=1e7, or_zero=True),
        metavar="SECONDS",
        help="at the end, wait so long for one more scrape (default: 0)",
    )
    add(
        "--fail",
        type=_failing,
        action="append",
        default=[],
        metavar="MODEL=SHARE",
        help=f"fail this share (0 to 1) of a model's calls; models: {_names()}",
    )
    add("--quiet", action="store_true", help="show nothing but the address and the report")


def run(args: argparse.Namespace) -> int:
    """Run the demo.

    Args:
        args: As `add_arguments` declares them.

    Returns:
        The exit code.

    Raises:
        ConfigError: An environment variable that cannot be used.
        EndpointError: The endpoint cannot listen on its port.
    """
    plan = Plan(duration=args.duration, rate=args.rate, seed=args.seed, failing=dict(args.fail))
    # What the made-up job logs would go to the screen, where nothing else takes it.
    logging.getLogger(LOGGER_NAME).addHandler(logging.NullHandler())
    try:
        monitor = GenerationMonitor(config=_config(plan, args.port, args.linger))
    except EndpointError as error:
        raise EndpointError(
            f"{error}\nchoose a port with --port, such as: genmeter demo --port 0"
        ) from error
    with _stopping_on_signals() as stop:
        job = Job(plan, monitor)
        say(headline(job))
        with choose_view(job, is_quiet=args.quiet) as show:
            elapsed = play(job, show=show, wait=stop.wait, clock=time.monotonic)
        say(final_report(job, elapsed))
    _shut_down(monitor, args.linger)
    return 0


def _config(plan: Plan, port: int | None, linger: float | None) -> MonitorConfig:
    config = MonitorConfig.from_env(
        models=tuple(model.name for model in MODELS),
        expected_samples=plan.expected_samples,
        prices=PRICES,
        score_scales=SCORE_SCALES,
        custom_metrics=CUSTOM_METRICS,
        meter_provider="builtin",  # whatever the environment says: there is no application
    )
    given = {"port": port, "linger": linger}
    endpoint: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    exporters = ExportSettings.from_env(os.environ).exporters
    # Asked for in code, so that a taken port is an error rather than a warning.
    endpoint["enabled"] = port is not None or PROMETHEUS in exporters
    if PROMETHEUS not in exporters:
        # The view reads the page, also where nothing serves it.
        os.environ[EXPORTERS] = ",".join([*exporters, PROMETHEUS])
    return dataclasses.replace(config, endpoint=dataclasses.replace(config.endpoint, **endpoint))


@contextmanager
def _stopping_on_signals() -> Iterator[threading.Event]:
    """Yield the event that the first Ctrl-C or SIGTERM sets; a second ends the process as usual."""
    stop = threading.Event()
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _SIGNALS} if is_main else {}

    def set_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def halt(*_: object) -> None:
        stop.set()
        set_back()

    for number in before:
        signal.signal(number, halt)
    try:
        yield stop
    finally:
        set_back()


def _shut_down(monitor: GenerationMonitor, linger: float | None) -> None:
    if linger and monitor.endpoint_url is not None:
        say(f"waiting up to {linger:g} s for one more scrape; Ctrl-C ends it")
    try:
        monitor.shutdown()
    except KeyboardInterrupt:
        say("not waiting any longer")


# --- what the arguments may be -----------------------------------------------------------------


def _number(expected: str, *, most: float, or_zero: bool = False) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (0.0 < value <= most or (or_zero and value == 0.0)):
            raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")
        return value

    return parse


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from error


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_PORT):
        raise argparse.ArgumentTypeError(
            f"must be a port from 1 to {_MAX_PORT}, or 0 for any free one, got {text!r}"
        )
    return int(text)


def _failing(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        value = float(share) if name in {model.name for model in MODELS} else math.nan
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(
            f"must be MODEL=SHARE, with a share from 0 to 1, such as {MODELS[0].name}=0.5, and one "
            f"of the models {_names()}, got {text!r}"
        )
    return name, value


def _names() -> str:
    return ", ".join(model.name for model in MODELS)
