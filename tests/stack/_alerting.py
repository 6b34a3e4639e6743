"""The shipped Alertmanager configuration with short waits, and the servers for alerts."""

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
# Longer than a test's evaluation interval, as in the shipped configuration, so that an inhibiting
# alert arrives before the other one is sent.
GROUP_WAIT = "500ms"
GROUP_INTERVAL = "200ms"


class AlertingStack(NamedTuple):
    """The servers between a job's endpoint and a receiver.

    Each test uses its own label `job`, which distinguishes its alerts from those of other tests:

        stack.prometheus.add_target(monitor.endpoint_url, "openmetrics", job="failing")
        sent = stack.webhook.wait_for_alert("firing", alertname="GenerationErrorRateHigh",
                                            job="failing")
        assert sent.receiver == "page"
    """

    prometheus: Prometheus
    alertmanager: Alertmanager
    webhook: Webhook


def shipped_alertmanager_config(webhook: Webhook) -> dict[str, Any]:
    """Return the content of deploy/prometheus/alertmanager.yml for a test.

    Routes, grouping and inhibitions are unchanged; only the waits before a notification are shorter,
    and every receiver posts to the webhook under its own name.

    Args:
        webhook: The target of the receivers.
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
