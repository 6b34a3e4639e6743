"""Draw the dashboards for docs/images: an hour of the demo's job, normal and with a failing model.

    make pictures [ARGS="--out FOLDER"]

It needs what `make servers` installs, the tools' Node packages, and Chromium.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
IMAGES = ROOT / "docs" / "images"
BOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
# Also drawn with the failing model.
FAILING = ("genmeter-overview", "genmeter-health")
END = 1_767_225_480  # 2025-12-31T23:58Z: the last label of the axis is not cut
PATIENCE = 60.0


def main() -> int:
    """Create the data, serve them, and draw; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder (default: docs/images)")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        for scenario in ("normal", "failing"):
            data = Path(folder, scenario)
            words = [HERE / "backfill.py", data, "--scenario", scenario, "--end", str(END)]
            subprocess.run([sys.executable, *words], check=True)
            boards = BOARDS
            suffix = ""
            if scenario == "failing":
                boards = [board for board in BOARDS if board.stem in FAILING]
                suffix = "-failing"
            with prometheus(data, Path(folder)) as url:
                draw(url, boards, suffix, out)
    return 0


def draw(url: str, boards: list[Path], suffix: str, out: Path) -> None:
    """Draw dashboards from a Prometheus."""
    options = ["--prometheus", url, "--now", str(END), "--from", "now-1h", "--out", str(out)]
    command = ["node", HERE / "draw.mjs", *options, f"--suffix={suffix}", *boards]
    subprocess.run(command, check=True)


@contextmanager
def prometheus(data: Path, folder: Path) -> Iterator[str]:
    """Serve the data on loopback."""
    config = folder / "prometheus.yml"
    config.write_text("global: {}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    server = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={data}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address={address}",
            "--log.level=error",
        ]
    )
    try:
        wait_until_ready(f"http://{address}/-/ready")
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait()


def wait_until_ready(url: str) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - a local address
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
