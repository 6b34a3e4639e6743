"""Receivers of OTLP metrics on the loopback interface, and dead endpoints.

`HttpReceiver` and `GrpcReceiver` are context managers that keep every request that they accept::

    with HttpReceiver() as receiver:
        ...  # a push to receiver.endpoint, the value for OTEL_EXPORTER_OTLP_ENDPOINT
        assert receiver.wait_for(lambda: receiver.points("jobs"))

gRPC's threads do not survive a fork of the same process; a test that forks uses HTTP.
"""

from __future__ import annotations

import gzip
import socket
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BlackHole", "ClosedPort", "GrpcReceiver", "Histogram", "HttpReceiver", "Receiver"]

_DECODERS = {"": bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}


class Histogram(NamedTuple):
    """The value of a histogram's point."""

    count: int
    sum: float


Point = tuple[dict[str, Any], Any]


class Receiver:
    """Base of the receivers: stores the requests in the order of arrival.

    Attributes:
        endpoint: The URL for ``OTEL_EXPORTER_OTLP_ENDPOINT``.
        failing: The HTTP status or `grpc.StatusCode` to reject requests with; None to accept.
        refused: The number of rejected requests.
        headers: Headers of the rejections over HTTP.
    """

    endpoint: str

    def __init__(self) -> None:
        self.failing: Any = None
        self.refused = 0
        self.headers: dict[str, str] = {}
        self._requests: list[ExportMetricsServiceRequest] = []
        self._changed = threading.Condition()

    @property
    def requests(self) -> list[ExportMetricsServiceRequest]:
        """The decoded requests so far."""
        with self._changed:
            return list(self._requests)

    def accept(self, request: ExportMetricsServiceRequest) -> None:
        """Store a request."""
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()

    def refuse(self) -> None:
        """Count a rejected request."""
        with self._changed:
            self.refused += 1
            self._changed.notify_all()

    def wait_for(self, predicate: Callable[[], Any], timeout: float = 30.0) -> bool:
        """Wait at most ``timeout`` seconds for a predicate, and return whether it is true."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not (held := bool(predicate())) and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, 0.1))
        return held

    def points(self, metric_name: str) -> list[Point]:
        """Return every point of a metric, in the order of arrival.

        Returns:
            Attributes and value: a number, or a `Histogram`.
        """
        return [(attributes, value) for _, attributes, value in self._all_points(metric_name)]

    def latest(self, metric_name: str) -> list[Point]:
        """Return the last point of each series; series of different processes are different."""
        series: dict[tuple[str, str], Point] = {}
        for resource, attributes, value in self._all_points(metric_name):
            key = (repr(sorted(resource.items())), repr(sorted(attributes.items())))
            series[key] = (attributes, value)
        return list(series.values())

    def total(self, metric_name: str, **attributes: Any) -> Any:
        """Sum the latest numbers of the series that have all these attributes.

        Underscores in the names stand for dots too.
        """
        return sum(
            value
            for found, value in self.latest(metric_name)
            if attributes.items() <= {**found, **_underscored(found)}.items()
        )

    def temporalities(self, metric_name: str) -> set[str]:
        """Return ``{"DELTA"}``, ``{"CUMULATIVE"}``, both, or nothing (for a gauge)."""
        found = set()
        for _, metric in self._metrics(metric_name):
            data = getattr(metric, metric.WhichOneof("data"))
            if number := getattr(data, "aggregation_temporality", 0):
                found.add({1: "DELTA", 2: "CUMULATIVE"}[number])
        return found

    def resources(self) -> list[dict[str, Any]]:
        """Return the resource's attributes of each request."""
        return [
            _attributes(part.resource.attributes)
            for request in self.requests
            for part in request.resource_metrics
        ]

    def _metrics(self, metric_name: str) -> Iterator[tuple[dict[str, Any], Any]]:
        for request in self.requests:
            for part in request.resource_metrics:
                resource = _attributes(part.resource.attributes)
                for scope in part.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name == metric_name:
                            yield resource, metric

    def _all_points(self, metric_name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any], Any]]:
        for resource, metric in self._metrics(metric_name):
            for point in getattr(metric, metric.WhichOneof("data")).data_points:
                yield resource, _attributes(point.attributes), _value(point)


class HttpReceiver(Receiver):
    """A receiver of OTLP as Protobuf over HTTP, compressed or not."""

    def __init__(self) -> None:
        super().__init__()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = False
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class GrpcReceiver(Receiver):
    """A receiver of OTLP over gRPC."""

    def __init__(self) -> None:
        super().__init__()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=4))
        add_MetricsServiceServicer_to_server(_Servicer(self), self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.endpoint = f"http://127.0.0.1:{port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.stop(grace=None).wait()


class _Port:
    """A reserved port of the loopback interface."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()


class ClosedPort(_Port):
    """A port that refuses every connection."""


class BlackHole(_Port):
    """A port that accepts connections and never responds."""

    def __init__(self) -> None:
        super().__init__()
        self._socket.listen(16)


class _Servicer(MetricsServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(  # noqa: N802, gRPC's name
        self, request: ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> ExportMetricsServiceResponse:
        if self._receiver.failing is not None:
            self._receiver.refuse()
            context.abort(self._receiver.failing, "refused by the test")
        self._receiver.accept(request)
        return ExportMetricsServiceResponse()


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = 200 if self.path == "/v1/metrics" else 404
            if receiver.failing is not None:
                status = receiver.failing
            if status == 200:
                decoded = _DECODERS[self.headers.get("Content-Encoding", "")](body)
                receiver.accept(ExportMetricsServiceRequest.FromString(decoded))
            else:
                receiver.refuse()
            self.send_response(status)
            for name, value in receiver.headers.items() if status != 200 else ():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, the base class's name
            """Keep the tests' output clean."""

    return Handler


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _any_value(pair.value) for pair in pairs}


def _any_value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_any_value(item) for item in value.array_value.values]
    return getattr(value, kind)


def _value(point: Any) -> Any:
    if hasattr(point, "bucket_counts") or hasattr(point, "positive"):
        return Histogram(point.count, point.sum)
    return getattr(point, point.WhichOneof("value"))


def _underscored(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name.replace(".", "_"): value for name, value in attributes.items()}
