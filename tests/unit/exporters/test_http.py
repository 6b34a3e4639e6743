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
    """Return the name of the format."""
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
    """Scrape the endpoint's URL, optionally with a client certificate."""
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


def test_the_page_has_the_preferred_format() -> None:
    """Content negotiation works over a socket."""
    with serving() as server:
        assert server.url == f"http://127.0.0.1:{server.port}/metrics"
        assert fetch(server) == b"text"
        accept = {"Accept": "application/openmetrics-text"}
        assert ask(server, headers=accept)[2] == b"openmetrics"


def test_other_paths_and_methods() -> None:
    """Health is served, unknown paths and methods are rejected, and HEAD has no body."""
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
    """A client that accepts gzip receives the whole page."""
    page = b"0123456789" * 100_000
    with serving(lambda _: page) as server:
        _, headers, body = ask(server, headers={"Accept-Encoding": "gzip"})
        assert headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(body) == page
        assert ask(server)[2] == page


def test_a_failed_collection_returns_503() -> None:
    """A page that cannot be collected is unavailable."""

    def fail(openmetrics: bool) -> bytes:
        raise TimeoutError

    with serving(fail) as server:
        assert ask(server)[0] == 503


def test_the_page_requires_configured_credentials() -> None:
    """The page needs user name and password; the health path does not."""
    with serving(username="u", password="p") as server:
        assert ask(server)[0] == 401
        assert ask(server, path="/-/healthy")[0] == 200
        assert ask(server, headers={"Authorization": "Basic dTpw"})[0] == 200


def test_requests_are_not_logged(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither scrapes nor malformed requests write to the job's output."""
    with serving() as server:
        ask(server)
        ask(server, path="/x")
        with closing(connect(server)) as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert b"400" in read_all(client)
    assert capfd.readouterr() == ("", "")


def connect(server: ScrapeServer) -> socket.socket:
    """Open a connection without sending anything."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=HANG)


def read_all(client: socket.socket) -> bytes:
    """Read until the server closes."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_idle_clients_do_not_block_scrapes() -> None:
    """Clients that send nothing, or half a request, do not block others."""
    with serving() as server:
        idle = [connect(server) for _ in range(5)]
        idle[0].sendall(b"GET /metr")
        assert ask(server)[0] == 200
        for client in idle:
            client.close()


def test_an_idle_client_times_out() -> None:
    """A client that sends nothing is closed after the request time-out."""
    with serving(request_timeout=0.05) as server, closing(connect(server)) as client:
        assert client.recv(1) == b""


def test_connections_beyond_the_limit_are_closed() -> None:
    """While all connections are busy a new one is closed; later ones are served again."""
    go = threading.Event()

    def slow(openmetrics: bool) -> bytes:
        assert go.wait(HANG)
        return b"page"

    with serving(slow, max_connections=2) as server:
        threads = [threading.Thread(target=ask, args=(server,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert eventually(
            lambda: [each.has_request for each in open_connections(server)] == [True, True]
        )
        with closing(connect(server)) as surplus:
            assert surplus.recv(1) == b""
        go.set()
        for thread in threads:
            thread.join(HANG)
        assert eventually(lambda: not open_connections(server))
        assert ask(server)[2] == b"page"


def open_connections(server: ScrapeServer) -> list[listener.Connection]:
    """Return the open connections."""
    return list(server._listener._open)


def test_the_oldest_idle_connection_is_closed_for_a_new_one() -> None:
    """A scrape is answered however many clients connect and send nothing."""
    with serving(max_connections=3, request_timeout=HANG) as server:
        idle = []
        for _ in range(5):
            idle.append(connect(server))
            assert eventually(lambda: len(open_connections(server)) == min(len(idle), 3))
        assert [client.recv(1) for client in idle[:2]] == [b"", b""]
        assert ask(server)[0] == 200
        # The scrape took only the third place.
        assert idle[2].recv(1) == b""
        idle[4].sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert b"200" in read_all(idle[4])
        for client in idle:
            client.close()


def test_unfinished_handshakes_do_not_block_scrapes(
    authority: trustme.CA, certificate: dict[str, str]
) -> None:
    """A connection in the TLS handshake is idle too."""
    with serving(**certificate, max_connections=2, request_timeout=HANG) as server:
        idle = [connect(server) for _ in range(6)]
        assert fetch(server, authority) == b"text"
        for client in idle:
            client.close()


@pytest.mark.parametrize("tls", [False, True])
def test_a_slow_sender_times_out(
    tls: bool, authority: trustme.CA, certificate: dict[str, str]
) -> None:
    """A request that arrives byte by byte has the same deadline."""
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
def test_a_slow_reader_times_out(
    tls: bool, authority: trustme.CA, certificate: dict[str, str]
) -> None:
    """A response that is read byte by byte has a deadline too."""
    page = b"x" * 50_000_000
    given = certificate if tls else {}
    with serving(lambda _: page, **given, request_timeout=0.5) as server:
        client = connect(server)
        if tls:
            client = trusting(authority).wrap_socket(client, server_hostname="127.0.0.1")
        with closing(client):
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert eventually(lambda: any(each.has_request for each in open_connections(server)))

            received = 0

            def is_over() -> bool:
                nonlocal received
                received += len(client.recv(1000))
                return not open_connections(server)

            with suppress(ConnectionError, ssl.SSLError):
                assert eventually(is_over)
                received += len(read_all(client))
            assert received < len(page)
            assert eventually(lambda: not open_connections(server))


def test_repeated_headers_are_combined() -> None:
    """An Accept header may have several lines."""
    lines = [b"Accept: application/openmetrics-text", b"Accept: text/plain;q=0.5"]
    with serving() as server:
        for given in (lines, lines[::-1]):
            with closing(connect(server)) as client:
                client.sendall(b"\r\n".join([b"GET /metrics HTTP/1.1", *given, b"", b""]))
                assert read_all(client).endswith(b"\r\n\r\nopenmetrics")


def test_a_target_in_absolute_form_is_served() -> None:
    """The path and the query count, not the host that a proxy sends."""
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


def test_overdue_connections_are_closed_for_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends a byte now and then does not keep its place forever."""
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
    """Fail like a thread at the interpreter's exit."""
    raise RuntimeError("can't create new thread at interpreter shutdown")


def test_scrapes_are_served_without_new_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 starts no thread at the exit, when a lingering job is scraped."""
    with serving() as server:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            assert ask(server)[2] == b"text"


def test_close_cuts_off_an_idle_client_without_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job that ends does not wait for a client that sends nothing."""
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
def test_the_endpoint_survives_a_failed_accept(
    number: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that left, or a lack of descriptors, costs at most that connection."""
    error = OSError(getattr(errno, number), "no")
    real = listener.bind
    monkeypatch.setattr(
        "genmeter.exporters._http.bind", lambda *given: FailingSocket(real(*given), error)
    )
    with serving() as server:
        assert ask(server)[0] == 200


def test_a_broken_connection_is_logged_as_debug(caplog: pytest.LogCaptureFixture) -> None:
    """A client that leaves early causes no warning."""
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
    """Key and certificate chain may be in one file."""
    with serving(**certificate) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert fetch(server, authority) == b"text"
    both = certificate["certfile"].replace("cert.pem", "both.pem")
    with serving(certfile=both) as server:
        assert fetch(server, authority) == b"text"


def test_idle_clients_do_not_block_tls_scrapes(
    authority: trustme.CA, certificate: dict[str, str]
) -> None:
    """A client that never starts the handshake does not block others."""
    with serving(**certificate) as server:
        idle = [connect(server) for _ in range(3)]
        assert fetch(server, authority) == b"text"
        for client in idle:
            client.close()


def test_a_handshake_times_out(certificate: dict[str, str]) -> None:
    """The request time-out includes the TLS handshake."""
    with serving(**certificate, request_timeout=0.05) as server, closing(connect(server)) as client:
        assert client.recv(1) == b""
        assert eventually(lambda: not server._listener._open)


def test_plain_http_is_rejected_by_a_tls_endpoint(
    authority: trustme.CA, certificate: dict[str, str]
) -> None:
    """A request without TLS gets no page and does not harm the endpoint."""
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
    """Return an authority for client certificates, whose own is in a file."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "clients.pem")
    return authority


def test_a_client_certificate_is_required_with_client_ca_file(
    authority: trustme.CA,
    certificate: dict[str, str],
    client_authority: trustme.CA,
    tmp_path: Path,
) -> None:
    """Only a client with a certificate of that authority is served."""
    clients = str(tmp_path / "clients.pem")
    with serving(**certificate, client_ca_file=clients) as server:
        for stranger in (None, authority.issue_cert("stranger")):
            # A TLS alert, or a reset if the client has already sent its request.
            with pytest.raises(OSError, match=r"alert|reset|closed|pipe|EOF"):
                fetch(server, authority, stranger)
        assert fetch(server, authority, client_authority.issue_cert("prometheus")) == b"text"


def test_tls_older_than_1_2_is_rejected(certificate: dict[str, str]) -> None:
    """The minimum version is TLS 1.2."""
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


def test_an_encrypted_key_is_an_error(certificate: dict[str, str], tmp_path: Path) -> None:
    """OpenSSL must not prompt for a passphrase on the terminal."""
    with pytest.raises(ConfigError, match="unencrypted"):
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
def test_invalid_arguments_are_errors(arguments: dict[str, Any], message: str) -> None:
    """The constructor names the argument and its value."""
    with pytest.raises(ConfigError, match=message):
        ScrapeServer(render, **arguments)


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_an_unreadable_authority_file_is_an_error(
    content: str | None, certificate: dict[str, str], tmp_path: Path
) -> None:
    """The constructor rejects a file without a certificate."""
    path = tmp_path / "authorities.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(
        ConfigError, match=r"client_ca_file '.*authorities.pem' cannot be used.*PEM"
    ):
        ScrapeServer(render, **certificate, client_ca_file=str(path))


def test_a_taken_port_is_an_error_with_a_remedy() -> None:
    """The error names the port and the remedy, and no socket stays open."""
    with serving() as first:
        second = ScrapeServer(render, port=first.port)
        with pytest.raises(EndpointError, match=rf"port {first.port}: .* in use; .*0 takes a free"):
            second.start()
        assert second.port == first.port
        second.close()
        assert ask(first)[0] == 200


def test_an_endpoint_without_a_thread_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the interpreter's exit no thread starts; the port is free again at once."""
    bound = listener.bind("127.0.0.1", 0)
    with monkeypatch.context() as patch:
        patch.setattr("genmeter.exporters._http.bind", lambda *args: bound)
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(EndpointError, match="cannot start a thread: can't create"):
            ScrapeServer(render, port=0).start()
    assert bound.fileno() == -1


@pytest.mark.parametrize("host", ["x" * 64, "203.0.113.1"])
def test_a_foreign_address_is_an_error(host: str) -> None:
    """The error names the host and an address that works."""
    with pytest.raises(EndpointError, match=rf"host '{host}'.*127\.0\.0\.1"):
        ScrapeServer(render, host=host, port=0).start()


def test_a_name_binds_to_its_first_local_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An address that this machine lacks is skipped."""
    address = (socket.AF_INET, socket.SOCK_STREAM, 0, "")
    found = [(*address, ("203.0.113.1", 0)), (*address, ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)
    with closing(listener.bind("somewhere", 0)) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"


def test_a_name_without_addresses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an EndpointError like any other."""
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
def test_the_url_works_on_this_machine(host: str, url: str) -> None:
    """Addresses for all interfaces are replaced by loopback."""
    assert ScrapeServer(render, host=host).url == url


def test_a_host_may_be_a_name() -> None:
    """The name is resolved."""
    with serving(host="localhost") as server:
        assert fetch(server) == b"text"


def test_an_unprotected_public_endpoint_warns(caplog: pytest.LogCaptureFixture) -> None:
    """Only an endpoint beyond loopback, without TLS and password, warns."""
    with serving(), serving(host="0.0.0.0", username="u", password="p"):
        assert caplog.records == []
    with serving(host="0.0.0.0") as server:
        assert ask(server)[0] == 200
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("genmeter", "WARNING")
    assert "0.0.0.0" in record.getMessage()


def test_close_frees_the_port_and_is_idempotent() -> None:
    """Another endpoint can use the port after a close."""
    with serving() as first:
        port = first.port
    first.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=HANG)
    with serving(port=port) as second:
        second.start()
        assert ask(second)[0] == 200


def test_an_endpoint_can_be_started_again() -> None:
    """A closed endpoint can start again."""
    with serving() as server:
        server.close()
        server.start()
        assert ask(server)[0] == 200


def waiting(server: ScrapeServer, timeout: float = HANG) -> tuple[threading.Thread, list[bool]]:
    """Wait for a scrape on a thread; return the thread and a list for the result."""
    found: list[bool] = []
    before = server._scrapes._waiters
    thread = threading.Thread(target=lambda: found.append(server.wait_for_scrape(timeout)))
    thread.start()
    assert eventually(lambda: server._scrapes._waiters > before)
    return thread, found


def test_lingering_ends_after_a_whole_scrape() -> None:
    """Only a scrape of the page ends the wait."""
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


def test_a_filtered_page_does_not_end_lingering() -> None:
    """A client that selects samples does not get the whole page."""
    with serving(lambda openmetrics, names=(): b"page") as server:
        thread, found = waiting(server)
        assert ask(server, path="/metrics?name[]=a")[0] == 200
        assert eventually(lambda: not open_connections(server))
        assert thread.is_alive()
        assert ask(server, path="/")[0] == 200
        thread.join(HANG)
        assert found == [True]


def test_an_earlier_scrape_does_not_end_lingering() -> None:
    """A page that was being written before the wait may miss the end of the job."""
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


def test_a_failed_scrape_does_not_end_lingering() -> None:
    """A rejected request is not a scrape."""
    with serving(username="u", password="p") as server:
        thread, found = waiting(server)
        assert ask(server)[0] == 401
        assert thread.is_alive()
        server.close()
        thread.join(HANG)
        assert found == [False]


def test_lingering_times_out() -> None:
    """The wait returns at once if the endpoint does not serve."""
    with serving() as server:
        assert server.wait_for_scrape(0.01) is False
    assert server.wait_for_scrape(HANG) is False


def test_a_forked_child_closes_inherited_sockets() -> None:
    """The parent's port is free after its close, whatever the child does."""
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
    """Listening socket, open connections and the wake-up pair are closed."""
    server = ScrapeServer(render, port=0)
    server.start()
    inner = server._listener
    # As in a child: no thread, and a connection that the parent serves.
    inner._awaken.send(b"\0")
    inner._thread.join(HANG)
    ours, theirs = socket.socketpair()
    inner._open[listener.Connection(ours)] = None
    descriptors = [one.fileno() for one in (inner._bound, inner._wake, inner._awaken, ours)]
    server.close_inherited()
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    theirs.close()
    server.close_inherited()
    assert server.wait_for_scrape(HANG) is False


def test_a_serving_endpoint_does_not_keep_its_process_alive() -> None:
    """A process without a close still ends."""
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
