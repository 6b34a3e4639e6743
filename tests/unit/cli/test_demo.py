"""The demo's job: what it makes up, what it tells, and what it shows."""

from __future__ import annotations

import io
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.cli.demo import view
from genmeter.cli.demo.simulate import (
    CALLS_A_SAMPLE,
    CUSTOM_METRICS,
    JUDGE,
    MODELS,
    PRICES,
    SCORE_SCALES,
    Begin,
    End,
    Job,
    Plan,
    Record,
    Simulator,
    play,
)
from genmeter.cli.demo.view import LiveView, Outcomes, quantile, read, render
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from genmeter.cli.demo.simulate import Action

CONFIG = MonitorConfig(
    prices=PRICES,
    score_scales=SCORE_SCALES,
    custom_metrics=CUSTOM_METRICS,
    models=tuple(model.name for model in MODELS),
    endpoint=EndpointConfig(enabled=False),
    drain="inline",
)


def plan(**changes: Any) -> Plan:
    """A plan of a minute at 50 calls a second, but for the changes."""
    return Plan(**{"duration": 60.0, "rate": 50.0, "seed": 1, "failing": {}, **changes})


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set from outside."""
    monkeypatch.delenv("OTEL_METRICS_EXPORTER", raising=False)


def make_monitor() -> GenerationMonitor:
    """A monitor with the demo's settings."""
    return GenerationMonitor(metric_handlers=[], log_handlers=[], metrics_interval=0, config=CONFIG)


@pytest.fixture
def monitor() -> Iterator[GenerationMonitor]:
    """A monitor with the demo's settings, in a runtime of its own."""
    with fresh_runtime(), make_monitor() as made:
        yield made


@pytest.fixture
def job(monitor: GenerationMonitor) -> Job:
    """A job that was played to its end, to look at."""
    made = Job(plan(), monitor)
    made.advance(60.0)
    made.finish()
    return made


def value(monitor: GenerationMonitor, name: str, **labels: str) -> float:
    """The sum of a series on the monitor's page."""
    samples = (s for f in monitor.prometheus_collector().collect() for s in f.samples)
    return sum(
        sample.value
        for sample in samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@dataclass
class Count:
    """What a job's actions come to, counted beside the monitor."""

    calls: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    input: Counter[str] = field(default_factory=Counter)
    output: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str | None] = field(default_factory=Counter)

    @property
    def rejected(self) -> int:
        """Samples with a reason."""
        return self.verdicts.total() - self.verdicts[None]


def count(actions: Iterable[Action]) -> Count:
    """Count calls, failures and tokens by model, and samples by reason."""
    found = Count()
    for action in actions:
        if isinstance(action, End):
            model, failed, tokens = action.model, action.error is not None, action.tokens
        elif isinstance(action, Record) and "model_name" in action.kwargs:
            model, failed, tokens = action.kwargs["model_name"], not action.args[1], action.kwargs
        else:
            if isinstance(action, Record) and action.method == "record_sample":
                found.verdicts[action.args[1]] += 1
            continue
        found.calls[model] += 1
        found.failed[model] += failed
        found.input[model] += tokens.get("prompt_token_count") or 0
        found.output[model] += tokens.get("completion_token_count") or 0
    return found


def counted(job: Job) -> Count:
    """Count what a job does from its begin to its end."""
    simulator = Simulator(job.plan.seed, job.plan.rate, job.plan.failing)
    return count([*simulator.step(job.plan.duration), *simulator.finish()])


def comparable(actions: list[Action]) -> list[str]:
    """Actions as text, since two exceptions that say the same are not equal."""
    return [repr(action) for action in actions]


class FakeTime:
    """A clock that goes on only while somebody waits, and how long it may take."""

    def __init__(self, lateness: float = 0.0, stop_at: float | None = None) -> None:
        self.now = 100.0
        self.looks: list[float] = []
        self._lateness = lateness
        self._stop_at = stop_at

    def clock(self) -> float:
        """Give the time, in seconds."""
        return self.now

    def wait(self, seconds: float) -> bool:
        """Let the time pass; tells whether the job is to stop."""
        self.now += seconds + self._lateness
        return self._stop_at is not None and self.now - 100.0 >= self._stop_at

    def play(self, job: Job) -> float:
        """Run a job by this clock."""
        return play(job, show=self.looks.append, wait=self.wait, clock=self.clock)


# --- the simulator -----------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_job_however_it_is_stepped_through() -> None:
    """A job depends on its seed alone, not on how often the clock is looked at."""
    at_once = list(Simulator(7, 30.0).step(40.0))
    simulator = Simulator(7, 30.0)
    in_steps = [action for tenth in range(401) for action in simulator.step(tenth / 10)]
    assert comparable(in_steps) == comparable(at_once)
    assert comparable(list(Simulator(8, 30.0).step(40.0))) != comparable(at_once)


def test_actions_come_in_the_order_of_their_times() -> None:
    """Nothing is recorded before what happened earlier, nor after the time that was asked for."""
    times = [action.at for action in Simulator(3, 40.0).step(60.0)]
    assert times == sorted(times)
    assert times[-1] <= 60.0


@pytest.mark.parametrize("seed", range(5))
def test_a_job_of_a_minute_keeps_to_its_rate_and_its_samples(seed: int) -> None:
    """Calls a second and calls a sample are what the arguments and the constant say."""
    found = count(Simulator(seed, 100.0).step(60.0))
    calls, samples = found.calls.total(), found.verdicts.total()
    assert calls / 60 == pytest.approx(100, rel=0.25)
    assert calls / samples == pytest.approx(CALLS_A_SAMPLE, rel=0.1)
    assert 0.01 < found.failed.total() / calls < 0.1
    assert 0.7 < found.verdicts[None] / samples < 0.95


def test_durations_follow_from_the_tokens_that_a_model_writes() -> None:
    """A long completion takes longer than a short one of the same model."""
    calls = [
        (action.kwargs["completion_token_count"], action.args[0])
        for action in Simulator(1, 100.0).step(60.0)
        if isinstance(action, Record)
        and action.kwargs.get("model_name") == "atlas-large"
        and action.args[1]
    ]
    calls.sort()
    third = len(calls) // 3
    short, long = calls[:third], calls[-third:]
    assert sum(s for _, s in long) / third > 2 * sum(s for _, s in short) / third


def test_every_kind_of_thing_happens_within_two_minutes() -> None:
    """Dashboards and alerts have each kind of data: failures, retries, reasons, tokens, logs."""
    seen: Counter[str] = Counter()
    for action in Simulator(1, 100.0).step(120.0):
        if isinstance(action, Begin):
            seen["begin"] += 1
        elif isinstance(action, End):
            seen["end", action.error is None] += 1
        else:
            seen[action.method] += 1
            kwargs = action.kwargs
            seen[action.method, "failed"] += "error" in kwargs
            seen["step", kwargs.get("metadata", {}).get("operation")] += 1
            seen["finish", kwargs.get("finish_reason")] += 1
            seen["error", type(kwargs.get("error")).__name__] += 1
            seen["turns", kwargs.get("conversation_length")] += 1
            for name in ("retries", "cache_read_token_count", "reasoning_token_count"):
                seen[name] += bool(kwargs.get(name))
            if action.method == "record_sample":
                seen["sample", action.args[1]] += 1
    expected = [
        *("track_generation", "track_evaluation", "record_sample", "record_metric"),
        *("log_info", "log_warning", "log_error", "begin", ("end", True), ("end", False)),
        *(("track_generation", "failed"), ("track_evaluation", "failed")),
        *("retries", "cache_read_token_count", "reasoning_token_count"),
        *(("finish", reason) for reason in ("stop", "length", "content_filter")),
        *(("error", name) for name in ("RateLimitError", "TimeoutError", "InternalServerError")),
        *(("turns", turns) for turns in range(2, 7)),
        *(("sample", reason) for reason in ("duplicate", "low_score", "filtered", "too_short")),
        *(("sample", reason) for reason in (None, "not_evaluated", "generation_failed")),
        *(("step", f"{name}_generation") for name in ("question", "answer", "conversation")),
        ("step", "evaluation"),
    ]
    assert [name for name in expected if not seen[name]] == []


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_model_fails_the_share_that_was_asked_for(share: float) -> None:
    """Alerts can be tried with a model that fails as often as one likes."""
    found = count(Simulator(1, 100.0, {"atlas-mini": share}).step(60.0))
    assert found.failed["atlas-mini"] / found.calls["atlas-mini"] == pytest.approx(share, abs=0.05)
    assert found.failed["harbor-chat"] / found.calls["harbor-chat"] < 0.2


def test_a_call_that_fails_twice_ends_its_conversation() -> None:
    """Where every call fails no conversation succeeds and every sample is rejected for it."""
    failing = {model.name: 1.0 for model in MODELS}
    actions = [a for a in Simulator(1, 50.0, failing).step(20.0) if isinstance(a, Record)]
    samples = [action.args for action in actions if action.method == "record_sample"]
    assert samples
    assert set(samples) == {(False, "generation_failed")}
    turns = [a for a in actions if "conversation_length" in a.kwargs]
    assert len(turns) == len(samples)
    assert not any(action.args[1] for action in turns)


def test_without_its_judge_no_sample_is_accepted() -> None:
    """A sample that could not be evaluated is rejected for that."""
    found = count(Simulator(1, 50.0, {JUDGE.name: 1.0}).step(30.0))
    assert found.verdicts[None] == 0
    assert found.verdicts["not_evaluated"] > 10


# --- the job -----------------------------------------------------------------------------------


def test_the_report_equals_a_count_of_the_jobs_actions(job: Job) -> None:
    """The monitor knows every token of every model that the job recorded."""
    expected, report = counted(job), job.monitor.get_total_token_usage()
    assert len(expected.calls) == len(MODELS)
    assert {usage.model_name: usage.prompt_tokens for usage in report.by_model} == expected.input
    assert {usage.model_name: usage.completion_tokens for usage in report.by_model} == {
        model: expected.output[model] for model in expected.calls
    }
    assert report.total_tokens == expected.input.total() + expected.output.total()
    assert report.cost(PRICES).total > 0
    assert report.cost(PRICES).unpriced == ()


def test_the_metrics_equal_a_count_of_the_jobs_actions(job: Job) -> None:
    """A scrape gets the calls, failures, samples and evaluations that were recorded."""
    expected, reading, monitor = counted(job), read(job.monitor), job.monitor
    generations = list(reading.generations.values())
    calls = sum(each.all for each in generations) + reading.evaluations.all
    failed = sum(each.failed for each in generations) + reading.evaluations.failed
    assert (calls, failed) == (expected.calls.total(), expected.failed.total())
    assert reading.accepted == expected.verdicts.pop(None)
    assert reading.rejected == expected.verdicts
    cost = monitor.get_total_token_usage().cost(PRICES).total
    assert value(monitor, "genmeter_cost_usd_total") == pytest.approx(cost)
    assert value(monitor, "genmeter_unpriced_generations_total") == 0
    assert value(monitor, "genmeter_monitor_events_total", genmeter_result="rejected") == 0
    assert value(monitor, "genmeter_retries_total", error_type="rate_limited") > 0
    assert value(monitor, "demo_queue_depth") > 0


def test_calls_through_the_handle_are_active_until_they_end(monitor: GenerationMonitor) -> None:
    """The gauge of calls under way goes up and comes back to 0."""
    job = Job(plan(), monitor)
    active = []
    for tenth in range(20):
        job.advance(tenth / 10)
        active.append(value(monitor, "genmeter_generations_active"))
    job.finish()
    assert max(active) > 0
    assert value(monitor, "genmeter_generations_active") == 0


def test_the_same_seed_gives_the_same_report() -> None:
    """Two runs of one plan agree in every token, and another seed does not."""
    reports = []
    for seed in (5, 5, 6):
        with fresh_runtime(), make_monitor() as monitor:
            job = Job(plan(seed=seed, duration=20.0), monitor)
            FakeTime(lateness=0.013 * len(reports)).play(job)
            reports.append(str(monitor.get_total_token_usage()))
    assert reports[0] == reports[1]
    assert reports[0] != reports[2]


def test_a_job_lasts_as_long_as_planned_and_a_late_look_is_made_up_for(
    monitor: GenerationMonitor,
) -> None:
    """A busy machine looks at the clock less often, and the job is the same."""
    slow = FakeTime(lateness=7.0)
    job = Job(plan(), monitor)
    assert slow.play(job) == 60.0
    assert slow.looks[0] == 0.0
    assert slow.looks[-1] == 60.0
    assert len(slow.looks) < 12
    assert read(monitor).accepted == counted(job).verdicts[None]


def test_a_job_that_is_stopped_ends_its_open_calls(monitor: GenerationMonitor) -> None:
    """After a stop the job records the ends of what it began, and no more."""
    job = Job(plan(rate=300.0), monitor)
    elapsed = FakeTime(stop_at=5.05).play(job)
    assert elapsed == pytest.approx(5.0)
    assert value(monitor, "genmeter_generations_active") == 0
    simulator = Simulator(1, 300.0)
    expected = count([*simulator.step(elapsed), *simulator.finish()])
    total = monitor.get_total_token_usage().total_tokens
    assert total == expected.input.total() + expected.output.total() > 0


# --- the views ---------------------------------------------------------------------------------


def test_a_quantile_lies_within_its_bucket() -> None:
    """It is estimated as Prometheus does, and none is known before the first call."""
    buckets = {1.0: 50.0, 2.0: 90.0, 4.0: 90.0, float("inf"): 100.0}
    assert quantile(0.25, buckets) == 0.5
    assert quantile(0.5, buckets) == 1.0
    assert quantile(0.7, buckets) == 1.5
    assert quantile(0.99, buckets) == 4.0
    assert quantile(0.95, {1.0: 0.0, float("inf"): 0.0}) is None
    assert quantile(0.95, {}) is None


def test_a_share_of_no_calls_is_unknown() -> None:
    """The first picture is drawn before the first call."""
    assert [str(Outcomes()), str(Outcomes(3, 1))] == ["-", "25.0%"]


def drawn(job: Job, elapsed: float, width: int) -> str:
    """The live view as text."""
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(render(job, elapsed, width))
    return console.export_text()


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (120, "model calls failed tokens in out USD p50 p95"),
        (80, "model calls failed tokens in out USD p50 p95"),
        (70, "model calls failed tokens in out USD p95"),
        (60, "model calls failed tokens in out USD"),
        (44, "model calls failed USD"),
    ],
)
def test_the_live_view_fits_the_terminal(job: Job, width: int, titles: str) -> None:
    """No line is longer than the terminal, and a narrow one loses the columns that matter least."""
    lines = drawn(job, 60.0, width).splitlines()
    assert max(map(len, lines)) <= width
    assert titles.split() in [line.split() for line in lines]
    assert "…" not in "".join(lines)
    assert len(lines) < 20


def test_the_live_view_says_what_the_job_did(job: Job) -> None:
    """Progress, time left, samples and each model's calls and cost are in the picture."""
    text, reading = drawn(job, 45.0, 80), read(job.monitor)
    report = job.monitor.get_total_token_usage()
    cost = report.cost(PRICES)
    assert "75%  0:15 left" in text
    assert f"{reading.accepted:,} accepted" in text
    assert f"{reading.rejected.total():,} rejected" in text
    assert f"of ~{job.plan.expected_samples:,}" in text
    assert f"{reading.evaluations.all:,}  {reading.evaluations} failed" in text
    for usage in report.by_model:
        row = next(line for line in text.splitlines() if line.startswith(usage.model_name))
        assert row.split()[1] == f"{usage.calls:,}"
        assert f"{cost.by_model[usage.model_name]:,.4f}" in row
    assert f"{cost.total:,.4f}" in text
    recent = sum(usage.calls for usage in report.by_model) / 10
    assert f"{recent:,.1f} calls/s" in text


def test_a_long_job_keeps_the_table_narrow(monitor: GenerationMonitor) -> None:
    """After days of tokens the table still fits 80 columns."""
    job = Job(plan(), monitor)
    for name, prompt in (("atlas-large", 3 * 10**9), ("atlas-mini", 4_560_000)):
        monitor.track_generation(
            60.0, True, model_name=name, prompt_token_count=prompt, completion_token_count=7
        )
    text = drawn(job, 60.0, 80)
    assert "3.00 G" in text
    assert "4.56 M" in text
    assert "9,000.00" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_live_view_of_a_job_that_has_not_begun_is_drawn(monitor: GenerationMonitor) -> None:
    """Before the first call there is a picture too, with hours where it lasts so long."""
    text = drawn(Job(plan(duration=7322.0), monitor), 0.0, 80)
    assert "0%  2:02:02 left" in text
    assert "0 accepted" in text


def test_a_model_that_only_failed_has_no_cost_yet(monitor: GenerationMonitor) -> None:
    """Where no tokens were recorded there is a dash, rather than a cost of 0."""
    job = Job(plan(failing={model.name: 1.0 for model in MODELS}), monitor)
    job.advance(10.0)
    rows = [line.split() for line in drawn(job, 10.0, 60).splitlines()]
    (row,) = (row for row in rows if row[:1] == ["atlas-mini"])
    assert row[2:] == ["100.0%", "0", "0", "-"]


def test_the_live_view_draws_four_times_a_second_and_leaves_the_last_picture(job: Job) -> None:
    """On a terminal it draws over itself, not oftener than the eye needs."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    with LiveView(job, console) as show:
        for hundredth in range(101):
            show(hundredth / 100)
    assert stream.getvalue().count("pace") == 6
    assert "\x1b[" in stream.getvalue()


def test_plain_lines_come_every_ten_seconds(
    monitor: GenerationMonitor, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nobody looks there is a line every ten seconds, without escape sequences."""
    job = Job(plan(), monitor)
    with view.choose_view(job, is_quiet=False) as show:
        play(job, show=show, wait=(time := FakeTime()).wait, clock=time.clock)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" s of 60 s: ")[0] for line in lines] == ["10", "20", "30", "40", "50", "60"]
    assert f"{monitor.get_total_token_usage().total_tokens:,} tokens" in lines[-1]
    assert read(monitor).counts() in lines[-1]
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_plain_lines_before_the_first_call_do_not_divide_by_zero(
    monitor: GenerationMonitor, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job without calls has failed none of them."""
    with view.choose_view(Job(plan(rate=0.001), monitor), is_quiet=False) as show:
        show(10.0)
    assert "0 generations, - failed" in capsys.readouterr().out


def test_the_quiet_view_shows_nothing(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    """Quiet is quiet, however long the job lasts."""
    with view.choose_view(job, is_quiet=True) as show:
        show(1000.0)
    assert capsys.readouterr().out == ""


@pytest.fixture
def terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], None]:
    """Makes standard output a terminal of the kind that it is given."""

    def make(kind: str) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("TERM", kind)

    return make


def test_a_terminal_gets_the_live_view(job: Job, terminal: Callable[[str], None]) -> None:
    """Where there is a terminal and rich the job is seen live."""
    terminal("xterm-256color")
    assert isinstance(view.choose_view(job, is_quiet=False), LiveView)


def test_a_terminal_that_cannot_draw_gets_plain_lines(
    job: Job, terminal: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A dumb terminal would show nothing until the end."""
    terminal("dumb")
    with view.choose_view(job, is_quiet=False) as show:
        show(10.0)
    assert capsys.readouterr().out.startswith("10 s of 60 s: ")


def test_without_rich_the_remedy_is_named_and_plain_lines_follow(
    job: Job,
    terminal: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A missing extra costs the live view only."""
    terminal("xterm")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with view.choose_view(job, is_quiet=False) as show:
        show(10.0)
    remedy, line = capsys.readouterr().out.splitlines()
    assert remedy.endswith('pip install "genmeter[demo]"')
    assert line.startswith("10 s of 60 s: ")


def test_the_final_report_has_the_tokens_the_cost_and_the_reasons(job: Job) -> None:
    """At the end stands what the monitor reports, and why samples were rejected."""
    text = view.final_report(job, 60.0)
    report = job.monitor.get_total_token_usage()
    assert str(report) in text
    assert str(report.cost(PRICES)) in text
    reason, number = read(job.monitor).rejected.most_common(1)[0]
    assert f"({reason} {number}, " in text


def test_the_headline_says_where_the_metrics_are(job: Job) -> None:
    """Where the endpoint is off the headline says so."""
    assert view.headline(job).endswith("metrics: not served")
