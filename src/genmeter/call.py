"""The handle of one call of a model: ``with monitor.generation(...) as g``."""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, Self, TypeVar, overload

from genmeter.errors import ConfigError
from genmeter.events.capture import capture_label
from genmeter.events.llm_usage import read_finish_reason, read_model, read_usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

__all__ = ["GenerationHandle", "Teller"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Teller(Protocol):
    """What a handle reports to."""

    def track_generation(self, duration: float, success: bool, **kwargs: Any) -> None:
        """Tell of a call that ended."""

    def _open_call(self, handle: GenerationHandle) -> None:
        """Count a call as under way."""

    def _close_call(self, handle: GenerationHandle) -> None:
        """Count it no more."""


class GenerationHandle:
    """Times one call of a model and tells the monitor how it ended.

    A context manager, also ``async with``; an exception in the block is told as a failure and
    goes on. Each block is one call, also where the handle is used again; for calls that overlap,
    make a handle each. Also a decorator, of plain and of ``async`` functions: every call of the
    function is one call of the model, and tokens, model and finish reason are read from what it
    returns.

    Args:
        teller: The monitor.
        model: The model that is asked; where it is not given it is read from what
            :meth:`usage` is given, else the monitor's default holds.
        step: The step of the pipeline.
        provider: Who serves the model, in the OpenTelemetry conventions' words, such as
            ``openai``.
        operation: The kind of call, such as ``chat`` or ``embeddings``.
        metadata: Free data for exports; copied.

    Attributes:
        model: As above; may be set in the block.
        finish_reason: Why the model stopped; may be set in the block.
        labels: The labels of the call while it is under way, as plain data.
    """

    def __init__(
        self,
        teller: Teller,
        *,
        model: str | None = None,
        step: str | None = None,
        provider: str | None = None,
        operation: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.finish_reason: str | None = None
        self._asked_model = model
        self._teller = teller
        self._step = step
        self._provider = provider
        self._operation = operation
        self._metadata = metadata
        self._tokens: dict[str, Any] = {}
        self._retries: list[Any] = []
        self._error: Any = None
        self.labels: dict[str, str | None] = {}
        self._is_told = False
        self._started = time.perf_counter()

    def __repr__(self) -> str:
        return f"<GenerationHandle of {self.model or 'the default model'}, step {self._step}>"

    def usage(self, response: Any = None, **counts: Any) -> None:
        """Tell the tokens that the call used; a later call replaces what it names again.

        Args:
            response: A usage object of OpenAI, Anthropic or Google, a response that holds one, or
                a mapping of the same shape; from a response the model and the finish reason are
                read too. What is not understood is passed over.
            **counts: ``prompt_token_count``, ``completion_token_count``, ``total_token_count``,
                ``cache_read_token_count``, ``cache_write_token_count``,
                ``reasoning_token_count``, as ``track_generation`` takes them.
        """
        if response is not None:
            found = read_usage(response)
            if found is not None:
                self._tokens.update(
                    prompt_token_count=found.input,
                    completion_token_count=found.output,
                    total_token_count=found.total,
                    cache_read_token_count=found.cache_read,
                    cache_write_token_count=found.cache_write,
                    reasoning_token_count=found.reasoning,
                )
            # `or` would ask what the caller has set for its truth, which may raise.
            if self.finish_reason is None:
                self.finish_reason = read_finish_reason(response)
            if self.model is None:
                self.model = read_model(response)
        self._tokens.update(counts)

    def retry(self, error: Any = None) -> None:
        """Tell that the call is made again.

        Args:
            error: What made it necessary: the exception, its class or its name. Those of rate
                limits (status 429, or named so) count as ``rate_limited``.
        """
        self._retries.append(error)

    def fail(self, error: Any = None) -> None:
        """Tell that the call failed though nothing is raised.

        Args:
            error: The exception or a text.
        """
        self._error = "failed" if error is None else error

    def __enter__(self) -> Self:
        """Begin; time counts from here."""
        if self._is_told:
            # A handle that is used again: what the call before answered is not this one's.
            self._is_told = False
            self.model, self.finish_reason = self._asked_model, None
        self.labels = {
            "model_name": capture_label(self.model),
            **{name: capture_label(value) for name, value in self._names().items()},
        }
        self._teller._open_call(self)  # noqa: SLF001 - one contract
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End, and tell the monitor; an exception is told and goes on."""
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
        self._teller._close_call(self)  # noqa: SLF001 - one contract
        keywords = self._tokens | {
            name: value for name, value in optional.items() if value is not None
        }
        # New ones, since what was told must not change any more, and must not be told twice.
        self._tokens, self._retries, self._error = {}, [], None
        self._is_told = True
        # Names of usage()'s own keywords that track_generation has as arguments.
        for name in ("self", "duration", "success"):
            keywords.pop(name, None)
        self._teller.track_generation(duration, failure is None, **keywords)

    async def __aenter__(self) -> Self:
        """Begin; time counts from here."""
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End, and tell the monitor; an exception is told and goes on."""
        self.__exit__(kind, error, traceback)

    def _names(self) -> dict[str, Any]:
        return {"step": self._step, "provider": self._provider, "operation": self._operation}

    def _again(self) -> GenerationHandle:
        return GenerationHandle(
            self._teller,
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
            ConfigError: ``function`` is a generator, whose end nobody but its reader knows, or
                cannot be called, as a ``classmethod`` cannot.
        """
        if not callable(function):
            raise ConfigError(
                f"monitor.generation() cannot decorate {function!r}, which cannot be called; "
                "put @classmethod above @monitor.generation(...)"
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigError(
                f"monitor.generation() cannot decorate the generator {function!r}; "
                "use `with monitor.generation(...) as g` around the loop that reads it"
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def tell_async(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                with self._again() as handle:
                    result = await function(*args, **kwargs)
                    handle.usage(result)
                    return result

            return tell_async

        @functools.wraps(function)
        def tell(*args: _P.args, **kwargs: _P.kwargs) -> Any:
            with contextlib.ExitStack() as block:
                handle = block.enter_context(self._again())
                result = function(*args, **kwargs)
                if inspect.iscoroutine(result):
                    # An object or a lambda that is as good as an async function.
                    return _told_when_awaited(result, handle, block.pop_all())
                handle.usage(result)
                return result

        return tell


async def _told_when_awaited(
    result: Awaitable[Any], handle: GenerationHandle, block: contextlib.ExitStack
) -> Any:
    with block:
        answer = await result
        handle.usage(answer)
        return answer
