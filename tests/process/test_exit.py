"""The end of a process: what was told arrives, however the job ends."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest
from _jobs import PATIENCE, environment, job, run, sums_by_process
from prometheus_client.parser import text_string_to_metric_families

from otlp_receiver import BlackHole, ClosedPort, GrpcReceiver, HttpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GENERATIONS = "genmeter.generations"
TOKENS = "genmeter.tokens"


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    """Give a receiver of pushes."""
    with HttpReceiver() as made:
        yield made


def free_port() -> int:
    """Find a port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
tell(monitor, 20_000)
monitor.shutdown()
say(tokens=monitor.get_total_token_usage().total_tokens, calls=monitor.get_metrics(
    "success_rate", None
)["count"])
"""


@pytest.mark.parametrize(
    ("kind", "protocol"), [(HttpReceiver, "http/protobuf"), (GrpcReceiver, "grpc")]
)
def test_a_burst_before_shutdown_is_in_the_report_and_the_push(
    tmp_path: Path, kind: type[HttpReceiver | GrpcReceiver], protocol: str
) -> None:
    """20,000 calls and ``shutdown()`` at once: report and OTLP have every one of them."""
    with kind() as receiver:
        env = environment(receiver, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        ended = run(tmp_path, BURST, env)
        assert ended.code == 0, ended.errors
        assert ended.said == [{"tokens": 60_000, "calls": 20_000}]
        assert receiver.total(GENERATIONS) == 20_000
        assert receiver.total(TOKENS) == 60_000
        assert receiver.total("genmeter.job.finished") == 1


@pytest.mark.parametrize("end", ["monitor.shutdown()", ""], ids=["shutdown", "exit"])
def test_a_burst_before_the_end_is_on_the_page_of_a_lingering_endpoint(
    tmp_path: Path, end: str
) -> None:
    """20,000 calls and the end at once: the one scrape while the endpoint lingers has them all."""
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
                time.sleep(0.02)  # it does not serve yet, or not any more
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
        ("threading.Thread(target=lambda: (time.sleep(0.1), tell(monitor, 0))).start()", 0),
    ],
    ids=["normal", "sys.exit", "exception", "thread"],
)
def test_without_shutdown_nothing_is_lost(
    tmp_path: Path, receiver: HttpReceiver, end: str, code: int
) -> None:
    """A job that ends, exits or fails without ``shutdown()`` has told everything."""
    ended = run(
        tmp_path,
        f"""
monitor = GenerationMonitor()
tell(monitor, 20_000)
{end}
""",
        environment(receiver),
    )
    assert ended.code == code
    assert receiver.total(GENERATIONS) == 20_000
    assert receiver.total("genmeter.job.finished") == 1


def test_a_thread_that_outlives_the_main_one_is_waited_for(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    """What a non-daemon thread tells after the end of the program is told."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor()


def work():
    main = threading.main_thread()
    while main.is_alive():
        time.sleep(0.01)
    tell(monitor, 500)


threading.Thread(target=work).start()
tell(monitor, 500)
""",
        environment(receiver),
    )
    assert ended.code == 0, ended.errors
    assert receiver.total(GENERATIONS) == 1_000


def test_monitors_that_nobody_holds_at_the_end_are_told_of(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    """Monitors that were dropped without ``shutdown()`` count at the exit."""
    ended = run(
        tmp_path,
        """
for _ in range(5):
    tell(GenerationMonitor(), 100)
""",
        environment(receiver),
    )
    assert ended.code == 0, ended.errors
    assert receiver.total(GENERATIONS) == 500


def test_the_callback_of_a_job_does_not_keep_it_alive(tmp_path: Path) -> None:
    """A job with a token callback ends by itself."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor(token_usage_callback=print)
tell(monitor, 10)
""",
    )
    assert ended.code == 0
    assert ended.errors == ""


# --- children ------------------------------------------------------------------------------------

CHILDREN = """
import multiprocessing


def work(count):
    tell(GenerationMonitor(), count)


def work_inherited(count):
    tell(monitor, count)


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    monitor = GenerationMonitor()
    tell(monitor, 1_000)
    targets = [work, work_inherited] if sys.argv[1] == "fork" else [work, work]
    children = [
        context.Process(target=targets[number % 2], args=(100 + number,)) for number in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    say(codes=[child.exitcode for child in children])
"""

POOL = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def work(count):
    global monitor
    if "monitor" not in globals():
        monitor = GenerationMonitor()
    tell(monitor, count)
    return monitor.get_total_token_usage().total_tokens >= count * 3


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        say(done=sum(pool.map(work, [10] * 30)))
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_of_multiprocessing_push_at_their_end(
    tmp_path: Path, receiver: HttpReceiver, method: str
) -> None:
    """However a child is started, its counts arrive under an id of its own, and the sum is exact."""
    command = [*job(tmp_path, CHILDREN), method]
    done = subprocess.run(
        command,
        env=environment(receiver),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '{"codes": [0, 0, 0, 0]}', done.stderr
    counts = sums_by_process(receiver, GENERATIONS)
    assert sorted(counts.values()) == [100, 101, 102, 103, 1_000]
    assert receiver.total(TOKENS) == 3 * 1_406


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_do_not_share_an_id_that_the_environment_gives(
    tmp_path: Path, receiver: HttpReceiver, method: str
) -> None:
    """Every child inherits the variable; only the main process pushes under the id as it is."""
    done = subprocess.run(
        [*job(tmp_path, CHILDREN), method],
        env=environment(receiver, OTEL_RESOURCE_ATTRIBUTES="service.instance.id=pod-1"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = sums_by_process(receiver, GENERATIONS)
    assert counts.pop("pod-1") == 1_000
    assert sorted(counts.values()) == [100, 101, 102, 103]
    assert all(each.startswith("pod-1-") for each in counts)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_of_an_executor_push_at_their_end(
    tmp_path: Path, receiver: HttpReceiver, method: str
) -> None:
    """What the workers of a ``ProcessPoolExecutor`` told arrives when the pool is shut down."""
    command = [*job(tmp_path, POOL), method]
    done = subprocess.run(
        command,
        env=environment(receiver),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '{"done": 30}', done.stderr
    assert receiver.total(GENERATIONS) == 300
    assert len(sums_by_process(receiver, GENERATIONS)) in {1, 2}


def test_children_leave_the_endpoint_to_the_main_process(tmp_path: Path) -> None:
    """A child neither takes the port nor complains about it."""
    port = free_port()
    ended = run(
        tmp_path,
        """
import multiprocessing


def work():
    monitor = GenerationMonitor()
    tell(monitor, 10)
    monitor.flush()
    say(child=monitor.endpoint_url)


if __name__ == "__main__":
    monitor = GenerationMonitor()
    tell(monitor)
    monitor.flush()
    for method in ("fork", "forkserver", "spawn"):
        child = multiprocessing.get_context(method).Process(target=work)
        child.start()
        child.join()
    say(main=monitor.endpoint_url)
""",
        environment(OTEL_METRICS_EXPORTER="prometheus", OTEL_EXPORTER_PROMETHEUS_PORT=str(port)),
    )
    assert ended.code == 0, ended.errors
    url = f"http://127.0.0.1:{port}/metrics"
    assert ended.said == [{"child": None}] * 3 + [{"main": url}]
    assert ended.errors == ""


# --- signals -------------------------------------------------------------------------------------

LOOP = """
HANDLERS = {
    "exit": lambda number, frame: sys.exit(0),
    "shutdown": lambda number, frame: (monitor.shutdown(), stop()),
    "tell": lambda number, frame: (tell(monitor, 7), sys.exit(0)),
    "read": lambda number, frame: (monitor.get_total_token_usage(), sys.exit(0)),
}
calls = 0
stopped = False


def stop():
    global stopped
    stopped = True


monitor = GenerationMonitor()
signal.signal(signal.SIGTERM, HANDLERS[sys.argv[1]])
say(ready=True)
while not stopped:
    tell(monitor)
    if sys.argv[2] == "reads":
        monitor.get_total_token_usage()
        monitor.get_metrics("generation_time", None)
"""


def terminated(folder: Path, source: str, env: dict[str, str], *arguments: str) -> int:
    """Run a job, send it SIGTERM a moment after it is ready; give its exit code."""
    with subprocess.Popen(
        [*job(folder, source), *arguments], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        time.sleep(0.3)  # into the loop; any moment is a good one
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(PATIENCE)
        finally:
            process.kill()


@pytest.mark.parametrize("handler", ["exit", "shutdown", "tell", "read"])
@pytest.mark.parametrize("loop", ["tells", "reads"])
def test_a_job_that_is_terminated_tells_everything(
    tmp_path: Path, receiver: HttpReceiver, handler: str, loop: str
) -> None:
    """SIGTERM in the middle of telling or reading: the job ends, and the push agrees with itself."""
    assert terminated(tmp_path, LOOP, environment(receiver), handler, loop) == 0
    count = receiver.total(GENERATIONS)
    assert count > 0
    assert receiver.total(TOKENS) == 3 * count
    assert receiver.total("genmeter.monitor.events", genmeter_result="recorded") == count
    assert receiver.total("genmeter.job.finished") == 1


def test_a_job_that_is_terminated_loses_no_call(tmp_path: Path, receiver: HttpReceiver) -> None:
    """The push has what the handler found the job to have told, and what the handler told."""
    source = """
calls = 0


def end(number, frame):
    tell(monitor, 7, model="handler")
    say(calls=calls)
    sys.exit(0)


monitor = GenerationMonitor()
signal.signal(signal.SIGTERM, end)
say(ready=True)
while True:
    tell(monitor)
    calls += 1
    if calls == 5_000:
        os.kill(os.getpid(), signal.SIGTERM)
"""
    ended = run(tmp_path, source, environment(receiver))
    assert ended.code == 0, ended.errors
    calls = ended.said[1]["calls"]
    assert receiver.total(GENERATIONS, gen_ai_request_model="handler") == 7
    # The call under way may have been told and not yet been counted by the job.
    assert receiver.total(GENERATIONS, gen_ai_request_model="m") in {calls, calls + 1}


def test_an_exit_in_the_middle_of_shutdown_pushes_all_the_same(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    """SIGTERM while ``shutdown()`` lingers: the job ends at once, and everything was pushed."""
    source = """
monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(port=0, linger=1_000)))
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
tell(monitor, 1_000)
say(ready=True)
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
def test_a_termination_during_the_exit_loses_nothing(
    tmp_path: Path, receiver: HttpReceiver, where: str, moment: str
) -> None:
    """SIGTERM comes while the process is at its end already, at any point: the last push is made."""
    source = f"""
import importlib

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
monitor = GenerationMonitor()
tell(monitor, 500)
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
def test_a_dead_receiver_does_not_hold_the_job_up(
    tmp_path: Path, kind: type[ClosedPort | BlackHole], protocol: str
) -> None:
    """Where nobody takes the pushes, the job tells, reads and ends within its time all the same."""
    with kind() as dead:
        ended = run(
            tmp_path,
            """
monitor = GenerationMonitor(shutdown_timeout=0.5)
tell(monitor, 20_000)
started = time.monotonic()
monitor.shutdown()
say(
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
    assert ended.said == [{"tokens": 60_000, "in_time": True}]


def test_a_dead_receiver_does_not_hold_the_exit_up(tmp_path: Path) -> None:
    """Without ``shutdown()`` too the end of the process is bounded by the time-out."""
    with BlackHole() as dead:
        ended = run(
            tmp_path,
            """
for _ in range(20):
    tell(GenerationMonitor(shutdown_timeout=0.5), 10)
say(ready=True)
""",
            environment(
                OTEL_METRICS_EXPORTER="otlp",
                OTEL_EXPORTER_OTLP_ENDPOINT=dead.endpoint,
                OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            ),
        )
    assert ended.code == 0, ended.errors
    assert ended.said == [{"ready": True}]
    assert "did not end within" in ended.errors


def test_python_can_still_be_interrupted(tmp_path: Path, receiver: HttpReceiver) -> None:
    """Ctrl-C ends a job with Python's own exit code, and everything was pushed."""
    source = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's parent ignores it
monitor = GenerationMonitor()
tell(monitor, 1_000)
say(ready=True)
while True:
    monitor.get_total_token_usage()
"""
    with subprocess.Popen(
        job(tmp_path, source),
        env=environment(receiver),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(PATIENCE)
        finally:
            process.kill()
    assert code in {-signal.SIGINT, 130, 1}
    assert receiver.total(GENERATIONS) == 1_000
