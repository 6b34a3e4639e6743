"""The clock that events and windows share."""

from __future__ import annotations

import time

__all__ = ["now"]

now = time.time
"""Give the Unix time in seconds."""
