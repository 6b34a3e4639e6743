"""One Alertmanager as this process reaches it: its address, the credentials, and a post to it.

``http.client`` by itself follows no redirect, asks no proxy and reads no netrc, so alerts and
credentials go to the address that was given and nowhere else; and no instrumentation makes spans
of what it sends.
"""

from __future__ import annotations

import base64
import dataclasses
import http.client
import re
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from genmeter._version import __version__
from genmeter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Credentials", "DeliveryError", "Endpoint"]

_API = "/api/v2/alerts"
_PORTS = {"http": 80, "https": 443}
_AGAIN_LATER = (408, 429)  # besides every 5xx; what else is refused now will be refused again
_TAKEN, _MOVED, _BROKEN = 2, 3, 5  # hundreds of a status
_MOST_READ = 500  # bytes of an answer, for a log line
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_SECRETS = ("password", "bearer_token")


class DeliveryError(Exception):
    """An Alertmanager did not take what was posted.

    Args:
        reason: Why, for a person; without any secret.
        may_retry: Whether it may take the same thing later.
    """

    def __init__(self, reason: str, *, may_retry: bool) -> None:
        super().__init__(reason)
        self.may_retry = may_retry


@dataclass(frozen=True, kw_only=True, repr=False)
class Credentials:
    """How to log in, and whom to trust.

    Raises:
        ConfigError: A value that cannot be used, or a file that cannot be read.
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
                    raise ConfigError(f"verify is {value!r}; give True or False")
            elif value is not None and not (isinstance(value, str | Path) and str(value)):
                shown = "empty or not a text" if each.name in _SECRETS else repr(value)
                raise ConfigError(f"{each.name} is {shown}; give a text that is not empty, or None")
        self._check_together()
        if self.bearer_token is not None and not _VISIBLE.fullmatch(self.bearer_token):
            raise ConfigError(
                "bearer_token has spaces, line ends or letters outside ASCII; give the token alone"
            )
        for name in ("password_file", "bearer_token_file"):
            if getattr(self, name) is not None:
                _secret(name, getattr(self, name))
        if self.ca_file is not None or self.cert_file is not None:
            self.tls()

    def authorization(self) -> str | None:
        """Give the header's value; a secret in a file is read anew, since it may be rotated.

        Raises:
            ConfigError: A file that cannot be read.
        """
        if self.username is not None:
            password = self.password or _secret("password_file", self.password_file)
            pair = f"{self.username}:{password}".encode()
            return f"Basic {base64.b64encode(pair).decode()}"
        if self.bearer_token is not None or self.bearer_token_file is not None:
            token = self.bearer_token or _secret("bearer_token_file", self.bearer_token_file)
            return f"Bearer {token}"
        return None

    def tls(self) -> ssl.SSLContext:
        """Make the context of TLS connections, of the files as they are now.

        Raises:
            ConfigError: A file that cannot be read.
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
                shown = f"{self.cert_file!r} with key_file {self.key_file!r}"
                raise ConfigError(
                    f"cert_file is {shown}, which cannot be used: {error}; give PEM files of a "
                    "certificate and its key, which has no passphrase"
                ) from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _check_together(self) -> None:
        has_password = self.password is not None or self.password_file is not None
        has_token = self.bearer_token is not None or self.bearer_token_file is not None
        if self.username is not None and not has_password:
            raise ConfigError(
                f"username is {self.username!r} but there is no password; give password or "
                "password_file too"
            )
        if has_password and self.username is None:
            raise ConfigError("password is set but username is not; give both or neither")
        if ":" in (self.username or ""):
            raise ConfigError(
                f"username is {self.username!r}; give one without a colon, which ends the name in "
                "HTTP's basic authentication"
            )
        for name in _SECRETS:
            if getattr(self, name) is not None and getattr(self, f"{name}_file") is not None:
                raise ConfigError(f"{name} and {name}_file are both set; give one of them")
        if has_password and has_token:
            raise ConfigError("a password and a bearer token are both set; give one of them")
        if self.key_file is not None and self.cert_file is None:
            raise ConfigError(
                f"key_file is {str(self.key_file)!r} but cert_file is not set; give both or neither"
            )


class Endpoint:
    """An Alertmanager's address.

    Args:
        url: Such as ``https://alertmanager:9093/prefix``; may have ``user:password@``.
        name: What messages call the argument.
        credentials: How to log in.

    Attributes:
        shown: The address without credentials.

    Raises:
        ConfigError: The address cannot be used.
    """

    def __init__(self, url: object, name: str, credentials: Credentials) -> None:
        parts = _split(url, name)
        self._host: str = parts.hostname or ""
        self._port = parts.port or _PORTS[parts.scheme]
        prefix = parts.path.rstrip("/")
        self._path = prefix + _API
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{prefix}"
        if parts.username is not None or parts.password is not None:
            if credentials.authorization() is not None:
                raise ConfigError(
                    f"{name} names a user, and other arguments say how to log in too; give one of "
                    "them"
                )
            user = unquote(parts.username or "") or None
            password = unquote(parts.password or "") or None
            try:
                credentials = dataclasses.replace(credentials, username=user, password=password)
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from error
        self._credentials = credentials
        self._is_tls = parts.scheme == "https"
        self._context = credentials.tls() if self._is_tls else None
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes, timeout: float, is_wanted: Callable[[], bool]) -> None:
        """Post a JSON list of alerts.

        Args:
            body: The list.
            timeout: Seconds that each step of the exchange may take.
            is_wanted: Asked once more when the connection stands, before anything is sent.

        Raises:
            DeliveryError: It was not accepted.
        """
        try:
            status, text = self._exchange(body, timeout, is_wanted)
        except Exception as error:
            self._context = None  # a certificate may have been replaced
            raise DeliveryError(_reason(error), may_retry=True) from error
        kind = status // 100
        if kind == _TAKEN:
            return
        may_retry = kind == _BROKEN or status in _AGAIN_LATER
        raise DeliveryError(f"it answered {status} {text}".rstrip(), may_retry=may_retry)

    def abort(self) -> None:
        """End an exchange that is under way on another thread."""
        connection = self._connection
        stream: socket.socket | None = getattr(connection, "sock", None)
        if stream is not None:
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def detach_after_fork(self) -> None:
        """Forget an exchange of the parent's, which the child's :meth:`abort` must not end."""
        self._connection = None

    def _exchange(
        self, body: bytes, timeout: float, is_wanted: Callable[[], bool]
    ) -> tuple[int, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"genmeter/{__version__}",
            "Connection": "close",
        }
        authorization = self._credentials.authorization()
        if authorization is not None:
            headers["Authorization"] = authorization
        connection = self._connection = self._new_connection(timeout)
        try:
            connection.connect()
            if not is_wanted():
                raise TimeoutError("it was too late to send anything")
            connection.request("POST", self._path, body, headers)
            response = connection.getresponse()
            text = response.read(_MOST_READ).decode(errors="replace")
            location = response.getheader("Location") if response.status // 100 == _MOVED else None
        finally:
            self._connection = None
            connection.close()
        if location is not None:
            text = f"to {location}, and redirects are not followed; give that address"
        return response.status, " ".join(text.split())

    def _new_connection(self, timeout: float) -> http.client.HTTPConnection:
        if not self._is_tls:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        if self._context is None:
            self._context = self._credentials.tls()
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=timeout, context=self._context
        )


def _split(url: object, name: str) -> SplitResult:
    if not isinstance(url, str):
        raise ConfigError(f"{name} is {url!r}; give a text such as 'http://alertmanager:9093'")
    # What cannot be split may hold a password anywhere.
    shown = repr(url) if "@" not in url else "not shown, since it may hold a password"
    try:
        parts = urlsplit(url)
        usable = parts.port != 0 and bool(parts.hostname)
    except ValueError:  # its text may have the password in it
        parts, usable = SplitResult("", "", "", "", ""), False
    if parts.scheme not in _PORTS or not usable or not _VISIBLE.fullmatch(url):
        raise ConfigError(
            f"{name} is {shown}, which is no http address; give its scheme, host and port, such as "
            "'http://alertmanager:9093'"
        )
    if parts.query or parts.fragment or parts.path.rstrip("/").endswith(_API):
        raise ConfigError(
            f"{name} is {shown}; give the address without a query and without {_API}, which is "
            "added to it"
        )
    return parts


def _secret(name: str, path: Any) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(_unreadable(name, path, error)) from error
    if not text:
        raise ConfigError(f"{name} is {str(path)!r}, which is empty; write the secret into it")
    return text


def _unreadable(name: str, path: object, error: Exception) -> str:
    return f"{name} is {str(path)!r}, which cannot be read: {error}; give a file that can be read"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
