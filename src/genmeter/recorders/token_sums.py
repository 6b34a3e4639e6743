"""Tokens by model: exact since the start, and summed over a ring's rows for a window."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from genmeter.recorders.columns import kept_since
from genmeter.recorders.flags import ANY_TOKENS, GENERATION, INFERENCE
from genmeter.recorders.sums import sum_by_label

if TYPE_CHECKING:
    import numpy.typing as npt

    from genmeter.recorders.columns import Ring
    from genmeter.recorders.names import Names

__all__ = ["TokenSums", "TokenTotals", "Tokens"]

_COLUMNS = ("input", "output", "total", "cache_read", "cache_write", "reasoning")


class Tokens(NamedTuple):
    """Tokens of one model; ``calls`` are its calls, failed ones too, and evaluations with tokens."""

    input: int = 0
    output: int = 0
    total: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    calls: int = 0


class TokenTotals(NamedTuple):
    """Tokens of each model that reported any.

    Attributes:
        by_model: By the model's name.
        kept_since: From when on (Unix time, seconds), where that is later than asked.
    """

    by_model: dict[str, Tokens]
    kept_since: float | None


class TokenSums:
    """The tokens of one history.

    Args:
        calls: The ring of calls and evaluations.
        names: What the numbers in its label columns stand for.
    """

    def __init__(self, calls: Ring, names: Names) -> None:
        self._calls = calls
        self._names = names
        self._totals: dict[str, list[int]] = {}
        self._reported: set[str] = set()

    def add(self, model: str, tokens: tuple[int, ...], flags: int) -> None:
        """Add a call, a conversation or an evaluation, if it counts.

        Args:
            model: Its model.
            tokens: Six counts, in the order of :class:`Tokens`.
            flags: Those of its row.
        """
        if flags & ANY_TOKENS:
            self._reported.add(model)
        elif (flags & INFERENCE) != GENERATION:
            return
        row = self._totals.get(model)
        if row is None:
            row = self._totals[model] = [0] * 7
        row[0] += tokens[0]
        row[1] += tokens[1]
        row[2] += tokens[2]
        row[3] += tokens[3]
        row[4] += tokens[4]
        row[5] += tokens[5]
        row[6] += 1

    def totals(self, since: float | None = None) -> TokenTotals:
        """Sum the tokens by model.

        Args:
            since: Unix time in seconds; None means since the start, which is exact for ever.
        """
        if since is None:
            totals = {model: Tokens(*self._totals[model]) for model in self._reported}
            return TokenTotals(totals, None)
        time, model, flags = self._calls.columns("time", "model", "flags")
        recent = time >= since
        has_tokens = recent & ((flags & ANY_TOKENS) != 0)
        chosen = has_tokens | (recent & ((flags & INFERENCE) == GENERATION))
        names = self._names.names
        sums = sum_by_label(model, self._calls.columns(*_COLUMNS), chosen, len(names))
        has_any: npt.NDArray[np.bool_] = sums[:-1].max(axis=0) > 0
        # Sums of 0 are rare: a failed call reports no tokens, and only some report that it took 0.
        if (~has_any & (sums[-1] > 0)).any():
            has_any = np.bincount(model[has_tokens], minlength=len(names)) > 0
        by_model = {
            names[number]: Tokens(*sums[:, number].tolist()) for number in np.flatnonzero(has_any)
        }
        return TokenTotals(by_model, kept_since(self._calls, since))
