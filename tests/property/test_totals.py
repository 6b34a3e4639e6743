"""Totals: whatever the order, the drains, the threads and the windows, nothing is lost or doubled."""

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
    """The time that calls are told at."""

    def __init__(self) -> None:
        self.now = START

    def read(self) -> float:
        """Tell the time."""
        return self.now


class Told(NamedTuple):
    """One call or evaluation, how long after the one before it was told, and what is read next."""

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
told = st.builds(
    Told,
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
programs = st.lists(told, max_size=40)


def total_of(each: Told) -> int | None:
    """Return a call's total tokens: as given, else the two parts together."""
    if each.total is None and (each.prompt, each.completion) != (None, None):
        return (each.prompt or 0) + (each.completion or 0)
    return each.total


class Reference:
    """The same sums by the plainest means: a list of all that was told."""

    def __init__(self) -> None:
        self.events: list[tuple[float, Told, str]] = []
        self._by_step: dict[str | None, str] = {}
        self._seen: set[str] = set()

    def tell(self, now: float, each: Told) -> None:
        """Keep it, with the model that it counts for."""
        model = each.model
        if model is None:
            model = self._inferred(each)
        elif each.kind == "generation":
            self._by_step[each.step] = model
            self._seen.add(model)
        self.events.append((now, each, model))

    def _inferred(self, each: Told) -> str:
        """Return the model of a call that names none: known only where it failed without tokens."""
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
        """Give a metric's values in a window."""
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


def tell(monitor: GenerationMonitor, each: Told) -> None:
    """Tell the monitor."""
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
    """Give the report as the reference has it."""
    return {
        each.model_name: (each.prompt_tokens, each.completion_tokens, each.total_tokens)
        for each in monitor.get_total_token_usage(window).by_model
    }


def scraped(page: str) -> dict[str, Any]:
    """Give the token counters of a page as the reference has them."""
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
    """Leave out models that used nothing: a counter at 0 does not say whether anything was told."""
    return {model: row for model, row in tokens.items() if any(row)}


def read(monitor: IsolatedMonitor, how: str) -> None:
    """Read in between, which drains."""
    if how == "report":
        monitor.get_total_token_usage()
    elif how == "page":
        monitor.page()
    elif how == "flush":
        monitor.flush()
    elif how == "metrics":
        monitor.get_metrics("generation_time")


@SETTINGS
@given(programs, st.integers(1, 5_000))
def test_report_counters_and_windows_equal_the_sum_of_the_events(
    program: list[Told], seconds: int
) -> None:
    """Whatever is read in between, report, page and every summary equal the plain sums."""
    reference, clock = Reference(), Clock()
    with (
        mock.patch.object(genmeter.clock, "now", clock.read),
        isolated_monitor() as monitor,
    ):
        for each in program:
            clock.now += each.pause
            tell(monitor, each)
            reference.tell(clock.now, each)
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
    """Compare a summary with the plain one."""
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
def test_the_order_of_the_calls_does_not_change_their_sum(
    order: list[int], program: list[Told]
) -> None:
    """Calls that name their models give the same totals in any order."""
    program = [each._replace(model=each.model or "m") for each in program[:12]]
    shuffled = [program[index] for index in order if index < len(program)]
    results = []
    for calls in (program, shuffled):
        with isolated_monitor() as monitor:
            for each in calls:
                tell(monitor, each)
            results.append((reported(monitor), scraped(monitor.page())))
    assert results[0] == results[1]


@settings(SETTINGS, max_examples=12)
@given(st.lists(programs, min_size=2, max_size=4), st.booleans())
def test_threads_lose_and_double_nothing(mix: list[list[Told]], both: bool) -> None:
    """Threads that tell one or two monitors at once, while another reads, add up exactly."""
    with fresh_runtime() as runtime:
        reader = PrometheusReader(target_info=False)
        config = MonitorConfig(meter_provider=_provider(reader))
        monitors = [GenerationMonitor(config=config) for _ in range(1 + both)]

        def work(number: int, program: list[Told]) -> None:
            for each in program * 5:
                tell(monitors[number % len(monitors)], each._replace(model=each.model or "m"))

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
                reference.tell(0.0, each._replace(model=each.model or "m"))
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
def test_a_ring_never_grows_past_its_capacity(capacity: int, batches: list[int]) -> None:
    """However rows come and whenever it is read, exactly the last ones are kept."""
    ring = Ring((("count", "q"),), capacity)
    told_rows: list[int] = []
    for batch in batches:
        for _ in range(batch):
            told_rows.append(len(told_rows))
            ring.append(told_rows[-1])
        (column,) = ring.columns("count")
        assert len(column) == ring.size <= capacity
        assert list(column[ring.in_order()]) == told_rows[-capacity:]


@SETTINGS
@given(st.integers(1, 20), programs)
def test_a_history_of_capacity_n_keeps_exactly_the_last_n(
    capacity: int, program: list[Told]
) -> None:
    """A window sees the last n calls, and says so where earlier ones lie in it too."""
    program = [each._replace(model=each.model or "m") for each in program]
    reference, clock = Reference(), Clock()
    config = MonitorConfig(history=HistoryConfig(capacity=capacity))
    with (
        mock.patch.object(genmeter.clock, "now", clock.read),
        isolated_monitor(config) as monitor,
    ):
        for each in program:
            clock.now += 1
            tell(monitor, each)
            reference.tell(clock.now, each)
        hour = timedelta(hours=1)
        report = monitor.get_total_token_usage(hour)
        assert reported(monitor) == reference.tokens()
        assert reported(monitor, hour) == reference.tokens(clock.now - capacity + 1)
        assert report.complete == (len(program) <= capacity)
        assert monitor._session.history.size <= capacity
