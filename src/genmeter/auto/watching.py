"""Chooses what watches each client that the job imports, at its import.

The rule, in this order:

1. a framework: genmeter's hook of it;
2. a client: the preferred one of the installed instrumentations (:func:`catalogue.rank`), or the one that
   the job turns on itself;
3. a client with spans of its own: these;
4. genmeter's own replacement of the client's methods.

Where spans cannot be read, or a budget has to refuse calls, the last one is preferred, since it needs no
spans and stops each call. Never two are turned on for one client.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import wrapt

from genmeter import clients, hooks
from genmeter.auto import afterimage, gates, packages
from genmeter.auto.catalogue import AFTERIMAGE, CLIENTS, LIMITS, rank
from genmeter.auto.tracing import SpanFeed
from genmeter.events.values import UNREADABLE, safe_text
from genmeter.fork_lock import ForkLock
from genmeter.observed import gate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from genmeter.auto.catalogue import Client
    from genmeter.auto.packages import TurnedOn
    from genmeter.monitor import GenerationMonitor

__all__ = ["AutoWatch", "Watched"]

_MAX_SHOWN = 200
_INSTRUMENTOR = "opentelemetry.instrumentation.instrumentor"
HOOK = "genmeter's hook"
PATCH = "genmeter"


@dataclass
class Watched:
    """What watches a client that the job has imported.

    Attributes:
        client: The client.
        by: What watches it, as shown; None if nothing does.
        version: Version of the client; empty if unknown.
        problems: Why what would be preferred does not, a text each.
        needs_spans: Whether it is seen by spans.
    """

    client: Client
    by: str | None = None
    version: str = ""
    problems: list[str] = field(default_factory=list)
    needs_spans: bool = False


class AutoWatch:
    """Watches the clients that the process imports, or has imported.

    Args:
        monitor: Returns the monitor that records the calls; called when a client is imported.
    """

    def __init__(self, monitor: Callable[[], GenerationMonitor]) -> None:
        self._monitor = monitor
        self._lock = ForkLock()
        self._seen: dict[str, Watched] = {}
        self._turned_on: dict[str, TurnedOn] = {}
        self._by_job: dict[str, None] = {}  # modules of instrumentors that the job turns on itself
        self._undo: list[Callable[[], object]] = []
        self._is_active = False
        self.spans = SpanFeed(has_fallback=True, on_blind=self._watch_without_spans)

    def start(self) -> None:
        """Watch each client at its import; clients that are imported already at once."""
        self._is_active = True
        self.spans.install()
        afterimage.install()
        wrapt.register_post_import_hook(self._on_instrumentor, _INSTRUMENTOR)
        for client in CLIENTS:
            wrapt.register_post_import_hook(self._hook_of(client), client.module)

    def stop(self) -> None:
        """Turn off what was turned on; for tests."""
        self._is_active = False
        self.spans.uninstall()
        while self._undo:
            undo = self._undo.pop()
            try:
                undo()
            except UNREADABLE:
                continue
        for turned_on in self._turned_on.values():
            if turned_on.is_ours and turned_on.instrumentor.is_instrumented_by_opentelemetry:
                turned_on.instrumentor.uninstrument()
        self._turned_on.clear()

    @property
    def seen(self) -> list[Watched]:
        """The clients that were imported, in the order of the catalogue."""
        with self._lock:
            return [self._seen[each.name] for each in CLIENTS if each.name in self._seen]

    # --- at the import of a client ---------------------------------------------------------------

    def _hook_of(self, client: Client) -> Callable[[ModuleType], None]:
        def on_import(module: ModuleType) -> None:
            if self._is_active:
                try:
                    self._on_client(client, module)
                except UNREADABLE as error:  # it would fail the job's import
                    self._see(client, module).problems.append(_text(error))

        return on_import

    def _on_client(self, client: Client, module: ModuleType) -> None:
        with self._lock:
            if client.name in self._seen:
                return
            watched = self._see(client, module)
        if client.module == AFTERIMAGE:
            watched.by = "genmeter's monitor in place of its own"
            return
        if gate.is_guarded():
            gates.install(module)
        if not self._by_hook(watched):
            self._without_hook(watched)

    def _without_hook(self, watched: Watched) -> None:
        """Watch a client in the first other way that there is."""
        ways = [self._by_instrumentation, self._by_own_spans, self._by_patch]
        if gate.is_guarded() or self.spans.is_blind:
            ways = [self._by_patch, self._by_instrumentation, self._by_own_spans]
        for way in ways:
            if way(watched):
                return

    def _see(self, client: Client, module: ModuleType) -> Watched:
        version = getattr(module, "__version__", "")
        found = Watched(client, version=version if type(version) is str else "")
        return self._seen.setdefault(client.name, found)

    def _by_hook(self, watched: Watched) -> bool:
        """Install genmeter's hook of a framework, if it has one."""
        name = watched.client.hook
        if name is None:
            return False
        try:
            hooks.install(name, monitor=self._monitor())
        except UNREADABLE as error:
            watched.problems.append(f"{HOOK} is not used: {_text(error)}")
            return False
        self._undo.append(lambda: hooks.uninstall(name))
        watched.by = HOOK
        hooks.on_aside(name, lambda why: self._on_aside(watched, why))
        return True

    def _on_aside(self, watched: Watched, why: str) -> None:
        """Watch a framework otherwise whose hook has stepped aside, perhaps long after its import."""
        if self._is_active:
            watched.by = None
            watched.problems.append(f"{HOOK} is not used: {why}")
            self._without_hook(watched)

    def _by_instrumentation(self, watched: Watched) -> bool:
        """Turn on the preferred instrumentation that is installed."""
        client = watched.client
        given = next((each for each in self._by_job if rank(client, each) is not None), None)
        if given is not None:  # its instrument() may have imported the client
            watched.by, watched.needs_spans = f"{given}, turned on by the job", True
            _note_limit(watched, given, given)
            return True
        turned_on = packages.turn_on(client)
        watched.problems += turned_on.problems
        if turned_on.found is None:
            return False
        self._turned_on[client.name] = turned_on
        watched.by, watched.needs_spans = str(turned_on.found), True
        _note_limit(watched, turned_on.found.entry.module, turned_on.found.distribution)
        if not turned_on.is_ours:
            watched.by += ", turned on by the job"
        return True

    def _by_own_spans(self, watched: Watched) -> bool:
        """Rely on the spans of the client itself."""
        if not watched.client.has_spans or not _has_own_spans(watched.client):
            return False
        watched.by, watched.needs_spans = "its own spans", True
        return True

    def _by_patch(self, watched: Watched) -> bool:
        """Replace the methods of the client's classes."""
        client = watched.client
        if not client.is_patchable:
            return False
        monitor = self._monitor()
        try:
            if not clients.install(client.module, monitor):
                watched.problems.append("it has no client class of a known shape")
                return False
        except UNREADABLE as error:
            watched.problems.append(f"genmeter does not watch it: {_text(error)}")
            return False
        self._undo.append(lambda: clients.uninstall(client.module, monitor))
        watched.by, watched.needs_spans = PATCH, False
        return True

    def _watch_without_spans(self) -> None:
        """Watch those clients otherwise whose spans do not come here any more."""
        with self._lock:
            affected = [each for each in self._seen.values() if each.needs_spans]
        for watched in affected:
            before = watched.by
            if self._by_patch(watched):
                watched.problems.append(f"{before} has no effect without spans")

    # --- what the job turns on itself ------------------------------------------------------------

    def _on_instrumentor(self, module: ModuleType) -> None:
        try:
            wrapt.wrap_function_wrapper(module, "BaseInstrumentor.instrument", self._instrumented)
        except UNREADABLE:
            return

    def _instrumented(
        self, wrapped: Any, instrumentor: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Give way to what the job turns on itself, with its own arguments."""
        if self._is_active:
            with suppress(*UNREADABLE):
                self._give_way(instrumentor)
        return wrapped(*args, **kwargs)

    def _give_way(self, instrumentor: Any) -> None:
        if packages.is_turning_on():
            return
        module = type(instrumentor).__module__
        self._by_job[module] = None
        for name, turned_on in list(self._turned_on.items()):
            watched = self._seen[name]
            if rank(watched.client, module) is None:
                continue
            ours = turned_on.instrumentor
            if turned_on.is_ours and ours.is_instrumented_by_opentelemetry:
                ours.uninstrument()
            self._turned_on[name] = turned_on._replace(is_ours=False)
            watched.by = f"{module}, turned on by the job"


def _note_limit(watched: Watched, module: str, shown: str) -> None:
    """Note what an instrumentation does not show."""
    limit = LIMITS.get(module)
    if limit is not None:
        watched.problems.append(f"{limit} by {shown}")


def _has_own_spans(client: Client) -> bool:
    """Return whether the installed version of Anthropic's client has spans, and they are on."""
    if os.environ.get("ANTHROPIC_OPEN_TELEMETRY", "").lower() == "false":
        return False
    base = sys.modules.get(f"{client.module}._base_client")
    return importlib.util.find_spec(f"{client.module}._tracing") is not None and hasattr(
        base, "get_tracer"
    )


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {safe_text(error, _MAX_SHOWN)}"
