"""When a monitor's alerts are evaluated: on request, periodically, and at the end."""

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
    threads,
    told,
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
    """What was told just before is judged, and every handler knows by the end of the check."""
    other = Inbox()
    alerting = make(inbox.take, other.take)
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert inbox == other == FAILED


def test_no_alert_before_the_first_event(make: Callable[..., Alerting], inbox: Inbox) -> None:
    """Defect 6: before the first call there is no success rate that is low."""
    make(inbox.take).check(PATIENCE)
    assert inbox == []


def test_alert_is_sent_once_and_resolved_after_its_window(
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


def test_every_kind_of_value_can_raise_its_alert(
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


# --- periodically --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["given", "set", "appended"])
def test_rules_are_evaluated_periodically(
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


def test_periodic_evaluation_starts_with_the_first_event() -> None:
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


def test_handlers_start_the_evaluation_before_the_first_event(
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


def test_failing_evaluation_is_counted_and_repeated(
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


def test_system_exit_costs_one_evaluation_only(
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


def test_checks_work_where_no_thread_can_be_started(
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
        assert line.startswith("cannot start a thread for the periodic evaluation of alerts")
        assert not threads("genmeter-alerts")
    # The events that come then try again.
    assert eventually(
        lambda: monitor.track_generation(1.0, False) or threads("genmeter-alerts")  # type: ignore[func-returns-value]
    )


# --- the gauge of firing alerts ----------------------------------------------------------


def _provider(monitor: IsolatedMonitor) -> Any:
    (telemetry,) = monitor._runtime._external
    return telemetry


def firing(monitor: IsolatedMonitor) -> dict[str, float]:
    """Give the gauge of a scrape, by alert."""
    series = monitor.series(ALERTS_FIRING.prometheus)
    return {each.labels["genmeter_alert"]: each.value for each in series}


def test_scrape_shows_firing_alerts(monitor: IsolatedMonitor) -> None:
    """Without a handler too, a scrape has what the last evaluation found; most alerts are at 0."""
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
def test_without_an_interval_the_gauge_shows_checks_only(interval: float | None) -> None:
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
    rate = AlertOverride(for_=120.0)
    settings = AlertSettings(alerts={"high_error_rate": rate, "low_success_rate": rate})
    alerting = make(inbox.take, settings=settings)
    monitor.track_generation(1.0, False)
    for expected in (0, 0, 2):
        alerting.check(PATIENCE)
        assert sum(alerting.firing().values()) == expected
        assert len(inbox) == expected
        clock.now += 60


def test_alert_has_the_label_of_its_job(
    monitor: IsolatedMonitor, make: Callable[..., Alerting]
) -> None:
    """The label is the job that the monitor's provider names."""
    seen: list[str] = []
    monitor._session.state.job = "nightly"
    alerting = make(lambda alert: seen.append(alert.labels["job"]))
    monitor.track_generation(1.0, False)
    alerting.check(PATIENCE)
    assert seen == ["nightly"] * 2


def test_monitor_returns_its_alert_settings() -> None:
    """They are the config's, and the old arguments win over them."""
    config = MonitorConfig(alerts=AlertSettings(objective=0.9))
    with isolated_monitor(config, alert_max_error_rate=0.5) as made:
        assert made.alert_settings == AlertSettings(
            objective=0.9, alerts={"high_error_rate": AlertOverride(threshold=0.5)}
        )


# --- the end ----------------------------------------------------------------------------------


def test_short_job_is_evaluated_at_its_end(inbox: Inbox) -> None:
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
def test_without_an_interval_the_end_evaluates_nothing(
    interval: float | None, inbox: Inbox
) -> None:
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


def test_stop_waits_for_queued_alerts(
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


def test_threads_end_with_a_collected_monitor(monitor: IsolatedMonitor, inbox: Inbox) -> None:
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


def test_forked_child_starts_without_alerts(
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
