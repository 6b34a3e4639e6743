"""Jobs of several processes for real servers, each process with the number of calls it has recorded.

A process counts its calls in a file of its own, which outlives it however it ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import struct
import subprocess
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from _servers import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from _prometheus import Prometheus

__all__ = ["ENDS", "Gunicorn", "Loop", "Stored", "check_goes_on", "environment", "raw", "recorded"]

PATIENCE = 100.0
ENDS = ("_total", "_count", "_sum", "_bucket")
"""The ends of the names of series that never fall."""

_COUNTS = '''
import os
import struct


def count(path, number):
    """Keep the number of calls that this process has recorded."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.pwrite(file, struct.pack("<q", number), 0)  # at once, for whoever reads it meanwhile
    os.close(file)
'''

APP = (
    _COUNTS
    + """
import itertools
import json
import sys
import time

from genmeter import GenerationMonitor

monitor = GenerationMonitor()
metrics = monitor.wsgi_app()
calls = itertools.count(1)


def app(environ, start_response):
    if environ["PATH_INFO"] == "/metrics":
        return metrics(environ, start_response)
    if environ["PATH_INFO"] == "/work":
        number = next(calls)
        monitor.track_generation(
            0.25,
            number % 10 != 0,
            model_name=f"model-{number % 7}",
            prompt_token_count=2,
            completion_token_count=1,
        )
        monitor.record_sample(accepted=number % 3 != 0, reason="too_short")
        count(f"{os.getpid()}.count", number)
    body = json.dumps(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
)

LOOP = (
    _COUNTS
    + """
import sys
import threading
import time

from genmeter import GenerationMonitor

name, pause = sys.argv[1], float(sys.argv[2])
monitor = GenerationMonitor()
stop = threading.Event()


def work():
    number = 0
    while not stop.is_set():
        number += 1
        monitor.track_generation(
            0.25,
            number % 10 != 0,
            model_name=f"model-{number % 7}",
            prompt_token_count=2,
            completion_token_count=1,
        )
        count(f"{name}.count", number)
        time.sleep(pause)


thread = threading.Thread(target=work)
thread.start()
for line in sys.stdin:
    if line == "stop\\n":
        stop.set()
        thread.join()
    elif line == "flush\\n":
        monitor.flush()
    print("done", flush=True)
stop.set()
thread.join()
"""
)


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a job with a temporary folder of its own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "GENMETER_", "COV", "GUNICORN_"))
    }
    # Short, and not below pytest's folder: the job's own folder must belong to no other test.
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return {**kept, "TMPDIR": str(temporary), "HOME": str(folder), **variables}


def recorded(folder: Path) -> int:
    """Return the calls that the processes of a folder have recorded."""
    return sum(_number(path) for path in folder.glob("*.count"))


def recorded_by(folder: Path, pid: int) -> int:
    """Return the calls that a process of a folder has recorded."""
    return _number(folder / f"{pid}.count")


def _number(path: Path) -> int:
    content = path.read_bytes()
    return struct.unpack("<q", content)[0] if len(content) == 8 else 0


class _Process:
    """A process that ends with the block, with its children."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.process: subprocess.Popen[str]

    def _start(self, command: list[str], folder: Path, env: Mapping[str, str]) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """Its standard error."""
        return self._log.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


class Gunicorn(_Process):
    """The README's gunicorn with four workers, whose app has the page mounted.

    Attributes:
        url: The server's address.
        own_url: The page at the job's own port.
    """

    def __init__(self, folder: Path, arguments: str = "", **variables: str) -> None:
        super().__init__(folder / "gunicorn.log")
        (folder / "app.py").write_text(APP)
        port, own = free_port(), free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.own_url = f"http://127.0.0.1:{own}/metrics"
        env = environment(
            folder,
            GENMETER_JOB="shop",
            GUNICORN_CMD_ARGS=f"--bind 127.0.0.1:{port} --log-level warning {arguments}",
            OTEL_EXPORTER_PROMETHEUS_PORT=str(own),
            **variables,
        )
        command = [sys.executable, "-m", "gunicorn", "app:app", "--workers", "4"]
        self._start(command, folder, env)

    def end(self) -> int:
        """Have it end in order, and return its exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE)


class Loop(_Process):
    """A process that records calls until it is stopped.

    Args:
        folder: The folder of its count and its log.
        name: Its name, of its own in the folder.
        env: Its environment.
        pause: Seconds between two calls.
    """

    def __init__(
        self, folder: Path, name: str, env: Mapping[str, str], pause: float = 0.01
    ) -> None:
        super().__init__(folder / f"{name}.log")
        self._count = folder / f"{name}.count"
        program = folder / "loop.py"
        if not program.exists():
            program.write_text(LOOP)
        self._start([sys.executable, str(program), name, str(pause)], folder, env)

    @property
    def count(self) -> int:
        """The calls that it has recorded."""
        return _number(self._count) if self._count.exists() else 0

    def do(self, command: str) -> None:
        """Have it ``stop`` recording, or ``flush``, and wait for that."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(command, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "done\n", self.log

    def end(self) -> int:
        """Have it stop and end in order, and return its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait()


class Stored(NamedTuple):
    """A series in a server, with all its samples.

    Attributes:
        name: Its name.
        labels: Its other labels.
        times: The times of its samples, in order.
        values: Their values.
    """

    name: str
    labels: dict[str, str]
    times: list[float]
    values: list[float]


def raw(prometheus: Prometheus, **labels: str) -> list[Stored]:
    """Return the raw samples of the last hour of all series with some labels."""
    selector = ",".join(f'{name}="{value}"' for name, value in labels.items())
    found: list[dict[str, Any]] = prometheus._api("query", query=f"{{{selector}}}[1h]")["result"]
    series = []
    for each in found:
        name = each["metric"].pop("__name__")
        times = [at for at, _ in each["values"]]
        values = [float(value) for _, value in each["values"]]
        series.append(Stored(name, each["metric"], times, values))
    return series


def check_goes_on(series: list[Stored], calls: int) -> None:
    """Assert that nothing that was counted fell, vanished or moved, and the sums of the calls.

    Args:
        series: All series of a job's target.
        calls: The calls of `APP` or `LOOP` that were recorded.
    """
    counted = [each for each in series if each.name.endswith(ENDS)]
    falls = [
        (name, labels, before, after)
        for name, labels, _, values in counted
        for before, after in itertools.pairwise(values)
        if after < before
    ]
    assert falls == []
    scrapes = {
        at
        for name, _, times, values in series
        for at, value in zip(times, values, strict=True)
        if name == "up" and value == 1
    }
    vanished = [
        (name, labels, missing)
        for name, labels, times, _ in counted
        # A zero at the birth is no scrape.
        if (missing := {at for at in scrapes if at > min(scrapes & set(times))} - set(times))
    ]
    assert not vanished, vanished[:10]
    moved = [
        each for each in series if each.name.endswith("_created") and len(set(each.values)) > 1
    ]
    assert moved == []
    # With no fall, the increase of each series by its raw samples is its last value.
    sums: dict[str, float] = defaultdict(float)
    for name, _, _, values in counted:
        sums[name] += values[-1]
    duration = "gen_ai_client_inference_duration_seconds"
    found = {
        "calls": sums["genmeter_generations_total"],
        "tokens": sums["genmeter_tokens_total"],
        "durations": sums[f"{duration}_count"],
        "seconds": round(sums[f"{duration}_sum"], 6),
    }
    expected = {"calls": calls, "tokens": 3 * calls, "durations": calls, "seconds": calls * 0.25}
    assert found == expected
    assert len({labels["instance"] for _, labels, _, _ in series}) == 1
