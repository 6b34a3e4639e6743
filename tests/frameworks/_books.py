"""Compares what a monitor recorded with the books of the model server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _model_server import Entry, ModelServer

    from genmeter import GenerationMonitor

__all__ = ["Call", "assert_equal_books", "expected_call", "recorded_calls"]


class Call(NamedTuple):
    """A call, as the books and a monitor both know it.

    Attributes:
        model: That was asked for.
        operation: ``chat``, ``embeddings``, ``text_completion`` or ``generate_content``.
        outcome: ``success``, ``failure`` or ``cancelled``.
        input: Tokens, cached ones included; None if unknown.
        output: Tokens, reasoning included; None if unknown. Embeddings have none.
        cached, reasoning: Parts of these.
    """

    model: str | None
    operation: str
    outcome: str
    input: int | None
    output: int | None
    cached: int
    reasoning: int


def expected_call(attempts: list[Entry]) -> Call:
    """Return the call that a client made in these attempts, as one that sees all of it records it."""
    entry = attempts[-1]
    outcome = {"answered": "success", "left": "cancelled"}.get(entry.outcome, "failure")
    is_known = entry.outcome == "answered" and entry.has_usage
    operation = "chat" if entry.operation == "responses" else entry.operation
    return Call(
        entry.model,
        operation,
        outcome,
        entry.input if is_known else None,
        entry.output if is_known and operation != "embeddings" else None,
        entry.cached if is_known else 0,
        entry.reasoning if is_known else 0,
    )


def recorded_calls(monitor: GenerationMonitor) -> list[Call]:
    """Return the calls of a monitor, in the order of its frame."""
    monitor.flush()
    return [
        Call(
            _plain(row["model"]),
            row["operation"],
            row["outcome"],
            _plain(row["input_tokens"]),
            None if row["operation"] == "embeddings" else _plain(row["output_tokens"]),
            _plain(row["cache_read_tokens"]) or 0,
            _plain(row["reasoning_tokens"]) or 0,
        )
        for row in monitor.to_frame("generations").to_dict("records")
    ]


def _plain(value: Any) -> Any:
    return None if value is None or value != value or type(value).__name__ == "NAType" else value  # noqa: PLR0124 - NaN


def assert_equal_books(
    monitor: GenerationMonitor,
    server: ModelServer,
    *,
    as_seen: Callable[[Call, Entry], Sequence[Call]] = lambda call, entry: [call],
) -> None:
    """Assert that a monitor has each call of the books once, with its tokens and outcome.

    Sums are compared too: those of the monitor's report with those of its calls.

    Args:
        monitor: The monitor; is flushed.
        server: The server; must have no open requests, or the test's client has left them.
        as_seen: Returns how the observer that is tested sees a call whose last attempt is this entry
            of the books: any of these is right; none if it cannot see the call at all.
    """
    server.settle()
    recorded = recorded_calls(monitor)
    missing = []
    rest = list(recorded)
    seen = [list(as_seen(expected_call(each), each[-1])) for each in server.calls()]
    for alternatives in sorted(filter(None, seen), key=len):  # those with a choice come last
        found = next((call for call in alternatives if call in rest), None)
        if found is None:
            missing.append(alternatives)
        else:
            rest.remove(found)
    assert (missing, rest) == ([], []), "not as the books: (missing, more than there are)"
    report = monitor.get_total_token_usage()
    assert report.total_prompt_tokens == sum(call.input or 0 for call in recorded)
    assert report.total_completion_tokens == sum(call.output or 0 for call in recorded)
