"""Records what others observe: each call once, however many observe it.

Three kinds of observations come here, and the pipeline's thread decides in their order:

- a call that something else observed (:meth:`Observer.observe`). It may repeat one that is known: a span
  below another call's span, the span of a second instrumentation, a span beside a log event;
- the end of a span that is no call, if calls below it wait for its end (:meth:`Observer.end`);
- a call that the job reports itself after its end (:meth:`Observer.report`), as AfterImage does. It has the
  job's labels, so observed calls wait for it a few seconds where such reports are expected.

What is dropped as a repetition is counted by its reason.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import time
import weakref
from typing import TYPE_CHECKING, NamedTuple, Protocol

from genmeter.observed.matching import MAX_SECONDS, RecentCalls, Seen, distinct
from genmeter.observed.merging import completed, with_outcome
from genmeter.observed.open_spans import OpenSpans
from genmeter.observed.openings import Openings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from genmeter.observed.model import Block, ObservedCall, SpanNode
    from genmeter.observed.reported import ReportedBlock

__all__ = [
    "HELD_SECONDS",
    "REPORT_SECONDS",
    "CallSink",
    "Observer",
    "add_process_feed",
    "expect_reports",
    "process_observer",
    "remove_process_feed",
]

HELD_SECONDS = 60.0
"""For how long a call waits at most for the end of a span around it."""
REPORT_SECONDS = 5.0
"""For how long a call waits at most for the job's own report of it."""
_UNREPORTED_SECONDS = 2.0  # in which a framework may still report a call itself
_ASK_SECONDS = 1.0  # between two looks for such calls
_MAX_WAITING = 10_000
_expects_reports = False
_feeds: list[weakref.WeakMethod[Callable[[], Observer | None]]] = []


def expect_reports(expected: bool) -> None:
    """Have observed calls wait for the job's own reports, in the whole process from now on, or not."""
    global _expects_reports  # noqa: PLW0603 - a switch of the process
    _expects_reports = expected


def add_process_feed(observer: Callable[[], Observer | None]) -> None:
    """Have :func:`process_observer` return what a method returns, as long as its object lives."""
    _feeds.append(weakref.WeakMethod(observer))


def remove_process_feed(observer: Callable[[], Observer | None]) -> None:
    """Undo :func:`add_process_feed`."""
    with contextlib.suppress(ValueError):
        _feeds.remove(weakref.WeakMethod(observer))


def process_observer() -> Observer | None:
    """Return the observer of what is observed for the whole process; None if nothing is."""
    while _feeds:
        read = _feeds[-1]()
        if read is not None:
            return read()
        with contextlib.suppress(IndexError):
            _feeds.pop()
    return None


class CallSink(Protocol):
    """Where calls are recorded: a monitor. Its methods never raise."""

    def record(self, call: ObservedCall) -> None:
        """Record a call at once; called by the pipeline's owner."""

    def post(self, function: Callable[[], object]) -> None:
        """Have the pipeline's owner call a function, in order with the events.

        It is dropped and counted if too many events are pending.
        """

    @property
    def is_crowded(self) -> bool:
        """Whether so many events are pending that callers wait for the pipeline."""

    def run(self, function: Callable[[], object], timeout: float) -> None:
        """Have the pipeline's owner call a function, behind all events, and wait for it.

        Raises:
            TimeoutError: It took longer.
        """

    def drop(self, reason: str) -> None:
        """Count an observation that was dropped as a repetition."""


class _Waiting(NamedTuple):
    deadline: float
    number: int
    end: Callable[[], object]


class Observer:
    """Records the observed calls of one monitor.

    Args:
        sink: The monitor.
        now: The clock of deadlines, in seconds.

    Attributes:
        open_spans: The open spans.
        openings: The requests of streams whose end is reported apart.
        has_spans: Whether spans are observed here.
        is_fed: Whether something observes calls for this monitor.
    """

    def __init__(self, sink: CallSink, *, now: Callable[[], float] = time.monotonic) -> None:
        self.openings = Openings()
        self.open_spans = OpenSpans(HELD_SECONDS + MAX_SECONDS)
        self.has_spans = False
        self.is_fed = False
        self._sink = sink
        self._now = now
        self._expects_reports = False
        self._reset()

    def _reset(self) -> None:
        self._unreported: list[Callable[[float], Iterable[ObservedCall]]] = []
        self._asked_at = 0.0
        self._recent = RecentCalls(on_forget=self.open_spans.forget)
        self._waiting: list[_Waiting] = []
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        return f"<Observer of {len(self._recent)} recent calls>"

    # --- the caller's path -----------------------------------------------------------------------

    def observe(self, call: ObservedCall) -> None:
        """Record a call that no block of ours is open around; never raises or waits."""
        self.is_fed = True
        self._sink.post(lambda: self.take(call))

    def observe_in(self, block: Block | None, call: ObservedCall) -> None:
        """Have a block of ours take a call as its part; record the call if none does.

        Args:
            block: The block that was open where the call was made, if any.
            call: The call.
        """
        if block is None or not block.observe(call):
            self.observe(call)

    def observe_later(self, read: Callable[[], ObservedCall | None]) -> None:
        """Record the call that a function reads on the pipeline's thread, if it returns one.

        What the function keeps, such as a whole span with its prompts, is kept until then. So it is read
        at once where many events are pending.
        """
        if not self._sink.is_crowded:
            self._sink.post(lambda: None if (call := read()) is None else self.take(call))
        elif (call := read()) is not None:
            self.observe(call)

    def add_unreported_source(self, take: Callable[[float], Iterable[ObservedCall]]) -> None:
        """Have a function asked about once a second for calls that ended so many seconds ago, and as all is settled.

        It takes them from a framework that will not report them itself; called by the pipeline's owner.
        """
        if take not in self._unreported:
            self._unreported.append(take)
            self._sink.post(lambda: None)  # there is something to lose, as with the first event

    def end_call(self, node: SpanNode) -> None:
        """Note the end of a span that is a call."""
        self.open_spans.end(node, self._now())

    def end(self, node: SpanNode) -> None:
        """Release the calls that wait for the end of a span, which is no call."""
        self._sink.post(lambda: self._release(node))

    def report(
        self,
        call: ObservedCall,
        sink: CallSink | None = None,
        observed: Sequence[ObservedCall] = (),
    ) -> None:
        """Record a call that the job reports itself; never raises or waits.

        Args:
            call: The call; what was observed of it completes it.
            sink: The monitor that records it; None means this one.
            observed: What was observed of it, if that is known.
        """
        to = self._sink if sink is None else sink
        if observed:
            self._sink.post(lambda: self._report_known(call, tuple(observed), to))
        else:
            self._sink.post(lambda: self.take_report(call, to))

    def await_report(self, block: ReportedBlock) -> None:
        """Record what was observed in a block after a few seconds, unless its report comes before."""
        self._sink.post(lambda: self._wait(REPORT_SECONDS, lambda: self._give_up(block)))

    def add_unreported(self, calls: Sequence[ObservedCall]) -> None:
        """Record what was observed in a block and is in no report."""
        self._sink.post(lambda: self._count_all(calls))

    def drop_reported(self, calls: Sequence[ObservedCall]) -> None:
        """Count what was observed of what the job has reported in another way, such as an evaluation."""
        for _ in calls:
            self._sink.drop("reported")

    def absorb(self, node: SpanNode) -> None:
        """Drop the calls that wait for the end of a span, which a block of ours has taken."""
        node.is_absorbed = True
        self._sink.post(lambda: self._release(node))

    def drop(self, reason: str) -> None:
        """Count an observation that is no call of its own."""
        self._sink.drop(reason)

    def settle(self, timeout: float) -> None:
        """Record all that waits, and what was observed before.

        Raises:
            TimeoutError: It took longer than ``timeout`` seconds.
        """
        self._sink.run(self.release_all, timeout)

    # --- the drain -------------------------------------------------------------------------------

    def take(self, call: ObservedCall) -> None:
        """Decide on a call; called by the pipeline's owner."""
        node = call.node
        if node is not None:
            if node.is_taken:
                self._sink.drop("same_span")
                return
            node.is_taken = True
            same = self._recent.of_span(node.key)
            if same is not None:
                is_event = call.duration is None or same.call.duration is None
                reason = "log_event" if is_event else "same_span"
                self._found(same, reason, call, *node.held)
                return
            if self._is_below(call, node):
                return
        self._count(call)

    def _is_below(self, call: ObservedCall, node: SpanNode) -> bool:
        """Leave a call to the one around it, at once or when that ends; returns whether it did."""
        held = None
        for ancestor in node.ancestors():
            if ancestor.is_absorbed:
                calls, node.held = (*node.held, call), []
                self._drop_absorbed(calls)
                return True
            if ancestor.seen is not None:
                self._repeat(ancestor.seen, "nested", call, *node.held)
                node.seen = ancestor.seen
                return True
            if ancestor.is_released:
                continue
            if ancestor.is_call or (
                # No emitter has a call of its own within one.
                ancestor.may_be_call and ancestor.is_open and ancestor.source != call.source
            ):
                held = ancestor  # the outermost one
        if held is None:
            return False
        held.held += (*node.held, call)
        node.held = []
        outer = held
        self._wait(HELD_SECONDS, lambda: self._release(outer))
        return True

    def _release(self, node: SpanNode) -> None:
        """Decide again on the calls that wait for a span that is no call, or does not end."""
        node.is_released = True
        calls, node.held = node.held, []
        if node.is_absorbed:
            self._drop_absorbed(calls)
            return
        for call in calls:
            if call.node is None or not self._is_below(call, call.node):
                self._count(call)

    def _drop_absorbed(self, calls: Iterable[ObservedCall]) -> None:
        for call in calls:
            self._sink.drop("block")
            if call.node is not None:
                self.open_spans.forget(call.node.key)

    def _count(self, call: ObservedCall) -> None:
        node = call.node
        parts: tuple[ObservedCall, ...] = ()
        if node is not None:
            parts, node.held = tuple(node.held), []
            if node.below is not None:
                self._found(node.below, "nested", call, *parts)
                return
            call = with_outcome(call, parts)
        match = self._recent.find(call, parts) or next(
            (found for each in parts if (found := self._recent.find(each))), None
        )
        if match is not None:
            self._found(*match, call, *parts)
            return
        for _ in parts:
            self._sink.drop("nested")
        seen = Seen(call, parts)
        if self.openings:
            self.openings.forget(
                lambda each: each.source != call.source and seen.has_begun_with(each)
            )
        self._keep(seen)
        if _expects_reports or self._expects_reports:
            seen.is_recorded = False
            self._wait(REPORT_SECONDS, lambda: self._record(seen))
        else:
            self._record(seen, waited=False)

    def _found(self, seen: Seen, reason: str, call: ObservedCall, *parts: ObservedCall) -> None:
        if call.node is not None:
            call.node.seen = seen
        self._repeat(seen, reason, call, *parts)

    def _repeat(self, seen: Seen, reason: str, *calls: ObservedCall) -> None:
        self._recent.note(seen, *calls)
        if not seen.is_recorded:
            seen.parts += calls
        for _ in calls:
            self._sink.drop(reason)

    def _keep(self, seen: Seen) -> None:
        self._recent.add(seen, self._now())
        for each in (seen.call, *seen.parts):
            if each.node is not None:
                each.node.seen = seen
                for ancestor in each.node.ancestors():
                    ancestor.below = ancestor.below or seen

    def _record(self, seen: Seen, *, waited: bool = True) -> None:
        if waited and seen.is_recorded:
            return
        seen.is_recorded = True
        self._sink.record(completed(seen.call, seen.parts))
        seen.parts = ()

    # --- reports of the job ----------------------------------------------------------------------

    def take_report(self, call: ObservedCall, sink: CallSink) -> None:
        """Decide on a call that the job reports; called by the pipeline's owner."""
        match = self._recent.find(call)
        if match is None:
            seen = Seen(call)
            self._keep(seen)
            sink.record(call)
            return
        seen, _ = match
        if seen.is_recorded:
            # Too late: the next ones shall wait for their reports.
            self._expects_reports = True
            self._repeat(seen, "reported", call)
            return
        seen.is_recorded = True
        self._recent.note(seen, call)
        observed = (completed(seen.call, seen.parts),)
        seen.parts = ()
        self._sink.drop("reported")
        sink.record(completed(call, observed))

    def _report_known(
        self, call: ObservedCall, observed: tuple[ObservedCall, ...], sink: CallSink
    ) -> None:
        self._keep(Seen(call, observed))
        for _ in observed:
            self._sink.drop("reported")
        sink.record(completed(call, observed))

    def _give_up(self, block: ReportedBlock) -> None:
        self._count_all(block.take(is_claimed=False))

    def _count_all(self, calls: Sequence[ObservedCall]) -> None:
        for call, parts in distinct(calls):
            match = self._recent.find(call)
            if match is not None:  # a report in another task
                self._found(*match, call, *parts)
                continue
            for _ in parts:
                self._sink.drop("nested")
            seen = Seen(call, parts)
            self._keep(seen)
            self._record(seen, waited=False)

    # --- waiting ---------------------------------------------------------------------------------

    def _wait(self, seconds: float, end: Callable[[], object]) -> None:
        heapq.heappush(self._waiting, _Waiting(self._now() + seconds, next(self._numbers), end))
        if len(self._waiting) > _MAX_WAITING:
            heapq.heappop(self._waiting).end()

    def expire(self) -> None:
        """Record what has waited long enough; called by the pipeline's owner at each turn."""
        if self._unreported and self._now() - self._asked_at >= _ASK_SECONDS:
            self._take_unreported(_UNREPORTED_SECONDS)
        if self._waiting or len(self._recent) or len(self.open_spans):
            now = self._now()
            while self._waiting and self._waiting[0].deadline <= now:
                heapq.heappop(self._waiting).end()
            self._recent.expire(now)
            self.open_spans.expire(now)

    def release_all(self) -> None:
        """Record all that waits; called by the pipeline's owner."""
        self._take_unreported(0.0)
        while self._waiting:
            heapq.heappop(self._waiting).end()

    def _take_unreported(self, seconds: float) -> None:
        self._asked_at = self._now()
        for take in self._unreported:
            for call in take(seconds):
                self.take(call)

    def close(self) -> None:
        """Record all that waits, also streams without an end; called by the pipeline's owner."""
        self.release_all()
        for call in self.openings.take_all():
            self.take(call)
        self.release_all()

    def reset_after_fork(self) -> None:
        """Forget everything, in a forked child."""
        self.openings = Openings()
        self.open_spans.reset()
        self._reset()
