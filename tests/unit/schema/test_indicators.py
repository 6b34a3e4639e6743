"""The table of indicators: what each says, and that its query can be answered."""

from __future__ import annotations

import pytest

from genmeter.files.plots import UNITS
from genmeter.schema import metrics as cat
from genmeter.schema.indicators import INDICATORS, Indicator
from genmeter.schema.query import Ratio

PROMETHEUS_OWN = {"up", "scrape.duration"}

each_indicator = pytest.mark.parametrize("indicator", INDICATORS, ids=lambda each: each.id)


@each_indicator
def test_every_indicator_has_words_and_a_query(indicator: Indicator) -> None:
    """A title, a sentence, a unit that can be named, and series of the catalogue."""
    assert indicator.title[0].isupper()
    assert indicator.description.endswith(".")
    assert indicator.unit in UNITS or indicator.unit.startswith("{")
    instruments = {part.instrument for part in indicator.query.parts}
    assert instruments <= set(cat.INSTRUMENTS) or {i.name for i in instruments} <= PROMETHEUS_OWN
    assert (indicator.unit == "1") <= isinstance(indicator.query, Ratio)


def test_each_indicator_has_an_id_of_its_own() -> None:
    """A link of the reference leads to one indicator."""
    assert len({indicator.id for indicator in INDICATORS}) == len(INDICATORS)


@each_indicator
def test_queries_match_labels_that_their_instruments_have(indicator: Indicator) -> None:
    """A matcher on a label that no series has would select nothing, or everything."""
    for part in indicator.query.parts:
        assert {label for label, _ in part.where} <= set(part.instrument.labels)
        assert (part.part != "") == (part.instrument.kind is cat.Kind.HISTOGRAM)


@each_indicator
def test_both_sides_of_a_ratio_are_kept_or_neither_is(indicator: Indicator) -> None:
    """What a history can answer it can answer wholly."""
    assert len({part.rows is None for part in indicator.query.parts}) == 1
