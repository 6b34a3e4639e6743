"""A user's price of one model, and its checks."""

from __future__ import annotations

import decimal
import difflib
import itertools
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

from genmeter.config._declare import Declared, declare
from genmeter.config.checks import Check, count, optional
from genmeter.config.prices._rates import TOKEN_FIELDS, Rates, Steps
from genmeter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genmeter.config._declare import Accepts

__all__ = ["Price", "PriceLike", "PriceTier", "parse_price"]

Change: TypeAlias = float | tuple[tuple[str, float], ...]
"""What a service tier or a batch changes: a factor on all tokens, or other prices."""
ChangeLike: TypeAlias = Change | Mapping[str, float]
"""What may be passed for it."""


def _price_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real | decimal.Decimal):
        raise TypeError(value)
    price = float(value)
    if not 0 <= price < math.inf:
        raise ValueError(value)
    return price


_PRICE = Check("a finite number of 0 or more, in USD per million tokens", convert=_price_number)
_FEE = Check("a finite number of 0 or more, in USD for each", convert=_price_number)


def _change(value: Any) -> Change:
    if not isinstance(value, Mapping | tuple | list):
        return _price_number(value)
    prices = dict(value)
    if not prices:
        raise ValueError(value)
    for name in prices:
        if name not in TOKEN_FIELDS:
            raise ConfigError(_unknown(name, TOKEN_FIELDS))
    return tuple((name, _PRICE(name, prices[name])) for name in TOKEN_FIELDS if name in prices)


def _changes(value: Any) -> tuple[tuple[str, Change], ...]:
    return tuple((_TIER_NAME("a tier", name), _CHANGE(name, each)) for name, each in _pairs(value))


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if not isinstance(value, Mapping | tuple | list):  # what has other keys may have no end
        raise TypeError(value)
    return list(dict(value).items())


def _tiers(value: Any) -> tuple[PriceTier, ...]:
    if not isinstance(value, tuple | list):
        raise TypeError(value)
    tiers = tuple(_tier(index, each) for index, each in enumerate(value))
    for before, after in itertools.pairwise(tiers):
        if after.above <= before.above:
            raise ConfigError(
                f"each tier must be above more tokens than the one before it, got {after.above} "
                f"after {before.above}; sort the tiers"
            )
    return tiers


def _tier(index: int, value: Any) -> PriceTier:
    if isinstance(value, PriceTier):
        return value
    names = [each.name for each in fields(PriceTier)]
    try:
        if not isinstance(value, Mapping):
            raise TypeError(value)
        for name in value:
            if name not in names:
                raise ConfigError(_unknown(name, names))
        return PriceTier(**value)
    except ConfigError as error:
        raise ConfigError(f"[{index}]: {error}") from None
    except TypeError:
        raise ConfigError(
            f"[{index}] must be above, input, output and optionally other prices, got {value!r}"
        ) from None


_TIER_NAME = Check("a name that is not empty", lambda value: isinstance(value, str) and bool(value))
_CHANGE = Check("a factor of 0 or more, or a mapping of prices", convert=_change)
_CHANGES = Check(
    'a mapping from the tier\'s name to a factor or to prices, such as {"flex": 0.5}',
    convert=_changes,
)
_TIERS = Check(
    'a list of tiers, such as [{"above": 200000, "input": 4, "output": 18}]', convert=_tiers
)


@dataclass(frozen=True, slots=True, repr=False)
class PriceTier(Declared):
    """The prices of calls with more input tokens than a limit, in USD per million tokens.

    Such a call is wholly at these prices, as Google and Anthropic bill long contexts. A part that
    the tier does not name keeps the price it has below.

    Args:
        above: The limit, in input tokens including cached ones.
        input: Price of input tokens.
        output: Price of output tokens.
        cached_input: Price of cached input; the others as in `Price`.

    Raises:
        ConfigError: A value is invalid.
    """

    above: int = declare(check=count())
    input: float = declare(check=_PRICE)
    output: float = declare(check=_PRICE)
    cached_input: float | None = declare(None, check=optional(_PRICE))
    cache_write: float | None = declare(None, check=optional(_PRICE))
    cache_write_1h: float | None = declare(None, check=optional(_PRICE))
    reasoning: float | None = declare(None, check=optional(_PRICE))
    input_audio: float | None = declare(None, check=optional(_PRICE))
    cached_audio: float | None = declare(None, check=optional(_PRICE))
    output_audio: float | None = declare(None, check=optional(_PRICE))
    input_image: float | None = declare(None, check=optional(_PRICE))
    cached_image: float | None = declare(None, check=optional(_PRICE))
    output_image: float | None = declare(None, check=optional(_PRICE))
    input_video: float | None = declare(None, check=optional(_PRICE))
    cached_video: float | None = declare(None, check=optional(_PRICE))
    output_video: float | None = declare(None, check=optional(_PRICE))

    _PREFIX = ""

    def __repr__(self) -> str:
        return _show(self)


@dataclass(frozen=True, slots=True, repr=False)
class Price(Declared):
    """The price of a model, in USD per million tokens where nothing else is said.

    Args:
        input: Price of input (prompt) tokens.
        output: Price of output (completion) tokens.
        cached_input: Price of input tokens read from the provider's cache; None means the input
            price.
        cache_write: Price of input tokens written to the cache; None means the input price.
        cache_write_1h: Price of those that are kept for an hour; None means ``cache_write``.
        reasoning: Price of reasoning tokens, which are part of the output; None means the output
            price.
        input_audio: Price of audio tokens in the input, and ``input_image``, ``input_video`` of the
            others; None means the input price.
        cached_audio: Price of audio tokens read from the cache, and ``cached_image``,
            ``cached_video``; None means ``cached_input``, and without it the price of the modality.
        output_audio: Price of audio tokens in the output, and ``output_image``, ``output_video``;
            None means the output price.
        search: USD for each search that the provider runs; None means none.
        request: USD for each call, beside its tokens; None means none.
        tiers: Prices of longer calls: a list of `PriceTier` or mappings of its fields, such as
            ``[{"above": 200_000, "input": 4, "output": 18}]``, sorted.
        service_tiers: For each service tier, such as ``flex`` or ``priority``, a factor on all
            prices of tokens (``{"flex": 0.5}``) or prices that replace the standard ones
            (``{"priority": {"input": 3.5, "output": 28}}``) at any length of the call. A tier that
            is not named costs the standard price.
        batch: A factor or prices for calls of a batch, in the same way; None means the standard
            price. A call of a batch is not in a service tier.

    Raises:
        ConfigError: A value is invalid; the error names the field.
    """

    input: float = declare(check=_PRICE)
    output: float = declare(check=_PRICE)
    cached_input: float | None = declare(None, check=optional(_PRICE))
    cache_write: float | None = declare(None, check=optional(_PRICE))
    cache_write_1h: float | None = declare(None, check=optional(_PRICE))
    reasoning: float | None = declare(None, check=optional(_PRICE))
    input_audio: float | None = declare(None, check=optional(_PRICE))
    cached_audio: float | None = declare(None, check=optional(_PRICE))
    output_audio: float | None = declare(None, check=optional(_PRICE))
    input_image: float | None = declare(None, check=optional(_PRICE))
    cached_image: float | None = declare(None, check=optional(_PRICE))
    output_image: float | None = declare(None, check=optional(_PRICE))
    input_video: float | None = declare(None, check=optional(_PRICE))
    cached_video: float | None = declare(None, check=optional(_PRICE))
    output_video: float | None = declare(None, check=optional(_PRICE))
    search: float | None = declare(None, check=optional(_FEE))
    request: float | None = declare(None, check=optional(_FEE))
    tiers: Accepts[Sequence[PriceTier | Mapping[str, float]], tuple[PriceTier, ...]] = declare(
        (), check=_TIERS
    )
    service_tiers: Accepts[
        Mapping[str, ChangeLike] | tuple[tuple[str, ChangeLike], ...],
        tuple[tuple[str, Change], ...],
    ] = declare((), check=_CHANGES)
    batch: Accepts[ChangeLike | None, Change | None] = declare(None, check=optional(_CHANGE))

    _PREFIX = ""

    def __repr__(self) -> str:
        return _show(self)

    def standard(self) -> Steps:
        """Return the rates by the size of a call, outside of a service tier or batch."""
        base = Rates(*(getattr(self, name) for name in Rates._fields))
        return (
            (0, base),
            *((tier.above, base.overridden(_given(tier))) for tier in self.tiers),
        )


PriceLike: TypeAlias = Price | Mapping[str, Any] | tuple[float, ...] | list[float] | str
"""A `Price`, a mapping of its fields, ``(input, output)`` or ``(input, output, cached_input)``.

A text is an alias: the name of the model whose price holds.
"""


def changed(steps: Steps, change: Change) -> Steps:
    """Return the rates in a service tier or batch."""
    if isinstance(change, float):
        return tuple((above, rates.scaled(change)) for above, rates in steps)
    return tuple((above, rates.overridden(dict(change))) for above, rates in steps)


def parse_price(value: Any) -> Price:
    """Return the price of a configuration's value that is not an alias.

    Raises:
        ConfigError: The value is invalid.
    """
    if isinstance(value, Price):
        return value
    if isinstance(value, Mapping):
        names = [each.name for each in fields(Price)]
        for name in value:
            if name not in names:
                raise ConfigError(
                    f"{_unknown(name, names)} (in TOML, put a name with dots in quotes)"
                )
        if {"input", "output"} <= set(value):
            return Price(**value)
    if isinstance(value, tuple | list) and len(value) in (2, 3):
        return Price(*value)
    raise ConfigError(
        "a price must be input, output and optionally other fields of genmeter.Price, or (input, "
        "output[, cached_input]), in USD per million tokens, or the name of the model whose price "
        f"holds, got {value!r} (in TOML, put a name with dots in quotes)"
    )


def _unknown(name: Any, known: list[str] | tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, 1) if isinstance(name, str) else []
    hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}"
    return f"unknown field {name!r}; {hint}"


def _given(price: Price | PriceTier) -> dict[str, float]:
    return {name: rate for name in TOKEN_FIELDS if (rate := getattr(price, name)) is not None}


def _show(price: Price | PriceTier) -> str:
    shown = ((each.name, getattr(price, each.name)) for each in fields(price))
    given = ", ".join(f"{name}={value!r}" for name, value in shown if value not in (None, ()))
    return f"{type(price).__name__}({given})"
