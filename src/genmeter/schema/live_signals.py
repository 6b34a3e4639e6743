"""Signals of a running job: what alerts judge and dashboards show, and no plot of the history.

The shares and means are of calls of models: conversations, which span calls that are counted on
their own, are not in them.
"""

from __future__ import annotations

from genmeter.schema import metrics as cat
from genmeter.schema import signals as sig
from genmeter.schema.query import TRUNCATED, CounterQuery, HistoryQuery
from genmeter.schema.signals import Signal

__all__ = ["LIVE_SIGNALS"]

_IN_GENERATION = (cat.PHASE, '="generation"')
_FAILED = (cat.OUTCOME, '="failure"')

_CALLS = CounterQuery(
    instrument=cat.GENERATIONS, rows=HistoryQuery("calls", ("inference",), by_minute="calls")
)
_FAILED_CALLS = CounterQuery(
    instrument=cat.GENERATIONS,
    where=(_FAILED,),
    rows=HistoryQuery("calls", ("inference", "failure"), by_minute="failures"),
)
_GOOD_CALLS = CounterQuery(
    instrument=cat.GENERATIONS,
    where=((cat.OUTCOME, '="success"'),),
    rows=HistoryQuery("calls", ("inference", "success"), by_minute="successes"),
)

CALLS = Signal(
    id="calls",
    title="Calls",
    unit="{call}",
    description="Calls of a model, failed ones included.",
    of=_CALLS,
)
SUCCESS_SHARE = Signal(
    id="success_share",
    title="Success rate",
    unit="1",
    description="Share of the calls of a model that succeeded.",
    of=_GOOD_CALLS,
    per=_CALLS,
)
FAILURE_SHARE = Signal(
    id="failure_share",
    title="Error rate",
    unit="1",
    description="Share of the calls of a model that failed.",
    of=_FAILED_CALLS,
    per=_CALLS,
)
PROMPT_LENGTH = Signal(
    id="prompt_length",
    title="Prompt tokens per call",
    unit="{token}",
    description="Mean tokens of the prompt of a call, cached ones included.",
    of=CounterQuery(
        instrument=cat.INPUT_TOKENS_PER_CALL,
        part="_sum",
        rows=HistoryQuery("calls", ("inference", "input_known"), "input"),
    ),
    per=CounterQuery(
        instrument=cat.INPUT_TOKENS_PER_CALL,
        part="_count",
        rows=HistoryQuery("calls", ("inference", "input_known")),
    ),
)
COMPLETION_LENGTH = Signal(
    id="completion_length",
    title="Completion tokens per call",
    unit="{token}",
    description="Mean tokens of the completion of a call, reasoning included.",
    of=CounterQuery(
        instrument=cat.OUTPUT_TOKENS_PER_CALL,
        part="_sum",
        rows=HistoryQuery("calls", ("inference", "output_known"), "output"),
    ),
    per=CounterQuery(
        instrument=cat.OUTPUT_TOKENS_PER_CALL,
        part="_count",
        rows=HistoryQuery("calls", ("inference", "output_known")),
    ),
)
CALL_TOKENS = Signal(
    id="call_tokens",
    title="Total tokens per successful call",
    unit="{token}",
    description="Tokens of prompt and completion together, a successful call.",
    of=CounterQuery(
        instrument=cat.TOTAL_TOKENS,
        where=(_IN_GENERATION,),
        rows=HistoryQuery("calls", ("inference", "total_known"), "total"),
    ),
    per=_GOOD_CALLS,
)
RATE_LIMIT_SHARE = Signal(
    id="rate_limit_share",
    title="Rate-limited retries per call",
    unit="1",
    description="Attempts that were made again because of a rate limit, to each call.",
    of=CounterQuery(
        instrument=cat.RETRIES,
        where=((cat.ERROR_TYPE, '="rate_limited"'),),
        rows=HistoryQuery("calls", ("inference",), "rate_limited"),
    ),
    per=_CALLS,
)
TRUNCATED_SHARE = Signal(
    id="truncated_share",
    title="Truncated completions",
    unit="1",
    description="Share of the completions that ended at the limit of their length.",
    of=CounterQuery(
        instrument=cat.FINISH_REASONS,
        where=((cat.FINISH_REASON, f'=~"{"|".join(TRUNCATED)}"'),),
        rows=HistoryQuery("calls", ("inference", "truncated")),
    ),
    per=CounterQuery(
        instrument=cat.FINISH_REASONS, rows=HistoryQuery("calls", ("inference", "finish_known"))
    ),
)
REJECTED_SHARE = Signal(
    id="rejected_share",
    title="Rejected samples",
    unit="1",
    description="Share of the samples that the job rejected.",
    of=CounterQuery(
        instrument=cat.SAMPLES,
        where=((cat.VERDICT, '="rejected"'),),
        rows=HistoryQuery("samples", ("rejected",)),
    ),
    per=CounterQuery(instrument=cat.SAMPLES, rows=HistoryQuery("samples")),
)
MEAN_SCORE = Signal(
    id="mean_score",
    title="Mean score",
    unit="1",
    description="Mean of a score brought to 0..1; scores off their scale are not in it.",
    of=CounterQuery(
        instrument=cat.SCORE, part="_sum", rows=HistoryQuery("scores", ("on_scale",), "share")
    ),
    per=CounterQuery(
        instrument=cat.SCORE, part="_count", rows=HistoryQuery("scores", ("on_scale",))
    ),
)
EVALUATION_FAILURE_SHARE = Signal(
    id="evaluation_failure_share",
    title="Failed evaluations",
    unit="1",
    description="Share of the evaluations that failed.",
    of=CounterQuery(
        instrument=cat.EVALUATIONS,
        where=(_FAILED,),
        rows=HistoryQuery("calls", ("evaluation", "failure")),
    ),
    per=CounterQuery(instrument=cat.EVALUATIONS, rows=HistoryQuery("calls", ("evaluation",))),
)
COST = Signal(
    id="cost",
    title="Cost",
    unit="{USD}",
    description="Cost by the job's price table; calls without a price are not in it.",
    of=CounterQuery(
        instrument=cat.COST, rows=HistoryQuery("calls", ("priced",), "cost", by_minute="cost")
    ),
)
TOKENS = Signal(
    id="tokens",
    title="Tokens",
    unit="{token}",
    description="Tokens as the provider totals them, those of evaluations included.",
    of=CounterQuery(
        instrument=cat.TOTAL_TOKENS,
        rows=HistoryQuery("calls", ("total_known",), "total", by_minute="tokens"),
    ),
)
UNPRICED_CALLS = Signal(
    id="unpriced_calls",
    title="Calls without a price",
    unit="{call}",
    description="Calls with tokens whose model the price table does not know.",
    of=CounterQuery(
        instrument=cat.UNPRICED, rows=HistoryQuery("calls", ("total_known", "unpriced"))
    ),
)
REJECTED_EVENTS = Signal(
    id="rejected_events",
    title="Values left out",
    unit="{event}",
    description="Values and events that the monitor left out, by reason.",
    of=CounterQuery(instrument=cat.MONITOR_EVENTS, where=((cat.RESULT, '="rejected"'),)),
)
HANDLER_ERRORS = Signal(
    id="handler_errors",
    title="Errors of handlers",
    unit="{error}",
    description="What a handler of the job's own did not take.",
    of=CounterQuery(instrument=cat.HANDLER_ERRORS),
)
OVERFLOWED_LABELS = Signal(
    id="overflowed_labels",
    title="Label values past their limit",
    unit="{value}",
    description="Label values that became `other` because their label was at its limit.",
    of=CounterQuery(instrument=cat.LABEL_OVERFLOW),
)
FAILED_EXPORTS = Signal(
    id="failed_exports",
    title="Failed pushes",
    unit="{export}",
    description="Pushes of metrics that failed.",
    of=CounterQuery(instrument=cat.EXPORT_FAILURES),
)

LIVE_SIGNALS: tuple[Signal, ...] = (
    *(CALLS, SUCCESS_SHARE, FAILURE_SHARE, sig.CALL_TIME),
    *(PROMPT_LENGTH, COMPLETION_LENGTH, CALL_TOKENS, sig.CONVERSATION_LENGTH),
    *(RATE_LIMIT_SHARE, TRUNCATED_SHARE, REJECTED_SHARE, MEAN_SCORE, EVALUATION_FAILURE_SHARE),
    *(COST, TOKENS, UNPRICED_CALLS),
    *(REJECTED_EVENTS, HANDLER_ERRORS, OVERFLOWED_LABELS, FAILED_EXPORTS),
)
"""Every signal that Prometheus answers, but for those that only panels show."""
