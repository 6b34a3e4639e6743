"""Holds up the drain, so that what is told waits."""

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
    """Let another thread read, and not come to an end before the block does."""
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
