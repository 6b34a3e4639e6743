"""The catalogue: rows that can be exposed, exported and told apart, each of them fed."""

from __future__ import annotations

import math

import pytest

from genmeter import CustomMetric, MonitorConfig
from genmeter.config.monitor import LabelLimits
from genmeter.schema import metrics as catalogue
from genmeter.schema.metrics import INSTRUMENTS, LABELS, Instrument, Kind, Label
from genmeter.schema.prom_names import reserved_suffix
from genmeter.testing import IsolatedMonitor, isolated_monitor

# Nothing of a monitor's own feeds these: they count failures of exporters.
FOREIGN = {catalogue.EXPORT_FAILURES.name}
ROWS = pytest.mark.parametrize("row", INSTRUMENTS, ids=lambda row: row.name)


def test_every_instrument_is_listed_once() -> None:
    """What is declared in the module is in the table, and nothing twice."""
    declared = [value for value in vars(catalogue).values() if isinstance(value, Instrument)]
    assert sorted(row.name for row in declared) == sorted(row.name for row in INSTRUMENTS)
    assert len({row.name.lower() for row in INSTRUMENTS}) == len(INSTRUMENTS)
    assert len({row.prometheus for row in INSTRUMENTS}) == len(INSTRUMENTS)


def test_every_label_is_listed_once_and_has_a_limit_that_exists() -> None:
    """A label is a closed set or is bounded by a field of the limits."""
    declared = [value for value in vars(catalogue).values() if isinstance(value, Label)]
    assert sorted(map(repr, declared)) == sorted(map(repr, LABELS))
    for label in LABELS:
        assert label.help
        assert label.limit is None or hasattr(LabelLimits(), label.limit)


@ROWS
def test_a_name_is_ours_or_the_conventions_and_fits_its_kind(row: Instrument) -> None:
    """Names are `gen_ai.client.inference.*` or `genmeter.*`; none ends as another kind's would."""
    assert row.name.startswith(("gen_ai.client.inference.", "genmeter."))
    assert reserved_suffix(row.prometheus, row.kind.exposed_as) is None
    assert (row.kind.exposed_as == "counter") == row.prometheus.endswith("_total")
    assert not row.prometheus.endswith(("_sum", "_count", "_bucket"))


@ROWS
def test_a_row_says_what_it_measures(row: Instrument) -> None:
    """The help is one sentence; labels are known and named once."""
    assert row.help.endswith(".")
    assert "\n" not in row.help
    keys = [label.key for label in row.labels]
    assert len(set(keys)) == len(keys)
    assert set(row.labels) <= set(LABELS)


@ROWS
def test_bounds_are_ascending_floats_of_histograms_only(row: Instrument) -> None:
    """Integers would give `le="4"` where floats give `le="4.0"`, and another series with it."""
    assert bool(row.bounds) == (row.kind is Kind.HISTOGRAM)
    assert all(type(bound) is float and math.isfinite(bound) for bound in row.bounds)
    assert list(row.bounds) == sorted(set(row.bounds))


@ROWS
def test_no_gauge_is_without_a_unit(row: Instrument) -> None:
    """A gauge of unit 1 would be called a ratio by whoever translates OTLP."""
    assert row.unit
    assert not (row.kind.exposed_as == "gauge" and row.unit == "1")


def test_the_bounds_are_those_of_the_conventions() -> None:
    """Durations double from 10 ms, with 30 s between; tokens quadruple from 1; as published."""
    published = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48]
    published += [40.96, 81.92]
    ours = catalogue.INFERENCE_DURATION.bounds
    assert ours == pytest.approx(sorted([*published, 30.0, 163.84, 327.68, 655.36]))
    assert catalogue.EVALUATION_DURATION.bounds == ours
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


# Names, kinds and units as the conventions and our own design have them.
NAMES = {
    "gen_ai_client_inference_duration_seconds": "histogram",
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
    "genmeter_tokens_total": "counter",
    "genmeter_finish_reasons_total": "counter",
    "genmeter_cost_usd_total": "counter",
    "genmeter_unpriced_generations_total": "counter",
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
    "genmeter_monitor_label_overflow_total": "counter",
    "genmeter_monitor_export_failures_total": "counter",
    "genmeter_build_info": "gauge",
}


def test_the_prometheus_names_are_those_that_dashboards_and_rules_rely_on() -> None:
    """No metric of this list may be renamed, change its kind or go away unnoticed."""
    ours = {row.prometheus: row.kind.exposed_as for row in INSTRUMENTS}
    assert {name: ours.get(name) for name in NAMES} == NAMES


def do_everything(monitor: IsolatedMonitor) -> None:
    """Make a job that feeds every instrument."""
    full = {"prompt_token_count": 10, "completion_token_count": 5, "total_token_count": 20}
    parts = {"cache_read_token_count": 4, "cache_write_token_count": 2, "reasoning_token_count": 3}
    labels = {"step": "ask", "provider": "p", "finish_reason": "stop"}
    monitor.track_generation(1.0, True, model_name="m", **full, **parts, **labels)
    monitor.track_generation(1.0, False, model_name="m", retries=2, error=OSError(), **full)
    monitor.track_generation(1.0, True, model_name="unpriced", **full)
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


@pytest.fixture(scope="module")
def job() -> dict[str, set[str]]:
    """Give the label names of every series on the page of a job that does everything."""
    config = MonitorConfig(
        prices={"m": (1, 2)},  # type: ignore[arg-type]
        expected_samples=10,
        limits=LabelLimits(finish_reasons=2),
    )
    found: dict[str, set[str]] = {}
    with isolated_monitor(config) as monitor:
        do_everything(monitor)
        for row in INSTRUMENTS:
            ends = ("_count",) if row.kind is Kind.HISTOGRAM else ("",)
            for end in ends:
                for sample in monitor.series(row.prometheus + end):
                    found.setdefault(row.name, set()).update(sample.labels)
    return found


@ROWS
def test_a_job_that_does_everything_feeds_every_row(
    row: Instrument, job: dict[str, set[str]]
) -> None:
    """No row is without a recorder, and each has the labels that it declares and no other."""
    if row.name in FOREIGN:
        assert row.name not in job
    else:
        declared = {label.prometheus for label in row.labels}
        # Every call has the same labels; not every one of this job's says all of them.
        assert job[row.name] <= declared
        assert declared - job[row.name] <= {"genmeter_step"}


def test_no_other_metric_is_on_the_page(job: dict[str, set[str]]) -> None:
    """What is exposed under our names is in the catalogue."""
    with isolated_monitor(
        MonitorConfig(custom_metrics=(CustomMetric(name="app.custom"),))
    ) as monitor:
        do_everything(monitor)
        monitor.record_metric("app.custom", 1)
        names = {line.split()[2] for line in monitor.page().splitlines() if line[:6] == "# TYPE"}
    known = {row.prometheus for row in INSTRUMENTS} | {"app_custom"}
    assert {name for name in names if not name.endswith("_created")} <= known
