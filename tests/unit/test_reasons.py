"""Reasons of rejected values: counted each time, logged once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from _held import held
from _hostile import Raising
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider

import genmeter.metrics._cells
import genmeter.pipeline.drain
import genmeter.recording
from _waiting import eventually
from genmeter import GenerationMonitor, LabelLimits, MonitorConfig
from genmeter.events.model import Reason
from genmeter.testing import fresh_runtime, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from genmeter.testing import IsolatedMonitor

TWICE = 2
TELL: dict[Reason, Callable[[GenerationMonitor], None]] = {
    Reason.NOT_A_NUMBER: lambda m: m.track_generation("soon", True),  # type: ignore[arg-type]
    Reason.NOT_FINITE: lambda m: m.track_generation(float("nan"), True),
    Reason.NEGATIVE: lambda m: m.track_generation(1.0, True, prompt_token_count=-1),
    Reason.OUT_OF_RANGE: lambda m: m.track_generation(1.0, True, prompt_token_count=2**63),
    Reason.NOT_A_BOOLEAN: lambda m: m.record_sample(np.array([1, 2])),  # type: ignore[arg-type]
    Reason.NOT_A_MAPPING: lambda m: m.track_generation(1.0, True, metadata=5),
    Reason.NOT_A_TIME: lambda m: m.record_metric("m", 1, {"timestamp": "noon"}),
    Reason.NO_NAME: lambda m: m.record_metric(" ", 1),
    Reason.UNREADABLE: lambda m: m.record_metric("m", Raising()),  # type: ignore[arg-type]
}


def rejected(monitor: IsolatedMonitor, reason: Reason) -> float:
    """Return the counter of a reason from the page."""
    return monitor.value("genmeter_monitor_events_total", genmeter_reason=reason.value)


def warnings(caplog: pytest.LogCaptureFixture, start: str = "dropped invalid") -> list[str]:
    """Return the logged warnings."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "genmeter" and record.getMessage().startswith(start)
    ]


@pytest.mark.parametrize("reason", TELL)
def test_rejected_value_is_counted_by_reason_and_logged_once(
    reason: Reason, caplog: pytest.LogCaptureFixture
) -> None:
    """Two values of a kind make a count of two and one warning."""
    with isolated_monitor() as monitor:
        for _ in range(TWICE):
            TELL[reason](monitor)
        assert rejected(monitor, reason) == TWICE
        (said,) = warnings(caplog)
        assert reason.value.replace("_", " ") in said
        assert monitor.value("genmeter_monitor_events_total", genmeter_result="rejected") == TWICE


def test_every_reason_has_a_test() -> None:
    """Reasons are either parametrized or have a test below."""
    assert {
        *TELL,
        "overflow",
        "inbox_full",
        "after_shutdown",
        "echo",
        "internal",
        "misnamed",
    } == set(Reason)


def test_sum_out_of_range_is_rejected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An infinite counter would make every later scrape fail."""
    monkeypatch.setattr(genmeter.metrics._cells, "MAX_FLOAT", 100.0)
    with isolated_monitor() as monitor:
        for _ in range(1 + TWICE):
            monitor.record_metric("m", 60)
            monitor.page()
        monitor.log_info("gives the notice its turn")
        assert rejected(monitor, Reason.OVERFLOW) == TWICE
        assert monitor.value("genmeter_custom_accumulated") == 60
        assert monitor.get_metrics("m")["count"] == 1 + TWICE
        assert len(warnings(caplog)) == 1


def test_misnamed_keyword_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """It stays data, since AfterImage takes any keyword; the log has the right name."""
    with isolated_monitor() as monitor:
        for _ in range(TWICE):
            monitor.track_generation(1.0, True, model_name="m", total_token_count=1, input_tokens=5)
        assert rejected(monitor, Reason.MISNAMED) == TWICE
        (said,) = warnings(caplog, "input_tokens=")
        assert "did you mean prompt_token_count=?" in said
        assert monitor.to_frame()["metadata_input_tokens"].tolist() == [5, 5]


def test_events_after_shutdown_are_rejected(caplog: pytest.LogCaptureFixture) -> None:
    """They change no total."""
    with isolated_monitor() as monitor:
        monitor.track_generation(1.0, True, prompt_token_count=5)
        monitor.shutdown()
        monitor.track_generation(1.0, True, prompt_token_count=5)
        monitor.track_generation(1.0, True, prompt_token_count=5)
        assert monitor.get_total_token_usage().total_tokens == 5
        assert rejected(monitor, Reason.AFTER_SHUTDOWN) == TWICE
        assert len(warnings(caplog)) == 1


def test_log_message_of_a_log_handler_is_not_returned_to_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A bridge from ``logging`` to the monitor, and a handler that logs, get it once."""

    class Bridge(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            monitor.log_info("bridged", text=record.getMessage())

    class Echo:
        messages: ClassVar[list[str]] = []

        def handle_log(self, message: dict[str, Any]) -> None:
            self.messages.append(message["message"])
            monitor.log_info("echoed")

    bridge = Bridge()
    job = logging.getLogger("genmeter.job")
    job.addHandler(bridge)
    try:
        with isolated_monitor(log_handlers=[Echo()]) as monitor, caplog.at_level(logging.INFO):
            monitor.log_info("hello")
            monitor.log_info("again")
            monitor.flush()
            monitor.flush()
            assert Echo.messages == ["hello", "again"]
            assert rejected(monitor, Reason.ECHO) == TWICE + TWICE
    finally:
        job.removeHandler(bridge)
    assert len(warnings(caplog)) == 1


def test_event_past_the_capacity_is_rejected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The inbox stays at its capacity while nothing drains it."""
    for name, most in (("WAKE", 1), ("HIGH_WATER", 2), ("CAPACITY", 8)):
        monkeypatch.setattr(genmeter.pipeline.drain, name, most)
    monkeypatch.setattr(genmeter.recording, "WAKE", 1)
    provider = MeterProvider(shutdown_on_exit=False)
    with fresh_runtime() as runtime:
        monitor = GenerationMonitor(config=MonitorConfig(meter_provider=provider))
        pipeline = runtime.require_pipeline()
        with held(pipeline):
            for _ in range(20):
                monitor.track_generation(1.0, True, prompt_token_count=1)
                assert len(pipeline.inbox) <= 8
        kept = monitor.get_total_token_usage().total_tokens
        assert kept + runtime.self_metrics.rejected["inbox_full"] == 20
        assert kept >= 8
        monitor.shutdown()
        eventually(lambda: warnings(caplog))
    assert len(warnings(caplog)) == 1


def test_internal_error_in_the_drain_loses_one_event(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted as internal, logged once, and not raised."""

    def fail(_: Any) -> None:
        raise RuntimeError("a defect")

    with isolated_monitor() as monitor:
        with monkeypatch.context() as patched:
            patched.setattr(monitor._session.history, "record", fail)
            for _ in range(TWICE):
                monitor.track_generation(1.0, True, prompt_token_count=5)
        monitor.track_generation(1.0, True, prompt_token_count=5)
        assert rejected(monitor, Reason.INTERNAL) == TWICE
        assert monitor.get_total_token_usage().total_tokens == 5
    (said,) = warnings(caplog, "internal error while processing generation")
    assert "the event was dropped" in said


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("track_generation", (1.0, True)),
        ("track_evaluation", (1.0, True, "e", {})),
        ("record_metric", ("m", 1)),
    ],
)
def test_internal_error_in_a_call_is_counted(
    call: str,
    arguments: tuple[Any, ...],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is not raised."""

    def fail(_: Any) -> None:
        raise RuntimeError("a defect")

    with isolated_monitor() as monitor:
        with monkeypatch.context() as patched:
            patched.setattr(monitor, "_append", fail)
            getattr(monitor, call)(*arguments)
            getattr(monitor, call)(*arguments)
        assert rejected(monitor, Reason.INTERNAL) == TWICE
        monitor.log_info("gives the notice its turn")
    assert len(warnings(caplog, f"dropped invalid {call}")) == 1


def test_warning_has_the_argument_and_a_short_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Long values are cut, and the line can be encoded."""
    caplog.set_level(logging.WARNING)
    with isolated_monitor() as monitor:
        monitor.track_generation(1.0, True, prompt_token_count="\ud800" * 10_000)
    (said,) = warnings(caplog)
    assert said.startswith("dropped invalid prompt_token_count=?")
    assert len(said.encode()) < 400


def test_warning_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """A value cannot forge a line of the job's log."""
    with isolated_monitor() as monitor:
        monitor.track_generation(1.0, True, prompt_token_count="9\nERROR:root:forged")
    (said,) = warnings(caplog)
    assert said.startswith("dropped invalid prompt_token_count=9 ERROR:root:forged (not a number)")
    assert "\n" not in said


def test_number_of_warnings_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    """A job with a new invalid score each time fills neither log nor memory."""
    with isolated_monitor() as monitor:
        for number in range(1_200):
            monitor.record_metric(f"m{number}", "bad")  # type: ignore[arg-type]
        assert rejected(monitor, Reason.NOT_A_NUMBER) == 1_200
    assert len(warnings(caplog)) <= 1_000


class Leaving:
    """A value whose conversions all raise SystemExit."""

    def __str__(self) -> str:
        """Leave."""
        raise SystemExit(3)

    __repr__ = __str__
    __float__ = __bool__ = __index__ = __str__  # type: ignore[assignment]


def test_value_that_raises_system_exit_is_rejected() -> None:
    """It ends neither the job nor the drain's thread."""
    with isolated_monitor() as monitor:
        bad: Any = Leaving()
        monitor.track_generation(bad, bad, model_name=bad, prompt_token_count=bad, error=bad)
        monitor.record_metric(bad, bad)
        monitor.track_generation(1.0, True, model_name="m", prompt_token_count=7)
        assert monitor.get_total_token_usage().total_tokens == 7
        assert monitor.value("genmeter_generations_total") == 2


def test_first_value_past_a_limit_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The warning has the reason for `other`, and the remedy."""
    config = MonitorConfig(limits=LabelLimits(models=2))
    with isolated_monitor(config) as monitor:
        for number in range(6):
            monitor.track_generation(1.0, False, model_name=f"m{number}")
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("models limit reached; new values are recorded as 'other'")
    assert said.endswith("LabelLimits.models (GENMETER_MAX_MODELS) raises it")


def test_missing_global_provider_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Without a provider the metrics are exported nowhere."""
    with (
        fresh_runtime(),
        GenerationMonitor(config=MonitorConfig(meter_provider=NoOpMeterProvider())),
    ):
        pass
    assert "the OpenTelemetry API's own stand-in, which exports nothing" in caplog.text
