"""The README's code blocks run, and its tables are current."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from genmeter import cli
from genmeter.config.monitor import describe_environment
from genmeter.schema.metrics import CALL, INSTRUMENTS, Instrument
from otlp_receiver import HttpReceiver

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
SHELL = [text for language, text in BLOCKS if language == "sh"]
CLEAN = {
    **{
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OTEL_", "GENMETER_"))
    },
    "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
}


def run(code: str, tmp_path: Path, **environ: str) -> str:
    """Run a script in an empty folder and return its output."""
    script = tmp_path / "job.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=tmp_path,
        env={**CLEAN, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.splitlines()[0][:40])
def test_each_python_block_runs(code: str, tmp_path: Path) -> None:
    """Each block can be pasted into a file and run, and writes only the files that it names."""
    run(code, tmp_path)
    expected = {"runs"} if '"runs' in code else set()
    assert {each.name for each in tmp_path.iterdir()} == {"job.py", *expected}


def test_the_first_block_prints_the_tokens(tmp_path: Path) -> None:
    """The first block prints the tokens of its call."""
    assert re.search(r"atlas-large +1 +812 +164 +976", run(PYTHON[0], tmp_path))


def test_the_budget_block_stops_at_the_budget(tmp_path: Path) -> None:
    """The loop ends after the call that reaches the budget, and the cost is right."""
    printed = run(PYTHON[2], tmp_path)
    # 10 calls of 10,200 tokens are the first to reach 100,000.
    assert "102,000" in printed
    assert re.search(r"0\.345", printed)  # 90,000 x 2.5 + 12,000 x 10 USD per million


def test_every_shell_block_has_a_test() -> None:
    """A new shell block needs a test here, in tests/stack or in .ci/run."""
    run_elsewhere = {
        "make demo\n": "tests/stack/test_readme_commands.py",
        "make test\n": ".ci/run",
        "make example\n": "tests/stack/test_readme_commands.py",
        "genmeter run --budget-usd 5 --prices genai-prices job.py\n": (
            "tests/unit/cli/test_run_watched.py"
        ),
        "pip install .\n": "tests/stack/test_readme_commands.py",
        "genmeter run job.py --its --own --arguments\n": "tests/unit/cli/test_run.py",
        "GENMETER_JOB=shop gunicorn app:app --workers 4\n": "tests/stack/test_job_processes.py",
        'pip install "genmeter[instrument]"\nopentelemetry-instrument python job.py\n': (
            "tests/stack/test_unmodified_script.py"
        ),
    }
    here = [text for text in SHELL if "OTEL_METRICS_EXPORTER=otlp" in text]
    assert len(here) == 1
    assert set(SHELL) - set(here) == set(run_elsewhere)
    assert all((ROOT / place).is_file() for place in run_elsewhere.values())


def test_the_commands_in_console_blocks_are_valid() -> None:
    """Each `genmeter` command in a console block has valid arguments."""
    shown = [text for language, text in BLOCKS if language == "console"]
    commands = re.findall(r"^\$ genmeter (.*)$", "".join(shown), re.MULTILINE)
    assert commands
    for command in commands:
        cli._parsers()[0].parse_args(shlex.split(command))


def test_the_otlp_block_pushes(tmp_path: Path) -> None:
    """A job with the variables of the OTLP block pushes its tokens."""
    (block,) = [text for text in SHELL if "OTEL_METRICS_EXPORTER=otlp" in text]
    (tmp_path / "job.py").write_text(PYTHON[0], encoding="utf-8")
    with HttpReceiver() as receiver:
        assert "http://127.0.0.1:4318" in block
        script = block.replace("http://127.0.0.1:4318", receiver.endpoint)
        script = script.replace("python job.py", f"{sys.executable} job.py")
        subprocess.run(["sh", "-eu", "-c", script], cwd=tmp_path, env=CLEAN, check=True, timeout=60)
        values = [value for _, value in receiver.points("genmeter.tokens")]
    assert sum(values) == 976


def test_the_yaml_block_is_in_the_shipped_file() -> None:
    """The README's scrape job is in deploy/prometheus/prometheus.yml."""
    (block,) = [text for language, text in BLOCKS if language == "yaml"]
    (job,) = yaml.safe_load(block)["scrape_configs"]
    shipped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (same,) = [each for each in shipped["scrape_configs"] if each["job_name"] == job["job_name"]]
    assert same["static_configs"][0]["targets"] == job["static_configs"][0]["targets"]


def test_the_table_of_variables_is_current() -> None:
    """The README lists all variables that the configuration declares."""
    rows = [
        f"| `{name}` | {f'`{default}`' if default else ''} | {text} |"
        for name, default, text in describe_environment()
    ]
    table = "\n".join(["| variable | default | |", "|---|---|---|", *rows])
    assert f"<!-- environment -->\n{table}\n<!-- /environment -->" in README


def test_the_table_of_metrics_is_current() -> None:
    """The README lists all instruments by their Prometheus names."""
    table = "\n".join(
        ["| metric | kind | labels | |", "|---|---|---|---|", *sorted(map(metric_row, INSTRUMENTS))]
    )
    assert f"<!-- metrics -->\n{table}\n<!-- /metrics -->" in README


def metric_row(row: Instrument) -> str:
    """Return an instrument's row, with the labels of a call as *call*."""
    is_call = set(CALL) <= set(row.labels)
    others = [each for each in row.labels if not (is_call and each in CALL)]
    labels = ["*call*"] * is_call + [f"`{each.prometheus}`" for each in others]
    kind = "gauge" if row.kind.exposed_as == "updown" else row.kind.exposed_as
    return f"| `{row.prometheus}` | {kind} | {', '.join(labels)} | {row.help} |"
