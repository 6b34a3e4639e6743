"""The metrics of a job: the cells of its processes, added up."""

from __future__ import annotations

import enum
import itertools
import math
import time
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics.export import Gauge, Histogram, MetricsData, Sum
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from genmeter.job.merged import Merger, combine, definition_of, labels_text
from genmeter.job.store import Definition, Store, pack
from genmeter.metrics.changes import Changes, Origin
from genmeter.metrics.meter import BuiltinMeterProvider
from genmeter.schema.metrics import Across
from unit.metrics import _meters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BYTES = itertools.count(17)
RESOURCE = Resource({"service.name": "s", "service.instance.id": "i"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Return a new store."""
    made = Store(tmp_path / "job.sqlite")
    made.create({}, keep=False)
    yield made
    made.close()


class Process:
    """A process of a job, as far as its metrics go."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.number = store.add_process(1, next(BYTES))
        self.provider = BuiltinMeterProvider(
            _meters.LockedOwner(), resource=RESOURCE, cardinality_limit=100
        )
        self.meter = self.provider.get_meter("app", "1.2", "https://schema", {"team": "texts"})
        self.changes = Changes(self.provider)

    def publish(self) -> int:
        """Write what changed; return the number of cells."""
        found = self.changes.prepare(5.0)()
        new = [each.series for each in found if each.series.number is None]
        rows = [
            (definition_of(each.origin), labels_text(each.attributes), each.start or 0)
            for each in new
        ]
        for series, number in zip(new, self.store.number_series(rows, is_root=False), strict=True):
            series.number = number
        cells = [
            (series.number or 0, value, None if buckets is None else pack(*buckets))
            for series, value, buckets in found
        ]
        self.store.publish(self.number, cells, [])
        self.changes.accept(found)
        gone = [each.number for each in self.changes.gone() if each.number is not None]
        self.store.forget_observed(self.number, gone)
        return len(found)


def metrics_of(data: MetricsData) -> dict[str, Any]:
    """Return the metrics by name, in the order of the data."""
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def values_of(data: MetricsData, name: str) -> dict[str, Any]:
    """Return the values of a metric by label set."""
    return {
        repr(sorted((point.attributes or {}).items())): getattr(point, "value", None)
        for point in metrics_of(data)[name].data.data_points
    }


# --- labels --------------------------------------------------------------------------------------


class Colour(enum.StrEnum):
    """A text whose ``repr`` is no literal."""

    RED = "red"


class OldColour(str, enum.Enum):  # noqa: UP042, its ``str()`` is not its value
    """A text of an older kind of enumeration."""

    RED = "red"


class Number(int):
    """An integer whose ``repr`` is no literal."""

    def __repr__(self) -> str:
        return "<number>"


@pytest.mark.parametrize(
    "value",
    [
        *("", "a", "'\"\\\n", "\0", "\udc80", "ü", "🙂", "__import__('os')"),
        *(True, False, 0, 1, -5, 2**70, 0.1, 1e300, -0.0),
        *(("a", "b"), (True, False), (1, 2), (0.5, 1.5), (), ("",)),
    ],
    ids=repr,
)
def test_labels_of_any_type_are_read_as_they_were_written(store: Store, value: Any) -> None:
    """All types that OpenTelemetry has, with their types; as without a store."""
    process = Process(store)
    process.meter.create_counter("c").add(1, {"b": "x", "a": value})
    process.publish()
    (point,) = metrics_of(Merger(store).collect(RESOURCE))["c"].data.data_points
    own = process.provider.collect(5.0)
    assert own is not None
    (expected,) = metrics_of(own)["c"].data.data_points
    assert repr(sorted(point.attributes.items())) == repr(sorted(expected.attributes.items()))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        (OldColour.RED, "red"),
        (Number(5), 5),
        ((Colour.RED, Colour.RED), ("red", "red")),
        (["a", "b"], ("a", "b")),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        ((1.0, math.inf), (1.0, "inf")),
        (b"bytes", b"bytes"),
        (None, None),
        ("\ud83d\ude00", "\ud83d\ude00"),
        ("\U0001f600", "\U0001f600"),
        ("a\\ud83d'\"\n", "a\\ud83d'\"\n"),
        ("Größe", "Größe"),
    ],
    ids=ascii,
)
def test_unusual_labels_can_be_read_again(store: Store, value: Any, expected: Any) -> None:
    """Also those whose text is no literal of Python."""
    definition = Definition(("app", None, None, "[]"), "c", "", "", "monotonic", (), "sum")
    (number,) = store.number_series([(definition, labels_text({"a": value}), 5)], is_root=False)
    store.publish(store.add_process(1, next(BYTES)), [(number, 1, None)], [])
    (point,) = metrics_of(Merger(store).collect(RESOURCE))["c"].data.data_points
    assert point.attributes == {"a": expected}


def test_an_object_is_its_text() -> None:
    """Any label that is no value of OpenTelemetry's."""

    class Thing:
        def __str__(self) -> str:
            return "thing"

    assert labels_text({"a": Thing()}) == '{"a": "thing"}'  # type: ignore[dict-item]


def test_the_order_of_labels_is_no_matter() -> None:
    """Different label sets have different texts."""
    assert labels_text({"a": 1, "b": 2}) == labels_text({"b": 2, "a": 1})
    texts = {labels_text({"a": value}) for value in (1, True, 1.0, "1", ("1",), "True", None)}
    assert len(texts) == 7
    faces = {labels_text({"a": value}) for value in ("\U0001f600", "\ud83d\ude00")}
    assert len(faces) == 2


# --- one process ---------------------------------------------------------------------------------


def _record(process: Process) -> None:
    meter = process.meter
    for name in ("b.second", "a.first"):
        counter = meter.create_counter(name, "{call}", f"Help of {name}.")
        counter.add(3, {"k": "x"})
        counter.add(4, {"k": "y", "n": 5})
        counter.add(0.5, {"k": "x"})
    meter.create_up_down_counter("level").add(-7)
    histogram = meter.create_histogram("d", "s", explicit_bucket_boundaries_advisory=[1.0, 5.0])
    for value in (0.0, 1.0, 2.0, 9.0):
        histogram.record(value, {"k": "x"})
    meter.create_gauge("g").set(2.5, {"k": "z"})
    meter.create_observable_counter("oc", [lambda _: [Observation(11, {"k": "o"})]])
    meter.create_observable_up_down_counter("ou", [lambda _: [Observation(-3)]])
    meter.create_observable_gauge("og", [lambda _: [Observation(0.25)]])
    process.provider.get_meter("other").create_counter("alone").add(1)


def _plain(data: MetricsData) -> dict[str, Any]:
    """Return all of the data but its times of collection."""
    found: dict[str, Any] = {}
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                points = []
                for point in metric.data.data_points:
                    text = repr(sorted((point.attributes or {}).items()))
                    start = point.start_time_unix_nano
                    values = [
                        getattr(point, name, None)
                        for name in ("value", "count", "sum", "min", "max")
                    ]
                    buckets = list(getattr(point, "bucket_counts", ()))
                    bounds = list(getattr(point, "explicit_bounds", ()))
                    points.append((text, start, values, buckets, bounds))
                kind = type(metric.data).__name__, getattr(metric.data, "is_monotonic", None)
                temporality = getattr(metric.data, "aggregation_temporality", None)
                labels = dict(scope.scope.attributes or {})
                found[metric.name] = (
                    (scope.scope.name, scope.scope.version, scope.scope.schema_url, labels),
                    *(metric.unit, metric.description, kind, temporality, sorted(points)),
                )
    return found


def test_a_job_of_one_process_is_that_process(store: Store) -> None:
    """Every kind, definition, birth and value is as without a store."""
    process = Process(store)
    _record(process)
    process.publish()
    merged, own = Merger(store).collect(RESOURCE), process.provider.collect(5.0)
    assert own is not None
    assert _plain(merged) == _plain(own)
    (resource,) = merged.resource_metrics
    assert resource.resource is RESOURCE


def test_an_empty_store_has_no_metrics(store: Store) -> None:
    """A page without events is empty too."""
    assert Merger(store).collect(RESOURCE).resource_metrics == []


# --- several processes ---------------------------------------------------------------------------


def test_counters_and_histograms_are_summed(store: Store) -> None:
    """Living or not; ``ou`` is a level, which only the living have, and gauges are the last."""
    processes = [Process(store) for _ in range(3)]
    for process in processes:
        _record(process)
        process.publish()
    store.fold(processes[0].number, combine)
    merger = Merger(store)
    for data in (merger.collect(RESOURCE), merger.collect(RESOURCE)):
        assert values_of(data, "a.first") == {"[('k', 'x')]": 10.5, "[('k', 'y'), ('n', 5)]": 12}
        assert values_of(data, "level") == {"[]": -21}
        assert values_of(data, "oc") == {"[('k', 'o')]": 33}
        assert values_of(data, "ou") == {"[]": -6}
        assert values_of(data, "g") == {"[('k', 'z')]": 2.5}
        assert values_of(data, "og") == {"[]": 0.25}
        (point,) = metrics_of(data)["d"].data.data_points
        assert (point.count, point.sum, point.min, point.max) == (12, 36.0, 0.0, 9.0)
        assert list(point.bucket_counts) == [6, 3, 3]
        assert list(point.explicit_bounds) == [1.0, 5.0]


@pytest.mark.parametrize(
    ("across", "expected"),
    [
        (Across.SUM, 2 + 8 + 4),
        (Across.LIVING, 8 + 4),
        (Across.MAX, 8),
        (Across.MIN, 4),
        (Across.LAST, 4),
    ],
)
@pytest.mark.parametrize("is_folded", [False, True])
def test_the_rule_of_a_metric_applies(
    store: Store, across: Across, expected: float, is_folded: bool
) -> None:
    """Whether what has ended was folded or not; the first of three has ended."""
    scope = InstrumentationScope("genmeter")
    origin = Origin(scope, "g", "", "", "gauge", (), across)
    (number,) = store.number_series([(definition_of(origin), "[]", 0)], is_root=False)
    for value in (2, 8, 4):
        process = store.add_process(1, next(BYTES))
        store.publish(process, [(number, value, None)], [])
        if value == 2:
            store.end(process)
            if is_folded:
                store.fold(process, combine)
    assert values_of(Merger(store).collect(RESOURCE), "g") == {"[]": expected}


def test_a_value_of_the_living_only_is_gone_with_them(store: Store) -> None:
    """No process has open calls any more."""
    process = Process(store)
    process.meter.create_observable_up_down_counter("open", [lambda _: [Observation(4)]])
    process.publish()
    assert values_of(Merger(store).collect(RESOURCE), "open") == {"[]": 4}
    store.end(process.number)
    assert "open" not in metrics_of(Merger(store).collect(RESOURCE))


@pytest.mark.parametrize("count", [2, 5])
def test_integers_beyond_64_bits_are_floats(store: Store, count: int) -> None:
    """As OTLP can have them; the sum is not negative."""
    for _ in range(count):
        process = Process(store)
        process.meter.create_counter("c").add(2**63 - 1)
        process.publish()
    (value,) = values_of(Merger(store).collect(RESOURCE), "c").values()
    assert isinstance(value, float)
    assert value == pytest.approx(count * 2.0**63)
    for number, *_ in store.processes():
        store.fold(number, combine)
    assert values_of(Merger(store).collect(RESOURCE), "c") == {"[]": value}


@pytest.mark.parametrize("kind", ["monotonic", "histogram"])
def test_a_sum_does_not_depend_on_the_order(store: Store, kind: str) -> None:
    """It is the exact one, rounded once: no counter falls by a bit when a process ends."""
    definition = Definition(("app", None, None, "[]"), "c", "", "", kind, (), "sum")
    (number,) = store.number_series([(definition, "[]", 5)], is_root=False)
    values = [0.1, 1e16, 0.2, 1.0, 1e-9, 3.3, 0.7, 1e16, 5]
    buckets = pack([1], 0.0, 1.0) if kind == "histogram" else None
    processes = [store.add_process(1, next(BYTES)) for _ in values]
    for process, value in zip(processes, values, strict=True):
        store.publish(process, [(number, value, buckets)], [])
    merger = Merger(store)

    def total() -> float:
        (point,) = metrics_of(merger.collect(RESOURCE))["c"].data.data_points
        return float(point.sum if kind == "histogram" else point.value)

    assert total() == math.fsum(values)
    for process in [*processes[::2], *processes[1::2]]:
        store.fold(process, combine)
        assert total() == math.fsum(values)


def test_a_birth_is_the_series_not_the_process(store: Store) -> None:
    """It does not change when a process with an earlier one joins."""
    processes = [Process(store) for _ in range(2)]
    for process in processes:
        process.meter.create_counter("c").add(1)
    processes[1].publish()
    merger = Merger(store)
    (before,) = metrics_of(merger.collect(RESOURCE))["c"].data.data_points
    processes[0].publish()
    (after,) = metrics_of(merger.collect(RESOURCE))["c"].data.data_points
    assert (before.value, after.value) == (1, 2)
    assert before.start_time_unix_nano == after.start_time_unix_nano


def test_a_moved_birth_is_read(store: Store) -> None:
    """That of the first process of a family, which has shown the series before."""
    process = Process(store)
    process.meter.create_counter("c").add(1)
    process.publish()
    merger = Merger(store)
    merger.collect(RESOURCE)
    definition = next(iter(store.read({}, 0, 0, "").metrics.values()))
    store.number_series([(definition, labels_text({}), 5)], is_root=True)
    (point,) = metrics_of(merger.collect(RESOURCE))["c"].data.data_points
    assert point.start_time_unix_nano == 5


def test_the_number_of_processes_is_on_the_page_of_genmeter(store: Store) -> None:
    """Each state has a series, also if it is 0."""
    one, other, third = (Process(store) for _ in range(3))
    one.provider.get_meter("genmeter").create_counter("genmeter.samples").add(1)
    one.publish()
    store.end(other.number)
    store.fold(third.number, combine)
    found = values_of(Merger(store).collect(RESOURCE), "genmeter.job.processes")
    assert found == {
        "[('genmeter.state', 'running')]": 1,
        "[('genmeter.state', 'ended')]": 1,
        "[('genmeter.state', 'died')]": 1,
    }


def test_the_time_of_the_last_death_is_on_the_page_once_a_process_has_died(store: Store) -> None:
    """Neither a process that runs nor one that ended in order counts; a label set is kept."""
    one, ended, first, second = (Process(store) for _ in range(4))
    one.provider.get_meter("genmeter").create_counter("genmeter.samples").add(1)
    one.publish()
    store.end(ended.number)
    store.fold(ended.number, combine)
    merger = Merger(store)
    name = "genmeter.job.last_death.timestamp"
    assert name not in metrics_of(merger.collect(RESOURCE))
    found = []
    for process in (first, second):
        began = time.time()
        store.fold(process.number, combine)
        (point,) = metrics_of(merger.collect(RESOURCE))[name].data.data_points
        assert began - 0.01 <= point.value <= time.time() + 0.01
        found.append(point)
    assert found[0].attributes is found[1].attributes
    assert found[0].value <= found[1].value


def test_label_sets_are_the_same_objects_at_each_collection(store: Store) -> None:
    """A page caches their text."""
    process = Process(store)
    process.meter.create_counter("c").add(1, {"a": "b"})
    process.publish()
    merger = Merger(store)
    points = [metrics_of(merger.collect(RESOURCE))["c"].data.data_points[0] for _ in range(2)]
    assert points[0].attributes is points[1].attributes


def test_kinds_are_those_of_the_sdk(store: Store) -> None:
    """An exporter knows them."""
    process = Process(store)
    _record(process)
    process.publish()
    found = metrics_of(Merger(store).collect(RESOURCE))
    assert isinstance(found["a.first"].data, Sum)
    assert found["a.first"].data.is_monotonic
    assert isinstance(found["level"].data, Sum)
    assert not found["level"].data.is_monotonic
    assert isinstance(found["d"].data, Histogram)
    assert isinstance(found["g"].data, Gauge)


def test_histograms_with_different_bounds_are_different_metrics(store: Store) -> None:
    """Two processes may have been started with different settings."""
    for bounds in ([1.0, 2.0], [1.0, 2.0, 3.0]):
        process = Process(store)
        meter = process.meter
        meter.create_histogram("d", explicit_bucket_boundaries_advisory=bounds).record(1.5)
        process.publish()
    data = Merger(store).collect(RESOURCE)
    found = [
        metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    assert [len(each.data.data_points[0].explicit_bounds) for each in found] == [2, 3]


# --- changes -------------------------------------------------------------------------------------


def test_only_changes_are_published(store: Store) -> None:
    """An idle process writes nothing."""
    process = Process(store)
    _record(process)
    assert process.publish() == 11
    assert process.publish() == 0
    process.meter.create_counter("a.first", "{call}", "Help of a.first.").add(1, {"k": "x"})
    assert process.publish() == 1


def test_what_was_not_accepted_is_published_again(store: Store) -> None:
    """The store may have been full."""
    process = Process(store)
    process.meter.create_counter("c").add(1)
    assert [change.value for change in process.changes.prepare(5.0)()] == [1]
    assert [change.value for change in process.changes.prepare(5.0)()] == [1]
    process.publish()
    assert process.changes.prepare(5.0)() == []
    process.changes.forget_accepted()
    (change,) = process.changes.prepare(5.0)()
    assert change.series.number is None


def test_cells_that_were_cleared_are_new_series(store: Store) -> None:
    """A forked child begins at 0, even if a value is that of its parent."""
    process = Process(store)
    counter = process.meter.create_counter("c")
    counter.add(1)
    counter.add(7, {"k": "x"})
    assert process.publish() == 2
    process.provider.reset_after_fork(RESOURCE)
    assert process.publish() == 0
    counter.add(1)
    (change,) = process.changes.prepare(5.0)()
    assert (change.value, change.series.number) == (1, None)


def test_an_equal_value_is_no_change(store: Store) -> None:
    """A gauge that is set again is another object with the same value."""
    process = Process(store)
    gauge = process.meter.create_gauge("g")
    gauge.set(float("1000.5"))
    assert process.publish() == 1
    gauge.set(float("1000.5"))
    assert process.publish() == 0
    gauge.set(1001)
    assert process.publish() == 1


def test_a_histogram_whose_sum_does_not_change_is_published(store: Store) -> None:
    """Values of 0, and those that cancel each other out."""
    process = Process(store)
    histogram = process.meter.create_histogram("d", explicit_bucket_boundaries_advisory=[1.0])
    for value, count in ((0.0, 1), (0.0, 2), (5.0, 3), (0.0, 4)):
        histogram.record(value)
        assert process.publish() == 1
        (point,) = metrics_of(Merger(store).collect(RESOURCE))["d"].data.data_points
        assert point.count == count
    assert process.publish() == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("across", [Across.LAST, Across.MAX, Across.SUM])
def test_a_value_may_be_no_number(store: Store, value: float, across: Across) -> None:
    """The page goes on."""
    origin = Origin(InstrumentationScope("app"), "g", "", "", "gauge", (), across)
    (number,) = store.number_series([(definition_of(origin), "[]", 0)], is_root=False)
    for _ in range(2):
        store.publish(store.add_process(1, next(BYTES)), [(number, value, None)], [])
    assert repr(values_of(Merger(store).collect(RESOURCE), "g")) == f"{{'[]': {value!r}}}"


def test_an_observed_series_that_is_gone_leaves_the_job(store: Store) -> None:
    """It comes back with its next observation."""
    process, seen = Process(store), ["a", "b"]
    process.meter.create_observable_gauge(
        "g", [lambda _: [Observation(1, {"k": key}) for key in seen]]
    )
    process.publish()
    merger = Merger(store)
    assert len(values_of(merger.collect(RESOURCE), "g")) == 2
    seen.remove("b")
    process.publish()
    assert list(values_of(merger.collect(RESOURCE), "g")) == ["[('k', 'a')]"]
    seen.append("b")
    process.publish()
    assert len(values_of(merger.collect(RESOURCE), "g")) == 2
