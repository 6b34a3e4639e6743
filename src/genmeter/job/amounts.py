"""The amounts of a job, as its store and its budgets exchange them."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["JobAmounts", "JobError", "StoreError"]


class JobError(Exception):
    """The other processes of the job cannot be reached; the text says why."""


class StoreError(Exception):
    """The store cannot be read or written; the text says why.

    Attributes:
        is_busy: Whether others use it, so that it may be free later.
    """

    is_busy = False


class JobAmounts(NamedTuple):
    """What is used of a job, and what is reserved.

    Args:
        tokens: Used tokens.
        usd: Used USD, of what has a price.
        reserved_tokens: Reserved tokens.
        reserved_usd: Reserved USD.
        unpriced: Models whose usage has no price, in whole or in part.
    """

    tokens: int
    usd: float
    reserved_tokens: int = 0
    reserved_usd: float = 0.0
    unpriced: tuple[str, ...] = ()

    def plus(self, other: JobAmounts) -> JobAmounts:
        """Return the amounts of this and other processes together."""
        return JobAmounts(
            self.tokens + other.tokens,
            self.usd + other.usd,
            self.reserved_tokens + other.reserved_tokens,
            self.reserved_usd + other.reserved_usd,
            tuple(dict.fromkeys((*self.unpriced, *other.unpriced))),
        )

    def with_reserved(self, tokens: int, usd: float) -> JobAmounts:
        """Return the amounts after a further reservation."""
        return self._replace(
            reserved_tokens=self.reserved_tokens + tokens, reserved_usd=self.reserved_usd + usd
        )
