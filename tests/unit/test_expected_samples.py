"""How many samples a job is to make, where the environment says it."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genmeter import runtime

NAME = "genmeter_job_samples_expected"


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[runtime.Runtime]:
    """Return a process that is to make 100 samples and listens nowhere."""
    monkeypatch.setenv("GENMETER_EXPECTED_SAMPLES", "100")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "0")
    with fresh_runtime() as made:
        yield made


def expected(process: runtime.Runtime) -> list[float]:
    """Read the gauge from the page."""
    lines = process.render(openmetrics=False).decode().split("\n")
    return [float(line.split()[-1]) for line in lines if line.startswith(f"{NAME} ")]


def test_the_environments_number_is_the_processs_however_many_monitors_it_has(
    process: runtime.Runtime,
) -> None:
    """AfterImage makes a monitor for every generator, and the job is one all the same."""
    first, second, third = GenerationMonitor(), GenerationMonitor(), GenerationMonitor()
    assert expected(process) == [100]
    del first
    gc.collect()
    fourth = GenerationMonitor()
    assert expected(process) == [100]
    for monitor in (second, third, fourth):
        monitor.shutdown()


def test_what_code_says_wins_over_the_environment(process: runtime.Runtime) -> None:
    """The expected samples of one monitor are those of the job, beside monitors without a number."""
    quiet = EndpointConfig(enabled=False)
    plain = GenerationMonitor()
    numbered = [
        GenerationMonitor(config=MonitorConfig(expected_samples=count, endpoint=quiet))
        for count in (30, 12)
    ]
    assert expected(process) == [42]
    for monitor in (plain, *numbered):
        monitor.shutdown()
