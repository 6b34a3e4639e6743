"""The handle of one model call: ``with monitor.generation(...) as g``."""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, Self, TypeVar, overload

from genmeter.errors import ConfigError
from genmeter.events.capture import capture_label
from genmeter.usage.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

__all__ = ["CallRecorder", "GenerationHandle"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class CallRecorder(Protocol):
    """What a handle records to: a monitor."""

    def track_generation(self, duration: float, success: bool, **kwargs: Any) -> None:
        """Record a call that ended."""

    def _open_call(self, handle: GenerationHandle) -> None:
        """Count a call as active."""

    def _close_call(self, handle: GenerationHandle) -> None:
        """Stop counting it as active."""


class GenerationHandle:
    """Times one model call and records it.

    A context manager, also for ``async with``. An exception in the block is recorded as a failure
    and propagates. Each block is one call, even if the handle is reused; overlapping calls need a
    handle each. Also a decorator of plain and ``async`` functions: every call of the function is
    one model call, and tokens, model and finish reason are read from its return value.

    Args:
        recorder: The monitor.
        model: The model that is called; None means the one that the response passed to
            :meth:`usage` names, else the monitor's default.
        step: The step of the pipeline.
        provider: Who serves the model, by the OpenTelemetry conventions, such as ``openai``.
        operation: The kind of call, such as ``chat`` or ``embeddings``.
        metadata: Free data for exports; copied.

    Attributes:
        model: As above; may be set in the block.
        finish_reason: Why the model stopped; may be set in the block.
        labels: The labels of the active call, as plain data.
    """

    def __init__(
        self,
        recorder: CallRecorder,
        *,
        model: str | None = None,
        step: str | None = None,
        provider: str | None = None,
        operation: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.finish_reason: str | None = None
        self._given_model = model
        self._recorder = recorder
        self._step = step
        self._provider = provider
        self._operation = operation
        self._metadata = metadata
        self._tokens: dict[str, Any] = {}
        self._retries: list[Any] = []
        self._error: Any = None
        self.labels: dict[str, str | None] = {}
        self._is_recorded = False
        self._started = time.perf_counter()

    def __repr__(self) -> str:
        return f"<GenerationHandle of {self.model or 'the default model'}, step {self._step}>"

    def usage(self, response: Any = None, **counts: Any) -> None:
        """Set the tokens that the call used; a later call overrides the counts that it names.

        Args:
            response: A usage object of OpenAI, Anthropic or Google, a response that has one, or a
                mapping of the same shape. The model and the finish reason are read from a response
                too. Unknown objects are ignored.
            **counts: ``prompt_token_count``, ``completion_token_count``, ``total_token_count``,
                ``cache_read_token_count``, ``cache_write_token_count``,
                ``reasoning_token_count``, as in ``track_generation``.
        """
        if response is not None:
            reading = Reading()
            reading.read(response)
            answer = reading.answer()
            found = answer.tokens
            if reading.has_usage:
                self._tokens.update(
                    prompt_token_count=found.input,
                    completion_token_count=found.output,
                    total_token_count=found.total,
                    cache_read_token_count=found.cache_read,
                    cache_write_token_count=found.cache_write,
                    reasoning_token_count=found.reasoning,
                )
            # `or` would call the truth method of a caller's object, which may raise.
            if self.finish_reason is None and answer.finish_reasons:
                self.finish_reason = answer.finish_reasons[0]
            if self.model is None:
                self.model = answer.model
        self._tokens.update(counts)

    def retry(self, error: Any = None) -> None:
        """Record that the call is retried.

        Args:
            error: The cause: an exception, its class or its name. Rate limits (status 429, or
                named so) count as ``rate_limited``.
        """
        self._retries.append(error)

    def fail(self, error: Any = None) -> None:
        """Mark the call as failed although no exception is raised.

        Args:
            error: The exception or a text.
        """
        self._error = "failed" if error is None else error

    def __enter__(self) -> Self:
        """Start the call and its timer."""
        if self._is_recorded:
            # A reused handle: the previous call's model and finish reason are not this one's.
            self._is_recorded = False
            self.model, self.finish_reason = self._given_model, None
        self.labels = {
            "model_name": capture_label(self.model),
            **{name: capture_label(value) for name, value in self._names().items()},
        }
        self._recorder._open_call(self)  # noqa: SLF001 - one contract
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the call and record it; an exception is recorded and propagates."""
        duration = time.perf_counter() - self._started
        failure = self._error if error is None else error
        optional = {
            "error": failure,
            "finish_reason": self.finish_reason,
            "retries": self._retries or None,
            "metadata": self._metadata,
            "model_name": self.model,
            **self._names(),
        }
        self._recorder._close_call(self)  # noqa: SLF001 - one contract
        keywords = self._tokens | {
            name: value for name, value in optional.items() if value is not None
        }
        # New objects, since recorded ones must not change, nor be recorded twice.
        self._tokens, self._retries, self._error = {}, [], None
        self._is_recorded = True
        # Keywords of usage() that would collide with arguments of track_generation.
        for name in ("self", "duration", "success"):
            keywords.pop(name, None)
        self._recorder.track_generation(duration, failure is None, **keywords)

    async def __aenter__(self) -> Self:
        """Start the call and its timer."""
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the call and record it; an exception is recorded and propagates."""
        self.__exit__(kind, error, traceback)

    def _names(self) -> dict[str, Any]:
        return {"step": self._step, "provider": self._provider, "operation": self._operation}

    def _again(self) -> GenerationHandle:
        return GenerationHandle(
            self._recorder,
            model=self.model,
            step=self._step,
            provider=self._provider,
            operation=self._operation,
            metadata=self._metadata,
        )

    @overload
    def __call__(self, function: Callable[_P, Awaitable[_R]]) -> Callable[_P, Awaitable[_R]]: ...
    @overload
    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]: ...
    def __call__(self, function: Callable[_P, Any]) -> Callable[_P, Any]:
        """Decorate a function that returns the model's response.

        Raises:
            ConfigError: ``function`` is a generator function, whose end only its consumer knows,
                or is not callable, such as a ``classmethod`` object.
        """
        if not callable(function):
            raise ConfigError(
                f"monitor.generation() cannot decorate {function!r}, which is not callable; "
                "put @classmethod above @monitor.generation(...)"
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigError(
                f"monitor.generation() cannot decorate the generator {function!r}; "
                "use `with monitor.generation(...) as g` around the loop that consumes it"
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def record_async(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                with self._again() as handle:
                    result = await function(*args, **kwargs)
                    handle.usage(result)
                    return result

            return record_async

        @functools.wraps(function)
        def recorded(*args: _P.args, **kwargs: _P.kwargs) -> Any:
            with contextlib.ExitStack() as block:
                handle = block.enter_context(self._again())
                result = function(*args, **kwargs)
                if inspect.iscoroutine(result):
                    # A callable that returns a coroutine without being an async function.
                    return _recorded_when_awaited(result, handle, block.pop_all())
                handle.usage(result)
                return result

        return recorded


async def _recorded_when_awaited(
    result: Awaitable[Any], handle: GenerationHandle, block: contextlib.ExitStack
) -> Any:
    with block:
        answer = await result
        handle.usage(answer)
        return answer
