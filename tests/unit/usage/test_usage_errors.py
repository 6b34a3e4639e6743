"""What exceptions say of answers that were billed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from _hostile import VALUES, Raising, RaisingError

from genmeter.events.answers import TokenCounts
from genmeter.usage.reading import read_error

COMPLETION: dict[str, Any] = {
    "model": "gpt-x",
    "choices": [{"index": 0, "finish_reason": "length", "message": {"content": "a"}}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
}
TOKENS = TokenCounts(10, 4, 14)


class Failure(Exception):  # noqa: N818 - the vendors' classes have their own names
    """An exception with any attributes."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("the answer was of no use")
        self.__dict__.update(attributes)


@pytest.mark.parametrize(
    "name",
    [
        *("completion", "response", "last_completion", "raw_response", "body", "usage_metadata"),
        *("result", "partial", "_answer", "message", "data"),
    ],
)
def test_attribute_with_a_response_is_read(name: str) -> None:
    """Whatever the class calls it."""
    value = COMPLETION["usage"] if name == "usage_metadata" else COMPLETION
    (reading,) = read_error(Failure(code=7, **{name: value}))
    assert reading.answer().tokens == TOKENS
    if name != "usage_metadata":
        assert reading.answer().model == "gpt-x"
        assert reading.answer().finish_reasons == ("length",)


@pytest.mark.parametrize("outer", ["run_data", "response", "details"])
@pytest.mark.parametrize("inner", ["completion", "usage", "last_completion", "context_wrapper"])
def test_response_within_an_attribute_is_read(outer: str, inner: str) -> None:
    """As in the Agents SDK: ``run_data.context_wrapper.usage``."""
    value = COMPLETION["usage"] if inner == "usage" else COMPLETION
    if outer == "details":
        outer = "any_name"  # `details` are those of a text generation
    (reading,) = read_error(Failure(**{outer: SimpleNamespace(**{inner: value})}))
    assert reading.answer().tokens == TOKENS


def test_sum_of_all_attempts_stands_for_them() -> None:
    """As in instructor: with the model and the finish reason of the last one."""
    usage = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}
    attempts = [SimpleNamespace(attempt_number=1, completion=COMPLETION)]
    (reading,) = read_error(
        Failure(total_usage=usage, last_completion=COMPLETION, failed_attempts=attempts)
    )
    answer = reading.answer()
    assert answer.tokens == TokenCounts(30, 12, 42)
    assert answer.model == "gpt-x"
    assert answer.finish_reasons == ("length",)


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 0, "completion_tokens": 0}])
def test_attempts_are_read_without_a_sum(usage: Any) -> None:
    """Each is an answer of its own; without them, the last one alone."""
    attempt = SimpleNamespace(attempt_number=1, completion=COMPLETION)
    empty = SimpleNamespace(attempt_number=2, completion=None)
    error = Failure(total_usage=usage, failed_attempts=[attempt, empty, attempt])
    assert [each.answer().tokens for each in read_error(error)] == [TOKENS, TOKENS]
    error = Failure(total_usage=usage, last_completion=COMPLETION, failed_attempts=None)
    assert [each.answer().tokens for each in read_error(error)] == [TOKENS]


def test_cause_is_read() -> None:
    """A job wraps its client's errors."""
    wrapped = ValueError("wrapped")
    wrapped.__cause__ = RuntimeError("again")
    wrapped.__cause__.__cause__ = Failure(completion=COMPLETION)
    assert [each.answer().tokens for each in read_error(wrapped)] == [TOKENS]


def test_context_is_not_read() -> None:
    """It may be an error that was handled, whose answer is reported already."""
    error = ValueError("another")
    error.__context__ = Failure(completion=COMPLETION)
    assert read_error(error) == []


def test_circle_of_causes_ends() -> None:
    """It can be built by hand."""
    error = ValueError("x")
    error.__cause__ = error
    assert read_error(error) == []


def test_each_exception_of_a_group_is_read() -> None:
    """Tasks that failed together."""
    group = ExceptionGroup(
        "x", [Failure(completion=COMPLETION), ValueError(), Failure(body=COMPLETION)]
    )
    assert [each.answer().tokens for each in read_error(group)] == [TOKENS, TOKENS]


def test_body_that_was_not_read_is_left_alone() -> None:
    """Reading it would ask the network."""

    class Response:
        @property
        def content(self) -> bytes:
            raise AssertionError("read from the network")

        def iter_bytes(self) -> Any:
            raise AssertionError("read from the network")

        json = text = content

    assert read_error(Failure(response=Response(), stream=iter([COMPLETION]))) == []


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), RaisingError(), Failure(usage=None)]
)
def test_exception_without_usage_has_no_reading(error: BaseException) -> None:
    """Most have none."""
    assert read_error(error) == []


@pytest.mark.parametrize("name", VALUES)
def test_any_attribute_is_read_without_harm(name: str) -> None:
    """An exception may carry anything."""
    value = VALUES[name]
    attributes = dict.fromkeys(["total_usage", "last_completion", "failed_attempts", "x"], value)
    assert read_error(Failure(**attributes)) == []


def test_exception_whose_attributes_raise_is_read_without_harm() -> None:
    """Such as a proxy."""

    class Hostile(Exception):  # noqa: N818 - as above
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    assert read_error(Hostile()) == []
    assert read_error(Raising()) == []
