"""Print all rendered files as JSON by name, with every metric and label renamed."""

from __future__ import annotations

import json
import sys

import wrapt


@wrapt.when_imported("genmeter.schema.metrics")
def rename(catalogue: object) -> None:
    """Rename the rows before any other module reads them."""
    rows = catalogue.INSTRUMENTS
    labels = {id(label): label for row in rows for label in row.labels}
    for row in rows:
        object.__setattr__(row, "name", f"zz.{row.name}")
    for label in labels.values():
        object.__setattr__(label, "key", f"zz.{label.key}")


from genmeter.config.alerts import AlertSettings  # noqa: E402
from genmeter.render.docs import render_reference, render_runbook  # noqa: E402
from genmeter.render.grafana.files import render_dashboards  # noqa: E402
from genmeter.render.rules import render_rules  # noqa: E402

settings = AlertSettings(cost_budget=1.0, token_budget=1.0, jobs=("nightly",))
json.dump(
    {
        "rules": render_rules(settings),
        "PrometheusRule": render_rules(settings, "kubernetes"),
        "runbook": render_runbook(settings),
        "reference": render_reference(),
        **render_dashboards(settings),
    },
    sys.stdout,
)
