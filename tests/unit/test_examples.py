"""The examples run, are short, and are all in the table of examples/README.md.

Those that need OpenAI's client or a framework run in tests/frameworks/test_framework_examples.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from _ports import free_port
from _waiting import eventually
from otlp_receiver import HttpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
MOST_LINES = 50
# Of AfterImage's job: they are longer, and `make example` and tests/stack run them.
LONG = {
    *("afterimage_job.py", "afterimage_script.py", "openai_stub.py", "schema_filler.py"),
    "stub_model.py",
}
FILES = sorted(each for each in EXAMPLES.iterdir() if each.suffix in {".py", ".ipynb"})
SHORT = [each for each in FILES if each.name not in LONG]
TABLE = dict(
    re.findall(
        r"^\| \[(\S+?)\]\(\S+\) \| (.*?) \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE
    )
)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Return the environment of an example, whose port is free."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OTEL_", "GENMETER_", "_GENMETER_"))
    }
    port = str(free_port())
    return {**kept, "TMPDIR": str(tmp_path), "OTEL_EXPORTER_PROMETHEUS_PORT": port}


def run(name: str, env: dict[str, str]) -> str:
    """Run an example; return what it prints."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    found = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr, found.stderr
    return found.stdout


def calls(text: str, model: str = "atlas-large") -> list[int]:
    """Return the numbers of a model's row: calls, then tokens in, out and in total."""
    (row,) = re.findall(rf"^{model} +(.*)$", text, re.MULTILINE)
    return [int(each.replace(",", "")) for each in row.split()]


def test_every_example_is_in_the_table_and_short() -> None:
    """Those of AfterImage are named below it."""
    assert list(TABLE) == [
        each.name for each in sorted(SHORT, key=lambda each: [*TABLE].index(each.name))
    ]
    for path in SHORT:
        if path.suffix == ".py":
            assert len(path.read_text().splitlines()) <= MOST_LINES, path.name
    text = (EXAMPLES / "README.md").read_text()
    assert all(f"[{name}]({name})" in text for name in LONG)


def test_a_page_stays_for_one_scrape_after_the_job(env: dict[str, str]) -> None:
    """With all calls of the job."""
    command = [sys.executable, "-u", str(EXAMPLES / "scrape.py")]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        lines = [process.stdout.readline() for _ in range(5)]  # the table, at the end of the job
        assert calls("".join(lines))[0] == 100
        page = get(url)
        assert re.search(r"^genmeter_generations_total\{.*\} 100(\.0)?$", page, re.MULTILINE)
        assert process.wait(60) == 0


def get(url: str) -> str:
    """Return what a server answers; nothing if it does not yet."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - loopback
            found: str = answer.read().decode()
            return found
    except OSError:
        return ""


def test_a_push_has_all_calls(env: dict[str, str]) -> None:
    """It has come before the job says so."""
    with HttpReceiver() as receiver:
        assert (
            run("otlp_push", {**env, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint})
            == "pushed\n"
        )
        assert receiver.total("genmeter.generations") == 20


@pytest.fixture
def served(env: dict[str, str]) -> Iterator[str]:
    """Run the service; return its address."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "web_app:app"]
    with subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "warning"], env=env
    ) as process:
        yield f"http://127.0.0.1:{port}"
        process.terminate()


def test_a_service_shows_its_calls(served: str) -> None:
    """On the page that it mounts."""
    for _ in range(3):
        assert (
            eventually(lambda: get(f"{served}/answer?question=Why%3F")) == '{"answer":"Because."}'
        )
    assert 'gen_ai_request_model="atlas-large"' in get(f"{served}/metrics")
    assert re.search(
        r"^genmeter_generations_total\{.*\} 3(\.0)?$", get(f"{served}/metrics"), re.MULTILINE
    )


def test_a_pool_stays_within_its_budget(env: dict[str, str]) -> None:
    """And its report has what all of its processes did."""
    text = run("worker_pool", env)
    count, _, _, total = calls(text)
    assert text.startswith(f"{count} of 200 done\n")
    assert 20_000 - 300 < total <= 20_000


def test_many_calls_at_once_stay_within_a_budget(env: dict[str, str]) -> None:
    """Each had reserved what it may cost."""
    (spent,) = re.findall(r"^spent (\S+) of 0.50 USD$", run("budget_stop", env), re.MULTILINE)
    assert 0.5 - 0.02 < float(spent) <= 0.5


def test_a_function_gets_the_alerts(env: dict[str, str]) -> None:
    """At the threshold of the job, and once each."""
    text = run("own_thresholds", env)
    assert text.count("high_error_rate firing: Error rate: 33.33%") == 1
    assert "threshold of 20%" in text


def test_a_stream_that_is_left_is_cancelled_and_its_usage_unknown(env: dict[str, str]) -> None:
    """The other one counts."""
    text = run("streaming", env)
    assert calls(text) == [2, 12, 20, 32]
    assert "Calls without usage: 1" in text
    assert re.search(r"leave +cancelled .* stream_left$", text, re.MULTILINE)
