"""Jobs that cause alerts, all at once, and the alerts received on each way."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

from _servers import poll

from genmeter import GenerationMonitor
from genmeter.config.monitor import EndpointConfig, MonitorConfig
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from _alert_causes import Cause
    from _alertmanager import Alertmanager

    from genmeter.alerting.state import Alert

Labels = frozenset[tuple[str, str]]
PATIENCE = 90.0
_TURN = 0.25


def job_of(alert_id: str) -> str:
    """Return the name of the job that causes an alert."""
    return alert_id.replace(":", "-").replace("_", "-")


class Jobs:
    """A monitor for each cause, with its own runtime and endpoint; `with` runs them.

    Args:
        causes: By the alert's id.
        settings: The alerts' TOML file.
        handlers: Creates additional handlers for a monitor's alerts.

    Attributes:
        received: The alerts of each job's own handler, in order, by the alert's id.
        urls: The endpoint of each job.
    """

    def __init__(
        self,
        causes: Mapping[str, Cause],
        settings: Path,
        handlers: Callable[[], Sequence[Any]],
    ) -> None:
        self.received: dict[str, list[Alert]] = {id_: [] for id_ in causes}
        self.urls: dict[str, str] = {}
        self._causes = causes
        self._settings = settings
        self._handlers = handlers
        self._monitors: dict[str, GenerationMonitor] = {}
        self._stack = ExitStack()
        self._is_over = threading.Event()
        self._recording = threading.Thread(target=self._record, name="jobs")

    def __enter__(self) -> Self:
        with self._stack:
            for id_, cause in self._causes.items():
                self._stack.enter_context(fresh_runtime())
                self._monitors[id_] = self._monitor(id_, cause)
            self._recording.start()
            self._stack.callback(self._end)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        self._is_over.set()
        self._recording.join()

    def _monitor(self, id_: str, cause: Cause) -> GenerationMonitor:
        # The first monitor reads the names of the service and the exporters.
        with mock.patch.dict(os.environ, {"OTEL_SERVICE_NAME": job_of(id_), **cause.environment}):
            config = MonitorConfig(
                endpoint=EndpointConfig(port=0), alerts=self._settings, **cause.config
            )
            monitor = GenerationMonitor(
                alert_handlers=[self.received[id_].append, *self._handlers()],
                metrics_interval=1,
                config=config,
                **cause.keywords,
            )
        assert monitor.endpoint_url is not None
        self.urls[id_] = monitor.endpoint_url
        return monitor

    def _record(self) -> None:
        start = time.monotonic()
        for id_, monitor in self._monitors.items():
            self._causes[id_].record(monitor)
        due = {id_: cause.after for id_, cause in self._causes.items() if cause.later}
        while not self._is_over.wait(_TURN):
            for id_, after in [*due.items()]:
                cause = self._causes[id_]
                if cause.later is None or time.monotonic() - start < after:
                    continue
                cause.later(self._monitors[id_])
                due[id_] = after + 1
                if not cause.repeats:
                    del due[id_]


class Witness:
    """Polls an Alertmanager, and stores the results; `with` starts and stops it.

    Args:
        alertmanager: The Alertmanager.
    """

    def __init__(self, alertmanager: Alertmanager) -> None:
        self._alertmanager = alertmanager
        self._receivers: dict[Labels, set[str]] = {}
        self._inhibited: set[Labels] = set()
        self._is_over = threading.Event()
        self._polling = threading.Thread(target=self._poll, name="witness")

    def __enter__(self) -> Self:
        self._polling.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        self._polling.join()

    def receivers(self, labels: Mapping[str, str]) -> set[str]:
        """Wait for an alert with exactly these labels, and return its receivers."""
        wanted = frozenset(labels.items())
        arrived, _ = poll(lambda: wanted in self._receivers, bool, PATIENCE)
        seen = [dict(each) for each in self._receivers.copy() if ("job", labels["job"]) in each]
        assert arrived, f"{labels} never arrived; alerts of this job: {seen}"
        return self._receivers[wanted]

    def was_inhibited(self, labels: Mapping[str, str]) -> bool:
        """Wait until an alert with these labels is inhibited; return whether it was."""
        wanted = frozenset(labels.items())
        return poll(lambda: wanted in self._inhibited, bool, PATIENCE)[0]

    def _poll(self) -> None:
        while not self._is_over.wait(_TURN):
            for alert in self._alertmanager.alerts():
                labels = frozenset(alert["labels"].items())
                names = {receiver["name"] for receiver in alert["receivers"]}
                self._receivers[labels] = self._receivers.get(labels, set()) | names
                if alert["status"]["inhibitedBy"]:
                    self._inhibited.add(labels)
