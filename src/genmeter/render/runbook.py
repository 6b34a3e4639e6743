"""The runbook: its words from a template, its names, conditions and queries from the tables."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING

from genmeter.schema import metrics as cat
from genmeter.schema.query import Selector, duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genmeter.config.alerts import AlertSettings
    from genmeter.schema.alerts import AlertRule

__all__ = ["render_runbook"]

_NAME = re.compile(r"\{\{([A-Z_]+)\}\}")
_HEADING = re.compile(r"^## (\w+)$", re.MULTILINE)


def render_runbook(settings: AlertSettings) -> str:
    """Write the runbook as Markdown.

    Args:
        settings: What the alerts' conditions and queries come from.
    """
    # Without a budget and a job that must be there, their alerts would have no query to show.
    settings = replace(
        settings,
        cost_budget=settings.cost_budget or 100.0,
        token_budget=settings.token_budget or 100e6,
        jobs=settings.jobs or ("nightly",),
    )
    text = files("genmeter.render").joinpath("runbook.md").read_text(encoding="utf-8")
    parts = _HEADING.split(_NAME.sub(_named, text))
    rules = settings.rules()
    sections = [parts[0].rstrip()]
    for name, words in zip(parts[1::2], parts[2::2], strict=True):
        found = [rule for rule in rules if rule.name == name]
        if not found:
            continue
        sections.append(f"## {name}")
        sections += [
            words.strip(),
            _facts(found),
            *_queries(found, settings),
            _silence(name, found),
        ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _named(match: re.Match[str]) -> str:
    row = getattr(cat, match[1])
    name: str = row.prometheus
    return name


def _facts(rules: Sequence[AlertRule]) -> str:
    lines = ["| severity | id in process | told by | least | pending |", "|---|---|---|---|---|"]
    for rule in rules:
        by = ", ".join(["job", *(label.prometheus for label in rule.by)])
        told = f"`{rule.id}`" if rule.condition.is_local else "Prometheus only"
        pending = duration(rule.for_) if rule.for_ else "none"
        lines.append(
            f"| {rule.severity} | {told} | {by} | {rule.condition.min_samples} | {pending} |"
        )
    return "\n".join(lines)


def _queries(rules: Sequence[AlertRule], settings: AlertSettings) -> list[str]:
    return [f"```promql\n{rule.promql(Selector(common=settings.selector))}\n```" for rule in rules]


def _silence(name: str, rules: Sequence[AlertRule]) -> str:
    matchers = [f"alertname={name}", "job=JOB"]
    matchers += [f"{label.prometheus}={label.short.upper()}" for label in rules[0].by]
    return f"**Silence.** `amtool silence add --comment=WHY --duration=2h {' '.join(matchers)}`"
