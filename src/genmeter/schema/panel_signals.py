"""Signals that panels of a dashboard show and no alert judges.

Those that alerts judge are in :mod:`genmeter.schema.live_signals`; a panel may show any of both.
"""

from __future__ import annotations

from genmeter.schema import metrics as cat
from genmeter.schema.metrics import Instrument, Kind
from genmeter.schema.query import CounterQuery, GaugeQuery
from genmeter.schema.signals import Signal

__all__ = ["PANEL_SIGNALS"]

_GOOD = (cat.OUTCOME, '="success"')
_FAILED = (cat.ERROR_TYPE, '!=""')
_IN_EVALUATION = (cat.PHASE, '="evaluation"')
_ACCEPTED = CounterQuery(instrument=cat.SAMPLES, where=((cat.VERDICT, '="accepted"'),))
_UP = Instrument("up", Kind.GAUGE, "{target}", "Whether the target answered.")
_SCRAPE = Instrument("scrape.duration", Kind.GAUGE, "s", "Time that the scrape took.")


def _buckets(instrument: Instrument) -> CounterQuery:
    return CounterQuery(instrument=instrument, part="_bucket")


def _count(instrument: Instrument, *where: tuple[cat.Label, str]) -> CounterQuery:
    return CounterQuery(instrument=instrument, part="_count", where=where)


# --- calls -------------------------------------------------------------------------------------

CALL_DURATIONS = Signal(
    id="call_durations",
    title="Generation time",
    unit="s",
    description="How long calls of a model take, failed ones included.",
    of=_buckets(cat.INFERENCE_DURATION),
)
CALL_FAILURES = Signal(
    id="call_failures",
    title="Failed calls",
    unit="{call}",
    description="Calls of a model that failed, by the type of the error.",
    of=_count(cat.INFERENCE_DURATION, _FAILED),
)
RETRIES = Signal(
    id="retries",
    title="Retries",
    unit="{retry}",
    description="Attempts that were made again, by the error that caused them.",
    of=CounterQuery(instrument=cat.RETRIES),
)
FINISH_REASONS = Signal(
    id="finish_reasons",
    title="Finish reasons",
    unit="{call}",
    description="Calls by the reason that the model stopped for.",
    of=CounterQuery(instrument=cat.FINISH_REASONS),
)
ACTIVE_CALLS = Signal(
    id="active_calls",
    title="Under way",
    unit="{call}",
    description="Calls that are under way, of those made through the generation handle.",
    of=GaugeQuery(instrument=cat.ACTIVE),
)
LAST_CALL = Signal(
    id="last_call",
    title="Last call",
    unit="s",
    description="Unix time at which the last call ended.",
    of=GaugeQuery(instrument=cat.LAST_GENERATION, aggregation="max"),
)

# --- samples -----------------------------------------------------------------------------------

SAMPLES = Signal(
    id="samples",
    title="Samples",
    unit="{sample}",
    description="Samples that the job made, accepted or rejected.",
    of=CounterQuery(instrument=cat.SAMPLES),
)
SAMPLES_MADE = Signal(
    id="samples_made",
    title="Samples made",
    unit="{sample}",
    description="Samples that the job made since it began, rejected ones included.",
    of=GaugeQuery(instrument=cat.SAMPLES),
)
SAMPLES_EXPECTED = Signal(
    id="samples_expected",
    title="Samples expected",
    unit="{sample}",
    description="Samples that the job is to make; without a value where it did not say.",
    of=GaugeQuery(instrument=cat.SAMPLES_EXPECTED),
)
REJECTIONS = Signal(
    id="rejections",
    title="Rejected samples",
    unit="{sample}",
    description="Samples that the job rejected, by reason.",
    of=CounterQuery(instrument=cat.SAMPLES, where=((cat.VERDICT, '="rejected"'),)),
)

# --- tokens and cost ---------------------------------------------------------------------------

PROMPT_TOKENS = Signal(
    id="prompt_tokens",
    title="Prompt",
    unit="{token}",
    description="Tokens of prompts, cached ones and those of evaluations included.",
    of=CounterQuery(instrument=cat.INPUT_TOKENS),
)
COMPLETION_TOKENS = Signal(
    id="completion_tokens",
    title="Completion",
    unit="{token}",
    description="Tokens of completions, reasoning and those of evaluations included.",
    of=CounterQuery(instrument=cat.OUTPUT_TOKENS),
)
CACHE_HIT_SHARE = Signal(
    id="cache_hit_share",
    title="Cache hits",
    unit="1",
    description="Share of the prompts' tokens that came from the provider's cache.",
    of=CounterQuery(instrument=cat.CACHE_READ_TOKENS),
    per=PROMPT_TOKENS.of,
)
CACHE_WRITES = Signal(
    id="cache_writes",
    title="Written to the cache",
    unit="{token}",
    description="Tokens of prompts that were written to the provider's cache.",
    of=CounterQuery(instrument=cat.CACHE_WRITE_TOKENS),
)
REASONING_SHARE = Signal(
    id="reasoning_share",
    title="Reasoning",
    unit="1",
    description="Share of the completions' tokens that the model spent on reasoning.",
    of=CounterQuery(instrument=cat.REASONING_TOKENS),
    per=COMPLETION_TOKENS.of,
)
PROMPT_LENGTHS = Signal(
    id="prompt_lengths",
    title="Lengths of prompts",
    unit="{token}",
    description="How long the prompts of single calls are, cached tokens included.",
    of=_buckets(cat.INPUT_TOKENS_PER_CALL),
)
COMPLETION_LENGTHS = Signal(
    id="completion_lengths",
    title="Lengths of completions",
    unit="{token}",
    description="How long the completions of single calls are, reasoning included.",
    of=_buckets(cat.OUTPUT_TOKENS_PER_CALL),
)
COST_PER_CALL = Signal(
    id="cost_per_call",
    title="Cost per successful call",
    unit="{USD}",
    description="Cost by the job's price table, a call that succeeded.",
    of=CounterQuery(instrument=cat.COST, where=((cat.PHASE, '="generation"'),)),
    per=CounterQuery(instrument=cat.GENERATIONS, where=(_GOOD,)),
)
COST_PER_SAMPLE = Signal(
    id="cost_per_sample",
    title="Cost per accepted sample",
    unit="{USD}",
    description="Cost by the job's price table, evaluations included, an accepted sample.",
    of=CounterQuery(instrument=cat.COST),
    per=_ACCEPTED,
)

# --- evaluations -------------------------------------------------------------------------------

EVALUATIONS = Signal(
    id="evaluations",
    title="Evaluations",
    unit="{evaluation}",
    description="Evaluations, failed ones included.",
    of=CounterQuery(instrument=cat.EVALUATIONS),
)
EVALUATION_DURATIONS = Signal(
    id="evaluation_durations",
    title="Evaluation time",
    unit="s",
    description="How long evaluations take, failed ones included.",
    of=_buckets(cat.EVALUATION_DURATION),
)
EVALUATION_FAILURES = Signal(
    id="evaluation_failures",
    title="Failed evaluations",
    unit="{evaluation}",
    description="Evaluations that failed, by the type of the error.",
    of=_count(cat.EVALUATION_DURATION, _FAILED),
)
EVALUATION_TOKENS = Signal(
    id="evaluation_tokens",
    title="Tokens of evaluations",
    unit="{token}",
    description="Tokens that evaluations took, as the provider totals them.",
    of=CounterQuery(instrument=cat.TOTAL_TOKENS, where=(_IN_EVALUATION,)),
)
EVALUATION_COST = Signal(
    id="evaluation_cost",
    title="Cost of evaluations",
    unit="{USD}",
    description="Cost of evaluations by the job's price table.",
    of=CounterQuery(instrument=cat.COST, where=(_IN_EVALUATION,)),
)
SCORES = Signal(
    id="scores",
    title="Scores",
    unit="{score}",
    description="How the scores lie between 0 and 1; those off their scale are not in it.",
    of=_buckets(cat.SCORE),
)
SCORES_GIVEN = Signal(
    id="scores_given",
    title="Scores given",
    unit="{score}",
    description="Number of scores, on their scale or off it.",
    of=CounterQuery(instrument=cat.SCORES_TOTAL),
)
RAW_SCORE = Signal(
    id="raw_score",
    title="Mean as given",
    unit="{score}",
    description="Mean of a score as it was given, since the job began.",
    of=GaugeQuery(instrument=cat.SCORE_ACCUMULATED),
    per=GaugeQuery(instrument=cat.SCORES_TOTAL),
)

# --- conversations -----------------------------------------------------------------------------

CONVERSATIONS = Signal(
    id="conversations",
    title="Conversations",
    unit="{conversation}",
    description="Conversations that ended, failed ones included.",
    of=_count(cat.CONVERSATION_DURATION),
)
CONVERSATION_SUCCESS_SHARE = Signal(
    id="conversation_success_share",
    title="Success rate",
    unit="1",
    description="Share of the conversations that succeeded.",
    of=_count(cat.CONVERSATION_DURATION, _GOOD),
    per=CONVERSATIONS.of,
)
CONVERSATION_FAILURES = Signal(
    id="conversation_failures",
    title="Failed conversations",
    unit="{conversation}",
    description="Conversations that failed, by the type of the error.",
    of=_count(cat.CONVERSATION_DURATION, _FAILED),
)
CONVERSATION_DURATIONS = Signal(
    id="conversation_durations",
    title="Duration of conversations",
    unit="s",
    description="How long conversations take, from their first call to their last.",
    of=_buckets(cat.CONVERSATION_DURATION),
)
CONVERSATION_LENGTHS = Signal(
    id="conversation_lengths",
    title="Lengths of conversations",
    unit="{turn}",
    description="How many turns conversations have.",
    of=_buckets(cat.CONVERSATION_LENGTH),
)
TURNS = Signal(
    id="turns",
    title="Turns",
    unit="{turn}",
    description="Turns of the conversations that ended.",
    of=CounterQuery(instrument=cat.CONVERSATION_LENGTH, part="_sum"),
)

# --- the job and its monitor -------------------------------------------------------------------

LOG_RECORDS = Signal(
    id="log_records",
    title="Log records",
    unit="{record}",
    description="Log records that the job gave to its monitor, by level.",
    of=CounterQuery(instrument=cat.LOGS),
)
CUSTOM_VALUES = Signal(
    id="custom_values",
    title="The job's own metrics",
    unit="{value}",
    description="Last value of each metric that the job records under a name of its own.",
    of=GaugeQuery(instrument=cat.CUSTOM_VALUE, aggregation="max"),
)
FINISHED = Signal(
    id="finished",
    title="Finished",
    unit="{state}",
    description="Whether every process of the job has said that it is finished.",
    of=GaugeQuery(instrument=cat.JOB_FINISHED),
    per=GaugeQuery(instrument=cat.BUILD_INFO),
)
ALERTS_FIRING = Signal(
    id="alerts_firing",
    title="Alerts that fire",
    unit="{alert}",
    description=(
        "Alerts that fire by the processes' own judgement, by name and for how many groups; those "
        "of Prometheus's rules are marked in the panels."
    ),
    of=GaugeQuery(instrument=cat.ALERTS_FIRING),
)
EVENTS = Signal(
    id="events",
    title="Events recorded",
    unit="{event}",
    description="Events that the monitor recorded.",
    of=CounterQuery(instrument=cat.MONITOR_EVENTS, where=((cat.RESULT, '="recorded"'),)),
)
INBOX = Signal(
    id="inbox",
    title="Inbox",
    unit="{event}",
    description="Events that waited when a collection began; they are recorded with it.",
    of=GaugeQuery(instrument=cat.MONITOR_INBOX, aggregation="max"),
)
HISTORY_FILL = Signal(
    id="history_fill",
    title="History in use",
    unit="1",
    description="Share of the local history that is in use; when it is full the oldest goes.",
    of=GaugeQuery(instrument=cat.HISTORY_SIZE),
    per=GaugeQuery(instrument=cat.HISTORY_CAPACITY),
)
PROCESSES = Signal(
    id="processes",
    title="Processes",
    unit="{process}",
    description="Processes that genmeter watches, by release.",
    of=GaugeQuery(instrument=cat.BUILD_INFO),
)
TARGETS_UP = Signal(
    id="targets_up",
    title="Targets that answer",
    unit="{target}",
    description="1 where Prometheus can scrape the process, 0 where it cannot.",
    of=GaugeQuery(instrument=_UP),
)
SCRAPE_TIME = Signal(
    id="scrape_time",
    title="Duration of a scrape",
    unit="s",
    description="Time that Prometheus needs to scrape the process.",
    of=GaugeQuery(instrument=_SCRAPE, aggregation="max"),
)

PANEL_SIGNALS: tuple[Signal, ...] = (
    *(CALL_DURATIONS, CALL_FAILURES, RETRIES, FINISH_REASONS, ACTIVE_CALLS, LAST_CALL),
    *(SAMPLES, SAMPLES_MADE, SAMPLES_EXPECTED, REJECTIONS),
    *(PROMPT_TOKENS, COMPLETION_TOKENS, CACHE_HIT_SHARE, CACHE_WRITES, REASONING_SHARE),
    *(PROMPT_LENGTHS, COMPLETION_LENGTHS, COST_PER_CALL, COST_PER_SAMPLE),
    *(EVALUATIONS, EVALUATION_DURATIONS, EVALUATION_FAILURES, EVALUATION_TOKENS),
    *(EVALUATION_COST, SCORES, SCORES_GIVEN, RAW_SCORE),
    *(CONVERSATIONS, CONVERSATION_SUCCESS_SHARE, CONVERSATION_FAILURES),
    *(CONVERSATION_DURATIONS, CONVERSATION_LENGTHS, TURNS),
    *(LOG_RECORDS, CUSTOM_VALUES, FINISHED, ALERTS_FIRING, EVENTS, INBOX, HISTORY_FILL, PROCESSES),
    *(TARGETS_UP, SCRAPE_TIME),
)
"""All of them, by dashboard."""
