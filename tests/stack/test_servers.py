"""The real servers are installed and new enough, and their fixtures work."""

from __future__ import annotations

import http.server
import os
import re
import threading
import time
from typing import TYPE_CHECKING, ClassVar

import pytest
from _servers import ROOT, program, run
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
    OTLPMetricExporter as GrpcExporter,
)
from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
    OTLPMetricExporter as HttpExporter,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from _collector import Collector
    from _prometheus import Prometheus

TEXT = """\
# HELP probe_total Probes.
# TYPE probe_total counter
probe_total{model="a"} 3
probe_total{model="b"} 4
"""
# Recent, since Prometheus rejects samples older than its data; relative to the import, which may be
# many minutes before the test.
CREATED = time.time() - 60
OPENMETRICS = f"""\
# HELP probe Probes.
# TYPE probe counter
probe_total{{model="a"}} 3 # {{trace_id="0af7651916cd43dd8448eb211c80319c"}} 1.0
probe_created{{model="a"}} {CREATED:.3f}
probe_total{{model="b"}} 4
probe_created{{model="b"}} {CREATED:.3f}
# EOF
"""


class Page(http.server.BaseHTTPRequestHandler):
    """Serves the same two series in the requested format."""

    pages: ClassVar = {
        "application/openmetrics-text": (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            OPENMETRICS,
        ),
        "text/plain": ("text/plain; version=0.0.4; charset=utf-8", TEXT),
    }

    def do_GET(self) -> None:
        """Respond in the first format of the Accept header."""
        accepted = self.headers["Accept"].split(";")[0].split(",")[0].strip()
        content_type, page = self.pages[accepted]
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(page.encode())

    def log_message(self, *args: object) -> None:
        """Keep the server's log out of the test's output."""


@pytest.fixture
def page_url() -> Iterator[str]:
    """Return the address of a page that serves both formats."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("name", "min_version"),
    [
        ("prometheus", (3, 5)),
        ("promtool", (3, 5)),
        ("prometheus-alertmanager", (0, 33)),
        ("amtool", (0, 33)),
    ],
)
def test_servers_are_new_enough(name: str, min_version: tuple[int, int]) -> None:
    """Each program is the oldest supported release or newer."""
    printed = run(program(name), "--version").stdout
    found = re.search(r"version (\d+)\.(\d+)", printed)
    assert found, printed
    assert (int(found[1]), int(found[2])) >= min_version


@pytest.mark.parametrize("protocol", ["text", "openmetrics"])
def test_a_target_is_scraped_in_the_requested_format(
    prometheus: Prometheus, page_url: str, protocol: str
) -> None:
    """A target added at run time is scraped in its format only."""
    instance = prometheus.add_target(page_url, protocol, run=f"format-{protocol}")
    query = f'sum by (model, job, instance) (probe_total{{run="format-{protocol}"}})'
    samples = prometheus.wait_for(query)
    prometheus.remove_target(instance)
    assert {sample.labels["model"]: sample.value for sample in samples} == {"a": 3, "b": 4}
    assert {sample.labels["job"] for sample in samples} == {protocol}
    assert {sample.labels["instance"] for sample in samples} == {instance}
    exemplars = prometheus.exemplars(f'probe_total{{run="format-{protocol}"}}')
    assert bool(exemplars) == (protocol == "openmetrics")


def test_a_removed_target_goes_stale(prometheus: Prometheus, page_url: str) -> None:
    """A removed target is missing from instant queries, but its past samples are not."""
    instance = prometheus.add_target(page_url, run="removed")
    prometheus.wait_for('probe_total{run="removed"}')
    prometheus.remove_target(instance)
    prometheus.wait_for('probe_total{run="removed"}', lambda samples: not samples)
    assert prometheus.value('sum(last_over_time(probe_total{run="removed"}[5m]))') == 7


def test_an_added_scrape_job_is_scraped(prometheus: Prometheus, page_url: str) -> None:
    """A test can add a scrape job with any settings to the running server."""
    address = page_url.removeprefix("http://").removesuffix("/metrics")
    prometheus.add_job(
        {"job_name": "added", "static_configs": [{"targets": [address]}], "sample_limit": 10}
    )
    assert prometheus.wait_for('up{job="added"}', lambda up: [s.value for s in up] == [1])


def test_a_timeout_reports_the_last_result(prometheus: Prometheus) -> None:
    """A wait that times out fails with the expression and the last result."""
    with pytest.raises(AssertionError, match=r"(?s)vector\(2\) was not as expected.*value=2\.0"):
        prometheus.wait_for("vector(2)", lambda samples: samples[0].value == 3, timeout=0)


def test_zero_ingestion_counts_from_the_created_timestamp(
    prometheus: Prometheus, prometheus_from_zero: Prometheus, page_url: str
) -> None:
    """With zero ingestion a counter starts at zero; without, at its first scraped value."""
    minimum = {}
    for name, server in (("seen", prometheus), ("created", prometheus_from_zero)):
        instance = server.add_target(page_url, "openmetrics", run="created")
        server.wait_for('probe_total{run="created"}')
        server.remove_target(instance)
        minimum[name] = server.value('sum(min_over_time(probe_total{run="created"}[1h]))')
    assert minimum == {"seen": 7, "created": 0}


@pytest.mark.parametrize(
    ("protocol", "make_exporter"),
    [
        ("grpc", lambda c: GrpcExporter(endpoint=c.grpc_endpoint, insecure=True)),
        ("http/protobuf", lambda c: HttpExporter(endpoint=f"{c.http_endpoint}/v1/metrics")),
    ],
)
def test_the_collector_receives_otlp(
    collector: Collector, protocol: str, make_exporter: Callable[[Collector], MetricExporter]
) -> None:
    """Metrics exported by OTLP over gRPC or HTTP are on the Collector's page."""
    service = f"servers-{protocol}"
    provider = MeterProvider(
        [PeriodicExportingMetricReader(make_exporter(collector))],
        resource=Resource({"service.name": service, "service.instance.id": "one"}),
    )
    provider.get_meter("probe").create_counter("probe.sent").add(5, {"model": "a"})
    provider.shutdown()
    assert collector.wait_for("probe_sent_total", bool, job=service, model="a") == 5


def test_a_missing_server_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not installed fails the test with the remedy instead of skipping it."""
    monkeypatch.setitem(os.environ, "PATH", "")
    with pytest.raises(pytest.fail.Exception, match="run `make servers`"):
        program("prometheus")


def test_promtool_rejects_an_invalid_configuration(promtool: str, tmp_path: Path) -> None:
    """Promtool fails on a configuration that Prometheus rejects."""
    config = tmp_path / "prometheus.yml"
    config.write_text("scrape_configs: [{job_name: a, scrape_interval: never}]")
    assert run(promtool, "check", "config", config).returncode != 0


def test_the_example_configuration_is_valid(promtool: str) -> None:
    """The shipped scrape configuration passes promtool's check."""
    checked = run(promtool, "check", "config", ROOT / "deploy" / "prometheus" / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout
