"""The monitor of a process, for what observes calls without being given one."""

from __future__ import annotations

import threading
import weakref

from genmeter import runtime
from genmeter.monitor import GenerationMonitor, open_monitors

__all__ = ["process_monitor"]

_lock = threading.Lock()
# One for each runtime: tests have several.
_made: weakref.WeakKeyDictionary[runtime.Runtime, GenerationMonitor] = weakref.WeakKeyDictionary()


def process_monitor() -> GenerationMonitor:
    """Return the monitor that records what belongs to no other.

    That is the oldest open monitor that the job has made itself, so that its reports and budgets have the
    calls. Without one it is a monitor of the ``GENMETER_*`` variables, made once; a monitor that the job
    makes later takes its node for the calls that end from then on, and ``process_token_usage()`` sums over
    both.

    Raises:
        ConfigError: A variable is invalid.
        EndpointError: The endpoint is enabled and its address cannot be bound.
    """
    current = runtime.current()
    made = _made.get(current)
    for monitor in open_monitors():
        if monitor is not made:
            return monitor
    with _lock:
        made = _made.get(current)
        if made is None or made._is_shut:  # noqa: SLF001 - of this package
            made = _made[current] = GenerationMonitor()
        return made
