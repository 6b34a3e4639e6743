"""The model of the stub: responses, token counts and embeddings from a seed.

A token is four characters.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from schema_filler import fill, sentence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CACHE_STEP = 16
"""Size of the cached blocks, in tokens."""

DIMENSIONS = 48
"""Length of an embedding."""


class Answer(NamedTuple):
    """The body of a response, and its tokens."""

    body: dict[str, Any]
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


class StubModel:
    """Answers requests; equal sequences of requests get equal responses.

    Args:
        seed: The seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._seen: Counter[tuple[str, str]] = Counter()

    def chat(self, request: Mapping[str, Any]) -> Answer:
        """Answer a chat request.

        Raises:
            UnsupportedSchemaError: `response_format` has an unsupported schema.
            ValueError: The request is for a stream.
        """
        if request.get("stream"):
            raise ValueError("the stub does not stream")
        model, messages = str(request["model"]), list(request["messages"])
        rng, _ = self._rng(model, messages)
        texts = [_text(message) for message in messages]
        response_format = request.get("response_format") or {"type": "text"}
        finish = "stop"
        if response_format["type"] == "json_schema":
            content = json.dumps(fill(response_format["json_schema"]["schema"], rng))
        elif response_format["type"] == "json_object":
            content = json.dumps({"text": sentence(rng, 12)})
        else:
            content = sentence(rng, min(400, max(8, round(rng.lognormvariate(3.6, 0.6)))))
            finish = "length" if rng.random() < 0.04 else "stop"
        prompt = 3 + sum(4 + tokens(text) for text in texts) + tokens(json.dumps(response_format))
        completion = tokens(content)
        cached = self._cached(model, messages, texts)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
        message = {"role": "assistant", "content": content, "refusal": None}
        body = {
            "id": f"chatcmpl-{rng.getrandbits(64):016x}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": usage,
        }
        return Answer(body, prompt, cached, completion)

    def embeddings(self, request: Mapping[str, Any]) -> Answer:
        """Answer an embeddings request; vectors of texts with common words are similar."""
        texts = [request["input"]] if isinstance(request["input"], str) else request["input"]
        prompt = sum(tokens(text) for text in texts)
        data = [
            {"object": "embedding", "index": index, "embedding": embedding(text)}
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": prompt, "total_tokens": prompt}
        body = {"object": "list", "data": data, "model": request["model"], "usage": usage}
        return Answer(body, prompt)

    def _rng(self, model: str, messages: object) -> tuple[Random, int]:
        """Return the random numbers of a response, and the number of equal requests before.

        A repeated request gets another response, like from a model with a temperature. Otherwise a
        job that retries until a judge accepts would never end.
        """
        digest = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()
        with self._lock:
            before = self._seen[model, digest]
            self._seen[model, digest] += 1
        return Random(f"{self._seed}:{model}:{digest}:{before}"), before

    def _cached(
        self, model: str, messages: Sequence[Mapping[str, Any]], texts: Sequence[str]
    ) -> int:
        """Return the cached prompt tokens: those of a repeated system prompt."""
        if not messages or messages[0].get("role") != "system":
            return 0
        _, before = self._rng(model, messages[0])
        return tokens(texts[0]) // CACHE_STEP * CACHE_STEP if before else 0


def tokens(text: str) -> int:
    """Return the number of tokens of a text."""
    return math.ceil(len(text) / 4)


def embedding(text: str) -> list[float]:
    """Return the unit vector of a text: hashed words, and a common base for similarity."""
    vector = [0.5] * DIMENSIONS
    for word in text.lower().split():
        vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % DIMENSIONS] += 1
    norm = math.sqrt(sum(value * value for value in vector))
    return [value / norm for value in vector]


def _text(message: Mapping[str, Any]) -> str:
    """Return a message's text, whether it is a string or a list of parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content)
