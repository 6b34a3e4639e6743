"""Hand-made events and histories, and the expected samples of their frames and files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from genmeter.events.afterimage import extra_data, metric_rows
from genmeter.events.jsonable import jsonable_text, to_jsonable
from genmeter.events.model import Call, Evaluation, Event, Generation, Metric, Score
from genmeter.history.store import History

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from genmeter.history.snapshot import Snapshot

START = 1_700_000_000.0
"""Unix time of the first event."""


def generation(at: float = 0, **changes: Any) -> Generation:
    """Return a call of a model, ``at`` seconds after the start."""
    call = Call(
        changes.pop("operation", "chat"),
        changes.pop("provider", "openai"),
        changes.pop("model", "atlas"),
        changes.pop("step", "answer_generation"),
        "text",
        changes.pop("response_model", None),
    )
    values = {
        "model_given": True,
        "duration": 1.5,
        "success": True,
        "input_tokens": 100,
        "output_tokens": 20,
        "total_tokens": 120,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
        "finish_reason": "stop",
        "error_type": None,
        "is_conversation": False,
        "turns": None,
        "retries": None,
        "raw_kwargs": {},
        "span": None,
        **changes,
    }
    extra = extra_data(values["raw_kwargs"], values["retries"])
    return Generation(START + at, call, **{"extra": extra, **values})


def conversation(at: float = 0, **changes: Any) -> Generation:
    """Return a conversation."""
    own = {"is_conversation": True, "model_given": False, "turns": 3, "finish_reason": None}
    tokens = dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"))
    return generation(at, **{**own, **tokens, **changes})


def evaluation(at: float = 0, **changes: Any) -> Evaluation:
    """Return an evaluation with two scores."""
    call = Call("chat", "_OTHER", changes.pop("model", "judge"), changes.pop("step", None), "text")
    values = {
        "duration": 0.25,
        "success": True,
        "evaluator": "EmbeddingJudge",
        "error_type": None,
        "scores": (Score("coherence", 0.75, "clear"), Score("grounding", 0.5)),
        **dict.fromkeys(("input_tokens", "output_tokens", "total_tokens")),
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
        "raw_kwargs": {},
        "span": None,
        **changes,
    }
    return Evaluation(
        START + at, call, **{"extra": extra_data(values["raw_kwargs"], None), **values}
    )


def metric(at: float = 0, name: str = "queue", value: float = 1.0, **metadata: Any) -> Metric:
    """Return a value of ``record_metric``."""
    return Metric(START + at, name, value, metadata)


def snapshot_of(events: Iterable[Event], capacity: int = 10_000, **options: Any) -> Snapshot:
    """Record events and take a snapshot."""
    history = History(capacity, **options)
    for event in events:
        history.record(event)
    return history.snapshot()


def expected_rows(events: Iterable[Event]) -> list[tuple[str, float, float, dict[str, Any]]]:
    """Return the samples of events like ``metric_rows``: name, time, value, plain metadata."""
    rows = [
        (sample.name, event.time, float(sample.value), to_jsonable(sample.metadata))
        for event in events
        for sample in metric_rows(event)
    ]
    return sorted(rows, key=lambda row: row[0])


def rows_of(frame: pd.DataFrame) -> list[tuple[str, float, float, dict[str, Any]]]:
    """Return the rows of a frame of samples in the same form, with JSON texts unparsed."""
    keys = [str(name) for name in frame if str(name).startswith("metadata_")]
    # Whole microseconds, which a float64 of Unix seconds distinguishes.
    times = frame["timestamp"].astype("int64").to_numpy() // 1_000 / 1e6
    cells = {
        key: frame[key].astype(object).where(frame[key].notna(), None).tolist() for key in keys
    }
    rows = []
    for number, (name, time, value) in enumerate(
        zip(frame["metric_name"], times, frame["value"], strict=True)
    ):
        passed = {key.removeprefix("metadata_"): cells[key][number] for key in keys}
        rows.append((name, time, value, {k: v for k, v in passed.items() if v is not None}))
    return rows


def json_rows(text: str) -> list[tuple[str, str, float, dict[str, Any]]]:
    """Return the rows of a JSON export: name, timestamp, value, metadata."""
    return [
        (name, row.pop("timestamp"), row.pop("value"), row)
        for name, rows in json.loads(text).items()
        for row in rows
    ]


__all__ = [
    "START",
    "conversation",
    "evaluation",
    "expected_rows",
    "generation",
    "json_rows",
    "jsonable_text",
    "metric",
    "rows_of",
    "snapshot_of",
]
