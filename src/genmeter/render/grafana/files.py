"""The Grafana dashboards, as files."""

from __future__ import annotations

import warnings
from importlib import resources
from typing import TYPE_CHECKING

from genmeter.config.alerts import AlertSettings
from genmeter.errors import MissingExtraError
from genmeter.render._yaml import to_yaml
from genmeter.render.grafana.boards.conversations import CONVERSATIONS
from genmeter.render.grafana.boards.evaluation import EVALUATION
from genmeter.render.grafana.boards.health import HEALTH
from genmeter.render.grafana.boards.overview import OVERVIEW
from genmeter.render.grafana.boards.tokens import TOKENS
from genmeter.render.kubernetes import Metadata

if TYPE_CHECKING:
    from genmeter.render.grafana.model import Dashboard

__all__ = ["DASHBOARDS", "render_config_maps", "render_dashboards"]

DASHBOARDS: tuple[Dashboard, ...] = (OVERVIEW, TOKENS, EVALUATION, CONVERSATIONS, HEALTH)
"""All of them."""


def render_dashboards(settings: AlertSettings) -> dict[str, str]:
    """Return the dashboards as Grafana's JSON, by file name.

    Args:
        settings: The alerts whose thresholds are drawn, and the matchers of every query.

    Raises:
        MissingExtraError: grafana-foundation-sdk is not installed, which all but the default
            settings need (and these too if genmeter was not installed from a wheel).
    """
    try:
        with warnings.catch_warnings():
            # Its import recommends version 2 of the format, which older Grafanas cannot read.
            warnings.simplefilter("ignore", DeprecationWarning)
            from genmeter.render.grafana.json import to_json, uid_of
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "grafana_foundation_sdk":
            raise
        shipped = _shipped() if settings == AlertSettings() else {}
        if shipped:
            return shipped
        raise MissingExtraError(
            "grafana-foundation-sdk", extra="grafana", purpose="rendering dashboards"
        ) from error
    return {f"{uid_of(each.name, settings)}.json": to_json(each, settings) for each in DASHBOARDS}


def render_config_maps(settings: AlertSettings, metadata: Metadata | None = None) -> dict[str, str]:
    """Return the dashboards as ConfigMaps of Kubernetes, by file name.

    Grafana's sidecar (``grafana.sidecar.dashboards`` of its Helm chart) loads those with the label
    ``grafana_dashboard``.

    Args:
        settings: As for :func:`render_dashboards`.
        metadata: Namespace and labels of the resources.

    Raises:
        MissingExtraError: As for :func:`render_dashboards`, or PyYAML is not installed.
    """
    found = {}
    for file, text in render_dashboards(settings).items():
        name = file.removesuffix(".json")
        document = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": (metadata or Metadata()).of(name, {"grafana_dashboard": "1"}),
            "data": {file: text},
        }
        found[f"{name}.yaml"] = to_yaml(document)
    return found


def _shipped() -> dict[str, str]:
    """Return the wheel's files of the default settings; empty if there are none."""
    folder = resources.files("genmeter") / "deploy" / "grafana" / "dashboards"
    names = [f"{each.name}.json" for each in DASHBOARDS]
    if not all((folder / name).is_file() for name in names):
        return {}
    return {name: (folder / name).read_text(encoding="utf-8") for name in names}
