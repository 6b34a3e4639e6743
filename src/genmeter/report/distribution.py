"""The distribution of durations or scores: of each value, or of the buckets of a histogram."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Distribution", "sum_histograms"]


@dataclass(slots=True)
class Distribution:
    """How values are distributed.

    Attributes:
        values: Each value, of sources that have them.
        buckets: Cumulative histogram of all other values, by upper bound.
        bucket_sum: The sum of the values in the buckets.
    """

    values: array[float] = field(default_factory=lambda: array("d"))
    buckets: Counter[float] = field(default_factory=Counter)
    bucket_sum: float = 0.0

    @classmethod
    def sum(cls, parts: Iterable[Distribution]) -> Distribution:
        """Return the distribution of the values of all parts."""
        parts, total = list(parts), cls()
        for part in parts:
            total.values.extend(part.values)
            total.bucket_sum += part.bucket_sum
        total.buckets = sum_histograms([part.buckets for part in parts if part.buckets])
        return total

    @property
    def count(self) -> int:
        """The number of values."""
        return self.buckets[math.inf] + len(self.values)

    @property
    def is_estimated(self) -> bool:
        """Whether quantiles are estimated from the buckets."""
        return bool(self.buckets[math.inf])

    def mean(self) -> float | None:
        """Return the mean; None without any value."""
        return (self.bucket_sum + math.fsum(self.values)) / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """Return a quantile; None without any value.

        It is interpolated linearly; a histogram's is estimated like Prometheus's
        ``histogram_quantile``.
        """
        import numpy as np

        values = np.frombuffer(self.values) if self.values else np.empty(0)
        if not self.buckets[math.inf]:
            return float(np.quantile(values, share)) if values.size else None
        bounds = sorted(self.buckets)
        added = np.searchsorted(np.sort(values), bounds, side="right")
        counts = [
            self.buckets[bound] + int(more) for bound, more in zip(bounds, added, strict=True)
        ]
        rank = share * counts[-1]
        lower, below = 0.0, 0
        for bound, count in zip(bounds, counts, strict=True):
            if math.isinf(bound):
                break  # beyond the last finite bound nothing is known
            if count >= rank:
                return lower + (bound - lower) * (rank - below) / (count - below)
            lower, below = bound, count
        return lower


def sum_histograms(histograms: Sequence[Counter[float]]) -> Counter[float]:
    """Sum cumulative histograms, whose bounds may differ between jobs."""
    total: Counter[float] = Counter()
    if len({frozenset(each) for each in histograms}) <= 1:
        for each in histograms:
            total.update(each)
        return total
    for each in histograms:
        below = 0
        for bound, count in sorted(each.items()):
            total[bound] += count - below
            below = count
    below = 0
    for bound in sorted(total):
        below = total[bound] = total[bound] + below
    return total
