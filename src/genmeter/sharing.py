"""What a monitor asks for and does not get, because the process's first one set it already."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from genmeter.config import EndpointConfig, LabelLimits

if TYPE_CHECKING:
    from genmeter.config import MonitorConfig
    from genmeter.pipeline.deferred_log import DeferredLog

__all__ = ["differences", "limit_differences", "note"]

# Read when a provider is made; the rest of a configuration is each monitor's own.
_SHARED = ("prices", "score_scales", "custom_metrics", "limits", "endpoint")


def differences(first: MonitorConfig, other: MonitorConfig) -> list[str]:
    """Name what ``other`` asks for and ``first`` does not give; a default is no wish.

    Args:
        first: The settings that hold.
        other: Those of a later monitor on the same meter provider.
    """
    found: list[str] = []
    for name in _SHARED:
        ours, theirs = getattr(first, name), getattr(other, name)
        if isinstance(ours, EndpointConfig | LabelLimits):
            found += _by_field(name, ours, theirs)
        elif theirs and theirs != ours:
            found.append(name)
    return found


def limit_differences(first: LabelLimits, other: LabelLimits) -> list[str]:
    """Name the limits that differ between meter providers, which share all but ``combinations``.

    Args:
        first: The limits of the process.
        other: Those of the first monitor on another meter provider.
    """
    shared = dataclasses.replace(first, combinations=other.combinations)
    return _by_field("limits", shared, other)


def note(deferred_log: DeferredLog, found: list[str]) -> None:
    """Have what was found logged, if anything was."""
    if found:
        deferred_log.add(
            logging.WARNING,
            "the first monitor of a process sets what all of them share; "
            "a later one asked in vain for %s",
            ", ".join(found),
        )


def _by_field(
    name: str, ours: EndpointConfig | LabelLimits, theirs: EndpointConfig | LabelLimits
) -> list[str]:
    default = type(ours)()
    found: list[str] = []
    for each in dataclasses.fields(ours):
        asked = getattr(theirs, each.name)
        if asked not in (getattr(ours, each.name), getattr(default, each.name)):
            shown = "another" if each.name == "password" else repr(asked)
            found.append(f"{name}.{each.name}={shown}")
    return found
