"""Rules that read shared sums find what they would find in the scraped series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from _servers import run

from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.render.rules import render_rules
from genmeter.schema.alerts import ALERT_RULES
from genmeter.schema.conditions import Below
from genmeter.schema.sums import shared_sums

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = 4
MINUTES = 150
TIMES = ("4m", "31m", "71m", "104m", "149m")
OUTCOMES = ("success", "failure", "cancelled")
MODELS = ("oak", "birch")
# Each is past its threshold wherever it has a value.
SETTINGS = AlertSettings(
    cost_budget=1.0,
    token_budget=1.0,
    alerts={
        rule.id: AlertOverride(
            threshold=2.0 if isinstance(rule.condition, Below) else -2.0, min_samples=None
        )
        for rule in ALERT_RULES
        if rule.condition.indicator is not None
    },
)


def counters() -> dict[str, list[dict[str, str]]]:
    """Return the label sets of counters that several rules read, by name."""
    calls = [
        {"genmeter_phase": phase, "genmeter_outcome": outcome, "gen_ai_request_model": model}
        for phase in ("generation", "evaluation")
        for outcome in OUTCOMES
        for model in MODELS
    ]
    return {
        "genmeter_generations_total": calls,
        "genmeter_samples_total": [{"genmeter_outcome": each} for each in ("accepted", "rejected")],
        "genmeter_finish_reasons_total": [
            {
                "genmeter_phase": "generation",
                "genmeter_finish_reason": reason,
                "gen_ai_request_model": model,
            }
            for reason in ("stop", "length")
            for model in MODELS
        ],
        "genmeter_evaluations_total": [
            {"genmeter_outcome": outcome, "genmeter_evaluator": evaluator}
            for outcome in OUTCOMES[:2]
            for evaluator in ("judge", "embedding")
        ],
        "genmeter_retries_total": [
            {
                "genmeter_phase": "generation",
                "error_type": "rate_limited",
                "gen_ai_request_model": model,
            }
            for model in MODELS
        ],
        "genmeter_tokens_total": [
            {"genmeter_phase": "generation", "gen_ai_request_model": model} for model in MODELS
        ],
        "genmeter_usage_unread_total": [
            {"genmeter_phase": "generation", "gen_ai_request_model": model} for model in MODELS
        ],
    }


def values(number: int, process: int) -> str:
    """Return a counter that grows at its own pace; some processes restart, or start late or end."""
    pace, restart = number % 7 + 1, 20 + 13 * process
    if process == 1:
        return f"_x{restart} 0+{pace}x{MINUTES - restart}"
    if process == 2:
        return f"0+{pace}x{restart} {pace // 2}+{pace}x{MINUTES - restart}"
    if process == 3:
        return f"5+{pace}x{restart} stale"
    return f"0+{pace}x{MINUTES}"


def series() -> list[dict[str, str]]:
    """Return the input series of promtool: two jobs, of several processes each."""
    found = []
    for job in ("nightly", "daily"):
        for process in range(PROCESSES):
            number = process
            for name, sets in counters().items():
                for labels in sets:
                    number += 1
                    target = {"job": job, "instance": f"host-{process}", **labels}
                    braces = ",".join(f'{key}="{value}"' for key, value in target.items())
                    found.append(
                        {"series": f"{name}{{{braces}}}", "values": values(number, process)}
                    )
    return found


def test_shared_sums_change_no_alert(promtool: str, tmp_path: Path) -> None:
    """Value and groups are those of the scraped series, over restarts and the ends of processes."""
    (tmp_path / "rules.yml").write_text(render_rules(SETTINGS))
    _, shared = shared_sums(SETTINGS.rules(), SETTINGS.series)
    expected: list[dict[str, Any]] = []
    for rule in SETTINGS.rules():
        scraped, summed = rule.promql(SETTINGS.series), rule.promql(shared)
        if scraped == summed:
            continue
        for time in TIMES:
            differences = (
                f"abs(({scraped}) - ({summed})) > 1e-9",
                f"({scraped}) unless ({summed})",
                f"({summed}) unless ({scraped})",
            )
            expected += [
                {"expr": each, "eval_time": time, "exp_samples": []} for each in differences
            ]
        some = {"labels": "{}", "value": 1}
        expected.append(
            {"expr": f"count({summed}) > bool 0", "eval_time": TIMES[-1], "exp_samples": [some]}
        )
    assert len(expected) > 100
    case = {
        "name": "shared sums",
        "interval": "1m",
        "input_series": series(),
        "promql_expr_test": expected,
    }
    tests = tmp_path / "tests.yml"
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [case]}
    tests.write_text(yaml.safe_dump(document))
    done = run(promtool, "test", "rules", tests)
    assert done.returncode == 0, done.stdout
