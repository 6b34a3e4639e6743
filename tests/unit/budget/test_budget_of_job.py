"""Budgets of a job, in one of its processes: alone, and with others in the store."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pytest
from _budgets import PRICES, QUIET, use

from _waiting import PATIENCE, eventually
from genmeter import (
    Budget,
    BudgetAmount,
    BudgetError,
    BudgetExceededError,
    BudgetLimit,
    BudgetTimeoutError,
    BudgetUnavailableError,
    ConfigError,
    GenerationMonitor,
    MonitorConfig,
    UnpricedModelError,
    UsageUnreadError,
)
from genmeter.job import meeting
from genmeter.job.store import Store, StoreError, Totals
from genmeter.testing import fresh_runtime, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from genmeter.job.amounts import JobAmounts
    from genmeter.job.job import Job


@pytest.fixture(params=["alone", "alone and inline", "joined", "joined and inline"])
def monitor(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GenerationMonitor]:
    """Return a monitor of a process that is alone, or that has joined a job."""
    # Whatever other tests have imported and started in this process.
    monkeypatch.setattr(meeting, "may_have_children", lambda: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(meeting._Known, "temporary", "")
    name: str = request.param
    config = MonitorConfig(
        job="test" if name.startswith("joined") else None,
        prices=PRICES,
        endpoint=QUIET,
        drain="inline" if "inline" in name else "thread",
    )
    with fresh_runtime(), GenerationMonitor(config=config) as made:
        yield made


@pytest.fixture
def joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[GenerationMonitor, Other]]:
    """Return a monitor of a process that has joined, and another process of the job."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(meeting._Known, "temporary", "")
    config = MonitorConfig(job="test", prices=PRICES, endpoint=QUIET)
    with fresh_runtime(), GenerationMonitor(config=config) as made:
        yield made, Other(made)


class Other:
    """Another process of the job of a monitor, which only writes to the store."""

    def __init__(self, monitor: GenerationMonitor) -> None:
        job: Job = monitor._runtime.job
        job.require_store()
        assert job._folder is not None
        assert job._members is not None
        self.store = Store(job._folder / "job.sqlite")
        byte = job._members.own
        assert byte is not None
        self.number = self.store.add_process(0, byte)  # alive as long as this one
        self._ids = iter(range(10**12, 10**13))

    def use(self, tokens: int, usd: float = 0.0, unpriced: int = 0) -> None:
        """Publish the usage of a model."""
        rest = json.dumps([tokens, 0, 0, 0, 0, 1, unpriced, 0])
        self.store.publish(self.number, (), [Totals("theirs", tokens, usd, rest)])

    def reserve(self, tokens: int, usd: float = 0.0) -> int:
        """Reserve, whether or not there is room."""
        number = next(self._ids)
        self.store.reserve(self.number, (), (), lambda _: [(number, tokens, usd)])
        return number

    def release(self, number: int) -> None:
        """End a reservation."""
        self.store.reserve(self.number, (), (number,), lambda _: ())

    def die(self) -> None:
        """End without a word."""
        with self.store._write() as db:
            db.execute("UPDATE process SET byte=? WHERE id=?", (2**40, self.number))


def of_job(monitor: GenerationMonitor, **arguments: Any) -> Budget:
    """Return a budget of the job."""
    return monitor.budget(scope="job", **arguments)


# --- what counts -------------------------------------------------------------------------------


def test_a_loop_ends_with_the_call_that_reaches_the_limit(monitor: GenerationMonitor) -> None:
    """As for a monitor's budget; the text says whose it is."""
    budget = of_job(monitor, tokens=100)
    calls = 0
    while budget.has_room():
        use(monitor, 30)
        calls += 1
    assert calls == 4
    assert budget.spent == BudgetAmount(120, pytest.approx(0.00012))
    assert budget.left == BudgetLimit(0, None)
    with pytest.raises(BudgetExceededError) as raised:
        budget.check()
    assert str(raised.value) == "budget of 100 tokens of the job is spent: 120 used, 0 reserved"
    assert raised.value.spent == budget.spent
    assert repr(budget) == "<Budget of 100 tokens of the job>"


def test_it_counts_since_the_job_began_and_over_all_monitors(monitor: GenerationMonitor) -> None:
    """Not since it was made: a process that starts later must see the same."""
    use(monitor, 20)
    budget = of_job(monitor, tokens=100)
    with GenerationMonitor(config=MonitorConfig(endpoint=QUIET)) as another:
        use(another, 30)
        assert budget.spent.tokens == 50
        assert of_job(another, tokens=100).left.tokens == 50
    assert budget.spent.tokens == 50
    assert monitor.budget(tokens=100).spent.tokens == 0


def test_usd_are_counted_without_a_remainder(monitor: GenerationMonitor) -> None:
    """Ten calls of 0.01 USD reach 0.1, and three reservations of 0.1 fit into 0.3."""
    budget, wide = of_job(monitor, usd=0.1), of_job(monitor, usd=0.4)
    for _ in range(10):
        assert budget.has_room()
        use(monitor, 10_000)
    assert not budget.has_room()
    with (
        wide.reserve(usd=0.1, timeout=0),
        wide.reserve(usd=0.1, timeout=0),
        wide.reserve(usd=0.1, timeout=0),
    ):
        assert wide.left.usd == 0
    assert wide.reserved == BudgetAmount(0, 0.0)


def test_the_rows_of_unread_calls_are_of_this_process(monitor: GenerationMonitor) -> None:
    """Whichever of its monitors records them; a call with usage ends the row."""
    budget = of_job(monitor, tokens=100, max_unread=2)
    with GenerationMonitor(config=MonitorConfig(endpoint=QUIET)) as another:
        use(monitor, None)
        use(another, 1)
        use(monitor, None)
        assert budget.has_room()
        use(another, None)
        with pytest.raises(UsageUnreadError) as raised:
            budget.check()
        assert raised.value.calls == 2
        with pytest.raises(UsageUnreadError), budget.reserve(tokens=1):
            pass


def test_a_loop_over_a_closed_monitor_ends(monitor: GenerationMonitor) -> None:
    """Its calls are not recorded, so they are unknown."""
    budget = of_job(monitor, tokens=100, max_unread=3)
    monitor.shutdown()
    for _ in range(3):
        assert budget.has_room()
        use(monitor)
    with pytest.raises(UsageUnreadError, match="the monitor is shut down"):
        budget.check()


def test_a_model_without_a_price_is_an_error(monitor: GenerationMonitor) -> None:
    """The remedy is one that works over processes."""
    budget = of_job(monitor, usd=1.0)
    use(monitor, 1, model_name="house")
    with pytest.raises(UnpricedModelError, match="no price for house; set MonitorConfig") as raised:
        budget.has_room()
    assert "unpriced_usd_per_million" not in str(raised.value)
    assert of_job(monitor, tokens=100).has_room()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": "judge"}, "step must be None in a budget with scope='job', got judge; limit"),
        ({"tags": {"a": 1}}, "tags must be None in a budget with scope='job', got"),
        (
            {"usd": 1, "unpriced_usd_per_million": 2},
            r"unpriced_usd_per_million must be None in a .* set MonitorConfig\(prices=...\)",
        ),
        ({"scope": "process"}, "scope must be one of monitor, job, got 'process'"),
    ],
)
def test_arguments_that_only_a_process_can_keep_are_refused(
    arguments: dict[str, Any], message: str
) -> None:
    """Each error names the remedy."""
    with isolated_monitor() as monitor, pytest.raises(ConfigError, match=message):
        monitor.budget(**{"tokens": 1, "scope": "job", **arguments})


# --- reservations ------------------------------------------------------------------------------


def test_a_reservation_counts_until_its_block_ends(monitor: GenerationMonitor) -> None:
    """Then what was used in it does, and the next block sees that at once."""
    budget = of_job(monitor, tokens=100)
    for used in (10, 20, 30):
        before = budget.spent.tokens
        with budget.reserve(tokens=60 if used < 30 else 40, timeout=0):
            use(monitor, used)
            assert budget.reserved.tokens == (60 if used < 30 else 40)
        assert (budget.spent.tokens, budget.reserved.tokens) == (before + used, 0)
    with pytest.raises(BudgetExceededError) as raised, budget.reserve(tokens=41):
        pass
    assert type(raised.value) is BudgetExceededError
    assert str(raised.value) == (
        "no room for 41 tokens in the budget of 100 tokens of the job: 60 used, 0 reserved"
    )


def test_all_budgets_share_what_is_reserved(monitor: GenerationMonitor) -> None:
    """Whatever their limits are."""
    small, large = of_job(monitor, tokens=100), of_job(monitor, tokens=200)
    with large.reserve(tokens=90):
        assert small.left.tokens == 10
        with pytest.raises(BudgetTimeoutError), small.reserve(tokens=20, timeout=0):
            pass
        with large.reserve(tokens=110, timeout=0):
            assert not large.has_room()
    assert small.left.tokens == 100


def test_a_waiting_thread_gets_what_another_frees(monitor: GenerationMonitor) -> None:
    """And only one of those that wait has it at a time."""
    budget = of_job(monitor, tokens=100)
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(5):
            with budget.reserve(tokens=60, timeout=PATIENCE):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert most == [1] * 20
    assert budget.reserved.tokens == 0


async def test_tasks_wait_while_the_loop_goes_on(monitor: GenerationMonitor) -> None:
    """Tasks of one loop free what others wait for, time out, and can be cancelled."""
    budget = of_job(monitor, tokens=100)
    done: list[str] = []

    async def work(name: str) -> None:
        async with budget.reserve(tokens=60, timeout=PATIENCE):
            await asyncio.sleep(0.002)
            use(monitor, 5)
            done.append(name)

    await asyncio.wait_for(asyncio.gather(*map(work, "abcd")), PATIENCE)
    assert sorted(done) == ["a", "b", "c", "d"]
    assert budget.spent.tokens == 20
    async with budget.reserve(tokens=60):
        with pytest.raises(
            BudgetTimeoutError, match=r"no room for 50 tokens within 0\.01 s in the"
        ):
            async with budget.reserve(tokens=50, timeout=0.01):
                pass
        task = asyncio.create_task(work("e"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(BudgetExceededError, match="no room for 81 tokens in"):
            async with budget.reserve(tokens=81):
                pass
    assert (budget.reserved.tokens, budget.left.tokens) == (0, 80)


@pytest.mark.parametrize("cause", ["spent", "unread"])
def test_a_waiting_reservation_ends_when_it_can_fit_no_more(
    monitor: GenerationMonitor, cause: str
) -> None:
    """Calls without a reservation may use what it waits for, or make the budget unknown."""
    budget = of_job(monitor, tokens=100, max_unread=1)
    errors: list[BudgetError] = []
    begun = threading.Event()

    def reserve() -> None:
        begun.set()
        try:
            with budget.reserve(tokens=80, timeout=None):
                pass
        except BudgetError as error:
            errors.append(error)

    with budget.reserve(tokens=60):
        thread = threading.Thread(target=reserve)
        thread.start()
        assert begun.wait(PATIENCE)
        use(monitor, 30 if cause == "spent" else None)
        thread.join(PATIENCE)
    expected = BudgetExceededError if cause == "spent" else UsageUnreadError
    assert [type(error) for error in errors] == [expected]


# --- other processes ---------------------------------------------------------------------------


def test_the_amounts_of_other_processes_count(joined: tuple[GenerationMonitor, Other]) -> None:
    """Published usage, and reservations, which no process may exceed."""
    monitor, other = joined
    budget = of_job(monitor, tokens=100, usd=1.0)
    use(monitor, 10)
    other.use(30, 0.25)
    reserved = other.reserve(40, 0.5)
    assert budget.spent == BudgetAmount(40, 0.25001)
    assert budget.reserved == BudgetAmount(40, 0.5)
    assert budget.left == BudgetLimit(20, 0.24999)
    with pytest.raises(BudgetTimeoutError), budget.reserve(tokens=21, usd=0.1, timeout=0.05):
        pass
    with budget.reserve(tokens=20, usd=0.1, timeout=0):
        assert not budget.has_room()
        with pytest.raises(BudgetExceededError, match="has no room now"):
            budget.check()
    other.release(reserved)
    other.use(90, 0.25)
    with pytest.raises(BudgetExceededError, match=r"is spent: 100 tokens, 0\.25001 USD used"):
        budget.check()


def test_the_usage_of_a_block_is_written_with_its_end(
    joined: tuple[GenerationMonitor, Other],
) -> None:
    """No other process ever sees the room of a block, and not yet what it used."""
    monitor, other = joined
    budget = of_job(monitor, tokens=1_000)
    seen: list[JobAmounts] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append(other.store.amounts(other.number))

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(50):
        with budget.reserve(tokens=10, timeout=0):
            use(monitor, 10)
    assert eventually(lambda: other.store.amounts(other.number)[:3:2] == (500, 0))
    stop.set()
    thread.join(PATIENCE)
    covered = [each.tokens + each.reserved_tokens for each in seen]
    assert covered == sorted(covered)


def test_a_waiting_reservation_is_granted_when_another_process_frees_it(
    joined: tuple[GenerationMonitor, Other],
) -> None:
    """Nobody wakes it: it looks itself."""
    monitor, other = joined
    budget = of_job(monitor, tokens=100)
    reserved = other.reserve(80)
    granted = threading.Event()

    def reserve() -> None:
        with budget.reserve(tokens=50, timeout=PATIENCE):
            granted.set()

    thread = threading.Thread(target=reserve)
    thread.start()
    assert not granted.wait(0.1)
    other.release(reserved)
    assert granted.wait(PATIENCE)
    thread.join(PATIENCE)


@pytest.mark.parametrize("how", ["check", "wait"])
def test_a_dead_process_reserves_nothing(joined: tuple[GenerationMonitor, Other], how: str) -> None:
    """What it had used stays."""
    monitor, other = joined
    budget = of_job(monitor, tokens=100)
    other.use(10)
    other.reserve(90)
    assert not budget.has_room()
    other.die()
    if how == "check":
        assert budget.has_room()
    else:
        with budget.reserve(tokens=90, timeout=PATIENCE):
            pass
    assert (budget.spent.tokens, budget.reserved.tokens) == (10, 0)


def test_a_model_of_another_process_without_a_price_is_an_error(
    joined: tuple[GenerationMonitor, Other],
) -> None:
    """Its USD are missing in the sum."""
    monitor, other = joined
    budget = of_job(monitor, usd=1.0)
    other.use(10, unpriced=1)
    with pytest.raises(UnpricedModelError) as raised:
        budget.check()
    assert raised.value.models == ("theirs",)
    with pytest.raises(UnpricedModelError), budget.reserve(usd=0.5):
        pass


@pytest.mark.parametrize("method", ["amounts", "reserve"])
def test_a_store_that_fails_is_an_error_until_it_works(
    joined: tuple[GenerationMonitor, Other], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Never does the process count alone meanwhile; a release that fails is written later."""
    monitor, other = joined
    budget = of_job(monitor, tokens=100)
    held = budget.reserve(tokens=60)
    held.__enter__()

    def fail(*_: Any, **__: Any) -> None:
        raise StoreError("disk I/O error")

    monkeypatch.setattr(Store, method, fail)

    def reserve() -> None:
        with budget.reserve(tokens=1):
            pass

    with pytest.raises(BudgetUnavailableError, match=r"of the job cannot be kept.*disk I/O error"):
        {"amounts": budget.check, "reserve": reserve}[method]()
    use(monitor, 50)
    held.__exit__()
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(other.store._path.parents[2]))
    assert eventually(lambda: other.store.amounts(other.number)[:3:2] == (50, 0))
    assert budget.left.tokens == 50


def test_budgets_can_be_read_after_the_shutdown(monitor: GenerationMonitor) -> None:
    """Until the process ends."""
    budget = of_job(monitor, tokens=100)
    use(monitor, 30)
    monitor.shutdown()
    assert budget.spent.tokens == 30
    assert budget.left.tokens == 70


def test_the_end_of_a_reservation_reaches_the_others_by_itself(
    joined: tuple[GenerationMonitor, Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else happens in this process, and no publication is near."""
    monitor, other = joined
    budget = of_job(monitor, tokens=100)
    monkeypatch.setattr(monitor._runtime.job._publisher, "publish", lambda *_, **__: True)

    def reserved() -> int:
        return other.store.amounts(other.number).reserved_tokens

    for _ in range(20):
        with budget.reserve(tokens=10):
            assert reserved() == 10
            use(monitor, 1)
    assert eventually(lambda: reserved() == 0)
    assert other.store.amounts(other.number).tokens == 20
