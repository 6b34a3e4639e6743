"""The shipped Alertmanager configuration made quick, and the servers that an alert passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from _servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _alertmanager import Alertmanager
    from _prometheus import Prometheus
    from _webhook import Webhook

SHIPPED = ROOT / "deploy" / "prometheus"
# Longer than a test's evaluation interval, as the shipped one is longer than the shipped interval:
# an alert that inhibits another is there before the other is told.
GROUP_WAIT = "500ms"
GROUP_INTERVAL = "200ms"


class AlertingStack(NamedTuple):
    """What an alert passes on its way from a job's endpoint to a receiver.

    A target's label `job` is the test's own, so that its alerts can be told from other tests':

        stack.prometheus.add_target(monitor.endpoint_url, "openmetrics", job="failing")
        told = stack.webhook.wait_for_alert("firing", alertname="GenerationErrorRateHigh",
                                            job="failing")
        assert told.receiver == "page"
    """

    prometheus: Prometheus
    alertmanager: Alertmanager
    webhook: Webhook


def shipped_alertmanager_config(webhook: Webhook) -> dict[str, Any]:
    """Loads deploy/prometheus/alertmanager.yml for a test.

    The routes, their grouping and the inhibitions are those that ship; only the waits before a
    notification are shorter, and every receiver posts to the webhook under its own name.

    Args:
        webhook: what the receivers post to.

    Returns:
        What the configuration's YAML would hold.
    """
    config: dict[str, Any] = yaml.safe_load((SHIPPED / "alertmanager.yml").read_text())
    for route in _routes(config["route"]):
        route["group_wait"] = GROUP_WAIT
        route["group_interval"] = GROUP_INTERVAL
    for receiver in config["receivers"]:
        kinds = receiver.keys() - {"name", "webhook_configs"}
        assert not kinds, f"the receiver {receiver['name']} would send by {sorted(kinds)}"
        for target in receiver.get("webhook_configs", ()):
            target["url"] = webhook.url_of(receiver["name"])
    return config


def _routes(route: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield route
    for child in route.get("routes", ()):
        yield from _routes(child)
