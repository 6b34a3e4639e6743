"""Logfire's two spans of a stream: the request, which ends with the headers, and a log at the end.

The second one is the call. Its duration is that of reading, so the call begins with the request if that
is found: the one of the same scope and model that ended when the reading began.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from genmeter.spans.reading import span_type

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from genmeter.observed.model import ObservedCall

__all__ = ["Openings", "is_opening"]

_MAX_OPENINGS = 1_000
_MAX_SECONDS = 3_600.0  # that a stream may take
_SLACK = 0.25  # seconds between the end of the request and the first read of the stream


class _Opening(NamedTuple):
    source: str
    model: str | None
    began: float
    ended: float


def is_opening(attributes: Mapping[str, Any], call: ObservedCall) -> bool:
    """Return whether a call is only the request of a stream, whose end is reported apart."""
    return (
        span_type(attributes) == "span"
        and call.keywords.get("operation") == "chat"
        and call.success
        and call.response_id is None
        and not call.details.answers
    )


class Openings:
    """The newest requests of streams. Appending and taking are atomic, so threads may share it."""

    def __init__(self) -> None:
        self._all: deque[_Opening] = deque(maxlen=_MAX_OPENINGS)

    def add(self, call: ObservedCall) -> None:
        """Remember the request of a stream."""
        with suppress(IndexError):  # another thread took it
            while self._all and call.ended - self._all[0].ended > _MAX_SECONDS:
                self._all.popleft()
        model = call.keywords.get("model_name")
        self._all.append(
            _Opening(call.source, model, call.ended - (call.duration or 0.0), call.ended)
        )

    def begun(self, call: ObservedCall) -> ObservedCall:
        """Return the call of a stream with the duration from its request on, if that is known."""
        if call.duration is None:
            return call
        read_from = call.ended - call.duration
        model = call.keywords.get("model_name")
        found = [
            each
            for each in tuple(self._all)
            if each.source == call.source
            and each.model == model
            and abs(each.ended - read_from) <= _SLACK
        ]
        if not found:
            return call
        nearest = min(found, key=lambda each: abs(each.ended - read_from))
        try:
            self._all.remove(nearest)
        except ValueError:  # another thread took it
            return call
        return call._replace(duration=max(call.duration, call.ended - nearest.began))
