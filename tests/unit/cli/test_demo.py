"""``genmeter demo``: the simulated job, and what is shown of it."""

from __future__ import annotations

import io
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from rich.console import Console

from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.cli.demo import view
from genmeter.cli.demo.simulate import (
    CUSTOM_METRICS,
    JUDGE,
    MODELS,
    PRICES,
    SCORE_SCALES,
    Job,
    Plan,
)
from genmeter.cli.demo.view import Status, render
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONFIG = MonitorConfig(
    prices=PRICES,
    score_scales=SCORE_SCALES,
    custom_metrics=CUSTOM_METRICS,
    models=tuple(model.name for model in MODELS),
    endpoint=EndpointConfig(enabled=False),
    drain="inline",
)


LATER = 100.0  # seconds after which no call is in progress


@contextmanager
def simulated_time(now: Callable[[], float]) -> Iterator[None]:
    """Let handles and streams see a simulated time."""
    with (
        mock.patch.object(handle, "perf_counter", now),
        mock.patch.object(streams, "perf_counter", now),
    ):
        yield


def plan(**changes: Any) -> Plan:
    """A plan of a minute at 50 calls per second, with changes."""
    return Plan(**{"duration": 60.0, "rate": 50.0, "seed": 1, **changes})


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No exporter is set in the environment."""
    monkeypatch.delenv("OTEL_METRICS_EXPORTER", raising=False)


@pytest.fixture
def monitor() -> Iterator[GenerationMonitor]:
    """A monitor with the demo's settings, in its own runtime."""
    with (
        fresh_runtime(),
        GenerationMonitor(
            metric_handlers=[], log_handlers=[], metrics_interval=0, config=CONFIG
        ) as created,
    ):
        yield created


@pytest.fixture
def job(monitor: GenerationMonitor) -> Job:
    """A finished job."""
    created = Job(plan(), monitor)
    with simulated_time(lambda: created.now):
        created.advance(LATER)
    assert created.is_done
    return created


def value(monitor: GenerationMonitor, name: str, **labels: str) -> float:
    """The sum of a metric's series with these labels."""
    samples = (s for f in monitor.prometheus_collector().collect() for s in f.samples)
    return sum(
        sample.value
        for sample in samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


class Handle:
    """A handle that only notes what is reported to it."""

    def __init__(self, *labels: Any, **keywords: Any) -> None:
        self.labels, self.keywords = labels, keywords
        self.chunks: list[dict[str, Any]] = []
        self.responses: list[dict[str, Any]] = []
        self.retries: list[Any] = []
        self.error: Any = None
        self.is_cancelled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.is_cancelled |= kind is GeneratorExit

    def stream(self, stream: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Note the chunks that are taken, and whether the stream is left."""
        self.is_cancelled = True
        for chunk in stream:
            self.chunks.append(chunk)
            yield chunk
        self.is_cancelled = False

    def usage(self, response: dict[str, Any], *, add: bool = False) -> None:
        """Note a response."""
        assert add == bool(self.chunks)
        self.responses.append(response)

    def retry(self, error: Any) -> None:
        """Note the error."""
        self.retries.append(error)

    def fail(self, error: Any) -> None:
        """Note the error."""
        self.error = error

    @property
    def billed(self) -> list[dict[str, Any]]:
        """The usage objects of its chunks and responses."""
        return [body["usage"] for body in [*self.chunks, *self.responses] if "usage" in body]


class Recorder(mock.MagicMock):
    """A monitor that only notes what is recorded."""

    def generation(self, *labels: Any, **keywords: Any) -> Handle:
        """Return a handle, and note it."""
        self.handles = [*self.__dict__.get("handles", []), Handle(*labels, **keywords)]
        return self.handles[-1]

    def calls(self, method: str) -> list[tuple[tuple[Any, ...], Mapping[str, Any]]]:
        """The arguments of each call of a method."""
        return [(args, kwargs) for name, args, kwargs in self.mock_calls if name == method]

    def model_calls(self) -> list[tuple[str, bool]]:
        """Model and success of each call that was not cancelled."""
        return [
            *((handle.labels[0], handle.error is None) for handle in self.handles if not handle.is_cancelled),
            *(
                (kwargs["model_name"], args[1])
                for method in ("track_generation", "track_evaluation")
                for args, kwargs in self.calls(method)
                if "model_name" in kwargs
            ),
        ]

    def samples(self) -> Counter[str | None]:
        """Samples by the reason of their rejection; None counts the accepted ones."""
        return Counter(args[1] for args, _ in self.calls("record_sample"))


def simulate(**changes: Any) -> Recorder:
    """Run a job that a recorder notes, to the end of its last call."""
    recorder = Recorder()
    job = Job(plan(**changes), recorder)
    job.advance(job.plan.duration + LATER)
    assert job.is_done
    return recorder


# --- the job -----------------------------------------------------------------------------------


def test_equal_seeds_record_the_same_however_often_the_job_advances() -> None:
    """A late or early look at the clock changes nothing, another seed does."""
    at_once, in_steps, other = Recorder(), Recorder(), Recorder()
    Job(plan(seed=7), at_once).advance(40.0)
    stepped = Job(plan(seed=7), in_steps)
    for tenth in range(401):
        stepped.advance(tenth / 10)
    Job(plan(seed=8), other).advance(40.0)
    assert repr(in_steps.mock_calls) == repr(at_once.mock_calls)
    assert repr(other.mock_calls) != repr(at_once.mock_calls)


@pytest.mark.parametrize("seed", range(5))
def test_a_job_keeps_its_rate_and_its_expected_samples(seed: int) -> None:
    """Calls per second and samples are as planned, and most calls and samples are good."""
    recorder = simulate(seed=seed, rate=100.0)
    calls = recorder.model_calls()
    total = len(calls) + len(recorder.calls("generation"))
    samples = recorder.samples()
    assert total / 60 == pytest.approx(100, rel=0.25)
    expected = plan(rate=total / 60).expected_samples
    assert samples.total() == pytest.approx(expected, rel=0.1)
    assert 0.01 < sum(not success for _, success in calls) / total < 0.1
    assert 0.7 < samples[None] / samples.total() < 0.95


def test_durations_depend_on_the_tokens_that_a_model_writes() -> None:
    """A long completion takes longer than a short one of the same model."""
    calls = sorted(
        (kwargs["completion_token_count"], args[0])
        for args, kwargs in simulate(rate=100.0).calls("track_generation")
        if kwargs.get("model_name") == "atlas-large" and args[1]
    )
    third = len(calls) // 3
    short, long = calls[:third], calls[-third:]
    assert sum(s for _, s in long) / third > 2 * sum(s for _, s in short) / third


def test_every_kind_of_event_occurs_within_two_minutes() -> None:
    """Dashboards and alerts have data of each kind: failures, retries, reasons, tokens, logs."""
    recorder = simulate(120.0, rate=100.0)
    seen: Counter[Any] = Counter(name for name, _, _ in recorder.mock_calls)
    for name, args, kwargs in recorder.mock_calls:
        seen[name, "failed"] += "error" in kwargs
        seen["step", kwargs.get("metadata", {}).get("operation")] += 1
        seen["finish", kwargs.get("finish_reason")] += 1
        seen["error", type(kwargs.get("error")).__name__] += 1
        seen["turns", kwargs.get("conversation_length")] += 1
        for keyword in ("retries", "cache_read_token_count", "reasoning_token_count"):
            seen[keyword] += bool(kwargs.get(keyword))
        if name == "record_sample":
            seen["sample", args[1]] += 1
    expected = [
        *("track_generation", "track_evaluation", "record_sample", "record_metric"),
        *("log_info", "log_warning", "log_error"),
        *("generation().__enter__().usage", "generation().__enter__().fail"),
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
def test_a_model_fails_at_the_share_of_the_plan(share: float) -> None:
    """Alerts can be tried out with one failing model."""
    calls = simulate(rate=100.0, failing={"atlas-mini": share}).model_calls()

    def failed(name: str) -> float:
        outcomes = [success for model, success in calls if model == name]
        return outcomes.count(False) / len(outcomes)

    assert failed("atlas-mini") == pytest.approx(share, abs=0.05)
    assert failed("harbor-chat") < 0.2


def test_a_call_that_fails_twice_ends_its_conversation() -> None:
    """If every call fails, every conversation fails and every sample is rejected."""
    recorder = simulate(20.0, failing={model.name: 1.0 for model in MODELS})
    conversations = [
        args[1]
        for args, kwargs in recorder.calls("track_generation")
        if "conversation_length" in kwargs
    ]
    assert [*recorder.samples()] == ["generation_failed"]
    assert len(conversations) == recorder.samples().total()
    assert not any(conversations)


def test_no_sample_is_accepted_without_its_evaluation() -> None:
    """Samples are rejected while the judge fails."""
    samples = simulate(30.0, failing={JUDGE.name: 1.0}).samples()
    assert samples[None] == 0
    assert samples["not_evaluated"] > 10


def test_calls_through_the_handle_are_active_until_they_end(monitor: GenerationMonitor) -> None:
    """The gauge of active calls rises, and is 0 after the end of the job."""
    job = Job(plan(), monitor)
    active = []
    for tenth in range(20):
        job.advance(tenth / 10)
        active.append(value(monitor, "genmeter_generations_active"))
    job.finish()
    assert max(active) > 0
    assert value(monitor, "genmeter_generations_active") == 0


def test_the_monitor_accepts_and_prices_every_event_of_the_job(job: Job) -> None:
    """Nothing is rejected or unpriced, and the cost of the metrics is that of the report."""
    monitor, report = job.monitor, job.monitor.get_total_token_usage()
    assert [usage.model_name for usage in report.by_model] == sorted(m.name for m in MODELS)
    assert report.cost(PRICES).unpriced == ()
    assert value(monitor, "genmeter_cost_usd_total") == pytest.approx(report.cost(PRICES).total)
    assert value(monitor, "genmeter_unpriced_generations_total") == 0
    assert value(monitor, "genmeter_monitor_events_total", genmeter_result="rejected") == 0
    assert value(monitor, "genmeter_retries_total", error_type="rate_limited") > 0
    assert value(monitor, "demo_queue_depth") > 0


def test_the_status_equals_what_was_recorded(job: Job) -> None:
    """Calls, failures, evaluations and samples are those of the job."""
    recorder, status = simulate(), Status.of(job.monitor)
    calls, samples = recorder.model_calls(), recorder.samples()
    embeddings = len(recorder.calls("generation"))
    total, evaluations = status.usage.total(), status.usage.evaluations
    assert total.calls + evaluations.count == len(calls) + embeddings
    assert evaluations.count == len(recorder.calls("track_evaluation"))
    assert status.accepted == samples.pop(None)
    assert status.rejected == samples


# --- the views ---------------------------------------------------------------------------------


def drawn(job: Job, width: int) -> str:
    """The live view as text."""
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(render(job, width))
    return console.export_text()


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (120, "model generations failed tokens in out USD p50 p95"),
        (80, "model generations failed tokens in out USD p95"),
        (60, "model failed tokens in out USD"),
        (44, "model failed USD"),
    ],
)
def test_the_live_view_fits_the_terminal(job: Job, width: int, titles: str) -> None:
    """A narrow terminal has fewer columns rather than cut ones."""
    lines = drawn(job, width).splitlines()
    assert max(map(len, lines)) <= width
    assert titles.split() in [line.split() for line in lines]
    assert "\N{HORIZONTAL ELLIPSIS}" not in "".join(lines)
    assert len(lines) < 20


def test_the_live_view_fits_the_terminal_after_an_hour(monitor: GenerationMonitor) -> None:
    """Hundreds of millions of tokens need no more than 80 columns."""
    for name, prompt in (("atlas-large", 160_000_000), ("atlas-mini", 4_560_000)):
        monitor.track_generation(
            60.0, True, model_name=name, prompt_token_count=prompt, completion_token_count=10**7
        )
    text = drawn(Job(plan(), monitor), 80)
    assert "164,560,000" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_live_view_shows_the_progress_and_each_models_usage(job: Job) -> None:
    """Progress, time left, samples and each model's calls and cost are shown."""
    job.now = 45.0
    text, status = drawn(job, 120), Status.of(job.monitor)
    report = job.monitor.get_total_token_usage()
    cost = report.cost(PRICES)
    assert "75%  0:00:15 left" in text
    assert f"{status.accepted:,} accepted" in text
    assert f"{status.rejected.total():,} rejected" in text
    assert f"of ~{job.plan.expected_samples:,}" in text
    for (model,), row in status.usage.group(("model",)).items():
        cells = next(line.split() for line in text.splitlines() if line.startswith(str(model)))
        assert cells[1] == f"{row.calls:,}"
        assert f"{cost.by_model[str(model)]:,.4f}" in cells
    recent = sum(usage.calls for usage in report.by_model) / 10
    assert f"{recent:,.1f} calls/s" in text


def test_the_live_view_is_drawn_before_the_first_call(monitor: GenerationMonitor) -> None:
    """A job that has not begun has a view too."""
    text = drawn(Job(plan(duration=7322.0), monitor), 80)
    assert "0%  2:02:02 left" in text
    assert "0 accepted" in text


def test_a_model_that_only_failed_has_no_cost(monitor: GenerationMonitor) -> None:
    """A cost of 0 would be wrong."""
    job = Job(plan(failing={model.name: 1.0 for model in MODELS}), monitor)
    job.advance(10.0)
    rows = [line.split() for line in drawn(job, 60).splitlines()]
    (row,) = (row for row in rows if row[:1] == ["atlas-mini"])
    assert row[1:] == ["100.0%", "0", "0", "-"]


def test_a_plain_line_is_printed_every_ten_seconds(
    monitor: GenerationMonitor, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal the output is plain text."""
    job = Job(plan(), monitor)
    with view.show_progress(job, is_quiet=False) as show:
        for step in range(1, 21):
            job.advance(3.0 * step)
            show()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" s of 60 s: ")[0] for line in lines] == ["12", "21", "30", "42", "51", "60"]
    assert f"{monitor.get_total_token_usage().total_tokens:,} tokens" in lines[-1]
    assert str(Status.of(monitor)) in lines[-1]
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_a_plain_line_of_a_job_without_calls_has_no_failure_rate(
    monitor: GenerationMonitor, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate of no calls is unknown."""
    job = Job(plan(rate=0.001), monitor)
    with view.show_progress(job, is_quiet=False) as show:
        job.advance(10.0)
        show()
    assert "0 generations, - failed" in capsys.readouterr().out


def test_the_quiet_view_shows_nothing(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even a line every ten seconds."""
    with view.show_progress(job, is_quiet=True) as show:
        show()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("kind", "is_live"), [("xterm-256color", True), ("dumb", False)])
def test_a_terminal_that_moves_its_cursor_has_the_live_view(
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    is_live: bool,
) -> None:
    """A dumb terminal gets plain lines."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", kind)
    with view.show_progress(job, is_quiet=False) as show:
        show()
    assert ("atlas-large" in (out := capsys.readouterr().out)) == is_live
    assert ("60 s of 60 s: " in out) != is_live


def test_the_summary_has_tokens_cost_and_reasons(job: Job) -> None:
    """It contains the monitor's report, and why samples were rejected."""
    text = view.summary(job)
    report = job.monitor.get_total_token_usage()
    assert str(report) in text
    assert str(report.cost(PRICES)) in text
    reason, number = Status.of(job.monitor).rejected.most_common(1)[0]
    assert f"({reason} {number}, " in text


def test_the_headline_names_the_address_of_the_metrics(job: Job) -> None:
    """If the endpoint is off, it says so."""
    assert view.headline(job).endswith("metrics: not served")
