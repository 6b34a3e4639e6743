"""A process's part in its job."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from _other import Other
from opentelemetry.sdk.resources import Resource

from _waiting import eventually, soon
from genmeter.history.token_report import ModelTokenUsage, TokenUsageReport, UsageTotals
from genmeter.job import _entry, meeting
from genmeter.job import job as job_module
from genmeter.job.forks import Forks
from genmeter.job.job import Job, JobError
from genmeter.job.store import Store, StoreError
from genmeter.job.usage_rows import report_of_totals, totals_of
from genmeter.metrics.changes import Changes
from genmeter.metrics.meter import BuiltinMeterProvider
from unit.metrics._meters import LockedOwner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RESOURCE = Resource({"service.name": "s", "service.instance.id": "i", "process.pid": 1})


@pytest.fixture(autouse=True)
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of all jobs, of a process that was not asked for its family.

    Turns are taken by the tests, not by a thread.
    """
    monkeypatch.setattr(job_module, "_INTERVAL", 1e6)
    # Each part stands for a process of its own, which has not been there before.
    monkeypatch.setattr(_entry, "own_start", lambda: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(meeting._Known, "family", None)
    monkeypatch.setattr(meeting._Known, "temporary", "")
    monkeypatch.setattr(meeting._Known, "has_earlier_children", False)
    monkeypatch.setattr(Forks, "is_forked", False)
    monkeypatch.setattr(Forks, "has_forked", False)
    monkeypatch.setattr(meeting._Known, "has_instance", False)
    monkeypatch.setenv(meeting.FAMILY, "")
    return tmp_path / f"genmeter-{os.getuid()}"


class Part:
    """A part in a job, with a provider of one counter."""

    def __init__(self, name: str | None = "j", *, resume: bool = False) -> None:
        self.lines: list[str] = []
        self.tokens = 0
        self.led = 0
        self.job = Job(usage=self._usage, totals=self._totals, log=self._log)
        self.job.configure(name, RESOURCE, resume=resume)
        self.provider = BuiltinMeterProvider(
            LockedOwner(), resource=RESOURCE, cardinality_limit=100
        )
        self.counter = self.provider.get_meter("app").create_counter("c")
        self.job.attach(Changes(self.provider), self._lead)

    def _usage(self) -> TokenUsageReport:
        usage = ModelTokenUsage("m", self.tokens, 0, self.tokens, calls=1)
        return TokenUsageReport(
            by_model=[usage], total_prompt_tokens=self.tokens, total_tokens=self.tokens
        )

    def _totals(self) -> UsageTotals:
        return UsageTotals(self.tokens, 0.0, self.tokens, ())

    def _log(self, level: int, text: str, *rest: object) -> None:
        if level >= logging.WARNING:
            self.lines.append(text % rest)

    def _lead(self) -> None:
        self.led += 1

    def add(self, tokens: int) -> None:
        """Count some tokens."""
        self.tokens += tokens
        self.counter.add(tokens)

    def total(self) -> float:
        """Return the counter of the job."""
        data = self.job.collect(5.0)
        return sum(
            point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "c"
            for point in metric.data.data_points
            if hasattr(point, "value")
        )


@pytest.fixture
def part() -> Iterator[Callable[..., Part]]:
    """Return a factory of parts, which leave at the end."""
    made: list[Part] = []

    def make(name: str | None = "j", *, resume: bool = False) -> Part:
        made.append(Part(name, resume=resume))
        return made[-1]

    yield make
    for each in made:
        each.job.leave(soon())


def other_process(top: Path, folder: str) -> Other:
    """Return another process of a job, which has joined with 100 tokens of the counter ``c``."""
    other = Other(top / folder)
    other("[space.setdefault('m', Members(path / 'members.lock'))] and None")
    other("[space.setdefault('s', Store(path / 'job.sqlite'))] and None")
    other("[space.setdefault('n', s.add_process(os.getpid(), m.enter()))] and None")
    other("s.publish(n, [(1, 100, None)], [Totals('m', 100, 0.5, '[100,0,0,0,0,1,0,0]')])")
    return other


class _BusyOwner(LockedOwner):
    """An owner that drains a further call right after each visit."""

    def __init__(self) -> None:
        super().__init__()
        self.after: Callable[[], object] = lambda: None

    def run(self, function: Callable[[], Any], timeout: float | None = None) -> Any:
        """Call a function under the lock, and drain."""
        try:
            return super().run(function, timeout)
        finally:
            self.after()


# --- alone ---------------------------------------------------------------------------------------


def test_a_process_alone_does_no_file_io(part: Callable[..., Part], top: Path) -> None:
    """Whatever is asked of it."""
    alone = part(None)
    alone.add(5)
    job = alone.job
    assert not job.join()
    assert not job.expects_others
    assert not job.may_have_others
    assert job.publish(1.0)
    job.flush(soon())
    job._turn()
    assert job.lead_at_start()
    assert not job.has_other_processes()
    assert job.take_over_at_end(soon())
    assert job.token_usage().total_tokens == 5
    assert job.census() is None
    job.leave(soon())
    assert not top.exists()


def test_a_process_that_has_forked_makes_no_folder(part: Callable[..., Part], top: Path) -> None:
    """Its first child that records does; until then there is nothing to share."""
    alone = part(None)
    assert not alone.job.expects_others
    alone.job.before_fork()
    assert alone.job.may_have_others
    assert not alone.job.join()
    assert not top.exists()


# --- joined --------------------------------------------------------------------------------------


def test_a_named_job_is_joined_at_the_first_look(part: Callable[..., Part], top: Path) -> None:
    """Its folder is the user's alone, and is gone after the last process has left."""
    one = part("a/b")
    assert not one.job.is_joined
    one.add(5)
    assert one.job.join()
    folder = top / meeting.folder_of("a/b")
    assert meeting.is_safe(folder)
    assert one.total() == 5
    one.add(2)
    assert one.total() == 7
    assert one.job.token_usage().total_tokens == 7
    one.job.leave(soon())
    assert list(top.iterdir()) == []
    assert one.lines == []


def test_the_others_are_counted(part: Callable[..., Part], top: Path) -> None:
    """Living, ended and killed; the dead are folded by the leader's turn."""
    one = part()
    one.add(5)
    one.job.flush(soon())
    with other_process(top, "job-j") as other:
        assert one.total() == 105
        assert one.job.token_usage().total_tokens == 105
        assert one.job.has_other_processes()
        one.job._turn()
        assert one.job.leads
        assert one.led == 1
        assert one.job.last_death is None
        other.kill()
        assert not one.job.has_other_processes()
        one.job._turn()
        census = one.job.census()
        assert census is not None
        assert one.job.last_death == census.last_death is not None
        assert (census.running, census.ended, census.died) == (1, 0, 1)
        assert one.total() == 105
        assert one.job.token_usage().total_tokens == 105


def test_the_next_leads_when_the_leader_is_gone(part: Callable[..., Part], top: Path) -> None:
    """A turn later, once."""
    one = part()
    one.add(1)
    one.job.flush(soon())
    with other_process(top, "job-j") as other:
        assert other("m.lead()") is True
        one.job._turn()
        assert not one.job.leads
        assert not one.job.lead_at_start()
        other.kill()
        one.job._turn()
        one.job._turn()
        assert one.job.leads
        assert one.led == 1


def test_a_child_leaves_the_lead_to_its_parent_for_a_while(
    part: Callable[..., Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent has shown the numbers before; a parent that is gone is not waited for."""
    monkeypatch.setattr(meeting._Known, "family", meeting.Family("family-x-1", "i", os.getppid()))
    child = part(None)
    child.job._turn()
    assert child.job.is_joined
    assert not child.job.leads
    monkeypatch.setattr(job_module, "_HOLD_OFF", 0.0)
    child.job._turn()
    assert child.job.leads
    child.job.stop_leading()
    monkeypatch.setattr(job_module, "_HOLD_OFF", 1e6)
    monkeypatch.setattr(job_module, "is_running", lambda pid: False)
    child.job._turn()
    assert child.job.leads


def test_the_process_that_leads_pushes_at_its_end(part: Callable[..., Part], top: Path) -> None:
    """Others leave it to the leader, unless that one is at its own end."""
    one = part()
    one.add(1)
    one.job.flush(soon())
    with other_process(top, "job-j") as other:
        assert other("m.lead()") is True
        assert not one.job.take_over_at_end(soon())
        store = Store(top / "job-j" / "job.sqlite")
        store.set_value(job_module._CLOSING, "1")
        assert not one.job.take_over_at_end(time.monotonic() + 0.05)  # it is not done in time
        other.kill()
        assert one.job.take_over_at_end(soon())
        assert store.value(job_module._CLOSING) == "1"
        store.close()


def test_a_closed_providers_numbers_are_kept(part: Callable[..., Part]) -> None:
    """A monitor is made anew: the job's counter goes on."""
    one = part()
    one.add(5)
    one.job.join()
    assert one.total() == 5
    one.job.detach()
    provider = BuiltinMeterProvider(LockedOwner(), resource=RESOURCE, cardinality_limit=100)
    provider.get_meter("app").create_counter("c").add(2)
    one.job.attach(Changes(provider), lambda: None)
    assert one.total() == 7
    assert one.job.census() is not None


def test_the_first_process_says_what_the_jobs_resource_is(part: Callable[..., Part]) -> None:
    """Without its process id, which is not that of the job."""
    one = part()
    one.job.join()
    assert one.job.collect(5.0).resource_metrics == []  # nothing was recorded
    one.add(1)
    (resource,) = one.job.collect(5.0).resource_metrics
    assert dict(resource.resource.attributes) == {"service.name": "s", "service.instance.id": "i"}


def test_the_page_and_the_totals_are_of_one_moment(
    part: Callable[..., Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may be killed after any publication, whatever was recorded during it."""
    owner = _BusyOwner()
    one = part()
    one.provider = BuiltinMeterProvider(owner, resource=RESOURCE, cardinality_limit=100)
    one.counter = one.provider.get_meter("app").create_counter("c")
    one.job.attach(Changes(one.provider), one._lead)
    monkeypatch.setattr(one.job.spending, "_run", owner.run)
    one.add(5)
    one.job.join()
    store = one.job.store
    assert store is not None
    owner.after = lambda: one.add(3)
    for _ in range(3):
        assert one.job._publish()
        (found,) = store.usage()
        cells = store.read({}, 0, 0, "").cells[one.job.number]
        assert [cell.value for cell in cells] == [found.tokens]
    owner.after = lambda: None
    assert found.tokens >= 11  # of two publications at least


# --- faults --------------------------------------------------------------------------------------


def test_an_unsafe_folder_cuts_the_process_off_once(part: Callable[..., Part], top: Path) -> None:
    """It leads itself alone, and does not try again at each turn."""
    top.mkdir()
    top.chmod(0o755)
    one = part()
    one.add(5)
    for _ in range(3):
        one.job._turn()
        assert not one.job.join()
    assert one.job.is_cut_off
    assert not one.job.expects_others
    assert one.led >= 1
    assert one.job.lead_at_start()
    assert one.job.failure is not None
    assert "mode 0700" in one.job.failure
    assert len(one.lines) == 1
    assert "which miss its numbers" in one.lines[0]
    assert not one.job.publish(1.0)


def test_a_store_of_another_version_cuts_a_process_off(
    part: Callable[..., Part], top: Path
) -> None:
    """It does not destroy what the others have, whose version it is."""
    one = part()
    one.job.join()
    with other_process(top, "job-j") as other:
        one.job.leave(soon())
        other(
            "[space.setdefault('u', s._use()).__enter__().execute('PRAGMA user_version=999')] and None"
        )
        other("u.__exit__(None, None, None) and None")
        two = part()
        assert not two.job.join()
        assert two.job.is_cut_off
        assert len(two.lines) == 1
        assert "another version" in two.lines[0]
        assert other("s.census().running") == 1


def test_a_damaged_store_of_an_earlier_run_is_lost_with_a_word(
    part: Callable[..., Part], top: Path
) -> None:
    """The job goes on at 0."""
    one = part(resume=True)
    one.add(5)
    one.job.flush(soon())
    one.job.leave(soon())
    path = top / "job-j" / "job.sqlite"
    path.write_bytes(b"no database " * 1_000)
    two = part(resume=True)
    two.add(2)
    assert two.job.join()
    assert two.total() == 2
    assert len(two.lines) == 1
    assert "begins at 0" in two.lines[0]


def test_a_store_that_cannot_be_written_is_reported_once(
    part: Callable[..., Part], top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again after it worked; nothing is lost meanwhile."""
    one = part()
    one.add(1)
    one.job.flush(soon())
    store = one.job._store
    assert store is not None
    original = store.publish
    for failures in (1, 2):

        def fail(*_: object) -> None:
            raise StoreError("the disk is full")

        monkeypatch.setattr(store, "publish", fail)
        one.add(1)
        for _ in range(3):
            assert not one.job.publish(5.0)
        with pytest.raises(TimeoutError, match="does not have the last events"):
            one.job.flush(soon())
        assert len([line for line in one.lines if "the disk is full" in line]) == failures
        monkeypatch.setattr(store, "publish", original)
        assert one.total() == failures + 1


def test_refused_calls_of_all_processes_are_counted(part: Callable[..., Part]) -> None:
    """Those of this process at once, those of the others when they have published; the first reason."""
    one = part()
    assert one.job.refused() == (0, 0, None)
    one.job.add_refusal("spent here")
    assert one.job.refused() == (1, 0, "spent here")
    assert one.job.publish(5.0)
    one.job.add_refusal("spent here, later")
    store = one.job._store
    assert store is not None
    store.add_refusals(3, "spent elsewhere")
    assert one.job.refused() == (2, 3, "spent here")
    assert one.job.publish(5.0)
    assert store.refusals() == (5, "spent here")
    one.job.after_fork_in_child()
    assert not one.job.refusals


def test_refused_calls_that_cannot_be_written_are_written_later(
    part: Callable[..., Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its failure is logged, and none is counted twice."""
    one = part()
    one.job.flush(soon())
    store = one.job._store
    assert store is not None

    def fail(*_: object) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "add_refusals", fail)
        one.job.add_refusal("spent")
        one.job._publish()
        patch.setattr(store, "refusals", fail)
        with pytest.raises(JobError, match="the disk is full"):
            one.job.refused()
    assert any("the disk is full" in line for line in one.lines)
    assert one.job.publish(5.0)
    assert one.job.publish(5.0)
    assert store.refusals() == (1, "spent")


def test_refused_calls_of_an_earlier_run_are_not_those_of_the_one_that_resumes_it(
    part: Callable[..., Part],
) -> None:
    """Its totals are."""
    one = part(resume=True)
    one.add(5)
    one.job.add_refusal("spent")
    one.job.flush(soon())
    one.job.leave(soon())
    two = part(resume=True)
    two.job.flush(soon())
    assert two.total() == 5
    assert two.job.refused() == (0, 0, None)


def test_a_process_that_is_cut_off_does_not_know_of_refused_calls(
    part: Callable[..., Part], top: Path
) -> None:
    """It says so rather than none."""
    top.mkdir()
    top.chmod(0o755)
    one = part()
    with pytest.raises(JobError):
        one.job.refused()


def test_a_folder_that_is_removed_is_joined_again(part: Callable[..., Part], top: Path) -> None:
    """With all that this process has counted."""
    one = part()
    one.add(5)
    one.job.flush(soon())
    shutil.rmtree(top / "job-j")
    one.add(2)
    one.job._turn()
    assert one.job.is_joined
    assert one.total() == 7
    assert one.job.token_usage().total_tokens == 7
    assert [line for line in one.lines if "was removed" in line] == one.lines
    assert len(one.lines) == 1


# --- what is left behind -------------------------------------------------------------------------


def test_the_next_job_removes_the_folders_of_the_dead(part: Callable[..., Part], top: Path) -> None:
    """Not those of the living, nor those that may be resumed, nor what is not a job's."""
    with ExitStack() as stack:
        others = []
        for name, resume in (("killed", False), ("kept", True), ("alive", False)):
            first = part(name, resume=resume)
            first.add(1)
            first.job.flush(soon())
            others.append(stack.enter_context(other_process(top, f"job-{name}")))
            first.job.leave(soon())
        for other in others[:2]:
            other.kill()
        _check_cleaning(part, top)


def _check_cleaning(part: Callable[..., Part], top: Path) -> None:
    half = top / ".job-x-1-2"
    half.mkdir(mode=0o700)
    new = top / "job-new"  # of a process that has not its lock yet
    new.mkdir(mode=0o700)
    old = top / "job-old"
    old.mkdir(mode=0o700)
    os.utime(old, (0, 0))
    foreign = top / "public"
    foreign.mkdir()
    foreign.chmod(0o755)
    part("j").job.join()
    assert {each.name for each in top.iterdir()} == {
        *("job-kept", "job-alive", "job-new", "public", "job-j"),
    }


def test_a_damaged_folder_of_a_dead_job_is_removed(part: Callable[..., Part], top: Path) -> None:
    """Nobody can go on with it."""
    for name in ("damaged", "empty"):
        first = part(name, resume=True)
        first.job.join()
        first.job.leave(soon())
        path = top / f"job-{name}" / "job.sqlite"
        path.write_bytes(b"no database " * 1_000 if name == "damaged" else b"")
    part("j").job.join()
    assert [each.name for each in top.iterdir()] == ["job-j"]


def test_the_totals_of_an_old_run_are_not_kept_forever(
    part: Callable[..., Part], top: Path
) -> None:
    """A month later the next job removes them."""
    first = part("kept", resume=True)
    first.job.join()
    first.job.leave(soon())
    assert (top / "job-kept").exists()
    for each in (top / "job-kept").iterdir():
        os.utime(each, (0, 0))
    part("j").job.join()
    assert not (top / "job-kept").exists()


def test_a_resumed_job_has_the_totals_of_the_run_before(part: Callable[..., Part]) -> None:
    """Also its tokens; without ``resume`` it begins at 0."""
    for run in range(3):
        one = part(resume=True)
        one.add(5)
        one.job.flush(soon())
        assert one.total() == 5 * (run + 1)
        assert one.job.token_usage().total_tokens == 5 * (run + 1)
        one.job.leave(soon())
    fresh = part()
    fresh.add(1)
    assert fresh.job.join()
    assert fresh.total() == 1
    assert fresh.job.token_usage().total_tokens == 1


def test_a_thread_publishes_by_itself(
    part: Callable[..., Part], top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each interval, without being asked."""
    monkeypatch.setattr(job_module, "_INTERVAL", 0.02)
    one = part()
    one.add(5)
    one.job.start(at_once=True)
    store = Store(top / "job-j" / "job.sqlite")
    assert eventually(lambda: one.job.is_joined and [each.tokens for each in store.usage()] == [5])
    one.add(2)
    assert eventually(lambda: [each.tokens for each in store.usage()] == [7])
    assert eventually(lambda: one.led == 1)
    store.close()


def test_a_report_is_its_rows() -> None:
    """Nothing of it is lost."""
    report = TokenUsageReport(
        by_model=[
            ModelTokenUsage(
                "a",
                10,
                5,
                17,
                cache_read_tokens=4,
                cache_write_tokens=2,
                reasoning_tokens=3,
                calls=6,
                unpriced_calls=1,
                cost_usd=0.25,
            ),
            ModelTokenUsage("b", 1, 0, 1, calls=1),
        ],
        total_prompt_tokens=11,
        total_completion_tokens=5,
        total_tokens=18,
        without_usage={"a": 2, "c": 3},
    )
    rows = totals_of(report)
    again = report_of_totals([row._replace(rest=json.dumps(json.loads(row.rest))) for row in rows])
    assert again.total_tokens == 18
    assert again.without_usage == report.without_usage
    assert {each.model_name: each for each in again.by_model if each.calls} == {
        each.model_name: each for each in report.by_model
    }
