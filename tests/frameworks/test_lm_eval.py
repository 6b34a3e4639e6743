"""lm-evaluation-harness, over loopback: the calls of its API models, and the scores of a run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("lm_eval")

import aiohttp
from _books import assert_equal_books, recorded_calls
from _prices import priced
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.api_models import JsonChatStr, TemplateAPI
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

from _waiting import eventually
from genmeter.hooks import lm_eval as hook
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _model_server import ModelServer


@pytest.fixture
def monitor() -> Iterator[IsolatedMonitor]:
    """Return a monitor that the hook records to."""
    with isolated_monitor(priced()) as monitor:
        hook.install(monitor)
        yield monitor
        hook.uninstall()


def _chat(server: ModelServer, **arguments: Any) -> LocalChatCompletion:
    arguments = {"max_retries": 1, **arguments}
    return LocalChatCompletion(base_url=f"{server.url}/v1/chat/completions", model="m", **arguments)


def _requests(*texts: str, task: str = "questions") -> list[Instance]:
    return [
        Instance(
            request_type="generate_until",
            doc={},
            arguments=(_message(text), {"until": ["\n\n"]}),
            idx=0,
            metadata=(task, number, 1),
        )
        for number, text in enumerate(texts)
    ]


def _message(text: str) -> JsonChatStr:
    import json

    return JsonChatStr(json.dumps([{"role": "user", "content": text}]))


@pytest.mark.parametrize("at_once", [1, 4])
def test_calls_equal_the_books(server: ModelServer, monitor: IsolatedMonitor, at_once: int) -> None:
    """One after the other and at once: tokens, outcomes and steps are those of the server."""
    texts = ["one", "two [[cached]]", "three [[length]]", "four [[reasoning]]", "one [[no usage]]"]
    answers = _chat(server, num_concurrent=at_once).generate_until(_requests(*texts))
    assert len(answers) == len(texts)
    assert_equal_books(monitor, server)
    assert set(monitor.to_frame("generations")["step"]) == {"questions"}


def test_completions_equal_the_books(server: ModelServer, monitor: IsolatedMonitor) -> None:
    """The older API has its own operation."""
    model = LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions", model="m", tokenizer_backend=None, max_retries=1
    )
    requests = [
        Instance("generate_until", {}, (text, {"until": ["\n"]}), 0, ("t", 0, 1))
        for text in ("one", "two")
    ]
    model.generate_until(requests)
    assert_equal_books(monitor, server)
    assert [call.operation for call in recorded_calls(monitor)] == ["text_completion"] * 2


@pytest.mark.parametrize("at_once", [1, 2])
def test_repeated_request_is_one_call(
    server: ModelServer, monitor: IsolatedMonitor, at_once: int
) -> None:
    """The harness sends a request again after an error: one success with a retry."""
    model = _chat(server, num_concurrent=at_once, max_retries=3)
    model.generate_until(_requests("one [[429 then ok]]", "two"))
    assert_equal_books(monitor, server)
    assert monitor.value("genmeter_retries_total", error_type="rate_limited") == 1


@pytest.mark.parametrize("at_once", [1, 2])
def test_request_that_always_fails_is_one_failure(
    server: ModelServer, monitor: IsolatedMonitor, at_once: int
) -> None:
    """The last attempt's error is the call's."""
    model = _chat(server, num_concurrent=at_once, max_retries=2)
    with pytest.raises(Exception, match="500"):
        model.generate_until(_requests("one [[500]]"))
    assert len(server.books) == 2
    [call] = recorded_calls(monitor)
    assert call.outcome == "failure"
    assert monitor.value("genmeter_retries_total") == 1


def test_request_without_repetition_is_recorded_at_once(
    server: ModelServer, monitor: IsolatedMonitor
) -> None:
    """A method that is called by the job itself is not called again."""
    model = _chat(server, max_retries=3)
    with pytest.raises(Exception, match="500"):
        model.model_call([_message("one [[500]]")], gen_kwargs={})
    assert [call.outcome for call in recorded_calls(monitor)] == ["failure"]


async def test_cancelled_request_is_cancelled(
    server: ModelServer, monitor: IsolatedMonitor
) -> None:
    """A task that is cancelled is no failure."""
    model = _chat(server, num_concurrent=2)
    async with aiohttp.ClientSession() as session:
        task = asyncio.ensure_future(
            model.amodel_call(
                session, asyncio.Semaphore(1), [_message("one [[slow 30]]")], gen_kwargs={}
            )
        )
        await asyncio.to_thread(eventually, lambda: bool(server.books))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert_equal_books(monitor, server)


def test_steps_of_several_tasks(server: ModelServer, monitor: IsolatedMonitor) -> None:
    """Each request has its own task, unless two tasks ask the same."""
    requests = [
        *_requests("one", "both", task="first"),
        *_requests("two", "both", task="second"),
    ]
    _chat(server).generate_until(requests)
    steps = monitor.to_frame("generations")["step"].value_counts(dropna=False)
    assert (steps["first"], steps["second"]) == (1, 1)
    assert len(server.books) == 4


def test_scores_of_a_run_are_an_evaluation(
    server: ModelServer, monitor: IsolatedMonitor, tmp_path: Any
) -> None:
    """Each metric of each task is a score; standard errors are none."""
    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "one [[say yes]]", "answer": "yes"}\n' * 2)
    task = ConfigurableTask(
        config={
            "task": "questions",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["\n\n"]},
            "metric_list": [{"metric": "exact_match"}],
        }
    )
    results = evaluator.simple_evaluate(
        model=_chat(server), tasks=[task], apply_chat_template=True, bootstrap_iters=0
    )
    assert results is not None
    [row] = monitor.to_frame("evaluations").to_dict("records")
    assert (row["evaluator"], row["success"], row["step"]) == ("lm_eval", True, "questions")
    assert row["score_questions.exact_match"] == 1.0
    assert_equal_books(monitor, server)


def test_uninstall_restores_the_methods(server: ModelServer) -> None:
    """The harness is as before."""
    names = ("model_call", "amodel_call", "generate_until", "loglikelihood_rolling")
    before = [vars(TemplateAPI)[name] for name in names], evaluator.evaluate
    with isolated_monitor() as monitor:
        hook.install(monitor)
        assert vars(TemplateAPI)["model_call"] is not before[0][0]
        hook.uninstall()
        assert ([vars(TemplateAPI)[name] for name in names], evaluator.evaluate) == before
        _chat(server).generate_until(_requests("one"))
        assert recorded_calls(monitor) == []
