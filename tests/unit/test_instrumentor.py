"""OpenTelemetry's instrumentor for AfterImage, with a fake package of that name."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _auto_fakes import write_client, write_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider, sampling

from _measured import measured
from genmeter import ConfigError, GenerationMonitor, patch
from genmeter.instrumentor import AfterImageInstrumentor, GenAIInstrumentor
from genmeter.monitor import open_monitors
from genmeter.spans.sampling import RecordCalls
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

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


# --- spans ---------------------------------------------------------------------------------------

INSTRUMENT = str(Path(sys.executable).parent / "opentelemetry-instrument")
OFFICIAL = "opentelemetry.instrumentation.genai.cohere"
CALLS = "import cohere\nfor _ in range(3):\n    cohere.chat('atlas')\n"


def instrumented(folder: Path, script: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a script under `opentelemetry-instrument`, with an instrumented client."""
    write_client(folder, "cohere")
    write_instrumentation(folder, OFFICIAL, "cohere", distribution="official")
    # The entry point is in the metadata of the installed package, which may be older than this code.
    info = folder / "genmeter_entry_points-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: genmeter-entry-points\nVersion: 1\n"
    )
    (info / "entry_points.txt").write_text(
        "[opentelemetry_instrumentor]\na_genmeter = genmeter.instrumentor:GenAIInstrumentor\n"
    )
    (folder / "job.py").write_text(script)
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "GENMETER_"))
    }
    settings = {
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_METRICS_EXPORTER": "console",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run(
        [INSTRUMENT, sys.executable, "job.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**clean, **measured(), **settings, **environ},
        timeout=100,
        check=False,
    )


def tokens(text: str) -> list[int]:
    """The values of the counter of tokens in what the console exporter printed."""
    found = []
    for line in text.splitlines():
        if line.startswith("{") and '"resource_metrics"' in line:
            found += _tokens(json.loads(line))
    if not found and '"resource_metrics"' in text:
        start = text.rindex('{\n    "resource_metrics"')
        found += _tokens(json.JSONDecoder().raw_decode(text[start:])[0])
    return found


def _tokens(data: Any) -> list[int]:
    return [
        point["value"]
        for resource in data["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
        if metric["name"] == "genmeter.tokens"
        for point in metric["data"]["data_points"]
    ]


def test_the_entry_point_of_spans_is_declared() -> None:
    """Beside that of AfterImage."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["opentelemetry_instrumentor"] == {
        "afterimage": "genmeter.instrumentor:AfterImageInstrumentor",
        "genmeter": "genmeter.instrumentor:GenAIInstrumentor",
    }
    assert GenAIInstrumentor().instrumentation_dependencies() == ()


def test_opentelemetry_instrument_records_the_calls_in_spans(tmp_path: Path) -> None:
    """On the application's MeterProvider, with nothing in the script."""
    found = instrumented(tmp_path, CALLS)
    assert found.returncode == 0, found.stderr
    assert sum(tokens(found.stdout)) == 102
    assert found.stdout.count('"name": "chat atlas"') == 3
    assert "genmeter" not in found.stderr


def test_spans_that_are_not_sampled_are_recorded(tmp_path: Path) -> None:
    """They are not exported, and a warning says which calls cannot be seen."""
    found = instrumented(tmp_path, CALLS, OTEL_TRACES_SAMPLER="always_off")
    assert found.returncode == 0, found.stderr
    assert sum(tokens(found.stdout)) == 102
    assert '"name": "chat atlas"' not in found.stdout
    assert "sampler AlwaysOffSampler drops" in found.stderr


def test_a_budget_of_the_variables_stops_the_job(tmp_path: Path) -> None:
    """A call is refused before its span begins."""
    script = CALLS.replace("range(3)", "range(50)")
    found = instrumented(tmp_path, script, GENMETER_BUDGET_TOKENS="100")
    assert found.returncode == 1
    assert "BudgetExceededError: budget of 100 tokens of the job is spent: 102 used" in found.stderr
    assert sum(tokens(found.stdout)) == 102


def test_passed_providers_are_read() -> None:
    """As of other instrumentors."""
    provider = TracerProvider()
    reader = InMemoryMetricReader()
    instrumentor = GenAIInstrumentor()
    meters = MeterProvider(metric_readers=[reader])
    instrumentor.instrument(tracer_provider=provider, meter_provider=meters)
    try:
        call(provider)
        (monitor,) = open_monitors()
        assert monitor.get_total_token_usage().total_tokens == 34
    finally:
        instrumentor.uninstrument()
    call(provider)
    assert monitor.get_total_token_usage().total_tokens == 34
    meters.shutdown()
    provider.shutdown()


def test_uninstrumenting_gives_the_sampler_back() -> None:
    """Also to tracers; and instrumenting again reads the provider again."""
    provider = TracerProvider(sampler=sampling.ALWAYS_OFF)
    tracer = provider.get_tracer("test")
    reader = InMemoryMetricReader()
    meters = MeterProvider(metric_readers=[reader])
    instrumentor = GenAIInstrumentor()
    for turn in (1, 2):
        instrumentor.instrument(tracer_provider=provider, meter_provider=meters)
        try:
            assert provider.sampler is not sampling.ALWAYS_OFF
            call(provider)
            (monitor,) = open_monitors()
            assert monitor.get_total_token_usage().total_tokens == 34 * turn
        finally:
            instrumentor.uninstrument()
        assert provider.sampler is tracer.sampler is sampling.ALWAYS_OFF  # type: ignore[attr-defined]
    meters.shutdown()
    provider.shutdown()


def test_a_sampler_of_the_jobs_own_stays() -> None:
    """One that the job has wrapped itself is none of the instrumentor's."""
    provider = TracerProvider(sampler=RecordCalls(sampling.ALWAYS_OFF))
    before = provider.sampler
    instrumentor = GenAIInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    instrumentor.uninstrument()
    assert provider.sampler is before
    provider.shutdown()


def call(provider: TracerProvider) -> None:
    """Write the span of a call."""
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "atlas",
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 4,
    }
    with provider.get_tracer("test").start_as_current_span("chat", attributes=attributes):
        pass
