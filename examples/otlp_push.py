"""A job that pushes its metrics by OTLP, to a Collector, Prometheus or VictoriaMetrics.

Run it with `OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 python examples/otlp_push.py`.
"""

import os
import time

from genmeter import GenerationMonitor

# The standard variables decide where metrics go; these are defaults for this job.
os.environ.setdefault("OTEL_METRICS_EXPORTER", "otlp")
os.environ.setdefault("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
os.environ.setdefault("OTEL_SERVICE_NAME", "otlp-example")

if __name__ == "__main__":
    with GenerationMonitor() as monitor:
        for number in range(20):
            with monitor.generation(model="atlas-large", step="answer") as call:
                time.sleep(0.02)  # stands for a call of a model
                call.usage(prompt_token_count=100 + number, completion_token_count=20)
        # The end of the job pushes too; this waits for the answer, and says if it failed.
        print("pushed" if monitor.push(timeout=10) else "not pushed: see the log")
