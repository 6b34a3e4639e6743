"""Jobs that run as separate processes, to test forks, signals and exits."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from otlp_receiver import Receiver

__all__ = [
    "PATIENCE",
    "PREAMBLE",
    "Ended",
    "end",
    "environment",
    "folders",
    "job",
    "run",
    "started",
    "sums_by_process",
]

PATIENCE = 100.0
"""Seconds after which a job counts as hung."""

PREAMBLE = '''
from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig, process_token_usage


def record(monitor, count=1, model="m"):
    for _ in range(count):
        monitor.track_generation(
            0.1, True, model_name=model, prompt_token_count=2, completion_token_count=1
        )


def output(**found):
    print(json.dumps(found), flush=True)


def wait_for(pid, patience=60.0):
    """Return the exit code of a child; kill it and return None if it hangs."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


'''


class Ended(NamedTuple):
    """A job that ended.

    Attributes:
        code: Its exit code; below 0 the signal that ended it.
        output: What it printed, a dict for each line.
        errors: Its standard error.
    """

    code: int
    output: list[dict[str, Any]]
    errors: str


def environment(receiver: Receiver | None = None, **variables: str) -> dict[str, str]:
    """Return a job's environment, without coverage.

    An exception of a signal handler can leave the lock of coverage's tracer locked forever.

    Args:
        receiver: The receiver of its pushes over HTTP; None for no pushes and no endpoint.
        **variables: Further variables.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "GENMETER_", "COV"))
    }
    if receiver is None:
        return {**kept, "OTEL_METRICS_EXPORTER": "none", **variables}
    return {
        **kept,
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        **variables,
    }


def job(folder: Path, source: str) -> list[str]:
    """Write a job's program, and return the command that runs it.

    Args:
        folder: The folder of the program.
        source: The program, after a preamble that imports the package and defines ``record``, ``output``
            and ``wait_for``.
    """
    program = folder / "job.py"
    program.write_text(PREAMBLE + source)
    return [sys.executable, str(program)]


def run(
    folder: Path,
    source: str,
    env: dict[str, str] | None = None,
    *arguments: str,
    patience: float = PATIENCE,
) -> Ended:
    """Run a job in its folder to its end; fail the test after ``patience`` seconds."""
    done = subprocess.run(
        [*job(folder, source), *arguments],
        env=environment() if env is None else env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )
    return Ended(done.returncode, _objects(done.stdout), done.stderr)


@contextlib.contextmanager
def started(
    folder: Path, source: str, env: dict[str, str], *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a job from its first line of output on; it is killed if it outlives the block."""
    with subprocess.Popen(
        [*job(folder, source), *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), process.communicate()
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[str], number: int | None = None) -> Ended:
    """Wait for the end of a started job, after a signal if one is given."""
    if number is not None:
        process.send_signal(number)
    output, errors = process.communicate(timeout=PATIENCE)
    return Ended(process.returncode, _objects(output), errors)


def _objects(output: str) -> list[dict[str, Any]]:
    """Return what a job has printed by ``output()``."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def folders(jobs: Path) -> list[Path]:
    """Return the folders of jobs in the temporary folder of the test's processes."""
    top = jobs / f"genmeter-{os.getuid()}"
    return list(top.iterdir()) if top.exists() else []


def sums_by_process(receiver: Receiver, name: str) -> dict[str, float]:
    """Sum the latest points of a metric for each ``service.instance.id``."""
    series: dict[str, dict[str, float]] = defaultdict(dict)
    for resource, attributes, value in receiver._all_points(name):
        series[resource["service.instance.id"]][repr(sorted(attributes.items()))] = value
    return {instance: sum(found.values()) for instance, found in series.items()}
