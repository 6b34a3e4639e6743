"""A process's part in a job of several processes.

A process is alone until there is another one: then it does no file I/O. A named job, and a process
that another one of the job has started, joins at its first event; the process that started it looks
for them once a second. From then on all of them publish what changed once a second, on a thread of
their own, and whichever is asked answers for the job.

One of them leads: it listens, and pushes. When it ends, the next one takes over within a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from genmeter.clock import seconds_left
from genmeter.deferral import deferral
from genmeter.history.token_report import TokenUsageReport
from genmeter.job import meeting
from genmeter.job._end import JobEnd
from genmeter.job._entry import Entry
from genmeter.job._publisher import Publisher
from genmeter.job._root import RootWait
from genmeter.job._servers import server_of_worker
from genmeter.job._starters import note_end
from genmeter.job.amounts import JobError, StoreError
from genmeter.job.folders import is_running
from genmeter.job.merged import Merger, combine
from genmeter.job.refusals import Refusals
from genmeter.job.spending import Spending
from genmeter.job.store import State
from genmeter.job.usage_rows import report_of_totals, totals_of
from genmeter.pipeline.drain import Request
from genmeter.pipeline.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.resources import Resource

    from genmeter.history.token_report import UsageTotals
    from genmeter.job._members import Members
    from genmeter.job.refusals import Refused
    from genmeter.job.store import Census, Store, Totals
    from genmeter.metrics.changes import Changes

__all__ = ["Job", "JobError"]

_INTERVAL = 1.0  # seconds between two publications
_PUBLISH = 2.0  # seconds that a publication may wait
_GATE = 5.0  # seconds that joining and leaving may wait
_HOLD_OFF = 3.0  # seconds that a child leaves the lead to the process that started it
_CHECK = 3_600.0  # seconds between two looks at the folder
_LATE = 2.0  # seconds after which a process that could not join says so
_FORK = 1.0  # seconds that a fork waits to join and publish
_SERVER_END = 2.0  # seconds that the last worker waits for the others of a server that ends
_POLL = 0.02
_MIN_TIMEOUT = 0.1
_CLOSING = "closing"


class Job:
    """This process's part in its job.

    Args:
        usage: Returns the usage of this process so far; called on any thread but the owner's.
        totals: Returns the sums of that; called by the pipeline's owner.
        log: Called like ``Logger.log``; must not wait.
        run: Has the pipeline's owner call a function behind all events recorded so far, and returns
                its result; an optional second argument is the timeout in seconds.

    Attributes:
        name: The job's name; None for the processes that descend from one another.
        spending: What all processes have used and reserved, for budgets of the job.
        refusals: The calls that the job's budget refused.
        last_death: Unix time at which a process of the job last died, as of this process's last turn
            as the leader; None if none has.
    """

    def __init__(
        self,
        *,
        usage: Callable[[], TokenUsageReport],
        totals: Callable[[], UsageTotals],
        log: Callable[..., None],
        run: Callable[..., Any] = lambda function, _timeout=0.0: function(),
    ) -> None:
        self.spending = Spending(self, totals=totals, rows=lambda: totals_of(usage()), run=run)
        self.refusals = Refusals()
        self._usage = usage
        self._root = RootWait(log)
        self._on_lead: Callable[[], object] = lambda: None
        self._log = log
        self.name: str | None = None
        self._resume = False
        self._resource: Resource | None = None
        self._has_forked = False
        self._forget()

    def _forget(self) -> None:
        """Begin as a process that has not joined."""
        self._members: Members | None = None
        self._store: Store | None = None
        self._merger: Merger | None = None
        self._number = 0
        self._folder: Path | None = None
        self._publisher = Publisher(self.spending, self._log)
        self.spending.reset()
        self._root.begin()
        self.refusals.reset()
        self._can_lead = False
        self._has_begun = self._is_started = self._only_watches = False
        self._has_hinted = False
        self._joined_at = 0.0
        self._checked_at = 0.0
        self._failure: str | None = None
        self._late: str | None = None  # why this process has not joined yet
        self._asked_at = 0.0
        self._yields_until = 0.0
        self.last_death: float | None = None
        self._at_end: list[Totals] | None = None  # what the others have used, all being over
        self._is_leaving = self._is_ending = self._serves = False
        self._joining = threading.Lock()
        self._worker: Worker[Request] = Worker(
            self._serve,
            name="genmeter-job",
            tick=self._turn,
            interval=_INTERVAL,
        )

    def configure(self, name: str | None, resource: Resource | None, *, resume: bool) -> None:
        """Set the job's name, and what its first process says of it; later calls do nothing.

        Args:
            name: The job's name; None for the processes that descend from one another.
            resource: The resource of its metrics; None if they are the application's.
            resume: Whether to go on with an earlier run of the named job.
        """
        if self._resource is None:
            self.name, self._resource, self._resume = name, resource, resume

    # --- who belongs together ------------------------------------------------------------------

    @property
    def is_joined(self) -> bool:
        """Whether this process shares a store with others."""
        return self._store is not None

    @property
    def expects_others(self) -> bool:
        """Whether this process belongs to a job that others may have begun."""
        return self._failure is None and self._has_others_by_birth

    @property
    def _has_others_by_birth(self) -> bool:
        return self.name is not None or meeting.is_child()

    @property
    def is_cut_off(self) -> bool:
        """Whether this process belongs to a job whose other processes it cannot reach."""
        return self._failure is not None and self._has_others_by_birth

    def hint(self) -> None:
        """Say how the workers of a web server become one job, if this is one of several."""
        worker = None if self._has_hinted else server_of_worker()
        if worker is not None and worker.workers != 1:
            self._has_hinted = True
            self._log(
                logging.WARNING,
                "this worker of %s counts apart from its other workers: its page and its totals "
                "are its own; set GENMETER_JOB to a name, the same for all of them, to make them "
                "one job",
                worker.server,
            )

    @property
    def may_have_others(self) -> bool:
        """Whether there may be other processes of the job."""
        if self._failure is not None:
            return False
        return self.expects_others or self._has_forked or meeting.may_have_children()

    @property
    def is_shared(self) -> bool:
        """Whether other processes of the job count, or should and cannot be reached."""
        return self._store is not None or self._failure is not None or self.may_have_others

    @property
    def failure(self) -> str | None:
        """Why this process counts alone although it belongs to a job; None if it does not."""
        return self._failure

    @property
    def leads(self) -> bool:
        """Whether this process leads the others."""
        return self._members is not None and self._members.leads

    def start(self, *, at_once: bool) -> None:
        """Start the job's thread, which joins, publishes and may begin to lead.

        Args:
            at_once: Whether the first look is now, rather than in a second.
        """
        self._is_started, self._only_watches = True, False
        if self._failure is None and self._worker.start() and at_once:
            self._worker.put(Request(self._turn))

    def watch(self) -> None:
        """Look for other processes from now on, without a part in what they lead and serve."""
        self._only_watches = not self._is_started
        if self._failure is None:
            self._worker.start()

    def start_with_children(self) -> None:
        """Take part from now on if this process has had children before, which may have events."""
        if self.name is None and meeting.has_earlier_children():
            self.start(at_once=True)

    def join(self, timeout: float = _GATE) -> bool:
        """Join if there are other processes; return whether this one has joined."""
        if self._store is None and self.may_have_others and not self._is_leaving:
            self._asked_at = time.monotonic()
            self._join_until(self._asked_at + timeout)
        return self._store is not None

    def _join_until(self, deadline: float) -> None:
        with deferral:
            self._join_in_turn(deadline)

    def _join_in_turn(self, deadline: float) -> None:
        if not self._joining.acquire(timeout=seconds_left(deadline)):
            return
        try:
            if self._store is None:
                self._enter(deadline)
            self._late = None
        except TimeoutError as error:
            self._put_off(error)
        except (meeting.FolderError, OSError, JobError, StoreError) as error:
            self._fail(error)
        finally:
            self._joining.release()

    def _put_off(self, error: Exception) -> None:
        """Try again at the next turn: another process is stopped, or slow."""
        if self._late is None and time.monotonic() - self._asked_at >= _LATE:
            self._log(
                logging.WARNING,
                "this process has not joined its job, which misses its numbers until it has: %s; "
                "is another process of the job stopped?",
                error,
            )
        self._late = str(error)

    def give_up_if_late(self) -> bool:
        """Count apart for good if this process could not join in time; return whether that is so."""
        if self._late is not None and self._store is None and self._failure is None:
            self._fail(JobError(self._late))
            return True
        return False

    def _fail(self, error: Exception) -> None:
        self._failure = str(error)
        self._log(
            logging.WARNING,
            "this process counts apart from the others of its job, which miss its numbers: %s",
            error,
        )

    def _enter(self, deadline: float) -> None:
        entry = Entry(self.name, self._resource, resume=self._resume, log=self._log)
        may_be_alone = not (self.expects_others or self.spending.is_used)
        entered = entry.enter(deadline, may_be_alone=may_be_alone)
        if entered is None:
            return
        self._folder, self._members, store, self._number, self._resource = entered
        self._serves = self.name is not None and server_of_worker() is not None
        self._merger = Merger(store)
        self._joined_at = self._checked_at = time.monotonic()
        self._publisher.begin()
        self._begin_to_use(store, entered.members)

    def _begin_to_use(self, store: Store, members: Members) -> None:
        """Use the store from now on, with what this process has reserved so far."""

        def attach() -> None:
            self._store = store

        try:
            self.spending.enter(store, self._number, attach)
        except (StoreError, TimeoutError) as error:
            members.close()
            raise JobError(str(error)) from error

    # --- publishing ----------------------------------------------------------------------------

    def attach(self, changes: Changes, on_lead: Callable[[], object]) -> None:
        """Publish the changes of a new provider, whose series begin at 0, and lead if nobody does.

        Args:
            changes: What changes in the provider.
            on_lead: Called when this process begins to lead, on a thread of the job.
        """
        self._publisher.changes = changes
        self._on_lead = on_lead
        self._can_lead = True

    def detach(self) -> None:
        """Stop leading, and keep what a provider that is over has published as of the past."""
        self._can_lead = False
        self.stop_leading()
        self._publisher.end_provider(self._store, self._number)

    def publish_soon(self) -> None:
        """Join if this process belongs to a job, and publish, on the job's thread; never waits."""
        if self.may_have_others and self._worker.start():
            self._worker.put(Request(self._turn))

    @contextlib.contextmanager
    def turn(self, deadline: float) -> Iterator[None]:
        """Keep other processes of the job from entering the same block, until a deadline.

        Args:
            deadline: On the clock of ``time.monotonic()``; the block is entered then anyway.
        """
        members = self._members
        if members is None:
            yield
            return
        with members.turn(deadline):
            yield

    def publish(self, timeout: float) -> bool:
        """Publish what changed, now; return whether the store has it. True if there is no store.

        Args:
            timeout: Seconds to wait.
        """
        if self._store is None:
            return self._failure is None
        request = Request(self._publish)
        if self._worker.start():
            self._worker.put(request)
            if not request.wait(timeout) and request.cancel():
                return False
        else:
            request.answer(lambda function: function())
        return request.error is None and request.result is True

    def flush(self, deadline: float) -> None:
        """Join if this process belongs to a job, and publish.

        Args:
            deadline: On the clock of ``time.monotonic()``.

        Raises:
            TimeoutError: The store does not have everything in time.
        """
        if not self.join(seconds_left(deadline)):
            return
        if not self.publish(max(_MIN_TIMEOUT, seconds_left(deadline))):
            raise TimeoutError("the job's store does not have the last events of this process yet")

    def _serve(self, requests: Sequence[Request]) -> None:
        for request in requests:
            request.answer(lambda function: function())

    def _publish(self, timeout: float = _PUBLISH) -> bool:
        """Write what changed; return whether that was possible."""
        store = self._store
        if store is None:
            return False
        is_root = self.name is None and not meeting.is_child()
        try:
            self.refusals.write(store)
        except StoreError as error:
            self._publisher.report(error)
        return self._publisher.publish(store, self._number, is_root=is_root, timeout=timeout)

    # --- the thread ----------------------------------------------------------------------------

    def _turn(self) -> None:
        """Join, publish, and lead; called once a second."""
        if self._is_leaving:
            return
        if not self.join():
            is_alone = not self.expects_others  # or cut off
            if is_alone and not (self._only_watches or self._has_begun):
                self._has_begun = True
                self._on_lead()
            if self._failure is not None:
                self._worker.close()
            return
        self._check_folder()
        self._publish()
        members = self._members
        if members is None:
            return
        may_lead = self._can_lead and not self._only_watches and self._may_lead(members)
        if may_lead and members.lead() and not self._has_begun:
            self._has_begun = True
            self._unset_closing()
            self._on_lead()
        if members.leads:
            self.fold_the_dead()
            census = self.census()
            self.last_death = None if census is None else census.last_death

    def _may_lead(self, members: Members) -> bool:
        """Return whether it is this process's turn, should nobody lead.

        The process that started the others has shown the job's numbers before, so it goes first.
        """
        if time.monotonic() < self._yields_until:
            return False
        family = meeting.family()
        if self.name is not None or family.root in (0, os.getpid()):
            return True
        is_early = time.monotonic() - self._joined_at < _HOLD_OFF
        return not (is_early and is_running(family.root) and not members.has_leader())

    def fold_the_dead(self) -> bool:
        """Add processes that are gone to the past, which frees what they had reserved.

        Returns:
            Whether there were any.
        """
        store, members = self._store, self._members
        found = False
        if store is None or members is None:
            return found
        try:
            for number, byte, state in store.processes():
                is_running = state == State.RUNNING and members.is_alive(byte)
                if number == self._number or is_running:
                    continue
                store.fold(number, combine)
                found = True
        except StoreError as error:
            self._publisher.report(error)
        return found

    def _check_folder(self) -> None:
        """Join again if the folder was removed, as some systems do with old temporary files."""
        members = self._members
        now = time.monotonic()
        if members is None or members.is_current:
            if members is not None and now - self._checked_at > _CHECK:
                self._checked_at = now
                with contextlib.suppress(OSError):
                    members.touch()
            return
        self._log(
            logging.WARNING,
            "the folder of the job %s was removed; what ended processes had counted is lost",
            self._folder,
        )
        # Whoever led goes on leading: it listens already.
        self._yields_until = 0.0 if members.leads else now + _HOLD_OFF
        with self._publisher.lock:
            if self._store is not None:
                self._store.close()
            members.close()
            self._store = self._members = self._merger = None
        self._has_begun = False
        self.join()

    # --- reading -------------------------------------------------------------------------------

    def collect(self, timeout: float) -> MetricsData:
        """Publish what changed here, and return the metrics of the job.

        Only what is published is shown, here too: whichever process answers next shows no less.

        Raises:
            JobError: The store cannot be read.
        """
        self.publish(timeout / 2)
        if not self._publisher.has_published:  # this process may have shown more before it joined
            raise JobError("the store of the job does not have the numbers of this process yet")
        merger, resource = self._merger, self._resource
        if merger is None or resource is None:
            raise JobError(f"the folder of the job {self._folder} was removed")
        try:
            return merger.collect(resource)
        except StoreError as error:
            raise JobError(str(error)) from error

    def token_usage(self) -> TokenUsageReport:
        """Sum the tokens by model over all processes of the job.

        Raises:
            JobError: The store cannot be read.
        """
        store = self._store
        own = self._usage()
        if store is None:
            if self._late is not None:
                raise JobError(self._late)
            if not self._is_leaving or not self._number:
                return own
            if self._at_end is None:
                raise JobError("this process has left its job, whose other processes go on")
            return TokenUsageReport.merge([own, report_of_totals(self._at_end)])
        try:
            others = store.usage(without=self._number)
        except StoreError as error:
            raise JobError(str(error)) from error
        found = TokenUsageReport.merge([own, report_of_totals(others)])
        return found if self.is_complete else dataclasses.replace(found, complete=False)

    def census(self) -> Census | None:
        """Return how many processes run, ended and died; None if there is no store to ask."""
        store = self._store
        try:
            return None if store is None else store.census()
        except StoreError:
            return None

    # --- budgets -------------------------------------------------------------------------------

    @property
    def store(self) -> Store | None:
        """The store; None if this process has not joined."""
        return self._store

    @property
    def number(self) -> int:
        """The number of this process in the store."""
        return self._number

    def require_store(self) -> Store | None:
        """Return the store, after joining if there may be others; None if this process is alone.

        Raises:
            JobError: The others cannot be reached.
        """
        if self._store is not None and (self._root.is_over or self.name is not None):
            return self._store
        if not self.join() and self._is_leaving and self._number:
            raise JobError("this process has left its job, since it ends")
        if self._failure is not None:
            raise JobError(self._failure)
        if self._store is None and self.may_have_others:
            raise JobError("the lock of the job was not free in time; try again")
        if self._store is not None and self.name is None:
            self._root.wait(self._store, self._joined_at)
        return self._store

    @property
    def is_complete(self) -> bool:
        """Whether the job's sums have what the process had used that started this one.

        Raises:
            JobError: The store cannot be read.
        """
        store = self._store
        return store is None or self.name is not None or self._root.is_complete(store)

    def note_used(self) -> None:
        """Let the processes that this one starts know that it has used or reserved something."""
        meeting.note_used()

    def post(self, function: Callable[[], object]) -> bool:
        """Have the job's thread call a function; return whether there is a thread."""
        return self._worker.start() and self._worker.put(Request(function))

    def add_refusal(self, reason: str) -> None:
        """Count a call that the job's budget refused; never waits.

        Args:
            reason: Why it was refused.
        """
        is_first = not self.refusals
        self.refusals.add(reason)
        if is_first:  # a process whose calls are refused may end, or be killed, soon
            self.publish_soon()

    def refused(self) -> Refused:
        """Return the calls that the budget refused in all processes of the job.

        Raises:
            JobError: The other processes cannot be reached.
        """
        self.join()
        store, failure = self._store, self._failure or self._late
        if store is None and failure is not None:
            raise JobError(failure)
        try:
            return self.refusals.read(store)
        except StoreError as error:
            raise JobError(str(error)) from error

    # --- the end -------------------------------------------------------------------------------

    def take_over_at_end(self, deadline: float) -> bool:
        """Publish, and return whether this process has to push the last state of the job.

        That is so if it leads, or if the leader is at its own end and may have missed what was just
        published.
        """
        store, members = self._store, self._members
        self.publish(seconds_left(deadline))
        if store is None or members is None:
            return True
        if self.name is None and self._may_lead(members) is False:
            return False
        try:
            while not members.lead():
                if store.value(_CLOSING) is None or time.monotonic() >= deadline:
                    return False
                time.sleep(_POLL)
            store.set_value(_CLOSING, "1")
            self.fold_the_dead()  # so that the last page and push have no state of them
        except StoreError as error:
            self._publisher.report(error)
        return True

    def lead_at_start(self) -> bool:
        """Return whether this process may listen at once: nobody else of its job leads."""
        if not self.expects_others:
            return True
        is_first = self.name is not None or meeting.has_earlier_children()
        if not is_first or not self.join():
            return self._failure is not None
        return self._members is not None and self._members.lead()

    def has_other_processes(self) -> bool:
        """Return whether other processes of the job run; of those that died, some may not be known.

        So their locks are asked, not only the store.
        """
        store, members = self._store, self._members
        if store is None or members is None:
            return False
        try:
            found = store.processes()
        except StoreError:
            return False
        return any(
            number != self._number and state == State.RUNNING and members.is_alive(byte)
            for number, byte, state in found
        )

    def stop_leading(self) -> None:
        """Let the next process lead."""
        if self._members is not None and self._members.leads:
            self._unset_closing()
            self._members.stop_leading()
        self._has_begun = False

    def _unset_closing(self) -> None:
        if self._store is not None:
            with contextlib.suppress(StoreError):
                self._store.unset_value(_CLOSING)

    def leave(self, deadline: float) -> None:
        """Publish a last time and leave; the last process removes the folder."""
        self._is_leaving = True
        self._worker.close()
        store, members, folder = self._store, self._members, self._folder
        end = JobEnd(self.name, self._resume, self._serves)
        if store is None or members is None or folder is None:
            self.give_up_if_late()
            end.remove_unjoined(deadline)
            return
        self._publish(seconds_left(deadline))
        self.stop_leading()
        if not self.has_other_processes():
            with contextlib.suppress(StoreError):
                self._at_end = store.usage(without=self._number)
        self._store = self._merger = None
        with contextlib.suppress(StoreError):
            store.end(self._number)
        with contextlib.suppress(TimeoutError, OSError):
            with members.gate(deadline):
                members.leave()
                if self.name is not None:
                    with contextlib.suppress(StoreError):
                        note_end(store)
                is_removed = end.remove_if_over(
                    store, members, folder, is_asked_to_end=self._is_ending
                )
            # The other workers of a server that ends may not have recorded, and so not have joined.
            patience = min(deadline, time.monotonic() + _SERVER_END)
            while is_removed is False and self._serves and self._is_ending:
                if time.monotonic() >= patience:
                    break
                time.sleep(_POLL)
                with members.gate(deadline):
                    is_removed = not members.is_current or end.remove_if_over(
                        store, members, folder, is_asked_to_end=self._is_ending
                    )
        store.close()
        members.close()

    def note_ending(self) -> None:
        """Note that SIGTERM has come, which a server sends to its workers at its own end."""
        self._is_ending = True

    # --- fork ----------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Note that there may be other processes of the job from now on."""
        self._has_forked = True
        if self.spending.is_used:  # a child sees what is used and reserved here
            with contextlib.suppress(TimeoutError):
                self.flush(time.monotonic() + _FORK)

    def after_fork_in_child(self, *, parent_has_used: bool = True) -> None:
        """Begin as a process of its own, which has not joined; takes no lock.

        Args:
            parent_has_used: Whether the parent has recorded anything.
        """
        members = self._members
        meeting.after_fork_in_child()
        self._forget()
        self._has_forked = False
        self._root.begin(forked_by=os.getppid(), parent_has_used=parent_has_used)
        if members is not None:
            members.close()
