"""SIGTERM: what was recorded is published and pushed before it ends the process.

``multiprocessing.Pool`` ends its workers by SIGTERM, and so do Kubernetes, systemd and web servers.
With the default disposition no Python code runs then. So :class:`Termination` installs a handler,
which does the work of an exit and then ends the process by the same signal: parents see the status
that they expect. A handler of somebody else is kept, and called after ours.

A Python handler waits for the main thread to execute bytecode. A worker inside a long call of C code
would no longer die at SIGTERM, and its parent would wait for it. So the handler is installed with
SA_RESETHAND: the kernel restores the default as it delivers the signal. The drain's thread looks once
a second whether the default is back, which needs neither a thread of its own nor a wakeup file
descriptor, which belongs to the event loop. If no Python handler has begun, another thread does the
work of the exit. A second SIGTERM, before either has begun, ends the process at once.

Until a process has recorded an event, or was refused a call by a budget, the kernel keeps the default:
such a process has nothing to lose, and dies as fast as it would without genmeter.
"""

from __future__ import annotations

import _thread
import contextlib
import inspect
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from genmeter.deferral import deferral
from genmeter.exporters.apps import off_the_loop

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["Termination"]

_HANDLER_TIME = 0.5  # seconds after which the main thread counts as busy outside of Python
_HASTE = 60.0  # seconds after which a process that was asked to end is taken to go on
_HASTE_PAUSE = 0.05
_EXTRA_TIME = 2.0  # seconds over the limit after which an exit that hangs is left
_INIT = 1  # the pid for which the kernel ignores signals with the default disposition
_RESET_HAND, _RESTART = (0x80000000, 0x10000000) if sys.platform == "linux" else (0x4, 0x2)
_ROOM = 1_024  # bytes; no system's structure is larger


class Termination:
    """Installs and serves the handler of SIGTERM in a process.

    Args:
        end: Does the work of an exit, within ``limit()`` seconds; called at most once, on the main
            thread in the middle of any code, or on another thread.
        settle: Waits until all that was recorded is published, pushed and handled, for a limited
            time; the process may go on.
        limit: Returns the seconds that ``end`` may take.

    Attributes:
        is_wanted: Whether a monitor of this process wants it.
        on_ending: Functions to call often, on another thread, once somebody else's handler was asked
            to end the process: at once and every 50 ms, for a minute at most. They must be quick.
    """

    def __init__(
        self,
        *,
        end: Callable[[], object],
        settle: Callable[[], object],
        limit: Callable[[], float],
    ) -> None:
        self._end = end
        self._settle = settle
        self._limit = limit
        self.on_ending: list[Callable[[], object]] = []
        self.is_wanted = False
        self._is_installed = False
        self._call_of_main: object = None
        self._action: _Action | None = None
        self._previous: Callable[[int, FrameType | None], object] | None = None
        # The identity of bound methods: each access makes a new one.
        self._own = self._handle
        self._masks = _Masks()
        self._reset()

    def _reset(self) -> None:
        self._is_armed = self._was_armed = False
        self._is_hastening = False
        self._claims = [None]  # the first to pop it ends the process

    # --- the handler ---------------------------------------------------------------------------

    def install(self) -> None:
        """Install the handler on the main thread, once; elsewhere :meth:`arm` has it done there.

        A handler of somebody else is wrapped. An ignored signal stays ignored, and a handler of C code
        is left alone. If the job replaces the handler later, that stands.
        """
        self.is_wanted = True
        if self._is_installed or threading.current_thread() is not threading.main_thread():
            return
        current = signal.getsignal(signal.SIGTERM)
        # Not in the main interpreter, or the structure of the C library is unknown.
        with contextlib.suppress(ValueError, OSError, AttributeError, ImportError):
            if current is signal.SIG_DFL:
                self._install_own()
            elif callable(current):
                self._wrap(current)
            self._is_installed = True

    def _install_own(self) -> None:
        if _kernel_handler():  # of C code, such as faulthandler's, of which signal knows nothing
            return
        signal.signal(signal.SIGTERM, self._own)
        try:
            self._action = _Action()
        except BaseException:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            raise
        self._action.disarm()

    def _wrap(self, current: Callable[[int, FrameType | None], object]) -> None:
        restarts = _Action().restarts
        self._previous = current
        signal.signal(signal.SIGTERM, self._handle_wrapped)
        signal.siginterrupt(signal.SIGTERM, not restarts)  # signal.signal() resets this

    @property
    def _is_ours(self) -> bool:
        return signal.getsignal(signal.SIGTERM) is self._own

    def arm(self) -> None:
        """Have the kernel call the installed handler from now on, once; for the drain's thread.

        Does nothing if somebody replaced the handler, in Python or in C.
        """
        if self.is_wanted and not self._is_installed:
            self._install_on_main_thread()
        action = self._action
        if action is not None and not self._was_armed and self._is_ours and action.is_default:
            self._was_armed = self._is_armed = True
            action.arm()

    def _install_on_main_thread(self) -> None:
        """Have the main thread install and arm the handler, as soon as it executes bytecode."""
        if self._call_of_main is not None:
            return

        def install(_argument: object) -> int:
            with contextlib.suppress(Exception):
                self.install()
                self.arm()
            return 0

        with contextlib.suppress(Exception):  # no interpreter but CPython has this
            import ctypes

            call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(install)
            self._call_of_main = call  # kept as long as it may be called
            ctypes.pythonapi.Py_AddPendingCall(call, None)

    def poll(self) -> None:
        """Arm, and end the process if the handler should have run by now; for each drain's turn."""
        self.arm()
        action = self._action
        if not (self._is_armed and action is not None and action.is_default and self._is_ours):
            return
        self._is_armed = False
        with contextlib.suppress(RuntimeError):  # no thread can be started
            _thread.start_new_thread(self._watch, ())

    def _watch(self) -> None:
        time.sleep(_HANDLER_TIME)
        self._handle(signal.SIGTERM, None)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if deferral.put_off(lambda: self._handle_late(number)) or not self._claim():
            return
        if os.getpid() == _INIT:
            # The job survives SIGTERM until the SIGKILL of its container, and may end in time.
            self.hasten()
        else:
            self._finish()

    def _handle_late(self, number: int) -> None:
        """Handle a signal that came in the middle of a block.

        If the block took so long that another thread has begun with the work of the exit, the main
        thread does no more: what it recorded now would be lost.
        """
        if self._claims or os.getpid() == _INIT:
            self._handle(number, None)
        else:
            time.sleep(self._limit() + _EXTRA_TIME)

    def _claim(self) -> bool:
        try:
            self._claims.pop()
        except IndexError:
            return False
        return True

    def _finish(self) -> None:
        try:
            if self._action is not None:
                self._action.arm(once=False)  # further signals do not end the last push
            with contextlib.suppress(RuntimeError):
                _thread.start_new_thread(self._die_after, (self._limit() + _EXTRA_TIME,))
            self._end()
        finally:
            self._die()

    def _die_after(self, seconds: float) -> None:
        """End the process even if the work of the exit waits for a lock of the interrupted code."""
        time.sleep(seconds)
        self._die()

    def _die(self) -> None:
        if self._action is not None:
            self._action.disarm()
        os.kill(os.getpid(), signal.SIGTERM)

    # --- somebody else's handler ---------------------------------------------------------------

    def _handle_wrapped(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous
        try:
            self.hasten()
            self._settle_after_uvicorn(previous)
        except Exception:  # the other handler must run
            pass
        finally:
            if previous is not None:
                previous(number, frame)

    def hasten(self) -> None:
        """Call the functions of ``on_ending`` often from now on, for a minute; never waits."""
        if self._is_hastening:
            return
        self._is_hastening = True
        with contextlib.suppress(RuntimeError):
            _thread.start_new_thread(self._hasten_until, (time.monotonic() + _HASTE,))

    def _hasten_until(self, deadline: float) -> None:
        while time.monotonic() < deadline and self._is_hastening:
            for function in tuple(self.on_ending):
                with contextlib.suppress(Exception):
                    function()
            time.sleep(_HASTE_PAUSE)
        self._is_hastening = False

    def _settle_after_uvicorn(self, handler: object) -> None:
        """Settle after the shutdown of a server of uvicorn.

        It imports the app under its own handler. After its shutdown it restores the default and raises
        the signal again, when no Python code runs any more.
        """
        server: Any = getattr(handler, "__self__", None)
        shutdown = getattr(server, "shutdown", None)
        is_uvicorn = any(each.__module__.startswith("uvicorn.") for each in type(server).__mro__)
        if not is_uvicorn or not inspect.iscoroutinefunction(shutdown):
            return  # also when a second signal comes: the function below is no method
        settle = self._settle

        async def shutdown_and_settle(*args: Any, **kwargs: Any) -> None:
            try:
                await shutdown(*args, **kwargs)
            finally:
                with contextlib.suppress(Exception):
                    await off_the_loop(settle)

        server.shutdown = _Marked(shutdown_and_settle)

    # --- fork ----------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Hold SIGTERM back on this thread, so that the child gets none under the parent's handler."""
        if self._action is not None:
            held = {signal.SIGTERM}
            self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, held)

    def after_fork_in_parent(self) -> None:
        """Accept SIGTERM again."""
        before, self._masks.before = self._masks.before, None
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def after_fork_in_child(self) -> None:
        """Restore the default until the child has recorded something."""
        deferral.reset()
        self._reset()
        action = self._action
        if action is not None and not self._is_ours:
            # A server that has loaded the app before the fork sets handlers of its own in each worker.
            self._action, self._is_installed, self._call_of_main = None, False, None
        if action is not None and self._is_ours and action.is_python:
            action.disarm()
        self.after_fork_in_parent()


class _Marked:
    """A coroutine function that is not one for ``inspect``, so that it is not wrapped again."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


class _Masks(threading.local):
    """The signal mask of this thread before a fork."""

    def __init__(self) -> None:
        self.before: set[int | signal.Signals] | None = None


def _kernel_handler() -> int | None:
    """Return the address of the kernel's handler of SIGTERM; None for the default."""
    import ctypes  # takes some ms; only a process with a monitor needs it

    read = ctypes.pythonapi.PyOS_getsig
    read.restype = ctypes.c_void_p
    read.argtypes = (ctypes.c_int,)
    found: int | None = read(signal.SIGTERM)
    return found


class _Action:
    """The kernel's disposition of SIGTERM, which any thread may read and set.

    Raises:
        OSError: The C library's structure is not the expected one.
        AttributeError: The interpreter is not CPython.
    """

    def __init__(self) -> None:
        import ctypes

        class SigAction(ctypes.Structure):
            # POSIX leaves the order open; this is glibc's, musl's and macOS's.
            _fields_ = (
                ("handler", ctypes.c_void_p),
                ("mask", ctypes.c_ubyte * (128 if sys.platform == "linux" else 4)),
                ("flags", ctypes.c_uint),
                ("room", ctypes.c_ubyte * _ROOM),
            )

        self._new: Callable[[], Any] = SigAction
        self._refer: Callable[[Any], Any] = ctypes.byref
        self._call = ctypes.CDLL(None, use_errno=True).sigaction
        self._python = _kernel_handler()
        # Kept as Python made it, but for one flag.
        self._always, self._once = self._read(), self._read()
        if self._always.handler != self._python or not self._python:
            raise OSError("the structure of sigaction() is unknown on this system")
        self.restarts = bool(self._always.flags & _RESTART)
        self._once.flags |= _RESET_HAND

    def _read(self) -> Any:
        found = self._new()
        if self._call(int(signal.SIGTERM), None, self._refer(found)) != 0:
            raise OSError("sigaction() failed")
        return found

    def _set(self, wanted: Any) -> None:
        self._call(int(signal.SIGTERM), self._refer(wanted), None)

    @property
    def is_default(self) -> bool:
        """Whether the kernel would end the process."""
        return self._read().handler is None

    @property
    def is_python(self) -> bool:
        """Whether the kernel would call Python's handler."""
        handler: int | None = self._read().handler
        return handler == self._python

    def arm(self, *, once: bool = True) -> None:
        """Have the kernel call Python's handler, which then calls that of ``signal.signal()``.

        Args:
            once: Whether the kernel restores the default with the first signal.
        """
        self._set(self._once if once else self._always)

    def disarm(self) -> None:
        """Have the kernel end the process; ``signal.getsignal()`` still returns the handler."""
        self._set(self._new())  # zeros are the default
