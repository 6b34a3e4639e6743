"""Logs usage to an experiment tracker: MLflow, or Weights & Biases."""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from genmeter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

__all__ = ["log_usage"]

# MLflow accepts these in the names of metrics.
_FORBIDDEN = re.compile(r"[^A-Za-z0-9_\-. :/]")
_MAX_SHOWN = 200


def log_usage(
    tracker: Any,
    *,
    total: Mapping[str, float | None],
    frame: pd.DataFrame,
    keys: Sequence[str],
    notes: Iterable[str],
    prefix: str,
) -> None:
    """Log the total as metrics, each row as metrics and in a table, and the notes.

    The metrics are ``PREFIX/total_tokens``, and of each row ``PREFIX/MODEL/total_tokens`` and so on, with
    the row's values of its keys in place of ``MODEL``; what is unknown is absent. A character that MLflow
    refuses becomes ``_``; where two rows would have one name, it ends with a digest of the row's own.
    ``PREFIX/is_exact`` is 1 without notes, else 0.

    Args:
        tracker: The module ``mlflow``, the module ``wandb`` or a run of it.
        total: The numbers of all rows.
        frame: The rows.
        keys: The columns that name a row.
        notes: Sentences on what is missing or not exact.
        prefix: What all names begin with.

    Raises:
        ConfigError: The tracker is none of these, or ``prefix`` has other characters than letters,
            digits and ``_-. :/``.
    """
    given = _shown(prefix)
    # By type(), since a value may raise if it is asked for its class.
    prefix = str.__str__(prefix) if issubclass(type(prefix), str) else ""
    if not prefix or _FORBIDDEN.search(prefix):
        raise ConfigError(f"prefix must be text of letters, digits and _-. :/, got {given}")
    notes = list(notes)
    metrics = _known(f"{prefix}/", total) | {f"{prefix}/is_exact": float(not notes)}
    found = frame.to_dict("records")
    names = [
        tuple(None if _is_unknown(row[key]) else str(row[key]) for key in keys) for row in found
    ]
    for row, path in zip(found, _paths(names), strict=True):
        metrics |= _known(f"{prefix}/{path}/", {str(k): v for k, v in row.items() if k not in keys})
    text = "\n".join(notes)
    # Both write tables as JSON, which has no NA.
    rows = frame.astype(object).where(frame.notna(), None)
    # By what they offer: neither package is imported for this.
    if _offers(tracker, "log_metrics", "log_table"):
        tracker.log_metrics(metrics)
        tracker.log_table(rows, f"{prefix}/usage.json")
        if text:
            tracker.log_text(text, f"{prefix}/notes.txt")
        return
    table = getattr(sys.modules.get("wandb"), "Table", None)
    if table is None or not _offers(tracker, "log"):
        raise ConfigError(
            "tracker must be the module mlflow, the module wandb or a run of wandb.init(), "
            f"got {_shown(tracker)}"
        )
    values: dict[str, Any] = {**metrics, f"{prefix}/usage": table(dataframe=rows)}
    tracker.log(values | ({f"{prefix}/notes": text} if text else {}))


def _offers(tracker: Any, *names: str) -> bool:
    try:
        return all(callable(getattr(tracker, name, None)) for name in names)
    except Exception:
        return False


def _shown(value: Any) -> str:
    """Return a text as it is written, and of anything else its class: its own text may raise."""
    if type(value) is str:
        return repr(value[:_MAX_SHOWN])
    return f"an object of {type.__dict__['__name__'].__get__(type(value))}"


def _paths(rows: Sequence[tuple[str | None, ...]]) -> list[str]:
    """Return the paths of rows in names of metrics: equal ones of equal rows only."""
    cleaned = [
        tuple(_FORBIDDEN.sub("_", (name or "unknown").replace("/", "_")) for name in row)
        for row in rows
    ]
    counts = Counter(cleaned)
    # A name that nothing had to be replaced in stays as it is.
    return [
        "/".join(path) if counts[path] == 1 or path == row else f"{'/'.join(path)}-{_digest(row)}"
        for row, path in zip(rows, cleaned, strict=True)
    ]


def _digest(row: tuple[str | None, ...]) -> str:
    return hashlib.sha256(repr(row).encode("utf-8", "replace")).hexdigest()[:8]


def _known(start: str, numbers: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{start}{name}": float(value) for name, value in numbers.items() if not _is_unknown(value)
    }


def _is_unknown(value: Any) -> bool:
    # pandas writes NaN or NA, which is no float.
    if value is None or type(value).__name__ == "NAType":
        return True
    return isinstance(value, float) and math.isnan(value)
