"""Every page of any history is read by every program that reads pages, and all find the same."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

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
from _prometheus import NEWEST, OLDEST, Prometheus
from _random_history import RandomHistory
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.exporters._routes import choose_format
from genmeter.testing import fresh_runtime
from sdk_page import PrometheusReader

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

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
    for release in ("promtool", "promtool-newest"):
        check_metrics(text, release)


@pytest.mark.parametrize("kind", ["endpoint", "older-names", "sdk"])
def test_all_parsers_read_the_same(battery: Battery, parsers: GoParsers, kind: str) -> None:
    """Prometheus's parsers, those of prometheus_client and promtool, in every format."""
    for _ in range(battery.amount(short=5, long=300)):
        check(pages_of(kind, battery.random), parsers)


def pages_of(kind: str, random: random.Random) -> list[Page]:
    """Return the pages of a history."""
    if kind == "sdk":
        return pages_of_an_sdk(random)
    return pages_of_an_endpoint(random, older_names=kind == "older-names")


def test_servers_store_what_the_pages_say(battery: Battery, servers: list[Prometheus]) -> None:
    """The oldest and the newest Prometheus scrape pages, and answer with their samples."""
    for number in range(battery.amount(short=1, long=20)):
        pages = [
            page
            for kind in ("endpoint", "older-names", "sdk")
            for _ in range(2)
            for page in pages_of(kind, battery.random)[1:3]
        ]
        with served(pages) as address:
            for server in servers:
                check_stored(server, address, pages, f"run-{number}")
