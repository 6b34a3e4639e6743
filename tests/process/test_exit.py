"""The end of a process: every recorded event arrives, however the job ends."""

from __future__ import annotations

import http.client
import signal
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest
from _jobs import PATIENCE, end, environment, job, run, started, sums_by_process
from prometheus_client.parser import text_string_to_metric_families

from _ports import free_port
from otlp_receiver import BlackHole, ClosedPort, GrpcReceiver, HttpReceiver

if TYPE_CHECKING:
    from pathlib import Path

GENERATIONS = "genmeter.generations"
TOKENS = "genmeter.tokens"


def value(page: str, name: str) -> float:
    """Sum the samples of a series of a page."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    )


# --- a burst just before the end -----------------------------------------------------------------

BURST = """
monitor = GenerationMonitor()
record(monitor, 20_000)
monitor.shutdown()
output(tokens=monitor.get_total_token_usage().total_tokens, calls=monitor.get_metrics(
    "success_rate", None
)["count"])
"""


@pytest.mark.parametrize(
    ("kind", "protocol"), [(HttpReceiver, "http/protobuf"), (GrpcReceiver, "grpc")]
)
def test_a_burst_before_shutdown_is_in_the_report_and_the_push(
    tmp_path: Path, kind: type[HttpReceiver | GrpcReceiver], protocol: str
) -> None:
    """The report and OTLP have all of 20,000 calls before ``shutdown()``."""
    with kind() as receiver:
        env = environment(receiver, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        ended = run(tmp_path, BURST, env)
        assert ended.code == 0, ended.errors
        assert ended.output == [{"tokens": 60_000, "calls": 20_000}]
        assert receiver.total(GENERATIONS) == 20_000
        assert receiver.total(TOKENS) == 60_000
        assert receiver.total("genmeter.job.finished") == 1


@pytest.mark.parametrize("end", ["monitor.shutdown()", ""], ids=["shutdown", "exit"])
def test_a_burst_before_the_end_is_on_the_page_of_a_lingering_endpoint(
    tmp_path: Path, end: str
) -> None:
    """The one scrape of a lingering endpoint has all of 20,000 calls before the end."""
    port = free_port()
    env = environment(
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
        GENMETER_ENDPOINT_LINGER=str(PATIENCE),
    )
    script = BURST.replace("monitor.shutdown()", end)
    with subprocess.Popen(job(tmp_path, script), env=env) as process:
        page = ""
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as got:
                    page = got.read().decode()
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)  # not serving yet, or not any more
        assert process.wait(PATIENCE) == 0
    assert value(page, "genmeter_job_finished") == 1
    assert value(page, "genmeter_generations_total") == 20_000
    assert value(page, "gen_ai_client_inference_duration_seconds_count") == 20_000
    assert value(page, "genmeter_tokens_total") == 60_000


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise ValueError('the job failed')", 1),
        ("threading.Thread(target=lambda: (time.sleep(0.1), record(monitor, 0))).start()", 0),
    ],
    ids=["normal", "sys.exit", "exception", "thread"],
)
def test_all_events_arrive_without_shutdown(
    tmp_path: Path, receiver: HttpReceiver, end: str, code: int
) -> None:
    """The job may end, exit or fail without ``shutdown()``."""
    ended = run(
        tmp_path,
        f"""
monitor = GenerationMonitor()
record(monitor, 20_000)
{end}
""",
        environment(receiver),
    )
    assert ended.code == code
    assert receiver.total(GENERATIONS) == 20_000
    assert receiver.total("genmeter.job.finished") == 1


def test_the_exit_waits_for_other_threads(tmp_path: Path, receiver: HttpReceiver) -> None:
    """Events of a non-daemon thread after the end of the program arrive."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor()


def work():
    main = threading.main_thread()
    while main.is_alive():
        time.sleep(0.01)
    record(monitor, 500)


threading.Thread(target=work).start()
record(monitor, 500)
""",
        environment(receiver),
    )
    assert ended.code == 0, ended.errors
    assert receiver.total(GENERATIONS) == 1_000


def test_events_of_collected_monitors_arrive_at_the_exit(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    """Monitors that were dropped without ``shutdown()`` count."""
    ended = run(
        tmp_path,
        """
for _ in range(5):
    record(GenerationMonitor(), 100)
""",
        environment(receiver),
    )
    assert ended.code == 0, ended.errors
    assert receiver.total(GENERATIONS) == 500


def test_a_token_callback_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    """A job with a token callback ends by itself."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor(token_usage_callback=print)
record(monitor, 10)
""",
    )
    assert ended.code == 0
    assert ended.errors == ""


# --- children ------------------------------------------------------------------------------------

CHILDREN = """
import multiprocessing


def work(count):
    record(GenerationMonitor(), count)


def work_inherited(count):
    record(monitor, count)


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    monitor = GenerationMonitor()
    record(monitor, 1_000)
    targets = [work, work_inherited] if sys.argv[1] == "fork" else [work, work]
    children = [
        context.Process(target=targets[number % 2], args=(100 + number,)) for number in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    output(codes=[child.exitcode for child in children])
"""

POOL = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def work(count):
    global monitor
    if "monitor" not in globals():
        monitor = GenerationMonitor()
    record(monitor, count)
    return monitor.get_total_token_usage().total_tokens >= count * 3


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        output(done=sum(pool.map(work, [10] * 30)))
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_of_multiprocessing_push_at_their_end(
    tmp_path: Path, receiver: HttpReceiver, method: str
) -> None:
    """The counts of all children arrive under the job's id, and the sum is exact."""
    ended = run(tmp_path, CHILDREN, environment(receiver), method)
    assert (ended.code, ended.output) == (0, [{"codes": [0, 0, 0, 0]}]), ended.errors
    assert list(sums_by_process(receiver, GENERATIONS).values()) == [1_406]
    assert list(sums_by_process(receiver, TOKENS).values()) == [3 * 1_406]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_job_keeps_the_instance_id_of_the_environment(
    tmp_path: Path, receiver: HttpReceiver, method: str
) -> None:
    """All that is pushed is under the variable's id, before and after there are children."""
    env = environment(receiver, OTEL_RESOURCE_ATTRIBUTES="service.instance.id=pod-1")
    env["OTEL_METRIC_EXPORT_INTERVAL"] = "50"
    ended = run(tmp_path, CHILDREN, env, method)
    assert ended.code == 0, ended.errors
    assert sums_by_process(receiver, GENERATIONS) == {"pod-1": 1_406}


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_with_the_sdks_provider_do_not_share_an_instance_id(
    tmp_path: Path, receiver: HttpReceiver, method: str
) -> None:
    """Its metrics are not combined: only the main process pushes under the variable's id."""
    env = environment(receiver, OTEL_RESOURCE_ATTRIBUTES="service.instance.id=pod-1")
    env["OTEL_METRICS_EXEMPLAR_FILTER"] = "always_on"
    ended = run(tmp_path, CHILDREN, env, method)
    assert ended.code == 0, ended.errors
    counts = sums_by_process(receiver, GENERATIONS)
    assert counts.pop("pod-1") == 1_000
    assert sorted(counts.values()) == [100, 101, 102, 103]
    assert all(each.startswith("pod-1-") for each in counts)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_of_an_executor_push_at_their_end(
    tmp_path: Path, receiver: HttpReceiver, method: str
) -> None:
    """The events of ``ProcessPoolExecutor`` workers arrive when the pool shuts down."""
    ended = run(tmp_path, POOL, environment(receiver), method)
    assert (ended.code, ended.output) == (0, [{"done": 30}]), ended.errors
    assert receiver.total(GENERATIONS) == 300
    assert len(sums_by_process(receiver, GENERATIONS)) == 1


def test_children_leave_the_endpoint_to_the_main_process(tmp_path: Path) -> None:
    """A child neither takes the port nor logs about it."""
    port = free_port()
    ended = run(
        tmp_path,
        """
import multiprocessing


def work():
    monitor = GenerationMonitor()
    record(monitor, 10)
    monitor.flush()
    output(child=monitor.endpoint_url)


if __name__ == "__main__":
    monitor = GenerationMonitor()
    record(monitor)
    monitor.flush()
    for method in ("fork", "forkserver", "spawn"):
        child = multiprocessing.get_context(method).Process(target=work)
        child.start()
        child.join()
    output(main=monitor.endpoint_url)
""",
        environment(OTEL_METRICS_EXPORTER="prometheus", OTEL_EXPORTER_PROMETHEUS_PORT=str(port)),
    )
    assert ended.code == 0, ended.errors
    url = f"http://127.0.0.1:{port}/metrics"
    assert ended.output == [{"child": None}] * 3 + [{"main": url}]
    assert ended.errors == ""


# --- signals -------------------------------------------------------------------------------------

LOOP = """
HANDLERS = {
    "exit": lambda number, frame: sys.exit(0),
    "shutdown": lambda number, frame: (monitor.shutdown(), stop()),
    "record": lambda number, frame: (record(monitor, 7), sys.exit(0)),
    "read": lambda number, frame: (monitor.get_total_token_usage(), sys.exit(0)),
}
calls = 0
stopped = False


def stop():
    global stopped
    stopped = True


monitor = GenerationMonitor()
signal.signal(signal.SIGTERM, HANDLERS[sys.argv[1]])
output(ready=True)
while not stopped:
    record(monitor)
    if sys.argv[2] == "reads":
        monitor.get_total_token_usage()
        monitor.get_metrics("generation_time", None)
"""


def terminated(folder: Path, source: str, env: dict[str, str], *arguments: str) -> int:
    """Run a job, send it SIGTERM shortly after it is ready, and return its exit code."""
    with started(folder, source, env, *arguments) as process:
        time.sleep(0.3)  # into the loop, at any moment
        return end(process, signal.SIGTERM).code


@pytest.mark.parametrize("handler", ["exit", "shutdown", "record", "read"])
@pytest.mark.parametrize("loop", ["writes", "reads"])
def test_sigterm_leaves_a_consistent_push(
    tmp_path: Path, receiver: HttpReceiver, handler: str, loop: str
) -> None:
    """SIGTERM during a write or a read ends the job with a consistent last push."""
    assert terminated(tmp_path, LOOP, environment(receiver), handler, loop) == 0
    count = receiver.total(GENERATIONS)
    assert count > 0
    assert receiver.total(TOKENS) == 3 * count
    assert receiver.total("genmeter.monitor.events", genmeter_result="recorded") == count
    assert receiver.total("genmeter.job.finished") == 1


def test_sigterm_loses_no_call(tmp_path: Path, receiver: HttpReceiver) -> None:
    """The push has the calls of the job and of the signal handler."""
    source = """
calls = 0


def end(number, frame):
    record(monitor, 7, model="handler")
    output(calls=calls)
    sys.exit(0)


monitor = GenerationMonitor()
signal.signal(signal.SIGTERM, end)
output(ready=True)
while True:
    record(monitor)
    calls += 1
    if calls == 5_000:
        os.kill(os.getpid(), signal.SIGTERM)
"""
    ended = run(tmp_path, source, environment(receiver))
    assert ended.code == 0, ended.errors
    calls = ended.output[1]["calls"]
    assert receiver.total(GENERATIONS, gen_ai_request_model="handler") == 7
    # The call under way may be recorded but not yet counted by the job.
    assert receiver.total(GENERATIONS, gen_ai_request_model="m") in {calls, calls + 1}


def test_sigterm_during_a_lingering_shutdown_loses_nothing(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    """The job ends at once, and everything was pushed."""
    source = """
monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(port=0, linger=1_000)))
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
record(monitor, 1_000)
output(ready=True)
monitor.shutdown()
"""
    env = environment(receiver, OTEL_METRICS_EXPORTER="otlp,prometheus")
    assert terminated(tmp_path, source, env) == 0
    assert receiver.total(GENERATIONS) == 1_000


@pytest.mark.parametrize(
    "where",
    [
        "genmeter.runtime:Runtime._close_all",
        "genmeter.session:Session.begin_close",
        "genmeter.exporters.provider:Exporters.finish",
        "genmeter.exporters._push:Push.finish",
    ],
)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_sigterm_during_the_exit_loses_nothing(
    tmp_path: Path, receiver: HttpReceiver, where: str, moment: str
) -> None:
    """The last push happens although SIGTERM comes during the exit, at any point."""
    source = f"""
import importlib

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
monitor = GenerationMonitor()
record(monitor, 500)
module, _, path = {where!r}.partition(":")
owner, _, name = path.partition(".")
owner = getattr(importlib.import_module(module), owner)
original = getattr(owner, name)
sent = []


def terminate():
    if not sent:
        sent.append(1)
        os.kill(os.getpid(), signal.SIGTERM)


def interrupted(*args, **kwargs):
    if {moment!r} == "before":
        terminate()
    result = original(*args, **kwargs)
    terminate()
    return result


setattr(owner, name, interrupted)
"""
    ended = run(tmp_path, source, environment(receiver))
    assert ended.code == 0, ended.errors
    assert receiver.total(GENERATIONS) == 500


# --- an endpoint that is dead --------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ClosedPort, BlackHole])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_dead_endpoint_does_not_delay_the_job(
    tmp_path: Path, kind: type[ClosedPort | BlackHole], protocol: str
) -> None:
    """The job records, reads and ends in time."""
    with kind() as dead:
        ended = run(
            tmp_path,
            """
monitor = GenerationMonitor(shutdown_timeout=0.5)
record(monitor, 20_000)
started = time.monotonic()
monitor.shutdown()
output(
    tokens=monitor.get_total_token_usage().total_tokens,
    in_time=time.monotonic() - started < 30,
)
""",
            environment(
                OTEL_METRICS_EXPORTER="otlp",
                OTEL_EXPORTER_OTLP_ENDPOINT=dead.endpoint,
                OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
                OTEL_METRIC_EXPORT_INTERVAL="20",
            ),
        )
    assert ended.code == 0, ended.errors
    assert ended.output == [{"tokens": 60_000, "in_time": True}]


def test_a_dead_endpoint_does_not_delay_the_exit(tmp_path: Path) -> None:
    """The time-out limits the exit without ``shutdown()`` too."""
    with BlackHole() as dead:
        ended = run(
            tmp_path,
            """
for _ in range(20):
    record(GenerationMonitor(shutdown_timeout=0.5), 10)
output(ready=True)
""",
            environment(
                OTEL_METRICS_EXPORTER="otlp",
                OTEL_EXPORTER_OTLP_ENDPOINT=dead.endpoint,
                OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            ),
        )
    assert ended.code == 0, ended.errors
    assert ended.output == [{"ready": True}]
    assert "did not end within" in ended.errors


def test_ctrl_c_ends_the_job(tmp_path: Path, receiver: HttpReceiver) -> None:
    """The exit code is Python's own, and everything was pushed."""
    source = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's parent ignores it
monitor = GenerationMonitor()
record(monitor, 1_000)
output(ready=True)
while True:
    monitor.get_total_token_usage()
"""
    with started(tmp_path, source, environment(receiver)) as process:
        code = end(process, signal.SIGINT).code
    assert code in {-signal.SIGINT, 130, 1}
    assert receiver.total(GENERATIONS) == 1_000
