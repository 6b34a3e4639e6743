"""The price list of the package ``genai-prices``: models by seller, and their rates at a time.

The package finds a model and the prices that hold at a time, in a service tier or batch. The
arithmetic is that of `Rates`, a tenth of the package's time, which prices numbers that contradict
each other instead of raising; tests compare both for every model of the list.
"""

from __future__ import annotations

import contextlib
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from genmeter import clock
from genmeter.config.prices._names import (
    Place,
    has_local_tag,
    is_finer,
    place_at,
    place_of,
    seller_of,
    spellings,
)
from genmeter.config.prices._rates import Rates
from genmeter.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genmeter.config.prices._rates import Steps

__all__ = ["ListedModel", "PriceList", "finite_time"]

_MAX_KEPT = 1_024
_MAX_NAME = 256
_REFRESH_SECONDS = 60
_THOUSAND = 1_000
# Sellers that make their models: a bare name that no seller claims is priced if just one lists it.
_MAKERS = (
    *("anthropic", "cohere", "deepseek", "google", "mistral", "moonshotai", "openai", "voyageai"),
    "x-ai",
)
# The package's keys of the quantities that answers report (`genai_prices.data_units`).
_KEYS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "reasoning": "output_reasoning_mtok",
    "input_audio": "input_audio_mtok",
    "cached_audio": "cache_audio_read_mtok",
    "output_audio": "output_audio_mtok",
    "input_image": "input_image_mtok",
    "cached_image": "cache_image_read_mtok",
    "output_image": "output_image_mtok",
    "input_video": "input_video_mtok",
    "cached_video": "cache_video_read_mtok",
    "output_video": "output_video_mtok",
    "search": "web_searches_kcount",
    "request": "requests_kcount",
}
_PER_THOUSAND = frozenset({"search", "request"})


class ListedModel:
    """One model at one seller, with the rates that hold at a time."""

    __slots__ = ("_contexts", "_model", "_steps", "depends_on_time_of_day")

    def __init__(self, seller: Any, model: Any) -> None:
        self._model = model
        # Of a model of another seller's list, which is a fallback, the package uses no variants.
        is_own = any(each is model for each in seller.models)
        variants = (model.price_variants or ()) if is_own else ()
        # Only known values are looked up, so that their number is limited.
        self._contexts = frozenset(item for each in variants for item in each.when.items())
        conditions = model.prices if isinstance(model.prices, list) else ()
        self.depends_on_time_of_day = any(
            hasattr(each.constraint, "start_time") for each in conditions
        )
        self._steps: dict[tuple[tuple[str, str], ...], tuple[int, Steps | None]] = {}

    def steps(
        self, when: float, tier: str | None = None, *, is_batch: bool = False
    ) -> Steps | None:
        """Return the rates at a time; None without prices of tokens.

        Args:
            when: Unix seconds.
            tier: The service tier, in lower case.
            is_batch: Whether the call is part of a batch.
        """
        asked = (
            ("service_tier", tier or ""),
            ("processing", "batch" if is_batch or tier == "batch" else ""),
        )
        context = tuple(item for item in asked if item in self._contexts)
        minute = int(when // _REFRESH_SECONDS)
        known = self._steps.get(context)
        if known is None or known[0] != minute:
            moment = datetime.fromtimestamp(when, UTC)
            prices = self._model.get_prices(moment, dict(context) or None)
            known = self._steps[context] = minute, self._read(prices)
        return known[1]

    def _read(self, prices: Any) -> Steps | None:
        found = {name: getattr(prices, key, None) for name, key in _KEYS.items()}
        if found["input"] is None and found["output"] is None:
            # A price per image or second must not make tokens free, but a free model is.
            is_free = self._model.id.endswith(":free") and not any(vars(prices).values())
            return ((0, Rates(0.0, 0.0)),) if is_free else None
        starts = {tier.start for each in found.values() for tier in getattr(each, "tiers", ())}
        return tuple((start, _rates(found, start)) for start in (0, *sorted(starts - {0})))


def _rates(prices: dict[str, Any], start: int) -> Rates:
    """Return the rates of calls with more than ``start`` input tokens."""
    rates = {}
    for name, price in prices.items():
        if price is None:
            continue
        rate = getattr(price, "base", price)
        for tier in getattr(price, "tiers", ()):
            if tier.start <= start:
                rate = tier.price
        rates[name] = float(rate) / (_THOUSAND if name in _PER_THOUSAND else 1)
    return Rates(rates.pop("input", 0.0), rates.pop("output", 0.0), **rates)


class PriceList:
    """The list of ``genai-prices`` in use: the bundled one, or the one that its updates brought."""

    __slots__ = ("_data", "_found", "_sellers", "_snapshot")

    def __init__(self) -> None:
        try:
            from genai_prices import data_snapshot
        except ImportError as error:
            raise MissingExtraError(
                "genai-prices", extra="prices", purpose='prices="genai-prices"'
            ) from error
        self._data = data_snapshot
        # Load the bundled list now: it takes tens of milliseconds, which would delay the drain.
        self._use(data_snapshot.get_snapshot())

    def _use(self, snapshot: Any) -> None:
        self._sellers = {provider.id: provider for provider in snapshot.providers}
        self._found: dict[tuple[str | None, ...], ListedModel | None] = {}
        self._snapshot = snapshot

    def models(self) -> set[str]:
        """Return the ids of all models; the list accepts many more spellings."""
        return {
            model.id for seller in self._data.get_snapshot().providers for model in seller.models
        }

    def find(
        self, asked: str, answered: str | None = None, provider: str | None = None
    ) -> ListedModel | None:
        """Return the model that answered, at the seller that served it.

        The seller is that of the label, else that of the asked name's form. Without either the
        name alone decides. A model that the seller does not list is not priced at another's price.

        Args:
            asked: The name that was asked.
            answered: The name that the response has, looked up before.
            provider: The provider's label.
        """
        snapshot = self._data.get_snapshot()
        if snapshot is not self._snapshot:
            self._use(snapshot)
        key = (asked, answered, provider)
        try:
            return self._found[key]
        except KeyError:
            pass
        if any(name and len(name) > _MAX_NAME for name in key):
            return None
        found = next(self._matches(asked, answered, provider), None)
        if len(self._found) >= _MAX_KEPT:
            with contextlib.suppress(KeyError, RuntimeError, StopIteration):  # another thread's
                del self._found[next(iter(self._found))]  # the oldest is looked up again if used
        self._found[key] = found
        return found

    def names_seller(self, name: str) -> bool:
        """Return whether a name says its seller, as ``azure/gpt-4o`` does."""
        return place_of(name, self._sellers).seller is not None

    def _matches(
        self, asked: str, answered: str | None, provider: str | None
    ) -> Iterator[ListedModel]:
        label = seller_of(provider)
        place = place_of(asked, self._sellers)
        if place.is_opaque or (place.is_open and label is None):
            return
        names = [asked] if answered is None or answered == asked else [answered, asked]
        if len(names) > 1 and is_finer(asked, names[0]):
            names.reverse()
        for name in names:
            if label is not None:
                found = self._at(place_at(label, name))
            elif place.seller is not None:
                # Who was asked has answered, whatever the response calls the model.
                found = self._at(place if name == asked else Place(place.seller, name))
            else:
                found = self._anywhere(name)
            if found is not None:
                yield found

    def _at(self, where: Place) -> ListedModel | None:
        """Return the model of a seller's name, in the spellings that the list may have."""
        seller = self._sellers.get(where.seller or "")
        if seller is None or where.seller is None:
            return None
        for spelling in spellings(where.seller, where.name, self._sellers):
            if found := self._listed(seller, spelling):
                return found
        return None

    def _anywhere(self, name: str) -> ListedModel | None:
        place = place_of(name, self._sellers)
        if place.is_open:
            return None
        if place.seller is not None:
            return self._at(place)
        if "/" in name or has_local_tag(name):
            # An organisation's or Ollama's name: a self-hosted model must not get a service's price.
            return None
        lower = name.lower()
        for seller in self._snapshot.providers:
            if seller.model_match is not None and seller.model_match.is_match(lower):
                if found := self._listed(seller, name):
                    return found
                break
        made = [each for maker in _MAKERS if (each := self._at(Place(maker, name))) is not None]
        return made[0] if len(made) == 1 else None

    def _listed(self, seller: Any, name: str) -> ListedModel | None:
        model = seller.find_model(name, all_providers=self._snapshot.providers)
        if model is None:
            return None
        listed = ListedModel(seller, model)
        return None if listed.steps(clock.now()) is None else listed


def finite_time(time: float | None) -> float:
    """Return Unix seconds that a date has; now for others."""
    try:
        if time is not None and math.isfinite(time):
            datetime.fromtimestamp(time, UTC)
            return float(time)
    except (ArithmeticError, OSError, TypeError, ValueError):
        pass
    return clock.now()
