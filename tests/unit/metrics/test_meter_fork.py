"""A provider in a forked child."""

from __future__ import annotations

import json
import os
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from _meters import LockedOwner, metrics, points, provider, span
from opentelemetry.metrics import Observation
from opentelemetry.sdk.resources import Resource

from _waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

CHILD = Resource({"service.name": "child"})


def in_child(function: Callable[[], Any]) -> Any:
    """Return what a function returns in a forked child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            result = json.dumps(function())
        except BaseException:
            result = json.dumps(traceback.format_exc())
        os.write(writer, result.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        text = file.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def test_child_counts_from_0_with_the_parents_instruments() -> None:
    """Callbacks work, and resource and start times are the child's."""
    owner = LockedOwner()
    made = provider(owner=owner)
    meter = made.get_meter("other")
    counter: Any = meter.create_counter("events")
    histogram = meter.create_histogram("sizes")
    meter.create_gauge("gauge").set(3)
    meter.create_observable_counter("seen", [lambda _: [Observation(9)]])
    counter.add(5)
    histogram.record(5)
    before = made.collect()
    old = points(before, "seen")[()].start_time_unix_nano

    def child() -> Any:
        owner.reset_after_fork()
        made.reset_after_fork(CHILD)
        counter.add(1)
        counter.cell({}, 1.0).add(1, 1.0, span(1))
        data = made.collect()
        return [
            {name: each.data.data_points[0].value for name, each in metrics(data).items()},
            data.resource_metrics[0].resource.attributes["service.name"],
            points(data, "seen")[()].start_time_unix_nano > old,
        ]

    assert in_child(child) == [{"events": 2, "seen": 9}, "child", True]
    after = made.collect()
    assert points(after, "events")[()].value == 5
    assert points(after, "sizes")[()].count == 1


def test_child_does_not_wait_for_the_parents_threads() -> None:
    """The fork happens while a thread holds the owner's lock and a callback hangs."""
    owner = LockedOwner()
    made = provider(owner=owner)
    go, is_held, is_called = threading.Event(), threading.Event(), threading.Event()
    calls: list[int] = []
    parent = os.getpid()

    def callback(_: Any) -> list[Observation]:
        calls.append(1)
        if os.getpid() == parent:
            is_called.set()
            go.wait(PATIENCE)
        return [Observation(1)]

    def hold() -> None:
        is_held.set()
        go.wait(PATIENCE)

    meter = made.get_meter("other")
    counter = meter.create_counter("events")
    meter.create_observable_gauge("seen", [callback])
    threads = [
        threading.Thread(target=made.collect, args=(PATIENCE,)),
        threading.Thread(target=owner.run, args=(hold, None)),
    ]
    for thread in threads:
        thread.start()
    assert is_called.wait(PATIENCE)
    assert is_held.wait(PATIENCE)

    def child() -> Any:
        owner.reset_after_fork()
        made.reset_after_fork(CHILD)
        counter.add(1)
        return sorted(metrics(made.collect(PATIENCE)))

    try:
        assert in_child(child) == ["events", "seen"]
    finally:
        go.set()
        for thread in threads:
            thread.join()


def test_reset_forgets_every_cell_and_exemplar() -> None:
    """A cell from before the reset is not collected any more."""
    made = provider()
    histogram: Any = made.get_meter("genmeter").create_histogram("sizes")
    old = histogram.cell({}, 1.0)
    old.record(1, 1.0, span(1))
    made.reset_after_fork(CHILD)
    old.record(1, 1.0, span(1))
    assert metrics(made.collect()) == {}
    new = histogram.cell({}, 2.0)
    assert new is not old
    new.record(2, 2.0, None)
    point = points(made.collect(), "sizes")[()]
    assert (point.count, point.sum, point.exemplars) == (1, 2, [])
