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
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Self

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
    "LabelLimits",
    "MonitorConfig",
    "describe_environment",
]

_logger = logging.getLogger("genmeter")
_MAX_PORT = 65_535
# The sums of a window are 64-bit: 2**21 events of at most 2**41 tokens (a total of two parts of
# 2**40 each) stay below 2**63.
_MAX_CAPACITY = 2**21
# The history numbers the values of all labels with 16 bits.
_MAX_LABEL_VALUES = 5_000
# Far from 2**63, past which one number fails every OTLP export.
_MAX_SAMPLES = 2**40


def _declare(default: Any, help_: str, env: str | None = None) -> Any:
    return field(default=default, metadata={"help": help_, "env": env})


def _require_count(owner: object, name: str, *, least: int, most: int | None = None) -> None:
    value = getattr(owner, name)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{type(owner).__name__}.{name} is {value!r}; give a whole number {span}")


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
class EndpointConfig:
    """The scrape endpoint.

    It is on by default (``OTEL_METRICS_EXPORTER`` has ``prometheus`` unless it is set to
    something else), listens on 127.0.0.1:9464 and is bound at the first event, in the main
    process only. With ``enabled=True``, a ``host`` or a ``port`` given in code it is bound at
    construction, and an address that is taken is an error there.

    Raises:
        ConfigError: A value that cannot be used.
    """

    enabled: bool | None = _declare(None, "listen; None leaves it to OTEL_METRICS_EXPORTER")
    host: str | None = _declare(
        None, "interface; None leaves it to OTEL_EXPORTER_PROMETHEUS_HOST, else 127.0.0.1"
    )
    port: int | None = _declare(
        None,
        "TCP port, 0 for any free one; None leaves it to OTEL_EXPORTER_PROMETHEUS_PORT, else 9464",
    )
    certfile: str | None = _declare(
        None, "PEM file of the TLS certificate chain", "GENMETER_ENDPOINT_CERTFILE"
    )
    keyfile: str | None = _declare(
        None,
        "PEM file of the TLS private key, where certfile does not hold it",
        "GENMETER_ENDPOINT_KEYFILE",
    )
    username: str | None = _declare(
        None, "user name that a scrape must give", "GENMETER_ENDPOINT_USERNAME"
    )
    password: str | None = field(
        default=None,
        repr=False,
        metadata={
            "help": "password that a scrape must give",
            "env": "GENMETER_ENDPOINT_PASSWORD",
        },
    )
    linger: float = _declare(
        0.0, "seconds to wait at shutdown for one more whole scrape", "GENMETER_ENDPOINT_LINGER"
    )

    def __post_init__(self) -> None:
        """Check every field."""
        if self.port is not None:
            _require_count(self, "port", least=0, most=_MAX_PORT)
        is_number = isinstance(self.linger, int | float) and not isinstance(self.linger, bool)
        if not (is_number and 0 <= self.linger <= threading.TIMEOUT_MAX):
            raise ConfigError(f"EndpointConfig.linger is {self.linger!r}; give seconds, 0 or more")
        if not (self.enabled is None or isinstance(self.enabled, bool)):
            raise ConfigError(
                f"EndpointConfig.enabled is {self.enabled!r}; give True, False or None"
            )
        self._check_texts()
        for given, needed in (
            ("keyfile", "certfile"),
            ("username", "password"),
            ("password", "username"),
        ):
            value = getattr(self, given)
            if value is not None and getattr(self, needed) is None:
                shown = "set" if given == "password" else repr(value)
                raise ConfigError(
                    f"EndpointConfig.{given} is {shown} but {needed} is not set; "
                    "give both or neither"
                )

    def _check_texts(self) -> None:
        for name in ("host", "certfile", "keyfile", "username", "password"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str | os.PathLike) and str(value)):
                shown = "empty or not a text" if name == "password" else repr(value)
                raise ConfigError(
                    f"EndpointConfig.{name} is {shown}; give a text that is not empty, or None"
                )
        if ":" in (self.username or ""):
            raise ConfigError(
                f"EndpointConfig.username is {self.username!r}; give one without a colon, which "
                "ends the name in HTTP's basic authentication"
            )

    @property
    def asked_for_in_code(self) -> bool:
        """Whether a taken address is the caller's error rather than a warning."""
        return self.enabled is not False and (
            self.enabled is True or self.host is not None or self.port is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryConfig:
    """The local, bounded history.

    Raises:
        ConfigError: A value that cannot be used.
    """

    capacity: int = _declare(
        100_000,
        "calls, and as many scores and custom values, that are kept (88 bytes a call)",
        "GENMETER_HISTORY_CAPACITY",
    )

    def __post_init__(self) -> None:
        """Check every field."""
        _require_count(self, "capacity", least=1, most=_MAX_CAPACITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLimits:
    """How many values each label may take in a process; further ones become ``other``.

    Raises:
        ConfigError: A value that cannot be used.
    """

    models: int = _declare(100, "most different models", "GENMETER_MAX_MODELS")
    steps: int = _declare(50, "most different pipeline steps", "GENMETER_MAX_STEPS")
    error_types: int = _declare(50, "most different error types", "GENMETER_MAX_ERROR_TYPES")
    finish_reasons: int = _declare(
        50, "most different finish reasons", "GENMETER_MAX_FINISH_REASONS"
    )
    evaluators: int = _declare(100, "most different evaluators", "GENMETER_MAX_EVALUATORS")
    scores: int = _declare(100, "most different score names", "GENMETER_MAX_SCORES")
    custom_metrics: int = _declare(
        100, "most different custom metrics", "GENMETER_MAX_CUSTOM_METRICS"
    )
    providers: int = _declare(50, "most different providers", "GENMETER_MAX_PROVIDERS")
    operations: int = _declare(50, "most different operations", "GENMETER_MAX_OPERATIONS")
    sample_reasons: int = _declare(
        50, "most different reasons of rejected samples", "GENMETER_MAX_SAMPLE_REASONS"
    )
    modalities: int = _declare(10, "most different token modalities", "GENMETER_MAX_MODALITIES")
    combinations: int = _declare(
        2_000, "most label sets of one instrument", "GENMETER_MAX_COMBINATIONS"
    )

    def __post_init__(self) -> None:
        """Check every field."""
        for each in fields(self):
            most = 1_000_000 if each.name == "combinations" else _MAX_LABEL_VALUES
            _require_count(self, each.name, least=1, most=most)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig:
    """All that is new against the old constructor.

    What a process shares (the meter provider, the endpoint, the label limits) is set by the first
    monitor of the process; a later one that asks for something else gets a warning.

    Raises:
        ConfigError: A value that cannot be used.
    """

    default_model: str | None = _declare(
        None, "model of a call that names none", "GENMETER_DEFAULT_MODEL"
    )
    models: tuple[str, ...] = _declare(
        (), "models, by commas, whose outcomes are exposed as 0 from the start", "GENMETER_MODELS"
    )
    provider: str | None = _declare(
        None, "provider of a call that names none, such as openai", "GENMETER_PROVIDER"
    )
    operation: str = _declare("chat", "operation of a call that names none", "GENMETER_OPERATION")
    expected_samples: int | None = _declare(
        None, "samples that the job is to make", "GENMETER_EXPECTED_SAMPLES"
    )
    prices: PriceTable | None = _declare(
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
    custom_metrics: tuple[CustomMetric, ...] = _declare(
        (), "instruments of the caller's own for record_metric"
    )
    meter_provider: MeterProvider | Literal["own", "global"] = _declare(
        "own", "own, global (the application's), or a MeterProvider", "GENMETER_METER_PROVIDER"
    )
    drain: Literal["thread", "inline"] = _declare(
        "thread", "thread, or inline (in the caller's own call; for tests)", "GENMETER_DRAIN"
    )
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
        if self.expected_samples is not None:
            _require_count(self, "expected_samples", least=0, most=_MAX_SAMPLES)
        if self.drain not in ("thread", "inline"):
            raise ConfigError(f"MonitorConfig.drain is {self.drain!r}; give 'thread' or 'inline'")
        self._check_meter_provider()
        for name, part in (
            ("endpoint", EndpointConfig),
            ("history", HistoryConfig),
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
        for part in (MonitorConfig, EndpointConfig, HistoryConfig, LabelLimits)
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
            hint = f"; did you mean {near[0]}?" if near else ""
            _logger.warning("the variable %s is not one of genmeter's%s", name, hint)
