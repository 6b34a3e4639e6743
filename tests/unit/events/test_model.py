"""The defaults of a monitor for calls without labels."""

from __future__ import annotations

from genmeter.events.model import CallDefaults, Raw, Reason


def defaults(model: str | None = None) -> CallDefaults:
    """Return the defaults of a monitor."""
    return CallDefaults(model, None, "chat")


def test_configured_model_comes_first() -> None:
    """It applies to every call without a model, whatever models were seen."""
    known = defaults("configured")
    known.observe_model("step", "seen")
    assert known.model_for("step", infer=True) == "configured"
    assert known.model_for("step", infer=False) == "configured"


def test_failed_call_gets_the_last_model_of_its_step() -> None:
    """Without tokens it is booked on the model that the step used last."""
    known = defaults()
    known.observe_model("ask", "small")
    known.observe_model("ask", "large")
    known.observe_model("judge", "other")
    assert known.model_for("ask", infer=True) == "large"
    assert known.model_for("judge", infer=True) == "other"


def test_calls_without_a_step_count_as_one_step() -> None:
    """A failed call without a step gets the last model of such calls."""
    known = defaults()
    known.observe_model(None, "stepless")
    known.observe_model("ask", "small")
    assert known.model_for(None, infer=True) == "stepless"


def test_failed_call_gets_the_only_model() -> None:
    """If only one model was seen, it is used for any step."""
    known = defaults()
    known.observe_model("ask", "only")
    known.observe_model("judge", "only")
    assert known.model_for("never seen", infer=True) == "only"


def test_model_is_unknown_otherwise() -> None:
    """Without a model, or with several and none for the step, no model is blamed."""
    known = defaults()
    assert known.model_for("ask", infer=True) == "unknown"
    known.observe_model("ask", "small")
    known.observe_model("judge", "large")
    assert known.model_for("never seen", infer=True) == "unknown"


def test_model_of_a_call_with_tokens_is_not_inferred() -> None:
    """A successful call, or one with tokens, is ``unknown``."""
    known = defaults()
    known.observe_model("ask", "only")
    assert known.model_for("ask", infer=False) == "unknown"


def test_kinds_and_reasons_are_plain_words() -> None:
    """They are parts of messages and labels, so they are lower case without spaces."""
    for word in (*Raw, *Reason):
        assert word.replace("_", "").isalpha()
        assert word == word.lower()
