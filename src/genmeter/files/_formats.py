"""The formats of an export (JSON, CSV, Excel and Parquet), and the manifest that describes it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np

from genmeter.errors import ExportError, MissingExtraError
from genmeter.history.frames import samples_frame
from genmeter.history.metadata import json_text
from genmeter.history.ring import Flag
from genmeter.history.samples import PHASES, row_labels, sample_table, token_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing as npt
    import pandas as pd

    from genmeter.files.atomic import AtomicFiles
    from genmeter.history.samples import SampleRows, SampleTable
    from genmeter.history.snapshot import Snapshot

__all__ = [
    "FORMATS",
    "MANIFEST_KEY",
    "Manifest",
    "gaps_in",
    "gaps_path",
    "safe_names",
]

MANIFEST_KEY = "genmeter"
"""The key of a manifest in a JSON file and in the metadata of a Parquet schema."""
_MANIFEST_SHEET = "manifest"
_JSON_ROWS = 10_000  # rows formatted at a time
_MAX_FILE_BYTES = 255  # a file's name in UTF-8: ext4, APFS; NTFS allows more
_MIN_NAME_BYTES = 16  # a metric's name in a file's name: a digest and a little more
_MAX_SHEET_BYTES = 62  # a sheet's name in UTF-16: Excel allows 31 units
_MAX_CELL_BYTES = 2 * 32_767  # a cell's text in UTF-16, Excel's unit
_MAX_EXACT = 2**53  # the largest integer that Excel, like a float64, represents exactly
_MAX_NUMBER = (
    9.99999999999999e307  # Excel's largest, by Microsoft's "Excel specifications and limits"
)
_MEASURED_ROWS = 100  # rows that determine the width of a column in Excel
_MIN_WIDTH, _MAX_WIDTH = 23, 60  # width of a column in characters; a timestamp has 23
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_UNSAFE_IN_FILES = frozenset('<>:"/\\|?*')
# https://support.microsoft.com/office/3f63c3f2-7aa9-4a9f-8e3e-1f0f6dbdf9c6
_UNSAFE_IN_SHEETS = frozenset("[]:*?/\\'")
_RESERVED_SHEETS = ("history", _MANIFEST_SHEET)


class Part(TypedDict):
    """A file or sheet: its name, its metric, and its number of rows without the header."""

    name: str
    metric: str
    rows: int


class Manifest(TypedDict):
    """Description of an export.

    Attributes:
        version: Version of this layout.
        format: One of :data:`FORMATS`.
        exported_at: ISO 8601.
        timezone: The zone of timestamps, ``UTC``.
        window_seconds: The length of the exported window; None for the whole history.
        kept_since: ISO 8601 time since which all rows are kept, if older ones were overwritten.
        data_cut: Number of rows without metadata because of the history's limit, if any.
        rows: Number of rows of all metrics.
        changed: Columns with texts that were changed for the format, if any.
        parts: The files of CSV or the sheets of Excel.
    """

    version: int
    format: str
    exported_at: str
    timezone: str
    window_seconds: float | None
    kept_since: NotRequired[str]
    data_cut: NotRequired[int]
    rows: NotRequired[int]
    changed: NotRequired[list[str]]
    parts: NotRequired[list[Part]]


def gaps_in(manifest: Manifest) -> dict[str, Any]:
    """Return ``kept_since`` and ``data_cut`` if the manifest has them."""
    return {key: manifest[key] for key in ("kept_since", "data_cut") if key in manifest}


def gaps_path(path: Path) -> Path:
    """Return the path of the manifest of an incomplete JSON export."""
    # Not *.json, so that a search for *.json finds only exports.
    return path.with_name(f"{path.name}.manifest")


def _manifest_text(manifest: Manifest) -> str:
    return json.dumps({MANIFEST_KEY: manifest}, indent=1) + "\n"


# JSON


def _write_json(
    snapshot: Snapshot, path: Path, manifest: Manifest, files: AtomicFiles
) -> list[Path]:
    """Write one object with one sample a line; a manifest only if the history has gaps."""
    texts = _SampleTexts(snapshot)
    with files.stage(path).open("x", encoding="utf-8", newline="\n") as file:
        file.write("{")
        separator = "\n"
        for name, at in texts.table.slices():
            file.write(f"{separator}{json_text(name)}:[\n")
            for start in range(at.start, at.stop, _JSON_ROWS):
                stop = min(start + _JSON_ROWS, at.stop)
                file.write(",\n".join(texts.rows(name, slice(start, stop))))
                file.write("]" if stop == at.stop else ",\n")
            separator = ",\n"
        file.write("\n}\n")
    if not gaps_in(manifest):
        files.remove(gaps_path(path))
        return [path]
    files.stage(gaps_path(path)).write_text(_manifest_text(manifest), encoding="utf-8")
    return [path, gaps_path(path)]


class _SampleTexts:
    """The samples of a snapshot as JSON objects; their shared texts are created once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.table = sample_table(snapshot)
        self._snapshot = snapshot
        self._labels = self._label_texts()
        self._outcomes = self._outcome_texts()

    def rows(self, metric: str, at: slice) -> list[str]:
        """Return the texts of a metric's rows."""
        rows = self.table.rows.at(at)
        times = np.datetime_as_string(rows.time.astype("M8[us]")).tolist()
        values: list[int | float] = rows.value.tolist()
        for row in np.flatnonzero(rows.is_count).tolist():
            values[row] = int(values[row])
        labels = self._labels[rows.call].tolist()
        outcomes = np.where(rows.is_first, self._outcomes[rows.call], "").tolist()
        own = self._own_texts(metric, rows)
        columns = zip(times, values, labels, own, outcomes, strict=True)
        return [
            f'{{"timestamp":"{time}+00:00","value":{value!r}{label}{mine}{outcome}}}'
            for time, value, label, mine, outcome in columns
        ]

    def _label_texts(self) -> npt.NDArray[np.object_]:
        names = self._snapshot.names
        keys = ("evaluator_type", "model_name", "step", "provider", "response_model")

        def labels(phase: int, *codes: int) -> dict[str, Any]:
            found = {"phase": PHASES[phase]} if phase else {}
            return found | {k: names[c] for k, c in zip(keys, codes, strict=True) if c}

        return _texts_of(row_labels(self._snapshot), labels)

    def _outcome_texts(self) -> npt.NDArray[np.object_]:
        """Return the outcome and the caller's metadata of each call, for its first row."""
        calls, names = self._snapshot.calls, self._snapshot.names

        def outcome(success: int, error: int) -> dict[str, Any]:
            found: dict[str, Any] = {"success": bool(success)}
            return found | {"error_type": names[error]} if error else found

        texts = _texts_of([(calls.flags & Flag.SUCCESS) != 0, calls.error_type], outcome)
        texts = np.append(texts, "")
        for position, serial in enumerate(
            calls.serial.tolist() if self._snapshot.call_data else ()
        ):
            texts[position] += _members(self._snapshot.call_data.get(serial, "{}"))
        return texts

    def _own_texts(self, metric: str, rows: SampleRows) -> list[str]:
        """Return the metadata that rows do not share with others of their event."""
        snapshot = self._snapshot
        texts = [""] * len(rows.time)
        for key, itemised, counts in token_parts(snapshot.calls):
            if itemised == metric:
                found = np.append(counts, 0)[rows.call]
                for row in np.flatnonzero(found > 0).tolist():
                    texts[row] += f',"{key}":{found[row]}'
        values = snapshot.values  # noqa: PD011 (not a frame)
        for row in np.flatnonzero(rows.own >= 0).tolist():
            own = rows.own[row]
            if rows.call[row] < 0 and values.event[own] >= 0:  # its evaluation is no longer kept
                evaluator = snapshot.names[values.evaluator[own]]
                texts[row] += _members(
                    json_text({"phase": "evaluation", "evaluator_type": evaluator})
                )
            texts[row] += _members(snapshot.value_data.get(int(values.serial[own]), "{}"))
        return texts


def _texts_of(
    columns: Iterable[npt.NDArray[Any]], labels: Callable[..., dict[str, Any]]
) -> npt.NDArray[np.object_]:
    """Return the labels of each row of the columns as members of a JSON object."""
    kinds, kind_of = np.unique(np.column_stack([*columns]), axis=0, return_inverse=True)
    texts = [_members(json_text(labels(*kind))) for kind in kinds.tolist()]
    return np.array(texts, object)[kind_of.reshape(-1)]


def _members(text: str) -> str:
    """Return the members of a JSON object's text, to append to other members."""
    members = text.strip()[1:-1].strip()
    return f",{members}" if members else ""


# Parquet


def _write_parquet(
    snapshot: Snapshot, path: Path, manifest: Manifest, files: AtomicFiles
) -> list[Path]:
    """Write the frame ``samples``, which pandas reads with its dtypes."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", extra="parquet", purpose="Writing Parquet") from None
    frame = samples_frame(snapshot, sample_table(snapshot))
    manifest["rows"] = len(frame)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**table.schema.metadata, MANIFEST_KEY.encode(): json.dumps(manifest).encode()}
    # The file is opened here, so that errors of the disk stay an OSError.
    with files.stage(path).open("xb") as file:
        pq.write_table(table.replace_schema_metadata(metadata), file)
    return [path]


# CSV and Excel: a table for each metric


def _write_csv(
    snapshot: Snapshot, path: Path, manifest: Manifest, files: AtomicFiles
) -> list[Path]:
    """Write ``STEM_METRIC.csv`` for each metric and ``STEM_manifest.json``.

    Files that are only in the previous export's manifest are removed.
    """
    table = sample_table(snapshot)
    frame = _fitted(samples_frame(snapshot, table), manifest, _csv_text)
    prefix, suffix = f"{path.stem}_", ".csv"
    room = _MAX_FILE_BYTES - len(os.fsencode(prefix + suffix))
    if room < _MIN_NAME_BYTES:
        raise ExportError(
            f"output_path must have a shorter file name, got {str(path)!r}; CSV appends the "
            "metrics' names"
        )
    names = safe_names(table.names, _UNSAFE_IN_FILES, room)
    parts = manifest["parts"] = []
    for metric, rows in _by_metric(frame, table):
        target = path.with_name(f"{prefix}{names[metric]}{suffix}")
        parts.append({"name": target.name, "metric": metric, "rows": len(rows)})
        times = rows["timestamp"].dt.tz_localize(None).to_numpy().astype("M8[us]")
        # ISO 8601 with microseconds; pandas omits a fraction of 0, and is much slower.
        texts = np.char.add(np.datetime_as_string(times), "+00:00")
        with files.stage(target).open("x", encoding="utf-8", newline="") as file:
            rows.assign(timestamp=texts).to_csv(file, index=False, lineterminator="\n")
    target = path.with_name(f"{prefix}manifest.json")
    files.remove(*_superseded(target, prefix, suffix, {part["name"] for part in parts}))
    files.stage(target).write_text(_manifest_text(manifest), encoding="utf-8")
    return [*(path.with_name(part["name"]) for part in parts), target]


def _superseded(manifest: Path, prefix: str, suffix: str, names: set[str]) -> list[Path]:
    """Return the files of the previous export that the new one does not replace."""
    try:
        parts = json.loads(manifest.read_text(encoding="utf-8"))[MANIFEST_KEY]["parts"]
        old = {str(part["name"]) for part in parts}
    except (OSError, ValueError, LookupError, TypeError):  # not a manifest of genmeter's
        return []
    # Regardless of case, because names that differ only in case may be the same file.
    kept = {name.casefold() for name in names}
    return [
        manifest.with_name(name)
        for name in sorted(old)
        if name.casefold() not in kept
        and name.startswith(prefix)
        and name.endswith(suffix)
        and Path(name).name == name
    ]


def _write_excel(
    snapshot: Snapshot, path: Path, manifest: Manifest, files: AtomicFiles
) -> list[Path]:
    """Write a workbook with a sheet for each metric and the sheet ``manifest``."""
    import pandas as pd

    try:
        from xlsxwriter.exceptions import XlsxWriterException
    except ImportError:
        raise MissingExtraError("xlsxwriter", extra="excel", purpose="Writing Excel") from None
    if path.suffix.lower() != ".xlsx":
        raise ExportError(f"output_path must end in .xlsx for Excel, got {str(path)!r}")
    table = sample_table(snapshot)
    frame = samples_frame(snapshot, table)
    frame["timestamp"] = frame["timestamp"].dt.tz_localize(None)  # Excel has no time zones
    for name in frame.select_dtypes("Int64"):
        if not frame[name].between(-_MAX_EXACT, _MAX_EXACT).all():
            frame[name] = frame[name].astype("string")
    for name in frame.select_dtypes("number").columns:
        is_too_large = (frame[name].abs() > _MAX_NUMBER).fillna(False).astype(bool)
        if is_too_large.any():  # with Excel's 15 digits, some would be read as infinite
            cells = frame[name].astype(object)
            cells[is_too_large] = [repr(float(each)) for each in cells[is_too_large]]
            frame[name] = cells
    frame = _fitted(frame, manifest, _cell_text)
    names = safe_names(
        table.names, _UNSAFE_IN_SHEETS, _MAX_SHEET_BYTES, "utf-16-le", _RESERVED_SHEETS
    )
    parts = manifest["parts"] = []
    # All in memory: after an error the archive writes again when it is garbage-collected, and a
    # temporary folder may be full where the export's is not.
    archive = io.BytesIO()
    # A caller's text must not become a formula or a link.
    options = {"strings_to_formulas": False, "strings_to_urls": False, "in_memory": True}
    try:
        with pd.ExcelWriter(
            archive,
            engine="xlsxwriter",
            datetime_format="yyyy-mm-dd hh:mm:ss.000",
            engine_kwargs={"options": options},
        ) as book:
            for metric, rows in _by_metric(frame, table):
                parts.append({"name": names[metric], "metric": metric, "rows": len(rows)})
                _write_sheet(book, names[metric], rows)
            _write_manifest_sheet(book, manifest)
    except (ValueError, XlsxWriterException) as error:
        raise ExportError(
            f"output_path {str(path)!r} cannot be written as Excel: {error}; export a shorter "
            "window, or Parquet"
        ) from error
    with files.stage(path).open("xb") as file:
        file.write(archive.getbuffer())
    return [path]


def _write_sheet(book: pd.ExcelWriter[Any], name: str, rows: pd.DataFrame, column: int = 0) -> None:
    rows.to_excel(book, sheet_name=name, index=False, freeze_panes=(1, 0), startcol=column)
    for number, (title, cells) in enumerate(rows.items(), column):
        shown = cells.head(_MEASURED_ROWS).dropna().astype(str).tolist()
        width = min(max(_MIN_WIDTH, *map(len, [str(title), *shown])), _MAX_WIDTH)
        book.sheets[name].set_column(number, number, width + 2)


def _write_manifest_sheet(book: pd.ExcelWriter[Any], manifest: Manifest) -> None:
    import pandas as pd

    sheets = pd.DataFrame(manifest["parts"], columns=["name", "metric", "rows"])
    sheets["metric"] = sheets["metric"].map(_cell_text)
    facts = [
        (key, _cell_text(json_text(fact)) if isinstance(fact, list) else fact)
        for key, fact in manifest.items()
        if key != "parts"
    ]
    _write_sheet(book, _MANIFEST_SHEET, sheets.rename(columns={"name": "sheet"}))
    _write_sheet(book, _MANIFEST_SHEET, pd.DataFrame(facts, columns=["key", "value"]), column=4)


def _by_metric(frame: pd.DataFrame, table: SampleTable) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the table of each metric, without empty columns."""
    for metric, at in table.slices():
        rows = frame.iloc[at].drop(columns="metric_name").dropna(axis="columns", how="all")
        if table.rows.is_count[at].all():
            rows = rows.assign(value=rows["value"].astype("int64"))
        yield metric, rows


def _fitted(frame: pd.DataFrame, manifest: Manifest, fit: Callable[[str], str]) -> pd.DataFrame:
    """Change texts to fit the format, and list their columns in the manifest."""
    manifest["rows"] = len(frame)
    changed: list[str] = []
    for name in map(str, frame.select_dtypes("string")):
        # A column has few distinct texts, e.g. names of models.
        if any(fit(text) != text for text in set(frame[name].dropna().tolist())):
            frame[name] = frame[name].map(fit, na_action="ignore")
            changed.append(fit(name))
    if changed:
        manifest["changed"] = changed
    return frame.rename(columns=fit)


def _csv_text(text: str) -> str:
    # Readers end a row at a carriage return, and a text at NUL.
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


def _cell_text(text: str) -> str:
    text = _csv_text(text)  # because Excel shows both as escapes
    if text.startswith(("<r>", "{=")):  # to xlsxwriter markup and, in old versions, a formula
        text = f" {text}"
    if len(text) <= _MAX_CELL_BYTES // 4:
        return text
    return text.encode("utf-16-le")[:_MAX_CELL_BYTES].decode("utf-16-le", errors="ignore")


# Names


def safe_names(
    names: Iterable[str],
    unsafe: frozenset[str],
    room: int,
    encoding: str = "utf-8",
    reserved: Iterable[str] = (),
) -> dict[str, str]:
    """Convert names of metrics to distinct names of files or sheets.

    Names are compared like file systems and Excel do, without case and Unicode form. A safe name
    is unchanged. A shortened one, or one that would equal another, ends with a digest of the
    metric's name, so that it is the same in every export.

    Args:
        names: The metrics' names, each once.
        unsafe: Characters that become ``_``; unprintable ones do too.
        room: Maximum length of a name in bytes.
        encoding: The encoding for that length.
        reserved: Names that must not be used.

    Returns:
        The safe names by metric.
    """

    def clean(name: str) -> str:
        text = "".join(c if c.isprintable() and c not in unsafe else "_" for c in name)
        return text.strip() or "_"

    def cut(text: str, room: int) -> str:
        return text.encode(encoding)[:room].decode(encoding, errors="ignore")

    used = {_folded(name) for name in reserved}
    safe: dict[str, str] = {}
    for name in sorted(names, key=lambda name: cut(clean(name), room) != name):
        found = chosen = clean(name)
        salt = 0
        while cut(chosen, room) != chosen or _folded(chosen) in used:
            digest = hashlib.blake2b(f"{salt}{name}".encode(), digest_size=4).hexdigest()
            chosen = cut(found, room - len(f"_{digest}".encode(encoding))) + f"_{digest}"
            salt += 1
        used.add(_folded(chosen))
        safe[name] = chosen
    return safe


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


FORMATS: dict[str, Callable[[Snapshot, Path, Manifest, AtomicFiles], list[Path]]] = {
    "json": _write_json,
    "csv": _write_csv,
    "excel": _write_excel,
    "parquet": _write_parquet,
}
"""The writer of each format; it returns the written files."""
