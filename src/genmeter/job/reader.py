"""Read a named job from outside of its processes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource

from genmeter.job import meeting
from genmeter.job._members import Members
from genmeter.job.amounts import JobError
from genmeter.job.folders import LOCKS, STORE
from genmeter.job.merged import Merger
from genmeter.job.store import Store, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from opentelemetry.sdk.metrics.export import MetricsData

__all__ = ["JobReader"]


class JobReader:
    """The published state of a named job of this user on this machine.

    It goes on with the next run of the job, which has another store.

    Args:
        name: The job's name, as in ``GENMETER_JOB``.
    """

    def __init__(self, name: str) -> None:
        self._folder = meeting.top() / meeting.folder_of(name)
        self._merger: Merger | None = None
        self._store: Store | None = None
        self._identity: tuple[int, int] | None = None

    def collect(self) -> MetricsData:
        """Return the metrics of the job.

        Raises:
            JobError: It does not run, or its store cannot be read.
        """
        try:
            if not meeting.is_safe(self._folder) or not _is_running(self._folder):
                raise JobError("no process of it runs")
            found = (self._folder / STORE).stat()
            if self._identity != (found.st_dev, found.st_ino):
                if self._store is not None:
                    self._store.close()
                self._store = Store(self._folder / STORE)
                self._merger = Merger(self._store)
                self._identity = (found.st_dev, found.st_ino)
            assert self._merger is not None and self._store is not None  # noqa: S101, PT018 - set above
            resource = self._store.value("resource")
            return self._merger.collect(Resource(json.loads(resource or "{}")))
        except (OSError, StoreError) as error:
            raise JobError(str(error)) from error


def _is_running(folder: Path) -> bool:
    members = Members(folder / LOCKS)
    try:
        return not members.is_empty()
    finally:
        members.close()
