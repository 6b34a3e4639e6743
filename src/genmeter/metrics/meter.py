"""The built-in MeterProvider: OpenTelemetry's API over cumulative cells.

It has no readers and no views: whoever reads calls :meth:`BuiltinMeterProvider.collect`, and every
reader sees the same, exemplars included. A collection is one cut through the state, since the one
owner of the state takes it.

It differs from the SDK's on purpose:

- a series starts at its first event, or at the last collection that did not observe it yet, a
  second earlier (``BIRTH_MARGIN_NS``), and never after the beginning of a collection that has it;
- a collection leaves the exemplars in place, and a sum keeps the last sampled one, not a random one;
- exemplars have no filtered attributes, as there are no views, and observed values no exemplars;
- the last observation of a label set wins, where the SDK adds those of counters up;
- a label set that was not observed again makes room for others;
- a callback that raises costs the whole instrument for that collection, one that hangs costs no
  other instrument;
- instruments come in the order of their creation, with a histogram's bounds as floats;
- an invalid name or unit makes an instrument that records nothing, where the SDK raises;
- values that some exporter could not encode are converted or dropped.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opentelemetry.metrics import (
    Counter,
    Histogram,
    Meter,
    MeterProvider,
    NoOpMeter,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
    _Gauge,
)
from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from genmeter.clock import seconds_left
from genmeter.events.values import UNREADABLE, clean_text, safe_text
from genmeter.metrics.callbacks import CallbackRunner
from genmeter.metrics.cells import BIRTH_MARGIN_NS
from genmeter.metrics.instruments import (
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
    LockedOwner,
    ObservedInstrument,
    Owner,
    Shared,
)
from genmeter.metrics.values import clean_attributes, key_of, read_number

if TYPE_CHECKING:
    from collections.abc import Hashable

    from opentelemetry.metrics import CallbackT
    from opentelemetry.sdk.metrics.export import Metric
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.util.types import Attributes

    from genmeter.metrics.callbacks import Observations, Observer

__all__ = ["BuiltinMeter", "BuiltinMeterProvider", "LockedOwner", "Owner"]

_logger = logging.getLogger("genmeter")
_I = TypeVar("_I", bound=Instrument)

# OpenTelemetry's syntax of names; units are ASCII.
_NAME = re.compile(r"[a-zA-Z][-_./a-zA-Z0-9]{0,254}")
_UNIT = re.compile(r"[\x00-\x7f]{0,63}")


class BuiltinMeter(Meter):
    """Makes the instruments of one scope; no method raises.

    Args:
        scope: The scope.
        shared: What all instruments of the provider share.
        on_observed: Called with each new observable instrument.

    Attributes:
        scope: As passed.
    """

    def __init__(
        self,
        scope: InstrumentationScope,
        shared: Shared,
        on_observed: Callable[[InstrumentationScope, ObservedInstrument], None],
    ) -> None:
        super().__init__(scope.name, scope.version, scope.schema_url)
        self.scope = scope
        self._shared = shared
        self._on_observed = on_observed
        self._instruments: dict[Hashable, Instrument] = {}
        self._identities: dict[str, Hashable] = {}

    @property
    def instruments(self) -> list[Instrument]:
        """The instruments, in the order of their creation."""
        return list(self._instruments.values())

    def create_counter(self, name: str, unit: str = "", description: str = "") -> Counter:
        """Create a counter, or return the one with the same identity."""
        return self._create(CellCounter, name, unit, description) or _noop().create_counter("noop")

    def create_up_down_counter(
        self, name: str, unit: str = "", description: str = ""
    ) -> UpDownCounter:
        """Create an up-down counter, or return the one with the same identity."""
        made = self._create(CellUpDownCounter, name, unit, description)
        return made or _noop().create_up_down_counter("noop")

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> _Gauge:
        """Create a gauge, or return the one with the same identity."""
        return self._create(CellGauge, name, unit, description) or _noop().create_gauge("noop")

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> Histogram:
        """Create a histogram, or return the one with the same identity.

        Args:
            name: Its name.
            unit: Its unit.
            description: What it measures.
            explicit_bucket_boundaries_advisory: The bounds of its buckets, finite and strictly
                increasing; the specification's by default.
        """
        bounds = self._bounds(name, explicit_bucket_boundaries_advisory)

        def make(shared: Shared, name: str, unit: str, description: str) -> CellHistogram:
            return CellHistogram(shared, name, unit, description, bounds)

        made = self._create(CellHistogram, name, unit, description, make)
        if made is None:
            return _noop().create_histogram("noop")
        if made.bounds != bounds:
            self._shared.warn_once(
                (made, "bounds"),
                "the histogram %r was created before with other bounds; those are kept",
                made.name,
            )
        return made

    def create_observable_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> ObservableCounter:
        """Create an observable counter, or return the one with the same identity."""
        made = self._observe(CellObservableCounter, name, callbacks, unit, description)
        return made or _noop().create_observable_counter("noop")

    def create_observable_up_down_counter(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> ObservableUpDownCounter:
        """Create an observable up-down counter, or return the one with the same identity."""
        made = self._observe(CellObservableUpDownCounter, name, callbacks, unit, description)
        return made or _noop().create_observable_up_down_counter("noop")

    def create_observable_gauge(
        self,
        name: str,
        callbacks: Sequence[CallbackT] | None = None,
        unit: str = "",
        description: str = "",
    ) -> ObservableGauge:
        """Create an observable gauge, or return the one with the same identity."""
        made = self._observe(CellObservableGauge, name, callbacks, unit, description)
        return made or _noop().create_observable_gauge("noop")

    def _observe(
        self,
        kind: type[_I],
        name: str,
        callbacks: Sequence[CallbackT] | None,
        unit: str,
        description: str,
    ) -> _I | None:
        made: list[_I] = []

        def make(shared: Shared, name: str, unit: str, description: str) -> _I:
            make_kind = cast("Any", kind)
            made.append(make_kind(shared, name, callbacks, unit, description))
            return made[0]

        found = self._create(kind, name, unit, description, make)
        if isinstance(found, ObservedInstrument):
            if made and made[0] is found:
                self._on_observed(self.scope, found)
            elif callbacks is not None:
                self._shared.warn_once(
                    (found, "again"),
                    "the observable instrument %r was created before; its first callbacks are "
                    "kept, later ones are ignored",
                    found.name,
                )
        return found

    def _create(
        self,
        kind: type[_I],
        name: str,
        unit: str,
        description: str,
        make: Callable[[Shared, str, str, str], _I] | None = None,
    ) -> _I | None:
        """Return the instrument with this identity, made where it is new; None where invalid."""
        try:
            name, unit, description = _checked(name, unit, description)
        except UNREADABLE as error:
            text = safe_text(error) or type(error).__name__
            self._shared.warn_once(
                (self, text), "an instrument is not created and records nothing: %s", text
            )
            return None
        identity = (name, kind, unit, description)
        found = self._instruments.get(identity)
        if found is None:
            # A step that no other thread and no signal handler can come between: it needs no lock.
            found = self._instruments.setdefault(
                identity, (make or kind)(self._shared, name, unit, description)
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
    """Meters over cells, and the one way to read them.

    Args:
        owner: Who alone touches the cells.
        resource: What the metrics are of.
        cardinality_limit: How many label sets one instrument may have; the others become one,
            ``otel.metric.overflow``.
        own_scope: The scope whose callbacks only read plain numbers: they are called by the owner,
            in the cut. Those of other scopes are called before, on a thread of the provider's.
        exemplars: Whether sampled spans are kept as exemplars.
        warn: Called as ``Logger.warning`` is, on any thread; it must neither wait nor raise.

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
            name: The scope's name; without one the meter records nothing.
            version: Its version.
            schema_url: The schema of what it measures.
            attributes: What else tells it from other scopes.
        """
        if not _is_text(name):
            self._shared.warn_once(
                "name", "a meter's name must be a text that is not empty; its meter records nothing"
            )
            return _noop()
        name = clean_text(name)
        if not self._shared.is_open:
            self._shared.warn_once(
                "closed", "the meter of %r records nothing: the provider is shut down", name
            )
            return _noop()
        version = None if version is None else safe_text(version)
        schema_url = None if schema_url is None else safe_text(schema_url)
        clean = clean_attributes(attributes, lambda: None)
        key = (name, version, schema_url or "", key_of(clean))
        found = self._meters.get(key)
        if found is None:
            scope = InstrumentationScope(name, version, schema_url, clean or None)
            made = BuiltinMeter(scope, self._shared, self._on_observed)
            found = self._meters.setdefault(key, made)
        return found

    def collect(self, timeout: float = 10.0) -> MetricsData:
        """Return the state of every instrument, as one cut.

        The callbacks of other libraries are called first and have half of the time. The owner
        should not call this where there are any: it would wait for them.

        Args:
            timeout: Seconds.

        Returns:
            The data; without resource where there is no point at all.

        Raises:
            TimeoutError: The owner did not come to it in time.
        """
        latest = time.time_ns() - BIRTH_MARGIN_NS
        deadline = time.monotonic() + timeout
        observed: dict[Observer, Observations] = {}
        if self._shared.is_open:
            observers = [
                instrument.observer
                for meter in list(self._meters.values())
                if meter.scope.name != self._own_scope
                for instrument in meter.instruments
                if isinstance(instrument, ObservedInstrument) and instrument.observer
            ]
            if observers:
                observed = self._runner.observe(observers, timeout / 2)
        rest = seconds_left(deadline)
        return self._shared.owner.run(partial(self._cut, observed, latest, rest), rest)

    def reset_after_fork(self, resource: Resource) -> None:
        """Begin anew in a forked child: at 0, with every instrument and callback; takes no lock.

        What was posted to the owner in the parent is the owner's to drop.

        Args:
            resource: What the metrics of the child are of.
        """
        self.resource = resource
        self._runner.reset_after_fork()
        self._shared.be_born()
        for meter in list(self._meters.values()):
            for instrument in meter.instruments:
                instrument.clear()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Wait until all that was measured before is in the cells.

        Args:
            timeout_millis: Milliseconds to wait at most.

        Returns:
            Whether it is.
        """
        try:
            self._shared.owner.run(lambda: None, timeout_millis / 1_000)
        except TimeoutError:
            return False
        return True

    def shutdown(self, timeout_millis: float = 30_000) -> None:  # noqa: ARG002 - the SDK's has it
        """Stop recording what comes through the API, and calling callbacks of other libraries.

        What was recorded can still be collected.

        Args:
            timeout_millis: Not needed: this waits for nothing.
        """
        self._shared.is_open = False
        self._runner.close()

    def _on_observed(self, scope: InstrumentationScope, instrument: ObservedInstrument) -> None:
        if scope.name != self._own_scope and instrument.observer:
            self._runner.start()

    def _cut(
        self, observed: dict[Observer, Observations], latest: int, timeout: float
    ) -> MetricsData:
        now = time.time_ns()
        scopes: list[ScopeMetrics] = []
        for meter in list(self._meters.values()):
            is_own = meter.scope.name == self._own_scope
            metrics: list[Metric] = []
            for instrument in meter.instruments:
                metric: Metric | None = None
                if isinstance(instrument, CellInstrument):
                    metric = instrument.metric(now, latest)
                elif isinstance(instrument, ObservedInstrument):
                    observer = instrument.observer
                    seen = observer.observe(timeout) if is_own else observed.get(observer)
                    metric = None if seen is None else instrument.metric(now, latest, seen)
                if metric is not None:
                    metrics.append(metric)
            if metrics:
                scopes.append(ScopeMetrics(meter.scope, metrics, meter.scope.schema_url or ""))
        if not scopes:
            return MetricsData([])
        resource = self.resource
        return MetricsData([ResourceMetrics(resource, scopes, resource.schema_url)])


def _noop() -> NoOpMeter:
    return NoOpMeter("genmeter.noop")


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and str.__len__(value) > 0
    except UNREADABLE:
        return False


def _checked(name: Any, unit: Any, description: Any) -> tuple[str, str, str]:
    """Return an instrument's texts as they are exported.

    Raises:
        ValueError: One of them cannot be used.
    """
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
