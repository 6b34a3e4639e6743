"""A webhook receiver that keeps Alertmanager's notifications."""

from __future__ import annotations

import http.server
import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from _servers import LOOPBACK, poll

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WAIT_TIMEOUT = 30.0


@dataclass(frozen=True)
class ReceivedAlert:
    """An alert of a notification.

    Attributes:
        receiver: the name of the receiver.
        status: `firing` or `resolved`.
        labels: all labels, including `alertname`.
        annotations: summary, description and address of the runbook.
    """

    receiver: str
    status: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class Notification:
    """A notification of Alertmanager: the alerts of a group.

    Attributes:
        receiver: the name of the receiver, from the address.
        status: `firing` while any alert of the group fires, else `resolved`.
        group_labels: the labels that the alerts are grouped by.
        alerts: the group's alerts.
    """

    receiver: str
    status: str
    group_labels: Mapping[str, str]
    alerts: Sequence[ReceivedAlert]

    @classmethod
    def of(cls, receiver: str, body: Mapping[str, Any]) -> Self:
        """Read a notification in version 4 of Alertmanager's format."""
        alerts = [
            ReceivedAlert(receiver, alert["status"], alert["labels"], alert["annotations"])
            for alert in body["alerts"]
        ]
        return cls(receiver, body["status"], body["groupLabels"], alerts)


class Webhook:
    """An HTTP server on loopback that keeps the notifications posted to it.

    All receivers share it, each with its own address. Tests select their alerts by labels:

        alertmanager.post([{"labels": {"alertname": "GenerationSlow", "job": "slow"}}])
        assert webhook.wait_for_alert("firing", job="slow").receiver == "chat"
    """

    def __init__(self) -> None:
        self._kept: list[Notification] = []
        self._lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer((LOOPBACK, 0), self._handler())
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}
        )

    def url_of(self, receiver: str) -> str:
        """Return the address for a receiver's notifications."""
        return f"http://{LOOPBACK}:{self._server.server_port}/{receiver}"

    def notifications(self) -> list[Notification]:
        """Return all notifications so far, in order of arrival."""
        with self._lock:
            return list(self._kept)

    def alerts(self, status: str | None = None, /, **labels: str) -> list[ReceivedAlert]:
        """Return the received alerts with these labels, once per notification.

        Args:
            status: `firing` or `resolved`, or None for both.
            labels: labels that an alert must have.
        """
        return [
            alert
            for notification in self.notifications()
            for alert in notification.alerts
            if status in (None, alert.status) and labels.items() <= alert.labels.items()
        ]

    def wait_for(
        self, predicate: Callable[[list[Notification]], bool], timeout: float = WAIT_TIMEOUT
    ) -> list[Notification]:
        """Wait until the predicate accepts all notifications so far, and return them.

        A timeout (seconds) fails the test with the notifications.
        """
        accepted, found = poll(self.notifications, predicate, timeout)
        assert accepted, f"not notified as expected within {timeout} s; received: {found}"
        return found

    def wait_for_alert(
        self, status: str, /, timeout: float = WAIT_TIMEOUT, **labels: str
    ) -> ReceivedAlert:
        """Wait until an alert with this status and these labels is received, and return it.

        A timeout (seconds) fails the test.
        """
        self.wait_for(lambda _: bool(self.alerts(status, **labels)), timeout)
        return self.alerts(status, **labels)[0]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _keep(self, notification: Notification) -> None:
        with self._lock:
            self._kept.append(notification)

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        keep = self._keep

        class Handler(http.server.BaseHTTPRequestHandler):
            """Receives a notification per request."""

            def do_POST(self) -> None:
                """Keep the notification; the path is the receiver's name."""
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                keep(Notification.of(self.path.removeprefix("/"), body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Keep the server's log out of the test's output."""

        return Handler
