"""Conditions in words: templates for Prometheus, and equal texts in the process."""

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


def fill(template: str, labels: dict[str, str], value: float) -> str:
    """Fill in a template as Prometheus does, for the functions that we use."""

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
def test_process_and_prometheus_write_equal_annotations(rule: AlertRule, value: float) -> None:
    """Each annotation equals the template with labels and value filled in."""
    labels = {"job": "nightly"} | {label.prometheus: f"a {label.key}" for label in rule.by}
    written = rule.templates("docs/runbook.md")
    assert set(written) == {"summary", "description", "runbook_url"}
    for found in (labels, {"job": "nightly"}):
        expected = {name: fill(text, found, value) for name, text in written.items()}
        assert rule.annotations("docs/runbook.md", found, value) == expected
        assert not any("{{" in text for text in expected.values())


def test_annotations_name_job_value_window_threshold_and_advice() -> None:
    """One complete set of annotations."""
    labels = {"job": "nightly", "gen_ai_request_model": "gpt-4o"}
    assert RULES["high_generation_time"].annotations("docs/runbook.md", labels, 42.25) == {
        "summary": "nightly, model gpt-4o: mean generation time 42.2 s",
        "description": "Mean generation time: 42.2 s in the last 5 minutes, above the threshold of "
        "30 s. Look at the durations by model and step.",
        "runbook_url": "docs/runbook.md#generationslow",
    }


def test_a_burn_names_both_windows() -> None:
    """An alert over two windows has the value of the first, and names the second."""
    text = RULES["error_budget_burn:1d"].annotations("docs/runbook.md", {"job": "j"}, 0.05)[
        "description"
    ]
    assert text.startswith(
        "Error rate: 5% in the last 24 hours, above the threshold of 3%, and in the last 2 hours "
        "too."
    )


def test_counts_are_written_without_a_unit() -> None:
    """The subject names what is counted, so that 1 reads well too."""
    found = RULES["monitor_handler_failing"].annotations(
        "docs/runbook.md", {"job": "j", "genmeter_handler": "Sheet"}, 1.0
    )
    assert found["summary"] == "j, handler Sheet: handler errors 1"
    assert found["description"].startswith("Handler errors: 1 in the last 10 minutes. ")


def test_durations_are_spelled_out() -> None:
    """Windows and waits of any length are in words."""
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
def test_durations_of_one_unit_are_singular(window: float, words: str) -> None:
    """A window of one hour reads "1 hour"."""
    settings = AlertSettings(alerts={"generation_stalled": AlertOverride(windows=(window,))})
    (rule,) = [rule for rule in settings.rules() if rule.id == "generation_stalled"]
    assert words in rule.templates(settings.runbook_url)["description"]


def test_alerts_without_a_wait_mention_none() -> None:
    """An alert on targets that fires at once does not name a duration."""
    alerts = {"MonitorTargetDown": AlertOverride(for_=0.0)}
    settings = AlertSettings(alerts=alerts, jobs=("nightly",))
    down, absent, lost = (
        rule.templates(settings.runbook_url)["description"]
        for rule in settings.rules()
        if rule.name == "MonitorTargetDown"
    )
    assert down.startswith(
        "All targets of the job have been down; one was up within the last hour,"
    )
    assert absent.startswith("Prometheus has had no target of the job. ")
    assert lost.startswith(
        "Processes that are no longer scraped, or were replaced, within the last"
    )


def test_annotations_without_an_address_have_no_link() -> None:
    """A link that leads nowhere is worse than none."""
    rule = RULES["high_error_rate"]
    assert AlertSettings().runbook_url is None
    assert set(rule.templates(None)) == {"summary", "description"}
    assert set(rule.annotations(None, {"job": "j"}, 0.5)) == {"summary", "description"}


def test_braces_in_an_address_are_escaped() -> None:
    """Braces in the runbook's address reach the annotation unchanged."""
    settings = AlertSettings(runbook_url="https://wiki/{{page}}")
    rule = settings.rules()[0]
    address = "https://wiki/{{page}}#generationsuccessratelow"
    assert rule.annotations(settings.runbook_url, {"job": "j"}, 0.0)["runbook_url"] == address
    assert fill(rule.templates(settings.runbook_url)["runbook_url"], {}, 0.0) == address
    assert rule.templates(settings.runbook_url)["runbook_url"] != address
