"""``Budget``: what a job checks before a call, and reserves from.

A read and a reservation are requests to the pipeline's owner that see all events recorded before
them. In a forked child a budget of a monitor starts from zero, and one of the job goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, NoReturn, Self

from genmeter.budget.amounts import MAX_USD, Terms
from genmeter.budget.scopes import JobScope, MonitorScope
from genmeter.clock import seconds_left
from genmeter.config.checks import LABEL, SECONDS, check_pair, count, number, one_of, optional
from genmeter.errors import BudgetAmount, BudgetExceededError, BudgetLimit, ConfigError, unpicklable
from genmeter.events.capture import capture_mapping
from genmeter.events.model import Evaluation, Generation
from genmeter.events.values import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genmeter.budget.amounts import Claim
    from genmeter.events.model import Event
    from genmeter.job.job import Job
    from genmeter.pipeline.drain import Pipeline

__all__ = ["TIMEOUT", "Budget", "Budgets", "Reservation"]

TIMEOUT = 600.0
"""Seconds that a reservation waits for room: the default time-out of OpenAI's and Anthropic's clients."""
_POLL = 1.0  # seconds until a waiting reservation looks itself, should the drain have no thread
_SCOPE = one_of("monitor", "job")
_TOKENS = optional(count())
_RESERVED = optional(count(0, 2**63))  # an error must be able to show it
_USD = optional(number(0, MAX_USD, what="USD"))
_WAIT = optional(SECONDS)


class Budget:
    """A limit of what a job may use; made by ``monitor.budget()``, which has the arguments.

    It counts the calls and evaluations that its monitor records from then on, also failed and
    cancelled ones. Reads are exact: they see all that was recorded before, by any thread, and go on
    after the shutdown. Threads, and tasks of any event loop, may share a budget.

    A budget of the job counts what all of its processes record, since the job began. Of the others it
    sees what they have published, about once a second; what they reserve it sees at once. If they
    cannot be reached, each read raises `BudgetUnavailableError`.

    Raises:
        ConfigError: An argument is invalid.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        job: Job,
        *,
        scope: str,
        tokens: int | None,
        usd: float | None,
        step: str | None,
        tags: Mapping[str, Any] | None,
        max_unread: int | None,
        unpriced_usd_per_million: float | None,
    ) -> None:
        limit = BudgetLimit(_TOKENS("tokens", tokens), _USD("usd", usd))
        if limit.tokens is limit.usd is None:
            raise ConfigError("a budget must have a limit, got neither tokens= nor usd=; set one")
        unpriced = _USD("unpriced_usd_per_million", unpriced_usd_per_million)
        check_pair("unpriced_usd_per_million", unpriced, "usd", limit.usd)
        terms = Terms(
            limit,
            optional(LABEL)("step", step),
            _plain_tags(tags),
            optional(count(1))("max_unread", max_unread),
            unpriced,
            is_of_job=_SCOPE("scope", scope) == "job",
        )
        if terms.is_of_job:
            _check_job_terms(terms)
            self._owned: MonitorScope = JobScope(terms, pipeline, job)
        else:
            self._owned = MonitorScope(terms, pipeline)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled.

        Raises:
            TypeError: Always.
        """
        raise unpicklable(
            "a Budget", "pass the monitor, and call monitor.budget(...) in the other process"
        )

    def __repr__(self) -> str:
        return f"<Budget of {self._owned.terms}>"

    @property
    def limit(self) -> BudgetLimit:
        """The limits; None for one that is not set."""
        return self._owned.terms.limit

    @property
    def is_of_job(self) -> bool:
        """Whether it counts what all processes of the job record."""
        return self._owned.terms.is_of_job

    @property
    def spent(self) -> BudgetAmount:
        """What was used so far; USD without calls that have no price, unless one is assumed."""
        return self._owned.view(lambda amounts: amounts.spent)

    @property
    def reserved(self) -> BudgetAmount:
        """What is reserved now."""
        return self._owned.view(lambda amounts: amounts.reserved)

    @property
    def left(self) -> BudgetLimit:
        """What is neither used nor reserved, never below 0; None for a limit that is not set."""
        return self._owned.view(lambda amounts: amounts.left)

    @property
    def complete(self) -> bool:
        """Whether all that was used is known to be counted; always true of a monitor's budget.

        It is false in a child as long as the process that started it has not written what it had used
        before, which the log says too: less may be left than the budget returns.
        """
        return self._owned.is_complete

    def has_room(self) -> bool:
        """Return whether less than each limit is used and reserved.

        Raises:
            UsageUnreadError: The usage of ``max_unread`` calls in a row is unknown.
            UnpricedModelError: The budget is in USD, and used tokens have no price.
            BudgetUnavailableError: It is one of the job, whose other processes cannot be reached.
        """
        problem = self._owned.problem()
        if problem is None or isinstance(problem, BudgetExceededError):
            return problem is None
        raise problem

    def check(self) -> None:
        """Raise an error unless the budget has room.

        Raises:
            BudgetExceededError: A limit is reached by what is used and reserved.
            UsageUnreadError: As :meth:`has_room`.
            UnpricedModelError: As :meth:`has_room`.
            BudgetUnavailableError: As :meth:`has_room`.
        """
        problem = self._owned.problem()
        if problem is not None:
            raise problem

    def reserve(
        self,
        tokens: int | None = None,
        usd: float | None = None,
        *,
        timeout: float | None = TIMEOUT,
    ) -> Reservation:
        """Reserve an amount: ``with budget.reserve(tokens=4096):``, or ``async with``.

        The amount counts against the limit until the block ends; then what was recorded in the block
        counts instead. If each call runs in a block that reserves at least what it uses, the budget is
        never exceeded. The block begins when there is room: it waits for the end of other
        reservations, and ``async with`` does not block the event loop meanwhile. Of waiting
        reservations that fit, the first to wait is granted first. A block inside of another one of the
        same budget needs room for both.

        Args:
            tokens: Total tokens that the calls in the block use at most; required if the budget
                limits tokens.
            usd: USD that they cost at most; required if the budget limits USD.
            timeout: Seconds to wait for room; None means without a limit, 0 not to wait.

        Returns:
            The reservation; it is made when the block begins.

        Raises:
            ConfigError: An argument is invalid.
            BudgetExceededError: As the block begins: the amount and what is used exceed a limit, so
                waiting is useless.
            BudgetTimeoutError: As the block begins: others reserved too much for ``timeout`` seconds.
            UsageUnreadError: As :meth:`has_room`.
            UnpricedModelError: As :meth:`has_room`.
            BudgetUnavailableError: As :meth:`has_room`.
        """
        tokens, usd = _RESERVED("tokens", tokens), _USD("usd", usd)
        limit = self._owned.terms.limit
        for name, value, most in (("tokens", tokens, limit.tokens), ("usd", usd, limit.usd)):
            if value is None and most is not None:
                raise ConfigError(
                    f"{name} must be set, since the budget limits it, got None; pass the most that "
                    "the block can use"
                )
        timeout = _WAIT("timeout", timeout)
        return Reservation(self._owned, tokens or 0, usd or 0.0, timeout)


class Reservation:
    """An amount that is reserved in a budget during a ``with`` or ``async with`` block.

    Made by :meth:`Budget.reserve`, and usable more than once, also at the same time: each block
    reserves the amount.

    Attributes:
        tokens: Reserved tokens.
        usd: Reserved USD.
        timeout: Seconds to wait for room; None means without a limit.
    """

    def __init__(self, owned: MonitorScope, tokens: int, usd: float, timeout: float | None) -> None:
        self.tokens = tokens
        self.usd = usd
        self.timeout = timeout
        self._owned = owned
        self._claims: list[Claim] = []  # of the blocks that have begun; all are alike

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled.

        Raises:
            TypeError: Always.
        """
        raise unpicklable(
            "a Reservation",
            "reserve in each process, from a budget that it makes with monitor.budget(...)",
        )

    def __repr__(self) -> str:
        return f"<Reservation of {BudgetAmount(self.tokens, self.usd)}>"

    def __enter__(self) -> Self:
        """Wait until there is room, and reserve the amount."""
        # A lock, since it can be released anywhere, also in a signal handler.
        settled = threading.Lock()
        settled.acquire()
        claim = self._owned.claim(self.tokens, self.usd, settled.release)
        deadline = self._deadline()
        try:
            self._owned.request(claim)
            while not settled.acquire(timeout=min(self._pause, seconds_left(deadline))):
                self._owned.continue_(claim, self._expired(deadline))
            self._begin(claim)
        except BaseException:
            self._end(claim)
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        """Free the amount, behind the events of the block."""
        self._end(self._claims.pop())

    async def __aenter__(self) -> Self:
        """Wait until there is room, and reserve the amount; the event loop goes on meanwhile."""
        loop = asyncio.get_running_loop()
        settled = loop.create_future()
        claim = self._owned.claim(
            self.tokens, self.usd, lambda: loop.call_soon_threadsafe(_resolve, settled)
        )
        deadline = self._deadline()
        try:
            self._owned.request_soon(claim)
            pause = min(self._pause, seconds_left(deadline))
            while not claim.is_settled:
                await asyncio.wait((settled,), timeout=pause)
                if not claim.is_settled:
                    self._owned.continue_soon(claim, self._expired(deadline))
                    # Not less after the deadline: the answer comes when the drain gets there.
                    pause = min(self._pause, seconds_left(deadline) or self._pause)
            self._begin(claim)
        except BaseException:  # cancelled, too
            self._end(claim)
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Free the amount, behind the events of the block; does not wait."""
        self._end(self._claims.pop())

    def _deadline(self) -> float:
        return math.inf if self.timeout is None else time.monotonic() + self.timeout

    @property
    def _pause(self) -> float:
        return self._owned.poll or _POLL

    def _expired(self, deadline: float) -> float | None:
        return self.timeout if time.monotonic() >= deadline else None

    def _begin(self, claim: Claim) -> None:
        claim.raise_if_refused()
        self._claims.append(claim)

    def _end(self, claim: Claim) -> None:
        with contextlib.suppress(ValueError):  # an interrupt may come after _begin()
            self._claims.remove(claim)
        self._owned.release(claim)


class Budgets:
    """The budgets of a monitor, as a recorder of its events; it does not keep them alive."""

    def __init__(self) -> None:
        self._references: tuple[weakref.ref[MonitorScope], ...] = ()

    def __len__(self) -> int:
        return len(self._references)

    def add(self, budget: Budget) -> None:
        """Add a budget, which counts the events after this one; called by the pipeline's owner."""
        alive = [reference for reference in self._references if reference() is not None]
        self._references = (*alive, weakref.ref(budget._owned))  # noqa: SLF001 - one contract

    def record(self, event: Event) -> None:
        """Count an event in each budget that it matches; called by the pipeline's owner."""
        if isinstance(event, Generation | Evaluation):
            for owned in self._alive():
                if owned.terms.match(event):
                    owned.account().add(event)

    def refuse_event(self) -> None:
        """Count a call after the monitor's shutdown, in each budget; called by the owner."""
        for owned in self._alive():
            owned.account().refuse_event()

    def _alive(self) -> list[MonitorScope]:
        return [found for each in self._references if (found := each()) is not None]


def _check_job_terms(terms: Terms) -> None:
    """Check that a budget of the job has no argument that only its own process can keep."""
    remedies = {
        "step": "limit the whole job, or the step in each process with scope='monitor'",
        "tags": "limit the whole job, or the tags in each process with scope='monitor'",
        "unpriced_usd_per_million": "set MonitorConfig(prices=...) with a price for these models",
    }
    values = (terms.step, terms.tags or None, terms.unpriced)
    for (name, remedy), value in zip(remedies.items(), values, strict=True):
        if value is not None:
            raise ConfigError(
                f"{name} must be None in a budget with scope='job', got {shown(value)}; {remedy}"
            )


def _plain_tags(tags: Any) -> Mapping[str, Any]:
    plain = {} if tags is None else capture_mapping(tags)
    if type(plain) is not dict:
        raise ConfigError(
            f"tags must be a mapping of entries of a call's metadata, or None, got {shown(tags)}"
        )
    return plain


def _resolve(settled: asyncio.Future[None]) -> None:
    if not settled.done():
        settled.set_result(None)
