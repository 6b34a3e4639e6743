"""What a monitor fills in where a call does not say."""

from __future__ import annotations

from genmeter.events import CallDefaults, Raw, Reason


def defaults(model: str | None = None) -> CallDefaults:
    """Make the defaults of a monitor."""
    return CallDefaults(model, None, "chat")


def test_the_configured_model_comes_first() -> None:
    """A default model holds whatever calls have named."""
    known = defaults("configured")
    known.saw("step", "seen")
    assert known.model_for("step") == "configured"


def test_then_the_model_last_seen_for_the_same_step() -> None:
    """A call of a step is of the model that the step named last."""
    known = defaults()
    known.saw("ask", "small")
    known.saw("ask", "large")
    known.saw("judge", "other")
    assert known.model_for("ask") == "large"
    assert known.model_for("judge") == "other"


def test_calls_without_a_step_are_a_step_of_their_own() -> None:
    """The model last named without a step is the one of calls that name neither."""
    known = defaults()
    known.saw(None, "stepless")
    known.saw("ask", "small")
    assert known.model_for(None) == "stepless"


def test_then_the_only_model() -> None:
    """Where one model alone was seen, calls of any step are its."""
    known = defaults()
    known.saw("ask", "only")
    known.saw("judge", "only")
    assert known.model_for("never seen") == "only"


def test_else_it_is_unknown() -> None:
    """With no model seen, or several and none for the step, nobody is blamed."""
    known = defaults()
    assert known.model_for("ask") == "unknown"
    known.saw("ask", "small")
    known.saw("judge", "large")
    assert known.model_for("never seen") == "unknown"


def test_kinds_and_reasons_are_plain_words() -> None:
    """Both become parts of messages and labels, so they are lower case and have no spaces."""
    for word in (*Raw, *Reason):
        assert word.replace("_", "").isalpha()
        assert word == word.lower()
