"""What the scrape endpoint answers, whichever server carries it.

=============== ==================================================================================
``/metrics``    the page; GET collects, HEAD does not (a probe costs no collection and takes no
                exemplars from the next scrape); with basic auth where it is asked for
``/-/healthy``  200 and ``ok`` without auth, since it tells nothing but that the process is alive
anything else   404; another method on a known path 405
=============== ==================================================================================
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hmac
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from genmeter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "HEALTH_PATH",
    "METRICS_PATH",
    "BasicAuth",
    "Response",
    "basic_auth",
    "respond",
    "wants_gzip",
    "wants_openmetrics",
]

_logger = logging.getLogger("genmeter")

METRICS_PATH = "/metrics"
HEALTH_PATH = "/-/healthy"

_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_PLAIN = "text/plain; charset=utf-8"

# A page repeats itself so much that the fastest level leaves a thirtieth of it; the usual one takes
# more than twice the time for little less.
_GZIP_LEVEL = 1
# Below this a page fits a packet or two, and compression saves nothing.
_GZIP_FROM_BYTES = 1024


class Response(NamedTuple):
    """An answer: the status, the headers but for ``Content-Length``, and the body."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """Who may read the page.

    Raises:
        ConfigError: The user name is empty or has a colon, or the password is empty.
    """

    username: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        """Check what basic auth cannot carry."""
        if not self.username or ":" in self.username:
            raise ConfigError(
                f"username is {self.username!r}; basic auth needs one that is not empty and has "
                "no colon"
            )
        if not self.password:
            raise ConfigError("password is empty; give one, or leave out username and password")

    def accepts(self, authorization: str) -> bool:
        """Tell whether an ``Authorization`` header carries these credentials.

        User name and password are both compared, in constant time, whatever the first one gives.
        """
        scheme, _, encoded = authorization.strip().partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        username, _, password = given.partition(b":")
        same_user = hmac.compare_digest(username, _bytes(self.username))
        same_password = hmac.compare_digest(password, _bytes(self.password))
        return same_user & same_password


def _bytes(text: str) -> bytes:
    # An environment variable that is not UTF-8 comes with its bytes as lone surrogates.
    return text.encode("utf-8", "surrogateescape")


def basic_auth(username: str | None, password: str | None) -> BasicAuth | None:
    """Return the auth that two optional arguments ask for.

    Raises:
        ConfigError: One is given without the other, or either cannot be used.
    """
    if username is None and password is None:
        return None
    if username is None or password is None:
        given, missing = ("username", "password") if password is None else ("password", "username")
        raise ConfigError(f"{given} is given without {missing}; give both or neither")
    return BasicAuth(username, password)


def respond(
    method: str,
    path: str,
    headers: Mapping[str, str],
    render: Callable[[bool], bytes],
    auth: BasicAuth | None,
) -> Response:
    """Answer one request.

    Args:
        method: The HTTP method.
        path: The path, with or without a query, which is ignored.
        headers: The request's headers, names in lower case.
        render: Writes the page; its argument asks for OpenMetrics.
        auth: Who may read the page, None for everybody.

    Returns:
        The answer; 503 where ``render`` raises, so that a scrape is never half a page.
    """
    path = path.partition("?")[0]
    if path not in (METRICS_PATH, HEALTH_PATH):
        return _plain(404, f"not found; the metrics are at {METRICS_PATH}\n")
    if method not in ("GET", "HEAD"):
        return _plain(405, "only GET and HEAD are answered\n", ("Allow", "GET, HEAD"))
    if path == HEALTH_PATH:
        response = _plain(200, "ok\n")
    elif auth is not None and not auth.accepts(headers.get("authorization", "")):
        challenge = ("WWW-Authenticate", 'Basic realm="genmeter", charset="UTF-8"')
        response = _plain(401, "user name and password are needed\n", challenge)
    else:
        response = _page(method, headers, render)
    return response._replace(body=b"") if method == "HEAD" else response


def _page(method: str, headers: Mapping[str, str], render: Callable[[bool], bytes]) -> Response:
    openmetrics = wants_openmetrics(headers.get("accept", ""))
    answer = [
        ("Content-Type", _OPENMETRICS if openmetrics else _TEXT),
        ("Vary", "Accept, Accept-Encoding"),
    ]
    if method == "HEAD":
        return Response(200, answer, b"")
    try:
        body = render(openmetrics)
    except Exception as error:
        _logger.warning("a scrape failed, answered with 503: %r", error)
        return _plain(503, f"the metrics could not be collected: {type(error).__name__}\n")
    if len(body) >= _GZIP_FROM_BYTES and wants_gzip(headers.get("accept-encoding", "")):
        body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        answer.append(("Content-Encoding", "gzip"))
    return Response(200, answer, body)


def _plain(status: int, text: str, *headers: tuple[str, str]) -> Response:
    return Response(status, [("Content-Type", _PLAIN), *headers], text.encode())


def wants_openmetrics(accept: str) -> bool:
    """Tell whether an ``Accept`` header prefers OpenMetrics 1.0 to the text format.

    Names are always in the old character set, so a parameter ``escaping`` changes nothing.
    """
    openmetrics, text = -1.0, 0.0
    for media_type, parameters in _preferences(accept):
        quality = _quality(parameters)
        if media_type == "application/openmetrics-text":
            if parameters.get("version", "1.0.0").startswith("1."):
                openmetrics = max(openmetrics, quality)
        elif media_type == "text/plain":
            text = max(text, quality)
    return openmetrics > 0 and openmetrics >= text


def wants_gzip(accept_encoding: str) -> bool:
    """Tell whether an ``Accept-Encoding`` header takes gzip."""
    qualities = {
        coding: _quality(parameters) for coding, parameters in _preferences(accept_encoding)
    }
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0


def _preferences(header: str) -> list[tuple[str, dict[str, str]]]:
    found = []
    for item in header.split(","):
        value, *parameters = (part.strip().lower() for part in item.split(";"))
        pairs = (parameter.partition("=") for parameter in parameters)
        found.append((value, {name.strip(): text.strip(' "') for name, _, text in pairs}))
    return found


def _quality(parameters: Mapping[str, str]) -> float:
    try:
        return float(parameters.get("q", "1"))
    except ValueError:
        return 0.0
