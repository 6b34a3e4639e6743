"""The text formats: pages that mean the same as those of prometheus_client."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from genmeter.exporters._families import exemplar_of
from genmeter.exporters._prometheus_text import number_text
from sdk_page import PrometheusReader

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData
    from prometheus_client import Metric

BOUNDS = [0.1, 1.0, 4.0]


class Replaying(PrometheusReader):
    """A reader that repeats its first collection, including exemplars."""

    kept: MetricsData | None = None

    def _receive_metrics(self, metrics_data: MetricsData, *args: Any, **kwargs: Any) -> None:
        if self.kept is None:
            self.kept = metrics_data
        super()._receive_metrics(self.kept)


def build(views: Any = (), **arguments: Any) -> tuple[Replaying, MeterProvider]:
    """Return a reader and its provider."""
    reader = Replaying()
    provider = MeterProvider(
        [reader], Resource({"service.name": "s"}), views=views, shutdown_on_exit=False, **arguments
    )
    return reader, provider


def parsed(families: Any) -> list[tuple[Any, ...]]:
    """Return the content of a page in a fixed order; NaN equals itself."""
    return sorted(
        (family.name, family.type, family.unit, family.documentation, *sample_texts(family))
        for family in families
    )


def sample_texts(family: Metric) -> list[str]:
    """Return each sample as text, so that NaN equals itself."""
    return sorted(
        repr((s.name, sorted(s.labels.items()), float(s.value), exemplar_text(s.exemplar)))
        for s in family.samples
    )


def exemplar_text(exemplar: Any) -> str:
    """Return an exemplar as text; 2 and 2.0 are the same value."""
    if exemplar is None:
        return ""
    return repr((exemplar.labels, float(exemplar.value), exemplar.timestamp))


def points_of(reader: Replaying) -> list[Any]:
    """Return the points of every collection, for tests to change."""
    reader.collect()
    assert reader.kept is not None
    (scope_metrics,) = reader.kept.resource_metrics[0].scope_metrics
    return [point for metric in scope_metrics.metrics for point in metric.data.data_points]


def check_same(reader: PrometheusReader, *, text: bool = True) -> None:
    """Assert that both pages mean the same as prometheus_client's."""
    registry = CollectorRegistry()
    registry.register(reader.collector)
    ours, theirs = reader.render(True).decode(), generate_openmetrics(registry).decode()
    assert parsed(parse_openmetrics(ours)) == parsed(parse_openmetrics(theirs))
    if text:
        ours, theirs = reader.render(False).decode(), generate_latest(registry).decode()
        assert parsed(parse_text(ours)) == parsed(parse_text(theirs))


def fill(provider: MeterProvider) -> None:
    """Record in every kind of instrument, in two scopes, with unusual text."""
    for scope in ("genmeter", "other"):
        meter = provider.get_meter(scope, "1")
        attributes = {"k": 'quote " back \\ line \n 100 %s', "é.ö": "ü", "n": 5}
        meter.create_counter("calls", "{call}", 'Calls "so\\ far"\nin all').add(3, attributes)
        meter.create_counter("calls").add(1)
        meter.create_counter("cpu", "s").add(0.25, attributes)
        meter.create_up_down_counter("active").add(-7, attributes)
        meter.create_gauge("share", "1", "A share").set(1e300, attributes)
        histogram = meter.create_histogram(
            "wait", "s", "How long", explicit_bucket_boundaries_advisory=BOUNDS
        )
        for value in (0.05, 0.1, 2, 1e9):
            histogram.record(value, attributes)
        histogram.record(3)


def test_the_pages_equal_prometheus_clients() -> None:
    """Both formats mean the same as prometheus_client's rendering of the collector."""
    reader, provider = build()
    fill(provider)
    check_same(reader)
    provider.shutdown()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["counter", "up_down_counter", "gauge", "histogram"]),
            st.sampled_from(["a", "b", "a.b", "a_total", "a_count", "seconds", "ratio"]),
            st.sampled_from(["", "s", "1", "{x}"]),
            st.dictionaries(
                st.sampled_from(["k", "k.1", "k_1", "le", "exported_le", "otel.scope.name"]),
                st.one_of(
                    st.text(max_size=5), st.integers(-5, 5), st.booleans(), st.binary(max_size=3)
                ),
                max_size=4,
            ),
            st.one_of(st.integers(0, 2**70), st.floats(min_value=0, allow_nan=False)),
        ),
        max_size=12,
    )
)
def test_pages_of_any_metrics_parse(recorded: list[Any]) -> None:
    """Both pages parse and mean the same for any names and values."""
    reader, provider = build()
    # Without it a collection of an SDK before 1.45 can be empty, with nothing to repeat.
    provider.get_meter("x").create_counter("always").add(1)
    for kind, name, unit, attributes, value in recorded:
        instrument = getattr(provider.get_meter("x"), f"create_{kind}")(name, unit)
        method = {"gauge": "set", "histogram": "record"}.get(kind, "add")
        getattr(instrument, method)(value, attributes)
    check_same(reader)
    provider.shutdown()


def test_bounds_are_written_as_floats() -> None:
    """An integer bound names the same series as in other clients."""
    reader, provider = build()
    histogram = provider.get_meter("genmeter").create_histogram(
        "tokens", explicit_bucket_boundaries_advisory=[1, 4, 67108864]
    )
    histogram.record(2)
    page = reader.render(False).decode()
    assert 'tokens_bucket{le="4.0"} 1\n' in page
    assert 'tokens_bucket{le="6.7108864e+07"} 1\n' in page
    assert 'tokens_bucket{le="+Inf"} 1\n' in page
    provider.shutdown()


def test_an_explicit_infinity_is_the_last_bucket() -> None:
    """Bounds that end with infinity, from older SDKs, do not repeat the last bucket."""
    reader, provider = build()
    histogram = provider.get_meter("genmeter").create_histogram(
        "wait", explicit_bucket_boundaries_advisory=[1.0, 2.0]
    )
    histogram.record(5)
    histogram.record(0.5)
    (point,) = points_of(reader)
    object.__setattr__(point, "explicit_bounds", (1.0, math.inf))
    check_same(reader)
    page = reader.render(False).decode()
    assert 'wait_bucket{le="1.0"} 1\nwait_bucket{le="+Inf"} 2\nwait_count 2\n' in page
    provider.shutdown()


@pytest.mark.parametrize("bounds", [[], [-1.0, 0.0, 1.0]])
def test_pages_with_unusual_bounds_parse(bounds: list[float]) -> None:
    """A histogram may have no bounds, or negative ones."""
    view = View(
        instrument_name="wait", aggregation=ExplicitBucketHistogramAggregation(boundaries=bounds)
    )
    reader, provider = build([view])
    provider.get_meter("genmeter").create_histogram("wait").record(5)
    provider.get_meter("genmeter").create_histogram("wait").record(0.5)
    check_same(reader, text=not bounds)
    page = reader.render(True).decode()
    assert page.count('le="+Inf"} 2\n') == 1
    assert ("wait_sum" in page) == ("wait_count" in page) == (not bounds or bounds[0] >= 0)
    assert "wait_count 2\nwait_sum 5.5\n" in reader.render(False).decode()
    provider.shutdown()


def test_histograms_with_different_bounds_share_a_family() -> None:
    """Each stream keeps its bounds."""
    reader, provider = build()
    for scope, bounds in (("genmeter", [1.0]), ("other", [2.0, 3.0])):
        provider.get_meter(scope).create_histogram(
            "wait", explicit_bucket_boundaries_advisory=bounds
        ).record(0.5)
    check_same(reader)
    page = reader.render(False).decode()
    assert page.count('wait_bucket{le="') == 2
    assert page.count('wait_bucket{otel_scope_name="other",le="') == 3
    provider.shutdown()


def test_start_times_are_created_series() -> None:
    """Counters and histograms have them in both formats, gauges do not."""
    reader, provider = build()
    fill(provider)
    openmetrics = reader.render(True).decode()
    assert "calls_created " in openmetrics
    assert "active_created" not in openmetrics
    families = {family.name: family for family in parse_text(reader.render(False).decode())}
    assert families["wait_seconds_created"].type == "gauge"
    assert families["wait_seconds_created"].samples[0].value > 1.6e9
    provider.shutdown()


def test_a_series_without_a_start_time_has_no_created() -> None:
    """The SDK may not know the start time."""
    reader, provider = build()
    meter = provider.get_meter("genmeter")
    meter.create_counter("calls").add(1)
    meter.create_histogram("wait").record(1)
    for point in points_of(reader):
        object.__setattr__(point, "start_time_unix_nano", None)
    check_same(reader)
    assert "_created" not in reader.render(True).decode()
    assert "_created" not in reader.render(False).decode()
    provider.shutdown()


def test_infinity_and_nan_are_written() -> None:
    """They are written as Prometheus does."""
    reader, provider = build()
    values = {"a": math.inf, "b": -math.inf, "c": math.nan, "d": 10**400}
    provider.get_meter("genmeter").create_observable_gauge(
        "load", [lambda _: [Observation(1, {"k": name}) for name in values]]
    )
    # Older SDKs take such values; newer ones drop them.
    for point, value in zip(points_of(reader), values.values(), strict=True):
        object.__setattr__(point, "value", value)
    page = reader.render(False).decode()
    assert 'load{k="a"} +Inf\nload{k="b"} -Inf\nload{k="c"} NaN\nload{k="d"} +Inf\n' in page
    check_same(reader)
    provider.shutdown()


def test_a_sum_that_overflows_is_infinite() -> None:
    """The page stays valid."""
    reader, provider = build()
    counter = provider.get_meter("genmeter").create_counter("calls")
    counter.add(1e308)
    counter.add(1e308)
    assert "calls_total +Inf\n" in reader.render(True).decode()
    check_same(reader)
    provider.shutdown()


def test_a_counter_of_nan_is_dropped() -> None:
    """A strict parser would reject it."""
    reader, provider = build()
    provider.get_meter("genmeter").create_counter("calls").add(1)
    object.__setattr__(points_of(reader)[0], "value", math.nan)
    assert "calls_total" not in reader.render(True).decode()
    check_same(reader)
    provider.shutdown()


@pytest.mark.parametrize("total", [math.nan, -1.0, None])
def test_a_histogram_without_a_sum_keeps_its_buckets(total: float | None) -> None:
    """OpenMetrics drops an invalid sum with its count; text keeps them."""
    reader, provider = build()
    provider.get_meter("genmeter").create_histogram("wait").record(1)
    object.__setattr__(points_of(reader)[0], "sum", total)
    page = reader.render(True).decode()
    check_same(reader, text=False)
    assert "wait_bucket" in page
    assert "wait_sum" not in page
    assert "wait_count" not in page
    (family, _) = [f for f in parse_text(reader.render(False).decode()) if "wait" in f.name]
    values = {sample.name: sample.value for sample in family.samples}
    assert values["wait_count"] == 1
    assert values.get("wait_sum") == pytest.approx(total, nan_ok=True)
    provider.shutdown()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (True, "1.0"),
        (2**53 + 1, "9007199254740993"),
        (2**63 + 1, "9.223372036854775808e+18"),
        (-(10**400), "-Inf"),
        (0.1, "0.1"),
        (math.inf, "+Inf"),
        (math.nan, "NaN"),
    ],
)
def test_numbers_are_readable_by_prometheus(value: float, text: str) -> None:
    """Every kind of number has a valid text."""
    assert float(number_text(value)) == pytest.approx(float(text), nan_ok=True)
    assert ("n" in number_text(value).lower()) == ("n" in text.lower())


def exemplars_of(reader: PrometheusReader) -> dict[tuple[str, str | None], Any]:
    """Return the exemplars of a page by the sample's name and bound."""
    return {
        (sample.name, sample.labels.get("le")): sample.exemplar
        for family in parse_openmetrics(reader.render(True).decode())
        for sample in family.samples
        if sample.exemplar
    }


def test_exemplars_are_on_the_bucket_of_their_value() -> None:
    """A sampled span is on its bucket and its counter."""
    reader, provider = build()
    meter = provider.get_meter("genmeter")
    histogram = meter.create_histogram("wait", explicit_bucket_boundaries_advisory=BOUNDS)
    counter = meter.create_counter("calls")
    histogram.record(0.5)
    tracers = TracerProvider(shutdown_on_exit=False)
    with tracers.get_tracer("t").start_as_current_span("s") as span:
        histogram.record(1.0, {"model": "m"})
        histogram.record(50, {"model": "m"})
        counter.add(2)
    expected = {
        "trace_id": trace.format_trace_id(span.get_span_context().trace_id),
        "span_id": trace.format_span_id(span.get_span_context().span_id),
    }
    check_same(reader)
    found = exemplars_of(reader)
    assert {key: exemplar.value for key, exemplar in found.items()} == {
        ("wait_bucket", "1.0"): 1.0,
        ("wait_bucket", "+Inf"): 50,
        ("calls_total", None): 2,
    }
    assert all(exemplar.labels == expected for exemplar in found.values())
    assert all(float(exemplar.timestamp) > 1.6e9 for exemplar in found.values())
    assert " # {" not in reader.render(False).decode()
    provider.shutdown()


def test_exemplar_labels_fit_openmetrics() -> None:
    """They have at most 128 characters, and the span always fits."""
    reader, provider = build([View(instrument_name="calls", attribute_keys={"model"})])
    counter = provider.get_meter("genmeter").create_counter("calls")
    tracers = TracerProvider(shutdown_on_exit=False)
    with tracers.get_tracer("t").start_as_current_span("s"):
        counter.add(1, {"model": "m", "a": "x" * 50, "b": "y" * 60, "c": "z", "trace.id": "no"})
    (exemplar,) = exemplars_of(reader).values()
    assert set(exemplar.labels) == {"trace_id", "span_id", "a", "c"}
    assert exemplar.labels["trace_id"] != "no"
    assert sum(len(name) + len(value) for name, value in exemplar.labels.items()) <= 128
    provider.shutdown()


def test_exemplars_may_have_no_labels() -> None:
    """An observation outside a span has none."""
    reader, provider = build(exemplar_filter=AlwaysOnExemplarFilter())
    meter = provider.get_meter("genmeter")
    meter.create_counter("calls").add(1)
    meter.create_histogram("wait").record(1)
    meter.create_histogram("other").record(1)
    *_, point = points_of(reader)
    object.__setattr__(point.exemplars[0], "value", math.nan)
    found = exemplars_of(reader)
    assert {key: (each.labels, each.value) for key, each in found.items()} == {
        ("calls_total", None): ({}, 1),
        ("wait_bucket", "5.0"): ({}, 1),
    }
    assert "calls_total 1 # {} 1 " in reader.render(True).decode()
    check_same(reader)
    provider.shutdown()


def test_an_exemplar_with_labels_wins_over_a_newer_one_without() -> None:
    """A link to a trace matters more than recency."""
    attributes = {"span_id": 7, "trace_id": 7, "filtered_attributes": {}}
    old = SimpleNamespace(value=1, time_unix_nano=10**9, **attributes)
    young = SimpleNamespace(value=2, time_unix_nano=2 * 10**9, filtered_attributes={})
    young.span_id = young.trace_id = None
    assert exemplar_of([old, young]).value == 1
    assert exemplar_of([young]) == ((), 2, 2.0)
    assert exemplar_of([]) is None


@pytest.mark.parametrize("openmetrics", [True, False])
def test_samples_are_selected_by_name(openmetrics: bool) -> None:
    """A filtered page has only these samples and their metadata."""
    reader, provider = build()
    fill(provider)
    parse = parse_openmetrics if openmetrics else parse_text
    names = {"calls_total", "active", "wait_seconds_bucket", "cpu_seconds_created", "no_such"}
    page = reader.render(openmetrics, names).decode()
    whole = {line for line in reader.render(openmetrics).decode().splitlines() if line[0] != "#"}
    picked = [line for line in page.splitlines() if line[0] != "#"]
    assert set(picked) == {line for line in whole if line.partition("{")[0].split()[0] in names}
    families = {family.name: family for family in parse(page)}
    assert families["calls"].type == "counter"
    assert families["calls"].documentation == 'Calls "so\\ far"\nin all'
    assert not {"share_ratio", "target", "target_info"} & set(families)
    assert page.endswith("# EOF\n") is openmetrics
    provider.shutdown()


def test_line_separators_in_labels_do_not_split_samples() -> None:
    """Only a line feed ends a line."""
    reader, provider = build()
    value = "a\u2028calls_total 5\x85# HELP x\x0bb\r"
    provider.get_meter("genmeter").create_counter("calls").add(1, {"k": value})
    page = reader.render(False, ["calls_total"]).decode()
    assert page.endswith(f'\n# TYPE calls_total counter\ncalls_total{{k="{value}"}} 1\n')
    provider.shutdown()


def test_unknown_names_return_an_empty_page() -> None:
    """The page is valid."""
    reader, provider = build()
    fill(provider)
    assert reader.render(True, ["x"]) == b"# EOF\n"
    assert reader.render(False, ["calls"]) == b""
    provider.shutdown()


def test_created_series_can_be_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument or the variable applies to both formats and the collector."""
    for value in ("true", "1", "T"):
        monkeypatch.setenv("PROMETHEUS_DISABLE_CREATED_SERIES", value)
        reader, provider = build()
        fill(provider)
        check_same(reader)
        assert "_created" not in reader.render(True).decode() + reader.render(False).decode()
        provider.shutdown()
    assert PrometheusReader(created=True).bridge._created is True
    monkeypatch.setenv("PROMETHEUS_DISABLE_CREATED_SERIES", "false")
    assert PrometheusReader().bridge._created is True
    assert PrometheusReader(created=False).bridge._created is False
