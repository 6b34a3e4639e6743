"""Says once, at the start, what a sampler hides from a processor that the job adds to a provider itself.

A processor does not learn which provider it is added to, nor of the spans that the sampler drops. So the SDK's
``TracerProvider.add_span_processor`` is wrapped, once in a process, as the first such processor is made.
"""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

import wrapt

from genmeter.events.values import UNREADABLE
from genmeter.spans.sampling import hidden_by, is_usual

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["expect", "hidden_from", "keep_quiet"]

_logger = logging.getLogger("genmeter")
_expected: weakref.WeakSet[Any] = weakref.WeakSet()
_said: set[str] = set()
_MAX_SAID = 100
_is_patched = False


def expect(processor: Any) -> None:
    """Have it said what the sampler hides of the provider that a processor is added to."""
    global _is_patched  # noqa: PLW0603 - a patch of the process
    _expected.add(processor)
    if _is_patched:
        return
    _is_patched = True
    try:
        wrapt.wrap_function_wrapper(
            "opentelemetry.sdk.trace", "TracerProvider.add_span_processor", _add
        )
    except UNREADABLE:  # of another SDK: its first span says it
        return


def keep_quiet(processor: Any) -> None:
    """Undo :func:`expect`: what is hidden is said elsewhere."""
    _expected.discard(processor)


def hidden_from(processor: Any, sampler: Any) -> str | None:
    """Return what a sampler hides from a processor, if that has not been said yet; never raises."""
    try:
        if processor not in _expected:
            return None
        _expected.discard(processor)
        if sampler is None or is_usual(sampler):
            return None
        text = hidden_by(sampler)
        if text is None or text in _said or len(_said) >= _MAX_SAID:
            return None
        _said.add(text)
    except UNREADABLE:
        return None
    return f"{text} (docs/spans.md)"


def _add(wrapped: Any, provider: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    result = wrapped(*args, **kwargs)
    processor = args[0] if args else kwargs.get("span_processor")
    text = hidden_from(processor, getattr(provider, "sampler", None))
    if text is not None:
        _logger.warning("%s", text)
    return result
