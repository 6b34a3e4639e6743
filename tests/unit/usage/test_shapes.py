"""Every vendor's shape, as JSON and as objects of several kinds."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from _shapes import SHAPES, Shape
from _usage_forms import FORMS

from genmeter.events.answers import Answer
from genmeter.usage.chunks import ChunkReader
from genmeter.usage.reading import Reading


def answer_of(obj: Any) -> Answer:
    """Return what one object says."""
    reading = Reading()
    assert reading.read(obj)
    assert reading.has_usage
    assert reading.unread is None
    return reading.answer()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SHAPES)
def test_shape_is_read_in_every_form(name: str, form: str) -> None:
    """The kind of object makes no difference."""
    shape = SHAPES[name]
    expected = Answer(shape.tokens, shape.model, shape.reasons)._replace(**shape.rest)
    assert answer_of(FORMS[form](copy.deepcopy(shape.value))) == expected


@pytest.mark.parametrize("name", SHAPES)
def test_shape_is_the_same_if_it_is_read_twice(name: str) -> None:
    """Reading merges and never adds."""
    reading = Reading()
    reading.read(SHAPES[name].value)
    once = reading.answer()
    reading.read(SHAPES[name].value)
    assert reading.answer() == once


@pytest.mark.parametrize("name", SHAPES)
def test_shape_is_read_as_a_chunk(name: str) -> None:
    """A stream may end with a whole response."""
    reading = Reading()
    reader = ChunkReader(reading)
    for value in ({"id": "x"}, SHAPES[name].value, {"id": "y"}):
        reader.read(value)
    assert reading.answer() == answer_of(SHAPES[name].value)


@pytest.mark.parametrize("name", SHAPES)
def test_shape_is_not_changed_by_reading(name: str) -> None:
    """The caller's object stays what it was."""
    value = copy.deepcopy(SHAPES[name].value)
    answer_of(value)
    assert value == SHAPES[name].value


def test_every_expected_count_differs_from_its_neighbours() -> None:
    """A shape whose counts are equal could hide that two were confused."""
    shape: Shape
    for name, shape in SHAPES.items():
        counts = [each for each in shape.tokens[:2] if each]
        assert len(counts) == len(set(counts)), name
