"""Prices of one's own: each quantity, tiers, service tiers, batches and fees."""

from __future__ import annotations

import json
import pickle
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from genmeter.config.prices import Price, PriceTable, PriceTier
from genmeter.errors import ConfigError
from genmeter.events.answers import Answer, TokenCounts

BASE = {"input": 2, "output": 8}


def usd(price: Any, tokens: TokenCounts, **answer: Any) -> float:
    """Return the USD of a million times some tokens by one price."""
    cost = PriceTable({"m": price}).usd(Answer(tokens, **answer), model="m")
    assert cost is not None
    return cost * 1e6


@pytest.mark.parametrize(
    ("fields", "tokens", "expected"),
    [
        ({}, TokenCounts(100, 10), 280),
        ({}, TokenCounts(100), 200),
        ({}, TokenCounts(output=10), 80),
        ({}, TokenCounts(), 0),
        ({"cached_input": 0.5}, TokenCounts(100, 10, cache_read=40), 120 + 20 + 80),
        # A write has its own price, that for an hour another one, and each the one before it.
        ({}, TokenCounts(100, cache_write=30), 200),
        ({"cache_write": 3}, TokenCounts(100, cache_write=30), 140 + 90),
        ({"cache_write": 3}, TokenCounts(100, cache_write=30, cache_write_1h=10), 140 + 90),
        (
            {"cache_write": 3, "cache_write_1h": 5},
            TokenCounts(100, cache_write=30, cache_write_1h=10),
            140 + 60 + 50,
        ),
        ({"cache_write_1h": 5}, TokenCounts(100, cache_write=30, cache_write_1h=10), 180 + 50),
        (
            {"cached_input": 0.5, "cache_write": 3},
            TokenCounts(100, cache_read=50, cache_write=30),
            40 + 25 + 90,
        ),
        ({}, TokenCounts(0, 10, reasoning=6), 80),
        ({"reasoning": 3}, TokenCounts(0, 10, reasoning=6), 32 + 18),
        ({"reasoning": 0}, TokenCounts(0, 10, reasoning=6), 32),
        ({"input_audio": 20}, TokenCounts(100, input_by=(("audio", 30), ("text", 70))), 140 + 600),
        ({"input_image": 4}, TokenCounts(100, input_by=(("image", 30),)), 140 + 120),
        ({"input_video": 4}, TokenCounts(100, input_by=(("video", 30),)), 140 + 120),
        ({"output_audio": 40}, TokenCounts(0, 10, output_by=(("audio", 3),)), 56 + 120),
        ({"output_image": 40}, TokenCounts(0, 10, output_by=(("image", 10),)), 400),
        ({}, TokenCounts(100, 10, input_by=(("audio", 30),), output_by=(("audio", 3),)), 280),
        # Cached audio: its own price, that of cached input, or that of audio.
        *(
            (
                {"input_audio": 20, **prices},
                TokenCounts(
                    100, cache_read=50, input_by=(("audio", 30),), cache_read_by=(("audio", 10),)
                ),
                30 * 2 + 20 * 20 + 40 * cached + 10 * audio,
            )
            for prices, cached, audio in [
                ({"cached_input": 1, "cached_audio": 5}, 1, 5),
                ({"cached_input": 1}, 1, 1),
                ({}, 2, 20),
            ]
        ),
        ({"search": 0.01}, TokenCounts(100, 10, searches=3), 280 + 30_000),
        ({}, TokenCounts(100, 10, searches=3), 280),
        ({"request": 0.005}, TokenCounts(100, 10), 280 + 5_000),
    ],
)
def test_each_quantity_has_its_price(
    fields: dict[str, Any], tokens: TokenCounts, expected: float
) -> None:
    """A part without a price has that of the whole."""
    assert usd({**BASE, **fields}, tokens) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (TokenCounts(10, 0, cache_read=50), 5),
        (TokenCounts(10, 0, cache_read=8, cache_write=50), 4 + 6),
        (TokenCounts(10, 0, cache_write=2, cache_write_1h=50), 10 * 5),
        (TokenCounts(10, 0, cache_read=-5, cache_write=-5), 20),
        (TokenCounts(0, 10, reasoning=50), 30),
        (TokenCounts(0, 10, reasoning=6, output_by=(("audio", 9),)), 18 + 160),
        # 8 cached and 7 of audio make more than 10: 5 of the cached ones are audio.
        (TokenCounts(10, 0, cache_read=8, input_by=(("audio", 7),)), 2 * 20 + 5 * 7 + 3 * 0.5),
        (TokenCounts(10, 0, cache_read=2, input_by=(("audio", 99),)), 8 * 20 + 2 * 7),
    ],
)
def test_contradicting_numbers_are_limited(tokens: TokenCounts, expected: float) -> None:
    """No part is larger than the whole, and no cost is negative."""
    price = Price(
        *(2, 8, 0.5, 3, 5),
        reasoning=3,
        input_audio=20,
        cached_audio=7,
        output_audio=40,
    )
    assert usd(price, tokens) == pytest.approx(expected, rel=1e-12)


TIERED = {
    **BASE,
    "cached_input": 0.5,
    "cache_write": 3,
    "request": 1e-6,
    "tiers": [
        {"above": 1_000, "input": 4, "output": 16},
        {"above": 2_000, "input": 6, "output": 24, "cached_input": 0.75},
    ],
}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (1_000, 900 * 2 + 100 * 0.5 + 80),
        (1_001, 901 * 4 + 100 * 0.5 + 160),
        (2_000, 1_900 * 4 + 100 * 0.5 + 160),
        (2_001, 1_901 * 6 + 100 * 0.75 + 240),
    ],
)
def test_calls_above_a_tier_are_wholly_at_its_price(inputs: int, expected: float) -> None:
    """A part that the tier does not name keeps its price."""
    assert usd(TIERED, TokenCounts(inputs, 10, cache_read=100)) == pytest.approx(expected + 1)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, 280),
        ({"service_tier": "default"}, 280),
        ({"service_tier": "flex"}, 140),
        ({"service_tier": "priority"}, 350 + 80),
        ({"is_batch": True}, 100 + 40),
        ({"service_tier": "batch"}, 100 + 40),
        ({"service_tier": "flex", "is_batch": True}, 100 + 40),
    ],
)
def test_service_tiers_and_batches_have_factors_or_prices(
    answer: dict[str, Any], expected: float
) -> None:
    """Fees are not changed, and a batch is in no tier."""
    price = {
        **BASE,
        "request": 1e-6,
        "service_tiers": {"flex": 0.5, "priority": {"input": 3.5}},
        "batch": {"input": 1, "output": 4},
    }
    assert usd(price, TokenCounts(100, 10), **answer) == pytest.approx(expected + 1)


def test_factors_hold_in_every_tier() -> None:
    """A batch of long calls is half of their price."""
    price = {**TIERED, "batch": 0.5}
    tokens = TokenCounts(3_000, 10, cache_read=100)
    whole = usd(TIERED, tokens) - 1
    assert usd(price, tokens, is_batch=True) - 1 == pytest.approx(whole / 2)


def test_batches_without_a_price_cost_the_standard_price() -> None:
    """The same for a service tier."""
    assert usd(BASE, TokenCounts(100, 10), is_batch=True, service_tier="flex") == 280


FULL: dict[str, Any] = {
    **TIERED,
    "cache_write_1h": 4,
    "reasoning": 9,
    "input_audio": 20,
    "search": 0.01,
    "service_tiers": {"flex": 0.5, "priority": {"input": 3.5, "output": 14}},
    "batch": 0.5,
}
TOML = """
[m]
input = 2
output = 8
cached_input = 0.5
cache_write = 3
cache_write_1h = 4
reasoning = 9
input_audio = 20
search = 0.01
request = 1e-6
batch = 0.5
tiers = [
  { above = 1_000, input = 4, output = 16 },
  { above = 2_000, input = 6, output = 24, cached_input = 0.75 },
]

[m.service_tiers]
flex = 0.5
priority = { input = 3.5, output = 14 }
"""


@pytest.mark.parametrize(
    "prices", [json.loads(json.dumps({"m": FULL})), tomllib.loads(TOML), {"m": Price(**FULL)}]
)
def test_all_fields_can_be_written_in_json_and_toml(prices: Any) -> None:
    """Tables are equal, have equal hashes, and survive pickling."""
    table = PriceTable({"m": FULL})
    assert PriceTable(prices) == table
    assert hash(PriceTable(prices)) == hash(table)
    assert pickle.loads(pickle.dumps(table)) == table  # noqa: S301 - our own bytes
    assert PriceTable({"m": {**FULL, "batch": 0.6}}) != table


PAGE = (Path(__file__).parents[3] / "docs/prices.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("suffix", "text"), re.findall(r"^```(toml|json)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
)
def test_examples_of_files_in_the_docs_are_valid(tmp_path: Path, suffix: str, text: str) -> None:
    """Each block of docs/prices.md can be saved and used."""
    path = tmp_path / f"prices.{suffix}"
    path.write_text(text, encoding="utf-8")
    assert "prod-eu-chat" in PriceTable.from_file(path).models()


def test_shown_prices_have_only_what_is_given() -> None:
    """And can be pasted."""
    assert repr(Price(1, 2)) == "Price(input=1.0, output=2.0)"
    price = Price(**FULL)
    assert eval(repr(price), {"Price": Price, "PriceTier": PriceTier}) == price  # noqa: S307 - ours


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("cache_write", -1, "cache_write must be a finite number of 0 or more.*got -1"),
        ("request", "1", "request must be a finite number of 0 or more, in USD for each.*got '1'"),
        ("tiers", 3, r"tiers must be a list of tiers.*got 3"),
        ("tiers", [3], r"tiers\[0\] must be above, input, output.*got 3"),
        ("tiers", [{"input": 1, "output": 1}], r"tiers\[0\] must be above.*got \{'input'"),
        (
            "tiers",
            [{"abvoe": 1, "input": 1, "output": 1}],
            r"tiers\[0\]: unknown field 'abvoe'; did you mean 'above'\?",
        ),
        (
            "tiers",
            [{"above": 1.5, "input": 1, "output": 1}],
            r"tiers\[0\]: above must be a whole number.*got 1.5",
        ),
        (
            "tiers",
            [{"above": 5, "input": 1, "output": 1}] * 2,
            "tiers: each tier must be above more tokens.*got 5 after 5; sort the tiers",
        ),
        ("batch", -1, "batch must be a factor of 0 or more, or a mapping of prices.*got -1"),
        ("batch", {}, "batch must be a factor of 0 or more, or a mapping of prices.*got {}"),
        ("batch", {"inputs": 1}, "batch: unknown field 'inputs'; did you mean 'input'"),
        ("batch", {"input": -1}, "batch: input must be a finite number.*got -1"),
        ("service_tiers", 3, "service_tiers must be a mapping from the tier's name.*got 3"),
        ("service_tiers", {"flex": "x"}, "service_tiers: flex must be a factor.*got 'x'"),
        ("service_tiers", {"": 1}, "service_tiers: a tier must be a name.*got ''"),
        ("cache_writes", 1, "unknown field 'cache_writes'; did you mean 'cache_write'"),
        (7, 1, "unknown field 7; use one of input, output"),
    ],
)
def test_invalid_fields_are_named(field: Any, value: Any, message: str) -> None:
    """The error has the model, the field, the value, and what to do."""
    with pytest.raises(ConfigError, match=f"^prices: model 'm': {message}"):
        PriceTable({"m": {**BASE, field: value}})


@pytest.mark.parametrize(
    ("calls", "inputs", "expected", "is_exact"),
    [
        (1, 1_500, 1_500 * 4, True),
        (10, 1_000, 1_000 * 2, True),  # no call can be above the tier
        (10, 9_000, 9_000 * 2, False),
        (10, 15_000, 15_000 * 4, False),
        (0, 15_000, 15_000 * 2, False),
    ],
)
def test_sums_are_exact_unless_the_size_of_a_call_matters(
    calls: int, inputs: int, expected: float, is_exact: bool
) -> None:
    """The mean call decides otherwise; an unknown number of calls has the base price."""
    table = PriceTable({"m": {**TIERED, "request": None}})
    found: Any = table.usd_of_sum(TokenCounts(inputs, 0), calls=calls, model="m")
    assert found == (pytest.approx(expected / 1e6), is_exact)


def test_sums_have_the_fee_of_each_call() -> None:
    """Without the number of calls the cost is an estimate."""
    table = PriceTable({"m": {**BASE, "request": 0.5, "search": 0.25}})
    tokens = TokenCounts(0, 0, searches=4)
    assert table.usd_of_sum(tokens, calls=3, model="m") == (2.5, True)
    assert table.usd_of_sum(tokens, calls=0, model="m") == (1.0, False)


def test_sums_have_the_standard_price() -> None:
    """Nobody knows which of the calls were in a service tier or a batch."""
    table = PriceTable({"m": {**BASE, "batch": 0.5, "service_tiers": {"flex": 0.25}}})
    plain = PriceTable({"m": BASE})
    tokens = TokenCounts(1_000, 1_000)
    standard = plain.usd(Answer(tokens), model="m")
    assert standard
    assert table.usd_of_sum(tokens, calls=1, model="m") == (standard, True)
    assert table.usd(Answer(tokens, is_batch=True), model="m") == pytest.approx(standard / 2)


@pytest.mark.parametrize("tokens", [None, 7, TokenCounts("x"), TokenCounts(1, 1, input_by=7)])  # type: ignore[arg-type]
def test_prices_of_anything_never_raise(tokens: Any) -> None:
    """Invalid tokens have no cost."""
    table = PriceTable({"m": {**BASE, "input_audio": 1}})
    assert table.usd(Answer(tokens), model="m") is None
    assert table.usd(None, model="m") is None  # type: ignore[arg-type]
    assert table.usd_of_sum(tokens, calls=1, model="m") == (None, True)
    assert table.usd_of_sum(TokenCounts(1), calls="x", model="m") == (None, True)  # type: ignore[arg-type]
    assert table.usd_of_sum(TokenCounts(1), calls=1, model=[]) == (None, True)  # type: ignore[arg-type]


def test_infinite_costs_are_none() -> None:
    """Also those of a sum."""
    table = PriceTable({"m": (1e308, 0)})
    assert table.usd(Answer(TokenCounts(10**9)), model="m") is None
    assert table.usd_of_sum(TokenCounts(10**9), calls=1, model="m") == (None, True)
