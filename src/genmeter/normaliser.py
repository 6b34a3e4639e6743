"""The one normaliser: what callers hand in is made clean here and nowhere else.

What cannot be used is left out of its event, counted by ``Reason`` and reported once; the rest of
the event is kept, so that one bad value never costs a total.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from genmeter.catalogue import INSTRUMENTS
from genmeter.events import (
    RATE_LIMITED,
    Active,
    Call,
    Evaluation,
    Generation,
    Log,
    Metric,
    Reason,
    Sample,
    Score,
)
from genmeter.labels import MAX_LABEL, UNREADABLE, LabelTable, safe_text
from genmeter.numbers import (
    MAX_COUNT,
    MAX_SECONDS,
    MAX_TIME,
    MAX_VALUE,
    Rejected,
    checked,
    is_boolean,
    to_number,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.context import Context

    from genmeter.events import CallDefaults

__all__ = ["Normaliser"]

_MAX_RETRIES = 10_000
_OTHER_ERROR = "_OTHER"  # the conventions' own value of error.type where no class is known
_TOO_MANY_REQUESTS = 429
_RESOLVED = "resolved"
_OLD_NAMES = frozenset(
    {"model_creation_time"}.union(
        *({name for name in row.stands_for if "*" not in name} for row in INSTRUMENTS)
    )
)


_PARTS = ("cache_read_token_count", "cache_write_token_count", "reasoning_token_count")


class Normaliser:
    """Turns raw events into clean ones. Not thread-safe: the drain's lock guards it.

    Args:
        limits: How many values each label may take, by the name of the limit.
        on_reject: Told the reason, the argument's name and the value that was left out.
        on_overflow: Told the name of the limit whose label became ``other``.
    """

    def __init__(
        self,
        limits: Mapping[str, int],
        *,
        on_reject: Callable[[Reason, str, object], None],
        on_overflow: Callable[[str], None],
    ) -> None:
        self._reject = on_reject
        tables = {name: LabelTable(name, most, on_overflow) for name, most in limits.items()}
        self.tables = tables
        self._models = tables["models"].clean
        self._steps = tables["steps"].clean
        self._providers = tables["providers"].clean
        self._operations = tables["operations"].clean
        self._errors = tables["error_types"].clean
        self._finish_reasons = tables["finish_reasons"].clean
        self._modalities = tables["modalities"].clean
        self._evaluators = tables["evaluators"].clean
        self._scores = tables["scores"].clean
        self._metrics = tables["custom_metrics"].clean
        self._sample_reasons = tables["sample_reasons"].clean

    def generation(
        self,
        time: float,
        payload: tuple[Any, Any, dict[str, Any], Context | None],
        defaults: CallDefaults,
    ) -> Generation:
        """Clean a ``track_generation``; ``payload`` is duration, success, keywords, context."""
        duration, success, keywords, context = payload
        get = keywords.get
        metadata = self._mapping(get("metadata"))
        ok = self._boolean(success, "success")
        prompt, completion, total = self._totals(keywords)
        read, write, reasoning = self._parts(keywords)
        model = self._models(get("model_name"))
        step = self._step(keywords, metadata)
        error = get("error")
        turns = get("conversation_length")
        names_no_call = model is None and total is None
        if turns is None and names_no_call:
            turns = get("turns")
        is_conversation = names_no_call and (turns is not None or step == "conversation_generation")
        finish = self._finish_reasons(get("finish_reason"))
        retries = get("retries")
        return Generation(
            time,
            self._call(keywords, model, step, defaults),
            model is not None,
            self._duration(duration),
            ok,
            prompt,
            completion,
            total,
            read,
            write,
            reasoning,
            # Some letters have a longer lower case.
            finish if finish is None else finish.lower()[:MAX_LABEL],
            None if ok else self._error_type(error, keywords, metadata),
            is_conversation,
            None if turns is None else self._count(turns, "conversation_length"),
            None if retries is None else self._retries(retries, keywords, metadata),
            keywords,
            context,
        )

    def evaluation(
        self,
        time: float,
        payload: tuple[Any, Any, Any, Any, dict[str, Any], Context | None],
        defaults: CallDefaults,
    ) -> Evaluation:
        """Clean a ``track_evaluation``.

        ``payload`` is duration, success, evaluator type, scores, keywords, context.
        """
        duration, success, evaluator, scores, keywords, context = payload
        get = keywords.get
        metadata = self._mapping(get("metadata"))
        ok = self._boolean(success, "success")
        prompt, completion, total = self._totals(keywords)
        read, write, reasoning = self._parts(keywords)
        model = self._models(get("model_name"))
        step = self._step(keywords, metadata)
        error = get("error")
        return Evaluation(
            time,
            self._call(keywords, model, step, defaults, remember=False),
            self._duration(duration),
            ok,
            self._evaluators(evaluator) or "unknown",
            None if ok else self._error_type(error, keywords, metadata),
            tuple(self._score_rows(scores)),
            prompt,
            completion,
            total,
            read,
            write,
            reasoning,
            keywords,
            context,
        )

    def metric(self, time: float, payload: tuple[Any, Any, Any]) -> Metric | None:
        """Clean a ``record_metric``; ``payload`` is name, value, metadata."""
        name, value, metadata = payload
        # The old names have a meaning to whoever reads them, so no limit makes them `other`.
        is_old = type(name) is str and name in _OLD_NAMES
        clean = name if is_old else self._metrics(name)
        if clean is None:
            self._reject(Reason.NO_NAME, "metric_name", name)
            return None
        number = self._value(value, clean)
        if number is None:
            return None
        data = self._mapping(metadata)
        stamp = _lookup(data, "timestamp")
        return Metric(time if stamp is None else self._timestamp(stamp, time), clean, number, data)

    def sample(self, time: float, payload: tuple[Any, Any]) -> Sample:
        """Clean a ``record_sample``; ``payload`` is accepted, reason."""
        accepted, reason = payload
        ok = self._boolean(accepted, "accepted")
        return Sample(time, ok, None if ok else self._sample_reasons(reason))

    def log(self, time: float, payload: tuple[str, Any, dict[str, Any], Context | None]) -> Log:
        """Clean a ``log_*``; ``payload`` is level, message, data, context."""
        level, message, data, context = payload
        error = data.pop("error", None) if level == "error" else None
        if error is not None:
            data = {"error": safe_text(error), "error_type": _class_name(type(error)), **data}
        return Log(time, level, safe_text(message) or "", data, context)

    def active(self, payload: tuple[int, dict[str, Any]], defaults: CallDefaults) -> Active:
        """Clean the begin or the end of a call; ``payload`` is +1 or -1, keywords.

        Both ends of a call share the keywords, in which the first leaves whose call it is: the
        model that stands in for none may be another by the end.
        """
        delta, keywords = payload
        call = keywords.get(_RESOLVED)
        if call is None:
            model = self._models(keywords.get("model_name"))
            step = self._step(keywords, {})
            call = self._call(keywords, model, step, defaults, remember=False)
            keywords[_RESOLVED] = call
        return Active(call, delta)

    def _call(
        self,
        keywords: Mapping[str, Any],
        model: str | None,
        step: str | None,
        defaults: CallDefaults,
        *,
        remember: bool = True,
    ) -> Call:
        if model is None:
            model = defaults.model_for(step)
        elif remember:
            defaults.saw(step, model)
        provider = keywords.get("provider")
        operation = keywords.get("operation")
        modality = keywords.get("modality")
        return Call(
            self._operations(operation) or defaults.operation,
            self._providers(provider) or defaults.provider or "_OTHER",
            model,
            step,
            self._modalities(modality) or "unknown",
        )

    def _totals(self, keywords: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
        """Clean prompt, completion and total; a total that is left out is the two together."""
        prompt = self._count(keywords.get("prompt_token_count"), "prompt_token_count")
        completion = self._count(keywords.get("completion_token_count"), "completion_token_count")
        total = self._count(keywords.get("total_token_count"), "total_token_count")
        if total is None and (prompt is not None or completion is not None):
            total = (prompt or 0) + (completion or 0)
        return prompt, completion, total

    def _parts(self, keywords: Mapping[str, Any]) -> tuple[int, int, int]:
        """Clean what was read from and written to a cache, and reasoning; 0 where not given."""
        if keywords.keys().isdisjoint(_PARTS):
            return 0, 0, 0
        read, write, reasoning = (self._count(keywords.get(name), name) or 0 for name in _PARTS)
        return read, write, reasoning

    def _step(self, keywords: Mapping[str, Any], metadata: Mapping[str, Any]) -> str | None:
        step = keywords.get("step")
        return self._steps(_lookup(metadata, "operation") if step is None else step)

    def _mapping(self, value: Any) -> Mapping[str, Any]:
        if type(value) is dict:
            return value
        if value is not None:
            self._reject(Reason.NOT_A_MAPPING, "metadata", value)
        return {}

    def _boolean(self, value: Any, name: str) -> bool:
        if value is True or value is False:
            return value
        try:
            return bool(value)
        except UNREADABLE:
            # Whatever cannot say that it is true is not a success; the tokens still count.
            self._reject(Reason.NOT_A_BOOLEAN, name, value)
            return False

    def _count(self, value: Any, name: str) -> int | None:
        if type(value) is int and 0 <= value <= MAX_COUNT:
            return value
        if value is None:
            return None
        try:
            if is_boolean(value):
                raise Rejected(Reason.NOT_A_NUMBER)
            return int(checked(to_number(value), MAX_COUNT, least=0))
        except Rejected as rejected:
            self._reject(rejected.reason, name, value)
            return None

    def _duration(self, value: Any) -> float | None:
        if type(value) is float and 0.0 <= value <= MAX_SECONDS:
            return value
        try:
            if value is None or is_boolean(value):
                raise Rejected(Reason.NOT_A_NUMBER)
            return float(checked(to_number(value), MAX_SECONDS, least=0))
        except Rejected as rejected:
            self._reject(rejected.reason, "duration", value)
            return None

    def _value(self, value: Any, name: str) -> float | None:
        try:
            return float(checked(to_number(value), MAX_VALUE, least=-MAX_VALUE))
        except Rejected as rejected:
            self._reject(rejected.reason, name, value)
            return None

    def _error_type(
        self, error: Any, keywords: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> str:
        given = keywords.get("error_type")
        if given is None:
            given = _lookup(metadata, "error_type")
        # By type(): isinstance() asks the object for its class, which may raise.
        if given is None and issubclass(type(error), BaseException):
            given = _class_name(type(error))
        return self._errors(given) or _OTHER_ERROR

    def _retries(
        self, value: Any, keywords: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> dict[str, int] | None:
        counts: dict[str, int] = {}
        if issubclass(type(value), list | tuple):
            # list() of a slice of list's own: a subclass may have overridden everything.
            own = list if issubclass(type(value), list) else tuple
            for error in own.__getitem__(value, slice(0, _MAX_RETRIES)):
                name = _retry_kind(error)
                # It has an alert of its own, which no limit on labels may silence.
                is_limited = name is RATE_LIMITED
                kind = RATE_LIMITED if is_limited else self._errors(name) or _OTHER_ERROR
                counts[kind] = counts.get(kind, 0) + 1
        else:
            number = self._count(value, "retries")
            if number:
                kind = self._error_type(keywords.get("error"), keywords, metadata)
                counts[kind] = min(number, _MAX_RETRIES)
        return counts or None

    def _score_rows(self, scores: Any) -> Iterable[Score]:
        if type(scores) is not dict:
            if scores is not None:
                self._reject(Reason.NOT_A_MAPPING, "scores", scores)
            return
        for raw_name, raw in scores.items():
            name = self._scores(raw_name)
            if name is None:
                self._reject(Reason.NO_NAME, "scores", raw_name)
                continue
            is_row = type(raw) is dict
            value = self._value(_lookup(raw, "score", 0) if is_row else raw, f"scores[{name!r}]")
            if value is not None:
                feedback = _lookup(raw, "feedback") if is_row else None
                yield Score(name, value, None if feedback is None else safe_text(feedback))

    def _timestamp(self, value: Any, default: float) -> float:
        try:
            if isinstance(value, datetime):
                # pandas' NaT is a datetime, and its time stamp is not a number.
                return float(checked(to_number(value.timestamp()), MAX_TIME, least=-MAX_TIME))
        except UNREADABLE:
            pass  # a year that the platform's clock does not have, or a class of the caller's
        self._reject(Reason.NOT_A_TIME, "timestamp", value)
        return default


def _retry_kind(error: Any) -> Any:
    """Name what caused a retry: an exception, its class or its name."""
    kind = type(error)
    if issubclass(kind, BaseException):
        name: Any = _class_name(kind)
    else:
        name = _class_name(error) if issubclass(kind, type) else error
    is_limited = issubclass(type(name), str) and "ratelimit" in str.lower(name)
    return RATE_LIMITED if is_limited or _is_rate_limit(error) else name


def _class_name(kind: type) -> str:
    # type's own, since a metaclass may have another that raises.
    name: str = type.__dict__["__name__"].__get__(kind)
    return name


def _is_rate_limit(error: Any) -> bool:
    try:
        return _TOO_MANY_REQUESTS in (
            getattr(error, "status_code", None),
            getattr(error, "code", None),
        )
    except UNREADABLE:
        return False


def _lookup(mapping: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """Get a value of the caller's dict, whose keys may be of a class that cannot be compared."""
    try:
        return mapping.get(key, default)
    except UNREADABLE:
        return None
