"""A real Prometheus with targets added by tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from _servers import LOOPBACK, Server, free_port, poll, program, request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

# The scrape job of each exposition format. A job accepts only its format: a scrape of a target
# without it fails.
PROTOCOLS = {"text": "PrometheusText0.0.4", "openmetrics": "OpenMetricsText1.0.0"}
WAIT_TIMEOUT = 30.0
# The programs of the oldest supported release and of the newest one.
OLDEST, NEWEST = "prometheus", "prometheus-newest"


@dataclass(frozen=True)
class Sample:
    """A series in the result of an instant query.

    Attributes:
        labels: all labels, with `__name__` if the expression keeps it.
        value: its value.
    """

    labels: Mapping[str, str]
    value: float


class QueriedServer(Server):
    """A server with the HTTP API of Prometheus.

    Attributes:
        url: The server's address, such as `http://127.0.0.1:41234`.
    """

    url = ""

    def query(self, promql: str, at: float | None = None) -> list[Sample]:
        """Evaluate an expression.

        Args:
            promql: an expression of an instant vector or a scalar.
            at: the Unix time of the evaluation; None is now.

        Returns:
            The series in the server's order; a scalar is one sample without labels.
        """
        data = self._api("query", query=promql, **({} if at is None else {"time": at}))
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        return [Sample(item["metric"], float(item["value"][1])) for item in data["result"]]

    def value(self, promql: str) -> float:
        """Evaluate an expression of one series and return its value."""
        samples = self.query(promql)
        assert len(samples) == 1, f"{promql} must be one series, got {len(samples)}: {samples}"
        return samples[0].value

    def wait_for(
        self,
        promql: str,
        predicate: Callable[[list[Sample]], bool] = bool,
        timeout: float = WAIT_TIMEOUT,
    ) -> list[Sample]:
        """Evaluate an expression until the predicate accepts its result.

        Args:
            promql: as in `query`.
            predicate: by default, waits until there are any samples.
            timeout: seconds to wait at most.

        Returns:
            The accepted samples. A timeout fails the test with the last result and the last scrape
            error of each target.
        """
        accepted, samples = poll(lambda: self.query(promql), predicate, timeout)
        assert accepted, (
            f"{promql} was not as expected within {timeout} s\nlast result: {samples}\n"
            f"targets: {[(t['scrapeUrl'], t['health'], t['lastError']) for t in self.targets()]}"
        )
        return samples

    def targets(self) -> list[dict[str, Any]]:
        """Return the active targets with their `health` and `lastError`."""
        found: list[dict[str, Any]] = self._api("targets", state="active")["activeTargets"]
        return found

    def _api(self, path: str, **parameters: object) -> Any:
        status, body = request("GET", f"{self.url}/api/v1/{path}?{urlencode(parameters)}")
        assert status == 200, f"{path} {parameters} answered {status}: {body}"
        return json.loads(body)["data"]


class Prometheus(QueriedServer):
    """A Prometheus on loopback that scrapes five times a second.

    A target is added while it runs, for one of the two text formats, and selected by labels of the
    test (`run` below) or by `instance`:

        prometheus.add_target(monitor.endpoint_url, "openmetrics", run="demo")
        query = 'sum by (gen_ai_request_model) (genmeter_tokens_total{run="demo"})'
        samples = prometheus.wait_for(query, lambda found: len(found) == 2)
        assert {s.labels["gen_ai_request_model"]: s.value for s in samples} == expected

    A new target is scraped within five seconds: the job must run longer than that, or its endpoint
    linger. A series is stale one second after its target is gone, and then missing from instant
    queries: use `last_over_time(...[5m])`.

    Attributes:
        url: the server's address, such as `http://127.0.0.1:41234`.
    """

    def __init__(
        self,
        folder: Path,
        features: Sequence[str] = ("exemplar-storage",),
        *,
        rules: Sequence[Path] = (),
        alertmanagers: Sequence[str] = (),
        release: str = OLDEST,
        flags: Sequence[str] = (),
        interval: str = "200ms",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Create the server, not started yet.

        Args:
            folder: an empty folder for the configuration, the data and the log.
            features: the values of `--enable-feature`.
            rules: rule files; groups without an interval are evaluated five times a second.
            alertmanagers: addresses of Alertmanagers, such as `http://127.0.0.1:9093/prefix`.
            release: the program: `OLDEST` or `NEWEST`.
            flags: further flags.
            interval: the interval of scrapes and of rules.
            settings: further sections of the configuration.
        """
        super().__init__("prometheus", folder)
        self.url = ""
        self._features = features
        self._rules = rules
        self._alertmanagers = alertmanagers
        self._targets: dict[str, list[dict[str, Any]]] = {name: [] for name in PROTOCOLS}
        self._jobs: list[dict[str, Any]] = []
        self._release = release
        self._flags = flags
        self._interval = interval
        self._settings = dict(settings or {})

    def command(self) -> list[str | Path]:
        """Choose a port, write the configuration, and return the command line."""
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        self._write_config()
        return [
            program(self._release),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={LOOPBACK}:{port}",
            "--web.enable-lifecycle",
            f"--enable-feature={','.join(self._features)}",
            "--log.level=warn",
            *self._flags,
        ]

    def is_ready(self) -> bool:
        """Return whether queries are answered and the Alertmanagers are discovered.

        Discovery takes up to five seconds; an alert that fires before it is sent a minute later.
        """
        try:
            if request("GET", f"{self.url}/-/ready")[0] != 200:
                return False
            return not self._alertmanagers or (
                len(self._api("alertmanagers")["activeAlertmanagers"]) == len(self._alertmanagers)
            )
        except OSError:
            return False

    def add_target(self, url: str, protocol: str = "openmetrics", **labels: str) -> str:
        """Add a target; its first scrape may be five seconds later.

        Args:
            url: the page's address, such as `http://127.0.0.1:9464/metrics`.
            protocol: `openmetrics` or `text`, also the label `job` of the series.
            labels: further labels of every series of the target.

        Returns:
            The series' `instance` label, `HOST:PORT`.
        """
        parts = urlsplit(url)
        meta = {"__scheme__": parts.scheme, "__metrics_path__": parts.path or "/metrics"}
        self._targets[protocol].append({"targets": [parts.netloc], "labels": {**meta, **labels}})
        self._write_targets(protocol)
        return parts.netloc

    def remove_target(self, instance: str) -> None:
        """Remove the target with this `instance`; it may take five seconds too."""
        for protocol, targets in self._targets.items():
            targets[:] = [target for target in targets if instance not in target["targets"]]
            self._write_targets(protocol)

    def add_job(self, job: Mapping[str, Any]) -> None:
        """Add a scrape job, such as one with TLS or basic auth.

        Args:
            job: an item of `scrape_configs` in the configuration.
        """
        self._jobs.append(dict(job))
        self._write_config()
        status, body = request("POST", f"{self.url}/-/reload")
        assert status == 200, f"Prometheus rejected the job {job['job_name']!r}: {body}"

    def exemplars(self, promql: str) -> list[dict[str, Any]]:
        """Return the last hour's exemplars of a selector's series, as in the HTTP API."""
        # The API requires a range; this one covers the whole test.
        now = self.value("time()")
        found = self._api("query_exemplars", query=promql, start=now - 3600, end=now + 60)
        return [exemplar for series in found for exemplar in series["exemplars"]]

    def metadata(self, family: str) -> list[dict[str, Any]]:
        """Return the scraped type, help and unit of a metric family."""
        found: list[dict[str, Any]] = self._api("metadata", metric=family).get(family, [])
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """Return the pending and firing alerts, as in the HTTP API."""
        found: list[dict[str, Any]] = self._api("alerts")["alerts"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules with their `health` and `lastError`, as in the HTTP API."""
        return [rule for group in self._api("rules")["groups"] for rule in group["rules"]]

    def _write_config(self) -> None:
        jobs = [
            {
                "job_name": name,
                "scrape_protocols": [protocol],
                "file_sd_configs": [
                    {"files": [str(self.folder / f"{name}.json")], "refresh_interval": "1s"}
                ],
            }
            for name, protocol in PROTOCOLS.items()
        ]
        config: dict[str, Any] = {
            "global": {"scrape_interval": self._interval, "scrape_timeout": self._interval},
            "scrape_configs": [*jobs, *self._jobs],
            **self._settings,
        }
        if self._rules:
            config["global"]["evaluation_interval"] = self._interval
            config["rule_files"] = [str(path) for path in self._rules]
        if self._alertmanagers:
            addresses = [urlsplit(url) for url in self._alertmanagers]
            config["alerting"] = {
                "alertmanagers": [
                    {
                        "scheme": parts.scheme,
                        "path_prefix": parts.path or "/",
                        "static_configs": [{"targets": [parts.netloc]}],
                    }
                    for parts in addresses
                ]
            }
        # JSON is valid YAML.
        (self.folder / "prometheus.yml").write_text(json.dumps(config))

    def _write_targets(self, protocol: str) -> None:
        # Replaced atomically, so that the server never reads a partial file.
        new = self.folder / f"{protocol}.new"
        new.write_text(json.dumps(self._targets[protocol]))
        new.replace(self.folder / f"{protocol}.json")
