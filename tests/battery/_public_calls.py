"""Each public callable, with how the battery calls it; what is new and not here is a failure."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import genmeter
from genmeter import hooks, testing
from genmeter.history.token_report import ModelTokenUsage, TokenUsageReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from genmeter.testing import IsolatedMonitor

__all__ = ["CHECKED", "MODULES", "PLAIN", "RECORDING", "Case", "Place", "public_names"]

MODULES = ("genmeter", "genmeter.testing", "genmeter.hooks", "genmeter.notebook", "genmeter.patch")
"""The modules whose names are public."""
_CALLED = ("__call__", "__enter__", "__exit__", "__aenter__", "__aexit__")


def _own(cls: type, name: str) -> str | None:
    """Return the public class that defines a method; None if it is not ours."""
    for each in cls.__mro__:
        if name in vars(each):
            return each.__name__ if each.__module__.startswith("genmeter") else None
    return None


def _members(cls: type) -> Iterator[str]:
    """Yield the names of the methods of a class that take arguments, and of what can be set."""
    for member, attribute in inspect.getmembers_static(cls):
        if member.startswith("_") and member not in _CALLED:
            continue
        settable = isinstance(attribute, property) and attribute.fset is not None
        method = attribute
        if isinstance(attribute, classmethod | staticmethod):
            method = attribute.__func__
        if not settable and not inspect.isfunction(method):
            continue
        owner = _own(cls, member)
        if owner is not None and (settable or len(inspect.signature(method).parameters) > 1):
            yield f"{owner}.{member}"


def public_names() -> set[str]:
    """Return the names of all public callables that take arguments, and of what can be set."""
    found = set()
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        prefix = module_name.removeprefix("genmeter").removeprefix(".")
        for name in module.__all__:
            value = getattr(module, name)
            shown = f"{prefix}.{name}" if prefix in ("hooks", "notebook", "patch") else name
            if not isinstance(value, type):
                if callable(value) and inspect.signature(value).parameters:
                    found.add(shown)
                continue
            found.add(shown)
            found.update(_members(value))
    return found


@dataclass
class Place:
    """What a case may use.

    Attributes:
        monitor: A monitor of the test's own.
        folder: A folder of the test's own.
    """

    monitor: IsolatedMonitor
    folder: Path


@dataclass(frozen=True)
class Case:
    """How a public callable is called.

    Attributes:
        make: Returns the callable.
        good: Arguments that are right, by name; of required ones.
        extra: Names of ``**kwargs`` to try.
        raises: Errors that it documents, besides those of genmeter, for values of the right type.
        unnamed: Parameters whose errors may have another name, with its pattern.
        may_reject: Whether what it cannot read is counted as an internal error.
        is_slow: Whether a call takes so long that few values are tried.
    """

    make: Callable[[Place], Callable[..., Any]]
    good: Callable[[Place], dict[str, Any]] = field(default=lambda _: {})
    extra: tuple[str, ...] = ()
    raises: tuple[type[BaseException], ...] = ()
    unnamed: dict[str, str] = field(default_factory=dict)
    is_slow: bool = False
    may_reject: bool = False

    def parameters(self, function: Callable[..., Any]) -> list[tuple[str, str]]:
        """Return the parameters to try, by kind: ``named``, ``positional`` or ``extra``."""
        found = []
        for name, each in inspect.signature(function).parameters.items():
            if each.kind is each.VAR_POSITIONAL:
                found.append((name, "positional"))
            elif each.kind is each.VAR_KEYWORD:
                found += [(extra, "named") for extra in self.extra]
            else:
                found.append((name, "named"))
        return found


CALL_KEYWORDS = (
    *("prompt_token_count", "completion_token_count", "total_token_count"),
    *("cache_read_token_count", "cache_write_token_count", "reasoning_token_count"),
    *("model_name", "finish_reason", "error", "error_type", "conversation_length", "turns"),
    *("retries", "provider", "operation", "step", "modality", "metadata", "response_model"),
    *("service_tier", "batch", "cost", "cache_write_1h_token_count", "input_audio_token_count"),
    *("output_audio_token_count", "cache_read_audio_token_count", "search_count"),
    *("input_image_token_count", "input_video_token_count", "prompt_tokens", "anything"),
)


def _monitor(name: str) -> Callable[[Place], Callable[..., Any]]:
    return lambda place: getattr(place.monitor, name)


def _in_block(name: str) -> Callable[[Place], Callable[..., Any]]:
    """Return a method of a handle, called inside of its block."""

    def make(place: Place) -> Callable[..., Any]:
        method = getattr(genmeter.GenerationHandle, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with place.monitor.generation("block") as handle:
                return method(handle, *args, **kwargs)

        call.__signature__ = _without_self(method)  # type: ignore[attr-defined]
        return call

    return make


def _without_self(method: Any) -> inspect.Signature:
    signature = inspect.signature(method)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _setter(cls: type, name: str) -> Callable[[Place], Callable[..., Any]]:
    """Return a function that sets a property of the handle or the monitor, and restores it."""

    def make(place: Place) -> Callable[[Any], None]:
        def assign(value: Any) -> None:
            if cls is genmeter.GenerationHandle:
                with place.monitor.generation("block") as handle:
                    setattr(handle, name, value)
                return
            before = getattr(place.monitor, name)
            try:
                setattr(place.monitor, name, value)
                place.monitor.track_generation(0.1, True, model_name="other")
            finally:
                setattr(place.monitor, name, before)

        return assign

    return make


def _generation(place: Place) -> Callable[..., Any]:
    """Return what enters and leaves a block with all arguments of ``generation``."""

    def call(*args: Any, **kwargs: Any) -> None:
        with place.monitor.generation(*args, **kwargs) as handle:
            repr(handle)
            handle.usage(prompt_token_count=1)

    call.__signature__ = inspect.signature(place.monitor.generation)  # type: ignore[attr-defined]
    return call


def _handle(place: Place) -> Callable[..., Any]:
    def call(**kwargs: Any) -> None:
        with genmeter.GenerationHandle(place.monitor, **kwargs) as handle:
            handle.usage(prompt_token_count=1)

    signature = inspect.signature(genmeter.GenerationHandle)
    parameters = [each for name, each in signature.parameters.items() if name != "recorder"]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


def _left(place: Place) -> Callable[..., Any]:
    def leave(kind: Any = None, error: Any = None, traceback: Any = None) -> None:
        handle = place.monitor.generation("block")
        handle.__enter__()
        handle.__exit__(kind, error, traceback)

    return leave


async def _entered(place: Place) -> None:
    async with place.monitor.generation("block"):
        pass


def _run_async(make: Callable[[Place], Any]) -> Callable[[Place], Callable[..., Any]]:
    def case(place: Place) -> Callable[[], None]:
        def run() -> None:
            steps = make(place)
            try:
                while True:
                    steps.send(None)
            except StopIteration:
                pass

        return run

    return case


def _decorated(place: Place) -> Callable[..., Any]:
    """Return a decorated function that returns, and one that raises, its argument."""

    def call(response: Any) -> None:
        place.monitor.generation("block")(lambda: response)()

    return call


def _opened(name: str) -> Callable[[Place], Callable[..., Any]]:
    def make(place: Place) -> Callable[..., Any]:
        def call(handle: Any = None) -> None:
            del handle  # called by our own handle only
            with place.monitor.generation("block"):
                pass

        call.__name__ = name
        return call

    return make


def _shut(place: Place) -> Callable[..., Any]:
    del place

    def leave(error: Any = None) -> None:
        with testing.isolated_monitor() as monitor:
            monitor.__exit__(error, error, error)

    return leave


def _processor(cls: str, method: str) -> Callable[[Place], Callable[..., Any]]:
    return lambda place: getattr(getattr(genmeter, cls)(place.monitor), method)


_TRACK = {"duration": 0.1, "success": True}

RECORDING: dict[str, Case] = {
    "Recording.track_generation": Case(
        _monitor("track_generation"), lambda _: {**_TRACK, "model_name": "other"}, CALL_KEYWORDS
    ),
    "Recording.track_evaluation": Case(
        _monitor("track_evaluation"),
        lambda _: {**_TRACK, "evaluator_type": "e", "scores": {"s": 1}, "model_name": "other"},
        CALL_KEYWORDS,
    ),
    "Recording.record_metric": Case(
        _monitor("record_metric"), lambda _: {"metric_name": "m", "value": 1.0}
    ),
    "Recording.record_sample": Case(_monitor("record_sample"), lambda _: {"accepted": False}),
    "Recording.log_info": Case(_monitor("log_info"), lambda _: {"message": "m"}, ("data", "x")),
    "Recording.log_warning": Case(
        _monitor("log_warning"), lambda _: {"message": "m"}, ("data", "x")
    ),
    "Recording.log_error": Case(_monitor("log_error"), lambda _: {"message": "m"}, ("data", "x")),
    "Recording.generation": Case(_generation),
    "GenerationHandle": Case(_handle),
    "GenerationHandle.__exit__": Case(_left),
    "GenerationHandle.__aexit__": Case(_run_async(_entered)),
    "GenerationHandle.__call__": Case(_decorated, lambda _: {"response": None}),
    "GenerationHandle.usage": Case(_in_block("usage"), extra=CALL_KEYWORDS),
    "GenerationHandle.stream": Case(_in_block("stream"), lambda _: {"stream": iter(())}),
    "GenerationHandle.cost": Case(_in_block("cost"), lambda _: {"usd": 0.1}),
    "GenerationHandle.retry": Case(_in_block("retry")),
    "GenerationHandle.fail": Case(_in_block("fail")),
    "GenerationHandle.model": Case(
        _setter(genmeter.GenerationHandle, "model"), lambda _: {"value": "m"}
    ),
    "GenerationHandle.finish_reason": Case(
        _setter(genmeter.GenerationHandle, "finish_reason"), lambda _: {"value": "stop"}
    ),
    "GenAISpanProcessor.on_start": Case(
        _processor("GenAISpanProcessor", "on_start"), lambda _: {"span": None}, may_reject=True
    ),
    "GenAISpanProcessor.on_end": Case(
        _processor("GenAISpanProcessor", "on_end"), lambda _: {"span": None}, may_reject=True
    ),
    "GenAILogProcessor.on_emit": Case(
        _processor("GenAILogProcessor", "on_emit"),
        lambda _: {"log_record": None},
        may_reject=True,
    ),
    "GenerationMonitor.visualize_metrics": Case(
        lambda place: place.monitor.visualize_metrics,
        lambda place: {"save_dir": place.folder, "figsize": (2, 2)},
        is_slow=True,
    ),
    "GenerationMonitor.lifespan": Case(lambda place: place.monitor.lifespan),
    "GenerationMonitor.__exit__": Case(_shut),
}
"""What a job calls to record: it never raises, whatever it is given."""


def _report(place: Place) -> TokenUsageReport:
    del place
    return TokenUsageReport([ModelTokenUsage("m", 1, 1, 2)], 1, 1, 2)


def _budget(place: Place) -> genmeter.Budget:
    return place.monitor.budget(tokens=10**9)


def _budget_in_place(place: Place) -> Callable[..., Any]:
    return place.monitor.budget


def _context(make: Callable[..., Any]) -> Callable[..., None]:
    def call(*args: Any, **kwargs: Any) -> None:
        with make(*args, **kwargs):
            pass

    call.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]
    return call


def _export(place: Place) -> dict[str, Any]:
    return {"output_path": place.folder / "export.json"}


def _constructed(name: str) -> Callable[[Place], Callable[..., Any]]:
    return lambda _: getattr(genmeter, name)


def _monitor_made(place: Place) -> Callable[..., Any]:
    """Return the constructor, with the monitor shut down at once."""

    def make(**kwargs: Any) -> None:
        with testing.fresh_runtime():
            genmeter.GenerationMonitor(
                **{"metrics_interval": None, "config": genmeter.MonitorConfig(), **kwargs}
            ).shutdown()

    make.__signature__ = inspect.signature(genmeter.GenerationMonitor)  # type: ignore[attr-defined]
    del place
    return make


_AMOUNTS = (AssertionError,)
_TIMES = (TimeoutError,)

CHECKED: dict[str, Case] = {
    # --- configuration ---
    **{
        name: Case(_constructed(name))
        for name in ("AlertOverride", "AlertSettings", "EndpointConfig", "HistoryConfig")
    },
    **{name: Case(_constructed(name)) for name in ("JournalConfig", "LabelLimits")},
    "CustomMetric": Case(_constructed("CustomMetric"), lambda _: {"name": "app.m"}),
    "MonitorConfig": Case(_constructed("MonitorConfig")),
    "Price": Case(_constructed("Price"), lambda _: {"input": 1, "output": 2}),
    "PriceTable": Case(_constructed("PriceTable"), lambda _: {"prices": {}}),
    "GenerationMonitor": Case(_monitor_made),
    "AlertmanagerHandler": Case(
        _constructed("AlertmanagerHandler"), lambda _: {"urls": "http://127.0.0.1:1"}
    ),
    "FileLogHandler": Case(_constructed("FileLogHandler"), lambda p: {"log_dir": p.folder / "l"}),
    "FileMetricHandler": Case(
        _constructed("FileMetricHandler"), lambda p: {"log_dir": p.folder / "l"}
    ),
    "GenAISpanProcessor": Case(_constructed("GenAISpanProcessor")),
    "GenAILogProcessor": Case(_constructed("GenAILogProcessor")),
    "AlertSettings.coerce": Case(
        lambda _: genmeter.AlertSettings.coerce, lambda _: {"value": None}, unnamed={"value": ""}
    ),
    "AlertSettings.from_file": Case(
        lambda _: genmeter.AlertSettings.from_file,
        lambda p: {"path": p.folder / "none.toml"},
        unnamed={"path": ""},
    ),
    "AlertSettings.with_thresholds": Case(
        lambda _: (
            lambda value: genmeter.AlertSettings().with_thresholds({"alert_max_error_rate": value})
        ),
        lambda _: {"value": 0.1},
        unnamed={"value": ""},
    ),
    # --- budgets ---
    "GenerationMonitor.budget": Case(_budget_in_place, lambda _: {"tokens": 5}),
    "Budget.reserve": Case(
        lambda p: _context(_budget(p).reserve), lambda _: {"tokens": 1, "timeout": 0}
    ),
    "IsolatedMonitor.assert_budget": Case(
        lambda p: p.monitor.assert_budget, lambda _: {"tokens": 10**9}, raises=_AMOUNTS
    ),
    # --- reading ---
    "GenerationMonitor.get_metrics": Case(
        _monitor("get_metrics"), lambda _: {"metric_name": "generation_time"}
    ),
    "GenerationMonitor.get_total_token_usage": Case(_monitor("get_total_token_usage")),
    "GenerationMonitor.to_frame": Case(_monitor("to_frame")),
    "GenerationMonitor.export_metrics": Case(_monitor("export_metrics"), _export),
    "GenerationMonitor.plot_metric": Case(
        _monitor("plot_metric"),
        lambda _: {"metric_name": "generation_time", "figsize": (2, 2)},
        is_slow=True,
    ),
    "GenerationMonitor.flush": Case(_monitor("flush"), raises=_TIMES),
    "GenerationMonitor.push": Case(_monitor("push"), unnamed={"timeout": ""}),
    "GenerationMonitor.wsgi_app": Case(_monitor("wsgi_app")),
    "GenerationMonitor.asgi_app": Case(_monitor("asgi_app")),
    "GenerationMonitor.watch": Case(
        _monitor("watch"),
        lambda _: {"client": None},
        # The client is wrong, too.
        unnamed=dict.fromkeys(("step", "provider", "include_usage"), "client"),
    ),
    "GenerationMonitor.unwatch": Case(_monitor("unwatch"), lambda _: {"client": None}),
    "process_token_usage": Case(lambda _: genmeter.process_token_usage),
    "read_export": Case(lambda _: genmeter.read_export, lambda p: {"path": p.folder / "none.json"}),
    "read_usage": Case(
        lambda _: genmeter.read_usage,
        unnamed={
            "sources": "source",
            # There is no source, either, which an error is of if the argument is right.
            **{name: f"{name}|sources" for name in ("window", "prices", "by", "on_error")},
        },
    ),
    "TokenUsageReport.cost": Case(lambda p: _report(p).cost),
    "TokenUsageReport.log_to": Case(
        lambda p: _report(p).log_to, lambda _: {"tracker": None}, unnamed={"prefix": "must be"}
    ),
    "UsageReport.log_to": Case(
        lambda p: _usage_report(p).log_to,
        lambda _: {"tracker": None},
        unnamed={"prefix": "must be"},
    ),
    "PriceTable.cost": Case(
        lambda _: genmeter.PriceTable({}).cost,
        lambda _: {"model": "m", "input_tokens": 1, "output_tokens": 1},
    ),
    "step": Case(lambda _: genmeter.step, lambda _: {"name": "s"}),
    # --- what is set ---
    **{
        f"GenerationMonitor.{name}": Case(
            _setter(genmeter.GenerationMonitor, name),
            lambda _: {"value": []},
            unnamed={"value": name},
        )
        for name in ("metric_handlers", "log_handlers", "alert_handlers")
    },
    "GenerationMonitor.shutdown_timeout": Case(
        _setter(genmeter.GenerationMonitor, "shutdown_timeout"),
        lambda _: {"value": 1.0},
        unnamed={"value": "shutdown_timeout"},
    ),
    # --- processors and receivers ---
    "GenAISpanProcessor.force_flush": Case(
        _processor("GenAISpanProcessor", "force_flush"), may_reject=True
    ),
    "GenAILogProcessor.force_flush": Case(
        _processor("GenAILogProcessor", "force_flush"), may_reject=True
    ),
    # --- helpers and hooks ---
    "IsolatedMonitor.page": Case(lambda p: p.monitor.page),
    "assert_exposition": Case(
        lambda _: testing.assert_exposition,
        lambda _: {"page": "", "expected": ""},
        raises=(AssertionError, ValueError),
    ),
    "redirected": Case(lambda _: _context(testing.redirected), lambda p: {"monitor": p.monitor}),
    "hooks.on_aside": Case(
        lambda _: hooks.on_aside,
        lambda _: {"name": "dspy", "function": print},
        unnamed={"function": "must be"},
    ),
    "MonitorConfig.from_env": Case(
        lambda _: genmeter.MonitorConfig.from_env,
        lambda _: {"environ": {}},
        ("models", "expected_samples"),
    ),
    "PriceTable.coerce": Case(
        lambda _: genmeter.PriceTable.coerce, lambda _: {"value": None}, unnamed={"value": ""}
    ),
    "PriceTable.from_file": Case(
        lambda _: genmeter.PriceTable.from_file,
        lambda p: {"path": p.folder / "none.toml"},
        unnamed={"path": "prices"},
    ),
    "IsolatedMonitor.series": Case(
        lambda p: p.monitor.series, lambda _: {"name": "genmeter_tokens_total"}
    ),
    "IsolatedMonitor.value": Case(
        lambda p: p.monitor.value, lambda _: {"name": "genmeter_tokens_total"}
    ),
    "isolated_monitor": Case(lambda _: _context(testing.isolated_monitor)),
    "hooks.install": Case(lambda _: hooks.install, lambda _: {"names": ("dspy",)}),
    "hooks.uninstall": Case(lambda _: hooks.uninstall, lambda _: {"names": ("dspy",)}),
    "patch.install": Case(lambda _: _patched, lambda _: {}),
    "notebook.top": Case(
        lambda _: importlib.import_module("genmeter.notebook").top,
        lambda _: {"sources": ("http://127.0.0.1:1/metrics",)},
        unnamed={"sources": "must be"},
    ),
}
"""What checks its arguments: a wrong one is an error of genmeter that names it."""


def _usage_report(place: Place) -> Any:
    path = place.folder / "report.json"
    place.monitor.export_metrics(path)
    return genmeter.read_usage(path)


def _patched(config: Any = None) -> None:
    patch = importlib.import_module("genmeter.patch")
    try:
        patch.install(config)
    finally:
        patch.uninstall()


PLAIN: dict[str, str] = {
    **dict.fromkeys(
        (
            *("Recording.record_call", "Recording.reject", "Recording.misuse"),
            *("Recording.open_call", "Recording.close_call"),
            *("FileMetricHandler.handle_metric", "FileLogHandler.handle_log"),
            *("GenerationHandle.belongs_to", "GenerationHandle.mark_unread"),
            *("GenerationHandle.observe", "GenerationHandle.stream_to_end"),
            *("AlertOverride.apply", "TokenUsageReport.merge", "PriceTable.usd"),
            *("PriceTable.usd_of_sum", "_FileHandler.append_lines"),
            *("FileLogHandler.handle_logs", "FileMetricHandler.handle_metrics"),
            *("AlertmanagerHandler.__call__", "AlertmanagerHandler.flush"),
            *(
                "AlertmanagerHandler.refresh",
                "Reservation.__exit__",
                "Reservation.__aexit__",
                "TopView.live",
            ),
        ),
        "called by genmeter, with what it made",
    ),
    **dict.fromkeys(
        (
            *("AlertReceiver.__call__", "AlertReceiver.flush", "AlertReceiver.refresh"),
            *("LogHandler.handle_log", "MetricHandler.handle_metric"),
        ),
        "declared for others to define",
    ),
    **dict.fromkeys(
        (
            *("Alert", "BudgetAmount", "BudgetLimit", "CostReport", "ModelTokenUsage"),
            *("TokenUsageReport", "UsageReport", "Budget", "Reservation", "IsolatedMonitor"),
            *("hooks.Framework", "notebook.TopView"),
        ),
        "made by genmeter, which has checked what is in it",
    ),
    **dict.fromkeys(
        (
            *("BudgetError", "BudgetExceededError", "BudgetTimeoutError", "ConfigError"),
            *("BudgetUnavailableError", "EndpointError", "ExportError", "GenmeterError"),
            *("MissingExtraError", "UnpricedModelError", "UsageUnreadError"),
        ),
        "an error that genmeter raises",
    ),
    **dict.fromkeys(
        ("AlertReceiver", "LogHandler", "MetricHandler"), "a class or protocol to derive from"
    ),
}
"""Public classes whose constructors a caller does not call, with the reason."""
