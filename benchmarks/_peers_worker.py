"""A process of `peers.py` that measures one subject, in its environment, when it is asked to."""

from __future__ import annotations

import gc
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _events import Event
from _peers_load import LOADS, bursts, run_load
from _peers_specs import MAIN, SUBJECTS, python_of

if TYPE_CHECKING:
    from _peers_recorders import Peer

__all__ = ["Worker"]

_MARK = "measured: "
_WARM_UP = 200
_CHUNK = 1_000
_OFFLINE = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OTEL_METRICS_EXPORTER": "prometheus",
    "TRACELOOP_TELEMETRY": "false",
    "PYTHONWARNINGS": "ignore",
    "OPENAI_API_KEY": "k",
}


class Worker:
    """The process of a subject, as the benchmark sees it.

    Args:
        name: The subject.
        trace: File of the generations, as :func:`generations_in` reads it.
        python: Its interpreter; by default that of its environment.

    Attributes:
        about: What it was asked at its start: seconds of CPU to import and to construct it, versions.
    """

    def __init__(self, name: str, trace: Path, python: Path | None = None) -> None:
        spec = SUBJECTS[name]
        self._folder = tempfile.mkdtemp(prefix="genmeter-bench-")
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("OTEL_", "GENMETER_", "PROMETHEUS_", "PYTHONDONTWRITE"))
        }
        if spec.environment != MAIN:
            kept.pop("PYTHONPATH", None)
            python = python or python_of(spec.environment)
        own = {key: value.replace("FOLDER", self._folder) for key, value in spec.variables.items()}
        self._process = subprocess.Popen(
            [python or sys.executable, __file__, name, str(trace)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if name == "openlit" else None,  # it logs each call
            text=True,
            env={**kept, **_OFFLINE, **own},
        )
        self.about = self._read()

    def ask(self, question: str, **arguments: Any) -> Any:
        """Have it measure something, and return the figures."""
        pipe: Any = self._process.stdin
        pipe.write(json.dumps({"ask": question, **arguments}) + "\n")
        pipe.flush()
        return self._read()

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self) -> Any:
        for line in self._process.stdout or ():
            if line.startswith(_MARK):  # other lines are what a package prints
                return json.loads(line.removeprefix(_MARK))
        raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}")


# --- in the process ----------------------------------------------------------------------------------


class _Asked:
    """What the process can be asked; each method is a question."""

    def __init__(self, peer: Peer, trace: Path) -> None:
        self._peer = peer
        read = json.loads(trace.read_text(encoding="utf-8"))
        self._plain = [Event(*each) for each in read["plain"]]
        self._traffic = [Event(*each) for each in read["traffic"]]
        self._times: list[float] = read["times"]
        self._recorded = 0
        peer.prepare([*self._plain, *self._traffic])

    def warm_up(self) -> int:
        """Record a few; return how many of the calls were not recorded."""
        self._peer.record(self._plain[:_WARM_UP])
        self._recorded += len(self._plain[:_WARM_UP])
        self._peer.settle()
        gc.collect()
        gc.freeze()
        return self.missing()

    def load(self, name: str, share: float) -> dict[str, Any]:
        """Run a part of a load."""
        load = replace(LOADS[name], calls=max(16, int(LOADS[name].calls * share)))
        generations = self._traffic if load.is_traffic else self._plain
        taken = run_load(self._peer, load, generations, self._times)
        self._recorded += len(taken.nanoseconds)
        return vars(taken)

    def bursts(self) -> float:
        """Return the seconds of CPU for a call in a burst."""
        self._recorded += 200
        return bursts(self._peer, self._plain)

    def missing(self) -> int:
        """Return how many of all calls are not in what it recorded."""
        self._peer.settle()
        return self._recorded - self._peer.count()

    def page(self) -> dict[str, float] | None:
        """Return seconds of a page, and its lines; None if there is none."""
        start = time.perf_counter()
        text = self._peer.page()
        took = time.perf_counter() - start
        if text is None:
            return None
        lines = sum(not line.startswith("#") for line in text.splitlines())
        return {"seconds": took, "lines": lines}

    def report(self) -> float | None:
        """Return seconds of a report; None if there is none."""
        start = time.perf_counter()
        found = self._peer.report()
        return None if found is None else time.perf_counter() - start

    def memory(self, count: int) -> float:
        """Return the bytes by which the process grows with each of many calls."""
        # The first calls take what does not grow with their number.
        for _ in range(2):
            self._peer.record(self._plain[:_CHUNK])
            self._recorded += len(self._plain[:_CHUNK])
            self._peer.settle()
        gc.collect()
        before = _resident()
        for start in range(0, count, _CHUNK):
            part = [self._plain[at % len(self._plain)] for at in range(start, start + _CHUNK)]
            self._peer.record(part)
            self._recorded += len(part)
            self._peer.settle()
        gc.collect()
        return (_resident() - before) / count


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _start(name: str) -> tuple[Peer, dict[str, Any]]:
    """Import and construct a subject, and return it with the seconds of CPU that each took."""
    spec = SUBJECTS[name]
    if spec.group == "watched":
        importlib.import_module("openai")  # the job has it anyway
    start = time.process_time()
    for each in spec.imports:
        module, _, attribute = each.partition(":")
        loaded = importlib.import_module(module)
        if attribute:
            getattr(loaded, attribute)
    imported = time.process_time() - start
    module, _, kind = spec.made_by.partition(":")
    make = getattr(importlib.import_module(module), kind)
    if spec.environment == MAIN:
        importlib.import_module("_subjects")
    start = time.process_time()
    peer = make()
    constructed = time.process_time() - start
    return peer, {"import": imported, "construct": constructed, "version": _version(spec)}


def _version(spec: Any) -> str | None:
    if spec.distribution is None:
        return None
    try:
        return version(spec.distribution)
    except PackageNotFoundError:
        return None


def _main(name: str, trace: str) -> None:
    peer, about = _start(name)
    print(_MARK + json.dumps(about), flush=True)
    asked = _Asked(peer, Path(trace))
    for line in sys.stdin:
        question = json.loads(line)
        found = getattr(asked, question.pop("ask"))(**question)
        print(_MARK + json.dumps(found), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
