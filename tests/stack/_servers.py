"""Finds, starts and stops the real servers that tests/stack runs, all on loopback.

What tests use of it comes as fixtures, in conftest.py.
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
    """Finds a server's program on the PATH or in .servers/bin.

    A program that is missing fails the test with the remedy; it never skips it.

    Args:
        name: the program's file name.

    Returns:
        Its path.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(ROOT / ".servers" / "bin")])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.fail(f"{name} is not installed: run `make servers`, then the tests again")
    return found


def run(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, within a minute, with its output (both streams) as text."""
    return subprocess.run(
        [str(word) for word in argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def free_port() -> int:
    """Returns a TCP port that was free on loopback a moment ago."""
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
    """Sends one HTTP request, over TLS where there is a context for it.

    Returns:
        The status and the body.

    Raises:
        OSError: nobody answered within ten seconds.
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
    """Reads again and again until a reading is accepted or the time is up.

    Args:
        read: gives a reading.
        accept: judges it.
        timeout: how long to go on, in seconds; one reading is always taken.

    Returns:
        Whether the last reading was accepted, and that reading.
    """
    deadline = time.monotonic() + timeout
    while True:
        reading = read()
        if accept(reading):
            return True, reading
        if time.monotonic() >= deadline:
            return False, reading
        time.sleep(POLL_INTERVAL)


class Server(ABC):
    """A server's process, with a folder of its own.

    A subclass gives the command, and says when the server is ready. `with` starts and stops it.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        self._name = name
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Chooses free ports, writes the configuration, and gives the command line."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Says whether the server answers."""

    def start(self) -> None:
        """Starts the server and waits until it is ready.

        Another process may take a port between its choice and its use, so a server that ends at
        once is started again on other ports.

        Raises:
            RuntimeError: it ended at once every time, or never got ready; the log's end is in it.
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
        """Ends the server; killed where it does not end by itself."""
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
        """Returns the last 2,000 characters of the server's log."""
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
