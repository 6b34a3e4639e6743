"""A job that stops at an amount of USD, with many calls at once."""

import asyncio
import random

from genmeter import BudgetExceededError, GenerationMonitor, MonitorConfig

PRICES = {"atlas-large": {"input": 2.5, "output": 10.0}}  # USD per million tokens
MOST = 0.02  # USD that one call may cost


async def write(monitor: GenerationMonitor) -> None:
    """Stands for a call of a model."""
    async with monitor.generation(model="atlas-large", step="write") as call:
        await asyncio.sleep(random.uniform(0.001, 0.01))
        call.usage(prompt_token_count=1_500, completion_token_count=random.randrange(200, 1_500))


async def main() -> None:
    """Let 16 workers write until the budget has no room for another call."""
    with GenerationMonitor(config=MonitorConfig(prices=PRICES)) as monitor:
        budget = monitor.budget(usd=0.5)

        async def worker() -> None:
            try:
                while True:
                    async with budget.reserve(usd=MOST):
                        await write(monitor)
            except BudgetExceededError:
                return

        await asyncio.gather(*(worker() for _ in range(16)))
        print(f"spent {budget.spent.usd:.4f} of {budget.limit.usd:.2f} USD")
        print(monitor.get_total_token_usage().cost())


if __name__ == "__main__":
    asyncio.run(main())
