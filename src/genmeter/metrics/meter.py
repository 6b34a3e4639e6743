"""The built-in MeterProvider: OpenTelemetry's metrics API over cumulative cells.

It has no readers and no views: every reader calls :meth:`BuiltinMeterProvider.collect` and sees the
same data, exemplars included. A collection is one consistent cut, since only the owner of the state
takes it.

It differs from the SDK's provider on purpose:

- a series starts at its first event, or at the last collection that did not observe it, a second
  earlier (``START_MARGIN_NS``), and always before the collection began;
- a collection keeps the exemplars; a sum has the last sampled one, not a random one;
- exemplars have no filtered attributes, since there are no views; observed values have no exemplars;
- the last observation of a label set wins; the SDK adds those of counters;
- a label set that is not observed again makes room for others;
- a callback that raises drops its instrument from that collection; one that hangs delays no other;
- instruments are in the order of their creation, and the bounds of histograms are floats;
- an invalid name or unit makes an instrument that records nothing; the SDK raises;
- values that an exporter cannot encode are converted or dropped.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from opentelemetry.metrics import (
    Counter,
    Histogram,
    Meter,
    MeterProvider,
    NoOpCounter,
    NoOpHistogram,
    NoOpMeter,
    NoOpObservableCounter,
    NoOpObservableGauge,
    NoOpObservableUpDownCounter,
    NoOpUpDownCounter,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
    _Gauge,
    _NoOpGauge,
)
from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from genmeter.clock import seconds_left
from genmeter.events.values import UNREADABLE, clean_text, safe_text
from genmeter.metrics._callbacks import CallbackRunner
from genmeter.metrics._cells import START_MARGIN_NS
from genmeter.metrics._instruments import (
    DEFAULT_BOUNDS,
    CellCounter,
    CellGauge,
    CellHistogram,
    CellInstrument,
    CellObservableCounter,
    CellObservableGauge,
    CellObservableUpDownCounter,
    CellUpDownCounter,
    Instrument,
    ObservedInstrument,
    Shared,
)
from genmeter.metrics._values import clean_attributes, key_of, read_number

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from opentelemetry.metrics import CallbackT
    from opentelemetry.sdk.metrics.export import Metric
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.util.types import Attributes

    from genmeter.metrics._callbacks import Observations, Observer
    from genmeter.metrics._instruments import Owner

    class Visitor(Protocol):
        """Is shown an instrument: the observations of an observable one, and the latest start."""

        def __call__(
            self,
            scope: InstrumentationScope,
            instrument: CellInstrument[Any] | ObservedInstrument,
            observed: Observations | None,
            latest: int,
        ) -> None: ...


__all__ = ["BuiltinMeterProvider"]

_logger = logging.getLogger("genmeter")
_I = TypeVar("_I", bound=Instrument)

# OpenTelemetry's syntax of names and units.
_NAME = re.compile(r"[a-zA-Z][-_./a-zA-Z0-9]{0,254}")
_UNIT = re.compile(r"[\x00-\x7f]{0,63}")
_NOOPS: dict[type[Instrument], Callable[[str], Any]] = {
    CellCounter: NoOpCounter,
    CellUpDownCounter: NoOpUpDownCounter,
    CellGauge: _NoOpGauge,
    CellHistogram: NoOpHistogram,
    CellObservableCounter: NoOpObservableCounter,
    CellObservableUpDownCounter: NoOpObservableUpDownCounter,
    CellObservableGauge: NoOpObservableGauge,
}


class BuiltinMeter(Meter):
    """Creates the instruments of one scope; no method raises.

    Each ``create`` method returns the existing instrument if one of the same kind, name, unit and
    description exists, and one that records nothing if a text is invalid.

    Args:
        scope: The scope.
        shared: State that the instruments of the provider share.
        on_callbacks: Called with each new observable instrument that has callbacks.

    Attributes:
        scope: As passed.
    """

    def __init__(
        self,
        scope: InstrumentationScope,
        shared: Shared,
        on_callbacks: Callable[[], object],
    ) -> None:
        super().__init__(scope.name, scope.version, scope.schema_url)
        self.scope = scope
        self._shared = shared
        self._on_callbacks = on_callbacks
        self._instruments: dict[Hashable, Instrument] = {}
        self._identities: dict[str, Hashable] = {}

    @property
    def instruments(self) -> list[Instrument]:
        """The instruments, in the order of their creation."""
        return list(self._instruments.values())

    def create_counter(self, name: str, unit: str = "", description: str = "") -> Counter:
        """Create a counter."""
        return self._create(CellCounter, name, unit, description)

    def create_up_down_counter(
        self, name: str, unit: str = "", description: str = ""
    ) -> UpDownCounter:
        """Create an up-down counter."""
        return self._create(CellUpDownCounter, name, unit, description)

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> _Gauge:
        """Create a gauge."""
        return self._create(CellGauge, name, unit, description)

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> Histogram:
        """Create a histogram; its bounds must be finite and strictly increasing."""
        bounds = self._bounds(name, explicit_bucket_boundaries_advisory)
        histogram: Any = self._create(CellHistogram, name, unit, description, bounds)
        if getattr(histogram, "bounds", bounds) != bounds:
            self._shared.warn_once(
                (histogram, "bounds"),
                "the histogram %r was created before with other bounds; those are kept",
                histogram.name,
            )
        return cast("Histogram", histogram)

    def create_observable_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> ObservableCounter:
        """Create an observable counter."""
        return self._create(CellObservableCounter, name, unit, description, callbacks)

    def create_observable_up_down_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> ObservableUpDownCounter:
        """Create an observable up-down counter."""
        return self._create(CellObservableUpDownCounter, name, unit, description, callbacks)

    def create_observable_gauge(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> ObservableGauge:
        """Create an observable gauge."""
        return self._create(CellObservableGauge, name, unit, description, callbacks)

    def _create(
        self, kind: type[_I], name: str, unit: str, description: str, *arguments: Any
    ) -> _I:
        """Return the instrument with this identity, new or not, or one that records nothing."""
        try:
            name, unit, description = _checked(name, unit, description)
        except UNREADABLE as error:
            text = safe_text(error) or type(error).__name__
            self._shared.warn_once(
                (self, text), "an instrument is not created and records nothing: %s", text
            )
            return cast("_I", _NOOPS[kind]("noop"))
        identity = (name, kind, unit, description)
        new = None
        found = self._instruments.get(identity)
        if found is None:
            new = kind(self._shared, name, unit, description, *arguments)
            # Atomic: no other thread and no signal handler can run in between.
            found = self._instruments.setdefault(identity, new)
        if isinstance(found, ObservedInstrument):
            if found.observer and found is new:
                self._on_callbacks()
            elif found is not new and arguments[0] is not None:
                self._shared.warn_once(
                    (found, "again"),
                    "the observable instrument %r was created before; its first callbacks are "
                    "kept, later ones are ignored",
                    name,
                )
        if self._identities.setdefault(name, identity) != identity:
            self._shared.warn_once(
                (self, "conflict", name),
                "two instruments of the scope %r are called %r and differ in kind, unit or "
                "description; rename one of them",
                self.scope.name,
                name,
            )
        return cast("_I", found)

    def _bounds(self, name: object, advisory: Any) -> tuple[float, ...]:
        if advisory is None:
            return DEFAULT_BOUNDS
        bounds: list[float] = []
        try:
            for each in advisory if isinstance(advisory, Sequence) else [math.nan]:
                bound = read_number(each)
                if bound is None or (bounds and bound <= bounds[-1]):
                    break
                bounds.append(float(bound))
            else:
                return tuple(bounds)
        except UNREADABLE:
            pass
        text = safe_text(name)
        self._shared.warn_once(
            (self, "bounds", text),
            "explicit_bucket_boundaries_advisory of the histogram %r must be a sequence of finite, "
            "strictly increasing numbers; the default bounds are used",
            text,
        )
        return DEFAULT_BOUNDS


class BuiltinMeterProvider(MeterProvider):
    """A meter provider over cells, which :meth:`collect` reads.

    Args:
        owner: The only one who may use the cells.
        resource: The resource of the metrics.
        cardinality_limit: Maximum number of label sets of one instrument; the others share one,
            ``otel.metric.overflow``.
        own_scope: The scope whose callbacks only read plain numbers. The owner calls them during
            the cut; those of other scopes are called before it, on a worker thread.
        exemplars: Whether sampled spans are kept as exemplars.
        warn: Called like ``Logger.warning``, on any thread; must not wait.

    Attributes:
        resource: As passed; :meth:`reset_after_fork` changes it.
    """

    def __init__(
        self,
        owner: Owner,
        *,
        resource: Resource,
        cardinality_limit: int = 2_000,
        own_scope: str = "genmeter",
        exemplars: bool = True,
        warn: Callable[..., object] = _logger.warning,
    ) -> None:
        self.resource = resource
        self._own_scope = own_scope
        self._shared = Shared(
            owner, cardinality_limit=cardinality_limit, exemplars=exemplars, warn=warn
        )
        self._runner = CallbackRunner(self._shared.warn_once)
        self._meters: dict[Hashable, BuiltinMeter] = {}

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Meter:
        """Return the meter of a scope, always the same one; never raises.

        Args:
            name: The scope's name; if it is empty, the meter records nothing.
            version: Its version.
            schema_url: The schema of its metrics.
            attributes: Its attributes, part of its identity.
        """
        if not issubclass(type(name), str) or not str.__len__(name):
            self._shared.warn_once(
                "name",
                "a meter's name must be a string that is not empty; its meter records nothing",
            )
            return NoOpMeter("genmeter.noop")
        name = clean_text(name)
        if not self._shared.is_open:
            self._shared.warn_once(
                "closed", "the meter of %r records nothing: the provider is shut down", name
            )
            return NoOpMeter("genmeter.noop")
        version = None if version is None else safe_text(version)
        schema_url = None if schema_url is None else safe_text(schema_url)
        clean = clean_attributes(attributes, lambda: None)
        key = (name, version, schema_url or "", key_of(clean))
        found = self._meters.get(key)
        if found is None:
            scope = InstrumentationScope(name, version, schema_url, clean or None)
            on_callbacks = self._runner.start if name != self._own_scope else lambda: None
            meter = BuiltinMeter(scope, self._shared, on_callbacks)
            found = self._meters.setdefault(key, meter)
        return found

    def collect(self, timeout: float = 10.0) -> MetricsData:
        """Return the state of every instrument, as one consistent cut.

        First the callbacks of other libraries are called, for at most half of the time. The owner
        should not call this if there are any: it would wait for them.

        Args:
            timeout: Seconds.

        Returns:
            The data; without resource if there is no point at all.

        Raises:
            TimeoutError: The owner was busy for too long.
        """
        latest = time.time_ns() - START_MARGIN_NS
        deadline = time.monotonic() + timeout
        observed = self._observe(timeout)
        left = seconds_left(deadline)
        return self._shared.owner.run(partial(self._cut, observed, latest, left), left)

    def prepare_visit(self, timeout: float = 10.0) -> Callable[[Visitor], None]:
        """Call the callbacks of other libraries, before a visit of the instruments.

        Args:
            timeout: Seconds, as for `collect`.

        Returns:
            A function for the owner, which shows every instrument with its current state to a
            visitor, as one consistent cut.
        """
        latest = time.time_ns() - START_MARGIN_NS
        deadline = time.monotonic() + timeout
        observed = self._observe(timeout)

        def visit(visitor: Visitor) -> None:
            left = seconds_left(deadline)
            for meter in list(self._meters.values()):
                for instrument, seen in self._states(meter, observed, left):
                    visitor(meter.scope, instrument, seen, latest)

        return visit

    def _observe(self, timeout: float) -> dict[Observer, Observations]:
        """Call the callbacks of other libraries, for at most half of the time."""
        if not self._shared.is_open:
            return {}
        observers = [
            instrument.observer
            for meter in list(self._meters.values())
            if meter.scope.name != self._own_scope
            for instrument in meter.instruments
            if isinstance(instrument, ObservedInstrument) and instrument.observer
        ]
        return self._runner.observe(observers, timeout / 2) if observers else {}

    def reset_after_fork(self, resource: Resource) -> None:
        """Reset to 0 in a forked child, with all instruments and callbacks; takes no lock.

        The owner must drop the functions that were posted in the parent.

        Args:
            resource: The resource of the child's metrics.
        """
        self.resource = resource
        self._runner.reset_after_fork()
        self._shared.reset_start()
        for meter in list(self._meters.values()):
            for instrument in meter.instruments:
                instrument.clear()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Wait until the cells contain all measurements made before.

        Args:
            timeout_millis: Milliseconds to wait at most.

        Returns:
            Whether they do.
        """
        try:
            self._shared.owner.run(lambda: None, timeout_millis / 1_000)
        except TimeoutError:
            return False
        return True

    def shutdown(self, timeout_millis: float = 30_000) -> None:  # noqa: ARG002 - the SDK's has it
        """Stop recording measurements of the API and calling other libraries' callbacks.

        Recorded measurements can still be collected.

        Args:
            timeout_millis: Ignored: this does not wait.
        """
        self._shared.is_open = False
        self._runner.close()

    def _states(
        self, meter: BuiltinMeter, observed: dict[Observer, Observations], timeout: float
    ) -> Iterator[tuple[CellInstrument[Any] | ObservedInstrument, Observations | None]]:
        """Yield the instruments of a meter, with the observations of observable ones."""
        is_own = meter.scope.name == self._own_scope
        for instrument in meter.instruments:
            if isinstance(instrument, CellInstrument):
                yield instrument, None
            elif isinstance(instrument, ObservedInstrument):
                observer = instrument.observer
                seen = observer.observe(timeout) if is_own else observed.get(observer)
                if seen is not None:
                    yield instrument, seen

    def _cut(
        self, observed: dict[Observer, Observations], latest: int, timeout: float
    ) -> MetricsData:
        now = time.time_ns()
        scopes: list[ScopeMetrics] = []
        for meter in list(self._meters.values()):
            metrics: list[Metric] = []
            for instrument, seen in self._states(meter, observed, timeout):
                metric: Metric | None
                if isinstance(instrument, ObservedInstrument):
                    metric = instrument.metric(now, latest, seen or [])
                else:
                    metric = instrument.metric(now, latest)
                if metric is not None:
                    metrics.append(metric)
            if metrics:
                scopes.append(ScopeMetrics(meter.scope, metrics, meter.scope.schema_url or ""))
        if not scopes:
            return MetricsData([])
        resource = self.resource
        return MetricsData([ResourceMetrics(resource, scopes, resource.schema_url)])


def _checked(name: Any, unit: Any, description: Any) -> tuple[str, str, str]:
    """Return an instrument's name, unit and description as exported; raise on an invalid one."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"its name must be at most 255 ASCII letters, digits and _ . - /, with a letter first, "
            f"got {safe_text(name, 64)!r}"
        )
    if unit is not None and (not isinstance(unit, str) or not _UNIT.fullmatch(unit)):
        raise ValueError(
            f"the unit of {clean_text(name)!r} must be at most 63 ASCII characters, "
            f"got {safe_text(unit, 64)!r}"
        )
    text = "" if description is None else safe_text(description) or ""
    return clean_text(name).lower(), clean_text(unit or ""), text
