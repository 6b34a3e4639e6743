"""Conversion of numbers and attributes to values that every exporter accepts."""

from __future__ import annotations

import contextlib
import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

from genmeter.metrics._cells import MAX_FLOAT, MAX_INT
from genmeter.metrics._values import clean_attributes, key_of, read_number
from unit._hostile import VALUES, LyingDict, LyingInt, Raising, StrKey, Word

from _meters import metrics, provider  # isort: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 1),
        (3, 3),
        (0.5, 0.5),
        (LyingInt(5), 5),
        (np.int64(4), 4),
        (np.float32(0.5), 0.5),
        (np.float64(0.25), 0.25),
        (Decimal("1.5"), 1.5),
        (Fraction(1, 4), 0.25),
        (MAX_INT, MAX_INT),
        (MAX_INT + 1, None),
        (math.nan, None),
        (-math.inf, None),
        (Decimal("sNaN"), None),
        ("12", None),
        (None, None),
    ],
)
def test_numbers_become_plain_ints_and_floats(value: Any, expected: float | None) -> None:
    """Values that are not finite numbers in range become None."""
    found = read_number(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("what", VALUES)
def test_any_value_becomes_a_plain_number_or_none(what: str) -> None:
    """The number is always in range."""
    found = read_number(VALUES[what])
    assert (
        found is None
        or (type(found) is int and abs(found) <= MAX_INT)
        or (type(found) is float and abs(found) <= MAX_FLOAT)
    )


@pytest.mark.parametrize("what", VALUES)
def test_any_attribute_can_be_exported(what: str) -> None:
    """Invalid values are attribute values, keys, nested values and whole mappings."""
    value = VALUES[what]
    made = provider()
    counter = made.get_meter("other").create_counter("events")
    amount = 1
    label_sets: list[Any] = [{"k": value}, {"k": [value, {"n": value}]}, value]
    with contextlib.suppress(Exception):  # it cannot be a key
        label_sets.append({value: "v"})
    for attributes in label_sets:
        counter.add(amount, attributes)
    data = made.collect()
    assert sum(each.value for each in metrics(data)["events"].data.data_points) == len(label_sets)
    assert encode_metrics(data).SerializeToString()
    for point in metrics(data)["events"].data.data_points:
        json.dumps(point.attributes, default=repr)


def test_plain_attributes_are_copied() -> None:
    """The caller may change its dict afterwards."""
    given = {"a": "b"}
    found = clean_attributes(given, pytest.fail)
    given["a"] = "c"
    assert found == {"a": "b"}


def test_attributes_are_converted_as_in_the_sdk() -> None:
    """Sequences become tuples, other types their text, or None without a text."""
    warned: list[str] = []
    found = clean_attributes(
        {"list": [1, "a", (None, True)], "map": {"x": [1]}, "num": Decimal(3), "object": object(),
         "enum": Word.MEMBER, 7: "seven", "": "empty"},
        lambda: warned.append("invalid"),
    )  # fmt: skip
    assert found == {
        "list": (1, "a", (None, True)),
        "map": {"x": (1,)},
        "num": "3",
        "object": None,
        "enum": "word",
        "7": "seven",
    }
    assert type(found["enum"]) is str
    assert warned == ["invalid"]


def test_unreadable_mappings_are_dropped() -> None:
    """The measurement itself is kept."""
    values: list[Any] = [LyingDict(a="b"), Raising(), ["a"], 7]
    for value in values:
        warned: list[str] = []
        assert clean_attributes(value, lambda: warned.append("invalid")) == {}  # noqa: B023
        assert warned == ["invalid"]


def test_invalid_attribute_is_dropped_alone() -> None:
    """The other attributes are kept."""
    assert clean_attributes({"bad": Raising(), "good": "yes"}, lambda: None) == {"good": "yes"}


def test_circular_mapping_is_cut_off() -> None:
    """Depth and size are limited."""
    circular: dict[str, Any] = {}
    circular.update({f"k{number}": circular for number in range(100)})
    warned: list[str] = []
    clean_attributes(circular, lambda: warned.append("invalid"))
    assert warned == ["invalid"]


def test_keys_become_plain_strings() -> None:
    """An unhashable key becomes usable."""
    (key,) = clean_attributes({StrKey("a"): 1}, pytest.fail)
    assert type(key) is str
    assert key == "a"


def test_label_sets_differ_by_type_and_not_by_order() -> None:
    """1, 1.0 and True are distinct; NaN equals NaN."""
    assert key_of({"a": "1", "b": "2"}) == key_of({"b": "2", "a": "1"})
    assert key_of({"a": 1, "b": "2"}) == key_of({"b": "2", "a": 1})
    assert (
        len({key_of({"a": value}) for value in (1, 1.0, True, "1", None, b"1", (1,), (1.0,))}) == 8
    )
    assert key_of({"a": float("nan")}) == key_of({"a": float("nan")})
    assert key_of({"a": {"x": 1, "y": 2}}) == key_of({"a": {"y": 2, "x": 1}})
    assert key_of({"a": (("x", 1),)}) != key_of({"a": {"x": 1}})
