"""The provisioning of the servers: mounted files exist and agree with each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from genmeter.report._series_rows import CALL_SERIES, JOB_SERIES
from genmeter.schema.metrics import INSTRUMENTS

DEPLOY = Path(__file__).parents[3] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
VICTORIA = yaml.safe_load((DEPLOY / "compose.victoriametrics.yaml").read_text())
VOLUMES = COMPOSE["volumes"] | VICTORIA["volumes"]
_ADDED: dict[str, dict[str, Any]] = VICTORIA["services"]
SERVICES: dict[str, dict[str, Any]] = {
    **COMPOSE["services"],
    **{name: service for name, service in _ADDED.items() if name != "grafana"},
}
SERVICES["grafana"]["volumes"] += _ADDED["grafana"]["volumes"]  # as docker compose merges them


def mounts(service: str) -> dict[str, Path]:
    """Return the files of deploy/ that a service mounts, by their path in the service."""
    found = {}
    for volume in SERVICES[service]["volumes"]:
        source, inside, *_ = volume.split(":")
        if source.startswith("."):
            found[inside] = (DEPLOY / source).resolve()
        else:
            assert source in VOLUMES, volume
    return found


def read(*parts: str) -> Any:
    """Read a YAML file of deploy/."""
    return yaml.safe_load(DEPLOY.joinpath(*parts).read_text())


@pytest.mark.parametrize("service", SERVICES)
def test_mounted_files_exist_and_images_are_pinned(service: str) -> None:
    """Each path exists, and no image has a moving tag."""
    assert mounts(service)
    assert all(path.exists() for path in mounts(service).values())
    assert re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", SERVICES[service]["image"])


@pytest.mark.parametrize("service", ["prometheus", "alertmanager", "collector"])
def test_services_read_their_mounted_configuration(service: str) -> None:
    """The path on the command line is one of the mounted files."""
    (config,) = (
        word.partition("=")[2]
        for word in SERVICES[service]["command"]
        if word.startswith(("--config.file=", "--config="))
    )
    within = [
        path / config.removeprefix(inside).lstrip("/")
        for inside, path in mounts(service).items()
        if config.startswith(inside)
    ]
    assert any(path.is_file() for path in within)


def test_grafanas_own_provisioning_is_kept() -> None:
    """Files are mounted into its folders, never a folder over them, and all are used."""
    inside = "/etc/grafana/provisioning/"
    mounted = {path: file for path, file in mounts("grafana").items() if path.startswith(inside)}
    assert all(file.is_file() for file in mounted.values())
    assert {file.relative_to(DEPLOY / "grafana" / "provisioning") for file in mounted.values()} == {
        Path(path.removeprefix(inside)) for path in mounted
    }
    shipped = (DEPLOY / "grafana" / "provisioning").rglob("*.yaml")
    assert set(mounted.values()) == set(shipped)


def test_data_sources_are_distinct_and_of_a_type_that_dashboards_select() -> None:
    """The dashboards' variable lists data sources of the type prometheus."""
    prometheus, victoria = (
        source
        for name in ("genmeter", "victoriametrics")
        for source in read("grafana", "provisioning", "datasources", f"{name}.yaml")["datasources"]
    )
    assert prometheus["type"] == victoria["type"] == "prometheus"
    assert prometheus["uid"] != victoria["uid"]
    assert (prometheus["isDefault"], victoria["isDefault"]) == (True, False)
    assert (
        f"-httpListenAddr={victoria['url'].removeprefix('http://')}"
        in (SERVICES["victoriametrics"]["command"])
    )
    assert f"-datasource.url={victoria['url']}" in SERVICES["vmalert"]["command"]


def test_only_start_times_that_nothing_reads_are_dropped() -> None:
    """The shipped scrape jobs drop `_created` of all metrics but those that reports read."""
    read_by_reports = {
        re.sub(r"_(total|bucket|sum|count)$", "", name) for name in CALL_SERIES | JOB_SERIES
    }
    for job in read("prometheus", "prometheus.yml")["scrape_configs"]:
        (rule,) = job["metric_relabel_configs"]
        assert (rule["source_labels"], rule["action"]) == (["__name__"], "drop")
        for row in INSTRUMENTS:
            assert not re.fullmatch(rule["regex"], row.prometheus)
            if row.kind.exposed_as in ("counter", "histogram"):
                family = row.prometheus.removesuffix("_total")
                is_dropped = re.fullmatch(rule["regex"], f"{family}_created") is not None
                assert is_dropped == (family not in read_by_reports), family
        assert not re.fullmatch(rule["regex"], "files_created")


def test_grafana_reads_the_mounted_dashboards() -> None:
    """The provider's path and the home page are in the mounted folder."""
    (provider,) = read("grafana", "provisioning", "dashboards", "genmeter.yaml")["providers"]
    folder = mounts("grafana")[provider["options"]["path"]]
    assert folder == DEPLOY / "grafana" / "dashboards"
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (folder / home.name).is_file()


def test_data_source_has_the_scrape_interval() -> None:
    """Grafana computes its windows from Prometheus's scrape interval."""
    (source,) = read("grafana", "provisioning", "datasources", "genmeter.yaml")["datasources"]
    interval = read("prometheus", "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
    assert source["jsonData"]["exemplarTraceIdDestinations"][0]["name"] == "trace_id"


def test_services_listen_on_loopback_and_agree_on_ports() -> None:
    """Each server connects to the address that another one listens on."""
    prometheus = "127.0.0.1:9090"
    assert f"--web.listen-address={prometheus}" in SERVICES["prometheus"]["command"]
    (source,) = read("grafana", "provisioning", "datasources", "genmeter.yaml")["datasources"]
    assert source["url"] == f"http://{prometheus}"
    collector = read("collector", "config.yaml")
    (exporter,) = collector["exporters"].values()
    jobs = {
        each["job_name"]: each for each in read("prometheus", "prometheus.yml")["scrape_configs"]
    }
    (page,) = jobs["collector"]["static_configs"]
    assert page["targets"] == [exporter["endpoint"]]
    for protocol in collector["receivers"]["otlp"]["protocols"].values():
        assert protocol["endpoint"].startswith("127.0.0.1:")
    (alerting,) = read("prometheus", "prometheus.yml")["alerting"]["alertmanagers"]
    (target,) = alerting["static_configs"][0]["targets"]
    assert f"--web.listen-address={target}" in SERVICES["alertmanager"]["command"]
