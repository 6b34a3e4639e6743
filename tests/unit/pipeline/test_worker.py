"""The worker: its queue, its thread, its ticks and its end."""

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
    """Takes batches; blocks while its gate is shut, and raises its error if it has one."""

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
        """All items taken so far, in order."""
        return [item for batch in self.batches for item in batch]

    def take(self, batch: Sequence[Any]) -> None:
        """Take a batch."""
        self.threads.add(threading.current_thread().name)
        self.batches.append(list(batch))
        self.gate.wait(PATIENCE)
        if self.error is not None:
            raise self.error

    def lose(self, loss: Loss, count: int, error: BaseException | None = None) -> None:
        """Record a loss."""
        self.losses.append((loss, count, error))

    def end(self) -> None:
        """Count an end."""
        self.ended += 1

    def worker(self, **options: Any) -> Worker[Any]:
        """Create a worker for this taker."""
        return Worker(self.take, name="a-worker", on_loss=self.lose, on_end=self.end, **options)


@pytest.fixture
def taker() -> Iterator[Taker]:
    """Return a taker whose gate opens after the test."""
    made = Taker()
    yield made
    made.gate.set()


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Prevent workers from starting threads; return a function that allows it again."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module._WorkerThread, "start", refuse)
    return monkeypatch.undo


def test_items_arrive_in_order_on_the_workers_own_thread(taker: Taker) -> None:
    """Batches have at most the requested size."""
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
    """While the taker blocks, a put neither waits nor raises."""
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
def test_delivery_continues_after_an_error(taker: Taker, error: BaseException) -> None:
    """An error loses its own batch and is reported."""
    taker.error = error
    worker = taker.worker(batch=2)
    for number in range(6):
        worker.put(number)
    assert worker.wait_until_delivered(soon())
    assert taker.items == list(range(6))
    assert sum(count for _, count, _ in taker.losses) == 6
    assert {(loss, cause) for loss, _, cause in taker.losses} == {(Loss.RAISED, error)}


def test_waiting_ends_at_the_deadline(taker: Taker) -> None:
    """A blocking taker delays no thread for longer."""
    taker.gate.clear()
    worker = taker.worker()
    worker.put(1)
    assert not worker.wait_until_delivered(time.monotonic() + 0.01)
    taker.gate.set()
    assert worker.wait_until_delivered(soon())


def test_worker_thread_never_waits_for_a_worker() -> None:
    """Two takers that wait for both workers and end their own do not deadlock."""
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
    """Earlier items are delivered, ``on_end`` is called, and the thread ends."""
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
    """``join`` returns their number, including the current batch; none arrives later."""
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
    """Between ``close`` and ``join`` a last collection may drain more."""
    worker = taker.worker()
    worker.put(1)
    worker.close()
    assert eventually(lambda: not worker.is_running)
    worker.put(2)
    assert worker.join(soon()) == 0
    assert taker.items == [1, 2]
    assert taker.ended == 2


def test_unused_worker_has_no_thread(taker: Taker) -> None:
    """Its end does nothing."""
    worker = taker.worker()
    worker.close()
    assert worker.join(time.monotonic()) == 0
    assert worker._shared.thread is None


def test_error_at_the_end_is_counted(taker: Taker) -> None:
    """A file that cannot be closed may have lost data."""
    error = OSError("no space")

    def fail() -> None:
        raise error

    worker = Worker(taker.take, name="a-worker", on_loss=taker.lose, on_end=fail)
    worker.put(1)
    worker.close()
    assert worker.join(soon()) == 0
    assert taker.losses == [(Loss.RAISED, 1, error)]


def test_waiting_thread_delivers_if_none_can_be_started(
    taker: Taker, no_threads: Callable[[], None]
) -> None:
    """No item is lost at the end of the interpreter."""
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
    """The worker gets a thread as soon as the system has one."""
    worker = taker.worker()
    worker.put(1)
    worker.put(2)
    no_threads()
    monkeypatch.setattr(worker, "_retry_at", 0.0)
    worker.put(3)
    assert eventually(lambda: taker.items == [1, 2, 3])
    assert taker.threads == {"a-worker"}


def test_interrupt_passes_if_the_main_thread_delivers(
    taker: Taker, no_threads: Callable[[], None]
) -> None:
    """Ctrl-C ends the wait; its batch is lost, the rest stays queued."""
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
    """Only one waiting thread at a time delivers."""
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


def test_reset_worker_starts_empty(taker: Taker, no_threads: Callable[[], None]) -> None:
    """A forked child does not deliver the parent's items, and its worker works."""
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


def test_worker_ticks_every_interval_until_the_end(taker: Taker) -> None:
    """Items are delivered in between, and no tick follows the end."""
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


def test_delivery_can_schedule_a_tick(taker: Taker) -> None:
    """The earliest requested time counts, and each request causes one tick."""
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
    """The thread drops an item that is queued at that moment."""
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
    """A flush after the end returns at once and reports undelivered items."""
    assert no_threads
    worker = taker.worker()
    worker.put(1)
    worker.close()
    assert worker.join(time.monotonic() - 1) == 1
    assert worker.is_idle
    begin = time.monotonic()
    assert not worker.wait_until_delivered(soon())
    assert time.monotonic() - begin < PATIENCE / 2


def test_worker_is_idle_only_after_its_batch(taker: Taker) -> None:
    """A batch in delivery counts as busy."""
    taker.gate.clear()
    worker = taker.worker()
    assert worker.is_idle
    worker.put(1)
    assert eventually(lambda: taker.batches)
    assert not worker.waiting
    assert not worker.is_idle
    taker.gate.set()
    assert eventually(lambda: worker.is_idle)


def test_interrupted_start_is_repeated(taker: Taker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may raise inside of the start."""
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
    """Other state is reset with the queue in a forked child."""
    resets: list[bool] = []
    worker = taker.worker(on_reset=lambda: resets.append(worker.is_idle))
    assert not resets
    worker.reset()
    assert resets == [True]


# --- unreferenced workers ------------------------------------------------------------------------


class Served:
    """An object that a worker serves and that refers to its worker, as a session does."""

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
def test_unreferenced_idle_worker_is_collected(
    interval: float | None,
) -> None:
    """Its thread ends, and keeps neither the worker nor its objects."""
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


def test_unreferenced_worker_delivers_its_queue() -> None:
    """Items behind the current batch are delivered too."""
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


def test_unreferenced_worker_keeps_its_last_item_and_end(taker: Taker) -> None:
    """A handler dropped right after its close still closes its file."""
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


def test_worker_revived_by_a_finalizer_delivers_its_queue() -> None:
    """Its thread has ended by then; ``join`` loses nothing."""
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


def test_items_put_just_before_the_close_are_delivered(taker: Taker) -> None:
    """The thread checks the queue once more before it ends."""
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
def test_failing_tick_is_called_again(taker: Taker, error: BaseException) -> None:
    """Each error is reported, and items are delivered in between."""
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


def test_ticking_worker_without_items_calls_its_end(
    taker: Taker, no_threads: Callable[[], None]
) -> None:
    """A periodic reporter reports a last time, even without a thread."""
    assert no_threads
    worker = taker.worker(interval=3_600.0)
    assert not worker.start()
    worker.close()
    assert worker.join(soon()) == 0
    assert taker.ended == 1


def test_closed_worker_is_not_started(taker: Taker) -> None:
    """A start after a shutdown has no effect."""
    worker = taker.worker()
    worker.close()
    assert worker.is_closing
    assert not worker.start()
    assert worker._shared.thread is None


def test_item_wakes_a_resting_thread(taker: Taker) -> None:
    """A worker that ticks once an hour delivers at once."""
    worker = taker.worker(interval=3_600.0)
    worker.start()
    worker.put(1)
    assert worker.wait_until_delivered(soon())
    assert taker.items == [1]


def test_thread_of_a_reset_worker_delivers_nothing(taker: Taker) -> None:
    """With gevent the parent's greenlets go on in a child; its items are not delivered twice."""
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


def test_reset_worker_ticks_after_its_next_start(taker: Taker) -> None:
    """A child's timer starts with its first event."""
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


def test_losses_are_ignored_by_default() -> None:
    """A worker needs neither `deliver` nor `on_loss`."""
    worker: Worker[int] = Worker(name="a-worker", capacity=1)
    assert worker.put(1)
    assert worker.wait_until_delivered(soon())
    worker.close()
    assert worker.join(soon()) == 0
    assert not worker.put(2)
