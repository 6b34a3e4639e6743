"""The report of a fleet equals what its processes counted up to their last scrapes.

Whatever their lives, restarts and scrape times are; expected sums are computed from the lives, not
from the samples.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING
from unittest import mock

from _fleet import CALL, NOW, StoredSamples
from hypothesis import given, settings
from hypothesis import strategies as st

from genmeter.report.fleet import read_fleet
from genmeter.report.promapi import PrometheusApi

if TYPE_CHECKING:
    from _fleet import Answer

WINDOW = 1800.0
SINCE = NOW - WINDOW
BEFORE = 1200.0  # seconds of history before the window
CALLS = "genmeter_generations_total"
OUTCOMES = ("success", "failure")


@dataclass
class Life:
    """A process: when it began and ended, and when it recorded which outcome."""

    begin: float
    end: float
    calls: dict[str, list[float]] = field(default_factory=dict)

    def value(self, outcome: str, at: float) -> int:
        """Return a counter's value at a time."""
        return bisect.bisect_right(self.calls[outcome], at)

    def birth(self) -> float:
        """Return the birth of its series: all exist from its first call on, at 0."""
        return min(times[0] for times in self.calls.values() if times) - 0.001


@st.composite
def lives(draw: st.DrawFn) -> list[Life]:
    """Draw consecutive processes under one address, in whole seconds and a half."""
    length = round(BEFORE + WINDOW)
    cuts = draw(st.lists(st.integers(1, length - 1), min_size=1, max_size=8, unique=True))
    edges = [0, *sorted(cuts), length]
    found = []
    for begin, end in itertools.pairwise(edges):
        if draw(st.integers(0, 4)) == 0 or end - begin < 2:
            continue  # nobody listens
        seconds = st.integers(begin, end - 1)
        life = Life(NOW - length + begin, NOW - length + end)
        for outcome in OUTCOMES:
            drawn = draw(st.lists(seconds, max_size=12))
            life.calls[outcome] = sorted(NOW - length + each + 0.5 for each in drawn)
        if any(life.calls.values()):
            found.append(life)
    return found


@st.composite
def scrape_times(draw: st.DrawFn) -> list[float]:
    """Draw an interval, an offset and failed scrapes."""
    interval = draw(st.sampled_from([5, 15, 60, 240]))
    offset = draw(st.integers(0, interval - 1))
    count = (round(BEFORE + WINDOW) - offset) // interval + 1
    missed = draw(st.sets(st.integers(0, count - 1), max_size=count // 2))
    first = NOW - BEFORE - WINDOW + offset
    return [first + interval * number for number in range(count) if number not in missed]


def expected(processes: list[Life], times: list[float], outcome: str) -> int:
    """Return what the scrapes show of the window."""
    total = 0
    for life in processes:
        seen = [at for at in times if life.birth() <= at < life.end]
        inside = [at for at in seen if at > SINCE]
        if not inside:
            continue
        before = [at for at in seen if at <= SINCE]
        if before:
            base = life.value(outcome, before[-1])
        elif life.birth() >= SINCE:
            base = 0
        else:  # it is not known when the first value was counted
            base = life.value(outcome, inside[0])
        total += life.value(outcome, inside[-1]) - base
    return total


def store_of(processes: list[Life], times: list[float], births: str, most: int) -> StoredSamples:
    """Store the scrapes, with births as series of their own or as zero samples."""
    store = StoredSamples(most=most)
    for outcome in OUTCOMES:
        samples: list[tuple[float, float]] = []
        born: list[tuple[float, float]] = []
        for life in processes:
            seen = [at for at in times if life.birth() <= at < life.end]
            if births == "zeros" and seen and not [s for s, _ in samples if s >= life.birth()]:
                samples.append((round(life.birth(), 3), 0.0))
            for at in seen:
                samples.append((at, float(life.value(outcome, at))))
                born.append((at, life.birth()))
        if samples:
            shown = born if births == "created" else ()
            store.counter(CALLS, samples, births=shown, **CALL, genmeter_outcome=outcome)
    up = [at for at in times if any(life.begin <= at < life.end for life in processes)]
    if up:
        store.scrapes(up)
    return store


def read(store: StoredSamples) -> dict[str, int]:
    """Return the calls by outcome."""

    def get(_: PrometheusApi, path: str, parameters: dict[str, str]) -> Answer:
        at = parameters.get("time")
        return store.respond(parameters["query"], None if at is None else float(at))

    with mock.patch.object(PrometheusApi, "_get", get):
        row = read_fleet("prometheus:9090", window=timedelta(seconds=WINDOW)).total()
    return {"success": row.calls - row.failures, "failure": row.failures}


@settings(max_examples=150, deadline=None)
@given(lives(), scrape_times(), st.sampled_from([10**9, 100]))
def test_births_make_the_sums_exact(processes: list[Life], times: list[float], most: int) -> None:
    """Also over restarts that no fall shows, and over gaps."""
    store = store_of(processes, times, "created", most)
    if not store._series:
        return
    found = read(store)
    assert found == {outcome: expected(processes, times, outcome) for outcome in OUTCOMES}


@settings(max_examples=150, deadline=None)
@given(lives(), scrape_times(), st.sampled_from([10**9, 100]))
def test_zeros_at_the_births_make_the_sums_exact(
    processes: list[Life], times: list[float], most: int
) -> None:
    """A server that stores them tells even what came before the first scrape of the window."""
    store = store_of(processes, times, "zeros", most)
    if not store._series:
        return
    wanted = {}
    for outcome in OUTCOMES:
        wanted[outcome] = 0
        for life in processes:
            seen = [at for at in times if life.birth() <= at < life.end]
            if seen and seen[-1] > SINCE:
                before = [at for at in seen if at <= SINCE]
                base = life.value(outcome, before[-1]) if before else 0
                wanted[outcome] += life.value(outcome, seen[-1]) - base
    assert read(store) == wanted


@settings(max_examples=100, deadline=None)
@given(lives(), scrape_times())
def test_without_births_a_restart_may_be_missed_but_nothing_is_invented(
    processes: list[Life], times: list[float]
) -> None:
    """Not more than what the processes counted, all of their lives included."""
    store = store_of(processes, times, "none", 10**9)
    if not store._series:
        return
    found = read(store)
    for outcome in OUTCOMES:
        ever = sum(
            life.value(outcome, at)
            for life in processes
            for at in [max((t for t in times if life.birth() <= t < life.end), default=0.0)]
        )
        assert 0 <= found[outcome] <= ever
