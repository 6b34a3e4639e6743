"""What waits for one Alertmanager, and the thread that brings it there."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from contextlib import suppress
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from genmeter import clock
from genmeter.outputs.alerts.alertmanager_http import NotTaken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genmeter.outputs.alerts.alertmanager_http import Target

__all__ = ["Key", "Peer", "State"]

_logger = logging.getLogger("genmeter")

_BATCH = 64  # alerts in one post
_FIRST_DELAY = 1.0
_MOST_DELAY = 30.0
_POLL = 0.005

Key = frozenset[tuple[str, str]]
"""The labels of an alert, which are its identity."""


class State(NamedTuple):
    """What is to be known of one alert.

    Attributes:
        text: The alert as the API has it, in JSON.
        expires: Unix time in seconds from which on nobody needs it; None for never.
    """

    text: str
    expires: float | None


class Peer:
    """Brings the latest state of each alert to one Alertmanager, and tries again where it fails.

    A state waits until it is taken, refused for good, overtaken by a later one, or expired. The
    thread is a daemon and starts with the first state; it knows nothing of the handler, so it does
    not keep that alive.

    Args:
        target: The Alertmanager.
        timeout: Seconds that each step of a post may take.
    """

    def __init__(self, target: Target, timeout: float) -> None:
        self._target = target
        self._timeout = timeout
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        # Re-entrant, since a signal handler may shut the monitor down while its thread holds it.
        self._guard = threading.RLock()
        self._waiting: dict[Key, State] = {}
        self._turn = 0
        self._is_paused = False
        self._thread: threading.Thread | None = None
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._is_closing = False
        self._failures = 0
        self._retry_at = 0.0
        self._problem: str | None = None
        self._unraised: str | None = None

    def offer(self, states: Mapping[Key, State]) -> None:
        """Have states sent, each instead of an earlier one of the same alert; does not wait.

        Without any, what was left when the time of :meth:`finish` was over is sent after all.
        """
        self._leave_to_parent()
        with self._guard:
            self._waiting.update(states)
            self._is_paused = False
            if not self._waiting:
                return
            self._start()
        self._wake.put(None)

    def take_problem(self) -> str | None:
        """Give the last failure since the last call; None where there was none."""
        self._leave_to_parent()
        problem, self._unraised = self._unraised, None
        return None if problem is None else f"{self._target.shown}: {problem}"

    def close(self) -> None:
        """Have the thread end, once it has tried to send what waits; takes no lock."""
        self._is_closing = True
        if self._pid == os.getpid():
            self._wake.put(None)

    # --- the end -------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether a thread sends what waits."""
        return self._thread is not None and self._thread.is_alive()

    def hurry(self) -> None:
        """Try again now, whatever was to be waited for."""
        self._leave_to_parent()
        self._failures, self._retry_at, self._is_paused = 0, 0.0, False
        self._wake.put(None)

    def finish(self, deadline: float) -> bool:
        """Wait until nothing waits; what is left at the deadline is not sent before the next offer.

        Where there is no thread, as none can be started while the interpreter ends, the caller's
        sends.

        Args:
            deadline: As ``time.monotonic()`` counts.

        Returns:
            Whether nothing is left.
        """
        while self._waiting and (left := deadline - time.monotonic()) > 0:
            pause = self._retry_at - time.monotonic()
            if self.is_running:
                time.sleep(min(_POLL, left))
            elif pause > 0:
                time.sleep(min(pause, left))
            else:
                self._send(min(self._timeout, left))
        with self._guard:
            left_over = len(self._waiting)
            if left_over:
                self._turn += 1
                self._is_paused = True
                self._target.abort()
        if left_over:
            self._note(f"it had not taken {left_over} alerts when the time to wait was over")
        return not left_over

    # --- the thread ----------------------------------------------------------------------------

    def _start(self) -> None:
        if self.is_running:
            return
        name = f"genmeter-alertmanager-{self._target.shown}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        with suppress(RuntimeError):  # the interpreter ends, or the system's limit is reached
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while True:
            self._rest()
            if self._is_due:
                self._send(self._timeout)
            if self._is_closing and (self._failures or not self._is_due):
                return

    @property
    def _is_due(self) -> bool:
        return bool(self._waiting) and not self._is_paused

    def _rest(self) -> None:
        """Wait until there is something to send whose time has come, or all is to end."""
        while not self._is_closing:
            pause = max(0.0, self._retry_at - time.monotonic()) if self._is_due else None
            if pause == 0:
                return
            with suppress(Empty):
                self._wake.get(timeout=pause)

    def _send(self, timeout: float) -> None:
        with self._guard:
            turn = self._turn
            batch = self._next_batch()
        if not batch:
            return
        body = f"[{','.join(state.text for state in batch.values())}]".encode()
        problem = None
        try:
            self._target.post(body, timeout, lambda: turn == self._turn)
        except NotTaken as error:
            problem = str(error)
            if turn != self._turn:
                return
            if error.may_retry:
                self._back_off()
                batch = {}
        with self._guard:
            for key, state in batch.items():
                if self._waiting.get(key) is state:
                    del self._waiting[key]
        if problem is None:
            self._failures = 0
        self._note(problem)

    def _next_batch(self) -> dict[Key, State]:
        now = clock.now()
        for key, state in tuple(self._waiting.items()):
            if state.expires is not None and state.expires <= now:
                del self._waiting[key]
        return dict(islice(self._waiting.items(), _BATCH)) if self._is_due else {}

    def _back_off(self) -> None:
        most = min(_MOST_DELAY, _FIRST_DELAY * 2.0 ** min(self._failures, 16))
        self._failures += 1
        # Many processes that lost the same Alertmanager should not come back in step.
        self._retry_at = time.monotonic() + random.uniform(most / 2, most)  # noqa: S311

    def _note(self, problem: str | None) -> None:
        before, self._problem = self._problem, problem
        with suppress(Exception):  # a logging handler of the job's that raises must not end us
            if problem is not None and before is None:
                _logger.warning(
                    "alerts do not reach the Alertmanager at %s: %s; further failures are not "
                    "logged until it takes alerts again",
                    self._target.shown,
                    problem,
                )
            elif problem is None and before is not None:
                _logger.info("the Alertmanager at %s takes alerts again", self._target.shown)
        if problem is not None:
            self._unraised = problem

    def _leave_to_parent(self) -> None:
        """Begin anew in a forked child, where the parent's thread is not and its lock may be held."""
        if self._pid != os.getpid():
            self._begin()
