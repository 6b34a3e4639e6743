"""Recording returns while another thread holds every lock that genmeter has made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from _jobs import environment, run

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
import faulthandler

made = []


def noting(make):
    def lock(*args):
        found = make(*args)
        name = sys._getframe(1).f_globals.get("__name__", "")
        if name.startswith("genmeter"):
            made.append((name, found))
        return found

    return lock


for name in [each for each in sys.modules if each.split(".")[0] == "genmeter"]:
    del sys.modules[name]
threading.Lock, threading.RLock = noting(threading.Lock), noting(threading.RLock)
import genmeter

monitor = genmeter.GenerationMonitor(
    config=genmeter.MonitorConfig.from_env(drain=sys.argv[1])
)
record(monitor, 3)
monitor.flush()
held, release, are_held = [], threading.Event(), threading.Event()


def hold():
    for name, lock in list(made):
        if lock.acquire(timeout=1.5):
            held.append((name, lock))
    are_held.set()
    release.wait()
    for name, lock in held:
        try:
            lock.release()
        except RuntimeError:
            pass  # one that wakes a thread, which others release


def good():
    monitor.track_generation(0.1, True, model_name="m", total_token_count=3)
    monitor.track_evaluation(0.1, True, "e", {"s": 1}, total_token_count=3)
    monitor.record_metric("m", 1.0)
    monitor.record_sample(False, "short")
    monitor.log_info("m", row=1)
    monitor.log_warning("m", row=1)
    monitor.log_error("m", ValueError("e"))
    with monitor.generation("m", "s") as call:
        call.retry(TimeoutError())
        call.cost(0.1)
        call.usage(total_token_count=3)
    with monitor.generation("m") as call:
        for chunk in call.stream(iter([{"usage": {"total_tokens": 3}}])):
            pass
        call.fail("late")
    monitor.generation("m")(lambda: {"usage": {"total_tokens": 3}})()
    monitor.track_generation(object(), object(), model_name=object(), anything=[object()])


def many():
    for _ in range(200):
        good()
    done.set()


good()
monitor.flush()
holder = threading.Thread(target=hold, daemon=True)
holder.start()
are_held.wait()
done = threading.Event()
worker = threading.Thread(target=many, daemon=True)
worker.start()
is_done = done.wait(60)
if not is_done:
    faulthandler.dump_traceback()
release.set()
holder.join(10)
output(done=is_done, held=len({name for name, _ in held}), made=len(made))
if not is_done:
    os._exit(1)
report = monitor.get_total_token_usage()
output(calls=sum(each.calls for each in report.by_model))
"""
CALLS = 5  # of each good()


@pytest.mark.parametrize("drain", ["thread", "inline"])
def test_recording_returns_while_every_lock_is_held(drain: str, tmp_path: Path) -> None:
    """It takes none that it would have to wait for, and nothing is lost."""
    ended = run(tmp_path, SOURCE, environment(), drain)
    assert ended.output, ended.errors
    found = ended.output[0]
    assert found["done"], ended.errors
    assert found["held"] >= 3, found
    assert ended.output[1] == {"calls": 3 + CALLS * 201}, ended.errors
