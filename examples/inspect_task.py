"""An evaluation by Inspect: genmeter has its calls, retries, samples and scores.

Run it with `OPENAI_API_KEY=... python examples/inspect_task.py`.
"""

import os

import inspect_ai
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

import genmeter.hooks
from genmeter import GenerationMonitor

MODEL = os.environ.get("MODEL", "openai/gpt-4o-mini")
SAMPLES = [
    Sample(input="What is the capital of France?", target="Paris"),
    Sample(input="What is 6 times 7?", target="42"),
]

if __name__ == "__main__":
    with GenerationMonitor() as monitor:
        genmeter.hooks.install("inspect_ai", monitor=monitor)
        task = inspect_ai.Task(
            dataset=SAMPLES, solver=generate(), scorer=includes(), name="capitals"
        )
        inspect_ai.eval(task, model=MODEL, display="none")
        print(monitor.get_total_token_usage())
        print(monitor.to_frame("evaluations"))
