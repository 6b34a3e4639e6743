"""No argument makes a call raise, an output fail or a total wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from _hostile import VALUES
from _two_readers import PROVIDERS, check_outputs, two_readers

from genmeter import CustomMetric, MonitorConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from _two_readers import TwoReaders

    from genmeter import GenerationHandle, GenerationMonitor

TOKENS = (
    "prompt_token_count",
    "completion_token_count",
    "total_token_count",
    "cache_read_token_count",
    "cache_write_token_count",
    "reasoning_token_count",
)
KEYWORDS = (
    *("model_name", "finish_reason", "error", "error_type", "conversation_length", "turns"),
    *("retries", "provider", "operation", "step", "modality", "metadata", "anything"),
)
CUSTOM = tuple(
    CustomMetric(
        name=f"app.{kind}",
        kind=kind,  # type: ignore[arg-type]
        bounds=(1, 2) if kind == "histogram" else (),
        labels=("key",),
    )
    for kind in ("counter", "updown", "gauge", "histogram")
)
GOOD = {"model_name": "good", "prompt_token_count": 11, "completion_token_count": 5}
PROMPT = 7
"""Prompt tokens of every call whose hostile argument is not its tokens."""


def track_call(monitor: GenerationMonitor, success: Any = False, **keywords: Any) -> None:
    """Record a call of the model ``bad`` with a known number of prompt tokens."""
    monitor.track_generation(
        0.1, success, **{"model_name": "bad", "prompt_token_count": PROMPT, **keywords}
    )


def track_evaluation(monitor: GenerationMonitor, success: Any = False, **keywords: Any) -> None:
    """Record an evaluation by the model ``bad`` with a known number of prompt tokens."""
    monitor.track_evaluation(
        0.1, success, "e", {"s": 1}, **{"model_name": "bad", "prompt_token_count": 7, **keywords}
    )


def use_handle(
    monitor: GenerationMonitor, touch: Callable[[GenerationHandle], object], **names: Any
) -> None:
    """Record a call with a handle."""
    with monitor.generation(**{"model": "bad", **names}) as handle:
        touch(handle)
        handle.usage(prompt_token_count=PROMPT)


def record_calls(monitor: GenerationMonitor, value: Any) -> int:
    """Pass the value as every argument of a call except tokens; return the number of calls."""
    monitor.track_generation(value, True, model_name="bad", prompt_token_count=PROMPT)
    track_call(monitor, value)
    for keyword in KEYWORDS:
        track_call(monitor, **{keyword: value})
        track_call(monitor, True, **{keyword: value})
    track_call(monitor, retries=[value, value])
    for key in ("operation", "error_type", "anything"):
        track_call(monitor, metadata={key: value})
    return 3 + 2 * len(KEYWORDS) + 3


def record_handles(monitor: GenerationMonitor, value: Any) -> int:
    """Pass the value as every argument of the handle; return the number of calls."""
    names = ("model", "step", "provider", "operation", "metadata")
    for name in names:
        use_handle(monitor, lambda _: None, **{name: value})
    touches: tuple[Callable[[GenerationHandle], object], ...] = (
        lambda g: g.retry(value),
        lambda g: g.fail(value),
        lambda g: g.usage(value),
        lambda g: g.usage(model_name=value, duration=value, success=value, error=value),
        lambda g: vars(g).update(model=value),
        lambda g: vars(g).update(finish_reason=value) or g.usage({"model": "m"}),
    )
    for touch in touches:
        use_handle(monitor, touch)
    return len(names) + len(touches)


def record_evaluations(monitor: GenerationMonitor, value: Any) -> int:
    """Pass the value as every argument of an evaluation except tokens; return their number."""
    tokens = {"model_name": "bad", "prompt_token_count": PROMPT}
    monitor.track_evaluation(value, True, "e", {}, **tokens)
    track_evaluation(monitor, value)
    monitor.track_evaluation(0.1, True, value, {}, **tokens)
    row = {"score": value, "feedback": value, "label": value}
    tables: list[Any] = [value, {"s": value}, {"s": row}]
    try:
        tables.append({value: 1.0})
    except Exception:
        tables.append({"s": [value]})  # what has no hash cannot be a name
    for scores in tables:
        monitor.track_evaluation(0.1, True, "e", scores, **tokens)
    for keyword in KEYWORDS:
        track_evaluation(monitor, **{keyword: value})
    return 3 + len(tables) + len(KEYWORDS)


def record_tokens(monitor: GenerationMonitor, value: Any) -> None:
    """Pass the value as every count of tokens."""
    for name in TOKENS:
        monitor.track_generation(0.1, True, model_name="tokens", **{name: value})
        monitor.track_evaluation(0.1, True, "e", {}, model_name="tokens", **{name: value})
    with monitor.generation("tokens") as handle:
        handle.usage(**dict.fromkeys(TOKENS, value))


def record_others(monitor: GenerationMonitor, value: Any) -> None:
    """Pass the value as every argument of methods without tokens."""
    monitor.record_metric(value, 1.0)
    monitor.record_metric("free", value)
    monitor.record_metric("free", 1.0, value)
    monitor.record_metric("free", 1.0, {"timestamp": value})
    for row in CUSTOM:
        monitor.record_metric(row.name, value, {"key": "a"})
        monitor.record_metric(row.name, 1.0, {"key": value})
        monitor.record_metric(row.name, 1.0, value)
    monitor.record_sample(value)
    monitor.record_sample(False, value)
    for log in (monitor.log_info, monitor.log_warning, monitor.log_error):
        log(value)
        log("text", data=value)
    monitor.log_error("text", error=value)


@pytest.fixture(scope="module", params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    """Return which meter provider the monitor uses."""
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=VALUES, ids=lambda name: name.replace(" ", "-"))
def outcome(request: pytest.FixtureRequest, provider: str) -> Any:
    """Return the outcome of a hostile value in every argument, between good calls."""
    return run(VALUES[request.param], provider)


class Outcome:
    """The counts of a run, and its outputs."""

    def __init__(self, read: TwoReaders, calls: int, evaluations: int, good: int) -> None:
        self.calls = calls
        self.evaluations = evaluations
        self.good = good
        self.report = read.monitor.get_total_token_usage()
        self.samples = check_outputs(read)

    def sum(self, name: str, **labels: str) -> float:
        """Sum a series of the page."""
        return sum(
            value
            for (series, pairs), value in self.samples.items()
            if series == name and set(labels.items()) <= pairs
        )


def run(value: Any, provider: str) -> Outcome:
    """Record everything, with good calls between, and read every output."""
    config = MonitorConfig(custom_metrics=CUSTOM, default_model="bad")
    with two_readers(config, provider=provider) as read:
        monitor = read.monitor
        monitor.track_generation(0.5, True, **GOOD)
        calls = record_calls(monitor, value)
        monitor.track_generation(0.5, True, **GOOD)
        calls += record_handles(monitor, value)
        evaluations = record_evaluations(monitor, value)
        monitor.track_generation(0.5, True, **GOOD)
        record_tokens(monitor, value)
        record_others(monitor, value)
        monitor.track_generation(0.5, True, **GOOD)
        monitor.get_metrics(value)
        return Outcome(read, calls, evaluations, good=4)


def test_good_calls_between_hostile_ones_are_counted_exactly(outcome: Outcome) -> None:
    """A hostile value affects only its own call."""
    (good,) = [each for each in outcome.report.by_model if each.model_name == "good"]
    assert (good.prompt_tokens, good.completion_tokens) == (11 * outcome.good, 5 * outcome.good)
    name = "gen_ai_client_inference_usage_input_tokens_total"
    assert outcome.sum(name, gen_ai_request_model="good") == 11 * outcome.good


def test_hostile_argument_does_not_lose_the_calls_tokens(outcome: Outcome) -> None:
    """Only the unusable value is rejected."""
    known = (outcome.calls + outcome.evaluations) * PROMPT
    counted = outcome.report.total_prompt_tokens - 11 * outcome.good
    of_tokens = sum(
        each.prompt_tokens for each in outcome.report.by_model if each.model_name == "tokens"
    )
    # `anything` as a response could contain tokens; none here does.
    assert counted - of_tokens == known


def test_no_event_is_lost_and_no_internal_error_occurs(outcome: Outcome) -> None:
    """Every call is recorded, even if some of its values are rejected."""
    assert outcome.sum("genmeter_monitor_events_total", genmeter_reason="internal") == 0
    everything = outcome.sum("genmeter_generations_total")
    assert everything == outcome.calls + outcome.good + len(TOKENS) + 1
    evaluations = outcome.sum("genmeter_evaluations_total")
    assert evaluations == outcome.evaluations + len(TOKENS)


def test_report_and_page_have_the_same_tokens(outcome: Outcome) -> None:
    """Each value is read only once."""
    usage = "gen_ai_client_inference_usage"
    assert outcome.sum(f"{usage}_input_tokens_total") == outcome.report.total_prompt_tokens
    assert outcome.sum(f"{usage}_output_tokens_total") == outcome.report.total_completion_tokens
    assert outcome.sum("genmeter_tokens_total") == outcome.report.total_tokens
