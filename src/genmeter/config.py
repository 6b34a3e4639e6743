"""What a monitor can be told beyond the old constructor's keywords: frozen dataclasses.

Each field declares its default, its environment variable (where it has one) and its help once;
:func:`describe_environment` and the documentation come from these declarations. Where
OpenTelemetry has a standard variable (``OTEL_*``) that one is read, by ``runtime``;
``GENMETER_*`` names only what has none.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, get_type_hints

from genmeter.catalogue import INSTRUMENTS, Kind
from genmeter.errors import ConfigError
from genmeter.naming import prometheus_name
from genmeter.prices import PriceTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider

__all__ = [
    "CustomMetric",
    "EndpointConfig",
    "HistoryConfig",
    "LabelLimits",
    "MonitorConfig",
    "describe_environment",
]

_T = TypeVar("_T")
_MAX_PORT = 65_535
# The sums of a window are 64-bit: 2**22 events of at most 2**40 tokens stay below 2**63.
_MAX_CAPACITY = 2**22
# The history numbers the values of all labels with 16 bits.
_MAX_LABEL_VALUES = 5_000
_INSTRUMENT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,254}")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def _declare(default: Any, help_: str, env: str | None = None) -> Any:
    return field(default=default, metadata={"help": help_, "env": env})


def _require_count(owner: object, name: str, *, least: int, most: int | None = None) -> None:
    value = getattr(owner, name)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{type(owner).__name__}.{name} is {value!r}; give a whole number {span}")


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
        None, "PEM file of the TLS private key", "GENMETER_ENDPOINT_KEYFILE"
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
        if not (isinstance(self.linger, int | float) and 0 <= self.linger < math.inf):
            raise ConfigError(f"EndpointConfig.linger is {self.linger!r}; give seconds, 0 or more")
        for one, other in (("certfile", "keyfile"), ("username", "password")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                missing, given = (one, other) if getattr(self, one) is None else (other, one)
                raise ConfigError(
                    f"EndpointConfig.{given} is set but {missing} is not; give both or neither"
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

    models: int = _declare(100, "models", "GENMETER_MAX_MODELS")
    steps: int = _declare(50, "pipeline steps", "GENMETER_MAX_STEPS")
    error_types: int = _declare(50, "error types", "GENMETER_MAX_ERROR_TYPES")
    finish_reasons: int = _declare(50, "finish reasons", "GENMETER_MAX_FINISH_REASONS")
    evaluators: int = _declare(100, "evaluators", "GENMETER_MAX_EVALUATORS")
    scores: int = _declare(100, "score names", "GENMETER_MAX_SCORES")
    custom_metrics: int = _declare(100, "custom metrics", "GENMETER_MAX_CUSTOM_METRICS")
    providers: int = _declare(50, "providers", "GENMETER_MAX_PROVIDERS")
    operations: int = _declare(50, "operations", "GENMETER_MAX_OPERATIONS")
    sample_reasons: int = _declare(50, "reasons of rejected samples", "GENMETER_MAX_SAMPLE_REASONS")
    modalities: int = _declare(10, "token modalities", "GENMETER_MAX_MODALITIES")
    combinations: int = _declare(2_000, "label sets of one instrument", "GENMETER_MAX_COMBINATIONS")

    def __post_init__(self) -> None:
        """Check every field."""
        for each in fields(self):
            most = 1_000_000 if each.name == "combinations" else _MAX_LABEL_VALUES
            _require_count(self, each.name, least=1, most=most)


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomMetric:
    """An instrument of the caller's own, fed by ``record_metric`` under its name.

    Args:
        name: The OpenTelemetry instrument name, which ``record_metric`` is given.
        kind: ``counter`` (values are added; negative ones are left out), ``updown``, ``gauge``
            (the last value stands) or ``histogram``.
        unit: UCUM unit, such as ``s`` or ``By``; an annotation stands in braces.
        help: One sentence for whoever reads the scrape.
        bounds: Upper bounds of a histogram's buckets, in ``unit``, ascending.
        labels: Keys of ``record_metric``'s metadata that become attributes.

    Raises:
        ConfigError: A value that cannot be used.
    """

    name: str
    kind: Literal["counter", "updown", "gauge", "histogram"] = "gauge"
    unit: str = "{value}"
    help: str = ""
    bounds: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every field."""
        kinds = [each.value for each in Kind if not each.value.startswith("observable")]
        if self.kind not in kinds:
            raise ConfigError(f"CustomMetric.kind is {self.kind!r}; give one of {', '.join(kinds)}")
        if not isinstance(self.name, str) or not _INSTRUMENT_NAME.fullmatch(self.name):
            raise ConfigError(
                f"CustomMetric.name is {self.name!r}; start with a letter, then at most 254 "
                "letters, digits, '_', '.', '-' or '/'"
            )
        if not (self.unit.isascii() and len(self.unit) < 64):  # noqa: PLR2004 - OTel's own limit
            raise ConfigError(
                f"CustomMetric.unit is {self.unit!r}; give at most 63 ASCII characters"
            )
        if (self.kind == "histogram") != bool(self.bounds):
            raise ConfigError(
                f"CustomMetric.bounds is {self.bounds!r} for a {self.kind}; give ascending bounds "
                "to a histogram and none to anything else"
            )
        bounds = [float(bound) for bound in self.bounds]
        if bounds != sorted(set(bounds)) or not all(map(math.isfinite, bounds)):
            raise ConfigError(
                f"CustomMetric.bounds is {self.bounds!r}; give finite, ascending numbers"
            )
        object.__setattr__(self, "bounds", tuple(bounds))
        object.__setattr__(self, "labels", tuple(self.labels))
        self._check_exposed_name()

    def _check_exposed_name(self) -> None:
        exposed = prometheus_name(self.name, self.unit, self.kind)
        taken = {row.prometheus for row in INSTRUMENTS}
        if exposed in taken:
            raise ConfigError(
                f"CustomMetric.name is {self.name!r}, in Prometheus {exposed!r}, which is a metric "
                "of genmeter's own; choose another"
            )
        if self.kind != "histogram" and exposed.endswith(("_sum", "_count", "_bucket")):
            raise ConfigError(
                f"CustomMetric.name is {self.name!r}, in Prometheus {exposed!r}; only a "
                "histogram's series may end in _sum, _count or _bucket; choose another"
            )


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
        (), "models whose outcomes are exposed as 0 from the start", "GENMETER_MODELS"
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
        object.__setattr__(self, "models", tuple(self.models))
        object.__setattr__(self, "custom_metrics", tuple(self.custom_metrics))
        object.__setattr__(self, "prices", PriceTable.coerce(self.prices))
        if self.expected_samples is not None:
            _require_count(self, "expected_samples", least=0)
        if self.drain not in ("thread", "inline"):
            raise ConfigError(f"MonitorConfig.drain is {self.drain!r}; give 'thread' or 'inline'")
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
        self._check_tables()

    def _check_tables(self) -> None:
        for name, scale in self.score_scales.items():
            low, high = _pair(name, scale)
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ConfigError(
                    f"MonitorConfig.score_scales[{name!r}] is {scale!r}; give the lowest and the "
                    "highest value, both finite"
                )
        names = [each.name for each in self.custom_metrics]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"MonitorConfig.custom_metrics has {', '.join(twice)} more than once; "
                "give each name one row"
            )

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
        parts: dict[str, Any] = {
            "endpoint": EndpointConfig,
            "history": HistoryConfig,
            "limits": LabelLimits,
        }
        given = {
            name: part(**_read_fields(part, environ))
            for name, part in parts.items()
            if name not in overrides
        }
        return cls(**{**_read_fields(cls, environ), **given, **overrides})


def describe_environment() -> list[tuple[str, str, str]]:
    """List the environment variables.

    Returns:
        Rows of name, default and help, in the order of their declarations.
    """
    return [
        (
            each.metadata["env"],
            "" if each.default is None else str(each.default),
            each.metadata["help"],
        )
        for part in (MonitorConfig, EndpointConfig, HistoryConfig, LabelLimits)
        for each in fields(part)
        if each.metadata.get("env")
    ]


def _pair(name: str, scale: Any) -> tuple[float, float]:
    try:
        low, high = scale
        return float(low), float(high)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"MonitorConfig.score_scales[{name!r}] is {scale!r}; give the lowest and the highest value"
        ) from error


def _read_fields(part: type[Any], environ: Mapping[str, str]) -> dict[str, Any]:
    hints = get_type_hints(part, localns={"MeterProvider": object, "Callable": Any})
    values: dict[str, Any] = {}
    for each in fields(part):
        variable: str = each.metadata.get("env") or ""
        text = environ.get(variable, "").strip()
        if text:
            values[each.name] = _parse(variable, text, hints[each.name])
    return values


def _parse(variable: str, text: str, hint: Any) -> Any:
    kinds = set(getattr(hint, "__args__", (hint,)))
    if bool in kinds:
        if text.lower() not in _TRUE | _FALSE:
            raise ConfigError(f"{variable} is {text!r}; give true or false")
        return text.lower() in _TRUE
    if int in kinds:
        return _number(variable, text, int, "a whole number")
    if float in kinds:
        return _number(variable, text, float, "a number")
    if hint == tuple[str, ...]:
        return tuple(name.strip() for name in text.split(",") if name.strip())
    if PriceTable in kinds:
        return text if text == "genai-prices" else Path(text)
    return text


def _number(variable: str, text: str, convert: Callable[[str], _T], what: str) -> _T:
    try:
        return convert(text)
    except ValueError as error:
        raise ConfigError(f"{variable} is {text!r}; give {what}") from error
