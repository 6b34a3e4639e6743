"""The TypeScript compiler checks the shipped dashboards against Grafana's types."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from _servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOOL = ROOT / "tools" / "dashboards"
SHIPPED = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
TIMEOUT = 300.0


def typecheck(*files: Path) -> subprocess.CompletedProcess[str]:
    """Run the tool; a missing dependency fails the test with the remedy."""
    node = shutil.which("node")
    if node is None:
        pytest.fail("node is not installed: install Node.js 20 or newer")
    if not (TOOL / "node_modules").is_dir():
        pytest.fail("the tool's packages are missing: run `npm ci --prefix tools/dashboards`")
    return subprocess.run(
        [node, TOOL / "typecheck.mjs", *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return all panels except rows, including those inside rows."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def set_to(value: object, *keys: str | int) -> Any:
    """Return a function that sets a value in a panel and returns its key."""

    def change(panel: dict[str, Any]) -> str:
        place: Any = panel
        for key in keys[:-1]:
            place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
        place[keys[-1]] = value
        return str(keys[-1])

    return change


MISTAKES = (
    ("stat", set_to("backgruond", "options", "colorMode")),
    ("stat", set_to(["lastNotNul"], "options", "reduceOptions", "calcs")),
    ("stat", set_to("secnods", "fieldConfig", "defaults", "unit")),
    ("timeseries", set_to("left", "options", "legend", "placement")),
    ("timeseries", set_to(2, "fieldConfig", "defaults", "custom", "lineWith")),
    ("timeseries", set_to("{{x}}", "targets", 0, "legendFromat")),
    (
        "table",
        set_to(
            [{"matcher": {"id": "byName", "options": "A"}, "properties": [{"id": "custom.wdith"}]}],
            *("fieldConfig", "overrides"),
        ),
    ),
    ("table", set_to([{"id": "mergee", "options": {}}], "transformations")),
    ("heatmap", set_to("shceme", "options", "color", "mode")),
    ("bargauge", set_to("bargague", "type")),
)


def test_the_shipped_dashboards_have_valid_types() -> None:
    """Every panel's options, fields, overrides and queries have Grafana's types."""
    assert SHIPPED
    done = typecheck(*SHIPPED)
    assert done.returncode == 0, done.stdout


def test_each_mistake_is_reported_with_its_panel(tmp_path: Path) -> None:
    """A misspelt option, unit, override, query or panel type fails, with its place in the message."""
    expected = []
    files = []
    for number, (kind, change) in enumerate(MISTAKES):
        dashboard, panel = next(
            (dashboard, panel)
            for dashboard in (json.loads(path.read_text()) for path in SHIPPED)
            for panel in panels(dashboard)
            if panel["type"] == kind
        )
        path = tmp_path / f"{number}.json"
        wrong = change(panel)
        path.write_text(json.dumps(dashboard))
        files.append(path)
        expected.append(
            (path, f'"{dashboard["title"]}", panel {panel["id"]} "{panel["title"]}"', wrong)
        )
    done = typecheck(*files)
    assert done.returncode == 1, done.stdout
    output = [text for text in done.stdout.split(str(tmp_path)) if text.startswith("/")]
    for path, place, wrong in expected:
        found = [text for text in output if text.startswith(f"/{path.name}: ")]
        assert any(place in text and wrong in text for text in found), (path.name, place, found)


def test_an_unreadable_file_is_exit_code_2(tmp_path: Path) -> None:
    """A file that is not JSON ends with exit code 2 and its name."""
    path = tmp_path / "cut.json"
    path.write_text('{"panels": [')
    done = typecheck(path)
    assert done.returncode == 2
    assert str(path) in done.stdout
