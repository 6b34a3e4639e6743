"""What the attempts of one call used: readings of responses, overridden by keywords.

A call has one attempt, unless a billed answer had to be asked for again. Within an attempt later
values replace earlier ones; attempts are summed, and each is priced by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.events.answers import STANDARD_TIERS, Answer, TokenCounts, Unread
from genmeter.events.values import MAX_COUNT, Rejected, checked, to_number
from genmeter.usage.finish import is_truncated
from genmeter.usage.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CallUsage", "Summary"]

_FIELDS = {
    "prompt_token_count": "input",
    "completion_token_count": "output",
    "total_token_count": "total",
    "cache_read_token_count": "cache_read",
    "cache_write_token_count": "cache_write",
    "cache_write_1h_token_count": "cache_write_1h",
    "reasoning_token_count": "reasoning",
}
# Arguments of track_generation that a handle passes itself.
_RESERVED = frozenset(("self", "duration", "success"))
_MAX_SHOWN_KEYWORDS = 8
_NO_TOKENS = TokenCounts()
_NOT_REPORTED = Unread("not_reported", "")


class Summary(NamedTuple):
    """What a call used, over its attempts.

    Attributes:
        keywords: Of ``track_generation``: the sums of the token counts, and further data.
        answers: What was billed, each attempt by itself; empty if keywords say all that is known.
        model: The model that answered last; None if unknown.
        finish_reason: A truncated one, else the first of the last answer; None if unknown.
        service_tier: Of the last answer; None if unknown.
        unread: Why no usage is known, or not that of an attempt; None if all is, or if nothing was
            reported.
    """

    keywords: dict[str, Any]
    answers: tuple[Answer, ...] = ()
    model: str | None = None
    finish_reason: str | None = None
    service_tier: str | None = None
    unread: Unread | None = None


class _Attempt:
    """One attempt of a call.

    Attributes:
        reading: What its responses or chunks say; None before the first one.
        counts: Token counts by keyword, which override the reading.
        is_streamed: Whether a stream was passed.
    """

    __slots__ = ("counts", "is_streamed", "reading")

    def __init__(self, reading: Reading | None = None) -> None:
        self.reading = reading
        self.counts: dict[str, Any] = {}
        self.is_streamed = False

    @property
    def has_usage(self) -> bool:
        return bool(self.counts) or (self.reading is not None and self.reading.has_usage)

    @property
    def is_blank(self) -> bool:
        return self.reading is None and not self.counts

    @property
    def unread(self) -> Unread | None:
        """Why what it used is not known, or not all of it; None if nothing was reported."""
        return None if self.counts or self.reading is None else self.reading.unread

    def answer(self) -> Answer:
        """Return what it used; keywords that are valid counts are part of it."""
        answer = Answer() if self.reading is None else self.reading.answer()
        if not self.counts:
            return answer
        valid: dict[str, Any] = {
            _FIELDS[name]: _valid(value) for name, value in self.counts.items()
        }
        tokens = answer.tokens._replace(**valid)
        if "total" not in valid and (tokens.total or 0) < (tokens.input or 0) + (
            tokens.output or 0
        ):
            tokens = tokens._replace(total=None)  # the response's, of fewer tokens
        return answer._replace(tokens=tokens)

    def answers(self) -> tuple[Answer, ...]:
        """Return what was billed: the answers of a list each by itself, unless keywords override it."""
        if self.counts or self.reading is None:
            return (self.answer(),)
        return self.reading.answers()


class CallUsage:
    """Collects what a call used.

    Nothing raises, whatever is passed.
    """

    __slots__ = ("_attempts", "_current", "_data", "_unread")

    def __init__(self) -> None:
        self._current = _Attempt()
        self._attempts: list[_Attempt] | None = None  # the earlier ones
        self._data: dict[str, Any] = {}
        self._unread: Unread | None = None

    def read(self, response: Any) -> bool:
        """Read a response or a chunk into the current attempt; return whether it has a usage."""
        current = self._current
        if current.reading is None:
            current.reading = Reading()
        is_read = current.reading.read(response)
        if is_read and current.counts:
            # Counts that this response names are later than the keywords.
            named = Reading()
            named.read(response)
            for name in self._named(named, current.counts):
                del current.counts[name]
        return is_read

    def override(self, keywords: dict[str, Any]) -> None:
        """Set counts of the current attempt; unknown keywords are kept as data of the call.

        A count of None is unknown and overrides nothing.
        """
        for name, value in keywords.items():
            if name in _FIELDS:
                if value is not None:
                    self._current.counts[name] = value
            elif name not in _RESERVED:
                self._data[name] = value

    def begin_attempt(self) -> None:
        """Begin another attempt, unless the current one has nothing yet."""
        if self._current.is_blank:
            return
        if self._attempts is None:
            self._attempts = []
        self._attempts.append(self._current)
        self._current = _Attempt()

    def begin_stream(self) -> Reading:
        """Return the reading for a stream's chunks.

        A stream after a response with usage, or after another stream, is another attempt.
        """
        current = self._current
        if current.is_streamed or (current.reading is not None and current.reading.has_usage):
            self.begin_attempt()
            current = self._current
        current.is_streamed = True
        if current.reading is None:
            current.reading = Reading()
        return current.reading

    def add(self, readings: list[Reading]) -> None:
        """Add what an exception carries, each reading as an attempt.

        If usage is known already, the exception's replaces it where it covers more, as the sum over
        all retries does, and else is the same once more.
        """
        if any(each.has_usage for each in self._all()):
            known = _sum([each.answer().tokens for each in self._all()])
            carried = _sum([each.answer().tokens for each in readings])
            if not _covers(carried, known):
                return
            self._attempts = None
            self._current = _Attempt()
        for reading in readings:
            if self._current.has_usage:
                self.begin_attempt()
            self._current.reading = reading

    def miss(self) -> None:
        """Take note that the current attempt was reported, and nothing of it."""
        current = self._current
        if current.reading is None:
            current.reading = Reading()
        if not current.has_usage and current.reading.unread is None:
            current.reading.unread = _NOT_REPORTED

    def mark_unread(self, unread: Unread) -> None:
        """Keep why an object could not be read; it matters only if no usage is known at the end."""
        self._unread = unread

    @property
    def model(self) -> str | None:
        """The model that answered last; None if unknown."""
        return self._answer_now().model

    @property
    def finish_reason(self) -> str | None:
        """As of :class:`Summary`, of the current attempt."""
        return _finish_reason((self._answer_now(),))

    def _answer_now(self) -> Answer:
        reading = self._current.reading
        return Answer() if reading is None else reading.answer()

    def summarise(self, *, service_tier: str | None, is_batch: bool) -> Summary:
        """Sum the attempts.

        Args:
            service_tier: The tier for answers that do not name theirs.
            is_batch: Whether all are billed as part of a batch.
        """
        current = self._current
        if (
            not (self._attempts or current.counts)
            and current.reading is not None
            and not current.reading.is_list
        ):
            # Nearly always one response, whose answer says it all.
            answer = _filled(current.reading.answer(), service_tier, is_batch=is_batch)
            _put_counts(self._data, answer.tokens)
            is_known = answer.tokens != _NO_TOKENS
            return Summary(
                self._data,
                (answer,) if is_known or answer.cost is not None else (),
                answer.model,
                _finish_reason((answer,)),
                answer.service_tier,
                current.unread if is_known else self._why_unread([current]),
            )
        attempts = self._all()
        keywords = self._data
        if len(attempts) == 1 and attempts[0].reading is None:
            # The keywords say it all.
            counts = attempts[0].counts
            keywords.update(counts)
            return Summary(keywords, unread=None if counts else self._why_unread(attempts))
        answers = [_filled(each.answer(), service_tier, is_batch=is_batch) for each in attempts]
        model, tokens, tier = answers[-1].model, answers[-1].tokens, answers[-1].service_tier
        if len(answers) > 1:
            tokens = _sum([each.tokens for each in answers])
            for each in answers[-2::-1]:
                model, tier = model or each.model, tier or each.service_tier
        _put_counts(keywords, tokens)
        is_known = tokens != _NO_TOKENS
        for attempt in attempts:
            # An invalid value is passed on, so that it is rejected and counted.
            for name, value in attempt.counts.items():
                is_known = True
                if _valid(value) is None:
                    keywords[name] = value
        billed = tuple(
            [
                _filled(each, service_tier, is_batch=is_batch)
                for attempt in attempts
                for each in attempt.answers()
                if each.cost is not None or each.tokens != _NO_TOKENS
            ]
        )
        if is_known:
            unread = next((each.unread for each in attempts if each.unread is not None), None)
        else:
            unread = self._why_unread(attempts)
        return Summary(keywords, billed, model, _finish_reason(answers), tier, unread)

    def _all(self) -> list[_Attempt]:
        if not self._attempts:
            return [self._current]
        if self._current.is_blank:
            return self._attempts
        return [*self._attempts, self._current]

    def _why_unread(self, attempts: list[_Attempt]) -> Unread | None:
        if self._unread is not None:
            return self._unread
        for attempt in reversed(attempts):
            if attempt.reading is not None and attempt.reading.unread is not None:
                return attempt.reading.unread
        if self._data and all(attempt.reading is None for attempt in attempts):
            names = ", ".join(list(self._data)[:_MAX_SHOWN_KEYWORDS])
            return Unread("keywords", names)
        return None

    @staticmethod
    def _named(reading: Reading, counts: Iterable[str]) -> list[str]:
        tokens = reading.answer().tokens
        return [name for name in counts if getattr(tokens, _FIELDS[name]) is not None]


def _filled(answer: Answer, service_tier: str | None, *, is_batch: bool) -> Answer:
    """Return an answer with the terms that it does not name; the standard tier needs no name."""
    tier = answer.service_tier or service_tier
    if tier is None and not is_batch:
        return answer
    return answer._replace(
        service_tier=None if tier in STANDARD_TIERS else tier, is_batch=answer.is_batch or is_batch
    )


def _put_counts(keywords: dict[str, Any], tokens: TokenCounts) -> None:
    # A loop over the names takes three times as long.
    if tokens.input is not None:
        keywords["prompt_token_count"] = tokens.input
    if tokens.output is not None:
        keywords["completion_token_count"] = tokens.output
    if tokens.total is not None:
        keywords["total_token_count"] = tokens.total
    if tokens.cache_read is not None:
        keywords["cache_read_token_count"] = tokens.cache_read
    if tokens.cache_write is not None:
        keywords["cache_write_token_count"] = tokens.cache_write
    if tokens.cache_write_1h is not None:
        keywords["cache_write_1h_token_count"] = tokens.cache_write_1h
    if tokens.reasoning is not None:
        keywords["reasoning_token_count"] = tokens.reasoning


def _valid(value: Any) -> int | None:
    """Return a token count as a true int; None if it is none."""
    if type(value) is bool:
        return None
    try:
        number = checked(to_number(value), MAX_COUNT, min_=0)
    except Rejected:
        return None
    return int(number) if number == int(number) else None


def _sum(tokens: list[TokenCounts]) -> TokenCounts:
    """Sum the counts of attempts; None only if no attempt has the count."""
    totals = [each.total for each in tokens]
    if any(total is not None for total in totals):
        # The total of attempts that do not name theirs must not be missing from the sum.
        totals = [
            _add(each.input, each.output) if each.total is None else each.total for each in tokens
        ]
    return TokenCounts(
        input=_add(*(each.input for each in tokens)),
        output=_add(*(each.output for each in tokens)),
        total=_add(*totals),
        cache_read=_add(*(each.cache_read for each in tokens)),
        cache_write=_add(*(each.cache_write for each in tokens)),
        cache_write_1h=_add(*(each.cache_write_1h for each in tokens)),
        reasoning=_add(*(each.reasoning for each in tokens)),
    )


def _covers(tokens: TokenCounts, known: TokenCounts) -> bool:
    """Return whether tokens are more than those known, in no part fewer."""
    more = (tokens.input or 0) - (known.input or 0), (tokens.output or 0) - (known.output or 0)
    return min(more) >= 0 and max(more) > 0


def _add(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _finish_reason(answers: Iterable[Answer]) -> str | None:
    found = None
    for answer in answers:
        for reason in answer.finish_reasons:
            if is_truncated(reason):
                return reason
        if answer.finish_reasons:
            found = answer.finish_reasons[0]
    return found
