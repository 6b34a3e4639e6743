"""Arguments whose own methods raise: what checks them says so, what records them goes on."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from _hostile import LyingStr, Raising, StrKey

import genmeter
from genmeter import AlertmanagerHandler, ConfigError, GenerationMonitor, MonitorConfig
from genmeter.config.checks import HANDLERS, PATH, TEXT, count, is_a, number, start_of
from genmeter.events.values import MAX_REPR, safe_repr
from genmeter.hooks import on_aside
from genmeter.report.usage_report import read_usage
from genmeter.testing import assert_exposition, fresh_runtime, isolated_monitor, redirected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class LongDelta(timedelta):
    """A window whose methods raise."""

    def total_seconds(self) -> float:
        """Raise."""
        raise RuntimeError("seconds")

    __gt__ = __lt__ = total_seconds  # type: ignore[assignment]


def without_end() -> Iterator[int]:
    """Yield for ever."""
    while True:
        yield 1


@pytest.mark.parametrize(
    "call",
    [
        lambda value: MonitorConfig(default_model=value),
        lambda value: MonitorConfig(expected_samples=value),
        lambda value: MonitorConfig(prices=value),
        lambda value: MonitorConfig(alerts=value),
        genmeter.PriceTable,
        lambda value: genmeter.PriceTable.coerce([value]),
        genmeter.PriceTable.from_file,
        genmeter.AlertSettings.from_file,
        genmeter.AlertSettings.coerce,
        genmeter.AlertmanagerHandler,
        lambda value: genmeter.AlertmanagerHandler("http://127.0.0.1:1", labels=value),
        lambda value: genmeter.AlertmanagerHandler("http://127.0.0.1:1", username=value),
        genmeter.FileMetricHandler,
        genmeter.read_export,
        read_usage,
        lambda value: read_usage("none.json", by=value),
        genmeter.process_token_usage,
        genmeter.step,
        lambda value: genmeter.TokenUsageReport([]).log_to(value),
        lambda value: genmeter.TokenUsageReport([]).cost(value),
        lambda value: on_aside(value, print),
        lambda value: assert_exposition(value, ""),
        lambda value: redirected(value).__enter__(),
        lambda value: isolated_monitor(value).__enter__(),
    ],
)
def test_a_value_that_raises_is_an_error_of_ours(call: Callable[[Any], object]) -> None:
    """The message has the argument and the class of the value, whose own text raises."""
    with pytest.raises(ConfigError, match="an object of Raising"):
        call(Raising())


def test_the_text_of_a_value_is_bounded() -> None:
    """A long text is cut, one with more digits than Python writes or that raises is described."""
    assert safe_repr("a'b") == repr("a'b")
    assert len(safe_repr("x" * 10**6)) == MAX_REPR + 3
    assert safe_repr(10**5_000) == "an object of int that cannot be shown"
    assert safe_repr(Raising()) == "an object of Raising that cannot be shown"


def test_a_text_of_a_subclass_becomes_a_true_one() -> None:
    """Its methods do not raise later."""
    assert type(TEXT("name", LyingStr("text"))) is str
    assert type(PATH("path", LyingStr("text"))) is str
    assert not is_a(Raising(), str)


@pytest.mark.parametrize("path", ["a\0b", "\ud800", ""])
def test_a_path_that_no_system_has_is_rejected(path: str) -> None:
    """It would raise where it is used."""
    with pytest.raises(ConfigError, match="path must be a path"):
        PATH("path", path)


def test_a_window_of_a_subclass_is_read_by_its_base() -> None:
    """Its methods are not called."""
    assert start_of(LongDelta(seconds=5)) == pytest.approx(start_of(timedelta(seconds=5)))


def test_handlers_without_end_are_rejected() -> None:
    """An iterator that never ends does not fill the memory."""
    with pytest.raises(ConfigError, match="handlers must be a list"):
        HANDLERS("handlers", without_end())


class Endless:
    """An object whose keys never end."""

    def keys(self) -> Iterator[int]:
        """Yield for ever."""
        return without_end()

    def __getitem__(self, key: int) -> int:
        return key

    __iter__ = keys


@pytest.mark.parametrize("name", ["service_tiers", "tiers"])
def test_prices_without_end_are_rejected(name: str) -> None:
    """What is neither a mapping nor a list is not read."""
    with pytest.raises(ConfigError, match=f"{name} must be"):
        genmeter.Price(input=1, output=2, **{name: Endless()})


@pytest.mark.parametrize("name", ["bounds", "labels"])
def test_custom_metrics_without_end_are_rejected(name: str) -> None:
    """So it is with bounds and labels."""
    with pytest.raises(ConfigError, match=f"{name} must be"):
        genmeter.CustomMetric(name="app.m", kind="histogram", **{name: Endless()})


def test_keys_without_end_are_rejected() -> None:
    """So it is with the keys of a report."""
    with pytest.raises(ConfigError, match="by must be some of"):
        read_usage("none.json", by=without_end())  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [np.float32(5), np.float64(5), np.int64(5)])
def test_numpys_seconds_are_waited_for(seconds: Any, caplog: pytest.LogCaptureFixture) -> None:
    """They are converted where they are checked: a lock takes no number of NumPy."""
    with fresh_runtime():
        monitor = GenerationMonitor(config=MonitorConfig(), shutdown_timeout=seconds)
        monitor.track_generation(0.1, True, model_name="m", total_token_count=3)
        monitor.flush(seconds)
        budget = monitor.budget(tokens=10)
        with budget.reserve(tokens=np.int64(1), timeout=seconds):
            assert budget.reserved.tokens == 1
        monitor.shutdown_timeout = seconds
        with caplog.at_level(logging.ERROR):
            monitor.shutdown()
    assert caplog.messages == []
    assert type(number()("a", seconds)) in (int, float)
    assert type(count()("a", np.int64(1))) is int


def test_what_is_set_later_is_checked() -> None:
    """Lists of handlers stay the caller's own, and anything else is an error when it is set."""
    with isolated_monitor() as monitor:
        handlers: list[Any] = []
        monitor.alert_handlers = handlers
        assert monitor.alert_handlers is handlers
        for name in ("metric_handlers", "log_handlers", "alert_handlers", "shutdown_timeout"):
            with pytest.raises(ConfigError, match=f"{name} must be"):
                setattr(monitor, name, Raising())


def test_exports_name_what_is_wrong(tmp_path: Path) -> None:
    """A path, a format or a window that raises is an error of genmeter."""
    with isolated_monitor() as monitor:
        with pytest.raises(ConfigError, match="output_path must be"):
            monitor.export_metrics(Raising())  # type: ignore[arg-type]
        with pytest.raises(genmeter.ExportError, match="format must be"):
            monitor.export_metrics(tmp_path / "a.json", Raising())  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="window must be"):
            monitor.export_metrics(tmp_path / "a.json", window=Raising())  # type: ignore[arg-type]
        with pytest.raises(genmeter.ExportError, match="an object of Raising"):
            monitor.plot_metric(Raising())  # type: ignore[arg-type]


def test_a_result_that_raises_is_returned_and_its_call_counted() -> None:
    """A decorated function may return anything, also what raises if it is asked for its class."""
    results = [Raising(), {StrKey("stream"): 1}]
    with isolated_monitor() as monitor:
        for result in results:
            assert monitor.generation("m")(lambda result=result: result)() is result
        assert monitor.value("genmeter_generations_total", genmeter_outcome="success") == 2
        assert monitor.value("genmeter_generations_active") == 0


def test_a_handle_can_be_shown_whatever_its_model_is() -> None:
    """Its text does not raise in a line of the job's log."""
    with isolated_monitor() as monitor, monitor.generation(Raising(), Raising()) as call:  # type: ignore[arg-type]
        assert repr(call) == "<GenerationHandle of the default model, step None>"


def test_lists_in_lists_without_end_are_rejected() -> None:
    """Prices may be a list, which may not have itself."""
    nested: list[Any] = []
    nested.append(nested)
    with pytest.raises(ConfigError, match="prices must not be lists in lists"):
        genmeter.PriceTable.coerce(nested)


def test_a_reservation_of_more_tokens_than_can_be_shown_is_rejected() -> None:
    """Python writes no number of so many digits, so the refusal could not be raised."""
    with isolated_monitor() as monitor:
        budget = monitor.budget(tokens=10)
        with pytest.raises(ConfigError, match="tokens must be a whole number"):
            budget.reserve(tokens=10**5_000)


def test_variables_are_never_shown() -> None:
    """They may have secrets."""
    with pytest.raises(ConfigError) as caught:
        MonitorConfig.from_env({"GENMETER_PASSWORD": "secret", "OTHER": 5})  # type: ignore[dict-item]
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="environ must be a mapping"):
        MonitorConfig.from_env(Raising())  # type: ignore[arg-type]


def test_long_values_are_cut_in_every_message() -> None:
    """A message begins with the argument's name and ends with the remedy, whatever the value's length."""
    with pytest.raises(ConfigError) as caught:
        AlertmanagerHandler("http://127.0.0.1:9093", key_file="x" * 10_000_000)
    message = str(caught.value)
    assert message.startswith("key_file must be set together with cert_file, got 'xxx")
    assert "characters are not shown" in message
    assert message.endswith("xxx'")
    assert len(message) < 2_000
    assert str(ConfigError(message)) == message
