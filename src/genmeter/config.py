"""What a monitor can be told beyond the old constructor's keywords: frozen dataclasses.

Each field declares its default, its environment variable (where it has one) and its help once;
:func:`describe_environment` and the documentation come from these declarations. Where
OpenTelemetry has a standard variable (``OTEL_*``) that one is read, by ``runtime``;
``GENMETER_*`` names only what has none.
"""

from __future__ import annotations

import difflib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Self

from genmeter.alert_settings import AlertSettings
from genmeter.config_parts import (
    EndpointConfig,
    HistoryConfig,
    JournalConfig,
    LabelLimits,
    declare,
    require_count,
)
from genmeter.custom_metric import CustomMetric, check_together
from genmeter.environment import build
from genmeter.errors import ConfigError
from genmeter.labels import MAX_LABEL, label_text
from genmeter.prices import PriceTable

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

__all__ = [
    "CustomMetric",
    "EndpointConfig",
    "HistoryConfig",
    "JournalConfig",
    "LabelLimits",
    "MonitorConfig",
    "describe_environment",
]

_logger = logging.getLogger("genmeter")
# Far from 2**63, past which one number fails every OTLP export.
_MAX_SAMPLES = 2**40


def _label(name: str, value: Any) -> str:
    """Pass a text that is fit to be a label, unchanged, so that it equals what calls name."""
    text = value.value if isinstance(value, Enum) else value
    if not isinstance(text, str) or label_text(text) != text:
        raise ConfigError(
            f"{name} is {value!r}; give a text of 1 to {MAX_LABEL} characters, without control "
            "characters, lone surrogates or spaces around them"
        )
    return str(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig:
    """All that is new against the old constructor.

    What a process shares (the meter provider, the endpoint, the label limits) is set by the first
    monitor of the process; a later one that asks for something else gets a warning.

    Raises:
        ConfigError: A value that cannot be used.
    """

    default_model: str | None = declare(
        None, "model of a call that names none", "GENMETER_DEFAULT_MODEL"
    )
    models: tuple[str, ...] = declare(
        (), "models, by commas, whose outcomes are exposed as 0 from the start", "GENMETER_MODELS"
    )
    provider: str | None = declare(
        None, "provider of a call that names none, such as openai", "GENMETER_PROVIDER"
    )
    operation: str = declare("chat", "operation of a call that names none", "GENMETER_OPERATION")
    expected_samples: int | None = declare(
        None, "samples that the job is to make", "GENMETER_EXPECTED_SAMPLES"
    )
    prices: PriceTable | None = declare(
        None,
        "USD a million tokens by model: a mapping, a JSON or TOML file, or genai-prices",
        "GENMETER_PRICES",
    )
    score_scales: Mapping[str, tuple[float, float]] = field(
        default_factory=dict,
        metadata={
            "help": "lowest and highest value of each score that is not on 0..1",
            "env": None,
        },
    )
    custom_metrics: tuple[CustomMetric, ...] = declare(
        (), "instruments of the caller's own for record_metric"
    )
    meter_provider: MeterProvider | Literal["own", "global"] = declare(
        "own", "own, global (the application's), or a MeterProvider", "GENMETER_METER_PROVIDER"
    )
    drain: Literal["thread", "inline"] = declare(
        "thread", "thread, or inline (in the caller's own call; for tests)", "GENMETER_DRAIN"
    )
    log_dir: str | os.PathLike[str] | None = declare(
        None, "folder for the journal and the log, where no log_dir is given", "GENMETER_LOG_DIR"
    )
    evaluation_events: bool = declare(
        False,
        "send each score as an OpenTelemetry event, gen_ai.evaluation.result",
        "GENMETER_EVALUATION_EVENTS",
    )
    alert_repeat_seconds: float | None = declare(
        None,
        "seconds after which an alert that still fires is sent again; None for never",
        "GENMETER_ALERT_REPEAT_SECONDS",
    )
    alerts: AlertSettings = declare(
        None,
        "AlertSettings, or a TOML file: thresholds, objective and budgets of the alerts",
        "GENMETER_ALERTS",
    )
    alertmanager_urls: tuple[str, ...] = field(
        default=(),
        repr=False,  # they may have passwords
        metadata={
            "help": "Alertmanagers, by commas, that alerts are posted to: http://host:9093",
            "env": "GENMETER_ALERTMANAGER_URL",
        },
    )
    journal: JournalConfig = field(default_factory=JournalConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)
    limits: LabelLimits = field(default_factory=LabelLimits)

    def __post_init__(self) -> None:
        """Check every field, and bring what may be given in several shapes to one."""
        if isinstance(self.models, str) or not isinstance(self.models, Sequence):
            raise ConfigError(
                f"MonitorConfig.models is {self.models!r}; give a list or tuple of names"
            )
        models = [_label(f"MonitorConfig.models[{i}]", name) for i, name in enumerate(self.models)]
        object.__setattr__(self, "models", tuple(models))
        for name in ("default_model", "provider", "operation"):
            value = getattr(self, name)
            if value is not None or name == "operation":
                object.__setattr__(self, name, _label(f"MonitorConfig.{name}", value))
        try:
            object.__setattr__(self, "prices", PriceTable.coerce(self.prices))
        except ConfigError as error:
            raise ConfigError(f"MonitorConfig.prices: {error}") from error
        try:
            object.__setattr__(self, "alerts", AlertSettings.coerce(self.alerts))
        except ConfigError as error:
            raise ConfigError(f"MonitorConfig.alerts: {error}") from error
        if self.expected_samples is not None:
            require_count(self, "expected_samples", least=0, most=_MAX_SAMPLES)
        if self.drain not in ("thread", "inline"):
            raise ConfigError(f"MonitorConfig.drain is {self.drain!r}; give 'thread' or 'inline'")
        self._check_meter_provider()
        self._check_outlets()
        for name, part in (
            ("endpoint", EndpointConfig),
            ("history", HistoryConfig),
            ("journal", JournalConfig),
            ("limits", LabelLimits),
        ):
            if not isinstance(getattr(self, name), part):
                raise ConfigError(
                    f"MonitorConfig.{name} is {getattr(self, name)!r}; give {part.__name__}(...)"
                )
        self._check_tables()

    def _check_meter_provider(self) -> None:
        if isinstance(self.meter_provider, str):
            if self.meter_provider not in ("own", "global"):
                raise ConfigError(
                    f"MonitorConfig.meter_provider is {self.meter_provider!r}; give 'own', "
                    "'global' or a MeterProvider"
                )
        elif not callable(getattr(self.meter_provider, "get_meter", None)):
            raise ConfigError(
                f"MonitorConfig.meter_provider is {self.meter_provider!r}, which has no get_meter; "
                "give 'own', 'global' or a MeterProvider"
            )

    def _check_outlets(self) -> None:
        if self.log_dir is not None and not (
            isinstance(self.log_dir, str | os.PathLike) and str(self.log_dir)
        ):
            raise ConfigError(
                f"MonitorConfig.log_dir is {self.log_dir!r}; give a folder's path, or None"
            )
        if not isinstance(self.evaluation_events, bool):
            raise ConfigError(
                f"MonitorConfig.evaluation_events is {self.evaluation_events!r}; give True or False"
            )
        repeat = self.alert_repeat_seconds
        is_number = isinstance(repeat, int | float) and not isinstance(repeat, bool)
        if repeat is not None and not (is_number and 0 < repeat < math.inf):
            raise ConfigError(
                f"MonitorConfig.alert_repeat_seconds is {repeat!r}; give seconds above 0, or None"
            )

    def _check_tables(self) -> None:
        if not isinstance(self.score_scales, Mapping):
            raise ConfigError(
                f"MonitorConfig.score_scales is {self.score_scales!r}; give a dict of score names "
                "to their lowest and highest value"
            )
        scales = {
            _label("a name in MonitorConfig.score_scales", name): _pair(name, scale)
            for name, scale in self.score_scales.items()
        }
        object.__setattr__(self, "score_scales", scales)
        rows = self.custom_metrics
        if not isinstance(rows, list | tuple) or not all(isinstance(r, CustomMetric) for r in rows):
            raise ConfigError(
                f"MonitorConfig.custom_metrics is {rows!r}; give a tuple of CustomMetric(...)"
            )
        object.__setattr__(self, "custom_metrics", tuple(rows))
        check_together(rows)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Build the configuration from ``GENMETER_*`` variables.

        Args:
            environ: Variables to read, ``os.environ`` by default. An empty one counts as unset.
            **overrides: Fields given in code; they win over the environment.

        Raises:
            ConfigError: A variable that cannot be read; the message names it.
        """
        environ = os.environ if environ is None else environ
        _warn_of_unknown(environ)
        parts: dict[str, Any] = {
            "endpoint": EndpointConfig,
            "history": HistoryConfig,
            "journal": JournalConfig,
            "limits": LabelLimits,
        }
        given = {
            name: build(part, environ, {}) for name, part in parts.items() if name not in overrides
        }
        return build(cls, environ, {**given, **overrides})


def describe_environment() -> list[tuple[str, str, str]]:
    """List the environment variables.

    Returns:
        Rows of name, default and help, in the order of their declarations.
    """
    return [
        (
            each.metadata["env"],
            str(each.default) if each.default not in (None, ()) else "",
            each.metadata["help"],
        )
        for part in (MonitorConfig, EndpointConfig, HistoryConfig, JournalConfig, LabelLimits)
        for each in fields(part)
        if each.metadata.get("env")
    ]


def _pair(name: str, scale: Any) -> tuple[float, float]:
    remedy = (
        f"MonitorConfig.score_scales[{name!r}] is {scale!r}; give the lowest and the highest "
        "value, both finite"
    )
    try:
        low, high = scale
        low, high = float(low), float(high)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(remedy) from error
    if not (low < high and math.isfinite(high - low)):
        raise ConfigError(remedy)
    return low, high


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    known = [name for name, _, _ in describe_environment()]
    for name in sorted(environ.keys() - set(known)):
        if name.startswith("GENMETER_"):
            near = difflib.get_close_matches(name, known, 1, cutoff=0.8)
            hint = f"did you mean {near[0]}?" if near else "correct or unset it"
            _logger.warning("ignoring %s: genmeter has no such variable; %s", name, hint)
