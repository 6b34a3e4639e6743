"""The cast of the demo's job: models that do not exist, with habits that real ones have."""

from __future__ import annotations

from dataclasses import dataclass

from genmeter.config.monitor import CustomMetric
from genmeter.config.prices import Price, PriceTable

__all__ = [
    "ANSWERERS",
    "CUSTOM_METRICS",
    "EMBEDDER",
    "JUDGE",
    "MODELS",
    "PRICES",
    "QUEUE_DEPTH",
    "SCORE_SCALES",
    "WRITERS",
    "InternalServerError",
    "ModelProfile",
    "RateLimitError",
]


class RateLimitError(Exception):
    """What a vendor's client raises for status 429; the monitor reads its name."""


class InternalServerError(Exception):
    """What a vendor's client raises for status 500 and above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelProfile:
    """How a model behaves; medians are of log-normal distributions.

    Args:
        name: The model's name.
        provider: Who serves it.
        price: USD per million tokens.
        first_token: Median seconds until the first token.
        tokens_per_second: Median speed of the output; 0 where there is none.
        output_tokens: Median output, reasoning left out.
        reasoning_tokens: Median of the reasoning, part of the output; 0 for none.
        cached_share: Share of the calls that find the earlier turns in the provider's cache.
        failing_share: Share of the calls that fail.
        retried_share: Share of the calls that succeed only when they are made again.
    """

    name: str
    provider: str
    price: Price
    first_token: float
    tokens_per_second: float = 0.0
    output_tokens: float = 0.0
    reasoning_tokens: float = 0.0
    cached_share: float = 0.0
    failing_share: float = 0.01
    retried_share: float = 0.02


_LARGE = ModelProfile(
    name="atlas-large",
    provider="atlas",
    price=Price(3.0, 15.0, 0.3),
    first_token=0.9,
    tokens_per_second=60.0,
    output_tokens=420.0,
    reasoning_tokens=350.0,
    cached_share=0.8,
    failing_share=0.02,
    retried_share=0.05,
)
_MINI = ModelProfile(
    name="atlas-mini",
    provider="atlas",
    price=Price(0.25, 2.0, 0.025),
    first_token=0.35,
    tokens_per_second=140.0,
    output_tokens=160.0,
    cached_share=0.6,
)
_CHAT = ModelProfile(
    name="harbor-chat",
    provider="harbor",
    price=Price(0.6, 2.4),
    first_token=0.5,
    tokens_per_second=85.0,
    output_tokens=260.0,
    failing_share=0.05,
    retried_share=0.08,
)
JUDGE = ModelProfile(
    name="quill-judge",
    provider="quill",
    price=Price(1.1, 4.4, 0.275),
    first_token=0.6,
    tokens_per_second=95.0,
    output_tokens=90.0,
    cached_share=0.5,
    failing_share=0.03,
)
EMBEDDER = ModelProfile(
    name="compass-embed",
    provider="compass",
    price=Price(0.02, 0.0),
    first_token=0.12,
    failing_share=0.004,
)

WRITERS: tuple[tuple[ModelProfile, float], ...] = ((_MINI, 0.7), (_CHAT, 0.3))
"""Who writes the questions, and how often."""
ANSWERERS: tuple[tuple[ModelProfile, float], ...] = ((_LARGE, 0.45), (_CHAT, 0.35), (_MINI, 0.2))
"""Who answers them, and how often."""
MODELS: tuple[ModelProfile, ...] = (_LARGE, _MINI, EMBEDDER, _CHAT, JUDGE)
"""All of them, by name."""
PRICES = PriceTable({model.name: model.price for model in MODELS})
SCORE_SCALES = {"helpfulness": (1.0, 5.0)}
QUEUE_DEPTH = "demo.queue.depth"
CUSTOM_METRICS = (
    CustomMetric(
        name=QUEUE_DEPTH,
        kind="gauge",
        unit="{prompt}",
        help="Seed prompts that wait for their conversation.",
    ),
)
