"""The report of exports of genmeter and AfterImage."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest

from _report import AFTERIMAGE, BEGIN, as_json, record_a_job, report
from genmeter.config.monitor import HistoryConfig, MonitorConfig
from genmeter.exporters._http import ScrapeServer
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from pathlib import Path

Capsys = pytest.CaptureFixture[str]
FORMATS = {"json": "job.json", "parquet": "job.parquet"}


def test_journal_export_and_endpoint_agree(tmp_path: Path, capsys: Capsys) -> None:
    """Calls, tokens and cost of every row are equal."""
    prices = tmp_path / "prices.json"
    prices.write_text('{"atlas-large": [2.5, 10.0], "sprint-mini": [0.1, 0.4, 0.05]}')
    with isolated_monitor(log_dir=tmp_path / "journal") as monitor:
        record_a_job(monitor)
        for form, name in FORMATS.items():
            monitor.export_metrics(tmp_path / name, form)
        saved = monitor.save_metrics()
        monitor.flush()
        server = ScrapeServer(lambda _: monitor.page().encode(), port=0)
        server.start()
        try:
            sources = {"endpoint": server.url}
            sources["journal"] = str(tmp_path / "journal")
            sources |= {form: str(tmp_path / name) for form, name in FORMATS.items()}
            sources["save_metrics"] = str(saved)
            found = {
                name: as_json(
                    capsys, source, "--by", "model,step,provider,phase", "--prices", prices
                )
                for name, source in sources.items()
            }
        finally:
            server.close()
    journal = found.pop("journal")
    assert len(journal["rows"]) == 8
    assert journal["total"]["calls"] == 43
    for name, other in found.items():
        exact = name != "endpoint"
        assert _sums(other["rows"], exact) == _sums(journal["rows"], exact), name
        assert _sums([other["total"]], exact) == _sums([journal["total"]], exact), name
        for key in ("conversations", "evaluations", "unpriced_models"):
            assert other[key] == journal[key], name


def _sums(rows: list[dict[str, Any]], has_quantiles: bool) -> list[dict[str, Any]]:
    left_out = set() if has_quantiles else {"duration_p50_seconds", "duration_p95_seconds"}
    return [
        {
            key: pytest.approx(value) if isinstance(value, float) else value
            for key, value in row.items()
            if key not in left_out
        }
        for row in rows
    ]


def test_an_export_of_afterimage_equals_its_journal(capsys: Capsys) -> None:
    """The order of the metrics does not matter."""
    journal = as_json(capsys, AFTERIMAGE / "metrics.jsonl")
    export = as_json(capsys, AFTERIMAGE / "export.json")
    assert export["rows"] == journal["rows"]
    assert export["evaluations"] == journal["evaluations"]
    assert export["conversations"] == journal["conversations"]


def test_a_window_counts_back_from_the_newest_event_of_an_export(
    tmp_path: Path, capsys: Capsys
) -> None:
    """Samples and earlier events are ignored."""
    rows = {
        "generation_time": [1.0, 2.0, 3.0],
        "success_rate": [1.0, 0.0, 1.0],
        "room": [1.0, 1.0, 1.0, 1.0],
    }
    stamps = [BEGIN.replace(hour=hour).isoformat() for hour in (10, 11, 12, 20)]
    content = {
        name: [
            {"timestamp": stamp, "value": value}
            | ({} if name == "room" else {"phase": "generation", "model_name": "a"})
            for stamp, value in zip(stamps, values, strict=False)
        ]
        for name, values in rows.items()
    }
    path = tmp_path / "export.json"
    path.write_text(json.dumps(content))
    assert as_json(capsys, path)["total"]["calls"] == 3
    found = as_json(capsys, path, "--window", "1h")
    assert (found["total"]["calls"], found["total"]["failures"]) == (2, 1)
    assert (found["since"], found["until"]) == (
        "2026-03-01T11:00:00+00:00",
        "2026-03-01T12:00:00+00:00",
    )
    assert found["window_seconds"] == 3600.0


def test_an_export_without_events_is_an_empty_report(tmp_path: Path, capsys: Capsys) -> None:
    """A job may have recorded nothing, or only samples."""
    with isolated_monitor() as monitor:
        monitor.export_metrics(tmp_path / "none.json")
        monitor.record_metric("success_rate", 1.0)
        monitor.export_metrics(tmp_path / "samples.parquet", "parquet")
    for name in ("none.json", "samples.parquet"):
        code, out, _ = report(capsys, tmp_path / name)
        assert (code, out) == (0, "Nothing to report: the export has no calls.\n")


def test_an_incomplete_export_is_reported(tmp_path: Path, capsys: Capsys) -> None:
    """A note says since when the history is complete."""
    config = dataclasses.replace(MonitorConfig(), history=HistoryConfig(capacity=10))
    with isolated_monitor(config) as monitor:
        for _ in range(20):
            monitor.track_generation(1.0, True, model_name="a")
        monitor.export_metrics(tmp_path / "job.parquet", "parquet")
    _, out, _ = report(capsys, tmp_path / "job.parquet")
    assert "Incomplete: the job kept no events before " in out


def test_invalid_values_of_an_export_are_reported(tmp_path: Path, capsys: Capsys) -> None:
    """A negative count or a text is skipped."""
    row = {"timestamp": BEGIN.isoformat(), "phase": "generation", "model_name": "a"}
    content = {
        "success_rate": [{"value": 1.0, **row}],
        "prompt_token_count": [{"value": -3, **row}, {"value": "many", **row}],
    }
    path = tmp_path / "export.json"
    path.write_text(json.dumps(content))
    found = as_json(capsys, path)
    assert (found["total"]["calls"], found["skipped"]) == (1, 2)
    assert found["notes"] == [f"Skipped 2 invalid values of {path}."]


def test_a_file_that_is_not_an_export_is_an_error(tmp_path: Path, capsys: Capsys) -> None:
    """The error names the file."""
    path = tmp_path / "other.json"
    path.write_text('["a", "b"]')
    code, out, err = report(capsys, path)
    assert (code, out) == (2, "")
    assert str(path) in err


@pytest.mark.parametrize(("format_", "name"), [("csv", "job.csv"), ("excel", "job.xlsx")])
def test_csv_and_excel_are_an_error_with_a_remedy(
    format_: str, name: str, tmp_path: Path, capsys: Capsys
) -> None:
    """The error names the file and the supported formats."""
    with isolated_monitor() as monitor:
        monitor.record_metric("queue", 1.0)
        monitor.export_metrics(tmp_path / name, format_)
    code, out, err = report(capsys, tmp_path / name)
    assert (code, out) == (2, "")
    assert str(tmp_path / name) in err
    assert "export JSON or Parquet" in err
