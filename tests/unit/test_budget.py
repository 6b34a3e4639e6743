"""Budgets: what counts, when there is room, reservations, and what cannot be kept."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest
from _hostile import VALUES

import genmeter.budget.budget
from _waiting import PATIENCE, eventually
from genmeter import (
    Budget,
    BudgetAmount,
    BudgetError,
    BudgetExceededError,
    BudgetLimit,
    BudgetTimeoutError,
    ConfigError,
    EndpointConfig,
    GenerationMonitor,
    LabelLimits,
    MonitorConfig,
    UnpricedModelError,
    UsageUnreadError,
)
from genmeter.budget.account import Claim
from genmeter.testing import fresh_runtime, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from genmeter.budget.account import Account

PRICES = {"atlas": {"input": 1.0, "output": 2.0}}
PRICED = MonitorConfig(prices=PRICES)


@pytest.fixture
def monitor() -> Iterator[GenerationMonitor]:
    """Return a monitor that drains in the recording call, and prices the model ``atlas``."""
    with isolated_monitor(PRICED) as made:
        yield made


@pytest.fixture
def threaded() -> Iterator[GenerationMonitor]:
    """Return a monitor whose events another thread drains."""
    config = MonitorConfig(
        endpoint=EndpointConfig(enabled=False),
        prices=PRICES,
    )
    with fresh_runtime(), GenerationMonitor(config=config) as made:
        yield made


@pytest.fixture(params=["inline", "thread"])
def either(request: pytest.FixtureRequest) -> GenerationMonitor:
    """Return a monitor of each kind."""
    name = "monitor" if request.param == "inline" else "threaded"
    found: GenerationMonitor = request.getfixturevalue(name)
    return found


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


# --- what counts -------------------------------------------------------------------------------


def test_a_loop_ends_with_the_call_that_reaches_the_limit(either: GenerationMonitor) -> None:
    """Ten calls of 10,200 tokens are the first to reach 100,000."""
    budget = either.budget(tokens=100_000)
    calls = 0
    while budget.has_room():
        use(either, 9_000, completion_token_count=1_200)
        calls += 1
    assert calls == 10
    assert budget.spent.tokens == 102_000
    assert budget.spent.usd == pytest.approx(0.114)
    with pytest.raises(BudgetExceededError) as raised:
        budget.check()
    assert str(raised.value) == "budget of 100,000 tokens is spent: 102,000 used, 0 reserved"
    assert raised.value.spent == budget.spent
    assert raised.value.limit == budget.limit == BudgetLimit(100_000, None)


def test_a_budget_of_usd_ends_with_the_call_that_reaches_it(either: GenerationMonitor) -> None:
    """Each call costs 0.01 USD, and sums of such amounts have no remainder."""
    budget = either.budget(usd=0.1)
    calls = 0
    while budget.has_room():
        use(either, 10_000)
        calls += 1
    assert calls == 10
    assert budget.spent == BudgetAmount(100_000, 0.1)
    with pytest.raises(BudgetExceededError, match=r"^budget of 0\.10 USD is spent: 0\.10 USD used"):
        budget.check()


def test_the_first_limit_that_is_reached_ends_a_budget_with_both(
    monitor: GenerationMonitor,
) -> None:
    """Either of tokens and USD may be the first."""
    cheap = monitor.budget(tokens=1_000, usd=1.0)
    dear = monitor.budget(tokens=1_000_000, usd=0.001)
    use(monitor, 1_000)
    assert not cheap.has_room()
    assert not dear.has_room()
    assert cheap.left == BudgetLimit(0, 0.999)
    with pytest.raises(BudgetExceededError) as raised:
        dear.check()
    assert str(raised.value) == (
        "budget of 1,000,000 tokens and 0.001 USD is spent: 1,000 tokens, 0.001 USD used; "
        "0 tokens, 0.00 USD reserved"
    )


def test_a_budget_counts_from_its_creation_on(either: GenerationMonitor) -> None:
    """Also what is still pending when it is made counts to nobody."""
    for _ in range(50):
        use(either)
    budget = either.budget(tokens=100)
    assert budget.spent == BudgetAmount(0, 0.0)
    use(either)
    assert budget.spent.tokens == 10
    assert budget.left == BudgetLimit(90, None)


def test_failed_calls_evaluations_and_reported_costs_count(monitor: GenerationMonitor) -> None:
    """All that is billed counts; conversations, metrics and samples use nothing."""
    budget = monitor.budget(tokens=1_000, usd=1.0)
    monitor.track_generation(0.1, False, model_name="atlas", prompt_token_count=1, error="late")
    monitor.track_evaluation(0.1, True, "judge", {}, model_name="atlas", prompt_token_count=2)
    use(monitor, 4, cost=0.25)
    monitor.track_generation(0.1, True, conversation_length=3)
    monitor.record_metric("m", 5)
    monitor.record_sample(True)
    assert budget.spent == BudgetAmount(7, 0.250003)


def test_cancelled_streams_count(monitor: GenerationMonitor) -> None:
    """A call that the consumer left is billed for what it used."""
    budget = monitor.budget(tokens=1_000)

    def leave() -> None:
        with monitor.generation(model="atlas") as call:
            call.usage(prompt_token_count=8)
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        leave()
    assert budget.spent.tokens == 8


def test_a_step_counts_alone(monitor: GenerationMonitor) -> None:
    """A step may be a keyword or AfterImage's metadata."""
    budget = monitor.budget(tokens=100, step="judge")
    use(monitor, 1, step="judge")
    use(monitor, 2, metadata={"operation": "judge"})
    use(monitor, 4, step="write")
    use(monitor, 8)
    monitor.track_evaluation(0.1, True, "e", {}, prompt_token_count=16, step="judge")
    assert budget.spent.tokens == 19
    assert repr(budget) == "<Budget of 100 tokens for the step 'judge'>"


def test_a_step_past_the_limit_of_labels_counts() -> None:
    """The label is then "other", but the budget is of the step that was recorded."""
    with isolated_monitor(MonitorConfig(limits=LabelLimits(steps=1))) as monitor:
        use(monitor, 1, step="first")
        budget = monitor.budget(tokens=100, step="second")
        other = monitor.budget(tokens=100, step="other")
        use(monitor, 2, step="second")
        use(monitor, 4, step="third")
        use(monitor, 8, metadata={"operation": " second "})
        assert budget.spent.tokens == 10
        assert other.spent.tokens == 0


def test_tags_must_all_be_in_the_metadata(monitor: GenerationMonitor) -> None:
    """They are compared as plain data, as the metadata are recorded."""
    budget = monitor.budget(tokens=100, tags={"tenant": "a", "ids": (1, 2)})
    use(monitor, 1, metadata={"tenant": "a", "ids": [1, 2], "more": None})
    use(monitor, 2, metadata={"tenant": "a"})
    use(monitor, 4, metadata={"tenant": "b", "ids": [1, 2]})
    use(monitor, 8)
    use(monitor, 16, metadata=5)
    with monitor.generation(model="atlas", metadata={"tenant": "a", "ids": (1, 2)}) as call:
        call.usage(prompt_token_count=32)
    assert budget.spent.tokens == 33
    assert "tenant=a" in repr(budget)


def test_a_tag_of_none_must_be_present(monitor: GenerationMonitor) -> None:
    """Metadata without the key are others."""
    budget = monitor.budget(tokens=100, tags={"batch": None})
    use(monitor, 1, metadata={"batch": None})
    use(monitor, 2, metadata={})
    assert budget.spent.tokens == 1


@pytest.mark.parametrize("name", VALUES)
def test_no_recorded_value_breaks_a_budget(
    name: str, monitor: GenerationMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a call has as its step, metadata, cost and tags, valid calls count."""
    value = VALUES[name]
    by_step = monitor.budget(tokens=10_000, step="s")
    by_tag = monitor.budget(usd=1e6, tags={"key": value}, unpriced_usd_per_million=1.0)
    everything = monitor.budget(tokens=10**15, usd=1e12, max_unread=None)
    for keyword in ("step", "metadata", "cost", "model_name", "total_token_count"):
        use(monitor, **{keyword: value})
    use(monitor, metadata={"key": value})
    use(monitor, step="s")
    assert by_step.spent.tokens == 10
    assert by_tag.spent.tokens in (0, 10)
    assert everything.spent.tokens >= 6 * 10
    assert everything.left is not None
    assert not [line for line in caplog.messages if "internal error" in line]


@pytest.mark.parametrize("tags", [5, "tenant", [("tenant", "a")], object()])
def test_tags_must_be_a_mapping(monitor: GenerationMonitor, tags: Any) -> None:
    """Anything else is an error that shows it."""
    with pytest.raises(ConfigError, match="tags must be a mapping"):
        monitor.budget(tokens=1, tags=tags)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "got neither tokens= nor usd="),
        ({"tokens": -1}, "tokens must be a whole number of at least 0, or None, got -1"),
        ({"tokens": 1e6}, "tokens must be a whole number"),
        ({"tokens": True}, "tokens must be a whole number"),
        ({"usd": -0.1}, "usd must be USD from 0 to"),
        ({"usd": float("nan")}, "usd must be USD"),
        ({"usd": float("inf")}, "usd must be USD"),
        ({"usd": "5"}, "usd must be USD"),
        ({"tokens": 1, "step": " x"}, "step must be a text"),
        ({"tokens": 1, "step": ""}, "step must be a text"),
        ({"tokens": 1, "max_unread": 0}, "max_unread must be a whole number of at least 1"),
        (
            {"tokens": 1, "unpriced_usd_per_million": 1.0},
            "unpriced_usd_per_million must be set together with usd",
        ),
        ({"usd": 1, "unpriced_usd_per_million": -1}, "unpriced_usd_per_million must be USD"),
    ],
)
def test_invalid_arguments_are_errors(
    monitor: GenerationMonitor, arguments: dict[str, Any], error: str
) -> None:
    """The error names the argument, the requirement and the value."""
    with pytest.raises(ConfigError, match=error):
        monitor.budget(**arguments)


def test_a_limit_of_0_has_no_room(monitor: GenerationMonitor) -> None:
    """A job that may use nothing makes no call."""
    assert not monitor.budget(tokens=0).has_room()
    assert not monitor.budget(usd=0).has_room()


def test_reads_go_on_after_the_shutdown(either: GenerationMonitor) -> None:
    """The amounts stay; reservations still work."""
    budget = either.budget(tokens=100)
    use(either, 60)
    either.shutdown()
    assert budget.spent.tokens == 60
    assert budget.has_room()
    with budget.reserve(tokens=40):
        assert budget.reserved.tokens == 40
    with pytest.raises(BudgetExceededError), budget.reserve(tokens=41):
        pass


async def test_tasks_can_reserve_after_the_shutdown(either: GenerationMonitor) -> None:
    """Also with the pipeline's thread stopped."""
    budget = either.budget(tokens=100)
    use(either, 60)
    either.shutdown()
    either._pipeline.stop(PATIENCE)
    async with budget.reserve(tokens=40):
        assert budget.left.tokens == 0
    assert budget.left.tokens == 40


def test_calls_after_the_shutdown_end_a_budget(either: GenerationMonitor) -> None:
    """They are not recorded, so a loop to the budget would never end."""
    budget = either.budget(tokens=100)
    either.shutdown()
    for _ in range(10):
        assert budget.has_room()
        use(either)
    with pytest.raises(UsageUnreadError, match="the monitor is shut down; use one that is open"):
        budget.has_room()


def test_a_collected_budget_is_dropped(monitor: GenerationMonitor) -> None:
    """The monitor keeps no budget alive, and counts in the others."""
    kept = monitor.budget(tokens=100)
    for _ in range(100):
        monitor.budget(tokens=100)
    gc.collect()
    use(monitor)
    monitor.budget(tokens=100)
    assert len(monitor._session.budgets) == 2
    assert kept.spent.tokens == 10


def test_a_budget_does_not_keep_its_monitor_alive(threaded: GenerationMonitor) -> None:
    """A monitor that is collected is closed; its budget can still be read."""
    use(threaded)
    made = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(enabled=False)))
    budget = made.budget(tokens=100)
    use(made)
    made.flush()
    state = made._session.state
    del made
    gc.collect()
    assert eventually(lambda: state.is_closed)
    assert budget.spent.tokens == 10


# --- what cannot be kept -----------------------------------------------------------------------


def test_unread_usage_in_a_row_is_an_error(monitor: GenerationMonitor) -> None:
    """The error has the number, the reason and the model of the last call."""
    budget = monitor.budget(tokens=1_000, max_unread=3)
    for _ in range(2):
        use(monitor, None)
    assert budget.has_room()
    use(monitor, None, model_name="atlas-mini")
    for read in (budget.has_room, budget.check, budget.reserve(tokens=1).__enter__):
        with pytest.raises(UsageUnreadError) as raised:
            read()
    error = raised.value
    assert (error.calls, error.reason, error.model) == (3, "not_reported", "atlas-mini")
    assert "usage of 3 calls in a row is unknown, the last one of atlas-mini" in str(error)
    assert "usage() of the call" in str(error)
    assert budget.spent.tokens == 0
    use(monitor)
    assert budget.has_room()


def test_a_call_with_usage_ends_the_row(monitor: GenerationMonitor) -> None:
    """Failed calls need no usage, and evaluations come from elsewhere: neither changes the row."""
    budget = monitor.budget(tokens=1_000, max_unread=2)
    for _ in range(5):
        use(monitor, None)
        use(monitor, 1)
    assert budget.has_room()
    use(monitor, None)
    monitor.track_generation(0.1, False, model_name="atlas", error="late")
    monitor.track_evaluation(0.1, True, "judge", {}, prompt_token_count=2)
    assert budget.has_room()
    use(monitor, None)
    with pytest.raises(UsageUnreadError):
        budget.has_room()


def test_unread_usage_can_be_accepted(monitor: GenerationMonitor) -> None:
    """Then it counts as 0."""
    budget = monitor.budget(tokens=1_000, max_unread=None)
    for _ in range(100):
        use(monitor, None)
    assert budget.has_room()


def test_a_reported_cost_is_enough_for_a_budget_of_usd(monitor: GenerationMonitor) -> None:
    """A proxy may report what a call cost without its tokens."""
    usd = monitor.budget(usd=100, max_unread=2)
    both = monitor.budget(tokens=100, usd=100, max_unread=2)
    for _ in range(3):
        use(monitor, None, cost=0.5)
    assert usd.has_room()
    assert usd.spent == BudgetAmount(0, 1.5)
    with pytest.raises(UsageUnreadError):
        both.has_room()


def test_usage_without_a_price_is_an_error_in_a_budget_of_usd(monitor: GenerationMonitor) -> None:
    """The error names the models and the remedies; budgets of tokens need no prices."""
    tokens, usd = monitor.budget(tokens=1_000), monitor.budget(usd=1.0)
    use(monitor)
    assert usd.has_room()
    use(monitor, model_name="house-7b")
    use(monitor, model_name="house-13b")
    assert tokens.has_room()
    for read in (usd.has_room, usd.check, usd.reserve(usd=0.1).__enter__):
        with pytest.raises(UnpricedModelError, match="no price for house-7b, house-13b; set") as it:
            read()
    assert it.value.models == ("house-7b", "house-13b")
    assert "unpriced_usd_per_million" in str(it.value)
    assert usd.spent == BudgetAmount(30, 0.00001)


def test_a_monitor_without_prices_needs_reported_costs_for_usd() -> None:
    """The first usage without a cost is an error, not the budget itself."""
    with isolated_monitor() as monitor:
        budget = monitor.budget(usd=1.0)
        use(monitor, cost=0.25)
        use(monitor, 0)  # nothing was used
        assert budget.has_room()
        use(monitor)
        with pytest.raises(UnpricedModelError, match="no price for atlas"):
            budget.has_room()


def test_many_models_without_a_price_are_not_all_in_the_message(monitor: GenerationMonitor) -> None:
    """All are in the error's field."""
    budget = monitor.budget(usd=1.0)
    for number in range(12):
        use(monitor, model_name=f"house-{number}")
    with pytest.raises(UnpricedModelError, match="house-4 and 7 more; set") as raised:
        budget.check()
    assert len(raised.value.models) == 12


def test_a_price_can_be_assumed(monitor: GenerationMonitor) -> None:
    """Total tokens without a price cost so much per million; others cost what they cost."""
    budget = monitor.budget(usd=1.0, unpriced_usd_per_million=50.0)
    use(monitor, 1_000)
    use(monitor, 1_000, completion_token_count=1_000, model_name="house")
    assert budget.spent == BudgetAmount(3_000, 0.101)
    free = monitor.budget(usd=1.0, unpriced_usd_per_million=0)
    use(monitor, model_name="house")
    assert free.has_room()
    assert free.spent.usd == 0


def test_what_is_spent_counts_more_than_what_is_unknown(monitor: GenerationMonitor) -> None:
    """A loop whose limit is reached ends without an error."""
    budget = monitor.budget(tokens=10, usd=1.0, max_unread=1)
    use(monitor, 10, model_name="house")
    use(monitor, None)
    assert not budget.has_room()
    with pytest.raises(BudgetExceededError):
        budget.check()


@pytest.mark.parametrize(
    "error",
    [
        BudgetExceededError(
            "spent", BudgetAmount(1, 0.5), BudgetAmount(2, 0), BudgetLimit(1, None)
        ),
        BudgetTimeoutError("late", BudgetAmount(1, 0.5), BudgetAmount(2, 0), BudgetLimit(1, None)),
        UsageUnreadError(
            "unread", BudgetAmount(1, 0.5), BudgetAmount(2, 0), BudgetLimit(1, None), 3, "why", "m"
        ),
        UnpricedModelError(
            "unpriced", BudgetAmount(1, 0.5), BudgetAmount(2, 0), BudgetLimit(1, None), ("m", "n")
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_pickled(error: BudgetError) -> None:
    """A worker of a process pool can raise them."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(copy) is type(error)
    assert str(copy) == str(error) == error.args[0]
    assert vars(copy) == vars(error)


def test_amounts_are_readable() -> None:
    """Thousands are grouped, and USD have two to six decimals."""
    assert str(BudgetAmount(1_234_567, 1234.5)) == "1,234,567 tokens, 1,234.50 USD"
    assert str(BudgetLimit(None, 0.000_012)) == "0.000012 USD"
    assert str(BudgetLimit(5, 2)) == "5 tokens and 2.00 USD"
    assert str(BudgetLimit(None, None)) == "no limit"


# --- reservations ------------------------------------------------------------------------------


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
