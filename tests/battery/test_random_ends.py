"""Forks, signals and ends at each point of the pipeline, in a job whose other processes stay exact."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest
from _jobs import PATIENCE, environment, folders, job
from _ranks import Live

from _waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from _battery import Battery

CHILD = 5
"""Calls of a child that an injected fork begins."""
TOKENS = 3

POINTS = {
    "inbox, before the append": ("instance", "_append", "before"),
    "inbox, after the append": ("instance", "_append", "after"),
    "sanitizing": ("genmeter.events.sanitize:Normaliser", "_call", "before"),
    "drain, before": ("genmeter.pipeline.drain:Pipeline", "_drain", "before"),
    "drain, after": ("genmeter.pipeline.drain:Pipeline", "_drain", "after"),
    "history": ("genmeter.history.store:History", "_append", "before"),
    "metrics": ("genmeter.metrics.recorder:MetricsRecorder", "_generation", "before"),
    "cell": ("genmeter.metrics.recorder:MetricsRecorder", "_usage", "after"),
    "publisher, before": ("genmeter.job._publisher:Publisher", "publish", "before"),
    "publisher, after": ("genmeter.job._publisher:Publisher", "publish", "after"),
    "transaction, its beginning": ("genmeter.job.store", "_next_version", "after"),
    "transaction, its usage": ("genmeter.job.store", "_write_usage", "after"),
    "transaction, its end": ("genmeter.job.store", "_free", "after"),
    "commit": ("genmeter.job._connection:Block", "__exit__", "before"),
    "reservation": ("genmeter.budget.scopes:JobScope", "request", "after"),
    "export": ("genmeter.files.atomic:AtomicFiles", "__exit__", "before"),
    "handler": ("handler", "handle_metric", "before"),
    "job": ("job", "", ""),
}
"""Where something happens: a function of genmeter, and whether before or after it."""

INSIDE = tuple(point for point in POINTS if point.startswith(("transaction", "commit")))
"""Where SQLite is in the middle of its work: a child that is forked by that thread counts apart."""

ENDS = ("fork", "SIGTERM", "SIGINT", "SIGKILL", "_exit", "thread", "raise")

SOURCE = """
import functools
import importlib
import random

owner_name, function_name, when, action, hits, note, folder = sys.argv[1:]
hits = int(hits)
children = []
armed = False


def act():
    global armed, hits
    if not armed:
        return
    hits -= 1
    if hits > 0:
        return
    armed = False
    if action == "fork":
        pid = os.fork()
        if pid == 0:
            try:
                record(monitor, 5, model="child")
                monitor.flush()
            finally:
                os._exit(0)
        children.append(pid)
    elif action.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, action))
    elif action == "_exit":
        os._exit(3)
    elif action == "thread":
        sys.exit("a thread's own end")
    else:
        raise RuntimeError("in the middle")


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if when == "before":
            act()
        result = function(*args, **kwargs)
        if when == "after":
            act()
        return result

    return wrapper


class Handler:
    def handle_metric(self, metric_name, value, metadata):
        if owner_name == "handler":
            act()


if ":" in owner_name:
    module, _, name = owner_name.partition(":")
    owner = getattr(importlib.import_module(module), name)
    setattr(owner, function_name, wrapped(getattr(owner, function_name)))
elif owner_name.startswith("genmeter"):
    owner = importlib.import_module(owner_name)
    setattr(owner, function_name, wrapped(getattr(owner, function_name)))
monitor = GenerationMonitor(
    metric_handlers=[Handler()], shutdown_timeout=20, config=MonitorConfig.from_env(models=("m",))
)
budget = monitor.budget(tokens=10**9, scope="job")
if owner_name == "instance":
    setattr(monitor, function_name, wrapped(getattr(monitor, function_name)))

noted = os.open(note, os.O_RDWR | os.O_CREAT)
published = 0
count = 0


def write():
    os.pwrite(noted, count.to_bytes(8, "little") + published.to_bytes(8, "little"), 0)


def work(rounds):
    global count, published
    for number in range(rounds):
        if owner_name == "job":
            act()
        if number % 20 == 7:
            with budget.reserve(tokens=3, timeout=30):
                record(monitor)
                count += 1
        else:
            record(monitor)
            count += 1
        write()
        if number % 50 == 25:
            before = count
            monitor.flush(30)
            published = before
            write()
        if number % 80 == 30:
            monitor.export_metrics(os.path.join(folder, "export.json"))
        time.sleep(0.002)


record(monitor, 20)
count = 20
monitor.flush(30)
published = 20
write()
armed = True
output(ready=True)
if action == "thread":
    worker = threading.Thread(target=work, args=(100,))
    worker.start()
    worker.join()
    work(100)
else:
    work(200)
injected, armed = not armed, False  # not in the end, when no child can record
codes = [wait_for(pid) for pid in children]
own = monitor.get_total_token_usage()
monitor.shutdown()
output(codes=codes, own=sum(each.calls for each in own.by_model), injected=injected)
"""


class Outcome:
    """What a process that ended has left."""

    def __init__(
        self, folder: Path, point: str, action: str, hits: int, env: dict[str, str]
    ) -> None:
        owner, function, when = POINTS[point]
        note = folder / "note"
        command = [
            *job(folder, SOURCE),
            owner,
            function,
            when,
            action,
            str(hits),
            str(note),
            str(folder),
        ]
        with subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                self.output, self.errors = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                self.output, self.errors = process.communicate()
                raise AssertionError(f"it hangs: {self.errors}") from None
        self.code = process.returncode
        written = note.read_bytes()
        self.recorded = int.from_bytes(written[:8], "little")
        self.published = int.from_bytes(written[8:], "little")

    @property
    def is_complete(self) -> bool:
        """Whether it went to its end."""
        return '"own"' in self.output


def check_store(jobs: Path) -> None:
    """Fail unless the store is whole, and has no reservation of a process that is gone."""
    (folder,) = folders(jobs)
    path = folder / "job.sqlite"
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        running = db.execute("SELECT id FROM process WHERE state='running'").fetchall()
        reserved = db.execute("SELECT process FROM reservation").fetchall()
    assert {each for (each,) in reserved} <= {each for (each,) in running}


def calls_of(live: Live, model: str) -> int:
    """Return the calls of a model in the whole job."""
    found: int = live.do(
        f"sum(each.calls for each in job_token_usage().by_model if each.model_name == {model!r})"
    )
    return found


def run(point: str, action: str, hits: int, tmp_path: Path, jobs: Path, stays: Live) -> None:
    """End a process, and check what it and the others have."""
    before, before_child = calls_of(stays, "m"), calls_of(stays, "child")
    tmp_path.mkdir()
    env = environment(GENMETER_JOB="ends")
    found = Outcome(tmp_path, point, action, hits, env)
    shown = (point, action, hits, found.code, found.output, found.errors[-3000:])
    total = 0

    def settled() -> bool:
        nonlocal total
        total = calls_of(stays, "m") - before
        return total >= least

    is_ended_early = not found.is_complete
    least = found.recorded if found.is_complete or action == "SIGTERM" else found.published
    assert eventually(settled, 15.0), (total, least, shown)
    # A call may be recorded, and not yet noted, as it ends; what `raise` drops is one event.
    assert least <= total <= found.recorded + 1, (total, shown)
    if is_ended_early:
        assert found.code != 0, shown
    if action == "fork" and found.is_complete:
        assert '"codes": [0]' in found.output or '"injected": false' in found.output, shown
        if '"injected": true' in found.output and point not in INSIDE:
            assert eventually(lambda: calls_of(stays, "child") == before_child + CHILD, 15.0), shown
    stays.do("record(monitor, model='stays')")
    stays.do("budget.has_room()")
    assert eventually(lambda: stays.do("budget.reserved.tokens") == 0, 15.0), shown
    check_store(jobs)


@pytest.mark.parametrize("action", ENDS)
def test_any_end_at_any_point(action: str, tmp_path: Path, jobs: Path, battery: Battery) -> None:
    """No hang, no damage, no call twice; missing is at most what was not published."""
    random = battery.random
    allowed = [
        point
        for point in POINTS
        # These are the caller's own: what genmeter itself calls does not raise.
        if action not in ("raise", "thread") or point in ("handler", "job")
    ]
    chosen = random.sample(allowed, min(len(allowed), battery.amount(short=2, long=10**6)))
    start = "monitor = GenerationMonitor(); budget = monitor.budget(tokens=10**9, scope='job')"
    with Live(tmp_path, "stays", environment(GENMETER_JOB="ends"), start) as stays:
        stays.do("record(monitor, model='stays')")
        stays.do("monitor.flush()")
        for number, point in enumerate(chosen):
            for hits in (1, random.randrange(2, 40)):
                folder = tmp_path / f"{number}-{hits}"
                run(point, action, hits, folder, jobs, stays)
        assert calls_of(stays, "stays") == 1 + 2 * len(chosen)
