"""`genmeter run` with real clients and frameworks: the report equals the server's books, a budget stops them."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _model_server import ModelServer

GENMETER = (sys.executable, "-c", "import sys; from genmeter.cli import main; sys.exit(main())")
SOURCE = str(Path(__file__).parents[2] / "src")
START = "import sys\nurl, calls = sys.argv[1], int(sys.argv[2])\n"
OPENAI = (
    f"{START}import openai\nclient = openai.OpenAI(base_url=url + '/v1', max_retries=0)\n"
    "for _ in range(calls):\n    client.chat.completions.create(\n"
    "        model='m', messages=[{'role': 'user', 'content': 'hi'}])\n"
)
SCRIPTS = {
    "openai": OPENAI,
    "openai in tasks": (
        f"{START}import asyncio, openai\n"
        "client = openai.AsyncOpenAI(base_url=url + '/v1', max_retries=0)\n"
        "async def main():\n    for _ in range(calls // 2):\n"
        "        await asyncio.gather(*(client.chat.completions.create(\n"
        "            model='m', messages=[{'role': 'user', 'content': 'hi'}]) for _ in range(2)))\n"
        "asyncio.run(main())\n"
    ),
    "openai streaming": (
        f"{START}import openai\nclient = openai.OpenAI(base_url=url + '/v1', max_retries=0)\n"
        "for _ in range(calls):\n    for chunk in client.chat.completions.create(\n"
        "            model='m', messages=[{'role': 'user', 'content': 'hi'}], stream=True,\n"
        "            stream_options={'include_usage': True}):\n        pass\n"
    ),
    "anthropic": (
        f"{START}import anthropic\nclient = anthropic.Anthropic(base_url=url, max_retries=0)\n"
        "for _ in range(calls):\n    client.messages.create(\n"
        "        model='m', max_tokens=100, messages=[{'role': 'user', 'content': 'hi'}])\n"
    ),
    "google.genai": (
        f"{START}from google import genai\n"
        "client = genai.Client(api_key='k', http_options={'base_url': url})\n"
        "for _ in range(calls):\n    client.models.generate_content(model='m', contents='hi')\n"
    ),
    "langchain_openai": (
        f"{START}from langchain_openai import ChatOpenAI\n"
        "model = ChatOpenAI(model='m', base_url=url + '/v1', max_retries=0)\n"
        "for _ in range(calls):\n    model.invoke('hi')\n"
    ),
    "litellm": (
        f"{START}import litellm\nfor _ in range(calls):\n    litellm.completion(\n"
        "        model='openai/m', api_base=url + '/v1', num_retries=0,\n"
        "        messages=[{'role': 'user', 'content': 'hi'}])\n"
    ),
    "dspy": (
        f"{START}import dspy\n"
        "model = dspy.LM('openai/m', api_base=url + '/v1', cache=False, num_retries=0)\n"
        "for _ in range(calls):\n    model('hi')\n"
    ),
    "llama_index.llms.openai": (
        f"{START}from llama_index.llms.openai import OpenAI\n"
        "model = OpenAI(model='gpt-4o-mini', api_base=url + '/v1', api_key='k', max_retries=2)\n"
        "for number in range(calls):\n    model.complete('hi')\n"
    ),
    "llama_index.llms.openai, streaming in tasks": (
        f"{START}import asyncio\nfrom llama_index.llms.openai import OpenAI\n"
        "model = OpenAI(model='gpt-4o-mini', api_base=url + '/v1', api_key='k', max_retries=2,\n"
        "    additional_kwargs={'stream_options': {'include_usage': True}})\n"
        "async def one():\n    async for _ in await model.astream_complete('hi'):\n        pass\n"
        "async def main():\n    for _ in range(calls // 2):\n"
        "        await asyncio.gather(one(), one())\nasyncio.run(main())\n"
    ),
    "lm_eval": (
        f"{START}import json\nfrom lm_eval.api.instance import Instance\n"
        "from lm_eval.models.api_models import JsonChatStr\n"
        "from lm_eval.models.openai_completions import LocalChatCompletion\n"
        "model = LocalChatCompletion(base_url=url + '/v1/chat/completions', model='m', max_retries=3)\n"
        "def ask(number):\n"
        "    text = JsonChatStr(json.dumps([{'role': 'user', 'content': f'hi {number}'}]))\n"
        "    return Instance('generate_until', {}, (text, {'until': ['.']}), 0, ('t', number, 1))\n"
        "model.generate_until([ask(number) for number in range(calls)])\n"
    ),
    "data_designer": (
        f"{START}from data_designer.config import (ChatCompletionInferenceParams as Parameters,\n"
        "    DataDesignerConfigBuilder, LLMTextColumnConfig, ModelConfig, ModelProvider,\n"
        "    SamplerColumnConfig, SamplerType)\n"
        "from data_designer.interface import DataDesigner\n"
        "provider = ModelProvider(\n"
        "    name='local', endpoint=url + '/v1', provider_type='openai', api_key='k')\n"
        "model = ModelConfig(alias='w', model='m', provider='local', skip_health_check=True,\n"
        "    inference_parameters=Parameters(max_parallel_requests=2))\n"
        "builder = DataDesignerConfigBuilder(model_configs=[model])\n"
        "builder.add_column(SamplerColumnConfig(\n"
        "    name='topic', sampler_type=SamplerType.CATEGORY, params={'values': ['a', 'b']}))\n"
        "builder.add_column(LLMTextColumnConfig(\n"
        "    name='text', prompt='hi {{ topic }}', model_alias='w'))\n"
        "designer = DataDesigner(artifact_path='out', model_providers=[provider])\n"
        "print(len(designer.create(builder, num_records=calls).load_dataset()))\n"
    ),
}
KEYS = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"), "k")


def run(
    folder: Path, name: str, server: ModelServer, calls: int, *options: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a script against the server."""
    pytest.importorskip(re.split("[ ,]", name)[0])
    (folder / "job.py").write_text(SCRIPTS[name])
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OTEL_", "GENMETER_", "_GENMETER_"))
    }
    settings = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": SOURCE, **KEYS, **environ}
    return subprocess.run(
        [*GENMETER, "run", "--no-endpoint", *options, "job.py", server.url, str(calls)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**clean, **settings},
        timeout=110,
        check=False,
    )


def counted(text: str) -> tuple[int, int]:
    """Calls and tokens of the whole report."""
    (total,) = re.findall(r"^total +([\d,]+) +[\d,]+ +[\d,]+ +([\d,]+)$", text, re.MULTILINE)
    calls, tokens = (int(each.replace(",", "")) for each in total)
    return calls, tokens


def books(server: ModelServer) -> tuple[int, int]:
    """Calls and tokens that the server billed."""
    return len(server.books), sum(entry.input + entry.output for entry in server.books)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_report_equals_the_servers_books(
    tmp_path: Path, server: ModelServer, name: str
) -> None:
    """Each call counts once, however many watch it."""
    found = run(tmp_path, name, server, 4)
    assert found.returncode == 0, found.stderr
    assert counted(found.stderr) == books(server)
    assert "\nwatched:\n" in found.stderr
    assert books(server)[0] == 4


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_budget_stops_the_job(tmp_path: Path, server: ModelServer, name: str) -> None:
    """By at most the calls in flight."""
    found = run(tmp_path, name, server, 40, "--budget-tokens", "5000")
    assert found.returncode == 3, found.stderr
    calls, tokens = books(server)
    assert counted(found.stderr) == (calls, tokens)
    assert tokens >= 5_000
    in_flight = 2 if "tasks" in name or name == "data_designer" else 1
    last = sum(entry.input + entry.output for entry in server.books[-in_flight:])
    assert tokens - last < 5_000
    # Data Designer gives records up, and then the rest.
    assert ("BudgetExceededError" in found.stderr) is (name != "data_designer")
    assert "genmeter run: the budget stopped the job: budget of 5,000 tokens" in found.stderr


@pytest.mark.parametrize("name", ["openai", "anthropic", "google.genai"])
def test_clients_are_watched_with_no_instrumentation(
    tmp_path: Path, server: ModelServer, name: str
) -> None:
    """Nothing but the client is needed."""
    found = run(tmp_path, name, server, 3, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="*")
    assert found.returncode == 0, found.stderr
    assert counted(found.stderr) == books(server)
    assert re.search(r"^  [\w ]+ [\d.]+: by (genmeter|its own spans)$", found.stderr, re.MULTILINE)


def test_the_preferred_one_of_several_instrumentations_is_used(
    tmp_path: Path, server: ModelServer
) -> None:
    """OpenTelemetry's own package before those of others."""
    pytest.importorskip("opentelemetry.instrumentation.genai.openai")
    importlib.import_module("openinference.instrumentation.openai")
    found = run(tmp_path, "openai", server, 3)
    assert re.search(r"OpenAI [\d.]+: by opentelemetry-instrumentation-genai-openai", found.stderr)
