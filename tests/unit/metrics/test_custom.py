"""Custom metrics: values of `record_metric`."""

from __future__ import annotations

from typing import Any

import pytest

from genmeter import CustomMetric, LabelLimits, MonitorConfig
from genmeter.testing import IsolatedMonitor, assert_exposition, isolated_monitor

ROWS = (
    CustomMetric(name="app.documents", kind="counter", unit="{document}", labels=("source",)),
    CustomMetric(name="app.queue", kind="updown", labels=("source",)),
    CustomMetric(name="app.temperature", kind="gauge", unit="Cel", help="How hot it is."),
    CustomMetric(name="app.size", kind="histogram", unit="By", bounds=(10, 100), labels=("a.b",)),
)


def record(monitor: IsolatedMonitor, name: str, *values: float, **labels: Any) -> None:
    """Record values with the same labels."""
    for value in values:
        monitor.record_metric(name, value, {key.replace("__", "."): v for key, v in labels.items()})


def test_unregistered_names_share_three_metrics() -> None:
    """Number, sum and last value are exposed by name."""
    with isolated_monitor() as monitor:
        record(monitor, "model_creation_time", 2.0, 5.0, -1.0)
        record(monitor, "other", 7)
        assert_exposition(
            monitor.page(),
            """
            genmeter_custom_samples_total{genmeter_metric="model_creation_time"} 3
            genmeter_custom_accumulated{genmeter_metric="model_creation_time"} 6
            genmeter_custom_value{genmeter_metric="model_creation_time"} -1
            genmeter_custom_samples_total{genmeter_metric="other"} 1
            genmeter_custom_accumulated{genmeter_metric="other"} 7
            genmeter_custom_value{genmeter_metric="other"} 7
            """,
        )


@pytest.mark.parametrize(
    "name", ["error_rate", "generation_time", "success_rate", "total_token_count", "model_usage:m"]
)
def test_afterimage_names_count_no_generation(name: str) -> None:
    """A value under the name of a call metric adds no call and no tokens."""
    with isolated_monitor() as monitor:
        monitor.record_metric(name, 1.0)
        assert monitor.get_metrics(name)["count"] == 1
        assert monitor.value("genmeter_custom_samples_total", genmeter_metric=name) == 1
        assert not monitor.series("genmeter_generations_total")
        assert monitor.get_total_token_usage().total_tokens == 0


def test_registered_metric_has_a_default_help_text() -> None:
    """`promtool check metrics` has no objection."""
    with isolated_monitor(MonitorConfig(custom_metrics=ROWS)) as monitor:
        for row in ROWS:
            record(monitor, row.name, 1)
        helps = [line for line in monitor.page().split("\n") if line.startswith("# HELP app_")]
    assert helps
    assert all(len(line.split(" ", 3)[3]) > 0 for line in helps)
    assert any(line.endswith("How hot it is.") for line in helps)


def test_registered_metric_uses_only_its_own_instrument() -> None:
    """Each kind behaves as its name says, with the declared labels."""
    with isolated_monitor(MonitorConfig(custom_metrics=ROWS)) as monitor:
        record(monitor, "app.documents", 2, 3, source="web", ignored="x")
        record(monitor, "app.documents", 10)
        record(monitor, "app.queue", 5, -2, source="web")
        record(monitor, "app.temperature", 30, 20)
        record(monitor, "app.size", 10, 11, 1e6, a__b="k")
        assert_exposition(
            monitor.page(),
            """
            app_documents_total{source="web"} 5
            app_documents_total 10
            app_queue{source="web"} 3
            app_temperature_celsius 20
            app_size_bytes_bucket{a_b="k",le="10.0"} 1
            app_size_bytes_bucket{a_b="k",le="100.0"} 2
            app_size_bytes_bucket{a_b="k",le="+Inf"} 3
            app_size_bytes_sum{a_b="k"} 1000021
            """,
        )
        assert "# HELP app_temperature_celsius How hot it is." in monitor.page()
        assert not monitor.series("genmeter_custom_samples_total")
        assert monitor.get_metrics("app.temperature")["count"] == 2


@pytest.mark.parametrize("name", ["app.documents", "app.size"])
def test_negative_values_of_counters_and_histograms_are_rejected(name: str) -> None:
    """They are counted as rejected; the history keeps the values."""
    with isolated_monitor(MonitorConfig(custom_metrics=ROWS)) as monitor:
        record(monitor, name, -1, 5)
        rejected = {"genmeter_result": "rejected", "genmeter_reason": "negative"}
        assert monitor.value("genmeter_monitor_events_total", **rejected) == 1
        assert monitor.value("app_documents_total") + monitor.value("app_size_bytes_sum") == 5
        assert monitor.get_metrics(name)["min"] == -1


def test_names_and_labels_are_bounded() -> None:
    """Past the limit both become `other`; a registered name is always kept."""
    config = MonitorConfig(custom_metrics=ROWS, limits=LabelLimits(custom_metrics=6))
    with isolated_monitor(config) as monitor:
        for number in range(20):
            record(monitor, f"m{number}", 1)
            record(monitor, "app.documents", 1, source=f"s{number}")
        assert monitor.value("genmeter_custom_samples_total") == 20
        assert monitor.value("genmeter_custom_samples_total", genmeter_metric="other") >= 14
        assert monitor.value("genmeter_monitor_label_overflow_total") >= 14
        assert monitor.value("app_documents_total") == 20
        assert monitor.value("app_documents_total", source="other") == 14


def test_label_sets_past_the_limit_overflow() -> None:
    """Combinations past the limit are summed in the overflow series."""
    row = CustomMetric(name="app.n", kind="counter", labels=("a", "b"))
    limits = LabelLimits(custom_metrics=50, combinations=10)
    with isolated_monitor(MonitorConfig(custom_metrics=(row,), limits=limits)) as monitor:
        for number in range(400):
            record(monitor, "app.n", 1, a=number % 20, b=number % 19)
        assert monitor.value("app_n_total") == 400
        assert monitor.value("app_n_total", otel_metric_overflow="true") > 0
        assert len(monitor.series("app_n_total")) <= 11


def test_long_name_is_found_by_its_full_text() -> None:
    """A long name is shortened in its label, but not for reads."""
    with isolated_monitor() as monitor:
        monitor.record_metric("x" * 300, 2.0)
        assert monitor.get_metrics("x" * 300)["mean"] == 2.0
        assert monitor.value("genmeter_custom_value", genmeter_metric="x" * 128) == 2.0
