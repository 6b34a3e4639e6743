"""Fill a JSON schema with plausible values, like a model with structured outputs.

It supports the part of JSON Schema that the OpenAI client sends for Pydantic models: objects, arrays,
the scalar types and their bounds, `enum`, `const`, `anyOf`/`oneOf`/`allOf`, `$ref` into `$defs`,
and the formats of Pydantic. Other schemas are an error.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

MAX_DEPTH = 8
"""Depth of a recursive schema from which on the smallest values are used."""

VOCABULARY = (
    "the order arrives a parcel from customer service with account help for invoice refund policy "
    "please explain how delivery works after payment method change and shipping address update "
    "our team can answer this question today because return window covers every damaged item"
)
WORDS = VOCABULARY.split()

FORMATS: Mapping[str, Callable[[Random], str]] = {
    "date": lambda rng: _moment(rng).date().isoformat(),
    "date-time": lambda rng: _moment(rng).isoformat(),
    "duration": lambda rng: f"PT{rng.randint(1, 120)}M",
    "email": lambda rng: f"{rng.choice(WORDS)}@example.com",
    "ipv4": lambda rng: f"192.0.2.{rng.randint(1, 254)}",
    "time": lambda rng: _moment(rng).time().isoformat(),
    "uri": lambda rng: f"https://example.com/{rng.choice(WORDS)}",
    "uuid": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
}


class UnsupportedSchemaError(ValueError):
    """The schema is not supported."""


def sentence(rng: Random, words: int) -> str:
    """Return a sentence of `words` words, at least one."""
    return " ".join(rng.choice(WORDS) for _ in range(max(1, words))).capitalize() + "."


def fill(schema: Mapping[str, Any], rng: Random) -> Any:
    """Return a value that the schema accepts.

    Args:
        schema: A JSON schema; references are looked up in its own `$defs` or `definitions`.
        rng: The random numbers.

    Raises:
        UnsupportedSchemaError: The schema has a `pattern`, an unknown `format` or type, or an invalid
            reference.
    """
    return _Filler(schema, rng).value(schema, 0)


def _moment(rng: Random) -> dt.datetime:
    start = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    return start + dt.timedelta(seconds=rng.randrange(366 * 86_400))


class _Filler:
    """Fills one document."""

    def __init__(self, root: Mapping[str, Any], rng: Random) -> None:
        self._root = root
        self._rng = rng

    def value(self, schema: Mapping[str, Any], depth: int) -> Any:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._rng.choice(list(schema["enum"]))
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return self.value(self._branch(schema[union], depth), depth + 1)
        kind = schema.get("type", "object" if "properties" in schema else None)
        if isinstance(kind, list):
            kind = "null" if depth >= MAX_DEPTH and "null" in kind else self._rng.choice(kind)
        makers: dict[Any, Callable[[Mapping[str, Any], int], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": lambda _schema, _depth: self._rng.random() < 0.5,
            "null": lambda _schema, _depth: None,
        }
        if kind not in makers:
            raise UnsupportedSchemaError(f"no value for type {kind!r} in {dict(schema)!r}")
        return makers[kind](schema, depth)

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Resolve references and merge `allOf`."""
        while "$ref" in schema:
            name = str(schema["$ref"])
            node: Any = self._root
            for part in name.removeprefix("#").strip("/").split("/"):
                if part:
                    node = node.get(part) if isinstance(node, Mapping) else None
            if not isinstance(node, Mapping):
                raise UnsupportedSchemaError(f"invalid reference {name!r}")
            schema = {**node, **{key: part for key, part in schema.items() if key != "$ref"}}
        if "allOf" not in schema:
            return schema
        merged: dict[str, Any] = {key: part for key, part in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            piece = self._resolved(part)
            properties = {**merged.get("properties", {}), **piece.get("properties", {})}
            merged |= piece
            if properties:
                merged["properties"] = properties
        return merged

    def _branch(self, branches: list[Mapping[str, Any]], depth: int) -> Mapping[str, Any]:
        """Choose a branch of a union; beyond the depth limit a scalar one, if any."""
        if depth >= MAX_DEPTH:
            for branch in branches:
                if self._resolved(branch).get("type") not in ("object", "array", None):
                    return branch
        return self._rng.choice(branches)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        return {name: self.value(part, depth + 1) for name, part in properties.items()}

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        low = int(schema.get("minItems", 0))
        # An empty list is unrealistic, so there is at least one item if possible.
        high = int(schema.get("maxItems", max(3, low)))
        number = self._rng.randint(min(max(1, low), high), high)
        count = low if depth >= MAX_DEPTH else number
        fixed = list(schema.get("prefixItems", ()))
        items = [self.value(part, depth + 1) for part in fixed]
        if "items" in schema and schema["items"] is not False:
            items += [self.value(schema["items"], depth + 1) for _ in range(count - len(fixed))]
        return items

    def _string(self, schema: Mapping[str, Any], _depth: int) -> str:
        if "pattern" in schema:
            raise UnsupportedSchemaError(f"strings with a pattern: {schema['pattern']!r}")
        if "format" in schema:
            make = FORMATS.get(schema["format"])
            if make is None:
                raise UnsupportedSchemaError(f"strings of format {schema['format']!r}")
            return make(self._rng)
        text = sentence(self._rng, self._rng.randint(4, 24))
        while len(text) < int(schema.get("minLength", 0)):
            text += " " + sentence(self._rng, 8)
        return text[: int(schema["maxLength"])] if "maxLength" in schema else text

    def _integer(self, schema: Mapping[str, Any], _depth: int) -> int:
        low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 101) - 1)
        # There may be only an upper bound, below 0.
        low, high = int(min(low, high)), int(high)
        step = int(schema.get("multipleOf", 1))
        return self._rng.randint(-(-low // step), high // step) * step

    def _number(self, schema: Mapping[str, Any], _depth: int) -> float:
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        if low is None and high is None:
            # A number without bounds is usually a score.
            low, high = 0.5, 1.0
        low = high - 1.0 if low is None else float(low)
        high = low + 1.0 if high is None else float(high)
        number = low + (high - low) * self._rng.uniform(0.01, 0.99)
        short = round(number, 4)
        return short if low < short < high else number
