"""The meter provider that genmeter makes, and the exporters that read it.

One place chooses whose provider stands behind the recorder: ours, or the SDK's where the
environment asks for what ours does not do.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import (
    SERVICE_NAME,
    SERVICE_NAMESPACE,
    OTELResourceDetector,
    Resource,
)

from genmeter.errors import EndpointError
from genmeter.exporters.http import ScrapeServer
from genmeter.exporters.making import make_pushes, preferences
from genmeter.exporters.prometheus import PrometheusBridge
from genmeter.exporters.settings import MAIN_PID, PROMETHEUS, ExportSettings, resource_from_env
from genmeter.metrics.meter import BuiltinMeterProvider
from genmeter.pipeline.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.metrics import ExemplarFilter
    from opentelemetry.sdk.metrics.export import MetricsData

    from genmeter.config.monitor import MonitorConfig
    from genmeter.pipeline.drain import Pipeline

__all__ = ["CollectingReader", "Exporters", "cardinality_arguments", "job_of"]

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


_DEFAULT_JOB = "genmeter"  # as the shipped prometheus.yml names it
_NO_NAME = "unknown_service"  # what OpenTelemetry says where nobody named the service
_EXEMPLAR_FILTERS: dict[str, Callable[[], ExemplarFilter]] = {
    "trace_based": TraceBasedExemplarFilter,
    "always_on": AlwaysOnExemplarFilter,
    "always_off": AlwaysOffExemplarFilter,
}
_PUSH_PATIENCE = 1.0  # seconds that a fork waits for the first pushes
_RETRY = 1.0  # seconds between attempts to bind a port that is taken


class Exporters:
    """A meter provider of genmeter's own, its page, its endpoint and its pushes.

    Args:
        config: The endpoint and the limits.
        pipeline: The owner of the state that the provider reads.
        is_main: Whether this is the job's main process; only that one serves the endpoint, unless
            any free port will do.
        on_export_failure: Called with the exporter's name at every push that fails.
        log: Called as ``Logger.log`` is, with where the endpoint is and why it is not.

    Attributes:
        provider: The meter provider.
        bridge: Writes the page; None where nobody scrapes.
        resource: What the metrics say of this process.
        push_names: The names of the exporters that push.

    Raises:
        ConfigError: A setting that cannot be used.
    """

    def __init__(
        self,
        config: MonitorConfig,
        pipeline: Pipeline,
        *,
        is_main: bool,
        on_export_failure: Callable[[str], None],
        log: Callable[..., None],
    ) -> None:
        endpoint = config.endpoint
        self._config = config
        self._pipeline = pipeline
        self._log = log
        self._settings = settings = ExportSettings.from_env(
            os.environ,
            with_prometheus=endpoint.is_explicit,
            host=endpoint.host,
            port=endpoint.port,
        )
        for warning in settings.warnings:
            log(logging.WARNING, "%s", warning)
        self.resource: Resource = resource_from_env()
        # One for each exporter, where the provider is the SDK's.
        self._readers: dict[str, CollectingReader] = {}
        self._pushes = make_pushes(
            settings, self._collect_for, on_failure=on_export_failure, log=log
        )
        self.push_names = [push.name for push in self._pushes]
        self.provider: MeterProvider = self._make_provider()
        self.bridge: PrometheusBridge | None = None
        self.server: ScrapeServer | None = None
        if PROMETHEUS in settings.exporters:
            self.bridge = PrometheusBridge(
                self._collect_for(PROMETHEUS), created=endpoint.created_series
            )
            if endpoint.enabled is not False:
                if is_main or settings.port == 0:
                    self.server = self._make_server()
                elif MAIN_PID in os.environ and not self._pushes:
                    log(
                        logging.WARNING,
                        "the metrics of this child process are not served: only the main process "
                        "has an endpoint; set OTEL_METRICS_EXPORTER=prometheus,otlp to push them",
                    )
        self._linger = config.endpoint.linger
        self._binder: Worker[None] | None = None
        self._is_bound = False
        self._is_finished = False

    @property
    def job(self) -> str:
        """The job that the metrics are of."""
        return _job_name(self.resource)

    @property
    def url(self) -> str | None:
        """Where the page is served; None while it is not."""
        return self.server.url if self.server is not None and self._is_bound else None

    # --- the provider --------------------------------------------------------------------------

    def _make_provider(self) -> MeterProvider:
        limit = self._config.limits.combinations
        settings = self._settings
        if not settings.needs_sdk:
            return BuiltinMeterProvider(
                self._pipeline,
                resource=self.resource,
                cardinality_limit=limit,
                exemplars=settings.exemplar_filter != "always_off",
                warn=functools.partial(self._log, logging.WARNING),
            )
        self._readers = {
            name: CollectingReader(cardinality_limit=limit, **preferences(name, settings))
            for name in settings.exporters
        }
        return SdkMeterProvider(
            metric_readers=list(self._readers.values()),
            resource=self.resource,
            exemplar_filter=_EXEMPLAR_FILTERS[settings.exemplar_filter](),
            shutdown_on_exit=False,
        )

    def _collect_for(self, name: str) -> Callable[[float], MetricsData | None]:
        """Return what collects for an exporter, from whichever provider there is by then."""

        def collect(timeout: float) -> MetricsData | None:
            if isinstance(self.provider, BuiltinMeterProvider):
                return self.provider.collect(timeout)
            return self._readers[name].collect_data(timeout)

        return collect

    # --- the start -----------------------------------------------------------------------------

    def bind_if_asked(self) -> None:
        """Bind the endpoint now where the caller asked for it in code.

        Raises:
            EndpointError: The address cannot be used.
        """
        if self._config.endpoint.is_explicit and self.server is not None:
            self.server.start()
            self._on_bound()

    def start(self) -> None:
        """Start the pushes, and bind the endpoint if that was not done yet; never raises.

        A port that is taken is tried again once a second until it is free.
        """
        for push in self._pushes:
            push.start()
        if self.server is None or self._is_bound or self._is_finished or self._binder is not None:
            return
        if not self._try_to_bind():
            self._binder = Worker(
                name="genmeter-endpoint-retry", tick=self._retry_to_bind, interval=_RETRY
            )
            self._binder.start()

    def _try_to_bind(self) -> bool:
        if self.server is None:
            return False
        try:
            self.server.start()
        except EndpointError as error:
            if self._binder is None:
                self._log(
                    logging.WARNING,
                    "metrics are not served yet, the job goes on and tries again: %s",
                    error,
                )
            return False
        if self._is_finished:  # meanwhile
            self.server.close()
        else:
            self._on_bound()
        return True

    def _retry_to_bind(self) -> None:
        if (self._is_finished or self._try_to_bind()) and self._binder is not None:
            self._binder.close()

    def _on_bound(self) -> None:
        self._is_bound = True
        if self.server is not None:
            self._log(logging.INFO, "metrics are served at %s", self.server.url)

    def _make_server(self) -> ScrapeServer:
        endpoint, settings = self._config.endpoint, self._settings
        bridge = self.bridge
        assert bridge is not None  # noqa: S101 - made just before
        return ScrapeServer(
            bridge.render,
            host=settings.host,
            port=settings.port,
            certfile=endpoint.certfile,
            keyfile=endpoint.keyfile,
            username=endpoint.username,
            password=endpoint.password,
            client_ca_file=endpoint.client_ca_file,
            warn=functools.partial(self._log, logging.WARNING),
        )

    # --- the end -------------------------------------------------------------------------------

    def finish(self, timeout: float) -> None:
        """Push once more, wait for a last scrape where the job lingers, and close.

        It may be called again, from any thread; only the first call lingers.

        Args:
            timeout: Seconds for the pushes together; lingering is beside it.
        """
        self._is_finished = True
        share = timeout / max(1, len(self._pushes))
        for push in self._pushes:
            push.finish(share)
        if self._binder is not None:
            self._binder.close()
        linger, self._linger = self._linger, 0.0
        if self.server is not None and self._is_bound and linger:
            self.server.wait_for_scrape(linger)
        # The bridge stays: a scrape that is under way still gets the whole page, not an empty one.
        if self.server is not None:
            self.server.close()
        self._is_bound = False
        if isinstance(self.provider, BuiltinMeterProvider):
            self.provider.shutdown()

    # --- fork ----------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Wait a moment for a first push, which may import what a child needs too."""
        deadline = time.monotonic() + _PUSH_PATIENCE
        for push in self._pushes:
            push.before_fork(deadline - time.monotonic())

    def after_fork_in_child(self) -> None:
        """Drop what is the parent's, and start at 0; takes no lock."""
        if self.server is not None:
            self.server.close_inherited()
        self._binder = None
        self._is_bound = self._is_finished = False
        self.server = self._make_server() if self.server and self._settings.port == 0 else None
        for push in self._pushes:
            push.after_fork_in_child()
        if self.bridge is not None:
            self.bridge.after_fork_in_child()
        self.resource = resource_from_env(self.resource)
        if isinstance(self.provider, BuiltinMeterProvider):
            self.provider.reset_after_fork(self.resource)

    def rebuild(self) -> bool:
        """In a forked child, make a new provider where the inherited one cannot start at 0.

        Returns:
            Whether there is a new one.
        """
        if isinstance(self.provider, BuiltinMeterProvider):
            return False
        self.provider = self._make_provider()
        return True


def job_of(provider: MeterProvider) -> str:
    """Return the job that an application's provider's metrics are of, as Prometheus does with OTLP.

    Args:
        provider: Its provider; of one that does not tell its resource, the environment is asked.

    Returns:
        The service's name, after its namespace and a slash where it has one; ``genmeter`` where
        nobody named it.
    """
    resource = getattr(getattr(provider, "_sdk_config", None), "resource", None)
    if not isinstance(resource, Resource):
        resource = getattr(provider, "resource", None)
    if not isinstance(resource, Resource):
        resource = OTELResourceDetector().detect()
    return _job_name(resource)


def _job_name(resource: Resource) -> str:
    name = str(resource.attributes.get(SERVICE_NAME) or _NO_NAME)
    if name == _NO_NAME or name.startswith(f"{_NO_NAME}:"):
        return _DEFAULT_JOB
    namespace = resource.attributes.get(SERVICE_NAMESPACE)
    return f"{namespace}/{name}" if namespace else name
