"""Reads the chunks of a stream, of which nearly all say nothing new."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from genmeter.events.values import UNREADABLE
from genmeter.usage._names import ACTIONS, COUNTS, Action
from genmeter.usage._objects import fields_of, is_delta, is_plain_model

if TYPE_CHECKING:
    from genmeter.usage.reading import Reading

__all__ = ["ChunkReader"]

_VALUE, _CHOICES, _INNER, _TIER, _MODEL = range(5)
_KINDS: Final[dict[int, int]] = {
    Action.CHOICES: _CHOICES,
    Action.CONTAINER: _INNER,
    Action.TIER: _TIER,
    Action.TRAFFIC: _TIER,
    Action.MODEL: _MODEL,
}
_MEANINGS: Final = {
    **dict.fromkeys(COUNTS, _VALUE),
    **{
        name: _KINDS.get(action, _VALUE)
        for name, action in ACTIONS.items()
        if action not in {Action.OBJECT, Action.TYPE}
    },
}
_NAMES: Final = frozenset(_MEANINGS)
_MODEL_KNOWN: Final = {name: each for name, each in _MEANINGS.items() if each != _MODEL}
_Names = tuple[tuple[tuple[str, int], ...] | None, int]
"""The names of a class that matter, with what they mean, and how many fields it has in all."""
_UNKNOWN: Final[_Names] = (None, 0)
_PLAIN: Final = frozenset({str, int, float, bool, bytes})
_MAX_DEPTH = 3
_MAX_TYPES = 128
_QUIET_STARTS: Final = (
    "content_block_",
    "content-",
    "tool-call-",
    "tool-plan-",
    "citation-",
    "message-start",
)
"""Types of events with text and no usage: Anthropic's and Cohere's."""


class ChunkReader:
    """Reads chunks into a reading, and passes over those that have no news.

    A chunk has none if all names that matter are absent or None in it, except those whose values
    every chunk repeats: to see that takes a tenth of a whole reading.

    Args:
        reading: What the stream's answer is merged into.
    """

    __slots__ = ("_is_first", "_meanings", "_names", "_quiet", "_reading", "_tiers")

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._is_first = True
        self._meanings = _MEANINGS
        self._tiers: dict[str, Any] = {}
        self._quiet: dict[str, bool] = {}
        self._names: dict[type, _Names] = {}

    def read(self, chunk: Any) -> None:
        """Merge what a chunk says, as :meth:`Reading.read` does. Never raises."""
        try:
            if not self._is_first and not self._says_more(chunk, _MAX_DEPTH):
                return
        except UNREADABLE:
            pass
        self._is_first = False  # which is read whole, to know at least what it is
        if is_delta(chunk):
            self._reading.read(chunk, adds=True)
        else:
            self._reading.read(chunk)
        if self._meanings is _MEANINGS and self._reading.model is not None:
            # Until then it matters: Azure's first chunk has an empty name.
            self._meanings = _MODEL_KNOWN
            self._names.clear()

    def _says_more(self, obj: Any, depth: int) -> bool:  # noqa: C901 - a call is a tenth of its time
        kind = type(obj)
        names, size = self._names.get(kind, _UNKNOWN)
        if names is not None and len(values := obj.__dict__) == size:
            # The classes of most clients have the same fields in every object.
            if "type" in values and self._is_quiet(values["type"]):
                return False
            for name, meaning in names:
                value = values[name]
                if value is None or (meaning == _TIER and self._tiers.get(name) == value):
                    continue
                if meaning == _VALUE or self._matters(name, value, meaning, depth):
                    return True
            fields = obj.__pydantic_extra__
            if not fields or _NAMES.isdisjoint(fields):
                return False
        else:
            fields = obj if kind is dict else self._fields(obj, kind)
            if fields is not None and "type" in fields and self._is_quiet(fields["type"]):
                return False
        if fields:
            meaning_of = self._meanings.get
            for name, value in fields.items():
                if value is not None:
                    known = meaning_of(name)
                    if known is not None and (
                        known == _VALUE or self._matters(name, value, known, depth)
                    ):
                        return True
        # Of an object that cannot be read the reading says why.
        return fields is None and depth == _MAX_DEPTH

    def _fields(self, obj: Any, kind: type) -> dict[str, Any] | None:
        fields = fields_of(obj)
        meanings = self._meanings
        if is_plain_model(kind) and len(self._names) < _MAX_TYPES:
            values = obj.__dict__
            names = tuple((name, meanings[name]) for name in values if name in meanings)
            self._names[kind] = (names, len(values))
        return fields

    def _matters(self, name: str, value: Any, meaning: int, depth: int) -> bool:
        if meaning == _CHOICES:
            for item in value:
                parts = item if type(item) is dict else item.__dict__
                reason = parts.get("finish_reason", _MISSING)
                if reason is _MISSING:
                    # LiteLLM's choices have all values in their extra ones.
                    parts = getattr(item, "__pydantic_extra__", None) or fields_of(item) or {}
                    reason = parts.get("finish_reason", parts.get("finishReason"))
                if reason is not None and reason != "":
                    return True
            return name == "outputs"
        if meaning == _MODEL:
            return bool(value)
        if meaning == _TIER:
            if self._tiers.get(name) == value:
                return False
            self._tiers[name] = value
            return True
        return type(value) not in _PLAIN and (depth <= 0 or self._says_more(value, depth - 1))

    def _is_quiet(self, kind: Any) -> bool:
        if type(kind) is not str:
            return False
        is_quiet = self._quiet.get(kind)
        if is_quiet is None:
            # OpenAI's, such as `response.output_text.delta`; `response.completed` has the usage.
            is_part = kind.startswith("response.") and kind.count(".") > 1
            is_quiet = is_part or kind.startswith(_QUIET_STARTS)
            if len(self._quiet) < _MAX_TYPES:
                self._quiet[kind] = is_quiet
        return is_quiet


_MISSING: Final = object()
