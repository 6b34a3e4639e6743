"""LiteLLM's hook on a fake of its callbacks, with what the real one does not send."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
import types
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from _hostile import VALUES

import genmeter.hooks
from _waiting import eventually
from genmeter.observed.hook import HookRecorder
from genmeter.observed.identity import current_or_outside
from genmeter.observed.model import ObservedCall
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator

hook: Any = importlib.import_module("genmeter.hooks.litellm")

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
RESPONSE = {"id": "r-1", "model": "m-1", "choices": [], "usage": USAGE}


class _Logger:
    """The base class of LiteLLM's loggers."""

    def log_success_event(self, *args: Any) -> None: ...

    log_failure_event = log_pre_api_call = log_post_api_call = log_success_event

    async def async_log_success_event(self, *args: Any) -> None: ...


class Logging:
    """LiteLLM's object of a call."""

    def __init__(self, logger: Any, key: str, **details: Any) -> None:
        self.logger = logger
        self.model_call_details: dict[str, Any] = {
            "litellm_call_id": key,
            "model": "m",
            "custom_llm_provider": "openai",
            "call_type": "completion",
            "stream": False,
            **details,
        }

    def pre_call(self) -> None:
        """Send the request."""
        self.logger.log_pre_api_call("m", [], self.model_call_details)

    def post_call(self, answer: Any) -> None:
        """Take the answer."""
        self.model_call_details["original_response"] = answer
        self.logger.log_post_api_call(self.model_call_details, None, None, None)

    def success(self, response: Any, **details: Any) -> None:
        """Report the call."""
        self.model_call_details.update(details)
        end = datetime.now()  # noqa: DTZ005 - as LiteLLM does
        self.logger.log_success_event(
            self.model_call_details, response, end - timedelta(seconds=2), end
        )

    def failure(self, error: Any) -> None:
        """Report the call."""
        self.model_call_details.update(exception=error, response_cost=0)
        end = datetime.now()  # noqa: DTZ005
        self.logger.log_failure_event(
            self.model_call_details, None, end - timedelta(seconds=2), end
        )


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a fake of the module."""
    names = ("litellm", "litellm.integrations", "litellm.integrations.custom_logger")
    modules: dict[str, Any] = {name: types.ModuleType(name) for name in names}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    modules["litellm.integrations.custom_logger"].CustomLogger = _Logger
    modules["litellm"].callbacks = []
    modules["litellm"].success_callback = []
    modules["litellm"].openai_compatible_providers = ["groq"]
    hook._hook._once.clear()
    monkeypatch.setattr(hook._hook, "aside", None)
    return modules["litellm"]


@pytest.fixture
def monitor(litellm: Any) -> Iterator[IsolatedMonitor]:
    """Return a monitor that has the calls."""
    del litellm
    with isolated_monitor(metrics_interval=None) as monitor:
        genmeter.hooks.install("litellm", monitor=monitor)
        yield monitor
        genmeter.hooks.uninstall("litellm")


@pytest.fixture
def logger(monitor: IsolatedMonitor, litellm: Any) -> Any:
    """Return the logger."""
    del monitor
    [logger] = litellm.callbacks
    return logger


def _rows(monitor: IsolatedMonitor) -> list[dict[str, Any]]:
    monitor.flush()
    rows: list[dict[str, Any]] = monitor.to_frame("generations").to_dict("records")
    return rows


def test_a_reported_call_has_its_own_times_and_cost(logger: Any, monitor: IsolatedMonitor) -> None:
    """Whenever it is reported; and once, by whichever of LiteLLM's lists."""
    logging = Logging(logger, "1")
    logging.pre_call()
    logging.pre_call()  # repeated without a report
    logging.success(RESPONSE, response_cost=0.25)
    [row] = _rows(monitor)
    assert (row["model"], row["provider"], row["response_model"]) == ("m", "openai", "m-1")
    assert (row["input_tokens"], row["cost_usd"]) == (10, 0.25)
    assert row["duration_seconds"] == pytest.approx(2, abs=0.01)


def test_a_second_report_of_a_call_is_ignored(logger: Any, monitor: IsolatedMonitor) -> None:
    """With the same times, but an answer after a failure is a call of its own."""
    payload = {"startTime": 1e9, "endTime": 1e9 + 1}
    logging = Logging(logger, "1", standard_logging_object=payload)
    logging.pre_call()
    logging.failure(ValueError())
    logging.failure(ValueError())
    logging.pre_call()
    logging.success(RESPONSE)
    logging.success(RESPONSE)
    assert [row["outcome"] for row in _rows(monitor)] == ["failure", "success"]


def test_a_report_of_the_function_around_a_call_is_ignored(
    logger: Any, monitor: IsolatedMonitor
) -> None:
    """Both may report a text completion, whichever comes first; a later call has the same id if it is given."""
    logging = Logging(logger, "1")
    for inner_first in (True, False):
        start = 1e9 + 10 * inner_first
        inner = {"startTime": start + 0.001, "endTime": start + 1}
        outer = {"startTime": start, "endTime": start + 1.002}
        logging.pre_call()
        for payload in (inner, outer) if inner_first else (outer, inner):
            logging.success(RESPONSE, standard_logging_object=payload)
    # A mocked answer needs no request.
    logging.success(RESPONSE, standard_logging_object={"startTime": 2e9, "endTime": 2e9 + 1})
    assert len(_rows(monitor)) == 3


def _fail(monitor: IsolatedMonitor) -> None:
    """Observe what a watched client does whose request fails."""
    keywords = {"model_name": "m", "provider": "openai", "operation": "chat"}
    source, known = "genmeter.openai", current_or_outside()
    monitor.observer.observe(ObservedCall(source, 1e9 + 1, 1.0, False, keywords, identity=known))


@pytest.mark.parametrize("is_replaced", [True, False], ids=["replaced", "imported before"])
def test_failures_beside_a_call_are_others(litellm: Any, is_replaced: bool) -> None:
    """What fails inside is the call's, and nothing else; of a function imported before, by times only."""
    loggings: list[Logging] = []
    payload = {"startTime": 1e9, "endTime": 1e9 + 1}

    def completion(logger: Any, *, is_watched: bool) -> None:
        loggings.append(Logging(logger, str(len(loggings)), standard_logging_object=payload))
        loggings[-1].pre_call()
        if is_watched:
            _fail(monitor)

    litellm.completion = completion
    with isolated_monitor(metrics_interval=None) as monitor:
        genmeter.hooks.install("litellm", monitor=monitor)
        [logger] = litellm.callbacks
        call = litellm.completion if is_replaced else completion
        assert (call is completion) is not is_replaced
        _fail(monitor)
        for is_watched in (True, False, True):
            call(logger, is_watched=is_watched)
        for each in loggings:
            each.failure(ValueError())
        count = len(_rows(monitor))
        genmeter.hooks.uninstall("litellm")
        assert litellm.completion is completion
    assert count == (4 if is_replaced else 3)


def test_a_call_without_a_request_is_no_other(litellm: Any, monitor: IsolatedMonitor) -> None:
    """As that of a model that LiteLLM does not know, beside the failure of a client."""
    [logger] = litellm.callbacks
    payload = {"startTime": 1e9, "endTime": 1e9 + 1}
    _fail(monitor)
    Logging(logger, "1", standard_logging_object=payload).failure(ValueError())
    assert len(_rows(monitor)) == 2


def test_an_id_of_two_calls_is_no_identity(litellm: Any) -> None:
    """A Router repeats a call by its id, perhaps before the first failure is reported."""
    functions = []

    def completion(logging: Logging) -> None:
        logging.pre_call()
        functions.append(hook._began.get("1").identity)

    litellm.completion = completion
    with isolated_monitor(metrics_interval=None) as monitor:
        genmeter.hooks.install("litellm", monitor=monitor)
        logging = Logging(litellm.callbacks[0], "1")
        litellm.completion(logging)
        litellm.completion(logging)
        genmeter.hooks.uninstall("litellm")
    assert functions[0] is not None
    assert functions[1] is None


@pytest.mark.parametrize(("cost", "expected"), [(0.0, None), (0.25, 0.25)])
def test_counts_of_zero_are_none(
    logger: Any, monitor: IsolatedMonitor, cost: float, expected: float | None
) -> None:
    """LiteLLM makes them up for an answer without usage; a cost of its own is one."""
    logging = Logging(logger, "1")
    logging.pre_call()
    zero = dict.fromkeys(USAGE, 0)
    logging.success({**RESPONSE, "usage": zero}, response_cost=cost)
    [row] = _rows(monitor)
    assert row["usage_unread"] == "no_usage"
    assert row["input_tokens"] != 0
    assert (row["cost_usd"] == 0.25) if expected else (row["cost_usd"] != 0)


def test_a_hit_in_the_cache_is_no_call(logger: Any, monitor: IsolatedMonitor) -> None:
    """As the keywords or the payload say."""
    Logging(logger, "1").success(RESPONSE, cache_hit=True)
    Logging(logger, "2", standard_logging_object={"cache_hit": True}).success(RESPONSE)
    assert _rows(monitor) == []


def test_a_call_that_is_not_reported_is_cancelled(logger: Any, monitor: IsolatedMonitor) -> None:
    """Its object is gone; but not if the answer came, or its failure was reported before."""
    logging = Logging(logger, "1")
    logging.pre_call()
    del logging
    logging = Logging(logger, "2")
    logging.pre_call()
    logging.post_call("{}")
    del logging
    logging = Logging(logger, "3")
    logging.pre_call()
    logging.failure(ValueError())
    logging.pre_call()
    del logging
    gc.collect()
    assert [row["outcome"] for row in _rows(monitor)] == ["cancelled", "success", "failure"]


@pytest.mark.parametrize("answer", [RESPONSE, json.dumps(RESPONSE)], ids=["object", "JSON"])
def test_an_answer_without_a_report_is_counted(
    logger: Any, monitor: IsolatedMonitor, answer: Any
) -> None:
    """As where an event loop ends right after it; once, beside what its client has observed."""
    logging = Logging(logger, "1")
    logging.pre_call()
    logging.post_call(answer)
    del logging
    gc.collect()
    client = HookRecorder(monitor, "genmeter.openai")
    client.response_id = str(RESPONSE["id"])
    client.record_call(0.1, True, {"model_name": "m", "prompt_token_count": 11}, None)
    [row] = _rows(monitor)
    assert (row["input_tokens"], row["output_tokens"]) == (10, 5)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_call_of_a_loop_that_has_ended_is_counted(
    logger: Any, monitor: IsolatedMonitor, is_stream: bool
) -> None:
    """Though its object stays, as in a worker of a pool; and once, if LiteLLM reports it all the same."""
    logging = Logging(logger, "1", stream=is_stream)

    async def call() -> None:
        logging.pre_call()
        logging.post_call(RESPONSE)

    asyncio.run(call())
    monitor.shutdown()
    logging.success(RESPONSE)
    [row] = monitor.to_frame("generations").to_dict("records")
    assert row["outcome"] == "success"
    if is_stream:
        assert row["usage_unread"] == "not_reported"
    else:
        assert (row["input_tokens"], row["output_tokens"]) == (10, 5)


def test_a_call_of_a_loop_that_goes_on_waits_for_its_report(
    logger: Any, monitor: IsolatedMonitor
) -> None:
    """However often the monitor is flushed."""
    logging = Logging(logger, "1")

    async def call() -> None:
        logging.pre_call()
        logging.post_call(RESPONSE)
        monitor.observer.settle(5)
        assert _rows(monitor) == []
        logging.success(RESPONSE, response_cost=0.25)

    asyncio.run(call())
    [row] = _rows(monitor)
    assert row["cost_usd"] == 0.25


def test_a_block_gets_the_answer_before_it_ends(logger: Any, monitor: IsolatedMonitor) -> None:
    """LiteLLM's report comes later, and counts nothing more."""
    logging = Logging(logger, "1")
    with monitor.generation(step="judge"):
        logging.pre_call()
        logging.post_call(json.dumps(RESPONSE))
    logging.success(RESPONSE)
    [row] = _rows(monitor)
    assert (row["step"], row["model"], row["input_tokens"]) == ("judge", "m", 10)


def test_a_report_after_the_end_of_its_block_is_not_counted(
    logger: Any, monitor: IsolatedMonitor
) -> None:
    """The block was the call, whatever it knows."""
    logging = Logging(logger, "1")
    with monitor.generation(model="outer") as call:
        logging.pre_call()
        call.usage(prompt_token_count=1, completion_token_count=1)
    logging.success(RESPONSE)
    assert [row["model"] for row in _rows(monitor)] == ["outer"]


@pytest.mark.parametrize(
    ("provider", "options", "is_known"),
    [
        ("openai", {}, False),
        ("groq", {}, False),
        ("openai", {"stream_options": {"include_usage": True}}, True),
        ("openai", {"optional_params": {"stream_options": {"include_usage": True}}}, True),
        ("openai", {"stream_options": {"include_usage": False}}, False),
        ("anthropic", {}, True),
    ],
)
def test_estimates_of_streams(
    logger: Any, monitor: IsolatedMonitor, provider: str, options: Any, is_known: bool
) -> None:
    """A count only where the server states it."""
    logging = Logging(logger, "1", stream=True, custom_llm_provider=provider, **options)
    logging.pre_call()
    logging.success(RESPONSE, response_cost=0.5)
    [row] = _rows(monitor)
    assert (
        (row["input_tokens"] == 10) is is_known if is_known else row["usage_unread"] == "no_usage"
    )
    assert (row["cost_usd"] == 0.5) is is_known


@pytest.mark.parametrize("name", VALUES)
def test_hostile_values_do_not_raise(logger: Any, monitor: IsolatedMonitor, name: str) -> None:
    """In every place."""
    value = VALUES[name]
    logging = Logging(
        logger,
        "1",
        model=value,
        custom_llm_provider=value,
        call_type=value,
        standard_logging_object=value,
        optional_params=value,
        stream=value,
    )
    logging.pre_call()
    logging.post_call(value)
    logging.success(value, response_cost=value, cache_hit=None)
    logging.failure(value)
    logger.log_pre_api_call(value, value, value)
    logger.log_post_api_call(value, value, value, value)
    logger.log_success_event(value, value, value, value)
    logger.log_failure_event(value, value, value, value)
    _rows(monitor)


def test_flush_waits_for_reports_within_its_limit(logger: Any, monitor: IsolatedMonitor) -> None:
    """Of calls that were answered."""
    del monitor
    assert hook.flush()
    logging = Logging(logger, "1")
    logging.pre_call()
    assert hook.flush()
    logging.post_call("{}")
    assert not hook.flush(0.0)
    logging.success(RESPONSE)
    assert hook.flush()


def test_without_a_list_of_callbacks_it_steps_aside(
    litellm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """And says what is missing."""
    litellm.callbacks = None
    with isolated_monitor(metrics_interval=None) as monitor:
        genmeter.hooks.install("litellm", monitor=monitor)
        assert genmeter.hooks.connected() == ()
        genmeter.hooks.uninstall("litellm")
    assert eventually(
        lambda: "litellm.callbacks is no list; its calls are not recorded" in caplog.text
    )
