"""What the metric readers of this package share."""

from __future__ import annotations

import inspect
from typing import Any

from opentelemetry.sdk import metrics as sdk

__all__ = ["cardinality_arguments"]

_INSTRUMENTS = (
    "Counter",
    "Histogram",
    "ObservableCounter",
    "ObservableGauge",
    "ObservableUpDownCounter",
    "UpDownCounter",
)


def cardinality_arguments(reader: type[object], limit: int) -> dict[str, Any]:
    """Return the argument that caps the label sets of each instrument of a reader.

    Args:
        reader: The reader's class, whose constructor gets the argument.
        limit: Label sets that one instrument may have.

    Returns:
        The keyword argument, or nothing where the installed SDK has none.
    """
    if "cardinality_limits" not in inspect.signature(reader).parameters:
        return {}
    # The SDK exports the class of the synchronous gauge under its private name only.
    classes = [getattr(sdk, name) for name in (*_INSTRUMENTS, "_Gauge") if hasattr(sdk, name)]
    return {"cardinality_limits": dict.fromkeys(classes, limit)}
