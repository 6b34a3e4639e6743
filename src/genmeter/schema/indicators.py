"""The table of indicators: what alerts compare with thresholds and dashboards show.

An indicator says what a number is of, in which unit, and the query that computes it. Titles, units
and descriptions of panels come from these rows.

Shares and means of calls are those of calls of models: conversations, which span calls that are
counted on their own, are not in them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from genmeter.schema import metrics as cat
from genmeter.schema.metrics import Instrument, Kind
from genmeter.schema.query import TRUNCATED, CounterQuery, GaugeQuery, HistoryQuery, Query, Ratio

__all__ = ["INDICATORS", "Indicator"]


@dataclass(frozen=True, slots=True)
class Indicator:
    """One number that is worth showing.

    Args:
        id: Its name.
        title: What it is, for a heading or a legend.
        unit: UCUM unit; an annotation in braces names what is counted.
        description: One sentence for whoever reads the picture.
        query: What computes it.
    """

    id: str
    title: str
    unit: str
    description: str
    query: Query


_GOOD, _BAD = (cat.OUTCOME, '="success"'), (cat.OUTCOME, '="failure"')
_FAILED = (cat.ERROR_TYPE, '!=""')
_IN_GENERATION, _IN_EVALUATION = (cat.PHASE, '="generation"'), (cat.PHASE, '="evaluation"')
_UP = Instrument("up", Kind.GAUGE, "{target}", "Whether the target answered.")
_SCRAPE = Instrument("scrape.duration", Kind.GAUGE, "s", "Time that the scrape took.")

_PROMPT_TOKENS, _COMPLETION_TOKENS = map(CounterQuery, (cat.INPUT_TOKENS, cat.OUTPUT_TOKENS))
_CONVERSATIONS = CounterQuery(cat.CONVERSATION_DURATION, "_count")
_CALLS = CounterQuery(
    cat.GENERATIONS, rows=HistoryQuery("calls", ("inference",), by_minute="calls")
)
_SUCCESSES = CounterQuery(
    cat.GENERATIONS,
    where=(_GOOD,),
    rows=HistoryQuery("calls", ("inference", "success"), by_minute="successes"),
)
_FAILURES = CounterQuery(
    cat.GENERATIONS,
    where=(_BAD,),
    rows=HistoryQuery("calls", ("inference", "failure"), by_minute="failures"),
)


def _mean(instrument: Instrument, rows: HistoryQuery) -> Ratio:
    """Return the mean of a histogram, and of the rows' column in a history."""
    return Ratio(
        CounterQuery(instrument, "_sum", rows=rows),
        CounterQuery(instrument, "_count", rows=replace(rows, column=None)),
    )


# --- compared by alerts ------------------------------------------------------------------------

CALLS = Indicator("calls", "Calls", "{call}", "Calls of a model, failed ones included.", _CALLS)
SUCCESS_SHARE = Indicator(
    "success_share",
    "Success rate",
    "1",
    "Share of the calls of a model that succeeded.",
    Ratio(_SUCCESSES, _CALLS),
)
FAILURE_SHARE = Indicator(
    "failure_share",
    "Error rate",
    "1",
    "Share of the calls of a model that failed.",
    Ratio(_FAILURES, _CALLS),
)
CALL_TIME = Indicator(
    "call_time",
    "Time per call",
    "s",
    "Time that a call of a model took, failed ones included.",
    _mean(
        cat.INFERENCE_DURATION, HistoryQuery("calls", ("inference", "duration_known"), "duration")
    ),
)
PROMPT_LENGTH = Indicator(
    "prompt_length",
    "Prompt tokens per call",
    "{token}",
    "Mean tokens of the prompt of a call, cached ones included.",
    _mean(cat.INPUT_TOKENS_PER_CALL, HistoryQuery("calls", ("inference", "input_known"), "input")),
)
COMPLETION_LENGTH = Indicator(
    "completion_length",
    "Completion tokens per call",
    "{token}",
    "Mean tokens of the completion of a call, reasoning included.",
    _mean(
        cat.OUTPUT_TOKENS_PER_CALL, HistoryQuery("calls", ("inference", "output_known"), "output")
    ),
)
CALL_TOKENS = Indicator(
    "call_tokens",
    "Total tokens per successful call",
    "{token}",
    "Tokens of prompt and completion together, a successful call.",
    Ratio(
        CounterQuery(
            cat.TOTAL_TOKENS,
            where=(_IN_GENERATION,),
            rows=HistoryQuery("calls", ("inference", "total_known"), "total"),
        ),
        _SUCCESSES,
    ),
)
CONVERSATION_LENGTH = Indicator(
    "conversation_length",
    "Conversation length",
    "{turn}",
    "Turns of a conversation.",
    _mean(cat.CONVERSATION_LENGTH, HistoryQuery("calls", ("turns_known",), "turns")),
)
RATE_LIMIT_SHARE = Indicator(
    "rate_limit_share",
    "Rate-limited retries per call",
    "1",
    "Attempts that were made again because of a rate limit, to each call.",
    Ratio(
        CounterQuery(
            cat.RETRIES,
            where=((cat.ERROR_TYPE, '="rate_limited"'),),
            rows=HistoryQuery("calls", ("inference",), "rate_limited"),
        ),
        _CALLS,
    ),
)
TRUNCATED_SHARE = Indicator(
    "truncated_share",
    "Truncated completions",
    "1",
    "Share of the completions that ended at the limit of their length.",
    Ratio(
        CounterQuery(
            cat.FINISH_REASONS,
            where=((cat.FINISH_REASON, f'=~"{"|".join(TRUNCATED)}"'),),
            rows=HistoryQuery("calls", ("inference", "truncated")),
        ),
        CounterQuery(cat.FINISH_REASONS, rows=HistoryQuery("calls", ("inference", "finish_known"))),
    ),
)
REJECTED_SHARE = Indicator(
    "rejected_share",
    "Rejected samples",
    "1",
    "Share of the samples that the job rejected.",
    Ratio(
        CounterQuery(
            cat.SAMPLES,
            where=((cat.VERDICT, '="rejected"'),),
            rows=HistoryQuery("samples", ("rejected",)),
        ),
        CounterQuery(cat.SAMPLES, rows=HistoryQuery("samples")),
    ),
)
MEAN_SCORE = Indicator(
    "mean_score",
    "Mean score",
    "1",
    "Mean of a score brought to 0..1; scores off their scale are not in it.",
    _mean(cat.SCORE, HistoryQuery("scores", ("on_scale",), "share")),
)
EVALUATION_FAILURE_SHARE = Indicator(
    "evaluation_failure_share",
    "Failed evaluations",
    "1",
    "Share of the evaluations that failed.",
    Ratio(
        CounterQuery(
            cat.EVALUATIONS, where=(_BAD,), rows=HistoryQuery("calls", ("evaluation", "failure"))
        ),
        CounterQuery(cat.EVALUATIONS, rows=HistoryQuery("calls", ("evaluation",))),
    ),
)
COST = Indicator(
    "cost",
    "Cost",
    "{USD}",
    "Cost by the job's price table; calls without a price are not in it.",
    CounterQuery(cat.COST, rows=HistoryQuery("calls", ("priced",), "cost", by_minute="cost")),
)
TOKENS = Indicator(
    "tokens",
    "Tokens",
    "{token}",
    "Tokens as the provider totals them, those of evaluations included.",
    CounterQuery(
        cat.TOTAL_TOKENS, rows=HistoryQuery("calls", ("total_known",), "total", by_minute="tokens")
    ),
)
UNPRICED_CALLS = Indicator(
    "unpriced_calls",
    "Calls without a price",
    "{call}",
    "Calls with tokens whose model the price table does not know.",
    CounterQuery(cat.UNPRICED, rows=HistoryQuery("calls", ("total_known", "unpriced"))),
)
REJECTED_EVENTS = Indicator(
    "rejected_events",
    "Rejected values",
    "{event}",
    "Values and events that the monitor rejected, by reason.",
    CounterQuery(cat.MONITOR_EVENTS, where=((cat.RESULT, '="rejected"'),)),
)
HANDLER_ERRORS = Indicator(
    "handler_errors",
    "Handler errors",
    "{error}",
    "Events that a handler of the job's own failed to take.",
    CounterQuery(cat.HANDLER_ERRORS),
)
OVERFLOWED_LABELS = Indicator(
    "overflowed_labels",
    "Label values past their limit",
    "{value}",
    "Label values that became `other` because their label was at its limit.",
    CounterQuery(cat.LABEL_OVERFLOW),
)
FAILED_EXPORTS = Indicator(
    "failed_exports",
    "Failed pushes",
    "{export}",
    "Pushes of metrics that failed.",
    CounterQuery(cat.EXPORT_FAILURES),
)
CALL_DURATIONS = Indicator(
    "call_durations",
    "Generation time",
    "s",
    "How long calls of a model take, failed ones included.",
    CounterQuery(cat.INFERENCE_DURATION, "_bucket"),
)

CALL_FAILURES = Indicator(
    "call_failures",
    "Failed calls",
    "{call}",
    "Calls of a model that failed, by the type of the error.",
    CounterQuery(cat.INFERENCE_DURATION, "_count", where=(_FAILED,)),
)
RETRIES = Indicator(
    "retries",
    "Retries",
    "{retry}",
    "Attempts that were made again, by the error that caused them.",
    CounterQuery(cat.RETRIES),
)
FINISH_REASONS = Indicator(
    "finish_reasons",
    "Finish reasons",
    "{call}",
    "Calls by the reason that the model stopped for.",
    CounterQuery(cat.FINISH_REASONS),
)
ACTIVE_CALLS = Indicator(
    "active_calls",
    "Under way",
    "{call}",
    "Calls that are under way, of those made through the generation handle.",
    GaugeQuery(cat.ACTIVE),
)
LAST_CALL = Indicator(
    "last_call",
    "Last call",
    "s",
    "Unix time at which the last call ended.",
    GaugeQuery(cat.LAST_GENERATION, aggregation="max"),
)

# --- samples -----------------------------------------------------------------------------------

SAMPLES = Indicator(
    "samples",
    "Samples",
    "{sample}",
    "Samples that the job made, accepted or rejected.",
    CounterQuery(cat.SAMPLES),
)
SAMPLES_MADE = Indicator(
    "samples_made",
    "Samples made",
    "{sample}",
    "Samples that the job made since it began, rejected ones included.",
    GaugeQuery(cat.SAMPLES),
)
SAMPLES_EXPECTED = Indicator(
    "samples_expected",
    "Samples expected",
    "{sample}",
    "Samples that the job is to make; without a value where it did not say.",
    GaugeQuery(cat.SAMPLES_EXPECTED),
)
REJECTIONS = Indicator(
    "rejections",
    "Rejected samples",
    "{sample}",
    "Samples that the job rejected, by reason.",
    CounterQuery(cat.SAMPLES, where=((cat.VERDICT, '="rejected"'),)),
)

# --- tokens and cost ---------------------------------------------------------------------------

PROMPT_TOKENS = Indicator(
    "prompt_tokens",
    "Prompt",
    "{token}",
    "Tokens of prompts, cached ones and those of evaluations included.",
    _PROMPT_TOKENS,
)
COMPLETION_TOKENS = Indicator(
    "completion_tokens",
    "Completion",
    "{token}",
    "Tokens of completions, reasoning and those of evaluations included.",
    _COMPLETION_TOKENS,
)
CACHE_HIT_SHARE = Indicator(
    "cache_hit_share",
    "Cache hits",
    "1",
    "Share of the prompts' tokens that came from the provider's cache.",
    Ratio(CounterQuery(cat.CACHE_READ_TOKENS), _PROMPT_TOKENS),
)
CACHE_WRITES = Indicator(
    "cache_writes",
    "Written to the cache",
    "{token}",
    "Tokens of prompts that were written to the provider's cache.",
    CounterQuery(cat.CACHE_WRITE_TOKENS),
)
REASONING_SHARE = Indicator(
    "reasoning_share",
    "Reasoning",
    "1",
    "Share of the completions' tokens that the model spent on reasoning.",
    Ratio(CounterQuery(cat.REASONING_TOKENS), _COMPLETION_TOKENS),
)
PROMPT_LENGTHS = Indicator(
    "prompt_lengths",
    "Lengths of prompts",
    "{token}",
    "How long the prompts of single calls are, cached tokens included.",
    CounterQuery(cat.INPUT_TOKENS_PER_CALL, "_bucket"),
)
COMPLETION_LENGTHS = Indicator(
    "completion_lengths",
    "Lengths of completions",
    "{token}",
    "How long the completions of single calls are, reasoning included.",
    CounterQuery(cat.OUTPUT_TOKENS_PER_CALL, "_bucket"),
)
COST_PER_CALL = Indicator(
    "cost_per_call",
    "Cost per successful call",
    "{USD}",
    "Cost by the job's price table, a call that succeeded.",
    Ratio(
        CounterQuery(cat.COST, where=(_IN_GENERATION,)),
        CounterQuery(cat.GENERATIONS, where=(_GOOD,)),
    ),
)
COST_PER_SAMPLE = Indicator(
    "cost_per_sample",
    "Cost per accepted sample",
    "{USD}",
    "Cost by the job's price table, evaluations included, an accepted sample.",
    Ratio(CounterQuery(cat.COST), CounterQuery(cat.SAMPLES, where=((cat.VERDICT, '="accepted"'),))),
)

# --- evaluations -------------------------------------------------------------------------------

EVALUATIONS = Indicator(
    "evaluations",
    "Evaluations",
    "{evaluation}",
    "Evaluations, failed ones included.",
    CounterQuery(cat.EVALUATIONS),
)
EVALUATION_DURATIONS = Indicator(
    "evaluation_durations",
    "Evaluation time",
    "s",
    "How long evaluations take, failed ones included.",
    CounterQuery(cat.EVALUATION_DURATION, "_bucket"),
)
EVALUATION_FAILURES = Indicator(
    "evaluation_failures",
    "Failed evaluations",
    "{evaluation}",
    "Evaluations that failed, by the type of the error.",
    CounterQuery(cat.EVALUATION_DURATION, "_count", where=(_FAILED,)),
)
EVALUATION_TOKENS = Indicator(
    "evaluation_tokens",
    "Tokens of evaluations",
    "{token}",
    "Tokens that evaluations took, as the provider totals them.",
    CounterQuery(cat.TOTAL_TOKENS, where=(_IN_EVALUATION,)),
)
EVALUATION_COST = Indicator(
    "evaluation_cost",
    "Cost of evaluations",
    "{USD}",
    "Cost of evaluations by the job's price table.",
    CounterQuery(cat.COST, where=(_IN_EVALUATION,)),
)
SCORES = Indicator(
    "scores",
    "Scores",
    "{score}",
    "How the scores lie between 0 and 1; those off their scale are not in it.",
    CounterQuery(cat.SCORE, "_bucket"),
)
SCORES_GIVEN = Indicator(
    "scores_given",
    "Scores given",
    "{score}",
    "Number of scores, on their scale or off it.",
    CounterQuery(cat.SCORES_TOTAL),
)
RAW_SCORE = Indicator(
    "raw_score",
    "Mean as given",
    "{score}",
    "Mean of a score as it was given, since the job began.",
    Ratio(GaugeQuery(cat.SCORE_ACCUMULATED), GaugeQuery(cat.SCORES_TOTAL)),
)

# --- conversations -----------------------------------------------------------------------------

CONVERSATIONS = Indicator(
    "conversations",
    "Conversations",
    "{conversation}",
    "Conversations that ended, failed ones included.",
    _CONVERSATIONS,
)
CONVERSATION_SUCCESS_SHARE = Indicator(
    "conversation_success_share",
    "Success rate",
    "1",
    "Share of the conversations that succeeded.",
    Ratio(CounterQuery(cat.CONVERSATION_DURATION, "_count", where=(_GOOD,)), _CONVERSATIONS),
)
CONVERSATION_FAILURES = Indicator(
    "conversation_failures",
    "Failed conversations",
    "{conversation}",
    "Conversations that failed, by the type of the error.",
    CounterQuery(cat.CONVERSATION_DURATION, "_count", where=(_FAILED,)),
)
CONVERSATION_DURATIONS = Indicator(
    "conversation_durations",
    "Duration of conversations",
    "s",
    "How long conversations take, from their first call to their last.",
    CounterQuery(cat.CONVERSATION_DURATION, "_bucket"),
)
CONVERSATION_LENGTHS = Indicator(
    "conversation_lengths",
    "Lengths of conversations",
    "{turn}",
    "How many turns conversations have.",
    CounterQuery(cat.CONVERSATION_LENGTH, "_bucket"),
)
TURNS = Indicator(
    "turns",
    "Turns",
    "{turn}",
    "Turns of the conversations that ended.",
    CounterQuery(cat.CONVERSATION_LENGTH, "_sum"),
)

# --- the job and its monitor -------------------------------------------------------------------

LOG_RECORDS = Indicator(
    "log_records",
    "Log records",
    "{record}",
    "Log records that the job gave to its monitor, by level.",
    CounterQuery(cat.LOGS),
)
CUSTOM_VALUES = Indicator(
    "custom_values",
    "The job's own metrics",
    "{value}",
    "Last value of each metric that the job records under a name of its own.",
    GaugeQuery(cat.CUSTOM_VALUE, aggregation="max"),
)
FINISHED = Indicator(
    "finished",
    "Finished",
    "{state}",
    "Whether every process of the job has said that it is finished.",
    Ratio(GaugeQuery(cat.JOB_FINISHED), GaugeQuery(cat.BUILD_INFO)),
)
ALERTS_FIRING = Indicator(
    "alerts_firing",
    "Alerts that fire",
    "{alert}",
    "Alerts that fire by the processes' own judgement, by name and for how many groups; those of Prometheus's rules are marked in the panels.",
    GaugeQuery(cat.ALERTS_FIRING),
)
EVENTS = Indicator(
    "events",
    "Events recorded",
    "{event}",
    "Events that the monitor recorded.",
    CounterQuery(cat.MONITOR_EVENTS, where=((cat.RESULT, '="recorded"'),)),
)
INBOX = Indicator(
    "inbox",
    "Inbox",
    "{event}",
    "Events that waited when a collection began; they are recorded with it.",
    GaugeQuery(cat.MONITOR_INBOX, aggregation="max"),
)
HISTORY_FILL = Indicator(
    "history_fill",
    "History in use",
    "1",
    "Share of the local history that is in use; when it is full the oldest goes.",
    Ratio(GaugeQuery(cat.HISTORY_SIZE), GaugeQuery(cat.HISTORY_CAPACITY)),
)
PROCESSES = Indicator(
    "processes",
    "Processes",
    "{process}",
    "Processes that genmeter watches, by release.",
    GaugeQuery(cat.BUILD_INFO),
)
TARGETS_UP = Indicator(
    "targets_up",
    "Targets that answer",
    "{target}",
    "1 where Prometheus can scrape the process, 0 where it cannot.",
    GaugeQuery(_UP),
)
SCRAPE_TIME = Indicator(
    "scrape_time",
    "Duration of a scrape",
    "s",
    "Time that Prometheus needs to scrape the process.",
    GaugeQuery(_SCRAPE, aggregation="max"),
)

INDICATORS: tuple[Indicator, ...] = tuple(
    each for each in tuple(globals().values()) if isinstance(each, Indicator)
)
"""All of them, those that alerts compare first."""
