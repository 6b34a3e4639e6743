"""Draws the plots of a simulated job into a folder, for docs/plots.md and for review.

The job is the demo's, recorded at once under simulated times; the same arguments make the same
pictures::

    python tools/draw_plots.py build/plots --hours 2 --rate 3
"""

from __future__ import annotations

import argparse
import logging
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from genmeter import clock
from genmeter.cli.demo.simulate import Begin, End, Simulator
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from genmeter import GenerationMonitor
    from genmeter.cli.demo.simulate import Action

START = datetime(2026, 3, 9, 8, 30).astimezone().timestamp()


def actions(seconds: float, rate: float, failing: Mapping[str, float]) -> Iterator[Action]:
    """Yield what the job does, in order."""
    simulator = Simulator(seed=7, rate=rate, failing=failing)
    yield from simulator.step(seconds)
    yield from simulator.finish()


def record(monitor: GenerationMonitor, action: Action, begun: dict[int, Mapping[str, Any]]) -> None:
    """Record one action; a call that is timed by its handle is recorded when it ends."""
    if isinstance(action, Begin):
        begun[action.number] = action.kwargs
    elif isinstance(action, End):
        keywords = begun.pop(action.number)
        monitor.track_generation(
            action.duration,
            action.error is None,
            model_name=keywords["model"],
            provider=keywords["provider"],
            operation=keywords["operation"],
            error=action.error,
            metadata={"operation": keywords["step"]},
            **action.tokens,
        )
    else:
        getattr(monitor, action.method)(*action.args, **action.kwargs)


def main() -> None:
    """Draw the plots, and print the names of the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="where to; made where it is missing")
    parser.add_argument("--hours", type=float, default=2.0, help="how long the job lasts")
    parser.add_argument("--rate", type=float, default=3.0, help="calls a second, on average")
    parser.add_argument("--failing", default="", metavar="MODEL=SHARE", help="a model that fails")
    parser.add_argument("--size", type=float, nargs=2, default=(9.0, 4.5), help="inches")
    arguments = parser.parse_args()
    model, _, share = arguments.failing.partition("=")
    failing = {model: float(share)} if model else {}
    logging.getLogger("genmeter").setLevel(logging.ERROR)
    begun: dict[int, Mapping[str, Any]] = {}
    with isolated_monitor() as monitor:
        for action in actions(arguments.hours * 3600, arguments.rate, failing):
            with mock.patch.object(clock, "now", lambda at=action.at: START + at):
                record(monitor, action, begun)
        monitor.visualize_metrics(arguments.folder, figsize=tuple(arguments.size))
    for file in sorted(arguments.folder.glob("*.png")):
        print(file)


if __name__ == "__main__":
    main()
