"""The metadata that callers recorded, as typed columns of a frame.

One rule for frames and files, by the values that a key has over all rows: booleans become
``boolean``, integers ``Int64``, numbers ``Float64``, text ``string``; whatever is mixed or nested
becomes ``string`` with the JSON text of each value.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pandas.api.extensions import ExtensionArray

    Records = list[tuple[int, dict[str, Any]]]

__all__ = [
    "MAX_KEYS",
    "OTHER_KEYS",
    "add_to_fixed",
    "empty_column",
    "json_text",
    "metadata_columns",
    "parse_objects",
    "typed_array",
]

MAX_KEYS = 250
"""Most keys that get a column of their own, the most frequent ones."""
MAX_KEY = 256
"""Longest key, in characters, that gets a column of its own."""
OTHER_KEYS = "other_keys"
"""The column of all further keys: for each row the JSON text of an object."""
_EXACT = 2**53  # up to here a float64 holds every integer
_INT64 = 2**63
_PARSED_AT_ONCE = 1_000  # the parser holds the interpreter's lock
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def parse_objects(texts: list[str]) -> list[dict[str, Any]]:
    """Parse JSON objects, a text each."""
    parsed: list[dict[str, Any]] = []
    for start in range(0, len(texts), _PARSED_AT_ONCE):
        parsed += json.loads(f"[{','.join(texts[start : start + _PARSED_AT_ONCE])}]")
    return parsed


def json_text(value: Any) -> str:
    """Return a value as compact JSON text."""
    return _encode(value)


def empty_column(dtype: str, length: int) -> ExtensionArray:
    """Make a column of missing values.

    Args:
        dtype: ``boolean``, ``Int64``, ``Float64`` or ``string``.
        length: How many.
    """
    return typed_array([None], dtype).take(np.full(length, -1), allow_fill=True)


def metadata_columns(records: Records, length: int) -> dict[str, ExtensionArray]:
    """Make a column of each key.

    Args:
        records: Rows' positions, each once, and what they have.
        length: Rows of the frame.

    Returns:
        By key, sorted; ``other_keys`` last, if there are more than :data:`MAX_KEYS`.
    """
    rows: dict[str, list[int]] = {}
    values: dict[str, list[Any]] = {}
    for row, data in records:
        for key, value in data.items():
            if key not in rows:
                rows[key], values[key] = [], []
            rows[key].append(row)
            values[key].append(value)
    named = [key for key in rows if key != OTHER_KEYS and len(key) <= MAX_KEY]
    named = sorted(named, key=lambda key: (-len(rows[key]), key))[:MAX_KEYS]
    columns = {key: _column(rows[key], values[key], length) for key in sorted(named)}
    others = sorted(rows.keys() - columns.keys())
    if others:
        left: dict[int, dict[str, Any]] = {}
        for key in others:
            for row, value in zip(rows[key], values[key], strict=True):
                left.setdefault(row, {})[key] = value
        texts = [json_text(data) for data in left.values()]
        columns[OTHER_KEYS] = _fill("string", list(left), texts, length)
    return columns


def add_to_fixed(fixed: dict[str, ExtensionArray], records: Records) -> Records:
    """Move the values under a fixed column's key into that column, if their type fits.

    Args:
        fixed: The columns by key; changed in place.
        records: Rows' positions, and what they have.

    Returns:
        The records without what went into the columns; a value that did not fit has a ``_`` at the
        end of its key, so that it cannot change the column's type.
    """
    rows: dict[str, list[int]] = {key: [] for key in fixed}
    values: dict[str, list[Any]] = {key: [] for key in fixed}
    kinds = {key: _KINDS[str(column.dtype)] for key, column in fixed.items()}
    left = []
    for row, data in records:
        free = {}
        for key, value in data.items():
            if key not in kinds:
                free[key] = value
            elif type(value) is kinds[key] and (type(value) is not int or _is_int64(value)):
                rows[key].append(row)
                values[key].append(value)
            elif value is not None:
                free[_free_key(key, data)] = value
        if free:
            left.append((row, free))
    for key, column in fixed.items():
        if rows[key]:
            column[np.array(rows[key])] = values[key]
    return left


_KINDS: dict[str, type] = {"boolean": bool, "Int64": int, "string": str}


def _free_key(key: str, data: dict[str, Any]) -> str:
    while key in data:
        key += "_"
    return key


def _is_int64(value: int) -> bool:
    return -_INT64 <= value < _INT64


def _column(rows: list[int], values: list[Any], length: int) -> ExtensionArray:
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {bool}:
        return _fill("boolean", rows, values, length)
    if kinds == {int} and all(v is None or _is_int64(v) for v in values):
        return _fill("Int64", rows, values, length)
    if kinds in ({float}, {int, float}) and all(
        type(v) is not int or -_EXACT <= v <= _EXACT for v in values
    ):
        return _fill("Float64", rows, values, length)
    if kinds and kinds != {str}:
        values = [None if value is None else json_text(value) for value in values]
    return _fill("string", rows, values, length)


def _fill(dtype: str, rows: list[int], values: list[Any], length: int) -> ExtensionArray:
    positions = np.full(length, -1)
    positions[rows] = np.arange(len(rows))
    return typed_array(values, dtype).take(positions, allow_fill=True)


def typed_array(values: list[Any], dtype: str) -> ExtensionArray:
    """Make a column of values; None is a missing one."""
    import pandas as pd

    any_dtype: Any = dtype  # the stubs know each name by itself
    array: ExtensionArray = pd.array(values, dtype=any_dtype)
    return array
