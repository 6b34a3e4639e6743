"""Waits for what another thread does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PATIENCE", "eventually", "soon"]

PATIENCE = 60.0
"""Seconds after which something hangs."""


def eventually(holds: Callable[[], Any]) -> bool:
    """Wait until something holds; tell whether it did in the end."""
    deadline = time.monotonic() + PATIENCE
    while not (held := bool(holds())) and time.monotonic() < deadline:
        time.sleep(0.002)
    return held


def soon() -> float:
    """Give a deadline that is never reached, as ``time.monotonic()`` counts."""
    return time.monotonic() + PATIENCE
