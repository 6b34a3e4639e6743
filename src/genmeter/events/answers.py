"""What one answer of a model used, and what it is billed by: plain data.

The readers of ``genmeter.usage`` fill these from vendors' responses, the prices of
``genmeter.config.prices`` are asked by them, and an event carries them from the caller's thread to
the drain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["STANDARD_TIERS", "Answer", "CallDetails", "TokenCounts", "Unread"]

ByModality = tuple[tuple[str, int], ...]
"""Tokens by modality (``text``, ``audio``, ``image``, ``video``, ``document``), each once."""


STANDARD_TIERS = frozenset(
    {"default", "auto", "standard", "standard_only", "on_demand", "unspecified"}
)
"""Service tiers that are billed at the usual price, in lower case."""


class TokenCounts(NamedTuple):
    """Token counts of one answer; None if unknown.

    The counts follow the OpenTelemetry GenAI conventions: ``input`` includes the tokens that
    were read from and written to a cache, ``output`` the reasoning tokens. They are integers as
    the vendor reported them.

    Attributes:
        input: Input (prompt) tokens.
        output: Output (completion) tokens.
        total: The vendor's own total, which may exceed their sum.
        cache_read: Input tokens read from a cache.
        cache_write: Input tokens written to a cache, for any time.
        reasoning: Output tokens of reasoning.
        cache_write_1h: The part of ``cache_write`` that is kept for an hour, at its own price.
        input_by: Input tokens by modality; empty if the response does not say. May sum to less.
        output_by: Output tokens by modality.
        cache_read_by: Cached input tokens by modality.
        searches: Searches that the provider ran for the answer and bills one by one.
    """

    input: int | None = None
    output: int | None = None
    total: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    reasoning: int | None = None
    cache_write_1h: int | None = None
    input_by: ByModality = ()
    output_by: ByModality = ()
    cache_read_by: ByModality = ()
    searches: int | None = None


class Answer(NamedTuple):
    """One billed answer; a call has several if it was tried again after a billed attempt.

    Attributes:
        tokens: What it used.
        model: The model that answered; None if the response does not say.
        finish_reasons: Why the model stopped, of each choice, in the vendor's spelling.
        service_tier: Such as ``flex`` or ``priority``, in lower case; None if unknown. ``default``
            changes no price, but says that no other tier was used.
        is_batch: Whether it is billed as part of a batch.
        cost: USD as the provider (or a proxy) reported it; None if it did not.
    """

    tokens: TokenCounts = TokenCounts()
    model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    service_tier: str | None = None
    is_batch: bool = False
    cost: float | None = None


class Unread(NamedTuple):
    """Why the usage of a call is unknown.

    Attributes:
        reason: ``not_reported``: None instead of a response; ``no_usage``: a known response without usage; ``not_understood``: an object of a
            type that is not known; ``stream``: a stream instead of its chunks; ``keywords``: only
            keywords that do not exist; ``not_in_span``: a span, or a log event, without
            token counts; ``not_a_count``: with a number that counts no tokens, such as a negative
            one. The drain adds ``not_reported``: nothing was passed; and
            ``stream_left``: a stream was left before its usage came.
        shown: The type that was not understood, the keywords, or the scope of the span; for a log line.
    """

    reason: str
    shown: str


class CallDetails(NamedTuple):
    """What a handle knows of a call beyond the keywords of ``track_generation``.

    Attributes:
        answers: What was billed, each attempt by itself; empty if nothing was read.
        is_cancelled: Whether the consumer left early, or the task was cancelled.
        unread: Why no usage was read, or none of one of the attempts, if something was reported.
        first_chunk: Seconds until the first chunk of a stream; None without a stream.
        chunk_gaps: Seconds between the chunks after the first one; a tuple or an ``array``.
        observed: Who observed it inside of its block, with the provider's id of the response.
    """

    answers: tuple[Answer, ...] = ()
    is_cancelled: bool = False
    unread: Unread | None = None
    first_chunk: float | None = None
    chunk_gaps: Sequence[float] = ()
    observed: tuple[tuple[str, str | None], ...] = ()
