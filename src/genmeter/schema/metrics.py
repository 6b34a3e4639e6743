"""The table of all metrics: labels and instruments, as rows.

Instruments, their Prometheus names and the reference come from these rows. To add a metric, add a
row. Names, kinds, units and bucket bounds under ``gen_ai.`` are those of the
OpenTelemetry GenAI semantic conventions (repository open-telemetry/semantic-conventions-genai,
docs/gen-ai/client-inference.md and gen-ai-token-metrics.md, commit 024a4f944a12, status
Development). Metrics that they do not define are named ``genmeter.*``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from genmeter.schema.prom_names import label_name, prometheus_name

__all__ = ["INSTRUMENTS", "Across", "Instrument", "Kind", "Label"]


class Kind(StrEnum):
    """OpenTelemetry's kinds of instruments; ``OBSERVABLE_*`` are read at collection."""

    COUNTER = "counter"
    UP_DOWN_COUNTER = "updown"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"
    OBSERVABLE_COUNTER = "observable_counter"
    OBSERVABLE_UP_DOWN_COUNTER = "observable_updown"
    OBSERVABLE_GAUGE = "observable_gauge"

    @property
    def exposed_as(self) -> str:
        """The kind in an exposition: ``counter``, ``updown``, ``histogram``, ``gauge``."""
        return self.value.removeprefix("observable_")


class Across(StrEnum):
    """How the values of the processes of one job become the value of the job.

    ``SUM``, ``MAX`` and ``LAST`` (the one that changed last) include processes that have ended;
    ``LIVING`` is the sum, and ``MIN`` the least, of those that run.
    """

    SUM = "sum"
    LIVING = "living"
    MAX = "max"
    MIN = "min"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Label:
    """An attribute key of low cardinality.

    Args:
        key: The OpenTelemetry attribute key.
        help: What its values are.
        limit: The field of ``LabelLimits`` that limits its values; None for a closed set.
    """

    key: str
    help: str
    limit: str | None = None

    @property
    def prometheus(self) -> str:
        """The label's name in Prometheus."""
        return label_name(self.key)

    @property
    def short(self) -> str:
        """The last part of its key, such as ``model``."""
        return self.key.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric.

    Args:
        name: The OpenTelemetry name.
        kind: The kind of instrument.
        unit: UCUM unit; an annotation in braces adds nothing to the Prometheus name.
        help: One sentence for readers of the scrape.
        labels: The attribute keys of its series.
        bounds: Upper bounds of a histogram's buckets, in ``unit``; floats, so that every
            renderer writes the same ``le``.
        stands_for: Names of AfterImage's metrics that it replaces.
        across: How the processes of a job are combined.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[Label, ...] = ()
    bounds: tuple[float, ...] = ()
    stands_for: tuple[str, ...] = ()
    across: Across = Across.SUM

    @property
    def prometheus(self) -> str:
        """The metric's name in Prometheus (a histogram's without its suffixes)."""
        return prometheus_name(self.name, self.unit, self.kind.exposed_as)


OPERATION = Label("gen_ai.operation.name", "kind of call; `chat` by default", "operations")
PROVIDER = Label("gen_ai.provider.name", "who serves the model, `_OTHER` if unknown", "providers")
MODEL = Label("gen_ai.request.model", "the model that was called", "models")
RESPONSE_MODEL = Label(
    "gen_ai.response.model", "the model that answered; absent if unknown", "response_models"
)
STEP = Label("genmeter.step", "step of the pipeline, such as `question_generation`", "steps")
PHASE = Label("genmeter.phase", "`generation` or `evaluation`")
OUTCOME = Label("genmeter.outcome", "`success`, `failure`, or `cancelled` for a call")
UNREAD_REASON = Label(
    "genmeter.reason",
    "why usage is unknown: `not_reported`, `no_usage`, `not_understood`, `keywords`, `stream`, "
    "`stream_left`, `not_in_span` or `not_a_count`",
)
COST_SOURCE = Label(
    "genmeter.cost.source", "`prices`, or `reported` for a cost that the provider reported"
)
ERROR_TYPE = Label("error.type", "class of the error; absent on success", "error_types")
MODALITY = Label("gen_ai.token.modality", "`unknown` by default", "modalities")
FINISH_REASON = Label(
    "genmeter.finish_reason", "why the model stopped, in lower case", "finish_reasons"
)
VERDICT = Label("genmeter.outcome", "`accepted` or `rejected`")
SAMPLE_REASON = Label("genmeter.reason", "why a sample was rejected", "sample_reasons")
EVALUATOR = Label("genmeter.evaluator", "type of the evaluator", "evaluators")
SCORE_NAME = Label("gen_ai.evaluation.name", "name of the score", "scores")
METRIC = Label("genmeter.metric", "name passed to `record_metric`", "custom_metrics")
LEVEL = Label("genmeter.level", "`info`, `warning` or `error`")
RESULT = Label("genmeter.result", "`recorded` or `rejected`")
REJECT_REASON = Label("genmeter.reason", "why a value was rejected; absent if recorded")
HANDLER = Label("genmeter.handler", "class of the handler")
HANDLER_REASON = Label("genmeter.reason", "`raised`, `queue_full`, or `unfinished` at shutdown")
REPEAT_REASON = Label(
    "genmeter.reason",
    "how an observation repeats a call: `nested` in another span, same `response_id`, `overlap` with equal "
    "tokens, `same_span`, `log_event` of a span, `block` of the job around it, `reported` by the job, or "
    "`opening` of a stream",
)
OVERFLOWED = Label("genmeter.label", "the label whose limit was reached")
EXPORTER = Label("genmeter.exporter", "the exporter that failed")
VERSION = Label("version", "release of genmeter")
OTEL_SDK = Label("otel_sdk", "release of the OpenTelemetry SDK")
STATE = Label("genmeter.state", "`running`, `ended` or `died`")
ALERT = Label("genmeter.alert", "name of the alert, as in Prometheus")

_ASKED: tuple[Label, ...] = (OPERATION, PROVIDER, MODEL, STEP, PHASE)
CALL: tuple[Label, ...] = (*_ASKED, RESPONSE_MODEL)
"""The labels of a call; all queries here select ``genmeter_phase!=""``."""

# The bounds of the conventions, plus 30 s (AfterImage's alert threshold, so that the share above it
# is exact) and the doublings that a batch call with long reasoning needs.
SECONDS: tuple[float, ...] = tuple(sorted([0.01 * 2.0**power for power in range(17)] + [30.0]))
CHUNK_SECONDS: tuple[float, ...] = tuple(0.01 * 2.0**power for power in range(14))
TOKENS: tuple[float, ...] = tuple(4.0**power for power in range(14))
CONVERSATION_SECONDS = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)
TURNS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)
SCORES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

# fmt: off
# The inbox comes first: its callback drains, and the SDK runs callbacks in the order of
# registration before it reads the synchronous instruments.
MONITOR_INBOX = Instrument(
    "genmeter.monitor.inbox", Kind.OBSERVABLE_GAUGE, "{event}",
    "Events pending when this collection began.", across=Across.LIVING)
MONITOR_EVENTS = Instrument(
    "genmeter.monitor.events", Kind.OBSERVABLE_COUNTER, "{event}",
    "Recorded events, and rejected values by reason.", (RESULT, REJECT_REASON))
HISTORY_SIZE = Instrument(
    "genmeter.monitor.history.size", Kind.OBSERVABLE_GAUGE, "{event}",
    "Events in the local history.", across=Across.LIVING)
HISTORY_CAPACITY = Instrument(
    "genmeter.monitor.history.capacity", Kind.OBSERVABLE_GAUGE, "{event}",
    "Capacity of the local history in events.", across=Across.LIVING)
HANDLER_ERRORS = Instrument(
    "genmeter.monitor.handler_errors", Kind.OBSERVABLE_COUNTER, "{error}",
    "Events that a handler did not handle, and failed callbacks, by reason.",
    (HANDLER, HANDLER_REASON))
REPETITIONS = Instrument(
    "genmeter.monitor.repetitions", Kind.OBSERVABLE_COUNTER, "{observation}",
    "Spans, log events and reports that repeat a call that is counted, by reason.",
    (REPEAT_REASON,))
LABEL_OVERFLOW = Instrument(
    "genmeter.monitor.label_overflow", Kind.OBSERVABLE_COUNTER, "{value}",
    "Label values recorded as `other` because the label's limit was reached.", (OVERFLOWED,))
EXPORT_FAILURES = Instrument(
    "genmeter.monitor.export_failures", Kind.OBSERVABLE_COUNTER, "{export}", "Failed pushes.",
    (EXPORTER,))
SAMPLES_EXPECTED = Instrument(
    "genmeter.job.samples.expected", Kind.OBSERVABLE_GAUGE, "{sample}",
    "Data set samples that the job is expected to produce; absent if unknown.", across=Across.MAX)
JOB_FINISHED = Instrument(
    "genmeter.job.finished", Kind.OBSERVABLE_GAUGE, "{state}",
    "1 after all monitors that recorded events have shut down, else 0.", across=Across.MIN)
JOB_LINGER = Instrument(
    "genmeter.job.linger", Kind.OBSERVABLE_GAUGE, "s",
    "Seconds that the endpoint waits at the job's end for a last scrape; at 0 its end cannot be "
    "distinguished from a crash.", across=Across.MAX)
ALERTS_FIRING = Instrument(
    "genmeter.alerts.firing", Kind.OBSERVABLE_GAUGE, "{alert}",
    "Firing alerts as evaluated in the process; 0 for alerts that do not fire.", (ALERT,), across=Across.LIVING)
JOB_PROCESSES = Instrument(
    "genmeter.job.processes", Kind.OBSERVABLE_GAUGE, "{process}",
    "Processes of the job by state; absent while it has one. What one that died had not published, "
    "about a second of its work, is missing.", (STATE,), across=Across.MAX)
JOB_LAST_DEATH = Instrument(
    "genmeter.job.last_death.timestamp", Kind.OBSERVABLE_GAUGE, "s",
    "Unix time at which the job last noticed that one of its processes had died; absent if none has.",
    across=Across.MAX)
BUILD_INFO = Instrument(
    "genmeter.build.info", Kind.OBSERVABLE_GAUGE, "{build}",
    "Always 1; the labels have the versions in use.", (VERSION, OTEL_SDK), across=Across.LAST)
INFERENCE_DURATION = Instrument(
    "gen_ai.client.inference.duration", Kind.HISTOGRAM, "s", "Duration of model calls.",
    (*CALL, ERROR_TYPE), SECONDS, ("generation_time", "model_usage:*"))
FIRST_CHUNK = Instrument(
    "gen_ai.client.inference.time_to_first_chunk", Kind.HISTOGRAM, "s",
    "Time from the start of a streaming call to its first chunk.", CALL, CHUNK_SECONDS)
OUTPUT_CHUNK = Instrument(
    "gen_ai.client.inference.time_per_output_chunk", Kind.HISTOGRAM, "s",
    "Time between the chunks of a stream, after its first one.", CALL, CHUNK_SECONDS)
INPUT_TOKENS = Instrument(
    "gen_ai.client.inference.usage.input_tokens", Kind.COUNTER, "{token}",
    "Prompt tokens, including cached ones.", (*CALL, MODALITY), stands_for=("prompt_token_count",))
OUTPUT_TOKENS = Instrument(
    "gen_ai.client.inference.usage.output_tokens", Kind.COUNTER, "{token}",
    "Completion tokens, including reasoning.", (*CALL, MODALITY),
    stands_for=("completion_token_count",))
CACHE_READ_TOKENS = Instrument(
    "gen_ai.client.inference.usage.cache_read.input_tokens", Kind.COUNTER, "{token}",
    "Prompt tokens read from the provider's cache; part of the input tokens.", (*CALL, MODALITY))
CACHE_WRITE_TOKENS = Instrument(
    "gen_ai.client.inference.usage.cache_write.input_tokens", Kind.COUNTER, "{token}",
    "Prompt tokens written to the provider's cache; part of the input tokens.", (*CALL, MODALITY))
REASONING_TOKENS = Instrument(
    "gen_ai.client.inference.usage.reasoning.output_tokens", Kind.COUNTER, "{token}",
    "Reasoning tokens; part of the output tokens.", (*CALL, MODALITY))
INPUT_TOKENS_PER_CALL = Instrument(
    "gen_ai.client.inference.operation.input_tokens", Kind.HISTOGRAM, "{token}",
    "Prompt tokens per call.", CALL, TOKENS, ("prompt_token_count",))
OUTPUT_TOKENS_PER_CALL = Instrument(
    "gen_ai.client.inference.operation.output_tokens", Kind.HISTOGRAM, "{token}",
    "Completion tokens per call.", CALL, TOKENS, ("completion_token_count",))
GENERATIONS = Instrument(
    "genmeter.generations", Kind.COUNTER, "{generation}", "Model calls by outcome.",
    (*CALL, OUTCOME), stands_for=("success_rate", "error_rate"))
RETRIES = Instrument(
    "genmeter.retries", Kind.COUNTER, "{retry}",
    "Retries by the error that caused them; rate limits are `rate_limited`.", (*CALL, ERROR_TYPE))
SAMPLES = Instrument(
    "genmeter.samples", Kind.COUNTER, "{sample}",
    "Data set samples that the job produced, accepted or rejected.", (VERDICT, SAMPLE_REASON))
TOTAL_TOKENS = Instrument(
    "genmeter.tokens", Kind.COUNTER, "{token}",
    "Total tokens as reported by the provider; may exceed input plus output.", CALL,
    stands_for=("total_token_count",))
FINISH_REASONS = Instrument(
    "genmeter.finish_reasons", Kind.COUNTER, "{generation}", "Model calls by finish reason.",
    (*CALL, FINISH_REASON), stands_for=("finish_reason:*",))
COST = Instrument(
    "genmeter.cost.usd", Kind.COUNTER, "{USD}",
    "Cost in USD, as reported by the provider or else by the configured prices; calls without "
    "either are not included.", (*CALL, COST_SOURCE))
UNPRICED = Instrument(
    "genmeter.unpriced_generations", Kind.COUNTER, "{generation}",
    "Calls with tokens whose model has no price; absent if no prices are configured.", CALL)
USAGE_UNREAD = Instrument(
    "genmeter.usage.unread", Kind.COUNTER, "{generation}",
    "Calls whose token usage is unknown, by reason; their tokens are missing in all sums.",
    (*CALL, UNREAD_REASON))
ACTIVE = Instrument(
    "genmeter.generations.active", Kind.OBSERVABLE_UP_DOWN_COUNTER, "{generation}",
    "Active calls made through the generation handle.", _ASKED, across=Across.LIVING)
LAST_GENERATION = Instrument(
    "genmeter.last_generation.timestamp", Kind.OBSERVABLE_GAUGE, "s",
    "Unix time of the last finished call.", (MODEL,), across=Across.MAX)
CONVERSATION_DURATION = Instrument(
    "genmeter.conversation.duration", Kind.HISTOGRAM, "s",
    "Duration of conversations; their calls are counted separately.", (OUTCOME, ERROR_TYPE),
    CONVERSATION_SECONDS)
CONVERSATION_LENGTH = Instrument(
    "genmeter.conversation.length", Kind.HISTOGRAM, "{turn}", "Turns per conversation.", (), TURNS,
    ("conversation_length",))
EVALUATIONS = Instrument(
    "genmeter.evaluations", Kind.COUNTER, "{evaluation}", "Evaluations by outcome.",
    (EVALUATOR, OUTCOME), stands_for=("evaluation_error_rate",))
EVALUATION_DURATION = Instrument(
    "genmeter.evaluation.duration", Kind.HISTOGRAM, "s", "Duration of evaluations.",
    (EVALUATOR, ERROR_TYPE), SECONDS, ("evaluation_time",))
SCORE = Instrument(
    "genmeter.evaluation.score", Kind.HISTOGRAM, "{score}",
    "Scores normalized to 0..1; scores outside their scale are not included.",
    (SCORE_NAME, EVALUATOR), SCORES, ("evaluation_score_*",))
SCORE_ACCUMULATED = Instrument(
    "genmeter.evaluation.score.accumulated", Kind.UP_DOWN_COUNTER, "{score}",
    "Sum of the recorded scores; divided by their number it is the mean.", (SCORE_NAME, EVALUATOR))
SCORES_TOTAL = Instrument(
    "genmeter.evaluation.scores", Kind.COUNTER, "{score}",
    "Number of recorded scores, including those outside their scale.", (SCORE_NAME, EVALUATOR))
CUSTOM_SAMPLES = Instrument(
    "genmeter.custom.samples", Kind.COUNTER, "{sample}",
    "Number of values passed to `record_metric`.", (METRIC,))
CUSTOM_ACCUMULATED = Instrument(
    "genmeter.custom.accumulated", Kind.UP_DOWN_COUNTER, "{value}",
    "Sum of the values passed to `record_metric`.", (METRIC,))
CUSTOM_VALUE = Instrument(
    "genmeter.custom.value", Kind.OBSERVABLE_GAUGE, "{value}",
    "Last value passed to `record_metric`.", (METRIC,), across=Across.LAST)
LOGS = Instrument(
    "genmeter.logs", Kind.COUNTER, "{record}", "Messages logged through the monitor.", (LEVEL,))
# fmt: on

INSTRUMENTS: tuple[Instrument, ...] = tuple(
    each for each in tuple(globals().values()) if isinstance(each, Instrument)
)
"""All of them, in the order of their registration."""
