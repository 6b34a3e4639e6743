"""A receiver that keeps what Alertmanager tells it."""

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
class Told:
    """One alert of a notification.

    Attributes:
        receiver: the name of the receiver that was told.
        status: `firing` or `resolved`.
        labels: all its labels, `alertname` among them.
        annotations: its summary, description, runbook's address.
    """

    receiver: str
    status: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class Notification:
    """One message of Alertmanager's: the alerts of a group.

    Attributes:
        receiver: the name of the receiver, from the address that was posted to.
        status: `firing` while any alert of the group fires, else `resolved`.
        group_labels: what the group's alerts were grouped by.
        alerts: the group's alerts.
    """

    receiver: str
    status: str
    group_labels: Mapping[str, str]
    alerts: Sequence[Told]

    @classmethod
    def of(cls, receiver: str, body: Mapping[str, Any]) -> Self:
        """Reads what Alertmanager posts, version 4 of its format."""
        alerts = [
            Told(receiver, alert["status"], alert["labels"], alert["annotations"])
            for alert in body["alerts"]
        ]
        return cls(receiver, body["status"], body["groupLabels"], alerts)


class Webhook:
    """An HTTP server on loopback that keeps the notifications it is posted.

    Any number of receivers share it: each has an address of its own. A test tells its alerts apart
    by their labels:

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
        """Returns the address to post a receiver's notifications to."""
        return f"http://{LOOPBACK}:{self._server.server_port}/{receiver}"

    def notifications(self) -> list[Notification]:
        """Returns all notifications so far, in the order in which they came."""
        with self._lock:
            return list(self._kept)

    def told(self, status: str | None = None, /, **labels: str) -> list[Told]:
        """Returns the alerts so far that have these labels, once for each time they were told.

        Args:
            status: only those told as `firing` or `resolved`.
            labels: each must be equal.
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
        """Waits until the notifications are as they should be.

        Args:
            predicate: judges all notifications so far.
            timeout: how long to wait, in seconds.

        Returns:
            The notifications that were accepted. A timeout fails the test, with all that came.
        """
        accepted, kept = poll(self.notifications, predicate, timeout)
        assert accepted, f"not told as expected within {timeout} s; what came: {kept}"
        return kept

    def wait_for_alert(self, status: str, /, timeout: float = WAIT_TIMEOUT, **labels: str) -> Told:
        """Waits until an alert was told, and returns the first such telling.

        Args:
            status: `firing` or `resolved`.
            timeout: how long to wait, in seconds. Running out of it fails the test.
            labels: each must be equal.
        """
        self.wait_for(lambda _: bool(self.told(status, **labels)), timeout)
        return self.told(status, **labels)[0]

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
            """Takes one notification a request."""

            def do_POST(self) -> None:
                """Keeps the body under the receiver that the path names."""
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                keep(Notification.of(self.path.removeprefix("/"), body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Says nothing: the test's output is not the server's log."""

        return Handler
