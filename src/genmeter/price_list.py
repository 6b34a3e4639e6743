"""The price list of the package ``genai-prices`` as a `PriceTable`, without any network."""

from __future__ import annotations

import decimal
import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.errors import MissingExtraError
from genmeter.prices import PriceTable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["GenaiPriceTable"]

_MAX_LISTED = 1_024
_MAX_NAME = 256
_REFRESH_SECONDS = 60.0


class _Tier(NamedTuple):
    """What calls of more than ``start`` input tokens cost, in USD a call and a token."""

    start: int
    fixed: float
    input: float
    output: float
    cached: float


class GenaiPriceTable(PriceTable):
    """The price list of ``genai-prices``, asked once a minute for each model in use.

    One question takes the package 0.1 to 0.2 ms, too long for every event. A call's price is
    linear in its tokens between two thresholds, so a few questions for each model give all rates.
    """

    __slots__ = ("_known", "_library")

    def __init__(self) -> None:
        super().__init__({})
        try:
            import genai_prices
            from genai_prices import data_snapshot
        except ImportError as error:
            raise MissingExtraError(
                "genai-prices", extra="prices", purpose='prices="genai-prices"'
            ) from error
        # Reads the bundled list now: tens of milliseconds that the drain need not spend.
        data_snapshot.get_snapshot()
        self._library = genai_prices
        self._known: dict[str, tuple[float, tuple[_Tier, ...] | None]] = {}

    def cost(
        self,
        model: str,
        input_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        *,
        calls: int = 1,
    ) -> float | None:
        """Say what tokens of a model cost, in USD; as `PriceTable.cost`, with its tiers."""
        try:
            tiers = self._tiers(model)
            if tiers is None:
                return None
            size = input_tokens / calls if calls else 0
            tier = tiers[0]
            for candidate in tiers[1:]:
                if size > candidate.start:
                    tier = candidate
            cached = max(0, min(cached_tokens, input_tokens))
            usd = (
                tier.fixed * calls
                + (input_tokens - cached) * tier.input
                + output_tokens * tier.output
                + cached * tier.cached
            )
        except (ArithmeticError, AttributeError, TypeError):
            return None
        return usd if math.isfinite(usd) else None

    def models(self) -> tuple[str, ...]:
        """The ids of the models in the list, sorted; it knows many more spellings of them."""
        from genai_prices import data_snapshot

        providers = data_snapshot.get_snapshot().providers
        return tuple(sorted({model.id for provider in providers for model in provider.models}))

    def __reduce__(self) -> tuple[Callable[..., PriceTable], tuple[Any, ...]]:
        return PriceTable.from_genai_prices, ()

    def __repr__(self) -> str:
        return "PriceTable.from_genai_prices()"

    def _tiers(self, model: str) -> tuple[_Tier, ...] | None:
        now = time.monotonic()
        known = self._known.get(model)
        if known is not None and now < known[0]:
            return known[1]
        # The package remembers every name it was asked for, so the names need a bound.
        if len(model) > _MAX_NAME or (known is None and len(self._known) >= _MAX_LISTED):
            return None
        tiers = self._look_up(model)
        self._known[model] = (now + _REFRESH_SECONDS, tiers)
        return tiers

    def _look_up(self, model: str) -> tuple[_Tier, ...] | None:
        prefix, slash, rest = model.partition("/")
        # Google's own API calls its models "models/...".
        spellings = [(model, None), (rest, None if prefix == "models" else prefix.lower())]
        for name, provider in spellings if slash else spellings[:1]:
            try:
                # The thread that drains may be the caller's, with a decimal context of its own.
                with decimal.localcontext(decimal.Context()):
                    return self._ask(name, provider)
            except Exception:  # noqa: S112 - None is counted as unpriced
                # LookupError for a name that the list has not; a price that is broken, or for
                # other things than tokens, is no price either.
                continue
        return None

    def _ask(self, name: str, provider: str | None) -> tuple[_Tier, ...] | None:
        """Ask the package for every rate of one model.

        Raises:
            LookupError: The list does not have the model, or not at that provider.
        """
        when = datetime.now(UTC)

        def ask(inputs: int, outputs: int = 0, cached: int = 0) -> Any:
            usage = self._library.Usage(
                input_tokens=inputs, output_tokens=outputs, cache_read_tokens=cached
            )
            return self._library.calc_price(
                usage, name, provider_id=provider, genai_request_timestamp=when
            )

        answer = ask(1)
        # The package guesses providers too ("mistralai" is Mistral); a self-hosted model of an
        # organisation must not get the price of that organisation's service.
        if provider is not None and answer.provider.id != provider:
            raise LookupError(name)
        price = answer.model_price
        if price.input_mtok is None and price.output_mtok is None:
            return None
        starts = {0} | {
            tier.start for value in vars(price).values() for tier in getattr(value, "tiers", ())
        }
        return tuple(_tier(start, ask) for start in sorted(starts))


def _tier(start: int, ask: Callable[..., Any]) -> _Tier:
    first = start + 1
    base = ask(first).total_price
    per_input = ask(first + 1).total_price - base
    return _Tier(
        start,
        fixed=float(base - per_input * first),
        input=float(per_input),
        output=float(ask(first, 1).total_price - base),
        cached=float(per_input + ask(first, 0, 1).total_price - base),
    )
