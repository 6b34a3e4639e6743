"""What several processes of a job cost each of them: budgets, publishing, and the merged page.

Checks and reservations run in a process that is alone and in one of a named job, with reservations of
others; publishing 1,000 dirty cells beside the same with all and with none to publish; a page of 8
processes with 1,000 label sets each, and the first one, beside that of one process with 1,000.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from _measure import seconds, side_by_side
from _table import Aim, Row, at_most, figure_of, print_aims, print_table

from genmeter import EndpointConfig, GenerationMonitor, LabelLimits, MonitorConfig
from genmeter.job.merged import Merger
from genmeter.job.usage_rows import totals_of
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.synchronize import Barrier

    from genmeter import Budget

ROUNDS = 7
CALLS = 500
PROCESSES, LABEL_SETS, CELLS = 8, 1_000, 1_000
CHECK = "A check of a budget, has_room()"
RESERVATION = "A reservation and its end"
PUBLISHING = f"Publishing {CELLS:,} dirty cells"
PAGE = f"A page of {LABEL_SETS:,} label sets"
ALONE, JOINED, MONITOR = "of the job, alone", "of the job, one of two processes", "of the monitor"
ONE, ALL = "one process alone", f"the job's, merged from {PROCESSES} processes"
FIRST = f"the job's first one, which reads all of the {PROCESSES} processes"


def run() -> list[Row]:
    """Measure all of it."""
    with tempfile.TemporaryDirectory() as folder, _environment(folder):
        return [*_budgets(), *_publishing(), *_pages()]


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    before = os.environ.get("OTEL_METRICS_EXPORTER")
    os.environ["OTEL_METRICS_EXPORTER"] = "prometheus"
    found, tempfile.tempdir = tempfile.tempdir, folder
    try:
        yield
    finally:
        tempfile.tempdir = found
        os.environ.pop("OTEL_METRICS_EXPORTER")
        if before is not None:
            os.environ["OTEL_METRICS_EXPORTER"] = before


@contextmanager
def _monitor(job: str | None) -> Iterator[GenerationMonitor]:
    config = MonitorConfig(
        job=job,
        endpoint=EndpointConfig(enabled=False),
        limits=LabelLimits(models=LABEL_SETS + 1, steps=LABEL_SETS + 1),
    )
    with fresh_runtime(), GenerationMonitor(config=config) as monitor:
        yield monitor


def _record(monitor: GenerationMonitor, label_sets: int) -> None:
    for number in range(label_sets):
        monitor.track_generation(
            0.1 + number / 1e4,
            True,
            model_name=f"model-{number % 50}",
            step=f"step-{number // 50}",
            prompt_token_count=900 + number,
            completion_token_count=100,
        )


# --- budgets -----------------------------------------------------------------------------------


def _budgets() -> list[Row]:
    rows: list[Row] = []
    with ExitStack() as closing:
        budgets: dict[str, Budget] = {}
        for name, job in ((ALONE, None), (JOINED, "budget")):
            monitor = closing.enter_context(_monitor(job))
            _record(monitor, 10)
            budgets[name] = monitor.budget(tokens=10**12, scope="job")
            if job is None:
                budgets[MONITOR] = monitor.budget(tokens=10**12)
            else:
                _add_other(monitor)
        ordered = {name: budgets[name] for name in (JOINED, ALONE, MONITOR)}
        for group, function in ((CHECK, _check), (RESERVATION, _reserve)):
            ways = {name: partial(function, budget) for name, budget in ordered.items()}
            rows += [
                Row(group, name, each.min, ratio=each.ratio)
                for name, each in side_by_side(ways, ROUNDS).items()
            ]
    return rows


def _add_other(monitor: GenerationMonitor) -> None:
    """Add the usage and the reservations of another process."""
    job = monitor._runtime.job
    store = job.require_store()
    assert store is not None  # noqa: S101 - it is named
    assert job._members is not None  # noqa: S101
    number = store.add_process(0, job._members.own or 0)
    store.publish(number, (), totals_of(monitor.get_total_token_usage()))
    store.reserve(number, (), (), lambda _: [(10**15 + each, 100, 0.0) for each in range(8)])


def _check(budget: Budget) -> float:
    return seconds(lambda: [budget.has_room() for _ in range(CALLS)]) / CALLS


def _reserve(budget: Budget) -> float:
    def reserve() -> None:
        for _ in range(CALLS):
            with budget.reserve(tokens=100):
                pass

    return seconds(reserve) / CALLS


# --- publishing --------------------------------------------------------------------------------


def _publishing() -> list[Row]:
    with _monitor("publishing") as monitor:
        _record(monitor, LABEL_SETS)
        monitor.flush(60)
        job = monitor._runtime.job
        changes = job._publisher.changes
        assert changes is not None  # noqa: S101 - it has a provider
        series = changes.series()

        def make_dirty(count: int) -> None:
            for each in series[:count]:
                each.forget()

        def published(count: int) -> float:
            make_dirty(count)
            return seconds(job._publish)

        ways: dict[str, Callable[[], float]] = {
            f"{CELLS:,} of {len(series):,} cells": partial(published, CELLS),
            f"all {len(series):,}": partial(published, len(series)),
            "none": partial(published, 0),
        }
        return [
            Row(PUBLISHING, name, each.min, ratio=each.ratio)
            for name, each in side_by_side(ways, ROUNDS).items()
        ]


# --- the page ----------------------------------------------------------------------------------


def _other_process(barrier: Barrier, folder: str) -> None:
    tempfile.tempdir = folder
    with _monitor("page") as monitor:
        _record(monitor, LABEL_SETS)
        monitor.flush(60)
        barrier.wait(120)
        barrier.wait(600)


def _pages() -> list[Row]:
    context: Any = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    folder = tempfile.gettempdir()
    others = [
        context.Process(target=_other_process, args=(barrier, folder), daemon=True)
        for _ in range(PROCESSES - 1)
    ]
    for process in others:
        process.start()
    with ExitStack() as closing:
        alone, joined = (closing.enter_context(_monitor(job)) for job in (None, "page"))
        for monitor in (alone, joined):
            _record(monitor, LABEL_SETS)
            monitor.flush(60)
        barrier.wait(120)
        ways = {
            name: partial(seconds, partial(monitor._runtime.render, False))
            for name, monitor in ((ONE, alone), (ALL, joined))
        }
        ways[FIRST] = partial(seconds, partial(_first, joined))
        rows = [
            Row(PAGE, name, each.min, ratio=each.ratio)
            for name, each in side_by_side(ways, ROUNDS).items()
        ]
        barrier.wait(120)
        for process in others:
            process.join(60)
    return rows


def _first(monitor: GenerationMonitor) -> None:
    """Render a page as a process does that has not asked before."""
    job = monitor._runtime.job
    assert job.store is not None  # noqa: S101 - it is named
    job._merger = Merger(job.store)
    monitor._runtime.render(False)


def aims(rows: list[Row]) -> list[Aim]:
    """Compare the figures with the aims."""
    first = next(row.subject for row in rows if row.group == PUBLISHING)
    ratio = next(row.ratio for row in rows if (row.group, row.subject) == (PAGE, ALL))
    return [
        at_most(
            "a check of a budget of the job: at most 0.1 ms",
            figure_of(rows, CHECK, JOINED),
            1e-4,
            "s",
        ),
        at_most(
            "a reservation and its end, without contention: at most 0.1 ms",
            figure_of(rows, RESERVATION, JOINED),
            1e-4,
            "s",
        ),
        at_most(
            f"publishing {CELLS:,} dirty cells: at most 5 ms",
            figure_of(rows, PUBLISHING, first),
            5e-3,
            "s",
        ),
        at_most(
            f"a page of {PROCESSES} processes: at most 1.3 times that of one", ratio or 0.0, 1.3
        ),
    ]


if __name__ == "__main__":
    measured = run()
    print_table(measured)
    print_aims(aims(measured))
