"""Prices: properties of every table and count."""

from __future__ import annotations

import math

import genai_prices
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmeter.config.prices import Price, PriceTable

prices = st.floats(0, 1e6)
counts = st.integers(0, 2**63 - 1)
names = st.text(min_size=1).filter(str.strip)
LISTED = PriceTable.from_genai_prices()


@settings(deadline=None)
@given(
    input_=prices,
    output=prices,
    cached=st.none() | prices,
    inputs=counts,
    outputs=counts,
    hits=counts,
)
def test_cost_is_between_0_and_the_highest_price_for_all_tokens(
    *, input_: float, output: float, cached: float | None, inputs: int, outputs: int, hits: int
) -> None:
    """A cost is finite, not negative, and bounded."""
    usd = PriceTable({"m": Price(input_, output, cached)}).cost("m", inputs, outputs, hits)
    assert usd is not None
    assert math.isfinite(usd)
    dearest = max(input_, output, cached or 0) * (inputs + outputs) / 1e6
    assert 0 <= usd <= dearest * (1 + 1e-9)


@settings(deadline=None)
@given(prices, prices, st.lists(st.tuples(counts, counts), max_size=20))
def test_flat_prices_are_linear(input_: float, output: float, calls: list[tuple[int, int]]) -> None:
    """The cost of a sum equals the sum of the costs."""
    table = PriceTable({"m": (input_, output)})
    each = math.fsum(table.cost("m", *call) or 0.0 for call in calls)
    total = table.cost("m", sum(i for i, _ in calls), sum(o for _, o in calls), calls=len(calls))
    assert total == pytest.approx(each, rel=1e-9, abs=1e-300)


@settings(deadline=None)
@given(st.dictionaries(names, st.tuples(prices, prices)), names)
def test_models_match_by_name_or_a_part_after_a_slash(
    table: dict[str, tuple[float, float]], model: str
) -> None:
    """The lookup equals a slow reference implementation."""
    parts = model.split("/")
    named = any("/".join(parts[start:]) in table for start in range(len(parts)))
    assert (model in PriceTable(table)) == named
    for name in table:
        assert f"anyone/{name}" in PriceTable(table)


@settings(deadline=None)
@given(
    st.sampled_from(
        [
            "openai/gpt-4o-mini",
            "anthropic/claude-sonnet-4-5",
            "google/gemini-2.5-pro",
            "perplexity/sonar",  # has a price for each request too
        ]
    ),
    st.integers(0, 2_000_000),
    st.integers(0, 200_000),
    st.floats(0, 1),
)
def test_price_list_agrees_with_its_package(
    model: str, inputs: int, outputs: int, share: float
) -> None:
    """Rates from a few lookups result in the package's cost for every call."""
    cached = int(inputs * share)
    usage = genai_prices.Usage(input_tokens=inputs, output_tokens=outputs, cache_read_tokens=cached)
    provider, _, name = model.partition("/")
    answer = genai_prices.calc_price(usage, name, provider_id=provider)
    usd = LISTED.cost(model, inputs, outputs, cached)
    assert usd == pytest.approx(float(answer.total_price), rel=1e-9)
