"""Which call of a framework the running code is a part of, where the framework reports its calls later.

A framework such as LiteLLM reports a call after its end, on other threads: by then no block of ours can be open
around it, and of a call without tokens and without an id only its times are left. So its hook has the
functions that make a call run in :func:`entered`. Whatever observes something inside, such as the client that
sends the request, notes :func:`current` as it begins, and the hook's own report has the same identity.

An identity is never that of two calls made by the job; the attempts and the observations of one may share it.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OUTSIDE", "CallIdentity", "current", "current_or_outside", "entered"]


class CallIdentity:
    """One call of a framework, compared by ``is``."""

    __slots__ = ()


OUTSIDE = CallIdentity()
"""That of every call that is certainly no part of such a call."""
_current: ContextVar[CallIdentity | None] = ContextVar("genmeter_identity", default=None)


@contextmanager
def entered() -> Iterator[None]:
    """Give what runs inside an identity of its own, also if that of another call is around it."""
    token = _current.set(CallIdentity())
    try:
        yield
    finally:
        _current.reset(token)


def current() -> CallIdentity | None:
    """Return the identity of the innermost such call; None without one."""
    return _current.get()


def current_or_outside() -> CallIdentity:
    """Return the same, for what would be inside if there were one around it."""
    return _current.get() or OUTSIDE
