"""Helpers for people who test code that uses genmeter.

``isolated_monitor()`` gives a monitor that drains in the caller's own call, listens nowhere, reads
no environment and shares nothing with any other; its metrics can be asked for by their Prometheus
names::

    with isolated_monitor() as monitor:
        run_my_job(monitor)
        assert monitor.value("genmeter_generations_total", genmeter_outcome="failure") == 0
"""

from __future__ import annotations

import dataclasses
import difflib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry.sdk.resources import Resource
from prometheus_client.parser import text_string_to_metric_families

from genmeter import runtime
from genmeter.config.monitor import MonitorConfig
from genmeter.errors import ConfigError
from genmeter.exporters.prometheus import PrometheusBridge
from genmeter.metrics.meter import BuiltinMeterProvider
from genmeter.monitor import GenerationMonitor
from genmeter.schema.metrics import INSTRUMENTS
from genmeter.schema.prom_names import prometheus_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.samples import Sample

__all__ = ["IsolatedMonitor", "assert_exposition", "fresh_runtime", "isolated_monitor"]

_T = TypeVar("_T")


class IsolatedMonitor(GenerationMonitor):
    """A monitor of its own runtime, whose metrics can be asked for; see :func:`isolated_monitor`.

    Args:
        bridge: Writes the page of the provider that ``config`` names.
        *args: As ``GenerationMonitor`` takes them.
        **kwargs: As ``GenerationMonitor`` takes them.
    """

    def __init__(self, bridge: PrometheusBridge, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bridge = bridge
        config = kwargs.get("config") or MonitorConfig()
        rows = [
            *((row.prometheus, row.kind.exposed_as) for row in INSTRUMENTS),
            *(
                (prometheus_name(row.name, row.unit, row.kind), row.kind)
                for row in config.custom_metrics
            ),
        ]
        self._names = {
            name + suffix
            for name, kind in rows
            for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
        }

    def page(self, *, openmetrics: bool = False) -> str:
        """Render what a scrape would get.

        Args:
            openmetrics: OpenMetrics 1.0 rather than Prometheus text.
        """
        return self._bridge.render(openmetrics).decode()

    def series(self, name: str, **labels: str) -> list[Sample]:
        """Give the samples of a series.

        Args:
            name: The sample's Prometheus name, such as ``genmeter_tokens_total``.
            **labels: Values that its labels must have, by their Prometheus names; an empty one
                means that the label is absent.

        Raises:
            ConfigError: There is no series of that name: an assertion about a name that was
                misspelt would hold for ever.
        """
        samples = [
            sample
            for family in text_string_to_metric_families(self.page())
            for sample in family.samples
        ]
        if not any(sample.name == name for sample in samples) and name not in self._names:
            near = difflib.get_close_matches(name, {*self._names, *(s.name for s in samples)}, 1)
            raise ConfigError(
                f"name is {name!r}, which no metric has"
                + (f"; did you mean {near[0]!r}?" if near else "; see README.md for the names")
            )
        return [
            sample
            for sample in samples
            if sample.name == name
            and all(sample.labels.get(key, "") == value for key, value in labels.items())
        ]

    def value(self, name: str, **labels: str) -> float:
        """Sum the samples of a series, as :meth:`series` finds them; 0 where there are none.

        Raises:
            ConfigError: There is no series of that name.
        """
        return float(sum(sample.value for sample in self.series(name, **labels)))


@contextmanager
def fresh_runtime() -> Iterator[runtime.Runtime]:
    """Put a runtime of its own in place, which is closed at the end of the block.

    Monitors made in the block share nothing with those made outside of it.
    """
    fresh = runtime.Runtime()
    previous = runtime.install(fresh)
    try:
        yield fresh
    finally:
        fresh.exit()
        fresh.close()
        runtime.install(previous)


@contextmanager
def isolated_monitor(
    config: MonitorConfig | None = None, **kwargs: Any
) -> Iterator[IsolatedMonitor]:
    """Make a monitor that shares nothing with any other, and shut it down after the block.

    Args:
        config: Its settings; ``drain`` and ``meter_provider`` are set here. None means the
            defaults, whatever the environment says.
        **kwargs: Further arguments of ``GenerationMonitor``.
    """
    config = config or MonitorConfig()
    with fresh_runtime() as fresh:
        provider = BuiltinMeterProvider(
            _Owner(fresh),
            resource=Resource({}),
            cardinality_limit=config.limits.combinations,
        )
        bridge = PrometheusBridge(provider.collect)
        config = dataclasses.replace(config, drain="inline", meter_provider=provider)
        with IsolatedMonitor(bridge, config=config, **kwargs) as monitor:
            yield monitor


class _Owner:
    """Whoever owns the state of a runtime, whose first monitor makes its pipeline."""

    def __init__(self, owned: runtime.Runtime) -> None:
        self._owned = owned

    def post(self, function: Callable[[], object]) -> None:
        self._owned.require_pipeline().post(function)

    def run(self, function: Callable[[], _T], timeout: float | None) -> _T:
        return self._owned.require_pipeline().run(function, timeout)


def assert_exposition(page: str, expected: str) -> None:
    """Compare pages of Prometheus text by the metrics that ``expected`` names.

    Order, comments, white space and ``_created`` samples do not count, and neither do metrics of
    ``page`` that ``expected`` does not have.

    Args:
        page: What was scraped.
        expected: Samples as text, one a line.

    Raises:
        AssertionError: They differ; the message lists what is missing and what is unexpected.
    """
    wanted = _samples(expected)
    names = {name for name, _, _ in wanted}
    found = {sample for sample in _samples(page) if sample[0] in names}
    missing, unexpected = wanted - found, found - wanted
    if missing or unexpected:
        lines = [
            *("missing:    " + _shown(each) for each in sorted(missing)),
            *("unexpected: " + _shown(each) for each in sorted(unexpected)),
        ]
        raise AssertionError("the exposition differs\n" + "\n".join(lines))


_Shape = tuple[str, tuple[tuple[str, str], ...], float]


def _samples(page: str) -> set[_Shape]:
    # Not splitlines(): a label's value may hold what it takes for the end of a line.
    text = "\n".join(line.strip() for line in page.split("\n")) + "\n"
    return {
        (sample.name, tuple(sorted(sample.labels.items())), float(sample.value))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def _shown(sample: _Shape) -> str:
    name, labels, value = sample
    inner = ",".join(f'{key}="{text}"' for key, text in labels)
    return f"{name}{{{inner}}} {value:g}"
