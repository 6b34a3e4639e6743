"""A monitor's session: its state, its recorders, its end and its collection."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import Any

import pytest

from _waiting import eventually, soon
from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.call.handle import GenerationHandle
from genmeter.events.model import CallDefaults, Metric, Sample
from genmeter.handlers.dispatch import HandlerDispatcher
from genmeter.history.store import History
from genmeter.pipeline.deferred_log import DeferredLog
from genmeter.pipeline.self_metrics import SelfMetrics
from genmeter.pipeline.worker import Worker
from genmeter.session import Session, SessionState
from genmeter.testing import fresh_runtime, isolated_monitor


def state(**options: Any) -> SessionState:
    """Create a state."""
    return SessionState(CallDefaults(None, None, "chat"), History(100), **options)


def session(on_unreachable: Any = lambda session: None) -> Session:
    """Create a session without handlers."""
    dispatcher = HandlerDispatcher(SelfMetrics(), DeferredLog())
    return Session(state(), dispatcher, on_unreachable=on_unreachable)


class Steps(list[str]):
    """The steps of a session's end, in order."""

    def alerting(self) -> Any:
        """Make alerts that note their steps."""
        steps = self

        class Alerting:
            """Notes its steps."""

            def conclude(self, timeout: float) -> None:
                """Note it."""
                assert timeout >= 0
                steps.append("judged")

            def stop(self, timeout: float) -> None:
                """Note it."""
                assert timeout >= 0
                steps.append("alerts sent")

        return Alerting()


class Handler:
    """A handler that records its calls."""

    def __init__(self, steps: list[str]) -> None:
        self._steps = steps

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Note the metric."""
        self._steps.append(metric_name)


class Recorder:
    """A recorder that keeps events."""

    def __init__(self, last_call: float | None = None) -> None:
        self.events: list[Any] = []
        self.last_call = last_call

    def record(self, event: Any) -> None:
        """Keep it."""
        self.events.append(event)


# --- the state ----------------------------------------------------------------------------------


def test_new_state_is_open_and_empty() -> None:
    """Nothing was recorded, nothing is under way, and no alert fires."""
    made = state(expected_samples=5)
    assert (made.expected_samples, made.shares_expected, made.job) == (5, False, "")
    assert not made.has_events
    assert not made.is_closed
    assert made.metrics is None
    assert made.last_call is None
    assert made.active_calls() == []
    assert made.firing() is None


@pytest.mark.parametrize(
    ("own", "others", "last"),
    [(None, None, None), (None, 9.0, None), (5.0, None, 5.0), (5.0, 9.0, 9.0), (9.0, 5.0, 9.0)],
)
def test_last_call_includes_other_monitors(
    own: float | None, others: float | None, last: float | None
) -> None:
    """A finished generator leaves its monitor open while the job goes on."""
    made = state()
    made.history = type("History", (), {"last_call": own})()  # type: ignore[assignment]
    assert made.last_call == own
    made.metrics = Recorder(others)  # type: ignore[assignment]
    assert made.last_call == last


def test_active_calls_skip_collected_handles() -> None:
    """One that the garbage collector took is forgotten when it is looked for."""
    made = state()

    class Owner:
        """Opens and closes calls in a state."""

        def open_call(self, handle: GenerationHandle) -> None:
            made.open_calls[weakref.ref(handle)] = None

        def close_call(self, handle: GenerationHandle) -> None:
            made.open_calls.pop(weakref.ref(handle), None)

        def record_call(self, *_: Any) -> None:
            """Record nothing."""

        def misuse(self, key: str, message: str) -> None:
            """Log nothing."""

    handles = [GenerationHandle(Owner(), model=f"m{number}") for number in range(3)]
    for handle in handles:
        handle.__enter__()
    assert [each["model_name"] for each in made.active_calls()] == ["m0", "m1", "m2"]
    handles[0].__exit__(None, None, None)
    del handles[1]
    del handle
    gc.collect()
    assert [each["model_name"] for each in made.active_calls()] == ["m2"]
    assert len(made.open_calls) == 1


def test_call_at_the_address_of_an_abandoned_one_stays_active() -> None:
    """Abandoned handles are removed by their own reference."""
    made = state()
    handles = [GenerationHandle(None, model="m") for _ in range(2)]  # type: ignore[arg-type]
    for handle in handles:
        made.open_calls[weakref.ref(handle)] = None
    del handle, handles[1]
    gc.collect()
    assert len(made.active_calls()) == 1
    assert list(made.open_calls) == [weakref.ref(handles[0])]


# --- recorders ----------------------------------------------------------------------------------


def test_recorders_follow_the_state() -> None:
    """History first, then the instruments once there are any, then the handlers."""
    made = session()
    assert made.recorders == (made.history, made.dispatcher)
    metrics = made.state.metrics = Recorder()  # type: ignore[assignment]
    assert made.recorders == (made.history, made.dispatcher)
    made.connect()
    assert made.recorders == (made.history, metrics, made.dispatcher)
    assert made.history is made.state.history
    assert made.defaults is made.state.defaults


def test_child_starts_with_an_empty_history() -> None:
    """The parent's history, active calls and expected samples are not its own."""
    made = session()
    before = made.history
    made.state.expected_samples = 7
    made.state.has_events = True
    metrics = made.state.metrics = Recorder()  # type: ignore[assignment]
    before.record(Metric(1.0, "x", 1.0, {}))
    handle = GenerationHandle(None)  # type: ignore[arg-type]
    made.state.open_calls[weakref.ref(handle)] = None
    made.reset_after_fork()
    assert made.history is not before
    assert (made.history.size, before.size) == (0, 1)
    assert made.history.capacity == before.capacity
    assert made.state.expected_samples is None
    assert not made.state.has_events
    assert made.state.active_calls() == []
    assert made.recorders == (made.history, metrics, made.dispatcher)


# --- the end ------------------------------------------------------------------------------------


def test_session_ends_in_order() -> None:
    """Alerts are evaluated before the handlers end, queued events are delivered, and the end runs once."""
    steps = Steps()
    made = session()
    made.alerting = steps.alerting()
    made.dispatcher.metric_handlers = [Handler(steps)]
    ticked: list[int] = []
    made.token_usage = Worker(name="a-callback", tick=lambda: ticked.append(1), interval=3_600.0)
    made.token_usage.start()
    for recorder in made.recorders:
        recorder.record(Metric(1.0, "queued", 1.0, {}))
    made.begin_close(soon())
    assert "judged" in steps
    for recorder in made.recorders:
        recorder.record(Metric(1.0, "by the last collection", 1.0, {}))
    assert made.finish_close(soon())
    assert sorted(steps) == sorted(["judged", "queued", "alerts sent", "by the last collection"])
    assert steps.index("judged") < steps.index("alerts sent")
    assert not made.token_usage.is_running
    assert ticked == []
    assert made.finish_close(soon())
    assert steps.count("alerts sent") == 1


def test_busy_callback_is_reported_at_the_end() -> None:
    """The end does not wait for ``token_usage_callback`` after the deadline."""
    gate, busy = threading.Event(), threading.Event()

    def tick() -> None:
        busy.set()
        gate.wait(60)

    made = session()
    made.token_usage = Worker(name="a-callback", tick=tick, interval=0.001)
    made.token_usage.start()
    assert busy.wait(60)
    made.begin_close(time.monotonic())
    assert not made.finish_close(time.monotonic())
    gate.set()
    assert eventually(lambda: made.finish_close(time.monotonic()))


def test_past_deadline_is_not_a_negative_timeout() -> None:
    """A late close still closes everything."""
    steps = Steps()
    made = session()
    made.alerting = steps.alerting()
    made.begin_close(time.monotonic() - 10)
    assert made.finish_close(time.monotonic() - 10)
    assert steps == ["judged", "alerts sent"]


# --- unreachable sessions -----------------------------------------------------------------------


@pytest.mark.parametrize("is_in_circle", [False, True])
def test_unreachable_open_session_is_handed_over_once(is_in_circle: bool) -> None:
    """It arrives complete, and is not handed over again after its close."""
    handed: list[Session] = []
    made = session(handed.append)
    if is_in_circle:
        made.on_rebuild = made.connect
    recorder = made.history
    del made
    gc.collect()
    (back,) = handed
    assert back.recorders == (recorder, back.dispatcher)
    for each in back.recorders:
        each.record(Sample(1.0, True, None))
    back.begin_close(soon())
    assert back.finish_close(soon())
    back.state.is_closed = True
    handed.clear()
    gone = weakref.ref(back)
    del back, each
    gc.collect()
    assert gone() is None
    assert handed == []


def test_closed_session_is_not_handed_over() -> None:
    """There is nothing left to close."""
    handed: list[Session] = []
    made = session(handed.append)
    made.state.is_closed = True
    del made
    gc.collect()
    assert handed == []


def test_half_constructed_session_is_not_handed_over() -> None:
    """Its finalizer raises nothing."""
    Session.__new__(Session).__del__()


def test_state_keeps_neither_monitor_nor_session_alive() -> None:
    """Handlers and callbacks may refer to their own monitor."""
    config = MonitorConfig(endpoint=EndpointConfig(enabled=False), meter_provider="global")
    with fresh_runtime() as runtime:
        monitor = GenerationMonitor(config=config)
        handler = type("Handler", (), {"handle_metric": lambda self, **row: None})()
        handler.monitor = monitor
        monitor.metric_handlers = [handler]
        monitor.record_metric("x", 1.0)
        monitor.flush(60)
        gone, states = weakref.ref(monitor), runtime._states
        assert len(states) == 1
        del monitor, handler
        assert eventually(lambda: gc.collect() >= 0 and gone() is None)
        assert eventually(lambda: not runtime._unreachable and not states)


def test_state_has_events_after_the_first_event() -> None:
    """Any event counts, once it was recorded."""
    with isolated_monitor() as monitor:
        own = monitor._session.state
        assert not own.has_events
        monitor.record_metric("", 1.0)
        assert not own.has_events
        monitor.log_info("m")
        assert own.has_events
        assert not own.is_closed
        monitor.shutdown()
        assert own.is_closed
