"""Merging what several objects say of one answer."""

from __future__ import annotations

import enum
from decimal import Decimal
from typing import Any
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest
from _answers import CHAT, answer_of, tokens_of

from genmeter.events.answers import Answer, TokenCounts
from genmeter.usage import _objects
from genmeter.usage.reading import Reading

# ---- counts


@pytest.mark.parametrize(
    "value",
    [True, 1.5, "7", None, [], float("nan"), float("inf"), -3, Mock(), MagicMock(spec=int)],
)
def test_invalid_counts_are_absent(value: Any) -> None:
    """Booleans, texts, fractions, negative numbers and mocks are not token counts."""
    counts = tokens_of({"prompt_tokens": value, "completion_tokens": 2})
    assert counts == TokenCounts(None, 2)


@pytest.mark.parametrize("value", [7, 7.0, np.int8(7), np.uint64(7), np.float64(7), np.float32(7)])
def test_whole_numbers_of_any_type_become_integers(value: Any) -> None:
    """A sum of counts cannot overflow."""
    counts = tokens_of({"prompt_tokens": value, "completion_tokens": 2})
    assert counts == TokenCounts(7, 2)
    assert type(counts.input) is int


def test_sums_of_small_integers_do_not_overflow() -> None:
    """NumPy's would."""
    usage = {"prompt_token_count": np.int8(100), "tool_use_prompt_token_count": np.int8(100)}
    assert tokens_of(usage) == TokenCounts(200)


def test_integer_that_raises_is_absent() -> None:
    """Other counts are still read."""

    class Hostile(int):
        def __int__(self) -> int:
            raise RuntimeError

    assert tokens_of({"prompt_tokens": Hostile(3), "completion_tokens": 2}) == TokenCounts(None, 2)


def test_count_of_zero_is_known() -> None:
    """Zero tokens are not absent."""
    assert tokens_of({"prompt_tokens": 0, "completion_tokens": 0}) == TokenCounts(0, 0)


def test_anthropics_input_includes_cached_tokens() -> None:
    """One kind of cached tokens is enough to add."""
    bare = {"input_tokens": 35, "output_tokens": 4, "cache_read_input_tokens": None}
    assert tokens_of(bare) == TokenCounts(35, 4)
    only_written = {"input_tokens": 35, "cache_creation_input_tokens": 5}
    assert tokens_of(only_written) == TokenCounts(40, None, cache_write=5)


def test_cache_writes_known_only_by_their_time_to_live_are_added() -> None:
    """The parts make the whole where the whole is not named."""
    usage = {
        "input_tokens": 3,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
    }
    assert tokens_of(usage) == TokenCounts(33, cache_write=30, cache_write_1h=20)


@pytest.mark.parametrize(
    "details", [{"input_tokens_details": {"cached_tokens": 60}}, {"prompt_tokens": 100}]
)
def test_caches_inside_the_input_are_not_added_again(details: dict[str, Any]) -> None:
    """A proxy that has another vendor's names beside Anthropic's includes them."""
    usage = {"input_tokens": 100, "output_tokens": 40, "cache_read_input_tokens": 60, **details}
    assert tokens_of(usage)[:2] == (100, 40)


@pytest.mark.parametrize(
    ("prompt", "completion", "reasoning", "total", "output"),
    [
        (100, 20, 30, 150, 50),  # outside
        (100, 50, 30, 150, 50),  # inside
        (100, 50, 30, 175, 50),  # the total explains neither
        (100, 0, 30, 130, 30),
        (100, None, 30, 130, 30),
        (100, 20, 0, 120, 20),
        (100, 20, 30, None, 20),
        (None, 20, 30, 50, 20),
    ],
)
def test_reasoning_is_added_only_if_the_total_proves_it(
    prompt: int | None, completion: int | None, reasoning: int, total: int | None, output: int
) -> None:
    """Most vendors count it in the output, some beside it."""
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    assert tokens_of({"usage": usage}) == TokenCounts(prompt, output, total, reasoning=reasoning)


@pytest.mark.parametrize("reverse", [False, True])
def test_number_wins_over_the_zero_of_another_family(*, reverse: bool) -> None:
    """Field by field, whatever the order of the names."""
    usage = {
        "prompt_tokens": 0,
        "completion_tokens": 30,
        "total_tokens": 330,
        "input_tokens": 300,
        "output_tokens": 0,
    }
    if reverse:
        usage = dict(reversed(usage.items()))
    assert tokens_of(usage) == TokenCounts(300, 30, 330)


def test_empty_usage_does_not_hide_other_counts() -> None:
    """Counts outside the usage object are read."""
    counts = {"prompt_token_count": 100, "completion_token_count": 40}
    assert tokens_of({"usage": {}, **counts}) == TokenCounts(100, 40)
    assert tokens_of({"usage": None, **counts}) == TokenCounts(100, 40)


def test_inner_usage_does_not_count_beside_the_outer_one() -> None:
    """An agent's result has its own sum, and the last response as well."""
    inner = {"usage": {"input_tokens": 3, "output_tokens": 1}, "model": "m"}
    outer = {"usage": {"input_tokens": 30, "output_tokens": 10}, "response": inner}
    for value in (outer, dict(reversed(outer.items()))):
        answer = answer_of(value)
        assert answer.tokens == TokenCounts(30, 10)
        assert answer.model == "m"


@pytest.mark.parametrize(
    ("details", "read", "reasoning"),
    [
        ({"audio": 4, "cache_read": 3}, 3, None),
        ({"audio": 4, "flex_cache_read": 3, "priority_reasoning": 2}, 3, 2),
    ],
)
def test_langchains_details_are_read(
    details: dict[str, int], read: int, reasoning: int | None
) -> None:
    """Their names may have the tier in front."""
    counts = tokens_of({"input_tokens": 9, "output_tokens": 5, "input_token_details": details})
    assert counts == TokenCounts(9, 5, None, read, None, reasoning, input_by=(("audio", 4),))


def test_modalities_that_exceed_their_whole_are_dropped() -> None:
    """They are of an earlier object."""
    first = {"input_tokens": 50, "input_token_details": {"audio_tokens": 40}}
    assert tokens_of(first).input_by == (("audio", 40),)
    assert tokens_of(first, {"input_tokens": 10}).input_by == ()


# ---- merging


def test_later_object_overrides_only_what_it_names() -> None:
    """A chunk may have the output alone."""
    first = {"input_tokens": 10, "cache_read_input_tokens": 512, "output_tokens": 1}
    assert tokens_of(first, {"output_tokens": 5}) == TokenCounts(522, 5, None, 512)
    assert tokens_of(first, {"cache_read_input_tokens": 0}) == TokenCounts(10, 1, None, 0)


def test_cumulative_counts_are_not_summed() -> None:
    """The last one is the whole."""
    chunks = [
        {"usage_metadata": {"prompt_token_count": 9, "candidates_token_count": 10 * number}}
        for number in range(1, 60)
    ]
    assert tokens_of(*chunks) == TokenCounts(9, 590)


def test_thoughts_of_an_earlier_chunk_stay() -> None:
    """The last chunk may be silent on them; its total includes them."""
    first = {"promptTokenCount": 5, "thoughtsTokenCount": 60, "totalTokenCount": 65}
    last = {"promptTokenCount": 5, "candidatesTokenCount": 7, "totalTokenCount": 72}
    chunks = [{"usageMetadata": first}, {"usageMetadata": last}]
    assert tokens_of(*chunks) == TokenCounts(5, 67, 72, reasoning=60)


def test_another_vendors_response_replaces_the_sums() -> None:
    """A fallback in the same block: its output includes the reasoning that is no longer outside."""
    google = {"usageMetadata": {"candidatesTokenCount": 5, "thoughtsTokenCount": 60}}
    assert tokens_of(google, CHAT) == TokenCounts(10, 4, 14, reasoning=60)
    anthropic = {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 100}
    assert tokens_of(anthropic, CHAT) == TokenCounts(10, 4, 14, 100)


def test_total_of_an_earlier_object_is_dropped() -> None:
    """It was that of fewer tokens."""
    assert tokens_of(CHAT, {"completion_tokens": 9}) == TokenCounts(10, 9)
    assert tokens_of(CHAT, {"completion_tokens": 4}) == TokenCounts(10, 4, 14)


def test_finish_reasons_of_a_stream_are_kept_by_choice() -> None:
    """They come in different chunks, in any order."""
    chunks = [
        {"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"choices": []},
    ]
    assert answer_of(*chunks).finish_reasons == ("stop", "length")


def test_finish_reasons_of_a_whole_response_replace_earlier_ones() -> None:
    """A second response may have fewer choices."""
    two = {"choices": [{"finish_reason": each, "message": {}} for each in ("length", "length")]}
    assert answer_of(two, CHAT).finish_reasons == ("stop",)


def test_bedrocks_stream_is_read() -> None:
    """Its events are keyed by their type."""
    answer = answer_of(
        {"messageStart": {"role": "assistant"}},
        {"contentBlockDelta": {"delta": {"text": "x"}, "contentBlockIndex": 0}},
        {"messageStop": {"stopReason": "max_tokens"}},
        {"metadata": {"usage": {"inputTokens": 3, "outputTokens": 5, "totalTokens": 8}}},
    )
    assert answer == Answer(TokenCounts(3, 5, 8), finish_reasons=("max_tokens",))


def test_anthropics_stream_is_read() -> None:
    """The last event may repeat the input side, which is not added."""
    usage = {"input_tokens": 10, "cache_read_input_tokens": 512, "output_tokens": 1}
    answer = answer_of(
        {"type": "message_start", "message": {"model": "claude-x", "usage": usage}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens"},
            "usage": {**usage, "output_tokens": 7},
        },
    )
    assert answer == Answer(TokenCounts(522, 7, None, 512), "claude-x", ("max_tokens",))


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_status_of_a_running_response_is_no_finish_reason(status: str) -> None:
    """The event ``response.created`` has such a status."""
    event = {"type": "response.created", "response": {"object": "response", "status": status}}
    assert answer_of(event).finish_reasons == ()
    done = {"response": {"object": "response", "status": "completed"}}
    assert answer_of(event, done).finish_reasons == ("completed",)


# ---- lists


def test_list_of_responses_is_summed() -> None:
    """Each is a whole answer."""
    answer = answer_of([CHAT, "text", CHAT][::2])
    assert answer == Answer(TokenCounts(20, 8, 28), "gpt-x", ("stop", "stop"))


def test_metrics_at_the_end_of_a_stream_of_bedrock_are_read() -> None:
    """Whatever the model, and beside the usage of Anthropic's events."""
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 12}}}
    metrics = {"inputTokenCount": 12, "outputTokenCount": 34, "cacheReadInputTokenCount": 90}
    end = {"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics}
    for chunks in ((start, end), (end,)):
        assert answer_of(*chunks).tokens == TokenCounts(102, 34, cache_read=90)


def test_list_with_an_answer_without_usage_says_so() -> None:
    """Its sum is known, and not all of it; what is no answer is not missing."""
    silent = {"model": "m", "choices": [{"finish_reason": "stop"}], "usage": None}
    reading = Reading()
    assert reading.read([CHAT, silent])
    assert reading.answer().tokens.input == CHAT["usage"]["prompt_tokens"]
    assert reading.unread is not None
    assert reading.unread.reason == "no_usage"
    assert reading.read([CHAT, {"role": "user", "content": "Hello"}])
    assert reading.unread is None


def test_answers_of_a_long_list_are_billed_by_their_terms() -> None:
    """So that an event stays small."""
    other = {**CHAT, "model": "other", "usage": {**CHAT["usage"], "cost": 0.5}}
    reading = Reading()
    reading.read([CHAT, other] * 200)
    assert [(each.model, each.tokens.input, each.cost) for each in reading.answers()] == [
        ("gpt-x", 2_000, None),
        ("other", 2_000, 100.0),
    ]
    assert reading.answer().tokens.input == 4_000


def test_response_beside_a_text_is_read() -> None:
    """As a decorated function may return both."""
    for answer in (("Blue.", CHAT), (CHAT, "Blue.", None)):
        assert Reading().read(answer)


def test_total_of_zero_beside_counts_is_unknown() -> None:
    """Some servers fill it in; a budget would never end with it."""
    usage = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 0}
    assert answer_of({"usage": usage}).tokens == TokenCounts(10, 4)
    zeros = dict.fromkeys(usage, 0)
    assert answer_of({"usage": zeros}).tokens == TokenCounts(0, 0, 0)


def test_list_too_long_to_be_read_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sum is that of a part."""
    monkeypatch.setattr(_objects, "_MAX_ITEMS", 3)
    reading = Reading()
    assert reading.read([CHAT] * 4)
    assert reading.answer().tokens.input == 30
    assert reading.unread is not None
    assert reading.read([CHAT] * 3)
    assert reading.unread is None


def test_list_with_messages_of_the_user_is_summed() -> None:
    """Those have no usage."""
    question = {"content": "x", "role": "user"}
    assert tokens_of([question, CHAT, question, CHAT]) == TokenCounts(20, 8, 28)


def test_list_of_chunks_is_merged() -> None:
    """Their counts are cumulative."""
    chunks = [
        {
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {}, "finish_reason": None}],
            "usage": {"prompt_tokens": 5, "completion_tokens": number},
        }
        for number in range(1, 5)
    ]
    assert tokens_of(chunks) == TokenCounts(5, 4)


def test_cost_of_a_list_is_known_if_all_are() -> None:
    """A part of it would stand for the whole."""
    priced = {"usage": {"prompt_tokens": 1, "cost": 0.25}}
    assert answer_of([priced, priced]).cost == 0.5
    assert answer_of([priced, {"usage": {"prompt_tokens": 1}}]).cost is None


def test_long_list_of_numbers_is_not_searched() -> None:
    """An embedding, for example."""
    reading = Reading()
    assert not reading.read([0.5] * 1_000_000)
    assert reading.unread is not None
    assert reading.unread.reason == "not_understood"


# ---- other values


@pytest.mark.parametrize("tier", ["default", "auto", "standard", "on_demand", "DEFAULT"])
def test_usual_tier_has_one_name(tier: str) -> None:
    """It changes no price, but says that the asked tier was not used."""
    assert answer_of({**CHAT, "service_tier": tier}).service_tier == "default"


def test_tier_is_in_lower_case() -> None:
    """As the price list has it."""
    assert answer_of({**CHAT, "service_tier": "Priority"}).service_tier == "priority"
    assert answer_of({**CHAT, "serviceTier": {"type": "flex"}}).service_tier == "flex"


@pytest.mark.parametrize(
    ("cost", "usd"),
    [
        (0.25, 0.25),
        (Decimal("0.25"), 0.25),
        (0, 0.0),
        ({"total_cost": 0.25, "input_tokens_cost": 0.2}, 0.25),
        ("0.25", None),
        (-1, None),
        (float("nan"), None),
        (True, None),
    ],
)
def test_reported_cost_is_read(cost: Any, usd: float | None) -> None:
    """A number, or Perplexity's object."""
    assert answer_of({"usage": {"prompt_tokens": 1, "cost": cost}}).cost == usd


def test_cost_without_counts_is_not_the_answers() -> None:
    """Any object may have an attribute of this name."""
    assert answer_of({"cost": 5, "model": "m"}).cost is None


@pytest.mark.parametrize(
    "line",
    [
        {"custom_id": "1", "error": {"code": "x"}, "response": None},
        {"custom_id": "1", "response": {"status_code": 500, "body": CHAT}},
        {"custom_id": "1", "result": {"type": "errored", "error": {"type": "x"}}},
    ],
)
def test_failed_line_of_a_batch_has_no_usage(line: dict[str, Any]) -> None:
    """It was not billed."""
    reading = Reading()
    assert not reading.read(line)
    assert reading.unread is not None
    assert reading.unread.reason == "no_usage"


class FinishReason(enum.StrEnum):
    """As in Google's package."""

    MAX_TOKENS = "MAX_TOKENS"


class NumberedReason(enum.IntEnum):
    """As in the older Vertex package."""

    FINISH_REASON_UNSPECIFIED = 0
    SAFETY = 3


@pytest.mark.parametrize(
    ("response", "reasons"),
    [
        ({"finish_reason": " stop "}, ("stop",)),
        ({"candidates": [{"finish_reason": FinishReason.MAX_TOKENS}]}, ("MAX_TOKENS",)),
        ({"candidates": [{"finish_reason": NumberedReason.SAFETY}]}, ("SAFETY",)),
        ({"candidates": [{"finish_reason": NumberedReason.FINISH_REASON_UNSPECIFIED}]}, ()),
        ({"choices": [{"finish_reason": "stop", "stop_reason": "</s>"}]}, ("stop",)),
        ({"object": "batch", "status": "completed"}, ()),
        ({"finish_reason": 7, "choices": [None, 7, {}]}, ()),
    ],
)
def test_finish_reason_is_read(response: dict[str, Any], reasons: tuple[str, ...]) -> None:
    """An enum becomes its text."""
    assert answer_of(response).finish_reasons == reasons


def test_unreadable_enum_is_absent() -> None:
    """Even an enum can raise."""

    class Broken(enum.Enum):
        ONE = 1

        @property
        def value(self) -> Any:
            raise RuntimeError

    assert answer_of({"finish_reason": Broken.ONE}).finish_reasons == ()


@pytest.mark.parametrize("name", ["model", "model_version", "modelVersion", "model_name"])
def test_model_is_read(name: str) -> None:
    """Each vendor's name for it is known."""
    assert answer_of({name: "gpt-x", "id": "7"}).model == "gpt-x"
    assert answer_of({"model": object(), name: "gpt-x"}).model == "gpt-x"
