"""A monitor that is pickled into a worker becomes the worker's own, with the same settings."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import sys
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from _jobs import environment, run, sums_by_process

from genmeter import (
    AlertmanagerHandler,
    CustomMetric,
    EndpointConfig,
    FileLogHandler,
    FileMetricHandler,
    GenerationMonitor,
    MonitorConfig,
    pickling,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from otlp_receiver import HttpReceiver

GENERATIONS = "genmeter.generations"
WAYS = {
    "initargs": """
    with context.Pool(2, initializer=begin, initargs=(monitor,)) as pool:
        pool.map(count_of_worker, [5] * 20, chunksize=1)
        pool.close()
        pool.join()
""",
    "partial": """
    with context.Pool(2) as pool:
        pool.map(functools.partial(count, monitor), [5] * 20, chunksize=1)
""",
    "arguments": """
    children = [context.Process(target=count, args=(monitor, 50)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
""",
    "executor": """
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for done in [pool.submit(count, monitor, 5) for _ in range(20)]:
            done.result()
""",
}
JOB = """
import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

worker = None


def begin(monitor):
    global worker
    worker = monitor


def count(monitor, calls):
    record(monitor, calls, model=monitor._session.defaults.model)


def count_of_worker(calls):
    count(worker, calls)


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    monitor = GenerationMonitor(log_dir="logs", config=MonitorConfig(default_model="theirs"))
    record(monitor, 7, model="main")
"""


def loaded(data: bytes) -> object:
    """Unpickle what a test has pickled."""
    return pickle.loads(data)  # noqa: S301


def run_in(folder: Path, source: str, receiver: HttpReceiver, *arguments: str) -> None:
    """Run a job in a folder, without any error."""
    env = environment(receiver, OTEL_METRIC_EXPORT_INTERVAL="600000")
    ended = run(folder, source, env, *arguments)
    assert (ended.code, ended.errors) == (0, "")


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("way", WAYS)
def test_workers_record_with_a_monitor_that_they_are_passed(
    tmp_path: Path, receiver: HttpReceiver, way: str, method: str
) -> None:
    """However it is passed, all calls are pushed and in the one journal, under its settings."""
    run_in(tmp_path, JOB + WAYS[way], receiver, method)
    assert receiver.total(GENERATIONS, gen_ai_request_model="theirs") == 100
    assert receiver.total(GENERATIONS, gen_ai_request_model="main") == 7
    assert list(sums_by_process(receiver, GENERATIONS).values()) == [107]
    journal = (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in journal]
    assert sum(row["metric"] == "generation_time" for row in rows) == 107


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_joblib_passes_a_monitor(tmp_path: Path, receiver: HttpReceiver, backend: str) -> None:
    """Each of joblib's workers records with its own, and its end pushes."""
    source = (
        JOB
        + f"""
    import joblib

    tasks = [joblib.delayed(count)(monitor, 5) for _ in range(20)]
    joblib.Parallel(n_jobs=2, backend={backend!r})(tasks)
    if {backend!r} == "loky":
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown()
"""
    )
    run_in(tmp_path, source, receiver, "fork")
    assert receiver.total(GENERATIONS, gen_ai_request_model="theirs") == 100
    assert receiver.total(GENERATIONS, gen_ai_request_model="main") == 7


ENDS = {
    "with": """
def work(monitor, calls):
    with monitor:
        count(monitor, calls)


def work_of_worker(calls):
    work(worker, calls)
""",
    "shutdown": """
def work(monitor, calls):
    count(monitor, calls)
    monitor.shutdown()
""",
}
TASKS = {
    "partial": """
    with context.Pool(2) as pool:
        pool.map(functools.partial(work, monitor), [5] * 20, chunksize=1)
""",
    "initargs": """
    with context.Pool(2, initializer=begin, initargs=(monitor,)) as pool:
        pool.map(work_of_worker, [5] * 20, chunksize=1)
""",
    "executor": """
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for done in [pool.submit(work, monitor, 5) for _ in range(20)]:
            done.result()
""",
}


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize(
    ("end", "way"),
    [
        ("with", "partial"),
        ("with", "initargs"),
        ("with", "executor"),
        ("shutdown", "partial"),
        ("shutdown", "executor"),
    ],
)
def test_the_end_of_a_task_is_not_the_end_of_its_worker(
    tmp_path: Path, receiver: HttpReceiver, end: str, way: str, method: str
) -> None:
    """Each task may end its monitor: the later tasks of the worker record all the same."""
    source = JOB.replace('if __name__ == "__main__":', f'{ENDS[end]}\n\nif __name__ == "__main__":')
    run_in(tmp_path, source + TASKS[way], receiver, method)
    assert receiver.total(GENERATIONS, gen_ai_request_model="theirs") == 100
    assert receiver.total(GENERATIONS, gen_ai_request_model="main") == 7
    journal = (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in journal]
    assert sum(row["metric"] == "generation_time" for row in rows) == 107


def test_the_end_of_a_block_has_the_events_written(
    tmp_path: Path, elsewhere: Callable[[bytes], GenerationMonitor]
) -> None:
    """A task's handlers have its events, and the monitor stays open; a shutdown ends it."""
    monitor = GenerationMonitor(
        tmp_path, config=MonitorConfig(endpoint=EndpointConfig(enabled=False))
    )
    data = pickle.dumps(monitor)
    with monitor:
        made = elsewhere(data)
        with made:
            made.track_generation(0.1, True, model_name="m")
        assert (tmp_path / "metrics.jsonl").read_text().count('"generation_time"') == 1
        made.track_generation(0.1, True, model_name="m")
        assert made.get_metrics("generation_time", None)["count"] == 2
        assert loaded(data) is made
        made.shutdown()
        again = loaded(data)
        assert isinstance(again, GenerationMonitor)
        assert again is not made
        again.shutdown()
    assert monitor._is_shut


def test_a_process_has_one_monitor_of_an_origin(tmp_path: Path) -> None:
    """Further unpicklings return it, also from two threads at once, and it goes back as the parent's."""
    source = """
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor


def twice(data, other):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(pickle.loads, [data] * 100))
    second = pickle.loads(other)
    return len(set(map(id, made))), second is not made[0], made[0]


if __name__ == "__main__":
    monitor, other = GenerationMonitor(), GenerationMonitor()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        count, differs, back = pool.apply(twice, (pickle.dumps(monitor), pickle.dumps(other)))
    output(count=count, differs=differs, same=back is monitor)
"""
    ended = run(tmp_path, source)
    assert ended.output == [{"count": 1, "differs": True, "same": True}], ended.errors


def test_a_taken_port_does_not_fail_the_worker(tmp_path: Path) -> None:
    """A process that multiprocessing did not start cannot listen on the port: it records without."""
    source = """
import pickle
import subprocess

if len(sys.argv) > 1:
    monitor = pickle.load(open(sys.argv[1], "rb"))
    record(monitor, 3)
    output(calls=monitor.get_metrics("success_rate", None)["count"], url=monitor.endpoint_url)
    sys.exit(0)
import socket

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
monitor = GenerationMonitor(config=MonitorConfig(endpoint=EndpointConfig(port=port)))
with open("pickled", "wb") as file:
    pickle.dump(monitor, file)
os.environ = {key: value for key, value in os.environ.items() if key != "GENMETER_MAIN_PID"}
subprocess.run([sys.executable, __file__, "pickled"], env=dict(os.environ), check=True)
"""
    ended = run(tmp_path, source, environment(OTEL_METRICS_EXPORTER="prometheus"))
    assert (ended.code, ended.output) == (0, [{"calls": 3, "url": None}]), ended.errors
    assert "has no endpoint" in ended.errors or ended.errors == ""


# --- one process ---------------------------------------------------------------------------------


def quiet(**settings: object) -> GenerationMonitor:
    """Return a monitor without exporters."""
    return GenerationMonitor(config=MonitorConfig(drain="inline", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        lambda monitor: loaded(pickle.dumps(monitor)),
        lambda monitor: loaded(pickle.dumps(monitor, 2)),
        lambda monitor: copy.deepcopy({"monitor": [monitor]})["monitor"][0],
    ],
)
def test_a_copy_in_the_same_process_is_the_monitor(
    duplicate: Callable[[GenerationMonitor], object],
) -> None:
    """Copies and pickles are references."""
    with quiet() as monitor:
        assert duplicate(monitor) is monitor


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], GenerationMonitor]:
    """Return a function that unpickles as another process would."""

    def load(data: bytes) -> GenerationMonitor:
        monkeypatch.setattr(pickling, "_monitors", weakref.WeakValueDictionary())
        monkeypatch.setattr(pickling, "_kept", {})
        made = loaded(data)
        assert isinstance(made, GenerationMonitor)
        return made

    return load


def test_a_monitor_of_another_process_has_the_settings(
    elsewhere: Callable[[bytes], GenerationMonitor],
) -> None:
    """All that the constructor was given is there again."""
    config = MonitorConfig(
        drain="inline",
        default_model="m",
        prices={"m": {"input": 1, "output": 2}},
        score_scales={"judge": (0, 10)},
        custom_metrics=(CustomMetric(name="queue"),),
        endpoint=EndpointConfig(enabled=False),
        expected_samples=5,
    )
    monitor = GenerationMonitor(
        metrics_interval=7, shutdown_timeout=3, alert_max_error_rate=0.5, config=config
    )
    thresholds = monitor.alert_settings
    monitor.shutdown_timeout = 4
    with monitor, elsewhere(pickle.dumps(monitor)) as made:
        assert made is not monitor
        assert made.metrics_interval == 7
        assert made.shutdown_timeout == 4
        assert made.alert_settings == thresholds
        found = made._origin._arguments["config"]
        assert found.expected_samples is None  # the parent's, as in a forked child
        assert found.prices == config.prices
        assert (found.default_model, found.score_scales) == ("m", {"judge": (0, 10)})
        assert loaded(pickle.dumps(made)) is made


class _Kept:
    """A handler that can be pickled."""

    def handle_metric(self, metric: object) -> None:
        """Do nothing."""

    def handle_log(self, log: object) -> None:
        """Do nothing."""


def test_handlers_that_cannot_be_pickled_are_dropped_with_one_warning(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    elsewhere: Callable[[bytes], GenerationMonitor],
) -> None:
    """The others are kept; one warning names what the worker lacks."""
    # Loaded, if a test before this one has used joblib; it can pickle a local class and a lambda.
    monkeypatch.setitem(sys.modules, "cloudpickle", None)

    class Local(_Kept):
        """A class that pickle does not find."""

    monitor = GenerationMonitor(
        metric_handlers=[_Kept(), Local()],
        alert_handlers=[lambda alert: None, AlertmanagerHandler("http://127.0.0.1:9")],
        token_usage_callback=lambda report: None,
        config=MonitorConfig(drain="inline"),
    )
    monitor.log_handlers = [_Kept()]
    monitor.metric_handlers.append(monitor)  # refers to itself
    caplog.set_level(logging.WARNING)
    data = pickle.dumps(monitor)
    assert pickle.dumps(monitor) == data
    (record,) = caplog.records
    for name in (
        "metric_handlers: Local",
        "metric_handlers: GenerationMonitor",
        "alert_handlers: function",
        "token_usage_callback",
    ):
        assert name in record.message
    with monitor, elsewhere(data) as made:
        assert [type(each) for each in made.metric_handlers] == [_Kept]
        assert [type(each) for each in made.log_handlers] == [_Kept]
        assert [type(each) for each in made.alert_handlers] == [AlertmanagerHandler]
    caplog.clear()


def test_cloudpickle_carries_local_handlers_once_it_is_loaded(
    caplog: pytest.LogCaptureFixture, elsewhere: Callable[[bytes], GenerationMonitor]
) -> None:
    """Only what refers to the monitor itself is dropped."""
    import cloudpickle  # noqa: F401 - loaded, as by joblib

    class Local(_Kept):
        """A class that pickle does not find."""

    monitor = GenerationMonitor(
        metric_handlers=[Local()],
        alert_handlers=[lambda alert: None],
        config=MonitorConfig(drain="inline"),
    )
    monitor.metric_handlers.append(monitor)
    caplog.set_level(logging.WARNING)
    data = pickle.dumps(monitor)
    (record,) = caplog.records
    assert "cannot be pickled: metric_handlers: GenerationMonitor;" in record.message
    with monitor, elsewhere(data) as made:
        assert [type(each).__name__ for each in made.metric_handlers] == ["Local"]
        assert len(made.alert_handlers) == 1
    caplog.clear()


def test_the_handlers_of_files_open_them_anew(tmp_path: Path) -> None:
    """An open file is not carried over, only its place."""
    for make in (FileMetricHandler, FileLogHandler):
        handler = make(tmp_path, max_bytes=1_000, keep=2)
        handler.append_lines(b"{}\n")
        made: Any = loaded(pickle.dumps(handler))
        made.append_lines(b"{}\n")
        assert made.log_file.read_bytes() == b"{}\n" * 2
        assert (made._lines._max_bytes, made._lines._keep) == (1_000, 2)
        made.close()
        handler.close()


def test_what_belongs_to_a_process_says_so() -> None:
    """A budget, a reservation and a call cannot be pickled; the error has the remedy."""
    with quiet() as monitor:
        budget = monitor.budget(tokens=100)
        for each in (budget, budget.reserve(tokens=1), monitor.generation()):
            with pytest.raises(TypeError, match=r"cannot pickle .*monitor\.(budget|generation)"):
                pickle.dumps(each)
