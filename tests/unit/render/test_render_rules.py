"""Prometheus's rules: files, queries and the effect of settings."""

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
from genmeter.schema.query import TRUNCATED, Selector
from genmeter.schema.sums import shared_sums

if TYPE_CHECKING:
    from genmeter.schema.alerts import AlertRule

DEPLOY = Path(__file__).parents[3] / "deploy" / "prometheus"
FULL = AlertSettings(cost_budget=100.0, token_budget=5e6, jobs=("nightly",))
ABSENT = 'absent(up{job="nightly"})'


def rules_of(text: str) -> list[dict[str, Any]]:
    """Return the rules of a rule file."""
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def alerts_of(settings: AlertSettings) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return the rendered alerts by name and labels."""
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
        (
            "tests/rules/native.yml",
            "prometheus",
            replace(AlertSettings.from_file(DEPLOY / "settings.toml"), histograms="native"),
        ),
        (
            "tests/rules/grouped.yml",
            "prometheus",
            replace(
                AlertSettings.from_file(DEPLOY / "settings.toml"),
                group_by=("namespace", "cluster"),
                replica_labels=("prometheus_replica",),
                suffix="all",
            ),
        ),
    ],
)
def test_committed_rules_are_up_to_date(name: str, form: Any, settings: AlertSettings) -> None:
    """`genmeter render rules --out` updates the file in deploy/."""
    assert (DEPLOY / name).read_text(encoding="utf-8") == render_rules(settings, form)


def test_rendering_is_reproducible() -> None:
    """Another process, with other string hashes, writes the same bytes."""
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


def test_kubernetes_resource_has_the_same_groups() -> None:
    """The spec of a PrometheusRule is the rule file, and its name is valid."""
    resource = yaml.safe_load(render_rules(FULL, "kubernetes"))
    assert (resource["apiVersion"], resource["kind"]) == (
        "monitoring.coreos.com/v1",
        "PrometheusRule",
    )
    assert re.fullmatch(r"[a-z][a-z0-9-]*", resource["metadata"]["name"])
    assert resource["spec"] == yaml.safe_load(render_rules(FULL))


def test_long_queries_are_readable_blocks() -> None:
    """A query of several lines keeps them, and no line is too long."""
    text = render_rules(FULL)
    assert "\\n" not in text
    assert "    expr: |-\n" in text
    lines = [line for rule in rules_of(text) for line in rule["expr"].splitlines()]
    # A matcher is not wrapped, and the one on truncated completions lists all their finish reasons.
    assert max(len(line.replace("|".join(TRUNCATED), "")) for line in lines) < 150


def test_missing_pyyaml_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra to install."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingExtraError, match=r"genmeter\[render\]"):
        render_rules(AlertSettings())


# --- the alerts ------------------------------------------------------------------------------------


def test_every_rule_is_a_complete_alert() -> None:
    """Each alert has severity, labels, wait, summary and description, and no dead link."""
    rendered = alerts_of(FULL)
    assert len(rendered) == len(ALERT_RULES)
    _, selector = shared_sums(FULL.rules(), FULL.series)
    for rule in FULL.rules():
        labels = dict(rule.labels)
        alert = rendered[rule.name, rule.severity, *labels.values()]
        assert alert["expr"] == rule.promql(selector)
        assert alert["labels"] == {"severity": rule.severity, **labels}
        assert set(alert["annotations"]) == {"summary", "description"}
        assert ("for" in alert) == (rule.for_ > 0)


def test_alerts_link_to_the_runbook_of_the_settings() -> None:
    """The anchor is the alert's heading in the runbook."""
    url = "https://wiki.example.com/genmeter"
    for (name, *_), alert in alerts_of(replace(FULL, runbook_url=url)).items():
        assert alert["annotations"]["runbook_url"] == f"{url}#{name.lower()}"


def test_rules_write_distinct_series() -> None:
    """Records have distinct names, and alerts of one name differ in a label."""
    found = [
        (rule.get("record"), rule.get("alert"), *sorted(rule.get("labels", {}).items()))
        for rule in rules_of(render_rules(FULL))
    ]
    assert len(found) == len(set(found))


def test_records_precede_the_rules_that_use_them() -> None:
    """Rules of a group are evaluated in order, so alerts use fresh records."""
    needed = re.compile(r"job\w*:\w+:\w+")
    for group in yaml.safe_load(render_rules(FULL))["groups"]:
        recorded: set[str] = set()
        for rule in group["rules"]:
            assert set(needed.findall(rule["expr"])) <= recorded, rule
            if "record" in rule:
                recorded.add(rule["record"])


def test_every_record_is_used() -> None:
    """No record is unused."""
    for settings in (AlertSettings(), FULL):
        found = rules_of(render_rules(settings))
        for record in (rule["record"] for rule in found if "record" in rule):
            uses = [rule for rule in found if re.search(rf"{record}\b", rule["expr"])]
            assert uses, record


def test_records_are_named_by_level_metric_and_operation() -> None:
    """Names follow Prometheus's convention, and each level is the grouping of the sum."""
    names = [rule["record"] for rule in rules_of(render_rules(FULL)) if "record" in rule]
    level = r"job(_model|_name)?(_evaluator)?(_outcome|_finish_reason)?"
    shape = rf"{level}:genmeter_\w+:(increase|ratio_rate|mean_rate)\d+[smhd]"
    assert names
    assert all(re.fullmatch(shape, name) for name in names)


def test_denominators_are_guarded() -> None:
    """Every denominator must be above 0."""
    for rule in rules_of(render_rules(FULL)):
        divisors = rule["expr"].split("\n/\n")[1:]
        assert all(re.match(r"\(.+ (> 0|>= \d+)\)(\n|$)", divisor) for divisor in divisors), rule


def test_long_ratios_never_read_days_of_samples() -> None:
    """Ranges over scraped series end at an hour, except for the sum of each budget."""
    for rule in rules_of(render_rules(FULL)):
        is_budget = rule.get("record", "").endswith((":increase1d",)) and "sum by" in rule["expr"]
        for series, window in re.findall(r"([\w:]+)(?:\{[^}]*\})?\[(\w+)", rule["expr"]):
            if series == "up":  # one series a target
                continue
            is_short = window == "1h" or window[-1] in "sm"
            assert ":" in series or is_short or is_budget, rule


def test_alerts_over_one_short_window_need_no_record() -> None:
    """Their expressions can be pasted into a query."""
    assert row("high_error_rate").promql() == (
        'sum by (job) (increase(genmeter_generations_total{genmeter_phase!="",'
        'genmeter_outcome="failure"}[5m]))\n'
        "/\n"
        '(sum by (job) (increase(genmeter_generations_total{genmeter_phase!="",'
        'genmeter_outcome=~"success|failure"}[5m])) > 0)\n'
        "> 0.2"
    )


def test_burns_compare_two_windows_and_a_minimum() -> None:
    """The expression has three lines."""
    assert row("error_budget_burn:6h").promql() == (
        "job:genmeter_generations_failure:ratio_rate6h > 0.06\n"
        "and\n"
        "job:genmeter_generations_failure:ratio_rate30m > 0.06\n"
        "and\n"
        "job:genmeter_generations_success_failure:increase6h >= 10"
    )


def test_minimum_of_one_adds_no_comparison() -> None:
    """A recorded ratio already has a denominator above 0."""
    settings = AlertSettings(alerts={"error_budget_burn:6h": AlertOverride(min_samples=1)})
    assert "increase6h" not in row("error_budget_burn:6h", settings).promql()


def test_each_counter_is_read_once_over_a_window() -> None:
    """The increases of scraped series, which cost most, are computed once for all rules."""
    for settings in (AlertSettings(), FULL, replace(FULL, histograms="native")):
        reads = [
            (part, metric, window)
            for rule in rules_of(render_rules(settings))
            for part, metric, window in re.findall(
                r"(histogram_\w+)?\(?increase\((\w+)(?:\{[^}]*\})?\[(\w+)\]", rule["expr"]
            )
        ]
        assert len(reads) > 20
        assert len(reads) == len(set(reads))


def test_rules_are_one_group() -> None:
    """Its rules are evaluated in turn, so that each reads what those before it have recorded."""
    for settings in (AlertSettings(), FULL):
        (group,) = yaml.safe_load(render_rules(settings))["groups"]
        assert "interval" not in group


def test_what_one_rule_reads_alone_needs_no_shared_sum() -> None:
    """A sum is recorded only if several rules would read parts of it."""
    on = {"low_success_rate", "samples_rejected", "generation_truncated", "rate_limited"}
    others = {rule.id: AlertOverride(enabled=False) for rule in ALERT_RULES if rule.id not in on}
    names = {
        rule["record"]
        for rule in rules_of(render_rules(AlertSettings(alerts=others)))
        if "record" in rule
    }
    assert names == {
        "job_outcome:genmeter_generations:increase5m",
        "job_outcome:genmeter_samples:increase30m",
        "job_model_finish_reason:genmeter_finish_reasons:increase15m",
    }


def test_a_sum_that_is_shared_and_recorded_is_recorded_once() -> None:
    """A name has one rule if a recorded query reads the whole of a shared sum."""
    windows = (3_600.0, 86_400.0)
    settings = AlertSettings(
        alerts={
            "evaluation_score_drop": AlertOverride(windows=windows),
            "rate_limited": AlertOverride(windows=(7_200.0,)),
            "usage_unread": AlertOverride(windows=(10_800.0,)),
        }
    )
    records = [each["record"] for each in rules_of(render_rules(settings)) if "record" in each]
    assert len(records) == len(set(records))


def test_short_windows_need_no_long_sums() -> None:
    """Windows of minutes are recorded from the scraped series."""
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


def test_single_long_windows_use_recorded_sums() -> None:
    """Budgets over a day, and an error rate over a day, use recorded sums."""
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
def test_thresholds_are_rendered_with_all_digits(threshold: float) -> None:
    """Prometheus and the process compare with the same number."""
    settings = AlertSettings(alerts={"high_error_rate": AlertOverride(threshold=threshold)})
    written = row("high_error_rate", settings).promql().rpartition("> ")[2]
    assert float(written) == threshold


def test_label_overflow_includes_the_sdks_overflow() -> None:
    """Label sets past an instrument's cap are counted too, for genmeter's metrics only."""
    overflow = row("monitor_label_overflow").promql().rpartition("\nor\n")[2]
    patterns = re.findall(r'__name__=~"([^"]+)"', overflow)
    assert patterns
    assert 'otel_metric_overflow="true"' in overflow
    counters = [each for each in cat.INSTRUMENTS if each.kind.exposed_as == "counter"]
    assert all(re.fullmatch(name, each.prometheus) for each in counters for name in patterns)
    limited = {label for each in cat.INSTRUMENTS for label in each.labels if label.limit}
    assert limited <= {label for each in counters for label in each.labels}


# --- the settings ----------------------------------------------------------------------------------


def test_alerts_on_budgets_and_jobs_need_settings() -> None:
    """The default rules have neither their alerts nor records for them."""
    text = render_rules(AlertSettings())
    assert not re.search(r"Budget(?!Burn\b)|CostBudget|TokenBudget|cost_usd|absent", text)


def test_disabled_alerts_are_omitted() -> None:
    """A disabled alert is in no group, and empty groups are omitted."""
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
def test_selector_is_in_every_query_of_a_scraped_series(selector: str) -> None:
    """Recorded series are already selected."""
    plain_settings = AlertSettings(cost_budget=1.0, jobs=("nightly",))
    settings = replace(plain_settings, selector=selector)
    rendered = zip(
        rules_of(render_rules(settings)), rules_of(render_rules(plain_settings)), strict=True
    )
    for rule, plain in rendered:
        selected = rule["expr"].replace(f",{selector}", "").replace(f"{{{selector}}}", "")
        # Only `absent` is inside a sum, which drops the selector's labels.
        assert (
            selected.replace('group by (job) (absent(up{job="nightly"}))', ABSENT)
            == (plain["expr"])
        )
        scraped = re.findall(
            r"\[\d+[smhd]\]|absent|__name__|\bup\b|finished|timestamp", plain["expr"]
        )
        assert (rule["expr"] != plain["expr"]) == bool(scraped)


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
    """A selector that would break or change a query is an error."""
    with pytest.raises(ConfigError, match=r"selector must be comma-separated matchers"):
        render_rules(AlertSettings(selector=selector))


@pytest.mark.parametrize(
    "job", ['with "quotes"', "back\\slash", "new\nline", "{{ job }}", "täglich"]
)
def test_job_names_are_quoted(job: str) -> None:
    """Any job name is valid text in the query and the YAML."""
    settings = AlertSettings(jobs=("nightly", job))
    alert = alerts_of(settings)["MonitorTargetDown", "warning", "absent"]
    escaped = job.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert alert["expr"] == f'absent(up{{job="nightly"}})\nor\nabsent(up{{job="{escaped}"}})'


def test_absent_job_has_only_its_own_labels_with_a_selector() -> None:
    """The selector's matchers do not become labels of the alert."""
    settings = AlertSettings(jobs=("nightly",), selector='cluster="a"')
    assert row("target_absent", settings).promql(Selector(common=settings.selector)) == (
        'group by (job) (absent(up{job="nightly",cluster="a"}))'
    )


@pytest.mark.parametrize("field", ["selector", "runbook_url", "jobs"])
def test_lone_surrogates_are_rejected(field: str) -> None:
    """The error has the argument of the text."""
    texts: dict[str, Any] = {"jobs": ("a\udc80",), "runbook_url": "https://a\udc80"}
    value = texts.get(field, "a\udc80")
    with pytest.raises(ConfigError, match=f"{field} must be valid Unicode"):
        render_rules(AlertSettings(**{field: value}))


def test_native_histograms_have_no_series_of_parts() -> None:
    """Sums and counts are read from the histogram, and other series are as before."""
    parts = re.compile(
        "|".join(
            f"{row.prometheus}_(?:sum|count|bucket)"
            for row in cat.INSTRUMENTS
            if row.kind is cat.Kind.HISTOGRAM
        )
        + r"(?=[{\[])"
    )
    native = replace(FULL, histograms="native", replica_labels=("replica",))
    pairs = zip(
        rules_of(render_rules(native)),
        rules_of(render_rules(replace(native, histograms="classic"))),
        strict=True,
    )
    changed = 0
    for rule, classic in pairs:
        expr = re.sub(r"histogram_(sum|count)\((\w+\(\w+)(.*?\]\))\)", r"\2_\1\3", rule["expr"])
        assert expr == classic["expr"]
        assert not parts.search(rule["expr"])
        changed += rule["expr"] != classic["expr"]
    assert changed >= 8


def test_distributions_are_recorded_by_choice_only() -> None:
    """A group of its own, evaluated less often, that no alert waits for; without it nothing changes."""
    recorded = yaml.safe_load(render_rules(replace(FULL, distributions="recorded", suffix="big")))
    plain = yaml.safe_load(render_rules(replace(FULL, suffix="big")))
    assert recorded["groups"][:1] == plain["groups"]
    (group,) = recorded["groups"][1:]
    assert (group["name"], group["interval"]) == ("genmeter-big-distributions", "2m")
    assert len(group["rules"]) == 3
    for rule in group["rules"]:
        found = re.fullmatch(
            r"sum by \(job, gen_ai_request_model, genmeter_step, le\) "
            r"\(increase\((\w+)_bucket\{.*\}\[5m\]\)\)",
            rule["expr"],
        )
        assert found is not None, rule
        assert rule["record"] == f"job_model_step:{found[1]}_bucket:increase5m_big"


# --- the sources -----------------------------------------------------------------------------------


GROUPED = replace(FULL, group_by=("namespace", "cluster"), suffix="all-teams")


def test_every_rule_is_grouped_by_further_labels() -> None:
    """Sums, matches, alerts and records have the labels wherever they have the job."""
    pairs = zip(rules_of(render_rules(GROUPED)), rules_of(render_rules(FULL)), strict=True)
    for rule, plain in pairs:
        by, before = (re.findall(r"(?:by|on) \(([^)]*)\)", each["expr"]) for each in (rule, plain))
        assert by == [re.sub(r"\bjob\b", "job, namespace, cluster", each) for each in before]
        if "record" in rule:
            level, rest = plain["record"].split(":", 1)
            level = re.sub("^job", "job_namespace_cluster", level)
            assert rule["record"] == f"{level}:{rest}_all_teams"
        else:
            assert (
                "{{ with $labels.namespace }}, namespace {{ . }}{{ end }}"
                in (rule["annotations"]["summary"])
            )


def test_rules_of_two_renderings_stand_side_by_side() -> None:
    """Groups and records have other names, and each rendering uses its own records."""
    other = replace(FULL, suffix="b")
    found, plain = (yaml.safe_load(render_rules(each))["groups"] for each in (other, FULL))
    assert [group["name"] for group in found] == ["genmeter-b"]
    records, of_plain = (
        {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}
        for groups in (found, plain)
    )
    assert not records & of_plain
    used = {
        name
        for group in found
        for rule in group["rules"]
        for name in re.findall(r"\bjob\w*:\w+:\w+", rule["expr"])
    }
    assert used == records
    resource = yaml.safe_load(render_rules(other, "kubernetes"))
    assert resource["metadata"]["name"] == "genmeter-b"


def test_one_of_several_copies_counts() -> None:
    """Every sum of scraped series is over one copy of each."""
    settings = replace(FULL, replica_labels=("prometheus_replica",))
    for rule in rules_of(render_rules(settings)):
        for over in re.findall(r"sum by \([^)]*\) \((?!up\b|\s|job\w*:)(\w+)", rule["expr"]):
            assert over == "max", rule["expr"]


@pytest.mark.parametrize(
    "name",
    ["job", "instance", "le", "severity", "step", "gen_ai_request_model", "a-b", "__name__", ""],
)
@pytest.mark.parametrize("field", ["group_by", "replica_labels"])
def test_labels_must_be_those_of_targets(field: str, name: str) -> None:
    """A label that queries use already, or that is not one, is an error."""
    values: Any = {field: (name,)}
    with pytest.raises(ConfigError, match=rf"{field}\[0\] must be a label of the targets"):
        AlertSettings(**values)


def test_labels_are_named_once() -> None:
    """A label cannot distinguish jobs and copies."""
    with pytest.raises(ConfigError, match="must name each label once, got 'a' twice"):
        AlertSettings(group_by=("a",), replica_labels=("a",))


@pytest.mark.parametrize("suffix", ["A", "a_b", "a--b", "-a", "a" * 17, "a b"])
def test_a_suffix_must_fit_all_names(suffix: str) -> None:
    """It is part of names on Kubernetes, in Prometheus and in Grafana."""
    with pytest.raises(ConfigError, match="suffix must be at most 16"):
        AlertSettings(suffix=suffix)


def test_keywords_file_and_options_render_the_same_rules(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A threshold has the same effect wherever it is set."""
    path = tmp_path / "alerts.toml"
    path.write_text("[alerts.high_error_rate]\nthreshold = 0.05\n")
    by_keyword = AlertSettings().with_thresholds({"alert_max_error_rate": 0.05})
    by_file = AlertSettings.from_file(path)
    assert main(["render", "rules", "--threshold", "high_error_rate=0.05"]) == 0
    by_option = capfdbinary.readouterr().out.decode()
    assert render_rules(by_keyword) == render_rules(by_file) == by_option
    assert by_option != render_rules(AlertSettings())
