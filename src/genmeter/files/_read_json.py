"""JSON exports read back, ours and those of AfterImage's monitor."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from genmeter.files.as_json import gaps_path
from genmeter.files.manifest import KEY, gaps_in
from genmeter.history.frames import SAMPLE_METADATA, utc_index
from genmeter.history.metadata import add_to_fixed, empty_column, metadata_columns

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from genmeter.files.manifest import Manifest

__all__ = ["read_json"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NOT_A_TIME = np.iinfo(np.int64).min  # which NumPy takes for NaT
_FURTHEST = (2**63 - 1) // 1_000  # microseconds from 1970 that a frame's nanoseconds reach
_OWN = frozenset({"timestamp", "value"})


def read_json(path: Path) -> pd.DataFrame | None:
    """Read an export; None where the file is the manifest of another.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no export.
    """
    import pandas as pd

    with path.open(encoding="utf-8") as file:
        found = json.load(file)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 (of the file, not of a type)
    if isinstance(found.get(KEY), dict):
        return None
    names: list[str] = []
    samples: list[dict[str, Any]] = []
    for name in sorted(found):
        _check(name, found[name])
        names += [name] * len(found[name])
        samples += found[name]
    columns = _metadata(samples)
    times = [_time(sample.get("timestamp")) for sample in samples]
    frame = pd.DataFrame(
        {
            "metric_name": pd.array(names, dtype="string"),
            "timestamp": utc_index(np.array(times, np.int64)),
            "value": np.array([_number(sample.get("value")) for sample in samples], np.float64),
            **columns,
        }
    )
    frame.attrs.update(_gaps(gaps_path(path)))
    return frame


def _gaps(path: Path) -> dict[str, Any]:
    """Read what the manifest of an export that is not whole says is missing."""
    if not path.is_file():
        return {}
    manifest: Manifest = json.loads(path.read_text(encoding="utf-8"))[KEY]
    return gaps_in(manifest)


def _check(name: str, samples: Any) -> None:
    if not isinstance(samples, list) or not all(
        isinstance(sample, dict) and sample.keys() >= _OWN for sample in samples
    ):
        raise ValueError(f"{name!r} is no list of samples with a timestamp and a value")


def _metadata(samples: list[dict[str, Any]]) -> dict[str, Any]:
    fixed = {key: empty_column(dtype, len(samples)) for key, dtype in SAMPLE_METADATA.items()}
    records = [
        (row, {key: _missing_nan(sample[key]) for key in sample if key not in _OWN})
        for row, sample in enumerate(samples)
    ]
    free = metadata_columns(add_to_fixed(fixed, records), len(samples))
    return {f"metadata_{key}": column for key, column in {**fixed, **free}.items()}


def _missing_nan(value: Any) -> Any:
    # Python writes NaN, which is no JSON and no value either.
    return None if type(value) is float and math.isnan(value) else value


def _time(text: Any) -> int:
    try:
        time = datetime.fromisoformat(text)
        # A time without a zone is a local one, as AfterImage writes it.
        since = (time.astimezone(UTC) - _EPOCH) // _MICROSECOND
    except (TypeError, ValueError, OverflowError):
        return int(_NOT_A_TIME)
    return since if abs(since) <= _FURTHEST else int(_NOT_A_TIME)


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan
