"""The scrape endpoint as a WSGI or ASGI app, to mount in a server of the application.

Under any prefix of a mount or route, the page is at the prefix itself and at ``/metrics``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from genmeter.exporters._routes import METRICS_PATH, Routes, basic_auth, combine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from genmeter.exporters._routes import Render

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    ASGIApplication = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

__all__ = ["make_asgi_app", "make_wsgi_app", "off_the_loop", "settled_at_exit"]

_T = TypeVar("_T")


def make_wsgi_app(
    render: Render,
    *,
    username: str | None = None,
    password: str | None = None,
) -> WSGIApplication:
    """Return a WSGI app that serves the page.

    Args:
        render: Writes the page, like `genmeter.exporters.prometheus.PrometheusBridge.render`.
        username: The user name of a scrape; set together with ``password``.
        password: The password of a scrape.

    Raises:
        ConfigError: ``username`` or ``password`` is invalid, or set alone.
    """
    routes = Routes(render, basic_auth(username, password))

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Servers have already combined headers of the same name.
        headers = combine(
            (name[5:].replace("_", "-"), value)
            for name, value in environ.items()
            if name.startswith("HTTP_")
        )
        path = _path_in_app(environ.get("PATH_INFO", ""))
        query = environ.get("QUERY_STRING", "")
        response = routes.respond(environ["REQUEST_METHOD"], path, headers, query)
        status = f"{response.status} {HTTPStatus(response.status).phrase}"
        start_response(status, response.headers)
        return [response.body]

    return app


def make_asgi_app(
    render: Render,
    *,
    username: str | None = None,
    password: str | None = None,
) -> ASGIApplication:
    """Return an ASGI app that serves the page; it is written on a thread, off the event loop.

    It runs under asyncio, trio and libraries on top of them. Starlette and FastAPI accept it in
    ``mount()`` and as the endpoint of a ``Route``. Arguments and errors are those of
    `make_wsgi_app`.
    """
    return _ASGIApp(Routes(render, basic_auth(username, password)))


class _ASGIApp:
    """An ASGI app; an object, since Starlette treats a function as a request handler."""

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
        path = _path_in_app(scope["path"], scope.get("root_path", ""))
        query = scope.get("query_string", b"").decode("latin-1")
        response = await off_the_loop(
            functools.partial(self._routes.respond, scope["method"], path, headers, query)
        )
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": [
                    (name.lower().encode("latin-1"), value.encode("latin-1"))
                    for name, value in response.headers
                ],
            }
        )
        await send({"type": "http.response.body", "body": response.body})


@contextlib.asynccontextmanager
async def settled_at_exit(settle: Callable[[], object]) -> AsyncIterator[None]:
    """Call ``settle`` at the end of the context, on a thread; its exceptions are ignored."""
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            await off_the_loop(settle)


async def off_the_loop(call: Callable[[], _T]) -> _T:
    """Call a function on a thread of asyncio or trio; without either, on this thread."""
    # Trio first: as a guest it runs inside an event loop of asyncio.
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
    """Complete the startup and the shutdown, which have nothing to do."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _path_in_app(path: str, root: str = "") -> str:
    """Return the path within the app.

    Some servers leave the prefix of a mounted app in the path and some remove it. The path of a
    route, whose endpoint the app may be, is not a prefix.
    """
    root = root.rstrip("/")
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    return METRICS_PATH if path.rstrip("/").endswith(METRICS_PATH) else path
