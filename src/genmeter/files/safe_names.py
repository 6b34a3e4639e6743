"""Names of metrics as names of files and of Excel's sheets, without two becoming one.

A file's name is fit for Linux, macOS and Windows at once, so that a folder of exports can be moved
between them: https://learn.microsoft.com/windows/win32/fileio/naming-a-file. What a sheet may be
called: https://support.microsoft.com/office/3f63c3f2-7aa9-4a9f-8e3e-1f0f6dbdf9c6.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["MAX_FILE_BYTES", "MAX_SHEET_LENGTH", "file_names", "sheet_names"]

MAX_FILE_BYTES = 255
"""Longest name of a file, in bytes of UTF-8: what ext4 and APFS take, and less than NTFS does."""
MAX_SHEET_LENGTH = 31
"""Longest name of a sheet, in units of UTF-16, which is how Excel counts."""
_NOT_IN_FILES = re.compile(r'[<>:"/\\|?*]')
_NOT_IN_SHEETS = re.compile(r"[\[\]:*?/\\]")
# Windows keeps these for devices, whatever follows their first dot.
_DEVICES = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?$", re.IGNORECASE
)
_UNPRINTABLE = frozenset({"Cc", "Cs", "Cn", "Zl", "Zp"})
_RESERVED_SHEET = "history"
_DIGEST_BYTES = 4


def file_names(names: Iterable[str], *, prefix: str, suffix: str) -> dict[str, str] | None:
    """Give each name a file.

    Args:
        names: The names, each once.
        prefix: What each file's name begins with, as it is.
        suffix: What each file's name ends with, such as ``.csv``.

    Returns:
        By name the file's name, ``prefix`` and ``suffix`` included; None where these two are too
        long to leave room for a name.
    """
    room = MAX_FILE_BYTES - len((prefix + suffix).encode())
    if room < 4 * _DIGEST_BYTES:
        return None

    def clean(name: str) -> str:
        text = _printable(_NOT_IN_FILES.sub("_", name))
        if text.endswith((".", " ")):
            text = text[:-1] + "_"
        return f"_{text}" if _DEVICES.match(prefix + text + suffix) else text or "_"

    def cut(text: str, spare: int) -> str:
        return text.encode()[: room - spare].decode(errors="ignore")

    safe = _distinct(names, clean, cut, taken=set())
    return {name: f"{prefix}{text}{suffix}" for name, text in safe.items()}


def sheet_names(parts: dict[str, int], *, taken: Iterable[str] = ()) -> dict[str, list[str]]:
    """Give each name a sheet, or several where one does not hold it.

    Args:
        parts: By name, each once, the number of sheets that it needs.
        taken: Sheets that the workbook has already.

    Returns:
        By name the names of its sheets; from the second on they end in ``(2)`` and so on.
    """

    def clean(name: str) -> str:
        text = _printable(_NOT_IN_SHEETS.sub("_", name))
        text = re.sub("^'|'$", "_", text)
        return text if text.strip() else "_"

    def cut(text: str, spare: int) -> str:
        units = text.encode("utf-16-le")[: 2 * (MAX_SHEET_LENGTH - spare)]
        return re.sub("'$", "_", units.decode("utf-16-le", errors="ignore"))

    used = {_folded(name) for name in (*taken, _RESERVED_SHEET)}
    safe = _distinct(parts, clean, cut, taken=used)
    sheets = {name: [text] for name, text in safe.items()}
    used.update(map(_folded, safe.values()))
    for name, count in parts.items():
        number = 1
        while len(sheets[name]) < count:
            number += 1
            ending = f" ({number})"
            text = cut(safe[name], len(ending)) + ending
            if _folded(text) not in used:
                used.add(_folded(text))
                sheets[name].append(text)
    return sheets


def _distinct(
    names: Iterable[str],
    clean: Callable[[str], str],
    cut: Callable[[str, int], str],
    *,
    taken: set[str],
) -> dict[str, str]:
    """Clean names, and mark with a digest those that were cut or would be another's.

    A name that is safe as it is keeps itself, whatever stands before it.
    """
    names = list(names)
    used = set(taken)
    safe = {}
    for name in sorted(names, key=lambda name: cut(clean(name), 0) != name):
        text = clean(name)
        salt = 0
        chosen = cut(text, 0)
        while chosen != text or _folded(chosen) in used:
            digest = hashlib.blake2b(f"{salt}{name}".encode(), digest_size=_DIGEST_BYTES)
            text = chosen = cut(clean(name), 2 * _DIGEST_BYTES + 1) + f"_{digest.hexdigest()}"
            salt += 1
        used.add(_folded(chosen))
        safe[name] = chosen
    return {name: safe[name] for name in names}


def _printable(text: str) -> str:
    return "".join("_" if unicodedata.category(char) in _UNPRINTABLE else char for char in text)


def _folded(name: str) -> str:
    """Give what two names share that a file system or Excel takes for the same."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
