"""Sources that are read again and again, with a clock of the test."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from _live import row, status

from _waiting import PATIENCE, eventually
from genmeter.cli.live.rates import Rates
from genmeter.cli.live.sources import Reading
from genmeter.cli.live.watch import Row, Watcher, same_jobs
from genmeter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED = "does not respond: Connection refused"


class Clock:
    """A clock that the test moves."""

    now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class Scripted:
    """A source with a list of answers; the last one stays."""

    def __init__(self, clock: Clock, *answers: Any, name: str = "job") -> None:
        self.name = name
        self._clock = clock
        self._answers = [*answers]

    def read(self) -> list[Reading]:
        """The next answer."""
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, list):
            return answer
        return [Reading(self.name, self._clock(), 0.0, answer)]


def refused() -> ConfigError:
    """The error of a source that does not respond."""
    error = ConfigError(REFUSED)
    error.__cause__ = ConnectionRefusedError()
    return error


def rounds(watcher: Watcher, clock: Clock, number: int, seconds: float = 2.0) -> list[Row]:
    """Read some times, and return the rows after the last one."""
    for _ in range(number):
        clock.now += seconds
        watcher.begin_round()
        assert watcher.wait(PATIENCE)
    return watcher.rows()


def watching(*answers: Any) -> Callable[[int], Row]:
    """Watch one source; the function reads it some times and returns its row."""
    clock = Clock()
    watcher = Watcher([Scripted(clock, *answers)], clock)

    def read(number: int) -> Row:
        (found,) = rounds(watcher, clock, number)
        return found

    return read


def test_a_source_is_waited_for_before_its_first_answer() -> None:
    """It has no numbers, and is not blamed yet."""
    clock = Clock()
    (found,) = Watcher([Scripted(clock, status())], clock).rows()
    assert (found.state, found.status, found.reason) == ("waiting", None, "")


def test_an_answer_has_its_numbers_and_then_rates() -> None:
    """Rates are those between the readings."""
    read = watching(status(100), status(140))
    first, second = read(1), read(1)
    assert (first.state, first.rates) == ("running", Rates())
    assert second.status is not None
    assert second.status.usage.total().calls == 140
    assert second.rates.calls == 20.0


def test_a_source_that_stops_answering_keeps_its_numbers_and_says_since_when() -> None:
    """Its rates are unknown; it is current again when it answers."""
    read = watching(status(100), status(140), refused(), refused(), status(160), status(180))
    found = (read(2), read(2))[1]
    assert (found.state, found.since, found.reason) == ("no answer", 4.0, REFUSED)
    assert found.state_text() == "no answer for 4 s"
    assert not found.is_current
    assert found.status is not None
    assert found.status.usage.total().calls == 140
    assert (found.rates, found.left) == (Rates(), None)
    back = read(2)
    assert (back.state, back.since, back.reason) == ("running", 0.0, "")
    assert back.rates.calls == 8.0  # over 10 s, of which 6 s had no answer


def test_a_source_that_never_answers_says_since_when_it_was_asked() -> None:
    """It has no numbers."""
    found = watching(refused())(30)
    assert (found.state_text(), found.status) == ("no answer for 60 s", None)
    assert watching(refused())(300).state_text() == "no answer for 10 min"


def test_an_answer_of_something_else_is_no_silence() -> None:
    """A status or another page responds."""
    found = watching(ConfigError("responds without metrics of genmeter"))(1)
    assert (found.state, found.reason) == ("bad answer", "responds without metrics of genmeter")


def test_an_unexpected_error_is_shown() -> None:
    """The thread that reads would end unseen."""
    found = watching(RuntimeError("boom"))(1)
    assert (found.state, found.reason) == ("bad answer", "cannot be read: RuntimeError: boom")


def test_a_finished_job_has_ended_even_when_its_endpoint_is_gone() -> None:
    """Its last numbers are final."""
    read = watching(status(100), status(140, finished=True), refused())
    found = (read(2), read(3))[1]
    assert (found.state, found.reason, found.is_current) == ("ended", "", True)
    assert found.status is not None
    assert found.status.usage.total().calls == 140


def test_a_request_in_progress_for_long_is_no_answer() -> None:
    """The view does not wait for it, nor ask again meanwhile, and the others go on."""
    clock, released, asked = Clock(), threading.Event(), []

    class Hanging(Scripted):
        def read(self) -> list[Reading]:
            asked.append(1)
            released.wait(PATIENCE)
            return super().read()

    hanging = Hanging(clock, status(5), name="hanging")
    watcher = Watcher([hanging, Scripted(clock, status(7), name="fine")], clock)
    try:
        for _ in range(4):
            clock.now += 2.0
            watcher.begin_round()
            assert not watcher.wait(0.01)
        assert eventually(lambda: watcher.rows()[1].state == "running")
        late, fine = watcher.rows()
        assert late.state_text() == "no answer for 8 s"
        assert "in progress" in late.reason
        assert fine.status is not None
        assert len(asked) == 1
    finally:
        released.set()
    assert watcher.wait(PATIENCE)
    assert watcher.rows()[0].state == "running"


def test_time_without_a_request_is_no_silence() -> None:
    """A view that was suspended does not blame the source."""
    clock = Clock()
    watcher = Watcher([Scripted(clock, status(7))], clock)
    rounds(watcher, clock, 1)
    clock.now += 600.0
    (found,) = watcher.rows()
    assert (found.state, found.age) == ("running", 600.0)
    assert found.state_text() == "running, 10 min ago"


def test_a_slow_source_is_read_less_often() -> None:
    """A page of thousands of series does not use a processor of its own."""
    clock, asked = Clock(), []

    class Slow(Scripted):
        def read(self) -> list[Reading]:
            asked.append(clock.now)
            clock.now += 3.0
            return super().read()

    watcher = Watcher([Slow(clock, status(5))], clock)
    rounds(watcher, clock, 8, seconds=1.0)
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert gaps
    assert min(gaps) >= 9.0


def test_a_job_that_leaves_prometheus_is_gone_and_the_others_stay() -> None:
    """It ended or is not scraped: its last numbers stay."""
    clock = Clock()
    both = [Reading("a/1", 1.0, 0.0, status(10)), Reading("a/2", 1.0, 0.0, status(20))]
    one = [Reading("a/2", 4.0, 0.0, status(40))]
    watcher = Watcher([Scripted(clock, both, one)], clock)
    gone, stays = rounds(watcher, clock, 4)
    assert (gone.name, gone.state_text()) == ("a/1", "gone for 6 s")
    assert gone.status is not None
    assert gone.rates == Rates()
    assert stays.state == "running"


def test_a_server_without_jobs_says_what_to_check() -> None:
    """It answers, but has nothing."""
    found = watching([])(3)
    assert found.state == "waiting"
    assert "no current series of genmeter" in found.reason


def test_old_numbers_of_prometheus_say_their_age() -> None:
    """A scrape of a minute ago is not of now."""
    clock = Clock()
    for age, text, is_current in ((8.0, "running", True), (45.0, "running, 45 s ago", True)):
        old = [Reading("a/1", 1.0, age, status(10))]
        (found,) = rounds(Watcher([Scripted(clock, old)], clock), clock, 1)
        assert (found.state_text(), found.is_current) == (text, is_current)
    old = [Reading("a/1", 1.0, 95.0, status(10))]
    (found,) = rounds(Watcher([Scripted(clock, old)], clock), clock, 1)
    assert (found.state_text(), found.is_current) == ("running, 95 s ago", False)


def test_counters_that_begin_again_are_noted() -> None:
    """A restart, or another process at each request."""
    read = watching(status(100), status(5), status(6))
    assert "once" in (read(2), read(1))[1].reason
    lives = [status(100 + at, instance=str(at % 3)) for at in range(5)]
    assert "began again 4 times in the last minute" in watching(*lives)(5).reason


def test_the_total_is_the_sum_with_the_longest_time_left() -> None:
    """Jobs run beside each other."""
    total = Row.total(
        [
            row("a", left=30.0),
            row("b", left=50.0, status=status(instance="two")),
            row("c", "ended", status=status(instance="three")),
        ]
    )
    assert (total.state, total.left) == ("running", 50.0)
    assert total.status is not None
    assert total.status.usage.total().calls == 300
    assert total.rates == Rates(20.0, 2400.0, 4.0)
    assert Row.total([row(state="ended")] * 2).state == "ended"


@pytest.mark.parametrize(
    "changes", [{"state": "no answer"}, {"state": "waiting", "status": None}, {"age": 99.0}]
)
def test_a_total_that_lacks_a_job_is_partial(changes: dict[str, Any]) -> None:
    """Its time left is unknown if a job's is."""
    total = Row.total([row(), row("b", **{"status": status(instance="two"), **changes})])
    assert total.state == "partial"
    assert total.left == (30.0 if "age" in changes else None)


def test_one_job_with_two_names_is_counted_once() -> None:
    """Such as an endpoint and the Prometheus that scrapes it; the newest numbers count."""
    two = status(instance="two")
    rows = [row("a", "no answer"), row("b", status=status(130)), row("c", status=two)]
    total = Row.total(rows)
    assert total.state == "running"
    assert total.status is not None
    assert total.status.total.calls == 230
    (note,) = same_jobs(rows)
    assert note.startswith("a and b are the same job")
    (note,) = same_jobs([*rows, row("d")])
    assert note.startswith("a, b and 1 more are the same job")
