"""Frames and files of a history have the samples of its events, whatever they are."""

from __future__ import annotations

import math
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from _exports import assert_read_back, assert_tables_hold, place
from hypothesis import given, settings
from hypothesis import strategies as st

from genmeter.events.model import Score
from genmeter.files.export import export
from genmeter.history.frames import to_frame
from genmeter.history.metadata import json_text
from history_events import (
    conversation,
    evaluation,
    expected_rows,
    generation,
    json_rows,
    metric,
    rows_of,
    snapshot_of,
)

if TYPE_CHECKING:
    from genmeter.events.model import Event

names = st.sampled_from(["atlas", "org/model", "Org:Model", "x" * 128, "CON", "😀", "a.", "="])
counts = st.one_of(st.none(), st.integers(0, 2**40))
parts = st.sampled_from([0, 0, 7])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
keys = st.one_of(st.sampled_from(["id", "step", "success", "value", "note", "_x0041_", ""]), texts)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
data = st.dictionaries(keys, values, max_size=3)


@st.composite
def tokens(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the tokens of a call."""
    prompt, completion = draw(counts), draw(counts)
    some = draw(counts)
    known = [count for count in (prompt, completion, some) if count is not None]
    return {
        "input_tokens": prompt,
        "output_tokens": completion,
        "total_tokens": max(known) if known else None,
        "cache_read_tokens": draw(parts) if prompt else 0,
        "cache_write_tokens": draw(parts) if prompt else 0,
        "reasoning_tokens": draw(parts) if completion else 0,
    }


@st.composite
def events(draw: st.DrawFn) -> list[Event]:
    """Draw the events of a job, a second apart."""
    made: list[Event] = []
    for at in range(draw(st.integers(0, 12))):
        success = draw(st.booleans())
        common = {
            "duration": draw(st.none() | st.floats(0, 1e9)),
            "success": success,
            "error_type": None if success else draw(names),
            "step": draw(st.none() | names),
            "raw_kwargs": {"metadata": draw(data)} if draw(st.booleans()) else {},
        }
        kind = draw(st.sampled_from("gcem"))
        if kind == "g":
            own = {"model": draw(names), "model_given": draw(st.booleans()), **draw(tokens())}
            own["provider"] = draw(st.sampled_from(["openai", "_OTHER"]))
            own["finish_reason"] = draw(st.none() | names)
            own["turns"] = draw(st.none() | st.integers(0, 9))
            made.append(generation(at, **common, **own))
        elif kind == "c":
            made.append(conversation(at, **common, turns=draw(st.none() | st.integers(0, 9))))
        elif kind == "e":
            scored = draw(st.lists(names, max_size=3, unique=True))
            scores = tuple(
                Score(name, draw(st.floats(-1e9, 1e9)), draw(st.none() | texts)) for name in scored
            )
            made.append(evaluation(at, **common, **draw(tokens()), scores=scores))
        else:
            name = draw(names | st.sampled_from(["error_rate", "total_token_count"]))
            passed = {
                f"k{key}" if key in ("at", "name", "value") else key: draw(values)
                for key in draw(st.lists(keys, max_size=3, unique=True))
            }
            made.append(metric(at, name, draw(st.floats(-1e300, 1e300)))._replace(metadata=passed))
    return made


def same(passed: Any, cell: Any) -> bool:
    """Return whether a cell equals a value, its number or its JSON text."""
    if type(passed) is type(cell) and passed == cell:
        return True
    if type(passed) is int and type(cell) is float:
        return bool(passed == cell)
    # JSON text has one form here, so that the texts can be compared.
    return bool(cell == json_text(passed))


def found_in(row: dict[str, Any], key: str, passed: Any) -> bool:
    """Return whether a row of a frame has a value under its key or, for an odd type, its marked key."""
    return any(name.rstrip("_") == key.rstrip("_") and same(passed, row[name]) for name in row)


@settings(max_examples=60, deadline=None)
@given(events())
def test_samples_frame_equals_the_rows_of_the_events(made: list[Event]) -> None:
    """The frame, built from arrays, has each row of ``metric_rows``, in order."""
    expected = expected_rows(made)
    found = rows_of(to_frame(snapshot_of(made), "samples"))
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    for (_, _, _, cells), (_, _, _, passed) in zip(found, expected, strict=True):
        plain = {key: value for key, value in passed.items() if value is not None}
        assert len(cells) == len(plain)
        for key, value in plain.items():
            assert found_in(cells, key, value), (key, value, cells)


@settings(max_examples=40, deadline=None)
@given(events())
def test_json_export_equals_the_rows_of_the_events(made: list[Event]) -> None:
    """The file has all values and metadata, nested ones too."""
    with tempfile.TemporaryDirectory() as folder:
        (path,) = export(snapshot_of(made), Path(folder) / "metrics.json")
        found = json_rows(path.read_text(encoding="utf-8"))
    expected = [
        (name, datetime.fromtimestamp(time, UTC).isoformat(timespec="microseconds"), value, passed)
        for name, time, value, passed in expected_rows(made)
    ]
    assert found == expected


@settings(max_examples=15, deadline=None)
@given(events())
def test_json_and_parquet_are_read_back_as_the_frame(made: list[Event]) -> None:
    """Rows, columns and dtypes are equal."""
    snapshot = snapshot_of(made)
    for format_ in ("json", "parquet"):
        with tempfile.TemporaryDirectory() as folder:
            export(snapshot, place(Path(folder), format_), format_)
            assert_read_back(snapshot, place(Path(folder), format_))


@settings(max_examples=15, deadline=None)
@given(events())
def test_csv_and_excel_have_the_times_and_values_of_the_frame(made: list[Event]) -> None:
    """Pandas reads a table for each metric, Excel's with Excel's precision."""
    snapshot = snapshot_of(made)
    for format_ in ("csv", "excel"):
        with tempfile.TemporaryDirectory() as folder:
            export(snapshot, place(Path(folder), format_), format_)
            assert_tables_hold(to_frame(snapshot, "samples"), place(Path(folder), format_))


@given(st.lists(st.one_of(scalars, values), max_size=8))
def test_metadata_dtype_depends_only_on_the_values(passed: list[Any]) -> None:
    """One type has its nullable dtype, numbers share one, everything else is JSON text."""
    made = [metric(at, "queue", 0.0, key=value) for at, value in enumerate(passed)]
    frame = to_frame(snapshot_of(made), "metrics")
    kinds = {type(value) for value in passed if value is not None}
    if not passed:
        assert "metadata_key" not in frame
        return
    dtype = str(frame["metadata_key"].dtype)
    by_kind = {bool: "boolean", int: "Int64", float: "Float64", str: "string"}
    if len(kinds) == 1:
        assert dtype == by_kind.get(kinds.pop(), "string")
    elif kinds != {int, float}:
        assert dtype == "string"
    for value, cell in zip(passed, frame["metadata_key"], strict=True):
        assert pd.isna(cell) if value is None else same(value, _plain(cell))


def _plain(cell: Any) -> Any:
    return cell if isinstance(cell, str) else cell.item() if hasattr(cell, "item") else cell


def test_helper_distinguishes_values() -> None:
    """The helper that compares cells does not accept everything."""
    assert same({"a": [1]}, '{"a":[1]}')
    assert same(1, 1.0)
    assert not same(1, 2.0)
    assert not same("1", 1)
    assert not same(True, 1)
    assert not same(math.pi, "3")
