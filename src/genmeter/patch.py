"""Replaces AfterImage's monitor by genmeter's in code that imports only AfterImage.

:func:`install` does not import AfterImage. When ``afterimage.monitoring`` is imported, or if it has
been imported before, its public names are replaced by genmeter's, also in modules that imported
them from there. Code that still has AfterImage's class, in a closure or a default, gets a monitor
of genmeter when it calls the class. :func:`uninstall` restores everything.

The replacement is a subclass of AfterImage's class, and its constructor accepts all arguments of
AfterImage's: those that genmeter rejects are dropped with a warning.

Not replaced: existing monitors, subclasses defined before the patch (a warning names them), and
new interpreters. Only ``genmeter run`` and ``opentelemetry-instrument`` reach the children that a
job spawns.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import logging
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import wrapt
from opentelemetry.metrics import NoOpMeterProvider

from genmeter.alerting.state import Alert
from genmeter.config.checks import instance_of, optional
from genmeter.config.monitor import EndpointConfig, MonitorConfig
from genmeter.errors import EndpointError
from genmeter.fork_lock import ForkLock
from genmeter.handlers.base import FileLogHandler, FileMetricHandler, LogHandler, MetricHandler
from genmeter.history.token_report import ModelTokenUsage, TokenUsageReport
from genmeter.monitor import GenerationMonitor
from genmeter.observed.observer import expect_reports
from genmeter.pipeline.once import FirstTimes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["install", "uninstall"]

_logger = logging.getLogger("genmeter")

_PACKAGE = "afterimage"
_MODULE = "afterimage.monitoring"
_CLASS = "GenerationMonitor"
_OTHER_CLASSES: tuple[type, ...] = (
    Alert,
    FileLogHandler,
    FileMetricHandler,
    LogHandler,
    MetricHandler,
    ModelTokenUsage,
    TokenUsageReport,
)
_ARGUMENTS = frozenset(inspect.signature(GenerationMonitor).parameters) - {"config"}


class _Swap(NamedTuple):
    """A class of AfterImage, and its replacement."""

    original: type
    replacement: type


_lock = ForkLock()  # never held during an import
_installs: list[MonitorConfig | None] = []  # the first one applies
_swaps: list[_Swap] = []
_bindings: list[tuple[dict[str, Any], str, _Swap]] = []  # namespace, name, swap
_stand_ins: dict[type, type] = {}
_first = FirstTimes()


def install(config: MonitorConfig | None = None) -> None:
    """Replace AfterImage's monitor by genmeter's.

    Calls are counted: the settings of the first apply, and as many calls of :func:`uninstall`
    restore AfterImage's monitor.

    Args:
        config: Settings of all replacing monitors; None reads the ``GENMETER_*`` variables for
            each.

    Raises:
        ConfigError: ``config`` is not a MonitorConfig.
    """
    optional(instance_of(MonitorConfig))("config", config)
    with _lock:
        _installs.append(config)
        if len(_installs) > 1:
            if config != _installs[0]:
                _warn("ignoring the settings: AfterImage's monitor has already been replaced")
            return
    if _MODULE in sys.modules:
        # Waits for another thread that is importing it.
        with suppress(Exception):
            importlib.import_module(_MODULE)
    wrapt.register_post_import_hook(_patch, _MODULE)


def uninstall() -> None:
    """Restore AfterImage's monitor, after as many calls as of :func:`install`.

    Replacing monitors continue to work. Modules outside of AfterImage that were imported meanwhile
    get AfterImage's monitor back, but keep genmeter's other classes. Does nothing if nothing is
    installed.
    """
    with _lock:
        if _installs:
            _installs.pop()
        if _installs:
            return
        expect_reports(False)
        for namespace, name, swap in _bindings:
            if namespace.get(name) is swap.replacement:
                namespace[name] = swap.original
        everything = {id(swap.replacement): swap for swap in _swaps}
        monitor = {id(swap.replacement): swap for swap in _swaps if swap.original in _stand_ins}
        for module, namespace in _namespaces():
            is_afterimage = module.partition(".")[0] == _PACKAGE
            for name, swap in _bound_to(namespace, everything if is_afterimage else monitor):
                namespace[name] = swap.original
        _bindings.clear()
        _swaps.clear()
        _first.clear()


def _patch(module: ModuleType) -> None:
    try:
        with _lock:
            if _installs and not _swaps:
                _replace(module)
    except Exception:
        # An exception would fail the job's import.
        _logger.warning("AfterImage's monitor could not be replaced", exc_info=True)


def _replace(module: ModuleType) -> None:
    namespace = vars(module)
    original = namespace.get(_CLASS)
    if not isinstance(original, type):
        _warn(
            f"{_MODULE} has no class {_CLASS}, nothing was replaced; genmeter supports AfterImage "
            "from 0.18.0 on"
        )
        return
    if issubclass(original, GenerationMonitor):
        return
    _swaps.append(_Swap(original, _stand_in(original)))
    for replacement in _OTHER_CLASSES:
        other = namespace.get(replacement.__name__)
        # Only classes of AfterImage: an alias of a common type must not be replaced everywhere.
        if isinstance(other, type) and other.__module__.partition(".")[0] == _PACKAGE:
            _swaps.append(_Swap(other, replacement))
    replacements = {id(swap.original): swap for swap in _swaps}
    for _, found in _namespaces():
        for name, swap in _bound_to(found, replacements):
            found[name] = swap.replacement
            _bindings.append((found, name, swap))
    early = sorted(f"{each.__module__}.{each.__qualname__}" for each in _early_subclasses(original))
    if early:
        _warn(
            f"subclasses of AfterImage's monitor are not replaced: {', '.join(early)}; install the "
            "patch before they are defined"
        )


def _namespaces() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the namespaces of all loaded modules, without running their code."""
    for name, module in list(sys.modules.items()):
        namespace = None
        with suppress(Exception):  # of an object that replaces a module
            # vars() and getattr() would load a lazy module.
            namespace = object.__getattribute__(module, "__dict__")
        if type(namespace) is dict:
            yield str(name), namespace


def _bound_to(namespace: dict[str, Any], swaps: dict[int, _Swap]) -> list[tuple[str, _Swap]]:
    found = ((name, swaps.get(id(value))) for name, value in list(namespace.items()))
    return [(name, swap) for name, swap in found if swap is not None]


def _early_subclasses(original: type) -> Iterator[type]:
    subclasses: list[type] = type.__subclasses__(original)
    for each in subclasses:
        if not issubclass(each, GenerationMonitor):
            yield each
            yield from _early_subclasses(each)


def _stand_in(original: Any) -> type:
    """Return the class that replaces AfterImage's, always the same one."""
    if original in _stand_ins:
        return _stand_ins[original]
    signature = inspect.signature(original.__init__)

    class StandIn(GenerationMonitor, original):  # type: ignore[misc]
        """Genmeter's monitor, as a subclass of AfterImage's."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            if cls is StandIn and not _installs:
                return original(*args, **kwargs)
            return object.__new__(cls)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Raises the same TypeErrors as AfterImage.
            passed = signature.bind(self, *args, **kwargs).arguments
            passed.pop(next(iter(signature.parameters)))
            _construct(self, passed)
            # It reports each call after its end, so what else observes the call waits for that.
            expect_reports(True)
            # All replacing monitors have the same settings.
            self._session.state.shares_expected = True

    for method in (StandIn.__new__, StandIn.__init__):
        functools.update_wrapper(method, original.__init__)  # inspect.signature() follows it
    for name in set(dir(original)) - set(dir(GenerationMonitor)):
        if not name.startswith("__"):
            setattr(StandIn, name, _Absent(name))
    # Pickle uses these: a process without the patch loads AfterImage's class.
    for name in ("__module__", "__name__", "__qualname__"):
        setattr(StandIn, name, getattr(original, name))
    _redirect(original, StandIn)
    _stand_ins[original] = StandIn
    return StandIn


def _redirect(original: Any, stand_in: type) -> None:
    """Let a call of AfterImage's class create a replacing monitor.

    This is permanent: CPython cannot remove a ``__new__`` without breaking the class
    (``object.__new__`` then rejects the constructor's arguments).
    """
    original_new = original.__new__

    @functools.wraps(original.__init__)
    def redirect(cls: type, *args: Any, **kwargs: Any) -> Any:
        if cls is original and _installs:
            return object.__new__(stand_in)
        if original_new is object.__new__:
            return object.__new__(cls)
        return original_new(cls, *args, **kwargs)

    original.__new__ = staticmethod(redirect)


class _Absent:
    """Hides an attribute of AfterImage's class that could not work here."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        raise AttributeError(f"genmeter's GenerationMonitor has no attribute {self._name!r}")


def _construct(monitor: GenerationMonitor, passed: dict[str, Any]) -> None:
    """Call the constructor without the arguments it rejects, since AfterImage would not raise."""
    arguments = {name: value for name, value in passed.items() if name in _ARGUMENTS}
    if dropped := sorted(passed.keys() - arguments.keys()):
        _warn(f"ignoring arguments unknown to genmeter's monitor: {', '.join(dropped)}")
    config = next(iter(_installs), None)
    no_export = MonitorConfig(meter_provider=NoOpMeterProvider())
    while True:
        try:
            GenerationMonitor.__init__(monitor, **arguments, config=config)
            return
        except Exception as error:
            rejected = str(error).partition(" ")[0]  # the first word names the argument
            if rejected in arguments:
                _warn(f"{error}; using the default")
                del arguments[rejected]
            elif isinstance(error, EndpointError) and config is not None:
                _warn(f"metrics are not served: {error}")
                config = dataclasses.replace(config, endpoint=EndpointConfig(enabled=False))
            elif config is not no_export:
                _warn(f"metrics are not exported: {error}")
                config = no_export
            else:
                raise


def _warn(text: str) -> None:
    if _first.is_new(text):
        _logger.warning("%s", text)
