"""Token counts, finish reasons and model names from the responses of vendors' clients."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest

from genmeter.events.llm_usage import TokenCounts, read_finish_reason, read_model, read_usage

OPENAI_CHAT: dict[str, Any] = {
    "prompt_tokens": 100,
    "completion_tokens": 40,
    "total_tokens": 140,
    "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 5, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 30},
}
OPENAI_RESPONSES: dict[str, Any] = {
    "input_tokens": 100,
    "output_tokens": 40,
    "total_tokens": 140,
    "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 5},
    "output_tokens_details": {"reasoning_tokens": 30},
}
ANTHROPIC: dict[str, Any] = {
    "input_tokens": 35,
    "output_tokens": 40,
    "cache_read_input_tokens": 60,
    "cache_creation_input_tokens": 5,
    "service_tier": "standard",
}
GOOGLE: dict[str, Any] = {
    "prompt_token_count": 90,
    "tool_use_prompt_token_count": 10,
    "candidates_token_count": 10,
    "thoughts_token_count": 30,
    "cached_content_token_count": 60,
    "total_token_count": 140,
}
GOOGLE_JSON: dict[str, Any] = {
    "promptTokenCount": 90,
    "toolUsePromptTokenCount": 10,
    "candidatesTokenCount": 10,
    "thoughtsTokenCount": 30,
    "cachedContentTokenCount": 60,
    "totalTokenCount": 140,
}
AFTERIMAGE: dict[str, Any] = {
    "prompt_token_count": 100,
    "completion_token_count": 40,
    "total_token_count": 140,
}
USAGES = [
    pytest.param(OPENAI_CHAT, TokenCounts(100, 40, 140, 60, 5, 30), id="openai-chat"),
    pytest.param(OPENAI_RESPONSES, TokenCounts(100, 40, 140, 60, 5, 30), id="openai-responses"),
    pytest.param(ANTHROPIC, TokenCounts(100, 40, None, 60, 5, None), id="anthropic"),
    pytest.param(GOOGLE, TokenCounts(100, 40, 140, 60, None, 30), id="google"),
    pytest.param(GOOGLE_JSON, TokenCounts(100, 40, 140, 60, None, 30), id="google-json"),
    pytest.param(AFTERIMAGE, TokenCounts(100, 40, 140), id="afterimage"),
]


def as_object(value: Any) -> Any:
    """Convert a dict to an object with these attributes, at any depth."""
    if isinstance(value, dict):
        return SimpleNamespace(**{key: as_object(item) for key, item in value.items()})
    return value


class Raising:
    """Every attribute raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class RaisingMapping(Mapping[str, Any]):
    """A mapping that cannot be read."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(key)

    def __iter__(self) -> Any:
        raise RuntimeError

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("shape", [dict, as_object])
@pytest.mark.parametrize(("usage", "counts"), USAGES)
def test_usage_object_is_read(usage: dict[str, Any], counts: TokenCounts, shape: Any) -> None:
    """Every vendor's counts get the same meaning, from attributes and from keys."""
    assert read_usage(shape(usage)) == counts


@pytest.mark.parametrize("holder", ["usage", "usage_metadata", "usageMetadata"])
@pytest.mark.parametrize(("usage", "counts"), USAGES)
def test_response_with_a_usage_object_is_read(
    usage: dict[str, Any], counts: TokenCounts, holder: str
) -> None:
    """The response is an object or its JSON."""
    assert read_usage({holder: usage, "id": 7}) == counts
    assert read_usage(SimpleNamespace(**{holder: as_object(usage)}, text="x")) == counts


def test_empty_usage_does_not_hide_other_counts() -> None:
    """Counts outside the usage object are read."""
    assert read_usage({"usage": {}, **AFTERIMAGE}) == TokenCounts(100, 40, 140)
    assert read_usage({"usage": None, **AFTERIMAGE}) == TokenCounts(100, 40, 140)


def test_afterimages_response_is_read() -> None:
    """It has counts, reason and model."""

    @dataclass
    class CommonLLMResponse:
        text: str
        prompt_token_count: int
        completion_token_count: int
        total_token_count: int
        finish_reason: str
        model_name: str
        raw_response: Any

    response = CommonLLMResponse("hello", 3, 2, 5, "stop", "m", object())
    assert read_usage(response) == TokenCounts(3, 2, 5)
    assert read_finish_reason(response) == "stop"
    assert read_model(response) == "m"


def test_anthropics_input_includes_cached_tokens() -> None:
    """One kind of cached tokens is enough to add."""
    bare = {"input_tokens": 35, "output_tokens": 4, "cache_read_input_tokens": None}
    assert read_usage(bare) == TokenCounts(35, 4)
    only_written = {"input_tokens": 35, "cache_creation_input_tokens": 5}
    assert read_usage(only_written) == TokenCounts(40, None, cache_write=5)


def test_openais_cached_tokens_are_not_added_again() -> None:
    """A proxy that reports both vendors' names has included cached tokens already."""
    both = {**OPENAI_RESPONSES, "cache_read_input_tokens": 60}
    assert read_usage(both) == TokenCounts(100, 40, 140, 60, 5, 30)


def test_deepseeks_cached_tokens_are_found() -> None:
    """DeepSeek has them outside the details."""
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_cache_hit_tokens": 8}
    assert read_usage(usage) == TokenCounts(10, 2, cache_read=8)


def test_embedding_has_no_output() -> None:
    """A count that the vendor does not report is None."""
    assert read_usage({"prompt_tokens": 8, "total_tokens": 8}) == TokenCounts(8, None, 8)


def test_thoughts_without_an_answer_are_output() -> None:
    """Google omits the candidates if thinking used up the limit."""
    usage = {"prompt_token_count": 8, "thoughts_token_count": 100}
    assert read_usage(usage) == TokenCounts(8, 100, reasoning=100)


def test_count_of_zero_is_known() -> None:
    """Zero tokens are not absent."""
    assert read_usage({"prompt_tokens": 0, "completion_tokens": 0}) == TokenCounts(0, 0)


def test_numpy_integers_become_python_integers() -> None:
    """A sum of counts cannot overflow."""
    counts = read_usage(
        {"prompt_token_count": np.int8(100), "tool_use_prompt_token_count": np.int8(100)}
    )
    assert counts == TokenCounts(200)
    assert type(counts.input) is int


@pytest.mark.parametrize(
    "value", [True, 1.0, "7", None, [], float("nan"), Mock(), MagicMock(spec=int)]
)
def test_invalid_counts_are_absent(value: Any) -> None:
    """Booleans, text and mocks are not token counts."""
    assert read_usage({"prompt_tokens": value, "completion_tokens": 2}) == TokenCounts(None, 2)


def test_integer_that_raises_is_absent() -> None:
    """Other counts are still read."""

    class Hostile(int):
        def __int__(self) -> int:
            raise RuntimeError

    assert read_usage({"prompt_tokens": Hostile(3), "completion_tokens": 2}) == TokenCounts(None, 2)


NOTHING: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "text": lambda: "text",
    "bytes": lambda: b"bytes",
    "number": lambda: 7,
    "list": list,
    "dict": dict,
    "object": object,
    "class": lambda: SimpleNamespace,
    "raising": Raising,
    "raising mapping": RaisingMapping,
    "mock": Mock,
    "magic mock": MagicMock,
    "mock of a dict": lambda: MagicMock(spec=dict),
    "raising parts": lambda: {"usage": Raising(), "choices": Raising(), "candidates": 7},
    "wrong types": lambda: {"usage": "x", "choices": [], "model": 7, "finish_reason": 7},
    "empty parts": lambda: {"choices": [None], "candidates": [{}], "model": " ", "stop_reason": ""},
}


@pytest.mark.parametrize("name", NOTHING)
def test_other_objects_have_no_usage(name: str) -> None:
    """Reading any object returns None and never raises."""
    obj = NOTHING[name]()
    assert read_usage(obj) is None
    assert read_finish_reason(obj) is None
    assert read_model(obj) is None


class FinishReason(enum.StrEnum):
    """As in Google's package."""

    MAX_TOKENS = "MAX_TOKENS"


class NumberedReason(enum.IntEnum):
    """As in the older Vertex package."""

    SAFETY = 3


@pytest.mark.parametrize("shape", [lambda value: value, as_object])
@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ({"finish_reason": " stop "}, "stop"),
        ({"stop_reason": "end_turn", "content": []}, "end_turn"),
        ({"candidates": [], "choices": [{"finish_reason": "length"}]}, "length"),
        ({"candidates": [{"finish_reason": FinishReason.MAX_TOKENS}]}, "MAX_TOKENS"),
        ({"candidates": [{"finish_reason": NumberedReason.SAFETY}]}, "SAFETY"),
        ({"candidates": [{"finishReason": "STOP"}]}, "STOP"),
        ({"object": "response", "status": "completed", "incomplete_details": None}, "completed"),
        (
            {
                "object": "response",
                "status": "incomplete",
                "incomplete_details": {"reason": "max_output_tokens"},
            },
            "max_output_tokens",
        ),
        ({"object": "batch", "status": "completed"}, None),
    ],
)
def test_finish_reason_is_read(response: dict[str, Any], reason: str | None, shape: Any) -> None:
    """Each vendor's place is known, and an enum becomes its text."""
    assert read_finish_reason(shape(response)) == reason


def test_unreadable_enum_is_absent() -> None:
    """Even an enum can raise."""

    class Broken(enum.Enum):
        ONE = 1

        @property
        def value(self) -> Any:
            raise RuntimeError

    assert read_finish_reason({"finish_reason": Broken.ONE}) is None


@pytest.mark.parametrize("shape", [dict, as_object])
@pytest.mark.parametrize("name", ["model", "model_version", "modelVersion", "model_name"])
def test_model_is_read(name: str, shape: Any) -> None:
    """Each vendor's name for it is known."""
    assert read_model(shape({name: "gpt-x", "id": "7"})) == "gpt-x"


def test_invalid_model_does_not_hide_the_name() -> None:
    """If ``model`` is not a text, the next place is read."""
    assert read_model(SimpleNamespace(model=object(), model_name="m")) == "m"
