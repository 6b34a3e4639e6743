"""The thread that pushes: failures, hangs and ends of every kind."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)

from genmeter.outputs import push as push_module
from genmeter.outputs.push import Push, _Latch

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

GUARD = 60


class Exporter(MetricExporter):
    """An exporter that does, for each export, what it is told, and success when nothing is left."""

    def __init__(self, *steps: Any) -> None:
        super().__init__()
        self.steps = list(steps)
        self.exports: list[Any] = []
        self.threads: set[int] = set()
        self.shutdowns: list[float] = []
        self.flushed = 0

    def export(self, metrics_data: Any, timeout_millis: float = 0, **kwargs: Any) -> Any:
        """Take the next step: an exception, a result, or a function that gives one."""
        self.threads.add(threading.get_ident())
        self.exports.append(metrics_data)
        step = self.steps.pop(0) if self.steps else MetricExportResult.SUCCESS
        if isinstance(step, Exception):
            raise step
        return step() if callable(step) else step

    def force_flush(self, timeout_millis: float = 0) -> bool:
        """Count the call."""
        self.flushed += 1
        return True

    def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
        """Keep the time that is given."""
        self.shutdowns.append(timeout_millis)


class Rig:
    """A push to an exporter, with a counter that it pushes and the failures that it tells."""

    def __init__(
        self, exporter: MetricExporter, interval: float = 3600, timeout: float = GUARD
    ) -> None:
        self.failures: list[str] = []
        self.push = Push(
            exporter,
            name="rig",
            interval=interval,
            timeout=timeout,
            cardinality_limit=100,
            on_failure=self.failures.append,
        )
        self.provider = MeterProvider(metric_readers=[self.push.reader], shutdown_on_exit=False)
        self.meter = self.provider.get_meter("genmeter")
        self.meter.create_counter("tokens").add(1)


def wait_until(predicate: Callable[[], Any]) -> None:
    """Poll until the predicate holds."""
    deadline = time.monotonic() + GUARD
    while not predicate():
        assert time.monotonic() < deadline, "the wait was in vain"
        time.sleep(0.005)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what genmeter warned about."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "genmeter" and record.levelno == logging.WARNING
    ]


def test_the_reader_brings_no_thread_and_no_fork_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK neither pushes on its own nor starts again in a forked child."""
    hooks: list[Any] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **kwargs: hooks.append(kwargs))
    before = set(threading.enumerate())

    push = Push(
        Exporter(), name="rig", interval=1, timeout=1, cardinality_limit=9, on_failure=print
    )

    assert isinstance(push.reader, PeriodicExportingMetricReader)
    assert set(threading.enumerate()) <= before
    assert hooks == []


def test_it_pushes_at_the_interval_from_one_daemon_thread() -> None:
    """A started push exports again and again, all from one thread that holds up no exit."""
    exporter = Exporter()
    rig = Rig(exporter, interval=0.005)
    rig.push.start()
    rig.push.start()
    (thread,) = [t for t in threading.enumerate() if t.name == "genmeter-push-rig"]
    wait_until(lambda: len(exporter.exports) >= 3)

    assert thread.daemon
    assert rig.push.finish(GUARD)
    assert exporter.threads == {thread.ident}
    thread.join(GUARD)
    assert not thread.is_alive()


def test_finish_pushes_what_came_last_and_shuts_the_exporter_down_once() -> None:
    """The end exports once more; finishing again, or shutting the provider down, adds nothing."""
    exporter = Exporter()
    rig = Rig(exporter)
    rig.push.start()

    assert rig.push.finish(GUARD)
    assert rig.push.finish(GUARD)
    rig.provider.shutdown()
    rig.push.start()

    assert len(exporter.exports) == 1
    assert len(exporter.shutdowns) == 1
    assert 0 < exporter.shutdowns[0] <= GUARD * 1000


def test_a_provider_that_is_shut_down_first_shuts_the_exporter_down() -> None:
    """The reader keeps the SDK's own promise to shut its exporter down, once."""
    exporter = Exporter()
    rig = Rig(exporter)

    rig.provider.shutdown()
    rig.push.finish(GUARD)

    assert len(exporter.shutdowns) == 1


def test_finish_pushes_where_nothing_was_started() -> None:
    """A push that never started still exports at its end, off the calling thread."""
    exporter = Exporter()

    assert Rig(exporter).push.finish(GUARD)

    assert len(exporter.exports) == 1
    assert len(exporter.shutdowns) == 1
    assert threading.get_ident() not in exporter.threads


def test_finish_pushes_inline_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the process can have no more threads, the calling thread exports."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("can't start new thread")

    exporter = Exporter()
    rig = Rig(exporter)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(push_module._thread, "start_new_thread", refuse)
    rig.push.start()

    assert rig.push.finish(GUARD)

    assert exporter.threads == {threading.get_ident()}
    assert len(exporter.shutdowns) == 1


def test_a_thread_that_comes_too_late_pushes_nothing() -> None:
    """Only one thread ever pushes, whoever starts while the end runs already."""
    exporter = Exporter()
    rig = Rig(exporter)
    rig.push.finish(GUARD)

    late = threading.Thread(target=rig.push._run)
    late.start()
    late.join(GUARD)

    assert not late.is_alive()
    assert len(exporter.exports) == 1


def test_an_exporter_that_raises_is_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Failures end no thread; each is counted, one is logged until a push succeeds again."""
    caplog.set_level(logging.INFO, logger="genmeter")
    failure = MetricExportResult.FAILURE
    success = MetricExportResult.SUCCESS
    exporter = Exporter(ValueError("no"), failure, failure, success, failure)
    rig = Rig(exporter, interval=0.005)
    rig.push.start()
    wait_until(lambda: len(exporter.exports) >= 6)

    assert rig.push.finish(GUARD)

    assert rig.failures == ["rig"] * 4
    first, second = warnings_of(caplog)
    assert "the exporter 'rig' cannot push metrics: the export raised ValueError('no')" in first
    assert "the export failed" in second
    assert sum("pushes metrics again" in record.getMessage() for record in caplog.records) == 2


def test_a_collection_that_fails_is_counted_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Collections that take too long fail their own push only, and are logged once."""
    exporter = Exporter()
    rig = Rig(exporter, interval=0.005, timeout=1e-9)
    rig.meter.create_observable_gauge("gauge", callbacks=[lambda _: [Observation(1)]])
    rig.push.start()
    wait_until(lambda: len(rig.failures) >= 3)

    assert not rig.push.finish(GUARD)

    assert exporter.exports == []
    assert len(exporter.shutdowns) == 1
    (warning,) = warnings_of(caplog)
    assert "the collection failed" in warning


def test_a_listener_that_raises_ends_nothing() -> None:
    """What is told of failures may itself fail."""
    exporter = Exporter(MetricExportResult.FAILURE, MetricExportResult.FAILURE)
    rig = Rig(exporter, interval=0.005)
    rig.push._on_failure = {}.__getitem__
    rig.push.start()
    wait_until(lambda: len(exporter.exports) >= 3)

    assert rig.push.finish(GUARD)


def test_a_logging_handler_that_raises_ends_nothing() -> None:
    """The job's own handler fails on our thread; pushes go on and are still counted."""

    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise OSError("no space left on device")

    broken = Broken()
    logging.getLogger("genmeter").addHandler(broken)
    try:
        exporter = Exporter(MetricExportResult.FAILURE, MetricExportResult.SUCCESS)
        rig = Rig(exporter, interval=0.005)
        rig.push.start()
        wait_until(lambda: len(exporter.exports) >= 3)
        assert rig.push.finish(GUARD)
        assert rig.failures == ["rig"]
    finally:
        logging.getLogger("genmeter").removeHandler(broken)


def test_an_exporter_whose_shutdown_raises_hurts_nobody() -> None:
    """An exporter that cannot be shut down has pushed all the same."""

    class Stubborn(Exporter):
        def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
            super().shutdown(timeout_millis)
            raise OSError("no")

    exporter = Stubborn()
    rig = Rig(exporter)
    rig.push.start()

    assert rig.push.finish(math.inf)
    assert len(exporter.shutdowns) == 1


def test_a_push_under_way_is_awaited_and_followed_by_the_last() -> None:
    """Finishing during an export starts no second one beside it, and pushes what came since."""
    go_on = threading.Event()
    exporter = Exporter(lambda: go_on.wait(GUARD) and MetricExportResult.SUCCESS)
    rig = Rig(exporter, interval=0.005)
    rig.push.start()
    wait_until(lambda: exporter.exports)
    results: list[bool] = []
    finishing = threading.Thread(target=lambda: results.append(rig.push.finish(GUARD)))
    finishing.start()
    wait_until(lambda: rig.push._finishing.is_set)
    rig.meter.create_counter("late").add(1)

    assert len(exporter.exports) == 1
    go_on.set()
    finishing.join(GUARD)

    assert results == [True]
    metrics = exporter.exports[1].resource_metrics[0].scope_metrics[0].metrics
    assert [metric.name for metric in metrics] == ["tokens", "late"]


def test_an_export_that_hangs_is_given_up_and_its_exporter_shut_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the limit the exporter is shut down from elsewhere, and nothing is pushed afterwards."""
    go_on = threading.Event()
    exporter = Exporter(lambda: go_on.wait(GUARD) and MetricExportResult.FAILURE)
    rig = Rig(exporter, interval=0.005)
    rig.push.start()
    wait_until(lambda: exporter.exports)

    assert not rig.push.finish(0.05)
    assert not rig.push.finish(GUARD)
    wait_until(lambda: exporter.shutdowns)
    go_on.set()

    assert rig.push._ended.wait(GUARD)
    assert exporter.shutdowns == [0]
    assert len(exporter.exports) == 1
    assert "did not end within 0.05 s" in warnings_of(caplog)[0]


def test_giving_up_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the interpreter's exit, where no thread can start, a hanging export is left to it."""

    def refuse(*args: Any) -> Any:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    go_on = threading.Event()
    exporter = Exporter(lambda: go_on.wait(GUARD) and MetricExportResult.FAILURE)
    rig = Rig(exporter, interval=0.005)
    rig.push.start()
    wait_until(lambda: exporter.exports)
    monkeypatch.setattr(push_module._thread, "start_new_thread", refuse)

    assert not rig.push.finish(0.05)

    go_on.set()
    assert rig.push._ended.wait(GUARD)


def test_a_shutdown_that_hangs_spoils_no_success(caplog: pytest.LogCaptureFixture) -> None:
    """Where the last export succeeded, an exporter that hangs in its shutdown is no loss."""
    go_on = threading.Event()

    class Slow(Exporter):
        def shutdown(self, timeout_millis: float = 0, **kwargs: Any) -> None:
            go_on.wait(GUARD)

    rig = Rig(Slow())
    rig.push.start()
    rig.push._finishing.set()
    wait_until(lambda: rig.push._is_sent)

    assert rig.push.finish(0.05)

    go_on.set()
    assert rig.push._ended.wait(GUARD)
    assert warnings_of(caplog) == []


def test_a_flush_of_the_provider_reaches_the_exporter() -> None:
    """Someone else's force_flush is passed on to the exporter."""
    exporter = Exporter()
    rig = Rig(exporter)

    rig.provider.force_flush()

    assert (len(exporter.exports), exporter.flushed) == (1, 1)


def test_finish_may_be_called_from_a_signal_handler_during_finish() -> None:
    """A handler that comes while its own thread waits in finish can finish too."""
    results: list[bool] = []
    entered = threading.Event()

    def handle(*_: Any) -> None:
        entered.set()
        results.append(rig.push.finish(GUARD))

    def interrupt() -> MetricExportResult:
        os.kill(os.getpid(), signal.SIGUSR1)
        entered.wait(GUARD)
        return MetricExportResult.SUCCESS

    rig = Rig(Exporter(interrupt))
    rig.push.start()
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        results.append(rig.push.finish(GUARD))
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert results == [True, True]


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
