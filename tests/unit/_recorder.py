"""A recorder that keeps what handles record, in the place of a monitor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.call.handle import GenerationHandle
from genmeter.events.answers import CallDetails

if TYPE_CHECKING:
    from genmeter.events.answers import Answer

__all__ = ["FakeRecorder", "Recorded"]

_NO_DETAILS = CallDetails()


class Recorded(NamedTuple):
    """One recorded call."""

    duration: float
    success: bool
    keywords: dict[str, Any]
    details: CallDetails | None

    @property
    def more(self) -> CallDetails:
        """The details; empty ones if there are none."""
        return _NO_DETAILS if self.details is None else self.details

    @property
    def answers(self) -> tuple[Answer, ...]:
        """What was billed."""
        return self.more.answers

    @property
    def counts(self) -> tuple[int | None, int | None, int | None]:
        """Input, output and total tokens by keyword."""
        get = self.keywords.get
        return (
            get("prompt_token_count"),
            get("completion_token_count"),
            get("total_token_count"),
        )

    @property
    def outcome(self) -> str:
        """``success``, ``failure`` or ``cancelled``."""
        if self.more.is_cancelled:
            assert not self.success
            assert "error" not in self.keywords
            return "cancelled"
        return "success" if self.success else "failure"


class FakeRecorder:
    """Keeps the calls, the number of open ones and the warnings."""

    def __init__(self) -> None:
        self.calls: list[Recorded] = []
        self.warnings: dict[str, str] = {}
        self.open = 0

    def generation(self, model: str | None = None, **options: Any) -> GenerationHandle:
        """Return a handle, as a monitor does."""
        return GenerationHandle(self, model=model, **options)

    @property
    def last(self) -> Recorded:
        """The last call."""
        return self.calls[-1]

    def record_call(
        self,
        duration: float,
        success: bool,
        keywords: dict[str, Any],
        details: CallDetails | None,
    ) -> None:
        self.calls.append(Recorded(duration, success, keywords, details))

    def open_call(self, handle: GenerationHandle) -> None:
        self.open += 1

    def close_call(self, handle: GenerationHandle) -> None:
        self.open -= 1

    def misuse(self, key: str, message: str) -> None:
        self.warnings.setdefault(key, message)
