"""The client of Prometheus's HTTP API: addresses, logins, retries and errors."""

from __future__ import annotations

import base64
import json
import math
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from _fleet import StoredSamples, serving_samples

from genmeter.errors import ConfigError
from genmeter.report import promapi
from genmeter.report.promapi import PrometheusApi, TooManySamplesError

if TYPE_CHECKING:
    from pathlib import Path

    from _fleet import Answer

OK = (
    200,
    {},
    json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}}).encode(),
)
HTML = (200, {"Content-Type": "text/html"}, b"<html>sign in</html>")


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the pauses between tries; no variable of the environment matters."""
    asked: list[float] = []
    monkeypatch.setattr(promapi.time, "sleep", asked.append)
    for name in (*promapi.ENVIRONMENT, "SSL_CERT_FILE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    return asked


def failed(status: int, **error: Any) -> Answer:
    """Return an error in the form of the API."""
    return status, {}, json.dumps({"status": "error", **error}).encode()


@pytest.mark.parametrize(
    "path", ["", "/", "/prometheus", "/prometheus/", "/select/0/prometheus", "/api/v1"]
)
def test_the_api_is_below_the_prefix(path: str) -> None:
    """Which may end in a slash, or be the API's own."""
    with serving_samples(lambda _: OK) as server:
        PrometheusApi(f"{server.url}{path}").query("up", 12.5)
        ((asked, _),) = server.requests
    prefix = path.removesuffix("/").removesuffix("/api/v1")
    assert urlsplit(asked).path == f"{prefix}/api/v1/query"
    assert parse_qs(urlsplit(asked).query) == {
        "query": ["up"],
        "time": ["12.500"],
        "timeout": ["60s"],
        "nocache": ["1"],
    }


def test_the_scheme_is_optional_and_now_is_the_servers() -> None:
    """Host and port are enough."""
    with serving_samples(StoredSamples(now=5.5)) as server:
        assert PrometheusApi(server.url.removeprefix("http://")).now() == 5.5


def test_the_login_of_the_address_wins_over_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Special characters are percent-encoded."""
    monkeypatch.setenv("GENMETER_PROMETHEUS_TOKEN", "secret")
    with serving_samples(lambda _: OK) as server:
        PrometheusApi(server.url).query("up")
        PrometheusApi(server.url.replace("//", "//me:a%2Fb%C3%A9@")).query("up")
        found = [headers["Authorization"] for _, headers in server.requests]
    basic = base64.b64encode("me:a/bé".encode()).decode()
    assert found == ["Bearer secret", f"Basic {basic}"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", "http://"),
        ("ftp://host", "ftp://host"),
        ("http://me:pass/word@host:1", "http://host:1"),
        ("http://host:99999", "http://host:99999"),
        ("http://host?x=1", "http://host?x=1"),
    ],
)
def test_an_address_that_is_none_is_an_error(url: str, shown: str) -> None:
    """Without its password."""
    with pytest.raises(ConfigError, match="prometheus must be an address") as caught:
        PrometheusApi(url)
    assert f"got {shown!r}" in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (failed(401), "responds with 401; add its login"),
        ((403, {}, b"no"), "responds with 403; add its login"),
        ((404, {}, b"404 page not found"), "responds with 404 to /api/v1/query; add the prefix"),
        (HTML, "something else than JSON"),
        ((200, {}, b"[]"), "something else than JSON"),
        (failed(400, errorType="bad_data", error="parse error"), "responds with 400: parse error"),
        ((500, {}, b"oops"), "responds with 500; check that it is healthy"),
        ((200, {}, b'{"status":"success"}'), "in a form that Prometheus does not have"),
        (
            (200, {}, b'{"status":"success","data":{"resultType":"vector","result":[1]}}'),
            "in a form",
        ),
    ],
)
def test_an_answer_that_is_none_is_an_error(
    answer: Answer, message: str, pauses: list[float]
) -> None:
    """It names the server without its password, and the remedy."""
    with serving_samples(lambda _: answer) as server:
        api = PrometheusApi(server.url.replace("//", "//me:hunter2@"))
        with pytest.raises(ConfigError) as caught:
            api.query("up")
    assert message in str(caught.value)
    assert f"prometheus={server.url!r}" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert pauses == []


@pytest.mark.parametrize(
    "answer",
    [
        failed(422, errorType="execution", error="would load too many samples into memory"),
        failed(503, errorType="timeout", error="query timed out in expression evaluation"),
        failed(503, errorType="503", error="timeout exceeded during query execution: 1s"),
        failed(422, errorType="422", error="cannot select more than -search.maxSamplesPerQuery=9"),
    ],
)
def test_an_answer_that_is_too_large_is_not_asked_again(answer: Answer) -> None:
    """The caller asks for less."""
    with serving_samples(lambda _: answer) as server:
        with pytest.raises(TooManySamplesError):
            PrometheusApi(server.url).query("up")
        assert len(server.requests) == 1


def test_a_larger_body_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fill the memory."""
    monkeypatch.setattr(promapi, "_MAX_BYTES", 1000)
    with (
        serving_samples(lambda _: (200, {}, b" " * 100_000)) as server,
        pytest.raises(TooManySamplesError),
    ):
        PrometheusApi(server.url).query("up")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_server_is_asked_again(status: int, pauses: list[float]) -> None:
    """After the time that it says, within bounds, or else after longer and longer ones."""
    answers = [
        failed(status),
        (status, {"Retry-After": "7"}, b""),
        (status, {"Retry-After": "86400"}, b""),
        (status, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, b""),
        OK,
    ]
    with serving_samples(lambda _: answers.pop(0)) as server:
        assert PrometheusApi(server.url).query("up") == []
    assert pauses == [0.5, 7.0, 30.0, 4.0]


def test_a_server_that_stays_busy_is_an_error(pauses: list[float]) -> None:
    """After five tries."""
    with serving_samples(lambda _: failed(503)) as server:
        with pytest.raises(ConfigError, match="responds with 503"):
            PrometheusApi(server.url).query("up")
        assert len(server.requests) == 5
    assert len(pauses) == 4


def test_all_requests_together_have_a_limit(pauses: list[float]) -> None:
    """The error has the remedy."""
    with serving_samples(lambda _: failed(503)) as server:
        api = PrometheusApi(server.url, total_timeout=0.0)
        with pytest.raises(ConfigError, match="not read within 0 s; use a shorter window"):
            api.query("up")


def test_nobody_listens(pauses: list[float]) -> None:
    """It is not asked again."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(ConfigError, match="does not respond: Connection refused; check that"):
            PrometheusApi(url).query("up")
    assert pauses == []


def test_a_server_that_hangs_is_an_error() -> None:
    """After its time-out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        api = PrometheusApi(url, total_timeout=0.2)
        with pytest.raises(ConfigError, match="does not respond: no answer in time; check that"):
            api.now()


def test_warnings_and_partial_answers_are_kept_once() -> None:
    """For the notes of a report."""
    body = {
        "status": "success",
        "isPartial": True,
        "warnings": ["one store is away", "x" * 999],
        "data": {"resultType": "vector", "result": []},
    }
    with serving_samples(lambda _: (200, {}, json.dumps(body).encode())) as server:
        api = PrometheusApi(server.url)
        api.query("up")
        api.query("up")
    assert api.warnings == [
        "one store is away",
        "x" * 300,
        "the answer is partial: a storage node did not answer",
    ]


def test_stale_markers_and_histograms_are_no_samples() -> None:
    """VictoriaMetrics returns markers as NaN; a native histogram has no value."""
    result = [
        {"metric": {"a": "1"}, "values": [[1, "NaN"], [2.5, "3"], [3, "+Inf"]]},
        {"metric": {"a": "2"}, "histograms": [[1, {}]]},
        {"metric": {"a": "3"}, "values": [[1, "NaN"]]},
    ]
    body = {"status": "success", "data": {"resultType": "matrix", "result": result}}
    with serving_samples(lambda _: (200, {}, json.dumps(body).encode())) as server:
        found = PrometheusApi(server.url).query("x[1m]")
    assert found == [({"a": "1"}, [(2.5, 3.0)])]
    assert math.isfinite(found[0].samples[0][1])


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "GENMETER_PROMETHEUS_CERT"])
def test_a_file_that_cannot_be_read_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the variable."""
    monkeypatch.setenv(name, "/nowhere/x.pem")
    with pytest.raises(ConfigError, match=f"{name}='/nowhere/x.pem' cannot be read: No such file"):
        PrometheusApi("http://127.0.0.1:1")


def test_a_token_with_a_line_break_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its value is not shown."""
    monkeypatch.setenv("GENMETER_PROMETHEUS_TOKEN", "a\nsecret")
    with pytest.raises(ConfigError, match="GENMETER_PROMETHEUS_TOKEN must be") as caught:
        PrometheusApi("http://127.0.0.1:1")
    assert "secret" not in str(caught.value)


def test_tls_with_an_own_authority_and_a_client_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the authority the error has the remedy."""
    authority = trustme.CA()
    trusted, client = tmp_path / "ca.pem", tmp_path / "client.pem"
    authority.cert_pem.write_to_path(trusted)
    authority.issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(client)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"https://localhost:{listening.getsockname()[1]}"

        def serve() -> None:
            for _ in range(2):
                connection, _ = listening.accept()
                try:
                    with context.wrap_socket(connection, server_side=True) as stream:
                        stream.recv(65536)
                        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(OK[2])}\r\n\r\n"
                        stream.sendall(head.encode() + OK[2])
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ConfigError, match="not trusted; set SSL_CERT_FILE"):
            PrometheusApi(url).query("up")
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        monkeypatch.setenv("GENMETER_PROMETHEUS_CERT", str(client))
        assert PrometheusApi(url).query("up") == []
        thread.join()
