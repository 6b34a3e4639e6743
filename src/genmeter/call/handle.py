"""The handle of one model call: ``with monitor.generation(...) as call``."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from array import array
from time import perf_counter
from typing import (
    TYPE_CHECKING,
    Any,
    NamedTuple,
    NoReturn,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    overload,
)

from genmeter import clock
from genmeter.call.attempts import CallUsage
from genmeter.call.decorator import decorated
from genmeter.call.streams import MAX_TIMES, CallStream, Flow, flow_of, proxy_of
from genmeter.errors import unpicklable
from genmeter.events.answers import CallDetails, Unread
from genmeter.events.capture import capture_bool, capture_label, class_name
from genmeter.events.values import UNREADABLE
from genmeter.observed import gate
from genmeter.observed.blocks import enter, is_marking, leave
from genmeter.observed.merging import complete
from genmeter.observed.steps import step_or_current
from genmeter.usage.reading import is_stream, read_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import FrameType, TracebackType

    from genmeter.observed.model import Block, ObservedCall

__all__ = ["CallRecorder", "GenerationHandle"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S")


class CallRecorder(Protocol):
    """What a handle records to: a monitor. Its methods never raise."""

    def record_call(
        self,
        duration: float,
        success: bool,
        keywords: dict[str, Any],
        details: CallDetails | None,
    ) -> None:
        """Record a call that ended, with the keywords of ``track_generation``."""

    def open_call(self, handle: GenerationHandle) -> None:
        """Count a call as active."""

    def close_call(self, handle: GenerationHandle) -> None:
        """Stop counting it as active."""

    def misuse(self, key: str, message: str) -> None:
        """Log a warning, once per key."""


class GenerationHandle:
    """Times one model call and records it.

    A context manager, also for ``async with``. An exception in the block is recorded as a failure
    and propagates; a cancellation (``asyncio.CancelledError``, ``GeneratorExit``) is recorded as
    cancelled. Both keep the tokens reported so far, and a failure those that its exception carries.
    Each block is one call, even if the handle is reused. If several tasks or threads enter one
    handle at once, each gets a handle of its own from ``as``, and a warning is logged.

    Also a decorator of plain and ``async`` functions: every call of the function is one model call,
    and tokens, model and finish reason are read from its return value. If that is a stream, or the
    function is a generator, the chunks are read as they pass, and the call ends with them.

    Args:
        recorder: The monitor.
        model: The model that is called; None means the one that the response passed to
            :meth:`usage` names, else the monitor's default.
        step: The step of the pipeline; None means that of ``genmeter.step``, if any.
        provider: Who serves the model, by the OpenTelemetry conventions, such as ``openai``.
        operation: The kind of call, such as ``chat`` or ``embeddings``.
        service_tier: The tier it is billed by, such as ``flex``, if the response does not name it.
        batch: Whether it is billed at batch prices.
        metadata: Free data for exports; copied.

    Attributes:
        recorder: As passed.
        labels: The labels of the active call, as plain data.
        is_gated: Whether a budget may refuse the call: False for one that its hook could not refuse, which
            is sent whatever the gate says.
    """

    # Set by calls that need them; the others are spared the time.
    _model: Any = None
    _reason: Any = None
    _usage: CallUsage | None = None
    _retries: list[Any] | None = None
    _error: Any = None
    _cost: Any = None
    _flows: list[Flow] | None = None
    _children: list[_Child] | None = None
    _is_recorded = False
    _entered_step: Any = None
    _outer: Block | None = None
    _is_marked = False
    _observed: list[ObservedCall] | None = None
    is_gated = True
    _period: tuple[float, float] | None = None

    def __init__(
        self,
        recorder: CallRecorder,
        *,
        model: str | None = None,
        step: str | None = None,
        provider: str | None = None,
        operation: str | None = None,
        service_tier: str | None = None,
        batch: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._given_model = model
        if model is not None:
            self._model = model
        self.recorder = recorder
        self._step = step
        self._provider = provider
        self._operation = operation
        self._service_tier = service_tier
        self._batch = batch
        self._metadata = metadata
        self.labels: dict[str, str | None] = {}
        # Taken by the one who enters; atomic, unlike a flag.
        self._vacancy = [True]
        self._started = perf_counter()

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled.

        Raises:
            TypeError: Always.
        """
        raise unpicklable(
            "the handle of a call",
            "pass the monitor, and begin the call with monitor.generation(...) in the other process",
        )

    def __repr__(self) -> str:
        model, step = capture_label(self.model), capture_label(self._step)  # which may raise
        return f"<GenerationHandle of {model or 'the default model'}, step {step}>"

    @property
    def model(self) -> str | None:
        """The model: as given or set, else the one that answered; may be set in the block."""
        if self._model is None and self._usage is not None:
            return self._usage.model
        model: str | None = self._model
        return model

    @model.setter
    def model(self, model: str | None) -> None:
        self._model = model

    @property
    def finish_reason(self) -> str | None:
        """Why the model stopped: as set, else as the response says; may be set in the block."""
        if self._reason is None and self._usage is not None:
            return self._usage.finish_reason
        reason: str | None = self._reason
        return reason

    @finish_reason.setter
    def finish_reason(self, reason: str | None) -> None:
        self._reason = reason

    def usage(self, response: Any = None, *, add: bool = False, **counts: Any) -> None:
        """Set the tokens that the call used; a later call overrides the counts that it names.

        Args:
            response: A response of a vendor's client, a chunk of a stream, a usage object, or a
                mapping of their JSON. Model, finish reason, service tier and reported cost are read
                too. An object that is not understood is counted and logged.
            add: Whether this is another billed attempt, such as a repeated answer or the next turn
                of an agent: its tokens are added to those before.
            **counts: ``prompt_token_count``, ``completion_token_count``, ``total_token_count``,
                ``cache_read_token_count``, ``cache_write_token_count``,
                ``cache_write_1h_token_count`` (a part of the one before),
                ``reasoning_token_count``. They override what the response says.
        """
        if self._children:
            self = self._entered_here()  # noqa: PLW0642 - one of several calls
        usage = self._usage
        if usage is None:
            usage = self._usage = CallUsage()
        elif add:
            usage.begin_attempt()
        if response is not None:
            if usage.read(response):
                if self._flows:
                    self._flows[-1].settle(is_another=add)
            elif is_stream(response):
                self._refuse_stream(response, usage)
        elif not counts:
            usage.miss()
        if counts:
            usage.override(counts)

    def stream(self, stream: _S) -> _S:
        """Return the stream, timed and read: ``for chunk in call.stream(stream)``.

        Works for plain and asynchronous streams alike, for context managers that open one, and for
        the mapping that Bedrock's ``converse_stream`` returns, whose stream it is. The chunks are
        the stream's own, and so are its attributes. The time of the first chunk and of those between
        chunks is recorded.

        An exhausted stream is a success and one that raises a failure. One that is left before its
        end (``break``, ``close()``, the end of the block) is recorded as cancelled. The tokens so far
        count in each case. A second stream, as after a broken one, is another billed attempt.

        OpenAI, and servers of its kind, send the usage of a chat stream only if the request has
        ``stream_options={"include_usage": True}``.

        Args:
            stream: What the client returned.
        """
        if self._children:
            self = self._entered_here()  # noqa: PLW0642 - one of several calls
        if self._vacancy:
            self.recorder.misuse(
                "stream_without_block",
                "call.stream() was called outside of the call's block, so the stream is not "
                "recorded; write `with monitor.generation(...) as call:` around the loop that "
                "reads it, or decorate the function that returns it",
            )
            return stream
        if (flow := flow_of(stream)) is not None and flow in (self._flows or ()):
            return stream  # its own proxy
        proxy: Any = self._proxy(stream, None)
        return stream if proxy is None else proxy

    def cost(self, usd: float) -> None:
        """Set what the call cost, as its provider or a proxy billed it; it overrides all prices.

        Args:
            usd: USD of the whole call, with all its attempts.
        """
        if self._children:
            self = self._entered_here()  # noqa: PLW0642 - one of several calls
        self._cost = usd

    def retry(self, error: Any = None) -> None:
        """Record that the call is retried.

        Args:
            error: The cause: an exception, its class or its name. Rate limits (status 429, or
                named so) count as ``rate_limited``.
        """
        if self._children:
            self = self._entered_here()  # noqa: PLW0642 - one of several calls
        if self._retries is None:
            self._retries = []
        self._retries.append(error)

    def fail(self, error: Any = None) -> None:
        """Mark the call as failed although no exception is raised.

        Args:
            error: The exception or a text. Usage that an exception carries is read.
        """
        if self._children:
            self = self._entered_here()  # noqa: PLW0642 - one of several calls
        self._error = "failed" if error is None else error

    def __enter__(self) -> Self:
        """Start the call and its timer.

        Raises:
            BudgetError: The budget of the job, if ``MonitorConfig`` has one, refuses the call.
        """
        if self.is_gated and gate.is_guarded():
            gate.check()
        try:
            self._vacancy.pop()
        except IndexError:
            return self._enter_child()  # type: ignore[no-any-return]
        if self._is_recorded:
            # A reused handle: the previous call's model and finish reason are not this one's.
            self._is_recorded = False
            self._model, self._reason = self._given_model, None
        self._entered_step = step = step_or_current(self._step, self._metadata)
        self.labels = {
            "model_name": capture_label(self._model),
            "step": capture_label(step),
            "provider": capture_label(self._provider),
            "operation": capture_label(self._operation),
        }
        self.recorder.open_call(self)
        if is_marking():
            self._outer, self._is_marked = enter(self), True
        self._started = perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the call and record it; an exception is recorded and propagates."""
        ended = perf_counter()
        if self._children and (child := self._exit_child()) is not None:
            child.__exit__(kind, error, traceback)
            return
        self.recorder.close_call(self)
        self.unmark()
        self._end(ended - self._started, error)
        self._vacancy = [True]

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

    @overload
    def __call__(self, function: Callable[_P, Awaitable[_R]]) -> Callable[_P, Awaitable[_R]]: ...
    @overload
    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]: ...
    def __call__(self, function: Callable[_P, Any]) -> Callable[_P, Any]:
        """Decorate a function that returns the model's response or stream, or is a generator.

        Raises:
            ConfigError: ``function`` is not callable, such as a ``classmethod`` object.
        """
        return decorated(function, lambda: self._like_this(self._model))

    # --- what others observe in the block --------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the call goes on."""
        return not self._vacancy

    @property
    def outer(self) -> Block | None:
        """The block of ours that is open around this one."""
        return self._outer

    @property
    def period(self) -> tuple[float, float] | None:
        """Unix times of the beginning and the end, in seconds; None while the call goes on."""
        return None if self.is_open else self._period

    def belongs_to(self, monitor: object) -> bool:
        """Return whether this is a call of a monitor, through a hook or not."""
        return getattr(self.recorder, "monitor", self.recorder) is monitor

    def observe(self, call: ObservedCall) -> bool:
        """Add what an instrumentation or a hook observed of this call; it adds only what is lacking.

        Args:
            call: A call that ended inside of the block.

        Returns:
            Whether the block is open, so that the call is a part of it.
        """
        if not self.is_open:
            return False
        if self._observed is None:
            self._observed = []
        node = call.node
        if node is None or all(
            each.node is None or each.node.key != node.key for each in self._observed
        ):
            self._observed.append(call)
        return True

    @property
    def has_retries(self) -> bool:
        """Whether the call was repeated so far."""
        return self._retries is not None

    def mark_unread(self, unread: Unread) -> None:
        """Note why the usage of the call is not known."""
        if self._usage is None:
            self._usage = CallUsage()
        self._usage.mark_unread(unread)

    def begin_flow(self) -> Flow:
        """Return what takes the chunks of an answer that come by callbacks rather than from a stream."""
        if self._usage is None:
            self._usage = CallUsage()
        flow = Flow(self._usage.begin_stream())
        self._flows = [flow]
        return flow

    def drop(self) -> list[ObservedCall]:
        """End the call without a record; returns what was observed of it."""
        self.recorder.close_call(self)
        self._vacancy = [True]
        observed, self._observed = self._observed, None
        return observed or []

    def resume(self) -> None:
        """Mark the block again, after :meth:`pause`."""
        self._outer, self._is_marked = enter(self), True

    def pause(self) -> bool:
        """Unmark the block while others' code runs in its context; returns whether it was marked."""
        is_marked = self._is_marked
        self.unmark()
        return is_marked

    def unmark(self) -> None:
        """Take the mark of the block back: what the caller does next is no part of the call."""
        if self._is_marked:
            leave(self, self._outer)
            self._is_marked = False

    # --- the end ---------------------------------------------------------------------------------

    def _end(self, duration: float, error: BaseException | None) -> None:
        """Record the call, and forget what belongs to it."""
        failure = self._error if error is None else error
        is_cancelled = False
        flows = self._flows
        if flows is not None:
            self._leave_flows(flows)
            if failure is None:
                failure = flows[-1].error
                is_cancelled = flows[-1].is_left
        if failure is not None:
            # By type(): an object given to fail() may raise if it is asked for its class.
            if issubclass(type(failure), Exception):
                self._read_error(failure)
            elif _is_cancellation(failure):
                failure, is_cancelled = None, True
        success = failure is None and not is_cancelled
        usage = self._usage
        keywords: dict[str, Any] = {}
        details = None
        if usage is not None:
            keywords, details = self._summary(usage, success=success)
        else:
            self._put_tier(keywords, None)
        if flows is not None or is_cancelled:
            details = _with_flows(details or CallDetails(), flows or [], self._started)
            details = details._replace(is_cancelled=is_cancelled)
        self._put_arguments(keywords, failure)
        if is_marking():
            now = clock.now()
            self._period = (now - duration, now)
            observed, self._observed = self._observed, None
            if observed:
                keywords, details = complete(keywords, details, observed, began=now - duration)
        # Nothing may change a recorded object, nor be recorded twice.
        self._usage = self._retries = self._error = self._cost = self._flows = None
        self._is_recorded = True
        self.recorder.record_call(duration, success, keywords, details)

    def _put_arguments(self, keywords: dict[str, Any], failure: Any) -> None:
        """Add what the call was begun with, and how it went, as far as it is known."""
        # One by one: a loop over the names takes three times as long.
        if failure is not None:
            keywords["error"] = failure
        if self._reason is not None:
            keywords["finish_reason"] = self._reason
        if self._retries is not None:
            keywords["retries"] = self._retries
        if self._metadata is not None:
            keywords["metadata"] = self._metadata
        if self._model is not None:
            keywords["model_name"] = self._model
        if self._entered_step is not None:
            keywords["step"] = self._entered_step
        if self._provider is not None:
            keywords["provider"] = self._provider
        if self._operation is not None:
            keywords["operation"] = self._operation
        if self._cost is not None:
            keywords["cost"] = self._cost

    def _summary(
        self, usage: CallUsage, *, success: bool
    ) -> tuple[dict[str, Any], CallDetails | None]:
        tier = self._service_tier
        summary = usage.summarise(
            service_tier=None if tier is None else _tier(tier),
            is_batch=self._batch is not False and capture_bool(self._batch) is True,
        )
        keywords = summary.keywords
        if summary.model is not None:
            keywords["response_model"] = summary.model
            if self._model is None:
                self._model = summary.model
        if self._reason is None:
            self._reason = summary.finish_reason
        self._put_tier(keywords, summary.service_tier)
        for answer in summary.answers:
            if answer.is_batch:
                keywords["batch"] = True
        unread = summary.unread if success else None
        if not summary.answers and unread is None:
            return keywords, None
        return keywords, CallDetails(summary.answers, unread=unread)

    def _put_tier(self, keywords: dict[str, Any], tier: str | None) -> None:
        tier = self._service_tier if tier is None else tier
        if tier is not None:
            keywords["service_tier"] = tier
        if self._batch is not False:
            keywords["batch"] = self._batch

    def _read_error(self, error: BaseException) -> None:
        """Read the answer that an exception carries: it was billed all the same."""
        readings = read_error(error)
        if readings:
            if self._usage is None:
                self._usage = CallUsage()
            self._usage.add(readings)

    # --- streams ---------------------------------------------------------------------------------

    def _proxy(self, stream: Any, on_end: Callable[[Flow], object] | None) -> CallStream | None:
        if self._usage is None:
            self._usage = CallUsage()
        flow = Flow(self._usage.begin_stream(), on_end)
        proxy = proxy_of(stream, flow)
        if proxy is None:
            self._usage.read(stream)
            self.recorder.misuse(
                f"no_stream:{class_name(type(stream))}",
                f"call.stream() got an object of {class_name(type(stream))}, which is no stream; "
                "pass a response to call.usage(), and await a coroutine first",
            )
            return None
        if self._flows is None:
            self._flows = []
        self._flows.append(flow)
        return proxy

    def stream_to_end(self, stream: Any) -> Any:
        """Return a proxy of a stream that a decorated function returns; the call ends with it."""

        def end(flow: Flow) -> None:
            self.__exit__(None, flow.error, None)

        self.unmark()  # what the caller does before the end of the stream is no part of the call
        proxy = self._proxy(stream, end)
        if proxy is None:
            self.__exit__(None, None, None)
            return stream
        return proxy

    def _leave_flows(self, flows: list[Flow]) -> None:
        for flow in flows:
            if not flow.is_ended:
                flow.on_end = None
                flow.leave()
            flow.on_late = self._warn_of_late_chunks

    def _warn_of_late_chunks(self) -> None:
        self.recorder.misuse(
            "late_chunks",
            "a stream was read after the block of its call had ended, so these chunks are not "
            "recorded; read call.stream() in the block, or decorate the function that returns "
            "the stream with @monitor.generation(...)",
        )

    def _refuse_stream(self, stream: Any, usage: CallUsage) -> None:
        name = class_name(type(stream))
        usage.mark_unread(Unread("stream", name))
        self.recorder.misuse(
            f"usage_of_stream:{name}",
            f"call.usage() got a stream ({name}), whose usage comes with its chunks; "
            "write `for chunk in call.stream(stream)`",
        )

    # --- several entries at once -----------------------------------------------------------------

    def _like_this(self, model: Any) -> GenerationHandle:
        return GenerationHandle(
            self.recorder,
            model=model,
            step=self._step,
            provider=self._provider,
            operation=self._operation,
            service_tier=self._service_tier,
            batch=self._batch,
            metadata=self._metadata,
        )

    def _enter_child(self) -> Any:
        """Enter a handle of this block's own, since another block of this handle is open."""
        self.recorder.misuse(
            "shared_handle",
            "one handle of monitor.generation() was entered by two tasks or blocks at once; each "
            "is recorded as a call, but create one handle per call with monitor.generation(...)",
        )
        child = self._like_this(self._given_model)
        if self._children is None:
            self._children = []
        self._children.append(_Child(child, *_block()))
        return child.__enter__()

    def _exit_child(self) -> GenerationHandle | None:
        """Take the handle whose block ends; None if it is the block of this one."""
        children = self._children
        if not children:
            return None
        frame, task = _block()
        found = next((each for each in children[::-1] if each[1:] == (frame, task)), None)
        if found is None and self._vacancy:
            found = children[0]  # no other block can be meant: it was entered elsewhere
        if found is None:
            return None
        children.remove(found)
        return found.handle

    def _entered_here(self) -> Self:
        """Return the handle whose block the caller is in."""
        frame, _ = _block()
        children = (self._children or [])[::-1]
        while frame is not None:
            for child in children:
                if child.frame is frame:
                    return child.handle  # type: ignore[return-value]
            frame = frame.f_back
        task = _task()
        for child in children:
            if child.frame is None and child.task == task:
                return child.handle  # type: ignore[return-value]
        return self


class _Child(NamedTuple):
    """A handle for a block of a handle that had an open block.

    Attributes:
        handle: The handle.
        frame: Where the block is; None if an ``ExitStack`` entered it.
        task: In which thread and task an ``ExitStack`` entered it; else None.
    """

    handle: GenerationHandle
    frame: FrameType | None
    task: object


def _with_flows(details: CallDetails, flows: list[Flow], started: float) -> CallDetails:
    """Add the times of the streams: the first chunk of all, and the gaps within each stream."""
    timed = [flow for flow in flows if flow.times]
    if not timed:
        return details
    gaps = array("d")
    for flow in timed:
        gaps.extend(flow.gaps()[: MAX_TIMES - len(gaps)])
    return details._replace(first_chunk=timed[0].times[0] - started, chunk_gaps=gaps)


def _tier(tier: Any) -> str | None:
    text = capture_label(tier)
    return None if text is None else text.strip().lower() or None


def _is_cancellation(error: Any) -> bool:
    """Return whether an exception ends a task or a generator early, rather than a failure."""
    kind = type(error)
    if issubclass(kind, asyncio.CancelledError | GeneratorExit):
        return True
    # Trio's, and so AnyIO's on Trio, without an import of it.
    try:
        name = f"{kind.__module__}.{kind.__name__}"
    except UNREADABLE:
        return False
    return (
        issubclass(kind, BaseException) and name.startswith("trio.") and name.endswith(".Cancelled")
    )


def _block() -> tuple[FrameType | None, object]:
    """Identify the block that enters or exits: by its frame, or for an exit stack by the task."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - documented, and in each CPython
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename == contextlib.__file__:
        return None, _task()
    return frame, None


def _task() -> object:
    """Identify the thread and, in an event loop, the task."""
    task: object = None
    try:
        task = asyncio.current_task()
    except RuntimeError:
        trio = sys.modules.get("trio")
        if trio is not None:
            try:
                task = trio.lowlevel.current_task()
            except UNREADABLE:
                task = None
    return threading.get_ident(), task
