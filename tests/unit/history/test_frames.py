"""Frames of a history: their columns, dtypes and rows."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from genmeter.errors import ConfigError
from genmeter.events.model import Score
from genmeter.history.frames import KINDS, SAMPLE_METADATA, to_frame
from genmeter.history.metadata import MAX_KEYS
from history_events import (
    START,
    conversation,
    evaluation,
    generation,
    metric,
    rows_of,
    snapshot_of,
)

TIME = "datetime64[ns, UTC]"
TOKENS = {
    **dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), "Int64"),
    **dict.fromkeys(("cache_read_tokens", "cache_write_tokens", "reasoning_tokens"), "Int64"),
}
DTYPES = {
    "generations": {
        "time": TIME,
        "duration_seconds": "float64",
        "success": "bool",
        "model": "string",
        "step": "string",
        "provider": "string",
        "operation": "string",
        "response_model": "string",
        "outcome": "string",
        **TOKENS,
        "cost_usd": "float64",
        "finish_reason": "string",
        "error_type": "string",
        "usage_unread": "string",
    },
    "conversations": {
        "time": TIME,
        "duration_seconds": "float64",
        "success": "bool",
        "turns": "Int64",
        "step": "string",
        "error_type": "string",
    },
    "evaluations": {
        "time": TIME,
        "duration_seconds": "float64",
        "success": "bool",
        "evaluator": "string",
        "model": "string",
        "step": "string",
        "provider": "string",
        **TOKENS,
        "error_type": "string",
    },
    "metrics": {"time": TIME, "name": "string", "value": "float64"},
    "samples": {
        "metric_name": "string",
        "timestamp": TIME,
        "value": "float64",
        **{f"metadata_{key}": dtype for key, dtype in SAMPLE_METADATA.items()},
    },
}


def dtypes(frame: pd.DataFrame) -> dict[str, str]:
    """Return the dtypes of a frame by column, as text."""
    return {str(name): str(dtype) for name, dtype in frame.dtypes.items()}


def first(frame: pd.DataFrame) -> dict[str, Any]:
    """Return the first row of a frame, without its missing values."""
    row = frame.iloc[0]
    return {str(name): row[name] for name in frame if not pd.isna(row[name])}


@pytest.mark.parametrize("kind", KINDS)
def test_empty_history_has_all_columns_and_dtypes(kind: str) -> None:
    """Code that reads a frame works before a job has recorded anything."""
    empty = to_frame(snapshot_of([]), kind)
    assert len(empty) == 0
    assert dtypes(empty) == DTYPES[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_its_columns_in_order(kind: str) -> None:
    """The documented columns come first, in their order."""
    events = [generation(0), conversation(1), evaluation(2), metric(3)]
    frame = to_frame(snapshot_of(events), kind)
    fixed = DTYPES[kind]
    assert list(frame)[: len(fixed)] == list(fixed)
    assert {name: found for name, found in dtypes(frame).items() if name in fixed} == fixed


def test_documentation_lists_the_columns() -> None:
    """docs/exports.md has each kind's columns, in order and with their dtypes."""
    page = (Path(__file__).parents[3] / "docs/exports.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- frames -->(.*?)<!-- /frames -->", page, re.DOTALL)
    listed = {
        kind: dict(re.findall(r"`(\w+)` (\w+(?:\[[^]]*\])?)", columns))
        for kind, columns in re.findall(r"^\| `(\w+)` \|[^|]*\| (.*) \|$", table, re.MULTILINE)
    }
    assert listed == DTYPES
    assert [list(each) for each in listed.values()] == [list(each) for each in DTYPES.values()]


def test_generation_has_all_its_keywords() -> None:
    """A call's row has its labels, counts, outcome and metadata."""
    call = generation(
        at=0.25,
        success=False,
        error_type="TimeoutError",
        response_model="atlas-2",
        cost=0.5,
        cache_read_tokens=7,
        retries={"rate_limited": 2},
        raw_kwargs={"metadata": {"operation": "x", "id": "a-1"}, "error": "too slow", "seed": 4},
    )
    assert first(to_frame(snapshot_of([call]), "generations")) == {
        "time": pd.Timestamp(START + 0.25, unit="s", tz="UTC"),
        "duration_seconds": 1.5,
        "success": False,
        "outcome": "failure",
        "model": "atlas",
        "response_model": "atlas-2",
        "step": "answer_generation",
        "provider": "openai",
        "operation": "chat",
        "cost_usd": 0.5,
        "input_tokens": 100,
        "output_tokens": 20,
        "total_tokens": 120,
        "cache_read_tokens": 7,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
        "finish_reason": "stop",
        "error_type": "TimeoutError",
        "metadata_error": "too slow",
        "metadata_id": "a-1",
        "metadata_seed": 4,
        "metadata_retries": '{"rate_limited":2}',
    }


def test_unknown_counts_are_missing() -> None:
    """A column's mean does not include calls without numbers."""
    none = dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"))
    call = generation(provider="_OTHER", step=None, finish_reason=None, duration=None, **none)
    assert first(to_frame(snapshot_of([call]), "generations")) == {
        "time": pd.Timestamp(START, unit="s", tz="UTC"),
        "success": True,
        "outcome": "success",
        "model": "atlas",
        "operation": "chat",
    }


def test_outcome_has_three_values() -> None:
    """A cancelled call is no success, and a call without usage says why."""
    events = [generation(), generation(success=False), generation(success=False, cancelled=True)]
    frame = to_frame(snapshot_of([*events, generation(unread="no_usage")]), "generations")
    assert frame["outcome"].tolist() == ["success", "failure", "cancelled", "success"]
    assert frame["success"].tolist() == [True, False, False, True]
    assert frame["usage_unread"].fillna("").tolist() == ["", "", "", "no_usage"]


def test_large_counts_are_exact() -> None:
    """The counts of a wide frame are integers of any size."""
    frame = to_frame(snapshot_of([generation(total_tokens=2**53 + 1)]), "generations")
    assert frame["total_tokens"].iloc[0] == 2**53 + 1


def test_conversations_and_calls_have_separate_frames() -> None:
    """A conversation is not a generation, and its turns are counted."""
    snapshot = snapshot_of([generation(0), conversation(1, turns=4), conversation(2, turns=None)])
    assert len(to_frame(snapshot, "generations")) == 1
    frame = to_frame(snapshot, "conversations")
    assert frame["turns"].tolist() == [4, pd.NA]


def test_evaluations_have_a_column_for_each_score() -> None:
    """A score is NaN if the evaluation has none of that name; feedback has its own column."""
    scores = (Score("grounding", 0.1, "sparse"), Score("tone", -2.0))
    frame = to_frame(
        snapshot_of(
            [evaluation(0), metric(1, "evaluation_score_tone", 9), evaluation(2, scores=scores)]
        ),
        "evaluations",
    )
    nan = np.nan
    np.testing.assert_equal(frame["score_coherence"].to_numpy(), [0.75, nan])
    np.testing.assert_equal(frame["score_grounding"].to_numpy(), [0.5, 0.1])
    np.testing.assert_equal(frame["score_tone"].to_numpy(), [nan, -2.0])
    assert frame["feedback_coherence"].tolist() == ["clear", pd.NA]
    assert frame["feedback_grounding"].tolist() == [pd.NA, "sparse"]
    assert frame["feedback_tone"].isna().all()
    assert str(frame["feedback_tone"].dtype) == "string"


def test_evaluation_has_a_model_only_with_tokens() -> None:
    """A guessed model is not shown as the judge."""
    known = evaluation(1, input_tokens=5, output_tokens=1, total_tokens=6)
    frame = to_frame(snapshot_of([evaluation(0), known]), "evaluations")
    assert frame["model"].tolist() == [pd.NA, "judge"]


def test_custom_values_have_a_frame_without_scores() -> None:
    """It has the values of ``record_metric`` with their metadata."""
    frame = to_frame(
        snapshot_of([evaluation(0), metric(1, "queue", 3.5, host="a", step=2)]), "metrics"
    )
    assert first(frame) == {
        "time": pd.Timestamp(START + 1, unit="s", tz="UTC"),
        "name": "queue",
        "value": 3.5,
        "metadata_host": "a",
        "metadata_step": 2,
    }


@pytest.mark.parametrize(
    ("passed", "dtype", "cells"),
    [
        ([True, None, False], "boolean", [True, pd.NA, False]),
        ([1, None, 2**63 - 1], "Int64", [1, pd.NA, 2**63 - 1]),
        ([0.5, 2], "Float64", [0.5, 2.0]),
        ([0.5, 2**53 + 1], "string", ["0.5", "9007199254740993"]),
        (["a", None, ""], "string", ["a", pd.NA, ""]),
        ([None], "string", [pd.NA]),
        ([True, 1], "string", ["true", "1"]),
        (["a", 1, None], "string", ['"a"', "1", pd.NA]),
        ([{"b": [1, None]}], "string", ['{"b":[1,null]}']),
        ([2**63], "string", [str(2**63)]),
    ],
)
def test_metadata_dtype_is_that_of_the_values(
    passed: list[Any], dtype: str, cells: list[Any]
) -> None:
    """Values of one type have a column of it; mixed and nested values are JSON text."""
    frame = to_frame(snapshot_of([metric(at, key=v) for at, v in enumerate(passed)]), "metrics")
    assert str(frame["metadata_key"].dtype) == dtype
    assert frame["metadata_key"].tolist() == cells


def test_endless_keys_share_a_column() -> None:
    """A job with a key for every id does not get a column for every id."""
    events = [
        metric(at, **{f"id{at}": at, "host": "a", "other_keys": 1}) for at in range(MAX_KEYS + 9)
    ]
    frame = to_frame(snapshot_of(events), "metrics")
    assert len(frame.columns) == 3 + MAX_KEYS + 1
    assert frame["metadata_host"].eq("a").all()
    assert str(frame["metadata_other_keys"].dtype) == "string"
    assert frame["metadata_other_keys"].str.contains('"other_keys":1').all()
    assert frame["metadata_other_keys"].str.contains('"id').sum() == 10


def test_samples_are_sorted_by_metric_and_age() -> None:
    """Each metric's rows are together, from whichever ring, oldest first."""
    events = [generation(0, success=False), metric(1, "error_rate", 0.25), generation(2)]
    frame = to_frame(snapshot_of(events), "samples")
    assert frame["metric_name"].is_monotonic_increasing
    rates = frame[frame["metric_name"] == "error_rate"]
    assert rates["value"].tolist() == [1.0, 0.25, 0.0]
    assert rates["timestamp"].is_monotonic_increasing


def test_metadata_of_an_event_is_on_its_first_row() -> None:
    """The outcome and metadata of an event are not repeated."""
    events = [
        generation(0, raw_kwargs={"id": "a"}),
        generation(1, duration=None, raw_kwargs={"id": "b"}),
    ]
    frame = to_frame(snapshot_of(events), "samples")
    passed = frame[frame["metadata_success"].notna()]
    assert passed[["metric_name", "metadata_id"]].to_numpy().tolist() == [
        ["generation_time", "a"],
        ["success_rate", "b"],
    ]
    assert frame["metadata_id"].notna().sum() == 2


def test_score_as_first_row_keeps_its_feedback() -> None:
    """An evaluation of unknown duration has its outcome on its first score."""
    frame = to_frame(snapshot_of([evaluation(duration=None, raw_kwargs={"id": "a"})]), "samples")
    assert rows_of(frame)[1][3] == {
        "phase": "evaluation",
        "evaluator_type": "EmbeddingJudge",
        "feedback": "clear",
        "success": True,
        "id": "a",
    }


def test_score_labels_are_in_a_column_of_their_own() -> None:
    """The rows of a score have its label; those of a score without one have none."""
    scores = (Score("a", 1.0, "clear", "pass"), Score("b", 0.0))
    frame = to_frame(snapshot_of([evaluation(scores=scores)]), "samples").set_index("metric_name")
    assert frame["metadata_score_label"].dtype == "string"
    assert frame.loc["evaluation_score_a", "metadata_score_label"] == "pass"
    assert frame["metadata_score_label"].notna().sum() == 1


def test_odd_value_does_not_change_a_standard_column() -> None:
    """One odd ``record_metric`` cannot turn every step into JSON text."""
    events = [generation(0), metric(1, "queue", 1.0, step=5, success="yes", phase="warm-up")]
    frame = to_frame(snapshot_of(events), "samples")
    queue = frame[frame["metric_name"] == "queue"].iloc[0]
    assert queue["metadata_step_"] == 5
    assert queue["metadata_success_"] == "yes"
    assert queue["metadata_phase"] == "warm-up"
    assert str(frame["metadata_success"].dtype) == "boolean"
    assert "answer_generation" in frame["metadata_step"].tolist()


def test_scores_outlive_their_evaluation() -> None:
    """If calls overwrote an evaluation, its scores keep their labels."""
    events = [evaluation(0), *(generation(at) for at in range(1, 4))]
    snapshot = snapshot_of(events, capacity=3)
    rows = rows_of(to_frame(snapshot, "samples"))
    scores = [row for row in rows if row[0].startswith("evaluation_")]
    assert [(name, passed.get("feedback")) for name, _, _, passed in scores] == [
        ("evaluation_score_coherence", "clear"),
        ("evaluation_score_grounding", None),
    ]
    assert all(passed["phase"] == "evaluation" for *_, passed in scores)
    assert all(passed["evaluator_type"] == "EmbeddingJudge" for *_, passed in scores)
    assert len(to_frame(snapshot, "evaluations")) == 0


def test_partial_frame_has_attributes() -> None:
    """They are the time since which rows are kept, and the number of rows without metadata."""
    whole = to_frame(snapshot_of([generation(0)]), "generations")
    assert whole.attrs == {}
    events = [generation(at, raw_kwargs={"note": "x" * 400}) for at in range(5)]
    partial = to_frame(snapshot_of(events, capacity=3, metadata_bytes=1_200), "generations")
    since = datetime.fromtimestamp(START + 2, UTC).isoformat()
    assert partial.attrs == {"kept_since": since, "data_cut": 1}


@pytest.mark.parametrize("kind", ["generation", "", None, 3, ["samples"]])
def test_unknown_kind_is_rejected(kind: Any) -> None:
    """The message has the argument, its value and the valid kinds."""
    with pytest.raises(ConfigError, match=r"kind must .*generations, conversations, evaluations"):
        to_frame(snapshot_of([]), kind)
