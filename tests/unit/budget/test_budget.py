"""Budgets: what counts, and what cannot be kept."""

from __future__ import annotations

import asyncio
import gc
import pickle
from typing import Any

import pytest
from _budgets import use
from _hostile import VALUES

from _waiting import PATIENCE, eventually
from genmeter import (
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
from genmeter.testing import isolated_monitor

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
