"""The OpenAI-compatible stub of the examples: what it answers, what it fails, what it counts."""

from __future__ import annotations

import importlib
import json
import math
import socket
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from _waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXAMPLES = Path(__file__).parents[2] / "examples"

TOKEN_NAMES = ("prompt_tokens", "completion_tokens", "total_tokens")


@pytest.fixture(scope="module")
def examples() -> Iterator[Callable[[str], Any]]:
    """Import a module of the examples folder by name."""
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def stub_class(examples: Callable[[str], Any]) -> Any:
    """Return the class of the stub."""
    return examples("openai_stub").OpenAIStub


def post(stub: Any, path: str, body: Any) -> tuple[int, dict[str, Any], Any]:
    """Return status, body and headers of the response to a POST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(stub.base_url + path, data, method="POST")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error), error.headers


def get(stub: Any, path: str) -> Any:
    """Return the JSON of a GET of a path below the server's root."""
    root = stub.base_url.removesuffix("/v1")
    with urllib.request.urlopen(root + path, timeout=30) as answer:  # noqa: S310
        return json.load(answer)


def chat(stub: Any, model: str = "m", text: str = "hello", **more: Any) -> Any:
    """Return status, body and headers of the response to a chat with a system prompt."""
    messages = [
        {"role": "system", "content": "You are a patient support agent of an online shop." * 3},
        {"role": "user", "content": text},
    ]
    return post(stub, "/chat/completions", {"model": model, "messages": messages, **more})


def test_totals_are_the_sums_of_all_usage(stub_class: Any) -> None:
    """They are exact with any number of clients."""
    shares = {"a": 0.25, "b": 0.0}
    with stub_class(fail_share=shares, latency=0) as stub, ThreadPoolExecutor(8) as pool:
        calls = [("a" if n % 3 else "b", f"question {n}") for n in range(120)]
        answers = list(pool.map(lambda call: (call[0], chat(stub, *call)), calls))
        totals = stub.totals
    for model in ("a", "b"):
        usage = [
            body["usage"] for name, (status, body, _) in answers if (name, status) == (model, 200)
        ]
        assert totals[model]["requests"] == sum(name == model for name, _ in calls)
        assert totals[model]["failures"] == totals[model]["requests"] - len(usage)
        for name in TOKEN_NAMES:
            assert totals[model][name] == sum(row[name] for row in usage) > 0
        cached = sum(row["prompt_tokens_details"]["cached_tokens"] for row in usage)
        assert 0 < totals[model]["cached_tokens"] == cached < totals[model]["prompt_tokens"]
        assert totals[model]["abandoned"] == 0
    assert totals["a"]["failures"] == 20


def test_seed_determines_responses_and_failures(stub_class: Any) -> None:
    """Another seed gives others."""

    def story(seed: int) -> list[tuple[int, Any]]:
        with stub_class(seed=seed, fail_share={"m": 0.3}, latency=0) as stub:
            answers = [chat(stub, text=f"question {n}")[:2] for n in range(30)]
        return [(status, body.get("choices")) for status, body in answers]

    assert story(1) == story(1)
    assert story(1) != story(2)
    assert [status for status, _ in story(1)] != [status for status, _ in story(2)]


@pytest.mark.parametrize(("share", "failures"), [(0.05, 2), (0.5, 20), (0.07, 2), (1, 39), (0, 0)])
def test_failure_rate_is_exact(stub_class: Any, share: float, failures: int) -> None:
    """It holds for each block of 20 requests, and the first request succeeds."""
    with stub_class(fail_share={"m": share}, latency=0) as stub:
        statuses = [chat(stub)[0] for _ in range(40)]
        assert chat(stub, "another")[0] == 200
        assert stub.totals["m"]["failures"] == failures
    assert statuses[0] == 200
    assert sum(status in (429, 500) for status in statuses) == failures


@pytest.mark.parametrize("retryable", [False, True])
def test_failure_is_an_openai_error(stub_class: Any, retryable: bool) -> None:
    """It says whether to retry, and uses no tokens."""
    with stub_class(fail_share={"m": 1}, latency=0, retryable=retryable) as stub:
        chat(stub)
        before = stub.totals["m"]
        status, body, headers = chat(stub)
        after = stub.totals["m"]
    kinds = {429: "rate_limit_exceeded", 500: "server_error"}
    assert body["error"]["type"] == body["error"]["code"] == kinds[status]
    assert headers["x-should-retry"] == (None if retryable else "false")
    assert (headers["retry-after-ms"] is not None) == retryable
    assert after == before | {"requests": 2, "failures": 1}


def test_repeated_request_gets_another_response(stub_class: Any) -> None:
    """Its system prompt comes from the cache."""
    with stub_class(latency=0) as stub:
        first, second = chat(stub)[1], chat(stub)[1]
    contents = [body["choices"][0]["message"]["content"] for body in (first, second)]
    assert contents[0] != contents[1]
    cached = [body["usage"]["prompt_tokens_details"]["cached_tokens"] for body in (first, second)]
    assert cached[0] == 0
    assert 0 < cached[1] < second["usage"]["prompt_tokens"]


def test_structured_responses_match_the_schema(stub_class: Any) -> None:
    """A chat with `response_format` is answered with a document that the schema accepts."""
    schema = {
        "type": "object",
        "properties": {"scores": {"type": "array", "items": {"type": "number"}}},
        "required": ["scores"],
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "judge", "schema": schema}}
    with stub_class(latency=0) as stub:
        for _ in range(20):
            _, body, _ = chat(stub, response_format=response_format)
            choice = body["choices"][0]
            scores = json.loads(choice["message"]["content"])["scores"]
            assert scores
            assert all(0 <= score <= 1 for score in scores)
            assert choice["finish_reason"] == "stop"
        _, body, _ = chat(stub, response_format={"type": "json_object"})
        assert isinstance(json.loads(body["choices"][0]["message"]["content"]), dict)


def test_unsupported_requests_are_errors_and_not_counted(stub_class: Any) -> None:
    """These are streams, unknown schemas, and invalid bodies or paths."""
    pattern = {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "a"}}}
    with stub_class(latency=0) as stub:
        refused = [
            chat(stub, stream=True),
            chat(stub, response_format=pattern),
            post(stub, "/chat/completions", b"no json"),
            post(stub, "/chat/completions", [1]),
            post(stub, "/embeddings", {"model": "m"}),
            post(stub, "/responses", {"model": "m"}),
        ]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(stub, "/nowhere")
        assert [status for status, _, _ in refused] == [400, 400, 400, 400, 400, 404]
        assert {body["error"]["type"] for _, body, _ in refused} == {"invalid_request_error"}
        assert stub.totals == {}


def test_embeddings_are_unit_vectors_in_the_order_of_the_texts(stub_class: Any) -> None:
    """A text always has the same vector, closer to texts with shared words."""
    texts = ["refund of a damaged parcel", "refund of a parcel", "quite another subject here"]
    with stub_class(latency=0) as stub:
        _, body, _ = post(stub, "/embeddings", {"model": "e", "input": texts})
        _, single, _ = post(stub, "/embeddings", {"model": "e", "input": texts[1]})
        tokens = stub.totals["e"]
    vectors = [row["embedding"] for row in body["data"]]
    assert [row["index"] for row in body["data"]] == [0, 1, 2]
    assert single["data"][0]["embedding"] == vectors[1]
    assert [math.hypot(*vector) for vector in vectors] == pytest.approx([1, 1, 1])
    near, far = (
        sum(x * y for x, y in zip(vectors[0], other, strict=True)) for other in vectors[1:]
    )
    assert near > far
    sent = body["usage"]["prompt_tokens"] + single["usage"]["prompt_tokens"]
    assert tokens["prompt_tokens"] == tokens["total_tokens"] == sent > 0
    assert tokens["completion_tokens"] == 0


def test_totals_and_models_are_served(stub_class: Any) -> None:
    """`/totals` has the same counts as the object, `/v1/models` the names seen so far."""
    with stub_class(latency=0) as stub:
        chat(stub, "b")
        chat(stub, "a")
        assert get(stub, "/totals") == stub.totals
        assert [row["id"] for row in get(stub, "/v1/models")["data"]] == ["a", "b"]


def test_disconnected_client_counts_as_abandoned(stub_class: Any) -> None:
    """Its request has no tokens."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with stub_class(latency=0.2) as stub:
        port = int(stub.base_url.removesuffix("/v1").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head.encode() + body)
        eventually(lambda: stub.totals.get("m", {}).get("abandoned"))
        totals = stub.totals["m"]
    assert (totals["requests"], totals["abandoned"], totals["total_tokens"]) == (1, 1, 0)


def test_exit_frees_port_and_threads(stub_class: Any) -> None:
    """After `__exit__` nothing listens and no thread of the server is left."""
    before = set(threading.enumerate())
    with stub_class(latency=0) as stub:
        port = int(stub.base_url.removesuffix("/v1").rpartition(":")[2])
        chat(stub)
    assert set(threading.enumerate()) == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("wrong", [{"fail_share": {"m": 1.5}}, {"latency": -1}])
def test_invalid_settings_are_named(stub_class: Any, wrong: dict[str, Any]) -> None:
    """A rate outside 0 to 1 or a negative latency is an error with the argument."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        stub_class(**wrong)


TREE = {
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 10},
                "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                "all": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            },
        }
    },
    "$ref": "#/$defs/Node",
}


def _is_tree(node: Any) -> bool:
    """Whether a value is a document of `TREE`."""
    return (
        set(node) == {"name", "next", "all"}
        and len(node["name"]) <= 10
        and (node["next"] is None or _is_tree(node["next"]))
        and all(map(_is_tree, node["all"]))
    )


@pytest.mark.parametrize(
    ("schema", "accepts"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 5}, lambda v: v in range(1, 6)),
        ({"type": "integer", "exclusiveMinimum": 7}, lambda v: isinstance(v, int) and v > 7),
        ({"type": "integer", "maximum": -5}, lambda v: isinstance(v, int) and v <= -5),
        ({"type": "integer", "multipleOf": 7, "minimum": 1}, lambda v: v % 7 == 0 and v > 0),
        ({"type": "number", "exclusiveMinimum": 2, "maximum": 3}, lambda v: 2 < v <= 3),
        ({"type": "number", "maximum": 0.25}, lambda v: v <= 0.25),
        ({"type": "number", "minimum": -2, "exclusiveMaximum": -1}, lambda v: -2 <= v < -1),
        ({"type": "string", "minLength": 300}, lambda v: len(v) >= 300),
        ({"type": "string", "format": "date"}, lambda v: len(v) == 10),
        ({"enum": ["a", 2, None]}, lambda v: v in ("a", 2, None)),
        ({"const": {"fixed": 1}}, lambda v: v == {"fixed": 1}),
        ({"type": ["string", "null"]}, lambda v: v is None or isinstance(v, str)),
        ({"type": "boolean"}, lambda v: isinstance(v, bool)),
        ({"type": "array", "items": {"type": "null"}, "minItems": 5}, lambda v: v == [None] * len(v) and len(v) >= 5),
        ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False}, lambda v: v == [1, 2]),
        ({"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]}, lambda v: v == {"a": 1, "b": 2}),
        ({"oneOf": [{"const": 1}, {"const": 2}]}, lambda v: v in (1, 2)),
        ({"properties": {"a": {"type": "string"}}}, lambda v: set(v) == {"a"}),
        (TREE, _is_tree),
    ],
)  # fmt: skip
def test_schema_is_filled_with_valid_values(
    examples: Callable[[str], Any], schema: dict[str, Any], accepts: Callable[[Any], bool]
) -> None:
    """The value is valid JSON for any random draw."""
    fill = examples("schema_filler").fill
    for seed in range(200 if schema is not TREE else 5):
        value = json.loads(json.dumps(fill(schema, Random(seed))))  # noqa: S311 - a seeded draw
        assert accepts(value), value


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^a+$"},
        {"type": "string", "format": "hostname"},
        {"type": "tuple"},
        {"$ref": "#/$defs/Missing"},
        {},
    ],
)
def test_unsupported_schema_is_an_error(
    examples: Callable[[str], Any], schema: dict[str, Any]
) -> None:
    """What the filler does not know raises its own error rather than giving a wrong document."""
    filler = examples("schema_filler")
    with pytest.raises(filler.UnsupportedSchemaError):
        filler.fill(schema, Random(0))  # noqa: S311 - a seeded draw
