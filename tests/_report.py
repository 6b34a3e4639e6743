"""Shared by the tests of the report: a job that records everything, and journals."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genmeter import cli

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

    from genmeter import GenerationMonitor

AFTERIMAGE = Path(__file__).parent / "data" / "afterimage"
"""Journal and export of one small job, written by AfterImage 0.18.1."""
BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def record_a_job(monitor: GenerationMonitor) -> None:
    """Record calls of two models and steps, failures, conversations, evaluations and samples."""
    for number in range(40):
        monitor.track_generation(
            0.1 * number,
            True,
            model_name=("atlas-large", "sprint-mini")[number % 2],
            prompt_token_count=100 + number,
            completion_token_count=10 + number,
            cache_read_token_count=number,
            reasoning_token_count=number % 3,
            finish_reason="stop",
            provider="openai" if number % 4 else None,
            metadata={"operation": ("question_generation", "answer_generation")[number // 20]},
        )
    for _ in range(3):
        monitor.track_generation(
            2.0, False, error=TimeoutError("slow"), metadata={"operation": "answer_generation"}
        )
    monitor.track_generation(60.0, True, conversation_length=4)
    monitor.track_generation(70.0, False, metadata={"operation": "conversation_generation"})
    monitor.track_evaluation(
        0.4, True, "Judge", {"coherence": 0.9}, model_name="judge", prompt_token_count=300
    )
    monitor.track_evaluation(0.2, False, "Judge", {}, error="no answer")
    for name in ("success_rate", "generation_time", "prompt_token_count", "model_creation_time"):
        monitor.record_metric(name, 1.0)  # none of them is a call


def report(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run `genmeter report`; return its exit code, output and errors."""
    code = cli.main(["report", *map(str, arguments)])
    written = capsys.readouterr()
    return code, written.out, written.err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    """Return the report as JSON."""
    code, out, _ = report(capsys, *arguments, "--format", "json")
    assert code == 0
    return json.loads(out)


def rows_of(seconds: float, model: str = "atlas-large", **changes: Any) -> list[dict[str, Any]]:
    """Return the journal rows of one good call, some seconds after BEGIN."""
    whose = {"phase": "generation", "model_name": model, "step": "answer_generation", **changes}
    stamp = {"timestamp": (BEGIN + timedelta(seconds=seconds)).isoformat()}
    values = {
        "generation_time": 1.5,
        "success_rate": 1.0,
        "error_rate": 0.0,
        f"model_usage:{model}": 1.0,
        "prompt_token_count": 100,
        "completion_token_count": 10,
        "total_token_count": 110,
    }
    return [{"metric": name, "value": value, **whose, **stamp} for name, value in values.items()]


def old_rows(seconds: float, model: str | None, **values: Any) -> list[dict[str, Any]]:
    """Return the journal rows of one call as AfterImage writes them."""
    local = (BEGIN + timedelta(seconds=seconds)).astimezone().replace(tzinfo=None)
    given: dict[str, Any] = {"generation_time": 1.5, "success_rate": 1.0}
    if model is not None:
        given[f"model_usage:{model}"] = 1.0
    whose = {"model_name": model} if model is not None else {}
    return [
        {
            "metric": name,
            "value": value,
            **(whose if name.endswith("token_count") else {}),
            "timestamp": local.isoformat(timespec="microseconds"),
        }
        for name, value in {**given, **values}.items()
    ]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write a journal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path
