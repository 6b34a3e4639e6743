"""The lines of events in the journal and the log, encoded at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from _hostile import VALUES

from genmeter.events.model import Event, Log, Sample, Score
from genmeter.handlers import _event_lines as module
from genmeter.handlers._event_lines import JournalLines, log_lines
from genmeter.handlers.base import FileLogHandler, FileMetricHandler
from genmeter.handlers.dispatch import LOGS, METRICS
from history_events import START, conversation, evaluation, generation, metric

if TYPE_CHECKING:
    from pathlib import Path

TOLD = {
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
    generation(4.123_456_7, success=False, error_type="TimeoutError", raw_kwargs=TOLD),
    generation(
        5, retries={"rate_limited": 2}, raw_kwargs={"metadata": {"deep": [[1.5, None, True]]}}
    ),
    conversation(6),
    generation(6),  # the same call as the first one
    evaluation(7),
    evaluation(8, duration=None, raw_kwargs=TOLD, success=False, error_type="ValueError"),
    evaluation(9, duration=None, scores=(), input_tokens=4, total_tokens=4),
    evaluation(10, scores=(Score("\u00fc", 1e300, "line\nbreak \ud800"), Score("b", -0.0))),
    metric(11),
    metric(
        12, name="t\u00fcr\n", value=0.1, metric="mine", value_="too", timestamp="x", nested=TOLD
    ),
    Log(START + 13, "warning", "m \u2028", {"level": "mine", "key": [1, {"a": None}]}, None),
    Log(START + 13.5, "info", "", {}, None),
    Sample(START + 14, True, None),
]


def row_by_row(folder: Path, events: list[Event]) -> tuple[str, str]:
    """Write each row with a call of its own, as a handler of the job's does; return both files."""
    metrics, logs = FileMetricHandler(folder), FileLogHandler(folder)
    for event in events:
        if type(event) in METRICS.events:
            for name, value, metadata in METRICS.rows(event):
                metrics.handle_metric(name, value, metadata)
        if type(event) in LOGS.events:
            logs.handle_logs(LOGS.rows(event))
    return metrics.log_file.read_text(), logs.log_file.read_text()


def at_once(events: list[Event]) -> tuple[str, str]:
    """Encode the events as the dispatcher does."""
    return JournalLines().encode(events).decode(), log_lines(events).decode()


def test_lines_are_those_that_each_row_alone_has(tmp_path: Path) -> None:
    """To the byte, whatever the events have in common with each other."""
    assert at_once(EVENTS) == row_by_row(tmp_path, EVENTS)
    assert at_once([]) == ("", "")


@pytest.mark.parametrize("case", VALUES)
def test_hostile_keywords_cost_no_line(tmp_path: Path, case: str) -> None:
    """Whatever a caller passed along is on the line of its event as a handler would write it."""
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


def test_the_time_of_an_event_is_the_last_field_of_its_lines() -> None:
    """However much a caller passed along, no line of the journal is without its time."""
    many = {f"key-{number}": number for number in range(2_000)}
    journal, _ = at_once([generation(raw_kwargs={"metadata": many}), metric(**many)])
    rows = [json.loads(line) for line in journal.splitlines()]
    assert len(rows) == 9
    assert all(list(row)[-1] == "timestamp" for row in rows)


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and labels without end keep a bounded number of texts, and their lines are right."""
    monkeypatch.setattr(module, "_MOST_CACHED", 4)
    events: list[Event] = [
        made
        for number in range(30)
        for made in (
            generation(number, model=f"model-{number % 11}", step=f"step-{number}"),
            metric(number, name=f"name-{number % 7}"),
            evaluation(number, model=f"model-{number % 11}", evaluator=f"judge-{number % 5}"),
        )
    ]
    lines = JournalLines()
    journal = lines.encode(events).decode() + lines.encode(events).decode()
    assert journal == 2 * row_by_row(tmp_path, events)[0]
    assert len(lines._heads) <= 4
    assert len(lines._labels) <= 4


def test_labels_are_those_of_the_event_not_of_its_like() -> None:
    """Events that differ in one label only, or in their kind, do not share a text."""
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
