"""A server of stored samples that answers as Prometheus's API does."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from genmeter.report.promapi import PrometheusApi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pytest

__all__ = ["CALL", "NOW", "Answer", "FakeServer", "StoredSamples", "serving_samples"]

NOW = 1_769_860_800.0
CALL: dict[str, Any] = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "_OTHER",
    "gen_ai_request_model": "atlas",
    "genmeter_phase": "generation",
}
"""The labels of a call."""

_MATCHER = re.compile(r'(\w+)(=~|!=|=)"((?:[^"\\]|\\.)*)"')
_LAST = re.compile(r"last_over_time\(([^\[]+)\[(\d+)ms\]\)")
_RANGE = re.compile(r"([^\[(]+)\[(\d+)ms\]")
_COUNT = re.compile(r"count\((last_over_time\(.+\))\)")
_SELECTOR = re.compile(r"(\w*)(?:\{(.*)\})?")

Answer = tuple[int, dict[str, str], bytes]


class StoredSamples:
    """Series with samples, and the answers to queries of them.

    Args:
        now: The server's Unix time.
        most: A query of more samples is refused.

    Attributes:
        queries: The expressions that were asked.
        extra: Answers to other expressions, as lists of labels and a value.
        is_closed: Whether a range includes its begin, as before Prometheus 3.
        warnings: Warnings of each answer.
    """

    def __init__(self, now: float = NOW, most: int = 10**9) -> None:
        self.now = now
        self.most = most
        self.queries: list[str] = []
        self.extra: dict[str, list[tuple[dict[str, str], float]]] = {}
        self.is_closed = False
        self.warnings: list[str] = []
        self._series: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}

    def add(self, labels: Mapping[str, str], *samples: tuple[float, float]) -> None:
        """Store samples of a series."""
        self._series.setdefault(frozenset(labels.items()), []).extend(samples)

    def counter(
        self,
        name: str,
        samples: Sequence[tuple[float, float]],
        *,
        births: Sequence[tuple[float, float]] = (),
        **labels: Any,
    ) -> None:
        """Store a counter of a target, with its births if there are any."""
        own = {"job": "writer", "instance": "10.0.0.1:9464", **labels}
        self.add({"__name__": name, **own}, *samples)
        if births:
            family = re.sub("_(total|bucket|sum|count)$", "", name)
            own.pop("le", None)
            self.add({"__name__": f"{family}_created", **own}, *births)

    def scrapes(self, times: Sequence[float], *, finished: float = 0.0, **labels: str) -> None:
        """Store the gauge that each scrape of a target has."""
        own = {"job": "writer", "instance": "10.0.0.1:9464", **labels}
        samples = [(at, finished if at == times[-1] else 0.0) for at in times]
        self.add({"__name__": "genmeter_job_finished", **own}, *samples)

    def respond(self, expression: str, at: float | None) -> Answer:
        """Return the status, headers and body of a query."""
        self.queries.append(expression)
        at = self.now if at is None else at
        if expression == "time()":
            return _ok({"resultType": "scalar", "result": [self.now, str(self.now)]}, [])
        data, count = self._evaluate(expression, at)
        if count > self.most:
            error = "query processing would load too many samples into memory in query execution"
            body = {"status": "error", "errorType": "execution", "error": error}
            return 422, {}, json.dumps(body).encode()
        return _ok(data, self.warnings)

    def _evaluate(self, expression: str, at: float) -> tuple[dict[str, Any], int]:
        if found := _COUNT.fullmatch(expression):
            series = self._evaluate(found[1], at)[0]["result"]
            counted = [{"metric": {}, "value": [at, str(len(series))]}] if series else []
            return {"resultType": "vector", "result": counted}, 1
        if found := _LAST.fullmatch(expression):
            chosen = self._choose(found[1], int(found[2]) / 1000, at)
            result = [
                {"metric": labels, "value": [at, str(samples[-1][1])]} for labels, samples in chosen
            ]
            return {"resultType": "vector", "result": result}, len(result)
        if found := _RANGE.fullmatch(expression):
            chosen = self._choose(found[1], int(found[2]) / 1000, at)
            result = [
                {"metric": labels, "values": [[when, str(value)] for when, value in samples]}
                for labels, samples in chosen
            ]
            return {"resultType": "matrix", "result": result}, sum(len(s) for _, s in chosen)
        key = next((key for key in self.extra if key in expression), "")
        vector = [
            {"metric": labels, "value": [at, str(value)]}
            for labels, value in self.extra.get(key, [])
        ]
        return {"resultType": "vector", "result": vector}, len(vector)

    def _choose(
        self, selector: str, seconds: float, at: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        parsed = _SELECTOR.fullmatch(selector)
        assert parsed, selector
        matchers = _MATCHER.findall(parsed[2] or "")
        if parsed[1]:
            matchers.append(("__name__", "=", parsed[1]))
        chosen = []
        for key, samples in self._series.items():
            labels = dict(key)
            if all(_matches(labels.get(name, ""), how, text) for name, how, text in matchers):
                begin = at - seconds
                within = sorted(
                    (when, value)
                    for when, value in samples
                    if begin < when <= at or (self.is_closed and when == begin)
                )
                if within:
                    chosen.append((labels, within))
        return chosen

    def replace_api(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Answer every client without a connection."""

        def get(_: PrometheusApi, path: str, parameters: dict[str, str]) -> Answer:
            at = parameters.get("time")
            return self.respond(parameters["query"], None if at is None else float(at))

        monkeypatch.setattr(PrometheusApi, "_get", get)


def _matches(text: str, how: str, wanted: str) -> bool:
    wanted = json.loads(f'"{wanted}"')
    if how == "=~":
        return re.fullmatch(wanted, text) is not None
    return (text == wanted) == (how == "=")


def _ok(data: dict[str, Any], warnings: list[str]) -> Answer:
    body: dict[str, Any] = {"status": "success", "data": data}
    if warnings:
        body["warnings"] = warnings
    return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()


class FakeServer:
    """What a test sees of the HTTP server.

    Attributes:
        url: Its address.
        requests: Path with query, and headers, of each request.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.requests: list[tuple[str, Any]] = []


@contextmanager
def serving_samples(
    respond: StoredSamples | Callable[[str], Answer],
) -> Iterator[FakeServer]:
    """Serve stored samples, or what a function returns for a path, on loopback."""

    class _Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.requests.append((self.path, self.headers))
            if isinstance(respond, StoredSamples):
                query = parse_qs(urlsplit(self.path).query)
                at = query.get("time")
                answer = respond.respond(query["query"][0], float(at[0]) if at else None)
            else:
                answer = respond(self.path)
            status, headers, body = answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        fake = FakeServer(server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()
