"""``genmeter top``: a live view of running jobs."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from genmeter.cli._arguments import checked
from genmeter.cli.live.draw import screen
from genmeter.cli.live.lines import FIELDS, lines, remarks
from genmeter.cli.live.sources import source_of
from genmeter.cli.live.terminal import can_move_cursor, say, stop_event, terminal
from genmeter.cli.live.watch import ENDED, RUNNING, Watcher
from genmeter.config.checks import count, number
from genmeter.errors import ConfigError

if TYPE_CHECKING:
    import threading

__all__ = ["HELP", "add_arguments", "run"]

HELP = "show running jobs live: progress, rates, tokens, cost, errors and alerts"
_EPILOG = """\
SOURCE is one of
  an endpoint   of a job: HOST:PORT or http://127.0.0.1:9464/metrics; with a login
                http://user:password@host:9464, with TLS https:// (SSL_CERT_FILE is
                the certificate to trust)
  a job's name  as in GENMETER_JOB, of this user on this machine: all its processes,
                through the store that they share; job=NAME if it has other
                characters than letters, digits, . _ and -
  prometheus=   and the address of Prometheus or VictoriaMetrics: all jobs whose
                series it has now, one for each of its targets; with a login in
                the address, or GENMETER_PROMETHEUS_TOKEN (docs/fleet.md)

q or Ctrl-C ends the view. If standard output is not a terminal, or with --once or
--count, a line is printed for each job and interval, and one for the total of
several; why a source does not answer is written to standard error.

Rates are differences between readings over the last 10 seconds (over one scrape
interval at least, with prometheus=), the time left is that of the last minute's
samples. After a restart of the job they are unknown until the second reading. A
source that does not answer keeps its last numbers, and the view says since when.

examples:
  genmeter top 127.0.0.1:9464
  genmeter top 127.0.0.1:9464 127.0.0.1:9465 --interval 5
  genmeter top prometheus=http://127.0.0.1:9090
  genmeter top 127.0.0.1:9464 --interval 60 | tee job.log
  genmeter top 127.0.0.1:9464 --once | grep -o 'usd=[^ ]*'

Exit code: 0; 1 if a source does not answer when --once or --count ends; 2 if an
argument is invalid.

Fields of a line after its time; - means unknown or none:
"""
_INTERVAL = 2.0
_KEY_SECONDS = 0.3  # of waiting for a key
_TIMEOUT = 15.0  # seconds to wait for answers before a line; a request's own timeout is shorter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    fields = "\n".join(f"  {name:<18} {text}" for name, text in FIELDS.items())
    parser.epilog = f"{_EPILOG}{fields}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="an endpoint, a job's name, or prometheus=URL")
    add(
        "--interval",
        type=checked(number(0.1, 86_400, what="seconds")),
        default=_INTERVAL,
        metavar="SECONDS",
        help="time between readings (default: %(default)g)",
    )
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument(
        "--count", type=checked(count(1)), metavar="N", help="print lines N times, then end"
    )
    ends.add_argument(
        "--once",
        dest="count",
        action="store_const",
        const=1,
        help="print the lines of one reading, then end; rates need two",
    )


def run(args: argparse.Namespace) -> int:
    """Show the jobs until the user ends it.

    Raises:
        ConfigError: A source is invalid.
    """
    sources = [source_of(text) for text in args.sources]
    names = [source.name for source in sources]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ConfigError(f"each SOURCE must be given once, got {repeated[0]!r} twice")
    watcher = Watcher(sources)
    with stop_event(is_forced_by_second=False) as stop:
        if args.count is None and can_move_cursor():
            _show(watcher, args.interval, stop)
            return 0
        return _print(watcher, args.interval, args.count, stop)


def _show(watcher: Watcher, interval: float, stop: threading.Event) -> None:
    due, drawn = time.monotonic(), None
    with terminal() as shown:
        end = "q" if shown.has_keys else "Ctrl-C"
        while not stop.is_set():
            if (now := time.monotonic()) >= due:
                due = now + interval
                watcher.begin_round()
                watcher.wait(min(interval, _KEY_SECONDS))  # most answer at once
            wall, size = datetime.now().astimezone(), shown.console.size
            # Answers and seconds since then change the screen once a second.
            if drawn != (drawn := (due, size, wall.replace(microsecond=0))):
                note = f"{wall:%H:%M:%S}, every {interval:g} s, {end} ends"
                shown.show(screen(watcher.rows(), size.width, size.height, note))
            left = max(0.0, due - time.monotonic())
            if "q" in shown.wait_for_key(min(_KEY_SECONDS, left)).lower():
                return


def _print(watcher: Watcher, interval: float, times: int | None, stop: threading.Event) -> int:
    due = time.monotonic()
    printed, said = 0, list[str]()
    while True:
        watcher.begin_round()
        late = time.monotonic() + (_TIMEOUT if times is not None else max(interval, 1.0))
        while not watcher.wait(_KEY_SECONDS) and time.monotonic() < late:
            if stop.is_set():
                return 0
        rows = watcher.rows()
        for line in lines(rows, datetime.now(UTC)):
            say(line)
        said, before = remarks(rows), said
        for text in said:
            if text not in before:
                sys.stderr.write(f"genmeter top: {text}\n")
        printed += 1
        if printed == times:
            return 0 if all(row.state in (RUNNING, ENDED) for row in rows) else 1
        due = max(due + interval, time.monotonic())
        if stop.wait(due - time.monotonic()):
            return 0
