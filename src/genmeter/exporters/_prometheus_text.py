"""The two text formats: Prometheus 0.0.4 and OpenMetrics 1.0.

The text is written directly from the SDK's points, which is several times faster than
prometheus_client's objects and rendering, and means the same.
"""

from __future__ import annotations

import math
import re
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client.utils import floatToGoString

from genmeter.exporters._families import (
    Labels,
    bucket_exemplars,
    exemplar_of,
    finite_bounds,
    openmetrics_has_sum,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from genmeter.exporters._families import ExemplarText, Family

__all__ = ["go_text", "number_text", "to_float", "write"]

# Integers up to here are written with every digit.
_PLAIN_INTEGER = 2**63

_SAMPLE_NAME = re.compile(r"[^{ ]+")

# The place of the labels in a histogram's template; no name or bound contains it.
_LABELS = "\0"


def to_float(value: Any) -> float:
    """Return a value as a float; infinity if it is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def go_text(value: float) -> str:
    """Return a float's text as Go writes it, so that bounds are the same in every client."""
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def number_text(value: Any) -> str:
    """Return the text of a sample's value."""
    kind = type(value)
    if kind is int and -_PLAIN_INTEGER <= value <= _PLAIN_INTEGER:
        return str(value)
    if kind is float and math.isfinite(value):
        return repr(value)
    return go_text(to_float(value))


def write(families: Iterable[Family], *, openmetrics: bool, names: Collection[str] = ()) -> bytes:
    """Return a page in UTF-8; ``openmetrics`` and ``names`` are as for `PrometheusBridge.render`."""
    parts: list[str] = []
    for family in families:
        if openmetrics:
            _write_openmetrics(parts, family)
        else:
            _write_text(parts, family)
    if names:
        parts = [_select("".join(parts), frozenset(names))]
    if openmetrics:
        parts.append("# EOF\n")
    return "".join(parts).encode()


def _select(text: str, names: frozenset[str]) -> str:
    """Keep the samples of these names, each after the metadata of its family."""
    kept: list[str] = []
    metadata: list[str] = []
    described = ""
    # Not splitlines(): a label's value may contain other line separators.
    for line in text.split("\n"):
        if line.startswith("# "):
            name = line.split(" ", 3)[2]
            metadata = [line] if name != described else [*metadata, line]
            described = name
        elif (found := _SAMPLE_NAME.match(line)) and found[0] in names:
            kept += [*metadata, line]
            metadata = []
    return "".join(f"{line}\n" for line in kept)


def _write_openmetrics(parts: list[str], family: Family) -> None:
    name = family.name
    text = family.help.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    parts.append(f"# HELP {name} {text}\n# TYPE {name} {family.kind}\n")
    if family.unit:
        parts.append(f"# UNIT {name} {family.unit}\n")
    _write_samples(parts, parts, family, openmetrics=True)


def _write_text(parts: list[str], family: Family) -> None:
    name = family.name
    text = family.help.replace("\\", r"\\").replace("\n", r"\n")
    series, kind = {
        "counter": (f"{name}_total", "counter"),
        "info": (f"{name}_info", "gauge"),
    }.get(family.kind, (name, family.kind))
    parts.append(f"# HELP {series} {text}\n# TYPE {series} {kind}\n")
    # A family of this format has no start times, so they are a separate gauge.
    created: list[str] = []
    _write_samples(parts, created, family, openmetrics=False)
    if created:
        # A help text that fits only some of the series is not repeated.
        help_line = "" if family.help_differs else f"# HELP {name}_created {text}\n"
        parts.append(f"{help_line}# TYPE {name}_created gauge\n")
        parts += created


def _write_samples(
    parts: list[str], created: list[str], family: Family, *, openmetrics: bool
) -> None:
    if family.kind == "histogram":
        _write_histograms(parts, created, family, openmetrics=openmetrics)
    elif family.kind == "counter":
        _write_counters(parts, created, family, openmetrics=openmetrics)
    elif family.kind == "gauge":
        for labels, point in family.points():
            parts.append(f"{family.name}{_braced(labels)} {number_text(point.value)}\n")
    else:
        parts.append(f"{family.name}_info{_braced(Labels(None, family.info))} 1\n")


def _write_counters(
    parts: list[str], created: list[str], family: Family, *, openmetrics: bool
) -> None:
    total, start = f"{family.name}_total", f"{family.name}_created"
    for labels, point in family.points():
        braced = _braced(labels)
        exemplar = ""
        if openmetrics and point.exemplars:
            exemplar = _exemplar_text(exemplar_of(point.exemplars))
        parts.append(f"{total}{braced} {number_text(point.value)}{exemplar}\n")
        if labels.created:
            created.append(f"{start}{braced} {labels.created}\n")


def _write_histograms(
    parts: list[str], created: list[str], family: Family, *, openmetrics: bool
) -> None:
    name = family.name
    bounds: Sequence[float] | None = None
    template = ""
    finite = 0
    for labels, point in family.points():
        if point.explicit_bounds != bounds:
            bounds = point.explicit_bounds
            finite = len(finite_bounds(bounds))
            template = _template(name, finite_bounds(bounds))
        counts = tuple(accumulate(point.bucket_counts))
        total = counts[-1]
        if len(counts) != finite + 1:
            counts = (*counts[:finite], total)
        inner = labels.inner
        lines = template.replace(_LABELS, f"{inner.replace('%', '%%')}," if inner else "")
        found = bucket_exemplars(point) if openmetrics and point.exemplars else None
        if found:
            texts = [f"{count}{_exemplar_text(found.get(i))}" for i, count in enumerate(counts)]
            parts.append(lines % tuple(texts))
        else:
            parts.append(lines % counts)
        braced = _braced(labels)
        if not openmetrics or openmetrics_has_sum(point):
            parts.append(f"{name}_count{braced} {total}\n")
            if point.sum is not None:
                parts.append(f"{name}_sum{braced} {number_text(point.sum)}\n")
        if labels.created:
            created.append(f"{name}_created{braced} {labels.created}\n")


def _template(name: str, bounds: Sequence[float]) -> str:
    """Return the lines of a histogram's buckets, to fill with the labels, then with the counts."""
    return "".join(
        f'{name}_bucket{{{_LABELS}le="{go_text(bound)}"}} %s\n' for bound in (*bounds, math.inf)
    )


def _braced(labels: Labels) -> str:
    return f"{{{labels.inner}}}" if labels.inner else ""


def _exemplar_text(exemplar: ExemplarText | None) -> str:
    if exemplar is None:
        return ""
    labels = Labels(None, exemplar.labels).inner
    return f" # {{{labels}}} {number_text(exemplar.value)} {exemplar.timestamp!r}"
