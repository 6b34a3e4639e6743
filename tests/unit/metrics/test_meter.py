"""The built-in provider: starts, limits, threads, identities and collections."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from _meters import LockedOwner, ThreadOwner, Warnings, context_of, metrics, points, provider, span
from opentelemetry import metrics as api
from opentelemetry.context import Context, attach, detach
from opentelemetry.metrics import NoOpMeter, Observation
from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, Sum

from _waiting import PATIENCE
from genmeter.metrics._cells import START_MARGIN_NS
from genmeter.metrics._instruments import DEFAULT_BOUNDS
from unit._hostile import VALUES, LyingStr, Raising, StrKey

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = [
    "create_counter",
    "create_up_down_counter",
    "create_gauge",
    "create_histogram",
    "create_observable_counter",
    "create_observable_up_down_counter",
    "create_observable_gauge",
]


def one(_: Any) -> list[Observation]:
    """Observe 1."""
    return [Observation(1)]


def only(made: Any, name: str) -> Any:
    """Return the only point of a metric."""
    (point,) = points(made.collect(), name).values()
    return point


class TestStarts:
    """Series start shortly before their first event."""

    def test_cell_starts_a_second_before_its_first_event(self) -> None:
        """Later events and the time of the collection do not matter."""
        made = provider()
        counter: Any = made.get_meter("genmeter").create_counter("events")
        counter.cell({"a": "b"}, 5_000.0).add(1)
        counter.cell({"a": "b"}, 6_000.0).add(1)
        assert only(made, "events").start_time_unix_nano == 5_000 * 10**9 - START_MARGIN_NS

    def test_api_series_starts_a_second_before_the_call(self) -> None:
        """The time of the call counts, not that of the owner's turn or of the collection."""
        made = provider()
        before = time.time_ns()
        made.get_meter("other").create_histogram("sizes").record(1)
        after = time.time_ns()
        point = only(made, "sizes")
        assert before - START_MARGIN_NS <= point.start_time_unix_nano <= after - START_MARGIN_NS
        assert point.time_unix_nano >= after

    def test_observable_counters_start_with_the_provider(self) -> None:
        """Gauges have no start, as in the SDK."""
        before = time.time_ns()
        made = provider()
        after = time.time_ns()
        meter = made.get_meter("genmeter")
        meter.create_observable_counter("counter", [one])
        meter.create_observable_gauge("observed", [one])
        meter.create_gauge("gauge").set(1)
        start = only(made, "counter").start_time_unix_nano
        assert before - START_MARGIN_NS <= start <= after - START_MARGIN_NS
        assert only(made, "observed").start_time_unix_nano is None
        assert only(made, "gauge").start_time_unix_nano is None

    def test_points_of_a_collection_have_the_same_time(self) -> None:
        """A collection is one consistent cut."""
        made = provider()
        meter = made.get_meter("genmeter")
        for name in ("a", "b", "c"):
            meter.create_counter(name).add(1)
        data = made.collect()
        times = {each.data.data_points[0].time_unix_nano for each in metrics(data).values()}
        assert len(times) == 1


class TestCells:
    """Cells, as the recorder uses them."""

    @pytest.mark.parametrize("kind", ["create_counter", "create_histogram", "create_gauge"])
    def test_label_set_keeps_its_cell_and_attributes_object(self, kind: str) -> None:
        """The page's cache compares labels by identity."""
        made = provider()
        instrument: Any = getattr(made.get_meter("genmeter"), kind)("events")
        given = {"a": "1", "b": "2"}
        cell = instrument.cell(given, 1.0)
        given["a"] = "changed"
        assert instrument.cell({"b": "2", "a": "1"}, 2.0) is cell
        assert instrument.cell({"b": "2", "a": 1}, 2.0) is not cell
        change(cell)
        first, second = (points(made.collect(), "events")["1", "2"] for _ in range(2))
        assert first.attributes == {"a": "1", "b": "2"}
        assert first.attributes is second.attributes is cell.attributes

    def test_cell_and_api_change_the_same_series(self) -> None:
        """Both add to one sum."""
        made = provider()
        counter: Any = made.get_meter("genmeter").create_counter("events")
        counter.cell({"a": "b"}, 1.0).value += 2
        counter.add(3, {"a": "b"})
        assert only(made, "events").value == 5

    def test_label_sets_past_the_limit_overflow(self) -> None:
        """Known label sets continue, the others share one sum, and one warning is logged."""
        warnings = Warnings()
        made = provider(cardinality_limit=2, warn=warnings.warn)
        counter: Any = made.get_meter("genmeter").create_counter("events")
        for name in "abcda":
            counter.add(1, {"k": name})
        assert counter.cell({"k": "e"}, 1.0) is counter.cell({"k": "f"}, 2.0)
        found = points(made.collect(), "events")
        assert {key: each.value for key, each in found.items()} == {
            ("a",): 2,
            ("b",): 1,
            (True,): 2,
        }
        assert found[True,].attributes == {"otel.metric.overflow": True}
        assert len(warnings.lines) == 1
        assert "'events'" in warnings.lines[0]


def change(cell: Any) -> None:
    """Change a cell of any kind."""
    if hasattr(cell, "record"):
        cell.record(1, 1.0, None)
    elif hasattr(cell, "set"):
        cell.set(1)
    else:
        cell.add(1)


class TestShape:
    """The data of a collection."""

    def test_collection_without_points_is_empty(self) -> None:
        """Instruments without points are omitted, and so is a resource without scopes."""
        made = provider()
        for kind in KINDS:
            getattr(made.get_meter("other"), kind)(kind)
        assert list(made.collect().resource_metrics) == []

    def test_metrics_are_in_the_order_of_their_creation(self) -> None:
        """This holds for meters, and for the instruments of a meter."""
        made = provider()
        second = made.get_meter("second")
        first = made.get_meter("first")
        instruments = [
            first.create_counter("b"),
            second.create_counter("c"),
            first.create_counter("a"),
        ]
        for instrument in reversed(instruments):
            instrument.add(1)
        (resource,) = made.collect().resource_metrics
        assert resource.resource is made.resource
        assert [
            (scope.scope.name, [metric.name for metric in scope.metrics])
            for scope in resource.scope_metrics
        ] == [("second", ["c"]), ("first", ["b", "a"])]

    def test_each_kind_has_its_type_of_data(self) -> None:
        """Sums are cumulative; counters are monotonic."""
        made = provider()
        meter = made.get_meter("genmeter", "1.0", "https://schema", {"k": "v"})
        for kind in KINDS:
            instrument = getattr(meter, kind)(kind, unit="s", description="What it is.")
            if kind.startswith("create_observable"):
                continue
            for call in ("add", "record", "set"):
                getattr(instrument, call, lambda *_: None)(1)
        found = metrics(made.collect())
        assert {(each.unit, each.description) for each in found.values()} == {("s", "What it is.")}
        assert found["create_counter"].data.is_monotonic
        assert not found["create_up_down_counter"].data.is_monotonic
        kinds = {name: type(each.data) for name, each in found.items()}
        assert kinds == {
            "create_counter": Sum,
            "create_up_down_counter": Sum,
            "create_gauge": Gauge,
            "create_histogram": Histogram,
        }
        for name in ("create_counter", "create_up_down_counter", "create_histogram"):
            data = found[name].data
            assert data.aggregation_temporality is AggregationTemporality.CUMULATIVE
        (scope,) = made.collect().resource_metrics[0].scope_metrics
        assert (scope.scope.version, scope.schema_url) == ("1.0", "https://schema")
        assert dict(scope.scope.attributes or {}) == {"k": "v"}

    def test_instruments_are_instances_of_the_api_classes(self) -> None:
        """Code that checks their class sees the API's."""
        meter = provider().get_meter("other")
        assert isinstance(meter, api.Meter)
        assert isinstance(meter.create_counter("a"), api.Counter)
        assert isinstance(meter.create_up_down_counter("b"), api.UpDownCounter)
        assert isinstance(meter.create_histogram("c"), api.Histogram)
        assert isinstance(meter.create_gauge("d"), api._Gauge)
        assert isinstance(meter.create_observable_counter("e"), api.ObservableCounter)
        assert isinstance(meter.create_observable_up_down_counter("f"), api.ObservableUpDownCounter)
        assert isinstance(meter.create_observable_gauge("g"), api.ObservableGauge)


class TestExemplars:
    """Exemplars name the sampled span of the caller."""

    def test_second_reader_sees_the_exemplars_too(self) -> None:
        """A collection does not remove them."""
        made = provider()
        made.get_meter("other").create_histogram("sizes").record(3, {}, context_of(span(7)))
        for _ in range(2):
            (exemplar,) = only(made, "sizes").exemplars
            assert (exemplar.value, exemplar.span_id, exemplar.trace_id) == (3, 7, 7)

    @pytest.mark.parametrize("kind", ["create_counter", "create_up_down_counter", "create_gauge"])
    def test_sums_and_gauges_have_exemplars(self, kind: str) -> None:
        """As in the SDK."""
        made = provider()
        instrument: Any = getattr(made.get_meter("other"), kind)("events")
        call = getattr(instrument, "add", None) or instrument.set
        call(3, {}, context_of(span(7)))
        call(4)
        assert [each.span_id for each in only(made, "events").exemplars] == [7]

    def test_current_span_is_the_default(self) -> None:
        """An empty context stands for the current one, as in the SDK."""
        made = provider()
        histogram = made.get_meter("other").create_histogram("sizes")
        token = attach(context_of(span(7)))
        try:
            histogram.record(1)
            histogram.record(6, context=Context())
        finally:
            detach(token)
        assert [each.span_id for each in only(made, "sizes").exemplars] == [7, 7]

    def test_only_sampled_spans_become_exemplars(self) -> None:
        """Unsampled spans, missing spans and invalid contexts do not."""
        made = provider()
        histogram: Any = made.get_meter("other").create_histogram("sizes")
        histogram.record(1, {}, context_of(span(7, sampled=False)))
        histogram.record(1, {})
        assert only(made, "sizes").exemplars == []
        histogram.record(1, {}, "no context")
        assert only(made, "sizes").count == 3

    def test_exemplars_can_be_turned_off(self) -> None:
        """This holds for the API and for cells."""
        made = provider(exemplars=False)
        histogram: Any = made.get_meter("other").create_histogram("sizes")
        histogram.record(1, {}, context_of(span(7)))
        histogram.cell({}, 1.0).record(1, 1.0, span(8))
        assert only(made, "sizes").exemplars == []


class TestIdentity:
    """The identity of instruments and meters."""

    def test_scope_has_one_meter(self) -> None:
        """Another version, schema or attribute makes another scope."""
        made = provider()
        assert made.get_meter("a", "1", None, {"k": 1}) is made.get_meter("a", "1", "", {"k": 1})
        others = [("a",), ("a", "2"), ("a", "1", "s"), ("a", "1", None, {"k": "1"}), ("b", "1")]
        assert len({id(made.get_meter(*each)) for each in others}) == len(others)

    @pytest.mark.parametrize("kind", KINDS)
    def test_same_instrument_is_created_once(self, kind: str) -> None:
        """Names ignore case; conflicts of kind, unit or description warn once."""
        warnings = Warnings()
        create = getattr(provider(warn=warnings.warn).get_meter("other"), kind)
        first = create("Some.Name", unit="s", description="d")
        assert create("some.NAME", unit="s", description="d") is first
        assert warnings.lines == []
        assert create("some.name", unit="By", description="d") is not first
        assert create("some.name", unit="s", description="e") is not first
        assert len(warnings.lines) == 1
        assert "'some.name'" in warnings.lines[0]

    def test_names_are_exported_in_lower_case(self) -> None:
        """As in the SDK."""
        made = provider()
        made.get_meter("other").create_counter("Some.Name").add(1)
        assert set(metrics(made.collect())) == {"some.name"}

    def test_conflicting_instruments_are_both_collected(self) -> None:
        """A warning is logged, and no data is lost."""
        warnings = Warnings()
        made = provider(warn=warnings.warn)
        meter = made.get_meter("other")
        meter.create_counter("x").add(1)
        meter.create_gauge("x").set(2)
        (scope,) = made.collect().resource_metrics[0].scope_metrics
        assert [type(each.data) for each in scope.metrics] == [Sum, Gauge]
        assert len(warnings.lines) == 1

    def test_later_callbacks_of_the_same_instrument_are_ignored(self) -> None:
        """As in the SDK, but with a warning."""
        warnings = Warnings()
        made = provider(warn=warnings.warn)
        meter = made.get_meter("other")
        meter.create_observable_gauge("x", [one])
        meter.create_observable_gauge("x", [lambda _: [Observation(2)]])
        assert only(made, "x").value == 1
        assert len(warnings.lines) == 1

    def test_bounds_of_the_first_histogram_are_kept(self) -> None:
        """Different bounds warn; equal bounds of another type do not."""
        warnings = Warnings()
        made = provider(warn=warnings.warn)
        meter = made.get_meter("other")
        first = meter.create_histogram("x", explicit_bucket_boundaries_advisory=[1, 2])
        assert meter.create_histogram("x", explicit_bucket_boundaries_advisory=(1.0, 2.0)) is first
        assert warnings.lines == []
        assert meter.create_histogram("x") is first
        first.record(1.5)
        assert only(made, "x").explicit_bounds == (1.0, 2.0)
        assert len(warnings.lines) == 1


class TestInvalid:
    """Invalid arguments."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_instrument_with_an_invalid_name_or_unit_records_nothing(self, kind: str) -> None:
        """Each warns once and raises nothing."""
        values: list[tuple[Any, Any]] = [
            ("", ""), ("1a", ""), ("a b", ""), ("ä", ""), ("a" * 256, ""), (None, ""), (7, ""),
            ("a", "ä"), ("a", "u" * 64), ("a", 7), (Raising(), ""), ("a", Raising()),
        ]  # fmt: skip
        warnings = Warnings()
        made = provider(warn=warnings.warn)
        create = getattr(made.get_meter("other"), kind)
        for name, unit in values * 2:
            instrument = create(name, unit=unit)
            for call in ("add", "record", "set"):
                getattr(instrument, call, lambda *_: None)(1)
        assert metrics(made.collect()) == {}
        assert len(warnings.lines) == len(values) - 1  # those that raise say the same

    def test_subclasses_of_str_are_valid_texts(self) -> None:
        """They become plain strings, and None an empty one."""
        made = provider()
        meter: Any = made.get_meter(StrKey("other"), LyingStr("1"), 7, Raising())
        meter.create_counter(StrKey("a"), None, None).add(1)
        meter.create_counter("b", StrKey("s"), Raising()).add(1)
        meter.create_counter("c", "s", "lone \ud800").add(1)
        found = metrics(made.collect())
        assert {each.name: (each.unit, each.description) for each in found.values()} == {
            "a": ("", ""),
            "b": ("s", ""),
            "c": ("s", "lone ?"),
        }

    @pytest.mark.parametrize("name", [None, "", 7])
    def test_meter_without_a_name_records_nothing(self, name: Any) -> None:
        """As in the SDK."""
        assert isinstance(provider().get_meter(name), NoOpMeter)
        odd: Any = Raising()
        assert isinstance(provider().get_meter(odd), NoOpMeter)

    @pytest.mark.parametrize(
        "bounds", ["12", 7, [2, 1], [1, 1], [1, float("inf")], [float("nan")], ["a"], {1, 2}]
    )
    def test_invalid_bounds_are_replaced_by_the_default(self, bounds: Any) -> None:
        """A warning is logged."""
        warnings = Warnings()
        made = provider(warn=warnings.warn)
        meter = made.get_meter("other")
        meter.create_histogram("x", explicit_bucket_boundaries_advisory=bounds).record(1)
        assert only(made, "x").explicit_bounds == DEFAULT_BOUNDS
        assert len(warnings.lines) == 1

    def test_empty_bounds_make_one_bucket(self) -> None:
        """An empty sequence is valid."""
        made = provider()
        meter = made.get_meter("other")
        meter.create_histogram("x", explicit_bucket_boundaries_advisory=[]).record(1)
        assert only(made, "x").bucket_counts == (1,)

    @pytest.mark.parametrize("kind", KINDS[:4])
    @pytest.mark.parametrize("what", VALUES)
    def test_any_amount_is_recorded_or_dropped(self, kind: str, what: str) -> None:
        """Nothing raises; a dropped amount warns once, and later amounts are recorded."""
        warnings = Warnings()
        made = provider(warn=warnings.warn)
        instrument: Any = getattr(made.get_meter("other"), kind)("x")
        call = next(
            getattr(instrument, each)
            for each in ("add", "record", "set")
            if hasattr(instrument, each)
        )
        for _ in range(2):
            call(VALUES[what])
            call(1, {"k": "v"}, VALUES[what])
        assert ("v",) in points(made.collect(), "x")
        dropped = () not in points(made.collect(), "x")
        assert len([line for line in warnings.lines if "its amount" in line]) == dropped

    @pytest.mark.parametrize("kind", ["create_counter", "create_histogram"])
    def test_negative_amounts_are_dropped(self, kind: str) -> None:
        """One warning is logged."""
        warnings = Warnings()
        made = provider(warn=warnings.warn)
        instrument: Any = getattr(made.get_meter("other"), kind)("x")
        call = getattr(instrument, "add", None) or instrument.record
        for amount in (-1, -0.5):
            call(amount)
        assert metrics(made.collect()) == {}
        assert len(warnings.lines) == 1

    def test_sum_out_of_range_is_rejected_with_a_warning(self) -> None:
        """The sum keeps its value."""
        warnings = Warnings()
        made = provider(warn=warnings.warn)
        counter = made.get_meter("other").create_counter("x")
        for _ in range(3):
            counter.add(2**63 - 1)
        assert only(made, "x").value == 2**63 - 1
        assert len(warnings.lines) == 1

    def test_error_while_warning_is_suppressed(self) -> None:
        """It does not reach the caller."""

        def broken(*_: object) -> None:
            raise RuntimeError("no logging")

        made = provider(warn=broken)
        made.get_meter("other").create_counter("x").add(-1)
        assert metrics(made.collect()) == {}


class TestThreads:
    """Calls on several threads."""

    @pytest.mark.parametrize("make", [LockedOwner, ThreadOwner])
    def test_totals_of_eight_threads_are_exact(self, make: Callable[[], Any]) -> None:
        """While another thread collects, totals never decrease."""
        owner = make()
        made = provider(owner=owner)
        meter = made.get_meter("other")

        def work(number: int) -> None:
            counter, histogram = meter.create_counter("events"), meter.create_histogram("sizes")
            for each in range(1_000):
                counter.add(1, {"k": str(each % 5)})
                histogram.record(number, {"k": "all"})

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        seen = [0]
        while any(thread.is_alive() for thread in threads):
            seen.append(
                sum(each.value for each in points(made.collect(PATIENCE), "events").values())
            )
        for thread in threads:
            thread.join()
        data = made.collect(PATIENCE)
        assert {key: each.value for key, each in points(data, "events").items()} == {
            (str(each),): 1_600 for each in range(5)
        }
        (point,) = points(data, "sizes").values()
        assert (point.count, point.sum) == (8_000, 28_000)
        assert seen == sorted(seen)
        if isinstance(owner, ThreadOwner):
            owner.close()

    def test_measurement_does_not_wait_for_a_busy_owner(self) -> None:
        """The owner gets it later; a collection waits only until its timeout."""
        owner = ThreadOwner()
        made = provider(owner=owner)
        go = threading.Event()
        owner.post(lambda: go.wait(PATIENCE))
        made.get_meter("other").create_counter("events").add(1)
        with pytest.raises(TimeoutError):
            made.collect(timeout=0.05)
        assert not made.force_flush(timeout_millis=50)
        go.set()
        assert made.force_flush()
        assert only(made, "events").value == 1
        owner.close()

    def test_owner_collects_directly(self) -> None:
        """It does not wait for itself."""
        owner = ThreadOwner()
        made = provider(owner=owner)
        made.get_meter("genmeter").create_counter("events").add(1)
        data = owner.run(made.collect, PATIENCE)
        assert set(metrics(data)) == {"events"}
        owner.close()

    def test_collection_times_out_while_the_owner_is_busy(self) -> None:
        """It raises TimeoutError."""
        owner = LockedOwner()
        made = provider(owner=owner)
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            go.wait(PATIENCE)

        thread = threading.Thread(target=owner.run, args=(hold, None))
        thread.start()
        held.wait(PATIENCE)
        with pytest.raises(TimeoutError):
            made.collect(timeout=0.05)
        go.set()
        thread.join()
        assert metrics(made.collect()) == {}

    def test_error_of_the_owner_does_not_reach_the_caller(self) -> None:
        """The measurement is dropped, with one warning."""

        class Broken(LockedOwner):
            def post(self, function: Callable[[], object]) -> None:
                raise RuntimeError("closed")

        warnings = Warnings()
        made = provider(owner=Broken(), warn=warnings.warn)
        for _ in range(2):
            made.get_meter("other").create_counter("events").add(1)
        assert metrics(made.collect()) == {}
        assert len(warnings.lines) == 1


class TestEnd:
    """After the shutdown."""

    def test_collection_works_after_shutdown(self) -> None:
        """New measurements and meters are ignored, and callbacks are not called."""
        calls: list[int] = []
        made = provider()
        meter = made.get_meter("other")
        counter = meter.create_counter("events")
        meter.create_observable_gauge("seen", [lambda _: calls.append(1) or [Observation(1)]])  # type: ignore[func-returns-value]
        counter.add(1)
        made.shutdown()
        made.shutdown()
        counter.add(1)
        assert isinstance(made.get_meter("another"), NoOpMeter)
        assert only(made, "events").value == 1
        assert calls == []

    def test_unused_provider_is_collected(self) -> None:
        """Neither its thread nor a hook keeps it alive."""
        made = provider()
        made.get_meter("other").create_observable_gauge("seen", [one])
        assert only(made, "seen").value == 1
        reference = weakref.ref(made)
        worker = weakref.ref(made._runner)
        del made
        gc.collect()
        assert reference() is None
        assert worker() is None
