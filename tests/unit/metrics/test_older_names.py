"""The older names of calls' metrics, which a setting adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from _meters import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from genmeter import CustomMetric, LabelLimits, MonitorConfig
from genmeter.errors import ConfigError
from genmeter.metrics.recorder import MetricsRecorder
from genmeter.schema import metrics as cat
from genmeter.schema.older_metrics import OLDER_INSTRUMENTS, OPERATION_DURATION, TOKEN_USAGE
from genmeter.testing import IsolatedMonitor, isolated_monitor
from history_events import generation

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKENS, DURATION = TOKEN_USAGE.prometheus, OPERATION_DURATION.prometheus
LABELS = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "openai",
    "gen_ai_system": "openai",
    "gen_ai_request_model": "gpt-4o",
    "gen_ai_response_model": "gpt-4o-2024-08-06",
}
CALL = {"model_name": "gpt-4o", "provider": "openai", "response_model": "gpt-4o-2024-08-06"}


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor with the older names."""
    with isolated_monitor(MonitorConfig(older_metric_names=True)) as made:
        yield made


def values(monitor: IsolatedMonitor, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Return the values of a series by its labels."""
    return {
        tuple(each.labels.get(label, "") for label in labels): each.value
        for each in monitor.series(name)
    }


def test_names_units_and_bounds_are_those_of_the_older_conventions() -> None:
    """Tokens quadruple from 1, seconds double from 10 ms."""
    assert TOKENS == "gen_ai_client_token_usage"
    assert DURATION == "gen_ai_client_operation_duration_seconds"
    assert TOKEN_USAGE.bounds[:4] == (1, 4, 16, 64)
    assert (len(TOKEN_USAGE.bounds), TOKEN_USAGE.bounds[-1]) == (14, 67_108_864)
    assert OPERATION_DURATION.bounds[:3] == pytest.approx((0.01, 0.02, 0.04))
    assert (len(OPERATION_DURATION.bounds), OPERATION_DURATION.bounds[-1]) == (14, 81.92)


def test_older_names_are_off_by_default() -> None:
    """Without the setting the page has none of them."""
    with isolated_monitor() as monitor:
        monitor.track_generation(1.0, True, **CALL, prompt_token_count=10)
        assert not any(row.prometheus in monitor.page() for row in OLDER_INSTRUMENTS)


def test_tokens_of_a_call_are_recorded_by_type(monitor: IsolatedMonitor) -> None:
    """Each count is one value, with the labels of the older conventions only."""
    for count in (10, 90):
        monitor.track_generation(
            0.5, True, **CALL, step="ask", prompt_token_count=count, completion_token_count=7
        )
    sums = monitor.series(f"{TOKENS}_sum")
    assert {each.labels["gen_ai_token_type"]: each.value for each in sums} == {
        "input": 100,
        "output": 14,
    }
    for each in sums:
        assert {key: value for key, value in each.labels.items() if "token_type" not in key} == (
            LABELS
        )
    assert set(values(monitor, f"{TOKENS}_count", "gen_ai_token_type").values()) == {2}


def test_unknown_counts_are_not_recorded_as_0(monitor: IsolatedMonitor) -> None:
    """An embedding has no completion; a call without usage has neither."""
    monitor.track_generation(0.5, True, **CALL, prompt_token_count=10)
    monitor.track_generation(0.5, True, **CALL)
    assert values(monitor, f"{TOKENS}_count", "gen_ai_token_type") == {("input",): 1}
    assert values(monitor, f"{DURATION}_count", "error_type") == {("",): 2}


def test_durations_have_the_class_of_the_error(monitor: IsolatedMonitor) -> None:
    """Failures are told apart by their class; a successful call has none."""
    monitor.track_generation(0.5, True, **CALL)
    monitor.track_generation(2.0, False, **CALL, error=TimeoutError("late"))
    assert values(monitor, f"{DURATION}_sum", "error_type") == {("",): 0.5, ("TimeoutError",): 2.0}


@pytest.mark.parametrize(("provider", "system"), [("x_ai", "xai"), ("aws.bedrock", "aws.bedrock")])
def test_the_system_has_its_older_value(
    monitor: IsolatedMonitor, provider: str, system: str
) -> None:
    """The value differs from the provider's where the conventions renamed that too."""
    monitor.track_generation(0.5, True, model_name="m", provider=provider)
    assert values(monitor, f"{DURATION}_count", "gen_ai_provider_name", "gen_ai_system") == {
        (provider, system): 1
    }


def test_evaluations_have_tokens_and_conversations_nothing(monitor: IsolatedMonitor) -> None:
    """A judge's tokens are billed too; a conversation's calls are recorded by themselves."""
    monitor.track_evaluation(3.0, True, "judge", {}, model_name="j", completion_token_count=5)
    monitor.track_generation(60.0, True, conversation_length=3)
    assert values(monitor, f"{TOKENS}_sum", "gen_ai_request_model") == {("j",): 5}
    assert values(monitor, f"{DURATION}_count", "gen_ai_request_model") == {}


def test_reset_forgets_every_cell(monitor: IsolatedMonitor) -> None:
    """A forked child records to cells of its own."""
    monitor.track_generation(0.5, True, **CALL, prompt_token_count=10)
    monitor.flush()
    older = monitor._session.state.metrics._older
    assert older is not None
    assert len(older._cells) == 2
    older.reset()
    assert older._cells == {}


def test_label_sets_are_limited() -> None:
    """Neither the cells that are kept nor the series grow past the limit."""
    config = MonitorConfig(older_metric_names=True, limits=LabelLimits(combinations=5))
    with isolated_monitor(config) as monitor:
        for number in range(20):
            monitor.track_generation(0.5, True, model_name=f"m{number}")
        monitor.flush()
        assert len(monitor.series(f"{DURATION}_count")) <= 6
        older = monitor._session.state.metrics._older
        assert older is not None
        assert len(older._cells) <= 5


def test_another_meter_provider_gets_them_too() -> None:
    """The instruments are created with the API, so the SDK exports them with their bounds."""
    reader = InMemoryMetricReader()
    recorder = MetricsRecorder(
        MeterProvider([reader]).get_meter("test"),
        MonitorConfig(older_metric_names=True),
        observe={},
        on_reject=lambda *_: None,
    )
    recorder.record(generation(input_tokens=10, output_tokens=None))
    data = reader.get_metrics_data()
    assert data is not None
    found = metrics(data)
    assert {row.name for row in OLDER_INSTRUMENTS} <= set(found)
    (point,) = found[TOKEN_USAGE.name].data.data_points
    assert tuple(getattr(point, "explicit_bounds", ())) == TOKEN_USAGE.bounds


@pytest.mark.parametrize("name", ["gen_ai.client.token.usage", "gen_ai.client.token_usage"])
def test_custom_metrics_with_an_older_name_are_rejected(name: str) -> None:
    """One of both must be renamed or turned off; without the setting the name is free."""
    custom = CustomMetric(name=name, kind="histogram", unit=TOKEN_USAGE.unit, bounds=cat.TOKENS)
    assert MonitorConfig(custom_metrics=(custom,)).custom_metrics == (custom,)
    with pytest.raises(ConfigError, match="turn older_metric_names off"):
        MonitorConfig(custom_metrics=(custom,), older_metric_names=True)
