"""What a budget limits, and whether an amount that is used and reserved leaves room."""

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
from genmeter.events.values import OTHER, label_text, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from genmeter.events.model import Evaluation, Generation

__all__ = ["AFTER_SHUTDOWN", "MAX_USD", "Amounts", "Claim", "Terms", "units_of", "usd_of"]

MAX_USD = 1e15
"""Largest amount in USD, more than there is in the world; a larger cost counts as this one."""

AFTER_SHUTDOWN = "after_shutdown"
"""Why the usage of a call after the shutdown of its monitor is unknown."""

_UNITS = 10**12  # of a USD; integers, so that sums depend on no order and leave no remainder
_SHOWN_MODELS = 5
_ABSENT = object()


class Terms(NamedTuple):
    """The arguments of a budget, checked."""

    limit: BudgetLimit
    step: str | None
    tags: Mapping[str, Any]
    max_unread: int | None
    unpriced: float | None  # USD per million tokens
    is_of_job: bool = False  # whether it limits all processes together

    def __str__(self) -> str:
        scope = " of the job" if self.is_of_job else ""
        if self.step is not None:
            scope += f" for the step {self.step!r}"
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
        self.units = units_of(usd)
        self.wake = wake
        self.error: BudgetError | None = None
        self.is_settled = False

    def raise_if_refused(self) -> None:
        """Raise the error."""
        error, self.error = self.error, None  # a traceback refers to this claim
        if error is not None:
            raise error


class Amounts:
    """What is used and reserved of a budget.

    Args:
        terms: The budget's terms.

    Attributes:
        tokens: Used tokens.
        units: Used USD, as an integer.
        reserved_tokens: Reserved tokens.
        reserved_units: Reserved USD, as an integer.
        unread: Number of calls in a row whose usage is unknown.
        last_unread: Reason and model of the last one.
        unpriced: Models whose usage has no price.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        tokens, usd = terms.limit
        self._max_tokens = math.inf if tokens is None else tokens
        self._max_units = math.inf if usd is None else units_of(usd)
        self.tokens = self.units = 0
        self.reserved_tokens = self.reserved_units = 0
        self.unread = 0
        self.last_unread = ("", "")
        self.unpriced: Iterable[str] = ()

    @property
    def spent(self) -> BudgetAmount:
        """What was used."""
        return BudgetAmount(self.tokens, usd_of(self.units))

    @property
    def reserved(self) -> BudgetAmount:
        """What is reserved."""
        return BudgetAmount(self.reserved_tokens, usd_of(self.reserved_units))

    @property
    def left(self) -> BudgetLimit:
        """What is neither used nor reserved, at least 0."""
        tokens, usd = self._terms.limit
        free_tokens, free_units = self._free()
        return BudgetLimit(
            None if tokens is None else max(0, int(free_tokens)),
            None if usd is None else usd_of(max(0, int(free_units))),
        )

    # --- whether there is room -------------------------------------------------------------------

    @property
    def is_spent(self) -> bool:
        """Whether a limit is reached by what is used."""
        return self.tokens >= self._max_tokens or self.units >= self._max_units

    def problem(self) -> BudgetError | None:
        """Return why no further call may begin; None if there is room."""
        if self.is_spent:
            return self._error(BudgetExceededError, f"budget of {self._terms} is spent")
        unknown = self.unknown()
        if unknown is not None:
            return unknown
        if min(self._free()) <= 0:
            return self._error(BudgetExceededError, f"budget of {self._terms} has no room now")
        return None

    def _free(self) -> tuple[float, float]:
        return (
            self._max_tokens - self.tokens - self.reserved_tokens,
            self._max_units - self.units - self.reserved_units,
        )

    def unknown(self) -> BudgetError | None:
        """Return why it is not known what was used; None if it is."""
        limit, most = self._terms.limit, self._terms.max_unread
        if most is not None and self.unread >= most:
            reason, model = self.last_unread
            text = (
                f"budget of {self._terms} cannot be kept: the usage of {self.unread:,} calls in a "
                "row is unknown, "
            )
            if reason == AFTER_SHUTDOWN:
                text += "since the monitor is shut down; use one that is open"
            else:
                text += (
                    f"the last one of {model} ({reason}); pass the response or its usage to usage() "
                    "of the call, or the counts to track_generation (max_unread=None counts such "
                    "calls as 0)"
                )
            return UsageUnreadError(
                text, self.spent, self.reserved, limit, self.unread, reason, model
            )
        if limit.usd is not None and self.unpriced:
            models = tuple(self.unpriced)
            more = len(models) - _SHOWN_MODELS
            names = ", ".join(models[:_SHOWN_MODELS]) + (f" and {more} more" if more > 0 else "")
            text = (
                f"budget of {self._terms} cannot be kept: no price for {names}; set "
                "MonitorConfig(prices=...) or GENMETER_PRICES, "
            )
            if self._terms.is_of_job:
                text += "or record the reported cost="
            else:
                text += (
                    "record the reported cost=, or set the price to assume with "
                    "unpriced_usd_per_million="
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

    def fits(self, tokens: int, units: int) -> bool:
        """Return whether an amount fits now."""
        free_tokens, free_units = self._free()
        return tokens <= free_tokens and units <= free_units

    def exceeds(self, tokens: int, units: int) -> bool:
        """Return whether an amount cannot fit, even if nothing is reserved."""
        return self.tokens + tokens > self._max_tokens or self.units + units > self._max_units

    def refusal(self, claim: Claim) -> BudgetError | None:
        """Return why a claim cannot be granted, however long it waits."""
        if self.exceeds(claim.tokens, claim.units):
            what = f"no room for {self._shown(claim)} in the budget of {self._terms}"
            return self._error(BudgetExceededError, what)
        return self.unknown()

    def timeout_error(self, claim: Claim, timeout: float) -> BudgetError:
        """Return the error of a claim that waited for so many seconds."""
        what = f"no room for {self._shown(claim)} within {timeout:g} s in"
        return self._error(BudgetTimeoutError, f"{what} the budget of {self._terms}")

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


def units_of(usd: float) -> int:
    """Return USD as an integer; 0 for what is no amount."""
    return round(min(usd, MAX_USD) * _UNITS) if usd > 0 else 0


def usd_of(units: int) -> float:
    """Return an integer of `units_of` as USD."""
    return units / _UNITS
