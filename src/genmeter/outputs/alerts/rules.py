"""The rules of the in-process alerts: one row for each of the old monitor's."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from genmeter import catalogue as cat

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RULES", "WINDOW", "AlertRule"]

WINDOW = 300.0
"""Seconds over which a mean is taken."""

_HOLDS = {"below": operator.lt, "above": operator.gt}


@dataclass(frozen=True, slots=True)
class AlertRule:
    """When an alert fires: where the mean of a metric over :data:`WINDOW` passes its threshold.

    Args:
        name: The alert's name.
        argument: The argument of ``GenerationMonitor`` that sets the threshold.
        default: The threshold where that is None.
        metric: The old name of the metric.
        fires: On which side of the threshold; a mean that equals it does not fire.
        level: The alert's level.
        subject: What the mean is of, to begin the message with.
        unit: Of the mean: ``%`` for a share, shown in percent, else a word for its end.
        look_at: The instrument that shows what causes the alert.
        by: The labels to split it by.
    """

    name: str
    argument: str
    default: float
    metric: str
    fires: Literal["below", "above"]
    level: Literal["warning", "error"]
    subject: str
    unit: str
    look_at: cat.Instrument
    by: tuple[cat.Label, ...] = ()

    def threshold(self, given: Mapping[str, float | None]) -> float:
        """Pick the threshold out of what the monitor's arguments say; None is the default."""
        value = given.get(self.argument)
        return self.default if value is None else value

    def holds(self, mean: float, threshold: float) -> bool:
        """Tell whether a mean fires the alert."""
        return bool(_HOLDS[self.fires](mean, threshold))

    def message(self, summary: Mapping[str, float], threshold: float) -> str:
        """Say what is the matter, how much, and where to look.

        Args:
            summary: ``mean`` and ``count`` of the window.
            threshold: What the mean has passed.
        """
        count = int(summary["count"])
        by = " and ".join(label.prometheus for label in self.by)
        return (
            f"{self.subject} is {self._shown(summary['mean'])} over the last "
            f"{WINDOW / 60:g} minutes ({count} {'sample' if count == 1 else 'samples'}), "
            f"{self.fires} the threshold of {self._shown(threshold)}; "
            f"look at {self.look_at.prometheus}{by and f' by {by}'}"
        )

    def _shown(self, value: float) -> str:
        # Not a fixed number of decimals: 99.97 % must not read like the threshold of 100 %.
        return f"{value * 100:.6g} %" if self.unit == "%" else f"{value:.6g} {self.unit}"


RULES: tuple[AlertRule, ...] = (
    AlertRule(
        name="low_success_rate",
        argument="alert_min_success_rate",
        default=0.8,
        metric="success_rate",
        fires="below",
        level="warning",
        subject="success rate",
        unit="%",
        look_at=cat.INFERENCE_DURATION,
        by=(cat.ERROR_TYPE, cat.MODEL),
    ),
    AlertRule(
        name="high_generation_time",
        argument="alert_max_generation_time_seconds",
        default=30.0,
        metric="generation_time",
        fires="above",
        level="warning",
        subject="mean generation time",
        unit="s",
        look_at=cat.INFERENCE_DURATION,
        by=(cat.MODEL, cat.STEP),
    ),
    AlertRule(
        name="high_error_rate",
        argument="alert_max_error_rate",
        default=0.2,
        metric="error_rate",
        fires="above",
        level="error",
        subject="error rate",
        unit="%",
        look_at=cat.INFERENCE_DURATION,
        by=(cat.ERROR_TYPE, cat.MODEL),
    ),
    AlertRule(
        name="high_token_usage:prompt",
        argument="alert_max_prompt_token_mean",
        default=4096.0,
        metric="prompt_token_count",
        fires="above",
        level="warning",
        subject="mean prompt length",
        unit="tokens",
        look_at=cat.INPUT_TOKENS_PER_CALL,
        by=(cat.MODEL, cat.STEP),
    ),
    AlertRule(
        name="high_token_usage:completion",
        argument="alert_max_completion_token_mean",
        default=4096.0,
        metric="completion_token_count",
        fires="above",
        level="warning",
        subject="mean completion length",
        unit="tokens",
        look_at=cat.OUTPUT_TOKENS_PER_CALL,
        by=(cat.MODEL, cat.STEP),
    ),
    AlertRule(
        name="high_token_usage:total",
        argument="alert_max_total_token_mean",
        default=8192.0,
        metric="total_token_count",
        fires="above",
        level="warning",
        subject="mean total of tokens a call",
        unit="tokens",
        look_at=cat.TOTAL_TOKENS,
        by=(cat.MODEL, cat.STEP),
    ),
    AlertRule(
        name="long_conversations",
        argument="alert_max_conversation_length_mean",
        default=2.0,
        metric="conversation_length",
        fires="above",
        level="warning",
        subject="mean conversation length",
        unit="turns",
        look_at=cat.CONVERSATION_LENGTH,
    ),
)
