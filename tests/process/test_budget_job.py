"""One budget for all processes of a job: never exceeded with reservations, and nobody is forgotten."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from _jobs import PATIENCE, environment, job, run

from _waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

PROCESSES = 8
LIMIT, MOST = 100_000, 1_000

COMMON = """
import multiprocessing
import random
from genmeter import BudgetError, BudgetExceededError, BudgetUnavailableError, job_token_usage

QUIET = EndpointConfig(enabled=False)
JOB = os.environ.get("GENMETER_JOB")


def use(monitor, tokens, **keywords):
    monitor.track_generation(0.1, True, model_name="m", prompt_token_count=tokens, **keywords)


def make(limit=100):
    monitor = GenerationMonitor(config=MonitorConfig(job=JOB, endpoint=QUIET))
    return monitor, monitor.budget(tokens=limit, scope="job")
"""


def env(folder: Path, name: str | None = None, **variables: str) -> dict[str, str]:
    """Return the environment of a process of a job."""
    if name is not None:
        variables["GENMETER_JOB"] = name
    return environment(TMPDIR=str(folder), **variables)


def outputs(folder: Path, source: str, name: str | None = None) -> list[dict[str, Any]]:
    """Run a process of a job to its end without an error, and return what it printed."""
    ended = run(folder, COMMON + source, env(folder, name))
    assert ended.code == 0, ended.errors
    return ended.output


@pytest.mark.parametrize("kind", ["fork", "spawn", "named"])
def test_reservations_of_all_processes_stay_within_the_limit(tmp_path: Path, kind: str) -> None:
    """Eight processes, of one family or of one name, use nearly all of the budget and never more."""
    (found,) = outputs(
        tmp_path,
        f"""
KIND, PROCESSES, LIMIT, MOST = {kind!r}, {PROCESSES}, {LIMIT}, {MOST}


def work(number, queue):
    random_ = random.Random(number)
    monitor, budget = make(LIMIT)
    used = 0
    while True:
        try:
            with budget.reserve(tokens=MOST, timeout=60):
                time.sleep(random_.random() * 0.004)
                tokens = random_.randint(MOST // 4, MOST)
                use(monitor, tokens)
                used += tokens
        except BudgetExceededError as error:
            queue.put((used, error.spent.tokens, type(error).__name__, str(error)))
            break
    monitor.shutdown()


def main():
    context = multiprocessing.get_context("fork" if KIND == "named" else KIND)
    monitor = GenerationMonitor() if KIND == "fork" else None
    queue = context.SimpleQueue()
    processes = [context.Process(target=work, args=(n, queue)) for n in range(PROCESSES)]
    for process in processes:
        process.start()
    found = [queue.get() for _ in processes]
    for process in processes:
        process.join(60)
    output(used=[each[0] for each in found], spent=[each[1] for each in found],
           kinds=sorted({{each[2] for each in found}}), text=found[0][3])


if __name__ == "__main__":
    main()
""",
        "shared" if kind == "named" else None,
    )
    total = sum(found["used"])
    assert LIMIT - MOST < total <= LIMIT
    assert max(found["spent"]) <= LIMIT
    assert found["kinds"] == ["BudgetExceededError"]
    assert "no room for 1,000 tokens in the budget of 100,000 tokens of the job: " in found["text"]
    assert sum(used > 0 for used in found["used"]) > 1


def test_without_reservations_only_calls_in_flight_and_a_second_exceed(tmp_path: Path) -> None:
    """A check before each call sees what the others have published, once a second."""
    limit, tokens, pause = 12_000, 50, 0.05
    found = outputs(
        tmp_path,
        f"""


def work(number, queue):
    monitor, budget = make({limit})
    calls = 0
    while budget.has_room():
        time.sleep({pause})
        use(monitor, {tokens})
        calls += 1
    queue.put(calls)
    monitor.shutdown()


context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
processes = [context.Process(target=work, args=(n, queue)) for n in range({PROCESSES})]
for process in processes:
    process.start()
output(calls=sum(queue.get() for _ in processes))
for process in processes:
    process.join(60)
""",
        "open",
    )
    total = found[0]["calls"] * tokens
    in_flight, pace = PROCESSES * tokens, PROCESSES * tokens / pause
    assert limit <= total <= limit + in_flight + 1.25 * pace


def test_the_reservation_of_a_killed_process_is_released(tmp_path: Path) -> None:
    """What it reserved is free again for one that waits, and for a check; what it used is not."""
    found = outputs(
        tmp_path,
        """
monitor, budget = make()
use(monitor, 5)
reading, writing = os.pipe()
pid = os.fork()
if pid == 0:
    use(monitor, 10)
    monitor.flush(30)
    with budget.reserve(tokens=85):
        os.write(writing, b"x")
        time.sleep(60)
os.read(reading, 1)
held = budget.reserved.tokens
full = budget.has_room()
refused = ""
try:
    with budget.reserve(tokens=50, timeout=0.1):
        pass
except BudgetExceededError as error:
    refused = str(error)
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
roomy = budget.has_room()
with budget.reserve(tokens=85, timeout=60):
    output(held=held, full=full, refused=refused, roomy=roomy, left=budget.left.tokens)
output(spent=budget.spent.tokens, reserved=budget.reserved.tokens)
""",
    )
    assert found[0] == {
        "held": 85,
        "full": False,
        "refused": "no room for 50 tokens within 0.1 s in the budget of 100 tokens of the job: "
        "15 used, 85 reserved",
        "roomy": True,
        "left": 0,
    }
    assert found[1] == {"spent": 15, "reserved": 0}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_goes_on_with_what_its_parent_used_and_reserved(
    tmp_path: Path, method: str
) -> None:
    """From its first check on, unless that says that it is not complete, as on a busy machine.

    Its own budget of the monitor starts from zero, as ever.
    """
    found = outputs(
        tmp_path,
        f"""


def make_both():
    monitor, budget = make()
    return monitor, budget, monitor.budget(tokens=100)


def child(made, queue):
    monitor, budget, own = made or make_both()
    first = (budget.left.tokens, own.left.tokens)
    while not budget.complete:
        time.sleep(0.1)
        first = (budget.left.tokens, own.left.tokens)
    with budget.reserve(tokens=5, timeout=0):
        use(monitor, 4)
    queue.put((*first, budget.spent.tokens, budget.left.tokens))
    monitor.shutdown()


def main():
    method = {method!r}
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    made = monitor, budget, own = make_both()
    use(monitor, 60)
    with budget.reserve(tokens=30):
        process = context.Process(
            target=child, args=(made if method == "fork" else None, queue)
        )
        process.start()
        found = queue.get()
        process.join(60)
        output(child=found, left=budget.left.tokens)
    output(left=budget.left.tokens, own=own.left.tokens)


if __name__ == "__main__":
    main()
""",
    )
    assert found == [{"child": [10, 100, 64, 6], "left": 6}, {"left": 36, "own": 40}]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("what", ["used", "reserved"])
def test_a_child_whose_parent_has_not_joined_says_that_its_sums_are_partial(
    tmp_path: Path, method: str, what: str
) -> None:
    """It goes on, with a warning, and counts what the parent used and reserved once that has joined."""
    ended = run(
        tmp_path,
        f"""{COMMON}
import contextlib
from genmeter.job.job import Job
import genmeter.job._root


def idle():
    pass


def child(found):
    genmeter.job._root._USED_WAIT = 0.2
    monitor, budget = make()
    use(monitor, 4)
    with budget.reserve(tokens=5, timeout=0):
        first = (budget.left.tokens, budget.complete, job_token_usage().complete)
    found.put(first)
    while not budget.complete:
        time.sleep(0.02)
    found.put((budget.left.tokens, budget.complete, job_token_usage().complete))
    monitor.shutdown()


def main():
    context = multiprocessing.get_context({method!r})
    early = context.Process(target=idle)  # the fork server runs from now on
    monitor, budget = make()
    early.start()
    found_others = Job.may_have_others
    Job.may_have_others = property(lambda _: False)  # it does not look for its children
    reserved = contextlib.nullcontext()
    if {what!r} == "used":
        use(monitor, 60)
        process_token_usage()
    else:
        reserved = budget.reserve(tokens=30)
    with reserved:
        found = context.SimpleQueue()
        process = context.Process(target=child, args=(found,))
        process.start()
        output(first=found.get())
        Job.may_have_others = found_others
        output(then=found.get())
        process.join(60)


if __name__ == "__main__":
    main()
""",
        env(tmp_path),
    )
    left = 100 - 4 - (60 if what == "used" else 30)
    assert ended.output == [{"first": [91, False, False]}, {"then": [left, True, True]}]
    assert ended.errors.count("has used or reserved tokens and has not joined the job yet") == 1
    assert ended.code == 0, ended.errors


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_without_a_budget_count(tmp_path: Path, method: str) -> None:
    """A parent's budget sees what its children only record: exactly at their end."""
    found = outputs(
        tmp_path,
        f"""


def child(tokens):
    monitor = GenerationMonitor(config=MonitorConfig(job=JOB, endpoint=QUIET))
    use(monitor, tokens)
    monitor.shutdown()


def main():
    context = multiprocessing.get_context({method!r})
    monitor, budget = make(1_000)
    use(monitor, 1)
    processes = [context.Process(target=child, args=(100 * n,)) for n in (1, 2, 3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    output(spent=budget.spent.tokens, room=budget.has_room(), job=job_token_usage().total_tokens)
    use(monitor, 399)
    output(spent=budget.spent.tokens, room=budget.has_room())


if __name__ == "__main__":
    main()
""",
    )
    assert found == [
        {"spent": 601, "room": True, "job": 601},
        {"spent": 1_000, "room": False},
    ]


# --- resume ------------------------------------------------------------------------------------

RUN = f"""{COMMON}
from genmeter.runtime import current

config = MonitorConfig(
    job=os.environ["NAME"], resume=os.environ.get("RESUME") == "1", endpoint=QUIET
)
monitor = GenerationMonitor(config=config)
budget = monitor.budget(tokens=100_000, scope="job")
left = budget.left.tokens
use(monitor, int(os.environ["TOKENS"]))
monitor.flush(30)


def births():
    lines = current().render(True).decode().splitlines()
    return [
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("genmeter_tokens_created{{")
    ]


def counted():
    lines = current().render(False).decode().splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("genmeter_tokens_total{{")
    )


output(left=left, spent=budget.spent.tokens, counted=counted(), births=births(),
       usage=job_token_usage().total_tokens)
if os.environ.get("DIE"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def one_run(folder: Path, name: str = "daily", **variables: str) -> dict[str, Any]:
    """Run a process of the named job, and return what it printed."""
    given = env(folder, NAME=name, **variables) | {"OTEL_METRICS_EXPORTER": "prometheus"}
    ended = run(folder, RUN, given)
    assert ended.code == (-9 if variables.get("DIE") else 0), ended.errors
    return ended.output[0]


@pytest.mark.parametrize("end", ["ended", "killed"])
def test_a_resumed_job_goes_on_with_its_totals(tmp_path: Path, end: str) -> None:
    """The budget of a day holds over restarts, also after a kill; counters keep their births."""
    die = {"DIE": "1"} if end == "killed" else {}
    first = one_run(tmp_path, RESUME="1", TOKENS="60000", **die)
    one_run(tmp_path, "another", TOKENS="1")  # it must not remove the folder
    second = one_run(tmp_path, RESUME="1", TOKENS="30000", **die)
    third = one_run(tmp_path, RESUME="1", TOKENS="10001")
    assert [each["left"] for each in (first, second, third)] == [100_000, 40_000, 10_000]
    totals = [60_000, 90_000, 100_001]
    assert [each["spent"] for each in (first, second, third)] == totals
    assert [each["counted"] for each in (first, second, third)] == totals
    assert [each["usage"] for each in (first, second, third)] == totals
    assert len(first["births"]) == 1
    assert first["births"] == second["births"] == third["births"]


@pytest.mark.parametrize("end", ["ended", "killed"])
def test_without_resume_a_job_begins_at_zero(tmp_path: Path, end: str) -> None:
    """Also after a kill, whose folder stays until the next run."""
    die = {"DIE": "1"} if end == "killed" else {}
    first = one_run(tmp_path, TOKENS="60000", **die)
    second = one_run(tmp_path, TOKENS="10")
    assert (first["left"], second["left"]) == (100_000, 100_000)
    assert second["spent"] == second["counted"] == 10
    assert second["births"] > first["births"]


def test_a_reservation_of_an_earlier_run_is_gone(tmp_path: Path) -> None:
    """A run that is killed inside of a block leaves what it used, and nothing reserved."""
    source = f"""{COMMON}
monitor = GenerationMonitor(config=MonitorConfig(job="held", resume=True, endpoint=QUIET))
budget = monitor.budget(tokens=100, scope="job")
output(reserved=budget.reserved.tokens, left=budget.left.tokens)
with budget.reserve(tokens=70):
    use(monitor, 20)
    monitor.flush(30)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    first, second = (run(tmp_path, source, env(tmp_path)) for _ in range(2))
    assert first.output == [{"reserved": 0, "left": 100}], first.errors
    assert second.output == [{"reserved": 0, "left": 80}], second.errors


# --- what cannot be kept -----------------------------------------------------------------------


def test_a_process_that_cannot_reach_its_job_does_not_count_alone(tmp_path: Path) -> None:
    """Each read and each reservation says so; a budget of the monitor works."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"genmeter-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    (found,) = outputs(
        tmp_path,
        """
import asyncio

monitor, budget = make()
own = monitor.budget(tokens=100)
use(monitor, 1)


async def enter():
    async with budget.reserve(tokens=1):
        pass


def reserve():
    with budget.reserve(tokens=1):
        pass


errors = set()
for read in (budget.has_room, budget.check, lambda: budget.spent, lambda: budget.left,
             lambda: budget.reserved, reserve, lambda: asyncio.run(enter())):
    try:
        read()
        errors.add("nothing")
    except BudgetUnavailableError as error:
        errors.add(str(error))
output(errors=sorted(errors), own=own.spent.tokens)
""",
        "cut-off",
    )
    assert found["own"] == 1
    (error,) = found["errors"]
    assert error.startswith("budget of 100 tokens of the job cannot be kept: what the other ")
    assert "set TMPDIR to another folder" in error


def test_alone_nothing_is_written(tmp_path: Path) -> None:
    """A job of one process keeps its budget in memory."""
    found = outputs(
        tmp_path,
        """
monitor, budget = make()
with budget.reserve(tokens=60):
    use(monitor, 50)
    left = budget.left.tokens
monitor.flush(30)
output(inside=left, left=budget.left.tokens)
""",
    )
    assert found == [{"inside": 0, "left": 50}]
    assert [path.name for path in tmp_path.iterdir()] == ["job.py"]


def test_kills_and_restarts_leave_nothing_reserved(tmp_path: Path) -> None:
    """Workers that are killed at any moment, and started again, do not exceed the budget."""
    limit, most = 30_000, 100
    program = job(
        tmp_path,
        f"""{COMMON}
monitor = GenerationMonitor(config=MonitorConfig(job="storm", resume=True, endpoint=QUIET))
budget = monitor.budget(tokens={limit}, scope="job")
path = os.path.join(os.environ["TMPDIR"], "used")
while True:
    try:
        with budget.reserve(tokens={most}, timeout=60):
            use(monitor, {most})
            monitor.flush(30)
            with open(path, "a") as file:
                file.write("x")
            time.sleep(0.005)
    except BudgetExceededError:
        break
output(spent=budget.spent.tokens)
monitor.shutdown()
""",
    )
    random_ = random.Random(1)  # noqa: S311 - to vary the moments

    used = tmp_path / "used"
    with contextlib.ExitStack() as stack:
        running: list[subprocess.Popen[str]] = []

        def start() -> None:
            process = subprocess.Popen(
                program,
                env=env(tmp_path),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            running.append(stack.enter_context(process))
            stack.callback(process.kill)

        for _ in range(4):
            start()
        for _ in range(6):
            before = used.stat().st_size if used.exists() else 0
            more = random_.randint(5, 30)
            assert eventually(lambda: used.exists() and used.stat().st_size >= before + more)  # noqa: B023
            victim = running.pop(0)
            victim.kill()
            victim.communicate(timeout=PATIENCE)
            start()
        printed = [process.communicate(timeout=PATIENCE) for process in running]
        assert [process.returncode for process in running] == [0] * 4, printed
    calls = used.stat().st_size
    # A killed process may have published a call, and not written it to the file.
    assert limit - 6 * most <= calls * most <= limit
    assert all(f'"spent": {limit}' in output for output, _ in printed), printed
