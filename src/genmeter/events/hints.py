"""Finds what a caller has probably got wrong, and says what to write instead, once for each kind.

The data stay as they are: a keyword that is near a known one is the caller's own data, and a duration
that looks like milliseconds counts as seconds.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Protocol

from genmeter.events.afterimage import KNOWN_KEYWORDS
from genmeter.events.model import Reason
from genmeter.events.values import safe_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from genmeter.events.answers import Unread
    from genmeter.events.model import Call, CallDefaults

__all__ = ["SUSPICIOUS_SECONDS", "Hints", "Notice"]

SUSPICIOUS_SECONDS = 200.0
"""Durations from here on may be milliseconds."""
_IMPLAUSIBLE_SECONDS = 3 * 3_600.0
_IN_A_ROW = 10
_MAX_GAP = 1.0  # seconds between calls
_MAX_NAMES = 4_096
_NEAR = 0.85  # of difflib's ratio; "prompt_token_cout" is at 0.97
_SHORTEST = 5  # letters; below, everything is near everything
_OTHER_NAMES = {
    "model": "model_name",
    "model_id": "model_name",
    "request_model": "model_name",
    "prompt_tokens": "prompt_token_count",
    "input_tokens": "prompt_token_count",
    "input_token_count": "prompt_token_count",
    "n_prompt_tokens": "prompt_token_count",
    "tokens_in": "prompt_token_count",
    "completion_tokens": "completion_token_count",
    "output_tokens": "completion_token_count",
    "output_token_count": "completion_token_count",
    "candidates_token_count": "completion_token_count",
    "n_completion_tokens": "completion_token_count",
    "tokens_out": "completion_token_count",
    "total_tokens": "total_token_count",
    "token_count": "total_token_count",
    "tokens": "total_token_count",
    "cached_tokens": "cache_read_token_count",
    "cache_read_tokens": "cache_read_token_count",
    "cache_read_input_tokens": "cache_read_token_count",
    "cached_content_token_count": "cache_read_token_count",
    "cache_write_tokens": "cache_write_token_count",
    "cache_creation_tokens": "cache_write_token_count",
    "cache_creation_input_tokens": "cache_write_token_count",
    "reasoning_tokens": "reasoning_token_count",
    "thoughts_token_count": "reasoning_token_count",
    "stop_reason": "finish_reason",
    "exception": "error",
    "usd": "cost",
    "cost_usd": "cost",
    "price": "cost",
    "response_cost": "cost",
}
"""What other libraries call the keywords of ``track_generation``."""


class Notice(Protocol):
    """Counts something and logs its first occurrence."""

    def __call__(self, reason: Reason | None, key: str, message: str, *arguments: object) -> None:
        """Count a value that is probably wrong, and log the message once for each key.

        Args:
            reason: The reason to count; None if another metric counts it.
            key: What distinguishes it.
            message: The message, with ``%s`` for each argument.
            *arguments: The arguments of the message.
        """


class Hints:
    """The hints of a process. Not thread-safe: the drain's lock guards it.

    Args:
        notice: Counts and logs.
    """

    def __init__(self, notice: Notice) -> None:
        self._notice = notice
        self._right_names: dict[str, str | None] = {}

    def check_keywords(self, names: Iterable[str]) -> None:
        """Look for the names that other libraries use, and for misspellings."""
        for name in names:
            right = self._right_name(name)
            if right is not None:
                self._notice(
                    Reason.MISNAMED,
                    f"keyword {name}",
                    "%s= is kept as data of the call and counts nothing; did you mean %s=? (logged "
                    "once, then only counted in genmeter_monitor_events_total)",
                    name,
                    right,
                )

    def check_unit(self, duration: float, time: float, defaults: CallDefaults) -> None:
        """Look for a duration in milliseconds.

        Args:
            duration: At least :data:`SUSPICIOUS_SECONDS`.
            time: Unix time of the call's end.
            defaults: Those of its monitor.
        """
        # A call cannot have begun long before the monitor; many at once may end within a second.
        is_possible = duration <= time - defaults.created
        is_close = time - defaults.last_time < _MAX_GAP or not defaults.suspicious
        defaults.suspicious = 0 if is_possible or not is_close else defaults.suspicious + 1
        defaults.last_time = time
        if duration > _IMPLAUSIBLE_SECONDS or defaults.suspicious >= _IN_A_ROW:
            self._notice(
                None,
                "milliseconds",
                "duration=%s looks like milliseconds; track_generation takes seconds, so divide it "
                "by 1000 (logged once)",
                duration,
            )

    def note_unread(self, unread: Unread, call: Call) -> None:
        """Report a call whose usage is unknown."""
        self._notice(
            None,
            f"unread {unread.reason} {unread.shown}",
            f"the token usage of a call of %s is unknown: {_REMEDIES.get(unread.reason, '%s')}; it "
            "counts as unknown, not as 0, in genmeter_usage_unread_total and calls_without_usage "
            "(logged once for each kind)",
            "an unknown model" if call.model == _UNKNOWN else call.model,
            unread.shown,
        )

    def _right_name(self, name: str) -> str | None:
        if name in self._right_names:
            return self._right_names[name]
        shown = safe_text(name, 64) or ""
        lower = shown.lower()
        right = _OTHER_NAMES.get(lower)
        if right is None and len(lower) >= _SHORTEST:
            near = difflib.get_close_matches(lower, KNOWN_KEYWORDS, 1, _NEAR)
            right = near[0] if near else None
        if len(self._right_names) < _MAX_NAMES:
            self._right_names[name] = right
        return right


_UNKNOWN = "unknown"  # the label of a model that is not known
_REMEDIES = {
    "not_reported": "nothing was reported%.0s; pass the response to usage(), or "
    "prompt_token_count= and completion_token_count=",
    "no_usage": "its response (%s) has no usage; ask the server for it, for example by "
    'stream_options={"include_usage": True}',
    "not_understood": "an object of the type %s has no usage that is understood; pass "
    "prompt_token_count= and completion_token_count= to usage()",
    "stream": "usage() got a stream (%s), which it does not read; iterate over "
    "call.stream(stream) instead",
    "not_in_span": "the span of %s has no token counts; OpenAI and servers of its kind send those of a "
    'stream only with stream_options={"include_usage": True}, and some instrumentations leave them out '
    "(docs/spans.md)",
    "not_a_count": "the span of %s, which is no count of tokens; report it to whoever writes the span",
    "stream_left": "its stream was left before it said its usage (%s)",
    "keywords": "usage() has no keyword %s; use prompt_token_count= and completion_token_count=",
}
