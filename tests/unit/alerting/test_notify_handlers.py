"""Delivery of a monitor's alerts to the job's handlers."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from _alert_handlers import (
    FAILED,
    OFTEN,
    Blocked,
    Clock,
    Inbox,
    Keeper,
    awaited,
    broken,
    handler_threads,
    logged,
)

from _waiting import PATIENCE, eventually
from genmeter.alerting.notify import Alerting, AlertReceiver, check_alert_handlers
from genmeter.errors import ConfigError
from genmeter.schema.metrics import ALERTS_FIRING
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genmeter.alerting.state import Alert
    from genmeter.testing import IsolatedMonitor


# --- handlers ---------------------------------------------------------------------------------


def test_handler_errors_are_counted_and_affect_no_other_handler(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    inbox: Inbox,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each error is counted, the first is logged, and other handlers get every alert."""
    alerting = make(broken, inbox.take)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == FAILED
    assert monitor._pipeline.self_metrics.handler_errors == {("broken", "raised"): 2}
    (line,) = logged(caplog)
    assert line.startswith(
        "the alert handler broken failed: low_success_rate; further failures are"
    )
    assert caplog.records[0].exc_info


def test_blocked_handler_does_not_delay_others(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """A check ends at its timeout; the blocked handler gets its alerts later."""
    blocked = Blocked()
    alerting = make(blocked, inbox.take)
    monitor.track_generation(1.0, False)
    alerting.check(0.05)
    assert eventually(lambda: inbox == FAILED)
    assert blocked.taken == []
    blocked.gate.set()
    assert eventually(lambda: blocked.taken == FAILED)


def test_coroutine_handler_is_an_error(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], caplog: pytest.LogCaptureFixture
) -> None:
    """A coroutine handler, which nobody awaits, is logged with the remedy."""
    alerting = make(awaited)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    (error,) = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert "plain function, got a coroutine" in str(error)


def test_handler_listed_twice_gets_alerts_twice(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """The list is used as it is, as in AfterImage."""
    seen: list[str] = []

    def take(alert: Alert) -> None:
        seen.append(alert.name)

    monitor.track_generation(1.0, False)
    make(take, take).check(PATIENCE)
    assert sorted(seen) == sorted(FAILED * 2)


def test_unnamed_handler_is_counted_by_its_class(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """A handler whose name cannot be read is counted by its class."""

    class Nameless:
        def __getattr__(self, name: str) -> Any:
            raise SystemExit

        def __call__(self, alert: Alert) -> None:
            raise SystemExit

    monitor.track_generation(1.0, False)
    make(Nameless()).check(PATIENCE)
    assert monitor._pipeline.self_metrics.handler_errors == {(Nameless.__qualname__, "raised"): 2}


def test_queue_of_a_blocked_handler_is_bounded(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Alerts that a full queue drops are counted, and logged once."""
    monkeypatch.setattr("genmeter.alerting.notify._CAPACITY", 1)
    blocked = Blocked()
    alerting = make(blocked, repeat=0)
    monitor.track_generation(1.0, False)
    alerting.check(0)
    assert blocked.begun.wait(PATIENCE)
    for _ in range(2):
        alerting.check(0)
    blocked.gate.set()
    (line,) = logged(caplog)
    assert line.startswith("the alert handler Blocked is too slow: 1 alerts are queued")
    assert monitor._pipeline.self_metrics.handler_errors["Blocked", "queue_full"] >= 4


def test_every_alert_dropped_by_a_full_queue_is_counted(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every alert is handled or counted; evaluations and checks are not counted as losses."""
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


class SameNamed(Inbox):
    """A handler with unrelated methods named like those of AlertReceiver."""

    def __call__(self, alert: Alert) -> None:
        """Store the alert's name."""
        self.take(alert)

    def flush(self) -> None:
        """Flush, as a file does."""
        raise OSError

    def refresh(self) -> None:
        """Refresh, as a view does."""
        raise OSError


def test_same_named_methods_of_other_handlers_are_not_called(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """Only subclasses of AlertReceiver are refreshed and flushed."""
    homely = SameNamed()
    alerting = make(homely)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    alerting.stop(PATIENCE)
    assert homely == FAILED
    assert not monitor._pipeline.self_metrics.handler_errors


def test_mock_is_not_an_alert_receiver(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """A mock that has every attribute gets alerts only."""
    handler = Mock(spec=Keeper)
    alerting = make(handler)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    alerting.stop(PATIENCE)
    assert [each.args[0].name for each in handler.call_args_list] == FAILED
    assert handler.method_calls == []


def test_each_handler_gets_a_copy(monitor: IsolatedMonitor, make: Callable[..., Alerting]) -> None:
    """Changes of a handler to an alert do not reach other handlers."""
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


def test_handlers_can_be_replaced_and_added(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """An alert is sent to the handlers at the time of the evaluation."""
    added, replaced = Inbox(), Inbox()
    alerting = make(replaced.take)
    alerting.handlers = [inbox.take]
    alerting.handlers.append(added.take)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == added == FAILED
    assert replaced == []


def test_replaced_handler_gets_its_queued_alerts(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """A removed handler gets the alerts queued for it; its thread ends at a later evaluation."""
    blocked = Blocked()
    alerting = make(blocked)
    monitor.track_generation(1.0, False)
    alerting.check(0)
    assert blocked.begun.wait(PATIENCE)
    alerting.handlers = [inbox.take]
    alerting.check(PATIENCE)
    assert blocked.taken == []  # a check does not wait for it
    blocked.gate.set()
    assert eventually(lambda: blocked.taken == FAILED)
    assert eventually(lambda: alerting.check(PATIENCE) or not handler_threads())  # type: ignore[func-returns-value]
    assert inbox == []


def test_first_handler_gets_alerts_that_fired_without_any(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """An alert counts as sent only if there was a handler."""
    alerting = make(inbox.take)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    alerting.handlers = []
    alerting.check(PATIENCE)
    alerting.handlers = [inbox.take]
    alerting.check(PATIENCE)
    assert inbox == FAILED * 2


@pytest.mark.parametrize("handlers", [None, 5], ids=repr)
def test_invalid_handler_list_is_ignored_and_logged_once(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    caplog: pytest.LogCaptureFixture,
    handlers: Any,
) -> None:
    """A check does not raise for any value in place of the list."""
    alerting = make(broken)
    alerting.handlers = handlers
    monitor.track_generation(1.0, False)
    for _ in range(2):
        alerting.check(PATIENCE)
    assert len(logged(caplog)) == bool(handlers)
    assert all("alert_handlers must be a list, got 5" in line for line in logged(caplog))


def test_handlers_can_check_alerts(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """A check on a handler's thread does not wait for that handler."""
    made: list[Alerting] = []

    def handle(alert: Alert) -> None:
        made[0].check(10 * PATIENCE)
        inbox.append(alert.name)

    made.append(make(handle))
    monitor.track_generation(1.0, False)
    made[0].check(PATIENCE)
    assert inbox == FAILED


class Awaited:
    """A callable that returns a coroutine."""

    async def __call__(self, alert: Alert) -> None:
        """Return a coroutine."""
        raise AssertionError


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (5, "which cannot be called"),
        (awaited, "which nobody would await"),
        (Awaited(), "which nobody would await"),
    ],
)
def test_invalid_handler_is_an_error(handler: Any, problem: str) -> None:
    """The error has the index of the invalid handler."""
    with pytest.raises(ConfigError, match=rf"alert_handlers\[1\] must be .*, {problem}"):
        check_alert_handlers([broken, handler])
    check_alert_handlers([broken, Blocked()])


# --- alert receivers -------------------------------------------------


def test_each_evaluation_refreshes_all_firing_alerts(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], keeper: Keeper
) -> None:
    """A receiver gets all firing alerts, sent before or not, or an empty list."""
    alerting = make(keeper)
    alerting.check(PATIENCE)
    monitor.track_generation(1.0, False)
    for _ in range(2):
        alerting.check(PATIENCE)
    assert keeper == FAILED
    assert keeper.refreshed == [([], 0.0), (FAILED, 0.0), (FAILED, 0.0)]


def test_refresh_gets_the_interval(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], keeper: Keeper
) -> None:
    """The interval of a periodic evaluation is passed, so that alerts can expire."""
    make(keeper, interval=OFTEN)
    monitor.track_generation(1.0, False)
    assert eventually(lambda: (FAILED, OFTEN) in keeper.refreshed)


def test_slow_handler_gets_the_newest_refresh_only(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], keeper: Keeper
) -> None:
    """Refreshes do not queue up: a slow handler gets the last one."""
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


def test_refresh_dropped_by_a_full_queue_is_repeated(
    make: Callable[..., Alerting], keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler whose queue was full is refreshed again later."""
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


def test_check_and_shutdown_flush_receivers(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], keeper: Keeper
) -> None:
    """Both pass the remaining time, after all alerts were sent."""
    alerting = make(keeper)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert len(keeper.flushed) == 1
    alerting.stop(PATIENCE / 2)
    assert 0 < keeper.flushed[0] <= PATIENCE
    assert 0 < keeper.flushed[1] <= PATIENCE / 2


def test_failed_flush_at_the_end_is_counted(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    keeper: Keeper,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A flush that does not finish in time is counted as unfinished."""
    alerting = make(keeper)
    keeper.is_done = False
    alerting.check(PATIENCE)
    assert not monitor._pipeline.self_metrics.handler_errors  # a later flush may deliver it
    alerting.stop(PATIENCE)
    assert monitor._pipeline.self_metrics.handler_errors == {("Keeper", "unfinished"): 1}
    monitor._pipeline.deferred_log.flush()
    (line,) = logged(caplog)
    assert line.startswith("the alert handler Keeper had 1 alerts pending")


def test_failing_refresh_affects_no_other_handler(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], keeper: Keeper, inbox: Inbox
) -> None:
    """It is counted as an error of its handler, and delays no other."""

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


def test_stop_resolves_no_alert(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], keeper: Keeper
) -> None:
    """The end of a job does not resolve its alerts."""
    alerting = make(keeper, interval=OFTEN)
    monitor.track_generation(1.0, False)
    assert eventually(lambda: keeper == FAILED)
    alerting.stop(PATIENCE)
    assert keeper.resolved == []
    assert keeper.refreshed[-1][0] == FAILED


def test_shutdown_resolves_no_alert(clock: Clock, keeper: Keeper) -> None:
    """Alerts whose condition ended with the job are not resolved either."""
    with isolated_monitor(alert_handlers=[keeper], metrics_interval=0.01) as made:
        made.track_generation(1.0, True)
        clock.now += 1_000
        assert eventually(lambda: keeper == ["generation_stalled"])
        made._session.finish_close = lambda deadline: True  # the last scrape is before it
        made.shutdown()
        clock.now += 1
        made._alerting._tick()
        assert made.value(ALERTS_FIRING.prometheus, genmeter_alert="GenerationStalled") == 1
        made._alerting.stop(PATIENCE)
    assert keeper.resolved == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_forked_child_refreshes_its_receivers(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], keeper: Keeper
) -> None:
    """A refresh queued at the fork belongs to the parent; the child queues its own."""
    alerting = make(keeper)
    keeper.gate.clear()
    for _ in range(2):
        alerting.check(0)
    child = os.fork()
    if child == 0:
        try:
            keeper.gate = threading.Event()
            keeper.gate.set()
            alerting.check(PATIENCE)
            os._exit(0 if len(keeper.refreshed) == 1 else 1)
        except BaseException:
            os._exit(2)
    keeper.gate.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
