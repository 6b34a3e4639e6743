"""Pushes to dead and recovering endpoints, and from processes that end."""

from __future__ import annotations

import logging
import os
import ssl
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trustme
from opentelemetry.sdk.metrics import MeterProvider

from genmeter.exporters._factory import make_pushes
from genmeter.exporters.provider import CollectingReader
from genmeter.exporters.settings import ExportSettings
from otlp_receiver import BlackHole, ClosedPort, GrpcReceiver, HttpReceiver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GUARD = 60


class Rig:
    """An OTLP push, with a counter and the failures that it reports."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.failures: list[str] = []
        reader = CollectingReader()
        (self.push,) = make_pushes(
            ExportSettings.from_env(environ),
            lambda _: reader.collect_data,
            on_failure=self.failures.append,
        )
        provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
        self.meter = provider.get_meter("genmeter")
        self.meter.create_counter("tokens").add(1)


@pytest.fixture
def otlp(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rig]:
    """Return a factory of rigs whose exporter waits 10 minutes for a response."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)

    def make(endpoint: str, protocol: str, interval_ms: str = "3600000", **more: str) -> Rig:
        return Rig(
            {
                "OTEL_METRICS_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_EXPORTER_OTLP_TIMEOUT": "600000",
                "OTEL_METRIC_EXPORT_INTERVAL": interval_ms,
                **more,
            }
        )

    return make


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return genmeter's warnings."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "genmeter" and record.levelno == logging.WARNING
    ]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("kind", [ClosedPort, BlackHole])
def test_finish_keeps_its_limit_with_a_dead_endpoint(
    otlp: Callable[..., Rig], kind: Any, protocol: str
) -> None:
    """The connection may be refused or never answered."""
    with kind() as endpoint:
        rig = otlp(endpoint.endpoint, protocol)
        rig.push.start()
        started = time.monotonic()

        assert not rig.push.finish(0.3)
        assert not rig.push.finish(GUARD)

        assert time.monotonic() - started < GUARD / 2


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_pushes_recover_with_the_receiver(
    otlp: Callable[..., Rig], caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    """Failures are counted and logged once; the next success makes up for them."""
    caplog.set_level(logging.INFO, logger="genmeter")
    kind, refusal = (HttpReceiver, 404)
    if protocol == "grpc":
        kind, refusal = (GrpcReceiver, grpc.StatusCode.UNIMPLEMENTED)
    with kind() as receiver:
        receiver.failing = refusal
        rig = otlp(receiver.endpoint, protocol, interval_ms="10")
        rig.push.start()
        assert receiver.wait_for(lambda: receiver.refused >= 3, GUARD)
        rig.meter.create_counter("tokens").add(41)
        receiver.failing = None
        assert receiver.wait_for(lambda: receiver.points("tokens"), GUARD)

        assert rig.push.finish(GUARD)

        assert receiver.latest("tokens") == [({}, 42)]
        assert len(rig.failures) == receiver.refused
        assert set(rig.failures) == {"otlp"}
        assert len(warnings_of(caplog)) == 1


def test_a_404_fails_the_push(
    otlp: Callable[..., Rig],
) -> None:
    """The last push reports it too."""
    with HttpReceiver() as receiver:
        rig = otlp(f"{receiver.endpoint}/elsewhere", "http/protobuf")
        rig.push.start()

        assert not rig.push.finish(GUARD)

        assert rig.failures == ["otlp"]
        assert receiver.requests == []


@pytest.mark.parametrize(
    ("kind", "protocol", "refusal"),
    [
        (GrpcReceiver, "grpc", grpc.StatusCode.UNAVAILABLE),
        (HttpReceiver, "http/protobuf", 503),
    ],
)
@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_finish_does_not_wait_for_a_retry(
    otlp: Callable[..., Rig], kind: Any, protocol: str, refusal: Any, temporality: str
) -> None:
    """A recovered receiver gets everything at once."""
    with kind() as receiver:
        receiver.failing = refusal
        rig = otlp(
            receiver.endpoint,
            protocol,
            interval_ms="10",
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=temporality,
        )
        rig.push.start()
        assert receiver.wait_for(lambda: receiver.refused >= 3, GUARD)  # 4 s until the next try
        receiver.failing = None
        rig.meter.create_counter("tokens").add(41)

        assert rig.push.finish(4)

        assert receiver.latest("tokens") == [({}, 42)]


class TlsGrpcReceiver(GrpcReceiver):
    """A receiver that requires a client certificate."""

    def __init__(self, authority: trustme.CA) -> None:
        super().__init__()
        own = authority.issue_cert("localhost")
        root = authority.cert_pem.bytes()
        chain = b"".join(blob.bytes() for blob in own.cert_chain_pems)
        credentials = grpc.ssl_server_credentials(
            [(own.private_key_pem.bytes(), chain)], root, require_client_auth=True
        )
        port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.endpoint = f"https://localhost:{port}"


class TlsHttpReceiver(HttpReceiver):
    """A receiver that requires a client certificate."""

    def __init__(self, authority: trustme.CA) -> None:
        super().__init__()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.endpoint = self.endpoint.replace("http://", "https://")


@pytest.mark.parametrize(
    ("kind", "protocol"), [(TlsGrpcReceiver, "grpc"), (TlsHttpReceiver, "http/protobuf")]
)
def test_tls_uses_the_certificates_of_the_environment(
    otlp: Callable[..., Rig],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: Any,
    protocol: str,
) -> None:
    """Receiver and client authenticate each other."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "other.pem"))
    authority = trustme.CA()
    client = authority.issue_cert("client@example.org")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    client.private_key_pem.write_to_path(tmp_path / "key.pem")
    client.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    with kind(authority) as receiver:
        rig = otlp(
            receiver.endpoint,
            protocol,
            OTEL_EXPORTER_OTLP_INSECURE="true",  # the URL says otherwise
            OTEL_EXPORTER_OTLP_CERTIFICATE=str(tmp_path / "ca.pem"),
            OTEL_EXPORTER_OTLP_CLIENT_KEY=str(tmp_path / "key.pem"),
            OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=str(tmp_path / "cert.pem"),
        )
        assert rig.push.finish(GUARD)
        assert receiver.points("tokens") == [({}, 1)]


EXIT = """
import atexit, os, signal, sys, threading, time
from opentelemetry.sdk.metrics import MeterProvider
from genmeter.exporters._factory import make_pushes
from genmeter.exporters.settings import ExportSettings
from genmeter.exporters.provider import CollectingReader
reader = CollectingReader()
settings = ExportSettings.from_env(os.environ)
(push,) = make_pushes(settings, lambda _: reader.collect_data, on_failure=lambda name: None)
provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
provider.get_meter("genmeter").create_counter("tokens").add(42)
how, limit = sys.argv[1], float(sys.argv[2])
if "unstarted" not in how:
    push.start()
if "handler" in how:
    def handle(*_):
        print(push.finish(limit), flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, handle)
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
atexit.register(lambda: print(push.finish(limit), flush=True))
"""


def leave(endpoint: str, protocol: str, how: str, limit: float) -> str:
    """Run a process that ends in one of several ways, and return the result of its finish."""
    environ = {
        **os.environ,
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "600000",
    }
    command = [sys.executable, "-c", EXIT, how, str(limit)]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if how == "handler":
            assert process.stdout.readline() == "ready\n"
            process.terminate()
        try:
            out, _ = process.communicate(timeout=GUARD)
        finally:
            process.kill()
    assert process.returncode == 0
    return out.strip()


@pytest.mark.parametrize("how", ["started", "unstarted", "handler"])
@pytest.mark.parametrize(
    ("kind", "protocol"), [(GrpcReceiver, "grpc"), (HttpReceiver, "http/protobuf")]
)
def test_finish_at_the_end_of_the_process_loses_nothing(kind: Any, protocol: str, how: str) -> None:
    """It exports at the interpreter's exit and in a SIGTERM handler."""
    with kind() as receiver:
        assert leave(receiver.endpoint, protocol, how, GUARD) == "True"
        assert receiver.points("tokens") == [({}, 42)]


@pytest.mark.parametrize("how", ["started", "handler"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_dead_endpoint_does_not_delay_the_exit(protocol: str, how: str) -> None:
    """The process ends at the limit of finish."""
    with BlackHole() as endpoint:
        assert leave(endpoint.endpoint, protocol, how, 0.3) == "False"
