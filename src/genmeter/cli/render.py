"""``genmeter render KIND``: print, write or check the files generated from the tables."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.cli._files import write_files, write_output
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.errors import ConfigError
from genmeter.render.docs import render_reference, render_runbook
from genmeter.render.grafana.files import render_config_maps, render_dashboards
from genmeter.render.kubernetes import Metadata
from genmeter.render.rules import FORMATS, render_rules
from genmeter.schema.alerts import ALERT_RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["HELP", "add_arguments", "run"]

_NAMES = (
    *("objective", "cost_budget", "token_budget", "selector", "jobs", "collectors", "runbook_url"),
    *("group_by", "replica_labels", "histograms", "distributions", "suffix"),
)
"""The settings that have an option."""
_Option = tuple[tuple[str, ...], dict[str, Any]]
"""The flags of an option, and its arguments of `add_argument`."""

HELP = "render rules for Prometheus, dashboards for Grafana, and their documentation"
_STALE = 1
_RULES_EPILOG = """\
The settings file is TOML; options override it:

  objective = 0.995
  cost_budget = 50.0            # USD in 24 hours
  jobs = ["nightly"]
  [alerts.high_error_rate]
  threshold = 0.1
  window = "10m"                # a list for an alert over several windows
  for = "2m"
  [alerts.ConversationsLong]
  enabled = false

The same file can configure the alerts of a job: GENMETER_ALERTS=FILE.

Alerts and their default thresholds (for a budget, the multiple of it):
"""


class _Kind(NamedTuple):
    """One kind of file to render.

    Attributes:
        help: One line for the list of kinds.
        options: Its options besides ``--out`` and ``--check``.
        render: Returns the text, or the texts of several files by path in a folder.
        folder: The default of ``--out`` for several files.
        epilog: The end of the help.
    """

    help: str
    options: Sequence[_Option]
    render: Callable[[argparse.Namespace], str | Mapping[str, str]]
    folder: str | None = None
    epilog: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the kinds and their arguments."""
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
        metavar, out = "FILE", "write to this file instead of standard output"
        if kind.folder is not None:
            metavar, out = "DIR", "folder for the files, created if missing (default: %(default)s)"
        add("--out", metavar=metavar, default=kind.folder, help=out)
        add(
            "--check",
            nargs="?",
            const="",
            metavar=metavar,
            help=f"write nothing; print the diff to {metavar} (default: that of --out), and exit "
            "with 1 if there is any",
        )


def run(args: argparse.Namespace) -> int:
    """Render a kind of file; return 1 if a checked file differs.

    Raises:
        ConfigError: An argument or the settings file is invalid, or a checked file unreadable.
        ExportError: The output cannot be written.
        MissingExtraError: A package that the kind needs is not installed.
    """
    kind = _KINDS[args.kind]
    rendered = kind.render(args)
    texts = {"": rendered} if isinstance(rendered, str) else rendered
    target = args.check or args.out
    if target is None:
        if args.check is not None:
            raise ConfigError("--check must have a file: use --check FILE or --out FILE")
        _print(texts[""])
        return 0
    files = {Path(target) / name: text for name, text in texts.items()}
    if args.check is not None:
        return _check(files)
    write_files(files, "--out", target)
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
        # As bytes, so that other line endings are a difference.
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--check: {str(path)!r} cannot be read: {error}; choose another file"
        ) from error


def _print(text: str) -> None:
    # In UTF-8, so that redirected output equals the file of --out.
    write_output(text.encode("utf-8", "replace"))


# --- settings ----------------------------------------------------------------------------------


def _settings(args: argparse.Namespace) -> AlertSettings:
    """Read the settings file, and apply the options of the kind."""
    settings = AlertSettings.coerce(args.settings)
    changes = {name: value for name in _NAMES if (value := getattr(args, name, None)) is not None}
    for name, value in changes.items():
        if isinstance(value, list):
            changes[name] = tuple(value)
    settings = replace(settings, **changes)
    alerts = dict(settings.alerts)
    for alert, threshold in getattr(args, "threshold", ()):
        # By id, which overrides the names in the file.
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


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text!r}")
    return key, value


def _metadata(args: argparse.Namespace) -> Metadata:
    return Metadata(namespace=args.namespace, labels=dict(args.labels))


def _dashboards(args: argparse.Namespace) -> Mapping[str, str]:
    settings = _settings(args)
    if args.format == "kubernetes":
        return render_config_maps(settings, _metadata(args))
    return render_dashboards(settings)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


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


_SETTINGS = _option("--settings", metavar="FILE", help="TOML file with alert settings")
_SELECTOR = _option(
    "--selector", metavar="MATCHERS", help="label matchers for all queries, such as 'cluster=\"a\"'"
)
_SOURCES = (
    _option(
        "--group-by",
        type=_names,
        metavar="LABELS",
        help="comma-separated labels of the targets, such as namespace,cluster, that all queries, "
        "alerts and variables have besides the job",
    ),
    _option(
        "--replica-labels",
        type=_names,
        metavar="LABELS",
        help="comma-separated labels, such as prometheus_replica, in which only the copies of a series "
        "differ that several servers have scraped; one of them counts",
    ),
    _option(
        "--histograms",
        choices=("classic", "native"),
        help="how Prometheus stores histograms; native if it scrapes only those, or converts classic "
        "ones (default: classic)",
    ),
    _option(
        "--distributions",
        choices=("scraped", "recorded"),
        help="recorded if rules record the distributions of the times of each job's calls, and "
        "dashboards read these: faster with hundreds of processes, but not by instance; for rules and "
        "dashboards alike (default: scraped)",
    ),
    _option(
        "--suffix",
        metavar="TEXT",
        help="end of the names of groups, recorded series and dashboards, beside another rendering",
    ),
)
_KUBERNETES = (
    _option(
        "--namespace", metavar="NAME", help="namespace of the resources, for --format kubernetes"
    ),
    _option(
        "--label",
        action="append",
        dest="labels",
        type=_label,
        default=[],
        metavar="KEY=VALUE",
        help="label of the resources, such as release=kube-prometheus-stack; repeatable",
    ),
)
_KINDS = {
    "dashboards": _Kind(
        help="dashboards for Grafana",
        options=(
            _option(
                "--format",
                choices=("grafana", "kubernetes"),
                default="grafana",
                help="JSON, or a ConfigMap of each for Grafana's sidecar (default: %(default)s)",
            ),
            *_KUBERNETES,
            _option("--settings", "--thresholds", **_SETTINGS[1]),
            _SELECTOR,
            *_SOURCES,
        ),
        render=_dashboards,
        folder="dashboards",
    ),
    "reference": _Kind(
        help="reference of metrics, indicators and alerts, as Markdown",
        options=(),
        render=lambda _: render_reference(),
    ),
    "rules": _Kind(
        help="recording rules and alerts for Prometheus",
        options=(
            _option(
                "--format",
                choices=FORMATS,
                default="prometheus",
                help="rule file, or PrometheusRule of the Prometheus Operator "
                "(default: %(default)s)",
            ),
            *_KUBERNETES,
            _SETTINGS,
            _option(
                "--threshold",
                action="append",
                type=_threshold,
                default=[],
                metavar="ALERT=NUMBER",
                help="threshold of an alert by id or name; repeatable",
            ),
            _option(
                "--objective", type=float, metavar="SHARE", help="target share of successful calls"
            ),
            _option(
                "--cost-budget", type=float, metavar="USD", help="budget of a job for 24 hours"
            ),
            _option(
                "--token-budget",
                type=float,
                metavar="N",
                help="budget of a job for 24 hours, in tokens",
            ),
            _SELECTOR,
            _option(
                "--job",
                action="append",
                dest="jobs",
                metavar="NAME",
                help="job that must always have a target; repeatable",
            ),
            _option(
                "--collector",
                action="append",
                dest="collectors",
                metavar="NAME",
                help="scrape job of Collectors, instead of 'collector'; repeatable",
            ),
            _option(
                "--runbook-url",
                metavar="URL",
                help="http(s) URL of the runbook, without an anchor; alerts have no link without it",
            ),
            *_SOURCES,
        ),
        render=lambda args: render_rules(_settings(args), args.format, _metadata(args)),
        epilog=_RULES_EPILOG + _thresholds_help(),
    ),
    "runbook": _Kind(
        help="runbook of the alerts, as Markdown",
        options=(_SETTINGS,),
        render=lambda args: render_runbook(_settings(args)),
    ),
}
