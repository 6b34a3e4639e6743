"""An export as CSV: a file for each metric, and a manifest that says which is which."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genmeter.errors import ExportError
from genmeter.files.manifest import KEY, encode, manifest_text, tables_of
from genmeter.files.safe_names import file_names

if TYPE_CHECKING:
    import pandas as pd

    from genmeter.files.atomic import AtomicFiles
    from genmeter.files.manifest import Manifest, Part
    from genmeter.history.snapshot import Snapshot

__all__ = ["manifest_path", "read_manifest", "write_csv"]

# An empty text would read as a missing one; readers disagree about the others.
_UNFIT = re.compile(r"^$|[\0\r]")


def manifest_path(path: Path) -> Path:
    """Give the manifest's place, of the CSV files that an export made beside ``path``."""
    return path.with_name(f"{path.stem}_manifest.json")


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None where the file is none.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    manifest = found.get(KEY) if isinstance(found, dict) else None
    is_ours = isinstance(manifest, dict) and manifest.get("format") == "csv"
    return manifest if is_ours else None


def write_csv(snapshot: Snapshot, path: Path, manifest: Manifest, files: AtomicFiles) -> list[Path]:
    """Write the files ``STEM_METRIC.csv`` and ``STEM_manifest.json``.

    Files of the export before, by its manifest, that this one has not are removed.

    Raises:
        ExportError: The stem is too long, or no Unicode text.
        OSError: A file cannot be written.
    """
    tables = list(tables_of(snapshot, manifest))
    try:
        path.name.encode()
    except UnicodeEncodeError:  # the manifest, which is UTF-8, could not name its files
        raise ExportError(
            f"output_path is {str(path)!r}, whose name is no UTF-8; give another name"
        ) from None
    names = file_names([each.metric for each in tables], prefix=f"{path.stem}_", suffix=".csv")
    if names is None:
        raise ExportError(f"output_path is {str(path)!r}, whose name is too long; shorten it")
    files.remove(*_stale(path, set(names.values())))
    parts = manifest["parts"] = []
    for metric, frame in tables:
        target = path.with_name(names[metric])
        part: Part = {
            "name": target.name,
            "metric": metric,
            "rows": len(frame),
            "columns": [str(name) for name in frame],
            "encoded": [],
        }
        parts.append(part)
        with files.stage(target).open("x", encoding="utf-8", newline="") as file:
            _fit(frame, part).to_csv(file, index=False, lineterminator="\n")
    target = manifest_path(path)
    files.stage(target).write_text(manifest_text(manifest), encoding="utf-8")
    return [*(path.with_name(part["name"]) for part in parts), target]


def _fit(frame: pd.DataFrame, part: Part) -> pd.DataFrame:
    """Bring a table's cells to what CSV holds, and tell the part which columns are encoded."""
    times = frame["timestamp"].dt.tz_localize(None).to_numpy().astype("M8[us]")
    # Text of a known form, which pandas formats much slower: ISO 8601 to the microsecond.
    fit = frame.assign(timestamp=np.char.add(np.datetime_as_string(times), "+00:00"))
    for name, column in frame.items():
        # A column has few different texts, such as the models' names. pandas 1.5 takes those for
        # one that differ only after a NUL, so unique() would not show them all.
        if str(column.dtype) == "string" and any(map(_is_unfit, set(column.dropna().tolist()))):
            part["encoded"].append(str(name))
            fit[name] = column.map(encode, na_action="ignore")
    return fit.rename(columns=lambda name: encode(name) if _is_unfit(name) else name)


def _is_unfit(text: str) -> bool:
    return _UNFIT.search(text) is not None


def _stale(path: Path, names: set[str]) -> list[Path]:
    """Find the files of the export before that the new one does not write."""
    place = manifest_path(path)
    found = read_manifest(place) if place.is_file() else None
    if found is None:
        return []
    # Without a look at case, since that of a file that is only spelled anew may be the same file.
    kept = {name.casefold() for name in names}
    old = {part["name"] for part in found.get("parts", [])}
    return [
        path.with_name(name)
        for name in sorted(old)
        if name.casefold() not in kept and _is_of_set(name, path)
    ]


def _is_of_set(name: str, path: Path) -> bool:
    return name.startswith(f"{path.stem}_") and name.endswith(".csv") and Path(name).name == name
