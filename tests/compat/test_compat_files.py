"""Files of AfterImage's class and of ours: journal, log, saved metrics and exports."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from _compat import journal

if TYPE_CHECKING:
    from pathlib import Path

    from _compat import Subject

FILE_NAME = re.compile(r"metrics_\d{8}_\d{6}\.json")


def record(subject: Subject) -> Any:
    """Return a monitor with two calls and a metric defined by the caller."""
    monitor = subject.monitor()
    for duration in (1.5, 2.5):
        monitor.track_generation(duration, True, prompt_token_count=10)
    monitor.record_metric("temperature", 0.7)
    subject.settle(monitor)
    return monitor


def test_the_journal_has_a_line_for_each_metric(subject: Subject) -> None:
    """A line of `metrics.jsonl` has `metric`, `value` and the metadata, flat."""
    record(subject)
    assert [row["value"] for row in journal(subject, "generation_time")] == [1.5, 2.5]
    assert [row["value"] for row in journal(subject, "prompt_token_count")] == [10, 10]
    (temperature,) = journal(subject, "temperature")
    assert datetime.fromisoformat(temperature.pop("timestamp"))
    assert temperature == {"metric": "temperature", "value": 0.7}


def test_the_lines_of_a_call_are_adjacent(subject: Subject) -> None:
    """The lines of a call follow each other and share a timestamp."""
    record(subject)
    stamps = [row["timestamp"] for row in journal(subject)]
    runs = [stamp for number, stamp in enumerate(stamps) if stamp != stamps[number - 1]]
    assert len(runs) == len(set(stamps)) == 3


def test_the_log_has_a_time_and_a_message_on_each_line(subject: Subject) -> None:
    """A line of `afterimage.log` is the time, a hyphen and the record as JSON."""
    monitor = subject.monitor()
    monitor.log_warning("model created", model="atlas")
    monitor.track_generation(1.5, True, model_name="atlas")
    subject.settle(monitor)
    lines = (subject.log_dir / "afterimage.log").read_text(encoding="utf-8").splitlines()
    records = {}
    for line in lines:
        stamp, _, text = line.partition(" - ")
        assert datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f")  # noqa: DTZ007 - it has no zone
        record = json.loads(text)
        records[record["message"]] = record
    assert records["model created"] == {
        "message": "model created",
        "level": "warning",
        "model": "atlas",
    }
    assert records["Generation metrics"]["data"]["model_name"] == "atlas"


def test_no_files_are_written_to_the_default_folder(subject: Subject) -> None:
    """Without a `log_dir` ours writes neither journal nor log; AfterImage's class writes both."""
    monitor = subject.create(metrics_interval=0)
    monitor.track_generation(1.0, True)
    monitor.log_info("here")
    subject.settle(monitor)
    found = {path.name for path in subject.folder.rglob("*") if path.is_file()}
    assert found == subject.differs(
        afterimage={"metrics.jsonl", "afterimage.log"}, ours=set(), why="no file without a request"
    )


def test_the_file_metric_handler_writes_a_line(subject: Subject, tmp_path: Path) -> None:
    """`FileMetricHandler(folder)` appends to `metrics.jsonl` in an existing folder."""
    monitor = subject.monitor(metric_handlers=[subject.module.FileMetricHandler(tmp_path)])
    monitor.record_metric("m", 1.0, {"a": 1})
    subject.settle(monitor)
    (line,) = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(line)
    row.pop("timestamp")
    assert row == {"metric": "m", "value": 1.0, "a": 1}


def test_the_file_handlers_can_be_called_directly(subject: Subject, tmp_path: Path) -> None:
    """A custom handler that calls a file handler finds its line in the file at once."""
    metrics = subject.module.FileMetricHandler(tmp_path)
    metrics.handle_metric("m", 1.0, {"a": 1})
    row = json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8"))
    assert row == {"metric": "m", "value": 1.0, "a": 1}
    logs = subject.module.FileLogHandler(tmp_path)
    logs.handle_log({"level": "info", "message": "here"})
    text = (tmp_path / "afterimage.log").read_text(encoding="utf-8")
    assert json.loads(text.partition(" - ")[2]) == {"level": "info", "message": "here"}
    _close(metrics, logs)


def test_save_metrics_writes_all_metrics_to_the_log_dir(subject: Subject) -> None:
    """The file is named by the time, returned, and has a list of samples for each metric."""
    monitor = record(subject)
    path = monitor.save_metrics()
    assert path.parent == subject.log_dir
    assert FILE_NAME.fullmatch(path.name)
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert [sample["value"] for sample in saved["generation_time"]] == [1.5, 2.5]
    assert [sample["value"] for sample in saved["success_rate"]] == [1.0, 1.0]
    assert [sample["value"] for sample in saved["prompt_token_count"]] == [10, 10]
    (temperature,) = saved["temperature"]
    assert temperature["value"] == 0.7
    assert all(
        datetime.fromisoformat(sample["timestamp"]) for rows in saved.values() for sample in rows
    )


@pytest.mark.parametrize("kind", [str, None])
def test_a_json_export_equals_saved_metrics(
    subject: Subject, tmp_path: Path, kind: type | None
) -> None:
    """JSON is the default format, and the path may be text."""
    monitor = record(subject)
    path = tmp_path / "out.json"
    assert monitor.export_metrics(str(path) if kind else path) is None
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found == json.loads(monitor.save_metrics().read_text(encoding="utf-8"))


def test_a_csv_export_has_a_file_per_metric(subject: Subject, tmp_path: Path) -> None:
    """Each metric has a file `STEM_METRIC.csv` with the columns `timestamp` and `value`."""
    import pandas as pd

    monitor = record(subject)
    monitor.export_metrics(tmp_path / "new" / "out.csv", format="csv")
    names = {path.name for path in (tmp_path / "new").glob("*.csv")}
    assert {
        "out_generation_time.csv",
        "out_success_rate.csv",
        "out_prompt_token_count.csv",
        "out_temperature.csv",
    } <= names
    frame = pd.read_csv(tmp_path / "new" / "out_generation_time.csv")
    assert list(frame.columns)[:2] == ["timestamp", "value"]
    assert frame["value"].tolist() == [1.5, 2.5]
    assert pd.to_datetime(frame["timestamp"]).notna().all()


def test_an_excel_export_has_a_sheet_per_metric(subject: Subject, tmp_path: Path) -> None:
    """Sheets have the names of the metrics, if these are valid in Excel."""
    import pandas as pd

    monitor = record(subject)
    monitor.export_metrics(tmp_path / "out.xlsx", format="excel")
    sheets = pd.read_excel(tmp_path / "out.xlsx", sheet_name=None)
    assert {"generation_time", "success_rate", "prompt_token_count", "temperature"} <= set(sheets)
    assert list(sheets["generation_time"].columns)[:2] == ["timestamp", "value"]
    assert sheets["generation_time"]["value"].tolist() == [1.5, 2.5]


def test_a_parquet_export_is_one_long_table(subject: Subject, tmp_path: Path) -> None:
    """Each sample is a row with `metric_name`, `timestamp` and `value`."""
    import pandas as pd

    monitor = record(subject)
    monitor.export_metrics(tmp_path / "out.parquet", format="parquet")
    frame = pd.read_parquet(tmp_path / "out.parquet")
    assert list(frame.columns)[:3] == ["metric_name", "timestamp", "value"]
    values = frame.groupby("metric_name")["value"].apply(list)
    assert values["generation_time"] == [1.5, 2.5]
    assert values["temperature"] == [0.7]
    assert pd.api.types.is_datetime64_any_dtype(frame["timestamp"])


def test_an_unknown_format_is_an_error(subject: Subject, tmp_path: Path) -> None:
    """An unknown format is a `ValueError`, and no file is created."""
    monitor = record(subject)
    with pytest.raises(ValueError, match="xml"):
        monitor.export_metrics(tmp_path / "out.xml", format="xml")
    assert not (tmp_path / "out.xml").exists()


def test_an_export_can_be_limited_to_a_window(subject: Subject, tmp_path: Path) -> None:
    """With a window only samples in it are written."""
    monitor = subject.monitor()
    then = datetime.now() - timedelta(hours=1)  # noqa: DTZ005 - AfterImage's class takes naive times
    monitor.record_metric("m", 1.0, {"timestamp": then})
    monitor.record_metric("m", 2.0)
    subject.settle(monitor)
    monitor.export_metrics(tmp_path / "out.json", "json", timedelta(minutes=5))
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [sample["value"] for sample in found["m"]] == [2.0]


def _close(*handlers: Any) -> None:
    """Close the files of handlers that belong to no monitor."""
    for handler in handlers:
        if hasattr(handler, "close"):
            handler.close()
        for each in getattr(getattr(handler, "logger", None), "handlers", ()):
            each.close()
