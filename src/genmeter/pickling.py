"""Pickled monitors: one that is unpickled in another process becomes that process's own.

A job hands its monitor to workers: ``Pool(initargs=(monitor,))``, ``functools.partial(work, monitor)``,
``executor.submit(work, monitor)``. In the process that made the monitor, and in its forked children,
a pickle is a reference to it. In any other process the first unpickling makes a monitor with the same
settings, and each later one returns that.

A worker has more tasks to come when one of them ends. So ``with monitor:`` shuts down only what its own
process has made; in a worker it ends with a flush, and the end of the process shuts down. If a task calls
``shutdown()``, the next unpickling makes a new monitor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
import sys
import threading
import uuid
import weakref
from typing import TYPE_CHECKING, Any

from genmeter.config.monitor import EndpointConfig, MonitorConfig
from genmeter.errors import EndpointError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Origin", "restore"]

_logger = logging.getLogger("genmeter")

_HANDLERS = ("metric_handlers", "log_handlers", "alert_handlers")
_CALLBACK = "token_usage_callback"


class Origin:
    """What a monitor is known by in all processes, and the settings that its pickle carries.

    Args:
        monitor: The monitor.
        arguments: The arguments of its constructor; ``config`` is the configuration in use.
    """

    def __init__(self, monitor: object, arguments: dict[str, Any]) -> None:
        made = _making.origin
        self.id = uuid.uuid4().hex if made is None else made
        self._made_in = os.getpid() if made is None else None
        self._shut_in: int | None = None
        self._class = type(monitor)
        self._arguments = arguments
        self._is_packing = threading.local()
        self._has_warned = False
        _monitors[self.id] = monitor

    @property
    def is_passed(self) -> bool:
        """Whether this process has the monitor from another one: unpickled, or by a fork."""
        return self._made_in != os.getpid()

    def note_shutdown(self) -> None:
        """Note that this process has shut the monitor down."""
        self._shut_in = os.getpid()

    @property
    def is_used_up(self) -> bool:
        """Whether an earlier task of this worker has shut the monitor down, which it was passed."""
        return self.is_passed and self._shut_in == os.getpid()

    def reduce(self, **current: Any) -> tuple[Callable[..., object], tuple[Any, ...]]:
        """Return what ``__reduce__`` returns.

        Args:
            **current: The arguments that have changed since.

        Raises:
            PicklingError: A handler refers to the monitor itself.
        """
        if getattr(self._is_packing, "value", False):
            raise pickle.PicklingError("the monitor is a part of its own handler")
        self._is_packing.value = True
        try:
            packed = self._pack({**self._arguments, **current})
        finally:
            self._is_packing.value = False
        return restore, (self._class, self.id, packed)

    def _pack(self, arguments: dict[str, Any]) -> bytes:
        dropped: list[str] = []
        for name in _HANDLERS:
            if arguments[name] is not None:
                packed = [(each, _pickled(each)) for each in arguments[name]]
                dropped += [f"{name}: {type(each).__name__}" for each, data in packed if not data]
                arguments[name] = [data for _, data in packed if data]
        if arguments[_CALLBACK] is not None:
            arguments[_CALLBACK] = _pickled(arguments[_CALLBACK])
            dropped += [] if arguments[_CALLBACK] else [_CALLBACK]
        config: MonitorConfig = arguments["config"]
        # The samples that are expected of the job are the parent's, as in a forked child.
        config = dataclasses.replace(config, expected_samples=None)
        if not isinstance(config.meter_provider, str):
            dropped.append("config.meter_provider")
            config = dataclasses.replace(config, meter_provider="builtin")
        arguments["config"] = config
        if dropped and not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "the monitor of another process lacks what cannot be pickled: %s; make it there, "
                "with a monitor of its own",
                ", ".join(dropped),
            )
        return pickle.dumps(arguments)


def restore(cls: type[Any], origin: str, packed: bytes) -> object:
    """Return the open monitor of this process with an origin, made of the packed settings if needed.

    Args:
        cls: The monitor's class.
        origin: The id of the monitor's origin.
        packed: The arguments of its constructor.

    Raises:
        ConfigError: The settings cannot be used in this process.
    """
    with _making.lock:
        found = _monitors.get(origin)
        if found is not None and not found._origin.is_used_up:  # noqa: SLF001 - of the same package
            return found
        arguments = pickle.loads(packed)  # noqa: S301 - a part of a pickle
        for name in _HANDLERS:
            if arguments[name] is not None:
                arguments[name] = [each for data in arguments[name] for each in _unpickled(data)]
        for callback in _unpickled(arguments[_CALLBACK]):
            arguments[_CALLBACK] = callback
        _making.origin = origin
        try:
            made = _make(cls, arguments)
        finally:
            _making.origin = None
        _kept[origin] = made
        return made


def _make(cls: type[Any], arguments: dict[str, Any]) -> object:
    try:
        return cls(**arguments)
    except EndpointError as error:
        _logger.warning("the monitor of this process has no endpoint: %s", error)
        config = dataclasses.replace(arguments["config"], endpoint=EndpointConfig(enabled=False))
        return cls(**{**arguments, "config": config})


def _pickled(value: object) -> bytes | None:
    """Pickle a handler by itself, so that one that fails does not affect the others."""
    # cloudpickle, which joblib and Ray load, knows lambdas and functions of a notebook.
    for module in (pickle, sys.modules.get("cloudpickle")):
        with contextlib.suppress(Exception):
            if module is not None:
                data: bytes = module.dumps(value)
                return data
    return None


def _unpickled(data: bytes | None) -> list[Any]:
    """Return the value in a list; an empty one if it cannot be made here."""
    if data is None:
        return []
    try:
        return [pickle.loads(data)]  # noqa: S301 - a part of a pickle
    except Exception as error:
        _logger.warning("the monitor of this process lacks a handler: %r", error)
        return []


class _Making(threading.local):
    """The origin of the monitor that this thread makes, if it makes one of a pickle."""

    lock = threading.RLock()

    def __init__(self) -> None:
        self.origin: str | None = None


_making = _Making()
_monitors: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_kept: dict[str, object] = {}  # those of pickles, which nobody else may keep between two tasks


def _reset_in_child() -> None:
    _Making.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
