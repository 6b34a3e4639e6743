"""The catalogue: valid rows, each recorded by a monitor."""

from __future__ import annotations

import math
from typing import Any

import pytest

from genmeter import CustomMetric, MonitorConfig
from genmeter.config.monitor import LabelLimits
from genmeter.events.answers import CallDetails
from genmeter.schema import metrics as catalogue
from genmeter.schema.metrics import INSTRUMENTS, Instrument, Kind
from genmeter.schema.prom_names import reserved_suffix
from genmeter.testing import IsolatedMonitor, isolated_monitor

# A monitor does not record these: they count failures of exporters.
FOREIGN = {
    catalogue.EXPORT_FAILURES.name,
    catalogue.JOB_PROCESSES.name,  # a job of one process has none
    catalogue.JOB_LAST_DEATH.name,  # a job without a process that died has none
}
ROWS = pytest.mark.parametrize("row", INSTRUMENTS, ids=lambda row: row.name)


def test_instrument_names_are_unique() -> None:
    """Names and Prometheus names are unique."""
    assert len({row.name.lower() for row in INSTRUMENTS}) == len(INSTRUMENTS)
    assert len({row.prometheus for row in INSTRUMENTS}) == len(INSTRUMENTS)


def test_every_label_has_help_and_a_limit_or_a_closed_set() -> None:
    """The limit of a label is a field of ``LabelLimits``."""
    for label in {label for row in INSTRUMENTS for label in row.labels}:
        assert label.help
        assert label.limit is None or hasattr(LabelLimits(), label.limit)


@ROWS
def test_names_have_a_known_namespace_and_fit_their_kind(row: Instrument) -> None:
    """Names are `gen_ai.client.inference.*` or `genmeter.*`; none has the suffix of another kind."""
    assert row.name.startswith(("gen_ai.client.inference.", "genmeter."))
    assert reserved_suffix(row.prometheus, row.kind.exposed_as) is None
    assert (row.kind.exposed_as == "counter") == row.prometheus.endswith("_total")
    assert not row.prometheus.endswith(("_sum", "_count", "_bucket"))


@ROWS
def test_every_row_has_a_sentence_of_help_and_distinct_labels(row: Instrument) -> None:
    """The help is one sentence, and no label key appears twice."""
    assert row.help.endswith(".")
    assert "\n" not in row.help
    keys = [label.key for label in row.labels]
    assert len(set(keys)) == len(keys)


@ROWS
def test_bounds_are_ascending_floats_of_histograms_only(row: Instrument) -> None:
    """An integer bound would be exposed as `le="4"`, a float as `le="4.0"`: another series."""
    assert bool(row.bounds) == (row.kind is Kind.HISTOGRAM)
    assert all(type(bound) is float and math.isfinite(bound) for bound in row.bounds)
    assert list(row.bounds) == sorted(set(row.bounds))


@ROWS
def test_every_gauge_has_a_unit(row: Instrument) -> None:
    """Translators of OTLP would name a gauge with the unit 1 a ratio."""
    assert row.unit
    assert not (row.kind.exposed_as == "gauge" and row.unit == "1")


def test_bounds_follow_the_conventions() -> None:
    """Durations double from 10 ms, plus 30 s; tokens quadruple from 1."""
    published = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48]
    published += [40.96, 81.92]
    ours = catalogue.INFERENCE_DURATION.bounds
    assert ours == pytest.approx(sorted([*published, 30.0, 163.84, 327.68, 655.36]))
    assert catalogue.EVALUATION_DURATION.bounds == ours
    for row in (catalogue.FIRST_CHUNK, catalogue.OUTPUT_CHUNK):
        assert row.bounds == pytest.approx(published)
    tokens = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216]
    for row in (catalogue.INPUT_TOKENS_PER_CALL, catalogue.OUTPUT_TOKENS_PER_CALL):
        assert list(row.bounds) == [*tokens, 67108864]
    assert catalogue.CONVERSATION_DURATION.bounds == (
        1,
        5,
        10,
        30,
        60,
        120,
        300,
        600,
        1800,
        3600,
        7200,
    )
    assert catalogue.CONVERSATION_LENGTH.bounds == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
    assert catalogue.SCORE.bounds == pytest.approx([each / 10 for each in range(11)])


# Names and kinds that users rely on.
NAMES = {
    "gen_ai_client_inference_duration_seconds": "histogram",
    "gen_ai_client_inference_time_to_first_chunk_seconds": "histogram",
    "gen_ai_client_inference_time_per_output_chunk_seconds": "histogram",
    "gen_ai_client_inference_usage_input_tokens_total": "counter",
    "gen_ai_client_inference_usage_output_tokens_total": "counter",
    "gen_ai_client_inference_usage_cache_read_input_tokens_total": "counter",
    "gen_ai_client_inference_usage_cache_write_input_tokens_total": "counter",
    "gen_ai_client_inference_usage_reasoning_output_tokens_total": "counter",
    "gen_ai_client_inference_operation_input_tokens": "histogram",
    "gen_ai_client_inference_operation_output_tokens": "histogram",
    "genmeter_generations_total": "counter",
    "genmeter_retries_total": "counter",
    "genmeter_samples_total": "counter",
    "genmeter_job_samples_expected": "gauge",
    "genmeter_job_finished": "gauge",
    "genmeter_job_linger_seconds": "gauge",
    "genmeter_job_processes": "gauge",
    "genmeter_job_last_death_timestamp_seconds": "gauge",
    "genmeter_tokens_total": "counter",
    "genmeter_finish_reasons_total": "counter",
    "genmeter_cost_usd_total": "counter",
    "genmeter_unpriced_generations_total": "counter",
    "genmeter_usage_unread_total": "counter",
    "genmeter_generations_active": "updown",
    "genmeter_last_generation_timestamp_seconds": "gauge",
    "genmeter_conversation_duration_seconds": "histogram",
    "genmeter_conversation_length": "histogram",
    "genmeter_evaluations_total": "counter",
    "genmeter_evaluation_duration_seconds": "histogram",
    "genmeter_evaluation_score": "histogram",
    "genmeter_evaluation_score_accumulated": "updown",
    "genmeter_evaluation_scores_total": "counter",
    "genmeter_custom_samples_total": "counter",
    "genmeter_custom_accumulated": "updown",
    "genmeter_custom_value": "gauge",
    "genmeter_logs_total": "counter",
    "genmeter_monitor_events_total": "counter",
    "genmeter_monitor_inbox": "gauge",
    "genmeter_monitor_history_size": "gauge",
    "genmeter_monitor_history_capacity": "gauge",
    "genmeter_monitor_handler_errors_total": "counter",
    "genmeter_monitor_repetitions_total": "counter",
    "genmeter_monitor_label_overflow_total": "counter",
    "genmeter_monitor_export_failures_total": "counter",
    "genmeter_build_info": "gauge",
}


def test_prometheus_names_and_kinds_are_stable() -> None:
    """Renaming or removing a metric of this list, or changing its kind, fails."""
    ours = {row.prometheus: row.kind.exposed_as for row in INSTRUMENTS}
    assert {name: ours.get(name) for name in NAMES} == NAMES


def record_everything(monitor: IsolatedMonitor) -> None:
    """Record to every instrument."""
    full = {"prompt_token_count": 10, "completion_token_count": 5, "total_token_count": 20}
    parts = {"cache_read_token_count": 4, "cache_write_token_count": 2, "reasoning_token_count": 3}
    labels = {"step": "ask", "provider": "p", "finish_reason": "stop"}
    called: dict[str, Any] = {"model_name": "m", "response_model": "m-2026-05-01"}
    monitor.track_generation(1.0, True, **called, **full, **parts, **labels)
    monitor.track_generation(1.0, False, **called, retries=2, error=OSError(), **full)
    monitor.track_generation(
        1.0, True, model_name="unpriced", response_model="unpriced-2026-05-01", **full
    )
    monitor.track_generation(1.0, True, **called)
    stream = CallDetails(is_cancelled=True, first_chunk=0.2, chunk_gaps=(0.01, 0.02))
    monitor.record_call(1.0, False, {**called, **full}, stream)
    monitor.track_generation(9.0, True, conversation_length=3)
    monitor.track_generation(9.0, False, conversation_length=1, error=OSError())
    with monitor.generation("m"):
        pass
    monitor.track_evaluation(1.0, True, "e", {"s": 0.5}, model_name="m", **full)
    monitor.track_evaluation(1.0, False, "e", {}, error_type="Timeout")
    monitor.record_sample(True)
    monitor.record_sample(False, "duplicate")
    monitor.record_metric("free", 1.0)
    monitor.record_metric("overflow", "no number")  # type: ignore[arg-type]
    monitor.log_info("hello")
    for number in range(3):
        monitor.track_generation(1.0, True, model_name="m", finish_reason=f"r{number}")
    monitor._runtime.self_metrics.count_handler_error("callback")
    monitor._runtime.self_metrics.count_repetition("nested")


@pytest.fixture(scope="module")
def job() -> dict[str, set[str]]:
    """Return the label names of each instrument after recording to all of them."""
    config = MonitorConfig(
        prices={"m": (1, 2)},
        expected_samples=10,
        limits=LabelLimits(finish_reasons=2),
    )
    found: dict[str, set[str]] = {}
    with isolated_monitor(config) as monitor:
        record_everything(monitor)
        for row in INSTRUMENTS:
            ends = ("_count",) if row.kind is Kind.HISTOGRAM else ("",)
            for end in ends:
                for sample in monitor.series(row.prometheus + end):
                    found.setdefault(row.name, set()).update(sample.labels)
    return found


@ROWS
def test_every_row_is_recorded_with_its_labels(row: Instrument, job: dict[str, set[str]]) -> None:
    """A job that uses everything has a series of each row, with the declared labels only."""
    if row.name in FOREIGN:
        assert row.name not in job
    else:
        declared = {label.prometheus for label in row.labels}
        # Every call has the same label keys, but not all calls of this job have a step.
        assert job[row.name] <= declared
        assert declared - job[row.name] <= {"genmeter_step"}


def test_the_page_has_metrics_of_the_catalogue_only(job: dict[str, set[str]]) -> None:
    """All other metrics on the page are custom ones."""
    with isolated_monitor(
        MonitorConfig(custom_metrics=(CustomMetric(name="app.custom"),))
    ) as monitor:
        record_everything(monitor)
        monitor.record_metric("app.custom", 1)
        names = {line.split()[2] for line in monitor.page().splitlines() if line[:6] == "# TYPE"}
    known = {row.prometheus for row in INSTRUMENTS} | {"app_custom"}
    assert {name for name in names if not name.endswith("_created")} <= known
