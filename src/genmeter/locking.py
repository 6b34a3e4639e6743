"""The drain's lock, and requests to its owner, which take no lock.

Nothing here is built on ``threading.Event`` or ``Condition``: these have a lock inside, and a signal
handler that came while its own thread held that one would wait for ever.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DrainLock", "Request"]

_T = TypeVar("_T")


class DrainLock:
    """A lock that knows whether its holder is in the middle of something.

    It is re-entrant only because such a lock knows its owner from the moment on that it is taken,
    and a signal handler may come at that very moment.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_busy = False

    @property
    def is_mine(self) -> bool:
        """Whether this thread holds the lock."""
        owned: bool = self._lock._is_owned()  # type: ignore[attr-defined] # noqa: SLF001
        return owned

    @property
    def is_inside(self) -> bool:
        """Whether this thread is in the middle of a :meth:`call`."""
        return self._is_busy and self.is_mine

    def call(self, function: Callable[[], _T], timeout: float | None) -> _T:
        """Call ``function`` under the lock.

        Args:
            function: What to call.
            timeout: Seconds to wait for the lock; None means until it is free.

        Raises:
            TimeoutError: The lock was not free in time.
        """
        if timeout is None:
            with self._lock:  # no exception of a signal handler can come between lock and release
                return self._busily(function)
        try:
            if not self.acquire(timeout):
                raise TimeoutError(f"the drain's lock was not free within {timeout} s")
            return self._busily(function)
        finally:
            self.release()

    def acquire(self, timeout: float) -> bool:
        """Acquire the lock until :meth:`release`; returns whether it was free in time.

        Args:
            timeout: Seconds to wait.
        """
        return self._lock.acquire(timeout=min(max(0.0, timeout), threading.TIMEOUT_MAX))

    def release(self) -> None:
        """Release the lock, where this thread holds it."""
        if self.is_mine:
            self._lock.release()

    def _busily(self, function: Callable[[], _T]) -> _T:
        self._is_busy = True
        try:
            return function()
        finally:
            self._is_busy = False


class _CancelledError(Exception):
    """The asker of a request does not wait any more."""


class Request:
    """A function that the owner is asked to call; it is called once or never.

    Args:
        function: The function.

    Attributes:
        result: What it returned.
        error: What it raised.
    """

    __slots__ = ("_answered", "_claims", "_function", "error", "result")

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.result: Any = None
        self.error: BaseException | None = None
        # Whoever takes it out, to call the function or to cancel, was first.
        self._claims = [None]
        self._answered = threading.Lock()
        self._answered.acquire()

    def answer(self, call: Callable[[Callable[[], Any]], Any]) -> None:
        """Have ``call`` call the function, and wake the asker; never raises.

        It may be cancelled until the very moment that ``call`` calls it: the owner may have to wait
        for a lock, or to drain, before it comes to that.
        """
        if not self._claims:
            return
        try:
            self.result = call(self._claim)
        except _CancelledError:
            pass
        except BaseException as error:  # raised again in the thread that asked
            self.error = error
        finally:
            self._answered.release()

    def cancel(self) -> bool:
        """Keep the function from being called; returns False where its call has begun."""
        try:
            self._claims.pop()
        except IndexError:
            return False
        return True

    def _claim(self) -> Any:
        if not self.cancel():
            raise _CancelledError
        return self._function()

    def wait(self, timeout: float) -> bool:
        """Wait for the answer; returns whether it came.

        Args:
            timeout: Seconds to wait at most.
        """
        return self._answered.acquire(timeout=timeout)
