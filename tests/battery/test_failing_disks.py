"""Disks that fail at every operation and at any byte, while files are written that a job asked for."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from _failing_disks import ERRORS, Faults, contents, full_at
from _jobs import environment, folders
from _ranks import Live

from _ports import free_port
from _waiting import eventually
from genmeter import GenerationMonitor, MonitorConfig
from genmeter.cli import main
from genmeter.errors import ExportError
from genmeter.testing import fresh_runtime, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _battery import Battery

Write = Callable[[], object]
SUFFIXES = {"json": "json", "csv": "csv", "excel": "xlsx", "parquet": "parquet"}


@pytest.fixture(scope="module")
def faults() -> Faults:
    """Return the process's faults."""
    return Faults()


@pytest.fixture
def monitor() -> Iterator[GenerationMonitor]:
    """Return a monitor with some calls of several models, steps and scores."""
    with isolated_monitor() as made:
        fill(made, 300)
        yield made


def fill(monitor: GenerationMonitor, count: int) -> None:
    """Record calls, evaluations and values."""
    for number in range(count):
        monitor.track_generation(
            0.1 + number / 1e3,
            number % 7 != 0,
            model_name=f"m{number % 3}",
            step=f"s{number % 2}",
            prompt_token_count=number,
            completion_token_count=1,
            metadata={"note": "x" * 50},
        )
    monitor.track_evaluation(0.1, True, "judge", {"score": 0.5})
    monitor.record_metric("mine", 1.5)


def fail_everywhere(
    battery: Battery, faults: Faults, folder: Path, write: Write, check: Callable[[Any], None]
) -> None:
    """Have a disk fail at each operation of a write, and at many of its bytes.

    Args:
        battery: The amount.
        faults: The faults.
        folder: The folder that is written to.
        write: Writes; its second run replaces the files of its first.
        check: Checks what a failed write returned or raised.
    """
    write()
    with faults.failing(folder, sys.maxsize, 0, is_lasting=False):
        write()
    operations = range(faults.seen)
    assert operations
    before = contents(folder)
    assert before
    for error in battery.random.sample(ERRORS, battery.amount(short=2, long=len(ERRORS))):
        count = min(len(operations), battery.amount(short=3, long=len(operations)))
        for number in battery.random.sample(operations, count):
            for is_lasting in (False, True):
                with faults.failing(folder, number, error, is_lasting=is_lasting):
                    check(result_of(write))
                assert faults.failed
                after = contents(folder)
                # A set of files is renamed one by one: those before the failing one are new.
                assert {*after} == {*before}, (number, error)
                changed = sum(after[name] != before[name] for name in after)
                assert changed <= max(0, number - len(before)), (number, error)
                before = after
    largest = max(len(each) for each in before.values())
    for _ in range(battery.amount(short=5, long=400)):
        with full_at(battery.random.choice((0, 1, battery.random.randrange(largest)))):
            check(result_of(write))
        assert contents(folder) == before
    write()
    assert {*contents(folder)} == {*before}


def result_of(write: Write) -> object:
    """Return what a write returns or raises."""
    try:
        return write()
    except Exception as error:
        return error


def refuses(path: Path) -> Callable[[Any], None]:
    """Return a check of a failure: an ExportError that names the path."""

    def check(found: Any) -> None:
        assert isinstance(found, ExportError), repr(found)
        assert str(path) in str(found)

    return check


@pytest.mark.parametrize("format_", SUFFIXES)
def test_a_failed_export_leaves_the_older_one(
    battery: Battery, faults: Faults, monitor: GenerationMonitor, tmp_path: Path, format_: str
) -> None:
    """In every format; the error names the path, and the job goes on."""
    folder = tmp_path / "exports"
    path = folder / f"export.{SUFFIXES[format_]}"
    fail_everywhere(
        battery, faults, folder, lambda: monitor.export_metrics(path, format_), refuses(path)
    )
    assert monitor.get_total_token_usage().total_tokens == sum(range(300)) + 300


def test_failed_plots_leave_the_older_ones(
    battery: Battery,
    faults: Faults,
    monitor: GenerationMonitor,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They never raise, and the log names the folder's file."""
    folder = tmp_path / "plots"
    monitor.visualize_metrics(folder)
    before = contents(folder)
    assert len(before) > 3
    for error in battery.random.sample(ERRORS, battery.amount(short=1, long=len(ERRORS))):
        for number in (0, 2):
            caplog.clear()
            with faults.failing(folder, number, error, is_lasting=True):
                assert monitor.visualize_metrics(folder, return_figures=True) == {}
            assert contents(folder) == before
            assert str(folder) in caplog.text
    for size in (0, 5_000):
        caplog.clear()
        with full_at(size):
            assert monitor.visualize_metrics(folder, return_figures=True) == {}
        assert contents(folder) == before
        assert "plots were not drawn" in caplog.text


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "{source}", "--html", "{folder}/page.html"],
        ["report", "{source}", "--format", "csv", "--output", "{folder}/report.csv"],
        ["report", "{source}", "--format", "json", "--output", "{folder}/report.json"],
        ["render", "rules", "--out", "{folder}/rules.yml"],
        ["render", "dashboards", "--out", "{folder}/boards"],
        ["render", "runbook", "--out", "{folder}/runbook.md"],
    ],
    ids=lambda arguments: "-".join(arguments[:1] + [each for each in arguments if "." in each])[
        -30:
    ],
)
def test_a_failed_command_leaves_the_older_files(
    battery: Battery,
    faults: Faults,
    monitor: GenerationMonitor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    """Its error names the path, without a traceback."""
    source, folder = tmp_path / "source.json", tmp_path / "out"
    monitor.export_metrics(source)
    argv = [each.format(source=source, folder=folder) for each in arguments]
    (path,) = (each for each in argv if each.startswith(str(folder)))

    def check(code: Any) -> None:
        errors = capsys.readouterr().err
        assert code == 2, (code, errors)
        assert path in errors
        assert "Traceback" not in errors

    def write() -> int:
        return main(argv)

    capsys.readouterr()
    fail_everywhere(battery, faults, folder, write, check)


# --- journals and logs ---------------------------------------------------------------------------


@pytest.mark.parametrize("is_full", [False, True], ids=["errors", "full"])
def test_a_journal_lacks_only_what_had_no_room(
    battery: Battery,
    faults: Faults,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    is_full: bool,
) -> None:
    """Its lines are whole, those that are missing are counted, and the log says it once."""
    caplog.set_level(logging.WARNING)
    folder = tmp_path / "log"
    random = battery.random
    recorded = 0
    from genmeter import JournalConfig

    config = MonitorConfig(journal=JournalConfig(max_bytes=30_000, keep=1_000))
    with (
        fresh_runtime(),
        GenerationMonitor(folder, metrics_interval=None, config=config) as monitor,
    ):
        for _ in range(battery.amount(short=40, long=2_000)):
            for is_faulty in (True, False):
                count = random.randrange(1, 60)
                if is_faulty and is_full:
                    journal = folder / "metrics.jsonl"
                    size = journal.stat().st_size if journal.exists() else 0
                    with full_at(size + random.randrange(4_000)):
                        record(monitor, count)
                elif is_faulty:
                    # Also with a file that was removed, and has to be opened.
                    for path in folder.glob("metrics.jsonl"):
                        path.rename(folder / f"metrics.9{recorded}.jsonl")
                    error = random.choice(ERRORS)
                    with faults.failing(folder, random.randrange(2), error, is_lasting=True):
                        record(monitor, count)
                else:
                    record(monitor, count)
                recorded += count
        errors = monitor._runtime.self_metrics.handler_errors
        lost = sum(value for (name, _), value in errors.items() if name == "FileMetricHandler")
        assert {reason for _, reason in errors} == {"raised"}
        assert monitor.get_total_token_usage().total_tokens == 3 * recorded
    rows = [
        json.loads(line)
        for path in folder.glob("metrics*.jsonl")
        for line in path.read_text().splitlines()
        if line
    ]
    written = sum(row["metric"] == "generation_time" for row in rows)
    assert 0 < lost < recorded
    assert written == recorded - lost
    about = [each for each in caplog.messages if "metrics.jsonl cannot be written" in each]
    assert len(about) == 1
    assert str(folder) in about[0]


def record(monitor: GenerationMonitor, count: int) -> None:
    """Record calls of three tokens, each with a line of the log, and wait for the handlers."""
    for _ in range(count):
        monitor.track_generation(
            0.1, True, model_name="m", prompt_token_count=2, completion_token_count=1
        )
    monitor.flush(60)


# --- the store of a job --------------------------------------------------------------------------

_LIMIT = """
import resource
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, hard))


def flush(monitor):
    try:
        monitor.flush()
    except TimeoutError as error:  # it says that its events are not in the store
        assert "store" in str(error)
"""


def test_a_job_goes_on_beside_a_full_disk(battery: Battery, tmp_path: Path, jobs: Path) -> None:
    """A process whose store has no room records on, says what is missing, and harms no other."""
    random = battery.random
    for turn in range(battery.amount(short=3, long=100)):
        folder = tmp_path / str(turn)
        folder.mkdir()
        env = environment(
            GENMETER_JOB=f"full-{turn}",
            OTEL_METRICS_EXPORTER="prometheus",
            OTEL_EXPORTER_PROMETHEUS_PORT=str(free_port()),
        )
        with Live(folder, "first", env) as first, Live(folder, "second", env) as second:
            counts = [0, 0]
            for number, live in enumerate((first, second)):
                live.do("record(monitor, 5)")
                live.do("monitor.flush()")
                live.do(_LIMIT.format(size="hard"))
                counts[number] += 5
            assert eventually(lambda: first.do("job_token_usage().total_tokens") == 30)
            # More than its log, which is a file too.
            second.do(_LIMIT.format(size=random.randrange(8_000, 40_000)))
            for _ in range(6):
                for number, live in enumerate((first, second)):
                    count = random.randrange(1, 40)
                    model = f"m{random.randrange(1_000)}"
                    live.do(f"record(monitor, {count}, model={model!r})")
                    live.do("flush(monitor)")
                    counts[number] += count
            for number, live in enumerate((first, second)):
                assert live.do("process_token_usage().total_tokens") == 3 * counts[number]
                assert live.do("page(monitor).count('genmeter_generations_total{')") > 0
            total = first.do("job_token_usage().total_tokens")
            assert 3 * counts[0] <= total <= 3 * sum(counts)
            if total < 3 * sum(counts):
                # What the second one could not publish, it knows of.
                said = "cannot be published to its job"
                assert eventually(lambda: said in second.errors)  # noqa: B023
            second.do("resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))")
            assert second.end() == 0
            assert "Traceback" not in second.errors
            # It had room again before its end, and has published all.
            wanted = 3 * sum(counts)
            assert first.do("job_token_usage().total_tokens") == wanted, second.errors
            assert first.end() == 0
            assert "Traceback" not in first.errors
    assert folders(jobs) == []
