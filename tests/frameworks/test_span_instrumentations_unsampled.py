"""Calls whose spans are not sampled: the conventions' log events give them, each call once with or without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from _books import Call, assert_equal_books
from _isolated import run_isolated
from _model_server import serve
from _watching import import_emitters, watch
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, TraceIdRatioBased

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
