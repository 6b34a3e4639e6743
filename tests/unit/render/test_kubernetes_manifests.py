"""The manifests for Kubernetes agree with each other, with the rules and with the renderer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from genmeter.cli import main
from genmeter.config.alerts import AlertSettings
from genmeter.config.monitor import EndpointConfig
from genmeter.errors import ConfigError
from genmeter.render.grafana.files import render_config_maps, render_dashboards
from genmeter.render.kubernetes import Metadata
from genmeter.render.rules import render_rules

DEPLOY = Path(__file__).parents[3] / "deploy"
BASE = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
OPTIONS = ("--namespace", "monitoring", "--label", "release=kube-prometheus-stack")
METADATA = Metadata(namespace="monitoring", labels={"release": "kube-prometheus-stack"})


def resources(*names: str) -> list[dict[str, Any]]:
    """Return the resources of files."""
    return [
        resource
        for name in names
        for resource in yaml.safe_load_all((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())
    ]


def of_kind(kind: str, *names: str) -> dict[str, Any]:
    """Return the only resource of a kind."""
    (found,) = (each for each in resources(*names) if each["kind"] == kind)
    return found


# --- the base --------------------------------------------------------------------------------------


def test_the_base_has_every_file_but_the_example() -> None:
    """Its resources and dashboards exist, below its folder, and none is missing."""
    paths = {DEPLOY / each for each in BASE["resources"]}
    assert all(path.is_file() for path in paths)
    shipped = set((DEPLOY / "kubernetes").glob("*.yaml"))
    assert shipped - paths == {DEPLOY / "kubernetes" / "job.yaml"}
    assert paths - shipped == {DEPLOY / "prometheus" / "rules-kubernetes.yml"}
    generated = {each["name"]: each["files"] for each in BASE["configMapGenerator"]}
    assert generated == {
        name.removesuffix(".json"): [f"grafana/dashboards/{name}"]
        for name in render_dashboards(AlertSettings())
    }


def test_dashboards_of_the_base_are_those_of_the_renderer() -> None:
    """Both have the label that Grafana's sidecar selects, and genmeter's own."""
    labels = BASE["generatorOptions"]["labels"]
    for text in render_config_maps(AlertSettings()).values():
        assert yaml.safe_load(text)["metadata"]["labels"] == labels


def test_pods_of_the_example_are_scraped() -> None:
    """Selector, job label and port of the PodMonitor are those of the example's pods."""
    monitor, job = of_kind("PodMonitor", "podmonitor")["spec"], of_kind("Job", "job")["spec"]
    labels = job["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["jobLabel"] in labels
    (endpoint,) = monitor["podMetricsEndpoints"]
    (container,) = job["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {endpoint["port"]: 9464}
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["OTEL_EXPORTER_PROMETHEUS_HOST"] == "0.0.0.0"
    linger = float(environment["GENMETER_ENDPOINT_LINGER"])
    assert 0 < linger < job["template"]["spec"]["terminationGracePeriodSeconds"]
    assert EndpointConfig(linger=linger).linger == linger


def test_services_are_scraped_as_pods_are() -> None:
    """Both monitors differ only in what they discover."""
    pods, services = (
        of_kind(kind, name)["spec"]
        for kind, name in (("PodMonitor", "podmonitor"), ("ServiceMonitor", "servicemonitor"))
    )
    assert {**pods, "endpoints": pods["podMetricsEndpoints"]} == {
        **services,
        "podMetricsEndpoints": services["endpoints"],
    }


def test_monitors_drop_what_the_scrape_jobs_drop() -> None:
    """Start times are dropped by the expression of prometheus.yml, and classic histograms kept."""
    (rule,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())[
        "scrape_configs"
    ][0]["metric_relabel_configs"]
    found = resources("podmonitor", "servicemonitor", "collector")
    monitors = [each["spec"] for each in found if each["kind"].endswith("Monitor")]
    assert len(monitors) == 3
    for spec in monitors:
        assert spec["scrapeClassicHistograms"]
        assert spec["scrapeProtocols"][0] == "OpenMetricsText1.0.0"
        (endpoint,) = spec.get("endpoints") or spec["podMetricsEndpoints"]
        *_, last = endpoint["metricRelabelings"]
        assert last["regex"] == rule["regex"]


def test_the_collector_is_one_unit() -> None:
    """Service and ServiceMonitor select it, and ports have the same numbers everywhere."""
    deployment, service, monitor, config = (
        of_kind(kind, "collector")
        for kind in ("Deployment", "Service", "ServiceMonitor", "ConfigMap")
    )
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()
    assert monitor["spec"]["selector"]["matchLabels"].items() <= (
        service["metadata"]["labels"].items()
    )
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {port["targetPort"]: port["port"] for port in service["spec"]["ports"]}
    (endpoint,) = monitor["spec"]["endpoints"]
    settings = yaml.safe_load(config["data"]["config.yaml"])
    protocols = settings["receivers"]["otlp"]["protocols"]
    listening = [protocols["grpc"], protocols["http"], settings["exporters"]["prometheus"]]
    assert [int(each["endpoint"].rpartition(":")[2]) for each in listening] == [
        ports[name] for name in ("otlp-grpc", "otlp-http", endpoint["port"])
    ]
    assert endpoint["honorLabels"]
    assert template["spec"]["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]


def test_the_collector_is_the_one_of_the_compose_file() -> None:
    """Same release and exporter; the listening addresses differ."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["collector"]
    (container,) = of_kind("Deployment", "collector")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == compose["image"]
    own = yaml.safe_load((DEPLOY / "collector" / "config.yaml").read_text())
    found = of_kind("ConfigMap", "collector")["data"]["config.yaml"].replace("0.0.0.0", "127.0.0.1")
    assert yaml.safe_load(found) == own


def test_a_dead_collector_is_reported_by_default() -> None:
    """Its scrape job has the name that the rules expect."""
    monitor, service = (of_kind(kind, "collector") for kind in ("ServiceMonitor", "Service"))
    job = service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    assert (job,) == AlertSettings().collectors


# --- the renderer ----------------------------------------------------------------------------------


def test_rules_have_namespace_and_labels_of_the_options(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    """The operator selects rules by labels, in a namespace."""
    assert main(["render", "rules", "--format", "kubernetes", *OPTIONS]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert text == render_rules(AlertSettings(), "kubernetes", METADATA)
    assert yaml.safe_load(text)["metadata"] == {
        "name": "genmeter",
        "namespace": "monitoring",
        "labels": {"app.kubernetes.io/name": "genmeter", "release": "kube-prometheus-stack"},
    }


def test_dashboards_are_rendered_as_config_maps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has one dashboard unchanged, and fits the limits of Kubernetes."""
    options = ["--format", "kubernetes", *OPTIONS, "--label", "grafana_dashboard=mine"]
    assert main(["render", "dashboards", *options, "--suffix", "a", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    plain = render_dashboards(AlertSettings(suffix="a"))
    assert {path.stem for path in tmp_path.iterdir()} == {
        name.removesuffix(".json") for name in plain
    }
    for path in tmp_path.iterdir():
        resource = yaml.safe_load(path.read_text())
        assert (resource["apiVersion"], resource["kind"]) == ("v1", "ConfigMap")
        assert resource["metadata"]["name"] == path.stem
        assert resource["metadata"]["namespace"] == "monitoring"
        assert resource["metadata"]["labels"]["grafana_dashboard"] == "mine"
        ((name, text),) = resource["data"].items()
        assert text == plain[name]
        # `kubectl apply` keeps a copy in an annotation, of at most 256 KiB.
        assert len(json.dumps(resource)) < 250_000


@pytest.mark.parametrize("namespace", ["", "A", "a_b", "-a", "a" * 64, "a\n"])
def test_a_namespace_must_be_valid(namespace: str) -> None:
    """The error has the value."""
    with pytest.raises(ConfigError, match=re.escape(f"got {namespace!r}")):
        Metadata(namespace=namespace)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", "a"),
        ("a b", "c"),
        ("a", "b c"),
        ("A.b/", "c"),
        ("x/y/z", "a"),
        ("a", "-"),
        ("a" * 64, "b"),
        ("a", "b\n"),
    ],
)
def test_a_label_must_be_valid(key: str, value: str) -> None:
    """The error has name and value."""
    with pytest.raises(ConfigError, match=re.escape(f"got {key!r} with {value!r}")):
        Metadata(labels={key: value})


def test_labels_may_have_a_prefix_and_no_value() -> None:
    """As Kubernetes allows."""
    labels = {"example.com/team": "", "a-b.c_d": "E.f"}
    assert Metadata(labels=labels).of("n")["labels"].items() >= labels.items()


def test_a_label_without_a_value_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The error has an example."""
    with pytest.raises(SystemExit, match="2"):
        main(["render", "rules", "--label", "release"])
    assert "must be KEY=VALUE, got 'release'" in capsys.readouterr().err
