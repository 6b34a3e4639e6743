"""Signals and stops in the middle of a use of the job's store."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from _jobs import end, environment, job, started
from _ranks import Live

if TYPE_CHECKING:
    from pathlib import Path

READS = {
    "usage": "job_token_usage()",
    "page": "prometheus_text()",
    "budget": "budget.has_room()",
    "reservation": "reserve()",
}
WORKER = """
import wsgiref.util
from genmeter import job_token_usage
monitor = GenerationMonitor()
budget = monitor.budget(tokens=10**12, scope="job")


def prometheus_text():
    asked = {{}}
    wsgiref.util.setup_testing_defaults(asked)
    return b"".join(monitor.wsgi_app()(asked, lambda *_: None))


def reserve():
    with budget.reserve(tokens=1):
        pass


noted = open(sys.argv[1], "w")
count = 0
output(ready=True)
while True:
    record(monitor)
    count += 1
    noted.seek(0)
    noted.write(str(count))
    noted.flush()
    for _ in range(5):
        {read}
"""


@pytest.mark.parametrize("read", READS)
def test_sigterm_in_the_middle_of_a_read_loses_nothing(tmp_path: Path, read: str) -> None:
    """The work of the exit needs the locks that the interrupted main thread may hold."""
    env = environment(GENMETER_JOB="interrupted", OTEL_METRICS_EXPORTER="prometheus")
    env["OTEL_EXPORTER_PROMETHEUS_PORT"] = "0"
    with Live(tmp_path, "asked", env, "monitor = GenerationMonitor(); record(monitor)") as asked:
        noted = 1
        for number in range(6):
            note = tmp_path / f"noted-{number}"
            source = WORKER.format(read=READS[read])
            with started(tmp_path, source, env, str(note)) as worker:
                time.sleep(1.2 + 0.017 * number)
                ended = end(worker, signal.SIGTERM)
            assert ended.code == -signal.SIGTERM
            assert "cannot be published" not in ended.errors
            noted += int(note.read_text())
        found = asked.do("job_token_usage().total_tokens")
    assert 3 * noted <= found <= 3 * (noted + 6)  # recorded and not noted yet


def test_a_long_block_does_not_go_on_after_the_exit(tmp_path: Path) -> None:
    """Another thread ends the process; the main thread records nothing that would be lost."""
    source = """
from genmeter.deferral import deferral
monitor = GenerationMonitor()
record(monitor)
monitor.flush()
import genmeter.runtime
end = genmeter.runtime._termination._end
genmeter.runtime._termination._end = lambda: (time.sleep(3), end())
with deferral:
    output(ready=True)
    deadline = time.monotonic() + 4.0  # longer than the pause of the thread that takes over
    while time.monotonic() < deadline:
        time.sleep(0.01)
output(went_on=True)
time.sleep(60)
"""
    with started(tmp_path, source, environment()) as worker:
        time.sleep(1.5)  # until the drain's thread has armed the handler
        ended = end(worker, signal.SIGTERM)
    assert (ended.code, ended.output) == (-signal.SIGTERM, []), ended.errors


def test_page_and_totals_of_killed_processes_agree(tmp_path: Path) -> None:
    """Both are of the last publication, whatever each was killed in the middle of."""
    env = environment(GENMETER_JOB="killed", OTEL_METRICS_EXPORTER="prometheus")
    env["OTEL_EXPORTER_PROMETHEUS_PORT"] = "0"
    asks = """
import re
import wsgiref.util
from genmeter import job_token_usage
monitor = GenerationMonitor()
record(monitor)
output(ready=True)
for line in sys.stdin:
    monitor.flush()
    asked = {}
    wsgiref.util.setup_testing_defaults(asked)
    page = b"".join(monitor.wsgi_app()(asked, lambda *_: None)).decode()
    values = re.findall(r"^genmeter_tokens_total\\{.*\\} (.*)$", page, re.MULTILINE)
    output(page=sum(map(float, values)), totals=job_token_usage().total_tokens)
"""
    records = """
monitor = GenerationMonitor()
output(ready=True)
while True:
    record(monitor, 20)
    time.sleep(0.0005)
"""
    (tmp_path / "asks").mkdir()
    with subprocess.Popen(
        job(tmp_path / "asks", asks),
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as asked:
        assert asked.stdin is not None
        assert asked.stdout is not None
        assert asked.stdout.readline()
        for number in range(6):
            with started(tmp_path, records, env) as worker:
                time.sleep(1.5 + 0.13 * number)
                worker.kill()
            asked.stdin.write("\n")
            asked.stdin.flush()
            found = json.loads(asked.stdout.readline())
            assert found["page"] == found["totals"] > 3 * 20 * (number + 1)
        asked.stdin.close()
