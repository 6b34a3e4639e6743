"""Alerts from the process straight to an Alertmanager, where there is no Prometheus to send them."""

from __future__ import annotations

import json
import re
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from genmeter import clock
from genmeter.alerting._alertmanager_http import Credentials, Endpoint
from genmeter.alerting._alertmanager_peer import AlertmanagerClient, Key, State
from genmeter.alerting.notify import AlertReceiver
from genmeter.errors import ConfigError, ExportError

if TYPE_CHECKING:
    from pathlib import Path

    from genmeter.alerting.state import Alert
    from genmeter.config.monitor import MonitorConfig

__all__ = ["AlertmanagerHandler", "alertmanager_handlers"]

_INTERVALS = 4  # evaluations that an alert outlives, as Prometheus has it
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = ("alertname", "severity", "job")


class AlertmanagerHandler(AlertReceiver):
    """Posts alerts to API v2 of every given Alertmanager, with the labels of the Prometheus rules.

    Give it to a monitor in ``alert_handlers``, or set ``GENMETER_ALERTMANAGER_URL``. Each
    Alertmanager gets every alert, on a thread of its own, so that one that is down delays neither
    the others nor the monitor. What fails is tried again after 1 s and up to 30 s, unless it was
    refused (a 4xx status other than 408 and 429, or a redirect); of each alert only the latest
    state waits.

    While an alert fires it is posted at every evaluation, to end later by itself. So one that
    still fires when the job ends is taken for resolved ``ends_after`` seconds later at the
    earliest, and never before it is.

    A failure is logged when it begins and raised by the next call, for the monitor to count.

    Args:
        urls: The Alertmanagers, as ``http://host:9093`` or ``https://user:password@host/prefix``;
            all peers of a cluster, not a balancer before them.
        labels: Labels for every alert, such as ``{"cluster": "a"}``, unless it has them itself.
        username: For basic authentication, at every address that names no user.
        password: Of that user.
        password_file: A file that holds it, read anew for every post.
        bearer_token: For token authentication.
        bearer_token_file: A file that holds it, read anew for every post.
        ca_file: PEM file of whom to trust; None for the system's.
        cert_file: PEM file of the client's certificate.
        key_file: Of its key, where ``cert_file`` does not hold it.
        verify: Whether to check the server's certificate.
        timeout: Seconds that each step of a post may take.
        ends_after: Least seconds for which Alertmanager takes an alert for firing after it has
            heard of it; at least four evaluations.
        generator_url: Where the source of an alert can be seen, such as a dashboard's address.

    Raises:
        ConfigError: An argument that cannot be used, or a file that cannot be read.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        labels: Mapping[str, str] | None = None,
        username: str | None = None,
        password: str | None = None,
        password_file: str | Path | None = None,
        bearer_token: str | None = None,
        bearer_token_file: str | Path | None = None,
        ca_file: str | Path | None = None,
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
        verify: bool = True,
        timeout: float = 10,
        ends_after: float = 300,
        generator_url: str = "",
    ) -> None:
        _check_seconds("timeout", timeout)
        _check_seconds("ends_after", ends_after)
        if not isinstance(generator_url, str):
            raise ConfigError(f"generator_url is {generator_url!r}; give an address")
        credentials = Credentials(
            username=username,
            password=password,
            password_file=password_file,
            bearer_token=bearer_token,
            bearer_token_file=bearer_token_file,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            verify=verify,
        )
        endpoints = [Endpoint(url, name, credentials) for name, url in _named(urls)]
        self._labels = _checked_labels(labels)
        self._ends_after = ends_after
        self._generator_url = generator_url
        self._interval = 0.0
        self._shown = ", ".join(endpoint.shown for endpoint in endpoints)
        self._clients = [AlertmanagerClient(endpoint, timeout) for endpoint in endpoints]
        for client in self._clients:
            weakref.finalize(self, client.close).atexit = False

    def __repr__(self) -> str:
        return f"<AlertmanagerHandler for {self._shown}>"

    def __call__(self, alert: Alert) -> None:
        """Have an alert sent that starts to fire, or is resolved.

        Args:
            alert: What to send.

        Raises:
            ExportError: An Alertmanager did not take an earlier alert; this one is sent all the
                same.
        """
        self._send([alert])

    def refresh(self, alerts: Sequence[Alert], interval: float) -> None:
        """Have Alertmanager take for firing what still does, for longer.

        Args:
            alerts: All that fire now.
            interval: Seconds until the next call; 0 where nobody knows.

        Raises:
            ExportError: An Alertmanager did not take an earlier alert; these are sent all the
                same.
        """
        self._interval = interval
        self._send(alerts)

    def flush(self, timeout: float) -> bool:
        """Wait until every Alertmanager has taken what waits for it.

        What was not taken in time is sent after the next evaluation at the earliest, and so never
        where the monitor has ended.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether all was taken in time.

        Raises:
            ExportError: Nothing waits any more, but an Alertmanager did not take an alert, or not
                at once, since the last call.
        """
        deadline = time.monotonic() + min(max(0.0, timeout), threading.TIMEOUT_MAX)
        for client in self._clients:
            client.retry_now()
        taken = []
        for number, client in enumerate(self._clients):
            now = time.monotonic()
            # One that this thread has to serve must leave time for the others.
            share = 1 if client.is_running else len(self._clients) - number
            taken.append(client.finish(now + (deadline - now) / share))
        if not all(taken):
            return False
        _raise_any(self._problems())
        return True

    def _send(self, alerts: Sequence[Alert]) -> None:
        states = dict(self._state(alert) for alert in alerts)
        problems = self._problems()
        for client in self._clients:
            client.enqueue(states)
        _raise_any(problems)

    def _problems(self) -> list[str]:
        return [problem for client in self._clients if (problem := client.take_problem())]

    def _state(self, alert: Alert) -> tuple[Key, State]:
        labels = {**self._labels, "alertname": alert.name, **alert.labels}
        starts = alert.starts_at or alert.timestamp
        if alert.status == "resolved":
            expires, ends = None, max(starts, alert.timestamp)
        else:
            expires = clock.now() + max(self._ends_after, _INTERVALS * self._interval)
            ends = datetime.fromtimestamp(expires, UTC)
        posted: dict[str, Any] = {
            "labels": labels,
            "annotations": alert.annotations or {"summary": alert.message},
            "startsAt": _rfc3339(starts),
            "endsAt": _rfc3339(ends),
        }
        if self._generator_url:
            posted["generatorURL"] = self._generator_url
        return frozenset(labels.items()), State(json.dumps(posted), expires)


def alertmanager_handlers(config: MonitorConfig) -> list[AlertmanagerHandler]:
    """Make the handler that a configuration asks for; none where it names no Alertmanager.

    Raises:
        ConfigError: An address that cannot be used.
    """
    if not config.alertmanager_urls:
        return []
    try:
        return [AlertmanagerHandler(config.alertmanager_urls)]
    except ConfigError as error:
        raise ConfigError(
            f"MonitorConfig.alertmanager_urls (GENMETER_ALERTMANAGER_URL): {error}"
        ) from error


def _raise_any(problems: Sequence[str]) -> None:
    if problems:
        raise ExportError(f"alerts did not reach the Alertmanager at {'; '.join(problems)}")


def _rfc3339(when: datetime) -> str:
    return when.astimezone(UTC).isoformat()


def _named(urls: object) -> list[tuple[str, object]]:
    if isinstance(urls, str):
        return [("urls", urls)]
    if not isinstance(urls, Sequence) or not urls:
        raise ConfigError(
            f"urls is {urls!r}; give the address of an Alertmanager, such as "
            "'http://alertmanager:9093', or a list of them"
        )
    return [(f"urls[{number}]", url) for number, url in enumerate(urls)]


def _checked_labels(labels: object) -> dict[str, str]:
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise ConfigError(f"labels is {labels!r}; give a dict of names to texts")
    for name, value in labels.items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name) or name in _OURS:
            raise ConfigError(
                f"labels names {name!r}; give letters, digits and underscores, no digit first, "
                f"and none of {', '.join(_OURS)}, which every alert has itself"
            )
        if not isinstance(value, str) or not value:
            raise ConfigError(f"labels[{name!r}] is {value!r}; give a text that is not empty")
    return dict(labels)


def _check_seconds(name: str, value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and 0 < value <= threading.TIMEOUT_MAX):  # type: ignore[operator]
        raise ConfigError(f"{name} is {value!r}; give seconds above 0")
