"""What the subjects of `peers.py` record: generated calls, and a trace with its times."""

from __future__ import annotations

import heapq
import json
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import replay
from _events import Event, events

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["write_trace"]

_PLAIN = 2_000
_STEPS = 3


def write_trace(path: Path, data: Path | None, count: int, rate: float) -> str:
    """Write what a worker reads, and return what the trace is called.

    Args:
        path: The file to write.
        data: A folder of traces as `replay.py` reads them; None generates them.
        count: Requests to take.
        rate: Calls a second, on average, at which their times are replayed.
    """
    with tempfile.TemporaryDirectory() as generated:
        if data is None:
            replay.generate(Path(generated))
        files = sorted((data or Path(generated)).glob("*.csv"))
        if not files:
            raise SystemExit(f"--data must be a folder with CSV files, got {str(data)!r}")
        merged = heapq.merge(*(sorted(replay.read_requests(file)) for file in files))
        requests = [each for each, _ in zip(merged, range(count), strict=False)]
    content = {
        "plain": events(_PLAIN),
        "traffic": [
            Event(
                each.completion * replay.SECONDS_PER_TOKEN,
                each.prompt,
                each.completion,
                each.model,
                f"step-{number % _STEPS}",
            )
            for number, each in enumerate(requests)
        ],
        "times": _times(requests, rate),
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return "generated" if data is None else f"of {len(files)} files"


def _times(requests: Sequence[replay.Request], rate: float) -> list[float]:
    """Return the seconds since the first request, sped up to a mean rate."""
    # Fractions of a second have seven digits in some traces, one more than a datetime has.
    stamps = [datetime.fromisoformat(each.time[:26]).timestamp() for each in requests]
    spread = max(stamps[-1] - stamps[0], 1e-9)
    factor = len(stamps) / rate / spread
    return [(each - stamps[0]) * factor for each in stamps]
