"""The named jobs that have ended in the last minute, so that the next run of one can say so.

The folder of a job is gone when it ends. If its processes run one after the other, the next one begins
at 0, which a user may not expect. A line of a file beside the folder of all jobs has what was counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

from genmeter.job.usage_rows import report_of_totals

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from genmeter.job.store import Store

__all__ = ["Ended", "counted_in", "ended_of_late", "note_ended"]

_RECENT = 60.0  # seconds
_MAX_BYTES = 2**14


class Ended(NamedTuple):
    """What a job had counted that has ended.

    Args:
        at: Unix time of its end.
        calls: Its calls.
        tokens: Their tokens.
    """

    at: float
    calls: int
    tokens: int

    @property
    def is_recent(self) -> bool:
        """Whether it was in the last minute."""
        return 0 <= time.time() - self.at <= _RECENT


def counted_in(store: Store) -> Ended:
    """Return what the processes of a job have counted, and when they published last.

    Raises:
        StoreError: The store cannot be read.
    """
    report = report_of_totals(store.usage())
    calls = sum(each.calls for each in report.by_model) + sum(report.without_usage.values())
    return Ended(store.last_change(), calls, report.total_tokens)


def note_ended(top: Path, key: str, found: Ended) -> None:
    """Note that a job has ended.

    Args:
        top: The folder of all jobs.
        key: The name of the job's folder.
        found: What it had counted.

    Raises:
        OSError: The file cannot be written.
    """
    line = f"{json.dumps([key, *found])}\n".encode()
    with _opened(top, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file:
        if os.fstat(file).st_size > _MAX_BYTES:
            # One that ends in this moment may be lost.
            kept = [json.dumps([name, *each]) for name, each in _lines(file) if each.is_recent]
            line = "".join(f"{each}\n" for each in kept).encode() + line
            os.ftruncate(file, 0)
        os.write(file, line)


def ended_of_late(top: Path, key: str) -> Ended | None:
    """Return what a job had counted that has ended in the last minute; None if none has.

    Args:
        top: The folder of all jobs.
        key: The name of the job's folder.
    """
    found = None
    with contextlib.suppress(OSError), _opened(top, os.O_RDONLY) as file:
        for name, each in _lines(file):
            if name == key and each.is_recent:
                found = each
    return found


@contextlib.contextmanager
def _opened(top: Path, flags: int) -> Iterator[int]:
    path = top.with_name(f"{top.name}.ended")
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            raise PermissionError(f"{str(path)!r} is not this user's file")
        yield file
    finally:
        os.close(file)


def _lines(file: int) -> Iterator[tuple[str, Ended]]:
    for line in os.pread(file, 4 * _MAX_BYTES, 0).decode(errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError):
            name, at, calls, tokens = json.loads(line)
            yield str(name), Ended(float(at), int(calls), int(tokens))
