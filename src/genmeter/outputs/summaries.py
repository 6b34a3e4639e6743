"""Sums up samples as the old monitor did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["summarise"]


def summarise(values: npt.NDArray[Any]) -> dict[str, float]:
    """Give ``mean``, ``min``, ``max`` and ``count`` of some values; empty where there are none."""
    if not len(values):
        return {}
    return {
        "mean": float(values.mean()),
        "min": values.min().item(),
        "max": values.max().item(),
        "count": len(values),
    }
