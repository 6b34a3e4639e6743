"""Clients of an endpoint that nobody wants: broken, slow, hostile, or with the wrong credentials."""

from __future__ import annotations

import base64
import contextlib
import gzip
import socket
import ssl
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

__all__ = ["PASSWORD", "USERNAME", "WRONG", "BadClient", "authorization", "secrets_of"]

USERNAME, PASSWORD = "scraper", 's3cret-"\\pass:word'
WRONG = "gue55ed-password"
_PAGE = b"genmeter_generations_total"
_WAIT = 20.0  # seconds after which a response is missing
# Whatever is asked for: a page is 200 only with credentials.
_STATUSES = {200, 400, 401, 404, 405, 408, 414, 431, 501, 505}
_PATHS = (
    *("/metrics", "/", "", "/metrics/", "//metrics", "/metrics//", "/./metrics", "/x/../metrics"),
    *(
        "/-/healthy",
        "/-/healthy/../metrics",
        "/-/healthy/../../metrics",
        "/-/healthy%2f..%2fmetrics",
    ),
    *("/%2e/metrics", "/%6detrics", "/metrics%00", "/metrics%2f", "/metrics;x", "/metrics#x", "#"),
    *(
        "/metrics?",
        "/metrics?name[]=up",
        "/metrics?name[]=%ff%00",
        "/metrics?" + "name[]=a&" * 2_000,
    ),
    *(
        "http://x/metrics",
        "HTTP://x:1/metrics",
        "http://u:p@x/metrics",
        "https://",
        "http:///metrics",
    ),
    *(
        "*",
        "\\metrics",
        "/../../../../etc/passwd",
        "/metrics\x01",
        "/metr\x00ics",
        "/" + "a" * 70_000,
    ),
    *("/é", "/metrics/..;/", "/.git/config", "ftp://x/metrics", "x", "?", "/metrics?#?#"),
)
_ACCEPTS = (
    *("", ",", ";", "*/*;q=x", "text/plain;q=1e9", "text/plain;q=-1", ";;;=;q=", "a" * 5_000),
    *(
        "application/openmetrics-text;version=9.9.9",
        "application/openmetrics-text;q=nan",
        "\xff\x80",
    ),
    *("text/plain;version=0.0.4;q=0", "*/*;q=0", "text/*", ",".join(["text/plain"] * 3_000)),
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
)
_ENCODINGS = (
    "gzip",
    "zstd",
    "gzip;q=0",
    "br, zstd;q=1, gzip;q=0.5",
    "*",
    "x-gzip",
    "identity;q=0",
    "\xff",
)
_METHODS = (
    "POST",
    "PUT",
    "DELETE",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "get",
    "G",
    "GET\t",
    "_answer",
    "__init__",
    "\x00",
    "G" * 70_000,
)
_VERSIONS = (
    "HTTP/1.0",
    "HTTP/1.1",
    "HTTP/0.9",
    "HTTP/2.0",
    "HTTP/9.9",
    "HTTP/1.1.1",
    "HTTP/-1",
    "http/1.1",
    "",
    "HTTP/1\u00b2",
)


def authorization(username: str = USERNAME, password: str = PASSWORD) -> str:
    """Return the value of a header."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


def secrets_of() -> list[str]:
    """Return the texts that no log may have: the passwords, and the headers that contain them."""
    headers = [authorization(), authorization(password=WRONG), authorization(WRONG, PASSWORD)]
    return [PASSWORD, WRONG, *(header.removeprefix("Basic ") for header in headers)]


class BadClient:
    """Does one thing at random to an endpoint.

    Args:
        random: The source of what it does.
        port: The endpoint's port.
        tls: The context of an endpoint with TLS.
    """

    def __init__(self, random: random.Random, port: int, tls: ssl.SSLContext | None) -> None:
        self._random = random
        self._port = port
        self._tls = tls
        self._kinds: tuple[Callable[[], None], ...] = (
            self._leave,
            self._drip,
            self._reset,
            self._read_slowly,
            self._pipeline,
            self._send_huge_headers,
            self._use_another_method,
            self._negotiate,
            self._use_another_version,
            self._break_handshake,
            self._guess,
            self._guess_twice,
            self._walk,
            self._send_body,
            self._send_noise,
        )

    def __call__(self) -> str:
        """Do it; return its name. A page without credentials fails."""
        kind = self._random.choice(self._kinds)
        # That the endpoint closes such a connection is what it should do.
        with contextlib.suppress(OSError):
            kind()
        return kind.__name__.strip("_")

    # --- connections -----------------------------------------------------------------------------

    def _connect(self, *, plain: bool = False) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=_WAIT)
        if self._tls is None or plain:
            return connection
        try:
            return self._tls.wrap_socket(connection, server_hostname="localhost")
        except BaseException:
            connection.close()
            raise

    def _ask(self, data: bytes) -> bytes:
        """Send a request, and return the response to its end."""
        with self._connect() as connection:
            with contextlib.suppress(OSError):  # the response to half of it
                connection.sendall(data)
            return self._rest(connection)

    @staticmethod
    def _rest(connection: socket.socket) -> bytes:
        found = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := connection.recv(65_536):
                found += data
        return found

    def _request(
        self,
        headers: Sequence[str] = (),
        method: str = "GET",
        path: str = "/metrics",
        version: str = "HTTP/1.1",
    ) -> bytes:
        lines = [f"{method} {path} {version}", "Host: x", *headers, "", ""]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape")

    def _refused(self, response: bytes) -> None:
        """Check that a response is whole, or none, and not the page."""
        assert _PAGE not in response, response[:500]
        if response.startswith(b"HTTP/"):
            assert int(response.split(None, 2)[1]) in _STATUSES, response[:500]
            head, _, body = response.partition(b"\r\n\r\n")
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"content-length:"):
                    assert int(line.partition(b":")[2]) == len(body)
            for secret in secrets_of():
                assert secret.encode() not in response

    # --- what it does ----------------------------------------------------------------------------

    def _leave(self) -> None:
        with self._connect() as connection:
            connection.settimeout(self._random.choice((0.001, 0.05, 0.3)))
            connection.recv(1)

    def _drip(self) -> None:
        whole = self._request([f"Authorization: {authorization()}"]).rstrip()
        with self._connect() as connection:
            # Without the end of the credentials; without only the end of the header it is a request.
            for byte in whole[: self._random.randrange(len(whole))]:
                connection.sendall(bytes([byte]))
            if self._random.random() < 0.5:
                connection.shutdown(socket.SHUT_WR)
                self._refused(self._rest(connection))

    def _reset(self) -> None:
        with self._connect() as connection:
            connection.sendall(self._request([f"Authorization: {authorization()}"]))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _read_slowly(self) -> None:
        with self._connect(plain=self._tls is None) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            connection.sendall(self._request([f"Authorization: {authorization()}"]))
            for _ in range(self._random.randrange(20)):
                connection.recv(1)

    def _pipeline(self) -> None:
        one = self._request([f"Authorization: {authorization()}"])
        other = self._request(method="HEAD")
        response = self._ask(one + other + one * self._random.randrange(1, 50))
        if response.startswith(b"HTTP/1.1 200") and b"# EOF" not in response:
            # One response, after which the connection is closed.
            assert response.count(b"HTTP/1.1 ") == 1

    def _send_huge_headers(self) -> None:
        random = self._random
        headers = random.choice(
            (
                [f"X: {'a' * 100_000}"],
                [f"X-{number}: a" for number in range(300)],
                [f"{'X' * 100_000}: a"],
                [f"Accept: {'text/plain,' * 4_000}"],
                [f"Authorization: Basic {'A' * 60_000}"],
                ["Authorization: " + "Basic " * 9_000],
                ["no colon", ": no name", "X : space", " folded"],
                ["\x00: \x00", "X: \x7f\x01", "é: ü"],
            )
        )
        self._refused(self._ask(self._request(headers)))

    def _use_another_method(self) -> None:
        self._refused(self._ask(self._request(method=self._random.choice(_METHODS))))

    def _negotiate(self) -> None:
        random = self._random
        headers = [
            f"Authorization: {authorization()}",
            f"Accept: {random.choice(_ACCEPTS)}",
            f"Accept-Encoding: {random.choice(_ENCODINGS)}",
        ]
        response = self._ask(self._request(headers))
        if not response:  # closed for another client
            return
        head, _, body = response.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        if b"Content-Encoding" in head:
            assert b"\r\nContent-Encoding: gzip" in head, head
            with contextlib.suppress(EOFError):  # it was closed for another client
                assert _PAGE in gzip.decompress(body)

    def _use_another_version(self) -> None:
        self._refused(self._ask(self._request(version=self._random.choice(_VERSIONS))))
        self._refused(self._ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))

    def _break_handshake(self) -> None:
        hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + self._random.randbytes(32)
        with self._connect(plain=True) as connection:
            connection.sendall(hello[: self._random.randrange(len(hello))])
            connection.settimeout(self._random.choice((0.001, 0.2)))
            connection.recv(1)

    def _guess(self) -> None:
        value = self._random.choice(
            (
                authorization(password=WRONG),
                authorization(WRONG, PASSWORD),
                authorization(password=""),
                authorization(password=PASSWORD[:-1]),
                authorization(password=PASSWORD + "\0"),
                authorization(USERNAME.upper()),
                authorization().replace("Basic", "Bearer"),
                authorization().replace("Basic ", "Basic"),
                authorization()[:-3],
                authorization() + ", " + authorization(),
                f"Basic {USERNAME}:{PASSWORD}",
                'Digest username="scraper"',
                "Basic \xff\xfe",
                "Basic",
                "",
                "\x00",
            )
        )
        name = self._random.choice(
            ("Authorization", "authorization", "Proxy-Authorization", "Authorization ")
        )
        response = self._ask(self._request([f"{name}: {value}"]))
        self._refused(response)

    def _guess_twice(self) -> None:
        right, wrong = (
            f"Authorization: {authorization()}",
            f"Authorization: {authorization(password=WRONG)}",
        )
        headers = self._random.choice(
            ([right, wrong], [wrong, right], [right, right], [wrong, f" {authorization()}"])
        )
        self._refused(self._ask(self._request(headers)))

    def _walk(self) -> None:
        headers = [
            "X-Original-URL: /metrics",
            "X-Rewrite-URL: /metrics",
            "X-Forwarded-User: scraper",
        ]
        method = self._random.choice(("GET", "HEAD", "OPTIONS", "POST"))
        path = self._random.choice(_PATHS)
        self._refused(self._ask(self._request(headers, method, path)))

    def _send_body(self) -> None:
        headers = self._random.choice(
            (
                ["Content-Length: 5"],
                ["Content-Length: 99999999999"],
                ["Content-Length: -1"],
                ["Content-Length: 5", "Content-Length: 6"],
                ["Content-Length: \u00b2"],
                ["Transfer-Encoding: chunked"],
                ["Transfer-Encoding: chunked", "Content-Length: 3"],
                ["Expect: 100-continue"],
            )
        )
        with self._connect() as connection:
            with contextlib.suppress(OSError):
                connection.sendall(self._request(headers, "POST") + b"0\r\n\r\n" + self._request())
                connection.shutdown(socket.SHUT_WR)
            self._rest(connection)

    def _send_noise(self) -> None:
        with self._connect(plain=self._random.random() < 0.5) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(self._random.randbytes(self._random.randrange(1, 3_000)))
                connection.shutdown(socket.SHUT_WR)
            self._refused(self._rest(connection))
