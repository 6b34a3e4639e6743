"""The installed instrumentations: found by their entry points, turned on one for each client."""

from __future__ import annotations

import os
import sys
import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.auto.catalogue import rank
from genmeter.events.values import UNREADABLE, safe_text

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from genmeter.auto.catalogue import Client

__all__ = ["Found", "TurnedOn", "candidates", "disabled", "is_turning_on", "turn_on"]

_GROUP = "opentelemetry_instrumentor"
_DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
_ALL = "*"
_MAX_SHOWN = 200


class _TurningOn(threading.local):
    """Whether this thread turns an instrumentation on here."""

    is_on = False


_turning_on = _TurningOn()


class Found(NamedTuple):
    """An installed instrumentation.

    Attributes:
        entry: Its entry point.
        distribution: The name of its package.
        version: The version of its package.
    """

    entry: EntryPoint
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


class TurnedOn(NamedTuple):
    """What became of the installed instrumentations of a client.

    Attributes:
        found: The one that watches it; None if none does.
        instrumentor: Its instrumentor.
        is_ours: Whether it was turned on here, rather than by the job.
        problems: Why those before it were not used, a text each.
    """

    found: Found | None
    instrumentor: Any
    is_ours: bool
    problems: tuple[str, ...]


def is_turning_on() -> bool:
    """Return whether this thread turns an instrumentation on here, rather than the job."""
    return _turning_on.is_on


def disabled() -> frozenset[str]:
    """Return the names in ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS``."""
    text = os.environ.get(_DISABLED, "")
    return frozenset(name for each in text.split(",") if (name := each.strip()))


def candidates(client: Client) -> list[Found]:
    """Return the installed instrumentations of a client, the preferred one first."""
    excluded = disabled()
    if _ALL in excluded:
        return []
    found = []
    for entry in entry_points(group=_GROUP):
        place = rank(client, entry.module)
        if place is not None and entry.name not in excluded:
            name, version = _package_of(entry)
            found.append((place, name, Found(entry, name, version)))
    return [each for _, _, each in sorted(found, key=lambda item: item[:2])]


def turn_on(client: Client) -> TurnedOn:
    """Turn on the preferred instrumentation of a client that works here; never raises.

    One that the job itself has turned on is left alone, whatever its place.
    """
    found = candidates(client)
    for each in found:
        instrumentor = _instrumented_by_job(each)
        if instrumentor is not None:
            return TurnedOn(each, instrumentor, is_ours=False, problems=())
    problems: list[str] = []
    for each in found:
        try:
            problem = _conflict_of(each)
            if problem is None:
                instrumentor = each.entry.load()()
                _turning_on.is_on = True
                try:
                    instrumentor.instrument(skip_dep_check=True)
                finally:
                    _turning_on.is_on = False
                if instrumentor.is_instrumented_by_opentelemetry:
                    return TurnedOn(each, instrumentor, is_ours=True, problems=tuple(problems))
                problem = "it did not start"
        except UNREADABLE as error:
            problem = f"{type(error).__name__}: {safe_text(error, _MAX_SHOWN)}"
        problems.append(f"{each} is not used: {problem}")
    return TurnedOn(None, None, is_ours=False, problems=tuple(problems))


def _instrumented_by_job(found: Found) -> Any:
    """Return the instrumentor if the job has turned it on itself, for which it has imported it."""
    if found.entry.module not in sys.modules:
        return None
    try:
        instrumentor = found.entry.load()()
        return instrumentor if instrumentor.is_instrumented_by_opentelemetry else None
    except UNREADABLE:
        return None


def _package_of(entry: EntryPoint) -> tuple[str, str]:
    distribution = entry.dist
    if distribution is None:
        return entry.module, ""
    try:
        return str(distribution.name), str(distribution.version)
    except UNREADABLE:
        return entry.module, ""


def _conflict_of(found: Found) -> str | None:
    """Return why the installed client is not one that it supports; None if it is."""
    from opentelemetry.instrumentation import dependencies

    distribution = found.entry.dist
    conflict = None
    if distribution is not None:
        conflict = dependencies.get_dist_dependency_conflicts(distribution)
    return None if conflict is None else safe_text(conflict, _MAX_SHOWN)
