"""The clock that events and windows share, and the time that is left until a deadline."""

from __future__ import annotations

import time

__all__ = ["now", "seconds_left"]

now = time.time
"""Give the Unix time in seconds."""


def seconds_left(deadline: float) -> float:
    """Return the seconds until a deadline, as ``time.monotonic()`` counts; 0 after it."""
    return max(0.0, deadline - time.monotonic())
