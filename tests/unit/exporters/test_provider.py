"""The meter provider, the resource, and the start and end of the exporters."""

from __future__ import annotations

import functools
import logging
import os
import socket
from typing import TYPE_CHECKING, Any

import opentelemetry.sdk.metrics as sdk
import pytest
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality
from opentelemetry.sdk.resources import Resource

from _waiting import eventually
from genmeter import EndpointConfig, LabelLimits, MonitorConfig
from genmeter.exporters.provider import Exporters, cardinality_arguments
from genmeter.history.token_report import TokenUsageReport, UsageTotals
from genmeter.job import meeting
from genmeter.job.job import Job
from genmeter.metrics.meter import BuiltinMeterProvider
from genmeter.pipeline.drain import Pipeline
from genmeter.pipeline.self_metrics import SelfMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ID = "service.instance.id"
Make = Any


@pytest.fixture
def lines() -> list[tuple[int, str]]:
    """Return the log of the exporters: level and text."""
    return []


def write(lines: list[tuple[int, str]], level: int, text: str, *rest: object) -> None:
    """Add a line to the log."""
    lines.append((level, text % rest))


@pytest.fixture
def make(
    monkeypatch: pytest.MonkeyPatch, lines: list[tuple[int, str]]
) -> Iterator[Callable[..., Exporters]]:
    """Return a factory of exporters, which are closed at the end."""
    made: list[Exporters] = []
    limits = {
        name: getattr(LabelLimits(), name)
        for name in LabelLimits.__dataclass_fields__
        if name != "combinations"
    }

    def build(*, is_main: bool = True, endpoint: Any = None, **variables: str) -> Exporters:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        log = functools.partial(write, lines)
        exporters = Exporters(
            MonitorConfig(endpoint=endpoint or EndpointConfig(enabled=False)),
            Pipeline(limits, self_metrics=SelfMetrics()),
            job=Job(
                usage=lambda: TokenUsageReport(by_model=[]),
                totals=lambda: UsageTotals(0, 0.0, 0, ()),
                log=log,
            ),
            is_main=is_main,
            on_export_failure=lambda name: None,
            log=log,
        )
        made.append(exporters)
        return exporters

    with meeting.fresh_family():  # children of earlier tests would be of the same one
        yield build
        for each in made:
            each.finish(0)


# --- the provider --------------------------------------------------------------------------------


def test_the_builtin_provider_is_the_default(make: Make) -> None:
    """It is used unless a setting requires the SDK's."""
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
def test_settings_may_require_the_sdk_provider(make: Make, variable: str, value: str) -> None:
    """Delta sums, exponential histograms and exemplars of all observations need the SDK."""
    exporters = make(
        OTEL_METRICS_EXPORTER="prometheus,otlp",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        **{variable: value},
    )
    assert isinstance(exporters.provider, SdkMeterProvider)


def test_each_exporter_has_its_preferred_temporality(make: Make) -> None:
    """The page has totals even if a push has deltas."""
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


def test_the_filter_always_off_disables_exemplars(make: Make) -> None:
    """The built-in provider supports ``always_off``."""
    provider = make(OTEL_METRICS_EXEMPLAR_FILTER="always_off").provider
    assert isinstance(provider, BuiltinMeterProvider)
    assert not provider._shared.exemplars


def test_without_prometheus_there_is_no_page(make: Make) -> None:
    """A job that only pushes has neither a bridge nor an endpoint."""
    exporters = make(OTEL_METRICS_EXPORTER="none")
    assert exporters.bridge is None
    assert exporters.server is None
    assert exporters.url is None


# --- the resource and forks ----------------------------------------------------------------------


def test_a_process_has_one_instance_id(make: Make) -> None:
    """Consecutive providers of one process push the same series."""
    assert make().resource.attributes[ID] == make().resource.attributes[ID]


def test_an_sdk_without_an_instance_id_gets_one(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes that are no job push different series with an older SDK too."""
    monkeypatch.setattr(Resource, "create", lambda: Resource({"service.name": "s"}))
    first, second = make().resource.attributes, make().resource.attributes
    assert first["service.name"] == "s"
    assert first[ID] == second[ID]
    in_another_process(monkeypatch)
    assert make().resource.attributes[ID] == first[ID]  # as one that was forked
    monkeypatch.setattr(meeting._Known, "family", None)
    monkeypatch.setattr(meeting._Known, "has_instance", False)
    monkeypatch.delenv(meeting.FAMILY)
    assert make().resource.attributes[ID] != first[ID]


def in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on as a process that was forked."""
    pid = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: pid)


def test_a_child_keeps_the_jobs_resource(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The instance id is that of the job, which a detector may have named."""
    attributes = {"service.name": "s", ID: "host:8000"}
    monkeypatch.setattr(Resource, "create", lambda: Resource(attributes))
    exporters = make()
    assert exporters.resource.attributes[ID] == "host:8000"
    in_another_process(monkeypatch)
    exporters.after_fork_in_child()
    assert exporters.resource.attributes == attributes
    assert exporters.provider.resource is exporters.resource
    # A process that is spawned has it from the environment.
    assert os.environ[meeting.FAMILY].split(":", 1)[1].startswith("host:8000:")


def test_a_child_with_the_sdks_provider_keeps_the_resource_except_its_ids(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The instance id and the process id change, since its metrics are not combined."""
    attributes = {"service.name": "s", ID: "the parent's", "process.pid": 1}
    monkeypatch.setattr(Resource, "create", lambda: Resource(attributes))
    exporters = make(OTEL_METRICS_EXEMPLAR_FILTER="always_on")
    parents = exporters.resource.attributes[ID]
    in_another_process(monkeypatch)
    exporters.after_fork_in_child()
    child = exporters.resource.attributes
    assert child["service.name"] == "s"
    assert child[ID] != parents
    assert child["process.pid"] == os.getpid()


def test_a_child_starts_at_0(make: Make) -> None:
    """The provider stays, so that its instruments still work."""
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


def test_a_child_replaces_an_sdk_provider(make: Make) -> None:
    """The SDK's cannot be reset, and its locks may be held."""
    exporters = make(OTEL_METRICS_EXEMPLAR_FILTER="always_on")
    before = exporters.provider
    exporters.after_fork_in_child()
    assert exporters.rebuild()
    assert exporters.provider is not before
    exporters.provider.get_meter("m").create_counter("c").add(2)
    assert exporters.bridge is not None
    assert 'c_total{otel_scope_name="m"} 2' in exporters.bridge.render(openmetrics=False).decode()


# --- the start and the end -----------------------------------------------------------------------


def test_finished_exporters_do_not_start_again(make: Make) -> None:
    """A concurrent start leaves no endpoint behind."""
    exporters = make(endpoint=EndpointConfig(port=0))
    exporters.finish(1)
    exporters.start()
    assert exporters.url is None
    assert exporters.server is not None
    assert exporters.server.port == 0


def test_a_child_leaves_a_fixed_port_to_the_main_process(make: Make) -> None:
    """With the SDK's provider it serves an endpoint only on any free port."""
    sdk = {"OTEL_METRICS_EXEMPLAR_FILTER": "always_on"}
    assert make(is_main=False, endpoint=EndpointConfig(), **sdk).server is None
    assert make(is_main=False, endpoint=EndpointConfig(port=0), **sdk).server is not None


def test_any_process_of_a_job_may_serve_a_fixed_port(make: Make) -> None:
    """One of them leads, which need not be the main process."""
    assert make(is_main=False, endpoint=EndpointConfig()).server is not None


def test_a_taken_port_is_retried_and_logged_once(
    make: Make, lines: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page is served once the port is free."""
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


def test_finish_stops_retrying_a_port(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is bound for a finished job."""
    monkeypatch.setattr("genmeter.exporters.provider._RETRY", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        exporters = make(endpoint=EndpointConfig(), OTEL_EXPORTER_PROMETHEUS_PORT=port)
        exporters.start()
        exporters.finish(0)
    assert eventually(lambda: exporters._binder is not None and not exporters._binder.is_running)
    assert exporters.url is None


# --- the cardinality limit -----------------------------------------------------------------------

KINDS = {
    "Counter",
    "Histogram",
    "ObservableCounter",
    "ObservableGauge",
    "ObservableUpDownCounter",
    "UpDownCounter",
}


class Capped:
    """A reader of an SDK with cardinality limits."""

    def __init__(self, cardinality_limits: Any = None) -> None: ...


class Uncapped:
    """A reader of an older SDK."""

    def __init__(self) -> None: ...


def test_every_kind_of_instrument_is_limited() -> None:
    """The limits have each class that the SDK exports."""
    (limits,) = cardinality_arguments(Capped, 7).values()

    assert set(limits.values()) == {7}
    assert set(limits) == {getattr(sdk, name) for name in sdk.__all__ if name in KINDS}
    assert len(limits) == len(KINDS)


def test_older_readers_get_no_limits() -> None:
    """The constructor of an older SDK has no such argument."""
    assert cardinality_arguments(Uncapped, 7) == {}
