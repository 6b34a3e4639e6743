"""Workers that a process starts: they are one job with it, by themselves."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from _jobs import environment, folders, job, sums_by_process
from _pages import Page, Scraper, free_port, sums
from _ranks import Live

from _waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from otlp_receiver import HttpReceiver

METHODS = ["fork", "spawn", "forkserver"]
GENERATIONS = "genmeter.generations"

WORK = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

multiprocessing.set_forkserver_preload([])


def executor(method, workers, **settings):
    context = multiprocessing.get_context(method)
    return ProcessPoolExecutor(workers, mp_context=context, **settings)
"""
# A module of its own: what a spawned process imports.
MODULE = """
import os, time
from genmeter import GenerationMonitor

monitor = None


def work(count, model="child"):
    global monitor
    monitor = monitor or GenerationMonitor()
    for _ in range(count):
        monitor.track_generation(
            0.1, True, model_name=model, prompt_token_count=2, completion_token_count=1
        )
    return os.getpid()


def work_and_flush(count):
    work(count)
    monitor.flush()
    return os.getpid()
"""


@pytest.fixture
def url() -> str:
    """Return the URL of the job's page."""
    return f"http://127.0.0.1:{free_port()}/metrics"


def port_of(url: str) -> str:
    """Return the port of a URL."""
    return str(urlsplit(url).port)


def both(receiver: HttpReceiver, url: str, folder: Path) -> dict[str, str]:
    """Return the environment of a job that is scraped and pushes."""
    return environment(
        receiver,
        OTEL_METRICS_EXPORTER="prometheus,otlp",
        OTEL_EXPORTER_PROMETHEUS_PORT=port_of(url),
        OTEL_METRIC_EXPORT_INTERVAL="500",
        PYTHONPATH=os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
    )


def parent(folder: Path, env: dict[str, str], start: str = "monitor = GenerationMonitor()") -> Live:
    """Return a process that can start pools, after what it does first."""
    (folder / "workers.py").write_text(MODULE)
    return Live(folder, "main", env, f"{start}\n{WORK}\nimport workers")


def never_more(receiver: HttpReceiver, calls: float) -> None:
    """Fail if a push had more calls than the job, or fewer than the one before."""
    last: dict[str, float] = {}
    for resource, attributes, value in receiver._all_points(GENERATIONS):
        key = repr((resource["service.instance.id"], sorted(attributes.items())))
        assert value >= last.get(key, 0)
        last[key] = value
    assert sum(last.values()) == calls


def check_end(receiver: HttpReceiver, calls: float, jobs: Path) -> None:
    """Fail unless the pushes are of one job with these calls, and no folder is left."""
    assert list(sums_by_process(receiver, GENERATIONS).values()) == [calls]
    never_more(receiver, calls)
    assert folders(jobs) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", METHODS)
def test_an_executors_work_is_on_the_page_while_its_workers_are_idle(
    tmp_path: Path, jobs: Path, receiver: HttpReceiver, url: str, method: str
) -> None:
    """And in the report and the push; so it is after they ended."""
    with parent(tmp_path, both(receiver, url, tmp_path)) as live:
        live.do("workers.monitor = monitor")
        live.do("record(monitor, 1, model='parent')")
        live.do("monitor.flush()")
        with Scraper(url) as scraper:
            live.do(f"pool = executor({method!r}, 3)")
            assert live.do("len(set(pool.map(workers.work, [100] * 24)))") >= 1
            assert eventually(lambda: Page(url).sums() == sums(2_401))
            page = Page(url)
            assert page.is_whole
            assert page.processes("running") >= 2
            assert live.do("job_token_usage().total_tokens") == 3 * 2_401
            assert live.do("process_token_usage().total_tokens") == 3
            assert eventually(lambda: receiver.total(GENERATIONS) == 2_401)
            live.do("pool.shutdown()")
            live.do("record(monitor, 9, model='parent')")
            assert eventually(lambda: Page(url).sums() == sums(2_410))
        scraper.check(2_410)
        assert live.do("job_token_usage().total_tokens") == 3 * 2_410
        assert live.end() == 0
        assert live.errors == ""
    check_end(receiver, 2_410, jobs)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_of_one_task_each_leave_nothing_behind(
    tmp_path: Path, jobs: Path, receiver: HttpReceiver, url: str, method: str
) -> None:
    """All of their calls stay, and the store has no row of them."""
    with parent(tmp_path, both(receiver, url, tmp_path)) as live:
        live.do("record(monitor, 1)")
        live.do("monitor.flush()")
        with Scraper(url) as scraper:
            live.do(f"pool = executor({method!r}, 2, max_tasks_per_child=1)")
            assert live.do("len(set(pool.map(workers.work, [7] * 10)))") == 10
            live.do("pool.shutdown()")
            assert eventually(lambda: Page(url).sums() == sums(71))
            assert eventually(lambda: Page(url).processes("ended") == 10)
        scraper.check(71)
        assert Page(url).processes("died") == 0
        assert live.end() == 0
    check_end(receiver, 71, jobs)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_named_job_goes_on_between_two_workers_of_its_pool(
    tmp_path: Path, receiver: HttpReceiver, method: str
) -> None:
    """Although no process of it that has recorded runs then; another pool's job begins anew."""
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = environment(receiver, GENMETER_JOB="night", PYTHONPATH=path)
    for run in range(2):
        with parent(tmp_path, env, "") as live:
            live.do(f"pool = executor({method!r}, 1, max_tasks_per_child=1)")
            for _ in range(4):
                live.do("pool.submit(workers.work, 7).result()")
                live.do("time.sleep(0.1)")
            live.do("pool.shutdown()")
            assert live.end() == 0
        assert list(sums_by_process(receiver, GENERATIONS).values()) == [28] * (run + 1)
    never_more(receiver, 56)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", METHODS)
def test_a_parent_that_does_not_use_genmeter_has_a_job_of_its_workers(
    tmp_path: Path, jobs: Path, receiver: HttpReceiver, url: str, method: str
) -> None:
    """They are one page and one push."""
    with parent(tmp_path, both(receiver, url, tmp_path), "") as live:
        live.do(f"pool = executor({method!r}, 2)")
        live.do("list(pool.map(workers.work_and_flush, [10] * 40))")
        assert eventually(lambda: Page(url).sums() == sums(400))
        assert Page(url).is_whole
        live.do("pool.shutdown()")
        assert live.end() == 0
        assert live.errors == ""
    check_end(receiver, 400, jobs)


@pytest.mark.timeout(300)
def test_forks_while_threads_record_are_exact(
    tmp_path: Path, jobs: Path, receiver: HttpReceiver, url: str
) -> None:
    """Children end by ``os._exit`` after ``flush()``, by ``sys.exit`` or a function's return."""
    with Live(tmp_path, "main", both(receiver, url, tmp_path)) as live:
        live.do("import multiprocessing")
        live.do(
            "def child(number):\n"
            "    record(monitor, 50, model='child')\n"
            "    if number % 2:\n"
            "        monitor.flush()\n"
            "        os._exit(0)\n"
            "    sys.exit(0)\n"
            "def forked(number):\n"
            "    pid = os.fork()\n"
            "    if pid == 0:\n"
            "        child(number)\n"
            "    return pid\n"
        )
        live.do("load(monitor)")
        assert eventually(lambda: live.counted > 0)
        with Scraper(url) as scraper:
            live.do("pids = [forked(number) for number in range(20)]")
            live.do("context = multiprocessing.get_context('fork')")
            live.do(
                "ps = [context.Process(target=record, args=(monitor, 50, 'child')) for _ in '1234']"
            )
            live.do("for p in ps: p.start()")
            assert live.do("[wait_for(pid) for pid in pids]") == [0] * 20
            live.do("for p in ps: p.join(60)")
            assert live.do("[p.exitcode for p in ps]") == [0] * 4
            live.do("stop.set(); time.sleep(0.1)")
            total = live.counted + 24 * 50
            assert eventually(lambda: Page(url).sums() == sums(total))
            assert Page(url).sums(gen_ai_request_model="child") == sums(1_200)
        scraper.check(total)
        assert Page(url).is_whole
        assert live.do("job_token_usage().total_tokens") == 3 * total
        assert live.end() == 0
        assert "Traceback" not in live.errors
    check_end(receiver, total, jobs)


@pytest.mark.timeout(300)
def test_cells_of_a_notebook_go_on_in_one_job(
    tmp_path: Path, jobs: Path, receiver: HttpReceiver, url: str
) -> None:
    """A monitor is made anew, sometimes with a pool: no counter falls, and nothing piles up."""
    cell = "monitor = GenerationMonitor(); record(monitor, 50)"
    pool = (
        "context = multiprocessing.get_context('fork')\n"
        "pool = ProcessPoolExecutor(2, mp_context=context)\n"
        "list(pool.map(workers.work, [20] * 4))\n"
        "pool.shutdown()\n"
    )
    with parent(tmp_path, both(receiver, url, tmp_path), "monitor = None") as live:
        live.do(cell)
        live.do("workers.monitor = monitor")
        assert eventually(lambda: Page(url).sums() == sums(50))
        handles = "(threading.active_count(), len(os.listdir('/proc/self/fd')))"
        total, first = 50, None
        with Scraper(url) as scraper:
            for number in range(12):
                live.do(cell)
                total += 50
                if number % 4 == 0:
                    live.do("workers.monitor = monitor")
                    live.do(pool)
                    total += 80
                if number == 2:
                    assert eventually(lambda total=total: Page(url).sums() == sums(total))
                    first = live.do(handles)
            assert eventually(lambda: Page(url).sums() == sums(total))
            assert first is not None
            threads, files = first

            def are_few() -> bool:
                now = live.do(handles)
                return bool(now[0] <= threads + 2 and now[1] <= files + 4)

            assert eventually(are_few)  # the threads of the monitors before end on their own time
        scraper.check(total)
        assert live.do("job_token_usage().total_tokens") == 3 * total
        assert live.end() == 0
    assert receiver.total(GENERATIONS) == total
    assert folders(jobs) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", METHODS)
def test_a_parent_without_events_leaves_nothing_out(
    tmp_path: Path, jobs: Path, receiver: HttpReceiver, url: str, method: str
) -> None:
    """It has a monitor, and only its workers record: for a moment, or for long."""
    with parent(tmp_path, both(receiver, url, tmp_path)) as live:
        live.do(f"pool = executor({method!r}, 2)")
        live.do("list(pool.map(workers.work, [10] * 10))")
        live.do("pool.shutdown()")
        live.do(f"pool = executor({method!r}, 2)")
        live.do("list(pool.map(workers.work, [10] * 10))")
        assert eventually(lambda: Page(url).sums() == sums(200))
        assert Page(url).is_whole
        assert eventually(lambda: receiver.total(GENERATIONS) == 200)
        live.do("list(pool.map(workers.work, [10] * 10))")
        live.do("pool.shutdown()")
        assert live.do("job_token_usage().total_tokens") == 900
        assert live.end() == 0
    check_end(receiver, 300, jobs)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", METHODS)
def test_workers_of_a_named_job_are_in_it(
    tmp_path: Path, jobs: Path, receiver: HttpReceiver, url: str, method: str
) -> None:
    """Beside an independent process of the same job."""
    env = {**both(receiver, url, tmp_path), "GENMETER_JOB": "Named"}
    with parent(tmp_path, env) as live, Live(tmp_path, "other", env) as other:
        other.do("record(monitor, 9)")
        with_main = live.do("record(monitor, 1); monitor.flush()")
        assert with_main is None
        live.do(f"pool = executor({method!r}, 2)")
        live.do("list(pool.map(workers.work, [10] * 10))")
        assert eventually(lambda: Page(url).sums() == sums(110))
        assert Page(url).is_whole
        live.do("pool.shutdown()")
        for each in (live, other):
            assert each.do("job_token_usage().total_tokens") == 330
        assert live.end() == 0
        other.do("record(monitor, 1)")
        assert eventually(lambda: Page(url).sums() == sums(111))
        assert other.end() == 0
    check_end(receiver, 111, jobs)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", METHODS)
def test_a_pool_that_is_older_than_the_first_monitor_is_in_the_job(
    tmp_path: Path, jobs: Path, receiver: HttpReceiver, url: str, method: str
) -> None:
    """Its parent makes a monitor after it has started the workers."""
    with parent(tmp_path, both(receiver, url, tmp_path), "") as live:
        live.do(f"pool = executor({method!r}, 2)")
        live.do("list(pool.map(workers.work, [0] * 20))")
        live.do("monitor = GenerationMonitor()")
        with Scraper(url) as scraper:
            live.do("record(monitor, 5)")
            live.do("list(pool.map(workers.work, [10] * 10))")
            live.do("record(monitor, 1)")
            assert eventually(lambda: Page(url).sums() == sums(106))
            assert Page(url).is_whole
        scraper.check(106, frozenset({200, None}))
        assert live.do("job_token_usage().total_tokens") == 3 * 106
        live.do("pool.shutdown()")
        assert live.end() == 0
        assert live.errors == ""
    check_end(receiver, 106, jobs)


DAEMON = """
monitor = GenerationMonitor()
record(monitor, 5)
monitor.flush()
for _ in range(2):  # as a daemon does
    if os.fork():
        os._exit(0)
    os.setsid() if _ == 0 else None
record(monitor, 7)
monitor.flush()
time.sleep(1.5)
record(monitor, 1)
sys.exit(0)
"""


@pytest.mark.timeout(300)
def test_a_daemon_goes_on_after_its_parents(
    tmp_path: Path, jobs: Path, receiver: HttpReceiver, url: str
) -> None:
    """What a parent had not pushed before ``os._exit`` is lost, and nothing else."""
    subprocess.run(job(tmp_path, DAEMON), env=both(receiver, url, tmp_path), check=True, timeout=60)
    assert eventually(lambda: Page(url).sums() == sums(7))
    assert eventually(lambda: receiver.total(GENERATIONS) >= 8)
    assert eventually(lambda: folders(jobs) == [])
    assert sum(sums_by_process(receiver, GENERATIONS).values()) in (8, 13)


LINGER = """
import multiprocessing
import workers

if __name__ == "__main__":
    monitor = GenerationMonitor()
    record(monitor, 30, model="single")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(workers.work_and_flush, [25] * 4, chunksize=1)
    record(monitor, 1, model="single")
    monitor.shutdown()
    output(done=True)
"""


def test_a_job_lingers_until_it_was_scraped_whole(
    tmp_path: Path, receiver: HttpReceiver, url: str
) -> None:
    """The one scrape after its work has the workers' calls too."""
    (tmp_path / "workers.py").write_text(MODULE)
    env = {**both(receiver, url, tmp_path), "GENMETER_ENDPOINT_LINGER": "100"}
    with subprocess.Popen(job(tmp_path, LINGER), env=env, stdout=subprocess.PIPE) as process:
        found: list[Page] = []

        def ended() -> bool:
            page = Page(url)
            if page.status == 200:
                found.append(page)
            return process.poll() is not None

        assert eventually(ended)
        assert found[-1].sums() == sums(131)
        assert found[-1].is_whole
        assert found[-1].total("genmeter_job_finished") == 1
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"done": True}
        assert process.wait(60) == 0
    assert receiver.total(GENERATIONS) == 131
