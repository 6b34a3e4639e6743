"""Sends alerts from the process directly to Alertmanagers, for jobs without a Prometheus."""

from __future__ import annotations

import base64
import dataclasses
import functools
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
from genmeter.config.checks import NAME, PATH, TEXT, Check, is_a, number
from genmeter.errors import ConfigError, ExportError
from genmeter.events.values import UNREADABLE, safe_repr, shown
from genmeter.pipeline.worker import Worker, catch_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from genmeter.alerting.state import Alert
    from genmeter.config.monitor import MonitorConfig

__all__ = ["AlertmanagerHandler", "alertmanager_handlers"]

_logger = logging.getLogger("genmeter")

_API = "/api/v2/alerts"
_INTERVALS = 4  # evaluations that an alert outlives, as in Prometheus
_BATCH = 64  # alerts in one post
_FIRST_DELAY = 1.0
_MAX_DELAY = 30.0
_POLL = 0.005
_MAX_READ = 500  # bytes of a response, for a log line
_TIME = number(1e-3, threading.TIMEOUT_MAX, what="seconds")
_RETRIED = (408, 429)  # and every 5xx; other errors are final
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED_LABELS = ("alertname", "severity", "job")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_SECRETS = ("password", "bearer_token")

Labels = frozenset[tuple[str, str]]
"""The labels of an alert, which identify it."""


class AlertmanagerHandler(AlertReceiver):
    """Posts alerts to API v2 of Alertmanagers, with the labels of the Prometheus rules.

    Pass it to a monitor in ``alert_handlers``, or set ``GENMETER_ALERTMANAGER_URL``. Each
    Alertmanager gets every alert from its own thread, so one that is down delays neither the others
    nor the monitor. A failed post is retried after 1 s, then with growing delays up to 30 s, unless
    it was rejected (a redirect, or a 4xx status other than 408 and 429). Only the latest state of
    each alert is queued.

    A firing alert is posted at every evaluation, with an end in the future. So an alert that fires
    when the job ends is resolved after ``ends_after`` seconds at the earliest.

    The first failure is logged; each failure is raised by the next call, for the monitor to count.

    Args:
        urls: The Alertmanagers, as ``http://host:9093`` or ``https://user:password@host/prefix``;
            all peers of a cluster, not a load balancer.
        labels: Labels for every alert, such as ``{"cluster": "a"}``; the alert's own labels win.
        username: For basic authentication, at all addresses without a user.
        password: The user's password.
        password_file: A file with the password; every post reads it.
        bearer_token: For token authentication.
        bearer_token_file: A file with the token; every post reads it.
        ca_file: PEM file of the trusted authorities; None for the system's.
        cert_file: PEM file of the client's certificate.
        key_file: PEM file of its key, if ``cert_file`` does not contain it.
        verify: Whether to check the server's certificate.
        timeout: Seconds that one post may take.
        ends_after: Minimum of seconds for which an alert keeps firing after a post; at least four
            evaluations.
        generator_url: Address of the source of the alerts, such as a dashboard.

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
        timeout = _TIME("timeout", timeout)
        ends_after = _TIME("ends_after", ends_after)
        generator_url = TEXT("generator_url", generator_url)
        access: dict[str, Any] = {
            "username": username,
            "password": password,
            "password_file": password_file,
            "bearer_token": bearer_token,
            "bearer_token_file": bearer_token_file,
            "ca_file": ca_file,
            "cert_file": cert_file,
            "key_file": key_file,
            "verify": verify,
        }
        credentials = Credentials(**access)
        cls = type(self)
        # A closure, so that nothing shows the secrets.
        self._remake: Callable[[], Callable[..., AlertmanagerHandler]] = lambda: functools.partial(
            cls,
            urls,
            labels=labels,
            **access,
            timeout=timeout,
            ends_after=ends_after,
            generator_url=generator_url,
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

    def __reduce__(self) -> tuple[Callable[..., AlertmanagerHandler], tuple[()]]:
        """Pickle the arguments, secrets included: each process posts over threads of its own."""
        return self._remake(), ()

    def __repr__(self) -> str:
        return f"<AlertmanagerHandler for {', '.join(each.shown for each in self._clients)}>"

    def __call__(self, alert: Alert) -> None:
        """Queue an alert that starts to fire, or is resolved.

        Args:
            alert: The alert.

        Raises:
            ExportError: An earlier alert did not reach an Alertmanager; this one is still sent.
        """
        self._enqueue([alert])

    def refresh(self, alerts: Sequence[Alert], interval: float) -> None:
        """Queue all firing alerts, so that Alertmanager extends them.

        Args:
            alerts: All firing alerts.
            interval: Seconds until the next call; 0 if unknown.

        Raises:
            ExportError: An earlier alert did not reach an Alertmanager; these are still sent.
        """
        self._interval = interval
        self._enqueue(alerts)

    def flush(self, timeout: float) -> bool:
        """Wait until every Alertmanager has accepted its queue.

        Alerts that are not accepted in time stay queued until the next evaluation; after the end of
        the monitor they are never sent.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether all alerts were accepted in time.

        Raises:
            ExportError: The queues are empty, but a post has failed since the last call.
        """
        deadline = time.monotonic() + min(max(0.0, timeout), threading.TIMEOUT_MAX)
        for client in self._clients:
            client.retry_now()
        accepted = []
        for position, client in enumerate(self._clients):
            now = time.monotonic()
            # A client without a thread posts on this one, and must leave time for the others.
            share = 1 if client.is_running else len(self._clients) - position
            accepted.append(client.flush(now + (deadline - now) / share))
        if not all(accepted):
            return False
        self._raise_problems()
        return True

    def _enqueue(self, alerts: Sequence[Alert]) -> None:
        states = dict(self._state(alert) for alert in alerts)
        try:
            self._raise_problems()
        finally:
            for client in self._clients:
                client.enqueue(states)

    def _raise_problems(self) -> None:
        problems = [problem for client in self._clients if (problem := client.take_problem())]
        if problems:
            raise ExportError(f"alerts did not reach the Alertmanager at {'; '.join(problems)}")

    def _state(self, alert: Alert) -> tuple[Labels, State]:
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
    """Return the handler for a configuration's Alertmanagers, if it has any.

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
        expires: Unix time in seconds after which it is dropped; None for never.
    """

    text: str
    expires: float | None


class AlertmanagerClient:
    """Posts the latest state of each alert to one Alertmanager, and retries after a failure.

    A state is kept until it is accepted, rejected, replaced by a later one, or expired. The worker's
    thread does not refer to the handler, so it does not keep the handler alive.

    Args:
        url: Such as ``https://alertmanager:9093/prefix``; may have ``user:password@``.
        name: The argument's name in messages.
        credentials: The credentials.
        timeout: Seconds that one post may take.

    Attributes:
        shown: The address without credentials.

    Raises:
        ConfigError: The address is invalid.
    """

    def __init__(self, url: object, name: str, credentials: Credentials, timeout: float) -> None:
        # Not at the first post: a child that is forked during an import waits for it forever.
        import urllib3  # noqa: F401

        parts = _split(url, name)
        self.shown = urlunsplit(
            (parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", "")
        )
        self._path = parts.path.rstrip("/") + _API
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
        """Reset; in a forked child the queue and the connection are the parent's."""
        self._lock = threading.RLock()  # a signal handler may need it again
        self._unsent: dict[Labels, State] = {}
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

    def enqueue(self, states: Mapping[Labels, State]) -> None:
        """Queue states, each in place of an earlier one of the same alert; does not wait.

        It resumes posting after a :meth:`flush` that timed out.
        """
        with self._lock:
            self._unsent.update(states)
        self._resume()

    def take_problem(self) -> str | None:
        """Return the last failure since the last call, if any."""
        problem, self._unraised = self._unraised, None
        return None if problem is None else f"{self.shown}: {problem}"

    def close(self) -> None:
        """End the thread after one more attempt to send the queue; takes no lock."""
        self._worker.close()

    def retry_now(self) -> None:
        """Retry now, without waiting for the delay after a failure."""
        self._failures, self._retry_at = 0, 0.0
        self._resume()

    def flush(self, deadline: float) -> bool:
        """Wait until the queue is sent; at the deadline pause posting until the next enqueue.

        Without a thread (none can be started while the interpreter ends) the caller's thread posts.

        Args:
            deadline: On the clock of ``time.monotonic()``.

        Returns:
            Whether the queue is empty.
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
            with suppress(OSError):  # the post has ended
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
                problem, may_retry = _reason(error), True
                self._reload_certificates()
            if may_retry and self._is_paused:  # flush() interrupted the post and noted that
                return
            self._note(problem)  # before flush() finds the queue empty and reads it
            if may_retry:
                self._back_off()
                return
            self._failures = 0
            with self._lock:
                for key, state in batch.items():
                    if self._unsent.get(key) is state:  # not replaced meanwhile
                        del self._unsent[key]

    def _next_batch(self) -> dict[Labels, State]:
        now = clock.now()
        with self._lock:
            for key, state in tuple(self._unsent.items()):
                if state.expires is not None and state.expires <= now:
                    self._unsent.pop(key, None)
            return dict(list(self._unsent.items())[:_BATCH])

    def _back_off(self) -> None:
        longest = min(_MAX_DELAY, _FIRST_DELAY * 2.0 ** min(self._failures, 16))
        self._failures += 1
        # Processes that lost the same Alertmanager should not all retry at once.
        delay = random.uniform(longest / 2, longest)  # noqa: S311
        self._retry_at = time.monotonic() + delay
        self._worker.tick_in(delay)

    def _reload_certificates(self) -> None:
        if self._context is not None:
            with suppress(ConfigError):  # they may be being replaced
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

    def _post(self, batch: Mapping[Labels, State], deadline: float) -> tuple[str | None, bool]:
        """Post a batch; return the problem (None if it was accepted) and whether to retry.

        The pool of urllib3 uses no proxy, netrc or environment variable.
        """
        import urllib3

        body = f"[{','.join(state.text for state in batch.values())}]".encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"genmeter/{__version__}",
            "Connection": "close",
            **self._credentials.headers(),
        }
        tls = {} if self._context is None else {"ssl_context": self._context}
        pool: Any = urllib3.connection_from_url(self.shown, **tls)
        pool.ConnectionCls = _hooked(pool.ConnectionCls, self._connect)
        # Instrumentations of urllib3 check this key, so a post creates no span.
        token = otel_context.attach(otel_context.set_value("suppress_instrumentation", True))
        try:
            with (
                closing(pool),
                pool.urlopen(
                    *("POST", self._path, body, headers),
                    retries=False,
                    redirect=False,
                    timeout=urllib3.Timeout(total=max(_POLL, seconds_left(deadline))),
                    preload_content=False,
                ) as response,
            ):
                status = response.status
                if status < HTTPStatus.MULTIPLE_CHOICES:
                    return None, False
                may_retry = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _RETRIED
                return f"it answered {status} {_text(response, deadline)}".rstrip(), may_retry
        finally:
            self._connection = None
            otel_context.detach(token)

    def _connect(self, connection: Any, connect: Callable[[], None]) -> None:
        self._connection = connection
        connect()
        connection.is_verified = True  # otherwise urllib3 warns of each post with verify=False
        if self._is_paused:
            raise TimeoutError("the flush timed out before anything was sent")


def _hooked(base: Any, connect: Callable[[Any, Callable[[], None]], None]) -> Any:
    """Return a subclass of a connection that calls ``connect`` with itself and its own method."""

    class Connection(base):  # type: ignore[misc]
        def connect(self) -> None:
            connect(self, super().connect)

    return Connection


def _text(response: Any, deadline: float) -> str:
    """Return the target of a redirect, or the beginning of an error's body."""
    if location := response.get_redirect_location():
        return f"to {location}, and redirects are not followed; use that address"
    read = bytearray()
    with suppress(Exception):  # a broken body must not hide the status
        for byte in response.stream(1, decode_content=False):
            read += byte
            if len(read) >= _MAX_READ or time.monotonic() >= deadline:
                break
    return " ".join(read.decode(errors="replace").split())


def _reason(error: Exception) -> str:
    """Return an error's text; the system's, if urllib3 has wrapped that."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError | ConfigError):
        cause = cause.__cause__ or cause.__context__
    cause = cause or error
    return f"{type(cause).__name__}: {cause}"


# --- credentials -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, repr=False)
class Credentials:
    """Credentials and trusted authorities; see the arguments of :class:`AlertmanagerHandler`.

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
                _VERIFY("verify", value)
            elif value is not None and not _is_given(value):
                shown = "another value" if each.name in _SECRETS else safe_repr(value)
                raise ConfigError(f"{each.name} must be a non-empty string or None, got {shown}")
            elif is_a(value, str):
                # A true text: methods of a subclass may raise later.
                object.__setattr__(self, each.name, str.__str__(value))
            if value is not None and each.name.endswith("_file"):
                PATH(each.name, value)
        self._check_together()
        self.headers()
        if self.ca_file is not None or self.cert_file is not None:
            self.tls()

    def headers(self) -> dict[str, str]:
        """Return the authorization header; reads a secret's file each time, for rotation.

        Raises:
            ConfigError: A file cannot be read, or has no valid secret.
        """
        if self.username is not None:
            password = self.password or _secret("password_file", self.password_file)
            pair = f"{self.username}:{password}".encode()
            return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
        if self.bearer_token is None and self.bearer_token_file is None:
            return {}
        token = self.bearer_token or _secret("bearer_token_file", self.bearer_token_file)
        if not _VISIBLE.fullmatch(token):
            raise ConfigError(
                "bearer_token must be visible ASCII characters only, got a value that is not shown here"
            )
        return {"Authorization": f"Bearer {token}"}

    def tls(self) -> ssl.SSLContext:
        """Return a context for TLS connections, from the current files.

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
        # urllib3 then checks the name itself; 1.26 could not connect to an IP address otherwise.
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


_VERIFY = Check("True or False", lambda value: isinstance(value, bool))


def _is_given(value: object) -> bool:
    return bool(str(value)) if is_a(value, Path) else is_a(value, str) and bool(str.__str__(value))


def _named(urls: object) -> list[tuple[str, object]]:
    if is_a(urls, str):
        return [("urls", urls)]
    try:
        found = list(urls) if is_a(urls, Sequence) else []  # type: ignore[call-overload]
    except UNREADABLE:
        found = []
    if not found:
        raise ConfigError(
            "urls must be an address such as 'http://alertmanager:9093', or a list, got "
            f"{safe_repr(urls)}"
        )
    return [(f"urls[{number}]", url) for number, url in enumerate(found)]


def _split(url: object, name: str) -> SplitResult:
    # A password can be anywhere in an invalid address.
    shown = safe_repr(url)
    if issubclass(type(url), str):
        url = str.__str__(url)
        shown = "a text that may contain a password" if "@" in url else safe_repr(url)
    problem = (
        f"{name} must be an http or https address such as 'http://alertmanager:9093', without a "
        f"query and without {_API}, got {shown}"
    )
    if type(url) is not str or not _VISIBLE.fullmatch(url):
        raise ConfigError(problem)
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and parts.port != 0 and bool(parts.hostname)
    except ValueError:
        raise ConfigError(problem) from None  # its text may contain the password
    if not is_usable or parts.query or parts.fragment or parts.path.rstrip("/").endswith(_API):
        raise ConfigError(problem)
    return parts


def _checked_labels(labels: Any) -> dict[str, str]:
    if labels is None:
        return {}
    try:
        items: dict[str, str] | None = dict(labels) if is_a(labels, Mapping) else None
    except UNREADABLE:
        items = None
    if items is None:
        raise ConfigError(f"labels must be a dict of names to texts, got {safe_repr(labels)}")
    checked = {}
    for given, value in items.items():
        name = str.__str__(given) if is_a(given, str) else ""
        if not _LABEL.fullmatch(name) or name in _RESERVED_LABELS:
            raise ConfigError(
                "labels must have names of letters, digits and underscores, no digit first, and "
                f"none of {', '.join(_RESERVED_LABELS)}, which every alert has, got {safe_repr(given)}"
            )
        checked[name] = NAME(f"labels[{name!r}]", value)
    return checked


def _secret(name: str, path: Any) -> str:
    path = PATH(name, path)
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(_unreadable(name, path, error)) from error
    if not text:
        raise ConfigError(f"{name} must contain a secret, got {str(path)!r}, which is empty")
    return text


def _unreadable(name: str, path: object, error: Exception) -> str:
    return f"{name} must be a readable file, got {safe_repr(path)}: {shown(error)}"


def _with_user(credentials: Credentials, parts: SplitResult, name: str) -> Credentials:
    if parts.username is None and parts.password is None:
        return credentials
    if credentials.headers():
        raise ConfigError(f"{name} must not name a user if other arguments do; remove one")
    user, password = unquote(parts.username or "") or None, unquote(parts.password or "") or None
    try:
        return dataclasses.replace(credentials, username=user, password=password)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def _rfc3339(when: datetime) -> str:
    return when.astimezone(UTC).isoformat()
