"""Where one monitor's events go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from genmeter.events import CallDefaults, Event
    from genmeter.recorders.history import History
    from genmeter.recorders.relay import Relay

__all__ = ["Instruments", "Recorder", "Sink"]


class Recorder(Protocol):
    """Where a clean event is kept."""

    def record(self, event: Event) -> None:
        """Keep the event."""

    def flush(self) -> None:
        """Make what was recorded visible to readers."""


class Instruments(Recorder, Protocol):
    """A recorder that all monitors of a process share."""

    @property
    def last_call(self) -> float | None:
        """Unix time of the newest call of a model, of any monitor; None before the first."""


class Sink:
    """What one monitor's events go to.

    Args:
        defaults: What the monitor fills in where a call does not say.
        history: The monitor's history.
        relay: What passes events on to the monitor's handlers.
        expected_samples: Samples that the monitor's job is to make.
        timeout: Seconds that the monitor's shutdown may take.
    """

    def __init__(
        self,
        defaults: CallDefaults,
        history: History,
        relay: Relay,
        *,
        expected_samples: int | None = None,
        timeout: float = 5.0,
    ) -> None:
        self.defaults = defaults
        self.history = history
        self.relay = relay
        self.expected_samples = expected_samples
        self.timeout = timeout
        # The environment tells every monitor of the process the same number.
        self.shares_expected = False
        self.instruments: Instruments | None = None
        self.on_rebirth: Callable[[], None] | None = None
        # The job that its alerts are of; telemetry knows it.
        self.job = ""
        # How many of its alerts fire, by their names; None where they are gone.
        self.firing: Callable[[], Mapping[str, int] | None] = lambda: None
        # Called with the seconds that are left, before it is closed and after.
        self.before_close: Callable[[float], None] | None = None
        self.on_close: Callable[[float], None] | None = None
        self.was_told = False
        self.is_closed = False

    @property
    def last_call(self) -> float | None:
        """When the job last got an answer, once this monitor was told of a call: Unix time.

        Another monitor's call counts too: a generator that is done with its part leaves its
        monitor open, and the job goes on with the next.
        """
        own = self.history.last_call
        if own is None or self.instruments is None:
            return own
        return max(own, self.instruments.last_call or own)

    def reset(self) -> None:
        """Begin with an empty history, in a forked child; the job's samples are the parent's."""
        self.history = self.history.emptied()
        self.relay.reset()
        self.expected_samples = None
        self.instruments = None
        self.was_told = False
