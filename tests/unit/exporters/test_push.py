"""What pushes: failures, hangs, interruptions and ends of every kind."""

from __future__ import annotations

import logging
import math
import signal
import threading
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

from _waiting import eventually
from genmeter.exporters import _push as push_module
from genmeter.exporters._push import Push, _Latch
from genmeter.exporters.provider import CollectingReader

GUARD = 60
FAILURE = MetricExportResult.FAILURE
SUCCESS = MetricExportResult.SUCCESS


class Exporter(MetricExporter):
    """An exporter that does a step for each export, and succeeds when none is left."""

    def __init__(self, *steps: Any) -> None:
        super().__init__()
        self.steps = list(steps)
        self.exports: list[Any] = []
        self.timeouts: list[float] = []
        self.threads: set[int] = set()
        self.shutdowns: list[float] = []
        self.is_shut = threading.Event()

    def export(self, metrics_data: Any, timeout_millis: float = 0, **kwargs: Any) -> Any:
        """Take the next step: an exception, a result, or a function that returns one."""
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
        """Keep the time that is given."""
        self.shutdowns.append(timeout_millis)
        self.is_shut.set()

    def back_off(self) -> MetricExportResult:
        """Wait for the next try, as the OTLP exporters do, until the exporter is shut down."""
        self.is_shut.wait(GUARD)
        return FAILURE


class Data(int):
    """What is exported: a number, which stands for metrics without any."""

    resource_metrics = ()


class Rig:
    """A push of whole numbers, in order, to exporters that are used one after the other."""

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
    """Return what genmeter warned about."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "genmeter" and record.levelno == logging.WARNING
    ]


def refuse(*args: Any, **kwargs: Any) -> Any:
    """Start no thread."""
    raise RuntimeError("can't start new thread")


# --- at the interval ---------------------------------------------------------------------------


def test_no_thread_starts_before_the_push_does() -> None:
    """A push that is made, and its exporter, wait for the start."""
    before = set(threading.enumerate())
    rig = Rig(Exporter())

    assert set(threading.enumerate()) <= before
    assert rig.made == []


def test_it_pushes_at_the_interval_off_the_callers_thread() -> None:
    """A started push exports again and again, and a second start adds nothing."""
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


def test_an_export_gets_the_time_that_is_left() -> None:
    """The exporter is told of the push's own limit, in milliseconds."""
    exporter = Exporter()
    assert Rig(exporter, timeout=2).push.finish(GUARD)
    assert 0 < exporter.timeouts[0] <= 2000


def test_nothing_to_export_is_no_failure() -> None:
    """Where a collection gives nothing, nothing is exported and all is well."""
    exporter = Exporter()
    rig = Rig(exporter)
    rig.push._collect = lambda _: None

    assert rig.push.finish(GUARD)
    assert exporter.exports == []
    assert rig.failures == []


def test_an_export_makes_no_spans() -> None:
    """Instrumented HTTP clients are asked to leave the export alone, and only that."""
    seen: list[Any] = []

    def look() -> MetricExportResult:
        seen.append(otel_context.get_value("suppress_instrumentation"))
        return SUCCESS

    assert Rig(Exporter(look)).push.finish(GUARD)
    assert seen == [True]
    assert otel_context.get_value("suppress_instrumentation") is None


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_an_exporter_raises_costs_one_push(
    caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """Failures end no thread; each is counted, one is logged until a push succeeds again."""
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


def test_a_collection_that_fails_costs_one_push(caplog: pytest.LogCaptureFixture) -> None:
    """A collection that raises is counted, and the exporter is not called."""
    exporter = Exporter()
    rig = Rig(exporter)

    def fail(timeout: float) -> MetricsData | None:
        raise TimeoutError("late")

    rig.push._collect = fail

    assert not rig.push.finish(GUARD)
    assert exporter.exports == []
    assert rig.failures == ["rig"]
    assert "the collection failed: TimeoutError('late')" in warnings_of(caplog)[0]


def test_an_exporter_that_cannot_be_made_costs_one_push() -> None:
    """A factory that raises is tried again by the next push."""
    rig = Rig(interval=0.005)
    rig.push.start()
    assert eventually(lambda: rig.failures)
    exporter = Exporter()
    rig.waiting.append(exporter)

    assert eventually(lambda: exporter.exports)
    assert rig.push.finish(GUARD)


def test_an_export_that_hangs_costs_one_push() -> None:
    """At the limit a push is given up: a new exporter goes on, the old one is shut down aside."""
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


def test_exports_that_all_hang_keep_few_threads(caplog: pytest.LogCaptureFixture) -> None:
    """Exporters that hang for ever, in their shutdown too, cost a bounded number of threads."""
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


def test_a_listener_that_raises_ends_nothing() -> None:
    """The function that is called for failures may itself fail."""
    exporter = Exporter(FAILURE, FAILURE)
    rig = Rig(exporter, interval=0.005)
    rig.push._on_failure = {}.__getitem__
    rig.push.start()
    assert eventually(lambda: len(exporter.exports) >= 3)

    assert rig.push.finish(GUARD)


def test_a_logging_handler_that_raises_ends_nothing() -> None:
    """The job's own handler fails on our thread; pushes go on and are still counted."""

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
    """An exporter's error is logged without header values and without the user part of a URL."""
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


def test_finish_pushes_what_came_last_and_shuts_the_exporter_down_once() -> None:
    """The end exports once more; finishing again, or starting, adds nothing."""
    exporter = Exporter()
    rig = Rig(exporter)
    rig.push.start()

    assert rig.push.finish(GUARD)
    assert rig.push.finish(GUARD)
    rig.push.start()

    assert exporter.exports == [1]
    assert len(exporter.shutdowns) == 1
    assert 0 < exporter.shutdowns[0] <= GUARD * 1000


def test_finish_pushes_where_nothing_was_started() -> None:
    """A push that never started still exports at its end, off the calling thread."""
    exporter = Exporter()

    assert Rig(exporter).push.finish(GUARD)

    assert len(exporter.exports) == 1
    assert len(exporter.shutdowns) == 1
    assert threading.get_ident() not in exporter.threads


def test_finish_pushes_inline_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process can have no more threads, the calling thread exports."""
    exporter = Exporter()
    rig = Rig(exporter)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(push_module._thread, "start_new_thread", refuse)
    rig.push.start()

    assert rig.push.finish(GUARD)

    assert exporter.threads == {threading.get_ident()}
    assert len(exporter.shutdowns) == 1


def test_finish_uses_the_thread_that_runs_where_no_other_can_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the exit of a Python that starts no threads there, the push's own thread exports."""
    exporter = Exporter()
    rig = Rig(exporter)
    rig.push.start()
    (thread,) = [t for t in threading.enumerate() if t.name == "genmeter-push-rig"]
    monkeypatch.setattr(push_module._thread, "start_new_thread", refuse)

    assert rig.push.finish(GUARD)

    assert exporter.threads == {thread.ident}


def test_pushes_go_on_inline_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process at its limit of threads still pushes, from the thread that it has."""
    exporter = Exporter()
    rig = Rig(exporter, interval=0.005)
    rig.push.start()
    monkeypatch.setattr(push_module._thread, "start_new_thread", refuse)

    assert eventually(lambda: len(exporter.exports) >= 2)
    assert rig.push.finish(GUARD)


def test_only_one_thread_makes_the_last_push() -> None:
    """Threads that finish at the same time wait for one and the same push."""
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


def test_a_push_under_way_is_awaited_and_followed_by_the_last() -> None:
    """Finishing during an export starts no second one beside it, and pushes what came since."""
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


def test_a_push_that_waits_for_its_next_try_is_interrupted() -> None:
    """The end does not wait for an exporter's back-off: it pushes at once with a new exporter."""
    waiting, fresh = Exporter(), Exporter()
    waiting.steps.append(waiting.back_off)
    rig = Rig(waiting, fresh, interval=0.005)
    rig.push.start()
    assert eventually(lambda: waiting.exports)

    assert rig.push.finish(2)

    assert fresh.exports == [2]
    assert eventually(lambda: waiting.shutdowns)
    assert rig.failures == ["rig"]


def test_deltas_that_were_interrupted_are_sent_again() -> None:
    """The last push sends the deltas of the one that it interrupts, then those that came since."""
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


def test_a_last_push_that_hangs_is_given_up_and_its_exporter_shut_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the limit the exporter is shut down from elsewhere, and finishing again adds nothing."""
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


def test_giving_up_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the interpreter's exit, where no thread can start, a hanging export is left to it."""
    go_on = threading.Event()
    exporter = Exporter(lambda: go_on.wait(GUARD) and FAILURE)
    rig = Rig(exporter, interval=0.005)
    rig.push.start()
    assert eventually(lambda: exporter.exports)
    monkeypatch.setattr(push_module._thread, "start_new_thread", refuse)
    rig.waiting.append(Exporter(lambda: go_on.wait(GUARD) and FAILURE))

    assert not rig.push.finish(0.05)
    go_on.set()


def test_a_short_finish_does_not_cut_a_longer_one_off() -> None:
    """The last push goes on as long as anybody waits for it."""
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


def test_a_shutdown_that_hangs_spoils_no_success(caplog: pytest.LogCaptureFixture) -> None:
    """Where the last export succeeded, an exporter that hangs in its shutdown is no loss."""
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
def test_an_exporter_whose_shutdown_raises_hurts_nobody(error: BaseException) -> None:
    """An exporter that cannot be shut down has pushed all the same."""

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
    """Set a handler of SIGUSR1 for the time of a test."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGUSR1, before)


def interrupt_main_thread() -> None:
    """Send the signal to the thread that waits, wherever the system would deliver it."""
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGUSR1)


def interrupt_main_thread_until(is_handled: threading.Event) -> MetricExportResult:
    """Send signals: one that comes just before the wait begins is handled after it only."""
    while not is_handled.wait(0.01):
        interrupt_main_thread()
    return SUCCESS


def test_finish_may_be_called_from_a_signal_handler_during_finish(on_signal: Any) -> None:
    """A handler that comes while its own thread waits in finish can finish too."""
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
    """End the process, as handlers of SIGTERM do."""
    raise SystemExit(0)


def test_a_signal_handler_that_leaves_finish_loses_nothing(on_signal: Any) -> None:
    """The last push goes on after SystemExit in finish, and a later finish waits for it."""
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


def test_a_signal_handler_that_leaves_an_inline_push_has_it_made_again(
    monkeypatch: pytest.MonkeyPatch, on_signal: Any
) -> None:
    """Where the calling thread had to push and is interrupted, a later finish pushes anew."""

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


def test_finish_in_a_handler_that_interrupts_an_inline_push_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch, on_signal: Any
) -> None:
    """The push cannot go on before the handler returns, so finish returns there at once."""
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
    """The child leaves the parent's exporter alone, and pushes what it collects itself."""
    inherited, fresh = Exporter(), Exporter()
    rig = Rig(inherited, fresh, interval=0.005)
    rig.push.start()
    assert eventually(lambda: inherited.exports)

    rig.push.after_fork_in_child()

    assert rig.push.finish(GUARD)
    assert inherited.shutdowns == []
    assert len(fresh.exports) == 1
    assert any(inherited is each for each in push_module._inherited)


def test_what_a_push_under_way_had_collected_is_not_sent_after_a_fork() -> None:
    """Where threads are greenlets and live on in the child, they do not send the parent's data."""
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


def test_a_latch_lets_all_who_wait_go() -> None:
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
