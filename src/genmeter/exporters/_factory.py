"""Create the exporters that the environment names, and a push for each."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION,
    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE,
    OTEL_EXPORTER_OTLP_METRICS_TIMEOUT,
)
from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    MetricExporter,
)
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
)

from genmeter.exporters._push import Push
from genmeter.exporters.settings import ENTRY_POINTS, EXPORTERS, GRPC, HTTP, is_header, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import requests
    from opentelemetry.sdk.metrics.export import MetricsData

    from genmeter.exporters.settings import ExportSettings, OtlpSettings

__all__ = ["make_exporter", "make_pushes", "preferences"]

_logger = logging.getLogger("genmeter")


def make_pushes(
    settings: ExportSettings,
    collect_for: Callable[[str], Callable[[float], MetricsData | None]],
    *,
    on_failure: Callable[[str], None],
    log: Callable[..., None] = _logger.log,
) -> list[Push]:
    """Return a push for each exporter that pushes, without starting it.

    An exporter that cannot be created is skipped with a warning. ``collect_for`` returns the
    function that collects for the exporter of a name; ``log`` is called like ``Logger.log``.
    """
    pushes: list[Push] = []
    for name in settings.pushed:
        make = partial(make_exporter, name, settings)
        otlp = settings.otlp.get(name)
        secrets = () if otlp is None else tuple(value for _, value in otlp.headers)
        try:
            exporter = make()
        except (Exception, SystemExit) as error:
            log(
                logging.WARNING,
                "cannot create the exporter %r of %s: %s; the job goes on without it; correct the "
                "variables that it reads, or remove it",
                name,
                EXPORTERS,
                redact(f"{type(error).__name__}: {error}", secrets),
            )
            continue
        pushes.append(
            Push(
                make,
                collect_for(name),
                name=name,
                interval=settings.interval,
                timeout=settings.timeout,
                on_failure=on_failure,
                exporter=exporter,
                secrets=secrets,
            )
        )
    return pushes


def make_exporter(name: str, settings: ExportSettings) -> MetricExporter:
    """Return a new exporter, one of those in ``settings.pushed``; its constructor may raise."""
    if name in settings.otlp:
        otlp = settings.otlp[name]
        create = _over_grpc if otlp.protocol == GRPC else _over_http
        with _usable_environment():
            return create(otlp, preferences(name, settings))
    if name == "console":
        return ConsoleMetricExporter(out=sys.stdout)
    (*_, found) = entry_points(group=ENTRY_POINTS, name=name)
    exporter = found.load()()
    if not isinstance(exporter, MetricExporter):
        raise TypeError(f"must be a MetricExporter, got {type(exporter).__name__}")
    return exporter


def preferences(name: str, settings: ExportSettings) -> dict[str, Any]:
    """Return the arguments of an exporter, or its reader, for temporality and aggregation.

    The variables are about OTLP only; other exporters get cumulative data.
    """
    if name not in settings.otlp:
        return {}
    delta, cumulative = AggregationTemporality.DELTA, AggregationTemporality.CUMULATIVE
    observed = delta if settings.temporality == "delta" else cumulative
    recorded = cumulative if settings.temporality == "cumulative" else delta
    is_explicit = settings.histogram_aggregation == "explicit_bucket_histogram"
    return {
        "preferred_temporality": {
            Counter: recorded,
            UpDownCounter: cumulative,
            Histogram: recorded,
            ObservableCounter: observed,
            ObservableUpDownCounter: cumulative,
            ObservableGauge: cumulative,
        },
        "preferred_aggregation": {
            Histogram: ExplicitBucketHistogramAggregation()
            if is_explicit
            else ExponentialBucketHistogramAggregation()
        },
    }


class _Headers(tuple[tuple[str, str], ...]):
    """Headers that are true even if empty, since the gRPC exporter replaces false ones.

    It would read them from the environment.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return True


def _over_grpc(otlp: OtlpSettings, preferred: dict[str, Any]) -> MetricExporter:
    # gRPC alone takes longer to import than the rest of the package.
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    compressions = {
        "none": grpc.Compression.NoCompression,
        "gzip": grpc.Compression.Gzip,
        "deflate": grpc.Compression.Deflate,
    }
    credentials = None
    if not otlp.insecure and (otlp.certificate or otlp.client_certificate):
        credentials = grpc.ssl_channel_credentials(
            root_certificates=_bytes_of(otlp.certificate),
            private_key=_bytes_of(otlp.client_key),
            certificate_chain=_bytes_of(otlp.client_certificate),
        )
    return OTLPMetricExporter(
        endpoint=otlp.endpoint,
        insecure=otlp.insecure,
        credentials=credentials,
        headers=_Headers(otlp.headers),
        timeout=otlp.timeout,
        compression=compressions[otlp.compression],
        **preferred,
    )


def _over_http(otlp: OtlpSettings, preferred: dict[str, Any]) -> MetricExporter:
    import netrc  # noqa: F401 - requests imports it in the first export, during which we may fork

    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    # A credential provider creates the session itself.
    has_provider = any(
        os.environ.get(f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{middle}CREDENTIAL_PROVIDER")
        for middle in ("", "METRICS_")
    )
    return OTLPMetricExporter(
        endpoint=otlp.endpoint,
        certificate_file=otlp.certificate,
        client_key_file=otlp.client_key,
        client_certificate_file=otlp.client_certificate,
        headers=dict(otlp.headers),
        timeout=otlp.timeout,
        compression=Compression(otlp.compression),
        session=None if has_provider else _session(),
        **preferred,
    )


def _bytes_of(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _session() -> requests.Session:
    import requests

    class Session(requests.Session):
        """Drops invalid headers, whose values an error would show, and does nothing in a fork.

        The exporter adds unchecked headers of the environment to its argument. In a forked child,
        where greenlets of the parent may still run, the connections are the parent's.
        """

        pid = os.getpid()

        def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
            if os.getpid() != self.pid:
                raise requests.exceptions.RequestException(
                    "the exporter belongs to another process"
                )
            both: list[Any] = [self.headers, request.headers]
            for headers in both:
                for name, value in list(headers.items()):
                    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
                    if not is_header(HTTP, name.lower(), text):
                        del headers[name]
            return super().prepare_request(request)

        def merge_environment_settings(
            self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
        ) -> Any:
            # REQUESTS_CA_BUNDLE would win over the certificate of this exporter.
            if verify is None and self.verify is not True:
                verify = self.verify
            return super().merge_environment_settings(url, proxies, stream, verify, cert)

    return Session()


# --- the environment as the exporters see it ---------------------------------------------------

_TEMPORALITIES = ("cumulative", "delta", "lowmemory")
_AGGREGATIONS = ("explicit_bucket_histogram", "base2_exponential_bucket_histogram")
_RETRYABLE = "OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES"


def _is_usable(variable: str, text: str) -> bool:
    stripped = text.strip()
    if variable == OTEL_EXPORTER_OTLP_METRICS_TIMEOUT:
        return stripped.isascii() and stripped.isdigit()
    if variable == OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE:
        return stripped.lower() in _TEMPORALITIES
    if variable == OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION:
        return text in _AGGREGATIONS
    if variable == _RETRYABLE:
        import grpc

        names = [name.strip().upper() for name in text.split(",") if name.strip()]
        return bool(stripped) and all(name in grpc.StatusCode.__members__ for name in names)
    return bool(stripped)


@contextlib.contextmanager
def _usable_environment() -> Iterator[None]:
    """Hide empty and invalid variables while an exporter is created, and keep its parser quiet.

    The exporters read some variables whatever their arguments, and an empty or invalid one ends the
    constructor. Valid ones stay, since other threads may read them. The parser of headers would log
    the value of an invalid one.
    """
    prefixes = ("OTEL_EXPORTER_OTLP_", "OTEL_PYTHON_EXPORTER_OTLP_")
    hidden = {
        variable: text
        for variable, text in os.environ.copy().items()
        if variable.startswith(prefixes) and not _is_usable(variable, text)
    }
    parser = logging.getLogger("opentelemetry.util.re")
    me = threading.get_ident()

    def is_other_thread(_record: logging.LogRecord) -> bool:
        return threading.get_ident() != me

    parser.addFilter(is_other_thread)
    try:
        for variable in hidden:
            os.environ.pop(variable, None)
        yield
    finally:
        os.environ.update(hidden)
        parser.removeFilter(is_other_thread)
