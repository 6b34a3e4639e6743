"""A real OpenTelemetry Collector that receives OTLP and exposes it as a Prometheus page."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from _servers import LOOPBACK, Server, free_port, poll, program, request
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

WAIT_TIMEOUT = 30.0


class Collector(Server):
    """An OpenTelemetry Collector on loopback: OTLP in over gRPC and HTTP, a Prometheus page out.

    Each test uses its own service name to separate its series:

        environment = collector.environment("grpc", service="my-test")
        subprocess.run([...], env={**os.environ, **environment})
        collector.wait_for("genmeter_tokens_total", lambda total: total == 300, job="my-test")

    The page keeps the series of an ended process. The label `job` is the service's name and
    `instance` is its instance id.

    Attributes:
        grpc_endpoint: for `OTEL_EXPORTER_OTLP_ENDPOINT` with gRPC.
        http_endpoint: the same for HTTP (exporters append `/v1/metrics`).
        metrics_url: the Prometheus page, to scrape by a `Prometheus`.
    """

    def __init__(self, folder: Path, exporter: Mapping[str, Any] | None = None) -> None:
        """Create the server, not started yet.

        Args:
            folder: an empty folder for the configuration and the log.
            exporter: further settings of the Prometheus exporter.
        """
        super().__init__("collector", folder)
        self._exporter = dict(exporter or {})
        self.grpc_endpoint = ""
        self.http_endpoint = ""
        self.metrics_url = ""
        self._addresses: tuple[str, str, str] | None = None

    def start_again(self) -> None:
        """Start it on the ports that it had before it was stopped."""
        addresses = (self.grpc_endpoint, self.http_endpoint, self.metrics_url)
        grpc, http, page = (urlsplit(address).netloc for address in addresses)
        self._addresses = grpc, http, page
        self.start()

    def send_signal(self, number: int) -> None:
        """Send a signal to it, such as SIGSTOP, after which it accepts connections and is silent."""
        assert self._process is not None
        self._process.send_signal(number)

    def command(self) -> list[str | Path]:
        """Choose the ports, write the configuration, and return the command line."""
        grpc, http, page = self._addresses or (f"{LOOPBACK}:{free_port()}" for _ in range(3))
        self.grpc_endpoint = f"http://{grpc}"
        self.http_endpoint = f"http://{http}"
        self.metrics_url = f"http://{page}/metrics"
        config = {
            "receivers": {
                "otlp": {"protocols": {"grpc": {"endpoint": grpc}, "http": {"endpoint": http}}}
            },
            "exporters": {
                "prometheus": {
                    "endpoint": page,
                    "metric_expiration": "1h",
                    "resource_to_telemetry_conversion": {"enabled": False},
                    **self._exporter,
                }
            },
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"metrics": {"receivers": ["otlp"], "exporters": ["prometheus"]}},
            },
        }
        path = self.folder / "collector.yaml"
        # JSON is valid YAML.
        path.write_text(json.dumps(config))
        return [program("otelcol-genmeter"), "--config", path]

    def is_ready(self) -> bool:
        """Return whether both receivers and the page accept connections."""
        try:
            for endpoint in (self.grpc_endpoint, self.http_endpoint):
                host, port = endpoint.removeprefix("http://").split(":")
                socket.create_connection((host, int(port)), timeout=1).close()
            return request("GET", self.metrics_url)[0] == 200
        except OSError:
            return False

    def environment(self, protocol: str, service: str) -> dict[str, str]:
        """Return the environment variables of a process that exports to this Collector.

        Args:
            protocol: `grpc` or `http/protobuf`.
            service: the service's name, the label `job` of its series.
        """
        endpoint = self.grpc_endpoint if protocol == "grpc" else self.http_endpoint
        return {
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_SERVICE_NAME": service,
        }

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with this name and these labels, 0 if there are none.

        Args:
            name: the sample's Prometheus name, such as `genmeter_tokens_total`.
            labels: labels that a sample must have.
        """
        _, page = request("GET", self.metrics_url)
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def wait_for(
        self,
        name: str,
        predicate: Callable[[float], bool],
        timeout: float = WAIT_TIMEOUT,
        **labels: str,
    ) -> float:
        """Read `total` until the predicate accepts it, and return it.

        A timeout (seconds) fails the test with the last sum.
        """
        accepted, total = poll(lambda: self.total(name, **labels), predicate, timeout)
        assert accepted, (
            f"the Collector's {name} {labels} was not as expected within {timeout} s: "
            f"it is {total}\nlog: {self.log_tail()}"
        )
        return total
