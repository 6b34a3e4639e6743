"""What a hook records its calls with: handles like those of ``monitor.generation``, each call once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from genmeter import clock
from genmeter.events.answers import CallDetails
from genmeter.events.capture import are_atoms, capture_keywords, capture_mapping
from genmeter.observed.blocks import current
from genmeter.observed.model import ObservedCall

if TYPE_CHECKING:
    from genmeter.observed.observer import Observer

__all__ = ["HookRecorder"]


class _Recorder(Protocol):
    """The monitor, as handles use it."""

    def _open_call(self, handle: Any) -> None: ...
    def _close_call(self, handle: Any) -> None: ...
    def _misuse(self, key: str, message: str) -> None: ...


class HookRecorder:
    """Passes the calls of a hook's handles to the block that is open around them, or to the observer.

    ``GenerationHandle(HookRecorder(...), model=...)`` is a block of ours: spans that start inside are its
    call. Inside of another block of ours the call is that block's.

    Args:
        monitor: The monitor.
        observer: Its observer.
        source: Who observes, as in ``ObservedCall.source``, such as ``genmeter.langchain``.

    Attributes:
        monitor: As passed.
    """

    def __init__(self, monitor: _Recorder, observer: Observer, source: str) -> None:
        self.monitor = monitor
        self._observer = observer
        self._source = source
        self._open_call = monitor._open_call  # noqa: SLF001 - one contract
        self._close_call = monitor._close_call  # noqa: SLF001 - one contract
        self._misuse = monitor._misuse  # noqa: SLF001 - one contract

    def _record_call(
        self, duration: float, success: bool, keywords: dict[str, Any], details: CallDetails | None
    ) -> None:
        metadata = keywords.pop("metadata", None)
        error_class = None
        if not are_atoms(keywords.values()):
            error_class = capture_keywords(keywords)
        if metadata is not None:
            keywords["metadata"] = capture_mapping(metadata)
        call = ObservedCall(
            self._source,
            clock.now(),
            duration,
            success,
            keywords,
            details or CallDetails(),
            error_class,
        )
        block = current()
        if block is None or not block.observe(call):
            self._observer.observe(call)
