"""Which observations are of one call, by their times."""

from __future__ import annotations

import pytest

from genmeter.events.answers import CallDetails
from genmeter.observed.matching import distinct
from genmeter.observed.model import ObservedCall

SCOPE, OTHER, HOOK = "openinference.instrumentation.langchain", "a.scope", "genmeter.langchain"


def seen(source: str, began: float, ended: float, tokens: int | None = 10) -> ObservedCall:
    """Return an observation of a call that succeeded."""
    counts = {} if tokens is None else {"prompt_token_count": tokens, "completion_token_count": 1}
    return ObservedCall(source, ended, ended - began, True, counts, CallDetails())


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
