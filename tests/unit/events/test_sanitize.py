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
from genmeter.events.capture import (
    capture_bool,
    capture_keywords,
    capture_label,
    capture_mapping,
    capture_number,
    capture_scores,
)
from genmeter.events.model import Call, CallDefaults, Log, Metric, Reason, Score
from genmeter.events.sanitize import Normaliser

if TYPE_CHECKING:
    from genmeter.events.model import Evaluation, Generation


class Metrics(StrEnum):
    """Score names as AfterImage has them."""

    COHERENCE = "coherence"


class Clean:
    """A normaliser, what a monitor's call makes of its arguments before, and what was dropped."""

    def __init__(self, defaults: CallDefaults | None = None, **limits: int) -> None:
        self.rejected: Counter[tuple[Reason, str]] = Counter()
        self.overflows: Counter[str] = Counter()
        self.defaults = defaults or CallDefaults(None, None, "chat")
        most = dataclasses.asdict(LabelLimits(**limits))
        del most["combinations"]
        self.normaliser = Normaliser(
            most,
            on_reject=lambda reason, name, _: self.rejected.update([(reason, name)]),
            on_overflow=lambda limit: self.overflows.update([limit]),
        )

    def generation(self, duration: Any = 1.0, success: Any = True, **keywords: Any) -> Generation:
        """Clean a call."""
        payload = (capture_number(duration), capture_bool(success), *self._plain(keywords))
        return self.normaliser.generation(5.0, payload, self.defaults)

    def evaluation(self, scores: Any = None, evaluator: Any = "e", **keywords: Any) -> Evaluation:
        """Clean an evaluation; ``success`` is a keyword here."""
        success = keywords.pop("success", True)
        given = (1.0, capture_bool(success), capture_label(evaluator), capture_scores(scores))
        return self.normaliser.evaluation(5.0, (*given, *self._plain(keywords)), self.defaults)

    @staticmethod
    def _plain(keywords: dict[str, Any]) -> tuple[dict[str, Any], Any, str | None, None]:
        metadata = keywords.pop("metadata", None)
        error_class = capture_keywords(keywords)
        return keywords, None if metadata is None else capture_mapping(metadata), error_class, None


def test_a_whole_call_keeps_every_field() -> None:
    """What is valid passes as it is."""
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
        step="ask",
    )
    assert event.call == ("embeddings", "openai", "m", "ask", "text")
    assert (event.time, event.duration, event.success, event.turns) == (5.0, 2.5, False, 3)
    assert (event.input_tokens, event.output_tokens, event.total_tokens) == (10, 5, 20)
    assert event[8:11] == (4, 1, 2)
    assert (event.finish_reason, event.error_type) == ("length", "TimeoutError")
    assert event.model_given
    assert not event.is_conversation


def test_a_call_that_says_nothing_has_the_defaults() -> None:
    """Labels fall back to the monitor's defaults, numbers to nothing."""
    event = Clean(CallDefaults("d", "p", "chat")).generation()
    assert event.call == ("chat", "p", "d", None, "unknown")
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
def test_a_missing_total_is_the_sum_of_its_parts(given: dict[str, Any], total: int | None) -> None:
    """A total that the caller leaves out is added up, one that is given stands."""
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
def test_a_conversation_has_a_length_or_its_step_and_neither_model_nor_tokens(
    keywords: dict[str, Any], is_conversation: bool, turns: int | None
) -> None:
    """What spans calls that were tracked already is told apart from a call of a model."""
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
def test_the_type_of_an_error_is_a_class_and_never_its_text(
    keywords: dict[str, Any], error_type: str
) -> None:
    """`error_type` comes first, then the metadata's, then the exception's class."""
    assert Clean().generation(1.0, False, **keywords).error_type == error_type
    assert Clean().evaluation(success=False, **keywords).error_type == error_type


def test_a_success_has_no_type_of_error() -> None:
    """An error beside a success is not one."""
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
def test_retries_are_counted_by_what_caused_them(
    retries: Any, kinds: dict[str, int] | None
) -> None:
    """A number counts under the call's own error, a list by each cause, within a bound."""
    assert Clean().generation(retries=retries).retries == kinds


def test_a_rate_limit_keeps_its_name_past_the_limit_of_error_types() -> None:
    """The alert on rate limits works however many kinds of errors there were before."""
    clean = Clean(error_types=1)
    found = clean.generation(retries=["OSError", "KeyError", LimitedError()]).retries
    assert found == {"OSError": 1, "other": 1, "rate_limited": 1}


def test_a_number_of_retries_is_counted_under_the_error_of_the_call() -> None:
    """Where only their number is known, the call's own error is the best word for them."""
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
def test_a_count_that_cannot_be_is_left_out_alone(value: Any, reason: Reason) -> None:
    """One bad count costs neither the event nor the counts beside it."""
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
def test_a_duration_that_cannot_be_is_left_out_alone(value: Any, reason: Reason) -> None:
    """The call is counted without it."""
    clean = Clean()
    assert clean.generation(value, prompt_token_count=1).input_tokens == 1
    assert clean.generation(value).duration is None
    assert clean.rejected == {(reason, "duration"): 2}


@pytest.mark.parametrize(("value", "truth"), [(1, True), (0, False), ("", False), (None, False)])
def test_success_is_what_is_true(value: Any, truth: bool) -> None:
    """Anything that Python takes for true or false is one of the two."""
    assert Clean().generation(1.0, value).success is truth


@pytest.mark.parametrize("value", [pd.NA, np.array([1, 2])], ids=["na", "array"])
def test_what_is_neither_true_nor_false_is_no_success(value: Any) -> None:
    """An outcome that cannot be known is a failure, and counted as left out."""
    clean = Clean()
    assert clean.generation(1.0, value).success is False
    assert clean.rejected == {(Reason.NOT_A_BOOLEAN, "success"): 1}


def test_a_step_is_the_keyword_or_the_operation_of_the_metadata() -> None:
    """`step=` comes before `metadata["operation"]`, which AfterImage gives."""
    clean = Clean()
    assert clean.generation(metadata={"operation": "ask"}).call.step == "ask"
    assert clean.generation(step="own", metadata={"operation": "ask"}).call.step == "own"
    assert clean.generation(metadata={}).call.step is None


def test_a_label_past_its_limit_is_other_and_a_lower_case_is_no_longer_than_a_label() -> None:
    """Every label is bounded in number and length."""
    clean = Clean(models=1)
    assert [clean.generation(model_name=n).call.model for n in "ab"] == ["a", "other"]
    assert clean.overflows == {"models": 1}
    assert len(clean.generation(finish_reason="\u0130" * 128).finish_reason or "") == 128


def test_the_names_of_scores_are_values_of_their_enum() -> None:
    """An Enum's value names the score; rows of score and feedback are read; bad ones left out."""
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


@pytest.mark.parametrize("scores", [{}, None])
def test_an_evaluation_may_have_no_scores(scores: Any) -> None:
    """Neither an empty table nor none is an error."""
    clean = Clean()
    assert clean.evaluation(scores).scores == ()
    assert not clean.rejected


def test_an_evaluator_without_a_name_is_unknown() -> None:
    """The label is never empty."""
    assert Clean().evaluation(evaluator="").evaluator == "unknown"
    assert Clean().evaluation(evaluator=None).evaluator == "unknown"


def test_an_evaluation_does_not_say_which_model_generates() -> None:
    """The judge's model is not the one that a failed call of the same step is blamed on."""
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
    """An error shows up at the model that was asked; no tokens are booked on a guess."""
    clean = Clean()
    clean.generation(model_name="seen", step="ask")
    event = clean.generation(1.0, success, step=step, **keywords)
    assert event.call.model == model
    assert event.model_given is (model == "own")


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("keywords", [{}, {"prompt_token_count": 5}])
def test_an_evaluation_never_infers_its_model(success: bool, keywords: dict[str, Any]) -> None:
    """A judge is seldom the model that writes, so what it costs is nobody's known model's."""
    clean = Clean()
    clean.generation(model_name="writer", step="s")
    assert clean.evaluation(success=success, step="s", **keywords).call.model == "unknown"


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("keywords", [{}, {"prompt_token_count": 5}, {"total_token_count": 0}])
def test_a_default_model_has_every_call_that_names_none(
    success: bool, keywords: dict[str, Any]
) -> None:
    """What the configuration says is no guess."""
    clean = Clean(CallDefaults("default", None, "chat"))
    clean.generation(model_name="seen", step="s")
    assert clean.generation(1.0, success, step="s", **keywords).call.model == "default"
    assert clean.evaluation(success=success, step="s", **keywords).call.model == "default"
    assert not clean.generation(1.0, success, **keywords).model_given


def test_a_failed_call_of_a_step_of_several_models_is_the_last_ones() -> None:
    """Where the step is new and several models were seen, nobody is blamed."""
    clean = Clean()
    for model, step in (("small", "ask"), ("large", "ask"), ("small", "judge"), ("large", "ask")):
        clean.generation(model_name=model, step=step)
    assert clean.generation(success=False, step="ask").call.model == "large"
    assert clean.generation(success=False, step="judge").call.model == "small"
    assert clean.generation(success=False, step="new").call.model == "unknown"
    # The labels of a call like this one are remembered; which model came last, too.
    clean.generation(model_name="small", step="ask")
    assert clean.generation(success=False, step="ask").call.model == "small"


def test_a_call_whose_model_was_inferred_does_not_teach_another() -> None:
    """A guess is no observation."""
    clean = Clean()
    clean.generation(model_name="a", step="x")
    assert clean.generation(success=False, step="new").call.model == "a"
    clean.generation(model_name="b", step="y")
    assert clean.generation(success=False, step="new").call.model == "unknown"


def test_labels_of_any_length_do_not_fill_the_memory() -> None:
    """Label sets are remembered for calls whose labels are labels, and up to a number of them."""
    clean = Clean()
    clean.generation(model_name="m" * 10_000, step="s")
    clean.generation(model_name="m", step="s" * 10_000)
    assert not clean.defaults.resolved
    assert (
        clean.generation(model_name="m", step="s").call
        is clean.generation(model_name="m", step="s").call
    )
    assert len(clean.defaults.resolved) == 1


def test_a_label_past_its_limit_is_counted_each_time() -> None:
    """A call whose label became `other` is not answered from what is remembered."""
    clean = Clean(models=1)
    for name in ("a", "b", "b", "a", "b"):
        clean.generation(model_name=name, step="s")
    assert clean.overflows == {"models": 3}


def test_a_metric_keeps_the_time_of_its_event() -> None:
    """Which time that is was found out in the call; see ``capture.capture_time``."""
    event = Clean().normaliser.metric(7.0, ("m", 1, {"timestamp": "text", "x": 1}))
    assert event == Metric(7.0, "m", 1.0, {"timestamp": "text", "x": 1})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("", 1, Reason.NO_NAME), (None, 1, Reason.NO_NAME), ("m", "x", Reason.NOT_A_NUMBER)],
)
def test_a_metric_needs_a_name_and_a_number(name: Any, value: Any, reason: Reason) -> None:
    """Without one of them there is nothing to keep."""
    clean = Clean()
    assert clean.normaliser.metric(5.0, (name, value, None)) is None
    assert [kept for kept, _ in clean.rejected] == [reason]


def test_a_sample_that_is_kept_has_no_reason() -> None:
    """Why a sample was rejected is only said of rejected ones."""
    clean = Clean()
    assert clean.normaliser.sample(5.0, (True, "why")) == (5.0, True, None)
    assert clean.normaliser.sample(5.0, (False, "why")) == (5.0, False, "why")


def test_a_log_passes_as_it_is() -> None:
    """Its message is a text and its data are plain since the call."""
    data = {"key": [1]}
    event = Clean().normaliser.log(5.0, ("info", "text", data, None))
    assert event == Log(5.0, "info", "text", data, None)


def test_metadata_are_among_the_keywords_of_the_event() -> None:
    """Handlers of logs get a call's keywords as they were given."""
    clean = Clean()
    assert clean.generation(metadata={"a": 1}, own=2).raw_kwargs == {"own": 2, "metadata": {"a": 1}}
    assert clean.evaluation(metadata={"a": 1}).raw_kwargs == {"metadata": {"a": 1}}
    assert clean.generation(own=2).raw_kwargs == {"own": 2}


def test_a_call_under_way_has_the_labels_of_the_call_that_it_will_be() -> None:
    """Calls under way are counted under the same labels; they teach nothing and count nothing."""
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


def test_no_limit_takes_the_old_names_from_record_metric() -> None:
    """A stop rule on `error_rate` sees its samples, however many names the job makes up."""
    clean = Clean(custom_metrics=1)
    names = ["own", "more", "error_rate", "model_creation_time"]
    events = [clean.normaliser.metric(1.0, (name, 1.0, None)) for name in names]
    assert [event and event.name for event in events] == ["own", "other", *names[2:]]


def test_an_error_has_the_name_of_its_class_whatever_its_metaclass_says() -> None:
    """A class that hides its name costs no event."""

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


def test_what_a_call_cost_is_in_its_event() -> None:
    """Each call is priced once, with its cached tokens; no price is NaN, no tokens no cost."""
    asked: list[tuple[Any, ...]] = []

    def price(*tokens: Any) -> float | None:
        asked.append(tokens)
        return None if tokens[0] == "other" else 0.5

    clean = Clean(CallDefaults(None, None, "chat", price))
    counts = {"prompt_token_count": 10, "cache_read_token_count": 4, "completion_token_count": 2}
    assert clean.generation(model_name="m", **counts).cost == 0.5
    assert clean.evaluation(model_name="m", total_token_count=3).cost == 0.5
    assert math.isnan(clean.generation(model_name="other", **counts).cost or 0.0)
    assert clean.generation(model_name="m").cost is None
    assert asked == [("m", 10, 2, 4), ("m", 0, 0, 0), ("other", 10, 2, 4)]
    assert Clean().generation(model_name="m", **counts).cost is None


def test_what_has_no_field_of_its_own_is_extra() -> None:
    """Unknown keywords, metadata, the error's text and the retries are kept by the event."""
    event = Clean().generation(
        success=False, seed=7, metadata={"id": "a", "operation": "s"}, error="late", retries=[None]
    )
    assert event.extra == {"id": "a", "seed": 7, "error": "late", "retries": {"_OTHER": 1}}
    assert Clean().evaluation(seed=7, step="s").extra == {"seed": 7}
