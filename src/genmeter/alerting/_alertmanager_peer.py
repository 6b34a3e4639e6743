"""The alerts that wait for one Alertmanager, and the worker that posts them."""

from __future__ import annotations

import logging
import random
import time
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from genmeter import clock
from genmeter.alerting._alertmanager_http import DeliveryError
from genmeter.pipeline.worker import Worker, catch_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from genmeter.alerting._alertmanager_http import Endpoint
    from genmeter.pipeline.worker import Loss

__all__ = ["AlertmanagerClient", "Key", "State"]

_logger = logging.getLogger("genmeter")

_BATCH = 64  # alerts in one post
_CAPACITY = 1_000  # calls of enqueue() that may wait while a post is under way
_FIRST_DELAY = 1.0
_MOST_DELAY = 30.0
_POLL = 0.005

Key = frozenset[tuple[str, str]]
"""The labels of an alert, which are its identity."""


class State(NamedTuple):
    """The latest state of one alert.

    Attributes:
        text: The alert as the API has it, in JSON.
        expires: Unix time in seconds from which on nobody needs it; None for never.
    """

    text: str
    expires: float | None


class AlertmanagerClient:
    """Posts the latest state of each alert to one Alertmanager, and tries again after a failure.

    A state waits until it is accepted, refused for good, replaced by a later one, or expired. The
    worker's thread knows nothing of the handler, so it does not keep that alive.

    Args:
        endpoint: The Alertmanager.
        timeout: Seconds that each step of a post may take.
    """

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._begin()
        self._worker: Worker[Mapping[Key, State]] = Worker(
            self._take,
            name=f"genmeter-alertmanager-{endpoint.shown}",
            on_loss=self._lose,
            on_end=self._send_once_more,
            on_reset=self._begin,
            tick=lambda: self._worker.put({}),
            capacity=_CAPACITY,
        )

    def _begin(self) -> None:
        # Only touched by whoever delivers for the worker.
        self._unsent: dict[Key, State] = {}
        self._turn = 0
        self._is_paused = False
        self._failures = 0
        self._retry_at = 0.0
        self._send_by: float | None = None
        self._problem: str | None = None
        self._unraised: str | None = None
        self._endpoint.detach_after_fork()

    def enqueue(self, states: Mapping[Key, State]) -> None:
        """Have states sent, each instead of an earlier one of the same alert; does not wait.

        Without any, states that were left at the deadline of :meth:`finish` are sent after all.
        """
        self._is_paused = False
        if states or not self._is_done:
            self._worker.put(states)

    def take_problem(self) -> str | None:
        """Return the last failure since the last call; None where there was none."""
        problem, self._unraised = self._unraised, None
        return None if problem is None else f"{self._endpoint.shown}: {problem}"

    def close(self) -> None:
        """Have the thread end, once it has tried to send what waits; takes no lock."""
        self._worker.close()

    # --- the end -------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether the worker has a thread."""
        return self._worker.is_running

    def retry_now(self) -> None:
        """Try again now, without the rest of the pause after a failure."""
        self._failures, self._retry_at, self._is_paused = 0, 0.0, False
        if not self._is_done:
            self._worker.put({})

    def finish(self, deadline: float) -> bool:
        """Wait until all is sent; what is left at the deadline is not sent before the next enqueue.

        Where there is no thread, as none can be started while the interpreter ends, the caller's
        sends.

        Args:
            deadline: As ``time.monotonic()`` counts.

        Returns:
            Whether nothing is left.
        """
        while not self._is_done and (left := deadline - time.monotonic()) > 0:
            pause = self._retry_at - time.monotonic()
            if self._worker.is_running or pause > 0:
                time.sleep(min(_POLL, left))
            else:
                self._send_here(deadline)
        if self._is_done:
            return True
        self._turn += 1
        self._is_paused = True
        self._endpoint.abort()
        waiting = {*self._unsent, *(key for states in self._worker.waiting for key in states)}
        self._note(f"it had not taken {len(waiting)} alerts when the time to wait was over")
        return False

    @property
    def _is_done(self) -> bool:
        # In this order: a state is unsent before the worker is idle.
        return self._worker.is_idle and not self._unsent

    def _send_here(self, deadline: float) -> None:
        self._send_by = deadline
        try:
            self._worker.put({})
            self._worker.deliver_here(deadline)
        finally:
            self._send_by = None

    # --- on the worker's thread ----------------------------------------------------------------

    def _take(self, batch: Sequence[Mapping[Key, State]]) -> None:
        for states in batch:
            self._unsent.update(states)
        self._send()

    def _send_once_more(self) -> None:
        self._retry_at = 0.0
        self._send()

    def _send(self) -> None:
        while not self._is_paused and time.monotonic() >= self._retry_at:
            now = clock.now()
            for key, state in tuple(self._unsent.items()):
                if state.expires is not None and state.expires <= now:
                    del self._unsent[key]
            batch = dict(islice(self._unsent.items(), _BATCH))
            if not batch:
                return
            self._post(batch)

    def _post(self, batch: Mapping[Key, State]) -> None:
        turn, timeout, problem = self._turn, self._timeout, None
        if self._send_by is not None:
            timeout = min(timeout, max(_POLL, self._send_by - time.monotonic()))
        body = f"[{','.join(state.text for state in batch.values())}]".encode()
        try:
            self._endpoint.post(body, timeout, lambda: turn == self._turn)
        except DeliveryError as error:
            problem = str(error)
            if turn != self._turn:  # finish() gave up, and the states wait for the next enqueue
                return
            if error.may_retry:
                self._back_off()
                batch = {}
        for key in batch:
            self._unsent.pop(key, None)
        if problem is None:
            self._failures = 0
        self._note(problem)

    def _back_off(self) -> None:
        most = min(_MOST_DELAY, _FIRST_DELAY * 2.0 ** min(self._failures, 16))
        self._failures += 1
        # Many processes that lost the same Alertmanager should not come back in step.
        pause = random.uniform(most / 2, most)  # noqa: S311
        self._retry_at = time.monotonic() + pause
        self._worker.tick_in(pause)

    def _lose(self, loss: Loss, count: int, error: BaseException | None = None) -> None:
        self._note(f"{count} {loss.value}" if error is None else f"{type(error).__name__}: {error}")

    def _note(self, problem: str | None) -> None:
        before, self._problem = self._problem, problem
        with catch_all():  # of a logging handler
            if problem is not None and before is None:
                _logger.warning(
                    "alerts do not reach the Alertmanager at %s: %s; further failures are not "
                    "logged until it takes alerts again",
                    self._endpoint.shown,
                    problem,
                )
            elif problem is None and before is not None:
                _logger.info("the Alertmanager at %s takes alerts again", self._endpoint.shown)
        if problem is not None:
            self._unraised = problem
