"""The exporters that the settings ask for, and what they push to real receivers."""

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
    """Remove what the machine's own environment says."""
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


class Made:
    """The pushes that an environment asks for, on one meter provider."""

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
    """An exporter that a distribution registers is made."""
    install(monkeypatch, tmp_path, "carrier = some_exporters:Sent")

    made = Made("carrier")

    assert [push.name for push in made.pushes] == ["carrier"]
    assert type(made.exporters[0]).__name__ == "Sent"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("carrier = some_exporters:Kept", "must be a MetricExporter, got Kept"),
        ("carrier = some_exporters:broken", "no such region at https://***@h"),
        ("carrier = some_exporters:leaving", "SystemExit: no region"),
        ("carrier = some_exporters:absent", "absent"),
    ],
)
def test_an_installed_exporter_that_cannot_be_made_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    entry: str,
    reason: str,
) -> None:
    """A warning names it and says why, and the others of the list push."""
    install(monkeypatch, tmp_path, entry)

    assert [push.name for push in Made("carrier,console").pushes] == ["console"]

    (record,) = caplog.records
    assert record.getMessage().startswith("OTEL_METRICS_EXPORTER names 'carrier', which cannot be")
    assert reason in record.getMessage()


def test_prometheus_is_not_pushed() -> None:
    """The exporter that is scraped makes no push."""
    assert Made("prometheus").pushes == []


# --- OTLP --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("text", ["", " ", "rubbish"])
def test_no_variable_of_an_exporter_ends_its_making(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, protocol: str, text: str
) -> None:
    """What the exporters read themselves, whatever they are given, is as harmless as the rest."""
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
def test_the_names_of_opentelemetrys_own_exporters_set_the_protocol(name: str) -> None:
    """They get the same settings as otlp, from the same variables."""
    made = Made(name, OTEL_EXPORTER_OTLP_COMPRESSION="rubbish")
    (exporter,) = made.exporters
    exporter.shutdown()
    assert name.rpartition("_")[2] in type(exporter).__module__


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
@pytest.mark.parametrize(("kind", "protocol"), PROTOCOLS)
def test_what_is_pushed_decodes_exactly(
    kind: type[Receiver], protocol: str, compression: str
) -> None:
    """Counters, gauges and histograms reach a receiver with their labels, values and types."""
    with kind() as receiver:
        made = Made(
            "otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_COMPRESSION=compression,
        )
        made.meter.create_counter("tokens").add(2**53 + 1, {"model": "a"})
        made.meter.create_counter("tokens").add(5, {"model": "b"})
        made.meter.create_gauge("ratio").set(0.25)
        made.meter.create_histogram("duration").record(1.5, {"model": "a"})
        made.meter.create_histogram("duration").record(2.5, {"model": "a"})
        (push,) = made.pushes
        push.start()

        assert push.finish(GUARD)

        assert receiver.latest("tokens") == [({"model": "a"}, 2**53 + 1), ({"model": "b"}, 5)]
        assert receiver.total("tokens", model="b") == 5
        assert receiver.points("ratio") == [({}, 0.25)]
        assert receiver.points("duration") == [({"model": "a"}, Histogram(2, 4.0))]
        assert receiver.temporalities("tokens") == {"CUMULATIVE"}


@pytest.mark.parametrize(("kind", "protocol"), PROTOCOLS)
def test_delta_temporality_loses_nothing(kind: type[Receiver], protocol: str) -> None:
    """Deltas of many short intervals and of the end add up to what was counted."""
    with kind() as receiver:
        made = Made(
            "otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=" delta ",
            OTEL_METRIC_EXPORT_INTERVAL="5",
        )
        (push,) = made.pushes
        counter = made.meter.create_counter("tokens")
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
def test_the_preferences_are_the_settings(protocol: str) -> None:
    """Base2 histograms, and deltas of what is recorded only, reach the exporter in any spelling."""
    made = Made(
        "otlp",
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="LOWMEMORY",
        OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION=" Base2_Exponential_Bucket_Histogram",
    )
    made.exporters[0].shutdown()
    preferred = preferences("otlp", made.settings)
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
def test_a_time_out_in_milliseconds_ends_a_push(protocol: str) -> None:
    """An endpoint that takes the connection and never answers costs the exporter's time-out."""
    with BlackHole() as endpoint:
        made = Made(
            "otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_TIMEOUT="200",
        )
        made.meter.create_counter("tokens").add(1)
        assert not made.pushes[0].finish(GUARD)
    assert made.failures == ["otlp"]


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
def test_no_header_is_logged(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    protocol: str,
    headers: str,
    suffix: str,
) -> None:
    """Neither we nor the libraries write a header's value, good or bad, to a log."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{suffix}", headers)
    with ClosedPort() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.endpoint)
        made = Made("otlp", **{**os.environ, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
        made.meter.create_counter("tokens").add(1)
        made.pushes[0].finish(0.3)
    assert "cannot push metrics" in caplog.text or "did not end" in caplog.text
    assert "s3cr3t" not in caplog.text + str(made.settings.warnings)


@pytest.mark.parametrize(("kind", "protocol"), PROTOCOLS)
def test_a_bad_header_costs_that_header(
    monkeypatch: pytest.MonkeyPatch, kind: type[Receiver], protocol: str
) -> None:
    """The metrics arrive all the same."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "a=x%0Ay,b c,d=1")
    with kind() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        made = Made("otlp", **{**os.environ, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
        made.meter.create_counter("tokens").add(1)
        assert made.pushes[0].finish(GUARD)
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
def test_an_export_imports_nothing(kind: type[Receiver], protocol: str, is_well: bool) -> None:
    """A child that is forked during one would wait for ever for an import that it inherits."""
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


def test_a_session_sends_nothing_from_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A greenlet that a fork takes into the child neither sends nor reads the parent's bytes."""
    with HttpReceiver() as receiver:
        made = Made(
            "otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
        made.meter.create_counter("tokens").add(1)
        data = made.readers[0].collect_data(GUARD)
        assert data is not None
        monkeypatch.setattr(os, "getpid", lambda: 1)
        exporter: Any = made.exporters[0]
        try:
            sent = exporter.export(data).name
        except Exception as error:  # older exporters raise it
            sent = repr(error)
        assert sent != "SUCCESS"
        assert receiver.requests == []


# --- others ------------------------------------------------------------------------------------


def test_the_console_gets_what_is_pushed(capsys: pytest.CaptureFixture[str]) -> None:
    """The console exporter writes JSON to the standard output."""
    made = Made("console")
    made.meter.create_counter("tokens").add(3)
    made.pushes[0].start()

    assert made.pushes[0].finish(GUARD)

    (resource,) = json.loads(capsys.readouterr().out)["resource_metrics"]
    (metric,) = resource["scope_metrics"][0]["metrics"]
    assert (metric["name"], metric["data"]["data_points"][0]["value"]) == ("tokens", 3)


def test_a_list_pushes_to_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Each exporter of a list has a push of its own, in the list's order, and gets everything."""
    with HttpReceiver() as receiver:
        made = Made(
            "prometheus,otlp,console",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
        made.meter.create_counter("tokens").add(3)

        assert [push.name for push in made.pushes] == ["otlp", "console"]
        assert [push.finish(GUARD) for push in made.pushes] == [True, True]

        assert receiver.points("tokens") == [({}, 3)]
        assert "tokens" in capsys.readouterr().out
