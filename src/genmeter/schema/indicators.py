"""The table of indicators: the numbers that alerts compare with thresholds and dashboards show.

Panels take their titles, units and descriptions from these rows. Shares and means of calls are of
model calls only: conversations span calls that are counted separately.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from genmeter.schema import metrics as cat
from genmeter.schema.metrics import Instrument, Kind
from genmeter.schema.query import (
    TRUNCATED,
    CounterQuery,
    DistributionQuery,
    GaugeQuery,
    HistoryQuery,
    Query,
    Ratio,
)

if TYPE_CHECKING:
    from genmeter.schema.query import RowCondition

__all__ = ["INDICATORS", "Indicator"]


@dataclass(frozen=True, slots=True)
class Indicator:
    """One number.

    Args:
        id: Its name.
        title: Its heading or legend.
        unit: UCUM unit; an annotation in braces names what is counted.
        description: One sentence for readers of a dashboard.
        query: Computes it.
    """

    id: str
    title: str
    unit: str
    description: str
    query: Query


_ENDED = (cat.OUTCOME, '=~"success|failure"')  # a cancelled call is neither
_GOOD, _BAD = (cat.OUTCOME, '="success"'), (cat.OUTCOME, '="failure"')
_FAILED, _NOT_FAILED = (cat.ERROR_TYPE, '!=""'), (cat.ERROR_TYPE, '=""')
_IN_GENERATION, _IN_EVALUATION = (cat.PHASE, '="generation"'), (cat.PHASE, '="evaluation"')
_UP = Instrument("up", Kind.GAUGE, "{target}", "Whether the target is up.")
_SCRAPE = Instrument("scrape.duration", Kind.GAUGE, "s", "Duration of the scrape.")

_PROMPT_TOKENS, _COMPLETION_TOKENS = map(CounterQuery, (cat.INPUT_TOKENS, cat.OUTPUT_TOKENS))
_CONVERSATIONS = CounterQuery(cat.CONVERSATION_DURATION, "_count")
_RATE_LIMITED, _REJECTED = (cat.ERROR_TYPE, '="rate_limited"'), (cat.VERDICT, '="rejected"')
_TRUNCATED = (cat.FINISH_REASON, f'=~"{"|".join(TRUNCATED)}"')


def _rows(*having: RowCondition, column: str | None = None, by_minute: Any = None) -> HistoryQuery:
    return HistoryQuery("calls", having, column, by_minute)


_CALLS = CounterQuery(cat.GENERATIONS, rows=_rows("inference", by_minute="calls"))
_ENDED_CALLS = CounterQuery(
    cat.GENERATIONS, where=(_ENDED,), rows=_rows("inference", "ended", by_minute="ended")
)
_SUCCESSES = CounterQuery(
    cat.GENERATIONS, where=(_GOOD,), rows=_rows("inference", "success", by_minute="successes")
)
_FAILURES = CounterQuery(
    cat.GENERATIONS, where=(_BAD,), rows=_rows("inference", "failure", by_minute="failures")
)


def _mean(instrument: Instrument, rows: HistoryQuery) -> Ratio:
    """Return the mean of a histogram, and of the same column in a history."""
    return Ratio(
        CounterQuery(instrument, "_sum", rows=rows),
        CounterQuery(instrument, "_count", rows=replace(rows, column=None)),
    )


# fmt: off
# --- compared by alerts ------------------------------------------------------------------------

CALLS = Indicator(
    "calls", "Calls", "{call}", "Calls of a model, including failed and cancelled ones.", _CALLS)
SUCCESS_SHARE = Indicator(
    "success_share", "Success rate", "1",
    "Share of the calls of a model that succeeded; cancelled calls are not included.",
    Ratio(_SUCCESSES, _ENDED_CALLS))
FAILURE_SHARE = Indicator(
    "failure_share", "Error rate", "1",
    "Share of the calls of a model that failed; cancelled calls are not included.",
    Ratio(_FAILURES, _ENDED_CALLS))
CALL_TIME = Indicator(
    "call_time", "Time per call", "s",
    "Duration of the calls of a model, including failed and cancelled ones.",
    _mean(cat.INFERENCE_DURATION, _rows("inference", "duration_known", column="duration")))
PROMPT_LENGTH = Indicator(
    "prompt_length", "Prompt tokens per call", "{token}",
    "Mean number of prompt tokens per call, including cached ones.",
    _mean(cat.INPUT_TOKENS_PER_CALL, _rows("inference", "input_known", column="input")))
COMPLETION_LENGTH = Indicator(
    "completion_length", "Completion tokens per call", "{token}",
    "Mean number of completion tokens per call, including reasoning.",
    _mean(cat.OUTPUT_TOKENS_PER_CALL, _rows("inference", "output_known", column="output")))
CALL_TOKENS = Indicator(
    "call_tokens", "Total tokens per successful call", "{token}",
    "Prompt and completion tokens together, per successful call.",
    Ratio(
        CounterQuery(cat.TOTAL_TOKENS, where=(_IN_GENERATION,),
                     rows=_rows("inference", "total_known", column="total")),
        _SUCCESSES))
CONVERSATION_LENGTH = Indicator(
    "conversation_length", "Conversation length", "{turn}", "Turns per conversation.",
    _mean(cat.CONVERSATION_LENGTH, _rows("turns_known", column="turns")))
RATE_LIMIT_SHARE = Indicator(
    "rate_limit_share", "Rate-limited retries per call", "1",
    "Retries because of a rate limit, per call.",
    Ratio(
        CounterQuery(cat.RETRIES, where=(_RATE_LIMITED,),
                     rows=_rows("inference", column="rate_limited")),
        _CALLS))
TRUNCATED_SHARE = Indicator(
    "truncated_share", "Truncated completions", "1",
    "Share of the completions that reached their length limit.",
    Ratio(
        CounterQuery(cat.FINISH_REASONS, where=(_TRUNCATED,), rows=_rows("inference", "truncated")),
        CounterQuery(cat.FINISH_REASONS, rows=_rows("inference", "finish_known"))))
REJECTED_SHARE = Indicator(
    "rejected_share", "Rejected samples", "1", "Share of the samples that the job rejected.",
    Ratio(
        CounterQuery(cat.SAMPLES, where=(_REJECTED,), rows=HistoryQuery("samples", ("rejected",))),
        CounterQuery(cat.SAMPLES, rows=HistoryQuery("samples"))))
MEAN_SCORE = Indicator(
    "mean_score", "Mean score", "1",
    "Mean of a score normalized to 0..1; scores outside their scale are not included.",
    _mean(cat.SCORE, HistoryQuery("scores", ("on_scale",), "share")))
EVALUATION_FAILURE_SHARE = Indicator(
    "evaluation_failure_share", "Failed evaluations", "1", "Share of the evaluations that failed.",
    Ratio(
        CounterQuery(cat.EVALUATIONS, where=(_BAD,), rows=_rows("evaluation", "failure")),
        CounterQuery(cat.EVALUATIONS, rows=_rows("evaluation"))))
COST = Indicator(
    "cost", "Cost", "{USD}",
    "Cost as reported by the provider, or else by the job's prices; calls without either are not "
    "included.",
    CounterQuery(cat.COST, rows=_rows("priced", column="cost", by_minute="cost")))
TOKENS = Indicator(
    "tokens", "Tokens", "{token}",
    "Total tokens as reported by the provider, including those of evaluations.",
    CounterQuery(cat.TOTAL_TOKENS, rows=_rows("total_known", column="total", by_minute="tokens")))
UNPRICED_CALLS = Indicator(
    "unpriced_calls", "Calls without a price", "{call}",
    "Calls with tokens whose model has no price; their cost is missing in all sums.",
    CounterQuery(cat.UNPRICED, rows=_rows("total_known", "unpriced")))
UNREAD_SHARE = Indicator(
    "unread_share", "Calls without usage", "1",
    "Share of the calls of a model whose token usage is unknown; failed calls need none.",
    Ratio(CounterQuery(cat.USAGE_UNREAD, rows=_rows("inference", "unread")), _CALLS))
REJECTED_EVENTS = Indicator(
    "rejected_events", "Rejected values", "{event}",
    "Values and events that the monitor rejected, by reason.",
    CounterQuery(cat.MONITOR_EVENTS, where=((cat.RESULT, '="rejected"'),)))
HANDLER_ERRORS = Indicator(
    "handler_errors", "Handler errors", "{error}",
    "Events that a handler of the job did not handle.", CounterQuery(cat.HANDLER_ERRORS))
OVERFLOWED_LABELS = Indicator(
    "overflowed_labels", "Label values past their limit", "{value}",
    "Label values recorded as `other` because the label's limit was reached.",
    CounterQuery(cat.LABEL_OVERFLOW))
FAILED_EXPORTS = Indicator(
    "failed_exports", "Failed pushes", "{export}", "Failed pushes of metrics.",
    CounterQuery(cat.EXPORT_FAILURES))
CALL_DURATIONS = Indicator(
    "call_durations", "Generation time", "s",
    "Duration of the calls of a model, including failed and cancelled ones.",
    DistributionQuery(cat.INFERENCE_DURATION))

# --- streams and speed -------------------------------------------------------------------------

FIRST_CHUNKS = Indicator(
    "first_chunks", "Time to first chunk", "s",
    "Time from the start of a streaming call to its first chunk; other calls have none.",
    DistributionQuery(cat.FIRST_CHUNK))
OUTPUT_CHUNKS = Indicator(
    "output_chunks", "Time per output chunk", "s",
    "Time between two chunks of a stream, after its first one; a chunk can have several tokens.",
    DistributionQuery(cat.OUTPUT_CHUNK))
OUTPUT_SPEED = Indicator(
    "output_speed", "Completion tokens per second of a call", "{token}/s",
    "Completion tokens, including reasoning, divided by the duration of the calls of a model that did "
    "not fail, which includes the time to the first token; calls without usage lower it.",
    Ratio(
        CounterQuery(cat.OUTPUT_TOKENS, where=(_IN_GENERATION,)),
        CounterQuery(cat.INFERENCE_DURATION, "_sum", where=(_IN_GENERATION, _NOT_FAILED))))

# --- failures ----------------------------------------------------------------------------------

CALL_FAILURES = Indicator(
    "call_failures", "Failed calls", "{call}",
    "Failed calls of a model, by error type.",
    CounterQuery(cat.INFERENCE_DURATION, "_count", where=(_FAILED,)))
RETRIES = Indicator(
    "retries", "Retries", "{retry}",
    "Retries, by the error that caused them.", CounterQuery(cat.RETRIES))
FINISH_REASONS = Indicator(
    "finish_reasons", "Finish reasons", "{call}", "Calls by finish reason.",
    CounterQuery(cat.FINISH_REASONS))
ACTIVE_CALLS = Indicator(
    "active_calls", "Active calls", "{call}",
    "Active calls made through the generation handle.",
    GaugeQuery(cat.ACTIVE))
LAST_CALL = Indicator(
    "last_call", "Last call", "s", "Unix time at which the last call ended.",
    GaugeQuery(cat.LAST_GENERATION, aggregation="max"))

# --- samples -----------------------------------------------------------------------------------

SAMPLES = Indicator(
    "samples", "Samples", "{sample}", "Samples that the job produced, accepted or rejected.",
    CounterQuery(cat.SAMPLES))
SAMPLES_MADE = Indicator(
    "samples_made", "Samples produced", "{sample}",
    "Samples that the job produced since its start, including rejected ones.",
    GaugeQuery(cat.SAMPLES))
SAMPLES_EXPECTED = Indicator(
    "samples_expected", "Samples expected", "{sample}",
    "Samples that the job is expected to produce; no value if unknown.",
    GaugeQuery(cat.SAMPLES_EXPECTED))
REJECTIONS = Indicator(
    "rejections", "Rejected samples", "{sample}", "Samples that the job rejected, by reason.",
    CounterQuery(cat.SAMPLES, where=(_REJECTED,)))

# --- tokens and cost ---------------------------------------------------------------------------

PROMPT_TOKENS = Indicator(
    "prompt_tokens", "Prompt", "{token}",
    "Prompt tokens, including cached ones and those of evaluations.", _PROMPT_TOKENS)
COMPLETION_TOKENS = Indicator(
    "completion_tokens", "Completion", "{token}",
    "Completion tokens, including reasoning and those of evaluations.", _COMPLETION_TOKENS)
UNREAD_CALLS = Indicator(
    "unread_calls", "Calls without usage", "{call}",
    "Calls whose token usage is unknown, by reason; their tokens and cost are missing in all sums.",
    CounterQuery(cat.USAGE_UNREAD))
CACHE_HIT_SHARE = Indicator(
    "cache_hit_share", "Cache hits", "1",
    "Share of the prompt tokens read from the provider's cache.",
    Ratio(CounterQuery(cat.CACHE_READ_TOKENS), _PROMPT_TOKENS))
CACHE_WRITES = Indicator(
    "cache_writes", "Written to the cache", "{token}",
    "Prompt tokens written to the provider's cache.",
    CounterQuery(cat.CACHE_WRITE_TOKENS))
REASONING_SHARE = Indicator(
    "reasoning_share", "Reasoning", "1",
    "Share of the completion tokens spent on reasoning.",
    Ratio(CounterQuery(cat.REASONING_TOKENS), _COMPLETION_TOKENS))
PROMPT_LENGTHS = Indicator(
    "prompt_lengths", "Lengths of prompts", "{token}",
    "Distribution of prompt tokens per call, including cached ones.",
    DistributionQuery(cat.INPUT_TOKENS_PER_CALL))
COMPLETION_LENGTHS = Indicator(
    "completion_lengths", "Lengths of completions", "{token}",
    "Distribution of completion tokens per call, including reasoning.",
    DistributionQuery(cat.OUTPUT_TOKENS_PER_CALL))
COST_PER_CALL = Indicator(
    "cost_per_call", "Cost per successful call", "{USD}",
    "Cost of model calls, including failed and cancelled ones, per successful call.",
    Ratio(
        CounterQuery(cat.COST, where=(_IN_GENERATION,)),
        CounterQuery(cat.GENERATIONS, where=(_GOOD,))))
COST_PER_SAMPLE = Indicator(
    "cost_per_sample", "Cost per accepted sample", "{USD}",
    "Cost, including evaluations, per accepted sample.",
    Ratio(CounterQuery(cat.COST), CounterQuery(cat.SAMPLES, where=((cat.VERDICT, '="accepted"'),))))

# --- evaluations -------------------------------------------------------------------------------

EVALUATIONS = Indicator(
    "evaluations", "Evaluations", "{evaluation}", "Evaluations, including failed ones.",
    CounterQuery(cat.EVALUATIONS))
EVALUATION_DURATIONS = Indicator(
    "evaluation_durations", "Evaluation time", "s",
    "Duration of evaluations, including failed ones.",
    DistributionQuery(cat.EVALUATION_DURATION))
EVALUATION_FAILURES = Indicator(
    "evaluation_failures", "Failed evaluations", "{evaluation}",
    "Failed evaluations, by error type.",
    CounterQuery(cat.EVALUATION_DURATION, "_count", where=(_FAILED,)))
EVALUATION_TOKENS = Indicator(
    "evaluation_tokens", "Tokens of evaluations", "{token}",
    "Total tokens of evaluations, as reported by the provider.",
    CounterQuery(cat.TOTAL_TOKENS, where=(_IN_EVALUATION,)))
EVALUATION_COST = Indicator(
    "evaluation_cost", "Cost of evaluations", "{USD}",
    "Cost of evaluations, as reported by the provider or else by the job's prices.",
    CounterQuery(cat.COST, where=(_IN_EVALUATION,)))
SCORES = Indicator(
    "scores", "Scores", "{score}",
    "Distribution of scores normalized to 0..1; scores outside their scale are not included.",
    DistributionQuery(cat.SCORE))
SCORES_GIVEN = Indicator(
    "scores_given", "Scores recorded", "{score}",
    "Number of recorded scores, including those outside their scale.",
    CounterQuery(cat.SCORES_TOTAL))
RAW_SCORE = Indicator(
    "raw_score", "Mean on its own scale", "{score}",
    "Mean of a score on its own scale, since the start of the job.",
    Ratio(GaugeQuery(cat.SCORE_ACCUMULATED), GaugeQuery(cat.SCORES_TOTAL)))

# --- conversations -----------------------------------------------------------------------------

CONVERSATIONS = Indicator(
    "conversations", "Conversations", "{conversation}",
    "Finished conversations, including failed ones.", _CONVERSATIONS)
CONVERSATION_SUCCESS_SHARE = Indicator(
    "conversation_success_share", "Success rate", "1", "Share of the conversations that succeeded.",
    Ratio(CounterQuery(cat.CONVERSATION_DURATION, "_count", where=(_GOOD,)), _CONVERSATIONS))
CONVERSATION_FAILURES = Indicator(
    "conversation_failures", "Failed conversations", "{conversation}",
    "Failed conversations, by error type.",
    CounterQuery(cat.CONVERSATION_DURATION, "_count", where=(_FAILED,)))
CONVERSATION_DURATIONS = Indicator(
    "conversation_durations", "Duration of conversations", "s",
    "Duration of conversations, from their first call to their last.",
    DistributionQuery(cat.CONVERSATION_DURATION))
CONVERSATION_LENGTHS = Indicator(
    "conversation_lengths", "Lengths of conversations", "{turn}",
    "Distribution of turns per conversation.", DistributionQuery(cat.CONVERSATION_LENGTH))
TURNS = Indicator(
    "turns", "Turns", "{turn}", "Turns of finished conversations.",
    CounterQuery(cat.CONVERSATION_LENGTH, "_sum"))

# --- the job and its monitor -------------------------------------------------------------------

LOG_RECORDS = Indicator(
    "log_records", "Log records", "{record}",
    "Messages logged through the monitor, by level.", CounterQuery(cat.LOGS))
CUSTOM_VALUES = Indicator(
    "custom_values", "The job's own metrics", "{value}",
    "Last value of each custom metric that the job records.",
    GaugeQuery(cat.CUSTOM_VALUE, aggregation="max"))
FINISHED = Indicator(
    "finished", "Finished", "{state}",
    "Share of the job's processes that have reported that they are finished.",
    Ratio(GaugeQuery(cat.JOB_FINISHED), GaugeQuery(cat.BUILD_INFO)))
ALERTS_FIRING = Indicator(
    "alerts_firing", "Firing alerts", "{alert}",
    "Firing alerts as evaluated in the process: number of groups by name.",
    GaugeQuery(cat.ALERTS_FIRING))
EVENTS = Indicator(
    "events", "Events recorded", "{event}", "Events that the monitor recorded.",
    CounterQuery(cat.MONITOR_EVENTS, where=((cat.RESULT, '="recorded"'),)))
INBOX = Indicator(
    "inbox", "Inbox", "{event}",
    "Events pending when a collection began; the collection records them.",
    GaugeQuery(cat.MONITOR_INBOX, aggregation="max"))
HISTORY_FILL = Indicator(
    "history_fill", "History in use", "1",
    "Share of the local history in use; a full history drops its oldest events.",
    Ratio(GaugeQuery(cat.HISTORY_SIZE), GaugeQuery(cat.HISTORY_CAPACITY)))
PROCESSES = Indicator(
    "processes", "Processes", "{process}", "Processes monitored by genmeter, by release.",
    GaugeQuery(cat.BUILD_INFO))
PROCESS_STATES = Indicator(
    "process_states", "Processes of the job", "{process}",
    "Processes of a job that has several: those that run, that ended, and that died, of which about a "
    "second of work may be missing.",
    GaugeQuery(cat.JOB_PROCESSES, aggregation="max"))
LAST_DEATH = Indicator(
    "last_death", "Last death of a process", "s",
    "Unix time at which a job last noticed that one of its processes had died.",
    GaugeQuery(cat.JOB_LAST_DEATH, aggregation="max"))
TARGETS_UP = Indicator(
    "targets_up", "Targets up", "{target}",
    "1 if Prometheus can scrape the process, else 0.", GaugeQuery(_UP))
SCRAPE_TIME = Indicator(
    "scrape_time", "Duration of a scrape", "s", "Duration of Prometheus's scrapes of the process.",
    GaugeQuery(_SCRAPE, aggregation="max"))
# fmt: on

INDICATORS: tuple[Indicator, ...] = tuple(
    each for each in tuple(globals().values()) if isinstance(each, Indicator)
)
"""All of them; those that alerts compare come first."""
