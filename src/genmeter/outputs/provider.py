"""The MeterProvider of our own, from the standard environment variables."""

from __future__ import annotations

import functools
import logging
import os
import uuid
from typing import TYPE_CHECKING

from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_PROMETHEUS_HOST,
    OTEL_EXPORTER_PROMETHEUS_PORT,
    OTEL_SDK_DISABLED,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import (
    PROCESS_PID,
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_NAMESPACE,
    OTELResourceDetector,
    Resource,
)

from genmeter.errors import ConfigError, EndpointError
from genmeter.outputs.otlp import exporter_names, pushes_from_env
from genmeter.outputs.prometheus import PrometheusReader
from genmeter.outputs.server import ScrapeServer

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider as AnyMeterProvider

    from genmeter.config import EndpointConfig, MonitorConfig
    from genmeter.outputs.otlp import Push

__all__ = ["OwnProvider", "job_of"]

_logger = logging.getLogger("genmeter")
_SCRAPE_PATIENCE = 5.0
_PUSH_PATIENCE = 1.0  # an endpoint that is dead holds its first push up for longer
_DEFAULT_HOST = "127.0.0.1"
_MAX_PORT = 65_535
_DEFAULT_JOB = "genmeter"  # as the shipped prometheus.yml names it
_NO_NAME = "unknown_service"  # what OpenTelemetry says where nobody named the service
_DEFAULT_PORT = 9464  # the port that OpenTelemetry's Prometheus exporters share


class OwnProvider:
    """A MeterProvider, the ways out that the environment asks for, and their end.

    Args:
        config: The endpoint and the limits.
        with_endpoint: Whether this process may serve the endpoint at all; a child leaves it to
            the main process, unless any free port will do.
        on_export_failure: Told the exporter's name at every push that fails.
        parent: In a forked child, the parent's.
        log: Told, as ``Logger.log`` is, where the endpoint is and why it is not.

    Attributes:
        resource: What it says of this process.

    Raises:
        ConfigError: An environment variable that cannot be used.
    """

    def __init__(
        self,
        config: MonitorConfig,
        *,
        with_endpoint: bool,
        on_export_failure: Callable[[str], None],
        log: Callable[..., None] = _logger.log,
        parent: OwnProvider | None = None,
    ) -> None:
        endpoint = config.endpoint
        is_disabled = os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true"
        names = [] if is_disabled else list(exporter_names(os.environ))
        if endpoint.asked_for_in_code and not is_disabled and "prometheus" not in names:
            names.append("prometheus")
        limit = config.limits.combinations
        self.pushes: list[Push] = pushes_from_env(
            tuple(names), os.environ, cardinality_limit=limit, on_failure=on_export_failure
        )
        self.reader: PrometheusReader | None = None
        self.server: ScrapeServer | None = None
        host, port = _address(endpoint)
        if "prometheus" in names and (with_endpoint or port == 0):
            self.reader = PrometheusReader(cardinality_limit=limit)
            if endpoint.enabled is not False:
                self.server = ScrapeServer(
                    self.reader.render,
                    host=host,
                    port=port,
                    certfile=endpoint.certfile,
                    keyfile=endpoint.keyfile,
                    username=endpoint.username,
                    password=endpoint.password,
                    warn=functools.partial(log, logging.WARNING),
                )
        self._log = log
        self._linger = endpoint.linger
        self._must_bind = endpoint.asked_for_in_code
        self.resource: Resource = _resource_of(None if parent is None else parent.resource)
        readers = [push.reader for push in self.pushes]
        self.meter_provider = MeterProvider(
            metric_readers=[*readers, self.reader] if self.reader is not None else readers,
            resource=self.resource,
            shutdown_on_exit=False,
        )
        self._is_bound = False
        self._is_finished = False

    @property
    def url(self) -> str | None:
        """Where the page is served; None while it is not."""
        return self.server.url if self.server is not None and self._is_bound else None

    def bind_if_asked(self) -> None:
        """Bind the endpoint now where the caller asked for it in code.

        Raises:
            EndpointError: The address cannot be used.
        """
        if self._must_bind and self.server is not None:
            self.server.start()
            self._announce()

    def start(self) -> None:
        """Bind the endpoint, if that was not done yet, and start the pushes; never raises."""
        for push in self.pushes:
            push.start()
        if self.server is None or self._is_bound:
            return
        try:
            self.server.start()
        except EndpointError as error:
            self._log(logging.WARNING, "metrics are not served, the job goes on: %s", error)
            self.server = None
            return
        if self._is_finished:  # meanwhile
            self.server.close()
            return
        self._announce()

    def finish(self, timeout: float) -> None:
        """Push once more, wait for a last scrape where the job lingers, and close.

        It may be called again, from any thread; only the first call lingers.

        Args:
            timeout: Seconds for the pushes together; lingering is beside it.
        """
        self._is_finished = True
        share = timeout / max(1, len(self.pushes))
        for push in self.pushes:
            push.finish(share)
        linger, self._linger = self._linger, 0.0
        if self.server is not None and self._is_bound and linger:
            self.server.wait_for_scrape(linger)
        # The reader stays: a scrape that is under way still gets the whole page, not an empty one.
        if self.server is not None:
            self.server.close()
        self._is_bound = False

    def fork_locks(self) -> list[tuple[threading.Lock, float]]:
        """Name what must not be under way while this process forks.

        Returns:
            The locks, and seconds that a fork may wait for each.
        """
        locks = [(push.first_push, _PUSH_PATIENCE) for push in self.pushes if not push.has_pushed]
        if self.reader is not None:
            locks.append((self.reader.collection_lock, _SCRAPE_PATIENCE))
        return locks

    def leave_to_parent(self) -> None:
        """Let go, in a forked child, of what is the parent's."""
        if self.server is not None:
            self.server.close_inherited()

    def _announce(self) -> None:
        self._is_bound = True
        if self.server is not None:
            self._log(logging.INFO, "metrics are served at %s", self.server.url)


def job_of(provider: AnyMeterProvider) -> str:
    """Name the job that a provider's metrics are of, as Prometheus does with OTLP.

    Args:
        provider: Ours or the application's; of one that does not tell its resource, the
            environment is asked.

    Returns:
        The service's name, after its namespace and a slash where it has one; ``genmeter`` where
        nobody named it.
    """
    resource = getattr(getattr(provider, "_sdk_config", None), "resource", None)
    if not isinstance(resource, Resource):
        resource = OTELResourceDetector().detect()
    name = str(resource.attributes.get(SERVICE_NAME) or _NO_NAME)
    if name == _NO_NAME or name.startswith(f"{_NO_NAME}:"):
        return _DEFAULT_JOB
    namespace = resource.attributes.get(SERVICE_NAMESPACE)
    return f"{namespace}/{name}" if namespace else name


def _resource_of(parents: Resource | None) -> Resource:
    # create() adds OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME. It needs a thread, which a child
    # that is at its end already cannot have.
    resource = Resource.create() if parents is None else parents
    if parents is None and SERVICE_INSTANCE_ID in resource.attributes:
        return resource
    # Two processes must not push the same series.
    pid = os.getpid()
    own: dict[str, str | int] = {SERVICE_INSTANCE_ID: _instance_id(pid)}
    if PROCESS_PID in resource.attributes:
        own[PROCESS_PID] = pid
    return resource.merge(Resource(own))


@functools.lru_cache(maxsize=1)
def _instance_id(pid: int) -> str:  # noqa: ARG001 - the id is of one process
    return str(uuid.uuid4())


def _address(endpoint: EndpointConfig) -> tuple[str, int]:
    host = endpoint.host or os.environ.get(OTEL_EXPORTER_PROMETHEUS_HOST) or _DEFAULT_HOST
    if endpoint.port is not None:
        return host, endpoint.port
    text = os.environ.get(OTEL_EXPORTER_PROMETHEUS_PORT, "").strip() or str(_DEFAULT_PORT)
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_PORT):
        raise ConfigError(
            f"{OTEL_EXPORTER_PROMETHEUS_PORT} is {text!r}; give a whole number from 0 to {_MAX_PORT}"
        )
    return host, int(text)
