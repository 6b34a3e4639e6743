"""DSPy's hook with the real DSPy, against the books of the model server."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from _books import assert_equal_books, recorded_calls
from _prices import priced

import genmeter.hooks
from _waiting import eventually
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _model_server import ModelServer

dspy = pytest.importorskip("dspy")

ANSWER = "[[ ## reasoning ## ]]\nso\n\n[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"
ENGINES = ("auto", "litellm")


class Program(dspy.Module):  # type: ignore[misc, name-defined]
    """A program of two predictors."""

    def __init__(self) -> None:
        super().__init__()
        self.think = dspy.ChainOfThought("question -> answer")
        self.reply = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        """Think, then reply."""
        self.think(question=question)
        return self.reply(question=question)


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[IsolatedMonitor]:
    """Return a monitor that has the calls of DSPy, which has a cache of the test's own."""
    dspy.configure_cache(disk_cache_dir=str(tmp_path), enable_disk_cache=False)
    with isolated_monitor(priced(), metrics_interval=None) as monitor:
        genmeter.hooks.install("dspy", monitor=monitor)
        yield monitor
        genmeter.hooks.uninstall("dspy")


def _model(server: ModelServer, engine: str = "auto", **options: Any) -> Any:
    options = {"cache": False, "num_retries": 2, **options}
    return dspy.LM(
        "openai/gpt-4o-mini", api_base=f"{server.url}/v1", api_key="k", engine=engine, **options
    )


def _rows(monitor: IsolatedMonitor) -> list[dict[str, Any]]:
    monitor.flush()
    rows: list[dict[str, Any]] = monitor.to_frame("generations").to_dict("records")
    return rows


@pytest.mark.parametrize("engine", ENGINES)
def test_calls_tokens_cost_and_outcomes_equal_the_books(
    monitor: IsolatedMonitor, server: ModelServer, engine: str
) -> None:
    """Cached tokens, a retry, an error; with the cost that DSPy states."""
    model = _model(server, engine)
    model("one [[cached]] [[reasoning]]")
    model("again [[429 then ok]]")
    with pytest.raises(Exception, match="400"):
        model("bad [[400]]")
    assert_equal_books(monitor, server)
    rows = _rows(monitor)
    assert rows[0]["cost_usd"] == pytest.approx(1013 * 15e-8 + 107 * 6e-7, rel=0.05)
    assert (rows[0]["provider"], rows[0]["finish_reason"]) == ("openai", "stop")


@pytest.mark.parametrize("engine", ENGINES)
def test_concurrent_calls_have_their_own_tokens(
    monitor: IsolatedMonitor, server: ModelServer, engine: str
) -> None:
    """Threads share one model and its history."""
    model = _model(server, engine)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(model, ["same"] * 8 + [f"other {i}" for i in range(24)]))
    assert_equal_books(monitor, server)


@pytest.mark.parametrize("engine", ENGINES)
async def test_async_and_cancelled_calls(
    monitor: IsolatedMonitor, server: ModelServer, engine: str
) -> None:
    """Tasks share one model, too."""
    model = _model(server, engine)
    await asyncio.gather(*[model.acall(f"many {i}") for i in range(10)])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(model.acall("slow [[slow 30]]"), 0.5)
    assert_equal_books(monitor, server)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_hit_in_the_cache_is_no_call(
    monitor: IsolatedMonitor, server: ModelServer, engine: str
) -> None:
    """Nothing is sent, nor billed, though DSPy keeps the cost in its history."""
    model = _model(server, engine, cache=True)
    model(f"same {engine}")
    model(f"same {engine}")
    assert len(server.books) == 1
    assert_equal_books(monitor, server)


def test_steps_are_the_predictors_of_the_program(
    monitor: IsolatedMonitor, server: ModelServer
) -> None:
    """By the class of the program and their paths."""
    server.reply = lambda _, __: ANSWER
    with dspy.context(lm=_model(server)):
        Program()(question="one")
        dspy.Predict("question -> answer")(question="two")
    assert_equal_books(monitor, server)
    assert [row["step"] for row in _rows(monitor)] == [
        "Program.think.predict",
        "Program.reply",
        "Predict",
    ]


def test_an_evaluation_has_the_mean_of_its_scores(
    monitor: IsolatedMonitor, server: ModelServer
) -> None:
    """Its calls come from threads."""
    server.reply = lambda _, __: ANSWER
    rows = [
        dspy.Example(question=str(i), answer="yes" if i < 3 else "no").with_inputs("question")
        for i in range(4)
    ]

    def is_right(example: Any, prediction: Any, trace: Any = None) -> bool:
        del trace
        right: bool = example.answer == prediction.answer
        return right

    with dspy.context(lm=_model(server)):
        dspy.Evaluate(devset=rows, metric=is_right, num_threads=2)(Program())
    assert_equal_books(monitor, server)
    [evaluation] = monitor.to_frame("evaluations").to_dict("records")
    assert (evaluation["evaluator"], evaluation["score_is_right"]) == ("dspy.Evaluate", 0.75)
    assert bool(evaluation["success"])
    assert evaluation["metadata_samples"] == 4


def test_a_jobs_own_callbacks_replace_nothing(
    monitor: IsolatedMonitor, server: ModelServer
) -> None:
    """And ours change nothing for theirs."""
    seen = []

    class Own(dspy.utils.callback.BaseCallback):  # type: ignore[misc, name-defined]
        """A callback of the job."""

        def on_lm_end(self, call_id: Any, outputs: Any, exception: Any = None) -> None:
            del call_id, exception
            seen.append(outputs)

    with dspy.context(callbacks=[Own()]):
        _model(server)("one")
    _model(server, callbacks=[Own()])("two")
    assert len(seen) == 2
    assert_equal_books(monitor, server)


def test_models_made_before_are_seen(server: ModelServer) -> None:
    """They have no callback of their own, so it is one of the settings."""
    model = _model(server)
    with isolated_monitor(metrics_interval=None) as monitor:
        genmeter.hooks.install("dspy", monitor=monitor)
        model("one")
        genmeter.hooks.uninstall("dspy")
        model("two")
        assert [call.input for call in recorded_calls(monitor)] == [server.books[0].input]
    assert not [each for each in dspy.settings.callbacks if "Genmeter" in type(each).__name__]


def test_another_thread_may_still_configure(monitor: IsolatedMonitor, server: ModelServer) -> None:
    """The hook never calls dspy.configure, which belongs to the first thread that does."""
    del monitor
    settings: Any = sys.modules["dspy.dsp.utils.settings"]
    before = settings.config_owner_thread_id
    settings.config_owner_thread_id = None
    errors: list[BaseException] = []

    def configure() -> None:
        try:
            dspy.configure(num_threads=dspy.settings.num_threads)
        except RuntimeError as error:
            errors.append(error)

    try:
        genmeter.hooks.install("dspy")
        thread = threading.Thread(target=configure)
        thread.start()
        thread.join()
    finally:
        settings.config_owner_thread_id = before
    assert errors == []
    assert _model(server).callbacks


def test_programs_are_copied_and_saved_without_the_hook(
    monitor: IsolatedMonitor, server: ModelServer
) -> None:
    """A copy is observed; what is saved has a callback of DSPy's that does nothing."""
    model = _model(server)
    copy.deepcopy(model.callbacks)
    model.copy()("one")
    assert_equal_books(monitor, server)
    loaded = pickle.loads(pickle.dumps(model.callbacks))  # noqa: S301
    assert [type(each).__module__ for each in loaded] == ["dspy.utils.callback"]


def test_dspy_and_litellm_count_a_call_once(monitor: IsolatedMonitor, server: ModelServer) -> None:
    """Whichever engine makes the request."""
    import genmeter.hooks.litellm as litellm_hook

    genmeter.hooks.install("litellm", monitor=monitor)
    try:
        for engine in ENGINES:
            model = _model(server, engine)
            model(f"one {engine}")
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(model, [f"{i} {engine}" for i in range(8)]))
            with pytest.raises(Exception, match="400"):
                model(f"bad {engine} [[400]]")
        litellm_hook.flush()
        eventually(lambda: not litellm_hook._began)
    finally:
        genmeter.hooks.uninstall("litellm")
    assert_equal_books(monitor, server)


def test_without_a_history_the_tokens_are_unknown(
    monitor: IsolatedMonitor, server: ModelServer
) -> None:
    """And not 0, nor those of another call."""
    model = _model(server)
    model("one")
    with dspy.context(disable_history=True):
        model("two")
    first, second = recorded_calls(monitor)
    assert (first.input, second.input) == (server.books[0].input, None)
