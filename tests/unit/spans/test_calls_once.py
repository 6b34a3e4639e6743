"""Each call once, however many spans, events and blocks report it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from _gen_ai_spans import LANGCHAIN, OFFICIAL, OPENINFERENCE, Clock, Tracing, repetitions, rows

import genmeter
from genmeter.observed import blocks
from genmeter.observed.hook import HookRecorder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genmeter.testing import IsolatedMonitor

LATE = "opentelemetry.instrumentation.langchain"


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
