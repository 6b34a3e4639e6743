"""The cause of each alert in a job: one row for each alert, or the reason why it has none."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genmeter.config.monitor import LabelLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from genmeter import GenerationMonitor
    from otlp_receiver import Receiver

    Record = Callable[[GenerationMonitor], None]

WINDOW = 20
"""Seconds of most windows; an alert is resolved this long after its cause."""

SETTINGS = f"""\
objective = 0.99
cost_budget = 10.0
token_budget = 100_000
jobs = ["nobody-started-it"]
runbook_url = "https://wiki.example.com/genmeter"

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
job_process_died = {{ window = "{WINDOW}s" }}
rate_limited = {{ window = "{WINDOW}s" }}
samples_rejected = {{ window = "{WINDOW}s" }}
generation_truncated = {{ window = "{WINDOW}s" }}
evaluation_score_drop = {{ window = ["10s", "{WINDOW + 15}s"] }}
evaluation_failures = {{ window = "{WINDOW}s" }}
CostBudgetBurn = {{ window = "{WINDOW}s" }}
TokenBudgetBurn = {{ window = "{WINDOW}s" }}
model_unpriced = {{ window = "{WINDOW}s" }}
usage_unread = {{ window = "{WINDOW}s" }}
target_down = {{ window = "5m", for = "1s" }}
target_absent = {{ for = "8s" }}
monitor_rejects_events = {{ window = "{WINDOW}s" }}
monitor_handler_failing = {{ window = "{WINDOW}s" }}
monitor_label_overflow = {{ window = "{WINDOW}s" }}
monitor_export_failing = {{ window = "{WINDOW}s" }}
"""
"""The table with short windows.

The threshold of ``low_success_rate`` is raised: with the default ``high_error_rate`` would always
fire and inhibit it. The alert on an absent job waits for a while: alerts that fire before Prometheus
has found its Alertmanager are sent a minute later.
"""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """The cause of one alert, without alerts that would inhibit it.

    Attributes:
        record: Records events once, at the start of the job.
        later: Records events after some seconds.
        after: The seconds before ``later``.
        repeats: Whether to call ``later`` every second from then on.
        labels: The labels of the alert's group.
        config: Arguments of ``MonitorConfig``.
        keywords: Arguments of ``GenerationMonitor``.
        environment: Variables for the creation of the monitor.
    """

    record: Record
    later: Record | None = None
    after: float = 0.0
    repeats: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    keywords: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


class Failing:
    """A handler that always raises."""

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Raise an error."""
        raise ValueError(f"{metric_name} is rejected")


def _calls(count: int, failing: int = 0, **keywords: Any) -> Record:
    """Record calls, the first of which fail."""

    def record(monitor: GenerationMonitor) -> None:
        for number in range(count):
            monitor.track_generation(
                **{"duration": 1.0, "success": number >= failing, "model_name": "atlas", **keywords}
            )

    return record


def _evaluations(count: int, failing: int = 0, score: float | None = None) -> Record:
    def record(monitor: GenerationMonitor) -> None:
        scores = {} if score is None else {"coherence": score}
        for number in range(count):
            monitor.track_evaluation(0.5, number >= failing, "judge", scores)

    return record


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


JOB = f"loses-a-process-{os.getpid()}"
_DIES = """
import os, signal
from genmeter import GenerationMonitor

monitor = GenerationMonitor()
monitor.track_generation(1.0, True, model_name="atlas")
monitor.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
_DYING: list[subprocess.Popen[bytes]] = []


def _lose_a_process(_: GenerationMonitor) -> None:
    """Start another process of the job, which kills itself after a call."""
    environment = {**os.environ, "GENMETER_JOB": JOB, "OTEL_METRICS_EXPORTER": "none"}
    _DYING.append(subprocess.Popen([sys.executable, "-c", _DIES], env=environment))


ATLAS = {"gen_ai_request_model": "atlas"}
PRICED = {"prices": {"atlas": (1_000.0, 1_000.0)}}

_CAUSES: Mapping[str, Cause] = {
    "low_success_rate": Cause(record=_calls(100, failing=15)),
    "high_error_rate": Cause(record=_calls(10, failing=10)),
    "high_generation_time": Cause(record=_calls(3, duration=90.0), labels=ATLAS),
    "high_token_usage:prompt": Cause(record=_calls(3, prompt_token_count=5_000), labels=ATLAS),
    "high_token_usage:completion": Cause(
        record=_calls(3, completion_token_count=5_000), labels=ATLAS
    ),
    "high_token_usage:total": Cause(record=_calls(3, total_token_count=9_000), labels=ATLAS),
    "long_conversations": Cause(record=_conversations),
    "error_budget_burn:1h": Cause(record=_calls(100, failing=18)),
    "error_budget_burn:6h": Cause(record=_calls(100, failing=9)),
    "error_budget_burn:1d": Cause(record=_calls(100, failing=4)),
    "error_budget_burn:3d": Cause(record=_calls(100, failing=2)),
    "generation_stalled": Cause(record=_calls(1), later=_calls(1), after=WINDOW, repeats=True),
    "job_process_died": Cause(
        record=_calls(1), later=_lose_a_process, after=3, config={"job": JOB}
    ),
    "rate_limited": Cause(record=_calls(20, retries=["rate_limited"]), labels=ATLAS),
    "samples_rejected": Cause(record=_rejected_samples),
    "generation_truncated": Cause(record=_calls(20, finish_reason="length"), labels=ATLAS),
    "evaluation_score_drop": Cause(
        record=_evaluations(40, score=0.9),
        later=_evaluations(20, score=0.1),
        after=12,
        labels={"gen_ai_evaluation_name": "coherence", "genmeter_evaluator": "judge"},
    ),
    "evaluation_failures": Cause(
        record=_evaluations(10, failing=5), labels={"genmeter_evaluator": "judge"}
    ),
    "cost_budget_burn:warning": Cause(record=_calls(1, prompt_token_count=9_000), config=PRICED),
    "cost_budget_burn:critical": Cause(record=_calls(1, prompt_token_count=20_000), config=PRICED),
    "token_budget_burn:warning": Cause(record=_calls(1, prompt_token_count=90_000)),
    "token_budget_burn:critical": Cause(record=_calls(1, prompt_token_count=200_000)),
    "model_unpriced": Cause(
        record=_calls(2, model_name="cedar", prompt_token_count=10),
        labels={"gen_ai_request_model": "cedar"},
        config=PRICED,
    ),
    "usage_unread": Cause(
        record=_calls(20, model_name="cedar"), labels={"gen_ai_request_model": "cedar"}
    ),
    "monitor_rejects_events": Cause(record=_unreadable, labels={"genmeter_reason": "not_finite"}),
    "monitor_handler_failing": Cause(
        record=_calls(1),
        labels={"genmeter_handler": "Failing"},
        keywords={"metric_handlers": [Failing()]},
    ),
    "monitor_label_overflow": Cause(
        record=_many_models,
        labels={"genmeter_label": "models"},
        config={"limits": LabelLimits(models=1)},
    ),
}


def causes(receiver: Receiver) -> dict[str, Cause]:
    """Return the causes by the alert's id.

    Args:
        receiver: An OTLP receiver that rejects all pushes until a job changes that.
    """

    def recover(_: GenerationMonitor) -> None:
        receiver.failing = None

    failing = Cause(
        record=_calls(1),
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
    "target_down": "a killed job, in a separate test",
    "target_absent": "an absent job, in a separate test",
    "target_lost": "test_ends_of_jobs.py",
    "push_stopped": "test_ends_of_jobs.py",
    "collector_down": "test_ends_of_jobs.py",
}
"""Alerts that no running job causes, and where they are tested."""
