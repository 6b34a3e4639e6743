"""Where a processor records: a given monitor, or the one of the process."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from genmeter.config.checks import instance_of, optional
from genmeter.monitor import GenerationMonitor, newest_monitor, open_monitors
from genmeter.observed.blocks import entered, start_marking, stop_marking
from genmeter.observed.observer import add_process_feed, remove_process_feed
from genmeter.spans.monitors import process_monitor

if TYPE_CHECKING:
    from genmeter.observed.model import Block
    from genmeter.observed.observer import Observer

__all__ = ["Destination"]


class Destination:
    """The monitor of a processor.

    Args:
        monitor: The monitor; None means the one of the process, at each call.

    Raises:
        ConfigError: It is not a monitor.
    """

    def __init__(self, monitor: GenerationMonitor | None) -> None:
        optional(instance_of(GenerationMonitor))("monitor", monitor)
        self._given = monitor
        # Not kept alive: a job's monitor is closed when the job drops it.
        self._chosen: weakref.ref[GenerationMonitor] | None = None
        self._chosen_from = 0  # the newest monitor at that time
        start_marking()
        self._stop = weakref.finalize(self, stop_marking)  # also if nobody closes it
        self._stop.atexit = False
        if monitor is None:
            add_process_feed(self._observer_now)
        else:
            monitor._observer.is_fed = True  # noqa: SLF001 - one contract

    @property
    def monitor(self) -> GenerationMonitor:
        """The monitor that records now."""
        if self._given is not None:
            return self._given
        chosen = None if self._chosen is None else self._chosen()
        # Look again only if monitors came or went.
        number = newest_monitor()
        if chosen is None or chosen._is_shut or self._chosen_from != number:  # noqa: SLF001
            chosen = process_monitor()
            self._chosen, self._chosen_from = weakref.ref(chosen), newest_monitor()
        return chosen

    @property
    def is_of_process(self) -> bool:
        """Whether it is the monitor of the process, rather than a given one."""
        return self._given is None

    @property
    def has_monitor(self) -> bool:
        """Whether there is a monitor already; one is made for the first call otherwise."""
        return self._given is not None or self._chosen is not None or bool(open_monitors())

    @property
    def observer(self) -> Observer:
        """Its observer."""
        return self.monitor._observer  # noqa: SLF001 - one contract

    def block(self) -> Block | None:
        """Return the innermost block that was entered here and whose call a span is."""
        return entered(self._given)

    def close(self) -> None:
        """Stop marking blocks; a second call does nothing."""
        self._stop()
        remove_process_feed(self._observer_now)

    def settle(self, timeout: float) -> bool:
        """Record the waiting calls; returns whether it was done within ``timeout`` seconds."""
        try:
            if self._given is None and not open_monitors():
                return True
            self.observer.settle(timeout)
        except TimeoutError:
            return False
        return True

    def _observer_now(self) -> Observer | None:
        return self.observer if self.has_monitor else None
