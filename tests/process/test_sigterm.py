"""SIGTERM: what was recorded arrives, and the process ends by the signal as it did before."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest
from _jobs import end, environment, run, started

from otlp_receiver import BlackHole, HttpReceiver

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    sys.platform not in {"linux", "darwin"}, reason="this system has no SIGTERM"
)

GENERATIONS = "genmeter.generations"
NEVER = "600000"  # milliseconds between two pushes


def terminate(folder: Path, source: str, env: dict[str, str]) -> tuple[int, str]:
    """Run a job, send it SIGTERM once it is ready; return its exit code and standard error."""
    with started(folder, source, env) as process:
        code, _, errors = end(process, signal.SIGTERM)
    return code, errors


def run_until_pushed(
    folder: Path, source: str, receiver: HttpReceiver, env: dict[str, str]
) -> tuple[int, bool]:
    """Run a job that SIGTERM does not end, until its 507 calls are pushed.

    Returns:
        Its exit code, and whether they were.
    """
    done = folder / "done"
    with started(folder, source, env, str(done)) as process:
        process.send_signal(signal.SIGTERM)
        arrived = receiver.wait_for(lambda: receiver.total(GENERATIONS) == 507)
        done.touch()
        return end(process).code, arrived


SLEEPING = """
monitor = GenerationMonitor()
record(monitor, 500)
monitor.flush()
output(ready=True)
while True:
    time.sleep(1)
"""


def test_sigterm_pushes_before_it_ends_a_job(tmp_path: Path, receiver: HttpReceiver) -> None:
    """All calls arrive, and the status says SIGTERM."""
    env = environment(receiver, OTEL_METRIC_EXPORT_INTERVAL=NEVER)
    code, errors = terminate(tmp_path, SLEEPING, env)
    assert code == -signal.SIGTERM
    assert errors == ""
    assert receiver.total(GENERATIONS) == 500
    assert receiver.total("genmeter.job.finished") == 1


def test_the_handler_can_be_turned_off(tmp_path: Path, receiver: HttpReceiver) -> None:
    """Without it the signal ends the job at once, and Python knows no handler."""
    env = environment(receiver, OTEL_METRIC_EXPORT_INTERVAL=NEVER, GENMETER_HANDLE_SIGTERM="0")
    source = SLEEPING.replace(
        "output(", "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\noutput("
    )
    code, errors = terminate(tmp_path, source, env)
    assert code == -signal.SIGTERM
    assert errors == ""
    assert receiver.total(GENERATIONS) == 0


@pytest.mark.parametrize("thread", [False, True], ids=["main", "thread"])
def test_sigterm_in_the_midst_of_calls_loses_none(
    tmp_path: Path, receiver: HttpReceiver, thread: bool
) -> None:
    """The push has every call that ended before the signal, in whatever code it came."""
    source = f"""
def work():
    calls = 0
    while True:
        record(monitor)
        calls += 1
        if calls == 5_000:
            os.write(1, b'{{"calls": 5000}}')
            os.kill(os.getpid(), signal.SIGTERM)
        if calls % 50 == 0:
            time.sleep(0.001)


monitor = GenerationMonitor()
record(monitor)
if {thread}:
    threading.Thread(target=work, daemon=True).start()
    while True:
        time.sleep(0.01)
else:
    work()
"""
    ended = run(tmp_path, source, environment(receiver, OTEL_METRIC_EXPORT_INTERVAL=NEVER))
    assert ended.code == -signal.SIGTERM, ended.errors
    assert receiver.total(GENERATIONS) >= 5_001


BUSY = {
    "sleep": "libc = ctypes.CDLL(None)\nwhile True:\n    libc.sleep(1000)",
    "hash": "hashlib.pbkdf2_hmac('sha256', b'x', b'y', 400_000_000)",
}
IN_C = """
import ctypes
import hashlib

monitor = GenerationMonitor()
record(monitor, 500)
monitor.flush()
libc = ctypes.CDLL(None)
MASKED = "{kind}" == "sleep"
if MASKED:  # the C code is not interrupted: another thread takes the signal
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})
output(ready=True)
{busy}
"""


@pytest.mark.parametrize("kind", BUSY)
def test_sigterm_ends_a_job_inside_of_c_code(
    tmp_path: Path, receiver: HttpReceiver, kind: str
) -> None:
    """The main thread executes no bytecode, and yet everything is pushed and the job ends."""
    env = environment(receiver, OTEL_METRIC_EXPORT_INTERVAL=NEVER)
    code, errors = terminate(tmp_path, IN_C.format(kind=kind, busy=BUSY[kind]), env)
    assert code == -signal.SIGTERM, errors
    assert receiver.total(GENERATIONS) == 500


def test_a_job_without_events_dies_at_once(tmp_path: Path) -> None:
    """Nothing recorded, nothing to lose: the kernel's default ends the job inside of C code too."""
    source = IN_C.format(kind="hash", busy=BUSY["hash"]).replace("record(monitor, 500)\n", "")
    code, errors = terminate(tmp_path, source, environment())
    assert code == -signal.SIGTERM, errors


def test_a_second_sigterm_does_not_end_the_last_push(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    """A service manager signals the group, and the parent its children: two signals in a row."""
    source = """
monitor = GenerationMonitor()
record(monitor, 500)
monitor.flush()
from genmeter.exporters.provider import Exporters
finish = Exporters.finish


def slow(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
    finish(*arguments)


Exporters.finish = slow
output(ready=True)
while True:
    time.sleep(1)
"""
    env = environment(receiver, OTEL_METRIC_EXPORT_INTERVAL=NEVER)
    code, errors = terminate(tmp_path, source, env)
    assert code == -signal.SIGTERM, errors
    assert receiver.total(GENERATIONS) == 500


@pytest.mark.parametrize("where", ["shutdown", "exit"])
def test_sigterm_during_the_end_does_not_interrupt_the_last_push(
    tmp_path: Path, receiver: HttpReceiver, where: str
) -> None:
    """The push under way may finish, whether ``shutdown()`` or the exit waits for it."""
    source = f"""
from genmeter.exporters._push import Push

monitor = GenerationMonitor()
record(monitor, 500)
monitor.flush()
run_last = Push._run_last


def interrupted(self):
    run_last(self)
    os.kill(os.getpid(), signal.SIGTERM)


Push._run_last = interrupted
if {where!r} == "shutdown":
    monitor.shutdown()
"""
    ended = run(tmp_path, source, environment(receiver, OTEL_METRIC_EXPORT_INTERVAL=NEVER))
    assert ended.code == -signal.SIGTERM, ended.errors
    assert receiver.total(GENERATIONS) == 500


def test_sigterm_does_not_linger(tmp_path: Path) -> None:
    """A signal means now: the endpoint waits for no scrape."""
    env = environment(
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_EXPORTER_PROMETHEUS_PORT="0",
        GENMETER_ENDPOINT_LINGER="100000",
    )
    code, errors = terminate(tmp_path, SLEEPING, env)
    assert code == -signal.SIGTERM, errors


def test_a_dead_collector_does_not_hold_the_end_up(tmp_path: Path) -> None:
    """The time-out limits the end."""
    with BlackHole() as dead:
        env = environment(
            OTEL_METRICS_EXPORTER="otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=dead.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
        source = SLEEPING.replace("GenerationMonitor()", "GenerationMonitor(shutdown_timeout=0.5)")
        code, errors = terminate(tmp_path, source, env)
    assert code == -signal.SIGTERM
    assert "did not end within" in errors


def test_a_lock_of_the_interrupted_code_does_not_hold_the_end_up(tmp_path: Path) -> None:
    """If the work of the exit waits forever for the code that it interrupted, it is left."""
    source = """
from genmeter import runtime

lock = threading.Lock()
monitor = GenerationMonitor(shutdown_timeout=0.1)
record(monitor)
monitor.flush()
runtime._termination._end = lock.acquire
with lock:
    output(ready=True)
    while True:
        time.sleep(1)
"""
    code, errors = terminate(tmp_path, source, environment())
    assert code == -signal.SIGTERM, errors


# --- other handlers ------------------------------------------------------------------------------


def test_an_ignored_signal_stays_ignored(tmp_path: Path, receiver: HttpReceiver) -> None:
    """The job goes on."""
    source = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
monitor = GenerationMonitor()
record(monitor)
monitor.flush()
os.kill(os.getpid(), signal.SIGTERM)
output(ignored=signal.getsignal(signal.SIGTERM) is signal.SIG_IGN)
"""
    ended = run(tmp_path, source, environment(receiver))
    assert (ended.code, ended.output) == (0, [{"ignored": True}]), ended.errors
    assert receiver.total(GENERATIONS) == 1


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_handler_of_the_job_is_called(tmp_path: Path, receiver: HttpReceiver, order: str) -> None:
    """With its arguments, whether it was set before the monitor was made or after it."""
    source = f"""
calls = []


def handler(number, frame):
    calls.append((number, frame is not None))


def install():
    signal.signal(signal.SIGTERM, handler)


if {order!r} == "before":
    install()
monitor = GenerationMonitor()
record(monitor)
monitor.flush()
if {order!r} == "after":
    install()
for _ in range(3):
    os.kill(os.getpid(), signal.SIGTERM)
    record(monitor)
output(calls=calls)
"""
    ended = run(tmp_path, source, environment(receiver))
    assert (ended.code, ended.output) == (0, [{"calls": [[15, True]] * 3}]), ended.errors
    assert receiver.total(GENERATIONS) == 4


def test_a_handler_that_ends_the_process_itself_loses_little(
    tmp_path: Path, receiver: HttpReceiver
) -> None:
    """From the signal on, pushes follow each other, so that what an end without Python loses is small."""
    source = """
def handler(number, frame):
    global is_ending
    is_ending = True


is_ending = False
signal.signal(signal.SIGTERM, handler)
monitor = GenerationMonitor()
record(monitor, 500)
monitor.flush()
output(ready=True)
while not is_ending:
    time.sleep(0.01)
record(monitor, 7)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
os._exit(3)
"""
    env = environment(receiver, OTEL_METRIC_EXPORT_INTERVAL=NEVER)
    assert run_until_pushed(tmp_path, source, receiver, env) == (3, True)


def test_asyncio_handles_sigterm_as_before(tmp_path: Path, receiver: HttpReceiver) -> None:
    """A handler of the event loop is called, whether it was added before the monitor or after it."""
    source = """
import asyncio


async def main(order):
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if order == "before":
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    monitor = GenerationMonitor()
    record(monitor)
    monitor.flush()
    if order == "after":
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(stop.wait(), 60)
    output(stopped=True)


asyncio.run(main(sys.argv[1]))
"""
    for order in ("before", "after"):
        ended = run(tmp_path, source, environment(receiver), order)
        assert (ended.code, ended.output) == (0, [{"stopped": True}]), ended.errors
    assert receiver.total(GENERATIONS) == 2


def test_trio_does_not_complain(tmp_path: Path) -> None:
    """Trio warns of a library that takes its wakeup file descriptor, and this one does not."""
    source = """
import warnings

warnings.simplefilter("error")
monitor = GenerationMonitor()
record(monitor)
monitor.flush()

import trio

trio.run(trio.sleep, 0)
output(done=True)
"""
    ended = run(tmp_path, source, environment())
    assert (ended.code, ended.output) == (0, [{"done": True}]), ended.errors


def test_the_first_process_of_a_container_goes_on(tmp_path: Path, receiver: HttpReceiver) -> None:
    """The kernel ignores the signal for pid 1; the job pushes and goes on to its own end."""
    source = """
from genmeter import termination

termination._INIT = os.getpid()
monitor = GenerationMonitor()
record(monitor, 500)
monitor.flush()
output(ready=True)
record(monitor, 7)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
os._exit(3)
"""
    env = environment(receiver, OTEL_METRIC_EXPORT_INTERVAL=NEVER)
    assert run_until_pushed(tmp_path, source, receiver, env) == (3, True)


# --- children ------------------------------------------------------------------------------------

POOL = """
import ctypes
import hashlib
import multiprocessing

monitor = None


def work(count):
    global monitor
    if monitor is None:
        monitor = GenerationMonitor()
    record(monitor, count)


def hang(_):
    work(25)
    monitor.flush()
    open(sys.argv[2] + f"/ready-{os.getpid()}", "w").close()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 400_000_000)


def hang_without_events(_):
    open(sys.argv[2] + f"/ready-{os.getpid()}", "w").close()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 400_000_000)


def ready():
    return sum(name.startswith("ready-") for name in os.listdir(sys.argv[2]))


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    if sys.argv[3] != "own":
        monitor = GenerationMonitor()
        record(monitor, 1_000)
        monitor.flush()
    if sys.argv[4] == "with":
        with context.Pool(2) as pool:
            pool.map(work, [25] * 40, chunksize=1)
    elif sys.argv[4] == "terminate":
        pool = context.Pool(2)
        pool.map(work, [25] * 40, chunksize=1)
        pool.terminate()
    else:
        pool = context.Pool(2)
        pool.map_async(hang if sys.argv[4] == "hang" else hang_without_events, [0, 0], chunksize=1)
        while ready() < 2:
            time.sleep(0.01)
        pool.terminate()
    pool.join()
    output(done=True)
"""


def run_pool(folder: Path, receiver: HttpReceiver, *arguments: str) -> None:
    """Run the program above."""
    env = environment(receiver, OTEL_METRIC_EXPORT_INTERVAL=NEVER)
    ended = run(folder, POOL, env, arguments[0], str(folder), *arguments[1:])
    assert (ended.code, ended.output) == (0, [{"done": True}]), ended.errors


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("end", ["with", "terminate"])
def test_the_end_of_a_pool_loses_nothing(
    tmp_path: Path, receiver: HttpReceiver, method: str, end: str
) -> None:
    """``with Pool()`` and ``terminate()`` end workers by SIGTERM; all their calls are pushed."""
    run_pool(tmp_path, receiver, method, "shared", end)
    assert receiver.total(GENERATIONS) == 2_000


def test_workers_inside_of_c_code_push_and_end(tmp_path: Path, receiver: HttpReceiver) -> None:
    """``terminate()`` does not hang on a worker whose main thread executes no bytecode."""
    run_pool(tmp_path, receiver, "fork", "shared", "hang")
    assert receiver.total(GENERATIONS) == 1_050


def test_workers_without_events_end_at_once(tmp_path: Path, receiver: HttpReceiver) -> None:
    """A forked worker that recorded nothing has the default disposition again."""
    run_pool(tmp_path, receiver, "fork", "shared", "hang-without-events")
    assert receiver.total(GENERATIONS) == 1_000


def test_a_child_that_is_terminated_right_after_the_fork_ends(tmp_path: Path) -> None:
    """No signal is lost, or taken for the parent's, at any moment of a fork."""
    source = """
monitor = GenerationMonitor()
record(monitor)
monitor.flush()
codes = []
for number in range(200):
    pid = os.fork()
    if pid == 0:
        time.sleep(1000)
    time.sleep(number / 200 * 0.004)
    os.kill(pid, signal.SIGTERM)
    codes.append(wait_for(pid))
output(codes=sorted(set(map(str, codes))))
"""
    ended = run(tmp_path, source, environment())
    assert (ended.code, ended.output) == (0, [{"codes": ["-15"]}]), ended.errors


def test_the_parents_mask_is_as_before(tmp_path: Path) -> None:
    """A fork changes the blocked signals of neither process."""
    source = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
monitor = GenerationMonitor()
record(monitor)
monitor.flush()
pid = os.fork()
masked = [int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
if pid == 0:
    os._exit(0 if masked == [int(signal.SIGUSR1)] else 1)
output(child=wait_for(pid), same=masked == [int(signal.SIGUSR1)])
"""
    ended = run(tmp_path, source, environment())
    assert (ended.code, ended.output) == (0, [{"child": 0, "same": True}]), ended.errors
