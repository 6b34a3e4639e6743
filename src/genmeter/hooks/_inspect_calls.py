"""The calls of an Inspect evaluation, from a model's ``generate`` to what its hooks report of it.

Inspect asks its hooks before each attempt of a call, in the call's own task; after a retry's cause is known
and after an answer with usage, there too. The event of an attempt, with error or answer, comes later and in
another task. An :class:`Attempts` is one call with all its attempts, and a block of ours meanwhile.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Any

from genmeter import clock
from genmeter.events.answers import Answer, CallDetails, TokenCounts, Unread
from genmeter.events.capture import capture_keywords, capture_label, capture_number
from genmeter.events.values import UNREADABLE, safe_text
from genmeter.hooks._base import open_block
from genmeter.hooks.frameworks import FRAMEWORKS
from genmeter.observed import blocks
from genmeter.observed.merging import complete
from genmeter.observed.model import ObservedCall

__all__ = [
    "Attempts",
    "CallBook",
    "answered",
    "failed",
    "generating",
    "is_cancellation",
    "names_of",
    "read",
    "usage_of",
]

_SOURCE = FRAMEWORKS["inspect_ai"].source
_MAX_TEXT = 2_000
_MAX_OPEN = 10_000
# Texts of errors that end a call without a fault of it.
_CANCELLED = frozenset(
    {
        "Cancelled by operator",
        "Cancelled by limit",
        "Cancelled by system",
        "RuntimeError('model call cancelled')",
    }
)
_ERROR_LINE = re.compile(r"^(?:[\w.]+\.)?([A-Z]\w*)(?::|$)")

generating: ContextVar[Attempts | None] = ContextVar("genmeter_inspect_call", default=None)
"""The call that this task has begun last."""


def read(item: Any, name: str) -> Any:
    """Return an attribute, or None if there is none or it cannot be read."""
    try:
        return getattr(item, name, None)
    except UNREADABLE:
        return None


def names_of(model: Any) -> tuple[str | None, str | None]:
    """Return provider and model of Inspect's name of a model, such as ``openai/gpt-5``."""
    text = capture_label(model)
    if text is None:
        return None, None
    provider, slash, name = text.partition("/")
    if not slash or not name:
        return None, text
    if provider == "openai-api":  # openai-api/SERVICE/MODEL
        service, slash, rest = name.partition("/")
        if slash and rest:
            return service, rest
    return provider, name


def is_cancellation(error: Any) -> bool:
    """Return whether the error of a model's event says that the call was cancelled."""
    text = safe_text(error, _MAX_TEXT)
    return text in _CANCELLED


class Attempts:
    """A call of a model with all its attempts; a block of ours, so that spans inside are this call.

    A span that failed ends the attempt that it is a part of. Until the next one begins, nothing else is
    a part of the call: the job may have given it up and called a model itself.

    Args:
        model: As Inspect names it.
        eval_id: Of the task's execution; None outside of samples, where Inspect reports no failure, so
            that the call is no block there.
        task: The task's name.

    Attributes:
        strangers: Once it has finished: calls observed inside that are not a part of it, such as
            the request by which Inspect tries what a model can do.
    """

    def __init__(self, model: str | None, eval_id: str | None, task: str | None) -> None:
        self.model = model
        self.eval_id = eval_id
        self.task = task
        self.began = self.attempted = clock.now()
        self.retries: list[str | None] = []
        self.is_retrying = False
        self.is_over = False
        self.strangers: list[ObservedCall] = []
        self.outer = open_block()
        self._accepts = eval_id is not None
        self._observed: list[ObservedCall] = []
        self._before: blocks.Block | None = None
        self._is_marked = False

    def attempt(self) -> None:
        """Begin the next attempt."""
        self.attempted = clock.now()
        self.is_retrying = False
        self._accepts = self.eval_id is not None

    def retry(self, cause: str | None) -> None:
        """Note that the attempt failed and another one follows."""
        self.retries.append(cause)
        self.is_retrying = True
        self._accepts = False

    def mark(self) -> None:
        """Mark the block in the current context."""
        if blocks.is_marking() and not self._is_marked and self.eval_id is not None:
            self._before, self._is_marked = blocks.enter(self), True

    def end(self) -> None:
        """End the block; the mark is taken back if this is its context."""
        self.is_over = True
        self._accepts = False
        if self._is_marked:
            blocks.leave(self, self._before)
            self._before, self._is_marked = None, False

    @property
    def is_open(self) -> bool:
        """Whether what is observed now is a part of the call, or of the block around it."""
        return self._accepts or (self.outer is not None and self.outer.is_open)

    @property
    def period(self) -> None:
        """Not needed: what begins after an attempt that ended is another call."""
        return

    def belongs_to(self, monitor: object) -> bool:
        """Return whether it is a call of this monitor: there is one of this hook."""
        del monitor
        return True

    def observe(self, call: ObservedCall) -> bool:
        """Take what an instrumentation observed of the call; see :class:`blocks.Block`."""
        if not self._accepts:
            return self.outer is not None and self.outer.observe(call)
        self._observed.append(call)
        if not call.success:
            self._accepts = False
        return True

    def finished(
        self,
        *,
        success: bool,
        keywords: dict[str, Any],
        details: CallDetails,
        response_id: str | None = None,
    ) -> ObservedCall:
        """Return the call as it ended now."""
        provider, model = names_of(self.model)
        given = {
            "model_name": model,
            "provider": provider,
            "operation": "chat",
            "step": self.task,
            **keywords,
        }
        if self.retries:
            given["retries"] = list(self.retries)
        plain = {name: value for name, value in given.items() if value is not None}
        error_class = capture_keywords(plain)
        ended = clock.now()
        known: CallDetails | None = details
        observed, self.strangers = _partition(self._observed, plain)
        if observed:
            plain, known = complete(plain, details, observed, began=self.began)
        return ObservedCall(
            _SOURCE,
            ended,
            max(0.0, ended - self.began),
            success,
            plain,
            known or CallDetails(),
            error_class,
            response_id,
        )


def _partition(
    observed: list[ObservedCall], keywords: dict[str, Any]
) -> tuple[list[ObservedCall], list[ObservedCall]]:
    """Separate what was observed of a call from other calls, by the tokens that Inspect counts."""
    names = ("prompt_token_count", "completion_token_count")
    usage = tuple(keywords.get(name) for name in names)
    answers = [
        call for call in observed if call.success and call.keywords.get(names[0]) is not None
    ]
    if len(answers) < 2 or None in usage:  # noqa: PLR2004 - one answer is this call's
        return observed, []
    counts = [tuple(call.keywords.get(name) or 0 for name in names) for call in answers]
    if tuple(map(sum, zip(*counts, strict=True))) == usage or usage not in counts:
        return observed, []
    mine = answers[len(counts) - 1 - counts[::-1].index(usage)]
    strangers = [call for call in answers if call is not mine]
    return [call for call in observed if not any(call is each for each in strangers)], strangers


class CallBook:
    """The calls that have begun and not ended, by which an event of an attempt finds its call."""

    def __init__(self) -> None:
        self._open: dict[tuple[str | None, str | None], list[Attempts]] = {}

    def begin(self, model: Any, eval_id: Any, task: Any) -> Attempts:
        """Return the call of this task: a new one, or the one that is tried again."""
        name, run = capture_label(model), capture_label(eval_id)
        call = generating.get()
        if call is not None and call.is_retrying and not call.is_over and call.model == name:
            call.attempt()
            return call
        call = Attempts(name, run, capture_label(task))
        calls = self._open.setdefault((run, name), [])
        calls.append(call)
        del calls[:-_MAX_OPEN]
        generating.set(call)
        call.mark()
        return call

    def current(self, model: Any) -> Attempts | None:
        """Return the call that this task has begun, if it is of this model."""
        call = generating.get()
        if call is None or call.is_over or call.model != capture_label(model):
            return None
        return call

    def of_event(self, model: Any, eval_id: Any, timestamp: float | None) -> Attempts | None:
        """Return the call whose latest attempt made an event: the last that began before it."""
        calls = self._open.get((capture_label(eval_id), capture_label(model)), ())
        found = [call for call in calls if timestamp is None or call.began <= timestamp]
        return max(found, key=lambda call: call.attempted, default=None)

    def forget(self, call: Attempts) -> None:
        """Drop a call that is recorded, or that is none."""
        call.end()
        key = (call.eval_id, call.model)
        calls = self._open.get(key)
        if calls is not None:
            if call in calls:
                calls.remove(call)
            if not calls:
                del self._open[key]

    def take(self, eval_id: Any) -> list[Attempts]:
        """Return the open calls of a task's execution, and drop them."""
        run = capture_label(eval_id)
        found = [call for key in list(self._open) if key[0] == run for call in self._open[key]]
        for call in found:
            self.forget(call)
        return found


def usage_of(usage: Any) -> tuple[dict[str, Any], TokenCounts] | None:
    """Return Inspect's usage as keywords and counts; None without any.

    ``input_tokens`` of Inspect lacks what was read from and written to a cache.
    """
    if usage is None:
        return None
    names = (
        "input_tokens",
        "output_tokens",
        "total_tokens",
        "input_tokens_cache_read",
        "input_tokens_cache_write",
        "reasoning_tokens",
    )
    new, output, total, cached, written, reasoning = (_count(read(usage, name)) for name in names)
    if new is None and output is None and total is None:
        return None
    input_ = None if new is None else new + (cached or 0) + (written or 0)
    counts = TokenCounts(input_, output, None, cached, written, reasoning)
    if total is not None and (input_ is None or output is None or total > input_ + output):
        counts = counts._replace(total=total)
    keywords = {
        "prompt_token_count": counts.input,
        "completion_token_count": counts.output,
        "total_token_count": counts.total,
        "cache_read_token_count": counts.cache_read,
        "cache_write_token_count": counts.cache_write,
        "reasoning_token_count": counts.reasoning,
        "cost": capture_number(read(usage, "total_cost")),
    }
    return keywords, counts


def _count(value: Any) -> int | None:
    number = capture_number(value)
    return number if type(number) is int and number >= 0 else None


def answered(output: Any, usage: Any, finish_reason: Any) -> tuple[dict[str, Any], CallDetails]:
    """Return keywords and details of an answer."""
    reason = capture_label(finish_reason)
    if reason == "unknown":
        reason = None
    keywords: dict[str, Any] = {"finish_reason": reason}
    response_model = capture_label(read(output, "model"))
    if response_model is not None:
        keywords["response_model"] = names_of(response_model)[1]
    known = usage_of(usage)
    if known is None:
        return keywords, CallDetails(unread=Unread("no_usage", "ModelOutput"))
    counts, tokens = known
    keywords |= counts
    cost = keywords["cost"]
    answer = Answer(
        tokens,
        keywords.get("response_model"),
        () if reason is None else (reason,),
        cost=float(cost) if type(cost) in {int, float} else None,
    )
    return keywords, CallDetails((answer,))


def failed(error: Any, traceback: Any) -> dict[str, Any]:
    """Return the keywords of an error: Inspect has its text, and its class in the traceback's end."""
    text = safe_text(error, _MAX_TEXT)
    keywords: dict[str, Any] = {"error": text}
    tail = traceback[-_MAX_TEXT:] if type(traceback) is str else ""
    for line in reversed(tail.strip().splitlines()):
        if found := _ERROR_LINE.match(line):
            keywords["error_type"] = found[1]
            break
    return keywords
