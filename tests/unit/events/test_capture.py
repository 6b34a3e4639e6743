"""Plain data from any arguments of a caller, captured in the call."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import math
import sys
import threading
import types
import weakref
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from _held import held
from _hostile import VALUES, Raising, RaisingError, StrKey

from _waiting import PATIENCE
from genmeter import GenerationMonitor, MonitorConfig
from genmeter.config.monitor import EndpointConfig
from genmeter.events.capture import (
    ATOMS,
    MAX_RETRIES,
    capture_bool,
    capture_keywords,
    capture_label,
    capture_mapping,
    capture_number,
    capture_scores,
    capture_time,
    class_name,
    copy_mapping,
    lookup,
)
from genmeter.events.model import RATE_LIMITED, Raw, Reason
from genmeter.events.values import Rejected, Unusable
from genmeter.testing import fresh_runtime, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from genmeter.testing import IsolatedMonitor

NUMBERS = (
    *("prompt_token_count", "completion_token_count", "total_token_count"),
    *("cache_read_token_count", "cache_write_token_count", "reasoning_token_count"),
    *("conversation_length", "turns"),
)
LABELS = (
    *("model_name", "finish_reason", "error_type", "provider", "operation", "step"),
    "modality",
)


class Same:
    """Objects of this class are distinct keys with the same text."""

    def __str__(self) -> str:
        return "same"


class Unhashable(type):
    """A metaclass that defines only equality, so that its classes have no hash."""

    def __eq__(cls, other: object) -> bool:
        return cls is other

    __hash__ = None  # type: ignore[assignment]


class Hostile(type):
    """A metaclass whose classes can be neither compared nor hashed."""

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError(other)

    def __hash__(cls) -> int:
        raise RuntimeError


class OfUnhashable(metaclass=Unhashable):
    """An object of a class without a hash."""


class OfHostile(metaclass=Hostile):
    """An object of a class that raises."""


def is_plain(value: Any) -> bool:
    """Return whether a value has only true built-in types, at any depth."""
    kind = type(value)
    if kind is dict:
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if kind is list:
        return all(map(is_plain, value))
    return kind in ATOMS


def is_plain_or_unusable(value: Any) -> bool:
    """Return whether a value is plain, or an ``Unusable`` of plain data."""
    if type(value) is Unusable:
        return type(value.reason) is Reason and type(value.text) is str
    return is_plain(value)


def made(value: Any) -> Any:
    """Create the object, which cannot be a parameter because it raises."""
    return Raising() if value is Raising else value


class Count(int):
    """An int of a class of its own."""


class Seconds(float):
    """A float of a class of its own."""


class Name(str):
    """A text of a class of its own."""

    __slots__ = ()


class Table(dict[Any, Any]):
    """A dict of a class of its own."""


class Level(IntEnum):
    """A number with a name."""

    HIGH = 3


class Model(Enum):
    """A model's name."""

    SMALL = "small"


# --- hostile values -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", VALUES)
def test_any_value_becomes_plain_data(case: str) -> None:
    """Every function returns true built-in types, and none raises."""
    value = VALUES[case]
    assert is_plain(capture_mapping(value))
    assert is_plain(capture_mapping({"key": value, "list": [value], "dict": {"key": value}}))
    assert is_plain_or_unusable(capture_number(value))
    truth = capture_bool(value)
    assert is_plain_or_unusable(truth)
    assert type(capture_label(value)) in (str, type(None))
    scored = {"score": value, "feedback": value, "label": value}
    for scores in (value, {"s": value}, {"s": scored}):
        plain = capture_scores(scores)
        if type(plain) is dict:
            for row in plain.values():
                parts = row.values() if type(row) is dict else [row]
                assert all(map(is_plain_or_unusable, parts))
        else:
            assert is_plain(plain)


@pytest.mark.parametrize("name", [*NUMBERS, *LABELS, "error", "retries", "anything", "scores"])
def test_every_keyword_becomes_plain_data(name: str) -> None:
    """Numbers, labels, errors, retries and other data, alone and in lists."""
    for case, value in VALUES.items():
        keywords = {name: value, "second": [value]}
        error_class = capture_keywords(keywords)
        assert all(map(is_plain_or_unusable, keywords.values())), case
        assert list(keywords) == [name, "second"]
        assert type(error_class) in (str, type(None)), case


def test_plain_keywords_are_unchanged() -> None:
    """Plain data is neither copied nor converted."""
    keywords = {
        "model_name": "m",
        "prompt_token_count": 5,
        "error": "late",
        "own": 0.5,
        "none": None,
    }
    before = keywords.copy()
    assert capture_keywords(keywords) is None
    assert keywords == before
    assert all(keywords[name] is before[name] for name in before)


# --- numbers, labels and truth ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (Count(7), 7),
        (Seconds(0.5), 0.5),
        (Decimal("1.5"), 1.5),
        (Fraction(1, 4), 0.25),
        (np.int64(4), 4),
        (np.float32(0.5), 0.5),
        (np.array(7), 7),
        (Level.HIGH, 3),
        (np.bool_(1), True),
        (2**70, 2**70),
        (None, None),
        ("12", "12"),
    ],
)
def test_number_of_any_class_becomes_int_or_float(value: Any, number: Any) -> None:
    """It is converted without loss; a boolean stays one, which no count accepts."""
    plain = capture_number(value)
    assert plain == number
    assert type(plain) is type(number)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"5", Reason.NOT_A_NUMBER),
        ([1], Reason.NOT_A_NUMBER),
        (np.array([1, 2]), Reason.NOT_A_NUMBER),
        (Decimal("sNaN"), Reason.NOT_A_NUMBER),
        (Name("5"), Reason.NOT_A_NUMBER),
        (Raising, Reason.UNREADABLE),
        (Fraction(10**400), Reason.OUT_OF_RANGE),
    ],
)
def test_invalid_number_has_a_reason(value: Any, reason: Reason) -> None:
    """The reason and a text are kept, but not the object."""
    unusable = capture_number(made(value))
    assert type(unusable) is Unusable
    assert unusable.reason is reason
    assert len(unusable.text) <= 200
    assert str(unusable) == unusable.text


@pytest.mark.parametrize(
    ("value", "truth"),
    [(True, True), (0, 0), (None, None), ("", ""), ([], False), ([0], True), (np.True_, True)],
)
def test_truth_value_is_read_in_the_call(value: Any, truth: Any) -> None:
    """Atoms are unchanged; other objects are converted."""
    assert capture_bool(value) is truth or capture_bool(value) == truth
    assert type(capture_bool(value)) is type(truth)


@pytest.mark.parametrize("value", [np.array([1, 2]), pd.NA, Raising], ids=["array", "na", "own"])
def test_value_without_a_truth_value_has_a_reason(value: Any) -> None:
    """The drain counts it, and the call as a failure."""
    assert capture_bool(made(value)).reason is Reason.NOT_A_BOOLEAN


@pytest.mark.parametrize(
    ("value", "label"),
    [("m", "m"), (None, None), (Name("m"), "m"), (Model.SMALL, "small"), (5, "5"), (Raising, None)],
)
def test_label_of_any_class_becomes_text(value: Any, label: str | None) -> None:
    """An Enum becomes its value; an unreadable object is not a label."""
    plain = capture_label(made(value))
    assert plain == label
    assert type(plain) is type(label)


def test_label_of_any_class_is_bounded() -> None:
    """An endless text is cut to the length of a label."""
    assert len(capture_label(Name("x" * 1_000_000)) or "") == 512


def test_class_name_ignores_the_metaclass() -> None:
    """The name comes from ``type`` itself."""

    class Nameless(type):
        @property
        def __name__(cls) -> str:
            raise RuntimeError("no name")

    class HiddenError(Exception, metaclass=Nameless):
        pass

    assert class_name(HiddenError) == "HiddenError"
    assert capture_keywords({"error": HiddenError()}) == "HiddenError"


# --- mappings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        ({}, {}),
        ({"a": 1, "b": None}, {"a": 1, "b": None}),
        (Table(a=1), {"a": 1}),
        ({"a": Count(1), "b": Seconds(0.5), "c": Name("n")}, {"a": 1, "b": 0.5, "c": "n"}),
        ({"a": [1, (2, {3})], "b": Table(x=Level.HIGH)}, {"a": [1, [2, [3]]], "b": {"x": 3}}),
        ({Model.SMALL: 1, None: 2, 3: 3, Name("n"): 4}, {"small": 1, "None": 2, "3": 3, "n": 4}),
        ({"1": "text", 1: "number"}, {"1": "text", "1_": "number"}),
        ({(1, 2): 1, Raising: 2}, {"(1, 2)": 1, str(Raising): 2}),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, {"at": "2026-01-01T00:00:00+00:00"}),
        ({"nan": math.inf, "n": np.float64("nan")}, {"nan": math.inf, "n": "nan"}),
    ],
    ids=str,
)
def test_mapping_becomes_a_dict_with_text_keys(data: Any, plain: dict[str, Any]) -> None:
    """Keys of odd classes become text, and two with equal text are both kept."""
    found = capture_mapping(data)
    assert found == plain
    assert list(found) == list(plain)
    assert is_plain(found)
    assert found is not data


@pytest.mark.parametrize("value", [5, "text", None, [("a", 1)], Raising, {1, 2}], ids=str)
def test_invalid_mapping_becomes_text(value: Any) -> None:
    """The drain rejects it; a list of pairs is not a mapping."""
    value = made(value)
    for function in (capture_mapping, copy_mapping, capture_scores):
        assert type(function(value)) in ATOMS


def test_keys_with_equal_text_are_all_kept() -> None:
    """Any number of them get distinct names without a long search."""
    found = capture_mapping({Same(): number for number in range(20_000)})
    assert sorted(found.values()) == list(range(20_000))


def test_keys_that_raise_when_compared_are_kept() -> None:
    """A text of such a class is a key like any other."""
    assert capture_mapping({StrKey("a"): 1, StrKey("b"): 2}) == {"a": 1, "b": 2}
    assert lookup({StrKey("timestamp"): 1}, "timestamp") is None
    assert lookup({"a": 1}, "b", 0) == 0


def test_dict_is_copied_while_another_thread_changes_it() -> None:
    """No call fails when another thread adds and removes keys."""
    shared: dict[Any, Any] = {f"key{number}": number for number in range(200)}
    stop, failures = threading.Event(), list[BaseException]()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            shared[number] = [number]
            shared.pop(number - 50, None)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            for function in (capture_mapping, capture_scores):
                found = function(shared)
                assert found["key0"] == 0
                assert found["key199"] == 199
    except RuntimeError as error:
        failures.append(error)
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert not failures


@pytest.mark.parametrize(
    ("scores", "plain"),
    [
        ({"a": 0.5, "b": Decimal("0.25")}, {"a": 0.5, "b": 0.25}),
        ({Model.SMALL: np.float32(0.5)}, {"small": 0.5}),
        (
            {"a": {"score": Level.HIGH, "feedback": Name("fine")}},
            {"a": {"score": 3, "feedback": "fine"}},
        ),
        ({"a": {"feedback": 5}}, {"a": {"score": 0, "feedback": "5"}}),
        ({"a": {"score": 1, "label": Model.SMALL}}, {"a": {"score": 1, "label": "small"}}),
        ({"a": {"score": 1, "label": None}}, {"a": {"score": 1}}),
        ({"a": Table(score=1)}, {"a": {"score": 1}}),
        (Table(a=1), {"a": 1}),
        ({}, {}),
    ],
    ids=str,
)
def test_scores_are_numbers_or_dicts_of_score_and_feedback(scores: Any, plain: Any) -> None:
    """Other keys of a dict are dropped."""
    assert capture_scores(scores) == plain


def test_invalid_score_has_a_reason() -> None:
    """The evaluation keeps its other scores."""
    found = capture_scores({"bad": [1], "good": 1, "row": {"score": "high"}})
    assert found["bad"].reason is Reason.NOT_A_NUMBER
    assert (found["good"], found["row"]["score"]) == (1, "high")


@pytest.mark.parametrize(
    "stamp",
    [
        *("2026-01-01", 5.0, None, pd.NaT),
        datetime(9999, 12, 31, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
    ],
    ids=str,
)
def test_invalid_time_is_rejected(stamp: Any) -> None:
    """Only a datetime in the range of every output is a time."""
    with pytest.raises(Rejected) as caught:
        capture_time(stamp)
    assert caught.value.reason is Reason.NOT_A_TIME


def test_datetime_becomes_unix_time() -> None:
    """It is in seconds, whatever the datetime's class."""
    when = datetime(2026, 1, 1, tzinfo=UTC)
    assert capture_time(when) == capture_time(pd.Timestamp(when)) == when.timestamp()


# --- retries ------------------------------------------------------------------------------------


class LimitedError(Exception):
    """An error with HTTP's status."""

    status_code = 429


class RateLimitError(Exception):
    """An error that is named so."""


@pytest.mark.parametrize(
    ("retries", "plain"),
    [
        (3, 3),
        (np.int64(3), 3),
        ([], []),
        ([TimeoutError("late"), TimeoutError, "TimeoutError"], ["TimeoutError"] * 3),
        (
            (LimitedError(), RateLimitError(), RateLimitError, "openai.ratelimit"),
            [RATE_LIMITED] * 4,
        ),
        ([None, 5, RaisingError(), VALUES["raising"]], [None, "5", "RaisingError", None]),
        ([Name("x")], ["x"]),
    ],
    ids=["int", "numpy", "none", "timeouts", "limits", "odd", "named"],
)
def test_retries_are_a_number_or_names_of_causes(retries: Any, plain: Any) -> None:
    """An exception becomes its class, and every rate limit has the same name."""
    keywords = {"retries": retries}
    capture_keywords(keywords)
    assert keywords["retries"] == plain


def test_causes_of_retries_are_bounded() -> None:
    """The first causes of an endless list are kept."""
    keywords: dict[str, Any] = {"retries": ["x"] * (2 * MAX_RETRIES)}
    capture_keywords(keywords)
    assert len(keywords["retries"]) == MAX_RETRIES


# --- what waits holds on to nothing, takes no lock, and does not change -------------------------


@pytest.fixture
def monitor() -> Iterator[GenerationMonitor]:
    """Return a monitor whose events wait for the pipeline's thread."""
    config = MonitorConfig(endpoint=EndpointConfig(enabled=False), meter_provider="global")
    with fresh_runtime(), GenerationMonitor(config=config) as made:
        yield made


class LockedError(Exception):
    """An exception whose text takes a lock."""

    lock = threading.Lock()

    def __str__(self) -> str:
        assert self.lock.acquire(timeout=PATIENCE)
        try:
            return "the text"
        finally:
            self.lock.release()


def test_text_of_an_error_is_read_in_the_call(monitor: GenerationMonitor) -> None:
    """A caller that holds a lock of the error while it reads does not deadlock."""
    error = LockedError()
    monitor.track_generation(1.0, False, model_name="m", error=error, retries=[error], own=error)
    monitor.track_evaluation(1.0, False, "e", {"s": {"feedback": error}}, error=error)
    monitor.record_metric("x", 1.0, {"error": error})
    monitor.record_sample(False, error)  # type: ignore[arg-type]
    monitor.log_error("m", error=error, data=error)
    with LockedError.lock:
        assert monitor._pipeline.run(lambda: True, PATIENCE)
        assert monitor.get_metrics("error_rate")["count"] == 1


class Watched(Exception):  # noqa: N818 - its life is what is watched
    """An exception that can be referred to weakly."""


def raised() -> tuple[Watched, weakref.ref[Any]]:
    """Return an exception with a traceback, and a reference to a local of its frame."""

    class Local:
        """A local variable."""

    local = Local()
    try:
        raise Watched(local and "text")
    except Watched as error:
        return error, weakref.ref(local)


RECORDS: dict[str, Callable[[Any, BaseException], object]] = {
    "error": lambda m, error: m.track_generation(1.0, False, error=error),
    "retries": lambda m, error: m.track_generation(1.0, True, retries=[error]),
    "keyword": lambda m, error: m.track_generation(1.0, True, own=[error]),
    "metadata": lambda m, error: m.track_generation(1.0, True, metadata={"e": {"e": error}}),
    "evaluation": lambda m, error: m.track_evaluation(1.0, False, "e", {}, error=error),
    "feedback": lambda m, error: m.track_evaluation(1.0, True, "e", {"s": {"feedback": error}}),
    "score": lambda m, error: m.track_evaluation(1.0, True, "e", {"s": error}),
    "duration": lambda m, error: m.track_generation(error, True),
    "success": lambda m, error: m.track_generation(1.0, error),
    "value": lambda m, error: m.record_metric("x", error),
    "metric": lambda m, error: m.record_metric("x", 1.0, {"timestamp": error}),
    "sample": lambda m, error: m.record_sample(False, error),
    "log": lambda m, error: m.log_error("m", error=error),
    "data": lambda m, error: m.log_info("m", error=error, nested=[error]),
    "message": lambda m, error: m.log_info(error),
    "handle": lambda m, error: m.generation("m").__exit__(type(error), error, error.__traceback__),
}


@pytest.mark.parametrize("how", RECORDS)
def test_queued_event_keeps_no_traceback_or_local(monitor: GenerationMonitor, how: str) -> None:
    """Frames of a failed call are freed when the caller drops them, not at the drain."""
    error, local = raised()
    gone = weakref.ref(error)
    with held(monitor._pipeline):
        RECORDS[how](monitor, error)
        assert monitor._pipeline.inbox
        del error
        gc.collect()
        assert gone() is None
        assert local() is None


@pytest.mark.parametrize("how", RECORDS)
def test_only_plain_data_enters_the_inbox(monitor: GenerationMonitor, how: str) -> None:
    """Except for the session and a span's ids an event has built-in types."""
    error, _ = raised()
    with held(monitor._pipeline):
        RECORDS[how](monitor, error)
        events = list(monitor._pipeline.inbox)
    for event in events:
        if event[0] is not Raw.CALL:
            assert event[1] is monitor._session
            assert all(map(_is_event_data, event[2:]))


def _is_event_data(value: Any) -> bool:
    if type(value) is dict:
        return all(type(key) is str and _is_event_data(item) for key, item in value.items())
    return is_plain_or_unusable(value)


def test_data_is_recorded_as_it_was_at_the_call(tmp_path: Path) -> None:
    """Metadata, keywords, scores and log data, in the history, the journal and the log."""
    config = MonitorConfig(endpoint=EndpointConfig(enabled=False), meter_provider="global")
    words, scores = ["before"], {"s": {"score": 1, "feedback": "before"}}
    metadata: dict[str, Any] = {"operation": "before", "words": words, "deep": {"words": words}}
    with fresh_runtime(), GenerationMonitor(tmp_path, config=config) as monitor:
        with held(monitor._pipeline):
            monitor.track_generation(1.0, True, model_name="m", metadata=metadata, own=words)
            monitor.track_evaluation(1.0, True, "e", scores, own=words, metadata=metadata)
            monitor.record_metric("x", 1.0, metadata)
            monitor.log_info("m", own=words, metadata=metadata)
            handle = monitor.generation("m", metadata=metadata)
            with handle:
                pass
            words[0] = "after"
            metadata.update(operation="after", new="after")
            scores["s"].update(score=0, feedback="after")
        monitor.flush(PATIENCE)
        monitor.export_metrics(tmp_path / "out.json", format="json")
        assert monitor.get_metrics("evaluation_score_s")["mean"] == 1
    texts = [
        (tmp_path / name).read_text() for name in ("out.json", "metrics.jsonl", "afterimage.log")
    ]
    for text in texts:
        assert "before" in text
        assert "after" not in text.replace("afterimage", "")


# --- reasons ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (lambda m: m.track_generation("5", True), Reason.NOT_A_NUMBER),
        (lambda m: m.track_generation(None, True), Reason.NOT_A_NUMBER),
        (lambda m: m.track_generation(True, True), Reason.NOT_A_NUMBER),
        (lambda m: m.track_generation(np.True_, True), Reason.NOT_A_NUMBER),
        (lambda m: m.track_generation(Decimal(-1), True), Reason.NEGATIVE),
        (lambda m: m.track_generation(np.float64("inf"), True), Reason.NOT_FINITE),
        (lambda m: m.track_generation(Fraction(10**400), True), Reason.OUT_OF_RANGE),
        (lambda m: m.track_generation(Raising(), True), Reason.UNREADABLE),
        (lambda m: m.track_generation(1.0, Raising()), Reason.NOT_A_BOOLEAN),
        (lambda m: m.track_generation(1.0, True, turns=[1]), Reason.NOT_A_NUMBER),
        (lambda m: m.track_generation(1.0, True, prompt_token_count=b"5"), Reason.NOT_A_NUMBER),
        (lambda m: m.track_generation(1.0, True, retries={"a": 1}), Reason.NOT_A_NUMBER),
        (lambda m: m.track_generation(1.0, True, metadata=[("a", 1)]), Reason.NOT_A_MAPPING),
        (lambda m: m.track_generation(1.0, True, metadata=Raising()), Reason.NOT_A_MAPPING),
        (lambda m: m.track_generation(1.0, True, metadata=5), Reason.NOT_A_MAPPING),
        (lambda m: m.track_evaluation(1.0, True, "e", [1]), Reason.NOT_A_MAPPING),
        (lambda m: m.track_evaluation(1.0, True, "e", {"s": []}), Reason.NOT_A_NUMBER),
        (lambda m: m.track_evaluation(1.0, True, "e", {"s": {"score": None}}), Reason.NOT_A_NUMBER),
        (lambda m: m.track_evaluation(1.0, True, "e", {"": 1}), Reason.NO_NAME),
        (lambda m: m.record_metric("x", "5"), Reason.NOT_A_NUMBER),
        (lambda m: m.record_metric(Raising(), 5), Reason.NO_NAME),
        (lambda m: m.record_metric("x", 5, "text"), Reason.NOT_A_MAPPING),
        (lambda m: m.record_metric("x", 5, {"timestamp": "now"}), Reason.NOT_A_TIME),
        (lambda m: m.record_sample(pd.NA), Reason.NOT_A_BOOLEAN),
    ],
)
def test_rejection_has_the_same_reason_in_call_and_drain(
    record: Callable[[IsolatedMonitor], object], reason: Reason
) -> None:
    """One reason is counted once."""
    with isolated_monitor() as monitor:
        record(monitor)
        assert monitor._pipeline.self_metrics.rejected == {reason.value: 1}


def test_mock_as_metadata_has_no_time() -> None:
    """A mock's result of ``get`` is not a timestamp, and the value is kept."""
    with isolated_monitor() as monitor:
        monitor.record_metric("x", 1.0, VALUES["mock"])
        assert monitor.get_metrics("x")["count"] == 1
        assert not monitor._pipeline.self_metrics.rejected


def test_metadata_of_record_metric_sets_the_time() -> None:
    """A datetime replaces the call's time, and is kept as text in the metadata."""
    when = datetime(2026, 1, 1, tzinfo=UTC)
    with isolated_monitor() as monitor:
        seen: list[Any] = []
        session = monitor._session
        session.recorders = (type("Spy", (), {"record": staticmethod(seen.append)})(),)
        monitor.record_metric("x", 1.0, {"timestamp": when, "own": 1})
        monitor.record_metric("x", 1.0, Table(timestamp=when))
        monitor.record_metric("x", 1.0, {"timestamp": "bad"})
        assert [each.time for each in seen[:2]] == [when.timestamp()] * 2
        assert seen[0].metadata == {"timestamp": when.isoformat(), "own": 1}
        assert seen[2].time > when.timestamp()
        assert json.dumps([each.metadata for each in seen])


@pytest.mark.parametrize("kind", [OfUnhashable, OfHostile], ids=["unhashable", "hostile"])
def test_value_of_a_class_without_a_hash_loses_no_event(
    monitor: GenerationMonitor, kind: type
) -> None:
    """Whatever the metaclass defines."""
    odd = kind()
    for name in (*NUMBERS, *LABELS, "error", "retries", "metadata", "other"):
        monitor.track_generation(1.0, True, **{name: odd})
        monitor.track_generation(1.0, True, **{name: [odd]})
        monitor.track_evaluation(1.0, True, "e", {}, **{name: odd})
    monitor.track_generation(odd, odd)
    monitor.track_evaluation(odd, odd, odd, {"a": odd, "b": {"score": odd, "feedback": odd}})
    monitor.track_evaluation(1.0, True, "e", odd)
    monitor.record_metric("m", odd, {"x": odd, "timestamp": odd})
    monitor.record_metric("m", 1.0, odd)
    monitor.record_sample(odd, odd)
    monitor.log_error(odd, odd, x=odd)
    with monitor.generation(odd, odd, provider=odd, operation=odd, metadata=odd) as call:
        call.usage(types.SimpleNamespace(prompt_tokens=odd, completion_tokens=3, model=odd))
        call.retry(odd)
        call.fail(odd)
    rejected = monitor._pipeline.self_metrics.rejected
    assert Reason.INTERNAL.value not in rejected
    assert len(monitor.to_frame("evaluations")) == len((*NUMBERS, *LABELS)) + 4 + 2


def test_nested_dict_may_change_during_the_call(
    monitor: GenerationMonitor,
) -> None:
    """Another thread may add and remove keys at any depth."""
    changing = {f"key {number}": number for number in range(200)}
    is_over = threading.Event()

    def change() -> None:
        while not is_over.is_set():
            for number in range(200):
                changing[f"new {number}"] = number
            for number in range(200):
                del changing[f"new {number}"]

    thread = threading.Thread(target=change)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for _ in range(1_000):
            monitor.track_generation(
                1.0, True, total_token_count=1, metadata={"a": changing}, other=[changing]
            )
    finally:
        is_over.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert monitor.get_total_token_usage().total_tokens == 1_000


def test_object_that_reads_a_cancelled_future_is_unreadable(monitor: GenerationMonitor) -> None:
    """Its error does not cancel the job's task, and the event is kept."""

    class Lazy:
        """An answer whose future was cancelled."""

        @property
        def usage(self) -> Any:
            raise asyncio.CancelledError

        def __str__(self) -> str:
            raise asyncio.CancelledError

    monitor.track_generation(1.0, True, model_name=Lazy(), error=Lazy(), total_token_count=1)
    with monitor.generation("m") as call:
        call.usage(Lazy())
    assert monitor.get_total_token_usage().total_tokens == 1
    assert len(monitor.to_frame()) == 2


class Endless:
    """A mapping whose keys have no end."""

    def keys(self) -> Iterator[int]:
        """Count."""
        return itertools.count()

    def __getitem__(self, key: int) -> int:
        return key


def test_endless_mapping_is_cut() -> None:
    """The call returns, and the first keys are recorded."""
    data = capture_mapping(Endless())
    assert list(data.items())[:2] == [("0", 0), ("1", 1)]
    assert len(data) < 100_000
    (score,) = capture_scores({"s": Endless()}).values()
    assert score == {"score": 0}
