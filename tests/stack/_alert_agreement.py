"""The same job judged twice: by the monitor itself, and by Prometheus on what it scraped of it."""

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
"""So that a job with three models has label values past their limit."""


@dataclass
class Watched:
    """A job as it was scraped, and as its monitor judged it.

    Attributes:
        course: When it was looked at.
        series: Of each series, by its text, the value of each scrape.
        verdicts: One for each evaluation of the monitor.
    """

    course: Course
    series: dict[str, dict[int, float]] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)


class Clock:
    """The time that calls are told at."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        """Tell the time."""
        return self.now


class FailsOnLong:
    """A handler that does not take a conversation of five turns."""

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Raise for some."""
        if metric_name == "conversation_length" and value >= 5:
            raise ValueError("too long for this handler")


def watch(job: Job, settings: AlertSettings, course: Course) -> Watched:
    """Run a job on a clock of its own, scrape it and have its monitor judge it."""
    clock = Clock()
    watched = Watched(course)
    heard: set[Labels] = set()

    def hear(alert: Alert) -> None:
        labels = frozenset((k, v) for k, v in alert.labels.items() if k != JOB)
        (heard.add if alert.status == "firing" else heard.discard)(labels)

    config = MonitorConfig(prices=PRICES, score_scales=SCALES, alerts=settings, limits=LIMITS)
    with (
        mock.patch.object(genmeter.clock, "now", clock.read),
        isolated_monitor(
            config,
            alert_handlers=[hear],
            metric_handlers=[FailsOnLong()],
            metrics_interval=0,
            shutdown_timeout=60,
        ) as monitor,
    ):
        margin = Margin(settings, monitor, course)
        waiting = deque(job.events(course.end, course.slowness))
        page: dict[str, float] = {}
        for time in range(0, course.end + 1, course.scrape):
            is_news = not page
            while waiting and waiting[0][0] <= time:
                clock.now, phase, number = waiting.popleft()
                phase.tell(monitor, number)
                is_news = True
            clock.now = time
            if is_news:
                monitor.flush()
                page = _samples(monitor.page())
            for series, value in page.items():
                watched.series.setdefault(series, {})[time // course.scrape] = value
            margin.scraped(page)
            if time % course.judged == 0:
                monitor.check_alerts()
                watched.verdicts.append(margin.judge(time, frozenset(heard)))
    return watched


def disagreements(
    promtool: str, folder: Path, watched: Sequence[Watched], settings: AlertSettings
) -> str:
    """Have Prometheus judge jobs by the rendered rules.

    Args:
        promtool: The program.
        folder: Where files are written.
        watched: The jobs.
        settings: The alerts.

    Returns:
        Where it finds another than the jobs' monitors did, outside of the margin; else nothing.
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
    # Counters and histograms begin at 0 before anything happens; a gauge is absent until it is.
    last = job.course.end // job.course.scrape
    rows = [{"series": f'up{{job="{name}"}}', "values": f"1x{last}"}]
    for series, values in job.series.items():
        first = min(values)
        adds_up = re.match(r"\w+_(total|sum|count)\b", series) is not None
        before = ["0" if adds_up else "_"] * first
        told = [f"{values[number]!r}" for number in range(first, last + 1)]
        labelled = series.replace("{", f'{{job="{name}",', 1)
        if "{" not in series:
            labelled = f'{series}{{job="{name}"}}'
        rows.append({"series": labelled, "values": " ".join([*before, *told])})
    return rows


def _outside(job: str, is_open: frozenset[Labels]) -> str:
    """Write a query for the alerts of a job that fire, without some."""
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
    """Read the samples of a page by their series, without buckets and times of creation."""
    found = {}
    for line in page.splitlines():
        series, _, value = line.rpartition(" ")
        if not line.startswith("#") and not re.match(r"\w+_(bucket|created)\b", series):
            found[series] = float(value)
    return found
