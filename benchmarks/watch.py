"""What a watch adds to a call: OpenAI's client over a transport that answers from memory.

Needs ``openai``, of the dependency group ``vendors``.
"""

from __future__ import annotations

import json
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from _measure import seconds, side_by_side
from _table import Aim, Row, at_most, print_aims, print_table

from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = 20
ROUNDS = 60
CHUNKS = 50
BARE = "the client alone"
OTHER = "another client of the process is watched"
WATCHED = "watched"
BLOCK = "a block, call.usage() or call.stream()"
WHOLE = f"A chat over a transport in memory, bursts of {CALLS}"
STREAM = f"The same, a stream of {CHUNKS} chunks"
USAGE = {"prompt_tokens": 900, "completion_tokens": 120, "total_tokens": 1020}


def answer() -> bytes:
    """Return an answer as JSON."""
    message = {"role": "assistant", "content": "word " * 100}
    return json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": USAGE,
        }
    ).encode()


def events() -> bytes:
    """Return a stream's events."""
    shape = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [
        {"choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}
        for _ in range(CHUNKS - 2)
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({"choices": [], "usage": USAGE})
    lines = [f"data: {json.dumps({**shape, **each})}\n\n" for each in chunks]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


def client() -> Any:
    """Return a client whose transport answers from memory."""
    import httpx
    import openai

    whole, stream = answer(), events()

    def handle(request: httpx.Request) -> httpx.Response:
        if b'"stream":true' in request.content:
            kind = {"content-type": "text/event-stream"}
            return httpx.Response(200, content=stream, headers=kind)
        kind = {"content-type": "application/json"}
        return httpx.Response(200, content=whole, headers=kind)

    http = httpx.Client(transport=httpx.MockTransport(handle))
    return openai.OpenAI(api_key="k", base_url="http://x/v1", http_client=http)


def run() -> list[Row]:
    """Measure a client alone, watched, and in a block."""
    if find_spec("openai") is None:
        print("\nwatch.py: openai is not installed; run it with .venv-vendors/bin/python")
        return []
    asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    streamed = {**asked, "stream": True, "stream_options": {"include_usage": True}}
    config = MonitorConfig(endpoint=EndpointConfig(enabled=False))
    with GenerationMonitor(config=config) as monitor:
        return [*_measure(monitor, WHOLE, asked), *_measure(monitor, STREAM, streamed)]


def _measure(monitor: GenerationMonitor, group: str, asked: dict[str, Any]) -> list[Row]:
    made, other = client(), client()
    create = made.chat.completions.create
    is_stream = "stream" in asked

    def plain() -> None:
        result = create(**asked)
        if is_stream:
            for _ in result:
                pass

    def in_block() -> None:
        with monitor.generation() as call:
            if is_stream:
                for _ in call.stream(create(**asked)):
                    pass
            else:
                call.usage(create(**asked))

    def figure(call: Callable[[], None], watched: Any) -> float:
        monitor.flush()
        if watched is None:
            return _of_a_call(call)
        monitor.watch(watched)
        try:
            return _of_a_call(call)
        finally:
            monitor.unwatch(watched)

    spreads = side_by_side(
        {
            BARE: partial(figure, plain, None),
            OTHER: partial(figure, plain, other),
            WATCHED: partial(figure, plain, made),
            BLOCK: partial(figure, in_block, None),
        },
        ROUNDS,
    )
    return [Row(group, name, each.min, ratio=each.ratio) for name, each in spreads.items()]


def aims(rows: list[Row]) -> list[Aim]:
    """Compare the figures with the aims."""
    if not rows:
        return []
    return [
        at_most(
            "a watch adds at most a quarter to a call over a transport in memory",
            _ratio(rows, WHOLE),
            1.25,
        ),
        at_most("... and at most 15 % to a stream", _ratio(rows, STREAM), 1.15),
    ]


def _ratio(rows: list[Row], group: str) -> float:
    ratios = {row.subject: row.ratio or 0.0 for row in rows if row.group == group}
    return ratios[WATCHED]


def _of_a_call(call: Callable[[], None]) -> float:
    return seconds(lambda: [call() for _ in range(CALLS)]) / CALLS


if __name__ == "__main__":
    measured = run()
    print_table(measured)
    print_aims(aims(measured))
