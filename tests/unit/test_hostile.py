"""Nothing that a caller can pass makes a call raise, an output fail, or a total wrong."""

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


def told(monitor: GenerationMonitor, success: Any = False, **keywords: Any) -> None:
    """Tell of a call of the model ``bad`` with a known number of prompt tokens."""
    monitor.track_generation(
        0.1, success, **{"model_name": "bad", "prompt_token_count": PROMPT, **keywords}
    )


def judged(monitor: GenerationMonitor, success: Any = False, **keywords: Any) -> None:
    """Tell of an evaluation by the model ``bad`` with a known number of prompt tokens."""
    monitor.track_evaluation(
        0.1, success, "e", {"s": 1}, **{"model_name": "bad", "prompt_token_count": 7, **keywords}
    )


def handled(
    monitor: GenerationMonitor, touch: Callable[[GenerationHandle], object], **names: Any
) -> None:
    """Tell of a call through the handle."""
    with monitor.generation(**{"model": "bad", **names}) as handle:
        touch(handle)
        handle.usage(prompt_token_count=PROMPT)


def tell_calls(monitor: GenerationMonitor, value: Any) -> int:
    """Put the value into every argument of a call but its tokens; give how many calls it took."""
    monitor.track_generation(value, True, model_name="bad", prompt_token_count=PROMPT)
    told(monitor, value)
    for keyword in KEYWORDS:
        told(monitor, **{keyword: value})
        told(monitor, True, **{keyword: value})
    told(monitor, retries=[value, value])
    for key in ("operation", "error_type", "anything"):
        told(monitor, metadata={key: value})
    return 3 + 2 * len(KEYWORDS) + 3


def tell_handles(monitor: GenerationMonitor, value: Any) -> int:
    """Put the value into every argument of the handle; give how many calls it took."""
    names = ("model", "step", "provider", "operation", "metadata")
    for name in names:
        handled(monitor, lambda _: None, **{name: value})
    touches: tuple[Callable[[GenerationHandle], object], ...] = (
        lambda g: g.retry(value),
        lambda g: g.fail(value),
        lambda g: g.usage(value),
        lambda g: g.usage(model_name=value, duration=value, success=value, error=value),
        lambda g: vars(g).update(model=value),
        lambda g: vars(g).update(finish_reason=value) or g.usage({"model": "m"}),
    )
    for touch in touches:
        handled(monitor, touch)
    return len(names) + len(touches)


def tell_evaluations(monitor: GenerationMonitor, value: Any) -> int:
    """Put the value into every argument of an evaluation but its tokens; give how many it took."""
    tokens = {"model_name": "bad", "prompt_token_count": PROMPT}
    monitor.track_evaluation(value, True, "e", {}, **tokens)
    judged(monitor, value)
    monitor.track_evaluation(0.1, True, value, {}, **tokens)
    tables: list[Any] = [value, {"s": value}, {"s": {"score": value, "feedback": value}}]
    try:
        tables.append({value: 1.0})
    except Exception:
        tables.append({"s": [value]})  # what has no hash cannot be a name
    for scores in tables:
        monitor.track_evaluation(0.1, True, "e", scores, **tokens)
    for keyword in KEYWORDS:
        judged(monitor, **{keyword: value})
    return 3 + len(tables) + len(KEYWORDS)


def tell_tokens(monitor: GenerationMonitor, value: Any) -> None:
    """Put the value into every count of tokens."""
    for name in TOKENS:
        monitor.track_generation(0.1, True, model_name="tokens", **{name: value})
        monitor.track_evaluation(0.1, True, "e", {}, model_name="tokens", **{name: value})
    with monitor.generation("tokens") as handle:
        handle.usage(**dict.fromkeys(TOKENS, value))


def tell_others(monitor: GenerationMonitor, value: Any) -> None:
    """Put the value into every argument of what has no tokens."""
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
    """Name whose meter provider is behind the monitor."""
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=VALUES, ids=lambda name: name.replace(" ", "-"))
def outcome(request: pytest.FixtureRequest, provider: str) -> Any:
    """Return the outcome of a hostile value in every argument, good calls between."""
    return run(VALUES[request.param], provider)


class Outcome:
    """The counts of a run, and what its outputs said."""

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
    """Tell everything, good calls between, and read every output."""
    config = MonitorConfig(custom_metrics=CUSTOM, default_model="bad")
    with two_readers(config, provider=provider) as read:
        monitor = read.monitor
        monitor.track_generation(0.5, True, **GOOD)
        calls = tell_calls(monitor, value)
        monitor.track_generation(0.5, True, **GOOD)
        calls += tell_handles(monitor, value)
        evaluations = tell_evaluations(monitor, value)
        monitor.track_generation(0.5, True, **GOOD)
        tell_tokens(monitor, value)
        tell_others(monitor, value)
        monitor.track_generation(0.5, True, **GOOD)
        monitor.get_metrics(value)
        return Outcome(read, calls, evaluations, good=4)


def test_good_calls_between_hostile_ones_are_counted_exactly(outcome: Outcome) -> None:
    """What a hostile value does stays in its own call."""
    (good,) = [each for each in outcome.report.by_model if each.model_name == "good"]
    assert (good.prompt_tokens, good.completion_tokens) == (11 * outcome.good, 5 * outcome.good)
    name = "gen_ai_client_inference_usage_input_tokens_total"
    assert outcome.sum(name, gen_ai_request_model="good") == 11 * outcome.good


def test_a_hostile_argument_never_costs_the_tokens_beside_it(outcome: Outcome) -> None:
    """A value that cannot be used is left out alone: tokens of the same call still count."""
    known = (outcome.calls + outcome.evaluations) * PROMPT
    counted = outcome.report.total_prompt_tokens - 11 * outcome.good
    of_tokens = sum(
        each.prompt_tokens for each in outcome.report.by_model if each.model_name == "tokens"
    )
    # `anything` that a handle reads from a response may name tokens of its own; none here does.
    assert counted - of_tokens == known


def test_no_event_is_lost_and_nothing_fails_inside(outcome: Outcome) -> None:
    """Every call is recorded, whatever was left out of it, and no defect of ours shows."""
    assert outcome.sum("genmeter_monitor_events_total", genmeter_reason="internal") == 0
    everything = outcome.sum("genmeter_generations_total")
    assert everything == outcome.calls + outcome.good + len(TOKENS) + 1
    evaluations = outcome.sum("genmeter_evaluations_total")
    assert evaluations == outcome.evaluations + len(TOKENS)


def test_the_report_and_the_page_agree_to_the_token(outcome: Outcome) -> None:
    """However a value was read, it was read once: report and scrape say the same."""
    usage = "gen_ai_client_inference_usage"
    assert outcome.sum(f"{usage}_input_tokens_total") == outcome.report.total_prompt_tokens
    assert outcome.sum(f"{usage}_output_tokens_total") == outcome.report.total_completion_tokens
    assert outcome.sum("genmeter_tokens_total") == outcome.report.total_tokens
