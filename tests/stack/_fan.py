"""Forwards each OTLP push of a job to several servers, at its times or at longer ones of the past."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple, Self

from _servers import LOOPBACK, request
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

_PATIENCE = 30.0
_REFUSED = 10  # one push of so many


class Stretch(NamedTuple):
    """Seconds of a job that become longer ones of the past.

    Attributes:
        began: Unix time from which times are stretched.
        to: The Unix time that it becomes.
        factor: The length of a second.
    """

    began: float
    to: float
    factor: float

    def at(self, time_: float) -> float:
        """Return what a Unix time becomes."""
        return self.to + (time_ - self.began) * self.factor


class Destination(NamedTuple):
    """A server that receives pushes.

    Attributes:
        url: The address of its receiver.
        every: It receives one push of so many, of each process.
        stretch: How times are changed; None keeps them.
    """

    url: str
    every: int = 1
    stretch: Stretch | None = None


class Fan:
    """An OTLP receiver over HTTP that forwards each push, and refuses one of ten; `with` runs it.

    Attributes:
        endpoint: The value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
        errors: What servers responded to pushes that they did not accept.
    """

    def __init__(self, destinations: list[Destination]) -> None:
        self.errors: list[str] = []
        self._destinations = destinations
        self._counts: dict[str, int] = {}
        self._server = ThreadingHTTPServer((LOOPBACK, 0), self._handler())
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}
        )
        self.endpoint = f"http://{LOOPBACK}:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join(_PATIENCE)
        self._server.server_close()

    def accept(self, body: bytes) -> bool:
        """Forward a push, or refuse it."""
        push = ExportMetricsServiceRequest.FromString(body)
        process = _process(push)
        count = self._counts[process] = self._counts.get(process, -1) + 1
        if count % _REFUSED == _REFUSED - 1:
            return False
        for each in self._destinations:
            if count % each.every == 0:
                self._send(each, body)
        return True

    def _send(self, to: Destination, body: bytes) -> None:
        if to.stretch is not None:
            push = ExportMetricsServiceRequest.FromString(body)
            for point in _points(push):
                _move(point, to.stretch)
            body = push.SerializeToString()
        try:
            status, response = request(
                "POST", to.url, body, {"Content-Type": "application/x-protobuf"}
            )
        except OSError as error:
            self.errors.append(f"{to.url}: {error!r}")
            return
        if status >= 300:
            self.errors.append(f"{to.url}: {status} {response}")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fan = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                is_accepted = fan.accept(body)
                self.send_response(200 if is_accepted else 400)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Keep the server's log out of the test's output."""

        return Handler


def _process(push: ExportMetricsServiceRequest) -> str:
    """Return the id of the process that pushed."""
    return next(
        (
            attribute.value.string_value
            for resource in push.resource_metrics
            for attribute in resource.resource.attributes
            if attribute.key == "service.instance.id"
        ),
        "",
    )


def _points(push: ExportMetricsServiceRequest) -> Iterator[Message]:
    for resource in push.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                if kind is not None:
                    yield from getattr(metric, kind).data_points


def _move(point: Message, stretch: Stretch) -> None:
    for each in (point, *getattr(point, "exemplars", ())):
        for name in ("time_unix_nano", "start_time_unix_nano"):
            at = getattr(each, name, 0)
            if at:
                setattr(each, name, round(stretch.at(at / 1e9) * 1e9))


def an_hour_ago(factor: float) -> Stretch:
    """Return the stretch that maps now to 50 minutes ago."""
    now = time.time()
    return Stretch(now, now - 3000.0, factor)
