"""Types of the public API; this file is checked by mypy and never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_type

import pandas as pd

from genmeter import (
    Alert,
    AlertmanagerHandler,
    AlertOverride,
    AlertReceiver,
    AlertSettings,
    Budget,
    BudgetAmount,
    BudgetError,
    BudgetExceededError,
    BudgetLimit,
    CostReport,
    EndpointConfig,
    FileLogHandler,
    FileMetricHandler,
    GenerationHandle,
    GenerationMonitor,
    JournalConfig,
    LogHandler,
    MetricHandler,
    ModelTokenUsage,
    MonitorConfig,
    Price,
    PriceTable,
    Reservation,
    TokenUsageReport,
    UnpricedModelError,
    UsageReport,
    UsageUnreadError,
    process_token_usage,
    read_export,
    read_usage,
)
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from matplotlib.figure import Figure

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
        alerts=AlertSettings(alerts={"high_error_rate": AlertOverride(threshold=0.1)}),
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
assert_type(report.cost([{"m": {"input": 1, "output": 2, "batch": 0.5}, "a": "m"}]), CostReport)
assert_type(PriceTable({"m": (1.0, 2.0), "alias": "m"}).cost("m", 1, 1), float | None)
PRICES = {"m": {"input": 2.5, "output": 10.0}}
assert_type(MonitorConfig(prices=PRICES).prices, PriceTable | None)
assert_type(MonitorConfig(alerts="alerts.toml").alerts, AlertSettings)
MonitorConfig(prices=[PRICES, {"alias": "m"}, "prices.toml", "genai-prices"])
MonitorConfig(prices={"m": (1.0, 2.0), "n": {"input": 1, "output": 2, "batch": 0.5}, "alias": "m"})
price = Price(
    1,
    2,
    tiers=[{"above": 200_000, "input": 4, "output": 18}],
    service_tiers={"flex": 0.5, "priority": {"input": 3.5, "output": 21}},
    batch={"input": 0.5},
)
Price(1, 2, service_tiers={"flex": 0.5}, batch=0.5)
assert_type(price.tiers[0].above, int)
assert_type(price.service_tiers, tuple[tuple[str, float | tuple[tuple[str, float], ...]], ...])
assert_type(price.batch, float | tuple[tuple[str, float], ...] | None)
Price(1, 2, service_tiers={"flex": "half"})  # type: ignore[dict-item]
assert_type(process_token_usage(), TokenUsageReport)
assert_type(monitor.endpoint_url, str | None)
assert_type(monitor.alert_settings, AlertSettings)
assert_type(monitor.lifespan(), AbstractAsyncContextManager[None])
assert_type(monitor.generation(model="m", step="s"), GenerationHandle)
assert_type(monitor.watch(Path("a client"), step="s", provider="p", include_usage=True), Path)

with monitor.generation(model="m") as call:
    assert_type(call, GenerationHandle)
    call.usage({"prompt_tokens": 1}, completion_token_count=2)
    call.usage({"prompt_tokens": 1}, add=True, cache_write_1h_token_count=2)
    call.cost(0.01)
    assert_type(call.model, str | None)
    assert_type(call.finish_reason, str | None)
    assert_type(call.stream(iter([b"chunk"])), Iterator[bytes])
    call.model, call.finish_reason = "m", "stop"

monitor.generation(model="m", service_tier="flex", batch=True)


async def read(chunks: AsyncIterator[bytes]) -> None:
    """Read an asynchronous stream."""
    async with monitor.generation(model="m") as call:
        async for chunk in call.stream(chunks):
            assert_type(chunk, bytes)


budget = monitor.budget(tokens=100_000, usd=5.0, step="s", tags={"tenant": "a"}, max_unread=None)
assert_type(budget, Budget)
assert_type(monitor.budget(tokens=1, scope="job").is_of_job, bool)
assert_type(budget.spent, BudgetAmount)
assert_type(budget.reserved.usd, float)
assert_type(budget.left, BudgetLimit)
assert_type(budget.limit.tokens, int | None)
assert_type(budget.has_room(), bool)
assert_type(budget.complete, bool)
with budget.reserve(tokens=4_096, usd=0.1, timeout=None) as reserved:
    assert_type(reserved, Reservation)
    assert_type(reserved.tokens, int)


async def reserving() -> None:
    """Reserve in a task."""
    async with budget.reserve(4_096) as reservation:
        assert_type(reservation, Reservation)


def why(error: BudgetError) -> object:
    """Return what an error says."""
    if isinstance(error, UsageUnreadError):
        return assert_type(error.reason, str)
    if isinstance(error, UnpricedModelError):
        return assert_type(error.models, tuple[str, ...])
    assert_type(error.spent.tokens, int)
    return BudgetExceededError(str(error), error.spent, error.reserved, error.limit)


@monitor.generation()
def plain(prompt: str) -> int:
    """Replace a model call."""
    return len(prompt)


@monitor.generation()
async def asynchronous(prompt: str) -> int:
    """Replace an asynchronous model call."""
    return len(prompt)


@monitor.generation()
def generator(prompt: str) -> Generator[str, None, int]:
    """Yield the chunks of a model call."""
    yield prompt
    return 1


@monitor.generation()
async def async_generator(prompt: str) -> AsyncIterator[str]:
    """Yield the chunks of an asynchronous model call."""
    yield prompt


def frame() -> pd.DataFrame:
    """Return the report's frame."""
    return report.to_frame()


as_function: Callable[[str], int] = plain
as_coroutine: Callable[[str], Awaitable[int]] = asynchronous
as_generator: Callable[[str], Generator[str, None, int]] = generator
as_async_generator: Callable[[str], AsyncIterator[str]] = async_generator


class Handler:
    """A handler of the job; it does not derive from a class of genmeter."""

    def handle_metric(self, metric_name: str, value: float, metadata: dict[str, Any]) -> None:
        """Handle a metric."""

    def handle_log(self, message: dict[str, Any]) -> None:
        """Handle a record."""


def on_alert(alert: Alert) -> None:
    """Handle an alert."""
    assert_type(alert.data, dict[str, Any])
    assert_type(alert.status, Literal["firing", "resolved"])
    assert_type(alert.labels, dict[str, str])
    assert_type(alert.starts_at, datetime | None)


as_metric_handler: MetricHandler = Handler()
as_log_handler: LogHandler = Handler()
handled = GenerationMonitor(
    metric_handlers=[FileMetricHandler("logs"), Handler()],
    log_handlers=[FileLogHandler(Path("logs"), max_bytes=1_000_000, keep=3), Handler()],
    alert_handlers=[on_alert],
    metrics_interval=None,
    config=MonitorConfig(log_dir="logs", journal=JournalConfig(keep=2), evaluation_events=True),
)
assert_type(handled.metric_handlers, list[MetricHandler])
assert_type(handled.log_handlers, list[LogHandler])
handled.alert_handlers = [on_alert]


class Board(AlertReceiver):
    """A handler with the state of each evaluation."""

    def __call__(self, alert: Alert) -> None:
        """Handle an alert."""

    def refresh(self, alerts: Sequence[Alert], interval: float) -> None:
        """Handle the firing alerts."""

    def flush(self, timeout: float) -> bool:
        """Return whether all alerts are delivered."""
        return timeout >= 0


handled.alert_handlers = [Board()]
as_receiver: AlertReceiver = AlertmanagerHandler("http://localhost:9093")
to_alertmanager = AlertmanagerHandler(
    ["http://localhost:9093"], labels={"cluster": "a"}, password_file=Path("secret"), username="u"
)
handled.alert_handlers = [to_alertmanager]
assert_type(to_alertmanager.flush(1.0), bool)
assert_type(handled.to_frame("generations", timedelta(hours=1)), pd.DataFrame)
assert_type(handled.save_metrics(), Path)
handled.export_metrics("run.csv", format="csv", window=timedelta(hours=1))
assert_type(read_export("run.json"), pd.DataFrame)
usage = read_usage(
    "runs", Path("run.json"), window=timedelta(hours=1), prices={"m": (1.0, 2.0)}, by="model"
)
assert_type(usage, UsageReport)
assert_type(read_usage("127.0.0.1:9464", by=["job"], on_error="note").complete, bool)
assert_type(usage.to_frame(), pd.DataFrame)
assert_type(usage.since, datetime | None)
assert_type(usage.notes, list[str])
assert_type(usage.to_json(), str)


def figures() -> tuple[dict[str, Figure] | None, Figure]:
    """Return the plots."""
    return handled.visualize_metrics(return_figures=True), handled.plot_metric("error_rate")


with isolated_monitor() as isolated:
    assert_type(isolated.value("genmeter_tokens_total"), float)
with GenerationMonitor() as entered:
    assert_type(entered, GenerationMonitor)
