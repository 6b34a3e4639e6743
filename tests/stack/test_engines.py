"""The dashboards, rules and reports on each engine and by each way in, fed by the same job at once.

The data come from the job of the dashboards' test, and from one that counts what it records. The
table in docs/engines.md has what was found: `make engines` writes it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from _collector import Collector
from _dashboard_job import ODD_MODEL, RARE
from _engines import CELLS, Cell, Engines
from _fleet_runner import of_rows, running_job
from _matrix import (
    PAST,
    RULES_ONCE,
    Column,
    active,
    active_once,
    check_annotations,
    check_exemplars,
    check_queries,
    check_rules,
    check_variables,
    gaps,
    on_page,
    queries,
    series_of,
    table,
    write_page,
)
from _servers import LOOPBACK, free_port, poll

from _waiting import eventually
from genmeter.errors import ConfigError
from genmeter.report._series_rows import CALL_SERIES, JOB_SERIES
from genmeter.report.fleet import read_fleet

if TYPE_CHECKING:
    from collections.abc import Iterator

JOB = Path(__file__).with_name("_dashboard_job.py")
NIGHTLY, COUNTED = "nightly", "counted"
SETTLED = 240.0
SPEED = 2.0  # of the job: the servers need the processor too
PAUSE = 0.5  # seconds between two looks, which take as long as a scrape
PATIENCE = 120.0
WINDOW = timedelta(minutes=75)
SAMPLES = 42
VARIABLES = {
    "job": {NIGHTLY, COUNTED},
    "model": {ODD_MODEL, "atlas-mini", "quill-judge"},
    "step": {"question_generation", "deduplication"},
}
RECEIVING = ("newest", "victoria")  # engines that receive pushes
REFERENCE = ("newest", "scrape")
EXACT = (
    "genmeter_generations_total",
    "genmeter_tokens_total",
    "genmeter_cost_usd_total",
    "genmeter_evaluations_total",
    "gen_ai_client_inference_duration_seconds_count",
    "gen_ai_client_inference_duration_seconds_sum",
    "gen_ai_client_inference_duration_seconds_bucket",
    "genmeter_conversation_length_sum",
)
MONOTONIC = ("_total", "_count", "_sum", "_bucket")
RESOURCE = ("otel_scope", "scope_", "service_", "telemetry_")
AGREEING = (
    "genmeter_generations_total",
    "genmeter_tokens_total",
    "gen_ai_client_inference_duration_seconds_count",
    "genmeter_evaluations_total",
    "genmeter_monitor_events_total",
)
STEP = 60.0  # seconds between two points of a panel
WITHIN = 40.0  # seconds of the second process
# Seconds between two samples; a push in ten is refused, and a Collector is scraped another second later.
EVERY = {"scrape": 1.0, "native": 1.0, "collector": 3.0, "otlp": 2.0, "15s": 2.0, "60s": 5.0}
SCRAPED = [key for key in CELLS if key[1] in ("scrape", "native")]
WITHOUT_ZEROS = (("oldest", "native"), ("victoria", "scrape"))
KEYS = [f"{engine}-{way}" for engine, way in CELLS]


class Recorded(NamedTuple):
    """The servers with the series of both jobs.

    Attributes:
        cells: By engine and way.
        start: Unix time before the jobs.
        end: Unix time of the last look.
        totals: What the counting job recorded.
        errors: The pushes that a server did not accept.
    """

    cells: dict[tuple[str, str], Cell]
    start: float
    end: float
    totals: dict[str, int]
    errors: list[str]


class Nightly:
    """The job of the dashboards' test, which can be killed and started again."""

    def __init__(self, port: int, endpoint: str, log: Path) -> None:
        self._port = port
        self._environment = {**os.environ, **pushing(endpoint, NIGHTLY)}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, processes: str) -> None:
        """Start it with "several" processes or "one"."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, JOB, str(self._port), processes, str(SPEED)],
                stdout=output,
                stderr=output,
                env=self._environment,
            )

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait_for(self, cell: Cell, *conditions: str) -> None:
        """Wait until each expression is above zero."""

        def missing() -> list[str]:
            time.sleep(PAUSE)
            at = time.time()
            now = at if cell.stretch is None else cell.stretch.at(at)
            return [
                each
                for each in conditions
                if not cell.get("query", query=f"{each} > 0", time=now)["result"]
            ]

        ready, found = poll(missing, lambda left: not left, SETTLED)
        assert ready, (cell.key, found, self._log.read_text()[-500:])


def pushing(endpoint: str, service: str) -> dict[str, str]:
    """Return the variables of a job that is scraped and pushes each second."""
    return {
        "OTEL_METRICS_EXPORTER": "prometheus,otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "10000",
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        "OTEL_SERVICE_NAME": service,
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """Run both jobs, the first of which is killed and started again, and yield the servers."""
    folder = tmp_path_factory.mktemp("engines")
    ports = {job: free_port() for job in (NIGHTLY, COUNTED)}
    pages = {job: f"http://{LOOPBACK}:{port}/metrics" for job, port in ports.items()}
    with ExitStack() as stack:
        settings = {"enable_open_metrics": True}
        collector = stack.enter_context(Collector(folder, settings))
        engines = Engines(stack, folder, collector, pages)
        start = time.time()
        nightly = Nightly(ports[NIGHTLY], engines.fan.endpoint, folder / "nightly.log")
        stack.callback(nightly.kill)
        environment = pushing(engines.fan.endpoint, COUNTED)
        counted = stack.enter_context(running_job(ports[COUNTED], "created", environment))
        nightly.start("several")
        counted.run("calls 40")
        for cell in engines.cells.values():
            died = "genmeter_job_last_death_timestamp_seconds"
            nightly.wait_for(cell, f"sum(count_over_time({died}[30m])) - 2")
        counted.run("calls 31")
        nightly.kill()
        nightly.start("one")
        nightly.wait_for(engines.cells[REFERENCE], "sum(resets(genmeter_monitor_events_total[5m]))")
        for cell in engines.cells.values():
            if cell.stretch is None:
                nightly.wait_for(
                    cell,
                    *(f"sum(increase({series}[1m]))" for series in RARE),
                    "sum(genmeter_alerts_firing)",
                    f'max(count_over_time(genmeter_build_info{{job="{NIGHTLY}"}}[5m])) - {SAMPLES}',
                )
        counted.run("rest")
        end = time.time()
        for cell in engines.cells.values():
            cell.read_rules()
            # It may end once each has its last counts: only one scrape after it is waited for.
            wanted = of_rows(counted.totals)
            assert eventually(lambda: counts(cell) == wanted, PATIENCE), (cell.key, counts(cell))  # noqa: B023
        counted.finish()
        yield Recorded(engines.cells, start, end, of_rows(counted.totals), engines.fan.errors)


def counts(cell: Cell) -> dict[str, int]:
    """Return what the counting job counted, from the report of a fleet."""
    try:
        report = read_fleet(cell.server.url, window=WINDOW)
    except ConfigError:  # no samples yet
        return {}
    row = report.group(["job"]).get((COUNTED,))
    names = ("calls", "failures", "cancelled", "calls_without_usage", "prompt_tokens")
    return {name: getattr(row, name) for name in (*names, "total_tokens")} if row else {}


@pytest.fixture(scope="module")
def columns(recorded: Recorded) -> dict[tuple[str, str], dict[str, Column]]:
    """Return the columns of each cell."""
    found = {}
    for key, cell in recorded.cells.items():
        view = cell.view(recorded.start, recorded.end)
        counted = counts(cell)
        wrong = [] if counted == recorded.totals else [(counted, recorded.totals)]
        found[key] = {
            "queries": check_queries(cell, view),
            "variables": check_variables(cell, view, VARIABLES),
            "annotations": check_annotations(cell, view),
            "exemplars": check_exemplars(cell, view),
            "rules": check_rules(cell, view.end),
            "report": Column(errors=list(wrong)),
        }
    return found


@pytest.mark.parametrize(
    "what", ["queries", "variables", "annotations", "exemplars", "rules", "report"]
)
@pytest.mark.parametrize("key", CELLS, ids=KEYS)
def test_only_what_cannot_have_data_is_empty(
    recorded: Recorded,
    columns: dict[tuple[str, str], dict[str, Column]],
    key: tuple[str, str],
    what: str,
) -> None:
    """Each query, variable, annotation and rule has data, and what has none has its reason."""
    column, cell = columns[key][what], recorded.cells[key]
    assert not column.errors
    expected = {name for gap in gaps(what, cell) for name in gap.names}
    assert set(column.empty) == expected
    if what == "rules":
        assert column.total == len(RULES_ONCE)


@pytest.mark.parametrize("key", CELLS, ids=KEYS)
def test_last_values_of_a_finished_job_are_equal(recorded: Recorded, key: tuple[str, str]) -> None:
    """Each counter of a finished job ends with the same value everywhere."""
    expected = last_values(recorded.cells[REFERENCE])
    assert {name for name, _ in expected} >= set(EXACT) - {"genmeter_cost_usd_total"}
    found = last_values(recorded.cells[key])
    assert sorted(map(str, found.items() - expected.items())) == []
    assert sorted(map(str, expected.items() - found.items())) == []


def last_values(cell: Cell) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the last values of the counting job's counters, by name and labels."""
    found = {}
    for name in EXACT:
        query = f'sum without (instance) (last_over_time({name}{{job="{COUNTED}"}}[75m]))'
        for each in cell.get("query", query=query)["result"]:
            labels = each["metric"].items()
            # Of a push there are more; of OTLP's bounds, fewer digits.
            own = frozenset(
                (label, str(float(text)) if label == "le" else text)
                for label, text in labels
                if not label.startswith(RESOURCE)
            )
            found[name, own] = float(each["value"][1])
    return found


@pytest.mark.parametrize("key", CELLS, ids=KEYS)
def test_no_counter_of_a_job_that_was_not_restarted_is_reset(
    recorded: Recorded, key: tuple[str, str]
) -> None:
    """A start time that is later than its sample would look like a restart."""
    cell = recorded.cells[key]
    view = cell.view(recorded.start, recorded.end)
    times = {"start": view.start, "end": view.end, "match[]": f'{{job="{COUNTED}"}}'}
    names = cell.get("label/__name__/values", **times)
    counters = [name for name in names if name.endswith(MONOTONIC)]
    assert set(counters) >= set(EXACT)
    for name in counters:
        query = f'sum(resets({name}{{job="{COUNTED}"}}[75m]))'
        (found,) = cell.get("query", query=query)["result"]
        assert float(found["value"][1]) == 0, name


@pytest.mark.parametrize("key", SCRAPED, ids="-".join)
def test_start_times_that_nothing_reads_are_not_stored(
    recorded: Recorded, key: tuple[str, str]
) -> None:
    """With the feature Prometheus needs no `_created` series; others keep those of the report."""
    cell = recorded.cells[key]
    view = cell.view(recorded.start, recorded.end)
    times = {"start": view.start, "end": view.end, "match[]": '{__name__=~".+_created"}'}
    found = set(cell.get("label/__name__/values", **times))
    if key in WITHOUT_ZEROS:
        read = {
            re.sub("_(total|bucket|sum|count)$", "_created", name)
            for name in CALL_SERIES | JOB_SERIES
        }
        assert found
        assert found <= read
    else:
        assert found == set()


@pytest.mark.parametrize("key", CELLS, ids=KEYS)
def test_increases_agree_within_extrapolation(recorded: Recorded, key: tuple[str, str]) -> None:
    """An increase within the life of a process is that of a scrape, but for an interval at each end."""
    reference, cell = recorded.cells[REFERENCE], recorded.cells[key]
    tolerance = 2 * (EVERY[cell.way] + EVERY[reference.way]) / WITHIN
    for name in AGREEING:
        expected, found = (increase(each, recorded, name) for each in (reference, cell))
        assert found == pytest.approx(expected, rel=tolerance), name


def test_increases_of_the_same_samples_agree(recorded: Recorded) -> None:
    """Engines that have equal samples differ by what Prometheus extrapolates, at most an interval."""
    for name in AGREEING:
        first, second = (
            increase(recorded.cells[engine, "15s"], recorded, name) for engine in RECEIVING
        )
        assert first == pytest.approx(second, rel=2 * EVERY["15s"] / WITHIN), name


def increase(cell: Cell, recorded: Recorded, name: str) -> float:
    """Return the increase of a counter of the nightly job in the last seconds of its time."""
    end = cell.view(recorded.start, recorded.end).end
    scale = 1.0 if cell.stretch is None else cell.stretch.factor
    query = f'sum(increase({name}{{job="{NIGHTLY}"}}[{round(WITHIN * scale)}s]))'
    (series,) = cell.get("query", query=query, time=end)["result"]
    return float(series["value"][1])


def test_alerts_are_equal_on_each_engine_and_way(recorded: Recorded) -> None:
    """The same alerts of the nightly job are pending or firing everywhere."""
    found = {cell.key: active(cell, NIGHTLY) for cell in recorded.cells.values() if cell.alerting}
    expected = found["newest-scrape"]
    assert len(expected) > 8
    assert {key: alerts ^ expected for key, alerts in found.items() if alerts != expected} == {}


def test_alerts_of_pushes_each_minute_are_those_of_faster_ones(recorded: Recorded) -> None:
    """The windows of rules have enough samples of both, on each engine."""
    found = {
        f"{engine}-{way}": active_once(cell, cell.view(recorded.start, recorded.end).end, NIGHTLY)
        for (engine, way), cell in recorded.cells.items()
        if way in PAST
    }
    expected = found["newest-15s"]
    assert len(expected) > 5
    assert {key: alerts ^ expected for key, alerts in found.items() if alerts != expected} == {}


@pytest.mark.parametrize("engine", RECEIVING)
def test_panels_of_pushes_each_minute_are_as_full_as_of_faster_ones(
    recorded: Recorded, engine: str
) -> None:
    """They have the same points, if the data source has the interval of the pushes.

    A series that begins between two pushes is there an interval later, and has a rate after another.
    """
    fast, slow = (
        points(recorded.cells[engine, way], recorded, step=STEP) for way in ("15s", "60s")
    )
    assert fast.keys() == slow.keys()
    late = 2 * 60.0 + STEP  # times are those of a grid
    missing = {
        key: lost
        for key in fast
        if (
            lost := [
                at for at in fast[key] - slow[key] if at - beginning(fast[key], at, STEP) >= late
            ]
        )
    }
    assert missing == {}


def beginning(times: set[float], at: float, step: float) -> float:
    """Return the first of the times that lead to one without a gap."""
    while at - step in times:
        at -= step
    return at


def test_a_time_interval_shorter_than_the_push_interval_empties_panels(recorded: Recorded) -> None:
    """On Prometheus windows have one sample; VictoriaMetrics also reads the one before."""
    thin = {}
    for engine in RECEIVING:
        cell = recorded.cells[engine, "60s"]
        full, found = (
            points(cell, recorded, step=STEP),
            points(cell, recorded, step=STEP, seconds=15.0),
        )
        thin[engine] = [key for key in full if len(found[key]) < len(full[key]) / 2]
    assert len(thin["newest"]) > 30
    assert thin["victoria"] == []


def points(
    cell: Cell, recorded: Recorded, step: float, seconds: float | None = None
) -> dict[tuple[str, str, str], set[float]]:
    """Return the times at which each panel's query of a rate has a value.

    Args:
        cell: The engine and way.
        recorded: The time of the view.
        step: Seconds between two points.
        seconds: The data source's `timeInterval`; None is that of the cell.
    """
    view = cell.view(recorded.start, recorded.end)
    # All queries of a view have the same times, of whole milliseconds.
    view = replace(
        view,
        start=float(round(view.start)),
        step=step,
        scrape_interval=seconds or cell.interval,
    )
    return {
        (name, panel["title"], target["refId"]): {
            at for each in series_of(cell, view, name, panel, target) for at, _ in each["values"]
        }
        for name, panel, target in queries()
        if not target.get("instant") and re.search(r"\b(rate|increase)\(", target["expr"])
    }


def test_every_push_is_accepted(recorded: Recorded) -> None:
    """No server refused a push or a part of it."""
    assert recorded.errors == []


def test_the_table_of_the_docs_is_as_found(
    recorded: Recorded, columns: dict[tuple[str, str], dict[str, Column]]
) -> None:
    """docs/engines.md has the table of this run, or it is written if GENMETER_WRITE_ENGINES is set."""
    found = table(columns, recorded.cells.values())
    if os.environ.get("GENMETER_WRITE_ENGINES"):
        write_page(found)
    assert on_page() == found, "run `make engines`, and look at what changed"
