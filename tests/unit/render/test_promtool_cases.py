"""The promtool tests in deploy/: every alert has a test of each kind."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml

from genmeter.schema.alerts import ALERT_RULES

FOLDER = Path(__file__).parents[3] / "deploy" / "prometheus" / "tests"
KINDS = {
    "fires": True,
    "does not fire at the limit": False,
    "does not fire without data": False,
    "handles a restart": None,
}
"""The prefix of a test's name after its alert's name, and whether the alert must fire."""
NAMES = sorted({rule.name for rule in ALERT_RULES})
BURNS = [rule for rule in ALERT_RULES if rule.name == "GenerationErrorBudgetBurn"]


@functools.cache
def cases() -> list[dict[str, Any]]:
    """Return every promtool test."""
    files = sorted(FOLDER.glob("*.yml"))
    return [case for path in files for case in yaml.safe_load(path.read_text())["tests"]]


def of(name: str, kind: str) -> list[dict[str, Any]]:
    """Return the tests of an alert by the prefix of their names."""
    return [case for case in cases() if case["name"].startswith(f"{name} {kind}")]


def fired(case: dict[str, Any]) -> list[dict[str, str]]:
    """Return the labels of the alerts that a test expects."""
    return [alert["exp_labels"] for each in case["alert_rule_test"] for alert in each["exp_alerts"]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_alert_has_a_test_of_each_kind(name: str, kind: str) -> None:
    """One fires, one is at the limit, one has no data and one includes a restart."""
    found = of(name, kind)
    assert found, f"no test in {FOLDER} is named '{name} {kind} ...'"
    for case in found:
        assert {each["alertname"] for each in case["alert_rule_test"]} == {name}
        if kind == "fires":
            assert fired(case)
        elif KINDS[kind] is False and "as critical" not in case["name"]:
            assert not fired(case)


@pytest.mark.parametrize("rule", ALERT_RULES, ids=lambda rule: rule.id)
def test_each_row_fires_in_a_test(rule: Any) -> None:
    """Rows of the same name are distinguished by their labels."""
    labels = {"severity": rule.severity, **dict(rule.labels)}
    by = {label.prometheus for label in rule.by}
    assert any(
        labels.items() <= found.items()
        for case in of(rule.name, "fires")
        for found in fired(case)
        if by <= set(found) or "cap" in case["name"]
    )


@pytest.mark.parametrize("rule", BURNS, ids=lambda rule: rule.id)
def test_each_pair_of_windows_needs_both(rule: Any) -> None:
    """For each pair there are two tests in which only one window is above the threshold."""
    (long,) = [label for name, label in rule.labels if name == "window"]
    start = f"{rule.name} over {long[:-1]} {long[-1]} and "
    alone = [case for case in cases() if case["name"].startswith(start)]
    assert len(alone) == 2
    assert not any(fired(case) for case in alone)
    assert {case["name"].partition("needs the ")[2].partition(";")[0] for case in alone} == (
        set(
            alone[0]["name"]
            .removeprefix(f"{rule.name} over ")
            .partition(" needs")[0]
            .split(" and ")
        )
    )


def test_case_names_are_unique_and_start_with_the_alert() -> None:
    """Each name is a sentence about its alert."""
    names = [case["name"] for case in cases()]
    assert len(names) == len(set(names))
    assert all(name.split()[0] in NAMES and len(name.split()) > 3 for name in names)


def test_expected_alerts_are_complete() -> None:
    """Each expected alert has its labels and annotations, with a link if the settings have one."""
    for path in FOLDER.glob("*.yml"):
        file = yaml.safe_load(path.read_text())
        link = {"runbook_url"} if file["rule_files"] != ["../rules.yml"] else set()
        for alert in (
            alert
            for case in file["tests"]
            for each in case["alert_rule_test"]
            for alert in each["exp_alerts"]
        ):
            assert {"severity", "job"} <= set(alert["exp_labels"])
            assert set(alert["exp_annotations"]) == {"summary", "description"} | link
