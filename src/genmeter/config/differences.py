"""Settings of a later monitor that are ignored, since those of the first one apply."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from genmeter.config.monitor import EndpointConfig, LabelLimits

if TYPE_CHECKING:
    from genmeter.config.monitor import MonitorConfig

__all__ = ["differences", "limit_differences"]

# Read when a provider is created; all other settings belong to each monitor.
_SHARED = (
    *("prices", "score_scales", "custom_metrics", "older_metric_names"),
    *("limits", "endpoint", "budget_tokens", "budget_usd"),
)


def differences(first: MonitorConfig, other: MonitorConfig) -> list[str]:
    """List the shared settings of ``other`` that ``first`` overrides; defaults are not listed.

    Args:
        first: The settings that apply.
        other: The settings of a later monitor on the same meter provider.
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
    """List the limits that differ; meter providers share all of them but ``combinations``.

    Args:
        first: The limits of the process.
        other: The limits of the first monitor on another meter provider.
    """
    shared = dataclasses.replace(first, combinations=other.combinations)
    return _by_field("limits", shared, other)


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
