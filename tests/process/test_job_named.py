"""Independent processes that have the name of one job."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest
from _jobs import environment, folders
from _pages import Page, Scraper, free_port, sums
from _ranks import Live

from _waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

FEW_SECONDS = 10.0  # for what takes one or two on a machine that is not busy
MAY_REFUSE = frozenset({200, None})  # while nobody listens between two leaders


def named(port: int, **variables: str) -> dict[str, str]:
    """Return the environment of a process of the job."""
    return environment(
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
        GENMETER_JOB="texts/nightly",
        **variables,
    )


@pytest.mark.timeout(300)
def test_the_next_process_answers_when_the_first_ends(tmp_path: Path, jobs: Path) -> None:
    """The page has all of them, before and after: no counter falls, and no birth moves."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    with ExitStack() as stack:
        lives = [stack.enter_context(Live(tmp_path, f"p{i}", named(port))) for i in range(4)]
        lives[0].do("record(monitor, 100)")
        assert eventually(lambda: Page(url).sums() == sums(100))
        scraper = stack.enter_context(Scraper(url))
        for number, live in enumerate(lives[1:]):
            live.do(f"record(monitor, {200 + number})")
        total = 100 + 200 + 201 + 202
        assert eventually(lambda: Page(url).sums() == sums(total))
        for live in lives:
            live.do("record(monitor, 10, model='late')")
        assert lives[0].end() == 0
        total += 40
        assert eventually(lambda: Page(url).sums() == sums(total))
        for live in lives[1:]:
            assert eventually(
                lambda live=live: live.do("job_token_usage().total_tokens") == 3 * total
            )
            assert live.do("job_token_usage().complete") is True
        page = Page(url)
        assert page.is_whole
        assert (page.processes("running"), page.processes("ended")) == (3, 1)
        assert page.processes("died") == 0
        lives[1].do("record(monitor, 5)")
        assert lives[1].end() == 0
        total += 5
        assert eventually(lambda: Page(url).sums() == sums(total))
        scraper.__exit__()
        scraper.check(total, MAY_REFUSE)
        assert scraper.longest_gap < FEW_SECONDS
        assert [live.end() for live in lives[2:]] == [0, 0]
        for live in lives:
            assert "not served" not in live.errors
            assert live.errors.count("WARNING") == 0
    assert folders(jobs) == []


@pytest.mark.timeout(300)
def test_what_killed_processes_had_published_stays(tmp_path: Path, jobs: Path) -> None:
    """The living are exact; of each dead one a little more than the last second is missing."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    pause = 0.02
    with ExitStack() as stack:
        lives = [stack.enter_context(Live(tmp_path, f"p{i}", named(port))) for i in range(8)]
        scraper = stack.enter_context(Scraper(url))
        for number, live in enumerate(lives):
            live.do(f"load(monitor, {pause}, model='m{number}')")
        assert eventually(lambda: all(live.counted > 150 for live in lives))
        dead, living = lives[:4], lives[4:]  # the one that listens is among them
        for live in dead:
            live.kill()
        at_death, killed_at = [live.counted for live in dead], time.time()
        assert eventually(lambda: Page(url).processes("died") == 4)
        last_death = Page(url).total("genmeter_job_last_death_timestamp_seconds")
        assert killed_at - FEW_SECONDS < last_death < time.time() + 1
        for live in living:
            live.do("stop.set(); time.sleep(0.1)")
        total = 0
        for number, live in enumerate(living, 4):
            label = f"m{number}"
            assert eventually(
                lambda live=live, label=label: (
                    Page(url).sums(gen_ai_request_model=label) == sums(live.counted)
                )
            )
            total += live.counted
        page = Page(url)
        assert page.is_whole
        for number, counted in enumerate(at_death):
            kept = page.sums(gen_ai_request_model=f"m{number}")
            assert kept == sums(kept[0])
            assert counted - 1.3 / pause <= kept[0] <= counted + 1
            total += int(kept[0])
        assert (page.processes("running"), page.processes("died")) == (4, 4)
        assert page.sums() == sums(total)
        for live in living:
            # Its tokens are read a moment after the page's, which matters if it is killed then.
            tokens = live.do("job_token_usage().total_tokens")
            assert 3 * total <= tokens <= 3 * (total + len(at_death))
        scraper.__exit__()
        scraper.check(total, MAY_REFUSE)
        assert [live.end() for live in living] == [0] * 4
    assert folders(jobs) == []


def test_a_process_alone_makes_no_file(tmp_path: Path, jobs: Path) -> None:
    """Without a name there is no folder, whatever it does."""
    port = free_port()
    env = named(port)
    env.pop("GENMETER_JOB")
    with Live(tmp_path, "alone", env) as live:
        live.do("record(monitor, 5)")
        live.do("monitor.flush()")
        assert eventually(lambda: Page(f"http://127.0.0.1:{port}/metrics").sums() == sums(5))
        assert live.do("job_token_usage().total_tokens") == 15
        live.do("time.sleep(1.5)")
        assert live.end() == 0
        assert live.errors == ""
    assert list(jobs.iterdir()) == []


def test_jobs_with_other_names_count_apart(tmp_path: Path) -> None:
    """Also on the same port, which the second of them does not get."""
    port = free_port()
    with (
        Live(tmp_path, "one", named(port)) as one,
        Live(tmp_path, "two", {**named(port), "GENMETER_JOB": "other"}) as two,
    ):
        one.do("record(monitor, 5)")
        one.do("monitor.flush()")
        assert eventually(lambda: one.do("monitor.endpoint_url") is not None)
        two.do("record(monitor, 7)")
        two.do("monitor.flush()")
        assert one.do("job_token_usage().total_tokens") == 15
        assert two.do("job_token_usage().total_tokens") == 21
        assert eventually(lambda: "tries again" in two.errors)


@pytest.mark.parametrize("resume", [False, True])
def test_a_job_goes_on_with_its_totals_if_it_resumes(
    tmp_path: Path, jobs: Path, resume: bool
) -> None:
    """Its births stay then; else it begins at 0."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    env = named(port, **({"GENMETER_RESUME": "true"} if resume else {}))
    births = []
    for run in range(3):
        with Live(tmp_path, f"run{run}", env) as live:
            live.do("record(monitor, 10)")
            expected = 10 * (run + 1) if resume else 10
            assert eventually(lambda expected=expected: Page(url).sums() == sums(expected))
            assert live.do("job_token_usage().total_tokens") == 3 * expected
            births.append(Page(url).births())
            if run == 1:
                live.do("monitor.flush()")
                live.kill()
            else:
                assert live.end() == 0
    key = next(key for key in births[0] if key.startswith("genmeter_generations_created"))
    assert len({each[key] for each in births}) == (1 if resume else 3)
    assert len(folders(jobs)) == (1 if resume else 0)


def test_the_folder_of_a_killed_job_is_removed_by_the_next(tmp_path: Path, jobs: Path) -> None:
    """Of any name; one that may be resumed is kept."""
    with ExitStack() as stack:
        for name, variables in (("a", {}), ("b", {}), ("c", {"GENMETER_RESUME": "1"})):
            env = {**named(free_port(), **variables), "GENMETER_JOB": name}
            live = stack.enter_context(Live(tmp_path, name, env))
            live.do("record(monitor, 5)")
            live.do("monitor.flush()")
        assert len(folders(jobs)) == 3
    with Live(tmp_path, "next", named(free_port())) as live:
        live.do("record(monitor, 5)")
        live.do("monitor.flush()")
        assert {each.name for each in folders(jobs)} == {
            "job-c",
            next(each.name for each in folders(jobs) if "texts" in each.name),
        }
        assert live.end() == 0
    assert [each.name for each in folders(jobs)] == ["job-c"]


@pytest.mark.parametrize("fault", ["mode", "link", "file"])
def test_an_unsafe_folder_cuts_a_process_off(tmp_path: Path, jobs: Path, fault: str) -> None:
    """It works, counts apart, and says so: once in the log, and in each report."""
    top = jobs / f"genmeter-{os.getuid()}"
    if fault == "mode":
        top.mkdir()
        top.chmod(0o777)
    elif fault == "link":
        (jobs / "elsewhere").mkdir(mode=0o700)
        top.symlink_to(jobs / "elsewhere")
    else:
        top.touch()
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    with Live(tmp_path, "cut", named(port)) as live:
        live.do("record(monitor, 5)")
        live.do("monitor.flush()")
        assert eventually(lambda: Page(url).sums() == sums(5))
        for _ in range(2):
            assert live.do("job_token_usage().total_tokens") == 15
            assert live.do("job_token_usage().complete") is False
        live.do("record(monitor, 5)")
        assert eventually(lambda: Page(url).sums() == sums(10))
        assert live.end() == 0
        assert live.errors.count("counts apart from the others of its job") == 1
        assert str(top) in live.errors
    assert not (jobs / "elsewhere").exists() or list((jobs / "elsewhere").iterdir()) == []


@pytest.mark.timeout(300)
def test_a_job_survives_the_removal_of_its_folder(tmp_path: Path, jobs: Path) -> None:
    """Processes join again, each with all that it has counted; the log says what is lost."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    with ExitStack() as stack:
        lives = [stack.enter_context(Live(tmp_path, f"p{i}", named(port))) for i in range(3)]
        for live in lives:
            live.do("record(monitor, 10)")
        assert eventually(lambda: Page(url).sums() == sums(30))
        (folder,) = folders(jobs)
        for each in folder.iterdir():
            each.unlink()
        folder.rmdir()
        for live in lives:
            live.do("record(monitor, 1)")
        assert eventually(lambda: Page(url).sums() == sums(33))
        assert eventually(lambda: Page(url).processes("running") == 3)
        for live in lives:
            assert eventually(lambda live=live: live.do("job_token_usage().total_tokens") == 99)
            # A scrape in the moment of that may fail, and has a line of its own.
            assert live.errors.count("was removed; what ended processes") == 1
            assert "Traceback" not in live.errors
        assert [live.end() for live in lives] == [0] * 3
    assert folders(jobs) == []


def test_a_process_may_join_late_and_leave_early(tmp_path: Path, jobs: Path) -> None:
    """Twenty one after the other, beside one that stays: the store does not grow with them."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    with Live(tmp_path, "stays", named(port)) as stays:
        stays.do("record(monitor, 1)")
        assert eventually(lambda: Page(url).sums() == sums(1))
        with Scraper(url) as scraper:
            for number in range(20):
                with Live(tmp_path, f"p{number}", named(port)) as live:
                    live.do("record(monitor, 2)")
                    if number % 4 == 3:
                        live.do("monitor.flush()")
                        live.kill()
                    else:
                        assert live.end() == 0
            assert eventually(lambda: Page(url).processes("died") == 5)
            assert eventually(lambda: Page(url).processes("ended") == 15)
            time.sleep(0.2)
        scraper.check(41)
        assert Page(url).sums() == sums(41)
        assert stays.do("job_token_usage().total_tokens") == 3 * 41
        (folder,) = folders(jobs)
        with closing(sqlite3.connect(folder / "job.sqlite")) as db:
            assert db.execute("SELECT COUNT(*) FROM process").fetchone() == (2,)
        assert stays.end() == 0
    assert folders(jobs) == []
