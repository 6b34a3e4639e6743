"""A server on loopback that stores posts, with configurable responses."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

__all__ = ["PATIENCE", "Post", "PostServer", "eventually"]

PATIENCE = 60.0
"""Seconds after which a test fails."""


def eventually(condition: Callable[[], Any]) -> bool:
    """Wait until a condition is true; return whether it became true."""
    deadline = time.monotonic() + PATIENCE
    while not (met := bool(condition())) and time.monotonic() < deadline:
        time.sleep(0.002)
    return met


class Post(NamedTuple):
    """One request: its path, its headers by lower-case names, and the list in its body."""

    path: str
    headers: Mapping[str, str]
    alerts: list[dict[str, Any]]


class PostServer:
    """Answers posts on a free port of loopback.

    Args:
        *statuses: The statuses of the first responses; all others have 200.
        tls: The server's context; None for plain HTTP.

    Attributes:
        posts: The posts that were answered, with any status.
        begun: Set when a post has arrived.
        gate: Responses wait for it; it is set at the start.
        headers: Sent with every response.
        is_endless: Whether the body of a response is endless.
        is_slow: Whether the body is sent byte by byte, for ten seconds.
    """

    def __init__(self, *statuses: int, tls: ssl.SSLContext | None = None) -> None:
        self.posts: list[Post] = []
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.headers: dict[str, str] = {}
        self.is_endless = self.is_slow = False
        self._statuses = list(statuses)
        outer = self

        class _Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.begun.set()
                outer.gate.wait(PATIENCE)
                status = outer._statuses.pop(0) if outer._statuses else 200
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.posts.append(Post(self.path, headers, json.loads(body)))
                with suppress(OSError):  # the client is gone
                    self.send_response(status)
                    for name, value in outer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(b'"the body"')
                    while outer.is_endless:
                        self.wfile.write(b"x" * 65_536)
                    for _ in range(200 if outer.is_slow else 0):
                        self.wfile.write(b"x")
                        time.sleep(0.05)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
        self._server.daemon_threads = True
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        """Its address."""
        return f"{self._scheme}://{self.host}"

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """All alerts of all posts, in order."""
        return [alert for post in self.posts for alert in post.alerts]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
