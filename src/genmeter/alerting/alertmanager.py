"""Alerts from the process straight to an Alertmanager, where there is no Prometheus to send them."""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import math
import random
import re
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from opentelemetry import context as otel_context

from genmeter import clock
from genmeter._version import __version__
from genmeter.alerting.notify import AlertReceiver
from genmeter.clock import seconds_left
from genmeter.config.checks import TEXT, number
from genmeter.errors import ConfigError, ExportError
from genmeter.pipeline.worker import Worker, catch_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from requests import PreparedRequest, Response
    from requests.adapters import HTTPAdapter

    from genmeter.alerting.state import Alert
    from genmeter.config.monitor import MonitorConfig

__all__ = ["AlertmanagerHandler", "alertmanager_handlers"]

_logger = logging.getLogger("genmeter")

_API = "/api/v2/alerts"
_INTERVALS = 4  # evaluations that an alert outlives, as Prometheus has it
_BATCH = 64  # alerts in one post
_FIRST_DELAY = 1.0
_MAX_DELAY = 30.0
_POLL = 0.005
_MAX_READ = 500  # bytes of an answer, for a log line
_TIME = number(1e-3, threading.TIMEOUT_MAX, what="seconds")
_RETRIED = (408, 429)  # besides every 5xx; any other refusal is final
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED_LABELS = ("alertname", "severity", "job")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_SECRETS = ("password", "bearer_token")

Key = frozenset[tuple[str, str]]
"""The labels of an alert, which are its identity."""


class AlertmanagerHandler(AlertReceiver):
    """Posts alerts to API v2 of every given Alertmanager, with the labels of the Prometheus rules.

    Pass it to a monitor in ``alert_handlers``, or set ``GENMETER_ALERTMANAGER_URL``. Each
    Alertmanager gets every alert, on a thread of its own, so that one that is down delays neither
    the others nor the monitor. A failed post is retried after 1 s and up to 30 s, unless it was
    refused (a 4xx status other than 408 and 429, or a redirect); of each alert only the latest
    state is queued.

    While an alert fires it is posted at every evaluation, with an end in the future. So one that
    still fires when the job ends is taken for resolved ``ends_after`` seconds later at the
    earliest, and never before it is.

    A failure is logged when it begins and raised by the next call, for the monitor to count.

    Args:
        urls: The Alertmanagers, as ``http://host:9093`` or ``https://user:password@host/prefix``;
            all peers of a cluster, not a balancer before them.
        labels: Labels for every alert, such as ``{"cluster": "a"}``, unless it has them itself.
        username: For basic authentication, at every address that names no user.
        password: The user's password.
        password_file: A file with the password, read anew for every post.
        bearer_token: For token authentication.
        bearer_token_file: A file with the token, read anew for every post.
        ca_file: PEM file of the authorities to trust; None for the system's.
        cert_file: PEM file of the client's certificate.
        key_file: PEM file of its key, where ``cert_file`` does not hold it.
        verify: Whether to check the server's certificate.
        timeout: Seconds that one post may take.
        ends_after: Least seconds for which Alertmanager takes an alert for firing after a post; at
            least four evaluations.
        generator_url: Where the source of an alert can be seen, such as a dashboard's address.

    Raises:
        ConfigError: An argument is invalid, or a file cannot be read.
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
        _TIME("timeout", timeout)
        _TIME("ends_after", ends_after)
        TEXT("generator_url", generator_url)
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
        self._labels = _checked_labels(labels)
        self._ends_after = ends_after
        self._generator_url = generator_url
        self._interval = 0.0
        self._clients = [
            AlertmanagerClient(url, name, credentials, timeout) for name, url in _named(urls)
        ]
        for client in self._clients:
            weakref.finalize(self, client.close).atexit = False

    def __repr__(self) -> str:
        return f"<AlertmanagerHandler for {', '.join(each.shown for each in self._clients)}>"

    def __call__(self, alert: Alert) -> None:
        """Queue an alert that starts to fire, or is resolved.

        Args:
            alert: The alert.

        Raises:
            ExportError: An earlier alert did not reach an Alertmanager; this one is sent all the
                same.
        """
        self._enqueue([alert])

    def refresh(self, alerts: Sequence[Alert], interval: float) -> None:
        """Queue all alerts that fire, so that Alertmanager takes them for firing for longer.

        Args:
            alerts: All that fire now.
            interval: Seconds until the next call; 0 where it is unknown.

        Raises:
            ExportError: An earlier alert did not reach an Alertmanager; these are sent all the
                same.
        """
        self._interval = interval
        self._enqueue(alerts)

    def flush(self, timeout: float) -> bool:
        """Wait until every Alertmanager has accepted all that is queued for it.

        Alerts that were not accepted in time are sent after the next evaluation at the earliest,
        and so never where the monitor has ended.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether all were accepted in time.

        Raises:
            ExportError: The queues are empty, but since the last call a post failed.
        """
        deadline = time.monotonic() + min(max(0.0, timeout), threading.TIMEOUT_MAX)
        for client in self._clients:
            client.retry_now()
        accepted = []
        for position, client in enumerate(self._clients):
            now = time.monotonic()
            # One that this thread has to serve must leave time for the others.
            share = 1 if client.is_running else len(self._clients) - position
            accepted.append(client.flush(now + (deadline - now) / share))
        if not all(accepted):
            return False
        _raise_any(self._problems())
        return True

    def _enqueue(self, alerts: Sequence[Alert]) -> None:
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
    """Return the handler that a configuration asks for; none where it names no Alertmanager.

    Raises:
        ConfigError: An address is invalid.
    """
    if not config.alertmanager_urls:
        return []
    try:
        return [AlertmanagerHandler(config.alertmanager_urls)]
    except ConfigError as error:
        raise ConfigError(
            f"MonitorConfig.alertmanager_urls (GENMETER_ALERTMANAGER_URL): {error}"
        ) from error


# --- one Alertmanager ------------------------------------------------------------------------------


class State(NamedTuple):
    """The latest state of one alert.

    Attributes:
        text: The alert as JSON of API v2.
        expires: Unix time in seconds from which on sending it is of no use; None for never.
    """

    text: str
    expires: float | None


class AlertmanagerClient:
    """Posts the latest state of each alert to one Alertmanager, and retries after a failure.

    A state is kept until it is accepted, refused for good, replaced by a later one, or expired.
    The worker's thread does not refer to the handler, so it does not keep that alive.

    Args:
        url: Such as ``https://alertmanager:9093/prefix``; may have ``user:password@``.
        name: The argument's name in messages.
        credentials: How to log in.
        timeout: Seconds that one post may take.

    Attributes:
        shown: The address without credentials.

    Raises:
        ConfigError: The address is invalid.
    """

    def __init__(self, url: object, name: str, credentials: Credentials, timeout: float) -> None:
        # Not at the first post: a child that is forked during an import waits for it for ever.
        import requests  # noqa: F401

        parts = _split(url, name)
        self.shown = urlunsplit(
            (parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", "")
        )
        self._credentials = _with_user(credentials, parts, name)
        self._context = credentials.tls() if parts.scheme == "https" else None
        self._timeout = timeout
        self._begin()
        self._worker: Worker[None] = Worker(
            lambda _: self._send(),
            name=f"genmeter-alertmanager-{self.shown}",
            on_end=lambda: self._send(is_last=True),
            on_reset=self._begin,
            tick=self._send,
            capacity=1,  # an item only wakes the thread
        )

    def _begin(self) -> None:
        """Start with nothing; in a forked child the queue and the connection are the parent's."""
        self._lock = threading.RLock()  # a signal handler may come back to it
        self._unsent: dict[Key, State] = {}
        self._connection: Any = None
        self._is_paused = False
        self._failures = 0
        self._retry_at = 0.0
        self._problem: str | None = None
        self._unraised: str | None = None

    @property
    def is_running(self) -> bool:
        """Whether the worker has a thread."""
        return self._worker.is_running

    def enqueue(self, states: Mapping[Key, State]) -> None:
        """Queue states, each in place of an earlier one of the same alert; does not wait.

        It also resumes what a :meth:`flush` that timed out has paused.
        """
        with self._lock:
            self._unsent.update(states)
        self._resume()

    def take_problem(self) -> str | None:
        """Return the last failure since the last call; None where there was none."""
        problem, self._unraised = self._unraised, None
        return None if problem is None else f"{self.shown}: {problem}"

    def close(self) -> None:
        """Have the thread end after one more attempt to send the queue; takes no lock."""
        self._worker.close()

    def retry_now(self) -> None:
        """Retry now, without the rest of the delay after a failure."""
        self._failures, self._retry_at = 0, 0.0
        self._resume()

    def flush(self, deadline: float) -> bool:
        """Wait until all is sent; at the deadline pause what is left until the next enqueue.

        Where there is no thread, as none can be started while the interpreter ends, the caller's
        sends.

        Args:
            deadline: As ``time.monotonic()`` counts.

        Returns:
            Whether nothing is left.
        """
        while self._unsent and (left := seconds_left(deadline)) > 0:
            if not self._worker.is_running:
                self._send(deadline)
            time.sleep(min(_POLL, left))
        if not self._unsent:
            return True
        self._is_paused = True
        stream: socket.socket | None = getattr(self._connection, "sock", None)
        if stream is not None:
            with suppress(OSError):  # the post under way has ended
                stream.shutdown(socket.SHUT_RDWR)
        self._note(f"the flush timed out with {len(self._unsent)} alerts pending")
        return False

    def _resume(self) -> None:
        self._is_paused = False
        if self._unsent:
            self._worker.put(None)

    def _send(self, deadline: float = math.inf, *, is_last: bool = False) -> None:
        """Post the queue, a batch at a time, until that fails; on the worker's thread."""
        while not self._is_paused and time.monotonic() < deadline:
            batch = self._next_batch()
            if not batch or (time.monotonic() < self._retry_at and not is_last):
                return
            try:
                problem, may_retry = self._post(
                    batch, min(deadline, time.monotonic() + self._timeout)
                )
            except Exception as error:
                if self._is_paused:  # flush() has cut the post off
                    return
                problem, may_retry = _reason(error), True
                self._reload_certificates()
            self._note(problem)  # before flush() finds nothing left, and asks for it
            if may_retry:
                self._back_off()
                return
            self._failures = 0
            with self._lock:
                for key, state in batch.items():
                    if self._unsent.get(key) is state:  # not replaced meanwhile
                        del self._unsent[key]

    def _next_batch(self) -> dict[Key, State]:
        now = clock.now()
        with self._lock:
            for key, state in tuple(self._unsent.items()):
                if state.expires is not None and state.expires <= now:
                    self._unsent.pop(key, None)
            return dict(list(self._unsent.items())[:_BATCH])

    def _back_off(self) -> None:
        longest = min(_MAX_DELAY, _FIRST_DELAY * 2.0 ** min(self._failures, 16))
        self._failures += 1
        # Many processes that lost the same Alertmanager should not come back in step.
        delay = random.uniform(longest / 2, longest)  # noqa: S311
        self._retry_at = time.monotonic() + delay
        self._worker.tick_in(delay)

    def _reload_certificates(self) -> None:
        if self._context is not None:
            with suppress(ConfigError):  # while they are being replaced
                self._context = self._credentials.tls()

    def _note(self, problem: str | None) -> None:
        before, self._problem = self._problem, problem
        with catch_all():  # a logging handler may raise anything
            if problem is not None and before is None:
                _logger.warning(
                    "alerts do not reach the Alertmanager at %s: %s; further failures are not "
                    "logged until it accepts alerts again",
                    self.shown,
                    problem,
                )
            elif problem is None and before is not None:
                _logger.info("the Alertmanager at %s accepts alerts again", self.shown)
        if problem is not None:
            self._unraised = problem

    def _post(self, batch: Mapping[Key, State], deadline: float) -> tuple[str | None, bool]:
        """Post a batch.

        Returns:
            Why it was not accepted, None where it was; and whether a retry may succeed.
        """
        from requests import Request
        from urllib3.util import Timeout

        body = f"[{','.join(state.text for state in batch.values())}]".encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"genmeter/{__version__}",
            "Connection": "close",
            **self._credentials.headers(),
        }
        request = Request("POST", self.shown + _API, headers, data=body).prepare()
        timeout: Any = Timeout(total=max(_POLL, seconds_left(deadline)))
        # The key that the instrumentations of requests and urllib3 look at: a post makes no span.
        token = otel_context.attach(otel_context.set_value("suppress_instrumentation", True))
        try:
            with (
                closing(_adapter(self._context, self._connect)) as adapter,
                adapter.send(request, stream=True, timeout=timeout) as response,
            ):
                status = response.status_code
                if status < HTTPStatus.MULTIPLE_CHOICES:
                    return None, False
                is_passing = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _RETRIED
                return f"it answered {status} {_text(response, deadline)}".rstrip(), is_passing
        finally:
            self._connection = None
            otel_context.detach(token)

    def _connect(self, connection: Any, connect: Callable[[], None]) -> None:
        self._connection = connection
        connect()
        connection.is_verified = True  # else urllib3 warns of each post with verify=False
        if self._is_paused:
            raise TimeoutError("the flush timed out before anything was sent")


def _adapter(
    context: ssl.SSLContext | None, connect: Callable[[Any, Callable[[], None]], None]
) -> HTTPAdapter:
    """Return an adapter of requests for one post.

    It is used without a ``Session``, which would ask proxies, read netrc and variables, and read
    the whole of a redirect's body.

    Args:
        context: Of TLS connections.
        connect: Called with a connection and its own method to connect.
    """
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def get_connection_with_tls_context(
            self, request: PreparedRequest, *_: Any, **__: Any
        ) -> Any:
            pool: Any = self.poolmanager.connection_from_url(str(request.url))
            base: Any = pool.ConnectionCls

            class Connection(base):  # type: ignore[misc]
                def connect(self) -> None:
                    connect(self, super().connect)

            pool.ConnectionCls = Connection
            return pool

        def cert_verify(self, *_: Any) -> None:
            """Leave it to the context: requests would trust authorities of its own too."""

    adapter = Adapter()
    adapter.init_poolmanager(1, 1, ssl_context=context)
    return adapter


def _text(response: Response, deadline: float) -> str:
    """Return where a redirect leads to, or the beginning of an error's body."""
    if response.is_redirect:
        return (
            f"to {response.headers['Location']}, and redirects are not followed; use that address"
        )
    read = bytearray()
    for byte in response.iter_content(1):
        read += byte
        if len(read) >= _MAX_READ or time.monotonic() >= deadline:
            break
    return " ".join(read.decode(errors="replace").split())


def _reason(error: Exception) -> str:
    """Return an error's text; where requests has wrapped an error of the system's, that one's."""
    from requests import RequestException

    cause: BaseException | None = error
    while cause is not None and (
        isinstance(cause, RequestException) or not isinstance(cause, OSError | ConfigError)
    ):
        cause = cause.__cause__ or cause.__context__
    cause = cause or error
    return f"{type(cause).__name__}: {cause}"


# --- how to log in, whom to trust ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, repr=False)
class Credentials:
    """How to log in, and whom to trust; see the arguments of :class:`AlertmanagerHandler`.

    Raises:
        ConfigError: A value is invalid, or a file cannot be read.
    """

    username: str | None = None
    password: str | None = None
    password_file: str | Path | None = None
    bearer_token: str | None = None
    bearer_token_file: str | Path | None = None
    ca_file: str | Path | None = None
    cert_file: str | Path | None = None
    key_file: str | Path | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        """Check every field, and read every file once."""
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if each.name == "verify":
                if not isinstance(value, bool):
                    raise ConfigError(f"verify must be True or False, got {value!r}")
            elif value is not None and not (isinstance(value, str | Path) and str(value)):
                shown = "another value" if each.name in _SECRETS else repr(value)
                raise ConfigError(f"{each.name} must be a non-empty string or None, got {shown}")
        self._check_together()
        self.headers()
        if self.ca_file is not None or self.cert_file is not None:
            self.tls()

    def headers(self) -> dict[str, str]:
        """Return the header that logs in; a secret in a file is read anew, since it may be rotated.

        Raises:
            ConfigError: A file cannot be read, or has no usable secret.
        """
        if self.username is not None:
            password = self.password or _secret("password_file", self.password_file)
            pair = f"{self.username}:{password}".encode()
            return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
        if self.bearer_token is None and self.bearer_token_file is None:
            return {}
        token = self.bearer_token or _secret("bearer_token_file", self.bearer_token_file)
        if not _VISIBLE.fullmatch(token):
            raise ConfigError("the bearer token must be visible ASCII characters alone")
        return {"Authorization": f"Bearer {token}"}

    def tls(self) -> ssl.SSLContext:
        """Return a context for TLS connections, from the files as they are now.

        Raises:
            ConfigError: A file cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise ConfigError(_unreadable("ca_file", self.ca_file, error)) from error
        if self.cert_file is not None:
            try:
                # Without a password OpenSSL would ask for one on the terminal.
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: "")
            except OSError as error:
                raise ConfigError(
                    "cert_file and key_file must be PEM files of a certificate and its key without "
                    f"a passphrase, got {str(self.cert_file)!r} and {self.key_file!r}: {error}"
                ) from error
        # urllib3 checks the name itself then; its 1.26 could not connect to an IP address otherwise.
        context.check_hostname = False
        if not self.verify:
            context.verify_mode = ssl.CERT_NONE
        return context

    def _check_together(self) -> None:
        has_user = self.username is not None
        has_password = self.password is not None or self.password_file is not None
        has_token = self.bearer_token is not None or self.bearer_token_file is not None
        for name in _SECRETS:
            if getattr(self, name) is not None and getattr(self, f"{name}_file") is not None:
                raise ConfigError(f"{name} and {name}_file must not both be set; remove one")
        if has_password and has_token:
            raise ConfigError("a password and a bearer token must not both be set; remove one")
        if has_user != has_password:
            raise ConfigError(
                "username must be set together with password or password_file, got "
                f"{'no password' if has_user else 'no username'}"
            )
        if ":" in (self.username or ""):
            raise ConfigError(f"username must not contain a colon, got {self.username!r}")
        if self.key_file is not None and self.cert_file is None:
            raise ConfigError(
                f"key_file must be set together with cert_file, got {self.key_file!r}"
            )


# --- checks of arguments ---------------------------------------------------------------------------


def _named(urls: object) -> list[tuple[str, object]]:
    if isinstance(urls, str):
        return [("urls", urls)]
    if not isinstance(urls, Sequence) or not urls:
        raise ConfigError(
            f"urls must be an address such as 'http://alertmanager:9093', or a list, got {urls!r}"
        )
    return [(f"urls[{number}]", url) for number, url in enumerate(urls)]


def _split(url: object, name: str) -> SplitResult:
    # A text that cannot be split may hold a password anywhere.
    shown = "a text that may hold a password" if "@" in str(url) else repr(url)
    problem = (
        f"{name} must be an http or https address such as 'http://alertmanager:9093', without a "
        f"query and without {_API}, got {shown}"
    )
    if not isinstance(url, str) or not _VISIBLE.fullmatch(url):
        raise ConfigError(problem)
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and parts.port != 0 and bool(parts.hostname)
    except ValueError:
        raise ConfigError(problem) from None  # its text may have the password in it
    if not is_usable or parts.query or parts.fragment or parts.path.rstrip("/").endswith(_API):
        raise ConfigError(problem)
    return parts


def _checked_labels(labels: object) -> dict[str, str]:
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise ConfigError(f"labels must be a dict of names to texts, got {labels!r}")
    for name, value in labels.items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name) or name in _RESERVED_LABELS:
            raise ConfigError(
                "labels must have names of letters, digits and underscores, no digit first, and "
                f"none of {', '.join(_RESERVED_LABELS)}, which every alert has, got {name!r}"
            )
        if not isinstance(value, str) or not value:
            raise ConfigError(f"labels[{name!r}] must be a non-empty string, got {value!r}")
    return dict(labels)


def _secret(name: str, path: Any) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(_unreadable(name, path, error)) from error
    if not text:
        raise ConfigError(f"{name} must hold a secret, got {str(path)!r}, which is empty")
    return text


def _unreadable(name: str, path: object, error: Exception) -> str:
    return f"{name} must be a readable file, got {str(path)!r}: {error}"


def _raise_any(problems: Sequence[str]) -> None:
    if problems:
        raise ExportError(f"alerts did not reach the Alertmanager at {'; '.join(problems)}")


def _with_user(credentials: Credentials, parts: SplitResult, name: str) -> Credentials:
    if parts.username is None and parts.password is None:
        return credentials
    if credentials.headers():
        raise ConfigError(f"{name} must name no user where other arguments do; remove one of them")
    user, password = unquote(parts.username or "") or None, unquote(parts.password or "") or None
    try:
        return dataclasses.replace(credentials, username=user, password=password)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _rfc3339(when: datetime) -> str:
    return when.astimezone(UTC).isoformat()
