"""Settings of engines that empty the dashboards, and where genmeter says so."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from _engines import FEATURES, RECEIVERS, Shipped, get, scrape_job
from _fleet_runner import running_job
from _prometheus import NEWEST, OLDEST
from _servers import LOOPBACK, ROOT, free_port, program, run

from _waiting import eventually
from genmeter.errors import ConfigError
from genmeter.report.fleet import read_fleet

if TYPE_CHECKING:
    from pathlib import Path

WINDOW = timedelta(minutes=30)
PATIENCE = 60.0
REMEDY = "translation_strategy: UnderscoreEscapingWithSuffixes"
HISTOGRAM = "gen_ai_client_inference_duration_seconds"
OTLP = ROOT / "deploy" / "prometheus" / "prometheus-otlp.yml"


@pytest.mark.parametrize(
    "strategy",
    ["NoUTF8EscapingWithSuffixes", "UnderscoreEscapingWithoutSuffixes", "NoTranslation"],
)
def test_another_translation_strategy_is_an_error_with_the_remedy(
    strategy: str, tmp_path: Path
) -> None:
    """With names that are not those of a scrape the report names the setting."""
    with Shipped(
        tmp_path,
        FEATURES,
        release=NEWEST,
        flags=("--web.enable-otlp-receiver",),
        settings={"otlp": {"translation_strategy": strategy}, "scrape_configs": []},
        globals_={},
    ) as server:
        environment = {
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{server.url}/{RECEIVERS['oldest']}",
        }
        with running_job(environment=environment) as job:
            job.run("calls 20")
            job.finish()

        def error() -> str:
            try:
                read_fleet(server.url, window=WINDOW)
            except ConfigError as caught:
                return str(caught)
            return ""

        assert eventually(lambda: REMEDY in error(), PATIENCE), error()


def test_the_shipped_strategy_is_that_remedy() -> None:
    """deploy/ has the strategy that the error names, and which works."""
    assert f"\n  {REMEDY}\n" in OTLP.read_text(encoding="utf-8")


@pytest.mark.parametrize("release", [OLDEST, NEWEST])
@pytest.mark.parametrize("is_shipped", [True, False])
def test_converted_histograms_keep_the_classic_ones(
    release: str, *, is_shipped: bool, tmp_path: Path
) -> None:
    """The shipped scrape job keeps classic histograms; without its setting the report says so."""
    port = free_port()
    job = scrape_job("genmeter", {"counted": f"http://{LOOPBACK}:{port}/metrics"})
    assert job["always_scrape_classic_histograms"] is True
    if not is_shipped:
        del job["always_scrape_classic_histograms"]
    with (
        running_job(port) as running,
        Shipped(
            tmp_path,
            # Without it 3.5 does not store them.
            (*FEATURES, "native-histograms"),
            release=release,
            interval="1s",
            settings={"scrape_configs": [job]},
            globals_={"convert_classic_histograms_to_nhcb": True},
        ) as server,
    ):
        running.run("calls 20")

        def series(name: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = get(server.url, "query", query=name)["result"]
            return found

        assert eventually(lambda: series(HISTOGRAM), PATIENCE)
        assert bool(series(f"{HISTOGRAM}_bucket")) == is_shipped
        notes = read_fleet(server.url, window=WINDOW).notes
        said = any("always_scrape_classic_histograms: true" in note for note in notes)
        assert said != is_shipped


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
    assert "otlp" not in run(program("prometheus"), "--help").stdout
