"""Dashboards that group by further labels, on series that two servers have scraped: none counts twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _grafana import View, label_values, panels
from _prometheus import Prometheus
from _servers import LOOPBACK, free_port, request

from genmeter.config.alerts import AlertSettings
from genmeter.render.grafana.files import render_dashboards

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

JOB = Path(__file__).with_name("_dashboard_job.py")
GROUPED = AlertSettings(
    group_by=("namespace", "cluster"), replica_labels=("prometheus_replica",), suffix="all"
)
ONE_COPY, OTHER_COPY = (AlertSettings(selector=f'prometheus_replica="{each}"') for each in "01")
NUMBERS = ("stat", "gauge", "timeseries", "bargauge", "table")
SCRAPES = 60


def dashboards(settings: AlertSettings) -> list[dict[str, Any]]:
    """Return the dashboards of settings."""
    return [json.loads(text) for text in render_dashboards(settings).values()]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Run a Prometheus with each series of a job twice, as if two servers had scraped it."""
    port = free_port()
    with Prometheus(tmp_path_factory.mktemp("prometheus")) as server:
        for replica in ("0", "1"):
            labels = {"prometheus_replica": replica, "namespace": "team-a", "job": "nightly"}
            server.add_target(f"http://{LOOPBACK}:{port}/metrics", **labels)
        job = subprocess.Popen(
            [sys.executable, JOB, str(port), "one"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            enough = f"count_over_time(genmeter_build_info[5m]) > {SCRAPES}"
            server.wait_for(enough, lambda found: len(found) == 2, 90)
            yield server
        finally:
            job.kill()
            job.wait()


def queries(
    settings: AlertSettings, view: View
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any], str]]:
    """Return all queries of numbers: the panel, the query, and the query as Grafana sends it."""
    for dashboard in dashboards(settings):
        for panel in panels(dashboard):
            if panel["type"] in NUMBERS:
                for target in panel["targets"]:
                    expr = view.expand(target["expr"], dashboard, panel.get("interval"))
                    yield panel, target, expr


def test_each_panel_shows_what_one_server_scraped(prometheus: Prometheus) -> None:
    """Both copies together give the numbers of one copy, and the group's labels."""
    now = time.time()
    view = View(now - 12, now, scrape_interval=2.0)
    compared = 0
    all_three = zip(*(queries(each, view) for each in (GROUPED, ONE_COPY, OTHER_COPY)), strict=True)
    for (panel, target, grouped), (_, _, plain), (_, _, other) in all_three:
        found, expected = (prometheus.query(expr, at=now) for expr in (grouped, plain))
        assert len(found) == len(expected), (panel["title"], grouped)
        if "{{namespace}}" in (target.get("legendFormat") or ""):
            assert all(each.labels["namespace"] == "team-a" for each in found), grouped
        shown = [sum(each.value for each in expected)]
        shown.append(sum(each.value for each in prometheus.query(other, at=now)))
        if min(shown) > 0:
            both = sum(each.value for each in found)
            # The copies were not scraped at the same times: ages, and durations of scrapes, are each
            # server's own. Of numbers that both know, counted twice it would be 2.
            low, high = min(shown) * 0.65, max(shown) * 1.35
            assert low <= both <= high, (panel["title"], shown, grouped)
            compared += 1
    assert compared > 80


def test_the_variables_of_the_group_have_values(prometheus: Prometheus) -> None:
    """A label that no series has leaves its variable empty, and "All" selects everything."""
    now = time.time()
    view = View(now - 30, now)
    for dashboard in dashboards(GROUPED):
        found = {}
        for variable in dashboard["templating"]["list"]:
            if variable["name"] in ("namespace", "cluster", "job"):
                series, label = label_values(variable["query"]["query"])
                assert series is not None
                status, body = request(
                    "GET",
                    f"{prometheus.url}/api/v1/label/{label}/values?match[]="
                    + view.expand(series, dashboard).replace('"', "%22"),
                )
                assert status == 200, body
                found[variable["name"]] = json.loads(body)["data"]
        assert found == {"namespace": ["team-a"], "cluster": [], "job": ["nightly"]}
