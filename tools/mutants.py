"""Mutation testing of the modules whose faults would be silent, with mutmut.

A mutant is the code with one small change: a comparison turned, an argument dropped, a number one higher.
Each is run against the tests of its module, in a copy of the tree under `build/mutants`. A mutant that
passes them all survives: what it changes is tested by nothing, or does not matter.

    make mutants ARGS="--sample 60"       the same 60 mutants of each module, at any time
    make mutants                          all mutants: hours; goes on where an earlier run ended
    make mutants ARGS="store --again"     those that survived or timed out once more

The survivors are printed as diffs, except those that `tools/mutants.toml` explains. One mutant is tried at a
time. It may wait for half a minute, so that a machine with other work does not end it too early.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutants"
EXPLAINED = Path(__file__).with_suffix(".toml")
# What mutmut notes of a mutant: the end of its tests' process.
KILLED = {1, 3}  # a test failed, or pytest itself did
SURVIVED = {0, 5, 33}  # all passed, or no test runs this function
# Ended by its time limit, as a loop without end is; or by a signal, as when the stack is full.
ENDED = {-24, -11, -9, 24, 36, 152}


@dataclasses.dataclass(frozen=True)
class Module:
    """Files of `src/genmeter`, and the tests that must kill their mutants."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


MODULES = {
    "sanitize": Module(
        ("events/sanitize.py",),
        ("unit/events", "unit/test_unread_usage.py", "property/test_totals.py"),
    ),
    "drain": Module(
        ("pipeline/drain.py",),
        ("unit/pipeline", "property/test_totals.py"),
    ),
    "cells": Module(
        ("metrics/_cells.py",),
        ("unit/metrics", "property/test_meter_properties.py"),
    ),
    "history": Module(
        ("history/ring.py", "history/store.py", "history/windows.py"),
        ("unit/history", "property/test_query_properties.py"),
    ),
    "prices": Module(
        ("config/prices/*.py",),
        (
            "unit/config/test_prices.py",
            "unit/config/test_price_chain.py",
            "unit/config/test_price_fields.py",
            "unit/config/test_price_list.py",
            "unit/config/test_price_sweep.py",
            "property/test_price_properties.py",
        ),
    ),
    "store": Module(
        ("job/store.py",),
        (
            "unit/job/test_job_ended.py",
            "unit/job/test_job_merged.py",
            "unit/job/test_job_other_processes.py",
            "unit/job/test_job_part.py",
            "unit/job/test_job_store.py",
        ),
    ),
    "page": Module(
        ("exporters/_families.py", "exporters/_prometheus_text.py"),
        (
            "unit/exporters/test_prometheus_text.py",
            "unit/exporters/test_scrapes.py",
            "unit/exporters/test_prometheus.py",
        ),
    ),
}


@dataclasses.dataclass(frozen=True)
class Score:
    """What became of the mutants of a module."""

    name: str
    made: int
    tried: int
    killed: int
    ended: int
    survived: int
    explained: int

    def row(self) -> str:
        """The module's row of the table."""
        dead = self.killed + self.ended
        matter = self.tried - self.explained
        return (
            f"| {self.name} | {self.made} | {self.tried} | {self.killed} | {self.ended} "
            f"| {self.survived} | {self.explained} | {_percent(dead, self.tried)} "
            f"| {_percent(dead, matter)} |"
        )


# What each process of tests begins with. It collects its tests itself: pytest escapes the names of tests
# twice if it collects them in a process that did so before, and does not find them.
PRELOADED = (
    "genai_prices.data",
    "genmeter.exporters.provider",
    "genmeter.monitor",
    "genmeter.testing",
    "hypothesis.strategies",
    "opentelemetry.sdk.trace",
    "pandas",
    "prometheus_client.openmetrics.parser",
    "pytest_asyncio",
)

OPTIONS = [
    "--hypothesis-profile=mutants",
    "--hypothesis-seed=0",
    *("-p", "no:cacheprovider"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
]
# A failure is enough: a smaller one is not looked for, which takes most of the time.
CONFTEST = """from hypothesis import Phase, settings

settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], database=None)
"""

HEADER = (
    "| module | mutants | tried | killed | timed out | survived | explained | score | without explained |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def main() -> int:
    """Run the mutants of the chosen modules, and print survivors and scores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help=f"of {', '.join(MODULES)}; all by default"
    )
    parser.add_argument(
        "--sample", type=int, metavar="N", help="try N mutants of each module, not all"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="which N: the same for the same code (1)"
    )
    parser.add_argument("--again", action="store_true", help="try those that survived or timed out")
    arguments = parser.parse_args()
    if unknown := set(arguments.modules) - set(MODULES):
        parser.error(
            f"no such module: {', '.join(sorted(unknown))}; choose of {', '.join(MODULES)}"
        )
    scores = []
    for name in arguments.modules or MODULES:
        copy = _Copy(name, MODULES[name])
        copy.refresh()
        if arguments.again:
            chosen = copy.doubtful()
        elif arguments.sample is not None:
            made = copy.mutants()
            chosen = random.Random(arguments.seed).sample(made, min(arguments.sample, len(made)))  # noqa: S311 - a sample, no secret
        else:
            chosen = None
        if chosen != []:
            copy.run(chosen)
        scores.append(copy.score(None if arguments.again else chosen))
        print(f"{HEADER}\n{scores[-1].row()}\n", flush=True)
    print("\n".join([HEADER, *(score.row() for score in scores)]))
    return 0


@dataclasses.dataclass(frozen=True)
class _Explanation:
    """Mutants that change nothing: the lines that they remove and add, or a pattern of both."""

    was: str
    new: str | None  # None: the same in upper or lower case

    def fits(self, was: str, new: str) -> bool:
        """Whether a mutant is one of these."""
        if self.new is None:
            return was.lower() == new.lower() and re.search(self.was, was) is not None
        return (was, new) == (self.was, self.new)


class _Copy:
    """A copy of the tree in which mutmut makes and tries the mutants of one module."""

    def __init__(self, name: str, module: Module) -> None:
        self._name = name
        self._module = module
        self._folder = BUILD / name
        self._alone: dict[str, int] = {}

    def refresh(self) -> None:
        """Copy the tree. The results of mutants whose function is as before are kept."""
        # Python remembers a folder of its path that is not there, and would import the installed package.
        (self._folder / "mutants" / "src").mkdir(parents=True, exist_ok=True)
        for part in ("docs", "src", "tests"):
            _mirror(ROOT / part, self._folder / part)
        shutil.rmtree(self._folder / "mutants" / "tests", ignore_errors=True)
        # mutmut makes mutants of a file that is newer than its own; all others must be current too.
        for path in (self._folder / "src").rglob("*.py"):
            mutated = self._folder / "mutants" / path.relative_to(self._folder)
            if mutated.exists() and not mutated.with_name(mutated.name + ".meta").exists():
                shutil.copy2(path, mutated)
        _write(self._folder / "conftest.py", CONFTEST)
        _write(self._folder / "preloaded.txt", "\n".join(PRELOADED))
        settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        _write(self._folder / "pyproject.toml", settings + self._settings())

    def _settings(self) -> str:
        only = [f"src/genmeter/{file}" for file in self._module.files]
        # Generous, since the machine may have other work: a mutant may take half a minute and more.
        return f"""
[tool.mutmut]
source_paths = ["src"]
also_copy = ["conftest.py", "docs"]
only_mutate = {only!r}
pytest_add_cli_args = {OPTIONS!r}
pytest_add_cli_args_test_selection = {self._tests()!r}
process_isolation = "forkserver"
forkserver_warmup = "import"
preload_modules_file = "preloaded.txt"
timeout_constant = 10.0
timeout_multiplier = 3.0
use_git_change_detection = false
track_dependencies = false
"""

    def mutants(self) -> list[str]:
        """The names of all mutants, in order."""
        from mutmut.configuration import reset_config
        from mutmut.mutation.file_mutation import mutate_file_contents
        from mutmut.utils.format_utils import get_mutant_name

        names = []
        with contextlib.chdir(self._folder):
            reset_config()
            for pattern in self._module.files:
                for path in sorted(Path("src/genmeter").glob(pattern)):
                    made = mutate_file_contents(str(path), path.read_text(encoding="utf-8"))
                    names += [get_mutant_name(path, name) for name in made.mutant_names]
        return names

    def run(self, chosen: list[str] | None) -> None:
        """Try these mutants; without a list, all that were not tried since their function changed."""
        with tempfile.TemporaryDirectory(dir=BUILD) as temporary:
            self._mutmut("run", "--max-children", "1", *(chosen or ()), TMPDIR=temporary)

    def results(self) -> dict[str, int | None]:
        """How the tests of each mutant ended, by its name; None was not tried."""
        results: dict[str, int | None] = {}
        for pattern in self._module.files:
            for path in sorted(
                (self._folder / "mutants" / "src" / "genmeter").glob(pattern + ".meta")
            ):
                results |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        for name, code in results.items():
            if code not in {None} | KILLED | SURVIVED | ENDED:
                if name not in self._alone:
                    self._alone[name] = self._tried_alone(name)
                results[name] = self._alone[name]
        return results

    def _tried_alone(self, mutant: str) -> int:
        """Try a mutant of which mutmut cannot say what became of it.

        Such a mutant breaks what a file of tests does as it is imported.
        """
        command = [sys.executable, "-m", "pytest", "-x", "-q", *OPTIONS, *self._tests()]
        with tempfile.TemporaryDirectory(dir=BUILD) as temporary:
            done = subprocess.run(
                command,
                cwd=self._folder / "mutants",
                env=self._environment({"MUTANT_UNDER_TEST": mutant, "TMPDIR": temporary}),
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        # mutmut has seen these tests pass without a mutant: that they cannot be collected is its fault.
        return min(abs(done.returncode), 1)

    def _tests(self) -> list[str]:
        return [f"tests/{test}" for test in self._module.tests]

    def doubtful(self) -> list[str]:
        """The mutants that passed all tests, that no test runs, or that were ended by a time limit."""
        return [name for name, result in self.results().items() if result in SURVIVED | ENDED]

    def score(self, chosen: list[str] | None) -> Score:
        """Count what became of these mutants, or of all; print survivors that nothing explains."""
        everything = self.results()
        results = [everything[name] for name in chosen or everything]
        explained = 0
        explanations = _explanations(self._name)
        survivors = [name for name in chosen or everything if everything[name] in SURVIVED]
        report = []
        for name in survivors:
            diff = self._output("show", name)
            was, new = _change(diff)
            if any(each.fits(was, new) for each in explanations):
                explained += 1
            else:
                report.append(diff)
        _write(BUILD / f"{self._name}.diff", "\n".join(report))
        print("\n".join(report))
        killed = sum(result in KILLED for result in results)
        ended = sum(result in ENDED for result in results)
        tried = killed + ended + len(survivors)
        return Score(self._name, len(everything), tried, killed, ended, len(survivors), explained)

    def _mutmut(self, *arguments: str, **variables: str) -> None:
        command = [Path(sys.executable).with_name("mutmut"), *arguments]
        log = BUILD / f"{self._name}.log"
        with log.open("w", encoding="utf-8") as output:
            done = subprocess.run(
                command,
                cwd=self._folder,
                env=self._environment(variables),
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise SystemExit(f"mutmut failed with {done.returncode}; see {log}")

    def _output(self, *arguments: str) -> str:
        command = [Path(sys.executable).with_name("mutmut"), *arguments]
        done = subprocess.run(
            command, cwd=self._folder, env=self._environment({}), check=True, capture_output=True
        )
        return done.stdout.decode()

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        # Processes that tests start must import the mutants too, not the installed package.
        path = str(self._folder / "mutants" / "src")
        return {**os.environ, "PYTHONPATH": path, **variables}


def _explanations(module: str) -> list[_Explanation]:
    """Read the explained mutants of a module."""
    entries = tomllib.loads(EXPLAINED.read_text(encoding="utf-8")).get(module, ())
    return [_Explanation(entry["was"], entry.get("is")) for entry in entries]


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _mirror(source: Path, target: Path) -> None:
    """Make `target` a copy of `source`; files that did not change keep their time."""
    ignored = shutil.ignore_patterns("__pycache__")
    for path in sorted(target.rglob("*"), reverse=True) if target.exists() else ():
        if not (source / path.relative_to(target)).exists():
            path.rmdir() if path.is_dir() else path.unlink()
    shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)


def _change(diff: str) -> tuple[str, str]:
    """The lines that a diff removes and adds, without their indentation."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    was = " ".join(line[1:].strip() for line in lines if line.startswith("-"))
    return was, " ".join(line[1:].strip() for line in lines if line.startswith("+"))


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
