"""Scrapers of every kind, while a job records: none costs an event, a page, a thread or a secret."""

from __future__ import annotations

import contextlib
import http.client
import logging
import random
import socket
import ssl
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import trustme
from _bad_clients import PASSWORD, USERNAME, BadClient, authorization, secrets_of
from prometheus_client.parser import text_string_to_metric_families

from _waiting import eventually
from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _battery import Battery

CLIENTS_AT_ONCE = 24
CROWD = 300  # connections at once, ten times the endpoint's limit


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return an authority."""
    return trustme.CA()


@pytest.fixture(params=["http", "https"])
def tls(
    request: pytest.FixtureRequest, authority: trustme.CA, tmp_path: Path
) -> tuple[dict[str, Any], ssl.SSLContext | None]:
    """Return an endpoint's settings of TLS, and the context of its clients."""
    if request.param == "http":
        return {}, None
    path = tmp_path / "certificate.pem"
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        path
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return {"certfile": str(path)}, context


class GoodScraper:
    """Scrapes with credentials until the end of its block, one scrape after the other.

    Attributes:
        answered: The number of whole pages.
        failed: The errors of others; the endpoint may close a connection before it has a request.
        in_a_row: The most failures without a page between them.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        self.answered = 0
        self.failed: Counter[str] = Counter()
        self.in_a_row = 0
        self.falls: list[tuple[float, float]] = []
        self._port, self._context = port, context
        self._last = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                calls = calls_on(page(self._port, self._context))
            except (OSError, http.client.HTTPException) as error:
                failures += 1
                self.in_a_row = max(failures, self.in_a_row)
                self.failed[type(error).__name__] += 1
                continue
            failures = 0
            self.answered += 1
            if calls < self._last:
                self.falls.append((self._last, calls))
            self._last = calls
            self._stop.wait(0.02)


def page(port: int, context: ssl.SSLContext | None) -> str:
    """Scrape an endpoint with credentials."""
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        if context is None
        else http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
    )
    try:
        connection.request("GET", "/metrics", headers={"Authorization": authorization()})
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, body
        return body
    finally:
        connection.close()


def half_open(port: int) -> socket.socket:
    """Return a connection with half a request, or half a handshake."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    with contextlib.suppress(OSError):  # closed for another one
        connection.sendall(b"GET /metrics HTTP/1.1\r\nAuthor")
    return connection


def calls_on(text: str) -> float:
    """Return the number of calls on a page."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "genmeter_generations_total"
    )


class Recorders:
    """Threads that record until the end of their block; `total` is what they recorded."""

    def __init__(self, monitor: GenerationMonitor) -> None:
        self._monitor = monitor
        self._stop = threading.Event()
        self._counts = [0, 0]
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(2)]

    @property
    def total(self) -> int:
        """The calls."""
        return sum(self._counts)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            self._monitor.track_generation(
                0.1, True, model_name=f"m{number}", prompt_token_count=2, completion_token_count=1
            )
            self._counts[number] += 1
            self._stop.wait(0.001)


def descriptors() -> int:
    """Return the number of this process's open files."""
    return len(list(Path("/proc/self/fd").iterdir()))


def requests_under_way() -> int:
    """Return the number of connections that are served."""
    return sum(each.name == "genmeter-endpoint-request" for each in threading.enumerate())


@contextlib.contextmanager
def serving(settings: dict[str, Any]) -> Iterator[tuple[GenerationMonitor, int]]:
    """Return a monitor that has recorded a call, and the port of its endpoint with credentials."""
    config = MonitorConfig(
        endpoint=EndpointConfig(port=0, username=USERNAME, password=PASSWORD, **settings)
    )
    with (
        fresh_runtime() as fresh,
        GenerationMonitor(metrics_interval=None, config=config) as monitor,
    ):
        monitor.track_generation(0.1, True, prompt_token_count=2, completion_token_count=1)
        monitor.flush()
        server = fresh._exporters.server  # type: ignore[union-attr]
        assert server is not None
        yield monitor, server.port


@pytest.fixture
def whole_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[None]:
    """Check that neither a log line, of any level, nor an output has a credential."""
    caplog.set_level(logging.DEBUG)
    yield
    found = [caplog.text, *capfd.readouterr()]
    found += [repr(record.args) for record in caplog.records]
    for secret in secrets_of():
        assert not [text for text in found if secret in text or repr(secret)[1:-1] in text]


@pytest.mark.usefixtures("whole_log")
def test_bad_clients_cost_nothing(
    battery: Battery, tls: tuple[dict[str, Any], ssl.SSLContext | None]
) -> None:
    """Good scrapers are answered, totals are exact, and nothing is left of the clients."""
    settings, context = tls
    count = battery.amount(short=3_000, long=100_000)
    seeds = [battery.random.random() for _ in range(count)]
    with serving(settings) as (monitor, port):
        page(port, context)
        assert eventually(lambda: requests_under_way() == 0)
        before = descriptors()
        with (
            Recorders(monitor) as recorders,
            GoodScraper(port, context) as good,
            ThreadPoolExecutor(CLIENTS_AT_ONCE) as pool,
        ):
            clients = [BadClient(random.Random(seed), port, context) for seed in seeds]
            done = Counter(pool.map(lambda client: client(), clients))
        assert len(done) == len(clients[0]._kinds)
        assert good.answered > 0
        assert good.in_a_row < 3, good.failed
        assert good.falls == []
        monitor.flush()
        assert calls_on(page(port, context)) == recorders.total + 1
        assert monitor.get_total_token_usage().total_tokens == 3 * (recorders.total + 1)
        assert eventually(lambda: requests_under_way() == 0)
        assert eventually(lambda: descriptors() <= before), (descriptors(), before)


@pytest.mark.usefixtures("whole_log")
def test_a_crowd_is_served_or_closed(
    battery: Battery, tls: tuple[dict[str, Any], ssl.SSLContext | None]
) -> None:
    """Hundreds of scrapes at once, or of half-open connections: a scraper after them is answered."""
    settings, context = tls

    def scrape(_: int) -> str:
        try:
            calls_on(page(port, context))
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        return "page"

    with serving(settings) as (_, port):
        with ThreadPoolExecutor(CROWD) as pool:
            for _ in range(battery.amount(short=1, long=40)):
                found = Counter(pool.map(scrape, range(CROWD)))
                assert found["page"] > 0
                # A scraper of the next minute is alone again.
                assert calls_on(page(port, context)) == 1
            held = list(pool.map(lambda _: half_open(port), range(CROWD)))
            for _ in range(20):
                assert calls_on(page(port, context)) == 1
            for each in held:
                each.close()
        assert eventually(lambda: requests_under_way() == 0)
