"""The pushes of a job: one process pushes for all, and nothing that was published is lost."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from _jobs import environment, sums_by_process
from _ranks import Live

from _waiting import eventually
from otlp_receiver import ClosedPort, HttpReceiver

if TYPE_CHECKING:
    from pathlib import Path

GENERATIONS = "genmeter.generations"
NEVER = "600000"  # milliseconds


def pushing(receiver: HttpReceiver, interval: str = "300", **variables: str) -> dict[str, str]:
    """Return the environment of a process that pushes."""
    return environment(receiver, OTEL_METRIC_EXPORT_INTERVAL=interval, **variables)


def of_model(receiver: HttpReceiver, model: str) -> float:
    """Return the calls of a model that have arrived."""
    return float(receiver.total(GENERATIONS, gen_ai_request_model=model))


def check_rising(receiver: HttpReceiver) -> None:
    """Fail if a value was below the one before, or a start has changed."""
    last: dict[str, float] = {}
    starts: dict[str, int] = {}
    for request in receiver.requests:
        for resource in request.resource_metrics:
            (instance,) = [
                each.value.string_value
                for each in resource.resource.attributes
                if each.key == "service.instance.id"
            ]
            for metric in (m for scope in resource.scope_metrics for m in scope.metrics):
                if metric.name != GENERATIONS:
                    continue
                for point in metric.sum.data_points:
                    key = instance + repr(sorted(map(str, point.attributes)))
                    value = point.as_int or point.as_double
                    assert value >= last.get(key, 0)
                    assert starts.setdefault(key, point.start_time_unix_nano) == (
                        point.start_time_unix_nano
                    )
                    last[key] = value


def test_a_push_is_now(tmp_path: Path, receiver: HttpReceiver) -> None:
    """Whatever the interval is; it returns whether it arrived."""
    with Live(tmp_path, "alone", pushing(receiver, NEVER)) as live:
        live.do("record(monitor, 7)")
        assert live.do("monitor.push()") is True
        assert receiver.total(GENERATIONS) == 7
        receiver.failing = 400
        live.do("record(monitor, 1)")
        assert live.do("monitor.push()") is False
        receiver.failing = None
        assert live.do("monitor.push()") is True
        assert receiver.total(GENERATIONS) == 8


def test_any_process_may_push_for_the_job(tmp_path: Path, receiver: HttpReceiver) -> None:
    """What has been published by the others is in it."""
    env = pushing(receiver, NEVER, GENMETER_JOB="j")
    with Live(tmp_path, "one", env) as one, Live(tmp_path, "two", env) as two:
        one.do("record(monitor, 5)")
        one.do("monitor.flush()")
        two.do("record(monitor, 6)")
        assert two.do("monitor.push()") is True
        assert receiver.total(GENERATIONS) == 11
        one.do("record(monitor, 1)")
        assert one.do("monitor.push()") is True
        assert list(sums_by_process(receiver, GENERATIONS).values()) == [12]
    check_rising(receiver)


@pytest.mark.parametrize("name", ["", "j"], ids=["alone", "named"])
def test_the_last_state_arrives_after_a_refusal(
    tmp_path: Path, receiver: HttpReceiver, name: str
) -> None:
    """A collector that asked to wait just before the end is asked once more in time."""
    env = pushing(receiver, "200", **({"GENMETER_JOB": name} if name else {}))
    with Live(tmp_path, "alone", env) as live:
        live.do("record(monitor, 100)")
        assert eventually(lambda: receiver.total(GENERATIONS) == 100)
        receiver.headers = {"Retry-After": "2"}
        receiver.failing = 503
        live.do("record(monitor, 3)")
        assert eventually(lambda: receiver.refused > 0)
        receiver.failing = None
        live.do("record(monitor, 10, model='late')")
        assert live.end() == 0
    assert of_model(receiver, "m") == 103
    assert of_model(receiver, "late") == 10
    check_rising(receiver)


@pytest.mark.timeout(300)
def test_what_a_killed_process_had_published_is_pushed(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    """By another one, under the one id of the job, although it never pushed itself."""
    env = pushing(receiver, NEVER, GENMETER_JOB="j")
    with ExitStack() as stack:
        lives = [stack.enter_context(Live(tmp_path, f"p{i}", env)) for i in range(4)]
        for number, live in enumerate(lives):
            live.do(f"record(monitor, {100 + number}, model='m{number}')")
            live.do("monitor.flush()")
        lives[0].kill()  # it leads
        lives[2].kill()
        for number in (3, 1):
            lives[number].do("record(monitor, 1)")
            assert lives[number].end() == 0
    for number in range(4):
        assert of_model(receiver, f"m{number}") == 100 + number
    assert of_model(receiver, "m") == 2
    assert len(sums_by_process(receiver, GENERATIONS)) == 1
    check_rising(receiver)


@pytest.mark.timeout(300)
def test_processes_that_end_at_once_push_everything(tmp_path: Path, receiver: HttpReceiver) -> None:
    """Whichever of them is the last."""
    env = pushing(receiver, NEVER, GENMETER_JOB="j")
    for run in range(3):
        with ExitStack() as stack:
            lives = [stack.enter_context(Live(tmp_path, f"r{run}p{i}", env)) for i in range(5)]
            for live in lives:
                live.do(f"record(monitor, 20, model='run{run}')")
            threads = [threading.Thread(target=live.end) for live in lives]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert [live.process.returncode for live in lives] == [0] * 5
        assert of_model(receiver, f"run{run}") == 100


@pytest.mark.timeout(300)
def test_a_collector_that_is_down_for_a_while_costs_nothing(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    """Recording goes on meanwhile; afterwards all arrives."""
    env = pushing(receiver, "200", GENMETER_JOB="j")
    with Live(tmp_path, "one", env) as one, Live(tmp_path, "two", env) as two:
        for live in (one, two):
            live.do("load(monitor, 0.005)")
        assert eventually(lambda: receiver.total(GENERATIONS) > 0)
        receiver.failing = 503
        assert eventually(lambda: receiver.refused > 3)
        before = [one.counted, two.counted]
        refused = receiver.refused
        assert eventually(lambda: receiver.refused > refused)
        assert eventually(lambda: one.counted > before[0] + 50 and two.counted > before[1] + 50)
        receiver.failing = None
        for live in (one, two):
            live.do("stop.set(); time.sleep(0.1)")
        total = one.counted + two.counted
        assert eventually(lambda: receiver.total(GENERATIONS) == total)
        assert [one.end(), two.end()] == [0, 0]
    assert receiver.total(GENERATIONS) == total
    assert receiver.total("genmeter.tokens") == 3 * total
    assert len(sums_by_process(receiver, GENERATIONS)) == 1
    check_rising(receiver)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["", "j"], ids=["alone", "named"])
def test_a_collector_that_is_down_at_the_end_is_reported(tmp_path: Path, name: str) -> None:
    """The job ends in order, and its log says that the last state did not arrive."""
    with ClosedPort() as closed:
        env = environment(
            OTEL_METRICS_EXPORTER="otlp",
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_ENDPOINT=closed.endpoint,
            **({"GENMETER_JOB": name} if name else {}),
        )
        with Live(tmp_path, "alone", env) as live:
            live.do("record(monitor, 10)")
            live.do("monitor.flush()")
            assert live.do("job_token_usage().total_tokens") == 30
            assert live.end() == 0
            assert "push" in live.errors
