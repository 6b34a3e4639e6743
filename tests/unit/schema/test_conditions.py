"""Conditions in words: templates for Prometheus, and the same words for a value."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from genmeter.config.alerts import AlertOverride, AlertSettings

if TYPE_CHECKING:
    from genmeter.schema.alerts import AlertRule

SETTINGS = AlertSettings(cost_budget=100.0, token_budget=5e6, jobs=("nightly",))
RULES = {rule.id: rule for rule in SETTINGS.rules()}

rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def by_hand(template: str, labels: dict[str, str], value: float) -> str:
    """Fill in a template as Prometheus does, as far as ours go."""

    def group(match: re.Match[str]) -> str:
        found = labels.get(match[1])
        return match[2].replace("{{ . }}", found) if found else ""

    text = re.sub(r"\{\{ with \$labels\.(\w+) \}\}(.*?)\{\{ end \}\}", group, template)
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: labels[match[1]], text)
    text = text.replace("{{ $value | humanizePercentage }}", f"{value * 100:.4g}%")
    return re.sub(
        r'\{\{ \$value \| printf "(%[^"]+)" \}\}', lambda match: match[1] % value, text
    ).replace('{{ "{{" }}', "{{")


@rules
@pytest.mark.parametrize("value", [0.0, 0.2564, 1234567.0])
def test_the_process_says_what_the_templates_say(rule: AlertRule, value: float) -> None:
    """Each annotation of each alert is the template with the labels and the value filled in."""
    labels = {"job": "nightly"} | {label.prometheus: f"a {label.key}" for label in rule.by}
    written = rule.templates("docs/runbook.md")
    assert set(written) == {"summary", "description", "runbook_url"}
    for found in (labels, {"job": "nightly"}):
        expected = {name: by_hand(text, found, value) for name, text in written.items()}
        assert rule.annotations("docs/runbook.md", found, value) == expected
        assert not any("{{" in text for text in expected.values())


def test_what_an_alert_says_as_a_person_reads_it() -> None:
    """A whole set: whose it is, the value, over what, the threshold, and where to look."""
    labels = {"job": "nightly", "gen_ai_request_model": "gpt-4o"}
    assert RULES["high_generation_time"].annotations("docs/runbook.md", labels, 42.25) == {
        "summary": "nightly, model gpt-4o: mean generation time 42.2 s",
        "description": "Mean generation time: 42.2 s in the last 5 minutes, above the threshold of "
        "30 s. Look at the durations by model and step.",
        "runbook_url": "docs/runbook.md#generationslow",
    }


def test_a_burn_mentions_both_windows() -> None:
    """An alert over two windows gives the first one's value, and says that the second holds too."""
    text = RULES["error_budget_burn:1d"].annotations("docs/runbook.md", {"job": "j"}, 0.05)[
        "description"
    ]
    assert text.startswith(
        "Error rate: 5% in the last 24 hours, above the threshold of 3%, and in the last 2 hours "
        "too."
    )


def test_counts_have_no_unit() -> None:
    """What an alert counts is in its subject, so one of them reads no worse than many."""
    found = RULES["monitor_handler_failing"].annotations(
        "docs/runbook.md", {"job": "j", "genmeter_handler": "Sheet"}, 1.0
    )
    assert found["summary"] == "j, handler Sheet: handler errors 1"
    assert found["description"].startswith("Handler errors: 1 in the last 10 minutes. ")


def test_windows_and_waits_are_in_words() -> None:
    """Durations read as people say them, whatever they are set to."""
    override = AlertOverride(windows=(90.0,))
    settings = AlertSettings(alerts={"high_error_rate": override, "generation_stalled": override})
    found = {rule.id: rule for rule in settings.rules()}
    for id_ in ("high_error_rate", "generation_stalled"):
        assert "90 seconds" in found[id_].templates(settings.runbook_url)["description"]
    assert "for 5 minutes" in RULES["target_absent"].templates("docs/runbook.md")["description"]
    assert (
        "within the last hour" in RULES["target_down"].templates("docs/runbook.md")["description"]
    )


@pytest.mark.parametrize(
    ("window", "words"), [(3_600.0, "than 1 hour;"), (1.0, "than 1 second;"), (0.5, "than 0.5 s")]
)
def test_one_of_a_unit_reads_as_one(window: float, words: str) -> None:
    """A window of one hour is not `the hour that are`."""
    settings = AlertSettings(alerts={"generation_stalled": AlertOverride(windows=(window,))})
    (rule,) = [rule for rule in settings.rules() if rule.id == "generation_stalled"]
    assert words in rule.templates(settings.runbook_url)["description"]


def test_no_wait_is_not_told() -> None:
    """An alert on targets that fires at once says nothing of how long it has been so."""
    alerts = {"MonitorTargetDown": AlertOverride(for_=0.0)}
    settings = AlertSettings(alerts=alerts, jobs=("nightly",))
    down, absent = (
        rule.templates(settings.runbook_url)["description"]
        for rule in settings.rules()
        if rule.name == "MonitorTargetDown"
    )
    assert down.startswith(
        "All targets of the job have been down; one was up within the last hour,"
    )
    assert absent.startswith("Prometheus has had no target of the job. ")


def test_an_address_is_no_template() -> None:
    """Braces in the runbook's address reach the annotation as they are."""
    settings = AlertSettings(runbook_url="https://wiki/{{page}}")
    rule = settings.rules()[0]
    address = "https://wiki/{{page}}#generationsuccessratelow"
    assert rule.annotations(settings.runbook_url, {"job": "j"}, 0.0)["runbook_url"] == address
    assert by_hand(rule.templates(settings.runbook_url)["runbook_url"], {}, 0.0) == address
    assert rule.templates(settings.runbook_url)["runbook_url"] != address
