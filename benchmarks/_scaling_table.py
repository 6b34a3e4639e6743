"""The figures of scaling.py, and their tables for docs/scaling.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from _scaling_servers import ENGINES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["BEGIN", "DROPPED", "END", "RECORDED", "SHIPPED", "Cost", "Result", "tables_of"]

BEGIN = "<!-- begin of the figures: `benchmarks/scaling.py --write` writes them -->"
END = "<!-- end of the figures -->"
SHIPPED, DROPPED, RECORDED = "as shipped", "without what is dropped", "recorded distributions"
_SHOWN = 5


@dataclass
class Cost:
    """What one rule or query took.

    Attributes:
        name: The name of the alert or record, or dashboard and panel.
        expr: Its expression.
        cpu: Seconds of the server's CPU.
        took: Seconds until the response.
        a_minute: How often it is evaluated in a minute.
    """

    name: str
    expr: str
    cpu: float
    took: float
    a_minute: float = 1.0


@dataclass
class Result:
    """The figures of an engine and a size."""

    engine: str
    endpoints: int
    variant: str = SHIPPED
    series: int = 0
    written: float = 0.0  # samples a second of CPU
    scrape_cpu: float = 0.0  # seconds a minute
    memory: int = 0
    bytes_a_sample: float = 0.0
    rules: list[Cost] = field(default_factory=list)
    queries: list[Cost] = field(default_factory=list)
    live: float | None = None  # seconds of an evaluation by the server itself

    @property
    def rules_cpu(self) -> float:
        """Seconds of CPU of all rules in a minute."""
        return sum(each.cpu * each.a_minute for each in self.rules)

    @property
    def title(self) -> str:
        """What the row of a table is called."""
        return f"{self.endpoints:,}{'' if self.variant == SHIPPED else f', {self.variant}'}"

    @property
    def slowest(self) -> Cost:
        """The slowest query."""
        return max(self.queries, key=lambda each: each.cpu)


_COLUMNS: dict[str, tuple[Callable[[Result], float], str]] = {
    "series": (lambda each: each.series, ",.0f"),
    "memory, MiB": (lambda each: each.memory / 2**20, ",.0f"),
    "bytes a sample": (lambda each: each.bytes_a_sample, ".2f"),
    "samples written a CPU second": (lambda each: each.written, ",.0f"),
    "scrapes, CPU s a minute": (lambda each: each.scrape_cpu, ".2f"),
    "rules, CPU s a minute": (lambda each: each.rules_cpu, ".2f"),
    "slowest query, CPU s": (lambda each: each.slowest.cpu if each.queries else 0.0, ".2f"),
}
_FITTED = (
    "memory, MiB",
    "scrapes, CPU s a minute",
    "rules, CPU s a minute",
    "slowest query, CPU s",
)


def tables_of(results: Sequence[Result]) -> str:
    """Return the table of all figures, their fits, and the slowest rules and queries."""
    return "\n".join(line for table in (_figures, _fits, _slowest) for line in table(results))


def _figures(results: Sequence[Result]) -> Iterator[str]:
    yield f"| engine | endpoints | {' | '.join(_COLUMNS)} |"
    yield f"| --- | --- |{' ---: |' * len(_COLUMNS)}"
    for each in results:
        cells = (f"{figure(each):{form}}" for figure, form in _COLUMNS.values())
        yield f"| {ENGINES[each.engine].title} | {each.title} | {' | '.join(cells)} |"
    yield ""


def _fits(results: Sequence[Result]) -> Iterator[str]:
    """Yield the straight lines through the sizes, by least squares."""
    yield f"| engine, fitted | {' | '.join(_FITTED)} |"
    yield f"| --- |{' --- |' * len(_FITTED)}"
    for engine in dict.fromkeys(each.engine for each in results):
        measured = [each for each in results if each.engine == engine and each.variant == SHIPPED]
        if len(measured) > 1:
            sizes = np.array([each.endpoints for each in measured]) / 100
            cells = []
            for name in _FITTED:
                figure, form = _COLUMNS[name]
                slope, constant = np.polyfit(sizes, [figure(each) for each in measured], 1)
                cells.append(f"{constant:{form}} + {slope:{form}} per 100 endpoints")
            yield f"| {ENGINES[engine].title} | {' | '.join(cells)} |"
    yield ""


def _slowest(results: Sequence[Result]) -> Iterator[str]:
    largest = max(each.endpoints for each in results)
    yield f"| engine | slowest with {largest:,} endpoints | CPU s |"
    yield "| --- | --- | ---: |"
    for result in results:
        if result.endpoints == largest and result.variant != DROPPED:
            title = ENGINES[result.engine].title
            if result.variant != SHIPPED:
                title = f"{title}, {result.variant}"
            for kind, costs in (("rule", result.rules), ("query", result.queries)):
                by_name: dict[str, Cost] = {}
                for each in sorted(costs, key=lambda each: -each.cpu):
                    by_name.setdefault(each.name, each)
                for each in list(by_name.values())[:_SHOWN]:
                    yield f"| {title} | {kind} {each.name} | {each.cpu:.2f} |"
            if result.live is not None:
                yield f"| {title} | all rules, as it evaluates them itself: time, in s | {result.live:.2f} |"
    yield ""
