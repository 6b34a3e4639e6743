"""Prices: creating a table, and the cost of tokens."""

from __future__ import annotations

import pickle
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from genmeter.config.prices import Price, PriceTable
from genmeter.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path

TABLE = PriceTable({"small": Price(1, 4, 0.5), "org/big": (10.0, 20.0)})


@pytest.mark.parametrize(
    "value",
    [-1, float("nan"), float("inf"), True, "1", None, 10**400, Decimal("sNaN"), 1j, [1]],
)
@pytest.mark.parametrize("field", ["input", "output"])
def test_invalid_prices_are_rejected(field: str, value: Any) -> None:
    """The error has the field, the requirement and the value."""
    with pytest.raises(ConfigError, match=rf"^{field} must be a finite number of 0 or more"):
        Price(**{"input": 1, "output": 1, field: value})


def test_cached_prices_are_checked() -> None:
    """A cached price may be None."""
    assert Price(1, 2).cached_input is None
    with pytest.raises(ConfigError, match=r"cached_input must be .*got -1"):
        Price(1, 2, -1)


def test_prices_become_floats() -> None:
    """All kinds of numbers are converted, so that the drain computes with floats."""
    price = Price(1, Decimal("2.5"), 0)  # type: ignore[arg-type]
    assert price == Price(1.0, 2.5, 0.0)
    assert isinstance(price.input, float)
    assert isinstance(price.output, float)


@pytest.mark.parametrize(
    "value",
    [
        Price(2, 8, 1),
        {"input": 2, "output": 8, "cached_input": 1},
        (2, 8, 1),
        [2, 8, 1],
    ],
)
def test_all_forms_of_a_price_are_equal(value: Any) -> None:
    """A Price, a mapping of its fields and a sequence result in equal tables."""
    table = PriceTable({"m": value})
    assert table == PriceTable({"m": Price(2, 8, 1)})
    assert table.cost("m", 1_000_000, 500_000, 250_000) == pytest.approx(1.5 + 4 + 0.25)


@pytest.mark.parametrize(
    "value", [{"input": 2, "output": 8}, {"input": 2, "output": 8, "cached_input": None}, (2, 8)]
)
def test_cached_tokens_have_the_input_price_by_default(value: Any) -> None:
    """Without a cached price there is no discount."""
    table = PriceTable({"m": value})
    assert table.cost("m", 1_000_000, 0, 1_000_000) == pytest.approx(2)


@pytest.mark.parametrize(
    ("cached", "usd"), [(0, 1.0), (400_000, 0.8), (1_000_000, 0.5), (5_000_000, 0.5), (-7, 1.0)]
)
def test_cached_tokens_are_limited_to_the_input(cached: int, usd: float) -> None:
    """Negative numbers count as 0."""
    assert TABLE.cost("small", 1_000_000, 0, cached) == pytest.approx(usd)


def test_model_without_a_price_has_no_cost() -> None:
    """The cost is None, not 0."""
    assert TABLE.cost("unheard-of", 1, 1) is None
    assert PriceTable({}).cost("small", 1, 1) is None


def test_price_of_zero_is_a_price() -> None:
    """A free model costs 0 and counts as priced."""
    assert PriceTable({"free": (0, 0)}).cost("free", 10, 10) == 0.0


def test_names_match_without_their_provider_prefix() -> None:
    """The exact name wins, then the longest part after a slash with a price."""
    table = PriceTable({"m": (1, 0), "azure/m": (2, 0), "a/b": (3, 0), "b": (4, 0)})
    million = 1_000_000
    assert table.cost("openai/m", million, 0) == 1
    assert table.cost("azure/m", million, 0) == 2
    assert table.cost("router/azure/m", million, 0) == 2
    assert table.cost("x/a/b", million, 0) == 3
    assert table.cost("openai/none", million, 0) is None
    assert table.cost("m/", million, 0) is None


def test_plain_names_do_not_match_prefixed_prices() -> None:
    """A price of ``org/big`` is not used for ``big``."""
    assert TABLE.cost("big", 1, 1) is None
    assert "big" not in TABLE
    assert "org/big" in TABLE


def test_models_are_sorted_and_members() -> None:
    """Only strings can be members."""
    assert TABLE.models() == ("org/big", "small")
    assert "small" in TABLE
    assert 7 not in TABLE


@pytest.mark.parametrize("hostile", [None, 7, [], {}, object()])
def test_cost_never_raises(hostile: Any) -> None:
    """Invalid values have no cost."""
    assert TABLE.cost(hostile, 1, 1) is None
    assert TABLE.cost("small", hostile if hostile != 7 else "7", 1) is None  # type: ignore[arg-type]


def test_overflowing_cost_is_none() -> None:
    """The result is neither an error nor infinite."""
    assert TABLE.cost("small", 10**400, 1) is None
    assert PriceTable({"m": (1e308, 0)}).cost("m", 10**9, 0) is None


def test_tables_copy_their_prices() -> None:
    """Later changes of the mapping have no effect."""
    mapping = {"m": (1.0, 1.0)}
    table = PriceTable(mapping)
    mapping["m"] = (9.0, 9.0)
    mapping["n"] = (1.0, 1.0)
    assert table == PriceTable({"m": (1.0, 1.0)})


def test_tables_of_equal_prices_are_equal() -> None:
    """They have equal hashes, and survive pickling."""
    same = PriceTable({"org/big": Price(10, 20), "small": (1, 4, 0.5)})
    assert same == TABLE
    assert hash(same) == hash(TABLE)
    assert PriceTable({}) != TABLE
    assert TABLE != "prices"
    assert pickle.loads(pickle.dumps(TABLE)) == TABLE  # noqa: S301 - our own bytes
    assert "Price(input=1.0, output=4.0, cached_input=0.5)" in repr(TABLE)


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ({"m": (1,)}, r"prices: model 'm': a price must be input, output.*got \(1,\)"),
        ({"m": "1"}, "prices: model 'm': a price must be .*got '1'"),  # not an alias
        ({"m": " "}, "prices: model 'm': a price must be .*got ' '"),
        ({"m": {"input": 1}}, "prices: model 'm': a price must be input, output"),
        ({"m": {"input": 1, "output": 1, "imput": 1}}, "model 'm': unknown field 'imput'.*'input'"),
        (
            {"m": {"input": 1, "output": 1, "x": 1}},
            "model 'm': unknown field 'x'; use one of input",
        ),
        ({"m": (1, -2)}, "prices: model 'm': output must be .*got -2"),
        ({"": (1, 2)}, "prices: a model must be a name that is not empty, got ''"),
        ({" ": (1, 2)}, "prices: a model must be a name that is not empty, got ' '"),
        ({3: (1, 2)}, "prices: a model must be a name that is not empty, got 3"),
        ([("m", 1)], "prices must be a mapping from model to price"),
    ],
)
def test_invalid_entries_are_named(prices: Any, message: str) -> None:
    """The error has the model and the value."""
    with pytest.raises(ConfigError, match=message):
        PriceTable(prices)


def test_errors_say_what_is_accepted(tmp_path: Path) -> None:
    """Whole messages: each can be followed without the documentation."""
    dots = "(in TOML, put a name with dots in quotes)"
    fields = (
        "input, output, cached_input, cache_write, cache_write_1h, reasoning, input_audio, "
        "cached_audio, output_audio, input_image, cached_image, output_image, input_video, "
        "cached_video, output_video, search, request, tiers, service_tiers, batch"
    )
    wrong: list[tuple[Any, str]] = [
        (
            {"m": 3},
            (
                "prices: model 'm': a price must be input, output and optionally other fields of "
                "genmeter.Price, or (input, output[, cached_input]), in USD per million tokens, or the "
                f"name of the model whose price holds, got 3 {dots}"
            ),
        ),
        (
            {"m": {"input": 1, "output": 1, "x": 1}},
            f"prices: model 'm': unknown field 'x'; use one of {fields} {dots}",
        ),
        (
            {"m": {"input": 1, "outptu": 1}},
            f"prices: model 'm': unknown field 'outptu'; did you mean 'output'? {dots}",
        ),
        (
            {"m": {"input": 1, "output": 1, "tiers": [{"above": 5, "input": 1}]}},
            (
                "prices: model 'm': tiers[0] must be above, input, output and optionally other prices, "
                "got {'above': 5, 'input': 1}"
            ),
        ),
        (
            {"m": "n", "n": "m"},
            (
                "prices: model 'm': the aliases 'm' -> 'n' -> 'm' form a cycle; let one of them name a "
                "model with a price"
            ),
        ),
        (
            42,
            (
                "prices must be a PriceTable, a mapping from model to price, the path of a .json or "
                '.toml file, "genai-prices", or a list of these, got 42'
            ),
        ),
        (
            str(tmp_path / "p.yaml"),
            f"prices file {str(tmp_path / 'p.yaml')!r} must end in .json or .toml, got '.yaml'",
        ),
    ]
    for prices, message in wrong:
        with pytest.raises(ConfigError) as caught:
            PriceTable.coerce(prices)
        assert str(caught.value) == message


JSON = '{"small": {"input": 1, "output": 4, "cached_input": 0.5}, "org/big": [10, 20]}'
TOML = '"org/big" = [10.0, 20.0]\n[small]\ninput = 1\noutput = 4\ncached_input = 0.5\n'


@pytest.mark.parametrize(("name", "text"), [("p.json", JSON), ("p.toml", TOML), ("P.JSON", JSON)])
def test_files_are_read_as_json_or_toml(tmp_path: Path, name: str, text: str) -> None:
    """The suffix selects the format."""
    path = tmp_path / name
    path.write_text(text)
    assert PriceTable.from_file(path) == TABLE
    assert PriceTable.from_file(str(path)) == TABLE


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.yaml", b"m: 1", "must end in .json or .toml, got '.yaml'"),
        ("p", b"{}", "must end in .json or .toml, got ''"),
        ("p.json", b"{", "cannot be read: .*; correct the file"),
        ("p.toml", b"= 1", "cannot be read: .*; correct the file"),
        ("p.json", b'{"\xff": 1}', "cannot be read: .*; correct the file"),
        ("p.json", b"[1]", r"must be a mapping from model to price, got \[1\]"),
        ("p.json", b'{"m": [NaN, 1]}', "model 'm': input must be .*got nan"),
        ("p.json", b'{"m": 3}', "model 'm': a price must be .*got 3"),
        ("p.toml", b"[gpt-4.1]\ninput = 1\noutput = 2", "model 'gpt-4': .*in quotes"),
    ],
)
def test_invalid_files_are_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    """The error has the file and the problem."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message) as caught:
        PriceTable.from_file(path)
    assert str(path) in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A missing file is a ConfigError."""
    with pytest.raises(ConfigError, match=r"absent\.json' cannot be read"):
        PriceTable.from_file(tmp_path / "absent.json")


def test_coerce_accepts_all_kinds_of_prices(tmp_path: Path) -> None:
    """None, a table, a mapping, a path and the name of the list."""
    path = tmp_path / "p.json"
    path.write_text(JSON)
    assert PriceTable.coerce(None) is None
    assert PriceTable.coerce(TABLE) is TABLE
    assert PriceTable.coerce({"small": (1, 4, 0.5), "org/big": (10, 20)}) == TABLE
    assert PriceTable.coerce(str(path)) == TABLE
    assert PriceTable.coerce(path) == TABLE
    assert PriceTable.coerce("genai-prices") == PriceTable.from_genai_prices()


def test_coerce_rejects_other_types() -> None:
    """The error has the value and the accepted types."""
    with pytest.raises(ConfigError, match=r"prices must be a PriceTable, a mapping.*got 42"):
        PriceTable.coerce(42)  # type: ignore[arg-type]


def test_missing_package_is_an_error_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error is raised at construction."""
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(MissingExtraError, match=r'pip install "genmeter\[prices\]"'):
        PriceTable.coerce("genai-prices")
