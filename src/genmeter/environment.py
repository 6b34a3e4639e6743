"""Reads declared fields from environment variables, and says which variable is wrong.

A field of a dataclass is declared with metadata: ``env``, its variable (or None), and ``help``.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from genmeter.errors import ConfigError
from genmeter.prices import PriceTable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["build"]

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
