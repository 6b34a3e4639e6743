"""The lines of the journal and the log: of events, of JSON values and of local times."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _hostile import VALUES, StrKey

from genmeter.events.jsonable import MAX_NODES, MAX_TEXT, to_jsonable
from genmeter.events.model import Event, Log, Sample, Score
from genmeter.handlers import _lines
from genmeter.handlers._journal_run import JournalRun
from genmeter.handlers._lines import (
    JournalLines,
    iso_time,
    log_lines,
    log_time,
    object_text,
    value_text,
)
from genmeter.handlers.base import FileLogHandler, FileMetricHandler
from genmeter.handlers.dispatch import LOGS, METRICS
from history_events import START, conversation, evaluation, generation, metric

if TYPE_CHECKING:
    from collections.abc import Iterator

_journals = itertools.count()
KWARGS = {
    "model_name": 't\u00fcr "x"',
    "metadata": {"operation": "s", "phase": "mine", "tags": ["a", {"b": 1}], "seed": 7},
    "error": ValueError("late"),
    "timestamp": "mine",
    "custom": 2**70,
}
EVENTS: list[Event] = [
    generation(),
    generation(1, step=None, provider="_OTHER", model='\u00fcber/"m"', finish_reason=None),
    generation(2, duration=None, input_tokens=None, output_tokens=None, total_tokens=None),
    generation(3, cache_read_tokens=60, cache_write_tokens=4, reasoning_tokens=5, duration=1e-9),
    generation(4.123_456_7, success=False, error_type="TimeoutError", raw_kwargs=KWARGS),
    generation(
        5, retries={"rate_limited": 2}, raw_kwargs={"metadata": {"deep": [[1.5, None, True]]}}
    ),
    conversation(6),
    generation(6),  # the same call as the first one
    evaluation(7),
    evaluation(8, duration=None, raw_kwargs=KWARGS, success=False, error_type="ValueError"),
    evaluation(9, duration=None, scores=(), input_tokens=4, total_tokens=4),
    evaluation(10, scores=(Score("\u00fc", 1e300, "line\nbreak \ud800"), Score("b", -0.0))),
    metric(11),
    metric(
        12, name="t\u00fcr\n", value=0.1, metric="mine", value_="too", timestamp="x", nested=KWARGS
    ),
    Log(START + 13, "warning", "m \u2028", {"level": "mine", "key": [1, {"a": None}]}, None),
    Log(START + 13.5, "info", "", {}, None),
    Sample(START + 14, True, None),
]


def row_by_row(folder: Path, events: list[Event]) -> tuple[str, str]:
    """Write each row with its own call, and return both files."""
    metrics, logs = FileMetricHandler(folder), FileLogHandler(folder)
    for event in events:
        if type(event) in METRICS.events:
            for name, value, metadata in METRICS.rows(event):
                metrics.handle_metric(name, value, metadata)
        if type(event) in LOGS.events:
            logs.handle_logs(LOGS.rows(event))
    return same_run(metrics.log_file.read_text()), logs.log_file.read_text()


def same_run(journal: str) -> str:
    """Replace the ids of the runs, which differ by file."""
    return re.sub(r'"run": "[0-9a-f]{8}-[1-9][0-9]*"', '"run": "a-run"', journal)


def new_lines() -> JournalLines:
    """Return the lines of a journal of its own."""
    return JournalLines(JournalRun(Path(f"journal-{next(_journals)}.jsonl")))


def at_once(events: list[Event]) -> tuple[str, str]:
    """Encode the events as the dispatcher does."""
    return same_run(new_lines().encode(events).decode()), log_lines(events).decode()


def test_lines_equal_those_of_single_rows(tmp_path: Path) -> None:
    """Encoding events together does not change a byte."""
    assert at_once(EVENTS) == row_by_row(tmp_path, EVENTS)
    assert at_once([]) == ("", "")


@pytest.mark.parametrize("case", VALUES)
def test_hostile_keywords_keep_lines_valid(tmp_path: Path, case: str) -> None:
    """Lines with any caller's values are valid JSON and equal a handler's."""
    value = VALUES[case]
    events: list[Event] = [
        generation(raw_kwargs={"mine": value, "metadata": value}),
        generation(raw_kwargs={"metadata": {"mine": value, "list": [value]}}),
        evaluation(raw_kwargs={"mine": {"deep": {"er": value}}}),
        metric(mine=value),
        Log(START, "info", "m", {"mine": value}, None),
    ]
    journal, log = at_once(events)
    assert (journal, log) == row_by_row(tmp_path, events)
    for line in [*journal.splitlines(), *(each.split(" - ", 1)[1] for each in log.splitlines())]:
        assert isinstance(json.loads(line), dict)


def test_timestamp_is_the_last_field() -> None:
    """A line has its timestamp however much metadata there is."""
    many = {f"key-{number}": number for number in range(2_000)}
    journal, _ = at_once([generation(raw_kwargs={"metadata": many}), metric(**many)])
    rows = [json.loads(line) for line in journal.splitlines()]
    assert len(rows) == 9
    assert all(list(row)[-1] == "timestamp" for row in rows)


def test_caches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endless names and labels keep a bounded number of cached texts."""
    monkeypatch.setattr(_lines, "_MAX_CACHED", 4)
    events: list[Event] = [
        made
        for number in range(30)
        for made in (
            generation(number, model=f"model-{number % 11}", step=f"step-{number}"),
            metric(number, name=f"name-{number % 7}"),
            evaluation(number, model=f"model-{number % 11}", evaluator=f"judge-{number % 5}"),
        )
    ]
    lines = new_lines()
    journal = same_run(lines.encode(events).decode() + lines.encode(events).decode())
    assert journal == row_by_row(tmp_path, [*events, *events])[0]
    assert len(lines._heads) <= 4
    assert len(lines._labels) <= 4


def test_cached_labels_differ_by_every_label() -> None:
    """Events that differ in one label, or in their kind, do not share a text."""
    journal, _ = at_once(
        [
            generation(),
            conversation(),
            generation(step=None),
            generation(provider="other"),
            evaluation(evaluator="a"),
            evaluation(evaluator="b"),
            evaluation(evaluator="b", total_tokens=3),
        ]
    )
    rows: list[dict[str, Any]] = [json.loads(line) for line in journal.splitlines()]
    names = ("phase", "model_name", "step", "provider", "evaluator_type")
    seen = {tuple(row.get(name) for name in names) for row in rows}
    assert len(seen) == 7


# Both ends of a summer of Berlin's, in the middle of an hour, and two times of Kathmandu's.
TIMES = [1_774_745_999.5, 1_774_746_000.25, 1_792_889_999.999_999, 1_792_890_000.0, 0.0, 5.000_001]
ZONES = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"]


@pytest.fixture
def zones(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that sets the local time zone until the end of the test."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


def reference(value: Any) -> str:
    """Encode without the fast path."""
    return json.dumps(to_jsonable(value), allow_nan=False)


@pytest.mark.parametrize("case", VALUES)
def test_fast_path_equals_slow_path(case: str) -> None:
    """Both encode every value to the same bytes."""
    value = VALUES[case]
    assert value_text(value) == reference(value)
    assert object_text({"key": value, "b": 1}) == reference({"key": value, "b": 1})
    nested = {"key": {"inner": value}, "list": [value], "b": 1}
    assert object_text(nested) == reference(nested)
    assert object_text(value) == reference(value)


@pytest.mark.parametrize(
    "mapping",
    [
        {},
        {"a": {}},
        {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}},
        {1: "number", None: "none", "t\u00fcr": "umlaut \ud800"},
        {StrKey("odd"): 1},
        {'quote"': "new\nline", "long": "x" * (MAX_TEXT + 1), "\u00fc": "\u00fc" * MAX_TEXT},
        {str(number): number for number in range(MAX_NODES + 10)},
        {str(each): {str(number): number for number in range(400)} for each in range(4)},
    ],
    ids=range(8),
)
def test_objects_are_bounded(mapping: dict[Any, Any]) -> None:
    """Depth, number of values, length of text and keys have the limits of JSON values."""
    assert object_text(mapping) == reference(mapping)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("when", TIMES)
def test_local_time_has_its_offset(zones: Any, zone: str, when: float) -> None:
    """Date, clock and offset are right on both sides of a change of the clock."""
    zones(zone)
    wanted = datetime.fromtimestamp(when, UTC).astimezone()
    for _ in range(2):  # computed, and remembered
        assert iso_time(when) == wanted.isoformat(timespec="microseconds")
        assert log_time(when) == wanted.strftime("%Y-%m-%d %H:%M:%S,") + (
            f"{int(when % 1 * 1_000):03d}"
        )


def test_time_zone_change_applies_at_once(zones: Any) -> None:
    """After ``time.tzset()`` even the same second gets the new local time."""
    stamps = []
    for zone in ZONES:
        zones(zone)
        stamps.append((iso_time(TIMES[1]), log_time(TIMES[1])))
    assert len(set(stamps)) == len(ZONES)


def test_fraction_rounds_up_to_the_next_second(zones: Any) -> None:
    """Microseconds never round to a million."""
    zones("UTC")
    for when in (999.999_999_9, 1_700_000_000.999_999_9, 1_700_000_000.5, 1_700_000_000.000_001_5):
        wanted = datetime.fromtimestamp(when, UTC)
        assert iso_time(when) == wanted.isoformat(timespec="microseconds")


@pytest.mark.parametrize(
    ("when", "year"), [(-1e15, "0001"), (1e15, "9999"), (math.inf, "9999"), (math.nan, "9999")]
)
def test_time_out_of_range_is_clamped(when: float, year: str) -> None:
    """Any timestamp of a caller has a line."""
    assert iso_time(when).startswith(year)
    assert datetime.fromisoformat(iso_time(when)).tzinfo is not None


def test_cached_times_are_right_in_any_order(zones: Any) -> None:
    """More seconds than the cache holds are each formatted correctly."""
    zones("Europe/Berlin")
    whens = [1_774_740_000.5 + step * 97 for step in range(200)]
    for when in [*whens, *reversed(whens)]:
        assert datetime.fromisoformat(iso_time(when)).timestamp() == when
