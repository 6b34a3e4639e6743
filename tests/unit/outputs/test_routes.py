"""What the endpoint answers, whichever server carries it."""

from __future__ import annotations

import base64
import gzip
import hmac
from typing import Any

import pytest

from genmeter.errors import ConfigError
from genmeter.outputs.routes import (
    BasicAuth,
    basic_auth,
    respond,
    wants_gzip,
    wants_openmetrics,
)

PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3_5 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PREFERS_TEXT = "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5"


def render(openmetrics: bool) -> bytes:
    """Return a page that says its format."""
    return b"openmetrics" if openmetrics else b"text"


def basic(username: str, password: str) -> str:
    """Return an Authorization header."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def ask(method: str = "GET", path: str = "/metrics", auth: Any = None, **headers: str) -> Any:
    """Ask for a path; underscores in the names of headers stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return respond(method, path, named, render, auth)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; Version=1.0.0", True),
        ("application/openmetrics-text;version=0.0.1", False),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=high", False),
        ("text/plain,application/openmetrics-text", True),
        (PROMETHEUS_2_42, True),
        (PROMETHEUS_3_5, True),
        (PREFERS_TEXT, False),
        (",;,=;", False),
    ],
)
def test_the_format_is_negotiated(accept: str, expected: bool) -> None:
    """OpenMetrics is written for who prefers it, text for everybody else."""
    assert wants_openmetrics(accept) is expected


@pytest.mark.parametrize("accept", [PROMETHEUS_2_42, PROMETHEUS_3_5])
def test_prometheus_gets_openmetrics(accept: str) -> None:
    """The headers of Prometheus's releases lead to OpenMetrics 1.0, named so, never escaped."""
    response = ask(accept=accept)
    assert response.body == b"openmetrics"
    assert dict(response.headers)["Content-Type"] == (
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    )


def test_a_browser_gets_text() -> None:
    """Without a preference the page is Prometheus text."""
    response = ask(path="/metrics?x=1")
    assert (response.status, response.body) == (200, b"text")
    assert dict(response.headers)["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("*", True),
        ("gzip;q=0, *", False),
        ("identity", False),
    ],
)
def test_compression_is_negotiated(header: str, expected: bool) -> None:
    """A page is compressed for who takes gzip."""
    assert wants_gzip(header) is expected


def test_large_pages_are_compressed() -> None:
    """A page that is worth it is sent as gzip, and says so."""
    page = b"x" * 5000
    response = respond("GET", "/metrics", {"accept-encoding": "gzip"}, lambda _: page, None)
    assert dict(response.headers)["Content-Encoding"] == "gzip"
    assert gzip.decompress(response.body) == page
    assert "Content-Encoding" not in dict(ask(accept_encoding="gzip").headers)


@pytest.mark.parametrize("path", ["/", "", "/metrics/x", "/favicon.ico", "/healthy", "x:443"])
def test_other_paths_are_not_found(path: str) -> None:
    """What is not served is a 404 that says where the metrics are."""
    response = ask(path=path)
    assert response.status == 404
    assert b"/metrics" in response.body


@pytest.mark.parametrize("path", ["/metrics", "/-/healthy"])
@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS", "PROPFIND"])
def test_other_methods_are_not_allowed(method: str, path: str) -> None:
    """A method that is not served is a 405 that names those that are."""
    response = ask(method, path)
    assert response.status == 405
    assert ("Allow", "GET, HEAD") in response.headers


def test_a_probe_with_head_collects_nothing() -> None:
    """HEAD answers without a body and without a collection."""

    def fail(openmetrics: bool) -> bytes:
        raise AssertionError("collected")

    response = respond("HEAD", "/metrics", {"accept": PROMETHEUS_3_5}, fail, None)
    assert (response.status, response.body) == (200, b"")
    assert "openmetrics" in dict(response.headers)["Content-Type"]


def test_health_needs_no_password() -> None:
    """The health path answers whoever asks, also where the page needs a password."""
    auth = BasicAuth("u", "p")
    assert ask(path="/-/healthy", auth=auth)[::2] == (200, b"ok\n")
    assert ask("HEAD", "/-/healthy", auth=auth)[::2] == (200, b"")


@pytest.mark.parametrize(
    "header",
    [
        "",
        basic("u", "wrong"),
        basic("wrong", "pä:ss"),
        basic("u", ""),
        "Bearer x",
        "Basic ???",
        "Basic ü",
        "Basic",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_may_not_read_is_asked_for_a_password(method: str, header: str) -> None:
    """A wrong or missing password is a 401 with a challenge."""
    response = ask(method, auth=BasicAuth("u", "pä:ss"), authorization=header)
    assert response.status == 401
    assert dict(response.headers)["WWW-Authenticate"].startswith("Basic ")
    assert b"text" not in response.body


def test_who_may_read_gets_the_page() -> None:
    """The right user name and password open the page, colons and umlauts in them too."""
    auth = BasicAuth("u", "pä:ss")
    assert ask(auth=auth, authorization=basic("u", "pä:ss")).body == b"text"
    assert ask(auth=auth, authorization=basic("u", "pä:ss").replace("Basic", "basic")).status == 200


def test_a_password_is_not_shown() -> None:
    """The password stands in no representation."""
    assert "secret" not in repr(BasicAuth("u", "secret"))


def test_user_and_password_are_both_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong user name does not spare the comparison of the password."""
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(a) or real(a, b))
    assert not BasicAuth("u", "p").accepts(basic("x", "p"))
    assert compared == [b"x", b"p"]


@pytest.mark.parametrize(
    ("username", "password", "message"),
    [
        ("u", None, "username is given without password"),
        (None, "p", "password is given without username"),
        ("", "p", "username is ''"),
        ("a:b", "p", "username is 'a:b'"),
        ("u", "", "password is empty"),
    ],
)
def test_impossible_credentials_are_an_error(
    username: str | None, password: str | None, message: str
) -> None:
    """Credentials that basic auth cannot carry are refused by name."""
    with pytest.raises(ConfigError, match=message):
        basic_auth(username, password)


def test_a_collection_that_fails_is_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    """A failed collection is a 503 without a part of a page, and is logged."""

    def fail(openmetrics: bool) -> bytes:
        raise TimeoutError("secret detail")

    response = respond("GET", "/metrics", {"accept-encoding": "gzip"}, fail, None)
    assert response.status == 503
    assert response.body == b"the metrics could not be collected: TimeoutError\n"
    assert "secret detail" in caplog.text
