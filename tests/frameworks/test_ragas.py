"""ragas, over loopback: each metric of each row is an evaluation."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("ragas", exc_type=ImportError)

import ragas
from _books import assert_equal_books
from _prices import priced
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_openai import ChatOpenAI
from ragas import EvaluationDataset, RunConfig, SingleTurnSample
from ragas.llms import LangchainLLMWrapper
from ragas.metrics import AspectCritic
from ragas.metrics.base import MetricType, SingleTurnMetric

from genmeter.hooks import ragas as hook
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _model_server import ModelServer


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor that the hook records to."""
    with warnings.catch_warnings(), isolated_monitor(priced()) as monitor:
        warnings.simplefilter("ignore")
        hook.install(monitor)
        yield monitor
        hook.uninstall()


class Length(SingleTurnMetric):
    """Scores without a model: a number, NaN, an error or a wait, as the answer says."""

    name = "length"
    _required_columns = {MetricType.SINGLE_TURN: {"response"}}  # noqa: RUF012 - ragas's form

    def init(self, run_config: Any) -> None:
        """Do nothing."""

    async def _single_turn_ascore(self, sample: Any, callbacks: Any) -> float:
        if sample.response == "raise":
            raise ValueError("no score")
        if sample.response == "wait":
            await asyncio.sleep(30)
        return float("nan") if sample.response == "nan" else float(len(sample.response))


def _data(*answers: str) -> EvaluationDataset:
    return EvaluationDataset(
        samples=[SingleTurnSample(user_input="q", response=answer) for answer in answers]
    )


def _evaluate(*answers: str, **arguments: Any) -> Any:
    arguments = {"metrics": [Length()], "show_progress": False, **arguments}
    return ragas.evaluate(_data(*answers), **arguments)


def _rows(monitor: IsolatedMonitor) -> list[tuple[Any, ...]]:
    frame = monitor.to_frame("evaluations")
    return sorted(
        (
            row["evaluator"],
            row["success"],
            str(row.get("score_length")).replace("None", "nan"),
            str(row["error_type"]),
        )
        for row in frame.to_dict("records")
    )


def test_each_score_is_an_evaluation(monitor: IsolatedMonitor) -> None:
    """With the time that it took, which is its own."""
    result = _evaluate("a", "bb")
    assert result["length"] == [1.0, 2.0]
    assert _rows(monitor) == [("length", True, "1.0", "None"), ("length", True, "2.0", "None")]
    assert (monitor.to_frame("evaluations")["duration_seconds"] > 0).all()


def test_score_that_is_no_number_is_a_failed_evaluation(monitor: IsolatedMonitor) -> None:
    """NaN of the metric, an error and a timeout: ragas returns NaN for all of them."""
    result = _evaluate("a", "nan", "raise", "wait", run_config=RunConfig(timeout=1, max_retries=1))
    assert sum(score != score for score in result["length"]) == 3  # noqa: PLR0124 - NaN
    assert _rows(monitor) == [
        ("length", False, "nan", "TimeoutError"),
        ("length", False, "nan", "ValueError"),
        ("length", False, "nan", "nan"),
        ("length", True, "1.0", "None"),
    ]


def test_run_that_raises_has_a_failed_evaluation(monitor: IsolatedMonitor) -> None:
    """The error goes on to the job."""
    with pytest.raises(ValueError, match="no score"):
        _evaluate("raise", raise_exceptions=True)
    assert _rows(monitor) == [("length", False, "nan", "ValueError")]


async def test_asynchronous_run(monitor: IsolatedMonitor) -> None:
    """``aevaluate`` is wrapped too, and counts once."""
    await ragas.aevaluate(_data("a", "bb"), metrics=[Length()], show_progress=False)
    assert len(_rows(monitor)) == 2


@pytest.mark.parametrize("kind", [list, CallbackManager])
def test_callbacks_of_the_job_are_kept(monitor: IsolatedMonitor, kind: Any) -> None:
    """They are called as before, and the job's object gets no handler of ours."""
    seen: list[Any] = []

    class Own(BaseCallbackHandler):
        def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
            seen.append(outputs)

    own = Own()
    given = [own] if kind is list else CallbackManager([own], inheritable_handlers=[own])
    _evaluate("a", callbacks=given)
    assert {"output": 1.0} in seen
    assert len(_rows(monitor)) == 1
    handlers = given if kind is list else given.handlers
    assert not any(type(each).__module__.startswith("genmeter") for each in handlers)


def test_scores_by_a_model_equal_the_books(server: ModelServer, monitor: IsolatedMonitor) -> None:
    """Its calls come from LangChain's hook, where that is installed."""
    langchain = pytest.importorskip("genmeter.hooks.langchain")
    langchain.install(monitor)
    try:
        server.reply = lambda text, body: '{"reason": "so", "verdict": 1}'
        model = ChatOpenAI(model="m", base_url=f"{server.url}/v1", api_key="k")
        critic = AspectCritic("harmless", "Is it harmless?", llm=LangchainLLMWrapper(model))
        _evaluate("a", "b", metrics=[critic])
    finally:
        langchain.uninstall()
    assert len(server.books) == 2
    assert_equal_books(monitor, server)
    frame = monitor.to_frame("evaluations")
    assert list(frame["evaluator"]) == ["harmless"] * 2
    assert list(frame["score_harmless"]) == [1.0, 1.0]


def test_uninstall_restores_the_functions() -> None:
    """The package is as before."""
    before = (ragas.evaluate, ragas.aevaluate, ragas.evaluation.evaluate)
    with isolated_monitor() as monitor:
        hook.install(monitor)
        hook.install(monitor)
        assert ragas.evaluate is not before[0]
        hook.uninstall()
    assert (ragas.evaluate, ragas.aevaluate, ragas.evaluation.evaluate) == before
