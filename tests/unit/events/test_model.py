"""What a monitor fills in where a call does not say."""

from __future__ import annotations

from genmeter.events.model import CallDefaults, Raw, Reason


def defaults(model: str | None = None) -> CallDefaults:
    """Make the defaults of a monitor."""
    return CallDefaults(model, None, "chat")


def test_the_configured_model_comes_first() -> None:
    """A default model holds whatever calls have named, for every call without a model."""
    known = defaults("configured")
    known.observe_model("step", "seen")
    assert known.model_for("step", infer=True) == "configured"
    assert known.model_for("step", infer=False) == "configured"


def test_then_the_model_last_seen_for_the_same_step() -> None:
    """A failed call of a step is booked on the model that the step named last."""
    known = defaults()
    known.observe_model("ask", "small")
    known.observe_model("ask", "large")
    known.observe_model("judge", "other")
    assert known.model_for("ask", infer=True) == "large"
    assert known.model_for("judge", infer=True) == "other"


def test_calls_without_a_step_are_a_step_of_their_own() -> None:
    """The model last named without a step is the one of failed calls that name neither."""
    known = defaults()
    known.observe_model(None, "stepless")
    known.observe_model("ask", "small")
    assert known.model_for(None, infer=True) == "stepless"


def test_then_the_only_model() -> None:
    """Where one model alone was seen, failed calls of any step are booked on it."""
    known = defaults()
    known.observe_model("ask", "only")
    known.observe_model("judge", "only")
    assert known.model_for("never seen", infer=True) == "only"


def test_else_it_is_unknown() -> None:
    """With no model seen, or several and none for the step, no model is blamed."""
    known = defaults()
    assert known.model_for("ask", infer=True) == "unknown"
    known.observe_model("ask", "small")
    known.observe_model("judge", "large")
    assert known.model_for("never seen", infer=True) == "unknown"


def test_a_call_that_used_tokens_is_never_inferred() -> None:
    """A successful call, or one with tokens, is ``unknown`` though its step has named a model."""
    known = defaults()
    known.observe_model("ask", "only")
    assert known.model_for("ask", infer=False) == "unknown"


def test_kinds_and_reasons_are_plain_words() -> None:
    """Both become parts of messages and labels, so they are lower case and have no spaces."""
    for word in (*Raw, *Reason):
        assert word.replace("_", "").isalpha()
        assert word == word.lower()
