"""Prices of tokens by model, from a mapping, a file or the ``genai-prices`` list.

Prices are in USD per million tokens. Calls of a model without a price are reported as unpriced,
never as a cost of 0.
"""

from __future__ import annotations

import decimal
import json
import math
import numbers
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from genmeter.config._declare import Declared, declare
from genmeter.config.checks import Check, optional
from genmeter.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Price", "PriceLike", "PriceTable", "PricesLike"]

_MAX_LISTED = 1_024
_MAX_NAME = 256
_REFRESH_SECONDS = 60.0
_MILLION = 1_000_000
_READERS = {".json": json.loads, ".toml": tomllib.loads}
_MODEL = Check(
    "a name that is not empty", lambda value: isinstance(value, str) and bool(value.strip())
)


def _price_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real | decimal.Decimal):
        raise TypeError(value)
    price = float(value)
    if not 0 <= price < math.inf:
        raise ValueError(value)
    return price


_PRICE = Check("a finite number of 0 or more, in USD per million tokens", convert=_price_number)


@dataclass(frozen=True, slots=True)
class Price(Declared):
    """The price of a model, in USD per million tokens.

    Args:
        input: Price of input (prompt) tokens.
        output: Price of output (completion) tokens.
        cached_input: Price of input tokens read from the provider's cache; None means the input
            price.

    Raises:
        ConfigError: A price is not a finite number of 0 or more.
    """

    input: float = declare(check=_PRICE)
    output: float = declare(check=_PRICE)
    cached_input: float | None = declare(None, check=optional(_PRICE))

    _PREFIX = ""


class _Tier(NamedTuple):
    """The prices of calls with more than ``start`` input tokens, in USD per million tokens."""

    start: int
    fixed: float  # USD a call
    input: float
    output: float
    cached: float


PriceLike: TypeAlias = Price | Mapping[str, float | None] | tuple[float, ...] | list[float]
"""A `Price`, a mapping of its fields, or ``(input, output)`` or ``(input, output, cached)``."""


class PriceTable:
    """Immutable prices by model.

    A model is looked up by its exact name, then by the part after each slash: ``openai/gpt-x`` finds
    the price of ``gpt-x``. The longest part with a price wins. If a provider charges differently,
    set a price for the full name.

    Args:
        prices: The price of each model.

    Raises:
        ConfigError: A name is not a non-empty string, or a price is invalid.
    """

    __slots__ = ("_known", "_prices")

    def __init__(self, prices: Mapping[str, PriceLike]) -> None:
        self._prices = _parse(prices, "prices")
        self._known = {
            model: (
                _Tier(
                    0,
                    0.0,
                    price.input,
                    price.output,
                    price.input if price.cached_input is None else price.cached_input,
                ),
            )
            for model, price in self._prices.items()
        }

    @classmethod
    def from_file(cls, path: str | Path) -> PriceTable:
        """Read prices from a JSON or TOML file that maps each model to its price.

        Args:
            path: A file that ends in ``.json`` or ``.toml``.

        Raises:
            ConfigError: The file cannot be read or parsed, or has an invalid price.
        """
        where = f"prices file {str(path)!r}"
        suffix = Path(path).suffix.lower()
        if suffix not in _READERS:
            raise ConfigError(f"{where} must end in {' or '.join(_READERS)}, got {suffix!r}")
        try:
            prices = _READERS[suffix](Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{where} cannot be read: {error}; correct the file or its path"
            ) from error
        return PriceTable(_parse(prices, where))

    @classmethod
    def from_genai_prices(cls) -> PriceTable:
        """Use the price list bundled with the package ``genai-prices``, without network access.

        A model is looked up by its name, and ``provider/model`` by the provider's id in the list.
        Prices by request size and time of day are supported; a price is looked up again after a
        minute. Only the first 1,024 names are looked up.

        Raises:
            MissingExtraError: The package is not installed.
        """
        return _GenaiPriceTable()

    @classmethod
    def coerce(cls, value: PricesLike) -> PriceTable | None:
        """Return the table of a configuration's value.

        Args:
            value: A table, a mapping, the path of a file, ``"genai-prices"``, or None for no prices.

        Raises:
            ConfigError: The value is invalid.
            MissingExtraError: The value is ``"genai-prices"``, which is not installed.
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
            "prices must be a PriceTable, a mapping from model to price, the path of a .json or "
            f'.toml file, or "genai-prices", got {value!r}'
        )

    def cost(
        self,
        model: str,
        input_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        *,
        calls: int = 1,
    ) -> float | None:
        """Return the cost of tokens of a model, in USD; never raises.

        Args:
            model: The model's name.
            input_tokens: Input tokens, including cached ones.
            output_tokens: Output tokens.
            cached_tokens: The part of the input that was read from a cache; at most the input.
            calls: Number of calls that used the tokens. If the price depends on the size of a call,
                that of the mean call is used; 0 means unknown, which has the base price.

        Returns:
            USD, or None if the model has no price (or the cost is too large for a float).
        """
        try:
            tiers = self._known.get(model) or self._tiers(model)
            if tiers is None:
                return None
            _, per_call, per_input, per_output, per_cached = tiers[0]
            if len(tiers) > 1 and calls:
                for tier in tiers:
                    if input_tokens > tier.start * calls:
                        _, per_call, per_input, per_output, per_cached = tier
            cached = max(0, min(cached_tokens, input_tokens))
            usd = (
                per_call * calls
                + (
                    (input_tokens - cached) * per_input
                    + output_tokens * per_output
                    + cached * per_cached
                )
                / _MILLION
            )
        except (ArithmeticError, AttributeError, TypeError):
            return None
        return usd if math.isfinite(usd) else None

    def usd(
        self,
        answer: Any,
        *,
        model: str | None = None,
        provider: str | None = None,
        time: float | None = None,
    ) -> float | None:
        """Return the USD of one answer."""
        tokens = answer.tokens
        return self.cost(
            model or answer.model or "",
            tokens.input or 0,
            tokens.output or 0,
            tokens.cache_read or 0,
        )

    def usd_of_sum(
        self,
        tokens: Any,
        *,
        calls: int,
        model: str,
        provider: str | None = None,
        answered: str | None = None,
    ) -> tuple[float | None, bool]:
        """Return the USD of summed tokens, and whether it is exact."""
        usd = self.cost(
            model, tokens.input or 0, tokens.output or 0, tokens.cache_read or 0, calls=calls
        )
        return usd, True

    def models(self) -> tuple[str, ...]:
        """Return the names with a price, sorted."""
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

    def _tiers(self, model: str) -> tuple[_Tier, ...] | None:
        """Return the prices of a model by a part of its name, lowest ``start`` first."""
        _, slash, rest = model.partition("/")
        while slash:
            if known := self._known.get(rest):
                return known
            _, slash, rest = rest.partition("/")
        return None


PricesLike: TypeAlias = PriceTable | Mapping[str, PriceLike] | str | Path | None
"""Values for `PriceTable.coerce`: a string is a file's path, or ``"genai-prices"``."""


def _parse(prices: Any, where: str) -> dict[str, Price]:
    if not isinstance(prices, Mapping):
        raise ConfigError(f"{where} must be a mapping from model to price, got {prices!r}")
    parsed = {}
    for model, value in prices.items():
        _MODEL(f"{where}: a model", model)
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
        "a price must be input, output and optionally cached_input, or (input, output[, "
        f"cached_input]), in USD per million tokens, got {value!r} (in TOML, put a name with dots "
        "in quotes)"
    )


class _GenaiPriceTable(PriceTable):
    """The price list of ``genai-prices``, looked up once a minute for each model in use.

    One lookup takes 0.1 to 0.2 ms, too long for every event. Between two thresholds a call's price
    is linear in its tokens, so a few lookups for each model return all rates.
    """

    __slots__ = ("_library", "_looked_up")

    def __init__(self) -> None:
        super().__init__({})
        try:
            import genai_prices
            from genai_prices import data_snapshot
        except ImportError as error:
            raise MissingExtraError(
                "genai-prices", extra="prices", purpose='prices="genai-prices"'
            ) from error
        # Load the bundled list now: it takes tens of milliseconds, which would delay the drain.
        data_snapshot.get_snapshot()
        self._library = genai_prices
        self._looked_up: dict[str, tuple[float, tuple[_Tier, ...] | None]] = {}

    def models(self) -> tuple[str, ...]:
        """Return the ids of the models in the list, sorted; it accepts many more spellings."""
        from genai_prices import data_snapshot

        providers = data_snapshot.get_snapshot().providers
        return tuple(sorted({model.id for provider in providers for model in provider.models}))

    def __reduce__(self) -> tuple[Callable[..., PriceTable], tuple[Any, ...]]:
        return PriceTable.from_genai_prices, ()

    def __repr__(self) -> str:
        return "PriceTable.from_genai_prices()"

    def _tiers(self, model: str) -> tuple[_Tier, ...] | None:
        now = time.monotonic()
        known = self._looked_up.get(model)
        if known is not None and now < known[0]:
            return known[1]
        # The package caches every name, so the number of names must be limited.
        if len(model) > _MAX_NAME or (known is None and len(self._looked_up) >= _MAX_LISTED):
            return None
        tiers = self._look_up(model)
        self._looked_up[model] = (now + _REFRESH_SECONDS, tiers)
        return tiers

    def _look_up(self, model: str) -> tuple[_Tier, ...] | None:
        prefix, slash, rest = model.partition("/")
        # Google's own API calls its models "models/...".
        spellings = [(model, None), (rest, None if prefix == "models" else prefix.lower())]
        for name, provider in spellings if slash else spellings[:1]:
            try:
                # The drain may run on the caller's thread, with its own decimal context.
                with decimal.localcontext(decimal.Context()):
                    return self._rates(name, provider)
            except Exception:  # noqa: S112 - None is counted as unpriced
                # LookupError for an unknown name; others for an invalid price, or one that is not
                # for tokens.
                continue
        return None

    def _rates(self, name: str, provider: str | None) -> tuple[_Tier, ...] | None:
        """Return every rate of one model.

        Raises:
            LookupError: The list does not have the model, or not at that provider.
        """
        when = datetime.now(UTC)

        def look_up(inputs: int, outputs: int = 0, cached: int = 0) -> Any:
            usage = self._library.Usage(
                input_tokens=inputs, output_tokens=outputs, cache_read_tokens=cached
            )
            return self._library.calc_price(
                usage, name, provider_id=provider, genai_request_timestamp=when
            )

        found = look_up(1)
        # The package guesses providers too ("mistralai" is Mistral); a self-hosted model of an
        # organisation must not get the price of that organisation's service.
        if provider is not None and found.provider.id != provider:
            raise LookupError(name)
        price = found.model_price
        if price.input_mtok is None and price.output_mtok is None:
            return None
        starts = {0} | {
            tier.start for value in vars(price).values() for tier in getattr(value, "tiers", ())
        }
        return tuple(_tier(start, look_up) for start in sorted(starts))


def _tier(start: int, look_up: Callable[..., Any]) -> _Tier:
    first = start + 1
    base = look_up(first).total_price
    per_input = look_up(first + 1).total_price - base
    per_output = look_up(first, 1).total_price - base
    per_cached = per_input + look_up(first, 0, 1).total_price - base
    return _Tier(
        start,
        float(base - per_input * first),
        *(float(price * _MILLION) for price in (per_input, per_output, per_cached)),
    )
