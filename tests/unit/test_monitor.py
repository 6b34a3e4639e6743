"""The monitor's API: its arguments, handlers, callbacks and the end."""

from __future__ import annotations

import inspect
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _held import held

from _waiting import eventually
from genmeter import (
    ConfigError,
    EndpointConfig,
    GenerationMonitor,
    MonitorConfig,
    TokenUsageReport,
)
from genmeter.testing import IsolatedMonitor, fresh_runtime, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator


NEVER = {"mean": 0.0, "min": 0.0, "max": 0.0, "count": 0}
HANG = 30.0


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor with defaults."""
    with isolated_monitor() as made:
        yield made


# --- the contract ----------------------------------------------------------------------------------


def test_constructor_takes_afterimages_arguments() -> None:
    """Order, names and defaults are the same; new arguments are keyword-only."""
    parameters = inspect.signature(GenerationMonitor).parameters
    positional = {
        name: each.default
        for name, each in parameters.items()
        if each.kind is each.POSITIONAL_OR_KEYWORD
    }
    assert list(positional.items()) == [
        ("log_dir", None),
        ("metric_handlers", None),
        ("log_handlers", None),
        ("alert_handlers", None),
        ("metrics_interval", 60),
        ("shutdown_timeout", 5),
    ]
    keywords = [name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY]
    alerts = "min_success_rate max_generation_time_seconds max_error_rate max_prompt_token_mean"
    alerts += " max_completion_token_mean max_total_token_mean max_conversation_length_mean"
    assert {f"alert_{name}" for name in alerts.split()} <= set(keywords)
    assert parameters["token_usage_callback_interval_seconds"].default == 60.0


@pytest.mark.parametrize(
    ("argument", "value", "what"),
    [
        ("log_dir", 5, "a path that is not empty, or None"),
        ("metric_handlers", 5, "a list of handlers, or None"),
        ("log_handlers", "console", "a list of handlers, or None"),
        ("alert_handlers", print, "a list of handlers, or None"),
        ("metrics_interval", "60", "a finite number, or None"),
        ("metrics_interval", float("nan"), "a finite number, or None"),
        ("shutdown_timeout", None, "seconds from 0"),
    ],
)
def test_invalid_argument_is_named(argument: str, value: Any, what: str) -> None:
    """The error has the argument, the requirement and the value."""
    with pytest.raises(ConfigError) as caught:
        GenerationMonitor(**{argument: value})
    assert str(caught.value).startswith(f"{argument} must be {what}")
    assert str(caught.value).endswith(f"got {value!r}")


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("track_generation", ["duration", "success", "kwargs"]),
        ("track_evaluation", ["duration", "success", "evaluator_type", "scores", "kwargs"]),
        ("record_metric", ["metric_name", "value", "metadata"]),
        ("log_info", ["message", "data"]),
        ("log_warning", ["message", "data"]),
        ("log_error", ["message", "error", "data"]),
        ("get_metrics", ["metric_name", "window"]),
        ("get_total_token_usage", ["window"]),
        ("shutdown", []),
    ],
)
def test_methods_take_afterimages_arguments(method: str, names: list[str]) -> None:
    """Arguments can be passed by position or by name."""
    parameters = list(inspect.signature(getattr(GenerationMonitor, method)).parameters)[1:]
    assert parameters == names


def test_public_attributes_can_be_read_and_replaced(tmp_path: Path) -> None:
    """They are AfterImage's; lists are lists, and an empty one means no handler."""
    with isolated_monitor(
        log_dir=str(tmp_path),
        metric_handlers=[],
        log_handlers=[],
        metrics_interval=0,
        shutdown_timeout=2,
    ) as monitor:
        assert monitor.log_dir == tmp_path
        assert isinstance(monitor.log_dir, Path)
        assert monitor.metric_handlers == monitor.log_handlers == monitor.alert_handlers == []
        assert (monitor.metrics_interval, monitor.shutdown_timeout) == (0, 2)
        handlers: list[Any] = [print]
        monitor.alert_handlers = handlers
        assert monitor.alert_handlers is handlers
        monitor.metric_handlers = monitor.log_handlers = []


def test_monitor_without_a_folder_writes_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its default folder is below the working directory."""
    monkeypatch.chdir(tmp_path)
    with isolated_monitor() as monitor, isolated_monitor() as other:
        monitor.track_generation(1.0, True)
        monitor.log_info("hello")
        assert monitor.log_dir.parts[0] == ".afterimage-monitoring"
        assert monitor.log_dir != other.log_dir
    assert list(tmp_path.iterdir()) == []


def test_every_known_keyword_may_be_none(monitor: IsolatedMonitor) -> None:
    """None stands for an absent value: nothing is rejected or logged."""
    known = "prompt_token_count completion_token_count total_token_count model_name finish_reason"
    known += " error conversation_length turns metadata"
    nothing: dict[str, Any] = dict.fromkeys(known.split())
    monitor.track_generation(1.0, True, **nothing)
    monitor.track_evaluation(1.0, True, "e", {}, error_type=None, **nothing)
    assert not monitor.series("genmeter_monitor_events_total", genmeter_result="rejected")
    assert monitor.get_metrics("generation_time")["count"] == 1
    assert monitor.get_total_token_usage().by_model == []


def test_later_changes_of_arguments_have_no_effect() -> None:
    """Metadata and scores are copied when they are recorded."""
    metadata, scores = {"operation": "before"}, {"s": {"score": 1}}
    with isolated_monitor() as monitor:
        with held(monitor._pipeline):
            monitor.track_generation(1.0, True, metadata=metadata, model_name="m")
            monitor.track_evaluation(1.0, True, "e", scores)
            metadata["operation"] = "after"
            scores["s"]["score"] = 0
        assert monitor.value("genmeter_generations_total", genmeter_step="before") == 1
        assert monitor.get_metrics("evaluation_score_s")["mean"] == 1


# --- threads, callbacks, the end ------------------------------------------------------------------


def test_read_sees_earlier_writes_on_any_thread() -> None:
    """No call waits."""
    with isolated_monitor() as monitor:
        seen: list[bool] = []

        def work(name: str) -> None:
            for number in range(1, 101):
                monitor.track_generation(1.0, True, model_name=name, prompt_token_count=1)
                report = monitor.get_total_token_usage()
                (own,) = [each for each in report.by_model if each.model_name == name]
                seen.append(own.prompt_tokens == number)

        threads = [threading.Thread(target=work, args=(f"m{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG)
        assert len(seen) == 400
        assert all(seen)


def test_callback_gets_reports_until_the_end() -> None:
    """It is called at every interval, and not after the shutdown."""
    reports: list[Any] = []
    with isolated_monitor(
        token_usage_callback=reports.append, token_usage_callback_interval_seconds=0.01
    ) as monitor:
        monitor.track_generation(1.0, True, model_name="m", prompt_token_count=5)
        assert eventually(lambda: reports and reports[-1].total_tokens == 5)
        monitor.shutdown()
        count = len(reports)
    assert len(reports) == count
    assert all(each.total_tokens in (0, 5) for each in reports)


def test_failing_callback_is_counted_and_called_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The first failure is logged."""

    def fail(_: Any) -> None:
        raise RuntimeError("the job's own defect")

    with isolated_monitor(
        token_usage_callback=fail, token_usage_callback_interval_seconds=0.005
    ) as monitor:
        name, label = "genmeter_monitor_handler_errors_total", "token_usage_callback"
        assert eventually(lambda: monitor.value(name, genmeter_handler=label) >= 3)
    assert caplog.text.count("token_usage_callback failed: the job's own defect") == 1


def test_monitor_can_be_shut_down_twice_and_read_afterwards(monitor: IsolatedMonitor) -> None:
    """The second call does nothing."""
    monitor.track_generation(1.0, True, model_name="m", prompt_token_count=5)
    assert "open" in repr(monitor)
    monitor.shutdown()
    monitor.shutdown()
    assert "shut down" in repr(monitor)
    assert monitor.get_total_token_usage().total_tokens == 5
    assert monitor.get_metrics("generation_time")["count"] == 1
    assert monitor.value("genmeter_job_finished") == 1


def test_shutdown_never_raises(
    monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error at the end is logged."""

    def fail(*_: Any) -> None:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(monitor._runtime, "release", fail)
        monitor.shutdown()
    assert "shutdown failed" in caplog.text


def test_monitor_is_a_context_manager(monitor: IsolatedMonitor) -> None:
    """It returns itself, shuts down after the block and suppresses no exception."""
    with pytest.raises(ZeroDivisionError), monitor as same:  # noqa: PT012
        assert same is monitor
        raise ZeroDivisionError
    monitor.track_generation(1.0, True)
    assert monitor.get_metrics("generation_time") == NEVER


def test_flush_waits_for_the_instruments(monitor: IsolatedMonitor) -> None:
    """It returns when all earlier events are in them."""
    monitor.track_generation(1.0, True, model_name="m", prompt_token_count=5)
    monitor.flush()
    monitor.flush(timeout=1.0)
    assert len(monitor._inbox) == 0


@pytest.mark.parametrize("timeout", ["5", -1, float("nan")])
def test_flush_timeout_must_be_seconds(monitor: IsolatedMonitor, timeout: Any) -> None:
    """The error names the remedy."""
    with pytest.raises(ConfigError, match=r"timeout must be seconds"):
        monitor.flush(timeout)


def test_monitor_without_an_endpoint_has_no_url(monitor: IsolatedMonitor) -> None:
    """The URL is None where nothing is served."""
    assert monitor.endpoint_url is None


@pytest.mark.parametrize("name", ["metric_handlers", "log_handlers"])
def test_object_without_the_handler_method_is_named(name: str) -> None:
    """The constructor raises."""
    with pytest.raises(ConfigError, match=rf"{name}\[0\] must .*print.* without handle_"):
        GenerationMonitor(**{name: [print]})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["metric_handlers", "log_handlers"])
def test_handlers_have_their_thread_from_the_start(name: str) -> None:
    """None can be started at the end of the interpreter, where a blocking handler would delay it."""

    class Given:
        def handle_metric(self, **row: Any) -> None:
            """Take a value."""

        def handle_log(self, message: dict[str, Any]) -> None:
            """Take a record."""

    class Later(Given):
        """One that comes when the monitor is there."""

    def running() -> set[str]:
        return {thread.name for thread in threading.enumerate()}

    with isolated_monitor(**{name: [Given()]}) as monitor:
        assert "genmeter-Given" in running()
        setattr(monitor, name, [Later()])
        assert "genmeter-Later" in running()


def test_handlers_are_called_and_flush_waits_for_them(tmp_path: Path) -> None:
    """After flush() handlers and files have all earlier events."""
    passed: list[str] = []

    class Handler:
        def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
            passed.append(metric_name)

        def handle_log(self, message: dict[str, Any]) -> None:
            passed.append(message["message"])

    both: list[Any] = [Handler()]
    with isolated_monitor(metric_handlers=both, log_handlers=both) as monitor:
        monitor.track_generation(1.0, True)
        monitor.flush()
        assert sorted(passed) == [
            "Generation metrics",
            "error_rate",
            "generation_time",
            "success_rate",
            "usage_unread:not_reported",
        ]
    with isolated_monitor(log_dir=tmp_path) as monitor:
        monitor.record_metric("a", 1.0)
        monitor.log_info("hello")
        monitor.flush()
        assert '"a"' in (tmp_path / "metrics.jsonl").read_text()
        assert "hello" in (tmp_path / "afterimage.log").read_text()


def test_flush_names_the_unfinished_handler() -> None:
    """A blocking handler delays nothing else."""
    gate = threading.Event()

    class Stuck:
        def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
            gate.wait(60)

    with isolated_monitor(metric_handlers=[Stuck()]) as monitor:
        monitor.record_metric("a", 1.0)
        with pytest.raises(TimeoutError, match="Stuck"):
            monitor.flush(0.2)
        assert monitor.get_metrics("a")["count"] == 1
        gate.set()


def test_log_dir_variable_sets_the_journals_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GENMETER_LOG_DIR is the default of log_dir."""
    monkeypatch.setenv("GENMETER_LOG_DIR", str(tmp_path))
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with fresh_runtime(), GenerationMonitor() as monitor:
        assert monitor.log_dir == tmp_path
        monitor.record_metric("a", 1.0)
    assert (tmp_path / "metrics.jsonl").exists()


def test_call_that_began_before_a_fork_is_not_active_in_the_child(
    monitor: IsolatedMonitor,
) -> None:
    """The child counts the call."""
    with monitor.generation("m"):
        assert monitor.value("genmeter_generations_active") == 1
        monitor._session.reset_after_fork()
        assert monitor.value("genmeter_generations_active") == 0
    assert monitor.value("genmeter_generations_active") == 0
    assert monitor.value("genmeter_generations_total", genmeter_outcome="success") == 1


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[GenerationMonitor]:
    """Return a monitor with its own provider and no endpoint."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
    with fresh_runtime():
        config = MonitorConfig(endpoint=EndpointConfig(enabled=False))
        with GenerationMonitor(config=config) as monitor:
            monitor.track_generation(1.0, True, model_name="m", prompt_token_count=5)
            yield monitor


def test_page_can_be_mounted_as_a_wsgi_app(own: GenerationMonitor) -> None:
    """The caller's server serves the same page as the endpoint."""
    statuses: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "SCRIPT_NAME": ""}
    body = own.wsgi_app()(environ, lambda status, *_: statuses.append(status))  # type: ignore[arg-type,return-value]
    assert b"genmeter_tokens_total" in b"".join(body)
    assert statuses == ["200 OK"]
    assert own.endpoint_url is None


async def test_page_can_be_mounted_as_an_asgi_app(own: GenerationMonitor) -> None:
    """The same for asynchronous servers."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": [], "root_path": ""}
    await own.asgi_app()(scope, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 200
    assert b"genmeter_tokens_total" in b"".join(each.get("body", b"") for each in sent)


def test_log_dir_is_created_at_once(tmp_path: Path) -> None:
    """The job may write its own files there, as with AfterImage."""
    with isolated_monitor(log_dir=tmp_path / "a" / "b") as monitor:
        assert monitor.log_dir.is_dir()


def test_log_dir_that_cannot_be_created_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the journal is missing."""
    file = tmp_path / "file"
    file.touch()
    with isolated_monitor(log_dir=file, log_handlers=[], metrics_interval=None) as monitor:
        for _ in range(3):
            monitor.track_generation(1.0, True)
            monitor.flush()
        assert monitor.get_metrics("generation_time")["count"] == 3
    (line,) = [each for each in caplog.messages if str(file) in each]
    assert "FileMetricHandler" in line


def test_shutdown_waits_for_handlers(tmp_path: Path) -> None:
    """They get every alert and every line of the journal."""
    alerts: list[str] = []

    def slow(alert: Any) -> None:
        time.sleep(0.05)
        alerts.append(alert.name)

    with isolated_monitor(
        log_dir=tmp_path, alert_handlers=[slow], metrics_interval=0.01
    ) as monitor:
        monitor.track_generation(1.0, False)
        monitor._alerting._tick()
    assert alerts == ["low_success_rate", "high_error_rate"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_callback_that_raises_a_base_exception_is_called_again(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted, logged once, and ends no thread."""
    totals: list[int] = []
    has_gone_on = threading.Event()

    def leave(report: TokenUsageReport) -> None:
        totals.append(report.total_tokens)
        if len(totals) > 2:
            has_gone_on.set()
        raise error

    with isolated_monitor(
        token_usage_callback=leave, token_usage_callback_interval_seconds=0.005
    ) as monitor:
        monitor.track_generation(1.0, True, total_token_count=7)
        assert has_gone_on.wait(HANG)
        name = "genmeter_monitor_handler_errors_total"
        assert monitor.value(name, genmeter_handler="token_usage_callback") >= 2
    assert totals[-1] == 7
    (logged,) = caplog.records
    assert "token_usage_callback failed" in logged.message


def test_blocking_callback_does_not_delay_handlers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The journal is complete, shutdown ends in time, and a warning names the callback."""
    gate, called = threading.Event(), threading.Event()

    def block(_: TokenUsageReport) -> None:
        called.set()
        gate.wait(60)

    with fresh_runtime():
        monitor = GenerationMonitor(
            tmp_path,
            shutdown_timeout=0.3,
            token_usage_callback=block,
            token_usage_callback_interval_seconds=0.001,
            config=MonitorConfig(endpoint=EndpointConfig(enabled=False)),
        )
        monitor.track_generation(1.0, True)
        assert called.wait(10)
        monitor.shutdown()
        monitor._pipeline.deferred_log.finish(5)
        gate.set()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4
    assert "token_usage_callback did not return" in caplog.text
