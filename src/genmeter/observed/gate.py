"""The gate that a call passes before it is sent, where the job has a budget that refuses calls.

Whatever begins a call checks the gate first: the handle of a block, a framework's hook, a watched client,
an instrumentation's span. Without a guard, a check costs a comparison.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from genmeter.errors import BudgetError
from genmeter.pipeline.once import OnceLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["add_guard", "check", "is_guarded", "let_in", "remove_guard"]

_once = OnceLog()
_guards: tuple[Callable[[], object], ...] = ()


class _Pass:
    """That a call has passed the gate; what still has this context after its end begins others."""

    __slots__ = ("is_open",)

    def __init__(self) -> None:
        self.is_open = True


_pass: ContextVar[_Pass | None] = ContextVar("genmeter_pass", default=None)


def check() -> None:
    """Let a call begin, or refuse it.

    Raises:
        BudgetError: A budget of the job refuses the call.
    """
    passed = _pass.get()
    if passed is not None and passed.is_open:
        return
    guards = _guards
    _check(guards)
    if _guards is not guards:  # the one that makes a monitor has left its place to the monitor's
        _check([each for each in _guards if not any(each is before for before in guards)])


@contextmanager
def let_in() -> Iterator[None]:
    """Let a call begin, with all that is below it in the block, or refuse it.

    For the functions of frameworks that catch what is raised inside, as a client below would raise it.

    Raises:
        BudgetError: A budget of the job refuses the call.
    """
    check()
    passed = _Pass()
    token = _pass.set(passed)
    try:
        yield
    finally:
        passed.is_open = False
        _pass.reset(token)


def _check(guards: Iterable[Callable[[], object]]) -> None:
    for guard in guards:
        try:
            guard()
        except BudgetError:
            raise
        except Exception as error:
            # A guard that fails must not refuse the job's calls.
            _once.warn(str(type(error)), "calls are not checked against the budget: %r", error)


def is_guarded() -> bool:
    """Return whether calls may be refused."""
    return bool(_guards)


def add_guard(guard: Callable[[], object]) -> None:
    """Have each call that begins from now on checked.

    Args:
        guard: Raises the error of a call that it refuses; called on any thread.
    """
    global _guards  # noqa: PLW0603 - a setting of the process, replaced as a whole
    _guards = (*_guards, guard)


def remove_guard(guard: Callable[[], object]) -> None:
    """Undo :func:`add_guard`; does nothing if there is no such guard."""
    global _guards  # noqa: PLW0603 - a setting of the process, replaced as a whole
    _guards = tuple(each for each in _guards if each is not guard)
