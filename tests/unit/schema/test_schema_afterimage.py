"""The table of AfterImage's metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from genmeter.events.model import Evaluation, Generation
from genmeter.schema.afterimage import METADATA, METRICS, OWN_KEYS, PREFIXES, metric_of
from genmeter.schema.metrics import INSTRUMENTS

if TYPE_CHECKING:
    from genmeter.schema.afterimage import MetricSpec


OWN = {"call_cancelled", "usage_unread:*", "cost_usd", "usage_unpriced"}
"""The names of genmeter's own, which AfterImage has not."""


def test_names_are_those_that_the_instruments_stand_for() -> None:
    """No metric of AfterImage's is without an instrument, and none is named that it has not."""
    names = {metric.name + "*" * (metric.name in PREFIXES) for metric in METRICS}
    assert names >= OWN
    assert names - OWN == {name for row in INSTRUMENTS for name in row.stands_for}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_fields_are_those_of_the_events(metric: MetricSpec) -> None:
    """Each row names a field that every kind of event that it is for has."""
    fields = {
        "generation": {*Generation._fields, "model"},
        "evaluation": {*Evaluation._fields},
    }
    for kind in metric.kinds:
        named = {metric.field, *(field for _, field in metric.parts)}
        assert named <= fields[kind]


def test_metadata_of_rows_hides_no_field_of_theirs() -> None:
    """No key of the metadata replaces the name, the value or the time of its row."""
    assert not OWN_KEYS & METADATA.keys()


@pytest.mark.parametrize(
    ("name", "metric", "label"),
    [
        ("generation_time", "generation_time", ""),
        ("model_usage:vendor/model:tag", "model_usage:", "vendor/model:tag"),
        ("finish_reason:stop", "finish_reason:", "stop"),
        ("generation_time:mine", None, "mine"),
        ("evaluation_score_", None, ""),
        ("own", None, ""),
        ("", None, ""),
    ],
)
def test_a_name_is_split_into_its_metric_and_label(
    name: str, metric: str | None, label: str
) -> None:
    """The first colon ends the prefix; scores and the caller's own names are no metric of calls."""
    found, rest = metric_of(name)
    assert (None if found is None else found.name, rest) == (metric, label)
