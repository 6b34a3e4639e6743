"""The states of alerts: pending, firing, and due to be sent."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from genmeter.schema.query import JOB, Ratio

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from genmeter.alerting.evaluate import Finding
    from genmeter.config.alerts import AlertSettings
    from genmeter.schema.alerts import AlertRule
    from genmeter.schema.query import Group

__all__ = ["Alert", "AlertStates"]


@dataclass
class Alert:
    """An alert for a handler.

    Attributes:
        name: Such as ``low_success_rate``.
        message: A readable text; that of a resolved alert starts with ``resolved:``.
        level: ``warning`` or ``error``; ``info`` for a resolved alert.
        timestamp: Time of the evaluation: local time with its UTC offset.
        data: ``mean``, ``min``, ``max`` and ``count`` of the window, the ``threshold``, the
            ``value`` that is compared with it, and the ``group``, a dict of its labels.
        status: ``firing`` or ``resolved``.
        labels: As for Alertmanager, including ``alertname``, ``severity`` and ``job``.
        annotations: ``summary``, ``description`` and ``runbook_url``.
        starts_at: When it started to fire.
    """

    name: str
    message: str
    level: str
    timestamp: datetime
    data: dict[str, Any]
    status: Literal["firing", "resolved"] = "firing"
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    starts_at: datetime | None = None


@dataclass(slots=True)
class _State:
    """A group whose condition is active; times are Unix times in seconds."""

    finding: Finding
    active_at: float
    fired_at: float | None = None  # None while it is pending
    sent_at: float | None = None  # None if it was never sent

    def set_back(self, now: float) -> None:
        """Move future times to now, after the clock was set back.

        Otherwise the alert would stay pending until the clock catches up, and Alertmanager rejects
        an alert that ends before it starts.
        """
        self.active_at = min(self.active_at, now)
        if self.fired_at is not None:
            self.fired_at = min(self.fired_at, now)
        if self.sent_at is not None:
            self.sent_at = min(self.sent_at, now)


class AlertStates:
    """The states of all alerts, so that each is sent once.

    An alert fires after its condition has been active for its rule's ``for_``. It is sent when it
    starts to fire, again after the repeat interval, and once when it is resolved: its condition is
    no longer active, or has no data.

    Args:
        settings: The settings of the rules.
        repeat: Seconds after which a firing alert is sent again; None for never.
    """

    def __init__(self, settings: AlertSettings, repeat: float | None = None) -> None:
        self._settings = settings
        self._repeat = repeat
        self._states: dict[tuple[str, Group], _State] = {}

    def update(
        self, found: Iterable[Finding], now: float, *, job: str, has_receivers: bool
    ) -> list[Alert]:
        """Update the states and return the alerts to send.

        Args:
            found: All active conditions.
            now: Unix time in seconds.
            job: The label ``job`` of the alerts.
            has_receivers: Whether there is a handler. Alerts that fire without a handler are sent
                when there is one.
        """
        before, states = dict(self._states), {}
        for each in before.values():
            each.set_back(now)
        to_send = []
        for finding in found:
            key = finding.rule.id, finding.group
            state = before.pop(key, None) or _State(finding, now)
            state.finding = finding
            states[key] = state
            if state.fired_at is None and now - state.active_at >= finding.rule.for_:
                state.fired_at = now
            if not has_receivers:
                state.sent_at = None
            elif self._is_due(state, now):
                state.sent_at = now
                to_send.append(self._alert(state, now, job, "firing"))
        # Replace it atomically: other threads call counts().
        self._states = states
        resolved = [
            self._alert(state, now, job, "resolved")
            for state in before.values()
            if has_receivers and state.sent_at is not None
        ]
        return resolved + to_send

    def firing(self, now: float, job: str) -> list[Alert]:
        """Return all firing alerts, with ``job`` as their label."""
        return [
            self._alert(state, now, job, "firing")
            for state in self._states.values()
            if state.fired_at is not None
        ]

    def counts(self, rules: Sequence[AlertRule]) -> dict[str, int]:
        """Return the number of firing alerts by name; 0 for rules that do not fire."""
        counts = Counter(dict.fromkeys((rule.name for rule in rules), 0))
        counts.update(
            state.finding.rule.name for state in self._states.values() if state.fired_at is not None
        )
        return dict(counts)

    def forget(self) -> None:
        """Reset: no condition is active, and nothing was sent."""
        self._states = {}

    def _is_due(self, state: _State, now: float) -> bool:
        if state.fired_at is None:
            return False
        if state.sent_at is None:
            return True
        return self._repeat is not None and now - state.sent_at >= self._repeat

    def _alert(
        self, state: _State, now: float, job: str, status: Literal["firing", "resolved"]
    ) -> Alert:
        finding, rule = state.finding, state.finding.rule
        group = {
            label.prometheus: text
            for label, text in zip(rule.by, finding.group, strict=True)
            if text is not None
        }
        labels = {
            "alertname": rule.name,
            "severity": rule.severity,
            JOB: job,
            **group,
            **dict(rule.labels),
        }
        annotations = rule.annotations(self._settings.runbook_url, labels, finding.value)
        message = annotations["description"] + _sample_note(finding)
        is_resolved = status == "resolved"
        return Alert(
            name=rule.id,
            message=f"resolved: {message}" if is_resolved else message,
            level="info" if is_resolved else rule.level,
            timestamp=_local(now),
            data={
                "mean": finding.mean,
                "min": finding.min,
                "max": finding.max,
                "count": finding.rows,
                "threshold": rule.condition.limit,
                "value": finding.value,
                "group": group,
            },
            status=status,
            labels=labels,
            annotations=annotations,
            starts_at=None if state.fired_at is None else _local(state.fired_at),
        )


def _sample_note(finding: Finding) -> str:
    """Return the number of samples and the group, as the end of a message."""
    indicator = finding.rule.condition.indicator
    parts = []
    if indicator is not None and isinstance(indicator.query, Ratio):
        parts.append(f"{finding.rows} {'sample' if finding.rows == 1 else 'samples'}")
    names = [text for text in finding.group if text is not None]
    if names:
        parts.append(", ".join(names))
    return f" ({' of '.join(parts)})" if parts else ""


def _local(when: float) -> datetime:
    return datetime.fromtimestamp(when, UTC).astimezone()
