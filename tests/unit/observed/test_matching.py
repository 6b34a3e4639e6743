"""Which observations are of one call, by their times."""

from __future__ import annotations

import pytest

from genmeter.events.answers import CallDetails
from genmeter.observed.matching import RecentCalls, Seen, distinct, may_be_one_model
from genmeter.observed.merging import complete
from genmeter.observed.model import ObservedCall

SCOPE, OTHER, HOOK = "openinference.instrumentation.langchain", "a.scope", "genmeter.langchain"


def seen(
    source: str,
    began: float,
    ended: float,
    tokens: int | None = 10,
    response_id: str | None = None,
    **keywords: str,
) -> ObservedCall:
    """Return an observation of a call that succeeded."""
    counts = {} if tokens is None else {"prompt_token_count": tokens, "completion_token_count": 1}
    return ObservedCall(
        source,
        ended,
        ended - began,
        True,
        counts | keywords,
        CallDetails(),
        response_id=response_id,
    )


@pytest.mark.parametrize(
    ("first", "second", "calls"),
    [
        (seen(SCOPE, 0.0, 1.0), seen(OTHER, 0.1, 0.9), 1),
        (seen(SCOPE, 0.0, 1.0), seen(OTHER, 0.1, 1.01), 2),
        (seen(SCOPE, 0.0, 1.0), seen(HOOK, 0.1, 1.1), 1),
        (seen(HOOK, 0.1, 1.1), seen(SCOPE, 0.0, 1.0), 1),
        (seen(SCOPE, 0.0, 1.0), seen(HOOK, 0.5, 1.5), 2),
        (seen(SCOPE, 0.0, 1.0), seen(HOOK, 0.1, 1.1, 11), 2),
        (seen(SCOPE, 0.0, 1.0, None), seen(HOOK, 0.01, 1.01, None), 1),
        (seen(SCOPE, 0.0, 1.0, None), seen(HOOK, 0.1, 1.1, None), 2),
        (seen(HOOK, 0.0, 1.0), seen(HOOK, 0.0, 1.0), 2),
    ],
    ids=[
        *("within", "beyond", "a hook later", "a hook first", "much later", "other tokens"),
        *("no tokens, near", "no tokens, far", "the same source"),
    ],
)
def test_a_hook_and_a_span_of_one_framework_overlap(
    first: ObservedCall, second: ObservedCall, calls: int
) -> None:
    """Callbacks begin and end one after the other, so neither observation lies within the other."""
    assert len(distinct([first, second])) == calls


@pytest.mark.parametrize("source", ["genmeter.generation", "genmeter.track_generation", HOOK])
@pytest.mark.parametrize("lasts", [0.0005, 0.02, 0.2])
def test_short_calls_in_turn_stay_apart(source: str, lasts: float) -> None:
    """Of equal tokens, the job's own and those of spans, each begun when the one before it has ended."""
    calls = [
        seen(SCOPE if turn % 2 else source, turn * lasts, (turn + 1) * lasts) for turn in range(6)
    ]
    assert len(distinct(calls)) == 6


def test_a_short_call_that_is_observed_a_little_late_is_one() -> None:
    """The callbacks of both have the request in them."""
    calls = [seen(SCOPE, 0.0, 0.02), seen(HOOK, 0.008, 0.028)]
    assert len(distinct(calls)) == 1


# --- calls at once ---------------------------------------------------------------------------------


def block(source: str, *parts: ObservedCall) -> ObservedCall:
    """Return a hook's call, of which others have observed something inside of its block."""
    keywords, details = complete({}, None, parts)
    return ObservedCall(source, 1.0, 1.0, True, keywords, details or CallDetails())


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("ids", [(None, None), ("chatcmpl-1", "chatcmpl-2")])
def test_who_has_observed_a_call_in_a_block_observed_another_one_beside_it(
    ids: tuple[str | None, str | None], is_swapped: bool
) -> None:
    """Of equal tokens and times: no source observes a call twice."""
    inner = seen(OTHER, 0.1, 0.9, response_id=ids[0])
    calls = [block(HOOK, inner), seen(OTHER, 0.1, 0.9, response_id=ids[1])]
    assert len(distinct(calls[::-1] if is_swapped else calls)) == 2


def test_a_response_that_was_seen_in_a_block_is_the_blocks() -> None:
    """By the id that one inside of the block has, though the times differ."""
    inner = seen(OTHER, 0.1, 0.9, response_id="chatcmpl-1")
    assert len(distinct([block(HOOK, inner), seen(SCOPE, 3.0, 4.0, response_id="chatcmpl-1")])) == 1


@pytest.mark.parametrize(
    ("first", "second", "calls"),
    [
        ("chatcmpl-a1", "chatcmpl-b2", 2),
        ("msg_a1", "msg_b2", 2),
        ("msg_a1", "resp_a1", 1),
        ("chatcmpl-a1", "chatcmpl-1b0ad8e2-5f0e-4c52-9d5e-1d1f3a2f9a11", 1),
        (
            "run--1b0ad8e2-5f0e-4c52-9d5e-1d1f3a2f9a11-0",
            "run--2b0ad8e2-5f0e-4c52-9d5e-1d1f3a2f9a11",
            1,
        ),
        ("0217", "0218", 2),
        ("chatcmpl-a1", None, 1),
    ],
)
def test_calls_with_ids_of_one_kind_that_differ_are_two(
    first: str, second: str | None, calls: int
) -> None:
    """Ids with a UUID are those of libraries, which one call may have beside its provider's."""
    pair = [
        seen(SCOPE, 0.0, 1.0, response_id=first),
        seen(HOOK, 0.0, 1.0, response_id=second),
    ]
    assert len(distinct(pair)) == calls


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-2024-08-06", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o", "openai/gpt-4o", True),
        ("gpt-4o", "openai:gpt-4o-latest", True),
        ("claude-sonnet-4", "us.anthropic.Claude-sonnet-4-20250514-v1:0", True),
        ("gemini-2.5-pro", "models/gemini-2.5-pro-preview-05-20", True),
        ("gemini-2.5-pro", "gemini-2.5-flash", False),
        ("claude-sonnet-4", "claude-sonnet-4@20250514", True),
        ("4o", "gpt-4o", False),
        ("m", "m" + "-1" * 2_000 + "x", False),
    ],
)
def test_models_that_differ_are_of_two_calls(first: str, second: str, is_one: bool) -> None:
    """Names may differ by the seller and the version only."""
    pair = [seen(SCOPE, 0.0, 1.0, model_name=first), seen(OTHER, 0.0, 1.0, model_name=second)]
    assert len(distinct(pair)) == (1 if is_one else 2)


def test_one_answered_model_is_enough() -> None:
    """A deployment has another name; of an unknown or empty name nothing is known."""
    deployed = seen(SCOPE, 0.0, 1.0, model_name="mine", response_model="gpt-4o-2024-08-06")
    assert len(distinct([deployed, seen(OTHER, 0.0, 1.0, model_name="gpt-4o")])) == 1
    assert len(distinct([deployed, seen(OTHER, 0.0, 1.0, model_name="")])) == 1
    assert may_be_one_model([], ["gpt-4o"])


@pytest.mark.parametrize(("between", "is_found"), [(1, True), (31, True), (32, False)])
def test_a_response_id_is_looked_for_among_its_newest_calls(between: int, is_found: bool) -> None:
    """Some servers answer everything with one id, which must not take longer with each call."""
    recent = RecentCalls()
    recent.add(Seen(seen(OTHER, 0.0, 1.0, response_id="one")), 0.0)
    for number in range(between):
        recent.add(Seen(seen(SCOPE, number + 2.0, number + 3.0, response_id="one")), 0.0)
    late = seen(SCOPE, 90.0, 91.0, response_id="one")
    assert (recent.find(late) is not None) is is_found
