"""From the drain to the job's handlers: what they get, and that none of them harms another."""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock, Mock

import pytest
from _hostile import Raising

from _waiting import PATIENCE, eventually, soon
from genmeter import read_usage
from genmeter.events.afterimage import extra_data
from genmeter.events.model import (
    Call,
    Evaluation,
    Event,
    Generation,
    Log,
    Metric,
    Sample,
    Score,
)
from genmeter.handlers import dispatch as module
from genmeter.handlers.base import FileLogHandler, FileMetricHandler
from genmeter.handlers.dispatch import HandlerDispatcher
from genmeter.pipeline.deferred_log import DeferredLog
from genmeter.pipeline.self_metrics import SelfMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

WHEN = 1_700_000_000.25


def generation(number: int = 0, **passed: Any) -> Generation:
    """Return a call as AfterImage records it, of this duration."""
    return Generation(
        time=WHEN,
        call=Call("chat", "_OTHER", "m", "s", "unknown"),
        model_given=True,
        duration=float(number),
        success=True,
        input_tokens=2,
        output_tokens=1,
        total_tokens=3,
        cache_read_tokens=0,
        cache_write_tokens=0,
        reasoning_tokens=0,
        finish_reason="stop",
        error_type=None,
        is_conversation=False,
        turns=None,
        retries=None,
        raw_kwargs=passed,
        extra=extra_data(passed, None),
        span=None,
    )


def evaluation(**passed: Any) -> Evaluation:
    """Return an evaluation."""
    return Evaluation(
        time=WHEN,
        call=Call("chat", "_OTHER", "m", None, "unknown"),
        duration=0.5,
        success=False,
        evaluator="judge",
        error_type="ValueError",
        scores=(Score("a", 0.5), Score("b", 0.25, "poor", "fail")),
        input_tokens=None,
        output_tokens=None,
        total_tokens=None,
        cache_read_tokens=0,
        cache_write_tokens=0,
        reasoning_tokens=0,
        raw_kwargs=passed,
        extra=extra_data(passed, None),
        span=None,
    )


class Handler:
    """Receives metrics and logs; blocks while its gate is closed, and can raise."""

    def __init__(self) -> None:
        self.metrics: list[tuple[str, float, dict[str, Any]]] = []
        self.logs: list[dict[str, Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: BaseException | None = None

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Take a metric."""
        self.gate.wait(PATIENCE)
        self.metrics.append((metric_name, value, metadata))
        if self.error is not None:
            raise self.error

    def handle_log(self, message: dict[str, Any]) -> None:
        """Take a record."""
        self.logs.append(message)

    @property
    def durations(self) -> list[float]:
        """The values of ``generation_time``, in order."""
        return [value for name, value, _ in self.metrics if name == "generation_time"]


class Rig:
    """A dispatcher with its counters and log."""

    def __init__(self, **options: Any) -> None:
        self.self_metrics = SelfMetrics()
        self.deferred_log = DeferredLog()
        self.dispatcher = HandlerDispatcher(self.self_metrics, self.deferred_log, **options)

    def record(self, *events: Event) -> None:
        """Record events as a drain does."""
        for event in events:
            self.dispatcher.record(event)

    def settle(self) -> None:
        """Wait until everyone has taken all."""
        assert self.dispatcher.flush(soon()) == []

    def end(self, deadline: float | None = None) -> None:
        """Close, as a shutdown does."""
        self.dispatcher.begin_close()
        self.dispatcher.finish_close(soon() if deadline is None else deadline)

    @property
    def logged(self) -> list[str]:
        """The lines that wait to be logged."""
        return [each.message % each.arguments for each in self.deferred_log._waiting]


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Return a dispatcher, closed after the test."""
    made = Rig()
    yield made
    made.end(time.monotonic())


@pytest.fixture
def handler() -> Iterator[Handler]:
    """Return a handler, whose gate is opened after the test."""
    made = Handler()
    yield made
    made.gate.set()


_earlier: list[threading.Thread] = []


@pytest.fixture(autouse=True)
def _note_threads() -> None:
    """Remember the threads of other tests, e.g. of callbacks that never return."""
    _earlier[:] = threading.enumerate()


def worker_threads() -> list[threading.Thread]:
    """Return the running worker threads of this test."""
    return [
        each
        for each in threading.enumerate()
        if each.name.startswith("genmeter-") and each not in _earlier
    ]


# --- what handlers get -------------------------------------------------------------------------


def test_metric_handler_gets_afterimage_metrics_with_their_time(rig: Rig, handler: Handler) -> None:
    """Each metric has its own metadata, with the local time and its offset from UTC."""
    rig.dispatcher.metric_handlers = [handler]
    rig.record(generation(1, metadata={"operation": "s", "seed": 7}), Sample(WHEN, True, None))
    rig.settle()
    assert [(name, value) for name, value, _ in handler.metrics] == [
        ("generation_time", 1.0),
        ("success_rate", 1.0),
        ("error_rate", 0.0),
        ("model_usage:m", 1.0),
        ("finish_reason:stop", 1.0),
        ("prompt_token_count", 2),
        ("completion_token_count", 1),
        ("total_token_count", 3),
    ]
    stamps = {metadata["timestamp"] for _, _, metadata in handler.metrics}
    (stamp,) = stamps
    assert datetime.fromisoformat(stamp).timestamp() == WHEN
    assert datetime.fromisoformat(stamp).tzinfo is not None
    first, second, third = (metadata for _, _, metadata in handler.metrics[:3])
    assert first == {**second, "success": True, "seed": 7}
    assert second == {"phase": "generation", "model_name": "m", "step": "s", "timestamp": stamp}
    second["mine"] = 1
    assert "mine" not in third
    assert not handler.logs


@pytest.mark.parametrize(("when", "stamp"), [(-1e11, "0001-01-01T"), (253_402_300_799.9, "9999-")])
def test_time_outside_the_calendar_is_clamped(
    rig: Rig, handler: Handler, when: float, stamp: str
) -> None:
    """A time before the year 1 or after 9999 loses no event."""
    rig.dispatcher.metric_handlers = [handler]
    rig.record(Metric(when, "custom", 1.5, {"timestamp": "given", "key": 1}))
    rig.settle()
    ((name, value, metadata),) = handler.metrics
    assert (name, value) == ("custom", 1.5)
    assert metadata.pop("timestamp").startswith(stamp)
    assert metadata == {"key": 1}


def test_log_handler_gets_records_of_logs_calls_and_evaluations(rig: Rig, handler: Handler) -> None:
    """The level and a call's keywords are passed unchanged."""
    rig.dispatcher.log_handlers = [handler]
    error = ValueError("raw")
    rig.record(
        Log(WHEN, "warning", "m", {"key": error, "level": "mine"}, None),
        generation(1, error=error, custom=[1]),
        evaluation(custom=2),
        Metric(WHEN, "custom", 1.0, {}),
    )
    rig.settle()
    log, call, judged = handler.logs
    assert log == {"level": "warning", "message": "m", "key": error, "level_": "mine"}
    stamp = call["data"].pop("timestamp")
    assert datetime.fromisoformat(stamp).timestamp() == WHEN
    assert call == {
        "level": "info",
        "message": "Generation metrics",
        "data": {"duration": 1.0, "success": True, "error": error, "custom": [1]},
    }
    assert judged == {
        "level": "info",
        "message": "Evaluation metrics",
        "data": {
            "timestamp": stamp,
            "duration": 0.5,
            "success": False,
            "evaluator_type": "judge",
            "scores": {"a": 0.5, "b": {"score": 0.25, "label": "fail", "feedback": "poor"}},
            "custom": 2,
        },
    }
    assert not handler.metrics


def test_mock_is_called_by_keywords(rig: Rig) -> None:
    """A method for batches that only a mock has is never called."""
    metrics, logs = MagicMock(), Mock()
    rig.dispatcher.metric_handlers, rig.dispatcher.log_handlers = [metrics], [logs]
    rig.record(Metric(WHEN, "custom", 1.0, {"key": 1}), Log(WHEN, "info", "m", {}, None))
    rig.settle()
    (call,) = metrics.method_calls
    assert call.kwargs["metric_name"] == "custom"
    assert call.kwargs["value"] == 1.0
    assert call.kwargs["metadata"]["key"] == 1
    logs.handle_log.assert_called_once_with({"level": "info", "message": "m"})
    assert not rig.logged


def test_order_is_kept_and_nothing_is_lost(rig: Rig, handler: Handler) -> None:
    """A handler gets every event in order."""
    rig.dispatcher.metric_handlers = [handler]
    rig.record(*map(generation, range(3_000)))
    rig.end()
    assert handler.durations == list(range(3_000))
    assert not rig.self_metrics.handler_errors


def test_batch_method_is_used_unless_single_one_is_overridden(rig: Rig, tmp_path: Path) -> None:
    """A subclass that overrides the method for one metric gets each metric."""
    batches: list[int] = []
    seen: list[str] = []

    class Batched(FileMetricHandler):
        def handle_metrics(self, batch: Sequence[tuple[str, float, dict[str, Any]]]) -> None:
            """Count the rows."""
            batches.append(len(batch))
            super().handle_metrics(batch)

    class Single(Batched):
        def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
            """Note the name."""
            seen.append(metric_name)

    patched = Batched(tmp_path)
    patched.handle_metric = lambda **row: seen.append(row["metric_name"])  # type: ignore[method-assign]
    rig.dispatcher.metric_handlers = [Batched(tmp_path), Single(tmp_path), patched]
    rig.record(generation())
    rig.settle()
    assert batches == [8]
    assert len(seen) == 16
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 8


def test_file_handler_gets_encoded_lines(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rows are created for a file, also for a subclass without overrides."""

    def fail(self: Any, batch: Any) -> None:
        raise AssertionError("asked for rows")

    monkeypatch.setattr(FileMetricHandler, "handle_metrics", fail)
    monkeypatch.setattr(FileLogHandler, "handle_logs", fail)

    class Derived(FileMetricHandler):
        """Has a name of its own only."""

    metrics, logs = Derived(tmp_path), FileLogHandler(tmp_path)
    rig.dispatcher.metric_handlers, rig.dispatcher.log_handlers = [metrics], [logs]
    rig.record(generation(1), evaluation(), Log(WHEN, "info", "m", {}, None))
    rig.settle()
    assert not rig.self_metrics.handler_errors
    assert len(metrics.log_file.read_text().splitlines()) == 12
    assert len(logs.log_file.read_text().splitlines()) == 3


def test_every_way_to_override_a_method_is_respected(rig: Rig, tmp_path: Path) -> None:
    """Overrides in a subclass, a mixin or the object itself are called."""
    seen: list[str] = []

    class Mixin:
        def handle_log(self, message: dict[str, Any]) -> None:
            """Note the message."""
            seen.append(f"mixin {message['message']}")

    class Mixed(Mixin, FileLogHandler):
        """Takes the method of the mixin."""

    class Derived(FileLogHandler):
        def handle_log(self, message: dict[str, Any]) -> None:
            """Note the message, and write it too."""
            seen.append(f"derived {message['message']}")
            super().handle_log(message)

    patched = FileLogHandler(tmp_path / "patched")
    patched.handle_logs = lambda batch: seen.extend(  # type: ignore[method-assign]
        f"patched {record['message']}" for _, record in batch
    )
    derived = Derived(tmp_path / "derived")
    rig.dispatcher.log_handlers = [Mixed(tmp_path / "mixed"), derived, patched]
    rig.record(Log(WHEN, "info", "m", {}, None))
    rig.settle()
    assert sorted(seen) == ["derived m", "mixin m", "patched m"]
    assert derived.log_file.read_text().endswith('{"level": "info", "message": "m"}\n')
    assert not (tmp_path / "mixed").exists()
    assert not (tmp_path / "patched").exists()


# --- handlers that come and go -----------------------------------------------------------------


def test_list_of_handlers_may_change_between_events(rig: Rig) -> None:
    """A job may change, replace or clear the list, and add a handler again."""
    first, second = Handler(), Handler()
    rig.dispatcher.metric_handlers.append(first)
    rig.record(generation(1))
    rig.dispatcher.metric_handlers.append(second)
    rig.record(generation(2))
    rig.dispatcher.metric_handlers = [second]
    rig.record(generation(3))
    rig.dispatcher.metric_handlers.clear()
    rig.record(generation(4))
    rig.dispatcher.metric_handlers = [second, first]
    rig.record(generation(5))
    rig.settle()
    assert first.durations == [1, 2, 5]
    assert second.durations == [2, 3, 5]


def test_removed_handler_gets_its_queued_events(rig: Rig, handler: Handler) -> None:
    """Its thread ends only when its queue is empty."""
    handler.gate.clear()
    rig.dispatcher.metric_handlers = [handler]
    rig.record(generation(1), generation(2))
    rig.dispatcher.metric_handlers = []
    rig.record(generation(3))
    assert len(worker_threads()) == 1
    handler.gate.set()
    rig.settle()
    rig.record(generation(4))
    assert eventually(lambda: not worker_threads())
    assert handler.durations == [1, 2]
    assert not rig.dispatcher._workers()


def test_file_of_a_removed_handler_is_closed(rig: Rig, tmp_path: Path) -> None:
    """A job with a new journal for each phase does not run out of files and threads."""
    made = [FileMetricHandler(tmp_path / str(number)) for number in range(5)]
    twice = Handler()
    for handler in made:
        rig.dispatcher.metric_handlers = [twice, twice, handler]
        rig.record(generation(1))
        rig.settle()
    rig.dispatcher.metric_handlers = [twice, twice]
    rig.record(generation(2))
    assert eventually(lambda: len(worker_threads()) == 1)
    assert [handler._lines._fd for handler in made] == [None] * 5
    assert [worker.label for worker in rig.dispatcher._workers()] == ["Handler"]


def test_file_handlers_are_closed_at_the_end(rig: Rig, tmp_path: Path) -> None:
    """No file stays open after a shutdown."""
    metrics, logs = FileMetricHandler(tmp_path), FileLogHandler(tmp_path)
    rig.dispatcher.metric_handlers, rig.dispatcher.log_handlers = [metrics], [logs]
    rig.record(generation())
    rig.settle()
    assert metrics._lines._fd is not None
    rig.end()
    assert metrics._lines._fd is None
    assert logs._lines._fd is None
    assert len(metrics.log_file.read_text().splitlines()) == 8
    assert "Generation metrics" in logs.log_file.read_text()


def test_one_object_may_be_several_handlers(rig: Rig) -> None:
    """In both lists it gets metrics and logs; twice in one list, everything twice."""
    both = Handler()
    rig.dispatcher.metric_handlers, rig.dispatcher.log_handlers = [both, both], [both]
    rig.record(Metric(WHEN, "custom", 1.0, {}), Log(WHEN, "info", "m", {}, None))
    rig.settle()
    assert len(both.metrics) == 2
    assert len(both.logs) == 1


def test_handlers_are_distinguished_by_identity(rig: Rig) -> None:
    """Equal handlers are two, and need neither a hash nor a comparison."""

    class Equal(Handler):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

    class Incomparable(Handler):
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("compared")

        def __hash__(self) -> int:
            raise RuntimeError("hashed")

    made = [Equal(), Equal(), Incomparable(), Incomparable()]
    for handlers in (made, made[::-1], made[1:]):
        rig.dispatcher.metric_handlers = handlers
        rig.record(generation(1))
    rig.settle()
    assert [len(each.durations) for each in made] == [2, 3, 3, 3]
    assert not rig.self_metrics.handler_errors


@pytest.mark.parametrize("make", [type(None), int, str, Raising, dict])
def test_invalid_list_of_handlers_is_ignored(make: type, handler: Handler) -> None:
    """It is logged once."""
    rig = Rig()
    given: Any = make()
    rig.dispatcher.metric_handlers, rig.dispatcher.log_handlers = given, [handler]
    rig.record(generation(1), generation(2))
    rig.settle()
    assert len(handler.logs) == 2
    assert len(rig.logged) == (given is not None)
    rig.end()


def test_tuple_and_list_subclass_are_valid_lists(rig: Rig, handler: Handler) -> None:
    """Overridden methods of a subclass are not called."""

    class Lying(list[Any]):
        def __iter__(self) -> Any:
            raise RuntimeError("asked")

    for handlers in ((handler,), Lying([handler])):
        rig.dispatcher.metric_handlers = handlers  # type: ignore[assignment]
        rig.record(generation(1))
    rig.settle()
    assert len(handler.durations) == 2


# --- handlers that fail ------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt()])
def test_errors_of_a_handler_are_counted_and_logged_once(
    rig: Rig, handler: Handler, error: BaseException
) -> None:
    """The handler still gets every metric, and so do others."""
    other = Handler()
    handler.error = error
    rig.dispatcher.metric_handlers = [handler, other]
    rig.record(*map(generation, range(20)))
    rig.settle()
    assert len(handler.metrics) == len(other.metrics) == 160
    assert rig.self_metrics.handler_errors == {("Handler", "raised"): 20}
    (line,) = rig.logged
    assert line == (
        f"Handler.handle_metric failed: {str(error) or 'KeyboardInterrupt'}; further failures are only counted, in "
        "genmeter_monitor_handler_errors_total"
    )
    (notice,) = rig.deferred_log._waiting
    assert notice.level == logging.WARNING
    assert notice.error is error


def test_handler_without_the_method_is_a_failure(rig: Rig) -> None:
    """A handler added at run time fails at the first event."""

    class Hidden:
        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            raise RuntimeError("asked")

    rig.dispatcher.metric_handlers = [object(), Raising(), Hidden()]
    rig.record(generation(1), generation(2))
    rig.settle()
    assert rig.self_metrics.handler_errors == {
        ("object", "raised"): 2,
        ("Raising", "raised"): 2,
        ("Hidden", "raised"): 2,
    }
    assert len(rig.logged) == 3


def test_coroutine_is_a_failure(rig: Rig) -> None:
    """It would never be awaited, so the event counts as lost."""

    class Later:
        async def handle_log(self, message: dict[str, Any]) -> None:
            """Take a record."""

    rig.dispatcher.log_handlers = [Later()]
    rig.record(generation(1))
    rig.settle()
    assert rig.self_metrics.handler_errors == {("Later", "raised"): 1}
    assert "coroutine" in rig.logged[0]


def test_blocked_handler_delays_neither_others_nor_the_end(rig: Rig, handler: Handler) -> None:
    """Others get everything; the end names the blocked one and counts its losses."""
    handler.gate.clear()
    other = Handler()
    rig.dispatcher.metric_handlers = [handler, other]
    rig.record(*map(generation, range(10)))
    assert eventually(lambda: len(other.durations) == 10)
    assert rig.dispatcher.flush(time.monotonic() + 0.01) == ["Handler"]
    rig.end(time.monotonic() + 0.01)
    assert rig.self_metrics.handler_errors == {("Handler", "unfinished"): 10}
    (line,) = rig.logged
    assert line == (
        "Handler.handle_metric had 10 events pending when shutdown timed out; "
        "genmeter_monitor_handler_errors_total counts them; raise shutdown_timeout, or make the "
        "handler faster"
    )
    rig.end()
    assert rig.self_metrics.handler_errors == {("Handler", "unfinished"): 10}
    handler.gate.set()
    assert eventually(lambda: not worker_threads())
    assert handler.durations == [0]


def test_threads_of_handlers_start_before_the_first_event(
    rig: Rig, handler: Handler, tmp_path: Path
) -> None:
    """An interpreter that shuts down cannot start threads."""
    rig.dispatcher.metric_handlers = [handler, FileMetricHandler(tmp_path)]
    rig.dispatcher.log_handlers = [handler, FileLogHandler(tmp_path)]
    rig.dispatcher.start()
    rig.dispatcher.start()
    assert [each.name for each in worker_threads()] == ["genmeter-Handler", "genmeter-Handler"]


def test_full_queue_is_counted_and_logged_once(
    rig: Rig, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stalled handler keeps a bounded number of events, and the drain never waits."""
    monkeypatch.setattr(module, "CAPACITY", 5)
    handler.gate.clear()
    rig.dispatcher.metric_handlers = [handler]
    rig.record(generation(0))
    assert eventually(lambda: not rig.dispatcher._workers()[0].waiting)
    rig.record(*map(generation, range(1, 9)))
    assert rig.self_metrics.handler_errors == {("Handler", "queue_full"): 3}
    (line,) = rig.logged
    assert line.startswith("Handler.handle_metric is too slow: 5 events are queued")
    handler.gate.set()
    rig.settle()
    assert handler.durations == list(range(6))


def test_events_that_a_journal_dropped_leave_a_gap_in_its_numbers(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By it a report knows of calls that a full queue dropped; custom metrics do not count."""
    monkeypatch.setattr(module, "CAPACITY", 5)
    journal = FileMetricHandler(tmp_path)
    gate = threading.Event()
    append = journal._lines.append

    def append_later(data: bytes) -> None:
        assert gate.wait(PATIENCE)
        append(data)

    monkeypatch.setattr(journal._lines, "append", append_later)
    rig.dispatcher.metric_handlers = [journal]
    rig.record(generation(0))
    assert eventually(lambda: not rig.dispatcher._workers()[0].waiting)
    custom = Metric(1.0, "custom", 1.0, {})
    rig.record(*map(generation, range(1, 9)), custom, custom)
    gate.set()
    rig.settle()
    rig.record(generation(9))
    rig.settle()
    usage = read_usage(tmp_path, by="model")
    assert usage.total["calls"] == 7
    assert usage.notes[0].startswith("Incomplete: 7 of at least 10 calls, ")


def test_full_disk_is_one_warning_without_a_traceback(rig: Rig, tmp_path: Path) -> None:
    """It names the file and the remedy; every lost event is counted."""
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    rig.dispatcher.metric_handlers = [FileMetricHandler(tmp_path)]
    for number in range(5):
        rig.record(generation(number))
        rig.settle()
    rig.end()
    assert rig.self_metrics.handler_errors == {("FileMetricHandler", "raised"): 5}
    (line,) = rig.logged
    assert f"{tmp_path / 'metrics.jsonl'} cannot be written: No space left on device" in line
    (notice,) = rig.deferred_log._waiting
    assert notice.error is None


def test_events_after_the_end_are_counted(rig: Rig, handler: Handler) -> None:
    """Events drained by a last collection still arrive; later ones are counted."""
    rig.dispatcher.metric_handlers = [handler]
    rig.record(generation(1))
    rig.settle()
    rig.dispatcher.begin_close()
    assert eventually(lambda: not worker_threads())
    rig.record(generation(2))
    rig.dispatcher.finish_close(soon())
    rig.record(generation(3))
    assert handler.durations == [1, 2]
    assert rig.self_metrics.handler_errors == {("Handler", "unfinished"): 1}


# --- subscribers and forks ---------------------------------------------------------------------


class _Subscriber:
    """Takes logs and metrics."""

    name = "subscriber"
    wants = (Log, Metric)

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.error: Exception | None = None

    def take(self, events: Sequence[Event]) -> None:
        """Take events."""
        self.events += events
        if self.error is not None:
            raise self.error


def test_subscriber_gets_its_types_of_events() -> None:
    """Events are in order; errors are counted under the subscriber's name."""
    subscriber = _Subscriber()
    rig = Rig(subscribers=[subscriber])
    log, metric = Log(WHEN, "info", "m", {}, None), Metric(WHEN, "custom", 1.0, {})
    rig.record(log, generation(), metric, Sample(WHEN, True, None))
    rig.settle()
    assert subscriber.events == [log, metric]
    subscriber.error = RuntimeError("the subscriber's own")
    rig.record(log)
    rig.end()
    assert rig.self_metrics.handler_errors == {("subscriber", "raised"): 1}
    assert rig.logged[0].startswith("subscriber failed: the subscriber's own")


def test_only_deliveries_of_logs_are_marked(rig: Rig) -> None:
    """Log messages of a log handler would return to it; those of a metric handler would not."""
    seen: list[tuple[str, bool]] = []

    class Asks:
        def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
            seen.append((metric_name, module.is_handing_out_logs()))

        def handle_log(self, message: dict[str, Any]) -> None:
            seen.append((message["message"], module.is_handing_out_logs()))
            raise ValueError("the mark must go all the same")

    rig.dispatcher.metric_handlers = rig.dispatcher.log_handlers = [Asks()]
    rig.record(Metric(WHEN, "custom", 1.0, {}), Log(WHEN, "info", "hello", {}, None))
    rig.settle()
    assert sorted(seen) == [("custom", False), ("hello", True)]
    assert not module.is_handing_out_logs()


def test_dispatcher_works_in_a_forked_child(rig: Rig, handler: Handler) -> None:
    """Also if the parent's dispatcher was being closed."""
    rig.dispatcher.metric_handlers = [handler]
    rig.record(generation(1))
    rig.end()
    rig.dispatcher.reset()
    rig.record(generation(2))
    rig.settle()
    assert handler.durations == [1, 2]
    assert not rig.self_metrics.handler_errors
