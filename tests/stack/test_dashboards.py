"""The dashboards' queries, variables and annotations, as Grafana sends them, on live data.

The data are the demo's at speed, with whatever the demo does not tell: see _dashboard_job.py.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from _dashboard_job import ODD_MODEL
from _grafana import View, faults_of_grid, label_values, legend_labels, panels
from _prometheus import Prometheus
from _servers import LOOPBACK, ROOT, free_port, poll, program, request, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
JOB = Path(__file__).with_name("_dashboard_job.py")
SETTLED = 60.0
SCRAPES = 20
ALERT = {
    "alert": "GenerationErrorRateHigh",
    "expr": "sum by (job) (increase(genmeter_generations_total[5s])) > 0",
    "labels": {"severity": "critical"},
}
# Series are there from the first scrape after what they count; all of these are rare.
RARE = (
    "genmeter_samples_total",
    "genmeter_retries_total",
    "genmeter_monitor_export_failures_total",
    "genmeter_monitor_label_overflow_total",
    "genmeter_monitor_handler_errors_total",
    'genmeter_monitor_events_total{genmeter_result="rejected"}',
    "genmeter_unpriced_generations_total",
    'genmeter_conversation_duration_seconds_count{error_type!=""}',
    'genmeter_evaluation_duration_seconds_count{error_type!=""}',
    'genmeter_logs_total{genmeter_level="error"}',
)


class Scraper(Prometheus):
    """A Prometheus with a rule for the annotations of alerts to show."""

    def _write_config(self) -> None:
        super()._write_config()
        path = self.folder / "prometheus.yml"
        config = json.loads(path.read_text())
        config["rule_files"] = ["alerts.yml"]
        config["global"]["evaluation_interval"] = "1s"
        path.write_text(json.dumps(config))
        rules = {"groups": [{"name": "alerts", "rules": [ALERT]}]}
        (self.folder / "alerts.yml").write_text(json.dumps(rules))

    def ask(self, path: str, **parameters: object) -> Any:
        """Sends what a data source sends; gives the data, or fails with the server's words."""
        status, body = request("GET", f"{self.url}/api/v1/{path}?{urlencode(parameters)}")
        assert status == 200, f"{parameters} answered {status}: {body}"
        return json.loads(body)["data"]


@pytest.fixture(scope="module")
def scraper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraper]:
    """A Prometheus that puts a zero where a counter was created, as the shipped flags have it."""
    features = ("exemplar-storage", "created-timestamp-zero-ingestion")
    with Scraper(tmp_path_factory.mktemp("dashboards"), features) as server:
        yield server


@pytest.fixture(scope="module")
def view(scraper: Scraper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[View]:
    """A look at a job that was restarted once, while it goes on."""
    log = tmp_path_factory.mktemp("job") / "log"
    port, start = free_port(), time.time()
    scraper.add_target(f"http://{LOOPBACK}:{port}/metrics", "openmetrics")
    with log.open("wb") as output:

        def begin() -> subprocess.Popen[bytes]:
            return subprocess.Popen([sys.executable, JOB, str(port)], stdout=output, stderr=output)

        def wait_for(*conditions: str) -> None:
            def missing() -> list[str]:
                return [each for each in conditions if not scraper.query(f"{each} > 0")]

            ready, found = poll(missing, lambda left: not left, SETTLED)
            assert ready, (found, log.read_text()[-2000:])

        process = begin()
        try:
            wait_for(f"sum(increase({RARE[0]}[1m]))")
            process.kill()
            process.wait()
            process = begin()
            wait_for(
                "sum(resets(genmeter_monitor_events_total[5m]))",
                *(f"sum(increase({series}[10s]))" for series in RARE),
                "sum(genmeter_alerts_firing)",
                # Each series counts from its birth, so all are there before there is much to see.
                f"count_over_time(genmeter_build_info[5m]) - {SCRAPES}",
            )
            yield View(start, time.time())
        finally:
            process.kill()
            process.wait()


def queries(name: str) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Gives a dashboard's panels with each of their queries."""
    for panel in panels(DASHBOARDS[name]):
        for target in panel["targets"]:
            yield panel, target


def answer(
    scraper: Scraper, view: View, name: str, panel: Mapping[str, Any], target: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Gives the series that a panel's query finds."""
    query = view.expand(target["expr"], DASHBOARDS[name], panel.get("interval"))
    if target.get("instant"):
        found = scraper.ask("query", query=query, time=view.end)["result"]
        return [{**each, "values": [each["value"]]} for each in found]
    times = {"start": view.start, "end": view.end, "step": view.step}
    series: list[dict[str, Any]] = scraper.ask("query_range", query=query, **times)["result"]
    return series


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_finds_numbers_and_every_legend_its_labels(
    scraper: Scraper, view: View, name: str
) -> None:
    """With all chosen no panel errs, is empty, shows NaN or names a label that no series has."""
    faults = []
    for panel, target in queries(name):
        series = answer(scraper, view, name, panel, target)
        where = (panel["title"], target["refId"])
        if not series:
            faults.append((*where, "no data", target["expr"]))
        numbers = [float(value) for each in series for _, value in each["values"]]
        if not all(math.isfinite(number) for number in numbers):
            faults.append((*where, "not a finite number", target["expr"]))
        known = {label for each in series for label in each["metric"]}
        if lost := set(legend_labels(target.get("legendFormat", ""))) - known:
            faults.append((*where, "a legend of labels that no series has", lost))
    assert not faults


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_job_that_is_not_there_leaves_every_panel_empty(
    scraper: Scraper, view: View, name: str
) -> None:
    """Without a series no query errs or makes a number up, so that a panel says "No traffic"."""
    nobody = View(view.start, view.end, chosen={"job": ["nobody"]})
    for panel, target in queries(name):
        assert answer(scraper, nobody, name, panel, target) == [], panel["title"]


@pytest.mark.parametrize("name", DASHBOARDS)
@pytest.mark.parametrize("models", [[ODD_MODEL], [ODD_MODEL, "atlas-mini"]])
def test_models_with_special_characters_can_be_chosen(
    scraper: Scraper, view: View, name: str, models: list[str]
) -> None:
    """One model, or several, are what the panels that tell models apart then show."""
    of_some = View(view.start, view.end, chosen={"model": models})
    shown = set()
    for panel, target in queries(name):
        for series in answer(scraper, of_some, name, panel, target):
            shown.add(series["metric"].get("gen_ai_request_model"))
    shown.discard(None)
    if name in ("genmeter-overview", "genmeter-tokens"):
        assert shown == set(models)
    assert shown <= set(models)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_variable_has_values(scraper: Scraper, view: View, name: str) -> None:
    """The queries of the variables, each with the ones before it, find what there is."""
    found = {}
    for variable in DASHBOARDS[name]["templating"]["list"]:
        if variable["type"] == "query":
            series, label = label_values(variable["query"]["query"])
            assert series is not None
            match = view.expand(series, DASHBOARDS[name])
            times = {"start": view.start, "end": view.end, "match[]": match}
            found[variable["name"]] = scraper.ask(f"label/{label}/values", **times)
    assert list(found) == ["job", "instance", "model", "step"]
    assert found["job"] == ["openmetrics"]
    assert len(found["instance"]) == 1
    assert {ODD_MODEL, "atlas-mini", "quill-judge"} <= set(found["model"])
    assert {"question_generation", "deduplication"} <= set(found["step"])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_alerts_and_restarts_are_annotated(scraper: Scraper, view: View, name: str) -> None:
    """An alert that fires and the job's restart are found, with what their texts name."""
    annotations = DASHBOARDS[name]["annotations"]["list"]
    assert [each["name"] for each in annotations] == ["Alerts", "Restarts"]
    for annotation in annotations:
        query = view.expand(annotation["expr"], DASHBOARDS[name])
        times = {"start": view.start, "end": view.end, "step": 1}
        series = scraper.ask("query_range", query=query, **times)["result"]
        assert series, query
        named = {*legend_labels(annotation["titleFormat"]), "job"}
        assert all(named <= set(each["metric"]) for each in series)


def test_durations_have_exemplars(scraper: Scraper, view: View) -> None:
    """The exemplars that panels of durations ask for are there, with the trace of a call."""
    asked = [
        (name, target) for name in DASHBOARDS for _, target in queries(name) if "exemplar" in target
    ]
    assert len(asked) == 6
    for name, target in asked:
        query = view.expand(target["expr"], DASHBOARDS[name])
        times = {"start": view.start, "end": view.end}
        found = scraper.ask("query_exemplars", query=query, **times)
        labels = [each["labels"] for series in found for each in series["exemplars"]]
        assert labels, query
        assert all("trace_id" in each for each in labels)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_keep_to_the_grid(name: str) -> None:
    """No panel overlaps another, leaves the grid or has another's id."""
    assert faults_of_grid(DASHBOARDS[name]) == []


@pytest.mark.parametrize("name", DASHBOARDS)
def test_grafanas_linter_has_nothing_to_say(name: str) -> None:
    """grafana/dashboard-linter passes in strict mode, but for what .lint gives a reason for."""
    done = run(program("dashboard-linter"), "lint", "--strict", FOLDER / f"{name}.json")
    assert done.returncode == 0, done.stdout


def test_the_grids_check_finds_faults() -> None:
    """A panel on another, beyond the edge or with its id is told."""
    place = {"x": 0, "y": 0, "w": 12, "h": 1}
    first = {"id": 1, "title": "first", "gridPos": place}
    second = {"id": 1, "title": "second", "gridPos": {**place, "x": 11, "w": 14}}
    found = faults_of_grid({"panels": [first, second]})
    assert "the id 1 is there twice" in found
    assert "second leaves the grid" in found
    assert "second overlaps first at 11, 0" in found
