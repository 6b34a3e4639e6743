"""What notebooks show of reports and monitors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter import MonitorConfig, read_usage
from genmeter.tables.html import Column, html_table
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from pathlib import Path


def test_a_table_is_text_only() -> None:
    """Names cannot add HTML, and an empty table has its notes."""
    shown = html_table(
        [Column("<i>", ["<script>", "b"], "total", is_name=True), Column("n", ["1", "2"], "3")],
        title="a & b",
        notes=["<b>"],
    )
    assert "<script>" not in shown
    assert "<i>" not in shown
    assert shown.count("<tr>") == 4
    assert "&lt;script&gt;" in shown
    assert '<th style="text-align: right">3</th>' in shown
    assert "a &amp; b" in shown
    assert html_table([], notes=["nothing"]) == "<div>\n<p>nothing</p>\n</div>"


def test_the_views_have_the_numbers_of_the_text(tmp_path: Path) -> None:
    """Of the monitor's report, the monitor, and a report of its journal; notes included."""
    config = MonitorConfig(prices={"atlas": (1.0, 2.0)})
    with isolated_monitor(config, log_dir=tmp_path) as monitor:
        monitor.track_generation(1.0, True, model_name="atlas", prompt_token_count=1_234_567)
        with monitor.generation(model="birch"):
            pass
        monitor.flush()
        report = monitor.get_total_token_usage()
        views = [
            report._repr_html_(),
            monitor._repr_html_(),
            read_usage(tmp_path, by="model")._repr_html_(),
        ]
    for shown in views:
        assert "1,234,567" in shown
        assert "1.23" in shown  # USD
        assert "Calls without usage: 1" in shown
    assert "0 active calls, no endpoint" in views[1]
    assert "shut down" in monitor._repr_html_()


def test_an_empty_report_has_a_view(tmp_path: Path) -> None:
    """It says that there is nothing."""
    (tmp_path / "metrics.jsonl").write_text("")
    assert "Nothing to report" in read_usage(tmp_path)._repr_html_()
    with isolated_monitor() as monitor:
        assert "<td" not in monitor._repr_html_()
