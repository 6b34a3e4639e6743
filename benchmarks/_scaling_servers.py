"""Prometheus, VictoriaMetrics and the simulated endpoints as processes, with the CPU that they used."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["ENGINES", "ROOT", "Engine", "Prometheus", "VictoriaMetrics", "endpoints"]

ROOT = Path(__file__).parents[1]
_SHIPPED = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
_GLOBAL = {name: _SHIPPED["global"][name] for name in ("scrape_interval", "evaluation_interval")}
_HERE = Path(__file__).parent
_HOST = "127.0.0.1"
_WAIT = 60.0
_TIMEOUT = 300.0


def _program(name: str) -> str:
    path = os.pathsep.join([str(ROOT / ".servers" / "bin"), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=path)
    if found is None:
        sys.exit(f"{name} is not installed: run `make servers`")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _until(is_done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _WAIT
    while not is_done():
        if time.monotonic() > deadline:
            sys.exit(f"{what} took longer than {_WAIT:.0f} s")
        time.sleep(0.05)


class _Process:
    """A server's process; `with` stops it."""

    name = ""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.port = _free_port()
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        if self._running is None:
            raise RuntimeError(f"{self.name} must have been started")
        return self._running

    def start(self, argv: Sequence[str | Path]) -> None:
        """Start it, and wait until it responds."""
        with (self.folder / "log").open("wb") as log:
            self._running = subprocess.Popen(list(map(str, argv)), stdout=log, stderr=log)
        _until(self._is_ready, f"the start of {self.name}")

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            sys.exit((self.folder / "log").read_text(errors="replace")[-2_000:])
        try:
            return self.request("GET", "/-/ready")[0] == 200
        except OSError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.terminate()
            self._running.wait()
            self._running = None

    @property
    def cpu(self) -> float:
        """The seconds of CPU that it has used, of all its threads."""
        spent = 0
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            spent += int((task / "schedstat").read_text().split()[0])
        return spent / 1e9

    @property
    def memory(self) -> int:
        """The bytes of memory that it occupies."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes]:
        """Send a request; return status and body."""
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=_TIMEOUT)
        try:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, fields)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def counted(self, name: str) -> float:
        """Return the sum of a metric of the server itself."""
        lines = self.request("GET", "/metrics")[1].decode().splitlines()
        found = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return sum(float(value) for key, _, value in found if key.partition("{")[0] == name)


class Engine(_Process):
    """A server with Prometheus's API for queries and its remote write."""

    title = ""
    program = ""

    def __init__(
        self,
        folder: Path,
        scraped: int,
        jobs: Mapping[int, Mapping[str, str]],
        drops: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Create it, not started yet.

        Args:
            folder: A new folder for its files.
            scraped: The port of the endpoints.
            jobs: The labels of each endpoint's target.
            drops: Relabelling of what is scraped.
        """
        super().__init__(folder)
        self._drops = drops
        targets = [
            {"targets": [f"{_HOST}:{scraped}"], "labels": {"__metrics_path__": f"/{at}", **labels}}
            for at, labels in jobs.items()
        ]
        (folder / "targets.json").write_text(json.dumps(targets))

    def write(self, body: bytes) -> None:
        """Send a compressed request of remote write."""
        status, said = self.request(
            "POST",
            "/api/v1/write",
            body,
            Content_Type="application/x-protobuf",
            Content_Encoding="snappy",
            X_Prometheus_Remote_Write_Version="0.1.0",
        )
        if status not in (200, 204):
            sys.exit(f"{self.name} rejected samples: {status} {said[:500]!r}")

    def get(self, path: str, **parameters: object) -> Any:
        """Send a query of the API; return its data."""
        status, body = self.request(
            "POST",
            f"/api/v1/{path}",
            urlencode(parameters).encode(),
            Content_Type="application/x-www-form-urlencoded",
        )
        if status != 200:
            sys.exit(f"{self.name}: {path} {parameters}: {status} {body[:500]!r}")
        return json.loads(body)["data"]

    def measured(self, path: str, **parameters: object) -> tuple[float, float, Any]:
        """Send a query; return the seconds of CPU and of time that it took, and its data."""
        cpu, began = self.cpu, time.perf_counter()
        data = self.get(path, **parameters)
        took = time.perf_counter() - began
        return self.cpu - cpu, took, data

    def flush(self) -> None:
        """Make all samples visible to queries."""

    def _scrape_config(self) -> dict[str, Any]:
        job = next(each for each in _SHIPPED["scrape_configs"] if each["job_name"] == "genmeter")
        job = {name: value for name, value in job.items() if name != "static_configs"}
        job["metric_relabel_configs"] = [*job["metric_relabel_configs"], *self._drops]
        return {**job, "file_sd_configs": [{"files": [str(self.folder / "targets.json")]}]}


class Prometheus(Engine):
    """Prometheus with the shipped configuration, except for its targets."""

    name = "prometheus"
    title = "Prometheus"

    def __enter__(self) -> Self:
        self.configure()
        self.start(
            [
                _program("prometheus-newest"),
                f"--config.file={self.folder / 'prometheus.json'}",
                f"--storage.tsdb.path={self.folder / 'data'}",
                f"--web.listen-address={_HOST}:{self.port}",
                "--web.enable-lifecycle",
                "--web.enable-admin-api",
                "--web.enable-remote-write-receiver",
                "--enable-feature=exemplar-storage,created-timestamp-zero-ingestion",
                "--log.level=warn",
            ]
        )
        return self

    def configure(self, *, scrapes: bool = False, rules: Path | None = None) -> None:
        """Let it scrape, and evaluate rules."""
        config = {
            "global": _GLOBAL,
            "scrape_configs": [self._scrape_config()] if scrapes else [],
            "rule_files": [str(rules)] if rules else [],
        }
        (self.folder / "prometheus.json").write_text(json.dumps(config))
        if self._running is not None:
            status, said = self.request("POST", "/-/reload")
            if status != 200:
                sys.exit(f"{self.name} rejected its configuration: {said!r}")

    @property
    def ingested(self) -> float:
        """The number of samples that it has stored."""
        return self.counted("prometheus_tsdb_head_samples_appended_total")

    def bytes_a_sample(self) -> float:
        """Write all to a block, and return its bytes divided by its samples."""
        status, body = self.request("POST", "/api/v1/admin/tsdb/snapshot")
        if status != 200:
            sys.exit(f"{self.name} wrote no block: {body!r}")
        snapshot = self.folder / "data/snapshots" / json.loads(body)["data"]["name"]
        size, samples = 0, 0
        for block in snapshot.iterdir():
            size += sum(path.stat().st_size for path in block.rglob("*") if path.is_file())
            samples += json.loads((block / "meta.json").read_text())["stats"]["numSamples"]
        shutil.rmtree(snapshot)
        return size / samples


class VictoriaMetrics(Engine):
    """VictoriaMetrics with the shipped configuration, except for its targets."""

    name = "victoria-metrics"
    title = "VictoriaMetrics"

    def __enter__(self) -> Self:
        self.configure()
        self.start(
            [
                _program("victoria-metrics"),
                f"-storageDataPath={self.folder / 'data'}",
                f"-httpListenAddr={_HOST}:{self.port}",
                f"-promscrape.config={self.folder / 'scrape.json'}",
                "-promscrape.config.strictParse=false",
                "-search.disableCache",
                "-search.maxQueryDuration=300s",
                "-retentionPeriod=30d",
                "-loggerLevel=WARN",
            ]
        )
        return self

    def configure(self, *, scrapes: bool = False) -> None:
        """Let it scrape."""
        config = {
            "global": {"scrape_interval": _GLOBAL["scrape_interval"]},
            "scrape_configs": [self._scrape_config()] if scrapes else [],
        }
        (self.folder / "scrape.json").write_text(json.dumps(config))
        if self._running is not None:
            self.request("GET", "/-/reload")

    def flush(self) -> None:
        """Make all samples visible to queries."""
        self.request("GET", "/internal/force_flush")

    @property
    def ingested(self) -> float:
        """The number of samples that it has stored."""
        return self.counted("vm_rows_added_to_storage_total")

    def bytes_a_sample(self) -> float:
        """Merge all parts, and return their bytes divided by their samples."""
        self.flush()
        self.request("GET", "/internal/force_merge")
        time.sleep(1)
        _until(lambda: self.counted("vm_active_force_merges") == 0, "the merge of all parts")
        size = sum(p.stat().st_size for p in (self.folder / "data").rglob("*") if p.is_file())
        return size / self.counted("vm_rows_added_to_storage_total")


ENGINES: dict[str, type[Prometheus | VictoriaMetrics]] = {
    each.name: each for each in (Prometheus, VictoriaMetrics)
}


@contextmanager
def endpoints(template: Path, start: float) -> Iterator[int]:
    """Serve the pages of processes; yield the port."""
    port = _free_port()
    argv = [sys.executable, _HERE / "_scaling_endpoints.py", str(port), template, repr(start)]
    process = subprocess.Popen(argv)
    try:

        def is_up() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((_HOST, port)) == 0

        _until(is_up, "the start of the endpoints")
        yield port
    finally:
        process.kill()
        process.wait()
