"""Creating the exporters of the settings, and pushing to real receivers."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider

from genmeter.exporters._factory import make_exporter, make_pushes, preferences
from genmeter.exporters.provider import CollectingReader
from genmeter.exporters.settings import ExportSettings
from otlp_receiver import BlackHole, ClosedPort, GrpcReceiver, Histogram, HttpReceiver, Receiver

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from opentelemetry.sdk.metrics.export import MetricExporter, MetricsData

    from genmeter.exporters._push import Push

GUARD = 60
PROTOCOLS = [(GrpcReceiver, "grpc"), (HttpReceiver, "http/protobuf")]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables of this machine."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


class Pushes:
    """The pushes of an environment, on one meter provider."""

    def __init__(self, names: str, **environ: str) -> None:
        self.settings = ExportSettings.from_env({"OTEL_METRICS_EXPORTER": names, **environ})
        self.readers: list[CollectingReader] = []
        self.failures: list[str] = []
        self.pushes: list[Push] = make_pushes(
            self.settings, self._collect_for, on_failure=self.failures.append
        )
        provider = MeterProvider(metric_readers=self.readers, shutdown_on_exit=False)
        self.meter = provider.get_meter("genmeter")

    def _collect_for(self, name: str) -> Callable[[float], MetricsData | None]:
        reader = CollectingReader(**preferences(name, self.settings))
        self.readers.append(reader)
        return reader.collect_data

    @property
    def exporters(self) -> list[MetricExporter]:
        """The exporters of the pushes."""
        return [push._exporter for push in self.pushes if push._exporter is not None]


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, entry: str) -> None:
    """Install a distribution with one entry point for an exporter, and its module."""
    module = folder / "some_exporters.py"
    module.write_text(
        "from opentelemetry.sdk.metrics.export import *\n"
        "class Kept(InMemoryMetricReader): pass\n"
        "class Sent(ConsoleMetricExporter): pass\n"
        "def broken(): raise RuntimeError('no such region at https://me:s3cr3t@h')\n"
        "def leaving(): raise SystemExit('no region')\n"
    )
    info = folder / "some_exporters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-exporters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[opentelemetry_metrics_exporter]\n{entry}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "some_exporters", raising=False)


def test_an_installed_exporter_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An exporter that a distribution registers is created."""
    install(monkeypatch, tmp_path, "carrier = some_exporters:Sent")

    rig = Pushes("carrier")

    assert [push.name for push in rig.pushes] == ["carrier"]
    assert type(rig.exporters[0]).__name__ == "Sent"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("carrier = some_exporters:Kept", "must be a MetricExporter, got Kept"),
        ("carrier = some_exporters:broken", "no such region at https://***@h"),
        ("carrier = some_exporters:leaving", "SystemExit: no region"),
        ("carrier = some_exporters:absent", "absent"),
    ],
)
def test_an_exporter_that_cannot_be_created_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    entry: str,
    reason: str,
) -> None:
    """The warning has its name and the reason; the other exporters push."""
    install(monkeypatch, tmp_path, entry)

    assert [push.name for push in Pushes("carrier,console").pushes] == ["console"]

    (record,) = caplog.records
    assert "'carrier' of OTEL_METRICS_EXPORTER" in record.getMessage()
    assert reason in record.getMessage()


def test_prometheus_has_no_push() -> None:
    """It is scraped."""
    assert Pushes("prometheus").pushes == []


# --- OTLP --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("text", ["", " ", "rubbish"])
def test_invalid_variables_do_not_break_the_constructor(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, protocol: str, text: str
) -> None:
    """The exporters read some variables whatever their arguments."""
    suffixes = ("TIMEOUT", "COMPRESSION", "HEADERS", "INSECURE", "PROTOCOL", "ENDPOINT")
    names = [
        "OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        *(f"OTEL_EXPORTER_OTLP_{suffix}" for suffix in suffixes),
        *(f"OTEL_EXPORTER_OTLP_METRICS_{suffix}" for suffix in suffixes),
    ]
    for name in names:
        monkeypatch.setenv(name, text)
    if not text.strip():
        for kind in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"):
            monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{kind}", text)
            monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_METRICS_{kind}", text)
    before = dict(os.environ)
    settings = ExportSettings.from_env(
        {**os.environ, "OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        | {"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": ""}
    )

    make_exporter("otlp", settings).shutdown()

    assert dict(os.environ) == before
    assert caplog.records == []


@pytest.mark.parametrize("name", ["otlp_proto_grpc", "otlp_proto_http"])
def test_opentelemetry_exporter_names_set_the_protocol(name: str) -> None:
    """They use the same variables as otlp."""
    rig = Pushes(name, OTEL_EXPORTER_OTLP_COMPRESSION="rubbish")
    (exporter,) = rig.exporters
    exporter.shutdown()
    assert name.rpartition("_")[2] in type(exporter).__module__


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
@pytest.mark.parametrize(("kind", "protocol"), PROTOCOLS)
def test_pushed_metrics_decode_exactly(
    kind: type[Receiver], protocol: str, compression: str
) -> None:
    """A receiver gets the labels, values and types of all kinds of instruments."""
    with kind() as receiver:
        rig = Pushes(
            "otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_COMPRESSION=compression,
        )
        rig.meter.create_counter("tokens").add(2**53 + 1, {"model": "a"})
        rig.meter.create_counter("tokens").add(5, {"model": "b"})
        rig.meter.create_gauge("ratio").set(0.25)
        rig.meter.create_histogram("duration").record(1.5, {"model": "a"})
        rig.meter.create_histogram("duration").record(2.5, {"model": "a"})
        (push,) = rig.pushes
        push.start()

        assert push.finish(GUARD)

        assert receiver.latest("tokens") == [({"model": "a"}, 2**53 + 1), ({"model": "b"}, 5)]
        assert receiver.total("tokens", model="b") == 5
        assert receiver.points("ratio") == [({}, 0.25)]
        assert receiver.points("duration") == [({"model": "a"}, Histogram(2, 4.0))]
        assert receiver.temporalities("tokens") == {"CUMULATIVE"}


@pytest.mark.parametrize(("kind", "protocol"), PROTOCOLS)
def test_delta_temporality_loses_nothing(kind: type[Receiver], protocol: str) -> None:
    """The deltas of many short intervals and of the end add up to the total."""
    with kind() as receiver:
        rig = Pushes(
            "otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=" delta ",
            OTEL_METRIC_EXPORT_INTERVAL="5",
        )
        (push,) = rig.pushes
        counter = rig.meter.create_counter("tokens")
        push.start()
        for wanted in range(1, 4):
            for _ in range(1000):
                counter.add(1)
            receiver.wait_for(lambda wanted=wanted: len(receiver.points("tokens")) >= wanted)
        counter.add(7)

        assert push.finish(GUARD)

        deltas = [value for _, value in receiver.points("tokens")]
        assert sum(deltas) == 3007
        assert len(deltas) > 2
        assert receiver.temporalities("tokens") == {"DELTA"}


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_preferences_follow_the_settings(protocol: str) -> None:
    """The variables' values may be in any case."""
    rig = Pushes(
        "otlp",
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="LOWMEMORY",
        OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION=" Base2_Exponential_Bucket_Histogram",
    )
    rig.exporters[0].shutdown()
    preferred = preferences("otlp", rig.settings)
    temporality, aggregation = preferred.values()
    assert {kind.__name__: each.name for kind, each in temporality.items()} == {
        "Counter": "DELTA",
        "UpDownCounter": "CUMULATIVE",
        "Histogram": "DELTA",
        "ObservableCounter": "CUMULATIVE",
        "ObservableUpDownCounter": "CUMULATIVE",
        "ObservableGauge": "CUMULATIVE",
    }
    assert [type(each).__name__ for each in aggregation.values()] == [
        "ExponentialBucketHistogramAggregation"
    ]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_timeout_is_in_milliseconds(protocol: str) -> None:
    """An endpoint that never responds costs the exporter's time-out."""
    with BlackHole() as endpoint:
        rig = Pushes(
            "otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_TIMEOUT="200",
        )
        rig.meter.create_counter("tokens").add(1)
        assert not rig.pushes[0].finish(GUARD)
    assert rig.failures == ["otlp"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize(
    "headers",
    [
        "Authorization Bearer s3cr3t",
        "authorization=Bearer s3cr3t\tx\x01y",
        "authorization=Bearer%20s3cr3t%0Ax",
        "authorization=s3cr3t%E2%82%AC",
        "content-type=s3cr3t%0Ax",
        "authorization=Bearer s3cr3t",
    ],
)
@pytest.mark.parametrize("suffix", ["HEADERS", "METRICS_HEADERS"])
def test_header_values_are_never_logged(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    protocol: str,
    headers: str,
    suffix: str,
) -> None:
    """Neither genmeter nor the libraries log one, valid or not."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{suffix}", headers)
    with ClosedPort() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.endpoint)
        rig = Pushes("otlp", **{**os.environ, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
        rig.meter.create_counter("tokens").add(1)
        rig.pushes[0].finish(0.3)
    assert "cannot push metrics" in caplog.text or "did not end" in caplog.text
    assert "s3cr3t" not in caplog.text + str(rig.settings.warnings)


@pytest.mark.parametrize(("kind", "protocol"), PROTOCOLS)
def test_an_invalid_header_does_not_break_the_export(
    monkeypatch: pytest.MonkeyPatch, kind: type[Receiver], protocol: str
) -> None:
    """The metrics arrive without it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "a=x%0Ay,b c,d=1")
    with kind() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        rig = Pushes("otlp", **{**os.environ, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
        rig.meter.create_counter("tokens").add(1)
        assert rig.pushes[0].finish(GUARD)
        assert receiver.points("tokens") == [({}, 1)]


IMPORTS = """
import os, sys
from opentelemetry.sdk.metrics import MeterProvider
from genmeter.exporters._factory import make_exporter
from genmeter.exporters.settings import ExportSettings
from genmeter.exporters.provider import CollectingReader
reader = CollectingReader()
meter = MeterProvider(metric_readers=[reader], shutdown_on_exit=False).get_meter("genmeter")
meter.create_counter("tokens").add(1, {"model": "m"})
meter.create_histogram("duration").record(1)
data = reader.collect_data(60)
exporter = make_exporter("otlp", ExportSettings.from_env(os.environ))
before = set(sys.modules)
exporter.export(data)
exporter.shutdown()
print(sorted(set(sys.modules) - before), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(("kind", "protocol"), PROTOCOLS)
@pytest.mark.parametrize("is_well", [True, False])
def test_an_export_imports_no_modules(kind: type[Receiver], protocol: str, is_well: bool) -> None:
    """A child forked during an import would wait for it forever."""
    with kind() as receiver, ClosedPort() as closed:
        environ = {
            **os.environ,
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint if is_well else closed.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1000",
        }
        ended = subprocess.run(
            [sys.executable, "-c", IMPORTS],
            env=environ,
            capture_output=True,
            text=True,
            timeout=GUARD,
            check=True,
        )
    assert ended.stdout.strip() == "[]"


def test_a_session_sends_nothing_in_a_forked_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """A greenlet in the child neither sends nor reads the parent's bytes."""
    with HttpReceiver() as receiver:
        rig = Pushes(
            "otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
        rig.meter.create_counter("tokens").add(1)
        data = rig.readers[0].collect_data(GUARD)
        assert data is not None
        monkeypatch.setattr(os, "getpid", lambda: 1)
        exporter: Any = rig.exporters[0]
        try:
            sent = exporter.export(data).name
        except Exception as error:  # older exporters raise it
            sent = repr(error)
        assert sent != "SUCCESS"
        assert receiver.requests == []


# --- others ------------------------------------------------------------------------------------


def test_the_console_exporter_writes_json(capsys: pytest.CaptureFixture[str]) -> None:
    """It writes to the standard output."""
    rig = Pushes("console")
    rig.meter.create_counter("tokens").add(3)
    rig.pushes[0].start()

    assert rig.pushes[0].finish(GUARD)

    (resource,) = json.loads(capsys.readouterr().out)["resource_metrics"]
    (metric,) = resource["scope_metrics"][0]["metrics"]
    assert (metric["name"], metric["data"]["data_points"][0]["value"]) == ("tokens", 3)


def test_each_listed_exporter_gets_all_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    """Each has a separate push, in the order of the list."""
    with HttpReceiver() as receiver:
        rig = Pushes(
            "prometheus,otlp,console",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
        rig.meter.create_counter("tokens").add(3)

        assert [push.name for push in rig.pushes] == ["otlp", "console"]
        assert [push.finish(GUARD) for push in rig.pushes] == [True, True]

        assert receiver.points("tokens") == [({}, 3)]
        assert "tokens" in capsys.readouterr().out
