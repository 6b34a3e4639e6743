"""One budget for many threads and tasks: never exceeded with reservations, and exact afterwards."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from _jobs import run

from genmeter import (
    BudgetAmount,
    BudgetExceededError,
    EndpointConfig,
    GenerationMonitor,
    MonitorConfig,
)
from genmeter.testing import fresh_runtime, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from genmeter import Budget

PATIENCE = 100.0
"""Seconds after which something counts as hung."""
THREADS, LOOPS, TASKS = 16, 2, 32  # tasks of each loop
MOST = 1_000
"""Tokens that a call uses at most."""
LIMIT = 300_000
PRICE = 2.5
"""USD per million tokens."""


@pytest.fixture(params=["thread", "inline"])
def monitor(request: pytest.FixtureRequest) -> Iterator[GenerationMonitor]:
    """Return a monitor of each kind of drain."""
    prices: Any = {"m": {"input": PRICE, "output": PRICE}}
    config = MonitorConfig(prices=prices, endpoint=EndpointConfig(enabled=False))
    if request.param == "inline":
        with isolated_monitor(config) as isolated:
            yield isolated
    else:
        with fresh_runtime(), GenerationMonitor(config=config) as made:
            yield made


class Job:
    """Threads and tasks that make calls of random sizes until the budget ends.

    Attributes:
        used: Tokens of each call.
        over: Amounts above the limit that were read meanwhile.
    """

    def __init__(self, monitor: GenerationMonitor, budget: Budget) -> None:
        self.monitor = monitor
        self.budget = budget
        self.used: list[int] = []
        self.over: list[int] = []
        self._seeds = iter(range(10_000))
        self._errors: list[BaseException] = []

    def call(self, random_: random.Random, most: int) -> None:
        """Record a call; some fail, and evaluations count too."""
        tokens = random_.randint(0, most)
        self.used.append(tokens)
        kind = random_.random()
        if kind < 0.2:
            self.monitor.track_evaluation(
                0.1, True, "judge", {}, model_name="m", prompt_token_count=tokens
            )
        else:
            self.monitor.track_generation(
                0.1, kind < 0.9, model_name="m", prompt_token_count=tokens
            )

    def run(
        self,
        thread: Callable[[random.Random], None],
        task: Callable[[random.Random], Coroutine[Any, Any, None]],
    ) -> None:
        """Run 16 threads and two event loops with 32 tasks each; raise an error of any."""

        async def tasks() -> None:
            await asyncio.gather(*(task(self._random()) for _ in range(TASKS)))

        def guard(function: Callable[[], object]) -> None:
            try:
                function()
            except BaseException as error:
                self._errors.append(error)

        functions: list[Callable[[], object]] = [
            lambda: thread(self._random()) for _ in range(THREADS)
        ]
        functions += [lambda: asyncio.run(tasks())] * LOOPS
        threads = [threading.Thread(target=guard, args=(each,)) for each in functions]
        for each in threads:
            each.start()
        deadline = time.monotonic() + PATIENCE
        while any(each.is_alive() for each in threads) and time.monotonic() < deadline:
            self._watch()
            time.sleep(0.001)
        assert not any(each.is_alive() for each in threads)
        if self._errors:
            raise self._errors[0]

    def _random(self) -> random.Random:
        return random.Random(next(self._seeds))  # noqa: S311 - to vary the order of calls

    def _watch(self) -> None:
        spent = self.budget.spent.tokens
        if spent > LIMIT:
            self.over.append(spent)

    def check_exact(self) -> int:
        """Check that the budget, the report and the calls are equal; return the tokens."""
        total = sum(self.used)
        report = self.monitor.get_total_token_usage()
        assert self.budget.spent.tokens == report.total_tokens == total
        assert self.budget.spent.usd == pytest.approx(total * PRICE / 1e6, rel=1e-9)
        assert self.budget.reserved == BudgetAmount(0, 0.0)
        return total


def test_reservations_are_never_exceeded(monitor: GenerationMonitor) -> None:
    """16 threads and 64 tasks of two loops stay within the limit, and use nearly all of it."""
    budget = monitor.budget(tokens=LIMIT, usd=LIMIT * PRICE / 1e6)
    job = Job(monitor, budget)

    def reserve(random_: random.Random) -> Any:
        # Large ones, so that many wait.
        amount = random_.randint(1, MOST) * random_.choice([1, 1, 20])
        return budget.reserve(tokens=amount, usd=amount * PRICE / 1e6, timeout=PATIENCE)

    def thread(random_: random.Random) -> None:
        while True:
            reservation = reserve(random_)
            try:
                with reservation:
                    time.sleep(random_.random() * 0.002)
                    job.call(random_, min(MOST, reservation.tokens))
            except BudgetExceededError:
                return

    async def task(random_: random.Random) -> None:
        while True:
            reservation = reserve(random_)
            try:
                async with reservation:
                    await asyncio.sleep(random_.random() * 0.002)
                    job.call(random_, min(MOST, reservation.tokens))
            except BudgetExceededError:
                return

    job.run(thread, task)
    assert job.over == []
    total = job.check_exact()
    assert LIMIT - 20 * MOST < total <= LIMIT


def test_reservations_of_more_than_half_exclude_each_other(monitor: GenerationMonitor) -> None:
    """Each block sees all that was used in those before it."""
    budget = monitor.budget(tokens=LIMIT)
    job = Job(monitor, budget)
    reservation = budget.reserve(tokens=LIMIT // 2 + 1, timeout=PATIENCE)
    inside: list[int] = []

    def enter(random_: random.Random) -> None:
        inside.append(1)
        assert len(inside) == 1
        assert budget.spent.tokens == sum(job.used)
        job.call(random_, 10)

    def thread(random_: random.Random) -> None:
        for _ in range(3):
            with reservation:
                enter(random_)
                time.sleep(0)
                inside.pop()

    async def task(random_: random.Random) -> None:
        for _ in range(3):
            async with reservation:
                enter(random_)
                await asyncio.sleep(0)
                inside.pop()

    job.run(thread, task)
    job.check_exact()


def test_without_reservations_only_calls_in_flight_exceed(monitor: GenerationMonitor) -> None:
    """A check before each call ends the job as soon as the limit is reached."""
    budget = monitor.budget(tokens=LIMIT)
    job = Job(monitor, budget)

    def thread(random_: random.Random) -> None:
        while budget.has_room():
            time.sleep(random_.random() * 0.002)
            job.call(random_, MOST)

    async def task(random_: random.Random) -> None:
        while budget.has_room():
            await asyncio.sleep(random_.random() * 0.002)
            job.call(random_, MOST)

    job.run(thread, task)
    total = job.check_exact()
    in_flight = THREADS + LOOPS * TASKS
    assert LIMIT <= total < LIMIT + in_flight * MOST


def test_cancelled_waits_leave_nothing_reserved(monitor: GenerationMonitor) -> None:
    """Tasks that are cancelled or time out at any moment free what they were granted."""
    budget = monitor.budget(tokens=LIMIT)
    job = Job(monitor, budget)
    amount = LIMIT // 8

    def thread(random_: random.Random) -> None:
        for _ in range(20):
            reservation = budget.reserve(tokens=amount, timeout=random_.random() * 0.004)
            try:
                with reservation:
                    time.sleep(random_.random() * 0.001)
            except BudgetExceededError:
                pass

    async def use() -> None:
        async with budget.reserve(tokens=amount, timeout=PATIENCE):
            await asyncio.sleep(0.0005)

    async def task(random_: random.Random) -> None:
        for _ in range(20):
            waiting = asyncio.ensure_future(use())
            await asyncio.sleep(random_.random() * 0.004)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    job.run(thread, task)
    assert job.over == []
    job.check_exact()
    with budget.reserve(tokens=LIMIT, timeout=0):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_starts_from_zero(tmp_path: Path) -> None:
    """It has the limits but neither the amounts nor the reservations, and hangs at no lock."""
    ended = run(
        tmp_path,
        """
import asyncio

monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(enabled=False)))
budget = monitor.budget(tokens=100)
record(monitor, 10)
stop = threading.Event()


def work():
    while not stop.is_set():
        with budget.reserve(tokens=40):
            time.sleep(0.0005)


async def use():
    async with budget.reserve(tokens=97, timeout=0):
        return budget.left.tokens


threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
codes = []
for number in range(40):
    with budget.reserve(tokens=20):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                assert budget.spent.tokens == budget.reserved.tokens == 0
                record(monitor, 1)
                assert asyncio.run(use()) == 0
                with budget.reserve(tokens=97, timeout=0):
                    assert budget.left.tokens == 0
                assert budget.spent.tokens == 3
                code = 0
            finally:
                if code:
                    os._exit(code)
    if pid == 0:
        # The end of the parent's reservation changes nothing here.
        os._exit(0 if (budget.reserved.tokens, budget.left.tokens) == (0, 97) else 2)
    codes.append(wait_for(pid))
stop.set()
for thread in threads:
    thread.join()
output(codes=sorted(set(map(str, codes))), spent=budget.spent.tokens, held=budget.reserved.tokens)
""",
    )
    assert ended.code == 0, ended.errors
    assert ended.output == [{"codes": ["0"], "spent": 30, "held": 0}]
