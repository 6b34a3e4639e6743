"""Every model of the price list, by each of its seller's own names, has the seller's own price."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import genai_prices
import pytest
from genai_prices import data_snapshot, types

from genmeter.config.prices import PriceTable
from genmeter.events.answers import Answer, TokenCounts

if TYPE_CHECKING:
    from collections.abc import Iterator

SELLERS = data_snapshot.get_snapshot().providers
LISTED = PriceTable.from_genai_prices()
# The conventions' names and LiteLLM's prefixes, where they differ from the list's ids.
LABELS = {
    "aws": "aws.bedrock",
    "azure": "azure.ai.openai",
    "google": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "x-ai": "x_ai",
}
PREFIXES = {
    "aws": "bedrock",
    "fireworks": "fireworks_ai",
    "google": "gemini",
    "moonshotai": "moonshot",
    "together": "together_ai",
    "voyageai": "voyage",
    "x-ai": "xai",
}
UNPRICED_PREFIXES = {"perplexity"}  # its prices depend on more than the name
COLUMNS = ("label", "prefix", "neither")
_rows: dict[str, Counter[str]] = {}


def names(clause: Any) -> Iterator[str]:
    """Yield names that a clause of the list matches."""
    if isinstance(clause, types.ClauseOr | types.ClauseAnd):
        for each in (*getattr(clause, "or_", ()), *getattr(clause, "and_", ())):
            yield from names(each)
    elif not isinstance(clause, types.ClauseRegex):
        yield next(iter(vars(clause).values()))


def prefixed(seller: str, name: str) -> str:
    """Return a name as LiteLLM spells it."""
    return f"{PREFIXES.get(seller, seller.replace('huggingface_', 'huggingface/'))}/{name}"


def priced_names(seller: types.Provider) -> dict[str, float]:
    """Return the USD of 1,000 + 1,000 tokens by every name that the seller's list prices."""
    usage = genai_prices.Usage(input_tokens=1_000, output_tokens=1_000)
    found = {}
    for model in seller.models:
        for name in (model.id, *names(model.match)):
            try:
                price = genai_prices.calc_price(usage, name, provider_id=seller.id)
            except LookupError:
                continue  # some ids of the list are no names
            if price.model_price.input_mtok is not None:
                found[name] = float(price.total_price)
    return found


@pytest.mark.parametrize("seller", SELLERS, ids=lambda seller: seller.id)
def test_every_name_of_a_seller_has_its_price(seller: types.Provider) -> None:
    """With the seller's label, and with its prefix."""
    row = _rows[seller.id] = Counter()
    wrong = []
    for name, expected in priced_names(seller).items():
        asked: dict[str, dict[str, Any]] = {
            "label": {"model": name, "provider": LABELS.get(seller.id, seller.id)},
            "prefix": {"model": prefixed(seller.id, name)},
            "neither": {"model": name},
        }
        row["names"] += 1
        for way in COLUMNS:
            usd = LISTED.usd(Answer(TokenCounts(1_000, 1_000)), **asked[way])
            is_same = usd == pytest.approx(expected, rel=1e-9)
            row[f"{way} {'priced' if is_same else 'unpriced' if usd is None else 'differs'}"] += 1
            is_open = way == "neither" or (way == "prefix" and seller.id in UNPRICED_PREFIXES)
            if not (is_same or is_open):
                wrong.append((way, name, usd, expected))
    assert wrong == []
    assert row["names"] > 0


def test_sweep_has_a_table() -> None:
    """The counts of the tests before, by ``pytest -rP``: a bare name alone says no seller."""
    head = [f"{way} {result}" for way in COLUMNS for result in ("priced", "unpriced", "differs")]
    lines = [f"{'seller':<26}{'names':>7}" + "".join(f"{each:>18}" for each in head)]
    total: Counter[str] = Counter()
    for seller, row in _rows.items():
        total += row
        lines.append(
            f"{seller:<26}{row['names']:>7}" + "".join(f"{row[each]:>18}" for each in head)
        )
    lines.append(f"{'sum':<26}{total['names']:>7}" + "".join(f"{total[each]:>18}" for each in head))
    print("\n".join(lines))  # noqa: T201 - for the report of the run
    assert total["label priced"] == total["names"]


RICH = {
    "input_tokens": 300_000,
    "output_tokens": 9_000,
    "cache_read_tokens": 40_000,
    "cache_write_tokens": 20_000,
    "cache_write_1h_tokens": 5_000,
    "input_audio_tokens": 10_000,
    "cache_audio_read_tokens": 4_000,
    "input_image_tokens": 3_000,
    "cache_image_read_tokens": 1_000,
    "input_video_tokens": 700,
    "cache_video_read_tokens": 100,
    "output_audio_tokens": 2_000,
    "output_image_tokens": 1_000,
    "output_video_tokens": 30,
    "output_reasoning_tokens": 500,
    "web_searches": 3,
}
SAME = TokenCounts(
    *(300_000, 9_000, None, 40_000, 20_000, 500, 5_000),
    input_by=(("audio", 10_000), ("image", 3_000), ("video", 700)),
    output_by=(("audio", 2_000), ("image", 1_000), ("video", 30)),
    cache_read_by=(("audio", 4_000), ("image", 1_000), ("video", 100)),
    searches=3,
)
CONTEXTS: list[dict[str, str]] = [
    {},
    {"service_tier": "default"},
    {"service_tier": "flex"},
    {"service_tier": "priority"},
    {"processing": "batch"},
]
TIMES = (datetime(2026, 1, 5, 3, tzinfo=UTC), datetime(2026, 11, 26, 17, 30, tzinfo=UTC))


@pytest.mark.parametrize("seller", SELLERS, ids=lambda seller: seller.id)
def test_all_quantities_cost_what_the_package_computes(seller: types.Provider) -> None:
    """In every tier, on both sides of a date and, with fewer tokens, of a threshold."""
    usages = [
        (genai_prices.Usage(**(RICH | {"input_tokens": size})), SAME._replace(input=size))
        for size in (100_000, 300_000)
    ]
    wrong = []
    for name in priced_names(seller):
        for (usage, tokens), context, when in itertools.product(usages, CONTEXTS, TIMES):
            expected = genai_prices.calc_price(
                usage,
                name,
                provider_id=seller.id,
                price_context=context,
                genai_request_timestamp=when,
            )
            if expected.model_price.input_mtok is None:
                continue
            answer = Answer(
                tokens,
                service_tier=context.get("service_tier"),
                is_batch="processing" in context,
            )
            usd = LISTED.usd(
                answer,
                model=name,
                provider=LABELS.get(seller.id, seller.id),
                time=when.timestamp(),
            )
            if usd != pytest.approx(float(expected.total_price), rel=1e-9):
                wrong.append((name, context, when, usd, float(expected.total_price)))
    assert wrong == []
