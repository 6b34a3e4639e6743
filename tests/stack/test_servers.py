"""The real servers are there, new enough, and the fixtures see what they are told."""

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
# Not long ago: Prometheus takes no samples that are older than what it holds.
# As of the import, which may be many minutes before the test that looks for it.
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
    """Serves the same two series in the format that the scraper asked for."""

    pages: ClassVar = {
        "application/openmetrics-text": (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            OPENMETRICS,
        ),
        "text/plain": ("text/plain; version=0.0.4; charset=utf-8", TEXT),
    }

    def do_GET(self) -> None:
        """Answers with the first format that the Accept header names."""
        asked = self.headers["Accept"].split(";")[0].split(",")[0].strip()
        content_type, page = self.pages[asked]
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.end_headers()
        self.wfile.write(page.encode())

    def log_message(self, *args: object) -> None:
        """Says nothing: the test's output is not the server's log."""


@pytest.fixture
def page_url() -> Iterator[str]:
    """The address of a page that a scraper can read in both formats."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("prometheus", (3, 5)),
        ("promtool", (3, 5)),
        ("prometheus-alertmanager", (0, 33)),
        ("amtool", (0, 33)),
    ],
)
def test_servers_are_new_enough(name: str, least: tuple[int, int]) -> None:
    """Each program is of the release that we promise to work with, or newer."""
    printed = run(program(name), "--version").stdout
    found = re.search(r"version (\d+)\.(\d+)", printed)
    assert found, printed
    assert (int(found[1]), int(found[2])) >= least


@pytest.mark.parametrize("protocol", ["text", "openmetrics"])
def test_a_target_is_scraped_in_the_format_asked_for(
    prometheus: Prometheus, page_url: str, protocol: str
) -> None:
    """A target added at run time is scraped exactly, in the one format that was asked for."""
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
    """A target that was removed gives an instant query nothing, while its past can be asked for."""
    instance = prometheus.add_target(page_url, run="removed")
    prometheus.wait_for('probe_total{run="removed"}')
    prometheus.remove_target(instance)
    prometheus.wait_for('probe_total{run="removed"}', lambda samples: not samples)
    assert prometheus.value('sum(last_over_time(probe_total{run="removed"}[5m]))') == 7


def test_a_job_of_its_own_is_scraped(prometheus: Prometheus, page_url: str) -> None:
    """A test can add a scrape job with settings of its own to the running server."""
    address = page_url.removeprefix("http://").removesuffix("/metrics")
    prometheus.add_job(
        {"job_name": "of-its-own", "static_configs": [{"targets": [address]}], "sample_limit": 10}
    )
    assert prometheus.wait_for('up{job="of-its-own"}', lambda up: [s.value for s in up] == [1])


def test_a_wrong_answer_says_what_it_was(prometheus: Prometheus) -> None:
    """A wait that ends in vain names the expression and the last answer."""
    with pytest.raises(AssertionError, match=r"(?s)vector\(2\) was not as expected.*value=2\.0"):
        prometheus.wait_for("vector(2)", lambda samples: samples[0].value == 3, timeout=0)


def test_prometheus_sees_a_counter_from_its_birth(
    prometheus: Prometheus, prometheus_from_zero: Prometheus, page_url: str
) -> None:
    """With zero ingestion, a counter starts at zero when it was created; without, when first seen."""
    least = {}
    for name, server in (("seen", prometheus), ("created", prometheus_from_zero)):
        instance = server.add_target(page_url, "openmetrics", run="birth")
        server.wait_for('probe_total{run="birth"}')
        server.remove_target(instance)
        least[name] = server.value('sum(min_over_time(probe_total{run="birth"}[1h]))')
    assert least == {"seen": 7, "created": 0}


@pytest.mark.parametrize(
    ("protocol", "make_exporter"),
    [
        ("grpc", lambda c: GrpcExporter(endpoint=c.grpc_endpoint, insecure=True)),
        ("http/protobuf", lambda c: HttpExporter(endpoint=f"{c.http_endpoint}/v1/metrics")),
    ],
)
def test_the_collector_takes_otlp(
    collector: Collector, protocol: str, make_exporter: Callable[[Collector], MetricExporter]
) -> None:
    """What is exported over OTLP, gRPC or HTTP, stands on the Collector's page."""
    service = f"servers-{protocol}"
    provider = MeterProvider(
        [PeriodicExportingMetricReader(make_exporter(collector))],
        resource=Resource({"service.name": service, "service.instance.id": "one"}),
    )
    provider.get_meter("probe").create_counter("probe.sent").add(5, {"model": "a"})
    provider.shutdown()
    assert collector.wait_for("probe_sent_total", bool, job=service, model="a") == 5


def test_a_missing_server_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not installed fails the test with the remedy, and never skips it."""
    monkeypatch.setitem(os.environ, "PATH", "")
    with pytest.raises(pytest.fail.Exception, match="run `make servers`"):
        program("prometheus")


def test_promtool_tells_good_from_bad(promtool: str, tmp_path: Path) -> None:
    """Promtool refuses a configuration that Prometheus would refuse."""
    config = tmp_path / "prometheus.yml"
    config.write_text("scrape_configs: [{job_name: a, scrape_interval: never}]")
    assert run(promtool, "check", "config", config).returncode != 0


def test_the_example_configuration_is_valid(promtool: str) -> None:
    """The scrape configuration that we hand to users passes promtool's check."""
    checked = run(promtool, "check", "config", ROOT / "deploy" / "prometheus" / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout
