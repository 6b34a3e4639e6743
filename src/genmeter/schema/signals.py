"""What is worth showing of a job: signals, each with its words and how to compute it.

A signal says of what a number is, in which unit, how Prometheus computes it and how it comes out of
the history: from its frames (:func:`genmeter.history.frames.to_frame`) for plots, from sums
over its rows for alerts. Whoever shows it says how it is drawn. Titles, units and descriptions of
everything that is shown come from these rows; those that no plot of the history shows are in
:mod:`genmeter.schema.live_signals`.

The signals that bear an old metric's name have its old reach: all that AfterImage's monitor counted
under it, conversations and samples of ``record_metric`` under that name included. The others look
at calls of models only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from genmeter.schema import metrics as cat
from genmeter.schema.query import CounterQuery, HistoryQuery, Selector

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SIGNALS", "Frame", "Signal"]

Frame = Literal["generations", "conversations", "evaluations"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One number that is worth showing.

    Args:
        id: Its name; an old metric's name where it stands for that.
        title: What it is, for a heading or a legend.
        unit: UCUM unit; an annotation in braces names what is counted.
        description: One sentence for whoever reads the picture.
        of: What Prometheus sums for it; None where it has no query.
        per: What that is divided by; None where it is a sum.
        frames: The kinds of frames that its rows come from; none where no plot shows it.
        column: The column of its value in each of them; a ``*`` at its end stands for every column
            that begins so, each of which is a series of its own.
        aggregation: What becomes of many rows.
        is_complement: Whether the value is 1 less the column's.
        less: Columns that are taken off the column, down to 0; unknown ones count as 0.
        recorded_as: The name, or the names' beginning, under which ``record_metric`` adds to it.
    """

    id: str
    title: str
    unit: str
    description: str
    of: CounterQuery | None = None
    per: CounterQuery | None = None
    frames: tuple[Frame, ...] = ()
    column: str = ""
    aggregation: Literal["mean", "sum"] = "mean"
    is_complement: bool = False
    less: tuple[str, ...] = ()
    recorded_as: str | None = None

    def stands_for(self, name: str) -> bool:
        """Tell whether it shows an old metric."""
        if self.recorded_as is None:
            return False
        is_pattern = self.column.endswith("*")
        return name.startswith(self.recorded_as) if is_pattern else name == self.recorded_as

    def promql(
        self,
        by: Sequence[str],
        window: str,
        selector: Selector,
        *,
        min_samples: int = 1,
        function: Literal["increase", "rate"] = "increase",
    ) -> str:
        """Write the signal in PromQL.

        Args:
            by: Prometheus's names of the labels to keep.
            window: A duration such as ``5m``, or a variable of a dashboard.
            selector: Which series it is computed from.
            min_samples: Of a ratio, how much its denominator must add up to: without that there is no
                value, so nothing is ever divided by 0. It needs ``increase`` above 1.
            function: ``rate`` gives a sum per second; a ratio is the same with both.

        Raises:
            ValueError: The signal has no query.
        """
        if self.of is None:
            raise ValueError(f"the signal {self.id} has no query")
        total = self.of.promql(by, window, selector, function)
        if self.per is None:
            return total
        guard = ">= " + str(min_samples) if min_samples > 1 else "> 0"
        return f"{total}\n/\n({self.per.promql(by, window, selector, function)} {guard})"


GENERATION_TIME = Signal(
    id="generation_time",
    title="Generation time",
    unit="s",
    description="Time that a call or a conversation took, failed ones included.",
    frames=("generations", "conversations"),
    column="duration_seconds",
    aggregation="mean",
    recorded_as="generation_time",
)
SUCCESS_RATE = Signal(
    id="success_rate",
    title="Success rate",
    unit="1",
    description="Share of the calls and conversations that succeeded.",
    frames=("generations", "conversations"),
    column="success",
    aggregation="mean",
    recorded_as="success_rate",
)
ERROR_RATE = Signal(
    id="error_rate",
    title="Error rate",
    unit="1",
    description="Share of the calls and conversations that failed.",
    frames=("generations", "conversations"),
    column="success",
    is_complement=True,
    aggregation="mean",
    recorded_as="error_rate",
)
TOTAL_TOKEN_COUNT = Signal(
    id="total_token_count",
    title="Total tokens per call",
    unit="{token}",
    description="Tokens of prompt and completion together, as the provider totals them.",
    frames=("generations", "conversations", "evaluations"),
    column="total_tokens",
    aggregation="mean",
    recorded_as="total_token_count",
)
PROMPT_TOKEN_COUNT = Signal(
    id="prompt_token_count",
    title="Prompt tokens per call",
    unit="{token}",
    description="Tokens of the prompt, cached ones included.",
    frames=("generations", "conversations", "evaluations"),
    column="input_tokens",
    aggregation="mean",
    recorded_as="prompt_token_count",
)
COMPLETION_TOKEN_COUNT = Signal(
    id="completion_token_count",
    title="Completion tokens per call",
    unit="{token}",
    description="Tokens of the completion, reasoning included.",
    frames=("generations", "conversations", "evaluations"),
    column="output_tokens",
    aggregation="mean",
    recorded_as="completion_token_count",
)
CONVERSATION_LENGTH = Signal(
    id="conversation_length",
    title="Conversation length",
    unit="{turn}",
    description="Turns of a conversation.",
    of=CounterQuery(
        instrument=cat.CONVERSATION_LENGTH,
        part="_sum",
        rows=HistoryQuery("calls", ("turns_known",), "turns"),
    ),
    per=CounterQuery(
        instrument=cat.CONVERSATION_LENGTH,
        part="_count",
        rows=HistoryQuery("calls", ("turns_known",)),
    ),
    frames=("conversations",),
    column="turns",
    aggregation="mean",
    recorded_as="conversation_length",
)
EVALUATION_ERROR_RATE = Signal(
    id="evaluation_error_rate",
    title="Error rate of evaluations",
    unit="1",
    description="Share of the evaluations that failed.",
    frames=("evaluations",),
    column="success",
    is_complement=True,
    aggregation="mean",
    recorded_as="evaluation_error_rate",
)
EVALUATION_SCORE = Signal(
    id="evaluation_score",
    title="Evaluation scores",
    unit="{score}",
    description="Scores as they were given, by name.",
    frames=("evaluations",),
    column="score_*",
    aggregation="mean",
    recorded_as="evaluation_score_",
)
EVALUATION_TIME = Signal(
    id="evaluation_time",
    title="Evaluation time",
    unit="s",
    description="Time that an evaluation took, failed ones included.",
    frames=("evaluations",),
    column="duration_seconds",
    aggregation="mean",
    recorded_as="evaluation_time",
)
CALL_TIME = Signal(
    id="call_time",
    title="Time per call",
    unit="s",
    description="Time that a call of a model took, failed ones included.",
    of=CounterQuery(
        instrument=cat.INFERENCE_DURATION,
        part="_sum",
        rows=HistoryQuery("calls", ("inference", "duration_known"), "duration"),
    ),
    per=CounterQuery(
        instrument=cat.INFERENCE_DURATION,
        part="_count",
        rows=HistoryQuery("calls", ("inference", "duration_known")),
    ),
    frames=("generations",),
    column="duration_seconds",
    aggregation="mean",
)
SUCCESSFUL_CALLS = Signal(
    id="successful_calls",
    title="Succeeded",
    unit="{call}",
    description="Calls of a model that succeeded.",
    frames=("generations",),
    column="success",
    aggregation="sum",
)
FAILED_CALLS = Signal(
    id="failed_calls",
    title="Failed",
    unit="{call}",
    description="Calls of a model that failed.",
    frames=("generations",),
    column="success",
    is_complement=True,
    aggregation="sum",
)
INPUT_TOKENS = Signal(
    id="input_tokens",
    title="Prompt",
    unit="{token}",
    description="Tokens of prompts, cached ones included.",
    frames=("generations",),
    column="input_tokens",
    aggregation="sum",
)
OUTPUT_TOKENS = Signal(
    id="output_tokens",
    title="Completion",
    unit="{token}",
    description="Tokens of completions, reasoning included.",
    frames=("generations",),
    column="output_tokens",
    aggregation="sum",
)
UNITEMISED_TOKENS = Signal(
    id="unitemised_tokens",
    title="In the total only",
    unit="{token}",
    description="Tokens that the provider totals and gives neither to prompt nor to completion.",
    frames=("generations",),
    column="total_tokens",
    less=("input_tokens", "output_tokens"),
    aggregation="sum",
)
TOTAL_TOKENS = Signal(
    id="total_tokens",
    title="Tokens",
    unit="{token}",
    description="Tokens of prompts and completions together, as the provider totals them.",
    frames=("generations",),
    column="total_tokens",
    aggregation="sum",
)

SIGNALS: tuple[Signal, ...] = (
    *(GENERATION_TIME, SUCCESS_RATE, ERROR_RATE),
    *(TOTAL_TOKEN_COUNT, PROMPT_TOKEN_COUNT, COMPLETION_TOKEN_COUNT),
    *(CONVERSATION_LENGTH, EVALUATION_SCORE, EVALUATION_TIME, EVALUATION_ERROR_RATE),
    *(CALL_TIME, SUCCESSFUL_CALLS, FAILED_CALLS),
    *(INPUT_TOKENS, OUTPUT_TOKENS, UNITEMISED_TOKENS, TOTAL_TOKENS),
)
