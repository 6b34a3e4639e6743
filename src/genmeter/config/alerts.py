"""What can be set of the alerts, from code, a TOML file or options; rules come out of it."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from genmeter.config._declare import Declared, declare
from genmeter.config.checks import (
    BOOLEAN,
    FINITE,
    NAME,
    TEXT,
    Check,
    count,
    instance_of,
    number,
    one_of,
    optional,
    tuple_of,
)
from genmeter.errors import ConfigError
from genmeter.schema.alerts import ALERT_RULES
from genmeter.schema.query import Ratio, duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genmeter.schema.alerts import AlertRule, Severity
    from genmeter.schema.conditions import Base

__all__ = ["AlertOverride", "AlertSettings", "seconds"]

RUNBOOK = "docs/runbook.md"
_UNITS = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile("".join(f"(?:([0-9]{{1,15}}){unit})?" for unit in _UNITS))
_LEAST, _LONGEST = 0.001, 366 * 86_400.0
_WINDOWS = tuple_of(number(_LEAST, _LONGEST, what="seconds"), "a tuple of seconds", least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertOverride(Declared):
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

    threshold: float | None = declare(None, check=optional(FINITE))
    windows: tuple[float, ...] | None = declare(None, check=optional(_WINDOWS))
    for_: float | None = declare(None, check=optional(number(0, _LONGEST, what="seconds")))
    min_samples: int | None = declare(None, check=optional(count(1)))
    severity: Severity | None = declare(None, check=optional(one_of("critical", "warning", "info")))
    enabled: bool = declare(True, check=BOOLEAN)

    _PREFIX = ""

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
                    f"{name} must be unset for the alert {rule.id}, got {value!r}; that alert has none"
                )
        windows = row.windows if self.windows is None else tuple(map(float, self.windows))
        if len(windows) != len(row.windows) or not _are_ordered_alike(windows, row.windows):
            raise ConfigError(
                f"windows of the alert {rule.id} must be as many and in the same order as "
                f"{list(row.windows)!r} seconds, got {list(windows)!r}"
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


def _overrides(value: Mapping[Any, Any]) -> dict[str, AlertOverride]:
    known = one_of(*sorted({key for rule in ALERT_RULES for key in (rule.id, rule.name)}))
    override = instance_of(AlertOverride)
    return {known(f"[{key!r}]", key): override(f"[{key!r}]", each) for key, each in value.items()}


_OVERRIDES = Check(
    "a mapping from an alert's id or name to AlertOverride(...)",
    lambda value: isinstance(value, Mapping),
    _overrides,
)
_BUDGET = optional(number(above=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings(Declared):
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

    objective: float = declare(0.99, check=number(above=0, below=1, what="a share"))
    cost_budget: float | None = declare(None, check=_BUDGET)
    token_budget: float | None = declare(None, check=_BUDGET)
    alerts: Mapping[str, AlertOverride] = declare(dict, check=_OVERRIDES)
    selector: str = declare("", check=TEXT)
    jobs: tuple[str, ...] = declare((), check=tuple_of(NAME, "a list of texts"))
    runbook_url: str = declare(RUNBOOK, check=NAME)

    _PREFIX = ""

    def _check_together(self) -> None:
        self.rules()

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
                    f"threshold of the alert {rule.id} must be a finite number, got "
                    f"{rule.condition.threshold!r} times {base!r}; lower one of them"
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
                FINITE(str(row.argument), value)
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
            raise ConfigError(
                f"alerts must be tables such as [alerts.high_error_rate], got {alerts!r}"
            )
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
        raise ConfigError(f"alerts must be AlertSettings(...) or a TOML file's path, got {value!r}")


def seconds(text: object) -> float:
    """Read a duration as Prometheus writes it, such as ``5m`` or ``1h30m``.

    Raises:
        ConfigError: It is none.
    """
    found = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if found is None:
        raise ConfigError(f"invalid duration {text!r}; use e.g. 5m, 90s or 1h30m")
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
        raise ConfigError(f"alerts.{key} must be a table, got {row!r}")
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
        raise ConfigError(f"{name} must be a duration from {duration(least)} to 366d, got {text!r}")
    return value


def _only_known(where: str, table: Mapping[str, Any], known: Any) -> None:
    for name in table:
        if name not in known:
            raise ConfigError(
                f"{where}{name} is unknown; must be one of {', '.join(sorted(known))}"
            )
