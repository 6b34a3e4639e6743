"""Evaluation of a monitor's alerts: on request, periodically, and at the end."""

from __future__ import annotations

import gc
import logging
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
    broken,
    handler_threads,
    logged,
    threads,
)

import genmeter.clock
from _waiting import PATIENCE, eventually
from genmeter.alerting._schedule import schedule
from genmeter.alerting.notify import Alerting
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.config.monitor import EndpointConfig, MonitorConfig
from genmeter.monitor import GenerationMonitor
from genmeter.schema.metrics import ALERTS_FIRING
from genmeter.testing import fresh_runtime, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from genmeter.testing import IsolatedMonitor


# --- on request --------------------------------------------------------------------------------


def test_check_returns_after_the_handlers_were_called(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """A check includes the latest events, and returns after all handlers were called."""
    other = Inbox()
    alerting = make(inbox.take, other.take)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == other == FAILED


def test_no_alert_before_the_first_event(make: Callable[..., Alerting], inbox: Inbox) -> None:
    """Before the first call the success rate is not low."""
    make(inbox.take).check(PATIENCE)
    assert inbox == []


def test_alert_is_sent_once_and_resolved_after_its_window(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox, clock: Clock
) -> None:
    """A firing alert is sent once, and resolved five minutes after the last failure."""
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


def test_firing_alerts_are_repeated_after_the_interval(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox, clock: Clock
) -> None:
    """With a repeat interval a firing alert is sent again after it."""
    alerting = make(inbox.take, repeat=100)
    monitor.track_generation(1.0, False)
    for pause in (60, 60, 60):
        alerting.check(PATIENCE)
        clock.now += pause
    assert inbox == FAILED * 2


def test_every_kind_of_value_can_raise_its_alert(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """Recorded durations, tokens and turns trigger their alerts."""
    alerting = make(inbox.take)
    monitor.track_generation(31.0, True, prompt_token_count=4097, completion_token_count=4097)
    monitor.track_generation(1e3, True, conversation_length=3)
    alerting.check(PATIENCE)
    tokens = [f"high_token_usage:{kind}" for kind in ("prompt", "completion", "total")]
    assert inbox == ["high_generation_time", *tokens, "long_conversations"]


def test_threshold_arguments_are_used(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """A threshold argument is used, and all others keep their defaults."""
    thresholds = {"alert_min_success_rate": 0, "alert_max_error_rate": None}
    alerting = make(inbox.take, settings=AlertSettings().with_thresholds(thresholds))
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == ["high_error_rate"]


# --- periodically --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["given", "set", "appended"])
def test_rules_are_evaluated_periodically(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox, how: str
) -> None:
    """The rules are evaluated at every interval, however handlers were added."""
    alerting = make(*[inbox.take] * (how == "given"), interval=OFTEN)
    if how == "set":
        alerting.handlers = [inbox.take]
    elif how == "appended":
        alerting.handlers.append(inbox.take)
    monitor.track_generation(1.0, False)
    assert eventually(lambda: inbox == FAILED)


def test_periodic_evaluation_starts_with_the_first_event() -> None:
    """Without handlers the first event starts the evaluation; one thread serves several monitors."""
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


def test_handlers_start_the_evaluation_before_the_first_event(
    make: Callable[..., Alerting],
) -> None:
    """Counters of the process can fire for a monitor without events."""
    alerting = make(interval=PATIENCE)
    alerting.handlers = [broken]
    alerting.start()
    assert len(threads("genmeter-alerts")) == 1


@pytest.mark.parametrize("interval", [0, -1])
def test_no_interval_means_no_periodic_evaluation(
    make: Callable[..., Alerting], interval: float
) -> None:
    """With an interval of 0 or less only checks evaluate."""
    make(broken, interval=interval)
    assert not threads("genmeter-alerts")


def test_failing_evaluation_is_counted_and_repeated(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An internal error is logged once and ends neither the thread nor the job."""
    caplog.set_level(logging.CRITICAL, logger="genmeter")
    monkeypatch.setattr(monitor._session.history, "window", lambda rows, by, since: 1 // 0)
    make(broken, interval=OFTEN)
    assert eventually(lambda: monitor._pipeline.self_metrics.rejected.get("internal", 0) >= 3)


def test_system_exit_ends_only_one_evaluation(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A SystemExit is counted like other errors, and evaluations continue for all monitors."""
    failing, well = make(broken, interval=OFTEN), make(inbox.take, interval=OFTEN)

    def leave(*_: object, **__: object) -> None:
        raise SystemExit

    monkeypatch.setattr(failing._evaluator, "evaluate", leave)
    assert eventually(lambda: monitor._pipeline.self_metrics.rejected.get("internal", 0) >= 3)
    monitor.track_generation(1.0, False)
    assert eventually(lambda: set(inbox) >= {*FAILED})
    assert well.handlers == [inbox.take]


def test_checks_work_without_threads(
    monitor: IsolatedMonitor,
    make: Callable[..., Alerting],
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the system's limit of threads checks call the handlers themselves."""

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
        (line,) = logged(caplog)
        assert line.startswith("cannot start a thread for the periodic evaluation of alerts")
        assert not threads("genmeter-alerts")
    # Later events try again.
    assert eventually(
        lambda: monitor.track_generation(1.0, False) or threads("genmeter-alerts")  # type: ignore[func-returns-value]
    )


# --- the gauge of firing alerts ----------------------------------------------------------


def _provider(monitor: IsolatedMonitor) -> Any:
    (telemetry,) = monitor._runtime._external
    return telemetry


def firing(monitor: IsolatedMonitor) -> dict[str, float]:
    """Return the gauge of a scrape, by alert."""
    series = monitor.series(ALERTS_FIRING.prometheus)
    return {each.labels["genmeter_alert"]: each.value for each in series}


def test_scrape_shows_firing_alerts(monitor: IsolatedMonitor) -> None:
    """A scrape has the result of the last evaluation, also without handlers."""
    monitor.track_generation(1.0, False)
    monitor.check_alerts()
    found = firing(monitor)
    assert {name for name, count in found.items() if count} == {
        "GenerationErrorRateHigh",
        "GenerationSuccessRateLow",
    }
    assert set(found.values()) == {0, 1}
    evaluated = [rule for rule in AlertSettings().rules() if rule.condition.is_local]
    assert found.keys() == {rule.name for rule in evaluated}


def test_scrape_shows_the_periodic_evaluation_without_a_handler() -> None:
    """The gauge is correct if no code of the process uses alerts."""
    with isolated_monitor(metrics_interval=OFTEN) as made:
        made.track_generation(1.0, False)
        assert eventually(lambda: firing(made).get("GenerationErrorRateHigh") == 1)


def test_scrape_evaluates_no_alerts(clock: Clock, inbox: Inbox) -> None:
    """A read has no side effect: it finds no alert and calls no handler."""
    with isolated_monitor(alert_handlers=[inbox.take], metrics_interval=60) as made:
        made.track_generation(1.0, False)
        assert not any(firing(made).values())
        clock.now += 60
        assert not any(firing(made).values())
        made.check_alerts()
        assert inbox == FAILED
        before = firing(made)
        clock.now += 300  # the next evaluation resolves it
        assert firing(made) == before
        assert inbox.resolved == []
        made.check_alerts()
        assert inbox.resolved == FAILED
        assert not any(firing(made).values())


def test_scrape_does_not_wait_for_an_evaluation(monitor: IsolatedMonitor) -> None:
    """The gauge is read while another thread owns the drain."""
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


def test_gauge_counts_firing_groups(monitor: IsolatedMonitor) -> None:
    """Two slow models are two alerts of one name."""
    for model in ("m", "n"):
        monitor.track_generation(60.0, True, model_name=model)
    monitor.check_alerts()
    assert firing(monitor)["GenerationSlow"] == 2


@pytest.mark.parametrize("interval", [0, None])
def test_without_an_interval_the_gauge_shows_checks_only(interval: float | None) -> None:
    """Without a periodic evaluation the gauge has no samples before a check."""
    with isolated_monitor(metrics_interval=interval) as made:
        made.track_generation(1.0, False)
        assert firing(made) == {}
        made.check_alerts()
        assert firing(made)["GenerationErrorRateHigh"] == 1


def test_gauge_sums_all_open_monitors() -> None:
    """Monitors that are shut down are not included."""
    name = "GenerationErrorRateHigh"
    with isolated_monitor() as made:
        other = GenerationMonitor(config=MonitorConfig(meter_provider=_provider(made)))
        for each in (made, other):
            each.track_generation(1.0, False)
            each.check_alerts()
        assert firing(made)[name] == 2
        other.shutdown()
        assert firing(made)[name] == 1


def test_pending_alerts_neither_fire_nor_are_sent(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox, clock: Clock
) -> None:
    """They wait until their condition has been active long enough."""
    rate = AlertOverride(for_=120.0)
    settings = AlertSettings(alerts={"high_error_rate": rate, "low_success_rate": rate})
    alerting = make(inbox.take, settings=settings)
    monitor.track_generation(1.0, False)
    for expected in (0, 0, 2):
        alerting.check(PATIENCE)
        assert sum(alerting.firing().values()) == expected
        assert len(inbox) == expected
        clock.now += 60


def test_alerts_have_the_label_of_their_job(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """The label is the job of the monitor's provider."""
    seen: list[str] = []
    monitor._session.state.job = "nightly"
    alerting = make(lambda alert: seen.append(alert.labels["job"]))
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert seen == ["nightly"] * 2


def test_monitor_returns_its_alert_settings() -> None:
    """They are the config's, and threshold arguments win over them."""
    config = MonitorConfig(alerts=AlertSettings(objective=0.9))
    with isolated_monitor(config, alert_max_error_rate=0.5) as made:
        assert made.alert_settings == AlertSettings(
            objective=0.9, alerts={"high_error_rate": AlertOverride(threshold=0.5)}
        )


# --- the end ----------------------------------------------------------------------------------


def test_short_job_is_evaluated_at_its_end(inbox: Inbox) -> None:
    """The shutdown evaluates once more, so that failures of a short job are sent."""
    with isolated_monitor(alert_handlers=[inbox.take]) as made:
        made.track_generation(1.0, False)
        assert inbox == []
    assert inbox == FAILED


def test_last_scrape_shows_alerts_of_the_last_evaluation() -> None:
    """While the endpoint lingers, the gauge includes alerts found at the end."""
    with isolated_monitor() as monitor:
        assert not any(firing(monitor).values())
        monitor.track_generation(1.0, False)
        monitor._session.finish_close = lambda deadline: True  # the last scrape is before it
        monitor.shutdown()
        assert firing(monitor)["GenerationErrorRateHigh"] == 1
        monitor._alerting.stop(PATIENCE)


def test_handlers_threads_start_before_the_end(inbox: Inbox) -> None:
    """An interpreter that exits cannot start threads."""
    with isolated_monitor(alert_handlers=[inbox.take]):
        assert handler_threads()


@pytest.mark.parametrize("interval", [None, 0])
def test_shutdown_without_an_interval_does_not_evaluate(
    interval: float | None, inbox: Inbox
) -> None:
    """Without a periodic evaluation the shutdown does not evaluate either."""
    with isolated_monitor(alert_handlers=[inbox.take], metrics_interval=interval) as made:
        made.track_generation(1.0, False)
    assert inbox == []


def test_failing_last_evaluation_does_not_stop_the_shutdown(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is counted, and the monitor is closed."""
    with isolated_monitor(alert_handlers=[inbox.take]) as made:
        monkeypatch.setattr(made._alerting._evaluator, "evaluate", lambda *_, **__: 1 / 0)
        made.shutdown()
        assert made._pipeline.self_metrics.rejected["internal"] == 1
        assert made._session.state.is_closed


def test_stop_waits_for_queued_alerts(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """After ``stop`` the handlers have handled all alerts, and no thread is left."""
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


def test_stop_does_not_wait_for_a_blocked_handler(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], caplog: pytest.LogCaptureFixture
) -> None:
    """Alerts that are not handled in time are counted and logged."""
    blocked = Blocked()
    alerting = make(blocked)
    monitor.track_generation(1.0, False)
    alerting.check(0)
    assert blocked.begun.wait(PATIENCE)
    alerting.stop(0.05)
    blocked.gate.set()
    assert sum(monitor._pipeline.self_metrics.handler_errors.values()) == 2
    monitor._pipeline.deferred_log.flush()
    (line,) = logged(caplog)
    assert line.startswith("the alert handler Blocked had 2 alerts pending")


def test_handlers_are_not_called_after_the_timeout(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """Queued and later alerts are dropped and counted."""
    blocked = Blocked()
    alerting = make(blocked, repeat=0)
    monitor.track_generation(1.0, False)
    alerting.check(0)
    assert blocked.begun.wait(PATIENCE)
    worker = alerting._workers._by_id[id(blocked)]
    alerting.stop(0.05)
    # As a concurrent evaluation does, for known and new handlers.
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


def test_late_evaluation_after_stop_sends_nothing(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """An evaluation that the drain runs only after the end sends nothing."""
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


def test_check_after_shutdown_evaluates_and_sends(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """A check still works after the shutdown, and leaves no thread."""
    alerting = make(inbox.take, interval=OFTEN)
    alerting.stop(PATIENCE)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == FAILED
    assert eventually(lambda: not handler_threads())


def test_threads_end_with_a_collected_monitor(monitor: IsolatedMonitor, inbox: Inbox) -> None:
    """Threads do not keep the alerting alive, and end with it."""
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


def test_forked_child_starts_without_alerts(
    monitor: IsolatedMonitor, make: Callable[..., Alerting], inbox: Inbox
) -> None:
    """After a fork no alert fires and nothing is counted."""
    self_metrics = monitor._pipeline.self_metrics
    self_metrics.export_failures["otlp"] += 5
    alerting = make(inbox.take, interval=PATIENCE)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == FAILED
    self_metrics.reset()
    monitor._pipeline.epoch += 1  # as after a fork
    assert not any(alerting.firing().values())
    alerting.start()
    self_metrics.count_export_failure("otlp")
    alerting.check(PATIENCE)
    assert inbox == [*FAILED, *FAILED, "monitor_export_failing"]
    assert inbox.resolved == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
def test_forked_child_evaluates_periodically() -> None:
    """The shared thread belongs to the parent, so the child starts its own."""
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
