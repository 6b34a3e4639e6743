"""Hook of ragas: each metric of each row that ``evaluate`` or ``aevaluate`` scores is an evaluation.

Both take callbacks of LangChain's kind; this hook wraps them to add one, which sees when the score of a row
begins and ends. A score that is no number (NaN) is a failed evaluation. Model calls are not seen here: their
tokens come from the hook of what makes them (LangChain, LiteLLM), a watched client, or instrumentations.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
from contextvars import ContextVar
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.events.capture import capture_label, capture_number
from genmeter.events.values import UNREADABLE
from genmeter.hooks._base import FrameworkHook, Unsupported
from genmeter.hooks._replacing import Replaced
from genmeter.hooks.frameworks import FRAMEWORKS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from genmeter.monitor import GenerationMonitor

__all__ = ["install", "uninstall"]

_FUNCTIONS = ("evaluate", "aevaluate")
_MAX_OPEN = 100_000

_is_inside: ContextVar[bool] = ContextVar("genmeter_ragas", default=False)


class _Open(NamedTuple):
    """A score that is being made."""

    metric: str
    began: float


class _Scores:
    """What the callbacks of one run have seen."""

    def __init__(self) -> None:
        self.began = perf_counter()
        self._open: dict[str, _Open] = {}
        self._count = 0

    def start(self, name: Any, kind: Any, run: Any) -> None:
        """A chain begins: a metric's, or another one."""
        word = getattr(kind, "value", kind)
        if word == "metric" and len(self._open) < _MAX_OPEN:
            self._open[str(run)] = _Open(capture_label(name) or "unknown", perf_counter())

    def end(self, outputs: Any, run: Any) -> None:
        """A chain has ended, with the score as its output."""
        found = self._open.pop(str(run), None)
        if found is not None:
            value = outputs.get("output") if isinstance(outputs, dict) else None
            self._track(found, value, None)

    def fail(self, error: BaseException, run: Any) -> None:
        """A chain has failed."""
        found = self._open.pop(str(run), None)
        if found is not None:
            self._track(found, None, error)

    def close(self, result: Any, error: BaseException | None) -> None:
        """The run has ended: what is open got no score, and what no callback saw is in the result."""
        if error is None and not hasattr(result, "scores"):
            return  # an executor, which the job asked for: it still runs, and its callbacks go on
        cause = TimeoutError("no score in time") if error is None else error
        for run in list(self._open):
            self.fail(cause, run)
        if self._count:
            return
        if error is not None:
            self._track(_Open("ragas", self.began), None, error)
            return
        scores = getattr(result, "scores", None)
        rows = scores if isinstance(scores, list) else []
        pairs = [pair for row in rows if isinstance(row, dict) for pair in row.items()]
        if pairs:
            _hook.warn("no callback came for its scores; their durations are an average")
        share = (perf_counter() - self.began) / max(1, len(pairs))
        for name, value in pairs:
            began = perf_counter() - share
            self._track(_Open(capture_label(name) or "unknown", began), value, None)

    def _track(self, found: _Open, value: Any, error: BaseException | None) -> None:
        self._count += 1
        duration = perf_counter() - found.began
        number = capture_number(value)
        scores: dict[str, float] = {}
        keywords: dict[str, Any] = {}
        if error is not None:
            keywords = {"error": error}
        elif type(number) in {int, float, bool} and math.isfinite(number):
            scores = {found.metric: float(number)}
        elif type(value) is str:  # a label of a discrete metric is no number, and no failure
            keywords = {"metadata": {"label": value[:128]}}
        else:
            keywords = {"error": f"{found.metric} is no number", "error_type": "nan"}
        _hook.monitor.track_evaluation(
            duration, "error" not in keywords, found.metric, scores, **keywords
        )


def _callbacks_of(scores: _Scores) -> Any:
    """Return a handler of LangChain's callbacks."""
    base: Any = importlib.import_module("langchain_core.callbacks").BaseCallbackHandler

    class Handler(base):  # type: ignore[misc]
        """Passes the chains of a run on."""

        def on_chain_start(
            self, serialized: Any, inputs: Any, *, run_id: Any, metadata: Any = None, **kwargs: Any
        ) -> None:
            """A chain begins."""
            del inputs
            name = kwargs.get("name") or (serialized or {}).get("name")
            _hook.attempt(scores.start, name, (metadata or {}).get("type"), run_id)

        def on_chain_end(self, outputs: Any, *, run_id: Any, **kwargs: Any) -> None:
            """A chain has ended."""
            del kwargs
            _hook.attempt(scores.end, outputs, run_id)

        def on_chain_error(self, error: BaseException, *, run_id: Any, **kwargs: Any) -> None:
            """A chain has failed."""
            del kwargs
            _hook.attempt(scores.fail, error, run_id)

    return Handler()


def _with_handler(given: Any, handler: Any) -> Any:
    """Return callbacks with ours, without a change of the job's own object."""
    if given is None:
        return [handler]
    if isinstance(given, list | tuple):
        return [*given, handler]
    copy = given.copy()
    copy.add_handler(handler)
    return copy


def _prepare(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[_Scores | None, tuple[Any, ...], dict[str, Any]]:
    """Return what records a run, and the arguments with its callbacks."""
    if not _hook.is_active or _is_inside.get():
        return None, args, kwargs
    scores = _Scores()
    try:
        bound = signature.bind(*args, **kwargs)
        passed = bound.arguments
        passed["callbacks"] = _with_handler(passed.get("callbacks"), _callbacks_of(scores))
    except UNREADABLE as error:
        if not isinstance(error, TypeError):  # of the job's own arguments: ragas raises it
            _hook.report("the callbacks", error)
    else:
        args, kwargs = bound.args, bound.kwargs
    return scores, args, kwargs


def _close(scores: _Scores | None, result: Any, error: BaseException | None) -> None:
    if scores is not None:
        _hook.attempt(scores.close, result, error)


def _wrap(original: Any, signature: inspect.Signature) -> Any:
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def aevaluate(*args: Any, **kwargs: Any) -> Any:
            scores, args, kwargs = _prepare(signature, args, kwargs)
            token = _is_inside.set(True)
            try:
                result = await original(*args, **kwargs)
            except BaseException as error:
                _close(scores, None, error)
                raise
            finally:
                _is_inside.reset(token)
            _close(scores, result, None)
            return result

        return aevaluate

    @functools.wraps(original)
    def evaluate(*args: Any, **kwargs: Any) -> Any:
        scores, args, kwargs = _prepare(signature, args, kwargs)
        token = _is_inside.set(True)
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            _close(scores, None, error)
            raise
        finally:
            _is_inside.reset(token)
        _close(scores, result, None)
        return result

    return evaluate


def _wrappers(home: ModuleType) -> dict[str, tuple[Any, Any]]:
    """Return the functions by name, each with its wrapper.

    Raises:
        Unsupported: One is not as expected.
    """
    wrappers: dict[str, tuple[Any, Any]] = {}
    for name in _FUNCTIONS:
        original = vars(home).get(name)
        if callable(original):
            signature = inspect.signature(original)
            if "callbacks" not in signature.parameters:
                raise Unsupported(f"ragas.{name} has no parameter callbacks")
            wrappers[name] = original, _wrap(original, signature)
    if "evaluate" not in wrappers:
        raise Unsupported("ragas.evaluation has no function evaluate")
    return wrappers


def _connect(module: ModuleType) -> Callable[[], object]:
    home = importlib.import_module("ragas.evaluation")
    replaced = Replaced()
    for name, (original, wrapper) in _wrappers(home).items():
        for owner in (home, module):
            if vars(owner).get(name) is original:
                replaced.set(owner, name, wrapper)
    return replaced.undo


_hook = FrameworkHook(FRAMEWORKS["ragas"], module="ragas", connect=_connect)


def install(monitor: GenerationMonitor | None = None) -> None:
    """Record the scores of ragas, from now on or from its import on.

    Functions that a module has imported by name before are not wrapped there.

    Args:
        monitor: Where they are recorded; None means the process's monitor.

    Raises:
        ConfigError: ``monitor`` is not a GenerationMonitor.
    """
    _hook.install(monitor)


def uninstall() -> None:
    """Stop recording, and restore the functions."""
    _hook.uninstall()
