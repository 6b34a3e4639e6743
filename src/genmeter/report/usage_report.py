"""The usage report in Python: what ``genmeter report`` prints, as an object."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING, Any

from genmeter.config.checks import WINDOW, one_of
from genmeter.config.prices import PriceTable
from genmeter.errors import ConfigError
from genmeter.events.values import UNREADABLE, safe_repr

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    import pandas as pd

    from genmeter.config.prices import PricesLike
    from genmeter.report.sources import OnError
    from genmeter.report.usage_table import UsageTable

__all__ = ["UsageReport", "read_usage"]

_ON_ERROR = one_of("raise", "note")


def read_usage(
    *sources: str | os.PathLike[str],
    window: timedelta | None = None,
    prices: PricesLike = None,
    by: str | Iterable[str] = ("model", "step"),
    on_error: OnError = "raise",
) -> UsageReport:
    """Sum up what jobs used, from their journals, exports and endpoints.

    It is ``genmeter report SOURCE...`` in Python. A file or an endpoint that several sources name
    counts once.

    Args:
        sources: Each the path of a journal, of a folder with journals at any depth or of an export,
            the address of an endpoint such as ``127.0.0.1:9464``, ``prometheus=`` and the address of
            a Prometheus or VictoriaMetrics, or a pattern such as ``runs/*/metrics.jsonl``.
        window: Time before the newest event of all journals and exports to include; None includes
            all. A Prometheus needs it, and counts it back from now; it cannot be used with an
            endpoint, which only has totals since its job began.
        prices: Prices that replace the recorded costs, as :class:`~genmeter.MonitorConfig` takes
            them. Each call of a journal or an export is priced by itself, the sums of an endpoint
            as such.
        by: The keys of the rows: some of ``model``, ``step``, ``provider``, ``phase``,
            ``response_model``, ``job`` and ``process``, also as text with commas.
        on_error: What happens if a source cannot be read, since a file is missing or damaged, a
            pattern matches nothing, or an endpoint or a Prometheus does not answer: ``raise``, or
            ``note``, by which it is in ``unread`` and a note says why its numbers are missing. It is
            always an error if no source can be read, or if an address is not one.

    Raises:
        ConfigError: An argument is invalid, a file cannot be read, a pattern matches nothing, or an
            endpoint or a Prometheus does not answer.
        ExportError: An export cannot be read.
        MissingExtraError: A package that a source or the prices need is not installed.
    """
    from genmeter.report.sources import read_sources

    keys = _keys(by)
    table = read_sources(
        [_path(number, source) for number, source in enumerate(sources)],
        window=WINDOW("window", window),
        prices=PriceTable.coerce(prices),
        on_error=_ON_ERROR("on_error", on_error),
    )
    return UsageReport(table, keys)


class UsageReport:
    """What jobs used. ``str()`` is the table that ``genmeter report`` prints.

    Attributes:
        by: The keys of the rows.
    """

    def __init__(self, table: UsageTable, by: tuple[str, ...]) -> None:
        self._table = table
        self.by = by

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict for each group, sorted by the keys.

        It has the keys of ``by`` (text; None is unknown), then:

        - ``calls``, ``failures``, ``cancelled``, ``calls_without_usage``: calls, failed and
          cancelled ones included in the first; no evaluations.
        - ``success_share``: 0 to 1, without cancelled calls; None without any other.
        - ``prompt_tokens``, ``completion_tokens``, ``total_tokens``, ``cache_read_tokens``,
          ``cache_write_tokens``, ``reasoning_tokens``: tokens, those of evaluations included.
        - ``cost_usd``: USD of the calls that have a price; None without any.
        - ``duration_mean_seconds``, ``duration_p50_seconds``, ``duration_p95_seconds``: of calls;
          None without any. The quantiles of an endpoint are estimated from a histogram.
        """
        from genmeter.report.formats import records

        return records(self._table, self.by)

    @property
    def total(self) -> dict[str, Any]:
        """The sums of all rows, without keys."""
        from genmeter.report.formats import numbers

        return numbers(self._table.total())

    @property
    def since(self) -> datetime | None:
        """The time of the first event, in UTC; None if all sources are endpoints, or empty."""
        return _time(self._table.since)

    @property
    def until(self) -> datetime | None:
        """The time of the last event, in UTC; None if all sources are endpoints, or empty."""
        return _time(self._table.until)

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be missing in the sums, or to be in them twice.

        If not, ``notes`` say what: a rotated file that was deleted, an invalid line, a source that
        could not be read, a process of the job that died. Calls without usage and models without
        a price are not part of it: see ``calls_without_usage`` and ``unpriced_models``.
        """
        return self._table.is_complete and not self._table.is_repeated

    @property
    def notes(self) -> list[str]:
        """Sentences on what is missing in the sums or is not exact."""
        from genmeter.report.formats import all_notes

        return all_notes(self._table)

    @property
    def unread(self) -> list[str]:
        """The sources that could not be read: addresses without logins, paths and patterns."""
        return list(self._table.unread)

    @property
    def unpriced_models(self) -> list[str]:
        """The models with tokens and without a price, sorted."""
        return sorted(self._table.unpriced)

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a frame.

        Returns:
            A row for each group and the columns of ``rows``: the keys as ``string``, counts as
            ``int64``, the others as ``float64``; unknown is NA or NaN. Without groups it has the
            columns only.
        """
        import pandas as pd

        from genmeter.report.formats import FIELDS

        frame = pd.DataFrame(self.rows, columns=[*self.by, *FIELDS])
        fractions = {"success_share", "cost_usd", *(each for each in FIELDS if "seconds" in each)}
        kinds = {name: "float64" if name in fractions else "int64" for name in FIELDS}
        return frame.astype({**dict.fromkeys(self.by, "string"), **kinds})

    def to_json(self) -> str:
        """Return the JSON object that ``genmeter report --format json`` prints."""
        from genmeter.report.formats import to_json

        return to_json(self._table, self.by)

    def log_to(self, tracker: Any, *, prefix: str = "genmeter") -> None:
        """Log the numbers, the rows and the notes to the current run of an experiment tracker.

        See :func:`genmeter.tables.trackers.log_usage` for the names.

        Args:
            tracker: The module ``mlflow``, the module ``wandb`` or a run of it.
            prefix: What the names of all metrics begin with.

        Raises:
            ConfigError: The tracker is none of these, or ``prefix`` cannot be part of a name.
        """
        from genmeter.tables.trackers import log_usage

        log_usage(
            tracker,
            total=self.total,
            frame=self.to_frame(),
            keys=self.by,
            notes=self.notes,
            prefix=prefix,
        )

    def __str__(self) -> str:
        from genmeter.report.formats import to_table

        return to_table(self._table, self.by)

    def _repr_html_(self) -> str:
        from genmeter.report.formats import to_html

        return to_html(self._table, self.by)

    def __repr__(self) -> str:
        total = self._table.total()
        state = "complete" if self.complete else "incomplete"
        return f"<UsageReport: {total.calls:,} calls, {total.total_tokens:,} tokens, {state}>"


def _time(when: float | None) -> datetime | None:
    from datetime import UTC, datetime

    return None if when is None else datetime.fromtimestamp(when, UTC)


def _keys(by: str | Iterable[str]) -> tuple[str, ...]:
    from genmeter.report.usage_table import GROUP_KEYS

    try:
        given = by.split(",") if isinstance(by, str) else islice(by, len(GROUP_KEYS) + 1)
        keys = tuple(str.strip(key) for key in given)
        is_valid = 0 < len(set(keys) & set(GROUP_KEYS)) == len(keys)
    except UNREADABLE:
        is_valid = False
    if not is_valid:
        raise ConfigError(
            f"by must be some of {', '.join(GROUP_KEYS)}, each at most once, got {safe_repr(by)}"
        )
    return keys


def _path(number: int, source: str | os.PathLike[str]) -> str:
    try:
        return str.__str__(os.fspath(source))
    except UNREADABLE:
        raise ConfigError(
            f"sources[{number}] must be a path, an address or a pattern, got {safe_repr(source)}"
        ) from None
