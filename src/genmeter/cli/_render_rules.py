"""``genmeter render rules``: its arguments, and the settings that they make."""

from __future__ import annotations

import argparse
import contextlib
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from genmeter.cli._render_output import add_output_arguments, put
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.errors import ConfigError
from genmeter.render.rules import FORMATS, render_rules
from genmeter.schema.alerts import ALERT_RULES

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["HELP", "add_arguments", "run"]

HELP = "the recording rules and alerts for Prometheus"
_EPILOG = """\
The settings' file is TOML; options win over it:

  objective = 0.995
  cost_budget = 50.0            # USD in 24 hours
  jobs = ["nightly"]
  [alerts.high_error_rate]
  threshold = 0.1
  window = "10m"                # of an alert over several windows a list
  for = "2m"
  [alerts.ConversationsLong]
  enabled = false

The same file serves the alerts in process: GENMETER_ALERTS=FILE.

Alerts, with the thresholds of the table (of a budget's alert, how many times that):
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments.

    Args:
        parser: The parser of this kind.
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG + "\n".join(_lines()) + "\n"
    add = parser.add_argument
    add(
        "--format",
        choices=FORMATS,
        default="prometheus",
        help="a rule file, or a PrometheusRule of the Prometheus Operator (default: prometheus)",
    )
    add("--settings", metavar="FILE", help="TOML file of settings")
    add(
        "--threshold",
        action="append",
        type=_threshold,
        default=[],
        metavar="ALERT=NUMBER",
        help="threshold of an alert, by its id or name; can be given again",
    )
    add("--objective", type=float, metavar="SHARE", help="share of calls that is to succeed")
    add("--cost-budget", type=float, metavar="USD", help="what a job may cost in 24 hours")
    add("--token-budget", type=float, metavar="N", help="tokens that a job may take in 24 hours")
    add("--selector", metavar="MATCHERS", help="matchers for every query, such as 'cluster=\"a\"'")
    add(
        "--job",
        action="append",
        metavar="NAME",
        help="a job that must have a target at all times; can be given again",
    )
    add("--runbook-url", metavar="URL", help="where the runbook is, without an anchor")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Render the rules.

    Args:
        args: As `add_arguments` declares them.

    Returns:
        The exit code: 1 where a file that is checked differs.

    Raises:
        ConfigError: An option or the settings' file cannot be used.
        ExportError: The output cannot be written.
        MissingExtraError: PyYAML is not installed.
    """
    return put(render_rules(_settings(args), args.format), args)


def _settings(args: argparse.Namespace) -> AlertSettings:
    settings = AlertSettings() if args.settings is None else AlertSettings.from_file(args.settings)
    given = {
        "objective": args.objective,
        "cost_budget": args.cost_budget,
        "token_budget": args.token_budget,
        "selector": args.selector,
        "jobs": args.job and tuple(args.job),
        "runbook_url": args.runbook_url,
    }
    settings = replace(
        settings, **{name: value for name, value in given.items() if value is not None}
    )
    alerts = dict(settings.alerts)
    for alert, threshold in args.threshold:
        # By id, which wins over what the file says of a name.
        for id_ in _ids(alert):
            alerts[id_] = replace(alerts.get(id_, AlertOverride()), threshold=threshold)
    return replace(settings, alerts=alerts)


def _ids(alert: str) -> list[str]:
    rows = [row for row in ALERT_RULES if row.condition.indicator is not None]
    found = [row.id for row in rows if alert in (row.id, row.name)]
    if not found:
        known = ", ".join(row.id for row in rows)
        raise ConfigError(f"--threshold: no alert {alert!r} has one; give one of {known}")
    return found


def _threshold(text: str) -> tuple[str, float]:
    alert, equals, number = text.rpartition("=")
    with contextlib.suppress(ValueError):
        if equals and math.isfinite(float(number)):
            return alert, float(number)
    raise argparse.ArgumentTypeError(
        f"{text!r} is no threshold; give ALERT=NUMBER, such as high_error_rate=0.1"
    )


def _lines() -> Iterable[str]:
    width = max(len(row.id) for row in ALERT_RULES)
    for row in ALERT_RULES:
        value = "none" if row.condition.indicator is None else f"{row.condition.threshold:g}"
        yield f"  {row.id:<{width}}  {row.name:<25}  {value}"
