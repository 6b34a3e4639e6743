"""Each way of getting usage wrong is logged once, counted on the page and named in every report."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from _report import as_json, report
from _waiting import eventually
from genmeter.exporters._http import ScrapeServer
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CALLS = 3
MODEL = "atlas-large"
CHUNKS: list[dict[str, Any]] = [{"choices": [{"delta": {"content": word}}]} for word in "abc"]


class Ticket:
    """An object that has nothing to do with usage."""


def nothing_reported(monitor: IsolatedMonitor) -> None:
    """A block that ends well and says nothing."""
    with monitor.generation(MODEL):
        pass


def object_of_another_kind(monitor: IsolatedMonitor) -> None:
    """An object whose usage nobody could read."""
    with monitor.generation(MODEL) as call:
        call.usage(Ticket())


def usage_of_null(monitor: IsolatedMonitor) -> None:
    """A response of a server that counts nothing."""
    with monitor.generation(MODEL) as call:
        call.usage({"model": MODEL, "choices": [{"finish_reason": "stop"}], "usage": None})


def decorated_without_usage(monitor: IsolatedMonitor) -> None:
    """A function that returns the text alone."""
    assert monitor.generation(MODEL)(lambda: "the answer")() == "the answer"


def stream_without_usage(monitor: IsolatedMonitor) -> None:
    """A stream that was not asked for its usage."""
    with monitor.generation(MODEL) as call:
        assert list(call.stream(iter(CHUNKS))) == CHUNKS


def decorated_stream_without_usage(monitor: IsolatedMonitor) -> None:
    """The same, returned by a decorated function."""
    assert list(monitor.generation(MODEL)(lambda: iter(CHUNKS))()) == CHUNKS


def stream_given_to_usage(monitor: IsolatedMonitor) -> None:
    """A stream in the place of its chunks, which must not be read."""
    with monitor.generation(MODEL) as call:
        chunks = iter(CHUNKS)
        call.usage(chunks)
        assert list(chunks) == CHUNKS


def keywords_of_another_library(monitor: IsolatedMonitor) -> None:
    """Counts that `usage()` does not know."""
    with monitor.generation(MODEL) as call:
        call.usage(input_tokens=10, output_tokens=5)


def tracked_by_keywords_of_another_library(monitor: IsolatedMonitor) -> None:
    """Counts that `track_generation` does not know."""
    monitor.track_generation(1.0, True, model_name=MODEL, tokens_in=10, completion_tokens=5)


def tracked_without_counts(monitor: IsolatedMonitor) -> None:
    """A model, and none of its tokens."""
    monitor.track_generation(1.0, True, model_name=MODEL)


WAYS = {
    nothing_reported: ("not_reported", "pass the response to usage()"),
    object_of_another_kind: ("not_understood", "Ticket"),
    usage_of_null: ("no_usage", "has no usage"),
    decorated_without_usage: ("not_understood", "str"),
    stream_without_usage: ("no_usage", "include_usage"),
    decorated_stream_without_usage: ("no_usage", "include_usage"),
    stream_given_to_usage: ("stream", "call.stream(stream)"),
    keywords_of_another_library: ("keywords", "prompt_token_count="),
    tracked_by_keywords_of_another_library: ("not_reported", "prompt_token_count="),
    tracked_without_counts: ("not_reported", "prompt_token_count="),
}


@contextmanager
def serving(monitor: IsolatedMonitor) -> Iterator[str]:
    """Serve the page of a monitor; yield its address."""
    server = ScrapeServer(
        lambda openmetrics: monitor.page(openmetrics=openmetrics).encode(), port=0
    )
    server.start()
    try:
        yield server.url
    finally:
        server.close()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings so far."""
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: str(way.__name__))
def test_unread_usage_is_shown_everywhere(
    way: Callable[[IsolatedMonitor], None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It never passes as a call of 0 tokens."""
    reason, remedy = WAYS[way]
    with isolated_monitor(log_dir=tmp_path) as monitor:
        for _ in range(CALLS):
            way(monitor)
        eventually(lambda: any("the token usage of a call" in each for each in messages(caplog)))
        totals = monitor.get_total_token_usage()
        counted = {
            sample.labels["genmeter_reason"]: sample.value
            for sample in monitor.series("genmeter_usage_unread_total")
            if sample.value
        }
        with serving(monitor) as url:
            of_endpoint = as_json(capsys, url)["total"]
            _, text_of_endpoint, _ = report(capsys, url)
        assert monitor.value("genmeter_generations_total", genmeter_outcome="success") == CALLS
        monitor.flush()
    logged = [each for each in messages(caplog) if "the token usage of a call" in each]
    assert len(logged) == 1
    assert MODEL in logged[0]
    assert remedy in "\n".join(messages(caplog))
    assert counted == {reason: CALLS}
    assert (totals.total_tokens, totals.calls_without_usage) == (0, CALLS)
    shown = f"Calls without usage: {CALLS}"
    assert shown in str(totals)
    assert of_endpoint["calls_without_usage"] == CALLS
    assert shown in text_of_endpoint
    assert as_json(capsys, tmp_path)["total"]["calls_without_usage"] == CALLS
    _, text, _ = report(capsys, tmp_path)
    assert shown in text


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("prompt_tokens", "prompt_token_count"),
        ("input_tokens", "prompt_token_count"),
        ("output_tokens", "completion_token_count"),
        ("prompt_token_cuont", "prompt_token_count"),
        ("completion_tokens_count", "completion_token_count"),
        ("model", "model_name"),
    ],
)
def test_wrong_keyword_is_logged_once_with_the_right_one(
    wrong: str, right: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And counted each time; it stays data of the call."""
    with isolated_monitor() as monitor:
        for _ in range(CALLS):
            monitor.track_generation(1.0, True, **{wrong: 7})
        eventually(lambda: any(f"{wrong}=" in each for each in messages(caplog)))
        counted = monitor.value("genmeter_monitor_events_total", genmeter_reason="misnamed")
    logged = [each for each in messages(caplog) if f"{wrong}=" in each and f"{right}=" in each]
    assert len([each for each in logged if "did you mean" in each]) == 1
    assert counted == CALLS


def test_milliseconds_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Calls that follow each other at once cannot each have taken minutes."""
    with isolated_monitor() as monitor:
        for number in range(40):
            monitor.track_generation(900.0 + number, True, prompt_token_count=1)
        eventually(lambda: any("milliseconds" in each for each in messages(caplog)))
        frame = monitor.to_frame("generations")
    assert len([each for each in messages(caplog) if "milliseconds" in each]) == 1
    assert frame["duration_seconds"].min() == 900.0  # never changed


def test_seconds_are_not_taken_for_milliseconds(caplog: pytest.LogCaptureFixture) -> None:
    """Slow calls among quick ones are just slow."""
    with isolated_monitor() as monitor:
        for number in range(40):
            seconds = 400.0 if number % 8 == 0 else 2.0
            monitor.track_generation(seconds, True, prompt_token_count=1)
        monitor.flush()
    assert not [each for each in messages(caplog) if "milliseconds" in each]


def test_shared_handle_is_logged_once_and_counts_right(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two tasks in one handle at once are two calls with their own tokens."""

    async def run(monitor: IsolatedMonitor) -> None:
        handle = monitor.generation(MODEL)
        entered = asyncio.Barrier(2)

        async def ask(tokens: int) -> None:
            async with handle as call:
                await entered.wait()
                call.usage({"usage": {"prompt_tokens": tokens, "completion_tokens": 1}})
                await entered.wait()

        await asyncio.gather(ask(10), ask(300))
        await asyncio.gather(ask(10), ask(300))

    with isolated_monitor() as monitor:
        asyncio.run(run(monitor))
        eventually(lambda: any("at once" in each for each in messages(caplog)))
        totals = monitor.get_total_token_usage()
        frame = monitor.to_frame("generations")
    assert len([each for each in messages(caplog) if "one handle" in each]) == 1
    assert (totals.total_prompt_tokens, totals.total_completion_tokens) == (620, 4)
    assert sorted(frame["input_tokens"]) == [10, 10, 300, 300]
    assert totals.calls_without_usage == 0


def test_the_line_of_a_call_of_an_unknown_model(caplog: pytest.LogCaptureFixture) -> None:
    """It says so in words."""
    with isolated_monitor() as monitor:
        with monitor.generation():
            pass
        monitor.flush()
        said = "the token usage of a call of an unknown model is unknown: nothing was reported"
        assert eventually(lambda: said in caplog.text)
