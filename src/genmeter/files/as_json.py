"""An export as JSON: by metric a list of its samples, metadata as natural values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from genmeter.files.manifest import gaps_in, manifest_text
from genmeter.history.metadata import json_text
from genmeter.history.ring import SUCCESS
from genmeter.history.samples import PHASES, SampleRows, sample_table, token_parts, whose_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from genmeter.files.atomic import AtomicFiles
    from genmeter.files.manifest import Manifest
    from genmeter.history.samples import SampleTable
    from genmeter.history.snapshot import Snapshot

    Texts = npt.NDArray[np.object_]

__all__ = ["gaps_path", "write_json"]

_ROWS_AT_ONCE = 10_000


def gaps_path(path: Path) -> Path:
    """Give the place of the manifest of a JSON export that is not whole."""
    # Not *.json, so that whoever looks for the newest export finds exports only.
    return path.with_name(f"{path.name}.manifest")


def write_json(
    snapshot: Snapshot, path: Path, manifest: Manifest, files: AtomicFiles
) -> list[Path]:
    """Write one object, a sample a line; names and types are as they are.

    It needs no manifest but where the history no longer held all, or its metadata.

    Raises:
        OSError: The file cannot be written.
    """
    rows = _RowTexts(snapshot)
    with files.stage(path).open("x", encoding="utf-8", newline="\n") as file:
        file.write("{")
        between = "\n"
        for name, at in rows.table.slices():
            file.write(f"{between}{json_text(name)}:[\n")
            for start in range(at.start, at.stop, _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, at.stop)
                file.write(",\n".join(rows.texts(name, slice(start, stop))))
                file.write("]" if stop == at.stop else ",\n")
            between = ",\n"
        file.write("\n}\n")
    beside_it = gaps_path(path)
    if not gaps_in(manifest):
        files.remove(beside_it)
        return [path]
    files.stage(beside_it).write_text(manifest_text(manifest), encoding="utf-8")
    return [path, beside_it]


class _RowTexts:
    """The rows of a snapshot as JSON; what many of them share is made once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.table: SampleTable = sample_table(snapshot)
        self._snapshot = snapshot
        self._whose = _whose_texts(snapshot)
        self._once = _once_texts(snapshot)

    def texts(self, name: str, at: slice) -> list[str]:
        """Give rows of a metric, a text each."""
        rows = self.table.rows.at(at)
        times = np.datetime_as_string(rows.time.astype("M8[us]")).tolist()
        whose = self._whose[rows.call]
        once = np.where(rows.is_first, self._once[rows.call], "")
        own = self._own(name, rows)
        return [
            f'{{"timestamp":"{time}+00:00","value":{value!r}{labels}{more}{told}}}'
            for time, value, labels, more, told in zip(
                times, _values(rows), whose.tolist(), own, once.tolist(), strict=True
            )
        ]

    def _own(self, name: str, rows: SampleRows) -> list[str]:
        """Give what the rows have that other rows of their event have not."""
        snapshot = self._snapshot
        texts = [""] * len(rows.time)
        for key, metric, counts in token_parts(snapshot.calls):
            if metric == name:
                found = np.append(counts, 0)[rows.call]
                for row in np.flatnonzero(found > 0).tolist():
                    texts[row] += f',"{key}":{found[row]}'
        values = snapshot.values
        for row in np.flatnonzero(rows.own >= 0).tolist():
            own = rows.own[row]
            if rows.call[row] < 0 and values.event[own] >= 0:
                texts[row] += self._orphan(snapshot.names[values.evaluator[own]])
            told = snapshot.value_data.get(int(values.serial[own]))
            if told is not None:
                texts[row] += _inner(told)
        return texts

    @staticmethod
    def _orphan(evaluator: str) -> str:
        """Give the labels of a score whose evaluation is no longer kept."""
        return _inner(json_text({"phase": "evaluation", "evaluator_type": evaluator}))


def _values(rows: SampleRows) -> list[int | float]:
    values: list[int | float] = rows.value.tolist()
    for row in np.flatnonzero(rows.is_count).tolist():
        values[row] = int(rows.exact[row])
    return values


def _inner(told: str) -> str:
    """Turn the text of a JSON object into further members of another."""
    members = told.strip()[1:-1].strip()
    return f",{members}" if members else ""


def _whose_texts(snapshot: Snapshot) -> Texts:
    whose = whose_of(snapshot)
    kinds, kind_of = np.unique(np.column_stack(whose), axis=0, return_inverse=True)
    texts = []
    for phase, *codes in kinds.tolist():
        keys = ("evaluator_type", "model_name", "step", "provider")
        labels = {"phase": PHASES[phase]} if phase else {}
        labels |= {k: snapshot.names[c] for k, c in zip(keys, codes, strict=True) if c}
        texts.append(_inner(json_text(labels)))
    return np.array(texts, object)[kind_of.reshape(-1)]


def _once_texts(snapshot: Snapshot) -> Texts:
    """Give what is told once of each call: its outcome and its free data."""
    calls = snapshot.calls
    outcomes = np.column_stack([(calls.flags & SUCCESS) != 0, calls.error_type])
    kinds, kind_of = np.unique(outcomes, axis=0, return_inverse=True)
    texts = []
    for success, error in kinds.tolist():
        outcome = {"success": bool(success)}
        texts.append(
            _inner(
                json_text({**outcome, "error_type": snapshot.names[error]} if error else outcome)
            )
        )
    once = np.append(np.array(texts, object)[kind_of.reshape(-1)], "")
    if snapshot.call_data:
        for position, serial in enumerate(calls.serial.tolist()):
            told = snapshot.call_data.get(serial)
            if told is not None:
                once[position] += _inner(told)
    return once
