"""The block of a call that the job may report after its end, as AfterImage does to its monitor.

What is observed inside waits for the report. AfterImage reports a call in the task that made it, right
after it; of some calls it reports nothing, and of an attempt whose answer it could not use only the next
one. So a report takes the observed calls that it is of, by their tokens, among those of the blocks that have
ended in its context. The rest are calls of their own after a few seconds.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from genmeter.observed.matching import distinct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from genmeter.observed.blocks import Block
    from genmeter.observed.model import ObservedCall

__all__ = ["ReportedBlock", "claim"]

_MAX_ENDED = 32

_ended: ContextVar[tuple[ReportedBlock, ...]] = ContextVar("genmeter_reported", default=())


class ReportedBlock:
    """The block of a call that the job may report itself.

    Args:
        outer: The block of ours around it.
    """

    def __init__(self, outer: Block | None) -> None:
        self.outer = outer
        self.is_open = True
        self._calls: list[ObservedCall] = []
        self._pending = [True]  # taken by the report, or by the end of the wait for it; atomic
        self._is_claimed = False

    @property
    def period(self) -> tuple[float, float] | None:
        """None: what began inside and comes late is a call of its own, unless the report has come."""
        return None

    def belongs_to(self, monitor: object) -> bool:
        """Return True: nobody else is to count it."""
        del monitor
        return True

    def observe(self, call: ObservedCall) -> bool:
        """Keep what others observed of it, for the report."""
        if self._pending:
            self._calls.append(call)
            return True
        return self._is_claimed

    @property
    def is_pending(self) -> bool:
        """Whether neither its report nor the end of the wait for it has come."""
        return bool(self._pending)

    def end(self) -> bool:
        """End it; return whether anything was observed inside."""
        self.is_open = False
        if not self._calls:
            return False
        waiting = [each for each in _ended.get() if each.is_pending]
        _ended.set((*waiting, self)[-_MAX_ENDED:])
        return True

    def calls(self) -> list[ObservedCall]:
        """Return what was observed, each call once."""
        return [call for call, _ in distinct(list(self._calls))]

    def take(self, *, is_claimed: bool) -> list[ObservedCall]:
        """Return what was observed, all of it, once.

        Args:
            is_claimed: Whether a report takes it, and what comes late.
        """
        try:
            self._pending.pop()
        except IndexError:
            return []
        self._is_claimed = is_claimed
        return list(self._calls)


def claim(
    keywords: Mapping[str, Any], *, is_call: bool, success: bool
) -> tuple[list[ObservedCall], list[ObservedCall]]:
    """Return the observed calls that a report in this context is of, and others of the same blocks.

    Args:
        keywords: Of the report; those of ``track_generation`` or ``track_evaluation``.
        is_call: Whether it is of a call, which was made in any case, rather than of an evaluation.
        success: Whether it was reported as successful.
    """
    blocks = [each for each in _ended.get() if each.is_pending]
    if not blocks:
        return [], []
    reported = _tokens((keywords,))
    if reported == (0, 0):
        return (blocks[-1].take(is_claimed=True), []) if is_call and not success else ([], [])
    for count in range(1, len(blocks) + 1):
        last = blocks[-count:]
        if _tokens([call.keywords for each in last for call in each.calls()]) == reported:
            return [call for each in last for call in each.take(is_claimed=True)], []
    block = blocks[-1]
    calls = block.calls()
    answers = [each for each in calls if each.success]
    same = next((each for each in reversed(answers) if _tokens((each.keywords,)) == reported), None)
    if same is not None:
        # An attempt whose answer could not be used was billed too, and is in no report.
        others = [each for each in answers if each is not same]
        taken = block.take(is_claimed=True)
        return [each for each in taken if each not in others], others
    if is_call and _tokens([each.keywords for each in calls]) == (0, 0):  # nobody knows its tokens
        return block.take(is_claimed=True), []
    return [], []


def _tokens(calls: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Return the sums of input and output tokens; unknown ones are 0."""
    found = [
        [value for each in calls if type(value := each.get(name)) is int]
        for name in ("prompt_token_count", "completion_token_count")
    ]
    return sum(found[0]), sum(found[1])
