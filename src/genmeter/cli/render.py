"""``genmeter render KIND``: print, write or check what the tables of metrics and alerts make."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.cli._files import write_files
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.errors import ConfigError
from genmeter.render.docs import render_reference, render_runbook
from genmeter.render.grafana.files import render_dashboards
from genmeter.render.rules import FORMATS, render_rules
from genmeter.schema.alerts import ALERT_RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["HELP", "add_arguments", "run"]

_Option = tuple[tuple[str, ...], dict[str, Any]]
"""The flags of an option, and the arguments of `add_argument` for it."""

HELP = "write rules for Prometheus, dashboards for Grafana, or pages about them"
_STALE = 1
_RULES_EPILOG = """\
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

Alerts, with their default thresholds (of a budget's alert, how many times that):
"""


class _Kind(NamedTuple):
    """One kind of file to render.

    Attributes:
        help: One line for the list of kinds.
        options: Its options beside ``--out`` and ``--check``.
        render: Returns the text, or the texts of several files by their paths in a folder.
        folder: The default of ``--out`` where there are several files.
        epilog: What follows the options in the help.
    """

    help: str
    options: Sequence[_Option]
    render: Callable[[argparse.Namespace], str | Mapping[str, str]]
    folder: str | None = None
    epilog: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the kinds and their arguments.

    Args:
        parser: The subcommand's parser.
    """
    parsers = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, kind in _KINDS.items():
        add = parsers.add_parser(
            name,
            help=kind.help,
            description=f"{kind.help[:1].upper()}{kind.help[1:]}.",
            epilog=kind.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        ).add_argument
        for flags, settings in kind.options:
            add(*flags, **settings)
        metavar, out = "FILE", "write to this file rather than to standard output"
        if kind.folder is not None:
            metavar, out = "DIR", "the folder for the files, made if missing (default: %(default)s)"
        add("--out", metavar=metavar, default=kind.folder, help=out)
        add(
            "--check",
            nargs="?",
            const="",
            metavar=metavar,
            help=f"write nothing: show how {metavar} (default: that of --out) differs, and exit 1 "
            "if it does",
        )


def run(args: argparse.Namespace) -> int:
    """Render a kind of file.

    Args:
        args: As `add_arguments` declares them.

    Returns:
        The exit code: 1 if a checked file differs.

    Raises:
        ConfigError: An argument or a file of settings is invalid, or a checked file is unreadable.
        ExportError: The output cannot be written.
        MissingExtraError: A package that the kind needs is not installed.
    """
    kind = _KINDS[args.kind]
    rendered = kind.render(args)
    texts = {"": rendered} if isinstance(rendered, str) else rendered
    where = args.check or args.out
    if where is None:
        if args.check is not None:
            raise ConfigError("--check must have a file: give --check FILE or --out FILE")
        _print(texts[""])
        return 0
    files = {Path(where) / name: text for name, text in texts.items()}
    if args.check is not None:
        return _check(files)
    write_files(files, "--out", where)
    if kind.folder is not None:
        _print("".join(f"{path}\n" for path in files))
    return 0


def _check(files: Mapping[Path, str]) -> int:
    stale = {path: found for path in files if (found := _read(path)) != files[path]}
    for path, found in stale.items():
        old, new = (text.splitlines(keepends=True) for text in (found, files[path]))
        diff = difflib.unified_diff(old, new, f"{path}", f"{path} (as it would be rendered)")
        no_end = "\n\\ No newline at end of file\n"
        _print("".join(line if line.endswith("\n") else line + no_end for line in diff))
    return _STALE if stale else 0


def _read(path: Path) -> str:
    try:
        # Bytes, so that other ends of lines are a difference.
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--check: {str(path)!r} cannot be read: {error}; give another file"
        ) from error


def _print(text: str) -> None:
    # Not in the terminal's encoding: redirected output must equal what --out writes.
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()


# --- settings ----------------------------------------------------------------------------------


def _settings(args: argparse.Namespace) -> AlertSettings:
    """Read the settings' file, and apply those options that the kind has."""
    settings = AlertSettings.coerce(args.settings)
    names = ("objective", "cost_budget", "token_budget", "selector", "jobs", "runbook_url")
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    if "jobs" in given:
        given["jobs"] = tuple(given["jobs"])
    settings = replace(settings, **given)
    alerts = dict(settings.alerts)
    for alert, threshold in getattr(args, "threshold", ()):
        # By id, which wins over what the file says of a name.
        for id_ in _ids(alert):
            alerts[id_] = replace(alerts.get(id_, AlertOverride()), threshold=threshold)
    return replace(settings, alerts=alerts)


def _ids(alert: str) -> list[str]:
    rows = [row for row in ALERT_RULES if row.condition.indicator is not None]
    found = [row.id for row in rows if alert in (row.id, row.name)]
    if not found:
        known = ", ".join(row.id for row in rows)
        raise ConfigError(f"--threshold must name one of {known}, got {alert!r}")
    return found


def _threshold(text: str) -> tuple[str, float]:
    alert, equals, number = text.rpartition("=")
    with contextlib.suppress(ValueError):
        if equals and math.isfinite(float(number)):
            return alert, float(number)
    raise argparse.ArgumentTypeError(
        f"must be ALERT=NUMBER, such as high_error_rate=0.1, got {text!r}"
    )


def _thresholds_help() -> str:
    width = max(len(row.id) for row in ALERT_RULES)
    lines = []
    for row in ALERT_RULES:
        value = "none" if row.condition.indicator is None else f"{row.condition.threshold:g}"
        lines.append(f"  {row.id:<{width}}  {row.name:<25}  {value}\n")
    return "".join(lines)


# --- the kinds ---------------------------------------------------------------------------------


def _option(*flags: str, **settings: Any) -> _Option:
    return flags, settings


_SETTINGS = _option("--settings", metavar="FILE", help="TOML file of the alerts' settings")
_SELECTOR = _option(
    "--selector", metavar="MATCHERS", help="matchers for every query, such as 'cluster=\"a\"'"
)
_KINDS = {
    "dashboards": _Kind(
        help="the dashboards for Grafana",
        options=(
            _option("--settings", "--thresholds", **_SETTINGS[1]),
            _SELECTOR,
        ),
        render=lambda args: render_dashboards(_settings(args)),
        folder="dashboards",
    ),
    "reference": _Kind(
        help="the reference of metrics, indicators and alerts, as Markdown",
        options=(),
        render=lambda _: render_reference(),
    ),
    "rules": _Kind(
        help="the recording rules and alerts for Prometheus",
        options=(
            _option(
                "--format",
                choices=FORMATS,
                default="prometheus",
                help="a rule file, or a PrometheusRule of the Prometheus Operator "
                "(default: %(default)s)",
            ),
            _SETTINGS,
            _option(
                "--threshold",
                action="append",
                type=_threshold,
                default=[],
                metavar="ALERT=NUMBER",
                help="threshold of an alert, by its id or name; repeatable",
            ),
            _option("--objective", type=float, metavar="SHARE", help="target share of successes"),
            _option("--cost-budget", type=float, metavar="USD", help="a job's budget for 24 hours"),
            _option("--token-budget", type=float, metavar="N", help="the same in tokens"),
            _SELECTOR,
            _option(
                "--job",
                action="append",
                dest="jobs",
                metavar="NAME",
                help="a job that must have a target at all times; repeatable",
            ),
            _option("--runbook-url", metavar="URL", help="URL of the runbook, without an anchor"),
        ),
        render=lambda args: render_rules(_settings(args), args.format),
        epilog=_RULES_EPILOG + _thresholds_help(),
    ),
    "runbook": _Kind(
        help="the runbook of the alerts, as Markdown",
        options=(_SETTINGS,),
        render=lambda args: render_runbook(_settings(args)),
    ),
}
