"""The requests of streams whose end is reported apart, as logfire does: by a span, and a log at the end.

The log is the call. Its duration is that of reading, so the call begins with the request if that is
found: the one of the same scope and model that ended when the reading began. A request whose log never
comes is a call too: its stream was left, or goes on as the monitor ends.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from genmeter.events.answers import Unread

if TYPE_CHECKING:
    from collections.abc import Callable

    from genmeter.observed.model import ObservedCall

__all__ = ["Openings"]

_MAX_OPENINGS = 1_000
_SLACK = 0.25  # seconds between the end of the request and the first read of the stream


class _Opening(NamedTuple):
    call: ObservedCall
    began: float
    is_counted: bool

    def is_of(self, call: ObservedCall) -> bool:
        """Return whether it may be the request of a stream, by scope and model."""
        mine = self.call
        same = mine.keywords.get("model_name") == call.keywords.get("model_name")
        return same and mine.source == call.source


class Openings:
    """The newest requests of streams whose end has not come.

    Appending and taking are atomic, so threads may share it.
    """

    def __init__(self) -> None:
        self._all: deque[_Opening] = deque()

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, call: ObservedCall, *, is_counted: bool) -> ObservedCall | None:
        """Remember the request of a stream.

        Args:
            call: The request.
            is_counted: Whether it is a call of its own if its end never comes, rather than a block's.

        Returns:
            One whose place it takes, if that is a call of its own.
        """
        if call.node is not None and any(each.call.node is call.node for each in tuple(self._all)):
            return None  # of a processor that was added twice
        self._all.append(_Opening(call, call.ended - (call.duration or 0.0), is_counted))
        if len(self._all) <= _MAX_OPENINGS:
            return None
        try:
            oldest = self._all.popleft()
        except IndexError:  # other threads took them
            return None
        return _left(oldest.call) if oldest.is_counted else None

    def begun(self, call: ObservedCall) -> tuple[ObservedCall, bool]:
        """Return the call of a stream with the duration from its request on, and whether that is known."""
        if call.duration is None:
            return call, False
        read_from = call.ended - call.duration
        found = [
            each
            for each in tuple(self._all)
            if each.is_of(call) and each.call.ended <= read_from + _SLACK
        ]
        if not found:
            return call, False
        nearest = min(found, key=lambda each: abs(each.call.ended - read_from))
        is_known = abs(nearest.call.ended - read_from) <= _SLACK
        # Otherwise it was read later; of several such, it does not matter which one is taken.
        if not self._take(nearest if is_known else found[0]):
            return call, False  # another thread took it
        if is_known:
            call = call._replace(duration=max(call.duration, call.ended - nearest.began))
        return call, True

    def forget(self, is_reported: Callable[[ObservedCall], bool]) -> None:
        """Forget the requests of calls that something else reports as a whole."""
        for each in tuple(self._all):
            if is_reported(each.call):
                self._take(each)

    def take_all(self) -> list[ObservedCall]:
        """Return those whose end has not come, as calls of unknown usage, and forget them."""
        found = []
        while self._all:
            try:
                each = self._all.popleft()
            except IndexError:  # another thread took it
                break
            if each.is_counted:
                found.append(_left(each.call))
        return found

    def _take(self, opening: _Opening) -> bool:
        try:
            self._all.remove(opening)
        except ValueError:
            return False
        return True


def _left(call: ObservedCall) -> ObservedCall:
    details = call.details._replace(unread=Unread("stream_left", call.source))
    return call._replace(details=details)
