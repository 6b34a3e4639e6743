"""Compares what a monitor recorded with the books of the model server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from _prices import cost_of

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
    return [call for call, _ in _recorded(monitor)]


def _recorded(monitor: GenerationMonitor) -> list[tuple[Call, float | None]]:
    """Return the calls of a monitor with their costs in USD."""
    monitor.flush()
    return [
        (
            Call(
                _plain(row["model"]),
                row["operation"],
                row["outcome"],
                _plain(row["input_tokens"]),
                None if row["operation"] == "embeddings" else _plain(row["output_tokens"]),
                _plain(row["cache_read_tokens"]) or 0,
                _plain(row["reasoning_tokens"]) or 0,
            ),
            _plain(row.get("cost_usd")),
        )
        for row in monitor.to_frame("generations").to_dict("records")
    ]


def _plain(value: Any) -> Any:
    return None if value is None or value != value or type(value).__name__ == "NAType" else value  # noqa: PLR0124 - NaN


def _is_cost(cost: float | None, expected: tuple[float, ...] | None) -> bool:
    if expected is None:
        return not cost
    return any(cost == pytest.approx(each, abs=1e-12) for each in expected)


def assert_equal_books(
    monitor: GenerationMonitor,
    server: ModelServer,
    *,
    has_prices: bool = True,
    as_seen: Callable[[Call, Entry], Sequence[Call]] = lambda call, entry: [call],
) -> None:
    """Assert that a monitor has each call of the books once, with its tokens, cost and outcome.

    Costs are compared where the monitor has prices, as of ``_prices.priced``. Sums are compared too:
    those of the monitor's report with those of its calls.

    Args:
        monitor: The monitor; is flushed.
        server: The server; must have no open requests, or the test's client has left them.
        has_prices: Whether costs are compared.
        as_seen: Returns how the observer that is tested sees a call whose last attempt is this entry
            of the books: any of these is right; none if it cannot see the call at all.
    """
    server.settle()
    pairs = _recorded(monitor)
    recorded = [call for call, _ in pairs]
    missing, wrong = [], []
    rest = list(recorded)
    costs = [cost for _, cost in pairs]
    seen = [(list(as_seen(expected_call(each), each[-1])), each[-1]) for each in server.calls()]
    # Those with a choice come last.
    for alternatives, entry in sorted(
        (each for each in seen if each[0]), key=lambda each: len(each[0])
    ):
        found = next((call for call in alternatives if call in rest), None)
        if found is None:
            missing.append(alternatives)
            continue
        index = rest.index(found)
        del rest[index]
        cost, expected = costs.pop(index), cost_of(found, entry)
        if has_prices and not _is_cost(cost, expected):
            wrong.append((found, cost, expected))
    assert (missing, rest) == ([], []), "not as the books: (missing, more than there are)"
    assert wrong == [], "costs are not as the books: (call, cost, what it may be)"
    report = monitor.get_total_token_usage()
    assert report.cost_usd == pytest.approx(sum(cost or 0.0 for _, cost in pairs))
    assert report.total_prompt_tokens == sum(call.input or 0 for call in recorded)
    assert report.total_completion_tokens == sum(call.output or 0 for call in recorded)
