"""What was read so far of one billed answer, merged from responses, chunks and events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from genmeter.events.answers import STANDARD_TIERS, Answer, TokenCounts, Unread
from genmeter.events.values import UNREADABLE
from genmeter.usage._names import Rank, Slot
from genmeter.usage._objects import fields_of, is_delta, is_stream, items_of
from genmeter.usage._walk import Found

if TYPE_CHECKING:
    from collections.abc import Iterable

    from genmeter.usage._walk import Counts

__all__ = ["Reading", "is_stream", "read_error"]

_MAX_CAUSES = 4
_MAX_ATTEMPTS = 64
_MAX_STRANGERS = 1_000
_MAX_TEXTS = 8
"""Items without fields, such as the text in front of a response in a tuple."""
_MAX_ANSWERS = 256
"""Answers of a list that are billed one by one; of more, those that are billed alike are summed."""
_UNKNOWN: Final = (0, None)
_NO_TOKENS: Final = TokenCounts()
_TIERS: Final = dict.fromkeys(STANDARD_TIERS, "default")


class Reading:
    """What was read so far of one billed answer, in the vendors' own terms.

    A later object overrides what it names and nothing else, since every count of a stream is
    cumulative. Sums, such as an input with the caches that the vendor counts beside it, are made
    last, in :meth:`answer`: a chunk may name only one of their parts.

    Attributes:
        unread: Why the last object had no usage, or one answer of a list; None once a usage was
            found, and at first.
    """

    __slots__ = (
        "_answers",
        "_cache_by",
        "_cost",
        "_counts",
        "_input_by",
        "_is_batch",
        "_model",
        "_output_by",
        "_reasons",
        "_tier",
        "unread",
    )

    def __init__(self) -> None:
        self.unread: Unread | None = None
        self._answers: tuple[Answer, ...] = ()
        self._counts: Counts = {}
        self._input_by: dict[str, int] = {}
        self._output_by: dict[str, int] = {}
        self._cache_by: dict[str, int] = {}
        self._model: str | None = None
        self._reasons: dict[int, str] = {}
        self._tier: str | None = None
        self._is_batch = False
        self._cost: float | None = None

    def __repr__(self) -> str:
        return f"<Reading of {self._model or 'an unknown model'}, usage {self.has_usage}>"

    @property
    def has_usage(self) -> bool:
        """Whether any count was read."""
        return bool(self._counts)

    @property
    def is_list(self) -> bool:
        """Whether a list was read last, of which several answers are billed."""
        return bool(self._answers)

    @property
    def model(self) -> str | None:
        """The model that answered; None if unknown."""
        return self._model

    def read(self, obj: Any, *, adds: bool = False) -> bool:
        """Merge what an object says.

        Args:
            obj: A response, a usage object, a chunk or an event of a stream, the JSON of these, a
                raw response whose body is there, or a list of responses, which is summed (of
                chunks: merged).
            adds: Whether its counts are added to those before; as of LangChain's chunks.

        Returns:
            Whether it had a usage. Never raises.
        """
        try:
            found = Found()
            found.read(obj)
            if not found.is_known and (items := items_of(obj)):
                found = _read_list(items)
                found.lacks_usage = found.lacks_usage or _is_longer(obj, len(items))
            elif found.prompts and (several := _read_list(found.prompts)).counts:
                found = several
            return self._merge(found, obj, adds=adds)
        except UNREADABLE:
            self._miss("not_understood", obj)
            return False

    def answer(self) -> Answer:
        """Return what is known so far; all counts are None if no usage was read."""
        tier = self._tier
        reasons = self._reasons
        # By position, as in _tokens().
        return Answer(
            self._tokens() if self._counts else _NO_TOKENS,
            self._model,
            tuple(reasons.values())
            if len(reasons) < 2  # noqa: PLR2004 - in order as it is
            else tuple(reasons[index] for index in sorted(reasons)),
            None if tier is None or tier == "batch" else _TIERS.get(tier, tier),
            self._is_batch or tier == "batch",
            self._cost,
        )

    def answers(self) -> tuple[Answer, ...]:
        """Return each answer that is billed by itself: several if a list was read last."""
        return self._answers or (self.answer(),)

    def adopt(self, other: Reading) -> None:
        """Take over the model, the finish reasons and the tier of a reading, but not its usage."""
        self._model = self._model or other._model
        self._reasons = self._reasons or dict(other._reasons)
        self._tier = self._tier or other._tier

    def _merge(self, found: Found, obj: Any, *, adds: bool = False) -> bool:
        counts = self._counts
        fresh = found.counts
        if fresh:
            if adds and counts:
                self._add_to(found)
            self._answers = found.answers
            if Slot.TOTAL not in fresh and Slot.TOTAL in counts and _differs(counts, fresh):
                del counts[Slot.TOTAL]  # it was the total of fewer tokens
            counts.update(fresh)
            self._input_by = found.input_by or self._input_by
            self._output_by = found.output_by or self._output_by
            self._cache_by = found.cache_by or self._cache_by
        self._merge_rest(found)
        if fresh:
            self.unread = Unread("no_usage", _type_name(obj)) if found.lacks_usage else None
            return True
        if found.is_known:
            self._miss("no_usage", obj)
        elif is_stream(obj) or _holds_stream(obj):
            self._miss("stream", obj)
        else:
            self._miss("not_understood", obj)
        return False

    def _add_to(self, found: Found) -> None:
        """Add what was read before to a chunk whose counts are those of its own."""
        for slot, (count, rank) in found.counts.items():
            found.counts[slot] = (count + self._counts.get(slot, _UNKNOWN)[0], rank)
        for fresh, known in (
            (found.input_by, self._input_by),
            (found.output_by, self._output_by),
            (found.cache_by, self._cache_by),
        ):
            for modality, count in known.items():
                fresh[modality] = fresh.get(modality, 0) + count

    def _merge_rest(self, found: Found) -> None:
        if found.model is not None:
            self._model = found.model
        if found.reasons:
            if found.is_whole:
                self._reasons = found.reasons
            else:
                self._reasons.update(found.reasons)
        if found.tier is not None:
            self._tier = found.tier
        if found.is_batch:
            self._is_batch = True
        if found.cost is not None:
            self._cost = found.cost

    def _miss(self, reason: str, obj: Any) -> None:
        if not self._counts:
            self.unread = Unread(reason, _type_name(obj))

    def _tokens(self) -> TokenCounts:
        get = self._counts.get
        read, read_rank = get(Slot.CACHE_READ, _UNKNOWN)
        hour, hour_rank = get(Slot.CACHE_WRITE_1H, _UNKNOWN)
        short, short_rank = get(Slot.CACHE_WRITE_5M, _UNKNOWN)
        write, write_rank = get(Slot.CACHE_WRITE, _UNKNOWN)
        if hour + short > write:
            write, write_rank = hour + short, hour_rank if hour_rank is not None else short_rank
        input_, input_rank = get(Slot.INPUT, _UNKNOWN)
        if input_rank == Rank.INPUT_ALONE:
            input_ += read if read_rank == Rank.CACHE_OUTSIDE else 0
            input_ += write if write_rank == Rank.CACHE_OUTSIDE else 0
        if Slot.TOOL_INPUT in self._counts:
            input_ += get(Slot.TOOL_INPUT, _UNKNOWN)[0]
            input_rank = Rank.USUAL if input_rank is None else input_rank
        total, total_rank = get(Slot.TOTAL, _UNKNOWN)
        reasoning, reasoning_rank = get(Slot.REASONING, _UNKNOWN)
        output, output_rank = get(Slot.OUTPUT, _UNKNOWN)
        if reasoning_rank == Rank.THOUGHTS_OUTSIDE and output_rank in _THOUGHTS_ADDED:
            output, output_rank = output + reasoning, reasoning_rank
        elif reasoning and input_rank is not None and input_ + output + reasoning == total:
            # Only where the vendor's total proves it: most count reasoning in the output.
            output, output_rank = output + reasoning, reasoning_rank
        searches, searches_rank = get(Slot.SEARCHES, _UNKNOWN)
        if not total and input_ + output > 0:
            total_rank = None  # a server that does not count it
        # By position, in the order of TokenCounts: half the time.
        return TokenCounts(
            None if input_rank is None else input_,
            None if output_rank is None else output,
            None if total_rank is None else total,
            None if read_rank is None else read,
            None if write_rank is None else write,
            None if reasoning_rank is None else reasoning,
            None if hour_rank is None else hour,
            _by_modality(self._input_by, input_) if self._input_by else (),
            _by_modality(self._output_by, output) if self._output_by else (),
            _by_modality(self._cache_by, read) if self._cache_by else (),
            None if searches_rank is None else searches,
        )


_THOUGHTS_ADDED: Final = frozenset({None, Rank.THOUGHTS_OUTSIDE})


def read_error(error: BaseException) -> list[Reading]:
    """Read what an exception says of answers that were billed.

    Such as the ``completion`` of OpenAI's ``LengthFinishReasonError``, the ``total_usage`` of
    instructor's ``InstructorRetryException`` (else its attempts, else its ``last_completion``), the
    ``run_data`` of the Agents SDK, a response whose body was read, or any other attribute that has
    a usage; also of the exceptions of a group, and of the cause.

    Returns:
        The readings that have a usage, each a billed answer of its own. Never raises.
    """
    try:
        return _read_causes(error)
    except UNREADABLE:
        return []


def _read_causes(error: BaseException) -> list[Reading]:
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None:
            break
        if readings := _read_attributes(cause):
            return readings
        if isinstance(cause, BaseExceptionGroup):
            members = items_of(cause.exceptions)[:_MAX_ATTEMPTS]
            return [each for member in members for each in _read_attributes(member)]
        cause = cause.__cause__
    return []


def _read_attributes(error: BaseException) -> list[Reading]:
    fields = fields_of(error) or {}
    if billed := _read_attempts(fields):
        return billed
    whole = Reading()
    if whole.read(error):
        return [whole]
    for name, value in list(fields.items())[:_MAX_ATTEMPTS]:
        if type(name) is str and not name.startswith("__") and not is_stream(value):
            each = Reading()
            if each.read(value):
                return [each]
    return []


def _read_attempts(fields: dict[str, Any]) -> list[Reading]:
    """Read instructor's sum over all attempts, else each of them, else the last one."""
    last = Reading()
    last.read(fields.get("last_completion"))
    summed = Reading()
    summed.read(fields.get("total_usage"))
    # The sum starts at 0 and stays so for clients that instructor cannot read.
    if any(summed.answer().tokens[:2]):
        summed.adopt(last)
        return [summed]
    attempts = []
    for item in items_of(fields.get("failed_attempts"))[:_MAX_ATTEMPTS]:
        attempt = Reading()
        if attempt.read(item):
            attempts.append(attempt)
    return attempts or ([last] if last.has_usage else [])


def _read_list(items: Iterable[Any]) -> Found:
    """Sum the answers of a list, or merge its chunks."""
    merged = Reading()
    total = Found()
    answers: list[Answer] = []
    are_chunks = False
    strangers = 0
    for item in items:
        each = Found()
        each.read(item)
        if not each.is_known and not each.counts:
            strangers += 1
            if strangers > (_MAX_TEXTS if fields_of(item) is None else _MAX_STRANGERS):
                break  # a list of numbers, texts or anything else
            continue
        total.is_known = True
        are_chunks = are_chunks or each.is_chunk
        alone = Reading()
        alone._merge(each, None)  # noqa: SLF001 - one class
        answers.append(alone.answer())
        merged._merge(each, None, adds=is_delta(item))  # noqa: SLF001
        if not alone.has_usage and (each.reasons or each.model is not None):
            total.lacks_usage = True
    if are_chunks:
        answers = [merged.answer()]
        total.lacks_usage = False
    for answer in answers:
        _add(total, answer)
    billed = [each for each in answers if each.tokens != TokenCounts()]
    costs = [each.cost for each in billed if each.cost is not None]
    total.cost = sum(costs) if costs and len(costs) == len(billed) else None
    total.answers = _billed_alike(billed) if len(billed) > 1 else ()
    if any(each.tokens.total is None for each in billed):
        total.counts.pop(Slot.TOTAL, None)
    total.is_whole = True
    return total


def _billed_alike(answers: list[Answer]) -> tuple[Answer, ...]:
    """Return the answers, or of many the sums of those with the same price."""
    if len(answers) <= _MAX_ANSWERS:
        return tuple(answers)
    groups: dict[tuple[Any, ...], list[Answer]] = {}
    for answer in answers:
        terms = answer.model, answer.service_tier, answer.is_batch, answer.cost is None
        groups.setdefault(terms, []).append(answer)
    summed = []
    for group in groups.values():
        total = Found()
        for answer in group:
            _add(total, answer)
        merged = Reading()
        merged._merge(total, None)  # noqa: SLF001 - one class
        costs = [each.cost for each in group if each.cost is not None]
        summed.append(merged.answer()._replace(cost=sum(costs) if costs else None))
    return tuple(summed[:_MAX_ANSWERS])


def _add(total: Found, answer: Answer) -> None:
    tokens = answer.tokens
    for slot, count in (
        (Slot.INPUT, tokens.input),
        (Slot.OUTPUT, tokens.output),
        (Slot.TOTAL, tokens.total),
        (Slot.CACHE_READ, tokens.cache_read),
        (Slot.CACHE_WRITE, tokens.cache_write),
        (Slot.CACHE_WRITE_1H, tokens.cache_write_1h),
        (Slot.REASONING, tokens.reasoning),
        (Slot.SEARCHES, tokens.searches),
    ):
        if count is not None:
            total.counts[slot] = (count + total.counts.get(slot, _UNKNOWN)[0], Rank.DETAIL)
    for by, pairs in (
        (total.input_by, tokens.input_by),
        (total.output_by, tokens.output_by),
        (total.cache_by, tokens.cache_read_by),
    ):
        for modality, count in pairs:
            by[modality] = by.get(modality, 0) + count
    for reason in answer.finish_reasons:
        total.reasons[len(total.reasons)] = reason
    total.model = total.model or answer.model
    total.tier = total.tier or answer.service_tier
    total.is_batch = total.is_batch or answer.is_batch


def _differs(counts: Counts, fresh: Counts) -> bool:
    return any(
        slot in fresh and fresh[slot][0] != counts.get(slot, (None,))[0]
        for slot in (Slot.INPUT, Slot.OUTPUT)
    )


def _by_modality(by: dict[str, int], count: int) -> tuple[tuple[str, int], ...]:
    # Parts that exceed their whole are of an earlier object.
    return tuple(sorted(by.items())) if sum(by.values()) <= count else ()


def _is_longer(obj: Any, length: int) -> bool:
    try:
        return len(obj) > length
    except UNREADABLE:
        return False


def _holds_stream(obj: Any) -> bool:
    """Return whether it is a response of Bedrock or such that has the stream as its value."""
    fields = fields_of(obj)
    return fields is not None and is_stream(fields.get("stream"))


def _type_name(obj: Any) -> str:
    kind = type(obj)
    try:
        module = kind.__module__
        name = kind.__qualname__
        return name if module == "builtins" else f"{module}.{name}"
    except UNREADABLE:
        return "an object"
