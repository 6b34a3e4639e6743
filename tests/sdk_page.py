"""A page over a MeterProvider of the SDK, as `genmeter.exporters.provider` puts it together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.exporters.prometheus import PrometheusBridge
from genmeter.exporters.provider import CollectingReader

if TYPE_CHECKING:
    from collections.abc import Collection

    from genmeter.exporters.prometheus import FamilyCollector

__all__ = ["PrometheusReader"]


class PrometheusReader(CollectingReader):
    """A reader and the bridge that turns its collections into pages.

    Args:
        cardinality_limit: As `CollectingReader` takes it.
        target_info: As `PrometheusBridge` takes it.
        created: As `PrometheusBridge` takes it.
        timeout: As `PrometheusBridge` takes it.

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
        return self.bridge.collector

    def render(self, openmetrics: bool, names: Collection[str] = ()) -> bytes:
        """Collect, and write a page, as `PrometheusBridge.render` does."""
        return self.bridge.render(openmetrics, names)

    def after_fork_in_child(self) -> None:
        """Begin anew in a forked child, as the reader and the bridge do."""
        super().after_fork_in_child()
        self.bridge.after_fork_in_child()
