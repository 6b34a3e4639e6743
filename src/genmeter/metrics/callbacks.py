"""Callbacks of observable instruments, and the thread that runs those of other libraries.

A callback of another library may hang, raise or take locks. So it runs on a thread of its own, for
which a collection waits a bounded time.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.metrics import CallbackOptions

from genmeter.clock import seconds_left
from genmeter.events.values import UNREADABLE, safe_text
from genmeter.metrics.values import clean_attributes, key_of, read_number
from genmeter.pipeline.worker import Worker, is_worker_thread

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from opentelemetry.util.types import AttributeValue

__all__ = ["CallbackRunner", "Observations", "Observer", "Seen"]

# Only what has no end has more.
_MAX_OBSERVATIONS = 100_000
_LONGEST = 86_400.0


class Seen(NamedTuple):
    """One observation, made safe.

    Attributes:
        key: What tells its label set from others.
        attributes: Its label set.
        value: What was observed.
    """

    key: Hashable
    attributes: dict[str, AttributeValue]
    value: int | float


Observations = list[Seen]


class Observer:
    """The callbacks of one observable instrument.

    Args:
        name: The instrument's name.
        callbacks: What the creator of the instrument passed.
        warn: Called with a key, a message and its arguments; the same key warns only once.
    """

    def __init__(self, name: str, callbacks: Any, warn: Callable[..., None]) -> None:
        self.name = name
        self._warn = warn
        self._callbacks = [_callable(each) for each in self._listed(callbacks)]

    def __len__(self) -> int:
        return len(self._callbacks)

    def observe(self, timeout: float) -> Observations | None:
        """Call the callbacks.

        Args:
            timeout: Seconds, for the callbacks to respect.

        Returns:
            What they observed, without values that are no finite numbers; None where one raised.
        """
        options = CallbackOptions(timeout_millis=timeout * 1_000)
        found: Observations = []
        try:
            for callback in self._callbacks:
                for each in islice(callback(options), _MAX_OBSERVATIONS):
                    self._keep(found, each)
        except BaseException as error:
            if not isinstance(error, UNREADABLE) and not is_worker_thread():
                raise
            self._warn(
                (self, "raised"),
                "a callback of the instrument %r failed (%s: %s); a collection drops the "
                "instrument where that happens; logged once",
                self.name,
                type(error).__name__,
                safe_text(error),
            )
            return None
        return found

    def _listed(self, callbacks: Any) -> list[Any]:
        if callbacks is None:
            return []
        if callable(callbacks) or issubclass(type(callbacks), Generator):
            return [callbacks]
        try:
            return list(islice(callbacks, _MAX_OBSERVATIONS))
        except UNREADABLE:
            self._warn(
                (self, "callbacks"),
                "callbacks of the instrument %r must be a sequence of callables, got %s; the "
                "instrument observes nothing",
                self.name,
                type(callbacks).__name__,
            )
            return []

    def _keep(self, found: Observations, observation: Any) -> None:
        value = read_number(observation.value)
        if value is None:
            self._warn(
                (self, "value"),
                "a callback of the instrument %r observed a value that is not a finite number in "
                "range; dropped, logged once",
                self.name,
            )
            return
        attributes = clean_attributes(observation.attributes, self._on_invalid)
        found.append(Seen(key_of(attributes), attributes, value))

    def _on_invalid(self) -> None:
        self._warn(
            (self, "attributes"),
            "a callback of the instrument %r observed invalid attributes; they are converted to "
            "text or dropped, logged once",
            self.name,
        )


def _callable(callback: Any) -> Callable[[CallbackOptions], Iterable[Any]]:
    """Return a generator object as a callback; whatever it runs, it runs in a collection."""
    if not issubclass(type(callback), Generator):  # an object may lie about its class
        function: Callable[[CallbackOptions], Iterable[Any]] = callback
        return function
    is_started = False

    def send(options: CallbackOptions) -> Iterable[Any]:
        nonlocal is_started
        try:
            if not is_started:
                is_started = True
                next(callback)
            observed: Iterable[Any] = callback.send(options)
        except StopIteration:
            return ()
        return observed

    return send


class _Call(NamedTuple):
    """An observer to run: by the worker, unless the call is cancelled before."""

    observer: Observer
    deadline: float
    future: Future[Observations | None]


def _run(calls: Sequence[_Call]) -> None:
    for observer, deadline, future in calls:
        if future.set_running_or_notify_cancel():
            future.set_result(observer.observe(seconds_left(deadline)))


class CallbackRunner:
    """Runs observers on a daemon thread, and goes on without those that hang.

    Args:
        warn: Called with a key, a message and its arguments; the same key warns only once.
    """

    def __init__(self, warn: Callable[..., None]) -> None:
        self._warn = warn
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Forget, in a forked child, the parent's threads."""
        self._turn = threading.Lock()
        self._worker = _new_worker()
        self._hanging: list[_Call] = []

    def start(self) -> None:
        """Start the thread early: at the interpreter's end none can be started."""
        self._worker.start()

    def close(self) -> None:
        """Let the thread end."""
        self._worker.close()

    def observe(
        self, observers: Sequence[Observer], timeout: float
    ) -> dict[Observer, Observations]:
        """Run the observers that do not hang already, and wait for them.

        An observer that takes half of the time that is left is abandoned: it costs no more, and
        it runs again once it has returned. Collections take turns.

        Args:
            observers: Whose callbacks to call, in this order.
            timeout: Seconds to wait at most.

        Returns:
            What each has observed that neither raised nor hung.
        """
        timeout = min(max(0.0, timeout), _LONGEST)
        deadline = time.monotonic() + timeout
        found: dict[Observer, Observations] = {}
        turn = self._turn
        if not turn.acquire(timeout=timeout):
            return found
        try:
            self._hanging = [call for call in self._hanging if not call.future.done()]
            hanging = {call.observer for call in self._hanging}
            left = [each for each in observers if each not in hanging]
            while left and time.monotonic() < deadline:
                if not self._worker.start():  # the interpreter ends and starts no thread
                    self._warn("no thread", "callbacks are not called: no thread can be started")
                    break
                left = self._round(left, deadline, found)
        finally:
            turn.release()
        return found

    def _round(
        self, observers: list[Observer], deadline: float, found: dict[Observer, Observations]
    ) -> list[Observer]:
        """Run observers until all have returned or one hangs; return those to go on with."""
        calls = [_Call(observer, deadline, Future()) for observer in observers]
        try:
            for call in calls:
                self._worker.put(call)
            with contextlib.suppress(TimeoutError):
                for call in calls:
                    call.future.result(seconds_left(deadline) / 2)
        finally:  # also where a signal handler raised
            # The last one first, so that the worker begins none meanwhile that waits behind others.
            left = [call.observer for call in reversed(calls) if call.future.cancel()]
            hanging = [call for call in calls if call.future.running()]
            if left or hanging:
                self._worker.close()
                self._worker = _new_worker()
            for call in hanging:
                self._abandon(call)
        for call in calls:
            if call.future.done() and not call.future.cancelled():
                observed = call.future.result()
                if observed is not None:
                    found[call.observer] = observed
        return left[::-1]

    def _abandon(self, call: _Call) -> None:
        self._hanging.append(call)
        self._warn(
            (call.observer, "hung"),
            "a callback of the instrument %r did not return in time; collections drop the "
            "instrument until it returns; logged once",
            call.observer.name,
        )


def _new_worker() -> Worker[_Call]:
    # One call a batch: a call that is taken from the queue can still be cancelled until it runs.
    return Worker(_run, name="genmeter-callbacks", capacity=sys.maxsize, batch=1)
