"""What instrumentations of clients do not see of a call, or see otherwise, by situation.

Each entry is a limit of the instrumentation at its present version, none of the monitor: a call that it sees
better one day fails its test, which is then mended here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _books import Call
    from _model_server import Entry

    Sight = Callable[[Call, Entry], list[Call]]

__all__ = ["as_seen_by"]


def _unseen(call: Call, entry: Entry) -> list[Call]:
    return []


def _timed_out(call: Call, entry: Entry) -> list[Call]:
    """Return a failure: the client raised, though for the server it has left."""
    return [call._replace(outcome="failure")]


def _left(call: Call, entry: Entry) -> list[Call]:
    """Return a success or a cancellation, without tokens: nobody says that the rest was not read."""
    return [call._replace(outcome=outcome) for outcome in ("success", "cancelled")]


def _input_known(*outcomes: str, outputs: tuple[int | None, ...]) -> Sight:
    """Return calls with the input of a stream's first event, and maybe the output of that."""
    return lambda call, entry: [
        call._replace(outcome=outcome, input=entry.input, output=output)
        for outcome in outcomes
        for output in outputs
    ]


def _looks_good(call: Call, entry: Entry) -> list[Call]:
    """Return a success of unknown tokens."""
    return [call._replace(outcome="success")]


def _without_reasoning(call: Call, entry: Entry) -> list[Call]:
    return [call._replace(reasoning=0)]


def _one_too_many(call: Call, entry: Entry) -> list[Call]:
    """Return a stream's output with that of its first event added."""
    if entry.is_stream and call.output is not None:
        return [call._replace(output=call.output + 1)]
    return [call]


def _without_thoughts(call: Call, entry: Entry) -> list[Call]:
    """Return the output without the thoughts, or with them, of which only the total is known."""
    assert call.output is not None
    outputs = (call.output - entry.reasoning, call.output)
    return [call, *(call._replace(output=output, reasoning=0) for output in outputs)]


def _no_streams(call: Call, entry: Entry) -> list[Call]:
    return [] if entry.is_stream else [call]


_COMMON: dict[str, Sight] = {"timeout": _timed_out, "stream left": _left}
_ANTHROPIC_STREAMS = {
    "stream left": _input_known("success", "cancelled", outputs=(1, None)),
    "stream broken": _input_known("failure", outputs=(1, None)),
}
_SIGHT: dict[str, dict[str, Sight]] = {
    "openllmetry-openai": {
        "stream": _without_reasoning,
        "stream broken": _looks_good,
        "stream with error": _looks_good,
        "cancelled": _unseen,
        "responses truncated": _unseen,
    },
    "anthropic-native": _ANTHROPIC_STREAMS,
    "genai-anthropic": _ANTHROPIC_STREAMS,
    "openinference-anthropic": _ANTHROPIC_STREAMS,
    "logfire-anthropic": _ANTHROPIC_STREAMS,
    "openllmetry-anthropic": {
        "stream": _one_too_many,
        "retries": _one_too_many,
        "asynchronous": _one_too_many,
        "stream left": _unseen,
        "stream broken": _unseen,
        "cancelled": _unseen,
    },
    "openllmetry-google": {
        "thoughts": _without_thoughts,
        "errors": _no_streams,
        "cancelled": _unseen,
        "embeddings": _unseen,
    },
}


def as_seen_by(emitters: Sequence[str], situation: str) -> Sight:
    """Return how the call of a situation is recorded when these instrumentations see it.

    With several, what one of them knows fully is recorded so; else as any of them sees it.
    """
    names = [name for name in emitters if name != "httpx"]  # it sees no models

    def seen(call: Call, entry: Entry) -> list[Call]:
        by_name = [
            _SIGHT.get(name, {}).get(situation) or _COMMON.get(situation) or (lambda c, _: [c])
            for name in names
        ]
        found = [
            _operations(name, sight(call, entry))
            for name, sight in zip(names, by_name, strict=True)
        ]
        full = [
            calls
            for calls in found
            if len(calls) == 1 and calls[0]._replace(operation=call.operation) == call
        ]
        if "openllmetry-anthropic" in names and "anthropic-native" not in names:
            full = []  # its span may be the outer one, which counts with its output
        return [each for calls in (full or found) for each in calls]

    return seen


def _operations(name: str, calls: list[Call]) -> list[Call]:
    """Return calls with the operation that the instrumentation writes."""
    if name.startswith("openinference"):
        return [
            call._replace(operation="chat") if call.operation == "generate_content" else call
            for call in calls
        ]
    return calls
