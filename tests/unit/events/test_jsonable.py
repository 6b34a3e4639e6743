"""Whatever a caller hands in, as plain JSON."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time
from enum import Enum, StrEnum
from typing import Any

import numpy as np
import pytest
from _hostile import VALUES
from hypothesis import given
from hypothesis import strategies as st

from genmeter.events.jsonable import MAX_DEPTH, MAX_NODES, MAX_TEXT, jsonable_text, to_jsonable

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=20,
).filter(lambda value: _depth(value) <= MAX_DEPTH)


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


class Colour(Enum):
    """An Enum whose value is a number."""

    RED = 1


class Word(StrEnum):
    """An Enum that is a text."""

    YES = "yes"


@given(JSON)
def test_plain_json_is_unchanged(value: Any) -> None:
    """Values of JSON types are equal and have the same type."""
    assert json.dumps(to_jsonable(value)) == json.dumps(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, 1),
        (Word.YES, "yes"),
        (np.int64(5), 5),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (datetime(2026, 1, 31, tzinfo=UTC), "2026-01-31T00:00:00+00:00"),
        (date(2026, 1, 31), "2026-01-31"),
        (time(12, 30), "12:30:00"),
        ((1, (2, [3])), [1, [2, [3]]]),
        ({4}, [4]),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (2**63, str(2**63)),
        ("\ud800", "?"),
        (ValueError("bad"), "bad"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_types_become_json_types(value: Any, expected: Any) -> None:
    """Values, numbers, times and text replace types that JSON lacks."""
    plain = to_jsonable(value)
    assert plain == expected
    assert type(plain) is type(expected)


@pytest.mark.parametrize("name", VALUES)
def test_hostile_values_become_strict_json(name: str) -> None:
    """No value raises, and all of them can be written and read."""
    value = VALUES[name]
    text = jsonable_text({"value": value, "nested": [{"deep": value}]})
    assert json.loads(text, parse_constant=pytest.fail).keys() == {"value", "nested"}
    text.encode()


def test_size_is_bounded() -> None:
    """Depth, number of values and length of texts have limits."""
    loop: list[Any] = []
    loop.append(loop)
    assert to_jsonable(loop) == [[[[[["<list>"]]]]]]
    assert len(to_jsonable([[1] * 600] * 600)) <= MAX_NODES
    assert sum(map(len, to_jsonable([[1] * 600] * 600))) <= MAX_NODES
    assert len(to_jsonable("x" * 10**6)) == MAX_TEXT
