"""Prices of answers by model, from mappings, files and the ``genai-prices`` list."""

from genmeter.config.prices.price import Price, PriceLike, PriceTier
from genmeter.config.prices.table import PricesLike, PriceTable, split_prices

__all__ = ["Price", "PriceLike", "PriceTable", "PriceTier", "PricesLike", "split_prices"]
