"""What the price of a call depends on beside its tokens: from its keywords, and to its metadata.

The metadata ``billing`` of a call's first row has what is not in the rows of its tokens, so that a
report can price each call of a journal as the job did: the counts with a price of their own, the
service tier, whether it was part of a batch, and each answer if several were billed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from genmeter.events.answers import Answer, TokenCounts
from genmeter.events.values import MAX_COUNT, MAX_VALUE
from genmeter.schema.afterimage import BILLING_PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from genmeter.events.model import Price

__all__ = ["answer_of", "answers_of", "billing_of", "in_range", "priced_by", "spent_on"]

_BASIC = ("input", "output", "total", "cache_read", "cache_write", "reasoning")
_NO_PARTS = TokenCounts()[6:]
_NO_TERMS = Answer()[3:5]
# The counts by modality, with what their keywords begin with, and the modalities that have prices.
_DIRECTIONS = (("input_by", "input"), ("output_by", "output"), ("cache_read_by", "cache_read"))
_MODALITIES = ("audio", "image", "video")


def answer_of(
    tokens: tuple[int | None, int | None, int | None, int, int, int],
    parts: Mapping[str, Any],
    *,
    model: str | None = None,
) -> Answer:
    """Return the one answer of a call.

    Args:
        tokens: Input, output, total, read from and written to a cache, reasoning.
        parts: Checked values of the keywords for billing, or the metadata ``billing``.
        model: The model that answered.
    """
    if not parts:
        return Answer(TokenCounts(*tokens), model)
    by: dict[str, Any] = {
        field: tuple(
            (modality, count)
            for modality in _MODALITIES
            if (count := parts.get(f"{start}_{modality}_token_count"))
        )
        for field, start in _DIRECTIONS
    }
    counts = TokenCounts(
        *tokens,
        cache_write_1h=parts.get("cache_write_1h_token_count") or None,
        searches=parts.get("search_count") or None,
        **by,
    )
    return Answer(
        counts,
        model,
        service_tier=parts.get("service_tier"),
        is_batch=bool(parts.get("batch")),
        cost=parts.get("cost"),
    )


def billing_of(answers: Sequence[Answer], *, is_reported: bool) -> dict[str, Any] | None:
    """Return the metadata ``billing`` of a call; None if its tokens say all.

    Args:
        answers: What was billed.
        is_reported: Whether the provider reported the cost.
    """
    if len(answers) > 1:
        data: dict[str, Any] = {"answers": [_plain(answer) for answer in answers]}
    elif not answers or (answers[0].tokens[6:] == _NO_PARTS and answers[0][3:5] == _NO_TERMS):
        data = {}
    else:
        data = _unusual(answers[0])
    if is_reported:
        data["cost_reported"] = True
    return data or None


def answers_of(
    tokens: tuple[int | None, int | None, int | None, int, int, int],
    billing: Any,
    *,
    model: str | None = None,
) -> list[Answer]:
    """Return what was billed, from the tokens of a call's rows and its metadata ``billing``."""
    billing = billing if isinstance(billing, dict) else {}
    several = billing.get("answers")
    if not isinstance(several, list):
        return [answer_of(tokens, _checked(billing), model=model)]
    found = []
    for each in several:
        if isinstance(each, dict):
            counts = tuple(_count(each.get(name)) for name in _BASIC)
            basic = (*counts[:3], *(count or 0 for count in counts[3:]))
            answered = each.get("model")
            answer = answer_of(
                basic,  # type: ignore[arg-type] # three counts or None, then three counts
                _checked(each),
                model=answered if isinstance(answered, str) else model,
            )
            found.append(answer)
    return found


def in_range(answer: Answer) -> Answer:
    """Return an answer without counts that no event can have, nor a cost: those are rejected."""
    if answer.cost is not None and answer.cost > MAX_VALUE:
        answer = answer._replace(cost=None)
    wrong: dict[str, Any] = {
        name: None
        for name in _BASIC
        if (count := getattr(answer.tokens, name)) is not None and count > MAX_COUNT
    }
    return answer._replace(tokens=answer.tokens._replace(**wrong)) if wrong else answer


def spent_on(
    answers: Sequence[Answer], price: Callable[[Answer], float | None] | None
) -> tuple[float | None, bool, bool]:
    """Price each answer by itself.

    Args:
        answers: What was billed.
        price: Returns the USD of an answer; None without prices.

    Returns:
        USD of what has a price (None if nothing has), whether the provider reported any of it, and
        whether some usage has no price.
    """
    usd: float | None = None
    is_reported = is_unpriced = False
    for answer in answers:
        cost = answer.cost
        if cost is not None:
            is_reported = True
        elif price is None or not _has_usage(answer.tokens):
            continue
        else:
            cost = _cost_of(answer, price)
            if cost is None:
                is_unpriced = True
                continue
        usd = cost if usd is None else usd + cost
    return usd, is_reported, is_unpriced


def priced_by(
    price: Price, *, model: str | None, provider: str | None, time: float | None
) -> Callable[[Answer], float | None]:
    """Return the price of the answers of one call."""
    return lambda answer: price(answer, model=model, provider=provider, time=time)


def _has_usage(tokens: TokenCounts) -> bool:
    return not tokens[0] is tokens[1] is tokens[2] is None or bool(tokens.searches)


def _cost_of(answer: Answer, price: Callable[[Answer], float | None]) -> float | None:
    """Price an answer of which the input or the output may be unknown.

    With one of both, the other is what the total has beside it. A total alone has a price only if
    its parts do not matter: an output at the price of the input, or for nothing, as that of
    embeddings.
    """
    tokens = answer.tokens
    input_, output, total = tokens[:3]
    if not total or (input_ is not None and output is not None):
        return price(answer)

    def at(input_: int, output: int) -> float | None:
        return price(answer._replace(tokens=tokens._replace(input=input_, output=output)))

    if input_ is not None:
        return at(input_, max(0, total - input_))
    if output is not None:
        return at(max(0, total - output), output)
    cost = at(total, 0)
    return cost if at(0, total) in (cost, at(0, 0)) else None


def _unusual(answer: Answer) -> dict[str, Any]:
    tokens = answer.tokens
    counts = {
        "cache_write_1h_token_count": tokens.cache_write_1h,
        "search_count": tokens.searches,
    }
    for field, start in _DIRECTIONS:
        for modality, count in getattr(tokens, field):
            counts[f"{start}_{modality}_token_count"] = count
    data: dict[str, Any] = {name: count for name in BILLING_PARTS if (count := counts.get(name))}
    if answer.service_tier is not None:
        data["service_tier"] = answer.service_tier
    if answer.is_batch:
        data["batch"] = True
    return data


def _plain(answer: Answer) -> dict[str, Any]:
    data = {name: count for name in _BASIC if (count := getattr(answer.tokens, name)) is not None}
    data |= _unusual(answer)
    if answer.model is not None:
        data["model"] = answer.model
    if answer.cost is not None:
        data["cost"] = answer.cost
    return data


def _checked(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the billing data of a file without what is not valid."""
    found: dict[str, Any] = {
        name: count for name in BILLING_PARTS if (count := _count(data.get(name)))
    }
    tier, cost = data.get("service_tier"), data.get("cost")
    if isinstance(tier, str):
        found["service_tier"] = tier
    if data.get("batch") is True:
        found["batch"] = True
    if isinstance(cost, int | float) and type(cost) is not bool and 0 <= cost < math.inf:
        found["cost"] = float(cost)
    return found


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
