"""A simulated generation job with fictional models; equal seeds give equal jobs."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from genmeter.config.monitor import CustomMetric
from genmeter.config.prices import Price, PriceTable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from genmeter.monitor import GenerationMonitor

__all__ = ["CUSTOM_METRICS", "JUDGE", "MODELS", "PRICES", "SCORE_SCALES", "Job", "Plan"]

_T = TypeVar("_T")
_CALLS_PER_SAMPLE = 10.5  # on average, evaluations included
_WAVES = ((23.0, 0.15), (190.0, 0.12), (1500.0, 0.3))  # period in seconds, amplitude
_TURNS = {2: 0.2, 3: 0.3, 4: 0.25, 5: 0.15, 6: 0.1}
_FINISH = {"stop": 0.953, "length": 0.042, "content_filter": 0.005}
_CHUNK_TOKENS = 10
_LEFT = 0.015  # share of the streams that the job leaves, as it has read enough
_ASKED_AGAIN = 0.01  # share of the questions that are no valid JSON at first
_NO_USAGE = 0.02  # share of one model's streams in which its server sends no usage
_GRACE = 15.0  # seconds for the calls in progress at the end
_TIMEOUT = 60.0
_QUESTION = "question_generation"
_MIN_SCORE = 0.45
_DUPLICATES = 0.04  # share of the samples
_MIN_TOKENS = 900
_GOOD_STARS = 3
_LOG_EVERY = 25  # samples


# --- the models --------------------------------------------------------------------------------


class RateLimitError(Exception):
    """A client's error for status 429; the monitor classifies it by its name."""


class InternalServerError(Exception):
    """A client's error for status 500 and above."""


class Model(NamedTuple):
    """A fictional model that behaves like a real one; medians are of log-normal distributions.

    Attributes:
        name: The model's name; it begins with the provider's.
        price: USD per million tokens.
        first_token: Median seconds until the first token, which may be one of reasoning.
        speed: Median output tokens per second.
        output: Median output tokens, without reasoning.
        reasoning: Median reasoning tokens.
        cached: Share of the calls that find earlier turns in the provider's cache.
        failing: Share of the calls that fail.
        retried: Share of the calls that succeed after retries.
    """

    name: str
    price: Price
    first_token: float
    speed: float
    output: float
    reasoning: float
    cached: float
    failing: float
    retried: float

    @property
    def provider(self) -> str:
        """The name of the provider."""
        return self.name.partition("-")[0]

    @property
    def answering(self) -> str | None:
        """The name that its responses have: one provider's models have a date, others say none."""
        return f"{self.name}-2026-05-01" if self.provider == "atlas" else None


_FLEX = "flex"  # the service tier of this model's questions, at half the price
_MINI_PRICE = Price(0.25, 2.0, 0.025, service_tiers=((_FLEX, 0.5),))
# name, price, first token, speed, output, reasoning, cached, failing, retried
_LARGE = Model("atlas-large", Price(3.0, 15.0, 0.3, 3.75), 0.6, 240, 320, 240, 0.8, 0.02, 0.05)
_MINI = Model("atlas-mini", _MINI_PRICE, 0.3, 300, 160, 0, 0.6, 0.01, 0.02)
_CHAT = Model("harbor-chat", Price(0.6, 2.4), 0.5, 160, 260, 0, 0, 0.05, 0.08)
JUDGE = Model("quill-judge", Price(1.1, 4.4, 0.275), 0.6, 95, 90, 0, 0.5, 0.03, 0.02)
_EMBEDDER = Model("compass-embed", Price(0.02, 0.0), 0.12, 0, 0, 0, 0, 0.004, 0.02)
MODELS = (_LARGE, _MINI, _EMBEDDER, _CHAT, JUDGE)
# How often each model writes the questions and the answers.
_WRITERS = {_MINI: 0.7, _CHAT: 0.3}
_ANSWERERS = {_LARGE: 0.45, _CHAT: 0.35, _MINI: 0.2}

PRICES = PriceTable({model.name: model.price for model in MODELS})
SCORE_SCALES = {"helpfulness": (1.0, 5.0)}
_QUEUE_DEPTH = "demo.queue.depth"
CUSTOM_METRICS = (
    CustomMetric(
        name=_QUEUE_DEPTH,
        kind="gauge",
        unit="{prompt}",
        help="Seed prompts that wait for their conversation.",
    ),
)


# --- the job -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parameters of a job.

    Args:
        duration: Seconds that it lasts.
        rate: Calls of models per second, on average.
        seed: Seed of the random numbers.
        failing: Share of failing calls by model, instead of the model's own.
    """

    duration: float
    rate: float
    seed: int
    failing: Mapping[str, float] = field(default_factory=dict)

    @property
    def end(self) -> float:
        """When the calls are cancelled that did not end by themselves."""
        return self.duration + min(self.duration, _GRACE)

    @property
    def expected_samples(self) -> int:
        """Samples that the job will produce, rejected ones included."""
        return max(1, round(self.duration * self.rate / _CALLS_PER_SAMPLE))


class _Reply(NamedTuple):
    """What a model answers to a call, in the JSON of OpenAI's API, and how fast.

    Attributes:
        model: The model.
        prompt: Input tokens.
        cached: Those of them that were read from the provider's cache.
        reasoning: Output tokens of reasoning.
        tokens: The other output tokens.
        finish: The finish reason.
        tier: The service tier; None if the server names none.
        first: Seconds until the first chunk, which the reasoning precedes.
        gap: Seconds between two chunks.
    """

    model: Model
    prompt: int
    cached: int
    reasoning: int
    tokens: int
    finish: str
    tier: str | None
    first: float
    gap: float

    @property
    def chunks(self) -> int:
        """The number of chunks with content."""
        return math.ceil(self.tokens / _CHUNK_TOKENS)

    def stream(self, *, has_usage: bool) -> Iterator[dict[str, Any]]:
        """Yield the chunks, with the usage in a last one."""
        for _ in range(self.chunks):
            yield self._body({"delta": {"content": "..."}, "finish_reason": None})
        yield self._body({"delta": {}, "finish_reason": self.finish})
        if has_usage:
            yield self._body(usage=self._usage())

    def response(self) -> dict[str, Any]:
        """Return the response to a call without a stream."""
        message = {"message": {"content": "..."}, "finish_reason": self.finish}
        return self._body(message, usage=self._usage())

    def _body(self, *choices: dict[str, Any], **keys: Any) -> dict[str, Any]:
        model = self.model.answering
        return {"model": model, "service_tier": self.tier, "choices": choices, **keys}

    def _usage(self) -> dict[str, Any]:
        output = self.reasoning + self.tokens
        has_writes = self.model.price.cache_write is not None
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": output,
            "total_tokens": self.prompt + output,
            "prompt_tokens_details": {
                "cached_tokens": self.cached,
                "cache_write_tokens": has_writes * _blocks(self.prompt - self.cached),
            },
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }


def _blocks(tokens: int) -> int:
    """Return how many of a prompt's tokens fill the blocks that providers cache."""
    return tokens // 128 * 128


class _Outcome(NamedTuple):
    """What becomes of a call: its seconds, tokens that can be read, finish reason and error."""

    seconds: float
    tokens: int = 0
    finish: str = ""
    error: Exception | None = None


class Job:
    """A job that records what it does with a monitor.

    Equal plans record the same, however often `advance` is called. Streams and embeddings last as
    long as they say. Failed calls and evaluations have realistic durations, but are recorded when
    they begin, and a conversation does not wait for its calls: a job of a minute has as many as
    a minute of a job of hours. No call begins after the plan's duration; those in progress then
    have as long again to end, at most 15 s, and are cancelled.

    Args:
        plan: The parameters.
        monitor: The monitor to record with.

    Attributes:
        now: Seconds since the job began.
    """

    def __init__(self, plan: Plan, monitor: GenerationMonitor) -> None:
        self.plan = plan
        self.monitor = monitor
        self.now = 0.0
        self._random = random.Random(plan.seed)  # noqa: S311 - a demo has no secrets
        # The long waves begin at 0, so that a short job keeps to its rate.
        self._phases = [self._random.uniform(0, math.tau), *(0.0 for _ in _WAVES[1:])]
        self._next_call = self._gap()
        self._next_incident = self._random.uniform(8, 30)
        self._overloaded: Model | None = None
        # Next step, number and the rest of each call in progress, as a heap.
        self._open: list[tuple[float, int, Generator[float, None, None]]] = []
        self._numbers = itertools.count(1)
        self._samples = 0
        # Few workers, so that the first samples are ready within seconds.
        self._workers = [self._worker() for _ in range(max(2, round(0.3 * plan.rate)))]

    @property
    def next_at(self) -> float:
        """When the next event is due, in seconds since the job began."""
        next_step = self._open[0][0] if self._open else math.inf
        next_event = min(self._next_call, self._next_incident)
        return min(next_step, next_event if next_event < self.plan.duration else math.inf)

    @property
    def in_progress(self) -> int:
        """The number of calls in progress."""
        return len(self._open)

    @property
    def is_done(self) -> bool:
        """Whether the plan's duration is over, and no call is in progress."""
        return self.now >= self.plan.duration and not self._open

    def advance(self, until: float) -> None:
        """Record everything up to a time, in seconds since the job began, or to its end."""
        until = min(until, self.plan.end)
        while (at := self.next_at) <= until:
            self.now = at
            if self._open and at == self._open[0][0]:
                _, number, call = heapq.heappop(self._open)
                self._continue(call, number)
            elif at == self._next_incident:
                self._toggle_incident()
            else:
                self._next_call += self._gap()
                next(self._random.choice(self._workers))
        self.now = until
        if until == self.plan.end:
            self.cancel()

    def cancel(self) -> None:
        """Cancel the calls in progress."""
        for _, _, call in self._open:
            call.close()
        self._open.clear()

    def _begin(self, call: Generator[float, None, None]) -> None:
        """Begin a call that yields the seconds until each of its next steps."""
        self._continue(call, next(self._numbers))

    def _continue(self, call: Generator[float, None, None], number: int) -> None:
        seconds = next(call, None)
        if seconds is not None:
            heapq.heappush(self._open, (self.now + seconds, number, call))

    def _toggle_incident(self) -> None:
        """Overload a model, or end its overload."""
        model, self._overloaded = self._overloaded, None
        if model is not None:
            self._next_incident = self.now + self._random.uniform(20, 60)
            self.monitor.log_info(f"{model.name} has recovered")
            return
        self._overloaded = model = self._random.choice(MODELS)
        self._next_incident = self.now + self._random.uniform(4, 9)
        self.monitor.log_warning(f"{model.name} is overloaded")

    def _worker(self) -> Iterator[None]:
        """Produce samples; yields after each call."""
        while True:
            yield from self._conversation()

    def _conversation(self) -> Iterator[None]:
        """Produce one sample; yields after each call."""
        turns = self._pick(_TURNS)
        answerer = self._pick(_ANSWERERS)
        context, cacheable = round(self._spread(500, 0.5)), 0
        spent, is_filtered = 0.0, False
        keywords = {"metadata": {"operation": "conversation_generation"}}
        for turn in range(1, turns + 1):
            writer = self._pick(_WRITERS)
            for step, model in ((_QUESTION, writer), ("answer_generation", answerer)):
                outcome = self._generation(model, step, context, cacheable)
                spent += outcome.seconds
                if outcome.error is not None:
                    yield
                    outcome = self._generation(model, step, context, cacheable)
                    spent += outcome.seconds
                if error := outcome.error:
                    self.monitor.track_generation(
                        spent, False, conversation_length=turn - 1, error=error, **keywords
                    )
                    message = f"gave up a conversation in turn {turn}"
                    self.monitor.log_error(message, error, model=model.name)
                    self._sample("generation_failed")
                    yield
                    return
                context += outcome.tokens
                cacheable = context
                is_filtered = is_filtered or outcome.finish == "content_filter"
                yield
        self.monitor.track_generation(spent, True, conversation_length=turns, **keywords)
        self._embed(context)
        yield
        scores = self._judge(context)
        yield
        scores += self._check_grounding(context)
        self._sample("filtered" if is_filtered else self._rejection(context, scores))
        yield

    def _generation(self, model: Model, step: str, context: int, cacheable: int) -> _Outcome:
        """Begin a call, or record one that fails."""
        error = self._error(model)
        if error is not None:
            # A client backs off and retries before it reports a rate limit.
            is_retried = isinstance(error, RateLimitError)
            seconds = self._seconds_to_fail(error)
            self.monitor.track_generation(
                seconds,
                False,
                model_name=model.name,
                provider=model.provider,
                error=error,
                retries=[error, error] if is_retried else None,
                metadata={"operation": step},
            )
            return _Outcome(seconds, error=error)
        reply = self._reply(model, step, context, cacheable)
        retries = self._retries(model) or []
        is_left = self._random.random() < _LEFT
        taken = self._random.randint(1, reply.chunks) if is_left else reply.chunks
        self._begin(self._streamed(step, reply, retries, taken if is_left else None))
        return _Outcome(
            2.0 ** len(retries) - 1 + reply.first + reply.gap * taken,
            min(reply.tokens, _CHUNK_TOKENS * taken),
            reply.finish,
        )

    def _reply(self, model: Model, step: str, context: int, cacheable: int) -> _Reply:
        reasoning = round(self._spread(model.reasoning, 0.6))
        return _Reply(
            model,
            prompt=context + round(self._spread(180, 0.3)),
            cached=self._cached(model, cacheable) or 0,
            reasoning=reasoning,
            tokens=max(1, round(self._spread(model.output, 0.5))),
            finish=self._pick(_FINISH),
            tier=_FLEX if (model, step) == (_MINI, _QUESTION) else None,
            first=self._seconds(model, reasoning),
            gap=_CHUNK_TOKENS / self._spread(model.speed, 0.2) * self._slowness(model),
        )

    def _streamed(
        self, step: str, reply: _Reply, retries: list[Exception], leave_after: int | None
    ) -> Generator[float, None, None]:
        """Make a call whose reply is a stream, which may be left after some chunks."""
        model, chance = reply.model, self._random.random()
        with self.monitor.generation(model.name, step, provider=model.provider) as call:
            for number, error in enumerate(retries):
                call.retry(error)
                yield 2.0**number
            yield reply.first
            stream = reply.stream(has_usage=model is not _CHAT or chance >= _NO_USAGE)
            for number, _ in enumerate(call.stream(stream), start=1):
                if number == leave_after:
                    return
                yield self._spread(reply.gap, 0.3)
            if step == _QUESTION and chance < _ASKED_AGAIN:
                call.retry(ValueError("the question is no JSON"))
                yield reply.first + reply.gap * reply.chunks
                call.usage(reply.response(), add=True)

    def _embed(self, context: int) -> None:
        """Begin a call for an embedding."""
        error, seconds = self._error(_EMBEDDER), min(self._seconds(_EMBEDDER, 0), 5.0)
        self._begin(self._embedded(context, error, seconds))

    def _embedded(
        self, context: int, error: Exception | None, seconds: float
    ) -> Generator[float, None, None]:
        with self.monitor.generation(
            _EMBEDDER.name, "deduplication", provider=_EMBEDDER.provider, operation="embeddings"
        ) as call:
            yield seconds
            if error is not None:
                call.fail(error)
            else:
                call.usage({"usage": {"prompt_tokens": context, "total_tokens": context}})

    def _judge(self, context: int) -> list[float]:
        """Record an evaluation by a model; return its scores from 0 to 1, none if it failed."""
        coherence = self._score(0.84)
        stars = 1 + round(4 * self._score(0.72), 1)
        feedback = "answers the question" if stars > _GOOD_STARS else "stays vague"
        tokens = {
            "prompt_token_count": context + 350,
            "completion_token_count": max(1, round(self._spread(JUDGE.output, 0.3))),
            "cache_read_token_count": self._cached(JUDGE, 350),
        }
        scores = {"coherence": coherence, "helpfulness": {"score": stars, "feedback": feedback}}
        is_success = self._evaluation(JUDGE, "llm_judge", scores, tokens)
        return [coherence, (stars - 1) / 4] if is_success else []

    def _check_grounding(self, context: int) -> list[float]:
        """Record an evaluation by embeddings; return its score, none if it failed."""
        score = self._score(0.78)
        tokens = {"prompt_token_count": context, "completion_token_count": 0}
        is_success = self._evaluation(_EMBEDDER, "grounding_check", {"grounding": score}, tokens)
        return [score] if is_success else []

    def _evaluation(
        self, model: Model, evaluator: str, scores: dict[str, Any], tokens: dict[str, Any]
    ) -> bool:
        """Record an evaluation; return whether it succeeded."""
        error = self._error(model)
        if error is None:
            seconds = self._seconds(model, tokens["completion_token_count"])
        else:
            seconds, scores, tokens = self._seconds_to_fail(error), {}, {"error": error}
        self.monitor.track_evaluation(
            seconds,
            error is None,
            evaluator,
            scores,
            model_name=model.name,
            provider=model.provider,
            metadata={"operation": "evaluation"},
            **tokens,
        )
        return error is None

    def _rejection(self, context: int, scores: list[float]) -> str | None:
        """Return why a sample is rejected; None if it is accepted."""
        if self._random.random() < _DUPLICATES:
            return "duplicate"
        if context < _MIN_TOKENS:
            return "too_short"
        if len(scores) < 3:  # noqa: PLR2004 - of two evaluations
            return "not_evaluated"
        return "low_score" if min(scores) < _MIN_SCORE else None

    def _sample(self, reason: str | None) -> None:
        self._samples += 1
        waiting = max(0, round(400 + 300 * self._wave(lag=30) - self._random.uniform(0, 20)))
        self.monitor.record_sample(reason is None, reason)
        self.monitor.record_metric(_QUEUE_DEPTH, waiting)
        distinct = 0.5 + 0.4 * self._random.betavariate(8, 4)
        self.monitor.record_metric("distinct_ngram_share", distinct)
        if self._samples % _LOG_EVERY == 0:
            self.monitor.log_info(f"{self._samples} samples produced")

    # --- random numbers ------------------------------------------------------------------------

    def _wave(self, lag: float = 0.0) -> float:
        """Return a slow variation around 0, which shows on a dashboard."""
        return sum(
            amplitude * math.sin(math.tau * (self.now - lag) / period + phase)
            for (period, amplitude), phase in zip(_WAVES, self._phases, strict=True)
        )

    def _gap(self) -> float:
        """Return the seconds until the next call."""
        return self._random.expovariate(self.plan.rate * (1 + self._wave()))

    def _pick(self, weights: Mapping[_T, float]) -> _T:
        return self._random.choices([*weights], [*weights.values()])[0]

    def _spread(self, median: float, sigma: float) -> float:
        return median * self._random.lognormvariate(0, sigma)

    def _score(self, mean: float) -> float:
        mean = min(0.95, mean + 0.1 * self._wave(lag=60))
        return round(self._random.betavariate(12 * mean, 12 * (1 - mean)), 3)

    def _cached(self, model: Model, tokens: int) -> int | None:
        return _blocks(tokens) if self._random.random() < model.cached else None

    def _strain(self, model: Model) -> float:
        return 6.0 if model is self._overloaded else 1.0 + self._wave(lag=10) / 2

    def _seconds(self, model: Model, output: int) -> float:
        seconds = self._spread(model.first_token, 0.4)
        if model.speed:
            seconds += output / self._spread(model.speed, 0.2)
        return seconds * self._slowness(model)

    def _slowness(self, model: Model) -> float:
        return 2.0 if model is self._overloaded else 1.0 + self._wave(lag=10) / 3

    def _seconds_to_fail(self, error: Exception) -> float:
        if isinstance(error, TimeoutError):
            return _TIMEOUT
        backoff = 3.0 if isinstance(error, RateLimitError) else 0.0
        return backoff + self._spread(0.3, 0.5)

    def _retries(self, model: Model) -> list[Exception] | None:
        if self._random.random() >= min(0.5, model.retried * self._strain(model)):
            return None
        errors: list[Exception] = [RateLimitError("status 429"), ConnectionError("reset by peer")]
        return self._random.choices(errors, [0.8, 0.2], k=self._random.choice([1, 1, 2]))

    def _error(self, model: Model) -> Exception | None:
        share = min(0.6, model.failing * self._strain(model))
        if self._random.random() >= self.plan.failing.get(model.name, share):
            return None
        errors: list[Exception] = [
            RateLimitError("status 429: too many requests"),
            InternalServerError("status 503: overloaded"),
            TimeoutError(f"no answer within {_TIMEOUT:.0f} s"),
        ]
        return self._random.choices(errors, [0.55, 0.35, 0.1])[0]
