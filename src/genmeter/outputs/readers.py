"""The reader of an SDK's MeterProvider."""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import MetricReader

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData

__all__ = ["CollectingReader", "cardinality_arguments"]

# Every class that the SDK exports. That of the synchronous gauge is private, and no instrument of
# genmeter's is one: other libraries' gauges keep the SDK's own limit of 2,000.
_INSTRUMENTS = (
    sdk.Counter,
    sdk.Histogram,
    sdk.ObservableCounter,
    sdk.ObservableGauge,
    sdk.ObservableUpDownCounter,
    sdk.UpDownCounter,
)


def cardinality_arguments(reader: type[object], limit: int) -> dict[str, Any]:
    """Return the argument that caps the label sets of each instrument of a reader.

    Args:
        reader: The reader's class, whose constructor gets the argument.
        limit: Label sets that one instrument may have.

    Returns:
        The keyword argument, or nothing where the installed SDK has none.
    """
    if "cardinality_limits" not in inspect.signature(reader).parameters:
        return {}
    return {"cardinality_limits": dict.fromkeys(_INSTRUMENTS, limit)}


class CollectingReader(MetricReader):
    """A reader of an SDK MeterProvider that collects when it is asked to.

    The SDK collects for one reader at a time and without a time-out on its own lock. So a lock is
    held here over each collection: one beside another that hangs fails in time.

    Args:
        cardinality_limit: Label sets that one instrument may have, 1 or more. Further ones are
            counted under ``otel_metric_overflow="true"``. SDKs without such an argument, and
            synchronous gauges, keep the SDK's own limit of 2,000.
        **arguments: As the SDK's reader takes them.

    Attributes:
        collection_lock: Held during a collection.
    """

    def __init__(self, *, cardinality_limit: int = 2_000, **arguments: Any) -> None:
        super().__init__(**arguments, **cardinality_arguments(MetricReader, cardinality_limit))
        self.collection_lock = threading.Lock()
        self._received: MetricsData | None = None
        self._is_stopped = False

    def collect_data(self, timeout: float) -> MetricsData | None:
        """Collect from the SDK.

        Args:
            timeout: Seconds that it may take.

        Returns:
            The metrics; None without any, and after `shutdown`.

        Raises:
            TimeoutError: Another collection did not end in time.
            Exception: Whatever the SDK raises for a collection that fails or takes too long.
        """
        lock = self.collection_lock
        if not lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            raise TimeoutError(
                f"another collection has not ended for {timeout} s; a callback of an "
                "observable instrument hangs"
            )
        try:
            self._received = None
            if not self._is_stopped:
                self.collect(timeout_millis=timeout * 1e3)
            received, self._received = self._received, None
            return received
        finally:
            lock.release()

    def after_fork_in_child(self) -> None:
        """Replace, in a forked child, what another thread of the parent may have held."""
        self.collection_lock = threading.Lock()

    def _receive_metrics(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,
        **kwargs: Any,
    ) -> None:
        del timeout_millis, kwargs
        self._received = metrics_data

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Do nothing, since nothing waits here; always True."""
        del timeout_millis
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Collect no more. Further calls do nothing."""
        del timeout_millis, kwargs
        self._is_stopped = True
