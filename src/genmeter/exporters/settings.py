"""What the standard ``OTEL_*`` variables say about metrics, read once and checked.

The specification's rules hold: an empty variable is the same as one that is not set, padding is
stripped, and a bad value is ignored with a warning, so no variable of these can end the job.
Variables of exporters that are not in use are not read. A warning never shows a secret.
"""

from __future__ import annotations

import base64
import functools
import logging
import math
import multiprocessing
import os
import re
import uuid
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION,
    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE,
    OTEL_EXPORTER_PROMETHEUS_HOST,
    OTEL_EXPORTER_PROMETHEUS_PORT,
    OTEL_METRIC_EXPORT_INTERVAL,
    OTEL_METRIC_EXPORT_TIMEOUT,
    OTEL_METRICS_EXEMPLAR_FILTER,
    OTEL_SDK_DISABLED,
)
from opentelemetry.sdk.resources import (
    PROCESS_PID,
    SERVICE_INSTANCE_ID,
    OTELResourceDetector,
    Resource,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "ENTRY_POINTS",
    "EXPORTERS",
    "MAIN_PID",
    "PROMETHEUS",
    "ExportSettings",
    "OtlpSettings",
    "is_header",
    "is_spawned",
    "redact",
    "resource_from_env",
]

EXPORTERS = "OTEL_METRICS_EXPORTER"
"""The variable that lists the exporters."""
ENTRY_POINTS = "opentelemetry_metrics_exporter"
"""The group of entry points in which distributions register exporters."""
PROMETHEUS = "prometheus"
MAIN_PID = "_GENMETER_MAIN_PID"
"""The variable in which ``genmeter run`` hands the main process's id to the processes of a job."""
GRPC = "grpc"
HTTP = "http/protobuf"

_T = TypeVar("_T")
_logger = logging.getLogger("genmeter")
# The names of OpenTelemetry's own entry points set the protocol; `otlp` asks the environment.
_OTLP_PROTOCOLS = {"otlp": None, "otlp_proto_grpc": GRPC, "otlp_proto_http": HTTP}
_BUILT_IN = (PROMETHEUS, "otlp", "console")
_DEFAULT_HOST = "127.0.0.1"
_DEFAULT_PORT = 9464  # the port that OpenTelemetry's Prometheus exporters share
_MAX_PORT = 65_535
_INTERVAL_MS = 60_000.0
_TIMEOUT_MS = 30_000.0
_OTLP_TIMEOUT_MS = 10_000.0
_DEFAULT_ENDPOINTS = {GRPC: "http://localhost:4317", HTTP: "http://localhost:4318/v1/metrics"}
_METRICS_PATH = "/v1/metrics"
_COMPRESSIONS = ("none", "gzip", "deflate")
_CUMULATIVE = "cumulative"
_EXPLICIT = "explicit_bucket_histogram"
_BASE2 = "base2_exponential_bucket_histogram"
_MOST_SHOWN = 80
_MILLISECONDS = "a number of milliseconds greater than 0"
_HEADER_NAMES = {GRPC: re.compile(r"[0-9a-z_.-]+"), HTTP: re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")}
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_USER_INFO = re.compile(r"//[^/?#\s]*@")
_PID = os.getpid()  # where this module was imported; a forked child has another


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without what must not be logged.

    Args:
        text: A message, perhaps of a library.
        secrets: Texts that are replaced; so is the user part of every URL.
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _USER_INFO.sub("//***@", text)


def is_header(protocol: str, name: str, value: str) -> bool:
    """Return whether a header can be sent: anything else would be shown in an error's text.

    Args:
        protocol: ``grpc`` or ``http/protobuf``.
        name: The name, in lower case.
        value: The value.
    """
    pattern = _HEADER_NAMES[protocol]
    return bool(pattern.fullmatch(name) and _HEADER_VALUE.fullmatch(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpSettings:
    """What one OTLP exporter needs.

    Attributes:
        protocol: ``grpc`` or ``http/protobuf``.
        endpoint: A URL without user and password, or a target as gRPC has it.
        insecure: Whether the connection has no TLS.
        headers: Names in lower case, and values.
        compression: ``none``, ``gzip`` or ``deflate``.
        timeout: Seconds that the exporter may take for one export.
        certificate: PEM file of the authorities to trust.
        client_key: PEM file of the client's private key.
        client_certificate: PEM file of the client's certificate chain.
    """

    protocol: str
    endpoint: str
    insecure: bool
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    compression: str = "none"
    timeout: float = _OTLP_TIMEOUT_MS / 1e3
    certificate: str | None = None
    client_key: str | None = None
    client_certificate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """What the environment says about the export of metrics.

    Attributes:
        exporters: Names, each once, in the order of the variable.
        host: Interface of the scrape endpoint.
        port: TCP port of the scrape endpoint, 0 for any free one.
        interval: Seconds from the end of one push to the start of the next.
        timeout: Seconds that one push may take.
        otlp: The settings of each OTLP exporter, by its name.
        temporality: What the OTLP exporters prefer: ``cumulative``, ``delta`` or ``lowmemory``.
        histogram_aggregation: What the OTLP exporters prefer.
        exemplar_filter: ``trace_based``, ``always_on`` or ``always_off``.
        warnings: What to log about variables that are ignored.
    """

    exporters: tuple[str, ...] = ()
    host: str = _DEFAULT_HOST
    port: int = _DEFAULT_PORT
    interval: float = _INTERVAL_MS / 1e3
    timeout: float = _TIMEOUT_MS / 1e3
    otlp: Mapping[str, OtlpSettings] = field(default_factory=dict)
    temporality: str = _CUMULATIVE
    histogram_aggregation: str = _EXPLICIT
    exemplar_filter: str = "trace_based"
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str],
        *,
        with_prometheus: bool = False,
        host: str | None = None,
        port: int | None = None,
    ) -> ExportSettings:
        """Read the variables; never raises for what they contain.

        Args:
            environ: The variables.
            with_prometheus: Whether the scrape endpoint was asked for in code.
            host: Its interface where code sets it; the variable is not read then.
            port: Its port where code sets it; the variable is not read then.
        """
        reader = _Reader(environ)
        if reader.first([(OTEL_SDK_DISABLED, _boolean)], False, "true or false"):
            return cls()
        names = reader.exporters()
        if with_prometheus and PROMETHEUS not in names:
            names.append(PROMETHEUS)
        values: dict[str, object] = {}
        if names:
            filters = ("trace_based", "always_on", "always_off")
            values["exemplar_filter"] = reader.choice(OTEL_METRICS_EXEMPLAR_FILTER, filters)
        if PROMETHEUS in names:
            values["host"] = host or reader.text(OTEL_EXPORTER_PROMETHEUS_HOST) or _DEFAULT_HOST
            values["port"] = reader.port() if port is None else port
        if set(names) - {PROMETHEUS}:
            values["interval"] = reader.seconds([OTEL_METRIC_EXPORT_INTERVAL], _INTERVAL_MS)
            values["timeout"] = reader.seconds([OTEL_METRIC_EXPORT_TIMEOUT], _TIMEOUT_MS)
        otlp = {name: reader.otlp(name) for name in names if name in _OTLP_PROTOCOLS}
        usable = {name: each for name, each in otlp.items() if each is not None}
        if usable:
            values["temporality"] = reader.choice(
                OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE,
                (_CUMULATIVE, "delta", "lowmemory"),
            )
            values["histogram_aggregation"] = reader.choice(
                OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION, (_EXPLICIT, _BASE2)
            )
        return cls(
            exporters=tuple(name for name in names if name not in otlp or name in usable),
            otlp=usable,
            warnings=tuple(reader.warnings),
            **values,  # type: ignore[arg-type]
        )

    @property
    def pushed(self) -> tuple[str, ...]:
        """The exporters that push."""
        return tuple(name for name in self.exporters if name != PROMETHEUS)

    @property
    def needs_sdk(self) -> bool:
        """Whether only the SDK's MeterProvider has what is asked for."""
        return (
            self.temporality != _CUMULATIVE
            or self.histogram_aggregation != _EXPLICIT
            or self.exemplar_filter == "always_on"
        )


class _Reader:
    """Reads variables, and collects a warning for each one that it ignores."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.warnings: list[str] = []

    def text(self, variable: str) -> str:
        return self._environ.get(variable, "").strip()

    def first(
        self, choices: Sequence[tuple[str, Callable[[str], _T]]], default: _T, expected: str
    ) -> _T:
        """Return the first variable's value that is set and can be parsed."""
        ignored: list[tuple[str, str]] = []
        value = default
        for variable, parse in choices:
            text = self.text(variable)
            if not text:
                continue
            try:
                value = parse(text)
                break
            except ValueError:
                ignored.append((variable, text))
        for variable, text in ignored:
            self.warnings.append(
                f"ignoring {variable}: must be {expected}, got {_shown(text)}; "
                f"using {_as_written(value)}"
            )
        return value

    def choice(self, variable: str, values: Sequence[str]) -> str:
        """Return one of some words; the first is the default."""
        expected = f"one of {', '.join(values)}"
        return self.first([(variable, lambda text: _one_of(text, values))], values[0], expected)

    def seconds(self, variables: Sequence[str], default_ms: float) -> float:
        """Return seconds from a variable in milliseconds."""
        choices = [(variable, _milliseconds) for variable in variables]
        return self.first(choices, default_ms, _MILLISECONDS) / 1e3

    def port(self) -> int:
        choices = [(OTEL_EXPORTER_PROMETHEUS_PORT, _port)]
        return self.first(choices, _DEFAULT_PORT, f"a whole number from 0 to {_MAX_PORT}")

    def exporters(self) -> list[str]:
        """Return the names that the variable lists; prometheus where none of them is known."""
        parts = [part.strip() for part in self.text(EXPORTERS).split(",")]
        names = list(dict.fromkeys(_folded(part) for part in parts if part))
        if names == ["none"]:
            return []
        known = [name for name in names if self._is_exporter(name, is_alone=len(names) == 1)]
        if names and not known:
            self.warnings.append(f"{EXPORTERS} names no exporter that is known; using {PROMETHEUS}")
        return known or [PROMETHEUS]

    def _is_exporter(self, name: str, *, is_alone: bool) -> bool:
        if name in _BUILT_IN:
            return True
        installed = sorted(entry_points(group=ENTRY_POINTS).names)
        if name in installed:
            return True
        if name == "none" and not is_alone:
            self.warnings.append(
                f"ignoring 'none' in {EXPORTERS}: must be alone, got a list with others; remove it "
                "or the others"
            )
            return False
        known = ", ".join(dict.fromkeys(["none", *_BUILT_IN, *installed]))
        self.warnings.append(
            f"ignoring {_shown(name)} in {EXPORTERS}: must be one of {known}; correct the name, or "
            "install the package that has this exporter"
        )
        return False

    def otlp(self, name: str) -> OtlpSettings | None:
        """Return an OTLP exporter's settings; None, and a warning, where it cannot be used."""
        protocol = _OTLP_PROTOCOLS[name] or self.first(
            [(each, _protocol) for each in _variables("PROTOCOL")], GRPC, f"{GRPC} or {HTTP}"
        )
        endpoint = self._endpoint(protocol)
        insecure = endpoint.insecure
        if insecure is None:
            choices = [(each, _boolean) for each in _variables("INSECURE")]
            insecure = self.first(choices, False, "true or false")
        files = {} if insecure else self._files(name, protocol)
        if files is None:
            return None
        return OtlpSettings(
            protocol=protocol,
            endpoint=endpoint.url,
            insecure=insecure,
            headers=self._headers(protocol, endpoint.authorization),
            compression=self.first(
                [
                    (each, lambda text: _one_of(text, _COMPRESSIONS))
                    for each in _variables("COMPRESSION")
                ],
                "none",
                f"one of {', '.join(_COMPRESSIONS)}",
            ),
            timeout=self.seconds(_variables("TIMEOUT"), _OTLP_TIMEOUT_MS),
            **files,
        )

    def _endpoint(self, protocol: str) -> _Endpoint:
        special, general = _variables("ENDPOINT")
        parse = functools.partial(_endpoint, protocol)
        base = functools.partial(parse, path=_METRICS_PATH if protocol == HTTP else "")
        default = parse(_DEFAULT_ENDPOINTS[protocol])
        return self.first([(special, parse), (general, base)], default, "a URL of http or https")

    def _headers(self, protocol: str, authorization: str | None) -> tuple[tuple[str, str], ...]:
        headers = {} if authorization is None else {"authorization": authorization}
        variable = next((each for each in _variables("HEADERS") if self.text(each)), None)
        pairs = [] if variable is None else self.text(variable).split(",")
        for position, pair in enumerate(pairs, 1):
            if not pair.strip():
                continue
            name, separator, value = (part.strip() for part in pair.partition("="))
            name = unquote(name).strip().lower()
            # Who writes a space does not write it in the encoding of URLs either.
            value = value if " " in value else unquote(value).strip()
            if separator and is_header(protocol, name, value):
                headers[name] = value
            else:
                self.warnings.append(
                    f"ignoring header {position} in {variable}: must be name=value with values in "
                    "the encoding of URLs; it is not shown here, since it may be a secret"
                )
        return tuple(headers.items())

    def _files(self, name: str, protocol: str) -> dict[str, str] | None:
        """Return the PEM files that are set; None where the connection cannot be as asked for."""
        files: dict[str, str] = {}
        for kind in ("certificate", "client_key", "client_certificate"):
            for variable in _variables(kind.upper()):
                path = self.text(variable)
                if path and kind not in files:
                    files[kind] = path
                    if (problem := _unreadable(path)) is not None:
                        self.warnings.append(
                            f"not using the exporter {name!r}: {variable} must be a readable PEM "
                            f"file, got {path!r} ({problem}); correct or unset it"
                        )
                        return None
        lacks_certificate = "client_key" in files and "client_certificate" not in files
        lacks_key = "client_certificate" in files and "client_key" not in files
        # Over HTTP the file of the certificate may contain the key.
        if lacks_certificate or (lacks_key and protocol == GRPC):
            special, general = _variables(
                "CLIENT_CERTIFICATE" if lacks_certificate else "CLIENT_KEY"
            )
            self.warnings.append(
                f"not using the exporter {name!r}: the client's key and its certificate must be "
                f"set together; set {special} or {general} too"
            )
            return None
        return files


@dataclass(frozen=True, slots=True)
class _Endpoint:
    url: str
    insecure: bool | None  # None where the target has no scheme that says so
    authorization: str | None = field(default=None, repr=False)


def _endpoint(protocol: str, text: str, path: str = "") -> _Endpoint:
    parts = urlsplit(text)
    if protocol == GRPC and "://" not in text:
        if any(character.isspace() for character in text):
            raise ValueError(text)
        return _Endpoint(text, None)  # a target in gRPC's own form, such as host:4317 or unix:path
    scheme = parts.scheme.lower()
    if protocol == GRPC and scheme not in {"http", "https"}:
        return _Endpoint(text, None)  # such as dns://authority/host
    if scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError(text)
    user, separator, address = parts.netloc.rpartition("@")
    if any(character.isspace() for character in address + parts.path):
        raise ValueError(text)
    url = urlunsplit(
        (scheme, address, parts.path.rstrip("/") + path if path else parts.path, parts.query, "")
    )
    authorization = None
    if separator:  # the libraries would log the URL with it
        name, _, password = user.partition(":")
        credentials = f"{unquote(name)}:{unquote(password)}".encode()
        authorization = f"Basic {base64.b64encode(credentials).decode()}"
    return _Endpoint(url, scheme == "http", authorization)


def _variables(suffix: str) -> tuple[str, str]:
    return f"OTEL_EXPORTER_OTLP_METRICS_{suffix}", f"OTEL_EXPORTER_OTLP_{suffix}"


def _as_written(value: object) -> str:
    """Return a value as one would write it in a variable."""
    if isinstance(value, _Endpoint):
        return value.url
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _shown(text: str) -> str:
    text = redact(text)
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}...")


def _folded(name: str) -> str:
    # The variable's own values are written in any case; entry points are not.
    return name.lower() if name.lower() in {"none", *_BUILT_IN} else name


def _milliseconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_PORT):
        raise ValueError(text)
    return int(text)


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[_one_of(text, ("true", "false"))]


def _protocol(text: str) -> str:
    return _one_of(text, (GRPC, HTTP))


def _one_of(text: str, values: Sequence[str]) -> str:
    if text.lower() not in values:
        raise ValueError(text)
    return text.lower()


def _unreadable(path: str) -> str | None:
    try:
        if not os.path.isdir(path):  # noqa: PTH112 - requests takes a folder of authorities too
            with open(path, "rb") as file:  # noqa: PTH123
                file.read(1)
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


# --- the resource ------------------------------------------------------------------------------


def resource_from_env(parent: Resource | None = None) -> Resource:
    """Return what this process says of itself: every process has a ``service.instance.id``.

    The main process keeps the id that the environment sets. A child that was spawned or forked
    shares that variable, and two processes must not push the same series, so a child's id has a
    suffix of its own.

    Args:
        parent: In a forked child, the parent's resource.
    """
    resource = _detected() if parent is None else parent
    is_child = parent is not None or os.getpid() != _PID or is_spawned()
    # A forked child has the parent's resource, whose id may be the parent's own.
    source = resource if parent is None else OTELResourceDetector().detect()
    shared = source.attributes.get(SERVICE_INSTANCE_ID)
    if shared and not is_child:
        return resource
    pid = os.getpid()
    unique = _unique_id(pid)
    own: dict[str, str | int] = {
        SERVICE_INSTANCE_ID: f"{shared}-{unique.partition('-')[0]}" if shared else unique
    }
    if PROCESS_PID in resource.attributes:
        own[PROCESS_PID] = pid
    return resource.merge(Resource(own))


def is_spawned() -> bool:
    """Return whether another process of the job started this one, as far as that is known."""
    main = os.environ.get(MAIN_PID, "")
    return multiprocessing.parent_process() is not None or main not in ("", str(os.getpid()))


def _detected() -> Resource:
    try:
        return Resource.create()
    except Exception as error:  # a detector's, or no thread could be had for the detectors
        _logger.warning(
            "the resource detectors failed (%r); using the resource attributes of "
            "OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME only",
            error,
        )
        return Resource.get_empty().merge(OTELResourceDetector().detect())


@functools.lru_cache(maxsize=1)
def _unique_id(pid: int) -> str:  # noqa: ARG001 - the id is of one process
    return str(uuid.uuid4())
