"""A process's part in a job of several processes.

A process is alone until there is another one: then it does no file I/O. A named job, and a process
that another one of the job has started, joins at its first event; the process that started it looks
for them once a second. From then on all of them publish what changed once a second, on a thread of
their own, and whichever is asked answers for the job.

One of them leads: it listens, and pushes. When it ends, the next one takes over within a second.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import time
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import (
    PROCESS_PID,
    SERVICE_INSTANCE_ID,
    OTELResourceDetector,
    Resource,
)

from genmeter.clock import seconds_left
from genmeter.history.token_report import ModelTokenUsage, TokenUsageReport
from genmeter.job import _place
from genmeter.job._members import Members
from genmeter.job._servers import server_of_worker
from genmeter.job.merged import Merger, combine, definition_of, labels_text
from genmeter.job.store import State, Store, StoreError, Totals, pack
from genmeter.pipeline.drain import Request
from genmeter.pipeline.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence
    from pathlib import Path

    from opentelemetry.sdk.metrics.export import MetricsData

    from genmeter.job.store import Census
    from genmeter.metrics.changes import Change, Changes

__all__ = ["Job", "JobError", "mark_run"]

_INTERVAL = 1.0  # seconds between two publications
_GATE = 5.0  # seconds that joining and leaving may wait
_HOLD_OFF = 3.0  # seconds that a child leaves the lead to the process that started it
_CHECK = 3_600.0  # seconds between two looks at the folder
_RESUMABLE = 30 * 86_400.0  # seconds that the totals of a job that may be resumed are kept
_POLL = 0.02
_MIN_TIMEOUT = 0.1
_LOCKS, _STORE = "members.lock", "job.sqlite"
_CLOSING = "closing"


class JobError(Exception):
    """The other processes of the job cannot be reached; the text says why."""


class Job:
    """This process's part in its job.

    Args:
        usage: Returns the usage of this process so far; called on any thread but the owner's.
        log: Called like ``Logger.log``; must not wait.

    Attributes:
        name: The job's name; None for the processes that descend from one another.
    """

    def __init__(
        self,
        *,
        usage: Callable[[], TokenUsageReport],
        log: Callable[..., None],
    ) -> None:
        self._usage = usage
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
        self._changes: Changes | None = None
        self._sent_usage: dict[str, Totals] = {}
        self._released: list[int] = []
        self._can_lead = False
        self._has_begun = False
        self._joined_at = 0.0
        self._checked_at = 0.0
        self._failure: str | None = None
        self._is_failing = False
        self._is_leaving = False
        self._joining = threading.Lock()
        self._publishing = threading.Lock()
        self._worker: Worker[Request] = Worker(
            self._serve,
            name="genmeter-job",
            tick=self._turn,
            interval=_INTERVAL,
        )

    def configure(self, name: str | None, resource: Resource, *, resume: bool) -> None:
        """Set the job's name, and what its first process says of it; later calls do nothing."""
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
        return self.name is not None or _place.is_child()

    @property
    def is_cut_off(self) -> bool:
        """Whether this process belongs to a job whose other processes it cannot reach."""
        return self._failure is not None and self._has_others_by_birth

    def hint(self) -> None:
        """Say how the workers of a web server become one job, if this is one of several."""
        worker = server_of_worker()
        if worker is not None and worker.workers != 1:
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
        return self.expects_others or self._has_forked or _place.may_have_children()

    @property
    def failure(self) -> str | None:
        """Why this process counts alone although it belongs to a job; None if it does not."""
        return self._failure

    @staticmethod
    def own_resource(name: str | None, resource_from_env: Callable[..., Resource]) -> Resource:
        """Return this process's resource, whose instance id all of the family share.

        It is that of the family's first process. If that one does not use genmeter, it is that of
        the environment, if there is one.

        Args:
            name: The job's name.
            resource_from_env: Called with ``is_shared``, whether other processes of the same
                environment count apart; or with ``instance``, the id to use.
        """
        family = _place.family()
        if family.root == os.getpid():
            is_apart = name is None and server_of_worker() is not None
            found = resource_from_env(is_shared=is_apart)
            own = str(found.attributes[SERVICE_INSTANCE_ID])
            instance = _place.adopt_instance(own)
            if instance == own:
                return found
        elif family.root == 0:
            set_by_user = OTELResourceDetector().detect().attributes.get(SERVICE_INSTANCE_ID)
            instance = str(set_by_user or family.instance)
        else:
            instance = family.instance
        return resource_from_env(instance=instance)

    @property
    def leads(self) -> bool:
        """Whether this process leads the others."""
        return self._members is not None and self._members.leads

    def start(self, *, at_once: bool) -> None:
        """Start the job's thread, which joins, publishes and may begin to lead.

        Args:
            at_once: Whether the first look is now, rather than in a second.
        """
        if self._failure is None and self._worker.start() and at_once:
            self._worker.put(Request(self._turn))

    def look(self, timeout: float = _GATE) -> bool:
        """Join if there are other processes; return whether this one has joined."""
        if self._store is None and self.may_have_others and not self._is_leaving:
            self._join(time.monotonic() + timeout)
        return self._store is not None

    def _join(self, deadline: float) -> None:
        if not self._joining.acquire(timeout=seconds_left(deadline)):
            return
        try:
            if self._store is None:
                self._enter(deadline)
        except (_place.FolderError, OSError, JobError, TimeoutError) as error:
            self._fail(error)
        finally:
            self._joining.release()

    def _fail(self, error: Exception) -> None:
        self._failure = str(error)
        self._log(
            logging.WARNING,
            "this process counts apart from the others of its job, which miss its numbers: %s",
            error,
        )

    def _enter(self, deadline: float) -> None:
        family = _place.family()
        key = family.key if self.name is None else _place.folder_of(self.name)
        if not self.expects_others and not (_place.top() / key / _LOCKS).exists():
            return  # no child has recorded anything
        top = _place.root()
        folder = top / key
        _clean(top, but=key)
        while True:
            _place.make_private(folder)
            members = Members(folder / _LOCKS)
            try:
                with members.gate(deadline):
                    if not members.is_current:  # the last process has removed it meanwhile
                        members.close()
                        continue
                    store = Store(folder / _STORE)
                    if members.is_empty() or not (folder / _STORE).exists():
                        lost = store.create(
                            self._description(),
                            keep=self.name is None or self._resume,
                        )
                        if lost is not None:
                            self._log(
                                logging.WARNING,
                                "what the job has counted so far is lost, and it begins at 0: %s",
                                lost,
                            )
                    else:
                        store.check_version()
                    number = store.add_process(os.getpid(), members.enter())
                break
            except StoreError as error:
                members.close()
                raise JobError(str(error)) from error
            except BaseException:
                members.close()
                raise
        self._folder, self._members, self._number = folder, members, number
        self._merger = Merger(store)
        self._joined_at = self._checked_at = time.monotonic()
        found = store.value("resource")
        if found is not None:
            self._resource = Resource(json.loads(found))
        if self._changes is not None:
            self._changes.forget_accepted()
        self._store = store

    def _description(self) -> dict[str, str]:
        assert self._resource is not None  # noqa: S101 - configured before
        attributes = dict(self._resource.attributes)
        attributes.pop(PROCESS_PID, None)
        found = {"resource": json.dumps(attributes)}
        return {**found, "resume": "1"} if self._resume else found

    # --- publishing ----------------------------------------------------------------------------

    def attach(self, changes: Changes, on_lead: Callable[[], object]) -> None:
        """Publish the changes of a new provider, whose series begin at 0, and lead if nobody does.

        Args:
            changes: What changes in the provider.
            on_lead: Called when this process begins to lead, on a thread of the job.
        """
        self._changes = changes
        self._on_lead = on_lead
        self._can_lead = True

    def detach(self) -> None:
        """Stop leading, and keep what a provider that is over has published as of the past."""
        self._can_lead = False
        self.stop_leading()
        with self._publishing:
            if self._store is not None and self._changes is not None:
                self._settle(self._store)
            self._changes = None

    def _settle(self, store: Store) -> None:
        try:
            store.settle(self._number, combine)
        except StoreError as error:
            self._report(error)

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
        if not self.look(seconds_left(deadline)):
            return
        if not self.publish(max(_MIN_TIMEOUT, seconds_left(deadline))):
            raise TimeoutError("the job's store does not have the last events of this process yet")

    def _serve(self, requests: Sequence[Request]) -> None:
        for request in requests:
            request.answer(lambda function: function())

    def _publish(self, timeout: float = 2.0) -> bool:
        """Write what changed; return whether that was possible."""
        store = self._store
        if store is None or not self._publishing.acquire(timeout=timeout):
            return False
        try:
            released, self._released = self._released, []
            try:
                changes = self._changes.take(timeout) if self._changes is not None else []
                usage = self._changed_usage()
                if changes or usage or released:
                    self._write(store, changes, usage, released)
                if self._changes is not None and (gone := self._changes.gone()):
                    numbers = [each.number for each in gone if each.number is not None]
                    store.forget_observed(self._number, numbers)
            except (StoreError, TimeoutError) as error:
                self._released = [*released, *self._released]
                self._report(error)
                return False
            self._is_failing = False
            return True
        finally:
            self._publishing.release()

    def _write(
        self,
        store: Store,
        changes: list[Change],
        usage: list[Totals],
        released: Sequence[int],
    ) -> None:
        new = [each.series for each in changes if each.series.number is None]
        if new:
            is_root = self.name is None and not _place.is_child()
            rows = [
                (definition_of(each.origin), labels_text(each.attributes), each.start or 0)
                for each in new
            ]
            for series, number in zip(new, store.number_series(rows, is_root=is_root), strict=True):
                series.number = number
        cells = [
            (
                series.number or 0,
                value,
                None if buckets is None else pack(*buckets),
            )
            for series, value, buckets in changes
        ]
        store.publish(self._number, cells, usage, released)
        if self._changes is not None:
            self._changes.accept(changes)
        self._sent_usage.update((each.model, each) for each in usage)

    def _changed_usage(self) -> list[Totals]:
        return [each for each in self.own_usage() if self._sent_usage.get(each.model) != each]

    def own_usage(self) -> list[Totals]:
        """Return the usage of this process so far, by model."""
        return totals_of(self._usage())

    def _report(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._log(
                logging.WARNING,
                "what this process counts cannot be published to its job, which goes on without "
                "it for now: %s",
                error,
            )

    # --- the thread ----------------------------------------------------------------------------

    def _turn(self) -> None:
        """Join, publish, and lead; called once a second."""
        if self._is_leaving:
            return
        if not self.look():
            if self._failure is not None:
                self._on_lead()  # of itself alone
                self._worker.close()
            return
        self._check_folder()
        self._publish()
        members = self._members
        if members is None:
            return
        if self._can_lead and not self._has_begun and self._may_lead(members) and members.lead():
            self._has_begun = True
            self._unset_closing()
            self._on_lead()
        if members.leads:
            self._fold_the_dead()

    def _may_lead(self, members: Members) -> bool:
        """Return whether it is this process's turn, should nobody lead.

        The process that started the others has shown the job's numbers before, so it goes first.
        """
        family = _place.family()
        if self.name is not None or family.root in (0, os.getpid()):
            return True
        is_early = time.monotonic() - self._joined_at < _HOLD_OFF
        return not (is_early and _is_running(family.root) and not members.has_leader())

    def _fold_the_dead(self) -> None:
        store, members = self._store, self._members
        if store is None or members is None:
            return
        try:
            for number, byte, state in store.processes():
                if number == self._number or (state != State.ENDED and members.is_alive(byte)):
                    continue
                store.fold(number, combine)
        except StoreError as error:
            self._report(error)

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
        with self._publishing:
            if self._store is not None:
                self._store.close()
            members.close()
            self._store = self._members = self._merger = None
            self._sent_usage.clear()
        self.look()

    # --- reading -------------------------------------------------------------------------------

    def collect(self, timeout: float) -> MetricsData:
        """Publish what changed here, and return the metrics of the job.

        Only what is published is shown, here too: whichever process answers next shows no less.

        Raises:
            JobError: The store cannot be read.
        """
        self.publish(timeout / 2)
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
            return own
        try:
            others = store.usage(without=self._number)
        except StoreError as error:
            raise JobError(str(error)) from error
        return TokenUsageReport.merge([own, report_of_totals(others)])

    def census(self) -> Census | None:
        """Return how many processes run, ended and died; None if there is no store to ask."""
        store = self._store
        try:
            return None if store is None else store.census()
        except StoreError:
            return None

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
            self._fold_the_dead()  # so that the last page and push have no state of them
        except StoreError as error:
            self._report(error)
        return True

    def lead_at_start(self) -> bool:
        """Return whether this process may listen at once: nobody else of its job leads."""
        if not self.expects_others:
            return True
        if self.name is None or not self.look():
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
        if store is None or members is None or folder is None:
            return
        self._publish(seconds_left(deadline))
        self.stop_leading()
        self._store = self._merger = None
        with contextlib.suppress(StoreError):
            store.end(self._number)
        with contextlib.suppress(TimeoutError, OSError), members.gate(deadline):
            members.leave()
            if members.is_empty() and self._is_over():
                store.close()
                _remove(folder)
        store.close()
        members.close()

    def _is_over(self) -> bool:
        if self._resume:
            return False
        root = _place.family().root
        return self.name is not None or root in (0, os.getpid()) or not _is_running(root)

    # --- fork ----------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Note that there may be other processes of the job from now on."""
        _place.before_fork()
        self._has_forked = True

    def after_fork_in_child(self) -> None:
        """Begin as a process of its own, which has not joined; takes no lock."""
        members = self._members
        _place.after_fork_in_child()
        self._forget()
        self._has_forked = False
        if members is not None:
            members.close()


def mark_run(environ: MutableMapping[str, str]) -> None:
    """Make all processes below this one, the main process of ``genmeter run``, one job."""
    _place.mark_run(environ, os.getpid())


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def totals_of(report: TokenUsageReport) -> list[Totals]:
    """Return a report as rows of the store."""
    rows: list[Totals] = []
    models = {usage.model_name: usage for usage in report.by_model}
    for model in dict.fromkeys([*models, *report.without_usage]):
        usage = models.get(model) or ModelTokenUsage(model, 0, 0, 0)
        rest = [
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
            usage.calls,
            usage.unpriced_calls,
            report.without_usage.get(model, 0),
        ]
        rows.append(Totals(model, usage.total_tokens, usage.cost_usd, json.dumps(rest)))
    return rows


def report_of_totals(rows: Sequence[Totals]) -> TokenUsageReport:
    """Return rows of the store as a report."""
    reports: list[TokenUsageReport] = []
    for model, tokens, usd, rest in rows:
        prompt, completion, read, write, reasoning, calls, unpriced, without = json.loads(rest)
        usage = ModelTokenUsage(
            model,
            prompt,
            completion,
            tokens,
            cache_read_tokens=read,
            cache_write_tokens=write,
            reasoning_tokens=reasoning,
            calls=calls,
            unpriced_calls=unpriced,
            cost_usd=usd,
        )
        reports.append(
            TokenUsageReport(
                by_model=[usage],
                total_prompt_tokens=prompt,
                total_completion_tokens=completion,
                total_tokens=tokens,
                without_usage={model: without} if without else {},
            )
        )
    return TokenUsageReport.merge(reports)


def _clean(top: Path, but: str) -> None:
    """Remove the folders of jobs that are over, and whose last process could not do it."""
    for folder in list(top.iterdir()):
        if folder.name == but or not _place.is_safe(folder):
            continue
        with contextlib.suppress(OSError, TimeoutError, StoreError):
            if folder.name.startswith("."):  # half removed
                shutil.rmtree(folder, ignore_errors=True)
                continue
            if not (folder / _LOCKS).exists():
                _remove_if_old(folder)
                continue
            members = Members(folder / _LOCKS)
            try:
                with members.gate(time.monotonic()):
                    if not members.is_current or not members.is_empty():
                        continue
                    if _is_kept(folder, Store(folder / _STORE)):
                        continue
                    _remove(folder)
            finally:
                members.close()


def _is_kept(folder: Path, store: Store) -> bool:
    """Return whether a job without processes may go on."""
    root = folder.name.rpartition("-")[2]
    if folder.name.startswith("family-") and root.isdigit() and _is_running(int(root)):
        return True
    if not (folder / _STORE).exists():
        return False
    try:
        is_resumable = store.value("resume") is not None
    except StoreError:  # damaged: nobody can go on with it
        is_resumable = False
    finally:
        store.close()
    return is_resumable and time.time() - (folder / _STORE).stat().st_mtime < _RESUMABLE


def _remove_if_old(folder: Path) -> None:
    # A process that joins has created it, and not yet its lock.
    if time.time() - folder.stat().st_mtime > _GATE * 2:
        shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Remove a folder; its new name tells that the removal has begun."""
    gone = folder.with_name(f".{folder.name}-{os.getpid()}-{time.monotonic_ns()}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
