"""Processes of a job that are killed at random, most of them in the middle of a transaction."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest
from _jobs import environment, folders
from _pages import PER_CALL, Page, Scraper, free_port, sums
from _ranks import Live

from _waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from _battery import Battery

PAUSE = 0.01
"""Seconds between two calls of a process."""
UNPUBLISHED = 3.0
"""Seconds of its work that a killed process may take with it, on a machine that is busy."""

SUICIDE = """
import random
from genmeter.job import _connection, _publisher, store

chance = random.Random({seed})
armed = False


def maybe(function, *, after):
    def wrapper(*args, **kwargs):
        if armed and not after and chance.random() < {share}:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if armed and after and chance.random() < {share}:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapper


for name in ("_next_version", "_write_usage", "_free", "_number_of"):
    setattr(store, name, maybe(getattr(store, name), after=True))
_connection.Block.__exit__ = maybe(_connection.Block.__exit__, after=False)
_publisher.Publisher.publish = maybe(_publisher.Publisher.publish, after=True)

monitor = GenerationMonitor()
budget = monitor.budget(tokens=10**12, scope="job")


def reserve():
    while not stop.is_set():
        try:
            with budget.reserve(tokens=7, timeout=30):
                time.sleep(0.05)
        except genmeter.BudgetError:
            pass


def begin(model):
    global armed
    monitor.flush(30)  # the job does not know one that is killed while it joins
    load(monitor, {pause}, model=model)
    threading.Thread(target=reserve, daemon=True).start()
    armed = True
"""


class Kills:
    """The processes: those of the model ``stays`` are never killed."""

    def __init__(self, folder: Path, env: dict[str, str], random: Random) -> None:
        self.dead: list[Live] = []
        self.mortals: list[Live] = []
        self._folder = folder
        self._env = env
        self._random = random
        self._begun = 0

    def begin(self, share: float) -> Live:
        """Begin a process; ``share`` of its steps in the store kill it."""
        self._begun += 1
        start = SUICIDE.format(seed=self._random.random(), share=share, pause=PAUSE)
        return Live(self._folder, f"p{self._begun}", self._env, start)

    def tend(self, number: int) -> None:
        """Replace the processes that died, up to a number of them, and kill one now and then."""
        for each in list(self.mortals):
            if self._random.random() < 0.05:
                each.kill()
            if each.process.poll() is not None:
                self.mortals.remove(each)
                self.dead.append(each)
        while len(self.mortals) < number:
            live = self.begin(0.02)
            live.do("begin('goes')")
            self.mortals.append(live)

    def end(self) -> None:
        """Kill the rest."""
        for each in self.mortals:
            each.kill()
        self.dead += self.mortals
        self.mortals = []


@pytest.mark.parametrize("processes", [6])
def test_kills_in_transactions_lose_a_second_at_most(
    processes: int, tmp_path: Path, jobs: Path, battery: Battery
) -> None:
    """No counter falls, no call counts twice, the store is whole, and reservations are freed."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    env = environment(
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
        GENMETER_JOB="kills",
    )
    kills = Kills(tmp_path, env, battery.random)
    with contextlib.ExitStack() as stack:
        stays = stack.enter_context(kills.begin(0.0))
        stays.do("begin('stays')")
        assert eventually(lambda: Page(url).sums()[0] > 0)
        with Scraper(url, 0.2) as scraper:
            until = time.monotonic() + battery.amount(short=20, long=600)
            while time.monotonic() < until:
                kills.tend(processes)
                time.sleep(0.1)
            kills.end()
            stays.do("stop.set(); time.sleep(0.3)")
            stays.do("monitor.flush(30)")
            dead = len(kills.dead)
            assert eventually(lambda: Page(url).processes("died") == dead), Page(url).text
            recorded = sum(each.counted for each in kills.dead)
            page = Page(url)
            kept = page.sums(gen_ai_request_model="goes")
            assert kept == sums(kept[0])  # all sums are of the same calls
            # A call may be recorded, and not yet noted by its process, when that is killed.
            assert -dead <= recorded - kept[0] <= dead * UNPUBLISHED / PAUSE
            assert page.sums(gen_ai_request_model="stays") == sums(stays.counted)
            assert page.is_whole
        assert not scraper.falls, scraper.falls
        assert not scraper.vanished, scraper.vanished
        assert not scraper.moved, scraper.moved
        stays.do("budget.has_room()")
        assert eventually(lambda: stays.do("budget.reserved.tokens") == 0)
        # A reservation writes what its process has used, which a kill may keep from the page.
        spent = stays.do("budget.spent.tokens")
        assert page.sums()[1] <= spent <= PER_CALL * (recorded + dead + stays.counted)
        (folder,) = folders(jobs)
        path = folder / "job.sqlite"
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("SELECT COUNT(*) FROM reservation").fetchone() == (0,)
        assert dead >= processes
        for each in kills.dead:
            each.__exit__()
    print(f"{dead} killed, {recorded} calls, {recorded - kept[0]:g} of them missing")  # noqa: T201
