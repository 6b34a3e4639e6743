"""The report of a fleet equals the sums of its processes, on real servers."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from _fleet_runner import of_rows, running_job, sums
from _prometheus import Prometheus
from _servers import free_port, request, run
from _victoria import VictoriaMetrics

from _waiting import eventually
from genmeter.cli import main
from genmeter.config.monitor import MonitorConfig
from genmeter.config.prices import PriceTable
from genmeter.errors import ConfigError
from genmeter.report.fleet import read_fleet
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _collector import Collector

    from genmeter.report.usage_table import UsageTable

WINDOW = timedelta(minutes=30)
PATIENCE = 60.0
HOUR = 3600.0


@pytest.fixture(scope="module")
def victoria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaMetrics]:
    """Run a VictoriaMetrics."""
    with VictoriaMetrics(tmp_path_factory.mktemp("victoria")) as server:
        yield server


Store = Prometheus | VictoriaMetrics


@pytest.fixture(params=["prometheus", "prometheus_from_zero", "victoria"])
def store(request: pytest.FixtureRequest) -> Store:
    """Return each kind of server in turn."""
    server: Store = request.getfixturevalue(request.param)
    return server


def read(store: Store, **arguments: Any) -> UsageTable:
    """Read the fleet; other tests share the server, so that rows are selected by job or process."""
    return read_fleet(store.url, window=WINDOW, **arguments)


def wait_for(store: Store, process: str, wanted: dict[str, int]) -> UsageTable:
    """Wait until everything was scraped and can be queried."""
    found: dict[str, Any] = {}

    def is_there() -> bool:
        try:
            found["table"] = read(store)
        except ConfigError as error:  # no samples yet
            found["error"] = error
            return False
        found["sums"] = sums(found["table"], process)
        return bool(found["sums"] == wanted)

    assert eventually(is_there, PATIENCE), (found.get("sums"), wanted, found.get("error"))
    table: UsageTable = found["table"]
    return table


@pytest.mark.parametrize("births", ["created", "plain"])
def test_a_restart_is_exact(store: Store, births: str) -> None:
    """Lives of a process under one address are added, also when the second counted more."""
    port = free_port()
    with running_job(port, births) as job:
        instance = store.add_target(job.url)
        job.run("calls 10")
        wait_for(store, instance, of_rows(job.totals))
        job.run("calls 13")
        first = job.totals
        wait_for(store, instance, of_rows(first))
        job.kill()
    with running_job(port, births) as job:
        job.run("calls 45")
        job.run("rest")
        table = wait_for(store, instance, of_rows(first, job.totals))
        assert any("ended without a last sample" in note for note in table.notes)
        assert any("may still be running" in note for note in table.notes)
        job.finish()
    table = wait_for(store, instance, of_rows(first, job.totals))
    rows = {key: row for key, row in table.rows.items() if key.process == instance}
    buckets = sum(row.buckets[float("inf")] for row in rows.values())
    assert buckets == first["calls"] + job.totals["calls"]
    cost = sum((row.cost or 0.0) for key, row in rows.items() if key.model == "atlas")
    # 7 prompt tokens for 1 USD and 4 completion tokens for 2 USD a million.
    priced = sum(row.prompt_tokens for key, row in rows.items() if key.model == "atlas") // 7
    assert cost == pytest.approx(priced * (7 * 1.0 + 4 * 2.0) / 1e6)
    assert {key.step for key in rows} == {"draft"}


def test_a_two_second_job_with_linger_is_exact(store: Store) -> None:
    """Its last scrape has everything, and says that nothing is missing."""
    before = read_evaluations(store)
    with running_job() as job:
        instance = store.add_target(job.url)
        job.run("calls 20")
        time.sleep(1.0)
        job.run("calls 7")
        job.run("rest")
        job.finish()
    table = wait_for(store, instance, of_rows(job.totals))
    assert table.evaluations.count == before + job.totals["evaluations"]
    assert not [note for note in table.notes if instance in note and "ended without" in note]


def read_evaluations(store: Store) -> int:
    """Return the evaluations of the tests before."""
    try:
        return read(store).evaluations.count
    except ConfigError:
        return 0


# --- pushes ----------------------------------------------------------------------------------------


def pushing(url: str, service: str) -> dict[str, str]:
    """Return the variables of a job that pushes twice a second."""
    return {
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": url,
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "OTEL_SERVICE_NAME": service,
    }


@contextmanager
def push_store(way: str, folder: Path, collector: Collector) -> Iterator[tuple[Store, str]]:
    """Run a server, and yield it with the address to push to."""
    if way == "victoria":
        with VictoriaMetrics(folder, ["-opentelemetry.usePrometheusNaming"]) as server:
            yield server, f"{server.url}/opentelemetry/v1/metrics"
        return
    with Prometheus(folder) as server:
        page = collector.metrics_url.removeprefix("http://").removesuffix("/metrics")
        server.add_job(
            {
                "job_name": "collector",
                "honor_labels": True,
                "static_configs": [{"targets": [page]}],
            }
        )
        yield server, f"{collector.http_endpoint}/v1/metrics"


@pytest.mark.parametrize("way", ["victoria", "collector"])
def test_pushes_of_two_processes_are_exact(way: str, tmp_path: Path, collector: Collector) -> None:
    """One process after another, each with an id of its own."""
    service = f"pushed-to-{way}"
    totals = []
    with push_store(way, tmp_path, collector) as (server, url):
        for count in (20, 31):
            with running_job(environment=pushing(url, service)) as job:
                job.run(f"calls {count}")
                job.run("rest")
                job.finish()
                totals.append(job.totals)
        wanted = of_rows(*totals)

        def seen() -> dict[str, int]:
            try:
                table = read(server)
            except ConfigError:
                return {}
            row = table.group(["job"]).get((service,))
            return {name: getattr(row, name) for name in wanted} if row else {}

        assert eventually(lambda: seen() == wanted, PATIENCE), (seen(), wanted)
        table = read(server)
        processes = [process for job, process in table.group(["job", "process"]) if job == service]
        assert len(processes) == 2
        assert not [note for note in table.notes if "ended without" in note and service in note]


def test_names_that_the_report_does_not_read_are_an_error(tmp_path: Path) -> None:
    """VictoriaMetrics keeps OpenTelemetry's names by default; the error has the setting."""
    with VictoriaMetrics(tmp_path) as server:
        url = f"{server.url}/opentelemetry/v1/metrics"
        with running_job(environment=pushing(url, "dots")) as job:
            job.run("calls 20")
            job.finish()
        message = "-opentelemetry.usePrometheusNaming"

        def error() -> str:
            with pytest.raises(ConfigError) as caught:
                read(server)
            return str(caught.value)

        assert eventually(lambda: message in error(), PATIENCE), error()


# --- a job that ended an hour ago ------------------------------------------------------------------


def recorded(began: float, instance: str) -> tuple[dict[str, list[tuple[float, str]]], int]:
    """Record a job of five minutes at 15 s between scrapes, with a restart.

    Returns:
        Times and values by series, and the calls that were recorded.
    """
    config = MonitorConfig(prices=PriceTable({"atlas": (1.0, 2.0)}))
    series: dict[str, list[tuple[float, str]]] = defaultdict(list)
    calls = 0
    for life in range(2):
        with isolated_monitor(config) as monitor:
            for scrape in range(10):
                at = began + 15.0 * (10 * life + scrape)
                for _ in range(scrape * (life + 1)):
                    monitor.track_generation(0.25, True, model_name="atlas", prompt_token_count=7)
                    calls += 1
                for line in monitor.page().splitlines():
                    if not line or line.startswith("#"):
                        continue
                    name, value = line.rsplit(" ", 1)
                    name, _, labels = name.partition("{")
                    if name.endswith("_created"):
                        value = repr(began + 150.0 * life - 1.0)
                    own = f'job="backfilled",instance="{instance}"'
                    rest = labels.removesuffix("}")
                    key = f"{name}{{{own},{rest}}}" if rest else f"{name}{{{own}}}"
                    series[key].append((at, value))
    return series, calls


def as_openmetrics(series: dict[str, list[tuple[float, str]]]) -> str:
    """Return the samples as a file for promtool."""
    families: dict[str, list[str]] = defaultdict(list)
    for name, samples in series.items():
        lines = [f"{name} {value} {at:.3f}" for at, value in samples]
        families[name.partition("{")[0]] += lines
    blocks = ("\n".join([f"# TYPE {name} unknown", *each]) for name, each in families.items())
    return "\n".join([*blocks, "# EOF\n"])


def as_text(series: dict[str, list[tuple[float, str]]]) -> str:
    """Return the samples as Prometheus text with times."""
    return "".join(
        f"{name} {value} {round(at * 1000)}\n"
        for name, samples in series.items()
        for at, value in samples
    )


def test_a_job_that_ended_an_hour_ago_in_prometheus(tmp_path: Path, promtool: str) -> None:
    """Blocks that were filled afterwards are read as scrapes are."""
    began = time.time() - HOUR - 300.0
    series, calls = recorded(began, "10.0.0.1:9464")
    file = tmp_path / "samples.om"
    file.write_text(as_openmetrics(series))
    folder = tmp_path / "server"
    folder.mkdir()
    done = run(promtool, "tsdb", "create-blocks-from", "openmetrics", file, folder / "data")
    assert done.returncode == 0, done.stdout
    with Prometheus(folder) as server:
        check_backfilled(server, calls, began)


def test_a_job_that_ended_an_hour_ago_in_victoria_metrics(victoria: VictoriaMetrics) -> None:
    """Imported samples are read as scrapes are."""
    began = time.time() - HOUR - 300.0
    series, calls = recorded(began, "10.0.0.1:9464")
    victoria.add_samples(as_text(series))
    check_backfilled(victoria, calls, began)


def check_backfilled(store: Store, calls: int, began: float) -> None:
    """Compare a day, and a window that begins within the job."""

    def seen() -> int:
        try:
            table = read_fleet(store.url, window=timedelta(days=1))
        except ConfigError:
            return 0
        row = table.group(["job"]).get(("backfilled",))
        return row.calls if row else 0

    assert eventually(lambda: seen() == calls, PATIENCE), (seen(), calls)
    table = read_fleet(store.url, window=timedelta(days=1))
    row = table.group(["job"])["backfilled",]
    assert row.prompt_tokens == 7 * calls
    assert row.cost == pytest.approx(7e-6 * calls)
    assert any("ended without a last sample" in note for note in table.notes)
    # From after the fifth scrape of the first life, 10 of its 45 calls, to the fifth of the second.
    window = timedelta(seconds=150)
    inside = read_fleet(store.url, window=window, end=began + 14 * 15 + 1)
    assert inside.group(["job"])["backfilled",].calls == 45 - 10 + 20


# --- the ways to a server --------------------------------------------------------------------------


def test_the_command_reports_a_fleet(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    """By job and model, as JSON."""
    with running_job() as job:
        instance = prometheus.add_target(job.url, run="command")
        job.run("calls 20")
        job.finish()
    wait_for(prometheus, instance, of_rows(job.totals))
    arguments = ["--window", "30m", "--by", "process,model", "--format", "json"]
    assert main(["report", f"prometheus={prometheus.url}", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["model"]: row["calls"] for row in found["rows"] if row["process"] == instance} == {
        "atlas": 10,
        "sprint": 10,
    }
    assert (found["source"], found["quantiles"]) == ("prometheus", "estimated")


def test_a_process_that_is_scraped_twice_is_counted_once(store: Store) -> None:
    """Two targets of one process have the births of the same series, or its id."""
    with running_job() as job:
        instance = store.add_target(job.url, replica="a")
        store.add_target(job.url, replica="b")
        job.run("calls 20")
        assert request("GET", job.url)[0] == 200
        table = wait_for(store, instance, of_rows(job.totals))
        assert eventually(
            lambda: any(
                "replica=" in note and "counted once" in note for note in read(store).notes
            ),
            PATIENCE,
        ), table.notes
        assert sums(read(store), instance) == of_rows(job.totals)
