"""What is logged to a tracker, with fakes of their functions."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from genmeter import ConfigError, GenerationMonitor
from genmeter.testing import isolated_monitor


class FakeMlflow:
    """MLflow's functions of the current run."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.tables: dict[str, Any] = {}
        self.texts: dict[str, str] = {}

    def log_metrics(self, metrics: dict[str, float]) -> None:
        """Keep them."""
        self.metrics |= metrics

    def log_table(self, data: Any, artifact_file: str) -> None:
        """Keep it."""
        self.tables[artifact_file] = data

    def log_text(self, text: str, artifact_file: str) -> None:
        """Keep it."""
        self.texts[artifact_file] = text


def record(monitor: GenerationMonitor) -> None:
    """One call with a name that MLflow would refuse."""
    monitor.track_generation(1.0, True, model_name="a/b@c", prompt_token_count=5)


def test_names_that_a_tracker_refuses_are_replaced() -> None:
    """The table keeps the name; without notes the numbers are exact and no text is written."""
    tracker = FakeMlflow()
    with isolated_monitor() as monitor:
        record(monitor)
        monitor.get_total_token_usage().log_to(tracker)
    assert tracker.metrics["genmeter/a_b_c/total_tokens"] == 5
    assert tracker.metrics["genmeter/is_exact"] == 1
    assert list(tracker.tables["genmeter/usage.json"]["model_name"]) == ["a/b@c"]
    assert not tracker.texts


def test_a_run_of_wandb_gets_one_row_of_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the table by wandb's own class."""
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Table=lambda dataframe: dataframe))
    logged: list[dict[str, Any]] = []
    with isolated_monitor() as monitor:
        record(monitor)
        monitor.get_total_token_usage().log_to(SimpleNamespace(log=logged.append), prefix="x")
    (row,) = logged
    assert row["x/total_tokens"] == 5
    assert len(row["x/usage"]) == 1
    assert "x/notes" not in row


@pytest.mark.parametrize("prefix", ["", "a@b", 5])
def test_a_wrong_prefix_is_refused(prefix: Any) -> None:
    """Before anything is logged."""
    tracker = FakeMlflow()
    with isolated_monitor() as monitor, pytest.raises(ConfigError, match="prefix must be"):
        monitor.get_total_token_usage().log_to(tracker, prefix=prefix)
    assert not tracker.metrics


def test_something_else_is_refused() -> None:
    """A module that is no tracker, though it can log."""
    with isolated_monitor() as monitor, pytest.raises(ConfigError, match="tracker must be"):
        monitor.get_total_token_usage().log_to(SimpleNamespace(log=print))


def test_rows_of_equal_replaced_names_stay_apart() -> None:
    """The name that needs no replacement keeps it; the others end with a digest, always the same."""
    tracker, again = FakeMlflow(), FakeMlflow()
    with isolated_monitor() as monitor:
        for tokens, name in ((5, "a/b"), (7, "a_b"), (11, "a@b"), (13, "other@")):
            monitor.track_generation(1.0, True, model_name=name, prompt_token_count=tokens)
        monitor.get_total_token_usage().log_to(tracker)
        monitor.track_generation(1.0, True, model_name="a@b", prompt_token_count=100)
        monitor.get_total_token_usage().log_to(again)
    totals = {
        name.split("/")[1]: value
        for name, value in tracker.metrics.items()
        if name.endswith("/total_tokens") and name.count("/") == 2
    }
    assert sorted(totals.values()) == [5, 7, 11, 13]
    assert (totals["a_b"], totals["other_"]) == (7, 13)
    assert set(again.metrics) == set(tracker.metrics)
