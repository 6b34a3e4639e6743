"""The bridge: the metrics of a page."""

from __future__ import annotations

import inspect
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parse_text

from genmeter.errors import ConfigError
from genmeter.exporters._families import label_pairs
from genmeter.exporters.prometheus import PrometheusBridge
from sdk_page import PrometheusReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Meter

Bridge = tuple[PrometheusReader, MeterProvider]


@pytest.fixture
def make() -> Iterable[Callable[..., Bridge]]:
    """Return a factory of readers, whose providers are shut down at the end."""
    providers: list[MeterProvider] = []

    def build(*, views: Any = (), resource: Resource | None = None, **arguments: Any) -> Bridge:
        reader = PrometheusReader(**{"target_info": False, **arguments})
        provider = MeterProvider(
            metric_readers=[reader],
            views=views,
            resource=resource or Resource({}),
            shutdown_on_exit=False,
        )
        providers.append(provider)
        return reader, provider

    yield build
    for provider in providers:
        provider.shutdown()


@pytest.fixture
def bridge(make: Callable[..., Bridge]) -> Bridge:
    """Return a reader and its provider."""
    return make()


@pytest.fixture
def meter(bridge: Bridge) -> Meter:
    """Return genmeter's meter."""
    return bridge[1].get_meter("genmeter")


def samples(reader: PrometheusReader) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return each sample of an OpenMetrics page except start times; none may repeat."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(reader.render(True).decode()):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in found
                found[key] = sample.value
    return found


def series(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    """Return the key of a sample in `samples`."""
    return name, frozenset(labels.items())


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return genmeter's log lines, which must all be warnings."""
    lines = [record for record in caplog.records if record.name == "genmeter"]
    assert {record.levelname for record in lines} <= {"WARNING"}
    return [record.getMessage() for record in lines]


def test_each_kind_of_instrument_has_its_type(bridge: Bridge, meter: Meter) -> None:
    """Counters stay counters, sums that can drop are gauges, histograms stay histograms."""
    meter.create_counter("calls").add(1)
    meter.create_up_down_counter("active").add(-2)
    meter.create_gauge("temperature").set(3.5)
    meter.create_histogram("size", "By").record(4)
    families = text_string_to_metric_families(bridge[0].render(True).decode())
    assert {family.name: family.type for family in families} == {
        "calls": "counter",
        "active": "gauge",
        "temperature": "gauge",
        "size_bytes": "histogram",
    }


def test_scopes_with_one_metric_name_keep_their_labels(bridge: Bridge) -> None:
    """Their points share a family, each with its own keys."""
    reader, provider = bridge
    provider.get_meter("genmeter").create_counter("gen_ai.tokens").add(
        1, {"model": "m", "step": "s"}
    )
    foreign = provider.get_meter("other", "1.2", "https://schema", {"team": "x"})
    foreign.create_counter("gen_ai.tokens").add(2, {"provider": "p", "model": "m"})
    page = reader.render(True).decode()
    assert page.count("# TYPE gen_ai_tokens counter") == 1
    assert samples(reader) == {
        series("gen_ai_tokens_total", model="m", step="s"): 1,
        series(
            "gen_ai_tokens_total",
            model="m",
            provider="p",
            otel_scope_name="other",
            otel_scope_version="1.2",
            otel_scope_schema_url="https://schema",
            otel_scope_team="x",
        ): 2,
    }


def test_a_conflict_of_types_keeps_the_first(
    bridge: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    """The second type is dropped with one warning."""
    reader, provider = bridge
    provider.get_meter("genmeter").create_up_down_counter("load").add(1)
    provider.get_meter("other").create_histogram("load").record(2)
    for _ in range(3):
        assert samples(reader) == {series("load"): 1}
    assert warnings_of(caplog) == [
        (
            "dropped the histogram 'load': it has series of the same name as the gauge 'load'; rename "
            "one of the two instruments"
        )
    ]


def test_each_conflict_has_a_warning(bridge: Bridge, caplog: pytest.LogCaptureFixture) -> None:
    """One warning does not hide those of other metrics, or of other kinds."""
    reader, provider = bridge
    own, other = provider.get_meter("genmeter"), provider.get_meter("other")
    for name in ("load", "size"):
        own.create_up_down_counter(name).add(1)
        other.create_histogram(name).record(2)
    other.create_counter("load").add(3)
    for name in ("calls", "tries"):
        own.create_observable_counter(name, [lambda _: [Observation(-1)]])
        other.create_counter(f"good_{name}").add(1, {"k": "1"})
        other.create_counter(f"good_{name}").add(1, {"k": 1})
    for _ in range(2):
        reader.render(True)
    assert sorted(text.partition("; ")[0] for text in warnings_of(caplog)) == [
        "dropped the counter 'calls' with the value -1: must be at least 0",
        "dropped the counter 'load': it has series of the same name as the gauge 'load'",
        "dropped the counter 'tries' with the value -1: must be at least 0",
        "dropped the histogram 'load': it has series of the same name as the gauge 'load'",
        "dropped the histogram 'size': it has series of the same name as the gauge 'size'",
        *(
            f"the metric 'good_{name}' has two points with the labels "
            '{k="1",otel_scope_name="other"}'
            for name in ("calls", "tries")
        ),
    ]


@pytest.mark.parametrize("suffix", ["_count", "_sum", "_bucket", "_created"])
def test_a_gauge_named_like_a_histogram_series_is_dropped(
    bridge: Bridge, meter: Meter, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The page stays valid."""
    meter.create_histogram("wait").record(1)
    meter.create_gauge(f"wait{suffix}").set(1)
    assert series("wait_count") in samples(bridge[0])
    assert "dropped" in caplog.text


def test_an_exponential_histogram_is_dropped_with_one_warning(
    make: Callable[..., Bridge], caplog: pytest.LogCaptureFixture
) -> None:
    """The rest of the page stays."""
    view = View(instrument_name="wide", aggregation=ExponentialBucketHistogramAggregation())
    reader, provider = make(views=[view])
    meter = provider.get_meter("genmeter")
    meter.create_histogram("wide").record(1)
    meter.create_counter("calls").add(1)
    for _ in range(2):
        assert samples(reader) == {series("calls_total"): 1}
    assert warnings_of(caplog) == [
        (
            "dropped the metric 'wide': the Prometheus text formats have no ExponentialHistogram; add a "
            "view with an ExplicitBucketHistogramAggregation for its instrument"
        )
    ]


def test_force_flush_adds_no_samples(bridge: Bridge, meter: Meter) -> None:
    """A flush neither repeats nor keeps samples."""
    meter.create_counter("calls").add(1)
    for _ in range(3):
        assert bridge[0].force_flush()
        assert bridge[1].force_flush()
    assert bridge[0]._received is None
    assert samples(bridge[0]) == {series("calls_total"): 1}


def test_shutdown_is_idempotent(bridge: Bridge, meter: Meter) -> None:
    """Later pages are empty."""
    meter.create_counter("calls").add(1)
    bridge[0].shutdown()
    bridge[0].shutdown(timeout_millis=1)
    assert bridge[0].render(False) == b""
    assert bridge[0].render(True) == b"# EOF\n"
    assert list(bridge[0].collector.collect()) == []


def test_a_reader_without_metrics_has_an_empty_page(bridge: Bridge) -> None:
    """The empty page is valid."""
    assert bridge[0].render(True) == b"# EOF\n"


def test_lone_surrogates_are_replaced(make: Callable[..., Bridge]) -> None:
    """Text that is not UTF-8 breaks neither format."""
    reader, provider = make(target_info=True, resource=Resource({"host": "h\ud800"}))
    meter = provider.get_meter("sc\udfffope")
    meter.create_counter("calls", description="help \ud800").add(1, {"k": "a\ud912b", "é": "ü"})
    page = reader.render(True).decode()
    assert 'k="a\ufffdb"' in page
    assert 'otel_scope_name="sc\ufffdope"' in page
    assert "help \ufffd" in page
    assert 'host="h\ufffd"' in page
    registry = CollectorRegistry()
    registry.register(reader.collector)
    assert 'k="a\ufffdb"' in generate_latest(registry).decode()


def test_values_of_colliding_keys_are_joined(bridge: Bridge, meter: Meter) -> None:
    """They are in the order of the keys."""
    meter.create_counter("calls").add(1, {"a_b": "3", "a.b": "2", "a-b": "1"})
    assert samples(bridge[0]) == {series("calls_total", a_b="1;2;3"): 1}


def test_values_that_are_not_strings_are_json(bridge: Bridge, meter: Meter) -> None:
    """Equal values of different types stay apart."""
    counter = meter.create_counter("calls")
    counter.add(1, {"v": True})
    counter.add(2, {"v": ("a", "b")})
    counter.add(4, {"v": 1.5})
    assert samples(bridge[0]) == {
        series("calls_total", v="true"): 1,
        series("calls_total", v='["a","b"]'): 2,
        series("calls_total", v="1.5"): 4,
    }


class Hostile:
    """A value whose repr raises."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def test_unprintable_values_show_their_type() -> None:
    """They do not cost the page."""
    assert label_pairs([("k", Hostile()), ("l", {(1, 2): 3}), ("m", None)]) == (
        ("k", "<Hostile>"),
        ("l", "<dict>"),
    )


def test_keys_of_other_types_may_collide() -> None:
    """Their values are not compared."""
    assert label_pairs([("1", "a"), (1, {"b": 1})]) == (("_1", 'a;{"b":1}'),)  # type: ignore[list-item]


def test_empty_values_are_dropped(bridge: Bridge, meter: Meter) -> None:
    """Prometheus treats an empty label as absent."""
    meter.create_counter("calls").add(1, {"k": "", "l": "x"})
    assert samples(bridge[0]) == {series("calls_total", l="x"): 1}


def test_duplicate_series_are_dropped(
    bridge: Bridge, meter: Meter, caplog: pytest.LogCaptureFixture
) -> None:
    """Points with the same labels cause one sample and one warning."""
    counter = meter.create_counter("calls")
    counter.add(1, {"k": "1"})
    counter.add(2, {"k": 1})
    counter.add(4, {"k": ""})
    counter.add(8)
    for _ in range(2):
        assert samples(bridge[0]) == {series("calls_total", k="1"): 1, series("calls_total"): 4}
    assert warnings_of(caplog) == [
        (
            "the metric 'calls' has two points with the labels {k=\"1\"}; only the first is exposed; "
            "rename one instrument or attribute"
        )
    ]


def test_warning_of_duplicate_series_is_one_short_line(
    bridge: Bridge, meter: Meter, caplog: pytest.LogCaptureFixture
) -> None:
    """Another instrumentation's attributes can neither fill the log nor change its terminal."""
    counter = meter.create_counter("calls")
    for value in (True, "true"):
        counter.add(1, {"a": "\x1b[31m\r", "b": "x" * 5_000, "k": value})
    samples(bridge[0])
    (said,) = [each.getMessage() for each in caplog.records]
    assert 'labels {a=" [31m ",b="xxx' in said
    assert len(said) < 500


def test_instruments_with_one_translated_name_share_a_family(bridge: Bridge, meter: Meter) -> None:
    """Their names may differ before the translation."""
    meter.create_counter("a.b").add(1, {"k": "1"})
    meter.create_counter("a-b").add(2, {"k": "2"})
    assert samples(bridge[0]) == {series("a_b_total", k="1"): 1, series("a_b_total", k="2"): 2}


def test_views_with_one_name_share_a_family(make: Callable[..., Bridge]) -> None:
    """They do not repeat a series."""
    views = [View(instrument_name="calls", description=text) for text in ("one", "two")]
    reader, provider = make(views=views)
    provider.get_meter("genmeter").create_counter("calls").add(1, {"k": "v"})
    for _ in range(2):
        assert samples(reader) == {series("calls_total", k="v"): 1}


def test_an_attribute_named_le_does_not_break_buckets(bridge: Bridge, meter: Meter) -> None:
    """It is renamed, since the bound has that label."""
    histogram = meter.create_histogram("wait", explicit_bucket_boundaries_advisory=[1])
    histogram.record(0.5, {"le": "x"})
    assert samples(bridge[0]) == {
        series("wait_bucket", exported_le="x", le="1.0"): 1,
        series("wait_bucket", exported_le="x", le="+Inf"): 1,
        series("wait_count", exported_le="x"): 1,
        series("wait_sum", exported_le="x"): 0.5,
    }


def test_negative_counters_are_dropped(
    bridge: Bridge, meter: Meter, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest of the page stays, and one warning is logged."""

    def observe(options: CallbackOptions) -> list[Observation]:
        return [Observation(-1, {"k": "bad"}), Observation(1, {"k": "good"})]

    meter.create_observable_counter("calls", [observe])
    for _ in range(2):
        assert samples(bridge[0]) == {series("calls_total", k="good"): 1}
    assert warnings_of(caplog) == [
        "dropped the counter 'calls' with the value -1: must be at least 0"
    ]


def test_target_info_has_the_resource_attributes(make: Callable[..., Bridge]) -> None:
    """Both formats have it."""
    reader, provider = make(target_info=True, resource=Resource({"service.name": "job"}))
    provider.get_meter("genmeter").create_counter("calls").add(1)
    for _ in range(2):
        assert samples(reader)[series("target_info", service_name="job")] == 1
    families = {family.name: family for family in parse_text(reader.render(False).decode())}
    assert families["target_info"].type == "gauge"
    assert families["target_info"].documentation == "Target metadata"
    assert families["target_info"].samples[0].labels == {"service_name": "job"}


def test_a_resource_without_attributes_has_no_target_info(make: Callable[..., Bridge]) -> None:
    """An empty resource is not exposed."""
    reader, provider = make(target_info=True)
    provider.get_meter("genmeter").create_counter("calls").add(1)
    assert "target" not in reader.render(True).decode()


def test_help_comes_from_the_first_scope_with_one(bridge: Bridge) -> None:
    """Two scopes may feed one family."""
    reader, provider = bridge
    provider.get_meter("genmeter").create_counter("calls").add(1)
    provider.get_meter("other").create_counter("calls", description="How many").add(1)
    assert "# HELP calls How many\n" in reader.render(True).decode()


def test_the_reader_limits_label_sets(make: Callable[..., Bridge]) -> None:
    """Further label sets are counted together if the SDK supports limits (1.45.2)."""
    reader, provider = make(cardinality_limit=3)
    counter = provider.get_meter("genmeter").create_counter("calls")
    for index in range(10):
        counter.add(1, {"k": str(index)})
    found = samples(reader)
    has_limits = "cardinality_limits" in inspect.signature(MetricReader.__init__).parameters
    overflow = found.get(series("calls_total", otel_metric_overflow="true"))
    assert (overflow, len(found)) == ((7, 4) if has_limits else (None, 10))


def test_an_sdk_without_limits_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader gets no limit."""

    def old(self: MetricReader, preferred_temporality: Any = None) -> None:
        self._collect = None

    monkeypatch.setattr(MetricReader, "__init__", old)
    assert PrometheusReader(cardinality_limit=5).force_flush()


def test_an_invalid_timeout_is_an_error() -> None:
    """The error has the argument and the value."""
    with pytest.raises(ConfigError, match="timeout must be seconds above 0, got 0"):
        PrometheusBridge(lambda _: None, timeout=0)


def test_a_failed_collection_raises(bridge: Bridge, meter: Meter) -> None:
    """The next page is complete again."""
    meter.create_counter("calls").add(1)
    bridge[0]._collect, original = fails(bridge[0]._collect), bridge[0]._collect
    with pytest.raises(TimeoutError):
        bridge[0].render(False)
    bridge[0]._collect = original
    assert not bridge[0].collection_lock.locked()
    assert samples(bridge[0]) == {series("calls_total"): 1}


def fails(collect: Any) -> Any:
    """Return a collection that raises like the SDK's when a callback takes too long."""

    def call(*args: Any, **kwargs: Any) -> None:
        raise TimeoutError("Timed out while executing callback")

    return call


def test_a_scrape_beside_a_hanging_collection_times_out(make: Callable[..., Bridge]) -> None:
    """It raises in time."""
    reader, _ = make(timeout=0.01)
    with reader.collection_lock, pytest.raises(TimeoutError, match="hangs"):
        reader.render(True)


def test_concurrent_scrapes_are_complete(bridge: Bridge, meter: Meter) -> None:
    """Scrapes of many threads each have every series."""
    counter = meter.create_counter("calls")
    for index in range(50):
        counter.add(1, {"k": str(index)})
    pages: list[bytes] = []

    def scrape() -> None:
        pages.extend(bridge[0].render(False) for _ in range(10))

    threads = [threading.Thread(target=scrape) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(pages) == 40
    assert {page.count(b"\ncalls_total{") for page in pages} == {50}


def test_the_label_cache_keeps_only_live_points(bridge: Bridge, meter: Meter) -> None:
    """It never grows past the SDK's points."""
    counter = meter.create_counter("calls")
    for index in range(5):
        counter.add(1, {"k": str(index)})
    for _ in range(3):
        bridge[0].render(True)
    before = known_labels(bridge[0])
    bridge[0].render(False)
    after = known_labels(bridge[0])
    assert len(after) == 5
    assert all(after[key] is labels for key, labels in before.items())
    bridge[0].render(False, ["other_total"])
    assert known_labels(bridge[0]) == after


def known_labels(reader: PrometheusReader) -> dict[int, Any]:
    """Return the cached labels of the last page of one instrument."""
    (cache,) = reader.bridge._translator._caches.values()
    return dict(cache.known)


def test_registering_does_not_collect(bridge: Bridge, meter: Meter) -> None:
    """A registry may ask a collector for its names."""
    collected = []
    meter.create_observable_gauge("load", [lambda options: collected.append(1) or []])
    registry = CollectorRegistry(auto_describe=True)
    registry.register(bridge[0].collector)
    assert collected == []
    generate_latest(registry)
    assert collected == [1]


def test_a_valid_page_logs_nothing(
    bridge: Bridge, meter: Meter, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no warning."""
    with caplog.at_level(logging.DEBUG, "genmeter"):
        meter.create_counter("calls").add(1, {"k": "v"})
        bridge[0].render(True)
    assert caplog.records == []


def test_a_bridge_accepts_any_collect_function(bridge: Bridge, meter: Meter) -> None:
    """It is called with the seconds that it may take."""
    meter.create_counter("calls").add(1)
    data = bridge[0].collect_data(5)
    asked: list[float] = []

    def collect(timeout: float) -> Any:
        asked.append(timeout)
        return data

    own = PrometheusBridge(collect, target_info=False, timeout=3)
    assert own.render(False) == bridge[0].render(False)
    assert [family.name for family in own.collect_families()] == ["calls"]
    assert asked == [3, 3]
    assert PrometheusBridge(lambda _: None).render(True) == b"# EOF\n"


def test_pages_are_collected_concurrently(bridge: Bridge, meter: Meter) -> None:
    """A hanging collection does not block other pages."""
    meter.create_counter("calls").add(1, {"k": "v"})
    data = bridge[0].collect_data(5)
    first, go = threading.Event(), threading.Event()

    def collect(timeout: float) -> Any:
        if not first.is_set():
            first.set()
            assert go.wait(60)
        return data

    own = PrometheusBridge(collect)
    pages: list[bytes] = []
    thread = threading.Thread(target=lambda: pages.append(own.render(False)))
    thread.start()
    assert first.wait(60)
    page = own.render(False)
    go.set()
    thread.join(60)
    assert pages == [page]


def test_a_child_does_not_inherit_a_held_lock(bridge: Bridge, meter: Meter) -> None:
    """The parent may fork during a collection."""
    meter.create_counter("calls").add(1)
    bridge[0].render(False)
    bridge[0].collection_lock.acquire()
    bridge[0].after_fork_in_child()
    assert bridge[0].bridge._translator._caches == {}
    assert samples(bridge[0]) == {series("calls_total"): 1}


def test_a_restarted_series_has_a_new_created(bridge: Bridge, meter: Meter) -> None:
    """The attributes may be the same object."""
    meter.create_counter("calls").add(1, {"k": "v"})
    data = bridge[0].collect_data(5)
    (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    own = PrometheusBridge(lambda _: data)
    own.render(True)
    object.__setattr__(point, "start_time_unix_nano", 5 * 10**9)
    assert b'calls_created{k="v"} 5.0\n' in own.render(True)


@pytest.mark.parametrize(
    ("name", "unit", "kind"),
    [
        ("seconds", "s", "counter"),
        ("ratio", "1", "gauge"),
        ("bytes", "By", "histogram"),
        ("wait", "s", "counter"),
        ("wait.seconds", "s", "gauge"),
    ],
)
def test_a_name_equal_to_its_unit_has_no_unit_line(
    bridge: Bridge, meter: Meter, name: str, unit: str, kind: str
) -> None:
    """OpenMetrics would reject the page."""
    instrument = getattr(meter, f"create_{kind}")(name, unit)
    getattr(instrument, {"gauge": "set", "histogram": "record"}.get(kind, "add"))(1)
    page = bridge[0].render(True).decode()
    (family,) = text_string_to_metric_families(page)
    assert family.name.endswith(f"_{family.unit}") or not family.unit
    assert page.count("# UNIT") == name.startswith("wait")
    (metric,) = bridge[0].bridge.collect_families()
    assert metric.unit == family.unit


@pytest.mark.parametrize(
    ("attributes", "labels"),
    [
        ({"le": "a", "exported_le": "b"}, {"exported_exported_le": "a", "exported_le": "b"}),
        ({"le": "a", "exported.le": "b"}, {"exported_exported_le": "a", "exported_le": "b"}),
        (
            {"le": "a", "exported_le": "b", "exported_exported_le": "c"},
            {"exported_exported_exported_le": "a", "exported_le": "b", "exported_exported_le": "c"},
        ),
    ],
)
def test_renamed_labels_stay_unique(
    bridge: Bridge, meter: Meter, attributes: dict[str, str], labels: dict[str, str]
) -> None:
    """The new name of `le` is one that no other label has."""
    meter.create_histogram("wait", explicit_bucket_boundaries_advisory=[1]).record(2, attributes)
    assert samples(bridge[0])[series("wait_sum", **labels)] == 2
    assert series("wait_bucket", le="+Inf", **labels) in samples(bridge[0])


def test_scope_attributes_do_not_override_scope_labels(bridge: Bridge) -> None:
    """Name, version and schema URL of the scope win."""
    attributes = {"name": "x", "version": "x", "schema.url": "x", "schema_url": "x", "team": "t"}
    named = bridge[1].get_meter("lib", "1", "https://schema", attributes)
    named.create_counter("calls").add(1)
    bridge[1].get_meter("bare", attributes=attributes).create_counter("calls").add(2)
    assert samples(bridge[0]) == {
        series(
            "calls_total",
            otel_scope_name="lib",
            otel_scope_version="1",
            otel_scope_schema_url="https://schema",
            otel_scope_team="t",
        ): 1,
        series("calls_total", otel_scope_name="bare", otel_scope_team="t"): 2,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"\xff\xfeabc", "//5hYmM="),
        (bytearray(b"a"), "YQ=="),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        ([1.5, float("nan"), float("inf"), float("-inf")], '[1.5,"NaN","Infinity","-Infinity"]'),
        ([b"a", None], '["YQ==",null]'),
        ({"a": (b"a", float("nan"))}, '{"a":["YQ==","NaN"]}'),
        (b"", None),
    ],
)
def test_values_are_valid_json_or_base64(value: Any, text: str | None) -> None:
    """Bytes are Base64, and an array has no number that JSON lacks."""
    assert dict(label_pairs([("k", value)])).get("k") == text


def test_a_recursive_value_shows_its_type() -> None:
    """It does not cost the page."""
    value: list[Any] = []
    value.append(value)
    assert label_pairs([("k", value)]) == (("k", "<list>"),)


def test_help_conflicts_warn_once(bridge: Bridge, caplog: pytest.LogCaptureFixture) -> None:
    """The first help text is used."""
    for scope, text in (("a", "the first"), ("b", ""), ("c", "another"), ("d", "a third")):
        bridge[1].get_meter(scope).create_counter("calls", "", text).add(1)
    for openmetrics in (True, False):
        page = bridge[0].render(openmetrics).decode()
        assert page.count("# HELP calls") == 1
        assert "the first\n" in page
    assert warnings_of(caplog) == [
        (
            "several instruments are exposed as 'calls' with different values of help: 'the first' is "
            "used, 'another' is ignored; use one text for all of them, or rename an instrument"
        )
    ]


def test_unit_conflicts_warn_once(bridge: Bridge, caplog: pytest.LogCaptureFixture) -> None:
    """The first unit is used."""
    bridge[1].get_meter("a").create_gauge("x", "By/s").set(1)
    bridge[1].get_meter("b").create_gauge("x.bytes", "{a}/s").set(2)
    bridge[1].get_meter("c").create_gauge("x.bytes.per.second").set(3)
    for _ in range(2):
        assert len(samples(bridge[0])) == 3
        page = bridge[0].render(True).decode()
        assert "# UNIT x_bytes_per_second bytes_per_second\n" in page
    (record,) = caplog.records
    assert "'x_bytes_per_second'" in record.getMessage()
    assert "unit" in record.getMessage()


def test_a_percent_sign_in_a_warning_is_kept(
    bridge: Bridge, caplog: pytest.LogCaptureFixture
) -> None:
    """A help text is never a log template."""
    for scope, text in (("a", "100 %s"), ("b", "%d")):
        bridge[1].get_meter(scope).create_counter("calls", "", text).add(1)
    bridge[0].render(False)
    assert "'100 %s' is used, '%d' is ignored" in caplog.text
