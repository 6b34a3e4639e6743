"""Blocks the drain, so that events stay pending."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genmeter.pipeline.drain import Pipeline

__all__ = ["held"]

_HANG = 30.0


@contextmanager
def held(pipeline: Pipeline) -> Iterator[None]:
    """Block the owner of a pipeline until the end of the block."""
    gate, has_begun = threading.Event(), threading.Event()

    def read() -> None:
        has_begun.set()
        gate.wait(_HANG)

    reader = threading.Thread(target=pipeline.run, args=[read], daemon=True)
    reader.start()
    assert has_begun.wait(_HANG)
    try:
        yield
    finally:
        gate.set()
        reader.join(_HANG)
