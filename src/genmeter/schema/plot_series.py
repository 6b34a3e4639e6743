"""The table of plot series: what the plots of a history show, and from which columns.

The columns are those of the history's frames (:func:`genmeter.history.frames.to_frame`). A series
that replaces a metric of AfterImage includes conversations and samples of ``record_metric``, as that
metric did. All others are of model calls only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["PLOT_SERIES", "Frame", "PlotSeries"]

Frame = Literal["generations", "conversations", "evaluations"]
_CALLS: tuple[Frame, ...] = ("generations",)
_AND_CONVERSATIONS: tuple[Frame, ...] = ("generations", "conversations")
_EVALUATIONS: tuple[Frame, ...] = ("evaluations",)
_ALL: tuple[Frame, ...] = (*_AND_CONVERSATIONS, *_EVALUATIONS)


@dataclass(frozen=True, slots=True)
class PlotSeries:
    """One series of a plot.

    Args:
        title: Its heading or legend.
        unit: UCUM unit; an annotation in braces names what is counted.
        frames: The kinds of frames with its rows.
        column: The column of its value in each frame. A ``*`` at the end matches every column with
            that prefix, each a series.
        recorded_as: The name, or the prefix of names, under which ``record_metric`` adds to it.
        aggregation: How rows are combined.
        is_complement: Whether the value is 1 minus the column's.
        less: Columns that are subtracted from the column, down to 0; unknown ones count as 0.
    """

    title: str
    unit: str
    frames: tuple[Frame, ...]
    column: str
    recorded_as: str | None = None
    aggregation: Literal["mean", "sum"] = "mean"
    is_complement: bool = False
    less: tuple[str, ...] = ()

    def stands_for(self, name: str) -> bool:
        """Return whether it replaces a metric of AfterImage."""
        if self.recorded_as is None:
            return False
        is_pattern = self.column.endswith("*")
        return name.startswith(self.recorded_as) if is_pattern else name == self.recorded_as


# fmt: off
GENERATION_TIME = PlotSeries(
    "Generation time", "s", _AND_CONVERSATIONS, "duration_seconds", "generation_time")
SUCCESS_RATE = PlotSeries("Success rate", "1", _AND_CONVERSATIONS, "success", "success_rate")
ERROR_RATE = PlotSeries(
    "Error rate", "1", _AND_CONVERSATIONS, "success", "error_rate", is_complement=True)
TOTAL_TOKEN_COUNT = PlotSeries(
    "Total tokens per call", "{token}", _ALL, "total_tokens", "total_token_count")
PROMPT_TOKEN_COUNT = PlotSeries(
    "Prompt tokens per call", "{token}", _ALL, "input_tokens", "prompt_token_count")
COMPLETION_TOKEN_COUNT = PlotSeries(
    "Completion tokens per call", "{token}", _ALL, "output_tokens", "completion_token_count")
CONVERSATION_LENGTH = PlotSeries(
    "Conversation length", "{turn}", ("conversations",), "turns", "conversation_length")
EVALUATION_SCORE = PlotSeries(
    "Evaluation scores", "{score}", _EVALUATIONS, "score_*", "evaluation_score_")
EVALUATION_TIME = PlotSeries(
    "Evaluation time", "s", _EVALUATIONS, "duration_seconds", "evaluation_time")
EVALUATION_ERROR_RATE = PlotSeries(
    "Error rate of evaluations", "1", _EVALUATIONS, "success", "evaluation_error_rate",
    is_complement=True)

CALL_TIME = PlotSeries("Time per call", "s", _CALLS, "duration_seconds")
SUCCESSFUL_CALLS = PlotSeries("Succeeded", "{call}", _CALLS, "success", aggregation="sum")
FAILED_CALLS = PlotSeries(
    "Failed", "{call}", _CALLS, "success", aggregation="sum", is_complement=True)
INPUT_TOKENS = PlotSeries("Prompt", "{token}", _CALLS, "input_tokens", aggregation="sum")
OUTPUT_TOKENS = PlotSeries("Completion", "{token}", _CALLS, "output_tokens", aggregation="sum")
UNITEMISED_TOKENS = PlotSeries(
    "In the total only", "{token}", _CALLS, "total_tokens", aggregation="sum",
    less=("input_tokens", "output_tokens"))
TOTAL_TOKENS = PlotSeries("Tokens", "{token}", _CALLS, "total_tokens", aggregation="sum")
# fmt: on

PLOT_SERIES: tuple[PlotSeries, ...] = tuple(
    each for each in tuple(globals().values()) if isinstance(each, PlotSeries)
)
"""All of them."""
