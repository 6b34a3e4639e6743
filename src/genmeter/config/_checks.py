"""The checks of what a monitor is given where it may raise: at construction and by reads."""

from __future__ import annotations

import itertools
import math
import operator
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from genmeter import clock
from genmeter.config.prices import PriceTable
from genmeter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "build",
    "check_callable",
    "check_count",
    "check_number",
    "check_seconds",
    "check_thresholds",
    "handler_list",
    "log_folder",
    "start_of",
]

_T = TypeVar("_T")


def build(part: type[_T], environ: Mapping[str, str], overrides: Mapping[str, Any]) -> _T:
    """Make a dataclass from its fields' variables.

    Args:
        part: The class; its fields have the metadata that the module's text names.
        environ: The variables; an empty one counts as unset.
        overrides: Fields that win over the variables.

    Raises:
        ConfigError: A variable that cannot be used; the message names it.
    """
    values = _read_fields(part, environ)
    try:
        return part(**{**values, **overrides})
    except ConfigError as error:
        # A value that is no more than out of range is found out by the part itself.
        for each in fields(part):  # type: ignore[arg-type]
            if each.name in values.keys() - overrides.keys() and f".{each.name}" in str(error):
                raise ConfigError(f"{error} (set by {each.metadata['env']})") from error
        raise


def _read_fields(part: Any, environ: Mapping[str, str]) -> dict[str, Any]:
    hints = get_type_hints(part, localns={"MeterProvider": object, "Callable": Any})
    values: dict[str, Any] = {}
    for each in fields(part):
        variable: str = each.metadata.get("env") or ""
        text = environ.get(variable, "").strip()
        if text:
            values[each.name] = _parse(variable, text, hints[each.name])
    return values


def _parse(variable: str, text: str, hint: Any) -> Any:
    kinds = set(getattr(hint, "__args__", (hint,)))
    if bool in kinds:
        return _boolean(variable, text)
    if int in kinds:
        return _number(variable, text, int, "a whole number")
    if float in kinds:
        return _number(variable, text, float, "a number")
    if hint == tuple[str, ...]:
        return tuple(name.strip() for name in text.split(",") if name.strip())
    if PriceTable in kinds:
        return text if text == "genai-prices" else Path(text)
    return text


def _boolean(variable: str, text: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise ConfigError(f"{variable} is {text!r}; give true or false")
    return known[text.lower()]


def _number(variable: str, text: str, convert: Callable[[str], _T], what: str) -> _T:
    try:
        return convert(text)
    except ValueError as error:
        raise ConfigError(f"{variable} is {text!r}; give {what}") from error


_numbers = itertools.count(1)  # of the monitors of this process


def start_of(window: Any) -> float | None:
    """Return the Unix time in seconds at which a window begins; None where it is None.

    It is infinite for a window of no length, which holds nothing.

    Raises:
        ConfigError: ``window`` is not a timedelta.
    """
    if window is None:
        return None
    if not isinstance(window, timedelta):
        raise ConfigError(f"window is {window!r}; give a datetime.timedelta, or None for all")
    # Not now, which an event of this very moment lies in.
    return clock.now() - window.total_seconds() if window > timedelta(0) else math.inf


def log_folder(given: str | os.PathLike[str] | None) -> Path:
    """Give the folder for a monitor's files; one of its own where none is given.

    Raises:
        ConfigError: It is neither a text nor a path.
    """
    if given:
        try:
            return Path(given)
        except TypeError as error:
            raise ConfigError(f"log_dir is {given!r}; give a folder's path, or None") from error
    folder = f"{time.strftime('%Y-%m-%d-%H-%M-%S')}-{os.getpid()}-{next(_numbers)}"
    return Path(".afterimage-monitoring") / folder


def handler_list(name: str, given: Any) -> list[Any]:
    """Give a list of handlers; an empty one where none are given.

    Raises:
        ConfigError: It is no collection of handlers.
    """
    if given is None:
        return []
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigError(f"{name} is {given!r}; give a list of handlers, or None")
    return list(given)


def check_number(name: str, value: Any) -> None:
    """Check a finite number.

    Raises:
        ConfigError: It is none.
    """
    if not _is_number(value) or not math.isfinite(value):
        raise ConfigError(f"{name} is {value!r}; give a finite number")


def check_seconds(name: str, value: Any, *, least: float) -> None:
    """Check a number of seconds.

    Raises:
        ConfigError: It is none, or out of range.
    """
    # Nothing can wait longer than TIMEOUT_MAX, some 290 years.
    if not _is_number(value) or not least <= value <= threading.TIMEOUT_MAX:
        raise ConfigError(f"{name} is {value!r}; give seconds, at least {least}")


def check_count(name: str, value: Any) -> None:
    """Check a whole number.

    Raises:
        ConfigError: It is none, or less than 0.
    """
    try:
        is_count = not isinstance(value, bool) and operator.index(value) >= 0
    except TypeError:
        is_count = False
    if not is_count:
        raise ConfigError(f"{name} is {value!r}; give a whole number, 0 or more")


def check_callable(name: str, value: Any) -> None:
    """Check a function.

    Raises:
        ConfigError: It cannot be called.
    """
    if not callable(value):
        raise ConfigError(f"{name} is {value!r}; give a function, or None")


def check_thresholds(**thresholds: Any) -> None:
    """Check the thresholds of alerts.

    Raises:
        ConfigError: One is neither a finite number nor None.
    """
    for name, value in thresholds.items():
        if value is not None and not (_is_number(value) and math.isfinite(value)):
            raise ConfigError(f"{name} is {value!r}; give a number, or None for the default")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
