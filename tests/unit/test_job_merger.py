"""The merged metrics of a job are the same whatever a reader has read before."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics.export import HistogramDataPoint
from opentelemetry.sdk.resources import Resource

from genmeter.job.merged import Merger, combine
from genmeter.job.store import Definition, Store, pack

if TYPE_CHECKING:
    from pathlib import Path

KINDS = [
    ("monotonic", "sum"),
    ("sum", "living"),
    ("gauge", "max"),
    ("gauge", "min"),
    ("gauge", "last"),
    ("histogram", "sum"),
]
DEFINITIONS = [
    Definition(("scope", None, None, "[]"), f"m{number}", "", "", kind, (1.0, 2.0), across)
    for number, (kind, across) in enumerate(KINDS)
]


def metrics_of(merger: Merger) -> dict[Any, Any]:
    """Return value, sum and buckets of each series of the job."""
    found: dict[Any, Any] = {}
    for resource in merger.collect(Resource({})).resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    key = (metric.name, *sorted((point.attributes or {}).items()))
                    if isinstance(point, HistogramDataPoint):
                        buckets = tuple(point.bucket_counts)
                        found[key] = (point.sum, buckets, point.min, point.max)
                    else:
                        found[key] = point.value
    return found


@pytest.mark.parametrize("seed", range(8))
def test_a_reader_that_reads_often_sees_what_a_new_one_sees(tmp_path: Path, seed: int) -> None:
    """After publications, ends, deaths, new providers and series that are not observed any more."""
    random_ = random.Random(seed)  # noqa: S311 - to vary the order
    store = Store(tmp_path / "job.sqlite")
    store.create({}, keep=False)
    rows = [(definition, repr([("a", each)]), 5) for definition in DEFINITIONS for each in range(4)]
    numbers = store.number_series(rows, is_root=False)
    is_histogram = {
        number: row[0].kind == "histogram" for number, row in zip(numbers, rows, strict=True)
    }
    processes = [store.add_process(each, each) for each in range(3)]
    values: dict[tuple[int, int], int] = {}
    often = Merger(store)
    for turn in range(60):
        process = random_.choice(processes)
        what = random_.random()
        if what < 0.7:
            cells = []
            for series in random_.sample(numbers, 5):
                value = values[process, series] = values.get((process, series), 0) + turn
                buckets = pack([turn, 1, 0], 0.0, float(value))
                cells.append((series, value, buckets if is_histogram[series] else None))
            store.publish(process, cells, ())
        elif what < 0.8:
            store.forget_observed(process, random_.sample(numbers, 3))
        elif what < 0.9:
            store.settle(process, combine)
        else:
            if random_.random() < 0.5:
                store.end(process)
            if random_.random() < 0.7:
                store.fold(process, combine)
                processes[processes.index(process)] = store.add_process(turn, turn)
        if random_.random() < 0.7:
            assert metrics_of(often) == metrics_of(Merger(store))
    assert len(metrics_of(often)) > 10
    store.close()


def test_sums_do_not_depend_on_the_order_of_the_processes(tmp_path: Path) -> None:
    """A counter that falls by a rounding would look like a restart."""
    store = Store(tmp_path / "job.sqlite")
    store.create({}, keep=False)
    (series,) = store.number_series([(DEFINITIONS[0], "[]", 5)], is_root=False)
    first, second, third = (store.add_process(each, each) for each in range(3))
    found = set()
    for order in ((first, second, third), (third, second, first), (second, third, first)):
        merger = Merger(store)
        for process in order:
            value = {first: 0.1, second: 0.2, third: 0.3}[process]
            store.publish(process, [(series, value, None)], ())
            merger.collect(Resource({}))
        found.add(metrics_of(merger)["m0",])
    assert found == {0.6}
    store.close()
