"""Checks of arguments, for configurations, constructors and methods.

A :class:`Check` describes and checks a value, and reads it from the text of an environment variable.
Every error has the same form: argument, requirement, value.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from itertools import islice
from numbers import Real
from typing import Any

from genmeter import clock
from genmeter.errors import ConfigError, GenmeterError
from genmeter.events.values import MAX_LABEL, UNREADABLE, label_text, safe_repr

__all__ = [
    "BOOLEAN",
    "CALLABLE",
    "FINITE",
    "HANDLERS",
    "LABEL",
    "MAX",
    "NAME",
    "PATH",
    "PORT",
    "SECONDS",
    "SECRET",
    "TEXT",
    "USERNAME",
    "WINDOW",
    "Check",
    "check_pair",
    "count",
    "instance_of",
    "is_a",
    "number",
    "one_of",
    "optional",
    "start_of",
    "tuple_of",
]

_MAX_HANDLERS = 10_000
MAX = sys.float_info.max
"""The largest finite number."""


@dataclass(frozen=True, slots=True)
class Check:
    """A requirement on a value.

    Args:
        what: The requirement, to follow "X must be".
        accepts: Returns whether a value is valid; an exception means that it is not.
        convert: Converts the value. It may raise too; a ``ConfigError`` is kept, with the argument's
            name in front.
        parse: Reads the text of an environment variable; text that it rejects is checked as text.
        is_secret: Whether errors hide the value.
    """

    what: str
    accepts: Callable[[Any], bool] = lambda _: True
    convert: Callable[[Any], Any] = lambda value: value
    parse: Callable[[str], Any] = lambda text: text
    is_secret: bool = False

    def __call__(self, name: str, value: Any) -> Any:
        """Return a value, converted.

        Args:
            name: The argument's name in errors.
            value: The value.

        Raises:
            ConfigError: The value is invalid.
        """
        try:
            if self.accepts(value):
                return self.convert(value)
        except ConfigError as error:
            joint = "" if str(error).startswith("[") else ": "  # an item starts with its index
            raise ConfigError(f"{name}{joint}{error}") from error
        except GenmeterError:
            raise  # a missing extra
        except UNREADABLE:
            pass
        shown = "a value that is not shown here" if self.is_secret else safe_repr(value)
        raise ConfigError(f"{name} must be {self.what}, got {shown}")

    def read(self, text: str) -> Any:
        """Parse the text of an environment variable; the result is not yet checked."""
        try:
            return self.parse(text)
        except ValueError:
            return text


# --- numbers -----------------------------------------------------------------------------------


def number(
    min_: float = -MAX,
    max_: float = MAX,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    what: str = "a finite number",
) -> Check:
    """Check a finite number; a boolean is not a number.

    Args:
        min_: The minimum.
        max_: The maximum.
        above: An exclusive lower bound.
        below: An exclusive upper bound.
        what: Describes the number, without its bounds.
    """
    bounds = [f"from {min_:g} to {max_:.10g}"] if min_ > -MAX else []
    bounds += [f"above {above:g}"] if above > -math.inf else []
    bounds += [f"and below {below:g}"] if below < math.inf else []

    def convert(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(value)
        # An int may be too large for a float; NumPy would compare in its own precision.
        # By the classes' own methods: those of a subclass may raise later.
        exact: float = (
            int.__index__(value)
            if isinstance(value, int)
            else float.__float__(value)
            if isinstance(value, float)
            else float(value)
        )
        if not (min_ <= exact <= max_ and above < exact < below):
            raise ValueError(value)
        return exact

    return Check(" ".join([what, *bounds]), convert=convert, parse=float)


def count(min_: int = 0, max_: int | None = None) -> Check:
    """Check a whole number; a boolean is not a number, and a maximum of None is no limit."""
    span = f"of at least {min_}" if max_ is None else f"from {min_} to {max_}"

    def accepts(value: Any) -> bool:
        whole = operator.index(value)
        return not isinstance(value, bool) and min_ <= whole and (max_ is None or whole <= max_)

    return Check(f"a whole number {span}", accepts, operator.index, parse=int)


FINITE = number()
# No wait can be longer than TIMEOUT_MAX, some 290 years.
SECONDS = number(0, threading.TIMEOUT_MAX, what="seconds")
PORT = count(0, 65_535)


# --- texts and choices -------------------------------------------------------------------------


def one_of(*values: str) -> Check:
    """Check that a text is one of some words."""
    return Check(
        f"one of {', '.join(values)}",
        lambda value: isinstance(value, str) and str.__str__(value) in values,
        str.__str__,
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(str.__str__(value))


def _is_path(value: Any) -> bool:
    text = os.fspath(value)
    # A name that cannot be encoded raises.
    name = os.fsencode(str.__str__(text)) if isinstance(text, str) else b""
    return bool(name) and b"\0" not in name


def _some(value: Any) -> list[Any]:
    # An iterator may have no end.
    found = list(islice(value, _MAX_HANDLERS + 1))
    if len(found) > _MAX_HANDLERS:
        raise ValueError(value)
    return found


def _value_of(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _is_label(value: Any) -> bool:
    text = _value_of(value)
    # It must not change as a label, so that it equals the label of calls.
    return isinstance(text, str) and label_text(text) == text


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}

BOOLEAN = Check(
    "true or false",
    lambda value: isinstance(value, bool),
    parse=lambda text: _BOOLEANS.get(text.lower(), text),
)
# A text of a subclass becomes a true one, whose methods do not raise later.
TEXT = Check("a text", lambda value: isinstance(value, str), str.__str__)
NAME = Check("a text that is not empty", _is_text, str.__str__)
SECRET = Check("a text that is not empty", _is_text, str.__str__, is_secret=True)
# In HTTP's basic authentication a colon ends the name.
USERNAME = Check(
    "a text that is not empty and has no colon",
    lambda value: _is_text(value) and ":" not in str.__str__(value),
    str.__str__,
)
PATH = Check(
    "a path that is not empty",
    _is_path,
    # A text of a subclass becomes a true one; a path stays what it is.
    lambda value: str.__str__(value) if isinstance(value, str) else value,
)
LABEL = Check(
    f"a text of 1 to {MAX_LABEL} characters, without control characters, lone surrogates or "
    "spaces around them",
    _is_label,
    lambda value: str.__str__(_value_of(value)),
)


# --- other values ------------------------------------------------------------------------------


CALLABLE = Check("a function", callable)
HANDLERS = Check(
    "a list of handlers, or None",
    lambda value: value is None or (isinstance(value, Iterable) and not isinstance(value, str)),
    lambda value: [] if value is None else _some(value),
)
WINDOW = Check(
    "a datetime.timedelta, or None for all",
    lambda value: value is None or isinstance(value, timedelta),
    lambda value: None if value is None else timedelta.__add__(value, timedelta(0)),
)


def is_a(value: Any, *kinds: type) -> bool:
    """Return whether a value is of one of some classes; one that raises when it is asked is not."""
    try:
        return isinstance(value, kinds)
    except UNREADABLE:
        return False


def instance_of(kind: type) -> Check:
    """Check an object of a class."""
    return Check(f"{kind.__name__}(...)", lambda value: isinstance(value, kind))


def optional(check: Check) -> Check:
    """Return a check that accepts None too."""
    return dataclasses.replace(
        check,
        what=f"{check.what}, or None",
        accepts=lambda value: value is None or check.accepts(value),
        convert=lambda value: None if value is None else check.convert(value),
    )


def tuple_of(item: Check, what: str, *, min_: int = 0) -> Check:
    """Check a list or another sequence of at least ``min_`` items; it becomes a tuple.

    Args:
        item: The check of each item.
        what: Describes the sequence.
        min_: The minimum of items.
    """
    return Check(
        what,
        lambda value: (
            isinstance(value, Sequence) and not isinstance(value, str) and len(value) >= min_
        ),
        lambda value: tuple(item(f"[{index}]", each) for index, each in enumerate(value)),
        parse=lambda text: tuple(part for each in text.split(",") if (part := each.strip())),
    )


def check_pair(name: str, value: object, partner: str, other: object, *, shown: str = "") -> None:
    """Check that an argument is set together with another that it needs.

    Args:
        name: The argument.
        value: Its value; None if it is not set.
        partner: The argument that it needs.
        other: The value of that argument.
        shown: Replaces a secret value in the error.

    Raises:
        ConfigError: Only the first is set.
    """
    if value is not None and other is None:
        raise ConfigError(
            f"{name} must be set together with {partner}, got {shown or safe_repr(value)} without "
            f"{partner}; set both or neither"
        )


def start_of(window: Any) -> float | None:
    """Return the Unix time in seconds of the start of a window; None if the window is None.

    The start of an empty window is infinite.

    Raises:
        ConfigError: ``window`` is not a timedelta.
    """
    window = WINDOW("window", window)
    if window is None:
        return None
    # Not now, since the window would contain an event of this moment.
    return clock.now() - window.total_seconds() if window > timedelta(0) else math.inf
