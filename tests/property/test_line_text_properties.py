"""Values and times as the text of a line, whatever they are."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from genmeter.events.jsonable import to_jsonable
from genmeter.handlers._line_text import iso_time, object_text

TEXTS = st.text(st.characters() | st.sampled_from('\ud800\udfff\u2028"'), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(TEXTS | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(TEXTS, VALUES))
def test_the_text_of_an_object_is_that_of_its_plain_value(mapping: dict[str, Any]) -> None:
    """To the byte; and it is one line, in ASCII, that a strict reader takes."""
    text = object_text(mapping)
    assert text == json.dumps(to_jsonable(mapping), allow_nan=False)
    assert text.isascii()
    assert "\n" not in text


@given(st.floats(0, 4e9))
def test_a_local_time_is_the_calendars(when: float) -> None:
    """Rounded to the microsecond as ``datetime`` does, whatever was formatted before."""
    wanted = datetime.fromtimestamp(when, UTC).astimezone().isoformat(timespec="microseconds")
    assert iso_time(when) == wanted
