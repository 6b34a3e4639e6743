"""What can be set of the alerts, from code, a TOML file or options; rules come out of it."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from genmeter.alert_rules import ALERT_RULES
from genmeter.errors import ConfigError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from genmeter.alert_rules import AlertRule, Severity

__all__ = ["AlertOverride", "AlertSettings"]

RUNBOOK = "docs/runbook.md"
_SEVERITIES = ("critical", "warning", "info")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = re.compile(r"(\d+)(ms|[smhdw])")
_LONGEST = 366 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertOverride:
    """What differs from an alert's row; None leaves the row as it is.

    Args:
        threshold: In the signal's unit; of an alert over a budget, how many times that.
        windows: Seconds, as many as the row has.
        pending: Seconds for which the condition must hold before the alert fires.
        min_samples: What a ratio's denominator must add up to.
        severity: ``critical``, ``warning`` or ``info``.
        enabled: Whether there is such an alert at all.

    Raises:
        ConfigError: A value that cannot be used.
    """

    threshold: float | None = None
    windows: tuple[float, ...] | None = None
    pending: float | None = None
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
                _number("windows", window, least=0.001, most=_LONGEST)
        if self.pending is not None:
            _number("pending", self.pending, least=0, most=_LONGEST)
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
            ConfigError: The number of windows is not the row's.
        """
        if self.windows is not None and len(self.windows) != len(rule.windows):
            raise ConfigError(
                f"windows of the alert {rule.id} is {list(self.windows)!r} seconds; give "
                f"{len(rule.windows)} of them"
            )
        return replace(
            rule,
            threshold=rule.threshold if self.threshold is None else self.threshold,
            windows=self.windows or rule.windows,
            pending=rule.pending if self.pending is None else self.pending,
            least=self.min_samples or rule.least,
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
                _number(name, getattr(self, name), least=1e-9)
        for name in ("selector", "runbook_url"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; give a text")
        object.__setattr__(self, "jobs", tuple(_texts("jobs", self.jobs)))
        self._check_alerts()
        self.rules()

    def _check_alerts(self) -> None:
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
        bases = {
            "error_budget": 1 - self.objective,
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
            base = 1.0 if rule.base is None else bases[rule.base]
            if base is not None and (rule.how != "target_absent" or self.jobs):
                # As it is written, not as it is computed: 1 - 0.99 is not quite 0.01.
                threshold = float(f"{rule.threshold * base:.12g}")
                found.append(replace(rule, threshold=threshold, base=None))
        return tuple(found)

    def with_thresholds(self, thresholds: Mapping[str, float | None]) -> AlertSettings:
        """Give settings in which arguments of ``GenerationMonitor`` win.

        Args:
            thresholds: By the arguments' names; None leaves what is set.
        """
        alerts = dict(self.alerts)
        for row in ALERT_RULES:
            value = None if row.argument is None else thresholds.get(row.argument)
            if value is not None:
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
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"the alerts' file {str(path)!r} cannot be read: {error}") from error
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
        if isinstance(value, str | Path):
            return cls.from_file(value)
        raise ConfigError(f"alerts is {value!r}; give AlertSettings(...) or a TOML file's path")


def seconds(text: object) -> float:
    """Read a duration as Prometheus writes it, such as ``5m`` or ``1h30m``.

    Raises:
        ConfigError: It is none.
    """
    parts = _DURATION.findall(text) if isinstance(text, str) else []
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigError(f"{text!r} is no duration; give one such as 5m, 90s or 1h30m")
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def _override(key: str, row: object) -> AlertOverride:
    if not isinstance(row, dict):
        raise ConfigError(f"alerts.{key} is {row!r}; give a table")
    known = {"threshold", "window", "for", "min_samples", "severity", "enabled"}
    _only_known(f"alerts.{key}.", row, known)
    values = {name: value for name, value in row.items() if name not in ("window", "for")}
    try:
        if "window" in row:
            window = row["window"]
            windows = window if isinstance(window, list) else [window]
            values["windows"] = tuple(seconds(each) for each in windows)
        if "for" in row:
            values["pending"] = seconds(row["for"])
        return AlertOverride(**values)
    except ConfigError as error:
        raise ConfigError(f"alerts.{key}: {error}") from error


def _only_known(where: str, table: Mapping[str, Any], known: Any) -> None:
    for name in table:
        if name not in known:
            raise ConfigError(f"{where}{name} is unknown; give one of {', '.join(sorted(known))}")


def _texts(name: str, value: object) -> list[str]:
    if not isinstance(value, list | tuple) or not all(
        isinstance(each, str) and each for each in value
    ):
        raise ConfigError(f"{name} is {value!r}; give a list of texts")
    return list(value)


def _number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and least <= value <= most):
        span = "a finite number" if least == -math.inf else f"a number from {least:g} on"
        raise ConfigError(f"{name} is {value!r}; give {span}")
