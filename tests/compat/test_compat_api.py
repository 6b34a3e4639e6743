"""The shape of the API: signatures, attributes and types, of AfterImage's class and of ours."""

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
NEEDED = Parameter.empty
FIVE_MINUTES = timedelta(minutes=5)

SIGNATURES: dict[str, list[tuple[str, Any, Any]]] = {
    "__init__": [
        ("self", POSITIONAL, NEEDED),
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
        ("self", POSITIONAL, NEEDED),
        ("duration", POSITIONAL, NEEDED),
        ("success", POSITIONAL, NEEDED),
        ("kwargs", REST, NEEDED),
    ],
    "track_evaluation": [
        ("self", POSITIONAL, NEEDED),
        ("duration", POSITIONAL, NEEDED),
        ("success", POSITIONAL, NEEDED),
        ("evaluator_type", POSITIONAL, NEEDED),
        ("scores", POSITIONAL, NEEDED),
        ("kwargs", REST, NEEDED),
    ],
    "record_metric": [
        ("self", POSITIONAL, NEEDED),
        ("metric_name", POSITIONAL, NEEDED),
        ("value", POSITIONAL, NEEDED),
        ("metadata", POSITIONAL, None),
    ],
    "log_info": [
        ("self", POSITIONAL, NEEDED),
        ("message", POSITIONAL, NEEDED),
        ("data", REST, NEEDED),
    ],
    "log_warning": [
        ("self", POSITIONAL, NEEDED),
        ("message", POSITIONAL, NEEDED),
        ("data", REST, NEEDED),
    ],
    "log_error": [
        ("self", POSITIONAL, NEEDED),
        ("message", POSITIONAL, NEEDED),
        ("error", POSITIONAL, None),
        ("data", REST, NEEDED),
    ],
    "get_metrics": [
        ("self", POSITIONAL, NEEDED),
        ("metric_name", POSITIONAL, NEEDED),
        ("window", POSITIONAL, FIVE_MINUTES),
    ],
    "get_total_token_usage": [("self", POSITIONAL, NEEDED), ("window", POSITIONAL, None)],
    "check_alerts": [("self", POSITIONAL, NEEDED)],
    "save_metrics": [("self", POSITIONAL, NEEDED)],
    "export_metrics": [
        ("self", POSITIONAL, NEEDED),
        ("output_path", POSITIONAL, NEEDED),
        ("format", POSITIONAL, "json"),
        ("window", POSITIONAL, None),
    ],
    "visualize_metrics": [
        ("self", POSITIONAL, NEEDED),
        ("save_dir", POSITIONAL, None),
        ("figsize", POSITIONAL, (12, 6)),
        ("return_figures", POSITIONAL, False),
    ],
    "plot_metric": [
        ("self", POSITIONAL, NEEDED),
        ("metric_name", POSITIONAL, NEEDED),
        ("window", POSITIONAL, timedelta(hours=1)),
        ("rolling_window", POSITIONAL, 10),
        ("figsize", POSITIONAL, (12, 8)),
    ],
    "shutdown": [("self", POSITIONAL, NEEDED)],
}


@pytest.mark.parametrize("method", SIGNATURES)
def test_signature_has_the_same_names_order_kinds_and_defaults(
    subject: Subject, method: str
) -> None:
    """A call that AfterImage's method takes, ours takes, and with the same defaults."""
    signature = inspect.signature(getattr(subject.module.GenerationMonitor, method))
    found = [(each.name, each.kind, each.default) for each in signature.parameters.values()]
    wanted = SIGNATURES[method]
    further = [each for each in found if each not in wanted]
    assert [each for each in found if each in wanted] == wanted
    if subject.is_old:
        assert further == []
    # What is new can neither be needed nor take a place that an old argument had.
    assert all(kind is KEYWORD and default is not NEEDED for _, kind, default in further)


def test_every_public_method_of_afterimages_class_is_in_the_table(subject: Subject) -> None:
    """No public method of AfterImage's class is without a signature above, and ours has each."""
    public = {
        name
        for name, member in inspect.getmembers(subject.module.GenerationMonitor, callable)
        if not name.startswith("_")
    }
    methods = set(SIGNATURES) - {"__init__"}
    assert methods <= public
    if subject.is_old:
        assert public == methods


def test_arguments_are_taken_by_position(subject: Subject, tmp_path: Path) -> None:
    """Six positional arguments land in the attributes of their names."""
    metrics, logs, alerts = [Metrics()], [Logs()], [print]
    monitor = subject.make(str(tmp_path / "here"), metrics, logs, alerts, 0, 7)
    assert monitor.log_dir == tmp_path / "here"
    assert isinstance(monitor.log_dir, Path)
    assert monitor.metric_handlers == metrics
    assert monitor.log_handlers == logs
    assert monitor.alert_handlers == alerts
    assert (monitor.metrics_interval, monitor.shutdown_timeout) == (0, 7)


def test_defaults_equal_afterimages(subject: Subject) -> None:
    """Without arguments there are 60 seconds between checks, 5 for the end, and no alert handler."""
    monitor = subject.make()
    assert (monitor.metrics_interval, monitor.shutdown_timeout) == (60, 5)
    assert monitor.alert_handlers == []
    assert isinstance(monitor.metric_handlers, list)
    assert isinstance(monitor.log_handlers, list)


def test_without_a_log_dir_the_folder_is_named_by_the_time(subject: Subject) -> None:
    """The default folder lies in `.afterimage-monitoring`, under the second it was made in."""
    folder = subject.make().log_dir
    assert folder.parent == Path(".afterimage-monitoring")
    assert re.match(r"\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d", folder.name)


def test_two_monitors_without_a_log_dir(subject: Subject) -> None:
    """Ours never share a folder; AfterImage's do, where both are made in one second."""
    names = {subject.make().log_dir.name for _ in range(5)}
    assert (len(names) == 5) == subject.differs(
        old=False, new=True, why="the folder is unique by process and monitor"
    )


def test_a_folder_is_made(subject: Subject) -> None:
    """Without a `log_dir` ours makes no folder until a file is asked for; the old one does."""
    monitor = subject.make()
    monitor.track_generation(1.0, True)
    subject.settle(monitor)
    assert monitor.log_dir.exists() == subject.differs(
        old=True, new=False, why="no file without a request"
    )
    assert monitor.save_metrics().parent == monitor.log_dir
    assert monitor.log_dir.is_dir()


def test_a_given_log_dir_is_made_at_once(subject: Subject, tmp_path: Path) -> None:
    """A job may write files of its own into the folder that it named, parents and all."""
    monitor = subject.make(tmp_path / "a" / "b")
    assert monitor.log_dir.is_dir()


def test_an_interval_of_none_evaluates_nothing(subject: Subject) -> None:
    """`metrics_interval=None` means that alerts are evaluated only when asked, as 0 does."""
    monitor = subject.make(metrics_interval=None)
    monitor.track_generation(1.0, True)
    subject.settle(monitor)
    assert monitor.metrics_interval is None


@pytest.mark.parametrize("argument", ["metric_handlers", "log_handlers"])
def test_an_empty_handler_list(subject: Subject, argument: str) -> None:
    """An empty list means no handler; in the old class it means the default one."""
    monitor = subject.monitor(**{argument: []})
    assert len(getattr(monitor, argument)) == subject.differs(
        old=1, new=0, why="an empty list is an empty list"
    )


def test_without_handlers_a_log_dir_gets_the_file_handlers(subject: Subject) -> None:
    """Where a `log_dir` is given and no handlers, the two file handlers are in the lists."""
    monitor = subject.monitor()
    (metrics,), (logs,) = monitor.metric_handlers, monitor.log_handlers
    assert isinstance(metrics, subject.module.FileMetricHandler)
    assert isinstance(logs, subject.module.FileLogHandler)


def test_an_alert_is_made_of_five_values(subject: Subject) -> None:
    """`Alert` takes name, message, level, time and data, by position, and may be changed."""
    now = datetime.now()  # noqa: DTZ005 - what AfterImage's class has
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


def test_the_usage_of_a_model_is_frozen(subject: Subject) -> None:
    """`ModelTokenUsage` takes four values, equals another of the same, hashes, and is frozen."""
    usage = subject.module.ModelTokenUsage("m", 1, 2, 3)
    assert (usage.model_name, usage.prompt_tokens) == ("m", 1)
    assert (usage.completion_tokens, usage.total_tokens) == (2, 3)
    assert len({usage, subject.module.ModelTokenUsage("m", 1, 2, 3)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        usage.prompt_tokens = 2


def test_a_report_has_totals_of_0_by_default(subject: Subject) -> None:
    """`TokenUsageReport` needs the list only, and takes the totals by position."""
    report = subject.module.TokenUsageReport([])
    assert report.by_model == []
    assert report.total_prompt_tokens == report.total_completion_tokens == report.total_tokens == 0
    filled = subject.module.TokenUsageReport([], 1, 2, 3)
    assert (filled.total_prompt_tokens, filled.total_completion_tokens) == (1, 2)
    assert filled.total_tokens == 3


@pytest.mark.parametrize("protocol", ["MetricHandler", "LogHandler"])
def test_a_protocol_can_be_a_base(subject: Subject, protocol: str) -> None:
    """A handler may derive from the protocol and leave its methods as they are."""

    class Mine(getattr(subject.module, protocol)):  # type: ignore[misc]
        """Nothing of its own."""

    handler = Mine()
    if protocol == "MetricHandler":
        assert handler.handle_metric("m", 1.0, {}) is None
    else:
        assert handler.handle_log({"message": "m"}) is None


def test_recording_methods_return_none(subject: Subject) -> None:
    """No method that tells gives anything back."""
    monitor = subject.monitor()
    assert monitor.track_generation(1.0, True) is None
    assert monitor.track_evaluation(1.0, True, "judge", {}) is None
    assert monitor.record_metric("m", 1.0) is None
    assert monitor.log_info("m") is None
    assert monitor.log_warning("m") is None
    assert monitor.log_error("m") is None
    assert monitor.check_alerts() is None
    assert monitor.shutdown() is None


def test_shutdown_can_be_called_twice_and_reads_go_on(subject: Subject) -> None:
    """After `shutdown()` what was told can still be read, and a second call does nothing."""
    monitor = subject.monitor()
    monitor.track_generation(1.0, True, model_name="m", total_token_count=3)
    subject.settle(monitor)
    monitor.shutdown()
    monitor.shutdown()
    assert monitor.get_metrics("generation_time")["count"] == 1
    assert monitor.get_total_token_usage().total_tokens == 3
