"""genmeter: the instrument panel for jobs that generate text with LLMs.

``from genmeter import GenerationMonitor`` counts calls, tokens, cost, errors and evaluations as
OpenTelemetry metrics, serves them to Prometheus, and tells the job's own code its token totals.
"""

from genmeter._version import __version__
from genmeter.alert_settings import AlertOverride, AlertSettings
from genmeter.config import (
    CustomMetric,
    EndpointConfig,
    HistoryConfig,
    JournalConfig,
    LabelLimits,
    MonitorConfig,
)
from genmeter.errors import (
    ConfigError,
    EndpointError,
    ExportError,
    GenmeterError,
    MissingExtraError,
)
from genmeter.generation import GenerationHandle
from genmeter.handlers import FileLogHandler, FileMetricHandler, LogHandler, MetricHandler
from genmeter.monitor import GenerationMonitor, process_token_usage
from genmeter.outputs.alerts.alertmanager import AlertmanagerHandler
from genmeter.outputs.alerts.book import Alert
from genmeter.outputs.alerts.delivery import AlertReceiver
from genmeter.outputs.exports.reading import read_export
from genmeter.outputs.tokens import CostReport, ModelTokenUsage, TokenUsageReport
from genmeter.prices import Price, PriceTable

__all__ = [
    "Alert",
    "AlertOverride",
    "AlertReceiver",
    "AlertSettings",
    "AlertmanagerHandler",
    "ConfigError",
    "CostReport",
    "CustomMetric",
    "EndpointConfig",
    "EndpointError",
    "ExportError",
    "FileLogHandler",
    "FileMetricHandler",
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
    "TokenUsageReport",
    "__version__",
    "process_token_usage",
    "read_export",
]
