"""Which alerts fire, and which of them are news."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from genmeter.outputs.alerts.rules import RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from genmeter.outputs.alerts.rules import AlertRule

__all__ = ["Alert", "AlertBook"]


@dataclass
class Alert:
    """What an alert handler is given.

    Attributes:
        name: Such as ``low_success_rate``.
        message: What is the matter, for a person.
        level: ``warning`` or ``error``.
        timestamp: When it was found, local time with its UTC offset.
        data: ``mean``, ``min``, ``max`` and ``count`` of the window, and the ``threshold``.
    """

    name: str
    message: str
    level: str
    timestamp: datetime
    data: dict[str, Any]


class AlertBook:
    """Keeps which alerts fire, so that each is sent once.

    An alert is sent when it starts to fire, and again only after it was resolved or after the
    repeat interval. Without a sample in the window nothing fires.

    Args:
        thresholds: By the names of the monitor's arguments; what is absent or None is the rule's
            default.
        repeat: Seconds after which an alert that still fires is sent again; None for never.
    """

    def __init__(self, thresholds: Mapping[str, float | None], repeat: float | None = None) -> None:
        self._thresholds = {rule.name: rule.threshold(thresholds) for rule in RULES}
        self._repeat = repeat
        self._sent: dict[str, float] = {}

    def evaluate(self, summarise: Callable[[str], Mapping[str, float]], now: float) -> list[Alert]:
        """Judge every rule, and give the alerts to send.

        Args:
            summarise: Gives ``mean``, ``min``, ``max`` and ``count`` of a metric over the window;
                empty, or with a count of 0, where there is no sample.
            now: Unix time in seconds.
        """
        alerts = []
        for rule in RULES:
            summary, threshold = summarise(rule.metric), self._thresholds[rule.name]
            if not summary.get("count") or not rule.holds(summary["mean"], threshold):
                self._sent.pop(rule.name, None)
            elif self._is_due(rule, now):
                self._sent[rule.name] = now
                alerts.append(_alert(rule, summary, threshold, now))
        return alerts

    def forget(self) -> None:
        """Take nothing for sent."""
        self._sent.clear()

    def _is_due(self, rule: AlertRule, now: float) -> bool:
        sent = self._sent.get(rule.name)
        return sent is None or (self._repeat is not None and now - sent >= self._repeat)


def _alert(rule: AlertRule, summary: Mapping[str, float], threshold: float, now: float) -> Alert:
    return Alert(
        name=rule.name,
        message=rule.message(summary, threshold),
        level=rule.level,
        timestamp=datetime.fromtimestamp(now, UTC).astimezone(),
        data={**summary, "threshold": threshold},
    )
