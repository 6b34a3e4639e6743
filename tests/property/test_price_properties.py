"""Prices: properties of every table and count."""

from __future__ import annotations

import math

import genai_prices
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmeter.config.prices import Price, PriceTable
from genmeter.events.answers import Answer, TokenCounts

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
    tokens = TokenCounts(sum(i for i, _ in calls), sum(o for _, o in calls))
    total, is_exact = table.usd_of_sum(tokens, calls=len(calls), model="m")
    assert total == pytest.approx(each, rel=1e-9, abs=1e-300)
    assert is_exact


known = st.none() | counts
by = st.lists(st.tuples(st.sampled_from(["audio", "image", "text"]), counts), max_size=3).map(tuple)
tokens_of_all_kinds = st.builds(
    TokenCounts, *[known] * 7, input_by=by, output_by=by, cache_read_by=by, searches=known
)


@settings(deadline=None)
@given(tokens_of_all_kinds)
def test_contradicting_counts_cost_no_less_than_0_and_no_more_than_the_dearest(
    tokens: TokenCounts,
) -> None:
    """Each token has one price, whatever the provider reports."""
    price = Price(2, 8, 0.5, 3, 4, 9, input_audio=20, cached_audio=1, output_image=40)
    usd = PriceTable({"m": price}).usd(Answer(tokens), model="m")
    assert usd is not None
    inputs, outputs = tokens.input or 0, tokens.output or 0
    least, most = inputs * 0.5 + outputs * 8, inputs * 20 + outputs * 40
    assert least / 1e6 * (1 - 1e-9) <= usd <= most / 1e6 * (1 + 1e-9)


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
            "openrouter/perplexity/sonar",
            "azure/o1",
        ]
    ),
    st.integers(0, 2_000_000),
    st.integers(0, 200_000),
    st.floats(0, 1),
)
def test_price_list_agrees_with_its_package(
    model: str, inputs: int, outputs: int, share: float
) -> None:
    """The rates result in the package's cost for every call."""
    cached = int(inputs * share)
    usage = genai_prices.Usage(input_tokens=inputs, output_tokens=outputs, cache_read_tokens=cached)
    provider, _, name = model.partition("/")
    answer = genai_prices.calc_price(usage, name, provider_id=provider)
    usd = LISTED.cost(model, inputs, outputs, cached)
    assert usd == pytest.approx(float(answer.total_price), rel=1e-9)
