"""What was spent from a budget and is reserved in it: state of the drain.

Only the pipeline's owner uses an :class:`Account`, in order with the events, so it needs no lock. The
end of a reservation is posted behind the events of its block, so that their usage counts before the
reserved amount is free again: never too little is counted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.errors import (
    BudgetAmount,
    BudgetError,
    BudgetExceededError,
    BudgetLimit,
    BudgetTimeoutError,
    UnpricedModelError,
    UsageUnreadError,
)
from genmeter.events.model import Evaluation, Generation
from genmeter.events.values import OTHER, label_text, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["MAX_USD", "Account", "Claim", "Terms"]

MAX_USD = 1e15
"""Largest amount in USD, more than there is in the world; a larger cost counts as this one."""

_UNITS = 10**12  # of a USD; integers, so that sums depend on no order and leave no remainder
_PER_MILLION = 10**6
_SHOWN_MODELS = 5
_ABSENT = object()
_AFTER_SHUTDOWN = "after_shutdown"


class Terms(NamedTuple):
    """The arguments of a budget, checked."""

    limit: BudgetLimit
    step: str | None
    tags: Mapping[str, Any]
    max_unread: int | None
    unpriced: float | None  # USD per million tokens

    def __str__(self) -> str:
        scope = "" if self.step is None else f" for the step {self.step!r}"
        if self.tags:
            scope += f" for {', '.join(f'{key}={shown(each)}' for key, each in self.tags.items())}"
        return f"{self.limit}{scope}"

    def match(self, event: Generation | Evaluation) -> bool:
        """Return whether an event counts."""
        step = event.call.step
        if step == OTHER:  # past the limit of the label's values
            step = _raw_step(event.raw_kwargs)
        if self.step is not None and step != self.step:
            return False
        if not self.tags:
            return True
        metadata = event.raw_kwargs.get("metadata")
        return type(metadata) is dict and all(
            metadata.get(key, _ABSENT) == value for key, value in self.tags.items()
        )


class Claim:
    """One use of a reservation: waiting, then granted or refused.

    Args:
        tokens: Tokens to reserve.
        usd: USD to reserve.
        wake: Called once, by the owner, when it is settled; raises RuntimeError if nobody waits any
            more.

    Attributes:
        units: The USD as an integer.
        error: Why it was refused; None if it was granted.
        is_settled: Whether it was granted or refused.
    """

    __slots__ = ("error", "is_settled", "tokens", "units", "usd", "wake")

    def __init__(self, tokens: int, usd: float, wake: Callable[[], object]) -> None:
        self.tokens = tokens
        self.usd = usd
        self.units = _units(usd)
        self.wake = wake
        self.error: BudgetError | None = None
        self.is_settled = False

    def raise_if_refused(self) -> None:
        """Raise the error."""
        error, self.error = self.error, None  # a traceback refers to this claim
        if error is not None:
            raise error


class Account:
    """What was spent from a budget and is reserved in it. Only the pipeline's owner uses it.

    Args:
        terms: The budget's terms.
        epoch: Number of forks that led to its process.
    """

    def __init__(self, terms: Terms, epoch: int) -> None:
        self._terms = terms
        self.epoch = epoch
        tokens, usd = terms.limit
        self._max_tokens = math.inf if tokens is None else tokens
        self._max_units = math.inf if usd is None else _units(usd)
        self._tokens = self._units = 0
        self._reserved_tokens = self._reserved_units = 0
        self._open: dict[Claim, None] = {}
        self._waiting: dict[Claim, None] = {}
        self._smallest = self._largest = (0, 0)  # bounds of the amounts of waiting claims
        self._unread = 0
        self._last_unread = ("", "")  # its reason and its model
        self._unpriced: dict[str, None] = {}

    # --- what was used ---------------------------------------------------------------------------

    def add(self, event: Generation | Evaluation) -> None:
        """Count an event."""
        cost, total = event.cost, event.total_tokens
        self._tokens += total or 0
        if cost is not None:
            self._units += _units(cost)
        if event.unpriced or (cost is None and total):
            self._add_unpriced(event.call.model, total or 0)
        if type(event) is Generation:
            self._note_usage(event)
        self._settle()

    def refuse_event(self) -> None:
        """Count a call after the shutdown of the monitor, which is not recorded."""
        self._unread += 1
        self._last_unread = (_AFTER_SHUTDOWN, "unknown")
        self._settle()

    def _add_unpriced(self, model: str, tokens: int) -> None:
        if self._terms.unpriced is None:
            self._unpriced[model] = None
        else:
            self._units += _units(self._terms.unpriced * tokens / _PER_MILLION)

    def _note_usage(self, event: Generation) -> None:
        # A budget of USD alone needs no more than the cost that a provider reported.
        is_enough = self._terms.limit.tokens is None and event.cost is not None
        if event.unread is not None and not is_enough:
            self._unread += 1
            self._last_unread = (event.unread, event.call.model)
        elif event.total_tokens is not None or is_enough:
            self._unread = 0

    @property
    def spent(self) -> BudgetAmount:
        """What was used."""
        return BudgetAmount(self._tokens, _usd(self._units))

    @property
    def reserved(self) -> BudgetAmount:
        """What is reserved."""
        return BudgetAmount(self._reserved_tokens, _usd(self._reserved_units))

    @property
    def left(self) -> BudgetLimit:
        """What is neither used nor reserved, at least 0."""
        tokens, usd = self._terms.limit
        free_tokens, free_units = self._free()
        return BudgetLimit(
            None if tokens is None else max(0, int(free_tokens)),
            None if usd is None else _usd(max(0, int(free_units))),
        )

    # --- whether there is room -------------------------------------------------------------------

    def problem(self) -> BudgetError | None:
        """Return why no further call may begin; None if there is room."""
        if self._tokens >= self._max_tokens or self._units >= self._max_units:
            return self._error(BudgetExceededError, f"budget of {self._terms} is spent")
        unknown = self._unknown()
        if unknown is not None:
            return unknown
        if min(self._free()) <= 0:
            return self._error(BudgetExceededError, f"budget of {self._terms} has no room now")
        return None

    def _free(self) -> tuple[float, float]:
        return (
            self._max_tokens - self._tokens - self._reserved_tokens,
            self._max_units - self._units - self._reserved_units,
        )

    def _unknown(self) -> BudgetError | None:
        """Return why it is not known what was used; None if it is."""
        limit, most = self._terms.limit, self._terms.max_unread
        if most is not None and self._unread >= most:
            reason, model = self._last_unread
            text = (
                f"budget of {self._terms} cannot be kept: the usage of {self._unread:,} calls in a "
                "row is unknown, "
            )
            if reason == _AFTER_SHUTDOWN:
                text += "since the monitor is shut down; use one that is open"
            else:
                text += (
                    f"the last one of {model} ({reason}); pass the response or its usage to usage() "
                    "of the call, or the counts to track_generation (max_unread=None counts such "
                    "calls as 0)"
                )
            return UsageUnreadError(
                text, self.spent, self.reserved, limit, self._unread, reason, model
            )
        if limit.usd is not None and self._unpriced:
            models = tuple(self._unpriced)
            more = len(models) - _SHOWN_MODELS
            names = ", ".join(models[:_SHOWN_MODELS]) + (f" and {more} more" if more > 0 else "")
            text = (
                f"budget of {self._terms} cannot be kept: no price for {names}; set "
                "MonitorConfig(prices=...) or GENMETER_PRICES, record the reported cost=, or set the "
                "price to assume with unpriced_usd_per_million="
            )
            return UnpricedModelError(text, self.spent, self.reserved, limit, models)
        return None

    def _error(self, kind: type[BudgetExceededError], what: str) -> BudgetExceededError:
        limit, spent, reserved = self._terms.limit, self.spent, self.reserved
        if limit.usd is None:
            amounts = f"{spent.tokens:,} used, {reserved.tokens:,} reserved"
        elif limit.tokens is None:
            used, kept = (BudgetLimit(None, each.usd) for each in (spent, reserved))
            amounts = f"{used} used, {kept} reserved"
        else:
            amounts = f"{spent} used; {reserved} reserved"
        return kind(f"{what}: {amounts}", spent, reserved, limit)

    # --- reservations ----------------------------------------------------------------------------

    def request(self, claim: Claim) -> None:
        """Grant or refuse a claim, or let it wait."""
        refusal = self._refusal(claim)
        if refusal is not None or self._fits(claim.tokens, claim.units):
            self._answer(claim, refusal)
        else:
            self._wait(claim)

    def expire(self, claim: Claim, timeout: float) -> None:
        """Refuse a claim that waited long enough."""
        self._settle()
        if claim in self._waiting:
            what = f"no room for {self._shown(claim)} within {timeout:g} s in"
            text = f"{what} the budget of {self._terms}"
            self._answer(claim, self._error(BudgetTimeoutError, text))

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
            refusal = self._refusal(claim)
            if refusal is not None or self._fits(claim.tokens, claim.units):
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
            self._fits(*self._smallest)
            or self._exceeds(*self._largest)
            or self._unknown() is not None
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
            self._reserved_tokens += claim.tokens
            self._reserved_units += claim.units
        claim.error = refusal
        claim.is_settled = True
        try:
            claim.wake()
        except RuntimeError:  # the event loop of its task is closed
            self._free_again(claim)

    def _free_again(self, claim: Claim) -> None:
        # Absent if it was refused, or granted in the parent of this process.
        if self._open.pop(claim, _ABSENT) is None:
            self._reserved_tokens -= claim.tokens
            self._reserved_units -= claim.units

    def _fits(self, tokens: int, units: int) -> bool:
        """Return whether an amount fits now."""
        free_tokens, free_units = self._free()
        return tokens <= free_tokens and units <= free_units

    def _exceeds(self, tokens: int, units: int) -> bool:
        """Return whether an amount cannot fit, even if nothing is reserved."""
        return self._tokens + tokens > self._max_tokens or self._units + units > self._max_units

    def _refusal(self, claim: Claim) -> BudgetError | None:
        """Return why a claim cannot be granted, however long it waits."""
        if self._exceeds(claim.tokens, claim.units):
            what = f"no room for {self._shown(claim)} in the budget of {self._terms}"
            return self._error(BudgetExceededError, what)
        return self._unknown()

    def _shown(self, claim: Claim) -> str:
        limit = self._terms.limit
        return str(
            BudgetLimit(
                None if limit.tokens is None else claim.tokens,
                None if limit.usd is None else claim.usd,
            )
        )


def _raw_step(keywords: Mapping[str, Any]) -> str | None:
    step, metadata = keywords.get("step"), keywords.get("metadata")
    if step is None and type(metadata) is dict:
        step = metadata.get("operation")
    return label_text(step)


def _units(usd: float) -> int:
    """Return USD as an integer; 0 for what is no amount."""
    return round(min(usd, MAX_USD) * _UNITS) if usd > 0 else 0


def _usd(units: int) -> float:
    return units / _UNITS
