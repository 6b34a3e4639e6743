"""Pushes to endpoints that are dead, ill or well again, and from processes that end."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.sdk.metrics import MeterProvider

from genmeter.outputs.otlp import pushes_from_env
from otlp_receiver import BlackHole, ClosedPort, GrpcReceiver, HttpReceiver

if TYPE_CHECKING:
    from collections.abc import Callable

GUARD = 60


class Rig:
    """An OTLP push, with a counter that it pushes and the failures that it tells."""

    def __init__(self, protocol: str, interval_ms: str) -> None:
        self.failures: list[str] = []
        (self.push,) = pushes_from_env(
            ["otlp"],
            {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_METRIC_EXPORT_INTERVAL": interval_ms},
            cardinality_limit=100,
            on_failure=self.failures.append,
        )
        provider = MeterProvider(metric_readers=[self.push.reader], shutdown_on_exit=False)
        self.meter = provider.get_meter("genmeter")
        self.meter.create_counter("tokens").add(1)


@pytest.fixture
def otlp(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rig]:
    """Make rigs that push OTLP to an endpoint, whose exporter waits 10 minutes for an answer."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")

    def make(endpoint: str, protocol: str, interval_ms: str = "3600000") -> Rig:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        return Rig(protocol, interval_ms)

    return make


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what genmeter warned about."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "genmeter" and record.levelno == logging.WARNING
    ]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("kind", [ClosedPort, BlackHole])
def test_a_dead_endpoint_costs_the_limit_at_most(
    otlp: Callable[..., Rig], kind: Any, protocol: str
) -> None:
    """Neither a refused connection nor one that is never answered holds up the end."""
    with kind() as endpoint:
        rig = otlp(endpoint.endpoint, protocol)
        rig.push.start()
        started = time.monotonic()

        assert not rig.push.finish(0.3)
        assert not rig.push.finish(GUARD)

        assert time.monotonic() - started < GUARD / 2
    assert rig.push._ended.wait(GUARD)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_push_goes_on_when_the_receiver_is_well_again(
    otlp: Callable[..., Rig], caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    """Refused pushes are counted and logged once; the first that is taken makes up for them."""
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


def test_a_receiver_that_does_not_know_the_path_fails_the_push(
    otlp: Callable[..., Rig],
) -> None:
    """An answer of 404 is a failure, at the end too."""
    with HttpReceiver() as receiver:
        rig = otlp(f"{receiver.endpoint}/elsewhere", "http/protobuf")
        rig.push.start()

        assert not rig.push.finish(GUARD)

        assert rig.failures == ["otlp"]
        assert receiver.requests == []


EXIT = """
import atexit, os, signal, sys, threading, time
from opentelemetry.sdk.metrics import MeterProvider
from genmeter.outputs.otlp import pushes_from_env
(push,) = pushes_from_env(["otlp"], os.environ, cardinality_limit=9, on_failure=lambda name: None)
provider = MeterProvider(metric_readers=[push.reader], shutdown_on_exit=False)
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
    """Run a process that ends in one of several ways, and return what its finish said."""
    environ = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
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
def test_the_end_of_the_process_loses_nothing(kind: Any, protocol: str, how: str) -> None:
    """Finishing at the interpreter's exit or in a SIGTERM handler exports what is left."""
    with kind() as receiver:
        assert leave(receiver.endpoint, protocol, how, GUARD) == "True"
        assert receiver.points("tokens") == [({}, 42)]


@pytest.mark.parametrize("how", ["started", "handler"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_dead_endpoint_does_not_hold_up_the_end_of_the_process(protocol: str, how: str) -> None:
    """A process whose endpoint never answers still ends, at the limit that finish was given."""
    with BlackHole() as endpoint:
        assert leave(endpoint.endpoint, protocol, how, 0.3) == "False"
