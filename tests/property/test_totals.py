"""Totals are exact for any order, drains, threads and windows."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import genmeter.clock
from genmeter import GenerationMonitor, HistoryConfig, MonitorConfig
from genmeter.history.ring import Ring
from genmeter.testing import fresh_runtime, isolated_monitor
from sdk_page import PrometheusReader

if TYPE_CHECKING:
    from genmeter.testing import IsolatedMonitor

START = 1_000_000.0
USAGE = "gen_ai_client_inference_usage"
SETTINGS = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


class Clock:
    """The clock of the calls."""

    def __init__(self) -> None:
        self.now = START

    def read(self) -> float:
        """Return the time."""
        return self.now


class Record(NamedTuple):
    """One call or evaluation, the seconds since the one before, and the read that follows."""

    kind: str
    pause: int
    model: str | None
    step: str | None
    success: bool
    duration: float
    prompt: int | None
    completion: int | None
    total: int | None
    read: str


counts = st.none() | st.integers(0, 2**40)
records = st.builds(
    Record,
    st.sampled_from(["generation", "generation", "generation", "evaluation"]),
    st.integers(0, 120),
    st.sampled_from(["a", "b", "c", None]),
    st.sampled_from(["x", "y", None]),
    st.booleans(),
    st.floats(0, 1e6),
    counts,
    counts,
    counts,
    st.sampled_from(["", "", "", "report", "page", "flush", "metrics"]),
)
programs = st.lists(records, max_size=40)


def total_of(each: Record) -> int | None:
    """Return a call's total tokens: as recorded, else the sum of both parts."""
    if each.total is None and (each.prompt, each.completion) != (None, None):
        return (each.prompt or 0) + (each.completion or 0)
    return each.total


class Reference:
    """The same sums, computed from a plain list of all records."""

    def __init__(self) -> None:
        self.events: list[tuple[float, Record, str]] = []
        self._by_step: dict[str | None, str] = {}
        self._seen: set[str] = set()

    def record(self, now: float, each: Record) -> None:
        """Keep the record, with the model that it belongs to."""
        model = each.model
        if model is None:
            model = self._inferred(each)
        elif each.kind == "generation":
            self._by_step[each.step] = model
            self._seen.add(model)
        self.events.append((now, each, model))

    def _inferred(self, each: Record) -> str:
        """Return the model of a call without one: known only for failures without tokens."""
        if each.kind != "generation" or each.success or total_of(each):
            return "unknown"
        only = next(iter(self._seen)) if len(self._seen) == 1 else "unknown"
        return self._by_step.get(each.step, only)

    def tokens(self, since: float = 0.0) -> dict[str, tuple[int, int, int]]:
        """Sum prompt, completion and total by model."""
        sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for when, each, model in self.events:
            total = total_of(each)
            if when >= since and total is not None:
                for index, count in enumerate((each.prompt or 0, each.completion or 0, total)):
                    sums[model][index] += count
        return {model: tuple(row) for model, row in sums.items()}  # type: ignore[misc]

    def values(self, name: str, since: float) -> list[float]:
        """Return the values of a metric in a window."""
        give: dict[str, Any] = {
            "generation_time": lambda e: e.duration,
            "success_rate": lambda e: float(e.success),
            "error_rate": lambda e: float(not e.success),
            "evaluation_time": lambda e: e.duration,
            "evaluation_error_rate": lambda e: float(not e.success),
            "prompt_token_count": lambda e: e.prompt,
            "completion_token_count": lambda e: e.completion,
        }
        only = {"evaluation_time": "evaluation", "evaluation_error_rate": "evaluation"}
        kinds = (
            {"generation", "evaluation"}
            if name.endswith("token_count")
            else {only.get(name, "generation")}
        )
        found = [
            give[name](each) for w, each, _ in self.events if w >= since and each.kind in kinds
        ]
        return [value for value in found if value is not None]


def record(monitor: GenerationMonitor, each: Record) -> None:
    """Record with the monitor."""
    keywords = {
        "model_name": each.model,
        "step": each.step,
        "prompt_token_count": each.prompt,
        "completion_token_count": each.completion,
        "total_token_count": each.total,
    }
    if each.kind == "generation":
        monitor.track_generation(each.duration, each.success, **keywords)
    else:
        monitor.track_evaluation(each.duration, each.success, "e", {}, **keywords)


def reported(monitor: GenerationMonitor, window: timedelta | None = None) -> dict[str, Any]:
    """Return the report in the form of the reference."""
    return {
        each.model_name: (each.prompt_tokens, each.completion_tokens, each.total_tokens)
        for each in monitor.get_total_token_usage(window).by_model
    }


def scraped(page: str) -> dict[str, Any]:
    """Return the token counters of a page in the form of the reference."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    names = (f"{USAGE}_input_tokens_total", f"{USAGE}_output_tokens_total", "genmeter_tokens_total")
    for line in page.splitlines():
        name, _, rest = line.partition("{")
        if name in names:
            model = rest.split('gen_ai_request_model="')[1].split('"')[0]
            sums[model][name] += int(line.rsplit(" ", 1)[1].removesuffix(".0"))
    found = {model: tuple(row[name] for name in names) for model, row in sums.items()}
    return {model: row for model, row in found.items() if any(row)}


def not_zero(tokens: dict[str, Any]) -> dict[str, Any]:
    """Drop models without tokens, since a counter at 0 may or may not have a record."""
    return {model: row for model, row in tokens.items() if any(row)}


def read(monitor: IsolatedMonitor, method: str) -> None:
    """Read in between, which drains."""
    if method == "report":
        monitor.get_total_token_usage()
    elif method == "page":
        monitor.page()
    elif method == "flush":
        monitor.flush()
    elif method == "metrics":
        monitor.get_metrics("generation_time")


@SETTINGS
@given(programs, st.integers(1, 5_000))
def test_report_counters_and_windows_equal_the_sum_of_the_events(
    program: list[Record], seconds: int
) -> None:
    """Report, page and summaries are exact, with any reads in between."""
    reference, clock = Reference(), Clock()
    with (
        mock.patch.object(genmeter.clock, "now", clock.read),
        isolated_monitor() as monitor,
    ):
        for each in program:
            clock.now += each.pause
            record(monitor, each)
            reference.record(clock.now, each)
            read(monitor, each.read)
        assert reported(monitor) == reference.tokens()
        # Counters are exposed as floats: exact up to 2**53, and so are 40 counts of 2**40.
        assert scraped(monitor.page()) == not_zero(reference.tokens())
        window = timedelta(seconds=seconds)
        assert reported(monitor, window) == reference.tokens(clock.now - seconds)
        for name in ("generation_time", "success_rate", "error_rate", "prompt_token_count",
                     "completion_token_count", "evaluation_time", "evaluation_error_rate"):  # fmt: skip
            check_summary(monitor.get_metrics(name, window), reference, name, clock.now - seconds)


def check_summary(found: dict[str, float], reference: Reference, name: str, since: float) -> None:
    """Compare a summary with the reference."""
    values = reference.values(name, since)
    if not reference.values(name, 0.0):
        assert found == {"mean": 0.0, "min": 0.0, "max": 0.0, "count": 0}
    elif not values:
        assert found == {}
    else:
        assert found == {
            "mean": pytest.approx(sum(values) / len(values)),
            "min": min(values),
            "max": max(values),
            "count": len(values),
        }


@SETTINGS
@given(st.permutations(range(12)), programs)
def test_order_of_calls_does_not_change_their_sum(order: list[int], program: list[Record]) -> None:
    """This holds for calls with models."""
    program = [each._replace(model=each.model or "m") for each in program[:12]]
    shuffled = [program[index] for index in order if index < len(program)]
    results = []
    for calls in (program, shuffled):
        with isolated_monitor() as monitor:
            for each in calls:
                record(monitor, each)
            results.append((reported(monitor), scraped(monitor.page())))
    assert results[0] == results[1]


@settings(SETTINGS, max_examples=12)
@given(st.lists(programs, min_size=2, max_size=4), st.booleans())
def test_totals_of_several_threads_are_exact(mix: list[list[Record]], both: bool) -> None:
    """They record with one or two monitors while another thread reads."""
    with fresh_runtime() as runtime:
        reader = PrometheusReader(target_info=False)
        config = MonitorConfig(meter_provider=_provider(reader))
        monitors = [GenerationMonitor(config=config) for _ in range(1 + both)]

        def work(number: int, program: list[Record]) -> None:
            for each in program * 5:
                record(monitors[number % len(monitors)], each._replace(model=each.model or "m"))

        threads = [threading.Thread(target=work, args=pair) for pair in enumerate(mix)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            monitors[0].get_total_token_usage()
            reader.render(openmetrics=False)
        for thread in threads:
            thread.join()
        expected: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for program in mix:
            reference = Reference()
            for each in program * 5:
                reference.record(0.0, each._replace(model=each.model or "m"))
            for model, row in reference.tokens().items():
                expected[model] = [a + b for a, b in zip(expected[model], row, strict=True)]
        wanted = {model: tuple(row) for model, row in expected.items()}
        everything = runtime.token_usage(None)
        assert {
            each.model_name: (each.prompt_tokens, each.completion_tokens, each.total_tokens)
            for each in everything.by_model
        } == wanted
        page = reader.render(openmetrics=False).decode()
        assert scraped(page) == not_zero(wanted)
        assert len(runtime.require_pipeline().inbox) == 0


def _provider(reader: PrometheusReader) -> Any:
    from opentelemetry.sdk.metrics import MeterProvider

    return MeterProvider([reader], shutdown_on_exit=False)


@SETTINGS
@given(
    st.integers(1, 2_500),
    st.lists(st.one_of(st.integers(1, 1_200), st.just(0)), max_size=8),
)
def test_ring_never_grows_past_its_capacity(capacity: int, batches: list[int]) -> None:
    """It keeps exactly the last rows, whenever it is read."""
    ring = Ring((("time", "q"),), capacity)
    rows: list[int] = []
    for batch in batches:
        for _ in range(batch):
            rows.append(len(rows))
            ring.append(rows[-1])
        (column,) = ring.columns("time")
        assert len(column) == ring.size <= capacity
        assert list(column[ring.in_order()]) == rows[-capacity:]


@SETTINGS
@given(st.integers(1, 20), programs)
def test_history_keeps_exactly_its_capacity_of_events(capacity: int, program: list[Record]) -> None:
    """A window has the last events, and is incomplete if it reaches further back."""
    program = [each._replace(model=each.model or "m") for each in program]
    reference, clock = Reference(), Clock()
    config = MonitorConfig(history=HistoryConfig(capacity=capacity))
    with (
        mock.patch.object(genmeter.clock, "now", clock.read),
        isolated_monitor(config) as monitor,
    ):
        for each in program:
            clock.now += 1
            record(monitor, each)
            reference.record(clock.now, each)
        hour = timedelta(hours=1)
        report = monitor.get_total_token_usage(hour)
        assert reported(monitor) == reference.tokens()
        assert reported(monitor, hour) == reference.tokens(clock.now - capacity + 1)
        assert report.complete == (len(program) <= capacity)
        assert monitor._session.history.size <= capacity
