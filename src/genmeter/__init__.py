"""genmeter: the instrument panel for jobs that generate text with LLMs.

``from genmeter import GenerationMonitor`` counts calls, tokens, cost, errors and evaluations as
OpenTelemetry metrics, serves them to Prometheus, and gives the job's own code its token totals.
"""

from genmeter._version import __version__
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
