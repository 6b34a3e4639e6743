"""Reads sources: journals, exports and endpoints, and adds them up."""

from __future__ import annotations

import glob
import math
import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from genmeter.errors import ConfigError, GenmeterError
from genmeter.events.values import safe_repr
from genmeter.report._job_details import add_job
from genmeter.report.endpoint import Page, endpoint_address, read_endpoint
from genmeter.report.export import Export
from genmeter.report.fleet import read_fleet
from genmeter.report.journal import Journal, Seen, folders_below, journal_files
from genmeter.report.promapi import server_address
from genmeter.report.usage_table import UsageTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

    from genmeter.config.prices import PriceTable
    from genmeter.report.details import Details

__all__ = ["OnError", "read_sources", "source_name"]

OnError = Literal["raise", "note"]

_T = TypeVar("_T")

_ADDRESS = re.compile(r"(?:[^/@]*@)?(?:\[[0-9a-fA-F:.]+\]|[\w.-]+):\d{1,5}(?:/\S*)?")
_HAS_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_JOURNAL_LINE = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"metric"')
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
_JOURNAL_SUFFIX = ".jsonl"
_MAX_SCRAPES = 16  # at once
_MAX_NAMES = 3  # in a note
_MAX_NOTES = 10  # of the sources themselves
_PROMETHEUS = "prometheus="


def read_sources(
    sources: Sequence[str],
    *,
    window: timedelta | None = None,
    progress: Callable[[int, int], object] | None = None,
    prices: PriceTable | None = None,
    on_error: OnError | Literal["note_servers"] = "note",
    details: Details | None = None,
) -> UsageTable:
    """Read sources, and sum them up.

    A file that several sources name counts once, and so does an endpoint.

    Args:
        sources: The paths of journals, of folders with journals at any depth and of exports, the
            addresses of endpoints, ``prometheus=`` and the address of one, and patterns of paths, as
            of ``glob`` with ``**``.
        window: Time before the newest event of all journals and exports to include, and before now
            of a Prometheus, which needs it; None includes all.
        progress: Called with what was read and what there is in total: bytes of the journals,
            milliseconds of the window of a Prometheus.
        prices: Prices that replace the recorded costs. Each call of a journal or an export is
            priced by itself, the sums of an endpoint as such.
        on_error: What happens if a source cannot be read: ``raise``; or ``note``, which names it in
            the notes and in ``unread``; or ``note_servers``, which does so for endpoints and
            Prometheus only. If no source can be read, that is an error.
        details: What to add to, for each source, what a page shows beside the sums.

    Raises:
        ConfigError: A source is invalid, or cannot be read and is not noted; an endpoint has a
            window, or a Prometheus has none.
        ExportError: An export cannot be read.
        MissingExtraError: The export's format needs a package that is not installed.
    """
    if not sources:
        raise ConfigError("sources must be at least one journal, export or address, got none")
    failures = _Failures(on_error)
    plan = _Plan(failures)
    for source in sources:
        plan.add(source)
    plan.check_window(window)
    seen: Seen = {}
    exports = plan.open_exports(seen)
    cutoff = -math.inf
    if window is not None:
        newest = [each.newest() for each in exports]
        newest += plan.newest_of_journals()
        cutoff = max(newest, default=-math.inf) - window.total_seconds()
    pages, asked_twice = _different(_read_endpoints(plan.endpoints, failures))
    for address, page in pages:
        if prices is not None:
            page.usage.price_sums(prices)
        if details is not None:
            add_job(details, address, page.families)
    fleets = _read_fleets(plan.fleets, failures, window, progress, prices, details)
    tables = [*(page.usage for _, page in pages), *fleets]
    tables += [each.read(window, cutoff, prices, details) for each in exports]
    journals = _read_journals(
        plan.journals, failures, seen, window, cutoff, progress, prices, details
    )
    tables += journals
    if not tables:
        failures.raise_first()
    total = UsageTable.sum(tables, window)
    _add_notes(total, tables)
    failures.note(total)
    _note_once([*plan.again, *asked_twice, *_given_twice(seen)], total)
    _note_left_out(plan.journals, seen, total)
    _note_missing(total, cutoff)
    if journals or exports:
        _note_both(total, {page.job for _, page in pages}, "at an endpoint")
        _note_both(total, {key.job for each in fleets for key in each.rows}, "in a Prometheus")
    if len(fleets) > 1:
        _note_several(total, fleets)
    total.name_processes()
    return total


def source_name(source: str) -> str:
    """Return a source as it may be shown: an address without its login."""
    if source.startswith(_PROMETHEUS):
        return f"{_PROMETHEUS}{server_address(source.removeprefix(_PROMETHEUS)).shown}"
    return endpoint_address(source) if _is_address(source) else source


def _is_address(source: str) -> bool:
    if _HAS_SCHEME.match(source):
        return True
    return _ADDRESS.fullmatch(source) is not None and not _exists(source)


class _Failures:
    """The sources that cannot be read: the first one is raised, or all of them are noted.

    Args:
        on_error: As of `read_sources`.
    """

    def __init__(self, on_error: str) -> None:
        self._on_error = on_error
        self._found: dict[str, GenmeterError] = {}

    def attempt(self, name: str, read: Callable[[], _T], *, is_server: bool = False) -> _T | None:
        """Return what a function reads; None if that is an error to be noted.

        Args:
            name: The source's name in a note.
            read: Reads it.
            is_server: Whether it is an endpoint or a Prometheus.
        """
        try:
            return read()
        except GenmeterError as error:
            self.add(name, error, is_server=is_server)
            return None

    def add(self, name: str, error: GenmeterError, *, is_server: bool = False) -> None:
        """Note an error, or raise it."""
        if self._on_error == "raise" or (self._on_error == "note_servers" and not is_server):
            raise error
        self._found.setdefault(name, error)

    def raise_first(self) -> None:
        """Raise the first error, if there is any."""
        for error in self._found.values():
            raise error

    def note(self, total: UsageTable) -> None:
        """Name what is missing in the sums."""
        total.unread += self._found
        for name, error in list(self._found.items())[:_MAX_NOTES]:
            total.note_partial(f"Incomplete: {error}; the numbers of {name} are missing.")
        if (more := len(self._found) - _MAX_NOTES) > 0:
            total.note_partial(f"Incomplete: {more:,} more sources could not be read.")


# --- what a source is --------------------------------------------------------------------------


@dataclass
class _Plan:
    """The journals, exports and endpoints that the sources stand for.

    Attributes:
        failures: Those that cannot be read.
        endpoints: Addresses as given, each once.
        journals: Journals.
        fleets: Addresses of a Prometheus, each once, and as they are shown.
        again: Endpoints that were given again.
    """

    failures: _Failures
    endpoints: list[str] = field(default_factory=list)
    journals: list[Journal] = field(default_factory=list)
    fleets: dict[str, str] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    _addresses: set[str] = field(default_factory=set)
    _exports: list[Path] = field(default_factory=list)

    def add(self, source: str) -> None:
        """Add a source."""
        if not source:
            raise ConfigError("source must be a journal, an export or an address, got ''")
        exists = _exists(source)
        if source.startswith(_PROMETHEUS):
            url = source.removeprefix(_PROMETHEUS)
            self.fleets[url] = f"{_PROMETHEUS}{server_address(url).shown}"
        elif _is_address(source):
            address = endpoint_address(source)
            if address in self._addresses:
                self.again.append(address)
            else:
                self._addresses.add(address)
                self.endpoints.append(source)
        elif glob.has_magic(source) and not exists:
            # Sorted, so that the notes are the same each time.
            found = sorted(glob.glob(source, recursive=True, include_hidden=True))  # noqa: PTH207 - a pattern may be absolute
            if not found:
                error = ConfigError(
                    f"source={source!r} matches no file; check the pattern, which must be quoted in "
                    "a shell, such as 'runs/*/metrics.jsonl'"
                )
                self.failures.add(source, error)
            for path in found:
                self._add_path(Path(path))
        else:
            self._add_path(Path(source))

    def check_window(self, window: timedelta | None) -> None:
        """Raise ConfigError if the window does not suit the sources."""
        if window is not None and self.endpoints:
            raise ConfigError(
                f"window must be omitted for an endpoint such as {self.endpoints[0]!r}, which only "
                "has totals since the job began; or use the job's journal"
            )
        if window is None and self.fleets:
            raise ConfigError(
                "window must be given for prometheus=, such as --window 24h, got none"
            )

    def open_exports(self, seen: Seen) -> list[Export]:
        """Read the exports, each once."""
        exports = []
        for path in self._exports:
            # The reader's error has the remedy, if the file is absent.
            status = path.stat() if path.exists() else None
            if status is not None:
                paths = seen.setdefault((status.st_dev, status.st_ino), [])
                paths.append(str(path))
                if len(paths) > 1:
                    continue
            export = self.failures.attempt(str(path), partial(Export, path))
            if export is not None:
                exports.append(export)
        return exports

    def newest_of_journals(self) -> list[float]:
        """Return the time of the newest event of each journal, without those that cannot be read."""
        found = {each: self.failures.attempt(str(each.path), each.newest) for each in self.journals}
        self.journals = [each for each in self.journals if found[each] is not None]
        return [when for when in found.values() if when is not None]

    def _add_path(self, path: Path) -> None:
        is_journal = self.failures.attempt(str(path), lambda: _checked(path, self._is_journal_at))
        if is_journal:
            self.journals.append(Journal(path))
        elif is_journal is False:
            self._exports.append(path)

    def _is_journal_at(self, path: Path) -> bool | None:
        """Return whether a file is a journal; None for a folder, whose journals are added."""
        if not path.is_dir():
            return _is_journal(path)
        folders = folders_below(path)
        if not folders:
            raise ConfigError(
                f"source={str(path)!r} has no metrics.jsonl, nor has a folder in it; use "
                "another folder, or the path of an export"
            )
        for folder in folders:
            # Each by itself: one that cannot be read does not hide the others.
            read = partial(_checked, folder, _can_be_read)
            if self.failures.attempt(str(folder), read):
                self.journals.append(Journal(folder))
        return None


def _checked(path: Path, read: Callable[[Path], _T]) -> _T:
    """Return what a function finds at a path.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return read(path)
    except OSError as error:
        raise ConfigError(
            f"source={safe_repr(str(path))} cannot be read: {error.strerror or error}; check the file "
            "and its path"
        ) from error


def _can_be_read(folder: Path) -> bool:
    for path in journal_files(folder):
        with path.open("rb"):
            pass
    return True


def _exists(source: str) -> bool:
    try:
        return os.path.lexists(source)
    except ValueError:  # a null byte
        return False


def _is_journal(path: Path) -> bool:
    """Return whether a file is a journal; if not, it may be an export."""
    if path.is_file():
        with path.open("rb") as file:
            beginning = file.read(64)
        if beginning.startswith(_COMPRESSED):
            raise ConfigError(f"source={str(path)!r} is compressed; unpack it first")
        return path.suffix == _JOURNAL_SUFFIX or _JOURNAL_LINE.match(beginning) is not None
    if path.suffix.lower() == ".csv":  # the export reader's error has the remedy
        return False
    raise ConfigError(
        f"source must be a journal (metrics.jsonl or its folder), an export, or the address of an "
        f"endpoint such as http://127.0.0.1:9464/metrics, got {safe_repr(str(path))}"
    )


# --- reading -----------------------------------------------------------------------------------


def _read_endpoints(sources: Sequence[str], failures: _Failures) -> list[tuple[str, Page]]:
    """Return the pages by address, without those of endpoints that did not answer."""

    def read(source: str) -> Page | ConfigError:
        try:
            return read_endpoint(source)
        except ConfigError as error:
            return error

    pages = []
    with ThreadPoolExecutor(_MAX_SCRAPES) as pool:
        for source, page in zip(sources, pool.map(read, sources), strict=True):
            if isinstance(page, Page):
                pages.append((endpoint_address(source), page))
            else:
                failures.add(endpoint_address(source), page, is_server=True)
    return pages


def _read_fleets(
    fleets: Mapping[str, str],
    failures: _Failures,
    window: timedelta | None,
    progress: Callable[[int, int], object] | None,
    prices: PriceTable | None,
    details: Details | None,
) -> list[UsageTable]:
    """Return the sums of each Prometheus, without those that did not answer."""
    tables = []
    for url, shown in fleets.items():
        assert window is not None  # noqa: S101 - checked before
        read = partial(
            read_fleet, url, window=window, progress=progress, prices=prices, details=details
        )
        table = failures.attempt(shown, read, is_server=True)
        if table is not None:
            tables.append(table)
    return tables


def _different(pages: list[tuple[str, Page]]) -> tuple[list[tuple[str, Page]], list[str]]:
    """Return the pages of different jobs, and the other addresses of the same ones."""
    kept: dict[tuple[str | None, str], tuple[str, Page]] = {}
    again = []
    for at, (address, page) in enumerate(pages):
        if page.instance is None:
            kept[None, str(at)] = (address, page)
        elif (first := kept.setdefault((page.job, page.instance), (address, page)))[1] is not page:
            again.append(f"{address} (the same job as {first[0]})")
    return list(kept.values()), again


def _read_journals(
    journals: Sequence[Journal],
    failures: _Failures,
    seen: Seen,
    window: timedelta | None,
    cutoff: float,
    progress: Callable[[int, int], object] | None,
    prices: PriceTable | None,
    details: Details | None,
) -> list[UsageTable]:
    sizes = [journal.size() for journal in journals] if progress is not None else []
    tables = []
    for at, journal in enumerate(journals):
        before = sum(sizes[:at])

        def step(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, max(sum(sizes), before + done))

        read = partial(journal.read, seen, window, cutoff, step, prices, details)
        table = failures.attempt(str(journal.path), read)
        if table is not None:
            tables.append(table)
    return tables


# --- notes -------------------------------------------------------------------------------------


def _add_notes(total: UsageTable, tables: Sequence[UsageTable]) -> None:
    """Copy the notes of the sources; the same note of several comes once."""
    notes = list(dict.fromkeys(note for table in tables for note in table.notes))
    total.notes += notes[:_MAX_NOTES]
    if len(notes) > _MAX_NOTES:
        total.notes.append(f"{len(notes) - _MAX_NOTES:,} more sources have such notes.")


def _given_twice(seen: Seen) -> list[str]:
    return [path for paths in seen.values() for path in paths[1:]]


def _note_once(names: Sequence[str], total: UsageTable) -> None:
    if names:
        different = list(dict.fromkeys(names))
        total.notes.append(f"Given more than once, and counted once: {_listed(different)}.")


def _note_left_out(journals: Sequence[Journal], seen: Seen, total: UsageTable) -> None:
    left_out = {
        str(path): journal.path.parent for journal in journals for path in journal.left_out(seen)
    }
    if left_out:
        folders = {str(folder): None for folder in left_out.values()}
        total.note_partial(
            f"Incomplete: other files of the same journal are not included: "
            f"{_listed(list(left_out))}; use the folder ({_listed(list(folders))})."
        )


def _note_missing(total: UsageTable, cutoff: float) -> None:
    events = total.runs.count(cutoff)
    kind = "calls, conversations and evaluations"
    if events.missing and cutoff == -math.inf:
        # "At least": of a process whose rows are all gone, nothing is known.
        total.note_partial(
            f"Incomplete: {events.present:,} of at least {events.present + events.missing:,} {kind} "
            "are here; the others were in rotated files that were deleted, or could not be written."
        )
    elif events.missing:
        total.note_partial(
            f"Incomplete: {kind} of the window are missing, up to {events.missing:,} of the processes "
            "seen here; they were in rotated files that were deleted, or could not be written."
        )
    if events.repeated:
        total.note_repeated(
            f"Counted twice: {events.repeated:,} {kind} are in more than one of the files; use each "
            "journal once."
        )


def _note_both(total: UsageTable, jobs: set[str | None], where: str) -> None:
    """Add a note that jobs are, or may be, both at a place that has sums and in a file."""
    if both := sorted(job for job in jobs & total.runs.jobs() if job is not None):
        total.note_repeated(
            f"Perhaps counted twice: the job {_listed(both)} is both {where} and in a journal; "
            "calls that both have are in the sums twice."
        )
    elif jobs:  # the names may come from different variables
        total.notes.append(f"A job that is both {where} and in one of the files counts twice.")


def _note_several(total: UsageTable, fleets: Sequence[UsageTable]) -> None:
    """Add a note that targets are, or may be, in more than one Prometheus."""
    targets = Counter(
        target for each in fleets for target in {(key.job, key.process) for key in each.rows}
    )
    if same := [
        f"{job or '-'}, {process or '-'}" for (job, process), times in targets.items() if times > 1
    ]:
        total.note_repeated(
            f"Perhaps counted twice: more than one Prometheus has the same targets "
            f"({_listed(sorted(same))}); use one of its replicas."
        )
    else:
        total.notes.append("A process that is in more than one Prometheus counts in each.")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    return f"{', '.join(names[:_MAX_NAMES])}{f' and {more:,} more' if more > 0 else ''}"
