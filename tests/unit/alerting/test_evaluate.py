"""The conditions of the alerts, evaluated on a monitor's history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import genmeter.clock
from genmeter.alerting.evaluate import CounterDeltas, Evaluator, Finding
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.config.monitor import HistoryConfig, LabelLimits, MonitorConfig
from genmeter.config.prices import Price, PriceTable
from genmeter.events.answers import CallDetails
from genmeter.events.model import Reason
from genmeter.schema.alerts import ALERT_RULES
from genmeter.schema.metrics import EXPORT_FAILURES
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from genmeter.alerting.state import Alert
    from genmeter.testing import IsolatedMonitor

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
PRICES = PriceTable({"m": Price(1.0, 1.0)})
BUDGETS = AlertSettings(cost_budget=10.0, token_budget=1_000_000)

Record = Any  # a function that records to a job


class Job:
    """A monitor with a fake clock, and its active conditions."""

    def __init__(self, monitor: IsolatedMonitor) -> None:
        self.monitor = monitor
        self.now = 1_000_000.0

    def evaluate(self) -> list[Finding]:
        """Return all findings."""
        self.monitor.flush()
        alerting, session = self.monitor._alerting, self.monitor._session.state
        last_call = None if session.is_closed else session.last_call
        last_death = self.monitor._runtime.job.last_death
        return alerting._evaluator.evaluate(
            session.history, self.now, last_call=last_call, last_death=last_death
        )

    def active(self) -> list[str]:
        """Return the ids of the active rules."""
        return [each.rule.id for each in self.evaluate()]

    def groups(self, rule: str) -> list[tuple[str | None, ...]]:
        """Return the groups for which a rule is active."""
        return [each.group for each in self.evaluate() if each.rule.id == rule]

    def one(self, rule: str) -> Finding:
        """Return the only finding of a rule."""
        (found,) = [each for each in self.evaluate() if each.rule.id == rule]
        return found

    def calls(self, count: int, *, failed: int = 0, **keywords: Any) -> None:
        """Record calls, the failed ones first."""
        for number in range(count):
            self.monitor.track_generation(
                keywords.get("seconds", 1.0), number >= failed, **keywords
            )

    def scores(self, count: int, value: float, evaluator: str = "judge") -> None:
        """Record evaluations with a score."""
        for _ in range(count):
            self.monitor.track_evaluation(1.0, True, evaluator, {"coherence": value})


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Job]]:
    """Return a factory of jobs, by ``AlertSettings`` and arguments of the config."""
    made: list[Any] = []

    def make(settings: AlertSettings = BUDGETS, **config: Any) -> Job:
        blocks = isolated_monitor(
            MonitorConfig(alerts=settings, **{"prices": PRICES, **config}), metrics_interval=0
        )
        monkeypatch.setattr(genmeter.clock, "now", lambda: 1_000_000.0)
        job = Job(blocks.__enter__())
        made.append(blocks)
        monkeypatch.setattr(genmeter.clock, "now", lambda: job.now)
        return job

    yield make
    for blocks in made:
        blocks.__exit__(None, None, None)


def model(**keywords: Any) -> Record:
    """Record ten calls of the model m."""
    return lambda job: job.calls(10, model_name="m", **keywords)


def evaluations(failed: int) -> Record:
    """Record ten evaluations."""

    def record(job: Job) -> None:
        for number in range(10):
            job.monitor.track_evaluation(1.0, number >= failed, "judge", {})

    return record


def samples(rejected: int) -> Record:
    """Record twenty samples."""

    def record(job: Job) -> None:
        for number in range(20):
            job.monitor.record_sample(number >= rejected)

    return record


def limited(retries: int) -> Record:
    """Record ten calls, the first of which were retried after a rate limit."""

    def record(job: Job) -> None:
        for number in range(10):
            causes = ["rate_limited"] if number < retries else []
            job.monitor.track_generation(1.0, True, model_name="m", retries=causes)

    return record


def truncated(cut: int) -> Record:
    """Record ten completions, some of them truncated, with both finish reasons."""

    def record(job: Job) -> None:
        for number in range(10):
            reason = ("LENGTH", "max_tokens")[number % 2] if number < cut else "stop"
            job.monitor.track_generation(1.0, True, model_name="m", finish_reason=reason)

    return record


def unread(count: int) -> Record:
    """Record ten calls, the first of which have no usage, and a failed one, which needs none."""

    def record(job: Job) -> None:
        job.calls(count, model_name="m")
        job.calls(10 - count, model_name="m", total_token_count=5)
        job.calls(1, failed=1, model_name="n")

    return record


def dropped(by: float) -> Record:
    """Record scores that drop from 0.9; the mean of both hours is in the middle."""

    def record(job: Job) -> None:
        job.scores(20, 0.9)
        job.now += 2 * HOUR
        job.scores(20, 0.9 - 2 * by)

    return record


def spent(dollars: float) -> Record:
    """Record a call with a cost."""
    return lambda job: job.calls(1, model_name="m", prompt_token_count=round(dollars * 1e6))


def turns(number: int) -> Record:
    """Record a conversation."""
    return lambda job: job.monitor.track_generation(1.0, True, conversation_length=number)


def silence(seconds: float) -> Record:
    """Record a call, then nothing."""

    def record(job: Job) -> None:
        job.calls(1)
        job.now += seconds

    return record


def death(seconds: float) -> Record:
    """Have another process of the job die, and some time pass."""

    def record(job: Job) -> None:
        job.monitor._runtime.job.last_death = job.now
        job.now += seconds

    return record


PAST: dict[str, tuple[Record, Record, tuple[str | None, ...], float]] = {
    "low_success_rate": (model(failed=3), model(failed=2), (), 0.7),
    "high_generation_time": (model(seconds=30.1), model(seconds=30.0), ("m",), 30.1),
    "high_error_rate": (model(failed=3), model(failed=2), (), 0.3),
    "high_token_usage:prompt": (
        model(prompt_token_count=4_097),
        model(prompt_token_count=4_096),
        ("m",),
        4_097,
    ),
    "high_token_usage:completion": (
        model(completion_token_count=4_097),
        model(completion_token_count=4_096),
        ("m",),
        4_097,
    ),
    "high_token_usage:total": (
        model(total_token_count=8_193),
        model(total_token_count=8_192),
        ("m",),
        8_193,
    ),
    "long_conversations": (turns(3), turns(2), (), 3),
    "error_budget_burn:1h": (model(failed=2), model(failed=1), (), 0.2),
    "error_budget_burn:6h": (model(failed=1), model(), (), 0.1),
    "error_budget_burn:1d": (model(failed=1), model(), (), 0.1),
    "error_budget_burn:3d": (model(failed=1), model(), (), 0.1),
    "generation_stalled": (silence(901), silence(900), (), 901),
    "job_process_died": (death(599), death(600), (), 599),
    "rate_limited": (limited(2), limited(1), ("m",), 0.2),
    "samples_rejected": (samples(11), samples(10), (), 0.55),
    "generation_truncated": (truncated(2), truncated(1), ("m",), 0.2),
    "evaluation_score_drop": (dropped(0.11), dropped(0.09), ("coherence", "judge"), 0.11),
    "evaluation_failures": (evaluations(3), evaluations(2), ("judge",), 0.3),
    "cost_budget_burn:warning": (spent(8.01), spent(8.0), (), 8.01),
    "cost_budget_burn:critical": (spent(10.01), spent(10.0), (), 10.01),
    "token_budget_burn:warning": (spent(0.8001), spent(0.8), (), 800_100),
    "token_budget_burn:critical": (spent(1.0001), spent(1.0), (), 1_000_100),
    "model_unpriced": (
        lambda job: job.calls(1, model_name="n", total_token_count=5),
        lambda job: job.calls(1, model_name="n"),
        ("n",),
        1,
    ),
    "usage_unread": (unread(2), unread(1), ("m",), 0.2),
}
"""By rule: events past the threshold, events at the threshold, group and value."""

HEALTH = {rule.id for rule in ALERT_RULES if rule.id.startswith("monitor_")}


# --- each rule -------------------------------------------------------------------------------------


def test_every_local_rule_has_a_case() -> None:
    """Every new row needs a case."""
    local = {rule.id for rule in BUDGETS.rules() if rule.condition.is_local}
    assert local == PAST.keys() | HEALTH


@pytest.mark.parametrize("rule", PAST)
def test_conditions_are_active_past_their_threshold(make: Callable[..., Job], rule: str) -> None:
    """The finding has the group that passed the threshold, and its value."""
    record, _, group, value = PAST[rule]
    job = make()
    record(job)
    found = job.one(rule)
    assert found.group == group
    assert found.value == pytest.approx(value)
    assert found.rows >= 1
    tolerance = 1e-9 * found.max
    assert found.min - tolerance <= found.mean <= found.max + tolerance


@pytest.mark.parametrize("rule", PAST)
def test_conditions_are_inactive_at_their_threshold(make: Callable[..., Job], rule: str) -> None:
    """A value that equals the threshold, or is just within it, is good."""
    job = make()
    PAST[rule][1](job)
    assert rule not in job.active()


@pytest.mark.parametrize("rule", PAST)
def test_conditions_end_with_their_window(make: Callable[..., Job], rule: str) -> None:
    """Without data in the window no condition is active; a stall ends with a call."""
    job = make()
    PAST[rule][0](job)
    job.now += 4 * DAY
    if rule == "generation_stalled":
        assert job.active() == [rule]
        job.calls(1)
    assert rule not in job.active()


def test_no_condition_is_active_without_data(make: Callable[..., Job]) -> None:
    """Before the first call the success rate is not low, and the job is not stalled."""
    job = make()
    assert job.active() == []
    job.now += DAY
    assert job.active() == []


@pytest.mark.parametrize(
    ("rule", "override", "record"),
    [
        ("high_error_rate", AlertOverride(min_samples=11), model(failed=10)),
        ("high_generation_time", AlertOverride(min_samples=11), model(seconds=90)),
        ("samples_rejected", AlertOverride(min_samples=21), samples(20)),
        ("evaluation_score_drop", AlertOverride(min_samples=21), dropped(0.4)),
        ("error_budget_burn:1h", AlertOverride(min_samples=11), model(failed=10)),
        ("usage_unread", AlertOverride(min_samples=11), model()),
    ],
)
def test_conditions_need_their_minimum_of_samples(
    make: Callable[..., Job], rule: str, override: AlertOverride, record: Record
) -> None:
    """Below the minimum no condition is active, at the minimum it is."""
    job = make(AlertSettings(alerts={rule: override}))
    record(job)
    assert rule not in job.active()
    fewer = AlertOverride(min_samples=(override.min_samples or 0) - 1)
    job = make(AlertSettings(alerts={rule: fewer}))
    record(job)
    assert rule in job.active()


# --- groups and windows ----------------------------------------------------------------------------


def test_groups_are_evaluated_separately(make: Callable[..., Job]) -> None:
    """One slow model among good ones is found, with its own numbers."""
    job = make()
    job.calls(30, model_name="quick", seconds=0.1)
    job.calls(2, model_name="slow", seconds=40.0)
    job.calls(1, model_name="slow", seconds=46.0)
    found = job.one("high_generation_time")
    assert found[1:] == (("slow",), 42.0, 42.0, 3, 40.0, 46.0)


def test_findings_are_sorted_by_group(make: Callable[..., Job]) -> None:
    """The order does not depend on the history's."""
    job = make()
    for name in ("b", "c", "a"):
        job.calls(1, model_name=name, seconds=40.0)
    assert job.groups("high_generation_time") == [("a",), ("b",), ("c",)]


def test_scores_are_grouped_by_name_and_evaluator(make: Callable[..., Job]) -> None:
    """A lower score of another evaluator is not a drop."""
    job = make()
    job.scores(20, 0.9, "a")
    job.scores(20, 0.3, "b")
    job.now += 2 * HOUR
    job.scores(20, 0.3, "a")
    job.scores(20, 0.3, "b")
    assert job.groups("evaluation_score_drop") == [("coherence", "a")]


def test_score_drops_are_relative_to_the_scale(make: Callable[..., Job]) -> None:
    """Scores outside their scale are ignored."""
    job = make(score_scales={"coherence": (0.0, 10.0)})
    job.scores(20, 9.0)
    job.scores(20, 11.0)
    job.now += 2 * HOUR
    job.scores(20, 8.0)
    assert job.groups("evaluation_score_drop") == []
    job.scores(20, 2.0)
    fall = (9 + 8 + 2) / 30 - (8 + 2) / 20
    assert job.one("evaluation_score_drop").value == pytest.approx(fall)


def test_burns_need_both_windows(make: Callable[..., Job]) -> None:
    """The long window alone does not activate the burn of an error budget."""
    job = make()
    job.calls(20, failed=20)
    job.now += 10 * MINUTE
    assert "error_budget_burn:1h" not in job.active()  # no calls in the short window
    job.calls(5)
    assert "error_budget_burn:1h" not in job.active()  # good calls in the short window
    job.calls(5, failed=5)
    assert "error_budget_burn:1h" in job.active()


def test_only_model_calls_count(make: Callable[..., Job]) -> None:
    """Conversations and custom samples are ignored."""
    job = make()
    job.calls(4)
    for _ in range(4):
        job.monitor.track_generation(1.0, False, metadata={"operation": "conversation_generation"})
        job.monitor.record_metric("error_rate", 1.0)
    assert job.active() == []


def test_cancelled_calls_are_neither_successes_nor_failures(make: Callable[..., Job]) -> None:
    """Streams that the job leaves early change neither rate, and no budget of errors."""
    job = make()
    job.calls(10, failed=3, model_name="m", total_token_count=5)
    for _ in range(90):
        details = CallDetails(is_cancelled=True, first_chunk=0.1)
        job.monitor.record_call(1.0, False, {"model_name": "m", "total_token_count": 5}, details)
    found = {each.rule.id: each for each in job.evaluate()}
    assert found["high_error_rate"].value == pytest.approx(0.3)
    assert found["low_success_rate"].value == pytest.approx(0.7)
    assert found["error_budget_burn:1h"].rows == 10


@pytest.mark.parametrize(
    "reason",
    ["length", "MAX_TOKENS", "max_output_tokens", "model_length", "model_context_window_exceeded"],
)
def test_every_vendors_word_for_truncated_counts(make: Callable[..., Job], reason: str) -> None:
    """All five mean that the completion reached a limit, in any case."""
    job = make()
    job.calls(8, model_name="m", finish_reason="stop")
    job.calls(2, model_name="m", finish_reason=reason)
    assert job.one("generation_truncated").value == pytest.approx(0.2)


def test_one_call_without_usage_is_not_an_alert(make: Callable[..., Job]) -> None:
    """A single odd call of ten or of a thousand is within the threshold; all of few are not enough."""
    job = make()
    job.calls(9, model_name="few")
    job.calls(1, model_name="m")
    job.calls(9, model_name="m", total_token_count=5)
    assert job.groups("usage_unread") == []
    job.calls(1, model_name="few")
    assert job.groups("usage_unread") == [("few",)]


def test_tokens_of_failed_calls_count_for_successful_ones(make: Callable[..., Job]) -> None:
    """Without a successful call there is no number of tokens per successful call."""
    job = make()
    job.calls(2, failed=2, model_name="m", total_token_count=5_000)
    assert "high_token_usage:total" not in job.active()
    job.calls(1, model_name="m", total_token_count=5_000)
    assert job.one("high_token_usage:total").value == 15_000


def test_finished_jobs_do_not_stall(make: Callable[..., Job]) -> None:
    """After the shutdown no call is expected."""
    job = make()
    silence(DAY)(job)
    assert job.active() == ["generation_stalled"]
    job.monitor.shutdown()
    assert job.active() == []


def test_idle_monitors_do_not_stall_while_another_is_active(
    make: Callable[..., Job],
) -> None:
    """A job stalls only if the calls of all its monitors do."""
    job = make()
    silence(901)(job)
    instruments: Any = job.monitor._session.state.metrics
    assert job.active() == ["generation_stalled"]
    instruments._last["another monitor's"] = job.now - 60.0
    assert job.active() == []
    job.now += 900.0
    assert job.active() == ["generation_stalled"]


def test_conversations_do_not_end_a_stall(make: Callable[..., Job]) -> None:
    """Only model calls are progress, as in Prometheus."""
    job = make()
    silence(901)(job)
    turns(1)(job)
    assert job.active() == ["generation_stalled"]


# --- a history that is too small -------------------------------------------------------------------


def test_shares_are_consistent_in_a_small_history(make: Callable[..., Job]) -> None:
    """If the window is longer than the history, both sides of a share use the same calls."""
    job = make(history=HistoryConfig(capacity=50))
    keywords = {"retries": ["rate_limited"], "finish_reason": "stop", "total_token_count": 5}
    job.calls(5_000, model_name="m", **keywords)
    assert job.active() == ["rate_limited"]
    job.calls(2_000, failed=2_000)
    assert job.one("low_success_rate").value == pytest.approx(5 / 7)
    assert job.one("high_error_rate").value == pytest.approx(2 / 7)


def test_budgets_are_complete_in_a_small_history(make: Callable[..., Job]) -> None:
    """Spending and error budget use sums by minute for rows that were dropped."""
    job = make(history=HistoryConfig(capacity=50))
    job.calls(1_000, failed=500, model_name="m", total_token_count=1_001, prompt_token_count=9_000)
    job.now += HOUR / 2
    job.calls(200, failed=100, model_name="m")
    by_rule = {each.rule.id: each for each in job.evaluate()}
    assert by_rule["token_budget_burn:critical"].value == 1_001_000
    assert by_rule["error_budget_burn:1h"].value == 0.5
    assert by_rule["error_budget_burn:1h"].rows == 1_200
    assert by_rule["cost_budget_burn:warning"].value == pytest.approx(9.0)
    assert all(each.min <= each.mean <= each.max for each in by_rule.values())


# --- the monitor itself ----------------------------------------------------------------------------


def causes(job: Job) -> None:
    """Increment each of the monitor's own counters."""
    job.monitor.record_metric("x", float("nan"))
    for name in ("a", "b", "c"):
        job.calls(1, model_name=name)
    self_metrics = job.monitor._pipeline.self_metrics
    self_metrics.count_handler_error("Mine", "raised")
    self_metrics.count_handler_error("Mine", "queue_full", 2)
    self_metrics.count_export_failure("otlp")


FOUND = {
    "monitor_rejects_events": ((Reason.NOT_FINITE.value,), 1),
    "monitor_handler_failing": (("Mine",), 3),
    "monitor_label_overflow": (("models",), 1),
    "monitor_export_failing": (("otlp",), 1),
}


def test_the_monitors_own_counters_are_evaluated(make: Callable[..., Job]) -> None:
    """An increase within ten minutes is active, by its label, and then ends."""
    job = make(limits=LabelLimits(models=2))
    assert job.active() == []
    causes(job)
    found = {each.rule.id: (each.group, each.value) for each in job.evaluate()}
    assert found.items() >= FOUND.items()
    job.now += 9 * MINUTE
    assert job.active() == [*FOUND]
    job.now += MINUTE
    assert not HEALTH & set(job.active())
    causes(job)
    assert job.one("monitor_handler_failing").value == 3


def test_counts_before_the_monitor_are_ignored(make: Callable[..., Job]) -> None:
    """A later monitor of the process does not report the errors of an earlier one."""
    job = make(limits=LabelLimits(models=2))
    causes(job)
    late = Evaluator(BUDGETS.rules(), job.monitor._pipeline.self_metrics, job.now)
    session = job.monitor._session.state
    found = late.evaluate(session.history, job.now, last_call=None)
    assert not HEALTH & {each.rule.id for each in found}


def test_forked_child_evaluates_only_its_own_counts(make: Callable[..., Job]) -> None:
    """After a fork the counts start at 0, and later counts are an increase."""
    job = make(limits=LabelLimits(models=2))
    causes(job)
    assert set(job.active()) >= HEALTH
    job.monitor._pipeline.self_metrics.reset()
    job.monitor._alerting._evaluator.begin(job.now)
    assert not HEALTH & set(job.active())
    job.monitor._pipeline.self_metrics.count_export_failure("otlp")
    assert job.one("monitor_export_failing").value == 1


def test_stored_counts_are_bounded(make: Callable[..., Job]) -> None:
    """Frequent evaluations do not store more counts, and old ones are dropped."""
    self_metrics = make().monitor._pipeline.self_metrics
    deltas = CounterDeltas(self_metrics, [600.0], 0.0)
    for second in range(10_000):
        self_metrics.count_export_failure("otlp")
        deltas.sample(float(second))
    assert len(deltas._records) <= 60
    (grown,) = deltas.since(EXPORT_FAILURES, 9_999.0 - 600.0).values()
    assert grown == pytest.approx(600, abs=12)


def test_alerts_end_after_the_clock_was_set_back(make: Callable[..., Job]) -> None:
    """Counts from before the change are dropped after ten minutes too."""
    job = make()
    job.now += HOUR
    job.monitor._pipeline.self_metrics.count_export_failure("otlp")
    assert job.active() == ["monitor_export_failing"]
    job.now -= HOUR
    job.monitor._pipeline.self_metrics.count_export_failure("otlp")
    assert job.active() == ["monitor_export_failing"]
    job.now += 11 * MINUTE
    assert job.active() == []


def test_the_process_that_leads_its_job_reports_the_death_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its handlers get it, and its end ten minutes later."""
    now = 1_000_000.0
    monkeypatch.setattr(genmeter.clock, "now", lambda: now)
    found: list[Alert] = []
    with isolated_monitor(alert_handlers=[found.append], metrics_interval=0) as monitor:
        monitor._runtime.job.last_death = now - 20
        monitor.check_alerts()
        now += 580
        monitor.check_alerts()
    fired, resolved = found
    assert (fired.name, fired.status, fired.data["value"]) == ("job_process_died", "firing", 20)
    assert fired.annotations["summary"].endswith(": a process of the job died 20.0 s ago")
    assert (resolved.name, resolved.status) == ("job_process_died", "resolved")
