"""Settings of the alerts, from code, a TOML file or options, and the rules that result."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from genmeter.config._declare import Declared, declare
from genmeter.config.checks import (
    BOOLEAN,
    FINITE,
    NAME,
    TEXT,
    Check,
    count,
    instance_of,
    is_a,
    number,
    one_of,
    optional,
    tuple_of,
)
from genmeter.errors import ConfigError
from genmeter.events.values import UNREADABLE, safe_repr, shown
from genmeter.schema.alerts import ALERT_RULES
from genmeter.schema.metrics import INSTRUMENTS
from genmeter.schema.query import INSTANCE, JOB, Ratio, Selector, duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genmeter.schema.alerts import AlertRule, Severity
    from genmeter.schema.conditions import Base
    from genmeter.schema.query import Distributions, Histograms

__all__ = ["AlertOverride", "AlertSettings", "seconds"]

_UNITS = {"w": 604_800.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile("".join(f"(?:([0-9]{{1,15}}){unit})?" for unit in _UNITS))
_MIN, _MAX = 0.001, 366 * 86_400.0
_MAX_SUFFIX = 16  # Grafana's uids have at most 40 characters
_WINDOWS = tuple_of(number(_MIN, _MAX, what="seconds"), "a tuple of seconds", min_=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertOverride(Declared):
    """Overrides values of an alert; None keeps the default.

    Args:
        threshold: In the indicator's unit; for an alert on a budget, a multiple of the budget.
        windows: Seconds; as many windows as the alert has.
        for_: Seconds for which the condition must be active before the alert fires.
        min_samples: The minimum of a ratio's denominator.
        severity: ``critical``, ``warning`` or ``info``.
        enabled: Whether the alert exists.

    Raises:
        ConfigError: A value is invalid.
    """

    threshold: float | None = declare(None, check=optional(FINITE))
    windows: tuple[float, ...] | None = declare(None, check=optional(_WINDOWS))
    for_: float | None = declare(None, check=optional(number(0, _MAX, what="seconds")))
    min_samples: int | None = declare(None, check=optional(count(1)))
    severity: Severity | None = declare(None, check=optional(one_of("critical", "warning", "info")))
    enabled: bool = declare(True, check=BOOLEAN)

    _PREFIX = ""

    def apply(self, rule: AlertRule) -> AlertRule:
        """Return a row with the overrides.

        Raises:
            ConfigError: Number or order of the windows differ from the row's, or the row does not
                have a value that is overridden.
        """
        row = rule.condition
        is_ratio = row.indicator is not None and isinstance(row.indicator.query, Ratio)
        for name, value, has_it in (
            ("threshold", self.threshold, row.indicator is not None),
            ("min_samples", self.min_samples, is_ratio),
        ):
            if value is not None and not has_it:
                raise ConfigError(
                    f"{name} must be unset for the alert {rule.id}, got {value!r}; the alert has none"
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
_ADDRESS = Check(
    "an address that starts with http:// or https://",
    lambda value: isinstance(value, str) and re.match(r"https?://[^/\s]", value) is not None,
)
_OWN_LABELS = {label.prometheus for row in INSTRUMENTS for label in row.labels}
_VARIABLES = {"datasource", "model", "step", "traces"}  # of the dashboards
_RESERVED = _OWN_LABELS | _VARIABLES | {JOB, INSTANCE, "le", "alertname", "alertstate", "severity"}
_LABEL = Check(
    "a label of the targets, such as namespace",
    lambda value: (
        isinstance(value, str)
        and re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", value) is not None
        and value not in _RESERVED
    ),
)
_SUFFIX = Check(
    "at most 16 lower-case letters, digits and single hyphens between them",
    lambda value: (
        isinstance(value, str)
        and len(value) <= _MAX_SUFFIX
        and re.fullmatch(r"([a-z0-9]+(-[a-z0-9]+)*)?", value) is not None
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings(Declared):
    """Thresholds, objective and budgets of the alerts, and settings of the Prometheus rules.

    Args:
        objective: The share of calls that should succeed; the rest is the error budget.
        cost_budget: USD that a job may cost in 24 hours; None for no alert.
        token_budget: Tokens that a job may use in 24 hours; None for no alert.
        alerts: Overrides, by an alert's id or name.
        selector: Matchers for every query of the rules, such as ``cluster="a"``.
        jobs: Jobs that must have a target at all times.
        collectors: Scrape jobs of Collectors, whose end is reported.
        runbook_url: Address of the runbook, starting with ``http``; each alert adds its anchor.
            None for alerts without a link.
        group_by: Labels of the targets, such as ``namespace``, that every query groups by besides the
            job.
        replica_labels: Labels in which only the copies of a series differ that several servers have
            scraped, such as ``prometheus_replica``; of these copies one counts.
        histograms: ``native`` if Prometheus stores native histograms only, also converted ones, else
            ``classic``.
        distributions: ``recorded`` if the rules record the distributions of the times of each job's
            calls and chunks, and dashboards read these instead of every process's histograms: for
            hundreds of processes. ``scraped`` if not; these panels can then show single processes.
        suffix: Ends the names of recorded series, groups and dashboards, so that two renderings can
            stand side by side.

    Raises:
        ConfigError: A value is invalid.
    """

    objective: float = declare(0.99, check=number(above=0, below=1, what="a share"))
    cost_budget: float | None = declare(None, check=_BUDGET)
    token_budget: float | None = declare(None, check=_BUDGET)
    alerts: Mapping[str, AlertOverride] = declare(dict, check=_OVERRIDES)
    selector: str = declare("", check=TEXT)
    jobs: tuple[str, ...] = declare((), check=tuple_of(NAME, "a list of texts"))
    collectors: tuple[str, ...] = declare(("collector",), check=tuple_of(NAME, "a list of texts"))
    runbook_url: str | None = declare(None, check=optional(_ADDRESS))
    group_by: tuple[str, ...] = declare((), check=tuple_of(_LABEL, "a list of label names"))
    replica_labels: tuple[str, ...] = declare((), check=tuple_of(_LABEL, "a list of label names"))
    histograms: Histograms = declare("classic", check=one_of("classic", "native"))
    distributions: Distributions = declare("scraped", check=one_of("scraped", "recorded"))
    suffix: str = declare("", check=_SUFFIX)

    _PREFIX = ""

    def _check_together(self) -> None:
        self.rules()
        names = [*self.group_by, *self.replica_labels]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"group_by and replica_labels must name each label once, got {twice[0]!r} twice"
            )

    @property
    def series(self) -> Selector:
        """The series that the queries of rules and dashboards read, and how they are grouped."""
        return Selector(
            common=self.selector,
            group_by=self.group_by,
            replica_labels=self.replica_labels,
            histograms=self.histograms,
            distributions=self.distributions,
            suffix=self.suffix.replace("-", "_"),
        )

    def rules(self) -> tuple[AlertRule, ...]:
        """Return the enabled rows, with thresholds in the indicators' units.

        Raises:
            ConfigError: An override does not fit its row.
        """
        bases: dict[Base, float | None] = {
            # Decimal, since 1 - 0.99 is not quite 0.01 in binary.
            "error_budget": float(1 - Decimal(repr(float(self.objective)))),
            "cost_budget": self.cost_budget,
            "token_budget": self.token_budget,
        }
        found = []
        for row in ALERT_RULES:
            overrides = [self.alerts[key] for key in (row.name, row.id) if key in self.alerts]
            if not all(override.enabled for override in overrides):
                continue
            rule = row
            for override in overrides:
                rule = override.apply(rule)
            condition = rule.condition.configured(bases, self.jobs, self.collectors)
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
        """Return settings in which arguments of ``GenerationMonitor`` win.

        Args:
            thresholds: By the arguments' names; None keeps the setting.

        Raises:
            ConfigError: A threshold is not a finite number.
        """
        alerts = dict(self.alerts)
        for row in ALERT_RULES:
            value = None if row.argument is None else thresholds.get(row.argument)
            if value is not None:
                FINITE(str(row.argument), value)
                override = alerts.get(row.id, AlertOverride())
                alerts[row.id] = replace(override, threshold=value)
        return replace(self, alerts=alerts)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a TOML file.

        Its keys are the arguments of this class; ``[alerts.ID]`` tables have ``threshold``,
        ``window`` (such as ``"5m"``, or a list of these), ``for``, ``min_samples``, ``severity``
        and ``enabled``.

        Raises:
            ConfigError: It cannot be read, or has an invalid value.
        """
        try:
            path = str.__str__(os.fspath(path))
        except UNREADABLE:
            raise ConfigError(f"the alerts' file must be a path, got {safe_repr(path)}") from None
        try:
            table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the alerts' file {safe_repr(path)} cannot be read: {shown(error)}; correct the file or its path"
            ) from error
        try:
            return cls._from_table(table)
        except ConfigError as error:
            raise ConfigError(f"the alerts' file {safe_repr(path)}: {error}") from error

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
    def coerce(cls, value: Any) -> AlertSettings:
        """Return settings for settings, the path of a file, or None (the defaults).

        Raises:
            ConfigError: The value is invalid.
        """
        if value is None:
            return AlertSettings()
        if is_a(value, AlertSettings):
            return cast("AlertSettings", value)
        if is_a(value, str, os.PathLike):
            return cls.from_file(value)
        raise ConfigError(
            f"alerts must be AlertSettings(...) or a TOML file's path, got {safe_repr(value)}"
        )


def seconds(text: object) -> float:
    """Parse a duration in Prometheus's format, such as ``5m`` or ``1h30m``.

    Raises:
        ConfigError: The text is not a duration.
    """
    found = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if found is None:
        raise ConfigError(f"invalid duration {text!r}; use e.g. 5m, 90s or 1h30m")
    return sum(
        int(number) * size for number, size in zip(found.groups("0"), _UNITS.values(), strict=True)
    )


def _are_ordered_alike(windows: Sequence[float], row: Sequence[float]) -> bool:
    """Return whether each window is on the same side of the first as in the row, or equals it."""
    first, row_first = windows[0], row[0]
    return all(
        (window - first) * (row_window - row_first) >= 0
        for window, row_window in zip(windows, row, strict=False)
    )


def _check_distinct(rules: Sequence[AlertRule]) -> None:
    """Reject two alerts with the same labels."""
    seen: dict[tuple[object, ...], str] = {}
    for rule in rules:
        key = rule.name, rule.severity, rule.labels
        if key in seen:
            raise ConfigError(
                f"the alerts {seen[key]} and {rule.id} must differ, got {rule.name} with the "
                f"severity {rule.severity} for both; set the severity, or enabled = false, by id"
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
            texts = windows if isinstance(windows, list) else [windows]
            values["windows"] = tuple(_seconds("window", each, _MIN) for each in texts)
        if "for" in row:
            values["for_"] = _seconds("for", row["for"], 0)
        return AlertOverride(**values)
    except ConfigError as error:
        raise ConfigError(f"alerts.{key}: {error}") from error


def _seconds(name: str, text: object, min_: float) -> float:
    try:
        value = seconds(text)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    if not min_ <= value <= _MAX:
        raise ConfigError(f"{name} must be a duration from {duration(min_)} to 366d, got {text!r}")
    return value


def _only_known(where: str, table: Mapping[str, Any], known: Any) -> None:
    for name in table:
        if name not in known:
            raise ConfigError(
                f"{where}{name} is unknown; must be one of {', '.join(sorted(known))}"
            )
