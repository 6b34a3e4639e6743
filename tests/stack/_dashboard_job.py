"""A job that fills every panel: the demo's, ten times as fast, with faults.

Its arguments are a port, "several" or "one", whether it has two processes, whose page has no
exemplars, and optionally another speed. It runs until it is killed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

from genmeter import GenerationMonitor
from genmeter.cli.demo.simulate import CUSTOM_METRICS, MODELS, PRICES, SCORE_SCALES, Job, Plan
from genmeter.config.monitor import EndpointConfig, LabelLimits, MonitorConfig
from genmeter.events.answers import CallDetails

SPEED = 10.0
TICK = 0.1
ODD_MODEL = "team/odd.model+v1 (beta)"
# Rare events: their series exist only from the first sample after the event on.
RARE = (
    "genmeter_samples_total",
    "genmeter_retries_total",
    "genmeter_monitor_export_failures_total",
    "genmeter_monitor_label_overflow_total",
    "genmeter_monitor_handler_errors_total",
    'genmeter_monitor_events_total{genmeter_result="rejected"}',
    "genmeter_unpriced_generations_total",
    "genmeter_usage_unread_total",
    'genmeter_generations_total{genmeter_outcome="cancelled"}',
    'genmeter_cost_usd_total{genmeter_cost_source="reported"}',
    "gen_ai_client_inference_time_to_first_chunk_seconds_count",
    "gen_ai_client_inference_time_per_output_chunk_seconds_count",
    'genmeter_conversation_duration_seconds_count{error_type!=""}',
    'genmeter_evaluation_duration_seconds_count{error_type!=""}',
    'genmeter_logs_total{genmeter_level="error"}',
)


class Broken:
    """A handler that always fails."""

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, object]) -> None:
        """Raise."""
        raise RuntimeError(metric_name)


def main(port: int, *, is_several: bool, speed: float) -> None:
    """Run the job."""
    config = MonitorConfig(
        models=tuple(model.name for model in MODELS),
        expected_samples=100_000,
        prices=PRICES,
        score_scales=SCORE_SCALES,
        custom_metrics=CUSTOM_METRICS,
        endpoint=EndpointConfig(enabled=True, port=port),
        limits=LabelLimits(steps=20),
    )
    monitor = GenerationMonitor(
        metric_handlers=[Broken()], log_handlers=[], metrics_interval=1, config=config
    )
    tracer = TracerProvider().get_tracer("job")
    job = Job(Plan(duration=1e6, rate=30.0, seed=1), monitor)
    number, began = 0, time.monotonic()
    if is_several:
        work_in_child(monitor)
        die_in_child(monitor)
    while True:
        job.advance((time.monotonic() - began) * speed)
        record_faults(monitor, number)
        with tracer.start_as_current_span("call"):
            monitor.track_generation(0.8, True, model_name=MODELS[0].name)
            record_stream(monitor, is_cancelled=number % 3 == 0)
            monitor.track_generation(9.0, True, conversation_length=3)
            monitor.track_evaluation(0.4, True, "llm_judge", {"coherence": 0.9})
        number += 1
        time.sleep(TICK)


def work_in_child(monitor: GenerationMonitor) -> None:
    """Record in another process of the job too, which ends with this one."""
    if os.fork() == 0:
        parent = os.getppid()
        while os.getppid() == parent:
            monitor.track_generation(0.8, True, model_name=MODELS[0].name)
            time.sleep(TICK)
        os._exit(0)


def die_in_child(monitor: GenerationMonitor) -> None:
    """Record a call in another process of the job, which is killed."""
    if os.fork() == 0:
        monitor.track_generation(0.8, True, model_name=MODELS[0].name)
        monitor.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def record_faults(monitor: GenerationMonitor, number: int) -> None:
    """Record what the demo does not: an unpriced model, many steps, cache writes, bad values."""
    monitor.track_generation(
        1.0,
        True,
        model_name=ODD_MODEL,
        prompt_token_count=900,
        completion_token_count=100,
        total_token_count=1200,
        cache_write_token_count=300,
        finish_reason="length",
        metadata={"operation": f"step {number}"},
    )
    monitor.track_generation(float("nan"), True, model_name=ODD_MODEL)


def record_stream(monitor: GenerationMonitor, *, is_cancelled: bool) -> None:
    """Record a stream of a model that answers under a dated name, left early or read to its end."""
    name = MODELS[0].name
    keywords: dict[str, Any] = {"model_name": name, "response_model": f"{name}-2026-05-01"}
    if not is_cancelled:
        keywords |= {
            "prompt_token_count": 300,
            "completion_token_count": 40,
            "input_audio_token_count": 200,
            "cost": 0.004,
        }
    details = CallDetails(is_cancelled=is_cancelled, first_chunk=0.3, chunk_gaps=(0.02, 0.03))
    monitor.record_call(0.35, not is_cancelled, keywords, details)


if __name__ == "__main__":
    # Unless the environment has another receiver, each push fails.
    os.environ["OTEL_METRICS_EXPORTER"] = "prometheus,otlp"
    os.environ.setdefault("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", "200")
    os.environ.setdefault("OTEL_METRIC_EXPORT_INTERVAL", "500")
    fast = float(sys.argv[3]) if len(sys.argv) > 3 else SPEED
    main(int(sys.argv[1]), is_several=sys.argv[2] == "several", speed=fast)
