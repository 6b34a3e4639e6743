"""Distributions that rules record: panels show what they show of the scraped series."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml
from _grafana import View, panels
from _prometheus import NEWEST, OLDEST, Prometheus
from _servers import LOOPBACK, free_port, run
from _victoria import VictoriaMetrics, Vmalert

from genmeter.config.alerts import AlertSettings
from genmeter.render.grafana.files import render_dashboards
from genmeter.render.rules import render_rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from _prometheus import QueriedServer

JOB = Path(__file__).with_name("_dashboard_job.py")
RECORDED = AlertSettings(distributions="recorded")
NAME = re.compile(r"\b\w+:(\w+?)(?:_bucket)?:increase5m")
DURATIONS = "gen_ai_client_inference_duration_seconds"
SETTLED = 90.0


class Shown(NamedTuple):
    """A query of a panel.

    Attributes:
        title: The panel's title.
        kind: The panel's type.
        expr: The query, of recorded series.
        scraped: The same query of scraped series.
        dashboard: The dashboard.
        interval: The panel's shortest step.
    """

    title: str
    kind: str
    expr: str
    scraped: str
    dashboard: dict[str, Any]
    interval: str | None


def shown(settings: AlertSettings) -> Iterator[Shown]:
    """Yield all queries of recorded distributions."""
    scraped = AlertSettings(histograms=settings.histograms)
    both = (render_dashboards(each).values() for each in (settings, scraped))
    for dashboard, plain in zip(*(map(json.loads, each) for each in both), strict=True):
        for panel, other in zip(panels(dashboard), panels(plain), strict=True):
            for target, before in zip(panel["targets"], other["targets"], strict=True):
                if NAME.search(target["expr"]):
                    yield Shown(
                        panel["title"],
                        panel["type"],
                        target["expr"],
                        before["expr"],
                        dashboard,
                        panel.get("interval"),
                    )


# --- on live engines --------------------------------------------------------------------------------


class Started(NamedTuple):
    """An engine on which a job's distributions have been recorded."""

    server: QueriedServer
    settings: AlertSettings
    view: View


ENGINES = ("oldest", "newest", "native", "victoria")


def started(stack: ExitStack, folder: Path, engine: str, settings: AlertSettings) -> QueriedServer:
    """Start an engine with the rules."""
    rules = folder / "rules.yml"
    text = render_rules(settings)
    assert "interval: 2m" in text
    rules.write_text(text.replace("interval: 2m", "interval: 1s"))
    if engine == "victoria":
        data = folder / "victoria"
        data.mkdir()
        # By default queries do not see the last half minute, in which rare steps appear.
        victoria: VictoriaMetrics = stack.enter_context(
            VictoriaMetrics(data, ["-search.latencyOffset=0s"])
        )
        vmalert = folder / "vmalert"
        vmalert.mkdir()
        stack.enter_context(Vmalert(vmalert, victoria.url, [rules], interval="1s"))
        return victoria
    data = folder / "prometheus"
    data.mkdir()
    release = OLDEST if engine == "oldest" else NEWEST
    features = ("native-histograms", "exemplar-storage") if engine == "native" else ()
    return stack.enter_context(
        Prometheus(
            data, features or ("exemplar-storage",), rules=[rules], release=release, interval="1s"
        )
    )


@pytest.fixture(scope="module", params=ENGINES)
def engine(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Started]:
    """Run a job until all its distributions have been recorded."""
    name: str = request.param
    settings = RECORDED
    if name == "native":
        settings = AlertSettings(histograms="native", distributions="recorded")
    port, start = free_port(), time.time()
    with ExitStack() as stack:
        server = started(stack, tmp_path_factory.mktemp(name), name, settings)
        if isinstance(server, Prometheus):
            targets = [{"targets": [f"{LOOPBACK}:{port}"]}]
            converted = {"convert_classic_histograms_to_nhcb": True} if name == "native" else {}
            server.add_job({"job_name": "nightly", "static_configs": targets, **converted})
        else:
            assert isinstance(server, VictoriaMetrics)
            server.add_target(f"http://{LOOPBACK}:{port}/metrics", job="nightly")
        process = subprocess.Popen(
            [sys.executable, JOB, str(port), "one"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        names = {found[0] for each in shown(settings) if (found := NAME.search(each.expr))}
        for each in sorted(names):
            server.wait_for(f"sum(count_over_time({each}[5m])) > 30", timeout=SETTLED)
        yield Started(server, settings, View(start, time.time(), scrape_interval=1.0))


def values(engine: Started, query: Shown, expr: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Return the values of a query at the end of the view, as Grafana sends it, by their labels."""
    expanded = engine.view.expand(expr, query.dashboard, query.interval)
    if engine.settings.histograms == "native" and query.kind == "heatmap":
        expanded = f"histogram_count({expanded})"
    samples = engine.server.query(expanded, at=engine.view.end)
    return {tuple(sorted(each.labels.items())): each.value for each in samples}


def test_panels_show_about_what_they_show_of_scraped_series(engine: Started) -> None:
    """A job that is younger than five minutes weighs its first ones more; magnitudes are the same."""
    compared, kinds = 0, set()
    for each in shown(engine.settings):
        found, scraped = (values(engine, each, expr) for expr in (each.expr, each.scraped))
        assert found, (each.title, each.expr)
        # A step that is new has not been recorded yet.
        assert found.keys() <= scraped.keys(), each.title
        assert all(map(math.isfinite, found.values())), (each.title, found)
        if each.kind == "table" and "histogram_quantile(0.5," in each.expr:
            # Both are over the whole job. The bounds of buckets are a factor of two apart.
            for labels, value in found.items():
                assert value == pytest.approx(scraped[labels], rel=0.6), (each.title, labels)
                compared += 1
        kinds.add(each.kind)
    assert compared >= 5
    assert kinds >= {"stat", "table", "timeseries", "heatmap"}


# --- exactly, by promtool ---------------------------------------------------------------------------

MINUTES = 70
BOUNDS = ("1", "2", "4", "+Inf")


def bucket(job: str, process: int, model: str, bound: str, values_: str) -> dict[str, str]:
    """Return an input series of promtool."""
    labels = {
        "job": job,
        "instance": f"host-{process}",
        "genmeter_phase": "generation",
        "gen_ai_request_model": model,
        "genmeter_step": "draft",
        "le": bound,
    }
    braces = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"{DURATIONS}_bucket{{{braces}}}", "values": values_}


def series() -> list[dict[str, str]]:
    """Return a fast job that runs throughout, and a slow one of ten minutes, of two processes each."""
    found = []
    for process in (0, 1):
        for place, bound in enumerate(BOUNDS):
            fast = min(60, 40 + 10 * place) * (process + 1)
            found.append(bucket("fast", process, "oak", bound, f"0+{fast}x{MINUTES}"))
            slow = (2, 4, 30, 90)[place] * (process + 1)
            found.append(bucket("slow", process, "birch", bound, f"_x20 0+{slow}x10 stale"))
    return found


def quantile(share: float, by: Sequence[str], buckets: str) -> str:
    """Return a quantile of buckets."""
    return f"histogram_quantile({share}, sum by ({', '.join(('le', *by))}) ({buckets}))"


def test_quantiles_over_an_hour_weigh_jobs_by_their_calls(promtool: str, tmp_path: Path) -> None:
    """A job that ran for ten minutes of the hour counts as its calls do, not as if it had run throughout."""
    (tmp_path / "rules.yml").write_text(render_rules(RECORDED))
    (name,) = {
        found[0]
        for each in shown(RECORDED)
        if (found := NAME.search(each.expr)) and found[1] == DURATIONS
    }
    expected = []
    for share in (0.5, 0.95, 0.99):
        for by in ((), ("job",), ("gen_ai_request_model",)):
            scraped = quantile(share, by, f"increase({DURATIONS}_bucket[1h])")
            recorded = quantile(share, by, f"sum_over_time({name}[1h])")
            mean = quantile(share, by, f"avg_over_time({name}[1h])")
            differences = (
                f"abs(({recorded}) / ({scraped}) - 1) > 0.02",
                f"({scraped}) unless ({recorded})",
            )
            expected += [
                {"expr": each, "eval_time": "66m", "exp_samples": []} for each in differences
            ]
            if not by and share == 0.5:
                # The mean would not do.
                one = [{"labels": "{}", "value": 1}]
                wrong = f"abs(({mean}) / ({scraped}) - 1) > bool 0.02"
                expected.append({"expr": wrong, "eval_time": "66m", "exp_samples": one})
    document = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series(), "promql_expr_test": expected}],
    }
    tests = tmp_path / "tests.yml"
    tests.write_text(yaml.safe_dump(document))
    done = run(promtool, "test", "rules", tests)
    assert done.returncode == 0, done.stdout
