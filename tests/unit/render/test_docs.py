"""The reference and the runbook, and that no page or rendered file has a stale name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from genmeter.cli import main
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.render.docs import render_reference, render_runbook
from genmeter.render.grafana.files import DASHBOARDS
from genmeter.render.rules import render_rules
from genmeter.schema import metrics as cat
from genmeter.schema.alerts import ALERT_RULES
from genmeter.schema.indicators import INDICATORS

ROOT = Path(__file__).parents[3]
BUDGETED = AlertSettings(cost_budget=1.0, token_budget=1.0, jobs=("nightly",))
OURS = re.compile(r"(?<![\w./-])(?:genmeter|gen_ai)_\w+")
PREFIX = "gen_ai_client"
"""Of series past an instrument's cap, whose names one rule matches by their beginning."""
SUFFIXES = re.compile(r"_(sum|count|bucket|created)$")
RUNBOOK = ROOT / "docs" / "runbook.md"
NAMES = sorted({rule.name for rule in ALERT_RULES})


# --- the reference -----------------------------------------------------------------------------------


def known() -> set[str]:
    """List the names of metrics, labels and recorded series, as words."""
    names = {row.prometheus for row in cat.INSTRUMENTS}
    names |= {row.prometheus.removesuffix("_total") for row in cat.INSTRUMENTS}
    labels = {label.prometheus for row in cat.INSTRUMENTS for label in row.labels}
    recorded = re.findall(r"record: (\S+)", render_rules(BUDGETED))
    return {PREFIX} | names | labels | {word for name in recorded for word in name.split(":")}


def written() -> list[Path]:
    """List the pages and files that people write."""
    found = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")]
    for pattern in ("docs/*.md", "deploy/**/*.yml", "deploy/**/*.yaml", "deploy/**/*.toml"):
        found += sorted(ROOT.glob(pattern))
    return found


def test_the_committed_reference_is_what_is_rendered(capsys: pytest.CaptureFixture[str]) -> None:
    """The page in docs/ is up to date with the tables."""
    page = str(ROOT / "docs" / "metrics.md")
    assert main(["render", "reference", "--check", page]) == 0, capsys.readouterr().out


def test_the_reference_has_every_metric_indicator_alert_and_panel() -> None:
    """Nothing that the tables have is missing from the page."""
    text = render_reference()
    for row in cat.INSTRUMENTS:
        assert f"### `{row.prometheus}`\n\n{row.help}" in text
    for indicator in INDICATORS:
        assert f"### `{indicator.id}`\n\n{indicator.title}: " in text
    for rule in ALERT_RULES:
        assert f"| [{rule.name}](runbook.md#{rule.name.lower()}) |" in text
    for dashboard in DASHBOARDS:
        title = dashboard.title.rpartition(" / ")[2]
        for panel in dashboard.panels:
            assert f"{title}: {panel.heading}" in text


def test_renaming_every_row_leaves_no_stale_name() -> None:
    """Rules, dashboards, runbook and reference have their names from the catalogue alone."""
    script = Path(__file__).with_name("_renamed.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    texts = json.loads(done.stdout)
    assert len(texts) == 4 + len(DASHBOARDS)
    rows = [*cat.INSTRUMENTS, *(label for row in cat.INSTRUMENTS for label in row.labels)]
    old = {row.prometheus for row in rows if row.prometheus.startswith(("gen_ai_", "genmeter_"))}
    stale = {
        (name, word)
        for name, text in texts.items()
        for word in re.findall(r"\w+", text)
        if word in old or SUFFIXES.sub("", word) in old
    }
    assert not stale
    assert all("zz_genmeter_" in text for text in texts.values())


@pytest.mark.parametrize("path", written(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_names_no_metric_that_there_is_not(path: Path) -> None:
    """What people write by hand names metrics, labels and recorded series as they are."""
    names = known()
    found = {
        word
        for word in OURS.findall(path.read_text(encoding="utf-8"))
        if not (word in names or SUFFIXES.sub("", word) in names)
    }
    assert not found


# --- the runbook -------------------------------------------------------------------------------------


def sections(text: str) -> dict[str, str]:
    """Split a runbook by its alerts."""
    parts = re.split(r"^## (\w+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_committed_runbook_is_what_is_rendered(capsys: pytest.CaptureFixture[str]) -> None:
    """The page in docs/ is up to date with the tables and the template."""
    assert main(["render", "runbook", "--check", str(RUNBOOK)]) == 0, capsys.readouterr().out


def test_each_alert_has_its_section_and_no_other_has_one() -> None:
    """A rule's link finds its anchor, which is the alert's name in lower case."""
    assert sorted(sections(render_runbook(AlertSettings()))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_section_says_what_to_do(name: str) -> None:
    """Each says what the alert means, where to look, what to do, its query and how to silence it."""
    section = sections(render_runbook(AlertSettings()))[name]
    for part in ("**Means.**", "**Look.**", "**Do.**", "```promql\n", f"alertname={name} "):
        assert part in section
    for rule in ALERT_RULES:
        if rule.name == name and rule.condition.is_local:
            assert f"| {rule.severity} | `{rule.id}` |" in section


def test_the_settings_are_shown() -> None:
    """A runbook for other settings has their thresholds in its queries."""
    alerts = {"high_error_rate": AlertOverride(threshold=0.125, severity="info")}
    section = sections(render_runbook(AlertSettings(alerts=alerts)))["GenerationErrorRateHigh"]
    assert "> 0.125" in section
    assert "| info | `high_error_rate` |" in section


def test_a_disabled_alert_has_no_section() -> None:
    """Who turned an alert off reads nothing of it."""
    alerts = {"RateLimited": AlertOverride(enabled=False)}
    found = sections(render_runbook(AlertSettings(alerts=alerts)))
    assert sorted(found) == [name for name in NAMES if name != "RateLimited"]


def test_a_renamed_metric_leaves_no_stale_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prose takes names from the catalogue as the queries do."""
    old = cat.INFERENCE_DURATION.prometheus
    monkeypatch.setattr(
        cat, "INFERENCE_DURATION", replace(cat.INFERENCE_DURATION, name="other.time")
    )
    section = sections(render_runbook(AlertSettings()))["GenerationErrorRateHigh"]
    assert old not in section
    assert "increase(other_time_seconds_count{" in section
