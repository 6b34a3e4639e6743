"""What a hook records its calls with: handles like those of ``monitor.generation``, each call once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from genmeter import clock
from genmeter.events.answers import CallDetails
from genmeter.events.capture import are_atoms, capture_keywords, capture_mapping
from genmeter.observed.blocks import current
from genmeter.observed.model import ObservedCall

if TYPE_CHECKING:
    from genmeter.observed.blocks import Block
    from genmeter.observed.identity import CallIdentity
    from genmeter.observed.observer import Observer

__all__ = ["HookRecorder"]


class _Recorder(Protocol):
    """The monitor, as handles use it."""

    @property
    def observer(self) -> Observer: ...
    def open_call(self, handle: Any) -> None: ...
    def close_call(self, handle: Any) -> None: ...
    def misuse(self, key: str, message: str) -> None: ...


class HookRecorder:
    """Passes the calls of a hook's handles to the block that is open around them, or to the observer.

    ``GenerationHandle(HookRecorder(...), model=...)`` is a block of ours: spans that start inside are its
    call. Inside of another block of ours the call is that block's.

    Args:
        monitor: The monitor.
        source: Who observes, as in ``ObservedCall.source``, such as ``genmeter.langchain``.
        identity: As in ``ObservedCall``, if the recorder is of one call.
        block: The block that a call belongs to if none is open where it ends, as that of a stream.

    Attributes:
        monitor: As passed.
        observer: That of the monitor.
        response_id: The provider's id of the response, if the hook knows it and has a recorder for
            each call.
    """

    response_id: str | None = None

    def __init__(
        self,
        monitor: _Recorder,
        source: str,
        *,
        identity: CallIdentity | None = None,
        block: Block | None = None,
    ) -> None:
        self.monitor = monitor
        self.observer = monitor.observer
        self._source = source
        self._identity = identity
        self._block = block
        self.open_call = monitor.open_call
        self.close_call = monitor.close_call
        self.misuse = monitor.misuse

    def record_call(
        self, duration: float, success: bool, keywords: dict[str, Any], details: CallDetails | None
    ) -> None:
        """Pass a call that ended on; see ``CallRecorder``."""
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
            self.response_id,
            identity=self._identity,
        )
        self.observer.observe_in(current() or self._block, call)
