"""Sizes for `peers.py`: the wheel of a package, and what is installed with it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

__all__ = ["Sizes", "import_seconds", "installed", "wheel"]

ROOT = Path(__file__).parents[1]

# Runs in the environment of the package.
_INSTALLED = """
import json, sys
from importlib.metadata import PackageNotFoundError, distribution
from packaging.requirements import Requirement

found, size, wanted = set(), 0, [(sys.argv[1], frozenset())]
while wanted:
    name, extras = wanted.pop()
    try:
        each = distribution(name)
    except PackageNotFoundError:
        continue
    known = each.metadata["Name"].lower().replace("_", "-")
    if (known, extras) in found:
        continue
    if known not in {name for name, _ in found} and known not in sys.argv[2:]:
        size += sum(
            path.stat().st_size
            for file in each.files or ()
            if not str(file).endswith(".pyc") and (path := each.locate_file(file)).is_file()
        )
    found.add((known, extras))
    for text in each.requires or ():
        required = Requirement(text)
        if required.marker is None or any(
            required.marker.evaluate({"extra": extra}) for extra in extras or {""}
        ):
            wanted.append((required.name, frozenset(required.extras)))
print(json.dumps({"bytes": size, "packages": len({name for name, _ in found})}))
"""
_IMPORT = "import time\nstart = time.process_time()\n{}\nprint(time.process_time() - start)"


class Sizes(NamedTuple):
    """Sizes of a package, in bytes.

    Attributes:
        wheel: Its wheel.
        unpacked: The files in it.
    """

    wheel: int
    unpacked: int


def wheel(package: str) -> Sizes | None:
    """Return the sizes of a wheel; None if it cannot be had, as without an index.

    Args:
        package: Name and version of a package, or ``genmeter``, which is built.
    """
    source = str(ROOT) if package.startswith("genmeter") else package
    with tempfile.TemporaryDirectory(prefix="genmeter-bench-") as folder:
        made = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
                *("--no-deps", "--wheel-dir", folder, source),
            ],
            check=False,
            capture_output=True,
        )
        files = list(Path(folder).glob("*.whl"))
        if made.returncode or not files:
            return None
        with zipfile.ZipFile(files[0]) as archive:
            unpacked = sum(each.file_size for each in archive.infolist())
        return Sizes(files[0].stat().st_size, unpacked)


def installed(python: Path, package: str) -> dict[str, int]:
    """Return ``bytes`` and ``packages`` of a package with all that it requires, without ``.pyc``.

    The files of genmeter itself are not counted, since it is installed from its sources.
    """
    done = subprocess.run(
        [python, "-c", _INSTALLED, package, "genmeter"], check=True, capture_output=True, text=True
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


def import_seconds(python: Path, statement: str) -> float:
    """Return the seconds of CPU of an import in a new process."""
    done = subprocess.run(
        [python, "-c", _IMPORT.format(statement)], check=True, capture_output=True, text=True
    )
    return float(done.stdout)
