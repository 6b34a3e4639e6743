"""JSON values and local times as the text of a line."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from _hostile import VALUES, StrKey

from genmeter.events.jsonable import MAX_NODES, MAX_TEXT, to_jsonable
from genmeter.handlers._line_text import iso_time, log_time, object_text, value_text

if TYPE_CHECKING:
    from collections.abc import Iterator

# Both ends of a summer of Berlin's, in the middle of an hour, and two times of Kathmandu's.
TIMES = [1_774_745_999.5, 1_774_746_000.25, 1_792_889_999.999_999, 1_792_890_000.0, 0.0, 5.000_001]
ZONES = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"]


@pytest.fixture
def zones(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that sets the local time zone, which is set back after the test."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


def reference(value: Any) -> str:
    """Encode in the plain way."""
    return json.dumps(to_jsonable(value), allow_nan=False)


@pytest.mark.parametrize("case", VALUES)
def test_text_is_that_of_the_plain_value(case: str) -> None:
    """The quick path encodes what it takes as the slow path does, to the byte."""
    value = VALUES[case]
    assert value_text(value) == reference(value)
    assert object_text({"key": value, "b": 1}) == reference({"key": value, "b": 1})
    nested = {"key": {"inner": value}, "list": [value], "b": 1}
    assert object_text(nested) == reference(nested)
    assert object_text(value) == reference(value)


@pytest.mark.parametrize(
    "mapping",
    [
        {},
        {"a": {}},
        {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}},
        {1: "number", None: "none", "t\u00fcr": "umlaut \ud800"},
        {StrKey("odd"): 1},
        {'quote"': "new\nline", "long": "x" * (MAX_TEXT + 1), "\u00fc": "\u00fc" * MAX_TEXT},
        {str(number): number for number in range(MAX_NODES + 10)},
        {str(each): {str(number): number for number in range(400)} for each in range(4)},
    ],
    ids=range(8),
)
def test_an_object_is_bounded_as_plain_values_are(mapping: dict[Any, Any]) -> None:
    """Depth, number of values, length of text and kinds of keys are those of plain values."""
    assert object_text(mapping) == reference(mapping)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("when", TIMES)
def test_a_local_time_has_its_offset(zones: Any, zone: str, when: float) -> None:
    """Date, clock and offset are the calendar's, on both sides of a change of the clock."""
    zones(zone)
    wanted = datetime.fromtimestamp(when, UTC).astimezone()
    for _ in range(2):  # computed, and remembered
        assert iso_time(when) == wanted.isoformat(timespec="microseconds")
        assert log_time(when) == wanted.strftime("%Y-%m-%d %H:%M:%S,") + (
            f"{int(when % 1 * 1_000):03d}"
        )


def test_a_time_zone_that_is_set_counts_at_once(zones: Any) -> None:
    """A job that calls ``time.tzset()`` gets its new local time, in the same second too."""
    stamps = []
    for zone in ZONES:
        zones(zone)
        stamps.append((iso_time(TIMES[1]), log_time(TIMES[1])))
    assert len(set(stamps)) == len(ZONES)


def test_a_fraction_that_rounds_up_is_the_next_second(zones: Any) -> None:
    """Microseconds are rounded as the calendar rounds them, never to a million."""
    zones("UTC")
    for when in (999.999_999_9, 1_700_000_000.999_999_9, 1_700_000_000.5, 1_700_000_000.000_001_5):
        wanted = datetime.fromtimestamp(when, UTC)
        assert iso_time(when) == wanted.isoformat(timespec="microseconds")


@pytest.mark.parametrize(
    ("when", "year"), [(-1e15, "0001"), (1e15, "9999"), (math.inf, "9999"), (math.nan, "9999")]
)
def test_a_time_that_no_calendar_has_is_the_nearest(when: float, year: str) -> None:
    """A caller's own time stamp costs no line, whatever it is."""
    assert iso_time(when).startswith(year)
    assert datetime.fromisoformat(iso_time(when)).tzinfo is not None


def test_times_in_any_order_are_right(zones: Any) -> None:
    """More seconds than are remembered, and back again, are each formatted as they are."""
    zones("Europe/Berlin")
    whens = [1_774_740_000.5 + step * 97 for step in range(200)]
    for when in [*whens, *reversed(whens)]:
        assert datetime.fromisoformat(iso_time(when)).timestamp() == when
