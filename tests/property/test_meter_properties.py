"""The built-in meter and the SDK's have the same data, payload and page.

Times and the order of points are not compared. The strategies avoid these differences by design:

- the SDK clears the exemplars at each collection, so after the first one only its remaining ones are
  compared; of a sum or a gauge it keeps a random exemplar, so it gets the reservoir of histograms
  here, which keeps the last;
- the SDK adds the observations of one label set in one collection;
- the SDK first sums the values between two collections, which changes the last digits of a float:
  the amounts here are exact in any order;
- the SDK raises or records values that an exporter cannot encode; the built-in meter drops them;
- the SDK's points are in the order of the first measurements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.json_format import MessageToDict
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import AlignedHistogramBucketExemplarReservoir, MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader, MetricsData, Sum
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from genmeter.exporters._families import Translator
from genmeter.exporters._prometheus_text import write
from genmeter.metrics._cells import HistogramCell, SumCell
from genmeter.metrics._instruments import CellInstrument
from genmeter.metrics.meter import BuiltinMeterProvider

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

SETTINGS = settings(deadline=None, max_examples=150)
RESOURCE = Resource({"service.name": "test", "service.instance.id": "1"})
SCOPES = [("genmeter", None, None, None), ("other", "1.2", "https://schema", {"k": "v"})]
BOUNDS = [0.25, 1, 16, 1_000]


class Step(NamedTuple):
    """One measurement, or a collection between two."""

    scope: int
    kind: str
    amount: float
    attributes: dict[str, Any] | None
    span: int | None
    sampled: bool
    by_cell: bool
    collects: bool


# Sums of eighths up to here are exact in a float, in any order.
amounts = st.one_of(
    st.integers(0, 20), st.integers(0, 2**30), st.integers(0, 2**20).map(lambda each: each / 8)
)
values = st.one_of(
    st.sampled_from(["a", "b", "", 'q"\\\n', "ä"]),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([0.5, 1.0]),
    st.lists(st.sampled_from(["x", "y"]), max_size=2),
)
# A few that come again and again, and any.
label_sets = st.one_of(
    st.sampled_from([None, {}]),
    st.just({"k": "a"}),
    st.dictionaries(st.sampled_from(["k", "l.m", "n"]), values, max_size=3),
)
steps = st.builds(
    Step,
    st.sampled_from([0, 1]),
    st.sampled_from(["counter", "updown", "gauge", "histogram", "bounded"]),
    amounts,
    label_sets,
    st.none() | st.integers(1, 5),
    st.booleans(),
    st.booleans(),
    st.sampled_from([False] * 9 + [True]),
)


class Observed(NamedTuple):
    """What the callbacks observe, one value a label set."""

    labels: list[str]
    value: float


observed = st.builds(Observed, st.lists(st.sampled_from("abc"), unique=True), amounts)


class Meters:
    """The instruments of one provider."""

    def __init__(self, provider: Any) -> None:
        self.seen = Observed([], 0)
        self._instruments: list[dict[str, Any]] = []
        for scope in SCOPES:
            meter = provider.get_meter(*scope)
            texts: dict[str, Any] = {"unit": "s", "description": 'What "it" is.\n'}
            self._instruments.append(
                {
                    "counter": meter.create_counter("The.Counter", **texts),
                    "updown": meter.create_up_down_counter("the.updown", **texts),
                    "gauge": meter.create_gauge("the.gauge", **texts),
                    "histogram": meter.create_histogram("the.histogram"),
                    "bounded": meter.create_histogram(
                        "bounded", explicit_bucket_boundaries_advisory=BOUNDS, **texts
                    ),
                }
            )
            meter.create_observable_counter("seen.counter", [self._observe], **texts)
            meter.create_observable_up_down_counter("seen.updown", [self._observe])
            meter.create_observable_gauge("seen.gauge", [self._observe])

    def measure(self, step: Step) -> None:
        """Make one measurement."""
        instrument = self._instruments[step.scope][step.kind]
        amount = -step.amount if step.kind in {"updown", "gauge"} and step.sampled else step.amount
        if step.by_cell and isinstance(instrument, CellInstrument):
            change(instrument.cell(cleaned(step.attributes), 1_000.0), amount, step)
            return
        name = {"gauge": "set", "histogram": "record", "bounded": "record"}.get(step.kind, "add")
        getattr(instrument, name)(amount, step.attributes, context(step))

    def _observe(self, _: Any) -> list[Observation]:
        return [Observation(self.seen.value, {"k": each}) for each in self.seen.labels]


def cleaned(attributes: dict[str, Any] | None) -> dict[str, Any]:
    """Make attributes plain, as the recorder's are."""
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in (attributes or {}).items()
    }


def change(cell: Any, amount: float, step: Step) -> None:
    """Change a cell as the recorder does."""
    span = span_of(step)
    sampled = span if span is not None and span.trace_flags.sampled else None
    if isinstance(cell, HistogramCell):
        assert cell.record(amount, 1_000.0, sampled)
    else:
        assert (cell.add if isinstance(cell, SumCell) else cell.set)(amount, 1_000.0, sampled)


def span_of(step: Step) -> SpanContext | None:
    """Make the span of a measurement."""
    if step.span is None:
        return None
    flags = TraceFlags(TraceFlags.SAMPLED if step.sampled else TraceFlags.DEFAULT)
    return SpanContext(step.span, step.span, is_remote=False, trace_flags=flags)


def context(step: Step) -> Context | None:
    """Make the context of a measurement."""
    span = span_of(step)
    if span is None:
        return None
    return trace.set_span_in_context(NonRecordingSpan(span))


def last_of(_: Any) -> Any:
    """Make reservoirs that keep the last exemplar, of each bucket where there are any."""
    return lambda **given: AlignedHistogramBucketExemplarReservoir(given.get("boundaries", ()))


class DirectOwner:
    """An owner that calls every function at once."""

    def post(self, function: Callable[[], object]) -> None:
        """Call it."""
        function()

    def run(self, function: Callable[[], Any], timeout: float | None) -> Any:
        """Call it."""
        return function()


class Pair:
    """Both providers with the same measurements."""

    def __init__(self) -> None:
        self.ours = BuiltinMeterProvider(DirectOwner(), resource=RESOURCE)
        self._reader = InMemoryMetricReader()
        view = View(instrument_name="*", exemplar_reservoir_factory=last_of)
        self._sdk = MeterProvider([self._reader], RESOURCE, shutdown_on_exit=False, views=[view])
        self.both = Meters(self.ours), Meters(self._sdk)
        self._is_first = True

    def run(self, program: list[Step], seen: Observed) -> None:
        """Make all measurements, and compare at each collection."""
        for meters in self.both:
            meters.seen = seen
        for step in program:
            for meters in self.both:
                meters.measure(step)
            if step.collects:
                self.compare()
        self.compare()

    def compare(self) -> None:
        """Collect from both and compare."""
        ours, theirs = self.ours.collect(), self._reader.get_metrics_data() or MetricsData([])
        first, self._is_first = self._is_first, False
        assert data_of(ours) == data_of(theirs)
        assert exemplars_of(theirs) <= exemplars_of(ours)
        assert payload_of(ours, exemplars=first) == payload_of(theirs, exemplars=first)
        for openmetrics in (True, False):
            pages = [
                page_of(each, openmetrics=openmetrics, exemplars=first) for each in (ours, theirs)
            ]
            assert pages[0] == pages[1]
        if first:
            assert exemplars_of(theirs) == exemplars_of(ours)

    def close(self) -> None:
        """Shut both down."""
        self.ours.shutdown()
        self._sdk.shutdown()


def sampled(kind: str, amount: float, span: int, *, collects: bool = False) -> Step:
    """Create a measurement in a sampled span."""
    return Step(1, kind, amount, {"k": "a"}, span, sampled=True, by_cell=False, collects=collects)


@SETTINGS
@example(
    [
        sampled("bounded", 0.5, 1),
        sampled("bounded", 20, 2),
        sampled("bounded", 0.75, 3),
        sampled("counter", 1, 4),
        sampled("counter", 2, 5, collects=True),
        sampled("bounded", 0.25, 1),
        sampled("bounded", 5_000, 2, collects=True),
    ],
    Observed(["a", "b"], 2.5),
)
@given(st.lists(steps, max_size=40), observed)
def test_builtin_meter_equals_the_sdk(program: list[Step], seen: Observed) -> None:
    """Data, OTLP payload and both pages are equal at every collection."""
    pair = Pair()
    try:
        pair.run(program, seen)
    finally:
        pair.close()


def frozen(value: Any) -> Any:
    """Make attributes hashable, with their types."""
    if isinstance(value, (list, tuple)):
        return tuple(map(frozen, value))
    if hasattr(value, "items"):
        return frozenset((key, frozen(each)) for key, each in value.items())
    return type(value).__name__, value


def streams(data: MetricsData) -> list[tuple[Any, Any, Any, Any]]:
    """Return resource, scope and metric of each metric, and its points."""
    return [
        (resource, scope, metric, metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]


def data_of(data: MetricsData) -> dict[Any, Any]:
    """Return all but times and exemplars."""
    found: dict[Any, Any] = {}
    for resource, scope, metric, points in streams(data):
        shape: list[Any] = [type(metric.data), metric.unit, metric.description]
        if isinstance(metric.data, (Sum, Histogram)):
            shape.append(metric.data.aggregation_temporality)
        if isinstance(metric.data, Sum):
            shape.append(metric.data.is_monotonic)
        key = (resource.resource, resource.schema_url, scope.scope, scope.schema_url, metric.name)
        assert key not in found
        found[key] = shape, {frozen(each.attributes): point_of(each) for each in points}
        assert len(found[key][1]) == len(points)
    return found


def point_of(point: Any) -> Any:
    """Return a point's value and type."""
    if not hasattr(point, "bucket_counts"):
        return type(point.value), point.value, point.start_time_unix_nano is None
    return (
        point.count, type(point.sum), point.sum, tuple(point.bucket_counts), point.min, point.max,
        tuple(point.explicit_bounds),
    )  # fmt: skip


def exemplars_of(data: MetricsData) -> set[Any]:
    """Return every exemplar with its series."""
    return {
        (scope.scope.name, metric.name, frozen(point.attributes), type(each.value), each.value,
         each.span_id, each.trace_id, frozen(each.filtered_attributes or {}))
        for _, scope, metric, points in streams(data)
        for point in points
        for each in point.exemplars
    }  # fmt: skip


def payload_of(data: MetricsData, *, exemplars: bool) -> Any:
    """Return the OTLP request without times, sorted."""
    payload: Any = MessageToDict(encode_metrics(data))
    return sort(without_times(payload, exemplars=exemplars))


def without_times(value: Any, *, exemplars: bool) -> Any:
    """Drop all times."""
    if isinstance(value, list):
        return [without_times(each, exemplars=exemplars) for each in value]
    if not isinstance(value, dict):
        return value
    dropped = {"timeUnixNano", "startTimeUnixNano"} | (set() if exemplars else {"exemplars"})
    return {
        key: without_times(each, exemplars=exemplars)
        for key, each in value.items()
        if key not in dropped
    }


def sort(value: Any) -> Any:
    """Sort points, metrics and attributes, whose order says nothing."""
    if isinstance(value, dict):
        free = {"dataPoints", "metrics", "scopeMetrics", "attributes"}
        return {
            key: sorted(map(sort, each), key=repr) if key in free else sort(each)
            for key, each in value.items()
        }
    return [sort(each) for each in value] if isinstance(value, list) else value


def page_of(data: MetricsData, *, openmetrics: bool, exemplars: bool) -> list[str]:
    """Return a page's lines without times, sorted."""
    translator = Translator(own_scope="genmeter", target_info=True, created=True)
    page = write(translator.families(data), openmetrics=openmetrics).decode()
    lines = []
    for line in page.splitlines():
        text, mark, exemplar = line.partition(" # {")
        if text.split("{")[0].split(" ")[0].endswith("_created") and not text.startswith("#"):
            text = text.rsplit(" ", 1)[0]
        if mark and exemplars:
            text += mark + exemplar.rsplit(" ", 1)[0]
        lines.append(text)
    return sorted(lines)
