"""The dashboards' queries, variables and annotations, as Grafana sends them, on live data.

The data come from a fast demo job with additional events: see _dashboard_job.py.
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
from _dashboard_job import ODD_MODEL, RARE
from _grafana import View, grid_errors, label_values, legend_labels, panels
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


class Scraper(Prometheus):
    """A Prometheus with an alert rule, for the annotations."""

    def _write_config(self) -> None:
        super()._write_config()
        path = self.folder / "prometheus.yml"
        config = json.loads(path.read_text())
        config["rule_files"] = ["alerts.yml"]
        config["global"]["evaluation_interval"] = "1s"
        path.write_text(json.dumps(config))
        rules = {"groups": [{"name": "alerts", "rules": [ALERT]}]}
        (self.folder / "alerts.yml").write_text(json.dumps(rules))

    def get(self, path: str, **parameters: object) -> Any:
        """Send a data source's request and return the data, or fail with the response."""
        status, body = request("GET", f"{self.url}/api/v1/{path}?{urlencode(parameters)}")
        assert status == 200, f"{parameters} returned {status}: {body}"
        return json.loads(body)["data"]


@pytest.fixture(scope="module")
def scraper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraper]:
    """Run a Prometheus with the feature flags of deploy/."""
    features = ("exemplar-storage", "created-timestamp-zero-ingestion")
    with Scraper(tmp_path_factory.mktemp("dashboards"), features) as server:
        yield server


@pytest.fixture(scope="module")
def view(scraper: Scraper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[View]:
    """Run a job that is restarted once, and return a view of it while it runs."""
    log = tmp_path_factory.mktemp("job") / "log"
    port, start = free_port(), time.time()
    scraper.add_target(f"http://{LOOPBACK}:{port}/metrics", "openmetrics")
    with log.open("wb") as output:

        def begin(processes: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, JOB, str(port), processes]
            return subprocess.Popen(command, stdout=output, stderr=output)

        def wait_for(*conditions: str) -> None:
            def missing() -> list[str]:
                return [each for each in conditions if not scraper.query(f"{each} > 0")]

            ready, found = poll(missing, lambda left: not left, SETTLED)
            assert ready, (found, log.read_text()[-2000:])

        process = begin("several")
        try:
            wait_for(f"sum(increase({RARE[0]}[1m]))", "genmeter_job_last_death_timestamp_seconds")
            process.kill()
            process.wait()
            process = begin("one")
            wait_for(
                "sum(resets(genmeter_monitor_events_total[5m]))",
                *(f"sum(increase({series}[10s]))" for series in RARE),
                "sum(genmeter_alerts_firing)",
                # Wait for some scrapes, since all series exist from their first event on.
                f"count_over_time(genmeter_build_info[5m]) - {SCRAPES}",
            )
            yield View(start, time.time())
        finally:
            process.kill()
            process.wait()


def queries(name: str) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return a dashboard's panels with each of their queries."""
    for panel in panels(DASHBOARDS[name]):
        for target in panel["targets"]:
            yield panel, target


def result(
    scraper: Scraper, view: View, name: str, panel: Mapping[str, Any], target: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the series of a panel's query."""
    query = view.expand(target["expr"], DASHBOARDS[name], panel.get("interval"))
    if target.get("instant"):
        found = scraper.get("query", query=query, time=view.end)["result"]
        return [{**each, "values": [each["value"]]} for each in found]
    times = {"start": view.start, "end": view.end, "step": view.step}
    series: list[dict[str, Any]] = scraper.get("query_range", query=query, **times)["result"]
    return series


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_has_data_and_every_legend_its_labels(
    scraper: Scraper, view: View, name: str
) -> None:
    """With everything selected no panel fails, is empty, has NaN or an unknown legend label."""
    errors = []
    for panel, target in queries(name):
        series = result(scraper, view, name, panel, target)
        where = (panel["title"], target["refId"])
        if not series:
            errors.append((*where, "no data", target["expr"]))
        numbers = [float(value) for each in series for _, value in each["values"]]
        if not all(math.isfinite(number) for number in numbers):
            errors.append((*where, "not a finite number", target["expr"]))
        known = {label for each in series for label in each["metric"]}
        if lost := set(legend_labels(target.get("legendFormat", ""))) - known:
            errors.append((*where, "legend with unknown labels", lost))
    assert not errors


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_is_empty_for_an_unknown_job(scraper: Scraper, view: View, name: str) -> None:
    """Without series no query fails or returns a number, so a panel shows "No traffic"."""
    nobody = View(view.start, view.end, selected={"job": ["nobody"]})
    for panel, target in queries(name):
        assert result(scraper, nobody, name, panel, target) == [], panel["title"]


@pytest.mark.parametrize("name", DASHBOARDS)
@pytest.mark.parametrize("models", [[ODD_MODEL], [ODD_MODEL, "atlas-mini"]])
def test_models_with_special_characters_can_be_selected(
    scraper: Scraper, view: View, name: str, models: list[str]
) -> None:
    """Panels by model show only the selected models, one or several."""
    of_some = View(view.start, view.end, selected={"model": models})
    shown = set()
    for panel, target in queries(name):
        for series in result(scraper, of_some, name, panel, target):
            shown.add(series["metric"].get("gen_ai_request_model"))
    shown.discard(None)
    if name in ("genmeter-overview", "genmeter-tokens"):
        assert shown == set(models)
    assert shown <= set(models)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_variable_has_values(scraper: Scraper, view: View, name: str) -> None:
    """The query of each variable returns the values in Prometheus."""
    found = {}
    for variable in DASHBOARDS[name]["templating"]["list"]:
        if variable["type"] == "query":
            series, label = label_values(variable["query"]["query"])
            assert series is not None
            match = view.expand(series, DASHBOARDS[name])
            times = {"start": view.start, "end": view.end, "match[]": match}
            found[variable["name"]] = scraper.get(f"label/{label}/values", **times)
    assert list(found) == ["job", "instance", "model", "step"]
    assert found["job"] == ["openmetrics"]
    assert len(found["instance"]) == 1
    assert {ODD_MODEL, "atlas-mini", "quill-judge"} <= set(found["model"])
    assert {"question_generation", "deduplication"} <= set(found["step"])


@pytest.mark.parametrize("name", DASHBOARDS)
def test_alerts_and_restarts_are_annotated(scraper: Scraper, view: View, name: str) -> None:
    """The queries return the firing alert and the restart, with the labels of their texts."""
    annotations = DASHBOARDS[name]["annotations"]["list"]
    assert [each["name"] for each in annotations] == ["Alerts", "Restarts"]
    for annotation in annotations:
        query = view.expand(annotation["expr"], DASHBOARDS[name])
        times = {"start": view.start, "end": view.end, "step": 1}
        series = scraper.get("query_range", query=query, **times)["result"]
        assert series, query
        named = {*legend_labels(annotation["titleFormat"]), "job"}
        assert all(named <= set(each["metric"]) for each in series)


def test_durations_have_exemplars(scraper: Scraper, view: View) -> None:
    """The exemplar queries of duration panels return traces of calls."""
    exemplar_queries = [
        (name, target) for name in DASHBOARDS for _, target in queries(name) if "exemplar" in target
    ]
    assert len(exemplar_queries) == 8
    for name, target in exemplar_queries:
        query = view.expand(target["expr"], DASHBOARDS[name])
        times = {"start": view.start, "end": view.end}
        found = scraper.get("query_exemplars", query=query, **times)
        labels = [each["labels"] for series in found for each in series["exemplars"]]
        assert labels, query
        assert all("trace_id" in each for each in labels)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_fit_the_grid(name: str) -> None:
    """No panel overlaps another, leaves the grid or has a duplicate id."""
    assert grid_errors(DASHBOARDS[name]) == []


@pytest.mark.parametrize("name", DASHBOARDS)
def test_grafanas_linter_passes(name: str) -> None:
    """grafana/dashboard-linter passes in strict mode, except for the rules excluded in .lint."""
    done = run(program("dashboard-linter"), "lint", "--strict", FOLDER / f"{name}.json")
    assert done.returncode == 0, done.stdout


def test_grid_errors_are_detected() -> None:
    """A panel that overlaps another, leaves the grid or has its id is reported."""
    place = {"x": 0, "y": 0, "w": 12, "h": 1}
    first = {"id": 1, "title": "first", "gridPos": place}
    second = {"id": 1, "title": "second", "gridPos": {**place, "x": 11, "w": 14}}
    found = grid_errors({"panels": [first, second]})
    assert "duplicate id 1" in found
    assert "second leaves the grid" in found
    assert "second overlaps first at 11, 0" in found
