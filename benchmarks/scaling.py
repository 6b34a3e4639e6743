"""What 1,000 processes cost Prometheus and VictoriaMetrics: scrapes, rules, dashboards, bytes.

For each size, an hour of samples of simulated processes is written to a real server: the series of a real
page, of which each process has its own. Then the server scrapes them as shipped for a while, each rule and
each query of the dashboards over the last hour is sent to it alone, and the CPU that it used is read. So
other programs on the machine make the run longer, but hardly change its figures. Rules are sent in the order
of their groups, and what one records is written back before the next. Recorded series that rules and
dashboards read over a window have days of samples.

Run alone: ``.venv/bin/python benchmarks/scaling.py [--endpoints 100 300 1000]``, after `make servers`. With
``--write`` the tables of ``docs/scaling.md`` are written.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from _page import write_between
from _scaling_history import Past, labels_of, write_request
from _scaling_page import DROPS, Page, Shape, read_page
from _scaling_servers import ENGINES, ROOT, Engine, Prometheus, endpoints
from _scaling_table import BEGIN, DROPPED, END, RECORDED, SHIPPED, Cost, Result, tables_of

from genmeter.config.alerts import AlertSettings
from genmeter.render.grafana.files import render_dashboards
from genmeter.render.rules import render_rules

if TYPE_CHECKING:
    from collections.abc import Iterator


SIZES = (100, 300, 1_000)
JOBS = 50
INTERVAL = 15.0
EVALUATION = 60.0
"""Seconds, as shipped."""
HISTORY = 3_900.0
SLICE = 1_200.0
DAYS = 3 * 86_400.0
LIVE = 30.0
OWN = 1.5 * EVALUATION
"""Seconds in which the server evaluates the rules by itself."""
_OVER_TIME = re.compile(r"([a-z]\w*:\w+:\w+)(?:\{[^}]*\})?\[")
_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)(?::\w+)?\}")


def measure(
    name: str, size: int, text: str, options: argparse.Namespace, variant: str = SHIPPED
) -> Result:
    """Measure an engine at a size, for processes with a page."""
    settings = AlertSettings(distributions="recorded" if variant == RECORDED else "scraped")
    dashboards = [json.loads(each) for each in render_dashboards(settings).values()]
    folder = Path(tempfile.mkdtemp(prefix="genmeter-scaling-"))
    start = (time.time() - HISTORY) // INTERVAL * INTERVAL
    (folder / "page").write_text(text, encoding="utf-8")
    labels = {at: labels_of(at, JOBS) for at in range(size)}
    rules = folder / "rules.yml"
    rules.write_text(render_rules(settings))
    groups = yaml.safe_load(rules.read_text())["groups"]
    drops = DROPS if variant == DROPPED else ()
    page = Page(text, drops)
    found = Result(name, size, variant, size * (len(page.stored) + 1))
    try:
        with (
            endpoints(folder / "page", start) as port,
            ENGINES[name](folder / name, port, labels, drops) as engine,
        ):
            recorded = _recorded(groups, dashboards, page)
            _write_recorded(engine, recorded, start - DAYS, start)
            _write_past(engine, found, Past(page, size, JOBS, start), recorded, start)
            found.scrape_cpu = _scraped(engine, found, size)
            if isinstance(engine, Prometheus) and size == max(options.endpoints):
                found.live = _live(engine, rules)
            engine.configure()
            end = time.time()  # after the last evaluation by the server itself
            engine.flush()
            found.memory = engine.memory
            found.rules = list(_rules(engine, groups, end))
            engine.flush()
            if options.queries:
                found.queries = list(_queries(engine, dashboards, end))
            found.bytes_a_sample = engine.bytes_a_sample()
    finally:
        shutil.rmtree(folder)
    return found


def _recorded(
    groups: list[Any], dashboards: list[Any], page: Page
) -> list[tuple[tuple[str, str], ...]]:
    """Return the labels of the recorded series that rules and dashboards read over a window."""
    rules = {
        rule["record"]: rule for group in groups for rule in group["rules"] if "record" in rule
    }
    read = (
        *(rule["expr"] for group in groups for rule in group["rules"]),
        *(target["expr"] for _, target, _ in _targets(dashboards)),
    )
    names = {name for expr in read for name in _OVER_TIME.findall(expr)}
    found = []
    for name in sorted(names):
        by = re.findall(r"sum by \(([^)]*)\)", rules[name]["expr"])[0].split(", ")
        groups_of = _groups_of(by, page, rules[name]["expr"])
        found += [(("__name__", name), *labels) for labels in groups_of]
    return found


def _write_recorded(
    engine: Engine, recorded: list[tuple[tuple[str, str], ...]], start: float, end: float
) -> None:
    """Write the past of recorded series."""
    times = np.arange(start, end, EVALUATION)
    for part in np.array_split(times, math.ceil((end - start) / SLICE)):
        values = 100 + 10 * np.sin(part / 600)
        engine.write(write_request(dict.fromkeys(recorded, values), part))


def _groups_of(by: list[str], page: Page, expr: str) -> Iterator[tuple[tuple[str, str], ...]]:
    """Yield the sets of labels of a sum by labels over series in an expression."""
    kept = [name for name in by if name != "job"]
    found = {
        tuple((name, each.labels[name]) for name in kept if name in each.labels)
        for each in page.series
        if each.name in expr or ":" in expr
    }
    longest = max(map(len, found), default=0)
    for job in range(JOBS):
        for labels in sorted(each for each in found if len(each) == longest):
            yield (("job", labels_of(job, JOBS)["job"]), *labels)


def _write_past(
    engine: Engine,
    result: Result,
    past: Past,
    recorded: list[tuple[tuple[str, str], ...]],
    start: float,
) -> None:
    """Write the samples up to now, and in each slice those of recorded series after them."""
    at, cpu, samples = start, 0.0, 0
    while (now := time.time()) - at > INTERVAL:
        times = np.arange(at, min(at + SLICE, now), INTERVAL)
        before = engine.cpu
        for body, count in past.requests(times):
            engine.write(body)
            samples += count
        cpu += engine.cpu - before
        end = float(times[-1]) + INTERVAL
        _write_recorded(engine, recorded, at, end)
        at = end
    result.written = samples / cpu


def _scraped(engine: Engine, result: Result, size: int) -> float:
    """Let the server scrape for a while, and return the seconds of CPU in a minute."""
    engine.configure(scrapes=True)
    time.sleep(INTERVAL + 5)  # service discovery, and one scrape of each target
    cpu, before, began = engine.cpu, engine.ingested, time.monotonic()
    time.sleep(LIVE)
    spent, took = engine.cpu - cpu, time.monotonic() - began
    share = (engine.ingested - before) / (result.series * took / INTERVAL)
    if share < 0.8:
        print(f"only {share:.0%} of the samples of {size} endpoints were scraped")
    return spent / took * 60


def _live(engine: Prometheus, rules: Path) -> float:
    """Let the server evaluate the rules by itself, and return the seconds of its last evaluation."""
    engine.configure(scrapes=True, rules=rules)
    time.sleep(OWN)
    groups = json.loads(engine.request("GET", "/api/v1/rules")[1])["data"]["groups"]
    return sum(float(each["evaluationTime"]) for each in groups)


def _rules(engine: Engine, groups: list[Any], at: float) -> Iterator[Cost]:
    """Evaluate each rule as its server does, and write back what it records."""
    for group in groups:
        a_minute = 60 / _seconds(group.get("interval", f"{EVALUATION:.0f}s"))
        for rule in group["rules"]:
            name = rule.get("record") or f"{rule['alert']} {_labels(rule['labels'])}"
            tries = [engine.measured("query", query=rule["expr"], time=at) for _ in range(3)]
            if "record" in rule:
                values = {
                    (("__name__", name), *each["metric"].items()): np.array(
                        [float(each["value"][1])]
                    )
                    for each in tries[0][2]["result"]
                }
                if values:
                    engine.write(write_request(values, np.array([at])))
                    engine.flush()
            cpu, took = (median(each[place] for each in tries) for place in (0, 1))
            yield Cost(name, rule["expr"], cpu, took, a_minute)


def _labels(labels: dict[str, str]) -> str:
    return ",".join(value for name, value in labels.items())


def _seconds(text: str) -> float:
    return float(text[:-1]) * {"s": 1, "m": 60, "h": 3_600}[text[-1]]


def _targets(dashboards: list[Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the panel, each of its queries, and its dashboard."""
    for dashboard in dashboards:
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                yield panel, target, dashboard


def _queries(engine: Engine, dashboards: list[Any], end: float) -> Iterator[Cost]:
    """Send each query of the dashboards over all jobs and the last hour, as Grafana does."""
    for panel, target, dashboard in _targets(dashboards):
        step = max(INTERVAL, _seconds(panel.get("interval") or "15s"))
        expr = _expanded(target["expr"], dashboard, step)
        name = f"{dashboard['title']}: {panel['title']}"
        api, times = "query_range", {"start": end - 3_600, "end": end, "step": step}
        if target.get("instant"):
            api, times = "query", {"time": end}
        # The lower of two: the server may tidy up after what came before.
        spent = min(engine.measured(api, query=expr, **times)[:2] for _ in range(2))
        yield Cost(name, expr, *spent)


def _expanded(expr: str, dashboard: dict[str, Any], step: float) -> str:
    values = {
        "__rate_interval": f"{max(step + INTERVAL, 4 * INTERVAL):.0f}s",
        "__interval": f"{step:.0f}s",
        "__range": "3600s",
        "__range_s": "3600",
        **{
            each["name"]: each["allValue"]
            for each in dashboard["templating"]["list"]
            if each["type"] == "query"
        },
    }
    return _VARIABLE.sub(lambda found: values[found[1] or found[2]], expr)


def main() -> None:
    """Run it, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--models", type=int, default=Shape().models)
    parser.add_argument("--steps", type=int, default=Shape().steps)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    variants = (SHIPPED, DROPPED, RECORDED)
    parser.add_argument("--variants", nargs="+", choices=variants, default=list(variants))
    parser.add_argument("--no-queries", dest="queries", action="store_false")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/scaling.md")
    options = parser.parse_args()
    text, results = read_page(Shape(options.models, options.steps)), []
    for name in options.engines:
        sizes = sorted(options.endpoints)
        runs = [
            (size, variant)
            for variant in options.variants
            for size in (sizes if variant == SHIPPED else sizes[-1:])
        ]
        for size, variant in runs:
            began = time.monotonic()
            found = measure(name, size, text, options, variant)
            results.append(found)
            took = time.monotonic() - began
            print(f"{ENGINES[name].title}, {found.title}: {took:.0f} s", flush=True)
            if options.write:
                write_between(ROOT / "docs" / "scaling.md", BEGIN, END, tables_of(results))
    print(tables_of(results))


if __name__ == "__main__":
    main()
