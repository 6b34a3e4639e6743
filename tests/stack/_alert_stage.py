"""Jobs that cause alerts, all at once, and what was seen of their alerts on each way."""

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
    """Name the job that causes an alert."""
    return alert_id.replace(":", "-").replace("_", "-")


class Jobs:
    """A monitor for each cause, with a runtime and an endpoint of its own; `with` runs them.

    Args:
        causes: By the alert's id.
        settings: The alerts' TOML file.
        handlers: Makes handlers for a monitor's alerts, beside the one that is heard here.

    Attributes:
        heard: What each job's own handler was told, in order, by the alert's id.
        urls: Where each job can be scraped.
    """

    def __init__(
        self,
        causes: Mapping[str, Cause],
        settings: Path,
        handlers: Callable[[], Sequence[Any]],
    ) -> None:
        self.heard: dict[str, list[Alert]] = {id_: [] for id_ in causes}
        self.urls: dict[str, str] = {}
        self._causes = causes
        self._settings = settings
        self._handlers = handlers
        self._monitors: dict[str, GenerationMonitor] = {}
        self._stack = ExitStack()
        self._is_over = threading.Event()
        self._telling = threading.Thread(target=self._tell, name="jobs")

    def __enter__(self) -> Self:
        with self._stack:
            for id_, cause in self._causes.items():
                self._stack.enter_context(fresh_runtime())
                self._monitors[id_] = self._monitor(id_, cause)
            self._telling.start()
            self._stack.callback(self._end)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        self._is_over.set()
        self._telling.join()

    def _monitor(self, id_: str, cause: Cause) -> GenerationMonitor:
        # The names of services and the exporters are read when the first monitor is made.
        with mock.patch.dict(os.environ, {"OTEL_SERVICE_NAME": job_of(id_), **cause.environment}):
            config = MonitorConfig(
                endpoint=EndpointConfig(port=0), alerts=self._settings, **cause.config
            )
            monitor = GenerationMonitor(
                alert_handlers=[self.heard[id_].append, *self._handlers()],
                metrics_interval=1,
                config=config,
                **cause.keywords,
            )
        assert monitor.endpoint_url is not None
        self.urls[id_] = monitor.endpoint_url
        return monitor

    def _tell(self) -> None:
        start = time.monotonic()
        for id_, monitor in self._monitors.items():
            self._causes[id_].tell(monitor)
        due = {id_: cause.after for id_, cause in self._causes.items() if cause.later}
        while not self._is_over.wait(_TURN):
            for id_, after in [*due.items()]:
                cause = self._causes[id_]
                if cause.later is None or time.monotonic() - start < after:
                    continue
                cause.later(self._monitors[id_])
                due[id_] = after + 1
                if not cause.goes_on:
                    del due[id_]


class Witness:
    """Looks at an Alertmanager again and again, and keeps what it saw; `with` starts and ends it.

    Args:
        alertmanager: Whose alerts it looks at.
    """

    def __init__(self, alertmanager: Alertmanager) -> None:
        self._alertmanager = alertmanager
        self._receivers: dict[Labels, set[str]] = {}
        self._inhibited: set[Labels] = set()
        self._is_over = threading.Event()
        self._looking = threading.Thread(target=self._look, name="witness")

    def __enter__(self) -> Self:
        self._looking.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        self._looking.join()

    def receivers(self, labels: Mapping[str, str]) -> set[str]:
        """Say who was to hear of an alert with exactly these labels; waits until there is one."""
        wanted = frozenset(labels.items())
        came, _ = poll(lambda: wanted in self._receivers, bool, PATIENCE)
        seen = [dict(each) for each in self._receivers.copy() if ("job", labels["job"]) in each]
        assert came, f"{labels} never came; of this job these did: {seen}"
        return self._receivers[wanted]

    def was_inhibited(self, labels: Mapping[str, str]) -> bool:
        """Say whether an alert with these labels was ever inhibited; waits until it was."""
        wanted = frozenset(labels.items())
        return poll(lambda: wanted in self._inhibited, bool, PATIENCE)[0]

    def _look(self) -> None:
        while not self._is_over.wait(_TURN):
            for alert in self._alertmanager.alerts():
                labels = frozenset(alert["labels"].items())
                names = {receiver["name"] for receiver in alert["receivers"]}
                self._receivers[labels] = self._receivers.get(labels, set()) | names
                if alert["status"]["inhibitedBy"]:
                    self._inhibited.add(labels)
