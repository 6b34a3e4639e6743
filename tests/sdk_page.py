"""A page of an SDK MeterProvider, as in `genmeter.exporters.provider`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.exporters.prometheus import FamilyCollector, PrometheusBridge
from genmeter.exporters.provider import CollectingReader

if TYPE_CHECKING:
    from collections.abc import Collection


__all__ = ["PrometheusReader"]


class PrometheusReader(CollectingReader):
    """A reader with a bridge that turns its collections into pages.

    Args:
        cardinality_limit: Passed to `CollectingReader`, as the others are to `PrometheusBridge`.
        target_info: Whether there is a ``target_info``.
        created: Whether there are ``_created`` series.
        timeout: Seconds that a collection may take.

    Attributes:
        bridge: The bridge.
    """

    def __init__(
        self,
        *,
        cardinality_limit: int = 2_000,
        target_info: bool = True,
        created: bool | None = None,
        timeout: float = 10.0,
    ) -> None:
        super().__init__(cardinality_limit=cardinality_limit)
        self.bridge = PrometheusBridge(
            self.collect_data, target_info=target_info, created=created, timeout=timeout
        )

    @property
    def collector(self) -> FamilyCollector:
        """The same metrics for a ``prometheus_client.CollectorRegistry``."""
        return FamilyCollector(self.bridge.collect_families)

    def render(self, openmetrics: bool, names: Collection[str] = ()) -> bytes:
        """Collect, and write a page, as `PrometheusBridge.render` does."""
        return self.bridge.render(openmetrics, names)

    def after_fork_in_child(self) -> None:
        """Reset the reader and the bridge in a forked child."""
        super().after_fork_in_child()
        self.bridge.after_fork_in_child()
