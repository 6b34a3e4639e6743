"""OpenTelemetry logs and spans for tests, with any supported release of the SDK."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry._logs import _internal
from opentelemetry.sdk._logs import LoggerProvider, export
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_current_span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest
    from opentelemetry.trace import SpanContext

__all__ = ["Exported", "current_span", "elsewhere", "set_up_logs", "spanned"]

_EXPORTER: Any = getattr(export, "InMemoryLogRecordExporter", None) or export.InMemoryLogExporter
_HANG = 30.0


class Exported:
    """A provider of loggers with its exported records."""

    def __init__(self) -> None:
        self._exporter = _EXPORTER()
        self.provider = LoggerProvider(resource=Resource({"service.name": "job"}))
        self.provider.add_log_record_processor(export.SimpleLogRecordProcessor(self._exporter))

    @property
    def batch(self) -> Any:
        """The exported batch."""
        return self._exporter.get_finished_logs()

    @property
    def records(self) -> list[Any]:
        """The records, oldest first."""
        return [each.log_record for each in self.batch]

    @property
    def scopes(self) -> set[str]:
        """The names of the records' loggers."""
        return {each.instrumentation_scope.name for each in self.batch}


@contextmanager
def set_up_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Exported]:
    """Set a global provider for the block."""
    exported = Exported()
    with monkeypatch.context() as patch:
        patch.setattr(_internal, "_LOGGER_PROVIDER", exported.provider)
        yield exported
    exported.provider.shutdown()


def spanned() -> SpanContext:
    """Return the ids of a span that was current and has ended."""
    with TracerProvider(shutdown_on_exit=False).get_tracer("test").start_as_current_span("span"):
        return current_span()


def current_span() -> SpanContext:
    """Return the ids of the current span."""
    return get_current_span().get_span_context()


def elsewhere(call: Callable[[], object]) -> None:
    """Call a function on another thread with another current span."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
            with tracer.start_as_current_span("other"):
                call()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_HANG)
    assert not thread.is_alive()
    assert not failures
