"""What a job does to cause each alert: one row for each of the table, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genmeter.config.monitor import LabelLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from genmeter import GenerationMonitor
    from otlp_receiver import Receiver

    Tell = Callable[[GenerationMonitor], None]

WINDOW = 20
"""Seconds of most windows: what a job told is out of them, and its alert over, after as long."""

SETTINGS = f"""\
objective = 0.99
cost_budget = 10.0
token_budget = 100_000
jobs = ["nobody-started-it"]

[alerts]
low_success_rate = {{ threshold = 0.9, window = "{WINDOW}s" }}
high_error_rate = {{ window = "{WINDOW}s" }}
high_generation_time = {{ window = "{WINDOW}s" }}
"high_token_usage:prompt" = {{ window = "{WINDOW}s" }}
"high_token_usage:completion" = {{ window = "{WINDOW}s" }}
"high_token_usage:total" = {{ window = "{WINDOW}s" }}
long_conversations = {{ window = "{WINDOW}s" }}
"error_budget_burn:1h" = {{ window = ["{WINDOW + 3}s", "{WINDOW}s"], for = "1s" }}
"error_budget_burn:6h" = {{ window = ["{WINDOW + 2}s", "{WINDOW}s"], for = "1s" }}
"error_budget_burn:1d" = {{ window = ["{WINDOW + 1}s", "{WINDOW}s"], for = "1s" }}
"error_budget_burn:3d" = {{ window = ["{WINDOW + 3}s", "{WINDOW}s"], for = "1s" }}
generation_stalled = {{ window = "5s" }}
rate_limited = {{ window = "{WINDOW}s" }}
samples_rejected = {{ window = "{WINDOW}s" }}
generation_truncated = {{ window = "{WINDOW}s" }}
evaluation_score_drop = {{ window = ["10s", "{WINDOW + 15}s"] }}
evaluation_failures = {{ window = "{WINDOW}s" }}
CostBudgetBurn = {{ window = "{WINDOW}s" }}
TokenBudgetBurn = {{ window = "{WINDOW}s" }}
model_unpriced = {{ window = "{WINDOW}s" }}
target_down = {{ window = "5m", for = "1s" }}
target_absent = {{ for = "8s" }}
monitor_rejects_events = {{ window = "{WINDOW}s" }}
monitor_handler_failing = {{ window = "{WINDOW}s" }}
monitor_label_overflow = {{ window = "{WINDOW}s" }}
monitor_export_failing = {{ window = "{WINDOW}s" }}
"""
"""The table with windows that a test has the time for.

The threshold of ``low_success_rate`` is raised: with the one of the table ``high_error_rate`` fires
wherever it does, and inhibits it. A job that is absent from the start is so for a while before
its alert fires: what fires before Prometheus has found its Alertmanager is told a minute later.
"""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """What makes one alert fire, and no other that would inhibit it.

    Attributes:
        tell: What the job tells once, when it starts.
        later: What it tells after some seconds.
        after: As many.
        goes_on: Whether it tells that each second from then on.
        labels: Of the alert: those of its group.
        config: Arguments of ``MonitorConfig``.
        keywords: Arguments of ``GenerationMonitor``.
        environment: Variables to make the monitor with.
    """

    tell: Tell
    later: Tell | None = None
    after: float = 0.0
    goes_on: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    keywords: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


class Failing:
    """A handler that takes nothing."""

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Fail."""
        raise ValueError(f"{metric_name} is not taken")


def _calls(count: int, failing: int = 0, **keywords: Any) -> Tell:
    """Tell calls, the first of which fail."""

    def tell(monitor: GenerationMonitor) -> None:
        for number in range(count):
            monitor.track_generation(
                **{"duration": 1.0, "success": number >= failing, "model_name": "atlas", **keywords}
            )

    return tell


def _evaluations(count: int, failing: int = 0, score: float | None = None) -> Tell:
    def tell(monitor: GenerationMonitor) -> None:
        scores = {} if score is None else {"coherence": score}
        for number in range(count):
            monitor.track_evaluation(0.5, number >= failing, "judge", scores)

    return tell


def _conversations(monitor: GenerationMonitor) -> None:
    for _ in range(10):
        monitor.track_generation(60.0, True, conversation_length=6)


def _rejected_samples(monitor: GenerationMonitor) -> None:
    for number in range(30):
        monitor.record_sample(number < 10, "too_short")


def _unreadable(monitor: GenerationMonitor) -> None:
    monitor.track_generation(float("nan"), True, model_name="atlas")


def _many_models(monitor: GenerationMonitor) -> None:
    for model in ("atlas", "birch", "cedar"):
        monitor.track_generation(1.0, True, model_name=model)


ATLAS = {"gen_ai_request_model": "atlas"}
PRICED = {"prices": {"atlas": (1_000.0, 1_000.0)}}

_CAUSES: Mapping[str, Cause] = {
    "low_success_rate": Cause(tell=_calls(100, failing=15)),
    "high_error_rate": Cause(tell=_calls(10, failing=10)),
    "high_generation_time": Cause(tell=_calls(3, duration=90.0), labels=ATLAS),
    "high_token_usage:prompt": Cause(tell=_calls(3, prompt_token_count=5_000), labels=ATLAS),
    "high_token_usage:completion": Cause(
        tell=_calls(3, completion_token_count=5_000), labels=ATLAS
    ),
    "high_token_usage:total": Cause(tell=_calls(3, total_token_count=9_000), labels=ATLAS),
    "long_conversations": Cause(tell=_conversations),
    "error_budget_burn:1h": Cause(tell=_calls(100, failing=18)),
    "error_budget_burn:6h": Cause(tell=_calls(100, failing=9)),
    "error_budget_burn:1d": Cause(tell=_calls(100, failing=4)),
    "error_budget_burn:3d": Cause(tell=_calls(100, failing=2)),
    "generation_stalled": Cause(tell=_calls(1), later=_calls(1), after=WINDOW, goes_on=True),
    "rate_limited": Cause(tell=_calls(20, retries=["rate_limited"]), labels=ATLAS),
    "samples_rejected": Cause(tell=_rejected_samples),
    "generation_truncated": Cause(tell=_calls(20, finish_reason="length"), labels=ATLAS),
    "evaluation_score_drop": Cause(
        tell=_evaluations(40, score=0.9),
        later=_evaluations(20, score=0.1),
        after=12,
        labels={"gen_ai_evaluation_name": "coherence", "genmeter_evaluator": "judge"},
    ),
    "evaluation_failures": Cause(
        tell=_evaluations(10, failing=5), labels={"genmeter_evaluator": "judge"}
    ),
    "cost_budget_burn:warning": Cause(tell=_calls(1, prompt_token_count=9_000), config=PRICED),
    "cost_budget_burn:critical": Cause(tell=_calls(1, prompt_token_count=20_000), config=PRICED),
    "token_budget_burn:warning": Cause(tell=_calls(1, prompt_token_count=90_000)),
    "token_budget_burn:critical": Cause(tell=_calls(1, prompt_token_count=200_000)),
    "model_unpriced": Cause(
        tell=_calls(2, model_name="cedar", prompt_token_count=10),
        labels={"gen_ai_request_model": "cedar"},
        config=PRICED,
    ),
    "monitor_rejects_events": Cause(tell=_unreadable, labels={"genmeter_reason": "not_finite"}),
    "monitor_handler_failing": Cause(
        tell=_calls(1),
        labels={"genmeter_handler": "Failing"},
        keywords={"metric_handlers": [Failing()]},
    ),
    "monitor_label_overflow": Cause(
        tell=_many_models,
        labels={"genmeter_label": "models"},
        config={"limits": LabelLimits(models=1)},
    ),
}


def causes(receiver: Receiver) -> dict[str, Cause]:
    """Give the causes by the alert's id.

    Args:
        receiver: Of OTLP, which refuses all until a job has it do otherwise.
    """

    def recover(_: GenerationMonitor) -> None:
        receiver.failing = None

    failing = Cause(
        tell=_calls(1),
        later=recover,
        after=8,
        labels={"genmeter_exporter": "otlp"},
        environment={
            "OTEL_METRICS_EXPORTER": "prometheus,otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        },
    )
    return {**_CAUSES, "monitor_export_failing": failing}


ELSEWHERE = {
    "target_down": "a job that was killed, in a test of its own",
    "target_absent": "a job that nobody started, in a test of its own",
}
"""Alerts that no living job causes: where they are."""
