"""Instruments of the caller's own, declared as rows and checked before any is made."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from genmeter.catalogue import INSTRUMENTS, Kind
from genmeter.errors import ConfigError
from genmeter.labels import MAX_LABEL, label_text
from genmeter.naming import family_name, label_name, prometheus_name, reserved_suffix

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CustomMetric", "check_together"]

# record_metric's names are labels too, so they are not longer than one.
_NAME = re.compile(rf"[A-Za-z][A-Za-z0-9_./-]{{0,{MAX_LABEL - 1}}}")
_MAX_UNIT = 63  # OpenTelemetry's own limit
_KINDS = tuple(each.value for each in Kind if not each.value.startswith("observable"))
_ENDS = {
    "counter": ("", "_total", "_created"),
    "updown": ("",),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_count", "_sum", "_created"),
}


def _series(name: str, unit: str, kind: str) -> set[str]:
    """Give all names that the metric's family and its series have in Prometheus."""
    return {family_name(name, unit, kind) + end for end in _ENDS[kind]}


_OWN_NAMES = frozenset(row.name.lower() for row in INSTRUMENTS)
_OWN_SERIES = frozenset(
    {"target", "target_info"}.union(
        *(_series(row.name, row.unit, row.kind.exposed_as) for row in INSTRUMENTS)
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomMetric:
    """An instrument of the caller's own, fed by ``record_metric`` under its name.

    Args:
        name: The OpenTelemetry instrument name, which ``record_metric`` is given.
        kind: ``counter`` (values are added; negative ones are left out), ``updown``, ``gauge``
            (the last value stands) or ``histogram``.
        unit: UCUM unit, such as ``s`` or ``By``; an annotation stands in braces.
        help: One sentence for whoever reads the scrape.
        bounds: Upper bounds of a histogram's buckets, in ``unit``, ascending.
        labels: Keys of ``record_metric``'s metadata that become attributes.

    Raises:
        ConfigError: A value that cannot be used.
    """

    name: str
    kind: Literal["counter", "updown", "gauge", "histogram"] = "gauge"
    unit: str = "{value}"
    help: str = ""
    bounds: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every field."""
        if not isinstance(self.kind, str) or self.kind not in _KINDS:
            raise ConfigError(
                f"CustomMetric.kind is {self.kind!r}; give one of {', '.join(_KINDS)}"
            )
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"CustomMetric.name is {self.name!r}; start with a letter, then at most "
                f"{MAX_LABEL - 1} letters, digits, '_', '.', '-' or '/'"
            )
        is_text = isinstance(self.unit, str) and self.unit.isascii() and self.unit.isprintable()
        if not is_text or len(self.unit) > _MAX_UNIT:
            raise ConfigError(
                f"CustomMetric.unit is {self.unit!r}; give at most {_MAX_UNIT} printable ASCII "
                "characters"
            )
        if not isinstance(self.help, str) or not _is_utf8(self.help):
            raise ConfigError(f"CustomMetric.help is {self.help!r}; give a text without surrogates")
        object.__setattr__(self, "bounds", _bounds(self.kind, self.bounds))
        object.__setattr__(self, "labels", _labels(self.labels))
        self._check_exposed_name()

    @property
    def series(self) -> set[str]:
        """All names that its family and its series have in Prometheus."""
        return _series(self.name, self.unit, self.kind)

    def _check_exposed_name(self) -> None:
        exposed = prometheus_name(self.name, self.unit, self.kind)
        if self.name.lower() in _OWN_NAMES or self.series & _OWN_SERIES:
            raise ConfigError(
                f"CustomMetric.name is {self.name!r}, in Prometheus {exposed!r}, which is a metric "
                "of genmeter's own; choose another"
            )
        suffix = reserved_suffix(exposed, self.kind)
        if suffix is not None:
            raise ConfigError(
                f"CustomMetric.name is {self.name!r}, in Prometheus {exposed!r}, and a {self.kind} "
                f"cannot end in {suffix}; choose another"
            )


def check_together(rows: Sequence[CustomMetric]) -> None:
    """Check that no two rows share a name, in OpenTelemetry or in Prometheus.

    Raises:
        ConfigError: Two of them do.
    """
    owners: dict[str, str] = {}
    for row in rows:
        # OpenTelemetry's names do not tell upper from lower case.
        keys = {f"name {row.name.lower()}", *row.series}
        other = next((owners[key] for key in sorted(keys) if key in owners), None)
        if other is not None:
            raise ConfigError(
                f"MonitorConfig.custom_metrics has {row.name!r} beside {other!r}, which is the "
                "same metric or has series of the same name in Prometheus; rename one"
            )
        owners |= dict.fromkeys(keys, row.name)


def _bounds(kind: str, given: Any) -> tuple[float, ...]:
    try:
        bounds = tuple(float(bound) for bound in given)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"CustomMetric.bounds is {given!r}; give finite, ascending numbers"
        ) from error
    if list(bounds) != sorted(set(bounds)) or not all(map(math.isfinite, bounds)):
        raise ConfigError(f"CustomMetric.bounds is {given!r}; give finite, ascending numbers")
    if (kind == "histogram") != bool(bounds):
        raise ConfigError(
            f"CustomMetric.bounds is {given!r} for a {kind}; give ascending bounds to a histogram "
            "and none to anything else"
        )
    return bounds


def _labels(given: Any) -> tuple[str, ...]:
    keys = tuple(given) if isinstance(given, list | tuple) else (None,)
    if not all(isinstance(key, str) and label_text(key) == key for key in keys):
        raise ConfigError(
            f"CustomMetric.labels is {given!r}; give a tuple of keys of 1 to {MAX_LABEL} characters"
        )
    if len({label_name(key) for key in keys}) < len(keys):
        raise ConfigError(
            f"CustomMetric.labels is {given!r}; give keys that differ in Prometheus too, where all "
            "but letters and digits becomes '_'"
        )
    return keys


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
