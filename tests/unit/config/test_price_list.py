"""The list of ``genai-prices``: sellers, names, tiers, dates, and its limits."""

from __future__ import annotations

import decimal
import pickle
from datetime import UTC, datetime
from typing import Any

import genai_prices
import pytest
from genai_prices import data_snapshot

from genmeter import clock
from genmeter.config.prices import PriceTable
from genmeter.events.answers import Answer, TokenCounts

LISTED = PriceTable.from_genai_prices()
K = TokenCounts(1_000, 1_000)
HAIKU_3 = "anthropic.claude-3-haiku-20240307-v1:0"
SONNET = "anthropic.claude-sonnet-4-5-20250929-v1:0"
ARN = "arn:aws:bedrock:eu-west-1:123456789012"
LLAMA = "meta-llama/Llama-3.3-70B-Instruct"


def usd(
    asked: str | None,
    provider: str | None = None,
    answered: str | None = None,
    tokens: TokenCounts = K,
    **answer: Any,
) -> float | None:
    """Return the USD of an answer by the list."""
    return LISTED.usd(Answer(tokens, answered, **answer), model=asked, provider=provider)


def at(seller: str, name: str) -> Any:
    """Return the USD of the same by the package, at a seller of its list."""
    usage = genai_prices.Usage(input_tokens=1_000, output_tokens=1_000)
    price = genai_prices.calc_price(usage, name, provider_id=seller)
    return pytest.approx(float(price.total_price), rel=1e-12)


@pytest.mark.parametrize(
    ("provider", "model", "seller"),
    [
        ("openai", "gpt-4o", "openai"),
        ("OpenAI", "gpt-4o", "openai"),
        ("openai", "text-embedding-3-large", "openai"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::abc", "openai"),
        ("azure.ai.openai", "gpt-4o", "azure"),  # which falls back to OpenAI's list
        ("azure", "phi-4", "azure"),
        ("azure.ai.inference", "phi-4", "azure"),
        ("aws.bedrock", HAIKU_3, "aws"),
        ("bedrock_converse", f"us.{SONNET}", "aws"),
        ("AWS", f"global.{SONNET}", "aws"),
        ("gcp.gemini", "gemini-2.5-flash", "google"),
        ("gcp.gen_ai", "gemini-2.5-flash", "google"),
        ("gcp.vertex_ai", "gemini-2.5-flash", "google"),
        ("vertexai", "claude-sonnet-4-5@20250929", "google"),
        ("mistral_ai", "mistral-large-latest", "mistral"),
        ("mistralai", "mistral-large-latest", "mistral"),
        ("x_ai", "grok-3", "x-ai"),
        ("xai", "grok-3", "x-ai"),
        ("groq", "openai/gpt-oss-120b", "groq"),
        ("groq", "deepseek-r1-distill-llama-70b", "groq"),
        ("cerebras", "gpt-oss-120b", "cerebras"),
        ("together_ai", "openai/gpt-oss-120b", "together"),
        ("together", "openai/gpt-oss-120b", "together"),
        ("fireworks-ai", "accounts/fireworks/models/deepseek-r1-0528", "fireworks"),
        ("moonshot", "kimi-k2", "moonshotai"),
        ("openrouter", "openai/gpt-4o", "openrouter"),
        ("perplexity", "sonar", "perplexity"),
        ("deepseek", "deepseek-chat", "deepseek"),
        ("cohere", "command-a-03-2025", "cohere"),
    ],
)
def test_models_are_looked_up_at_the_labels_seller(provider: str, model: str, seller: str) -> None:
    """By the conventions' and by other usual labels."""
    assert usd(model, provider) == at(seller, model)


@pytest.mark.parametrize(
    ("model", "seller", "name"),
    [
        ("gemini/gemini-2.5-flash", "google", "gemini-2.5-flash"),
        ("vertex_ai/gemini-2.5-flash", "google", "gemini-2.5-flash"),
        ("vertex_ai/claude-sonnet-4-5@20250929", "google", "claude-sonnet-4-5-20250929"),
        ("models/gemini-2.5-flash", "google", "gemini-2.5-flash"),
        ("publishers/google/models/gemini-2.5-flash", "google", "gemini-2.5-flash"),
        (
            "projects/p/locations/europe-west4/publishers/google/models/gemini-2.5-flash",
            "google",
            "gemini-2.5-flash",
        ),
        ("xai/grok-3", "x-ai", "grok-3"),
        ("XAI/grok-3", "x-ai", "grok-3"),
        ("mistral/mistral-large-latest", "mistral", "mistral-large-latest"),
        ("together_ai/openai/gpt-oss-120b", "together", "openai/gpt-oss-120b"),
        ("groq/openai/gpt-oss-120b", "groq", "openai/gpt-oss-120b"),
        ("cerebras/gpt-oss-120b", "cerebras", "gpt-oss-120b"),
        *(
            (f"{start}deepseek-r1-0528", "fireworks", "accounts/fireworks/models/deepseek-r1-0528")
            for start in [
                "accounts/fireworks/models/",
                "fireworks_ai/accounts/fireworks/models/",
                "fireworks_ai/",
            ]
        ),
        ("openrouter/openai/gpt-4o", "openrouter", "openai/gpt-4o"),
        ("openrouter/google/gemini-2.5-pro", "openrouter", "google/gemini-2.5-pro"),
        ("azure/gpt-4o", "azure", "gpt-4o"),
        ("openai/gpt-4o", "openai", "gpt-4o"),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc", "openai", "ft:gpt-4o-mini-2024-07-18:acme::abc"),
        ("text-embedding-3-small", "openai", "text-embedding-3-small"),
        (f"bedrock/{HAIKU_3}", "aws", HAIKU_3),
        (f"bedrock/converse/us.{SONNET}", "aws", f"us.{SONNET}"),
        (f"bedrock/eu-central-1/{HAIKU_3}", "aws", HAIKU_3),
        (f"us.{SONNET}", "aws", f"us.{SONNET}"),
        (f"apac.{SONNET}", "aws", f"apac.{SONNET}"),
        (HAIKU_3, "aws", HAIKU_3),
        (f"arn:aws:bedrock:us-east-1::foundation-model/{HAIKU_3}", "aws", HAIKU_3),
        (f"{ARN}:inference-profile/eu.{SONNET}", "aws", f"eu.{SONNET}"),
        (f"bedrock/converse/{ARN}:inference-profile/global.{SONNET}", "aws", f"global.{SONNET}"),
        (f"huggingface/together/{LLAMA}", "huggingface_together", LLAMA),
        ("gpt-5.2-20251211", "openai", "gpt-5.2-2025-12-11"),
    ],
)
def test_names_may_say_their_seller(model: str, seller: str, name: str) -> None:
    """By LiteLLM's prefix or their own form, without a label and with the seller's."""
    assert usd(model) == at(seller, name)
    assert usd(model, {"google": "gcp.vertex_ai", "aws": "aws.bedrock"}.get(seller, seller)) == at(
        seller, name
    )


@pytest.mark.parametrize(
    ("model", "seller", "name"),
    [
        ("openai:gpt-4o", "openai", "gpt-4o"),
        ("openai-responses:gpt-5", "openai", "gpt-5"),
        ("google-gla:gemini-2.5-flash", "google", "gemini-2.5-flash"),
        ("google_vertexai:gemini-2.5-flash", "google", "gemini-2.5-flash"),
        (f"bedrock:us.{SONNET}", "aws", f"us.{SONNET}"),
        ("openrouter:openai/gpt-4o", "openrouter", "openai/gpt-4o"),
        ("together:openai/gpt-oss-120b", "together", "openai/gpt-oss-120b"),
        ("mistralai:mistral-large-latest", "mistral", "mistral-large-latest"),
    ],
)
def test_a_seller_may_stand_before_a_colon(model: str, seller: str, name: str) -> None:
    """As pydantic-ai and LangChain write it; with the label as well it is the same."""
    assert usd(model) == at(seller, name)
    assert usd(model, model.partition(":")[0]) == at(seller, name)


def test_an_answering_model_may_say_its_seller() -> None:
    """The name that was asked is that of a deployment, which no list has."""
    assert usd("deployment", answered="openai:gpt-4o") == at("openai", "gpt-4o")
    assert usd("deployment", answered="openai/gpt-4o") == at("openai", "gpt-4o")
    assert usd("deployment", answered="perplexity/sonar") is None


def test_profiles_of_a_region_are_dearer_at_bedrock() -> None:
    """By 10 % for newer models of Claude (aws.amazon.com/bedrock/pricing)."""
    world, region = usd(f"global.{SONNET}", "aws.bedrock"), usd(f"eu.{SONNET}", "aws.bedrock")
    assert world == pytest.approx(0.018)
    assert region == pytest.approx(0.0198)


def test_partners_of_hugging_face_are_named_at_the_end() -> None:
    """As its router has them."""
    assert usd(f"{LLAMA}:together", "huggingface") == at("huggingface_together", LLAMA)
    assert usd(LLAMA, "huggingface") is None


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("", None),
        ("unknown", None),
        ("other", None),
        ("g" * 300, None),
        ("nobody/gpt-4o", None),
        ("acme/house-model-7b", None),
        ("someone/gemini-2.5-flash", None),
        ("someone/claude-sonnet-4-5", None),
        (LLAMA, None),
        ("mistralai/mistral-large-latest", None),  # an organisation at Hugging Face
        ("perplexity/sonar", None),
        ("azure_ai/gpt-4o", None),
        ("litellm_proxy/gpt-4o", None),
        ("azure/my-deployment", None),
        ("my-deployment", "azure.ai.openai"),
        ("perplexity:sonar", None),
        (f"bedrock:{ARN}:application-inference-profile/a1b2c3", None),
        ("deepseek-r1:8b", None),  # Ollama's
        ("deepseek-v3:671b-q4_K_M", None),
        ("mistral:latest", None),
        ("gpt-4o", "vllm"),
        ("gpt-4o", "anthropic"),
        ("llama-3.3-70b-versatile", "cerebras"),
        ("gemini/gemini-2.5-flash", "openai"),
        ("groq/openai/gpt-oss-120b", "together"),
        ("projects/p/locations/us-central1/endpoints/123", None),
        (f"{ARN}:application-inference-profile/a1b2c3", None),
        (f"{ARN}:application-inference-profile/a1b2c3", "aws.bedrock"),
        (f"{ARN}:custom-model/{HAIKU_3}/a1b2c3", "aws.bedrock"),
        (f"bedrock/us-west-2/1-month-commitment/{HAIKU_3}", None),
    ],
)
def test_unknown_sellers_and_models_are_unpriced(model: str, provider: str | None) -> None:
    """What a seller does not list is not priced at another seller's price."""
    assert usd(model, provider) is None
    if provider is None:
        assert model not in LISTED


@pytest.mark.parametrize("provider", [None, "", "unknown", "_OTHER", "litellm", "LiteLLM"])
def test_labels_that_name_no_seller_leave_it_to_the_name(provider: str | None) -> None:
    """A client of many providers is none."""
    assert usd("gpt-4o", provider) == at("openai", "gpt-4o")
    assert usd("groq/openai/gpt-oss-120b", provider) == at("groq", "openai/gpt-oss-120b")


@pytest.mark.parametrize(
    ("asked", "provider", "answered", "seller", "name"),
    [
        ("claude-fable-5", "anthropic", "claude-opus-4-8", "anthropic", "claude-opus-4-8"),
        ("gpt-4o-mini", "openai", "gpt-4o-2024-08-06", "openai", "gpt-4o-2024-08-06"),
        ("prod-eu", "azure.ai.openai", "gpt-4o-2024-08-06", "azure", "gpt-4o-2024-08-06"),
        ("azure/prod-eu", None, "gpt-4o-2024-08-06", "azure", "gpt-4o-2024-08-06"),
        ("gpt-4o", "openai", "my-name-for-it", "openai", "gpt-4o"),
        # The asked name's prefix says who answered.
        ("groq/openai/gpt-oss-120b", None, "openai/gpt-oss-120b", "groq", "openai/gpt-oss-120b"),
        ("openrouter/auto", None, "openai/gpt-4o", "openrouter", "openai/gpt-4o"),
        # The answering name leaves out what the price depends on.
        (f"global.{SONNET}", "aws.bedrock", SONNET, "aws", f"global.{SONNET}"),
        (f"bedrock/global.{SONNET}", None, "claude-sonnet-4-5-20250929", "aws", f"global.{SONNET}"),
        (
            "ft:gpt-4o-mini-2024-07-18:a::b",
            None,
            "gpt-4o-mini-2024-07-18",
            "openai",
            "ft:gpt-4o-mini-2024-07-18:a::b",
        ),
    ],
)
def test_the_model_that_answered_is_paid(
    asked: str, provider: str | None, answered: str, seller: str, name: str
) -> None:
    """Unless the asked name is the same model in more detail."""
    assert usd(asked, provider, answered) == at(seller, name)


@pytest.mark.parametrize(
    ("asked", "provider"),
    [
        ("litellm_proxy/gpt-4o", None),
        ("azure_ai/gpt-4o", None),
        (f"{ARN}:application-inference-profile/a1b2c3", "aws.bedrock"),
        (f"bedrock/{ARN}:application-inference-profile/a1b2c3", None),
    ],
)
def test_an_answer_does_not_reveal_an_unknowable_price(asked: str, provider: str | None) -> None:
    """A proxy's seller, and a profile's region, stay unknown."""
    assert usd(asked, provider, "claude-sonnet-4-5-20250929") is None


def test_free_models_are_free() -> None:
    """By their name; a list without a price for tokens is no price."""
    free = [name for name in LISTED.models() if name.endswith(":free") and "/" in name]
    assert usd(free[0], "openrouter") == 0.0
    assert usd("whisper-large-v3", "groq") is None


@pytest.mark.parametrize(
    ("model", "answer", "tokens", "expected"),
    [
        ("gpt-5", {}, K, 0.01125),
        ("gpt-5", {"service_tier": "default"}, K, 0.01125),
        ("gpt-5", {"service_tier": "no-such-tier"}, K, 0.01125),
        ("gpt-5", {"service_tier": "flex"}, K, 0.005625),
        ("gpt-5", {"service_tier": "priority"}, K, 0.0225),
        ("gpt-5", {"is_batch": True}, K, 0.005625),
        ("gpt-5", {"service_tier": "batch"}, K, 0.005625),
        # platform.claude.com/docs/en/about-claude/pricing: writes 1.25 and 2 times the input.
        (
            "claude-opus-4-5",
            {},
            TokenCounts(1_000, cache_read=100, cache_write=500, cache_write_1h=200),
            (400 * 5 + 100 * 0.5 + 300 * 6.25 + 200 * 10) / 1e6,
        ),
        ("claude-opus-4-5", {}, TokenCounts(0, 0, searches=3), 0.03),
        ("gemini-2.5-pro", {}, TokenCounts(200_000, 1_000), 0.26),
        ("gemini-2.5-pro", {}, TokenCounts(200_001, 1_000), 0.5150025),
        (
            "gpt-realtime-mini",
            {},
            TokenCounts(
                *(1_459, 396, None, 1_408),
                input_by=(("audio", 110), ("text", 1_349)),
                output_by=(("audio", 299), ("text", 97)),
                cache_read_by=(("audio", 64), ("text", 1_344)),
            ),
            (5 * 0.6 + 1_344 * 0.06 + 46 * 10 + 64 * 0.3 + 97 * 2.4 + 299 * 20) / 1e6,
        ),
        # No price of its own: a write costs the input price.
        ("gpt-4o", {}, TokenCounts(1_000, cache_write=500), 0.0025),
    ],
)
def test_every_quantity_is_priced(
    model: str, answer: dict[str, Any], tokens: TokenCounts, expected: float
) -> None:
    """As the sellers publish it."""
    when = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
    found = LISTED.usd(Answer(tokens, **answer), model=model, time=when)
    assert found == pytest.approx(expected, rel=1e-9)


def test_prices_are_those_of_the_calls_end() -> None:
    """The list's prices have dates and times of day."""
    model = next(
        (seller, model)
        for seller in data_snapshot.get_snapshot().providers
        for model in seller.models
        if isinstance(model.prices, list)
        and seller.id == "deepseek"
        and hasattr(model.prices[-1].constraint, "start_time")
    )[1]
    prices = set()
    for hour in range(24):
        when = datetime(2026, 11, 20, hour, 45, tzinfo=UTC)
        found = LISTED.usd(Answer(K), model=model.id, provider="deepseek", time=when.timestamp())
        expected = genai_prices.calc_price(
            genai_prices.Usage(input_tokens=1_000, output_tokens=1_000),
            model.id,
            provider_id="deepseek",
            genai_request_timestamp=when,
        )
        assert found == pytest.approx(float(expected.total_price))
        prices.add(found)
    assert len(prices) == 2
    assert LISTED.usd_of_sum(K, calls=2, model=model.id, provider="deepseek")[1] is False


@pytest.mark.parametrize("time", [None, float("nan"), float("inf"), 1e300, -1e300, "noon"])
def test_times_without_a_date_are_now(time: Any) -> None:
    """A price is better than none."""
    assert LISTED.usd(Answer(K), model="gpt-4o", time=time) == at("openai", "gpt-4o")


def test_prices_follow_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch has been cheaper in the list since 14 October 2026."""
    table = PriceTable.from_genai_prices()
    answer = Answer(K, is_batch=True)
    for day, expected in ((13, 0.01125), (14, 0.005625)):
        now = datetime(2026, 10, day, 12, tzinfo=UTC).timestamp()
        monkeypatch.setattr(clock, "now", lambda now=now: now)
        assert table.usd(answer, model="gpt-5") == pytest.approx(expected)


def test_the_mean_call_decides_on_a_sum() -> None:
    """Ten calls below a threshold are not charged as one call above it."""
    one = LISTED.cost("gemini-2.5-pro", 100_000, 10)
    assert one is not None
    sum_ = TokenCounts(1_000_000, 100)
    for calls in (0, 10):
        found: Any = LISTED.usd_of_sum(sum_, calls=calls, model="gemini-2.5-pro")
        assert found == (pytest.approx(10 * one), False)
    above, is_exact = LISTED.usd_of_sum(sum_, calls=1, model="gemini-2.5-pro")
    assert above is not None
    assert above > 11 * one
    assert is_exact
    assert LISTED.usd_of_sum(K, calls=7, model="x", answered="gpt-4o") == (
        at("openai", "gpt-4o"),
        True,
    )


@pytest.mark.parametrize("hostile", [None, 7, [], object()])
def test_list_never_raises(hostile: Any) -> None:
    """Invalid values have no cost, as in other tables."""
    assert LISTED.cost(hostile, 1, 1) is None
    assert LISTED.cost("gpt-4o", "many", 1) is None  # type: ignore[arg-type]
    assert LISTED.cost("gpt-4o", 10**400, 1) is None
    assert LISTED.usd(hostile, model="gpt-4o") is None
    assert hostile is None or usd("gpt-4o", hostile) is None


def test_list_has_models_and_can_be_pickled() -> None:
    """Tables of the list are equal, also in other processes."""
    assert "gpt-4o" in LISTED.models()
    assert "gpt-4o" in LISTED
    assert pickle.loads(pickle.dumps(LISTED)) == LISTED  # noqa: S301 - our own bytes
    assert PriceTable({}) != LISTED
    assert repr(LISTED) == "PriceTable.from_genai_prices()"


def test_list_ignores_the_callers_decimal_context() -> None:
    """The drain may run on a thread with another precision."""
    with decimal.localcontext(prec=1):
        cost = PriceTable.from_genai_prices().cost("gpt-4o-mini", 1_234_567, 0)
    assert cost == pytest.approx(0.15 * 1.234567)


def test_number_of_kept_names_is_bounded() -> None:
    """The oldest is looked up again, at the same price."""
    table = PriceTable.from_genai_prices()
    assert table._list is not None
    assert table.cost("gpt-4o", 1_000, 1_000) == at("openai", "gpt-4o")
    for number in range(1_030):
        assert table.usd(Answer(K), model=f"new-{number}", provider="cohere") is None
    assert len(table._list._found) == 1_024
    assert table.cost("gpt-4o", 1_000, 1_000) == at("openai", "gpt-4o")


def test_long_names_are_not_looked_up() -> None:
    """Nor kept."""
    table = PriceTable.from_genai_prices()
    assert table._list is not None
    assert table.cost("ft:gpt-4o-mini-2024-07-18:acme::" + "x" * 300, 1, 1) is None
    assert table._list._found == {}


def test_updated_lists_are_used() -> None:
    """The package may fetch a newer list: what it has is priced, and other prices are dropped."""
    table = PriceTable.from_genai_prices()
    assert {"gpt-4o", "claude-sonnet-4-5"} <= {*table.models()}
    assert "gpt-4o" in table
    bundled = data_snapshot.get_snapshot().providers
    newer = [seller for seller in bundled if seller.id == "anthropic"]
    try:
        for providers, is_listed in ((newer, True), ([], False), (newer, True)):
            data_snapshot.set_custom_snapshot(
                data_snapshot.DataSnapshot(providers=providers, from_auto_update=True)
            )
            assert "gpt-4o" not in table
            assert ("claude-sonnet-4-5" in table) is is_listed
            assert ("claude-sonnet-4-5" in table.models()) is is_listed
    finally:
        data_snapshot.set_custom_snapshot(None)
    assert "gpt-4o" in table
