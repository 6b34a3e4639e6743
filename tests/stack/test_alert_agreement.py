"""Prometheus, by the rendered rules, and a monitor, by its history, find the same alerts.

A real monitor with a fake clock records random jobs. Its page is scraped every 15 seconds, and
promtool evaluates the rendered rules on these samples; counters and histograms start at 0 before the
first event. The monitor evaluates the same job at the same times. Firing alerts must have the same
labels every minute.

The margin: a monitor uses exactly the events of a window. Prometheus uses samples: events before the
first scrape in the window are not in their increase, which it extrapolates by up to window / (window
- 15 s), for each series separately, since a counter is not extrapolated below 0. So each sum is
bounded by three sums: over the window's events, over the events since the first scrape in it, and
the latter extrapolated. If an alert fires for all sums within these bounds, or for none, both must
agree; otherwise the comparison ignores the alert of that group.

Windows of more than an hour use recorded sums over five minutes, so the same margin holds for each
step, and a sum may have been recorded one evaluation ago. A monitor reads its own counters when it
evaluates, so their windows differ by the time between evaluations. A condition with a wait is checked
with both ends of the margin at every evaluation.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from _alert_agreement import disagreements, watch
from _alert_jobs import Calls, Evaluations, FailedExports, Job, Samples, jobs
from _alert_margin import Course
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.schema.alerts import ALERT_RULES

HOUR = 3_600.0
SHORT_COURSE = Course(end=1_500, scrape=15, evaluation=60, checks=60)
SHORT = AlertSettings(
    objective=0.95,
    cost_budget=0.5,
    token_budget=200_000,
    alerts={
        "error_budget_burn:1h": AlertOverride(threshold=8, windows=(480.0, 120.0)),
        "error_budget_burn:6h": AlertOverride(threshold=5, windows=(600.0, 240.0)),
        "error_budget_burn:1d": AlertOverride(windows=(900.0, 300.0)),
        "error_budget_burn:3d": AlertOverride(windows=(1_200.0, 600.0), for_=240.0),
        "generation_stalled": AlertOverride(windows=(300.0,)),
        "rate_limited": AlertOverride(for_=60.0),
        "samples_rejected": AlertOverride(windows=(600.0,), min_samples=10),
        "evaluation_score_drop": AlertOverride(windows=(300.0, 1_200.0), min_samples=5),
        "CostBudgetBurn": AlertOverride(windows=(600.0,)),
        "TokenBudgetBurn": AlertOverride(windows=(600.0,)),
        "model_unpriced": AlertOverride(windows=(600.0,)),
        "usage_unread": AlertOverride(windows=(600.0,)),
    },
)
"""Windows that fit into 25 minutes."""

LONG_COURSE = Course(end=43_200, scrape=30, evaluation=150, checks=1_800, slowness=29)
LONG = AlertSettings(
    objective=0.95,
    cost_budget=0.5,
    token_budget=200_000,
    alerts={
        **{
            rule.name: AlertOverride(enabled=False)
            for rule in ALERT_RULES
            if max(rule.condition.windows) <= 6 * HOUR
        },
        "GenerationErrorBudgetBurn": AlertOverride(for_=0.0),
        "error_budget_burn:1h": AlertOverride(enabled=False),
        "error_budget_burn:6h": AlertOverride(enabled=False),
        "error_budget_burn:1d": AlertOverride(windows=(7 * HOUR, HOUR)),
        "error_budget_burn:3d": AlertOverride(windows=(8 * HOUR, 7 * HOUR)),
        "evaluation_score_drop": AlertOverride(windows=(2 * HOUR, 7 * HOUR), min_samples=5),
        "CostBudgetBurn": AlertOverride(windows=(7 * HOUR,)),
        "TokenBudgetBurn": AlertOverride(windows=(7 * HOUR,)),
    },
)
"""Windows that use recorded sums, and fit into half a day."""

GOOD = Job(
    (
        (Calls(count=70, gap=20), Calls(model="birch", gap=20, turns=1)),
        (Evaluations(count=70, gap=20),),
        (Samples(count=70, gap=20),),
    )
)
BAD = Job(
    (
        (
            Calls(count=20, gap=10),
            Calls(
                count=60,
                gap=10,
                failing=2,
                seconds=90.0,
                prompt=20_000,
                completion=9_000,
                finish_reason="length",
                rate_limited=1,
                turns=5,
            ),
        ),
        (Calls(count=5, gap=10), Calls(model="birch"), Calls(model="cedar", seconds=None)),
        (Evaluations(count=30, gap=10), Evaluations(count=60, gap=5, scores=(("coherence", 0.1),))),
        (Evaluations(count=60, gap=10, evaluator="embedding", failing=2),),
        (Samples(count=80, gap=10, rejected=1),),
        (FailedExports(count=3, gap=10, pause=300),),
    )
)
UNPRICED = Job(((Calls(model="cedar", count=30, gap=20), Calls(count=1, pause=700)),))
UNREAD = Job(((Calls(model="birch", prompt=None, completion=None, count=60), Calls(pause=700)),))


@pytest.mark.parametrize(
    ("alerts", "course", "examples", "together"),
    [(SHORT, SHORT_COURSE, 8, 8), (LONG, LONG_COURSE, 3, 3)],
    ids=["windows of minutes", "windows of hours"],
)
def test_process_and_prometheus_agree_on_alerts_of_random_jobs(
    promtool: str, alerts: AlertSettings, course: Course, examples: int, together: int
) -> None:
    """The same alerts fire in the process and in Prometheus, outside of the margin."""
    settled: Counter[tuple[str, bool]] = Counter()

    @settings(deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(jobs, min_size=1, max_size=together))
    @example([GOOD, BAD, UNPRICED, UNREAD])
    def agree(batch: list[Job]) -> None:
        watched = [watch(job, alerts, course) for job in batch]
        with TemporaryDirectory() as folder:
            found = disagreements(promtool, Path(folder), watched, alerts)
        assert not found, found
        for job in watched:
            for verdict in job.verdicts:
                for rule, outcomes in verdict.settled.items():
                    settled.update((rule, fires) for fires in outcomes)

    agree()
    local = {rule.id for rule in alerts.rules() if rule.condition.is_local}
    missing = {(rule, fires) for rule in local for fires in (True, False)} - settled.keys()
    missing.discard(("job_process_died", True))  # tests/stack/_alert_causes.py kills a process
    assert not missing, f"never seen outside of the margin: {sorted(missing)}"
