"""What all processes of a job have used, and what they have reserved: the numbers of its budgets.

A process that is alone keeps its reservations in memory. Otherwise they are rows of the store, made
in one transaction with the usage of this process: whoever decides sees all that was used and all that
is reserved. A reservation ends in the transaction that writes the usage of its block. In between both
count: for a moment too much, never too little.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from genmeter.deferral import deferral
from genmeter.job.amounts import JobAmounts, JobError, StoreError
from genmeter.pipeline.drain import DrainLock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genmeter.history.token_report import UsageTotals
    from genmeter.job.store import Store, Totals

__all__ = ["Claim", "Process", "Spending"]

_T = TypeVar("_T")

_TIMEOUT = 5.0  # seconds to wait for other threads of this process that use the store
_PAUSE = 0.02  # seconds between two attempts for claims that wait
_SERIALS = (
    2**32
)  # reservations of a process; their ids in the store are above its number times this
_LINGER = 0.01  # seconds in which the next reservation of this process may write the release too
_FIND_DEAD = 0.25  # seconds between two searches for dead processes


class Claim(Protocol):
    """What wants a reservation."""

    tokens: int
    usd: float

    @property
    def limits_usd(self) -> bool:
        """Whether its budget limits USD, so that models without a price matter."""

    def prepare(self) -> None:
        """Read the state of this process's drain; called by the pipeline's owner."""

    def consider(self, amounts: JobAmounts) -> bool | None:
        """Return whether it is granted; None if it has to wait."""

    def fail(self, reason: str) -> None:
        """Refuse it, since the job's numbers are not known."""

    def expire(self, timeout: float) -> None:
        """Refuse it, since it waited that many seconds."""

    def finish(self) -> None:
        """Wake its waiting thread or task.

        Raises:
            RuntimeError: Nobody waits any more.
        """


class Process(Protocol):
    """The part of this process in its job, as `Spending` uses it."""

    @property
    def store(self) -> Store | None:
        """The store; None if it has not joined."""

    @property
    def number(self) -> int:
        """The number of this process in the store."""

    def require_store(self) -> Store | None:
        """Return the store, after joining if there may be others; None if this process is alone.

        Raises:
            JobError: The others cannot be reached.
        """

    @property
    def may_have_others(self) -> bool:
        """Whether there may be other processes of the job."""

    def note_used(self) -> None:
        """Let the processes that this one starts know that it has used or reserved something."""

    def fold_the_dead(self) -> bool:
        """Release what dead processes reserved; return whether there were any."""

    def post(self, function: Callable[[], object]) -> bool:
        """Have the job's thread call a function; return whether there is a thread."""


class _AgainError(Exception):
    """There may be other processes since a moment ago."""


class _Own(NamedTuple):
    """What this process has: state of the drain.

    Args:
        totals: Its usage.
        claims: Its reservations.
        released: Ids of those that have ended since the last write.
        rows: What changed in its usage by model since the last write; empty if it was not asked for.
    """

    totals: UsageTotals
    claims: list[Claim]
    released: tuple[int, ...]
    rows: list[Totals]

    def amounts(self) -> JobAmounts:
        totals, claims = self.totals, self.claims
        return JobAmounts(
            totals.tokens,
            totals.usd,
            sum(each.tokens for each in claims),
            sum(each.usd for each in claims),
            totals.unpriced,
        )


class _Attempt:
    """The decision about claims that wait.

    Args:
        claims: The claims, in the order in which they began to wait.
        grant: Returns the id of a claim's reservation; None if nobody wants it any more.
    """

    def __init__(self, claims: Sequence[Claim], grant: Callable[[Claim], int | None]) -> None:
        self.claims = claims
        self.granted: dict[Claim, int] = {}
        self.refused: list[Claim] = []
        self._grant = grant

    def decide(self, amounts: JobAmounts) -> list[tuple[int, int, float]]:
        """Return the reservations to make: id, tokens and USD."""
        for claim in self.claims:
            verdict = claim.consider(amounts)
            if verdict is False:
                self.refused.append(claim)
            elif verdict and (found := self._grant(claim)) is not None:
                self.granted[claim] = found
                amounts = amounts.with_reserved(claim.tokens, claim.usd)
        return [(found, claim.tokens, claim.usd) for claim, found in self.granted.items()]


class Spending:
    """Reads and reserves the amounts of a job, for all its budgets in this process.

    Args:
        process: This process's part in the job.
        totals: Returns the usage of this process so far; called by the pipeline's owner, as is the
            next one.
        rows: Returns the same by model, as the store has it.
        run: Has the pipeline's owner call a function behind all events recorded so far; an
            optional second argument is the timeout in seconds.

    Attributes:
        is_used: Whether this process has a budget of the job.
    """

    def __init__(
        self,
        process: Process,
        *,
        totals: Callable[[], UsageTotals],
        rows: Callable[[], list[Totals]],
        run: Callable[..., Any],
    ) -> None:
        self._process = process
        self._totals = totals
        self._rows = rows
        self._run = run
        self.is_used = False
        self.reset()

    def reset(self) -> None:
        """Begin with nothing reserved and nothing written; takes no lock."""
        # Held by whoever reads the usage of this process and writes it. The pipeline's owner never
        # takes it, since its holder waits for the owner.
        self._lock = DrainLock()
        self._written: dict[str, Totals] = {}
        self._written_totals: UsageTotals | None = None
        # A dictionary's own operations are atomic, and a release runs beside the lock's holder: it
        # empties _waiting, _trying and _open in this order, while a grant fills them in this order.
        self._waiting: dict[Claim, None] = {}
        self._trying: dict[Claim, int] = {}
        self._open: dict[Claim, int] = {}
        self._released: dict[int, None] = {}
        self._serial = 0
        self._tried_at = self._found_at = 0.0
        self._is_posted = False
        # Released to end the wait for a next reservation: a release never waits.
        self._linger_end = threading.Lock()
        self._linger_end.acquire()

    def _locked(self, function: Callable[[], _T], timeout: float) -> _T:
        with deferral:
            return self._lock.call(function, timeout)

    # --- publishing ----------------------------------------------------------------------------

    def publish(
        self,
        take: Callable[[], list[_T]],
        write: Callable[[list[_T], list[Totals], Sequence[int]], None],
        *,
        timeout: float,
    ) -> None:
        """Have changes, usage and released reservations of one moment written in one transaction.

        Args:
            take: Returns the changes; called by the pipeline's owner.
            write: Writes them with the changed usage and what was released, if there is anything.
            timeout: Seconds to wait for another thread that writes, and for the owner.

        Raises:
            TimeoutError: The other thread, or the owner, did not end in time.
        """

        def locked() -> None:
            changes, own = self._run(lambda: (take(), self._to_write()), timeout)
            if changes or own.rows or own.released:
                write(changes, own.rows, own.released)
                self._note_written(own)

        self._locked(locked, timeout)

    def enter(self, store: Store, number: int, attach: Callable[[], None]) -> None:
        """Write what this process has, as it joins.

        Args:
            store: The store.
            number: The number of this process.
            attach: Has the process use the store from now on.

        Raises:
            StoreError: The store cannot be written.
            TimeoutError: Another thread that reserves did not end in time.
        """

        def locked() -> None:
            self._written.clear()
            self._written_totals = None
            self._released.clear()  # those of an earlier store
            if self.is_used:
                own: _Own = self._run(self._to_write)
                ids = {claim: self._next_id(number) for claim in list(self._open)}
                store.reserve(
                    number,
                    own.rows,
                    (),
                    lambda _: [(ids[each], each.tokens, each.usd) for each in ids],
                )
                store.confirm(number)
                self._note_written(own)
                self._run(lambda: self._rename(ids))
            attach()

        self._locked(locked, _TIMEOUT)

    def _rename(self, ids: dict[Claim, int]) -> None:
        for claim, number in ids.items():
            if claim in self._open:
                self._open[claim] = number
            else:  # released meanwhile
                self._released[number] = None

    def _note_written(self, own: _Own) -> None:
        self._written.update((each.model, each) for each in own.rows)
        self._written_totals = own.totals
        for each in own.released:
            self._released.pop(each, None)

    def _next_id(self, number: int) -> int:
        self._serial += 1
        return number * _SERIALS + self._serial

    # --- reading -------------------------------------------------------------------------------

    def read(self, also: Callable[[], _T], *, prices: bool) -> tuple[JobAmounts, _T]:
        """Return the amounts of the job, and what the pipeline's owner returns at the same moment.

        Args:
            also: Called by the owner.
            prices: Whether models without a price matter.

        Raises:
            JobError: The other processes cannot be reached.
        """
        store = self._process.require_store()
        # Reservations of this process: from here, so that a release counts at once.
        own, found = self._run(lambda: (self._own(), also()))
        amounts = own.amounts()
        if store is not None:
            amounts = amounts.plus(self._others(store, prices))
        return amounts, found

    def own(self) -> JobAmounts:
        """Return what this process has used and reserved; called by the pipeline's owner."""
        return self._own().amounts()

    def others(self, *, prices: bool) -> JobAmounts:
        """Return what the other processes have published and reserved.

        Args:
            prices: Whether models without a price matter.

        Raises:
            JobError: They cannot be reached.
        """
        store = self._process.require_store()
        return JobAmounts(0, 0.0) if store is None else self._others(store, prices)

    def read_again(self, amounts: JobAmounts, *, prices: bool) -> JobAmounts | None:
        """Release what dead processes reserved; return the amounts after that.

        Returns:
            None if that changed nothing.

        Raises:
            JobError: The other processes cannot be reached.
        """
        if not amounts.reserved_tokens and not amounts.reserved_usd:
            return None
        if self._process.store is None or not self._process.fold_the_dead():
            return None
        return self.read(lambda: None, prices=prices)[0]

    def _others(self, store: Store, prices: bool) -> JobAmounts:
        try:
            return store.amounts(without=self._process.number, unpriced=prices)
        except StoreError as error:
            raise JobError(str(error)) from error

    def _own(self) -> _Own:
        return _Own(self._totals(), list(self._open), (), [])

    def _to_write(self) -> _Own:
        totals, rows = self._totals(), []
        if totals != self._written_totals:  # every call changes them
            rows = [each for each in self._rows() if self._written.get(each.model) != each]
        return _Own(totals, list(self._open), tuple(self._released), rows)

    # --- reservations --------------------------------------------------------------------------

    def submit(self, claim: Claim) -> None:
        """Grant or refuse a claim, or let it wait."""
        self._waiting[claim] = None
        self._settle_safely()

    @property
    def is_due(self) -> bool:
        """Whether the last look at the claims that wait was more than a moment ago."""
        return time.monotonic() - self._tried_at >= _PAUSE

    def poll(self) -> None:
        """Look whether claims that wait can be granted, unless that was a moment ago."""
        if self.is_due:
            with contextlib.suppress(TimeoutError):  # another thread does
                self._try_to_settle(0)

    def expire(self, claim: Claim, timeout: float) -> None:
        """Refuse a claim that waited so many seconds, unless it can be granted now."""
        self._settle_safely()

        def locked() -> None:
            if self._waiting.pop(claim, _ABSENT) is None:
                claim.expire(timeout)
                self._wake(claim)

        try:
            self._locked(locked, _TIMEOUT)
        except TimeoutError as error:
            self._fail((claim,), str(error))

    def release_soon(self, claim: Claim, post: Callable[[Callable[[], object]], object]) -> bool:
        """Free what a claim reserved, behind the events of its block; never waits.

        Usually nothing is waiting for it, and the owner need not wake: whoever looks at the amounts
        has the owner drain first, and so does the job's thread, a moment later.

        Args:
            claim: The claim.
            post: Has the pipeline's owner call a function behind all events recorded so far.

        Returns:
            Whether the owner should wake now.
        """
        is_joined = self._process.store is not None
        # Posted before the look at those that wait: whoever waits later drains it.
        post(lambda: self.release(claim, is_followed=is_joined))
        is_followed = not is_joined or self._follow()
        return bool(self._waiting) or not is_followed

    def release(self, claim: Claim, *, is_followed: bool = False) -> None:
        """Free what a claim reserved, or end its waiting.

        The pipeline's owner calls this behind the events of the claim's block.

        Args:
            claim: The claim.
            is_followed: Whether the job's thread was asked to write the release.
        """
        self._waiting.pop(claim, None)
        tried = self._trying.pop(claim, None)
        opened = self._open.pop(claim, None)
        if tried is None and opened is None:  # not granted, or in the parent of this process
            return
        if self._process.store is not None:
            self._released.update((each, None) for each in (tried, opened) if each is not None)
        elif not self._waiting:
            return
        if not is_followed:
            self._follow()

    def _follow(self) -> bool:
        """Have the job's thread write a release, or grant claims that wait; return whether it will.

        Without a thread, those that wait see it, and publish() writes it.
        """
        if not self._is_posted:
            self._is_posted = True
            self._is_posted = self._process.post(self._after_release)
        return self._is_posted

    def stop_lingering(self) -> None:
        """Have the job's thread go on with its next function; never waits."""
        with contextlib.suppress(RuntimeError):  # it does already
            self._linger_end.release()

    def _after_release(self) -> None:
        if not self._waiting:
            self._linger_end.acquire(timeout=_LINGER)
        self._is_posted = False
        self._settle_safely()

    def _settle_safely(self) -> None:
        try:
            self._try_to_settle(_TIMEOUT)
        except TimeoutError as error:
            self._fail(list(self._waiting), str(error))

    def _try_to_settle(self, timeout: float) -> None:
        self._tried_at = time.monotonic()
        for _ in range(3):
            try:
                store = self._process.require_store()
                settled = self._locked(lambda: self._settle(store), timeout)  # noqa: B023
            except _AgainError:
                continue
            except (JobError, StoreError) as error:
                self._fail(list(self._waiting), str(error))
                return
            for claim in settled:
                self._wake(claim)
            if store is not None and self._waiting and self._is_time_to_find_dead():
                if not self._process.fold_the_dead():
                    return
                continue
            return

    def _is_time_to_find_dead(self) -> bool:
        now = time.monotonic()
        if now - self._found_at < _FIND_DEAD:
            return False
        self._found_at = now
        return True

    def _settle(self, store: Store | None) -> list[Claim]:
        """Grant or refuse claims in the order in which they began to wait; return them."""
        process = self._process
        if store is None and self._waiting:
            process.note_used()
        if store is not process.store or (store is None and process.may_have_others):
            raise _AgainError
        own, claims = self._run(self._prepare)
        attempt = _Attempt(claims, self._try if store is None else self._try_in_store)
        try:
            if store is None:
                attempt.decide(own.amounts())
            else:
                self._settle_in(store, own, attempt)
        except BaseException:
            for claim, each in attempt.granted.items():
                # Should the transaction have been committed.
                if self._trying.pop(claim, None) is not None and store is not None:
                    self._released[each] = None
            raise
        for claim, each in attempt.granted.items():
            self._open[claim] = each
            if self._trying.pop(claim, None) is None:  # released in this moment
                self._open.pop(claim, None)
        found = (*attempt.granted, *attempt.refused)
        return [claim for claim in found if self._waiting.pop(claim, _ABSENT) is None]

    def _settle_in(self, store: Store, own: _Own, attempt: _Attempt) -> None:
        if not (attempt.claims or own.rows or own.released):
            return
        store.reserve(
            self._process.number,
            own.rows,
            own.released,
            attempt.decide,
            unpriced=any(each.limits_usd for each in attempt.claims),
        )
        self._note_written(own)

    def _try_in_store(self, claim: Claim) -> int | None:
        return self._try(claim, self._process.number)

    def _try(self, claim: Claim, number: int = 0) -> int | None:
        """Return the id of a claim's reservation; None if it was released meanwhile."""
        found = self._trying[claim] = self._next_id(number)
        if claim in self._waiting:
            return found
        self._trying.pop(claim, None)
        return None

    def _prepare(self) -> tuple[_Own, list[Claim]]:
        claims = list(self._waiting)
        for claim in claims:
            claim.prepare()
        return self._own() if self._process.store is None else self._to_write(), claims

    def _fail(self, claims: Sequence[Claim], reason: str) -> None:
        for claim in claims:
            if self._waiting.pop(claim, _ABSENT) is None:
                claim.fail(reason)
                self._wake(claim)

    def _wake(self, claim: Claim) -> None:
        try:
            claim.finish()
        except RuntimeError:  # the event loop of its task is closed
            self.release(claim)


_ABSENT = object()
