"""A script that imports only AfterImage, run by Python, `genmeter run` and OpenTelemetry.

The script starts a model server on loopback and prints the tokens of its responses, which are
compared with the monitor's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from otlp_receiver import HttpReceiver

pytestmark = pytest.mark.example

SCRIPT = Path(__file__).parents[2] / "examples" / "afterimage_script.py"
BIN = Path(sys.executable).parent
MODELS = ("chat-large", "judge-mini", "rows-small")
CLEAN = {
    name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "GENMETER_"))
}


@dataclass
class Run:
    """One run of the script.

    Attributes:
        code: its exit code.
        printed: its standard output.
        errors: its standard error.
    """

    code: int
    printed: str
    errors: str

    @property
    def embedded(self) -> dict[str, tuple[int, int, int]]:
        """The server's tokens of embeddings, which AfterImage's monitor does not report."""
        counts: dict[str, dict[str, int]] = json.loads(self.printed.splitlines()[-1])
        found = counts["embed-small"]
        return {"embed-small": (found["prompt_tokens"], 0, found["total_tokens"])}

    @property
    def served(self) -> dict[str, tuple[int, int, int]]:
        """The server's input, output and total tokens by model."""
        counts: dict[str, dict[str, int]] = json.loads(self.printed.splitlines()[-1])
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        return {model: tuple(counts[model][name] for name in names) for model in MODELS}  # type: ignore[misc]


def run(tmp_path: Path, *command: str | Path, **environ: str) -> Run:
    """Run a command in an empty folder, with only the given OpenTelemetry variables."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=tmp_path,
        env={**CLEAN, **environ},
        text=True,
        timeout=100,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The script, run by Python."""
    found = run(tmp_path_factory.mktemp("plain"), sys.executable, SCRIPT)
    assert found.code == 0, found.errors[-4000:]
    return found


def test_genmeter_run_reports_every_token(plain: Run, tmp_path: Path) -> None:
    """Output and exit code are unchanged, and the report equals the server's counts, each call once."""
    found = run(tmp_path, BIN / "genmeter", "run", "--port", "0", SCRIPT)
    assert (found.code, found.printed) == (plain.code, plain.printed)
    assert re.search(r"^metrics: http://127\.0\.0\.1:\d+/metrics$", found.errors, re.MULTILINE)
    # model, calls, prompt, completion, total
    rows = re.findall(
        r"^([\w-]+) +[\d,]+ +([\d,]+) +([\d,]+) +([\d,]+)$", found.errors, re.MULTILINE
    )
    report: dict[str, Any] = {
        model: tuple(int(count.replace(",", "")) for count in counts) for model, *counts in rows
    }
    total = report.pop("total")
    expected = found.served | found.embedded
    assert report == expected
    assert total == tuple(map(sum, zip(*expected.values(), strict=True)))
    assert "AfterImage 0.18.1: by genmeter's monitor in place of its own" in found.errors


def test_a_budget_ends_the_generator(tmp_path: Path) -> None:
    """AfterImage would try again for ever: its generator ends, and the error reaches the script."""
    found = run(tmp_path, BIN / "genmeter", "run", "--port", "0", "--budget-tokens", "6000", SCRIPT)
    assert found.code == 3
    assert "BudgetExceededError: budget of 6,000 tokens of the job is spent" in found.errors
    assert "genmeter run: the budget stopped the job: budget of 6,000 tokens" in found.errors
    (total,) = re.findall(r"^total +[\d,]+ +[\d,]+ +[\d,]+ +([\d,]+)$", found.errors, re.MULTILINE)
    assert 6_000 <= int(total.replace(",", "")) < 12_000


def test_opentelemetry_instrument_pushes_every_token_before_the_exit(
    plain: Run, tmp_path: Path
) -> None:
    """The last push of the application's provider has the whole job."""
    with HttpReceiver() as receiver:
        found = run(
            tmp_path,
            BIN / "opentelemetry-instrument",
            sys.executable,
            SCRIPT,
            OTEL_METRICS_EXPORTER="otlp",
            OTEL_TRACES_EXPORTER="none",
            OTEL_LOGS_EXPORTER="none",
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            # Only the last push.
            OTEL_METRIC_EXPORT_INTERVAL="3600000",
        )
    assert (found.code, found.printed) == (plain.code, plain.printed)

    def sent(kind: str, model: str) -> int:
        name = f"gen_ai.client.inference.usage.{kind}_tokens"
        return int(receiver.total(name, gen_ai_request_model=model))

    totals = {
        model: int(receiver.total("genmeter.tokens", gen_ai_request_model=model))
        for model in MODELS
    }
    assert {
        model: (sent("input", model), sent("output", model), totals[model]) for model in MODELS
    } == found.served
    assert "metrics: " not in found.errors
