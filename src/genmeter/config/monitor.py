"""Settings of a monitor beyond AfterImage's constructor arguments: frozen dataclasses.

Each field declares its default, its environment variable (where it has one), its help and its check
once; :func:`describe_environment` and the documentation come from these declarations. Where
OpenTelemetry has a standard variable (``OTEL_*``) that one is read, by ``runtime``;
``GENMETER_*`` names only what has none.
"""

from __future__ import annotations

import difflib
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from genmeter.config._declare import Declared, build, declare, variables
from genmeter.config.alerts import AlertSettings
from genmeter.config.checks import (
    BOOLEAN,
    LABEL,
    NAME,
    PATH,
    PORT,
    SECONDS,
    SECRET,
    USERNAME,
    Check,
    check_pair,
    count,
    instance_of,
    number,
    one_of,
    optional,
    tuple_of,
)
from genmeter.config.prices import PriceTable
from genmeter.errors import ConfigError
from genmeter.events.values import MAX_LABEL
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
    "describe_environment",
]

METADATA_BYTES = 64 * 2**20
"""Bytes of free metadata that a history keeps by default."""
_logger = logging.getLogger("genmeter")
# The sums of a window are 64-bit: 2**21 events of at most 2**41 tokens (a total of two parts of
# 2**40 each) stay below 2**63.
_MAX_CAPACITY = 2**21
# Far from 2**63, past which one number fails every OTLP export.
_MAX_SAMPLES = 2**40
_LABEL_LIMIT = count(1, 5_000)  # the history numbers the values of all labels with 16 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig(Declared):
    """The scrape endpoint.

    It is on by default (``OTEL_METRICS_EXPORTER`` has ``prometheus`` unless it is set to
    something else), listens on 127.0.0.1:9464 and is bound at the first event, in the main
    process only. With ``enabled=True``, a ``host`` or a ``port`` set in code it is bound at
    construction, and an address that is taken is an error there.

    Raises:
        ConfigError: A value that cannot be used.
    """

    enabled: bool | None = declare(
        None, "listen; None leaves it to OTEL_METRICS_EXPORTER", check=optional(BOOLEAN)
    )
    host: str | None = declare(
        None,
        "interface; None leaves it to OTEL_EXPORTER_PROMETHEUS_HOST, else 127.0.0.1",
        check=optional(NAME),
    )
    port: int | None = declare(
        None,
        "TCP port, 0 for any free one; None leaves it to OTEL_EXPORTER_PROMETHEUS_PORT, else 9464",
        check=optional(PORT),
    )
    certfile: str | None = declare(
        None,
        "PEM file of the TLS certificate chain",
        "GENMETER_ENDPOINT_CERTFILE",
        check=optional(PATH),
    )
    keyfile: str | None = declare(
        None,
        "PEM file of the TLS private key, where certfile does not contain it",
        "GENMETER_ENDPOINT_KEYFILE",
        check=optional(PATH),
    )
    client_ca_file: str | None = declare(
        None,
        "PEM file of the authorities; a scrape then needs a certificate of one of them",
        "GENMETER_ENDPOINT_CLIENT_CA_FILE",
        check=optional(PATH),
    )
    username: str | None = declare(
        None,
        "user name that a scrape must send",
        "GENMETER_ENDPOINT_USERNAME",
        check=optional(USERNAME),
    )
    password: str | None = declare(
        None,
        "password that a scrape must send",
        "GENMETER_ENDPOINT_PASSWORD",
        check=optional(SECRET),
    )
    created_series: bool | None = declare(
        None,
        "expose when each counter and histogram began, as _created; None leaves it to "
        "PROMETHEUS_DISABLE_CREATED_SERIES, else True",
        check=optional(BOOLEAN),
    )
    linger: float = declare(
        0.0,
        "seconds to wait at shutdown for one more whole scrape",
        "GENMETER_ENDPOINT_LINGER",
        check=SECONDS,
    )

    def _check_together(self) -> None:
        for name, partner in (
            ("keyfile", "certfile"),
            ("client_ca_file", "certfile"),
            ("username", "password"),
            ("password", "username"),
        ):
            shown = "a password" if name == "password" else ""
            check_pair(
                f"EndpointConfig.{name}",
                getattr(self, name),
                partner,
                getattr(self, partner),
                shown=shown,
            )

    @property
    def asked_for_in_code(self) -> bool:
        """Whether a taken address is the caller's error rather than a warning."""
        return self.enabled is not False and (
            self.enabled is True or self.host is not None or self.port is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryConfig(Declared):
    """The local, bounded history.

    Raises:
        ConfigError: A value that cannot be used.
    """

    capacity: int = declare(
        100_000,
        "calls, as many scores and custom values, and as many samples, that are kept (90 bytes a "
        "call, 98 with prices)",
        "GENMETER_HISTORY_CAPACITY",
        check=count(1, _MAX_CAPACITY),
    )
    metadata_bytes: int = declare(
        METADATA_BYTES,
        "most bytes of free metadata and feedback that are kept with them",
        "GENMETER_HISTORY_METADATA_BYTES",
        check=count(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalConfig(Declared):
    """The files that a monitor with a ``log_dir`` writes: ``metrics.jsonl``, ``afterimage.log``.

    Raises:
        ConfigError: A value that cannot be used.
    """

    max_bytes: int | None = declare(
        None,
        "bytes after which a file is put aside as metrics.1.jsonl, and so on, between writes of up "
        "to 512 events; None for never",
        "GENMETER_JOURNAL_MAX_BYTES",
        check=optional(count(1)),
    )
    keep: int = declare(5, "files put aside that are kept", "GENMETER_JOURNAL_KEEP", check=count(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLimits(Declared):
    """How many values each label may take in a process; further ones become ``other``.

    Raises:
        ConfigError: A value that cannot be used.
    """

    models: int = declare(100, "most different models", "GENMETER_MAX_MODELS", check=_LABEL_LIMIT)
    steps: int = declare(
        50, "most different pipeline steps", "GENMETER_MAX_STEPS", check=_LABEL_LIMIT
    )
    error_types: int = declare(
        50, "most different error types", "GENMETER_MAX_ERROR_TYPES", check=_LABEL_LIMIT
    )
    finish_reasons: int = declare(
        50, "most different finish reasons", "GENMETER_MAX_FINISH_REASONS", check=_LABEL_LIMIT
    )
    evaluators: int = declare(
        100, "most different evaluators", "GENMETER_MAX_EVALUATORS", check=_LABEL_LIMIT
    )
    scores: int = declare(
        100, "most different score names", "GENMETER_MAX_SCORES", check=_LABEL_LIMIT
    )
    custom_metrics: int = declare(
        100, "most different custom metrics", "GENMETER_MAX_CUSTOM_METRICS", check=_LABEL_LIMIT
    )
    providers: int = declare(
        50, "most different providers", "GENMETER_MAX_PROVIDERS", check=_LABEL_LIMIT
    )
    operations: int = declare(
        50, "most different operations", "GENMETER_MAX_OPERATIONS", check=_LABEL_LIMIT
    )
    sample_reasons: int = declare(
        50,
        "most different reasons of rejected samples",
        "GENMETER_MAX_SAMPLE_REASONS",
        check=_LABEL_LIMIT,
    )
    modalities: int = declare(
        10, "most different token modalities", "GENMETER_MAX_MODALITIES", check=_LABEL_LIMIT
    )
    combinations: int = declare(
        2_000,
        "most label sets of one instrument",
        "GENMETER_MAX_COMBINATIONS",
        check=count(1, 1_000_000),
    )


_ENDS = {
    "counter": ("", "_total", "_created"),
    "updown": ("",),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
}


def _series(name: str, unit: str, kind: str) -> set[str]:
    """Return all names that the metric's family and its series have in Prometheus."""
    return {family_name(name, unit, kind) + end for end in _ENDS[kind]}


_OWN_NAMES = frozenset(row.name.lower() for row in INSTRUMENTS)
_OWN_SERIES = frozenset(
    {"target", "target_info"}.union(
        *(_series(row.name, row.unit, row.kind.exposed_as) for row in INSTRUMENTS)
    )
)


_KINDS = tuple(each.value for each in Kind if not each.value.startswith("observable"))
_MAX_UNIT = 63  # OpenTelemetry's own limit
# record_metric's names are labels too, so they are not longer than one.
_NAME_PATTERN = re.compile(rf"[A-Za-z][A-Za-z0-9_./-]{{0,{MAX_LABEL - 1}}}")
_METRIC_NAME = Check(
    f"a letter and then at most {MAX_LABEL - 1} letters, digits, '_', '.', '-' or '/'",
    lambda value: _NAME_PATTERN.fullmatch(value) is not None,
)
_UNIT = Check(
    f"at most {_MAX_UNIT} printable ASCII characters",
    lambda value: (
        isinstance(value, str)
        and value.isascii()
        and value.isprintable()
        and len(value) <= _MAX_UNIT
    ),
)
# Encoding raises for a surrogate, by an error that is a ValueError.
_HELP = Check(
    "a text without surrogates", lambda value: isinstance(value, str) and value.encode() is not None
)


def _bounds(value: Any) -> tuple[float, ...]:
    bounds = tuple(map(float, value))
    if list(bounds) != sorted(set(bounds)) or not all(map(math.isfinite, bounds)):
        raise ValueError(value)
    return bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomMetric(Declared):
    """An instrument of the caller's own, fed by ``record_metric`` under its name.

    Args:
        name: The OpenTelemetry instrument name, which ``record_metric`` takes.
        kind: ``counter`` (values are added; negative ones are dropped), ``updown``, ``gauge``
            (the last value stands) or ``histogram``.
        unit: UCUM unit, such as ``s`` or ``By``; an annotation stands in braces.
        help: One sentence for the readers of the scrape.
        bounds: Upper bounds of a histogram's buckets, in ``unit``, ascending.
        labels: Keys of ``record_metric``'s metadata that become attributes.

    Raises:
        ConfigError: A value that cannot be used.
    """

    name: str = declare(check=_METRIC_NAME)
    kind: Literal["counter", "updown", "gauge", "histogram"] = declare(
        "gauge", check=one_of(*_KINDS)
    )
    unit: str = declare("{value}", check=_UNIT)
    help: str = declare("", check=_HELP)
    bounds: tuple[float, ...] = declare(
        (), check=Check("finite, ascending numbers", convert=_bounds)
    )
    labels: tuple[str, ...] = declare((), check=tuple_of(LABEL, "a tuple of metadata keys"))

    def _check_together(self) -> None:
        if (self.kind == "histogram") != bool(self.bounds):
            raise ConfigError(
                f"CustomMetric.bounds must be ascending numbers for a histogram and empty for any "
                f"other kind, got {self.bounds!r} for a {self.kind}"
            )
        if len({label_name(key) for key in self.labels}) < len(self.labels):
            raise ConfigError(
                f"CustomMetric.labels must be distinct, got {self.labels!r}; in Prometheus all but "
                "letters and digits becomes '_'"
            )
        exposed = prometheus_name(self.name, self.unit, self.kind)
        got = f"got {self.name!r}, in Prometheus {exposed!r}; choose another"
        if self.name.lower() in _OWN_NAMES or self.series & _OWN_SERIES:
            raise ConfigError(f"CustomMetric.name must differ from genmeter's own metrics, {got}")
        suffix = reserved_suffix(exposed, self.kind)
        if suffix is not None:
            raise ConfigError(
                f"CustomMetric.name must not end in {suffix} for a {self.kind}, {got}"
            )

    @property
    def series(self) -> set[str]:
        """All names that its family and its series have in Prometheus."""
        return _series(self.name, self.unit, self.kind)


def _check_distinct(rows: Sequence[CustomMetric]) -> None:
    owners: dict[str, str] = {}
    for row in rows:
        # OpenTelemetry's names do not tell upper from lower case.
        keys = {f"name {row.name.lower()}", *row.series}
        other = next((owners[key] for key in sorted(keys) if key in owners), None)
        if other is not None:
            raise ConfigError(
                f"MonitorConfig.custom_metrics must be distinct, got {row.name!r} and {other!r}, "
                "which are one metric or share a series in Prometheus; rename one"
            )
        owners |= dict.fromkeys(keys, row.name)


def _score_scale(value: Any) -> tuple[float, float]:
    low, high = map(float, value)
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(value)
    return low, high


_SCALE = Check("the lowest and the highest value, both finite", convert=_score_scale)
_SCORE_SCALES = Check(
    "a dict of score names to their lowest and highest value",
    lambda value: isinstance(value, Mapping),
    lambda value: {
        LABEL(f"[{name!r}]", name): _SCALE(f"[{name!r}]", scale) for name, scale in value.items()
    },
)
_METER_PROVIDER = Check(
    "'builtin', 'global' or a MeterProvider, which has get_meter",
    lambda value: (
        value in ("builtin", "global")
        if isinstance(value, str)
        else callable(getattr(value, "get_meter", None))
    ),
)
_LABELS = tuple_of(LABEL, "a list or tuple of names")
# The handler checks each address; they may contain passwords.
_ALERTMANAGERS = Check(
    "a tuple of addresses",
    lambda value: value is None or isinstance(value, Sequence),
    parse=_LABELS.parse,
    is_secret=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig(Declared):
    """Settings beyond AfterImage's constructor arguments.

    What a process shares (the meter provider, the endpoint, the label limits) is set by the first
    monitor of the process; a later one that asks for something else gets a warning.

    Raises:
        ConfigError: A value that cannot be used.
    """

    default_model: str | None = declare(
        None, "model of a call that names none", "GENMETER_DEFAULT_MODEL", check=optional(LABEL)
    )
    models: tuple[str, ...] = declare(
        (), "comma-separated models to pre-register at 0", "GENMETER_MODELS", check=_LABELS
    )
    provider: str | None = declare(
        None,
        "provider of a call that names none, such as openai",
        "GENMETER_PROVIDER",
        check=optional(LABEL),
    )
    operation: str = declare(
        "chat", "operation of a call that names none", "GENMETER_OPERATION", check=LABEL
    )
    expected_samples: int | None = declare(
        None,
        "samples that the job is to make",
        "GENMETER_EXPECTED_SAMPLES",
        check=optional(count(0, _MAX_SAMPLES)),
    )
    prices: PriceTable | None = declare(
        None,
        "USD a million tokens by model: a mapping, a JSON or TOML file, or genai-prices",
        "GENMETER_PRICES",
        check=Check("prices", convert=PriceTable.coerce),
    )
    score_scales: Mapping[str, tuple[float, float]] = declare(
        dict, "lowest and highest value of each score that is not on 0..1", check=_SCORE_SCALES
    )
    custom_metrics: tuple[CustomMetric, ...] = declare(
        (),
        "instruments of the caller's own for record_metric",
        check=tuple_of(instance_of(CustomMetric), "a tuple of CustomMetric(...)"),
    )
    meter_provider: MeterProvider | Literal["builtin", "global"] = declare(
        "builtin",
        "builtin, global (the application's), or a MeterProvider",
        "GENMETER_METER_PROVIDER",
        check=_METER_PROVIDER,
    )
    drain: Literal["thread", "inline"] = declare(
        "thread",
        "thread, or inline (in the caller's own call; for tests)",
        "GENMETER_DRAIN",
        check=one_of("thread", "inline"),
    )
    log_dir: str | os.PathLike[str] | None = declare(
        None,
        "folder for the journal and the log, where log_dir is not set",
        "GENMETER_LOG_DIR",
        check=optional(PATH),
    )
    evaluation_events: bool = declare(
        False,
        "send each score as an OpenTelemetry event, gen_ai.evaluation.result",
        "GENMETER_EVALUATION_EVENTS",
        check=BOOLEAN,
    )
    alert_repeat_seconds: float | None = declare(
        None,
        "seconds after which an alert that still fires is sent again; None for never",
        "GENMETER_ALERT_REPEAT_SECONDS",
        check=optional(number(above=0, what="seconds")),
    )
    alerts: AlertSettings = declare(
        None,
        "AlertSettings, or a TOML file: thresholds, objective and budgets of the alerts",
        "GENMETER_ALERTS",
        check=Check("AlertSettings", convert=AlertSettings.coerce),
    )
    alertmanager_urls: tuple[str, ...] = declare(
        (),
        "comma-separated Alertmanagers that alerts are posted to: http://host:9093",
        "GENMETER_ALERTMANAGER_URL",
        check=_ALERTMANAGERS,
    )
    endpoint: EndpointConfig = declare(
        EndpointConfig, "the scrape endpoint", check=instance_of(EndpointConfig)
    )
    history: HistoryConfig = declare(
        HistoryConfig, "the local history", check=instance_of(HistoryConfig)
    )
    journal: JournalConfig = declare(
        JournalConfig, "the files in log_dir", check=instance_of(JournalConfig)
    )
    limits: LabelLimits = declare(
        LabelLimits, "the limits on labels", check=instance_of(LabelLimits)
    )

    def _check_together(self) -> None:
        _check_distinct(self.custom_metrics)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Build the configuration from ``GENMETER_*`` variables.

        Args:
            environ: Variables to read, ``os.environ`` by default. An empty one counts as unset.
            **overrides: Fields set in code; they win over the environment.

        Raises:
            ConfigError: A variable that cannot be read; the message names it.
        """
        environ = os.environ if environ is None else environ
        _warn_of_unknown(environ)
        return build(cls, environ, overrides)


def describe_environment() -> list[tuple[str, str, str]]:
    """List the environment variables.

    Returns:
        Rows of name, default and help, in the order of their declarations.
    """
    return list(variables(MonitorConfig))


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    known = [name for name, _, _ in describe_environment()]
    for name in sorted(environ.keys() - set(known)):
        if name.startswith("GENMETER_"):
            near = difflib.get_close_matches(name, known, 1, cutoff=0.8)
            hint = f"did you mean {near[0]}?" if near else "correct or unset it"
            _logger.warning("ignoring %s: genmeter has no such variable; %s", name, hint)
