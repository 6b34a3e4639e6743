"""The dashboards: that they are up to date, whole, and say what the tables say."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from genmeter.cli import main
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.errors import MissingExtraError
from genmeter.files.plots import PLOTS
from genmeter.render.grafana import files as dashboard_files
from genmeter.render.grafana.files import DASHBOARDS, render_dashboards
from genmeter.schema.alerts import ALERT_RULES
from genmeter.schema.indicators import INDICATORS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
FILES = {name: json.loads(text) for name, text in render_dashboards(AlertSettings()).items()}


def panels(files: dict[str, Any] = FILES) -> Iterator[dict[str, Any]]:
    """Return all panels but the rows' heads."""
    for file in files.values():
        yield from (panel for panel in file["panels"] if panel["type"] != "row")


def lines(panel: dict[str, Any]) -> list[float]:
    """Return where the thresholds of a panel are."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return [step["value"] for step in steps if step["value"] is not None]


def panel_of(settings: AlertSettings, title: str) -> dict[str, Any]:
    """Return the panel over time of this title, as the settings have it."""
    files = {name: json.loads(text) for name, text in render_dashboards(settings).items()}
    (found,) = (
        panel
        for panel in panels(files)
        if panel["title"] == title and panel["type"] == "timeseries"
    )
    return found


# --- files ------------------------------------------------------------------------------------------


def test_the_committed_files_are_what_is_rendered(capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON in deploy/ is up to date with the tables, and there is none beside it."""
    assert main(["render", "dashboards", "--out", str(FOLDER), "--check"]) == 0, capsys.readouterr()
    assert {path.name for path in FOLDER.glob("*.json")} == set(FILES)


def test_the_command_writes_what_it_then_finds_to_be_fresh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--out` makes the folder and names its files; `--check` then finds nothing to say."""
    out = str(tmp_path / "new" / "folder")
    assert main(["render", "dashboards", "--out", out]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(FILES)
    assert main(["render", "dashboards", "--out", out, "--check"]) == 0
    assert capsys.readouterr().out == ""


def test_a_file_that_differs_or_is_missing_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` shows the difference, exits 1 and writes nothing."""
    main(["render", "dashboards", "--out", str(tmp_path)])
    capsys.readouterr()
    changed, missing = tmp_path / "genmeter-overview.json", tmp_path / "genmeter-health.json"
    changed.write_text(changed.read_text().replace('"Progress"', '"Mine"'))
    missing.unlink()
    assert main(["render", "dashboards", "--out", str(tmp_path), "--check"]) == 1
    out = capsys.readouterr().out
    assert '-      "title": "Mine",' in out
    assert '+      "title": "Progress",' in out
    assert '+  "title": "genmeter / Monitor health",' in out
    assert not missing.exists()


def test_a_folder_that_cannot_be_written_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands in the folder's place is named, with the remedy."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["render", "dashboards", "--out", str(blocked)]) == 2
    error = capsys.readouterr().err
    assert f"--out {str(blocked)!r} cannot be written" in error
    assert "choose another path" in error


def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the package be missing."""
    for name in list(sys.modules):
        if name.startswith("grafana_foundation_sdk"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "genmeter.render.grafana.json", raising=False)
    monkeypatch.setitem(sys.modules, "grafana_foundation_sdk", None)


def test_rendering_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of one's own need the package, and the message is the command that brings it."""
    without_the_extra(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"genmeter\[grafana\]"):
        render_dashboards(AlertSettings(selector='cluster="a"'))


def test_the_defaults_need_no_extra_where_the_wheel_has_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The files that come with genmeter are given as they are."""
    folder = tmp_path / "deploy" / "grafana" / "dashboards"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text("{}")
    monkeypatch.setattr(dashboard_files.resources, "files", lambda package: tmp_path)
    without_the_extra(monkeypatch)
    assert render_dashboards(AlertSettings()) == dict.fromkeys(FILES, "{}")


# --- the tables -------------------------------------------------------------------------------------


def test_every_indicator_is_on_a_panel() -> None:
    """Every indicator is shown."""
    shown = {
        ref.indicator.id
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for query in panel.queries
        for ref in query.series
    }
    assert {indicator.id for indicator in INDICATORS} == shown


def test_every_alert_of_an_indicator_is_on_a_panel() -> None:
    """An alert's threshold is drawn somewhere, but for the burn rates that take days."""
    drawn = {alert for each in DASHBOARDS for panel in each.panels for alert in panel.alerts}
    known = {rule.id for rule in ALERT_RULES}
    assert drawn <= known
    assert known - drawn == {
        "error_budget_burn:1d",
        "error_budget_burn:3d",
        "target_down",
        "target_absent",
    }


def test_a_panel_that_draws_an_alert_shows_its_indicator() -> None:
    """A line never stands in a panel of something else."""
    rules = {rule.id: rule for rule in ALERT_RULES}
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            shown = {ref.indicator for query in panel.queries for ref in query.series}
            for alert in panel.alerts:
                assert rules[alert].condition.indicator in {None, *shown}, panel.heading


def test_the_old_plots_have_their_panels() -> None:
    """Each of the seven plots of AfterImage is a panel, which the guide names."""
    places = {
        panel.note: (dashboard.title.rpartition(" / ")[2], panel.heading)
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        if panel.note
    }
    assert set(places) == {plot.name for plot in PLOTS[:7]}
    guide = (ROOT / "docs" / "migrating.md").read_text()
    for plot, (dashboard, panel) in places.items():
        assert f"| `{plot}.png` | {dashboard} | {panel} |" in guide


# --- settings ---------------------------------------------------------------------------------------


def test_thresholds_are_drawn_where_the_alerts_fire() -> None:
    """The lines come from the settings: thresholds, an objective, a budget, an alert turned off."""
    title = "Success and error rate"
    assert lines(panel_of(AlertSettings(), title)) == [0.2, 0.8]
    own = AlertSettings(
        objective=0.95,
        cost_budget=50.0,
        alerts={
            "high_error_rate": AlertOverride(threshold=0.1),
            "low_success_rate": AlertOverride(enabled=False),
        },
    )
    assert lines(panel_of(own, title)) == [0.1]
    assert lines(panel_of(own, "Cost of the last 24 hours")) == [40.0, 50.0]
    assert lines(panel_of(AlertSettings(), "Cost of the last 24 hours")) == []
    for settings in (own, AlertSettings()):
        assert lines(panel_of(settings, "Burn rate of the error budget")) == [6.0, 14.4]
    burn = panel_of(own, "Burn rate of the error budget")
    assert burn["targets"][0]["expr"].endswith("/ 0.05")
    assert lines(panel_of(own, "Mean of an hour against that of 24 hours")) == [-0.1]
    assert lines(panel_of(own, "Time since the last call")) == [900.0]


def test_a_selector_is_in_every_query() -> None:
    """Panels, variables and annotations all look at the series that were asked for."""
    mine = 'cluster="a"'
    rendered = render_dashboards(AlertSettings(selector=mine))
    for file in map(json.loads, rendered.values()):
        exprs = [target["expr"] for panel in panels({"": file}) for target in panel["targets"]]
        exprs += [each["expr"] for each in file["annotations"]["list"]]
        exprs += [
            each["query"]["query"] for each in file["templating"]["list"] if each["type"] == "query"
        ]
        for expr in exprs:
            selectors = re.findall(r"\{[^}]*\}", expr)
            assert selectors
            assert all(mine in selector for selector in selectors), expr


@pytest.mark.parametrize("option", ["--settings", "--thresholds"])
def test_the_options_of_the_command_are_the_settings(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A settings' file and `--selector` give what the same settings give in code."""
    settings = tmp_path / "settings.toml"
    settings.write_text("objective = 0.9\n")
    arguments = [option, str(settings), "--selector", 'a="b"', "--out", str(tmp_path)]
    assert main(["render", "dashboards", *arguments]) == 0
    for name, text in render_dashboards(AlertSettings(objective=0.9, selector='a="b"')).items():
        assert (tmp_path / name).read_text() == text
    capsys.readouterr()


# --- conventions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_dashboard_keeps_the_conventions(name: str) -> None:
    """Uid, refresh, variables and links are the same kind in all of them."""
    file = FILES[name]
    assert f"{file['uid']}.json" == name
    assert (file["refresh"], file["editable"], file["tags"]) == ("30s", False, ["genmeter"])
    variables = file["templating"]["list"]
    order = [each["name"] for each in variables]
    assert order[:5] == ["datasource", "job", "instance", "model", "step"]
    assert order[5:] in ([], ["traces"])
    for each in variables[1:5]:
        assert each["multi"]
        assert each["includeAll"]
        assert each["allValue"] == (".*" if each["name"] == "step" else ".+")
        assert each["refresh"] == 2  # when the range of time changes
    (link,) = file["links"]
    assert (link["type"], link["keepTime"], link["includeVars"]) == ("dashboards", True, True)


def test_every_panel_says_what_it_is() -> None:
    """A title, a description, a unit and a word for nothing stand in every panel."""
    for panel in panels():
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert defaults["unit"]
        assert defaults["noValue"] == "No traffic"
        assert panel["datasource"]["uid"] == "${datasource}"


def test_titles_tell_panels_of_a_row_apart() -> None:
    """No two panels of a row have one title."""
    for dashboard in DASHBOARDS:
        for row in dashboard.rows:
            titles = [panel.heading for panel in row.panels]
            assert len(titles) == len(set(titles)), titles


def test_what_failed_is_red_and_what_succeeded_green() -> None:
    """Outcomes have their colour whatever place they have among the series."""
    colours = {
        (override["matcher"]["options"], property_["value"]["fixedColor"])
        for panel in panels()
        for override in panel["fieldConfig"]["overrides"]
        for property_ in override["properties"]
        if property_["id"] == "color"
    }
    found = dict(colours)
    assert found["Failed"] == found["failure"] == found["rejected"] == found["error"] == "red"
    assert found["Succeeded"] == found["success"] == found["accepted"] == "green"


def test_a_name_in_a_table_leads_to_the_overview_of_it_alone() -> None:
    """The link keeps the time and the other variables, and chooses what was clicked."""
    (models,) = (
        panel
        for panel in panels({"": FILES["genmeter-overview.json"]})
        if panel["title"] == "Models"
    )
    override = models["fieldConfig"]["overrides"][0]
    assert override["matcher"]["options"] == "Model"
    found = {each["id"]: each["value"] for each in override["properties"]}
    assert found["noValue"] == "none"
    (link,) = found["links"]
    assert link["url"] == (
        "/d/genmeter-overview?${__url_time_range}&${datasource:queryparam}&${job:queryparam}"
        "&${instance:queryparam}&var-model=${__value.raw:percentencode}&${step:queryparam}"
    )


def test_durations_lead_to_traces() -> None:
    """Panels of durations show exemplars and link to the variable's data source."""
    linked = [panel for panel in panels() if panel.get("links")]
    assert len(linked) == 6
    for panel in linked:
        (link,) = panel["links"]
        assert link["url"].startswith("/explore?schemaVersion=1&panes=%7B")
        assert link["url"].count("${traces}") == 2
        assert any(target.get("exemplar") for target in panel["targets"])


def test_links_and_annotations_are_in_sight() -> None:
    """The links between dashboards stand above the panels, not in the closed menu of controls."""
    for board in FILES.values():
        placed = [*board["links"], *board["annotations"]["list"]]
        placed += [link for panel in board["panels"] for link in panel.get("links") or ()]
        assert placed
        assert not [each for each in placed if "placement" in each]


def test_a_share_of_faults_is_nought_before_the_first_fault() -> None:
    """Where a counter is born with the first fault, its share is 0, and empty without events."""
    queries = {panel["title"]: panel["targets"][0]["expr"] for panel in panels()}
    for title, whole in (
        ("Failed evaluations", "genmeter_evaluations_total"),
        ("Share of rejected samples", "genmeter_samples_total"),
        ("Truncated completions by model", "genmeter_finish_reasons_total"),
        ("Rate-limited retries per call by model", "genmeter_generations_total"),
    ):
        fallback = queries[title].rpartition(" or 0 * ")[2]
        assert whole in fallback, title
        assert fallback.endswith("> 0)"), title
