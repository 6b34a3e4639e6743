"""What was spent from a budget and is reserved in it: state of the drain.

Only the pipeline's owner uses an :class:`Account`, in order with the events, so it needs no lock. The
end of a reservation is posted behind the events of its block, so that their usage counts before the
reserved amount is free again: never too little is counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.budget.amounts import AFTER_SHUTDOWN, Amounts, units_of
from genmeter.events.model import Generation

if TYPE_CHECKING:
    from genmeter.budget.amounts import Claim, Terms
    from genmeter.errors import BudgetError
    from genmeter.events.model import Evaluation

__all__ = ["Account"]

_PER_MILLION = 10**6
_ABSENT = object()


class Account(Amounts):
    """What was spent from a budget and is reserved in it. Only the pipeline's owner uses it.

    Args:
        terms: The budget's terms.
        epoch: Number of forks that led to its process.
    """

    def __init__(self, terms: Terms, epoch: int) -> None:
        super().__init__(terms)
        self.epoch = epoch
        self._open: dict[Claim, None] = {}
        self._waiting: dict[Claim, None] = {}
        self._smallest = self._largest = (0, 0)  # bounds of the amounts of waiting claims
        self.unpriced: dict[str, None] = {}

    # --- what was used ---------------------------------------------------------------------------

    def add(self, event: Generation | Evaluation) -> None:
        """Count an event."""
        cost, total = event.cost, event.total_tokens
        self.tokens += total or 0
        if cost is not None:
            self.units += units_of(cost)
        if event.unpriced or (cost is None and total):
            self._add_unpriced(event.call.model, total or 0)
        if type(event) is Generation:
            self._note_usage(event)
        self._settle()

    def refuse_event(self) -> None:
        """Count a call after the shutdown of the monitor, which is not recorded."""
        self.unread += 1
        self.last_unread = (AFTER_SHUTDOWN, "unknown")
        self._settle()

    def _add_unpriced(self, model: str, tokens: int) -> None:
        if self._terms.unpriced is None:
            self.unpriced[model] = None
        else:
            self.units += units_of(self._terms.unpriced * tokens / _PER_MILLION)

    def _note_usage(self, event: Generation) -> None:
        # A budget of USD alone needs no more than the cost that a provider reported.
        is_enough = self._terms.limit.tokens is None and event.cost is not None
        if event.unread is not None and not is_enough:
            self.unread += 1
            self.last_unread = (event.unread, event.call.model)
        elif event.total_tokens is not None or is_enough:
            self.unread = 0

    # --- reservations ----------------------------------------------------------------------------

    def request(self, claim: Claim) -> None:
        """Grant or refuse a claim, or let it wait."""
        refusal = self.refusal(claim)
        if refusal is not None or self.fits(claim.tokens, claim.units):
            self._answer(claim, refusal)
        else:
            self._wait(claim)

    def expire(self, claim: Claim, timeout: float) -> None:
        """Refuse a claim that waited long enough."""
        self._settle()
        if claim in self._waiting:
            self._answer(claim, self.timeout_error(claim, timeout))

    def release(self, claim: Claim) -> None:
        """Free what a claim reserved, or end its waiting."""
        self._waiting.pop(claim, None)
        self._free_again(claim)
        self._settle()

    def look_again(self) -> None:
        """Settle the waiting claims, should a wake-up have been missed."""
        self._settle()

    def _settle(self) -> None:
        """Grant or refuse waiting claims, in the order in which they began to wait."""
        if not self._may_settle():
            return
        for claim in list(self._waiting):
            refusal = self.refusal(claim)
            if refusal is not None or self.fits(claim.tokens, claim.units):
                if claim in self._waiting:
                    self._answer(claim, refusal)
                if not self._may_settle():
                    return
        # All that wait were looked at, so the bounds can be exact again.
        tokens = [each.tokens for each in self._waiting] or [0]
        units = [each.units for each in self._waiting] or [0]
        self._smallest = (min(tokens), min(units))
        self._largest = (max(tokens), max(units))

    def _may_settle(self) -> bool:
        """Return whether any waiting claim may be due; saves most passes over all of them."""
        return bool(self._waiting) and (
            self.fits(*self._smallest) or self.exceeds(*self._largest) or self.unknown() is not None
        )

    def _wait(self, claim: Claim) -> None:
        tokens, units = claim.tokens, claim.units
        if self._waiting:
            self._smallest = (min(tokens, self._smallest[0]), min(units, self._smallest[1]))
            self._largest = (max(tokens, self._largest[0]), max(units, self._largest[1]))
        else:
            self._smallest = self._largest = (tokens, units)
        self._waiting[claim] = None

    def _answer(self, claim: Claim, refusal: BudgetError | None) -> None:
        self._waiting.pop(claim, None)
        if refusal is None:
            self._open[claim] = None
            self.reserved_tokens += claim.tokens
            self.reserved_units += claim.units
        claim.error = refusal
        claim.is_settled = True
        try:
            claim.wake()
        except RuntimeError:  # the event loop of its task is closed
            self._free_again(claim)

    def _free_again(self, claim: Claim) -> None:
        # Absent if it was refused, or granted in the parent of this process.
        if self._open.pop(claim, _ABSENT) is None:
            self.reserved_tokens -= claim.tokens
            self.reserved_units -= claim.units
