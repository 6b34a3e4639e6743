"""``genmeter demo``: the simulated job, and what is shown of it."""

from __future__ import annotations

import io
import math
import sys
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

import pytest
from rich.console import Console

from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.call import handle, streams
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
from genmeter.cli.demo.view import render, status_of
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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

    @property
    def lacks_usage(self) -> bool:
        """Whether there is none, or none of its stream."""
        return not self.billed or (self.chunks != [] and not any("usage" in c for c in self.chunks))


class Recorder(mock.MagicMock):
    """A monitor that only notes what is recorded."""

    def generation(self, *labels: Any, **keywords: Any) -> Handle:
        """Return a handle, and note it."""
        created = Handle(*labels, **keywords)
        self.__dict__.setdefault("handles", []).append(created)
        return created

    def calls(self, method: str) -> list[tuple[tuple[Any, ...], Mapping[str, Any]]]:
        """The arguments of each call of a method."""
        return [(args, kwargs) for name, args, kwargs in self.mock_calls if name == method]

    def model_calls(self) -> list[tuple[str, bool]]:
        """Model and success of each call that was not cancelled."""
        return [
            *(
                (handle.labels[0], handle.error is None)
                for handle in self.handles
                if not handle.is_cancelled
            ),
            *(
                (kwargs["model_name"], args[1])
                for method in ("track_generation", "track_evaluation")
                for args, kwargs in self.calls(method)
                if "model_name" in kwargs
            ),
        ]

    def notes(self) -> str:
        """All that was recorded, as text."""
        return repr(self.mock_calls) + repr([vars(handle) for handle in self.handles])

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
    # A job that is garbage-collected cancels its calls.
    jobs = [Job(plan(seed=7), at_once), Job(plan(seed=7), in_steps), Job(plan(seed=8), other)]
    for tenth in range(401):
        jobs[1].advance(tenth / 10)
    jobs[0].advance(40.0)
    jobs[2].advance(40.0)
    assert in_steps.notes() == at_once.notes()
    assert other.notes() != at_once.notes()


@pytest.mark.parametrize("seed", range(5))
def test_a_job_keeps_its_rate_and_its_expected_samples(seed: int) -> None:
    """Calls per second and samples are as planned, and most calls and samples are good."""
    recorder = simulate(seed=seed, rate=100.0)
    calls = recorder.model_calls()
    total = len(calls) + sum(handle.is_cancelled for handle in recorder.handles)
    samples = recorder.samples()
    assert total / 60 == pytest.approx(100, rel=0.25)
    expected = plan(rate=total / 60).expected_samples
    assert samples.total() == pytest.approx(expected, rel=0.1)
    assert 0.01 < sum(not success for _, success in calls) / total < 0.1
    assert 0.7 < samples[None] / samples.total() < 0.95


def test_streams_last_as_long_as_a_models_tokens_need(monitor: GenerationMonitor) -> None:
    """A long completion takes longer than a short one, and the faster model is first."""
    job = Job(plan(rate=100.0), monitor)
    with simulated_time(lambda: job.now):
        job.advance(job.plan.duration + LATER)
    calls = monitor.to_frame("generations")
    large = calls[(calls["model"] == "atlas-large") & (calls["output_tokens"] > 0)]
    seconds = list(large.sort_values("output_tokens")["duration_seconds"])
    third = len(seconds) // 3
    assert sum(seconds[-third:]) > 1.5 * sum(seconds[:third])
    means = {}
    for kind in ("time_to_first_chunk", "time_per_output_chunk"):
        name = f"gen_ai_client_inference_{kind}_seconds"
        for model in ("atlas-large", "atlas-mini", "harbor-chat"):
            label = {"gen_ai_request_model": model}
            mean = value(monitor, f"{name}_sum", **label) / value(monitor, f"{name}_count", **label)
            means[kind, model] = mean
    assert 1.0 < means["time_to_first_chunk", "atlas-large"] < 3.0  # it reasons first
    assert 0.2 < means["time_to_first_chunk", "atlas-mini"] < 0.5
    assert means["time_per_output_chunk", "atlas-mini"] == pytest.approx(10 / 300, rel=0.3)
    assert means["time_per_output_chunk", "harbor-chat"] == pytest.approx(10 / 160, rel=0.3)


def test_every_kind_of_event_occurs_within_two_minutes() -> None:
    """Dashboards and alerts have data of each kind: failures, retries, reasons, tokens, logs."""
    recorder = simulate(duration=120.0, rate=100.0)
    seen: Counter[Any] = Counter(name for name, _, _ in recorder.mock_calls)
    for name, args, kwargs in recorder.mock_calls:
        seen[name, "failed"] += "error" in kwargs
        seen["step", kwargs.get("metadata", {}).get("operation")] += 1
        seen["error", type(kwargs.get("error")).__name__] += 1
        seen["turns", kwargs.get("conversation_length")] += 1
        seen["retries"] += bool(kwargs.get("retries"))
        if name == "record_sample":
            seen["sample", args[1]] += 1
    for call in recorder.handles:
        seen["step", call.labels[1]] += 1
        seen["call", "failed"] += call.error is not None
        seen["call", "retried"] += bool(call.retries)
        seen["call", "cancelled"] += call.is_cancelled
        seen["call", "added"] += len(call.billed) == 2
        seen["call", "unread"] += not (call.billed or call.error or call.is_cancelled)
        for body in call.chunks:
            seen["model", body["model"]] += 1
            seen["tier", body["service_tier"]] += 1
            for choice in body["choices"]:
                seen["finish", choice["finish_reason"]] += 1
        for usage in call.billed:
            for details in ("prompt_tokens_details", "completion_tokens_details"):
                for part, count in usage.get(details, {}).items():
                    seen[part] += count
    expected = [
        *("track_generation", "track_evaluation", "record_sample", "record_metric"),
        *("log_info", "log_warning", "log_error"),
        *(("track_generation", "failed"), ("track_evaluation", "failed")),
        *(("call", kind) for kind in ("failed", "retried", "cancelled", "added", "unread")),
        *("retries", "cached_tokens", "reasoning_tokens"),
        *(("finish", reason) for reason in ("stop", "length", "content_filter")),
        *(("model", f"atlas-{size}-2026-05-01") for size in ("large", "mini")),
        *(("tier", "flex"), ("tier", None)),
        *(("error", name) for name in ("RateLimitError", "TimeoutError", "InternalServerError")),
        *(("turns", turns) for turns in range(2, 7)),
        *(("sample", reason) for reason in ("duplicate", "low_score", "filtered", "too_short")),
        *(("sample", reason) for reason in (None, "not_evaluated", "generation_failed")),
        *(("step", f"{name}_generation") for name in ("question", "answer", "conversation")),
        *(("step", "evaluation"), ("step", "deduplication")),
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
    recorder = simulate(duration=20.0, failing={model.name: 1.0 for model in MODELS})
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
    samples = simulate(duration=30.0, failing={JUDGE.name: 1.0}).samples()
    assert samples[None] == 0
    assert samples["not_evaluated"] > 10


def test_calls_through_the_handle_are_active_until_they_end(monitor: GenerationMonitor) -> None:
    """The gauge of active calls is that of the calls in progress, which a job can cancel."""
    job = Job(plan(), monitor)
    for tenth in range(20):
        job.advance(tenth / 10)
        assert value(monitor, "genmeter_generations_active") == job.in_progress
    in_progress = job.in_progress
    cancelled = value(monitor, "genmeter_generations_total", genmeter_outcome="cancelled")
    assert in_progress > 10
    job.cancel()
    assert job.in_progress == value(monitor, "genmeter_generations_active") == 0
    after = value(monitor, "genmeter_generations_total", genmeter_outcome="cancelled")
    assert after - cancelled == in_progress


def test_no_call_begins_after_the_duration_of_the_plan() -> None:
    """Those in progress then end, each with its usage unless it was left or has none."""
    recorder = Recorder()
    job = Job(plan(duration=60.0), recorder)
    job.advance(60.0)
    begun = len(recorder.handles)
    assert not job.is_done
    assert job.in_progress > 10
    assert job.next_at > 60.0
    job.advance(60.0 + LATER)
    assert job.is_done
    assert len(recorder.handles) == begun
    assert job.next_at == math.inf


def test_a_short_job_cancels_the_calls_that_take_longer_than_it_has_lasted() -> None:
    """A demo of a second takes two at most, and equal seeds still record the same."""
    late, early = simulate(duration=1.0), Recorder()
    job = Job(plan(duration=1.0), early)
    job.advance(1.9)
    assert not job.is_done
    job.advance(2.0)
    assert job.is_done
    assert early.notes() == late.notes()
    assert 10 < sum(call.is_cancelled for call in early.handles) < len(early.handles)


def test_the_live_view_counts_the_calls_in_progress_after_the_duration(
    monitor: GenerationMonitor,
) -> None:
    """The progress bar is full, and does not show more than all."""
    job = Job(plan(), monitor)
    job.advance(61.0)
    assert f"100%  {job.in_progress} calls in progress" in drawn(job, 80)
    job.advance(60.0 + LATER)
    assert "100%  done" in drawn(job, 80)


def test_the_tokens_of_the_report_are_those_of_the_responses(job: Job) -> None:
    """Nothing is lost or counted twice; the flex tier of one model's questions halves their price."""
    recorder, report = simulate(), job.monitor.get_total_token_usage()
    for model in ("atlas-large", "atlas-mini", "harbor-chat"):
        calls = [call for call in recorder.handles if call.labels[0] == model]
        billed = [usage for call in calls for usage in call.billed]
        (row,) = (row for row in report.by_model if row.model_name == model)
        assert row.prompt_tokens == sum(usage["prompt_tokens"] for usage in billed)
        assert row.completion_tokens == sum(usage["completion_tokens"] for usage in billed)
    unread = [call for call in recorder.handles if call.lacks_usage and not call.error]
    assert report.calls_without_usage == len(unread) > 0
    costs = [report.cost(prices).by_model for prices in (None, PRICES)]
    assert costs[0]["atlas-large"] == pytest.approx(costs[1]["atlas-large"])
    assert 0.5 < costs[0]["atlas-mini"] / costs[1]["atlas-mini"] < 0.8


def test_the_monitor_accepts_and_prices_every_event_of_the_job(job: Job) -> None:
    """Nothing is rejected or unpriced, and the cost of the metrics is that of the report."""
    monitor, report = job.monitor, job.monitor.get_total_token_usage()
    assert [usage.model_name for usage in report.by_model] == sorted(m.name for m in MODELS)
    assert report.cost().unpriced == ()
    assert value(monitor, "genmeter_cost_usd_total") == pytest.approx(report.cost().total)
    assert value(monitor, "genmeter_unpriced_generations_total") == 0
    assert value(monitor, "genmeter_monitor_events_total", genmeter_result="rejected") == 0
    assert value(monitor, "genmeter_retries_total", error_type="rate_limited") > 0
    assert value(monitor, "demo_queue_depth") > 0


def test_the_status_equals_what_was_recorded(job: Job) -> None:
    """Calls, failures, evaluations and samples are those of the job."""
    recorder, status = simulate(), status_of(job.monitor)
    calls, samples = recorder.model_calls(), recorder.samples()
    cancelled = sum(handle.is_cancelled for handle in recorder.handles)
    total, evaluations = status.usage.total(), status.usage.evaluations
    assert total.calls + evaluations.count == len(calls) + cancelled
    assert total.cancelled == cancelled > 0
    assert total.failures + evaluations.failures == sum(not success for _, success in calls)
    assert total.calls_without_usage == job.monitor.get_total_token_usage().calls_without_usage
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
    assert len(lines) <= 24  # of a terminal without settings


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
    text, status = drawn(job, 120), status_of(job.monitor)
    report = job.monitor.get_total_token_usage()
    cost = report.cost()
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
    assert str(status_of(monitor)) in lines[-1]
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
    job.now = 60.0
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
    assert str(report.cost()) in text
    reason, number = status_of(job.monitor).rejected.most_common(1)[0]
    assert f"({reason} {number}, " in text


def test_the_headline_names_the_address_of_the_metrics(job: Job) -> None:
    """If the endpoint is off, it says so."""
    assert view.headline(job).endswith("metrics: not served")
