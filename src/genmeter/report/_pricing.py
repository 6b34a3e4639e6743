"""Prices each event of a journal or an export, from its rows."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from genmeter.events.billing import answers_of, priced_by, spent_on
from genmeter.schema.afterimage import BILLING, PARTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genmeter.config.prices import PriceTable
    from genmeter.report.usage_table import GroupKey, UsageRow, UsageTable
    from genmeter.schema.afterimage import MetricSpec

__all__ = ["PricedEvents", "price_event"]

_MAX_OPEN = 256  # timestamps with incomplete events
_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")
_JOINED = frozenset({*_TOKENS, "cost"})


class PricedEvents:
    """Joins the rows of each event by their time and labels, and adds its cost.

    Args:
        table: The table whose unpriced models are added to.
        prices: The prices.
        is_sorted: Whether the rows of an event follow each other.
    """

    def __init__(self, table: UsageTable, prices: PriceTable, *, is_sorted: bool) -> None:
        self._table = table
        self._prices = prices
        self._max_open = _MAX_OPEN if is_sorted else math.inf
        # Of events with equal times and labels, the rows of each metric are in the same order.
        self._open: dict[float, dict[GroupKey, list[dict[str, Any]]]] = {}
        self._usage: dict[GroupKey, UsageRow] = {}

    def add(
        self,
        metric: MetricSpec,
        value: float,
        row: Mapping[str, Any],
        when: float,
        key: GroupKey,
        usage: UsageRow,
    ) -> None:
        """Add a row of an event with these labels, whose usage is summed in ``usage``."""
        self._usage[key] = usage
        if (billing := row.get(BILLING)) is not None:
            self._event(when, key, BILLING)[BILLING] = _parsed(billing)
        if metric.usage in _JOINED:
            event = self._event(when, key, metric.usage)
            event[metric.usage] = value
            event.update({name: row[name] for name in PARTS if row.get(name) is not None})

    def finish(self) -> None:
        """Price the events that are still open."""
        for events in self._open.values():
            self._close(events)
        self._open.clear()

    def _event(self, when: float, key: GroupKey, name: str) -> dict[str, Any]:
        """Return the first event of this time and these labels that lacks a row."""
        if when not in self._open and len(self._open) >= self._max_open:
            self._close(self._open.pop(next(iter(self._open))))
        events = self._open.setdefault(when, {}).setdefault(key, [])
        event = next((each for each in events if name not in each), None)
        if event is None or (name == BILLING and events and "total_tokens" in event):
            event = {"when": when}
            events.append(event)
        return event

    def _close(self, events: Mapping[GroupKey, list[dict[str, Any]]]) -> None:
        for key, each in events.items():
            for event in each:
                price_event(self._table, self._usage[key], key, event, self._prices)


def price_event(
    table: UsageTable,
    usage: UsageRow,
    key: GroupKey,
    event: Mapping[str, Any],
    prices: PriceTable,
) -> None:
    """Add the cost of an event to its row, or its model to the unpriced ones.

    Args:
        table: The table.
        usage: The row.
        key: The labels of the row.
        event: The tokens and the recorded ``cost`` by the names of their usage, the parts of tokens
            by their keywords, ``billing``, and the Unix time ``when``.
        prices: The prices.
    """
    billing = event.get(BILLING) or {}
    cost = _reported(event.get("cost"), billing)
    if cost is None:
        counts = [event.get(name) for name in _TOKENS]
        if all(count is None for count in counts):
            return
        prompt, completion, total = (None if each is None else int(each) for each in counts)
        parts = [int(event.get(name) or 0) for name in PARTS]
        answers = answers_of(
            (prompt, completion, total, parts[0], parts[1], parts[2]),
            billing,
            model=key.response_model,
        )
        price = priced_by(prices.usd, model=key.model, provider=key.provider, time=event["when"])
        cost, _, is_unpriced = spent_on(answers, price)
        if is_unpriced:
            table.unpriced.add(key.model)
        if cost is None:
            return
    usage.cost = (usage.cost or 0.0) + cost


def _reported(cost: float | None, billing: Mapping[str, Any]) -> float | None:
    """Return a recorded cost if it was reported for the call as a whole, not for single answers."""
    if not billing.get("cost_reported"):
        return None
    answers = billing.get("answers")
    of_answers = isinstance(answers, list) and any(
        isinstance(each, dict) and "cost" in each for each in answers
    )
    return None if of_answers else cost


def _parsed(billing: Any) -> dict[str, Any]:
    """Return the metadata ``billing``, which an export has as JSON text."""
    if isinstance(billing, str):
        try:
            billing = json.loads(billing)
        except ValueError:
            billing = {}
    return billing if isinstance(billing, dict) else {}
