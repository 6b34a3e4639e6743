"""A real VictoriaMetrics with targets added by tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from _prometheus import QueriedServer, Sample
from _servers import LOOPBACK, Server, free_port, program, request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class VictoriaMetrics(QueriedServer):
    """A VictoriaMetrics on loopback that scrapes five times a second.

    Attributes:
        url: The server's address, such as `http://127.0.0.1:41234`.
    """

    def __init__(
        self,
        folder: Path,
        flags: Sequence[str] = (),
        *,
        interval: str = "200ms",
        jobs: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Create the server, not started yet.

        Args:
            folder: An empty folder for the configuration, the data and the log.
            flags: Further flags.
            interval: The interval of scrapes.
            jobs: Further items of `scrape_configs`.
        """
        super().__init__("victoria-metrics", folder)
        self.url = ""
        self._flags = flags
        self._interval = interval
        self._jobs = list(jobs)
        self._targets: list[dict[str, Any]] = []

    def command(self) -> list[str | Path]:
        """Choose a port, write the configuration, and return the command line."""
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        self._write_config()
        self._write_targets()
        return [
            program("victoria-metrics"),
            f"-storageDataPath={self.folder / 'data'}",
            f"-httpListenAddr={LOOPBACK}:{port}",
            f"-promscrape.config={self.folder / 'scrape.yml'}",
            "-promscrape.fileSDCheckInterval=1s",
            "-retentionPeriod=30d",
            "-memory.allowedBytes=64MiB",
            "-loggerLevel=WARN",
            *self._flags,
        ]

    def is_ready(self) -> bool:
        """Return whether queries are answered."""
        try:
            return request("GET", f"{self.url}/health")[0] == 200
        except OSError:
            return False

    def add_target(self, url: str, **labels: str) -> str:
        """Add a target with further labels, and return its `instance` label."""
        parts = urlsplit(url)
        meta = {"__scheme__": parts.scheme, "__metrics_path__": parts.path or "/metrics"}
        self._targets.append({"targets": [parts.netloc], "labels": {**meta, **labels}})
        self._write_targets()
        return parts.netloc

    def add_samples(self, text: str) -> None:
        """Store samples, as lines of Prometheus text with times in milliseconds."""
        status, body = request("POST", f"{self.url}/api/v1/import/prometheus", text.encode())
        assert status == 204, body

    def remove_target(self, instance: str) -> None:
        """Remove the target with this `instance`."""
        self._targets = [each for each in self._targets if instance not in each["targets"]]
        self._write_targets()

    def add_job(self, job: Mapping[str, Any]) -> None:
        """Add an item of `scrape_configs`."""
        self._jobs.append(dict(job))
        self._write_config()
        status, body = request("GET", f"{self.url}/-/reload")
        assert status < 300, body

    def query(self, promql: str, at: float | None = None) -> list[Sample]:
        """Evaluate an expression over all that was stored.

        A query that comes too early would find nothing for ten seconds more.
        """
        assert request("GET", f"{self.url}/internal/force_flush")[0] == 200
        return super().query(promql, at)

    def _write_config(self) -> None:
        config = {
            "global": {"scrape_interval": self._interval, "scrape_timeout": self._interval},
            "scrape_configs": [
                {"job_name": "text", "file_sd_configs": [{"files": [str(self._file)]}]},
                *self._jobs,
            ],
        }
        # JSON is valid YAML.
        (self.folder / "scrape.yml").write_text(json.dumps(config))

    @property
    def _file(self) -> Path:
        return self.folder / "targets.json"

    def _write_targets(self) -> None:
        # Replaced atomically, so that the server never reads a partial file.
        new = self.folder / "targets.new"
        new.write_text(json.dumps(self._targets))
        new.replace(self._file)


class Vmalert(Server):
    """Evaluates rules on a VictoriaMetrics, and stores what they record there.

    Attributes:
        url: The server's address, with the API of Prometheus for rules and alerts.
    """

    def __init__(
        self,
        folder: Path,
        database: str,
        rules: Sequence[Path],
        *,
        interval: str = "200ms",
        delay: str = "0s",
        alertmanagers: Sequence[str] = (),
    ) -> None:
        """Create the server, not started yet.

        Args:
            folder: An empty folder for the log.
            database: The address of the VictoriaMetrics.
            rules: The rule files.
            interval: The interval of evaluations.
            delay: How long ago rules are evaluated. The samples of a scrape become visible one by one
                within a second or two; by default it is half a minute, two scrapes of 15 seconds.
            alertmanagers: The addresses of Alertmanagers.
        """
        super().__init__("vmalert", folder)
        self.url = ""
        self._database = database
        self._rules = rules
        self._interval = interval
        self._delay = delay
        self._alertmanagers = alertmanagers

    def command(self) -> list[str | Path]:
        """Choose a port, and return the command line."""
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        notifiers = [f"-notifier.url={url}" for url in self._alertmanagers]
        return [
            program("vmalert"),
            *(f"-rule={path}" for path in self._rules),
            f"-datasource.url={self._database}",
            # Annotations and the state of alerts are series there too.
            f"-remoteWrite.url={self._database}",
            "-remoteWrite.flushInterval=100ms",
            f"-evaluationInterval={self._interval}",
            f"-rule.evalDelay={self._delay}",
            f"-httpListenAddr={LOOPBACK}:{port}",
            "-loggerLevel=WARN",
            *(notifiers or ["-notifier.blackhole"]),
        ]

    def is_ready(self) -> bool:
        """Return whether it responds."""
        try:
            return request("GET", f"{self.url}/health")[0] == 200
        except OSError:
            return False
