"""The monitor's API: summaries, token reports and the models of calls."""

from __future__ import annotations

import inspect
import json
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest

import genmeter.clock
from genmeter import (
    ConfigError,
    GenerationMonitor,
    HistoryConfig,
    LabelLimits,
    ModelTokenUsage,
    MonitorConfig,
    process_token_usage,
)
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


NEVER = {"mean": 0.0, "min": 0.0, "max": 0.0, "count": 0}


class Clock:
    """The clock of the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        monkeypatch.setattr(genmeter.clock, "now", lambda: self.now)


class ScoreName(str, Enum):  # noqa: UP042 - what the old code has
    """Score names as in AfterImage."""

    COHERENCE = "coherence"


class PlainScoreName(Enum):
    """Score names that are not strings."""

    FACTUALITY = "factuality"


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor with defaults."""
    with isolated_monitor() as made:
        yield made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock of all monitors, which stands still."""
    return Clock(monkeypatch)


def models(monitor: IsolatedMonitor, **labels: str) -> dict[str, float]:
    """Count the generations on the page by model."""
    found: dict[str, float] = {}
    for each in monitor.series("genmeter_generations_total", **labels):
        model = each.labels["gen_ai_request_model"]
        found[model] = found.get(model, 0) + each.value
    return {model: count for model, count in found.items() if count}


# --- get_metrics ----------------------------------------------------------------------------------


def test_unknown_metric_has_a_summary_of_zeros(monitor: IsolatedMonitor) -> None:
    """A stop rule may read a metric before the first event."""
    for name in ("generation_time", "success_rate", "unknown", ""):
        assert monitor.get_metrics(name) == NEVER


def test_metric_without_values_in_the_window_has_an_empty_summary(
    monitor: IsolatedMonitor, clock: Clock
) -> None:
    """Once recorded, never unknown again."""
    monitor.track_generation(1.0, True)
    clock.now += 301
    assert monitor.get_metrics("generation_time") == {}
    assert monitor.get_metrics("generation_time", timedelta(seconds=302))["count"] == 1
    assert monitor.get_metrics("generation_time", None)["count"] == 1


def test_summary_has_mean_min_max_and_count(monitor: IsolatedMonitor, clock: Clock) -> None:
    """By default it covers the last five minutes."""
    for duration in (10.0, 1.0, 4.0):
        monitor.track_generation(duration, True, prompt_token_count=int(duration))
        clock.now += 200
    assert monitor.get_metrics("generation_time") == {
        "mean": 4.0, "min": 4.0, "max": 4.0, "count": 1,
    }  # fmt: skip
    assert monitor.get_metrics("generation_time", timedelta(hours=1)) == {
        "mean": 5.0, "min": 1.0, "max": 10.0, "count": 3,
    }  # fmt: skip
    tokens = monitor.get_metrics("prompt_token_count", timedelta(hours=1))
    assert json.loads(json.dumps(tokens)) == {"mean": 5.0, "min": 1, "max": 10, "count": 3}


def test_default_window_is_five_minutes() -> None:
    """As in AfterImage."""
    window = inspect.signature(GenerationMonitor.get_metrics).parameters["window"].default
    assert window == timedelta(minutes=5)


@pytest.mark.parametrize("window", [5, "1h", 0.5])
@pytest.mark.parametrize("method", ["get_metrics", "get_total_token_usage"])
def test_window_must_be_a_timedelta(monitor: IsolatedMonitor, method: str, window: Any) -> None:
    """Reads raise an error that names the remedy."""
    arguments = ("generation_time", window) if method == "get_metrics" else (window,)
    with pytest.raises(ConfigError, match=r"window must be a datetime.timedelta"):
        getattr(monitor, method)(*arguments)


@pytest.mark.parametrize("window", [timedelta.max, timedelta(0), timedelta(seconds=-5)])
def test_any_timedelta_is_a_valid_window(monitor: IsolatedMonitor, window: timedelta) -> None:
    """This includes the longest, the empty and a negative one."""
    monitor.track_generation(1.0, True)
    assert monitor.get_metrics("generation_time", window).get("count", 0) in (0, 1)


@pytest.mark.parametrize("window", [timedelta(0), timedelta(seconds=-5)])
def test_window_of_0_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: timedelta
) -> None:
    """Neither reads nor exports contain an event of this very moment."""
    Clock(monkeypatch)
    with isolated_monitor(log_dir=tmp_path) as monitor:
        monitor.track_generation(1.0, True, model_name="m", total_token_count=7)
        monitor.track_generation(2.0, True, turns=3)
        monitor.track_evaluation(1.0, True, "judge", {"s": 0.5}, total_token_count=7)
        monitor.record_metric("own", 1.0)
        for name in (
            "generation_time",
            "success_rate",
            "evaluation_time",
            "own",
            "total_token_count",
        ):
            assert monitor.get_metrics(name, window) == {}
            assert monitor.get_metrics(name, None)["count"] >= 1
            with pytest.raises(ValueError, match="not recorded within"):
                monitor.plot_metric(name, window=window)
        for report in (monitor.get_total_token_usage(window), process_token_usage(window)):
            assert report.total_tokens == 0
            assert report.by_model == []
            assert report.complete
        for kind in ("generations", "conversations", "evaluations", "metrics", "samples"):
            assert len(monitor.to_frame(kind, window)) == 0
            assert len(monitor.to_frame(kind)) > 0
        file = tmp_path / "export.json"
        monitor.export_metrics(file, format="json", window=window)
        assert not any(json.loads(file.read_text(encoding="utf-8")).values())


def test_tokens_without_a_model_belong_to_unknown(monitor: IsolatedMonitor) -> None:
    """This holds in the report and on the page, after calls with models too."""
    for success in (True, False):
        monitor.track_generation(1.0, success, model_name="known", step="s", total_token_count=5)
        monitor.track_generation(1.0, success, step="s", total_token_count=7)
    monitor.track_generation(1.0, True, step="s")
    monitor.track_evaluation(1.0, False, "judge", {}, step="s", prompt_token_count=1)
    found = {
        each.model_name: each.total_tokens for each in monitor.get_total_token_usage().by_model
    }
    assert found == {"known": 10, "unknown": 15}
    for model, tokens in found.items():
        assert monitor.value("genmeter_tokens_total", gen_ai_request_model=model) == tokens


def test_failed_call_without_tokens_belongs_to_the_model_of_its_step(
    monitor: IsolatedMonitor,
) -> None:
    """It adds an error to that model, and no tokens."""
    monitor.track_generation(1.0, True, model_name="small", step="ask", total_token_count=5)
    monitor.track_generation(1.0, True, model_name="large", step="judge", total_token_count=5)
    monitor.track_generation(1.0, False, step="ask", error=TimeoutError())
    monitor.track_generation(1.0, False, step="never seen")

    def failures(model: str) -> float:
        return monitor.value(
            "genmeter_generations_total", gen_ai_request_model=model, genmeter_outcome="failure"
        )

    assert (failures("small"), failures("large"), failures("unknown")) == (1, 0, 1)
    assert monitor.get_total_token_usage().total_tokens == 10


def test_error_rate_includes_every_generation(monitor: IsolatedMonitor) -> None:
    """It is 1 for a failure and 0 for a success, whatever `error` is (defect 5)."""
    monitor.track_generation(1.0, True)
    monitor.track_generation(1.0, True, error="said, but it succeeded")
    monitor.track_generation(1.0, False, error="failed")
    monitor.track_generation(1.0, False)
    assert monitor.get_metrics("error_rate") == {"mean": 0.5, "min": 0.0, "max": 1.0, "count": 4}
    assert monitor.get_metrics("success_rate")["mean"] == 0.5


def test_evaluation_error_rate_includes_every_evaluation(monitor: IsolatedMonitor) -> None:
    """The same for evaluations."""
    for success in (True, True, True, False):
        monitor.track_evaluation(1.0, success, "e", {})
    assert monitor.get_metrics("evaluation_error_rate")["mean"] == 0.25


def test_model_usage_and_finish_reasons_count_calls(
    monitor: IsolatedMonitor,
) -> None:
    """Names with slashes and capitals are found unchanged."""
    monitor.track_generation(1.0, True, model_name="org/model", finish_reason="STOP")
    monitor.track_generation(1.0, True, model_name="org/model", finish_reason="length")
    monitor.track_generation(1.0, False)
    assert monitor.get_metrics("model_usage:org/model")["count"] == 2
    assert monitor.get_metrics("finish_reason:STOP")["count"] == 1
    assert monitor.get_metrics("finish_reason:stop")["count"] == 1
    assert monitor.get_metrics("finish_reason:length")["count"] == 1


def test_scores_are_named_by_the_value_of_their_enum(monitor: IsolatedMonitor) -> None:
    """No name is the repr of an Enum (defect 10); a dict of score and feedback is its score."""
    monitor.track_evaluation(
        2.5,
        True,
        "judge",
        {
            ScoreName.COHERENCE: {"score": 0.5, "feedback": "fair"},
            PlainScoreName.FACTUALITY: 0.75,
            "plain": 1,
        },
    )
    for name, value in (("coherence", 0.5), ("factuality", 0.75), ("plain", 1.0)):
        assert monitor.get_metrics(f"evaluation_score_{name}")["mean"] == value
    assert monitor.get_metrics("evaluation_time")["mean"] == 2.5


def test_invalid_values_are_not_in_the_mean(monitor: IsolatedMonitor) -> None:
    """NaN, text and infinity are rejected (defect 12)."""
    for value in (1.0, float("nan"), "text", float("inf"), 3.0):
        monitor.record_metric("m", value)  # type: ignore[arg-type]
        monitor.track_generation(value, True)  # type: ignore[arg-type]
    assert monitor.get_metrics("m") == {"mean": 2.0, "min": 1.0, "max": 3.0, "count": 2}
    assert monitor.get_metrics("generation_time")["mean"] == 2.0
    assert monitor.get_metrics("success_rate")["count"] == 5


def test_window_past_the_history_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The warning names the remedy."""
    with isolated_monitor(MonitorConfig(history=HistoryConfig(capacity=2))) as monitor:
        for _ in range(3):
            monitor.track_generation(1.0, True)
        assert monitor.get_metrics("generation_time")["count"] == 2
        monitor.get_metrics("generation_time")
    said = [each for each in caplog.messages if "history.capacity" in each]
    assert len(said) == 1
    assert "(GENMETER_HISTORY_CAPACITY) above 2 " in said[0]


# --- token reports --------------------------------------------------------------------------------


def test_report_sums_by_model_sorted_by_name(monitor: IsolatedMonitor) -> None:
    """It has prompt, completion and total of each model, and of all."""
    monitor.track_generation(1.0, True, model_name="b", prompt_token_count=1, total_token_count=9)
    monitor.track_generation(
        1.0, True, model_name="a", prompt_token_count=10, completion_token_count=5
    )
    monitor.track_generation(1.0, False, model_name="a", completion_token_count=2)
    report = monitor.get_total_token_usage()
    assert report.by_model == [ModelTokenUsage("a", 10, 7, 17), ModelTokenUsage("b", 1, 0, 9)]
    assert (report.total_prompt_tokens, report.total_completion_tokens) == (11, 7)
    assert report.total_tokens == 26
    assert report.complete


def test_tokens_of_evaluations_are_in_the_report(monitor: IsolatedMonitor) -> None:
    """They are included in parts and calls too."""
    monitor.track_evaluation(
        1.0, True, "e", {}, model_name="judge", prompt_token_count=100,
        cache_read_token_count=60, reasoning_token_count=1,
    )  # fmt: skip
    (usage,) = monitor.get_total_token_usage().by_model
    assert usage == ModelTokenUsage("judge", 100, 0, 100)
    assert (usage.cache_read_tokens, usage.reasoning_tokens, usage.calls) == (60, 1, 1)


def test_report_of_a_window_contains_only_its_events(
    monitor: IsolatedMonitor, clock: Clock
) -> None:
    """Without a window it contains all events."""
    monitor.track_generation(1.0, True, model_name="m", prompt_token_count=1)
    clock.now += 100
    monitor.track_generation(1.0, True, model_name="m", prompt_token_count=10)
    assert monitor.get_total_token_usage(timedelta(seconds=50)).total_tokens == 10
    assert monitor.get_total_token_usage(timedelta(seconds=100)).total_tokens == 11
    assert monitor.get_total_token_usage().total_tokens == 11
    assert process_token_usage(timedelta(seconds=50)).total_tokens == 10
    assert process_token_usage().total_tokens == 11


def test_report_of_a_window_past_the_history_is_incomplete(clock: Clock) -> None:
    """Totals since the start stay exact."""
    with isolated_monitor(MonitorConfig(history=HistoryConfig(capacity=2))) as monitor:
        for _ in range(5):
            monitor.track_generation(1.0, True, model_name="m", prompt_token_count=1)
            clock.now += 10
        partial = monitor.get_total_token_usage(timedelta(hours=1))
        assert (partial.total_tokens, partial.complete) == (2, False)
        assert partial.covers_since is not None
        assert partial.covers_since.timestamp() == clock.now - 20
        assert monitor.get_total_token_usage(timedelta(seconds=20)).complete
        everything = monitor.get_total_token_usage()
        assert (everything.total_tokens, everything.complete) == (5, True)


def test_empty_report_has_no_models(monitor: IsolatedMonitor) -> None:
    """Every total is 0."""
    report = monitor.get_total_token_usage()
    assert report.by_model == []
    assert report.total_prompt_tokens == report.total_completion_tokens == report.total_tokens == 0


# --- models of calls ------------------------------------------------------------------------------


def test_failed_call_belongs_to_the_default_model() -> None:
    """The default applies to calls without a model."""
    with isolated_monitor(MonitorConfig(default_model="d")) as monitor:
        monitor.track_generation(1.0, True, model_name="m")
        monitor.track_generation(1.0, False, error="x")
        assert models(monitor, genmeter_outcome="failure") == {"d": 1}


def test_failed_call_belongs_to_the_last_model_of_its_step(monitor: IsolatedMonitor) -> None:
    """AfterImage passes no model for a failed call."""
    for step, model in (("ask", "small"), ("answer", "large")):
        monitor.track_generation(1.0, True, model_name=model, metadata={"operation": step})
    for step in ("ask", "answer", "answer"):
        monitor.track_generation(1.0, False, error="x", metadata={"operation": step})
    assert models(monitor, genmeter_outcome="failure") == {"small": 1, "large": 2}


def test_failed_call_of_a_new_step_belongs_to_the_only_model(monitor: IsolatedMonitor) -> None:
    """Where there is but one model, it is that."""
    monitor.track_generation(1.0, True, model_name="only", step="ask")
    monitor.track_generation(1.0, False, step="new")
    assert models(monitor, genmeter_outcome="failure") == {"only": 1}


def test_failed_call_without_a_known_model_belongs_to_unknown(monitor: IsolatedMonitor) -> None:
    """No model was used yet, or several but none in this step."""
    monitor.track_generation(1.0, False)
    monitor.track_generation(1.0, True, model_name="a", step="x")
    monitor.track_generation(1.0, True, model_name="b", step="y")
    monitor.track_generation(1.0, False, step="z")
    assert models(monitor, genmeter_outcome="failure") == {"unknown": 2}


def test_both_outcomes_start_at_0_with_the_first_call(monitor: IsolatedMonitor) -> None:
    """A ratio can be computed from the first scrape."""
    monitor.track_generation(1.0, True, model_name="m")
    found = {
        each.labels["genmeter_outcome"]: each.value
        for each in monitor.series("genmeter_generations_total")
    }
    assert found == {"success": 1, "failure": 0}


def test_labels_past_their_limits_become_other_and_are_counted() -> None:
    """Models, steps, errors and finish reasons are limited; totals are not affected."""
    limits = LabelLimits(models=2, steps=2, error_types=2, finish_reasons=2)
    with isolated_monitor(MonitorConfig(limits=limits)) as monitor:
        for number in range(5):
            monitor.track_generation(
                1.0,
                False,
                model_name=f"m{number}",
                step=f"s{number}",
                error_type=f"e{number}",
                finish_reason=f"f{number}",
                prompt_token_count=1,
            )
        assert models(monitor) == {"m0": 1, "m1": 1, "other": 3}
        overflow = {
            each.labels["genmeter_label"]: each.value
            for each in monitor.series("genmeter_monitor_label_overflow_total")
        }
        assert overflow == {"models": 3, "steps": 3, "error_types": 3, "finish_reasons": 3}
        report = monitor.get_total_token_usage()
        assert {each.model_name: each.total_tokens for each in report.by_model} == models(monitor)
        assert monitor.value("genmeter_finish_reasons_total", genmeter_finish_reason="other") == 3
