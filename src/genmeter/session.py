"""One monitor's part of a process: its history, its handlers, its alerts and its timers.

A session belongs to its monitor, and the monitor is its façade. What telemetry and the totals of
the process read of it is its :class:`SessionState`, which knows nothing that a user passed in: the
runtime holds on to states only, so that a handler or a callback that refers to its own monitor
keeps neither of them alive.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from genmeter.clock import seconds_left

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable, Mapping

    from genmeter.alerting.notify import Alerting
    from genmeter.call import GenerationHandle
    from genmeter.events.model import CallDefaults
    from genmeter.handlers.dispatch import HandlerDispatcher
    from genmeter.history.store import History
    from genmeter.metrics.recorder import MetricsRecorder
    from genmeter.pipeline.drain import Recorder
    from genmeter.pipeline.worker import Worker

__all__ = ["Session", "SessionState"]

_BEGUN_CALLS = 1_024


class SessionState:
    """What others read of a session, while its monitor is there and after.

    Attributes:
        history: The monitor's history.
        metrics: The recorder that feeds the instruments; None until telemetry has taken it in.
        expected_samples: Samples that the monitor's job is to make.
        shares_expected: Whether the environment told every monitor of the process that number.
        job: The job that the monitor's alerts are of.
        has_events: Whether any event was recorded.
        is_closed: Whether the session is closed.
        open_calls: The handles of calls that are under way. The references are the keys, since a
            new handle may have the address of one that was abandoned.
        begun_calls: The labels of the newest calls that began, for whoever takes them out.
        firing: Returns how many of its alerts fire, by their names; None where they are gone.
    """

    def __init__(
        self, defaults: CallDefaults, history: History, *, expected_samples: int | None = None
    ) -> None:
        self.defaults = defaults
        self.history = history
        self.metrics: MetricsRecorder | None = None
        self.expected_samples = expected_samples
        self.shares_expected = False
        self.job = ""
        self.has_events = False
        self.is_closed = False
        self.open_calls: dict[weakref.ref[GenerationHandle], None] = {}
        self.begun_calls: deque[Mapping[str, str | None]] = deque(maxlen=_BEGUN_CALLS)
        self.firing: Callable[[], Mapping[str, int] | None] = lambda: None

    @property
    def last_call(self) -> float | None:
        """When the job last got an answer, once this monitor recorded a call: Unix time.

        Another monitor's call counts too: a generator that is done with its part leaves its
        monitor open, and the job goes on with the next.
        """
        own = self.history.last_call
        if own is None or self.metrics is None:
            return own
        return max(own, self.metrics.last_call or own)

    def take_begun_calls(self) -> list[Mapping[str, str | None]]:
        """Return the labels of the newest calls that began since the last time."""
        begun = self.begun_calls
        return [begun.popleft() for _ in range(len(begun))]

    def calls_under_way(self) -> list[Mapping[str, str | None]]:
        """Return the labels, as they were given, of the calls that are under way."""
        found: list[Mapping[str, str | None]] = []
        for reference in list(self.open_calls):
            handle = reference()
            if handle is not None:
                found.append(handle.labels)
            else:  # abandoned in the middle of the call
                self.open_calls.pop(reference, None)
        return found


def _ignore(_session: Session) -> None:
    """Ignore a session that nobody holds."""


class Session:
    """All that one monitor has.

    Args:
        state: What others read of it.
        dispatcher: Queues events for the monitor's handlers.
        timeout: Seconds that closing it may take.
        on_unreachable: Called with a session that is not closed and that nobody holds any more, by
            the garbage collector, on any thread and under any lock.

    Attributes:
        state: As passed.
        dispatcher: As passed.
        timeout: As passed; the monitor may change it.
        recorders: Each gets every event of the monitor.
        is_started: Whether :meth:`start` has done its work.
        alerting: The monitor's alerts.
        token_usage: The thread that calls the monitor's ``token_usage_callback``.
        on_rebuild: Called in a forked child at its first event: the place to start threads.
    """

    def __init__(
        self,
        state: SessionState,
        dispatcher: HandlerDispatcher,
        *,
        timeout: float = 5.0,
        on_unreachable: Callable[[Session], object] = _ignore,
    ) -> None:
        self._on_unreachable = on_unreachable
        self.state = state
        self.dispatcher = dispatcher
        self.timeout = timeout
        self.recorders: tuple[Recorder, ...] = ()
        self.is_started = False
        self.alerting: Alerting | None = None
        self.token_usage: Worker[None] | None = None
        self.on_rebuild: Callable[[], object] | None = None
        self._is_ended = False
        self.connect()

    def __del__(self) -> None:
        # The reference that is passed brings the session back, until it was closed in order.
        state = getattr(self, "state", None)  # absent where the construction failed
        if state is not None and not state.is_closed:
            self._on_unreachable(self)

    @property
    def defaults(self) -> CallDefaults:
        """The labels of calls that do not say."""
        return self.state.defaults

    @property
    def history(self) -> History:
        """The monitor's history."""
        return self.state.history

    def connect(self) -> None:
        """Have events recorded wherever the state says now."""
        metrics = self.state.metrics
        self.recorders = tuple(
            each for each in (self.state.history, metrics, self.dispatcher) if each is not None
        )

    def start(self) -> None:
        """Start the periodic evaluation of the alerts, with the first event.

        The pipeline's owner calls this with each event until it was done: there may be no thread to
        be had yet.
        """
        self.is_started = self.alerting is None or self.alerting.schedule()

    # --- the end -------------------------------------------------------------------------------

    def begin_close(self, deadline: float) -> None:
        """Judge the alerts a last time, and let the handlers end after what is queued.

        Args:
            deadline: As ``time.monotonic()`` counts.
        """
        if self.token_usage is not None:
            self.token_usage.close()
        if self.alerting is not None:
            self.alerting.conclude(seconds_left(deadline))
        self.dispatcher.begin_close()

    def finish_close(self, deadline: float) -> bool:
        """Wait for the handlers' ends; what is left at the deadline is dropped and counted.

        Args:
            deadline: As ``time.monotonic()`` counts.

        Returns:
            Whether ``token_usage_callback`` has ended too.
        """
        if not self._is_ended:
            if self.alerting is not None:
                self.alerting.stop(seconds_left(deadline))
            self.dispatcher.finish_close(deadline)
            self._is_ended = True
        if self.token_usage is None:
            return True
        self.token_usage.join(deadline)
        return not self.token_usage.is_running

    def reset_after_fork(self) -> None:
        """Begin with an empty history, in a forked child; the job's samples are the parent's."""
        state = self.state
        state.history = state.history.emptied()
        state.expected_samples = None
        state.has_events = False
        state.open_calls = {}
        state.begun_calls.clear()
        self.is_started = False
        self.dispatcher.reset()
        self.connect()
