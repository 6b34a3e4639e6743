"""The scrape endpoint as a WSGI or ASGI app, to mount in a server of the caller's.

Both answer as `genmeter.outputs.routes` says, and with the page at their own root too, so that an
app that is mounted at ``/metrics`` is found there.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from genmeter.outputs.routes import METRICS_PATH, Response, basic_auth, respond

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    ASGIApplication = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

__all__ = ["make_asgi_app", "make_wsgi_app"]


def make_wsgi_app(
    render: Callable[[bool], bytes],
    *,
    username: str | None = None,
    password: str | None = None,
) -> WSGIApplication:
    """Make a WSGI app that serves the page.

    Args:
        render: Writes the page, as `genmeter.outputs.prometheus.PrometheusReader.render` does.
        username: The user that a scrape must name; with ``password`` or not at all.
        password: The password that a scrape must give.

    Raises:
        ConfigError: ``username`` or ``password`` is given alone, or cannot be used.
    """
    auth = basic_auth(username, password)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        headers = {
            name[5:].replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith("HTTP_")
        }
        path = _mounted(environ.get("PATH_INFO", ""))
        response = respond(environ["REQUEST_METHOD"], path, headers, render, auth)
        status = f"{response.status} {HTTPStatus(response.status).phrase}"
        start_response(status, _headers(environ["REQUEST_METHOD"], response))
        return [response.body]

    return app


def make_asgi_app(
    render: Callable[[bool], bytes],
    *,
    username: str | None = None,
    password: str | None = None,
) -> ASGIApplication:
    """Make an ASGI app that serves the page; it is written on a thread, off the event loop.

    Args:
        render: Writes the page, as `genmeter.outputs.prometheus.PrometheusReader.render` does.
        username: The user that a scrape must name; with ``password`` or not at all.
        password: The password that a scrape must give.

    Raises:
        ConfigError: ``username`` or ``password`` is given alone, or cannot be used.
    """
    auth = basic_auth(username, password)

    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in scope["headers"]
            }
            method = scope["method"]
            path = _mounted(scope["path"], scope.get("root_path", ""))
            response = await asyncio.to_thread(respond, method, path, headers, render, auth)
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

    return app


async def _live(receive: Receive, send: Send) -> None:
    """Tell the server that there is nothing to start and nothing to stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _mounted(path: str, root: str = "") -> str:
    """Return the path within the app; its root is the page.

    Some servers leave the prefix that an app is mounted at in the path, some take it away.
    """
    root = root.rstrip("/")
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    return METRICS_PATH if path in ("", "/", f"{METRICS_PATH}/") else path


def _headers(method: str, response: Response) -> list[tuple[str, str]]:
    # What a GET would have sent is not known without a collection, so HEAD gives no length.
    if method == "HEAD":
        return response.headers
    return [*response.headers, ("Content-Length", str(len(response.body)))]
