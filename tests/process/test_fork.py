"""A fork: the child begins anew, the parent goes on, and no event counts twice."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from _jobs import environment, run, sums_by_process

from otlp_receiver import HttpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

GENERATIONS = "genmeter.generations"


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    """Give a receiver of pushes."""
    with HttpReceiver() as made:
        yield made


@pytest.mark.timeout(600)
def test_two_hundred_forks_under_load_hang_nowhere(tmp_path: Path) -> None:
    """While four threads tell without a pause and one scrapes, every child works and all is exact."""
    ended = run(
        tmp_path,
        """
import urllib.request

monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(port=0)))
url = monitor.endpoint_url
stop = threading.Event()
told = [0] * 4


def work(number):
    while not stop.is_set():
        tell(monitor)
        told[number] += 1


def scrape():
    while not stop.is_set():
        urllib.request.urlopen(url, timeout=60).read()
        stop.wait(0.2)


threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
threads.append(threading.Thread(target=scrape))
for thread in threads:
    thread.start()
codes = []
for _ in range(200):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            tell(monitor, 5)
            code = 0 if monitor.get_total_token_usage().total_tokens == 15 else 2
        finally:
            os._exit(code)
    codes.append(wait_for(pid))
stop.set()
for thread in threads:
    thread.join()
page = urllib.request.urlopen(url, timeout=60).read().decode()
exposed = [
    float(line.rsplit(" ", 1)[1])
    for line in page.splitlines()
    if line.startswith("genmeter_generations_total{")
]
say(
    codes=sorted(set(map(str, codes))),
    told=sum(told),
    tokens=monitor.get_total_token_usage().total_tokens,
    exposed=sum(exposed),
)
""",
        patience=500.0,
    )
    assert ended.code == 0, ended.errors
    (found,) = ended.said
    assert found["codes"] == ["0"]
    assert found["told"] > 0
    assert found["tokens"] == 3 * found["told"]
    assert found["exposed"] == found["told"]


def test_a_child_pushes_its_own_counts_only(tmp_path: Path, receiver: HttpReceiver) -> None:
    """Each process pushes what it was told itself, under an id of its own."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor()
tell(monitor, 100)
monitor.flush()
pid = os.fork()
if pid == 0:
    tell(monitor, 7)
    monitor.shutdown()
    os._exit(0)
say(child=wait_for(pid))
tell(monitor, 3)
monitor.shutdown()
""",
        environment(receiver, OTEL_METRIC_EXPORT_INTERVAL="50"),
    )
    assert ended.code == 0, ended.errors
    assert ended.said == [{"child": 0}]
    assert sorted(sums_by_process(receiver, GENERATIONS).values()) == [7, 103]
    assert sorted(sums_by_process(receiver, "genmeter.tokens").values()) == [21, 309]
    assert receiver.total(GENERATIONS) == 110


@pytest.mark.parametrize("end", ["monitor.shutdown(); os._exit(0)", "sys.exit(0)"])
def test_a_child_that_tells_nothing_pushes_nothing(
    tmp_path: Path, receiver: HttpReceiver, end: str
) -> None:
    """A child that only ends leaves the parent's counts to the parent, and ends at once."""
    ended = run(
        tmp_path,
        f"""
monitor = GenerationMonitor()
tell(monitor, 100)
monitor.flush()
pid = os.fork()
if pid == 0:
    {end}
say(child=wait_for(pid), requests=None)
""",
        environment(receiver, OTEL_METRIC_EXPORT_INTERVAL="60000"),
    )
    assert ended.code == 0, ended.errors
    assert ended.said[0]["child"] == 0
    assert list(sums_by_process(receiver, GENERATIONS).values()) == [100]
    assert len(receiver.requests) == 1
    assert "did not end" not in ended.errors


def test_a_child_that_ends_by_itself_pushes_at_its_exit(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    """After a plain ``os.fork`` the child's exit pushes what it told, though it told it just now."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor()
pid = os.fork()
if pid == 0:
    tell(monitor, 7)
    sys.exit(0)
say(child=wait_for(pid))
""",
        environment(receiver),
    )
    assert ended.code == 0, ended.errors
    assert ended.said == [{"child": 0}]
    found = sums_by_process(receiver, GENERATIONS)
    assert max(found.values()) == 7
    assert receiver.total(GENERATIONS) == 7


def test_a_child_has_none_of_the_parents_sockets(tmp_path: Path) -> None:
    """No listening socket is open in the child, whether the endpoint serves or lingers."""
    ended = run(
        tmp_path,
        """
import socket


def listening():
    found = []
    for number in range(3, 256):
        try:
            copy = socket.socket(fileno=os.dup(number))
        except OSError:
            continue
        with copy:
            if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found.append(copy.getsockname()[1])
    return found


def of_a_child():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, json.dumps(listening()).encode() + b"\\n")
        os._exit(0)
    wait_for(pid)
    return json.loads(os.read(read, 1000))


monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(port=0, linger=60)))
tell(monitor)
port = int(monitor.endpoint_url.rsplit(":", 1)[1].split("/")[0])
say(own=listening() == [port], child=of_a_child())
ending = threading.Thread(target=monitor.shutdown, daemon=True)
ending.start()
while monitor.endpoint_url is not None:
    time.sleep(0.005)
say(own=listening() == [port], child=of_a_child())
os._exit(0)
""",
    )
    assert ended.said == [{"own": True, "child": []}] * 2, ended.errors


def test_a_call_that_is_open_over_a_fork_ends_in_the_parent(tmp_path: Path) -> None:
    """``with monitor.generation()`` over a fork leaves nothing active, in the child below 0 neither."""
    ended = run(
        tmp_path,
        """
import urllib.request


def active(monitor):
    monitor.flush()
    page = urllib.request.urlopen(monitor.endpoint_url, timeout=60).read().decode()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith("genmeter_generations_active{")
    )


config = MonitorConfig(endpoint=EndpointConfig(port=0))
monitor = GenerationMonitor(config=config)
with monitor.generation(model="m"):
    before = active(monitor)
    pid = os.fork()
if pid == 0:
    with monitor.generation(model="m"):
        during = active(monitor)
    say(who="child", during=during, after=active(monitor))
    os._exit(0)
wait_for(pid)
say(who="parent", during=before, after=active(monitor))
""",
    )
    assert ended.said == [
        {"who": "child", "during": 1, "after": 0},
        {"who": "parent", "during": 1, "after": 0},
    ], ended.errors


def test_a_monitor_that_a_child_makes_is_the_childs(tmp_path: Path, receiver: HttpReceiver) -> None:
    """A new monitor in the child shares with the inherited one there, and with nobody else."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor(config=MonitorConfig(models=("a",)))
tell(monitor, 100)
monitor.flush()
pid = os.fork()
if pid == 0:
    own = GenerationMonitor(config=MonitorConfig(models=("b",), default_model="c"))
    tell(own, 4)
    tell(monitor, 3)
    say(total=process_token_usage().total_tokens)
    sys.exit(0)
wait_for(pid)
""",
        environment(receiver),
    )
    assert ended.said == [{"total": 21}], ended.errors
    assert sorted(sums_by_process(receiver, GENERATIONS).values()) == [7, 100]
    models = {attributes["gen_ai.request.model"] for attributes, _ in receiver.points(GENERATIONS)}
    assert models == {"a", "b", "c", "m"}


def test_the_jobs_expected_samples_are_the_parents(tmp_path: Path, receiver: HttpReceiver) -> None:
    """Children of a job do not multiply what it is to make."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor(config=MonitorConfig(expected_samples=1_000))
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        monitor.record_sample(True)
        sys.exit(0)
    wait_for(pid)
""",
        environment(receiver),
    )
    assert ended.code == 0, ended.errors
    assert receiver.total("genmeter.samples") == 3
    assert receiver.total("genmeter.job.samples.expected") == 1_000


def test_a_childs_child_begins_anew_too(tmp_path: Path, receiver: HttpReceiver) -> None:
    """Three generations of processes count each their own, also where the middle one told nothing."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor()
tell(monitor, 100)
monitor.flush()
for told in (0, 20):
    pid = os.fork()
    if pid == 0:
        tell(monitor, told)
        if told:
            monitor.flush()
        pid = os.fork()
        if pid == 0:
            tell(monitor, 3)
            sys.exit(0)
        say(grandchild=wait_for(pid))
        sys.exit(0)
    say(child=wait_for(pid))
""",
        environment(receiver),
    )
    assert ended.said == [{"grandchild": 0}, {"child": 0}] * 2, ended.errors
    assert sorted(sums_by_process(receiver, GENERATIONS).values()) == [3, 3, 20, 100]


def test_a_thread_may_fork(tmp_path: Path, receiver: HttpReceiver) -> None:
    """A child of a thread other than the main one tells, reads and pushes."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor()
tell(monitor, 100)


def fork():
    pid = os.fork()
    if pid == 0:
        try:
            tell(monitor, 7)
            say(tokens=monitor.get_total_token_usage().total_tokens)
            monitor.shutdown()
        finally:
            os._exit(0)
    say(child=wait_for(pid))


thread = threading.Thread(target=fork)
thread.start()
thread.join()
""",
        environment(receiver),
    )
    assert ended.said == [{"tokens": 21}, {"child": 0}], ended.errors
    assert sorted(sums_by_process(receiver, GENERATIONS).values()) == [7, 100]


def test_a_token_callback_goes_on_in_the_child(tmp_path: Path) -> None:
    """The child's own thread calls back with the child's own tokens."""
    ended = run(
        tmp_path,
        """
seen = []
monitor = GenerationMonitor(
    token_usage_callback=lambda report: seen.append(report.total_tokens),
    token_usage_callback_interval_seconds=0.005,
)
tell(monitor, 100)
monitor.flush()
pid = os.fork()
if pid == 0:
    seen.clear()
    tell(monitor)
    deadline = time.monotonic() + 60
    while not seen and time.monotonic() < deadline:
        time.sleep(0.005)
    say(seen=seen[0])
    monitor.shutdown()
    os._exit(0)
say(child=wait_for(pid))
""",
    )
    assert ended.said == [{"seen": 3}, {"child": 0}], ended.errors


def test_a_childs_foreign_provider_is_warned_about(tmp_path: Path) -> None:
    """A provider of the application's cannot be mended in the child, and one warning says so."""
    ended = run(
        tmp_path,
        """
from opentelemetry.sdk.metrics import MeterProvider

monitor = GenerationMonitor(config=MonitorConfig(meter_provider=MeterProvider()))
tell(monitor, 100)
monitor.flush()
pid = os.fork()
if pid == 0:
    tell(monitor, 7)
    say(tokens=monitor.get_total_token_usage().total_tokens)
    sys.exit(0)
say(child=wait_for(pid))
""",
    )
    assert ended.said == [{"tokens": 21}, {"child": 0}], ended.errors
    assert ended.errors.count("create a new provider in the child") == 1


def test_a_fork_without_a_monitor_is_no_matter(tmp_path: Path) -> None:
    """A child of a process that imported the package only makes monitors of its own."""
    ended = run(
        tmp_path,
        """
pid = os.fork()
if pid == 0:
    monitor = GenerationMonitor()
    tell(monitor)
    say(tokens=process_token_usage().total_tokens)
    sys.exit(0)
say(child=wait_for(pid))
""",
    )
    assert ended.said == [{"tokens": 3}, {"child": 0}], ended.errors


@pytest.mark.timeout(300)
def test_two_threads_that_fork_at_once_leave_everything_working(tmp_path: Path) -> None:
    """Each fork lets go of its own locks only: the endpoint answers, and no count is lost."""
    ended = run(
        tmp_path,
        """
import concurrent.futures.thread  # its fork hooks hold a lock over each fork
import urllib.request

from opentelemetry.sdk.metrics import MeterProvider

monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(port=0)))
foreign = GenerationMonitor(config=MonitorConfig(meter_provider=MeterProvider()))
tell(monitor)
url = monitor.endpoint_url
statuses, codes = set(), []


def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    codes.append(wait_for(pid))


told = 1
for _ in range(40):
    tell(monitor, 300)  # enough to wake the drain
    tell(foreign, 300)
    told += 300
    threads = [threading.Thread(target=fork) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with urllib.request.urlopen(url, timeout=60) as answer:
        statuses.add(answer.status)
        page = answer.read().decode()
exposed = [
    float(line.rsplit(" ", 1)[1])
    for line in page.splitlines()
    if line.startswith("genmeter_generations_total{")
]
say(
    statuses=sorted(statuses),
    codes=sorted(set(map(str, codes))),
    exposed=sum(exposed) == told,
    tokens=monitor.get_total_token_usage().total_tokens == 3 * told,
    foreign=foreign.get_total_token_usage().total_tokens == 3 * (told - 1),
    process=process_token_usage().total_tokens == 3 * (2 * told - 1),
)
""",
        patience=250.0,
    )
    assert ended.code == 0, ended.errors
    right = dict.fromkeys(("exposed", "tokens", "foreign", "process"), True)
    assert ended.said == [{"statuses": [200], "codes": ["0"], **right}], ended.errors


@pytest.mark.parametrize("kind", ["wsgi_app", "prometheus_collector", "process_token_usage"])
def test_a_preloaded_worker_that_recorded_nothing_answers(tmp_path: Path, kind: str) -> None:
    """In a child without an event a scrape and a report come at once, at 0 and without a thread."""
    ended = run(
        tmp_path,
        f"""
monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(enabled=False)))
tell(monitor, 5)
monitor.flush()
app = monitor.wsgi_app()
collector = monitor.prometheus_collector()


def ask():
    if {kind!r} == "process_token_usage":
        return process_token_usage().total_tokens / 3
    if {kind!r} == "prometheus_collector":
        return sum(
            sample.value
            for family in collector.collect()
            for sample in family.samples
            if sample.name == "genmeter_generations_total"
        )
    status = []
    environ = {{"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics"}}
    page = b"".join(app(environ, lambda line, headers: status.append(line))).decode()
    assert status == ["200 OK"], (status, page)
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith("genmeter_generations_total{{")
    )


say(parent=ask())
pid = os.fork()
if pid == 0:
    say(child=ask())
    tell(monitor, 2)
    say(child=ask())
    os._exit(0)
say(code=wait_for(pid), parent=ask())
""",
        environment(OTEL_METRICS_EXPORTER="prometheus"),
    )
    assert ended.said == [
        {"parent": 5},
        {"child": 0},
        {"child": 2},
        {"code": 0, "parent": 5},
    ], ended.errors
