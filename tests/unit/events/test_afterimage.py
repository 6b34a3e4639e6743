"""The rows of an event under AfterImage's names."""

from __future__ import annotations

from typing import Any

import pytest

from genmeter.events.afterimage import RESERVED, metric_rows
from genmeter.events.model import Generation, Log, Metric, Sample, Score
from history_events import conversation, evaluation, generation, metric


def rows(event: Any) -> list[tuple[str, float]]:
    """Return the names and values of an event."""
    return [(row.name, row.value) for row in metric_rows(event)]


def extra_of(event: Any) -> dict[str, Any]:
    """Return the first row's metadata beyond its labels and the outcome."""
    first, second, *_ = metric_rows(event)
    return {
        key: value
        for key, value in first.metadata.items()
        if key not in second.metadata and key != "success"
    }


def test_call_has_afterimages_metrics_in_order() -> None:
    """There is an error rate without an error, too."""
    assert rows(generation()) == [
        ("generation_time", 1.5),
        ("success_rate", 1.0),
        ("error_rate", 0.0),
        ("model_usage:atlas", 1.0),
        ("finish_reason:stop", 1.0),
        ("prompt_token_count", 100),
        ("completion_token_count", 20),
        ("total_token_count", 120),
    ]


def test_labels_are_on_every_row_and_the_rest_on_the_first() -> None:
    """A journal can be summed by model and step row by row."""
    first, *others = metric_rows(
        generation(
            success=False, error_type="TimeoutError", raw_kwargs={"error": "late", "seed": 7}
        )
    )
    labels = {
        "phase": "generation",
        "model_name": "atlas",
        "step": "answer_generation",
        "provider": "openai",
    }
    once = {"success": False, "error_type": "TimeoutError", "error": "late", "seed": 7}
    assert first.metadata == {**labels, **once}
    assert [row.metadata for row in others] == [labels] * len(others)


def test_unknown_values_have_no_rows() -> None:
    """A call without duration, names and tokens has neither rows nor keys for them."""
    nothing = dict.fromkeys(("duration", "finish_reason", "input_tokens", "output_tokens"))
    bare = generation(**nothing, total_tokens=None, model_given=False, step=None, provider="_OTHER")
    assert [row.name for row in metric_rows(bare)] == ["success_rate", "error_rate"]
    assert metric_rows(bare)[0].metadata == {
        "phase": "generation",
        "model_name": "atlas",
        "success": True,
    }


def test_parts_of_tokens_are_on_the_row_of_their_total() -> None:
    """Cached and reasoning tokens of 0 are absent."""
    by_name = {
        row.name: row.metadata
        for row in metric_rows(generation(cache_read_tokens=60, reasoning_tokens=5))
    }
    assert by_name["prompt_token_count"]["cache_read_token_count"] == 60
    assert "cache_write_token_count" not in by_name["prompt_token_count"]
    assert by_name["completion_token_count"]["reasoning_token_count"] == 5


def test_conversation_is_not_a_call_of_a_model() -> None:
    """It has its own phase, no model, and its length as a metric."""
    found = metric_rows(conversation())
    assert ("conversation_length", 3) in rows(conversation())
    assert {row.metadata["phase"] for row in found} == {"conversation"}
    assert not any("model_name" in row.metadata for row in found)


def test_evaluation_has_time_scores_and_error_rate() -> None:
    """A score has its feedback; without tokens there is no model."""
    found = metric_rows(evaluation())
    assert [row.name for row in found] == [
        "evaluation_time",
        "evaluation_score_coherence",
        "evaluation_score_grounding",
        "evaluation_error_rate",
    ]
    assert found[1].metadata == {
        "phase": "evaluation",
        "evaluator_type": "EmbeddingJudge",
        "feedback": "clear",
    }
    assert "feedback" not in found[2].metadata
    labelled = metric_rows(evaluation(scores=(Score("a", 1.0, None, "pass"),)))
    assert labelled[1].metadata["score_label"] == "pass"
    with_tokens = metric_rows(evaluation(input_tokens=4, total_tokens=4))
    assert with_tokens[-1].metadata["model_name"] == "judge"


def test_custom_value_keeps_its_metadata() -> None:
    """The timestamp is the event's, and names that would hide a field get a ``_``."""
    (row,) = metric_rows(metric(name="queue", timestamp="x", value_=1, phase="mine"))
    assert (row.name, row.value) == ("queue", 1.0)
    assert row.metadata == {"value_": 1, "phase": "mine"}


@pytest.mark.parametrize("key", sorted(RESERVED - {"provider", "step", "error_type", "model_name"}))
def test_reserved_key_gets_an_underscore(key: str) -> None:
    """A caller's key never replaces a field of a row."""
    data = extra_of(generation(raw_kwargs={"metadata": {key: "mine"}}))
    assert data == {f"{key}_": "mine"}


def test_duplicate_keys_are_both_kept() -> None:
    """Metadata keeps the name; a keyword or an error of the same name gets a ``_``."""
    passed = {"a": 1, "error": "late", "metadata": {"a": 2, "operation": "s", "error": 7}}
    assert extra_of(generation(raw_kwargs=passed)) == {
        "a": 2,
        "a_": 1,
        "error": 7,
        "error_": "late",
    }


@pytest.mark.parametrize("error", [None, False, ""])
def test_empty_error_is_ignored(error: Any) -> None:
    """AfterImage's callers pass error=None and the like for successful calls."""
    assert extra_of(generation(raw_kwargs={"error": error})) == {}


def test_retries_are_counted_by_cause() -> None:
    """Retries have no row, so the first row has them."""
    assert extra_of(generation(retries={"rate_limited": 2})) == {"retries": {"rate_limited": 2}}


@pytest.mark.parametrize(
    "event",
    [
        Sample(0.0, True, None),
        Log(0.0, "info", "text", {}, None),
    ],
    ids=lambda event: type(event).__name__,
)
def test_other_events_have_no_rows(event: Any) -> None:
    """AfterImage has no metrics of them."""
    assert metric_rows(event) == []


def test_documented_keywords_are_not_extra() -> None:
    """No keyword that track_generation documents is extra data."""
    names = (
        *("prompt_token_count", "completion_token_count", "total_token_count", "model_name"),
        *("cache_read_token_count", "cache_write_token_count", "reasoning_token_count"),
        *("finish_reason", "error_type", "conversation_length", "turns", "retries", "provider"),
        *("operation", "step", "modality"),
    )
    event: Generation = generation(raw_kwargs=dict.fromkeys(names, 1))
    assert extra_of(event) == {}


def test_renamed_key_does_not_replace_another() -> None:
    """If a caller has both spellings, both are kept."""
    passed = {"metadata": {"phase": 1, "phase_": 2}, "phase": 3}
    assert extra_of(generation(raw_kwargs=passed)) == {"phase__": 1, "phase_": 2, "phase___": 3}
    (row,) = metric_rows(Metric(0.0, "queue", 1.0, {"value": 1, "value_": 2}))
    assert row.metadata == {"value__": 1, "value_": 2}
