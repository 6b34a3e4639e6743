"""What tokens cost: a price for each model, from a mapping, a file or the ``genai-prices`` list.

Prices are USD per million tokens. A model without a price has no cost: it is reported as unpriced,
never counted as 0.
"""

from __future__ import annotations

import decimal
import json
import math
import numbers
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from genmeter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Price", "PriceLike", "PriceTable", "PricesLike"]

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a model, in USD per million tokens.

    Args:
        input: Price of input (prompt) tokens.
        output: Price of output (completion) tokens.
        cached_input: Price of the input tokens that a provider read from its cache; None means the
            input price.

    Raises:
        ConfigError: A price is not a finite number of 0 or more.
    """

    input: float
    output: float
    cached_input: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name == "cached_input":
                continue
            object.__setattr__(self, field.name, _checked(field.name, value))


PriceLike: TypeAlias = Price | Mapping[str, float | None] | tuple[float, ...] | list[float]
"""A `Price`, a mapping of its fields, or ``(input, output)`` or ``(input, output, cached)``."""


class PriceTable:
    """Prices by model, fixed once built.

    A model is looked up by its exact name. Where that has no price and the name holds slashes, the
    part after each slash is tried in turn, so ``openai/gpt-x`` finds the price of ``gpt-x``; the
    longest part that has a price wins. Give the whole name a price of its own where a provider
    charges differently.

    Args:
        prices: The price of each model.

    Raises:
        ConfigError: A name is not a non-empty string, or a price cannot be used.
    """

    __slots__ = ("_prices", "_rates")

    def __init__(self, prices: Mapping[str, PriceLike]) -> None:
        self._prices = _parse(prices, "prices")
        self._rates = {
            model: (
                price.input,
                price.output,
                price.input if price.cached_input is None else price.cached_input,
            )
            for model, price in self._prices.items()
        }

    @classmethod
    def from_file(cls, path: str | Path) -> PriceTable:
        """Read prices from a JSON or TOML file that maps each model to its price.

        Args:
            path: A file that ends in ``.json`` or ``.toml``.

        Raises:
            ConfigError: The file cannot be read or parsed, or holds a price that cannot be used.
        """
        where = f"prices file {str(path)!r}"
        try:
            return PriceTable(_parse(_load(Path(path), where), where))
        except (OSError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{where} cannot be read: {error}; mend the file or its path") from (
                error
            )

    @classmethod
    def from_genai_prices(cls) -> PriceTable:
        """Use the price list that comes with the package ``genai-prices``, without any network.

        A model is looked up by its name, and ``provider/model`` by the provider's id in the list.
        Prices by the size of the request and by the time of day are honoured; a price is looked up
        again after a minute. Only the first 1,024 names that are asked for are looked up.

        Raises:
            MissingExtraError: The package is not installed.
        """
        from genmeter.price_list import GenaiPriceTable

        return GenaiPriceTable()

    @classmethod
    def coerce(cls, value: PricesLike) -> PriceTable | None:
        """Make a table from what a configuration may hold.

        Args:
            value: A table, a mapping, the path of a file, ``"genai-prices"``, or None for none.

        Raises:
            ConfigError: The value is none of these, or cannot be used.
            MissingExtraError: ``"genai-prices"`` was asked for and is not installed.
        """
        if value is None or isinstance(value, PriceTable):
            return value
        if isinstance(value, Mapping):
            return PriceTable(value)
        if value == "genai-prices":
            return cls.from_genai_prices()
        if isinstance(value, str | Path):
            return cls.from_file(value)
        raise ConfigError(
            f"prices={value!r} cannot be used; give a PriceTable, a mapping from model to price, "
            'the path of a .json or .toml file, or "genai-prices"'
        )

    def cost(
        self,
        model: str,
        input_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        *,
        calls: int = 1,  # noqa: ARG002 - only a list with tiers needs it
    ) -> float | None:
        """Say what tokens of a model cost, in USD; never raises.

        Args:
            model: The model's name.
            input_tokens: Input tokens, cached ones among them.
            output_tokens: Output tokens.
            cached_tokens: The part of the input that was read from a cache; at most the input
                counts.
            calls: How many calls the tokens are the sum of. Where a price depends on the size of a
                call, the mean call decides; 0 means unknown, and the base price holds.

        Returns:
            USD, or None where the model has no price (or the cost is past what a float holds).
        """
        try:
            rates = self._rates.get(model) or self._rates_after_prefix(model)
            if rates is None:
                return None
            cached = max(0, min(cached_tokens, input_tokens))
            usd = (
                (input_tokens - cached) * rates[0] + output_tokens * rates[1] + cached * rates[2]
            ) / _MILLION
        except (ArithmeticError, AttributeError, TypeError):
            return None
        return usd if math.isfinite(usd) else None

    def models(self) -> tuple[str, ...]:
        """The names that have a price of their own, sorted."""
        return tuple(sorted(self._prices))

    def __contains__(self, model: object) -> bool:
        return isinstance(model, str) and self.cost(model, 0, 0) is not None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PriceTable):
            return NotImplemented
        return type(self) is type(other) and self._prices == other._prices

    def __hash__(self) -> int:
        return hash((type(self), frozenset(self._prices.items())))

    def __reduce__(self) -> tuple[Callable[..., PriceTable], tuple[Any, ...]]:
        return PriceTable, (self._prices,)

    def __repr__(self) -> str:
        return f"PriceTable({self._prices!r})"

    def _rates_after_prefix(self, model: str) -> tuple[float, float, float] | None:
        _, slash, rest = model.partition("/")
        while slash:
            if rates := self._rates.get(rest):
                return rates
            _, slash, rest = rest.partition("/")
        return None


PricesLike: TypeAlias = PriceTable | Mapping[str, PriceLike] | str | Path | None
"""What `PriceTable.coerce` takes: a string is a file's path, or ``"genai-prices"``."""


def _load(path: Path, where: str) -> Any:
    match path.suffix.lower():
        case ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        case ".toml":
            return tomllib.loads(path.read_text(encoding="utf-8"))
        case suffix:
            raise ConfigError(
                f"{where} has the suffix {suffix!r}; rename it to end in .json or .toml"
            )


def _parse(prices: Any, where: str) -> dict[str, Price]:
    if not isinstance(prices, Mapping):
        raise ConfigError(f"{where}: {prices!r} is not a mapping from model to price; give one")
    parsed = {}
    for model, value in prices.items():
        if not isinstance(model, str) or not model.strip():
            raise ConfigError(f"{where}: model {model!r} is not a name; give a non-empty string")
        try:
            parsed[model] = _price(value)
        except ConfigError as error:
            raise ConfigError(f"{where}: model {model!r}: {error}") from None
    return parsed


def _price(value: Any) -> Price:
    if isinstance(value, Price):
        return value
    if isinstance(value, Mapping) and {"input", "output"} <= set(value) <= {
        "input",
        "output",
        "cached_input",
    }:
        return Price(**value)
    if isinstance(value, tuple | list) and len(value) in (2, 3):
        return Price(*value)
    raise ConfigError(
        f"{value!r} is not a price; give input, output and optionally cached_input, or (input, "
        "output[, cached_input]), in USD per million tokens (in TOML, put a name that holds dots "
        "in quotes)"
    )


def _checked(name: str, value: Any) -> float:
    if isinstance(value, numbers.Real | decimal.Decimal) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ArithmeticError, ValueError):
            number = math.nan
        if math.isfinite(number) and number >= 0:
            return number
    raise ConfigError(
        f"{name}={value!r} is not a price; give a finite number of 0 or more, in USD per million "
        "tokens"
    )
