"""Waits for what another thread or process does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PATIENCE", "eventually", "soon"]

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which something hangs."""
_PAUSE = 0.002


def eventually(condition: Callable[[], T], timeout: float = PATIENCE) -> T:
    """Poll a condition until it holds or the time is up, and return its last value.

    Args:
        condition: Holds once it returns something true; called at least once.
        timeout: Seconds to wait at most.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return value


def soon() -> float:
    """Return a deadline that is never reached, on the clock of ``time.monotonic()``."""
    return time.monotonic() + PATIENCE
