"""The scrape endpoint as a WSGI or ASGI app, to mount in a server of the caller's.

What the endpoint answers, whichever server carries it:

=============== ==================================================================================
``/metrics``    the page, at ``/`` and ``/metrics/`` too; GET collects, HEAD does not (a probe costs
                no collection); with basic auth where it is asked for. ``?name[]=`` picks samples
``/-/healthy``  200 and ``ok`` without auth: the process is alive
anything else   404; another method on a known path 405; OPTIONS names the methods
=============== ==================================================================================

The format and the compression are what the client prefers (RFC 9110, 12.4.2 and 12.5). Beneath
whatever prefix an app is mounted, or its route stands, the page is at the prefix itself and at
``/metrics``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import gzip
import hmac
import itertools
import logging
import re
import sys
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import parse_qs

from genmeter.config.checks import SECRET, USERNAME, check_pair
from genmeter.errors import GenmeterError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, MutableMapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    ASGIApplication = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

__all__ = [
    "HEALTH_PATH",
    "METRICS_PATH",
    "BasicAuth",
    "Format",
    "Render",
    "Response",
    "Routes",
    "basic_auth",
    "choose_format",
    "combine",
    "make_asgi_app",
    "make_wsgi_app",
    "split_target",
    "wants_gzip",
]

_logger = logging.getLogger("genmeter")

METRICS_PATH = "/metrics"
HEALTH_PATH = "/-/healthy"

_PAGE_PATHS = ("", "/", METRICS_PATH, f"{METRICS_PATH}/")
_METHODS = ("GET", "HEAD", "OPTIONS")
_ALLOW = ("Allow", ", ".join(_METHODS))
_PLAIN = "text/plain; charset=utf-8"
# A proxy, and a client that is told to use one, sends the whole address.
_ABSOLUTE = re.compile(r"(?i)https?://[^/?#]*")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)

# A page repeats itself so much that the fastest level leaves a thirtieth of it; the usual one takes
# more than twice the time for little less.
_GZIP_LEVEL = 1
# Below this a page fits a packet or two, and compression saves nothing.
_GZIP_FROM_BYTES = 1024


class Render(Protocol):
    """Writes a page."""

    def __call__(self, openmetrics: bool, names: Collection[str] = ..., /) -> bytes:
        """Write the page in OpenMetrics or text, of all samples or those of these names."""


class Response(NamedTuple):
    """An answer.

    Attributes:
        status: The status code.
        headers: The headers but for ``Content-Length``.
        body: The body.
        is_scrape: Whether the body is a whole page, all samples of it.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    is_scrape: bool = False


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
        USERNAME("username", self.username)
        SECRET("password", self.password)

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
    check_pair("username", username, "password", password)
    check_pair("password", password, "username", username, shown="a password")
    if username is None or password is None:
        return None
    return BasicAuth(username, password)


class Routes:
    """Answers requests; an endpoint has one, which remembers whether its scrapes fail.

    Args:
        render: Writes the page. Names are passed only where the request has some.
        auth: Who may read the page, None for everybody.
    """

    def __init__(self, render: Render, auth: BasicAuth | None = None) -> None:
        self._render = render
        self._auth = auth
        self._failures = itertools.count()

    def respond(
        self, method: str, path: str, headers: Mapping[str, str], query: str = ""
    ) -> Response:
        """Answer one request.

        Args:
            method: The HTTP method.
            path: The path, or the address that a proxy sends.
            headers: The request's headers, names in lower case, as `combine` returns them.
            query: What follows the question mark.

        Returns:
            The answer; 503 where ``render`` raises, so that a scrape is never half a page.
        """
        path = _ABSOLUTE.sub("", path, count=1) if _ABSOLUTE.match(path) else path
        if method == "OPTIONS" and path == "*":
            return _plain(200, "", _ALLOW)
        if path not in _PAGE_PATHS and path != HEALTH_PATH:
            return _plain(404, f"not found; the metrics are at {METRICS_PATH}\n")
        if method not in _METHODS:
            return _plain(405, f"only {', '.join(_METHODS)} are answered\n", _ALLOW)
        if method == "OPTIONS":
            return _plain(200, "", _ALLOW)
        if path == HEALTH_PATH:
            response = _plain(200, "ok\n")
        elif self._auth is not None and not self._auth.accepts(headers.get("authorization", "")):
            challenge = ("WWW-Authenticate", 'Basic realm="genmeter", charset="UTF-8"')
            response = _plain(401, "user name and password are needed\n", challenge)
        else:
            response = self._page(method, headers, query)
        return response._replace(body=b"") if method == "HEAD" else response

    def _page(self, method: str, headers: Mapping[str, str], query: str) -> Response:
        chosen = choose_format(headers.get("accept", ""))
        answer = [("Content-Type", chosen.content_type), ("Vary", "Accept, Accept-Encoding")]
        if method == "HEAD":
            return Response(200, answer, b"")
        names = frozenset(parse_qs(query).get("name[]", ()))
        try:
            body = (
                self._render(chosen.openmetrics, names)
                if names
                else self._render(chosen.openmetrics)
            )
        except Exception as error:
            return self._unavailable(error)
        self._failures = itertools.count()
        if len(body) >= _GZIP_FROM_BYTES and wants_gzip(headers.get("accept-encoding", "")):
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
            answer.append(("Content-Encoding", "gzip"))
        return Response(200, answer, body, is_scrape=not names)

    def _unavailable(self, error: Exception) -> Response:
        if next(self._failures) == 0:
            _logger.warning(
                "a scrape failed and was answered with 503: %r; further failures are not logged "
                "until a scrape succeeds",
                error,
            )
        # Our own errors are written for readers; what others' say may be a secret.
        own = " ".join(str(error).split()) if isinstance(error, GenmeterError) else ""
        kind = type(error).__name__
        reason = f"{kind}: {own}" if own else kind
        return _plain(503, f"the metrics could not be collected: {reason}\n")


def _plain(status: int, text: str, *headers: tuple[str, str]) -> Response:
    body = text.encode("utf-8", "replace")
    return Response(status, [("Content-Type", _PLAIN), *headers], body)


def combine(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers by their names in lower case; several of one name are one list.

    Args:
        headers: Names and values, in the order of the request.
    """
    combined: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        combined[key] = f"{combined[key]}, {value}" if key in combined else value
    return combined


def split_target(target: str) -> tuple[str, str]:
    """Return the path (or address) and the query of a request's target."""
    path, _, query = target.partition("#")[0].partition("?")
    return path, query


class Format(NamedTuple):
    """A format that a page can have.

    Attributes:
        media_type: The media type.
        version: The version of the format.
        openmetrics: Whether it is OpenMetrics rather than Prometheus text.
    """

    media_type: str
    version: str
    openmetrics: bool

    @property
    def content_type(self) -> str:
        """The ``Content-Type`` header.

        From 1.0.0 on, both formats say how names beyond the old character set are escaped. Names
        here never have such characters, whatever the client accepts.
        """
        escaping = "; escaping=underscores" if self.version >= "1" else ""
        return f"{self.media_type}; version={self.version}; charset=utf-8{escaping}"


_TEXT = Format("text/plain", "0.0.4", openmetrics=False)
# The same text: the version adds names in quotes, and none of ours need them.
_TEXT_1 = Format("text/plain", "1.0.0", openmetrics=False)
_OPENMETRICS = Format("application/openmetrics-text", "1.0.0", openmetrics=True)
_OPENMETRICS_0 = Format("application/openmetrics-text", "0.0.1", openmetrics=True)
# The first is sent where a client has no preference.
_FORMATS = (_TEXT, _TEXT_1, _OPENMETRICS, _OPENMETRICS_0)


def choose_format(accept: str) -> Format:
    """Return the format that an ``Accept`` header prefers.

    Each format has the weight of the most specific range that it matches. Of equal weights, a
    format that the client names wins over one that it accepts by a wildcard, and OpenMetrics over
    text. Where none is acceptable the page is text 0.0.4, as Prometheus's own clients answer.
    """
    ranges = _preferences(accept)
    best, best_rank = _TEXT, (0.0, 0, False)
    for offered in _FORMATS:
        matches = [
            (specificity, weight)
            for value, parameters, weight in ranges
            if (specificity := _specificity(offered, value, parameters.get("version")))
        ]
        specificity, weight = max(matches, default=(0, 0.0))
        is_named = specificity >= _NAMED
        rank = (weight, int(is_named), is_named and offered.openmetrics)
        if weight > 0 and rank > best_rank:
            best, best_rank = offered, rank
    return best


_NAMED = 3


def _specificity(offered: Format, media_range: str, version: str | None) -> int:
    """Return how closely a media range names a format, 0 where it does not match."""
    if media_range == "*/*":
        return 1
    if media_range == f"{offered.media_type.partition('/')[0]}/*":
        return 2
    if media_range != offered.media_type:
        return 0
    if version is None:
        return _NAMED
    # Any 1.x is read by whoever reads 1.0.
    same = version == offered.version or (version[:2] == "1." and offered.version[:2] == "1.")
    return _NAMED + 1 if same else 0


def wants_gzip(accept_encoding: str) -> bool:
    """Tell whether an ``Accept-Encoding`` header prefers gzip to no compression."""
    weights: dict[str, float] = {}
    for coding, _, weight in _preferences(accept_encoding):
        name = "gzip" if coding == "x-gzip" else coding
        weights[name] = max(weight, weights.get(name, 0.0))
    weight = weights.get("gzip", weights.get("*", 0.0))
    # Without a word about it, no compression is acceptable and nobody's wish.
    return weight > 0 and weight >= weights.get("identity", 0.0)


def _preferences(header: str) -> list[tuple[str, dict[str, str], float]]:
    """Return the values of a list header, each with its parameters and its weight.

    A weight beyond 0 and 1 counts as the nearer of the two; a value whose weight is no number is
    ignored.
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


_T = TypeVar("_T")


def make_wsgi_app(
    render: Render,
    *,
    username: str | None = None,
    password: str | None = None,
) -> WSGIApplication:
    """Make a WSGI app that serves the page.

    Args:
        render: Writes the page, as `genmeter.exporters.prometheus.PrometheusBridge.render` does.
        username: The user that a scrape must name; with ``password`` or not at all.
        password: The password that a scrape must give.

    Raises:
        ConfigError: ``username`` or ``password`` is given alone, or cannot be used.
    """
    routes = Routes(render, basic_auth(username, password))

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Servers have combined the lines of one name already.
        headers = combine(
            (name[5:].replace("_", "-"), value)
            for name, value in environ.items()
            if name.startswith("HTTP_")
        )
        method = environ["REQUEST_METHOD"]
        path = _within(environ.get("PATH_INFO", ""))
        response = routes.respond(method, path, headers, environ.get("QUERY_STRING", ""))
        status = f"{response.status} {HTTPStatus(response.status).phrase}"
        start_response(status, _headers(method, response))
        return [response.body]

    return app


def make_asgi_app(
    render: Render,
    *,
    username: str | None = None,
    password: str | None = None,
) -> ASGIApplication:
    """Make an ASGI app that serves the page; it is written on a thread, off the event loop.

    It runs under asyncio, trio and whatever is built on them. Starlette and FastAPI take it both
    for ``mount()`` and as the endpoint of a ``Route``.

    Args:
        render: Writes the page, as `genmeter.exporters.prometheus.PrometheusBridge.render` does.
        username: The user that a scrape must name; with ``password`` or not at all.
        password: The password that a scrape must give.

    Raises:
        ConfigError: ``username`` or ``password`` is given alone, or cannot be used.
    """
    return _ASGIApp(Routes(render, basic_auth(username, password)))


class _ASGIApp:
    """An ASGI app; Starlette takes a function for a handler of its own kind, an object for an app."""

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self._answer(scope, send)

    async def _answer(self, scope: MutableMapping[str, Any], send: Send) -> None:
        headers = combine(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        )
        method = scope["method"]
        path = _within(scope["path"], scope.get("root_path", ""))
        query = scope.get("query_string", b"").decode("latin-1")
        response = await _off_the_loop(
            functools.partial(self._routes.respond, method, path, headers, query)
        )
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": [
                    (name.lower().encode("latin-1"), value.encode("latin-1"))
                    for name, value in _headers(method, response)
                ],
            }
        )
        await send({"type": "http.response.body", "body": response.body})


async def _off_the_loop(call: Callable[[], _T]) -> _T:
    """Call a function on a thread of the library that runs this coroutine.

    Under neither asyncio nor trio there is no way to wait for a thread, and it is called here.
    """
    # Trio is looked at first: as a guest it runs inside an event loop of asyncio. A program that
    # runs it has imported it.
    trio = sys.modules.get("trio")
    if trio is not None and _runs(trio.lowlevel.current_task):
        result: _T = await trio.to_thread.run_sync(call)
        return result
    if _runs(asyncio.get_running_loop):
        return await asyncio.to_thread(call)
    return call()


def _runs(current: Callable[[], object]) -> bool:
    try:
        current()
    except RuntimeError:
        return False
    return True


async def _live(receive: Receive, send: Send) -> None:
    """Tell the server that there is nothing to start and nothing to stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _within(path: str, root: str = "") -> str:
    """Return the path within the app.

    Some servers leave the prefix that an app is mounted at in the path, some remove it; the route
    of an app that is an endpoint is no prefix at all.
    """
    root = root.rstrip("/")
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    return METRICS_PATH if path.rstrip("/").endswith(METRICS_PATH) else path


def _headers(method: str, response: Response) -> list[tuple[str, str]]:
    # What a GET would have sent is not known without a collection, so HEAD gives no length.
    if method == "HEAD":
        return response.headers
    return [*response.headers, ("Content-Length", str(len(response.body)))]
