"""Settings of engines that empty the dashboards or make numbers wrong, and where genmeter says so."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import pytest
from _engines import (
    FEATURES,
    NATIVE_FEATURES,
    RECEIVERS,
    RELEASES,
    VICTORIA_FLAGS,
    Shipped,
    get,
    scrape_job,
    shipped,
)
from _fleet_runner import running_job
from _prometheus import NEWEST, OLDEST
from _servers import LOOPBACK, ROOT, free_port, program, request, run
from _victoria import VictoriaMetrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from _waiting import eventually
from genmeter.errors import ConfigError
from genmeter.report.fleet import read_fleet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from _collector import Collector

    from genmeter.report.usage_table import UsageTable

WINDOW = timedelta(minutes=30)
PATIENCE = 60.0
REMEDY = "translation_strategy: UnderscoreEscapingWithSuffixes"
HISTOGRAM = "gen_ai_client_inference_duration_seconds"
CALLS = "genmeter_generations_total"
OTLP = ROOT / "deploy" / "prometheus" / "prometheus-otlp.yml"
DELTA = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}
EXPONENTIAL = {
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"
}
FLAGS = (*VICTORIA_FLAGS, "-search.latencyOffset=0s")
NO_RELABELLING = tuple(each for each in FLAGS if not each.startswith("-relabelConfig"))


class Pushed(NamedTuple):
    """A server to which a job has pushed.

    Attributes:
        url: The server's address.
        calls: The calls that the job recorded.
    """

    url: str
    calls: int

    def value(self, query: str) -> float | None:
        """Return the value of an instant query of one series; None without one."""
        found = get(self.url, "query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None

    def count(self, selector: str) -> int:
        """Return the number of series that were stored lately."""
        return int(self.value(f"count(last_over_time({selector}[10m]))") or 0)

    def report(self) -> UsageTable:
        """Return the report of the fleet."""
        return read_fleet(self.url, window=WINDOW)

    def has_all(self) -> bool:
        """Return whether the report has all calls."""
        try:
            return self.report().total().calls == self.calls
        except ConfigError:  # not stored yet
            return False

    def notes(self, text: str) -> list[str]:
        """Return the notes of the report with a text."""
        return [note for note in self.report().notes if text in note]


def receiving(folder: Path, features: Sequence[str] = FEATURES, **settings: object) -> Shipped:
    """Return a Prometheus with the shipped receiver, but for some settings of it."""
    config = shipped("prometheus-otlp.yml")
    return Shipped(
        folder,
        features,
        release=NEWEST,
        flags=("--web.enable-otlp-receiver",),
        settings={
            "otlp": {**config["otlp"], **settings},
            "storage": config["storage"],
            "scrape_configs": [],
        },
        globals_={},
    )


def receiver(server: Shipped | VictoriaMetrics) -> str:
    """Return the address of a server's receiver."""
    return (
        f"{server.url}/{RECEIVERS['victoria' if isinstance(server, VictoriaMetrics) else 'newest']}"
    )


@contextmanager
def pushed(
    server: Shipped | VictoriaMetrics,
    variables: Mapping[str, str] | None = None,
    *,
    is_base: bool = False,
) -> Iterator[Pushed]:
    """Run a server, and a job that pushes three times, after more and after fewer calls, and ends.

    Args:
        server: The server.
        variables: Further variables of the job.
        is_base: Whether the job has the address to which exporters append a path.
    """
    with server:
        address = receiver(server)
        environment = {
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            **(
                {"OTEL_EXPORTER_OTLP_ENDPOINT": address.removesuffix("/v1/metrics")}
                if is_base
                else {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": address}
            ),
            # A push that is refused is not repeated for long.
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1000",
            "OTEL_METRIC_EXPORT_INTERVAL": "600000",
            "OTEL_SERVICE_NAME": "counted",
            **(variables or {}),
        }
        with running_job(environment=environment) as job:
            for count in (20, 30, 10):
                job.run(f"calls {count}")
                job.run("push")
            job.finish()
            if isinstance(server, VictoriaMetrics):
                # Otherwise a query that comes too early finds nothing for ten seconds more.
                assert request("GET", f"{server.url}/internal/force_flush")[0] == 200
            yield Pushed(server.url, job.totals["calls"])


@pytest.mark.parametrize(
    "strategy",
    ["NoUTF8EscapingWithSuffixes", "UnderscoreEscapingWithoutSuffixes", "NoTranslation"],
)
def test_another_translation_strategy_is_an_error_with_the_remedy(
    strategy: str, tmp_path: Path
) -> None:
    """With names that are not those of a scrape the report names the setting."""
    with pushed(receiving(tmp_path, translation_strategy=strategy)) as found:

        def error() -> str:
            try:
                found.report()
            except ConfigError as caught:
                return str(caught)
            return ""

        assert eventually(lambda: REMEDY in error(), PATIENCE), error()


def test_the_shipped_strategy_is_that_remedy() -> None:
    """deploy/ has the strategy that the error names, and which works."""
    assert f"\n  {REMEDY}\n" in OTLP.read_text(encoding="utf-8")


@pytest.mark.parametrize("engine", ["oldest", "newest"])
@pytest.mark.parametrize("is_shipped", [True, False])
def test_converted_histograms_keep_the_classic_ones(
    engine: str, *, is_shipped: bool, tmp_path: Path
) -> None:
    """The shipped scrape job keeps classic histograms; without its setting the report says so."""
    with converting(engine, NATIVE_FEATURES[engine], tmp_path, is_shipped=is_shipped) as found:
        assert eventually(lambda: found.count(HISTOGRAM), PATIENCE)
        assert bool(found.count(f"{HISTOGRAM}_bucket")) == is_shipped
        assert bool(found.notes("always_scrape_classic_histograms: true")) != is_shipped


@contextmanager
def converting(
    engine: str, features: Sequence[str], folder: Path, *, is_shipped: bool
) -> Iterator[Pushed]:
    """Run a Prometheus that converts histograms and scrapes a job, and yield it."""
    port = free_port()
    job = scrape_job("genmeter", {"counted": f"http://{LOOPBACK}:{port}/metrics"})
    assert job["always_scrape_classic_histograms"] is True
    if not is_shipped:
        del job["always_scrape_classic_histograms"]
    with (
        running_job(port) as running,
        Shipped(
            folder,
            features,
            release=RELEASES[engine],
            interval="1s",
            settings={"scrape_configs": [job]},
            globals_={"convert_classic_histograms_to_nhcb": True},
        ) as server,
    ):
        running.run("calls 20")
        yield Pushed(server.url, 20)


def test_the_oldest_release_scrapes_nothing_if_it_converts_with_start_times(tmp_path: Path) -> None:
    """Not even `up` is stored, so that no rule sees it: only its log says so."""
    with converting("oldest", FEATURES, tmp_path, is_shipped=True) as found:
        log = tmp_path / "prometheus.log"
        assert eventually(lambda: "at the same time" in log.read_text(), PATIENCE)
        assert "error reloading target set" in log.read_text()
        assert found.count("up") == 0


def test_converted_histograms_of_pushes_are_noted(tmp_path: Path) -> None:
    """The receiver's option empties what the scrapes' option does."""
    assert shipped("prometheus-otlp.yml")["otlp"]["convert_histograms_to_nhcb"] is False
    with pushed(receiving(tmp_path, convert_histograms_to_nhcb=True)) as found:
        assert eventually(found.has_all, PATIENCE)
        assert found.count(f"{HISTOGRAM}_bucket") == 0
        assert found.notes("convert_histograms_to_nhcb: false")


@pytest.mark.parametrize("engine", ["newest", "victoria"])
def test_exponential_histograms_are_noted(engine: str, tmp_path: Path) -> None:
    """They have no classic buckets, neither in Prometheus nor, with `vmrange`, in VictoriaMetrics."""
    with pushed(started(engine, tmp_path), EXPONENTIAL) as found:
        assert eventually(found.has_all, PATIENCE)
        assert found.count(f'{HISTOGRAM}_bucket{{le!=""}}') == 0
        assert found.notes("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION")
        assert not found.notes("counted once")


def started(engine: str, folder: Path) -> Shipped | VictoriaMetrics:
    """Return an engine that receives pushes, as shipped."""
    return receiving(folder) if engine == "newest" else VictoriaMetrics(folder, FLAGS)


def test_prometheus_refuses_differences(tmp_path: Path) -> None:
    """Each push fails, which the job logs and counts."""
    with pushed(receiving(tmp_path), DELTA) as found:
        assert found.count(CALLS) == 0
        with pytest.raises(ConfigError, match="no metrics of genmeter"):
            found.report()


def test_prometheus_adds_differences_up_with_a_feature(tmp_path: Path) -> None:
    """With `otlp-deltatocumulative` the sums are exact."""
    features = (*FEATURES, "otlp-deltatocumulative")
    with pushed(receiving(tmp_path, features), DELTA) as found:
        assert eventually(found.has_all, PATIENCE)
        assert not found.notes("TEMPORALITY_PREFERENCE")


def test_the_collector_adds_differences_up(collector: Collector) -> None:
    """Its page has sums."""
    environment = collector.environment("http/protobuf", "differences")
    with running_job(environment={**environment, **DELTA}) as job:
        for count in (20, 30, 10):
            job.run(f"calls {count}")
            job.run("push")
        job.finish()
        total = job.totals["calls"]
    collector.wait_for(CALLS, lambda found: found == total, job="differences")


def test_differences_in_victoria_metrics_are_wrong_and_noted(tmp_path: Path) -> None:
    """It stores them as they are: only the fall within one process shows it."""
    with pushed(VictoriaMetrics(tmp_path, FLAGS), DELTA) as found:
        assert eventually(lambda: found.count(CALLS), PATIENCE)
        assert eventually(lambda: found.notes("TEMPORALITY_PREFERENCE=cumulative"), PATIENCE)
        report = found.report()
        assert 0 < report.total().calls < found.calls
        assert not report.is_complete


@pytest.mark.parametrize("is_relabelled", [True, False])
def test_pushes_to_victoria_metrics_need_the_relabelling(
    *, is_relabelled: bool, tmp_path: Path
) -> None:
    """Without it no series has a label `job`, by which rules and dashboards group; the report says so."""
    flags = FLAGS if is_relabelled else NO_RELABELLING
    with pushed(VictoriaMetrics(tmp_path, flags)) as found:
        assert eventually(found.has_all, PATIENCE)
        labels = {"job", "instance"}
        for label in labels:
            assert bool(found.count(f'{CALLS}{{{label}!=""}}')) == is_relabelled
        assert bool(found.notes("no label `job`")) != is_relabelled


@pytest.mark.parametrize("engine", ["newest", "victoria"])
def test_the_namespace_of_a_service_is_part_of_the_job(engine: str, tmp_path: Path) -> None:
    """Both engines give the same label; the base address of exporters works as well."""
    server = started(engine, tmp_path)
    with pushed(
        server, {"OTEL_RESOURCE_ATTRIBUTES": "service.namespace=team"}, is_base=True
    ) as found:
        assert eventually(found.has_all, PATIENCE)
        assert found.count(f'{CALLS}{{job="team/counted"}}') == found.count(CALLS) > 0
        (job,) = found.report().group(["job"])
        assert job == ("team/counted",)


def test_the_defaults_of_the_receiver_give_the_names_of_a_scrape(tmp_path: Path) -> None:
    """A configuration without the section `otlp` is as the shipped one."""
    server = receiving(tmp_path)
    del server._settings["otlp"]
    with pushed(server) as found:
        assert eventually(found.has_all, PATIENCE)
        assert found.count(f"{HISTOGRAM}_bucket")


@pytest.mark.parametrize("has_window", [True, False])
def test_a_late_push_needs_the_shipped_window(*, has_window: bool, tmp_path: Path) -> None:
    """Prometheus refuses samples older than the last, unless it has a window for them."""
    config = shipped("prometheus-otlp.yml")
    assert config["storage"]["tsdb"]["out_of_order_time_window"]
    server = receiving(tmp_path)
    if not has_window:
        del server._settings["storage"]
    with server:
        now = time.time()
        statuses = [
            request(
                "POST",
                receiver(server),
                gauge("late_seconds", at),
                {"Content-Type": "application/x-protobuf"},
            )[0]
            for at in (now, now - 120)
        ]
        assert statuses[0] == 200
        assert (statuses[1] == 200) == has_window


def gauge(name: str, at: float) -> bytes:
    """Return a push of one gauge at a time."""
    push = ExportMetricsServiceRequest()
    resource = push.resource_metrics.add()
    attribute = resource.resource.attributes.add(key="service.name")
    attribute.value.string_value = "late"
    metric = resource.scope_metrics.add().metrics.add(name=name)
    metric.gauge.data_points.add(time_unix_nano=round(at * 1e9), as_double=1.0)
    return push.SerializeToString()


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-otlp.yml"])
def test_shipped_configurations_are_valid_for_the_newest_release(name: str) -> None:
    """Its promtool accepts each configuration and its rules, with every lint."""
    path = ROOT / "deploy" / "prometheus" / name
    done = run(program("promtool-newest"), "check", "config", "--lint=all", path)
    assert done.returncode == 0, done.stdout
    assert "1 rule files found" in done.stdout


def test_the_shipped_scrape_configuration_is_valid_for_victoria_metrics() -> None:
    """VictoriaMetrics reads it, if it may ignore what it does not know."""
    path = ROOT / "deploy" / "prometheus" / "prometheus.yml"
    command = (program("victoria-metrics"), "-dryRun", f"-promscrape.config={path}")
    assert run(*command).returncode != 0
    done = run(*command, "-promscrape.config.strictParse=false")
    assert done.returncode == 0, done.stdout


def test_the_shipped_relabelling_is_valid() -> None:
    """VictoriaMetrics reads it."""
    path = ROOT / "deploy" / "victoriametrics" / "relabel.yml"
    done = run(program("victoria-metrics"), "-dryRun", f"-relabelConfig={path}")
    assert done.returncode == 0, done.stdout


def test_the_shipped_rules_are_valid_for_vmalert() -> None:
    """Vmalert reads them."""
    path = ROOT / "deploy" / "prometheus" / "rules.yml"
    done = run(program("vmalert"), "-dryRun", f"-rule={path}")
    assert done.returncode == 0, done.stdout


def test_debians_prometheus_has_no_otlp_receiver() -> None:
    """Why docs/engines.md has no row of pushes to it."""
    assert "otlp" not in run(program(OLDEST), "--help").stdout
