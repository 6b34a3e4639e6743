"""The responses of the endpoint, on every server."""

from __future__ import annotations

import base64
import gzip
import hmac
import threading
from typing import TYPE_CHECKING, Any

import pytest

from genmeter.errors import ConfigError
from genmeter.exporters._routes import (
    BasicAuth,
    Routes,
    basic_auth,
    choose_format,
    combine,
    split_target,
    wants_gzip,
)

if TYPE_CHECKING:
    from collections.abc import Collection

OM = "application/openmetrics-text"

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
    """Return the name of the format."""
    return b"openmetrics" if openmetrics else b"text"


def basic(username: str, password: str) -> str:
    """Return an Authorization header."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def respond(method: str = "GET", target: str = "/metrics", auth: Any = None, **headers: str) -> Any:
    """Return the response; underscores in names of headers stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    path, query = split_target(target)
    return Routes(render, auth).respond(method, path, named, query)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; Version=1.0.0", True),
        ("application/openmetrics-text;version=0.0.1", True),
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
    """Clients that prefer OpenMetrics get it, others get text."""
    assert choose_format(accept).openmetrics is expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        # A wildcard's weight counts like that of any other range.
        (f"*/*;q=1, {OM};q=0.1", "text/plain 0.0.4"),
        (f"text/*;q=0.9, {OM};q=0.1", "text/plain 0.0.4"),
        (f"application/*;q=0.9, {OM};q=0.1, text/plain;q=0.5", "text/plain 0.0.4"),
        (f"*/*;q=0.1, {OM};q=0.2", f"{OM} 1.0.0"),
        (f"*/*, {OM}", f"{OM} 1.0.0"),
        ("application/*", f"{OM} 1.0.0"),
        ("text/*", "text/plain 0.0.4"),
        # The most specific range decides, also with a weight of 0.
        (f"{OM};q=0, */*", "text/plain 0.0.4"),
        ("text/plain;q=0, */*", f"{OM} 1.0.0"),
        (f"{OM};q=0.9, {OM};version=1.0.0;q=0.1, text/plain;q=0.5", f"{OM} 0.0.1"),
        # Versions differ.
        (f"text/plain;version=1.0.0;q=0.9, {OM};q=0.1", "text/plain 1.0.0"),
        ("text/plain;version=1.0.0;q=0.4, text/plain;version=0.0.4;q=0.3", "text/plain 1.0.0"),
        ("text/plain;version=0.0.4, text/plain;version=1.0.0;q=0.3", "text/plain 0.0.4"),
        (f"{OM};version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", f"{OM} 0.0.1"),
        (f'{OM};version="1.0.0"', f"{OM} 1.0.0"),
        (f"{OM};version=2.0.0, text/plain;version=0.0.4;q=0.1", "text/plain 0.0.4"),
        # Weights out of range are clamped; invalid ones are ignored.
        (f"{OM};q=5, text/plain;q=0.9", f"{OM} 1.0.0"),
        (f"{OM};q=-1, text/plain;q=0.1", "text/plain 0.0.4"),
        (f"{OM};q=nan, text/plain;q=0.1", "text/plain 0.0.4"),
        (f"{OM};q=inf, text/plain;q=0.1", "text/plain 0.0.4"),
        (f"{OM};q=, text/plain;q=0.1", "text/plain 0.0.4"),
        (f"{OM} ; Q=0.9 , text/plain;q=.8", f"{OM} 1.0.0"),
        # Without an acceptable format the default is sent.
        ("image/png", "text/plain 0.0.4"),
        ("*/*;q=0", "text/plain 0.0.4"),
    ],
)
def test_the_format_with_the_highest_weight_wins(accept: str, expected: str) -> None:
    """Each format has the weight of its most specific range."""
    chosen = choose_format(accept)
    assert f"{chosen.media_type} {chosen.version}" == expected
    assert chosen.openmetrics is (chosen.media_type == OM)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        (f"{OM};version=0.0.1", f"{OM}; version=0.0.1; charset=utf-8"),
        (f"{OM};escaping=allow-utf-8", f"{OM}; version=1.0.0; charset=utf-8; escaping=underscores"),
        (
            "text/plain;version=1.0.0;escaping=dots",
            "text/plain; version=1.0.0; charset=utf-8; escaping=underscores",
        ),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_content_type_names_the_escaping(method: str, accept: str, content_type: str) -> None:
    """From 1.0.0 on the header names the escaping, whatever the client accepts."""
    assert dict(respond(method, accept=accept).headers)["Content-Type"] == content_type


@pytest.mark.parametrize("accept", [PROMETHEUS_2_42, PROMETHEUS_3_5])
def test_prometheus_gets_openmetrics(accept: str) -> None:
    """The headers of Prometheus releases select OpenMetrics 1.0."""
    response = respond(accept=accept)
    assert response.body == b"openmetrics"
    assert dict(response.headers)["Content-Type"] == (
        "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
    )


def test_a_browser_gets_text() -> None:
    """The default is Prometheus text."""
    response = respond(target="/metrics?x=1")
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
        ("identity, gzip;q=0.5", False),
        ("gzip, identity;q=0.5", True),
        ("gzip;q=0.5", True),
        ("gzip, identity", True),
        ("*;q=0.5, identity", False),
        ("identity;q=0, *", True),
        ("X-Gzip", True),
        ("gzip;q=none", False),
        ("br", False),
    ],
)
def test_compression_is_negotiated(header: str, expected: bool) -> None:
    """Clients that prefer gzip get it."""
    assert wants_gzip(header) is expected


def test_large_pages_are_compressed() -> None:
    """Small pages are not compressed."""
    page = b"x" * 5000
    response = Routes(lambda _: page).respond("GET", "/metrics", {"accept-encoding": "gzip"})
    assert dict(response.headers)["Content-Encoding"] == "gzip"
    assert gzip.decompress(response.body) == page
    assert "Content-Encoding" not in dict(respond(accept_encoding="gzip").headers)


@pytest.mark.parametrize(
    "path",
    [
        "//",
        "*",
        "/metrics/x",
        "/favicon.ico",
        "/healthy",
        "x:443",
        "http://x/other",
        "ftp://x/metrics",
    ],
)
def test_other_paths_are_not_found(path: str) -> None:
    """The body of a 404 says where the metrics are."""
    response = respond(target=path)
    assert response.status == 404
    assert b"/metrics" in response.body


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "",
        "/metrics/",
        "/?x=1",
        "http://127.0.0.1:9464/metrics",
        "HTTPS://[::1]:9464/metrics?x=1",
        "http://x",
        "http://x?x=http://y/other",
        "/metrics#x",
    ],
)
def test_the_page_has_several_paths(target: str) -> None:
    """The root, a trailing slash and an absolute address are the page too."""
    response = respond(target=target)
    assert (response.status, response.body, response.is_scrape) == (200, b"text", True)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("name[]=a", {"a"}),
        ("name%5B%5D=a&x=y&name[]=b", {"a", "b"}),
        ("name[]=a&name[]=a", {"a"}),
    ],
)
def test_samples_are_selected_by_name(query: str, names: set[str]) -> None:
    """The names of a query reach the page, which is then not a whole scrape."""
    asked: list[Any] = []

    def page(openmetrics: bool, names: Collection[str] = ()) -> bytes:
        asked.append((openmetrics, set(names)))
        return b"some"

    response = Routes(page).respond("GET", "/metrics", {"accept": OM}, query)
    assert (response.status, response.body, response.is_scrape) == (200, b"some", False)
    assert asked == [(True, names)]


@pytest.mark.parametrize("query", ["", "name[]=", "name=a", "%ff%=&&", "x"])
def test_other_query_parameters_are_ignored(query: str) -> None:
    """A query without names returns the whole page."""
    assert Routes(render).respond("GET", "/metrics", {}, query).is_scrape


@pytest.mark.parametrize("path", ["/metrics", "/", "/-/healthy", "*"])
def test_options_lists_the_methods(path: str) -> None:
    """OPTIONS needs no password and no collection."""
    response = respond("OPTIONS", path, auth=BasicAuth("u", "p"))
    assert (response.status, response.body) == (200, b"")
    assert ("Allow", "GET, HEAD, OPTIONS") in response.headers
    assert respond("OPTIONS", "/other").status == 404


def test_repeated_headers_are_combined() -> None:
    """They keep their order."""
    pairs = [("Accept", "a"), ("X", "1"), ("accept", "b;q=0.5"), ("ACCEPT", "c")]
    assert combine(pairs) == {"accept": "a, b;q=0.5, c", "x": "1"}


def test_several_credentials_are_rejected() -> None:
    """One valid Authorization header of two is not enough."""
    both = combine([("Authorization", basic("u", "p")), ("Authorization", basic("u", "x"))])
    assert Routes(render, BasicAuth("u", "p")).respond("GET", "/metrics", both).status == 401


@pytest.mark.parametrize("path", ["/metrics", "/-/healthy"])
@pytest.mark.parametrize("method", ["POST", "PUT", "TRACE", "PROPFIND"])
def test_other_methods_are_not_allowed(method: str, path: str) -> None:
    """A 405 lists the allowed methods."""
    response = respond(method, path)
    assert response.status == 405
    assert ("Allow", "GET, HEAD, OPTIONS") in response.headers


def test_head_does_not_collect() -> None:
    """HEAD has no body and causes no collection."""

    def fail(openmetrics: bool) -> bytes:
        raise AssertionError("collected")

    response = Routes(fail).respond("HEAD", "/metrics", {"accept": PROMETHEUS_3_5})
    assert (response.status, response.body) == (200, b"")
    assert "openmetrics" in dict(response.headers)["Content-Type"]


def test_health_needs_no_password() -> None:
    """The health path is open even if the page needs a password."""
    auth = BasicAuth("u", "p")
    assert respond(target="/-/healthy", auth=auth)[::2] == (200, b"ok\n")
    assert respond("HEAD", "/-/healthy", auth=auth)[::2] == (200, b"")


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
def test_wrong_credentials_return_401(method: str, header: str) -> None:
    """A wrong or missing password gets a challenge."""
    response = respond(method, auth=BasicAuth("u", "pä:ss"), authorization=header)
    assert response.status == 401
    assert dict(response.headers)["WWW-Authenticate"].startswith("Basic ")
    assert b"text" not in response.body


def test_valid_credentials_return_the_page() -> None:
    """A password may contain colons and umlauts."""
    auth = BasicAuth("u", "pä:ss")
    assert respond(auth=auth, authorization=basic("u", "pä:ss")).body == b"text"
    assert (
        respond(auth=auth, authorization=basic("u", "pä:ss").replace("Basic", "basic")).status
        == 200
    )


def test_the_password_is_not_in_the_repr() -> None:
    """A log of the object does not show it."""
    assert "secret" not in repr(BasicAuth("u", "secret"))


def test_user_name_and_password_are_both_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong user name does not skip the comparison of the password."""
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(a) or real(a, b))
    assert not BasicAuth("u", "p").accepts(basic("x", "p"))
    assert compared == [b"x", b"p"]


@pytest.mark.parametrize(
    ("username", "password", "message"),
    [
        ("u", None, "username must be set together with password"),
        (None, "p", "password must be set together with username"),
        ("", "p", "username must be .*got ''"),
        ("a:b", "p", "username must .*no colon, got 'a:b'"),
        ("u", "", "password must be a text that is not empty"),
    ],
)
def test_invalid_credentials_are_an_error(
    username: str | None, password: str | None, message: str
) -> None:
    """The error names the argument that basic auth cannot send."""
    with pytest.raises(ConfigError, match=message):
        basic_auth(username, password)


def test_a_failed_collection_returns_503(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the body has no part of a page."""

    def fail(openmetrics: bool) -> bytes:
        raise TimeoutError("secret detail")

    response = Routes(fail).respond("GET", "/metrics", {"accept-encoding": "gzip"})
    assert response.status == 503
    assert response.body == b"the metrics could not be collected: TimeoutError\n"
    assert "secret detail" in caplog.text


def test_a_503_contains_genmeters_own_reason() -> None:
    """The message of a genmeter error is in the body, on one line."""

    def fail(openmetrics: bool) -> bytes:
        raise ConfigError("there is no page:\n every monitor is shut down \ud800")

    response = Routes(fail).respond("GET", "/metrics", {})
    assert response.status == 503
    assert response.body == (
        b"the metrics could not be collected: ConfigError: there is no page: every monitor is shut "
        b"down ?\n"
    )


def test_failures_are_logged_once_until_a_scrape_succeeds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Repeated failures log one line; the next failure after a success logs again."""
    works = threading.Event()

    def page(openmetrics: bool, names: Collection[str] = ()) -> bytes:
        if not works.is_set():
            raise TimeoutError
        return b"page"

    routes = Routes(page)
    for expected in (1, 2):
        statuses = [routes.respond("GET", "/metrics", {}).status for _ in range(3)]
        # Neither counts as a successful scrape.
        routes.respond("GET", "/-/healthy", {})
        routes.respond("HEAD", "/metrics", {})
        statuses.append(routes.respond("GET", "/metrics", {}).status)
        assert statuses == [503] * 4
        assert len(caplog.records) == expected
        works.set()
        assert routes.respond("GET", "/metrics", {}).status == 200
        works.clear()
    assert {record.levelname for record in caplog.records} == {"WARNING"}
