"""The older names of calls' metrics, which dashboards of other tools look for.

Both instruments are those of OpenTelemetry's semantic conventions up to 1.41 (repository
open-telemetry/semantic-conventions, docs/gen-ai/gen-ai-metrics.md, status Development), with their
names, units and bounds. ``gen_ai.system`` is what
``gen_ai.provider.name`` was called before 1.37. They are recorded only with the setting
``older_metric_names``, and no table, dashboard or alert of genmeter uses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.schema.metrics import (
    CHUNK_SECONDS,
    ERROR_TYPE,
    MODEL,
    OPERATION,
    PROVIDER,
    RESPONSE_MODEL,
    TOKENS,
    Instrument,
    Kind,
    Label,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "OLDER_INSTRUMENTS",
    "OLDER_SYSTEMS",
    "OPERATION_DURATION",
    "SYSTEM",
    "TOKEN_TYPE",
    "TOKEN_USAGE",
]

SYSTEM = Label("gen_ai.system", "the older name of `gen_ai.provider.name`", "providers")
TOKEN_TYPE = Label("gen_ai.token.type", "`input` or `output`")

_CALL = (OPERATION, PROVIDER, SYSTEM, MODEL, RESPONSE_MODEL)

OLDER_SYSTEMS: Mapping[str, str] = {"x_ai": "xai"}
"""The values of ``gen_ai.system`` that differ from those of ``gen_ai.provider.name``."""

# fmt: off
TOKEN_USAGE = Instrument(
    "gen_ai.client.token.usage", Kind.HISTOGRAM, "{token}",
    "Prompt and completion tokens per call, of model calls and evaluations.",
    (*_CALL, TOKEN_TYPE), TOKENS)
OPERATION_DURATION = Instrument(
    "gen_ai.client.operation.duration", Kind.HISTOGRAM, "s", "Duration of model calls.",
    (*_CALL, ERROR_TYPE), CHUNK_SECONDS)
# fmt: on

OLDER_INSTRUMENTS: tuple[Instrument, ...] = (TOKEN_USAGE, OPERATION_DURATION)
"""Both, in the order of their registration."""
