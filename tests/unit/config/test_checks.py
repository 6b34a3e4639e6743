"""The checks of arguments: accepted values, conversions and errors."""

from __future__ import annotations

import math
from datetime import timedelta
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genmeter import ConfigError
from genmeter.config import checks
from genmeter.config.checks import Check, check_pair, count, number, one_of, optional, tuple_of


class Model(StrEnum):
    """Names of models."""

    SMALL = "small"


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [
        (checks.FINITE, -1, -1),
        (checks.FINITE, np.float32(0.5), 0.5),
        (checks.FINITE, Fraction(1, 2), 0.5),
        (checks.SECONDS, 0, 0),
        (number(above=0, below=1), 0.5, 0.5),
        (count(), np.int64(3), 3),
        (count(1, 5), 5, 5),
        (checks.PORT, 65_535, 65_535),
        (checks.BOOLEAN, False, False),
        (one_of("a", "b"), "b", "b"),
        (checks.TEXT, "", ""),
        (checks.PATH, Path("a"), Path("a")),
        (checks.LABEL, Model.SMALL, "small"),
        (checks.CALLABLE, print, print),
        (checks.HANDLERS, None, []),
        (checks.HANDLERS, (print,), [print]),
        (checks.WINDOW, timedelta(1), timedelta(1)),
        (optional(count(1)), None, None),
        (optional(count(1)), 2, 2),
        (tuple_of(checks.LABEL, "names"), [Model.SMALL], ("small",)),
    ],
)
def test_valid_values_are_converted(check: Check, value: Any, expected: Any) -> None:
    """Lists become tuples, Enums texts, NumPy integers Python's; None if optional."""
    assert check("x", value) == expected


@pytest.mark.parametrize(
    ("check", "value", "what"),
    [
        *((checks.FINITE, value, "a finite number") for value in (True, "1", None, math.nan)),
        *((checks.FINITE, value, "a finite number") for value in (math.inf, 10**400, 1j)),
        *((checks.SECONDS, value, "seconds from 0 to ") for value in (-1, 1e300, math.nan, True)),
        *(
            (number(above=0, below=1, what="a share"), value, "a share above 0 ")
            for value in (0, 1)
        ),
        *((count(1), value, "a whole number of at least 1") for value in (0, True, 1.0, "1", None)),
        *((checks.PORT, value, "from 0 to 65535") for value in (-1, 65_536)),
        *((checks.BOOLEAN, value, "true or false") for value in (0, "true", None)),
        *((one_of("a", "b"), value, "one of a, b") for value in ("c", None, ["a"])),
        *((checks.NAME, value, "a text that is not empty") for value in ("", 5, None)),
        *((checks.PATH, value, "a path") for value in ("", b"a", 5)),
        *((checks.LABEL, value, "a text of 1 to 128") for value in ("", " a", "a\nb", 5)),
        *((checks.USERNAME, value, "no colon") for value in ("", "a:b")),
        (checks.CALLABLE, 5, "a function"),
        *((checks.HANDLERS, value, "a list of handlers, or None") for value in ("a", 5)),
        (checks.WINDOW, 5, "a datetime.timedelta, or None"),
        (optional(count(1)), 0, "a whole number of at least 1, or None"),
        *((tuple_of(checks.NAME, "names", min_=1), v, "names") for v in ("a", (), 5, {"a"})),
    ],
)
def test_errors_have_argument_requirement_and_value(check: Check, value: Any, what: str) -> None:
    """All checks use the same form."""
    with pytest.raises(ConfigError) as caught:
        check("Some.argument", value)
    message = str(caught.value)
    assert message.startswith("Some.argument must be ")
    assert what in message
    assert message.endswith(f", got {value!r}")


def test_errors_of_items_have_their_index() -> None:
    """The error is on the item, not on the list."""
    with pytest.raises(ConfigError, match=r"^jobs\[1\] must be a text .*, got 5$"):
        tuple_of(checks.NAME, "names")("jobs", ["a", 5])


def test_errors_hide_secrets() -> None:
    """Neither an invalid secret nor one without its partner is shown."""
    with pytest.raises(ConfigError) as caught:
        checks.SECRET("password", b"hush")
    assert "hush" not in str(caught.value)
    with pytest.raises(ConfigError, match="together with username, got a password") as caught:
        check_pair("password", "hush", "username", None, shown="a password")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("check", "text", "expected"),
    [
        (count(), "12", 12),
        (checks.FINITE, "1e3", 1_000.0),
        (optional(checks.PORT), "80", 80),
        *((checks.BOOLEAN, text, True) for text in ("true", "TRUE", "1")),
        *((checks.BOOLEAN, text, False) for text in ("false", "0")),
        (tuple_of(checks.NAME, "names"), " a,, b,", ("a", "b")),
        (checks.NAME, "a", "a"),
    ],
)
def test_checks_parse_the_text_of_variables(check: Check, text: str, expected: Any) -> None:
    """One declaration is for code and environment."""
    assert check("X", check.read(text)) == expected


@pytest.mark.parametrize("check", [count(), checks.FINITE, checks.BOOLEAN, checks.PORT])
def test_invalid_text_of_a_variable_is_shown_unchanged(check: Check) -> None:
    """The error has the text of the variable."""
    with pytest.raises(ConfigError, match=r"^X must be .*, got 'many'$"):
        check("X", check.read("many"))
