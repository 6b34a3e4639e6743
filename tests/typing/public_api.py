"""The types that users of the public API rely on; mypy checks this file, nothing runs it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, assert_type

from genmeter import (
    CostReport,
    EndpointConfig,
    GenerationHandle,
    GenerationMonitor,
    ModelTokenUsage,
    MonitorConfig,
    Price,
    TokenUsageReport,
    process_token_usage,
)
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pandas as pd

monitor = GenerationMonitor(
    "logs",
    None,
    [],
    None,
    60,
    5,
    alert_max_error_rate=0.1,
    token_usage_callback=lambda report: report.to_frame(),
    config=MonitorConfig(
        default_model="m",
        endpoint=EndpointConfig(port=0),
    ),
)
assert_type(monitor.get_metrics("error_rate"), dict[str, float])
assert_type(monitor.get_metrics("error_rate", timedelta(minutes=1)), dict[str, float])
report = monitor.get_total_token_usage(window=timedelta(hours=1))
assert_type(report, TokenUsageReport)
assert_type(report.by_model, list[ModelTokenUsage])
assert_type(report.total_tokens, int)
assert_type(report.complete, bool)
assert_type(report.cost({"m": Price(1.0, 2.0)}), CostReport)
assert_type(process_token_usage(), TokenUsageReport)
assert_type(monitor.endpoint_url, str | None)
assert_type(monitor.generation(model="m", step="s"), GenerationHandle)

with monitor.generation(model="m") as call:
    assert_type(call, GenerationHandle)
    call.usage({"prompt_tokens": 1}, completion_token_count=2)


@monitor.generation()
def plain(prompt: str) -> int:
    """Stand for a call of a model."""
    return len(prompt)


@monitor.generation()
async def asynchronous(prompt: str) -> int:
    """Stand for an asynchronous call of a model."""
    return len(prompt)


def frame() -> pd.DataFrame:
    """Give the report's frame."""
    return report.to_frame()


as_function: Callable[[str], int] = plain
as_coroutine: Callable[[str], Awaitable[int]] = asynchronous
with isolated_monitor() as isolated:
    assert_type(isolated.value("genmeter_tokens_total"), float)
with GenerationMonitor() as entered:
    assert_type(entered, GenerationMonitor)
