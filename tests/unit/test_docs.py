"""The pages in docs/ are correct: named tests exist, code blocks run, links resolve."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from _measured import measured

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
COMPATIBILITY = TEXTS["docs/compatibility.md"]
COMPAT_TESTS = sorted((ROOT / "tests/compat").glob("test_*.py"))
NAMED_TESTS = set(re.findall(r"`(test_\w+)`", COMPATIBILITY))
BLOCK = re.compile(r"^```(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The language of blocks that need AfterImage, which only `make example` installs.
NEEDS_AFTERIMAGE = "python-afterimage"
# Of those that need an experiment tracker.
NEEDS_TRACKER = "python-tracker"
CLEAN = {
    **{
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OTEL_", "GENMETER_"))
    },
    "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
    "MPLBACKEND": "agg",
}

NONE: Mapping[str, str] = MappingProxyType({})

# The public API of AfterImage 0.18.1; tests/compat checks that its class has no other methods.
AFTERIMAGE_API = {
    "Constructor": [
        *("log_dir", "metric_handlers", "log_handlers", "alert_handlers", "metrics_interval"),
        *("shutdown_timeout", "alert_min_success_rate", "alert_max_generation_time_seconds"),
        *("alert_max_error_rate", "alert_max_prompt_token_mean"),
        *("alert_max_completion_token_mean", "alert_max_total_token_mean"),
        *("alert_max_conversation_length_mean", "token_usage_callback"),
        "token_usage_callback_interval_seconds",
    ],
    "Attributes": [
        *("log_dir", "metric_handlers", "log_handlers", "alert_handlers", "metrics_interval"),
        "shutdown_timeout",
    ],
    "Methods": [
        *("track_generation", "track_evaluation", "record_metric", "log_info", "log_warning"),
        *("log_error", "get_metrics", "get_total_token_usage", "check_alerts", "save_metrics"),
        *("export_metrics", "visualize_metrics", "plot_metric", "shutdown"),
    ],
    "Types": [
        *("Alert", "ModelTokenUsage", "TokenUsageReport", "MetricHandler", "LogHandler"),
        *("FileMetricHandler", "FileLogHandler"),
    ],
    "Metric names": [
        *("generation_time", "success_rate", "error_rate", "model_usage:MODEL"),
        *("finish_reason:REASON", "prompt_token_count", "completion_token_count"),
        *("total_token_count", "conversation_length", "evaluation_time"),
        *("evaluation_score_NAME", "evaluation_error_rate"),
    ],
    "Handlers and files": [
        *("handle_metric", "handle_log", "metrics.jsonl", "afterimage.log", "metrics_*.json"),
        "plots/*.png",
    ],
    "Alerts": [
        *("low_success_rate", "high_generation_time", "high_error_rate"),
        *("high_token_usage:prompt", "high_token_usage:completion", "high_token_usage:total"),
        "long_conversations",
    ],
}


def blocks(language: str) -> list[object]:
    """Return the blocks of a language, with page and number as test ids."""
    return [
        pytest.param(code, id=f"{name}-{number}")
        for name, text in TEXTS.items()
        for number, (found, code) in enumerate(BLOCK.findall(text), 1)
        if found == language
    ]


def run(
    code: str, folder: Path, settings: Mapping[str, str] = NONE, *, warnings: str = "error"
) -> None:
    """Run a script in an empty folder, and fail on an error or a warning."""
    script = folder / "job.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", warnings, script.name],
        cwd=folder,
        env={
            **CLEAN,
            **measured(),
            **settings,
            "TMPDIR": str(folder),
        },  # a resumed job stays in there
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("code", blocks("python"))
def test_each_python_block_of_the_docs_runs(code: str, tmp_path: Path) -> None:
    """Each block can be pasted into a file and run."""
    run(code, tmp_path)


@pytest.mark.frameworks
@pytest.mark.parametrize("code", blocks(NEEDS_TRACKER))
def test_each_block_with_a_tracker_runs(code: str, tmp_path: Path) -> None:
    """Without a server: MLflow in a folder, Weights & Biases offline."""
    pytest.importorskip("wandb" if "wandb" in code else "mlflow")
    settings = {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": (tmp_path / "runs").as_uri()}
    run(code, tmp_path, {**settings, "MLFLOW_ALLOW_FILE_STORE": "true"}, warnings="default")


@pytest.mark.example
@pytest.mark.parametrize("code", blocks(NEEDS_AFTERIMAGE))
def test_each_block_with_afterimage_runs(code: str, tmp_path: Path) -> None:
    """Each block with AfterImage can be pasted into a file and run, if AfterImage is installed."""
    run(code, tmp_path)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", *TEXTS])
def test_relative_links_resolve(name: str) -> None:
    """Every relative link is a file of the project, and its anchor a heading in it."""
    page = ROOT / name
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize(
    ("page", "folder", "least"),
    [
        ("processes.md", "tests/process/", 20),
        ("integrations.md", "tests/frameworks/", 30),
        ("reliability.md", "tests/", 40),
    ],
)
def test_every_test_that_a_table_names_exists(page: str, folder: str, least: int) -> None:
    """Each row has its test; without a folder it is in that of the page's subject."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = re.findall(r"`(?:(tests/[\w/]+/))?(test_\w+\.py)`", text)
    assert len(named) > least
    assert [each for each in named if not (ROOT / (each[0] or folder) / each[1]).is_file()] == []


def test_every_named_compatibility_test_exists() -> None:
    """Tests named in docs/compatibility.md are in tests/compat or run AfterImage's suite."""
    defined = names_of_tests(*COMPAT_TESTS, ROOT / "tests/stack/test_afterimage_suite.py")
    assert len(NAMED_TESTS) > 50
    assert NAMED_TESTS - defined == set()


def test_every_named_test_of_engines_exists() -> None:
    """Tests named in docs/engines.md are in tests/stack or tests/unit/render."""
    named = set(re.findall(r"`(test_\w+)`", TEXTS["docs/engines.md"]))
    folders = (ROOT / "tests/stack", ROOT / "tests/unit/render")
    defined = names_of_tests(*(path for each in folders for path in each.glob("test_*.py")))
    assert len(named) > 20
    assert named - defined == set()


def test_every_compatibility_test_is_documented() -> None:
    """Every test in tests/compat is named in docs/compatibility.md."""
    assert names_of_tests(*COMPAT_TESTS) - NAMED_TESTS == set()


@pytest.mark.parametrize("section", AFTERIMAGE_API)
def test_every_member_of_afterimages_api_has_a_row(section: str) -> None:
    """Each table has every member of AfterImage's API once, with a test."""
    rows = table(section)
    found = [row[0].strip("`") for row in rows]
    assert [name for name in found if name != "any other"] == AFTERIMAGE_API[section]
    assert all(re.search(r"`test_\w+`", row[-1]) for row in rows)


def test_every_defect_has_its_tests() -> None:
    """Each of the thirteen rows names tests with its number."""
    rows = table("The thirteen defects")
    assert [int(row[0]) for row in rows] == list(range(1, 14))
    for row in rows:
        names = re.findall(r"`(test_\w+)`", row[-1])
        assert names
        assert all(name.startswith(f"test_defect_{int(row[0]):02}_") for name in names)


def test_every_reason_for_a_difference_is_documented() -> None:
    """The reasons in the tests are those in docs/compatibility.md."""
    reasons = {
        keyword.value.value
        for path in COMPAT_TESTS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "why" and isinstance(keyword.value, ast.Constant)
    }
    assert len(reasons) > 10
    assert {reason for reason in reasons if reason not in COMPATIBILITY} == set()


def table(section: str) -> list[list[str]]:
    """Return the rows of the table below a heading of docs/compatibility.md."""
    (text,) = re.findall(
        rf"^## {section}\n(.*?)(?=^## |\Z)", COMPATIBILITY, re.MULTILINE | re.DOTALL
    )
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names_of_tests(*paths: Path) -> set[str]:
    """Return the names of the tests in files."""
    return {
        name
        for path in paths
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, in GitHub's form."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
