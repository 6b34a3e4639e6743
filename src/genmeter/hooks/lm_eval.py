"""Hook of lm-evaluation-harness (``lm_eval``): the calls of its API models, and the scores of a run.

The harness has no hooks. This one wraps the methods of ``TemplateAPI`` that send a request, ``model_call``
and ``amodel_call``; a request that is sent again is one call with a retry. Models that override them, such
as the one of LiteLLM, are left to the hooks of what they call. Local models make no calls.

The step of a call is its task, where the request shows it: if the requests of a kind are of one task, or are
not sent as tokens. A run of ``evaluate`` is one evaluation, with a score for each task's metric.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from time import perf_counter
from typing import TYPE_CHECKING, Any

import wrapt

from genmeter.errors import BudgetError
from genmeter.events.capture import capture_label, capture_number
from genmeter.events.values import UNREADABLE
from genmeter.hooks._base import FrameworkHook, HookCall, Unsupported
from genmeter.hooks._replacing import Replaced
from genmeter.hooks.frameworks import FRAMEWORKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from genmeter.monitor import GenerationMonitor

__all__ = ["install", "uninstall"]

_EVALUATOR = "lm_eval.evaluator"
_REQUESTS = ("generate_until", "loglikelihood", "loglikelihood_rolling")
_FRAMES = 4  # between a method and the loop that calls it again
_MAX_SCORES = 1_000
_TOO_MANY_REQUESTS = 429
_PROVIDERS = {"api.openai.com": "openai", "api.anthropic.com": "anthropic"}


class _Request:
    """A request with all its attempts.

    Args:
        messages: What is sent; the same object in each attempt.
        most: How many attempts the harness makes.
    """

    def __init__(self, messages: Any, most: int) -> None:
        self.messages = messages
        self.most = most
        self.call: HookCall | None = None
        self.attempts = 0
        self.error: BaseException | None = None
        self._is_answered = False

    def begin(self, model: Any) -> None:
        """Begin an attempt: the request is sent."""
        self.attempts += 1
        if self.call is None:
            self.call = _hook.begin(**_labels(model, self.messages))
        elif self.error is not None:
            self.call.handle.retry(_cause(self.error))
            self.error = None

    def answer(self, answer: Any) -> None:
        """Read the server's answer; that of an attempt which is repeated was billed too."""
        if self.call is not None:
            self.call.handle.usage(answer, add=self._is_answered)
            self._is_answered = True

    def fail(self, error: BaseException, *, repeats: bool) -> None:
        """End the attempt, and the call unless it is repeated."""
        if repeats and issubclass(type(error), Exception) and self.attempts < self.most:
            self.error = error
        else:
            self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """End the call."""
        call, self.call = self.call, None
        if call is not None:
            call.end(error)

    def __del__(self) -> None:
        # No attempt followed: its task was cancelled while it waited.
        with suppress(*UNREADABLE):
            self.end(self.error)


_Proxy: Any = wrapt.ObjectProxy  # generic in the newest version only
_request: ContextVar[_Request | None] = ContextVar("genmeter_lm_eval_request", default=None)
_tasks: ContextVar[dict[Any, str | None] | str | None] = ContextVar(
    "genmeter_lm_eval_tasks", default=None
)
_is_evaluating: ContextVar[bool] = ContextVar("genmeter_lm_eval_evaluating", default=False)


def _request_of(model: Any, messages: Any) -> _Request:
    """Return the request that this context sends: the last one, if it is sent again."""
    request = _request.get()
    if request is None or request.messages is not messages or request.call is None:
        most = capture_number(getattr(model, "max_retries", None))
        request = _Request(messages, most if type(most) is int else 0)
        _request.set(request)
    return request


def _cause(error: BaseException) -> Any:
    """Return what a retry is counted by: the clients have the status in different places."""
    for status in (
        getattr(error, "status", None),
        getattr(getattr(error, "response", None), "status_code", None),
    ):
        if type(status) is int:
            return "RateLimitError" if status == _TOO_MANY_REQUESTS else type(error)
    return type(error)


def _labels(model: Any, messages: Any) -> dict[str, Any]:
    url = capture_label(getattr(model, "base_url", None)) or ""
    _, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    is_chat = path.rstrip("/").endswith(("chat/completions", "messages"))
    return {
        "model": capture_label(getattr(model, "model", None)),
        "step": _step_of(messages),
        "provider": _PROVIDERS.get(host),
        "operation": "chat" if is_chat else "text_completion",
    }


def _step_of(messages: Any) -> str | None:
    tasks = _tasks.get()
    if not isinstance(tasks, dict):
        return tasks
    found = set()
    if isinstance(messages, list | tuple):
        for each in messages:
            try:
                found.add(tasks.get(each))
            except TypeError:  # tokens
                return None
    return found.pop() if len(found) == 1 else None


def _is_repeated() -> bool:
    """Return whether a loop of tenacity has called the wrapped method, so that it calls again."""
    frame = sys._getframe(2)  # noqa: SLF001 - documented, and in each CPython
    for _ in range(_FRAMES):
        if frame is None:
            return False
        name = frame.f_globals.get("__name__")
        if type(name) is str and name.partition(".")[0] == "tenacity":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


# --- requests ------------------------------------------------------------------------------------


def _model_call(original: Any, signature: inspect.Signature) -> Any:
    @functools.wraps(original)
    def model_call(*args: Any, **kwargs: Any) -> Any:
        request, repeats = None, False
        try:
            passed = signature.bind(*args, **kwargs).arguments
            model, repeats = passed["self"], _is_repeated()
            request = _request_of(model, passed["messages"])
            request.begin(model)
        except BudgetError:
            raise
        except UNREADABLE as error:
            _hook.report("model_call", error)
        try:
            answer = original(*args, **kwargs)
        except BaseException as error:
            if request is not None:
                _hook.attempt(request.fail, error, repeats=repeats)
            raise
        if request is not None:
            if answer is None:  # what the harness returns for a request that it gave up
                _hook.attempt(request.end, RuntimeError("no answer"))
            else:
                _hook.attempt(request.answer, answer)
                _hook.attempt(request.end)
        return answer

    return model_call


def _amodel_call(original: Any, signature: inspect.Signature) -> Any:
    @functools.wraps(original)
    async def amodel_call(*args: Any, **kwargs: Any) -> Any:
        request, repeats = None, False
        try:
            bound = signature.bind(*args, **kwargs)
            passed = bound.arguments
            model, repeats = passed["self"], _is_repeated()
            request = _request_of(model, passed["messages"])
            passed["session"] = _Session(passed["session"], request, model)
            args, kwargs = bound.args, bound.kwargs
        except UNREADABLE as error:
            _hook.report("amodel_call", error)
        try:
            answers = await original(*args, **kwargs)
        except BaseException as error:
            if request is not None:
                _hook.attempt(request.fail, error, repeats=repeats)
            raise
        if request is not None:
            if request.call is None:
                _hook.warn("amodel_call sent nothing by session.post; its calls are not recorded")
            _hook.attempt(request.end)
        return answers

    return amodel_call


class _Session(_Proxy):  # type: ignore[misc]
    """The session of aiohttp that a request is sent by."""

    def __init__(self, wrapped: Any, request: _Request, model: Any) -> None:
        super().__init__(wrapped)
        self._self_request = request
        self._self_model = model

    def post(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request."""
        sending = self.__wrapped__.post(*args, **kwargs)
        return _Sending(sending, self._self_request, self._self_model)


class _Sending(_Proxy):  # type: ignore[misc]
    """What ``session.post`` returns, for ``async with``."""

    def __init__(self, wrapped: Any, request: _Request, model: Any) -> None:
        super().__init__(wrapped)
        self._self_request = request
        self._self_model = model

    async def __aenter__(self) -> Any:
        try:
            self._self_request.begin(self._self_model)
        except BudgetError:
            raise
        except UNREADABLE as error:
            _hook.report("session.post", error)
        response = await self.__wrapped__.__aenter__()
        return _Response(response, self._self_request)

    async def __aexit__(self, *error: object) -> Any:
        return await self.__wrapped__.__aexit__(*error)

    def __await__(self) -> Any:
        return self.__wrapped__.__await__()


class _Response(_Proxy):  # type: ignore[misc]
    """The response."""

    def __init__(self, wrapped: Any, request: _Request) -> None:
        super().__init__(wrapped)
        self._self_request = request

    async def json(self, *args: Any, **kwargs: Any) -> Any:
        """Return the server's answer."""
        answer = await self.__wrapped__.json(*args, **kwargs)
        _hook.attempt(self._self_request.answer, answer)
        return answer


# --- tasks and scores ----------------------------------------------------------------------------


def _with_tasks(original: Any) -> Any:
    @functools.wraps(original)
    def method(self: Any, requests: Any, *args: Any, **kwargs: Any) -> Any:
        with _naming(requests):
            return original(self, requests, *args, **kwargs)

    return method


@contextmanager
def _naming(requests: Any) -> Iterator[None]:
    """Let the requests that are sent meanwhile find their tasks."""
    tasks: dict[Any, str | None] | str | None = None
    try:
        by_text: dict[Any, str | None] = {}
        for each in requests:
            name, context = capture_label(each.task_name), each.args[0]
            known = by_text.setdefault(context, name)
            if known != name:
                by_text[context] = None  # two tasks ask the same
        names = {capture_label(each.task_name) for each in requests}
        tasks = names.pop() if len(names) == 1 else by_text
    except UNREADABLE as error:
        _hook.report("the requests' tasks", error)
    token = _tasks.set(tasks)
    try:
        yield
    finally:
        _tasks.reset(token)


def _evaluate(original: Any) -> Any:
    @functools.wraps(original)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        if not _hook.is_active or _is_evaluating.get():
            return original(*args, **kwargs)
        token, began = _is_evaluating.set(True), perf_counter()
        try:
            results = original(*args, **kwargs)
        except Exception as error:
            _hook.attempt(_track_failure, error, perf_counter() - began)
            raise
        finally:
            _is_evaluating.reset(token)
        if results is not None:  # a process that only helps another one has none
            _hook.attempt(_track, results, perf_counter() - began)
        return results

    return evaluate


def _track_failure(error: Exception, duration: float) -> None:
    _hook.monitor.track_evaluation(duration, False, "lm_eval", {}, error=error)


def _track(results: Any, duration: float) -> None:
    scores: dict[str, float] = {}
    missing = None
    for task, metrics in results["results"].items():
        for key, value in metrics.items():
            metric, comma, filter_ = str(key).partition(",")
            number = capture_number(value)
            if not comma or metric.endswith("_stderr") or type(number) not in {int, float}:
                continue
            name = f"{task}.{metric}" if filter_ in {"none", ""} else f"{task}.{metric}.{filter_}"
            if not math.isfinite(number):
                missing = missing or name
            elif len(scores) < _MAX_SCORES:
                scores[name] = number
    tasks = [capture_label(task) for task in results["results"]]
    keywords: dict[str, Any] = {"step": tasks[0]} if len(tasks) == 1 else {}
    if missing is not None:
        keywords |= {"error": f"{missing} is no number", "error_type": "nan"}
    _hook.monitor.track_evaluation(duration, missing is None, "lm_eval", scores, **keywords)


# --- installing ----------------------------------------------------------------------------------


def _wrap_evaluator(replaced: Replaced, module: ModuleType) -> None:
    """Wrap the function that runs an evaluation, once its module is imported."""
    original = vars(module).get("evaluate")
    if replaced.is_undone:
        return
    if callable(original):
        replaced.set(module, "evaluate", _evaluate(original))
    else:
        _hook.warn(f"{_EVALUATOR} has no function evaluate; scores are not recorded")


def _senders(base: type) -> Iterator[tuple[str, Any]]:
    """Yield the methods that send a request, wrapped.

    Raises:
        Unsupported: One is not as expected.
    """
    for name, needed, make in (
        ("model_call", ("self", "messages"), _model_call),
        ("amodel_call", ("self", "session", "messages"), _amodel_call),
    ):
        original = vars(base).get(name)
        if not inspect.isfunction(original):
            raise Unsupported(f"TemplateAPI has no method {name}")
        signature = inspect.signature(original)
        if absent := [each for each in needed if each not in signature.parameters]:
            raise Unsupported(f"TemplateAPI.{name} has no parameter {absent[0]}")
        if inspect.iscoroutinefunction(original) != (name == "amodel_call"):
            raise Unsupported(f"TemplateAPI.{name} is not what it was: async or not")
        yield name, make(original, signature)


def _connect(module: ModuleType) -> Callable[[], object]:
    base = getattr(module, "TemplateAPI", None)
    if not isinstance(base, type):
        raise Unsupported(f"{module.__name__} has no class TemplateAPI")
    senders = list(_senders(base))
    replaced = Replaced()
    for name, wrapper in senders:
        replaced.set(base, name, wrapper)
    for name in _REQUESTS:  # of the class, or of one that it derives from
        owner = next((each for each in base.__mro__ if name in vars(each)), base)
        found = vars(owner).get(name)
        if inspect.isfunction(found) and not getattr(found, "__isabstractmethod__", False):
            replaced.set(owner, name, _with_tasks(found))
    wrapt.register_post_import_hook(functools.partial(_wrap_evaluator, replaced), _EVALUATOR)
    return replaced.undo


_hook = FrameworkHook(FRAMEWORKS["lm_eval"], module="lm_eval.models.api_models", connect=_connect)


def install(monitor: GenerationMonitor | None = None) -> None:
    """Record the calls of the harness's API models, from now on or from its import on.

    Args:
        monitor: Where they are recorded; None means the process's monitor.

    Raises:
        ConfigError: ``monitor`` is not a GenerationMonitor.
    """
    _hook.install(monitor)


def uninstall() -> None:
    """Stop recording, and restore the methods."""
    _hook.uninstall()
