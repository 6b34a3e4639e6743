"""The monitor of a process, for what observes calls without being given one."""

from __future__ import annotations

import logging
import os
import threading
import weakref

from opentelemetry.metrics import NoOpMeterProvider

from genmeter import runtime
from genmeter.config.monitor import EndpointConfig, MonitorConfig
from genmeter.errors import ConfigError, EndpointError
from genmeter.monitor import GenerationMonitor, open_monitors

__all__ = ["configure", "process_monitor"]

_logger = logging.getLogger("genmeter")
_lock = threading.RLock()  # a monitor that is collected meanwhile may need one on the same thread
# One for each runtime: tests have several.
_made: weakref.WeakKeyDictionary[runtime.Runtime, GenerationMonitor] = weakref.WeakKeyDictionary()


_config: MonitorConfig | None = None


def configure(config: MonitorConfig | None) -> None:
    """Set the settings of the monitor that :func:`process_monitor` makes; None: the variables."""
    global _config  # noqa: PLW0603 - a setting of the process
    _config = config


def process_monitor() -> GenerationMonitor:
    """Return the monitor that records what belongs to no other.

    That is the oldest open monitor that the job has made itself, so that its reports and budgets have the
    calls. Without one it is a monitor of the ``GENMETER_*`` variables, made once; a monitor that the job
    makes later takes its node for the calls that end from then on, and ``process_token_usage()`` sums over
    both. If a variable is invalid, or its endpoint cannot be bound, a warning says so, and its metrics are
    not exported: totals and reports of the process have its calls.
    """
    current = runtime.current()
    made = _made.get(current)
    for monitor in open_monitors():
        if monitor is not made:
            return monitor
    with _lock:
        made = _made.get(current)
        if made is None or made._is_shut:  # noqa: SLF001 - of this package
            made = _made[current] = _make()
        return made


def _make() -> GenerationMonitor:
    try:
        return GenerationMonitor(config=_config)
    except EndpointError as error:
        _logger.warning("the monitor of this process has no endpoint: %s", error)
        config = MonitorConfig(endpoint=EndpointConfig(enabled=False))
    except ConfigError as error:
        _logger.warning("the monitor of this process exports no metrics: %s", error)
        config = MonitorConfig(meter_provider=NoOpMeterProvider())
    return GenerationMonitor(config=config)


def _reset_in_child() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it at the fork
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
