"""Which clients are watched, by which monitor: ``monitor.watch`` and ``genmeter run``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, TypeVar

from genmeter.clients import _google, _stainless
from genmeter.clients._patches import apply
from genmeter.clients._registry import (
    Options,
    Watch,
    adopt,
    entries,
    installed,
    once,
    watch_of_object,
)
from genmeter.errors import ConfigError
from genmeter.events.capture import class_name
from genmeter.events.values import UNREADABLE
from genmeter.fork_lock import ForkLock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from genmeter.clients._patches import Replacement
    from genmeter.clients._registry import Recorder

__all__ = ["install", "uninstall", "unwatch", "watch"]

_C = TypeVar("_C")
_MAX_WRAPPERS = 8
_lock = ForkLock()
_classes: dict[str, list[type]] = {}
"""The classes of the packages whose clients are all watched."""


def watch(
    monitor: Recorder,
    client: _C,
    *,
    step: str | None = None,
    provider: str | None = None,
    include_usage: bool = False,
) -> _C:
    """Record the calls of a client; see ``GenerationMonitor.watch``.

    Raises:
        ConfigError: ``client`` is none that can be watched.
    """
    parts = _parts(client)
    options = Options(step, provider, include_usage)
    with _lock:
        known = watch_of_object(parts[0])
        if known is not None and not known.is_of(monitor) and known.has_monitor:
            once.warn(
                f"two_monitors:{id(monitor)}",
                "a client that another monitor watches is now watched by this one alone; a client has "
                "one monitor, so that its calls are recorded once",
            )
        if known is not None and known.is_of(monitor) and not entries[id(parts[0])].is_copy:
            known.options = options  # also those of the copies that it made
        else:
            known = Watch(monitor, options)
        try:
            for part in parts:
                adopt(part, known)
        except TypeError:
            raise _refusal(client, "does not allow weak references") from None
        _apply()
    return client


def unwatch(monitor: Recorder, client: Any) -> None:
    """Record the calls of a client, and of its copies, no longer; see ``GenerationMonitor.unwatch``.

    Raises:
        ConfigError: ``client`` is none that can be watched.
    """
    parts = _parts(client)
    with _lock:
        for part in parts:
            known = watch_of_object(part)
            if known is None or not known.is_of(monitor):
                continue
            is_copy = entries[id(part)].is_copy
            entries.pop(id(part), None)
            if not is_copy:
                for key, entry in list(entries.items()):
                    if entry.watch is known and entry.is_copy:
                        entries.pop(key, None)
        _apply()


def install(
    package: str,
    monitor: Recorder,
    *,
    step: str | None = None,
    provider: str | None = None,
    include_usage: bool = False,
) -> bool:
    """Record the calls of all clients of a package that exist or are made in this process.

    A client that is watched by itself keeps its own monitor. A second call for a package replaces the
    first one.

    Args:
        package: ``openai``, ``anthropic``, ``google.genai``, or another package whose clients have
            the same base, such as ``groq``; it is imported.
        monitor: Kept by a weak reference.
        step: As of ``GenerationMonitor.watch``, like the others.
        provider: As there.
        include_usage: As there.

    Returns:
        Whether the package has clients of a known shape; if not, a warning names its version.

    Raises:
        ImportError: The package cannot be imported.
    """
    module = importlib.import_module(package)
    kinds = _kinds_in(package, module)
    if not any(_replacements_of(kind) for kind in kinds):
        once.warn(
            f"install:{package}",
            "genmeter finds no client of a known shape in %s %s, so the calls of its clients are not "
            "recorded; update genmeter, or use `with monitor.generation(...)`",
            package,
            getattr(module, "__version__", "of unknown version"),
        )
        return False
    with _lock:
        installed[package] = Watch(monitor, Options(step, provider, include_usage))
        _classes[package] = kinds
        _apply()
    return True


def uninstall(package: str, monitor: Recorder | None = None) -> None:
    """Undo :func:`install`; does nothing if the package is not installed.

    Args:
        package: As there.
        monitor: Undo it only if this monitor is the one that was installed last; None means any.
    """
    with _lock:
        known = installed.get(package)
        if known is None or (monitor is not None and not known.is_of(monitor)):
            return
        del installed[package]
        _classes.pop(package, None)
        _apply()


# --- inside --------------------------------------------------------------------------------------


def _parts(client: Any) -> list[Any]:
    """Return the objects whose methods make a client's calls.

    Raises:
        ConfigError: It is no known client.
    """
    for each in _unwrapped(client):
        kind = type(each)
        try:
            if _stainless.is_client_class(kind):
                return [each]
            if _google.is_client_class(kind):
                parts = _google.model_parts(each)
                if all(_google.replacements_of(type(part)) for part in parts):
                    return parts
        except UNREADABLE:
            break
    raise _refusal(client, "is none that genmeter knows")


def _unwrapped(client: Any) -> Iterator[Any]:
    """Yield a client, and what it wraps if it is a proxy of wrapt's kind."""
    for _ in range(_MAX_WRAPPERS):
        yield client
        try:
            client = object.__getattribute__(client, "__wrapped__")
        except UNREADABLE:
            return


def _refusal(client: Any, why: str) -> ConfigError:
    kind = type(client)
    return ConfigError(
        f"monitor.watch() got a client of type {_module(kind)}.{class_name(kind)}, which {why}; watch "
        "an OpenAI, Anthropic or google.genai client object (of a wrapper: the client in it), or "
        "write `with monitor.generation(...) as call:` around the call and pass the response to "
        "call.usage()"
    )


def _module(kind: type) -> str:
    try:
        return str(kind.__module__)
    except UNREADABLE:
        return "?"


def _kinds_in(package: str, module: ModuleType) -> list[type]:
    """Return the classes of a package whose methods make its clients' calls."""
    if package == _google.PACKAGE:
        return _google.classes_in(module)
    return _stainless.classes_in(module)


def _replacements_of(kind: type) -> list[Replacement]:
    if _stainless.is_client_class(kind):
        return _stainless.replacements_of(kind)
    return _google.replacements_of(kind)


def _apply() -> None:
    """Replace the methods that the watched clients need, and put back all others."""
    kinds = {entry.kind for entry in list(entries.values())}
    kinds.update(kind for each in _classes.values() for kind in each)
    apply([each for kind in kinds for each in _replacements_of(kind)])
