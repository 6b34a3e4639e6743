"""Prices: creating a table, and the cost of tokens."""

from __future__ import annotations

import decimal
import pickle
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import genai_prices
import pytest

from genmeter.config import prices as price_list
from genmeter.config.prices import Price, PriceTable
from genmeter.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path

TABLE = PriceTable({"small": Price(1, 4, 0.5), "org/big": (10.0, 20.0)})


@pytest.fixture(scope="module")
def listed() -> PriceTable:
    """Return the table of the bundled price list, which is slow to load."""
    return PriceTable.from_genai_prices()


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
        ({"m": "1"}, "prices: model 'm': a price must be .*got '1'"),
        ({"m": {"input": 1}}, "prices: model 'm': a price must be input, output"),
        ({"m": {"input": 1, "output": 1, "in": 1}}, "prices: model 'm': a price must be input"),
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


@pytest.mark.parametrize("model", ["gpt-4o", "claude-sonnet-4-5", "gemini-2.5-pro"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "cached"),
    [
        (0, 0, 0),
        (0, 50, 0),
        (1_000, 200, 300),
        (200_000, 7, 0),
        (200_001, 7, 9),
        (900_000, 1, 900_000),
    ],
)
def test_list_prices_equal_those_of_the_package(
    listed: PriceTable, model: str, inputs: int, outputs: int, cached: int
) -> None:
    """This holds on both sides of a threshold."""
    usage = genai_prices.Usage(input_tokens=inputs, output_tokens=outputs, cache_read_tokens=cached)
    expected = float(genai_prices.calc_price(usage, model).total_price)
    assert listed.cost(model, inputs, outputs, cached) == pytest.approx(expected, rel=1e-12)


def test_list_prices_sums_by_their_mean_call(listed: PriceTable) -> None:
    """Ten calls below a threshold are not charged as one call above it."""
    one = listed.cost("gemini-2.5-pro", 100_000, 10)
    assert one is not None
    assert listed.cost("gemini-2.5-pro", 1_000_000, 100, calls=10) == pytest.approx(10 * one)
    assert listed.cost("gemini-2.5-pro", 1_000_000, 100, calls=0) == pytest.approx(10 * one)
    above = listed.cost("gemini-2.5-pro", 1_000_000, 100, calls=1)
    assert above is not None
    assert above > 11 * one


def test_list_finds_models_by_provider_id(listed: PriceTable) -> None:
    """``provider/model`` is the model at that provider; ``models/...`` is Google's spelling."""
    assert listed.cost("openai/gpt-4o", 1_000, 1) == listed.cost("gpt-4o", 1_000, 1)
    assert listed.cost("OpenAI/gpt-4o", 1_000, 1) == listed.cost("gpt-4o", 1_000, 1)
    gemini = listed.cost("gemini-2.5-pro", 1_000, 1)
    assert gemini is not None
    assert listed.cost("models/gemini-2.5-pro", 1_000, 1) == gemini


@pytest.mark.parametrize(
    "model", ["", "unknown", "other", "nobody/gpt-4o", "mistralai/mistral-large-latest", "g" * 300]
)
def test_list_has_no_price_for_unknown_models(listed: PriceTable, model: str) -> None:
    """A guessed provider of a self-hosted model would be a wrong price."""
    assert listed.cost(model, 1, 1) is None
    assert model not in listed


@pytest.mark.parametrize("hostile", [None, 7, [], object()])
def test_list_never_raises(listed: PriceTable, hostile: Any) -> None:
    """Invalid values have no cost, as in other tables."""
    assert listed.cost(hostile, 1, 1) is None
    assert listed.cost("gpt-4o", "many", 1) is None  # type: ignore[arg-type]
    assert listed.cost("gpt-4o", 10**400, 1) is None


def test_list_has_models_and_can_be_pickled(listed: PriceTable) -> None:
    """Tables of the list are equal, also in other processes."""
    assert "gpt-4o" in listed.models()
    assert "gpt-4o" in listed
    assert pickle.loads(pickle.dumps(listed)) == listed  # noqa: S301 - our own bytes
    assert listed != PriceTable({})
    assert repr(listed) == "PriceTable.from_genai_prices()"


def test_list_ignores_the_callers_decimal_context() -> None:
    """The drain may run on a thread with another precision."""
    with decimal.localcontext(prec=1):
        cost = PriceTable.from_genai_prices().cost("gpt-4o-mini", 1_234_567, 0)
    assert cost == pytest.approx(0.15 * 1.234567)


class FakeList:
    """A fake of the package: one model at one provider, with a price set by the test."""

    Usage = SimpleNamespace

    def __init__(self, per_input: str = "0.5", **prices: Any) -> None:
        self.asked: list[str] = []
        self.per_input = Decimal(per_input)
        self.prices = SimpleNamespace(**{"input_mtok": 1, "output_mtok": 1, **prices})

    def calc_price(self, usage: Any, name: str, **_: Any) -> Any:
        """Return a price for the input of ``m`` only."""
        self.asked.append(name)
        if name != "m":
            raise LookupError(name)
        return SimpleNamespace(
            total_price=self.per_input * usage.input_tokens,
            provider=SimpleNamespace(id="p"),
            model_price=self.prices,
        )


def table_of(library: FakeList) -> Any:
    """Return a table that uses the fake."""
    table: Any = PriceTable.from_genai_prices()
    table._library = library
    return table


def test_list_prices_are_refreshed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices by time of day are updated with few lookups."""
    library = FakeList()
    table = table_of(library)
    now = [time.monotonic()]
    monkeypatch.setattr(price_list.time, "monotonic", lambda: now[0])
    assert table.cost("m", 2, 0) == pytest.approx(1.0)
    questions = len(library.asked)
    library.per_input = Decimal(3)
    assert table.cost("m", 2, 0) == pytest.approx(1.0)
    assert len(library.asked) == questions
    now[0] += 61
    assert table.cost("m", 2, 0) == pytest.approx(6.0)


def test_number_of_looked_up_names_is_bounded() -> None:
    """Further names are not looked up; known ones keep their price."""
    library = FakeList()
    table = table_of(library)
    assert table.cost("m", 2, 0) == pytest.approx(1.0)
    for number in range(2_000):
        assert table.cost(f"new-{number}", 1, 1) is None
    assert len(table._looked_up) == 1_024
    assert len(set(library.asked)) == 1_024
    assert table.cost("m", 2, 0) == pytest.approx(1.0)


def test_models_without_token_prices_are_unpriced() -> None:
    """A price per image or second must not make tokens free."""
    table = table_of(FakeList(input_mtok=None, output_mtok=None))
    assert table.cost("m", 2, 2) is None


def test_overflowing_list_price_is_none() -> None:
    """The result is not infinite."""
    assert table_of(FakeList("1e308")).cost("m", 1000, 0) is None


def test_list_uses_current_prices() -> None:
    """Prices with a start date are used from that date, in UTC."""
    when: list[datetime] = []
    library = FakeList()
    ask = library.calc_price

    def calc_price(usage: Any, name: str, *, genai_request_timestamp: datetime, **kw: Any) -> Any:
        when.append(genai_request_timestamp)
        return ask(usage, name, **kw)

    library.calc_price = calc_price  # type: ignore[method-assign]
    table_of(library).cost("m", 1, 1)
    assert len(set(when)) == 1
    assert timedelta(0) <= datetime.now(UTC) - when[0] < timedelta(minutes=2)
