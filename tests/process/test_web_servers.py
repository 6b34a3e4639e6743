"""Web servers: nothing that a worker recorded is lost when the server ends it, however it does."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from _jobs import PATIENCE, environment

from _waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from otlp_receiver import HttpReceiver

GENERATIONS = "genmeter.generations"
NEVER = "600000"  # milliseconds between two pushes

_COMMON = """
import asyncio
import contextlib
import time

from genmeter import GenerationMonitor

monitor = GenerationMonitor()


def record():
    monitor.track_generation(
        0.1, True, model_name="m", prompt_token_count=2, completion_token_count=1
    )
"""
STARLETTE = (
    _COMMON
    + """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route


async def call(request):
    record()
    return PlainTextResponse("called")


async def slow(request):
    record()
    await asyncio.sleep(1)
    record()
    return PlainTextResponse("called")


app = Starlette(
    routes=[Route("/call", call), Route("/slow", slow), Mount("/metrics", monitor.asgi_app())]
)
"""
)
FASTAPI = (
    _COMMON
    + """
from fastapi import FastAPI


@contextlib.asynccontextmanager
async def own(app):
    async with monitor.lifespan(app):
        yield
        record()


app = FastAPI(lifespan=LIFESPAN)


@app.get("/call")
async def call():
    record()
"""
)
FLASK = (
    _COMMON
    + """
from flask import Flask

app = Flask(__name__)


@app.get("/call")
def call():
    record()
    return "called"


@app.get("/slow")
def slow():
    record()
    time.sleep(1)
    record()
    return "called"


@app.get("/hang")
def hang():
    record()
    time.sleep(1000)
"""
)


class Server:
    """A server under test.

    Attributes:
        process: Its process.
        base: The URL without a path.
    """

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.base = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> int | None:
        """Return the status of a request; None if the connection broke."""
        try:
            url = self.base + path
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:  # noqa: S310 - loopback
                status: int = answer.status
                return status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def call(self, times: int) -> None:
        """Make calls that must succeed."""
        with ThreadPoolExecutor(4) as pool:
            statuses = list(pool.map(self.get, ["/call"] * times))
        assert statuses == [200] * times

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the server and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextmanager
def serving(
    folder: Path, app: str, receiver: HttpReceiver, *command: str, **variables: str
) -> Iterator[Server]:
    """Run a server until the end of the context."""
    (folder / "service.py").write_text(app)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = environment(
        receiver,
        OTEL_METRIC_EXPORT_INTERVAL=NEVER,
        PYTHONPATH=str(folder),
        HOME=str(folder),
        **variables,
    )
    arguments = [each.replace("PORT", str(port)) for each in command]
    with subprocess.Popen(
        [sys.executable, *arguments], env=env, cwd=folder, text=True, stderr=subprocess.DEVNULL
    ) as process:
        server = Server(process, port)
        try:
            assert eventually(lambda: server.get("/ready") == 404 or process.poll() is not None)
            yield server
        finally:
            process.kill()


UVICORN = ("-m", "uvicorn", "service:app", "--port", "PORT", "--log-level", "warning")
GUNICORN = ("-m", "gunicorn", "service:app", "-b", "127.0.0.1:PORT", "--log-level", "warning")
KINDS = {
    "uvicorn": (STARLETTE, UVICORN),
    "uvicorn-workers": (STARLETTE, (*UVICORN, "--workers", "2")),
    "uvicorn-reload": (STARLETTE, (*UVICORN, "--reload")),
    "gunicorn-sync": (FLASK, (*GUNICORN, "-w", "2")),
    "gunicorn-gthread": (FLASK, (*GUNICORN, "-w", "2", "-k", "gthread", "--threads", "2")),
    "gunicorn-uvicorn": (STARLETTE, (*GUNICORN, "-w", "2", "-k", "uvicorn_worker.UvicornWorker")),
    "gunicorn-preload": (FLASK, (*GUNICORN, "-w", "2", "--preload")),
    "gunicorn-uvicorn-preload": (
        STARLETTE,
        (*GUNICORN, "-w", "2", "-k", "uvicorn_worker.UvicornWorker", "--preload"),
    ),
}


# An arbiter ends its workers by SIGQUIT if it gets SIGINT or SIGQUIT. Uvicorn's workers do not react
# to that, and are killed 30 seconds later.
ENDS = [
    *((kind, signal.SIGTERM) for kind in KINDS),
    *((kind, signal.SIGINT) for kind in KINDS if "gunicorn-uvicorn" not in kind),
    *((kind, signal.SIGQUIT) for kind in ("gunicorn-sync", "gunicorn-gthread")),
]


@pytest.mark.parametrize(("kind", "number"), ENDS)
def test_the_end_of_a_server_loses_nothing(
    tmp_path: Path, receiver: HttpReceiver, kind: str, number: signal.Signals
) -> None:
    """Every call that was answered is pushed, without any code of the app's for it."""
    app, command = KINDS[kind]
    with serving(tmp_path, app, receiver, *command) as server:
        server.call(40)
        server.end(number)
        # A worker of uvicorn's may outlive its parent by a moment.
        assert receiver.wait_for(lambda: receiver.total(GENERATIONS) == 40)


@pytest.mark.parametrize("kind", [each for each in KINDS if "reload" not in each])
def test_a_request_under_way_is_counted_whole(
    tmp_path: Path, receiver: HttpReceiver, kind: str
) -> None:
    """A graceful end waits for the request, and what it records then is pushed too."""
    app, command = KINDS[kind]
    with serving(tmp_path, app, receiver, *command) as server, ThreadPoolExecutor(1) as pool:
        server.call(10)
        answer = pool.submit(server.get, "/slow")
        # It is under way once the port has it; the app sleeps for a second.
        assert not eventually(answer.done, timeout=0.4)
        server.end()
        assert answer.result(PATIENCE) == 200
        assert receiver.wait_for(lambda: receiver.total(GENERATIONS) == 12)


def test_the_status_of_uvicorn_is_as_before(tmp_path: Path, receiver: HttpReceiver) -> None:
    """It ends by the signal that it was sent."""
    with serving(tmp_path, STARLETTE, receiver, *UVICORN) as server:
        server.call(1)
        assert server.end() == -signal.SIGTERM


def test_uvicorn_in_a_program_loses_nothing(tmp_path: Path, receiver: HttpReceiver) -> None:
    """``uvicorn.run`` after the monitor was made restores our handler, and calls it."""
    source = STARLETTE + "\nimport sys, uvicorn\nuvicorn.run(app, port=int(sys.argv[1]))\n"
    (tmp_path / "program.py").write_text(source)
    with serving(tmp_path, "", receiver, str(tmp_path / "program.py"), "PORT") as server:
        server.call(40)
        assert server.end() == -signal.SIGTERM
    assert receiver.total(GENERATIONS) == 40


@pytest.mark.parametrize("lifespan", ["monitor.lifespan", "own"])
def test_the_lifespan_alone_loses_nothing(
    tmp_path: Path, receiver: HttpReceiver, lifespan: str
) -> None:
    """The lifespan of FastAPI pushes at its end, for servers whose signals are their own affair."""
    app = FASTAPI.replace("LIFESPAN", lifespan)
    with serving(tmp_path, app, receiver, *UVICORN, GENMETER_HANDLE_SIGTERM="0") as server:
        server.call(40)
        assert server.end() == -signal.SIGTERM
    assert receiver.total(GENERATIONS) == 40 + (lifespan == "own")


@pytest.mark.parametrize("kind", ["gunicorn-sync", "gunicorn-gthread", "gunicorn-uvicorn"])
def test_workers_that_are_replaced_lose_nothing(
    tmp_path: Path, receiver: HttpReceiver, kind: str
) -> None:
    """``--max-requests`` ends each worker after some requests."""
    app, command = KINDS[kind]
    with serving(tmp_path, app, receiver, *command, "--max-requests", "7") as server:
        server.call(40)
        server.end()
    assert receiver.wait_for(lambda: receiver.total(GENERATIONS) == 40)


def test_a_worker_that_times_out_loses_nothing(tmp_path: Path, receiver: HttpReceiver) -> None:
    """An arbiter aborts a worker that hangs; its handler exits, and the exit pushes."""
    app, command = KINDS["gunicorn-sync"]
    with serving(tmp_path, app, receiver, *command, "--timeout", "2") as server:
        server.call(10)
        assert server.get("/hang") in {None, 500}
        server.end()
    assert receiver.wait_for(lambda: receiver.total(GENERATIONS) == 11)
