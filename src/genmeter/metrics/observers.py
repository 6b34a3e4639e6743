"""One meter provider as the monitors of a process use it: its instruments and what they observe."""

from __future__ import annotations

import logging
from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

from opentelemetry.metrics import Observation

from genmeter import clock
from genmeter._version import __version__
from genmeter.events.model import Call
from genmeter.metrics.binding import NO_SPAN
from genmeter.metrics.recorder import MetricsRecorder, call_attributes
from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from opentelemetry.metrics import CallbackOptions, MeterProvider

    from genmeter.config.monitor import MonitorConfig
    from genmeter.events.model import CallDefaults
    from genmeter.pipeline.drain import Pipeline

__all__ = ["SCOPE", "Telemetry"]

SCOPE = "genmeter"
"""The instrumentation scope of our instruments."""


class HistorySize(Protocol):
    """How much of a history is used."""

    @property
    def size(self) -> int:
        """Rows that are kept."""

    @property
    def capacity(self) -> int:
        """Rows that can be kept."""


class ObservedSession(Protocol):
    """What telemetry reads of a session; see ``SessionState``."""

    defaults: CallDefaults
    metrics: MetricsRecorder | None
    expected_samples: int | None
    shares_expected: bool
    job: str
    has_events: bool
    is_closed: bool
    firing: Callable[[], Mapping[str, int] | None]

    @property
    def history(self) -> HistorySize:
        """How much of its history is used."""

    def take_begun_calls(self) -> list[Mapping[str, str | None]]:
        """Return the labels of the newest calls that began since the last time."""

    def active_calls(self) -> list[Mapping[str, str | None]]:
        """Return the labels, as they were given, of its calls that are under way."""


class Telemetry:
    """The instruments on one meter provider, and the monitors that feed them.

    Args:
        config: The settings of the monitor that came first.
        pipeline: Where the events come from; collections drain it first.
        provider: The meter provider.
        job: The job that its metrics are of.
        exporters: The names of the exporters that push from it.

    Attributes:
        states: The sessions that feed it, closed ones among them.
    """

    def __init__(
        self,
        config: MonitorConfig,
        pipeline: Pipeline,
        provider: MeterProvider,
        *,
        job: str,
        exporters: Sequence[str] = (),
    ) -> None:
        self.config = config
        self.job = job
        self.states: list[ObservedSession] = []
        # Of monitors that are gone: what their jobs were to make, and whether they had any events.
        self._retired_expected: list[int] = []
        self._shared_expected: int | None = None
        self._had_events = False
        self._pipeline = pipeline
        self._exporters = exporters
        # The label sets of calls that were under way once; they stay, at 0.
        self._active: dict[Call, dict[str, str]] = {}
        if type(provider).__module__.startswith("opentelemetry.metrics"):
            pipeline.deferred_log.add(
                logging.WARNING,
                "the MeterProvider is the OpenTelemetry API's own stand-in, which exports nothing; "
                "call opentelemetry.metrics.set_meter_provider() before the first monitor, or leave "
                "MonitorConfig.meter_provider at 'builtin'",
            )
        self.connect(provider)

    def connect(self, provider: MeterProvider) -> None:
        """Make the instruments, on a provider that may be another one than before."""
        self.recorder = MetricsRecorder(
            provider.get_meter(SCOPE, __version__),
            self.config,
            observe=self._observers(),
            on_reject=self._pipeline.reject,
        )
        for state in self.states:
            state.metrics = self.recorder

    @property
    def open_states(self) -> list[ObservedSession]:
        """The sessions that are not closed."""
        return [state for state in self.states if not state.is_closed]

    def is_last_open(self, state: ObservedSession) -> bool:
        """Return whether a session is the only one that is not closed."""
        return [id(each) for each in self.open_states] == [id(state)]

    def add(self, state: ObservedSession) -> None:
        """Add a session: its events feed the instruments from here on."""
        state.metrics = self.recorder
        state.job = self.job
        self.states.append(state)

    def retire(self, state: ObservedSession) -> None:
        """Drop a closed session, but for its part in the job's progress."""
        if state not in self.states:
            return
        self.states.remove(state)
        if state.expected_samples is not None:
            if state.shares_expected:
                self._shared_expected = state.expected_samples
            else:
                self._retired_expected = [sum(self._retired_expected, state.expected_samples)]
        self._had_events = self._had_events or state.has_events

    def preregister(self, config: MonitorConfig) -> None:
        """Expose the outcomes of the models that ``config`` names at 0; the owner calls this.

        What ``config`` names has its place among the labels, however many names calls make up.
        """
        provider = config.provider or "_OTHER"
        models = dict.fromkeys([*config.models, *filter(None, [config.default_model])])
        self._pipeline.reserve("models", models)
        self._pipeline.reserve("custom_metrics", [row.name for row in config.custom_metrics])
        calls = [Call(config.operation, provider, model, None, "unknown") for model in models]
        self.recorder.preregister(calls, clock.now())

    def reset_after_fork(self) -> None:
        """Begin at 0 in a forked child, with the sessions that are open there."""
        self.states = self.open_states
        self._retired_expected = []
        self._shared_expected = None
        self._had_events = False
        self._active = {}
        self.recorder.reset()

    def _observers(self) -> dict[str, Callable[[CallbackOptions], Iterable[Observation]]]:
        observe: dict[str, Callable[[], Iterable[Observation]]] = {
            cat.MONITOR_INBOX.name: self._inbox,
            cat.MONITOR_EVENTS.name: self._events,
            cat.HISTORY_SIZE.name: lambda: [Observation(sum(s.history.size for s in self.states))],
            cat.HISTORY_CAPACITY.name: lambda: [
                Observation(sum(s.history.capacity for s in self.states))
            ],
            cat.HANDLER_ERRORS.name: lambda: [
                Observation(count, {cat.HANDLER.key: handler, cat.HANDLER_REASON.key: reason})
                for (handler, reason), count in self._pipeline.self_metrics.handler_errors.items()
            ],
            cat.LABEL_OVERFLOW.name: lambda: [
                Observation(count, {cat.OVERFLOWED.key: label})
                for label, count in self._pipeline.self_metrics.overflows.copy().items()
            ],
            cat.EXPORT_FAILURES.name: self._export_failures,
            cat.SAMPLES_EXPECTED.name: self._expected,
            cat.JOB_FINISHED.name: self._finished,
            cat.ALERTS_FIRING.name: self._firing,
            cat.ACTIVE.name: self._open_calls,
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
        # The first callback of a collection. That of our own provider has drained already; of
        # another one, the events that wait must be in the instruments before it reads them.
        if self._pipeline.lock.is_inside:
            return [Observation(self._pipeline.backlog)]
        waiting = len(self._pipeline.inbox)
        self._pipeline.drain_for_collection()
        return [Observation(waiting)]

    def _events(self) -> Iterable[Observation]:
        self_metrics = self._pipeline.self_metrics
        yield Observation(self_metrics.recorded, {cat.RESULT.key: "recorded"})
        for reason, count in self_metrics.rejected.items():
            yield Observation(count, {cat.RESULT.key: "rejected", cat.REJECT_REASON.key: reason})

    def _export_failures(self) -> Iterable[Observation]:
        failures = self._pipeline.self_metrics.export_failures.copy()
        for name in dict.fromkeys([*self._exporters, *failures]):
            yield Observation(failures[name], {cat.EXPORTER.key: name})

    def _expected(self) -> Iterable[Observation]:
        own = [each.expected_samples for each in self.states if not each.shares_expected]
        shared = [each.expected_samples for each in self.states if each.shares_expected]
        given = [*self._retired_expected, *(each for each in own if each is not None)]
        if not given:  # a number that is given in code wins over the environment's
            given = [each for each in [*shared, self._shared_expected] if each is not None][:1]
        return [Observation(sum(given))] if given else []

    def _finished(self) -> Iterable[Observation]:
        used = [state for state in self.states if state.has_events]
        had_events = bool(used) or self._had_events
        return [Observation(int(had_events and all(state.is_closed for state in used)))]

    def _open_calls(self) -> Iterable[Observation]:
        counts: Counter[Call] = Counter()
        resolve = self._pipeline.normaliser.call
        for state in self.states:
            # A call that began and ended between two collections is known at 0.
            for begun in {tuple(labels.items()) for labels in state.take_begun_calls()}:
                counts[resolve(dict(begun), state.defaults)] += 0
            if not state.is_closed:
                for labels in state.active_calls():
                    counts[resolve(labels, state.defaults)] += 1
        for call in counts:
            if call not in self._active and len(self._active) < self.config.limits.combinations:
                self._active[call] = call_attributes(call, "generation")
        return [Observation(counts[call], labels) for call, labels in self._active.items()]

    def _firing(self) -> Iterable[Observation]:
        total: Counter[str] = Counter()
        for state in tuple(self.states):
            total.update(state.firing() or {})
        for alert, count in total.items():
            yield Observation(count, {cat.ALERT.key: alert})


def _without_span(
    read: Callable[[], Iterable[Observation]],
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(each.value, each.attributes, NO_SPAN) for each in read()]

    return observe
