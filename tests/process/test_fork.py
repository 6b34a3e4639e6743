"""A fork: parent and child are one job, each adds its own events, and no event counts twice."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from _jobs import environment, run, sums_by_process

if TYPE_CHECKING:
    from pathlib import Path

    from otlp_receiver import HttpReceiver

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

GENERATIONS = "genmeter.generations"


@pytest.mark.timeout(600)
def test_200_forks_under_load_do_not_hang(tmp_path: Path) -> None:
    """While threads record and scrape, every child works and all counts are exact.

    Of a child that ends by ``os._exit`` without ``flush()``, the job has what was published.
    """
    ended = run(
        tmp_path,
        """
import traceback
import urllib.request

monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(port=0)))
url = monitor.endpoint_url
stop = threading.Event()
recorded = [0] * 4


def work(number):
    while not stop.is_set():
        record(monitor)
        recorded[number] += 1


def scrape():
    while not stop.is_set():
        urllib.request.urlopen(url, timeout=60).read()
        stop.wait(0.2)


threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
threads.append(threading.Thread(target=scrape))
for thread in threads:
    thread.start()
codes = []
for number in range(200):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            record(monitor, 5, model="flushed" if number % 2 else "cut")
            code = 3 if monitor.get_total_token_usage().total_tokens == 15 else 2
            if number % 2:
                monitor.flush()
            code -= 3 if code == 3 else 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    codes.append(wait_for(pid))
stop.set()
for thread in threads:
    thread.join()
page = urllib.request.urlopen(url, timeout=60).read().decode()
exposed = {
    model: sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith("genmeter_generations_total{") and f'model="{model}"' in line
    )
    for model in ("m", "flushed", "cut")
}
output(
    codes=sorted(set(map(str, codes))),
    recorded=sum(recorded),
    tokens=monitor.get_total_token_usage().total_tokens,
    exposed=exposed,
    targets=page.count("target_info{"),
)
""",
        patience=500.0,
    )
    assert ended.code == 0, ended.errors
    (found,) = ended.output
    assert found["codes"] == ["0"], ended.errors
    assert found["recorded"] > 0
    assert found["tokens"] == 3 * found["recorded"]
    assert found["exposed"]["m"] == found["recorded"]
    assert found["exposed"]["flushed"] == 500, ended.errors
    assert 0 <= found["exposed"]["cut"] <= 500
    assert found["targets"] == 1


def falls(receiver: HttpReceiver, name: str) -> list[float]:
    """Return the values of a counter's pushed points that are below the series' point before."""
    last: dict[str, float] = {}
    found = []
    for resource, attributes, value in receiver._all_points(name):
        key = repr((resource["service.instance.id"], sorted(attributes.items())))
        if value < last.get(key, 0):
            found.append(value)
        last[key] = value
    return found


def test_a_child_adds_its_own_counts_only(tmp_path: Path, receiver: HttpReceiver) -> None:
    """The job pushes the events of both under one id; those of the parent count once."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor()
record(monitor, 100)
monitor.flush()
pid = os.fork()
if pid == 0:
    record(monitor, 7)
    monitor.shutdown()
    os._exit(0)
output(child=wait_for(pid))
record(monitor, 3)
monitor.shutdown()
""",
        environment(receiver, OTEL_METRIC_EXPORT_INTERVAL="50"),
    )
    assert ended.code == 0, ended.errors
    assert ended.output == [{"child": 0}]
    assert list(sums_by_process(receiver, GENERATIONS).values()) == [110]
    assert list(sums_by_process(receiver, "genmeter.tokens").values()) == [330]
    assert receiver.total(GENERATIONS) == 110
    assert falls(receiver, GENERATIONS) == []


@pytest.mark.parametrize("end", ["monitor.shutdown(); os._exit(0)", "sys.exit(0)"])
def test_a_child_without_events_pushes_nothing(
    tmp_path: Path, receiver: HttpReceiver, end: str
) -> None:
    """A child that only ends does so at once."""
    ended = run(
        tmp_path,
        f"""
monitor = GenerationMonitor()
record(monitor, 100)
monitor.flush()
pid = os.fork()
if pid == 0:
    {end}
output(child=wait_for(pid), requests=None)
""",
        environment(receiver, OTEL_METRIC_EXPORT_INTERVAL="60000"),
    )
    assert ended.code == 0, ended.errors
    assert ended.output[0]["child"] == 0
    assert list(sums_by_process(receiver, GENERATIONS).values()) == [100]
    assert len(receiver.requests) == 1
    assert "did not end" not in ended.errors


def test_a_forked_child_pushes_at_its_exit(tmp_path: Path, receiver: HttpReceiver) -> None:
    """An exit right after ``os.fork`` and some calls pushes these."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor()
pid = os.fork()
if pid == 0:
    record(monitor, 7)
    sys.exit(0)
output(child=wait_for(pid))
""",
        environment(receiver),
    )
    assert ended.code == 0, ended.errors
    assert ended.output == [{"child": 0}]
    found = sums_by_process(receiver, GENERATIONS)
    assert max(found.values()) == 7
    assert receiver.total(GENERATIONS) == 7


def test_a_child_closes_the_parents_sockets(tmp_path: Path) -> None:
    """No socket listens in the child, whether the endpoint serves or lingers."""
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
record(monitor)
port = int(monitor.endpoint_url.rsplit(":", 1)[1].split("/")[0])
output(own=listening() == [port], child=of_a_child())
ending = threading.Thread(target=monitor.shutdown, daemon=True)
ending.start()
while monitor.endpoint_url is not None:
    time.sleep(0.005)
output(own=listening() == [port], child=of_a_child())
os._exit(0)
""",
    )
    assert ended.output == [{"own": True, "child": []}] * 2, ended.errors


def test_a_call_open_during_a_fork_ends_in_the_parent(tmp_path: Path) -> None:
    """It is not the child's: the job's active calls are those of each process, and return to 0."""
    ended = run(
        tmp_path,
        """
def active(monitor):
    monitor.flush()
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics"}
    page = b"".join(app(environ, lambda line, headers: None)).decode()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith("genmeter_generations_active{")
    )


monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(port=0)))
app = monitor.wsgi_app()
with monitor.generation(model="m"):
    before = active(monitor)
    pid = os.fork()
if pid == 0:
    with monitor.generation(model="m"):
        during = active(monitor)
    output(who="child", during=during, after=active(monitor))
    os._exit(0)
wait_for(pid)
output(who="parent", during=before, after=active(monitor))
""",
    )
    assert ended.output == [
        {"who": "child", "during": 1, "after": 0},
        {"who": "parent", "during": 1, "after": 0},
    ], ended.errors


def test_a_monitor_created_in_a_child_shares_only_its_process(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    """It shares the process's totals with the inherited monitor in the child only."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor(config=MonitorConfig(models=("a",)))
record(monitor, 100)
monitor.flush()
pid = os.fork()
if pid == 0:
    own = GenerationMonitor(config=MonitorConfig(models=("b",), default_model="c"))
    record(own, 4)
    record(monitor, 3)
    output(total=process_token_usage().total_tokens)
    sys.exit(0)
wait_for(pid)
""",
        environment(receiver),
    )
    assert ended.output == [{"total": 21}], ended.errors
    assert list(sums_by_process(receiver, GENERATIONS).values()) == [107]
    models = {attributes["gen_ai.request.model"] for attributes, _ in receiver.points(GENERATIONS)}
    assert models == {"a", "b", "c", "m"}


def test_expected_samples_are_exported_by_the_parent_only(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    """Children do not multiply the job's expected samples."""
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


def test_a_grandchild_starts_at_0(tmp_path: Path, receiver: HttpReceiver) -> None:
    """Three generations count their own events, even if the middle one has none."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor()
record(monitor, 100)
monitor.flush()
for recorded in (0, 20):
    pid = os.fork()
    if pid == 0:
        record(monitor, recorded)
        if recorded:
            monitor.flush()
        pid = os.fork()
        if pid == 0:
            record(monitor, 3)
            sys.exit(0)
        output(grandchild=wait_for(pid))
        sys.exit(0)
    output(child=wait_for(pid))
""",
        environment(receiver),
    )
    assert ended.output == [{"grandchild": 0}, {"child": 0}] * 2, ended.errors
    assert list(sums_by_process(receiver, GENERATIONS).values()) == [126]


def test_a_thread_may_fork(tmp_path: Path, receiver: HttpReceiver) -> None:
    """A child of a thread other than the main one records, reads and pushes."""
    ended = run(
        tmp_path,
        """
monitor = GenerationMonitor()
record(monitor, 100)


def fork():
    pid = os.fork()
    if pid == 0:
        try:
            record(monitor, 7)
            output(tokens=monitor.get_total_token_usage().total_tokens)
            monitor.shutdown()
        finally:
            os._exit(0)
    output(child=wait_for(pid))


thread = threading.Thread(target=fork)
thread.start()
thread.join()
""",
        environment(receiver),
    )
    assert ended.output == [{"tokens": 21}, {"child": 0}], ended.errors
    assert list(sums_by_process(receiver, GENERATIONS).values()) == [107]


def test_a_token_callback_runs_in_the_child(tmp_path: Path) -> None:
    """The child's thread passes the child's tokens."""
    ended = run(
        tmp_path,
        """
seen = []
monitor = GenerationMonitor(
    token_usage_callback=lambda report: seen.append(report.total_tokens),
    token_usage_callback_interval_seconds=0.005,
)
record(monitor, 100)
monitor.flush()
pid = os.fork()
if pid == 0:
    seen.clear()
    record(monitor)
    deadline = time.monotonic() + 60
    while not seen and time.monotonic() < deadline:
        time.sleep(0.005)
    output(seen=seen[0])
    monitor.shutdown()
    os._exit(0)
output(child=wait_for(pid))
""",
    )
    assert ended.output == [{"seen": 3}, {"child": 0}], ended.errors


def test_an_application_provider_in_a_child_warns_once(tmp_path: Path) -> None:
    """The application's provider cannot be reset in the child."""
    ended = run(
        tmp_path,
        """
from opentelemetry.sdk.metrics import MeterProvider

monitor = GenerationMonitor(config=MonitorConfig(meter_provider=MeterProvider()))
record(monitor, 100)
monitor.flush()
pid = os.fork()
if pid == 0:
    record(monitor, 7)
    output(tokens=monitor.get_total_token_usage().total_tokens)
    sys.exit(0)
output(child=wait_for(pid))
""",
    )
    assert ended.output == [{"tokens": 21}, {"child": 0}], ended.errors
    assert ended.errors.count("create a new provider in the child") == 1


def test_a_child_can_create_the_first_monitor(tmp_path: Path) -> None:
    """The parent has only imported the package."""
    ended = run(
        tmp_path,
        """
pid = os.fork()
if pid == 0:
    monitor = GenerationMonitor()
    record(monitor)
    output(tokens=process_token_usage().total_tokens)
    sys.exit(0)
output(child=wait_for(pid))
""",
    )
    assert ended.output == [{"tokens": 3}, {"child": 0}], ended.errors


@pytest.mark.timeout(300)
def test_concurrent_forks_keep_the_parent_working(tmp_path: Path) -> None:
    """Each fork releases only its own locks; the endpoint responds, and no count is lost."""
    ended = run(
        tmp_path,
        """
import concurrent.futures.thread  # its fork hooks keep a lock over each fork
import urllib.request

from opentelemetry.sdk.metrics import MeterProvider

monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(port=0)))
foreign = GenerationMonitor(config=MonitorConfig(meter_provider=MeterProvider()))
record(monitor)
url = monitor.endpoint_url
statuses, codes = set(), []


def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    codes.append(wait_for(pid))


recorded = 1
for _ in range(40):
    record(monitor, 300)  # enough to wake the drain
    record(foreign, 300)
    recorded += 300
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
output(
    statuses=sorted(statuses),
    codes=sorted(set(map(str, codes))),
    exposed=sum(exposed) == recorded,
    tokens=monitor.get_total_token_usage().total_tokens == 3 * recorded,
    foreign=foreign.get_total_token_usage().total_tokens == 3 * (recorded - 1),
    process=process_token_usage().total_tokens == 3 * (2 * recorded - 1),
)
""",
        patience=250.0,
    )
    assert ended.code == 0, ended.errors
    right = dict.fromkeys(("exposed", "tokens", "foreign", "process"), True)
    assert ended.output == [{"statuses": [200], "codes": ["0"], **right}], ended.errors


@pytest.mark.parametrize("kind", ["wsgi_app", "prometheus_collector", "process_token_usage"])
def test_a_preloaded_worker_without_events_responds_at_once(tmp_path: Path, kind: str) -> None:
    """A report in the child is the child's own; a scrape has the job's numbers in both processes.

    The parent's are on the child's page once the parent has seen that there is a child.
    """
    ended = run(
        tmp_path,
        f"""
monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(enabled=False)))
record(monitor, 5)
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


output(parent=ask())
pid = os.fork()
if pid == 0:
    output(child=ask())
    record(monitor, 2)
    output(child=ask())
    deadline = time.monotonic() + 60
    while (found := ask()) == 2 and {kind!r} != "process_token_usage":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    output(child=found)
    os._exit(0)
output(code=wait_for(pid), parent=ask())
""",
        environment(OTEL_METRICS_EXPORTER="prometheus"),
    )
    own = kind == "process_token_usage"
    first, early, late, second, last = ended.output
    assert first == {"parent": 5}
    assert early["child"] in ({0} if own else {0, 5}), ended.errors
    assert late["child"] in ({2} if own else {2, 7})
    assert second == {"child": 2 if own else 7}
    assert last == {"code": 0, "parent": 5 if own else 7}
