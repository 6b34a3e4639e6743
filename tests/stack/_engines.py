"""The engines, and the ways by which a job's series get there: one server for each combination.

Each server has what deploy/ ships for it, except that all times are fifteen times as short: a job is
scraped and pushes each second instead of every fifteen.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import yaml
from _fan import Destination, Fan, an_hour_ago
from _grafana import View
from _prometheus import NEWEST, OLDEST, Prometheus
from _servers import ROOT, request
from _victoria import VictoriaMetrics, Vmalert

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack
    from pathlib import Path

    from _collector import Collector
    from _fan import Stretch

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
FEATURES = ("exemplar-storage", "created-timestamp-zero-ingestion")
INTERVAL = 1.0
"""Seconds between two scrapes or pushes."""
EVALUATION = "5s"
"""The interval of rules."""
STRETCH = 15.0
"""The factor of times of the past, so that an interval is as long as in practice."""

ENGINES = {
    "oldest": "Prometheus 3.5",
    "newest": "Prometheus 3.16",
    "victoria": "VictoriaMetrics 1.151, vmalert",
}
RELEASES = {"oldest": OLDEST, "newest": NEWEST}
WAYS = {
    "scrape": "scrape",
    "native": "scrape, `convert_classic_histograms_to_nhcb`",
    "collector": "OTLP to the Collector, which is scraped",
    "otlp": "OTLP to the engine",
    "15s": "OTLP to the engine every 15 s",
    "60s": "OTLP to the engine every 60 s",
}
ABSENT = {
    **dict.fromkeys(
        (("oldest", way) for way in ("otlp", "15s", "60s")),
        "Debian builds Prometheus 3.5 without its OTLP receiver.",
    ),
    ("victoria", "native"): "VictoriaMetrics does not convert classic histograms.",
}
"""Combinations that are not run, and why."""
REMARKS = {
    ("oldest", "native"): (
        "Without the feature `created-timestamp-zero-ingestion`, with which Prometheus 3.5 scrapes "
        "nothing if it converts histograms."
    ),
}
"""What differs in a combination from what deploy/ ships."""
ALL = [(engine, way) for engine in ENGINES for way in WAYS]
CELLS = [each for each in ALL if each not in ABSENT]
NATIVE_FEATURES = {
    "oldest": ("exemplar-storage", "native-histograms"),
    "newest": FEATURES,  # it always stores them
}
"""The features of a Prometheus that converts histograms."""
RECEIVERS = {"newest": "api/v1/otlp/v1/metrics", "victoria": "opentelemetry/v1/metrics"}
"""The paths of the OTLP receivers of engines that have one."""
VICTORIA_FLAGS = (
    "-opentelemetry.usePrometheusNaming",
    f"-relabelConfig={DEPLOY / 'victoriametrics' / 'relabel.yml'}",
    # The default of 30 seconds is two scrapes of 15 seconds.
    "-search.latencyOffset=2s",
    "-promscrape.config.strictParse=false",
)


@dataclass
class Cell:
    """An engine with the series of one way.

    Attributes:
        engine: A key of ENGINES.
        way: A key of WAYS.
        server: The engine's server.
        alerting: The server with the API of rules; None if rules are not evaluated.
        interval: Seconds between two samples.
        stretch: How times are changed; None keeps them.
    """

    engine: str
    way: str
    server: Prometheus | VictoriaMetrics
    alerting: Prometheus | Vmalert | None = None
    interval: float = INTERVAL
    stretch: Stretch | None = None
    rules: list[dict[str, Any]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Return a name for the parameter of a test."""
        return f"{self.engine}-{self.way}"

    def get(self, path: str, **parameters: object) -> Any:
        """Send a request of the API and return its data, or fail with the response."""
        return get(self.server.url, path, **parameters)

    def view(self, start: float, end: float, **selected: list[str]) -> View:
        """Return the dashboards' view of a time of the job, with `timeInterval` of the data source."""
        if self.stretch is not None:
            start, end = self.stretch.at(start), self.stretch.at(end)
        return View(start, end, self.interval, self.interval, selected)

    def read_rules(self) -> None:
        """Keep the rules with their state."""
        if self.alerting is not None:
            groups = get(self.alerting.url, "rules")["groups"]
            self.rules = [rule for group in groups for rule in group["rules"]]


def get(url: str, path: str, **parameters: object) -> Any:
    """Send a request of Prometheus's API and return its data, or fail with the response."""
    status, body = request("GET", f"{url}/api/v1/{path}?{urlencode(parameters, doseq=True)}")
    assert status == 200, f"{path} {parameters} returned {status}: {body}"
    return json.loads(body)["data"]


def shipped(name: str) -> Mapping[str, Any]:
    """Return the shipped configuration of a Prometheus."""
    config: Mapping[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
    return config


def scrape_job(name: str, targets: Mapping[str, str]) -> dict[str, Any]:
    """Return the shipped scrape job of a name, for targets by the label `job`; "" is without one."""
    job = next(
        each for each in shipped("prometheus.yml")["scrape_configs"] if each["job_name"] == name
    )
    statics = [
        {"targets": [urlsplit(url).netloc], "labels": {"job": label} if label else {}}
        for label, url in targets.items()
    ]
    return {**job, "static_configs": statics}


class Engines:
    """All servers, and the receiver that forwards pushes to them.

    Args:
        stack: Stops the servers.
        folder: A folder for their files.
        collector: The Collector that is scraped.
        targets: The addresses of the pages of jobs, by the label `job`.
    """

    def __init__(
        self, stack: ExitStack, folder: Path, collector: Collector, targets: Mapping[str, str]
    ) -> None:
        self._stack = stack
        self._folder = folder
        self._rules = folder / "rules.yml"
        # No boundary of five minutes need pass in a test.
        self._rules.write_text(re.sub(r"\[\d[dh]:5m\]", "[1h:5s]", RULES.read_text()))
        self._stretch = an_hour_ago(STRETCH)
        self._jobs = {
            "scrape": [scrape_job("genmeter", targets)],
            "collector": [scrape_job("collector", {"": collector.metrics_url})],
        }
        self._jobs["native"] = self._jobs["scrape"]
        self.cells = {(engine, way): self._start(engine, way) for engine, way in CELLS}
        pushes = [Destination(f"{collector.http_endpoint}/v1/metrics")]
        for cell in self.cells.values():
            if cell.way in ("otlp", "15s", "60s"):
                path = RECEIVERS[cell.engine]
                every = round(cell.interval / (INTERVAL if cell.stretch is None else STRETCH))
                pushes.append(Destination(f"{cell.server.url}/{path}", every, cell.stretch))
        self.fan = stack.enter_context(Fan(pushes))

    def _start(self, engine: str, way: str) -> Cell:
        folder = self._folder / f"{engine}-{way}"
        folder.mkdir()
        is_past = way in ("15s", "60s")
        start = self._victoria if engine == "victoria" else self._prometheus
        cell = start(folder, engine, way, with_rules=not is_past)
        if is_past:
            cell.interval, cell.stretch = float(way.removesuffix("s")), self._stretch
        return cell

    def _prometheus(self, folder: Path, engine: str, way: str, *, with_rules: bool) -> Cell:
        jobs = self._jobs.get(way, [])
        settings: dict[str, Any] = {"scrape_configs": jobs}
        flags: tuple[str, ...] = ()
        if not jobs:
            config = shipped("prometheus-otlp.yml")
            settings |= {name: config[name] for name in ("otlp", "storage")}
            flags = ("--web.enable-otlp-receiver",)
        server = self._stack.enter_context(
            Shipped(
                folder,
                NATIVE_FEATURES[engine] if way == "native" else FEATURES,
                release=RELEASES[engine],
                rules=[self._rules] if with_rules else [],
                flags=flags,
                interval="1s",
                settings=settings,
                globals_={
                    "evaluation_interval": EVALUATION,
                    "convert_classic_histograms_to_nhcb": way == "native",
                },
            )
        )
        return Cell(engine, way, server, server if with_rules else None)

    def _victoria(self, folder: Path, engine: str, way: str, *, with_rules: bool) -> Cell:
        server = self._stack.enter_context(
            VictoriaMetrics(folder, VICTORIA_FLAGS, interval="1s", jobs=self._jobs.get(way, []))
        )
        alerting = None
        if with_rules:
            alerting = self._stack.enter_context(
                Vmalert(folder, server.url, [self._rules], interval=EVALUATION)
            )
        return Cell(engine, way, server, alerting)


class Shipped(Prometheus):
    """A Prometheus with settings of the section `global`."""

    def __init__(self, *args: Any, globals_: Mapping[str, Any], **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._globals = globals_

    def _write_config(self) -> None:
        super()._write_config()
        path = self.folder / "prometheus.yml"
        config = json.loads(path.read_text())
        config["global"] |= self._globals
        path.write_text(json.dumps(config))
