"""Threshold arguments, a TOML file and options result in the same rules and alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genmeter import cli
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.config.monitor import MonitorConfig
from genmeter.render.rules import render_rules
from genmeter.schema.alerts import ALERT_RULES
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from genmeter import GenerationMonitor
    from genmeter.alerting.state import Alert

THRESHOLDS = {
    "low_success_rate": ("alert_min_success_rate", 0.45),
    "high_generation_time": ("alert_max_generation_time_seconds", 4.5),
    "high_error_rate": ("alert_max_error_rate", 0.55),
    "high_token_usage:prompt": ("alert_max_prompt_token_mean", 90.0),
    "high_token_usage:completion": ("alert_max_completion_token_mean", 5_000.0),
    "high_token_usage:total": ("alert_max_total_token_mean", 4_550.0),
    "long_conversations": ("alert_max_conversation_length_mean", 7.0),
}
"""Argument and threshold by alert; for :func:`job` each reverses the default's result."""
EXPECTED = {"high_generation_time", "high_token_usage:prompt", "high_token_usage:total"}
BY_DEFAULT = THRESHOLDS.keys() - EXPECTED

KEYWORDS: dict[str, Any] = dict(THRESHOLDS.values())
IN_CODE = AlertSettings(
    alerts={id_: AlertOverride(threshold=value) for id_, (_, value) in THRESHOLDS.items()}
)


def toml_file(folder: Path) -> Path:
    """Write the thresholds to a settings file."""
    path = folder / "alerts.toml"
    tables = [f'[alerts."{id_}"]\nthreshold = {value}' for id_, (_, value) in THRESHOLDS.items()]
    path.write_text("\n".join(tables))
    return path


def rendered(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Return the output of the command."""
    assert cli.main(["render", "rules", *options]) == 0
    return capsys.readouterr().out


def job(monitor: GenerationMonitor) -> None:
    """Fail half of the calls, with few tokens but long completions."""
    for number in range(10):
        monitor.track_generation(
            5.0,
            number % 2 == 0,
            model_name="atlas",
            prompt_token_count=100,
            completion_token_count=None if number % 2 else 4_500,
        )
        monitor.track_generation(5.0, True, conversation_length=6)


def alerts_of(config: MonitorConfig, **keywords: Any) -> list[tuple[object, ...]]:
    """Run the job with a monitor of these settings, and return its alerts."""
    heard: list[Alert] = []
    with isolated_monitor(
        config, alert_handlers=[heard.append], metrics_interval=0, **keywords
    ) as monitor:
        job(monitor)
        monitor.check_alerts()
    return [
        (each.name, each.message, each.level, each.status, each.labels, each.annotations, each.data)
        for each in heard
    ]


def test_all_threshold_arguments_are_tested() -> None:
    """The thresholds here are those of all arguments."""
    assert {row.id: row.argument for row in ALERT_RULES if row.argument} == {
        id_: argument for id_, (argument, _) in THRESHOLDS.items()
    }


def test_arguments_file_and_options_result_in_the_same_rules(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rule files are equal, and differ from the default."""
    with isolated_monitor(**KEYWORDS) as monitor:
        text = render_rules(monitor.alert_settings)
    options = [f"--threshold={id_}={value}" for id_, (_, value) in THRESHOLDS.items()]
    assert rendered(capsys, *options) == text
    assert rendered(capsys, "--settings", str(toml_file(tmp_path))) == text
    assert render_rules(IN_CODE) == text
    assert text != render_rules(AlertSettings())


def test_arguments_and_file_result_in_the_same_alerts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handlers get equal alerts."""
    path = toml_file(tmp_path)
    by_arguments = alerts_of(MonitorConfig(), **KEYWORDS)
    assert {alert[0] for alert in by_arguments} & THRESHOLDS.keys() == EXPECTED
    assert alerts_of(MonitorConfig(alerts=path)) == by_arguments
    assert alerts_of(MonitorConfig(alerts=IN_CODE)) == by_arguments
    monkeypatch.setenv("GENMETER_ALERTS", str(path))
    assert alerts_of(MonitorConfig.from_env()) == by_arguments


def test_thresholds_here_reverse_all_alerts() -> None:
    """With default thresholds the job raises all other alerts, so every threshold is used."""
    assert {alert[0] for alert in alerts_of(MonitorConfig())} & THRESHOLDS.keys() == BY_DEFAULT


def test_threshold_argument_wins_over_the_file(tmp_path: Path) -> None:
    """Other thresholds of the file are still used."""
    config = MonitorConfig(alerts=toml_file(tmp_path))
    with isolated_monitor(config, alert_max_error_rate=0.05) as monitor:
        thresholds = {rule.id: rule.condition.threshold for rule in monitor.alert_settings.rules()}
    assert thresholds["high_error_rate"] == 0.05
    assert thresholds["low_success_rate"] == 0.45


def test_file_and_options_set_the_same_objective_budgets_and_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings of the rules can be set both ways."""
    path = tmp_path / "alerts.toml"
    path.write_text(
        "objective = 0.995\ncost_budget = 12.5\ntoken_budget = 1_000_000\n"
        "selector = 'cluster=\"a\"'\njobs = ['nightly', 'weekly']\n"
        'runbook_url = "https://runbooks.example.org/genmeter.md"\n'
    )
    by_file = rendered(capsys, "--settings", str(path))
    by_options = rendered(
        capsys,
        *("--objective", "0.995", "--cost-budget", "12.5", "--token-budget", "1000000"),
        *("--selector", 'cluster="a"', "--job", "nightly", "--job", "weekly"),
        *("--runbook-url", "https://runbooks.example.org/genmeter.md"),
    )
    assert by_file == by_options
    assert by_file != rendered(capsys)
