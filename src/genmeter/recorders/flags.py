"""The flags of a row in the ring of calls: 16 bits."""

from __future__ import annotations

__all__ = [
    "ANY_TOKENS",
    "CONVERSATION",
    "EVALUATION",
    "GENERATION",
    "HAS_INPUT",
    "HAS_OUTPUT",
    "HAS_TOTAL",
    "HAS_TURNS",
    "INFERENCE",
    "MODEL_GIVEN",
    "SUCCESS",
]

SUCCESS = 1
CONVERSATION = 2
MODEL_GIVEN = 4
HAS_INPUT = 8
HAS_OUTPUT = 16
HAS_TOTAL = 32
HAS_TURNS = 64
GENERATION = 128
EVALUATION = 256
ANY_TOKENS = HAS_INPUT | HAS_OUTPUT | HAS_TOTAL
INFERENCE = GENERATION | CONVERSATION
"""A call has the first of these flags and not the second."""
