"""A job that is told what to record; it prints the totals of its process after each command.

Its arguments are the port and "created" or "plain", without start times. It reads one command per
line: ``calls N`` records calls of two models, a tenth of which fail; ``rest`` records the other things
that a report has; ``push`` pushes the metrics; ``end`` shuts the monitor down, which lingers for one
more scrape. It first prints the address of its endpoint.
"""

from __future__ import annotations

import json
import os
import sys

from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig, PriceTable

# A job that pushes is not scraped.
LINGER = 30.0 if "prometheus" in os.environ.get("OTEL_METRICS_EXPORTER", "prometheus") else 0.0


def main() -> None:
    """Run the commands of standard input."""
    config = MonitorConfig(
        endpoint=EndpointConfig(
            port=int(sys.argv[1]), linger=LINGER, created_series=sys.argv[2] == "created"
        ),
        prices=PriceTable({"atlas": (1.0, 2.0)}),
    )
    monitor = GenerationMonitor(metrics_interval=None, config=config)
    totals = dict.fromkeys(
        ("calls", "failures", "cancelled", "calls_without_usage", "prompt_tokens", "total_tokens"),
        0,
    ) | {"conversations": 0, "evaluations": 0}
    print(monitor.endpoint_url, flush=True)  # noqa: T201 - the response
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "calls":
            for number in range(int(argument)):
                model = ("atlas", "sprint")[number % 2]
                is_failure = number % 10 == 9
                tokens = (
                    {} if is_failure else {"prompt_token_count": 7, "completion_token_count": 4}
                )
                monitor.track_generation(
                    0.25, not is_failure, model_name=model, step="draft", **tokens
                )
                totals["calls"] += 1
                totals["failures"] += is_failure
                totals["prompt_tokens"] += tokens.get("prompt_token_count", 0)
                totals["total_tokens"] += sum(tokens.values())
        elif command == "rest":
            monitor.track_generation(60.0, True, conversation_length=3)
            monitor.track_evaluation(0.5, True, "judge", {"clear": 0.5})
            monitor.track_generation(2.0, True, model_name="sprint", step="draft")
            totals["conversations"] += 1
            totals["evaluations"] += 1
            totals["calls"] += 1
            totals["calls_without_usage"] += 1
        elif command == "push":
            monitor.push()
        else:
            monitor.shutdown()
        print(json.dumps(totals), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
