"""Helpers for people who test code that uses genmeter.

``isolated_monitor()`` yields a monitor that processes each event in the recording call, opens no
endpoint, ignores the environment and shares nothing with other monitors. Its metrics can be read by
their Prometheus names::

    with isolated_monitor() as monitor:
        run_my_job(monitor)
        assert monitor.value("genmeter_generations_total", genmeter_outcome="failure") == 0
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry.sdk.resources import Resource
from prometheus_client.parser import text_string_to_metric_families

from genmeter import runtime
from genmeter.config.checks import BOOLEAN, TEXT, count, instance_of, number, optional
from genmeter.config.monitor import MonitorConfig
from genmeter.errors import ConfigError
from genmeter.events.values import safe_repr
from genmeter.exporters.prometheus import PrometheusBridge
from genmeter.job.meeting import fresh_family
from genmeter.metrics.meter import BuiltinMeterProvider
from genmeter.monitor import GenerationMonitor, open_monitors
from genmeter.schema.metrics import INSTRUMENTS
from genmeter.schema.older_metrics import OLDER_INSTRUMENTS
from genmeter.schema.prom_names import prometheus_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.samples import Sample

__all__ = [
    "IsolatedMonitor",
    "assert_exposition",
    "fresh_runtime",
    "isolated_monitor",
    "redirected",
]

_T = TypeVar("_T")


class IsolatedMonitor(GenerationMonitor):
    """A monitor with its own runtime and readable metrics; see :func:`isolated_monitor`.

    Args:
        bridge: Renders the page of the provider in ``config``.
        *args: Arguments of ``GenerationMonitor``.
        **kwargs: Arguments of ``GenerationMonitor``.
    """

    def __init__(self, bridge: PrometheusBridge, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bridge = bridge
        config = kwargs.get("config") or MonitorConfig()
        rows = [
            *((row.prometheus, row.kind.exposed_as) for row in (*INSTRUMENTS, *OLDER_INSTRUMENTS)),
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
        """Return the page that a scrape would get.

        Args:
            openmetrics: OpenMetrics 1.0 instead of Prometheus text.
        """
        return self._bridge.render(BOOLEAN("openmetrics", openmetrics)).decode()

    def series(self, name: str, **labels: str) -> list[Sample]:
        """Return the matching samples of the page.

        Args:
            name: The sample's Prometheus name, such as ``genmeter_tokens_total``.
            **labels: Label values to match, by Prometheus label names; an empty one means that the
                label is absent.

        Raises:
            ConfigError: No metric has that name, since an assertion on a misspelt name would
                always pass.
        """
        name = TEXT("name", name)
        samples = [
            sample
            for family in text_string_to_metric_families(self.page())
            for sample in family.samples
        ]
        if not any(sample.name == name for sample in samples) and name not in self._names:
            near = difflib.get_close_matches(name, {*self._names, *(s.name for s in samples)}, 1)
            raise ConfigError(
                f"no metric is named {safe_repr(name)}"
                + (f"; did you mean {near[0]!r}?" if near else "; see README.md for the names")
            )
        return [
            sample
            for sample in samples
            if sample.name == name
            and all(sample.labels.get(key, "") == value for key, value in labels.items())
        ]

    def assert_budget(
        self,
        tokens: int | None = None,
        usd: float | None = None,
        *,
        calls: int | None = None,
        allow_unread: bool = False,
    ) -> None:
        """Check that what was recorded since this monitor began is within limits.

        That is what all monitors of its runtime recorded, so those too that the tested code made.

        Args:
            tokens: The most total tokens.
            usd: The most USD; a call with tokens and without a price fails too.
            calls: The most calls, failed and cancelled ones included.
            allow_unread: Whether calls whose usage is unknown count as 0; else one fails, since
                nobody can say what it used.

        Raises:
            AssertionError: A limit is exceeded, or cannot be checked; the message has the report.
            ConfigError: A limit is invalid, or there is none.
        """
        tokens = optional(count(0))("tokens", tokens)
        usd = optional(number(0, math.inf, what="USD"))("usd", usd)
        calls = optional(count(0))("calls", calls)
        BOOLEAN("allow_unread", allow_unread)
        if tokens is None and usd is None and calls is None:
            raise ConfigError("assert_budget needs tokens, usd or calls, got none of them")
        report = self._runtime.token_usage(None)
        problems = [
            f"{name} {spent:,.10g} of {limit:,.10g}"
            for name, spent, limit in (
                ("tokens", report.total_tokens, tokens),
                ("USD", report.cost_usd, usd),
                ("calls", self.value("genmeter_generations_total"), calls),
            )
            if limit is not None and spent > limit
        ]
        if not allow_unread and report.calls_without_usage and (tokens, usd) != (None, None):
            problems.append(f"{report.calls_without_usage:,} calls of unknown usage")
        unpriced = [usage.model_name for usage in report.by_model if usage.unpriced_calls]
        if usd is not None and unpriced:
            problems.append(f"no price for {', '.join(unpriced)}")
        if problems:
            raise AssertionError(f"over the budget: {'; '.join(problems)}\n{report}")

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that :meth:`series` returns; 0 if there are none.

        Raises:
            ConfigError: No metric has that name.
        """
        return float(sum(sample.value for sample in self.series(name, **labels)))


@contextmanager
def fresh_runtime() -> Iterator[runtime.Runtime]:
    """Use a new runtime within the block, and close it at the end.

    Monitors created in the block share nothing with those created outside of it.
    """
    with fresh_family():
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
    """Yield a monitor that shares nothing with any other, and shut it down after the block.

    Args:
        config: Its settings; ``drain`` and ``meter_provider`` are overridden. None means the
            defaults, regardless of the environment.
        **kwargs: Other arguments of ``GenerationMonitor``.
    """
    config = MonitorConfig() if config is None else config
    instance_of(MonitorConfig)("config", config)
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


@contextmanager
def redirected(monitor: GenerationMonitor) -> Iterator[None]:
    """Have every other open monitor be the same as this one within the block.

    What code records with a monitor of its module, and what it reads from it, is then this one's. At the
    end each monitor is what it was.

    Args:
        monitor: The one that records, such as that of :func:`isolated_monitor`.
    """
    instance_of(GenerationMonitor)("monitor", monitor)
    before = [
        (each, vars(each)) for each in open_monitors(of_any_runtime=True) if each is not monitor
    ]
    # At once, since other threads may be recording: they see the one or the other.
    for each, own in before:
        each.__dict__ = {**own, **vars(monitor)}
    try:
        yield
    finally:
        for each, own in before:
            each.__dict__ = own


class _Owner:
    """Forwards to the pipeline of a runtime, which its first monitor creates."""

    def __init__(self, owned: runtime.Runtime) -> None:
        self._owned = owned

    def post(self, function: Callable[[], object]) -> None:
        self._owned.require_pipeline().post(function)

    def run(self, function: Callable[[], _T], timeout: float | None) -> _T:
        return self._owned.require_pipeline().run(function, timeout)


def assert_exposition(page: str, expected: str) -> None:
    """Compare pages of Prometheus text by the metrics that ``expected`` names.

    Order, comments, white space and ``_created`` samples are ignored, and so are metrics of
    ``page`` that ``expected`` does not mention.

    Args:
        page: The scraped page.
        expected: Samples as text, one per line.

    Raises:
        AssertionError: They differ; the message lists missing and unexpected samples.
    """
    page, expected = TEXT("page", page), TEXT("expected", expected)
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
    # Not splitlines(), which also splits at characters that a label value may contain.
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
