"""Processes that find each other, wherever the job creates monitors and pools."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from _jobs import environment, run

if TYPE_CHECKING:
    from pathlib import Path

METHODS = ("fork", "spawn", "forkserver")
RECORD = """
import multiprocessing, tempfile
from genmeter import job_token_usage


def work(_number):
    record(monitor)
    monitor.flush()


def total():
    found = job_token_usage()
    return [found.total_tokens, found.complete]
"""
OF_THE_MODULE = (
    RECORD
    + """
monitor = GenerationMonitor()

if __name__ == "__main__":
    {setting}
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        pool.map(work, range(10))
        output(found=total())
"""
)
POOL_FIRST = (
    RECORD
    + """
def begin():
    global monitor
    monitor = GenerationMonitor()


if __name__ == "__main__":
    with multiprocessing.get_context("{method}").Pool(2, initializer=begin) as pool:
        pool.map(work, range({before}))
        begin()
        pool.map(work, range(10 - {before}))
        output(found=total())
    with multiprocessing.get_context("{method}").Pool(2, initializer=begin) as pool:
        pool.map(work, range(10))
        record(monitor)
    output(found=total())
"""
)


@pytest.mark.parametrize("method", METHODS)
def test_a_monitor_of_the_module_counts_its_pool(tmp_path: Path, method: str) -> None:
    """Spawned children create it while they import the module, before they know their parent."""
    ended = run(tmp_path, OF_THE_MODULE.format(method=method, setting=""))
    assert ended.output == [{"found": [30, True]}]
    assert ended.errors == ""


@pytest.mark.parametrize("method", METHODS)
def test_only_one_process_listens(tmp_path: Path, method: str) -> None:
    """No child tries to, and so none complains that the address is in use."""
    env = environment(OTEL_METRICS_EXPORTER="prometheus", OTEL_EXPORTER_PROMETHEUS_PORT="0")
    ended = run(tmp_path, OF_THE_MODULE.format(method=method, setting="work(0)"), env)
    assert ended.output == [{"found": [33, True]}]
    assert "not served" not in ended.errors


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("before", [0, 5])
def test_a_pool_before_the_monitor_is_counted(tmp_path: Path, method: str, before: int) -> None:
    """Its workers may have recorded already, and later pools belong to the same job."""
    ended = run(tmp_path, POOL_FIRST.format(method=method, before=before))
    assert ended.output == [{"found": [30, True]}, {"found": [63, True]}]
    assert ended.errors == ""


@pytest.mark.parametrize(
    "setting", ["os.environ['TMPDIR'] = {folder!r}", "tempfile.tempdir = {folder!r}"]
)
def test_a_job_may_set_another_temporary_folder(tmp_path: Path, setting: str) -> None:
    """Its processes meet where the first one has begun."""
    other = tmp_path / "scratch"
    other.mkdir()
    found = setting.format(folder=str(other))
    ended = run(tmp_path, OF_THE_MODULE.format(method="spawn", setting=found))
    assert ended.output == [{"found": [30, True]}]
    assert list(other.glob("genmeter-*")) == []


def test_a_child_that_is_forked_before_the_monitor_is_counted(tmp_path: Path) -> None:
    """The parent creates its own afterwards."""
    source = (
        RECORD
        + """
if __name__ == "__main__":
    child = os.fork()
    monitor = GenerationMonitor()
    record(monitor)
    if not child:
        monitor.shutdown()
        sys.exit()
    assert wait_for(child) == 0
    output(found=total())
"""
    )
    ended = run(tmp_path, source)
    assert ended.output == [{"found": [6, True]}]


def test_the_usage_of_the_job_is_known_after_its_end(tmp_path: Path) -> None:
    """A function of atexit that runs late has all processes, too."""
    source = (
        RECORD
        + """
import atexit


def late():
    output(found=total())


if __name__ == "__main__":
    atexit.register(late)
    monitor = GenerationMonitor()
    record(monitor)
    child = os.fork()
    if child:
        wait_for(child)
    else:
        work(0)
        os._exit(0)
"""
    )
    assert run(tmp_path, source).output == [{"found": [6, True]}]


def test_the_usage_after_the_end_is_not_complete_if_others_go_on(tmp_path: Path) -> None:
    """This process does not know it any more."""
    source = (
        RECORD
        + """
import atexit


def late():
    output(found=total())
    os.write(second, b".")


if __name__ == "__main__":
    first, second = os.pipe()
    ready, go = os.pipe()
    monitor = GenerationMonitor()
    record(monitor)
    child = os.fork()
    if child:
        os.read(ready, 1)
        record(monitor)
        output(found=total())
        atexit.unregister(late)
        atexit._run_exitfuncs()
        late()
        assert wait_for(child) == 0
    else:
        work(0)
        os.write(go, b".")
        os.read(first, 1)
        os._exit(0)
"""
    )
    ended = run(tmp_path, source)
    assert ended.output == [{"found": [9, True]}, {"found": [6, False]}]


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_outlasts_the_children_that_have_used_it(
    tmp_path: Path, jobs: Path, method: str
) -> None:
    """The parent uses no monitor, and starts its children one after the other."""
    source = (
        RECORD
        + f"""
def spend(queue):
    monitor = GenerationMonitor()
    budget = monitor.budget(tokens=30, scope="job")
    calls = 0
    while budget.has_room() and calls < 6:
        record(monitor)
        calls += 1
    monitor.flush()
    queue.put([calls, *total()])


if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    queue = context.SimpleQueue()
    for _ in range(3):
        child = context.Process(target=spend, args=(queue,))
        child.start()
        found = queue.get()
        child.join()
        output(found=found)
"""
    )
    ended = run(tmp_path, source)
    assert [each["found"] for each in ended.output] == [[6, 18, True], [4, 30, True], [0, 30, True]]
    assert [list(each.iterdir()) for each in jobs.glob("genmeter-*")] == [[]]
