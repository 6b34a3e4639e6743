"""Converts a caller's arguments to plain data, on the caller's thread.

Only plain data enters the inbox: str, int, float, bool, None, and dicts and lists of these. Any other
object could change before the drain reads it, keep a traceback with all its local variables alive,
or take a lock that its caller holds while it waits for the drain.
"""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from genmeter.events.jsonable import to_jsonable
from genmeter.events.model import RATE_LIMITED, Reason
from genmeter.events.values import (
    MAX_LABEL,
    MAX_TIME,
    UNREADABLE,
    Rejected,
    Unusable,
    checked,
    is_boolean,
    safe_text,
    shown,
    to_number,
)
from genmeter.schema.afterimage import BILLING_PARTS, PARTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "ATOMS",
    "MAX_RETRIES",
    "are_atoms",
    "capture_bool",
    "capture_keywords",
    "capture_label",
    "capture_mapping",
    "capture_number",
    "capture_scores",
    "capture_time",
    "class_name",
    "copy_mapping",
    "lookup",
]

ATOMS = frozenset({str, int, float, bool, type(None)})
"""The types whose values are passed on unchanged."""
MAX_RETRIES = 10_000
"""Limit of the retries counted for one call."""
_MAX_KEY = 256
_MAX_KEYS = 10_000  # of a mapping other than a dict
_MAX_LABEL_TEXT = 4 * MAX_LABEL
_TOO_MANY_REQUESTS = 429
_NUMBERS = frozenset(
    {
        *("prompt_token_count", "completion_token_count", "total_token_count", *PARTS),
        *BILLING_PARTS,
        *("conversation_length", "turns", "cost"),
    }
)
_LABELS = frozenset(
    (
        *("model_name", "finish_reason", "error_type", "provider", "operation", "step", "modality"),
        *("response_model", "service_tier"),
    )
)


def are_atoms(values: Iterable[Any]) -> bool:
    """Return whether all values have one of the types :data:`ATOMS`."""
    try:
        for value in values:
            if type(value) not in ATOMS:
                return False
    except UNREADABLE:  # a class whose metaclass has no __hash__, or a raising one
        return False
    return True


def _is_atom(value: Any) -> bool:
    return are_atoms((value,))


def capture_keywords(keywords: dict[str, Any]) -> str | None:
    """Convert the keywords of a call to plain data, in place.

    Args:
        keywords: The caller's keywords except ``metadata``, in a dict that is not shared.

    Returns:
        The class name of ``error`` if it is an exception.
    """
    error_class = None
    for name, value in keywords.items():
        if _is_atom(value):
            continue
        if name in _NUMBERS:
            keywords[name] = capture_number(value)
        elif name in _LABELS:
            keywords[name] = capture_label(value)
        elif name == "error":
            if issubclass(type(value), BaseException):
                error_class = class_name(type(value))
            keywords[name] = safe_text(value)
        elif name == "retries":
            keywords[name] = _capture_retries(value)
        else:
            keywords[name] = to_jsonable(value)
    return error_class


def capture_mapping(value: Any) -> Any:
    """Copy a mapping as a dict of plain values with text keys.

    Anything but a mapping becomes a text or another atom, which the drain rejects.
    """
    # Nearly always a dict of a few plain values; one loop saves the caller's time.
    own = value.copy() if type(value) is dict else copy_mapping(value)
    if type(own) is not dict:
        return own
    try:
        for key, item in own.items():
            if type(key) is not str or type(item) not in ATOMS:
                return _capture_items(own)
    except UNREADABLE:  # as in are_atoms()
        return _capture_items(own)
    return own


def copy_mapping(value: Any) -> Any:
    """Copy a mapping as a dict with the caller's keys and values; anything else becomes an atom."""
    if type(value) is dict:
        return value.copy()
    if _is_atom(value):
        return value
    try:
        return _dict_of(value) if hasattr(value, "keys") else shown(value)
    except UNREADABLE:
        return shown(value)


def capture_number(value: Any) -> Any:
    """Convert a number of any class to an int or float; anything else becomes an ``Unusable``."""
    if _is_atom(value):
        return value
    try:
        if is_boolean(value):  # NumPy's
            return bool(value)
        return to_number(value)
    except Rejected as rejected:
        return Unusable(rejected.reason, shown(value))


def capture_bool(value: Any) -> Any:
    """Return the truth value of an object; one without it becomes an ``Unusable``."""
    if _is_atom(value):
        return value
    try:
        return bool(value)
    except UNREADABLE:
        return Unusable(Reason.NOT_A_BOOLEAN, shown(value))


def capture_label(value: Any) -> str | None:
    """Convert a label of any class to text; None if it is unreadable."""
    return value if type(value) is str or value is None else safe_text(value, _MAX_LABEL_TEXT)


def capture_scores(scores: Any) -> Any:
    """Copy scores by name: numbers, or dicts with ``score``, ``label`` and ``feedback``."""
    own = copy_mapping(scores)
    if type(own) is not dict:
        return own
    return {capture_label(name): _capture_score(value) for name, value in own.items()}


def capture_time(value: Any) -> float:
    """Convert a datetime to Unix time in seconds.

    Raises:
        Rejected: It is not a datetime, or out of range.
    """
    try:
        if isinstance(value, datetime):
            # pandas' NaT is a datetime, and its timestamp is not a number.
            return float(checked(to_number(value.timestamp()), MAX_TIME, min_=-MAX_TIME))
    except UNREADABLE:
        pass  # a year out of the platform's range, or the caller's own class
    raise Rejected(Reason.NOT_A_TIME)


def class_name(kind: type) -> str:
    """Return a class's name by ``type``'s own property: a metaclass's may raise."""
    name: str = type.__dict__["__name__"].__get__(kind)
    return name


def _dict_of(mapping: Any) -> dict[Any, Any]:
    # Its keys may be endless.
    return {key: mapping[key] for key in islice(mapping.keys(), _MAX_KEYS)}


def _capture_score(value: Any) -> Any:
    if _is_atom(value):
        return value
    row = value
    if type(value) is not dict:
        try:
            row = _dict_of(value) if hasattr(value, "keys") else None
        except UNREADABLE:
            row = None
    if row is None:
        return capture_number(value)
    feedback, label = lookup(row, "feedback"), lookup(row, "label")
    plain: dict[str, Any] = {"score": capture_number(lookup(row, "score", 0))}
    if feedback is not None:
        plain["feedback"] = safe_text(feedback)
    if label is not None:
        plain["label"] = capture_label(label)
    return plain


def _capture_retries(value: Any) -> Any:
    kind = type(value)
    if not issubclass(kind, list | tuple):
        return capture_number(value)
    # By the base's own method, because a subclass may override everything.
    base = list if issubclass(kind, list) else tuple
    return [_retry_cause(error) for error in base.__getitem__(value, slice(0, MAX_RETRIES))]


def _retry_cause(error: Any) -> str | None:
    """Return the label of a retry's cause: an exception, its class or its name."""
    kind = type(error)
    if issubclass(kind, BaseException):
        name: Any = class_name(kind)
    else:
        name = class_name(error) if issubclass(kind, type) else error
    text = capture_label(name)
    is_limited = text is not None and "ratelimit" in text.lower()
    return RATE_LIMITED if is_limited or _is_rate_limit(error) else text


def _is_rate_limit(error: Any) -> bool:
    if _is_atom(error):
        return False
    try:
        return _TOO_MANY_REQUESTS in (
            getattr(error, "status_code", None),
            getattr(error, "code", None),
        )
    except UNREADABLE:
        return False


def _capture_items(own: dict[Any, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in own.items():
        name = key if type(key) is str else safe_text(key, _MAX_KEY) or "_"
        if name in plain:
            name += "_"
            if name in plain:  # the search for a free name must not get slower with each key
                name += str(len(plain))
        plain[name] = item if _is_atom(item) else to_jsonable(item)
    return plain


def lookup(mapping: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """Look up a key in a caller's dict, whose keys may raise when they are compared."""
    try:
        return mapping.get(key, default)
    except UNREADABLE:
        return None
