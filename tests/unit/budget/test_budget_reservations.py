"""Reservations of a budget: of threads and of tasks, granted, refused and waiting."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
from _budgets import until, use, waiting

import genmeter.budget.budget
from _waiting import PATIENCE, eventually
from genmeter import (
    BudgetAmount,
    BudgetError,
    BudgetExceededError,
    BudgetLimit,
    BudgetTimeoutError,
    ConfigError,
    GenerationMonitor,
    UnpricedModelError,
    UsageUnreadError,
)
from genmeter.budget.amounts import Claim

if TYPE_CHECKING:
    from genmeter.budget.account import Account


def test_a_reservation_counts_until_its_block_ends(either: GenerationMonitor) -> None:
    """Then what was used counts instead."""
    budget = either.budget(tokens=100, usd=1.0)
    with budget.reserve(tokens=60, usd=0.25) as reservation:
        assert (reservation.tokens, reservation.usd) == (60, 0.25)
        assert budget.reserved == BudgetAmount(60, 0.25)
        assert budget.left == BudgetLimit(40, 0.75)
        use(either, 30)
    assert budget.reserved == BudgetAmount(0, 0.0)
    assert budget.spent == BudgetAmount(30, 0.00003)
    assert budget.left == BudgetLimit(70, 0.99997)


def test_what_is_reserved_leaves_no_room(monitor: GenerationMonitor) -> None:
    """The error says that it is reserved, not used."""
    budget = monitor.budget(tokens=100)
    with budget.reserve(tokens=100):
        assert not budget.has_room()
        with pytest.raises(BudgetExceededError, match="has no room now: 0 used, 100 reserved"):
            budget.check()
    assert budget.has_room()


def test_ten_reservations_of_a_tenth_fit_into_a_budget_of_usd(monitor: GenerationMonitor) -> None:
    """Sums of USD are exact as one writes them, and leave no remainder."""
    budget = monitor.budget(usd=0.3)
    tenth = budget.reserve(usd=0.1, timeout=0)
    with tenth, tenth, tenth:
        assert budget.left == BudgetLimit(None, 0.0)
    assert budget.reserved == BudgetAmount(0, 0.0)


def test_an_exception_in_the_block_frees_the_amount(either: GenerationMonitor) -> None:
    """It propagates."""
    budget = either.budget(tokens=100)
    with pytest.raises(ZeroDivisionError), budget.reserve(tokens=100):
        1 / 0  # noqa: B018
    assert budget.left.tokens == 100


def test_what_can_never_fit_is_an_error_at_once(either: GenerationMonitor) -> None:
    """Also while others have reserved, since what is used is never given back."""
    budget = either.budget(tokens=100)
    with pytest.raises(BudgetExceededError) as raised, budget.reserve(tokens=101, timeout=None):
        pass
    assert str(raised.value) == (
        "no room for 101 tokens in the budget of 100 tokens: 0 used, 0 reserved"
    )
    use(either, 50)
    with (
        budget.reserve(tokens=50),
        pytest.raises(BudgetExceededError, match="50 used, 50 reserved") as raised,
        budget.reserve(tokens=51, timeout=None),
    ):
        pass
    assert type(raised.value) is BudgetExceededError
    assert budget.reserved.tokens == 0


def test_a_reservation_without_room_times_out(either: GenerationMonitor) -> None:
    """The error is a TimeoutError too, and the reservation waits no more."""
    budget = either.budget(tokens=100)
    with budget.reserve(tokens=60):
        for timeout in (0, 0.01):
            with (
                pytest.raises(BudgetTimeoutError) as raised,
                budget.reserve(tokens=50, timeout=timeout),
            ):
                pass
            assert isinstance(raised.value, TimeoutError)
            assert str(raised.value) == (
                f"no room for 50 tokens within {timeout} s in the budget of 100 tokens: "
                "0 used, 60 reserved"
            )
        assert waiting(budget) == 0
    with budget.reserve(tokens=50, timeout=0):
        pass


def test_a_reservation_without_waiting_gets_what_fits(either: GenerationMonitor) -> None:
    """With a timeout of 0 it is granted or refused."""
    budget = either.budget(tokens=100)
    with budget.reserve(tokens=60, timeout=0), budget.reserve(tokens=40, timeout=0):
        assert budget.left.tokens == 0


def test_a_thread_waits_for_the_end_of_other_reservations(either: GenerationMonitor) -> None:
    """It is granted what others free, the first to wait first."""
    budget = either.budget(tokens=100)
    granted: list[int] = []
    ends = [threading.Event() for _ in range(3)]

    def reserve(number: int) -> None:
        with budget.reserve(tokens=100, timeout=PATIENCE):
            granted.append(number)
            ends[number].wait(PATIENCE)

    threads = [threading.Thread(target=reserve, args=(number,)) for number in range(3)]
    for number, thread in enumerate(threads):
        thread.start()
        assert eventually(lambda: len(granted) + waiting(budget) == number + 1)  # noqa: B023
    for number, thread in enumerate(threads):
        assert eventually(lambda: granted == list(range(number + 1)))  # noqa: B023
        assert budget.reserved.tokens == 100
        ends[number].set()
        thread.join(PATIENCE)
    assert budget.reserved.tokens == 0


def test_a_small_reservation_may_pass_a_large_one_that_waits(either: GenerationMonitor) -> None:
    """Room that is too little for one is used by another."""
    budget = either.budget(tokens=100)

    def reserve() -> None:
        with budget.reserve(tokens=80, timeout=PATIENCE):
            pass

    with budget.reserve(tokens=60):
        thread = threading.Thread(target=reserve)
        thread.start()
        assert eventually(lambda: waiting(budget) == 1)
        with budget.reserve(tokens=40, timeout=0):
            pass
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.parametrize("cause", ["spent", "unread", "unpriced"])
def test_a_waiting_reservation_ends_when_it_can_fit_no_more(
    either: GenerationMonitor, cause: str
) -> None:
    """Calls without a reservation may use what it waits for, or make the budget unknown."""
    kinds = {
        "spent": BudgetExceededError,
        "unread": UsageUnreadError,
        "unpriced": UnpricedModelError,
    }
    budget = either.budget(tokens=100, usd=1.0, max_unread=1)
    errors: list[BudgetError] = []

    def reserve() -> None:
        try:
            with budget.reserve(tokens=80, usd=0, timeout=None):
                pass
        except BudgetError as error:
            errors.append(error)

    with budget.reserve(tokens=60, usd=0):
        threads = [threading.Thread(target=reserve) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert eventually(lambda: waiting(budget) == 2)
        if cause == "spent":
            use(either, 30)
        elif cause == "unread":
            use(either, None)
        else:
            use(either, 1, model_name="house")
        for thread in threads:
            thread.join(PATIENCE)
    assert [type(error) for error in errors] == [kinds[cause]] * 2
    assert errors[0] is not errors[1]


def test_a_reservation_must_have_each_limit(monitor: GenerationMonitor) -> None:
    """An amount that is not limited may be reserved too."""
    with pytest.raises(ConfigError, match="usd must be set, since the budget limits it"):
        monitor.budget(tokens=1, usd=1).reserve(tokens=1)
    with pytest.raises(ConfigError, match="tokens must be set"):
        monitor.budget(tokens=1).reserve(usd=1)
    with pytest.raises(ConfigError, match="tokens must be a whole number"):
        monitor.budget(tokens=1).reserve(tokens=-1)
    with pytest.raises(ConfigError, match="timeout must be seconds"):
        monitor.budget(tokens=1).reserve(tokens=1, timeout=-1)
    budget = monitor.budget(tokens=1)
    with budget.reserve(tokens=1, usd=5):
        assert budget.reserved == BudgetAmount(1, 5.0)


def test_an_interrupt_ends_the_waiting(monitor: GenerationMonitor, monkeypatch: Any) -> None:
    """A Ctrl-C in the wait leaves nothing reserved, now or later."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    budget = monitor.budget(tokens=100)
    with budget.reserve(tokens=60):
        monkeypatch.setattr(genmeter.budget.budget, "seconds_left", interrupt)
        with pytest.raises(KeyboardInterrupt), budget.reserve(tokens=60):
            pass
        monkeypatch.undo()
        assert waiting(budget) == 0
    assert budget.reserved.tokens == 0


async def test_a_task_waits_while_the_loop_goes_on(either: GenerationMonitor) -> None:
    """Tasks of one loop can free what others wait for."""
    budget = either.budget(tokens=100)
    order: list[str] = []

    async def work(name: str) -> None:
        async with budget.reserve(tokens=60, timeout=PATIENCE) as reservation:
            assert reservation.tokens == 60
            order.append(f"{name} begins")
            await asyncio.sleep(0.01)
            use(either, 5)
            order.append(f"{name} ends")

    await asyncio.wait_for(asyncio.gather(work("a"), work("b"), work("c")), PATIENCE)
    assert order == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]
    assert budget.spent.tokens == 15
    assert budget.reserved.tokens == 0


async def test_a_task_times_out_and_is_refused_like_a_thread(either: GenerationMonitor) -> None:
    """The errors are the same."""
    budget = either.budget(tokens=100)
    with pytest.raises(BudgetExceededError, match="no room for 101 tokens in"):
        async with budget.reserve(tokens=101):
            pass
    async with budget.reserve(tokens=60, timeout=0):
        for timeout in (0, 0.01):
            with pytest.raises(BudgetTimeoutError, match="no room for 50 tokens within"):
                async with budget.reserve(tokens=50, timeout=timeout):
                    pass
        assert waiting(budget) == 0
    assert budget.reserved.tokens == 0


async def test_a_busy_drain_does_not_block_the_loop(threaded: GenerationMonitor) -> None:
    """Other tasks go on while a reservation waits for the pipeline's thread."""
    budget = threaded.budget(tokens=100)
    use(threaded, 1)
    assert budget.spent.tokens == 1
    go, begun = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        go.wait(PATIENCE)

    threaded._pipeline.post(block)
    threaded._pipeline.wake()
    assert begun.wait(PATIENCE)

    async def work() -> int | None:
        async with budget.reserve(tokens=60, timeout=0):
            use(threaded, 50)
        return budget.left.tokens

    task = asyncio.create_task(work())
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not task.done()
    go.set()
    assert await asyncio.wait_for(task, PATIENCE) == 49


async def test_a_cancelled_task_reserves_nothing(either: GenerationMonitor) -> None:
    """Neither while it waits nor in its block."""
    budget = either.budget(tokens=100)

    async def work() -> None:
        async with budget.reserve(tokens=60):
            await asyncio.sleep(PATIENCE)

    tasks = [asyncio.create_task(work()) for _ in range(2)]
    await until(lambda: budget.reserved.tokens == 60 and waiting(budget) == 1)
    for task in reversed(tasks):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert waiting(budget) == 0
    assert budget.reserved.tokens == 0


def test_a_task_of_a_closed_loop_reserves_nothing(either: GenerationMonitor) -> None:
    """What it waited for goes to others."""
    budget = either.budget(tokens=100)
    loop = asyncio.new_event_loop()
    coroutine = budget.reserve(tokens=60, timeout=None).__aenter__()
    with budget.reserve(tokens=60):
        task = loop.create_task(coroutine)
        loop.run_until_complete(until(lambda: waiting(budget) == 1))
        loop.close()
    assert budget.reserved.tokens == 0
    with budget.reserve(tokens=100, timeout=PATIENCE):
        pass
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine.close()


def test_a_reservation_can_be_used_by_many(threaded: GenerationMonitor) -> None:
    """Each block reserves the amount."""
    budget = threaded.budget(tokens=100)
    reservation = budget.reserve(tokens=10)
    with reservation, reservation:
        assert budget.reserved.tokens == 20
    with reservation:
        assert budget.reserved.tokens == 10
    assert budget.reserved.tokens == 0


def test_a_pipeline_without_a_thread_grants_what_waits(
    threaded: GenerationMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread may end while a reservation waits; then the waiting thread looks itself."""
    monkeypatch.setattr(genmeter.budget.budget, "_POLL", 0.01)
    budget = threaded.budget(tokens=100)
    use(threaded, 1)
    granted = threading.Event()

    def reserve() -> None:
        with budget.reserve(tokens=60, timeout=PATIENCE):
            granted.set()

    held = budget.reserve(tokens=60)
    held.__enter__()
    thread = threading.Thread(target=reserve)
    thread.start()
    assert eventually(lambda: waiting(budget) == 1)
    threaded._pipeline.stop(PATIENCE)
    # As if the thread had ended just after it was asked.
    threaded._pipeline.inbox.append(("call", lambda: None))
    monkeypatch.setattr(threaded._pipeline, "is_running", True)
    monkeypatch.setattr(threaded._pipeline, "_may_hold_lock", lambda: True)
    held.__exit__()
    assert granted.wait(PATIENCE)
    thread.join(PATIENCE)


def test_no_end_of_a_reservation_is_lost_in_a_full_inbox(
    threaded: GenerationMonitor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Events may be dropped there, but a reservation must end."""
    caplog.set_level(logging.CRITICAL, logger="genmeter")
    budget = threaded.budget(tokens=100)
    for name, size in (("WAKE", 1), ("HIGH_WATER", 2), ("CAPACITY", 4)):
        monkeypatch.setattr(f"genmeter.pipeline.drain.{name}", size)
    go, begun = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        go.wait(PATIENCE)

    use(threaded, 1)
    with budget.reserve(tokens=50):
        threaded._pipeline.post(block)
        threaded._pipeline.wake()
        assert begun.wait(PATIENCE)
        for _ in range(20):
            use(threaded, 1)
    for _ in range(20):
        use(threaded, 1)
    go.set()
    assert budget.reserved.tokens == 0


def test_the_account_of_many_waiting_reservations_settles_few(
    monitor: GenerationMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event that changes nothing for them asks none of them."""
    budget = monitor.budget(tokens=100)
    asked: list[object] = []

    def fill(account: Account) -> None:
        for _ in range(50):
            account.request(Claim(50, 0.0, lambda: None))

    with budget.reserve(tokens=60):
        budget._owned.read(fill)
        assert waiting(budget) == 50
        monkeypatch.setattr(
            "genmeter.budget.account.Account.refusal", lambda _, claim: asked.append(claim)
        )
        use(monitor, 1)
        assert asked == []
        monkeypatch.undo()
        use(monitor, 50)
        assert waiting(budget) == 0
