"""The monitor of a process, for what observes calls without being given one."""

from __future__ import annotations

import weakref
from typing import NamedTuple

from opentelemetry.metrics import NoOpMeterProvider

from genmeter import runtime
from genmeter.config.monitor import EndpointConfig, MonitorConfig
from genmeter.errors import ConfigError, EndpointError
from genmeter.fork_lock import ForkLock
from genmeter.monitor import GenerationMonitor, newest_monitor, open_monitors
from genmeter.pipeline.once import OnceLog

__all__ = ["configure", "has_process_monitor", "process_monitor"]

_once = OnceLog()  # off the thread of the first call
_lock = ForkLock()
# One for each runtime: tests have several.
_made: weakref.WeakKeyDictionary[runtime.Runtime, GenerationMonitor] = weakref.WeakKeyDictionary()


class _Chosen(NamedTuple):
    """The monitor that was chosen last; not kept alive, since a job's is closed when the job drops it.

    Attributes:
        monitor: The monitor.
        owner: The runtime that it was chosen for.
        newest: The number of the newest monitor at that time.
    """

    monitor: weakref.ref[GenerationMonitor]
    owner: weakref.ref[runtime.Runtime]
    newest: int


_chosen: _Chosen | None = None
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
    global _chosen  # noqa: PLW0603 - that of the process, replaced as a whole
    found = _known()
    if found is None:
        newest = newest_monitor()
        found = _choose()
        _chosen = _Chosen(weakref.ref(found), weakref.ref(runtime.current()), newest)
    return found


def has_process_monitor() -> bool:
    """Return whether there is a monitor already, so that none has to be made."""
    return _known() is not None or bool(open_monitors())


def _known() -> GenerationMonitor | None:
    """Return the one that was chosen last, unless monitors came or went since."""
    if _chosen is None or _chosen.newest != newest_monitor():
        return None
    monitor = _chosen.monitor()
    if monitor is None or monitor.is_shut or _chosen.owner() is not runtime.current():
        return None
    return monitor


def _choose() -> GenerationMonitor:
    current = runtime.current()
    made = _made.get(current)
    for monitor in open_monitors():
        if monitor is not made:
            return monitor
    with _lock:
        made = _made.get(current)
        if made is None or made.is_shut:
            made = _made[current] = _make()
        return made


def _make() -> GenerationMonitor:
    try:
        return GenerationMonitor(config=_config)
    except EndpointError as error:
        _once.warn(str(error), "the monitor of this process has no endpoint: %s", error)
        config = MonitorConfig(endpoint=EndpointConfig(enabled=False))
    except ConfigError as error:
        _once.warn(str(error), "the monitor of this process exports no metrics: %s", error)
        config = MonitorConfig(meter_provider=NoOpMeterProvider())
    return GenerationMonitor(config=config)
