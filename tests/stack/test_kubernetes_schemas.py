"""The resources for the Prometheus Operator conform to its schemas, and the Collector's configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from _servers import ROOT, program, run

from genmeter.config.alerts import AlertSettings
from genmeter.render.kubernetes import Metadata
from genmeter.render.rules import render_rules

if TYPE_CHECKING:
    from pathlib import Path

DEPLOY = ROOT / "deploy"
CRDS = ROOT / ".servers" / "crds"
FILES = [
    "kubernetes/podmonitor.yaml",
    "kubernetes/servicemonitor.yaml",
    "kubernetes/collector.yaml",
    "prometheus/rules-kubernetes.yml",
]


def schema_of(kind: str) -> dict[str, Any]:
    """Return the schema of a kind, which allows no field that it does not name."""
    path = CRDS / f"{kind.lower()}s.yaml"
    if not path.exists():
        pytest.fail(f"{path} is missing: run `make servers`, then the tests again")
    (version,) = yaml.safe_load(path.read_text())["spec"]["versions"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    # The API server has the schema of metadata.
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return schema


def strict(schema: Any) -> Any:
    """Return a schema in which unknown fields are errors, as for `kubectl apply --validate=strict`."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(each) for key, each in schema.items()}
    if "properties" in found and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def errors(resource: dict[str, Any]) -> list[str]:
    """Return the errors of a resource of the operator."""
    validator = jsonschema.Draft202012Validator(schema_of(resource["kind"]))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(resource)]


@pytest.mark.parametrize("name", FILES)
def test_resources_conform_to_their_schemas(name: str) -> None:
    """No field is unknown, missing or of another type."""
    found = [
        resource
        for resource in yaml.safe_load_all((DEPLOY / name).read_text())
        if resource["apiVersion"] == "monitoring.coreos.com/v1"
    ]
    assert found
    for resource in found:
        assert errors(resource) == []


def test_rules_with_options_conform_to_their_schema() -> None:
    """Namespace, labels, grouping and native histograms change nothing."""
    settings = AlertSettings(
        cost_budget=1.0,
        jobs=("nightly",),
        group_by=("namespace",),
        histograms="native",
        suffix="a",
        runbook_url="https://wiki.example.com/genmeter",
    )
    metadata = Metadata(namespace="monitoring", labels={"release": "a"})
    assert errors(yaml.safe_load(render_rules(settings, "kubernetes", metadata))) == []


def test_errors_are_detected() -> None:
    """A field of another type, and one that is unknown, are errors."""
    resource = yaml.safe_load((DEPLOY / FILES[0]).read_text())
    resource["spec"]["podMetricsEndpoints"][0] |= {"honorLabels": "yes", "intervall": "15s"}
    assert len(errors(resource)) == 2


def test_the_configuration_of_the_collector_is_valid(tmp_path: Path) -> None:
    """The Collector accepts what the ConfigMap has."""
    resources = yaml.safe_load_all((DEPLOY / "kubernetes" / "collector.yaml").read_text())
    (config,) = (each for each in resources if each["kind"] == "ConfigMap")
    path = tmp_path / "config.yaml"
    path.write_text(config["data"]["config.yaml"])
    done = run(program("otelcol-genmeter"), "validate", "--config", path)
    assert done.returncode == 0, done.stdout
