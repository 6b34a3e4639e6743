"""A job that Prometheus scrapes: http://127.0.0.1:9464/metrics while it runs, and for one scrape after it."""

import random
import time

from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig

# The endpoint stays up for at most 30 s after the job, until it was scraped once more: no call is missing.
config = MonitorConfig(endpoint=EndpointConfig(enabled=True, linger=30), expected_samples=100)


def ask(prompt: str) -> str:
    """Stands for a call of a model."""
    time.sleep(random.uniform(0.02, 0.1))
    return prompt.upper()


if __name__ == "__main__":
    with GenerationMonitor(config=config) as monitor:
        print("the page is at", monitor.endpoint_url, flush=True)
        for number in range(100):
            prompt = f"Question {number}?"
            with monitor.generation(model="atlas-large", step="answer") as call:
                answer = ask(prompt)
                call.usage(prompt_token_count=len(prompt), completion_token_count=len(answer))
            monitor.record_sample(accepted=True)
        print(monitor.get_total_token_usage())
