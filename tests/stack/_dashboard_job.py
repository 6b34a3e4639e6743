"""A job that fills every panel: the demo's, at speed, and whatever goes wrong in a monitor.

Run as a script with a port: it plays ten seconds of the demo a second until it is ended.
"""

from __future__ import annotations

import os
import sys
import time

from opentelemetry.sdk.trace import TracerProvider

from genmeter import GenerationMonitor
from genmeter.cli.demo.simulate import (
    CUSTOM_METRICS,
    MODELS,
    PRICES,
    SCORE_SCALES,
    Job,
    Plan,
)
from genmeter.config.monitor import EndpointConfig, LabelLimits, MonitorConfig

SPEED = 10.0
TICK = 0.1
ODD_MODEL = "team/odd.model+v1 (beta)"


class Broken:
    """A handler that takes nothing."""

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, object]) -> None:
        """Fails."""
        raise RuntimeError(metric_name)


def main(port: int) -> None:
    """Plays the job."""
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
    job = Job(Plan(duration=1e6, rate=30.0, seed=1, failing={}), monitor)
    number, since = 0, time.monotonic()
    while True:
        job.advance((time.monotonic() - since) * SPEED)
        go_wrong(monitor, number)
        with tracer.start_as_current_span("call"):
            monitor.track_generation(0.8, True, model_name=MODELS[0].name)
            monitor.track_generation(9.0, True, conversation_length=3)
            monitor.track_evaluation(0.4, True, "llm_judge", {"coherence": 0.9})
        number += 1
        time.sleep(TICK)


def go_wrong(monitor: GenerationMonitor, number: int) -> None:
    """Tells what the demo's job does not: no price, no step, cache writes and faults."""
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


if __name__ == "__main__":
    os.environ |= {
        "OTEL_METRICS_EXPORTER": "prometheus,otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "200",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    main(int(sys.argv[1]))
