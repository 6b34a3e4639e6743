"""The normaliser, which converts raw events to clean ones.

An invalid value is dropped from its event, counted by ``Reason`` and logged once. The rest of the
event is kept, so that a bad value does not lose the others.
"""

from __future__ import annotations

import itertools
import operator
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.events.afterimage import KNOWN_KEYWORDS, extra_data
from genmeter.events.answers import STANDARD_TIERS, Unread
from genmeter.events.billing import answer_of, billing_of, in_range, priced_by, spent_on
from genmeter.events.capture import MAX_RETRIES
from genmeter.events.hints import SUSPICIOUS_SECONDS, Hints
from genmeter.events.model import (
    RATE_LIMITED,
    ByModality,
    Call,
    Evaluation,
    Generation,
    Log,
    Metric,
    Reason,
    Sample,
    Score,
)
from genmeter.events.values import (
    MAX_COUNT,
    MAX_LABEL,
    MAX_SECONDS,
    MAX_VALUE,
    OTHER,
    LabelTable,
    Rejected,
    Unusable,
    checked,
    is_boolean,
    label_text,
    to_number,
)
from genmeter.schema.afterimage import (
    BILLING_KEYWORDS,
    BILLING_PARTS,
    METRICS,
    NO_PROVIDER,
    PARTS,
    PREFIXES,
)
from genmeter.schema.providers import well_known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from opentelemetry.trace import SpanContext

    from genmeter.events.answers import Answer, CallDetails
    from genmeter.events.hints import Notice
    from genmeter.events.model import CallDefaults

__all__ = ["Normaliser"]

_OTHER_ERROR = "_OTHER"  # the value of error.type for an unknown class, by the conventions
_MAX_RESOLVED = 4_096  # cached label sets of a monitor's calls
_NO_METADATA: Mapping[str, Any] = {}
_BILLING_KEYS = frozenset(BILLING_KEYWORDS) - {"response_model"}
_NOT_REPORTED = Unread("not_reported", "")
_STREAM_LEFT = Unread("stream_left", "cancelled")
_REPORTED = {"cost_reported": True}
_MODALITIES_OF = operator.attrgetter("input_by", "output_by", "cache_read_by")
_AFTERIMAGE_NAMES = frozenset(
    {metric.name for metric in METRICS} - {*PREFIXES} | {"model_creation_time"}
)


_Tokens = tuple[int | None, int | None, int | None, int, int, int]
"""Input, output, total, read from and written to a cache, reasoning."""


class _Billed(NamedTuple):
    """What a call cost in USD, its metadata ``billing``, and its tokens by modality."""

    cost: float | None = None
    data: dict[str, Any] | None = None
    by_modality: ByModality | None = None
    is_reported: bool = False
    is_unpriced: bool = False


class _Names(NamedTuple):
    """Whether a call's keywords have own data of the caller, parts of tokens, data for the price."""

    own: bool
    parts: bool
    billing: bool


_NOT_BILLED = _Billed()
_NO_PARTS = (0, 0, 0)


class Normaliser:
    """Converts raw events to clean ones. Not thread-safe: the drain's lock guards it.

    Args:
        limits: Maximum number of values of each label, by the name of the limit.
        on_reject: Called with the reason, the argument's name and the dropped value.
        on_overflow: Called with the name of the limit whose label became ``other``.
        notice: Called with what is probably wrong.
    """

    def __init__(
        self,
        limits: Mapping[str, int],
        *,
        on_reject: Callable[[Reason, str, object], None],
        on_overflow: Callable[[str], None],
        notice: Notice,
    ) -> None:
        self._hints = Hints(notice)
        self._reject = on_reject
        self._on_overflow = on_overflow
        self._is_peeking = False
        tables = {name: LabelTable(name, limit, self._overflow) for name, limit in limits.items()}
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
        self._response_models = tables["response_models"].clean
        self._names: dict[tuple[str, ...], _Names] = {}

    def generation(  # noqa: C901 - field by field
        self, time: float, payload: tuple[Any, ...], defaults: CallDefaults
    ) -> Generation:
        """Clean a ``track_generation``; see ``Raw.GENERATION`` for ``payload``."""
        duration, success, keywords, metadata, error_class, span, details = payload
        get = keywords.get
        if metadata is not None:
            keywords["metadata"] = metadata
        metadata = self._mapping(metadata)
        ok = success if success is True or success is False else self._boolean(success, "success")
        prompt, completion, total = self._totals(get)
        names = self._names.get(tuple(keywords)) or self._look_at_names(keywords)
        read, write, reasoning = self._parts(get) if names.parts else _NO_PARTS
        is_cancelled = details is not None and details.is_cancelled
        call, has_model = self._call(keywords, metadata, defaults, infer=not ok and not total)
        turns = get("conversation_length")
        is_conversation = False
        if total is None and not has_model:
            if turns is None:
                turns = get("turns")
            is_conversation = turns is not None or call.step == "conversation_generation"
        finish = get("finish_reason")
        if finish is not None:
            finish = self._finish_reasons(finish)
        retries = get("retries")
        if retries is not None:
            retries = self._retries(retries, error_class, keywords, metadata)
        if duration is None and details is not None:
            pass  # an observed call whose duration nobody knows
        elif type(duration) is not float or not 0.0 <= duration <= MAX_SECONDS:
            duration = self._duration(duration)
        unread = None
        # Of several attempts, one may be unknown.
        is_missing = total is None or (
            details is not None and details.unread is not None and bool(details.answers)
        )
        if is_missing and not is_conversation:
            unread = self._unread(ok, is_cancelled, call, details)
        tokens = (prompt, completion, total, read, write, reasoning)
        billed = _NOT_BILLED
        if details is not None or names.billing or defaults.price is not None:
            billed = self._billed(tokens, keywords, details, defaults, call, time)
        if duration is not None and duration >= SUSPICIOUS_SECONDS and not is_conversation:
            if keywords.get("batch") is not True:
                self._hints.check_unit(duration, time, defaults)
        elif defaults.suspicious:
            defaults.suspicious = 0
        return Generation(
            time,
            call,
            has_model,
            duration,
            ok,
            prompt,
            completion,
            total,
            read,
            write,
            reasoning,
            # The lower case of some letters is longer.
            finish if finish is None else finish.lower()[:MAX_LABEL],
            None if ok or is_cancelled else self._error_type(error_class, keywords, metadata),
            is_conversation,
            None if turns is None else self._count(turns, "conversation_length"),
            retries,
            keywords,
            span,
            extra_data(keywords, retries, billed.data, has_own=names.own),
            billed.cost,
            billed.is_reported,
            billed.is_unpriced,
            is_cancelled,
            unread,
            billed.by_modality,
            None if details is None else details.first_chunk,
            () if details is None else details.chunk_gaps,
        )

    def evaluation(
        self, time: float, payload: tuple[Any, ...], defaults: CallDefaults
    ) -> Evaluation:
        """Clean a ``track_evaluation``; see ``Raw.EVALUATION`` for ``payload``."""
        duration, success, evaluator, scores, keywords, metadata, error_class, span = payload
        if metadata is not None:
            keywords["metadata"] = metadata
        metadata = self._mapping(metadata)
        ok = self._boolean(success, "success")
        prompt, completion, total = self._totals(keywords.get)
        names = self._names.get(tuple(keywords)) or self._look_at_names(keywords)
        read, write, reasoning = self._parts(keywords.get)
        call, _ = self._call(keywords, metadata, defaults, infer=False, remember=False)
        tokens = (prompt, completion, total, read, write, reasoning)
        billed = self._billed(tokens, keywords, None, defaults, call, time)
        return Evaluation(
            time,
            call,
            self._duration(duration),
            ok,
            self._evaluators(evaluator) or "unknown",
            None if ok else self._error_type(error_class, keywords, metadata),
            tuple(self._score_rows(scores)),
            prompt,
            completion,
            total,
            read,
            write,
            reasoning,
            keywords,
            span,
            extra_data(keywords, None, billed.data, has_own=names.own),
            billed.cost,
            billed.is_reported,
            billed.is_unpriced,
            billed.by_modality,
        )

    def metric(self, time: float, payload: tuple[Any, Any, Any]) -> Metric | None:
        """Clean a ``record_metric``; ``payload`` is name, value, metadata."""
        name, value, metadata = payload
        # Readers know AfterImage's names, so they never become "other".
        is_known = type(name) is str and name in _AFTERIMAGE_NAMES
        clean = name if is_known else self._metrics(name)
        if clean is None:
            self._reject(Reason.NO_NAME, "metric_name", name)
            return None
        number = self._value(value, clean)
        if number is None:
            return None
        return Metric(time, clean, number, self._mapping(metadata))

    def sample(self, time: float, payload: tuple[Any, Any]) -> Sample:
        """Clean a ``record_sample``; ``payload`` is accepted, reason."""
        accepted, reason = payload
        ok = self._boolean(accepted, "accepted")
        return Sample(time, ok, None if ok else self._sample_reasons(reason))

    def log(self, time: float, payload: tuple[str, Any, dict[str, Any], SpanContext | None]) -> Log:
        """Clean a ``log_*``; ``payload`` is level, message, data, span."""
        level, message, data, span = payload
        return Log(time, level, message, data, span)

    def call(self, keywords: Mapping[str, Any], defaults: CallDefaults) -> Call:
        """Return the labels of a running call, without counting overflows.

        Args:
            keywords: ``model_name``, ``step``, ``provider`` and ``operation``, as plain data.
            defaults: The defaults of its monitor.
        """
        self._is_peeking = True
        try:
            return self._call(keywords, _NO_METADATA, defaults, infer=False, remember=False)[0]
        finally:
            self._is_peeking = False

    def _overflow(self, limit: str) -> None:
        if not self._is_peeking:
            self._on_overflow(limit)

    def _call(
        self,
        keywords: Mapping[str, Any],
        metadata: Mapping[str, Any],
        defaults: CallDefaults,
        *,
        infer: bool,
        remember: bool = True,
    ) -> tuple[Call, bool]:
        """Return the labels of a call, and whether it has a model of its own."""
        get = keywords.get
        raw_model, step = get("model_name"), get("step")
        if step is None:
            step = metadata.get("operation")
            if type(step) in (list, dict):
                step = str(step)
        provider, operation = get("provider"), get("operation")
        key = (raw_model, step, provider, operation, get("modality"), get("response_model"))
        call = defaults.resolved.get(key) if raw_model is not None else None
        if call is not None:
            if remember:
                defaults.observe_model(call.step, call.model)
            return call, True
        model = self._models(raw_model)
        step = self._steps(step)
        has_model = model is not None
        if model is None:
            model = defaults.model_for(step, infer=infer)
        elif remember:
            defaults.observe_model(step, model)
        call = Call(
            self._operations(key[3]) or defaults.operation,
            self._provider(key[2]) or defaults.provider or NO_PROVIDER,
            model,
            step,
            self._modalities(key[4]) or "unknown",
            self._response_models(key[5]),
        )
        # Calls with a label "other" are not cached, because each counts as an overflow, nor those
        # with long texts, which would fill the memory.
        if has_model and OTHER not in call and not any(map(_is_long, key)):
            if len(defaults.resolved) >= _MAX_RESOLVED:
                defaults.resolved.clear()
            defaults.resolved[key] = call
        return call, has_model

    def _provider(self, raw: Any) -> str | None:
        return self._providers(well_known(raw) if type(raw) is str else raw)

    def _totals(self, get: Callable[[str], Any]) -> tuple[int | None, int | None, int | None]:
        """Clean prompt, completion and total tokens; a missing total is the sum of the others."""
        prompt = get("prompt_token_count")
        if type(prompt) is not int or not 0 <= prompt <= MAX_COUNT:
            prompt = self._count(prompt, "prompt_token_count")
        completion = get("completion_token_count")
        if type(completion) is not int or not 0 <= completion <= MAX_COUNT:
            completion = self._count(completion, "completion_token_count")
        total = get("total_token_count")
        if type(total) is not int or not 0 <= total <= MAX_COUNT:
            total = self._count(total, "total_token_count")
            if total is None and (prompt is not None or completion is not None):
                total = (prompt or 0) + (completion or 0)
        return prompt, completion, total

    def _parts(self, get: Callable[[str], Any]) -> tuple[int, int, int]:
        """Clean the tokens read from and written to a cache, and of reasoning; 0 if absent."""
        read, write, reasoning = (self._count(get(name), name) or 0 for name in PARTS)
        return read, write, reasoning

    def _look_at_names(self, keywords: Mapping[str, Any]) -> _Names:
        """Return what the names of keywords mean; names without own data are remembered."""
        own = keywords.keys() - KNOWN_KEYWORDS
        if own:
            self._hints.check_keywords(own)
        names = _Names(
            own=bool(own),
            parts=not keywords.keys().isdisjoint(PARTS),
            billing=not keywords.keys().isdisjoint(_BILLING_KEYS),
        )
        # A misspelt name is counted each time.
        if not own and len(self._names) < _MAX_RESOLVED:
            self._names[tuple(keywords)] = names
        return names

    def _billed(
        self,
        tokens: _Tokens,
        keywords: dict[str, Any],
        details: CallDetails | None,
        defaults: CallDefaults,
        call: Call,
        time: float,
    ) -> _Billed:
        """Return what a call cost, and what that depends on."""
        is_plain = keywords.keys().isdisjoint(_BILLING_KEYS)
        cost = None if is_plain else self._cost(keywords.get("cost"))
        if details is not None and details.answers:
            answers: Sequence[Answer] = [in_range(answer) for answer in details.answers]
        elif tokens[2] is None or (is_plain and defaults.price is None):
            answers = ()
        else:
            answers = (self._answer(tokens, keywords, is_plain=is_plain),)
        if not answers:
            return _NOT_BILLED if cost is None else _Billed(cost, _REPORTED, is_reported=True)
        is_reported, is_unpriced = cost is not None, False
        if cost is None:
            cost, is_reported, is_unpriced = _spent(answers, call, keywords, defaults, time)
        else:
            # It is that of all answers; their own would be summed when a report prices again.
            answers = [answer._replace(cost=None) for answer in answers]
        return _Billed(
            cost,
            billing_of(answers, is_reported=is_reported),
            _by_modality(answers, tokens),
            is_reported=is_reported,
            is_unpriced=is_unpriced,
        )

    def _answer(self, tokens: _Tokens, keywords: Mapping[str, Any], *, is_plain: bool) -> Answer:
        """Return what was billed, from the keywords of a call."""
        parts: dict[str, Any] = {}
        if not is_plain:
            parts = {
                name: self._count(keywords[name], name)
                for name in BILLING_PARTS
                if name in keywords
            }
            tier = keywords.get("service_tier")
            tier = tier.strip().lower() if type(tier) is str else None
            parts["service_tier"] = None if tier in STANDARD_TIERS else tier or None
            parts["batch"] = keywords.get("batch") is True
        answered = keywords.get("response_model")
        return answer_of(tokens, parts, model=answered if type(answered) is str else None)

    def _cost(self, value: Any) -> float | None:
        if value is None:
            return None
        number = self._number(value, "cost", 0, MAX_VALUE)
        return None if number is None else float(number)

    def _unread(
        self, success: bool, is_cancelled: bool, call: Call, details: CallDetails | None
    ) -> str | None:
        """Return why the usage of a call is unknown; None if a failed call need not have any."""
        if not success and not is_cancelled:
            return None
        unread = _NOT_REPORTED
        if details is not None:
            if is_cancelled and details.first_chunk is None:
                return None
            unread = details.unread or (_STREAM_LEFT if is_cancelled else _NOT_REPORTED)
        self._hints.note_unread(unread, call)
        return unread.reason

    def _mapping(self, value: Any) -> Mapping[str, Any]:
        if type(value) is dict:
            return value
        if value is not None:
            self._reject(Reason.NOT_A_MAPPING, "metadata", value)
        return _NO_METADATA

    def _boolean(self, value: Any, name: str) -> bool:
        if type(value) is Unusable:
            # A value without a truth value is not a success; the tokens still count.
            self._reject(value.reason, name, value)
            return False
        return bool(value)

    def _count(self, value: Any, name: str) -> int | None:
        if type(value) is int and 0 <= value <= MAX_COUNT:
            return value
        if value is None:
            return None
        number = self._number(value, name, 0, MAX_COUNT)
        return None if number is None else int(number)

    def _duration(self, value: Any) -> float | None:
        number = self._number(value, "duration", 0, MAX_SECONDS)
        return None if number is None else float(number)

    def _value(self, value: Any, name: str) -> float | None:
        number = self._number(value, name, -MAX_VALUE, MAX_VALUE)
        return None if number is None else float(number)

    def _number(self, value: Any, name: str, min_: float, max_: float) -> float | None:
        try:
            if min_ == 0 and is_boolean(value):  # valid as a score only
                raise Rejected(Reason.NOT_A_NUMBER)
            return checked(to_number(value), max_, min_=min_)
        except Rejected as rejected:
            self._reject(rejected.reason, name, value)
            return None

    def _error_type(
        self, error_class: str | None, keywords: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> str:
        given = keywords.get("error_type")
        if given is None:
            given = metadata.get("error_type")
        return self._errors(error_class if given is None else given) or _OTHER_ERROR

    def _retries(
        self,
        value: Any,
        error_class: str | None,
        keywords: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> dict[str, int] | None:
        counts: dict[str, int] = {}
        if type(value) is list:
            for cause in value:
                # Never "other", because rate limits have their own alert.
                is_limited = cause == RATE_LIMITED
                kind = RATE_LIMITED if is_limited else self._errors(cause) or _OTHER_ERROR
                counts[kind] = counts.get(kind, 0) + 1
        else:
            number = self._count(value, "retries")
            if number:
                kind = self._error_type(error_class, keywords, metadata)
                counts[kind] = min(number, MAX_RETRIES)
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
            value = self._value(raw["score"] if is_row else raw, f"scores[{name!r}]")
            if value is None:
                continue
            if not is_row:
                yield Score(name, value)
                continue
            label = raw.get("label")
            if label is not None:
                label = label_text(label)
            yield Score(name, value, raw.get("feedback"), label)


def _spent(
    answers: Sequence[Answer],
    call: Call,
    keywords: Mapping[str, Any],
    defaults: CallDefaults,
    time: float,
) -> tuple[float | None, bool, bool]:
    if defaults.price is None:
        return spent_on(answers, None)
    # As asked, since a label may be cut, or "other".
    asked = keywords.get("model_name")
    model = (asked.strip() if type(asked) is str else None) or call.model
    price = priced_by(defaults.price, model=model, provider=call.provider, time=time)
    return spent_on(answers, price)


def _by_modality(answers: Sequence[Answer], tokens: _Tokens) -> ByModality | None:
    """Sum the tokens by modality; a count whose parts exceed it has none."""
    known = [ByModality(*_MODALITIES_OF(answer.tokens)) for answer in answers]
    if not any(map(any, known)):
        return None
    return ByModality(
        _summed((each.input for each in known), tokens[0] or 0),
        _summed((each.output for each in known), tokens[1] or 0),
        _summed((each.cache_read for each in known), tokens[3]),
    )


def _summed(
    parts: Iterable[tuple[tuple[str, int], ...]], limit: int
) -> tuple[tuple[str, int], ...]:
    sums: dict[str, int] = {}
    for modality, count in itertools.chain.from_iterable(parts):
        sums[modality] = sums.get(modality, 0) + count
    return tuple(sums.items()) if sum(sums.values()) <= limit else ()


def _is_long(label: Any) -> bool:
    return type(label) is str and len(label) > MAX_LABEL
