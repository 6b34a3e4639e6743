"""The reference and the runbook; no page or rendered file has a stale name."""

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
from genmeter.schema.older_metrics import OLDER_INSTRUMENTS

ROOT = Path(__file__).parents[3]
BUDGETED = AlertSettings(cost_budget=1.0, token_budget=1.0, jobs=("nightly",))
OURS = re.compile(r"(?<![\w./-])(?:genmeter|gen_ai)_\w+")
PREFIX = "gen_ai_client"
"""Prefixes by which one rule matches series past an instrument's cap."""
SUFFIXES = re.compile(r"_(sum|count|bucket|created)$")
RUNBOOK = ROOT / "docs" / "runbook.md"
NAMES = sorted({rule.name for rule in ALERT_RULES})


# --- the reference -----------------------------------------------------------------------------------


def known() -> set[str]:
    """Return the names of metrics, labels and recorded series, as words."""
    rows = (*cat.INSTRUMENTS, *OLDER_INSTRUMENTS)
    names = {row.prometheus for row in rows}
    names |= {row.prometheus.removesuffix("_total") for row in cat.INSTRUMENTS}
    labels = {label.prometheus for row in rows for label in row.labels}
    recorded = re.findall(r"record: (\S+)", render_rules(BUDGETED))
    return {PREFIX} | names | labels | {word for name in recorded for word in name.split(":")}


def written() -> list[Path]:
    """Return the handwritten pages and files."""
    found = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")]
    for pattern in ("docs/*.md", "deploy/**/*.yml", "deploy/**/*.yaml", "deploy/**/*.toml"):
        found += sorted(ROOT.glob(pattern))
    return found


def test_committed_reference_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    """The page in docs/ matches the tables."""
    page = str(ROOT / "docs" / "metrics.md")
    assert main(["render", "reference", "--check", page]) == 0, capsys.readouterr().out


def test_reference_is_complete() -> None:
    """The page has every metric, indicator, alert and panel."""
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
    """Rules, dashboards, runbook and reference take all names from the catalogue."""
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
def test_pages_name_only_existing_metrics(path: Path) -> None:
    """Metrics, labels and recorded series on handwritten pages exist."""
    names = known()
    found = {
        word
        for word in OURS.findall(path.read_text(encoding="utf-8"))
        if not (word in names or SUFFIXES.sub("", word) in names)
    }
    assert not found


# --- the runbook -------------------------------------------------------------------------------------


def sections(text: str) -> dict[str, str]:
    """Return the sections of a runbook by alert."""
    parts = re.split(r"^## (\w+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_committed_runbook_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    """The page in docs/ matches the tables and the template."""
    assert main(["render", "runbook", "--check", str(RUNBOOK)]) == 0, capsys.readouterr().out


def test_runbook_sections_match_the_alerts() -> None:
    """A rule's link has the anchor of its section, the lower-case name."""
    assert sorted(sections(render_runbook(AlertSettings()))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_runbook_sections_are_complete(name: str) -> None:
    """Each has meaning, investigation, action, query and silence."""
    section = sections(render_runbook(AlertSettings()))[name]
    for part in ("**Means.**", "**Look.**", "**Do.**", "```promql\n", f"alertname={name} "):
        assert part in section
    for rule in ALERT_RULES:
        if rule.name == name and rule.condition.is_local:
            assert f"| {rule.severity} | `{rule.id}` |" in section


def test_runbook_uses_the_settings() -> None:
    """A runbook for other settings has their thresholds in its queries."""
    alerts = {"high_error_rate": AlertOverride(threshold=0.125, severity="info")}
    section = sections(render_runbook(AlertSettings(alerts=alerts)))["GenerationErrorRateHigh"]
    assert "> 0.125" in section
    assert "| info | `high_error_rate` |" in section


def test_disabled_alert_has_no_section() -> None:
    """The runbook omits disabled alerts."""
    alerts = {"RateLimited": AlertOverride(enabled=False)}
    found = sections(render_runbook(AlertSettings(alerts=alerts)))
    assert sorted(found) == [name for name in NAMES if name != "RateLimited"]


def test_runbook_uses_renamed_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prose and queries take names from the catalogue."""
    old = cat.INFERENCE_DURATION.prometheus
    monkeypatch.setattr(
        cat, "INFERENCE_DURATION", replace(cat.INFERENCE_DURATION, name="other.time")
    )
    section = sections(render_runbook(AlertSettings()))["GenerationErrorRateHigh"]
    assert old not in section
    assert "increase(other_time_seconds_count{" in section
