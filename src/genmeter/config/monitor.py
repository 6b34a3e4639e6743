"""Settings of a monitor beyond AfterImage's constructor arguments: frozen dataclasses.

Each field declares its default, help, environment variable and check once; the documentation comes
from these declarations. ``GENMETER_*`` variables exist only for settings without a standard
OpenTelemetry variable (``OTEL_*``, read by ``runtime``).
"""

from __future__ import annotations

import difflib
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
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
    TEXT,
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
from genmeter.config.prices import PriceTable, split_prices
from genmeter.errors import ConfigError
from genmeter.events.values import MAX_LABEL
from genmeter.schema.metrics import INSTRUMENTS, Kind
from genmeter.schema.older_metrics import OLDER_INSTRUMENTS
from genmeter.schema.prom_names import family_name, label_name, prometheus_name, reserved_suffix

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

    from genmeter.config._declare import Accepts
    from genmeter.config.prices import PricesLike

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
# Keeps the sums of a window below 2**63: 2**21 events of at most 2**41 tokens.
_MAX_CAPACITY = 2**21
# A number above 2**63 fails every OTLP export.
_MAX_SAMPLES = 2**40
_MAX_USD = 1e15  # more than there is in the world
_LABEL_LIMIT = count(1, 5_000)  # the history numbers label values with 16 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig(Declared):
    """The scrape endpoint.

    It is on by default (``OTEL_METRICS_EXPORTER`` is ``prometheus`` by default), listens on
    127.0.0.1:9464 and is bound at the first event, in the main process only. With ``enabled=True``,
    a ``host`` or a ``port`` set in code it is bound at construction, where an address in use is an
    error.

    Raises:
        ConfigError: A value is invalid.
    """

    # fmt: off
    enabled: bool | None = declare(
        None, "listen; None leaves it to OTEL_METRICS_EXPORTER", check=optional(BOOLEAN))
    host: str | None = declare(
        None, "interface; None leaves it to OTEL_EXPORTER_PROMETHEUS_HOST, else 127.0.0.1",
        check=optional(NAME))
    port: int | None = declare(
        None,
        "TCP port, 0 for any free one; None leaves it to OTEL_EXPORTER_PROMETHEUS_PORT, else 9464",
        check=optional(PORT))
    certfile: str | None = declare(
        None, "PEM file of the TLS certificate chain", "GENMETER_ENDPOINT_CERTFILE",
        check=optional(PATH))
    keyfile: str | None = declare(
        None, "PEM file of the TLS private key, if certfile does not contain it",
        "GENMETER_ENDPOINT_KEYFILE", check=optional(PATH))
    client_ca_file: str | None = declare(
        None, "PEM file of authorities; a scrape then needs a certificate signed by one of them",
        "GENMETER_ENDPOINT_CLIENT_CA_FILE", check=optional(PATH))
    username: str | None = declare(
        None, "user name required for a scrape", "GENMETER_ENDPOINT_USERNAME",
        check=optional(USERNAME))
    password: str | None = declare(
        None, "password required for a scrape", "GENMETER_ENDPOINT_PASSWORD",
        check=optional(SECRET))
    created_series: bool | None = declare(
        None,
        "expose the start time of counters and histograms, as _created; None leaves it to "
        "PROMETHEUS_DISABLE_CREATED_SERIES, else True",
        check=optional(BOOLEAN))
    linger: float = declare(
        0.0, "seconds to wait at shutdown for one more complete scrape", "GENMETER_ENDPOINT_LINGER",
        check=SECONDS)
    # fmt: on

    def _check_together(self) -> None:
        for name, partner in (
            ("keyfile", "certfile"),
            ("client_ca_file", "certfile"),
            ("username", "password"),
            ("password", "username"),
        ):
            value, other = getattr(self, name), getattr(self, partner)
            shown = "a password" if name == "password" else ""
            check_pair(f"EndpointConfig.{name}", value, partner, other, shown=shown)

    @property
    def is_explicit(self) -> bool:
        """Whether an address in use is an error, rather than a warning."""
        return self.enabled is not False and (
            self.enabled is True or self.host is not None or self.port is not None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryConfig(Declared):
    """The local, bounded history.

    Raises:
        ConfigError: A value is invalid.
    """

    # fmt: off
    capacity: int = declare(
        100_000,
        "max number of calls, of scores and custom values, and of samples (102 bytes per "
        "call)",
        "GENMETER_HISTORY_CAPACITY", check=count(1, _MAX_CAPACITY))
    metadata_bytes: int = declare(
        METADATA_BYTES, "max bytes of their free metadata and feedback",
        "GENMETER_HISTORY_METADATA_BYTES", check=count())
    # fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalConfig(Declared):
    """The files that a monitor with a ``log_dir`` writes: ``metrics.jsonl``, ``afterimage.log``.

    Raises:
        ConfigError: A value is invalid.
    """

    # fmt: off
    max_bytes: int | None = declare(
        None,
        "bytes after which a file is rotated to metrics.1.jsonl etc., checked between writes of up "
        "to 512 events; None for never",
        "GENMETER_JOURNAL_MAX_BYTES", check=optional(count(1)))
    keep: int = declare(
        5, "number of rotated files to keep", "GENMETER_JOURNAL_KEEP", check=count(1))
    # fmt: on


def _limit(default: int, values: str, env: str, check: Check = _LABEL_LIMIT) -> Any:
    return declare(default, f"max number of {values}", env, check=check)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLimits(Declared):
    """Max number of values of each label in a process; further ones become ``other``.

    Raises:
        ConfigError: A value is invalid.
    """

    models: int = _limit(100, "models", "GENMETER_MAX_MODELS")
    response_models: int = _limit(100, "models that answered", "GENMETER_MAX_RESPONSE_MODELS")
    steps: int = _limit(50, "pipeline steps", "GENMETER_MAX_STEPS")
    error_types: int = _limit(50, "error types", "GENMETER_MAX_ERROR_TYPES")
    finish_reasons: int = _limit(50, "finish reasons", "GENMETER_MAX_FINISH_REASONS")
    evaluators: int = _limit(100, "evaluators", "GENMETER_MAX_EVALUATORS")
    scores: int = _limit(100, "score names", "GENMETER_MAX_SCORES")
    custom_metrics: int = _limit(100, "custom metrics", "GENMETER_MAX_CUSTOM_METRICS")
    providers: int = _limit(50, "providers", "GENMETER_MAX_PROVIDERS")
    operations: int = _limit(50, "operations", "GENMETER_MAX_OPERATIONS")
    sample_reasons: int = _limit(50, "rejection reasons of samples", "GENMETER_MAX_SAMPLE_REASONS")
    modalities: int = _limit(10, "token modalities", "GENMETER_MAX_MODALITIES")
    combinations: int = _limit(
        2_000, "label sets of one instrument", "GENMETER_MAX_COMBINATIONS", count(1, 1_000_000)
    )


_ENDS = {
    "counter": ("", "_total", "_created"),
    "updown": ("",),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
}


def _series(name: str, unit: str, kind: str) -> set[str]:
    """Return the names of a metric's family and series in Prometheus."""
    return {family_name(name, unit, kind) + end for end in _ENDS[kind]}


_OWN_NAMES = frozenset(row.name.lower() for row in INSTRUMENTS)
_OWN_SERIES = frozenset(
    {"target", "target_info"}.union(
        *(_series(row.name, row.unit, row.kind.exposed_as) for row in INSTRUMENTS)
    )
)


_KINDS = tuple(each.value for each in Kind if not each.value.startswith("observable"))
_MAX_BOUNDS = 10_000
_MAX_UNIT = 63  # OpenTelemetry's own limit
# Names of record_metric are labels too, so they have the same limit.
_NAME_PATTERN = re.compile(rf"[A-Za-z][A-Za-z0-9_./-]{{0,{MAX_LABEL - 1}}}")
_METRIC_NAME = Check(
    f"a letter and then at most {MAX_LABEL - 1} letters, digits, '_', '.', '-' or '/'",
    lambda value: _NAME_PATTERN.fullmatch(value) is not None,
    str.__str__,
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
# Encoding raises a ValueError for a surrogate.
_HELP = Check(
    "a text without surrogates", lambda value: isinstance(value, str) and value.encode() is not None
)


def _bounds(value: Any) -> tuple[float, ...]:
    bounds = tuple(map(float, islice(value, _MAX_BOUNDS + 1)))  # an iterator may have no end
    if len(bounds) > _MAX_BOUNDS:
        raise ValueError(value)
    if list(bounds) != sorted(set(bounds)) or not all(map(math.isfinite, bounds)):
        raise ValueError(value)
    return bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomMetric(Declared):
    """A custom instrument for ``record_metric``.

    Args:
        name: The OpenTelemetry instrument name; pass it to ``record_metric``.
        kind: ``counter`` (values are added; negative ones are dropped), ``updown``, ``gauge``
            (keeps the last value) or ``histogram``.
        unit: UCUM unit, such as ``s`` or ``By``; annotations are in braces.
        help: One sentence for readers of the scrape.
        bounds: Upper bounds of a histogram's buckets, in ``unit``, ascending.
        labels: Keys of ``record_metric``'s metadata that become attributes.

    Raises:
        ConfigError: A value is invalid.
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
                f"CustomMetric.labels must be distinct in Prometheus, where all characters but "
                f"letters and digits become '_', got {self.labels!r}"
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
        """The names of its family and series in Prometheus."""
        return _series(self.name, self.unit, self.kind)


def _check_distinct(rows: Sequence[CustomMetric]) -> None:
    owners: dict[str, str] = {}
    for row in rows:
        # OpenTelemetry's names are case-insensitive.
        keys = {f"name {row.name.lower()}", *row.series}
        other = next((owners[key] for key in sorted(keys) if key in owners), None)
        if other is not None:
            raise ConfigError(
                f"MonitorConfig.custom_metrics must be distinct, got {row.name!r} and {other!r}, "
                "which are one metric or share a series in Prometheus; rename one"
            )
        owners |= dict.fromkeys(keys, row.name)


def _check_not_older(rows: Sequence[CustomMetric]) -> None:
    names = {row.name.lower() for row in OLDER_INSTRUMENTS}
    series = set[str]().union(
        *(_series(row.name, row.unit, row.kind.exposed_as) for row in OLDER_INSTRUMENTS)
    )
    for row in rows:
        if row.name.lower() in names or row.series & series:
            raise ConfigError(
                f"MonitorConfig.custom_metrics must differ from the metrics of older_metric_names, "
                f"got {row.name!r}; rename it, or turn older_metric_names off"
            )


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
# The handler checks each address. Addresses may contain passwords.
_ALERTMANAGERS = Check(
    "a tuple of addresses",
    lambda value: value is None or isinstance(value, Sequence),
    parse=_LABELS.parse,
    is_secret=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig(Declared):
    """Settings beyond AfterImage's constructor arguments.

    The first monitor of a process sets the meter provider, the endpoint and the label limits, which
    all its monitors share. Later monitors with other settings log a warning.

    Raises:
        ConfigError: A value is invalid.
    """

    # fmt: off
    default_model: str | None = declare(
        None, "default model of a call", "GENMETER_DEFAULT_MODEL", check=optional(LABEL))
    models: tuple[str, ...] = declare(
        (), "comma-separated models to pre-register at 0", "GENMETER_MODELS", check=_LABELS)
    provider: str | None = declare(
        None, "default provider of a call, such as openai", "GENMETER_PROVIDER",
        check=optional(LABEL))
    operation: str = declare(
        "chat", "default operation of a call", "GENMETER_OPERATION", check=LABEL)
    job: str | None = declare(
        None, "name of the job: processes with the same name are one job on this machine",
        "GENMETER_JOB", check=optional(LABEL))
    resume: bool = declare(
        False, "go on with the totals of the earlier run of the named job", "GENMETER_RESUME",
        check=BOOLEAN)
    expected_samples: int | None = declare(
        None, "number of samples that the job is expected to produce", "GENMETER_EXPECTED_SAMPLES",
        check=optional(count(0, _MAX_SAMPLES)))
    prices: Accepts[PricesLike, PriceTable | None] = declare(
        None, "USD per million tokens by model: a mapping, a JSON or TOML file, or "
        "genai-prices; of several, comma-separated, the first with a price wins",
        "GENMETER_PRICES", check=Check("prices", convert=PriceTable.coerce, parse=split_prices))
    budget_tokens: int | None = declare(
        None, "total tokens of the job, in all its processes, from which on its next call raises "
        "BudgetExceededError", "GENMETER_BUDGET_TOKENS", check=optional(count(0, _MAX_SAMPLES)))
    budget_usd: float | None = declare(
        None, "the same for its cost, in USD", "GENMETER_BUDGET_USD",
        check=optional(number(0, _MAX_USD, what="USD")))
    score_scales: Mapping[str, tuple[float, float]] = declare(
        dict, "lowest and highest value of each score whose scale is not 0..1", check=_SCORE_SCALES)
    custom_metrics: tuple[CustomMetric, ...] = declare(
        (), "custom instruments for record_metric",
        check=tuple_of(instance_of(CustomMetric), "a tuple of CustomMetric(...)"))
    older_metric_names: bool = declare(
        False,
        "record calls as gen_ai.client.token.usage and gen_ai.client.operation.duration too",
        "GENMETER_OLDER_METRIC_NAMES", check=BOOLEAN)
    meter_provider: MeterProvider | Literal["builtin", "global"] = declare(
        "builtin", "builtin, global (the application's), or a MeterProvider",
        "GENMETER_METER_PROVIDER", check=_METER_PROVIDER)
    drain: Literal["thread", "inline"] = declare(
        "thread", "thread, or inline (in the caller's thread; for tests)", "GENMETER_DRAIN",
        check=one_of("thread", "inline"))
    handle_sigterm: bool = declare(
        True, "publish and push at SIGTERM, before it ends the process", "GENMETER_HANDLE_SIGTERM",
        check=BOOLEAN)
    log_dir: str | os.PathLike[str] | None = declare(
        None, "default folder for the journal and the log", "GENMETER_LOG_DIR",
        check=optional(PATH))
    evaluation_events: bool = declare(
        False, "send each score as an OpenTelemetry event, gen_ai.evaluation.result",
        "GENMETER_EVALUATION_EVENTS", check=BOOLEAN)
    alert_repeat_seconds: float | None = declare(
        None, "seconds after which a firing alert is sent again; None for never",
        "GENMETER_ALERT_REPEAT_SECONDS", check=optional(number(above=0, what="seconds")))
    alerts: Accepts[AlertSettings | str | os.PathLike[str] | None, AlertSettings] = declare(
        None, "AlertSettings or a TOML file: thresholds, objective and budgets of the alerts",
        "GENMETER_ALERTS", check=Check("AlertSettings", convert=AlertSettings.coerce))
    alertmanager_urls: tuple[str, ...] = declare(
        (), "comma-separated Alertmanagers to post alerts to, such as http://host:9093",
        "GENMETER_ALERTMANAGER_URL", check=_ALERTMANAGERS)
    endpoint: EndpointConfig = declare(
        EndpointConfig, "the scrape endpoint", check=instance_of(EndpointConfig))
    history: HistoryConfig = declare(
        HistoryConfig, "the local history", check=instance_of(HistoryConfig))
    journal: JournalConfig = declare(
        JournalConfig, "the files in log_dir", check=instance_of(JournalConfig))
    limits: LabelLimits = declare(
        LabelLimits, "the limits on labels", check=instance_of(LabelLimits))
    # fmt: on

    def _check_together(self) -> None:
        if self.resume and self.job is None:
            raise ConfigError(
                "MonitorConfig.resume (GENMETER_RESUME) must be False without a job, got True; set "
                "job (GENMETER_JOB) to the name of the job to go on with"
            )
        _check_distinct(self.custom_metrics)
        if self.older_metric_names:
            _check_not_older(self.custom_metrics)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Build the configuration from ``GENMETER_*`` variables.

        Args:
            environ: The variables, ``os.environ`` by default. An empty one counts as unset.
            **overrides: Fields set in code; they win over the environment.

        Raises:
            ConfigError: A variable is invalid; the message names it.
        """
        environ = os.environ if environ is None else _VARIABLES("environ", environ)
        _warn_of_unknown(environ)
        return build(cls, environ, overrides)


def describe_environment() -> list[tuple[str, str, str]]:
    """Return name, default and help of each environment variable, in order of declaration."""
    return list(variables(MonitorConfig))


_VARIABLES = Check(
    "a mapping of variables to their texts",
    lambda value: isinstance(value, Mapping),
    lambda value: {TEXT("a name", name): TEXT(name, text) for name, text in value.items()},
    is_secret=True,
)
_READ_ELSEWHERE = ("GENMETER_HOOKS",)  # by entry points, before there is a monitor


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    known = [*(name for name, _, _ in describe_environment()), *_READ_ELSEWHERE]
    for name in sorted(environ.keys() - set(known)):
        if name.startswith("GENMETER_"):
            near = difflib.get_close_matches(name, known, 1, cutoff=0.8)
            hint = f"did you mean {near[0]}?" if near else "correct or unset it"
            _logger.warning("ignoring %s: genmeter has no such variable; %s", name, hint)
