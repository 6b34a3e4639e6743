"""The five dashboards for Grafana, as files."""

from __future__ import annotations

import warnings
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

__all__ = ["DASHBOARDS", "render_dashboards"]

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
        with warnings.catch_warnings():
            # Its import recommends version 2 of the format, which older Grafanas do not read.
            warnings.simplefilter("ignore", DeprecationWarning)
            from genmeter.render.dashboards_frame import to_json
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "grafana_foundation_sdk":
            raise
        raise MissingExtraError(
            "grafana-foundation-sdk", extra="grafana", purpose="rendering dashboards"
        ) from error
    return {f"{each.name}.json": to_json(each, settings) for each in DASHBOARDS}
