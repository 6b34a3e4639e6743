"""Which exporters the environment asks for, and what they push to real receivers."""

from __future__ import annotations

import inspect
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader

from genmeter.errors import ConfigError
from genmeter.outputs.otlp import Push, exporter_names, pushes_from_env
from otlp_receiver import GrpcReceiver, Histogram, HttpReceiver, Receiver

if TYPE_CHECKING:
    from pathlib import Path

GUARD = 60
PROTOCOLS = [(GrpcReceiver, "grpc"), (HttpReceiver, "http/protobuf")]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what the machine's own environment says."""
    for name in ("ENDPOINT", "PROTOCOL", "METRICS_PROTOCOL", "COMPRESSION", "HEADERS", "TIMEOUT"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)


def make(names: str | tuple[str, ...], **environ: str) -> list[Push]:
    """Make the pushes for names."""
    names = (names,) if isinstance(names, str) else names
    return pushes_from_env(names, environ, cardinality_limit=50, on_failure=lambda _: None)


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, entry: str) -> None:
    """Install a distribution with one entry point for an exporter, and its module."""
    module = folder / "some_exporters.py"
    module.write_text(
        "from opentelemetry.sdk.metrics.export import *\n"
        "class Kept(InMemoryMetricReader): pass\n"
        "class Sent(ConsoleMetricExporter): pass\n"
        "def broken(): raise RuntimeError('no such region')\n"
    )
    info = folder / "some_exporters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-exporters\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[opentelemetry_metrics_exporter]\n{entry}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "some_exporters", raising=False)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, ("prometheus",)),
        ("", ("prometheus",)),
        (" , ", ("prometheus",)),
        ("none", ()),
        ("None", ()),
        ("otlp", ("otlp",)),
        ("prometheus, otlp", ("prometheus", "otlp")),
        ("OTLP,console,otlp", ("otlp", "console")),
    ],
)
def test_the_variable_lists_the_exporters(text: str | None, names: tuple[str, ...]) -> None:
    """OTEL_METRICS_EXPORTER is a list, prometheus by default, and none empties it."""
    assert exporter_names({} if text is None else {"OTEL_METRICS_EXPORTER": text}) == names


def test_an_unknown_name_is_refused() -> None:
    """A name that nothing answers to raises with the variable, the value and the known names."""
    with pytest.raises(ConfigError) as caught:
        exporter_names({"OTEL_METRICS_EXPORTER": "otlp,otpl"})
    for part in ("OTEL_METRICS_EXPORTER", "'otlp,otpl'", "'otpl'", "none, prometheus, otlp"):
        assert part in str(caught.value)


def test_none_beside_others_is_refused() -> None:
    """None and an exporter contradict each other."""
    with pytest.raises(ConfigError, match=r"OTEL_METRICS_EXPORTER is 'none,otlp'"):
        exporter_names({"OTEL_METRICS_EXPORTER": "none,otlp"})


def test_an_installed_exporter_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An exporter that a distribution registers is known by its name, and made."""
    install(monkeypatch, tmp_path, "carrier = some_exporters:Sent")

    names = exporter_names({"OTEL_METRICS_EXPORTER": "carrier"})
    (push,) = make(names)

    assert push.name == "carrier"
    assert type(push._exporter._exporter).__name__ == "Sent"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("carrier = some_exporters:Kept", "is a Kept and not a MetricExporter"),
        ("carrier = some_exporters:broken", "no such region"),
        ("carrier = some_exporters:absent", "absent"),
    ],
)
def test_an_installed_exporter_that_cannot_be_used_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, entry: str, reason: str
) -> None:
    """What an entry point gives must be an exporter that can be made, or the message says why."""
    install(monkeypatch, tmp_path, entry)
    with pytest.raises(ConfigError, match=f"OTEL_METRICS_EXPORTER asks for 'carrier'.*{reason}"):
        make("carrier")


def test_prometheus_is_not_pushed() -> None:
    """The pulled exporter makes no push, even with an interval that could not be used."""
    assert make("prometheus", OTEL_METRIC_EXPORT_INTERVAL="soon") == []


@pytest.mark.parametrize("variable", ["OTEL_METRIC_EXPORT_INTERVAL", "OTEL_METRIC_EXPORT_TIMEOUT"])
@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_wrong_interval_is_refused(variable: str, text: str) -> None:
    """An interval or a time-out that is not a positive number raises, and is named."""
    with pytest.raises(ConfigError, match=f"{variable} is '{text}'; give milliseconds"):
        make("console", **{variable: text})


def test_intervals_are_milliseconds() -> None:
    """The interval and the time-out are read in milliseconds, 60,000 and 30,000 by default."""
    (default,) = make("console", OTEL_METRIC_EXPORT_INTERVAL=" ")
    (given,) = make("console", OTEL_METRIC_EXPORT_INTERVAL="1500", OTEL_METRIC_EXPORT_TIMEOUT="250")

    assert (default._interval, default._timeout) == (60, 30)
    assert (given._interval, given._timeout) == (1.5, 0.25)


@pytest.mark.parametrize(
    "variable", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"]
)
def test_an_unknown_protocol_is_refused(variable: str) -> None:
    """A protocol that there is no exporter for raises with the variable that asked for it."""
    with pytest.raises(ConfigError, match=f"{variable} is 'http/json'; give grpc or http/protobuf"):
        make("otlp", **{variable: "http/json"})


def test_the_protocol_of_metrics_wins() -> None:
    """The variable for metrics goes before the one for every signal; gRPC is the default."""
    general, special = "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"
    both = make("otlp", **{general: "grpc", special: "HTTP/protobuf"})
    pushes = [*make("otlp"), *make("otlp", **{general: "http/protobuf", special: ""}), *both]

    modules = [type(push._exporter._exporter).__module__ for push in pushes]
    for push in pushes:
        push._exporter.shutdown()

    assert ["grpc" in name for name in modules] == [True, False, False]


def test_an_exporter_that_cannot_be_made_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an exporter raises for its own variables becomes a ConfigError that names it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    with pytest.raises(ConfigError, match=r"OTEL_METRICS_EXPORTER asks for 'otlp'.*soon"):
        make("otlp", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize(("kind", "protocol"), PROTOCOLS)
def test_what_is_pushed_decodes_exactly(
    monkeypatch: pytest.MonkeyPatch, kind: type[Receiver], protocol: str, compression: str | None
) -> None:
    """Counters, gauges and histograms reach a receiver with their labels, values and types."""
    if compression is not None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    with kind() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        (push,) = make("otlp", OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        provider = MeterProvider(metric_readers=[push.reader], shutdown_on_exit=False)
        meter = provider.get_meter("genmeter")
        meter.create_counter("tokens").add(2**53 + 1, {"model": "a"})
        meter.create_counter("tokens").add(5, {"model": "b"})
        meter.create_gauge("ratio").set(0.25)
        meter.create_histogram("duration").record(1.5, {"model": "a"})
        meter.create_histogram("duration").record(2.5, {"model": "a"})
        push.start()

        assert push.finish(GUARD)

        assert receiver.latest("tokens") == [({"model": "a"}, 2**53 + 1), ({"model": "b"}, 5)]
        assert receiver.total("tokens", model="b") == 5
        assert receiver.points("ratio") == [({}, 0.25)]
        assert receiver.points("duration") == [({"model": "a"}, Histogram(2, 4.0))]
        assert receiver.temporalities("tokens") == {"CUMULATIVE"}
        provider.shutdown()


@pytest.mark.parametrize(("kind", "protocol"), PROTOCOLS)
def test_delta_temporality_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: type[Receiver], protocol: str
) -> None:
    """Deltas of many short intervals and of the end add up to what was counted."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    with kind() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        (push,) = make(
            "otlp", OTEL_EXPORTER_OTLP_PROTOCOL=protocol, OTEL_METRIC_EXPORT_INTERVAL="5"
        )
        provider = MeterProvider(metric_readers=[push.reader], shutdown_on_exit=False)
        counter = provider.get_meter("genmeter").create_counter("tokens")
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


def test_the_console_gets_what_is_pushed(capsys: pytest.CaptureFixture[str]) -> None:
    """The console exporter writes JSON to the standard output."""
    (push,) = make("console")
    provider = MeterProvider(metric_readers=[push.reader], shutdown_on_exit=False)
    provider.get_meter("genmeter").create_counter("tokens").add(3)
    push.start()

    assert push.finish(GUARD)

    (resource,) = json.loads(capsys.readouterr().out)["resource_metrics"]
    (metric,) = resource["scope_metrics"][0]["metrics"]
    assert (metric["name"], metric["data"]["data_points"][0]["value"]) == ("tokens", 3)


def test_a_list_pushes_to_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each exporter of a list has a push of its own, in the list's order, and gets everything."""
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        names = exporter_names({"OTEL_METRICS_EXPORTER": "prometheus,otlp,console"})
        pushes = make(names, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
        readers = [push.reader for push in pushes]
        provider = MeterProvider(metric_readers=readers, shutdown_on_exit=False)
        provider.get_meter("genmeter").create_counter("tokens").add(3)

        assert [push.name for push in pushes] == ["otlp", "console"]
        assert [push.finish(GUARD) for push in pushes] == [True, True]

        assert receiver.points("tokens") == [({}, 3)]
        assert "tokens" in capsys.readouterr().out


def test_label_sets_are_capped() -> None:
    """The limit that a push is given is its reader's, where the SDK can be told."""
    received: list[Any] = []

    class Kept(MetricExporter):
        def export(self, metrics_data: Any, timeout_millis: float = 0, **kwargs: Any) -> Any:
            received.append(metrics_data)

        def force_flush(self, timeout_millis: float = 0) -> bool:
            return True

        def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
            pass

    push = Push(
        Kept(), name="kept", interval=60, timeout=GUARD, cardinality_limit=3, on_failure=str
    )
    provider = MeterProvider(metric_readers=[push.reader], shutdown_on_exit=False)
    counter = provider.get_meter("genmeter").create_counter("tokens")
    for number in range(10):
        counter.add(1, {"n": number})
    push.finish(GUARD)

    (metric,) = received[0].resource_metrics[0].scope_metrics[0].metrics
    values = [point.value for point in metric.data.data_points]
    assert sum(values) == 10
    can_be_told = "cardinality_limits" in inspect.signature(MetricReader).parameters
    assert len(values) <= 4 or not can_be_told


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("compression", ["none", "gzip", ""])
@pytest.mark.parametrize(
    "variable", ["OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION"]
)
def test_every_standard_compression_is_taken(
    protocol: str, compression: str, variable: str
) -> None:
    """The exporter over gRPC refuses the standard value none by itself; here it means none."""
    variables = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, variable: compression}
    (push,) = make("otlp", **variables)
    assert push.name == "otlp"
