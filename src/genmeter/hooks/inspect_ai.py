"""Hook of Inspect (``inspect_ai``): calls, retries, samples and scores of its evaluations.

It subscribes to Inspect's public hooks. The step of a call is its task. Inspect reports no failure of a call
outside of a sample; what instrumentations see of such a call is recorded from them.

Nothing is subscribed until the hook is installed: by :func:`install`, by ``genmeter run``, or for the
command ``inspect`` by the variable ``GENMETER_HOOKS`` (see :mod:`genmeter.hooks.switch`).
"""

from __future__ import annotations

import functools
import importlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter import clock
from genmeter.errors import BudgetError
from genmeter.events.answers import CallDetails
from genmeter.events.capture import capture_label, capture_number
from genmeter.events.values import UNREADABLE, safe_text
from genmeter.hooks._base import FrameworkHook, Unsupported
from genmeter.hooks._inspect_calls import (
    Attempts,
    CallBook,
    answered,
    failed,
    generating,
    is_cancellation,
    read,
)
from genmeter.hooks.frameworks import FRAMEWORKS
from genmeter.observed import gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import ModuleType

    from genmeter.monitor import GenerationMonitor

__all__ = ["install", "is_active", "uninstall"]

_NEEDED = (
    "on_before_model_generate",
    "on_model_usage",
    "on_model_retry",
    "on_sample_event",
    "on_sample_end",
)
_RECENT = 50  # events of a transcript in which that of an answer is looked for
_MAX_SCORES = 100
_MAX_RETRIES = 1_000
_BAD_REQUEST = 400
_TOO_MANY_REQUESTS = 429
# Inspect's words for the values of scores, as its own metrics count them.
_GRADES = {
    "c": 1.0,
    "p": 0.5,
    "i": 0.0,
    "n": 0.0,
    "yes": 1.0,
    "true": 1.0,
    "no": 0.0,
    "false": 0.0,
}


class _Held(NamedTuple):
    """The event of an attempt that failed: an error, if no other attempt follows."""

    call: Attempts | None
    attempted: float
    event: Any
    eval_id: Any
    task: Any


class _Subscriber:
    """What the methods of the subscribed class do; the class itself needs Inspect."""

    def __init__(self) -> None:
        self._book = CallBook()
        self._held: dict[str | None, list[_Held]] = {}
        self._scoring: dict[str | None, float] = {}
        self._tasks: dict[str | None, str | None] = {}
        self._expected: dict[str | None, int] = {}

    # --- calls -----------------------------------------------------------------------------------

    def on_before_model_generate(self, data: Any) -> None:
        """An attempt of a call begins, or an answer comes from Inspect's cache."""
        gate.check()
        self._book.begin(read(data, "model_name"), read(data, "eval_id"), read(data, "task_name"))

    def on_model_retry(self, data: Any) -> None:
        """An attempt has failed, and another follows."""
        call = generating.get()  # the model has another name here, without its provider
        if call is not None and not call.is_over:
            status, kind = read(data, "status_code"), capture_label(read(data, "exception_type"))
            if kind is None and capture_number(status) is not None:
                kind = f"HTTP {capture_label(status)}"
            call.retry("RateLimitError" if status == _TOO_MANY_REQUESTS else kind)

    def on_model_usage(self, data: Any) -> None:
        """A call is answered."""
        usage, name = read(data, "usage"), read(data, "model_name")
        call = self._book.current(name)
        if call is None:
            call = Attempts(
                capture_label(name),
                capture_label(read(data, "eval_id")),
                capture_label(read(data, "task_name")),
            )
            seconds = capture_number(read(data, "call_duration"))
            if type(seconds) in {int, float} and math.isfinite(seconds) and seconds > 0:
                call.began -= seconds
        event = _event_of(usage, name, call.began)
        self._answer(call, read(event, "output"), usage, event, read(data, "retries"))

    def on_model_cache_usage(self, data: Any) -> None:
        """The answer came from Inspect's cache: there was no call."""
        call = self._book.current(read(data, "model_name"))
        if call is not None:
            self._book.forget(call)

    def on_sample_event(self, data: Any) -> None:
        """Something has happened in a sample: an attempt of a call, for one."""
        sample = capture_label(read(data, "sample_id"))
        self._settle(sample)
        event = read(data, "event")
        if read(event, "event") != "model":
            return
        began = _unix_time(read(event, "timestamp"))
        eval_id = read(data, "eval_id")
        call = self._book.of_event(read(event, "model"), eval_id, began)
        if read(event, "cache") == "read":
            if call is not None:
                self._book.forget(call)
        elif read(event, "error") is not None:
            held = _Held(
                call,
                0.0 if call is None else call.attempted,
                event,
                eval_id,
                self._tasks.get(capture_label(eval_id)),
            )
            self._held.setdefault(sample, []).append(held)
        elif call is not None and read(read(event, "output"), "usage") is None:
            self._answer(call, read(event, "output"), None, event, None)

    def _answer(self, call: Attempts, output: Any, usage: Any, event: Any, retries: Any) -> None:
        keywords, details = answered(output, usage, read(output, "stop_reason"))
        # Those that the client made, within an attempt.
        own = capture_number(read(event, "retries") or retries)
        if type(own) is int and own > 0:
            call.retries.extend(_causes(event, min(own, _MAX_RETRIES)))
        response = read(read(event, "call"), "response")
        id_ = response.get("id") if type(response) is dict else None
        self._record(
            call,
            success=True,
            keywords=keywords,
            details=details,
            response_id=id_ if type(id_) is str else None,
        )

    def _settle(self, sample: str | None) -> None:
        """Record the calls that failed: no attempt has followed the one that is held."""
        for held in self._held.pop(sample, ()):
            call = held.call
            if call is not None and (
                call.is_over or call.is_retrying or call.attempted != held.attempted
            ):
                continue  # a later attempt decides
            event = held.event
            if call is None:
                call = Attempts(
                    capture_label(read(event, "model")),
                    capture_label(held.eval_id),
                    capture_label(held.task),
                )
                began = _unix_time(read(event, "timestamp"))
                call.began = call.began if began is None else min(began, call.began)
            error = read(event, "error")
            is_cancelled = is_cancellation(error)
            self._record(
                call,
                success=False,
                keywords={} if is_cancelled else failed(error, read(event, "traceback")),
                details=CallDetails(is_cancelled=is_cancelled),
                ended=_unix_time(read(event, "completed")),
            )

    def _record(self, call: Attempts, *, ended: float | None = None, **known: Any) -> None:
        self._book.forget(call)
        finished = call.finished(**known)
        if ended is not None and call.began <= ended <= finished.ended:
            finished = finished._replace(ended=ended, duration=ended - call.began)
        for each in (*call.strangers, finished):
            _hook.monitor.observer.observe_in(call.outer, each)

    # --- samples and scores ----------------------------------------------------------------------

    def on_task_start(self, data: Any) -> None:
        """A task begins: its samples are expected, unless the monitor has a number of its own."""
        spec, eval_id = read(data, "spec"), capture_label(read(data, "eval_id"))
        self._tasks[eval_id] = capture_label(read(spec, "task"))
        state = _hook.monitor._session.state  # noqa: SLF001 - one contract
        if state.expected_samples is not None and not self._expected:
            return
        dataset = read(spec, "dataset")
        ids = read(dataset, "sample_ids")
        samples = len(ids) if type(ids) is list else capture_number(read(dataset, "samples"))
        epochs = capture_number(read(read(spec, "config"), "epochs"))
        if type(samples) is not int or samples < 0:
            return
        self._expected[eval_id] = samples * (epochs if type(epochs) is int and epochs > 0 else 1)
        state.shares_expected = False
        state.expected_samples = sum(self._expected.values())

    def on_sample_scoring(self, data: Any) -> None:
        """The scorers of a sample begin."""
        self._scoring[capture_label(read(data, "sample_id"))] = clock.now()

    def on_sample_end(self, data: Any) -> None:
        """A sample has ended, and is scored unless it failed."""
        id_, sample = capture_label(read(data, "sample_id")), read(data, "sample")
        self._settle(id_)
        began = self._scoring.pop(id_, None)
        monitor, error = _hook.monitor, read(sample, "error")
        scores = read(sample, "scores")
        if type(scores) is dict and scores:
            values, unscored = _values_of(scores)
            monitor.track_evaluation(
                0.0 if began is None else max(0.0, clock.now() - began),
                unscored is None,
                "inspect_ai",
                values,
                step=self._tasks.get(capture_label(read(data, "eval_id"))),
                **({} if unscored is None else {"error": unscored, "error_type": "unscored"}),
            )
        reason = None
        if error is not None:
            text = failed(read(error, "message"), read(error, "traceback"))
            reason = text.get("error_type") or "error"
        monitor.record_sample(error is None, reason)

    def on_task_end(self, data: Any) -> None:
        """A task has ended: nothing of it is open any more."""
        eval_id = capture_label(read(data, "eval_id"))
        self._book.take(eval_id)
        self._tasks.pop(eval_id, None)

    def on_run_end(self, data: Any) -> None:  # noqa: ARG002 - Inspect's signature
        """A run has ended: record what is held of samples that did not end."""
        for sample in list(self._held):
            self._settle(sample)
        self._scoring.clear()


def _event_of(usage: Any, model: Any, since: float) -> Any:
    """Return the event of an answer, from the transcript of this task; None if it is not found."""
    try:
        transcript = importlib.import_module("inspect_ai.log").transcript()
        for event in reversed(transcript.history.recent_events(_RECENT)):
            if (
                read(event, "event") == "model"
                and read(event, "model") == model
                and read(read(event, "output"), "usage") == usage
                and (_unix_time(read(event, "timestamp")) or 0.0) >= since
            ):
                return event
    except UNREADABLE as error:
        _hook.report("the transcript", error)
    return None


def _causes(event: Any, count: int) -> list[str | None]:
    """Return the causes of a client's retries: statuses of HTTP, where Inspect has them."""
    responses = read(event, "request_ids")
    statuses = [read(each, "status") for each in (responses if type(responses) is list else ())]
    causes = [
        "RateLimitError" if status == _TOO_MANY_REQUESTS else str(status)
        for status in statuses
        if type(status) is int and status >= _BAD_REQUEST
    ][:count]
    return [*causes, *[None] * (count - len(causes))]


def _unix_time(moment: Any) -> float | None:
    try:
        return float(moment.timestamp())
    except UNREADABLE:
        return None


def _values_of(scores: dict[Any, Any]) -> tuple[dict[str, float], str | None]:
    """Return the numbers of scores by name, and the first score that has none, as a text."""
    values: dict[str, float] = {}
    unscored = None
    for scorer, score in list(scores.items())[:_MAX_SCORES]:
        name, value = capture_label(scorer) or "", read(score, "value")
        for part, each in _parts(name, value):
            number = _grade(each)
            if number is not None:
                values[part] = number
            elif unscored is None and type(each) is not str:
                why = safe_text(read(score, "reason"), 200)
                unscored = f"{part}: {why}" if why and why != "None" else f"{part} has no value"
    return values, unscored


def _parts(name: str, value: Any) -> list[tuple[str, Any]]:
    if type(value) is dict:
        parts = [(f"{name}.{capture_label(key)}", each) for key, each in value.items()]
    elif type(value) is list:
        parts = [(f"{name}.{number}", each) for number, each in enumerate(value)]
    else:
        parts = [(name, value)]
    return parts[:_MAX_SCORES]


def _grade(value: Any) -> float | None:
    """Return a score's value as a number; None for a text that is no grade, or no number."""
    if type(value) is str:
        known = _GRADES.get(value.strip().lower())
        if known is not None:
            return known
        try:
            number = float(value)
        except ValueError:
            return None
    else:
        found = capture_number(value)
        if type(found) not in {int, float, bool}:
            return None
        number = float(found)
    return number if math.isfinite(number) else None


# --- installing ----------------------------------------------------------------------------------


def _connect(module: ModuleType) -> Callable[[], object]:  # noqa: ARG001 - its submodules are needed
    global _subscriber  # noqa: PLW0603 - Inspect keeps one for the process
    hooks = importlib.import_module("inspect_ai.hooks")
    limit = getattr(importlib.import_module("inspect_ai.util"), "LimitExceededError", None)
    base, decorate = getattr(hooks, "Hooks", None), getattr(hooks, "hooks", None)
    if not isinstance(base, type) or not callable(decorate):
        raise Unsupported("inspect_ai.hooks has no class Hooks and decorator hooks")
    if missing := [name for name in _NEEDED if not callable(getattr(base, name, None))]:
        raise Unsupported(f"inspect_ai.hooks.Hooks has no {', '.join(missing)}")
    if not isinstance(limit, type) or not issubclass(limit, Exception):
        raise Unsupported("inspect_ai.util has no LimitExceededError")
    _subscriber = _Subscriber()
    if base not in _subscribed:
        # Inspect has no way to unsubscribe: the class asks whether the hook is installed.
        decorate(name="genmeter", description="records calls, samples and scores")(
            _class_of(base, limit)
        )
        _subscribed.append(base)
    return _disconnect


def _disconnect() -> None:
    generating.set(None)


def _class_of(base: Any, limit: Any) -> type:
    """Return the class that Inspect calls."""

    def enabled(self: Any) -> bool:  # noqa: ARG001 - Inspect's signature
        return _hook.is_active

    def method(name: str) -> Callable[[Any, Any], Awaitable[None]]:
        @functools.wraps(getattr(_Subscriber, name))
        async def call(self: Any, data: Any) -> None:  # noqa: ARG001 - Inspect's signature
            if not _hook.is_active:
                return
            try:
                getattr(_subscriber, name)(data)
            except BudgetError as error:
                # The one exception that Inspect passes on: it ends the sample, and the run goes on.
                raise _limit_error(limit, error) from error
            except UNREADABLE as error:
                _hook.report(name, error)

        return call

    names = [name for name in vars(_Subscriber) if name.startswith("on_") and hasattr(base, name)]
    methods: dict[str, Any] = {name: method(name) for name in names}
    return type("GenmeterHooks", (base,), {**methods, "enabled": enabled, "__module__": __name__})


def _limit_error(limit: Any, error: BudgetError) -> Exception:
    tokens = error.limit.tokens is not None
    spent = error.spent.tokens if tokens else error.spent.usd
    most = error.limit.tokens if tokens else error.limit.usd
    found: Exception = limit(
        "custom", value=float(spent or 0), limit=float(most or 0), message=str(error)
    )
    return found


_hook = FrameworkHook(FRAMEWORKS["inspect_ai"], module="inspect_ai", connect=_connect)
_subscriber = _Subscriber()
_subscribed: list[type] = []


def install(monitor: GenerationMonitor | None = None) -> None:
    """Record Inspect's evaluations, from now on or from its import on.

    Args:
        monitor: Where they are recorded; None means the process's monitor.

    Raises:
        ConfigError: ``monitor`` is not a GenerationMonitor.
    """
    _hook.install(monitor)


def uninstall() -> None:
    """Stop recording; Inspect keeps an idle subscriber, which it has no way to remove."""
    _hook.uninstall()


def is_active() -> bool:
    """Return whether evaluations are recorded."""
    return _hook.is_active
