"""A worker: its queue, its thread, its ticks and its end."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from _waiting import PATIENCE, eventually, soon
from genmeter.pipeline import worker as module
from genmeter.pipeline.worker import Loss, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class Taker:
    """Takes batches; it blocks while its gate is shut and raises what it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.threads: set[str] = set()
        self.losses: list[tuple[Loss, int, BaseException | None]] = []
        self.ended = 0
        self.gate = threading.Event()
        self.gate.set()
        self.error: BaseException | None = None

    @property
    def items(self) -> list[Any]:
        """All that was taken, in order."""
        return [item for batch in self.batches for item in batch]

    def take(self, batch: Sequence[Any]) -> None:
        """Take a batch."""
        self.threads.add(threading.current_thread().name)
        self.batches.append(list(batch))
        self.gate.wait(PATIENCE)
        if self.error is not None:
            raise self.error

    def lose(self, loss: Loss, count: int, error: BaseException | None = None) -> None:
        """Note a loss."""
        self.losses.append((loss, count, error))

    def end(self) -> None:
        """Count an end."""
        self.ended += 1

    def worker(self, **options: Any) -> Worker[Any]:
        """Make a worker of this taker's."""
        return Worker(self.take, name="a-worker", on_loss=self.lose, on_end=self.end, **options)


@pytest.fixture
def taker() -> Iterator[Taker]:
    """Give a taker, whose gate is open after the test."""
    made = Taker()
    yield made
    made.gate.set()


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let no worker start a thread; gives what allows it again."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module._WorkerThread, "start", refuse)
    return monkeypatch.undo


def test_items_arrive_in_order_on_the_workers_own_thread(taker: Taker) -> None:
    """What is put arrives once, in order, in batches of at most the size that was asked for."""
    worker = taker.worker(batch=7)
    assert worker._shared.thread is None
    for number in range(1_000):
        worker.put(number)
    assert worker.wait_until_delivered(soon())
    assert worker.is_idle
    assert taker.items == list(range(1_000))
    assert max(map(len, taker.batches)) <= 7
    assert taker.threads == {"a-worker"}
    assert not taker.losses


def test_full_queue_drops_and_counts_items(taker: Taker) -> None:
    """While the taker blocks, a put neither waits nor raises; past the capacity it is a loss."""
    taker.gate.clear()
    worker = taker.worker(capacity=10, batch=1)
    worker.put(-1)
    assert eventually(lambda: taker.batches)
    for number in range(15):
        worker.put(number)
    assert taker.losses == [(Loss.QUEUE_FULL, 1, None)] * 5
    assert "10 queued" in repr(worker)
    assert not worker.is_idle
    taker.gate.set()
    assert worker.wait_until_delivered(soon())
    assert taker.items == [-1, *range(10)]


@pytest.mark.parametrize("error", [ValueError(), SystemExit(1), KeyboardInterrupt()])
def test_delivery_goes_on_after_an_error(taker: Taker, error: BaseException) -> None:
    """Whatever it raises costs its own batch, is told, and ends nothing."""
    taker.error = error
    worker = taker.worker(batch=2)
    for number in range(6):
        worker.put(number)
    assert worker.wait_until_delivered(soon())
    assert taker.items == list(range(6))
    assert sum(count for _, count, _ in taker.losses) == 6
    assert {(loss, told) for loss, _, told in taker.losses} == {(Loss.RAISED, error)}


def test_waiting_ends_at_the_deadline(taker: Taker) -> None:
    """A taker that blocks holds up nobody for longer than that."""
    taker.gate.clear()
    worker = taker.worker()
    worker.put(1)
    assert not worker.wait_until_delivered(time.monotonic() + 0.01)
    taker.gate.set()
    assert worker.wait_until_delivered(soon())


def test_worker_thread_never_waits_for_a_worker() -> None:
    """Two takers that each wait for both workers, and end their own, do not hold each other up."""
    found: list[bool] = []
    lost: list[Loss] = []
    workers: list[Worker[int]] = []

    def take(batch: Sequence[int]) -> None:
        found.extend(worker.wait_until_delivered(soon()) for worker in workers)
        workers[batch[0]].close()
        assert workers[batch[0]].join(soon()) == 0

    def lose(loss: Loss, _count: int, _error: BaseException | None = None) -> None:
        lost.append(loss)

    workers += [Worker(take, name="a-worker", on_loss=lose) for _ in range(2)]
    for number, worker in enumerate(workers):
        worker.put(number)
    assert eventually(lambda: not any(worker.is_running for worker in workers))
    assert found == [True] * 4
    assert not lost


def test_closed_worker_ends_after_its_queue(taker: Taker) -> None:
    """Nothing that was put before is lost, the taker is told of the end, and the thread is gone."""
    taker.gate.clear()
    worker = taker.worker(batch=1)
    for number in range(50):
        worker.put(number)
    worker.close()
    taker.gate.set()
    assert worker.join(soon()) == 0
    assert taker.items == list(range(50))
    assert taker.ended == 1
    assert not worker.is_running
    assert worker.join(soon()) == 0


def test_join_drops_items_left_at_the_deadline(taker: Taker) -> None:
    """``join`` tells how many items, the one under way too; none of the others arrives later."""
    taker.gate.clear()
    worker = taker.worker(batch=1)
    for number in range(5):
        worker.put(number)
    assert eventually(lambda: taker.batches)
    worker.close()
    assert worker.join(time.monotonic()) == 5
    worker.put(6)
    assert taker.losses == [(Loss.UNFINISHED, 1, None)]
    taker.gate.set()
    assert eventually(lambda: not worker.is_running)
    assert taker.items == [0]


def test_join_delivers_items_put_after_the_thread_ended(taker: Taker) -> None:
    """Between ``close`` and ``join`` a last collection may drain some more."""
    worker = taker.worker()
    worker.put(1)
    worker.close()
    assert eventually(lambda: not worker.is_running)
    worker.put(2)
    assert worker.join(soon()) == 0
    assert taker.items == [1, 2]
    assert taker.ended == 2


def test_unused_worker_has_no_thread(taker: Taker) -> None:
    """Nothing happens at its end."""
    worker = taker.worker()
    worker.close()
    assert worker.join(time.monotonic()) == 0
    assert worker._shared.thread is None


def test_error_at_the_end_is_counted(taker: Taker) -> None:
    """A file that cannot be closed may have lost what it was given."""
    error = OSError("no space")

    def fail() -> None:
        raise error

    worker = Worker(taker.take, name="a-worker", on_loss=taker.lose, on_end=fail)
    worker.put(1)
    worker.close()
    assert worker.join(soon()) == 0
    assert taker.losses == [(Loss.RAISED, 1, error)]


def test_waiting_thread_delivers_where_none_can_be_started(
    taker: Taker, no_threads: Callable[[], None]
) -> None:
    """At the end of the interpreter no thread can be started, and nothing is lost all the same."""
    assert no_threads
    worker = taker.worker(batch=2)
    for number in range(5):
        worker.put(number)
    assert not taker.batches
    assert worker.wait_until_delivered(soon())
    assert taker.items == list(range(5))
    worker.put(5)
    worker.close()
    assert worker.join(soon()) == 0
    assert taker.items == list(range(6))
    assert taker.threads == {threading.current_thread().name}
    assert taker.ended == 1


def test_start_of_a_thread_is_retried(
    taker: Taker, no_threads: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system had none for a while, the worker gets one as soon as there are some."""
    worker = taker.worker()
    worker.put(1)
    worker.put(2)
    no_threads()
    monkeypatch.setattr(worker, "_retry_at", 0.0)
    worker.put(3)
    assert eventually(lambda: taker.items == [1, 2, 3])
    assert taker.threads == {"a-worker"}


def test_an_interrupt_passes_where_the_main_thread_delivers(
    taker: Taker, no_threads: Callable[[], None]
) -> None:
    """The user's own Ctrl-C ends the wait; its batch counts as lost, the rest waits on."""
    assert no_threads
    taker.error = KeyboardInterrupt()
    worker = taker.worker(batch=1)
    worker.put(1)
    worker.put(2)
    with pytest.raises(KeyboardInterrupt):
        worker.wait_until_delivered(soon())
    taker.error = None
    worker.close()
    assert worker.join(soon()) == 0
    assert taker.items == [1, 2]


def test_two_delivering_threads_keep_the_order(
    taker: Taker, no_threads: Callable[[], None]
) -> None:
    """Where several threads wait for a worker without a thread, only one at a time delivers."""
    assert no_threads
    taker.gate.clear()
    worker = taker.worker(batch=1)
    for number in range(20):
        worker.put(number)
    waiting = [
        threading.Thread(target=worker.wait_until_delivered, args=[soon()]) for _ in range(4)
    ]
    for thread in waiting:
        thread.start()
    assert eventually(lambda: taker.batches)
    assert not worker.wait_until_delivered(time.monotonic() + 0.01)
    assert taker.items == [0]
    taker.gate.set()
    for thread in waiting:
        thread.join(PATIENCE)
    assert taker.items == list(range(20))


def test_reset_worker_starts_anew(taker: Taker, no_threads: Callable[[], None]) -> None:
    """What waited in the parent is not delivered in a forked child, and the worker works there."""
    worker = taker.worker()
    worker.put("old")
    worker.close()
    no_threads()
    worker.reset()
    assert worker.is_idle
    worker.put("new")
    assert worker.wait_until_delivered(soon())
    assert taker.items == ["new"]
    assert not taker.losses


# --- ticks -----------------------------------------------------------------------------------------


def test_a_tick_comes_every_interval_until_the_end(taker: Taker) -> None:
    """Periodic work goes on beside the items, and none of it comes after the end."""
    ticks: list[str] = []
    worker = taker.worker(
        tick=lambda: ticks.append(threading.current_thread().name), interval=0.001
    )
    worker.start()
    assert eventually(lambda: len(ticks) >= 3)
    worker.put(1)
    assert worker.wait_until_delivered(soon())
    worker.close()
    assert worker.join(soon()) == 0
    count = len(ticks)
    assert set(ticks) == {"a-worker"}
    assert taker.ended == 1
    time.sleep(0.01)
    assert len(ticks) == count


def test_a_tick_comes_when_a_delivery_asks_for_it(taker: Taker) -> None:
    """The earliest time that was asked for holds, and each request is answered once."""
    ticks: list[int] = []

    def take(batch: Sequence[float]) -> None:
        for seconds in batch:
            worker.tick_in(seconds)

    worker: Worker[float] = Worker(take, name="a-worker", tick=lambda: ticks.append(1))
    for seconds in (PATIENCE, 0.0, 2 * PATIENCE):
        worker.put(seconds)
    assert eventually(lambda: ticks)
    worker.put(0.0)
    assert eventually(lambda: len(ticks) == 2)
    worker.close()
    assert worker.join(soon()) == 0
    assert len(ticks) == 2


# --- the end and beyond ----------------------------------------------------------------------------


def test_nothing_is_delivered_after_join(taker: Taker) -> None:
    """An item that slips into the queue at that very moment is dropped by the thread."""
    taker.gate.clear()
    worker = taker.worker(batch=1)
    worker.put(0)
    assert eventually(lambda: taker.batches)
    worker.close()
    assert worker.join(time.monotonic()) == 1
    worker._queue.append(1)  # as a put does that looked before the end came
    taker.gate.set()
    assert eventually(lambda: not worker.is_running)
    assert taker.items == [0]
    assert not worker.waiting


def test_waiting_ends_with_the_worker(taker: Taker, no_threads: Callable[[], None]) -> None:
    """A flush after the end returns at once and says that not all was delivered."""
    assert no_threads
    worker = taker.worker()
    worker.put(1)
    worker.close()
    assert worker.join(time.monotonic() - 1) == 1
    assert worker.is_idle
    begin = time.monotonic()
    assert not worker.wait_until_delivered(soon())
    assert time.monotonic() - begin < PATIENCE / 2


def test_a_worker_is_idle_only_after_its_batch(taker: Taker) -> None:
    """A batch under way counts, whoever put it."""
    taker.gate.clear()
    worker = taker.worker()
    assert worker.is_idle
    worker.put(1)
    assert eventually(lambda: taker.batches)
    assert not worker.waiting
    assert not worker.is_idle
    taker.gate.set()
    assert eventually(lambda: worker.is_idle)


def test_a_start_that_an_interrupt_cut_short_is_made_again(
    taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler that raises inside the start leaves no worker that only seems to run."""
    start = module._WorkerThread.start

    def interrupt(_: threading.Thread) -> None:
        monkeypatch.setattr(module._WorkerThread, "start", start)
        raise KeyboardInterrupt

    monkeypatch.setattr(module._WorkerThread, "start", interrupt)
    worker = taker.worker()
    with pytest.raises(KeyboardInterrupt):
        worker.put(1)
    assert not worker.is_running
    worker.put(2)
    assert eventually(lambda: taker.items == [1, 2])


def test_reset_calls_on_reset(taker: Taker) -> None:
    """State beside the queue begins anew with it, in a forked child."""
    resets: list[bool] = []
    worker = taker.worker(on_reset=lambda: resets.append(worker.is_idle))
    assert not resets
    worker.reset()
    assert resets == [True]


# --- workers that nobody holds -------------------------------------------------------------------


class Served:
    """Something that a worker serves, and that refers to its worker, as a session does."""

    def __init__(self, **options: Any) -> None:
        self.items: list[Any] = []
        self.gate = threading.Event()
        self.gate.set()
        self.worker: Worker[Any] = Worker(self.take, name="a-worker", tick=self.tick, **options)

    def take(self, batch: Sequence[Any]) -> None:
        """Take a batch."""
        self.gate.wait(PATIENCE)
        self.items.extend(batch)

    def tick(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("interval", [None, 3_600.0])
def test_an_idle_worker_that_nobody_holds_is_collected_and_its_thread_ends(
    interval: float | None,
) -> None:
    """Neither it nor what it serves is kept by its thread, however long that rests."""
    served = Served(interval=interval)
    served.worker.put(1)
    assert served.worker.wait_until_delivered(soon())
    thread = served.worker._shared.thread
    assert thread is not None
    gone = weakref.ref(served)
    del served
    assert eventually(lambda: gc.collect() >= 0 and gone() is None)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_worker_that_delivers_is_kept_until_it_has_delivered() -> None:
    """What waits behind a batch under way is delivered, though nobody holds the worker."""
    served = Served(batch=1)
    items, gate, queue = served.items, served.gate, served.worker._queue
    gate.clear()
    for number in range(10):
        served.worker.put(number)
    assert eventually(lambda: len(queue) < 10)
    del served
    gc.collect()
    gate.set()
    assert eventually(lambda: items == list(range(10)))


def test_an_item_or_an_end_is_not_lost_with_who_held_the_worker(taker: Taker) -> None:
    """A handler that is dropped the moment after it was closed still closes its file."""
    for number in range(200):
        worker = taker.worker()
        worker.put(number)
        if number % 2:
            assert worker.wait_until_delivered(soon())
            worker.close()
        del worker
    assert eventually(lambda: len(taker.items) == 200)
    assert sorted(taker.items) == list(range(200))
    assert eventually(lambda: taker.ended == 100)


def test_a_worker_that_comes_back_to_life_delivers_what_waits() -> None:
    """A finalizer may bring a worker back whose thread has ended; joining it loses nothing."""
    kept: list[Served] = []

    class Reviving(Served):
        def __del__(self) -> None:
            kept.append(self)

    served = Reviving()
    served.worker.put(1)
    assert served.worker.wait_until_delivered(soon())
    thread = served.worker._shared.thread
    assert thread is not None
    del served
    assert eventually(lambda: gc.collect() >= 0 and kept)
    (back,) = kept
    back.worker.put(2)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    back.worker.put(3)
    back.worker.close()
    assert back.worker.join(soon()) == 0
    assert back.items == [1, 2, 3]


# --- the end, ticks and forks -------------------------------------------------------------------


def test_items_that_are_put_just_before_the_close_are_delivered(taker: Taker) -> None:
    """Whatever the thread is doing then, it looks at the queue once more before it ends."""
    workers = []
    for number in range(300):
        worker = taker.worker()
        if number % 2:
            worker.start()
        worker.put(number)
        worker.close()
        workers.append(worker)
    assert eventually(lambda: not any(worker.is_running for worker in workers))
    assert sorted(taker.items) == list(range(300))
    assert taker.ended == 300


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt()])
def test_a_tick_that_raises_is_called_again(taker: Taker, error: BaseException) -> None:
    """Whatever it raises is reported each time, and items are delivered in between."""
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(len(ticks))
        raise error

    worker = taker.worker(tick=tick, interval=0.001)
    assert worker.start()
    assert eventually(lambda: len(ticks) >= 3)
    worker.put("item")
    assert worker.wait_until_delivered(soon())
    worker.close()
    assert worker.join(soon()) == 0
    assert taker.items == ["item"]
    assert set(taker.losses) == {(Loss.RAISED, 1, error)}
    assert len(taker.losses) == len(ticks)
    assert taker.ended == 1


def test_a_worker_that_ticks_ends_with_its_end_though_it_had_no_item(
    taker: Taker, no_threads: Callable[[], None]
) -> None:
    """A periodic reporter reports a last time, also where it never got a thread."""
    assert no_threads
    worker = taker.worker(interval=3_600.0)
    assert not worker.start()
    worker.close()
    assert worker.join(soon()) == 0
    assert taker.ended == 1


def test_a_closed_worker_is_not_started(taker: Taker) -> None:
    """A start that comes late, as after a shutdown, starts nothing."""
    worker = taker.worker()
    worker.close()
    assert worker.is_closing
    assert not worker.start()
    assert worker._shared.thread is None


def test_a_long_rest_is_cut_short_by_an_item(taker: Taker) -> None:
    """A worker that ticks once an hour delivers at once."""
    worker = taker.worker(interval=3_600.0)
    worker.start()
    worker.put(1)
    assert worker.wait_until_delivered(soon())
    assert taker.items == [1]


def test_the_thread_of_a_worker_that_was_reset_ends_and_delivers_nothing(taker: Taker) -> None:
    """Where a fork keeps the parent's greenlets alive, the parent's items are not delivered twice."""
    taker.gate.clear()
    worker = taker.worker(batch=1)
    worker.put("under way")
    assert eventually(lambda: taker.batches)
    worker.put("the parent's")
    before = worker._shared.thread
    assert before is not None
    worker.reset()
    assert worker.is_idle
    assert not worker.is_running
    taker.gate.set()
    before.join(PATIENCE)
    assert not before.is_alive()
    assert (worker._accepted, worker._done) == (0, 0)
    worker.put("the child's")
    assert worker.wait_until_delivered(soon())
    assert taker.items == ["under way", "the child's"]
    assert not taker.losses


def test_a_reset_worker_ticks_once_it_is_started_again(taker: Taker) -> None:
    """A child's timer starts with the child's first event, and counts from there."""
    ticked = threading.Event()
    worker = taker.worker(tick=ticked.set, interval=0.01)
    worker.start()
    assert ticked.wait(PATIENCE)
    worker.reset()
    ticked.clear()
    assert not worker.is_running
    assert worker.start()
    assert ticked.wait(PATIENCE)
    worker.close()
    assert worker.join(soon()) == 0


def test_a_worker_without_a_place_for_losses_ignores_them() -> None:
    """Its items and its losses may both be nobody's business."""
    worker: Worker[int] = Worker(name="a-worker", capacity=1)
    assert worker.put(1)
    assert worker.wait_until_delivered(soon())
    worker.close()
    assert worker.join(soon()) == 0
    assert not worker.put(2)
