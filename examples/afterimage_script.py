"""A typical script for AfterImage: dialogues with a judge, then structured rows.

It does not import genmeter or pass a monitor. It can run in three ways:

    python examples/afterimage_script.py
    genmeter run examples/afterimage_script.py
    opentelemetry-instrument python examples/afterimage_script.py

The first uses AfterImage's monitor. The second serves the metrics while the job runs and ends with a
token report; the third pushes them by OTLP. The output of the script is always the same: the number
of dialogues and rows, and a line of JSON with the tokens of the model server (a stub on loopback
without key and network).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
from pathlib import Path

# No proxy for 127.0.0.1, and no display for plots.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from afterimage import ConversationGenerator, StructuredGenerator
from afterimage.callbacks import ContextualInstructionGeneratorCallback
from afterimage.storage import JSONLStorage
from openai_stub import OpenAIStub
from pydantic import BaseModel, Field

KEY = "the-stub-takes-any"
DOCUMENTS = [
    "A damaged item can be returned for a refund within thirty days of its delivery.",
    "The shipping address of an order can be changed until the parcel leaves the warehouse.",
]


class Ticket(BaseModel):
    """A support ticket, the schema of the structured rows."""

    subject: str
    priority: int = Field(ge=1, le=5)
    tags: list[str] = Field(min_length=1, max_length=3)


def questions(base_url: str, model: str) -> ContextualInstructionGeneratorCallback:
    """Return AfterImage's callback that writes questions about a document."""
    return ContextualInstructionGeneratorCallback(
        api_key=KEY,
        documents=DOCUMENTS,
        model_name=model,
        model_provider_name="openai",
        n_instructions=2,
        llm_create_extras={"base_url": base_url},
    )


async def talk(base_url: str, path: Path) -> None:
    """Generate judged dialogues."""
    generator = ConversationGenerator(
        respondent_prompt="You are a patient support agent of an online shop. Answer briefly.",
        correspondent_prompt="You are a customer of an online shop. Ask one question at a time.",
        api_key=KEY,
        model_name="chat-large",
        model_provider_name="openai",
        llm_factory_kwargs={"base_url": base_url},
        auto_improve=True,
        evaluator_model_name="judge-mini",
        embedding_provider_config={"type": "openai", "model": "embed-small", "base_url": base_url},
        storage=JSONLStorage(conversations_path=path),
        instruction_generator_callback=questions(base_url, "chat-large"),
    )
    await generator.generate(num_dialogs=4, max_turns=2, max_concurrency=1)


async def tabulate(base_url: str, path: Path) -> None:
    """Generate structured rows."""
    generator = StructuredGenerator(
        output_schema=Ticket,
        respondent_prompt="You turn a customer's question into a support ticket.",
        correspondent_prompt="You are a customer of an online shop. Ask one question at a time.",
        api_key=KEY,
        model_name="rows-small",
        model_provider_name="openai",
        llm_factory_kwargs={"base_url": base_url},
        storage=JSONLStorage(conversations_path=path),
        instruction_generator_callback=questions(base_url, "rows-small"),
    )
    await generator.generate(num_samples=6, max_concurrency=1)


def main() -> None:
    """Run the job with the stub, and print its results and the server's tokens."""
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder, OpenAIStub(latency=0.0) as stub:
        dialogs, rows = Path(folder, "dialogs.jsonl"), Path(folder, "rows.jsonl")
        asyncio.run(talk(stub.base_url, dialogs))
        asyncio.run(tabulate(stub.base_url, rows))
        for path in (dialogs, rows):
            print(f"{len(path.read_text(encoding='utf-8').splitlines())} {path.stem}")
        print(json.dumps(stub.totals))


if __name__ == "__main__":
    main()
