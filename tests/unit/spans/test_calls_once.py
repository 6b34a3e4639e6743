"""Each call once, however many spans, events and blocks report it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from _gen_ai_spans import OFFICIAL, OPENINFERENCE, Tracing, rows

import genmeter
from _waiting import eventually
from genmeter import ConfigError, GenAISpanProcessor, MonitorConfig
from genmeter.observed import blocks
from genmeter.observed.hook import HookRecorder
from genmeter.observed.observer import HELD_SECONDS
from genmeter.spans import monitors
from genmeter.spans.monitors import process_monitor
from genmeter.testing import IsolatedMonitor, fresh_runtime, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

LANGCHAIN = "openinference.instrumentation.langchain"
LATE = "opentelemetry.instrumentation.langchain"


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor with defaults."""
    with isolated_monitor() as made:
        yield made


@pytest.fixture
def tracing(monitor: IsolatedMonitor) -> Iterator[Tracing]:
    """Return tracing that feeds the monitor."""
    processor = GenAISpanProcessor(monitor)
    yield Tracing(processor)
    processor.shutdown()


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds


@pytest.fixture
def clock(monitor: IsolatedMonitor) -> Clock:
    """Return the clock of the monitor's observer."""
    made = Clock()
    monitor.observer._now = made
    return made


def repetitions(monitor: IsolatedMonitor) -> dict[str, float]:
    """Return the dropped repetitions by reason."""
    return {
        each.labels["genmeter_reason"]: each.value
        for each in monitor.series("genmeter_monitor_repetitions_total")
    }


# --- nested spans ----------------------------------------------------------------------------------


def test_span_that_begins_after_its_parent_has_ended_is_a_call_of_its_own(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """Some instrumentations leave the ended span of a stream in the context."""
    left = tracing.call(0.0, 1.0, scope=OPENINFERENCE, tokens=(10, 5))
    second = tracing.call(2.0, 3.0, scope=OPENINFERENCE, parent=left, tokens=(11, 6))
    outer = tracing.begin(4.0, scope=OPENINFERENCE, parent=second)
    tracing.call(4.1, 4.9, parent=outer, tokens=(12, 7))
    tracing.finish(outer, 5.0, tokens=(12, 7))
    tracing.flush()
    assert [row["input_tokens"] for row in rows(monitor)] == [10, 11, 12]
    assert repetitions(monitor) == {"nested": 1}


@pytest.mark.parametrize("is_outer_first", [False, True])
def test_nested_span_is_the_call_around_it(
    tracing: Tracing, monitor: IsolatedMonitor, is_outer_first: bool
) -> None:
    """In whichever order both end, and with spans of others between them."""
    outer = tracing.begin(0.0, gen_ai__request__model="outer")
    between = tracing.start(0.1, scope="job", parent=outer)
    inner = tracing.begin(0.2, scope=OPENINFERENCE, parent=between)
    if is_outer_first:
        tracing.finish(outer, 1.0)
        tracing.finish(inner, 1.1)
    else:
        tracing.finish(inner, 0.9)
        tracing.end(between, 0.95)
        tracing.finish(outer, 1.0)
    tracing.flush()
    (row,) = rows(monitor)
    assert row["model"] == "outer"
    assert repetitions(monitor) == {"nested": 1}


def test_outer_span_gets_what_it_lacks_from_the_inner_one(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """Tokens, the model that answered, the finish reason."""
    outer = tracing.begin(0.0)
    tracing.call(
        0.2,
        0.9,
        scope=OPENINFERENCE,
        parent=outer,
        gen_ai__response__model="m-2026",
        gen_ai__response__finish_reasons=["length"],
        gen_ai__usage__reasoning_tokens=3,
    )
    tracing.finish(outer, 1.0, tokens=None)
    tracing.flush()
    (row,) = rows(monitor)
    assert (row["input_tokens"], row["output_tokens"], row["reasoning_tokens"]) == (10, 5, 3)
    assert (row["response_model"], row["finish_reason"]) == ("m-2026", "length")
    assert row["duration_seconds"] == pytest.approx(1.0)
    assert row["usage_unread"] is None


def test_outer_span_gets_parts_of_the_same_tokens(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """Cached tokens have another price, so they must not be lost."""
    outer = tracing.begin(0.0)
    cached = {"gen_ai.usage.cache_read.input_tokens": 8}
    tracing.call(0.2, 0.9, scope=OPENINFERENCE, parent=outer, **cached)
    tracing.finish(outer, 1.0)
    tracing.flush()
    (row,) = rows(monitor)
    assert (row["input_tokens"], row["cache_read_tokens"]) == (10, 8)


def test_attempts_inside_of_one_call_are_its_retries(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """A framework's span around a failed and a successful request is one call."""
    outer = tracing.begin(0.0, scope=LANGCHAIN)
    tracing.call(0.1, 0.2, parent=outer, error="openai.RateLimitError")
    tracing.call(0.3, 0.9, parent=outer)
    tracing.finish(outer, 1.0, tokens=None)
    tracing.flush()
    (row,) = rows(monitor)
    assert (row["success"], row["input_tokens"]) == (True, 10)
    assert monitor.value("genmeter_retries_total") == 1


def test_scope_that_marks_late_is_waited_for(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """The inner call waits until the span around it says at its end that it is the call."""
    outer = tracing.start(0.0, scope=LATE)
    tracing.call(0.2, 0.9, parent=outer)
    monitor.flush()
    assert rows(monitor) == []
    tracing.finish(outer, 1.0, gen_ai__operation__name="chat", gen_ai__request__model="outer")
    assert [row["model"] for row in rows(monitor)] == ["outer"]


def test_late_span_that_is_no_call_releases_the_calls_below_it(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """A chain with two calls is two calls, as soon as it ends."""
    chain = tracing.start(0.0, scope=LATE)
    tracing.call(0.2, 0.4, parent=chain)
    tracing.call(0.5, 0.9, parent=chain)
    assert rows(monitor) == []
    tracing.end(chain, 1.0, gen_ai__operation__name="invoke_agent")
    assert len(rows(monitor)) == 2


def test_call_waits_a_minute_at_most(
    tracing: Tracing, monitor: IsolatedMonitor, clock: Clock
) -> None:
    """Then it counts, and the span around it is the repetition, whatever it says at its end."""
    outer = tracing.start(0.0, scope=LATE)
    tracing.call(0.2, 0.9, parent=outer)
    monitor.flush()
    clock.seconds = 59.0
    assert rows(monitor) == []
    clock.seconds = 61.0
    monitor.flush()
    assert len(rows(monitor)) == 1
    tracing.finish(outer, 90.0, gen_ai__operation__name="chat")
    assert len(rows(monitor)) == 1


def test_scope_is_learnt_to_mark_late(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """A scope of no table: its first call counts once by the inner span, the next ones as the outer."""
    for turn in range(2):
        outer = tracing.start(turn * 10.0, scope="unheard.scope")
        tracing.call(turn * 10 + 0.2, turn * 10 + 0.9, parent=outer)
        tracing.finish(
            outer, turn * 10 + 1.0, gen_ai__operation__name="chat", gen_ai__request__model="o"
        )
    tracing.flush()
    assert [row["model"] for row in rows(monitor)] == ["m", "o"]


def test_force_flush_settles_what_is_held_back(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """A job that ends inside of a span loses no call."""
    outer = tracing.begin(0.0)
    tracing.call(0.2, 0.9, parent=outer, scope=OPENINFERENCE)
    assert rows(monitor) == []
    tracing.flush()
    assert len(rows(monitor)) == 1


def test_shutdown_of_the_monitor_settles_too(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """The last calls are in its reports."""
    outer = tracing.begin(0.0)
    tracing.call(0.2, 0.9, parent=outer, scope=OPENINFERENCE)
    monitor.shutdown()
    assert len(rows(monitor)) == 1
    tracing.finish(outer, 1.0)
    assert monitor.get_total_token_usage().total_tokens == 15


def test_shutdown_of_the_processor_leaves_the_monitor_open(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """Its spans are ignored, the job's own calls still count."""
    outer = tracing.begin(0.0)
    tracing.call(0.2, 0.9, parent=outer, scope=OPENINFERENCE)
    (processor,) = tracing.processors
    processor.shutdown()
    processor.shutdown()
    assert not blocks.is_marking()
    tracing.finish(outer, 1.0)
    tracing.call(2.0, 3.0)
    monitor.track_generation(0.5, True)
    assert len(rows(monitor)) == 2


# --- siblings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_swapped", [False, True])
def test_siblings_with_one_response_id_are_one_call(
    tracing: Tracing, monitor: IsolatedMonitor, is_swapped: bool
) -> None:
    """The first that ends counts, though their tokens differ by one."""
    scopes = [OFFICIAL, "opentelemetry.instrumentation.anthropic"]
    first, second = reversed(scopes) if is_swapped else scopes
    one = tracing.begin(0.0, scope=first)
    two = tracing.begin(0.1, scope=second)
    tracing.finish(one, 1.0, tokens=(10, 52), gen_ai__response__id="msg_1")
    tracing.finish(two, 1.1, tokens=(10, 53), gen_ai__response__id="msg_1")
    assert [row["output_tokens"] for row in rows(monitor)] == [52]
    assert repetitions(monitor) == {"response_id": 1}


def test_server_with_one_id_for_everything(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """Of one scope, equal ids are other calls."""
    for turn in range(3):
        tracing.call(turn * 2.0, turn * 2 + 1.0, gen_ai__response__id="same")
    assert len(rows(monitor)) == 3


@pytest.mark.parametrize(
    ("start", "end"), [(0.1, 0.9), (-0.1, 1.1), (0.0, 1.0), (-0.001, 0.9), (0.1, 1.0015)]
)
def test_siblings_that_overlap_are_one_call(
    tracing: Tracing, monitor: IsolatedMonitor, start: float, end: float
) -> None:
    """Two roots of two scopes, one within the other up to 2 ms, with equal tokens."""
    tracing.call(0.0, 1.0)
    tracing.call(start, end, scope=LANGCHAIN)
    assert len(rows(monitor)) == 1
    assert repetitions(monitor) == {"overlap": 1}


@pytest.mark.parametrize(
    "other",
    [
        {"start": 0.5, "end": 1.5},
        {"scope": OFFICIAL},
        {"tokens": (10, 6)},
        {"tokens": None},
        {"error": "a.B"},
        {"gen_ai__provider__name": "anthropic"},
        {"gen_ai__operation__name": "embeddings"},
    ],
)
def test_siblings_that_differ_are_two_calls(
    tracing: Tracing, monitor: IsolatedMonitor, other: dict[str, Any]
) -> None:
    """Another time, the same scope, other tokens, another outcome, another provider."""
    tracing.call(0.0, 1.0)
    tracing.call(**({"start": 0.1, "end": 0.9, "scope": LANGCHAIN} | other))
    assert len(rows(monitor)) == 2


def test_failures_of_two_scopes_are_one_call(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """Unknown tokens are equal to unknown ones."""
    tracing.call(0.1, 0.9, error="openai.RateLimitError")
    tracing.call(0.0, 1.0, scope=LANGCHAIN, error="langchain.OpenAIRateLimitError")
    assert len(rows(monitor)) == 1


def test_equal_calls_in_parallel_stay_apart(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """A call takes one span of each scope, so three equal pairs are three calls."""
    inner = [tracing.begin(0.01 * n) for n in range(3)]
    outer = [tracing.begin(0.01 * n - 0.002, scope=LANGCHAIN) for n in range(3)]
    for n in range(3):
        tracing.finish(inner[n], 1.0 + 0.001 * n)
    for n in (2, 0, 1):
        tracing.finish(outer[n], 1.01 + 0.001 * n)
    assert len(rows(monitor)) == 3


def test_three_instrumentations_of_one_call(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """A root of one, and two nested ones of others beside it."""
    chain = tracing.start(0.0, scope=LANGCHAIN, openinference__span__kind="LLM")
    outer = tracing.begin(0.05)
    inner = tracing.begin(0.1, scope=OPENINFERENCE, parent=outer)
    tracing.finish(inner, 0.8)
    tracing.finish(outer, 0.9, gen_ai__response__id="r1")
    tracing.finish(chain, 1.0)
    tracing.flush()
    assert len(rows(monitor)) == 1


# --- blocks and hooks ------------------------------------------------------------------------------


def test_open_block_is_the_call(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """The span adds only what the block was not given."""
    with monitor.generation(model="mine", step="ask"):
        span = tracing.begin(0.0)
        tracing.finish(span, 1.0, gen_ai__response__model="m-2026")
    (row,) = rows(monitor)
    assert (row["model"], row["step"], row["input_tokens"]) == ("mine", "ask", 10)
    assert row["response_model"] == "m-2026"


def test_counts_of_a_block_stand(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """Neither added to nor replaced."""
    with monitor.generation(model="mine") as call:
        tracing.call()
        call.usage(prompt_token_count=7, completion_token_count=2)
    (row,) = rows(monitor)
    assert (row["input_tokens"], row["output_tokens"]) == (7, 2)


def test_nested_and_sibling_spans_in_a_block_are_added_once(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """Two requests, each seen by two instrumentations: the tokens of two."""
    with monitor.generation(model="mine"):
        for turn in range(2):
            outer = tracing.begin(turn * 2.0)
            tracing.call(turn * 2 + 0.1, turn * 2 + 0.9, scope=OPENINFERENCE, parent=outer)
            tracing.finish(outer, turn * 2 + 1.0)
            tracing.call(turn * 2 - 0.001, turn * 2 + 1.001, scope=LANGCHAIN)
    (row,) = rows(monitor)
    assert (row["input_tokens"], row["output_tokens"]) == (20, 10)


def test_span_that_ends_after_its_block_repeats_it(
    tracing: Tracing, monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block has been recorded without it."""
    monkeypatch.setattr("genmeter.clock.now", lambda: 1_790_000_000.5)
    with monitor.generation(model="mine"):
        span = tracing.begin(0.5)
    tracing.finish(span, 1.0)
    tracing.flush()
    assert [row["model"] for row in rows(monitor)] == ["mine"]
    assert repetitions(monitor) == {"block": 1}


def test_span_of_another_thread_belongs_to_the_block_of_its_parent(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """A thread without the context variables, but with the span's context."""
    with genmeter.step("judge"), monitor.generation(model="mine"):
        parent = tracing.start(0.0, scope="job")
        thread = threading.Thread(target=lambda: tracing.call(0.1, 0.9, parent=parent))
        thread.start()
        thread.join()
        tracing.end(parent, 1.0)
    (row,) = rows(monitor)
    assert (row["model"], row["step"], row["input_tokens"]) == ("mine", "judge", 10)


def test_block_of_a_hook_is_the_call(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """Spans inside complete it, and a span beside it repeats it."""
    recorder = HookRecorder(monitor, "genmeter.langchain")
    with genmeter.GenerationHandle(recorder, model="hooked"):
        tracing.call()
    (row,) = rows(monitor)
    assert (row["model"], row["input_tokens"]) == ("hooked", 10)


def test_step_labels_the_calls_of_spans(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """The step that was current as the span began."""
    with genmeter.step("judge"):
        span = tracing.begin(0.0)
    with genmeter.step("other"):
        tracing.finish(span, 1.0)
    assert [row["step"] for row in rows(monitor)] == ["judge"]


# --- the job's own reports -------------------------------------------------------------------------


def test_report_after_the_call_is_the_call(
    tracing: Tracing, monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``track_generation`` beside spans: the first is recognized, the next ones have its labels."""
    for turn in range(3):
        start = turn * 10.0
        tracing.call(start, start + 1.0, gen_ai__response__model="m-2026")
        monkeypatch.setattr("genmeter.clock.now", lambda start=start: 1_790_000_001.01 + start)
        monitor.track_generation(
            1.02, True, prompt_token_count=10, completion_token_count=5, step="ask"
        )
        monitor.flush()
    tracing.flush()
    found = rows(monitor)
    assert [row["step"] for row in found] == [None, "ask", "ask"]
    assert [row["response_model"] for row in found] == ["m-2026"] * 3


def test_conversation_is_never_a_repetition(
    tracing: Tracing, monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls are counted apart."""
    monkeypatch.setattr("genmeter.clock.now", lambda: 1_790_000_002.0)
    tracing.call(0.1, 0.9, tokens=None)
    monitor.track_generation(2.0, True, conversation_length=3)
    tracing.flush()
    assert monitor.value("genmeter_generations_total", genmeter_outcome="success") == 1
    assert monitor.value("genmeter_conversation_length_count") == 1


# --- logfire ---------------------------------------------------------------------------------------


def test_stream_of_two_roots_is_one_call(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """Logfire: a request span, and a log at the end with the tokens and the time of reading."""
    request = tracing.begin(0.0, scope="logfire.openai", logfire__span_type="span")
    tracing.finish(request, 0.5, tokens=None)
    log = tracing.begin(3.0, scope="logfire.openai", logfire__span_type="log", duration=2.4)
    tracing.finish(log, 3.0, gen_ai__response__id="r")
    (row,) = rows(monitor)
    assert row["input_tokens"] == 10
    assert row["duration_seconds"] == pytest.approx(3.0)
    assert repetitions(monitor) == {"opening": 1}


def test_streams_in_parallel_have_their_own_requests(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """Each log takes the request that ended when its reading began."""
    for start in (0.0, 1.0):
        request = tracing.begin(start, scope="logfire.openai", logfire__span_type="span")
        tracing.finish(request, start + 0.5, tokens=None)
    for start in (1.0, 0.0):
        at = start + 4.0
        log = tracing.begin(at, scope="logfire.openai", logfire__span_type="log", duration=3.45)
        tracing.finish(log, at)
    assert [row["duration_seconds"] for row in rows(monitor)] == [pytest.approx(4.0)] * 2


def test_failed_request_of_a_stream_counts(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """There is no log after it."""
    request = tracing.begin(0.0, scope="logfire.openai", logfire__span_type="span")
    tracing.finish(request, 0.5, error="openai.RateLimitError")
    assert [row["error_type"] for row in rows(monitor)] == ["RateLimitError"]


def logfire_request(tracing: Tracing, start: float, end: float, **more: Any) -> None:
    """Make the span of a stream's request."""
    request = tracing.begin(start, scope="logfire.openai", logfire__span_type="span", **more)
    tracing.finish(request, end, tokens=None)


def logfire_log(tracing: Tracing, at: float, duration: float, **more: Any) -> None:
    """Make the log of a stream's end."""
    log = tracing.begin(
        at, scope="logfire.openai", logfire__span_type="log", duration=duration, **more
    )
    tracing.finish(log, at)


def test_stream_without_an_end_counts_as_the_monitor_ends(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """Its usage is unknown; until then its log may still come."""
    logfire_request(tracing, 0.0, 0.5)
    logfire_request(tracing, 1.0, 1.5)
    logfire_log(tracing, 4.0, 2.5)
    tracing.flush()
    assert [row["input_tokens"] for row in rows(monitor)] == [10]
    monitor.shutdown()
    (left,) = [row for row in rows(monitor) if row["input_tokens"] is None]
    assert (left["outcome"], left["usage_unread"]) == ("success", "stream_left")
    assert left["duration_seconds"] == pytest.approx(0.5)
    assert repetitions(monitor) == {"opening": 1}


def test_stream_that_is_read_late_is_one_call(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """Its log takes a request of its model, though not that one's beginning."""
    logfire_request(tracing, 0.0, 0.5)
    logfire_request(tracing, 0.0, 0.5, gen_ai__request__model="other")
    logfire_log(tracing, 60.0, 2.0)
    logfire_log(tracing, 61.0, 2.0, gen_ai__request__model="other")
    monitor.shutdown()
    assert [row["duration_seconds"] for row in rows(monitor)] == [pytest.approx(2.0)] * 2
    assert repetitions(monitor) == {"opening": 2}


def test_stream_without_an_end_that_something_else_reports_counts_once(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """A block around it, a call's span around it, or another instrumentation."""
    with monitor.generation(model="mine"):
        logfire_request(tracing, 0.0, 0.5)
    outer = tracing.begin(1.0, scope="pydantic-ai")
    request = tracing.begin(1.1, scope="logfire.openai", parent=outer, logfire__span_type="span")
    tracing.finish(request, 1.5, tokens=None)
    tracing.finish(outer, 2.0, gen_ai__response__id="r1")
    beside = tracing.begin(3.01)
    logfire_request(tracing, 3.0, 3.5)
    tracing.finish(beside, 9.0, tokens=None)
    monitor.shutdown()
    assert len(rows(monitor)) == 3


def test_more_streams_without_an_end_than_are_remembered_are_calls(
    tracing: Tracing, monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest are recorded at once."""
    monkeypatch.setattr("genmeter.observed.openings._MAX_OPENINGS", 2)
    for number in range(5):
        logfire_request(tracing, number, number + 0.5)
    tracing.flush()
    assert len(rows(monitor)) == 3
    monitor.shutdown()
    assert len(rows(monitor)) == 5


def test_stream_without_an_end_counts_once_of_two_processors(monitor: IsolatedMonitor) -> None:
    """Of one monitor."""
    tracing = Tracing(GenAISpanProcessor(monitor), GenAISpanProcessor(monitor))
    logfire_request(tracing, 0.0, 0.5)
    logfire_request(tracing, 1.0, 1.5)
    logfire_log(tracing, 4.0, 2.5)
    for each in tracing.processors:
        each.shutdown()
    monitor.shutdown()
    assert len(rows(monitor)) == 2


# --- outcomes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "outcome", "error_type"),
    [
        ("openai.APIConnectionError", "failure", "APIConnectionError"),
        ("asyncio.exceptions.CancelledError", "cancelled", None),
    ],
)
@pytest.mark.parametrize("scope", [LANGCHAIN, OFFICIAL])
def test_failure_inside_of_a_call_that_shows_no_answer_is_its_own(
    tracing: Tracing,
    monitor: IsolatedMonitor,
    scope: str,
    error: str,
    outcome: str,
    error_type: str | None,
) -> None:
    """Some end the outer span well though an exception passes; also with several inside."""
    outer = tracing.begin(0.0, scope=scope)
    middle = tracing.begin(0.1, scope="middle", parent=outer)
    tracing.call(0.2, 0.9, scope=OPENINFERENCE, parent=middle, error=error)
    tracing.finish(middle, 0.95, tokens=None, error=error)
    tracing.finish(outer, 1.0, tokens=None, gen_ai__response__id="r1")
    tracing.flush()
    (row,) = rows(monitor)
    assert (row["outcome"], row["error_type"]) == (outcome, error_type)
    assert row["duration_seconds"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "more",
    [
        {"gen_ai__usage__output_tokens": 3},
        {"gen_ai__response__finish_reasons": ("stop",)},
    ],
)
def test_failed_attempt_inside_of_a_call_with_an_answer_is_none_of_its_own(
    tracing: Tracing, monitor: IsolatedMonitor, more: dict[str, Any]
) -> None:
    """Something else answered."""
    outer = tracing.begin(0.0, scope="outer")
    tracing.call(0.2, 0.9, scope=OPENINFERENCE, parent=outer, error="openai.RateLimitError")
    tracing.finish(outer, 1.0, tokens=None, **more)
    tracing.flush()
    assert [row["outcome"] for row in rows(monitor)] == ["success"]


@pytest.mark.parametrize(("second", "end"), [(None, 9.0), ("ok", 2.0)])
def test_failed_attempt_before_the_end_of_a_call_is_none_of_its_own(
    tracing: Tracing, monitor: IsolatedMonitor, second: str | None, end: float
) -> None:
    """It went on after that, whether the next attempt has a span or not."""
    outer = tracing.begin(0.0, scope="outer")
    tracing.call(0.2, 0.9, scope=OPENINFERENCE, parent=outer, error="openai.RateLimitError")
    if second is not None:
        tracing.call(1.0, 1.9, scope=OPENINFERENCE, parent=outer, tokens=None)
    tracing.finish(outer, end, tokens=None)
    tracing.flush()
    assert [row["outcome"] for row in rows(monitor)] == ["success"]


@pytest.mark.parametrize(
    ("scope", "outcome"),
    [
        ("pydantic-ai", "cancelled"),
        ("com.anthropic.sdk.python", "cancelled"),
        (OFFICIAL, "success"),
    ],
)
def test_span_without_an_answer_is_cancelled_where_its_emitter_shows_each_answer(
    tracing: Tracing, monitor: IsolatedMonitor, scope: str, outcome: str
) -> None:
    """Of others it says nothing."""
    tracing.call(0.0, 1.0, scope=scope, tokens=None)
    tracing.call(1.0, 2.0, scope=scope, tokens=None, gen_ai__response__model="m-1")
    tracing.call(2.0, 3.0, scope=scope, tokens=None, http__response__status_code=200)
    tracing.call(3.0, 4.0, scope=scope)
    tracing.flush()
    found = [row["outcome"] for row in rows(monitor)]
    assert found == [outcome, "success", "success", "success"]


# --- processors and monitors -----------------------------------------------------------------------


def test_processor_added_twice(monitor: IsolatedMonitor) -> None:
    """Each call once, in a block too."""
    processor = GenAISpanProcessor(monitor)
    tracing = Tracing(processor, processor, GenAISpanProcessor(monitor))
    tracing.call()
    outer = tracing.begin(2.0)
    tracing.call(2.1, 2.9, scope=OPENINFERENCE, parent=outer)
    tracing.finish(outer, 3.0)
    with monitor.generation(model="mine"):
        tracing.call(4.0, 5.0)
    tracing.flush()
    assert [row["input_tokens"] for row in rows(monitor)] == [10, 10, 10]
    for each in tracing.processors:
        each.shutdown()


def test_two_monitors_each_get_every_call(monitor: IsolatedMonitor) -> None:
    """A block of one is no block of the other."""
    other = genmeter.GenerationMonitor()
    tracing = Tracing(GenAISpanProcessor(monitor), GenAISpanProcessor(other))
    tracing.call()
    with monitor.generation(model="mine"):
        tracing.call(2.0, 3.0, tokens=(7, 3))
    tracing.flush()
    assert [row["model"] for row in rows(monitor)] == ["m", "mine"]
    assert [row["model"] for row in rows(other)] == ["m", "m"]
    assert [row["input_tokens"] for row in rows(monitor)] == [10, 7]
    other.shutdown()
    for each in tracing.processors:
        each.shutdown()


@pytest.mark.parametrize("is_first", [True, False])
def test_processor_of_the_process_leaves_calls_to_the_jobs_own(
    monitor: IsolatedMonitor, is_first: bool
) -> None:
    """Beside a processor with another monitor, as under `genmeter run`, a call counts once in both."""
    own = genmeter.GenerationMonitor()
    of_process, of_job = GenAISpanProcessor(), GenAISpanProcessor(own, deny=["logfire."])
    tracing = Tracing(*((of_process, of_job) if is_first else (of_job, of_process)))
    tracing.call()
    outer = tracing.begin(2.0, scope="litellm")
    tracing.call(2.1, 2.9, parent=outer)
    tracing.finish(outer, 3.0)
    with own.generation(model="mine"):
        tracing.call(4.0, 5.0)
    tracing.call(6.0, 7.0, scope="logfire.openai", tokens=(7, 3))  # not the job's
    tracing.flush()
    assert [row["input_tokens"] for row in rows(own)] == [10, 10, 10]
    assert [row["input_tokens"] for row in rows(monitor)] == [7]
    assert genmeter.process_token_usage().total_tokens == 55
    own.shutdown()
    tracing.call(8.0, 9.0)
    tracing.flush()
    assert [row["input_tokens"] for row in rows(monitor)] == [7, 10]
    for each in tracing.processors:
        each.shutdown()


def test_processor_of_the_process_beside_one_of_the_same_monitor(monitor: IsolatedMonitor) -> None:
    """A call is inside of its parent as without the second."""
    tracing = Tracing(GenAISpanProcessor(), GenAISpanProcessor(monitor))
    outer = tracing.begin(0.0)
    tracing.call(0.1, 0.9, scope=OPENINFERENCE, parent=outer, tokens=(1, 1))
    tracing.finish(outer, 1.0)
    tracing.flush()
    assert [row["input_tokens"] for row in rows(monitor)] == [10]
    for each in tracing.processors:
        each.shutdown()


def test_allowed_and_denied_scopes(monitor: IsolatedMonitor) -> None:
    """By prefix; the calls inside of a denied span count."""
    tracing = Tracing(
        GenAISpanProcessor(monitor, allow=["openinference.", "opentelemetry."], deny=[LANGCHAIN])
    )
    denied = tracing.begin(0.0, scope=LANGCHAIN)
    tracing.call(0.1, 0.5, parent=denied, scope=OPENINFERENCE)
    tracing.call(0.6, 0.7, scope="logfire.openai")
    tracing.finish(denied, 1.0)
    assert len(rows(monitor)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"monitor": 5}, "monitor must be"),
        ({"allow": "openinference"}, "allow must be"),
        ({"allow": [5]}, "allow"),
        ({"deny": [""]}, "deny"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    """Errors name the argument, at construction."""
    with pytest.raises(ConfigError, match=message):
        GenAISpanProcessor(**arguments)
    assert not blocks.is_marking()


def test_inline_drain(clock: Clock) -> None:
    """Calls are there at once, on the caller's thread."""
    del clock
    with isolated_monitor(config=MonitorConfig(drain="inline")) as monitor:
        tracing = Tracing(GenAISpanProcessor(monitor))
        outer = tracing.begin(0.0)
        tracing.call(0.2, 0.9, parent=outer, scope=OPENINFERENCE)
        tracing.finish(outer, 1.0)
        assert len(rows(monitor)) == 1
        tracing.processors[0].shutdown()


def test_process_monitor_is_the_oldest_that_the_job_made(monitor: IsolatedMonitor) -> None:
    """Until it is shut down; then the next one."""
    second = genmeter.GenerationMonitor()
    processor = GenAISpanProcessor()
    tracing = Tracing(processor)
    assert process_monitor() is monitor
    tracing.call()
    tracing.flush()
    monitor.shutdown()
    tracing.call(2.0, 3.0)
    tracing.flush()
    assert (len(rows(monitor)), len(rows(second))) == (1, 1)
    processor.shutdown()


def test_process_monitor_is_made_for_the_first_call_only(monitor: IsolatedMonitor) -> None:
    """And the one that the job makes later takes its place."""
    monitor.shutdown()
    processor = GenAISpanProcessor()
    tracing = Tracing(processor)
    tracing.end(tracing.start(0.0, scope="job"), 1.0)
    assert not processor._destination.has_monitor
    tracing.call()
    made = process_monitor()
    assert len(rows(made)) == 1
    own = genmeter.GenerationMonitor()
    tracing.call(2.0, 3.0)
    assert (len(rows(made)), len(rows(own))) == (1, 1)
    processor.shutdown()


def test_table_of_calls_is_bounded(
    tracing: Tracing, monitor: IsolatedMonitor, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By number and by age; the open spans too."""
    monkeypatch.setattr("genmeter.observed.matching.MAX_CALLS", 5)
    monkeypatch.setattr("genmeter.observed.open_spans.MAX_OPEN", 50)
    for turn in range(20):
        tracing.call(turn * 2.0, turn * 2 + 1.0, gen_ai__response__id=f"r{turn}")
    for turn in range(100):
        tracing.begin(100.0 + turn)
    monitor.flush()
    observer = monitor.observer
    assert len(observer._recent) == 5
    assert len(observer.open_spans) <= 50
    clock.seconds = 61.0
    monitor.flush()
    assert len(observer._recent) == 0
    assert observer._recent._by_id == observer._recent._by_counts == observer._recent._by_key == {}


def test_spans_below_one_call_are_bounded(
    tracing: Tracing, monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long call may have many; of too many the call itself is forgotten."""
    monkeypatch.setattr("genmeter.observed.matching.MAX_KEYS", 20)
    outer = tracing.call(0.0, 1.0)
    for turn in range(50):
        tracing.call(0.01 * turn, 0.01 * turn + 0.005, scope="other", parent=outer)
    monitor.flush()
    assert len(monitor.observer._recent._by_key) <= 20
    assert len(rows(monitor)) <= 50


def test_what_repeats_a_forgotten_call_is_not_kept(
    tracing: Tracing, monitor: IsolatedMonitor, clock: Clock
) -> None:
    """It is dropped as before, and nothing of it stays in the tables."""
    outer = tracing.begin(0.0)
    inner = tracing.begin(0.1, parent=outer, scope="other")
    tracing.finish(outer, 1.0, gen_ai__response__id="r")
    monitor.flush()
    clock.seconds = 61.0
    monitor.flush()
    observer = monitor.observer
    assert len(observer._recent) == 0
    tracing.finish(inner, 1.1, gen_ai__response__id="s")
    monitor.flush()
    assert observer._recent._by_id == observer._recent._by_key == {}
    assert len(observer.open_spans) == 0
    assert len(rows(monitor)) == 1


def test_requests_of_streams_and_lost_calls_are_forgotten(
    tracing: Tracing, monitor: IsolatedMonitor, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a call whose message to the pipeline was lost, after some minutes."""
    request = tracing.begin(0.0, scope="logfire.openai", logfire__span_type="span")
    tracing.finish(request, 0.5, tokens=None)
    monitor.flush()
    with monkeypatch.context() as patch:
        patch.setattr(monitor.observer._sink, "post", lambda function: None)
        tracing.call(6_000.0, 6_001.0)
    assert len(monitor.observer.open_spans) > 0
    clock.seconds = HELD_SECONDS + 61.0
    monitor.flush()
    assert len(monitor.observer.open_spans) == 0


class HostileSpan:
    """A span whose attributes raise."""

    def __getattr__(self, name: str) -> Any:
        raise SystemExit(name)


def test_hostile_span_never_raises(monitor: IsolatedMonitor) -> None:
    """It is counted as an internal error."""
    processor = GenAISpanProcessor(monitor)
    hostile: Any = HostileSpan()
    processor.on_start(hostile)
    processor.on_end(hostile)
    assert monitor.value("genmeter_monitor_events_total", genmeter_reason="internal") == 2
    processor.shutdown()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_begins_empty(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """What is held back, and what began before, is the parent's."""
    outer = tracing.begin(0.0)
    tracing.call(0.2, 0.9, parent=outer, scope=OPENINFERENCE)
    monitor.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            tracing.finish(outer, 1.0)
            tracing.flush()
            status = 10 + len(rows(monitor))
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 10
    tracing.finish(outer, 1.0)
    tracing.flush()
    assert len(rows(monitor)) == 1


# --- decorated generators --------------------------------------------------------------------------


def chunks_of(monitor: IsolatedMonitor, tracing: Tracing) -> Any:
    """Return a decorated generator whose request has a span."""

    @monitor.generation(model="streamed")
    def chunks() -> Iterator[str]:
        span = tracing.begin(0.0)
        yield "a"
        yield "b"
        tracing.finish(span, 1.0, tokens=(20, 4))

    return chunks


def test_consumers_calls_between_chunks_are_their_own(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """A generator runs in its consumer's context, but its block is open only while it advances."""
    for number, _ in enumerate(chunks_of(monitor, tracing)()):
        assert blocks.current() is None
        tracing.call(number * 10 + 10.0, number * 10 + 11.0, tokens=(number + 1, 1))
    tracing.flush()
    found = {row["model"]: 0 for row in rows(monitor)}
    for row in rows(monitor):
        found[row["model"]] += row["input_tokens"]
    assert found == {"m": 3, "streamed": 20}


async def test_consumers_calls_between_async_chunks_are_their_own(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """The same of an asynchronous generator."""

    @monitor.generation(model="streamed")
    async def chunks() -> Any:
        span = tracing.begin(0.0)
        yield "a"
        yield "b"
        tracing.finish(span, 1.0, tokens=(20, 4))

    seen = []
    async for chunk in chunks():
        seen.append(chunk)
        assert blocks.current() is None
        tracing.call(10.0 * len(seen), 10.0 * len(seen) + 1, tokens=(1, 1))
    assert seen == ["a", "b"]
    tracing.flush()
    assert sorted(row["input_tokens"] for row in rows(monitor)) == [1, 1, 20]


def test_marked_generator_passes_on_what_its_consumer_sends(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """``send``, ``throw``, ``close`` and the result work as without marks."""
    del tracing

    @monitor.generation(model="streamed")
    def echo() -> Any:
        got = yield "first"
        try:
            got = yield got
        except ValueError:
            got = "caught"
        yield got
        return "result"

    generator = echo()
    assert next(generator) == "first"
    assert generator.send("sent") == "sent"
    assert generator.throw(ValueError()) == "caught"
    with pytest.raises(StopIteration) as end:
        next(generator)
    assert end.value.value == "result"
    left = echo()
    next(left)
    left.close()
    assert blocks.current() is None
    assert monitor.value("genmeter_generations_total", genmeter_outcome="cancelled") == 1


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"GENMETER_MAX_MODELS": "many"}, "exports no metrics: GENMETER_MAX_MODELS"),
        ({"GENMETER_HISTORY_CAPACITY": "-1"}, "exports no metrics: GENMETER_HISTORY_CAPACITY"),
    ],
)
def test_process_monitor_of_wrong_settings_counts_all_the_same(
    variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """It says what is wrong once, and its calls are in the totals of the process."""
    monitors._once.clear()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with fresh_runtime():
        made = process_monitor()
        assert process_monitor() is made
        assert eventually(lambda: words in caplog.text)
        made.track_generation(1.0, True, model_name="m", prompt_token_count=5)
        assert made.get_total_token_usage().total_tokens == 5
    assert caplog.text.count(words) == 1
