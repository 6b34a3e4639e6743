"""The exporters: whose provider they read, what it says of its process, and their start and end."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality
from opentelemetry.sdk.resources import Resource

from _waiting import eventually
from genmeter import EndpointConfig, LabelLimits, MonitorConfig
from genmeter.exporters.provider import Exporters
from genmeter.metrics.meter import BuiltinMeterProvider
from genmeter.pipeline.drain import Pipeline
from genmeter.pipeline.self_metrics import SelfMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ID = "service.instance.id"
Make = Any


@pytest.fixture
def lines() -> list[tuple[int, str]]:
    """Return what the exporters log: level and text."""
    return []


@pytest.fixture
def make(
    monkeypatch: pytest.MonkeyPatch, lines: list[tuple[int, str]]
) -> Iterator[Callable[..., Exporters]]:
    """Return what makes exporters that serve nothing, with variables, closed at the end."""
    made: list[Exporters] = []
    limits = {
        name: getattr(LabelLimits(), name)
        for name in LabelLimits.__dataclass_fields__
        if name != "combinations"
    }

    def build(*, is_main: bool = True, endpoint: Any = None, **variables: str) -> Exporters:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        exporters = Exporters(
            MonitorConfig(endpoint=endpoint or EndpointConfig(enabled=False)),
            Pipeline(limits, self_metrics=SelfMetrics()),
            is_main=is_main,
            on_export_failure=lambda name: None,
            log=lambda level, text, *rest: lines.append((level, text % rest)),
        )
        made.append(exporters)
        return exporters

    yield build
    for each in made:
        each.finish(0)


# --- whose provider ------------------------------------------------------------------------------


def test_the_builtin_provider_is_the_default(make: Make) -> None:
    """Without a wish that only the SDK can serve, the cells are ours."""
    assert isinstance(make().provider, BuiltinMeterProvider)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "LowMemory"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "base2_exponential_bucket_histogram",
        ),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "always_on"),
    ],
)
def test_the_sdk_serves_what_ours_does_not(make: Make, variable: str, value: str) -> None:
    """Delta, exponential histograms and exemplars of every measurement come from the SDK."""
    exporters = make(
        OTEL_METRICS_EXPORTER="prometheus,otlp",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        **{variable: value},
    )
    assert isinstance(exporters.provider, SdkMeterProvider)


def test_each_exporter_has_the_temporality_that_it_prefers(make: Make) -> None:
    """Where a push wants increments, the page still has totals."""
    exporters = make(
        OTEL_METRICS_EXPORTER="prometheus,otlp",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
    )
    counter = exporters.provider.get_meter("m").create_counter("c")
    for _ in range(2):
        counter.add(3)
        pushed = exporters._collect_for("otlp")(5.0)
        assert exporters.bridge is not None
        page = exporters.bridge.render(openmetrics=False).decode()
    (metric,) = pushed.resource_metrics[0].scope_metrics[0].metrics
    assert metric.data.aggregation_temporality == AggregationTemporality.DELTA
    assert [point.value for point in metric.data.data_points] == [3]
    assert 'c_total{otel_scope_name="m"} 6' in page


def test_the_filter_always_off_keeps_no_exemplars(make: Make) -> None:
    """``always_off`` is served by ours, without exemplars."""
    provider = make(OTEL_METRICS_EXEMPLAR_FILTER="always_off").provider
    assert isinstance(provider, BuiltinMeterProvider)
    assert not provider._shared.exemplars


def test_without_prometheus_there_is_no_page(make: Make) -> None:
    """A job that only pushes has neither bridge nor endpoint."""
    exporters = make(OTEL_METRICS_EXPORTER="none")
    assert exporters.bridge is None
    assert exporters.server is None
    assert exporters.url is None


# --- the process ---------------------------------------------------------------------------------


def test_a_process_has_one_id(make: Make) -> None:
    """Providers that follow each other in one process push the same series."""
    assert make().resource.attributes[ID] == make().resource.attributes[ID]


def test_an_sdk_that_gives_no_id_is_helped(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process pushes one series and two push series of their own with an older SDK too."""
    monkeypatch.setattr(Resource, "create", lambda: Resource({"service.name": "s"}))
    first, second = make().resource.attributes, make().resource.attributes
    assert first["service.name"] == "s"
    assert first[ID] == second[ID]
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert make().resource.attributes[ID] != first[ID]


def test_an_id_of_the_environment_is_kept(make: Make) -> None:
    """Who names the instance in ``OTEL_RESOURCE_ATTRIBUTES`` knows why."""
    exporters = make(OTEL_RESOURCE_ATTRIBUTES=f"{ID}=mine,service.name=s")
    assert exporters.resource.attributes[ID] == "mine"
    assert exporters.job == "s"


def test_a_child_keeps_all_but_what_is_the_processs_own(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forked child has the parent's resource, with an id and a process id of its own."""
    attributes = {"service.name": "s", ID: "the parent's", "process.pid": 1}
    monkeypatch.setattr(Resource, "create", lambda: Resource(attributes))
    exporters = make()
    parents = exporters.resource.attributes[ID]
    exporters.after_fork_in_child()
    child = exporters.resource.attributes
    assert child["service.name"] == "s"
    assert child[ID] != parents
    assert child["process.pid"] == os.getpid()
    assert exporters.provider.resource is exporters.resource


def test_a_child_counts_from_0(make: Make) -> None:
    """The provider stays, so that instruments made on it work, and starts at 0."""
    exporters = make()
    provider = exporters.provider
    counter = provider.get_meter("m").create_counter("c")
    counter.add(5)
    exporters.after_fork_in_child()
    assert not exporters.rebuild()
    counter.add(2)
    assert exporters.provider is provider
    assert exporters.bridge is not None
    assert 'c_total{otel_scope_name="m"} 2' in exporters.bridge.render(openmetrics=False).decode()


def test_a_child_has_a_new_provider_of_the_sdks(make: Make) -> None:
    """The SDK's cannot start at 0, and its locks may be held: the child makes another."""
    exporters = make(OTEL_METRICS_EXEMPLAR_FILTER="always_on")
    before = exporters.provider
    exporters.after_fork_in_child()
    assert exporters.rebuild()
    assert exporters.provider is not before
    exporters.provider.get_meter("m").create_counter("c").add(2)
    assert exporters.bridge is not None
    assert 'c_total{otel_scope_name="m"} 2' in exporters.bridge.render(openmetrics=False).decode()


# --- the start and the end -----------------------------------------------------------------------


def test_a_provider_that_ended_does_not_start_again(make: Make) -> None:
    """A start that was under way when the provider ended leaves no endpoint behind."""
    exporters = make(endpoint=EndpointConfig(port=0))
    exporters.finish(1)
    exporters.start()
    assert exporters.url is None
    assert exporters.server is not None
    assert exporters.server.port == 0


def test_a_child_leaves_a_fixed_port_to_the_main_process(make: Make) -> None:
    """Only where any free port will do a child serves an endpoint too."""
    assert make(is_main=False, endpoint=EndpointConfig()).server is None
    assert make(is_main=False, endpoint=EndpointConfig(port=0)).server is not None


def test_a_port_that_is_taken_is_tried_again_and_logged_once(
    make: Make, lines: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the port is free the page is served, whoever had it before."""
    monkeypatch.setattr("genmeter.exporters.provider._RETRY", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        exporters = make(endpoint=EndpointConfig(), OTEL_EXPORTER_PROMETHEUS_PORT=str(port))
        for _ in range(3):
            exporters.start()
        assert exporters.url is None
        assert eventually(lambda: exporters._binder is not None and exporters._binder.is_running)
    assert eventually(lambda: exporters.url == f"http://127.0.0.1:{port}/metrics")
    assert eventually(lambda: exporters._binder is not None and not exporters._binder.is_running)
    warnings = [text for level, text in lines if level == logging.WARNING]
    assert len(warnings) == 1
    assert "tries again" in warnings[0]
    assert [text for level, text in lines if level == logging.INFO] == [
        f"metrics are served at {exporters.url}"
    ]


def test_the_end_stops_to_try_a_port(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is bound for a job that is over."""
    monkeypatch.setattr("genmeter.exporters.provider._RETRY", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        exporters = make(endpoint=EndpointConfig(), OTEL_EXPORTER_PROMETHEUS_PORT=port)
        exporters.start()
        exporters.finish(0)
    assert eventually(lambda: exporters._binder is not None and not exporters._binder.is_running)
    assert exporters.url is None
