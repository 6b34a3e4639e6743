"""The instruments on one meter provider, and the callbacks of the observable ones."""

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
"""The instrumentation scope of genmeter's instruments."""


class _HistorySize(Protocol):
    @property
    def size(self) -> int: ...

    @property
    def capacity(self) -> int: ...


class ObservedSession(Protocol):
    """The part of a ``SessionState`` that telemetry reads."""

    defaults: CallDefaults
    metrics: MetricsRecorder | None
    expected_samples: int | None
    shares_expected: bool
    job: str
    has_events: bool
    is_closed: bool
    firing: Callable[[], Mapping[str, int] | None]

    @property
    def history(self) -> _HistorySize:
        """The monitor's history."""

    def take_begun_calls(self) -> list[Mapping[str, str | None]]:
        """Return and clear the labels of the newest calls that began."""

    def active_calls(self) -> list[Mapping[str, str | None]]:
        """Return the labels of the active calls, as given by the caller."""


class Telemetry:
    """The instruments on one meter provider, and the sessions whose events they record.

    Args:
        config: The settings of the first monitor.
        pipeline: The pipeline of the events; collections drain it first.
        provider: The meter provider.
        job: The job label of its metrics.
        exporters: The names of the exporters that push from it.

    Attributes:
        states: The sessions, including closed ones.
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
        self._pipeline = pipeline
        self._exporters = exporters
        self._reset()
        if type(provider).__module__.startswith("opentelemetry.metrics"):
            pipeline.deferred_log.add(
                logging.WARNING,
                "the MeterProvider is the OpenTelemetry API's own stand-in, which exports nothing; "
                "call opentelemetry.metrics.set_meter_provider() before the first monitor, or leave "
                "MonitorConfig.meter_provider at 'builtin'",
            )
        self.connect(provider)

    def _reset(self) -> None:
        # Of retired sessions: their expected samples, and whether they had any events.
        self._retired_expected: int | None = None
        self._shared_expected: int | None = None
        self._had_events = False
        # Label sets of calls that were ever active; they stay, at 0.
        self._active: dict[Call, dict[str, str]] = {}

    def connect(self, provider: MeterProvider) -> None:
        """Create the instruments, on a provider that may be new."""
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
        """The open sessions."""
        return [state for state in self.states if not state.is_closed]

    def is_last_open(self, state: ObservedSession) -> bool:
        """Return whether a session is the only open one."""
        return [id(each) for each in self.open_states] == [id(state)]

    def add(self, state: ObservedSession) -> None:
        """Add a session: its events are recorded from now on."""
        state.metrics = self.recorder
        state.job = self.job
        self.states.append(state)

    def retire(self, state: ObservedSession) -> None:
        """Remove a closed session, except for its part in the job's progress."""
        if state not in self.states:
            return
        self.states.remove(state)
        if state.expected_samples is not None:
            if state.shares_expected:
                self._shared_expected = state.expected_samples
            else:
                self._retired_expected = (self._retired_expected or 0) + state.expected_samples
        self._had_events = self._had_events or state.has_events

    def preregister(self, config: MonitorConfig) -> None:
        """Expose the outcomes of the models in ``config`` at 0, and reserve room for its labels.

        Only the owner of the pipeline calls this.
        """
        provider = config.provider or "_OTHER"
        models = dict.fromkeys([*config.models, *filter(None, [config.default_model])])
        tables = self._pipeline.normaliser.tables
        tables["models"].reserve(models)
        tables["custom_metrics"].reserve([row.name for row in config.custom_metrics])
        calls = [Call(config.operation, provider, model, None, "unknown") for model in models]
        self.recorder.preregister(calls, clock.now())

    def reset_after_fork(self) -> None:
        """Reset to 0 in a forked child, with the open sessions."""
        self.states = self.open_states
        self._reset()
        self.recorder.reset()

    def _observers(self) -> dict[str, Callable[[CallbackOptions], Iterable[Observation]]]:
        self_metrics = self._pipeline.self_metrics
        observe: dict[str, Callable[[], Iterable[Observation]]] = {
            cat.MONITOR_INBOX.name: self._inbox,
            cat.MONITOR_EVENTS.name: self._events,
            cat.HISTORY_SIZE.name: lambda: [Observation(sum(s.history.size for s in self.states))],
            cat.HISTORY_CAPACITY.name: lambda: [
                Observation(sum(s.history.capacity for s in self.states))
            ],
            cat.HANDLER_ERRORS.name: lambda: [
                Observation(count, {cat.HANDLER.key: handler, cat.HANDLER_REASON.key: reason})
                for (handler, reason), count in self_metrics.handler_errors.items()
            ],
            cat.REPETITIONS.name: lambda: [
                Observation(count, {cat.REPEAT_REASON.key: reason})
                for reason, count in self_metrics.repetitions.items()
            ],
            cat.LABEL_OVERFLOW.name: lambda: [
                Observation(count, {cat.OVERFLOWED.key: label})
                for label, count in self_metrics.overflows.copy().items()
            ],
            cat.EXPORT_FAILURES.name: self._export_failures,
            cat.SAMPLES_EXPECTED.name: self._expected,
            cat.JOB_FINISHED.name: self._finished,
            cat.JOB_LINGER.name: self._linger,
            cat.ALERTS_FIRING.name: self._firing,
            cat.ACTIVE.name: self._active_calls,
            cat.BUILD_INFO.name: _build_info,
        }
        return {name: _without_span(read) for name, read in observe.items()}

    def _inbox(self) -> Iterable[Observation]:
        # This is the first callback of a collection. The built-in provider has drained already;
        # for another provider, pending events are drained before the next callback.
        if self._pipeline.lock.is_inside:
            return [Observation(self._pipeline.backlog)]
        pending = len(self._pipeline.inbox)
        self._pipeline.drain_for_collection()
        return [Observation(pending)]

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
        own: list[int | None] = []
        shared: list[int | None] = []
        for state in self.states:
            (shared if state.shares_expected else own).append(state.expected_samples)
        own.append(self._retired_expected)
        shared.append(self._shared_expected)
        # Numbers set in code take precedence over the environment's, which is the same for all.
        found = [n for n in own if n is not None] or [n for n in shared if n is not None][:1]
        return [Observation(sum(found))] if found else []

    def _finished(self) -> Iterable[Observation]:
        used = [state for state in self.states if state.has_events]
        had_events = bool(used) or self._had_events
        return [Observation(int(had_events and all(state.is_closed for state in used)))]

    def _linger(self) -> Iterable[Observation]:
        # The endpoint of another provider is the application's, which does not wait.
        is_own = self.config.meter_provider == "builtin"
        return [Observation(self.config.endpoint.linger if is_own else 0.0)]

    def _active_calls(self) -> Iterable[Observation]:
        counts: Counter[Call] = Counter()
        resolve = self._pipeline.normaliser.call
        for state in self.states:
            # A call that began and ended between two collections is exposed at 0.
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


def _build_info() -> Iterable[Observation]:
    sdk = version("opentelemetry-sdk")
    return [Observation(1, {cat.VERSION.key: __version__, cat.OTEL_SDK.key: sdk})]


def _without_span(
    read: Callable[[], Iterable[Observation]],
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(each.value, each.attributes, NO_SPAN) for each in read()]

    return observe
