"""The metadata that callers recorded, as typed columns of a frame.

Frames and files share one rule. A key whose values are all booleans gets a ``boolean`` column,
integers ``Int64``, numbers ``Float64``, text ``string``. Mixed or nested values become a ``string``
column with the JSON text of each value.
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
"""Number of keys with their own column, the most frequent ones."""
MAX_KEY = 256
"""Longest key, in characters, with its own column."""
OTHER_KEYS = "other_keys"
"""The column of all other keys: the JSON text of an object for each row."""
_MAX_EXACT_INT = 2**53  # a float64 represents every integer up to here
_INT64 = 2**63
_PARSED_AT_ONCE = 1_000  # the parser holds the interpreter's lock
_DTYPE_TYPES: dict[str, type] = {"boolean": bool, "Int64": int, "string": str}
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def parse_objects(texts: list[str]) -> list[dict[str, Any]]:
    """Parse JSON objects, one a text."""
    parsed: list[dict[str, Any]] = []
    for start in range(0, len(texts), _PARSED_AT_ONCE):
        parsed += json.loads(f"[{','.join(texts[start : start + _PARSED_AT_ONCE])}]")
    return parsed


def json_text(value: Any) -> str:
    """Return a value as compact JSON text."""
    return _encode(value)


def empty_column(dtype: str, length: int) -> ExtensionArray:
    """Return a column of missing values."""
    return typed_array([None], dtype).take(np.full(length, -1), allow_fill=True)


def metadata_columns(records: Records, length: int) -> dict[str, ExtensionArray]:
    """Return a column for each key, sorted; ``other_keys`` last if there are further keys.

    Args:
        records: Row positions, each once, with their metadata.
        length: Number of rows in the frame.
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
        rest: dict[int, dict[str, Any]] = {}
        for key in others:
            for row, value in zip(rows[key], values[key], strict=True):
                rest.setdefault(row, {})[key] = value
        texts = [json_text(data) for data in rest.values()]
        columns[OTHER_KEYS] = _fill("string", list(rest), texts, length)
    return columns


def add_to_fixed(fixed: dict[str, ExtensionArray], records: Records) -> Records:
    """Move the values of a fixed column's key into that column, if their type fits.

    Args:
        fixed: The columns by key; changed in place.
        records: Row positions with their metadata.

    Returns:
        The records without the moved values. The key of a value that did not fit gets a ``_``, so
        that it cannot change the column's type.
    """
    rows: dict[str, list[int]] = {key: [] for key in fixed}
    values: dict[str, list[Any]] = {key: [] for key in fixed}
    types = {key: _DTYPE_TYPES[str(column.dtype)] for key, column in fixed.items()}
    rest = []
    for row, data in records:
        free = {}
        for key, value in data.items():
            if key not in types:
                free[key] = value
            elif type(value) is types[key] and (type(value) is not int or _is_int64(value)):
                rows[key].append(row)
                values[key].append(value)
            elif value is not None:
                free_key = key
                while free_key in data:
                    free_key += "_"
                free[free_key] = value
        if free:
            rest.append((row, free))
    for key, column in fixed.items():
        if rows[key]:
            column[np.array(rows[key])] = values[key]
    return rest


def _is_int64(value: int) -> bool:
    return -_INT64 <= value < _INT64


def _column(rows: list[int], values: list[Any], length: int) -> ExtensionArray:
    types = set(map(type, values)) - {type(None)}
    if types == {bool}:
        return _fill("boolean", rows, values, length)
    if types == {int} and all(v is None or _is_int64(v) for v in values):
        return _fill("Int64", rows, values, length)
    if types in ({float}, {int, float}) and all(
        type(v) is not int or abs(v) <= _MAX_EXACT_INT for v in values
    ):
        return _fill("Float64", rows, values, length)
    if types and types != {str}:
        values = [None if value is None else json_text(value) for value in values]
    return _fill("string", rows, values, length)


def _fill(dtype: str, rows: list[int], values: list[Any], length: int) -> ExtensionArray:
    positions = np.full(length, -1)
    positions[rows] = np.arange(len(rows))
    return typed_array(values, dtype).take(positions, allow_fill=True)


def typed_array(values: list[Any], dtype: str) -> ExtensionArray:
    """Return a column of values; None is a missing value."""
    import pandas as pd

    any_dtype: Any = dtype  # the stubs have an overload for each name
    array: ExtensionArray = pd.array(values, dtype=any_dtype)
    return array
