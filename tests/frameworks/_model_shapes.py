"""The APIs of the model server: what requests of each vendor ask, and answers of its shape.

- OpenAI: ``/chat/completions``, ``/responses``, ``/completions``, ``/embeddings``
- Anthropic: ``/messages``
- Google: ``:generateContent``, ``:streamGenerateContent``, ``:embedContent``, ``:batchEmbedContents``
"""

from __future__ import annotations

import abc
import base64
import json
import re
import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _model_server import Entry, Orders

__all__ = ["Api", "Bill", "api_of", "bill", "error", "error_event", "other"]

_CREATED = 1_700_000_000
_DIMENSIONS = 4
_DEFAULT_TEXT = "the answer of number {} has some words"
_RESULT_TYPES = {"tool_result", "function_call_output"}


class Bill(NamedTuple):
    """What an answer says.

    Attributes:
        entry: The request's, with the billed tokens.
        orders: The request's.
        tool: Name and arguments of the tool that is called; None for a text.
    """

    entry: Entry
    orders: Orders
    tool: tuple[str, str] | None


class Api(abc.ABC):
    """One API; the base of each."""

    vendor = "openai"
    operation = "chat"

    def text(self, body: dict[str, Any]) -> str:
        """Return the text of the last user message."""
        return _last_text(body.get("messages", ()))

    def model(self, path: str, body: dict[str, Any]) -> str:
        """Return the model that is asked for."""
        return str(body.get("model") or path.split("/")[-3])

    def is_stream(self, path: str, body: dict[str, Any]) -> bool:
        """Return whether a stream is asked for."""
        return bool(body.get("stream"))

    def tools(self, body: dict[str, Any]) -> tuple[list[str], bool]:
        """Return the names of the tools, and whether one must be called."""
        names = [tool.get("function", tool).get("name") for tool in body.get("tools") or ()]
        choice = body.get("tool_choice")
        return [name for name in names if name], choice not in {None, "auto", "none"} if isinstance(
            choice, str | None
        ) else choice.get("type") not in {"auto", "none"}

    def has_result(self, body: dict[str, Any]) -> bool:
        """Return whether the request's last message is a tool's result."""
        return _is_result(body.get("messages") or ())

    def reason(self, bill: Bill) -> str:
        """Return why the answer ends, in the vendor's word."""
        return "tool_calls" if bill.tool else "length" if bill.orders.length else "stop"

    @abc.abstractmethod
    def whole(self, bill: Bill, answer: str | None) -> dict[str, Any]:
        """Return an answer that is no stream."""

    @abc.abstractmethod
    def events(self, bill: Bill, answer: str | None) -> list[bytes]:
        """Return the events of a stream."""


def _last_text(messages: Sequence[dict[str, Any]]) -> str:
    for message in reversed(messages):
        if message.get("role") in {"user", None} and (text := _text_of(message.get("content"))):
            return text
    return ""


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or () if isinstance(part, dict))


def _is_result(messages: Sequence[dict[str, Any]]) -> bool:
    if not messages or not isinstance(messages[-1], dict):
        return False
    last = messages[-1]
    content = last.get("content")
    parts = content if isinstance(content, list) else ()
    kinds = {last.get("type"), *(part.get("type") for part in parts if isinstance(part, dict))}
    return last.get("role") == "tool" or not _RESULT_TYPES.isdisjoint(kinds)


def bill(api: Api, entry: Entry, orders: Orders) -> Bill:
    """Set what a request is billed, and return what its answer says."""
    number = entry.number
    entry.input = 1000 + 13 * number
    entry.output = 0 if api.operation == "embeddings" else 100 + 7 * number
    entry.has_usage = not orders.no_usage
    if orders.cached:
        entry.cached = 40 + number
        entry.cache_written = 30 + number if api.vendor == "anthropic" else 0
    if orders.reasoning and api.vendor != "anthropic":
        entry.reasoning = 20 + number
    if entry.is_stream and api.operation in {"chat", "text_completion"} and api.vendor == "openai":
        entry.has_usage &= bool((entry.body.get("stream_options") or {}).get("include_usage"))
    entry.id = f"{_PREFIXES.get(api.operation, 'id')}-{entry.vendor}-{number}"
    names, is_demanded = api.tools(entry.body)
    tool = None
    if names and not api.has_result(entry.body):
        if orders.answer is not None and is_demanded:
            tool = (names[0], orders.answer)
        elif orders.tool or (is_demanded and orders.answer is None):
            tool = (names[0], '{"city": "Oslo"}')
    billed = Bill(entry, orders, tool)
    entry.finish_reason = None if api.operation == "embeddings" else api.reason(billed)
    return billed


_PREFIXES = {"chat": "chatcmpl", "responses": "resp", "text_completion": "cmpl"}


def _answer(bill: Bill, answer: str | None) -> str:
    if answer is None:
        answer = bill.orders.answer
    return answer if answer is not None else _DEFAULT_TEXT.format(bill.entry.number)


def _pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*$|\s*\S+", text) or [text]


def _sse(data: dict[str, Any], name: str | None = None) -> bytes:
    event = f"event: {name}\n" if name else ""
    return f"{event}data: {json.dumps(data)}\n\n".encode()


class _Chat(Api):
    """OpenAI's chat completions."""

    def usage(self, entry: Entry) -> dict[str, Any]:
        """Return the usage."""
        usage: dict[str, Any] = {
            "prompt_tokens": entry.input,
            "completion_tokens": entry.output,
            "total_tokens": entry.input + entry.output,
        }
        if entry.cached:
            usage["prompt_tokens_details"] = {"cached_tokens": entry.cached}
        if entry.reasoning:
            usage["completion_tokens_details"] = {"reasoning_tokens": entry.reasoning}
        return usage

    def whole(self, bill: Bill, answer: str | None) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": _answer(bill, answer)}
        if bill.tool:
            message = {"role": "assistant", "content": None, "tool_calls": [self._called(bill)]}
        choices = [
            {
                "index": index,
                "message": message,
                "logprobs": None,
                "finish_reason": self.reason(bill),
            }
            for index in range(bill.entry.body.get("n") or 1)
        ]
        whole = self._frame(bill, "chat.completion", choices)
        if bill.entry.has_usage:
            whole["usage"] = self.usage(bill.entry)
        return whole

    def events(self, bill: Bill, answer: str | None) -> list[bytes]:
        entry = bill.entry
        indices = range(entry.body.get("n") or 1)
        if bill.tool:
            called, arguments = self._called(bill, ""), bill.tool[1]
            half = len(arguments) // 2
            deltas = [{"tool_calls": [{"index": 0, **called}]}]
            deltas += [
                {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}
                for part in (arguments[:half], arguments[half:])
            ]
        else:
            deltas = [{"content": piece} for piece in _pieces(_answer(bill, answer))]
        deltas = [{"role": "assistant", "content": ""}, *deltas]
        choices = [
            {"index": index, "delta": delta, "finish_reason": None}
            for delta in deltas
            for index in indices
        ]
        choices += [
            {"index": index, "delta": {}, "finish_reason": self.reason(bill)} for index in indices
        ]
        chunks = [self._frame(bill, "chat.completion.chunk", [choice]) for choice in choices]
        if entry.has_usage:
            chunks = [{**chunk, "usage": None} for chunk in chunks]
            last = self._frame(bill, "chat.completion.chunk", [])
            chunks.append({**last, "usage": self.usage(entry)})
        return [*map(_sse, chunks), b"data: [DONE]\n\n"]

    @staticmethod
    def _called(bill: Bill, arguments: str | None = None) -> dict[str, Any]:
        assert bill.tool
        name, usual = bill.tool
        function = {"name": name, "arguments": usual if arguments is None else arguments}
        return {"id": f"call_{bill.entry.number}", "type": "function", "function": function}

    @staticmethod
    def _frame(bill: Bill, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": bill.entry.id,
            "object": kind,
            "created": _CREATED,
            "model": bill.entry.model,
            "choices": choices,
        }


class _Completions(_Chat):
    """OpenAI's legacy completions, with log probabilities; one choice for each prompt."""

    operation = "text_completion"

    def text(self, body: dict[str, Any]) -> str:
        prompt = body.get("prompt")
        if isinstance(prompt, list) and prompt and isinstance(prompt[-1], str):
            return str(prompt[-1])
        return prompt if isinstance(prompt, str) else ""

    def whole(self, bill: Bill, answer: str | None) -> dict[str, Any]:
        body = bill.entry.body
        prompts = body.get("prompt")
        if not isinstance(prompts, list) or (prompts and isinstance(prompts[0], int)):
            prompts = [prompts]
        choices = []
        for prompt in prompts:
            for _ in range(body.get("n") or 1):
                choices.append(self._choice(len(choices), bill, prompt, _answer(bill, answer)))
        whole = self._frame(bill, "text_completion", choices)
        if bill.entry.has_usage:
            whole["usage"] = self.usage(bill.entry)
        return whole

    def _choice(self, index: int, bill: Bill, prompt: Any, answer: str) -> dict[str, Any]:
        body = bill.entry.body
        tokens = _pieces(answer)[: body.get("max_tokens") or None]
        if body.get("echo"):
            echoed = _pieces(prompt) if isinstance(prompt, str) else [f" {each}" for each in prompt]
            tokens = [*echoed, *tokens]
        choice: dict[str, Any] = {
            "index": index,
            "text": "".join(tokens) if body.get("echo") else answer,
            "logprobs": None,
            "finish_reason": self.reason(bill),
        }
        if body.get("logprobs"):
            values: list[float | None] = [
                -0.5 - zlib.crc32(each.encode()) % 9 / 10 for each in tokens
            ]
            if body.get("echo"):
                values[0] = None  # nothing is before the first token of a prompt
            choice["logprobs"] = {
                "tokens": tokens,
                "token_logprobs": values,
                "top_logprobs": [
                    None if value is None else {token: value}
                    for token, value in zip(tokens, values, strict=True)
                ],
                "text_offset": [sum(map(len, tokens[:at])) for at in range(len(tokens))],
            }
        return choice

    def events(self, bill: Bill, answer: str | None) -> list[bytes]:
        pieces = _pieces(_answer(bill, answer))
        chunks = [
            self._frame(
                bill,
                "text_completion",
                [
                    {
                        "index": 0,
                        "text": piece,
                        "finish_reason": self.reason(bill) if number == len(pieces) else None,
                    }
                ],
            )
            for number, piece in enumerate(pieces, 1)
        ]
        if bill.entry.has_usage:
            last = self._frame(bill, "text_completion", [])
            chunks.append({**last, "usage": self.usage(bill.entry)})
        return [*map(_sse, chunks), b"data: [DONE]\n\n"]


class _Embeddings(Api):
    """OpenAI's embeddings."""

    operation = "embeddings"

    def text(self, body: dict[str, Any]) -> str:
        given = body.get("input")
        if isinstance(given, list):
            return " ".join(each for each in given if isinstance(each, str))
        return given if isinstance(given, str) else ""

    def whole(self, bill: Bill, answer: str | None) -> dict[str, Any]:
        body, entry = bill.entry.body, bill.entry
        given = body.get("input")
        is_one = not isinstance(given, list) or (given and isinstance(given[0], int))
        data = []
        for index in range(1 if is_one else len(given)):
            values: Any = _vector(entry.number + index)
            if body.get("encoding_format") == "base64":
                values = base64.b64encode(struct.pack(f"<{_DIMENSIONS}f", *values)).decode()
            data.append({"object": "embedding", "index": index, "embedding": values})
        whole = {"object": "list", "data": data, "model": entry.model}
        if entry.has_usage:
            whole["usage"] = {"prompt_tokens": entry.input, "total_tokens": entry.input}
        return whole

    def is_stream(self, path: str, body: dict[str, Any]) -> bool:
        return False

    def events(self, bill: Bill, answer: str | None) -> list[bytes]:
        return []


def _vector(seed: int) -> list[float]:
    return [((seed + at) % 7 + 1) / 8 for at in range(_DIMENSIONS)]


class _Responses(Api):
    """OpenAI's responses."""

    operation = "responses"

    def text(self, body: dict[str, Any]) -> str:
        given = body.get("input")
        return given if isinstance(given, str) else _last_text(given or ())

    def has_result(self, body: dict[str, Any]) -> bool:
        given = body.get("input")
        return isinstance(given, list) and _is_result(given)

    def reason(self, bill: Bill) -> str:
        return "max_output_tokens" if bill.orders.length else "completed"

    def _response(self, bill: Bill, output: list[dict[str, Any]], status: str) -> dict[str, Any]:
        entry = bill.entry
        is_over = status != "in_progress"
        usage = {
            "input_tokens": entry.input,
            "input_tokens_details": {"cached_tokens": entry.cached},
            "output_tokens": entry.output,
            "output_tokens_details": {"reasoning_tokens": entry.reasoning},
            "total_tokens": entry.input + entry.output,
        }
        return {
            "id": entry.id,
            "object": "response",
            "created_at": _CREATED,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": self.reason(bill)} if status == "incomplete" else None,
            "instructions": None,
            "metadata": {},
            "model": entry.model,
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": entry.body.get("tools") or [],
            "top_p": 1.0,
            "usage": usage if is_over and entry.has_usage else None,
        }

    def _item(self, bill: Bill, answer: str | None) -> dict[str, Any]:
        if bill.tool:
            return {
                "type": "function_call",
                "id": f"fc_{bill.entry.number}",
                "call_id": f"call_{bill.entry.number}",
                "name": bill.tool[0],
                "arguments": bill.tool[1],
                "status": "completed",
            }
        part = {"type": "output_text", "text": _answer(bill, answer), "annotations": []}
        return {
            "type": "message",
            "id": f"msg_{bill.entry.number}",
            "role": "assistant",
            "status": "incomplete" if bill.orders.length else "completed",
            "content": [part],
        }

    def whole(self, bill: Bill, answer: str | None) -> dict[str, Any]:
        status = "incomplete" if bill.orders.length else "completed"
        return self._response(bill, [self._item(bill, answer)], status)

    def events(self, bill: Bill, answer: str | None) -> list[bytes]:
        item = self._item(bill, answer)
        begun = self._response(bill, [], "in_progress")
        where = {"item_id": item["id"], "output_index": 0}
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
        ]
        if bill.tool:
            empty = {**item, "arguments": "", "status": "in_progress"}
            events += [
                {"type": "response.output_item.added", "output_index": 0, "item": empty},
                {
                    "type": "response.function_call_arguments.delta",
                    **where,
                    "delta": item["arguments"],
                },
                {
                    "type": "response.function_call_arguments.done",
                    **where,
                    "name": item["name"],
                    "arguments": item["arguments"],
                },
            ]
        else:
            part = item["content"][0]
            where = {**where, "content_index": 0}
            empty = {**item, "content": [], "status": "in_progress"}
            events += [
                {"type": "response.output_item.added", "output_index": 0, "item": empty},
                {"type": "response.content_part.added", **where, "part": {**part, "text": ""}},
                *(
                    {
                        "type": "response.output_text.delta",
                        **where,
                        "delta": piece,
                        "logprobs": [],
                    }
                    for piece in _pieces(part["text"])
                ),
                {
                    "type": "response.output_text.done",
                    **where,
                    "text": part["text"],
                    "logprobs": [],
                },
                {"type": "response.content_part.done", **where, "part": part},
            ]
        ended = "incomplete" if bill.orders.length else "completed"
        events += [
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": f"response.{ended}", "response": self._response(bill, [item], ended)},
        ]
        return [
            _sse({**event, "sequence_number": number}, event["type"])
            for number, event in enumerate(events)
        ]


class _Messages(Api):
    """Anthropic's messages."""

    vendor = "anthropic"

    def reason(self, bill: Bill) -> str:
        return "tool_use" if bill.tool else "max_tokens" if bill.orders.length else "end_turn"

    def _usage(self, entry: Entry, output: int) -> dict[str, Any]:
        usage: dict[str, Any] = {
            "input_tokens": entry.input - entry.cached - entry.cache_written,
            "cache_creation_input_tokens": entry.cache_written,
            "cache_read_input_tokens": entry.cached,
            "output_tokens": output,
        }
        if entry.cache_written:
            usage["cache_creation"] = {
                "ephemeral_5m_input_tokens": entry.cache_written,
                "ephemeral_1h_input_tokens": 0,
            }
        return usage

    def _message(
        self, bill: Bill, content: list[dict[str, Any]], *, is_over: bool
    ) -> dict[str, Any]:
        entry = bill.entry
        return {
            "id": entry.id,
            "type": "message",
            "role": "assistant",
            "model": entry.model,
            "content": content,
            "stop_reason": self.reason(bill) if is_over else None,
            "stop_sequence": None,
            "usage": self._usage(entry, entry.output if is_over else 1),
        }

    def _block(self, bill: Bill, answer: str | None) -> dict[str, Any]:
        if bill.tool:
            return {
                "type": "tool_use",
                "id": f"toolu_{bill.entry.number}",
                "name": bill.tool[0],
                "input": json.loads(bill.tool[1]),
            }
        return {"type": "text", "text": _answer(bill, answer)}

    def whole(self, bill: Bill, answer: str | None) -> dict[str, Any]:
        return self._message(bill, [self._block(bill, answer)], is_over=True)

    def events(self, bill: Bill, answer: str | None) -> list[bytes]:
        block = self._block(bill, answer)
        if bill.tool:
            empty = {**block, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": bill.tool[1]}]
        else:
            empty = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
        usage = self._usage(bill.entry, bill.entry.output)
        usage.pop("cache_creation", None)
        end = {"stop_reason": self.reason(bill), "stop_sequence": None}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": self._message(bill, [], is_over=False)},
            {"type": "content_block_start", "index": 0, "content_block": empty},
            *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": end, "usage": usage},
            {"type": "message_stop"},
        ]
        return [_sse(event, event["type"]) for event in events]


class _Google(Api):
    """Google's generation of content."""

    vendor = "google"
    operation = "generate_content"

    def text(self, body: dict[str, Any]) -> str:
        contents = [
            {"role": each.get("role"), "content": each.get("parts")}
            for each in body.get("contents") or ()
        ]
        return _last_text(contents)

    def model(self, path: str, body: dict[str, Any]) -> str:
        return path.rpartition("/")[2].partition(":")[0]

    def is_stream(self, path: str, body: dict[str, Any]) -> bool:
        return path.endswith(":streamGenerateContent")

    def tools(self, body: dict[str, Any]) -> tuple[list[str], bool]:
        names = [
            declared["name"]
            for tool in body.get("tools") or ()
            for declared in tool.get("functionDeclarations") or ()
        ]
        calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
        return names, calling.get("mode") == "ANY"

    def has_result(self, body: dict[str, Any]) -> bool:
        contents = body.get("contents") or [{}]
        return any("functionResponse" in part for part in contents[-1].get("parts") or ())

    def reason(self, bill: Bill) -> str:
        return "MAX_TOKENS" if bill.orders.length else "STOP"

    def _chunk(self, bill: Bill, part: dict[str, Any], *, is_over: bool) -> dict[str, Any]:
        entry = bill.entry
        candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}, "index": 0}
        usage = {"promptTokenCount": entry.input, "totalTokenCount": entry.input}
        if entry.cached:
            usage["cachedContentTokenCount"] = entry.cached
        if is_over:
            candidate["finishReason"] = self.reason(bill)
            usage["candidatesTokenCount"] = entry.output - entry.reasoning
            usage["totalTokenCount"] = entry.input + entry.output
            if entry.reasoning:
                usage["thoughtsTokenCount"] = entry.reasoning
        chunk = {"candidates": [candidate], "modelVersion": entry.model, "responseId": entry.id}
        if entry.has_usage:
            chunk["usageMetadata"] = usage
        return chunk

    def _parts(self, bill: Bill, answer: str | None) -> list[dict[str, Any]]:
        if bill.tool:
            called = {"name": bill.tool[0], "args": json.loads(bill.tool[1])}
            return [{"functionCall": called}]
        return [{"text": piece} for piece in _pieces(_answer(bill, answer))]

    def whole(self, bill: Bill, answer: str | None) -> dict[str, Any]:
        parts = self._parts(bill, answer)
        text = {"text": "".join(part["text"] for part in parts)} if not bill.tool else parts[0]
        return self._chunk(bill, text, is_over=True)

    def events(self, bill: Bill, answer: str | None) -> list[bytes]:
        parts = self._parts(bill, answer)
        return [
            _sse(self._chunk(bill, part, is_over=number == len(parts)))
            for number, part in enumerate(parts, 1)
        ]


class _GoogleEmbeddings(_Google):
    """Google's embeddings, whose answers have no usage."""

    operation = "embeddings"

    def text(self, body: dict[str, Any]) -> str:
        contents = [each.get("content") or {} for each in body.get("requests") or (body,)]
        return " ".join(_text_of(content.get("parts")) for content in contents)

    def whole(self, bill: Bill, answer: str | None) -> dict[str, Any]:
        entry = bill.entry
        entry.has_usage = False
        requests = entry.body.get("requests")
        if requests is None:
            return {"embedding": {"values": _vector(entry.number)}}
        return {
            "embeddings": [{"values": _vector(entry.number + at)} for at in range(len(requests))]
        }


_APIS: dict[str, Api] = {
    "/chat/completions": _Chat(),
    "/responses": _Responses(),
    "/completions": _Completions(),
    "/embeddings": _Embeddings(),
    "/messages": _Messages(),
    ":generateContent": _Google(),
    ":streamGenerateContent": _Google(),
    ":embedContent": _GoogleEmbeddings(),
    ":batchEmbedContents": _GoogleEmbeddings(),
}


def api_of(path: str) -> Api | None:
    """Return the API at a path; None for one that bills nothing."""
    return next((api for end, api in _APIS.items() if path.endswith(end)), None)


def other(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the status and the answer of a request that bills nothing."""
    if path.endswith("/models"):
        model = {
            "id": "gpt-4o-mini",
            "object": "model",
            "created": _CREATED,
            "owned_by": "loopback",
        }
        return 200, {"object": "list", "data": [model]}
    if path.endswith("/count_tokens"):
        return 200, {"input_tokens": len(_last_text(body.get("messages", ())).split())}
    return 404, error("openai", 404)


_STATUS_TYPES = {
    "openai": {401: "authentication_error", 429: "rate_limit_exceeded", 500: "server_error"},
    "anthropic": {
        401: "authentication_error",
        429: "rate_limit_error",
        500: "api_error",
        529: "overloaded_error",
    },
    "google": {
        400: "INVALID_ARGUMENT",
        401: "UNAUTHENTICATED",
        429: "RESOURCE_EXHAUSTED",
        503: "UNAVAILABLE",
    },
}


def error(vendor: str, status: int) -> dict[str, Any]:
    """Return the body of an error."""
    message = f"the model server answers {status}"
    kinds = _STATUS_TYPES[vendor]
    if vendor == "google":
        kind = kinds.get(status, "INTERNAL")
        return {"error": {"code": status, "message": message, "status": kind}}
    kind = kinds.get(status, "invalid_request_error")
    body = {"type": kind, "message": message}
    if vendor == "anthropic":
        return {"type": "error", "error": body, "request_id": "req_1"}
    return {"error": {**body, "param": None, "code": kind}}


def error_event(api: Api) -> bytes:
    """Return an error in the middle of a stream."""
    if api.operation == "responses":
        failed = {"code": "server_error", "message": "the model server failed", "param": None}
        return _sse({"type": "error", "sequence_number": 9, **failed}, "error")
    name = "error" if api.vendor == "anthropic" else None
    return _sse(error(api.vendor, 529 if name else 500), name)
