"""The table of indicators: texts, units and valid queries."""

from __future__ import annotations

import pytest

from genmeter.files.plots import UNITS
from genmeter.schema import metrics as cat
from genmeter.schema.indicators import INDICATORS, Indicator
from genmeter.schema.query import Ratio

PROMETHEUS_OWN = {"up", "scrape.duration"}

each_indicator = pytest.mark.parametrize("indicator", INDICATORS, ids=lambda each: each.id)


@each_indicator
def test_every_indicator_has_texts_a_unit_and_known_instruments(indicator: Indicator) -> None:
    """The description is a sentence, and instruments are the catalogue's or Prometheus's."""
    assert indicator.title[0].isupper()
    assert indicator.description.endswith(".")
    assert indicator.unit in UNITS or indicator.unit.startswith("{")
    instruments = {part.instrument for part in indicator.query.parts}
    assert instruments <= set(cat.INSTRUMENTS) or {i.name for i in instruments} <= PROMETHEUS_OWN
    assert (indicator.unit == "1") <= isinstance(indicator.query, Ratio)


def test_ids_are_unique() -> None:
    """A link of the reference leads to one indicator."""
    assert len({indicator.id for indicator in INDICATORS}) == len(INDICATORS)


@each_indicator
def test_queries_match_labels_of_their_instruments(indicator: Indicator) -> None:
    """A matcher on an unknown label would select nothing, or everything."""
    for part in indicator.query.parts:
        assert {label for label, _ in part.where} <= set(part.instrument.labels)
        assert (part.part != "") == (part.instrument.kind is cat.Kind.HISTOGRAM)


@each_indicator
def test_histories_keep_both_sides_of_a_ratio_or_neither(indicator: Indicator) -> None:
    """A history can compute a ratio completely or not at all."""
    assert len({part.rows is None for part in indicator.query.parts}) == 1
