"""Whether two observations are of one call, and the bounded table of recent calls."""

from __future__ import annotations

import itertools
import re
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from genmeter.observed.identity import OUTSIDE
from genmeter.schema.providers import well_known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from genmeter.observed.identity import CallIdentity
    from genmeter.observed.model import ObservedCall, SpanKey

__all__ = ["MAX_CALLS", "MAX_KEYS", "MAX_SECONDS", "SLACK", "RecentCalls", "Seen", "distinct"]

SLACK = 0.002
"""Seconds by which one observation of a call may exceed the other that it lies within."""
_SLACK_OF_HOOKS = 0.25
_SLACK_WITHOUT_TOKENS = 0.02
_OURS = "genmeter."
MAX_CALLS = 10_000
"""Recent calls that are kept, to find repetitions."""
MAX_KEYS = 40_000
"""Spans of these calls; a call may have many below it."""
MAX_SECONDS = 60.0
"""For how long, in seconds."""
_MAX_STALE = 32  # calls that ended before a new one began, after which no more are compared
_MAX_SAME_ID = 32  # calls with one response id that a new one is compared with
_MAX_SCAN = 1_024  # calls of equal tokens and outcome that a new one is compared with

# What follows the name of a model: -2024-08-06, @20240620, -v1:0, -001, -latest.
_VERSION = re.compile(r"(?:[-@:._]?(?:v?\d++|latest|preview|exp))*+")
_SEPARATORS = ("", "/", ":", ".")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-", re.IGNORECASE)
_PREFIX = re.compile(r"[A-Za-z]+[-_]")

_K = TypeVar("_K")
_Counts = tuple[int | None, int | None, str]


class Seen:
    """A recent call, and what is known of its observations.

    Attributes:
        call: As it was first observed.
        sources: Who observed it.
        ids: Its response ids.
        identities: The known ones of its observations.
        keys: The ids of its spans.
        began: Unix time in seconds.
        ended: Unix time in seconds.
        counts: Its input tokens, output tokens and outcome.
        parts: Further observations, which complete it when it is recorded.
        is_kept: Whether it is in the table of recent calls.
        is_recorded: Whether it was recorded; otherwise it waits for the job's own report.
        added: When it was added, on the observer's clock.
    """

    __slots__ = (
        *("added", "began", "call", "counts", "ended", "identities", "ids"),
        *("is_kept", "is_recorded", "keys", "parts", "sources"),
    )

    def __init__(self, call: ObservedCall, parts: tuple[ObservedCall, ...] = ()) -> None:
        self.call = call
        self.parts = parts
        every = (call, *parts)
        observers = [observer for each in every for observer in each.observers()]
        self.sources = {source for source, _ in observers}
        self.ids = {each for _, each in observers if each is not None}
        self.identities = _identities(call, parts)
        self.keys = {each.node.key for each in every if each.node is not None}
        self.ended = call.ended
        self.began = call.ended - (call.duration or 0.0)
        self.counts = counts_of(call)
        self.is_kept = False
        self.is_recorded = True
        self.added = 0.0

    def __repr__(self) -> str:
        return f"<Seen by {', '.join(sorted(self.sources))}>"

    def distance(self, call: ObservedCall) -> float | None:
        """Return how far apart both are in time, in seconds; None unless one lies within the other."""
        began = call.ended - (call.duration or 0.0)
        starts, ends = began - self.began, call.ended - self.ended
        slack = self._slack(call)
        is_inside = starts >= -slack and ends <= slack
        is_around = starts <= slack and ends >= -slack
        if not (is_inside or is_around) or self._is_beside(call):
            return None
        return abs(starts) + abs(ends)

    def _is_beside(self, call: ObservedCall) -> bool:
        """Return whether one was over, by and large, before the other began.

        Short calls in turn are all within the slack of each other; both observations of one call have
        the time in it that the request took.
        """
        if not call.duration or not self.call.duration:
            return False
        began = call.ended - call.duration
        common = min(call.ended, self.ended) - max(began, self.began)
        return common < min(call.duration, self.call.duration) / 2

    def _slack(self, call: ObservedCall) -> float:
        """Return by how much one observation may exceed the other.

        Of the callbacks of a framework, a hook's and an instrumentation's, one begins and ends before
        the other: neither lies within the other, by the time that callbacks take on a busy machine.
        """
        if not any(each.startswith(_OURS) for each in (call.source, *self.sources)):
            return SLACK
        # Without tokens, times are all that says that it is the same call.
        return _SLACK_OF_HOOKS if self.counts[0] is not None else _SLACK_WITHOUT_TOKENS

    def has_begun_with(self, request: ObservedCall) -> bool:
        """Return whether a request, of which no answer is known, is the beginning of this call."""
        if self.call.keywords.get("model_name") != request.keywords.get("model_name"):
            return False
        began = request.ended - (request.duration or 0.0)
        is_within = self.began <= request.ended <= self.ended + SLACK
        return is_within and abs(began - self.began) <= _SLACK_OF_HOOKS

    def may_be(self, call: ObservedCall, parts: Sequence[ObservedCall] = ()) -> bool:
        """Return whether nothing else speaks against both being one call, with equal counts.

        Args:
            call: The call.
            parts: What was observed inside of it.
        """
        if self.is_of(call) or any(self.is_of(each) for each in parts):
            return False
        if _are_others(self.ids, _ids(call)):
            return False
        identities = _identities(call, parts)
        if identities and self.identities and identities.isdisjoint(self.identities):
            return False
        mine, other = self.call.keywords, call.keywords
        first, second = _vendor(mine.get("provider")), _vendor(other.get("provider"))
        if first is not None and second is not None and first != second:
            return False
        if not may_be_one_model(_models(mine), _models(other)):
            return False
        return _is_embedding(mine.get("operation")) is _is_embedding(other.get("operation"))

    def is_of(self, call: ObservedCall) -> bool:
        """Return whether one who has observed the call has observed this one too, which is another then."""
        return any(source in self.sources for source, _ in call.observers())


def counts_of(call: ObservedCall) -> _Counts:
    """Return the input tokens, the output tokens and the outcome of a call."""
    get = call.keywords.get
    outcome = "success" if call.success else "failure"
    if call.details.is_cancelled:
        outcome = "cancelled"
    prompt, completion = get("prompt_token_count"), get("completion_token_count")
    if prompt is not None and completion is None:
        completion = 0  # of embeddings, some write it
    return prompt, completion, outcome


def _ids(call: ObservedCall) -> set[str]:
    return {each for _, each in call.observers() if each is not None}


def _identities(call: ObservedCall, parts: Sequence[ObservedCall]) -> set[CallIdentity]:
    return {each.identity for each in (call, *parts) if each.identity is not None}


def _are_others(ids: set[str], others: set[str]) -> bool:
    """Return whether two sets of ids are of two responses: of one kind, and none is the other's.

    Libraries make ids of their own, with a UUID in them: LiteLLM in place of a provider's, LangChain.
    """
    if not ids.isdisjoint(others):
        return False
    kinds = {_kind(each) for each in ids} - {None}
    return not kinds.isdisjoint(_kind(each) for each in others)


def _kind(response_id: str) -> str | None:
    if _UUID.search(response_id):
        return None
    found = _PREFIX.match(response_id)
    return found[0] if found is not None else ""


def _models(keywords: Mapping[str, Any]) -> list[str]:
    """Return the names of a call's model; empty if it is not known which one was asked for."""
    asked, answered = keywords.get("model_name"), keywords.get("response_model")
    if type(asked) is not str:
        return []
    return [each.lower() for each in (asked, answered) if type(each) is str and each]


def may_be_one_model(names: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether two lists of names may be of one model: one is the other, but for its seller or version.

    Args:
        names: The model that was asked for, and the one that answered, in small letters; empty if unknown.
        others: As above.
    """
    if not names or not others:
        return True
    return any(_is_form_of(*sorted((one, other), key=len)) for one in names for other in others)


def _is_form_of(name: str, longer: str) -> bool:
    before, found, after = longer.rpartition(name)
    return bool(found) and before[-1:] in _SEPARATORS and _VERSION.fullmatch(after) is not None


def _vendor(provider: object) -> str | None:
    if type(provider) is not str:
        return None
    name = well_known(provider)
    return "gcp" if name.startswith("gcp.") else name  # each client names another of its services


def _is_embedding(operation: object) -> bool:
    return operation == "embeddings"


class RecentCalls:
    """The calls of the last minute, by span, response id and tokens. Not thread-safe.

    Args:
        on_forget: Called with each span of a call that is dropped for its age, or for lack of room.
    """

    def __init__(self, on_forget: Callable[[SpanKey], object] = lambda _: None) -> None:
        self._on_forget = on_forget
        self._all: deque[Seen] = deque()
        self._by_key: dict[SpanKey, Seen] = {}
        self._by_id: dict[str, list[Seen]] = {}
        self._by_counts: dict[_Counts, list[Seen]] = {}
        self._by_identity: dict[CallIdentity, list[Seen]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, seen: Seen, now: float) -> None:
        """Keep a call."""
        seen.added = now
        seen.is_kept = True
        self._all.append(seen)
        for each in seen.ids:
            self._by_id.setdefault(each, []).append(seen)
        for key in seen.keys:
            self._by_key[key] = seen
        for identity in seen.identities - {OUTSIDE}:
            self._by_identity.setdefault(identity, []).append(seen)
        self._by_counts.setdefault(seen.counts, []).append(seen)
        self._make_room()

    def note(self, seen: Seen, *calls: ObservedCall) -> None:
        """Remember further observations of a call, unless it was dropped."""
        for call in calls:
            seen.sources.update(source for source, _ in call.observers())
            if not seen.is_kept:
                if call.node is not None:
                    self._on_forget(call.node.key)
                continue
            if call.node is not None:
                seen.keys.add(call.node.key)
                self._by_key[call.node.key] = seen
            for each in _ids(call) - seen.ids:
                seen.ids.add(each)
                self._by_id.setdefault(each, []).append(seen)
            identity = call.identity
            if identity is not None and identity not in seen.identities:
                seen.identities.add(identity)
                if identity is not OUTSIDE:
                    self._by_identity.setdefault(identity, []).append(seen)
        self._make_room()

    def _make_room(self) -> None:
        while self._all and (len(self._all) > MAX_CALLS or len(self._by_key) > MAX_KEYS):
            self._drop(self._all.popleft())

    def of_span(self, key: SpanKey) -> Seen | None:
        """Return the call that a span reports."""
        return self._by_key.get(key)

    def find(
        self, call: ObservedCall, parts: Sequence[ObservedCall] = ()
    ) -> tuple[Seen, str] | None:
        """Return the recent call that an observation repeats, and by what it was found.

        Args:
            call: The observation.
            parts: Observations inside of it.
        """
        if call.response_id is not None:
            known = self._by_id.get(call.response_id, ())
            for seen in itertools.islice(reversed(known), _MAX_SAME_ID):
                # Servers that answer everything with one id exist: of one source, they are others.
                if not seen.is_of(call):
                    return seen, "response_id"
        counts = counts_of(call)
        for identity in _identities(call, parts):
            same = self._by_identity.get(identity, ())
            found = _nearest((each for each in same if each.counts == counts), call, parts)
            if found is not None:
                return found, "overlap"
        found = _nearest(self._beside(call, counts), call, parts)
        return None if found is None else (found, "overlap")

    def _beside(self, call: ObservedCall, counts: _Counts) -> Iterator[Seen]:
        """Yield the newest calls with these counts that had not ended when a call began."""
        known = self._by_counts.get(counts, ())
        began, stale = call.ended - (call.duration or 0.0) - SLACK, 0
        for seen in itertools.islice(reversed(known), _MAX_SCAN):
            if seen.ended < began:
                # They come about in the order of their ends, but for those that waited.
                stale += 1
                if stale > _MAX_STALE:
                    break
                continue
            yield seen

    def expire(self, now: float) -> None:
        """Drop the calls that are too old."""
        while self._all and now - self._all[0].added > MAX_SECONDS:
            self._drop(self._all.popleft())

    def _drop(self, seen: Seen) -> None:
        seen.is_kept = False
        for each in seen.ids:
            _remove(self._by_id, each, seen)
        for key in seen.keys:
            self._by_key.pop(key, None)
            self._on_forget(key)
        for identity in seen.identities - {OUTSIDE}:
            _remove(self._by_identity, identity, seen)
        _remove(self._by_counts, seen.counts, seen)


def _nearest(
    known: Iterable[Seen], call: ObservedCall, parts: Sequence[ObservedCall]
) -> Seen | None:
    """Return the nearest one in time that a call may repeat."""
    best: Seen | None = None
    least = 0.0
    for seen in known:
        distance = seen.distance(call) if seen.may_be(call, parts) else None
        if distance is None:
            continue
        if call.response_id is not None and seen.ids:
            distance += MAX_SECONDS  # LiteLLM makes ids of its own, so it may be the call
        if best is None or distance < least:
            best, least = seen, distance
    return best


def distinct(calls: Sequence[ObservedCall]) -> list[tuple[ObservedCall, tuple[ObservedCall, ...]]]:
    """Group the observations of one block by call: each call, and what else observed it.

    Args:
        calls: In the order of their ends.
    """
    by_node = {id(each.node): each for each in calls if each.node is not None}
    parts: dict[int, list[ObservedCall]] = {}
    recent = RecentCalls()
    found: list[ObservedCall] = []
    for call in calls:
        if call.node is not None and by_node[id(call.node)] is not call:
            continue  # of a processor that was added twice
        outer = _outermost(call, by_node)
        if outer is not call:
            parts.setdefault(id(outer), []).append(call)
            continue
        match = recent.find(call)
        if match is None:
            recent.add(Seen(call), 0.0)
            found.append(call)
        else:
            recent.note(match[0], call)
            parts.setdefault(id(match[0].call), []).append(call)
    return [(each, tuple(parts.get(id(each), ()))) for each in found]


def _outermost(call: ObservedCall, by_node: dict[int, ObservedCall]) -> ObservedCall:
    outer = call
    if call.node is not None:
        for ancestor in call.node.ancestors():
            outer = by_node.get(id(ancestor), outer)
    return outer


def _remove(table: dict[_K, list[Seen]], key: _K, seen: Seen) -> None:
    found = table.get(key)
    if found is None:
        return
    # Mostly the first one: they are dropped in the order in which they were added.
    for index, each in enumerate(found):
        if each is seen:
            del found[index]
            break
    if not found:
        del table[key]
