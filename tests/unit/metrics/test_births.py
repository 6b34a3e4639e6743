"""When a series begins: never after a sample of it, and not long before the first one.

Prometheus puts a zero at the birth that `_created` tells. One that is later than a sample looks like
a reset; one that is an hour older than the first sample is ignored.
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
    """A clock that only the test moves, in Unix nanoseconds."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that providers read."""
    made = Clock()
    monkeypatch.setattr(time, "time_ns", lambda: made.now)
    return made


@pytest.mark.parametrize("kind", ["create_counter", "create_up_down_counter", "create_histogram"])
def test_a_birth_during_a_slow_collection_is_before_the_collection(kind: str, moved: Clock) -> None:
    """What is recorded while another library's callback takes seconds is dated back, for good."""
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


def test_an_observed_series_is_born_after_the_last_collection_without_it(moved: Clock) -> None:
    """It starts with the provider where the first collection has it, and keeps its start."""
    seen = {"first": 1}

    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, {"label": label}) for label, value in seen.items()]

    born = moved.now - START_MARGIN_NS
    made = provider()
    made.get_meter("genmeter").create_observable_counter("seen", [observe])
    starts = []
    for labels in (["first"], ["first", "late"], ["first"], ["first", "late"]):
        moved.now += HOUR
        seen = dict.fromkeys(labels, 1)
        found = points(made.collect(), "seen")
        starts.append([point.start_time_unix_nano for point in found.values()])
    assert starts == [[born], [born, born + HOUR], [born], [born, born + HOUR]]


def test_an_observed_series_is_not_born_after_an_older_collection(moved: Clock) -> None:
    """A collection that began early and ends late has it from before its own beginning."""
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


def test_starts_that_are_too_many_to_keep_are_the_providers(moved: Clock) -> None:
    """Label sets that come and go cost no memory; a start that is too early resets nothing."""
    labels = iter(range(100))
    made = provider(cardinality_limit=2)
    made.get_meter("genmeter").create_observable_counter(
        "seen", [lambda _: [Observation(1, {"label": next(labels)})]]
    )
    born = moved.now - START_MARGIN_NS
    starts = []
    for _ in range(4):
        moved.now += HOUR
        (point,) = points(made.collect(), "seen").values()
        starts.append(point.start_time_unix_nano)
    assert starts == [born, born + HOUR, born, born]


def test_histograms_of_tokens_are_born_with_the_first_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not with the first call of the model, which may be hours older."""
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
def test_a_timestamp_of_the_callers_is_no_birth(days: int) -> None:
    """A metric that is recorded under another time counts from now on."""
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
            (birth,) = created(monitor, family)
            assert before - 2 <= birth <= time.time() - 1, family


def created(monitor: IsolatedMonitor, family: str) -> list[float]:
    """Return the births of a family's series, as OpenMetrics has them."""
    page = monitor.page(openmetrics=True)
    return [
        float(text)
        for text in re.findall(rf"^{family}_created(?:{{.*}})? (\S+)$", page, re.MULTILINE)
    ]
