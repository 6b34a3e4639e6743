"""One meter provider as the monitors of a process use it: its instruments and what they observe."""

from __future__ import annotations

import logging
from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry.metrics import Observation

from genmeter import catalogue as cat
from genmeter._version import __version__
from genmeter.events import Call
from genmeter.outputs.provider import job_of
from genmeter.recorders.cells import NO_SPAN
from genmeter.recorders.instruments import InstrumentRecorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, MeterProvider

    from genmeter.config import MonitorConfig
    from genmeter.outputs.provider import OwnProvider
    from genmeter.pipeline import Pipeline
    from genmeter.sink import Sink

__all__ = ["SCOPE", "Telemetry"]

SCOPE = "genmeter"
"""The instrumentation scope of our instruments."""
_logger = logging.getLogger("genmeter")


class Telemetry:
    """The instruments on one meter provider, and the monitors that feed them.

    Args:
        config: The settings of the monitor that came first.
        pipeline: Where the events come from; collections drain it first.
        provider: The meter provider.
        own: Our own provider, where ``provider`` is its.
    """

    def __init__(
        self,
        config: MonitorConfig,
        pipeline: Pipeline,
        provider: MeterProvider,
        own: OwnProvider | None = None,
    ) -> None:
        self.config = config
        self.own = own
        self.job = job_of(provider)
        self.sinks: list[Sink] = []
        self.is_closed = False
        # Of monitors that are gone: what their jobs were to make, and whether they told anything.
        self._retired_expected: list[int] = []
        self._shared_expected: int | None = None
        self._was_told = False
        self._pipeline = pipeline
        if type(provider).__module__.startswith("opentelemetry.metrics"):
            pipeline.notices.add(
                logging.WARNING,
                "the MeterProvider is the OpenTelemetry API's own stand-in, which exports nothing; "
                "call opentelemetry.metrics.set_meter_provider() before the first monitor, or leave "
                "MonitorConfig.meter_provider at 'own'",
            )
        self.recorder = InstrumentRecorder(
            provider.get_meter(SCOPE, __version__),
            config,
            observe=self._observers(),
            on_reject=pipeline.reject,
        )

    @property
    def open_sinks(self) -> list[Sink]:
        """The sinks of monitors that are not shut down."""
        return [sink for sink in self.sinks if not sink.is_closed]

    def add(self, sink: Sink) -> None:
        """Take a monitor in: its events feed the instruments from here on."""
        sink.instruments = self.recorder
        sink.job = self.job
        self.sinks.append(sink)
        self._pipeline.register(self.recorder)

    def retire(self, sink: Sink) -> None:
        """Let go of a closed monitor's sink, but for what it stands for in the job's progress."""
        if sink in self.sinks:
            self.sinks.remove(sink)
            if sink.expected_samples is not None:
                if sink.shares_expected:
                    self._shared_expected = sink.expected_samples
                else:
                    self._retired_expected = [sum(self._retired_expected, sink.expected_samples)]
            self._was_told = self._was_told or sink.was_told

    def announce(self, config: MonitorConfig) -> None:
        """Make the outcomes of the models that ``config`` names known at 0.

        What ``config`` names has its place among the labels, however many names calls make up.
        """
        provider = config.provider or "_OTHER"
        models = dict.fromkeys([*config.models, *filter(None, [config.default_model])])
        calls = [Call(config.operation, provider, model, None, "unknown") for model in models]
        metrics = [row.name for row in config.custom_metrics]

        def announce() -> None:
            self._pipeline.reserve("models", models)
            self._pipeline.reserve("custom_metrics", metrics)
            self.recorder.announce(calls)

        self._pipeline.run(announce)

    def leave_to_parent(self) -> None:
        """In a forked child, let go of what is the parent's; nothing more is pushed from here."""
        if self.own is not None:
            self.own.leave_to_parent()
            self.is_closed = True

    def close(self, timeout: float) -> None:
        """End what is our own: a last push, a last scrape, the endpoint.

        It may be called again, also while another thread is at it.

        Args:
            timeout: Seconds that the pushes may take together.
        """
        if self.own is not None and not self.is_closed:
            self.own.finish(timeout)
            self.is_closed = True
            self._pipeline.forget(self.recorder)

    def _observers(self) -> dict[str, Callable[[CallbackOptions], Iterable[Observation]]]:
        observe: dict[str, Callable[[], Iterable[Observation]]] = {
            cat.MONITOR_INBOX.name: self._inbox,
            cat.MONITOR_EVENTS.name: self._events,
            cat.HISTORY_SIZE.name: lambda: [Observation(sum(s.history.size for s in self.sinks))],
            cat.HISTORY_CAPACITY.name: lambda: [
                Observation(sum(s.history.capacity for s in self.sinks))
            ],
            cat.HANDLER_ERRORS.name: lambda: [
                Observation(count, {cat.HANDLER.key: handler, cat.HANDLER_REASON.key: reason})
                for (handler, reason), count in self._pipeline.tallies.handler_errors.items()
            ],
            cat.LABEL_OVERFLOW.name: lambda: [
                Observation(count, {cat.OVERFLOWED.key: label})
                for label, count in self._pipeline.tallies.overflows.copy().items()
            ],
            cat.EXPORT_FAILURES.name: self._export_failures,
            cat.SAMPLES_EXPECTED.name: self._expected,
            cat.JOB_FINISHED.name: self._finished,
            cat.ALERTS_FIRING.name: self._firing,
            cat.BUILD_INFO.name: lambda: [
                Observation(
                    1,
                    {
                        cat.VERSION.key: __version__,
                        cat.OTEL_SDK.key: version("opentelemetry-sdk"),
                    },
                )
            ],
        }
        return {name: _without_span(read) for name, read in observe.items()}

    def _inbox(self) -> Iterable[Observation]:
        # The first callback of a collection: what waits must be in the instruments before the SDK
        # reads them.
        waiting = len(self._pipeline.inbox)
        self._pipeline.drain_for_collection()
        return [Observation(waiting)]

    def _events(self) -> Iterable[Observation]:
        tallies = self._pipeline.tallies
        yield Observation(tallies.recorded, {cat.RESULT.key: "recorded"})
        for reason, count in tallies.rejected.items():
            yield Observation(count, {cat.RESULT.key: "rejected", cat.REJECT_REASON.key: reason})

    def _export_failures(self) -> Iterable[Observation]:
        failures = self._pipeline.tallies.export_failures.copy()
        names = [push.name for push in self.own.pushes] if self.own is not None else []
        for name in {*names, *failures}:
            yield Observation(failures[name], {cat.EXPORTER.key: name})

    def _expected(self) -> Iterable[Observation]:
        own = [each.expected_samples for each in self.sinks if not each.shares_expected]
        shared = [each.expected_samples for each in self.sinks if each.shares_expected]
        told = [*self._retired_expected, *(each for each in own if each is not None)]
        if not told:  # what is said in code wins over the environment
            told = [each for each in [*shared, self._shared_expected] if each is not None][:1]
        return [Observation(sum(told))] if told else []

    def _finished(self) -> Iterable[Observation]:
        told = [sink for sink in self.sinks if sink.was_told]
        was_told = bool(told) or self._was_told
        return [Observation(int(was_told and all(sink.is_closed for sink in told)))]

    def _firing(self) -> Iterable[Observation]:
        total: Counter[str] = Counter()
        for sink in tuple(self.sinks):
            total.update(sink.firing() or {})
        for alert, count in total.items():
            yield Observation(count, {cat.ALERT.key: alert})


def _without_span(
    read: Callable[[], Iterable[Observation]],
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(each.value, each.attributes, NO_SPAN) for each in read()]

    return observe
