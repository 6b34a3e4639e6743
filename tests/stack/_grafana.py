"""Grafana's expansion of variables and time ranges in a dashboard's queries.

Like Grafana 13: packages/grafana-prometheus, `interpolateQueryExpr`, `prometheusSpecialRegexEscape`
and `getRateIntervalScopedVariable`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_SPECIAL = re.compile(r"[$^*{}\[\]'+?.()|]")
_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)(?::\w+)?\}")
_LABEL_VALUES = re.compile(r"label_values\((?:(?P<series>.+),\s*)?(?P<label>\w+)\)")


@dataclass(frozen=True)
class View:
    """Time range and selected variables of a dashboard.

    Args:
        start: Unix time of the range's start.
        end: Unix time of its end.
        step: Seconds between two points.
        scrape_interval: Seconds, from the data source's settings.
        selected: The selected values by variable name; all values if a name is missing.
    """

    start: float
    end: float
    step: float = 1.0
    scrape_interval: float = 0.2
    selected: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def expand(self, expr: str, dashboard: Mapping[str, Any], interval: str | None = None) -> str:
        """Replace the variables of an expression by their values.

        Args:
            expr: the expression.
            dashboard: the dashboard with the variables.
            interval: the panel's minimum interval.
        """
        values = self._built_in(interval)
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                values[variable["name"]] = self._matcher(variable)

        def value(found: re.Match[str]) -> str:
            name = found[1] or found[2]
            assert name in values, f"unknown variable {name} in {expr}"
            return values[name]

        return _VARIABLE.sub(value, expr)

    def _built_in(self, interval: str | None) -> dict[str, str]:
        min_step = {None: 0.0, "1m": 60.0, "2m": 120.0, "5m": 300.0}[interval]
        step = max(self.step, min_step)
        span = round(self.end - self.start)
        rate = max(step + self.scrape_interval, 4 * self.scrape_interval)
        return {
            "__rate_interval": f"{round(rate * 1000)}ms",
            "__interval": f"{round(step * 1000)}ms",
            "__range": f"{span}s",
            "__range_s": str(span),
        }

    def _matcher(self, variable: Mapping[str, Any]) -> str:
        selected = self.selected.get(variable["name"])
        if selected is None:
            return str(variable["allValue"])
        escaped = [_escape(value) for value in selected]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def _escape(value: str) -> str:
    return _SPECIAL.sub(r"\\\\\g<0>", value.replace("\\", "\\\\\\\\"))


def label_values(query: str) -> tuple[str | None, str]:
    """Return the series and the label of a variable's query."""
    found = _LABEL_VALUES.fullmatch(query)
    assert found is not None, query
    return found["series"], found["label"]


def panels(dashboard: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Return the panels with queries."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def legend_labels(legend: str) -> list[str]:
    """Return the labels in a legend."""
    return re.findall(r"\{\{\s*(\w+)\s*\}\}", legend)


def grid_errors(dashboard: Mapping[str, Any]) -> list[str]:
    """Return a message for each panel that overlaps another, leaves the grid or shares an id."""
    found, taken = [], dict[tuple[int, int], dict[str, Any]]()
    ids = [panel["id"] for panel in dashboard["panels"]]
    found += [f"duplicate id {id_}" for id_ in sorted({i for i in ids if ids.count(i) > 1})]
    for panel in dashboard["panels"]:
        at, title = panel["gridPos"], panel["title"]
        if at["x"] < 0 or at["w"] < 1 or at["h"] < 1 or at["x"] + at["w"] > 24:
            found.append(f"{title} leaves the grid")
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                other = taken.setdefault((x, y), panel)
                if other is not panel:
                    found.append(f"{title} overlaps {other['title']} at {x}, {y}")
    return found
