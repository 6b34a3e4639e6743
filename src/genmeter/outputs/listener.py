"""The sockets of the scrape endpoint: binding, accepting, and a thread for each connection."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import selectors
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genmeter.errors import EndpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Connection", "Listener", "bind", "is_loopback"]

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
