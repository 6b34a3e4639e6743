"""The finish reasons that mean a truncated answer."""

from __future__ import annotations

__all__ = ["TRUNCATED", "is_truncated"]

TRUNCATED = frozenset(
    {
        "length",  # OpenAI's chat and most others
        "max_tokens",  # Anthropic, Bedrock; Google and Cohere in upper case
        "max_output_tokens",  # OpenAI's responses
        "model_length",  # Mistral
        "model_context_window_exceeded",  # Anthropic, Bedrock
        "reason_max_len",  # xAI's own client
        "reason_max_context",
    }
)
"""Reasons in lower case."""


def is_truncated(reason: str) -> bool:
    """Return whether a vendor's finish reason means that the answer was cut off, in any case."""
    return reason.lower() in TRUNCATED
