"""``JobGuard``: refuses the calls of a job whose budget is spent."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from genmeter.budget.scopes import JobScope
from genmeter.job.amounts import JobAmounts, JobError

if TYPE_CHECKING:
    from collections.abc import Callable

    from genmeter.budget.budget import Budget
    from genmeter.errors import BudgetError

__all__ = ["JobGuard"]

_PATIENCE = 0.5  # seconds that a call waits at most until the calls before it are counted
_PATIENCE_AT_START = 5.0  # the same, of the first calls of a process: exporters are started
_PAUSE = 1.0  # seconds without a wait after one that timed out
_LOOK = 0.25  # seconds between two looks at the other processes


class JobGuard:
    """Checks a budget of the job before each call of this process, see :mod:`genmeter.observed.gate`.

    The pipeline's owner publishes at the end of each turn whether there is room, and a call reads that. The
    first call of a process asks the job's other processes, as a read of the budget does; later the job's
    thread does so at each turn. A call that finds others before it not counted yet waits for them a moment,
    so that calls in turn are refused exactly.

    What is in flight is not counted, and finishes: together the processes use more than the limit by at
    most that, and by what other processes have recorded in about the last second.

    Args:
        budget: A budget with ``scope="job"``.
        on_refusal: Called with the reason of each refused call.
    """

    def __init__(self, budget: Budget, on_refusal: Callable[[str], object]) -> None:
        scope = budget._owned  # noqa: SLF001 - of this package
        assert isinstance(scope, JobScope)  # noqa: S101 - the caller's promise
        self._on_refusal = on_refusal
        self._scope = scope
        self._pipeline = scope.pipeline
        self._others = JobAmounts(0, 0.0)
        self._failure: str | None = None
        self._epoch: int | None = None  # of the process that has asked the others
        self._asked_at = self._impatient_until = 0.0
        self._problem: Callable[[], BudgetError | None] = lambda: None
        self._pipeline.add_turn_end(self._publish)

    def close(self) -> None:
        """Publish nothing any more."""
        self._pipeline.remove_turn_end(self._publish)

    def __call__(self) -> None:
        """Refuse a call that begins, if the budget has no room.

        Raises:
            BudgetExceededError: A limit is reached by what is used and reserved.
            UsageUnreadError: The usage of too many calls in a row is unknown.
            UnpricedModelError: The budget is in USD, and used tokens have no price.
            BudgetUnavailableError: The other processes of the job cannot be reached.
        """
        if self._epoch != self._pipeline.epoch:
            self._ask_others()
            self._epoch = self._pipeline.epoch
            self._pipeline.run(_do_nothing)
        elif not self._pipeline.is_settled:
            self._wait_for_calls()
        self._look()
        problem = self._problem()
        if problem is not None:
            self._on_refusal(str(problem))
            raise problem

    def _wait_for_calls(self) -> None:
        if time.monotonic() < self._impatient_until:
            return
        try:
            patience = _PATIENCE if self._pipeline.has_begun else _PATIENCE_AT_START
            self._pipeline.run(_do_nothing, patience)
        except TimeoutError:  # far behind, so that another call need not wait for it
            self._impatient_until = time.monotonic() + _PAUSE

    # --- what is published -----------------------------------------------------------------------

    def _look(self) -> None:
        """Have the job's thread look at the other processes, unless that was a moment ago."""
        now = time.monotonic()
        if now - self._asked_at >= _LOOK and self._scope.job.is_shared:
            self._asked_at = now
            self._scope.job.post(self._ask_others)

    def _ask_others(self) -> None:
        """Read what the other processes use; on the job's thread, or before the first call."""
        try:
            self._scope.problem()  # which releases what dead processes reserved
            self._others, self._failure = self._scope.others(), None
        except (JobError, TimeoutError) as error:
            self._failure = str(error)
        self._asked_at = time.monotonic()

    def _publish(self) -> None:
        """Publish whether there is room; called by the pipeline's owner at the end of each turn."""
        if self._epoch != self._pipeline.epoch:
            return
        self._look()
        # A function that makes the error, since each call that is refused needs one of its own.
        found = self._scope.beside(self._others)
        if self._failure is None:
            self._problem = found.problem
        else:
            self._problem = partial(self._scope.unavailable, self._failure, found)


def _do_nothing() -> None:
    """Let the pipeline's owner drain what is pending."""
