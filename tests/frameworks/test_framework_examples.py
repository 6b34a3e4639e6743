"""The examples that need OpenAI's client, a framework or a notebook, against the model server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _model_server import serve

pytestmark = pytest.mark.frameworks

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "package", "model", "steps"),
    [
        ("openai_client", "openai", "gpt-4o-mini", 2),
        ("langchain_chain", "langchain_openai", "gpt-4o-mini", 3),
        ("inspect_task", "inspect_ai", "openai/gpt-4o-mini", 2),
    ],
)
def test_an_example_has_the_servers_numbers(
    tmp_path: Path, name: str, package: str, model: str, steps: int
) -> None:
    """Calls and tokens in its table are those of the books."""
    pytest.importorskip(package)
    with serve() as server:
        env = {
            **os.environ,
            "OPENAI_BASE_URL": f"{server.url}/v1",
            "OPENAI_API_KEY": "k",
            "MODEL": model,
            "OTEL_METRICS_EXPORTER": "none",
        }
        command = [sys.executable, str(EXAMPLES / f"{name}.py")]
        found = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False
        )
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr, found.stderr
    assert len(server.books) == steps
    (row,) = re.findall(r"^gpt-4o-mini +(.*)$", found.stdout, re.MULTILINE)
    numbers = [int(each.replace(",", "")) for each in row.split()]
    tokens = [sum(each.input for each in server.books), sum(each.output for each in server.books)]
    assert numbers[:4] == [steps, *tokens, sum(tokens)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_runs() -> None:
    """Each of its cells but the imports shows something."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    book = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(book, timeout=90, kernel_name="python3").execute()
    shown = [cell["outputs"][-1]["data"]["text/html"] for cell in book["cells"][1:]]
    assert len(shown) == 4
    assert all("atlas-large" in each for each in shown[1:])
