"""Fixtures for tests with real frameworks and instrumentations, over loopback.

Every test in this folder is marked `frameworks`: `make test` deselects it and `make frameworks` runs it
in two environments, since some need older clients. A test is skipped where its framework
is missing (``pytest.importorskip``), which is a failure in the environment that has it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.register_assert_rewrite("_books")  # before a test imports it

from _model_server import ModelServer, serve  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

HERE = Path(__file__).parent
# They would ask the network for a table of prices, data sets and models, and report themselves.
OFFLINE = {
    "OTEL_METRICS_EXPORTER": "none",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LANGSMITH_TRACING": "false",
    "LOGFIRE_SEND_TO_LOGFIRE": "false",
    "LOGFIRE_IGNORE_NO_CONFIG": "1",
    "RAGAS_DO_NOT_TRACK": "true",
    "TRACELOOP_TELEMETRY": "false",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "INSPECT_DISABLE_TELEMETRY": "1",
    "OPENAI_API_KEY": "k",
    "ANTHROPIC_API_KEY": "k",
    "GEMINI_API_KEY": "k",
}
_ENVIRONMENT = "GENMETER_FRAMEWORKS"
"""Variable with the name of the environment that `make frameworks` runs: ``newest`` or ``older``."""
_ONLY_OLDER = (
    "llama_index.embeddings",
    "llama_index.llms",
    "lm_eval",
    "mlflow",
    "nbclient",
    "opentelemetry.instrumentation.google_genai",
    "ragas",
    "wandb",
)
_IN_NEITHER = ("data_designer",)  # its test says how to run it
_MISSING = re.compile(r"could not import '([\w.]+)")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the frameworks off the network where their tests run, not where they are only collected.

    Some read the variables at import, before any fixture.
    """
    selection = config.getoption("markexpr") or " ".join(config.args)
    if "frameworks" in selection and "not frameworks" not in selection:
        for name, value in OFFLINE.items():
            os.environ.setdefault(name, value)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """Return a model server of the test's own."""
    with serve() as server:
        yield server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.frameworks)
            # Frameworks may warn of anything; it is shown in the summary.
            item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Do not even import these tests where none of them is to run."""
    return True if "not frameworks" in config.option.markexpr else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Make a skipped module a failure if its framework should be there."""
    report = yield
    if report.skipped:
        _fail_if_wrong(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a skipped test of this folder a failure if its framework should be there."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.path.is_relative_to(HERE):
        _fail_if_wrong(report)
    return report


def _fail_if_wrong(report: Any) -> None:
    environment = os.environ.get(_ENVIRONMENT)
    if environment is None:
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    missing = _MISSING.search(reason)
    if missing and missing[1].startswith(_IN_NEITHER):
        return
    belongs = "older" if missing and missing[1].startswith(_ONLY_OLDER) else "newest"
    if missing is None or belongs == environment:
        report.outcome = "failed"
        report.longrepr = f"{reason}; run `make frameworks`, which installs what is missing"
