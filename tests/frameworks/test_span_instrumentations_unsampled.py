"""Calls whose spans are not sampled: the conventions' log events give them, each call once with or without."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from _books import Call, assert_equal_books
from _isolated import run_isolated
from _model_server import serve
from _watching import import_emitters, watch
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    Decision,
    StaticSampler,
    TraceIdRatioBased,
)

from genmeter.spans.sampling import RecordCalls

if TYPE_CHECKING:
    from _model_server import Entry, ModelServer

openai = pytest.importorskip("openai")
pytest.importorskip("opentelemetry.instrumentation.genai.openai")


def _run(server: ModelServer) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="k")

    def chat(text: str, **keywords: Any) -> Any:
        messages = [{"role": "user", "content": text}]
        return client.chat.completions.create(model="gpt-4o-mini", messages=messages, **keywords)

    for number in range(6):
        chat(f"hi {number} [[cached]]")
    list(chat("hi", stream=True, stream_options={"include_usage": True}))
    chat("hi [[429 then ok]]")
    with pytest.raises(openai.BadRequestError):
        chat("hi [[400]]")
    client.embeddings.create(model="text-embedding-3-small", input="a")


def _without_embeddings(call: Call, entry: Entry) -> list[Call]:
    return [] if call.operation == "embeddings" else [call]


@pytest.mark.parametrize(
    "emitters", [("genai-openai",), ("genai-openai", "openinference-openai")], ids="+".join
)
@pytest.mark.parametrize("sampler", [ALWAYS_OFF, ALWAYS_ON], ids=["off", "on"])
def test_log_events_give_the_calls_of_spans_that_are_not_sampled(
    monkeypatch: pytest.MonkeyPatch, emitters: tuple[str, ...], sampler: Any
) -> None:
    """There are none for embeddings; beside sampled spans they repeat what is known."""
    import_emitters(emitters)
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT", "true")

    def run() -> None:
        with serve() as server:
            with watch(*emitters, sampler=sampler) as watched:
                _run(server)
            if sampler is ALWAYS_OFF:
                assert_equal_books(watched.monitor, server, as_seen=_without_embeddings)
            else:
                assert_equal_books(watched.monitor, server)

    run_isolated(run)


def test_a_part_of_the_spans_and_the_log_events_of_the_rest_are_all_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever calls are sampled; embeddings only if they are."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT", "true")

    def run() -> None:
        with serve() as server:
            with watch("genai-openai", sampler=TraceIdRatioBased(0.5)) as watched:
                _run(server)
            rows = watched.monitor.to_frame("generations")
            chats = [entry for entry in server.answered() if entry.operation == "chat"]
            found = rows[(rows["operation"] == "chat") & rows["success"]]
            assert sorted(found["input_tokens"]) == sorted(entry.input for entry in chats)

    run_isolated(run)


EMITTERS = [
    ("genai-openai",),
    ("openllmetry-openai",),
    ("openinference-openai",),
    ("genai-openai", "openllmetry-openai", "openinference-openai", "httpx"),
]
RECORDED = {
    "only recorded": StaticSampler(Decision.RECORD_ONLY),
    "all dropped but calls": RecordCalls(ALWAYS_OFF),
    "all dropped but calls, by the parent": RecordCalls(DEFAULT_OFF),
    "a part dropped but calls": RecordCalls(TraceIdRatioBased(0.3)),
}


@pytest.mark.parametrize("emitters", EMITTERS, ids="+".join)
@pytest.mark.parametrize("sampler", RECORDED)
def test_spans_that_are_recorded_and_not_sampled_are_calls(
    emitters: tuple[str, ...], sampler: str
) -> None:
    """Each call once, as the books have it; nothing is exported of them."""
    import_emitters(emitters)

    def run() -> None:
        with serve() as server:
            with watch(*emitters, sampler=RECORDED[sampler]) as watched:
                _run(server)
            assert_equal_books(watched.monitor, server)

    run_isolated(run)


@pytest.mark.parametrize("emitters", EMITTERS, ids="+".join)
@pytest.mark.parametrize("sampler", [ALWAYS_OFF, DEFAULT_OFF, TraceIdRatioBased(0.0)], ids=repr)
def test_spans_that_are_sampled_to_nothing_are_said_to_be(
    emitters: tuple[str, ...], sampler: Any
) -> None:
    """As the processor is added, with the sampler's name and the remedy: there is no call to see later."""
    import_emitters(emitters)

    def run() -> None:
        said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("genmeter").addHandler(handler)
        with serve() as server, watch(*emitters, sampler=sampler) as watched:
            (text,) = said
            assert f"the sampler {sampler.get_description()} drops are not seen" in text
            assert "wrap_sampler(provider)" in text
            _run(server)
        assert len(watched.monitor.to_frame("generations")) == 0
        assert len(said) == 1

    run_isolated(run)
