"""What adds up over time: how Prometheus sums it, and which rows of a history are the same.

A term is the one place that knows both: the series of an instrument with its matchers, and the
rows that a monitor's history keeps of the same events. Signals are made of terms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from genmeter.schema.metrics import PHASE, Instrument, Label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "JOB",
    "CounterQuery",
    "GaugeQuery",
    "HistoryQuery",
    "RowCondition",
    "Selector",
    "duration",
    "quoted",
]

JOB = "job"
"""The label by which every query of ours keeps jobs apart."""

RowCondition = Literal[
    "inference",
    "evaluation",
    "success",
    "failure",
    "turns_known",
    "duration_known",
    "input_known",
    "output_known",
    "total_known",
    "priced",
    "unpriced",
    "finish_known",
    "truncated",
    "on_scale",
    "rejected",
]
"""What a row of a history can be asked; :mod:`genmeter.history.windows` has the answers."""

TRUNCATED = ("length", "max_tokens")
"""The finish reasons of a completion that was cut off."""

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def duration(seconds: float) -> str:
    """Write seconds as Prometheus does, in the largest unit that divides them: ``5m``, ``90s``."""
    milliseconds = round(seconds * 1_000)
    if not milliseconds:
        return "0s"
    for unit, size in _UNITS:
        if milliseconds % (size * 1_000) == 0:
            return f"{milliseconds // (size * 1_000)}{unit}"
    return f"{milliseconds}ms"


def quoted(text: str) -> str:
    """Write a text as a PromQL string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Rows of a history, and what is summed over them.

    Args:
        ring: Which of the history's rings.
        having: What holds of each row.
        column: The column that is summed; None counts the rows.
        by_minute: The column of the history's sums by the minute that has the same over all rows,
            for windows that reach further back than the ring does.
    """

    ring: Literal["calls", "scores", "samples"]
    having: tuple[RowCondition, ...] = ()
    column: str | None = None
    by_minute: Literal["calls", "successes", "failures", "tokens", "cost"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which series a query looks at.

    Args:
        common: Matchers for all of them, as PromQL has them within braces, without these.
        by_label: Matchers such as ``=~"$model"`` for instruments that have the label.
    """

    common: str = ""
    by_label: Mapping[Label, str] = field(default_factory=dict)

    def matchers(self, labels: Sequence[Label]) -> list[str]:
        """Give the matchers for series with these labels."""
        known = [
            f"{label.prometheus}{matcher}"
            for label, matcher in self.by_label.items()
            if label in labels
        ]
        return [*([self.common] if self.common else []), *known]


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterQuery:
    """Something that adds up: increments of a counter, or the sum or count of a histogram.

    Args:
        instrument: Whose series.
        part: Of a histogram: its sum, its count, or its buckets, which keep ``le`` where that is
            among the labels that a query keeps.
        where: Matchers, by label; of an instrument with a phase, ``genmeter_phase`` is matched in
            any case, since its name may be another instrumentation's too.
        rows: The same in a history; None where histories do not keep it.
    """

    instrument: Instrument
    part: Literal["", "_sum", "_count", "_bucket"] = ""
    where: tuple[tuple[Label, str], ...] = ()
    rows: HistoryQuery | None = None

    def series(self, selector: Selector) -> str:
        """Write the series as a PromQL selector."""
        matched = [f"{label.prometheus}{matcher}" for label, matcher in self.where]
        is_shared = PHASE in self.instrument.labels
        if is_shared and not any(label is PHASE for label, _ in self.where):
            matched.insert(0, f'{PHASE.prometheus}!=""')
        matched += selector.matchers(self.instrument.labels)
        braces = f"{{{','.join(matched)}}}" if matched else ""
        return f"{self.instrument.prometheus}{self.part}{braces}"

    def promql(
        self,
        by: Sequence[str],
        window: str,
        selector: Selector,
        function: Literal["increase", "rate"] = "increase",
    ) -> str:
        """Write what it adds up to over a window, in PromQL.

        Args:
            by: Prometheus's names of the labels to keep.
            window: A duration such as ``5m``, or a variable of a dashboard.
            selector: Which series.
            function: ``rate`` gives it per second.
        """
        grouped = f"sum by ({', '.join(by)})" if by else "sum"
        return f"{grouped} ({function}({self.series(selector)}[{window}]))"


@dataclass(frozen=True, slots=True, kw_only=True)
class GaugeQuery(CounterQuery):
    """Something that stands at a value: the last of each series within a window.

    Args:
        aggregation: What becomes of the series of a group.
    """

    aggregation: Literal["sum", "max"] = "sum"

    def promql(
        self,
        by: Sequence[str],
        window: str,
        selector: Selector,
        function: Literal["increase", "rate"] = "increase",  # noqa: ARG002 - a term has it
    ) -> str:
        """Write where it stands, in PromQL; ``function`` means nothing here."""
        grouped = f"{self.aggregation} by ({', '.join(by)})" if by else self.aggregation
        return f"{grouped} (last_over_time({self.series(selector)}[{window}]))"
