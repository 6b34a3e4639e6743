"""A generation job without models: what it would record, and when, by a seed; and its playing.

The simulator does not sleep, read a clock or know a monitor: the same seed gives the same job. The
durations are those that calls of such models have, while the calls are recorded as they come, so
that a job of a minute has as many of them as one that has run for hours.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from genmeter.config.monitor import CustomMetric
from genmeter.config.prices import Price, PriceTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from genmeter.call import GenerationHandle
    from genmeter.monitor import GenerationMonitor

__all__ = [
    "CALLS_A_SAMPLE",
    "CUSTOM_METRICS",
    "JUDGE",
    "MODELS",
    "PRICES",
    "SCORE_SCALES",
    "Action",
    "Begin",
    "End",
    "Job",
    "Plan",
    "Record",
    "Simulator",
    "play",
]

CALLS_A_SAMPLE = 10.5
"""Calls that a sample takes on average, its evaluations among them."""
_WAVES = ((23.0, 0.15), (190.0, 0.12), (1500.0, 0.3))  # seconds of a period, and its height
_TURNS = {2: 0.2, 3: 0.3, 4: 0.25, 5: 0.15, 6: 0.1}
_TIMEOUT = 60.0
_LEAST_SCORE = 0.45
_LOG_EVERY = 25  # samples
_TICK = 0.1  # seconds between two looks at the clock


# --- the models: they do not exist, and have the habits of real ones -----------------------------


class RateLimitError(Exception):
    """What a vendor's client raises for status 429; the monitor reads its name."""


class InternalServerError(Exception):
    """What a vendor's client raises for status 500 and above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """How a model behaves; medians are of log-normal distributions.

    Args:
        name: The model's name.
        provider: Who serves it.
        price: USD per million tokens.
        first_token: Median seconds until the first token.
        tokens_per_second: Median speed of the output; 0 where there is none.
        output_tokens: Median output, reasoning left out.
        reasoning_tokens: Median of the reasoning, part of the output; 0 for none.
        cached_share: Share of the calls that find the earlier turns in the provider's cache.
        failing_share: Share of the calls that fail.
        retried_share: Share of the calls that succeed only when they are made again.
    """

    name: str
    provider: str
    price: Price
    first_token: float
    tokens_per_second: float = 0.0
    output_tokens: float = 0.0
    reasoning_tokens: float = 0.0
    cached_share: float = 0.0
    failing_share: float = 0.01
    retried_share: float = 0.02


_LARGE = ModelProfile(
    name="atlas-large",
    provider="atlas",
    price=Price(3.0, 15.0, 0.3),
    first_token=0.9,
    tokens_per_second=60.0,
    output_tokens=420.0,
    reasoning_tokens=350.0,
    cached_share=0.8,
    failing_share=0.02,
    retried_share=0.05,
)
_MINI = ModelProfile(
    name="atlas-mini",
    provider="atlas",
    price=Price(0.25, 2.0, 0.025),
    first_token=0.35,
    tokens_per_second=140.0,
    output_tokens=160.0,
    cached_share=0.6,
)
_CHAT = ModelProfile(
    name="harbor-chat",
    provider="harbor",
    price=Price(0.6, 2.4),
    first_token=0.5,
    tokens_per_second=85.0,
    output_tokens=260.0,
    failing_share=0.05,
    retried_share=0.08,
)
JUDGE = ModelProfile(
    name="quill-judge",
    provider="quill",
    price=Price(1.1, 4.4, 0.275),
    first_token=0.6,
    tokens_per_second=95.0,
    output_tokens=90.0,
    cached_share=0.5,
    failing_share=0.03,
)
_EMBEDDER = ModelProfile(
    name="compass-embed",
    provider="compass",
    price=Price(0.02, 0.0),
    first_token=0.12,
    failing_share=0.004,
)

_WRITERS: tuple[tuple[ModelProfile, float], ...] = ((_MINI, 0.7), (_CHAT, 0.3))
"""Who writes the questions, and how often."""
_ANSWERERS: tuple[tuple[ModelProfile, float], ...] = ((_LARGE, 0.45), (_CHAT, 0.35), (_MINI, 0.2))
"""Who answers them, and how often."""
MODELS: tuple[ModelProfile, ...] = (_LARGE, _MINI, _EMBEDDER, _CHAT, JUDGE)
"""All of them, by name."""
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


# --- what the job does, one thing at a time ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """One call of a method of the monitor.

    Args:
        at: Seconds since the job began.
        method: The method's name.
        args: Its positional arguments.
        kwargs: Its keywords.
    """

    at: float
    method: Literal[
        "track_generation",
        "track_evaluation",
        "record_sample",
        "record_metric",
        "log_info",
        "log_warning",
        "log_error",
    ]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Begin:
    """The begin of a call that is made through ``monitor.generation(...)``.

    Args:
        at: Seconds since the job began.
        number: What its end is known by.
        kwargs: The keywords of ``monitor.generation``.
    """

    at: float
    number: int
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """The end of a call that began with :class:`Begin`.

    Args:
        at: Seconds since the job began.
        number: That of its begin.
        model: The model that was asked.
        duration: Seconds between the two.
        tokens: The keywords of the handle's ``usage``; empty where the call failed.
        error: Why it failed; None where it did not.
    """

    at: float
    number: int
    model: str
    duration: float
    tokens: Mapping[str, int]
    error: Exception | None


Action: TypeAlias = Record | Begin | End


class Simulator:
    """Makes up a job; the same arguments give the same job, however it is stepped through.

    Args:
        seed: Seed of all that is left to chance.
        rate: Calls of models a second, on average.
        failing: Models whose calls fail at another share than their own.
    """

    def __init__(self, seed: int, rate: float, failing: Mapping[str, float] | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a demo has no secrets
        self._rate = rate
        self._failing = dict(failing or {})
        # The long waves begin at 0, so that a short job keeps to its rate.
        self._phases = [self._random.uniform(0, math.tau), *(0.0 for _ in _WAVES[1:])]
        self._now = 0.0
        self._next_call = self._gap()
        self._next_incident = self._random.uniform(8, 30)
        self._overloaded: ModelProfile | None = None
        self._ends: list[tuple[float, int, End]] = []
        self._numbers = itertools.count(1)
        self._samples = 0
        # Few lives at a time, so that the first samples are there within seconds.
        self._lives = [self._life() for _ in range(max(2, round(0.3 * rate)))]

    def step(self, until: float) -> Iterator[Action]:
        """Go on with the job, in order of time.

        Args:
            until: Seconds since the job began; what happens up to then is yielded.
        """
        while True:
            at = min(self._next_call, self._next_incident, self._next_end)
            if at > until:
                return
            self._now = at
            if at == self._next_end:
                yield heapq.heappop(self._ends)[2]
            elif at == self._next_incident:
                yield self._turn_of_events()
            else:
                self._next_call += self._gap()
                yield from self._call()

    def finish(self) -> Iterator[Action]:
        """Yield the ends of the calls that are still open."""
        while self._ends:
            yield heapq.heappop(self._ends)[2]

    # --- when ----------------------------------------------------------------------------------

    @property
    def _next_end(self) -> float:
        return self._ends[0][0] if self._ends else math.inf

    def _wave(self, lag: float = 0.0) -> float:
        """Return the swing of the moment, around 0; slow enough to be seen on a dashboard."""
        return sum(
            height * math.sin(math.tau * (self._now - lag) / period + phase)
            for (period, height), phase in zip(_WAVES, self._phases, strict=True)
        )

    def _gap(self) -> float:
        return self._random.expovariate(self._rate * (1 + self._wave()))

    def _turn_of_events(self) -> Record:
        """Begin an incident of one model's provider, or end the one there is."""
        model, self._overloaded = self._overloaded, None
        if model is not None:
            self._next_incident = self._now + self._random.uniform(20, 60)
            return Record(self._now, "log_info", (f"{model.name} has recovered",))
        self._overloaded = model = self._random.choice(MODELS)
        self._next_incident = self._now + self._random.uniform(4, 9)
        return Record(self._now, "log_warning", (f"{model.name} is overloaded",))

    # --- what ----------------------------------------------------------------------------------

    def _call(self) -> Iterable[Action]:
        index = self._random.randrange(len(self._lives))
        actions = next(self._lives[index], None)
        if actions is None:
            self._lives[index] = self._life()
            actions = next(self._lives[index])
        return actions

    def _life(self) -> Iterator[list[Action]]:
        """Make one sample; yields, call by call, what is recorded with each."""
        turns = self._random.choices([*_TURNS], [*_TURNS.values()])[0]
        answerer = self._pick(_ANSWERERS)
        context, spent, reason = round(self._spread(500, 0.5)), 0.0, None
        steps = itertools.chain.from_iterable(
            (("question_generation", self._pick(_WRITERS)), ("answer_generation", answerer))
            for _ in range(turns)
        )
        for number, (step, model) in enumerate(steps):
            call = self._generation(model, step, context, is_first=number == 0)
            spent += call.args[0]
            if not call.args[1]:
                yield [call]
                call = self._generation(model, step, context, is_first=number == 0)
                spent += call.args[0]
            if not call.args[1]:
                yield [call, *self._failed_conversation(spent, number // 2, call)]
                return
            context += call.kwargs["completion_token_count"]
            if call.kwargs["finish_reason"] == "content_filter":
                reason = "filtered"
            is_end = number == 2 * turns - 1
            yield [call, self._conversation(spent, turns)] if is_end else [call]
        yield [self._embedding(context)]
        judged = self._judgement(context)
        yield [judged]
        grounded = self._grounding(context)
        reason = reason or self._verdict(context, judged, grounded)
        yield [grounded, *self._sample(reason)]

    def _generation(
        self, model: ModelProfile, step: str, context: int, *, is_first: bool
    ) -> Record:
        keywords: dict[str, Any] = {
            "model_name": model.name,
            "provider": model.provider,
            "metadata": {"operation": step},
        }
        error = self._error(model)
        if error is not None:
            keywords |= {"error": error, "retries": self._retries_before(error)}
            return self._generation_record(self._seconds_to_fail(error), False, keywords)
        reasoning = round(self._spread(model.reasoning_tokens, 0.6))
        output = reasoning + max(1, round(self._spread(model.output_tokens, 0.5)))
        prompt = context + round(self._spread(180, 0.3))
        finish = self._random.choices(["stop", "length", "content_filter"], [0.953, 0.042, 0.005])[
            0
        ]
        retries = self._retries(model)
        keywords |= {
            "prompt_token_count": prompt,
            "completion_token_count": output,
            "reasoning_token_count": reasoning or None,
            "cache_read_token_count": self._cached(model, 0 if is_first else context),
            "finish_reason": finish,
            "retries": retries,
        }
        seconds = self._seconds(model, output) + sum(2.0**n for n in range(len(retries or ())))
        return self._generation_record(seconds, True, keywords)

    def _generation_record(self, seconds: float, success: bool, keywords: dict[str, Any]) -> Record:
        return Record(self._now, "track_generation", (seconds, success), keywords)

    def _conversation(self, seconds: float, turns: int) -> Record:
        keywords = {
            "conversation_length": turns,
            "metadata": {"operation": "conversation_generation"},
        }
        return self._generation_record(seconds, True, keywords)

    def _failed_conversation(self, seconds: float, turns: int, call: Record) -> list[Action]:
        error = call.kwargs["error"]
        keywords = {
            "conversation_length": turns,
            "error": error,
            "metadata": {"operation": "conversation_generation"},
        }
        message = f"a conversation was given up in turn {turns + 1}"
        return [
            self._generation_record(seconds, False, keywords),
            Record(self._now, "log_error", (message, error), {"model": call.kwargs["model_name"]}),
            *self._sample("generation_failed"),
        ]

    def _embedding(self, context: int) -> Begin:
        error = self._error(_EMBEDDER)
        duration = min(self._seconds(_EMBEDDER, 0), 5.0)
        number = next(self._numbers)
        tokens = {} if error else {"prompt_token_count": context, "completion_token_count": 0}
        end = End(self._now + duration, number, _EMBEDDER.name, duration, tokens, error)
        heapq.heappush(self._ends, (end.at, number, end))
        keywords = {
            "model": _EMBEDDER.name,
            "step": "deduplication",
            "provider": _EMBEDDER.provider,
            "operation": "embeddings",
        }
        return Begin(self._now, number, keywords)

    def _judgement(self, context: int) -> Record:
        coherence = self._score(0.84)
        stars = 1 + round(4 * self._score(0.72), 1)
        feedback = "answers the question" if stars > 3 else "stays vague"  # noqa: PLR2004 - stars
        scores = {"coherence": coherence, "helpfulness": {"score": stars, "feedback": feedback}}
        prompt = context + 350
        output = max(1, round(self._spread(JUDGE.output_tokens, 0.3)))
        tokens = {
            "prompt_token_count": prompt,
            "completion_token_count": output,
            "cache_read_token_count": self._cached(JUDGE, 350),
        }
        return self._evaluation(JUDGE, "llm_judge", scores, tokens)

    def _grounding(self, context: int) -> Record:
        tokens = {"prompt_token_count": context, "completion_token_count": 0}
        return self._evaluation(
            _EMBEDDER, "grounding_check", {"grounding": self._score(0.78)}, tokens
        )

    def _evaluation(
        self,
        model: ModelProfile,
        evaluator: str,
        scores: dict[str, Any],
        tokens: Mapping[str, int | None],
    ) -> Record:
        error = self._error(model)
        keywords: dict[str, Any] = {
            "model_name": model.name,
            "provider": model.provider,
            "metadata": {"operation": "evaluation"},
        }
        if error is None:
            seconds = self._seconds(model, tokens["completion_token_count"] or 0)
            keywords |= tokens
        else:
            seconds, scores = self._seconds_to_fail(error), {}
            keywords["error"] = error
        arguments = (seconds, error is None, evaluator, scores)
        return Record(self._now, "track_evaluation", arguments, keywords)

    def _verdict(self, context: int, *evaluations: Record) -> str | None:
        """Say why a sample is rejected, None where it is accepted."""
        chance = self._random.random()
        if chance < 0.04:  # noqa: PLR2004 - a share of the job's own
            return "duplicate"
        if context < 900:  # noqa: PLR2004 - tokens
            return "too_short"
        if not all(evaluation.args[1] for evaluation in evaluations):
            return "not_evaluated"
        judged, grounded = (evaluation.args[3] for evaluation in evaluations)
        stars = (judged["helpfulness"]["score"] - 1) / 4
        lowest = min(judged["coherence"], stars, grounded["grounding"])
        return "low_score" if lowest < _LEAST_SCORE else None

    def _sample(self, reason: str | None) -> list[Action]:
        self._samples += 1
        waiting = max(0, round(400 + 300 * self._wave(lag=30) - self._random.uniform(0, 20)))
        distinct = 0.5 + 0.4 * self._random.betavariate(8, 4)
        actions: list[Action] = [
            Record(self._now, "record_sample", (reason is None, reason)),
            Record(self._now, "record_metric", (_QUEUE_DEPTH, waiting)),
            Record(self._now, "record_metric", ("distinct_ngram_share", distinct)),
        ]
        if self._samples % _LOG_EVERY == 0:
            actions.append(Record(self._now, "log_info", (f"{self._samples} samples made",)))
        return actions

    # --- chance --------------------------------------------------------------------------------

    def _pick(self, weighted: tuple[tuple[ModelProfile, float], ...]) -> ModelProfile:
        models, weights = zip(*weighted, strict=True)
        chosen: ModelProfile = self._random.choices(models, weights)[0]
        return chosen

    def _spread(self, median: float, sigma: float) -> float:
        return median * self._random.lognormvariate(0, sigma)

    def _score(self, mean: float) -> float:
        mean = min(0.95, mean + 0.1 * self._wave(lag=60))
        return round(self._random.betavariate(12 * mean, 12 * (1 - mean)), 3)

    def _cached(self, model: ModelProfile, tokens: int) -> int | None:
        # Providers cache whole blocks of a prompt.
        hit = self._random.random() < model.cached_share
        return tokens // 128 * 128 if hit else None

    def _strain(self, model: ModelProfile) -> float:
        return 6.0 if model is self._overloaded else 1.0 + self._wave(lag=10) / 2

    def _seconds(self, model: ModelProfile, output: int) -> float:
        slowness = 2.0 if model is self._overloaded else 1.0 + self._wave(lag=10) / 3
        seconds = self._spread(model.first_token, 0.4)
        if model.tokens_per_second:
            seconds += output / self._spread(model.tokens_per_second, 0.2)
        return seconds * slowness

    def _retries(self, model: ModelProfile) -> list[Exception] | None:
        share = min(0.5, model.retried_share * self._strain(model))
        if self._random.random() >= share:
            return None
        errors: list[Exception] = [RateLimitError("status 429"), ConnectionError("reset by peer")]
        return self._random.choices(errors, [0.8, 0.2], k=self._random.choice([1, 1, 2]))

    def _error(self, model: ModelProfile) -> Exception | None:
        share = min(0.6, model.failing_share * self._strain(model))
        share = self._failing.get(model.name, share)
        if self._random.random() >= share:
            return None
        errors: list[Exception] = [
            RateLimitError("status 429: too many requests"),
            InternalServerError("status 503: overloaded"),
            TimeoutError(f"no answer within {_TIMEOUT:.0f} s"),
        ]
        return self._random.choices(errors, [0.55, 0.35, 0.1])[0]

    @staticmethod
    def _retries_before(error: Exception) -> list[Exception] | None:
        # A client backs off and tries again before it reports a rate limit.
        return [error, error] if isinstance(error, RateLimitError) else None

    def _seconds_to_fail(self, error: Exception) -> float:
        if isinstance(error, TimeoutError):
            return _TIMEOUT
        backoff = 3.0 if isinstance(error, RateLimitError) else 0.0
        return backoff + self._spread(0.3, 0.5)


# --- the job ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the job is to do.

    Args:
        duration: Seconds that it lasts.
        rate: Calls of models a second, on average.
        seed: Seed of all that is left to chance.
        failing: Models whose calls fail at another share than their own.
    """

    duration: float
    rate: float
    seed: int
    failing: Mapping[str, float]

    @property
    def expected_samples(self) -> int:
        """Samples that the job is about to make, rejected ones among them."""
        return max(1, round(self.duration * self.rate / CALLS_A_SAMPLE))


class Job:
    """The job under way.

    Args:
        plan: What it is to do.
        monitor: Where it records that.
    """

    def __init__(self, plan: Plan, monitor: GenerationMonitor) -> None:
        self.plan = plan
        self.monitor = monitor
        self._simulator = Simulator(plan.seed, plan.rate, plan.failing)
        self._open: dict[int, GenerationHandle] = {}

    def advance(self, until: float) -> None:
        """Record what happens up to a time.

        Args:
            until: Seconds since the job began.
        """
        for action in self._simulator.step(until):
            self._record(action)

    def finish(self) -> None:
        """Record the ends of the calls that are still open."""
        for action in self._simulator.finish():
            self._record(action)

    def _record(self, action: Action) -> None:
        if isinstance(action, Begin):
            self._open[action.number] = self.monitor.generation(**action.kwargs).__enter__()
        elif isinstance(action, End):
            handle = self._open.pop(action.number)
            handle.usage(**action.tokens)
            if action.error is not None:
                handle.fail(action.error)
            handle.__exit__(None, None, None)
        else:
            getattr(self.monitor, action.method)(*action.args, **action.kwargs)


def play(
    job: Job,
    *,
    show: Callable[[float], None],
    wait: Callable[[float], bool],
    clock: Callable[[], float],
) -> float:
    """Run the job to its end.

    What is recorded by a time depends on the plan alone: a late look at the clock is made up for.

    Args:
        job: The job.
        show: Called with the seconds since the job began, at every look at the clock.
        wait: Waits so many seconds; returns whether the job is to stop now.
        clock: Returns seconds.

    Returns:
        Seconds of the job that were played.
    """
    duration, began, elapsed = job.plan.duration, clock(), 0.0
    while elapsed < duration:
        show(elapsed)
        if wait(min(_TICK, duration - elapsed)):
            break
        elapsed = min(clock() - began, duration)
        job.advance(elapsed)
    job.finish()
    show(elapsed)
    return elapsed
