"""The README's query for tokens, on a real Prometheus: exact for jobs that ended or were short."""

from __future__ import annotations

import re
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from _prometheus import Prometheus
from _servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MINUTE = 60
SCRAPE = 15  # seconds
NOW = int(time.time()) // 7_200 * 7_200 - 24 * 3_600
"""The time of the query, in the past, so that all samples are in blocks."""


class Life(NamedTuple):
    """A job's counter as Prometheus scraped it: a straight line between two values.

    Attributes:
        begin: Seconds before NOW of the first scrape.
        end: Seconds before NOW of the last one.
        first: Its value at the first scrape.
        last: Its value at the last one.
    """

    begin: int
    end: int
    first: int
    last: int

    def samples(self) -> Iterator[tuple[int, float]]:
        """Yield time and value of each scrape."""
        for before in range(self.begin, self.end - 1, -SCRAPE):
            part = (self.begin - before) / max(1, self.begin - self.end)
            yield NOW - before, self.first + part * (self.last - self.first)


JOBS: dict[str, tuple[list[Life], float]] = {
    "began and ended in the hour": ([Life(40 * MINUTE, 20 * MINUTE, 700, 12_345)], 12_345),
    "two scrapes": ([Life(30 * MINUTE, 30 * MINUTE - SCRAPE, 300, 500)], 500),
    "one scrape": ([Life(10 * MINUTE, 10 * MINUTE, 42, 42)], 42),
    "runs since two hours": ([Life(120 * MINUTE, 0, 0, 50_000)], 25_000),
    "ended in the hour": ([Life(120 * MINUTE, 40 * MINUTE, 0, 8_000)], 2_000),
    "ended at the last scrape": ([Life(20 * MINUTE, 0, 10, 1_000)], 1_000),
    "idle": ([Life(90 * MINUTE, 0, 77, 77)], 0),
}
ENDED = {"ended before the hour": [Life(120 * MINUTE, 62 * MINUTE, 0, 9_000)]}
RESTARTED = {
    "restarted": [
        Life(50 * MINUTE, 30 * MINUTE, 100, 10_000),
        Life(29 * MINUTE, 10 * MINUTE, 100, 4_000),
    ]
}


@pytest.fixture(scope="module")
def prometheus_of_jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Run a Prometheus that has scraped the jobs."""
    folder = tmp_path_factory.mktemp("readme-queries")
    _write_blocks(folder)
    with Prometheus(folder) as server:
        yield server


def _write_blocks(folder: Path) -> None:
    lines = ["# TYPE genmeter_tokens counter"]
    lives = {name: each for name, (each, _) in JOBS.items()} | ENDED | RESTARTED
    for name, each in lives.items():
        labels = f'gen_ai_request_model="{name}",genmeter_phase="generation",instance="{name}"'
        lines += [
            f"genmeter_tokens_total{{{labels}}} {value} {when}"
            for life in each
            for when, value in life.samples()
        ]
    file = folder / "samples.txt"
    file.write_text("\n".join([*lines, "# EOF", ""]))
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", file, folder / "data"]
    subprocess.run(command, check=True, capture_output=True)


def _query() -> str:
    found = re.search(r"```promql\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found
    return found[1]


def _values(server: Prometheus, query: str) -> dict[str, float]:
    return {
        sample.labels["gen_ai_request_model"]: sample.value
        for sample in server.query(query, at=NOW)
    }


@pytest.mark.parametrize("name", JOBS)
def test_the_tokens_of_the_hour_are_exact(prometheus_of_jobs: Prometheus, name: str) -> None:
    """Whenever the job began and ended, and however short it was."""
    assert _values(prometheus_of_jobs, _query())[name] == pytest.approx(JOBS[name][1], abs=0.01)


def test_a_job_before_the_hour_has_no_tokens_in_it(prometheus_of_jobs: Prometheus) -> None:
    """A job that ended before the window is absent."""
    assert not ENDED.keys() & _values(prometheus_of_jobs, _query()).keys()


def test_a_restarted_job_is_estimated(prometheus_of_jobs: Prometheus) -> None:
    """Both lives are counted, as well as Prometheus can."""
    (name,) = RESTARTED
    assert _values(prometheus_of_jobs, _query())[name] == pytest.approx(14_000, rel=0.05)


def test_increase_alone_is_not_exact(prometheus_of_jobs: Prometheus) -> None:
    """It was the README's query: wrong for most of these jobs, and blind for one."""
    old = 'sum by (gen_ai_request_model) (increase(genmeter_tokens_total{genmeter_phase!=""}[1h]))'
    values = _values(prometheus_of_jobs, old)
    wrong = [name for name, (_, used) in JOBS.items() if abs(values.get(name, 0) - used) > 0.01]
    assert {"began and ended in the hour", "two scrapes", "one scrape"} <= set(wrong)
