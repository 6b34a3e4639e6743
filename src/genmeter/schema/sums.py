"""The sums that rules record: those that several rules read, and the distributions that panels read.

The increase of thousands of series costs far more than any arithmetic with its sum. So a counter of which
several rules read parts over the same window is summed once, with the labels that distinguish the
parts, and the rules sum that.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from genmeter.schema.indicators import INDICATORS
from genmeter.schema.query import CounterQuery, DistributionQuery, Record, duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genmeter.schema.alerts import AlertRule
    from genmeter.schema.metrics import Label
    from genmeter.schema.query import Selector

__all__ = ["DISTRIBUTION_INTERVAL", "distributions", "shared_sums"]

DISTRIBUTION_INTERVAL = "2m"
"""How often distributions are recorded, which is dear; panels of them have no shorter step."""


class _Read(NamedTuple):
    """The part of a counter that a rule reads; a recorded one has a name, and is read once."""

    where: tuple[tuple[Label, str], ...]
    by: tuple[Label, ...]
    reader: str


def shared_sums(rules: Sequence[AlertRule], selector: Selector) -> tuple[list[Record], Selector]:
    """Return the sums that several of the rules read, and the selector with which they read them.

    Args:
        rules: The rules.
        selector: The scraped series.
    """
    found: dict[tuple[CounterQuery, float], set[_Read]] = defaultdict(set)
    for rule in rules:
        reader = "" if rule.condition.is_recorded else rule.id
        for query, window in rule.condition.reads():
            found[replace(query, where=(), rows=None), window].add(
                _Read(query.where, rule.by, reader)
            )
    records, shared = [], {}
    for (query, window), reads in found.items():
        if len(reads) > 1:
            labels = _labels(query, reads)
            (record,) = query.records(labels, window, selector)
            records.append(record)
            shared[query.metric, duration(window)] = record.name
    return records, replace(selector, shared=shared)


def distributions(selector: Selector) -> list[Record]:
    """Return the records of the distributions that are recorded.

    Args:
        selector: The scraped series.
    """
    queries = [each.query for each in INDICATORS if isinstance(each.query, DistributionQuery)]
    recorded = (query.recorded(selector) for query in queries if query.is_recorded(selector))
    return [record for records in recorded for record in records]


def _labels(query: CounterQuery, reads: set[_Read]) -> list[Label]:
    """Return the labels that distinguish the parts, in the order of the instrument."""
    names = {label for read in reads for label in (*read.by, *(each for each, _ in read.where))}
    return [label for label in query.instrument.labels if label in names]
