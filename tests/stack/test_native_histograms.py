"""Dashboards and rules for native histograms, on a Prometheus that converts classic ones to them."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import yaml
from _grafana import View, panels
from _prometheus import Prometheus
from _servers import LOOPBACK, free_port, poll, program
from _servers import request as http_request

from genmeter.config.alerts import AlertSettings
from genmeter.render.grafana.files import render_dashboards
from genmeter.render.rules import render_rules
from genmeter.schema.metrics import INSTRUMENTS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

JOB = Path(__file__).with_name("_dashboard_job.py")
NATIVE = AlertSettings(histograms="native")
HISTOGRAMS = [row.prometheus for row in INSTRUMENTS if row.kind is Kind.HISTOGRAM]
PARTS = re.compile(rf"({'|'.join(HISTOGRAMS)})_(sum|count|bucket)\b")
SETTLED = 90.0
# Of these every value has a series of its own, from the first such event on.
RARE = (
    *(f"histogram_count({name})" for name in HISTOGRAMS),
    'histogram_count(genmeter_conversation_duration_seconds{error_type!=""})',
    'histogram_count(genmeter_evaluation_duration_seconds{error_type!=""})',
)


class Converting(Prometheus):
    """A Prometheus that stores classic histograms as native ones only.

    Attributes:
        program: The program, of the oldest supported release or of the newest one.
    """

    program = "prometheus"

    def command(self) -> list[str | Path]:
        """Run that program."""
        _, *arguments = super().command()
        return [program(self.program), *arguments]

    def _write_config(self) -> None:
        super()._write_config()
        path = self.folder / "prometheus.yml"
        config = json.loads(path.read_text())
        for job in config["scrape_configs"]:
            job["convert_classic_histograms_to_nhcb"] = True
        path.write_text(json.dumps(config))

    def series(self, query: str, view: View) -> list[dict[str, Any]]:
        """Return the series of a range query."""
        times = {"start": view.start, "end": view.end, "step": view.step}
        parameters = urlencode({"query": query, **times})
        status, body = http_request("GET", f"{self.url}/api/v1/query_range?{parameters}")
        assert status == 200, f"{query} returned {status}: {body}"
        found: list[dict[str, Any]] = json.loads(body)["data"]["result"]
        return found


@pytest.fixture(scope="module", params=["prometheus", "prometheus-newest"])
def server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Converting]:
    """Run the Prometheus; 3.5 refuses to convert with `created-timestamp-zero-ingestion`."""
    features = ("native-histograms", "exemplar-storage")
    prometheus = Converting(tmp_path_factory.mktemp("prometheus"), features)
    prometheus.program = request.param
    with prometheus:
        yield prometheus


@pytest.fixture(scope="module")
def view(server: Converting, tmp_path_factory: pytest.TempPathFactory) -> Iterator[View]:
    """Run a job until all its histograms have values, and return a view of it while it runs."""
    log = tmp_path_factory.mktemp("job") / "log"
    port, start = free_port(), time.time()
    server.add_target(f"http://{LOOPBACK}:{port}/metrics", "openmetrics")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, JOB, str(port), "one"], stdout=output, stderr=output
        )
        try:

            def missing() -> list[str]:
                return [each for each in RARE if not server.query(f"sum({each}) > 1")]

            ready, found = poll(missing, lambda left: not left, SETTLED)
            assert ready, (found, log.read_text()[-2000:])
            server.wait_for("count_over_time(genmeter_build_info[5m]) > 40")
            yield View(start, time.time())
        finally:
            process.kill()
            process.wait()


def histogram_queries(
    settings: AlertSettings,
) -> Iterator[tuple[str, str, Mapping[str, Any], str | None]]:
    """Return the queries over histograms, with the panel's title, dashboard and interval."""
    files = {name: json.loads(text) for name, text in render_dashboards(settings).items()}
    plain = {name: json.loads(text) for name, text in render_dashboards(AlertSettings()).items()}
    for name, file in files.items():
        for panel, classic in zip(panels(file), panels(plain[name]), strict=True):
            for target, before in zip(panel["targets"], classic["targets"], strict=True):
                if PARTS.search(before["expr"]):
                    yield panel["title"], target["expr"], file, panel.get("interval")


def test_every_panel_over_histograms_has_data(server: Converting, view: View) -> None:
    """Quantiles and means are finite numbers; heat maps are histograms."""
    kinds = set()
    for title, expr, file, interval in histogram_queries(NATIVE):
        series = server.series(view.expand(expr, file, interval), view)
        assert series, (title, expr)
        for each in series:
            kinds.update({"values", "histograms"} & each.keys())
            values = [float(value) for _, value in each.get("values", ())]
            assert all(map(math.isfinite, values)), (title, expr)
    assert kinds == {"values", "histograms"}


def test_panels_have_the_exemplars_of_native_histograms(server: Converting, view: View) -> None:
    """They are stored with these, and are traces of calls."""
    found = 0
    for file in render_dashboards(NATIVE).values():
        dashboard = json.loads(file)
        for panel in panels(dashboard):
            for target in panel["targets"]:
                if "exemplar" in target:
                    query = view.expand(target["expr"], dashboard, panel.get("interval"))
                    series = server._api(
                        "query_exemplars", query=query, start=view.start, end=view.end
                    )
                    labels = [each["labels"] for one in series for each in one["exemplars"]]
                    assert labels, panel["title"]
                    assert all("trace_id" in each for each in labels)
                    found += 1
    assert found == 8


def test_classic_panels_are_empty_there(server: Converting, view: View) -> None:
    """This is why there are two kinds of dashboards: nothing else shows it."""
    for title, expr, file, interval in histogram_queries(AlertSettings()):
        assert server.series(view.expand(expr, file, interval), view) == [], title


def test_means_of_the_rules_equal_those_of_the_job(server: Converting, view: View) -> None:
    """The mean of two histograms' sums and counts is that of what the job recorded."""
    rules = {
        rule["alert"]: rule["expr"]
        for group in yaml.safe_load(render_rules(NATIVE))["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    expr = rules["ConversationsLong"].rpartition("\n> ")[0]
    (mean,) = server.query(expr)
    assert 1 < mean.value <= 64
    slow = rules["GenerationSlow"].rpartition("\n> ")[0]
    (quick,) = (
        each
        for each in server.query(slow)
        if each.labels["gen_ai_request_model"] == "team/odd.model+v1 (beta)"
    )
    assert quick.value == pytest.approx(1.0, rel=0.01)
