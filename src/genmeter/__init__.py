"""genmeter: the instrument panel for jobs that generate text with LLMs.

``from genmeter import GenerationMonitor`` counts calls, tokens, cost, errors and evaluations as
OpenTelemetry metrics, serves them to Prometheus, and gives the job's own code its token totals.

The names below are imported when they are first used: entry points of this package are loaded by pytest and
by frameworks, whether a job uses it or not.
"""

import importlib
from typing import TYPE_CHECKING, Any

from genmeter._version import __version__
from genmeter.job import forks as _forks  # noqa: F401 - notes the forks from now on

if TYPE_CHECKING:
    from genmeter.alerting.alertmanager import AlertmanagerHandler
    from genmeter.alerting.notify import AlertReceiver
    from genmeter.alerting.state import Alert
    from genmeter.budget.budget import Budget, Reservation
    from genmeter.call.handle import GenerationHandle
    from genmeter.config.alerts import AlertOverride, AlertSettings
    from genmeter.config.monitor import (
        CustomMetric,
        EndpointConfig,
        HistoryConfig,
        JournalConfig,
        LabelLimits,
        MonitorConfig,
    )
    from genmeter.config.prices import Price, PriceTable
    from genmeter.errors import (
        BudgetAmount,
        BudgetError,
        BudgetExceededError,
        BudgetLimit,
        BudgetTimeoutError,
        BudgetUnavailableError,
        ConfigError,
        EndpointError,
        ExportError,
        GenmeterError,
        MissingExtraError,
        UnpricedModelError,
        UsageUnreadError,
    )
    from genmeter.files.read import read_export
    from genmeter.handlers.base import FileLogHandler, FileMetricHandler, LogHandler, MetricHandler
    from genmeter.history.token_report import CostReport, ModelTokenUsage, TokenUsageReport
    from genmeter.monitor import GenerationMonitor, job_token_usage, process_token_usage
    from genmeter.observed.steps import step
    from genmeter.report.usage_report import UsageReport, read_usage
    from genmeter.spans.logs import GenAILogProcessor
    from genmeter.spans.processor import GenAISpanProcessor

__all__ = [
    "Alert",
    "AlertOverride",
    "AlertReceiver",
    "AlertSettings",
    "AlertmanagerHandler",
    "Budget",
    "BudgetAmount",
    "BudgetError",
    "BudgetExceededError",
    "BudgetLimit",
    "BudgetTimeoutError",
    "BudgetUnavailableError",
    "ConfigError",
    "CostReport",
    "CustomMetric",
    "EndpointConfig",
    "EndpointError",
    "ExportError",
    "FileLogHandler",
    "FileMetricHandler",
    "GenAILogProcessor",
    "GenAISpanProcessor",
    "GenerationHandle",
    "GenerationMonitor",
    "GenmeterError",
    "HistoryConfig",
    "JournalConfig",
    "LabelLimits",
    "LogHandler",
    "MetricHandler",
    "MissingExtraError",
    "ModelTokenUsage",
    "MonitorConfig",
    "Price",
    "PriceTable",
    "Reservation",
    "TokenUsageReport",
    "UnpricedModelError",
    "UsageReport",
    "UsageUnreadError",
    "__version__",
    "job_token_usage",
    "process_token_usage",
    "read_export",
    "read_usage",
    "step",
]

_MODULES = {
    "genmeter.alerting.alertmanager": ("AlertmanagerHandler",),
    "genmeter.alerting.notify": ("AlertReceiver",),
    "genmeter.alerting.state": ("Alert",),
    "genmeter.budget.budget": ("Budget", "Reservation"),
    "genmeter.call.handle": ("GenerationHandle",),
    "genmeter.config.alerts": ("AlertOverride", "AlertSettings"),
    "genmeter.config.monitor": (
        "CustomMetric",
        "EndpointConfig",
        "HistoryConfig",
        "JournalConfig",
        "LabelLimits",
        "MonitorConfig",
    ),
    "genmeter.config.prices": ("Price", "PriceTable"),
    "genmeter.errors": (
        "BudgetAmount",
        "BudgetError",
        "BudgetExceededError",
        "BudgetLimit",
        "BudgetTimeoutError",
        "BudgetUnavailableError",
        "ConfigError",
        "EndpointError",
        "ExportError",
        "GenmeterError",
        "MissingExtraError",
        "UnpricedModelError",
        "UsageUnreadError",
    ),
    "genmeter.files.read": ("read_export",),
    "genmeter.handlers.base": (
        "FileLogHandler",
        "FileMetricHandler",
        "LogHandler",
        "MetricHandler",
    ),
    "genmeter.history.token_report": ("CostReport", "ModelTokenUsage", "TokenUsageReport"),
    "genmeter.monitor": ("GenerationMonitor", "job_token_usage", "process_token_usage"),
    "genmeter.observed.steps": ("step",),
    "genmeter.report.usage_report": ("UsageReport", "read_usage"),
    "genmeter.spans.logs": ("GenAILogProcessor",),
    "genmeter.spans.processor": ("GenAISpanProcessor",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that has it."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    """Return the public names, and what is imported already."""
    return sorted({*globals(), *__all__})
