"""The meter provider that genmeter creates, and the exporters that read it.

The provider is the built-in one, or the SDK's if the environment requires a feature that only the
SDK has.
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

from genmeter.clock import seconds_left
from genmeter.errors import EndpointError
from genmeter.exporters._factory import make_pushes, preferences
from genmeter.exporters._http import ScrapeServer
from genmeter.exporters.prometheus import PrometheusBridge
from genmeter.exporters.resource import job_name, resource_from_env
from genmeter.exporters.settings import PROMETHEUS, ExportSettings
from genmeter.job.resource import own_resource
from genmeter.metrics.changes import Changes
from genmeter.metrics.meter import BuiltinMeterProvider
from genmeter.pipeline.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.metrics import ExemplarFilter
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.resources import Resource

    from genmeter.config.monitor import MonitorConfig
    from genmeter.job.job import Job
    from genmeter.pipeline.drain import Pipeline

__all__ = ["CollectingReader", "Exporters", "cardinality_arguments"]

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
    """Return a reader's argument for the label sets that one instrument may have.

    It is empty if the installed SDK has none.
    """
    if "cardinality_limits" not in inspect.signature(reader).parameters:
        return {}
    return {"cardinality_limits": dict.fromkeys(_INSTRUMENTS, limit)}


class CollectingReader(MetricReader):
    """A reader of an SDK MeterProvider that collects on demand.

    The SDK waits for its own lock without a time-out. Collections therefore take a lock with a
    time-out here first, so that one fails in time if another hangs.

    Args:
        cardinality_limit: Label sets that one instrument may have, 1 or more. Further ones are
            counted under ``otel_metric_overflow="true"``. SDKs without such an argument, and
            synchronous gauges, keep the SDK's limit of 2,000.
        **arguments: Arguments of the SDK's reader.

    Attributes:
        collection_lock: Held during a collection.
    """

    def __init__(self, *, cardinality_limit: int = 2_000, **arguments: Any) -> None:
        super().__init__(**arguments, **cardinality_arguments(MetricReader, cardinality_limit))
        self.collection_lock = threading.Lock()
        self._received: MetricsData | None = None
        self._is_stopped = False

    def collect_data(self, timeout: float) -> MetricsData | None:
        """Return the metrics; None without any, and after `shutdown`.

        Args:
            timeout: Seconds that it may take.

        Raises:
            TimeoutError: Another collection did not end in time.
            Exception: The SDK's collection failed or took too long.
        """
        lock = self.collection_lock
        if not lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
            raise TimeoutError(
                f"another collection did not end within {timeout} s; a callback of an "
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
        """Replace the lock in a forked child, since a thread of the parent may hold it."""
        self.collection_lock = threading.Lock()

    def _receive_metrics(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,  # noqa: ARG002 - the SDK's signature, here and below
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        self._received = metrics_data

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002
        """Return True; nothing is buffered."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:  # noqa: ARG002
        """Stop collecting. Further calls do nothing."""
        self._is_stopped = True


_EXEMPLAR_FILTERS: dict[str, Callable[[], ExemplarFilter]] = {
    "trace_based": TraceBasedExemplarFilter,
    "always_on": AlwaysOnExemplarFilter,
    "always_off": AlwaysOffExemplarFilter,
}
_MAX_FORK_WAIT = 1.0  # seconds that a fork waits for the first pushes
_MAX_JOIN = 5.0  # seconds that the end waits to join the other processes
_RETRY = 1.0  # seconds between attempts to bind a taken port


class Exporters:
    """A meter provider of genmeter, with its page, endpoint and pushes.

    Args:
        config: The endpoint and the limits.
        pipeline: The owner of the state that the provider reads.
        job: This process's part in its job. One process of a job serves the endpoint and pushes.
        is_main: Whether this is the job's main process; if the provider is the SDK's, whose metrics
            are not combined, only that one serves the endpoint, unless the port is any free one.
        on_export_failure: Called with the exporter's name at every failed push.
        log: Called like ``Logger.log``, for example with the endpoint's address.

    Attributes:
        provider: The meter provider.
        bridge: Writes the page; None without the exporter ``prometheus``.
        server: The scrape endpoint; None if this process has none.
        resource: The resource of the metrics.
        push_names: The names of the exporters that push.

    Raises:
        ConfigError: A setting is invalid.
    """

    def __init__(
        self,
        config: MonitorConfig,
        pipeline: Pipeline,
        *,
        job: Job,
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
        self._job = job
        self._is_shared = not settings.needs_sdk
        self.resource = self._own_resource()
        job.configure(config.job, self.resource, resume=config.resume)
        self._readers: dict[str, CollectingReader] = {}  # by exporter, if the provider is the SDK's
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
                if self._is_shared or is_main or settings.port == 0:
                    self.server = self._make_server()
                elif not self._pushes:
                    log(
                        logging.WARNING,
                        "the metrics of this child process are not served: with the SDK's provider "
                        "only the main process has an endpoint; set "
                        "OTEL_METRICS_EXPORTER=prometheus,otlp to push them",
                    )
        self._linger = endpoint.linger
        self._binder: Worker[None] | None = None
        self._is_finished = False
        self._attach()

    def _own_resource(self, parent: Resource | None = None) -> Resource:
        """Return the resource of this process, with the instance id that its job has."""
        if not self._is_shared or self._job.is_cut_off:
            return resource_from_env(parent)
        make = functools.partial(resource_from_env, parent)
        return own_resource(self._config.job, make)

    def _attach(self) -> None:
        if isinstance(self.provider, BuiltinMeterProvider):
            self._job.attach(Changes(self.provider), self.lead)

    @property
    def job(self) -> str:
        """The job that the metrics belong to."""
        return job_name(self.resource)

    @property
    def url(self) -> str | None:
        """The URL of the page; None while it is not served."""
        return self.server.url if self.server is not None and self.server.is_serving else None

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
        """Return a function that collects for an exporter from the current provider."""

        def collect(timeout: float) -> MetricsData | None:
            if isinstance(self.provider, BuiltinMeterProvider):
                if self._job.join():
                    return self._job.collect(timeout)
                return self.provider.collect(timeout)
            return self._readers[name].collect_data(timeout)

        return collect

    # --- the start -----------------------------------------------------------------------------

    def bind_if_asked(self) -> None:
        """Bind the endpoint now if it is enabled in code.

        Raises:
            EndpointError: The address cannot be used.
        """
        if not self._config.endpoint.is_explicit or self.server is None:
            return
        if not self._is_shared or self._job.lead_at_start():
            self._bind(self.server)

    def start(self) -> None:
        """Lead, unless this process belongs to a job that another one may lead; never raises."""
        if self._is_shared and self._job.may_have_others:
            self._job.start(at_once=True)
        else:
            self.lead()

    def lead(self) -> None:
        """Start the pushes, and bind the endpoint unless it is bound; never raises.

        A taken port is retried once a second until it is free.
        """
        if self._is_finished:
            return
        if self._is_shared and self._job.is_cut_off:
            self._be_alone()
        if not self._job.is_joined:
            self._job.hint()
        for push in self._pushes:
            push.start()
        if self.url is None and self._binder is None and not self._try_to_bind():
            self._binder = Worker(
                name="genmeter-endpoint-retry", tick=self._retry_to_bind, interval=_RETRY
            )
            self._binder.start()

    def _be_alone(self) -> None:
        """Push as a process of its own, since the others cannot be reached."""
        self.resource = resource_from_env(self.resource)
        if isinstance(self.provider, BuiltinMeterProvider):
            self.provider.resource = self.resource

    def _bind(self, server: ScrapeServer) -> None:
        server.start()
        self._log(logging.INFO, "metrics are served at %s", server.url)

    def _try_to_bind(self) -> bool:
        """Return whether there is nothing left to bind."""
        server = self.server
        if server is None or self._is_finished:
            return True
        try:
            self._bind(server)
        except EndpointError as error:
            if self._binder is None:
                self._log(
                    logging.WARNING,
                    "metrics are not served yet, the job goes on and tries again: %s",
                    error,
                )
            return False
        if self._is_finished:  # since the check above
            server.close()
        return True

    def _retry_to_bind(self) -> None:
        if self._try_to_bind() and self._binder is not None:
            self._binder.close()

    def _make_server(self) -> ScrapeServer:
        endpoint, settings = self._config.endpoint, self._settings
        bridge = self.bridge
        assert bridge is not None  # noqa: S101 - created just before
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

    def push_soon(self) -> None:
        """Have all exporters push what is recorded by now; never waits."""
        for push in self._pushes:
            push.push_soon()

    def push(self, deadline: float) -> bool:
        """Push what is recorded by now, and wait for the pushes.

        Args:
            deadline: On the clock of ``time.monotonic()``.

        Returns:
            Whether all of them succeeded in time; True without any.
        """
        # In turn with the other processes: an older state must not arrive after a newer one.
        with self._job.turn(deadline):
            self.push_soon()
            results = [push.push(deadline) for push in self._pushes]  # whatever failed
        return all(results)

    def skip_linger(self) -> None:
        """Have :meth:`finish` not wait for a last scrape."""
        self._linger = 0.0

    def finish(self, timeout: float) -> None:
        """Push once more, linger for a last scrape if configured, and close.

        It may be called again, from any thread; only the first call lingers.

        Args:
            timeout: Seconds for all pushes, without the time to linger.
        """
        deadline = time.monotonic() + timeout
        is_joined = self._is_shared and self._job.join(min(timeout, _MAX_JOIN))
        if self._is_shared and self._job.give_up_if_late():
            self._be_alone()
        # The others go on: they are scraped instead, and one of them pushes.
        is_last = not is_joined or self._job.take_over_at_end(deadline)
        has_others = is_joined and self._job.has_other_processes()
        self._is_finished = True
        share = seconds_left(deadline) / max(1, len(self._pushes))
        for push in self._pushes:
            if is_last:
                push.finish(share)
            else:
                push.drop(share)
        if self._binder is not None:
            self._binder.close()
        linger, self._linger = self._linger, 0.0
        if has_others:
            linger = 0.0
        # The bridge stays, so that a scrape under way gets a whole page.
        if self.server is not None:
            if linger:
                self.server.wait_for_scrape(linger)
            self.server.close()
        if is_joined:
            self._job.detach()
        if isinstance(self.provider, BuiltinMeterProvider):
            self.provider.shutdown()

    # --- fork ----------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Wait a moment for a first push, which may import modules that a child needs too."""
        deadline = time.monotonic() + _MAX_FORK_WAIT
        for push in self._pushes:
            push.before_fork(deadline - time.monotonic())

    def after_fork_in_child(self) -> None:
        """Drop the parent's sockets, pushes and totals; takes no lock."""
        if self.server is not None:
            self.server.close_inherited()
        self._binder = None
        self._is_finished = False
        if self.server is not None:
            is_served = self._is_shared or self._settings.port == 0
            self.server = self._make_server() if is_served else None
        for push in self._pushes:
            push.after_fork_in_child()
        if self.bridge is not None:
            self.bridge.after_fork_in_child()
        self.resource = self._own_resource(self.resource)
        if isinstance(self.provider, BuiltinMeterProvider):
            self.provider.reset_after_fork(self.resource)
        self._attach()

    def rebuild(self) -> bool:
        """Replace the provider in a forked child if it cannot be reset; return whether it was."""
        if isinstance(self.provider, BuiltinMeterProvider):
            return False
        self.provider = self._make_provider()
        return True
