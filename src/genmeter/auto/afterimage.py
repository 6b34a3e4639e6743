"""AfterImage's calls: its monitor records them, so what else watches the clients inside counts only the rest.

AfterImage reports a call after its end, so no block of ours is open around it. Here the methods of its
providers become such blocks. They check the gate first, since the monitor hears of a call too late for that.
AfterImage's generators catch every exception and try again, for ever if a budget is spent. So a refused call
of theirs is cancelled, which ends the generator in its own way, and the error is raised at the end of that.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import wrapt

from genmeter.errors import BudgetError
from genmeter.events.values import UNREADABLE
from genmeter.observed import blocks, gate
from genmeter.observed.observer import process_observer
from genmeter.observed.reported import ReportedBlock
from genmeter.spans.monitors import process_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

__all__ = ["install"]

_PROVIDERS = ("afterimage.providers.llm_providers", "afterimage.providers.local_provider")
_GENERATORS = (
    *("afterimage.structured_generator", "afterimage.conversation_generator"),
    *("afterimage.preference.generator", "afterimage.agent_trace.generator"),
)
_MARK = "_is_replaced_by_genmeter"
_METHODS = frozenset(
    {
        *("generate_content", "agenerate_content", "generate_structured", "agenerate_structured"),
        *("send_message", "asend_message"),
    }
)


class _Generation:
    """A generator's run; ``error`` is that of the first call that was refused."""

    def __init__(self) -> None:
        self.error: BudgetError | None = None


_generation: ContextVar[_Generation | None] = ContextVar("genmeter_afterimage", default=None)


def install() -> None:
    """Have AfterImage's calls counted once, and refused by the gate, once it is imported."""
    for module in _PROVIDERS:
        wrapt.register_post_import_hook(_wrap_providers, module)
    for module in _GENERATORS:
        wrapt.register_post_import_hook(_wrap_generators, module)


def _wrap_providers(module: ModuleType) -> None:
    _wrap(module, _METHODS, _reported)


def _wrap_generators(module: ModuleType) -> None:
    _wrap(module, frozenset({"generate"}), _ended_by_budget)


def _wrap(
    module: ModuleType,
    names: frozenset[str],
    make: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Replace methods of the classes that a module defines; each once, in one process."""
    for kind in list(vars(module).values()):
        if not isinstance(kind, type) or kind.__module__ != module.__name__:
            continue
        for name in names & vars(kind).keys():
            method = vars(kind)[name]
            if inspect.isfunction(method) and not hasattr(method, _MARK):
                replacement = make(method)
                setattr(replacement, _MARK, True)
                setattr(kind, name, replacement)


def _reported(method: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            with ExitStack() as stack:
                try:
                    stack.enter_context(gate.let_in())
                except BudgetError as error:
                    generation = _generation.get()
                    if generation is None:
                        raise
                    generation.error = generation.error or error
                    raise asyncio.CancelledError from error
                with _block():
                    return await method(*args, **kwargs)

        return call_async

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with gate.let_in(), _block():
            return method(*args, **kwargs)

    return call


def _ended_by_budget(method: Callable[..., Any]) -> Callable[..., Any]:
    if not inspect.iscoroutinefunction(method):
        return method

    @functools.wraps(method)
    async def generate(*args: Any, **kwargs: Any) -> Any:
        generation = _Generation()
        token = _generation.set(generation)
        try:
            result = await method(*args, **kwargs)
        except asyncio.CancelledError:
            if generation.error is None:
                raise
        finally:
            _generation.reset(token)
        if generation.error is not None:
            raise generation.error
        return result

    return generate


@contextmanager
def _block() -> Iterator[None]:
    block = ReportedBlock(blocks.current())
    before = blocks.enter(block)
    try:
        yield
    finally:
        blocks.leave(block, before)
        if block.end():
            with suppress(*UNREADABLE):
                observer = process_observer() or process_monitor().observer
                observer.await_report(block)
