"""Walks over one object and collects what it says of usage, in the vendors' own terms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from genmeter.events.values import UNREADABLE
from genmeter.usage._names import (
    ACTIONS,
    COUNTS,
    DETAILS,
    FLAT,
    GENERATED,
    ITERATION_COUNTS,
    MODALITIES,
    Action,
    Rank,
    Slot,
)
from genmeter.usage._objects import count_of, fields_of, items_of, money_of, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from genmeter.events.answers import Answer

__all__ = ["Counts", "Found"]

Counts = dict[int, tuple[int, int]]
"""Each count and whose name it had."""

_MAX_DEPTH = 6
_MAX_OBJECTS = 48
"""Objects that are read of one answer: a mock or a proxy may have others without end."""
_USD_PER_TICK = 1e-10
"""Of xAI's ``cost_in_usd_ticks``: ``xai_sdk.cost``."""
_ENDED: Final = frozenset({"completed", "incomplete", "failed", "cancelled", "canceled", "expired"})
_WITH_STATUS: Final = frozenset({"response", "realtime.response", "interaction"})
_TRAFFIC: Final = {"ON_DEMAND_FLEX": "flex", "ON_DEMAND_PRIORITY": "priority"}
_UNSET: Final = frozenset({"FINISH_REASON_UNSPECIFIED", "REASON_INVALID"})
"""What protobuf's enums are before the answer ends: Google's and xAI's."""
_BAD_STATUS: Final = 400
_ANSWERS: Final = frozenset({"response", "result", "error"})
_FREE: Final = frozenset({"metadata", "meta"})
_HOLDERS: Final = frozenset(name for name, each in ACTIONS.items() if each == Action.USAGE)


class Found:
    """What one object says.

    Attributes:
        counts: The counts, in the vendor's terms.
        input_by: Input tokens by modality; as are ``output_by`` and ``cache_by``.
        model: The model that answered.
        reasons: Finish reasons by the index of the choice.
        is_whole: Whether these are the reasons of all choices, not of a chunk.
        is_chunk: Whether the object says that it is a chunk of a stream.
        tier: The service tier, in lower case.
        is_batch: Whether it was answered in a batch.
        cost: USD as reported.
        is_known: Whether any name was known.
        lacks_usage: Whether it is a list in which an answer has no usage.
        prompts: The answers to several prompts, if the object has no sum of theirs.
        answers: The answers of a list, each of which is billed by itself; empty if there are many.
    """

    __slots__ = (
        "_are_images",
        "_left",
        "answers",
        "cache_by",
        "cost",
        "counts",
        "input_by",
        "is_batch",
        "is_chunk",
        "is_known",
        "is_whole",
        "lacks_usage",
        "model",
        "output_by",
        "prompts",
        "reasons",
        "tier",
    )

    def __init__(self) -> None:
        self.counts: Counts = {}
        self.input_by: dict[str, int] = {}
        self.output_by: dict[str, int] = {}
        self.cache_by: dict[str, int] = {}
        self.model: str | None = None
        self.reasons: dict[int, str] = {}
        self.is_whole = False
        self.is_chunk = False
        self.tier: str | None = None
        self.is_batch = False
        self.cost: float | None = None
        self.is_known = False
        self.lacks_usage = False
        self.answers: tuple[Answer, ...] = ()
        self.prompts: list[Any] = []
        self._are_images = False
        self._left = _MAX_OBJECTS

    def read(self, obj: Any) -> None:
        """Read an object and what it holds."""
        fields = fields_of(obj)
        if fields is None:
            return
        if type(obj).__name__ == "InlinedResponse":
            self.is_batch = True  # of Google's batches
        if "created" in fields and "data" in fields and "usage" in fields:
            self._are_images = "object" not in fields and "choices" not in fields
        elif "input_tokens_details" in fields:
            self._are_images = _only_images(fields)
        self._walk(fields, _MAX_DEPTH, with_counts=True)
        if not self.is_known and not _HOLDERS.isdisjoint(fields):
            self.is_known = True  # a usage that is null
        if self._are_images and not self.output_by and Slot.OUTPUT in self.counts:
            self.output_by["image"] = self.counts[Slot.OUTPUT][0]

    def put(self, slot: int, count: int, rank: int) -> None:
        """Keep a count, unless another name of this answer has a better one."""
        old = self.counts.get(slot)
        if old is None or (count and (not old[0] or rank < old[1])):
            self.counts[slot] = (count, rank)

    def _walk(  # noqa: C901, PLR0912 - one loop: a call for each name would double its time
        self, fields: dict[str, Any], depth: int, *, with_counts: bool
    ) -> None:
        """Read the values of one object: its own, then those of its usage, then of what it holds.

        The counts of what it holds are of the same answer, so they matter only if there are none
        further out; a model and finish reasons are read in any case.
        """
        self._left -= 1
        if fields.get("billed_units") is not None:
            # Cohere counts other tokens beside those that it bills.
            fields = {"billed_units": fields["billed_units"]}
        counts = self.counts
        size = len(counts)
        inner: list[tuple[int, Any, str]] | None = None
        parts: list[tuple[int, Any, str]] | None = None
        amount: float | None = None
        meaning_of = _MEANINGS.get
        try:
            for name, value in fields.items():
                if value is None:
                    continue
                meaning = meaning_of(name)
                if meaning is None:
                    continue
                stage, slot, rank = meaning
                if stage == _COUNT:
                    if with_counts:
                        # As put(), without the call.
                        count = value if type(value) is int and value >= 0 else count_of(value)
                        if count is not None:
                            old = counts.get(slot)
                            if old is None or (count and (not old[0] or rank < old[1])):
                                counts[slot] = (count, rank)
                elif stage == _OUTER_STAGE:
                    _OUTER[slot](self, value, fields, name)
                elif stage == _PART:
                    if with_counts:
                        if parts is None:
                            parts = []
                        parts.append((slot, value, name))
                elif stage == _AMOUNT:
                    amount = _amount_of(value, name)
                else:
                    if inner is None:
                        inner = []
                    inner.append((slot, value, name))
        except UNREADABLE:
            pass  # a key that cannot be compared: what was read before it counts
        if parts is not None:
            self._read_parts(parts, depth)
        if amount is not None and self.cost is None and len(counts) > size:
            self.cost = amount
        if inner is not None and depth > 0:
            self._read_inner(inner, fields, depth, with_counts=with_counts and len(counts) == size)
        if len(counts) > size:
            self.is_known = True

    def _read_parts(self, parts: list[tuple[int, Any, str]], depth: int) -> None:
        for action, value, name in parts:
            try:
                _PARTS[action](self, value, depth, name)
            except UNREADABLE:
                continue  # the others are read

    def _read_inner(
        self,
        inner: list[tuple[int, Any, str]],
        fields: dict[str, Any],
        depth: int,
        *,
        with_counts: bool,
    ) -> None:
        size = len(self.counts)
        last = []
        if _is_batched(fields, inner):
            self.is_batch = self.is_known = True
            if _has_failed(fields):
                return
        for action, value, name in inner:
            if action == Action.LAST:
                last.append(value)
            elif action == Action.PARSED:
                last[:0] = list(dict.values(value)) if type(value) is dict else []
            elif name != "custom_id":
                needed = with_counts and len(self.counts) == size
                self._read_one(value, name, depth, with_counts=needed)
        for value in last:
            if len(self.counts) == size:
                self._read_one(value, "", depth, with_counts=with_counts)

    def _read_one(self, value: Any, name: str, depth: int, *, with_counts: bool) -> None:
        if self._left <= 0:
            return
        if name == "generations":  # LangChain's: of each prompt a list
            prompts = items_of(value)
            if len(prompts) > 1 and items_of(prompts[0]):
                self.prompts = [_first_of(each) for each in prompts]
            value = _first_of(_first_of(value))
        fields = fields_of(value)
        # A user's own metadata may have any name.
        if fields and (name not in _FREE or not _HOLDERS.isdisjoint(fields)):
            before = len(self.counts)
            self._walk(fields, depth - 1, with_counts=with_counts)
            if name == "_hidden_params" and not (before or any(n for n, _ in self.counts.values())):
                self.counts.clear()  # LiteLLM's place-holder for a usage that was not reported

    def add_modality(self, by: dict[str, int], modality: str, value: Any) -> None:
        """Add tokens of a modality; 0 is no news, as many clients fill it in."""
        if count := count_of(value):
            by[modality] = by.get(modality, 0) + count


def _usage(found: Found, value: Any, depth: int, _: str) -> None:
    found.is_known = True
    if depth > 0 and found._left > 0 and (fields := fields_of(value)):  # noqa: SLF001 - one concept
        found._walk(fields, depth - 1, with_counts=True)  # noqa: SLF001


def _input_details(found: Found, value: Any, _: int, name: str) -> None:
    _details(found, value, found.input_by, with_counts=not name.startswith("tool"))


def _output_details(found: Found, value: Any, _: int, __: str) -> None:
    _details(found, value, found.output_by, with_counts=True)


def _cache_details(found: Found, value: Any, _: int, __: str) -> None:
    _details(found, value, found.cache_by, with_counts=False)


def _details(  # noqa: C901 - as above
    found: Found, value: Any, by: dict[str, int], *, with_counts: bool
) -> None:
    fields = fields_of(value)
    if not fields:
        _modalities(found, value, by)
        return
    for name, count in fields.items():
        if count is None:
            continue
        if with_counts and (meaning := DETAILS.get(name)) is not None:
            number = count if type(count) is int and count >= 0 else count_of(count)
            if number is not None:
                found.put(meaning[0], number, meaning[1])
            elif name == "cache_creation":
                _write_details(found, count, 0, name)
        elif (modality := MODALITIES.get(name)) is not None:
            if type(count) is not int or count:
                found.add_modality(by, modality, count)
        elif name == "cached_tokens_details" and by is not found.cache_by:
            _details(found, count, found.cache_by, with_counts=False)
        elif name == "cache_creation_token_details":
            _write_details(found, count, 0, name)


def _modalities(found: Found, value: Any, by: dict[str, int]) -> None:
    """Read Google's details: a list with a modality and a count in each item."""
    for item in items_of(value):
        if parts := fields_of(item):
            modality = text_of(parts.get("modality"))
            count = parts.get("token_count", parts.get("tokenCount", parts.get("tokens")))
            if modality is not None:
                found.add_modality(by, modality.lower(), count)


def _write_details(found: Found, value: Any, _: int, __: str) -> None:
    fields = fields_of(value)
    if not fields:
        for item in items_of(value):
            if (parts := fields_of(item)) and (count := count_of(parts.get("inputTokens"))):
                is_hour = text_of(parts.get("ttl")) == "1h"
                slot = Slot.CACHE_WRITE_1H if is_hour else Slot.CACHE_WRITE_5M
                found.put(slot, count, Rank.CACHE_OUTSIDE)
        return
    for name in ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"):
        count = count_of(fields.get(name))
        if count is not None:
            found.put(DETAILS[name][0], count, Rank.CACHE_OUTSIDE)


def _iterations(found: Found, value: Any, _: int, __: str) -> None:
    """Sum Anthropic's iterations, which are all billed, if one is not the message's own.

    The counts beside them are those of the message alone.
    """
    if found._left <= 0:  # noqa: SLF001 - one concept
        return
    sums: dict[int, tuple[int, int]] = {}
    is_more = False
    for item in items_of(value):
        fields = fields_of(item)
        if not fields:
            continue
        is_more = is_more or fields.get("type") != "message"
        each = Found()
        each._left = 1  # noqa: SLF001 - an iteration holds no other objects
        each._walk(fields, 1, with_counts=True)  # noqa: SLF001
        for slot in ITERATION_COUNTS:
            if slot in each.counts:
                count, rank = each.counts[slot]
                sums[slot] = (count + sums.get(slot, (0, rank))[0], rank)
    if is_more and sums.get(Slot.INPUT, (0,))[0] + sums.get(Slot.OUTPUT, (0,))[0]:
        found.counts.update(sums)


def _searches(found: Found, value: Any, _: int, __: str) -> None:
    if fields := fields_of(value):
        count = count_of(fields.get("web_search_requests"))
        if count is not None:
            found.put(Slot.SEARCHES, count, Rank.USUAL)


def _statistics(found: Found, value: Any, _: int, __: str) -> None:
    fields = fields_of(value)
    if not fields:
        return
    for name, counts in fields.items():
        slot, rank = COUNTS.get(name, (None, Rank.USUAL))
        if slot is None:
            continue
        numbers = [count_of(each) for each in items_of(counts)] or [count_of(counts)]
        known = [each for each in numbers if each is not None]
        if known:
            found.put(slot, sum(known), rank)


def _embeddings(found: Found, value: Any, _: int, __: str) -> None:
    total: int | None = None
    for item in items_of(value):
        fields = fields_of(item)
        statistics = fields_of(fields.get("statistics")) if fields else None
        if statistics is None:
            continue
        count = count_of(statistics.get("token_count", statistics.get("tokenCount")))
        if count is not None:
            total = count + (total or 0)
    if total is not None:
        found.put(Slot.INPUT, total, Rank.USUAL)


def _token_ids(found: Found, value: Any, _: int, __: str) -> None:
    length = _length(value)
    if length is not None:
        found.put(Slot.INPUT, length, Rank.OTHER)


def _generated(found: Found, value: Any, _: int, __: str) -> None:
    fields = fields_of(value)
    if not fields:
        return
    for name, (slot, rank) in GENERATED.items():
        count = count_of(fields.get(name))
        if count is not None:
            found.put(slot, count, rank)
    prefill = fields.get("prefill")
    # Empty also where it was not asked for: a prompt has tokens, so its length is then unknown.
    if prefill and "generated_tokens" in fields and (length := _length(prefill)):
        found.put(Slot.INPUT, length, Rank.OTHER)
    _finish(found, fields.get("finish_reason"), fields, "finish_reason")


def _modality(found: Found, value: Any, _: int, name: str) -> None:
    direction, modality = FLAT[name]
    by = {"input": found.input_by, "output": found.output_by, "cache": found.cache_by}[direction]
    found.add_modality(by, modality, value)


def _amount_of(value: Any, name: str) -> float | None:
    if name == "cost_in_usd_ticks":
        # A field of protobuf that was never set is 0.
        return ticks * _USD_PER_TICK if (ticks := count_of(value)) else None
    amount = money_of(value)
    if amount is None and (fields := fields_of(value)):
        amount = money_of(fields.get("total_cost"))  # Perplexity's is an object
    return amount


def _answer_cost(found: Found, value: Any, _: dict[str, Any], __: str) -> None:
    if (amount := money_of(value)) is not None:
        found.cost = amount


def _model(found: Found, value: Any, _: dict[str, Any], __: str) -> None:
    if found.model is None:
        found.model = text_of(value)


def _finish(found: Found, value: Any, _: dict[str, Any], __: str) -> None:
    reason = text_of(value)
    if reason is None and (fields := fields_of(value)):
        reason = text_of(fields.get("type"))  # SGLang's is an object
    if reason is not None and reason not in _UNSET:
        found.is_known = True
        found.reasons.setdefault(0, reason)


def _choices(found: Found, value: Any, fields: dict[str, Any], name: str) -> None:
    generated = None
    found.is_known = found.is_known or name != "outputs"
    for position, item in enumerate(items_of(value)):
        parts = fields_of(item)
        if not parts:
            continue
        found.is_known = True
        reason = text_of(parts.get("finish_reason", parts.get("finishReason")))
        if reason is not None and reason not in _UNSET:
            index = count_of(parts.get("index"))
            found.reasons[position if index is None else index] = reason
        if name == "choices":
            found.is_chunk = found.is_chunk or parts.get("delta") is not None
            found.is_whole = found.is_whole or parts.get("message") is not None
        elif name == "outputs" and (length := _length(parts.get("token_ids"))) is not None:
            generated = length + (generated or 0)
    if generated is not None and "prompt_token_ids" in fields:
        found.put(Slot.OUTPUT, generated, Rank.OTHER)


def _tier(found: Found, value: Any, _: dict[str, Any], __: str) -> None:
    tier = text_of(value)
    if tier is None and (fields := fields_of(value)):
        tier = text_of(fields.get("type"))  # Bedrock's is an object
    if tier is not None:
        found.tier = tier.lower()


def _traffic(found: Found, value: Any, _: dict[str, Any], __: str) -> None:
    if (traffic := text_of(value)) is not None:
        found.tier = _TRAFFIC.get(traffic, "default")


def _object(found: Found, value: Any, fields: dict[str, Any], _: str) -> None:
    kind = text_of(value)
    if kind is None:
        return
    found.is_known = True
    if kind == "batch":
        found.is_batch = True
    elif kind in _WITH_STATUS:
        status = text_of(fields.get("status"))
        if status in _ENDED:
            details = fields_of(fields.get("incomplete_details") or fields.get("status_details"))
            reason = text_of(details.get("reason")) if details else None
            found.reasons[0] = reason or status
    elif kind.endswith(".chunk"):
        found.is_chunk = True


def _type(found: Found, value: Any, _: dict[str, Any], __: str) -> None:
    if type(value) is str:
        if value.startswith(("image_generation.", "image_edit.")):
            found._are_images = True  # noqa: SLF001
        elif value.endswith(("Chunk", ".delta")) or value.startswith(("message_", "content_")):
            found.is_chunk = True


def _is_batched(fields: dict[str, Any], inner: Iterable[tuple[int, Any, str]]) -> bool:
    """Return whether an object is a line of a batch's output.

    OpenAI's, Mistral's and Anthropic's have a ``custom_id`` beside the response, Google's a ``key``.
    """
    for action, value, name in inner:
        if action == Action.BATCHED and (name != "custom_id" or not _ANSWERS.isdisjoint(fields)):
            return True
        if name == "response" and "key" in fields:
            response = fields_of(value)
            return response is not None and (
                "usageMetadata" in response or "candidates" in response
            )
    return False


def _has_failed(fields: dict[str, Any]) -> bool:
    if fields.get("error") is not None:
        return True
    response = fields_of(fields.get("response"))
    status = count_of(response.get("status_code")) if response else None
    return status is not None and status >= _BAD_STATUS


def _only_images(fields: dict[str, Any]) -> bool:
    """Return whether a usage object is that of OpenAI's images: a detail of text and of images."""
    details = fields_of(fields.get("input_tokens_details"))
    if not details or fields.get("output_tokens_details") is not None:
        return False
    filled = {name for name, value in details.items() if value is not None}
    return filled == {"image_tokens", "text_tokens"}


def _length(value: Any) -> int | None:
    if value is None or type(value) is str:
        return None
    try:
        return len(value)
    except UNREADABLE:
        return None


def _first_of(value: Any) -> Any:
    items = items_of(value)
    return items[0] if items else value


_OUTER: Final[dict[int, Callable[[Found, Any, dict[str, Any], str], None]]] = {
    Action.MODEL: _model,
    Action.FINISH: _finish,
    Action.CHOICES: _choices,
    Action.TIER: _tier,
    Action.TRAFFIC: _traffic,
    Action.OBJECT: _object,
    Action.TYPE: _type,
    Action.ANSWER_COST: _answer_cost,
}
_PARTS: Final[dict[int, Callable[[Found, Any, int, str], None]]] = {
    Action.USAGE: _usage,
    Action.INPUT_DETAILS: _input_details,
    Action.OUTPUT_DETAILS: _output_details,
    Action.CACHE_DETAILS: _cache_details,
    Action.WRITE_DETAILS: _write_details,
    Action.ITERATIONS: _iterations,
    Action.SEARCHES: _searches,
    Action.STATISTICS: _statistics,
    Action.EMBEDDINGS: _embeddings,
    Action.TOKEN_IDS: _token_ids,
    Action.GENERATED: _generated,
    Action.MODALITY: _modality,
}

_COUNT, _OUTER_STAGE, _PART, _AMOUNT, _INNER = range(5)


def _meanings() -> dict[str, tuple[int, int, int]]:
    found = {name: (_COUNT, slot, rank) for name, (slot, rank) in COUNTS.items()}
    for name, action in ACTIONS.items():
        if action in _OUTER:
            stage = _OUTER_STAGE
        elif action in _PARTS:
            stage = _PART
        else:
            stage = _AMOUNT if action == Action.COST else _INNER
        found[name] = (stage, action, 0)
    return found


_MEANINGS: Final = _meanings()
