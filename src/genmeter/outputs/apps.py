"""The scrape endpoint as a WSGI or ASGI app, to mount in a server of the caller's.

Both answer as `genmeter.outputs.routes` says. Beneath whatever prefix an app is mounted, or its
route stands, the page is at the prefix itself and at ``/metrics``.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from genmeter.outputs.routes import METRICS_PATH, Routes, basic_auth, combine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from genmeter.outputs.routes import Render, Response

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    ASGIApplication = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

__all__ = ["make_asgi_app", "make_wsgi_app"]

_T = TypeVar("_T")


def make_wsgi_app(
    render: Render,
    *,
    username: str | None = None,
    password: str | None = None,
) -> WSGIApplication:
    """Make a WSGI app that serves the page.

    Args:
        render: Writes the page, as `genmeter.outputs.prometheus.PrometheusBridge.render` does.
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
        render: Writes the page, as `genmeter.outputs.prometheus.PrometheusBridge.render` does.
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
