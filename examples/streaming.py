"""Streams: the time to the first chunk, the gaps between chunks, and streams that are left early."""

import time
from collections.abc import Iterator
from types import SimpleNamespace

from genmeter import GenerationMonitor


def chunks(count: int) -> Iterator[SimpleNamespace]:
    """Stands for a stream of a client; the last chunk has the usage."""
    for number in range(count):
        time.sleep(0.01)
        delta = SimpleNamespace(content=f"word {number} ")
        yield SimpleNamespace(choices=[SimpleNamespace(delta=delta, index=0)], usage=None)
    usage = SimpleNamespace(prompt_tokens=12, completion_tokens=count, total_tokens=12 + count)
    yield SimpleNamespace(choices=[], usage=usage)


if __name__ == "__main__":
    with GenerationMonitor() as monitor:
        with monitor.generation(model="atlas-large", step="read") as call:
            for chunk in call.stream(chunks(20)):
                if chunk.choices:
                    print(chunk.choices[0].delta.content, end="")
        print()
        with monitor.generation(model="atlas-large", step="leave") as call:
            for _ in call.stream(chunks(20)):
                break  # counts as cancelled, and its usage is unknown, not 0
        print(monitor.get_total_token_usage())
        calls = monitor.to_frame("generations")
        print(calls[["step", "outcome", "duration_seconds", "usage_unread"]])
