"""The five dashboards for Grafana, as files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.errors import MissingExtraError
from genmeter.render.dashboards_conversations import CONVERSATIONS
from genmeter.render.dashboards_evaluation import EVALUATION
from genmeter.render.dashboards_health import HEALTH
from genmeter.render.dashboards_overview import OVERVIEW
from genmeter.render.dashboards_tokens import TOKENS

if TYPE_CHECKING:
    from genmeter.alert_settings import AlertSettings
    from genmeter.render.dashboards_model import Dashboard

__all__ = ["DASHBOARDS", "panels_by_metric", "render_dashboards"]

DASHBOARDS: tuple[Dashboard, ...] = (OVERVIEW, TOKENS, EVALUATION, CONVERSATIONS, HEALTH)
"""All of them, in the order in which they answer questions."""


def render_dashboards(settings: AlertSettings) -> dict[str, str]:
    """Write the dashboards as Grafana's JSON, the same text for the same settings.

    Args:
        settings: The alerts whose thresholds are drawn, and the matchers of every query.

    Returns:
        Text by the name of its file.

    Raises:
        MissingExtraError: grafana-foundation-sdk is not installed.
    """
    try:
        from genmeter.render.dashboards_frame import to_json
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "grafana_foundation_sdk":
            raise
        raise MissingExtraError(
            "grafana-foundation-sdk", extra="grafana", purpose="rendering dashboards"
        ) from error
    return {f"{each.name}.json": to_json(each, settings) for each in DASHBOARDS}


def panels_by_metric() -> dict[str, list[tuple[str, str]]]:
    """Tell which dashboards and panels show a metric, by its name in Prometheus."""
    found: dict[str, list[tuple[str, str]]] = {}
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            place = (dashboard.title, panel.heading)
            for query in panel.queries:
                for read in query.reads:
                    for term in (read.signal.of, read.signal.per):
                        if term is not None:
                            places = found.setdefault(term.instrument.prometheus, [])
                            if place not in places:
                                places.append(place)
    return found
