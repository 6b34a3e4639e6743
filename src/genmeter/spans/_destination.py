"""Where a processor records: a given monitor, or the one of the process."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from genmeter.config.checks import instance_of, optional
from genmeter.events.values import UNREADABLE
from genmeter.monitor import GenerationMonitor
from genmeter.observed.blocks import entered, start_marking, stop_marking
from genmeter.observed.observer import add_process_feed, remove_process_feed
from genmeter.spans.monitors import has_process_monitor, process_monitor

if TYPE_CHECKING:
    from genmeter.observed.model import Block
    from genmeter.observed.observer import Observer

__all__ = ["Destination"]

_TIMEOUT_MILLIS = 30_000  # as of the SDK's processors


class Destination:
    """The monitor of a processor, and the processor's end.

    Args:
        monitor: The monitor; None means the one of the process, at each call.
        what: What the processor reads, for the count of what it could not.

    Attributes:
        is_shut: Whether the processor was shut down.

    Raises:
        ConfigError: It is not a monitor.
    """

    def __init__(self, monitor: GenerationMonitor | None, what: str) -> None:
        optional(instance_of(GenerationMonitor))("monitor", monitor)
        self._given = monitor
        self._what = what
        self.is_shut = False
        start_marking()
        self._stop = weakref.finalize(self, stop_marking)  # also if nobody closes it
        self._stop.atexit = False
        if monitor is None:
            add_process_feed(self._observer_now)
        else:
            monitor.observer.is_fed = True

    @property
    def monitor(self) -> GenerationMonitor:
        """The monitor that records now."""
        return process_monitor() if self._given is None else self._given

    @property
    def is_of_process(self) -> bool:
        """Whether it is the monitor of the process, rather than a given one."""
        return self._given is None

    @property
    def has_monitor(self) -> bool:
        """Whether there is a monitor already; one is made for the first call otherwise."""
        return self._given is not None or has_process_monitor()

    @property
    def observer(self) -> Observer:
        """Its observer."""
        return self.monitor.observer

    def block(self) -> Block | None:
        """Return the innermost block that was entered here and whose call a span is."""
        return entered(self._given)

    def flush(self, timeout_millis: int) -> bool:
        """Record the waiting calls; returns whether it was done in time. Never raises."""
        try:
            if self.has_monitor:
                self.observer.settle(max(0.0, timeout_millis / 1_000))
        except TimeoutError:
            return False
        except UNREADABLE as error:
            self.reject(error)
            return False
        return True

    def shut_down(self) -> None:
        """Record the waiting calls, and stop marking blocks; a second call does nothing. Never raises."""
        if self.is_shut:
            return
        self.flush(_TIMEOUT_MILLIS)
        self.is_shut = True
        self._stop()
        remove_process_feed(self._observer_now)

    def reject(self, error: BaseException) -> None:
        """Count what could not be read; never raises."""
        with suppress(*UNREADABLE):  # not even a monitor: its configuration is wrong
            self.monitor.reject(self._what, error)

    def _observer_now(self) -> Observer | None:
        return self.observer if self.has_monitor else None
