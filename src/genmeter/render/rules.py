"""Prometheus's rules: the alerts as PromQL, in a rule file or a Kubernetes resource."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Literal

from genmeter.errors import ConfigError, MissingExtraError
from genmeter.schema.query import Selector, duration

if TYPE_CHECKING:
    from genmeter.config.alerts import AlertSettings
    from genmeter.schema.alerts import AlertRule

__all__ = ["FORMATS", "Format", "render_rules"]

Format = Literal["prometheus", "kubernetes"]
FORMATS: tuple[Format, ...] = ("prometheus", "kubernetes")

_ESCAPED = r"[abfnrtv\\{}]|[0-7]{{3}}|x[0-9a-fA-F]{{2}}|u[0-9a-fA-F]{{4}}|U[0-9a-fA-F]{{8}}"
_DOUBLE, _SINGLE = (
    rf"{mark}(?:\\(?:{_ESCAPED.format(mark)})|[^{mark}\\\n])*{mark}" for mark in ('"', "'")
)
_STRING = f"(?:{_DOUBLE}|{_SINGLE}|`[^`]*`)"
# A series has one name, and that of each query is given.
_MATCHER = rf"\s*(?!\W?__name__\b)(?:[a-zA-Z_]\w*|{_STRING})\s*(?:=~|!~|!=|=)\s*{_STRING}\s*"
_MATCHERS = re.compile(f"{_MATCHER}(?:,{_MATCHER})*", re.ASCII)
_HEADER = """\
# Rules for jobs that genmeter watches. Made by `genmeter render rules`: change them by its options
# or its settings' file, not here.
#
# Counters are summed from their birth where Prometheus runs with
#   --enable-feature=created-timestamp-zero-ingestion
# and scrapes OpenMetrics. Without it what a series counted before its first scrape is missed: name
# the job's models in GENMETER_MODELS, so that their series start at 0 when the job does.
#
# Ratios over more than six hours are added up from sums over five minutes, so the rules are to be
# evaluated more often than that; any usual `evaluation_interval` is. They fill up from the day on
# that the rules are loaded.
"""


def render_rules(settings: AlertSettings, format: Format = "prometheus") -> str:  # noqa: A002
    """Write the rules as a file, the same text for the same settings.

    Args:
        settings: What the rules come from.
        format: ``prometheus`` for a rule file, ``kubernetes`` for a PrometheusRule of the
            Prometheus Operator.

    Raises:
        ConfigError: The selector is none, or a text of the settings is no Unicode.
        MissingExtraError: PyYAML is not installed.
    """
    _check(settings)
    document: dict[str, Any] = {"groups": _groups(settings)}
    if format == "kubernetes":
        document = {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "genmeter", "labels": {"app.kubernetes.io/name": "genmeter"}},
            "spec": document,
        }
    return _HEADER + _yaml(document)


def _groups(settings: AlertSettings) -> list[dict[str, Any]]:
    rules, selector = settings.rules(), Selector(common=settings.selector)
    recorded = [rule for rule in rules if rule.condition.is_recorded]
    records = [each for rule in recorded for each in rule.condition.records(rule.by, selector)]
    found = [
        {
            # In one group, so that each is evaluated after what it needs.
            "name": "genmeter-long-windows",
            "rules": [
                *({"record": name, "expr": expr} for name, expr in dict.fromkeys(records)),
                *(_alert(rule, settings, selector) for rule in recorded),
            ],
        },
        {
            "name": "genmeter",
            "rules": [_alert(rule, settings, selector) for rule in rules if rule not in recorded],
        },
    ]
    return [group for group in found if group["rules"]]


def _alert(rule: AlertRule, settings: AlertSettings, selector: Selector) -> dict[str, Any]:
    wait = {"for": duration(rule.for_)} if rule.for_ else {}
    return {
        "alert": rule.name,
        "expr": rule.promql(selector),
        **wait,
        "labels": {"severity": rule.severity, **dict(rule.labels)},
        "annotations": rule.templates(settings.runbook_url),
    }


def _check(settings: AlertSettings) -> None:
    for name, text in (
        ("selector", settings.selector),
        ("runbook_url", settings.runbook_url),
        *(("jobs", job) for job in settings.jobs),
    ):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{name} is {text!r}, which is no Unicode; give another") from error
    selector = settings.selector
    if selector and not _MATCHERS.fullmatch(selector):
        raise ConfigError(
            f"selector is {selector!r}; give matchers with commas between, with neither braces nor "
            'a metric\'s name, such as cluster="a",env=~"prod|staging"; within quotes a backslash '
            "is two"
        )


def _yaml(document: Any) -> str:
    """Write YAML for people: keys in their order, queries as blocks."""
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("pyyaml", extra="render", purpose="Writing YAML") from None

    class Dumper(yaml.SafeDumper):
        """A dumper of our own: representers are kept by the class."""

    def text(dumper: Dumper, value: str) -> Any:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    written: str = yaml.dump(
        document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return written
