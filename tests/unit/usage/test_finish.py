"""Which finish reasons mean a truncated answer."""

from __future__ import annotations

import pytest

from genmeter.usage.finish import is_truncated


@pytest.mark.parametrize(
    "reason",
    [
        *("length", "max_tokens", "MAX_TOKENS", "Length", "max_output_tokens", "model_length"),
        *("model_context_window_exceeded", "REASON_MAX_LEN"),
    ],
)
def test_every_spelling_of_truncation_is_known(reason: str) -> None:
    """In any case."""
    assert is_truncated(reason)


@pytest.mark.parametrize("reason", ["stop", "end_turn", "STOP", "completed", "", "tool_calls"])
def test_other_reasons_are_not_truncation(reason: str) -> None:
    """An answer that ended by itself is whole."""
    assert not is_truncated(reason)
