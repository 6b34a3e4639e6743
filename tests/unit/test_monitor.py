"""The monitor's API: records, reads, handlers and the end."""

from __future__ import annotations

import inspect
import json
import threading
import time
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _held import held

import genmeter.clock
from _waiting import eventually
from genmeter import (
    ConfigError,
    EndpointConfig,
    GenerationMonitor,
    HistoryConfig,
    LabelLimits,
    ModelTokenUsage,
    MonitorConfig,
    TokenUsageReport,
    process_token_usage,
)
from genmeter.testing import IsolatedMonitor, fresh_runtime, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

NEVER = {"mean": 0.0, "min": 0.0, "max": 0.0, "count": 0}
HANG = 30.0


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


# --- the contract ----------------------------------------------------------------------------------


def test_constructor_takes_afterimages_arguments() -> None:
    """Order, names and defaults are the same; new arguments are keyword-only."""
    parameters = inspect.signature(GenerationMonitor).parameters
    positional = {
        name: each.default
        for name, each in parameters.items()
        if each.kind is each.POSITIONAL_OR_KEYWORD
    }
    assert list(positional.items()) == [
        ("log_dir", None),
        ("metric_handlers", None),
        ("log_handlers", None),
        ("alert_handlers", None),
        ("metrics_interval", 60),
        ("shutdown_timeout", 5),
    ]
    keywords = [name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY]
    alerts = "min_success_rate max_generation_time_seconds max_error_rate max_prompt_token_mean"
    alerts += " max_completion_token_mean max_total_token_mean max_conversation_length_mean"
    assert {f"alert_{name}" for name in alerts.split()} <= set(keywords)
    assert parameters["token_usage_callback_interval_seconds"].default == 60.0


@pytest.mark.parametrize(
    ("argument", "value", "what"),
    [
        ("log_dir", 5, "a path that is not empty, or None"),
        ("metric_handlers", 5, "a list of handlers, or None"),
        ("log_handlers", "console", "a list of handlers, or None"),
        ("alert_handlers", print, "a list of handlers, or None"),
        ("metrics_interval", "60", "a finite number, or None"),
        ("metrics_interval", float("nan"), "a finite number, or None"),
        ("shutdown_timeout", None, "seconds from 0"),
    ],
)
def test_invalid_argument_is_named(argument: str, value: Any, what: str) -> None:
    """The error has the argument, the requirement and the value."""
    with pytest.raises(ConfigError) as caught:
        GenerationMonitor(**{argument: value})
    assert str(caught.value).startswith(f"{argument} must be {what}")
    assert str(caught.value).endswith(f"got {value!r}")


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("track_generation", ["duration", "success", "kwargs"]),
        ("track_evaluation", ["duration", "success", "evaluator_type", "scores", "kwargs"]),
        ("record_metric", ["metric_name", "value", "metadata"]),
        ("log_info", ["message", "data"]),
        ("log_warning", ["message", "data"]),
        ("log_error", ["message", "error", "data"]),
        ("get_metrics", ["metric_name", "window"]),
        ("get_total_token_usage", ["window"]),
        ("shutdown", []),
    ],
)
def test_methods_take_afterimages_arguments(method: str, names: list[str]) -> None:
    """Arguments can be passed by position or by name."""
    parameters = list(inspect.signature(getattr(GenerationMonitor, method)).parameters)[1:]
    assert parameters == names


def test_public_attributes_can_be_read_and_replaced(tmp_path: Path) -> None:
    """They are AfterImage's; lists are lists, and an empty one means no handler."""
    with isolated_monitor(
        log_dir=str(tmp_path),
        metric_handlers=[],
        log_handlers=[],
        metrics_interval=0,
        shutdown_timeout=2,
    ) as monitor:
        assert monitor.log_dir == tmp_path
        assert isinstance(monitor.log_dir, Path)
        assert monitor.metric_handlers == monitor.log_handlers == monitor.alert_handlers == []
        assert (monitor.metrics_interval, monitor.shutdown_timeout) == (0, 2)
        handlers: list[Any] = [print]
        monitor.alert_handlers = handlers
        assert monitor.alert_handlers is handlers
        monitor.metric_handlers = monitor.log_handlers = []


def test_monitor_without_a_folder_writes_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its default folder is below the working directory."""
    monkeypatch.chdir(tmp_path)
    with isolated_monitor() as monitor, isolated_monitor() as other:
        monitor.track_generation(1.0, True)
        monitor.log_info("hello")
        assert monitor.log_dir.parts[0] == ".afterimage-monitoring"
        assert monitor.log_dir != other.log_dir
    assert list(tmp_path.iterdir()) == []


def test_every_known_keyword_may_be_none(monitor: IsolatedMonitor) -> None:
    """None stands for an absent value: nothing is rejected or logged."""
    known = "prompt_token_count completion_token_count total_token_count model_name finish_reason"
    known += " error conversation_length turns metadata"
    nothing: dict[str, Any] = dict.fromkeys(known.split())
    monitor.track_generation(1.0, True, **nothing)
    monitor.track_evaluation(1.0, True, "e", {}, error_type=None, **nothing)
    assert not monitor.series("genmeter_monitor_events_total", genmeter_result="rejected")
    assert monitor.get_metrics("generation_time")["count"] == 1
    assert monitor.get_total_token_usage().by_model == []


def test_later_changes_of_arguments_have_no_effect() -> None:
    """Metadata and scores are copied when they are recorded."""
    metadata, scores = {"operation": "before"}, {"s": {"score": 1}}
    with isolated_monitor() as monitor:
        with held(monitor._pipeline):
            monitor.track_generation(1.0, True, metadata=metadata, model_name="m")
            monitor.track_evaluation(1.0, True, "e", scores)
            metadata["operation"] = "after"
            scores["s"]["score"] = 0
        assert monitor.value("genmeter_generations_total", genmeter_step="before") == 1
        assert monitor.get_metrics("evaluation_score_s")["mean"] == 1


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


# --- threads, callbacks, the end ------------------------------------------------------------------


def test_read_sees_earlier_writes_on_any_thread() -> None:
    """No call waits."""
    with isolated_monitor() as monitor:
        seen: list[bool] = []

        def work(name: str) -> None:
            for number in range(1, 101):
                monitor.track_generation(1.0, True, model_name=name, prompt_token_count=1)
                report = monitor.get_total_token_usage()
                (own,) = [each for each in report.by_model if each.model_name == name]
                seen.append(own.prompt_tokens == number)

        threads = [threading.Thread(target=work, args=(f"m{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG)
        assert len(seen) == 400
        assert all(seen)


def test_callback_gets_reports_until_the_end() -> None:
    """It is called at every interval, and not after the shutdown."""
    reports: list[Any] = []
    with isolated_monitor(
        token_usage_callback=reports.append, token_usage_callback_interval_seconds=0.01
    ) as monitor:
        monitor.track_generation(1.0, True, model_name="m", prompt_token_count=5)
        assert eventually(lambda: reports and reports[-1].total_tokens == 5)
        monitor.shutdown()
        count = len(reports)
    assert len(reports) == count
    assert all(each.total_tokens in (0, 5) for each in reports)


def test_failing_callback_is_counted_and_called_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The first failure is logged."""

    def fail(_: Any) -> None:
        raise RuntimeError("the job's own defect")

    with isolated_monitor(
        token_usage_callback=fail, token_usage_callback_interval_seconds=0.005
    ) as monitor:
        name, label = "genmeter_monitor_handler_errors_total", "token_usage_callback"
        assert eventually(lambda: monitor.value(name, genmeter_handler=label) >= 3)
    assert caplog.text.count("token_usage_callback failed: the job's own defect") == 1


def test_monitor_can_be_shut_down_twice_and_read_afterwards(monitor: IsolatedMonitor) -> None:
    """The second call does nothing."""
    monitor.track_generation(1.0, True, model_name="m", prompt_token_count=5)
    assert "open" in repr(monitor)
    monitor.shutdown()
    monitor.shutdown()
    assert "shut down" in repr(monitor)
    assert monitor.get_total_token_usage().total_tokens == 5
    assert monitor.get_metrics("generation_time")["count"] == 1
    assert monitor.value("genmeter_job_finished") == 1


def test_shutdown_never_raises(
    monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error at the end is logged."""

    def fail(*_: Any) -> None:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(monitor._runtime, "release", fail)
        monitor.shutdown()
    assert "shutdown failed" in caplog.text


def test_monitor_is_a_context_manager(monitor: IsolatedMonitor) -> None:
    """It returns itself, shuts down after the block and suppresses no exception."""
    with pytest.raises(ZeroDivisionError), monitor as same:  # noqa: PT012
        assert same is monitor
        raise ZeroDivisionError
    monitor.track_generation(1.0, True)
    assert monitor.get_metrics("generation_time") == NEVER


def test_flush_waits_for_the_instruments(monitor: IsolatedMonitor) -> None:
    """It returns when all earlier events are in them."""
    monitor.track_generation(1.0, True, model_name="m", prompt_token_count=5)
    monitor.flush()
    monitor.flush(timeout=1.0)
    assert len(monitor._inbox) == 0


@pytest.mark.parametrize("timeout", ["5", -1, float("nan")])
def test_flush_timeout_must_be_seconds(monitor: IsolatedMonitor, timeout: Any) -> None:
    """The error names the remedy."""
    with pytest.raises(ConfigError, match=r"timeout must be seconds"):
        monitor.flush(timeout)


def test_monitor_without_an_endpoint_has_no_url(monitor: IsolatedMonitor) -> None:
    """The URL is None where nothing is served."""
    assert monitor.endpoint_url is None


@pytest.mark.parametrize("name", ["metric_handlers", "log_handlers"])
def test_object_without_the_handler_method_is_named(name: str) -> None:
    """The constructor raises."""
    with pytest.raises(ConfigError, match=rf"{name}\[0\] must .*print.* without handle_"):
        GenerationMonitor(**{name: [print]})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["metric_handlers", "log_handlers"])
def test_handlers_have_their_thread_from_the_start(name: str) -> None:
    """None can be started at the end of the interpreter, where a blocking handler would delay it."""

    class Given:
        def handle_metric(self, **row: Any) -> None:
            """Take a value."""

        def handle_log(self, message: dict[str, Any]) -> None:
            """Take a record."""

    class Later(Given):
        """One that comes when the monitor is there."""

    def running() -> set[str]:
        return {thread.name for thread in threading.enumerate()}

    with isolated_monitor(**{name: [Given()]}) as monitor:
        assert "genmeter-Given" in running()
        setattr(monitor, name, [Later()])
        assert "genmeter-Later" in running()


def test_handlers_are_called_and_flush_waits_for_them(tmp_path: Path) -> None:
    """After flush() handlers and files have all earlier events."""
    passed: list[str] = []

    class Handler:
        def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
            passed.append(metric_name)

        def handle_log(self, message: dict[str, Any]) -> None:
            passed.append(message["message"])

    both: list[Any] = [Handler()]
    with isolated_monitor(metric_handlers=both, log_handlers=both) as monitor:
        monitor.track_generation(1.0, True)
        monitor.flush()
        assert sorted(passed) == [
            "Generation metrics",
            "error_rate",
            "generation_time",
            "success_rate",
            "usage_unread:not_reported",
        ]
    with isolated_monitor(log_dir=tmp_path) as monitor:
        monitor.record_metric("a", 1.0)
        monitor.log_info("hello")
        monitor.flush()
        assert '"a"' in (tmp_path / "metrics.jsonl").read_text()
        assert "hello" in (tmp_path / "afterimage.log").read_text()


def test_flush_names_the_unfinished_handler() -> None:
    """A blocking handler delays nothing else."""
    gate = threading.Event()

    class Stuck:
        def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
            gate.wait(60)

    with isolated_monitor(metric_handlers=[Stuck()]) as monitor:
        monitor.record_metric("a", 1.0)
        with pytest.raises(TimeoutError, match="Stuck"):
            monitor.flush(0.2)
        assert monitor.get_metrics("a")["count"] == 1
        gate.set()


def test_log_dir_variable_sets_the_journals_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GENMETER_LOG_DIR is the default of log_dir."""
    monkeypatch.setenv("GENMETER_LOG_DIR", str(tmp_path))
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with fresh_runtime(), GenerationMonitor() as monitor:
        assert monitor.log_dir == tmp_path
        monitor.record_metric("a", 1.0)
    assert (tmp_path / "metrics.jsonl").exists()


def test_call_that_began_before_a_fork_is_not_active_in_the_child(
    monitor: IsolatedMonitor,
) -> None:
    """The child counts the call."""
    with monitor.generation("m"):
        assert monitor.value("genmeter_generations_active") == 1
        monitor._session.reset_after_fork()
        assert monitor.value("genmeter_generations_active") == 0
    assert monitor.value("genmeter_generations_active") == 0
    assert monitor.value("genmeter_generations_total", genmeter_outcome="success") == 1


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[GenerationMonitor]:
    """Return a monitor with its own provider and no endpoint."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
    with fresh_runtime():
        config = MonitorConfig(endpoint=EndpointConfig(enabled=False))
        with GenerationMonitor(config=config) as monitor:
            monitor.track_generation(1.0, True, model_name="m", prompt_token_count=5)
            yield monitor


def test_page_can_be_mounted_as_a_wsgi_app(own: GenerationMonitor) -> None:
    """The caller's server serves the same page as the endpoint."""
    statuses: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "SCRIPT_NAME": ""}
    body = own.wsgi_app()(environ, lambda status, *_: statuses.append(status))  # type: ignore[arg-type,return-value]
    assert b"genmeter_tokens_total" in b"".join(body)
    assert statuses == ["200 OK"]
    assert own.endpoint_url is None


async def test_page_can_be_mounted_as_an_asgi_app(own: GenerationMonitor) -> None:
    """The same for asynchronous servers."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": [], "root_path": ""}
    await own.asgi_app()(scope, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 200
    assert b"genmeter_tokens_total" in b"".join(each.get("body", b"") for each in sent)


def test_log_dir_is_created_at_once(tmp_path: Path) -> None:
    """The job may write its own files there, as with AfterImage."""
    with isolated_monitor(log_dir=tmp_path / "a" / "b") as monitor:
        assert monitor.log_dir.is_dir()


def test_log_dir_that_cannot_be_created_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the journal is missing."""
    file = tmp_path / "file"
    file.touch()
    with isolated_monitor(log_dir=file, log_handlers=[], metrics_interval=None) as monitor:
        for _ in range(3):
            monitor.track_generation(1.0, True)
            monitor.flush()
        assert monitor.get_metrics("generation_time")["count"] == 3
    (line,) = [each for each in caplog.messages if str(file) in each]
    assert "FileMetricHandler" in line


def test_shutdown_waits_for_handlers(tmp_path: Path) -> None:
    """They get every alert and every line of the journal."""
    alerts: list[str] = []

    def slow(alert: Any) -> None:
        time.sleep(0.05)
        alerts.append(alert.name)

    with isolated_monitor(
        log_dir=tmp_path, alert_handlers=[slow], metrics_interval=0.01
    ) as monitor:
        monitor.track_generation(1.0, False)
        monitor._alerting._tick()
    assert alerts == ["low_success_rate", "high_error_rate"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_callback_that_raises_a_base_exception_is_called_again(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted, logged once, and ends no thread."""
    totals: list[int] = []
    has_gone_on = threading.Event()

    def leave(report: TokenUsageReport) -> None:
        totals.append(report.total_tokens)
        if len(totals) > 2:
            has_gone_on.set()
        raise error

    with isolated_monitor(
        token_usage_callback=leave, token_usage_callback_interval_seconds=0.005
    ) as monitor:
        monitor.track_generation(1.0, True, total_token_count=7)
        assert has_gone_on.wait(HANG)
        name = "genmeter_monitor_handler_errors_total"
        assert monitor.value(name, genmeter_handler="token_usage_callback") >= 2
    assert totals[-1] == 7
    (logged,) = caplog.records
    assert "token_usage_callback failed" in logged.message


def test_blocking_callback_does_not_delay_handlers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The journal is complete, shutdown ends in time, and a warning names the callback."""
    gate, called = threading.Event(), threading.Event()

    def block(_: TokenUsageReport) -> None:
        called.set()
        gate.wait(60)

    with fresh_runtime():
        monitor = GenerationMonitor(
            tmp_path,
            shutdown_timeout=0.3,
            token_usage_callback=block,
            token_usage_callback_interval_seconds=0.001,
            config=MonitorConfig(endpoint=EndpointConfig(enabled=False)),
        )
        monitor.track_generation(1.0, True)
        assert called.wait(10)
        monitor.shutdown()
        monitor._pipeline.deferred_log.finish(5)
        gate.set()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4
    assert "token_usage_callback did not return" in caplog.text
