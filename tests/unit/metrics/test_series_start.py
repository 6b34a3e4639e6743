"""Start times of series: never after a sample, and not long before the first one.

Prometheus adds a zero at the time of `_created`. A start later than a sample looks like a reset; one
that is an hour older than the first sample is ignored.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from _meters import points, provider
from opentelemetry.metrics import CallbackOptions, Observation

from genmeter import CustomMetric, MonitorConfig, clock
from genmeter.metrics._cells import START_MARGIN_NS
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from genmeter.testing import IsolatedMonitor

SECOND = 10**9
HOUR = 3_600 * SECOND


class Clock:
    """A clock that only the test advances, in Unix nanoseconds."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of providers."""
    made = Clock()
    monkeypatch.setattr(time, "time_ns", lambda: made.now)
    return made


@pytest.mark.parametrize("kind", ["create_counter", "create_up_down_counter", "create_histogram"])
def test_series_starts_before_a_slow_collection_that_contains_it(kind: str, moved: Clock) -> None:
    """A start during another library's slow callback is moved back permanently."""
    made = provider()
    meter = made.get_meter("other")
    instrument = getattr(meter, kind)("late")
    record = getattr(instrument, "add", None) or instrument.record

    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        moved.now += 5 * SECOND
        record(1)
        return []

    meter.create_observable_gauge("slow", [observe])
    asked = moved.now
    for _ in range(2):
        point = points(made.collect(), "late")[()]
        assert point.start_time_unix_nano == asked - START_MARGIN_NS


def test_observed_series_starts_at_the_last_collection_without_it(moved: Clock) -> None:
    """In the first collection it starts with the provider; later it keeps its start."""
    seen = {"first": 1}

    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, {"label": label}) for label, value in seen.items()]

    start = moved.now - START_MARGIN_NS
    made = provider()
    made.get_meter("genmeter").create_observable_counter("seen", [observe])
    starts = []
    for labels in (["first"], ["first", "late"], ["first"], ["first", "late"]):
        moved.now += HOUR
        seen = dict.fromkeys(labels, 1)
        found = points(made.collect(), "seen")
        starts.append([point.start_time_unix_nano for point in found.values()])
    assert starts == [[start], [start, start + HOUR], [start], [start, start + HOUR]]


def test_observed_series_starts_before_an_overlapping_collection(moved: Clock) -> None:
    """A collection that began early and ends late sees a start before its own beginning."""
    seen: list[Observation] = []
    made = provider()
    (instrument,) = [made.get_meter("genmeter").create_observable_counter("seen", [lambda _: seen])]
    moved.now += HOUR
    early = moved.now - START_MARGIN_NS
    moved.now += 60 * SECOND
    made.collect()
    seen.append(Observation(1))
    observed = instrument.observer.observe(1.0)
    metric = instrument.metric(moved.now, early, observed)
    assert metric.data.data_points[0].start_time_unix_nano == early
    assert points(made.collect(), "seen")[()].start_time_unix_nano == early


def test_series_past_the_limit_start_with_the_provider(moved: Clock) -> None:
    """Changing label sets use no memory; a start that is too early resets nothing."""
    labels = iter(range(100))
    made = provider(cardinality_limit=2)
    made.get_meter("genmeter").create_observable_counter(
        "seen", [lambda _: [Observation(1, {"label": next(labels)})]]
    )
    start = moved.now - START_MARGIN_NS
    starts = []
    for _ in range(4):
        moved.now += HOUR
        (point,) = points(made.collect(), "seen").values()
        starts.append(point.start_time_unix_nano)
    assert starts == [start, start + HOUR, start, start]


def test_token_histograms_start_with_the_first_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They do not start with the model's first call, which may be hours older."""
    early = time.time() - 10_000
    late = early + 7_200
    with isolated_monitor() as monitor:
        monkeypatch.setattr(clock, "now", lambda: early)
        monitor.track_generation(1.0, True, model_name="m")
        monkeypatch.setattr(clock, "now", lambda: late)
        monitor.track_generation(
            1.0, True, model_name="m", prompt_token_count=1, completion_token_count=1
        )
        for kind in ("input", "output"):
            family = f"gen_ai_client_inference_operation_{kind}_tokens"
            assert created(monitor, family) == [pytest.approx(late - 1, abs=0.01)]


@pytest.mark.parametrize("days", [-1, 1])
def test_event_timestamp_does_not_move_the_start(days: int) -> None:
    """A metric recorded with another timestamp starts now."""
    config = MonitorConfig(
        custom_metrics=[
            CustomMetric(name="rows", kind="counter"),
            CustomMetric(name="size", kind="histogram", bounds=(1.0,)),
        ]
    )
    when = datetime.now(UTC) + timedelta(days=days)
    before = time.time()
    with isolated_monitor(config) as monitor:
        for name in ("rows", "size", "other"):
            monitor.record_metric(name, 1.0, {"timestamp": when})
        for family in ("rows", "size", "genmeter_custom_samples"):
            (start,) = created(monitor, family)
            assert before - 2 <= start <= time.time() - 1, family


def created(monitor: IsolatedMonitor, family: str) -> list[float]:
    """Return the start times of a family's series, from OpenMetrics."""
    page = monitor.page(openmetrics=True)
    return [
        float(text)
        for text in re.findall(rf"^{family}_created(?:{{.*}})? (\S+)$", page, re.MULTILINE)
    ]
