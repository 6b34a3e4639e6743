"""Reports in real experiment trackers: MLflow with its file store, Weights & Biases offline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from genmeter import ConfigError, MonitorConfig, read_usage
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.frameworks


def record(monitor: Any) -> None:
    """Two models, one of them with a call of unknown usage."""
    for model, tokens in (("openai/gpt: mini", 1_000), ("birch", 500)):
        monitor.track_generation(
            2.0, True, model_name=model, prompt_token_count=tokens, completion_token_count=7
        )
    with monitor.generation(model="birch"):
        pass


def test_mlflow_has_the_numbers_and_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a report of the monitor and of one of a journal; what is missing is said."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    config = MonitorConfig(prices={"birch": (1.0, 2.0), "openai/gpt: mini": (1.0, 2.0)})
    with isolated_monitor(config, log_dir=tmp_path) as monitor:
        record(monitor)
        monitor.flush()
        with mlflow.start_run() as first:
            monitor.get_total_token_usage().log_to(mlflow)
        with mlflow.start_run() as second:
            read_usage(tmp_path / "metrics.jsonl", by="model").log_to(mlflow, prefix="usage")
    metrics = mlflow.get_run(first.info.run_id).data.metrics
    assert metrics["genmeter/total_tokens"] == 1_514
    assert metrics["genmeter/birch/prompt_tokens"] == 500
    assert metrics["genmeter/openai_gpt: mini/total_tokens"] == 1_007
    assert metrics["genmeter/cost_usd"] == pytest.approx(0.001528)
    assert metrics["genmeter/is_exact"] == 0
    client = mlflow.MlflowClient()
    [notes] = [
        each.path
        for each in client.list_artifacts(first.info.run_id, "genmeter")
        if each.path.endswith("notes.txt")
    ]
    assert "Calls without usage: 1" in mlflow.artifacts.load_text(
        f"runs:/{first.info.run_id}/{notes}"
    )
    table = json.loads(mlflow.artifacts.load_text(f"runs:/{second.info.run_id}/usage/usage.json"))
    assert [row[0] for row in table["data"]] == ["birch", "openai/gpt: mini"]
    metrics = mlflow.get_run(second.info.run_id).data.metrics
    assert metrics["usage/calls"] == 3
    assert metrics["usage/birch/calls_without_usage"] == 1
    assert "usage/birch/cost_usd" in metrics


def test_wandb_has_the_numbers_and_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the run or by the module."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with isolated_monitor(log_dir=tmp_path) as monitor:
        record(monitor)
        monitor.flush()
        report = monitor.get_total_token_usage()
    with wandb.init(project="genmeter", dir=tmp_path) as run:
        report.log_to(run)
        report.log_to(wandb, prefix="again")
        read_usage(tmp_path, by="model,step").log_to(run, prefix="rows")  # no step: NA
        summary = dict(run.summary)
    assert summary["genmeter/total_tokens"] == summary["again/total_tokens"] == 1_514
    assert summary["genmeter/birch/prompt_tokens"] == 500
    assert "Calls without usage: 1" in summary["genmeter/notes"]
    assert summary["genmeter/usage"]["nrows"] == summary["rows/usage"]["nrows"] == 2


def test_others_are_refused() -> None:
    """With the name of the argument."""
    with isolated_monitor() as monitor:
        report = monitor.get_total_token_usage()
    with pytest.raises(ConfigError, match="tracker must be the module mlflow"):
        report.log_to(object())
