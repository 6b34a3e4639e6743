"""What genmeter and its peers cost: a call, memory, a page, a report, the import and the size.

Each subject has a process of its own, in an environment that has what it needs (`make bench` makes them); the
processes take turns in every round, so that load on the machine affects all. Peers that only instrument a client are
measured by what they add to a call of OpenAI's client whose answer is there already.

Run alone: ``.venv/bin/python benchmarks/peers.py [--rounds N] [--data FOLDER] [--write]``, after `make bench`, or
``make bench ARGS="--only peers"``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from _machine import processor
from _page import write_figures
from _peers_load import LOADS
from _peers_sizes import import_seconds, installed, wheel
from _peers_specs import MAIN, SUBJECTS, first_of, python_of
from _peers_table import tables_of
from _peers_trace import write_trace
from _peers_worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["add_arguments", "measure", "report"]

ROOT = Path(__file__).parents[1]
JSON = ROOT / "build" / "benchmarks" / "peers.json"
ROUNDS = 5
KEPT = 50_000
_PAGES = 5
_NS = 1e-9

Result = dict[str, Any]
Rounds = dict[str, list[dict[str, Any]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this benchmark."""
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds beside the peers")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="traces, as of replay.py")
    parser.add_argument("--trace-name", help="what the page calls the trace")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--share", type=float, default=1.0, help="part of each load's calls")
    parser.add_argument("--kept", type=int, default=KEPT, help="calls whose memory is measured")
    parser.add_argument("--no-sizes", dest="sizes", action="store_false", help="build no wheels")


def measure(options: argparse.Namespace) -> Result:
    """Measure all chosen subjects.

    Raises:
        RuntimeError: A subject did not record each of its calls.
    """
    names: list[str] = options.subjects
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="genmeter-bench-")))
        trace = folder / "trace.json"
        traffic = LOADS["traffic"]
        called = write_trace(trace, options.data, traffic.calls, traffic.rate)
        result: Result = {"about": _about(options, options.trace_name or called)}
        workers: dict[str, Worker] = {}
        for name in names:
            workers[name] = Worker(name, trace)
            closing.callback(workers[name].end)
        _check(workers, {name: each.ask("warm_up") for name, each in workers.items()})
        result["about"]["versions"] = _versions(workers)
        result["loads"] = {
            load: _in_rounds(workers, load, options.rounds, options.share) for load in LOADS
        }
        result["bursts"] = _bursts(workers, options.rounds * 8)
        pages = {name: [each.ask("page") for _ in range(_PAGES)] for name, each in workers.items()}
        reports = {
            name: [each.ask("report") for _ in range(_PAGES)] for name, each in workers.items()
        }
        _check(workers, {name: each.ask("missing") for name, each in workers.items()})
    with tempfile.TemporaryDirectory(prefix="genmeter-bench-") as made:
        trace = Path(made) / "trace.json"
        write_trace(trace, None, 10, 1_000)
        memory, starts = _fresh(names, trace, options)
    result["kept"] = {
        name: {
            "memory": memory[name],
            "page": _page_of(pages[name]),
            "report": _lowest(reports[name]),
        }
        for name in memory
    }
    result["starts"] = _starts(names, starts, workers, sizes=options.sizes)
    here = python_here()
    result["import_alone"] = median(
        import_seconds(here, "import genmeter") for _ in range(options.rounds)
    )
    result["about"]["busy"].append(os.getloadavg()[0])
    return result


def python_here() -> Path:
    """Return this process's Python: that of the environment of `make bench`."""
    return Path(sys.executable)


def report(result: Result, *, write: bool = False, path: Path | None = JSON) -> None:
    """Print the tables, keep the figures as JSON, and write the page if asked to."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1), encoding="utf-8")
    tables = tables_of(result)
    print(tables)
    if write:
        write_figures("peers", tables)


def _about(options: argparse.Namespace, trace: str) -> Result:
    return {
        "date": f"{datetime.now(UTC):%-d %B %Y}",
        "machine": f"{os.cpu_count()} cores of {processor()}, "
        f"{platform.python_implementation()} {platform.python_version()}",
        "busy": [os.getloadavg()[0]],
        "rounds": options.rounds,
        "kept": options.kept,
        "trace": trace,
    }


def _versions(workers: dict[str, Worker]) -> dict[str, str]:
    found = {}
    for name, each in workers.items():
        package = SUBJECTS[name].distribution
        if package is not None and each.about["version"]:
            found[package] = each.about["version"]
    return found


def _check(workers: dict[str, Worker], missing: dict[str, int]) -> None:
    wrong = {
        name: missing[name] for name in workers if missing[name] and not SUBJECTS[name].is_baseline
    }
    if wrong:
        raise RuntimeError(f"not all calls were recorded; missing: {wrong}")


def _turns(names: Iterable[str], number: int) -> list[str]:
    return list(names)[:: -1 if number % 2 else 1]


def _in_rounds(workers: dict[str, Worker], load: str, rounds: int, share: float) -> Result:
    found: Rounds = {name: [] for name in workers}
    for number in range(rounds):
        for name in _turns(workers, number):
            found[name].append(workers[name].ask("load", name=load, share=share))
    print(f"{LOADS[load].title}: {rounds} rounds", flush=True)
    figures = {name: _added(found, name) for name in workers}
    return {name: _summary(name, figures) for name in workers}


def _added(found: Rounds, name: str) -> Rounds:
    """Return the sorted times of a subject's rounds in seconds, and CPU, without its baseline's."""
    spec = SUBJECTS[name]
    own, base = found[name], found.get(spec.baseline)
    rounds = []
    for number, each in enumerate(own):
        # The loop's time of a call is less than a microsecond: only a client's is subtracted.
        beside = base[number] if base else None
        less = median(beside["nanoseconds"]) if beside and spec.group == "watched" else 0.0
        rounds.append(
            {
                "times": sorted(max(0.0, time - less) * _NS for time in each["nanoseconds"]),
                "cpu": each["cpu"] - (beside["cpu"] if beside else 0.0),
                "rate": each["rate"],
            }
        )
    return {"rounds": rounds}


def _summary(name: str, figures: dict[str, Rounds]) -> Result:
    rounds = figures[name]["rounds"]
    first = first_of(SUBJECTS[name].group)
    others = figures[first]["rounds"] if first in figures else None
    pooled = sorted(time for each in rounds for time in each["times"])
    is_compared = others is not None and name != first and SUBJECTS[name].is_compared
    return {
        "median": median(median(each["times"]) for each in rounds),
        "ratio": _ratio(
            [median(each["times"]) for each in rounds],
            [median(each["times"]) for each in others or ()],
        )
        if is_compared
        else None,
        "p99": at(pooled, 0.99),
        "p999": at(pooled, 0.999),
        "cpu": median(each["cpu"] for each in rounds),
        "cpu_ratio": _ratio(
            [each["cpu"] for each in rounds], [each["cpu"] for each in others or ()]
        )
        if is_compared
        else None,
        "rate": median(each["rate"] for each in rounds),
        "calls": len(pooled),
    }


def at(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of some ordered figures that a share of them does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _ratio(own: Sequence[float], others: Sequence[float]) -> float | None:
    """Return the median of the ratios of the rounds in which both are positive."""
    ratios = [a / b for a, b in zip(own, others, strict=True) if a > 0 < b]
    return median(ratios) if ratios else None


def _bursts(workers: dict[str, Worker], rounds: int) -> Result:
    found: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(rounds):
        for name in _turns(workers, number):
            found[name].append(workers[name].ask("bursts"))
    print(f"bursts: {rounds} rounds", flush=True)
    added = {}
    for name, own in found.items():
        spec = SUBJECTS[name]
        base = found.get(spec.baseline) if spec.group == "watched" else None
        added[name] = [a - b for a, b in zip(own, base, strict=True)] if base else own
    return {
        name: {
            "cpu": median(each),
            "ratio": None
            if (first := first_of(SUBJECTS[name].group)) == name
            or first not in added
            or not SUBJECTS[name].is_compared
            else _ratio(each, added[first]),
        }
        for name, each in added.items()
    }


def _fresh(
    names: Sequence[str], trace: Path, options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, list[Result]]]:
    """Return the memory of a call, and what each start took, in new processes."""
    memory: dict[str, float] = {}
    starts: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in _turns(names, number):
            worker = Worker(name, trace)
            starts[name].append(worker.about)
            if not number and not SUBJECTS[name].is_baseline:
                memory[name] = worker.ask("memory", count=options.kept)
            worker.end()
    print(f"new processes: {options.rounds} rounds", flush=True)
    return memory, starts


def _starts(
    names: Sequence[str],
    starts: dict[str, list[Result]],
    workers: dict[str, Worker],
    *,
    sizes: bool,
) -> Result:
    found = {}
    for name in names:
        spec = SUBJECTS[name]
        if spec.is_baseline:
            continue
        base = starts.get(spec.baseline) or [{"construct": 0.0}]
        first = first_of(spec.group)
        imports = [each["import"] for each in starts[name]]
        package, version = spec.distribution, workers[name].about["version"]
        made = wheel(f"{package}=={version}") if sizes and package else None
        python = python_here() if spec.environment == MAIN else python_of(spec.environment)
        all_of_it = installed(python, package) if sizes and package else None
        own = (
            made.unpacked if made and package == "genmeter" else 0
        )  # it is installed from its sources
        found[name] = {
            "import": median(imports),
            "ratio": _ratio(imports, [each["import"] for each in starts[first]])
            if name != first and first in starts
            else None,
            "construct": max(
                0.0,
                median(each["construct"] for each in starts[name])
                - median(each["construct"] for each in base),
            ),
            "wheel": made.wheel if made else None,
            "installed": all_of_it["bytes"] + own if all_of_it else None,
            "packages": all_of_it["packages"] if all_of_it else None,
        }
    return found


def _page_of(pages: list[Result | None]) -> Result | None:
    found = [each for each in pages if each is not None]
    return min(found, key=lambda each: each["seconds"]) if found else None


def _lowest(figures: list[float | None]) -> float | None:
    found = [each for each in figures if each is not None]
    return min(found) if found else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the peers, or print and write what an earlier run has kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--json", type=Path, default=JSON, help="where the figures are kept")
    parser.add_argument("--read", action="store_true", help="use the figures that are kept")
    options = parser.parse_args(arguments)
    if options.read:
        result = json.loads(options.json.read_text(encoding="utf-8"))
        report(result, write=options.write, path=None)
    else:
        report(measure(options), write=options.write, path=options.json)


if __name__ == "__main__":
    main()
