"""The MeterProvider of our own, from the standard environment variables."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_PROMETHEUS_HOST,
    OTEL_EXPORTER_PROMETHEUS_PORT,
    OTEL_SDK_DISABLED,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource

from genmeter.errors import ConfigError, EndpointError
from genmeter.outputs.otlp import exporter_names, pushes_from_env
from genmeter.outputs.prometheus import PrometheusReader
from genmeter.outputs.server import ScrapeServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from genmeter.config import EndpointConfig, MonitorConfig
    from genmeter.outputs.otlp import Push

__all__ = ["OwnProvider"]

_logger = logging.getLogger("genmeter")
_DEFAULT_HOST = "127.0.0.1"
_DEFAULT_PORT = 9464  # the port that OpenTelemetry's Prometheus exporters share


class OwnProvider:
    """A MeterProvider, the ways out that the environment asks for, and their end.

    Args:
        config: The endpoint and the limits.
        with_endpoint: Whether this process may serve the endpoint at all; a child leaves it to
            the main process, unless any free port will do.
        on_export_failure: Told the exporter's name at every push that fails.

    Raises:
        ConfigError: An environment variable that cannot be used.
    """

    def __init__(
        self,
        config: MonitorConfig,
        *,
        with_endpoint: bool,
        on_export_failure: Callable[[str], None],
    ) -> None:
        endpoint = config.endpoint
        names = [] if _is_disabled() else list(exporter_names(os.environ))
        if endpoint.asked_for_in_code and "prometheus" not in names:
            names.append("prometheus")
        limit = config.limits.combinations
        self.pushes: list[Push] = pushes_from_env(
            tuple(names), os.environ, cardinality_limit=limit, on_failure=on_export_failure
        )
        self.reader: PrometheusReader | None = None
        self.server: ScrapeServer | None = None
        if "prometheus" in names and (with_endpoint or endpoint.port == 0):
            self.reader = PrometheusReader(cardinality_limit=limit)
            if endpoint.enabled is not False:
                self.server = _server(endpoint, self.reader)
        self._linger = endpoint.linger
        self._must_bind = endpoint.asked_for_in_code
        readers = [push.reader for push in self.pushes]
        self.is_read = bool(readers) or self.reader is not None
        self.meter_provider = MeterProvider(
            metric_readers=[*readers, self.reader] if self.reader is not None else readers,
            # create() adds OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME and, in this process only,
            # a service.instance.id: two processes must not push the same series.
            resource=Resource.create(),
            shutdown_on_exit=False,
        )
        self._is_bound = False

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
            _logger.warning("metrics are not served, the job goes on: %s", error)
            self.server = None
            return
        self._announce()

    def finish(self, timeout: float) -> None:
        """Wait for a last scrape where the job lingers, push once more, and close.

        Args:
            timeout: Seconds for the pushes together; lingering is beside it.
        """
        if self.server is not None and self._is_bound and self._linger:
            self.server.wait_for_scrape(self._linger)
        share = timeout / max(1, len(self.pushes))
        for push in self.pushes:
            push.finish(share)
        if self.server is not None:
            self.server.close()
        if self.reader is not None:
            self.reader.shutdown()
        self._is_bound = False

    def leave_to_parent(self) -> None:
        """Let go, in a forked child, of what is the parent's."""
        if self.server is not None:
            self.server.close_inherited()

    def _announce(self) -> None:
        self._is_bound = True
        if self.server is not None:
            _logger.info("metrics are served at %s", self.server.url)


def _is_disabled() -> bool:
    return os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true"


def _server(endpoint: EndpointConfig, reader: PrometheusReader) -> ScrapeServer:
    host = endpoint.host or os.environ.get(OTEL_EXPORTER_PROMETHEUS_HOST) or _DEFAULT_HOST
    port = endpoint.port
    if port is None:
        text = os.environ.get(OTEL_EXPORTER_PROMETHEUS_PORT) or str(_DEFAULT_PORT)
        try:
            port = int(text)
        except ValueError as error:
            raise ConfigError(
                f"{OTEL_EXPORTER_PROMETHEUS_PORT} is {text!r}; give a port from 0 to 65535"
            ) from error
    return ScrapeServer(
        reader.render,
        host=host,
        port=port,
        certfile=endpoint.certfile,
        keyfile=endpoint.keyfile,
        username=endpoint.username,
        password=endpoint.password,
    )
