"""What a call used: responses, keywords, attempts, exceptions and reported costs."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack, ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.lowlevel
from _hostile import VALUES, Raising
from _recorder import FakeRecorder

from genmeter.events.answers import Unread


def chat(
    prompt: int, completion: int, *, model: str = "answered", reason: str = "stop", **usage: Any
) -> dict[str, Any]:
    """Return a chat completion."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, **usage}
    return {"model": model, "choices": [{"finish_reason": reason}], "usage": counts}


@pytest.fixture
def recorder() -> FakeRecorder:
    """Return a recorder."""
    return FakeRecorder()


def test_response_is_recorded_with_its_answer(recorder: FakeRecorder) -> None:
    """Keywords have the counts and names; the answer is what a price is asked by."""
    with recorder.generation("asked") as call:
        call.usage(chat(10, 5, total_tokens=15))
    assert recorder.last.counts == (10, 5, 15)
    assert recorder.last.keywords["model_name"] == "asked"
    assert recorder.last.keywords["response_model"] == "answered"
    assert recorder.last.keywords["finish_reason"] == "stop"
    (answer,) = recorder.last.answers
    assert (answer.tokens.input, answer.model) == (10, "answered")


def test_block_without_usage_has_no_details(recorder: FakeRecorder) -> None:
    """The event says nothing of tokens, and is as small as before."""
    with recorder.generation("m", step="s"):
        pass
    assert recorder.last.keywords == {"model_name": "m", "step": "s"}
    assert recorder.last.details is None


def test_keywords_override_a_response_and_are_part_of_the_answer(recorder: FakeRecorder) -> None:
    """Only the named counts change, so that the price follows them."""
    with recorder.generation("m") as call:
        call.usage(chat(10, 5, total_tokens=18), completion_token_count=7)
        call.usage(reasoning_token_count=3)
    assert recorder.last.counts == (10, 7, 18)
    (answer,) = recorder.last.answers
    assert (answer.tokens.input, answer.tokens.output, answer.tokens.reasoning) == (10, 7, 3)


def test_later_response_overrides_keywords_that_it_names(recorder: FakeRecorder) -> None:
    """Keywords that it does not name stay."""
    with recorder.generation("m") as call:
        call.usage(prompt_token_count=1, cache_write_1h_token_count=4)
        call.usage(chat(10, 5))
    assert recorder.last.counts == (10, 5, None)
    assert recorder.last.keywords["cache_write_1h_token_count"] == 4


def test_keyword_of_none_overrides_nothing(recorder: FakeRecorder) -> None:
    """A count that the caller does not know is no count."""
    with recorder.generation("m") as call:
        call.usage(chat(10, 5), prompt_token_count=None, cache_read_token_count=None)
    assert recorder.last.counts == (10, 5, None)
    assert "cache_read_token_count" not in recorder.last.keywords


@pytest.mark.parametrize("value", [-1, 2.5, True, "7", float("nan"), 2**60])
def test_invalid_count_is_passed_on_to_be_rejected(recorder: FakeRecorder, value: Any) -> None:
    """It is no part of the answer, and no one's count is guessed."""
    with recorder.generation("m") as call:
        call.usage(chat(10, 5), prompt_token_count=value)
    assert recorder.last.keywords["prompt_token_count"] is value
    assert recorder.last.answers[0].tokens.input is None


def test_keywords_alone_need_no_answer(recorder: FakeRecorder) -> None:
    """They are priced as those of track_generation."""
    with recorder.generation("m") as call:
        call.usage(prompt_token_count=3)
    assert recorder.last.counts == (3, None, None)
    assert recorder.last.details is None


def test_billed_attempts_are_summed_and_kept_apart(recorder: FakeRecorder) -> None:
    """The sum of tokens is that of all; each has its own answer."""
    with recorder.generation("m") as call:
        call.usage(chat(10, 5, model="first", total_tokens=18), add=True)
        call.retry(ValueError())
        call.usage(chat(20, 6, model="second", reason="length"), add=True)
        call.usage(prompt_token_count=1, completion_token_count=2, add=True)
    assert recorder.last.counts == (31, 13, 18 + 26 + 3)
    assert [each.tokens.input for each in recorder.last.answers] == [10, 20, 1]
    assert recorder.last.keywords["response_model"] == "second"
    assert recorder.last.keywords["finish_reason"] == "length"


def test_total_of_attempts_without_one_stays_unknown(recorder: FakeRecorder) -> None:
    """It is left to the sum of input and output."""
    with recorder.generation("m") as call:
        call.usage(chat(10, 5), add=True)
        call.usage(chat(20, 6), add=True)
    assert recorder.last.counts == (30, 11, None)


def test_same_response_twice_is_one(recorder: FakeRecorder) -> None:
    """Without `add` nothing is summed."""
    with recorder.generation("m") as call:
        call.usage(chat(10, 5))
        call.usage(chat(10, 5))
    assert recorder.last.counts == (10, 5, None)
    assert len(recorder.last.answers) == 1


def test_first_attempt_may_say_add(recorder: FakeRecorder) -> None:
    """A loop passes it each time; an attempt that reports nothing is none."""
    with recorder.generation("m") as call:
        call.usage(add=True)
        call.usage(chat(10, 5), add=True)
        call.usage(add=True)
    assert len(recorder.last.answers) == 1
    assert recorder.last.counts == (10, 5, None)


def test_tier_and_batch_fill_what_a_response_does_not_say(recorder: FakeRecorder) -> None:
    """The response's own tier wins."""
    with recorder.generation("m", service_tier=" Flex ", batch=True) as call:
        call.usage(chat(10, 5))
        call.usage({**chat(20, 6), "service_tier": "priority"}, add=True)
    first, second = recorder.last.answers
    assert (first.service_tier, first.is_batch) == ("flex", True)
    assert (second.service_tier, second.is_batch) == ("priority", True)
    assert recorder.last.keywords["service_tier"] == "priority"
    assert recorder.last.keywords["batch"] is True


def test_usual_tier_of_a_response_stands_over_the_asked_one(recorder: FakeRecorder) -> None:
    """A provider without room for flex answers at the usual price, and says so."""
    with recorder.generation("m", service_tier="flex") as call:
        call.usage({**chat(10, 5), "service_tier": "default"})
    assert recorder.last.answers[0].service_tier is None
    with recorder.generation("m", service_tier="flex") as call:
        call.usage(chat(10, 5))
    assert recorder.last.answers[0].service_tier == "flex"


def test_tier_and_batch_are_recorded_with_keywords_alone(recorder: FakeRecorder) -> None:
    """A call that reports nothing has them too."""
    with recorder.generation("m", service_tier="flex", batch=True):
        pass
    assert recorder.last.keywords["service_tier"] == "flex"
    assert recorder.last.keywords["batch"] is True


def test_invalid_count_of_one_attempt_is_no_sum_of_the_others(recorder: FakeRecorder) -> None:
    """A sum with a part missing would be too small."""
    with recorder.generation("m") as call:
        call.usage(chat(10, 5), add=True)
        call.usage(chat(20, 6), add=True, prompt_token_count=-1)
    assert recorder.last.counts == (-1, 11, None)


@pytest.mark.parametrize("value", [0.25, -1, "1", None])
def test_cost_is_passed_on(recorder: FakeRecorder, value: Any) -> None:
    """An invalid one is for the sanitizer to reject; None is none."""
    with recorder.generation("m") as call:
        call.cost(value)
    assert recorder.last.keywords.get("cost") == value
    with recorder.generation("m"):
        pass
    assert "cost" not in recorder.last.keywords


# --- what could not be read --------------------------------------------------------------------


def test_unknown_keywords_are_kept_and_named(recorder: FakeRecorder) -> None:
    """They stay data of the event; the reason names them."""
    with recorder.generation("m") as call:
        call.usage(prompt_tokens=10, completion_tokens=5, duration=9)
    assert recorder.last.more.unread == Unread("keywords", "prompt_tokens, completion_tokens")
    assert recorder.last.keywords["prompt_tokens"] == 10
    assert recorder.last.duration < 9


def test_unknown_keywords_beside_usage_are_only_data(recorder: FakeRecorder) -> None:
    """The usage is known."""
    with recorder.generation("m") as call:
        call.usage(chat(10, 5), note="x")
    assert recorder.last.more.unread is None
    assert recorder.last.keywords["note"] == "x"


def test_object_that_is_not_understood_is_named(recorder: FakeRecorder) -> None:
    """Unless usage becomes known later, or the call fails anyway."""
    with recorder.generation("m") as call:
        call.usage(object())
    assert recorder.last.more.unread is not None
    assert recorder.last.more.unread.reason == "not_understood"
    with recorder.generation("m") as call:
        call.usage(object())
        call.usage(prompt_token_count=1)
    assert recorder.last.more.unread is None
    with recorder.generation("m") as call:
        call.usage(object())
        call.fail("cut")
    assert recorder.last.more.unread is None


def test_total_of_a_response_is_that_of_its_own_counts(recorder: FakeRecorder) -> None:
    """A keyword may make it too low; a larger one is the vendor's."""
    for total, expected in ((15, None), (600, 600)):
        with recorder.generation("m") as call:
            call.usage(chat(10, 5, total_tokens=total), completion_token_count=500)
        assert recorder.last.counts == (10, 500, expected)


def test_nothing_and_then_a_response_is_one_attempt(recorder: FakeRecorder) -> None:
    """As with the usage of each chunk, of which only the last has one."""
    with recorder.generation("m") as call:
        for each in (None, None, chat(10, 5), None):
            call.usage(each)
    assert recorder.last.counts == (10, 5, None)
    assert recorder.last.more.unread is None


def test_answers_of_a_list_are_billed_one_by_one(recorder: FakeRecorder) -> None:
    """Each has its model, its size and its cost; keywords are of all of them."""
    listed = [chat(10, 5), chat(20, 5, model="other", cost=0.5), {"role": "user"}]
    with recorder.generation("m", service_tier="flex") as call:
        call.usage(listed)
    assert recorder.last.counts == (30, 10, None)
    assert [
        (each.tokens.input, each.model, each.cost, each.service_tier)
        for each in recorder.last.answers
    ] == [(10, "answered", None, "flex"), (20, "other", 0.5, "flex")]
    with recorder.generation("m") as call:
        call.usage(listed)
        call.usage(chat(7, 5), add=True)
    assert [each.tokens.input for each in recorder.last.answers] == [10, 20, 7]
    for last in ({"response": chat(7, 5)}, {"prompt_token_count": 7}):
        with recorder.generation("m") as call:
            call.usage(listed)
            call.usage(**last)
        assert [each.tokens.input for each in recorder.last.answers] == [7]


UNREAD: dict[str, Any] = {
    "not_reported": None,
    "no_usage": {"model": "answered", "choices": [{"finish_reason": "stop"}], "usage": None},
    "not_understood": object(),
    "stream": iter([chat(10, 5)]),
}


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("reason", UNREAD)
def test_attempt_without_usage_is_not_hidden_by_another(
    recorder: FakeRecorder, reason: str, is_first: bool
) -> None:
    """The tokens of the other one count, and the call says that they are not all."""
    answers = [UNREAD[reason], chat(10, 5)]
    with recorder.generation("m") as call:
        for answer in answers if is_first else reversed(answers):
            call.usage(answer, add=True)
    assert recorder.last.counts == (10, 5, None)
    assert recorder.last.more.unread is not None
    assert recorder.last.more.unread.reason == reason
    with recorder.generation("m") as call:
        call.usage(UNREAD[reason], prompt_token_count=1)
        call.usage(chat(10, 5), add=True)
    assert recorder.last.more.unread is None


def test_stream_given_to_usage_is_left_alone(recorder: FakeRecorder) -> None:
    """The warning says what to write instead."""
    chunks = iter([chat(10, 5)])
    with recorder.generation("m") as call:
        call.usage(chunks)
    assert list(chunks) == [chat(10, 5)]
    assert recorder.last.more.unread is not None
    assert recorder.last.more.unread.reason == "stream"
    (warning,) = recorder.warnings.values()
    assert "for chunk in call.stream(stream)" in warning


@pytest.mark.parametrize("name", VALUES)
def test_nothing_raises_whatever_is_reported(recorder: FakeRecorder, name: str) -> None:
    """Each call is recorded."""
    value = VALUES[name]
    with recorder.generation("m", service_tier=value, batch=value) as call:
        call.usage(value, prompt_token_count=value, other=value)
        call.usage(value, add=True)
        call.cost(value)
        call.retry(value)
        call.stream(value)
        call.fail(value)
    assert len(recorder.calls) == 1


# --- ends ------------------------------------------------------------------------------------------


class BilledError(Exception):
    """An exception with the response that it is about."""

    def __init__(self, completion: Any) -> None:
        super().__init__("cut off")
        self.completion = completion


@pytest.mark.parametrize("is_raised", [True, False])
def test_usage_that_an_exception_carries_is_read(recorder: FakeRecorder, is_raised: bool) -> None:
    """The call failed and was billed all the same."""
    error = BilledError(chat(10, 5, reason="length"))
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(BilledError)) if is_raised else None
        call = stack.enter_context(recorder.generation("m"))
        if is_raised:
            raise error
        call.fail(error)
    assert recorder.last.outcome == "failure"
    assert recorder.last.counts == (10, 5, None)
    assert recorder.last.keywords["finish_reason"] == "length"
    assert recorder.last.keywords["error"] is error


def test_usage_of_an_exception_counts_once(recorder: FakeRecorder) -> None:
    """The block has read the response already."""
    response = chat(10, 5)
    with pytest.raises(BilledError), recorder.generation("m") as call:  # noqa: PT012
        call.usage(response)
        raise BilledError(response)
    assert recorder.last.counts == (10, 5, None)


def test_exception_with_the_sum_of_all_attempts_replaces_the_last(recorder: FakeRecorder) -> None:
    """One with less than what is known does not."""
    for carried, expected in ((chat(30, 11), (30, 11, None)), (chat(9, 6), (10, 5, None))):
        with pytest.raises(BilledError), recorder.generation("m") as call:  # noqa: PT012
            call.usage(chat(10, 5))
            raise BilledError(carried)
        assert recorder.last.counts == expected


def test_exception_without_usage_keeps_earlier_tokens(recorder: FakeRecorder) -> None:
    """Hostile attributes do not replace the block's exception."""
    with pytest.raises(BilledError), recorder.generation("m") as call:  # noqa: PT012
        call.usage(prompt_token_count=7)
        raise BilledError(Raising())
    assert recorder.last.counts == (7, None, None)


@pytest.mark.parametrize("kind", [GeneratorExit, asyncio.CancelledError])
def test_cancellation_is_no_failure(recorder: FakeRecorder, kind: type[BaseException]) -> None:
    """It propagates, and the tokens so far count."""
    with pytest.raises(kind), recorder.generation("m") as call:  # noqa: PT012
        call.usage(chat(10, 5))
        raise kind
    assert recorder.last.outcome == "cancelled"
    assert recorder.last.counts == (10, 5, None)


def test_trios_cancellation_is_no_failure(recorder: FakeRecorder) -> None:
    """Nor are tasks of Trio's mixed up that share a handle."""
    handle = recorder.generation("m")

    async def ask(n: int) -> None:
        async with AsyncExitStack() as stack:
            call = await stack.enter_async_context(handle)
            call.usage(chat(n, n))
            await trio.lowlevel.checkpoint()
            handle.usage(reasoning_token_count=n)
            await trio.sleep_forever()

    async def run() -> None:
        with trio.move_on_after(0.01):
            async with trio.open_nursery() as nursery:
                for n in range(1, 5):
                    nursery.start_soon(ask, n)

    trio.run(run)
    assert [each.outcome for each in recorder.calls] == ["cancelled"] * 4
    assert {each.counts[0]: each.keywords["reasoning_token_count"] for each in recorder.calls} == {
        n: n for n in range(1, 5)
    }


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupt_is_a_failure(recorder: FakeRecorder, kind: type[BaseException]) -> None:
    """The process ends, not the call alone."""
    with pytest.raises(kind), recorder.generation("m"):
        raise kind
    assert recorder.last.outcome == "failure"


def test_generator_that_is_left_is_cancelled(recorder: FakeRecorder) -> None:
    """The consumer has enough; tokens until then count."""

    def texts() -> Any:
        with recorder.generation("m") as call:
            for n in range(1, 10):
                call.usage(chat(10, n))
                yield n

    for n in texts():
        if n == 3:
            break
    assert recorder.last.outcome == "cancelled"
    assert recorder.last.counts == (10, 3, None)


# --- one handle, several tasks ------------------------------------------------------------------


async def test_tasks_that_share_a_handle_are_kept_apart(recorder: FakeRecorder) -> None:
    """Each call has its own tokens, whoever ends first; one warning says what to do."""
    handle = recorder.generation("m")
    gates = [asyncio.Event() for _ in range(4)]

    async def ask(n: int) -> None:
        async with handle as call:
            await asyncio.sleep(0)
            call.usage(chat(10**n, n))
            handle.retry("A")  # the shared name means the task's own call
            await gates[n].wait()
            call.usage(completion_token_count=10 * n)

    tasks = [asyncio.create_task(ask(n)) for n in range(4)]
    await asyncio.sleep(0.01)
    assert recorder.open == 4
    for n in (2, 0, 3, 1):
        gates[n].set()
        await tasks[n]
    assert [each.counts for each in recorder.calls] == [(10**n, 10 * n, None) for n in (2, 0, 3, 1)]
    assert all(each.keywords["retries"] == ["A"] for each in recorder.calls)
    assert recorder.open == 0
    assert list(recorder.warnings) == ["shared_handle"]
    with handle as call:
        assert call is handle


def test_threads_that_share_a_handle_are_kept_apart(recorder: FakeRecorder) -> None:
    """Nothing is lost or counted twice."""
    handle = recorder.generation("m")
    start = threading.Barrier(8)

    def work(n: int) -> None:
        start.wait()
        for _ in range(200):
            with handle as call:
                call.usage(chat(n, n))
                call.usage(chat(n, n))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted(each.counts[0] or 0 for each in recorder.calls)
    assert found == sorted(n for n in range(1, 9) for _ in range(200))
    assert recorder.open == 0


def test_blocks_of_one_handle_may_nest(recorder: FakeRecorder) -> None:
    """The inner block is a call of its own."""
    handle = recorder.generation("m")
    with handle as outer:
        outer.usage(chat(1, 1))
        with handle as inner:
            inner.usage(chat(2, 2))
        outer.usage(chat(3, 3))
    assert [each.counts[0] for each in recorder.calls] == [2, 3]


def test_generators_that_share_a_handle_are_kept_apart(recorder: FakeRecorder) -> None:
    """They take turns in one thread, and the first may end first."""
    handle = recorder.generation("m")

    def ask(n: int) -> Any:
        with handle as call:
            call.usage(chat(n, 1))
            yield
            handle.usage(completion_token_count=n)  # the shared name means the block's own call
            yield

    generators = [ask(n) for n in range(1, 5)]
    for generator in generators:
        next(generator)
    for number in (1, 0, 3, 2):
        assert len(list(generators[number])) == 1
    assert [each.counts[:2] for each in recorder.calls] == [(2, 2), (1, 1), (4, 4), (3, 3)]


async def test_exit_stacks_that_share_a_handle_are_kept_apart(recorder: FakeRecorder) -> None:
    """Each task's stack ends its own."""
    handle = recorder.generation("m")

    async def ask(n: int) -> None:
        async with AsyncExitStack() as stack:
            call = await stack.enter_async_context(handle)
            await asyncio.sleep(0.001 * (5 - n))
            call.usage(chat(n, n))
            handle.usage(reasoning_token_count=n)

    await asyncio.gather(*(ask(n) for n in range(1, 5)))
    found = sorted(recorder.calls, key=lambda each: each.counts[0] or 0)
    assert [each.counts[0] for each in found] == [1, 2, 3, 4]
    assert [each.keywords["reasoning_token_count"] for each in found] == [1, 2, 3, 4]
    assert recorder.open == 0


def test_shared_block_that_ends_in_another_thread_is_recorded(recorder: FakeRecorder) -> None:
    """A generator may be resumed by any thread of a pool."""
    handle = recorder.generation("m")
    with handle:
        other = threading.Thread(target=handle.__enter__)
        other.start()
        other.join()
    handle.__exit__(None, None, None)
    assert len(recorder.calls) == 2
    assert recorder.open == 0
    with handle as call:
        assert call is handle


# --- attributes ---------------------------------------------------------------------------------


def test_model_and_finish_reason_are_known_in_the_block(recorder: FakeRecorder) -> None:
    """They are the response's, unless set."""
    with recorder.generation() as call:
        assert (call.model, call.finish_reason) == (None, None)
        call.usage(SimpleNamespace(**chat(10, 5)))
        assert (call.model, call.finish_reason) == ("answered", "stop")
        call.model, call.finish_reason = "set", "own"
    assert recorder.last.keywords["model_name"] == "set"
    assert recorder.last.keywords["response_model"] == "answered"
    assert recorder.last.keywords["finish_reason"] == "own"


def test_reused_handle_keeps_nothing(recorder: FakeRecorder) -> None:
    """Usage, attempts, costs and streams belong to their block."""
    handle = recorder.generation()
    with handle as call:
        call.usage(chat(10, 5))
        call.usage(chat(10, 5), add=True)
        call.cost(1.0)
        list(call.stream([chat(1, 1)]))
    with handle:
        pass
    assert recorder.last.keywords == {}
    assert recorder.last.details is None
