"""The endpoint as a WSGI or ASGI app."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
import trio
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from genmeter.errors import ConfigError
from genmeter.exporters.apps import make_asgi_app, make_wsgi_app, settled_at_exit

if TYPE_CHECKING:
    from collections.abc import Collection

MAKERS = [make_wsgi_app, make_asgi_app]


def render(openmetrics: bool, names: Collection[str] = ()) -> bytes:
    """Return the name of the format and the selected names."""
    return (b"openmetrics" if openmetrics else b"text") + ",".join(sorted(names)).encode()


def wsgi(app: Any, path: str = "/metrics", method: str = "GET", **environ: str) -> Any:
    """Call a WSGI app under the standard library's validator; return status, headers and body."""
    answer: list[Any] = []
    environment: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, **environ}
    environment = {"QUERY_STRING": "", "SCRIPT_NAME": "", **environment}
    setup_testing_defaults(environment)
    parts = validator(app)(environment, lambda *given: answer.extend(given) or (lambda _: None))
    body = b"".join(parts)
    parts.close()
    return answer[0], dict(answer[1]), body


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/"])
def test_the_wsgi_app_serves_the_page(path: str) -> None:
    """The page is at its path, and at the root of a mounted app."""
    status, headers, body = wsgi(make_wsgi_app(render), path)
    assert (status, body) == ("200 OK", b"text")
    assert headers["Content-Length"] == "4"


def test_the_wsgi_app_negotiates_the_format() -> None:
    """The request's headers reach the negotiation."""
    app = make_wsgi_app(render)
    assert wsgi(app, HTTP_ACCEPT="application/openmetrics-text")[2] == b"openmetrics"


def test_the_wsgi_app_responds_like_the_server() -> None:
    """Health, unknown paths, other methods and HEAD work the same."""
    app = make_wsgi_app(render)
    assert wsgi(app, "/-/healthy")[2] == b"ok\n"
    assert wsgi(app, "/other")[0] == "404 Not Found"
    assert wsgi(app, method="POST")[0] == "405 Method Not Allowed"
    status, headers, body = wsgi(app, method="HEAD")
    assert (status, body) == ("200 OK", b"")
    assert "Content-Length" not in headers


def test_the_wsgi_app_supports_basic_auth() -> None:
    """A request without credentials is rejected."""
    app = make_wsgi_app(render, username="u", password="p")
    assert wsgi(app)[0] == "401 Unauthorized"
    assert wsgi(app, HTTP_AUTHORIZATION="Basic dTpw")[0] == "200 OK"


@pytest.mark.parametrize("make", MAKERS)
def test_a_user_name_without_a_password_is_an_error(make: Any) -> None:
    """The function that returns the app raises."""
    with pytest.raises(ConfigError, match="without password"):
        make(render, username="u")


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/"])
def test_the_asgi_app_serves_the_page(path: str) -> None:
    """The page is at its path, and at the root of a mounted app."""
    response = TestClient(make_asgi_app(render)).get(path)
    assert (response.status_code, response.content) == (200, b"text")
    assert response.headers["Content-Length"] == "4"


def test_the_asgi_app_responds_like_the_server() -> None:
    """Negotiation, health, unknown paths, other methods and HEAD work the same."""
    client = TestClient(make_asgi_app(render))
    accept = {"Accept": "application/openmetrics-text"}
    assert client.get("/metrics", headers=accept).content == b"openmetrics"
    assert client.get("/-/healthy").content == b"ok\n"
    assert client.get("/other").status_code == 404
    assert client.post("/metrics", content=b"x").status_code == 405
    assert "Content-Length" not in client.head("/metrics").headers


def test_the_asgi_app_supports_basic_auth() -> None:
    """A request without credentials is rejected."""
    client = TestClient(make_asgi_app(render, username="u", password="p"))
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", auth=("u", "p")).status_code == 200


@pytest.mark.parametrize(
    ("prefix", "path"),
    [
        ("/metrics", "/metrics/"),
        ("/monitoring", "/monitoring/metrics"),
        ("/a/b", "/a/b/"),
        ("/a/b", "/a/b/metrics"),
    ],
)
def test_the_asgi_app_works_under_a_prefix(prefix: str, path: str) -> None:
    """An app that Starlette mounts finds its paths."""
    client = TestClient(Starlette(routes=[Mount(prefix, make_asgi_app(render))]))
    assert client.get(path).content == b"text"
    assert client.get(f"{prefix}/-/healthy").content == b"ok\n"
    assert client.get(f"{prefix}/other").status_code == 404


@pytest.mark.parametrize(
    ("root", "path", "status"),
    [
        ("/api", "/metrics", 200),
        ("/metrics", "/metrics", 200),
        ("/api/", "/api/metrics", 200),
        ("/api", "/apimetrics", 404),
    ],
)
async def test_a_root_path_is_removed_only_if_present(root: str, path: str, status: int) -> None:
    """A proxy may have removed the prefix."""
    assert (await asgi(make_asgi_app(render), path, root))[0]["status"] == status


async def asgi(app: Any, path: str, root: str = "", headers: Any = ()) -> list[Any]:
    """Call an ASGI app; return the messages that it sent."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": path, "root_path": root, "headers": headers}
    await app(scope, receive, send)
    return sent


async def test_the_asgi_app_does_not_block_the_event_loop() -> None:
    """The event loop runs while a thread writes the page."""
    began, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    threads = []

    def slow(openmetrics: bool) -> bytes:
        threads.append(threading.current_thread())
        loop.call_soon_threadsafe(began.set)
        assert go.wait(60)
        return b"page"

    scrape = asyncio.create_task(asgi(make_asgi_app(slow), "/metrics"))
    await began.wait()
    go.set()
    assert (await scrape)[1]["body"] == b"page"
    assert threads != [threading.current_thread()]


def test_the_asgi_app_supports_lifespan() -> None:
    """A server can start and stop the app."""
    with TestClient(make_asgi_app(render)) as client:
        assert client.get("/metrics").status_code == 200


async def test_the_asgi_app_closes_websockets() -> None:
    """A websocket does not stay open."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await make_asgi_app(render)({"type": "websocket", "path": "/metrics"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]


async def test_repeated_headers_are_combined() -> None:
    """An ASGI server passes each line on its own."""
    lines = [(b"accept", b"application/openmetrics-text"), (b"Accept", b"text/plain;q=0.5")]
    for headers in (lines, lines[::-1]):
        sent = await asgi(make_asgi_app(render), "/metrics", headers=headers)
        assert sent[1]["body"] == b"openmetrics"


def test_samples_are_selected_by_name() -> None:
    """The names of the query reach the page in both kinds of app."""
    query = "name[]=b&name%5B%5D=a"
    assert wsgi(make_wsgi_app(render), QUERY_STRING=query)[2] == b"texta,b"
    response = TestClient(make_asgi_app(render)).get(f"/metrics?{query}")
    assert response.content == b"texta,b"


@pytest.mark.parametrize("path", ["/metrics", "/internal/metrics"])
def test_the_asgi_app_works_as_a_route_endpoint(path: str) -> None:
    """The page is served without a redirect, also for HEAD and OPTIONS."""
    app = Starlette(routes=[Route(path, make_asgi_app(render))])
    client = TestClient(app, follow_redirects=False)
    assert client.get(path).content == b"text"
    assert client.head(path).status_code == 200
    assert "GET" in client.options(path).headers["Allow"]


def test_the_asgi_app_runs_under_trio() -> None:
    """A thread writes the page while other tasks run."""
    began, go = trio.Event(), threading.Event()
    threads = []

    def slow(openmetrics: bool) -> bytes:
        threads.append(threading.current_thread())
        trio.from_thread.run_sync(began.set)
        assert go.wait(60)
        return b"page"

    async def scrape() -> list[Any]:
        sent: list[Any] = []

        async def task() -> None:
            sent.extend(await asgi(make_asgi_app(slow), "/metrics"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(task)
            await began.wait()
            go.set()
        return sent

    assert trio.run(scrape)[1]["body"] == b"page"
    assert threads != [threading.current_thread()]


def test_the_asgi_app_runs_with_trio_as_a_guest_of_asyncio() -> None:
    """Each library uses its own threads."""
    app = make_asgi_app(render)
    bodies: list[bytes] = []

    async def scrape() -> None:
        bodies.append((await asgi(app, "/metrics"))[1]["body"])

    async def host() -> None:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        trio.lowlevel.start_guest_run(
            scrape,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=ended.set_result,
        )
        await scrape()
        (await ended).unwrap()

    asyncio.run(host())
    assert bodies == [b"text", b"text"]


def test_the_asgi_app_runs_on_any_loop() -> None:
    """Without asyncio and trio the page is written on the same thread."""
    running = asgi(make_asgi_app(render), "/metrics")
    with pytest.raises(StopIteration) as ended:
        running.send(None)
    assert ended.value.value[1]["body"] == b"text"


# --- the lifespan ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_lifespan_settles_at_its_end_off_the_loop(loop: str) -> None:
    """Not before the app's own shutdown, and an exception of either does no harm to the other."""
    calls: list[str] = []

    def settle() -> None:
        calls.append("loop" if threading.current_thread() is threading.main_thread() else "settled")
        raise TimeoutError

    async def live() -> None:
        async with settled_at_exit(settle):
            calls.append("served")
        with pytest.raises(ValueError, match="theirs"):
            async with settled_at_exit(settle):
                raise ValueError("theirs")

    if loop == "trio":
        trio.run(live)
    else:
        asyncio.run(live())
    assert calls == ["served", "settled", "settled"]
