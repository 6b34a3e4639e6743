"""Every page of any history is read by every program that reads pages, and all find the same."""

from __future__ import annotations

import os
import sys
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from _expositions import (
    GoParsers,
    Page,
    Reading,
    check_metrics,
    check_stored,
    differences,
    read_by_python,
    served,
)
from _jobs import environment
from _prometheus import NEWEST, OLDEST, Prometheus
from _random_history import RandomHistory
from _ranks import Live
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from _ports import free_port
from _waiting import eventually
from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.exporters._routes import choose_format
from genmeter.testing import fresh_runtime
from sdk_page import PrometheusReader

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

    from _battery import Battery

# Every format that an endpoint negotiates, and the preferences of Prometheus's two releases.
ACCEPTS = (
    "text/plain;version=0.0.4",
    "text/plain;version=1.0.0",
    "application/openmetrics-text;version=1.0.0",
    "application/openmetrics-text;version=0.0.1",
    "*/*",
    (
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
        "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.3,*/*;q=0.1"
    ),
)
# Of each of three kinds in a history.
EVENTS = 80


@pytest.fixture(scope="module")
def parsers() -> Iterator[GoParsers]:
    """Run Prometheus's parsers."""
    with GoParsers() as started:
        yield started


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Prometheus]]:
    """Run the oldest supported Prometheus and the newest one."""
    folder = tmp_path_factory.mktemp
    with (
        Prometheus(folder("oldest"), release=OLDEST) as oldest,
        Prometheus(folder("newest"), release=NEWEST) as newest,
    ):
        yield [oldest, newest]


def scrape(url: str, accept: str) -> Page:
    """Return the response of an endpoint."""
    request = urllib.request.Request(url, headers={"Accept": accept})  # noqa: S310, a loopback URL
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return Page(answer.headers["Content-Type"], answer.read())


def text_of(url: str) -> str:
    """Return the text of an endpoint, or nothing while it does not answer."""
    try:
        return scrape(url, "text/plain").body.decode()
    except OSError:
        return ""


def calls_on(url: str) -> float:
    """Return the number of calls on the page of an endpoint."""
    samples = read_by_python(scrape(url, "text/plain")).samples
    return sum(
        float(value)
        for key, value in samples.items()
        if ("__name__", "genmeter_generations_total") in key
    )


def pages_of_an_endpoint(random: random.Random, *, older_names: bool) -> list[Page]:
    """Record a history, and return the page of each format; some calls are within sampled spans."""
    history = RandomHistory(random)
    rows = history.custom_metrics()
    config = MonitorConfig(
        endpoint=EndpointConfig(port=0),
        custom_metrics=rows,
        older_metric_names=older_names,
        models=('a "known" \\ model',) if older_names else (),
    )
    with (
        fresh_runtime() as fresh,
        GenerationMonitor(metrics_interval=None, config=config) as monitor,
    ):
        history.record(monitor, rows, EVENTS)
        with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s"):
            history.record(monitor, rows, EVENTS)
        assert fresh._exporters is not None
        history.instrument(fresh._exporters.provider.get_meter, EVENTS)
        monitor.flush()
        assert monitor.endpoint_url is not None
        return [scrape(monitor.endpoint_url, accept) for accept in ACCEPTS]


def pages_of_an_sdk(random: random.Random) -> list[Page]:
    """Record in instruments of the SDK, and return the page of each format."""
    history = RandomHistory(random)
    reader = PrometheusReader()
    provider = MeterProvider(
        [reader],
        Resource({"service.name": history.text(), "a": 1, "é": history.text()}),
        exemplar_filter=AlwaysOnExemplarFilter(),
        shutdown_on_exit=False,
    )
    with fresh_runtime():
        config = MonitorConfig(meter_provider=provider)
        with GenerationMonitor(metrics_interval=None, config=config) as monitor:
            history.record(monitor, (), EVENTS)
            history.instrument(provider.get_meter, EVENTS)
            monitor.flush()
            formats = [choose_format(accept) for accept in ACCEPTS]
            pages = [Page(each.content_type, reader.render(each.openmetrics)) for each in formats]
    provider.shutdown()
    return pages


def pages_of_a_job(random: random.Random, folder: Path) -> list[Page]:
    """Record in two processes of a job, and return the page of each format."""
    url = f"http://127.0.0.1:{free_port()}/metrics"
    env = environment(
        GENMETER_JOB="battery",
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(urlsplit(url).port),
        PYTHONPATH=os.pathsep.join(sys.path),
    )
    seeds = [random.randrange(2**32) for _ in range(3)]
    folder.mkdir(exist_ok=True)
    with (
        Live(folder, "first", env, _JOB.format(rows=seeds[0], events=seeds[1])) as first,
        Live(folder, "second", env, _JOB.format(rows=seeds[0], events=seeds[2])) as second,
    ):
        members = 'genmeter_job_processes{genmeter_state="running"}'
        assert eventually(lambda: f"{members} 2\n" in text_of(url))
        for process in (first, second):
            process.do(f"work({EVENTS})")
            process.do("monitor.flush()")
        wanted = sum(process.do("recorded()") for process in (first, second))
        assert wanted > 0
        assert eventually(lambda: calls_on(url) == wanted)
        pages = [scrape(url, accept) for accept in ACCEPTS]
        assert second.end() == 0
        assert first.end() == 0
    return pages


# A process of a job: the custom metrics of a job are those of all of its processes.
_JOB = """
import random
from genmeter import runtime
from genmeter.testing import isolated_monitor
from opentelemetry.sdk.trace import TracerProvider
from _random_history import RandomHistory
rows = RandomHistory(random.Random({rows})).custom_metrics()
history = RandomHistory(random.Random({events}))
monitor = GenerationMonitor(metrics_interval=None, config=MonitorConfig.from_env(custom_metrics=rows))
monitor.track_generation(0.1, True)
monitor.flush()


def work(events):
    history.record(monitor, rows, events)
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s"):
        history.record(monitor, rows, events)
    history.instrument(runtime.current()._exporters.provider.get_meter, events)


def recorded():
    page = runtime.current()._exporters.provider.collect(10)
    return sum(
        point.value
        for resource in page.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "genmeter.generations"
        for point in metric.data.data_points
    )
"""


def check(pages: list[Page], parsers: GoParsers) -> None:
    """Check that all programs find the same in each page."""
    known: dict[bytes, Reading] = {}
    for page in pages:
        theirs = parsers.read(page)
        # The two versions of a format differ in their content types only.
        ours = known.setdefault(page.body, known.get(page.body) or read_by_python(page))
        assert differences(theirs.samples, ours.samples) == []
        assert theirs.types == ours.types
        assert theirs.helps == ours.helps
        assert theirs.units == ours.units
        assert theirs.exemplars == ours.exemplars
        assert theirs.samples
    text, *_ = pages
    check_formats(*known.values())
    for release in ("promtool", "promtool-newest"):
        check_metrics(text, release)


def check_formats(text: Reading, openmetrics: Reading, *_: Reading) -> None:
    """Check that both formats have the same series with the same values; nothing is recorded."""
    lacking = {name for key in {*text.samples} - {*openmetrics.samples} for name in _names(key)}
    # OpenMetrics has no sum and count of a histogram with a bound or a sum below 0.
    assert all(name.endswith(("_sum", "_count")) for name in lacking), lacking
    both = {key: text.samples[key] for key in openmetrics.samples}
    assert differences(both, openmetrics.samples) == []


def _names(key: frozenset[tuple[str, str]]) -> list[str]:
    return [value for name, value in key if name == "__name__"]


@pytest.mark.parametrize("kind", ["endpoint", "older-names", "sdk", "job"])
def test_all_parsers_read_the_same(
    battery: Battery, parsers: GoParsers, tmp_path: Path, kind: str
) -> None:
    """Prometheus's parsers, those of prometheus_client and promtool, in every format."""
    rounds = battery.amount(short=1 if kind == "job" else 3, long=300)
    for _ in range(rounds):
        check(pages_of(kind, battery.random, tmp_path), parsers)


def pages_of(kind: str, random: random.Random, folder: Path) -> list[Page]:
    """Return the pages of a history."""
    if kind == "sdk":
        return pages_of_an_sdk(random)
    if kind == "job":
        return pages_of_a_job(random, folder)
    return pages_of_an_endpoint(random, older_names=kind == "older-names")


def test_servers_store_what_the_pages_say(
    battery: Battery, servers: list[Prometheus], tmp_path: Path
) -> None:
    """The oldest and the newest Prometheus scrape pages, and answer with their samples."""
    for number in range(battery.amount(short=1, long=20)):
        pages = [
            page
            for kind in ("endpoint", "sdk", "job")
            for page in pages_of(kind, battery.random, tmp_path)[1:3]
        ]
        with served(pages) as address:
            for server in servers:
                check_stored(server, address, pages, f"run-{number}")
