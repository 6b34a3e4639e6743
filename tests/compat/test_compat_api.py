"""Signatures, attributes and types of AfterImage's class and of ours."""

from __future__ import annotations

import dataclasses
import inspect
import re
from datetime import datetime, timedelta
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _compat import Logs, Metrics

if TYPE_CHECKING:
    from _compat import Subject

POSITIONAL, KEYWORD, REST = (
    Parameter.POSITIONAL_OR_KEYWORD,
    Parameter.KEYWORD_ONLY,
    Parameter.VAR_KEYWORD,
)
REQUIRED = Parameter.empty
FIVE_MINUTES = timedelta(minutes=5)

SIGNATURES: dict[str, list[tuple[str, Any, Any]]] = {
    "__init__": [
        ("self", POSITIONAL, REQUIRED),
        ("log_dir", POSITIONAL, None),
        ("metric_handlers", POSITIONAL, None),
        ("log_handlers", POSITIONAL, None),
        ("alert_handlers", POSITIONAL, None),
        ("metrics_interval", POSITIONAL, 60),
        ("shutdown_timeout", POSITIONAL, 5),
        ("alert_min_success_rate", KEYWORD, None),
        ("alert_max_generation_time_seconds", KEYWORD, None),
        ("alert_max_error_rate", KEYWORD, None),
        ("alert_max_prompt_token_mean", KEYWORD, None),
        ("alert_max_completion_token_mean", KEYWORD, None),
        ("alert_max_total_token_mean", KEYWORD, None),
        ("alert_max_conversation_length_mean", KEYWORD, None),
        ("token_usage_callback", KEYWORD, None),
        ("token_usage_callback_interval_seconds", KEYWORD, 60.0),
    ],
    "track_generation": [
        ("self", POSITIONAL, REQUIRED),
        ("duration", POSITIONAL, REQUIRED),
        ("success", POSITIONAL, REQUIRED),
        ("kwargs", REST, REQUIRED),
    ],
    "track_evaluation": [
        ("self", POSITIONAL, REQUIRED),
        ("duration", POSITIONAL, REQUIRED),
        ("success", POSITIONAL, REQUIRED),
        ("evaluator_type", POSITIONAL, REQUIRED),
        ("scores", POSITIONAL, REQUIRED),
        ("kwargs", REST, REQUIRED),
    ],
    "record_metric": [
        ("self", POSITIONAL, REQUIRED),
        ("metric_name", POSITIONAL, REQUIRED),
        ("value", POSITIONAL, REQUIRED),
        ("metadata", POSITIONAL, None),
    ],
    "log_info": [
        ("self", POSITIONAL, REQUIRED),
        ("message", POSITIONAL, REQUIRED),
        ("data", REST, REQUIRED),
    ],
    "log_warning": [
        ("self", POSITIONAL, REQUIRED),
        ("message", POSITIONAL, REQUIRED),
        ("data", REST, REQUIRED),
    ],
    "log_error": [
        ("self", POSITIONAL, REQUIRED),
        ("message", POSITIONAL, REQUIRED),
        ("error", POSITIONAL, None),
        ("data", REST, REQUIRED),
    ],
    "get_metrics": [
        ("self", POSITIONAL, REQUIRED),
        ("metric_name", POSITIONAL, REQUIRED),
        ("window", POSITIONAL, FIVE_MINUTES),
    ],
    "get_total_token_usage": [("self", POSITIONAL, REQUIRED), ("window", POSITIONAL, None)],
    "check_alerts": [("self", POSITIONAL, REQUIRED)],
    "save_metrics": [("self", POSITIONAL, REQUIRED)],
    "export_metrics": [
        ("self", POSITIONAL, REQUIRED),
        ("output_path", POSITIONAL, REQUIRED),
        ("format", POSITIONAL, "json"),
        ("window", POSITIONAL, None),
    ],
    "visualize_metrics": [
        ("self", POSITIONAL, REQUIRED),
        ("save_dir", POSITIONAL, None),
        ("figsize", POSITIONAL, (12, 6)),
        ("return_figures", POSITIONAL, False),
    ],
    "plot_metric": [
        ("self", POSITIONAL, REQUIRED),
        ("metric_name", POSITIONAL, REQUIRED),
        ("window", POSITIONAL, timedelta(hours=1)),
        ("rolling_window", POSITIONAL, 10),
        ("figsize", POSITIONAL, (12, 8)),
    ],
    "shutdown": [("self", POSITIONAL, REQUIRED)],
}


@pytest.mark.parametrize("method", SIGNATURES)
def test_signature_has_the_same_names_order_kinds_and_defaults(
    subject: Subject, method: str
) -> None:
    """Ours accepts every call that AfterImage's method accepts, with the same defaults."""
    signature = inspect.signature(getattr(subject.module.GenerationMonitor, method))
    found = [(each.name, each.kind, each.default) for each in signature.parameters.values()]
    wanted = SIGNATURES[method]
    further = [each for each in found if each not in wanted]
    assert [each for each in found if each in wanted] == wanted
    if subject.is_afterimage:
        assert further == []
    # New arguments are optional and keyword-only, so they cannot change the meaning of a call.
    assert all(kind is KEYWORD and default is not REQUIRED for _, kind, default in further)


def test_every_public_method_of_afterimages_class_is_in_the_table(subject: Subject) -> None:
    """Every public method of AfterImage's class has a signature above, and ours has it too."""
    public = {
        name
        for name, member in inspect.getmembers(subject.module.GenerationMonitor, callable)
        if not name.startswith("_")
    }
    methods = set(SIGNATURES) - {"__init__"}
    assert methods <= public
    if subject.is_afterimage:
        assert public == methods


def test_arguments_may_be_positional(subject: Subject, tmp_path: Path) -> None:
    """Six positional arguments set the attributes of the same names."""
    metrics, logs, alerts = [Metrics()], [Logs()], [print]
    monitor = subject.create(str(tmp_path / "here"), metrics, logs, alerts, 0, 7)
    assert monitor.log_dir == tmp_path / "here"
    assert isinstance(monitor.log_dir, Path)
    assert monitor.metric_handlers == metrics
    assert monitor.log_handlers == logs
    assert monitor.alert_handlers == alerts
    assert (monitor.metrics_interval, monitor.shutdown_timeout) == (0, 7)


def test_defaults_equal_afterimages(subject: Subject) -> None:
    """The defaults are 60 seconds between evaluations, 5 for the shutdown, and no alert handler."""
    monitor = subject.create()
    assert (monitor.metrics_interval, monitor.shutdown_timeout) == (60, 5)
    assert monitor.alert_handlers == []
    assert isinstance(monitor.metric_handlers, list)
    assert isinstance(monitor.log_handlers, list)


def test_the_default_folder_is_named_by_the_time(subject: Subject) -> None:
    """The default folder is in `.afterimage-monitoring`, named by the second of its creation."""
    folder = subject.create().log_dir
    assert folder.parent == Path(".afterimage-monitoring")
    assert re.match(r"\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d", folder.name)


def test_default_folders_are_unique(subject: Subject) -> None:
    """Two of ours never share a folder; two of AfterImage's do if created in one second."""
    names = {subject.create().log_dir.name for _ in range(5)}
    assert (len(names) == 5) == subject.differs(
        afterimage=False, ours=True, why="the folder is unique by process and monitor"
    )


def test_the_default_folder_is_created_when_needed(subject: Subject) -> None:
    """Without a `log_dir` ours creates a folder only for a requested file; AfterImage's always."""
    monitor = subject.create()
    monitor.track_generation(1.0, True)
    subject.settle(monitor)
    assert monitor.log_dir.exists() == subject.differs(
        afterimage=True, ours=False, why="no file without a request"
    )
    assert monitor.save_metrics().parent == monitor.log_dir
    assert monitor.log_dir.is_dir()


def test_a_log_dir_is_created_at_once(subject: Subject, tmp_path: Path) -> None:
    """The folder and its parents exist after construction, so the job can write to it too."""
    monitor = subject.create(tmp_path / "a" / "b")
    assert monitor.log_dir.is_dir()


def test_an_interval_of_none_evaluates_nothing(subject: Subject) -> None:
    """`metrics_interval=None`, like 0, disables periodic evaluation of alerts."""
    monitor = subject.create(metrics_interval=None)
    monitor.track_generation(1.0, True)
    subject.settle(monitor)
    assert monitor.metrics_interval is None


@pytest.mark.parametrize("argument", ["metric_handlers", "log_handlers"])
def test_an_empty_handler_list_means_no_handler(subject: Subject, argument: str) -> None:
    """An empty list means no handler; in AfterImage's class it means the default one."""
    monitor = subject.monitor(**{argument: []})
    assert len(getattr(monitor, argument)) == subject.differs(
        afterimage=1, ours=0, why="an empty list is an empty list"
    )


def test_a_log_dir_without_handlers_adds_the_file_handlers(subject: Subject) -> None:
    """With a `log_dir` and no handlers the two file handlers are in the lists."""
    monitor = subject.monitor()
    (metrics,), (logs,) = monitor.metric_handlers, monitor.log_handlers
    assert isinstance(metrics, subject.module.FileMetricHandler)
    assert isinstance(logs, subject.module.FileLogHandler)


def test_an_alert_takes_five_values(subject: Subject) -> None:
    """`Alert` takes name, message, level, time and data, by position, and may be changed."""
    now = datetime.now()  # noqa: DTZ005 - AfterImage's class has naive times
    alert = subject.module.Alert("low", "too low", "warning", now, {"mean": 0.1})
    assert [each.name for each in dataclasses.fields(alert)][:5] == [
        "name",
        "message",
        "level",
        "timestamp",
        "data",
    ]
    assert (alert.name, alert.message, alert.level) == ("low", "too low", "warning")
    assert (alert.timestamp, alert.data) == (now, {"mean": 0.1})
    alert.level = "error"
    assert alert == subject.module.Alert("low", "too low", "error", now, {"mean": 0.1})


def test_model_token_usage_is_frozen(subject: Subject) -> None:
    """`ModelTokenUsage` takes four values, compares and hashes by them, and is frozen."""
    usage = subject.module.ModelTokenUsage("m", 1, 2, 3)
    assert (usage.model_name, usage.prompt_tokens) == ("m", 1)
    assert (usage.completion_tokens, usage.total_tokens) == (2, 3)
    assert len({usage, subject.module.ModelTokenUsage("m", 1, 2, 3)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        usage.prompt_tokens = 2


def test_a_report_has_zero_totals_by_default(subject: Subject) -> None:
    """`TokenUsageReport` requires only the list, and takes the totals by position."""
    report = subject.module.TokenUsageReport([])
    assert report.by_model == []
    assert report.total_prompt_tokens == report.total_completion_tokens == report.total_tokens == 0
    filled = subject.module.TokenUsageReport([], 1, 2, 3)
    assert (filled.total_prompt_tokens, filled.total_completion_tokens) == (1, 2)
    assert filled.total_tokens == 3


@pytest.mark.parametrize("protocol", ["MetricHandler", "LogHandler"])
def test_a_protocol_can_be_a_base_class(subject: Subject, protocol: str) -> None:
    """A handler may derive from the protocol and inherit its methods."""

    class Mine(getattr(subject.module, protocol)):  # type: ignore[misc]
        """A handler without methods."""

    handler = Mine()
    if protocol == "MetricHandler":
        assert handler.handle_metric("m", 1.0, {}) is None
    else:
        assert handler.handle_log({"message": "m"}) is None


def test_recording_methods_return_none(subject: Subject) -> None:
    """Methods that record, evaluate or shut down return None."""
    monitor = subject.monitor()
    assert monitor.track_generation(1.0, True) is None
    assert monitor.track_evaluation(1.0, True, "judge", {}) is None
    assert monitor.record_metric("m", 1.0) is None
    assert monitor.log_info("m") is None
    assert monitor.log_warning("m") is None
    assert monitor.log_error("m") is None
    assert monitor.check_alerts() is None
    assert monitor.shutdown() is None


def test_shutdown_can_be_repeated_and_reads_keep_working(subject: Subject) -> None:
    """After `shutdown()` recorded events can still be read, and a second call does nothing."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, model_name="m", total_token_count=3)
    subject.settle(monitor)
    monitor.shutdown()
    monitor.shutdown()
    assert monitor.get_metrics("generation_time")["count"] == 1
    assert monitor.get_total_token_usage().total_tokens == 3
