"""The arithmetic of a price: quantities of one answer times rates.

A user's prices and those of the ``genai-prices`` list become the same `Rates`, so that both treat
every quantity alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genmeter.events.answers import TokenCounts

__all__ = ["TOKEN_FIELDS", "Rates", "Steps", "rates_at"]

_MILLION = 1_000_000
# Modalities with prices of their own, and the fields of their fresh and cached input tokens.
_INPUTS = (
    ("audio", "input_audio", "cached_audio"),
    ("image", "input_image", "cached_image"),
    ("video", "input_video", "cached_video"),
)
_OUTPUTS = (
    ("audio", "output_audio"),
    ("image", "output_image"),
    ("video", "output_video"),
)


class Rates(NamedTuple):
    """Rates of one model for calls of one size and tier.

    Attributes:
        input: USD per million input tokens.
        output: USD per million output tokens.
        cached_input: The same of input tokens read from a cache. None, here and below: no price of
            its own.
        cache_write: Of input tokens written to a cache.
        cache_write_1h: Of those that are kept for an hour.
        reasoning: Of output tokens of reasoning.
        input_audio: Of audio in the input; ``cached_audio`` of the part read from a cache,
            ``output_audio`` of audio in the output. The same for images and video.
        search: USD for each search.
        request: USD for each call.
    """

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    reasoning: float | None = None
    input_audio: float | None = None
    cached_audio: float | None = None
    output_audio: float | None = None
    input_image: float | None = None
    cached_image: float | None = None
    output_image: float | None = None
    input_video: float | None = None
    cached_video: float | None = None
    output_video: float | None = None
    search: float | None = None
    request: float | None = None

    def usd(self, tokens: TokenCounts, calls: int = 1) -> float:
        """Return the USD of tokens.

        A part is never larger than the whole: numbers of a provider that contradict each other are
        limited, rather than priced below 0.

        Args:
            tokens: The tokens of one answer, or the sum of several.
            calls: Number of calls that used them.
        """
        inputs, outputs = _count(tokens.input), _count(tokens.output)
        read = min(_count(tokens.cache_read), inputs)
        for_hour = _count(tokens.cache_write_1h)
        written = min(max(_count(tokens.cache_write), for_hour), inputs - read)
        fresh = inputs - read - written
        if self.cache_write is None and self.cache_write_1h is None:
            fresh, written = fresh + written, 0
        cached = self.input if self.cached_input is None else self.cached_input
        usd = 0.0
        if tokens.input_by:
            by, read_by = dict(tokens.input_by), dict(tokens.cache_read_by)
            for modality, name, cached_name in _INPUTS:
                rate, cached_rate = getattr(self, name), getattr(self, cached_name)
                if rate is None and cached_rate is None:
                    continue
                whole = min(_count(by.get(modality)), fresh + read)
                part = min(whole - min(_count(read_by.get(modality)), whole, read), fresh)
                hit = min(whole - part, read)
                if rate is None:
                    rate = self.input
                if cached_rate is None:
                    cached_rate = rate if self.cached_input is None else self.cached_input
                usd += part * rate + hit * cached_rate
                fresh, read = fresh - part, read - hit
        usd += fresh * self.input + read * cached
        if written:
            for_hour = min(for_hour, written)
            write = self.input if self.cache_write is None else self.cache_write
            hour = write if self.cache_write_1h is None else self.cache_write_1h
            usd += (written - for_hour) * write + for_hour * hour
        usd = (usd + self._usd_of_output(tokens, outputs)) / _MILLION
        if self.search is not None:
            usd += _count(tokens.searches) * self.search
        if self.request is not None:
            usd += calls * self.request
        return usd

    def _usd_of_output(self, tokens: TokenCounts, outputs: int) -> float:
        """Return the USD of the output, times a million."""
        usd = 0.0
        if self.reasoning is not None:
            part = min(_count(tokens.reasoning), outputs)
            usd += part * self.reasoning
            outputs -= part
        if tokens.output_by:
            by = dict(tokens.output_by)
            for modality, name in _OUTPUTS:
                rate = getattr(self, name)
                if rate is not None:
                    part = min(_count(by.get(modality)), outputs)
                    usd += part * rate
                    outputs -= part
        return usd + outputs * self.output

    def scaled(self, factor: float) -> Rates:
        """Return rates with all prices of tokens multiplied; fees stay."""
        return self._replace(
            **{
                name: rate * factor
                for name in TOKEN_FIELDS
                if (rate := getattr(self, name)) is not None
            }
        )

    def overridden(self, rates: Mapping[str, float]) -> Rates:
        """Return rates with some replaced."""
        return self._replace(**rates)


TOKEN_FIELDS = tuple(name for name in Rates._fields if name not in {"search", "request"})
"""The fields of `Rates` that are USD per million tokens."""

Steps = tuple[tuple[int, Rates], ...]
"""The rates of calls with more than that many input tokens; the first is for calls of any size."""


def rates_at(steps: Steps, input_tokens: float) -> Rates:
    """Return the rates of a call by its input tokens."""
    found = steps[0][1]
    for above, rates in steps[1:]:
        if input_tokens > above:
            found = rates
    return found


def _count(value: int | None) -> int:
    return 0 if value is None or value < 0 else value
