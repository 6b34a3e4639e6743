"""Whatever observes calls, and in whichever order: each call is recorded once, with its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from genmeter.observed.model import ObservedCall, SpanNode
from genmeter.observed.observer import Observer

if TYPE_CHECKING:
    from collections.abc import Callable

SCOPES = ("a", "b", "c")
LATE = "late"


class FakeSink:
    """Keeps what is recorded, and calls what is posted at once."""

    def __init__(self) -> None:
        self.recorded: list[ObservedCall] = []
        self.dropped = 0
        self.is_crowded = False

    def record(self, call: ObservedCall) -> None:
        """Keep a call."""
        self.recorded.append(call)

    def post(self, function: Callable[[], object]) -> None:
        """Call it."""
        function()

    def run(self, function: Callable[[], object], timeout: float) -> None:
        """Call it."""
        del timeout
        function()

    def drop(self, reason: str) -> None:
        """Count it."""
        assert reason
        self.dropped += 1


class Shape(NamedTuple):
    """How one call is observed.

    Attributes:
        depth: Number of nested spans, the outermost of the first scope.
        siblings: Scopes of further root spans.
        has_id: Whether the spans have a response id.
        under_late: Whether a span that is no call, but might be, is around.
    """

    depth: int
    siblings: int
    has_id: bool
    under_late: bool
    order: list[int]


shapes = st.builds(
    Shape,
    st.integers(1, 3),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
    st.permutations(range(6)),
)


def spans_of(
    number: int, shape: Shape, *, start: float
) -> list[tuple[SpanNode, ObservedCall | None]]:
    """Return the spans of a call, each with what it reports, in the order of their ends."""
    found: list[tuple[SpanNode, ObservedCall | None]] = []
    above = None
    if shape.under_late:
        above = SpanNode((number, 1), LATE, None, may_be_call=True)
        found.append((above, None))
    nested = SCOPES[: shape.depth]
    for level, scope in enumerate(nested):
        above = SpanNode((number, 10 + level), scope, above, is_call=True)
        found.append(
            (above, observed(number, above, shape, start + level * 0.01, 1 - level * 0.02))
        )
    for each in range(shape.siblings):
        scope = f"sibling{each}"
        node = SpanNode((number, 20 + each), scope, None, is_call=True)
        found.append((node, observed(number, node, shape, start - 0.05, 1.1)))
    return [found[index] for index in shape.order if index < len(found)]


def observed(
    number: int, node: SpanNode, shape: Shape, start: float, duration: float
) -> ObservedCall:
    """Return what one span reports."""
    keywords: dict[str, Any] = {"prompt_token_count": 1000 + number, "completion_token_count": 5}
    return ObservedCall(
        node.source,
        start + duration,
        duration,
        True,
        keywords,
        response_id=f"id{number}" if shape.has_id else None,
        node=node,
    )


def end(observer: Observer, node: SpanNode, call: ObservedCall | None) -> None:
    """End a span, as the processor does."""
    node.is_open = False
    for ancestor in node.ancestors():
        ancestor.is_watched = True
    if call is not None:
        node.is_call = True
        observer.observe(call)
    elif node.is_watched:
        observer.end(node)


@given(st.lists(shapes, max_size=6), st.randoms(use_true_random=False))
def test_each_call_is_recorded_once(calls: list[Shape], random: Any) -> None:
    """Nested and sibling spans of calls in parallel, whose ends interleave in any order."""
    sink = FakeSink()
    observer = Observer(sink)
    queues = [spans_of(number, shape, start=0.0) for number, shape in enumerate(calls)]
    reports = sum(call is not None for queue in queues for _, call in queue)
    while any(queues):
        queue = random.choice([each for each in queues if each])
        end(observer, *queue.pop(0))
    observer.settle(1.0)
    assert sorted(each.keywords["prompt_token_count"] for each in sink.recorded) == [
        1000 + number for number in range(len(calls))
    ]
    assert sink.dropped == reports - len(calls)


@given(st.lists(shapes, max_size=6))
def test_equal_calls_in_turn_stay_apart(calls: list[Shape]) -> None:
    """Equal tokens, one after the other: as many calls as were made."""
    sink = FakeSink()
    observer = Observer(sink)
    for number, shape in enumerate(calls):
        for node, call in spans_of(number, shape, start=number * 10.0):
            equal = None
            if call is not None:
                equal = call._replace(keywords=call.keywords | {"prompt_token_count": 7})
            end(observer, node, equal)
    observer.settle(1.0)
    assert len(sink.recorded) == len(calls)


@given(st.lists(shapes, max_size=5), st.integers(0, 200))
def test_nothing_is_lost_or_kept_when_time_passes(calls: list[Shape], step: int) -> None:
    """At whatever pace the deadlines pass, each call is there, and in the end nothing waits."""
    now = [0.0]
    sink = FakeSink()
    observer = Observer(sink, now=lambda: now[0])
    for number, shape in enumerate(calls):
        for node, call in spans_of(number, shape, start=number * 10.0):
            end(observer, node, call)
            now[0] += step / 10
            observer.expire()
    now[0] += 1_000
    observer.expire()
    numbers = [each.keywords["prompt_token_count"] - 1000 for each in sink.recorded]
    assert set(numbers) == set(range(len(calls)))
    assert not observer._waiting
    assert len(observer._recent) == 0
    if step < 100:
        assert len(numbers) == len(calls)
