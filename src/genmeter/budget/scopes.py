"""What a budget counts: what its monitor records, or what all processes of the job do."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from genmeter.budget.account import Account
from genmeter.budget.amounts import Amounts, Claim, Terms, units_of
from genmeter.errors import BudgetExceededError, BudgetUnavailableError
from genmeter.job.amounts import JobError

if TYPE_CHECKING:
    from collections.abc import Callable

    from genmeter.errors import BudgetError
    from genmeter.job.amounts import JobAmounts
    from genmeter.job.job import Job
    from genmeter.pipeline.drain import Pipeline

__all__ = ["JobScope", "MonitorScope"]

_T = TypeVar("_T")

_JOB_POLL = 0.03  # seconds between two looks at what other processes have reserved


class MonitorScope:
    """A budget that counts what its monitor records: an account of the pipeline's owner.

    Args:
        terms: The budget's terms.
        pipeline: The pipeline of its monitor.

    Attributes:
        terms: As passed.
        pipeline: As passed.
        poll: Seconds until a waiting reservation looks itself; None for the usual ones.
    """

    poll: float | None = None

    def __init__(self, terms: Terms, pipeline: Pipeline) -> None:
        self.terms = terms
        self.pipeline = pipeline
        self._account = Account(terms, pipeline.epoch)

    @property
    def is_complete(self) -> bool:
        """Whether the amounts have all that was used, as far as it is known."""
        return True

    def account(self) -> Account:
        """Return the account; called by the owner."""
        if self._account.epoch != self.pipeline.epoch:  # in a forked child
            self._account = Account(self.terms, self.pipeline.epoch)
        return self._account

    def read(self, function: Callable[[Account], _T]) -> _T:
        """Have the owner call a function behind all events recorded so far; return its result."""
        return self.pipeline.run(lambda: function(self.account()))

    def post(self, function: Callable[[Account], object]) -> None:
        """Have the owner call a function behind all events recorded so far, without waiting."""
        if self.pipeline.is_running:
            self.pipeline.post(lambda: function(self.account()))
            self.pipeline.wake()
        else:  # this thread drains
            MonitorScope.read(self, function)

    def view(self, function: Callable[[Amounts], _T]) -> _T:
        """Return what a function returns for the amounts of now."""
        return self.read(function)

    def problem(self) -> BudgetError | None:
        """Return why no further call may begin; None if there is room."""
        return self.read(Account.problem)

    # --- reservations --------------------------------------------------------------------------

    def claim(self, tokens: int, usd: float, wake: Callable[[], object]) -> Claim:
        """Return a claim; see `Claim` for the arguments."""
        return Claim(tokens, usd, wake)

    def request(self, claim: Claim) -> None:
        """Grant or refuse a claim, or let it wait."""
        self.read(lambda account: account.request(claim))

    def request_soon(self, claim: Claim) -> None:
        """Do as `request` does, without waiting."""
        self.post(lambda account: account.request(claim))

    def continue_(self, claim: Claim, expired: float | None) -> None:
        """Look again for a claim that waits.

        Args:
            claim: The claim.
            expired: The seconds that it waited, if those were too many.
        """
        self.read(_next_step(claim, expired))

    def continue_soon(self, claim: Claim, expired: float | None) -> None:
        """Do as `continue_` does, without waiting."""
        self.post(_next_step(claim, expired))

    def release(self, claim: Claim) -> None:
        """Free what a claim reserved, behind the events recorded so far, without waiting."""
        self.post(lambda account: account.release(claim))


def _next_step(claim: Claim, expired: float | None) -> Callable[[Account], None]:
    if expired is None:
        return Account.look_again
    return lambda account: account.expire(claim, expired)


class JobScope(MonitorScope):
    """A budget that counts what all processes of the job record.

    The account has only the calls in a row without known usage, of this process.

    Args:
        terms: The budget's terms.
        pipeline: The pipeline of this process.
        job: This process's part in the job.

    Attributes:
        job: As passed.
    """

    poll = _JOB_POLL

    def __init__(self, terms: Terms, pipeline: Pipeline, job: Job) -> None:
        super().__init__(terms, pipeline)
        self.job = job
        self._spending = job.spending
        self._spending.is_used = True
        self.limits_usd = terms.limit.usd is not None

    def amounts(self, of_job: JobAmounts, unread: Amounts) -> Amounts:
        """Return what is used and reserved of the budget.

        Args:
            of_job: What is used and reserved of the job.
            unread: Has the calls in a row without known usage.
        """
        found = Amounts(self.terms)
        found.tokens, found.units = of_job.tokens, units_of(of_job.usd)
        found.reserved_tokens = of_job.reserved_tokens
        found.reserved_units = units_of(of_job.reserved_usd)
        found.unpriced = of_job.unpriced
        found.unread, found.last_unread = unread.unread, unread.last_unread
        return found

    @property
    def is_complete(self) -> bool:
        """Whether the amounts have what the process had used that started this one."""
        try:
            self._spending.read(self.account, prices=False)  # which joins
            return self.job.is_complete
        except (JobError, TimeoutError) as error:
            raise self.unavailable(str(error), Amounts(self.terms)) from error

    def view(self, function: Callable[[Amounts], _T]) -> _T:
        """Return what a function returns for the amounts of now.

        Raises:
            BudgetUnavailableError: The other processes cannot be reached.
        """
        try:
            return function(self.amounts(*self._spending.read(self.account, prices=False)))
        except (JobError, TimeoutError) as error:
            raise self.unavailable(str(error), Amounts(self.terms)) from error

    def problem(self) -> BudgetError | None:
        """Return why no further call may begin; None if there is room."""
        prices = self.limits_usd
        try:
            of_job, account = self._spending.read(self.account, prices=prices)
            found = self.amounts(of_job, account)
            problem = found.problem()
            if isinstance(problem, BudgetExceededError) and not found.is_spent:
                again = self._spending.read_again(of_job, prices=prices)
                if again is not None:
                    problem = self.amounts(again, account).problem()
        except (JobError, TimeoutError) as error:
            return self.unavailable(str(error), Amounts(self.terms))
        return problem

    def others(self) -> JobAmounts:
        """Return what the other processes have published and reserved.

        Raises:
            JobError: They cannot be reached.
        """
        return self._spending.others(prices=self.limits_usd)

    def beside(self, others: JobAmounts) -> Amounts:
        """Return what is used and reserved, with that of others; called by the pipeline's owner."""
        return self.amounts(self._spending.own().plus(others), self.account())

    def unavailable(self, reason: str, amounts: Amounts) -> BudgetUnavailableError:
        """Return the error of a budget whose amounts are not known."""
        return BudgetUnavailableError(
            f"budget of {self.terms} cannot be kept: what the other processes use is unknown: {reason}",
            amounts.spent,
            amounts.reserved,
            self.terms.limit,
        )

    # --- reservations --------------------------------------------------------------------------

    def claim(self, tokens: int, usd: float, wake: Callable[[], object]) -> _JobClaim:
        """Return a claim; see `Claim` for the arguments."""
        return _JobClaim(self, tokens, usd, wake)

    def request(self, claim: Claim) -> None:
        """Grant or refuse a claim, or let it wait."""
        self._spending.submit(_of_job(claim))
        if not self.pipeline.is_running:  # its thread would look for other processes
            self.job.watch()

    def request_soon(self, claim: Claim) -> None:
        """Do as `request` does, on the job's thread."""
        self._do_soon(lambda: self.request(claim))

    def continue_(self, claim: Claim, expired: float | None) -> None:
        """Look again for a claim that waits; see the base class."""
        if expired is None:
            self._spending.poll()
        else:
            self._spending.expire(_of_job(claim), expired)

    def continue_soon(self, claim: Claim, expired: float | None) -> None:
        """Do as `continue_` does, on the job's thread."""
        if expired is not None or self._spending.is_due:
            self._do_soon(lambda: self.continue_(claim, expired))

    def release(self, claim: Claim) -> None:
        """Free what a claim reserved, behind the events recorded so far, without waiting."""
        found = _of_job(claim)
        if not self.pipeline.is_running:  # this thread drains
            self.post(lambda _: self._spending.release(found))
        elif self._spending.release_soon(found, self.pipeline.post):
            self.pipeline.wake()

    def _do_soon(self, function: Callable[[], object]) -> None:
        if self.job.post(function):
            self._spending.stop_lingering()
        else:  # the process ends, or has no job any more
            function()


class _JobClaim(Claim):
    """A claim of a budget of the job."""

    __slots__ = ("_account", "_scope", "_seen")

    def __init__(
        self, scope: JobScope, tokens: int, usd: float, wake: Callable[[], object]
    ) -> None:
        super().__init__(tokens, usd, wake)
        self._scope = scope
        self._account: Amounts = Amounts(scope.terms)
        self._seen = self._account

    @property
    def limits_usd(self) -> bool:
        """Whether models without a price matter."""
        return self._scope.limits_usd

    def prepare(self) -> None:
        """Read the account; called by the pipeline's owner."""
        self._account = self._scope.account()

    def consider(self, amounts: JobAmounts) -> bool | None:
        """Return whether it is granted; None if it has to wait."""
        self._seen = seen = self._scope.amounts(amounts, self._account)
        self.error = seen.refusal(self)
        if self.error is not None:
            return False
        return seen.fits(self.tokens, self.units) or None

    def fail(self, reason: str) -> None:
        """Refuse it, since the job's amounts are not known."""
        self.error = self._scope.unavailable(reason, self._seen)

    def expire(self, timeout: float) -> None:
        """Refuse it, since it waited so many seconds."""
        self.error = self._seen.timeout_error(self, timeout)

    def finish(self) -> None:
        """Wake the waiting thread or task."""
        self.is_settled = True
        self.wake()


def _of_job(claim: Claim) -> _JobClaim:
    assert isinstance(claim, _JobClaim)  # noqa: S101 - made by claim()
    return claim
