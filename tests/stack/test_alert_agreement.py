"""Prometheus, by the rendered rules, and a monitor, by its history, find the same alerts.

Jobs are drawn at random and told to a real monitor. Its page is scraped every 15 seconds of a clock
of the test's own, and promtool evaluates the rendered file on these samples, of which counters and
histograms begin at 0 before the first event. The monitor judges the same job at the same times.
What fires must have the same labels, the severity among them, every minute.

The margin. A monitor looks at exactly the events of a window. Prometheus looks at samples: what
happened before the first scrape within the window is not in their increase, and it stretches that
increase by as much as the samples do not span, up to window / (window - 15 s), for each series on
its own, since a counter is not stretched to below 0. So each sum that an alert is made of is one of
three at the least or the most: that of the window's events, that of the events since the first
scrape in it, and the latter stretched. Where an alert fires for all sums within these bounds, or
for none, there is nothing to choose; where some decide it otherwise than others, the alert of that
group is left out of that comparison.

Windows of more than six hours are added up from recorded sums over five minutes, so the same holds
of each of the five minutes, and the sums may have been recorded an evaluation ago. Of what a monitor
counts of itself it knows only what the totals were when it evaluated, so there the windows differ
by the time between evaluations. A condition that must hold for a time is judged by both ends of the
margin at every evaluation.
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
SHORT_COURSE = Course(end=1_500, scrape=15, evaluation=60, judged=60)
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
    },
)
"""Windows that fit into 25 minutes."""

LONG_COURSE = Course(end=43_200, scrape=30, evaluation=150, judged=1_800, slowness=29)
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
"""Windows that are added up of shorter ones, and fit into half a day."""

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


@pytest.mark.parametrize(
    ("alerts", "course", "examples", "together"),
    [(SHORT, SHORT_COURSE, 8, 8), (LONG, LONG_COURSE, 3, 3)],
    ids=["windows of minutes", "windows of hours"],
)
def test_random_jobs_raise_the_same_alerts_in_prometheus_and_in_process(
    promtool: str, alerts: AlertSettings, course: Course, examples: int, together: int
) -> None:
    """What fires in process fires in Prometheus, and nothing else does, outside of the margin."""
    settled: Counter[tuple[str, bool]] = Counter()

    @settings(deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(jobs, min_size=1, max_size=together))
    @example([GOOD, BAD, UNPRICED])
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
    judged = {rule.id for rule in alerts.rules() if rule.condition.is_local}
    missing = {(rule, fires) for rule in judged for fires in (True, False)} - settled.keys()
    assert not missing, f"never seen outside of the margin: {sorted(missing)}"
