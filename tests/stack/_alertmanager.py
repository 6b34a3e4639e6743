"""A real Alertmanager, with the configuration of a test."""

from __future__ import annotations

import base64
import json
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from _servers import LOOPBACK, Server, free_port, poll, program, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

WAIT_TIMEOUT = 30.0
SILENCE_TIME = timedelta(hours=1)


class Alertmanager(Server):
    """An Alertmanager on loopback, alone in its cluster.

    Attributes:
        url: the server's address with its path prefix, such as `http://127.0.0.1:41234`.
    """

    def __init__(
        self,
        folder: Path,
        config: Path | Mapping[str, Any],
        *,
        path_prefix: str = "",
        web_config: Mapping[str, Any] | None = None,
        auth: tuple[str, str] | None = None,
        ca: Path | None = None,
    ) -> None:
        """Store the settings.

        Args:
            folder: an empty folder for configuration, data and log.
            config: the configuration file, or its content.
            path_prefix: the prefix of its pages, such as `/alerts`.
            web_config: the content of `--web.config.file`: TLS, basic auth. Its paths must be
                absolute.
            auth: the user and password of this object's own requests.
            ca: the authority's certificate, if `web_config` enables TLS.
        """
        super().__init__("alertmanager", folder)
        self.url = ""
        self._config = config
        self._path_prefix = path_prefix
        self._web_config = web_config
        self._headers = {"Content-Type": "application/json"}
        if auth is not None:
            credentials = base64.b64encode(":".join(auth).encode()).decode()
            self._headers["Authorization"] = f"Basic {credentials}"
        self._tls = None if ca is None else ssl.create_default_context(cafile=str(ca))

    def command(self) -> list[str | Path]:
        """Choose a port, write the configuration, and return the command line."""
        port = free_port()
        scheme = "http" if self._tls is None else "https"
        self.url = f"{scheme}://{LOOPBACK}:{port}{self._path_prefix}"
        config = self._config
        if not isinstance(config, Path):
            config = self._written("alertmanager.json", config)
        command: list[str | Path] = [
            program("prometheus-alertmanager"),
            f"--config.file={config}",
            f"--storage.path={self.folder / 'data'}",
            f"--web.listen-address={LOOPBACK}:{port}",
            f"--web.external-url={self.url}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ]
        if self._web_config is not None:
            command.append(f"--web.config.file={self._written('web.json', self._web_config)}")
        return command

    def is_ready(self) -> bool:
        """Return whether it accepts alerts."""
        try:
            return self._request("GET", "/-/ready")[0] == 200
        except OSError:
            return False

    def post(self, alerts: Iterable[Mapping[str, Any]]) -> None:
        """Post alerts to API v2, with `labels` and optionally `annotations` and `endsAt`."""
        self._api("POST", "alerts", list(alerts))

    def alerts(self, **labels: str) -> list[dict[str, Any]]:
        """Return its alerts, including silenced and inhibited ones.

        Args:
            labels: labels that must be equal.

        Returns:
            The API's objects: `labels`, `annotations`, `startsAt`, `endsAt`, `receivers`, and a
            `status` with `state`, `silencedBy` and `inhibitedBy`.
        """
        matchers = [("filter", f"{name}={json.dumps(value)}") for name, value in labels.items()]
        found: list[dict[str, Any]] = self._api("GET", f"alerts?{urlencode(matchers)}")
        return found

    def wait_for(
        self,
        predicate: Callable[[list[dict[str, Any]]], bool] = bool,
        timeout: float = WAIT_TIMEOUT,
        **labels: str,
    ) -> list[dict[str, Any]]:
        """Wait until its alerts are as expected.

        Args:
            predicate: checks the alerts; the default waits until there are any.
            timeout: how long to wait, in seconds.
            labels: as in `alerts`.

        Returns:
            The alerts that were accepted. A timeout fails the test, with the last ones.
        """
        accepted, found = poll(lambda: self.alerts(**labels), predicate, timeout)
        assert accepted, f"the alerts {labels} were not as expected within {timeout} s: {found}"
        return found

    def silence(self, matchers: Mapping[str, str]) -> str:
        """Silence alerts with these labels for an hour, and return the silence's id."""
        now = datetime.now(UTC)
        silence = {
            "matchers": [
                {"name": name, "value": value, "isRegex": False, "isEqual": True}
                for name, value in matchers.items()
            ],
            "startsAt": now.isoformat(),
            "endsAt": (now + SILENCE_TIME).isoformat(),
            "createdBy": "test",
            "comment": "test",
        }
        silence_id: str = self._api("POST", "silences", silence)["silenceID"]
        return silence_id

    def _written(self, name: str, content: Mapping[str, Any]) -> Path:
        path = self.folder / name
        # JSON is YAML too.
        path.write_text(json.dumps(content))
        return path

    def _api(self, method: str, path: str, content: object = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        status, answer = self._request(method, f"/api/v2/{path}", body)
        assert status == 200, f"{method} {path} {content} answered {status}: {answer}"
        return json.loads(answer) if answer else None

    def _request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        return request(method, f"{self.url}{path}", body, self._headers, self._tls)
