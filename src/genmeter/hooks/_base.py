"""What the hooks of frameworks share: when one is installed, and how its calls are recorded.

A hook is a :class:`FrameworkHook` in a module of its own, with :func:`install` and :func:`uninstall` of
the module bound to it. It does not import its framework: it connects itself when the job has imported it.
"""

from __future__ import annotations

import functools
import importlib
import math
import sys
from contextlib import suppress
from importlib import metadata
from time import perf_counter
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import wrapt

from genmeter import clock
from genmeter.call.handle import GenerationHandle
from genmeter.call.streams import MAX_TIMES
from genmeter.config.checks import instance_of, optional
from genmeter.errors import BudgetError
from genmeter.events.values import UNREADABLE, safe_text
from genmeter.fork_lock import ForkLock
from genmeter.hooks._registry import hooks
from genmeter.monitor import GenerationMonitor
from genmeter.observed import blocks
from genmeter.observed.hook import HookRecorder
from genmeter.observed.identity import current_or_outside
from genmeter.pipeline.once import OnceLog
from genmeter.spans.monitors import process_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from genmeter.call.streams import Flow
    from genmeter.hooks.frameworks import Framework
    from genmeter.observed.model import ObservedCall

__all__ = [
    "FrameworkHook",
    "HookBlock",
    "HookCall",
    "Unsupported",
    "open_block",
    "step_of",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_MAX_SHOWN = 200
_lock = ForkLock()  # never held during an import, nor while a monitor is made


class Unsupported(Exception):  # noqa: N818 - control flow, not an error
    """The framework lacks what a hook needs; the message names it."""


class FrameworkHook:
    """The hook of one framework.

    Installing it again replaces the monitor. Uninstalling restores what was there. A hook that steps
    aside stays so in its process: the job goes on, unobserved by it.

    Args:
        framework: Its row of the table.
        module: The module after whose import the hook connects itself.
        connect: Connects the hook to the imported module, and returns what disconnects it. Raises
            :class:`Unsupported`, or anything else, if the module is not as expected.

    Attributes:
        source: Of the calls, see ``ObservedCall.source``.
        aside: Why it has stepped aside; None if it has not.
    """

    def __init__(
        self,
        framework: Framework,
        *,
        module: str,
        connect: Callable[[ModuleType], Callable[[], object]],
    ) -> None:
        self._framework = framework
        self.source = framework.source
        self.aside: str | None = None
        self._module = module
        self._connect = connect
        self._disconnect: Callable[[], object] | None = None
        self._is_installed = self._is_registered = self._is_marking = False
        self._given: GenerationMonitor | None = None
        self._once = OnceLog()
        self._on_aside: list[Callable[[str], object]] = []
        hooks[framework.name] = self

    # --- installing ------------------------------------------------------------------------------

    def install(self, monitor: GenerationMonitor | None = None) -> None:
        """Record the framework's calls, from now on or from its import on.

        Args:
            monitor: Where they are recorded; None means the process's monitor.

        Raises:
            ConfigError: ``monitor`` is not a GenerationMonitor.
        """
        optional(instance_of(GenerationMonitor))("monitor", monitor)
        with _lock:
            self._is_installed = True
            self._given = monitor
            is_registered, self._is_registered = self._is_registered, True
        if self._module in sys.modules:
            with suppress(Exception):  # waits for another thread that is importing it
                importlib.import_module(self._module)
        if not is_registered:
            wrapt.register_post_import_hook(self._on_import, self._module)
        elif self._module in sys.modules:
            self._on_import(sys.modules[self._module])

    def uninstall(self) -> None:
        """Stop recording, and restore what was there; does nothing if nothing is installed."""
        with _lock:
            self._is_installed = False
            self._given = None
            disconnect, self._disconnect = self._disconnect, None
            is_marking, self._is_marking = self._is_marking, False
        if is_marking:
            blocks.stop_marking()
        if disconnect is not None:
            try:
                disconnect()
            except UNREADABLE as error:
                self.warn(f"what was there could not be restored: {safe_text(error, _MAX_SHOWN)}")

    def _on_import(self, module: ModuleType) -> None:
        """Connect the hook to its framework; an exception would fail the job's import."""
        with _lock:
            if not self._is_installed or self.aside is not None or self._disconnect is not None:
                return
        try:
            disconnect = self._connect(module)
        except UNREADABLE as error:
            self.step_aside(error)
            return
        with _lock:
            is_wanted = self._is_installed and self._disconnect is None
            if is_wanted:
                self._disconnect = disconnect
                self._is_marking = True
        if is_wanted:
            blocks.start_marking()
        else:
            with suppress(Exception):
                disconnect()

    @property
    def is_installed(self) -> bool:
        """Whether it records, or will once its framework is imported; or has stepped aside."""
        return self._is_installed

    @property
    def is_active(self) -> bool:
        """Whether it records: it is installed, connected, and has not stepped aside."""
        return self._is_installed and self.aside is None and self._disconnect is not None

    # --- what the framework is not like ----------------------------------------------------------

    def warn(self, missing: str) -> None:
        """Log a warning, once for each text, off this thread: what of the framework is not as expected."""
        self._once.warn(
            missing,
            "genmeter's hook of %s (%s): %s",
            self._framework.title,
            _Distribution(self._framework.package),
            missing,
        )

    def step_aside(self, error: BaseException) -> None:
        """Log once what was missing, and observe nothing more in this process."""
        is_known = type(error) is Unsupported
        text = safe_text(error, _MAX_SHOWN) or ""
        missing = text if is_known else f"{type(error).__name__}: {text}"
        self.aside = missing
        self.warn(f"{missing}; its calls are not recorded")
        while self._on_aside:
            with suppress(*UNREADABLE):
                self._on_aside.pop()(missing)

    def on_aside(self, function: Callable[[str], object]) -> None:
        """Have a function called with the reason if the hook steps aside; at once if it has."""
        if self.aside is not None:
            function(self.aside)
        else:
            self._on_aside.append(function)

    def guarded(self, function: Callable[_P, _R]) -> Callable[_P, _R | None]:
        """Return a callback that never raises, and does nothing once the hook is not active.

        The first exception is logged, and the others are dropped: the hook goes on, since one odd object
        need not be followed by others. Only what :meth:`begin` raises for a budget passes through.
        """

        @functools.wraps(function)
        def callback(*args: _P.args, **kwargs: _P.kwargs) -> _R | None:
            if not self.is_active:
                return None
            try:
                return function(*args, **kwargs)
            except BudgetError:
                raise
            except UNREADABLE as error:
                self.report(function.__name__, error)
                return None

        return callback

    def attempt(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Call a function of the hook's own; what it raises is logged once."""
        try:
            function(*args, **kwargs)
        except UNREADABLE as error:
            self.report(getattr(function, "__name__", "a callback"), error)

    def report(self, where: str, error: BaseException) -> None:
        """Log, once for each place and kind, an exception of the hook's own."""
        with suppress(*UNREADABLE):
            text = safe_text(error, _MAX_SHOWN)
            self.warn(f"{where} did not get what it expects ({type(error).__name__}: {text})")

    # --- recording -------------------------------------------------------------------------------

    @property
    def monitor(self) -> GenerationMonitor:
        """The monitor that records the calls: as given, else the process's, which is not kept alive."""
        return self._given or process_monitor()

    def begin(
        self,
        *,
        model: str | None = None,
        step: str | None = None,
        provider: str | None = None,
        operation: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        mark: HookBlock | None = None,
        is_marked: bool = True,
        is_gated: bool = True,
        has_context: bool = True,
    ) -> HookCall:
        """Begin a call.

        Args:
            model: As of ``monitor.generation``, like the four below.
            step: See there.
            provider: See there.
            operation: See there.
            metadata: See there.
            mark: As of :class:`HookCall`.
            is_marked: As there.
            is_gated: Whether a budget may refuse the call; False where the framework catches what a
                callback raises, so that the call would begin all the same.
            has_context: Whether what is made inside certainly has the context of the caller, with its mark.

        Raises:
            BudgetError: The process's budget is spent, where one is set.
        """
        # Where it is marked, what is made inside finds its block and so is no other call.
        identity = current_or_outside() if is_marked and has_context else None
        handle = GenerationHandle(
            HookRecorder(self.monitor, self.source, identity=identity),
            model=model,
            step=step,
            provider=provider,
            operation=operation,
            metadata=metadata,
        )
        handle.is_gated = is_gated
        return HookCall(handle, mark=mark, is_marked=is_marked)

    def observe(self, call: ObservedCall, block: blocks.Block | None = None) -> None:
        """Record a call that has ended; it is a part of a block of ours that is open around it.

        Args:
            call: The call.
            block: The block that was open where the call began; None: the one that is open here.
        """
        self.monitor.observer.observe_in(blocks.current() if block is None else block, call)


class _Distribution:
    """The name and version of a distribution, which is looked up for a log line only."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __str__(self) -> str:
        try:
            return f"{self._name} {metadata.version(self._name)}"
        except Exception:
            return f"{self._name} of an unknown version"


class HookBlock:
    """A block of ours whose end may come in a copy of the context that has its mark.

    The mark then stays where it was. So after its end the block stands for the one around it.

    Attributes:
        outer: The block of ours that was open where it began.
        ended: Unix time of its end, in seconds; infinite while it goes on.
    """

    __slots__ = ("__weakref__", "_began", "ended", "outer")

    def __init__(self, outer: blocks.Block | None) -> None:
        self.outer = outer
        self._began = clock.now()
        self.ended = math.inf

    @property
    def is_running(self) -> bool:
        """Whether it has not ended itself."""
        return self.ended == math.inf

    @property
    def period(self) -> tuple[float, float] | None:
        """Unix times of the beginning and the end, in seconds; None while it goes on."""
        return None if self.ended == math.inf else (self._began, self.ended)

    def belongs_to(self, monitor: object) -> bool:
        """Return whether it has calls of a monitor."""
        del monitor
        return False

    @property
    def is_open(self) -> bool:
        """Whether it or the block around it goes on."""
        return self.is_running or (self.outer is not None and self.outer.is_open)

    def observe(self, call: ObservedCall) -> bool:
        """Add what was observed inside; see ``blocks.Block``."""
        if self.is_running:
            return self._add(call)
        if call.ended - (call.duration or 0.0) < self.ended:
            return True  # of this block, which has been recorded without it
        return self.outer is not None and self.outer.observe(call)

    def _add(self, call: ObservedCall) -> bool:
        """Add it while the block goes on; as of a block that knows all itself."""
        del call
        return True


class HookCall(HookBlock):
    """A call that a framework reports by callbacks, which may come in other contexts or threads.

    It is a block of ours: what others observe inside completes its handle.

    Args:
        handle: Its handle, not entered yet.
        mark: The block that is marked in the current context, inside of the same one; None means the
            call itself.
        is_marked: Whether it is marked.

    Attributes:
        handle: As passed, entered.
        data: What a hook keeps of the call between callbacks.
    """

    __slots__ = ("_flow", "_mark", "_unended", "data", "handle")

    def __init__(
        self,
        handle: GenerationHandle,
        *,
        mark: HookBlock | None = None,
        is_marked: bool = True,
    ) -> None:
        super().__init__(open_block() if mark is None else mark.outer)
        self.handle = handle
        self.data: dict[str, Any] = {}
        self._unended = [True]  # taken by the one who ends the call; atomic
        self._flow: Flow | None = None
        self._mark = self if mark is None else mark
        handle.__enter__()
        handle.unmark()
        if is_marked and blocks.is_marking():
            blocks.enter(self._mark)

    def belongs_to(self, monitor: object) -> bool:
        """Return whether it is a call of this monitor."""
        return self.handle.belongs_to(monitor)

    def _add(self, call: ObservedCall) -> bool:
        return self.handle.observe(call)

    def unmark(self) -> None:
        """Take the mark back in the current context: what the caller does next is no part of the call.

        For a generator, whose consumer has its context, before it yields the first time.
        """
        blocks.leave(self._mark, self.outer)

    def chunk(self, chunk: Any = None) -> None:
        """Take the time of a chunk of the answer.

        Args:
            chunk: The vendor's, whose usage and finish reason are read; None: only the time is taken.
        """
        flow = self._flow
        if flow is None:
            flow = self._flow = self.handle.begin_flow()
        if len(flow.times) < MAX_TIMES:
            flow.append(perf_counter())
        else:
            flow.last = perf_counter()
        if chunk is not None:
            flow.read(chunk)

    def end(self, error: Any = None) -> None:
        """Record the call; a second end does nothing.

        It belongs to the block that was open at its start, whatever is open where it ends.

        Args:
            error: The exception that it failed with, or a text; a cancellation is recorded as one. A call
                that a budget refused further inside was not sent, and is not recorded.
        """
        if issubclass(type(error), BudgetError):
            self.drop()
            return
        if not self._take():
            return
        if error is not None and not issubclass(type(error), BaseException):
            self.handle.fail(error)
            error = None
        flow = self._flow
        if flow is not None:
            flow.finish(error)
        outer: Any = self.outer
        before = blocks.enter(outer)
        try:
            self.handle.__exit__(None if error is None else type(error), error, None)
        finally:
            blocks.leave(outer, before)

    def drop(self) -> None:
        """End the call without a record: no request was made, or how it went is not known.

        What was observed inside is passed on, so that it is not lost.
        """
        if not self._take():
            return
        recorder: Any = self.handle.recorder
        for call in self.handle.drop():
            recorder.observer.observe_in(self.outer, call)

    def _take(self) -> bool:
        try:
            self._unended.pop()
        except IndexError:
            return False
        self.ended = clock.now()
        self.unmark()
        return True


def open_block() -> blocks.Block | None:
    """Return the block of ours that is open here; not one that only stands for it."""
    block = blocks.current()
    while isinstance(block, HookBlock) and not block.is_running:
        block = block.outer
    return block


def step_of(name: Any) -> str | None:
    """Return the step of a call: as the framework names it, if it is a text."""
    return name if type(name) is str and name else None
