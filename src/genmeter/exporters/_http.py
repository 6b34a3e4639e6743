"""The scrape endpoint: an HTTP server on a thread of its own.

It answers one request a connection, each on a daemon thread and in a bounded time, and the TLS
handshake belongs to that thread too: a client that is slow, idle or hostile holds up nobody else.
Where all connections are taken, the oldest that has sent no request makes room.
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
from genmeter.exporters.apps import METRICS_PATH, Routes, basic_auth, combine, split_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from genmeter.exporters.apps import Render

__all__ = ["Connection", "Listener", "ScrapeServer", "bind", "is_loopback"]

_logger = logging.getLogger("genmeter")

_BACKLOG = 64
_GRACE = 2.0

_REMEDIES = {
    errno.EADDRINUSE: "stop the program that has it, or choose another port (0 takes a free one)",
    errno.EACCES: "choose a port from 1024 up, or 0 for a free one",
    errno.EADDRNOTAVAIL: "give an address of this machine, such as 127.0.0.1",
}
# A name may stand for addresses that this machine has not, such as ::1 where IPv6 is off.
_TRY_NEXT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: Name or address of the interface.
        port: TCP port, 0 for any free one.

    Raises:
        EndpointError: The address cannot be listened on.
    """
    try:
        found: Iterable[Any] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise EndpointError(
            f"the scrape endpoint cannot listen on host {host!r}: {error}; give a name or an "
            "address of this machine, such as 127.0.0.1"
        ) from error
    failure: OSError = OSError("the name has no address")
    for family, kind, protocol, _, address in found:
        try:
            return _listening(socket.socket(family, kind, protocol), address)
        except OSError as error:
            failure = error
            if error.errno not in _TRY_NEXT:
                break
    remedy = _REMEDIES.get(failure.errno or 0, "choose another host or port")
    raise EndpointError(
        f"the scrape endpoint cannot listen on host {host!r}, port {port}: "
        f"{failure.strerror or failure}; {remedy}"
    ) from failure


def _listening(bound: socket.socket, address: Any) -> socket.socket:
    try:
        # A port that an ended process of ours had is free again at once.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
        # A client that left between the call of select and accept must not stop the thread.
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Tell whether only this machine can reach a listening socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


@dataclass(slots=True, eq=False)
class Connection:
    """A connection that is open.

    Attributes:
        socket: The socket to speak on; whoever wraps it, in TLS for one, puts the wrapper here.
        has_request: Whether the client has sent its whole request. Until then it is idle, and the
            first to go where another connection needs its place.
        since: When it came, by the monotonic clock.
    """

    socket: socket.socket
    has_request: bool = False
    since: float = field(default_factory=time.monotonic)


class Listener:
    """Accepts connections on a thread, and gives each a thread of its own.

    Where no thread can be started, connections are served one after the other.

    Args:
        bound: The listening socket, as `bind` gives it.
        serve: Serves one connection on its thread.
        lifetime: Seconds after which a connection is cut off where another needs its place,
            whatever it does.
        most: Connections at one time. Beyond that the oldest idle one makes room; a further one is
            closed at once where none is idle.

    Attributes:
        port: The TCP port that `bound` listens on.

    Raises:
        EndpointError: No thread can be started.
    """

    def __init__(
        self,
        bound: socket.socket,
        serve: Callable[[Connection], None],
        *,
        lifetime: float,
        most: int,
    ) -> None:
        self.port: int = bound.getsockname()[1]
        self._bound = bound
        self._serve = serve
        self._lifetime = lifetime
        self._most = most
        # By number, the oldest first; the accepting thread alone adds to it.
        self._open: dict[int, Connection] = {}
        self._served_here: int | None = None  # the number that the accepting thread serves itself
        # A byte here ends the accepting thread, which sleeps for as long as nobody connects.
        self._wake, self._awaken = socket.socketpair()
        self._thread = threading.Thread(
            target=self._accept_all, name="genmeter-endpoint", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:  # the interpreter ends, or the system's limit is reached
            self._close_sockets()
            raise EndpointError(f"the scrape endpoint cannot have a thread: {error}") from error

    def close(self) -> None:
        """Accept no more; connections that are open are served to their end.

        One that the accepting thread serves itself is cut off after two seconds.
        """
        self._awaken.send(b"\0")
        self._thread.join(_GRACE)
        if self._served_here is not None:
            self._cut_off(self._served_here)
        self._thread.join()
        self._close_sockets()

    def close_inherited(self) -> None:
        """In a forked child, close every socket, without a lock and without waiting."""
        connections = [connection.socket for connection in list(self._open.values())]
        for one in (self._bound, self._wake, self._awaken, *connections):
            # Not close(), which waits for files that the parent's threads made of a socket.
            with suppress(OSError):
                os.close(one.detach())

    def _close_sockets(self) -> None:
        for one in (self._bound, self._wake, self._awaken):
            one.close()

    def _accept_all(self) -> None:
        # Not epoll, whose state a forked child would share.
        selector_type = getattr(selectors, "PollSelector", selectors.SelectSelector)
        with selector_type() as selector:
            selector.register(self._bound, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            number = 0
            while all(key.fileobj is not self._wake for key, _ in selector.select()):
                number += 1
                try:
                    connection, _ = self._bound.accept()
                except OSError as error:
                    # The client is gone again, or the process is out of file descriptors.
                    if error.errno in (errno.EMFILE, errno.ENFILE):
                        time.sleep(0.1)
                    continue
                self._take(number, connection)

    def _take(self, number: int, accepted: socket.socket) -> None:
        if len(self._open) >= self._most and not self._make_room():
            accepted.close()
            return
        connection = self._open[number] = Connection(accepted)
        thread = threading.Thread(
            target=self._answer,
            args=(number, connection),
            name="genmeter-endpoint-request",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:
            # The process is at its limit of threads; or at its end, where Python 3.12 starts none
            # and a lingering job waits for just this scrape.
            self._served_here = number
            self._answer(number, connection)
            self._served_here = None

    def _make_room(self) -> bool:
        """Cut off what is past its time, else the oldest idle one; return whether any was."""
        limit = time.monotonic() - self._lifetime
        connections = list(self._open.items())
        leaving = [number for number, connection in connections if connection.since <= limit]
        if not leaving:
            idle = (number for number, each in connections if not each.has_request)
            leaving = [number for number in [next(idle, None)] if number is not None]
        for number in leaving:
            self._cut_off(number)
        return bool(leaving)

    def _cut_off(self, number: int) -> None:
        connection = self._open.pop(number, None)
        if connection is not None:
            # Its thread then wakes up from what it waits for, and closes it.
            with suppress(OSError):
                socket.socket.shutdown(connection.socket, socket.SHUT_RDWR)

    def _answer(self, number: int, connection: Connection) -> None:
        try:
            self._serve(connection)
        except Exception as error:
            _logger.debug("a connection to the scrape endpoint failed: %r", error)
        finally:
            self._open.pop(number, None)
            connection.socket.close()


# What a client may send beside its request and have read, lest the answer be lost in a reset.
_BODY_LIMIT_BYTES = 65536


class ScrapeServer:
    """Serves ``/metrics`` and ``/-/healthy``; auth applies to ``/metrics`` only.

    Args:
        render: Writes the page, as `genmeter.exporters.prometheus.PrometheusBridge.render` does.
        host: Name or address of the interface; ``0.0.0.0`` and ``::`` are all of them.
        port: TCP port, 0 for any free one.
        certfile: PEM file of the certificate chain; the endpoint then speaks TLS 1.2 or newer.
        keyfile: PEM file of the private key, where it is not in ``certfile``.
        client_ca_file: PEM file of the authorities whose certificates a client must have one of,
            for every path; None for no client certificates.
        username: The user that a scrape must name; with ``password`` or not at all.
        password: The password that a scrape must give.
        request_timeout: Seconds that a client may take to send its request, the TLS handshake
            included, and again to receive the answer.
        max_connections: Connections at one time. Beyond that the oldest that has sent no request
            makes room, else the new one is closed at once.
        warn: Told, as ``Logger.warning`` is, what `start` has to say.

    Attributes:
        host: As given.

    Raises:
        ConfigError: An argument, or a file that it names, cannot be used.
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
        self._asked_port = port
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
        """The port that the endpoint listens on; before `start` the one asked for."""
        return self._listener.port if self._listener is not None else self._asked_port

    @property
    def url(self) -> str:
        """Where the page is, for a client on this machine."""
        host = self.host
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            if address.is_unspecified:
                host = "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004, the version
            if address.version == 6:  # noqa: PLR2004, the version
                host = f"[{host}]"
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{METRICS_PATH}"

    def start(self) -> None:
        """Listen, and serve on a daemon thread; does nothing where it serves already.

        Raises:
            EndpointError: The address cannot be listened on, or no thread can be started.
        """
        if self._listener is not None:
            return
        bound = bind(self.host, self._asked_port)
        if self._tls is None and self._auth is None and not is_loopback(bound):
            self._warn(
                "the scrape endpoint listens on %s port %d, beyond this machine, with neither TLS "
                "nor a password: everybody on the network can read the metrics; give certfile and "
                "keyfile, or username and password",
                *bound.getsockname()[:2],
            )
        self._scrapes.open()
        self._listener = Listener(
            bound, self._serve, lifetime=2 * self._request_timeout, most=self._max_connections
        )

    def close(self) -> None:
        """Listen no more; answers that are on their way are finished. May be called again."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._scrapes.close()

    def close_inherited(self) -> None:
        """In a forked child, close what it has of the parent's sockets.

        It takes no lock and waits for no thread: in the child the threads are gone, and a lock may
        be held for ever.
        """
        self._scrapes = _Scrapes()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close_inherited()

    def wait_for_scrape(self, timeout: float) -> bool:
        """Wait until a whole scrape that began after this call was sent.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether there was one; False at once where the endpoint does not serve.
        """
        return self._scrapes.wait(timeout)

    def _serve(self, connection: Connection) -> None:
        """Answer the one request of a connection; runs on the connection's thread."""
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
        for name, value in response.headers:
            handler.send_header(name, value)
        handler.send_header("Connection", "close")
        # What a GET would send is not known without a collection, so HEAD gives no length.
        if handler.command != "HEAD":
            handler.send_header("Content-Length", str(len(response.body)))
        handler.end_headers()
        handler.wfile.write(response.body)
        if response.is_scrape:
            handler.scrape = begun


class _Stream(io.RawIOBase):
    """A socket as a file whose reads and writes together end at a deadline.

    A time-out of the socket's would begin anew with each byte of a client that sends, or takes, one
    now and then.
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
        """Write all of the data, as the base class of request handlers expects it."""
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
    """Reads one request; the base class does all its work while it is constructed."""

    protocol_version = "HTTP/1.1"
    server_version = "genmeter"

    def __init__(self, connection: Connection, deadline: float, endpoint: ScrapeServer) -> None:
        # What `_Scrapes` knows the scrape by that this connection was sent as a whole.
        self.scrape: int | None = None
        self.stream = _Stream(connection.socket, deadline)
        self._connection = connection
        self._endpoint = endpoint
        peer = connection.socket.getpeername()
        super().__init__(connection.socket, peer, None)  # type: ignore[arg-type]

    def setup(self) -> None:
        """Read and write through a stream that keeps the time."""
        self.rfile = io.BufferedReader(self.stream)
        self.wfile = self.stream  # type: ignore[assignment]

    def finish(self) -> None:
        """Do nothing: nothing is buffered, and the listener closes the socket."""

    def __getattr__(self, name: str) -> Callable[[], None]:
        # The base class asks for do_ and the method's name, and knows itself what to say to none.
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        self.close_connection = True
        length = self.headers.get("Content-Length", "")
        if length.isascii() and length.isdigit():
            self.rfile.read(min(int(length), _BODY_LIMIT_BYTES))
        self._connection.has_request = True
        self._endpoint.answer(self)

    def version_string(self) -> str:
        """Name the program, without its release, to whoever asks."""
        return self.server_version

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, the base class's name
        """Log nothing: a job's output is not for its scrapes."""


class _Scrapes:
    """Tells who waits that a scrape was whole."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._serving = False
        self._asked = 0
        self._answered = 0

    def open(self) -> None:
        with self._changed:
            self._serving = True

    def close(self) -> None:
        with self._changed:
            self._serving = False
            self._changed.notify_all()

    def begin(self) -> int:
        """Return what to hand to `end`."""
        return self._asked

    def end(self, begun: int) -> None:
        with self._changed:
            self._answered = max(self._answered, begun)
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        with self._changed:
            self._asked += 1
            mine = self._asked
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
        # With an empty password an encrypted key is an error, rather than a prompt that hangs.
        context.load_cert_chain(certfile, keyfile, password="")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"EndpointConfig.certfile (GENMETER_ENDPOINT_CERTFILE): certfile {certfile!r} with "
            f"keyfile {keyfile!r} cannot be used: {error}; give PEM files that can be read, and a "
            "key that belongs to the certificate and is not encrypted"
        ) from error
    if client_ca_file is not None:
        try:
            context.load_verify_locations(client_ca_file)
        except (OSError, ValueError) as error:
            raise ConfigError(
                "EndpointConfig.client_ca_file (GENMETER_ENDPOINT_CLIENT_CA_FILE): client_ca_file "
                f"{client_ca_file!r} cannot be used: {error}; give a PEM file that can be read, "
                "with the certificates of the authorities"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context
