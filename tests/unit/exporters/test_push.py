"""Pushes: failures, hangs, interruptions and shutdown."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    MetricsData,
)

from _waiting import eventually, soon
from genmeter.exporters import _push as push_module
from genmeter.exporters._push import Push, _Latch
from genmeter.exporters.provider import CollectingReader

GUARD = 60
FAILURE = MetricExportResult.FAILURE
SUCCESS = MetricExportResult.SUCCESS


class Exporter(MetricExporter):
    """An exporter that does a step for each export, and succeeds after the last one."""

    def __init__(self, *steps: Any) -> None:
        super().__init__()
        self.steps = list(steps)
        self.exports: list[Any] = []
        self.timeouts: list[float] = []
        self.threads: set[int] = set()
        self.shutdowns: list[float] = []
        self.is_shut = threading.Event()

    def export(self, metrics_data: Any, timeout_millis: float = 0, **kwargs: Any) -> Any:
        """Do the next step: raise an exception, or return a result or a function's."""
        self.threads.add(threading.get_ident())
        self.exports.append(metrics_data)
        self.timeouts.append(timeout_millis)
        step = self.steps.pop(0) if self.steps else SUCCESS
        if isinstance(step, BaseException):
            raise step
        return step() if callable(step) else step

    def force_flush(self, timeout_millis: float = 0) -> bool:
        """Do nothing."""
        return True

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
        """Store the time-out."""
        self.shutdowns.append(timeout_millis)
        self.is_shut.set()

    def back_off(self) -> MetricExportResult:
        """Wait for a retry until the shutdown, as the OTLP exporters do."""
        self.is_shut.wait(GUARD)
        return FAILURE


class Data(int):
    """The exported data: a number that looks like metrics without points."""

    resource_metrics = ()


class Rig:
    """A push of consecutive numbers to exporters that are used in turn."""

    def __init__(
        self, *exporters: MetricExporter, interval: float = 3600, timeout: float = GUARD
    ) -> None:
        self.failures: list[str] = []
        self.collected = 0
        self.made: list[MetricExporter] = []
        self.waiting = list(exporters)
        self.push = Push(
            self.make,
            self.collect,
            name="rig",
            interval=interval,
            timeout=timeout,
            on_failure=self.failures.append,
        )

    def make(self) -> MetricExporter:
        """Return the next exporter."""
        self.made.append(self.waiting.pop(0))
        return self.made[-1]

    def collect(self, timeout: float) -> Any:
        """Return the next number."""
        self.collected += 1
        return Data(self.collected)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return genmeter's warnings."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "genmeter" and record.levelno == logging.WARNING
    ]


def refuse(*args: Any, **kwargs: Any) -> Any:
    """Fail to start a thread."""
    raise RuntimeError("can't start new thread")


# --- at the interval ---------------------------------------------------------------------------


def test_a_push_starts_no_thread_before_start() -> None:
    """The exporter is not created either."""
    before = set(threading.enumerate())
    rig = Rig(Exporter())

    assert set(threading.enumerate()) <= before
    assert rig.made == []


def test_a_started_push_exports_on_its_own_thread() -> None:
    """It exports at the interval, and a second start does nothing."""
    exporter = Exporter()
    rig = Rig(exporter, interval=0.005)
    rig.push.start()
    rig.push.start()
    (thread,) = [t for t in threading.enumerate() if t.name == "genmeter-push-rig"]
    assert eventually(lambda: len(exporter.exports) >= 3)

    assert thread.daemon
    assert rig.push.finish(GUARD)
    assert threading.get_ident() not in exporter.threads
    assert exporter.exports == sorted(set(exporter.exports))
    thread.join(GUARD)
    assert not thread.is_alive()


def test_an_export_gets_the_remaining_time() -> None:
    """The exporter gets the push's time-out in milliseconds."""
    exporter = Exporter()
    assert Rig(exporter, timeout=2).push.finish(GUARD)
    assert 0 < exporter.timeouts[0] <= 2000


def test_an_empty_collection_is_not_a_failure() -> None:
    """Nothing is exported or counted."""
    exporter = Exporter()
    rig = Rig(exporter)
    rig.push._collect = lambda _: None

    assert rig.push.finish(GUARD)
    assert exporter.exports == []
    assert rig.failures == []


def test_an_export_creates_no_spans() -> None:
    """Instrumented HTTP clients are suppressed during the export only."""
    seen: list[Any] = []

    def look() -> MetricExportResult:
        seen.append(otel_context.get_value("suppress_instrumentation"))
        return SUCCESS

    assert Rig(Exporter(look)).push.finish(GUARD)
    assert seen == [True]
    assert otel_context.get_value("suppress_instrumentation") is None


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_a_raising_exporter_loses_one_push(
    caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """Each failure is counted, and the first is logged until a push succeeds."""
    caplog.set_level(logging.INFO, logger="genmeter")
    exporter = Exporter(error, FAILURE, FAILURE, SUCCESS, FAILURE)
    rig = Rig(exporter, interval=0.005)
    rig.push.start()
    assert eventually(lambda: len(exporter.exports) >= 6)

    assert rig.push.finish(GUARD)

    assert rig.failures == ["rig"] * 4
    first, second = warnings_of(caplog)
    assert f"the exporter 'rig' cannot push metrics: it raised {error!r}" in first
    assert "the export failed" in second
    assert sum("pushes metrics again" in record.getMessage() for record in caplog.records) == 2


def test_a_failed_collection_loses_one_push(caplog: pytest.LogCaptureFixture) -> None:
    """It is counted, and the exporter is not called."""
    exporter = Exporter()
    rig = Rig(exporter)

    def fail(timeout: float) -> MetricsData | None:
        raise TimeoutError("late")

    rig.push._collect = fail

    assert not rig.push.finish(GUARD)
    assert exporter.exports == []
    assert rig.failures == ["rig"]
    assert "the collection failed: TimeoutError('late')" in warnings_of(caplog)[0]


def test_a_failing_factory_loses_one_push() -> None:
    """The next push calls it again."""
    rig = Rig(interval=0.005)
    rig.push.start()
    assert eventually(lambda: rig.failures)
    exporter = Exporter()
    rig.waiting.append(exporter)

    assert eventually(lambda: exporter.exports)
    assert rig.push.finish(GUARD)


def test_a_hanging_export_loses_one_push() -> None:
    """The next push uses a new exporter; the old one is shut down on another thread."""
    go_on = threading.Event()
    hanging, fresh = Exporter(lambda: go_on.wait(GUARD) and SUCCESS), Exporter()
    rig = Rig(hanging, fresh, interval=0.005, timeout=0.05)
    rig.push.start()
    assert eventually(lambda: len(fresh.exports) >= 2)

    assert rig.push.finish(GUARD)

    assert rig.failures == ["rig"]
    assert hanging.exports == [1]
    assert eventually(lambda: hanging.shutdowns)
    assert len(fresh.shutdowns) == 1
    go_on.set()


def test_hanging_exports_keep_a_bounded_number_of_threads(caplog: pytest.LogCaptureFixture) -> None:
    """The exporters' shutdown may hang too."""
    go_on = threading.Event()

    class Stuck(Exporter):
        def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
            go_on.wait(GUARD)

    exporters = [Stuck(lambda: go_on.wait(GUARD) and FAILURE) for _ in range(50)]
    rig = Rig(*exporters, interval=0.001, timeout=0.005)
    rig.push.start()
    assert eventually(lambda: len(rig.failures) >= 20)

    made = len(rig.made)
    assert made <= push_module._MAX_DETACHED
    assert len(warnings_of(caplog)) == 1
    go_on.set()  # they end, and pushes go on
    assert eventually(lambda: any(exporter.exports for exporter in exporters[made:]))
    rig.push.finish(GUARD)


def test_a_raising_failure_callback_does_not_stop_pushes() -> None:
    """The next pushes go on."""
    exporter = Exporter(FAILURE, FAILURE)
    rig = Rig(exporter, interval=0.005)
    rig.push._on_failure = {}.__getitem__
    rig.push.start()
    assert eventually(lambda: len(exporter.exports) >= 3)

    assert rig.push.finish(GUARD)


def test_a_raising_logging_handler_does_not_stop_pushes() -> None:
    """Failures are still counted."""

    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise OSError("no space left on device")

    broken = Broken()
    logging.getLogger("genmeter").addHandler(broken)
    try:
        exporter = Exporter(FAILURE, SUCCESS)
        rig = Rig(exporter, interval=0.005)
        rig.push.start()
        assert eventually(lambda: len(exporter.exports) >= 3)
        assert rig.push.finish(GUARD)
        assert rig.failures == ["rig"]
    finally:
        logging.getLogger("genmeter").removeHandler(broken)


def test_no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An error is logged without header values and without the user part of a URL."""
    error = ValueError("no route to https://me:hidden@host/v1 with Bearer s3cr3t")
    push = Push(
        lambda: Exporter(error),
        lambda _: MetricsData([]),
        name="rig",
        interval=1,
        timeout=1,
        on_failure=str,
        secrets=("Bearer s3cr3t",),
    )

    assert not push.finish(GUARD)
    (warning,) = warnings_of(caplog)
    assert "https://***@host/v1 with ***" in warning


# --- the end -----------------------------------------------------------------------------------


def test_finish_pushes_and_shuts_the_exporter_down_once() -> None:
    """A further finish or start does nothing."""
    exporter = Exporter()
    rig = Rig(exporter)
    rig.push.start()

    assert rig.push.finish(GUARD)
    assert rig.push.finish(GUARD)
    rig.push.start()

    assert exporter.exports == [1]
    assert len(exporter.shutdowns) == 1
    assert 0 < exporter.shutdowns[0] <= GUARD * 1000


def test_finish_pushes_without_a_start() -> None:
    """It exports off the calling thread."""
    exporter = Exporter()

    assert Rig(exporter).push.finish(GUARD)

    assert len(exporter.exports) == 1
    assert len(exporter.shutdowns) == 1
    assert threading.get_ident() not in exporter.threads


def test_finish_pushes_inline_without_new_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calling thread exports if no thread can start."""
    exporter = Exporter()
    rig = Rig(exporter)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(push_module._thread, "start_new_thread", refuse)
    rig.push.start()

    assert rig.push.finish(GUARD)

    assert exporter.threads == {threading.get_ident()}
    assert len(exporter.shutdowns) == 1


def test_finish_uses_the_running_thread_without_new_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The push's thread exports at an exit where Python starts no threads."""
    exporter = Exporter()
    rig = Rig(exporter)
    rig.push.start()
    (thread,) = [t for t in threading.enumerate() if t.name == "genmeter-push-rig"]
    monkeypatch.setattr(push_module._thread, "start_new_thread", refuse)

    assert rig.push.finish(GUARD)

    assert exporter.threads == {thread.ident}


def test_pushes_run_inline_without_new_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process at its limit of threads still pushes."""
    exporter = Exporter()
    rig = Rig(exporter, interval=0.005)
    rig.push.start()
    monkeypatch.setattr(push_module._thread, "start_new_thread", refuse)

    assert eventually(lambda: len(exporter.exports) >= 2)
    assert rig.push.finish(GUARD)


def test_concurrent_finishes_share_the_last_push() -> None:
    """Several threads wait for the same push."""
    go_on = threading.Event()
    exporter = Exporter(lambda: go_on.wait(GUARD) and SUCCESS)
    rig = Rig(exporter)
    rig.push.start()
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.append(rig.push.finish(GUARD))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert eventually(lambda: exporter.exports)
    go_on.set()
    for thread in threads:
        thread.join(GUARD)

    assert results == [True] * 4
    assert exporter.exports == [1]


def test_finish_waits_for_the_push_under_way() -> None:
    """The last push follows it, with later data."""
    go_on = threading.Event()
    exporter = Exporter(lambda: go_on.wait(GUARD) and SUCCESS)
    rig = Rig(exporter, interval=0.005)
    rig.push.start()
    assert eventually(lambda: exporter.exports)
    results: list[bool] = []
    finishing = threading.Thread(target=lambda: results.append(rig.push.finish(GUARD)))
    finishing.start()
    assert eventually(lambda: rig.push._is_finishing)

    assert len(exporter.exports) == 1
    go_on.set()
    finishing.join(GUARD)

    assert results == [True]
    assert exporter.exports == [1, 2]
    assert rig.failures == []


def test_finish_interrupts_a_push_that_waits_for_a_retry() -> None:
    """It pushes at once with a new exporter."""
    waiting, fresh = Exporter(), Exporter()
    waiting.steps.append(waiting.back_off)
    rig = Rig(waiting, fresh, interval=0.005)
    rig.push.start()
    assert eventually(lambda: waiting.exports)

    assert rig.push.finish(2)

    assert fresh.exports == [2]
    assert eventually(lambda: waiting.shutdowns)
    assert rig.failures == ["rig"]


def test_interrupted_deltas_are_sent_again() -> None:
    """The last push sends them before the later ones."""
    reader = CollectingReader(preferred_temporality={Counter: AggregationTemporality.DELTA})
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    counter = provider.get_meter("genmeter").create_counter("tokens")
    counter.add(3)
    waiting, fresh = Exporter(), Exporter()
    waiting.steps.append(waiting.back_off)
    rig = Rig(waiting, fresh, interval=0.005)
    rig.push._collect = reader.collect_data
    rig.push.start()
    assert eventually(lambda: waiting.exports)
    counter.add(4)

    assert rig.push.finish(2)

    sums = [
        point.value
        for data in fresh.exports
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
    ]
    assert sums == [3, 4]


def test_a_hanging_last_push_is_abandoned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the limit its exporter is shut down on another thread; a further finish does nothing."""
    go_on = threading.Event()
    exporter = Exporter(lambda: go_on.wait(GUARD) and FAILURE)
    rig = Rig(exporter)
    rig.push.start()

    assert not rig.push.finish(0.05)
    assert not rig.push.finish(GUARD)
    assert eventually(lambda: exporter.shutdowns)
    go_on.set()

    assert exporter.shutdowns == [0]
    assert len(exporter.exports) == 1
    assert "did not end within 0.05 s" in warnings_of(caplog)[0]


def test_finish_gives_up_without_new_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hanging export is abandoned at the interpreter's exit."""
    go_on = threading.Event()
    exporter = Exporter(lambda: go_on.wait(GUARD) and FAILURE)
    rig = Rig(exporter, interval=0.005)
    rig.push.start()
    assert eventually(lambda: exporter.exports)
    monkeypatch.setattr(push_module._thread, "start_new_thread", refuse)
    rig.waiting.append(Exporter(lambda: go_on.wait(GUARD) and FAILURE))

    assert not rig.push.finish(0.05)
    go_on.set()


def test_a_short_finish_does_not_shorten_a_longer_one() -> None:
    """The last push has the time of the longest call."""
    go_on = threading.Event()
    exporter = Exporter(lambda: go_on.wait(GUARD) and SUCCESS)
    rig = Rig(exporter)
    results: list[bool] = []
    longer = threading.Thread(target=lambda: results.append(rig.push.finish(GUARD)))
    longer.start()
    assert eventually(lambda: exporter.exports)

    assert not rig.push.finish(0.01)
    go_on.set()
    longer.join(GUARD)

    assert results == [True]


def test_a_hanging_shutdown_does_not_change_the_result(caplog: pytest.LogCaptureFixture) -> None:
    """The last export succeeded, so no loss is logged."""
    go_on = threading.Event()

    class Slow(Exporter):
        def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
            go_on.wait(GUARD)

    rig = Rig(Slow())
    rig.push._worker.close()
    rig.push._deadline = math.inf
    rig.push._run_last()
    assert eventually(lambda: rig.push._is_sent)
    rig.push._deadline = 0.0

    assert rig.push.finish(0.05)

    go_on.set()
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("error", [OSError("no"), SystemExit(1)])
def test_an_exporter_shutdown_may_raise(error: BaseException) -> None:
    """The export before it counts."""

    class Stubborn(Exporter):
        def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
            super().shutdown(timeout_millis)
            raise error

    exporter = Stubborn()
    rig = Rig(exporter)
    rig.push.start()

    assert rig.push.finish(math.inf)
    assert len(exporter.shutdowns) == 1


# --- signals -----------------------------------------------------------------------------------


@pytest.fixture
def on_signal() -> Any:
    """Return a function that sets a handler of SIGUSR1 for one test."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGUSR1, before)


def interrupt_main_thread() -> None:
    """Send the signal to the main thread."""
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGUSR1)


def interrupt_main_thread_until(is_handled: threading.Event) -> MetricExportResult:
    """Send signals, since one just before the wait is handled only after it."""
    while not is_handled.wait(0.01):
        interrupt_main_thread()
    return SUCCESS


def test_finish_may_be_called_from_a_signal_handler_during_finish(on_signal: Any) -> None:
    """The handler may interrupt a finish on its own thread."""
    results: list[bool] = []
    entered = threading.Event()

    def handle(*_: Any) -> None:
        if not entered.is_set():
            entered.set()
            results.append(rig.push.finish(GUARD))

    rig = Rig(Exporter(lambda: interrupt_main_thread_until(entered)))
    rig.push.start()
    on_signal(handle)
    results.append(rig.push.finish(GUARD))

    assert results == [True, True]


def leave(*_: Any) -> None:
    """Exit like a handler of SIGTERM."""
    raise SystemExit(0)


def test_an_exit_from_finish_loses_nothing(on_signal: Any) -> None:
    """The last push goes on after SystemExit, and a later finish waits for it."""
    left, go_on = threading.Event(), threading.Event()

    def leave_once(*_: Any) -> None:
        if not left.is_set():
            left.set()
            leave()

    def interrupt() -> MetricExportResult:
        interrupt_main_thread_until(left)
        go_on.wait(GUARD)
        return SUCCESS

    exporter = Exporter(interrupt)
    rig = Rig(exporter)
    rig.push.start()
    on_signal(leave_once)
    with pytest.raises(SystemExit):
        rig.push.finish(GUARD)
    go_on.set()

    assert rig.push.finish(GUARD)
    assert exporter.exports == [1]


def test_an_interrupted_inline_push_is_repeated(
    monkeypatch: pytest.MonkeyPatch, on_signal: Any
) -> None:
    """A later finish pushes again if the calling thread was interrupted."""

    def interrupt() -> MetricExportResult:
        interrupt_main_thread()
        return SUCCESS

    exporter = Exporter(interrupt)
    rig = Rig(exporter)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(push_module._thread, "start_new_thread", refuse)
    on_signal(leave)
    with pytest.raises(SystemExit):
        rig.push.finish(GUARD)

    assert rig.push.finish(GUARD)
    assert exporter.exports == [1, 2]


def test_finish_in_a_handler_does_not_wait_for_the_push_below_it(
    monkeypatch: pytest.MonkeyPatch, on_signal: Any
) -> None:
    """The push cannot go on before the handler returns."""
    results: list[bool] = []

    def interrupt() -> MetricExportResult:
        interrupt_main_thread()
        return SUCCESS

    exporter = Exporter(interrupt)
    rig = Rig(exporter)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(push_module._thread, "start_new_thread", refuse)
    on_signal(lambda *_: results.append(rig.push.finish(math.inf)))

    assert rig.push.finish(GUARD)
    assert results == [False]
    assert exporter.exports == [1]


# --- forks -------------------------------------------------------------------------------------


def test_a_forked_child_pushes_with_a_new_exporter() -> None:
    """The child does not touch the parent's exporter and pushes its own data."""
    inherited, fresh = Exporter(), Exporter()
    rig = Rig(inherited, fresh, interval=0.005)
    rig.push.start()
    assert eventually(lambda: inherited.exports)

    rig.push.after_fork_in_child()

    assert rig.push.finish(GUARD)
    assert inherited.shutdowns == []
    assert len(fresh.exports) == 1
    assert any(inherited is each for each in push_module._inherited)


def test_collected_data_is_not_sent_after_a_fork() -> None:
    """Greenlets that go on in the child do not send the parent's data."""
    go_on, collecting = threading.Event(), threading.Event()
    exporter = Exporter()
    rig = Rig(exporter, Exporter(), interval=0.005)

    def collect(timeout: float) -> Any:
        collecting.set()
        go_on.wait(GUARD)
        return "the parent's"

    rig.push._collect = collect
    rig.push.start()
    collecting.wait(GUARD)
    attempt = rig.push._current
    assert attempt is not None
    rig.push.after_fork_in_child()
    go_on.set()

    assert attempt.ended.wait(GUARD)
    assert exporter.exports == []


def test_a_latch_releases_all_waiters() -> None:
    """One set ends every wait, before and after it."""
    latch = _Latch()
    held: list[bool] = []
    waiting = [threading.Thread(target=lambda: held.append(latch.wait(GUARD))) for _ in range(3)]
    for thread in waiting:
        thread.start()

    assert not latch.wait(-1)
    latch.set()
    for thread in waiting:
        thread.join(GUARD)

    assert held == [True] * 3
    assert latch.wait(0)


# --- pushes on request -----------------------------------------------------------------------------


def test_a_requested_push_is_waited_for() -> None:
    """It collects after the request, whatever the interval, and says whether it arrived."""
    exporter = Exporter(SUCCESS, FAILURE, SUCCESS)
    rig = Rig(exporter)
    found = [rig.push.push(soon()) for _ in range(3)]
    assert found == [True, False, True]
    assert exporter.exports == [1, 2, 3]
    rig.push.finish(GUARD)


def test_a_requested_push_follows_the_one_under_way() -> None:
    """What the push under way has collected may lack the newest events."""
    begun, go = threading.Event(), threading.Event()

    def slow() -> MetricExportResult:
        begun.set()
        go.wait(GUARD)
        return SUCCESS

    exporter = Exporter(slow)
    rig = Rig(exporter)
    rig.push.push_soon()
    assert begun.wait(GUARD)
    waiting = threading.Thread(target=rig.push.push, args=(soon(),))
    waiting.start()
    go.set()
    waiting.join(GUARD)
    assert not waiting.is_alive()
    assert exporter.exports == [1, 2]
    rig.push.finish(GUARD)


def test_a_requested_push_ends_at_its_deadline() -> None:
    """An exporter that hangs costs the caller no more, and a finished push does nothing."""
    go = threading.Event()
    rig = Rig(Exporter(lambda: go.wait(GUARD)), Exporter())
    assert not rig.push.push(time.monotonic() + 0.05)
    go.set()
    rig.push.finish(GUARD)
    rig.push.push_soon()
    assert not rig.push.push(soon())
