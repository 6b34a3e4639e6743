"""Jobs of several processes on a real Prometheus and through a real Collector."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _collector import Collector
from _processes import (
    ENDS,
    PATIENCE,
    Gunicorn,
    Loop,
    check_goes_on,
    environment,
    raw,
    recorded,
    recorded_by,
)
from _servers import free_port, request

from _waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from _prometheus import Prometheus

OUTAGE = 30.0
CALLS = "genmeter_generations_total"


@pytest.fixture
def own_collector(tmp_path: Path) -> Iterator[Collector]:
    """Run a Collector that a test may stop."""
    folder = tmp_path / "collector"
    folder.mkdir()
    with Collector(folder) as server:
        yield server
        # A stopped process takes no SIGTERM.
        if server._process is not None:
            server.send_signal(signal.SIGCONT)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the folder of a job."""
    made = tmp_path / "job"
    made.mkdir()
    return made


def work(url: str, requests: int, threads: int = 8) -> None:
    """Send requests for work from several threads."""

    def send() -> None:
        for _ in range(requests // threads):
            # What a worker has recorded it counts, whether its answer arrives or not.
            with contextlib.suppress(OSError):
                request("GET", f"{url}/work")
            time.sleep(0.02)

    senders = [threading.Thread(target=send) for _ in range(threads)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()


def answers(url: str) -> bool:
    """Return whether a page or an app answers."""
    try:
        return request("GET", url)[0] == 200
    except OSError:
        return False


def young_worker(url: str, folder: Path) -> int:
    """Return a worker that is far from being replaced, which ends it in order."""

    def find() -> int | None:
        worker = int(request("GET", f"{url}/work")[1])
        return worker if recorded_by(folder, worker) < 50 else None

    found = eventually(find, PATIENCE)
    assert found is not None
    return found


def wait_for_calls(prometheus: Prometheus, calls: int, **labels: str) -> None:
    """Wait until the last scrape of a job has these calls."""
    selector = ",".join(f'{name}="{value}"' for name, value in labels.items())
    prometheus.wait_for(
        f"sum({CALLS}{{{selector}}})",
        lambda found: [sample.value for sample in found] == [calls],
        PATIENCE,
    )


def check_increases(prometheus: Prometheus, run: str) -> None:
    """Assert that `increase()` over the run is the last value of each series, with zeros at births."""
    series = [each for each in raw(prometheus, run=run) if each.name.endswith(ENDS)]
    end = max(each.times[-1] for each in series)
    for name in sorted({each.name for each in series}):
        found = {
            frozenset(sample.labels.items()): sample.value
            for sample in prometheus.query(f'increase({name}{{run="{run}"}}[1h] @ {end:.3f})')
        }
        last = {
            frozenset(each.labels.items()): each.values[-1] for each in series if each.name == name
        }
        assert found == pytest.approx(last, rel=1e-9), name


@pytest.mark.timeout(600)
def test_workers_of_gunicorn_are_one_target(
    prometheus: Prometheus,
    prometheus_from_zero: Prometheus,
    collector: Collector,
    folder: Path,
) -> None:
    """Through the workers' own port, whichever answers, and as they are replaced and killed.

    It is the README's command. One Prometheus scrapes the text format, and the births as series;
    another one stores zeros at the births.
    """
    variables = {
        **collector.environment("http/protobuf", service="shop"),
        "OTEL_METRICS_EXPORTER": "prometheus,otlp",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    arguments = "--max-requests 100 --max-requests-jitter 40"
    with Gunicorn(folder, arguments, **variables) as server:
        assert eventually(lambda: answers(server.url), PATIENCE), server.log
        work(server.url, 8)
        page = f"{server.url}/metrics"
        prometheus.add_target(page, "text", run="shop-text")
        prometheus.add_target(page, "openmetrics", run="shop")
        prometheus.add_target(server.own_url, "openmetrics", run="shop-own")
        prometheus_from_zero.add_target(page, "openmetrics", run="shop-zero")
        prometheus.add_target(collector.metrics_url, "text", run="shop-pushed")
        scraped = {
            "shop-text": prometheus,
            "shop": prometheus,
            "shop-own": prometheus,
            "shop-zero": prometheus_from_zero,
        }
        for run, store in scraped.items():
            store.wait_for(f'{CALLS}{{run="{run}"}}', timeout=PATIENCE)
        work(server.url, 800)
        workers = {path.stem for path in folder.glob("*.count")}
        assert len(workers) > 4  # some have been replaced
        for run, store in scraped.items():
            wait_for_calls(store, recorded(folder), run=run)

        victim = young_worker(server.url, folder)
        # What it recorded is published, so that the sums after its end are exact.
        wait_for_calls(prometheus, recorded(folder), run="shop")
        os.kill(victim, signal.SIGKILL)
        prometheus.wait_for(
            'genmeter_job_processes{run="shop",genmeter_state="died"} == 1', timeout=PATIENCE
        )
        work(server.url, 400)
        calls = recorded(folder)
        assert calls > 1_000
        for run, store in scraped.items():
            wait_for_calls(store, calls, run=run)
            check_goes_on(raw(store, run=run), calls)
        check_increases(prometheus_from_zero, "shop-zero")
        born = [each for each in raw(prometheus, run="shop") if each.name.endswith("_created")]
        assert born  # checked above

        server.end()
        collector.wait_for(CALLS, lambda total: total == calls, job="shop")
        wait_for_calls(prometheus, calls, run="shop-pushed", exported_job="shop")
        pushed = raw(prometheus, run="shop-pushed", exported_job="shop")
        check_goes_on(pushed, calls)
        assert len({each.labels["exported_instance"] for each in pushed}) == 1
        assert "GENMETER_JOB" not in server.log
        assert "Traceback" not in server.log


def listener(loops: Sequence[Loop], port: int) -> Loop | None:
    """Return the process that listens on a port; None if none of them does."""
    inodes = {
        fields[9]
        for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if fields[1].endswith(f":{port:04X}") and fields[3] == "0A"
    }
    sockets = {f"socket:[{inode}]" for inode in inodes}
    for loop in loops:
        links = []
        for link in Path(f"/proc/{loop.process.pid}/fd").glob("*"):
            try:
                links.append(link.readlink().name)
            except OSError:
                continue
        if sockets & set(links):
            return loop
    return None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_series_go_on_when_another_process_listens(
    prometheus: Prometheus,
    prometheus_from_zero: Prometheus,
    collector: Collector,
    folder: Path,
    protocol: str,
) -> None:
    """With the labels and births that they had: the first one ends, the second one is killed."""
    service = f"turns-{protocol[:4]}"
    port = free_port()
    variables = {
        **collector.environment(protocol, service=service),
        "OTEL_METRICS_EXPORTER": "prometheus,otlp",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(port),
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "GENMETER_JOB": service,
    }
    env = environment(folder, **variables)
    url = f"http://127.0.0.1:{port}/metrics"
    stores = {
        f"{service}-text": prometheus,
        service: prometheus,
        f"{service}-zero": prometheus_from_zero,
    }
    with ExitStack() as stack:
        loops = [stack.enter_context(Loop(folder, "first", env))]
        assert eventually(lambda: answers(url), PATIENCE), loops[0].log
        for run, store in stores.items():
            store.add_target(url, "text" if run.endswith("text") else "openmetrics", run=run)
        for run, store in stores.items():
            store.wait_for(f'{CALLS}{{run="{run}"}}', timeout=PATIENCE)
        loops += [stack.enter_context(Loop(folder, f"other-{i}", env)) for i in range(3)]
        for loop in loops:
            assert eventually(is_past(loop, 100), PATIENCE), loop.log
        assert eventually(lambda: listener(loops, port), PATIENCE) is loops[0]

        assert loops.pop(0).end() == 0
        second = eventually(lambda: listener(loops, port), PATIENCE)
        assert second is not None, [loop.log for loop in loops]
        for run, store in stores.items():
            store.wait_for(f'up{{run="{run}"}} == 1', timeout=PATIENCE)
        second.do("stop")
        second.do("flush")
        second.kill()
        loops.remove(second)
        third = eventually(lambda: listener(loops, port), PATIENCE)
        assert third is not None, [loop.log for loop in loops]
        for loop in loops:
            loop.do("stop")
        calls = recorded(folder)
        for run, store in stores.items():
            wait_for_calls(store, calls, run=run)
            check_goes_on(raw(store, run=run), calls)
        check_increases(prometheus_from_zero, f"{service}-zero")
        assert [loop.end() for loop in loops] == [0, 0]
        collector.wait_for(CALLS, lambda total: total == calls, job=service)
    # Each series of the target is one, of the first process's id.
    found = raw(prometheus, run=service)
    assert len([each for each in found if each.name == "target_info"]) == 1
    assert len([each for each in found if each.name == "genmeter_build_info"]) == 1


def is_past(loop: Loop, count: int) -> Callable[[], bool]:
    """Return whether a process has recorded more calls than these, as a function."""
    return lambda: loop.count > count


def started(
    stack: ExitStack, folder: Path, name: str, count: int, variables: dict[str, str]
) -> list[Loop]:
    """Start processes that push, as one job if they are several, in a folder of their own."""
    own = folder / name
    own.mkdir()
    job = {"GENMETER_JOB": name} if count > 1 else {}
    env = environment(own, **variables, OTEL_METRIC_EXPORT_INTERVAL="500", **job)
    return [stack.enter_context(Loop(own, f"loop-{i}", env)) for i in range(count)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", ["stopped", "silent"])
def test_a_collector_that_is_down_for_half_a_minute_costs_nothing(
    own_collector: Collector, folder: Path, fault: str
) -> None:
    """Neither calls nor time, whether it refuses connections or accepts them and is silent.

    A loop that pushes nothing shows how much the machine can record meanwhile.
    """
    protocol = "grpc" if fault == "silent" else "http/protobuf"
    with ExitStack() as stack:
        jobs = {
            name: started(stack, folder, name, count, own_collector.environment(protocol, name))
            for name, count in (("alone", 1), ("four", 4))
        }
        (control,) = started(stack, folder, "control", 1, {"OTEL_METRICS_EXPORTER": "none"})
        loops = [loop for each in jobs.values() for loop in each]
        for name in jobs:
            own_collector.wait_for(CALLS, lambda total: total > 100, job=name)
        assert eventually(lambda: all(loop.count > 100 for loop in [*loops, control]), PATIENCE)

        if fault == "silent":
            own_collector.send_signal(signal.SIGSTOP)
        else:
            own_collector.stop()
        before = {loop: loop.count for loop in [*loops, control]}
        time.sleep(OUTAGE)
        during = {loop: loop.count - before[loop] for loop in [*loops, control]}
        if fault == "silent":
            own_collector.send_signal(signal.SIGCONT)
        else:
            own_collector.start_again()
        assert during[control] > 100
        assert min(during[loop] for loop in loops) > 0.5 * during[control], list(during.values())

        for loop in loops:
            loop.do("stop")
        for name, each in jobs.items():
            calls = sum(loop.count for loop in each)
            own_collector.wait_for(CALLS, calls.__eq__, job=name)
            assert any("cannot push" in loop.log for loop in each)
            assert [loop.end() for loop in each] == [0] * len(each)
            assert own_collector.total(CALLS, job=name) == calls
            assert own_collector.total("genmeter_tokens_total", job=name) == 3 * calls


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", ["stopped", "silent"])
def test_what_a_collector_misses_at_the_end_is_in_the_log(
    own_collector: Collector, folder: Path, fault: str
) -> None:
    """The processes end in order, and the log says that pushes failed."""
    with ExitStack() as stack:
        jobs = {
            name: started(stack, folder, name, count, own_collector.environment("grpc", name))
            for name, count in (("alone", 1), ("four", 4))
        }
        for name, each in jobs.items():
            for loop in each:
                assert eventually(is_past(loop, 100), PATIENCE)
            own_collector.wait_for(CALLS, lambda total: total > 100, job=name)
            assert not any("push" in loop.log for loop in each)
        if fault == "silent":
            own_collector.send_signal(signal.SIGSTOP)
        else:
            own_collector.stop()
        before = {loop: loop.count for each in jobs.values() for loop in each}
        for loop, count in before.items():
            assert eventually(is_past(loop, count + 50), PATIENCE)
        for each in jobs.values():
            assert [loop.end() for loop in each] == [0] * len(each)
            assert any("push" in loop.log for loop in each), [loop.log for loop in each]


@pytest.mark.timeout(600)
def test_a_collector_that_is_back_before_the_last_process_ends_has_everything(
    own_collector: Collector, folder: Path
) -> None:
    """Those that ended meanwhile had published what they counted."""
    with ExitStack() as stack:
        variables = own_collector.environment("http/protobuf", "back")
        loops = started(stack, folder, "back", 4, variables)
        for loop in loops:
            assert eventually(is_past(loop, 100), PATIENCE)
        own_collector.wait_for(CALLS, lambda total: total > 100, job="back")
        own_collector.stop()
        last = loops.pop()
        assert [loop.end() for loop in loops] == [0, 0, 0]
        own_collector.start_again()
        assert last.end() == 0
        calls = recorded(folder / "back")
        own_collector.wait_for(CALLS, lambda total: total == calls, job="back")
