"""Puts genmeter's monitor in the place of AfterImage's, in code that names only AfterImage's.

:func:`install` imports nothing of AfterImage. When ``afterimage.monitoring`` is imported, or where
it is imported already, its public names become genmeter's, also in the modules that took them from
there before. Who still holds AfterImage's class itself, in a closure or a default, gets a monitor
of genmeter's by calling it. :func:`uninstall` puts everything back.

A monitor that stands in for AfterImage's is an instance of AfterImage's class too, and can always
be made where that one could: arguments that genmeter cannot use are dropped with a warning.

What stays AfterImage's: monitors that exist already, subclasses that were made before the patch (a
warning names them), and fresh interpreters. Only ``genmeter run`` and ``opentelemetry-instrument``
reach the children that a job spawns.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import logging
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import wrapt
from opentelemetry.metrics import NoOpMeterProvider

from genmeter.alerting.state import Alert
from genmeter.config.checks import instance_of, optional
from genmeter.config.monitor import EndpointConfig, MonitorConfig
from genmeter.errors import EndpointError
from genmeter.handlers.base import FileLogHandler, FileMetricHandler, LogHandler, MetricHandler
from genmeter.history.token_report import ModelTokenUsage, TokenUsageReport
from genmeter.monitor import GenerationMonitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["install", "uninstall"]

_logger = logging.getLogger("genmeter")

_PACKAGE = "afterimage"
_MODULE = "afterimage.monitoring"
_CLASS = "GenerationMonitor"
_OTHERS: tuple[type, ...] = (
    Alert,
    FileLogHandler,
    FileMetricHandler,
    LogHandler,
    MetricHandler,
    ModelTokenUsage,
    TokenUsageReport,
)
_ARGUMENTS = frozenset(inspect.signature(GenerationMonitor).parameters) - {"config"}
_NOWHERE = NoOpMeterProvider()


class _Swap(NamedTuple):
    """A class of AfterImage's, and what stands in for it."""

    theirs: type
    ours: type


class _Binding(NamedTuple):
    """A name of a module's that was bound anew."""

    namespace: dict[str, Any]
    name: str
    swap: _Swap


_lock = threading.RLock()  # never held during an import
_installs: list[MonitorConfig | None] = []  # the first one's settings hold
_swaps: list[_Swap] = []
_bindings: list[_Binding] = []
_stand_ins: dict[type, type] = {}
_said: set[str] = set()


def install(config: MonitorConfig | None = None) -> None:
    """Have genmeter's monitor stand in for AfterImage's, from here on.

    Installs are counted: the settings of the first hold, and as many calls of :func:`uninstall`
    put everything back.

    Args:
        config: Settings of every monitor that stands in; None reads the ``GENMETER_*`` variables
            for each.

    Raises:
        ConfigError: ``config`` is no MonitorConfig.
    """
    optional(instance_of(MonitorConfig))("config", config)
    with _lock:
        _installs.append(config)
        if len(_installs) > 1:
            if config != _installs[0]:
                _warn(
                    "AfterImage's monitor is patched already; ignoring the settings of a later install"
                )
            return
    if _MODULE in sys.modules:
        # Where another thread is about to import it, this waits until it has all its names.
        with suppress(Exception):
            importlib.import_module(_MODULE)
    wrapt.register_post_import_hook(_patch, _MODULE)


def uninstall() -> None:
    """Put AfterImage's monitor back, once this was called as often as :func:`install`.

    Monitors that stand in go on working. A module outside of AfterImage that was imported
    meanwhile gets its class of the monitor back; other names that it took stay genmeter's.
    Does nothing where nothing is installed.
    """
    with _lock:
        if _installs:
            _installs.pop()
        if _installs:
            return
        for namespace, name, swap in _bindings:
            if namespace.get(name) is swap.ours:
                namespace[name] = swap.theirs
        everything = {id(swap.ours): swap for swap in _swaps}
        monitor = {id(swap.ours): swap for swap in _swaps if swap.theirs in _stand_ins}
        for module, namespace in _namespaces():
            is_afterimage = module.partition(".")[0] == _PACKAGE
            for name, swap in _bound_to(namespace, everything if is_afterimage else monitor):
                namespace[name] = swap.theirs
        _bindings.clear()
        _swaps.clear()
        _said.clear()


def _patch(module: ModuleType) -> None:
    try:
        with _lock:
            if _installs and not _swaps:
                _replace(module)
    except Exception:
        # What is raised here would fail the job's import.
        _logger.warning(
            "AfterImage's monitor could not be patched and stays as it is", exc_info=True
        )


def _replace(module: ModuleType) -> None:
    namespace = vars(module)
    old = namespace.get(_CLASS)
    if not isinstance(old, type):
        _warn(
            f"{_MODULE} has no class {_CLASS}, so nothing was replaced; genmeter knows AfterImage "
            "from 0.18.0 on"
        )
        return
    if issubclass(old, GenerationMonitor):
        return
    _swaps.append(_Swap(old, _stand_in(old)))
    for ours in _OTHERS:
        theirs = namespace.get(ours.__name__)
        # What it defines itself: an alias of a common type must not be replaced everywhere.
        if isinstance(theirs, type) and theirs.__module__.partition(".")[0] == _PACKAGE:
            _swaps.append(_Swap(theirs, ours))
    ours_by_theirs = {id(swap.theirs): swap for swap in _swaps}
    for _, found in _namespaces():
        for name, swap in _bound_to(found, ours_by_theirs):
            found[name] = swap.ours
            _bindings.append(_Binding(found, name, swap))
    early = sorted(f"{each.__module__}.{each.__qualname__}" for each in _early_subclasses(old))
    if early:
        _warn(
            "these classes were derived from AfterImage's monitor before it was replaced and stay "
            f"as they are: {', '.join(early)}; replace it before they are defined"
        )


def _namespaces() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names that each loaded module binds, without running any code of a module's."""
    for name, module in list(sys.modules.items()):
        namespace = None
        with suppress(Exception):  # of whatever stands in the place of a module
            # vars() and getattr() would make a lazy module load itself.
            namespace = object.__getattribute__(module, "__dict__")
        if type(namespace) is dict:
            yield str(name), namespace


def _bound_to(namespace: dict[str, Any], swaps: dict[int, _Swap]) -> list[tuple[str, _Swap]]:
    found = ((name, swaps.get(id(value))) for name, value in list(namespace.items()))
    return [(name, swap) for name, swap in found if swap is not None]


def _early_subclasses(old: type) -> Iterator[type]:
    subclasses: list[type] = type.__subclasses__(old)
    for each in subclasses:
        if not issubclass(each, GenerationMonitor):
            yield each
            yield from _early_subclasses(each)


def _stand_in(old: Any) -> type:
    """Make the class that takes the place of AfterImage's; the same one each time."""
    if old in _stand_ins:
        return _stand_ins[old]
    signature = inspect.signature(old.__init__)

    class StandIn(GenerationMonitor, old):  # type: ignore[misc]
        """Genmeter's monitor, which is an instance of AfterImage's class too."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            if cls is StandIn and not _installs:
                return old(*args, **kwargs)
            return object.__new__(cls)

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Bound as AfterImage does, so that its TypeErrors are the only ones.
            given = signature.bind(self, *args, **kwargs).arguments
            given.pop(next(iter(signature.parameters)))
            _construct(self, given)
            # The same settings hold for every monitor that stands in.
            self._session.state.shares_expected = True

    for made in (StandIn.__new__, StandIn.__init__):
        functools.update_wrapper(made, old.__init__)  # inspect.signature() follows it
    for name in set(dir(old)) - set(dir(GenerationMonitor)):
        if not name.startswith("__"):
            setattr(StandIn, name, _Absent(name))
    # A class is pickled by these: a process without the patch then has AfterImage's.
    for name in ("__module__", "__name__", "__qualname__"):
        setattr(StandIn, name, getattr(old, name))
    _redirect(old, StandIn)
    _stand_ins[old] = StandIn
    return StandIn


def _redirect(old: Any, stand_in: type) -> None:
    """Have a call of AfterImage's class, wherever it is still held, make the stand-in.

    This stays for good and passes on what is not its concern: CPython cannot take a ``__new__``
    away again without breaking the class (``object.__new__`` then refuses the constructor's
    arguments).
    """
    original = old.__new__

    @functools.wraps(old.__init__)
    def redirect(cls: type, *args: Any, **kwargs: Any) -> Any:
        if cls is old and _installs:
            return object.__new__(stand_in)
        if original is object.__new__:
            return object.__new__(cls)
        return original(cls, *args, **kwargs)

    old.__new__ = staticmethod(redirect)


class _Absent:
    """Hides what only AfterImage's class has: inside of a stand-in none of it could work."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        raise AttributeError(f"genmeter's GenerationMonitor has no attribute {self._name!r}")


def _construct(monitor: GenerationMonitor, given: dict[str, Any]) -> None:
    """Call the constructor without the arguments it rejects, since AfterImage's would not raise."""
    arguments = {name: value for name, value in given.items() if name in _ARGUMENTS}
    if dropped := sorted(given.keys() - arguments.keys()):
        _warn(f"genmeter's monitor does not know {', '.join(dropped)}, which change nothing")
    config = next(iter(tuple(_installs)), None)
    nowhere = MonitorConfig(meter_provider=_NOWHERE)
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
                _warn(f"metrics are not served, the job goes on: {error}")
                config = dataclasses.replace(config, endpoint=EndpointConfig(enabled=False))
            elif config is not nowhere:
                _warn(f"metrics are not exported, the job goes on: {error}")
                config = nowhere
            else:
                raise


def _warn(text: str) -> None:
    if text not in _said:
        _said.add(text)
        _logger.warning("%s", text)
