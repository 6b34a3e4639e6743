"""A Prometheus that stores a zero at each created timestamp counts every event of a job.

It needs ``--enable-feature=created-timestamp-zero-ingestion`` and the `_created` samples of
OpenMetrics.

``increase()`` usually extrapolates to both ends of its range. Here it must be exactly the total:
the range ends at the time of the last sample (``@``), and Prometheus does not extrapolate before a
sample of zero, since a counter is never negative.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from _servers import request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _prometheus import Prometheus

JOB = Path(__file__).with_name("_created_job.py")
STORM = 8.0  # seconds of recording by threads, with a scrape every second
PATIENCE = 60.0
ENDS = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
# Observable counters of the monitor itself; their series start late too.
OBSERVED = (
    "genmeter_monitor_events_total",
    "genmeter_monitor_handler_errors_total",
    "genmeter_monitor_label_overflow_total",
)


class Job:
    """A running job in another process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = self._read_line()

    def run(self, command: str) -> dict[str, float]:
        """Send a command and return the totals after it by counter name."""
        self.send(command)
        totals: dict[str, float] = json.loads(self._read_line())
        return totals

    def send(self, command: str) -> None:
        """Send a command without waiting for a response."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def finish(self) -> None:
        """Wait until the job exits with code 0."""
        self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0

    def page(self) -> str:
        """Return the current page."""
        status, body = request("GET", self.url, headers=OPENMETRICS)
        assert status == 200, body
        return body

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the job exited early"
        return line.strip()


class Stored(NamedTuple):
    """A job's samples in Prometheus.

    Attributes:
        end: The time of the last scrape in PromQL's format.
        last: The last value of each series by name, then by labels.
    """

    end: str
    last: dict[str, dict[frozenset[tuple[str, str]], float]]

    def total(self, name: str) -> float:
        """Return the sum of a counter's series."""
        return sum(self.last[name].values())


@contextmanager
def running_job() -> Iterator[Job]:
    """Run a job, and kill it at the end of the test."""
    process = subprocess.Popen(
        [sys.executable, JOB], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Job(process)
    finally:
        process.kill()
        process.communicate()


def scrape(prometheus: Prometheus, job: Job, name: str, interval: str = "1s") -> None:
    """Add a scrape job for a job, with the negotiated format."""
    target = job.url.removeprefix("http://").removesuffix("/metrics")
    prometheus.add_job(
        {
            "job_name": name,
            "scrape_interval": interval,
            "scrape_timeout": "1s",
            "static_configs": [{"targets": [target], "labels": {"run": name}}],
        }
    )


def wait_for_scrapes(prometheus: Prometheus, name: str, count: int) -> None:
    """Wait until `count` scrapes of a job are stored."""
    query = f'sum_over_time(up{{run="{name}"}}[1h])'
    prometheus.wait_for(query, lambda up: [s.value >= count for s in up] == [True], PATIENCE)


def stored(prometheus: Prometheus, name: str) -> Stored:
    """Return the samples of a job's last scrape."""
    # A range vector has all stored samples with their own timestamps.
    found = prometheus._api("query", query=f'{{run="{name}"}}[1h]')["result"]
    end = max(
        series["values"][-1][0]
        for series in found
        if series["metric"]["__name__"] == "genmeter_build_info"
    )
    last: dict[str, dict[frozenset[tuple[str, str]], float]] = defaultdict(dict)
    for series in found:
        labels = dict(series["metric"])
        series_name = labels.pop("__name__")
        values = [float(value) for at, value in series["values"] if at == end]
        if values:
            last[series_name][frozenset(labels.items())] = values[0]
    return Stored(f"{end:.3f}", last)


def counters(page: str) -> set[str]:
    """Return the names of a page's monotonic samples."""
    types = re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE)
    return {family + end for family, kind in types for end in ENDS.get(kind, ())}


def check_all(prometheus: Prometheus, name: str, names: set[str]) -> Stored:
    """Assert that no counter of a job was reset, and that each increased by its total."""
    seen = stored(prometheus, name)
    for counter in sorted(names):
        series = f'{counter}{{run="{name}"}}[1h] @ {seen.end}'
        expected = seen.last[counter]
        assert expected, f"no series of {counter} stored"
        resets = {
            frozenset(s.labels.items()): s.value for s in prometheus.query(f"resets({series})")
        }
        assert resets == dict.fromkeys(expected, 0.0), counter
        increases = prometheus.query(f"increase({series})")
        found = {frozenset(s.labels.items()): s.value for s in increases}
        assert found == pytest.approx(expected, rel=1e-9), counter
    return seen


def check_totals(seen: Stored, totals: dict[str, float]) -> None:
    """Assert that Prometheus has the job's own totals."""
    assert {counter: seen.total(counter) for counter in totals} == totals


@pytest.fixture(params=["prometheus_from_zero", "newest_from_zero"])
def from_zero(request: pytest.FixtureRequest) -> Prometheus:
    """Return the oldest supported Prometheus and the newest, each with the feature."""
    server: Prometheus = request.getfixturevalue(request.param)
    return server


def test_two_scrapes_count_every_event_of_a_job(from_zero: Prometheus) -> None:
    """Two scrapes count all events of a short job, also of series that start between them."""
    name = "two-scrapes"
    with running_job() as job:
        job.run("batch")
        scrape(from_zero, job, name, "3s")
        wait_for_scrapes(from_zero, name, 1)
        totals = job.run("batch")
        names = counters(job.page()) | set(OBSERVED[:2])
        job.send("end")
        job.finish()
    seen = check_all(from_zero, name, names)
    check_totals(seen, totals)
    assert from_zero.value(f'sum_over_time(up{{run="{name}"}}[1h] @ {seen.end})') == 2


def test_series_that_start_during_scrapes_count_from_zero(
    from_zero: Prometheus,
) -> None:
    """No event is lost and no counter reset while threads keep starting new series."""
    name = "storm"
    with running_job() as job:
        job.run("batch")
        scrape(from_zero, job, name)
        job.run("start")
        wait_for_scrapes(from_zero, name, int(STORM))
        totals = job.run("stop")
        names = counters(job.page())
        last = f'{{__name__="genmeter_generations_total",run="{name}"}}'
        from_zero.wait_for(
            f"sum({last})",
            lambda found: [s.value for s in found] == [totals["genmeter_generations_total"]],
            PATIENCE,
        )
        seen = check_all(from_zero, name, names)
        check_totals(seen, totals)
        assert names.issuperset(OBSERVED)


def test_events_before_the_first_scrape_are_lost_without_the_feature(
    prometheus: Prometheus,
) -> None:
    """Without the feature a series with one scrape has no increase."""
    name = "from-first-sight"
    with running_job() as job:
        job.run("batch")
        scrape(prometheus, job, name, "3s")
        wait_for_scrapes(prometheus, name, 1)
        job.run("batch")
        job.send("end")
        job.finish()
    seen = stored(prometheus, name)
    increase = (
        f'increase(genmeter_generations_total{{run="{name}",'
        f'gen_ai_request_model="model-%d"}}[1h] @ {seen.end})'
    )
    assert {s.value for s in prometheus.query(increase % 0)} == {0}
    assert prometheus.query(increase % 1) == []
    assert seen.total("genmeter_generations_total") > 0
