"""A real VictoriaMetrics with targets added by tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from _servers import LOOPBACK, Server, free_port, program, request

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class VictoriaMetrics(Server):
    """A VictoriaMetrics on loopback that scrapes five times a second.

    Attributes:
        url: The server's address, such as `http://127.0.0.1:41234`.
    """

    def __init__(self, folder: Path, flags: Sequence[str] = ()) -> None:
        """Create the server, not started yet.

        Args:
            folder: An empty folder for the configuration, the data and the log.
            flags: Further flags.
        """
        super().__init__("victoria-metrics", folder)
        self.url = ""
        self._flags = flags
        self._targets: list[dict[str, Any]] = []

    def command(self) -> list[str | Path]:
        """Choose a port, write the configuration, and return the command line."""
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        config = {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
            "scrape_configs": [
                {"job_name": "text", "file_sd_configs": [{"files": [str(self._file)]}]}
            ],
        }
        # JSON is valid YAML.
        (self.folder / "scrape.yml").write_text(json.dumps(config))
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

    @property
    def _file(self) -> Path:
        return self.folder / "targets.json"

    def _write_targets(self) -> None:
        # Replaced atomically, so that the server never reads a partial file.
        new = self.folder / "targets.new"
        new.write_text(json.dumps(self._targets))
        new.replace(self._file)
