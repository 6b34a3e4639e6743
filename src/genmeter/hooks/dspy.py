"""DSPy's hook: each call of a language model that was not served from DSPy's cache is a call.

A callback of each ``dspy.LM`` and ``dspy.Evaluate``, added to those that they have, so that a job's own
``dspy.configure(callbacks=...)`` does not replace it. The tokens are those of the call's entry in the model's
history, which ``disable_history`` turns off: then they are unknown, unless something below observes them.
The step of a call is the program's class and the path of its predictor, such as ``RAG.answer.predict``. An
evaluation is recorded once, with the mean of its scores; DSPy replaces errors of examples by a score.
"""

from __future__ import annotations

import math
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import wrapt

from genmeter import clock
from genmeter.events.values import UNREADABLE, Rejected, to_number
from genmeter.hooks._base import FrameworkHook, HookCall, Unsupported, step_of
from genmeter.hooks._tables import OpenTable
from genmeter.hooks.frameworks import FRAMEWORKS
from genmeter.usage.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from genmeter.monitor import GenerationMonitor

__all__ = ["install", "uninstall"]

_MAX_ENTRIES = 1_000
"""Entries of a model's history in which that of a call is looked for, the newest first."""
_MAX_PREDICTORS = 1_000


def install(monitor: GenerationMonitor | None = None) -> None:
    """Record the calls of DSPy's language models, and its evaluations.

    Args:
        monitor: Where they are recorded; None means the process's monitor.

    Raises:
        ConfigError: ``monitor`` is not a GenerationMonitor.
    """
    _hook.install(monitor)


def uninstall() -> None:
    """Stop recording them; calls that are open are not recorded."""
    _hook.uninstall()


class _Open(NamedTuple):
    """A call of a model that goes on."""

    call: HookCall
    model: Any
    inputs: Any


_calls: OpenTable[_Open] = OpenTable(lambda found: found.call.drop())
_evaluations: OpenTable[tuple[float, Any]] = OpenTable()
_taken: OpenTable[object] = OpenTable()
"""Entries of histories that belong to a call, by their uuid."""


# --- calls ---------------------------------------------------------------------------------------


def _start(call_id: str, model: Any, inputs: Any) -> None:
    if call_id in _calls:
        return  # the callback is both the model's and, for models made earlier, a setting
    provider, name = _named(model)
    kind = getattr(model, "model_type", None)
    operation = "text_completion" if type(kind) is str and kind == "text" else "chat"
    call = _hook.begin(
        model=name, provider=provider, operation=operation, step=_step(), is_gated=False
    )
    _calls.add(call_id, _Open(call, model, inputs))


def _named(model: Any) -> tuple[str | None, str | None]:
    """Return provider and model of a name such as ``openai/gpt-4o``."""
    text = getattr(model, "model", None)
    if type(text) is not str:
        return None, None
    provider, slash, name = text.partition("/")
    return (provider, name) if slash and provider and name else (None, text)


def _end(call_id: str, outputs: Any, exception: Any) -> None:
    found = _calls.take(call_id)
    if found is None:
        return
    call = found.call
    try:
        if exception is None and not _read(found, outputs):
            call.drop()
            return
    except UNREADABLE as error:
        _hook.report("on_lm_end", error)
        call.handle.usage()
    call.end(exception)


def _read(found: _Open, outputs: Any) -> bool:
    """Read what a call used; returns False if DSPy's cache has served it."""
    handle = found.call.handle
    entry = _entry(found, outputs)
    if entry is None:
        handle.usage()
        return True
    usage, response, cost = entry.get("usage"), entry.get("response"), entry.get("cost")
    if not usage and _is_cached(response):
        return False
    handle.usage(response)
    if usage:
        handle.usage({"usage": usage, "model": entry.get("response_model")})
    if isinstance(cost, int | float) and not isinstance(cost, bool) and cost > 0:
        handle.cost(cost)
    return True


def _is_cached(response: Any) -> bool:
    """Return whether an answer without a billed usage was not billed, rather than not understood."""
    if getattr(response, "cache_hit", None) is True:
        return True
    responses = response if isinstance(response, list | tuple) else (response,)
    if any(getattr(each, "cache_hit", None) is True for each in responses):
        return True
    return Reading().read(response)


def _entry(found: _Open, outputs: Any) -> dict[str, Any] | None:
    """Return the entry of a call in its model's history, which other threads write to as well."""
    newest = list(_newest(found.model))
    prompt = found.inputs.get("prompt") if isinstance(found.inputs, dict) else None
    for entry in newest:
        if entry.get("outputs") is outputs or entry.get("response") is outputs:
            return _claim(entry)
    for entry in newest:
        if prompt is not None and entry.get("request") is prompt and _claim(entry) is not None:
            return entry
    for entry in newest:
        if _claim(entry) is not None:
            return entry
    return None


def _newest(model: Any) -> Iterator[dict[str, Any]]:
    history = getattr(model, "history", None)
    if not isinstance(history, list):
        raise Unsupported("a model has no history")
    return (each for each in reversed(history[-_MAX_ENTRIES:]) if type(each) is dict)


def _claim(entry: dict[str, Any]) -> dict[str, Any] | None:
    """Return an entry for one call only."""
    return entry if _taken.claim(str(entry.get("uuid") or id(entry)), object()) else None


def _step() -> str | None:
    """Return the program's class and the path of the predictor that runs."""
    with suppress(*UNREADABLE):
        import dspy

        modules = dspy.settings.get("caller_modules") or ()
        if not modules:
            return None
        program, predictor = modules[0], modules[-1]
        name = type(program).__name__
        for path, each in islice(program.named_predictors(), _MAX_PREDICTORS):
            if each is predictor:
                return step_of(name if path == "self" else f"{name}.{path}")
        inner = type(predictor).__name__
        return step_of(name if predictor is program else f"{name}.{inner}")
    return None


# --- evaluations ---------------------------------------------------------------------------------


def _start_evaluation(call_id: str, instance: Any, inputs: Any) -> None:
    metric = inputs.get("metric") if isinstance(inputs, dict) else None
    _evaluations.add(call_id, (clock.now(), metric or getattr(instance, "metric", None)))


def _end_evaluation(call_id: str, outputs: Any, exception: Any) -> None:
    found = _evaluations.take(call_id)
    if found is None:
        return
    began, metric = found
    name = getattr(metric, "__name__", None) or type(metric).__name__
    if name.startswith("<"):
        name = "metric"  # a lambda
    scores = [_score(row[-1]) for row in outputs.results] if exception is None else []
    known = [score for score in scores if score is not None and math.isfinite(score)]
    keywords: dict[str, Any] = {"metadata": {"samples": len(scores), "unscored": 0}}
    keywords["metadata"]["unscored"] = len(scores) - len(known)
    if exception is not None:
        keywords = {"error": exception}
    _hook.monitor.track_evaluation(
        clock.now() - began,
        exception is None and bool(known),
        "dspy.Evaluate",
        {name: sum(known) / len(known)} if known else {},
        **keywords,
    )


def _score(value: Any) -> float | None:
    try:
        return float(to_number(value))
    except Rejected:
        return None


# --- the callback --------------------------------------------------------------------------------


def _connect(module: ModuleType) -> Callable[[], object]:
    from dspy.utils.callback import BaseCallback

    callback = _callback_class(BaseCallback)()
    owners = []
    for name in ("BaseLM", "Evaluate"):
        owner: Any = getattr(module, name, None)
        if not isinstance(owner, type) or "__init__" not in owner.__dict__:
            raise Unsupported(f"dspy.{name} is no class with an __init__ of its own")
        owners.append(owner)
    settings = _add_to_settings(module, callback)
    undo = [_add_to_instances(owner, callback) for owner in owners]

    def disconnect() -> None:
        for each in undo:
            each()
        if settings is not None and callback in settings:
            settings.remove(callback)
        _calls.clear()
        _evaluations.clear()

    return disconnect


def _add_to_instances(owner: Any, callback: Any) -> Callable[[], None]:
    """Add the callback to each new instance; returns what ends that."""

    def add(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> None:
        wrapped(*args, **kwargs)
        if _hook.is_active:
            with suppress(*UNREADABLE):
                before = getattr(instance, "callbacks", None) or []
                if not any(type(each) is type(callback) for each in before):
                    instance.callbacks = [*before, callback]

    original = owner.__dict__["__init__"]
    replacement = wrapt.FunctionWrapper(original, add)
    owner.__init__ = replacement

    def undo() -> None:
        if owner.__dict__.get("__init__") is replacement:
            owner.__init__ = original

    return undo


def _add_to_settings(module: Any, callback: Any) -> list[Any] | None:
    """Add the callback to the settings, for models that were made before.

    Not by ``dspy.configure``, which no other thread than the first that calls it may call.
    """
    callbacks = module.settings.get("callbacks")
    if not isinstance(callbacks, list):
        return None
    callbacks.append(callback)
    return callbacks


def _callback_class(base: Any) -> Any:
    class GenmeterCallback(base):  # type: ignore[misc]
        """Records the calls of models; called in the thread and context of the call."""

        def __deepcopy__(self, memo: Any) -> Any:
            """Return self: a program is copied with its models."""
            return self

        def __reduce__(self) -> Any:
            """Be saved as a callback of DSPy's that does nothing."""
            return base, ()

        @_hook.guarded
        def on_lm_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            _start(call_id, instance, inputs)

        @_hook.guarded
        def on_lm_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            _end(call_id, outputs, exception)

        @_hook.guarded
        def on_evaluate_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            _start_evaluation(call_id, instance, inputs)

        @_hook.guarded
        def on_evaluate_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
            _end_evaluation(call_id, outputs, exception)

    return GenmeterCallback


_hook = FrameworkHook(FRAMEWORKS["dspy"], module="dspy", connect=_connect)
