"""Values and times as the text of a line, whatever they are."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from genmeter.events.jsonable import to_jsonable
from genmeter.handlers._lines import iso_time, object_text

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
def test_fast_path_equals_slow_path(mapping: dict[str, Any]) -> None:
    """The text is equal to the byte, and one line of strict ASCII JSON."""
    text = object_text(mapping)
    assert text == json.dumps(to_jsonable(mapping), allow_nan=False)
    assert text.isascii()
    assert "\n" not in text


@given(st.floats(0, 4e9))
def test_local_time_equals_datetimes(when: float) -> None:
    """It is rounded to the microsecond like ``datetime``, whatever was formatted before."""
    wanted = datetime.fromtimestamp(when, UTC).astimezone().isoformat(timespec="microseconds")
    assert iso_time(when) == wanted
