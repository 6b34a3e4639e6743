"""What each engine and way has of the dashboards, rules and reports, and the table of it in the docs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from _engines import ABSENT, ALL, ENGINES, REMARKS, RULES, WAYS
from _grafana import label_values, legend_labels, panels
from _servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from _engines import Cell
    from _grafana import View

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
PAGE = ROOT / "docs" / "engines.md"
BEGIN, END = (
    f"<!-- {word} of the matrix: `make engines` writes it -->" for word in ("begin", "end")
)
PAST = ("15s", "60s")
PUSHED = ("otlp", "collector", *PAST)


def _rules_once() -> list[dict[str, Any]]:
    """Return the shipped rules, and whether each reads what others have recorded."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    records = {rule["record"] for rule in rules if "record" in rule}
    return [
        {
            "name": rule.get("record") or rule["alert"],
            "is_record": "record" in rule,
            "expr": rule["expr"],
            "reads_records": any(record in rule["expr"] for record in records),
        }
        for rule in rules
    ]


RULES_ONCE = _rules_once()
EXEMPLARS = tuple(
    panel["title"]
    for dashboard in DASHBOARDS.values()
    for panel in panels(dashboard)
    for target in panel["targets"]
    if "exemplar" in target
)
"""The panels that show exemplars."""


class Gap(NamedTuple):
    """What has no data in some cells, and why.

    Attributes:
        what: The column of the table.
        names: The panels, annotations or rules without data.
        why: The reason, as a sentence.
        applies: Returns whether it does to an engine and a way.
    """

    what: str
    names: tuple[str, ...]
    why: str
    applies: Callable[[str, str], bool]


GAPS = (
    Gap(
        "queries",
        ("Targets up", "Duration of a scrape"),
        "Two panels show scrapes, and nothing is scraped.",
        lambda _, way: way in PUSHED,
    ),
    Gap(
        "annotations",
        ("Restarts",),
        "A process that is started again pushes under a new `instance`, so that no counter is reset.",
        lambda _, way: way in PUSHED,
    ),
    Gap(
        "annotations",
        ("Alerts",),
        "Rules are evaluated now, and these pushes are of the past.",
        lambda _, way: way in PAST,
    ),
    Gap(
        "rules",
        tuple(sorted({rule["name"] for rule in RULES_ONCE if rule["reads_records"]})),
        "These pushes are of the past: each rule is evaluated once, at their end, but for those that "
        "read what other rules have recorded.",
        lambda _, way: way in PAST,
    ),
    Gap(
        "exemplars",
        EXEMPLARS,
        "VictoriaMetrics stores no exemplars.",
        lambda engine, _: engine == "victoria",
    ),
    Gap(
        "exemplars",
        EXEMPLARS,
        "Prometheus stores the exemplars of a histogram that it converts with the native one only.",
        lambda _, way: way == "native",
    ),
)


@dataclass
class Column:
    """How many of a cell's parts have data.

    Attributes:
        total: The number of parts.
        empty: The names of those without data.
        errors: What is wrong with others.
    """

    total: int = 0
    empty: list[str] = field(default_factory=list)
    errors: list[object] = field(default_factory=list)

    @property
    def full(self) -> int:
        """Return the number of parts with data."""
        return self.total - len(self.empty)


def gaps(what: str, cell: Cell) -> list[Gap]:
    """Return what has no data in a cell."""
    return [gap for gap in GAPS if gap.what == what and gap.applies(cell.engine, cell.way)]


def queries() -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Return each dashboard's name, panel and query."""
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield name, panel, target


def series_of(
    cell: Cell, view: View, name: str, panel: Mapping[str, Any], target: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the series of a panel's query."""
    query = view.expand(target["expr"], DASHBOARDS[name], panel.get("interval"))
    if target.get("instant"):
        found = cell.get("query", query=query, time=view.end)["result"]
        return [{**each, "values": [each["value"]]} for each in found]
    times = {"start": view.start, "end": view.end, "step": view.step}
    series: list[dict[str, Any]] = cell.get("query_range", query=query, **times)["result"]
    return series


def check_queries(cell: Cell, view: View) -> Column:
    """Run each panel's queries."""
    column = Column()
    for name, panel, target in queries():
        column.total += 1
        series = series_of(cell, view, name, panel, target)
        where = (name, panel["title"], target["refId"])
        if not series:
            column.empty.append(panel["title"])
            continue
        if not all(math.isfinite(float(value)) for each in series for _, value in each["values"]):
            column.errors.append((*where, "not a finite number"))
        known = {label for each in series for label in each["metric"]}
        if lost := set(legend_labels(target.get("legendFormat", ""))) - known:
            column.errors.append((*where, "legend with unknown labels", lost))
    return column


def check_variables(cell: Cell, view: View, expected: Mapping[str, set[str]]) -> Column:
    """Read the values of each variable, which must include those expected."""
    column = Column()
    for name, dashboard in DASHBOARDS.items():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] != "query":
                continue
            column.total += 1
            series, label = label_values(variable["query"]["query"])
            assert series is not None
            match = view.expand(series, dashboard)
            times = {"start": view.start, "end": view.end, "match[]": match}
            found = set(cell.get(f"label/{label}/values", **times))
            if not found:
                column.empty.append(variable["name"])
            elif lost := expected.get(variable["name"], set()) - found:
                column.errors.append((name, variable["name"], lost))
    return column


def check_annotations(cell: Cell, view: View) -> Column:
    """Run each annotation's query."""
    column = Column()
    for name, dashboard in DASHBOARDS.items():
        for annotation in dashboard["annotations"]["list"]:
            column.total += 1
            query = view.expand(annotation["expr"], dashboard)
            times = {"start": view.start, "end": view.end, "step": view.step}
            series = cell.get("query_range", query=query, **times)["result"]
            if not series:
                column.empty.append(annotation["name"])
            named = {*legend_labels(annotation["titleFormat"]), "job"}
            if not all(named <= set(each["metric"]) for each in series):
                column.errors.append((name, annotation["name"], series))
    return column


def check_exemplars(cell: Cell, view: View) -> Column:
    """Read the exemplars of each panel that shows them: links to traces of calls."""
    column = Column()
    for name, panel, target in queries():
        if "exemplar" not in target:
            continue
        column.total += 1
        query = view.expand(target["expr"], DASHBOARDS[name], panel.get("interval"))
        found = cell.get("query_exemplars", query=query, start=view.start, end=view.end)
        labels = [each["labels"] for series in found or () for each in series["exemplars"]]
        if not labels:
            column.empty.append(panel["title"])
        elif not all("trace_id" in each for each in labels):
            column.errors.append((name, panel["title"], labels))
    return column


def check_rules(cell: Cell, end: float) -> Column:
    """Look at the state of each rule: evaluated without an error, and a record has data."""
    column = Column()
    if cell.alerting is None:
        for rule in RULES_ONCE:
            column.total += 1
            if rule["reads_records"] or (
                not cell.get("query", query=rule["expr"], time=end)["result"] and rule["is_record"]
            ):
                column.empty.append(rule["name"])
        return column
    for rule in cell.rules:
        column.total += 1
        name = rule["name"]
        if rule["health"] != "ok" or rule.get("lastError"):
            column.errors.append((name, rule["health"], rule.get("lastError")))
        elif (
            rule["type"] == "recording" and not cell.get("query", query=f"count({name})")["result"]
        ):
            column.empty.append(name)
    return column


def active_once(cell: Cell, end: float, job: str) -> set[str]:
    """Return the names of a job's alerts that are met at a time, of those that read no records."""
    return {
        rule["name"]
        for rule in RULES_ONCE
        if not rule["is_record"] and not rule["reads_records"]
        for each in cell.get("query", query=rule["expr"], time=end)["result"]
        if each["metric"].get("job") == job
    }


def active(cell: Cell, job: str) -> set[tuple[str, str]]:
    """Return the names and states of a job's alerts that are pending or firing."""
    return {
        (rule["name"], alert["state"])
        for rule in cell.rules
        if rule["type"] == "alerting"
        for alert in rule.get("alerts") or ()
        if alert["labels"].get("job") == job
    }


def table(columns: Mapping[tuple[str, str], Mapping[str, Column]], cells: Iterable[Cell]) -> str:
    """Return the table of all cells with the reasons of what is empty, as Markdown."""
    names = ("queries", "variables", "annotations", "exemplars", "rules", "report")
    head = ("engine", "way in", "panel queries", *names[1:])
    lines = [_row(head), _row(["---"] * len(head))]
    reasons: list[str] = []
    by_key = {(cell.engine, cell.way): cell for cell in cells}

    def mark(reason: str) -> str:
        if reason not in reasons:
            reasons.append(reason)
        # In round brackets: two in square ones are a link.
        return f"({reasons.index(reason) + 1})"

    for engine, way in ALL:
        key, row = (engine, way), [ENGINES[engine], WAYS[way]]
        if key in ABSENT:
            lines.append(_row([*row, *[f"not run {mark(ABSENT[key])}"] * len(names)]))
            continue
        cell = by_key[key]
        if remark := REMARKS.get(key):
            row[-1] += f" {mark(remark)}"
        for what in names:
            column = columns[key][what]
            marks = [mark(gap.why) for gap in gaps(what, cell)]
            if what == "report":
                row.append("exact" if not column.errors else "differs")
            else:
                text = f"{column.full} of {column.total}" if column.total else "none"
                row.append(" ".join([text, *marks]))
        lines.append(_row(row))
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *notes])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def on_page() -> str:
    """Return the table in the docs."""
    text = PAGE.read_text(encoding="utf-8")
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def write_page(text: str) -> None:
    """Replace the table in the docs."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
