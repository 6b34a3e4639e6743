"""The finish reasons that mean a truncated answer."""

from __future__ import annotations

from genmeter.schema.query import TRUNCATED

__all__ = ["is_truncated"]

_TRUNCATED = frozenset(TRUNCATED)


def is_truncated(reason: str) -> bool:
    """Return whether a vendor's finish reason means that the answer was cut off, in any case."""
    return reason.lower() in _TRUNCATED
