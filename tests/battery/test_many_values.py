"""100,000 distinct values of each label: bounded memory and pages, one warning, exact totals."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from genmeter import CustomMetric, HistoryConfig, LabelLimits, MonitorConfig
from genmeter.schema import metrics as schema
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from genmeter.testing import IsolatedMonitor

    Record = Callable[[IsolatedMonitor, str], object]

VALUES = 100_000
TRACED = 20_000
GROWTH = 256 * 1024
"""Bytes that the last values may add: what the allocator and caches keep, not a table of values."""
CUSTOM = CustomMetric(name="app.items", kind="counter", labels=("key",))


def call(**keywords: Callable[[str], Any]) -> Record:
    """Return what records a call with a value in one of its arguments."""

    def record(monitor: IsolatedMonitor, value: str) -> None:
        found = {name: make(value) for name, make in keywords.items()}
        monitor.track_generation(
            0.1, "error_type" not in found, **{"model_name": "m", "total_token_count": 3, **found}
        )

    return record


def evaluation(evaluator: str | None = None, score: str | None = None) -> Record:
    """Return what records an evaluation with a value as its evaluator or as the name of a score."""
    return lambda monitor, value: monitor.track_evaluation(
        0.1, True, evaluator or value, {score or value: 0.5}, total_token_count=3
    )


LIMITED: dict[str, tuple[Record, str]] = {
    "models": (call(model_name=str), "genmeter_generations_total"),
    "response_models": (call(response_model=str), "genmeter_generations_total"),
    "steps": (call(step=str), "genmeter_generations_total"),
    "providers": (call(provider=str), "genmeter_generations_total"),
    "operations": (call(operation=str), "genmeter_generations_total"),
    "modalities": (
        call(modality=str, prompt_token_count=lambda _: 1),
        "genmeter_generations_total",
    ),
    "error_types": (call(error_type=str), "gen_ai_client_inference_duration_seconds_count"),
    "finish_reasons": (call(finish_reason=str), "genmeter_finish_reasons_total"),
    "sample_reasons": (lambda m, value: m.record_sample(False, value), "genmeter_samples_total"),
    "evaluators": (evaluation(score="s"), "genmeter_evaluations_total"),
    "scores": (evaluation(evaluator="e"), "genmeter_evaluation_scores_total"),
    "custom_metrics": (
        lambda m, value: m.record_metric(value, 1.0),
        "genmeter_custom_samples_total",
    ),
    "combinations": (
        lambda m, value: m.record_metric(CUSTOM.name, 1.0, {"key": value}),
        "app_items_total",
    ),
}
"""For each field of ``LabelLimits``: what records a value of its labels, and the series to count."""

CLOSED = {
    *("PHASE", "OUTCOME", "UNREAD_REASON", "COST_SOURCE", "VERDICT", "LEVEL", "RESULT"),
    *("REJECT_REASON", "HANDLER", "HANDLER_REASON", "REPEAT_REASON", "OVERFLOWED", "EXPORTER"),
    *("VERSION", "OTEL_SDK", "STATE", "ALERT"),
}
"""Labels whose values are genmeter's own."""


FREE: dict[str, tuple[Record, str]] = {
    "key of the metadata": (
        call(metadata=lambda value: {value: value}),
        "genmeter_generations_total",
    ),
    "cause of a retry": (call(retries=lambda value: [value]), "genmeter_retries_total"),
    "text of an error": (call(error=ValueError), "genmeter_generations_total"),
    "class of an error": (
        call(error=lambda value: type(value, (Exception,), {})()),
        "genmeter_generations_total",
    ),
    "unknown keyword": (
        lambda m, value: m.track_generation(0.1, True, model_name="m", **{value: 1}),
        "genmeter_generations_total",
    ),
    "message": (lambda m, value: m.log_info(value, **{value: 1}), "genmeter_logs_total"),
    "label of a score": (
        lambda m, value: m.track_evaluation(0.1, True, "e", {"s": {"score": 1, "label": value}}),
        "genmeter_evaluation_scores_total",
    ),
    "service tier": (call(service_tier=str), "genmeter_generations_total"),
    "wrong number": (call(total_token_count=str), "genmeter_generations_total"),
}
"""What is not a label, and yet has as many values as a job writes."""


def names_of_labels() -> dict[str, schema.Label]:
    """Return the labels of all instruments by their names in the schema."""
    used = {label for row in schema.INSTRUMENTS for label in row.labels}
    return {
        name: each
        for name, each in vars(schema).items()
        if isinstance(each, schema.Label) and each in used
    }


def test_every_label_has_a_case() -> None:
    """A label, or a limit, that is new is noticed here."""
    labels = names_of_labels()
    assert {each.key for each in labels.values()} == {
        label.key for row in schema.INSTRUMENTS for label in row.labels
    }
    assert {name for name, each in labels.items() if each.limit is None} == CLOSED
    limits = {each.limit for each in labels.values() if each.limit is not None}
    assert limits | {"combinations"} == {each.name for each in fields(LabelLimits)} == set(LIMITED)


class Many:
    """A monitor that records as many values as asked.

    Attributes:
        monitor: The monitor.
        series: The series that counts what was recorded.
    """

    def __init__(self, monitor: IsolatedMonitor, record: Record, series: str) -> None:
        self.monitor = monitor
        self.series = series
        self._record = record
        self._done = 0

    def go(self, until: int) -> None:
        """Record values until so many are recorded."""
        for number in range(self._done, until):
            self._record(self.monitor, f"value-{number:06d}")
        self._done = until

    def growth(self, until: int) -> int:
        """Return the bytes that are held after the values until this number, and were not before."""
        gc.collect()
        tracemalloc.start()
        try:
            self.go(until)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()


CONFIG = MonitorConfig(
    history=HistoryConfig(capacity=1_000, metadata_bytes=2**16), custom_metrics=(CUSTOM,)
)


@pytest.mark.parametrize("name", [*LIMITED, *FREE])
def test_values_without_end_are_bounded(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither memory nor the page grows, no event is lost, and a limit is said once."""
    record, series = LIMITED[name] if name in LIMITED else FREE[name]
    with isolated_monitor(CONFIG) as monitor:
        many = Many(monitor, record, series)
        many.go(VALUES - TRACED)
        before = len(monitor.page())
        growth = many.growth(VALUES)
        assert growth <= GROWTH
        assert len(monitor.page()) <= 1.02 * before + 200  # digits of the values
        assert monitor.value(series) == VALUES
        report = monitor.get_total_token_usage()
        if name in LIMITED and report.total_tokens:
            assert report.total_tokens == 3 * VALUES
        assert monitor.value("genmeter_monitor_events_total", genmeter_reason="internal") == 0
        if name in LIMITED and name != "combinations":
            limit = getattr(LabelLimits(), name)
            over = monitor.value("genmeter_monitor_label_overflow_total", genmeter_label=name)
            taken = 1 if name == "custom_metrics" else 0  # by the registered one
            assert over == VALUES - limit + taken
            said = [each for each in caplog.messages if "limit reached" in each]
            assert len(said) == 1
            assert f"LabelLimits.{name}" in said[0]
