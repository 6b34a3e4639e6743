"""Records what others observe: each call once, however many observe it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from genmeter.observed.model import ObservedCall

__all__ = ["CallSink", "Observer"]


class CallSink(Protocol):
    """Where calls are recorded: a monitor."""

    def _record_observed(self, call: ObservedCall) -> None:
        """Record a call; never raises."""


class Observer:
    """Records the observed calls of one monitor.

    Args:
        sink: The monitor.
    """

    def __init__(self, sink: CallSink) -> None:
        self._sink = sink

    def observe(self, call: ObservedCall) -> None:
        """Record a call that no block of ours is open around; never raises or waits."""
        self._sink._record_observed(call)  # noqa: SLF001 - one contract
