"""A small server on loopback with the part of the OpenAI API that a generation job needs.

It answers `POST /v1/chat/completions` (plain and with `response_format`), `POST /v1/embeddings`
and `GET /v1/models` from a seed, fails a share of a model's requests, and counts the requests and
tokens of each model exactly, in code (`stub.totals`) and at `GET /totals`:

    with OpenAIStub(seed=7, fail_share={"chat-large": 0.05}) as stub:
        client = openai.OpenAI(base_url=stub.base_url, api_key="unused")

Equal sequences of requests get equal responses. A failed request has no tokens, so it adds only to
`requests` and `failures`.
"""

from __future__ import annotations

import argparse
import http.server
import json
import math
import select
import socket
import socketserver
import threading
import time
from collections import Counter, defaultdict
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

from schema_filler import UnsupportedSchemaError
from stub_model import Answer, StubModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

COUNTS = (
    "requests",
    "failures",
    "abandoned",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "total_tokens",
)
"""The counts of each model; `cached_tokens` are a part of `prompt_tokens`."""

FAILURE_BLOCK = 20
"""Number of requests over which the share of failures is exact."""


class Failure(NamedTuple):
    """An error in OpenAI's format."""

    status: int
    kind: str
    message: str


RATE_LIMITED = Failure(429, "rate_limit_exceeded", "Rate limit reached, please try again.")
SERVER_ERROR = Failure(500, "server_error", "The server had an error while processing.")


class OpenAIStub:
    """The server; a context manager that listens from `__enter__` to `__exit__`.

    Args:
        port: The port on loopback, 0 for any free.
        seed: Seed of responses and failures.
        fail_share: Share of failing requests, 0 to 1, by model. It is exact over each 20 requests,
            except that the first request of a model succeeds: monitors cannot assign a failure to a
            model that they have not seen.
        latency: Seconds per response.
        retryable: Whether clients may retry a failed request. By default `x-should-retry: false`
            disables retries, so that a failed request is a failed call. Otherwise the OpenAI client
            retries twice, unseen by monitors.

    Raises:
        ValueError: A share is not from 0 to 1, or the latency is negative.
    """

    def __init__(
        self,
        port: int = 0,
        seed: int = 0,
        fail_share: Mapping[str, float] | None = None,
        latency: float = 0.01,
        *,
        retryable: bool = False,
    ) -> None:
        for model, share in (fail_share or {}).items():
            if not 0 <= share <= 1:
                raise ValueError(f"fail_share of {model!r} must be from 0 to 1, got {share}")
        if latency < 0:
            raise ValueError(f"latency must be seconds of at least 0, got {latency}")
        self.retryable = retryable
        self.latency = latency
        self._seed = seed
        self._fail_share = dict(fail_share or {})
        self._lock = threading.Lock()
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.model = StubModel(seed)
        self._port = port

    def __enter__(self) -> Self:
        """Bind the port and start the server."""
        self._server = _Server(("127.0.0.1", self._port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop after the requests in progress."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def base_url(self) -> str:
        """The `base_url` for an OpenAI client, while the server runs."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def totals(self) -> dict[str, dict[str, int]]:
        """A copy of the counts by model, with all names of `COUNTS`.

        `requests` includes failed and abandoned ones. `abandoned` are requests whose client closed
        the connection before the response; they have no tokens.
        """
        with self._lock:
            return {
                model: {name: counts[name] for name in COUNTS}
                for model, counts in sorted(self._counts.items())
            }

    def models(self) -> dict[str, Any]:
        """Return the body of `GET /v1/models`: the requested models so far."""
        rows = [{"id": model, "object": "model", "owned_by": "stub"} for model in self.totals]
        return {"object": "list", "data": rows}

    def admit(self, model: str) -> Failure | None:
        """Count a request of a model; return its failure, if it is to fail."""
        with self._lock:
            counts = self._counts[model]
            index = counts["requests"]
            counts["requests"] += 1
            failure = self._planned_failure(model, index)
            counts["failures"] += failure is not None
            return failure

    def count_tokens(self, model: str, answer: Answer, sign: int = 1) -> None:
        """Add the tokens of a response, or with `sign` -1 subtract those of one not received."""
        with self._lock:
            counts = self._counts[model]
            counts["prompt_tokens"] += sign * answer.prompt_tokens
            counts["cached_tokens"] += sign * answer.cached_tokens
            counts["completion_tokens"] += sign * answer.completion_tokens
            counts["total_tokens"] += sign * (answer.prompt_tokens + answer.completion_tokens)

    def abandon(self, model: str) -> None:
        """Count a request whose client closed the connection."""
        with self._lock:
            self._counts[model]["abandoned"] += 1

    def _planned_failure(self, model: str, index: int) -> Failure | None:
        block, place = divmod(index, FAILURE_BLOCK)
        share = self._fail_share.get(model, 0.0) * FAILURE_BLOCK
        # Fractions are carried into the next block; the tiny term makes 0.05 * 20 one failure despite
        # rounding errors.
        due = math.floor((block + 1) * share + 1e-9) - math.floor(block * share + 1e-9)
        rng = Random(f"{self._seed}:{model}:{block}")
        places = rng.sample(range(FAILURE_BLOCK), FAILURE_BLOCK)
        if block == 0:
            places.remove(0)
        return rng.choice((RATE_LIMITED, SERVER_ERROR)) if place in places[:due] else None


class _Server(http.server.ThreadingHTTPServer):
    """One thread per request; all are joined when the server closes."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], stub: OpenAIStub) -> None:
        super().__init__(address, _Handler)
        self.stub = stub

    def server_bind(self) -> None:
        """Bind, without the parent's name look-up."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", int(self.server_address[1])


class _Handler(http.server.BaseHTTPRequestHandler):
    """The HTTP handler of `OpenAIStub`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 10
    connection: socket.socket

    @property
    def _stub(self) -> OpenAIStub:
        return cast("_Server", self.server).stub

    def do_GET(self) -> None:
        """Answer the counts and the list of models."""
        if self.path == "/totals":
            self._send(200, self._stub.totals)
        elif self.path == "/v1/models":
            self._send(200, self._stub.models())
        else:
            self._refuse(404, f"no such path: {self.path}")

    def do_POST(self) -> None:
        """Answer a chat or an embeddings request."""
        work = {
            "/v1/chat/completions": self._stub.model.chat,
            "/v1/embeddings": self._stub.model.embeddings,
        }.get(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if work is None:
            self._refuse(404, f"no such path: {self.path}")
            return
        try:
            request = json.loads(raw)
            model = str(request["model"])
            answer = work(request)
        except UnsupportedSchemaError as error:
            self._refuse(400, f"response_format: {error}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._refuse(400, f"invalid request: {error!r}")
        else:
            self._answer(model, answer)

    def _answer(self, model: str, answer: Answer) -> None:
        stub = self._stub
        failure = stub.admit(model)
        time.sleep(stub.latency)
        if failure is not None:
            error = {"message": failure.message, "type": failure.kind, "code": failure.kind}
            advice = {"retry-after-ms": "5"} if stub.retryable else {"x-should-retry": "false"}
            self._send(failure.status, {"error": error}, advice)
        elif self._hung_up():
            stub.abandon(model)
        else:
            # Counted before it is sent, so that the totals include received responses.
            stub.count_tokens(model, answer)
            try:
                self._send(200, answer.body)
            except OSError:
                stub.count_tokens(model, answer, sign=-1)
                stub.abandon(model)

    def _hung_up(self) -> bool:
        """Whether the client closed its connection without waiting."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def _refuse(self, status: int, message: str) -> None:
        error = {"message": message, "type": "invalid_request_error", "code": None}
        self._send(status, {"error": error})

    def _send(
        self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a JSON response and close the connection.

        Otherwise clients that are never closed would keep a connection and a thread per call.
        """
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.send_header("Connection", "close")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
        """Log nothing to the job's terminal."""


def _share(text: str) -> tuple[str, float]:
    model, _, share = text.rpartition("=")
    return model, float(share)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="An OpenAI-compatible stub on loopback.")
    parser.add_argument("--port", type=int, default=8089)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fail-share", type=_share, action="append", metavar="MODEL=SHARE")
    parser.add_argument("--latency", type=float, default=0.01, metavar="SECONDS")
    parser.add_argument("--retryable", action="store_true", help="let clients retry failures")
    options = parser.parse_args()
    with OpenAIStub(
        options.port,
        options.seed,
        dict(options.fail_share or ()),
        options.latency,
        retryable=options.retryable,
    ) as stub:
        print(f"base_url: {stub.base_url}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(json.dumps(stub.totals, indent=2))


if __name__ == "__main__":
    main()
