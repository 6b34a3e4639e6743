"""The runbook: a section for each alert, and no name that is stale."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from genmeter.cli import main
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.render.runbook import render_runbook
from genmeter.schema import metrics as cat
from genmeter.schema.alerts import ALERT_RULES

RUNBOOK = Path(__file__).parents[3] / "docs" / "runbook.md"
NAMES = sorted({rule.name for rule in ALERT_RULES})


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


def test_the_settings_are_told() -> None:
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
