"""Runs _fleet_job.py, and compares what it counted with the rows of a report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genmeter.report.usage_table import UsageTable

JOB = Path(__file__).with_name("_fleet_job.py")
PATIENCE = 60.0


class Job:
    """A running job in another process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = self._read_line()
        self.totals: dict[str, int] = {}

    def run(self, command: str) -> None:
        """Run a command and read the totals after it."""
        self.send(command)
        self.totals = json.loads(self._read_line())

    def send(self, command: str) -> None:
        """Send a command without waiting for a response."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """End the process by SIGKILL."""
        self._process.kill()
        self._process.communicate()

    def finish(self) -> None:
        """Let the job end; it lingers until it was scraped."""
        self.send("end")
        self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the job exited early"
        return line.strip()


@contextmanager
def running_job(
    port: int = 0, births: str = "created", environment: dict[str, str] | None = None
) -> Iterator[Job]:
    """Run a job, and kill it at the end of the test."""
    process = subprocess.Popen(
        [sys.executable, JOB, str(port), births],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield Job(process)
    finally:
        process.kill()
        process.communicate()


def sums(table: UsageTable, process: str) -> dict[str, int]:
    """Return what one address counted."""
    row = table.group(["process"]).get((process,))
    names = ("calls", "failures", "cancelled", "calls_without_usage", "prompt_tokens")
    return {name: getattr(row, name) for name in (*names, "total_tokens")} if row else {}


def of_rows(*totals: dict[str, int]) -> dict[str, int]:
    """Add the totals of processes, without what has no row."""
    added: dict[str, int] = defaultdict(int)
    for each in totals:
        for name, count in each.items():
            added[name] += count
    return {name: added[name] for name in added if name not in ("conversations", "evaluations")}
