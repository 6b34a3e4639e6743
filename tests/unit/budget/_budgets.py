"""What the tests of budgets share: prices, calls, and what waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from genmeter import EndpointConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from genmeter import Budget, GenerationMonitor

__all__ = ["PRICES", "QUIET", "until", "use", "waiting"]

PRICES = {"atlas": {"input": 1.0, "output": 2.0}}
QUIET = EndpointConfig(enabled=False)


def use(monitor: GenerationMonitor, tokens: int | None = 10, **keywords: Any) -> None:
    """Record a call of ``atlas`` with input tokens, at 1 USD per million."""
    keywords = {"model_name": "atlas", "prompt_token_count": tokens, **keywords}
    monitor.track_generation(0.1, True, **keywords)


def waiting(budget: Budget) -> int:
    """Return the number of reservations that wait."""
    found: int = budget._owned.read(lambda account: len(account._waiting))
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until a condition holds."""
    while not condition():  # noqa: ASYNC110 - of another thread
        await asyncio.sleep(0.001)
