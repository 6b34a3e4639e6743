"""The helpers for people who test code that uses genmeter."""

from __future__ import annotations

import atexit
import gc
import threading
from collections import Counter

import pytest

import genmeter
from _waiting import eventually
from genmeter import ConfigError, CustomMetric, GenerationMonitor, MonitorConfig, runtime
from genmeter.history.store import History
from genmeter.metrics.meter import BuiltinMeterProvider
from genmeter.pipeline.drain import Pipeline
from genmeter.pipeline.worker import Worker
from genmeter.session import Session, SessionState
from genmeter.testing import IsolatedMonitor, assert_exposition, fresh_runtime, isolated_monitor

PAGE = """
# HELP calls_total Calls.
# TYPE calls_total counter
calls_total{model="a"} 2.0
calls_total{model="b"} 1.0
# TYPE calls_created gauge
calls_created{model="a"} 1.7e9
# TYPE active gauge
active 3.0
"""


def test_value_sums_the_matching_series() -> None:
    """An empty label matches its absence, and no series is 0."""
    with isolated_monitor() as monitor:
        monitor.track_generation(1.0, True, model_name="a", step="s", prompt_token_count=1)
        monitor.track_generation(1.0, True, model_name="a", prompt_token_count=2)
        monitor.track_generation(1.0, True, model_name="b", prompt_token_count=4)
        assert monitor.value("genmeter_tokens_total") == 7
        assert monitor.value("genmeter_tokens_total", gen_ai_request_model="a") == 3
        assert monitor.value("genmeter_tokens_total", genmeter_step="") == 6
        assert monitor.value("genmeter_tokens_total", gen_ai_request_model="c") == 0
        assert len(monitor.series("genmeter_tokens_total")) == 3


def test_page_has_two_formats() -> None:
    """Prometheus text is the default."""
    with isolated_monitor() as monitor:
        assert monitor.page(openmetrics=True).endswith("# EOF\n")
        assert "# EOF" not in monitor.page()


def test_isolated_monitors_share_nothing() -> None:
    """Counts, histories and the runtime of the process are separate."""
    outside = runtime.current()
    with isolated_monitor() as first:
        first.track_generation(1.0, True, prompt_token_count=1)
        with isolated_monitor() as second:
            assert second.get_total_token_usage().total_tokens == 0
            assert second.value("genmeter_generations_total") == 0
            assert genmeter.process_token_usage().total_tokens == 0
        assert genmeter.process_token_usage().total_tokens == 1
        assert first.value("genmeter_tokens_total") == 1
    assert runtime.current() is outside


def test_isolated_monitor_leaves_nothing_behind() -> None:
    """The number of runtimes, threads and exit handlers does not grow."""

    def use(count: int) -> None:
        for _ in range(count):
            with isolated_monitor(
                alert_handlers=[lambda _: None],
                metric_handlers=[],
                token_usage_callback=lambda _: None,
            ) as monitor:
                monitor.track_generation(1.0, True, model_name="a", total_token_count=5)
                assert monitor.value("genmeter_generations_total") == 1

    def left() -> tuple[int, ...]:
        gc.collect()
        kinds = Counter(type(each) for each in gc.get_objects())
        return (
            len(runtime._runtimes),
            atexit._ncallbacks(),
            threading.active_count(),
            kinds[runtime.Runtime],
            kinds[Session],
            kinds[SessionState],
            kinds[Pipeline],
            kinds[History],
            kinds[BuiltinMeterProvider],
            kinds[IsolatedMonitor],
            kinds[Worker],
        )

    use(2)
    assert eventually(
        lambda: "genmeter-alerts" not in {each.name for each in threading.enumerate()}
    )
    before = left()
    use(10)
    assert eventually(lambda: all(now <= then for now, then in zip(left(), before, strict=True)))


def test_isolated_monitor_does_not_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test is the same on every machine."""
    monkeypatch.setenv("GENMETER_DEFAULT_MODEL", "from the environment")
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "no port")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "a=b")
    with isolated_monitor() as monitor:
        monitor.track_generation(1.0, True)
        assert monitor.endpoint_url is None
        assert monitor.value("genmeter_generations_total", gen_ai_request_model="unknown") == 1
        assert "target_info" not in monitor.page()


def test_isolated_monitor_keeps_other_settings() -> None:
    """Only drain and exporters are set by the helper."""
    with isolated_monitor(MonitorConfig(default_model="d"), shutdown_timeout=1) as monitor:
        assert monitor.shutdown_timeout == 1
        monitor.track_generation(1.0, True)
        assert monitor.value("genmeter_generations_total", gen_ai_request_model="d") == 1


def test_isolated_monitor_is_shut_down_after_its_block() -> None:
    """This holds after an exception too, and reads still work."""
    with pytest.raises(ZeroDivisionError), isolated_monitor() as monitor:  # noqa: PT012
        monitor.track_generation(1.0, True, prompt_token_count=5)
        raise ZeroDivisionError
    monitor.track_generation(1.0, True, prompt_token_count=5)
    assert monitor.get_total_token_usage().total_tokens == 5


def test_fresh_runtime_shuts_its_monitors_down() -> None:
    """Afterwards the previous runtime is current again."""
    before = runtime.current()
    with fresh_runtime() as fresh:
        assert runtime.current() is fresh
        monitor = GenerationMonitor(
            config=MonitorConfig(endpoint=genmeter.EndpointConfig(enabled=False))
        )
        monitor.track_generation(1.0, True)
    assert monitor._session.state.is_closed
    assert runtime.current() is before


@pytest.mark.parametrize(
    "expected",
    [
        'calls_total{model="a"} 2\ncalls_total{model="b"} 1',
        '\n  calls_total{model="b"} 1.0\n\n  calls_total{model="a"} 2.0  \n',
        "# a comment\nactive 3",
        "",
    ],
)
def test_equal_pages_pass(expected: str) -> None:
    """Order, comments, white space, start times and further metrics do not matter."""
    assert_exposition(PAGE, expected)


@pytest.mark.parametrize(
    ("expected", "lines"),
    [
        (
            'calls_total{model="a"} 5\ncalls_total{model="b"} 1',
            ['missing:    calls_total{model="a"} 5', 'unexpected: calls_total{model="a"} 2'],
        ),
        ('calls_total{model="a"} 2', ['unexpected: calls_total{model="b"} 1']),
        ("none 1", ["missing:    none{} 1"]),
    ],
)
def test_difference_is_listed_line_by_line(expected: str, lines: list[str]) -> None:
    """Missing and unexpected samples are listed as on the page."""
    with pytest.raises(AssertionError) as caught:
        assert_exposition(PAGE, expected)
    assert str(caught.value).splitlines()[1:] == lines


def test_label_may_contain_line_separators() -> None:
    """Characters that Python treats as line ends are part of the value."""
    with isolated_monitor() as monitor:
        monitor.record_metric("a\u2028b\x85c", 1)
        assert_exposition(
            monitor.page(), 'genmeter_custom_samples_total{genmeter_metric="a\u2028b\x85c"} 1'
        )


def test_unknown_name_is_an_error() -> None:
    """Otherwise a misspelt metric would always be 0."""
    config = MonitorConfig(custom_metrics=(CustomMetric(name="app.docs", kind="counter"),))
    with isolated_monitor(config) as monitor:
        with pytest.raises(ConfigError, match="did you mean 'genmeter_generations_total'"):
            monitor.value("genmeter_genrations_total")
        with pytest.raises(ConfigError, match="'zzz'; see README"):
            monitor.series("zzz")
        assert monitor.value("genmeter_generations_total") == 0
        assert monitor.value("gen_ai_client_inference_duration_seconds_count") == 0
        assert monitor.value("app_docs_total") == 0
        monitor.track_generation(1.0, True, model_name="m")
        assert len(monitor.series("genmeter_generations_created")) == 2
