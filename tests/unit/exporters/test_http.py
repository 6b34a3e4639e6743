"""The endpoint over real sockets."""

from __future__ import annotations

import errno
import gzip
import http.client
import logging
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from _waiting import eventually
from genmeter.errors import ConfigError, EndpointError
from genmeter.exporters import _http as listener
from genmeter.exporters._http import ScrapeServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HANG = 60


def render(openmetrics: bool) -> bytes:
    """Return a page that says its format."""
    return b"openmetrics" if openmetrics else b"text"


@contextmanager
def serving(page: Callable[[bool], bytes] = render, **arguments: Any) -> Iterator[ScrapeServer]:
    """Serve on a free port of the loopback interface."""
    server = ScrapeServer(page, **{"port": 0, **arguments})
    server.start()
    try:
        yield server
    finally:
        server.close()


def fetch(
    server: ScrapeServer,
    authority: trustme.CA | None = None,
    client: trustme.LeafCert | None = None,
) -> bytes:
    """Scrape the URL that the endpoint gives, with a client's certificate or without."""
    context = trusting(authority) if authority is not None else None
    if context is not None and client is not None:
        client.configure_cert(context)
    with urllib.request.urlopen(server.url, timeout=HANG, context=context) as response:  # noqa: S310, our own URL
        return bytes(response.read())


def ask(server: ScrapeServer, method: str = "GET", path: str = "/metrics", **kwargs: Any) -> Any:
    """Return status, headers and body of one request."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=HANG)) as client:
        client.request(method, path, **kwargs)
        response = client.getresponse()
        return response.status, response.headers, response.read()


def test_the_page_is_served() -> None:
    """A scrape gets the page in the format that it prefers."""
    with serving() as server:
        assert server.url == f"http://127.0.0.1:{server.port}/metrics"
        assert fetch(server) == b"text"
        accept = {"Accept": "application/openmetrics-text"}
        assert ask(server, headers=accept)[2] == b"openmetrics"


def test_the_other_answers() -> None:
    """Health is served, unknown paths and methods are refused, HEAD has no body."""
    with serving() as server:
        assert ask(server, path="/-/healthy")[2] == b"ok\n"
        assert ask(server, path="/other")[0] == 404
        assert ask(server, path="/")[2] == ask(server, path="/metrics/")[2] == b"text"
        status, headers, body = ask(server, "OPTIONS")
        assert (status, headers["Allow"], body) == (200, "GET, HEAD, OPTIONS", b"")
        assert ask(server, "POST", body=b"x" * 1000)[0] == 405
        assert ask(server, "PROPFIND")[0] == 405
        status, headers, body = ask(server, "HEAD")
        assert (status, body, headers["Content-Length"]) == (200, b"", None)
        assert headers["Connection"] == "close"
        assert headers["Server"] == "genmeter"


def test_a_large_page_is_compressed() -> None:
    """A page for who takes gzip arrives whole."""
    page = b"0123456789" * 100_000
    with serving(lambda _: page) as server:
        _, headers, body = ask(server, headers={"Accept-Encoding": "gzip"})
        assert headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(body) == page
        assert ask(server)[2] == page


def test_a_failed_collection_is_unavailable() -> None:
    """A page that cannot be collected is a 503."""

    def fail(openmetrics: bool) -> bytes:
        raise TimeoutError

    with serving(fail) as server:
        assert ask(server)[0] == 503


def test_a_password_is_asked_for() -> None:
    """With a user name and a password the page needs both, the health path neither."""
    with serving(username="u", password="p") as server:
        assert ask(server)[0] == 401
        assert ask(server, path="/-/healthy")[0] == 200
        assert ask(server, headers={"Authorization": "Basic dTpw"})[0] == 200


def test_requests_are_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    """Scrapes, bad ones too, write nothing to the job's output."""
    with serving() as server:
        ask(server)
        ask(server, path="/x")
        with closing(connect(server)) as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert b"400" in read_all(client)
    assert capfd.readouterr() == ("", "")


def connect(server: ScrapeServer) -> socket.socket:
    """Open a connection and say nothing."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=HANG)


def read_all(client: socket.socket) -> bytes:
    """Read until the server closes."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_an_idle_client_holds_up_nobody() -> None:
    """While clients say nothing or half a request, scrapes are answered."""
    with serving() as server:
        idle = [connect(server) for _ in range(5)]
        idle[0].sendall(b"GET /metr")
        assert ask(server)[0] == 200
        for client in idle:
            client.close()


def test_an_idle_client_is_closed_in_time() -> None:
    """A client that says nothing is cut off when its time is over."""
    with serving(request_timeout=0.05) as server, closing(connect(server)) as client:
        assert client.recv(1) == b""


def test_what_is_beyond_the_limit_is_closed() -> None:
    """While all connections are being answered a further one is closed; a place freed is used."""
    go = threading.Event()

    def slow(openmetrics: bool) -> bytes:
        assert go.wait(HANG)
        return b"page"

    with serving(slow, max_connections=2) as server:
        threads = [threading.Thread(target=ask, args=(server,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert eventually(lambda: [each.has_request for each in open_of(server)] == [True, True])
        with closing(connect(server)) as surplus:
            assert surplus.recv(1) == b""
        go.set()
        for thread in threads:
            thread.join(HANG)
        assert eventually(lambda: not open_of(server))
        assert ask(server)[2] == b"page"


def open_of(server: ScrapeServer) -> list[listener.Connection]:
    """Return the connections that are open."""
    return list(server._listener._open.values())


def test_the_oldest_idle_connection_makes_room() -> None:
    """However many clients have connected and say nothing, a scrape is answered."""
    with serving(max_connections=3, request_timeout=HANG) as server:
        idle = []
        for _ in range(5):
            idle.append(connect(server))
            assert eventually(lambda: len(open_of(server)) == min(len(idle), 3))
        assert [client.recv(1) for client in idle[:2]] == [b"", b""]
        assert ask(server)[0] == 200
        # The scrape took the place of the third alone.
        assert idle[2].recv(1) == b""
        idle[4].sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert b"200" in read_all(idle[4])
        for client in idle:
            client.close()


def test_a_handshake_that_is_not_done_makes_room(
    authority: trustme.CA, certificate: dict[str, str]
) -> None:
    """Clients that never shake hands do not keep a TLS scrape out either."""
    with serving(**certificate, max_connections=2, request_timeout=HANG) as server:
        idle = [connect(server) for _ in range(6)]
        assert fetch(server, authority) == b"text"
        for client in idle:
            client.close()


@pytest.mark.parametrize("tls", [False, True])
def test_a_client_that_dribbles_is_cut_off(
    tls: bool, authority: trustme.CA, certificate: dict[str, str]
) -> None:
    """A request that comes byte by byte has no longer than one that does not come."""
    with serving(**(certificate if tls else {}), request_timeout=0.5) as server:
        client = connect(server)
        if tls:
            client = trusting(authority).wrap_socket(client, server_hostname="127.0.0.1")
        deadline = time.monotonic() + HANG
        with closing(client), suppress(ConnectionError, BrokenPipeError, ssl.SSLError):
            client.settimeout(0.05)
            client.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
            while time.monotonic() < deadline:
                client.sendall(b"x")
                with suppress(TimeoutError):
                    assert client.recv(1) == b""
                    break
        assert time.monotonic() < deadline


@pytest.mark.parametrize("tls", [False, True])
def test_a_client_that_reads_too_slowly_is_cut_off(
    tls: bool, authority: trustme.CA, certificate: dict[str, str]
) -> None:
    """An answer that is taken in byte by byte ends in time too."""
    page = b"x" * 50_000_000
    given = certificate if tls else {}
    with serving(lambda _: page, **given, request_timeout=0.5) as server:
        client = connect(server)
        if tls:
            client = trusting(authority).wrap_socket(client, server_hostname="127.0.0.1")
        with closing(client):
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert eventually(lambda: any(each.has_request for each in open_of(server)))

            received = 0

            def is_over() -> bool:
                nonlocal received
                received += len(client.recv(1000))
                return not open_of(server)

            with suppress(ConnectionError, ssl.SSLError):
                assert eventually(is_over)
                received += len(read_all(client))
            assert received < len(page)
            assert eventually(lambda: not open_of(server))


def test_header_lines_of_one_name_are_one_list() -> None:
    """What a client prefers may stand in several lines."""
    lines = [b"Accept: application/openmetrics-text", b"Accept: text/plain;q=0.5"]
    with serving() as server:
        for given in (lines, lines[::-1]):
            with closing(connect(server)) as client:
                client.sendall(b"\r\n".join([b"GET /metrics HTTP/1.1", *given, b"", b""]))
                assert read_all(client).endswith(b"\r\n\r\nopenmetrics")


def test_the_target_of_a_proxy_is_the_path_alone() -> None:
    """A target in absolute form is answered, with what its query asks for."""
    asked: list[Any] = []

    def page(openmetrics: bool, names: Any = ()) -> bytes:
        asked.append(set(names))
        return b"page"

    with serving(page) as server:
        for target in (server.url, f"{server.url}?name[]=a&name%5B%5D=b", "/?name[]=c"):
            with closing(connect(server)) as client:
                client.sendall(f"GET {target} HTTP/1.1\r\n\r\n".encode())
                assert read_all(client).endswith(b"page")
    assert asked == [set(), {"a", "b"}, {"c"}]


def test_overdue_connections_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends a byte now and then does not keep its place for ever."""
    with (
        serving(max_connections=1, request_timeout=HANG) as server,
        closing(connect(server)) as slow,
    ):
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert eventually(lambda: server._listener._open)
        monkeypatch.setattr(server._listener, "_lifetime", 0)
        assert ask(server)[0] == 200
        assert slow.recv(1) == b""


def refuse(thread: threading.Thread) -> None:
    """Start no thread, as an interpreter that ends."""
    raise RuntimeError("can't create new thread at interpreter shutdown")


def test_without_a_thread_a_scrape_is_served_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 starts none at the exit, where a lingering job is scraped."""
    with serving() as server:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            assert ask(server)[2] == b"text"


def test_a_slow_client_without_a_thread_does_not_hold_up_the_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job that ends does not wait for whoever has connected and says nothing."""
    monkeypatch.setattr(listener, "_GRACE", 0.01)
    with serving(request_timeout=10 * HANG) as server:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with closing(connect(server)) as client:
            assert eventually(lambda: server._listener._served_here)
            server.close()
            assert client.recv(1) == b""


class FailingSocket:
    """A listening socket that fails to accept once."""

    def __init__(self, bound: socket.socket, error: OSError) -> None:
        self._bound = bound
        self._error: OSError | None = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bound, name)

    def accept(self) -> Any:
        """Fail the first time."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._bound.accept()


@pytest.mark.parametrize("number", ["EMFILE", "ECONNABORTED"])
def test_an_accept_that_fails_does_not_end_the_endpoint(
    number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that left, or a process out of descriptors, costs at most that connection."""
    error = OSError(getattr(errno, number), "no")
    real = listener.bind
    monkeypatch.setattr(
        "genmeter.exporters._http.bind", lambda *given: FailingSocket(real(*given), error)
    )
    with serving() as server:
        assert ask(server)[0] == 200


def test_a_client_that_leaves_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """A connection that breaks is a debug line, and nothing on the job's output."""
    with caplog.at_level(logging.DEBUG, "genmeter"), serving() as server:
        with closing(connect(server)) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nContent-Length: 99\r\n\r\nhalf")
            # Closing then sends a reset.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert eventually(lambda: "failed" in caplog.text)
    assert {record.levelname for record in caplog.records} == {"DEBUG"}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return an authority that signs the endpoint's certificate."""
    return trustme.CA()


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """Return the arguments for an endpoint with TLS."""
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    return {"certfile": str(tmp_path / "cert.pem"), "keyfile": str(tmp_path / "key.pem")}


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Return a client's context that trusts the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_the_page_is_served_over_tls(authority: trustme.CA, certificate: dict[str, str]) -> None:
    """With a certificate the endpoint speaks TLS, also where key and chain are one file."""
    with serving(**certificate) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert fetch(server, authority) == b"text"
    both = certificate["certfile"].replace("cert.pem", "both.pem")
    with serving(certfile=both) as server:
        assert fetch(server, authority) == b"text"


def test_an_idle_client_does_not_stop_tls_scrapes(
    authority: trustme.CA, certificate: dict[str, str]
) -> None:
    """A client that never shakes hands holds up nobody."""
    with serving(**certificate) as server:
        idle = [connect(server) for _ in range(3)]
        assert fetch(server, authority) == b"text"
        for client in idle:
            client.close()


def test_a_handshake_that_never_ends_is_cut_off(certificate: dict[str, str]) -> None:
    """The time-out holds in the handshake too."""
    with serving(**certificate, request_timeout=0.05) as server, closing(connect(server)) as client:
        assert client.recv(1) == b""
        assert eventually(lambda: not server._listener._open)


def test_plain_http_at_a_tls_endpoint_gets_no_page(
    authority: trustme.CA, certificate: dict[str, str]
) -> None:
    """A request in the clear is not answered, and does no harm."""
    with serving(**certificate) as server:
        with closing(connect(server)) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            received = b""
            with suppress(ConnectionResetError):
                received = client.recv(1000)
            assert b"text" not in received
        assert fetch(server, authority) == b"text"


@pytest.fixture
def client_authority(tmp_path: Path) -> trustme.CA:
    """Return an authority for clients' certificates, in a file."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "clients.pem")
    return authority


def test_a_client_needs_a_certificate_where_it_is_asked_for(
    authority: trustme.CA,
    certificate: dict[str, str],
    client_authority: trustme.CA,
    tmp_path: Path,
) -> None:
    """With client_ca_file only a client with a certificate of that authority gets an answer."""
    clients = str(tmp_path / "clients.pem")
    with serving(**certificate, client_ca_file=clients) as server:
        for stranger in (None, authority.issue_cert("stranger")):
            # An alert of TLS, or a reset where the client has sent its request already.
            with pytest.raises(OSError, match=r"alert|reset|closed|pipe|EOF"):
                fetch(server, authority, stranger)
        assert fetch(server, authority, client_authority.issue_cert("prometheus")) == b"text"


def test_old_tls_is_refused(certificate: dict[str, str]) -> None:
    """Nothing older than TLS 1.2 is spoken."""
    server = ScrapeServer(render, **certificate)
    assert server._tls.minimum_version is ssl.TLSVersion.TLSv1_2


def encrypted_key(tmp_path: Path) -> str:
    """Write a private key under a passphrase."""
    path = tmp_path / "encrypted.pem"
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    return str(path)


def test_an_encrypted_key_is_an_error_not_a_prompt(
    certificate: dict[str, str], tmp_path: Path
) -> None:
    """A key with a passphrase is refused, rather than asked about on the terminal."""
    with pytest.raises(ConfigError, match="not encrypted"):
        ScrapeServer(render, certfile=certificate["certfile"], keyfile=encrypted_key(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"port": -1}, "port must .*got -1"),
        ({"port": 65536}, "port must .*from 0 to 65535, got 65536"),
        ({"port": "9464"}, "port must .*got '9464'"),
        ({"port": True}, "port must .*got True"),
        ({"host": ""}, "host must be a text that is not empty"),
        ({"keyfile": "key.pem"}, "keyfile must .* with certfile, got 'key.pem'"),
        ({"client_ca_file": "ca.pem"}, "client_ca_file must .* with certfile, got 'ca.pem'"),
        ({"certfile": "/no/such.pem"}, r"certfile '/no/such.pem'.*cannot be used"),
        ({"certfile": "/no/such.pem"}, r"EndpointConfig\.certfile \(GENMETER_ENDPOINT_CERTFILE\)"),
        ({"username": "u"}, "username must be set together with password"),
    ],
)
def test_impossible_arguments_are_errors(arguments: dict[str, Any], message: str) -> None:
    """What cannot be served is refused when the endpoint is made."""
    with pytest.raises(ConfigError, match=message):
        ScrapeServer(render, **arguments)


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_an_authority_that_cannot_be_read_is_an_error(
    content: str | None, certificate: dict[str, str], tmp_path: Path
) -> None:
    """A file without a certificate of an authority is refused when the endpoint is made."""
    path = tmp_path / "authorities.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(
        ConfigError, match=r"client_ca_file '.*authorities.pem' cannot be used.*PEM"
    ):
        ScrapeServer(render, **certificate, client_ca_file=str(path))


def test_a_taken_port_is_an_error_with_a_remedy() -> None:
    """A port that another program has is named, with what to do, and nothing is left open."""
    with serving() as first:
        second = ScrapeServer(render, port=first.port)
        with pytest.raises(EndpointError, match=rf"port {first.port}: .* in use; .*0 takes a free"):
            second.start()
        assert second.port == first.port
        second.close()
        assert ask(first)[0] == 200


def test_an_endpoint_without_a_thread_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that ends starts none; the port is free again at once."""
    bound = listener.bind("127.0.0.1", 0)
    with monkeypatch.context() as patch:
        patch.setattr("genmeter.exporters._http.bind", lambda *args: bound)
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(EndpointError, match="cannot have a thread: can't create"):
            ScrapeServer(render, port=0).start()
    assert bound.fileno() == -1


@pytest.mark.parametrize("host", ["x" * 64, "203.0.113.1"])
def test_an_address_that_is_not_here_is_an_error(host: str) -> None:
    """A host that is not this machine's is named, with what to do."""
    with pytest.raises(EndpointError, match=rf"host '{host}'.*127\.0\.0\.1"):
        ScrapeServer(render, host=host, port=0).start()


def test_a_name_of_several_addresses_takes_the_first_that_is_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a name has an address that this machine lacks, the next one is listened on."""
    address = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    found = [(*address, ("203.0.113.1", 0)), (*address, ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    with closing(listener.bind("somewhere", 0)) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"


def test_a_name_without_addresses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that stands for nothing is an error like any other."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [])
    with pytest.raises(EndpointError, match="the name has no address"):
        listener.bind("somewhere", 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:9464/metrics"),
        ("::", "http://[::1]:9464/metrics"),
        ("::1", "http://[::1]:9464/metrics"),
        ("localhost", "http://localhost:9464/metrics"),
    ],
)
def test_the_url_can_be_opened(host: str, url: str) -> None:
    """The URL is one that a client on this machine can use."""
    assert ScrapeServer(render, host=host).url == url


def test_names_are_listened_on() -> None:
    """A host may be a name."""
    with serving(host="localhost") as server:
        assert fetch(server) == b"text"


def test_an_open_endpoint_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """Beyond loopback with neither TLS nor a password there is a warning, else none."""
    with serving(), serving(host="0.0.0.0", username="u", password="p"):
        assert caplog.records == []
    with serving(host="0.0.0.0") as server:
        assert ask(server)[0] == 200
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("genmeter", "WARNING")
    assert "0.0.0.0" in record.getMessage()


def test_closing_frees_the_port_and_may_come_twice() -> None:
    """After a close the port is free for another, and a second close does nothing."""
    with serving() as first:
        port = first.port
    first.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=HANG)
    with serving(port=port) as second:
        second.start()
        assert ask(second)[0] == 200


def test_an_endpoint_can_be_started_again() -> None:
    """What was closed can be started anew."""
    with serving() as server:
        server.close()
        server.start()
        assert ask(server)[0] == 200


def waiting(server: ScrapeServer, timeout: float = HANG) -> tuple[threading.Thread, list[bool]]:
    """Wait for a scrape on a thread; return it and what it will have found."""
    found: list[bool] = []
    before = server._scrapes._asked
    thread = threading.Thread(target=lambda: found.append(server.wait_for_scrape(timeout)))
    thread.start()
    assert eventually(lambda: server._scrapes._asked > before)
    return thread, found


def test_lingering_ends_with_a_whole_scrape() -> None:
    """The wait ends with the first scrape that began after it."""
    with serving() as server:
        thread, found = waiting(server)
        ask(server, "HEAD")
        ask(server, path="/-/healthy")
        ask(server, path="/other")
        ask(server, "OPTIONS")
        assert thread.is_alive()
        assert ask(server)[0] == 200
        thread.join(HANG)
        assert found == [True]


def test_a_page_of_some_names_is_no_whole_scrape() -> None:
    """A client that asks for some samples does not end the wait of a job for its last scrape."""
    with serving(lambda openmetrics, names=(): b"page") as server:
        thread, found = waiting(server)
        assert ask(server, path="/metrics?name[]=a")[0] == 200
        assert eventually(lambda: not open_of(server))
        assert thread.is_alive()
        assert ask(server, path="/")[0] == 200
        thread.join(HANG)
        assert found == [True]


def test_a_scrape_that_began_before_does_not_count() -> None:
    """A page that was being written when the wait began may miss the end of the job."""
    began, go = threading.Event(), threading.Event()

    def slow(openmetrics: bool) -> bytes:
        began.set()
        assert go.wait(HANG)
        return b"page"

    with serving(slow) as server:
        early = threading.Thread(target=ask, args=(server,))
        early.start()
        assert began.wait(HANG)
        thread, found = waiting(server)
        go.set()
        early.join(HANG)
        assert eventually(lambda: not server._listener._open)
        assert found == []
        assert ask(server)[2] == b"page"
        thread.join(HANG)
        assert found == [True]


def test_a_failed_scrape_does_not_count() -> None:
    """A page that could not be collected, or was refused, is not a scrape."""
    with serving(username="u", password="p") as server:
        thread, found = waiting(server)
        assert ask(server)[0] == 401
        assert thread.is_alive()
        server.close()
        thread.join(HANG)
        assert found == [False]


def test_lingering_has_an_end() -> None:
    """Without a scrape the wait ends in time, and at once where nothing is served."""
    with serving() as server:
        assert server.wait_for_scrape(0.01) is False
    assert server.wait_for_scrape(HANG) is False


def test_a_forked_child_lets_go_of_the_sockets() -> None:
    """A child closes what it inherited, and the parent's clients are not held up by it."""
    program = """
import os, socket, sys, threading, urllib.request
from genmeter.exporters._http import ScrapeServer

server = ScrapeServer(lambda openmetrics: b"page", port=0)
server.start()
port = server.port
idle = socket.create_connection(("127.0.0.1", port))
while not server._listener._open:
    pass
to_child, from_parent = os.pipe()
to_parent, from_child = os.pipe()
child = os.fork()
if child == 0:
    server._scrapes._changed.acquire()
    server.close_inherited()
    server.close_inherited()
    server.close()
    os.write(from_child, b"x")
    os.read(to_child, 1)
    server.start()
    with urllib.request.urlopen(server.url, timeout=60) as response:
        os._exit(0 if response.read() == b"page" and server.port != port else 1)
os.read(to_parent, 1)
with urllib.request.urlopen(server.url, timeout=60) as response:
    assert response.read() == b"page"
server.close()
idle.close()
try:
    socket.create_connection(("127.0.0.1", port), timeout=60)
except ConnectionRefusedError:
    pass
else:
    sys.exit("the child still listens")
os.write(from_parent, b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_every_inherited_descriptor_is_closed() -> None:
    """The listening socket, open connections and what wakes the thread are all let go of."""
    server = ScrapeServer(render, port=0)
    server.start()
    inner = server._listener
    # Stand-ins for what a child finds: no thread, and a connection that the parent serves.
    inner._awaken.send(b"\0")
    inner._thread.join(HANG)
    ours, theirs = socket.socketpair()
    inner._open[0] = listener.Connection(ours)
    descriptors = [one.fileno() for one in (inner._bound, inner._wake, inner._awaken, ours)]
    server.close_inherited()
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    theirs.close()
    server.close_inherited()
    assert server.wait_for_scrape(HANG) is False


def test_a_process_ends_while_it_serves() -> None:
    """An endpoint that nobody closed does not keep its process."""
    program = """
import socket
from genmeter.exporters._http import ScrapeServer

server = ScrapeServer(lambda openmetrics: b"", port=0)
server.start()
idle = socket.create_connection(("127.0.0.1", server.port))
"""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    ) as process:
        try:
            assert process.wait(HANG) == 0
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
