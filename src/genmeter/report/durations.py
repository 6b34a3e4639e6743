"""Durations of calls: kept one by one, or as the buckets of a histogram."""

from __future__ import annotations

import math
from array import array
from typing import Self

__all__ = ["Buckets", "Durations"]


class Durations:
    """Durations in seconds, each kept (8 bytes)."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values = array("d")

    def add(self, seconds: float) -> None:
        """Keep one."""
        self._values.append(seconds)

    def merge(self, other: Self) -> None:
        """Keep those of another, too."""
        self._values.extend(other._values)

    def mean(self) -> float | None:
        """Give the mean in seconds; None without any."""
        return math.fsum(self._values) / len(self._values) if self._values else None

    def quantiles(self, shares: tuple[float, ...]) -> tuple[float | None, ...]:
        """Give quantiles in seconds, linear between neighbours; None without any."""
        import numpy as np

        if not self._values:
            return (None,) * len(shares)
        return tuple(float(each) for each in np.quantile(np.frombuffer(self._values), shares))


class Buckets:
    """A histogram of durations in seconds, as Prometheus has it."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts: dict[float, float] = {}
        self._sum = 0.0

    def add(self, bound: float, count: float) -> None:
        """Add to the count of what took ``bound`` seconds at most."""
        self._counts[bound] = self._counts.get(bound, 0.0) + count

    def add_sum(self, seconds: float) -> None:
        """Add to the sum of all durations."""
        self._sum += seconds

    def merge(self, other: Self) -> None:
        """Add another one with the same bounds."""
        for bound, count in other._counts.items():
            self.add(bound, count)
        self._sum += other._sum

    def mean(self) -> float | None:
        """Give the mean in seconds, which is exact; None without any."""
        count = self._counts.get(math.inf, 0.0)
        return self._sum / count if count else None

    def quantiles(self, shares: tuple[float, ...]) -> tuple[float | None, ...]:
        """Estimate quantiles in seconds as Prometheus's ``histogram_quantile`` does."""
        return tuple(self._quantile(share) for share in shares)

    def _quantile(self, share: float) -> float | None:
        rank = share * self._counts.get(math.inf, 0.0)
        if not rank:
            return None
        lower, below = 0.0, 0.0
        for bound, count in sorted(self._counts.items()):
            if math.isinf(bound):
                break  # of what lies above the last bound no more is known than that
            if count >= rank:
                return lower + (bound - lower) * (rank - below) / (count - below)
            lower, below = bound, count
        return lower
