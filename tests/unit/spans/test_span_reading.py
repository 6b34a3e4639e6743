"""What a span's attributes say of a call, in old and new spellings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from _gen_ai_spans import OPENINFERENCE, Tracing, rows

if TYPE_CHECKING:
    from genmeter.testing import IsolatedMonitor


def only(monitor: IsolatedMonitor) -> dict[str, Any]:
    """Return the one call."""
    (row,) = rows(monitor)
    return row


def read(tracing: Tracing, monitor: IsolatedMonitor, /, **attributes: Any) -> dict[str, Any]:
    """Return the call of one span with the given attributes."""
    span = tracing.start(0.0, scope=attributes.pop("scope", "any.scope"))
    error = attributes.pop("error", None)
    tracing.end(span, 1.5, error=error, **attributes)
    tracing.flush()
    return only(monitor)


@pytest.mark.parametrize(
    ("mark", "operation"),
    [
        ({"gen_ai__operation__name": "chat"}, "chat"),
        ({"gen_ai__operation__name": "completion"}, "text_completion"),
        ({"gen_ai__operation__name": "text_completion"}, "text_completion"),
        ({"gen_ai__operation__name": "generate_content"}, "generate_content"),
        ({"gen_ai__operation__name": "embedding"}, "embeddings"),
        ({"gen_ai__operation__name": "acompletion"}, "chat"),  # LiteLLM's functions
        ({"gen_ai__operation__name": "aembedding"}, "embeddings"),
        ({"gen_ai__operation__name": "atext_completion"}, "text_completion"),
        ({"gen_ai__operation__name": "aresponses"}, "chat"),
        ({"gen_ai__operation__name": "anthropic_messages"}, "chat"),
        ({"gen_ai__operation__name": "agenerate_content_stream"}, "generate_content"),
        ({"openinference__span__kind": "LLM"}, "chat"),
        ({"openinference__span__kind": "EMBEDDING"}, "embeddings"),
    ],
)
def test_marked_span_is_a_call(
    tracing: Tracing, monitor: IsolatedMonitor, mark: dict[str, str], operation: str
) -> None:
    """By the conventions, old and new, and OpenInference; stamped with the span's times."""
    row = read(tracing, monitor, **mark)
    assert row["operation"] == operation
    assert row["duration_seconds"] == pytest.approx(1.5)
    assert row["time"].timestamp() == pytest.approx(1_790_000_001.5)


@pytest.mark.parametrize(
    "mark",
    [
        {},
        {"gen_ai__operation__name": "invoke_agent", "openinference__span__kind": "LLM"},
        {"gen_ai__operation__name": "execute_tool"},
        {"gen_ai__operation__name": "create_agent"},
        {"gen_ai__operation__name": "invoke_workflow"},
        {"gen_ai__operation__name": "chat", "logfire__span_type": "pending_span"},
        {"gen_ai__aggregated_usage__input_tokens": 5},
        {"openinference__span__kind": "CHAIN"},
        {"openinference__span__kind": "TOOL"},
        {"openinference__span__kind": "AGENT"},
        {"gen_ai__usage__input_tokens": 5},
    ],
)
def test_other_span_is_no_call(
    tracing: Tracing, monitor: IsolatedMonitor, mark: dict[str, Any]
) -> None:
    """Agents, tools and chains repeat the tokens of the calls below them."""
    tracing.end(tracing.start(0.0), 1.0, **mark)
    tracing.flush()
    assert rows(monitor) == []


CHAT: dict[str, Any] = {"gen_ai__operation__name": "chat"}
SPELLINGS = {
    "input_tokens": [
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.prompt_tokens",
        "llm.token_count.prompt",
    ],
    "output_tokens": [
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.token_count.completion",
    ],
    "total_tokens": [
        "gen_ai.usage.total_tokens",
        "llm.usage.total_tokens",
        "llm.token_count.total",
    ],
    "cache_read_tokens": [
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "llm.token_count.prompt_details.cache_read",
    ],
    "cache_write_tokens": [
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "llm.token_count.prompt_details.cache_write",
    ],
    "reasoning_tokens": [
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "gen_ai.usage.details.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
    ],
}


@pytest.mark.parametrize(
    ("column", "name"), [(column, name) for column, names in SPELLINGS.items() for name in names]
)
def test_count_in_each_spelling(
    tracing: Tracing, monitor: IsolatedMonitor, column: str, name: str
) -> None:
    """Every spelling of a count is read."""
    basic = {"gen_ai.usage.input_tokens": 300, "gen_ai.usage.output_tokens": 200}
    row = read(tracing, monitor, **CHAT, **(basic | {name: 77}))
    if column in ("input_tokens", "output_tokens") and name not in basic:
        assert row[column] == basic[SPELLINGS[column][0]]  # the newest spelling wins
    else:
        assert row[column] == 77


def test_old_spelling_counts_without_the_new_one(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """What instrumentations before 1.27 of the conventions write."""
    row = read(
        tracing,
        monitor,
        **CHAT,
        **{"gen_ai.usage.prompt_tokens": 8, "gen_ai.usage.completion_tokens": 3},
        gen_ai__system="gemini",
    )
    assert (row["input_tokens"], row["output_tokens"], row["total_tokens"]) == (8, 3, 11)
    assert row["provider"] == "gcp.gemini"


@pytest.mark.parametrize(
    ("attributes", "model", "answered"),
    [
        ({"gen_ai.request.model": "a", "gen_ai.response.model": "b"}, "a", "b"),
        ({"llm.request.model_name": "a", "llm.model_name": "b"}, "a", "b"),
        ({"llm.invocation_parameters": '{"model": "a"}', "llm.model_name": "b"}, "a", "b"),
        ({"embedding.invocation_parameters": '{"model": "a"}'}, "a", None),
        ({"llm.invocation_parameters": '{"model": ', "llm.model_name": "b"}, "b", "b"),
        ({"llm.invocation_parameters": "[1]", "llm.model_name": "b"}, "b", "b"),
        ({"gen_ai.request.model": "", "gen_ai.response.model": "b"}, "b", "b"),
    ],
)
def test_models(
    tracing: Tracing,
    monitor: IsolatedMonitor,
    attributes: dict[str, str],
    model: str,
    answered: str | None,
) -> None:
    """The model that was asked for, else the one that answered."""
    row = read(tracing, monitor, **CHAT, **attributes)
    assert (row["model"], row["response_model"]) == (model, answered)


@pytest.mark.parametrize(
    ("attributes", "provider"),
    [
        ({"gen_ai.provider.name": "openai", "gen_ai.system": "az.ai.openai"}, "openai"),
        ({"llm.provider": "azure", "llm.system": "openai"}, "azure.ai.openai"),
        ({"gen_ai.system": "", "litellm.provider.model": "groq/llama"}, "groq"),
        ({"gen_ai.system": "", "litellm.provider.model": "llama"}, None),
        ({"gen_ai.provider.name": "google"}, "gcp.gen_ai"),
    ],
)
def test_provider(
    tracing: Tracing, monitor: IsolatedMonitor, attributes: dict[str, str], provider: str | None
) -> None:
    """By its newest name; an empty one is absent."""
    assert read(tracing, monitor, **CHAT, **attributes)["provider"] == provider


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (["STOP"], "stop"),
        (["stop", "length"], "length"),
        ('["tool_calls"]', "tool_calls"),
        ('["broken', None),
        ("[" * 60_000, None),
        ("stop", "stop"),
        ([], None),
    ],
)
def test_finish_reason(
    tracing: Tracing, monitor: IsolatedMonitor, value: Any, reason: str | None
) -> None:
    """An array or its JSON, in lower case; a truncation of any choice wins."""
    row = read(tracing, monitor, **CHAT, gen_ai__response__finish_reasons=value)
    assert row["finish_reason"] == reason


@pytest.mark.parametrize(
    ("error", "attributes", "kind", "outcome"),
    [
        ("openai.RateLimitError", {}, "RateLimitError", "failure"),
        ("a.B", {"error__type": "<class 'openai.APIError'>"}, "APIError", "failure"),
        ("a.B", {"error__type": "overloaded_error"}, "overloaded_error", "failure"),
        ("a.B", {"error__type": "_OTHER"}, "B", "failure"),
        ("asyncio.exceptions.CancelledError", {}, None, "cancelled"),
        ("GeneratorExit", {}, None, "cancelled"),
    ],
)
def test_errors(
    tracing: Tracing,
    monitor: IsolatedMonitor,
    error: str,
    attributes: dict[str, str],
    kind: str | None,
    outcome: str,
) -> None:
    """The class without its module; a cancellation is no failure."""
    row = read(tracing, monitor, error=error, **CHAT, **attributes)
    assert (row["error_type"], row["success"]) == (kind, False)
    assert monitor.value("genmeter_generations_total", genmeter_outcome=outcome) == 1


def test_costs_and_tier_are_those_reported(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """The emitter's cost stands over prices."""
    row = read(
        tracing,
        monitor,
        **CHAT,
        operation__cost=0.25,
        gen_ai__usage__input_tokens=5,
        gen_ai__usage__output_tokens=5,
    )
    assert row["cost_usd"] == pytest.approx(0.25)


@pytest.mark.parametrize("unusable", ["0.5", -1.0, float("nan"), True])
def test_a_cost_that_is_none_gives_way_to_the_next(
    tracing: Tracing, monitor: IsolatedMonitor, unusable: Any
) -> None:
    """As a count does."""
    costs = {"operation__cost": unusable, "gen_ai__cost__total_cost": 0.25}
    row = read(tracing, monitor, **CHAT, **costs, gen_ai__usage__input_tokens=5)
    assert row["cost_usd"] == pytest.approx(0.25)


def test_first_chunk_by_attribute_or_event(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """The time of a stream's first chunk."""
    first = tracing.begin(0.0)
    tracing.finish(first, 1.0, gen_ai__response__time_to_first_chunk=0.125)
    second = tracing.begin(2.0)
    second.add_event("gen_ai.content.completion.chunk", None, 1_790_000_002 * 10**9 + 250_000_000)
    tracing.finish(second, 3.0)
    tracing.flush()
    assert monitor.value("gen_ai_client_inference_time_to_first_chunk_seconds_sum") == 0.375


def test_parts_from_the_vendors_own_usage(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """LiteLLM's text of a dict, logfire's JSON; only if it is of the same tokens."""
    tokens = {"gen_ai__usage__input_tokens": 40, "gen_ai__usage__output_tokens": 9}
    usage = (
        "{'prompt_tokens': 40, 'completion_tokens': 9, 'total_tokens': 49, "
        "'completion_tokens_details': {'reasoning_tokens': 4, 'text_tokens': None}, "
        "'prompt_tokens_details': {'cached_tokens': 32}}"
    )
    row = read(tracing, monitor, **CHAT, **tokens, metadata__usage_object=usage)
    assert (row["cache_read_tokens"], row["reasoning_tokens"]) == (32, 4)


@pytest.mark.parametrize("usage", ["{'a'", "[1]", "{" * 90_000, "{1: object()}", "{}"])
def test_unreadable_usage_is_ignored(
    tracing: Tracing, monitor: IsolatedMonitor, usage: str
) -> None:
    """A text that is no dict changes nothing."""
    tokens = {"gen_ai__usage__input_tokens": 40, "gen_ai__usage__output_tokens": 9}
    row = read(tracing, monitor, **CHAT, **tokens, metadata__usage_object=usage)
    assert (row["input_tokens"], row["cache_read_tokens"]) == (40, 0)


def test_thoughts_that_are_only_in_the_total_are_output(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """OpenLLMetry's Google spans: thoughts are billed as output."""
    row = read(
        tracing,
        monitor,
        scope="opentelemetry.instrumentation.google_generativeai",
        gen_ai__operation__name="generate_content",
        gen_ai__usage__input_tokens=10,
        gen_ai__usage__output_tokens=4,
        gen_ai__usage__total_tokens=20,
    )
    assert (row["output_tokens"], row["reasoning_tokens"], row["total_tokens"]) == (10, 6, 20)


def test_span_without_tokens_is_unread_with_its_remedy(
    tracing: Tracing, monitor: IsolatedMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """Unknown usage counts as unknown, never as 0, and the log says what to do."""
    row = read(tracing, monitor, scope=OPENINFERENCE, **CHAT)
    assert row["input_tokens"] is None
    assert row["usage_unread"] == "not_in_span"
    assert monitor.value("genmeter_usage_unread_total", genmeter_reason="not_in_span") == 1
    monitor.flush()
    assert "include_usage" in caplog.text
    assert OPENINFERENCE in caplog.text


NO_COUNTS: list[tuple[Any, str]] = [
    (-5, "negative"),
    (-0.5, "negative"),
    (2.5, "a fraction"),
    (True, "no number"),
    ("12", "no number"),
    ([3], "no number"),
    (float("nan"), "not finite"),
    (float("inf"), "not finite"),
    (float("-inf"), "not finite"),
    (2**40 + 1, "too large"),
    (1e300, "too large"),
]


@pytest.mark.parametrize(("value", "what"), NO_COUNTS)
@pytest.mark.parametrize("name", ["input", "output", "cache_read__input", "reasoning__output"])
def test_count_that_is_none_is_unknown_with_its_reason(
    tracing: Tracing,
    monitor: IsolatedMonitor,
    caplog: pytest.LogCaptureFixture,
    value: Any,
    what: str,
    name: str,
) -> None:
    """Only whole numbers from 0 on are counts; the others of the call count, and it says so."""
    counts = {"gen_ai__usage__input_tokens": 30, "gen_ai__usage__output_tokens": 4}
    counts[f"gen_ai__usage__{name}_tokens"] = value
    row = read(tracing, monitor, **CHAT, **counts)
    assert row["input_tokens"] == (None if name == "input" else 30)
    assert row["output_tokens"] == (None if name == "output" else 4)
    assert row["usage_unread"] == "not_a_count"
    assert monitor.value("genmeter_usage_unread_total", genmeter_reason="not_a_count") == 1
    monitor.flush()
    shown = name.replace("__", ".")
    assert f"any.scope: gen_ai.usage.{shown}_tokens is {what}" in caplog.text
    assert monitor.get_total_token_usage().calls_without_usage == 1


def test_all_counts_that_are_none_are_unknown(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """Rather than not in the span."""
    row = read(
        tracing, monitor, **CHAT, gen_ai__usage__input_tokens=-1, gen_ai__usage__output_tokens=-1
    )
    assert (row["total_tokens"], row["usage_unread"]) == (None, "not_a_count")


def test_count_in_another_spelling_stands_for_one_that_is_none(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """Nothing is unknown then; nor by a total beside both of its parts, or an embedding's output."""
    row = read(
        tracing,
        monitor,
        **CHAT,
        gen_ai__usage__input_tokens=-1,
        llm__token_count__prompt=30.0,
        gen_ai__usage__output_tokens=4,
        gen_ai__usage__total_tokens=-1,
    )
    assert (row["input_tokens"], row["output_tokens"], row["total_tokens"]) == (30, 4, 34)
    assert row["usage_unread"] is None


def test_embedding_with_no_count_of_output_is_known(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """It has none."""
    row = read(
        tracing,
        monitor,
        gen_ai__operation__name="embeddings",
        gen_ai__usage__input_tokens=30,
        gen_ai__usage__output_tokens=-1,
    )
    assert (row["total_tokens"], row["usage_unread"]) == (30, None)


def test_block_around_a_span_with_no_count_is_partly_unknown(
    tracing: Tracing, monitor: IsolatedMonitor
) -> None:
    """It has the counts of the span, and its reason."""
    with monitor.generation(model="atlas"):
        span = tracing.start(0.0, scope="any.scope", **CHAT)
        tracing.end(span, 1.0, gen_ai__usage__input_tokens=-1, gen_ai__usage__output_tokens=4)
    tracing.flush()
    row = only(monitor)
    assert (row["output_tokens"], row["usage_unread"]) == (4, "not_a_count")
