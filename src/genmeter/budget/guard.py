"""``JobGuard``: refuses the calls of a job whose budget is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.errors import BudgetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from genmeter.budget.budget import Budget

__all__ = ["JobGuard"]


class JobGuard:
    """Checks a budget of the job before each call of this process, see :mod:`genmeter.observed.gate`.

    What is in flight is not counted, and finishes: together the processes use more than the limit by at
    most that, and by what other processes have recorded in about the last second.

    Args:
        budget: A budget with ``scope="job"``.
        on_refusal: Called with the reason of each refused call.
    """

    def __init__(self, budget: Budget, on_refusal: Callable[[str], object]) -> None:
        self._budget = budget
        self._on_refusal = on_refusal

    def __call__(self) -> None:
        """Refuse a call that begins, if the budget has no room.

        Raises:
            BudgetExceededError: A limit is reached by what is used and reserved.
            UsageUnreadError: The usage of too many calls in a row is unknown.
            UnpricedModelError: The budget is in USD, and used tokens have no price.
            BudgetUnavailableError: The other processes of the job cannot be reached.
        """
        try:
            self._budget.check()
        except BudgetError as error:
            self._on_refusal(str(error))
            raise
