"""Whose calls are recorded, by which monitor: neither keeps the other alive."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from genmeter.pipeline.once import OnceLog

if TYPE_CHECKING:
    from genmeter.call.handle import GenerationHandle
    from genmeter.events.answers import CallDetails
    from genmeter.observed.observer import Observer

__all__ = [
    "Options",
    "Recorder",
    "Watch",
    "adopt",
    "entries",
    "installed",
    "once",
    "watch_of",
    "watch_of_object",
]

once = OnceLog()
"""Logs what cannot be watched."""


class Recorder(Protocol):
    """The monitor, as calls are recorded by it."""

    @property
    def observer(self) -> Observer: ...
    def record_call(
        self, duration: float, success: bool, keywords: dict[str, Any], details: CallDetails | None
    ) -> None: ...
    def open_call(self, handle: GenerationHandle) -> None: ...
    def close_call(self, handle: GenerationHandle) -> None: ...
    def misuse(self, key: str, message: str) -> None: ...


class Options(NamedTuple):
    """What a watch adds to its calls.

    Attributes:
        step: The step of the pipeline.
        provider: Who serves the model; None means by the client's class and address.
        include_usage: Whether to ask for the usage of chat streams where the caller did not say.
    """

    step: str | None = None
    provider: str | None = None
    include_usage: bool = False


class Watch:
    """The watch of a client and of its copies, or of all clients of a package.

    Args:
        monitor: Kept by a weak reference.
        options: What it adds to the calls.
    """

    __slots__ = ("_monitor", "options")

    def __init__(self, monitor: Recorder, options: Options) -> None:
        self._monitor = weakref.ref(monitor)
        self.options = options

    @property
    def monitor(self) -> Recorder | None:
        """The monitor; None, and a warning, if it was garbage collected."""
        monitor = self._monitor()
        if monitor is None:
            once.warn(
                "collected_monitor",
                "the monitor that watches a client was garbage collected, so the client's calls are "
                "not recorded; keep a reference to the monitor while the client is used",
            )
        return monitor

    @property
    def has_monitor(self) -> bool:
        """Whether the monitor still exists."""
        return self._monitor() is not None

    def is_of(self, monitor: Recorder) -> bool:
        """Return whether a monitor records its calls."""
        return self._monitor() is monitor


class Entry:
    """One watched object.

    Args:
        obj: A client, or the part of one whose methods make the calls; kept by a weak reference.
        watch: Its watch.
        is_copy: Whether it is a copy that a watched client made.

    Attributes:
        kind: The object's class.
    """

    __slots__ = ("__weakref__", "is_copy", "kind", "reference", "watch")

    def __init__(self, obj: Any, watch: Watch, *, is_copy: bool) -> None:
        key = id(obj)
        own = weakref.ref(self)

        def forget(_: object) -> None:
            # Any thread, under any lock: a single operation, and only on its own entry.
            entry = own()
            if entry is not None and entries.get(key) is entry:
                entries.pop(key, None)

        self.reference = weakref.ref(obj, forget)
        self.watch = watch
        self.is_copy = is_copy
        self.kind = type(obj)


entries: dict[int, Entry] = {}
"""The watched objects by their ``id()``, since a client need not be hashable."""
installed: dict[str, Watch] = {}
"""The watches of all clients of a package, by its name."""


def adopt(obj: Any, watch: Watch, *, is_copy: bool = False) -> None:
    """Watch an object; replaces its watch."""
    entries[id(obj)] = Entry(obj, watch, is_copy=is_copy)


def watch_of_object(obj: Any) -> Watch | None:
    """Return the watch of an object itself; None without one."""
    entry = entries.get(id(obj))
    return entry.watch if entry is not None and entry.reference() is obj else None


def watch_of(obj: Any, package: str) -> Watch | None:
    """Return the watch of an object, else that of its package; None if its calls are not recorded."""
    entry = entries.get(id(obj))
    if entry is not None and entry.reference() is obj:
        return entry.watch
    return installed.get(package) if installed else None
