"""The Collector's configuration in deploy/ is valid for the pinned release."""

from __future__ import annotations

import re

from _servers import ROOT, program, run


def test_the_collector_configuration_is_valid() -> None:
    """The Collector accepts all receivers, exporters and settings."""
    config = ROOT / "deploy" / "collector" / "config.yaml"
    done = run(program("otelcol-genmeter"), "validate", "--config", config)
    assert done.returncode == 0, done.stdout


def test_the_pinned_collector_is_the_tested_release() -> None:
    """The image in compose.yaml has the release of the Collector in the tests."""
    found = run(program("otelcol-genmeter"), "--version").stdout
    release = re.search(r"\d+\.\d+\.\d+", found)
    assert release is not None, found
    compose = (ROOT / "deploy" / "compose.yaml").read_text()
    assert f"otel/opentelemetry-collector:{release[0]}\n" in compose
