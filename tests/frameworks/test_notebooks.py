"""Notebooks, in a real kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.frameworks

JOB = """
from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(port=0)))
with monitor.generation(model="atlas<b>", step="draft") as call:
    call.usage(prompt_token_count=1_000, completion_token_count=7)
"""


def run_cells(cells: Sequence[str]) -> list[list[Any]]:
    """Run cells in a kernel of its own; return the outputs of each."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    nbclient.NotebookClient(book, timeout=90, kernel_name="python3").execute()
    return [cell["outputs"] for cell in book["cells"]]


def html(outputs: Sequence[Any]) -> str:
    """Return the HTML of the last output."""
    text: str = outputs[-1]["data"]["text/html"]
    return text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_reports_and_monitors_have_a_view_in_html() -> None:
    """Also the live view; a name that looks like HTML is text."""
    cells = [
        JOB,
        "monitor",
        "monitor.get_total_token_usage()",
        "from genmeter.notebook import top\nmonitor.flush()\nview = top(monitor.endpoint_url)\nview",
        "view.live(interval=0.1, seconds=0.5)",
        "from genmeter import read_usage\nread_usage(monitor.endpoint_url)",
    ]
    _, monitor, report, view, live, usage = run_cells(cells)
    for outputs in (monitor, report, view, live, usage):
        shown = html(outputs)
        assert "atlas&lt;b&gt;" in shown
        assert "1,007" in shown
        assert "<b>" not in shown.replace("<p><b>", "")
    assert "endpoint http://127.0.0.1:" in html(monitor)
    assert len(live) == 1  # renewed in its place


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_cell_that_runs_again_leaves_no_second_endpoint_and_no_leak() -> None:
    """Sockets, threads and monitors are as many as after the second time."""
    count = """
import gc, os, time

def counts():
    gc.collect()
    monitors = sum(type(each).__name__ == "Session" for each in gc.get_objects())
    return monitors, len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

deadline = time.monotonic() + 20  # they are closed on a thread
while counts()[0] > 2 and time.monotonic() < deadline:
    time.sleep(0.1)
print(*counts())
"""
    outputs = run_cells([JOB, JOB, count, *[JOB] * 20, count, "monitor"])
    before, after = outputs[2][0]["text"], outputs[-2][0]["text"]
    assert before == after
    assert int(after.split()[0]) <= 2  # the last one, and what the kernel may still refer to
    assert "endpoint http://127.0.0.1:" in html(outputs[-1])
