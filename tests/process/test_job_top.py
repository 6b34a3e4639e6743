"""A job that is watched by its name, without an endpoint."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from _jobs import environment, job

from _waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

_RANK = """
monitor = GenerationMonitor()
record(monitor, {count})
monitor.flush()
print("ready", flush=True)
sys.stdin.read()
"""


def _top(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = "import sys; from genmeter.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", command, "top", *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_job_is_watched_by_its_name(tmp_path: Path) -> None:
    """All its processes at once; after their end the name is that of no job."""
    env = environment(TMPDIR=str(tmp_path), GENMETER_JOB="night shift/1")
    ranks = []
    for count in (5, 8):
        folder = tmp_path / str(count)
        folder.mkdir()
        ranks.append(
            subprocess.Popen(
                job(folder, _RANK.format(count=count)),
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    asking = environment(TMPDIR=str(tmp_path))
    try:
        for rank in ranks:
            assert rank.stdout is not None
            assert rank.stdout.readline() == "ready\n"

        def shows_both() -> bool:
            found = _top(asking, "job=night shift/1", "--once")
            return found.returncode == 0 and " calls=13 " in found.stdout

        assert eventually(shows_both)
    finally:
        for rank in ranks:
            rank.communicate(timeout=60)
    found = _top(asking, "job=night shift/1", "--once")
    assert found.returncode == 2
    assert "must be the name of a running job" in found.stderr
