"""Scrapes of the built-in provider: consistency, start times, exemplars and late ports."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.metrics import Observation
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

import genmeter.clock
from _ports import free_port
from _waiting import PATIENCE, eventually
from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.exporters import provider as provider_module
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.metrics import CallbackOptions

    from genmeter import runtime

ANY_PORT = MonitorConfig(endpoint=EndpointConfig(port=0))
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[runtime.Runtime]:
    """Return a new runtime whose endpoint listens on a free port."""
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(free_port()))
    with fresh_runtime() as fresh:
        yield fresh


def record(monitor: GenerationMonitor, model: str = "m", *, success: bool = True) -> None:
    """Record a call of 5 and 6 tokens."""
    monitor.track_generation(
        0.1, success, model_name=model, prompt_token_count=5, completion_token_count=6
    )


def scrape(url: str | None, accept: str = "text/plain") -> str:
    """Return the page of the endpoint."""
    assert url is not None
    request = urllib.request.Request(url, headers={"Accept": accept})  # noqa: S310, a loopback URL
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
        page: str = answer.read().decode()
        return page


def sum_of(page: str, name: str) -> float:
    """Sum the samples of a name, whatever their labels."""
    return sum(
        float(found[3])
        for line in page.splitlines()
        if (found := _SAMPLE.match(line)) and found[1] == name
    )


# --- consistency ---------------------------------------------------------------------------------


def test_every_page_is_consistent(process: runtime.Runtime) -> None:
    """While 8 threads record, no page of 300 has an event in only some metrics."""
    monitor = GenerationMonitor(metrics_interval=None, config=ANY_PORT)
    is_over = threading.Event()

    def work(number: int) -> None:
        while not is_over.is_set():
            record(monitor, f"m{number % 3}", success=number % 2 == 0)
            monitor.track_evaluation(0.1, True, "judge", {"s": 0.5})
            time.sleep(0.002)  # slower than the pipeline, under a tracer too: pages wait for events

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    usage = "gen_ai_client_inference_usage"
    per_call = "gen_ai_client_inference_operation"
    counts: list[float] = []
    try:
        for number in range(300):
            text = process.render(openmetrics=number % 2 == 0).decode()
            calls = sum_of(text, "genmeter_generations_total")
            assert sum_of(text, "gen_ai_client_inference_duration_seconds_count") == calls
            assert sum_of(text, f"{usage}_input_tokens_total") == 5 * calls
            assert sum_of(text, f"{usage}_output_tokens_total") == 6 * calls
            assert sum_of(text, "genmeter_tokens_total") == 11 * calls
            assert sum_of(text, f"{per_call}_input_tokens_sum") == 5 * calls
            assert sum_of(text, f"{per_call}_output_tokens_sum") == 6 * calls
            evaluations = sum_of(text, "genmeter_evaluations_total")
            assert sum_of(text, "genmeter_evaluation_scores_total") == evaluations
            recorded = re.search(r'events_total\{.*result="recorded".*\} (\S+)', text)
            assert recorded is not None
            assert float(recorded[1]) == calls + evaluations
            counts.append(calls)
    finally:
        is_over.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert counts == sorted(counts)
    assert len(set(counts)) > 10
    monitor.shutdown()


# --- start times ---------------------------------------------------------------------------------


def created(page: str, **labels: str) -> dict[str, float]:
    """Return the start times of the series with these labels, by name."""
    return {
        sample.name.removesuffix("_created"): sample.value
        for family in parse_openmetrics(page)
        for sample in family.samples
        if sample.name.endswith("_created") and labels.items() <= sample.labels.items()
    }


def test_a_series_starts_a_second_before_its_first_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """`_created` comes from the event, not the collection, in every metric of a call."""
    monitor = GenerationMonitor(metrics_interval=None, config=ANY_PORT)
    record(monitor, "early")
    monitor.flush()
    scrape(monitor.endpoint_url, OPENMETRICS)
    event_time = time.time() - 3_600
    monkeypatch.setattr(genmeter.clock, "now", lambda: event_time)
    with monitor.generation(model="late") as call:
        call.usage(prompt_token_count=5, completion_token_count=6, cache_read_token_count=1)
        call.retry("timeout")
        call.finish_reason = "stop"
    monkeypatch.setattr(genmeter.clock, "now", lambda: event_time + 60)
    record(monitor, "late")
    monitor.flush()
    starts = created(scrape(monitor.endpoint_url, OPENMETRICS), gen_ai_request_model="late")
    assert {
        "genmeter_generations",
        "genmeter_tokens",
        "genmeter_retries",
        "gen_ai_client_inference_duration_seconds",
    } <= starts.keys()
    assert list(starts.values()) == pytest.approx([event_time - 1] * len(starts), abs=1e-3)
    monitor.shutdown()


def test_self_metrics_start_with_the_session() -> None:
    """Their start is not later than the first event."""
    before = time.time()
    monitor = GenerationMonitor(metrics_interval=None, config=ANY_PORT)
    made = time.time()
    record(monitor)
    monitor.flush()
    starts = created(scrape(monitor.endpoint_url, OPENMETRICS))
    assert before - 1.001 <= starts["genmeter_monitor_events"] <= made
    assert scrape(monitor.endpoint_url, OPENMETRICS).count("genmeter_monitor_events_created") == 1
    monitor.shutdown()


# --- several readers -----------------------------------------------------------------------------


def test_exemplars_stay_for_a_second_reader(process: runtime.Runtime) -> None:
    """Neither a scrape nor a push removes the exemplars."""
    monitor = GenerationMonitor(metrics_interval=None, config=ANY_PORT)
    with trace.use_span(TracerProvider().get_tracer("t").start_span("s")) as span:
        record(monitor)
    monitor.flush()
    trace_id = format(span.get_span_context().trace_id, "032x")
    scrape(monitor.endpoint_url)
    assert process._exporters is not None
    process._exporters.provider.collect(PATIENCE)
    seen = [scrape(monitor.endpoint_url, OPENMETRICS).count(trace_id) for _ in range(3)]
    assert seen[0] >= 3
    assert seen == [seen[0]] * 3
    monitor.shutdown()


def test_a_hanging_callback_loses_only_its_instrument(
    process: runtime.Runtime,
) -> None:
    """The page has everything else, and the instrument once the callback returns."""
    gate = threading.Event()

    def hang(_: CallbackOptions) -> Iterable[Observation]:
        gate.wait()
        return [Observation(1)]

    monitor = GenerationMonitor(metrics_interval=None, config=ANY_PORT)
    assert process._exporters is not None
    meter = process._exporters.provider.get_meter("another library")
    meter.create_observable_gauge("hanging", [hang])
    meter.create_observable_gauge("quick", [lambda _: [Observation(2)]])
    meter.create_counter("counted").add(3)
    record(monitor)
    try:
        for _ in range(2):
            page = scrape(monitor.endpoint_url)
            assert sum_of(page, "genmeter_generations_total") == 1
            assert sum_of(page, "quick") == 2
            assert sum_of(page, "counted_total") == 3
            assert "hanging" not in page
            assert monitor.get_metrics("generation_time")["count"] == 1
    finally:
        gate.set()
    assert eventually(lambda: sum_of(scrape(monitor.endpoint_url), "hanging") == 1)
    monitor.shutdown()


# --- the port ------------------------------------------------------------------------------------


def test_a_taken_port_is_served_once_it_is_free(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is retried without further events, and logged once."""
    caplog.set_level(logging.INFO, logger="genmeter")
    monkeypatch.setattr(provider_module, "_RETRY", 0.01)
    attempts = 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(port))
        monitor = GenerationMonitor(metrics_interval=None)
        assert process._exporters is not None
        server = process._exporters.server
        assert server is not None
        start = server.start

        def counted() -> None:
            nonlocal attempts
            attempts += 1
            start()

        monkeypatch.setattr(server, "start", counted)
        record(monitor)
        assert eventually(lambda: attempts >= 5)
        assert monitor.endpoint_url is None
    assert eventually(lambda: monitor.endpoint_url is not None)
    assert sum_of(scrape(f"http://127.0.0.1:{port}/metrics"), "genmeter_generations_total") == 1
    assert eventually(
        lambda: all(each.name != "genmeter-endpoint-retry" for each in threading.enumerate())
    )
    monitor.shutdown()
    levels = [(each.levelno, each.getMessage()) for each in caplog.records]
    assert [level for level, _ in levels] == [logging.WARNING, logging.INFO], levels
    assert f"port {port}" in levels[0][1]


def test_a_new_monitor_takes_the_port_of_a_lingering_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It serves its own counts once the lingering endpoint closes."""
    monkeypatch.setattr(provider_module, "_RETRY", 0.01)
    config = MonitorConfig(endpoint=EndpointConfig(linger=PATIENCE))
    first = GenerationMonitor(metrics_interval=None, config=config)
    record(first)
    first.flush()
    url = first.endpoint_url
    ending = threading.Thread(target=first.shutdown)
    ending.start()
    assert eventually(lambda: first.endpoint_url is None)
    second = GenerationMonitor(metrics_interval=None)
    for _ in range(2):
        record(second, "another")
    second.flush()
    # The scrapes that the lingering endpoint waits for; the last of them may be the second's.
    assert eventually(lambda: "another" in scrape_or_nothing(url))
    ending.join(PATIENCE)
    assert not ending.is_alive()
    assert second.endpoint_url == url
    page = scrape(url)
    assert sum_of(page, "genmeter_generations_total") == 2
    assert sum_of(page, "genmeter_job_finished") == 0
    second.shutdown()
    warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "tries again" in warnings[0]


def test_shutdown_stops_retrying_a_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing binds the port afterwards, and the retry thread ends."""
    monkeypatch.setattr(provider_module, "_RETRY", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(port))
        monitor = GenerationMonitor(metrics_interval=None)
        record(monitor)
        monitor.flush()
        monitor.shutdown()
    assert eventually(
        lambda: all(each.name != "genmeter-endpoint-retry" for each in threading.enumerate())
    )
    with socket.create_server(("127.0.0.1", port)):
        pass


def scrape_or_nothing(url: str | None) -> str:
    """Scrape; return an empty text if nothing responds."""
    try:
        return scrape(url)
    except OSError:
        return ""
