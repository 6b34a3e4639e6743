"""Tables of prices by model: a user's own, the ``genai-prices`` list, or a chain of both.

Calls of a model without a price are reported as unpriced, never as a cost of 0.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from genmeter.config.checks import PATH, Check, is_a
from genmeter.config.prices._price_list import PriceList, finite_time
from genmeter.config.prices._rates import Steps, rates_at
from genmeter.config.prices.price import Price, PriceLike, changed, parse_price
from genmeter.errors import ConfigError
from genmeter.events.answers import Answer, TokenCounts
from genmeter.events.values import UNREADABLE, safe_repr, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from genmeter.config.prices._price_list import ListedModel

__all__ = ["PriceTable", "PricesLike", "split_prices"]

_LIST = "genai-prices"
_READERS = {".json": json.loads, ".toml": tomllib.loads}
_MODEL = Check(
    "a name that is not empty", lambda value: isinstance(value, str) and bool(value.strip())
)


class _Own:
    """A user's price of one model, with the rates of every service tier."""

    __slots__ = ("_batch", "_service_tiers", "_standard")

    def __init__(self, price: Price) -> None:
        self._standard = price.standard()
        self._service_tiers = {
            name: changed(self._standard, change) for name, change in price.service_tiers
        }
        self._batch = None if price.batch is None else changed(self._standard, price.batch)

    def steps(self, _: float, tier: str | None = None, *, is_batch: bool = False) -> Steps | None:
        """Return the rates by the size of a call."""
        if self._batch is not None and (is_batch or tier == "batch"):
            return self._batch
        return self._service_tiers.get(tier or "", self._standard)

    depends_on_time_of_day = False


class PriceTable:
    """Immutable prices by model.

    A model is looked up by its exact name, then by the part after each slash: ``openai/gpt-x`` finds
    the price of ``gpt-x``. The longest part with a price wins. If a provider charges differently,
    set a price for the full name.

    A call has the price of the first of these that has one: the user's prices by the name that was
    asked, then by the name that answered; the list by the name that answered, then by the one that
    was asked. In a chain (`coerce` of a list), each of the user's tables is looked up before any
    list.

    Args:
        prices: The price of each model. A text is an alias, the name of the model whose price
            holds; it may name a seller, such as ``azure/gpt-4o``.

    Raises:
        ConfigError: A name is not a non-empty string, a price is invalid, or aliases form a cycle.
    """

    __slots__ = ("_known", "_list", "_tables")

    def __init__(self, prices: Mapping[str, PriceLike]) -> None:
        self._set((_parse(prices, "prices"),), None)

    def _set(self, tables: tuple[dict[str, Price | str], ...], list_: PriceList | None) -> None:
        _check_cycles(tables)
        self._tables = tables
        self._list = list_
        self._known = tuple(
            {
                model: price if isinstance(price, str) else _Own(price)
                for model, price in table.items()
            }
            for table in tables
        )

    @classmethod
    def _chain(
        cls, tables: tuple[dict[str, Price | str], ...], list_: PriceList | None
    ) -> PriceTable:
        table = cls.__new__(cls)
        table._set(tables, list_)  # noqa: SLF001 - our own class
        return table

    @classmethod
    def from_file(cls, path: str | Path) -> PriceTable:
        """Read prices from a JSON or TOML file that maps each model to its price.

        Args:
            path: A file that ends in ``.json`` or ``.toml``.

        Raises:
            ConfigError: The file cannot be read or parsed, or has an invalid price.
        """
        path = os.fspath(PATH("prices, by its path,", path))
        where = f"prices file {safe_repr(path)}"
        suffix = Path(path).suffix.lower()
        if suffix not in _READERS:
            raise ConfigError(f"{where} must end in {' or '.join(_READERS)}, got {suffix!r}")
        try:
            prices = _READERS[suffix](Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{where} cannot be read: {shown(error)}; correct the file or its path"
            ) from error
        return cls._chain((_parse(prices, where),), None)

    @classmethod
    def from_genai_prices(cls) -> PriceTable:
        """Use the price list bundled with the package ``genai-prices``, without network access.

        A model is looked up at its seller: by the provider's label, by a prefix that names a seller
        (those of LiteLLM), or by the form of the name (Bedrock's, Vertex AI's, Fireworks'). What a
        seller does not list is unpriced, even if another one lists it. docs/prices.md has the rules.

        Prices by request size, service tier, batch, date and time of day are supported. A look-up
        takes up to a millisecond; the last 1,024 names are kept. A name of more than 256 characters
        is not looked up.

        Raises:
            MissingExtraError: The package is not installed.
        """
        return cls._chain((), PriceList())

    @classmethod
    def coerce(cls, value: PricesLike) -> PriceTable | None:
        """Return the table of a configuration's value.

        Args:
            value: A table, a mapping, the path of a file, ``"genai-prices"``, a list of these of
                which the first with a price wins, or None for no prices.

        Raises:
            ConfigError: The value is invalid.
            MissingExtraError: The value is ``"genai-prices"``, which is not installed.
        """
        try:
            return cls._coerce(value)
        except RecursionError:
            raise ConfigError("prices must not be lists in lists without end") from None

    @classmethod
    def _coerce(cls, given: Any) -> PriceTable | None:
        if given is None:
            return None
        if is_a(given, PriceTable):
            return cast("PriceTable", given)
        if is_a(given, Mapping):
            return PriceTable(given)
        if is_a(given, str) and str.__str__(given) == _LIST:
            return cls.from_genai_prices()
        if is_a(given, str, Path):
            return cls.from_file(given)
        if is_a(given, list, tuple):
            # By the class's own method: that of a subclass may raise.
            base: Any = list if is_a(given, list) else tuple
            return cls._coerce_all(base.__getitem__(given, slice(None)))
        raise ConfigError(
            "prices must be a PriceTable, a mapping from model to price, the path of a .json or "
            f'.toml file, "{_LIST}", or a list of these, got {safe_repr(given)}'
        )

    @classmethod
    def _coerce_all(cls, values: Sequence[Any]) -> PriceTable:
        if not values:
            raise ConfigError("prices must be a list of one or more, got an empty one; use None")
        tables: list[PriceTable] = []
        for index, value in enumerate(values):
            try:
                table = cls._coerce(value)
            except ConfigError as error:
                raise ConfigError(f"prices[{index}]: {error}") from error
            if table is None:
                raise ConfigError(
                    f"prices[{index}] must be prices, got None; remove it from the list"
                )
            tables.append(table)
        own: tuple[dict[str, Price | str], ...] = ()
        list_ = None
        for table in tables:
            own += table._tables  # noqa: SLF001 - our own class
            list_ = list_ or table._list  # noqa: SLF001
        return cls._chain(own, list_)

    def usd(
        self,
        answer: Answer,
        *,
        model: str | None = None,
        provider: str | None = None,
        time: float | None = None,
    ) -> float | None:
        """Return the cost of one answer, in USD; never raises.

        The cost that the provider reported (``answer.cost``) is not looked at.

        Args:
            answer: The answer: its tokens, the model that answered, its service tier, and whether
                it is part of a batch. Without a price of its own a tier costs the standard price.
            model: The name that was asked.
            provider: The provider's label, in the conventions' or any usual spelling.
            time: Unix seconds of the call's end; None means now. The list's prices have dates.

        Returns:
            USD, or None if the model has no price (or the cost is too large for a float).
        """
        try:
            asked = model or answer.model
            if not asked:
                return None
            when = finite_time(time)
            found = self._find(asked, answer.model, provider)
            if found is None:
                return None
            steps = found.steps(when, answer.service_tier, is_batch=answer.is_batch)
            if steps is None:
                return None
            usd = rates_at(steps, answer.tokens.input or 0).usd(answer.tokens)
            return usd if math.isfinite(usd) else None
        except Exception:
            return None

    def usd_of_sum(
        self,
        tokens: TokenCounts,
        *,
        calls: int,
        model: str,
        provider: str | None = None,
        answered: str | None = None,
    ) -> tuple[float | None, bool]:
        """Return the cost of the summed tokens of some calls, in USD; never raises.

        If the price depends on the size of a call, a sum is exact only for one call, or below the
        first limit. Otherwise the mean call decides, as an estimate: nine calls of 10,000 tokens
        and one of 300,000 are too cheap by it. Calls in a service tier or a batch have the standard
        price, and the list's prices are those of the present time.

        Args:
            tokens: The sum.
            calls: Number of calls; 0 means unknown.
            model: The name that was asked.
            provider: The provider's label.
            answered: The model that answered.

        Returns:
            USD, or None without a price; and whether the USD is exact rather than an estimate.
        """
        try:
            found = self._find(model, answered, provider)
            steps = None if found is None else found.steps(finite_time(None))
            if found is None or steps is None:
                return None, True
            inputs = tokens.input or 0
            if tokens.total and not (inputs or tokens.output):
                return None, True  # what of it was input is unknown
            is_exact = calls == 1 or len(steps) == 1 or inputs <= steps[1][0]
            rates = rates_at(steps, inputs / calls if calls > 0 else 0)
            is_exact = is_exact and (calls > 0 or rates.request is None)
            usd = rates.usd(tokens, max(0, calls))
            if not math.isfinite(usd):
                return None, True
            return usd, is_exact and not (found.depends_on_time_of_day and calls != 1)
        except Exception:
            return None, True

    def cost(
        self, model: str, input_tokens: int, output_tokens: int, cached_tokens: int = 0
    ) -> float | None:
        """Return the cost of one call's tokens, in USD; never raises.

        Args:
            model: The model's name.
            input_tokens: Input tokens, including cached ones.
            output_tokens: Output tokens.
            cached_tokens: The part of the input that was read from a cache; at most the input.

        Returns:
            USD, or None if the model has no price (or the cost is too large for a float).
        """
        if input_tokens is None or output_tokens is None:
            return None
        tokens = TokenCounts(input=input_tokens, output=output_tokens, cache_read=cached_tokens)
        return self.usd(Answer(tokens), model=model)

    def models(self) -> tuple[str, ...]:
        """Return the names with a price, sorted; the list accepts many more spellings."""
        names = {name for table in self._tables for name in table}
        return tuple(sorted(names | (self._list.models() if self._list is not None else set())))

    def __contains__(self, model: object) -> bool:
        return isinstance(model, str) and self.cost(model, 0, 0) is not None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PriceTable):
            return NotImplemented
        return self._tables == other._tables and (self._list is None) == (other._list is None)

    def __hash__(self) -> int:
        tables = tuple(frozenset(table.items()) for table in self._tables)
        return hash((tables, self._list is None))

    def __reduce__(self) -> tuple[Callable[..., PriceTable], tuple[Any, ...]]:
        return _rebuild, (self._tables, self._list is not None)

    def __repr__(self) -> str:
        parts = [f"PriceTable({table!r})" for table in self._tables]
        if self._list is not None:
            parts.append("PriceTable.from_genai_prices()")
        return parts[0] if len(parts) == 1 else f"PriceTable.coerce([{', '.join(parts)}])"

    def _find(
        self, asked: str, answered: str | None, provider: str | None
    ) -> _Own | ListedModel | None:
        for found in self._own_entries((asked, answered)):
            if not isinstance(found[2], str):
                return found[2]
            if aliased := self._resolve(found, provider):
                return aliased
        return None if self._list is None else self._list.find(asked, answered, provider)

    def _own_entries(self, names: Sequence[str | None]) -> Iterator[tuple[int, str, _Own | str]]:
        """Yield the user's entries for some names: their table, their name there, the price."""
        for index, table in enumerate(self._known):
            if table:
                for name in dict.fromkeys(names):
                    rest, slash = name or "", "/"
                    while slash:
                        if (price := table.get(rest)) is not None:
                            yield index, rest, price
                            break
                        _, slash, rest = rest.partition("/")

    def _resolve(
        self, alias: tuple[int, str, _Own | str], provider: str | None
    ) -> _Own | ListedModel | None:
        """Return the price of an alias, through the whole chain; None if its name has none."""
        used: set[tuple[int, str]] = set()
        entry: tuple[int, str, _Own | str] | None = alias
        name = ""
        while entry is not None:
            index, own, price = entry
            if not isinstance(price, str):
                return price
            used.add((index, own))
            name = price
            # A name may be an alias of a longer one: {"gpt-4o": "azure/gpt-4o"}.
            following = self._own_entries((name,))
            entry = next((each for each in following if each[:2] not in used), None)
        if self._list is None:
            return None
        if self._list.names_seller(name):
            return self._list.find(name)
        return self._list.find(name, None, provider) or self._list.find(name)


PricesLike: TypeAlias = (
    "PriceTable | Mapping[str, PriceLike] | str | Path | list[Any] | tuple[Any, ...] | None"
)
"""Values for `PriceTable.coerce`: a string is a file's path, or ``"genai-prices"``."""


def split_prices(text: str) -> str | tuple[str, ...]:
    """Return the prices of an environment variable or option: one, or several after commas."""
    if "," not in text or os.path.exists(text):  # noqa: PTH110 - a text too long is no error here
        return text
    return tuple(part for each in text.split(",") if (part := each.strip()))


def _rebuild(tables: tuple[dict[str, Price | str], ...], has_list: bool) -> PriceTable:
    return PriceTable._chain(tables, PriceList() if has_list else None)  # noqa: SLF001


def _parse(prices: Any, where: str) -> dict[str, Price | str]:
    try:
        items = dict(prices) if is_a(prices, Mapping) else None
    except UNREADABLE:
        items = None
    if items is None:
        raise ConfigError(f"{where} must be a mapping from model to price, got {safe_repr(prices)}")
    parsed: dict[str, Price | str] = {}
    for model, value in items.items():
        _MODEL(f"{where}: a model", model)
        try:
            parsed[model] = value.strip() if _is_alias(value) else parse_price(value)
        except ConfigError as error:
            raise ConfigError(f"{where}: model {model!r}: {error}") from None
    return parsed


def _is_alias(value: Any) -> bool:
    """Return whether a value is a model's name; a number written as text is a mistake."""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def _check_cycles(tables: tuple[dict[str, Price | str], ...]) -> None:
    """Check that each alias leads to another name at last.

    Raises:
        ConfigError: Aliases form a cycle.
    """
    aliases: dict[str, Price | str] = {}
    for table in reversed(tables):
        aliases |= table
    for name in aliases:
        path = [name]
        while isinstance(following := aliases.get(path[-1]), str):
            path.append(following)
            if following in path[:-1]:
                raise ConfigError(
                    f"prices: model {name!r}: the aliases {' -> '.join(map(repr, path))} form a "
                    "cycle; let one of them name a model with a price"
                )
