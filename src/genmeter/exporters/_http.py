"""The scrape endpoint: an HTTP server on a background thread.

It answers one request per connection, each on a daemon thread with a deadline. The TLS handshake
runs on that thread too, so a slow, idle or hostile client blocks no other. At the limit of
connections, the oldest without a request is closed for a new one.
"""

from __future__ import annotations

import errno
import io
import ipaddress
import logging
import os
import selectors
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from genmeter.config.checks import NAME, PORT, check_pair
from genmeter.errors import ConfigError, EndpointError
from genmeter.exporters._routes import METRICS_PATH, Routes, basic_auth, combine, split_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from genmeter.exporters._routes import Render

__all__ = ["Connection", "Listener", "ScrapeServer", "bind", "is_loopback"]

_logger = logging.getLogger("genmeter")

_BACKLOG = 64
_GRACE = 2.0

_REMEDIES = {
    errno.EADDRINUSE: "stop the program that uses it, or choose another port (0 takes a free one)",
    errno.EACCES: "choose a port from 1024 up, or 0 for a free one",
    errno.EADDRNOTAVAIL: "use an address of this machine, such as 127.0.0.1",
}
# A name may have addresses that this machine lacks, such as ::1 without IPv6.
_TRY_NEXT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises EndpointError if the address cannot be used."""
    try:
        found: Iterable[Any] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise EndpointError(
            f"the scrape endpoint cannot listen on host {host!r}: {error}; use a name or an "
            "address of this machine, such as 127.0.0.1"
        ) from error
    failure: OSError = OSError("the name has no address")
    for family, _, _, _, address in found:
        dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        try:
            bound = socket.create_server(
                address, family=family, backlog=_BACKLOG, dualstack_ipv6=dual
            )
        except OSError as error:
            failure = error
            if error.errno not in _TRY_NEXT:
                break
        else:
            # A client that leaves between select and accept must not block the thread.
            bound.setblocking(False)
            return bound
    reason = os.strerror(failure.errno) if failure.errno else failure
    remedy = _REMEDIES.get(failure.errno or 0, "choose another host or port")
    raise EndpointError(
        f"the scrape endpoint cannot listen on host {host!r}, port {port}: {reason}; {remedy}"
    ) from failure


def is_loopback(bound: socket.socket) -> bool:
    """Return whether only this machine can reach a listening socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


@dataclass(slots=True, eq=False)
class Connection:
    """An open connection; it is idle until the client has sent its whole request."""

    socket: socket.socket  # or its TLS wrapper
    has_request: bool = False
    since: float = field(default_factory=time.monotonic)


class Listener:
    """Accepts connections on a thread, and serves each on a separate thread.

    If no thread can be started, connections are served one after the other.

    At ``max_connections`` a new connection replaces all that are older than ``lifetime`` seconds,
    else the oldest idle one; it is closed if none is idle.
    """

    def __init__(
        self,
        bound: socket.socket,
        serve: Callable[[Connection], None],
        *,
        lifetime: float,
        max_connections: int,
    ) -> None:
        self.port: int = bound.getsockname()[1]
        self._bound = bound
        self._serve = serve
        self._lifetime = lifetime
        self._max_connections = max_connections
        # An ordered set, the oldest first; only the accepting thread adds to it.
        self._open: dict[Connection, None] = {}
        self._served_here: Connection | None = None  # by the accepting thread
        # A byte here ends the accepting thread.
        self._wake, self._awaken = socket.socketpair()
        self._thread = threading.Thread(
            target=self._accept_all, name="genmeter-endpoint", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:  # the interpreter ends, or the system's limit is reached
            self._close_sockets()
            raise EndpointError(f"the scrape endpoint cannot start a thread: {error}") from error

    def close(self) -> None:
        """Stop accepting; open connections are served to their end.

        One that the accepting thread serves is cut off after two seconds.
        """
        self._awaken.send(b"\0")
        self._thread.join(_GRACE)
        if self._served_here is not None:
            self._cut_off(self._served_here)
        self._thread.join()
        self._close_sockets()

    def close_inherited(self) -> None:
        """Close every socket in a forked child, without a lock and without waiting."""
        connections = [connection.socket for connection in list(self._open)]
        for one in (self._bound, self._wake, self._awaken, *connections):
            # Not close(), which waits for the files that the parent's threads opened on a socket.
            with suppress(OSError):
                os.close(one.detach())

    def _close_sockets(self) -> None:
        for one in (self._bound, self._wake, self._awaken):
            one.close()

    def _accept_all(self) -> None:
        # Not epoll, whose state is shared with a forked child.
        selector_type = getattr(selectors, "PollSelector", selectors.SelectSelector)
        with selector_type() as selector:
            selector.register(self._bound, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while all(key.fileobj is not self._wake for key, _ in selector.select()):
                try:
                    accepted, _ = self._bound.accept()
                except OSError as error:
                    # The client has left, or the process is out of file descriptors.
                    if error.errno in (errno.EMFILE, errno.ENFILE):
                        time.sleep(0.1)
                    continue
                self._take(accepted)

    def _take(self, accepted: socket.socket) -> None:
        if len(self._open) >= self._max_connections and not self._make_room():
            accepted.close()
            return
        connection = Connection(accepted)
        self._open[connection] = None
        thread = threading.Thread(
            target=self._answer, args=(connection,), name="genmeter-endpoint-request", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # The process is at its limit of threads, or at its end, when Python 3.12 starts none
            # and a lingering job waits for this scrape.
            self._served_here = connection
            self._answer(connection)
            self._served_here = None

    def _make_room(self) -> bool:
        """Cut off all overdue connections, else the oldest idle one; return whether any was."""
        limit = time.monotonic() - self._lifetime
        connections = list(self._open)
        closing = [each for each in connections if each.since <= limit]
        closing = closing or [each for each in connections if not each.has_request][:1]
        for connection in closing:
            self._cut_off(connection)
        return bool(closing)

    def _cut_off(self, connection: Connection) -> None:
        self._open.pop(connection, None)
        # This wakes its thread, which closes it.
        with suppress(OSError):
            socket.socket.shutdown(connection.socket, socket.SHUT_RDWR)

    def _answer(self, connection: Connection) -> None:
        try:
            self._serve(connection)
        except Exception as error:
            _logger.debug("a connection to the scrape endpoint failed: %r", error)
        finally:
            self._open.pop(connection, None)
            connection.socket.close()


# Read from a request's body, since an unread one resets the connection and loses the response.
_MAX_BODY_BYTES = 65536


class ScrapeServer:
    """Serves ``/metrics`` and ``/-/healthy``; auth applies to ``/metrics`` only.

    The arguments are those of `genmeter.EndpointConfig`, and:

    Args:
        render: Writes the page, like `genmeter.exporters.prometheus.PrometheusBridge.render`.
        request_timeout: Seconds that a client may take to send its request, including the TLS
            handshake, and again to receive the response.
        max_connections: As for `Listener`.
        warn: Called like ``Logger.warning`` by `start`.
    """

    def __init__(
        self,
        render: Render,
        *,
        host: str = "127.0.0.1",
        port: int = 9464,
        certfile: str | None = None,
        keyfile: str | None = None,
        client_ca_file: str | None = None,
        username: str | None = None,
        password: str | None = None,
        request_timeout: float = 10.0,
        max_connections: int = 32,
        warn: Callable[..., None] = _logger.warning,
    ) -> None:
        PORT("port", port)
        NAME("host", host)
        self.host = host
        self._port = port
        self._auth = basic_auth(username, password)
        self._routes = Routes(render, self._auth)
        self._tls = _tls_context(certfile, keyfile, client_ca_file)
        self._request_timeout = request_timeout
        self._max_connections = max_connections
        self._warn = warn
        self._listener: Listener | None = None
        self._scrapes = _Scrapes()

    @property
    def port(self) -> int:
        """The port that the endpoint listens on; before `start`, the argument."""
        return self._listener.port if self._listener is not None else self._port

    @property
    def is_serving(self) -> bool:
        """Whether the endpoint listens."""
        return self._listener is not None

    @property
    def url(self) -> str:
        """The URL of the page for a client on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{METRICS_PATH}"

    def start(self) -> None:
        """Listen, and serve on a daemon thread; does nothing if it already serves.

        Raises:
            EndpointError: The address cannot be used, or no thread can be started.
        """
        if self._listener is not None:
            return
        bound = bind(self.host, self._port)
        if self._tls is None and self._auth is None and not is_loopback(bound):
            self._warn(
                "the scrape endpoint on %s port %d is reachable from beyond this machine with "
                "neither TLS nor a password; set certfile and keyfile, or username and password",
                *bound.getsockname()[:2],
            )
        self._scrapes.open()
        self._listener = Listener(
            bound,
            self._serve,
            lifetime=2 * self._request_timeout,
            max_connections=self._max_connections,
        )

    def close(self) -> None:
        """Stop listening, and finish responses under way. Further calls do nothing."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._scrapes.close()

    def close_inherited(self) -> None:
        """Close the parent's sockets in a forked child.

        It takes no lock and waits for no thread, since a thread that the child lacks may have held
        the lock.
        """
        self._scrapes = _Scrapes()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close_inherited()

    def wait_for_scrape(self, timeout: float) -> bool:
        """Wait until a whole scrape that began after this call was sent; return whether one was.

        Returns at once if the endpoint does not serve.
        """
        return self._scrapes.wait(timeout)

    def _serve(self, connection: Connection) -> None:
        """Answer the request of a connection, on the connection's thread."""
        deadline = time.monotonic() + self._request_timeout
        if self._tls is not None:
            wrapped = self._tls.wrap_socket(
                connection.socket, server_side=True, do_handshake_on_connect=False
            )
            connection.socket = wrapped
            wrapped.settimeout(self._request_timeout)
            wrapped.do_handshake()
        handler = _Handler(connection, deadline, self)
        with suppress(OSError):
            connection.socket.shutdown(socket.SHUT_WR)
        if handler.scrape is not None:
            self._scrapes.end(handler.scrape)

    def answer(self, handler: _Handler) -> None:
        """Answer a request that `_Handler` has read."""
        begun = self._scrapes.begin()
        path, query = split_target(handler.path)
        response = self._routes.respond(
            handler.command, path, combine(handler.headers.items()), query
        )
        handler.stream.deadline = time.monotonic() + self._request_timeout
        handler.send_response(response.status)
        for name, value in (*response.headers, ("Connection", "close")):
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(response.body)
        if response.is_scrape:
            handler.scrape = begun


class _Stream(io.RawIOBase):
    """A socket as a file whose reads and writes together end at a deadline.

    The socket's own time-out would start again with each byte of a slow client.
    """

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self.deadline = deadline

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._bound()
        return self._connection.recv_into(buffer)

    def write(self, data: Any, /) -> int:
        """Write all data, as the base class of request handlers expects."""
        left = memoryview(data)
        size = len(left)
        while left:
            self._bound()
            left = left[self._connection.send(left) :]
        return size

    def _bound(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the client took too long")
        self._connection.settimeout(left)


class _Handler(BaseHTTPRequestHandler):
    """Reads one request; the base class does all its work in the constructor."""

    protocol_version = "HTTP/1.1"
    server_version = "genmeter"

    def __init__(self, connection: Connection, deadline: float, endpoint: ScrapeServer) -> None:
        self.scrape: int | None = None  # from `_Scrapes.begin`, once a whole scrape was sent
        self.stream = _Stream(connection.socket, deadline)
        self._connection = connection
        self._endpoint = endpoint
        peer = connection.socket.getpeername()
        super().__init__(connection.socket, peer, None)  # type: ignore[arg-type]

    def setup(self) -> None:
        """Read and write through a stream with a deadline."""
        self.rfile = io.BufferedReader(self.stream)
        self.wfile = self.stream  # type: ignore[assignment]

    def finish(self) -> None:
        """Do nothing; nothing is buffered, and the listener closes the socket."""

    def __getattr__(self, name: str) -> Callable[[], None]:
        # The base class calls do_GET and so on.
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        self.close_connection = True
        length = self.headers.get("Content-Length", "")
        if length.isascii() and length.isdigit():
            self.rfile.read(min(int(length), _MAX_BODY_BYTES))
        self._connection.has_request = True
        self._endpoint.answer(self)

    def version_string(self) -> str:
        """Return the program's name without its version."""
        return self.server_version

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, the base class's name
        """Log nothing, since a job's output is not for its scrapes."""


class _Scrapes:
    """Counts scrapes, for threads that wait for a whole one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._serving = False
        self._waiters = 0
        self._answered = 0

    def open(self) -> None:
        with self._changed:
            self._serving = True

    def close(self) -> None:
        with self._changed:
            self._serving = False
            self._changed.notify_all()

    def begin(self) -> int:
        """Return the argument of `end`."""
        return self._waiters

    def end(self, begun: int) -> None:
        with self._changed:
            self._answered = max(self._answered, begun)
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        with self._changed:
            self._waiters += 1
            mine = self._waiters
            self._changed.wait_for(lambda: self._answered >= mine or not self._serving, timeout)
            return self._answered >= mine


def _tls_context(
    certfile: str | None, keyfile: str | None, client_ca_file: str | None
) -> ssl.SSLContext | None:
    for name, value in (("keyfile", keyfile), ("client_ca_file", client_ca_file)):
        check_pair(name, value, "certfile", certfile)
    if certfile is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # With an empty password, an encrypted key is an error instead of a prompt that hangs.
        context.load_cert_chain(certfile, keyfile, password="")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"EndpointConfig.certfile (GENMETER_ENDPOINT_CERTFILE): certfile {certfile!r} with "
            f"keyfile {keyfile!r} cannot be used: {error}; use readable PEM files, and an "
            "unencrypted key that belongs to the certificate"
        ) from error
    if client_ca_file is None:
        return context
    try:
        context.load_verify_locations(client_ca_file)
    except (OSError, ValueError) as error:
        raise ConfigError(
            "EndpointConfig.client_ca_file (GENMETER_ENDPOINT_CLIENT_CA_FILE): client_ca_file "
            f"{client_ca_file!r} cannot be used: {error}; use a readable PEM file with the "
            "certificates of the authorities"
        ) from error
    context.verify_mode = ssl.CERT_REQUIRED
    return context
