"""Many processes of one job, of which some are killed, end or begin all the time.

``STORM_PROCESSES=64 STORM_SECONDS=120 pytest tests/process/test_job_storm.py -s`` is a long one.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import sqlite3
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import pytest
from _jobs import environment
from _pages import Page, Scraper, free_port, sums
from _ranks import Live

from _waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = int(os.environ.get("STORM_PROCESSES", "8"))
SECONDS = float(os.environ.get("STORM_SECONDS", "10"))
MODELS = 8  # even ones of processes that stay, odd ones of those that come and go
PAUSE = 0.02
UNPUBLISHED = 1.3 * max(1.0, PROCESSES / 16)  # seconds, more if the processors are overloaded
MAY_REFUSE = frozenset({200, None})
ERRORS = re.compile(
    r"locked|busy|Traceback|database|counts apart|cannot be published|in use|tries again"
)


class Storm:
    """The processes.

    Args:
        folder: The folder of their programs and logs.
        port: The port of the job's page.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._env = environment(
            OTEL_METRICS_EXPORTER="prometheus",
            OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
            GENMETER_JOB="storm",
        )
        self._random = random.Random(7)  # noqa: S311, no secret
        self.living: dict[int, Live] = {}
        self.killed: list[Live] = []
        self.ended: list[Live] = []
        self.recorded = dict.fromkeys(range(MODELS), 0)

    def begin(self, slot: int) -> None:
        """Begin a process that records."""
        name = f"p{slot}-{len(self.killed) + len(self.ended)}"
        live = self.living[slot] = Live(self._folder, name, self._env)
        live.do(f"load(monitor, {PAUSE}, model='m{slot % MODELS}')")

    def strike(self) -> None:
        """End one process, most often by SIGKILL, and begin another one."""
        slot = self._random.choice([each for each in self.living if each % 2])
        live = self.living.pop(slot)
        if self._random.random() < 0.7:
            live.kill()
            self.killed.append(live)
        else:
            live.do("stop.set(); time.sleep(0.1)")
            assert live.end() == 0, live.errors
            self.ended.append(live)
        self.recorded[slot % MODELS] += live.counted
        live.__exit__()
        self.begin(slot)

    def stop(self) -> None:
        """Have all stop to record, and publish what they have."""
        for live in self.living.values():
            live.do("stop.set(); time.sleep(0.2)")
            live.do("monitor.flush()")
        for slot, live in self.living.items():
            self.recorded[slot % MODELS] += live.counted

    def close(self) -> None:
        """End what still runs."""
        for live in self.living.values():
            live.__exit__()

    @property
    def errors(self) -> list[str]:
        """The lines of the logs that name an error."""
        every = [*self.living.values(), *self.killed, *self.ended]
        return [line for live in every for line in live.errors.splitlines() if ERRORS.search(line)]


class Watch:
    """Looks at the store and the page once a second, within a block.

    Attributes:
        sizes: Bytes of the store's files, and rows of its table of processes.
        times: Seconds that each page took.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        self.sizes: list[tuple[int, int]] = []
        self.times: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        path = self._folder / "job.sqlite"
        while not self._done.wait(1.0):
            begin = time.monotonic()
            if Page(self._url).status == 200:
                self.times.append(time.monotonic() - begin)
            size = sum(each.stat().st_size for each in self._folder.glob("job.sqlite*"))
            with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
                self.sizes.append((size, *db.execute("SELECT COUNT(*) FROM process").fetchone()))

    def check(self) -> None:
        """Fail if the store grows."""
        half = len(self.sizes) // 2
        first, second = (
            max(size for size, _ in part)
            for part in (
                self.sizes[:half],
                self.sizes[half:],
            )
        )
        assert second <= 2 * first + 4 * 2**20  # the log is written back at 4 MB
        assert max(rows for _, rows in self.sizes) <= 2 * PROCESSES + 1

    def __str__(self) -> str:
        times = sorted(self.times)
        return (
            f"page median {times[len(times) // 2]:.3f} s, longest {times[-1]:.3f} s; store "
            f"{self.sizes[0][0]} to {self.sizes[-1][0]} bytes, longest {max(self.sizes)[0]}, at "
            f"most {max(rows for _, rows in self.sizes)} rows of processes"
        )


def check_sums(storm: Storm, url: str) -> float:
    """Fail unless the living are exact, and the dead within their bound; return what is missing."""
    for number in range(0, MODELS, 2):
        right, label = sums(storm.recorded[number]), f"m{number}"
        assert eventually(
            lambda right=right, of=label: Page(url).sums(gen_ai_request_model=of) == right
        )
    assert eventually(lambda: Page(url).processes("died") == len(storm.killed))
    page = Page(url)
    assert page.is_whole
    assert page.processes("running") == PROCESSES
    assert page.processes("ended") == len(storm.ended)
    kept = page.sums()
    assert kept == sums(kept[0])
    lost = sum(storm.recorded.values()) - kept[0]
    # A call may be recorded, and not yet noted by its process, when that is killed.
    assert -len(storm.killed) <= lost <= len(storm.killed) * UNPUBLISHED / PAUSE
    return lost


@pytest.mark.timeout(60 + 10 * SECONDS + 10 * PROCESSES)
def test_a_storm_of_processes(tmp_path: Path, jobs: Path) -> None:
    """No error, no growth, no fall, nothing left behind; the living are exact."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    storm = Storm(tmp_path, port)
    top = jobs / f"genmeter-{os.getuid()}"
    with ExitStack() as stack:
        stack.callback(storm.close)
        for slot in reversed(range(PROCESSES)):  # so that the first to lead may be killed
            storm.begin(slot)
        assert eventually(lambda: Page(url).processes("running") == PROCESSES)
        (folder,) = top.iterdir()
        with Scraper(url, 0.25) as scraper, Watch(folder, url) as watch:
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                storm.strike()
                time.sleep(0.1)
            storm.stop()
            lost = check_sums(storm, url)
        total = sum(storm.recorded.values())
        scraper.check(total - lost, MAY_REFUSE)
        watch.check()
        for live in storm.living.values():
            live.send("sys.exit(0)")
        for live in storm.living.values():
            assert live.end() == 0, live.errors
        assert storm.errors == []
    assert list(top.iterdir()) == []
    print(  # noqa: T201, figures of a long run
        f"{PROCESSES} processes, {SECONDS:g} s: {total} calls, {len(storm.killed)} killed, "
        f"{len(storm.ended)} ended, {lost:g} calls of the killed missing; {watch}; longest time "
        f"without an answer {scraper.longest_gap:.1f} s"
    )
