"""The generations that the subjects of the benchmarks record."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Event", "events"]


class Event(NamedTuple):
    """A typical generation."""

    duration: float
    prompt: int
    completion: int
    model: str
    step: str


def events(count: int, models: int = 2) -> list[Event]:
    """Create generations of some models and three steps."""
    return [
        Event(
            0.2 + index % 97 * 0.05,
            200 + index % 1009,
            50 + index % 503,
            f"organisation/model-{index % models}",
            f"step-{index % 3}",
        )
        for index in range(count)
    ]
