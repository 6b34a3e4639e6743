"""The demo, scraped by Prometheus while it runs and at its end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from _servers import poll, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from _prometheus import Prometheus

GENMETER = (sys.executable, "-c", "import sys; from genmeter.cli import main; sys.exit(main())")
# Columns of the report, by their counters.
COLUMNS = {
    "gen_ai_client_inference_usage_input_tokens_total": "prompt",
    "gen_ai_client_inference_usage_output_tokens_total": "completion",
    "genmeter_tokens_total": "total",
}


class Demo:
    """A running demo, on any free port and without variables.

    Args:
        folder: The folder of its standard error.
        arguments: Further arguments.

    Attributes:
        process: Its process.
        url: The address of its metrics.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OTEL_", "GENMETER_"))
        }
        self._errors = folder / "stderr"
        with self._errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*GENMETER, "demo", "--port", "0", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                text=True,
            )
        self._lines: list[str] = []
        self.url = self.read_to("metrics: ").removeprefix("metrics: ")

    def read_to(self, start: str) -> str:
        """Read the output up to a line with this start."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line.rstrip("\n"))
            if line.startswith(start):
                return line.strip()
        pytest.fail(f"no line starts with {start!r}: {self._lines}, {self._errors.read_text()}")

    def report(self) -> dict[str, dict[str, int]]:
        """Read the final report: tokens by column and model, including `total`."""
        self.read_to("waiting")
        begin = next(n for n, line in enumerate(self._lines) if line.startswith("model "))
        titles = re.split(r" {2,}", self._lines[begin])[1:]
        end = (
            next(n for n in range(begin, len(self._lines)) if self._lines[n].startswith("total"))
            + 1
        )
        rows = [re.split(r" {2,}", line) for line in self._lines[begin:end] if line[0] != "-"]
        return {
            title: {row[0]: int(row[n].replace(",", "")) for row in rows[1:]}
            for n, title in enumerate(titles, start=1)
        }

    def finish(self) -> None:
        """Wait for the end, after a scrape."""
        assert self.process.wait(60) == 0
        assert self._errors.read_text() == ""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """Starts demos, and kills them at the end."""
    demos: list[Demo] = []

    def start(*arguments: str) -> Demo:
        demos.append(Demo(tmp_path, *arguments))
        return demos[-1]

    yield start
    for demo in demos:
        demo.process.kill()
        demo.process.communicate()


@pytest.mark.parametrize("protocol", ["text", "openmetrics"])
def test_prometheus_equals_the_report_of_the_demo(
    prometheus: Prometheus, start: Callable[..., Demo], protocol: str
) -> None:
    """Scraped input, output and total tokens by model equal the report."""
    run = f"demo-{protocol}"
    demo = start("--duration", "12", "--rate", "200", "--seed", "1", "--linger", "60")
    instance = prometheus.add_target(demo.url, protocol, run=run)
    prometheus.wait_for(f'genmeter_tokens_total{{run="{run}"}}', lambda found: len(found) > 4)

    def target() -> tuple[str, str]:
        found = next(each for each in prometheus.targets() if each["labels"].get("run") == run)
        return found["health"], found["lastError"]

    healthy, state = poll(target, lambda state: state == ("up", ""), 10)
    assert healthy, state
    report = demo.report()
    demo.finish()

    finished = f'last_over_time(genmeter_job_finished{{run="{run}"}}[5m])'
    prometheus.wait_for(finished, lambda found: [sample.value for sample in found] == [1])
    prometheus.remove_target(instance)
    for name, column in COLUMNS.items():
        expected = report[column].copy()
        total = expected.pop("total")
        last = f'last_over_time({name}{{run="{run}", genmeter_phase!=""}}[5m])'
        samples = prometheus.query(f"sum by (gen_ai_request_model) ({last})")
        assert {s.labels["gen_ai_request_model"]: s.value for s in samples} == expected
        assert prometheus.value(f"sum({last})") == total == sum(expected.values())
    assert len(expected) == 5
    assert total > 1_000_000


def test_promtool_accepts_the_page_of_the_demo(promtool: str, start: Callable[..., Demo]) -> None:
    """Names, types, units and help are correct."""
    demo = start("--duration", "8", "--rate", "300", "--linger", "60")

    def page() -> str:
        status, body = request("GET", demo.url)
        assert status == 200
        return body

    wanted = ("genmeter_samples_total{", "genmeter_retries_total{", "genmeter_cost_usd_total{")
    whole, body = poll(page, lambda text: all(name in text for name in wanted), 30)
    assert whole, body
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=body,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, checked.stdout) == (0, "")
    demo.read_to("waiting")
    # The wait begins just after its message; an earlier scrape does not end it.
    gone, _ = poll(lambda: is_gone(demo.url), bool, 30)
    assert gone
    demo.finish()


def is_gone(url: str) -> bool:
    """Scrape; return whether the endpoint is closed."""
    try:
        request("GET", url)
    except OSError:
        return True
    return False
