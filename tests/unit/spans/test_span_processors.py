"""Several processors and monitors, their settings and their bounds."""

from __future__ import annotations

import os
from typing import Any

import pytest
from _gen_ai_spans import LANGCHAIN, OPENINFERENCE, Clock, Tracing, rows

import genmeter
from _waiting import eventually
from genmeter import ConfigError, GenAISpanProcessor, MonitorConfig
from genmeter.observed import blocks
from genmeter.observed.observer import HELD_SECONDS
from genmeter.spans import monitors
from genmeter.spans.monitors import process_monitor
from genmeter.testing import IsolatedMonitor, fresh_runtime, isolated_monitor


def test_processor_added_twice(monitor: IsolatedMonitor) -> None:
    """Each call once, in a block too."""
    processor = GenAISpanProcessor(monitor)
    tracing = Tracing(processor, processor, GenAISpanProcessor(monitor))
    tracing.call()
    outer = tracing.begin(2.0)
    tracing.call(2.1, 2.9, scope=OPENINFERENCE, parent=outer)
    tracing.finish(outer, 3.0)
    with monitor.generation(model="mine"):
        tracing.call(4.0, 5.0)
    tracing.flush()
    assert [row["input_tokens"] for row in rows(monitor)] == [10, 10, 10]
    for each in tracing.processors:
        each.shutdown()


def test_two_monitors_each_get_every_call(monitor: IsolatedMonitor) -> None:
    """A block of one is no block of the other."""
    other = genmeter.GenerationMonitor()
    tracing = Tracing(GenAISpanProcessor(monitor), GenAISpanProcessor(other))
    tracing.call()
    with monitor.generation(model="mine"):
        tracing.call(2.0, 3.0, tokens=(7, 3))
    tracing.flush()
    assert [row["model"] for row in rows(monitor)] == ["m", "mine"]
    assert [row["model"] for row in rows(other)] == ["m", "m"]
    assert [row["input_tokens"] for row in rows(monitor)] == [10, 7]
    other.shutdown()
    for each in tracing.processors:
        each.shutdown()


@pytest.mark.parametrize("is_first", [True, False])
def test_processor_of_the_process_leaves_calls_to_the_jobs_own(
    monitor: IsolatedMonitor, is_first: bool
) -> None:
    """Beside a processor with another monitor, as under `genmeter run`, a call counts once in both."""
    own = genmeter.GenerationMonitor()
    of_process, of_job = GenAISpanProcessor(), GenAISpanProcessor(own, deny=["logfire."])
    tracing = Tracing(*((of_process, of_job) if is_first else (of_job, of_process)))
    tracing.call()
    outer = tracing.begin(2.0, scope="litellm")
    tracing.call(2.1, 2.9, parent=outer)
    tracing.finish(outer, 3.0)
    with own.generation(model="mine"):
        tracing.call(4.0, 5.0)
    tracing.call(6.0, 7.0, scope="logfire.openai", tokens=(7, 3))  # not the job's
    tracing.flush()
    assert [row["input_tokens"] for row in rows(own)] == [10, 10, 10]
    assert [row["input_tokens"] for row in rows(monitor)] == [7]
    assert genmeter.process_token_usage().total_tokens == 55
    own.shutdown()
    tracing.call(8.0, 9.0)
    tracing.flush()
    assert [row["input_tokens"] for row in rows(monitor)] == [7, 10]
    for each in tracing.processors:
        each.shutdown()


def test_processor_of_the_process_beside_one_of_the_same_monitor(monitor: IsolatedMonitor) -> None:
    """A call is inside of its parent as without the second."""
    tracing = Tracing(GenAISpanProcessor(), GenAISpanProcessor(monitor))
    outer = tracing.begin(0.0)
    tracing.call(0.1, 0.9, scope=OPENINFERENCE, parent=outer, tokens=(1, 1))
    tracing.finish(outer, 1.0)
    tracing.flush()
    assert [row["input_tokens"] for row in rows(monitor)] == [10]
    for each in tracing.processors:
        each.shutdown()


def test_allowed_and_denied_scopes(monitor: IsolatedMonitor) -> None:
    """By prefix; the calls inside of a denied span count."""
    tracing = Tracing(
        GenAISpanProcessor(monitor, allow=["openinference.", "opentelemetry."], deny=[LANGCHAIN])
    )
    denied = tracing.begin(0.0, scope=LANGCHAIN)
    tracing.call(0.1, 0.5, parent=denied, scope=OPENINFERENCE)
    tracing.call(0.6, 0.7, scope="logfire.openai")
    tracing.finish(denied, 1.0)
    assert len(rows(monitor)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"monitor": 5}, "monitor must be"),
        ({"allow": "openinference"}, "allow must be"),
        ({"allow": [5]}, "allow"),
        ({"deny": [""]}, "deny"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    """Errors name the argument, at construction."""
    with pytest.raises(ConfigError, match=message):
        GenAISpanProcessor(**arguments)
    assert not blocks.is_marking()


def test_inline_drain(clock: Clock) -> None:
    """Calls are there at once, on the caller's thread."""
    del clock
    with isolated_monitor(config=MonitorConfig(drain="inline")) as monitor:
        tracing = Tracing(GenAISpanProcessor(monitor))
        outer = tracing.begin(0.0)
        tracing.call(0.2, 0.9, parent=outer, scope=OPENINFERENCE)
        tracing.finish(outer, 1.0)
        assert len(rows(monitor)) == 1
        tracing.processors[0].shutdown()


def test_process_monitor_is_the_oldest_that_the_job_made(monitor: IsolatedMonitor) -> None:
    """Until it is shut down; then the next one."""
    second = genmeter.GenerationMonitor()
    processor = GenAISpanProcessor()
    tracing = Tracing(processor)
    assert process_monitor() is monitor
    tracing.call()
    tracing.flush()
    monitor.shutdown()
    tracing.call(2.0, 3.0)
    tracing.flush()
    assert (len(rows(monitor)), len(rows(second))) == (1, 1)
    processor.shutdown()


def test_process_monitor_is_made_for_the_first_call_only(monitor: IsolatedMonitor) -> None:
    """And the one that the job makes later takes its place."""
    monitor.shutdown()
    processor = GenAISpanProcessor()
    tracing = Tracing(processor)
    tracing.end(tracing.start(0.0, scope="job"), 1.0)
    assert not processor._destination.has_monitor
    tracing.call()
    made = process_monitor()
    assert len(rows(made)) == 1
    own = genmeter.GenerationMonitor()
    tracing.call(2.0, 3.0)
    assert (len(rows(made)), len(rows(own))) == (1, 1)
    processor.shutdown()


def test_table_of_calls_is_bounded(
    tracing: Tracing, monitor: IsolatedMonitor, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By number and by age; the open spans too."""
    monkeypatch.setattr("genmeter.observed.matching.MAX_CALLS", 5)
    monkeypatch.setattr("genmeter.observed.open_spans.MAX_OPEN", 50)
    for turn in range(20):
        tracing.call(turn * 2.0, turn * 2 + 1.0, gen_ai__response__id=f"r{turn}")
    for turn in range(100):
        tracing.begin(100.0 + turn)
    monitor.flush()
    observer = monitor.observer
    assert len(observer._recent) == 5
    assert len(observer.open_spans) <= 50
    clock.seconds = 61.0
    monitor.flush()
    assert len(observer._recent) == 0
    assert observer._recent._by_id == observer._recent._by_counts == observer._recent._by_key == {}


def test_spans_below_one_call_are_bounded(
    tracing: Tracing, monitor: IsolatedMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long call may have many; of too many the call itself is forgotten."""
    monkeypatch.setattr("genmeter.observed.matching.MAX_KEYS", 20)
    outer = tracing.call(0.0, 1.0)
    for turn in range(50):
        tracing.call(0.01 * turn, 0.01 * turn + 0.005, scope="other", parent=outer)
    monitor.flush()
    assert len(monitor.observer._recent._by_key) <= 20
    assert len(rows(monitor)) <= 50


def test_what_repeats_a_forgotten_call_is_not_kept(
    tracing: Tracing, monitor: IsolatedMonitor, clock: Clock
) -> None:
    """It is dropped as before, and nothing of it stays in the tables."""
    outer = tracing.begin(0.0)
    inner = tracing.begin(0.1, parent=outer, scope="other")
    tracing.finish(outer, 1.0, gen_ai__response__id="r")
    monitor.flush()
    clock.seconds = 61.0
    monitor.flush()
    observer = monitor.observer
    assert len(observer._recent) == 0
    tracing.finish(inner, 1.1, gen_ai__response__id="s")
    monitor.flush()
    assert observer._recent._by_id == observer._recent._by_key == {}
    assert len(observer.open_spans) == 0
    assert len(rows(monitor)) == 1


def test_requests_of_streams_and_lost_calls_are_forgotten(
    tracing: Tracing, monitor: IsolatedMonitor, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a call whose message to the pipeline was lost, after some minutes."""
    request = tracing.begin(0.0, scope="logfire.openai", logfire__span_type="span")
    tracing.finish(request, 0.5, tokens=None)
    monitor.flush()
    with monkeypatch.context() as patch:
        patch.setattr(monitor.observer._sink, "post", lambda function: None)
        tracing.call(6_000.0, 6_001.0)
    assert len(monitor.observer.open_spans) > 0
    clock.seconds = HELD_SECONDS + 61.0
    monitor.flush()
    assert len(monitor.observer.open_spans) == 0


class HostileSpan:
    """A span whose attributes raise."""

    def __getattr__(self, name: str) -> Any:
        raise SystemExit(name)


def test_hostile_span_never_raises(monitor: IsolatedMonitor) -> None:
    """It is counted as an internal error."""
    processor = GenAISpanProcessor(monitor)
    hostile: Any = HostileSpan()
    processor.on_start(hostile)
    processor.on_end(hostile)
    assert monitor.value("genmeter_monitor_events_total", genmeter_reason="internal") == 2
    processor.shutdown()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_begins_empty(tracing: Tracing, monitor: IsolatedMonitor) -> None:
    """What is held back, and what began before, is the parent's."""
    outer = tracing.begin(0.0)
    tracing.call(0.2, 0.9, parent=outer, scope=OPENINFERENCE)
    monitor.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            tracing.finish(outer, 1.0)
            tracing.flush()
            status = 10 + len(rows(monitor))
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 10
    tracing.finish(outer, 1.0)
    tracing.flush()
    assert len(rows(monitor)) == 1


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"GENMETER_MAX_MODELS": "many"}, "exports no metrics: GENMETER_MAX_MODELS"),
        ({"GENMETER_HISTORY_CAPACITY": "-1"}, "exports no metrics: GENMETER_HISTORY_CAPACITY"),
    ],
)
def test_process_monitor_of_wrong_settings_counts_all_the_same(
    variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """It says what is wrong once, and its calls are in the totals of the process."""
    monitors._once.clear()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with fresh_runtime():
        made = process_monitor()
        assert process_monitor() is made
        assert eventually(lambda: words in caplog.text)
        made.track_generation(1.0, True, model_name="m", prompt_token_count=5)
        assert made.get_total_token_usage().total_tokens == 5
    assert caplog.text.count(words) == 1
