"""A monitor's alerts on their way to the job's handlers."""

from __future__ import annotations

import gc
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
from _waiting import PATIENCE, eventually

import genmeter.clock
from genmeter.errors import ConfigError
from genmeter.outputs.alerts.alerting import Alerting
from genmeter.outputs.alerts.delivery import check_alert_handlers
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from genmeter.outputs.alerts.book import Alert
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
    """A handler that keeps the names of what it was sent."""

    def take(self, alert: Alert) -> None:
        """Keep the alert's name."""
        self.append(alert.name)


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


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """List what was logged."""
    return [record.getMessage() for record in caplog.records if record.name == "genmeter"]


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor with the defaults."""
    with isolated_monitor() as made:
        yield made


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
            monitor._sink,
            handlers=list(handlers),
            thresholds=keywords.pop("thresholds", {}),
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
    assert not threads("genmeter-alerts")
    assert eventually(lambda: not threads("genmeter-alert-handler"))


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
    alerting.check(PATIENCE)  # six minutes later: no data, and so resolved
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


def test_samples_of_the_job_itself_count(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """What ``record_metric`` adds to an old name is part of its mean, as it always was."""
    alerting = make(inbox.take)
    for _ in range(3):
        monitor.track_generation(1.0, True)
    alerting.check(PATIENCE)
    assert inbox == []
    monitor.record_metric("error_rate", 1.0)
    alerting.check(PATIENCE)
    assert inbox == ["high_error_rate"]


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
    alerting = make(
        inbox.take, thresholds={"alert_min_success_rate": 0, "alert_max_error_rate": None}
    )
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
    assert monitor._pipeline.tallies.handler_errors == {("broken", "raised"): 2}
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
    assert "coroutine function" in str(error)


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
    assert monitor._pipeline.tallies.handler_errors == {(Nameless.__qualname__, "raised"): 2}


def test_alerts_for_a_blocked_handler_do_not_pile_up(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a handler's queue has no room for is dropped, counted, and told once."""
    monkeypatch.setattr("genmeter.outputs.alerts.delivery._CAPACITY", 1)
    blocked = Blocked()
    alerting = make(blocked, repeat=0)
    monitor.track_generation(1.0, False)
    alerting.check(0)
    assert blocked.begun.wait(PATIENCE)
    for _ in range(2):
        alerting.check(0)
    blocked.gate.set()
    (line,) = told(caplog)
    assert line.startswith("the alert handler Blocked is too slow: 1 alerts wait for it")
    assert monitor._pipeline.tallies.handler_errors["Blocked", "queue_full"] >= 4


def test_what_one_handler_changes_is_its_own(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """Handlers run beside each other, so none sees what another does to an alert's data."""
    seen: list[dict[str, Any]] = []

    def take(alert: Alert) -> None:
        seen.append(dict(alert.data))
        alert.data.clear()

    def take_too(alert: Alert) -> None:
        take(alert)

    alerting = make(take, take_too)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert len(seen) == 4
    assert all(data["count"] == 1 for data in seen)


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
    """What was found while it was a handler still reaches it, and then its thread ends."""
    blocked = Blocked()
    alerting = make(blocked)
    monitor.track_generation(1.0, False)
    alerting.check(0)
    assert blocked.begun.wait(PATIENCE)
    alerting.handlers = [inbox.take]
    alerting.check(PATIENCE)
    blocked.gate.set()
    assert eventually(lambda: blocked.taken == FAILED)
    assert eventually(lambda: not threads("genmeter-alert-handler"))
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
    expected = ["alert_handlers is 5, so none is called; give a list"]
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


@pytest.mark.parametrize(
    ("handler", "problem"), [(5, "it cannot be called"), (awaited, "nobody would await it")]
)
def test_what_cannot_be_a_handler_is_named(handler: Any, problem: str) -> None:
    """A list with something in it that cannot take an alert is refused, by its place."""
    with pytest.raises(ConfigError, match=rf"alert_handlers\[1\] is .*, and {problem}; give"):
        check_alert_handlers([broken, handler])
    check_alert_handlers([broken, Blocked()])


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


def test_no_thread_runs_where_nobody_listens(make: Callable[..., Alerting]) -> None:
    """A monitor without handlers has no thread for alerts, and one that has is given one thread."""
    alerting = make(interval=OFTEN)
    assert not threads("genmeter-alerts")
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


def test_rules_are_not_judged_where_nobody_listens(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without handlers the history is left alone."""
    alerting = make(interval=OFTEN)
    asked: list[str] = []
    monkeypatch.setattr(monitor._sink.history, "samples", lambda name, since: asked.append(name))
    alerting.handlers = []
    alerting.check(PATIENCE)
    assert asked == []
    alerting.handlers = [broken]
    alerting.check(PATIENCE)
    assert asked


def test_an_evaluation_that_fails_is_counted_and_goes_on(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A defect in an evaluation is logged once and ends neither the thread nor the job."""
    caplog.set_level(logging.CRITICAL, logger="genmeter")
    monkeypatch.setattr(monitor._sink.history, "samples", lambda name, since: 1 // 0)
    make(broken, interval=OFTEN)
    assert eventually(lambda: monitor._pipeline.tallies.rejected.get("internal", 0) >= 3)


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
        monitor.track_generation(1.0, False)
        alerting.check(PATIENCE)
        assert inbox == FAILED
        assert told(caplog) == [
            "alerts are evaluated by check_alerts() only: can't start new thread"
        ]
    alerting.start()
    assert threads("genmeter-alerts")


# --- the end ---------------------------------------------------------------------------------------


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
    assert not threads("genmeter-alerts")
    assert eventually(lambda: not threads("genmeter-alert-handler"))
    alerting.handlers = [broken]
    assert not threads("genmeter-alerts")


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
    assert sum(monitor._pipeline.tallies.handler_errors.values()) == 2
    monitor._pipeline.notices.tell()
    (line,) = told(caplog)
    assert line.startswith("the alert handler Blocked had not taken 2 alerts")


def test_a_check_after_the_end_is_answered(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """Reads go on after the end, and so does a check; it leaves no thread behind."""
    alerting = make(inbox.take, interval=OFTEN)
    alerting.stop(PATIENCE)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == FAILED
    assert eventually(lambda: not threads("genmeter-alert-handler"))


def test_the_threads_end_with_a_monitor_that_is_forgotten(
    monitor: IsolatedMonitor, inbox: Inbox
) -> None:
    """Threads keep nothing alive: when nobody has the alerting any more, they end."""
    alerting = Alerting(
        monitor._pipeline,
        monitor._sink,
        handlers=[inbox.take],
        thresholds={},
        interval=OFTEN,
    )
    alerting.start()
    monitor.track_generation(1.0, False)
    assert eventually(lambda: inbox == FAILED)
    del alerting
    gc.collect()
    assert eventually(lambda: not threads("genmeter-alerts"))
    assert eventually(lambda: not threads("genmeter-alert-handler"))


def test_a_child_begins_anew(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """After a fork nothing has fired yet, and the thread starts again."""
    alerting = make(inbox.take, interval=PATIENCE)
    parents = alerting._periodic
    assert parents
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    monitor._pipeline.epoch += 1  # as a fork leaves it
    alerting.start()
    assert alerting._periodic not in (None, parents)
    alerting.check(PATIENCE)
    assert inbox == FAILED * 2
    parents.stop(PATIENCE)
