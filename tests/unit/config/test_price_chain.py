"""Chains of prices: several tables, the list behind them, aliases, and the order of look-up."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

from genmeter.config.monitor import MonitorConfig
from genmeter.config.prices import PriceTable, split_prices
from genmeter.errors import ConfigError
from genmeter.events.answers import Answer, TokenCounts

if TYPE_CHECKING:
    from pathlib import Path

MILLION = TokenCounts(1_000_000)
GPT_4O = 2.5  # USD per million input tokens, openai.com/api/pricing


def chain(*tables: Any) -> PriceTable:
    """Return a chain."""
    table = PriceTable.coerce(list(tables))
    assert table is not None
    return table


def usd(
    table: PriceTable, asked: str, answered: str | None = None, provider: str | None = None
) -> float | None:
    """Return the USD of a million input tokens."""
    return table.usd(Answer(MILLION, model=answered), model=asked, provider=provider)


def test_own_prices_win_over_the_list() -> None:
    """The list is for all other models."""
    table = chain({"own": (1, 1), "gpt-4o": (7, 7)}, "genai-prices")
    assert usd(table, "own") == 1
    assert usd(table, "gpt-4o") == 7
    assert usd(table, "gpt-4o-mini") == pytest.approx(0.15)
    assert usd(table, "nobody") is None
    assert "own" in table
    assert {"own", "gpt-4o", "gpt-4o-mini"} <= set(table.models())


def test_own_tables_win_over_a_list_in_front_of_them() -> None:
    """A list prices what no table of one's own does."""
    assert usd(chain("genai-prices", {"gpt-4o": (7, 7)}), "gpt-4o") == 7


def test_the_first_table_with_a_price_wins() -> None:
    """By either name, before the second table is looked up."""
    table = chain({"a": (1, 1), "c": (3, 3)}, {"a": (2, 2), "b": (4, 4)})
    assert usd(table, "a") == 1
    assert usd(table, "b", "c") == 3
    assert usd(table, "b") == 4


@pytest.mark.parametrize(
    ("asked", "answered", "expected"),
    [
        ("own", "gpt-4o", 1),  # own: the asked name first
        ("own", "other", 1),
        ("other", "own", 2),
        ("own", "renamed", 1),
        ("renamed", "own", 3),
        ("gpt-4o-mini", "gpt-4o", GPT_4O),  # list: the answering name first
        ("gpt-4o", "my-deployment", GPT_4O),
        ("my-deployment", "gpt-4o-2024-08-06", GPT_4O),
    ],
)
def test_names_are_looked_up_in_order(asked: str, answered: str, expected: float) -> None:
    """Who asked for a price of one's own gets it, and else who answered is paid."""
    own = {"own": (1, 1), "renamed": (3, 3), "other": (2, 2)}
    assert usd(chain(own, "genai-prices"), asked, answered) == expected


def test_answers_alone_are_priced_by_their_model() -> None:
    """Without any name there is no price."""
    table = chain({"own": (1, 1)}, "genai-prices")
    assert table.usd(Answer(MILLION, model="own")) == 1
    assert table.usd(Answer(MILLION, model="gpt-4o")) == GPT_4O
    assert table.usd(Answer(MILLION)) is None


@pytest.mark.parametrize("provider", [None, "azure.ai.openai", "azure", "openai", "vllm"])
def test_aliases_have_the_price_of_another_name(provider: str | None) -> None:
    """Whoever answered, and even if the label's seller does not list it."""
    table = chain({"prod-eu-chat": "gpt-4o"}, "genai-prices")
    assert usd(table, "prod-eu-chat", None, provider) == GPT_4O
    assert usd(table, "prod-eu-chat", "prod-eu-chat", provider) == GPT_4O
    assert usd(table, "x", "prod-eu-chat", provider) == GPT_4O
    assert usd(table, "anyone/prod-eu-chat", None, provider) == GPT_4O


def test_aliases_may_name_a_seller() -> None:
    """It wins over the label."""
    aliases = {"a": "groq/openai/gpt-oss-120b", "b": "bedrock/us.anthropic.claude-sonnet-4-6"}
    table = chain(aliases, "genai-prices")
    assert usd(table, "a", None, "cerebras") == pytest.approx(0.15)
    assert usd(table, "b") == pytest.approx(3.3)


def test_aliases_lead_through_the_whole_chain() -> None:
    """To a later table, and from one alias to the next."""
    table = chain({"a": "b"}, {"b": "c"}, {"c": (3, 3)})
    assert usd(table, "a") == 3
    assert usd(table, "b") == 3


def test_aliases_of_their_own_name_with_a_prefix_lead_to_the_list() -> None:
    """The part after the slash must not lead back."""
    table = chain({"claude-sonnet-4-6": "bedrock/us.anthropic.claude-sonnet-4-6"}, "genai-prices")
    assert usd(table, "claude-sonnet-4-6") == pytest.approx(3.3)
    assert usd(PriceTable({"a": "x/a"}), "a") is None
    assert usd(PriceTable({"a": "x/b", "b": "y/a"}), "a") is None


def test_aliases_without_a_price_do_not_hide_the_answering_model() -> None:
    """The order goes on."""
    table = chain({"deployment": "gtp-4o"}, "genai-prices")
    assert usd(table, "deployment") is None
    assert usd(table, "deployment", "gpt-4o") == GPT_4O
    assert "deployment" not in table


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([{"a": "a"}], r"model 'a': the aliases 'a' -> 'a' form a cycle; let one of them"),
        ([{"a": "b", "b": "a"}], "the aliases 'a' -> 'b' -> 'a' form a cycle"),
        ([{"a": "b"}, {"b": "c", "c": "a"}], "form a cycle"),
    ],
)
def test_cycles_of_aliases_are_rejected(tables: list[Any], message: str) -> None:
    """Also those through several tables."""
    with pytest.raises(ConfigError, match=message):
        PriceTable.coerce(tables)


def test_chains_are_equal_and_survive_pickling() -> None:
    """By their tables, in order, and the list."""
    table = chain({"a": (1, 1), "b": "a"}, "genai-prices")
    same = chain(PriceTable({"a": (1, 1), "b": "a"}), PriceTable.from_genai_prices())
    assert table == same
    assert hash(table) == hash(same)
    assert pickle.loads(pickle.dumps(table)) == table  # noqa: S301 - our own bytes
    assert table != chain({"a": (1, 1), "b": "a"})
    assert chain({"a": (1, 1)}, {"b": (1, 1)}) != chain({"b": (1, 1)}, {"a": (1, 1)})
    assert chain({"a": (1, 1)}) == PriceTable({"a": (1, 1)})
    assert repr(table) == (
        "PriceTable.coerce([PriceTable({'a': Price(input=1.0, output=1.0), 'b': 'a'}), "
        "PriceTable.from_genai_prices()])"
    )


def test_chains_are_flat() -> None:
    """A chain in a chain, and a file."""
    inner = chain({"a": (1, 1)}, {"b": (2, 2)})
    table = chain({"c": (3, 3)}, inner, ({"d": (4, 4)},))
    assert [usd(table, name) for name in "abcd"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "prices must be a list of one or more, got an empty one; use None"),
        ([{"a": (1, 1)}, None], r"prices\[1\] must be prices, got None; remove it"),
        ([{"a": (1, 1)}, 7], r"prices\[1\]: prices must be a PriceTable.*got 7"),
        ([{"a": (1, 1)}, {"b": (1,)}], r"prices\[1\]: prices: model 'b': a price.*got \(1,\)"),
        (["absent.json"], r"prices\[0\]: prices file 'absent.json' cannot be read.*correct"),
    ],
)
def test_invalid_elements_are_named(values: list[Any], message: str) -> None:
    """By their index, their value and what to do."""
    with pytest.raises(ConfigError, match=message):
        PriceTable.coerce(values)


def test_the_variable_has_several_prices_after_commas(tmp_path: Path) -> None:
    """The first with a price wins, as in a list."""
    (tmp_path / "own.json").write_text('{"own": [1, 1], "gpt-4o": [7, 7]}')
    (tmp_path / "a,b.json").write_text('{"comma": [5, 5]}')
    config = MonitorConfig.from_env({"GENMETER_PRICES": f"{tmp_path}/own.json, genai-prices"})
    assert config.prices is not None
    assert [usd(config.prices, name) for name in ("own", "gpt-4o")] == [1, 7]
    assert "gpt-4o-mini" in config.prices
    config = MonitorConfig.from_env({"GENMETER_PRICES": f"{tmp_path}/a,b.json"})
    assert config.prices is not None
    assert usd(config.prices, "comma") == 5
    with pytest.raises(ConfigError, match=r"GENMETER_PRICES: prices\[1\]: .*none.json"):
        MonitorConfig.from_env({"GENMETER_PRICES": f"{tmp_path}/own.json,none.json"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.json", "a.json"), ("a.json, b.toml,", ("a.json", "b.toml")), ("," * 5_000, ())],
)
def test_commas_separate_prices(text: str, expected: Any) -> None:
    """Spaces and empty parts are dropped."""
    assert split_prices(text) == expected
