"""OpenTelemetry's instrumentor for AfterImage, with a fake package of that name."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from genmeter import ConfigError, GenerationMonitor, patch
from genmeter.instrumentor import AfterImageInstrumentor
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MONITORING = """
class GenerationMonitor:
    def __init__(self, log_dir=None):
        self.log_dir = log_dir
"""
JOB = """
from afterimage.monitoring import GenerationMonitor
monitor = GenerationMonitor()
monitor.track_generation(1.0, True, model_name='atlas', total_token_count=976)
print(isinstance(monitor, __import__('genmeter').GenerationMonitor))
"""


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fake AfterImage can be imported during a test."""
    package = tmp_path / "afterimage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "monitoring.py").write_text(MONITORING)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = unload()
    with fresh_runtime():
        yield
        if patch._installs:
            AfterImageInstrumentor().uninstrument()
    unload()
    sys.modules.update(before)


def unload() -> dict[str, Any]:
    """Remove AfterImage from `sys.modules`."""
    names = [name for name in sys.modules if name.partition(".")[0] == "afterimage"]
    return {name: sys.modules.pop(name) for name in names}


def monitor_class() -> Any:
    """The class under AfterImage's name."""
    return importlib.import_module("afterimage.monitoring").GenerationMonitor


def test_it_is_found_by_its_entry_point() -> None:
    """`opentelemetry-instrument` loads it by the name of the package."""
    (found,) = entry_points(group="opentelemetry_instrumentor", name="afterimage")
    assert found.load() is AfterImageInstrumentor
    assert AfterImageInstrumentor().instrumentation_dependencies() == ("afterimage >= 0.18.0",)


def test_metrics_are_recorded_with_the_passed_provider() -> None:
    """Settings come from the variables."""
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    AfterImageInstrumentor().instrument(meter_provider=provider, skip_dep_check=True)
    monitor = monitor_class()()
    assert isinstance(monitor, GenerationMonitor)
    monitor.track_generation(1.0, success=True, model_name="atlas", total_token_count=976)
    data: Any = reader.get_metrics_data()
    (tokens,) = [
        point.value
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "genmeter.tokens"
        for point in metric.data.data_points
    ]
    assert tokens == 976
    assert monitor.endpoint_url is None
    provider.shutdown()


def test_uninstrumenting_restores_afterimages_monitor() -> None:
    """Nothing remains of the instrumentation."""
    old = monitor_class()
    instrumentor = AfterImageInstrumentor()
    for _ in range(2):
        instrumentor.instrument(skip_dep_check=True)
        assert issubclass(monitor_class(), GenerationMonitor)
        instrumentor.uninstrument()
        assert monitor_class() is old
        assert type(old("folder")) is old


def test_an_invalid_variable_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception would stop later instrumentations."""
    monkeypatch.setenv("GENMETER_MAX_MODELS", "few")
    AfterImageInstrumentor().instrument(skip_dep_check=True)
    (message,) = [record.getMessage() for record in caplog.records if record.name == "genmeter"]
    assert (
        "ignoring all GENMETER_* variables: GENMETER_MAX_MODELS must be a whole number" in message
    )
    assert isinstance(monitor_class()(), GenerationMonitor)


def test_an_invalid_provider_is_an_error() -> None:
    """Nothing is replaced."""
    with pytest.raises(ConfigError, match="meter_provider"):
        AfterImageInstrumentor().instrument(skip_dep_check=True, meter_provider="nobody's")
    assert patch._installs == []
    assert not AfterImageInstrumentor().is_instrumented_by_opentelemetry


def test_the_error_without_the_extra_has_the_remedy() -> None:
    """The import error has the pip command."""
    code = (
        "import sys; sys.modules['opentelemetry.instrumentation.instrumentor'] = None\n"
        "import genmeter.instrumentor\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert 'pip install "genmeter[instrument]"' in done.stderr.splitlines()[-1]


def test_the_last_events_are_in_the_last_push(tmp_path: Path) -> None:
    """The monitor's exit hook runs before the SDK's, which was registered first."""
    code = (
        "from opentelemetry import metrics\n"
        "from opentelemetry.sdk.metrics import MeterProvider\n"
        "from opentelemetry.sdk.metrics.export import (\n"
        "    ConsoleMetricExporter, PeriodicExportingMetricReader)\n"
        "reader = PeriodicExportingMetricReader(ConsoleMetricExporter(), 3_600_000)\n"
        "metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))\n"
        "from genmeter.instrumentor import AfterImageInstrumentor\n"
        "AfterImageInstrumentor().instrument(skip_dep_check=True)\n" + JOB
    )
    (tmp_path / "job.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "job.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("True\n")
    assert '"value": 976' in done.stdout
