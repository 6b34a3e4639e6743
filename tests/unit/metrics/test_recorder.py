"""The recorder: instruments and labels of each event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from _meters import RESOURCE, points, provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

from genmeter import EndpointConfig, LabelLimits, MonitorConfig, Price, PriceTable
from genmeter.events.model import Call, Metric, Reason, Sample
from genmeter.metrics.recorder import MetricsRecorder
from genmeter.testing import IsolatedMonitor, assert_exposition, isolated_monitor
from history_events import conversation, evaluation, generation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.sdk.metrics.export import MetricsData

USAGE = "gen_ai_client_inference_usage"
LABELS = (
    'gen_ai_operation_name="chat",gen_ai_provider_name="openai",gen_ai_request_model="m",'
    'genmeter_phase="generation",genmeter_step="ask"'
)


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor with the defaults."""
    with isolated_monitor() as made:
        yield made


def counts(monitor: IsolatedMonitor, name: str, label: str) -> dict[str, float]:
    """Return the values of a series by one of its labels."""
    return {each.labels.get(label, ""): each.value for each in monitor.series(name)}


def test_call_is_exposed_with_its_labels(monitor: IsolatedMonitor) -> None:
    """Outcome, tokens, finish reason and retries of a complete call are exposed."""
    monitor.track_generation(
        0.5,
        True,
        model_name="m",
        provider="openai",
        step="ask",
        prompt_token_count=100,
        completion_token_count=20,
        total_token_count=130,
        cache_read_token_count=64,
        cache_write_token_count=8,
        reasoning_token_count=10,
        finish_reason="STOP",
        retries=["RateLimitError", "TimeoutError", "RateLimitError"],
    )
    assert_exposition(
        monitor.page(),
        f"""
        genmeter_generations_total{{{LABELS},genmeter_outcome="success"}} 1
        genmeter_generations_total{{{LABELS},genmeter_outcome="failure"}} 0
        {USAGE}_input_tokens_total{{{LABELS},gen_ai_token_modality="unknown"}} 100
        {USAGE}_output_tokens_total{{{LABELS},gen_ai_token_modality="unknown"}} 20
        {USAGE}_cache_read_input_tokens_total{{{LABELS},gen_ai_token_modality="unknown"}} 64
        {USAGE}_cache_write_input_tokens_total{{{LABELS},gen_ai_token_modality="unknown"}} 8
        {USAGE}_reasoning_output_tokens_total{{{LABELS},gen_ai_token_modality="unknown"}} 10
        genmeter_tokens_total{{{LABELS}}} 130
        genmeter_finish_reasons_total{{{LABELS},genmeter_finish_reason="stop"}} 1
        genmeter_retries_total{{{LABELS},error_type="rate_limited"}} 2
        genmeter_retries_total{{{LABELS},error_type="TimeoutError"}} 1
        gen_ai_client_inference_duration_seconds_count{{{LABELS}}} 1
        gen_ai_client_inference_duration_seconds_sum{{{LABELS}}} 0.5
        gen_ai_client_inference_operation_input_tokens_count{{{LABELS}}} 1
        gen_ai_client_inference_operation_input_tokens_sum{{{LABELS}}} 100
        gen_ai_client_inference_operation_output_tokens_count{{{LABELS}}} 1
        gen_ai_client_inference_operation_output_tokens_sum{{{LABELS}}} 20
        """,
    )


def test_only_durations_of_failures_have_an_error_type(
    monitor: IsolatedMonitor,
) -> None:
    """`error_type` is absent on success, and the class of the error on failure."""
    monitor.track_generation(1.0, True, model_name="m", error="ignored")
    monitor.track_generation(2.0, False, model_name="m", error=TimeoutError())
    monitor.track_generation(2.0, False, model_name="m", error=TimeoutError())
    name = "gen_ai_client_inference_duration_seconds_count"
    assert counts(monitor, name, "error_type") == {"": 1, "TimeoutError": 2}


def test_value_equal_to_a_bound_is_in_its_bucket(monitor: IsolatedMonitor) -> None:
    """Upper bounds are inclusive: 30 s is not above 30 s."""
    for duration in (29.9, 30.0, 30.1):
        monitor.track_generation(duration, True, model_name="m")
    buckets = counts(monitor, "gen_ai_client_inference_duration_seconds_bucket", "le")
    assert (buckets["20.48"], buckets["30.0"], buckets["40.96"]) == (0, 2, 3)


def test_tokens_of_a_failed_call_count(monitor: IsolatedMonitor) -> None:
    """Tokens used before the failure are counted."""
    monitor.track_generation(1.0, False, model_name="m", prompt_token_count=50)
    assert monitor.value(f"{USAGE}_input_tokens_total") == 50
    assert monitor.value("genmeter_generations_total", genmeter_outcome="failure") == 1


def test_unknown_tokens_are_0_from_the_first_call(monitor: IsolatedMonitor) -> None:
    """A model's token series start at 0, so that a rate includes the first increase."""
    monitor.track_generation(1.0, False, model_name="m")
    for name in (f"{USAGE}_input_tokens_total", f"{USAGE}_output_tokens_total"):
        assert [each.value for each in monitor.series(name)] == [0]
    assert not monitor.series("gen_ai_client_inference_operation_input_tokens_count")


def test_outcomes_of_configured_models_are_0_before_any_call() -> None:
    """Both outcomes are exposed for the models that the configuration names."""
    config = MonitorConfig(models=("a", "b"), default_model="c", provider="p")
    with isolated_monitor(config) as monitor:
        found = {
            (each.labels["gen_ai_request_model"], each.labels["genmeter_outcome"]): each.value
            for each in monitor.series("genmeter_generations_total", gen_ai_provider_name="p")
        }
    assert found == {(m, o): 0 for m in "abc" for o in ("success", "failure")}


def test_conversation_is_not_an_inference(monitor: IsolatedMonitor) -> None:
    """It has its own duration and length, and adds no generation and no tokens."""
    monitor.track_generation(90.0, True, conversation_length=3)
    monitor.track_generation(5.0, False, conversation_length=1, error=ValueError())
    assert_exposition(
        monitor.page(),
        """
        genmeter_conversation_duration_seconds_count{genmeter_outcome="success"} 1
        genmeter_conversation_duration_seconds_count{genmeter_outcome="failure",error_type="ValueError"} 1
        genmeter_conversation_length_count 2
        genmeter_conversation_length_sum 4
        """,
    )
    for name in ("genmeter_generations_total", "genmeter_last_generation_timestamp_seconds"):
        assert not monitor.series(name)


def test_evaluation_records_outcome_duration_scores_and_tokens(monitor: IsolatedMonitor) -> None:
    """Its tokens belong to the evaluating model, in their own phase."""
    monitor.track_evaluation(
        2.0, True, "judge", {"s": 0.5, "t": {"score": 1, "feedback": "x"}}, model_name="m",
        prompt_token_count=7, completion_token_count=1,
    )  # fmt: skip
    monitor.track_evaluation(1.0, False, "judge", {}, error_type="Timeout")
    assert_exposition(
        monitor.page(),
        """
        genmeter_evaluations_total{genmeter_evaluator="judge",genmeter_outcome="success"} 1
        genmeter_evaluations_total{genmeter_evaluator="judge",genmeter_outcome="failure"} 1
        genmeter_evaluation_duration_seconds_count{genmeter_evaluator="judge"} 1
        genmeter_evaluation_duration_seconds_count{genmeter_evaluator="judge",error_type="Timeout"} 1
        genmeter_evaluation_score_sum{gen_ai_evaluation_name="s",genmeter_evaluator="judge"} 0.5
        genmeter_evaluation_score_sum{gen_ai_evaluation_name="t",genmeter_evaluator="judge"} 1
        """,
    )
    phase = {"genmeter_phase": "evaluation", "gen_ai_request_model": "m"}
    assert monitor.value("genmeter_tokens_total", **phase) == 8
    assert not monitor.series("genmeter_generations_total")


def test_scores_off_their_scale_are_only_in_the_mean() -> None:
    """Scores on their scale are mapped to 0..1; others are summed and counted unchanged."""
    with isolated_monitor(
        MonitorConfig(score_scales={"stars": (1, 5), "sign": (-1, 1)})
    ) as monitor:
        for scores in ({"stars": 5}, {"stars": 3}, {"stars": 9}, {"plain": -2}, {"sign": -1}):
            monitor.track_evaluation(1.0, True, "e", scores)
        name = "gen_ai_evaluation_name"
        assert counts(monitor, "genmeter_evaluation_scores_total", name) == {
            "stars": 3, "plain": 1, "sign": 1,
        }  # fmt: skip
        assert counts(monitor, "genmeter_evaluation_score_accumulated", name) == {
            "stars": 17, "plain": -2, "sign": -1,
        }  # fmt: skip
        assert counts(monitor, "genmeter_evaluation_score_sum", name) == {"stars": 1.5, "sign": 0}
        assert counts(monitor, "genmeter_evaluation_score_count", name) == {"stars": 2, "sign": 1}


def test_cost_and_unpriced_calls_are_counted() -> None:
    """A model without a price has no cost of 0; its calls with tokens are counted."""
    prices = PriceTable({"m": Price(input=1, output=10, cached_input=0.5)})
    with isolated_monitor(MonitorConfig(prices=prices)) as monitor:
        monitor.track_generation(
            1.0, True, model_name="m", prompt_token_count=1_000_000,
            completion_token_count=100_000, cache_read_token_count=400_000,
        )  # fmt: skip
        monitor.track_generation(1.0, True, model_name="none", prompt_token_count=5)
        monitor.track_generation(1.0, False, model_name="none")
        monitor.track_evaluation(1.0, True, "e", {}, model_name="m", prompt_token_count=1_000_000)
        model, phase = "gen_ai_request_model", "genmeter_phase"
        assert counts(monitor, "genmeter_cost_usd_total", phase) == pytest.approx(
            {"generation": 0.6 + 0.2 + 1.0, "evaluation": 1.0}
        )
        assert counts(monitor, "genmeter_unpriced_generations_total", model) == {"none": 1}


def test_without_prices_nothing_is_priced_or_unpriced(monitor: IsolatedMonitor) -> None:
    """Neither metric exists without a price table."""
    monitor.track_generation(1.0, True, model_name="m", prompt_token_count=5)
    assert not monitor.series("genmeter_cost_usd_total")
    assert not monitor.series("genmeter_unpriced_generations_total")


def test_last_generation_is_the_newest_of_its_model(
    monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that is appended late does not move it back."""
    import genmeter.clock

    for time in (100.0, 300.0, 200.0):
        monkeypatch.setattr(genmeter.clock, "now", lambda time=time: time)
        monitor.track_generation(1.0, True, model_name="m")
    assert monitor.value("genmeter_last_generation_timestamp_seconds") == 300


def test_samples_are_counted_by_verdict_and_reason(monitor: IsolatedMonitor) -> None:
    """Only rejected samples have a reason."""
    monitor.record_sample(True)
    monitor.record_sample(True, "not used")
    monitor.record_sample(False, "duplicate")
    monitor.record_sample(False)
    assert_exposition(
        monitor.page(),
        """
        genmeter_samples_total{genmeter_outcome="accepted"} 2
        genmeter_samples_total{genmeter_outcome="rejected",genmeter_reason="duplicate"} 1
        genmeter_samples_total{genmeter_outcome="rejected"} 1
        """,
    )


def test_log_records_are_counted_by_level(monitor: IsolatedMonitor) -> None:
    """Each log method has its level."""
    monitor.log_info("a", x=1)
    monitor.log_warning("b")
    monitor.log_error("c", error=ValueError())
    monitor.log_error("d")
    assert counts(monitor, "genmeter_logs_total", "genmeter_level") == {
        "info": 1,
        "warning": 1,
        "error": 2,
    }


def test_combinations_past_the_limit_overflow() -> None:
    """Later label sets are counted in the overflow series."""
    config = MonitorConfig(limits=LabelLimits(combinations=10, models=100))
    with isolated_monitor(config) as monitor:
        for number in range(60):
            monitor.track_generation(
                1.0, True, model_name=f"m{number}", prompt_token_count=1, step=f"s{number % 7}"
            )
            monitor.track_evaluation(1.0, True, f"e{number}", {})
            monitor.page()
        assert monitor.value("genmeter_tokens_total") == 60
        assert monitor.value("genmeter_tokens_total", otel_metric_overflow="true") > 40
        assert len(monitor.series("genmeter_tokens_total")) <= 11
        assert monitor.value("genmeter_evaluations_total") == 60
        assert monitor.get_total_token_usage().total_tokens == 60


def traces(sampler: object) -> str:
    """Record a call within a span, and return the exemplars of the page."""
    tracer = TracerProvider(sampler=sampler, shutdown_on_exit=False).get_tracer("t")  # type: ignore[arg-type]
    with isolated_monitor() as monitor:
        with tracer.start_as_current_span("call"):
            monitor.track_generation(1.0, True, model_name="m", prompt_token_count=5)
            monitor.track_evaluation(1.0, True, "e", {"s": 1})
        monitor.record_metric("m", 1)
        with tracer.start_as_current_span("current while the page is made"):
            return monitor.page(openmetrics=True)


def test_exemplar_names_the_span_of_the_call() -> None:
    """Only a sampled span of the caller becomes an exemplar, not one of the draining thread."""
    page = traces(ALWAYS_ON)
    found = {line.split('trace_id="')[1][:32] for line in page.splitlines() if "trace_id" in line}
    assert len(found) == 1
    assert "trace_id" not in traces(ALWAYS_OFF)


def test_state_of_job_and_monitor_is_exposed() -> None:
    """Expected samples, the end of the job, the history and the build are on the page."""
    config = MonitorConfig(expected_samples=12, endpoint=EndpointConfig(enabled=False))
    with isolated_monitor(config) as monitor:
        assert monitor.value("genmeter_job_finished") == 0
        monitor.track_generation(1.0, True)
        monitor.record_metric("m", 1)
        monitor.record_sample(True)
        assert monitor.value("genmeter_job_finished") == 0
        assert monitor.value("genmeter_job_samples_expected") == 12
        assert monitor.value("genmeter_monitor_history_size") == 3
        assert monitor.value("genmeter_monitor_history_capacity") == 300_000
        assert monitor.value("genmeter_monitor_events_total", genmeter_result="recorded") == 3
        assert [each.value for each in monitor.series("genmeter_monitor_inbox")] == [0]
        (build,) = monitor.series("genmeter_build_info")
        assert build.value == 1
        assert build.labels["version"]
        monitor.shutdown()
        assert monitor.value("genmeter_job_finished") == 1


def test_expected_samples_are_absent_by_default(
    monitor: IsolatedMonitor,
) -> None:
    """The gauge is absent rather than 0."""
    assert not monitor.series("genmeter_job_samples_expected")


# --- the recorder alone, on meters of any provider -----------------------------------------------


class Bench:
    """A recorder on a meter of the built-in provider or of the SDK's, and its rejected values."""

    def __init__(self, kind: str, **limits: int) -> None:
        self.rejected: list[tuple[Reason, str, object]] = []
        self._reader = InMemoryMetricReader()
        self._sdk = MeterProvider([self._reader], shutdown_on_exit=False)
        self._own = provider(cardinality_limit=limits.get("combinations", 2_000))
        self._kind = kind
        made: Any = self._own if kind == "builtin" else self._sdk
        self.recorder = MetricsRecorder(
            made.get_meter("test"),
            MonitorConfig(limits=LabelLimits(**limits)),
            observe={},
            on_reject=lambda *what: self.rejected.append(what),
        )

    def data(self) -> MetricsData:
        """Collect."""
        if self._kind == "builtin":
            return self._own.collect()
        data = self._reader.get_metrics_data()
        assert data is not None
        return data

    def values(self, name: str) -> dict[tuple[Any, ...], float]:
        """Return the values of a sum, or the counts of a histogram, by the values of its labels."""
        return {
            key: point.value if hasattr(point, "value") else point.count
            for key, point in points(self.data(), name).items()
        }

    def close(self) -> None:
        """Shut the SDK's provider down."""
        self._sdk.shutdown()


@pytest.fixture(params=["builtin", "sdk"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Bench]]:
    """Return a function that creates a bench."""
    made: list[Bench] = []

    def new(**limits: int) -> Bench:
        made.append(Bench(request.param, **limits))
        return made[-1]

    yield new
    for bench in made:
        bench.close()


def test_event_is_in_the_instruments_at_once(make: Callable[..., Bench]) -> None:
    """There is no batch to flush: every page shows one moment."""
    bench = make()
    bench.recorder.record(Sample(5.0, True, None))
    assert bench.values("genmeter.samples") == {("accepted",): 1}
    for event in (generation(), conversation(), evaluation(), Metric(5.0, "x", 2.0, {})):
        bench.recorder.record(event)
    assert sum(bench.values("genmeter.generations").values()) == 1
    assert sum(bench.values("genmeter.evaluations").values()) == 1
    assert sum(bench.values("genmeter.conversation.duration").values()) == 1
    assert bench.values("genmeter.custom.accumulated") == {("x",): 2}


def test_preregistered_calls_have_both_outcomes_at_0(make: Callable[..., Bench]) -> None:
    """Rates of failures exist before the first failure."""
    bench = make()
    bench.recorder.preregister([Call("chat", "p", "m", None, "unknown")], 5.0)
    found = bench.values("genmeter.generations")
    assert sorted(key[-1] for key in found) == ["failure", "success"]
    assert set(found.values()) == {0}


def test_sum_out_of_range_is_rejected_by_name(make: Callable[..., Bench]) -> None:
    """One amount out of range changes neither the sum nor the next amount."""
    bench = make()
    for value in (1e307, 1e308, 1.0):
        bench.recorder.record(Metric(5.0, "x", value, {}))
    assert bench.values("genmeter.custom.accumulated") == {("x",): 1e307 + 1.0}
    assert bench.values("genmeter.custom.samples") == {("x",): 3}
    assert bench.rejected == [(Reason.OVERFLOW, "genmeter.custom.accumulated", 1e308)]


def test_cached_series_are_bounded(make: Callable[..., Bench]) -> None:
    """Past the limit no event is lost, and nothing is cached for new label sets."""
    bench = make(combinations=10)
    for number in range(50):
        bench.recorder.record(generation(model=f"m{number}", finish_reason=f"r{number}"))
        bench.recorder.record(evaluation(model=f"m{number}", evaluator=f"e{number}"))
    assert sum(bench.values("genmeter.generations").values()) == 50
    assert sum(bench.values("genmeter.evaluations").values()) == 50
    recorder = bench.recorder
    kept = (recorder._generations, recorder._evaluations, recorder._others)
    assert all(len(each) <= 10 for each in kept)


def test_last_call_is_the_newest(make: Callable[..., Bench]) -> None:
    """Conversations and evaluations are not calls of a model."""
    bench = make()
    assert bench.recorder.last_call is None
    bench.recorder.record(conversation(100))
    bench.recorder.record(evaluation(100))
    assert bench.recorder.last_call is None
    for at in (5, 50, 20):
        bench.recorder.record(generation(at))
    assert bench.recorder.last_call == generation(50).time


def test_reset_recorder_starts_at_0() -> None:
    """A forked child writes to none of the parent's cells and has no last call."""
    bench = Bench("builtin")
    bench.recorder.record(generation(model="parent"))
    bench.recorder.record(Metric(5.0, "x", 2.0, {}))
    bench._own.reset_after_fork(RESOURCE)
    bench.recorder.reset()
    assert bench.recorder.last_call is None
    bench.recorder.record(generation(model="child"))
    found = bench.values("genmeter.generations")
    assert {value for key, value in found.items() if "child" in key} == {0, 1}
    assert not any("parent" in key for key in found)
    assert bench.values("genmeter.custom.accumulated") == {}
    assert bench.values("genmeter.custom.value") == {}
    bench.close()
