"""Evaluates a job twice: by the monitor itself, and by Prometheus on its scrapes."""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

from _alert_jobs import PRICES, SCALES
from _alert_margin import Course, Labels, Margin, Verdict
from _servers import run

import genmeter.clock
from genmeter.config.monitor import LabelLimits, MonitorConfig
from genmeter.render.rules import render_rules
from genmeter.schema.query import JOB
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from _alert_jobs import Job

    from genmeter.alerting.state import Alert
    from genmeter.config.alerts import AlertSettings

LIMITS = LabelLimits(models=2)
"""A job with three models exceeds this limit."""


@dataclass
class Watched:
    """The scrapes of a job, and the evaluations of its monitor.

    Attributes:
        course: The times of scrapes and evaluations.
        series: The value at each scrape, by the text of the series.
        verdicts: One for each evaluation of the monitor.
    """

    course: Course
    series: dict[str, dict[int, float]] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)


class Clock:
    """A clock for the monitor."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        """Return the time."""
        return self.now


class FailsOnLong:
    """A handler that raises for conversations of five turns."""

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Raise for long conversations."""
        if metric_name == "conversation_length" and value >= 5:
            raise ValueError("too long for this handler")


def watch(job: Job, settings: AlertSettings, course: Course) -> Watched:
    """Run a job with a fake clock, scrape it, and evaluate its alerts in the monitor."""
    clock = Clock()
    watched = Watched(course)
    firing: set[Labels] = set()

    def receive(alert: Alert) -> None:
        labels = frozenset((k, v) for k, v in alert.labels.items() if k != JOB)
        (firing.add if alert.status == "firing" else firing.discard)(labels)

    config = MonitorConfig(prices=PRICES, score_scales=SCALES, alerts=settings, limits=LIMITS)
    with (
        mock.patch.object(genmeter.clock, "now", clock.read),
        isolated_monitor(
            config,
            alert_handlers=[receive],
            metric_handlers=[FailsOnLong()],
            metrics_interval=0,
            shutdown_timeout=60,
        ) as monitor,
    ):
        margin = Margin(settings, monitor, course)
        pending = deque(job.events(course.end, course.slowness))
        page: dict[str, float] = {}
        for time in range(0, course.end + 1, course.scrape):
            is_stale = not page
            while pending and pending[0][0] <= time:
                clock.now, phase, number = pending.popleft()
                phase.record(monitor, number)
                is_stale = True
            clock.now = time
            if is_stale:
                monitor.flush()
                page = _samples(monitor.page())
            for series, value in page.items():
                watched.series.setdefault(series, {})[time // course.scrape] = value
            margin.scraped(page)
            if time % course.checks == 0:
                monitor.check_alerts()
                watched.verdicts.append(margin.evaluate(time, frozenset(firing)))
    return watched


def disagreements(
    promtool: str, folder: Path, watched: Sequence[Watched], settings: AlertSettings
) -> str:
    """Evaluate jobs in Prometheus by the rendered rules.

    Args:
        promtool: The program.
        folder: A folder for files.
        watched: The jobs.
        settings: The alerts.

    Returns:
        The differences from the jobs' monitors, outside of the margin; empty if there are none.
    """
    course = watched[0].course
    (folder / "rules.yml").write_text(render_rules(settings))
    test = {
        "interval": f"{course.scrape}s",
        "input_series": [
            each for number, job in enumerate(watched) for each in _input(job, f"job{number}")
        ],
        "promql_expr_test": [
            {
                "expr": _outside(f"job{number}", verdict.is_open),
                "eval_time": f"{verdict.at:g}s",
                "exp_samples": [
                    {"labels": _alerts(f"job{number}", labels), "value": 1}
                    for labels in verdict.firing - verdict.is_open
                ],
            }
            for number, job in enumerate(watched)
            for verdict in job.verdicts
        ],
    }
    # JSON is YAML too.
    file = folder / "agreement.yml"
    file.write_text(
        json.dumps(
            {
                "rule_files": ["rules.yml"],
                "evaluation_interval": f"{course.evaluation}s",
                "fuzzy_compare": True,
                "tests": [test],
            }
        )
    )
    found = run(promtool, "test", "rules", file)
    return "" if found.returncode == 0 else found.stdout


def _input(job: Watched, name: str) -> list[dict[str, str]]:
    # Counters and histograms start at 0 before the first event; gauges are absent before it.
    last = job.course.end // job.course.scrape
    rows = [{"series": f'up{{job="{name}"}}', "values": f"1x{last}"}]
    for series, values in job.series.items():
        first = min(values)
        adds_up = re.match(r"\w+_(total|sum|count)\b", series) is not None
        before = ["0" if adds_up else "_"] * first
        values_ = [f"{values[number]!r}" for number in range(first, last + 1)]
        labelled = series.replace("{", f'{{job="{name}",', 1)
        if "{" not in series:
            labelled = f'{series}{{job="{name}"}}'
        rows.append({"series": labelled, "values": " ".join([*before, *values_])})
    return rows


def _outside(job: str, is_open: frozenset[Labels]) -> str:
    """Return a query of the firing alerts of a job, except for some."""
    query = f'ALERTS{{alertstate="firing",job="{job}"}}'
    for labels in sorted(is_open, key=sorted):
        matchers = ",".join(f'{name}="{value}"' for name, value in sorted(labels))
        query += f' unless ALERTS{{job="{job}",{matchers}}}'
    return query


def _alerts(job: str, labels: Labels) -> str:
    pairs = {**dict(labels), "alertstate": "firing", JOB: job}
    inner = ",".join(f'{name}="{value}"' for name, value in sorted(pairs.items()))
    return f"ALERTS{{{inner}}}"


def _samples(page: str) -> dict[str, float]:
    """Return the samples of a page by series, without buckets and creation times."""
    found = {}
    for line in page.splitlines():
        series, _, value = line.rpartition(" ")
        if not line.startswith("#") and not re.match(r"\w+_(bucket|created)\b", series):
            found[series] = float(value)
    return found
