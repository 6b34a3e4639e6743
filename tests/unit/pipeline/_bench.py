"""A pipeline with one session, and what keeps its thread or its lock busy."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from _waiting import PATIENCE
from genmeter.config.monitor import LabelLimits
from genmeter.events.model import CallDefaults, Raw
from genmeter.handlers.dispatch import HandlerDispatcher
from genmeter.history.store import History
from genmeter.pipeline.drain import Pipeline
from genmeter.pipeline.self_metrics import SelfMetrics
from genmeter.session import Session, SessionState

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["Bench", "Holder", "Spy", "in_thread", "interrupt_start", "refuse_start"]


def in_thread(function: Callable[[], Any]) -> Any:
    """Call a function on another thread; return its result or raise its error."""
    found: dict[str, Any] = {}

    def call() -> None:
        try:
            found["result"] = function()
        except BaseException as error:
            found["error"] = error

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    if "error" in found:
        raise found["error"]
    return found["result"]


class Bench:
    """A pipeline with one session, used as a monitor does."""

    def __init__(self, on_start: Callable[[], None] = lambda: None) -> None:
        limits = {
            name: getattr(LabelLimits(), name)
            for name in LabelLimits.__dataclass_fields__
            if name != "combinations"
        }
        self.self_metrics = SelfMetrics()
        self.pipeline = Pipeline(limits, self_metrics=self.self_metrics, on_start=on_start)
        dispatcher = HandlerDispatcher(self.self_metrics, self.pipeline.deferred_log)
        state = SessionState(CallDefaults("m", None, "chat"), History(100_000))
        self.session = Session(state, dispatcher)
        state.is_closed = True  # so that it is not closed at its end

    def append(self, count: int = 1, duration: Any = 0.1) -> None:
        """Append events without calling ``after_append``."""
        for _ in range(count):
            self.pipeline.inbox.append(
                (
                    Raw.GENERATION,
                    self.session,
                    time.time(),
                    duration,
                    False,
                    {},
                    None,
                    None,
                    None,
                    None,
                )
            )

    def record(self, count: int = 1, *, inline: bool = False, duration: Any = 0.1) -> None:
        """Append events, calling ``after_append`` after each."""
        for _ in range(count):
            self.append(duration=duration)
            self.pipeline.after_append(inline=inline)

    def read(self, timeout: float | None = None) -> int:
        """Return how many events the history has."""
        return self.pipeline.run(lambda: self.session.history.size, timeout)

    def spy(self, on_event: Callable[[Any], Any]) -> None:
        """Have a function called with each event after the history has it."""
        self.session.recorders = (self.session.history, Spy(on_event))

    def run_thread(self) -> None:
        """Start the pipeline's thread."""
        self.pipeline.start()
        assert self.pipeline.is_running

    @property
    def recorded(self) -> int:
        """How many events were drained."""
        return self.self_metrics.recorded

    @property
    def rejected(self) -> dict[str, int]:
        """Dropped values by reason."""
        return self.self_metrics.rejected

    def close(self) -> None:
        """End the pipeline's threads."""
        thread, self.pipeline._thread = self.pipeline._thread, None
        self.pipeline._is_woken = False
        self.pipeline.wake()
        if isinstance(thread, threading.Thread) and thread.ident is not None:
            thread.join(PATIENCE)
        self.pipeline.deferred_log.finish(PATIENCE)


def refuse_start(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def interrupt_start(thread: threading.Thread) -> None:
    raise KeyboardInterrupt


class Holder:
    """Holds the drain's lock on another thread in a block."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._release = threading.Event()
        self._held = threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def _hold(self) -> None:
        def wait() -> None:
            self._held.set()
            self._release.wait(PATIENCE)

        self._pipeline.lock.call(wait, None)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._held.wait(PATIENCE)

    def __exit__(self, *error: object) -> None:
        self._release.set()
        self._thread.join(PATIENCE)


class Spy:
    """A recorder that calls a function with each event."""

    def __init__(self, on_event: Callable[[Any], Any]) -> None:
        self.record = on_event
