"""The identity of a framework's call, by which what is observed inside and its later report are one call."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import types
from typing import Any

import pytest
import wrapt
from opentelemetry.sdk.trace import TracerProvider

from genmeter import GenAISpanProcessor
from genmeter.events.answers import CallDetails
from genmeter.observed.around import run_in
from genmeter.observed.identity import OUTSIDE, CallIdentity, current, current_or_outside, entered
from genmeter.observed.matching import MAX_SECONDS, RecentCalls, Seen, distinct
from genmeter.observed.model import ObservedCall
from genmeter.testing import isolated_monitor

CLIENT, HOOK, ABOVE = "genmeter.openai", "genmeter.litellm", "genmeter.langchain"
SCOPE = "openinference.instrumentation.openai"


def failed(source: str, identity: CallIdentity | None, ended: float = 1.0) -> ObservedCall:
    """Return an observation of a call that failed without tokens, as all of them did at once."""
    return ObservedCall(source, ended, 1.0, False, {}, CallDetails(), identity=identity)


def test_an_identity_is_of_one_call_and_what_runs_inside() -> None:
    """Also where one is inside of another, and in copies of the context."""
    assert (current(), current_or_outside()) == (None, OUTSIDE)
    with entered():
        first = current()
        assert first is current_or_outside() is not OUTSIDE
        with entered():
            assert current() not in {None, first}
        found: list[Any] = []
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: found.append(context.run(current)))
        thread.start()
        thread.join()
        assert found == [first]
    assert current() is None


@pytest.mark.parametrize("order", [1, -1], ids=["client first", "report first"])
def test_failures_at_once_are_told_apart(order: int) -> None:
    """Two of LiteLLM's with their clients', a client's own and LangChain's."""
    one, two = CallIdentity(), CallIdentity()
    inside = [failed(CLIENT, one), failed(CLIENT, two), failed(HOOK, two), failed(HOOK, one)]
    others = [failed(ABOVE, OUTSIDE), failed(SCOPE, OUTSIDE, 1.001)]
    calls = [others[0], *inside[::order], others[1]]
    found = distinct(calls)
    assert len(found) == 3  # LangChain's and the span may be one, as far as times say
    pairs = [{call, *parts} for call, parts in map(_hashable, found)]
    assert {id(inside[0]), id(inside[3])} in pairs
    assert {id(inside[1]), id(inside[2])} in pairs


def _hashable(group: tuple[ObservedCall, tuple[ObservedCall, ...]]) -> tuple[int, tuple[int, ...]]:
    call, parts = group
    return id(call), tuple(map(id, parts))


def test_an_unknown_identity_is_compared_by_times() -> None:
    """As that of a framework's instrumentation, which may be around the call."""
    identity = CallIdentity()
    assert len(distinct([failed("litellm", None), failed(HOOK, identity)])) == 1
    assert len(distinct([failed(CLIENT, OUTSIDE), failed(HOOK, None)])) == 1
    assert len(distinct([failed(CLIENT, OUTSIDE), failed(HOOK, identity)])) == 2


def test_attempts_of_one_call_stay_apart() -> None:
    """They have its identity, and come one after the other."""
    identity = CallIdentity()
    attempts = [failed(CLIENT, identity, 1.0), failed(CLIENT, identity, 2.0)]
    found = distinct([*attempts, failed(HOOK, identity, 2.0), failed(HOOK, identity, 1.0)])
    assert [(call.ended, [each.ended for each in parts]) for call, parts in found] == [
        (1.0, [1.0]),
        (2.0, [2.0]),
    ]


@pytest.mark.parametrize(
    ("scope", "is_known"),
    [
        (SCOPE, True),
        ("opentelemetry.instrumentation.openai.v1", True),
        ("com.anthropic.sdk.python", True),
        ("openinference.instrumentation.langchain", False),
        ("litellm", False),
    ],
)
def test_a_span_has_the_identity_of_its_start(scope: str, is_known: bool) -> None:
    """Of a client's own span it is also known that it began in no such call; a child has its parent's."""
    with isolated_monitor(metrics_interval=None) as monitor:
        provider = TracerProvider()
        provider.add_span_processor(GenAISpanProcessor(monitor))
        tracer = provider.get_tracer(scope)

        def node_of(span: Any) -> Any:
            context = span.get_span_context()
            return monitor.observer.open_spans.get((context.trace_id, context.span_id))

        attributes = {"gen_ai.operation.name": "chat"}
        with tracer.start_as_current_span("outside", attributes=attributes) as span:
            assert node_of(span).identity is (OUTSIDE if is_known else None)
        with (
            entered(),
            tracer.start_as_current_span("inside", attributes=attributes) as span,
            tracer.start_as_current_span("below", attributes=attributes) as below,
        ):
            assert node_of(span).identity is node_of(below).identity is current() is not None
        provider.shutdown()


@pytest.mark.parametrize("is_async", [False, True])
def test_each_call_of_a_function_runs_in_a_context_of_its_own(is_async: bool) -> None:
    """It begins when a coroutine is awaited, and ends with an exception too."""
    module = types.ModuleType("a_framework")

    def plain(fails: bool) -> Any:
        if fails:
            raise ValueError
        return current()

    async def awaited(fails: bool) -> Any:
        return plain(fails)

    function: Any = run_in(entered, awaited if is_async else plain)
    vars(module)["function"] = function
    assert isinstance(function, wrapt.FunctionWrapper)

    def call(fails: bool) -> Any:
        return asyncio.run(function(fails)) if is_async else function(fails)

    first, second = call(False), call(False)
    assert None not in {first, second}
    assert first is not second
    with pytest.raises(ValueError, match=r"^$"):
        call(True)
    assert current() is None


def test_who_has_observed_a_part_of_a_call_observed_another_one_beside_it() -> None:
    """Of a framework's span with its client's inside, and the failure of another call of that client."""
    recent = RecentCalls()
    recent.add(Seen(failed(SCOPE, OUTSIDE)), 0.0)
    above = failed("openinference.instrumentation.langchain", None)
    assert recent.find(above) is not None
    assert recent.find(above, (failed(SCOPE, OUTSIDE),)) is None
    assert recent.find(above, (failed("another.client", CallIdentity()),)) is None


def test_calls_that_are_too_old_are_forgotten_by_their_identity() -> None:
    """Also one that is known from a later observation."""
    recent, one, two = RecentCalls(), CallIdentity(), CallIdentity()
    seen = Seen(failed(CLIENT, one))
    recent.add(seen, 0.0)
    recent.note(seen, failed("litellm", two))
    assert [recent.find(failed(HOOK, each)) for each in (one, two)] == [(seen, "overlap")] * 2
    recent.expire(MAX_SECONDS + 1.0)
    assert not recent._by_identity
