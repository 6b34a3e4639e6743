"""The table of plots: which signals each shows, and in which form."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from genmeter.schema import signals as sig

__all__ = ["GROUPS", "PLOTS", "Form", "Plot"]


class Form(Enum):
    """How a plot shows its signals."""

    ROLLING = auto()
    """A rolling mean over time, and the middle 80 % around it."""
    SHARES_OVER_TIME = auto()
    """A rolling mean over time for each signal, each on axes of its own."""
    DISTRIBUTION = auto()
    """A histogram, with the median and the 95th percentile."""
    SCORES = auto()
    """A rolling mean over time for each of the signal's columns."""
    QUANTILES = auto()
    """A box of quantiles for each group."""
    SUMS = auto()
    """A bar for each group, the signals stacked."""
    SHARES = auto()
    """A bar for each group, the signals stacked to 100 %."""
    SUMS_OVER_TIME = auto()
    """A stack of groups for each slice of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One plot.

    Args:
        name: Its key, and its file's name.
        form: How it shows its signals.
        signals: What it shows.
        title: Its heading; None makes one of the lone signal's title and the groups' name.
        by: The column of the frames that its groups come from.
        least_groups: Groups that there must be, so that a plot does not repeat what another says.
    """

    name: str
    form: Form
    signals: tuple[sig.Signal, ...]
    title: str | None = None
    by: Literal["model", "error_type"] | None = None
    least_groups: int = 2

    @property
    def heading(self) -> str:
        """What stands above it."""
        if self.title is not None:
            return self.title
        title = self.signals[0].title
        return title if self.by is None else f"{title} by {GROUPS[self.by]}"


GROUPS = {"model": "model", "error_type": "type of error"}
"""What the groups of a column are called."""

PLOTS: tuple[Plot, ...] = (
    Plot(
        name="success_error_rate",
        title="Success and error rate",
        form=Form.SHARES_OVER_TIME,
        signals=(sig.SUCCESS_RATE, sig.ERROR_RATE),
    ),
    Plot(name="generation_time", form=Form.DISTRIBUTION, signals=(sig.GENERATION_TIME,)),
    Plot(name="total_token_count", form=Form.ROLLING, signals=(sig.TOTAL_TOKEN_COUNT,)),
    Plot(name="prompt_token_count", form=Form.ROLLING, signals=(sig.PROMPT_TOKEN_COUNT,)),
    Plot(name="completion_token_count", form=Form.ROLLING, signals=(sig.COMPLETION_TOKEN_COUNT,)),
    Plot(name="evaluation_scores", form=Form.SCORES, signals=(sig.EVALUATION_SCORE,)),
    Plot(name="evaluation_time", form=Form.DISTRIBUTION, signals=(sig.EVALUATION_TIME,)),
    Plot(
        name="generation_time_by_model",
        form=Form.QUANTILES,
        signals=(sig.CALL_TIME,),
        by="model",
    ),
    Plot(
        name="outcomes_by_model",
        title="Outcomes of calls by model",
        form=Form.SHARES,
        signals=(sig.SUCCESSFUL_CALLS, sig.FAILED_CALLS),
        by="model",
    ),
    Plot(
        name="tokens_by_model",
        title="Tokens by model",
        form=Form.SUMS,
        signals=(sig.INPUT_TOKENS, sig.OUTPUT_TOKENS, sig.UNITEMISED_TOKENS),
        by="model",
    ),
    Plot(
        name="tokens_over_time_by_model",
        title="Tokens over time by model",
        form=Form.SUMS_OVER_TIME,
        signals=(sig.TOTAL_TOKENS,),
        by="model",
    ),
    Plot(
        name="errors_by_type",
        title="Failed calls by type of error",
        form=Form.SUMS,
        signals=(sig.FAILED_CALLS,),
        by="error_type",
        least_groups=1,
    ),
)
"""All of them, in the order in which they are drawn: AfterImage's seven, then ours."""
