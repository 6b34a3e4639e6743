"""Completes a call of ours by what others observed of it: only what it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genmeter.events.answers import CallDetails, Unread
from genmeter.observed.matching import distinct
from genmeter.schema.afterimage import BILLING_PARTS, PARTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genmeter.events.answers import Answer
    from genmeter.observed.model import ObservedCall

__all__ = ["complete", "completed", "with_outcome"]

_TOTALS = ("prompt_token_count", "completion_token_count", "total_token_count")
_COUNTS = (*_TOTALS, *PARTS, *BILLING_PARTS)
_LABELS = ("model_name", "provider", "operation", "modality", "service_tier", "finish_reason")
# What belongs to the answers that were read: never that of one with the counts of another.
_OF_ANSWER = ("response_model", "finish_reason", "service_tier", "batch")
_SECONDS_OF_AN_EXCEPTION = 1.0  # from the end of a call to that of the one around it
_UNKNOWN = Unread("not_reported", "")


def complete(
    keywords: dict[str, Any],
    details: CallDetails | None,
    observed: Sequence[ObservedCall],
    *,
    began: float | None = None,
) -> tuple[dict[str, Any], CallDetails | None]:
    """Return the keywords and details of a call with what it lacks, from calls observed in it.

    Of several observations of one call, one counts. A call without any token count gets those of all
    observed calls, each an answer of its own; one that has counts keeps them, and gets the parts that it
    lacks, such as cached tokens, if its input and output are those of the observed calls. Labels are of the last observed call that has them. An observed call that
    failed before another one counts as a retry.

    Args:
        keywords: Those of ``track_generation``.
        details: What its handle knows beyond them.
        observed: In the order of their ends.
        began: Unix time at which the call began; None: that of the first observed call.
    """
    filled = dict(keywords)
    given = details or CallDetails()
    observed = [completed(*each) for each in distinct(observed)]
    if not observed:
        return filled, details
    observers = (observer for each in observed for observer in each.observers())
    given = given._replace(observed=tuple(dict.fromkeys((*given.observed, *observers))))
    if not given.answers and not any(filled.get(name) is not None for name in _COUNTS):
        given = _with_counts(filled, given, observed)
    else:
        given = _with_parts(filled, given, observed)
    for name in _LABELS:
        if filled.get(name) is None:
            found = [
                each.keywords[name] for each in observed if each.keywords.get(name) is not None
            ]
            if found:
                filled[name] = found[-1]
    if filled.get("retries") is None:
        failed = [
            each for each in observed[:-1] if not each.success and not each.details.is_cancelled
        ]
        if failed:
            filled["retries"] = [
                each.keywords.get("error_type") or each.error_class or "failed" for each in failed
            ]
    if given.first_chunk is None:
        given = _with_first_chunk(given, observed, began)
    return filled, None if given == CallDetails() else given


def with_outcome(call: ObservedCall, parts: Sequence[ObservedCall]) -> ObservedCall:
    """Return a call that ended well by its own account as what was observed inside of it has ended.

    Some emitters end their span well though an exception passed, as OpenLLMetry does where a stream breaks,
    and pydantic-ai where a task is cancelled. Then there is no sign of an answer, and the last
    call inside ended at the same time, otherwise.

    Args:
        call: The outer call.
        parts: Those inside, in the order of their ends.
    """
    last = parts[-1] if parts else None
    if last is None or last.success or not call.success:
        return call
    has_answer = call.details.answers or call.keywords.get("finish_reason") is not None
    if has_answer or call.ended - last.ended > _SECONDS_OF_AN_EXCEPTION:
        return call
    keywords = call.keywords
    if (error_type := last.keywords.get("error_type")) is not None:
        keywords = {**keywords, "error_type": error_type}
    details = call.details._replace(is_cancelled=last.details.is_cancelled)
    return call._replace(
        success=False, keywords=keywords, details=details, error_class=last.error_class
    )


def completed(call: ObservedCall, parts: Sequence[ObservedCall]) -> ObservedCall:
    """Return a call with what it lacks, from further observations of it; see :func:`complete`."""
    if not parts:
        return call
    began = None if call.duration is None else call.ended - call.duration
    keywords, details = complete(call.keywords, call.details, parts, began=began)
    return call._replace(keywords=keywords, details=details or CallDetails())


def _with_parts(
    keywords: dict[str, Any], details: CallDetails, observed: Sequence[ObservedCall]
) -> CallDetails:
    """Add the parts of tokens that the call lacks, if they are parts of the same tokens."""
    if any(each.keywords.get(name) is None for each in observed for name in _TOTALS[:2]):
        return details
    for name in _TOTALS[:2]:
        if keywords.get(name) != sum(each.keywords[name] for each in observed):
            return details
    for name in (*PARTS, *BILLING_PARTS, *_OF_ANSWER):
        found = [each.keywords[name] for each in observed if each.keywords.get(name) is not None]
        if found and keywords.get(name) is None:
            keywords[name] = found[-1] if name in _OF_ANSWER else sum(found)
    answers = tuple(answer for each in observed for answer in each.details.answers)
    # The better known of both: the one that says which tokens were cached or of which model.
    if answers and (not details.answers or _known(answers) > _known(details.answers)):
        return details._replace(answers=answers)
    return details


def _known(answers: Sequence[Answer]) -> int:
    return sum(
        value not in (None, 0, ()) for each in answers for value in (*each.tokens, *each[1:])
    )


def _with_counts(
    keywords: dict[str, Any], details: CallDetails, observed: Sequence[ObservedCall]
) -> CallDetails:
    for name in _COUNTS:
        found = [each.keywords[name] for each in observed if each.keywords.get(name) is not None]
        if found:
            keywords[name] = sum(found)
    for name in _OF_ANSWER:
        found = [each.keywords[name] for each in observed if each.keywords.get(name) is not None]
        if found and keywords.get(name) is None:
            keywords[name] = found[-1]
    answers = tuple(answer for each in observed for answer in each.details.answers)
    costs = [each.keywords.get("cost") for each in observed if each.details.answers]
    if keywords.get("cost") is None and costs and None not in costs:
        keywords["cost"] = sum(costs)
    unread = details.unread
    # One with answers may have another one that is unknown.
    if any(
        each.success and (not each.details.answers or each.details.unread is not None)
        for each in observed
    ):
        unread = next((each.details.unread for each in observed if each.details.unread), _UNKNOWN)
    elif answers:
        unread = None
    return details._replace(answers=answers, unread=unread)


def _with_first_chunk(
    details: CallDetails, observed: Sequence[ObservedCall], began: float | None
) -> CallDetails:
    first = next((each for each in observed if each.details.first_chunk is not None), None)
    if first is None or first.duration is None or first.details.first_chunk is None:
        return details
    at = first.ended - first.duration + first.details.first_chunk
    seconds = first.details.first_chunk if began is None else max(0.0, at - began)
    return details._replace(first_chunk=seconds, chunk_gaps=first.details.chunk_gaps)
