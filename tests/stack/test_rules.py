"""The shipped rules and configurations pass the servers' own tools."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from _servers import ROOT, program, run

from genmeter.config.alerts import AlertSettings
from genmeter.render.rules import render_rules

SHIPPED = ROOT / "deploy" / "prometheus"
RULES = (
    "rules.yml",
    "tests/rules/example.yml",
    "tests/rules/native.yml",
    "tests/rules/grouped.yml",
)
CASES = sorted(path.name for path in (SHIPPED / "tests").glob("*.yml"))
HOSTILE = AlertSettings(
    cost_budget=0.1,
    token_budget=1e12,
    jobs=('with "quotes"', "back\\slash", "new\nline", "{{ job }}", "täglich", "a: b #"),
    selector="cluster=\"with } and ' and \\\"\",env=~`a|b`,zone!='c'",
    runbook_url="https://wiki/{{page}}?a=1&b='2'",
)
# The others evaluate days, which takes a minute, with the functions of these.
OF_THE_NEWEST = [name for name in CASES if name not in ("budgets.yml", "burn.yml")]
CASES_TIMEOUT = 300.0
RECEIVERS = {"critical": "page", "warning": "chat", "info": "nobody"}


def alerts() -> list[dict[str, Any]]:
    """Return every alert of the rules."""
    groups = yaml.safe_load((SHIPPED / "tests/rules/example.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


@pytest.mark.parametrize("release", ["promtool", "promtool-newest"])
@pytest.mark.parametrize("name", RULES)
def test_rules_pass_promtool_check(name: str, release: str) -> None:
    """`promtool check rules` passes with every lint, all of them fatal."""
    done = run(program(release), "check", "rules", "--lint=all", "--lint-fatal", SHIPPED / name)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "settings",
    [HOSTILE, AlertSettings(objective=0.99999), AlertSettings(selector='"k8s.cluster"="a"')],
    ids=["hostile", "five nines", "UTF-8 label"],
)
def test_rules_of_hostile_settings_are_valid(
    settings: AlertSettings, promtool: str, tmp_path: Path
) -> None:
    """Names, matchers and addresses with special characters result in valid rules."""
    path = tmp_path / "rules.yml"
    path.write_text(render_rules(settings), encoding="utf-8")
    done = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", path)
    assert done.returncode == 0, done.stdout


def test_braces_in_settings_are_text_in_annotations(promtool: str, tmp_path: Path) -> None:
    """Braces in a job's name and in the runbook's address are not templates."""
    settings = AlertSettings(jobs=("{{ job }}",), runbook_url="https://wiki/{{page}}")
    (tmp_path / "rules.yml").write_text(render_rules(settings))
    case = {
        "name": "a job with braces is missed",
        "interval": "1m",
        "input_series": [],
        "alert_rule_test": [
            {
                "eval_time": "10m",
                "alertname": "MonitorTargetDown",
                "exp_alerts": [
                    {
                        "exp_labels": {
                            "severity": "warning",
                            "target": "absent",
                            "job": "{{ job }}",
                        },
                        "exp_annotations": {
                            "summary": "{{ job }}: Prometheus has no target",
                            "description": "Prometheus has had no target of the job for 5 minutes. "
                            "Check whether the job was started and service discovery finds it.",
                            "runbook_url": "https://wiki/{{page}}#monitortargetdown",
                        },
                    }
                ],
            }
        ],
    }
    tests = tmp_path / "tests.yml"
    tests.write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [case]}))
    done = run(promtool, "test", "rules", tests)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("release", "name"),
    [
        *(("promtool", name) for name in CASES),
        *(("promtool-newest", name) for name in OF_THE_NEWEST),
    ],
)
@pytest.mark.timeout(2 * CASES_TIMEOUT)
def test_rules_pass_their_promtool_tests(name: str, release: str) -> None:
    """`promtool test rules` passes, of the oldest supported release and of the newest."""
    done = subprocess.run(
        [program(release), "test", "rules", SHIPPED / "tests" / name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=CASES_TIMEOUT,  # hours of evaluations, on a machine that may be busy
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_rules_pass_pint(monkeypatch: pytest.MonkeyPatch) -> None:
    """No check of pint has a warning, except for the one that the configuration disables."""
    monkeypatch.chdir(SHIPPED)
    options = ("--no-color", "--config", ".pint.hcl", "--offline", "lint", "--fail-on", "info")
    done = run(program("pint"), *options, "rules.yml", "rules-kubernetes.yml", *RULES[1:])
    assert done.returncode == 0, done.stdout
    assert "Problems found" not in done.stdout
    groups = yaml.safe_load(Path("rules.yml").read_text())["groups"]
    assert f"entries={entries_of(groups)}" in done.stdout


def entries_of(groups: list[dict[str, Any]]) -> int:
    """Return the number of rules in all files for pint."""
    files = [
        groups,
        groups,
        *(yaml.safe_load(Path(name).read_text())["groups"] for name in RULES[1:]),
    ]
    return sum(len(group["rules"]) for file in files for group in file)


def test_prometheus_configuration_is_valid(promtool: str) -> None:
    """`promtool check config` passes, including the rule files."""
    done = run(promtool, "check", "config", "--lint=all", SHIPPED / "prometheus.yml")
    assert done.returncode == 0, done.stdout
    assert "1 rule files found" in done.stdout


@pytest.mark.parametrize("name", ["genmeter-files", "genmeter-pods"])
def test_commented_scrape_jobs_are_valid(name: str, promtool: str, tmp_path: Path) -> None:
    """The configuration is valid with a scrape job uncommented."""
    lines = (SHIPPED / "prometheus.yml").read_text().splitlines()
    start = lines.index(f"  # - job_name: {name}")
    end = next(
        (at for at in range(start, len(lines)) if not lines[at].startswith("  #")), len(lines)
    )
    job = [line.replace("# ", "", 1) if line != "  #" else "" for line in lines[start:end]]
    path = tmp_path / "prometheus.yml"
    path.write_text("\n".join(["scrape_configs:", *job, ""]))
    assert yaml.safe_load(path.read_text())["scrape_configs"][0]["job_name"] == name
    done = run(promtool, "check", "config", "--syntax-only", path)
    assert done.returncode == 0, done.stdout


def test_alertmanager_configuration_is_valid(amtool: str) -> None:
    """`amtool check-config` passes."""
    done = run(amtool, "check-config", SHIPPED / "alertmanager.yml")
    assert done.returncode == 0, done.stdout


def test_commented_receivers_are_valid(amtool: str, tmp_path: Path) -> None:
    """The configuration is valid with receivers and routes uncommented."""
    text = (SHIPPED / "alertmanager.yml").read_text()
    for start in ("    # pagerduty_configs:", "    # slack_configs:", "    # email_configs:"):
        assert start in text
    head, _, receivers = text.partition("\nreceivers:")
    lines = [
        line.replace("# ", "", 1) if line.startswith("    # ") else line
        for line in receivers.splitlines()
    ]
    path = tmp_path / "alertmanager.yml"
    path.write_text("\n".join([head, "receivers:", *lines, ""]))
    found = yaml.safe_load(path.read_text())["receivers"]
    assert set().union(*found) == {
        *("name", "webhook_configs", "pagerduty_configs", "slack_configs", "email_configs")
    }
    done = run(amtool, "check-config", path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "alert", alerts(), ids=lambda alert: "-".join([alert["alert"], *alert["labels"].values()])
)
def test_alerts_are_routed_by_severity(alert: dict[str, Any], amtool: str) -> None:
    """`amtool config routes test` routes each alert to a pager, a chat or nobody."""
    labels = {"alertname": alert["alert"], "job": "nightly", **alert["labels"]}
    done = run(
        *(amtool, "config", "routes", "test"),
        f"--config.file={SHIPPED / 'alertmanager.yml'}",
        f"--verify.receivers={RECEIVERS[labels['severity']]}",
        *(f"{name}={value}" for name, value in labels.items()),
    )
    assert done.returncode == 0, done.stdout


def test_default_receivers_are_local() -> None:
    """All receivers post to loopback, and the file has no secrets."""
    text = (SHIPPED / "alertmanager.yml").read_text()
    addresses = [
        config["url"]
        for receiver in yaml.safe_load(text)["receivers"]
        for config in receiver.get("webhook_configs", ())
    ]
    assert addresses
    assert all(address.startswith("http://127.0.0.1:") for address in addresses)
    assert not any(word in text for word in ("password:", "api_key", "routing_key:", "api_url:"))
