"""Hook of vLLM's offline engine: each prompt of ``LLM.generate`` and ``LLM.chat`` is a call.

Both methods return one ``RequestOutput`` a prompt, in the prompts' order: token ids of prompt and outputs,
reasons, and times if the engine keeps statistics (``disable_log_stats=False``). Without those the duration
of a call in a batch is unknown; that of a single one is measured. If a method raises, each of its prompts
failed.

vLLM is too large for this project's tests: the hook was tried on objects of the shapes that vLLM documents
(``RequestOutput``, ``CompletionOutput``, and the two shapes of ``metrics``).
"""

from __future__ import annotations

import functools
import inspect
import math
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from genmeter import clock
from genmeter.events.answers import Answer, CallDetails, TokenCounts, Unread
from genmeter.events.capture import capture_keywords, capture_label, capture_number
from genmeter.events.values import UNREADABLE
from genmeter.hooks._base import FrameworkHook, Unsupported, open_block
from genmeter.hooks._replacing import Replaced
from genmeter.hooks.frameworks import FRAMEWORKS
from genmeter.observed import gate
from genmeter.observed.model import ObservedCall

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from genmeter.monitor import GenerationMonitor

__all__ = ["install", "is_active", "uninstall"]

_SOURCE = FRAMEWORKS["vllm"].source
_OPERATIONS = {"generate": "text_completion", "chat": "chat"}
_MAX_PROMPTS = 1_000_000

_is_inside: ContextVar[bool] = ContextVar("genmeter_vllm", default=False)


class _Batch:
    """One call of ``generate`` or ``chat``."""

    def __init__(self, llm: Any, name: str, prompts: Any) -> None:
        self.began = clock.now()
        self.block = open_block()
        self._labels = {
            "model_name": _model_of(llm),
            "provider": "vllm",
            "operation": _OPERATIONS[name],
        }
        self._prompts = _count_of(prompts, is_chat=name == "chat")

    def answer(self, outputs: Any) -> None:
        """Record the calls of a batch that is answered."""
        ended = clock.now()
        results = outputs if type(outputs) is list else list(outputs)
        for result in results:
            self._record(*self._times(result, ended, len(results)), result)

    def fail(self, error: BaseException) -> None:
        """Record the calls of a batch that raised: none of its prompts has an answer."""
        ended = clock.now()
        duration = ended - self.began if self._prompts == 1 else None
        is_failure = issubclass(type(error), Exception)
        keywords: dict[str, Any] = {**self._labels, **({"error": error} if is_failure else {})}
        error_class = capture_keywords(keywords)
        call = ObservedCall(
            _SOURCE,
            ended,
            duration,
            success=False,
            keywords=keywords,
            details=CallDetails(is_cancelled=not is_failure),
            error_class=error_class,
        )
        for _ in range(min(self._prompts, _MAX_PROMPTS)):
            self._observe(call._replace(keywords=dict(keywords)))

    def _times(
        self, result: Any, ended: float, count: int
    ) -> tuple[float, float | None, float | None]:
        """Return when a call ended, its duration and that until its first token, in seconds."""
        metrics = getattr(result, "metrics", None)
        arrival, first, last = (
            _seconds(metrics, name)
            for name in ("arrival_time", "first_token_time", "finished_time")
        )
        if arrival is not None and last is not None and last >= arrival:
            chunk = None if first is None else max(0.0, first - arrival)
            return last, last - arrival, chunk
        # The newer shape: times of another clock, and the seconds until the first token.
        latency, first, last = (
            _seconds(metrics, name)
            for name in ("first_token_latency", "first_token_ts", "last_token_ts")
        )
        if latency is not None and first and last is not None and last >= first:
            duration = latency + last - first
            end = ended if arrival is None else min(ended, arrival + duration)
            return end, duration, latency
        return ended, ended - self.began if count == 1 else None, None

    def _record(
        self, ended: float, duration: float | None, chunk: float | None, result: Any
    ) -> None:
        choices = getattr(result, "outputs", None)
        texts = [each for each in choices if each is not None] if choices is not None else []
        prompt = _length(getattr(result, "prompt_token_ids", None))
        lengths = [_length(getattr(each, "token_ids", None)) for each in texts]
        output = sum(length for length in lengths if length is not None) if texts else None
        if None in lengths:
            output = None
        cached = capture_number(getattr(result, "num_cached_tokens", None))
        tokens = TokenCounts(
            prompt, output, cache_read=cached if type(cached) is int and cached >= 0 else None
        )
        reasons = [capture_label(getattr(each, "finish_reason", None)) for each in texts]
        known = tuple(reason for reason in reasons if reason is not None)
        keywords: dict[str, Any] = {
            **self._labels,
            "prompt_token_count": tokens.input,
            "completion_token_count": tokens.output,
            "cache_read_token_count": tokens.cache_read,
            "finish_reason": "length" if "length" in known else next(iter(known), None),
        }
        details = CallDetails(first_chunk=chunk)
        if prompt is None or output is None:
            # A part of the tokens would look like all of them.
            keywords = {name: keywords[name] for name in (*self._labels, "finish_reason")}
            details = details._replace(unread=Unread("no_usage", "RequestOutput"))
        else:
            answer = Answer(tokens, self._labels["model_name"], known)
            details = details._replace(answers=(answer,))
        is_cancelled = "abort" in known
        plain = {name: value for name, value in keywords.items() if value is not None}
        self._observe(
            ObservedCall(
                _SOURCE,
                ended,
                duration,
                success=not is_cancelled,
                keywords=plain,
                details=details._replace(is_cancelled=is_cancelled),
            )
        )

    def _observe(self, call: ObservedCall) -> None:
        _hook.observe(call, self.block)


def _seconds(metrics: Any, name: str) -> float | None:
    value = capture_number(getattr(metrics, name, None))
    return float(value) if type(value) in {int, float} and math.isfinite(value) else None


def _length(ids: Any) -> int | None:
    return None if ids is None else len(ids)


def _model_of(llm: Any) -> str | None:
    """Return the name that a model is served under, or that of the model."""
    engine = getattr(llm, "llm_engine", None)
    config = getattr(engine, "model_config", None) or getattr(llm, "model_config", None)
    for name in ("served_model_name", "model"):
        value = getattr(config, name, None)
        if type(value) is list and value:
            value = value[0]
        if type(value) is str and value:
            return value
    return None


def _count_of(prompts: Any, *, is_chat: bool) -> int:
    """Return the number of prompts: one text, one prompt's mapping, one conversation, or a list."""
    if not isinstance(prompts, list | tuple):
        return 1
    if not prompts:
        return 0
    first = prompts[0]
    if is_chat:
        return 1 if not isinstance(first, list | tuple) else len(prompts)
    return 1 if type(first) is int else len(prompts)


def _wrap(original: Any, name: str, signature: inspect.Signature) -> Any:
    first = list(signature.parameters)[1]

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        if not _hook.is_active or _is_inside.get():  # chat calls generate
            return original(*args, **kwargs)
        batch = None
        gate.check()
        try:
            passed = signature.bind(*args, **kwargs).arguments
            batch = _Batch(passed["self"], name, passed.get(first))
        except UNREADABLE as error:
            if not isinstance(error, TypeError):  # of the job's own arguments: vLLM raises it
                _hook.report(name, error)
        token = _is_inside.set(True)
        try:
            outputs = original(*args, **kwargs)
        except BaseException as error:
            if batch is not None:
                _hook.attempt(batch.fail, error)
            raise
        finally:
            _is_inside.reset(token)
        if batch is not None:
            _hook.attempt(batch.answer, outputs)
        return outputs

    return method


def _connect(module: ModuleType) -> Callable[[], object]:
    llm = getattr(module, "LLM", None)  # vLLM imports it when it is first asked for
    if not isinstance(llm, type):
        raise Unsupported("vllm has no class LLM")
    wrapped = []
    for name in _OPERATIONS:
        owner = next((each for each in llm.__mro__ if name in vars(each)), None)
        original = None if owner is None else vars(owner)[name]
        if owner is None or not inspect.isfunction(original):
            raise Unsupported(f"vllm.LLM has no method {name}")
        signature = inspect.signature(original)
        if len(signature.parameters) < 2 or "self" not in signature.parameters:  # noqa: PLR2004
            raise Unsupported(f"vllm.LLM.{name} has no parameter for prompts")
        wrapped.append((owner, name, _wrap(original, name, signature)))
    replaced = Replaced()
    for owner, name, wrapper in wrapped:
        replaced.set(owner, name, wrapper)
    return replaced.undo


_hook = FrameworkHook(FRAMEWORKS["vllm"], module="vllm", connect=_connect)


def install(monitor: GenerationMonitor | None = None) -> None:
    """Record the calls of vLLM's offline engine, from now on or from its import on.

    Args:
        monitor: Where they are recorded; None means the process's monitor.

    Raises:
        ConfigError: ``monitor`` is not a GenerationMonitor.
    """
    _hook.install(monitor)


def uninstall() -> None:
    """Stop recording, and restore the methods."""
    _hook.uninstall()


def is_active() -> bool:
    """Return whether calls are recorded."""
    return _hook.is_active
