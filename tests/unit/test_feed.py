"""The queue and the thread before whoever takes events."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from _waiting import PATIENCE, eventually, soon

from genmeter.recorders import feed as module
from genmeter.recorders.feed import Feed, Loss

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

    def feed(self, **options: Any) -> Feed[Any]:
        """Make a feed of this taker's."""
        return Feed(self.take, name="a-feed", on_loss=self.lose, on_end=self.end, **options)


@pytest.fixture
def taker() -> Iterator[Taker]:
    """Give a taker, whose gate is open after the test."""
    made = Taker()
    yield made
    made.gate.set()


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let no feed start a thread; gives what allows it again."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module._FeedThread, "start", refuse)
    return monkeypatch.undo


def test_items_arrive_in_order_on_a_thread_of_the_feeds_own(taker: Taker) -> None:
    """What is put arrives once, in order, in batches of at most the size that was asked for."""
    feed = taker.feed(batch=7)
    assert feed._thread is None
    for number in range(1_000):
        feed.put(number)
    assert feed.wait_until_delivered(soon())
    assert feed.is_idle
    assert taker.items == list(range(1_000))
    assert max(map(len, taker.batches)) <= 7
    assert taker.threads == {"a-feed"}
    assert not taker.losses


def test_what_no_room_is_left_for_is_counted(taker: Taker) -> None:
    """While the taker blocks, a put neither waits nor raises; past the capacity it is a loss."""
    taker.gate.clear()
    feed = taker.feed(capacity=10, batch=1)
    feed.put(-1)
    assert eventually(lambda: taker.batches)
    for number in range(15):
        feed.put(number)
    assert taker.losses == [(Loss.QUEUE_FULL, 1, None)] * 5
    assert "10 waiting" in repr(feed)
    assert not feed.is_idle
    taker.gate.set()
    assert feed.wait_until_delivered(soon())
    assert taker.items == [-1, *range(10)]


@pytest.mark.parametrize("error", [ValueError(), SystemExit(1), KeyboardInterrupt()])
def test_a_taker_that_raises_goes_on(taker: Taker, error: BaseException) -> None:
    """Whatever it raises costs its own batch, is told, and ends nothing."""
    taker.error = error
    feed = taker.feed(batch=2)
    for number in range(6):
        feed.put(number)
    assert feed.wait_until_delivered(soon())
    assert taker.items == list(range(6))
    assert sum(count for _, count, _ in taker.losses) == 6
    assert {(loss, told) for loss, _, told in taker.losses} == {(Loss.RAISED, error)}


def test_waiting_ends_at_the_deadline(taker: Taker) -> None:
    """A taker that blocks holds up nobody for longer than that."""
    taker.gate.clear()
    feed = taker.feed()
    feed.put(1)
    assert not feed.wait_until_delivered(time.monotonic() + 0.01)
    taker.gate.set()
    assert feed.wait_until_delivered(soon())


def test_a_feeds_thread_waits_for_no_feed() -> None:
    """Two takers that each wait for both feeds, and end their own, do not hold each other up."""
    found: list[bool] = []
    lost: list[Loss] = []
    feeds: list[Feed[int]] = []

    def take(batch: Sequence[int]) -> None:
        found.extend(feed.wait_until_delivered(soon()) for feed in feeds)
        feeds[batch[0]].close()
        assert feeds[batch[0]].join(soon()) == 0

    def lose(loss: Loss, _count: int, _error: BaseException | None = None) -> None:
        lost.append(loss)

    feeds += [Feed(take, name="a-feed", on_loss=lose) for _ in range(2)]
    for number, feed in enumerate(feeds):
        feed.put(number)
    assert eventually(lambda: not any(feed._is_running for feed in feeds))
    assert found == [True] * 4
    assert not lost


def test_a_closed_feed_ends_after_what_waits(taker: Taker) -> None:
    """Nothing that was put before is lost, the taker is told of the end, and the thread is gone."""
    taker.gate.clear()
    feed = taker.feed(batch=1)
    for number in range(50):
        feed.put(number)
    feed.close()
    taker.gate.set()
    assert feed.join(soon()) == 0
    assert taker.items == list(range(50))
    assert taker.ended == 1
    assert not feed._is_running
    assert feed.join(soon()) == 0


def test_what_is_left_at_the_deadline_is_dropped(taker: Taker) -> None:
    """``join`` tells how many items, the one under way too; none of the others arrives later."""
    taker.gate.clear()
    feed = taker.feed(batch=1)
    for number in range(5):
        feed.put(number)
    assert eventually(lambda: taker.batches)
    feed.close()
    assert feed.join(time.monotonic()) == 5
    feed.put(6)
    assert taker.losses == [(Loss.UNFINISHED, 1, None)]
    taker.gate.set()
    assert eventually(lambda: not feed._is_running)
    assert taker.items == [0]


def test_what_is_put_after_the_thread_ended_arrives_with_join(taker: Taker) -> None:
    """Between ``close`` and ``join`` a last collection may drain some more."""
    feed = taker.feed()
    feed.put(1)
    feed.close()
    assert eventually(lambda: not feed._is_running)
    feed.put(2)
    assert feed.join(soon()) == 0
    assert taker.items == [1, 2]
    assert taker.ended == 2


def test_a_feed_that_was_put_nothing_has_no_thread_to_wait_for(taker: Taker) -> None:
    """Nothing happens at its end."""
    feed = taker.feed()
    feed.close()
    assert feed.join(time.monotonic()) == 0
    assert feed._thread is None


def test_an_end_that_fails_is_told(taker: Taker) -> None:
    """A file that cannot be closed may have lost what it was given."""
    error = OSError("no space")

    def fail() -> None:
        raise error

    feed = Feed(taker.take, name="a-feed", on_loss=taker.lose, on_end=fail)
    feed.put(1)
    feed.close()
    assert feed.join(soon()) == 0
    assert taker.losses == [(Loss.RAISED, 1, error)]


def test_without_a_thread_whoever_waits_delivers(
    taker: Taker, no_threads: Callable[[], None]
) -> None:
    """At the end of the interpreter no thread can be started, and nothing is lost all the same."""
    assert no_threads
    feed = taker.feed(batch=2)
    for number in range(5):
        feed.put(number)
    assert not taker.batches
    assert feed.wait_until_delivered(soon())
    assert taker.items == list(range(5))
    feed.put(5)
    feed.close()
    assert feed.join(soon()) == 0
    assert taker.items == list(range(6))
    assert taker.threads == {threading.current_thread().name}
    assert taker.ended == 1


def test_a_thread_is_asked_for_again_later(
    taker: Taker, no_threads: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system had none for a while, the feed gets one as soon as there are some."""
    feed = taker.feed()
    feed.put(1)
    feed.put(2)
    no_threads()
    monkeypatch.setattr(feed, "_retry_at", 0.0)
    feed.put(3)
    assert eventually(lambda: taker.items == [1, 2, 3])
    assert taker.threads == {"a-feed"}


def test_an_interrupt_passes_where_the_main_thread_delivers(
    taker: Taker, no_threads: Callable[[], None]
) -> None:
    """The user's own Ctrl-C ends the wait; its batch counts as lost, the rest waits on."""
    assert no_threads
    taker.error = KeyboardInterrupt()
    feed = taker.feed(batch=1)
    feed.put(1)
    feed.put(2)
    with pytest.raises(KeyboardInterrupt):
        feed.wait_until_delivered(soon())
    taker.error = None
    feed.close()
    assert feed.join(soon()) == 0
    assert taker.items == [1, 2]


def test_two_that_deliver_keep_the_order(taker: Taker, no_threads: Callable[[], None]) -> None:
    """Where several threads wait for a feed without a thread, only one at a time delivers."""
    assert no_threads
    taker.gate.clear()
    feed = taker.feed(batch=1)
    for number in range(20):
        feed.put(number)
    waiting = [threading.Thread(target=feed.wait_until_delivered, args=[soon()]) for _ in range(4)]
    for thread in waiting:
        thread.start()
    assert eventually(lambda: taker.batches)
    assert not feed.wait_until_delivered(time.monotonic() + 0.01)
    assert taker.items == [0]
    taker.gate.set()
    for thread in waiting:
        thread.join(PATIENCE)
    assert taker.items == list(range(20))


def test_a_reset_feed_begins_anew(taker: Taker, no_threads: Callable[[], None]) -> None:
    """What waited in the parent is not delivered in a forked child, and the feed works there."""
    feed = taker.feed()
    feed.put("old")
    feed.close()
    no_threads()
    feed.reset()
    assert feed.is_idle
    feed.put("new")
    assert feed.wait_until_delivered(soon())
    assert taker.items == ["new"]
    assert not taker.losses
