"""Making the exporters that the environment names, and what pushes to them."""

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
from genmeter.exporters.settings import ENTRY_POINTS, EXPORTERS, is_header, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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
    """Make what pushes; nothing is started yet.

    An exporter that cannot be made is skipped with a warning.

    Args:
        settings: Which exporters, and how often they push.
        collect_for: Called with each exporter's name; returns what collects for it.
        on_failure: Called with an exporter's name at each push that fails.
        log: Called as ``Logger.log`` is.
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
                "%s names %r, which cannot be made: %s; the job goes on without it; correct the "
                "variables that it reads, or remove it",
                EXPORTERS,
                name,
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
    """Make an exporter.

    Args:
        name: One of those in ``settings.pushed``.
        settings: What the environment says.

    Raises:
        TypeError: An entry point gives something else.
        Exception: Whatever an exporter raises that cannot be made.
    """
    if name in settings.otlp:
        otlp = settings.otlp[name]
        with _usable_environment():
            return (
                _over_grpc(otlp, settings)
                if otlp.protocol == "grpc"
                else _over_http(otlp, settings)
            )
    if name == "console":
        return ConsoleMetricExporter(out=sys.stdout)
    (*_, found) = entry_points(group=ENTRY_POINTS, name=name)
    exporter = found.load()()
    if not isinstance(exporter, MetricExporter):
        raise TypeError(f"must be a MetricExporter, got {type(exporter).__name__}")
    return exporter


def preferences(name: str, settings: ExportSettings) -> dict[str, Any]:
    """Return the temporality and the aggregation that an exporter prefers.

    Args:
        name: The exporter's name.
        settings: What the environment says.

    Returns:
        The arguments for an SDK reader; none for an exporter that the variables are not for, which
        gets cumulative data.
    """
    return _preferred(settings) if name in settings.otlp else {}


def _preferred(settings: ExportSettings) -> dict[str, Any]:
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
    """Headers that count as given even if there are none.

    The exporter over gRPC reads the environment where its argument is false.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return True


def _over_grpc(otlp: OtlpSettings, settings: ExportSettings) -> MetricExporter:
    # Imported here because gRPC alone takes longer to import than the rest of the package.
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
        **_preferred(settings),
    )


def _over_http(otlp: OtlpSettings, settings: ExportSettings) -> MetricExporter:
    import netrc  # noqa: F401 - requests imports it in the first export, while this may be forked

    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter(
        endpoint=otlp.endpoint,
        certificate_file=otlp.certificate,
        client_key_file=otlp.client_key,
        client_certificate_file=otlp.client_certificate,
        headers=dict(otlp.headers),
        timeout=otlp.timeout,
        compression=Compression(otlp.compression),
        session=None if _has_credential_provider(os.environ) else _session(),
        **_preferred(settings),
    )


def _bytes_of(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _has_credential_provider(environ: Mapping[str, str]) -> bool:
    # The provider makes the session itself then.
    return any(
        environ.get(f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{middle}CREDENTIAL_PROVIDER")
        for middle in ("", "METRICS_")
    )


def _session() -> requests.Session:
    import requests

    class Session(requests.Session):
        """Sends no header that could not be sent: an error would show its value.

        The exporter adds the headers of the environment to those that it is given, unchecked. Nor
        does a session send anything from a process that was forked from its own, where greenlets of
        the parent may live on: its connections are the parent's.
        """

        pid = os.getpid()

        def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
            if os.getpid() != self.pid:
                raise requests.exceptions.RequestException("the exporter is another process's")
            found: list[Any] = [self.headers, request.headers]
            for headers in found:
                for name, value in list(headers.items()):
                    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
                    if not is_header("http/protobuf", name.lower(), text):
                        del headers[name]
            return super().prepare_request(request)

        def merge_environment_settings(
            self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any
        ) -> Any:
            # REQUESTS_CA_BUNDLE would win over the certificate that was set for this exporter.
            if verify is None and self.verify is not True:
                verify = self.verify
            return super().merge_environment_settings(url, proxies, stream, verify, cert)

    return Session()


# --- the environment as the exporters see it ---------------------------------------------------

_TEMPORALITIES = ("cumulative", "delta", "lowmemory")
_AGGREGATIONS = ("explicit_bucket_histogram", "base2_exponential_bucket_histogram")
_RETRYABLE = "OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES"


def _is_usable(variable: str, text: str) -> bool:
    if not text.strip():
        return False
    if variable == OTEL_EXPORTER_OTLP_METRICS_TIMEOUT:
        return text.strip().isascii() and text.strip().isdigit()
    if variable == OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE:
        return text.strip().lower() in _TEMPORALITIES
    if variable == OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION:
        return text in _AGGREGATIONS
    if variable == _RETRYABLE:
        import grpc

        names = [name.strip().upper() for name in text.split(",") if name.strip()]
        return all(name in grpc.StatusCode.__members__ for name in names)
    return True


@contextlib.contextmanager
def _usable_environment() -> Iterator[None]:
    """Hide, while an exporter is made, the variables that count as unset.

    The exporters read some of them whatever arguments they are given, and an empty or bad one ends
    the constructor. Whoever else reads them meanwhile finds unset what counts as unset. Nor does
    the parser of headers log here: it would show a bad one's value.
    """
    prefixes = ("OTEL_EXPORTER_OTLP_", "OTEL_PYTHON_EXPORTER_OTLP_")
    hidden = {
        variable: text
        for variable, text in os.environ.copy().items()
        if variable.startswith(prefixes) and not _is_usable(variable, text)
    }
    parser = logging.getLogger("opentelemetry.util.re")
    is_other_thread = _OtherThreads()
    parser.addFilter(is_other_thread)
    try:
        for variable in hidden:
            os.environ.pop(variable, None)
        yield
    finally:
        os.environ.update(hidden)
        parser.removeFilter(is_other_thread)


class _OtherThreads(logging.Filter):
    """Drops what this thread logs."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, _record: logging.LogRecord) -> bool:
        return threading.get_ident() != self._thread
