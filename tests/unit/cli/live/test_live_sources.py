"""Sources: endpoints, names of jobs, and Prometheus's answers."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from _live import page
from prometheus_client.parser import text_string_to_metric_families

from genmeter.cli.live import sources
from genmeter.cli.live.sources import Endpoint, Prometheus, source_of
from genmeter.errors import ConfigError
from genmeter.report import promapi
from genmeter.report.promapi import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOW = 1_795_725_700.0


@pytest.fixture(autouse=True)
def _no_access(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the variables only those of a test matter."""
    for name in (*ENVIRONMENT, "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def answering(
    answer: Callable[[str, Any], tuple[int, str]], context: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serve what a function returns for a path and the headers; yields host and port."""

    class _Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path, self.headers)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    class _Server(HTTPServer):
        def handle_error(self, *_: object) -> None:
            """Print nothing of a client without a certificate."""

    with _Server(("127.0.0.1", 0), _Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def series(text: str, target: dict[str, str]) -> list[dict[str, Any]]:
    """The series of a page as an instant query returns them."""
    return [
        {
            "metric": {"__name__": sample.name, **sample.labels, **target},
            "value": [NOW, str(sample.value)],
        }
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


class Server:
    """Prometheus's answers for some targets.

    Attributes:
        targets: Pages and the age of their scrape by job and instance.
        extra: Further keys of the answers.
        asked: Path and parameters of each request.
    """

    def __init__(self) -> None:
        self.targets: dict[tuple[str, str], tuple[str, float]] = {}
        self.extra: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, list[str]], Any]] = []

    def __call__(self, path: str, headers: Any) -> tuple[int, str]:
        """Answer a query of sums or of times."""
        parts = urlsplit(path)
        parameters = parse_qs(parts.query)
        self.asked.append((parts.path, parameters, headers))
        found: list[dict[str, Any]] = []
        for (job, instance), (text, age) in self.targets.items():
            target = {"job": job, "instance": instance}
            if "timestamp" in parameters["query"][0]:
                found.append({"metric": target, "value": [NOW, str(NOW - age)]})
            else:
                found += series(text, target)
        data = {"resultType": "vector", "result": found}
        return 200, json.dumps({"status": "success", "data": data, **self.extra})


# --- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("127.0.0.1:9464", "127.0.0.1:9464"),
        ("localhost:9464/metrics/", "localhost:9464"),
        ("http://user:secret@gpu-7:9464", "gpu-7:9464"),
        ("user:secret@gpu-7:9464", "gpu-7:9464"),
        ("https://10.0.0.7:9464/job/metrics", "https://10.0.0.7:9464/job/metrics"),
        ("[::1]:9464", "[::1]:9464"),
        ("prometheus=http://user:secret@10.0.0.7:9090/x", "prometheus=http://10.0.0.7:9090/x"),
    ],
)
def test_a_source_is_named_without_its_password(text: str, name: str) -> None:
    """The name fits a line."""
    assert source_of(text).name == name


@pytest.mark.parametrize(
    "text",
    ["", "logs/metrics.jsonl", "metrics.jsonl", "a b", "host:99999", "prometheus=", "runs/"],
)
def test_another_argument_is_an_error_that_names_it(text: str) -> None:
    """The error says what is possible."""
    with pytest.raises(ConfigError) as caught:
        source_of(text)
    assert text.removeprefix("prometheus=") in str(caught.value)
    assert "127.0.0.1:9" in str(caught.value)


def test_a_name_without_a_job_is_an_error() -> None:
    """The remedy is the job's address."""
    with pytest.raises(ConfigError, match="'nightly' must be the name of a running job"):
        source_of("nightly")


# --- endpoints ---------------------------------------------------------------------------------


def test_an_endpoint_is_read_with_its_login() -> None:
    """The numbers are those of its page."""
    logins = []

    def answer(path: str, headers: Any) -> tuple[int, str]:
        logins.append((path, headers["Authorization"]))
        return 200, page(123)

    with answering(answer) as host:
        (reading,) = Endpoint(f"http://user:secret@{host}").read()
    assert logins == [("/metrics", "Basic dXNlcjpzZWNyZXQ=")]
    assert (reading.name, reading.age) == (host, 0.0)
    assert reading.status.usage.total().calls == 123


def test_an_endpoint_that_cannot_be_read_says_why() -> None:
    """Without its address, which the view has in front."""
    with answering(lambda *_: (401, "")) as host, pytest.raises(ConfigError) as caught:
        Endpoint(host).read()
    assert str(caught.value).startswith("responds with 401 Unauthorized; add its login")
    with answering(lambda *_: (200, "up 1\n")) as host, pytest.raises(ConfigError) as caught:
        Endpoint(host).read()
    assert str(caught.value).startswith("responds without metrics of genmeter")
    assert not isinstance(caught.value.__cause__, OSError)
    with pytest.raises(ConfigError, match="does not respond") as caught:
        Endpoint(host).read()
    assert isinstance(caught.value.__cause__, OSError)


# --- Prometheus --------------------------------------------------------------------------------


def test_each_target_of_prometheus_is_a_job() -> None:
    """With the time of its last scrape, which rates are computed with."""
    server = Server()
    server.targets["nightly", "b:1"] = page(200, firing={"RateLimited": 1}), 3.5
    server.targets["nightly", "a:1"] = page(100, errors={}), 0.5
    with answering(server) as host:
        readings = Prometheus(f"http://user:secret@{host}/prefix/").read()
    assert [(each.name, each.at, each.age) for each in readings] == [
        ("nightly/a:1", NOW - 0.5, 0.5),
        ("nightly/b:1", NOW - 3.5, 3.5),
    ]
    statuses = [reading.status for reading in readings]
    assert [each.usage.total().calls for each in statuses] == [100, 200]
    assert [each.firing for each in statuses] == [{}, {"RateLimited": 1}]
    assert statuses[1].errors == {"RateLimitError": 3, "TimeoutError": 1}
    assert (statuses[0].samples, statuses[0].expected, statuses[0].instance) == (40, 100, "one")
    (sums, times) = server.asked
    assert sums[0] == times[0] == "/prefix/api/v1/query"
    assert sums[2]["Authorization"] == "Basic dXNlcjpzZWNyZXQ="
    assert float(times[1]["time"][0]) == NOW  # both queries are of one time


def test_series_of_other_programs_are_no_job() -> None:
    """A target without genmeter's series is not shown."""
    server = Server()
    server.targets["nightly", "a:1"] = page(), 1.0

    def answer(path: str, headers: Any) -> tuple[int, str]:
        status, body = server(path, headers)
        found = json.loads(body)
        if "timestamp" not in parse_qs(urlsplit(path).query)["query"][0]:
            other = {"job": "node", "instance": "n:1"}
            found["data"]["result"] += series('target_info{service_instance_id="x"} 1\n', other)
        return status, json.dumps(found)

    with answering(answer) as host:
        assert [each.name for each in Prometheus(host).read()] == ["nightly/a:1"]


def test_a_server_without_series_has_no_jobs() -> None:
    """It is no error: a job may begin."""
    with answering(Server()) as host:
        assert Prometheus(host).read() == []


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        ({"warnings": ["remote read failed"]}, "Prometheus: remote read failed"),
        (
            {"isPartial": True},
            "Prometheus: the answer is partial: a storage node did not answer",
        ),
    ],
)
def test_an_incomplete_answer_is_noted(extra: dict[str, Any], note: str) -> None:
    """The numbers are partial."""
    server = Server()
    server.targets["nightly", "a:1"] = page(), 1.0
    server.extra = extra
    with answering(server) as host:
        (reading,) = Prometheus(host).read()
    assert note in reading.status.notes()


def answer_of(result: Any) -> str:
    """An answer with a result, whatever that is."""
    data = {"resultType": "vector", "result": result}
    return json.dumps({"status": "success", "data": data})


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (
            401,
            "",
            "responds with 401; add its login, as in http://user:password@host:9090, or set ",
        ),
        (404, "", "responds with 404 to /api/v1/query; add the prefix of its path"),
        (503, "", "responds with 503; check that it is healthy"),
        (503, '{"error": "too many samples"}', "refuses the query: too many samples; check its "),
        (200, "<html>", "responds with something else than JSON"),
        (200, "[]", "responds with something else than JSON"),
        (200, '{"status": "success", "data": null}', "answers in a form that Prometheus does not"),
        (200, answer_of([{"value": [1]}]), "answers in a form that Prometheus does not have"),
        (200, answer_of([{"value": [1, "2"]}]), "answers in a form that Prometheus does not have"),
        (200, answer_of([{"metric": 1, "value": [1, "2"]}]), "answers in a form that Prometheus"),
    ],
)
def test_an_answer_of_something_else_says_what_to_check(
    status: int, body: str, message: str
) -> None:
    """A login, or another address; it is asked once, as the next reading asks again."""
    asked = []

    def answer(path: str, _: Any) -> tuple[int, str]:
        asked.append(path)
        return status, body

    with answering(answer) as host, pytest.raises(ConfigError) as caught:
        Prometheus(host).read()
    assert str(caught.value).startswith(message)
    assert not isinstance(caught.value.__cause__, OSError)
    assert len(asked) == 1


def test_a_server_that_is_down_does_not_respond() -> None:
    """Its jobs keep their last numbers."""
    with answering(Server()) as host:
        pass
    with pytest.raises(ConfigError, match=r"^does not respond: .*check that it is run") as caught:
        Prometheus(host).read()
    assert isinstance(caught.value.__cause__, OSError)


def test_a_server_that_hangs_does_not_respond(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepted the request, and has no answer in time."""
    monkeypatch.setattr(sources, "_TIMEOUT", 0.05)
    monkeypatch.setattr(promapi, "_GRACE_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host, port = silent.getsockname()
        with pytest.raises(ConfigError, match=r"^does not respond: no answer in time") as caught:
            Prometheus(f"{host}:{port}").read()
    assert isinstance(caught.value.__cause__, OSError)


def test_a_token_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables are those of a report; a login in the address wins."""
    monkeypatch.setenv("GENMETER_PROMETHEUS_TOKEN", "s3cret")
    server = Server()
    with answering(server) as host:
        source_of(f"prometheus={host}").read()
        source_of(f"prometheus=me:word@{host}").read()
    assert [headers["Authorization"] for *_, headers in server.asked] == [
        *(["Bearer s3cret"] * 2),
        *(["Basic bWU6d29yZA=="] * 2),
    ]


def test_a_server_may_require_a_certificate_of_the_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both sides are checked: its own is trusted by SSL_CERT_FILE, the client's is sent."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("me@example.org").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "client.pem"
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    server = Server()
    server.targets["nightly", "a:1"] = page(), 1.0
    with answering(server, context) as host:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        with pytest.raises(ConfigError):
            source_of(f"prometheus=https://{host}").read()
        monkeypatch.setenv("GENMETER_PROMETHEUS_CERT", str(tmp_path / "client.pem"))
        assert [each.name for each in source_of(f"prometheus=https://{host}").read()] == [
            "nightly/a:1"
        ]
        monkeypatch.setenv("GENMETER_PROMETHEUS_CERT", str(tmp_path / "absent.pem"))
        with pytest.raises(ConfigError, match=r"GENMETER_PROMETHEUS_CERT=.* cannot be read"):
            source_of(f"prometheus=https://{host}")
