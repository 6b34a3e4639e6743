"""OTLP, the console and installed exporters, as the standard environment variables ask for them.

The exporters read ``OTEL_EXPORTER_OTLP_*`` themselves. What is read here is which of them there are,
OTLP's protocol, and how often they push.
"""

from __future__ import annotations

import math
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_COMPRESSION,
    OTEL_EXPORTER_OTLP_METRICS_COMPRESSION,
    OTEL_EXPORTER_OTLP_METRICS_PROTOCOL,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_METRIC_EXPORT_INTERVAL,
    OTEL_METRIC_EXPORT_TIMEOUT,
)
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricExporter

from genmeter.errors import ConfigError
from genmeter.outputs.push import Push

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from grpc import Compression

__all__ = ["Push", "exporter_names", "pushes_from_env"]

_EXPORTERS_VARIABLE = "OTEL_METRICS_EXPORTER"
_BUILT_IN = ("prometheus", "otlp", "console")
_GROUP = "opentelemetry_metrics_exporter"
_INTERVAL_MS = 60_000.0
_TIMEOUT_MS = 30_000.0


def exporter_names(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names that ``OTEL_METRICS_EXPORTER`` lists, each once, in its order.

    Args:
        environ: The environment's variables.

    Returns:
        The names; ``("prometheus",)`` where the variable is unset or empty, ``()`` for ``none``.

    Raises:
        ConfigError: A name is unknown: neither built in nor registered as an entry point of the
            group ``opentelemetry_metrics_exporter``; or ``none`` stands beside others.
    """
    text = environ.get(_EXPORTERS_VARIABLE, "")
    names = dict.fromkeys(_folded(part.strip()) for part in text.split(",") if part.strip())
    if not names:
        return ("prometheus",)
    if list(names) == ["none"]:
        return ()
    if "none" in names:
        raise ConfigError(
            f"{_EXPORTERS_VARIABLE} is {text!r}; give none by itself, or leave it out of the list"
        )
    for name in names:
        if name not in _BUILT_IN and name not in (found := _installed()):
            known = ", ".join(dict.fromkeys(["none", *_BUILT_IN, *found]))
            raise ConfigError(
                f"{_EXPORTERS_VARIABLE} is {text!r}, and no exporter is called {name!r}; give "
                f"one of, or a list of: {known}; or install the package that brings it"
            )
    return tuple(names)


def pushes_from_env(
    names: Iterable[str],
    environ: Mapping[str, str],
    *,
    cardinality_limit: int,
    on_failure: Callable[[str], None],
) -> list[Push]:
    """Make what pushes; nothing is started yet.

    Args:
        names: As `exporter_names` gives them; ``prometheus``, which is pulled, is passed over.
        environ: Where the protocol, the interval and the time-out are read. The exporters read
            the rest from the process's own environment.
        cardinality_limit: Label sets that one instrument may have.
        on_failure: Told an exporter's name at each push that fails.

    Raises:
        ConfigError: A variable has a value that cannot be used, or an exporter cannot be made.
    """
    pushed = [name for name in names if name != "prometheus"]
    if not pushed:
        return []
    interval = _seconds(environ, OTEL_METRIC_EXPORT_INTERVAL, _INTERVAL_MS)
    timeout = _seconds(environ, OTEL_METRIC_EXPORT_TIMEOUT, _TIMEOUT_MS)
    return [
        Push(
            _exporter(name, environ),
            name=name,
            interval=interval,
            timeout=timeout,
            cardinality_limit=cardinality_limit,
            on_failure=on_failure,
        )
        for name in pushed
    ]


def _folded(name: str) -> str:
    # The variable's own values are written in any case; entry points are not.
    return name.lower() if name.lower() in {"none", *_BUILT_IN} else name


def _installed() -> list[str]:
    return sorted(entry_points(group=_GROUP).names)


def _seconds(environ: Mapping[str, str], variable: str, default_ms: float) -> float:
    text = environ.get(variable, "").strip()
    if not text:
        return default_ms / 1e3
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise ConfigError(
            f"{variable} is {text!r}; give milliseconds, a number more than 0 "
            f"(the default is {default_ms:.0f})"
        )
    return milliseconds / 1e3


def _exporter(name: str, environ: Mapping[str, str]) -> MetricExporter:
    try:
        if name == "otlp":
            return _otlp_exporter(environ)
        if name == "console":
            return ConsoleMetricExporter(out=sys.stdout)
        exporter = _from_entry_point(name)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{_EXPORTERS_VARIABLE} asks for {name!r}, which cannot be made: {error!r}; "
            "correct the variables that it reads, or leave it out"
        ) from error
    if not isinstance(exporter, MetricExporter):
        raise ConfigError(
            f"{_EXPORTERS_VARIABLE} asks for {name!r}, which is a {type(exporter).__name__} and "
            "not a MetricExporter; leave it out, or pass a MeterProvider that has it"
        )
    return exporter


def _otlp_exporter(environ: Mapping[str, str]) -> MetricExporter:
    # Imported here because gRPC alone takes longer to import than the rest of the package.
    variable = OTEL_EXPORTER_OTLP_METRICS_PROTOCOL
    if not environ.get(variable, "").strip():
        variable = OTEL_EXPORTER_OTLP_PROTOCOL
    protocol = environ.get(variable, "").strip().lower()
    if protocol in {"", "grpc"}:
        from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as over_grpc

        return over_grpc.OTLPMetricExporter(compression=_grpc_compression(environ))
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http import metric_exporter as over_http

        return over_http.OTLPMetricExporter()
    raise ConfigError(f"{variable} is {environ[variable]!r}; give grpc or http/protobuf")


def _grpc_compression(environ: Mapping[str, str]) -> Compression | None:
    """Read the standard value ``none``, which the exporter over gRPC does not know."""
    import grpc

    for variable in (OTEL_EXPORTER_OTLP_METRICS_COMPRESSION, OTEL_EXPORTER_OTLP_COMPRESSION):
        value = environ.get(variable, "").strip().lower()
        if value:
            return grpc.Compression.NoCompression if value == "none" else None
    return None


def _from_entry_point(name: str) -> object:
    (*_, found) = entry_points(group=_GROUP, name=name)
    make = found.load()
    return make()
