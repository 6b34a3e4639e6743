"""NeMo Data Designer, over loopback: each request of a column is a call.

It pins OpenTelemetry's SDK below 1.44, so that it needs an environment of its own::

    python3.11 -m venv .venv-data-designer
    .venv-data-designer/bin/pip install -e . data-designer pytest pytest-asyncio pytest-timeout
    .venv-data-designer/bin/python -m pytest -m frameworks tests/frameworks -k data_designer
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("data_designer")

from _books import assert_equal_books, recorded_calls
from _prices import priced
from data_designer.config import (
    ChatCompletionInferenceParams,
    DataDesignerConfigBuilder,
    LLMTextColumnConfig,
    ModelConfig,
    ModelProvider,
    SamplerColumnConfig,
    SamplerType,
)
from data_designer.engine.models import factory
from data_designer.engine.models.clients.model_request_executor import ModelRequestExecutor
from data_designer.engine.resources import resource_provider
from data_designer.interface import DataDesigner

from genmeter.hooks import data_designer as hook
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _model_server import ModelServer


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor that the hook records to."""
    with isolated_monitor(priced()) as monitor:
        hook.install(monitor)
        yield monitor
        hook.uninstall()


def _designer(server: ModelServer, folder: Path) -> DataDesigner:
    provider = ModelProvider(
        name="local", endpoint=f"{server.url}/v1", provider_type="openai", api_key="k"
    )
    return DataDesigner(artifact_path=folder, model_providers=[provider])


def _config(*prompts: str) -> DataDesignerConfigBuilder:
    builder = DataDesignerConfigBuilder(
        model_configs=[
            ModelConfig(
                alias="writer",
                model="m",
                provider="local",
                inference_parameters=ChatCompletionInferenceParams(max_parallel_requests=2),
                skip_health_check=True,
            )
        ]
    )
    builder.add_column(
        SamplerColumnConfig(
            name="topic", sampler_type=SamplerType.CATEGORY, params={"values": ["a", "b"]}
        )
    )
    for number, prompt in enumerate(prompts, 1):
        builder.add_column(
            LLMTextColumnConfig(
                name=f"text_{number}", prompt=f"{prompt} {{{{ topic }}}}", model_alias="writer"
            )
        )
    return builder


def test_calls_equal_the_books(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Path
) -> None:
    """Two columns of four records: tokens and outcomes are the server's, steps are the columns."""
    config = _config("one [[cached]]", "two [[reasoning]]")
    _designer(server, tmp_path).create(config, num_records=4)
    assert_equal_books(monitor, server)
    frame = monitor.to_frame("generations")
    assert frame["step"].value_counts().to_dict() == {"text_1": 4, "text_2": 4}
    assert set(frame["provider"]) == {"local"}


def test_repeated_request_is_one_call(server: ModelServer, monitor: IsolatedMonitor) -> None:
    """An attempt that failed is a retry of the call."""
    model = _facade(server)
    model.generate("one [[503 then ok]]", parser=lambda text: text)
    assert len(server.books) == 2
    assert_equal_books(monitor, server)
    assert monitor.value("genmeter_retries_total") == 1


def test_failed_request_is_a_failure(server: ModelServer, monitor: IsolatedMonitor) -> None:
    """It raises as before."""
    with pytest.raises(Exception, match=r"."):
        _facade(server).generate("one [[400]]", parser=lambda text: text)
    assert_equal_books(monitor, server)


def _facade(server: ModelServer) -> Any:
    import tempfile
    from pathlib import Path

    designer = _designer(server, Path(tempfile.mkdtemp()))
    builder = _config("x")
    provider = designer._create_resource_provider(
        "dev", builder, client_concurrency_mode=factory.ClientConcurrencyMode.SYNC
    )
    return provider.model_registry.get_model(model_alias="writer")


def test_sink_of_the_job_still_gets_its_events(
    server: ModelServer, monitor: IsolatedMonitor
) -> None:
    """Ours stands before it."""
    kinds: list[str] = []

    class Own:
        def emit_request_event(self, event: Any) -> None:
            kinds.append(event.event_kind)

    sink = hook._Sink(Own())
    assert sink.accepts_request_event("request_wait_started")
    event = type("Event", (), {"event_kind": "request_wait_started"})
    sink.emit_request_event(event)
    assert kinds == ["request_wait_started"]


def test_uninstall_restores_what_was_there(server: ModelServer) -> None:
    """The factory and the clients are as before."""
    before = (
        factory.create_model_registry,
        resource_provider.create_model_registry,
        ModelRequestExecutor.acompletion,
    )
    with isolated_monitor() as monitor:
        hook.install(monitor)
        assert factory.create_model_registry is not before[0]
        hook.uninstall()
        assert before == (
            factory.create_model_registry,
            resource_provider.create_model_registry,
            ModelRequestExecutor.acompletion,
        )
        _facade(server).generate("one", parser=lambda text: text)
        assert recorded_calls(monitor) == []
