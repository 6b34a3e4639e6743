"""Find, start and stop the real servers of tests/stack, all on loopback.

Tests use the servers as fixtures from conftest.py.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0
REQUEST_TIMEOUT = 10.0
POLL_INTERVAL = 0.05
START_TRIES = 3

T = TypeVar("T")


def program(name: str) -> str:
    """Return the path of a program on the PATH or in .servers/bin.

    A missing program fails the test with the remedy; it never skips it.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(ROOT / ".servers" / "bin")])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.fail(f"{name} is not installed: run `make servers`, then the tests again")
    return found


def run(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program for at most a minute; stdout has both streams as text."""
    return subprocess.run(
        [str(word) for word in argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def free_port() -> int:
    """Return a free TCP port on loopback."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def request(
    method: str,
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> tuple[int, str]:
    """Send an HTTP request, over TLS if there is a context, and return status and body.

    Raises:
        OSError: There was no response within ten seconds.
    """
    parts = urlsplit(url)
    connection = (
        http.client.HTTPConnection(parts.netloc, timeout=REQUEST_TIMEOUT)
        if tls is None
        else http.client.HTTPSConnection(parts.netloc, timeout=REQUEST_TIMEOUT, context=tls)
    )
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    try:
        connection.request(method, target, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def poll(read: Callable[[], T], accept: Callable[[T], bool], timeout: float) -> tuple[bool, T]:
    """Read a value repeatedly until it is accepted or the time is up; at least once.

    Args:
        read: Returns the current value.
        accept: Returns whether to stop.
        timeout: Seconds to wait at most.

    Returns:
        Whether the last value was accepted, and that value.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = read()
        if accept(value):
            return True, value
        if time.monotonic() >= deadline:
            return False, value
        time.sleep(POLL_INTERVAL)


class Server(ABC):
    """A server process with a folder for its files; `with` starts and stops it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self._name = name
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Choose free ports, write the configuration, and return the command line."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether the server accepts requests."""

    def start(self) -> None:
        """Start the server and wait until it is ready.

        Another process may take a chosen port first, so a server that exits at once is started
        again on other ports.

        Raises:
            RuntimeError: The server exited or did not become ready; the message has its log.
        """
        for _ in range(START_TRIES):
            with self._log.open("wb") as log:
                self._process = process = subprocess.Popen(
                    [str(word) for word in self.command()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.folder,
                )
            poll(lambda: process.poll() is not None or self.is_ready(), bool, START_TIMEOUT)  # noqa: B023
            if process.poll() is None and self.is_ready():
                return
            self.stop()
        raise RuntimeError(f"{self._name} did not start: {self.log_tail()}")

    def stop(self) -> None:
        """Terminate the server, and kill it if it does not exit in time."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log_tail(self) -> str:
        """Return the last 2,000 characters of the server's log."""
        return self._log.read_text(errors="replace")[-2000:]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
