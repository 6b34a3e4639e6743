"""Callbacks of observable instruments, and the thread that runs those of other libraries.

A callback of another library may hang, raise or take locks. It therefore runs on a worker thread,
and a collection waits for it only a bounded time.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from opentelemetry.metrics import CallbackOptions

from genmeter.clock import seconds_left
from genmeter.events.values import UNREADABLE, safe_text
from genmeter.metrics._values import clean_attributes, key_of, read_number
from genmeter.pipeline.worker import Worker, is_worker_thread

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from opentelemetry.util.types import AttributeValue

__all__ = ["CallbackRunner", "Observations", "Observer"]

_MAX_OBSERVATIONS = 100_000  # only an endless generator has more
_MAX_TIMEOUT = 86_400.0


class SafeObservation(NamedTuple):
    """One observation, converted to values that every exporter accepts."""

    key: Hashable  # identity of the label set
    attributes: dict[str, AttributeValue]
    value: int | float


Observations = list[SafeObservation]


class Observer:
    """The callbacks of one observable instrument.

    Args:
        name: The instrument's name.
        callbacks: The argument of the instrument's creator; should be a sequence of callables.
        warn: Called with a key, a message and its arguments; logs once for each key.
    """

    def __init__(self, name: str, callbacks: Any, warn: Callable[..., None]) -> None:
        self.name = name
        self._warn = warn
        self._callbacks = [_as_function(each) for each in self._as_list(callbacks)]

    def __len__(self) -> int:
        return len(self._callbacks)

    def observe(self, timeout: float) -> Observations | None:
        """Call the callbacks.

        Args:
            timeout: Seconds that the callbacks should take at most.

        Returns:
            Their observations, without values that are not finite numbers; None if one raised.
        """
        options = CallbackOptions(timeout_millis=timeout * 1_000)
        found: Observations = []
        try:
            for callback in self._callbacks:
                for each in islice(callback(options), _MAX_OBSERVATIONS):
                    self._append(found, each)
        except BaseException as error:
            if not isinstance(error, UNREADABLE) and not is_worker_thread():
                raise
            self._warn(
                (self, "raised"),
                "a callback of the instrument %r failed (%s: %s); the instrument is missing from "
                "that collection; logged once",
                self.name,
                type(error).__name__,
                safe_text(error),
            )
            return None
        return found

    def _as_list(self, callbacks: Any) -> list[Any]:
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

    def _append(self, found: Observations, observation: Any) -> None:
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
        found.append(SafeObservation(key_of(attributes), attributes, value))

    def _on_invalid(self) -> None:
        self._warn(
            (self, "attributes"),
            "a callback of the instrument %r observed invalid attributes; they are converted to "
            "text or dropped, logged once",
            self.name,
        )


def _as_function(callback: Any) -> Callable[[CallbackOptions], Iterable[Any]]:
    """Wrap a generator object in a function, which starts it at the first collection."""
    if not issubclass(type(callback), Generator):  # an object may lie about its class
        return cast("Callable[[CallbackOptions], Iterable[Any]]", callback)
    is_started = False

    def send(options: CallbackOptions) -> Iterable[Any]:
        nonlocal is_started
        try:
            if not is_started:
                is_started = True
                next(callback)
            return cast("Iterable[Any]", callback.send(options))
        except StopIteration:
            return ()

    return send


class _Call(NamedTuple):
    """An observer for the worker to run, unless the call is cancelled before."""

    observer: Observer
    deadline: float
    future: Future[Observations | None]


def _run(calls: Sequence[_Call]) -> None:
    for observer, deadline, future in calls:
        if future.set_running_or_notify_cancel():
            future.set_result(observer.observe(seconds_left(deadline)))


class CallbackRunner:
    """Runs observers on a daemon thread, and skips those that hang.

    Args:
        warn: Called with a key, a message and its arguments; logs once for each key.
    """

    def __init__(self, warn: Callable[..., None]) -> None:
        self._warn = warn
        self.reset_after_fork()

    def reset_after_fork(self) -> None:
        """Reset in a forked child, where the parent's threads do not exist."""
        self._collecting = threading.Lock()
        self._worker = _new_worker()
        self._hanging: list[_Call] = []

    def start(self) -> None:
        """Start the thread early: none can be started while the interpreter ends."""
        self._worker.start()

    def close(self) -> None:
        """Stop the thread."""
        self._worker.close()

    def observe(
        self, observers: Sequence[Observer], timeout: float
    ) -> dict[Observer, Observations]:
        """Run the observers in order, except those that still hang, and wait for them.

        An observer that takes half of the remaining time counts as hanging: later collections skip
        it until it returns. Collections of several threads run one after another.

        Args:
            observers: The observers.
            timeout: Seconds to wait at most.

        Returns:
            The observations of each observer that neither raised nor hung.
        """
        timeout = min(max(0.0, timeout), _MAX_TIMEOUT)
        deadline = time.monotonic() + timeout
        found: dict[Observer, Observations] = {}
        collecting = self._collecting  # reset_after_fork() may replace it meanwhile
        if not collecting.acquire(timeout=timeout):
            return found
        try:
            self._hanging = [call for call in self._hanging if not call.future.done()]
            hanging = {call.observer for call in self._hanging}
            pending = [each for each in observers if each not in hanging]
            while pending and time.monotonic() < deadline:
                if not self._worker.start():  # the interpreter ends
                    self._warn("no thread", "callbacks are not called: no thread can be started")
                    break
                pending = self._run_until_one_hangs(pending, deadline, found)
        finally:
            collecting.release()
        return found

    def _run_until_one_hangs(
        self, observers: list[Observer], deadline: float, found: dict[Observer, Observations]
    ) -> list[Observer]:
        """Run observers until all have returned or one hangs; return those not yet called."""
        calls = [_Call(observer, deadline, Future()) for observer in observers]
        try:
            for call in calls:
                self._worker.put(call)
            with contextlib.suppress(TimeoutError):
                for call in calls:
                    call.future.result(seconds_left(deadline) / 2)
        finally:  # also after an exception of a signal handler
            # In reverse, so that the worker does not begin one of the next calls meanwhile.
            pending = [call.observer for call in reversed(calls) if call.future.cancel()]
            hanging = [call for call in calls if call.future.running()]
            if pending or hanging:
                self._worker.close()
                self._worker = _new_worker()
            self._hanging += hanging
            for call in hanging:
                self._warn(
                    (call.observer, "hung"),
                    "a callback of the instrument %r did not return in time; the instrument is "
                    "missing from collections until it returns; logged once",
                    call.observer.name,
                )
        for call in calls:
            if call.future.done() and not call.future.cancelled():
                observed = call.future.result()
                if observed is not None:
                    found[call.observer] = observed
        return pending[::-1]


def _new_worker() -> Worker[_Call]:
    return Worker(_run, name="genmeter-callbacks", capacity=sys.maxsize)
