"""The history, handlers, alerts and timers of one monitor.

The monitor is a façade over its session. Telemetry and the process totals read only the
:class:`SessionState`, which refers to nothing that a user passed in. The runtime keeps only states
alive, so a handler or callback that refers to its own monitor does not keep the monitor alive.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from genmeter.budget.budget import Budgets
from genmeter.clock import seconds_left

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable, Mapping

    from genmeter.alerting.notify import Alerting
    from genmeter.budget.budget import Budget
    from genmeter.call.handle import GenerationHandle
    from genmeter.events.model import CallDefaults
    from genmeter.handlers.dispatch import HandlerDispatcher
    from genmeter.history.store import History
    from genmeter.metrics.recorder import MetricsRecorder
    from genmeter.observed.observer import Observer
    from genmeter.pipeline.drain import Recorder
    from genmeter.pipeline.worker import Worker

__all__ = ["Session", "SessionState"]

_BEGUN_CALLS = 1_024


class SessionState:
    """The part of a session that outlives its monitor.

    Attributes:
        history: The monitor's history.
        metrics: The recorder of the instruments; None until telemetry has added this state.
        expected_samples: Number of samples that the job is expected to produce.
        shares_expected: Whether that number comes from the environment, so that all monitors of
            the process have the same.
        job: The job label of the monitor's alerts.
        has_events: Whether any event was recorded.
        is_closed: Whether the session is closed.
        open_calls: References to the handles of active calls. They are the keys, since a new
            handle may have the address of an abandoned one.
        begun_calls: Labels of the newest calls that began since :meth:`take_begun_calls`.
        firing: Returns the number of firing alerts by name; None after the monitor is gone.
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
        """Unix time of the job's last call; None until this monitor has recorded one.

        Calls of other monitors count too: a finished generator leaves its monitor open while the
        job goes on with the next generator.
        """
        own = self.history.last_call
        if own is None or self.metrics is None:
            return own
        return max(own, self.metrics.last_call or own)

    def take_begun_calls(self) -> list[Mapping[str, str | None]]:
        """Return and clear the labels of the newest calls that began."""
        begun = self.begun_calls
        return [begun.popleft() for _ in range(len(begun))]

    def active_calls(self) -> list[Mapping[str, str | None]]:
        """Return the labels of the active calls, as given by the caller."""
        found: list[Mapping[str, str | None]] = []
        for reference in list(self.open_calls):
            handle = reference()
            if handle is not None:
                found.append(handle.labels)
            else:  # the handle was collected during the call
                self.open_calls.pop(reference, None)
        return found


def _ignore(_session: Session) -> None:
    """Ignore an unreachable session."""


class Session:
    """The parts of one monitor.

    Args:
        state: The part that outlives the monitor.
        dispatcher: Queues events for the monitor's handlers.
        timeout: Seconds that closing it may take.
        job_budgets: The budgets of the job, which count the events of all monitors.
        on_unreachable: Called by the garbage collector, on any thread and under any lock, with a
            session that is not closed and not referenced any more.

    Attributes:
        state: As passed.
        dispatcher: As passed.
        timeout: As passed; the monitor may change it.
        job_budgets: As passed.
        recorders: The recorders that get every event of the monitor.
        is_started: Whether :meth:`start` has done its work.
        budgets: The monitor's budgets.
        alerting: The monitor's alerts.
        token_usage: The thread that calls the monitor's ``token_usage_callback``.
        on_rebuild: Called in a forked child at its first event: the place to start threads.
        observer: Records what others observe; None until its monitor has set it.
    """

    def __init__(
        self,
        state: SessionState,
        dispatcher: HandlerDispatcher,
        *,
        timeout: float = 5.0,
        job_budgets: Budgets | None = None,
        on_unreachable: Callable[[Session], object] = _ignore,
    ) -> None:
        self._on_unreachable = on_unreachable
        self.state = state
        self.dispatcher = dispatcher
        self.timeout = timeout
        self.budgets = Budgets()
        self.job_budgets = Budgets() if job_budgets is None else job_budgets
        self.recorders: tuple[Recorder, ...] = ()
        self.is_started = False
        self.alerting: Alerting | None = None
        self.token_usage: Worker[None] | None = None
        self.on_rebuild: Callable[[], object] | None = None
        self.observer: Observer | None = None
        self._is_ended = False
        self.connect()

    def __del__(self) -> None:
        # Passing self resurrects the session until the runtime has closed it.
        state = getattr(self, "state", None)  # absent if the constructor failed
        if state is not None and not state.is_closed:
            self._on_unreachable(self)

    @property
    def defaults(self) -> CallDefaults:
        """Default labels of calls."""
        return self.state.defaults

    @property
    def history(self) -> History:
        """The monitor's history."""
        return self.state.history

    def connect(self) -> None:
        """Set the recorders from the state."""
        budgets = [each for each in (self.budgets, self.job_budgets) if len(each)]
        found = (self.state.history, *budgets, self.state.metrics, self.dispatcher)
        self.recorders = tuple(each for each in found if each is not None)

    def add_budget(self, budget: Budget) -> None:
        """Have a budget count the events from now on; called by the pipeline's owner."""
        self.budgets.add(budget)
        self.connect()

    def settle(self) -> None:
        """Record the observed calls that wait for others; called by the pipeline's owner."""
        if self.observer is not None:
            self.observer.release_all()

    def end_observing(self) -> None:
        """Record the observed calls that wait, as the monitor ends; called by the pipeline's owner."""
        if self.observer is not None:
            self.observer.close()

    def refuse_event(self) -> None:
        """Count a call after the shutdown in each budget; called by the pipeline's owner."""
        self.budgets.refuse_event()
        self.job_budgets.refuse_event()

    def start(self) -> None:
        """Start the periodic evaluation of the alerts.

        The pipeline's owner calls this with each event until it succeeds, since no thread may be
        available yet.
        """
        self.is_started = self.alerting is None or self.alerting.schedule()

    # --- the end -------------------------------------------------------------------------------

    def begin_close(self, deadline: float) -> None:
        """Evaluate the alerts a last time, and let the handlers stop after their queued events.

        Args:
            deadline: On the clock of ``time.monotonic()``.
        """
        if self.token_usage is not None:
            self.token_usage.close()
        if self.alerting is not None:
            self.alerting.conclude(seconds_left(deadline))
        self.dispatcher.begin_close()

    def finish_close(self, deadline: float) -> bool:
        """Wait for the handlers to stop; events queued at the deadline are dropped and counted.

        Args:
            deadline: On the clock of ``time.monotonic()``.

        Returns:
            Whether ``token_usage_callback`` ended too.
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
        """Reset to an empty history, in a forked child; the expected samples are the parent's."""
        state = self.state
        state.history = state.history.emptied()
        state.expected_samples = None
        state.has_events = False
        state.open_calls = {}
        state.begun_calls.clear()
        self.is_started = False
        if self.observer is not None:
            self.observer.reset_after_fork()
        self.dispatcher.reset()
        self.connect()
