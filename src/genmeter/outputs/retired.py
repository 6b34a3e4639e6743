"""The tokens of monitors that are gone, so that the process goes on counting them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.outputs.tokens import TokenUsageReport, report_of

if TYPE_CHECKING:
    from genmeter.recorders.token_sums import TokenTotals

__all__ = ["Retired"]


class Retired:
    """Totals of histories that are not kept any more."""

    def __init__(self) -> None:
        self._report = TokenUsageReport(by_model=[])
        self._until = 0.0

    def add(self, totals: TokenTotals, last: float | None) -> None:
        """Take over the totals of a history since its start.

        Args:
            totals: The totals.
            last: Unix time in seconds of the newest event in them.
        """
        self._report = TokenUsageReport.merge([self._report, report_of(totals)])
        self._until = max(self._until, last or 0.0)

    def since(self, since: float | None) -> TokenUsageReport:
        """Give the totals; incomplete where they cannot be told for the window alone.

        Args:
            since: Unix time in seconds; None means since the start of the process.
        """
        if since is None:
            return self._report
        return TokenUsageReport(by_model=[], complete=since > self._until)
