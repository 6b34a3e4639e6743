"""Callbacks: one that hangs or raises drops only its own instrument."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import Future
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from _meters import ThreadOwner, Warnings, metrics, points, provider
from opentelemetry.metrics import CallbackOptions, Observation

from _waiting import PATIENCE, eventually
from genmeter.metrics._callbacks import Observer
from unit._hostile import VALUES

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from genmeter.metrics.meter import BuiltinMeterProvider


def one(_: CallbackOptions) -> list[Observation]:
    """Observe 1."""
    return [Observation(1)]


class Hanging:
    """A callback that waits until it is released."""

    def __init__(self) -> None:
        self.calls = 0
        self.go = threading.Event()

    def __call__(self, _: CallbackOptions) -> list[Observation]:
        """Wait."""
        self.calls += 1
        self.go.wait(PATIENCE)
        return [Observation(7)]


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    """Return a callback that hangs until the test's end at most."""
    made = Hanging()
    yield made
    made.go.set()


def test_hanging_callback_drops_only_its_instrument(hanging: Hanging) -> None:
    """Other instruments are in the same collection."""
    warnings = Warnings()
    made = provider(warn=warnings.warn)
    meter = made.get_meter("other")
    meter.create_observable_gauge("before", [one])
    meter.create_observable_gauge("hangs", [hanging])
    meter.create_observable_gauge("after", [one])
    made.get_meter("genmeter").create_counter("own").add(1)
    assert set(metrics(made.collect(timeout=2.0))) == {"before", "after", "own"}
    assert [line for line in warnings.lines if "'hangs'" in line and "did not return" in line]


def test_two_hanging_callbacks_do_not_drop_a_third() -> None:
    """Each takes half of the remaining time."""
    first, second = Hanging(), Hanging()
    made = provider()
    meter = made.get_meter("other")
    for name, callback in (("a", first), ("b", second), ("c", one)):
        meter.create_observable_gauge(name, [callback])
    try:
        assert set(metrics(made.collect(timeout=4.0))) == {"c"}
    finally:
        first.go.set()
        second.go.set()


def test_hanging_callback_is_not_called_again_until_it_returns(hanging: Hanging) -> None:
    """Later collections do not wait for it."""
    warnings = Warnings()
    made = provider(warn=warnings.warn)
    made.get_meter("other").create_observable_gauge("hangs", [hanging])
    made.collect(timeout=0.2)
    for _ in range(3):
        # Half an hour is what this would take if it waited.
        assert metrics(made.collect(timeout=3_600.0)) == {}
    assert hanging.calls == 1
    hanging.go.set()
    assert eventually(lambda: metrics(made.collect(timeout=PATIENCE)))
    assert hanging.calls == 2
    assert len(warnings.lines) == 1


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), KeyboardInterrupt()])
def test_failing_callback_drops_only_its_instrument(error: BaseException) -> None:
    """Its earlier observations are dropped too, and one warning is logged."""
    warnings = Warnings()
    made = provider(warn=warnings.warn)
    meter = made.get_meter("other")

    def fails(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(1)
        raise error

    meter.create_observable_counter("fails", [one, fails])
    meter.create_observable_counter("works", [one])
    for _ in range(3):
        assert set(metrics(made.collect())) == {"works"}
    assert len(warnings.lines) == 1
    assert "'fails'" in warnings.lines[0]
    assert type(error).__name__ in warnings.lines[0]


def test_only_own_callbacks_run_on_the_owner() -> None:
    """Another library's callback may wait for the owner."""
    owner = ThreadOwner()
    made = provider(owner=owner)
    threads: dict[str, threading.Thread] = {}

    def foreign(_: CallbackOptions) -> list[Observation]:
        threads["foreign"] = threading.current_thread()
        owner.run(lambda: None, PATIENCE)
        return [Observation(1)]

    def own(_: CallbackOptions) -> list[Observation]:
        threads["own"] = threading.current_thread()
        return [Observation(2)]

    made.get_meter("other").create_observable_gauge("foreign", [foreign])
    made.get_meter("genmeter").create_observable_gauge("own", [own])
    assert set(metrics(made.collect(PATIENCE))) == {"foreign", "own"}
    assert threads["own"] is owner._thread
    assert threads["foreign"] not in (owner._thread, threading.current_thread())
    assert threads["foreign"].daemon
    owner.close()


def test_generator_object_is_a_callback() -> None:
    """It receives the options and yields observations; after its end it observes nothing."""

    def generator() -> Generator[Iterable[Observation], CallbackOptions, None]:
        options = yield []
        for number in (1, 2):
            assert options.timeout_millis > 0
            options = yield [Observation(number)]

    made = provider()
    for scope in ("genmeter", "other"):
        made.get_meter(scope).create_observable_counter(scope, [generator()])
    values = []
    for _ in range(3):
        data = made.collect()
        values.append([points(data, name)[()].value for name in metrics(data)])
    assert values == [[1, 1], [2, 2], []]


def test_generator_starts_at_the_first_collection() -> None:
    """Creating an instrument does not run the caller's code."""

    def generator() -> Generator[Iterable[Observation], CallbackOptions, None]:
        pytest.fail("it ran")
        yield []

    provider().get_meter("other").create_observable_gauge("late", [generator()])


def test_endless_generator_is_cut_off() -> None:
    """It uses limited memory and drops no other instrument."""
    made = provider(cardinality_limit=10)
    meter = made.get_meter("other")
    meter.create_observable_gauge("endless", [lambda _: (Observation(n) for n in count())])
    meter.create_observable_gauge("works", [one])
    assert "works" in metrics(made.collect(PATIENCE))


@pytest.mark.parametrize("what", VALUES)
@pytest.mark.parametrize("scope", ["genmeter", "other"])
def test_invalid_callbacks_and_observations_drop_at_most_their_instrument(
    scope: str, what: str
) -> None:
    """Invalid values are callbacks, results, observations, amounts and attributes."""
    value: Any = VALUES[what]
    made = provider()
    meter = made.get_meter(scope)
    meter.create_observable_gauge("callbacks", value)
    meter.create_observable_gauge("callback", [value])
    meter.create_observable_gauge("result", [lambda _: value])
    meter.create_observable_gauge("observation", [lambda _: [value]])
    meter.create_observable_gauge("value", [lambda _: [Observation(value)]])
    meter.create_observable_gauge("attributes", [lambda _: [Observation(1, value)]])
    meter.create_observable_gauge("works", [one])
    found = metrics(made.collect(PATIENCE))
    assert found["works"].data.data_points[0].value == 1
    assert found["attributes"].data.data_points[0].value == 1


def test_single_callback_needs_no_list() -> None:
    """A callable is accepted in place of a sequence."""
    made = provider()
    made.get_meter("other").create_observable_gauge("single", one)  # type: ignore[arg-type]
    assert points(made.collect(), "single")[()].value == 1


def test_last_observation_of_a_label_set_wins() -> None:
    """This holds for every kind of instrument."""
    made = provider()
    meter = made.get_meter("other")
    twice = [lambda _: [Observation(5), Observation(6, {"a": "b"})], lambda _: [Observation(4)]]
    meter.create_observable_counter("counter", twice)
    meter.create_observable_up_down_counter("updown", twice)
    meter.create_observable_gauge("gauge", twice)
    data = made.collect()
    for name in ("counter", "updown", "gauge"):
        assert {key: each.value for key, each in points(data, name).items()} == {(): 4, ("b",): 6}


def test_unobserved_label_set_makes_room_for_others() -> None:
    """The limit applies to each collection; attributes keep their identity while observed."""
    made = provider(cardinality_limit=2)
    now: list[str] = ["a", "b"]
    made.get_meter("other").create_observable_counter(
        "seen", [lambda _: [Observation(1, {"k": each}) for each in now]]
    )
    before = points(made.collect(), "seen")
    now[:] = ["b", "c"]
    after = points(made.collect(), "seen")
    assert set(after) == {("b",), ("c",)}
    assert after["b",].attributes is before["b",].attributes


def test_observed_label_sets_past_the_limit_overflow() -> None:
    """A counter's values are added, a gauge's last one is kept, and one warning is logged."""
    warnings = Warnings()
    made = provider(cardinality_limit=2, warn=warnings.warn)
    many = [lambda _: [Observation(10 + n, {"k": f"k{n}"}) for n in range(5)]]
    meter = made.get_meter("other")
    meter.create_observable_counter("counter", many)
    meter.create_observable_gauge("gauge", many)
    for _ in range(2):
        data = made.collect()
        for name, expected in (("counter", 12 + 13 + 14), ("gauge", 14)):
            found = {key: each.value for key, each in points(data, name).items()}
            assert found == {("k0",): 10, ("k1",): 11, (True,): expected}
            assert metrics(data)[name].data.data_points[-1].attributes == {
                "otel.metric.overflow": True
            }
    assert len(warnings.lines) == 2


def test_callbacks_are_skipped_if_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the interpreter's end the other instruments are still collected."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    warnings = Warnings()
    made = provider(warn=warnings.warn)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    made.get_meter("other").create_observable_gauge("foreign", [one])
    made.get_meter("genmeter").create_observable_gauge("own", [one])
    assert set(metrics(made.collect())) == {"own"}
    assert len(warnings.lines) == 1


def test_concurrent_collections_run_one_after_another() -> None:
    """A callback never runs twice at once, and every reader gets its instrument."""
    running, most = 0, 0

    def counted(_: CallbackOptions) -> list[Observation]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        threading.Event().wait(0.005)
        running -= 1
        return [Observation(1)]

    made = provider()
    made.get_meter("other").create_observable_gauge("seen", [counted])
    found: list[set[str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(set(metrics(made.collect(PATIENCE)))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"seen"}] * 8
    assert most == 1


@pytest.mark.parametrize("is_shut_down", [True, False])
def test_callback_thread_ends_with_its_provider(is_shut_down: bool) -> None:
    """This holds without a shutdown too."""
    before = set(threading.enumerate())
    made: BuiltinMeterProvider | None = provider()
    assert made is not None
    made.get_meter("other").create_observable_gauge("seen", [one])
    made.collect()
    (thread,) = {
        each for each in threading.enumerate() if each.name == "genmeter-callbacks"
    } - before
    if is_shut_down:
        made.shutdown()
        assert eventually(lambda: not thread.is_alive())
        assert metrics(made.collect()) == {}
        return
    made = None
    gc.collect()
    assert eventually(lambda: not thread.is_alive())


def test_hanging_callback_is_skipped_after_an_interrupted_collection(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler may raise while a collection waits."""

    def interrupt(*_: Any) -> None:
        assert eventually(lambda: hanging.calls)
        raise KeyboardInterrupt

    made = provider()
    meter = made.get_meter("other")
    meter.create_observable_gauge("hangs", [hanging])
    meter.create_observable_gauge("works", [one])
    with monkeypatch.context() as patch:
        patch.setattr(Future, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            made.collect(PATIENCE)
    assert set(metrics(made.collect(PATIENCE))) == {"works"}
    assert hanging.calls == 1


def test_length_of_an_observer_is_its_number_of_callbacks() -> None:
    """An observer without callbacks needs no thread."""
    assert not Observer("none", None, lambda *_: None)
    assert len(Observer("two", [one, one], lambda *_: None)) == 2
