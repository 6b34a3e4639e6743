"""A job whose series start one after another while it is scraped.

It reads one command per line: ``batch`` records a batch of everything, with new labels; ``start``
starts four threads that record such batches; ``stop`` stops them; ``end`` shuts the monitor down,
which lingers for one more scrape. It first prints the address of the endpoint, then for each command
the totals as a line of JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
from typing import TYPE_CHECKING, Any

from genmeter import (
    CustomMetric,
    EndpointConfig,
    GenerationMonitor,
    LabelLimits,
    MonitorConfig,
    PriceTable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

LINGER = 30.0
THREADS = 4
PAUSE = 0.1  # seconds between two batches of a thread
LIMIT = 150  # batches without label overflow
CALLS = 3


class Refusing:
    """A handler that always fails."""

    def handle_metric(self, metric_name: str, value: float, metadata: Mapping[str, Any]) -> None:
        """Raise."""
        raise OSError("the disk is full")


class Job:
    """Records batches, and counts them."""

    def __init__(self, monitor: GenerationMonitor) -> None:
        self._monitor = monitor
        self._numbers = itertools.count()
        self._is_stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._ended: list[int] = []

    def batch(self) -> None:
        """Record successes, failures, evaluations, samples, custom metrics, retries and logs."""
        index = next(self._numbers)
        for _ in range(CALLS):
            self._monitor.track_generation(
                0.2,
                True,
                model_name=f"model-{index}",
                prompt_token_count=100,
                completion_token_count=20,
                cache_read_token_count=30,
                reasoning_token_count=5,
                finish_reason=f"reason-{index}",
                step=f"step-{index % 5}",
                retries=["rate_limited", f"Retried{index % 7}"],
            )
        self._monitor.track_generation(
            1.5, False, model_name=f"model-{index}", error_type=f"Error{index}"
        )
        self._monitor.track_generation(60.0, True, conversation_length=3)
        self._monitor.track_evaluation(0.1, True, f"judge-{index}", {f"score-{index}": 0.5})
        self._monitor.track_evaluation(0.1, False, f"judge-{index}", {}, error_type=f"Bad{index}")
        self._monitor.record_sample(accepted=True)
        self._monitor.record_sample(accepted=False, reason=f"reason-{index}")
        self._monitor.record_metric(f"custom-{index}", 2.0)
        self._monitor.record_metric("job.rows", 4.0, {"table": f"table-{index}"})
        self._monitor.record_metric("job.row.size", 8.0, {"table": f"table-{index}"})
        for log in (
            self._monitor.log_info,
            self._monitor.log_warning,
            self._monitor.log_error,
        )[: 1 + index % 3]:
            log("a batch ended")
        self._monitor.record_metric("refused", float("nan"))
        self._ended.append(index)

    def start(self) -> None:
        """Start the threads."""
        self._threads = [threading.Thread(target=self._repeat) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads."""
        self._is_stopped.set()
        for thread in self._threads:
            thread.join()

    def totals(self) -> dict[str, float]:
        """Return the expected totals by counter."""
        batches = len(self._ended)
        return {
            "genmeter_generations_total": (CALLS + 1) * batches,
            "gen_ai_client_inference_duration_seconds_count": (CALLS + 1) * batches,
            "gen_ai_client_inference_usage_input_tokens_total": 100 * CALLS * batches,
            "gen_ai_client_inference_operation_input_tokens_count": CALLS * batches,
            "genmeter_tokens_total": 120 * CALLS * batches,
            "genmeter_retries_total": 2 * CALLS * batches,
            "genmeter_evaluations_total": 2 * batches,
            "genmeter_evaluation_scores_total": batches,
            "genmeter_samples_total": 2 * batches,
            "genmeter_custom_samples_total": batches,
            "job_rows_total": 4 * batches,
            "job_row_size_count": batches,
        }

    def _repeat(self) -> None:
        while not self._is_stopped.wait(PAUSE):
            self.batch()


def main() -> None:
    """Run the commands of standard input."""
    config = MonitorConfig(
        endpoint=EndpointConfig(port=0, linger=LINGER),
        prices=PriceTable({f"model-{index}": (1.0, 2.0) for index in range(0, LIMIT, 2)}),
        limits=LabelLimits(models=LIMIT, evaluators=LIMIT, scores=LIMIT, custom_metrics=LIMIT),
        custom_metrics=[
            CustomMetric(name="job.rows", kind="counter", labels=("table",)),
            CustomMetric(
                name="job.row.size", kind="histogram", labels=("table",), bounds=(1.0, 10.0)
            ),
        ],
    )
    monitor = GenerationMonitor(metric_handlers=[Refusing()], metrics_interval=None, config=config)
    job = Job(monitor)
    print(monitor.endpoint_url, flush=True)  # noqa: T201 - the response
    actions = {
        "batch": job.batch,
        "start": job.start,
        "stop": job.stop,
        "end": monitor.shutdown,
    }
    for line in sys.stdin:
        actions[line.strip()]()
        print(json.dumps(job.totals()), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
