"""The screen, for terminals of several sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from _live import drawn, row, status

from genmeter.cli.live.draw import screen
from genmeter.report.status import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genmeter.cli.live.watch import Row

BAR = "\N{BOX DRAWINGS HEAVY HORIZONTAL}" * 24
NOTE = "12:01:05, q ends"
REFUSED = "does not respond: Connection refused; check that the job is running"


def text_of(rows: Sequence[Row], width: int = 80, height: int = 24) -> str:
    """The screen, which fits its terminal."""
    lines = drawn(screen(rows, width, height, NOTE), width)
    assert max(map(len, lines)) <= width
    assert len(lines) <= height
    return "\n".join(lines)


def many(count: int) -> list[Row]:
    """Jobs with different models."""
    return [
        row(f"host-{n:03}:9464", status=status(model=f"model-{n:03}", instance=str(n)))
        for n in range(count)
    ]


def test_one_job_fills_the_screen() -> None:
    """Everything of the page is there, with its labels."""
    found = status(firing={"RateLimited": 1}, processes={"running": 3})
    assert text_of([row(status=found)]) == (
        "127.0.0.1:9464  running                                         12:01:05, q ends\n"
        f"{BAR:<63}40%  0:00:30 left\n"
        "samples      30 accepted  10 rejected  of 100\n"
        "generations  100  4.0% failed  7 active\n"
        "rate         10.0 calls/s  1,200 tokens/s\n"
        "used         12,000 tokens  1.0000 USD  2 without usage: not included\n"
        "firing       RateLimited\n"
        "errors       RateLimitError 3  TimeoutError 1\n"
        "processes    3 running\n"
        "\n"
        "model        generations  failed  tokens in    out     USD  p95\n"
        "────────────────────────────────────────────────────────────────\n"
        "atlas-large          100    4.0%     10,000  2,000  1.0000    -\n"
        "\n"
        "total                100    4.0%     10,000  2,000  1.0000    -"
    )


@pytest.mark.parametrize("width", [60, 80, 140])
def test_several_jobs_have_a_line_each_and_a_sum(width: int) -> None:
    """The sum is that of the jobs."""
    one, two, three = (status(instance=name) for name in ("one", "two", "three"))
    rows = [
        row("a:1", status=one),
        row("b:2", "no answer", since=12.0, reason=REFUSED, status=two),
        row("c:3", "ended", status=three),
    ]
    text = text_of(rows, width, 40)
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()}
    assert lines["3"].startswith("3 jobs  partial numbers")
    assert "running" in lines["a:1"]
    assert "no answer for 12 s" in lines["b:2"]
    assert "ended" in lines["c:3"]
    assert "3.0000" in lines["total"]
    flat = " ".join(text.split())
    assert f"! b:2 {REFUSED}; the numbers are its last ones" in flat


@pytest.mark.parametrize("width", [20, 40, 60, 80, 140])
@pytest.mark.parametrize("height", [3, 10, 24, 60])
@pytest.mark.parametrize("count", [1, 2, 5, 200])
def test_the_screen_fits_every_terminal(width: int, height: int, count: int) -> None:
    """What does not fit is counted."""
    text = text_of(many(count), width, height)
    if count == 200:
        assert any(words in text for words in ("and 1", "do not fit"))


def test_jobs_and_models_that_do_not_fit_are_counted() -> None:
    """The rows shown and the counted ones are all."""
    lines = text_of(many(50), 100, 24).splitlines()
    shown = sum(line.startswith("host-") for line in lines)
    assert shown >= 3
    assert f"and {50 - shown} more" in lines
    (one,) = [row(status=Status.sum([status(model=f"model-{n:02}") for n in range(50)]))]
    lines = text_of([one], 100, 40).splitlines()
    shown = sum(line.startswith("model-") for line in lines)
    assert shown > 15
    assert f"and {50 - shown} more" in lines


def test_hidden_jobs_that_are_not_current_are_counted() -> None:
    """A silent job is not hidden silently."""
    rows = [*many(30), row("silent:1", "no answer", since=3.0), row("old:1", age=99.0)]
    assert "2 not current" in text_of(rows, 100, 24)


def test_the_models_with_the_most_tokens_are_shown() -> None:
    """Those that matter."""
    small = [status(1, model=f"a-{n:02}") for n in range(30)]
    found = Status.sum([*small, status(10_000, model="z-large")])
    text = text_of([row(status=found)], 80, 24)
    assert "z-large" in text
    assert "a-29" not in text


def test_names_are_cut_rather_than_numbers() -> None:
    """A long model's name does not hide what it costs."""
    found = status(123_456_789, model="organisation/" + "m" * 200)
    text = text_of([row("x" * 300, status=found)], 60)
    assert "12,345,678,900" in text
    assert "xx\N{HORIZONTAL ELLIPSIS}  running" in text
    assert "1,234,567.89" in text


def test_unknown_numbers_are_shown_as_such() -> None:
    """Rates and the time left of a job that does not answer, and a source without numbers."""
    text = text_of([row(state="no answer", since=12.0, reason=REFUSED)])
    assert "127.0.0.1:9464  no answer for 12 s" in text
    assert "- calls/s  - tokens/s" in text
    assert "time left unknown" in text
    text = text_of([row(state="no answer", since=3.0, status=None, reason=REFUSED)])
    assert text.splitlines()[1] == f"! {REFUSED}"
    assert "generations" not in text


def test_a_job_without_expected_samples_has_no_progress() -> None:
    """Neither a bar nor a time."""
    text = text_of([row(status=status(expected=None), left=None)])
    assert "━" not in text
    assert "30 accepted  10 rejected\n" in text


def test_what_is_missing_is_on_the_screen() -> None:
    """Processes that died, rejected values, one job with two names."""
    found = status(processes={"running": 2, "died": 1}, rejected=4)
    text = text_of([row("a", status=found), row("b")], 100, 40)
    assert "1 died  2 running  up to a second of work is missing" in text
    assert "! 4 values rejected by the monitor: inbox_full 4." in text
    assert "! a and b are the same job" in text


def test_names_of_others_cannot_write_to_the_terminal() -> None:
    """Neither control characters nor markup of a label have an effect."""
    found = status(model="[red]a\\\\x", errors={"Bad[bold]": 1}, firing={"A[/red]": 1})
    found.errors["\x1b[2J"] = 9
    text = text_of([row("[b]\x07name", status=found)])
    assert "\x1b" not in text
    assert "[b]?name" in text
    assert "[red]a\\x" in text
    assert "Bad[bold] 1" in text
    assert "A[/red]" in text


def test_an_old_or_ended_job_says_so() -> None:
    """The state has its time."""
    assert "running, 45 s ago" in text_of([row(age=45.0)])
    assert "100%  ended" in text_of([row(state="ended", status=status(samples=100))])
