"""The store of a job."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import stat
import sys
import time
from typing import TYPE_CHECKING

import pytest
from _other import Other

from genmeter.job import _guard as guard_module
from genmeter.job._guard import guard
from genmeter.job.merged import combine
from genmeter.job.store import (
    PAST,
    VERSION,
    Census,
    Definition,
    State,
    Store,
    StoreError,
    Totals,
    pack,
    unpack,
)
from genmeter.schema.metrics import Across

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from genmeter.job.amounts import JobAmounts

SCOPE = ("genmeter", "1.0", None, "[]")


def definition(name: str = "calls", across: str = "sum", kind: str = "monotonic") -> Definition:
    """Return a metric."""
    bounds = (1.0, 2.0) if kind == "histogram" else ()
    return Definition(SCOPE, name, "{call}", "Help.", kind, bounds, across)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a store."""
    return tmp_path / "job.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """Return a new store."""
    made = Store(path)
    made.create({"resource": "{}"}, keep=False)
    yield made
    made.close()


def number(store: Store, metric: Definition, labels: str = "[]", birth: int = 5) -> int:
    """Return the number of a series."""
    return store.number_series([(metric, labels, birth)], is_root=False)[0]


def cells(store: Store) -> list[tuple[int, float, bool]]:
    """Return series, value and life of all cells."""
    found = store.read({}, 0, 0, "")
    states = {process.id: process.state for process in found.processes}
    return sorted(
        (row.series, row.value, states[process] == State.RUNNING)
        for process, rows in found.cells.items()
        for row in rows
    )


def held(store: Store) -> tuple[int, float]:
    """Return the tokens and the USD that are reserved."""
    found = store.amounts(without=PAST)
    return found.reserved_tokens, found.reserved_usd


def rest(*numbers: int) -> str:
    """Return the further numbers of a usage."""
    return json.dumps([*numbers, *[0] * (8 - len(numbers))])


# --- publishing ----------------------------------------------------------------------------------


def test_the_file_is_the_users_alone(store: Store, path: Path) -> None:
    """So are those that SQLite makes beside it."""
    store.add_process(1, 17)
    for each in path.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600


def test_values_are_absolute(store: Store) -> None:
    """A repeated write changes nothing."""
    process, series = store.add_process(1, 17), number(store, definition())
    usage = [Totals("m", 3, 0.5, rest(2, 1))]
    for _ in range(3):
        store.publish(process, [(series, 7, None)], usage)
    assert cells(store) == [(series, 7, True)]
    assert store.usage() == usage
    store.publish(process, [(series, 8, None)], [])
    assert cells(store) == [(series, 8, True)]
    assert store.usage() == usage


def test_equal_series_of_several_processes_are_one(store: Store) -> None:
    """Others are not: the labels, the metric, its unit and its help count."""
    first = number(store, definition())
    assert number(store, definition()) == first
    others = [
        number(store, definition(), "[('a', 1)]"),
        number(store, definition()._replace(unit="s")),
        number(store, definition()._replace(description="Another.")),
        number(store, definition()._replace(scope=("other", None, None, "[]"))),
    ]
    assert len({first, *others}) == 5


def test_a_birth_is_that_of_the_first(store: Store) -> None:
    """Only the first process of a family, which may have shown it before, moves it back."""
    series = number(store, definition(), birth=50)
    assert number(store, definition(), birth=40) == series
    found = store.read({}, 0, 0, "")
    assert [row.birth for row in found.series] == [50]
    assert store.number_series([(definition(), "[]", 30)], is_root=True) == [series]
    # All series are read again, although their numbers are known.
    later = store.read({}, series, 1, found.births)
    assert [row.birth for row in later.series] == [30]
    assert later.births != found.births
    assert store.number_series([(definition(), "[]", 60)], is_root=True) == [series]
    again = store.read({}, series, 1, later.births)
    assert (again.series, again.births) == ([], later.births)


def test_only_what_is_new_is_read(store: Store) -> None:
    """Series and metrics with known numbers are left out."""
    first = number(store, definition())
    second = number(store, definition("other"), "[('a', 'b')]", 6)
    found = store.read({}, first, 1, "")
    assert [(row.id, row.labels, row.birth) for row in found.series] == [
        (second, "[('a', 'b')]", 6)
    ]
    assert found.metrics == {2: definition("other")}


@pytest.mark.parametrize(
    "value", [0, -1, 2**63 - 1, -(2**63), 2**63, 10**40, -(10**40), 0.1, math.inf, -math.inf]
)
def test_any_number_is_kept(store: Store, value: float) -> None:
    """Integers that SQLite does not have are the nearest float."""
    process, series = store.add_process(1, 17), number(store, definition())
    store.publish(process, [(series, value, None)], [])
    ((_, found, _),) = cells(store)
    assert found == (value if -(2**63) <= value < 2**63 else float(value))


@pytest.mark.parametrize("model", ["", "m", "\udc80", "nul\0", "'; DROP TABLE usage;", "ü" * 999])
def test_any_model_is_kept(store: Store, model: str) -> None:
    """Its name is whatever the caller gave."""
    process = store.add_process(1, 17)
    usage = [Totals(model, 3, 0.5, rest(2, 1))]
    store.publish(process, [], usage)
    assert store.usage() == usage
    store.fold(process, combine)
    assert store.usage() == usage


def test_tokens_beyond_sqlites_integers_are_summed(store: Store) -> None:
    """A budget is decided on them."""
    for tokens in (2**63 - 1, 2**63 - 1, 2**70):
        process = store.add_process(1, 17)
        store.publish(process, [], [Totals("m", tokens, 0.0, rest())])
    seen: list[JobAmounts] = []
    store.reserve(1, [], [], lambda found: seen.append(found) or [])  # type: ignore[func-returns-value]
    assert seen[0].tokens == pytest.approx(2**64 + 2**70)
    assert store.amounts(without=1).tokens == pytest.approx(2**63 + 2**70)
    for process in (1, 2, 3):
        store.fold(process, combine)
    (folded,) = store.usage()
    assert folded.tokens == pytest.approx(2**64 + 2**70)


def test_a_process_has_entered_once_it_has_written_what_it_had(store: Store) -> None:
    """Not before, and not after it was folded; a process without anything confirms that."""
    one, other = (store.add_process(pid, byte) for pid, byte in ((7, 70), (8, 80)))
    assert not store.has_entered(7)
    store.publish(one, [], [Totals("m", 5, 0.0, "[5,0,0,0,0,1,0,0]")])
    store.confirm(one)
    assert (store.has_entered(7), store.has_entered(8)) == (True, False)
    store.confirm(other)
    assert store.has_entered(8)
    store.fold(one, combine)
    assert not store.has_entered(7)


def test_the_last_change_is_that_of_any_process(store: Store) -> None:
    """Without any it is 0."""
    assert store.last_change() == 0
    before = time.time()
    one = store.add_process(7, 70)
    store.publish(one, [(number(store, definition()), 1, None)], [])
    assert before <= store.last_change() <= time.time()
    at = store.last_change()
    store.fold(one, combine)
    assert store.last_change() == at


def test_a_vanished_series_is_forgotten_for_one_process(store: Store) -> None:
    """Another one's cell stays."""
    series = number(store, definition())
    one, other = store.add_process(1, 17), store.add_process(2, 18)
    store.publish(one, [(series, 3, None)], [])
    store.publish(other, [(series, 4, None)], [])
    store.forget_observed(one, [series])
    assert cells(store) == [(series, 4, True)]


# --- the dead ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("across", "expected"),
    [
        (Across.SUM, [12]),
        (Across.MAX, [7]),
        (Across.LAST, [5]),
        (Across.LIVING, []),
        (Across.MIN, []),
    ],
)
def test_the_dead_are_folded_by_the_rule_of_the_metric(
    store: Store, across: Across, expected: list[float]
) -> None:
    """What they had published stays, but for what only the living have."""
    series = number(store, definition(across=across.value))
    for value in (7, 5):
        process = store.add_process(1, 17)
        store.publish(process, [(series, value, None)], [Totals("m", value, 0.5, rest(value))])
        store.fold(process, combine)
        store.fold(process, combine)  # as another leader may
    assert cells(store) == [(series, value, False) for value in expected]
    assert store.usage() == [Totals("m", 12, 1.0, rest(12))]
    assert store.processes() == []
    assert store.census() == Census(running=0, ended=0, died=2)


def test_the_last_value_is_the_one_that_changed_last(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of the process that ended last."""
    series = number(store, definition(across="last"))
    one, other = store.add_process(1, 17), store.add_process(2, 18)
    for process, value, now in ((one, 3, 100.0), (other, 4, 90.0)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        store.publish(process, [(series, value, None)], [])
    for process in (one, other):
        store.fold(process, combine)
    assert cells(store) == [(series, 3, False)]


def test_histograms_of_the_dead_are_folded(store: Store) -> None:
    """Buckets and sums are added; minimum and maximum are kept."""
    series = number(store, definition(kind="histogram"))
    for counts, low, high in (([1, 0, 2], 0.5, 9.0), ([0, 5, 1], 0.25, 3.0)):
        process = store.add_process(1, 17)
        store.publish(process, [(series, high, pack(counts, low, high))], [])
        store.fold(process, combine)
    (row,) = store.read({}, 0, 0, "").cells[PAST]
    assert row.value == 12.0
    assert row.buckets is not None
    found, low, high = unpack(row.buckets)
    assert (found.tolist(), low, high) == ([1, 5, 3], 0.25, 9.0)


def test_the_census_knows_how_processes_ended(store: Store) -> None:
    """Folding keeps the counts, and notes the time at which the last one that died was found."""
    numbers = [store.add_process(pid, 16 + pid) for pid in range(4)]
    store.end(numbers[0])
    assert store.census() == Census(running=3, ended=1, died=0)
    store.fold(numbers[0], combine)
    assert store.census().last_death is None
    began = time.time()
    store.fold(numbers[1], combine)
    census = store.census()
    assert census == Census(running=2, ended=1, died=1)
    assert census.last_death is not None
    assert began - 0.01 <= census.last_death <= time.time() + 0.01
    assert [row[0] for row in store.processes()] == numbers[2:]


def test_settled_cells_are_those_of_the_past(store: Store) -> None:
    """The process goes on, and begins at 0."""
    process, series = store.add_process(1, 17), number(store, definition())
    store.publish(process, [(series, 7, None)], [Totals("m", 7, 0.0, rest())])
    store.settle(process, combine)
    store.publish(process, [(series, 2, None)], [])
    assert cells(store) == [(series, 2, True), (series, 7, False)]
    assert store.usage(without=PAST) == [Totals("m", 7, 0.0, rest())]
    assert store.census().running == 1


def test_the_store_does_not_grow_with_the_dead(store: Store) -> None:
    """A thousand processes leave as much as ten."""
    sizes = []
    for count in (10, 990):
        for _ in range(count):
            process, series = store.add_process(1, 17), number(store, definition())
            store.publish(process, [(series, 7, None)], [Totals("m", 7, 0.5, rest())])
            store.end(process)
            store.fold(process, combine)
        store.close()  # writes the log back
        sizes.append(store.file_size())
    assert sizes[0] == sizes[1]
    assert cells(store) == [(1, 7_000, False)]


# --- reservations --------------------------------------------------------------------------------


def test_reservations_of_those_that_are_gone_are_free(store: Store) -> None:
    """Whether they ended, died, or gave them back."""
    for end in ("ended", "died", "released"):
        process = store.add_process(1, 17)
        store.reserve(process, [], [], lambda _: [(7, 10, 0.5)])
        assert held(store) == (10, 0.5)
        if end == "ended":
            store.end(process)
        elif end == "died":
            store.fold(process, combine)
        else:
            store.publish(process, [], [], [7])
        assert held(store) == (0, 0)


def test_a_refused_reservation_leaves_the_usage(store: Store) -> None:
    """What was used is written all the same."""
    process = store.add_process(1, 17)
    usage = [Totals("m", 3, 0.5, rest())]
    store.reserve(process, usage, [], lambda _: [])
    assert store.usage() == usage
    assert held(store) == (0, 0)


def test_an_error_of_the_decision_leaves_nothing(store: Store) -> None:
    """The transaction is undone, and the store works."""
    process = store.add_process(1, 17)

    def fail(_: object) -> list[tuple[int, int, float]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.reserve(process, [Totals("m", 3, 0.5, rest())], [], fail)
    assert store.usage() == []
    store.reserve(process, [], [], lambda _: [(7, 10, 0.5)])
    assert held(store) == (10, 0.5)


def test_an_amount_is_that_of_all_processes_but_one(store: Store) -> None:
    """Used and reserved; models without a price are named if they are needed."""
    one, other = store.add_process(1, 17), store.add_process(2, 18)
    free, priced = rest(0, 0, 0, 0, 0, 0, 1), rest(0, 0, 0, 0, 0, 1, 0, 1)
    store.reserve(one, [Totals("free", 5, 0.0, free)], [], lambda _: [(1, 10, 0.5), (2, 20, 0.25)])
    store.reserve(other, [Totals("m", 7, 0.125, priced)], [], lambda _: [(3, 40, 2.0)])
    assert store.amounts(without=one, unpriced=True) == (7, 0.125, 40, 2.0, ())
    assert store.amounts(without=other, unpriced=True) == (5, 0.0, 30, 0.75, ("free",))
    assert store.amounts(without=other) == (5, 0.0, 30, 0.75, ())
    assert store.usage(without=one) == [Totals("m", 7, 0.125, priced)]
    seen: list[JobAmounts] = []

    def decide(amounts: JobAmounts) -> list[tuple[int, int, float]]:
        seen.append(amounts)
        return []

    store.reserve(one, [], [1], decide)
    store.reserve(one, [Totals("m", 1, 0.5, free)], [2], decide, unpriced=True)
    assert seen == [
        (12, 0.125, 60, 2.25, ()),
        (13, 0.625, 40, 2.0, ("free", "m")),
    ]


def test_a_removed_store_leaves_no_file(store: Store, path: Path) -> None:
    """Not even while another process has it open; its size is that of all its files."""
    assert store.exists
    other = Store(path)
    other.add_process(1, 17)
    beside = [each for each in path.parent.iterdir() if each != path]
    assert beside
    log = path.with_name("job.sqlite-wal").stat().st_size
    assert store.file_size() == path.stat().st_size + log > path.stat().st_size
    store.remove()
    assert not store.exists
    assert store.file_size() == 0
    assert list(path.parent.iterdir()) == []
    other.close()


def test_a_huge_reservation_fits_into_the_store(store: Store) -> None:
    """A limit that is not one, of 2**70 tokens, does not end the job's budget."""
    process = store.add_process(1, 17)
    store.reserve(process, [], [], lambda _: [(1, 2**70, 0.0), (2, 4, 0.0)])
    assert held(store) == (2**53 + 4, 0)


def test_refusals_are_counted_with_the_first_reason(store: Store) -> None:
    """Until they are forgotten."""
    assert store.refusals() == (0, None)
    store.add_refusals(2, "the first")
    store.add_refusals(3, "another")
    assert store.refusals() == (5, "the first")
    store.forget_refusals()
    assert store.refusals() == (0, None)


# --- the start -----------------------------------------------------------------------------------


def test_a_new_run_begins_at_0(store: Store, path: Path) -> None:
    """Unless it keeps the totals; its own values win then."""
    process, series = store.add_process(1, 17), number(store, definition())
    store.publish(process, [(series, 7, None)], [])
    store.reserve(process, [], [], lambda _: [(7, 10, 0.5)])
    store.close()
    again = Store(path)
    again.create({"resource": "{1}", "resume": "1"}, keep=True)
    assert [value for _, value, _ in cells(again)] == [7]
    assert again.value("resource") == "{}"
    assert again.value("resume") == "1"
    assert held(again) == (0, 0)
    again.create({"resource": "{2}"}, keep=False)
    assert cells(again) == []
    assert again.value("resource") == "{2}"
    assert again.value("resume") is None
    again.close()


@pytest.mark.parametrize("damage", ["text", "truncated", "version", "empty", "other database"])
@pytest.mark.parametrize("keep", [False, True])
def test_a_damaged_store_is_begun_anew(path: Path, damage: str, keep: bool) -> None:
    """No process of the job is alive, so it harms nobody; it says what it lost."""
    first = Store(path)
    first.create({}, keep=False)
    number(first, definition())
    first.close()
    if damage == "text":
        path.write_text("This is no database. " * 1_000)
    elif damage == "truncated":
        os.truncate(path, path.stat().st_size // 2 + 17)
    elif damage == "empty":
        os.truncate(path, 0)
    else:
        db = sqlite3.connect(path)
        if damage == "version":
            db.execute(f"PRAGMA user_version={VERSION + 1}")
        else:
            db.executescript("DROP TABLE cell; DROP TABLE series; PRAGMA user_version=1")
        db.close()
    again = Store(path)
    lost = again.create({"resource": "{}"}, keep=keep)
    assert bool(lost) is keep
    assert cells(again) == []
    assert again.add_process(1, 17) == 1
    again.close()


def test_totals_that_cannot_be_used_are_kept_aside(path: Path) -> None:
    """The reason is returned, and whoever needs them finds the file under another name."""
    first = Store(path)
    first.create({}, keep=False)
    first.close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={VERSION + 1}")
    db.close()
    before = path.read_bytes()
    another = (
        f"the store of the job at {str(path)!r} is of another version of genmeter ({VERSION + 1}, "
        f"not {VERSION}); give all processes of a job the same version"
    )
    again = Store(path)
    with pytest.raises(StoreError) as caught:
        again.check_version()
    assert str(caught.value) == another
    assert again.create({}, keep=True) == another
    again.check_version()
    assert path.with_name("job.sqlite.unreadable").read_bytes() == before
    again.close()
    db = sqlite3.connect(path)
    db.executescript("DROP TABLE cell")
    db.close()
    assert again.create({}, keep=True) == f"{str(path)!r} is damaged"
    assert again.create({}, keep=True) is None
    again.close()


def test_no_file_is_an_error(path: Path) -> None:
    """Only `create` makes one."""
    with pytest.raises(StoreError, match="unable to open"):
        Store(path).census()
    assert not path.exists()


def test_a_damaged_store_is_an_error_of_the_store(store: Store, path: Path) -> None:
    """It is no other error, and the next use tries again."""
    store.close()
    whole = path.read_bytes()
    path.write_text("This is no database. " * 1_000)
    for use in (store.census, store.processes, lambda: store.publish(1, [], [])):
        with pytest.raises(StoreError, match="not a database"):
            use()
    path.write_bytes(whole)
    assert store.census().running == 0


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other systems differ")
def test_a_full_disk_is_an_error_of_the_store(path: Path) -> None:
    """What was written before stays, and writing goes on when there is room."""
    with Other(path) as other:
        other("[space.setdefault('s', Store(path)).create({}, keep=False)] and None")
        other("s.publish(0, [], [Totals('m', 1, 0.0, '[]')])")
        other("[__import__('signal').signal(25, 1)] and None")  # SIGXFSZ, ignored
        limit = "__import__('resource').setrlimit(1, ({}, -1))"
        other(limit.format("os.path.getsize(str(path) + '-wal')"))
        other(
            "exec('def attempt(f):\\n try:\\n  f()\\n  return None\\n except Exception as e:\\n"
            '  return type(e).__name__ + ": " + str(e)\', space)'
        )
        wrote = "attempt(lambda: s.publish(0, [], [Totals('x' * 9000, 2, 0.0, '[]')]))"
        assert "StoreError: the store of the job at" in other(wrote)
        assert other("[tuple(row) for row in s.usage()]") == [("m", 1, 0.0, "[]")]
        other(limit.format("-1"))
        assert other(wrote) is None
        assert len(other("[tuple(row) for row in s.usage()]")) == 2


@pytest.mark.skipif(os.getuid() == 0, reason="the administrator may write everywhere")
def test_a_read_only_folder_is_an_error_of_the_store(store: Store, path: Path) -> None:
    """Nothing is written."""
    store.close()
    path.parent.chmod(0o500)
    try:
        with pytest.raises(StoreError):
            store.add_process(1, 17)
    finally:
        path.parent.chmod(0o700)


# --- forks ---------------------------------------------------------------------------------------


def test_a_forked_child_has_a_connection_of_its_own(store: Store) -> None:
    """Both write, and neither harms the other's."""
    process, series = store.add_process(1, 17), number(store, definition())
    for value in range(1, 4):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                own = store.add_process(os.getpid(), 20 + value)
                store.publish(own, [(series, 100, None)], [])
                code = 0
            finally:
                os._exit(code)
        store.publish(process, [(series, value, None)], [])
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    assert [value for _, value, _ in cells(store)] == [3, 100, 100, 100]
    store.close()
    check = sqlite3.connect(store._path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


def test_a_fork_during_a_use_that_hangs_leaves_the_child_without_a_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fork does not wait forever; the child says why it cannot publish."""
    monkeypatch.setattr(guard_module, "_FORK_TIMEOUT", 0.01)
    store.census()
    with guard.locked():
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                try:
                    store.census()
                except StoreError as error:
                    code = 0 if "forked while a thread of its parent" in str(error) else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert store.census().running == 0


def test_a_write_waits_for_another_process(store: Store, path: Path) -> None:
    """Two writers at once are no error."""
    with Other(path) as other:
        other("[space.setdefault('s', Store(path))] and None")
        other("[space.setdefault('w', s._write()).__enter__()] and None")
        assert store.census().running == 0  # readers do not wait
        assert other.process.stdin is not None
        line = "[time.sleep(0.3), w.__exit__(None, None, None)] and None"
        print(line, file=other.process.stdin, flush=True)
        assert store.add_process(1, 17) == 1


def test_a_run_that_goes_on_keeps_the_time_of_the_last_death(store: Store) -> None:
    """So an old death is not reported again; a run that begins at 0 has none."""
    store.fold(store.add_process(1, 17), combine)
    before = store.census().last_death
    assert before is not None
    store.create({}, keep=True)
    assert store.census().last_death == before
    store.create({}, keep=False)
    assert store.census().last_death is None


def test_states_are_those_of_the_metric() -> None:
    """Each is a label of the page."""
    counts = {name for name, field in Census.__dataclass_fields__.items() if field.compare}
    assert {State.RUNNING, State.ENDED, State.DIED} == counts


def test_a_byte_that_is_taken_again_is_that_of_a_dead_process(store: Store) -> None:
    """The first processes of all containers have the same id; what was reserved is freed."""
    first = store.add_process(1, 17)
    store.reserve(first, [], [], lambda _: [(first, 5, 0.0)])
    second = store.add_process(1, 17)
    assert {number: state for number, _, state in store.processes()} == {
        first: "died",
        second: "running",
    }
    assert store.census() == Census(running=1, ended=0, died=1)
    store.fold(first, combine)
    assert store.census() == Census(running=1, ended=0, died=1)
    assert store.amounts(second).reserved_tokens == 0


def test_a_block_that_raises_leaves_no_transaction(path: Path) -> None:
    """Whatever raised in it: the next one of this and of any other process can write."""
    store = Store(path)
    store.create({}, keep=False)
    with pytest.raises(KeyboardInterrupt), store._write() as db:  # noqa: PT012 - two in one block
        db.execute("INSERT INTO job VALUES ('a', 'b')")
        raise KeyboardInterrupt
    assert store.value("a") is None
    with pytest.raises(StoreError), store._write() as db:
        db.execute("INSERT INTO nothing VALUES (1)")
    other = Store(path)
    other.set_value("a", "c")
    assert store.value("a") == "c"
    store.close()
    other.close()
