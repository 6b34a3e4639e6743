"""What objects say together, and a response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genmeter.usage.reading import Reading

if TYPE_CHECKING:
    from genmeter.events.answers import Answer, TokenCounts

__all__ = ["CHAT", "answer_of", "tokens_of"]

CHAT: dict[str, Any] = {
    "object": "chat.completion",
    "model": "gpt-x",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "a"}}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
}


def answer_of(*objects: Any) -> Answer:
    """Return what the objects say together."""
    reading = Reading()
    for each in objects:
        reading.read(each)
    return reading.answer()


def tokens_of(*objects: Any) -> TokenCounts:
    """Return the counts that the objects say together."""
    return answer_of(*objects).tokens
