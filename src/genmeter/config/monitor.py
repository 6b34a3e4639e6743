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
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Self

from genmeter.config._checks import build
from genmeter.config.alerts import AlertSettings
from genmeter.config.prices import PriceTable
from genmeter.errors import ConfigError
from genmeter.events.values import MAX_LABEL, label_text
from genmeter.schema.metrics import INSTRUMENTS, Kind
from genmeter.schema.prom_names import family_name, label_name, prometheus_name, reserved_suffix

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

__all__ = [
    "METADATA_BYTES",
    "CustomMetric",
    "EndpointConfig",
    "HistoryConfig",
    "JournalConfig",
    "LabelLimits",
    "MonitorConfig",
    "check_together",
    "declare",
    "describe_environment",
    "require_count",
]

METADATA_BYTES = 64 * 2**20
"""Bytes of free metadata that a history keeps unless told otherwise."""
_MAX_PORT = 65_535
# The sums of a window are 64-bit: 2**21 events of at most 2**41 tokens (a total of two parts of
# 2**40 each) stay below 2**63.
_MAX_CAPACITY = 2**21
# The history numbers the values of all labels with 16 bits.
_MAX_LABEL_VALUES = 5_000


def declare(default: Any, help_: str, env: str | None = None) -> Any:
    """Declare a field of a configuration.

    Args:
        default: What it is unless told otherwise.
        help_: What it does, for the documentation.
        env: The environment variable that sets it.
    """
    return field(default=default, metadata={"help": help_, "env": env})


def require_count(owner: object, name: str, *, least: int, most: int | None = None) -> None:
    """Check a field that is a whole number.

    Args:
        owner: The configuration.
        name: The field.
        least: Its lowest value.
        most: Its highest value; None for no limit.

    Raises:
        ConfigError: It is none, or out of range.
    """
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

    enabled: bool | None = declare(None, "listen; None leaves it to OTEL_METRICS_EXPORTER")
    host: str | None = declare(
        None, "interface; None leaves it to OTEL_EXPORTER_PROMETHEUS_HOST, else 127.0.0.1"
    )
    port: int | None = declare(
        None,
        "TCP port, 0 for any free one; None leaves it to OTEL_EXPORTER_PROMETHEUS_PORT, else 9464",
    )
    certfile: str | None = declare(
        None, "PEM file of the TLS certificate chain", "GENMETER_ENDPOINT_CERTFILE"
    )
    keyfile: str | None = declare(
        None,
        "PEM file of the TLS private key, where certfile does not hold it",
        "GENMETER_ENDPOINT_KEYFILE",
    )
    client_ca_file: str | None = declare(
        None,
        "PEM file of the authorities; a scrape then needs a certificate of one of them",
        "GENMETER_ENDPOINT_CLIENT_CA_FILE",
    )
    username: str | None = declare(
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
    created_series: bool | None = declare(
        None,
        "expose when each counter and histogram began, as _created; None leaves it to "
        "PROMETHEUS_DISABLE_CREATED_SERIES, else True",
    )
    linger: float = declare(
        0.0, "seconds to wait at shutdown for one more whole scrape", "GENMETER_ENDPOINT_LINGER"
    )

    def __post_init__(self) -> None:
        """Check every field."""
        if self.port is not None:
            require_count(self, "port", least=0, most=_MAX_PORT)
        is_number = isinstance(self.linger, int | float) and not isinstance(self.linger, bool)
        if not (is_number and 0 <= self.linger <= threading.TIMEOUT_MAX):
            raise ConfigError(f"EndpointConfig.linger is {self.linger!r}; give seconds, 0 or more")
        for name in ("enabled", "created_series"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, bool)):
                raise ConfigError(f"EndpointConfig.{name} is {value!r}; give True, False or None")
        self._check_texts()
        for given, needed in (
            ("keyfile", "certfile"),
            ("client_ca_file", "certfile"),
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
        for name in ("host", "certfile", "keyfile", "client_ca_file", "username", "password"):
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

    capacity: int = declare(
        100_000,
        "calls, as many scores and custom values, and as many samples, that are kept (90 bytes a "
        "call, 98 with prices)",
        "GENMETER_HISTORY_CAPACITY",
    )
    metadata_bytes: int = declare(
        METADATA_BYTES,
        "most bytes of free metadata and feedback that are kept with them",
        "GENMETER_HISTORY_METADATA_BYTES",
    )

    def __post_init__(self) -> None:
        """Check every field."""
        require_count(self, "capacity", least=1, most=_MAX_CAPACITY)
        require_count(self, "metadata_bytes", least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalConfig:
    """The files that a monitor with a ``log_dir`` writes: ``metrics.jsonl``, ``afterimage.log``.

    Raises:
        ConfigError: A value that cannot be used.
    """

    max_bytes: int | None = declare(
        None,
        "bytes after which a file is put aside as metrics.1.jsonl, and so on, between writes of up "
        "to 512 events; None for never",
        "GENMETER_JOURNAL_MAX_BYTES",
    )
    keep: int = declare(5, "files put aside that are kept", "GENMETER_JOURNAL_KEEP")

    def __post_init__(self) -> None:
        """Check every field."""
        if self.max_bytes is not None:
            require_count(self, "max_bytes", least=1)
        require_count(self, "keep", least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLimits:
    """How many values each label may take in a process; further ones become ``other``.

    Raises:
        ConfigError: A value that cannot be used.
    """

    models: int = declare(100, "most different models", "GENMETER_MAX_MODELS")
    steps: int = declare(50, "most different pipeline steps", "GENMETER_MAX_STEPS")
    error_types: int = declare(50, "most different error types", "GENMETER_MAX_ERROR_TYPES")
    finish_reasons: int = declare(
        50, "most different finish reasons", "GENMETER_MAX_FINISH_REASONS"
    )
    evaluators: int = declare(100, "most different evaluators", "GENMETER_MAX_EVALUATORS")
    scores: int = declare(100, "most different score names", "GENMETER_MAX_SCORES")
    custom_metrics: int = declare(
        100, "most different custom metrics", "GENMETER_MAX_CUSTOM_METRICS"
    )
    providers: int = declare(50, "most different providers", "GENMETER_MAX_PROVIDERS")
    operations: int = declare(50, "most different operations", "GENMETER_MAX_OPERATIONS")
    sample_reasons: int = declare(
        50, "most different reasons of rejected samples", "GENMETER_MAX_SAMPLE_REASONS"
    )
    modalities: int = declare(10, "most different token modalities", "GENMETER_MAX_MODALITIES")
    combinations: int = declare(
        2_000, "most label sets of one instrument", "GENMETER_MAX_COMBINATIONS"
    )

    def __post_init__(self) -> None:
        """Check every field."""
        for each in fields(self):
            most = 1_000_000 if each.name == "combinations" else _MAX_LABEL_VALUES
            require_count(self, each.name, least=1, most=most)


# record_metric's names are labels too, so they are not longer than one.
_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9_./-]{{0,{MAX_LABEL - 1}}}")
_MAX_UNIT = 63  # OpenTelemetry's own limit
_KINDS = tuple(each.value for each in Kind if not each.value.startswith("observable"))
_ENDS = {
    "counter": ("", "_total", "_created"),
    "updown": ("",),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
}


def _series(name: str, unit: str, kind: str) -> set[str]:
    """Give all names that the metric's family and its series have in Prometheus."""
    return {family_name(name, unit, kind) + end for end in _ENDS[kind]}


_OWN_NAMES = frozenset(row.name.lower() for row in INSTRUMENTS)
_OWN_SERIES = frozenset(
    {"target", "target_info"}.union(
        *(_series(row.name, row.unit, row.kind.exposed_as) for row in INSTRUMENTS)
    )
)


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
        if not isinstance(self.kind, str) or self.kind not in _KINDS:
            raise ConfigError(
                f"CustomMetric.kind is {self.kind!r}; give one of {', '.join(_KINDS)}"
            )
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"CustomMetric.name is {self.name!r}; start with a letter, then at most "
                f"{MAX_LABEL - 1} letters, digits, '_', '.', '-' or '/'"
            )
        is_text = isinstance(self.unit, str) and self.unit.isascii() and self.unit.isprintable()
        if not is_text or len(self.unit) > _MAX_UNIT:
            raise ConfigError(
                f"CustomMetric.unit is {self.unit!r}; give at most {_MAX_UNIT} printable ASCII "
                "characters"
            )
        if not isinstance(self.help, str) or not _is_utf8(self.help):
            raise ConfigError(f"CustomMetric.help is {self.help!r}; give a text without surrogates")
        object.__setattr__(self, "bounds", _bounds(self.kind, self.bounds))
        object.__setattr__(self, "labels", _labels(self.labels))
        self._check_exposed_name()

    @property
    def series(self) -> set[str]:
        """All names that its family and its series have in Prometheus."""
        return _series(self.name, self.unit, self.kind)

    def _check_exposed_name(self) -> None:
        exposed = prometheus_name(self.name, self.unit, self.kind)
        if self.name.lower() in _OWN_NAMES or self.series & _OWN_SERIES:
            raise ConfigError(
                f"CustomMetric.name is {self.name!r}, in Prometheus {exposed!r}, which is a metric "
                "of genmeter's own; choose another"
            )
        suffix = reserved_suffix(exposed, self.kind)
        if suffix is not None:
            raise ConfigError(
                f"CustomMetric.name is {self.name!r}, in Prometheus {exposed!r}, and a {self.kind} "
                f"cannot end in {suffix}; choose another"
            )


def check_together(rows: Sequence[CustomMetric]) -> None:
    """Check that no two rows share a name, in OpenTelemetry or in Prometheus.

    Raises:
        ConfigError: Two of them do.
    """
    owners: dict[str, str] = {}
    for row in rows:
        # OpenTelemetry's names do not tell upper from lower case.
        keys = {f"name {row.name.lower()}", *row.series}
        other = next((owners[key] for key in sorted(keys) if key in owners), None)
        if other is not None:
            raise ConfigError(
                f"MonitorConfig.custom_metrics has {row.name!r} beside {other!r}, which is the "
                "same metric or has series of the same name in Prometheus; rename one"
            )
        owners |= dict.fromkeys(keys, row.name)


def _bounds(kind: str, given: Any) -> tuple[float, ...]:
    try:
        bounds = tuple(float(bound) for bound in given)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"CustomMetric.bounds is {given!r}; give finite, ascending numbers"
        ) from error
    if list(bounds) != sorted(set(bounds)) or not all(map(math.isfinite, bounds)):
        raise ConfigError(f"CustomMetric.bounds is {given!r}; give finite, ascending numbers")
    if (kind == "histogram") != bool(bounds):
        raise ConfigError(
            f"CustomMetric.bounds is {given!r} for a {kind}; give ascending bounds to a histogram "
            "and none to anything else"
        )
    return bounds


def _labels(given: Any) -> tuple[str, ...]:
    keys = tuple(given) if isinstance(given, list | tuple) else (None,)
    if not all(isinstance(key, str) and label_text(key) == key for key in keys):
        raise ConfigError(
            f"CustomMetric.labels is {given!r}; give a tuple of keys of 1 to {MAX_LABEL} characters"
        )
    if len({label_name(key) for key in keys}) < len(keys):
        raise ConfigError(
            f"CustomMetric.labels is {given!r}; give keys that differ in Prometheus too, where all "
            "but letters and digits becomes '_'"
        )
    return keys


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
