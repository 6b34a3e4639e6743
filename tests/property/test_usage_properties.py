"""Usage: properties of every object and order of chunks."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from genmeter.usage._names import KNOWN
from genmeter.usage.chunks import ChunkReader
from genmeter.usage.reading import Reading, read_error

names = st.sampled_from(list(KNOWN)) | st.text(max_size=3)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2**40)
    | st.floats()
    | st.sampled_from(["stop", "length", "batch", "response", "completed", "1h", "AUDIO", ""])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6),
    max_leaves=30,
)
counts = st.none() | st.integers(0, 2**40)
FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens")
usages = st.none() | st.fixed_dictionaries(dict.fromkeys(FIELDS, counts))


@settings(deadline=None, max_examples=300)
@given(objects=st.lists(values, max_size=4))
def test_any_json_is_read_without_harm(objects: list[Any]) -> None:
    """Reading never raises, and all that it finds is of the right type."""
    reading, chunked = Reading(), Reading()
    reader = ChunkReader(chunked)
    error = RuntimeError()
    for number, each in enumerate(objects):
        assert not reading.read(each) or reading.has_usage
        reader.read(each)
        error.__dict__[f"value_{number}"] = each
    for each in (reading, chunked, *read_error(error)):
        answer = each.answer()
        numbers = [*answer.tokens[:7], answer.tokens.searches]
        assert all(count is None or (type(count) is int and count >= 0) for count in numbers)
        for parts in answer.tokens[7:10]:
            assert all(type(name) is str and count > 0 for name, count in parts)
        assert all(type(reason) is str for reason in answer.finish_reasons)
        assert each.has_usage == any(count is not None for count in numbers)
        if each.has_usage:
            assert each.unread is None


@given(chunks=st.lists(usages, min_size=1, max_size=8))
def test_the_last_count_of_each_field_wins(chunks: list[dict[str, int | None] | None]) -> None:
    """Whichever chunks have it, and through the reader of chunks as well."""
    reading, chunked = Reading(), Reading()
    reader = ChunkReader(chunked)
    for each in chunks:
        reading.read({"choices": [], "usage": each})
        reader.read({"choices": [], "usage": each})
    expected = {
        name: next(
            (each[name] for each in reversed(chunks) if each and each[name] is not None), None
        )
        for name in FIELDS
    }
    tokens = reading.answer().tokens
    assert tokens[:2] == (expected["prompt_tokens"], expected["completion_tokens"])
    assert tokens.total in {expected["total_tokens"], None}
    assert chunked.answer() == reading.answer()


@given(value=values)
def test_reading_twice_changes_nothing(value: Any) -> None:
    """Counts replace each other and are never added."""
    reading = Reading()
    reading.read(value)
    once = reading.answer()
    reading.read(value)
    assert reading.answer() == once
