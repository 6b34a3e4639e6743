"""Answers read from vendors' objects, their dumps and their JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from genmeter.usage.chunks import ChunkReader
from genmeter.usage.reading import Reading

if TYPE_CHECKING:
    from genmeter.events.answers import Answer

__all__ = ["answer_of", "forms_of"]


def answer_of(*objects: Any) -> Answer:
    """Return what objects say together, which is the same through the reader of chunks."""
    reading, chunked = Reading(), Reading()
    reader = ChunkReader(chunked)
    for each in objects:
        reading.read(each)
        reader.read(each)
    assert chunked.answer() == reading.answer()
    return reading.answer()


def forms_of(obj: Any) -> list[Any]:
    """Return a pydantic object, its dumps and its JSON."""
    return [
        obj,
        obj.model_dump(),
        obj.model_dump(by_alias=True),
        json.loads(obj.model_dump_json()),
        json.loads(obj.model_dump_json(exclude_none=True)),
    ]
