"""Inspect, over loopback: calls, retries, failures, samples and scores of its evaluations."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("inspect_ai")

import tenacity
from _books import Call, assert_equal_books, recorded_calls
from _prices import priced
from inspect_ai import Task
from inspect_ai import eval as run_eval
from inspect_ai.dataset import Sample
from inspect_ai.hooks._hooks import get_all_hooks
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import Score, Target, accuracy, includes, scorer
from inspect_ai.solver import TaskState, generate, use_tools
from inspect_ai.tool import tool

from genmeter.hooks import inspect_ai as hook
from genmeter.observed import gate
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _model_server import ModelServer


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor that the hook records to."""
    with isolated_monitor(priced()) as monitor:
        hook.install(monitor)
        yield monitor
        hook.uninstall()


def _model(server: ModelServer, vendor: str = "openai", **arguments: Any) -> Any:
    if vendor == "openai":
        arguments.setdefault("responses_api", False)
    return get_model(
        f"{vendor}/m",
        base_url=server.url if vendor == "anthropic" else f"{server.url}/v1",
        api_key="k",
        memoize=False,
        config=arguments.pop("config", GenerateConfig(max_tokens=100)),
        **arguments,
    )


def _run(
    server: ModelServer,
    folder: Path,
    *texts: str,
    vendor: str = "openai",
    responses_api: bool | None = None,
    **settings: Any,
) -> Any:
    arguments = {} if responses_api is None else {"responses_api": responses_api}
    model = settings.pop("model", None) or _model(server, vendor, **arguments)
    task = Task(
        dataset=[Sample(input=text, target="answer") for text in texts],
        solver=settings.pop("solver", generate()),
        scorer=settings.pop("scorer", includes()),
        name=settings.pop("name", "questions"),
    )
    [log] = run_eval(task, model=model, log_dir=str(folder), display="none", **settings)
    return log


def _retries(monitor: IsolatedMonitor) -> dict[str, int]:
    return _counts(monitor, "genmeter_retries_total", "error_type")


def _samples(monitor: IsolatedMonitor) -> dict[str, int]:
    return _counts(monitor, "genmeter_samples_total", "genmeter_outcome")


def _counts(monitor: IsolatedMonitor, metric: str, label: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for sample in monitor.series(metric):
        value = sample.labels[label]
        found[value] = found.get(value, 0) + int(sample.value)
    return {value: count for value, count in found.items() if count}


def test_calls_equal_the_books(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Path
) -> None:
    """Tokens, cached and reasoning ones too, outcomes and steps are those of the server."""
    log = _run(server, tmp_path, "one", "two [[cached]]", "three [[length]]", "four [[reasoning]]")
    assert log.status == "success"
    assert_equal_books(monitor, server)
    frame = monitor.to_frame("generations")
    assert set(frame["step"]) == {"questions"}
    assert set(frame["provider"]) == {"openai"}
    assert sorted(frame["finish_reason"]) == ["max_tokens", "stop", "stop", "stop"]


def test_calls_of_the_responses_api_equal_the_books(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Path
) -> None:
    """All but Inspect's own first request, by which it finds out whether a model reasons."""
    log = _run(server, tmp_path, "one", "two [[cached]]", responses_api=True)
    assert log.status == "success"

    def as_seen(call: Call, entry: Any) -> list[Call]:
        return [] if entry.text == "Please say 'hello, world'" else [call]

    assert_equal_books(monitor, server, as_seen=as_seen)


def test_calls_of_anthropic_equal_the_books(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Path
) -> None:
    """Inspect counts cached input apart; here it is a part of the input."""
    pytest.importorskip("anthropic")
    log = _run(server, tmp_path, "one", "two [[cached]]", vendor="anthropic")
    assert log.status == "success"
    assert_equal_books(monitor, server)


def test_retries_are_of_one_call(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Path
) -> None:
    """A call that succeeds after two errors is one success with two retries, made by Inspect."""
    model = _model(server, max_retries=0)
    model.api.retry_wait = tenacity.wait_none
    log = _run(server, tmp_path, "one [[429 500 then ok]]", "two", model=model)
    assert log.status == "success"
    assert_equal_books(monitor, server)
    assert _retries(monitor) == {"rate_limited": 1, "InternalServerError": 1}


def test_retries_of_the_client_are_of_one_call(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Path
) -> None:
    """Inspect counts them, without their causes if the responses have no ids."""
    log = _run(server, tmp_path, "one [[429 500 then ok]]")
    assert log.status == "success"
    assert_equal_books(monitor, server)
    assert _retries(monitor) == {"_OTHER": 2}


def test_call_that_fails_after_retries_is_one_failure(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Path
) -> None:
    """Its retries are those that Inspect made before it gave the call up."""
    model = _model(server, max_retries=0, config=GenerateConfig(max_retries=2))
    model.api.retry_wait = tenacity.wait_none
    _run(server, tmp_path, "one [[500]]", "two", model=model, fail_on_error=False)
    frame = monitor.to_frame("generations")
    assert sorted(frame["outcome"]) == ["failure", "success"]
    assert set(frame["error_type"].dropna()) == {"InternalServerError"}
    assert _retries(monitor) == {"InternalServerError": len(server.books) - 2}


def test_failed_call_is_a_failure_and_its_sample_is_rejected(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Path
) -> None:
    """The error's class is the client's, and a sample without an answer is not kept."""
    log = _run(server, tmp_path, "one", "two [[400]]", fail_on_error=False)
    assert log.status == "success"
    assert_equal_books(monitor, server)
    frame = monitor.to_frame("generations")
    assert set(frame["error_type"].dropna()) == {"BadRequestError"}
    assert _samples(monitor) == {"accepted": 1, "rejected": 1}


def test_call_that_a_limit_of_time_ends_is_cancelled(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Path
) -> None:
    """What Inspect itself ends is no failure."""
    log = _run(server, tmp_path, "one [[slow 30]]", time_limit=1)
    assert log.status == "success"
    assert_equal_books(monitor, server)


def test_call_with_tools_is_two_calls(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Path
) -> None:
    """Each turn of a model that calls a tool is a call."""
    log = _run(server, tmp_path, "one [[tool]]", solver=[use_tools(add()), generate()])
    assert log.status == "success"
    assert len(server.books) == 2
    assert_equal_books(monitor, server)


def test_call_outside_of_a_sample_is_recorded(
    server: ModelServer, monitor: IsolatedMonitor
) -> None:
    """A model that is called without an evaluation has no task."""
    asyncio.run(_model(server).generate("one"))
    assert_equal_books(monitor, server)
    assert monitor.to_frame("generations")["step"].isna().all()


def test_cached_answer_is_no_call(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of Inspect's cache was not billed."""
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    for _ in range(2):
        _run(server, tmp_path, "one", solver=generate(cache=True))
    assert len(server.books) == 1
    assert_equal_books(monitor, server)


@tool
def add() -> Any:
    """Return a tool that adds."""

    async def execute(x: int, y: int) -> int:
        """Add two numbers.

        Args:
            x: One.
            y: The other.
        """
        return x + y

    return execute


@scorer(metrics={"*": [accuracy()]})
def _several() -> Any:
    async def score(state: TaskState, target: Target) -> Score:
        return Score(value={"right": "C", "length": 12})

    return score


@scorer(metrics=[accuracy()])
def _unscored() -> Any:
    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=float("nan"))

    return score


def test_scores_are_evaluations(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Path
) -> None:
    """Grades are numbers; a score that is no number is a failed evaluation."""
    _run(server, tmp_path, "one", scorer=[includes(), _several()])
    _run(server, tmp_path, "two", scorer=_unscored())
    first, second = monitor.to_frame("evaluations").to_dict("records")
    assert (first["success"], first["score_includes"]) == (True, 1.0)
    assert (first["score__several.right"], first["score__several.length"]) == (1.0, 12.0)
    assert (second["success"], second["error_type"]) == (False, "unscored")


def test_samples_of_the_data_sets_are_expected(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Path
) -> None:
    """Each epoch counts, and a limit of samples is respected."""
    _run(server, tmp_path, "one", "two", "three", limit=2, epochs=2)
    assert monitor._session.state.expected_samples == 4
    assert _samples(monitor) == {"accepted": 4}


def test_spent_budget_ends_the_samples(
    server: ModelServer,
    monitor: IsolatedMonitor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next call is not made, and the run ends in good order."""
    budget = monitor.budget(tokens=1)

    monkeypatch.setattr(gate, "_guards", (budget.check,))
    log = _run(server, tmp_path, "one", "two", "three", max_samples=1, max_connections=1)
    assert log.status == "success"
    assert len(server.books) == 1
    assert [sample.limit.type for sample in log.samples if sample.limit] == ["custom", "custom"]
    assert_equal_books(monitor, server)


def test_uninstalled_hook_is_idle(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Path
) -> None:
    """Inspect keeps the subscriber, which does nothing."""
    hook.uninstall()
    _run(server, tmp_path, "one")
    assert recorded_calls(monitor) == []
    assert not any(each.enabled() for each in get_all_hooks() if "Genmeter" in type(each).__name__)


def test_call_inside_of_a_block_is_the_block(server: ModelServer, monitor: IsolatedMonitor) -> None:
    """A block around a call is that call, with the tokens that Inspect knows."""
    model = _model(server)
    with monitor.generation(step="outer"):
        asyncio.run(model.generate("one"))
    assert_equal_books(monitor, server, as_seen=lambda call, _: [call])
    assert list(monitor.to_frame("generations")["step"]) == ["outer"]
