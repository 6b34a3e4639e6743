"""Copies of a history's rows."""

from __future__ import annotations

import json

from genmeter.history.store import History
from history_events import START, evaluation, generation, metric, snapshot_of


def test_rows_are_in_recording_order() -> None:
    """Serials continue past the ring's end, and names are indexes into the names."""
    found = snapshot_of([generation(n, model=f"m{n}") for n in range(5)], capacity=3)
    assert found.calls.serial.tolist() == [2, 3, 4]
    assert [found.names[n] for n in found.calls.model] == ["m2", "m3", "m4"]
    assert found.kept_since == START + 2


def test_window_excludes_older_rows() -> None:
    """The serials of the other rows do not change."""
    history = History(10)
    for at in range(4):
        history.record(generation(at))
        history.record(metric(at))
    found = history.snapshot(START + 2)
    assert found.calls.serial.tolist() == found.values.serial.tolist() == [2, 3]
    assert found.kept_since is None


def test_score_has_the_serial_of_its_evaluation() -> None:
    """A custom value has none."""
    found = snapshot_of([generation(), evaluation(), metric()])
    assert found.values.event.tolist() == [1, 1, -1]
    assert [found.names[n] for n in found.values.name] == [
        "evaluation_score_coherence",
        "evaluation_score_grounding",
        "queue",
    ]


def test_metadata_is_found_by_serial() -> None:
    """Metadata, feedback and custom metadata are JSON text by serial."""
    found = snapshot_of(
        [
            generation(),
            generation(raw_kwargs={"seed": 7}),
            evaluation(raw_kwargs={"a": 1}),
            metric(b=2),
        ]
    )
    assert {key: json.loads(text) for key, text in found.call_data.items()} == {
        1: {"seed": 7},
        2: {"a": 1},
    }
    assert {key: json.loads(text) for key, text in found.value_data.items()} == {
        0: {"feedback": "clear"},
        2: {"b": 2},
    }


def test_snapshot_is_a_copy() -> None:
    """Later events do not change it."""
    history = History(2)
    history.record(generation(0, duration=1.0))
    found = history.snapshot()
    for at in range(4):
        history.record(generation(at, duration=9.0))
    assert found.calls.duration.tolist() == [1.0]


def test_dropped_metadata_is_counted() -> None:
    """The snapshot has the number of rows without their metadata."""
    found = snapshot_of([generation(raw_kwargs={"seed": 1})], metadata_bytes=0)
    assert (found.call_data, found.data_cut) == ({}, 1)


def test_metadata_dropped_before_the_window_is_not_counted() -> None:
    """A window whose rows have all their metadata is complete."""
    history = History(100, metadata_bytes=1_000)
    for at in range(10):
        history.record(generation(at, raw_kwargs={"note": "x" * 200}))
        history.record(metric(at))
    kept = len(history.snapshot().call_data)
    assert history.snapshot().data_cut == 10 - kept > 0
    assert history.snapshot(START + 10 - kept).data_cut == 0
