"""Packages of instrumentations and clients that are written to a folder: with real entry points."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CLIENT", "write_client", "write_instrumentation"]

CLIENT = """
__version__ = '4.2'

class Answer:
    def __init__(self, model):
        self.model = model

def chat(model, prompt_tokens=30, completion_tokens=4):
    answer = Answer(model)
    answer.usage = (prompt_tokens, completion_tokens)
    return answer
"""
"""A client whose function `chat` calls the model."""

_INSTRUMENTOR = """
import importlib

from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

{before}

class Instrumentor(BaseInstrumentor):
    def instrumentation_dependencies(self):
        return ()

    def _instrument(self, tracer_provider=None, **kwargs):
        tracer = trace.get_tracer({module!r}, tracer_provider=tracer_provider)
        client = importlib.import_module({client!r})
        self.original = original = client.chat

        def chat(model, **kwargs):
            attributes = {{'gen_ai.operation.name': 'chat', 'gen_ai.request.model': model}}
            with tracer.start_as_current_span('chat ' + model, attributes=attributes) as span:
                answer = original(model, **kwargs)
                span.set_attribute('gen_ai.usage.input_tokens', answer.usage[0])
                span.set_attribute('gen_ai.usage.output_tokens', answer.usage[1])
                return answer

        client.chat = chat

    def _uninstrument(self, **kwargs):
        importlib.import_module({client!r}).chat = self.original
"""


def write_client(folder: Path, module: str, text: str = CLIENT) -> None:
    """Write a client that consists of one module."""
    path = folder.joinpath(*module.split("."))
    path.mkdir(parents=True, exist_ok=True)
    (path / "__init__.py").write_text(text)


def write_instrumentation(
    folder: Path,
    module: str,
    client: str,
    *,
    distribution: str = "",
    version: str = "1.0",
    name: str = "",
    requires: str = "",
    before: str = "",
) -> None:
    """Write a package with an instrumentor and its entry point.

    Args:
        folder: On the path.
        module: Of the instrumentor, such as ``openinference.instrumentation.cohere``.
        client: The module that it instruments.
        distribution: Name of the package; by default by its module.
        version: Of the package.
        name: Of its entry point; by default the last part of its module.
        requires: What it supports, such as ``cohere>=5``.
        before: Code of the module that runs first.
    """
    path = folder.joinpath(*module.split("."))
    path.mkdir(parents=True)
    text = _INSTRUMENTOR.format(module=module, client=client, before=textwrap.dedent(before))
    (path / "__init__.py").write_text(text)
    distribution = distribution or module.replace(".", "-").replace("_", "-")
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
    if requires:
        lines += [
            "Provides-Extra: instruments",
            f"Requires-Dist: {requires}; extra == 'instruments'",
        ]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    name = name or module.rpartition(".")[2]
    (info / "entry_points.txt").write_text(
        f"[opentelemetry_instrumentor]\n{name} = {module}:Instrumentor\n"
    )
