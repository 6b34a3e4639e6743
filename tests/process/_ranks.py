"""Processes of a job that do what a test asks them to do."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

from _jobs import PATIENCE, PREAMBLE

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Live"]

_SOURCE = (
    PREAMBLE
    + """
import genmeter
from genmeter import job_token_usage


def page(monitor):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics"}
    return b"".join(monitor.wsgi_app()(environ, lambda line, headers: None)).decode()


def load(monitor, pause=0.002, model="m"):
    # Records on a thread until `stop` is set; `counted` is shared with the test by its file.
    def work():
        with open(sys.argv[1], "r+b", buffering=0) as shared:
            done = 0
            while not stop.is_set():
                record(monitor, model=model)
                done += 1
                os.pwrite(shared.fileno(), done.to_bytes(8, "little"), 0)
                time.sleep(pause)

    threading.Thread(target=work, daemon=True).start()


if __name__ == "__main__":
    stop = threading.Event()
    for line in sys.stdin:
        source = json.loads(line)
        try:
            try:
                code = compile(source, "test", "eval")
            except SyntaxError:
                exec(compile(source, "test", "exec"))
                value = None
            else:
                value = eval(code)
            answer = {"value": value}
        except Exception as error:
            answer = {"error": repr(error)}
        print(json.dumps(answer, default=repr), flush=True)
"""
)


class Live:
    """A process, which ends with the block.

    Args:
        folder: The folder of its program and its standard error.
        name: Its name, another one for each in the folder.
        env: Its environment.
        start: What it does first.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        env: dict[str, str],
        start: str = "monitor = GenerationMonitor()",
    ) -> None:
        program = folder / "live.py"
        if not program.exists():
            program.write_text(_SOURCE)
        self._errors = folder / f"{name}.log"
        self._counted = folder / f"{name}.counted"
        self._counted.write_bytes(bytes(8))
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(program), str(self._counted)],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        try:
            self.do(start)
        except BaseException:
            self.__exit__()
            raise

    def do(self, source: str) -> Any:
        """Have it run a statement, or an expression, and return its value."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(source), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"it ended: {self.errors}"}
        assert "error" not in answer, (answer, self.errors)
        return answer["value"]

    def send(self, source: str) -> None:
        """Have it run something without waiting."""
        assert self.process.stdin is not None
        print(json.dumps(source), file=self.process.stdin, flush=True)

    @property
    def counted(self) -> int:
        """The calls that ``load()`` has recorded."""
        return int.from_bytes(self._counted.read_bytes(), "little")

    @property
    def errors(self) -> str:
        """Its standard error."""
        return self._errors.read_text()

    def end(self) -> int:
        """Have it end in order; return its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
