"""What can be set of the alerts, from code, a TOML file or options; rules come out of it."""

from __future__ import annotations

import math
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from genmeter.errors import ConfigError
from genmeter.schema.alerts import ALERT_RULES
from genmeter.schema.query import Ratio, duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genmeter.schema.alerts import AlertRule, Severity
    from genmeter.schema.conditions import Base

__all__ = ["AlertOverride", "AlertSettings", "seconds"]

RUNBOOK = "docs/runbook.md"
_SEVERITIES = ("critical", "warning", "info")
_UNITS = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile("".join(f"(?:([0-9]{{1,15}}){unit})?" for unit in _UNITS))
_LEAST, _LONGEST = 0.001, 366 * 86_400.0
_MAX = sys.float_info.max


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertOverride:
    """What differs from an alert's row; None leaves the row as it is.

    Args:
        threshold: In the signal's unit; of an alert over a budget, how many times that.
        windows: Seconds, as many as the row has.
        for_: Seconds for which the condition must hold before the alert fires.
        min_samples: What a ratio's denominator must add up to.
        severity: ``critical``, ``warning`` or ``info``.
        enabled: Whether there is such an alert at all.

    Raises:
        ConfigError: A value that cannot be used.
    """

    threshold: float | None = None
    windows: tuple[float, ...] | None = None
    for_: float | None = None
    min_samples: int | None = None
    severity: Severity | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        """Check every field."""
        if self.threshold is not None:
            _number("threshold", self.threshold)
        if self.windows is not None:
            windows = self.windows
            if not isinstance(windows, tuple) or not windows:
                raise ConfigError(f"windows is {windows!r}; give a tuple of seconds")
            for window in windows:
                _number("windows", window, least=_LEAST, most=_LONGEST)
        if self.for_ is not None:
            _number("for_", self.for_, least=0, most=_LONGEST)
        least = self.min_samples
        if least is not None and (
            isinstance(least, bool) or not isinstance(least, int) or least < 1
        ):
            raise ConfigError(f"min_samples is {least!r}; give a whole number of at least 1")
        if self.severity is not None and self.severity not in _SEVERITIES:
            raise ConfigError(
                f"severity is {self.severity!r}; give one of {', '.join(_SEVERITIES)}"
            )
        if not isinstance(self.enabled, bool):
            raise ConfigError(f"enabled is {self.enabled!r}; give true or false")

    def apply(self, rule: AlertRule) -> AlertRule:
        """Give a row with what differs.

        Raises:
            ConfigError: The windows are not as many, or not in the order, as the row's; or what is
                given means nothing for the row.
        """
        row = rule.condition
        is_ratio = row.indicator is not None and isinstance(row.indicator.query, Ratio)
        for name, value, has_it in (
            ("threshold", self.threshold, row.indicator is not None),
            ("min_samples", self.min_samples, is_ratio),
        ):
            if value is not None and not has_it:
                raise ConfigError(
                    f"{name} of the alert {rule.id} is {value!r}, and that alert has none; leave it out"
                )
        windows = row.windows if self.windows is None else tuple(map(float, self.windows))
        if len(windows) != len(row.windows) or not _are_ordered_alike(windows, row.windows):
            raise ConfigError(
                f"windows of the alert {rule.id} is {list(windows)!r} seconds; give "
                f"{len(row.windows)} of them, in the order of {list(row.windows)!r}"
            )
        labels = dict(rule.labels)
        if "window" in labels:
            labels["window"] = duration(windows[0])
        condition = replace(
            row,
            threshold=float(row.threshold if self.threshold is None else self.threshold),
            windows=windows,
            min_samples=self.min_samples or row.min_samples,
        )
        return replace(
            rule,
            condition=condition,
            labels=tuple(labels.items()),
            for_=float(rule.for_ if self.for_ is None else self.for_),
            severity=self.severity or rule.severity,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """Thresholds, objectives and budgets of the alerts, and what the rules of a fleet need.

    Args:
        objective: The share of calls that is to succeed; what it leaves is the error budget.
        cost_budget: USD that a job may cost in 24 hours; None for no alert.
        token_budget: Tokens that a job may take in 24 hours; None for no alert.
        alerts: What differs from the table, by an alert's id or name.
        selector: Matchers that every query of the rules gets, such as ``cluster="a"``.
        jobs: Jobs that must have a target at all times.
        runbook_url: Address of the runbook, to which each alert adds its anchor.

    Raises:
        ConfigError: A value that cannot be used.
    """

    objective: float = 0.99
    cost_budget: float | None = None
    token_budget: float | None = None
    alerts: Mapping[str, AlertOverride] = field(default_factory=dict)
    selector: str = ""
    jobs: tuple[str, ...] = ()
    runbook_url: str = RUNBOOK

    def __post_init__(self) -> None:
        """Check every field."""
        _number("objective", self.objective)
        if not 0 < self.objective < 1:
            raise ConfigError(f"objective is {self.objective!r}; give a share between 0 and 1")
        for name in ("cost_budget", "token_budget"):
            if getattr(self, name) is not None:
                _number(name, getattr(self, name), above=0)
        for name in ("selector", "runbook_url"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; give a text")
        if not self.runbook_url:
            raise ConfigError(f"runbook_url is empty; give an address, or leave it at {RUNBOOK}")
        object.__setattr__(self, "jobs", tuple(_texts("jobs", self.jobs)))
        self._check_alerts()
        self.rules()

    def _check_alerts(self) -> None:
        if not isinstance(self.alerts, Mapping):
            raise ConfigError(
                f"alerts is {self.alerts!r}; give a mapping from an alert's id or name to "
                "AlertOverride(...)"
            )
        object.__setattr__(self, "alerts", dict(self.alerts))
        known = {key for rule in ALERT_RULES for key in (rule.id, rule.name)}
        for key, override in self.alerts.items():
            if key not in known:
                raise ConfigError(f"alerts has {key!r}; give one of {', '.join(sorted(known))}")
            if not isinstance(override, AlertOverride):
                raise ConfigError(f"alerts[{key!r}] is {override!r}; give AlertOverride(...)")

    def rules(self) -> tuple[AlertRule, ...]:
        """Give the rows as they are set: thresholds in the signals' units, nothing disabled.

        Raises:
            ConfigError: An override that does not fit its row.
        """
        bases: dict[Base, float | None] = {
            # As it is written, not as binary fractions have it: 1 - 0.99 is not quite 0.01.
            "error_budget": float(1 - Decimal(repr(float(self.objective)))),
            "cost_budget": self.cost_budget,
            "token_budget": self.token_budget,
        }
        found = []
        for row in ALERT_RULES:
            given = [self.alerts[key] for key in (row.name, row.id) if key in self.alerts]
            if not all(override.enabled for override in given):
                continue
            rule = row
            for override in given:
                rule = override.apply(rule)
            condition = rule.condition.configured(bases, self.jobs)
            if condition is None:
                continue
            if math.isinf(condition.threshold):
                base = rule.condition.base and bases[rule.condition.base]
                raise ConfigError(
                    f"threshold of the alert {rule.id} is {rule.condition.threshold!r} times "
                    f"{base!r}, which no number can hold; give less"
                )
            found.append(replace(rule, condition=condition))
        _check_distinct(found)
        return tuple(found)

    def with_thresholds(self, thresholds: Mapping[str, float | None]) -> AlertSettings:
        """Give settings in which arguments of ``GenerationMonitor`` win.

        Args:
            thresholds: By the arguments' names; None leaves what is set.

        Raises:
            ConfigError: A threshold is not a finite number.
        """
        alerts = dict(self.alerts)
        for row in ALERT_RULES:
            value = None if row.argument is None else thresholds.get(row.argument)
            if value is not None:
                _number(str(row.argument), value)
                given = alerts.get(row.id, AlertOverride())
                alerts[row.id] = replace(given, threshold=value)
        return replace(self, alerts=alerts)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a TOML file.

        Its keys are the arguments of this class; ``[alerts.ID]`` tables have ``threshold``,
        ``window`` (such as ``"5m"``, or a list of these), ``for``, ``min_samples``, ``severity``
        and ``enabled``.

        Args:
            path: The file.

        Raises:
            ConfigError: It cannot be read, or has something that cannot be used.
        """
        try:
            table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the alerts' file {str(path)!r} cannot be read: {error}; give the path of a TOML "
                "file"
            ) from error
        try:
            return cls._from_table(table)
        except ConfigError as error:
            raise ConfigError(f"the alerts' file {str(path)!r}: {error}") from error

    @classmethod
    def _from_table(cls, table: dict[str, Any]) -> Self:
        _only_known("", table, [each.name for each in fields(cls)])
        values = {**table}
        alerts = values.get("alerts", {})
        if not isinstance(alerts, dict):
            raise ConfigError(f"alerts is {alerts!r}; give tables such as [alerts.high_error_rate]")
        values["alerts"] = {key: _override(key, row) for key, row in alerts.items()}
        return cls(**values)

    @classmethod
    def coerce(cls, value: object) -> AlertSettings:
        """Take settings as they are, a path as its file, None as the defaults.

        Raises:
            ConfigError: It is nothing of that.
        """
        if value is None:
            return AlertSettings()
        if isinstance(value, AlertSettings):
            return value
        if isinstance(value, str | os.PathLike):
            return cls.from_file(value)
        raise ConfigError(f"alerts is {value!r}; give AlertSettings(...) or a TOML file's path")


def seconds(text: object) -> float:
    """Read a duration as Prometheus writes it, such as ``5m`` or ``1h30m``.

    Raises:
        ConfigError: It is none.
    """
    found = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if found is None:
        raise ConfigError(f"{text!r} is no duration; give one such as 5m, 90s or 1h30m")
    return sum(
        int(number) * size for number, size in zip(found.groups("0"), _UNITS.values(), strict=True)
    )


def _are_ordered_alike(windows: Sequence[float], row: Sequence[float]) -> bool:
    """Tell whether each window is on the same side of the first as in the row, or equals it."""
    first, row_first = windows[0], row[0]
    return all(
        (window - first) * (row_window - row_first) >= 0
        for window, row_window in zip(windows, row, strict=False)
    )


def _check_distinct(rules: Sequence[AlertRule]) -> None:
    """Refuse two alerts that nothing would tell apart."""
    seen: dict[tuple[object, ...], str] = {}
    for rule in rules:
        key = rule.name, rule.severity, rule.labels
        if key in seen:
            raise ConfigError(
                f"the alerts {seen[key]} and {rule.id} are both {rule.name} with the severity "
                f"{rule.severity}, and nothing tells them apart; set the severity, or "
                "enabled = false, by their ids"
            )
        seen[key] = rule.id


def _override(key: str, row: object) -> AlertOverride:
    if not isinstance(row, dict):
        raise ConfigError(f"alerts.{key} is {row!r}; give a table")
    known = {"threshold", "window", "for", "min_samples", "severity", "enabled"}
    _only_known(f"alerts.{key}.", row, known)
    values = {name: value for name, value in row.items() if name not in ("window", "for")}
    try:
        if "window" in row:
            windows = row["window"]
            given = windows if isinstance(windows, list) else [windows]
            values["windows"] = tuple(_seconds("window", each, _LEAST) for each in given)
        if "for" in row:
            values["for_"] = _seconds("for", row["for"], 0)
        return AlertOverride(**values)
    except ConfigError as error:
        raise ConfigError(f"alerts.{key}: {error}") from error


def _seconds(name: str, text: object, least: float) -> float:
    try:
        value = seconds(text)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    if not least <= value <= _LONGEST:
        raise ConfigError(f"{name} is {text!r}; give a duration from {duration(least)} to 366d")
    return value


def _only_known(where: str, table: Mapping[str, Any], known: Any) -> None:
    for name in table:
        if name not in known:
            raise ConfigError(f"{where}{name} is unknown; give one of {', '.join(sorted(known))}")


def _texts(name: str, value: object) -> list[str]:
    if not isinstance(value, list | tuple) or not all(
        isinstance(each, str) and each for each in value
    ):
        raise ConfigError(f"{name} is {value!r}; give a list of texts that are not empty")
    return list(value)


def _number(
    name: str, value: Any, *, least: float = -_MAX, most: float = _MAX, above: float = -math.inf
) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and least <= value <= most and value > above:
        return
    if above > -math.inf:
        span = f"a finite number above {above:g}"
    else:
        span = "a finite number" if least == -_MAX else f"a number from {least:g} to {most:g}"
    raise ConfigError(f"{name} is {value!r}; give {span}")
