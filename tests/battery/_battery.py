"""How much the battery does, and by which random numbers."""

from __future__ import annotations

import os
import random
import secrets

import pytest

__all__ = ["PATIENCE", "SEED", "Battery", "chosen_size"]

# All short runs take about ten minutes on two cores together, all long ones an hour or more.
SIZES = ("short", "long")
PATIENCE = {"short": 400.0, "long": 7200.0}
SEED = os.environ.get("BATTERY_SEED") or secrets.token_hex(4)


def chosen_size() -> str:
    """Return the size that the environment asks for."""
    size = os.environ.get("BATTERY") or "short"
    if size not in SIZES:
        raise pytest.UsageError(f"BATTERY must be one of {', '.join(SIZES)}, got {size!r}")
    return size


class Battery:
    """How much a test does, and by which random numbers.

    Attributes:
        size: `short` or `long`.
        random: The test's own random numbers, the same for the same `BATTERY_SEED`.
    """

    def __init__(self, size: str, test: str) -> None:
        self.size = size
        self.random = random.Random(f"{SEED} {test}")

    def amount(self, *, short: int, long: int) -> int:
        """Return the number of rounds, calls or seconds for the size of this run."""
        return long if self.size == "long" else short
