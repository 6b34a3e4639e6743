"""The export call: its arguments, errors and files."""

from __future__ import annotations

import builtins
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from _exports import contents, place

from genmeter.errors import ConfigError, ExportError, MissingExtraError
from genmeter.files._formats import FORMATS
from genmeter.files.export import export
from genmeter.files.read import read_export
from genmeter.history.frames import to_frame
from history_events import generation, metric, snapshot_of


@pytest.mark.parametrize("format_", FORMATS)
def test_empty_history_is_exported(format_: str, tmp_path: Path) -> None:
    """A job without events has complete files."""
    written = export(snapshot_of([]), place(tmp_path, format_), format_)
    assert {each.name for each in written} == contents(tmp_path).keys()
    assert all(contents(tmp_path).values())


@pytest.mark.parametrize("format_", FORMATS)
def test_gaps_are_logged(format_: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The warnings name the settings that keep more."""
    events = [generation(at, raw_kwargs={"note": "x" * 400}) for at in range(5)]
    snapshot = snapshot_of(events, capacity=3, metadata_bytes=1_200)
    with caplog.at_level(logging.WARNING, "genmeter"):
        export(snapshot, place(tmp_path, format_), format_)
    assert "GENMETER_HISTORY_CAPACITY" in caplog.text
    assert "lacks the metadata of 1 rows" in caplog.text
    assert "GENMETER_HISTORY_METADATA_BYTES" in caplog.text
    if format_ in {"json", "parquet"}:
        expected = to_frame(snapshot, "samples").attrs
        assert expected.keys() == {"kept_since", "data_cut"}
        assert read_export(place(tmp_path, format_)).attrs == expected


@pytest.mark.parametrize("format_", FORMATS)
def test_failed_export_leaves_the_old_files(
    format_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk in the middle of a write changes nothing."""
    export(snapshot_of([generation(0)]), place(tmp_path, format_), format_)
    before = contents(tmp_path)
    opened = Path.open

    class Full:
        """A file on a disk that gets full after a few bytes."""

        def __init__(self, file: Any) -> None:
            self.file, self.left = file, 200

        def write(self, data: Any) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(28, "No space left on device")
            return int(self.file.write(data))

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def open_full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = opened(self, mode, *args, **options)
        return Full(file) if "x" in mode else file

    monkeypatch.setattr(Path, "open", open_full)
    events = [generation(at, raw_kwargs={"id": "b" * at}) for at in range(30)]
    with pytest.raises(ExportError, match=r"output_path '.*No space left.*free space"):
        export(snapshot_of(events), place(tmp_path, format_), format_)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("format_", FORMATS)
def test_export_needs_no_temporary_folder(
    format_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the folder of the export must have room: a full temporary folder costs nothing."""
    missing = tmp_path / "missing"
    monkeypatch.setattr(tempfile, "tempdir", str(missing))
    export(snapshot_of([generation()]), place(tmp_path, format_), format_)
    assert not missing.exists()
    assert contents(tmp_path)


@pytest.mark.parametrize("format_", FORMATS)
def test_failed_rename_is_an_export_error(
    format_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No temporary file remains."""

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ExportError, match="Permission denied"):
        export(snapshot_of([generation()]), place(tmp_path, format_), format_)
    assert contents(tmp_path) == {}


def test_file_as_parent_is_rejected(tmp_path: Path) -> None:
    """The message names the argument and the remedy."""
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ExportError, match=r"output_path '.*taken/run\.json'.*writable"):
        export(snapshot_of([]), tmp_path / "taken" / "run.json")
    assert (tmp_path / "taken").read_text() == "mine"


def test_missing_folder_is_created(tmp_path: Path) -> None:
    """A path in a folder that does not exist is valid."""
    export(snapshot_of([]), tmp_path / "a" / "b" / "run.json")
    assert (tmp_path / "a" / "b" / "run.json").is_file()


def test_target_of_a_link_is_replaced(tmp_path: Path) -> None:
    """The link itself is unchanged."""
    (tmp_path / "there").mkdir()
    (tmp_path / "run.json").symlink_to(tmp_path / "there" / "run.json")
    export(snapshot_of([]), tmp_path / "run.json")
    assert (tmp_path / "run.json").is_symlink()
    assert (tmp_path / "there" / "run.json").is_file()


def test_relative_path_is_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare name is a file in the current folder."""
    monkeypatch.chdir(tmp_path)
    assert export(snapshot_of([]), "run.json") == [Path(os.path.realpath(tmp_path)) / "run.json"]


@pytest.mark.parametrize("path", ["", "  ", None, 3, b"run.json", "a\0b", "folder/", "\ud800"])
def test_invalid_path_is_rejected(path: Any) -> None:
    """The message has the argument, the rule and the value."""
    with pytest.raises(ConfigError, match=r"output_path must be .* got"):
        export(snapshot_of([]), path)


def test_folder_and_device_are_rejected(tmp_path: Path) -> None:
    """Neither is replaced."""
    with pytest.raises(ConfigError, match="must be a file, got the folder"):
        export(snapshot_of([]), tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="must be a regular file"):
        export(snapshot_of([]), tmp_path / "pipe")


@pytest.mark.parametrize("format_", ["xml", "JSON", "", None, ["json"]])
def test_unknown_format_is_rejected(format_: Any, tmp_path: Path) -> None:
    """The ``ValueError``, as in AfterImage, names the formats; nothing is written."""
    with pytest.raises(ValueError, match=r"format must be one of json, csv, excel, parquet, got"):
        export(snapshot_of([]), tmp_path / "run.json", format_)
    assert contents(tmp_path) == {}


def test_invalid_window_is_rejected(tmp_path: Path) -> None:
    """The message names the argument."""
    with pytest.raises(
        ConfigError, match=r"window must be a datetime.timedelta, or None for all, got 60"
    ):
        export(snapshot_of([]), tmp_path / "run.json", "json", 60)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("format_", "package", "extra"),
    [("excel", "xlsxwriter", "excel"), ("parquet", "pyarrow", "parquet")],
)
def test_missing_package_is_an_error_with_the_pip_command(
    format_: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written, not even the folder."""
    imported = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == package:
            raise ImportError(name)
        return imported(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=rf'pip install "genmeter\[{extra}\]"'):
        export(snapshot_of([metric()]), place(tmp_path / "new", format_), format_)
    assert contents(tmp_path) == {}
