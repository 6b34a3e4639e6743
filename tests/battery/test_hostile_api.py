"""Every public call with hostile values: what records never raises, what checks says what is wrong."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from _odd_values import calling, ends, odd_value, values_by_name
from _public_calls import CHECKED, PLAIN, RECORDING, Case, Place, public_names
from _two_readers import check_outputs, two_readers

from genmeter import CustomMetric, GenmeterError, MonitorConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from _battery import Battery

# A value's own __del__ may raise, which is said of it by Python, not by us.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # coroutines that nobody awaits
]

VALUES = values_by_name()
GOOD = {"model_name": "good", "prompt_token_count": 11, "completion_token_count": 5}
LONGEST = 2_500
"""Characters of an error's message."""


class Watched:
    """A monitor between whose hostile calls there are good ones.

    Attributes:
        place: The monitor and a folder, for the cases.
    """

    def __init__(self, place: Place, read: Any) -> None:
        self.place = place
        self._read = read
        self._good = 0

    def good(self) -> None:
        """Record a good call."""
        self.place.monitor.track_generation(0.5, True, **GOOD)
        self._good += 1

    def check(self, *, may_reject: bool = False) -> None:
        """Fail unless the good calls are exact in the report and on the page.

        Args:
            may_reject: Whether there may be what is counted as an internal error.
        """
        self.good()
        report = self.place.monitor.get_total_token_usage()
        (good,) = [each for each in report.by_model if each.model_name == "good"]
        expected = (11 * self._good, 5 * self._good, self._good)
        assert (good.prompt_tokens, good.completion_tokens, good.calls) == expected
        samples = check_outputs(self._read)
        wanted = ("gen_ai_request_model", "good")
        tokens = {
            name: sum(
                value
                for (found, pairs), value in samples.items()
                if found == f"gen_ai_client_inference_usage_{name}_tokens_total" and wanted in pairs
            )
            for name in ("input", "output")
        }
        assert tokens == {"input": expected[0], "output": expected[1]}
        internal = sum(
            value
            for (found, pairs), value in samples.items()
            if found == "genmeter_monitor_events_total" and ("genmeter_reason", "internal") in pairs
        )
        assert may_reject or internal == 0


@contextmanager
def watched(folder: Path) -> Iterator[Watched]:
    """Return a monitor of the test's own."""
    with two_readers(MonitorConfig(custom_metrics=(CustomMetric(name="app.m"),))) as read:
        yield Watched(Place(read.monitor, folder), read)


def call(case: Case, place: Place, function: Callable[..., Any], changed: dict[str, Any]) -> None:
    """Call a function with some arguments changed."""
    args: tuple[Any, ...] = ()
    keywords = case.good(place)
    for name, kind in case.parameters(function):
        if name not in changed:
            if kind == "positional" and name in keywords:
                args = keywords.pop(name)
            continue
        if kind == "positional":
            keywords.pop(name, None)
            args = (changed[name],)
        else:
            keywords[name] = changed[name]
    function(*args, **keywords)


def test_every_public_callable_has_a_case() -> None:
    """A callable that is new, or gone, is noticed here."""
    cases = {*RECORDING, *CHECKED, *PLAIN}
    assert public_names() == cases
    assert len(cases) == len(RECORDING) + len(CHECKED) + len(PLAIN)


@pytest.mark.parametrize("name", RECORDING)
def test_recording_never_raises(name: str, tmp_path: Path, battery: Battery) -> None:
    """Each value is passed as each argument; good calls in between are exact."""
    case = RECORDING[name]
    with watched(tmp_path) as made:
        function = case.make(made.place)
        for parameter, _ in case.parameters(function):
            for shown in chosen(battery, short=8 if case.is_slow else 40):
                call(case, made.place, function, {parameter: VALUES[shown]()})
                made.good()
        made.check(may_reject=case.may_reject)


def chosen(battery: Battery, *, short: int) -> list[str]:
    """Return the names of some values, or of all in a long run."""
    names = sorted(VALUES)
    return battery.random.sample(names, min(len(names), battery.amount(short=short, long=10**6)))


def test_recording_never_raises_with_random_values(tmp_path: Path, battery: Battery) -> None:
    """All arguments of a call may be hostile at once, in any order of calls."""
    random = battery.random
    names = sorted(name for name, case in RECORDING.items() if not case.is_slow)
    for _ in range(battery.amount(short=30, long=3_000)):
        may_reject = False
        with watched(tmp_path) as made:
            for _ in range(40):
                case = RECORDING[random.choice(names)]
                function = case.make(made.place)
                parameters = [parameter for parameter, _ in case.parameters(function)]
                some = random.sample(parameters, random.randrange(len(parameters) + 1))
                call(case, made.place, function, {each: odd_value(random) for each in some})
                may_reject = may_reject or case.may_reject
                made.good()
            made.check(may_reject=may_reject)


@pytest.mark.parametrize("name", CHECKED)
def test_checks_name_what_is_wrong(name: str, tmp_path: Path, battery: Battery) -> None:
    """A wrong argument is an error of genmeter whose message names it, whatever the value does."""
    case = CHECKED[name]
    with watched(tmp_path) as made:
        function = case.make(made.place)
        for parameter, _ in case.parameters(function):
            for shown in chosen(battery, short=5 if case.is_slow else 25):
                value = VALUES[shown]()
                where = f"{name}({parameter}={shown})"
                message = None
                try:
                    call(case, made.place, function, {parameter: value})
                except case.raises:
                    pass
                except GenmeterError as error:
                    message = str(error)
                except BaseException as error:
                    raise AssertionError(where) from error
                if message is not None:
                    assert re.search(case.unnamed.get(parameter, parameter), message), where
                    assert len(message) <= LONGEST, where
                made.good()
        made.check(may_reject=case.may_reject)


@pytest.mark.parametrize("end", ends)
@pytest.mark.parametrize("name", RECORDING)
def test_an_interrupt_passes_through(name: str, end: str, tmp_path: Path) -> None:
    """An interrupt is the job's: it is not kept back, and what was recorded before stays exact."""
    case = RECORDING[name]
    raised = type(ends[end]())
    with watched(tmp_path) as made:
        function = case.make(made.place)
        for parameter, _ in case.parameters(function):

            def interrupt() -> None:
                raise ends[end]

            made.good()
            seen: list[type] = []
            try:
                call(case, made.place, function, {parameter: calling(interrupt)})
            except BaseException as error:
                seen.append(type(error))
            assert set(seen) <= {raised}, parameter
        made.check(may_reject=case.may_reject)


@pytest.mark.parametrize("name", [*RECORDING, *CHECKED])
def test_no_lock_is_held_while_a_value_is_asked(name: str, tmp_path: Path) -> None:
    """A value that waits for another thread, which reads and records, does not wait forever."""
    case = RECORDING.get(name) or CHECKED[name]
    stuck: list[str] = []
    with watched(tmp_path) as made:
        monitor = made.place.monitor
        function = case.make(made.place)
        for parameter, _ in case.parameters(function):
            asked = 0

            def ask(parameter: str = parameter) -> None:
                nonlocal asked
                asked += 1
                if asked > 3 or stuck:
                    return
                done = threading.Event()

                def use() -> None:
                    monitor.track_generation(0.1, True, model_name="other")
                    monitor.get_total_token_usage()
                    monitor.page()
                    done.set()

                threading.Thread(target=use, daemon=True).start()
                if not done.wait(30.0):
                    stuck.append(parameter)

            for base in (object, str, dict):
                asked = 0
                try:
                    call(case, made.place, function, {parameter: calling(ask, base)})
                except (GenmeterError, *case.raises):
                    pass
        assert not stuck
        made.check(may_reject=case.may_reject)
