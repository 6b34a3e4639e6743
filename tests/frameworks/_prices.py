"""Prices of the tests' models, so that the cost of what a monitor recorded can be compared with the books.

Those of models that vendors sell are their list prices of 2026: where a framework states a cost of its own,
it is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter import MonitorConfig

if TYPE_CHECKING:
    from _books import Call
    from _model_server import Entry

__all__ = ["cost_of", "priced"]

# USD per million tokens: input, output, cached input, cache write.
_PRICES = {
    "gpt-4o-mini": (0.15, 0.6, 0.075, 0.15),
    "gpt-3.5-turbo-instruct": (1.5, 2.0, 1.5, 1.5),
    "text-embedding-3-small": (0.02, 0.0, 0.02, 0.02),
    "claude-sonnet-4-5": (3.0, 15.0, 0.3, 3.75),
    "gemini-2.5-flash": (0.3, 2.5, 0.03, 0.3),
    "gemini-embedding-001": (0.15, 0.0, 0.15, 0.15),
    "e": (1.0, 0.0, 1.0, 1.0),
    "m": (1.0, 7.0, 0.25, 1.0),
}
_NAMES = ("input", "output", "cached_input", "cache_write")


def priced() -> MonitorConfig:
    """Return settings with these prices."""
    return MonitorConfig(
        prices={model: dict(zip(_NAMES, rates, strict=True)) for model, rates in _PRICES.items()}
    )


def cost_of(call: Call, entry: Entry) -> tuple[float, ...] | None:
    """Return what a call costs in USD; None if its price or its tokens are unknown.

    That of a stream which broke or was left is that of the tokens which it had said by then.

    Args:
        call: The call as its observer sees it.
        entry: That of the books, whose cache writes not all observers see: there may be two costs.
    """
    rates = _PRICES.get(entry.model)
    if rates is None or call.input is None:
        return None
    price, output, cached, write = rates
    plain = (call.input - call.cached) * price + call.cached * cached
    plain += (call.output or 0) * output
    return tuple((plain + written * (write - price)) / 1e6 for written in {0, entry.cache_written})
