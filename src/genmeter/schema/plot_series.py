"""The table of plot series: what the plots of a history show, and from which columns.

A series comes from the columns of the history's frames (:func:`genmeter.history.frames.to_frame`).
One that is named like a metric of AfterImage's covers all that its monitor counted under that name:
conversations, and samples of ``record_metric``. The others are of calls of models only.
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
        id: Its name; the name of AfterImage's metric where it covers that.
        title: What it is, for a heading or a legend.
        unit: UCUM unit; an annotation in braces names what is counted.
        description: One sentence for whoever reads the picture.
        frames: The kinds of frames that its rows come from.
        column: The column of its value in each of them; a ``*`` at its end stands for every column
            that begins so, each of which is a series of its own.
        aggregation: How many rows are combined.
        is_complement: Whether the value is 1 minus the column's.
        less: Columns that are subtracted from the column, down to 0; unknown ones count as 0.
        recorded_as: The name, or the names' beginning, under which ``record_metric`` adds to it.
    """

    id: str
    title: str
    unit: str
    description: str
    frames: tuple[Frame, ...]
    column: str
    aggregation: Literal["mean", "sum"] = "mean"
    is_complement: bool = False
    less: tuple[str, ...] = ()
    recorded_as: str | None = None

    def stands_for(self, name: str) -> bool:
        """Return whether it shows an old metric."""
        if self.recorded_as is None:
            return False
        is_pattern = self.column.endswith("*")
        return name.startswith(self.recorded_as) if is_pattern else name == self.recorded_as


GENERATION_TIME = PlotSeries(
    "generation_time",
    "Generation time",
    "s",
    "Time that a call or a conversation took, failed ones included.",
    _AND_CONVERSATIONS,
    "duration_seconds",
    recorded_as="generation_time",
)
SUCCESS_RATE = PlotSeries(
    "success_rate",
    "Success rate",
    "1",
    "Share of the calls and conversations that succeeded.",
    _AND_CONVERSATIONS,
    "success",
    recorded_as="success_rate",
)
ERROR_RATE = PlotSeries(
    "error_rate",
    "Error rate",
    "1",
    "Share of the calls and conversations that failed.",
    _AND_CONVERSATIONS,
    "success",
    is_complement=True,
    recorded_as="error_rate",
)
TOTAL_TOKEN_COUNT = PlotSeries(
    "total_token_count",
    "Total tokens per call",
    "{token}",
    "Tokens of prompt and completion together, as the provider totals them.",
    _ALL,
    "total_tokens",
    recorded_as="total_token_count",
)
PROMPT_TOKEN_COUNT = PlotSeries(
    "prompt_token_count",
    "Prompt tokens per call",
    "{token}",
    "Tokens of the prompt, cached ones included.",
    _ALL,
    "input_tokens",
    recorded_as="prompt_token_count",
)
COMPLETION_TOKEN_COUNT = PlotSeries(
    "completion_token_count",
    "Completion tokens per call",
    "{token}",
    "Tokens of the completion, reasoning included.",
    _ALL,
    "output_tokens",
    recorded_as="completion_token_count",
)
CONVERSATION_LENGTH = PlotSeries(
    "conversation_length",
    "Conversation length",
    "{turn}",
    "Turns of a conversation.",
    ("conversations",),
    "turns",
    recorded_as="conversation_length",
)
EVALUATION_SCORE = PlotSeries(
    "evaluation_score",
    "Evaluation scores",
    "{score}",
    "Scores as they were given, by name.",
    _EVALUATIONS,
    "score_*",
    recorded_as="evaluation_score_",
)
EVALUATION_TIME = PlotSeries(
    "evaluation_time",
    "Evaluation time",
    "s",
    "Time that an evaluation took, failed ones included.",
    _EVALUATIONS,
    "duration_seconds",
    recorded_as="evaluation_time",
)
EVALUATION_ERROR_RATE = PlotSeries(
    "evaluation_error_rate",
    "Error rate of evaluations",
    "1",
    "Share of the evaluations that failed.",
    _EVALUATIONS,
    "success",
    is_complement=True,
    recorded_as="evaluation_error_rate",
)
CALL_TIME = PlotSeries(
    "call_time",
    "Time per call",
    "s",
    "Time that a call of a model took, failed ones included.",
    _CALLS,
    "duration_seconds",
)
SUCCESSFUL_CALLS = PlotSeries(
    "successful_calls",
    "Succeeded",
    "{call}",
    "Calls of a model that succeeded.",
    _CALLS,
    "success",
    aggregation="sum",
)
FAILED_CALLS = PlotSeries(
    "failed_calls",
    "Failed",
    "{call}",
    "Calls of a model that failed.",
    _CALLS,
    "success",
    aggregation="sum",
    is_complement=True,
)
INPUT_TOKENS = PlotSeries(
    "input_tokens",
    "Prompt",
    "{token}",
    "Tokens of prompts, cached ones included.",
    _CALLS,
    "input_tokens",
    aggregation="sum",
)
OUTPUT_TOKENS = PlotSeries(
    "output_tokens",
    "Completion",
    "{token}",
    "Tokens of completions, reasoning included.",
    _CALLS,
    "output_tokens",
    aggregation="sum",
)
UNITEMISED_TOKENS = PlotSeries(
    "unitemised_tokens",
    "In the total only",
    "{token}",
    "Tokens that the provider totals and gives neither to prompt nor to completion.",
    _CALLS,
    "total_tokens",
    aggregation="sum",
    less=("input_tokens", "output_tokens"),
)
TOTAL_TOKENS = PlotSeries(
    "total_tokens",
    "Tokens",
    "{token}",
    "Tokens of prompts and completions together, as the provider totals them.",
    _CALLS,
    "total_tokens",
    aggregation="sum",
)

PLOT_SERIES: tuple[PlotSeries, ...] = tuple(
    each for each in tuple(globals().values()) if isinstance(each, PlotSeries)
)
"""All of them."""
