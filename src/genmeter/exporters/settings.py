"""The standard ``OTEL_*`` variables about metrics, read once and checked.

The specification's rules apply: an empty variable counts as unset, padding is stripped, and an
invalid value is ignored with a warning, so none of these variables can end the job. Variables of
exporters that are not in use are not read. A warning never contains a secret.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import os
import re
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any
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

from genmeter.config.checks import BOOLEAN, NAME, PORT, Check, number, one_of
from genmeter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "ENTRY_POINTS",
    "EXPORTERS",
    "GRPC",
    "HTTP",
    "PROMETHEUS",
    "ExportSettings",
    "OtlpSettings",
    "is_header",
    "redact",
]

EXPORTERS = "OTEL_METRICS_EXPORTER"
"""The variable that lists the exporters."""
ENTRY_POINTS = "opentelemetry_metrics_exporter"
"""The group of entry points in which distributions register exporters."""
PROMETHEUS = "prometheus"
GRPC = "grpc"
HTTP = "http/protobuf"

# The names of OpenTelemetry's own entry points set the protocol; `otlp` reads it from a variable.
_OTLP_PROTOCOLS = {"otlp": None, "otlp_proto_grpc": GRPC, "otlp_proto_http": HTTP}
_BUILT_IN = (PROMETHEUS, "otlp", "console")
_DEFAULT_ENDPOINTS = {GRPC: "http://localhost:4317", HTTP: "http://localhost:4318"}
_MAX_SHOWN = 80
_HEADER_NAMES = {GRPC: re.compile(r"[0-9a-z_.-]+"), HTTP: re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")}
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_USER_INFO = re.compile(r"//[^/?#\s]*@")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text with secrets and the user part of every URL replaced."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _USER_INFO.sub("//***@", text)


def is_header(protocol: str, name: str, value: str) -> bool:
    """Return whether a header with a name in lower case can be sent.

    An error of the libraries would show the value of any other.
    """
    pattern = _HEADER_NAMES[protocol]
    return bool(pattern.fullmatch(name) and _HEADER_VALUE.fullmatch(value))


# --- the table of variables ---------------------------------------------------------------------


def _words(*values: str) -> Check:
    return dataclasses.replace(one_of(*values), parse=str.lower)


# OpenTelemetry, unlike our own variables, takes no 1 and 0.
_BOOLEAN = dataclasses.replace(
    BOOLEAN, parse=lambda text: {"true": True, "false": False}.get(text.lower(), text)
)
_MILLISECONDS = number(above=0, what="milliseconds")
_SECONDS = dataclasses.replace(
    _MILLISECONDS, convert=lambda value: _MILLISECONDS.convert(value) / 1e3
)


def _otlp_names(suffix: str) -> tuple[str, str]:
    return f"OTEL_EXPORTER_OTLP_METRICS_{suffix}", f"OTEL_EXPORTER_OTLP_{suffix}"


def _otlp_checks(suffix: str, check: Check) -> dict[str, Check]:
    return dict.fromkeys(_otlp_names(suffix), check)


def _variable(default: str, checks: Mapping[str, Check], used_by: str = "") -> Any:
    """Declare a field that is read from variables; the first valid one wins.

    Args:
        default: The text of the default value.
        checks: The variables and what their values must be.
        used_by: The exporters that use it: ``prometheus``, ``push``, ``otlp``, or empty for all.
    """
    name, check = next(iter(checks.items()))
    metadata = {"default": default, "checks": checks, "used_by": used_by}
    return field(default=check(name, check.read(default)), metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpSettings:
    """The settings of one OTLP exporter.

    Attributes:
        protocol: ``grpc`` or ``http/protobuf``.
        endpoint: A URL without user and password, or a target in gRPC's own form.
        insecure: Whether the connection has no TLS.
        headers: Names in lower case, and values.
        compression: ``none``, ``gzip`` or ``deflate``.
        timeout: Seconds that the exporter may take for one export.
        certificate: PEM file of the authorities to trust.
        client_key: PEM file of the client's private key.
        client_certificate: PEM file of the client's certificate chain.
    """

    protocol: str = _variable(GRPC, _otlp_checks("PROTOCOL", _words(GRPC, HTTP)))
    endpoint: str
    insecure: bool = _variable("false", _otlp_checks("INSECURE", _BOOLEAN))
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    compression: str = _variable(
        "none", _otlp_checks("COMPRESSION", _words("none", "gzip", "deflate"))
    )
    timeout: float = _variable("10000", _otlp_checks("TIMEOUT", _SECONDS))
    certificate: str | None = None
    client_key: str | None = None
    client_certificate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """The environment's settings for the export of metrics.

    Attributes:
        exporters: Names, each once, in the order of the variable.
        host: Interface of the scrape endpoint.
        port: TCP port of the scrape endpoint, 0 for any free one.
        interval: Seconds from the end of one push to the start of the next.
        timeout: Seconds that one push may take.
        otlp: The settings of each OTLP exporter, by its name.
        temporality: What the OTLP exporters prefer: ``cumulative``, ``delta`` or ``lowmemory``.
        histogram_aggregation: What the OTLP exporters prefer: ``explicit_bucket_histogram`` or
            ``base2_exponential_bucket_histogram``.
        exemplar_filter: ``trace_based``, ``always_on`` or ``always_off``.
        warnings: Messages about variables that are ignored.
    """

    exporters: tuple[str, ...] = ()
    host: str = _variable("127.0.0.1", {OTEL_EXPORTER_PROMETHEUS_HOST: NAME}, PROMETHEUS)
    # The port that OpenTelemetry's Prometheus exporters share.
    port: int = _variable("9464", {OTEL_EXPORTER_PROMETHEUS_PORT: PORT}, PROMETHEUS)
    interval: float = _variable("60000", {OTEL_METRIC_EXPORT_INTERVAL: _SECONDS}, "push")
    timeout: float = _variable("30000", {OTEL_METRIC_EXPORT_TIMEOUT: _SECONDS}, "push")
    otlp: Mapping[str, OtlpSettings] = field(default_factory=dict)
    temporality: str = _variable(
        "cumulative",
        {
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: _words(
                "cumulative", "delta", "lowmemory"
            )
        },
        "otlp",
    )
    histogram_aggregation: str = _variable(
        "explicit_bucket_histogram",
        {
            OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION: _words(
                "explicit_bucket_histogram", "base2_exponential_bucket_histogram"
            )
        },
        "otlp",
    )
    exemplar_filter: str = _variable(
        "trace_based",
        {OTEL_METRICS_EXEMPLAR_FILTER: _words("trace_based", "always_on", "always_off")},
    )
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
        """Read the variables; never raises for their values.

        Args:
            environ: The variables.
            with_prometheus: Whether the scrape endpoint was enabled in code.
            host: Its interface if it is set in code; the variable is not read then.
            port: Its port if it is set in code; the variable is not read then.
        """
        reader = _Reader(environ)
        if reader.value("false", {OTEL_SDK_DISABLED: _BOOLEAN}):
            return cls()
        names = reader.exporters()
        if with_prometheus and PROMETHEUS not in names:
            names.append(PROMETHEUS)
        otlp = {name: reader.otlp(name) for name in names if name in _OTLP_PROTOCOLS}
        usable = {name: each for name, each in otlp.items() if each is not None}
        in_use = {
            "": bool(names),
            PROMETHEUS: PROMETHEUS in names,
            "push": bool(set(names) - {PROMETHEUS}),
            "otlp": bool(usable),
        }
        values = {name: each for name, each in (("host", host), ("port", port)) if each is not None}
        for each in dataclasses.fields(cls):
            declared = each.metadata
            if declared and in_use[declared["used_by"]] and each.name not in values:
                values[each.name] = reader.value(declared["default"], declared["checks"])
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
        """Whether only the SDK's MeterProvider has what the settings require."""
        return (
            self.temporality != "cumulative"
            or self.histogram_aggregation != "explicit_bucket_histogram"
            or self.exemplar_filter == "always_on"
        )


# --- reading -------------------------------------------------------------------------------------


class _Reader:
    """Reads variables, and collects a warning for each one that it ignores."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.warnings: list[str] = []

    def text(self, variable: str) -> str:
        return self._environ.get(variable, "").strip()

    def value(self, default: str, checks: Mapping[str, Check]) -> Any:
        """Return the first valid value of some variables, else that of the default's text."""
        *_, (last, check) = checks.items()
        used, value = default, check(last, check.read(default))
        rejected: list[str] = []
        for variable, check in checks.items():
            if not (text := self.text(variable)):
                continue
            try:
                used, value = text, check(variable, check.read(text))
                break
            except ConfigError:
                rejected.append(f"ignoring {variable}: must be {check.what}, got {_shown(text)}")
        self.warnings += [f"{each}; using {redact(used)}" for each in rejected]
        return value

    def exporters(self) -> list[str]:
        """Return the names that the variable lists; prometheus if none of them is known."""
        parts = [part.strip() for part in self.text(EXPORTERS).split(",")]
        # The variable's own values may be in any case; entry points may not.
        lower = {"none", *_BUILT_IN}
        names = list(
            dict.fromkeys(part.lower() if part.lower() in lower else part for part in parts if part)
        )
        if names == ["none"]:
            return []
        known = [name for name in names if self._is_exporter(name)]
        if names and not known:
            self.warnings.append(f"{EXPORTERS} names no known exporter; using {PROMETHEUS}")
        return known or [PROMETHEUS]

    def _is_exporter(self, name: str) -> bool:
        if name in _BUILT_IN:
            return True
        installed = sorted(entry_points(group=ENTRY_POINTS).names)
        if name in installed:
            return True
        if name == "none":
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
        """Return an OTLP exporter's settings; None, and a warning, if it cannot be used."""
        declared = {each.name: each.metadata for each in dataclasses.fields(OtlpSettings)}

        def value(name: str) -> Any:
            return self.value(declared[name]["default"], declared[name]["checks"])

        protocol = _OTLP_PROTOCOLS[name] or value("protocol")
        special, general = _otlp_names("ENDPOINT")
        path = "/v1/metrics" if protocol == HTTP else ""
        endpoint: _Endpoint = self.value(
            _DEFAULT_ENDPOINTS[protocol],
            {special: _endpoint_check(protocol), general: _endpoint_check(protocol, path)},
        )
        insecure = value("insecure") if endpoint.insecure is None else endpoint.insecure
        files = {} if insecure else self._files(name, protocol)
        if files is None:
            return None
        return OtlpSettings(
            protocol=protocol,
            endpoint=endpoint.url,
            insecure=insecure,
            headers=self._headers(protocol, endpoint.authorization),
            compression=value("compression"),
            timeout=value("timeout"),
            **files,
        )

    def _headers(self, protocol: str, authorization: str | None) -> tuple[tuple[str, str], ...]:
        headers = {} if authorization is None else {"authorization": authorization}
        variable = next(filter(self.text, _otlp_names("HEADERS")), "")
        for position, pair in enumerate(self.text(variable).split(","), 1):
            if not pair.strip():
                continue
            name, separator, value = (part.strip() for part in pair.partition("="))
            name = unquote(name).strip().lower()
            # A value with a space is not URL-encoded.
            value = value if " " in value else unquote(value).strip()
            if separator and is_header(protocol, name, value):
                headers[name] = value
            else:
                self.warnings.append(
                    f"ignoring header {position} in {variable}: must be name=value with a "
                    "URL-encoded value; it is not shown here, since it may be a secret"
                )
        return tuple(headers.items())

    def _files(self, name: str, protocol: str) -> dict[str, str] | None:
        """Return the PEM files that are set; None, and a warning, if they cannot be used."""
        files: dict[str, str] = {}
        for kind in ("certificate", "client_key", "client_certificate"):
            variable = next(filter(self.text, _otlp_names(kind.upper())), "")
            if not variable:
                continue
            path = files[kind] = self.text(variable)
            if (problem := _unreadable(path)) is not None:
                self.warnings.append(
                    f"not using the exporter {name!r}: {variable} must be a readable PEM file, "
                    f"got {path!r} ({problem}); correct or unset it"
                )
                return None
        lacks_certificate = "client_key" in files and "client_certificate" not in files
        lacks_key = "client_certificate" in files and "client_key" not in files
        # Over HTTP the file of the certificate may contain the key.
        if lacks_certificate or (lacks_key and protocol == GRPC):
            missing = "CLIENT_CERTIFICATE" if lacks_certificate else "CLIENT_KEY"
            self.warnings.append(
                f"not using the exporter {name!r}: the client's key and its certificate must be "
                f"set together; set {' or '.join(_otlp_names(missing))} too"
            )
            return None
        return files


@dataclass(frozen=True, slots=True)
class _Endpoint:
    url: str
    insecure: bool | None  # None if the target has no scheme of HTTP
    authorization: str | None = None


def _endpoint_check(protocol: str, path: str = "") -> Check:
    return Check(
        "a URL of http or https", convert=functools.partial(_endpoint, protocol, path=path)
    )


def _endpoint(protocol: str, text: str, path: str) -> _Endpoint:
    parts = urlsplit(text)
    is_url = parts.scheme in {"http", "https"} and "://" in text
    user, separator, address = parts.netloc.rpartition("@")
    if any(character.isspace() for character in (address + parts.path if is_url else text)):
        raise ValueError(text)
    if protocol == GRPC and not is_url:
        return _Endpoint(text, None)  # gRPC's own form: host:4317, unix:path, dns://authority/host
    if not is_url or not parts.hostname or parts.port == 0:
        raise ValueError(text)
    if path:
        path = parts.path.rstrip("/") + path
    url = urlunsplit((parts.scheme, address, path or parts.path, parts.query, ""))
    authorization = None
    if separator:  # the libraries would log the URL with it
        name, _, password = user.partition(":")
        credentials = f"{unquote(name)}:{unquote(password)}".encode()
        authorization = f"Basic {base64.b64encode(credentials).decode()}"
    return _Endpoint(url, parts.scheme == "http", authorization)


def _shown(text: str) -> str:
    text = redact(text)
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")


def _unreadable(path: str) -> str | None:
    try:
        if not os.path.isdir(path):  # noqa: PTH112 - requests takes a folder of authorities too
            with open(path, "rb") as file:  # noqa: PTH123
                file.read(1)
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None
