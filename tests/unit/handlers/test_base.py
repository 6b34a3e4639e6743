"""The handlers that write files, and the check of those that a job brings along."""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, MagicMock, Mock

import numpy as np
import pytest
from _hostile import VALUES, Raising

from genmeter.errors import ConfigError
from genmeter.handlers.base import (
    FileLogHandler,
    FileMetricHandler,
    LogHandler,
    MetricHandler,
    check_handlers,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUN = re.compile(r"[0-9a-f]{8}-[1-9][0-9]*")
LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) - (\{.*\})")


def strict(line: str) -> Any:
    """Parse a line as strict JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(line, parse_constant=refuse)


def read(path: Path) -> list[Any]:
    """Read a journal; only rows with a phase name their run, which is removed."""
    rows = [strict(line) for line in path.read_text().split("\n")[:-1]]
    for row in rows:
        run = row.pop("run", "")
        assert ("phase" in row) == bool(RUN.fullmatch(run))
    return rows


def test_journal_has_an_object_for_each_metric(tmp_path: Path) -> None:
    """The object has name, value and metadata in AfterImage's order, the run before the time."""
    handler = FileMetricHandler(tmp_path / "logs")
    handler.handle_metric("generation_time", 1.5, {"phase": "generation", "timestamp": "now"})
    assert handler.log_file == tmp_path / "logs" / "metrics.jsonl"
    (run,) = re.findall(r'"run": "([^"]*)"', handler.log_file.read_text())
    assert RUN.fullmatch(run)
    assert handler.log_file.read_text() == (
        '{"metric": "generation_time", "value": 1.5, "phase": "generation", '
        f'"run": "{run}", "timestamp": "now"}}\n'
    )
    assert repr(handler) == f"FileMetricHandler({str(tmp_path / 'logs')!r})"


def test_batch_equals_single_calls(tmp_path: Path) -> None:
    """Shared metadata does not change the lines."""
    shared = {"phase": "generation", "step": "a"}
    batch: list[tuple[Any, Any, dict[str, Any]]] = [
        ("generation_time", 0.25, {**shared, "success": True}),
        ("success_rate", 1.0, shared),
        ("success_rate", 0.0, shared),
        ("prompt_token_count", 12, shared),
        ("custom", 2**70, {}),
        ("custom", True, {"success": 1}),
        ("custom", np.float32(0.5), {"success": True}),
        ("custom", 1, {"metric": "mine", "value": "too"}),
        ("success_rate", 1.0, shared),
        ("\u00fc\ud800\n", 1e300, {"nested": {"\ud800": [1, (2, {3})]}}),
    ]
    together, alone = (FileMetricHandler(tmp_path / name) for name in ("together", "alone"))
    together.handle_metrics(batch)
    together.handle_metrics([])
    for row in batch:
        alone.handle_metric(*row)
    # The process is the same, the journal another.
    (run,), (other,) = (
        set(re.findall(r'"run": "([^"]*)"', each.log_file.read_text()))
        for each in (together, alone)
    )
    assert run[:8] == other[:8]
    assert run != other
    assert together.log_file.read_text() == alone.log_file.read_text().replace(other, run)
    found = read(together.log_file)
    assert found[3] == {"metric": "prompt_token_count", "value": 12, **shared}
    assert found[4] == {"metric": "custom", "value": str(2**70)}
    assert found[7] == {"metric": "mine", "value": "too"}
    assert found[9]["metric"] == "\u00fc?\n"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_text(tmp_path: Path, value: float) -> None:
    """Strict readers can parse the file."""
    handler = FileMetricHandler(tmp_path)
    handler.handle_metric("custom", value, {"also": value})
    (found,) = read(handler.log_file)
    assert found == {"metric": "custom", "value": str(value), "also": str(value)}


def test_any_metadata_is_one_line_of_json(tmp_path: Path) -> None:
    """No value of a caller breaks a line."""
    metrics, logs = FileMetricHandler(tmp_path), FileLogHandler(tmp_path)
    for value in VALUES.values():
        metrics.handle_metric("custom", 1.0, {"value_of": value, "a\nkey": [value]})
        logs.handle_log({"level": "info", "message": value})
    assert len(read(metrics.log_file)) == len(VALUES)
    for line in logs.log_file.read_text().split("\n")[:-1]:
        found = LOG_LINE.fullmatch(line)
        assert found
        assert strict(found[2])["level"] == "info"
    assert logs.log_file.read_text().count("\n") == len(VALUES)


def test_metadata_must_be_a_dict(tmp_path: Path) -> None:
    """A direct call with anything else raises and writes nothing."""
    handler = FileMetricHandler(tmp_path)
    with pytest.raises(TypeError):
        handler.handle_metric("custom", 1.0, None)  # type: ignore[arg-type]
    assert not handler.log_file.exists()


def test_log_line_has_time_and_record(tmp_path: Path) -> None:
    """Each line starts with the record's local time, or the current one, in milliseconds."""
    handler = FileLogHandler(tmp_path)
    assert handler.log_file == tmp_path / "afterimage.log"
    when = datetime(2026, 1, 31, 12, 0, 0, 123_400).timestamp()  # noqa: DTZ001 - local time
    record = {"level": "warning", "message": "m", "key": 1}
    handler.handle_logs([(when, record)])
    handler.handle_logs([])
    before = time.time()
    handler.handle_log({"level": "info", "message": "now"})
    first, second = handler.log_file.read_text().splitlines()
    assert first == "2026-01-31 12:00:00,123 - " + json.dumps(record)
    found = LOG_LINE.fullmatch(second)
    assert found
    now = datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()  # noqa: DTZ007
    assert before - 0.01 <= now <= time.time()
    assert strict(found[2]) == {"level": "info", "message": "now"}


def test_direct_calls_are_written_on_return(tmp_path: Path) -> None:
    """A line can be read when the call returns, whatever other threads write."""
    handler = FileMetricHandler(tmp_path)
    missing: list[str] = []

    def write(name: str) -> None:
        for number in range(50):
            handler.handle_metric(name, number, {})
            if f'"{name}", "value": {number}}}' not in handler.log_file.read_text():
                missing.append(name)

    threads = [threading.Thread(target=write, args=[f"metric-{each}"]) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not missing
    assert len(read(handler.log_file)) == 200


def test_files_are_closed_and_rotated(tmp_path: Path) -> None:
    """``max_bytes`` and ``keep`` bound the disk space of both handlers."""
    metrics = FileMetricHandler(str(tmp_path), max_bytes=100, keep=2)
    logs = FileLogHandler(tmp_path, max_bytes=100, keep=1)
    for number in range(20):
        metrics.handle_metric("custom", number, {"timestamp": "now"})
        logs.handle_log({"level": "info", "message": str(number)})
        metrics.close()
        logs.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("afterimage.1.log", "afterimage.log"),
        *("metrics.1.jsonl", "metrics.2.jsonl", "metrics.jsonl"),
    ]
    assert read(tmp_path / "metrics.jsonl")[-1]["value"] == 19
    assert metrics.log_dir == tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_dir": None}, "log_dir must be a path .*, got None"),
        ({"log_dir": ""}, "log_dir must be a path .*, got ''"),
        ({"log_dir": b"folder"}, "log_dir must be a path .*, got b'folder'"),
        ({"log_dir": "x", "max_bytes": 0}, "max_bytes must be .* at least 1, or None, got 0"),
        ({"log_dir": "x", "max_bytes": 1.5}, "max_bytes must be a whole number .*got 1.5"),
        ({"log_dir": "x", "max_bytes": True}, "max_bytes must be a whole number .*got True"),
        ({"log_dir": "x", "keep": 0}, "keep must be a whole number of at least 1, got 0"),
        ({"log_dir": "x", "keep": None}, "keep must be a whole number of at least 1, got None"),
    ],
)
@pytest.mark.parametrize("kind", [FileMetricHandler, FileLogHandler])
def test_invalid_argument_is_rejected(
    kind: Callable[..., object], arguments: dict[str, Any], message: str
) -> None:
    """The error names the argument, the value and the remedy."""
    with pytest.raises(ConfigError, match=message):
        kind(**arguments)


def test_protocols_match_by_method(tmp_path: Path) -> None:
    """A handler need not derive from the protocol."""

    class Mine:
        def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
            """Take nothing."""

    class Derived(LogHandler):
        def handle_log(self, message: dict[str, Any]) -> None:
            """Take nothing."""

    assert isinstance(Mine(), MetricHandler)
    assert not isinstance(Mine(), LogHandler)
    assert isinstance(Derived(), LogHandler)
    assert isinstance(FileMetricHandler(tmp_path), MetricHandler)
    assert isinstance(FileLogHandler(tmp_path), LogHandler)
    check_handlers(
        "metric_handlers", [Mine(), FileMetricHandler(tmp_path), Mock()], "handle_metric"
    )
    check_handlers("log_handlers", [Derived(), FileLogHandler(tmp_path), MagicMock()], "handle_log")
    check_handlers("log_handlers", [], "handle_log")


class Awaited:
    """A handler with a coroutine."""

    async def handle_metric(self, metric_name: str, value: float, metadata: Any) -> None:
        """Take nothing."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: 5,
            "must be an object with a plain method handle_metric, such as FileMetricHandler(folder)",
        ),
        (lambda: 5, "metric_handlers[1] must be"),
        (lambda: 5, "got 5, without handle_metric"),
        (lambda: print, "without handle_metric"),
        (logging.NullHandler, "such as FileMetricHandler(folder)"),
        (Raising, "got an object that cannot be shown, without handle_metric"),
        (Awaited, "whose handle_metric is a coroutine"),
        (AsyncMock, "whose handle_metric is a coroutine"),
    ],
)
def test_object_without_the_method_is_rejected(make: Callable[[], object], message: str) -> None:
    """The error names the argument, the position, the value and the remedy."""
    with pytest.raises(ConfigError) as caught:
        check_handlers("metric_handlers", [Mock(), make()], "handle_metric")
    assert message in str(caught.value)
