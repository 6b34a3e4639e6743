"""A real AfterImage job with genmeter's monitor in place of AfterImage's.

The job runs in its own process, with its own model server on loopback, and lingers until its final
values are scraped. The monitors' tokens are compared with the server's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _prometheus import Prometheus

pytestmark = pytest.mark.example

EXAMPLES = Path(__file__).parents[2] / "examples"

GENERATING = ("chat-large", "rows-small")
JUDGE = "judge-mini"

# Runs a script like `python SCRIPT`, and ends the process if it leaves loopback.
LOOPBACK_ONLY = """
import os, runpy, sys

def watch(event, args):
    if event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
        host = args[1][0]
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    if host not in ("127.0.0.1", "localhost", "::1", b"127.0.0.1", None):
        os.write(2, f"left loopback: {event} {args}".encode())
        os._exit(97)

sys.addaudithook(watch)
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass
class Job:
    """A running job; the context manager ends its process.

    Attributes:
        process: its process.
        errors: the file of its standard error.
    """

    process: subprocess.Popen[str]
    errors: Path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.communicate()

    def endpoint(self) -> str:
        """Return the address of the metrics page, once it is bound."""
        return self._line("metrics: ").removeprefix("metrics: ")

    def result(self) -> dict[str, Any]:
        """Return the JSON result at the end of the job; the endpoint may linger."""
        found: dict[str, Any] = json.loads(self._line("{"))
        return found

    def finish(self) -> None:
        """Wait for the process; its exit code says whether all tokens were counted."""
        assert self.process.wait(timeout=90) == 0, self.messages()

    def messages(self) -> str:
        """Return the end of the job's standard error."""
        return self.errors.read_text(errors="replace")[-4000:]

    def _line(self, start: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line.strip()
        pytest.fail(f"the job ended without a line that starts with {start!r}: {self.messages()}")


def start(tmp_path: Path, *arguments: str) -> Job:
    """Start the example in an empty folder, without variables of genmeter."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "GENMETER_"))
    }
    errors = tmp_path / "stderr"
    script = EXAMPLES / "afterimage_job.py"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", LOOPBACK_ONLY, script, "--json", "--latency", "0", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=tmp_path,
            env=environment,
            text=True,
        )
    return Job(process, errors)


@pytest.fixture(scope="module")
def run_names() -> Iterator[str]:
    """Unique names for the jobs in the shared Prometheus."""
    return (f"afterimage-{number}" for number in range(100))


def tokens_served(result: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the server's input and output tokens by model."""
    return {
        model: {
            "input": result["server"][model]["prompt_tokens"],
            "output": result["server"][model]["completion_tokens"],
        }
        for model in (*GENERATING, JUDGE)
    }


def outcomes_served(result: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the server's successes and failures by generating model."""
    counts = {model: result["server"][model] for model in GENERATING}
    return {
        model: {
            "success": row["requests"] - row["failures"] - row["abandoned"],
            "failure": row["failures"],
        }
        for model, row in counts.items()
    }


def assert_share(result: dict[str, Any], share: float) -> None:
    """Assert that the server failed about its share of each generating model's requests."""
    for model in GENERATING:
        counts = result["server"][model]
        assert counts["failures"] > 0, counts
        # The shares are exact only over 20 requests.
        assert abs(counts["failures"] - share * counts["requests"]) <= 5, counts


@pytest.mark.parametrize(("protocol", "share"), [("text", 0.05), ("openmetrics", 0.5)])
def test_tokens_and_failures_have_the_right_model(
    prometheus: Prometheus, run_names: Iterator[str], tmp_path: Path, protocol: str, share: float
) -> None:
    """Prometheus's counts by model equal the server's, to the token and call."""
    run = next(run_names)
    # 24 rows are 36 calls, so that even a share of 0.05 fails one of them.
    amounts = ("--dialogs", "8", "--rows", "24", "--fail-share", str(share))
    arguments = ("--port", "0", "--linger", "60", *amounts)
    with start(tmp_path, *arguments) as job:
        prometheus.add_target(job.endpoint(), protocol, run=run)
        result = job.result()
        job.finish()

    def last(series: str, matchers: str = "") -> str:
        return f'last_over_time({series}{{run="{run}"{matchers}}}[5m])'

    def by_model(expression: str) -> dict[str, int]:
        samples = prometheus.query(f"sum by (gen_ai_request_model) ({expression})")
        return {sample.labels["gen_ai_request_model"]: int(sample.value) for sample in samples}

    served = tokens_served(result)
    total = sum(row["input"] + row["output"] for row in served.values())
    names = {
        kind: f"gen_ai_client_inference_usage_{kind}_tokens_total" for kind in ("input", "output")
    }
    both = " + ".join(f"sum({last(name)})" for name in names.values())
    prometheus.wait_for(both, lambda found: [sample.value for sample in found] == [total])
    for kind, name in names.items():
        assert by_model(last(name)) == {model: row[kind] for model, row in served.items()}
    for outcome in ("success", "failure"):
        matchers = f', genmeter_outcome="{outcome}", genmeter_phase="generation"'
        assert by_model(last("genmeter_generations_total", matchers)) == {
            model: row[outcome] for model, row in outcomes_served(result).items()
        }
    assert_share(result, share)
    duration = last("gen_ai_client_inference_duration_seconds_count", ', error_type!=""')
    errors = prometheus.query(f"sum by (error_type) ({duration})")
    assert {sample.labels["error_type"] for sample in errors} <= {
        "InternalServerError",
        "RateLimitError",
    }
    failures = sum(row["failure"] for row in outcomes_served(result).values())
    assert sum(sample.value for sample in errors) == failures
    # AfterImage gives one up that fails too often, as one of these may if each second request fails.
    given_up = 2 if share == 0.5 else 0
    assert 8 - given_up <= result["dialogs"] <= 8
    assert 24 - given_up <= result["rows"] <= 24
    assert {
        model: {"input": row["prompt_tokens"], "output": row["completion_tokens"]}
        for model, row in result["report"].items()
    } == served
    prometheus.remove_target(result["endpoint"].split("/")[2])


def test_a_budget_stops_the_job_after_a_dialogue(tmp_path: Path) -> None:
    """AfterImage's stop rule reads the monitor's current totals."""
    budget = 6000
    with start(tmp_path, "--no-endpoint", "--dialogs", "500", "--budget", str(budget)) as job:
        result = job.result()
        job.finish()
    spent = sum(row["total_tokens"] for row in result["report"].values())
    assert result["budget_spent"]
    assert result["endpoint"] is None
    assert result["equal"]
    assert result["rows"] == 0
    assert 0 < result["dialogs"] < 50
    # A dialogue here is 1,000 to 4,000 tokens with its judges and its instruction.
    assert budget <= spent < budget + 6000
