"""Prometheus's rules: which there are, what they ask, and how settings change them."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from genmeter.cli import main
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.errors import ConfigError, MissingExtraError
from genmeter.render.rules import render_rules
from genmeter.schema import metrics as cat
from genmeter.schema.alerts import ALERT_RULES
from genmeter.schema.query import Selector

if TYPE_CHECKING:
    from genmeter.schema.alerts import AlertRule

DEPLOY = Path(__file__).parents[3] / "deploy" / "prometheus"
FULL = AlertSettings(cost_budget=100.0, token_budget=5e6, jobs=("nightly",))
ABSENT = 'absent(up{job="nightly"})'


def rules_of(text: str) -> list[dict[str, Any]]:
    """Return the rules of a rule file."""
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def alerts_of(settings: AlertSettings) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the alerts that are rendered, by name and labels."""
    return {
        (rule["alert"], *rule["labels"].values()): rule
        for rule in rules_of(render_rules(settings))
        if "alert" in rule
    }


def row(id_: str, settings: AlertSettings = FULL) -> AlertRule:
    """Return a rule by its id."""
    (found,) = [rule for rule in settings.rules() if rule.id == id_]
    return found


# --- the files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form", "settings"),
    [
        ("rules.yml", "prometheus", AlertSettings()),
        ("rules-kubernetes.yml", "kubernetes", AlertSettings()),
        (
            "tests/rules/example.yml",
            "prometheus",
            AlertSettings.from_file(DEPLOY / "settings.toml"),
        ),
    ],
)
def test_a_committed_file_is_fresh(name: str, form: Any, settings: AlertSettings) -> None:
    """What is in deploy/ is what is rendered today: `genmeter render rules --out` mends it."""
    assert (DEPLOY / name).read_text(encoding="utf-8") == render_rules(settings, form)


def test_rendering_is_byte_stable() -> None:
    """Another process, with other hashes of strings, writes the same bytes."""
    code = (
        "import sys; from genmeter.config.alerts import AlertSettings;"
        "from genmeter.render.rules import render_rules;"
        "sys.stdout.buffer.write(render_rules(AlertSettings(cost_budget=1.0)).encode())"
    )
    written = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert written == {render_rules(AlertSettings(cost_budget=1.0)).encode()}


def test_the_kubernetes_resource_has_the_same_groups() -> None:
    """A PrometheusRule's spec is the rule file, and its name is one that Kubernetes takes."""
    resource = yaml.safe_load(render_rules(FULL, "kubernetes"))
    assert (resource["apiVersion"], resource["kind"]) == (
        "monitoring.coreos.com/v1",
        "PrometheusRule",
    )
    assert re.fullmatch(r"[a-z][a-z0-9-]*", resource["metadata"]["name"])
    assert resource["spec"] == yaml.safe_load(render_rules(FULL))


def test_queries_are_blocks_that_people_can_read() -> None:
    """A query of several lines keeps them in the file, and no line of it is longer than a screen."""
    text = render_rules(FULL)
    assert "\\n" not in text
    assert "    expr: |-\n" in text
    assert max(len(line) for rule in rules_of(text) for line in rule["expr"].splitlines()) < 150


def test_without_pyyaml_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that brings PyYAML is named where it is missing."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match=r"genmeter\[render\]"):
        render_rules(AlertSettings())


# --- the alerts ------------------------------------------------------------------------------------


def test_every_rule_is_an_alert_with_all_that_people_need() -> None:
    """Each row becomes one alert: severity, labels, wait, summary, description, runbook."""
    rendered = alerts_of(FULL)
    assert len(rendered) == len(ALERT_RULES)
    for rule in FULL.rules():
        labels = dict(rule.labels)
        alert = rendered[rule.name, rule.severity, *labels.values()]
        assert alert["expr"] == rule.promql()
        assert alert["labels"] == {"severity": rule.severity, **labels}
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert ("for" in alert) == (rule.for_ > 0)
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{rule.name.lower()}"


def test_no_two_rules_write_the_same_series() -> None:
    """Records have names of their own, and alerts of one name differ in a label."""
    found = [
        (rule.get("record"), rule.get("alert"), *sorted(rule.get("labels", {}).items()))
        for rule in rules_of(render_rules(FULL))
    ]
    assert len(found) == len(set(found))


def test_a_record_comes_before_what_needs_it_and_in_its_group() -> None:
    """Rules of a group are evaluated in their order, so no alert compares what was recorded before."""
    needed = re.compile(r"job\w*:\w+:\w+")
    for group in yaml.safe_load(render_rules(FULL))["groups"]:
        recorded: set[str] = set()
        for rule in group["rules"]:
            assert set(needed.findall(rule["expr"])) <= recorded, rule
            if "record" in rule:
                recorded.add(rule["record"])


def test_every_record_is_used() -> None:
    """Nothing is recorded that no alert needs."""
    for settings in (AlertSettings(), FULL):
        found = rules_of(render_rules(settings))
        for record in (rule["record"] for rule in found if "record" in rule):
            uses = [rule for rule in found if re.search(rf"{record}\b", rule["expr"])]
            assert uses, record


def test_records_are_named_by_level_metric_and_operation() -> None:
    """Names have Prometheus's convention, and each level is what the sum is by."""
    names = [rule["record"] for rule in rules_of(render_rules(FULL)) if "record" in rule]
    shape = r"(job|job_name_evaluator):genmeter_\w+:(increase|ratio_rate|mean_rate)\d+[smhd]"
    assert names
    assert all(re.fullmatch(shape, name) for name in names)


def test_no_division_is_by_zero() -> None:
    """Whatever is divided by has a condition that it is more than nothing."""
    for rule in rules_of(render_rules(FULL)):
        divisors = rule["expr"].split("\n/\n")[1:]
        assert all(re.match(r"\(.+ (> 0|>= \d+)\)(\n|$)", divisor) for divisor in divisors), rule


def test_long_ratios_never_read_days_of_samples() -> None:
    """Ranges over scraped series end at six hours, but for the one sum of each budget."""
    for rule in rules_of(render_rules(FULL)):
        is_budget = rule.get("record", "").endswith((":increase1d",)) and "sum by" in rule["expr"]
        for series, window in re.findall(r"([\w:]+)(?:\{[^}]*\})?\[(\w+)", rule["expr"]):
            is_short = window in ("1h", "2h", "6h") or window[-1] in "sm"
            assert ":" in series or is_short or is_budget, rule


def test_an_alert_over_one_short_window_needs_no_record() -> None:
    """Its expression can be pasted into a query as it is."""
    assert row("high_error_rate").promql() == (
        'sum by (job) (increase(genmeter_generations_total{genmeter_phase!="",'
        'genmeter_outcome="failure"}[5m]))\n'
        "/\n"
        '(sum by (job) (increase(genmeter_generations_total{genmeter_phase!=""}[5m])) > 0)\n'
        "> 0.2"
    )


def test_a_burn_is_two_windows_and_a_minimum() -> None:
    """The expression says it in three lines."""
    assert row("error_budget_burn:6h").promql() == (
        "job:genmeter_generations_failure:ratio_rate6h > 0.06\n"
        "and\n"
        "job:genmeter_generations_failure:ratio_rate30m > 0.06\n"
        "and\n"
        "job:genmeter_generations:increase6h >= 10"
    )


def test_a_minimum_of_one_is_no_condition_of_its_own() -> None:
    """A ratio that is recorded has a denominator already."""
    settings = AlertSettings(alerts={"error_budget_burn:6h": AlertOverride(min_samples=1)})
    assert "increase6h" not in row("error_budget_burn:6h", settings).promql()
    names = {rule.get("record") for rule in rules_of(render_rules(settings))}
    assert "job:genmeter_generations:increase6h" not in names


def test_short_windows_make_the_long_sums_unnecessary() -> None:
    """Windows of minutes, as a test sets them, are recorded straight from the series."""
    burns = {
        f"error_budget_burn:{each}": (long, 5.0)
        for each, long in {"1h": 60.0, "6h": 61.0, "1d": 62.0, "3d": 63.0}.items()
    }
    windows = {**burns, "evaluation_score_drop": (5.0, 60.0)}
    settings = AlertSettings(
        alerts={id_: AlertOverride(windows=each) for id_, each in windows.items()}
    )
    assert "sum_over_time" not in render_rules(settings)
    assert "job:genmeter_generations_failure:ratio_rate5s" in render_rules(settings)


def test_a_long_window_of_an_alert_that_has_one_is_added_up_too() -> None:
    """A budget's day, and an error rate that somebody sets to a day, read recorded sums."""
    settings = AlertSettings(
        cost_budget=100.0, alerts={"high_error_rate": AlertOverride(windows=(86_400.0,))}
    )
    assert row("cost_budget_burn:warning", settings).promql() == (
        "job:genmeter_cost_usd:increase1d > 80"
    )
    assert row("high_error_rate", settings).promql() == (
        "job:genmeter_generations_failure:ratio_rate1d > 0.2"
    )


@pytest.mark.parametrize("threshold", [0.1, 1e-9, 123456789.123456789, 3e20, -0.5, 7])
def test_a_threshold_is_rendered_to_its_last_digit(threshold: float) -> None:
    """Prometheus compares with the very number that the process compares with."""
    settings = AlertSettings(alerts={"high_error_rate": AlertOverride(threshold=threshold)})
    written = row("high_error_rate", settings).promql().rpartition("> ")[2]
    assert float(written) == threshold


def test_overflow_has_its_second_sign() -> None:
    """Label sets past an instrument's cap are reported with labels past theirs, of genmeter's alone."""
    overflow = row("monitor_label_overflow").promql().rpartition("\nor\n")[2]
    pattern = re.search(r'__name__=~"([^"]+)"', overflow)
    assert pattern
    assert 'otel_metric_overflow="true"' in overflow
    assert all(re.fullmatch(pattern[1], each.prometheus) for each in cat.INSTRUMENTS[10:])


# --- the settings ----------------------------------------------------------------------------------


def test_without_a_budget_or_a_job_there_is_no_such_alert() -> None:
    """The default rules have no budget's alert and no record for one."""
    text = render_rules(AlertSettings())
    assert not re.search(r"Budget(?!Burn\b)|CostBudget|TokenBudget|cost_usd|absent", text)


def test_what_is_disabled_is_left_out() -> None:
    """An alert that is off is in no group, and a group without rules is not there."""
    off = {rule.name: AlertOverride(enabled=False) for rule in ALERT_RULES}
    assert yaml.safe_load(render_rules(AlertSettings(alerts=off))) == {"groups": []}
    settings = AlertSettings(alerts={"RateLimited": AlertOverride(enabled=False)})
    assert "RateLimited" not in render_rules(settings)


@pytest.mark.parametrize(
    "selector",
    [
        'cluster="a"',
        'cluster=~"a|b",env!="dev"',
        " cluster = 'a' , env !~ `b.*`",
        'cluster="with \\"quotes\\", commas and }"',
        '"k8s.cluster"="a"',
        r'env=~"prod\\.eu",zone=~`b\.c`,name__name__="\x61"',
    ],
)
def test_a_selector_is_in_every_query_of_a_scraped_series(selector: str) -> None:
    """Nothing of another cluster is compared; what is recorded has been selected already."""
    plain_settings = AlertSettings(cost_budget=1.0, jobs=("nightly",))
    settings = replace(plain_settings, selector=selector)
    rendered = zip(
        rules_of(render_rules(settings)), rules_of(render_rules(plain_settings)), strict=True
    )
    for rule, plain in rendered:
        selected = rule["expr"].replace(f",{selector}", "").replace(f"{{{selector}}}", "")
        # Only `absent` has a sum around it, which keeps the selector's labels off the alert.
        assert (
            selected.replace('group by (job) (absent(up{job="nightly"}))', ABSENT)
            == (plain["expr"])
        )
        scraped = re.findall(
            r"\[\d+[smhd]\]|absent|__name__|\bup\b|finished|timestamp", plain["expr"]
        )
        recorded = re.search(r"\w:\w", plain["expr"])
        assert (rule["expr"] != plain["expr"]) == bool(scraped and not recorded)


@pytest.mark.parametrize(
    "selector",
    [
        "cluster",
        'cluster="a"}',
        'cluster="a"} or vector(1) #',
        'cluster="a",',
        'cluster=="a"',
        "cluster=a",
        'cluster="a\n"',
        "{cluster='a'}",
        ",",
        '__name__="up"',
        'cluster="a", "__name__"=~"up"',
        r'env=~"prod\.eu"',
        r'env="it\'s"',
    ],
)
def test_an_invalid_selector_is_rejected(selector: str) -> None:
    """What would break a query, or make it another, is an error that shows how to write one."""
    with pytest.raises(ConfigError, match=r"selector must be comma-separated matchers"):
        render_rules(AlertSettings(selector=selector))


@pytest.mark.parametrize(
    "job", ['with "quotes"', "back\\slash", "new\nline", "{{ job }}", "täglich"]
)
def test_a_job_of_any_name_is_quoted(job: str) -> None:
    """A job's name is text in the query, whatever is in it, and the file stays YAML."""
    settings = AlertSettings(jobs=("nightly", job))
    alert = alerts_of(settings)["MonitorTargetDown", "warning", "absent"]
    escaped = job.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert alert["expr"] == f'absent(up{{job="nightly"}})\nor\nabsent(up{{job="{escaped}"}})'


def test_an_absent_job_keeps_its_labels_under_a_selector() -> None:
    """What the selector matches does not become a label of the alert."""
    settings = AlertSettings(jobs=("nightly",), selector='cluster="a"')
    assert row("target_absent", settings).promql(Selector(common=settings.selector)) == (
        'group by (job) (absent(up{job="nightly",cluster="a"}))'
    )


@pytest.mark.parametrize("field", ["selector", "runbook_url", "jobs"])
def test_text_that_is_no_unicode_is_refused(field: str) -> None:
    """A lone surrogate, which no file can hold, is named with its argument."""
    value: Any = ("a\udc80",) if field == "jobs" else "a\udc80"
    with pytest.raises(ConfigError, match=f"{field} must be valid Unicode"):
        render_rules(AlertSettings(**{field: value}))


def test_keywords_a_file_and_options_give_the_same_rules(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A threshold is the same wherever it was set."""
    path = tmp_path / "alerts.toml"
    path.write_text("[alerts.high_error_rate]\nthreshold = 0.05\n")
    by_keyword = AlertSettings().with_thresholds({"alert_max_error_rate": 0.05})
    by_file = AlertSettings.from_file(path)
    assert main(["render", "rules", "--threshold", "high_error_rate=0.05"]) == 0
    by_option = capfdbinary.readouterr().out.decode()
    assert render_rules(by_keyword) == render_rules(by_file) == by_option
    assert by_option != render_rules(AlertSettings())
