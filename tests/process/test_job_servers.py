"""Worker processes of web servers: one job if they have its name, or a parent that has begun it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import pytest
from _jobs import PATIENCE, environment, sums_by_process
from _pages import Page, Scraper, free_port, sums

from _waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from otlp_receiver import HttpReceiver

GENERATIONS = "genmeter.generations"

APP = """
import json, os
from genmeter import GenerationMonitor

monitor = GenerationMonitor()


def record(count):
    for _ in range(count):
        monitor.track_generation(
            0.1, True, model_name="m", prompt_token_count=2, completion_token_count=1
        )


record(int(os.environ.get("WARM", "0")))
metrics_asgi, metrics_wsgi = monitor.asgi_app(), monitor.wsgi_app()


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"].startswith("/metrics"):
        return await metrics_asgi(scope, receive, send)
    if scope["path"] == "/work":
        record(1)
    body = json.dumps(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def wsgi(environ, start_response):
    if environ["PATH_INFO"].startswith("/metrics"):
        return metrics_wsgi(environ, start_response)
    if environ["PATH_INFO"] == "/work":
        record(1)
    body = json.dumps(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
UVICORN = ["uvicorn", "served:asgi", "--port", "PORT", "--log-level", "warning"]
GUNICORN = ["gunicorn", "served:wsgi", "-b", "127.0.0.1:PORT", "--log-level", "warning"]


class Served:
    """A server with the app; it ends with the block."""

    def __init__(
        self, folder: Path, command: list[str], receiver: HttpReceiver, **env: str
    ) -> None:
        pytest.importorskip(command[0])
        (folder / "served.py").write_text(APP)
        self.port, self.own = free_port(), free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.mounted = f"{self.base}/metrics"
        self.own_page = f"http://127.0.0.1:{self.own}/metrics"
        self._log = folder / "server.log"
        variables = environment(
            receiver,
            OTEL_METRICS_EXPORTER="prometheus,otlp",
            OTEL_EXPORTER_PROMETHEUS_PORT=str(self.own),
            OTEL_METRIC_EXPORT_INTERVAL="500",
            PYTHONPATH=os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
            HOME=str(folder),  # newer gunicorns have a control socket there
            **env,
        )
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *(each.replace("PORT", str(self.port)) for each in command)],
                env=variables,
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        try:
            assert eventually(lambda: self.get("/ready") is not None), self.log
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def log(self) -> str:
        """What server and workers have logged."""
        return self._log.read_text()

    def get(self, path: str) -> int | None:
        """Return the process that answered; None if none did."""
        try:
            with urllib.request.urlopen(self.base + path, timeout=30) as answer:  # noqa: S310
                return int(json.loads(answer.read()))
        except OSError:
            return None

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many workers have answered; the first may be ready long before the others."""
        found: set[int | None] = set()

        def ask() -> bool:
            with ThreadPoolExecutor(8) as pool:
                found.update(pool.map(self.get, ["/ready"] * 16))
            return len(found - {None}) >= count

        assert eventually(ask), (found, self.log)

    def work(self, requests: int, threads: int = 8) -> Counter[int | None]:
        """Send requests for work; return how many each process has answered."""
        found: Counter[int | None] = Counter()
        lock = threading.Lock()

        def send() -> None:
            for _ in range(requests // threads):
                pid = self.get("/work")
                with lock:
                    found[pid] += 1
                time.sleep(0.02)

        all_threads = [threading.Thread(target=send) for _ in range(threads)]
        for thread in all_threads:
            thread.start()
        for thread in all_threads:
            thread.join()
        return found

    def end(self) -> None:
        """End it by SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)


def is_cleaned(jobs: Path) -> bool:
    """Return whether no folder of a job is left, at the latest once another job has begun.

    The last worker may end to be replaced just as the server ends: nobody of the job is left then. On a
    busy machine the other job may end before it has looked.
    """
    source = (
        "from genmeter import GenerationMonitor\n"
        "with GenerationMonitor() as monitor:\n"
        "    monitor.track_generation(0.1, True, model_name='m')\n"
        "    monitor.flush()\n"
    )
    variables = environment(TMPDIR=str(jobs), GENMETER_JOB="next")
    subprocess.run([sys.executable, "-c", source], env=variables, check=True, timeout=PATIENCE)
    return list(jobs.glob("genmeter-*/*")) == []


def is_everywhere(served: Served, calls: int) -> bool:
    """Return whether each of 12 scrapes in a row has these calls."""
    pages = [Page(served.mounted) for _ in range(12)]
    return all(page.sums() == sums(calls) and page.is_whole for page in pages)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("command", "env", "warm"),
    [
        ([*UVICORN, "--workers", "3"], {"GENMETER_JOB": "web"}, 0),
        ([*GUNICORN, "-w", "3"], {"GENMETER_JOB": "web"}, 0),
        ([*GUNICORN, "-w", "3", "--preload"], {"WARM": "7"}, 7),
        ([*GUNICORN, "-w", "3", "--preload"], {"WARM": "7", "GENMETER_JOB": "web"}, 7),
    ],
    ids=["uvicorn", "gunicorn", "preload", "preload-named"],
)
def test_all_workers_answer_for_the_job(
    tmp_path: Path,
    jobs: Path,
    receiver: HttpReceiver,
    command: list[str],
    env: dict[str, str],
    warm: int,
) -> None:
    """Whichever worker a scrape reaches; no counter falls, the port is served, one pushes."""
    with Served(tmp_path, command, receiver, **env) as served:
        served.wait_for_workers(2)
        with Scraper(served.mounted) as scraper:
            answered = served.work(240)
            assert None not in answered
            assert len(answered) > 1
            calls = 240 + warm
            assert eventually(lambda: is_everywhere(served, calls)), served.log
        scraper.check(calls, may_move="--preload" in command)
        assert eventually(lambda: Page(served.own_page).sums() == sums(calls))
        assert Page(served.own_page).is_whole
        assert eventually(lambda: receiver.total(GENERATIONS) == calls)
        served.end()
        assert receiver.total(GENERATIONS) == calls
        assert len(sums_by_process(receiver, GENERATIONS)) == 1
        assert not re.search("in use|not served|tries again|GENMETER_JOB", served.log), served.log
        assert "Traceback" not in served.log
    if "gunicorn" in command:
        assert eventually(lambda: is_cleaned(jobs))


@pytest.mark.timeout(300)
def test_a_killed_worker_leaves_its_calls(tmp_path: Path, receiver: HttpReceiver) -> None:
    """Gunicorn starts another one, and no counter falls."""
    command = [*GUNICORN, "-w", "3"]
    with Served(tmp_path, command, receiver, GENMETER_JOB="web") as served:
        with Scraper(served.mounted) as scraper:
            answered = served.work(80)
            assert eventually(lambda: is_everywhere(served, 80))
            victim = next(pid for pid in answered if pid is not None)
            os.kill(victim, signal.SIGKILL)
            assert eventually(lambda: Page(served.mounted).processes("died") == 1)
            more = served.work(80)
            total = 160 - more[None]
            assert eventually(lambda: is_everywhere(served, total))
        # A connection that the killed worker had accepted is reset.
        scraper.check(total, frozenset({200, None}))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", ["1", "3"])
def test_workers_that_are_replaced_go_on(
    tmp_path: Path, jobs: Path, receiver: HttpReceiver, workers: str
) -> None:
    """Also when none of them has recorded yet; the job is over when the server ends."""
    command = [*GUNICORN, "-w", workers, "--max-requests", "25"]
    with Served(tmp_path, command, receiver, GENMETER_JOB="web") as served:
        with Scraper(served.mounted) as scraper:
            answered = served.work(240)
            assert len(answered) > 4
            calls = 240 - answered[None]
            assert eventually(lambda: Page(served.mounted).sums() == sums(calls)), served.log
            served.process.send_signal(signal.SIGHUP)  # replaces all of them
            before = set(answered)
            assert eventually(lambda: served.get("/ready") not in {*before, None})
            more = served.work(80)
            calls += 80 - more[None]
            assert eventually(lambda: Page(served.mounted).sums() == sums(calls)), served.log
        scraper.check(calls, frozenset({200, None}))
        served.end()
        assert receiver.total(GENERATIONS) == calls
        assert len(sums_by_process(receiver, GENERATIONS)) == 1
    assert eventually(lambda: is_cleaned(jobs))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "command",
    [[*UVICORN, "--workers", "3"], [*GUNICORN, "-w", "3"]],
    ids=["uvicorn", "gunicorn"],
)
def test_workers_without_a_job_serve_their_own_page_and_say_so(
    tmp_path: Path, jobs: Path, receiver: HttpReceiver, command: list[str]
) -> None:
    """Each says once how to join them; each pushes under an id of its own."""
    variables = {"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=pod-1"}
    with Served(tmp_path, command, receiver, **variables) as served:
        served.wait_for_workers(2)
        answered = served.work(240)
        assert None not in answered
        assert len(answered) > 1
        own = {sums(count) for count in answered.values()}
        assert eventually(lambda: Page(served.mounted).sums() in own)
        for _ in range(20):
            page = Page(served.mounted)
            assert page.sums() in own
            assert page.is_whole
        assert eventually(lambda: "GENMETER_JOB" in served.log)
        assert 1 <= served.log.count("set GENMETER_JOB") <= 3
        assert eventually(lambda: receiver.total(GENERATIONS) == 240)
        counts = sums_by_process(receiver, GENERATIONS)
        assert sorted(counts.values()) == sorted(answered.values())
        served.end()
    assert eventually(lambda: is_cleaned(jobs))


@pytest.mark.timeout(300)
def test_a_reloaded_app_is_exact_before_and_after(tmp_path: Path, receiver: HttpReceiver) -> None:
    """Uvicorn's child is alone: its page is its own, and no hint is needed."""
    command = [*UVICORN, "--reload", "--reload-dir", str(tmp_path)]
    with Served(tmp_path, command, receiver) as served:
        (first,) = served.work(40)
        assert eventually(lambda: Page(served.mounted).sums() == sums(40)), served.log
        assert eventually(lambda: receiver.total(GENERATIONS) == 40)
        program = tmp_path / "served.py"
        program.write_text(program.read_text() + "\n# changed\n")
        assert eventually(lambda: served.get("/ready") not in (first, None))
        served.work(24)
        assert eventually(lambda: Page(served.mounted).sums() in (sums(24), sums(64)))
        assert eventually(lambda: receiver.total(GENERATIONS) == 64)
        served.end()
        assert "GENMETER_JOB" not in served.log
    assert receiver.total(GENERATIONS) == 64
