"""The pages in docs/ are true: their tests exist, their blocks run, their links lead somewhere."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("**/*.md"))
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
COMPATIBILITY = TEXTS["docs/compatibility.md"]
BLOCK = re.compile(r"^```(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A block that needs AfterImage, which only `make example` installs.
NEEDS_AFTERIMAGE = "python-afterimage"
CLEAN = {
    **{
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("OTEL_", "GENMETER_"))
    },
    "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
    "MPLBACKEND": "agg",
}

# The public API of AfterImage 0.18.1; tests/compat holds that the old class has no more methods.
OLD_API = {
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
    """Every block of a language, named by its page and its number there."""
    return [
        pytest.param(code, id=f"{name}-{number}")
        for name, text in TEXTS.items()
        for number, (found, code) in enumerate(BLOCK.findall(text), 1)
        if found == language
    ]


def run(code: str, folder: Path) -> None:
    """Run a script as its reader would, in an empty folder."""
    script = folder / "job.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=folder,
        env=CLEAN,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("code", blocks("python"))
def test_each_python_block_of_the_docs_runs(code: str, tmp_path: Path) -> None:
    """A block of any page can be pasted into a file and run."""
    run(code, tmp_path)


@pytest.mark.example
@pytest.mark.parametrize("code", blocks(NEEDS_AFTERIMAGE))
def test_each_block_with_afterimage_runs(code: str, tmp_path: Path) -> None:
    """A block that names AfterImage can be pasted into a file and run where that is installed."""
    run(code, tmp_path)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", *TEXTS])
def test_relative_links_lead_somewhere(name: str) -> None:
    """Every relative link of a page is a file of the project, and its anchor a heading there."""
    page = ROOT / name
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_test_that_the_page_names_exists() -> None:
    """A test in docs/compatibility.md is in tests/compat, or is AfterImage's own suite's."""
    places = [
        *(ROOT / "tests/compat").glob("test_*.py"),
        ROOT / "tests/stack/test_afterimage_suite.py",
    ]
    defined = {name for place in places for name in functions(place)}
    named = set(re.findall(r"`(test_\w+)`", COMPATIBILITY))
    assert len(named) > 50
    assert named - defined == set()


def test_every_test_of_the_contract_is_on_the_page() -> None:
    """No test in tests/compat is without a row that says what it holds."""
    defined = {
        name for place in (ROOT / "tests/compat").glob("test_*.py") for name in functions(place)
    }
    named = set(re.findall(r"`(test_\w+)`", COMPATIBILITY))
    assert defined - named == set()


@pytest.mark.parametrize("section", OLD_API)
def test_every_member_of_the_old_api_has_its_row(section: str) -> None:
    """Each table has the members of the old API, each once, with a test that exists."""
    rows = table(section)
    found = [row[0].strip("`") for row in rows]
    assert [name for name in found if name != "any other"] == OLD_API[section]
    assert all(re.search(r"`test_\w+`", row[-1]) for row in rows)


def test_the_defects_are_numbered_and_each_has_its_test() -> None:
    """The thirteen rows name the tests of their numbers."""
    rows = table("The thirteen defects")
    assert [int(row[0]) for row in rows] == list(range(1, 14))
    for row in rows:
        names = re.findall(r"`(test_\w+)`", row[-1])
        assert names
        assert all(name.startswith(f"test_defect_{int(row[0]):02}_") for name in names)


def test_every_reason_of_a_difference_is_on_the_page() -> None:
    """What a test gives as the reason why the two differ is what the page says."""
    reasons = {
        keyword.value.value
        for place in (ROOT / "tests/compat").glob("test_*.py")
        for node in ast.walk(ast.parse(place.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "why" and isinstance(keyword.value, ast.Constant)
    }
    assert len(reasons) > 10
    assert {reason for reason in reasons if reason not in COMPATIBILITY} == set()


def table(section: str) -> list[list[str]]:
    """The rows of the table under a heading of docs/compatibility.md, without its head."""
    (text,) = re.findall(
        rf"^## {section}\n(.*?)(?=^## |\Z)", COMPATIBILITY, re.MULTILINE | re.DOTALL
    )
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def functions(path: Path) -> set[str]:
    """The names of the tests in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[:5] == "test_"
    }


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
