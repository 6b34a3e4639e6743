"""OpenTelemetry's names as Prometheus's names.

The rules are those of OpenTelemetry's "Prometheus and OpenMetrics compatibility" specification:
invalid characters become underscores, runs of underscores become one, the unit is spelled out and
appended, counters end in ``_total``. Colons, which recording rules use, are replaced too.
"""

from __future__ import annotations

import re

__all__ = [
    "family_name",
    "family_unit",
    "label_name",
    "prometheus_name",
    "reserved_suffix",
    "unit_suffix",
]

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9]+")
_ANNOTATION = re.compile(r"\{[^}]*\}")

# UCUM codes, as used by OpenTelemetry, and Prometheus's words for them.
_UNITS = {
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "By": "bytes",
    "KiBy": "kibibytes",
    "MiBy": "mebibytes",
    "GiBy": "gibibytes",
    "TiBy": "tebibytes",
    "kBy": "kilobytes",
    "KBy": "kilobytes",
    "MBy": "megabytes",
    "GBy": "gigabytes",
    "TBy": "terabytes",
    "m": "meters",
    "V": "volts",
    "A": "amperes",
    "J": "joules",
    "W": "watts",
    "g": "grams",
    "Cel": "celsius",
    "Hz": "hertz",
    "%": "percent",
    "1": "",
}
_PER = {
    "s": "second",
    "min": "minute",
    "h": "hour",
    "d": "day",
    "wk": "week",
    "mo": "month",
    "a": "year",
    "By": "byte",
}


def prometheus_name(name: str, unit: str, kind: str) -> str:
    """Return the name of a metric's series.

    Args:
        name: The instrument's name, such as ``gen_ai.client.inference.duration``.
        unit: The instrument's unit in UCUM, such as ``s``, ``By`` or ``{token}``; may be empty.
        kind: ``counter``, ``updown``, ``gauge`` or ``histogram``.

    Returns:
        The series name; of a histogram the part before ``_bucket``, ``_sum`` and ``_count``.
    """
    family = family_name(name, unit, kind)
    return f"{family}_total" if kind == "counter" else family


def family_name(name: str, unit: str, kind: str) -> str:
    """Return the name of a metric's family: `prometheus_name` without ``_total``."""
    family = _NOT_IN_NAMES.sub("_", name).rstrip("_")
    if kind == "counter":
        family = family.removesuffix("_total")
    suffix = unit_suffix(unit, kind)
    if suffix and family != suffix and not family.endswith(f"_{suffix}"):
        family = f"{family}_{suffix}"
    # An empty name, or one that starts with a digit, is invalid in Prometheus.
    return family if family and not family[0].isdigit() else f"_{family}"


def unit_suffix(unit: str, kind: str) -> str:
    """Return the suffix of a unit in a metric's name; may be empty.

    Args:
        unit: The unit in UCUM; annotations in braces add nothing.
        kind: The instrument's kind: a dimensionless ``gauge`` is a ``ratio``.
    """
    if unit == "1" and kind == "gauge":
        return "ratio"
    above, _, below = _ANNOTATION.sub("", unit).partition("/")
    words = [_word(above, _UNITS)]
    if divisor := _word(below, _PER):
        words += ["per", divisor]
    return "_".join(word for word in words if word)


def family_unit(family: str, unit: str, kind: str) -> str:
    """Return the unit to expose with a family (as named by `family_name`); may be empty.

    OpenMetrics allows a unit only if the family's name ends with an underscore and the unit.
    """
    suffix = unit_suffix(unit, kind)
    return suffix if suffix and family.endswith(f"_{suffix}") else ""


def _word(code: str, words: dict[str, str]) -> str:
    code = code.strip()
    return words[code] if code in words else _NOT_IN_NAMES.sub("_", code).strip("_")


def label_name(key: str) -> str:
    """Return the label of an attribute key such as ``gen_ai.request.model``."""
    label = _NOT_IN_NAMES.sub("_", key)
    return label if label and not label[0].isdigit() else f"_{label}"


def reserved_suffix(series: str, kind: str) -> str | None:
    """Return the suffix of a series name that is reserved for another kind of metric, if any.

    ``promtool check metrics`` rejects such a name, and it may clash with a histogram's or a
    counter's own series.
    """
    reserved = [] if kind == "histogram" else ["_bucket", "_count", "_sum"]
    if kind != "counter":
        reserved.append("_total")
    return next((suffix for suffix in reserved if series.endswith(suffix)), None)
