"""The dashboards are up to date, complete, and match the tables."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from genmeter.cli import main
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.errors import MissingExtraError
from genmeter.files.plots import PLOTS
from genmeter.render.grafana import files as dashboard_files
from genmeter.render.grafana.files import DASHBOARDS, render_dashboards
from genmeter.render.rules import render_rules
from genmeter.schema.alerts import ALERT_RULES
from genmeter.schema.indicators import INDICATORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genmeter.schema.query import Histograms

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
FILES = {name: json.loads(text) for name, text in render_dashboards(AlertSettings()).items()}


def panels(files: dict[str, Any] = FILES) -> Iterator[dict[str, Any]]:
    """Return all panels except row titles."""
    for file in files.values():
        yield from (panel for panel in file["panels"] if panel["type"] != "row")


def lines(panel: dict[str, Any]) -> list[float]:
    """Return the thresholds of a panel."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return [step["value"] for step in steps if step["value"] is not None]


def panel_of(settings: AlertSettings, title: str) -> dict[str, Any]:
    """Return the timeseries panel of a title, for the settings."""
    files = {name: json.loads(text) for name, text in render_dashboards(settings).items()}
    (found,) = (
        panel
        for panel in panels(files)
        if panel["title"] == title and panel["type"] == "timeseries"
    )
    return found


# --- files ------------------------------------------------------------------------------------------


def test_committed_dashboards_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON in deploy/ matches the tables, without extra files."""
    assert main(["render", "dashboards", "--out", str(FOLDER), "--check"]) == 0, capsys.readouterr()
    assert {path.name for path in FOLDER.glob("*.json")} == set(FILES)


def test_check_accepts_the_files_of_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--out` creates the folder and prints its files; `--check` then prints nothing."""
    out = str(tmp_path / "new" / "folder")
    assert main(["render", "dashboards", "--out", out]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(FILES)
    assert main(["render", "dashboards", "--out", out, "--check"]) == 0
    assert capsys.readouterr().out == ""


def test_check_shows_changed_and_missing_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` prints the difference, exits with 1 and writes nothing."""
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


def test_unwritable_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message has the path and the remedy."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["render", "dashboards", "--out", str(blocked)]) == 2
    error = capsys.readouterr().err
    assert f"--out {str(blocked)!r} cannot be written" in error
    assert "choose another path" in error


def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the package unavailable."""
    for name in list(sys.modules):
        if name.startswith("grafana_foundation_sdk"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "genmeter.render.grafana.json", raising=False)
    monkeypatch.setitem(sys.modules, "grafana_foundation_sdk", None)


def test_rendering_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Custom settings need the package, and the error has the pip command."""
    without_the_extra(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"genmeter\[grafana\]"):
        render_dashboards(AlertSettings(selector='cluster="a"'))


def test_defaults_of_the_wheel_need_no_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The bundled files are returned unchanged."""
    folder = tmp_path / "deploy" / "grafana" / "dashboards"
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text("{}")
    monkeypatch.setattr(dashboard_files.resources, "files", lambda package: tmp_path)
    without_the_extra(monkeypatch)
    assert render_dashboards(AlertSettings()) == dict.fromkeys(FILES, "{}")


# --- the tables -------------------------------------------------------------------------------------


def test_every_indicator_is_on_a_panel() -> None:
    """No indicator is unused."""
    shown = {
        ref.indicator.id
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for query in panel.queries
        for ref in query.series
    }
    assert {indicator.id for indicator in INDICATORS} == shown


def test_every_alert_of_an_indicator_is_on_a_panel() -> None:
    """Each threshold is drawn, except for the burn rates over days."""
    drawn = {alert for each in DASHBOARDS for panel in each.panels for alert in panel.alerts}
    known = {rule.id for rule in ALERT_RULES}
    assert drawn <= known
    assert known - drawn == {
        "error_budget_burn:1d",
        "error_budget_burn:3d",
        "target_down",
        "target_absent",
        "target_lost",
        "push_stopped",
        "collector_down",
    }


def test_panels_draw_only_alerts_of_their_indicators() -> None:
    """A threshold is never drawn on another indicator."""
    rules = {rule.id: rule for rule in ALERT_RULES}
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            shown = {ref.indicator for query in panel.queries for ref in query.series}
            for alert in panel.alerts:
                assert rules[alert].condition.indicator in {None, *shown}, panel.heading


def test_the_migration_guide_names_panels_for_afterimages_plots() -> None:
    """Each of AfterImage's seven plots has a panel, which exists."""
    guide = (ROOT / "docs" / "migrating.md").read_text()
    rows = re.findall(r"^\| `(\w+)\.png` \| (.+?) \| (.+?) \|$", guide, re.MULTILINE)
    assert {plot for plot, _, _ in rows} == {plot.name for plot in PLOTS[:7]}
    known = {(each.title, panel.heading) for each in DASHBOARDS for panel in each.panels}
    assert {(f"genmeter / {dashboard}", panel) for _, dashboard, panel in rows} <= known


# --- settings ---------------------------------------------------------------------------------------


def test_drawn_thresholds_follow_the_settings() -> None:
    """Lines use thresholds, objective, budgets and disabled alerts of the settings."""
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


def test_selector_is_in_every_query() -> None:
    """Panels, variables and annotations use the selector."""
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
def test_options_of_the_command_equal_settings(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A settings file and `--selector` result in the same files as settings in code."""
    settings = tmp_path / "settings.toml"
    settings.write_text("objective = 0.9\n")
    arguments = [option, str(settings), "--selector", 'a="b"', "--out", str(tmp_path)]
    assert main(["render", "dashboards", *arguments]) == 0
    for name, text in render_dashboards(AlertSettings(objective=0.9, selector='a="b"')).items():
        assert (tmp_path / name).read_text() == text
    capsys.readouterr()


GROUPED = AlertSettings(group_by=("namespace", "cluster"), suffix="all-teams")


def test_jobs_are_grouped_by_further_labels() -> None:
    """Wherever a query is by job, it is by the labels too, and so are legends and columns."""
    files = {name: json.loads(text) for name, text in render_dashboards(GROUPED).items()}
    of_job = 0
    for panel, plain in zip(panels(files), panels(), strict=True):
        for target, before in zip(panel["targets"], plain["targets"], strict=True):
            by, by_before = (
                re.findall(r"(?:by|on) \(([^)]*)\)", each["expr"]) for each in (target, before)
            )
            assert by == [re.sub(r"\bjob\b", "job, namespace, cluster", each) for each in by_before]
            of_job += by != by_before
            legend = before.get("legendFormat")
            if legend is not None and "{{job}}" in legend:
                expected = legend.replace("{{job}}", "{{job}} {{namespace}} {{cluster}}")
                assert target["legendFormat"] == expected
            assert 'namespace=~"$namespace",cluster=~"$cluster",job=~"$job"' in target["expr"]
    assert of_job > 10
    (jobs,) = (panel for panel in panels(files) if panel["title"] == "Jobs")
    renamed = jobs["transformations"][1]["options"]["renameByName"]
    assert renamed.items() >= {"job": "Job", "namespace": "Namespace", "cluster": "Cluster"}.items()


def test_labels_besides_the_job_are_variables() -> None:
    """They come before the job, each chained to those before it, and links keep them."""
    for text in render_dashboards(GROUPED).values():
        file = json.loads(text)
        variables = {each["name"]: each for each in file["templating"]["list"]}
        assert list(variables)[:4] == ["datasource", "namespace", "cluster", "job"]
        assert [variables[name]["query"]["query"] for name in ("namespace", "cluster", "job")] == [
            "label_values(genmeter_build_info, namespace)",
            'label_values(genmeter_build_info{namespace=~"$namespace"}, cluster)',
            'label_values(genmeter_build_info{namespace=~"$namespace",cluster=~"$cluster"}, job)',
        ]
        assert variables["namespace"]["allValue"] == ".*"
        links = re.findall(r"/d/([^?]+)\?([^\"]+)", text)
        for uid, query in links:
            assert uid == "genmeter-overview-all-teams"
            assert "namespace" in query
            assert "cluster" in query


def test_dashboards_of_two_renderings_stand_side_by_side() -> None:
    """A suffix changes file, uid, title and the tag by which dashboards are linked."""
    for name, text in render_dashboards(GROUPED).items():
        file = json.loads(text)
        assert f"{file['uid']}.json" == name
        assert file["uid"].endswith("-all-teams")
        assert len(file["uid"]) <= 40
        assert file["title"].endswith(" (all-teams)")
        assert file["tags"] == file["links"][0]["tags"] == ["genmeter-all-teams"]


def test_native_histograms_have_no_label_of_a_bucket() -> None:
    """Quantiles and heat maps are of whole histograms, sums and counts are read from them."""
    native = AlertSettings(histograms="native", replica_labels=("replica",))
    files = {name: json.loads(text) for name, text in render_dashboards(native).items()}
    kinds = set()
    for panel, classic in zip(panels(files), panels(), strict=True):
        for target, before in zip(panel["targets"], classic["targets"], strict=True):
            assert not re.search(r"_(sum|count|bucket)\{|\ble\b", target["expr"])
            assert "{{le}}" not in (target.get("legendFormat") or "")
            if "_bucket{" in before["expr"]:
                kinds.add(panel["type"])
                assert "avg without (replica) (" in target["expr"]
            assert ("histogram_" in target["expr"]) == bool(
                re.search(r"_(sum|count)\{|histogram_", before["expr"])
            )
    assert kinds == {"stat", "timeseries", "heatmap", "table"}


RECORDED_BUCKETS = re.compile(r"(\w+:\w+:increase5m\w*)\{([^}]*)\}")


@pytest.mark.parametrize("histograms", ["classic", "native"])
@pytest.mark.parametrize(
    "sources",
    [{}, {"group_by": ("namespace",), "replica_labels": ("replica",), "suffix": "all-teams"}],
)
def test_recorded_distributions_are_those_that_the_rules_record(
    histograms: Histograms, sources: dict[str, Any]
) -> None:
    """No panel reads the buckets of times, and none asks recorded series for what they do not have."""
    settings = AlertSettings(distributions="recorded", histograms=histograms, **sources)
    rules = {
        rule["record"]: rule["expr"]
        for group in yaml.safe_load(render_rules(settings))["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    files = {name: json.loads(text) for name, text in render_dashboards(settings).items()}
    kinds = set()
    for panel, plain in zip(panels(files), panels(), strict=True):
        for target in panel["targets"]:
            assert not re.search(r"gen_ai_client_\w+_seconds_bucket\{", target["expr"])
            for name, matchers in RECORDED_BUCKETS.findall(target["expr"]):
                kinds.add(panel["type"])
                by = re.findall(r"sum by \(([^)]*)\)", rules[name])[0].split(", ")
                read = re.findall(r"(\w+)=~", matchers)
                read += ", ".join(re.findall(r"by \(([^)]*)\)", target["expr"])).split(", ")
                assert {*read} - {""} <= {*by}, target["expr"]
                assert "instance" not in matchers
                assert "exemplar" not in target
                assert panel["interval"] == "2m"
                said = f"{plain['description']} Distributions of times are those of all instances"
                assert panel["description"].startswith(said)
    assert kinds == {"stat", "timeseries", "heatmap", "table"}


def test_one_of_several_copies_counts() -> None:
    """Every sum is over one copy of each series."""
    files = render_dashboards(AlertSettings(replica_labels=("replica", "prometheus")))
    for panel in panels({name: json.loads(text) for name, text in files.items()}):
        for target in panel["targets"]:
            sums = re.findall(r"\bsum(?: by \([^)]*\))? \((\w+)", target["expr"])
            assert set(sums) <= {"max"}, target["expr"]
            assert target["expr"].count("max without (replica, prometheus) (") == len(sums)


# --- conventions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_dashboards_have_the_same_conventions(name: str) -> None:
    """Uid, refresh, variables and links are alike in all dashboards."""
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
        # Series may lack any of the labels but the model.
        assert each["allValue"] == (".+" if each["name"] == "model" else ".*")
        assert each["refresh"] == 2  # when the time range changes
    (link,) = file["links"]
    assert (link["type"], link["keepTime"], link["includeVars"]) == ("dashboards", True, True)


NO_VALUE = {
    "Firing alerts": "No alert fires",
    "Processes of the job": "No job of several processes",
    "Time since a process died": "No process has died",
}
"""Where a job with traffic may have no series, by the panel's title."""


def test_every_panel_has_texts_and_a_unit() -> None:
    """Title, description, unit and a text for missing values are set."""
    for panel in panels():
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert defaults["unit"]
        assert defaults["noValue"] == NO_VALUE.get(panel["title"], "No traffic")
        assert panel["datasource"]["uid"] == "${datasource}"


def test_panel_titles_of_a_row_are_unique() -> None:
    """No two panels of a row have the same title."""
    for dashboard in DASHBOARDS:
        for row in dashboard.rows:
            titles = [panel.heading for panel in row.panels]
            assert len(titles) == len(set(titles)), titles


def test_failures_are_red_and_successes_green() -> None:
    """Outcomes have their colour, independent of the order of the series."""
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


def test_table_links_filter_the_overview() -> None:
    """The link keeps the time and the other variables, and selects the name."""
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


def test_duration_panels_link_to_traces() -> None:
    """They show exemplars and link to the data source of traces."""
    linked = [panel for panel in panels() if panel.get("links")]
    assert len(linked) == 6
    for panel in linked:
        (link,) = panel["links"]
        assert link["url"].startswith("/explore?schemaVersion=1&panes=%7B")
        assert link["url"].count("${traces}") == 2
        assert any(target.get("exemplar") for target in panel["targets"])


def test_links_and_annotations_are_visible() -> None:
    """Links are above the panels, not in the closed menu."""
    for board in FILES.values():
        placed = [*board["links"], *board["annotations"]["list"]]
        placed += [link for panel in board["panels"] for link in panel.get("links") or ()]
        assert placed
        assert not [each for each in placed if "placement" in each]


def test_fault_shares_are_0_before_the_first_fault() -> None:
    """The share is 0 although its counter has no series yet, and empty without events."""
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
