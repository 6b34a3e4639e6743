"""The normaliser: events whose every field is clean."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from genmeter.config.monitor import LabelLimits
from genmeter.config.prices import PriceTable
from genmeter.events.answers import Answer, CallDetails, TokenCounts, Unread
from genmeter.events.capture import (
    capture_bool,
    capture_keywords,
    capture_label,
    capture_mapping,
    capture_number,
    capture_scores,
)
from genmeter.events.model import ByModality, Call, CallDefaults, Log, Metric, Reason, Score
from genmeter.events.sanitize import Normaliser

if TYPE_CHECKING:
    from genmeter.events.model import Evaluation, Generation


class Metrics(StrEnum):
    """Score names as in AfterImage."""

    COHERENCE = "coherence"


class Clean:
    """A normaliser with the capture before it, and the dropped values."""

    def __init__(self, defaults: CallDefaults | None = None, **limits: int) -> None:
        self.rejected: Counter[tuple[Reason, str]] = Counter()
        self.dropped: list[tuple[str, str]] = []
        self.overflows: Counter[str] = Counter()
        self.notices: list[tuple[Reason | None, str]] = []
        self.defaults = defaults or CallDefaults(None, None, "chat")
        most = dataclasses.asdict(LabelLimits(**limits))
        del most["combinations"]
        self.normaliser = Normaliser(
            most,
            on_reject=self._reject,
            on_overflow=lambda limit: self.overflows.update([limit]),
            notice=lambda reason, key, *_: self.notices.append((reason, key)),
        )

    def generation(self, duration: Any = 1.0, success: Any = True, **keywords: Any) -> Generation:
        """Clean a call."""
        details = keywords.pop("details", None)
        plain = self._plain(keywords)
        payload = (capture_number(duration), capture_bool(success), *plain, details)
        return self.normaliser.generation(5.0, payload, self.defaults)

    def evaluation(self, scores: Any = None, evaluator: Any = "e", **keywords: Any) -> Evaluation:
        """Clean an evaluation; ``success`` is a keyword here."""
        success = keywords.pop("success", True)
        given = (1.0, capture_bool(success), capture_label(evaluator), capture_scores(scores))
        return self.normaliser.evaluation(5.0, (*given, *self._plain(keywords)), self.defaults)

    def _reject(self, reason: Reason, name: str, value: object) -> None:
        self.rejected.update([(reason, name)])
        self.dropped.append((name, str(value)))

    @staticmethod
    def _plain(keywords: dict[str, Any]) -> tuple[dict[str, Any], Any, str | None, None]:
        metadata = keywords.pop("metadata", None)
        error_class = capture_keywords(keywords)
        return keywords, None if metadata is None else capture_mapping(metadata), error_class, None


def test_valid_call_keeps_every_field() -> None:
    """Valid values are unchanged."""
    event = Clean().generation(
        2.5,
        False,
        model_name="m",
        prompt_token_count=10,
        completion_token_count=np.int64(5),
        total_token_count=Decimal(20),
        cache_read_token_count=4,
        cache_write_token_count=1,
        reasoning_token_count=2,
        finish_reason="LENGTH",
        error=TimeoutError("late"),
        conversation_length=3,
        provider="openai",
        operation="embeddings",
        modality="text",
        response_model="m-2026",
        step="ask",
    )
    assert event.call == ("embeddings", "openai", "m", "ask", "text", "m-2026")
    assert (event.time, event.duration, event.success, event.turns) == (5.0, 2.5, False, 3)
    assert (event.input_tokens, event.output_tokens, event.total_tokens) == (10, 5, 20)
    assert event[8:11] == (4, 1, 2)
    assert (event.finish_reason, event.error_type) == ("length", "TimeoutError")
    assert event.model_given
    assert not event.is_conversation


def test_empty_call_has_the_defaults() -> None:
    """Labels are the monitor's defaults, numbers are None."""
    event = Clean(CallDefaults("d", "p", "chat")).generation()
    assert event.call == ("chat", "p", "d", None, "unknown", None)
    assert not event.model_given
    assert event.input_tokens is event.output_tokens is event.total_tokens is None
    assert Clean().generation().call.provider == "_OTHER"


@pytest.mark.parametrize(
    ("given", "total"),
    [
        ({"prompt_token_count": 3, "completion_token_count": 4}, 7),
        ({"prompt_token_count": 3}, 3),
        ({"completion_token_count": 4}, 4),
        ({"prompt_token_count": 3, "total_token_count": 9}, 9),
        ({"total_token_count": 9}, 9),
        ({"prompt_token_count": 3, "total_token_count": "bad"}, 3),
        ({}, None),
    ],
)
def test_missing_total_is_the_sum_of_its_parts(given: dict[str, Any], total: int | None) -> None:
    """A total that the caller passes is kept."""
    assert Clean().generation(**given).total_tokens == total
    assert Clean().evaluation(**given).total_tokens == total


@pytest.mark.parametrize(
    ("keywords", "is_conversation", "turns"),
    [
        ({"conversation_length": 4}, True, 4),
        ({"metadata": {"operation": "conversation_generation"}}, True, None),
        ({"metadata": {"operation": "conversation_generation"}, "turns": 2}, True, 2),
        ({"conversation_length": 4, "turns": 2}, True, 4),
        ({"conversation_length": 4, "model_name": "m"}, False, 4),
        ({"conversation_length": 4, "prompt_token_count": 1}, False, 4),
        ({"turns": 2}, True, 2),
        ({"turns": 2, "model_name": "m"}, False, None),
    ],
)
def test_conversation_has_a_length_but_no_model_or_tokens(
    keywords: dict[str, Any], is_conversation: bool, turns: int | None
) -> None:
    """It spans calls that are recorded separately."""
    event = Clean().generation(**keywords)
    assert (event.is_conversation, event.turns) == (is_conversation, turns)


@pytest.mark.parametrize(
    ("keywords", "error_type"),
    [
        ({}, "_OTHER"),
        ({"error": "text of the error"}, "_OTHER"),
        ({"error": ValueError("no")}, "ValueError"),
        ({"error": ValueError("no"), "metadata": {"error_type": "timeout"}}, "timeout"),
        ({"error_type": "given", "metadata": {"error_type": "timeout"}}, "given"),
        ({"error_type": "  "}, "_OTHER"),
    ],
)
def test_error_type_is_never_the_text_of_an_error(
    keywords: dict[str, Any], error_type: str
) -> None:
    """`error_type` comes first, then the metadata's, then the exception's class."""
    assert Clean().generation(1.0, False, **keywords).error_type == error_type
    assert Clean().evaluation(success=False, **keywords).error_type == error_type


def test_success_has_no_error_type() -> None:
    """An error of a successful call is ignored."""
    assert Clean().generation(1.0, True, error=ValueError(), error_type="x").error_type is None


class LimitedError(Exception):
    """An error with HTTP's status."""

    status_code = 429


class CodedError(Exception):
    """An error with a code."""

    code = 429


@pytest.mark.parametrize(
    ("retries", "kinds"),
    [
        (2, {"_OTHER": 2}),
        (0, None),
        ([], None),
        (None, None),
        ([TimeoutError()], {"TimeoutError": 1}),
        ((TimeoutError, "TimeoutError"), {"TimeoutError": 2}),
        ([LimitedError(), CodedError(), "RateLimitError", "openai.ratelimit"], {"rate_limited": 4}),
        ([None, 5], {"_OTHER": 1, "5": 1}),
        (10**6, {"_OTHER": 10_000}),
        (["x"] * 20_000, {"x": 10_000}),
        ({"a": 1}, None),
        (True, None),
    ],
)
def test_retries_are_counted_by_cause(retries: Any, kinds: dict[str, int] | None) -> None:
    """A number counts under the call's error, a list by each cause, up to a limit."""
    assert Clean().generation(retries=retries).retries == kinds


def test_rate_limit_never_becomes_other() -> None:
    """The alert on rate limits works with any number of error types."""
    clean = Clean(error_types=1)
    found = clean.generation(retries=["OSError", "KeyError", LimitedError()]).retries
    assert found == {"OSError": 1, "other": 1, "rate_limited": 1}


def test_number_of_retries_counts_under_the_error_of_the_call() -> None:
    """It is the best known cause."""
    assert Clean().generation(1.0, False, retries=3, error=OSError()).retries == {"OSError": 3}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (-1, Reason.NEGATIVE),
        (2**63, Reason.OUT_OF_RANGE),
        (2**40 + 1, Reason.OUT_OF_RANGE),
        (True, Reason.NOT_A_NUMBER),
        ("5", Reason.NOT_A_NUMBER),
        (float("nan"), Reason.NOT_FINITE),
    ],
)
def test_invalid_count_is_dropped_alone(value: Any, reason: Reason) -> None:
    """The event and its other counts are kept."""
    clean = Clean()
    event = clean.generation(prompt_token_count=value, completion_token_count=7)
    assert (event.input_tokens, event.output_tokens, event.total_tokens) == (None, 7, 7)
    assert clean.rejected == {(reason, "prompt_token_count"): 1}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.NOT_A_NUMBER),
        (True, Reason.NOT_A_NUMBER),
        (-0.1, Reason.NEGATIVE),
        (1e10, Reason.OUT_OF_RANGE),
        (float("inf"), Reason.NOT_FINITE),
    ],
)
def test_invalid_duration_is_dropped_alone(value: Any, reason: Reason) -> None:
    """The call is counted without it."""
    clean = Clean()
    assert clean.generation(value, prompt_token_count=1).input_tokens == 1
    assert clean.generation(value).duration is None
    assert clean.rejected == {(reason, "duration"): 2}


@pytest.mark.parametrize(("value", "truth"), [(1, True), (0, False), ("", False), (None, False)])
def test_success_is_a_truth_value(value: Any, truth: bool) -> None:
    """Any object with a truth value is converted."""
    assert Clean().generation(1.0, value).success is truth


@pytest.mark.parametrize("value", [pd.NA, np.array([1, 2])], ids=["na", "array"])
def test_success_without_a_truth_value_is_a_failure(value: Any) -> None:
    """It is counted as rejected."""
    clean = Clean()
    assert clean.generation(1.0, value).success is False
    assert clean.rejected == {(Reason.NOT_A_BOOLEAN, "success"): 1}


def test_dropped_value_is_named_with_its_argument() -> None:
    """The log has what a reader needs to find the faulty call."""
    clean = Clean()
    clean.generation(
        -1.0,
        np.array([1, 2]),
        prompt_token_count="many",
        completion_token_count=-2,
        total_token_count=math.nan,
        reasoning_token_count=-3,
        retries=-4,
        conversation_length=-5,
        cost="free",
        metadata=["no", "mapping"],
    )
    clean.evaluation([0.5], success=np.array([3, 4]))
    clean.evaluation({"": 1.0, "s": "high"})
    clean.normaliser.metric(5.0, ("", 1.0, None))
    clean.normaliser.metric(5.0, ("m", "low", None))
    clean.normaliser.sample(5.0, (capture_bool(np.array([5, 6])), None))
    assert sorted(clean.dropped) == [
        ("accepted", "[5 6]"),
        ("completion_token_count", "-2"),
        ("conversation_length", "-5"),
        ("cost", "free"),
        ("duration", "-1.0"),
        ("m", "low"),
        ("metadata", "['no', 'mapping']"),
        ("metric_name", ""),
        ("prompt_token_count", "many"),
        ("reasoning_token_count", "-3"),
        ("retries", "-4"),
        ("scores", ""),
        ("scores", "[0.5]"),
        ("scores['s']", "high"),
        ("success", "[1 2]"),
        ("success", "[3 4]"),
        ("total_token_count", "nan"),
    ]


def test_step_is_the_keyword_or_the_operation_in_metadata() -> None:
    """`step=` comes before AfterImage's `metadata["operation"]`."""
    clean = Clean()
    assert clean.generation(metadata={"operation": "ask"}).call.step == "ask"
    assert clean.generation(step="own", metadata={"operation": "ask"}).call.step == "own"
    assert clean.generation(metadata={}).call.step is None


def test_labels_are_bounded() -> None:
    """Every label is bounded in number and length, also in lower case."""
    clean = Clean(models=1)
    assert [clean.generation(model_name=n).call.model for n in "ab"] == ["a", "other"]
    assert clean.overflows == {"models": 1}
    assert len(clean.generation(finish_reason="\u0130" * 128).finish_reason or "") == 128


def test_score_names_may_be_enums() -> None:
    """Dicts of score and feedback are read; invalid ones are dropped."""
    clean = Clean()
    scores = {
        Metrics.COHERENCE: 0.5,
        "plain": {"score": 1, "feedback": "good"},
        "none given": {"feedback": "no score"},
        "bad": "high",
        "": 1.0,
    }
    assert clean.evaluation(scores).scores == (
        Score("coherence", 0.5),
        Score("plain", 1.0, "good"),
        Score("none given", 0.0, "no score"),
    )
    assert clean.rejected == {
        (Reason.NOT_A_NUMBER, "scores['bad']"): 1,
        (Reason.NO_NAME, "scores"): 1,
    }


@pytest.mark.parametrize(
    ("label", "clean"),
    [
        ("pass", "pass"),
        (" not\nrelevant ", "not relevant"),
        ("x" * 500, "x" * 128),
        ("", None),
        (None, None),
    ],
    ids=repr,
)
def test_score_labels_are_short_texts(label: Any, clean: str | None) -> None:
    """A label is stripped and cut as every label is; an empty one is unknown."""
    checked = Clean()
    (score,) = checked.evaluation({"s": {"score": 1, "label": label}}).scores
    assert score == Score("s", 1.0, None, clean)
    assert not checked.rejected


@pytest.mark.parametrize("scores", [{}, None])
def test_evaluation_may_have_no_scores(scores: Any) -> None:
    """Neither an empty dict nor None is an error."""
    clean = Clean()
    assert clean.evaluation(scores).scores == ()
    assert not clean.rejected


def test_evaluator_without_a_name_is_unknown() -> None:
    """The label is never empty."""
    assert Clean().evaluation(evaluator="").evaluator == "unknown"
    assert Clean().evaluation(evaluator=None).evaluator == "unknown"


def test_model_of_an_evaluation_is_not_remembered() -> None:
    """A failed call of the same step is not booked on the judge's model."""
    clean = Clean()
    clean.generation(model_name="writer", step="s")
    clean.evaluation(model_name="judge", step="s")
    assert clean.generation(success=False, step="s").call.model == "writer"


# --- the model of a call that names none ---------------------------------------------------------


@pytest.mark.parametrize(
    ("success", "keywords", "model"),
    [
        (True, {}, "unknown"),
        (True, {"prompt_token_count": 5}, "unknown"),
        (True, {"total_token_count": 0}, "unknown"),
        (False, {}, "seen"),
        (False, {"total_token_count": 0}, "seen"),
        (False, {"prompt_token_count": 0, "completion_token_count": 0}, "seen"),
        (False, {"prompt_token_count": "bad"}, "seen"),
        (False, {"error": TimeoutError()}, "seen"),
        (False, {"prompt_token_count": 5}, "unknown"),
        (False, {"total_token_count": 1}, "unknown"),
        (False, {"model_name": "own"}, "own"),
        (False, {"model_name": "own", "prompt_token_count": 5}, "own"),
        (False, {"model_name": "  "}, "seen"),
        (np.array([1, 2]), {}, "seen"),
    ],
)
@pytest.mark.parametrize("step", ["ask", "another", None])
def test_only_a_failed_call_without_tokens_infers_its_model(
    success: Any, keywords: dict[str, Any], model: str, step: str | None
) -> None:
    """An error appears at its model, but tokens are never booked on a guess."""
    clean = Clean()
    clean.generation(model_name="seen", step="ask")
    event = clean.generation(1.0, success, step=step, **keywords)
    assert event.call.model == model
    assert event.model_given is (model == "own")


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("keywords", [{}, {"prompt_token_count": 5}])
def test_model_of_an_evaluation_is_not_inferred(success: bool, keywords: dict[str, Any]) -> None:
    """A judge is seldom the model that generates."""
    clean = Clean()
    clean.generation(model_name="writer", step="s")
    assert clean.evaluation(success=success, step="s", **keywords).call.model == "unknown"


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("keywords", [{}, {"prompt_token_count": 5}, {"total_token_count": 0}])
def test_default_model_applies_to_every_call_without_one(
    success: bool, keywords: dict[str, Any]
) -> None:
    """The configuration is not a guess."""
    clean = Clean(CallDefaults("default", None, "chat"))
    clean.generation(model_name="seen", step="s")
    assert clean.generation(1.0, success, step="s", **keywords).call.model == "default"
    assert clean.evaluation(success=success, step="s", **keywords).call.model == "default"
    assert not clean.generation(1.0, success, **keywords).model_given


def test_failed_call_of_a_step_gets_its_last_model() -> None:
    """With a new step and several models, none is blamed."""
    clean = Clean()
    for model, step in (("small", "ask"), ("large", "ask"), ("small", "judge"), ("large", "ask")):
        clean.generation(model_name=model, step=step)
    assert clean.generation(success=False, step="ask").call.model == "large"
    assert clean.generation(success=False, step="judge").call.model == "small"
    assert clean.generation(success=False, step="new").call.model == "unknown"
    # The labels of a call like this one are remembered; which model came last, too.
    clean.generation(model_name="small", step="ask")
    assert clean.generation(success=False, step="ask").call.model == "small"


def test_inferred_model_is_not_remembered() -> None:
    """A guess is not an observation."""
    clean = Clean()
    clean.generation(model_name="a", step="x")
    assert clean.generation(success=False, step="new").call.model == "a"
    clean.generation(model_name="b", step="y")
    assert clean.generation(success=False, step="new").call.model == "unknown"


def test_cache_of_label_sets_is_bounded() -> None:
    """Calls with long labels are not cached."""
    clean = Clean()
    clean.generation(model_name="m" * 10_000, step="s")
    clean.generation(model_name="m", step="s" * 10_000)
    assert not clean.defaults.resolved
    assert (
        clean.generation(model_name="m", step="s").call
        is clean.generation(model_name="m", step="s").call
    )
    assert len(clean.defaults.resolved) == 1


def test_each_overflow_of_a_label_is_counted() -> None:
    """A call with the label `other` is not cached."""
    clean = Clean(models=1)
    for name in ("a", "b", "b", "a", "b"):
        clean.generation(model_name=name, step="s")
    assert clean.overflows == {"models": 3}


def test_metric_keeps_the_time_of_its_event() -> None:
    """The call determines the time; see ``capture.capture_time``."""
    event = Clean().normaliser.metric(7.0, ("m", 1, {"timestamp": "text", "x": 1}))
    assert event == Metric(7.0, "m", 1.0, {"timestamp": "text", "x": 1})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("", 1, Reason.NO_NAME), (None, 1, Reason.NO_NAME), ("m", "x", Reason.NOT_A_NUMBER)],
)
def test_metric_without_name_or_number_is_dropped(name: Any, value: Any, reason: Reason) -> None:
    """Nothing else is worth keeping."""
    clean = Clean()
    assert clean.normaliser.metric(5.0, (name, value, None)) is None
    assert [kept for kept, _ in clean.rejected] == [reason]


def test_accepted_sample_has_no_reason() -> None:
    """Only rejected samples have one."""
    clean = Clean()
    assert clean.normaliser.sample(5.0, (True, "why")) == (5.0, True, None)
    assert clean.normaliser.sample(5.0, (False, "why")) == (5.0, False, "why")


def test_log_is_unchanged() -> None:
    """Its message and data are plain since the call."""
    data = {"key": [1]}
    event = Clean().normaliser.log(5.0, ("info", "text", data, None))
    assert event == Log(5.0, "info", "text", data, None)


def test_event_keywords_include_metadata() -> None:
    """Handlers of logs get a call's keywords unchanged."""
    clean = Clean()
    assert clean.generation(metadata={"a": 1}, own=2).raw_kwargs == {"own": 2, "metadata": {"a": 1}}
    assert clean.evaluation(metadata={"a": 1}).raw_kwargs == {"metadata": {"a": 1}}
    assert clean.generation(own=2).raw_kwargs == {"own": 2}


def test_running_call_has_the_labels_of_the_finished_call() -> None:
    """Its labels are neither remembered nor counted."""
    clean = Clean(models=1)
    keywords = {"model_name": "m", "step": "s", "provider": None, "operation": None}
    assert clean.normaliser.call(keywords, clean.defaults) == Call(
        "chat", "_OTHER", "m", "s", "unknown"
    )
    assert clean.generation(success=False, step="s").call.model == "unknown"
    assert clean.generation(model_name="m", step="s").call == clean.normaliser.call(
        keywords, clean.defaults
    )
    unnamed = {**keywords, "model_name": None}
    assert clean.normaliser.call(unnamed, clean.defaults).model == "unknown"
    other = {**keywords, "model_name": "past the limit"}
    assert clean.normaliser.call(other, clean.defaults).model == "other"
    assert not clean.overflows
    clean.generation(model_name="past the limit")
    assert clean.overflows == {"models": 1}


def test_afterimages_names_never_become_other() -> None:
    """A stop rule on `error_rate` sees its samples, however many names the job uses."""
    clean = Clean(custom_metrics=1)
    names = ["own", "more", "error_rate", "model_creation_time"]
    events = [clean.normaliser.metric(1.0, (name, 1.0, None)) for name in names]
    assert [event and event.name for event in events] == ["own", "other", *names[2:]]


def test_error_type_ignores_the_metaclass() -> None:
    """A class that hides its name loses no event."""

    class Nameless(type):
        @property
        def __name__(cls) -> str:
            raise RuntimeError("no name")

    class HiddenError(Exception, metaclass=Nameless):
        pass

    clean = Clean()
    event = clean.generation(
        success=False, error=HiddenError(), retries=[HiddenError(), HiddenError]
    )
    assert event.error_type == "HiddenError"
    assert event.retries == {"HiddenError": 2}


def test_event_has_the_cost_of_its_call() -> None:
    """Each answer is priced by the asked name, the provider and the time; without tokens nothing is."""
    asked: list[tuple[Any, ...]] = []

    def price(
        answer: Answer, *, model: str | None, provider: str | None, time: float | None
    ) -> float | None:
        asked.append((answer.tokens[:4], answer.model, model, provider, time))
        return None if model == "other" else 0.5

    clean = Clean(CallDefaults(None, "p", "chat", price))
    counts = {"prompt_token_count": 10, "cache_read_token_count": 4, "completion_token_count": 2}
    assert clean.generation(model_name="m", response_model="m-1", **counts).cost == 0.5
    assert clean.evaluation(model_name="m", prompt_token_count=3).cost == 0.5
    unpriced = clean.generation(model_name="other", **counts)
    assert (unpriced.cost, unpriced.unpriced, unpriced.cost_reported) == (None, True, False)
    free = clean.generation(model_name="m")
    assert (free.cost, free.unpriced) == (None, False)
    assert asked == [
        ((10, 2, 12, 4), "m-1", "m", "p", 5.0),
        ((3, 0, 3, 0), None, "m", "p", 5.0),
        ((10, 2, 12, 4), None, "other", "p", 5.0),
    ]
    assert Clean().generation(model_name="m", **counts).cost is None


@pytest.mark.parametrize(
    ("counts", "cost"),
    [
        ({"prompt_token_count": 300, "total_token_count": 400}, 300 + 100 * 5),
        ({"completion_token_count": 100, "total_token_count": 400}, 300 + 100 * 5),
        ({"prompt_token_count": 300, "total_token_count": 200}, 300),
        ({"total_token_count": 400}, None),
        ({"total_token_count": 0}, 0),
        ({"total_token_count": 400, "model_name": "flat"}, 400 * 2),
        ({"total_token_count": 400, "model_name": "embeds"}, 400 * 3),
    ],
)
def test_total_without_its_parts_is_not_free(counts: dict[str, Any], cost: float | None) -> None:
    """One part is what the total has beside the other; a total alone has a price if parts are alike."""
    rates = {"m": (1.0, 5.0), "flat": (2.0, 2.0), "embeds": (3.0, 0.0)}
    table = PriceTable({model: (each[0] * 1e6, each[1] * 1e6) for model, each in rates.items()})
    clean = Clean(CallDefaults(None, None, "chat", table.usd))
    event = clean.generation(**{"model_name": "m", **counts})
    assert (event.cost, event.unpriced) == (cost, cost is None)


def test_spaces_around_a_model_do_not_hide_its_price() -> None:
    """The label has none either, so that a report of the journal finds the same price."""
    clean = Clean(CallDefaults(None, None, "chat", PriceTable({"m": (1e6, 1e6)}).usd))
    event = clean.generation(model_name=" m\n", prompt_token_count=5)
    assert (event.call.model, event.cost) == ("m", 5.0)


def test_counts_out_of_range_have_no_price() -> None:
    """They are in no total, and so in no cost."""
    table = PriceTable({"m": (1e6, 1e6)})
    details = CallDetails((Answer(TokenCounts(2**70, 5, 2**70 + 5)),))
    clean = Clean(CallDefaults(None, None, "chat", table.usd))
    counts = {"prompt_token_count": 2**70, "completion_token_count": 5}
    event = clean.generation(details=details, model_name="m", **counts)
    assert (event.total_tokens, event.cost) == (5, 5.0)


def test_each_answer_is_priced_by_itself() -> None:
    """A reported cost stands, one without a price is left out and noted, and all are in the data."""

    def price(
        answer: Answer, *, model: str | None, provider: str | None, time: float | None
    ) -> float | None:
        return 1.0 if answer.model == "a" else None

    answers = tuple(
        Answer(TokenCounts(input=5), model, cost=cost)
        for model, cost in (("a", None), ("b", 0.25), ("c", None))
    )
    event = Clean(CallDefaults(None, None, "chat", price)).generation(
        details=CallDetails(answers), prompt_token_count=15
    )
    assert (event.cost, event.cost_reported, event.unpriced) == (1.25, True, True)
    assert event.extra["billing"] == {
        "answers": [
            {"input": 5, "model": "a"},
            {"input": 5, "model": "b", "cost": 0.25},
            {"input": 5, "model": "c"},
        ],
        "cost_reported": True,
    }


def test_reported_cost_stands_over_the_prices() -> None:
    """It needs no tokens; one that is no amount is dropped, and the prices hold."""

    def price(
        answer: Answer, *, model: str | None, provider: str | None, time: float | None
    ) -> float | None:
        return 1.0

    clean = Clean(CallDefaults(None, None, "chat", price))
    event = clean.generation(total_token_count=5, cost=Decimal("0.125"))
    assert (event.cost, event.cost_reported) == (0.125, True)
    assert clean.generation(cost=2).cost == 2.0
    for wrong in (-1.0, math.nan, "free", True):
        assert clean.generation(total_token_count=5, cost=wrong).cost == 1.0
    assert clean.rejected.total() == 4


def test_data_for_the_price_is_kept_with_the_event() -> None:
    """Counts with their own price, the service tier and the batch, as far as they are given."""
    event = Clean().generation(
        prompt_token_count=100,
        completion_token_count=10,
        cache_write_token_count=50,
        cache_write_1h_token_count=20,
        input_audio_token_count=30,
        service_tier=" Flex ",
        batch=True,
        seed=1,
    )
    assert event.extra == {
        "seed": 1,
        "billing": {
            "cache_write_1h_token_count": 20,
            "input_audio_token_count": 30,
            "service_tier": "flex",
            "batch": True,
        },
    }
    assert event.by_modality == ByModality(input=(("audio", 30),))
    assert Clean().generation(total_token_count=5, batch=False, service_tier=None).extra == {}


def test_modalities_that_exceed_the_count_are_dropped() -> None:
    """A sum by modality never exceeds the tokens."""
    answer = Answer(TokenCounts(5, 5, input_by=(("audio", 6),), output_by=(("text", 5),)))
    event = Clean().generation(
        details=CallDetails((answer,)), prompt_token_count=5, completion_token_count=5
    )
    assert event.by_modality == ByModality(output=(("text", 5),))


def test_modalities_of_several_answers_are_summed() -> None:
    """Input, output and what a cache had, each by itself."""
    counts = TokenCounts(
        5,
        4,
        cache_read=3,
        input_by=(("audio", 2), ("image", 1)),
        output_by=(("audio", 4),),
        cache_read_by=(("image", 3),),
    )
    event = Clean().generation(
        details=CallDetails((Answer(counts), Answer(counts))),
        prompt_token_count=10,
        completion_token_count=8,
        cache_read_token_count=6,
    )
    assert event.by_modality == ByModality(
        input=(("audio", 4), ("image", 2)), output=(("audio", 8),), cache_read=(("image", 6),)
    )


@pytest.mark.parametrize(
    ("success", "details", "keywords", "unread"),
    [
        (True, None, {}, "not_reported"),
        (True, CallDetails(), {}, "not_reported"),
        (True, CallDetails(unread=Unread("no_usage", "X")), {}, "no_usage"),
        (True, CallDetails(unread=Unread("no_usage", "X")), {"total_token_count": 0}, None),
        (True, None, {"cost": 0.5}, "not_reported"),
        (True, None, {"conversation_length": 3}, None),
        (False, None, {}, None),
        (False, CallDetails(unread=Unread("no_usage", "X")), {}, None),
        (False, CallDetails(is_cancelled=True), {}, None),
        (False, CallDetails(is_cancelled=True, first_chunk=0.5), {}, "stream_left"),
    ],
)
def test_unknown_usage_is_not_zero(
    success: bool, details: CallDetails | None, keywords: dict[str, Any], unread: str | None
) -> None:
    """A successful call without usage says why; a failed one need not have any."""
    clean = Clean()
    assert clean.generation(1.0, success, details=details, **keywords).unread == unread
    assert bool(clean.notices) == (unread is not None)


def test_cancelled_call_is_no_failure() -> None:
    """It has no error type, and is no success."""
    event = Clean().generation(1.0, False, details=CallDetails(is_cancelled=True))
    assert (event.success, event.cancelled, event.error_type) == (False, True, None)


@pytest.mark.parametrize(
    "name", ["model", "prompt_tokens", "input_tokens", "Output_Tokens", "prompt_token_cout"]
)
def test_misnamed_keyword_is_noted_and_kept(name: str) -> None:
    """It is the caller's data, as for AfterImage."""
    clean = Clean()
    assert clean.generation(**{name: 5}).extra[name] == 5
    assert (Reason.MISNAMED, f"keyword {name}") in clean.notices


def test_other_data_is_not_misnamed() -> None:
    """Most keywords are the caller's own."""
    clean = Clean()
    clean.generation(
        total_token_count=1, seed=1, temperature=0.5, prompt="x", attempt=2, tokenizer="t"
    )
    assert clean.notices == []


def test_durations_in_milliseconds_are_noted() -> None:
    """Calls that follow each other at once, and cannot have begun before the monitor."""
    clean = Clean()
    clean.defaults.created = 0.0
    for _ in range(9):
        clean.generation(850.0, total_token_count=1)
    assert clean.notices == []
    clean.generation(850.0, total_token_count=1)
    assert clean.notices == [(None, "milliseconds")]


@pytest.mark.parametrize("created", [0.0, -1e6])
def test_a_few_long_calls_are_not_milliseconds(created: float) -> None:
    """Nor are many at once that began after the monitor."""
    clean = Clean()
    clean.defaults.created = created
    for number in range(100):
        long = 300.0 if created < 0 or number % 5 else 1.0
        clean.generation(long, total_token_count=1)
    assert clean.notices == []
    clean.generation(20_000.0, total_token_count=1)
    assert clean.notices == [(None, "milliseconds")]


def test_keywords_without_a_field_are_extra() -> None:
    """Unknown keywords, metadata, the error's text and the retries are kept."""
    event = Clean().generation(
        success=False, seed=7, metadata={"id": "a", "operation": "s"}, error="late", retries=[None]
    )
    assert event.extra == {"id": "a", "seed": 7, "error": "late", "retries": {"_OTHER": 1}}
    assert Clean().evaluation(seed=7, step="s").extra == {"seed": 7}
