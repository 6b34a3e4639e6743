"""Histories of a job at random, with texts and numbers that break pages that are not careful."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from genmeter import CustomMetric
from genmeter.errors import ConfigError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from opentelemetry.metrics import Meter

    from genmeter import GenerationMonitor

__all__ = ["RandomHistory"]

_PIECES = (
    *(
        "a",
        "m-1",
        "x" * 700,
        "\x00",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\x0b",
        "\x0c",
        "\x1b[31m",
        "\x7f",
    ),
    *('"', "'", "\\", "\\n", '\\"', "\\\\", "{", "}", ",", "=", " ", "  ", "#", "%s", "%", "%%"),
    *("\x85", "\u2028", "\u2029", "\ufeff", "\ufffe", "\uffff", "\u0301", "\u202e", "\u200b"),
    *("\ud800", "\udfff", "\udc80", "\U0001f600", "\U0010ffff", "é", "日本"),
    *('"} 1\n', "# EOF\n", "\n# TYPE x counter\n", 'le="1"', " # {} 1", "NaN", "+Inf", "1e400"),
)
_KEYS = (
    "a",
    "a.b",
    "a_b",
    "A",
    "le",
    "quantile",
    "job",
    "instance",
    "__name__",
    "1a",
    "",
    "é",
    "o t",
)
_UNITS = ("", "1", "s", "By", "{call}", "By/s", "%", "total", "ratio", "s}{", "k_", "é"[:0])
_ENDS = ("", "_total", "_created", "_bucket", "_sum", "_count", "_info", ".seconds", "_")


class RandomHistory:
    """Records at random.

    Args:
        random: The source of the numbers.
    """

    def __init__(self, random: random.Random) -> None:
        self._random = random
        # A few values for each label, so that series have more than one event.
        self._texts = [self.text() for _ in range(12)]

    # --- values ------------------------------------------------------------------------------

    def text(self) -> str:
        """Return a text: one in fifty is long, one in three of any code points."""
        random = self._random
        if random.random() < 1 / 50:
            return "x" * 1_000
        if random.random() < 1 / 3:
            return "".join(
                chr(random.randrange(sys.maxunicode + 1)) for _ in range(random.randrange(40))
            )
        return "".join(random.choice(_PIECES) for _ in range(random.randrange(1, 6)))

    def label(self) -> str | None:
        """Return one of the texts, or none."""
        return self._random.choice([None, *self._texts])

    def number(self) -> float:
        """Return a number of any size."""
        random = self._random
        return random.choice(
            (
                *(
                    0,
                    1,
                    3,
                    -1,
                    0.0,
                    -0.0,
                    0.1,
                    1 / 3,
                    5e-324,
                    1e-9,
                    1e300,
                    -1e300,
                    2**53 + 1,
                    2**63,
                ),
                *(-(2**63) - 1, 10**30, 10**400, math.inf, -math.inf, math.nan),
                random.random(),
                random.expovariate(1),
                random.randrange(100_000),
            )
        )

    def _tokens(self) -> Any:
        return self._random.choice((None, 0, 1, 7, 10**6, 2**62, 10**30, -1, 1.5, math.nan, "9"))

    # --- the monitor's own metrics -----------------------------------------------------------

    def custom_metrics(self) -> tuple[CustomMetric, ...]:
        """Return some that a configuration accepts, with odd names, units and help texts."""
        random = self._random
        rows: list[CustomMetric] = []
        series: set[str] = set()
        for _ in range(12):
            kind = random.choice(("counter", "updown", "gauge", "histogram"))
            bounds = sorted(
                {random.choice((-2.0, -0.5, 0.0, 1e-7, 1.0, 5.0, 1e21)) for _ in range(4)}
            )
            keys = random.sample(("a", "b.c", "job", "le", "x y"), random.randrange(4))
            try:
                row = CustomMetric(
                    name="".join(random.choice("aB1_.-/") for _ in range(random.randrange(1, 9)))
                    + random.choice(_ENDS),
                    kind=kind,  # type: ignore[arg-type]
                    unit=random.choice(_UNITS),
                    help=self.text(),
                    bounds=tuple(bounds) if kind == "histogram" else (),
                    labels=tuple(keys),
                )
            except ConfigError:
                continue
            names = {*row.series, row.name.lower()}
            if not names & series:
                rows.append(row)
                series |= names
        return tuple(rows)

    def record(
        self, monitor: GenerationMonitor, rows: tuple[CustomMetric, ...], count: int
    ) -> None:
        """Record events of every kind."""
        kinds: tuple[Callable[[], None], ...] = (
            lambda: self._generation(monitor),
            lambda: self._generation(monitor),
            lambda: self._call(monitor),
            lambda: self._evaluation(monitor),
            lambda: self._metric(monitor, rows),
            lambda: monitor.record_sample(self._random.random() < 0.5, self.label()),
        )
        for _ in range(count):
            self._random.choice(kinds)()

    def _generation(self, monitor: GenerationMonitor) -> None:
        monitor.track_generation(
            self.number(),
            self._random.random() < 0.7,
            model_name=self.label(),
            provider=self.label(),
            operation=self.label(),
            step=self.label(),
            finish_reason=self.label(),
            error_type=self.label(),
            modality=self.label(),
            response_model=self.label(),
            prompt_token_count=self._tokens(),
            completion_token_count=self._tokens(),
            cache_read_token_count=self._tokens(),
            reasoning_token_count=self._tokens(),
            retries=self._random.choice((None, 0, 3, [self.label()])),
            cost=self._random.choice((None, 0.25, 1e-12, math.nan)),
            turns=self._random.choice((None, 1, 10**20)),
        )

    def _call(self, monitor: GenerationMonitor) -> None:
        error = type("Odd\nError", (Exception,), {"__qualname__": self.text()})
        try:
            with monitor.generation(self.label(), self.label(), provider=self.label()):
                if self._random.random() < 0.5:
                    raise error(self.text())
        except error:
            pass

    def _evaluation(self, monitor: GenerationMonitor) -> None:
        scores = {self.label() or "score": self.number() for _ in range(3)}
        monitor.track_evaluation(
            self.number(), True, self.label() or "judge", scores, model_name=self.label()
        )

    def _metric(self, monitor: GenerationMonitor, rows: tuple[CustomMetric, ...]) -> None:
        name = self._random.choice((self.label() or "free", *(row.name for row in rows)))
        metadata = {
            key: self._random.choice((self.label(), 1, True, 0.5))
            for key in ("a", "b.c", "job", "le", "x y")
        }
        monitor.record_metric(name, self.number(), metadata)

    # --- other instruments of the same provider ----------------------------------------------

    def instrument(self, get_meter: Callable[..., Meter], count: int) -> None:
        """Record in instruments of other scopes, as other instrumentations of the process do."""
        random = self._random
        meters = [get_meter(self.text() or "scope", self.label(), self.label()) for _ in range(2)]
        records: list[Callable[[Any, Any], object]] = []
        for _ in range(10):
            meter = random.choice(meters)
            name = random.choice("abcX") + "".join(random.choice("ab1_.-/") for _ in range(4))
            name += random.choice(_ENDS)
            unit, text = random.choice(_UNITS), self.text()
            kind = random.randrange(4)
            if kind == 0:
                records.append(meter.create_counter(name, unit, text).add)
            elif kind == 1:
                records.append(meter.create_up_down_counter(name, unit, text).add)
            elif kind == 2:
                records.append(meter.create_gauge(name, unit, text).set)
            else:
                records.append(meter.create_histogram(name, unit, text).record)
        for _ in range(count):
            keys = random.sample(_KEYS, random.randrange(5))
            value = self.number()
            try:
                random.choice(records)(value, {key: self._attribute() for key in keys})
            except OverflowError:
                # The SDK cannot add an integer beyond the floats to one of them.
                assert isinstance(value, int)

    def _attribute(self) -> Any:
        return self._random.choice(
            (self.label() or "", True, 1, 0.1, math.nan, ["a", self._texts[0]], [1, 2], ())
        )
