"""The responses of the scrape endpoint, on every server.

=============== ==================================================================================
``/metrics``    the page, also at ``/`` and ``/metrics/``, behind basic auth if configured. GET
                collects, HEAD does not. ``?name[]=`` selects samples
``/-/healthy``  200 and ``ok`` without auth: the process is alive
anything else   404; another method on a known path 405; OPTIONS lists the methods
=============== ==================================================================================

The client's headers choose the format and the compression (RFC 9110, 12.4.2 and 12.5).
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hmac
import itertools
import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs

from genmeter.config.checks import SECRET, USERNAME, check_pair
from genmeter.errors import GenmeterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Render = Callable[..., bytes]
    """Writes a page like `PrometheusBridge.render`; gets names only if a request has some."""

__all__ = [
    "METRICS_PATH",
    "BasicAuth",
    "Response",
    "Routes",
    "basic_auth",
    "choose_format",
    "combine",
    "split_target",
    "wants_gzip",
]

_logger = logging.getLogger("genmeter")

METRICS_PATH = "/metrics"
_HEALTH_PATH = "/-/healthy"
_PAGE_PATHS = ("", "/", METRICS_PATH, f"{METRICS_PATH}/")
_METHODS = ("GET", "HEAD", "OPTIONS")
_ALLOW = ("Allow", ", ".join(_METHODS))
# The whole address, as a proxy sends it, and a client that uses one.
_ABSOLUTE = re.compile(r"(?i)https?://[^/?#]*")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)
# A page is so repetitive that the fastest level leaves a thirtieth of it; the default level takes
# more than twice the time for little less.
_GZIP_LEVEL = 1
# A smaller page fits a packet or two, and compression saves nothing.
_GZIP_MIN_BYTES = 1024


class Response(NamedTuple):
    """A response; ``is_scrape`` means that the body is the whole page."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    is_scrape: bool = False


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """The credentials of the page."""

    username: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        USERNAME("username", self.username)
        SECRET("password", self.password)

    def accepts(self, authorization: str) -> bool:
        """Return whether an ``Authorization`` header has these credentials.

        Both are compared in constant time, whatever the first comparison returns.
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
    # The bytes of an environment variable that is not UTF-8 are lone surrogates.
    return text.encode("utf-8", "surrogateescape")


def basic_auth(username: str | None, password: str | None) -> BasicAuth | None:
    """Return the auth of two optional arguments; raises ConfigError if they are invalid."""
    check_pair("username", username, "password", password)
    check_pair("password", password, "username", username, shown="a password")
    if username is None or password is None:
        return None
    return BasicAuth(username, password)


class Routes:
    """Responds to requests; an endpoint has one, which remembers whether its scrapes fail."""

    def __init__(self, render: Render, auth: BasicAuth | None = None) -> None:
        self._render = render
        self._auth = auth
        self._failures = itertools.count()

    def respond(
        self, method: str, path: str, headers: Mapping[str, str], query: str = ""
    ) -> Response:
        """Return the response to a request.

        Args:
            method: The HTTP method.
            path: The path, or the address that a proxy sends.
            headers: The request's headers, as `combine` returns them.
            query: The text after the question mark.

        Returns:
            The response; 503 if ``render`` raises, so that a scrape is never half a page.
        """
        path = _ABSOLUTE.sub("", path, count=1) if _ABSOLUTE.match(path) else path
        if method == "OPTIONS" and path == "*":
            response = _plain(200, "", _ALLOW)
        elif path not in _PAGE_PATHS and path != _HEALTH_PATH:
            response = _plain(404, f"not found; the metrics are at {METRICS_PATH}\n")
        elif method not in _METHODS:
            response = _plain(405, f"the methods are {', '.join(_METHODS)}\n", _ALLOW)
        elif method == "OPTIONS":
            response = _plain(200, "", _ALLOW)
        elif path == _HEALTH_PATH:
            response = _plain(200, "ok\n")
        elif self._auth is not None and not self._auth.accepts(headers.get("authorization", "")):
            challenge = ("WWW-Authenticate", 'Basic realm="genmeter", charset="UTF-8"')
            response = _plain(401, "user name and password are required\n", challenge)
        else:
            response = self._page(method, headers, query)
        if method == "HEAD":  # without a length, which is unknown without a collection
            return response._replace(body=b"")
        response.headers.append(("Content-Length", str(len(response.body))))
        return response

    def _page(self, method: str, headers: Mapping[str, str], query: str) -> Response:
        chosen = choose_format(headers.get("accept", ""))
        fields = [("Content-Type", chosen.content_type), ("Vary", "Accept, Accept-Encoding")]
        if method == "HEAD":
            return Response(200, fields, b"")
        names = frozenset(parse_qs(query).get("name[]", ()))
        try:
            body = self._render(chosen.openmetrics, *([names] if names else []))
        except Exception as error:
            return self._unavailable(error)
        self._failures = itertools.count()
        if len(body) >= _GZIP_MIN_BYTES and wants_gzip(headers.get("accept-encoding", "")):
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
            fields.append(("Content-Encoding", "gzip"))
        return Response(200, fields, body, is_scrape=not names)

    def _unavailable(self, error: Exception) -> Response:
        if next(self._failures) == 0:
            _logger.warning(
                "a scrape failed with 503: %r; further failures are not logged until a scrape "
                "succeeds",
                error,
            )
        # Our errors are written for users; the text of others may contain a secret.
        text = " ".join(str(error).split()) if isinstance(error, GenmeterError) else ""
        kind = type(error).__name__
        reason = f"{kind}: {text}" if text else kind
        return _plain(503, f"the metrics could not be collected: {reason}\n")


def _plain(status: int, text: str, *headers: tuple[str, str]) -> Response:
    body = text.encode("utf-8", "replace")
    return Response(status, [("Content-Type", "text/plain; charset=utf-8"), *headers], body)


def combine(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers by their names in lower case; several of one name become one list."""
    combined: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        combined[key] = f"{combined[key]}, {value}" if key in combined else value
    return combined


def split_target(target: str) -> tuple[str, str]:
    """Return the path (or address) and the query of a request's target."""
    path, _, query = target.partition("#")[0].partition("?")
    return path, query


# --- content negotiation -------------------------------------------------------------------------


class Format(NamedTuple):
    """A format of the page."""

    media_type: str
    version: str
    openmetrics: bool

    @property
    def content_type(self) -> str:
        """The ``Content-Type`` header.

        From 1.0.0 on, it declares how names beyond the old character set are escaped. The names
        here have no such characters, whatever the client accepts.
        """
        escaping = "; escaping=underscores" if self.version >= "1" else ""
        return f"{self.media_type}; version={self.version}; charset=utf-8{escaping}"


_TEXT = Format("text/plain", "0.0.4", openmetrics=False)
_FORMATS = (
    _TEXT,  # the default
    # The same text; this version adds quoted names, which ours do not need.
    Format("text/plain", "1.0.0", openmetrics=False),
    Format("application/openmetrics-text", "1.0.0", openmetrics=True),
    Format("application/openmetrics-text", "0.0.1", openmetrics=True),
)
_NAMED = 3  # the specificity of a range that names a media type


def choose_format(accept: str) -> Format:
    """Return the format that an ``Accept`` header prefers.

    Each format has the weight of the most specific range that it matches. At equal weights, a
    format that the client names wins over one that it accepts by a wildcard, and OpenMetrics over
    text. If none is acceptable the page is text 0.0.4, as from Prometheus's own clients.
    """
    ranges = _preferences(accept)
    best, best_rank = _TEXT, (0.0, False, False)
    for offered in _FORMATS:
        matches = [
            (specificity, weight)
            for value, parameters, weight in ranges
            if (specificity := _specificity(offered, value, parameters.get("version")))
        ]
        specificity, weight = max(matches, default=(0, 0.0))
        is_named = specificity >= _NAMED
        rank = (weight, is_named, is_named and offered.openmetrics)
        if weight > 0 and rank > best_rank:
            best, best_rank = offered, rank
    return best


def _specificity(offered: Format, media_range: str, version: str | None) -> int:
    """Return how closely a media range names a format, 0 if it does not match."""
    if media_range == "*/*":
        return 1
    if media_range == f"{offered.media_type.partition('/')[0]}/*":
        return 2
    if media_range != offered.media_type:
        return 0
    if version is None:
        return _NAMED
    # A client of 1.0 can read any 1.x.
    same = version == offered.version or (version[:2] == "1." and offered.version[:2] == "1.")
    return _NAMED + 1 if same else 0


def wants_gzip(accept_encoding: str) -> bool:
    """Return whether an ``Accept-Encoding`` header prefers gzip to no compression."""
    weights: dict[str, float] = {}
    for coding, _, weight in _preferences(accept_encoding):
        name = "gzip" if coding == "x-gzip" else coding
        weights[name] = max(weight, weights.get(name, 0.0))
    weight = weights.get("gzip", weights.get("*", 0.0))
    # Unless it is named, no compression is acceptable but not preferred.
    return weight > 0 and weight >= weights.get("identity", 0.0)


def _preferences(header: str) -> list[tuple[str, dict[str, str], float]]:
    """Return the values of a list header, each with its parameters and its weight.

    Weights are clamped to 0 and 1; a value with an invalid weight is ignored.
    """
    found = []
    for item in header.split(","):
        value, *rest = (part.strip().lower() for part in item.split(";"))
        pairs = (parameter.partition("=") for parameter in rest)
        parameters = {name.strip(): text.strip(' \t"') for name, _, text in pairs}
        text = parameters.pop("q", "1")
        if value and _NUMBER.fullmatch(text):
            found.append((value, parameters, min(max(float(text), 0.0), 1.0)))
    return found
