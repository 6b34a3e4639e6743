"""The terminal: a full screen, single keys, and signals."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

__all__ = ["Terminal", "can_move_cursor", "say", "stop_event", "terminal"]

_DUMB = ("dumb", "unknown")  # terminals without cursor movement
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def say(text: str) -> None:
    """Write a line to standard output and flush it, for the reader of a pipe."""
    encoding = sys.stdout.encoding or "utf-8"
    # A name outside of the terminal's encoding must not fail.
    sys.stdout.write(f"{text}\n".encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def can_move_cursor() -> bool:
    """Return whether standard output is a terminal for a live view."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in _DUMB


@contextmanager
def stop_event(*, is_forced_by_second: bool = True) -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C, SIGTERM and SIGHUP set, unless they are ignored.

    Args:
        is_forced_by_second: Whether a second signal has its usual effect.
    """
    stop = threading.Event()
    previous = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    # nohup and background jobs of a shell ignore some.
    previous = {signum: each for signum, each in previous.items() if each != signal.SIG_IGN}

    def restore() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    def handle(*_: object) -> None:
        stop.set()
        if is_forced_by_second:
            restore()

    for signum in previous:
        signal.signal(signum, handle)
    try:
        yield stop
    finally:
        restore()


class Terminal:
    """A terminal in the live view.

    Attributes:
        console: Its console.
    """

    def __init__(self, console: Console, show: Callable[[object], None], keys: int | None) -> None:
        self.console = console
        self._show = show
        self._keys = keys

    @property
    def has_keys(self) -> bool:
        """Whether keys can be read."""
        return self._keys is not None

    def show(self, renderable: object) -> None:
        """Draw a screen in place of the last one."""
        self._show(renderable)

    def wait_for_key(self, seconds: float) -> str:
        """Return the keys pressed within some seconds; empty without any."""
        if self._keys is None:
            time.sleep(seconds)
            return ""
        if not select.select([self._keys], [], [], seconds)[0]:
            return ""
        pressed = os.read(self._keys, 1024)
        if not pressed:  # the end of the input; it would be ready for ever
            self._keys = None
        return pressed.decode("ascii", "replace")


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Yield the terminal with a full screen; its settings are restored at the end, also of an error."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with _single_keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        yield Terminal(console, lambda drawn: live.update(drawn, refresh=True), keys)  # type: ignore[arg-type]


@contextmanager
def _single_keys() -> Iterator[int | None]:
    """Yield the descriptor to read single keys from, without echo; None without a terminal."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    keys = sys.stdin.fileno()
    before = termios.tcgetattr(keys)
    try:
        tty.setcbreak(keys, termios.TCSANOW)
        settings = termios.tcgetattr(keys)
        settings[6][termios.VSUSP] = b"\0"  # Ctrl-Z would leave the shell with this screen
        termios.tcsetattr(keys, termios.TCSANOW, settings)
        yield keys
    finally:
        termios.tcsetattr(keys, termios.TCSANOW, before)
