"""The Collector's configuration in deploy/, read by a Collector of the release that is pinned."""

from __future__ import annotations

import re

from _servers import ROOT, program, run


def test_the_collector_takes_its_configuration() -> None:
    """Receivers, exporters and their settings are ones that the Collector knows."""
    config = ROOT / "deploy" / "collector" / "config.yaml"
    done = run(program("otelcol-genmeter"), "validate", "--config", config)
    assert done.returncode == 0, done.stdout


def test_the_collector_that_is_pinned_is_the_one_that_took_it() -> None:
    """The image has the release of the Collector that the tests run."""
    found = run(program("otelcol-genmeter"), "--version").stdout
    release = re.search(r"\d+\.\d+\.\d+", found)
    assert release is not None, found
    compose = (ROOT / "deploy" / "compose.yaml").read_text()
    assert f"otel/opentelemetry-collector:{release[0]}\n" in compose
