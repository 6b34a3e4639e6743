"""The loads of `peers.py`: threads that wait between calls, and tasks that begin at given times."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import cycle, islice
from threading import Barrier, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _events import Event
    from _peers_recorders import Peer

__all__ = ["BURST", "LOADS", "Load", "Taken", "bursts", "run_load"]

BURST = 200
PAUSE = 0.001  # seconds that a thread waits between calls


@dataclass(frozen=True)
class Load:
    """A load.

    Attributes:
        title: What a table calls it.
        calls: Calls of a round.
        threads: Number of threads that make them; 0 for tasks of asyncio.
        rate: Calls a second, of asyncio.
        is_traffic: Whether models, tokens and times are those of the trace.
    """

    title: str
    calls: int
    threads: int = 0
    rate: float = 0.0
    is_traffic: bool = False


LOADS: dict[str, Load] = {
    "threads-1": Load("1 thread", 1_500, threads=1),
    "threads-4": Load("4 threads", 2_000, threads=4),
    "threads-16": Load("16 threads", 3_200, threads=16),
    "asyncio-100": Load("asyncio, 100 calls a second", 250, rate=100),
    "asyncio-1000": Load("asyncio, 1,000 calls a second", 1_500, rate=1_000),
    "asyncio-10000": Load("asyncio, 10,000 calls a second", 10_000, rate=10_000),
    "traffic": Load(
        "asyncio, the trace at 1,000 calls a second", 2_000, rate=1_000, is_traffic=True
    ),
}


@dataclass
class Taken:
    """What a round took.

    Attributes:
        nanoseconds: The caller's time of each call.
        cpu: Seconds of the whole process for one call, until all can be read.
        rate: Calls a second that were made.
    """

    nanoseconds: list[int]
    cpu: float
    rate: float


def run_load(peer: Peer, load: Load, generations: Sequence[Event], times: Sequence[float]) -> Taken:
    """Make the calls of a round.

    Args:
        peer: The subject.
        load: The load.
        generations: What is recorded; repeated if there are fewer than calls.
        times: When each call begins, in seconds; only used by a load of traffic.
    """
    peer.settle()
    chosen = list(islice(cycle(generations), load.calls))
    used, start = time.process_time(), time.perf_counter()
    if load.threads:
        taken = _threads(peer, chosen, load.threads)
    else:
        if not load.is_traffic:
            times = [number / load.rate for number in range(load.calls)]
        taken = asyncio.run(_tasks(peer, chosen, times[: load.calls]))
    elapsed = time.perf_counter() - start
    peer.settle()
    used = time.process_time() - used
    return Taken(taken, used / len(taken), len(taken) / elapsed)


def bursts(peer: Peer, generations: Sequence[Event]) -> float:
    """Return the seconds of CPU of the whole process for a call, in a burst that is drained."""
    peer.settle()
    chosen = list(islice(cycle(generations), BURST))
    used = time.process_time()
    peer.record(chosen)
    peer.settle()
    return (time.process_time() - used) / BURST


def _threads(peer: Peer, generations: Sequence[Event], threads: int) -> list[int]:
    parts: list[list[int]] = [[] for _ in range(threads)]
    barrier = Barrier(threads)

    def work(number: int) -> None:
        taken, record, clock, wait = parts[number], peer.record, time.perf_counter_ns, time.sleep
        barrier.wait()
        for event in generations[number::threads]:
            one = (event,)
            start = clock()
            record(one)
            taken.append(clock() - start)
            wait(PAUSE)

    workers = [Thread(target=work, args=(number,)) for number in range(threads)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    return [each for part in parts for each in part]


async def _tasks(peer: Peer, generations: Sequence[Event], times: Sequence[float]) -> list[int]:
    taken: list[int] = []
    clock = time.perf_counter_ns

    async def call(event: Event) -> None:
        start = clock()
        await peer.record_one(event)
        taken.append(clock() - start)

    loop = asyncio.get_running_loop()
    tasks = set()
    began = loop.time()
    for event, due in zip(generations, times, strict=False):
        await asyncio.sleep(max(0.0, began + due - loop.time()))
        task = loop.create_task(call(event))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return taken
