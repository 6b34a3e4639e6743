"""A monitor's alerts on their way to the job's handlers."""

from __future__ import annotations

import gc
import logging
import os
import threading
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from _waiting import PATIENCE, eventually

import genmeter.clock
from genmeter.alerting._schedule import schedule
from genmeter.alerting.notify import Alerting, AlertReceiver, check_alert_handlers
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.config.monitor import EndpointConfig, MonitorConfig
from genmeter.errors import ConfigError
from genmeter.monitor import GenerationMonitor
from genmeter.pipeline.worker import _WorkerThread
from genmeter.schema.metrics import ALERTS_FIRING
from genmeter.testing import fresh_runtime, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from genmeter.alerting.state import Alert
    from genmeter.testing import IsolatedMonitor

OFTEN = 0.005
FAILED = ["low_success_rate", "high_error_rate"]
"""The alerts of a job whose only call failed."""


class Clock:
    """The time that calls are told at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        monkeypatch.setattr(genmeter.clock, "now", lambda: self.now)


class Inbox(list[str]):
    """A handler that keeps the names of what it was sent, and of what is resolved."""

    def __init__(self) -> None:
        self.resolved: list[str] = []

    def take(self, alert: Alert) -> None:
        """Keep the alert's name."""
        (self if alert.status == "firing" else self.resolved).append(alert.name)


class Blocked:
    """A handler that blocks until it is released, then keeps the alert's name."""

    def __init__(self) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()
        self.taken: list[str] = []

    def __call__(self, alert: Alert) -> None:
        """Block, then keep the alert's name."""
        self.begun.set()
        self.gate.wait(PATIENCE)
        self.taken.append(alert.name)


def broken(alert: Alert) -> None:
    """Fail, as a handler may."""
    raise ValueError(alert.name)


async def awaited(alert: Alert) -> None:
    """Wait for somebody to await it."""
    raise AssertionError


def threads(name: str) -> list[threading.Thread]:
    """List the threads of a name."""
    return [each for each in threading.enumerate() if each.name == name]


def handler_threads() -> list[threading.Thread]:
    """List the threads of handlers: of workers, but for those that outlive a monitor."""
    others = ("genmeter-alerts", "genmeter-callbacks", "genmeter-log", "genmeter-reaper")
    return [
        each
        for each in threading.enumerate()
        if type(each) is _WorkerThread
        and each.name.startswith("genmeter-")
        and each.name not in others
    ]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """List what was logged."""
    return [record.getMessage() for record in caplog.records if record.name == "genmeter"]


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor without a periodic evaluation; no such thread is left after a test."""
    with isolated_monitor(metrics_interval=None) as made:
        yield made
    assert eventually(lambda: not threads("genmeter-alerts"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock of all monitors, which stands still."""
    return Clock(monkeypatch)


@pytest.fixture
def inbox() -> Inbox:
    """Return what keeps the names of alerts."""
    return Inbox()


@pytest.fixture
def make(monitor: IsolatedMonitor) -> Iterator[Callable[..., Alerting]]:
    """Return what makes the alerting of the monitor, without a periodic evaluation."""
    made: list[Alerting] = []

    def make(*handlers: Any, interval: float = 0, **keywords: Any) -> Alerting:
        alerting = Alerting(
            monitor._pipeline,
            monitor._session.state,
            handlers=list(handlers),
            settings=keywords.pop("settings", AlertSettings()),
            interval=interval,
            **keywords,
        )
        alerting.start()
        made.append(alerting)
        return alerting

    yield make
    for each in made:
        each.stop(PATIENCE)
    made.clear()
    assert eventually(lambda: not handler_threads())


# --- asked for -------------------------------------------------------------------------------------


def test_a_check_has_called_the_handlers_when_it_returns(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """What was told just before is judged, and every handler knows by the end of the check."""
    other = Inbox()
    alerting = make(inbox.take, other.take)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == other == FAILED


def test_a_job_that_told_nothing_has_no_alerts(make: Callable[..., Alerting], inbox: Inbox) -> None:
    """Defect 6: before the first call there is no success rate that is low."""
    make(inbox.take).check(PATIENCE)
    assert inbox == []


def test_five_minutes_count_and_an_alert_is_sent_once(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox, clock: Clock
) -> None:
    """Defect 7: an alert that stays true is sent once; five minutes after the last failure it is over."""
    alerting = make(inbox.take)
    monitor.track_generation(1.0, False)
    for _ in range(6):
        alerting.check(PATIENCE)
        clock.now += 60
    assert inbox == FAILED
    assert inbox.resolved == []
    alerting.check(PATIENCE)  # six minutes later: no data, and so resolved
    assert inbox.resolved == FAILED
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == FAILED * 2


def test_an_alert_is_repeated_after_the_interval(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox, clock: Clock
) -> None:
    """With a repeat interval an alert that stays true is sent again once that is over."""
    alerting = make(inbox.take, repeat=100)
    monitor.track_generation(1.0, False)
    for pause in (60, 60, 60):
        alerting.check(PATIENCE)
        clock.now += pause
    assert inbox == FAILED * 2


def test_every_kind_of_call_can_raise_its_alert(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """Durations, tokens and turns that a job tells lead to the alerts on them."""
    alerting = make(inbox.take)
    monitor.track_generation(31.0, True, prompt_token_count=4097, completion_token_count=4097)
    monitor.track_generation(1e3, True, conversation_length=3)
    alerting.check(PATIENCE)
    tokens = [f"high_token_usage:{kind}" for kind in ("prompt", "completion", "total")]
    assert inbox == ["high_generation_time", *tokens, "long_conversations"]


def test_the_thresholds_are_the_arguments(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """A threshold given by the old argument holds, and the others keep their defaults."""
    thresholds = {"alert_min_success_rate": 0, "alert_max_error_rate": None}
    alerting = make(inbox.take, settings=AlertSettings().with_thresholds(thresholds))
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == ["high_error_rate"]


# --- handlers --------------------------------------------------------------------------------------


def test_a_handler_that_raises_harms_nobody(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    inbox: Inbox,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its failures are counted one by one and logged once, and the others get every alert."""
    alerting = make(broken, inbox.take)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == FAILED
    assert monitor._pipeline.self_metrics.handler_errors == {("broken", "raised"): 2}
    (line,) = told(caplog)
    assert line.startswith(
        "the alert handler broken failed: low_success_rate; further failures are"
    )
    assert caplog.records[0].exc_info


def test_a_handler_that_blocks_harms_nobody(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """A check gives up on it within its time; the others have got theirs, and it gets its own later."""
    blocked = Blocked()
    alerting = make(blocked, inbox.take)
    monitor.track_generation(1.0, False)
    alerting.check(0.05)
    assert eventually(lambda: inbox == FAILED)
    assert blocked.taken == []
    blocked.gate.set()
    assert eventually(lambda: blocked.taken == FAILED)


def test_a_coroutine_function_is_no_handler(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that nobody awaits is told as a failure, with the remedy."""
    alerting = make(awaited)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    (error,) = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert "plain function, got a coroutine" in str(error)


def test_a_handler_that_is_there_twice_gets_alerts_twice(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """The list is taken as it is, as it always was."""
    seen: list[str] = []

    def take(alert: Alert) -> None:
        seen.append(alert.name)

    monitor.track_generation(1.0, False)
    make(take, take).check(PATIENCE)
    assert sorted(seen) == sorted(FAILED * 2)


def test_a_handler_needs_no_name(monitor: IsolatedMonitor, make: Callable[..., Alerting]) -> None:
    """A handler that cannot even be asked for its name is counted by its class."""

    class Nameless:
        def __getattr__(self, name: str) -> Any:
            raise SystemExit

        def __call__(self, alert: Alert) -> None:
            raise SystemExit

    monitor.track_generation(1.0, False)
    make(Nameless()).check(PATIENCE)
    assert monitor._pipeline.self_metrics.handler_errors == {(Nameless.__qualname__, "raised"): 2}


def test_alerts_for_a_blocked_handler_do_not_pile_up(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a handler's queue has no room for is dropped, counted, and told once."""
    monkeypatch.setattr("genmeter.alerting.notify._CAPACITY", 1)
    blocked = Blocked()
    alerting = make(blocked, repeat=0)
    monitor.track_generation(1.0, False)
    alerting.check(0)
    assert blocked.begun.wait(PATIENCE)
    for _ in range(2):
        alerting.check(0)
    blocked.gate.set()
    (line,) = told(caplog)
    assert line.startswith("the alert handler Blocked is too slow: 1 alerts are queued")
    assert monitor._pipeline.self_metrics.handler_errors["Blocked", "queue_full"] >= 4


def test_each_alert_that_a_full_queue_drops_is_counted(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every alert is taken or counted, and an evaluation or a check by itself counts as no loss."""
    monkeypatch.setattr("genmeter.alerting.notify._CAPACITY", 1)

    class Slow(Blocked, AlertReceiver):
        def refresh(self, alerts: Sequence[Alert], interval: float) -> None:
            pass

        def flush(self, timeout: float) -> bool:
            return True

    slow, sent = Slow(), list[str]()
    alerting = make(slow, repeat=0)
    update = alerting._states.update

    def note(*found: Any, **options: Any) -> list[Alert]:
        to_send = update(*found, **options)
        sent.extend(alert.name for alert in to_send)
        return to_send

    monkeypatch.setattr(alerting._states, "update", note)
    monitor.track_generation(1.0, False)
    alerting.check(0)
    assert slow.begun.wait(PATIENCE)
    for _ in range(3):
        alerting.check(0)
    slow.gate.set()
    assert eventually(lambda: not alerting._workers._by_id[id(slow)].waiting)
    alerting.stop(PATIENCE)
    errors = monitor._pipeline.self_metrics.handler_errors
    assert sum(errors.values()) + len(slow.taken) == len(sent) > len(FAILED)
    assert [reason for _, reason in errors] == ["queue_full"]


class Homely(Inbox):
    """A handler with methods of its own that have the names of an AlertReceiver's."""

    def __call__(self, alert: Alert) -> None:
        """Keep the alert's name."""
        self.take(alert)

    def flush(self) -> None:
        """Flush, as a file does."""
        raise OSError

    def refresh(self) -> None:
        """Refresh, as a view does."""
        raise OSError


def test_methods_of_a_handlers_own_are_not_called(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """Only a handler that derives from AlertReceiver is refreshed and flushed."""
    homely = Homely()
    alerting = make(homely)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    alerting.stop(PATIENCE)
    assert homely == FAILED
    assert not monitor._pipeline.self_metrics.handler_errors


def test_a_handler_that_pretends_to_be_a_receiver_is_none(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """A mock that answers to every name gets alerts and nothing else."""
    handler = Mock(spec=Keeper)
    alerting = make(handler)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    alerting.stop(PATIENCE)
    assert [each.args[0].name for each in handler.call_args_list] == FAILED
    assert handler.method_calls == []


def test_what_one_handler_changes_is_its_own(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """Handlers run beside each other, so none sees what another does to an alert's data."""
    seen: list[dict[str, Any]] = []

    def take(alert: Alert) -> None:
        seen.append({**alert.data, **alert.data["group"], **alert.labels, **alert.annotations})
        for each in (alert.data["group"], alert.data, alert.labels, alert.annotations):
            each.clear()

    def take_too(alert: Alert) -> None:
        take(alert)

    alerting = make(take, take_too)
    monitor.track_generation(31.0, True, model_name="m")
    alerting.check(PATIENCE)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert {"count", "gen_ai_request_model", "alertname", "summary"} <= seen[0].keys()


def test_handlers_may_be_replaced_and_added(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """An alert goes to those that are handlers when it is found, however they came to be."""
    added, replaced = Inbox(), Inbox()
    alerting = make(replaced.take)
    alerting.handlers = [inbox.take]
    alerting.handlers.append(added.take)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == added == FAILED
    assert replaced == []


def test_a_handler_that_is_replaced_gets_what_waited_for_it(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """What was found while it was a handler still reaches it; its thread ends at a later evaluation."""
    blocked = Blocked()
    alerting = make(blocked)
    monitor.track_generation(1.0, False)
    alerting.check(0)
    assert blocked.begun.wait(PATIENCE)
    alerting.handlers = [inbox.take]
    alerting.check(PATIENCE)
    blocked.gate.set()
    assert eventually(lambda: blocked.taken == FAILED)
    assert eventually(lambda: alerting.check(PATIENCE) or not handler_threads())  # type: ignore[func-returns-value]
    assert inbox == []


def test_what_fires_while_nobody_listens_is_news_for_the_first_handler(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """An alert counts as sent only where there was somebody to send it to."""
    alerting = make(inbox.take)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    alerting.handlers = []
    alerting.check(PATIENCE)
    alerting.handlers = [inbox.take]
    alerting.check(PATIENCE)
    assert inbox == FAILED * 2


@pytest.mark.parametrize("handlers", [None, 5], ids=repr)
def test_what_is_no_list_of_handlers_is_none(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    caplog: pytest.LogCaptureFixture,
    handlers: Any,
) -> None:
    """Whatever a job puts in the place of the list, a check does not raise; nonsense is told once."""
    alerting = make(broken)
    alerting.handlers = handlers
    monitor.track_generation(1.0, False)
    for _ in range(2):
        alerting.check(PATIENCE)
    expected = ["alert_handlers must be a list, got 5; none is called"]
    assert told(caplog) == (expected if handlers else [])


def test_a_handler_may_check_alerts_itself(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """A check on a handler's thread does not wait for that handler, so it does not hang."""
    made: list[Alerting] = []

    def handle(alert: Alert) -> None:
        made[0].check(10 * PATIENCE)
        inbox.append(alert.name)

    made.append(make(handle))
    monitor.track_generation(1.0, False)
    made[0].check(PATIENCE)
    assert inbox == FAILED


class Awaited:
    """An object that waits for somebody to await it."""

    async def __call__(self, alert: Alert) -> None:
        """Wait."""
        raise AssertionError


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (5, "which cannot be called"),
        (awaited, "which nobody would await"),
        (Awaited(), "which nobody would await"),
    ],
)
def test_what_cannot_be_a_handler_is_named(handler: Any, problem: str) -> None:
    """A list with something in it that cannot take an alert is refused, by its place."""
    with pytest.raises(ConfigError, match=rf"alert_handlers\[1\] must be .*, {problem}"):
        check_alert_handlers([broken, handler])
    check_alert_handlers([broken, Blocked()])


# --- handlers that are told of all that fires -------------------------------------------------------


class Keeper(Inbox, AlertReceiver):
    """A handler that is told of each evaluation and flushed."""

    def __init__(self) -> None:
        super().__init__()
        self.refreshed: list[tuple[list[str], float]] = []
        self.flushed: list[float] = []
        self.is_done = True
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, alert: Alert) -> None:
        """Keep the alert's name."""
        self.take(alert)

    def refresh(self, alerts: Sequence[Alert], interval: float) -> None:
        """Keep what fires, once the gate is open."""
        self.gate.wait(PATIENCE)
        self.refreshed.append(([alert.name for alert in alerts], interval))

    def flush(self, timeout: float) -> bool:
        """Keep how much time there is."""
        self.flushed.append(timeout)
        return self.is_done


@pytest.fixture
def keeper() -> Keeper:
    """Return a handler with both methods."""
    return Keeper()


def test_each_evaluation_refreshes_what_fires(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], keeper: Keeper
) -> None:
    """A handler that asks for it gets all that fires, sent before or not, and nothing too."""
    alerting = make(keeper)
    alerting.check(PATIENCE)
    monitor.track_generation(1.0, False)
    for _ in range(2):
        alerting.check(PATIENCE)
    assert keeper == FAILED
    assert keeper.refreshed == [([], 0.0), (FAILED, 0.0), (FAILED, 0.0)]


def test_a_refresh_says_when_the_next_one_comes(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], keeper: Keeper
) -> None:
    """With a periodic evaluation the interval is told, so that an alert can end by itself."""
    make(keeper, interval=OFTEN)
    monitor.track_generation(1.0, False)
    assert eventually(lambda: (FAILED, OFTEN) in keeper.refreshed)


def test_a_slow_handler_is_refreshed_with_the_newest(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], keeper: Keeper
) -> None:
    """What fires does not pile up before it: of many evaluations it gets the last."""
    alerting = make(keeper)
    keeper.gate.clear()
    alerting.check(0)
    for _ in range(5):
        alerting.check(0)
    monitor.track_generation(1.0, False)
    alerting.check(0)
    keeper.gate.set()
    alerting.check(PATIENCE)
    assert keeper.refreshed[-1] == (FAILED, 0.0)
    assert len(keeper.refreshed) <= 4
    assert keeper == FAILED


def test_a_refresh_that_found_no_room_is_made_up_for(
    make: Callable[..., Alerting], keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler whose queue was full is refreshed again once it has caught up."""
    monkeypatch.setattr("genmeter.alerting.notify._CAPACITY", 1)
    alerting = make(keeper)
    keeper.gate.clear()
    for _ in range(10):
        alerting.check(0)
    keeper.gate.set()
    for _ in range(2):
        alerting.check(PATIENCE)
    before = len(keeper.refreshed)
    alerting.check(PATIENCE)
    assert len(keeper.refreshed) == before + 1


def test_a_check_and_the_end_flush_what_a_handler_has_taken(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], keeper: Keeper
) -> None:
    """Both give it what is left of their time, after all that was there to send."""
    alerting = make(keeper)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert len(keeper.flushed) == 1
    alerting.stop(PATIENCE / 2)
    assert 0 < keeper.flushed[0] <= PATIENCE
    assert 0 < keeper.flushed[1] <= PATIENCE / 2


def test_what_a_handler_could_not_bring_out_at_the_end_is_told(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    keeper: Keeper,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A flush that is not done in time is as good as a handler that did not take it."""
    alerting = make(keeper)
    keeper.is_done = False
    alerting.check(PATIENCE)
    assert not monitor._pipeline.self_metrics.handler_errors  # a later one may do it
    alerting.stop(PATIENCE)
    assert monitor._pipeline.self_metrics.handler_errors == {("Keeper", "unfinished"): 1}
    monitor._pipeline.deferred_log.flush()
    (line,) = told(caplog)
    assert line.startswith("the alert handler Keeper had 1 alerts pending")


def test_a_refresh_that_raises_or_blocks_harms_nobody(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], keeper: Keeper, inbox: Inbox
) -> None:
    """It is counted as a failure of its handler, and costs the others neither alerts nor time."""

    class Failing(Inbox, AlertReceiver):
        def __call__(self, alert: Alert) -> None:
            self.take(alert)

        def refresh(self, alerts: Sequence[Alert], interval: float) -> None:
            raise SystemExit

        def flush(self, timeout: float) -> bool:
            raise OSError

    keeper.gate.clear()
    failing = Failing()
    alerting = make(keeper, failing, inbox.take)
    monitor.track_generation(1.0, False)
    alerting.check(0.05)
    assert eventually(lambda: inbox == failing == FAILED)
    name = Failing.__qualname__
    errors = monitor._pipeline.self_metrics.handler_errors
    assert eventually(
        lambda: monitor._pipeline.self_metrics.handler_errors == {(name, "raised"): 2}
    ), errors
    keeper.gate.set()


def test_the_end_resolves_nothing(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], keeper: Keeper
) -> None:
    """That a job ends does not mean that its trouble is over: no alert is resolved by it."""
    alerting = make(keeper, interval=OFTEN)
    monitor.track_generation(1.0, False)
    assert eventually(lambda: keeper == FAILED)
    alerting.stop(PATIENCE)
    assert keeper.resolved == []
    assert keeper.refreshed[-1][0] == FAILED


def test_a_shutdown_resolves_nothing(clock: Clock, keeper: Keeper) -> None:
    """Also not what is no longer true of a job that has ended, by whoever looks meanwhile."""
    with isolated_monitor(alert_handlers=[keeper], metrics_interval=0.01) as made:
        made.track_generation(1.0, True)
        clock.now += 1_000
        assert eventually(lambda: keeper == ["generation_stalled"])
        made._session.finish_close = lambda deadline: True  # the last scrape comes before it
        made.shutdown()
        clock.now += 1
        made._alerting._tick()
        assert made.value(ALERTS_FIRING.prometheus, genmeter_alert="GenerationStalled") == 1
        made._alerting.stop(PATIENCE)
    assert keeper.resolved == []


# --- by itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["given", "set", "appended"])
def test_alerts_come_by_themselves(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox, how: str
) -> None:
    """Every interval, fractions of a second too, the rules are judged for handlers however they came."""
    alerting = make(*[inbox.take] * (how == "given"), interval=OFTEN)
    if how == "set":
        alerting.handlers = [inbox.take]
    elif how == "appended":
        alerting.handlers.append(inbox.take)
    monitor.track_generation(1.0, False)
    assert eventually(lambda: inbox == FAILED)


def test_a_monitor_that_recorded_nothing_has_no_thread() -> None:
    """Without handlers the evaluation begins with the first event; one thread serves several."""
    config = MonitorConfig(endpoint=EndpointConfig(enabled=False))
    with fresh_runtime():
        monitors = [
            GenerationMonitor(metrics_interval=interval, config=config)
            for interval in (OFTEN, 10 * OFTEN)
        ]
        for each in monitors:
            each.flush()
        assert not threads("genmeter-alerts")
        for each in monitors:
            each.track_generation(1.0, False)
            each.flush()
            assert len(threads("genmeter-alerts")) == 1
        for each in monitors:
            alerting = each._alerting
            assert eventually(lambda found=alerting: sum(found.firing().values()) == 2)
        assert len(threads("genmeter-alerts")) == 1
        assert not handler_threads()


def test_handlers_begin_the_evaluation_before_the_first_event(
    make: Callable[..., Alerting],
) -> None:
    """What the process counts of itself can fire for a monitor that recorded nothing."""
    alerting = make(interval=PATIENCE)
    alerting.handlers = [broken]
    alerting.start()
    assert len(threads("genmeter-alerts")) == 1


@pytest.mark.parametrize("interval", [0, -1])
def test_no_interval_means_no_periodic_evaluation(
    make: Callable[..., Alerting], interval: float
) -> None:
    """An interval of 0 or less leaves only the checks that are asked for."""
    make(broken, interval=interval)
    assert not threads("genmeter-alerts")


def test_an_evaluation_that_fails_is_counted_and_goes_on(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A defect in an evaluation is logged once and ends neither the thread nor the job."""
    caplog.set_level(logging.CRITICAL, logger="genmeter")
    monkeypatch.setattr(monitor._session.history, "window", lambda rows, by, since: 1 // 0)
    make(broken, interval=OFTEN)
    assert eventually(lambda: monitor._pipeline.self_metrics.rejected.get("internal", 0) >= 3)


def test_an_evaluation_that_ends_its_thread_costs_that_evaluation(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A SystemExit is counted like any other failure, and the evaluations go on for every monitor."""
    failing, well = make(broken, interval=OFTEN), make(inbox.take, interval=OFTEN)

    def leave(*_: object, **__: object) -> None:
        raise SystemExit

    monkeypatch.setattr(failing._evaluator, "evaluate", leave)
    assert eventually(lambda: monitor._pipeline.self_metrics.rejected.get("internal", 0) >= 3)
    monitor.track_generation(1.0, False)
    assert eventually(lambda: set(inbox) >= {*FAILED})
    assert well.handlers == [inbox.take]


def test_a_thread_that_is_not_to_be_had_is_done_without(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the system's limit of threads alerts come by checks, which call the handlers themselves."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        alerting = make(inbox.take, interval=OFTEN)
        alerting.handlers = [inbox.take]
        monitor._session.alerting = alerting
        monitor.track_generation(1.0, False)
        alerting.check(PATIENCE)
        assert inbox == FAILED
        (line,) = told(caplog)
        assert line.startswith("no thread could be started for the periodic evaluation of alerts")
        assert not threads("genmeter-alerts")
    # The events that come then try again.
    assert eventually(
        lambda: monitor.track_generation(1.0, False) or threads("genmeter-alerts")  # type: ignore[func-returns-value]
    )


# --- what fires, for whoever scrapes ----------------------------------------------------------------


def _provider(monitor: IsolatedMonitor) -> Any:
    (telemetry,) = monitor._runtime._foreign
    return telemetry


def firing(monitor: IsolatedMonitor) -> dict[str, float]:
    """Give the gauge of a scrape, by alert."""
    series = monitor.series(ALERTS_FIRING.prometheus)
    return {each.labels["genmeter_alert"]: each.value for each in series}


def test_a_scrape_tells_what_fires(monitor: IsolatedMonitor) -> None:
    """Without a handler too, a scrape has what the last evaluation found; most alerts are at 0."""
    monitor.track_generation(1.0, False)
    monitor.check_alerts()
    found = firing(monitor)
    assert {name for name, count in found.items() if count} == {
        "GenerationErrorRateHigh",
        "GenerationSuccessRateLow",
    }
    assert set(found.values()) == {0, 1}
    evaluated = [rule for rule in AlertSettings().rules() if rule.is_judged_in_process]
    assert found.keys() == {rule.name for rule in evaluated}


def test_a_scrape_sees_the_periodic_evaluation_without_a_handler() -> None:
    """The gauge must be right where nobody asks for the alerts in the process."""
    with isolated_monitor(metrics_interval=OFTEN) as made:
        made.track_generation(1.0, False)
        assert eventually(lambda: firing(made).get("GenerationErrorRateHigh") == 1)


def test_a_scrape_evaluates_nothing(clock: Clock, inbox: Inbox) -> None:
    """A read has no side effect: neither is an alert found by it, nor a handler called."""
    with isolated_monitor(alert_handlers=[inbox.take], metrics_interval=60) as made:
        made.track_generation(1.0, False)
        assert not any(firing(made).values())
        clock.now += 60
        assert not any(firing(made).values())
        made.check_alerts()
        assert inbox == FAILED
        before = firing(made)
        clock.now += 300  # resolved, as the next evaluation will find
        assert firing(made) == before
        assert inbox.resolved == []
        made.check_alerts()
        assert inbox.resolved == FAILED
        assert not any(firing(made).values())


def test_a_scrape_waits_for_no_evaluation(monitor: IsolatedMonitor) -> None:
    """What fires is answered while another thread owns the drain."""
    monitor.track_generation(1.0, False)
    monitor.check_alerts()
    begun, gate = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        gate.wait(PATIENCE)

    holder = threading.Thread(target=lambda: monitor._pipeline.run(hold))
    holder.start()
    assert begun.wait(PATIENCE)
    found = sum(monitor._alerting.firing().values())
    gate.set()
    holder.join(PATIENCE)
    assert found == 2


def test_groups_that_fire_are_counted(monitor: IsolatedMonitor) -> None:
    """Two slow models are two alerts of one name."""
    for model in ("m", "n"):
        monitor.track_generation(60.0, True, model_name=model)
    monitor.check_alerts()
    assert firing(monitor)["GenerationSlow"] == 2


@pytest.mark.parametrize("interval", [0, None])
def test_without_an_interval_only_checks_are_told(interval: float | None) -> None:
    """A monitor that judges nothing by itself tells nothing, and then what a check found."""
    with isolated_monitor(metrics_interval=interval) as made:
        made.track_generation(1.0, False)
        assert firing(made) == {}
        made.check_alerts()
        assert firing(made)["GenerationErrorRateHigh"] == 1


def test_monitors_of_a_process_add_up_until_they_are_shut_down() -> None:
    """The process tells of all that its open monitors find."""
    name = "GenerationErrorRateHigh"
    with isolated_monitor() as made:
        other = GenerationMonitor(config=MonitorConfig(meter_provider=_provider(made)))
        for each in (made, other):
            each.track_generation(1.0, False)
            each.check_alerts()
        assert firing(made)[name] == 2
        other.shutdown()
        assert firing(made)[name] == 1


def test_a_pending_alert_neither_fires_nor_is_sent(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox, clock: Clock
) -> None:
    """Until its condition has held for as long as it must, nobody hears of it."""
    rate = AlertOverride(pending=120.0)
    settings = AlertSettings(alerts={"high_error_rate": rate, "low_success_rate": rate})
    alerting = make(inbox.take, settings=settings)
    monitor.track_generation(1.0, False)
    for expected in (0, 0, 2):
        alerting.check(PATIENCE)
        assert sum(alerting.firing().values()) == expected
        assert len(inbox) == expected
        clock.now += 60


def test_an_alert_is_of_the_job(monitor: IsolatedMonitor, make: Callable[..., Alerting]) -> None:
    """The label is the job that the monitor's provider names."""
    seen: list[str] = []
    monitor._session.state.job = "nightly"
    alerting = make(lambda alert: seen.append(alert.labels["job"]))
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert seen == ["nightly"] * 2


def test_a_monitor_tells_its_settings() -> None:
    """They are the config's, and the old arguments win over them."""
    config = MonitorConfig(alerts=AlertSettings(objective=0.9))
    with isolated_monitor(config, alert_max_error_rate=0.5) as made:
        assert made.alert_settings == AlertSettings(
            objective=0.9, alerts={"high_error_rate": AlertOverride(threshold=0.5)}
        )


# --- the end ---------------------------------------------------------------------------------------


def test_a_job_that_is_over_before_the_interval_is_heard_of(inbox: Inbox) -> None:
    """The end judges once more: a short job that failed must not end in silence."""
    with isolated_monitor(alert_handlers=[inbox.take]) as made:
        made.track_generation(1.0, False)
        assert inbox == []
    assert inbox == FAILED


def test_the_last_scrape_sees_what_fires_at_the_end() -> None:
    """While the endpoint lingers, the gauge tells of what went wrong after the last evaluation."""
    with isolated_monitor() as monitor:
        assert not any(firing(monitor).values())
        monitor.track_generation(1.0, False)
        monitor._session.finish_close = lambda deadline: True  # the last scrape comes before it
        monitor.shutdown()
        assert firing(monitor)["GenerationErrorRateHigh"] == 1
        monitor._alerting.stop(PATIENCE)


def test_handlers_have_their_threads_before_the_end(inbox: Inbox) -> None:
    """An interpreter that ends gives none, and its last thread must not be a handler's to block."""
    with isolated_monitor(alert_handlers=[inbox.take]):
        assert handler_threads()


@pytest.mark.parametrize("interval", [None, 0])
def test_without_an_interval_the_end_judges_nothing(interval: float | None, inbox: Inbox) -> None:
    """Who asks for no evaluation but that of a check gets none at the end either."""
    with isolated_monitor(alert_handlers=[inbox.take], metrics_interval=interval) as made:
        made.track_generation(1.0, False)
    assert inbox == []


def test_a_last_evaluation_that_fails_does_not_hold_up_the_end(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of ours in it is counted, and the monitor is closed all the same."""
    with isolated_monitor(alert_handlers=[inbox.take]) as made:
        monkeypatch.setattr(made._alerting._evaluator, "evaluate", lambda *_, **__: 1 / 0)
        made.shutdown()
        assert made._pipeline.self_metrics.rejected["internal"] == 1
        assert made._session.state.is_closed


def test_the_end_waits_for_what_was_found(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """By the end of ``stop`` the handlers have got every alert, and no thread of ours is left."""
    blocked = Blocked()
    alerting = make(blocked, interval=OFTEN)
    monitor.track_generation(1.0, False)
    assert blocked.begun.wait(PATIENCE)
    threading.Timer(0.05, blocked.gate.set).start()
    alerting.stop(PATIENCE)
    assert blocked.taken == FAILED
    assert eventually(lambda: not threads("genmeter-alerts"))
    assert eventually(lambda: not handler_threads())
    alerting.handlers = [broken]
    assert not threads("genmeter-alerts")
    assert not handler_threads()


def test_the_end_does_not_wait_for_a_handler_that_blocks(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], caplog: pytest.LogCaptureFixture
) -> None:
    """What it has not taken when the time is over is counted and told."""
    blocked = Blocked()
    alerting = make(blocked)
    monitor.track_generation(1.0, False)
    alerting.check(0)
    assert blocked.begun.wait(PATIENCE)
    alerting.stop(0.05)
    blocked.gate.set()
    assert sum(monitor._pipeline.self_metrics.handler_errors.values()) == 2
    monitor._pipeline.deferred_log.flush()
    (line,) = told(caplog)
    assert line.startswith("the alert handler Blocked had 2 alerts pending")


def test_no_handler_is_called_after_the_end(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """Neither what waited nor what is found later is delivered once the time is over; all counts."""
    blocked = Blocked()
    alerting = make(blocked, repeat=0)
    monitor.track_generation(1.0, False)
    alerting.check(0)
    assert blocked.begun.wait(PATIENCE)
    worker = alerting._workers._by_id[id(blocked)]
    alerting.stop(0.05)
    # As an evaluation under way at that moment does, for handlers old and new.
    late = Inbox()
    alert = alerting._states.firing(genmeter.clock.now(), "j")[0]
    for each in alerting._workers.sync([blocked, late.take]):
        each.put(alert)
    alerting._tick()
    alerting.conclude(PATIENCE)
    blocked.gate.set()
    assert eventually(lambda: not worker.is_running)
    assert blocked.taken == FAILED[:1]
    assert late == []
    errors = monitor._pipeline.self_metrics.handler_errors
    assert errors == {("Blocked", "unfinished"): 3, ("Inbox.take", "unfinished"): 1}


def test_a_late_request_of_the_end_finds_nothing(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """An evaluation that the drain comes to only after the end sends nothing."""
    alerting = make(inbox.take, interval=PATIENCE)
    monitor.track_generation(1.0, False)
    held: list[Any] = []
    alerting._pipeline = Mock(wraps=monitor._pipeline)
    alerting._pipeline.run = lambda function, timeout=None: held.append(function)
    alerting._pipeline.epoch = monitor._pipeline.epoch
    alerting.conclude(PATIENCE)
    alerting.stop(PATIENCE)
    (evaluate,) = held
    monitor._pipeline.run(evaluate)
    assert inbox == []
    assert not monitor._pipeline.self_metrics.handler_errors


def test_a_check_after_the_end_is_answered(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """Reads go on after the end, and so does a check; it leaves no thread behind."""
    alerting = make(inbox.take, interval=OFTEN)
    alerting.stop(PATIENCE)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == FAILED
    assert eventually(lambda: not handler_threads())


def test_the_threads_end_with_a_monitor_that_is_forgotten(
    monitor: IsolatedMonitor, inbox: Inbox
) -> None:
    """Threads keep nothing alive: when nobody has the alerting any more, they end."""
    alerting = Alerting(
        monitor._pipeline,
        monitor._session.state,
        handlers=[inbox.take],
        settings=AlertSettings(),
        interval=OFTEN,
    )
    alerting.start()
    monitor.track_generation(1.0, False)
    assert eventually(lambda: inbox == FAILED)
    del alerting
    gc.collect()
    assert eventually(lambda: not threads("genmeter-alerts"))
    assert eventually(lambda: not handler_threads())


def test_a_child_begins_anew(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """After a fork nothing has fired or was counted yet."""
    self_metrics = monitor._pipeline.self_metrics
    self_metrics.export_failures["otlp"] += 5
    alerting = make(inbox.take, interval=PATIENCE)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == FAILED
    self_metrics.reset()
    monitor._pipeline.epoch += 1  # as a fork leaves it
    assert not any(alerting.firing().values())
    alerting.start()
    self_metrics.count_export_failure("otlp")
    alerting.check(PATIENCE)
    assert inbox == [*FAILED, *FAILED, "monitor_export_failing"]
    assert inbox.resolved == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_a_child_evaluates_periodically() -> None:
    """The thread that all monitors share is the parent's, so the child starts one of its own."""
    with isolated_monitor(metrics_interval=OFTEN) as made:
        made.track_generation(1.0, True)
        assert eventually(lambda: firing(made))
        child = os.fork()
        if child == 0:
            try:
                began_anew = not any(made._alerting.firing().values()) and not len(schedule)
                made.track_generation(1.0, False)
                made.flush()
                fires = eventually(lambda: sum(made._alerting.firing().values()) == 2)
                os._exit(0 if began_anew and fires else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        made.track_generation(1.0, False)
        assert eventually(lambda: any(firing(made).values()))
