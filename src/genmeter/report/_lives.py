"""The lives of a counter, joined from its stored samples.

A counter begins at 0 with each process. Its increase over a window is the sum over these lives, each
of which ends with its last sample: unlike ``increase()``, nothing is extrapolated.

A life is known by its birth, the value of the series' ``_created`` sample of the same scrape. Without
births a fall begins a new life; so does the fall of another counter of the same process, since a
process loses all of its counters at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["SeriesLives"]

_SAME_BIRTH_SECONDS = 1e-3


@dataclass(slots=True)
class _Life:
    base: float
    last: float
    # The increase of earlier lives of the same birth.
    earlier: float = 0.0
    # Whether it goes on from the life before it, whose birth was corrected.
    is_continued: bool = False

    def increase(self) -> float:
        return self.last - self.base + self.earlier


class SeriesLives:
    """The lives of one series within a window.

    Args:
        since: Unix time at which the window begins.

    Attributes:
        last_at: Unix time of the last sample; that of the window's begin after `seed`.
        before: The value at the first sample of a life that began before the window, of which no
            earlier sample is stored: it is not counted, since it cannot be dated.
        undated: The value at the first sample of the first life, if its birth is unknown and it
            is counted from 0.
        ends: Of each life that ended, the times of its last sample and of the first of the next.
        alternates: Whether a birth came back after a later one: several processes take turns.
    """

    __slots__ = (
        *("_birth", "_lives", "_since", "alternates", "before", "ends", "last_at", "undated"),
    )

    def __init__(self, since: float) -> None:
        self._since = since
        self._lives: dict[float | None, _Life] = {}
        self._birth: float | None = None
        self.last_at = -math.inf
        self.before = 0.0
        self.undated = 0.0
        self.ends: list[tuple[float, float]] = []
        self.alternates = False

    def seed(self, value: float, birth: float | None = None) -> None:
        """Set the last value before the window."""
        self._lives = {birth: _Life(value, value)}
        self._birth = birth
        self.last_at = self._since

    @property
    def last(self) -> float | None:
        """The last value; None without a sample."""
        return self._lives[self._birth].last if self._lives else None

    def add(
        self,
        at: float,
        value: float,
        birth: float | None = None,
        *,
        is_restart: bool = False,
        is_dated: bool = False,
    ) -> None:
        """Add the next sample; one that is not newer than the last is ignored.

        Args:
            at: Unix time.
            value: The counter's value.
            birth: Unix time at which the life began; None is unknown.
            is_restart: Without a birth: whether the process is known to have restarted since the
                last sample.
            is_dated: Without a birth: whether the process is known to have been scraped before,
                without this series, so that the first value is of the window.
        """
        if at <= self.last_at:
            return
        if not self._lives:
            self._begin_first(value, birth, is_dated=is_dated)
        elif birth is None:
            # From a sample of 0, as some servers store at a birth, it makes no difference.
            last = self._lives[self._birth].last
            if value < last or (is_restart and last):
                self._begin(at, value, None)
            else:
                self._lives[self._birth].last = value
        else:
            self._add_born(at, value, birth)
        self.last_at = at

    def increase(self) -> float:
        """Return what all lives counted in the window."""
        return math.fsum(life.increase() for life in self._lives.values())

    def _begin_first(self, value: float, birth: float | None, *, is_dated: bool) -> None:
        if birth is None and not is_dated:
            self.undated = value
        self._lives = {birth: _Life(self._base(value, birth), value)}
        self._birth = birth

    def _base(self, value: float, birth: float | None) -> float:
        """Return the base of a life whose first sample this is."""
        if birth is None or birth >= self._since:
            return 0.0
        self.before += value
        return value

    def _begin(self, at: float, value: float, birth: float | None) -> None:
        self.ends.append((self.last_at, at))
        ended = self._lives.pop(birth, None)
        base = self._base(value, birth) if ended is None else 0.0
        self._lives[birth] = _Life(base, value, ended.increase() if ended else 0.0)
        self._birth = birth

    def _add_born(self, at: float, value: float, birth: float) -> None:
        current = self._lives[self._birth]
        if self._birth is not None and abs(birth - self._birth) < _SAME_BIRTH_SECONDS:
            birth = self._birth
        if birth == self._birth:
            if value < current.last:
                self._begin(at, value, birth)
            else:
                current.last = value
        elif birth in self._lives:
            self._come_back(at, value, birth)
        elif value >= current.last and self._corrects(birth):
            self._lives[birth] = _Life(current.last, value, is_continued=True)
            self._birth = birth
        else:
            self._begin(at, value, birth)

    def _corrects(self, birth: float) -> bool:
        """Return whether an unknown birth may be that of the current life."""
        if self._birth is None:  # samples without births, and now with births
            return birth <= self.last_at
        # A process of the job that was born earlier has published later.
        return birth < self._birth

    def _come_back(self, at: float, value: float, birth: float) -> None:
        """Go on with an earlier life: several processes answer in turn."""
        self.alternates = True
        current, known = self._lives[self._birth], self._lives[birth]
        if current.is_continued:  # it is a life of its own after all
            current.is_continued, current.base = False, 0.0
        self._birth = birth
        if value < known.last:
            self._begin(at, value, birth)
        else:
            known.last = value
