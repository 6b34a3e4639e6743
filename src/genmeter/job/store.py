"""The store of a job: what each of its processes has counted so far, in an SQLite file.

Values are absolute, so that writing them again is harmless, and a process that is killed leaves what
it had written. WAL lets readers read while another process writes. ``synchronous=OFF`` loses nothing
if a process crashes; if the machine does, the job is over anyway.
"""

from __future__ import annotations

import json
import math
import time
from array import array
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.job._connection import Connection
from genmeter.job.amounts import JobAmounts, StoreError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from genmeter.job._exact import Exact

__all__ = [
    "PAST",
    "CellRow",
    "Census",
    "Contents",
    "Definition",
    "ProcessRow",
    "SeriesRow",
    "State",
    "Store",
    "StoreError",
    "Totals",
    "pack",
    "unpack",
]

PAST = 0
"""The number of the process that stands for all that have ended."""

VERSION = 1  # of the schema; the file of another one is started anew
_UNPRICED = 6  # the place of the calls without a price in the rest of `Totals`
_AMOUNTS = """
SELECT 0, TOTAL(tokens), TOTAL(usd) FROM usage WHERE process IS NOT ?
UNION ALL
SELECT 1, TOTAL(tokens), TOTAL(usd) FROM reservation WHERE process IS NOT ?
"""
_LAST_DEATH = "last_death"  # a value of the job
_REFUSED, _REFUSAL = "refused", "refusal"  # values of the job: a count, and the first reason
_MOST = 2**53  # tokens of a reservation, so that their sum fits into 64 bits
_MAX_INT = 2**63 - 1
_SCHEMA = """
CREATE TABLE job (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE process (
  id INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER, byte INTEGER, began REAL, state TEXT,
  generation INTEGER DEFAULT 0, version INTEGER DEFAULT 0);
CREATE TABLE metric (id INTEGER PRIMARY KEY, definition TEXT UNIQUE);
CREATE TABLE series (
  id INTEGER PRIMARY KEY, metric INTEGER, labels TEXT, birth INTEGER, UNIQUE (metric, labels));
CREATE TABLE cell (
  process INTEGER, series INTEGER, value, buckets BLOB, changed REAL, version INTEGER,
  PRIMARY KEY (process, series)) WITHOUT ROWID;
CREATE TABLE usage (
  process INTEGER, model TEXT, tokens INTEGER, usd REAL, rest TEXT,
  PRIMARY KEY (process, model)) WITHOUT ROWID;
CREATE TABLE reservation (
  id INTEGER PRIMARY KEY, process INTEGER, tokens INTEGER, usd REAL);
INSERT INTO process (id, pid, byte, began, state) VALUES (0, 0, 0, 0, 'past');
"""
_TABLES = {"job", "process", "metric", "series", "cell", "usage", "reservation"}


class State:
    """States of a process."""

    RUNNING = "running"
    ENDED = "ended"
    DIED = "died"


class Definition(NamedTuple):
    """A metric of the store; equal ones of several processes are one.

    Args:
        scope: Name, version, schema and attributes (as text) of the instrumentation scope.
        name: The metric's name.
        unit: Its unit.
        description: Its help.
        kind: ``sum``, ``monotonic``, ``gauge`` or ``histogram``.
        bounds: Upper bounds of the buckets.
        across: How processes are combined; a value of `genmeter.schema.metrics.Across`.
    """

    scope: tuple[str, str | None, str | None, str]
    name: str
    unit: str
    description: str
    kind: str
    bounds: tuple[float, ...]
    across: str


class SeriesRow(NamedTuple):
    """A series of the store; ``labels`` is the text of a label set."""

    id: int
    metric: int
    labels: str
    birth: int


class CellRow(NamedTuple):
    """What one process has of a series.

    Args:
        series: The number of the series.
        value: The number, or the sum of a histogram; of the past it may be a fraction, as text.
        buckets: Of a histogram: its counts, and minimum and maximum, as `pack` writes them.
        changed: Unix time of the last change.
    """

    series: int
    value: Exact
    buckets: bytes | None
    changed: float


class ProcessRow(NamedTuple):
    """A process: its ``version`` grows with its changes, ``generation`` when cells are deleted."""

    id: int
    state: str
    generation: int
    version: int


class Totals(NamedTuple):
    """The usage of one model in one process: tokens and USD, and all else as JSON."""

    model: str
    tokens: int
    usd: float
    rest: str


@dataclass(frozen=True, slots=True)
class Census:
    """How many processes run, how many have ended or died, and when one that died was last folded."""

    running: int
    ended: int
    died: int
    last_death: float | None = field(default=None, compare=False)


class Contents(NamedTuple):
    """What `Store.read` returns.

    Args:
        processes: All processes.
        cells: The cells of each process that changed, since the version that the caller knows.
        series: New series.
        metrics: New metrics, by number.
        census: How many processes there are.
        births: Another text when the birth of any series has changed.
    """

    processes: list[ProcessRow]
    cells: dict[int, list[CellRow]]
    series: list[SeriesRow]
    metrics: dict[int, Definition]
    census: Census
    births: str


def pack(counts: Sequence[int], low: float, high: float) -> bytes:
    """Return the buckets of a histogram as bytes."""
    return array("q", counts).tobytes() + array("d", (low, high)).tobytes()


def unpack(buckets: bytes) -> tuple[array[int], float, float]:
    """Return what `pack` has packed."""
    counts, ends = array("q"), array("d")
    counts.frombytes(buckets[:-16])
    ends.frombytes(buckets[-16:])
    return counts, ends[0], ends[1]


class Store(Connection):
    """The file of a job, as one process uses it.

    Every method takes the lock of this process for a moment, and waits for the writes of others, at
    most five seconds each.

    Args:
        path: The file; `create` makes it.
    """

    # --- joining -------------------------------------------------------------------------------

    def create(self, values: dict[str, str], *, keep: bool) -> str | None:
        """Create the file, or start it anew; the caller holds the gate and no process is alive.

        Args:
            values: What the job's first process says of the job.
            keep: Whether an earlier run's totals are kept; its own values then win.

        Returns:
            Why totals that should be kept are lost; None if they are not. The file that cannot be
            used is then renamed, with the suffix ``.unreadable``.
        """
        lost = None
        if self._path.exists():
            lost = self._fault() if keep else None
            if lost is not None:
                self.close()
                self._path.replace(self._path.with_name(f"{self._path.name}.unreadable"))
            if lost is not None or not keep:
                self.remove()
        if not self._path.exists():
            self._path.touch(mode=0o600)
            with self._use() as db:
                db.execute("PRAGMA journal_mode=WAL")
                db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}COMMIT;")
                db.execute(f"PRAGMA user_version={VERSION}")
        with self._write() as db:
            db.execute("DELETE FROM reservation")
            db.executemany("INSERT OR IGNORE INTO job VALUES (?, ?)", values.items())
        return lost

    def remove(self) -> None:
        """Delete the files."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def check_version(self) -> None:
        """Raise `StoreError` if the store is not of this version of genmeter."""
        with self._use() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != VERSION:
            raise StoreError(_other_version(self._path, version))

    def _fault(self) -> str | None:
        """Return why the file cannot be used; None if it can."""
        try:
            with self._use() as db:
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version != VERSION:
                    return _other_version(self._path, version)
                found = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
                checked = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        except StoreError as error:
            return str(error)
        if checked != "ok" or not found >= _TABLES:
            return f"{str(self._path)!r} is damaged"
        return None

    def add_process(self, pid: int, byte: int) -> int:
        """Add a running process; return its number.

        Args:
            pid: Its process id.
            byte: Its byte of the lock file. Another running process with it is dead, and had the
                same id, as the first processes of containers have.
        """
        with self._write() as db:
            db.execute(
                "UPDATE process SET state=? WHERE byte=? AND state=?",
                (State.DIED, byte, State.RUNNING),
            )
            cursor = db.execute(
                "INSERT INTO process (pid, byte, began, state) VALUES (?, ?, ?, ?)",
                (pid, byte, time.time(), State.RUNNING),
            )
            return int(cursor.lastrowid or 0)

    @property
    def exists(self) -> bool:
        """Whether there is a file."""
        return self._path.exists()

    def value(self, key: str) -> str | None:
        """Return a value of the job; None if it has none."""
        with self._use() as db:
            row = db.execute("SELECT value FROM job WHERE key=?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_value(self, key: str, value: str) -> None:
        """Set a value of the job."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO job VALUES (?, ?)", (key, value))

    def unset_value(self, key: str) -> None:
        """Remove a value of the job."""
        with self._write() as db:
            db.execute("DELETE FROM job WHERE key=?", (key,))

    # --- publishing ----------------------------------------------------------------------------

    def number_series(
        self, new: Sequence[tuple[Definition, str, int]], *, is_root: bool
    ) -> list[int]:
        """Return the numbers of series, given as metric, labels and birth; new ones are added.

        A series keeps the birth of the process that published it first: a birth that changes would
        look like a restart. Only the root of a family, which may have shown its series before there
        was a store, moves births back to its own.
        """
        numbers: list[int] = []
        with self._write() as db:
            metrics: dict[Definition, int] = {}
            for definition, labels, birth in new:
                metric = metrics.get(definition)
                if metric is None:
                    metric = metrics[definition] = _number_of(
                        db, "metric", ("definition",), (_text_of(definition),)
                    )
                found = db.execute(
                    "SELECT id, birth FROM series WHERE metric=? AND labels=?", (metric, labels)
                ).fetchone()
                if found is None:
                    cursor = db.execute(
                        "INSERT INTO series (metric, labels, birth) VALUES (?, ?, ?)",
                        (metric, labels, birth),
                    )
                    found = (cursor.lastrowid, birth)
                elif is_root and birth < found[1]:
                    db.execute("UPDATE series SET birth=? WHERE id=?", (birth, found[0]))
                    db.execute(
                        "INSERT INTO job VALUES ('births', 1) "
                        "ON CONFLICT DO UPDATE SET value=value+1"
                    )
                numbers.append(int(found[0]))
        return numbers

    def publish(
        self,
        process: int,
        cells: Iterable[tuple[int, float, bytes | None]],
        usage: Iterable[Totals],
        released: Sequence[int] = (),
    ) -> None:
        """Write what changed in a process, and free reservations of it, in one transaction."""
        now = time.time()
        with self._write() as db:
            version = _next_version(db, process)
            db.executemany(
                "INSERT OR REPLACE INTO cell VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (process, series, _bindable(value), buckets, now, version)
                    for series, value, buckets in cells
                ],
            )
            _write_usage(db, process, usage)
            _free(db, released)

    def confirm(self, process: int) -> None:
        """Note that the store has what a process had counted before it joined."""
        with self._write() as db:
            db.execute("UPDATE process SET version=1 WHERE id=? AND version=0", (process,))

    def forget_observed(self, process: int, series: Sequence[int]) -> None:
        """Delete cells of a process, whose series it does not have any more."""
        with self._write() as db:
            _next_generation(db, process)
            db.executemany(
                "DELETE FROM cell WHERE process=? AND series=?",
                [(process, each) for each in series],
            )

    # --- reading -------------------------------------------------------------------------------

    def read(
        self,
        seen: Mapping[int, ProcessRow],
        known_series: int,
        known_metrics: int,
        known_births: str,
    ) -> Contents:
        """Return what has changed since an earlier read.

        Args:
            seen: The processes as of the earlier read, by number.
            known_series: The highest number of a known series.
            known_metrics: The highest number of a known metric.
            known_births: The births as of the earlier read; if they changed, all series are returned.
        """
        with self._read() as db:
            row = db.execute("SELECT value FROM job WHERE key='births'").fetchone()
            births = "" if row is None else str(row[0])
            if births != known_births:
                known_series = 0
            processes = [
                ProcessRow._make(row)
                for row in db.execute("SELECT id, state, generation, version FROM process")
            ]
            cells = {
                process.id: _cells_since(db, process, seen.get(process.id)) for process in processes
            }
            series = [
                SeriesRow._make(row)
                for row in db.execute(
                    "SELECT id, metric, labels, birth FROM series WHERE id>?", (known_series,)
                )
            ]
            metrics = {
                number: _definition_of(text)
                for number, text in db.execute(
                    "SELECT id, definition FROM metric WHERE id>?", (known_metrics,)
                )
            }
            return Contents(processes, cells, series, metrics, _census(db), births)

    def census(self) -> Census:
        """Return how many processes run, and how many have ended or died."""
        with self._read() as db:
            return _census(db)

    def usage(self, without: int | None = None) -> list[Totals]:
        """Return the usage of all processes, but that of one."""
        with self._read() as db:
            rows = db.execute(
                "SELECT model, tokens, usd, rest FROM usage WHERE process IS NOT ?", (without,)
            )
            return [_totals(row) for row in rows]

    def last_change(self) -> float:
        """Return the Unix time at which a process published a change last; 0 if none has."""
        with self._read() as db:
            return float(
                db.execute(
                    "SELECT TOTAL(at) FROM (SELECT MAX(changed) AS at FROM cell)"
                ).fetchone()[0]
            )

    # --- reservations --------------------------------------------------------------------------

    def reserve(
        self,
        process: int,
        usage: Iterable[Totals],
        released: Sequence[int],
        decide: Callable[[JobAmounts], Sequence[tuple[int, int, float]]],
        *,
        unpriced: bool = False,
    ) -> None:
        """Add reservations in one transaction with all that decides about them.

        Args:
            process: This process.
            usage: What changed in its usage, which is written first.
            released: Ids of reservations of it to free.
            decide: Called with the amounts of the job after that; returns the reservations to add:
                id, tokens and USD of each.
            unpriced: Whether the amounts need the models without a price.
        """
        with self._write() as db:
            _write_usage(db, process, usage)
            _free(db, released)
            rows = decide(_amounts(db, None, unpriced=unpriced))
            for each, tokens, usd in rows:
                db.execute(
                    "INSERT INTO reservation VALUES (?, ?, ?, ?)",
                    (each, process, min(tokens, _MOST), usd),
                )

    def amounts(self, without: int, *, unpriced: bool = False) -> JobAmounts:
        """Return what all processes but one have used and reserved.

        Args:
            without: The process that is not counted.
            unpriced: Whether to return the models without a price.
        """
        # One statement reads one state without a transaction.
        with self._read() if unpriced else self._use() as db:
            return _amounts(db, without, unpriced=unpriced)

    def add_refusals(self, count: int, reason: str) -> None:
        """Count calls that the budget refused; the first reason of the job is kept."""
        with self._write() as db:
            db.execute(
                "INSERT INTO job VALUES (?, ?) ON CONFLICT DO UPDATE SET value=value+excluded.value",
                (_REFUSED, count),
            )
            db.execute("INSERT OR IGNORE INTO job VALUES (?, ?)", (_REFUSAL, reason))

    def refusals(self) -> tuple[int, str | None]:
        """Return how many calls the budget refused, and why the first one."""
        query = "SELECT key, value FROM job WHERE key IN (?, ?)"
        with self._use() as db:
            found = dict(db.execute(query, (_REFUSED, _REFUSAL)))
        return int(found.get(_REFUSED, 0)), found.get(_REFUSAL)

    def forget_refusals(self) -> None:
        """Begin with none."""
        self.unset_value(_REFUSED)
        self.unset_value(_REFUSAL)

    def has_entered(self, pid: int) -> bool:
        """Return whether a process that is not folded has written what it had as it joined.

        Args:
            pid: Its process id.
        """
        with self._read() as db:
            query = "SELECT 1 FROM process WHERE pid=? AND version>0"
            return db.execute(query, (pid,)).fetchone() is not None

    # --- the dead ------------------------------------------------------------------------------

    def processes(self) -> list[tuple[int, int, str]]:
        """Return number, byte and state of all processes that are not folded yet."""
        with self._read() as db:
            return db.execute("SELECT id, byte, state FROM process WHERE id>0").fetchall()

    def settle(
        self,
        process: int,
        combine: Callable[[Definition, CellRow, CellRow], tuple[Exact, bytes | None]],
    ) -> None:
        """Add the cells of a process to the past, since it begins new ones; see `fold`."""
        with self._write() as db:
            _fold_cells(db, process, combine)

    def end(self, process: int) -> None:
        """Note that a process ends in order; its reservations are freed."""
        with self._write() as db:
            db.execute("UPDATE process SET state=? WHERE id=?", (State.ENDED, process))
            db.execute("DELETE FROM reservation WHERE process=?", (process,))

    def fold(
        self,
        process: int,
        combine: Callable[[Definition, CellRow, CellRow], tuple[Exact, bytes | None]],
    ) -> None:
        """Add a process that is gone to the past, so that the store does not grow with each.

        Args:
            process: The process.
            combine: Returns two cells of a metric as one, the older one first; not
                called for metrics of living processes.
        """
        with self._write() as db:
            found = db.execute("SELECT state FROM process WHERE id=?", (process,)).fetchone()
            if found is None:  # another leader did
                return
            key = State.ENDED if found[0] == State.ENDED else State.DIED
            _fold_cells(db, process, combine)
            _fold_usage(db, process)
            db.execute("DELETE FROM reservation WHERE process=?", (process,))
            db.execute("DELETE FROM process WHERE id=?", (process,))
            if key == State.DIED:
                db.execute("INSERT OR REPLACE INTO job VALUES (?, ?)", (_LAST_DEATH, time.time()))
            db.execute(
                "INSERT INTO job VALUES (?, 1) ON CONFLICT DO UPDATE SET value=value+1", (key,)
            )

    def file_size(self) -> int:
        """Return the bytes of the file and its log."""
        names = (self._path, self._path.with_name(f"{self._path.name}-wal"))
        return sum(path.stat().st_size for path in names if path.exists())


def _other_version(path: Path, version: int) -> str:
    return (
        f"the store of the job at {str(path)!r} is of another version of genmeter ({version}, not "
        f"{VERSION}); give all processes of a job the same version"
    )


def _write_usage(db: sqlite3.Connection, process: int, usage: Iterable[Totals]) -> None:
    for model, tokens, usd, rest in usage:
        row = (process, _encoded(model), _bindable(tokens), usd, rest)
        db.execute("INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?, ?)", row)


def _bindable(value: float) -> float:
    """Return a number that SQLite can have: of integers those of 64 bits."""
    return value if -_MAX_INT <= value <= _MAX_INT or not isinstance(value, int) else float(value)


def _encoded(text: str) -> str | bytes:
    """Return a text, or its bytes if it has surrogates, which SQLite cannot have in a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def _decoded(text: str | bytes) -> str:
    return text.decode("utf-8", "surrogatepass") if isinstance(text, bytes) else text


def _totals(row: tuple[Any, ...]) -> Totals:
    model, tokens, usd, rest = row
    return Totals(_decoded(model), int(tokens), usd, rest)


def _free(db: sqlite3.Connection, released: Iterable[int]) -> None:
    for each in released:
        db.execute("DELETE FROM reservation WHERE id=?", (each,))


def _amounts(db: sqlite3.Connection, without: int | None, *, unpriced: bool) -> JobAmounts:
    used, reserved = sorted(db.execute(_AMOUNTS, (without, without)))
    (_, tokens, usd), (_, held, held_usd) = used, reserved
    models: dict[str, None] = {}
    if unpriced:
        query = "SELECT model, rest FROM usage WHERE process IS NOT ?"
        for model, rest in db.execute(query, (without,)):
            if _unpriced_calls(rest):
                models[_decoded(model)] = None
    return JobAmounts(int(tokens), usd, int(held), held_usd, tuple(models))


@lru_cache(maxsize=4_096)
def _unpriced_calls(rest: str) -> int:
    return int(json.loads(rest)[_UNPRICED])


def _census(db: sqlite3.Connection) -> Census:
    states = dict(db.execute("SELECT state, COUNT(*) FROM process WHERE id>0 GROUP BY state"))
    query = f"SELECT key, value FROM job WHERE key IN ('ended', 'died', '{_LAST_DEATH}')"  # noqa: S608
    past = dict(db.execute(query))
    last_death = past.get(_LAST_DEATH)
    return Census(
        running=states.get(State.RUNNING, 0),
        ended=states.get(State.ENDED, 0) + int(past.get(State.ENDED, 0)),
        died=states.get(State.DIED, 0) + int(past.get(State.DIED, 0)),
        last_death=None if last_death is None else float(last_death),
    )


def _cells_since(
    db: sqlite3.Connection, process: ProcessRow, seen: ProcessRow | None
) -> list[CellRow]:
    """Return the cells of a process that changed; all of them if any were deleted."""
    if seen is not None and seen.generation == process.generation:
        if seen.version == process.version:
            return []
        since = seen.version
    else:
        since = -1
    rows = db.execute(
        "SELECT series, value, buckets, changed FROM cell WHERE process=? AND version>?",
        (process.id, since),
    )
    return [_cell(row) for row in rows]


def _cell(row: tuple[Any, ...]) -> CellRow:
    found = CellRow._make(row)
    # SQLite has no NaN.
    return found if found.value is not None else found._replace(value=math.nan)


def _next_version(db: sqlite3.Connection, process: int) -> int:
    db.execute("UPDATE process SET version=version+1 WHERE id=?", (process,))
    row = db.execute("SELECT version FROM process WHERE id=?", (process,)).fetchone()
    return 0 if row is None else int(row[0])


def _next_generation(db: sqlite3.Connection, process: int) -> None:
    db.execute("UPDATE process SET generation=generation+1 WHERE id=?", (process,))


def _fold_cells(
    db: sqlite3.Connection,
    process: int,
    combine: Callable[[Definition, CellRow, CellRow], tuple[Exact, bytes | None]],
) -> None:
    query = "SELECT series, value, buckets, changed FROM cell WHERE process=?"
    version = _next_version(db, PAST)
    _next_generation(db, process)
    past = {row[0]: _cell(row) for row in db.execute(query, (PAST,))}
    metrics: dict[int, Definition] = {}
    for row in db.execute(query, (process,)).fetchall():
        cell = _cell(row)
        (metric,) = db.execute("SELECT metric FROM series WHERE id=?", (cell.series,)).fetchone()
        if metric not in metrics:
            (text,) = db.execute("SELECT definition FROM metric WHERE id=?", (metric,)).fetchone()
            metrics[metric] = _definition_of(text)
        if metrics[metric].across in ("living", "min"):
            continue
        value: Exact = cell.value
        buckets = cell.buckets
        before = past.get(cell.series)
        if before is not None:
            value, buckets = combine(metrics[metric], before, cell)
        changed = max(cell.changed, before.changed if before else 0.0)
        db.execute(
            "INSERT OR REPLACE INTO cell VALUES (?, ?, ?, ?, ?, ?)",
            (PAST, cell.series, value, buckets, changed, version),
        )
    db.execute("DELETE FROM cell WHERE process=?", (process,))


def _fold_usage(db: sqlite3.Connection, process: int) -> None:
    query = "SELECT model, tokens, usd, rest FROM usage WHERE process=?"
    past = {each.model: each for each in map(_totals, db.execute(query, (PAST,)))}
    folded = []
    for own in map(_totals, db.execute(query, (process,)).fetchall()):
        before = past.get(own.model)
        folded.append(own if before is None else _added(own, before))
    _write_usage(db, PAST, folded)
    db.execute("DELETE FROM usage WHERE process=?", (process,))


def _added(one: Totals, other: Totals) -> Totals:
    rest = [a + b for a, b in zip(json.loads(one.rest), json.loads(other.rest), strict=True)]
    return Totals(one.model, one.tokens + other.tokens, one.usd + other.usd, json.dumps(rest))


def _number_of(
    db: sqlite3.Connection, table: str, columns: tuple[str, ...], values: tuple[Any, ...]
) -> int:
    where = " AND ".join(f"{column}=?" for column in columns)
    found = db.execute(f"SELECT id FROM {table} WHERE {where}", values).fetchone()  # noqa: S608
    if found is not None:
        return int(found[0])
    marks = ", ".join("?" for _ in columns)
    cursor = db.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})",  # noqa: S608
        values,
    )
    return int(cursor.lastrowid or 0)


def _text_of(definition: Definition) -> str:
    return json.dumps(definition)


def _definition_of(text: str) -> Definition:
    scope, name, unit, description, kind, bounds, across = json.loads(text)
    return Definition(tuple(scope), name, unit, description, kind, tuple(bounds), across)
