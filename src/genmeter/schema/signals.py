"""The former names of :mod:`genmeter.schema.plot_series`."""

from genmeter.schema.plot_series import (
    CALL_TIME,
    COMPLETION_TOKEN_COUNT,
    CONVERSATION_LENGTH,
    ERROR_RATE,
    EVALUATION_ERROR_RATE,
    EVALUATION_SCORE,
    EVALUATION_TIME,
    FAILED_CALLS,
    GENERATION_TIME,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    PROMPT_TOKEN_COUNT,
    SUCCESS_RATE,
    SUCCESSFUL_CALLS,
    TOTAL_TOKEN_COUNT,
    TOTAL_TOKENS,
    UNITEMISED_TOKENS,
    Frame,
)
from genmeter.schema.plot_series import PLOT_SERIES as SIGNALS
from genmeter.schema.plot_series import PlotSeries as Signal

__all__ = [
    "CALL_TIME",
    "COMPLETION_TOKEN_COUNT",
    "CONVERSATION_LENGTH",
    "ERROR_RATE",
    "EVALUATION_ERROR_RATE",
    "EVALUATION_SCORE",
    "EVALUATION_TIME",
    "FAILED_CALLS",
    "GENERATION_TIME",
    "INPUT_TOKENS",
    "OUTPUT_TOKENS",
    "PROMPT_TOKEN_COUNT",
    "SIGNALS",
    "SUCCESSFUL_CALLS",
    "SUCCESS_RATE",
    "TOTAL_TOKENS",
    "TOTAL_TOKEN_COUNT",
    "UNITEMISED_TOKENS",
    "Frame",
    "Signal",
]
