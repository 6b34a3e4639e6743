"""LiteLLM's hook: each call that was not served from LiteLLM's cache, with the cost that LiteLLM states.

A ``CustomLogger``, which LiteLLM calls on a thread or task of its own after the call has returned: flush with
:func:`flush` before the totals are read. A request that LiteLLM repeats itself (``num_retries``) after it has
reported the failure, a fallback and another deployment of its Router are calls of their own; retries of the
vendor's client are not seen. What observes the client below, and the report, are of one call by its identity
(``observed.identity``), which LiteLLM's functions begin: a call of a function that the job has imported by its
name before the hook was connected has none, and is compared by its times.

Of a stream the time of the first chunk is known, but no gaps. If neither OpenAI's server nor one of its kind was
asked for the usage of a stream (``include_usage``), LiteLLM estimates it; an estimate is no count, so the tokens
are recorded as unknown. So are those of an answer without usage, for which LiteLLM states 0.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from genmeter import clock
from genmeter.call.attempts import CallUsage
from genmeter.clock import seconds_left
from genmeter.events.answers import CallDetails, Unread
from genmeter.events.capture import capture_keywords
from genmeter.events.values import UNREADABLE
from genmeter.fork_lock import ForkLock
from genmeter.hooks._base import FrameworkHook, Unsupported, open_block
from genmeter.hooks._replacing import Replaced
from genmeter.hooks._tables import OpenTable
from genmeter.hooks.frameworks import FRAMEWORKS
from genmeter.observed import identity
from genmeter.observed.around import run_in
from genmeter.observed.model import ObservedCall
from genmeter.observed.steps import current_step

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from genmeter.monitor import GenerationMonitor
    from genmeter.observed import blocks

__all__ = ["flush", "install", "uninstall"]

_MAX_BODY = 4_000_000
"""Characters of an answer's JSON that is read on the caller's thread, where a block of ours is open."""
_POLL = 0.01
_FRAMES = 5
_LISTS = (
    *("callbacks", "input_callback", "success_callback", "failure_callback"),
    *("_async_input_callback", "_async_success_callback", "_async_failure_callback"),
)
_OPERATIONS = {
    "completion": "chat",
    "responses": "chat",
    "anthropic_messages": "chat",
    "text_completion": "text_completion",
    "embedding": "embeddings",
    "generate_content": "generate_content",
}
_ASKS_FOR_USAGE = frozenset({"openai", "azure", "custom_openai", "text-completion-openai"})
_UNREPORTED = Unread("not_reported", "")
_NO_USAGE = Unread("no_usage", "an answer")
_ESTIMATED = Unread("no_usage", "a stream without include_usage")


def install(monitor: GenerationMonitor | None = None) -> None:
    """Record the calls that LiteLLM makes.

    Args:
        monitor: Where they are recorded; None means the process's monitor.

    Raises:
        ConfigError: ``monitor`` is not a GenerationMonitor.
    """
    _hook.install(monitor)


def uninstall() -> None:
    """Stop recording them; calls that LiteLLM has not reported yet are not recorded."""
    _hook.uninstall()


def flush(timeout: float = 5.0) -> bool:
    """Wait until LiteLLM has reported all calls that were answered.

    Not in a running event loop, which the reports of its own calls would wait for: await
    ``litellm.litellm_core_utils.logging_worker.GLOBAL_LOGGING_WORKER.flush()`` there.

    Args:
        timeout: Seconds.

    Returns:
        Whether it has.
    """
    until = time.monotonic() + timeout
    with suppress(*UNREADABLE):
        _flush_worker(seconds_left(until))
    while any(each.is_answered for each in _began.values()):
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL)
    return True


def _flush_worker(timeout: float) -> None:
    """Run what calls of an event loop that has ended have left to LiteLLM's worker."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        worker = sys.modules["litellm.litellm_core_utils.logging_worker"].GLOBAL_LOGGING_WORKER
        loop = getattr(worker, "_bound_loop", None)
        if loop is None or not loop.is_closed():
            return
        asyncio.run(asyncio.wait_for(worker.flush(), timeout))


class _Began:
    """A request that LiteLLM has sent and not reported yet.

    Attributes:
        block: The block of ours that was open around it.
        model: As it was sent to the provider.
        provider: In LiteLLM's word.
        operation: Of the call.
        identity: Of the call; None if it was made by a function that was not replaced.
        step: That the caller's code was in.
        at: Unix time.
        attempts: How often it was sent before LiteLLM reports it.
        is_answered: Whether it has an answer that is no stream.
        answer: That answer, as the provider sent it: an object, or JSON.
        answered: Unix time of it.
        is_observed: Whether the block has got the answer.
        is_repeated: Whether LiteLLM has reported a failure of the same call before.
        key: LiteLLM's id of the call.
        loop: Refers to the event loop that it runs in; None without one.
        watch: Refers to LiteLLM's object of the call.
    """

    __slots__ = (
        *("answer", "answered", "at", "attempts", "block", "identity", "is_answered"),
        *("is_observed", "is_repeated", "is_stream", "key", "loop"),
        *("model", "operation", "provider", "step", "watch"),
    )

    def __init__(self, kwargs: dict[str, Any], *, is_repeated: bool) -> None:
        self.block: blocks.Block | None = open_block()
        self.provider = _text(kwargs.get("custom_llm_provider"))
        self.model = _model(kwargs.get("model"), self.provider)
        self.operation = _operation(kwargs.get("call_type"))
        self.identity = identity.current()
        self.step = current_step()
        self.is_stream = kwargs.get("stream") is True
        self.at = self.answered = clock.now()
        self.attempts = 0
        self.answer: Any = None
        self.is_answered = self.is_observed = False
        self.is_repeated = is_repeated
        self.key = str(kwargs.get("litellm_call_id"))
        self.loop: weakref.ref[Any] | None = None
        with suppress(RuntimeError):
            self.loop = weakref.ref(asyncio.get_running_loop())
        self.watch: weakref.ref[Any] | None = None

    @property
    def is_forsaken(self) -> bool:
        """Whether its event loop has ended, which LiteLLM needs to report it."""
        if self.loop is None:
            return False
        loop = self.loop()
        return loop is None or bool(loop.is_closed())


_began: OpenTable[_Began] = OpenTable()
_reported: OpenTable[tuple[float, float]] = OpenTable()
"""Starts and ends of the calls that were reported last, by id and whether they succeeded."""
_lock = ForkLock()


def _text(value: Any) -> str | None:
    return value if type(value) is str and value else None


def _model(name: Any, provider: str | None) -> str | None:
    text = _text(name)
    return text if text is None or provider is None else text.removeprefix(f"{provider}/")


def _operation(call_type: Any) -> str | None:
    text = _text(getattr(call_type, "value", call_type))
    if text is None:
        return None
    for name in (text, text.removeprefix("a")):
        if name in _OPERATIONS:
            return _OPERATIONS[name]
    return text


# --- on the caller's thread ----------------------------------------------------------------------


def _before_request(kwargs: Any) -> None:
    key = kwargs["litellm_call_id"]
    with _lock:
        found = _began.get(key)
        if found is None:
            found = _Began(kwargs, is_repeated=(key, False) in _reported)
            _began.add(key, found)
        elif found.identity is not identity.current():
            found.identity = None  # another call of the function has the same id, as of a Router
        found.attempts += 1
        found.is_answered, found.answer = False, None
        if found.watch is None:
            found.watch = _watch(kwargs, key)
    if found.loop is not None:
        _hook.monitor.observer.add_unreported_source(_take_forsaken)


def _watch(kwargs: Any, key: str) -> weakref.ref[Any] | None:
    """Watch LiteLLM's object of the call, which calls this: it reports no call that was cancelled."""
    frame = sys._getframe(1)  # noqa: SLF001 - documented, and in each CPython
    for _ in range(_FRAMES + 3):
        if frame is None or frame.f_back is None:
            break
        frame = frame.f_back
        owner = frame.f_locals.get("self")
        if owner is not None and getattr(owner, "model_call_details", None) is kwargs:
            with suppress(TypeError):
                return weakref.ref(owner, lambda _: _lost(key))
    return None


def _after_answer(kwargs: Any) -> None:
    found = _began.get(kwargs["litellm_call_id"])
    if found is None or kwargs.get("stream") is True:
        return
    found.is_answered, found.answered = True, clock.now()
    found.answer = kwargs.get("original_response")
    block = found.block
    if block is None or not block.is_open:
        return
    # The block may end before LiteLLM reports the call on its own thread.
    call = _answered(found)
    if call is not None:
        found.is_observed = block.observe(call)


def _answered(found: _Began) -> ObservedCall | None:
    """Return a call by its answer, before LiteLLM reports it; None if its usage cannot be read."""
    answer, found.answer = found.answer, None
    if type(answer) is str:
        if len(answer) > _MAX_BODY or not answer.startswith("{"):
            return None
        try:
            answer = json.loads(answer)
        except ValueError:
            return None
    keywords, details = _usage(answer, is_success=True)
    if not details.answers:
        return None
    keywords.update(_labels(found))
    return ObservedCall(
        _hook.source,
        found.answered,
        found.answered - found.at,
        True,
        keywords,
        details,
        response_id=_id(answer, found),
        identity=found.identity,
    )


def _id(response: Any, found: _Began) -> str | None:
    if found.operation == "embeddings":
        return None
    is_mapping = isinstance(response, dict)
    return _text(response.get("id") if is_mapping else getattr(response, "id", None))


def _labels(found: _Began) -> dict[str, Any]:
    labels = {
        "model_name": found.model,
        "provider": found.provider,
        "operation": found.operation,
        "step": found.step,
        "retries": found.attempts - 1 or None,
    }
    return {name: value for name, value in labels.items() if value is not None}


def _lost(key: str) -> None:
    """Record a call whose object is gone without a report: it was cancelled, or its stream left.

    Or it was answered, and LiteLLM has dropped its report, as it does when too many wait, and with an event
    loop that ends right after the answer.
    """
    found = _began.take(key)
    if found is None or found.is_observed or found.is_repeated or not _hook.is_active:
        return
    with suppress(*UNREADABLE):
        _deliver(_unreported(found), found)


def _unreported(found: _Began) -> ObservedCall:
    """Return a call that LiteLLM does not report."""
    is_answered = found.is_answered
    if is_answered and (call := _answered(found)) is not None:
        return call
    ended = found.answered if is_answered else clock.now()
    # Whether a stream was read to its end is in the report only.
    is_success = is_answered or (found.is_stream and found.is_forsaken)
    details = CallDetails(is_cancelled=not is_success, unread=_UNREPORTED if is_success else None)
    return ObservedCall(
        _hook.source,
        ended,
        ended - found.at,
        is_success,
        _labels(found),
        details,
        identity=found.identity,
    )


def _take_forsaken(seconds: float) -> list[ObservedCall]:
    """Return the calls of event loops that have ended, after so many seconds; see ``Observer``.

    Their objects may stay until the process ends, which need not collect them.
    """
    taken: list[ObservedCall] = []
    with suppress(*UNREADABLE):
        for found in _began.values():
            if clock.now() - found.answered < seconds or not found.is_forsaken:
                continue
            with _lock:
                if _began.take(found.key) is None:
                    continue
                _reported.add((found.key, True), (found.at, math.inf))
            if found.is_observed or found.is_repeated or not _hook.is_active:
                continue
            call = _unreported(found)
            if found.block is None:
                taken.append(call)
            else:
                found.block.observe(call)
    return taken


# --- LiteLLM's reports ---------------------------------------------------------------------------


def _report(kwargs: Any, response: Any, started: Any, ended: Any, *, is_success: bool) -> None:
    payload = kwargs.get("standard_logging_object")
    if not isinstance(payload, dict):
        payload = {}
    began = _seconds(payload.get("startTime"), started)
    end = _seconds(payload.get("endTime"), ended) or clock.now()
    found = _reported_first(kwargs, began, end, is_success=is_success)
    is_hit = True in (kwargs.get("cache_hit"), payload.get("cache_hit"))
    if found is None or is_hit or (found.is_observed and is_success):
        return
    keywords, details, error_class = _outcome(kwargs, payload, response, found, is_success)
    first = _seconds(payload.get("completionStartTime"), None)
    # Without a chunk LiteLLM states the end.
    if found.is_stream and first is not None and began is not None and first < end:
        details = details._replace(first_chunk=max(0.0, first - began))
    call = ObservedCall(
        _hook.source,
        end,
        None if began is None else max(0.0, end - began),
        is_success,
        keywords,
        details,
        error_class,
        _id(response, found),
        identity=found.identity,
    )
    _deliver(call, found)


def _reported_first(
    kwargs: Any, began: float | None, end: float, *, is_success: bool
) -> _Began | None:
    """Return what is known of a call that is reported; None if it has been, at about the same time.

    That is by another list, with the same times; or by the function around the one that was called, such as
    `text_completion` around `completion`: LiteLLM drops the second report unless both threads are at it
    at once.
    """
    key = str(kwargs.get("litellm_call_id"))
    began = end if began is None else began
    with _lock:
        found = _began.take(key)
        last_began, last_end = _reported.get((key, is_success)) or (math.inf, -math.inf)
        is_same = began == last_began or (began < last_end and last_began < end)
        if found is None and is_same:
            return None
        _reported.add((key, is_success), (began, end))
    if found is None:  # no request was made, such as of a model that LiteLLM does not know
        found = _Began(kwargs, is_repeated=False)
        found.attempts = 1
        if kwargs.get("api_call_start_time") is None:
            found.identity = identity.CallIdentity()  # so nothing below has observed it
    return found


def _outcome(
    kwargs: Any, payload: dict[str, Any], response: Any, found: _Began, is_success: bool
) -> tuple[dict[str, Any], CallDetails, str | None]:
    """Return the keywords, the details and the class of the error of a call."""
    is_estimated = is_success and _is_estimated(kwargs, found)
    keywords, details = _usage(response, is_success=is_success, is_estimated=is_estimated)
    keywords.update(_labels(found))
    cost = kwargs.get("response_cost")
    has_cost = isinstance(cost, int | float) and not isinstance(cost, bool)
    if is_estimated or (details.unread is _NO_USAGE and not cost):
        has_cost = False
    if not is_success:
        keywords["error"] = kwargs.get("exception") or payload.get("error_str")
    elif has_cost:
        keywords["cost"] = float(cost)
    return keywords, details, capture_keywords(keywords)


def _deliver(call: ObservedCall, found: _Began) -> None:
    """Record a call; in a block of ours that has ended it was the block's."""
    if found.block is None:
        _hook.monitor.observer.observe(call)
    else:
        found.block.observe(call)


def _usage(
    response: Any, *, is_success: bool, is_estimated: bool = False
) -> tuple[dict[str, Any], CallDetails]:
    """Read what an answer used: keywords of ``track_generation``, and details."""
    usage = CallUsage()
    if response is not None:
        usage.read(response)
    elif is_success:
        usage.miss()
    summary = usage.summarise(service_tier=None, is_batch=False)
    keywords = dict(summary.keywords)
    details = CallDetails(summary.answers, unread=summary.unread if is_success else None)
    if is_estimated:
        keywords, details = {}, CallDetails(unread=_ESTIMATED)
    elif is_success and _is_made_up(keywords):
        keywords, details = {}, CallDetails(unread=_NO_USAGE)
    if summary.finish_reason is not None:
        keywords["finish_reason"] = summary.finish_reason
    if summary.model is not None:
        keywords["response_model"] = summary.model
    return keywords, details


def _is_made_up(keywords: dict[str, Any]) -> bool:
    """Return whether all counts are 0: LiteLLM's usage of an answer that has none."""
    counts = [keywords.get(name) for name in ("prompt_token_count", "completion_token_count")]
    return counts[0] == 0 and counts[1] in (0, None)


def _is_estimated(kwargs: Any, found: _Began) -> bool:
    """Return whether LiteLLM has counted a stream's tokens itself, since the server was not asked to."""
    if not found.is_stream or found.operation not in {"chat", "text_completion"}:
        return False
    call_type = _text(getattr(kwargs.get("call_type"), "value", kwargs.get("call_type"))) or ""
    if "completion" not in call_type:
        return False
    for options in (kwargs.get("optional_params"), kwargs):
        asked = options.get("stream_options") if isinstance(options, dict) else None
        if isinstance(asked, dict) and asked.get("include_usage"):
            return False
    litellm = sys.modules.get("litellm")
    compatible = getattr(litellm, "openai_compatible_providers", None) or ()
    is_estimated = found.provider in _ASKS_FOR_USAGE or found.provider in compatible
    if is_estimated:
        _hook.warn(
            "LiteLLM estimates the tokens of streams that were not asked for their usage, so they are "
            'recorded as unknown; pass stream_options={"include_usage": True}'
        )
    return is_estimated


def _seconds(stated: Any, given: Any) -> float | None:
    """Return a Unix time: as LiteLLM's payload states it, else of a datetime."""
    if isinstance(stated, int | float) and not isinstance(stated, bool) and stated > 0:
        return float(stated)
    with suppress(*UNREADABLE):
        return float(given.timestamp())
    return None


# --- the logger ----------------------------------------------------------------------------------


def _connect(module: ModuleType) -> Callable[[], object]:
    from litellm.integrations.custom_logger import CustomLogger

    base: Any = CustomLogger
    for name in ("log_success_event", "log_failure_event", "async_log_success_event"):
        if not callable(getattr(base, name, None)):
            raise Unsupported(f"CustomLogger has no {name}")
    if not isinstance(getattr(module, "callbacks", None), list):
        raise Unsupported("litellm.callbacks is no list")
    logger = _logger_class(base)()
    module.callbacks.append(logger)
    replaced = Replaced()
    for name in FRAMEWORKS["litellm"].functions:
        function = vars(module).get(name)
        if callable(function):
            replaced.set(module, name, run_in(identity.entered, function))

    def disconnect() -> None:
        replaced.undo()
        for name in _LISTS:
            callbacks = getattr(module, name, None)
            if isinstance(callbacks, list):
                callbacks[:] = [each for each in callbacks if each is not logger]
        _began.clear()
        _reported.clear()

    return disconnect


def _logger_class(base: Any) -> Any:
    class GenmeterLogger(base):  # type: ignore[misc]
        """Records the calls."""

        @_hook.guarded
        def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:  # noqa: ARG002
            _before_request(kwargs)

        @_hook.guarded
        def log_post_api_call(
            self,
            kwargs: Any,
            response_obj: Any,
            start_time: Any,
            end_time: Any,
        ) -> None:
            del response_obj, start_time, end_time
            _after_answer(kwargs)

        @_hook.guarded
        def log_success_event(
            self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
        ) -> None:
            _report(kwargs, response_obj, start_time, end_time, is_success=True)

        @_hook.guarded
        def log_failure_event(
            self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
        ) -> None:
            _report(kwargs, response_obj, start_time, end_time, is_success=False)

        async def async_log_success_event(
            self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
        ) -> None:
            self.log_success_event(kwargs, response_obj, start_time, end_time)

        async def async_log_failure_event(
            self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
        ) -> None:
            self.log_failure_event(kwargs, response_obj, start_time, end_time)

    return GenmeterLogger


_hook = FrameworkHook(FRAMEWORKS["litellm"], module="litellm", connect=_connect)
