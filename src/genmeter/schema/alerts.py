"""The table of alerts: one row for each, told by Prometheus and in process alike.

A row says which signal is judged, over which windows and how; ``genmeter render rules`` writes it as
a Prometheus rule and :mod:`genmeter.alerting` judges it on a monitor's history. The first
seven are AfterImage's, with its thresholds and without a least number of samples. The windows and
factors of the error budget's burn are those of Google's Site Reliability Workbook, chapter 5
("Alerting on SLOs"), table 5-8, with a fourth pair, of a day, between its second and its third.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from genmeter.schema import live_signals as live
from genmeter.schema import metrics as cat
from genmeter.schema import signals as sig

if TYPE_CHECKING:
    from genmeter.schema.metrics import Label
    from genmeter.schema.signals import Signal

__all__ = ["ALERT_RULES", "AlertRule", "Base", "How", "Severity"]

Severity = Literal["critical", "warning", "info"]
How = Literal["above", "below", "fall", "stalled", "target_down", "target_absent"]
Base = Literal["error_budget", "cost_budget", "token_budget"]

_MINUTE, _HOUR, _DAY = 60.0, 3_600.0, 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """When an alert fires, whom it is for, and what it says.

    Args:
        id: Its name in process, as ``Alert.name``; the old monitor's where that had it.
        name: Its name in Prometheus and Alertmanager, as the label ``alertname``.
        severity: The label ``severity``; in process ``critical`` is the level ``error``, and what
            is less is ``warning``, as in the old monitor.
        how: ``above`` and ``below``: the signal passes the threshold over each window. ``fall``:
            over the first window it is under its value over the second by more than the threshold.
            ``stalled``: no call has ended for the first window. ``target_down`` and
            ``target_absent``: what Prometheus alone knows, of its targets.
        signal: What is judged; None where ``how`` alone says it.
        threshold: In the signal's unit, or how many times ``base``; equal does not fire.
        base: What the threshold is a multiple of: the error budget that an objective leaves, or a
            budget for 24 hours, without which the rule is left out.
        windows: Seconds.
        min_samples: What a ratio's denominator must add up to over the first window.
        for_: Seconds for which the condition must hold before the alert fires.
        by: The labels that make a group, beside the job.
        labels: Labels of its own, which tell apart rows of one name.
        argument: The argument of ``GenerationMonitor`` that sets the threshold.
        subject: What the value is, to begin a message with.
        unit: Of the value: ``%`` for a share, shown in percent, else a word for its end.
        advice: Where to look, in one sentence.
    """

    id: str
    name: str
    severity: Severity
    how: How
    signal: Signal | None = None
    threshold: float = 0.0
    base: Base | None = None
    windows: tuple[float, ...] = (5 * _MINUTE,)
    min_samples: int = 1
    for_: float = 0.0
    by: tuple[Label, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    argument: str | None = None
    subject: str
    unit: str
    advice: str

    @property
    def level(self) -> Literal["warning", "error"]:
        """The level that handlers in process see."""
        return "error" if self.severity == "critical" else "warning"

    @property
    def is_judged_in_process(self) -> bool:
        """Whether one process can tell."""
        return self.how not in ("target_down", "target_absent")


_ERRORS = "Look at the calls by error type and model."
_LENGTHS = "Look at the tokens by model and step."


def _burn(long: float, short: float, factor: float, severity: Severity, label: str) -> AlertRule:
    return AlertRule(
        id=f"error_budget_burn:{label}",
        name="GenerationErrorBudgetBurn",
        severity=severity,
        how="above",
        signal=live.FAILURE_SHARE,
        threshold=factor,
        base="error_budget",
        windows=(long, short),
        min_samples=10,
        for_=2 * _MINUTE,
        labels=(("window", label),),
        subject="error rate",
        unit="%",
        advice=_ERRORS,
    )


def _budget(base: Base, share: float, severity: Severity) -> AlertRule:
    is_cost = base == "cost_budget"
    return AlertRule(
        id=f"{base}_burn:{severity}",
        name="CostBudgetBurn" if is_cost else "TokenBudgetBurn",
        severity=severity,
        how="above",
        signal=live.COST if is_cost else live.TOKENS,
        threshold=share,
        base=base,
        windows=(_DAY,),
        subject="cost" if is_cost else "total of tokens",
        unit="USD" if is_cost else "tokens",
        advice=f"Look at {'cost' if is_cost else 'tokens'} by model and step.",
    )


def _health(id_: str, name: str, signal: Signal, by: Label, advice: str) -> AlertRule:
    return AlertRule(
        id=id_,
        name=name,
        severity="warning",
        how="above",
        signal=signal,
        windows=(10 * _MINUTE,),
        by=(by,),
        subject=signal.title.lower(),
        unit=signal.unit.strip("{}") + "s",
        advice=advice,
    )


def _tokens(kind: str, threshold: float, signal: Signal) -> AlertRule:
    return AlertRule(
        id=f"high_token_usage:{kind}",
        name=f"{kind.capitalize()}TokensHigh",
        severity="info",
        how="above",
        signal=signal,
        threshold=threshold,
        by=(cat.MODEL,),
        argument=f"alert_max_{kind}_token_mean",
        subject="mean total of tokens a call" if kind == "total" else f"mean {kind} length",
        unit="tokens",
        advice=_LENGTHS,
    )


ALERT_RULES: tuple[AlertRule, ...] = (
    AlertRule(
        id="low_success_rate",
        name="GenerationSuccessRateLow",
        severity="warning",
        how="below",
        signal=live.SUCCESS_SHARE,
        threshold=0.8,
        argument="alert_min_success_rate",
        subject="success rate",
        unit="%",
        advice=_ERRORS,
    ),
    AlertRule(
        id="high_generation_time",
        name="GenerationSlow",
        severity="warning",
        how="above",
        signal=sig.CALL_TIME,
        threshold=30.0,
        by=(cat.MODEL,),
        argument="alert_max_generation_time_seconds",
        subject="mean generation time",
        unit="s",
        advice="Look at the durations by model and step.",
    ),
    AlertRule(
        id="high_error_rate",
        name="GenerationErrorRateHigh",
        severity="critical",
        how="above",
        signal=live.FAILURE_SHARE,
        threshold=0.2,
        argument="alert_max_error_rate",
        subject="error rate",
        unit="%",
        advice=_ERRORS,
    ),
    _tokens("prompt", 4096.0, live.PROMPT_LENGTH),
    _tokens("completion", 4096.0, live.COMPLETION_LENGTH),
    _tokens("total", 8192.0, live.CALL_TOKENS),
    AlertRule(
        id="long_conversations",
        name="ConversationsLong",
        severity="info",
        how="above",
        signal=sig.CONVERSATION_LENGTH,
        threshold=2.0,
        argument="alert_max_conversation_length_mean",
        subject="mean conversation length",
        unit="turns",
        advice="Look at the lengths of the conversations.",
    ),
    _burn(_HOUR, 5 * _MINUTE, 14.4, "critical", "1h"),
    _burn(6 * _HOUR, 30 * _MINUTE, 6.0, "critical", "6h"),
    _burn(_DAY, 2 * _HOUR, 3.0, "warning", "1d"),
    _burn(3 * _DAY, 6 * _HOUR, 1.0, "warning", "3d"),
    AlertRule(
        id="generation_stalled",
        name="GenerationStalled",
        severity="warning",
        how="stalled",
        windows=(15 * _MINUTE,),
        subject="time since the last call ended",
        unit="s",
        advice="Look at the calls under way and at the job's own log.",
    ),
    AlertRule(
        id="rate_limited",
        name="RateLimited",
        severity="warning",
        how="above",
        signal=live.RATE_LIMIT_SHARE,
        threshold=0.1,
        windows=(10 * _MINUTE,),
        min_samples=10,
        by=(cat.MODEL,),
        subject="share of retries for rate limits",
        unit="%",
        advice="Look at the retries by model, and at how many calls are under way.",
    ),
    AlertRule(
        id="samples_rejected",
        name="SamplesRejected",
        severity="warning",
        how="above",
        signal=live.REJECTED_SHARE,
        threshold=0.5,
        windows=(30 * _MINUTE,),
        min_samples=20,
        subject="share of rejected samples",
        unit="%",
        advice="Look at the samples by the reason of their rejection.",
    ),
    AlertRule(
        id="generation_truncated",
        name="GenerationTruncated",
        severity="warning",
        how="above",
        signal=live.TRUNCATED_SHARE,
        threshold=0.1,
        windows=(15 * _MINUTE,),
        min_samples=10,
        by=(cat.MODEL,),
        subject="share of truncated completions",
        unit="%",
        advice="Look at the finish reasons by model, and at the limit of the completions' length.",
    ),
    AlertRule(
        id="evaluation_score_drop",
        name="EvaluationScoreDrop",
        severity="warning",
        how="fall",
        signal=live.MEAN_SCORE,
        threshold=0.1,
        windows=(_HOUR, _DAY),
        min_samples=20,
        by=(cat.SCORE_NAME, cat.EVALUATOR),
        subject="fall of the mean score",
        unit="",
        advice="Look at the scores over time, and at what changed in the last hour.",
    ),
    AlertRule(
        id="evaluation_failures",
        name="EvaluationFailures",
        severity="warning",
        how="above",
        signal=live.EVALUATION_FAILURE_SHARE,
        threshold=0.2,
        windows=(15 * _MINUTE,),
        min_samples=5,
        by=(cat.EVALUATOR,),
        subject="share of failed evaluations",
        unit="%",
        advice="Look at the evaluations by error type.",
    ),
    _budget("cost_budget", 0.8, "warning"),
    _budget("cost_budget", 1.0, "critical"),
    _budget("token_budget", 0.8, "warning"),
    _budget("token_budget", 1.0, "critical"),
    AlertRule(
        id="model_unpriced",
        name="ModelUnpriced",
        severity="warning",
        how="above",
        signal=live.UNPRICED_CALLS,
        windows=(_HOUR,),
        by=(cat.MODEL,),
        subject="calls without a price",
        unit="calls",
        advice="Add the model to the price table: what it costs is missing from every total.",
    ),
    AlertRule(
        id="target_down",
        name="MonitorTargetDown",
        severity="warning",
        how="target_down",
        windows=(_HOUR,),
        for_=5 * _MINUTE,
        labels=(("target", "down"),),
        subject="targets that answer",
        unit="",
        advice="Look whether the job runs, and whether its endpoint can be reached.",
    ),
    AlertRule(
        id="target_absent",
        name="MonitorTargetDown",
        severity="warning",
        how="target_absent",
        for_=5 * _MINUTE,
        labels=(("target", "absent"),),
        subject="targets of the job",
        unit="",
        advice="Look whether the job was started, and whether service discovery finds it.",
    ),
    _health(
        "monitor_rejects_events",
        "MonitorRejectsEvents",
        live.REJECTED_EVENTS,
        cat.REJECT_REASON,
        "The job's log names the first value of each kind that was left out.",
    ),
    _health(
        "monitor_handler_failing",
        "MonitorHandlerFailing",
        live.HANDLER_ERRORS,
        cat.HANDLER,
        "The job's log has the first error of each handler.",
    ),
    _health(
        "monitor_label_overflow",
        "MonitorLabelOverflow",
        live.OVERFLOWED_LABELS,
        cat.OVERFLOWED,
        "Raise the label's limit, or tell fewer distinct values.",
    ),
    _health(
        "monitor_export_failing",
        "MonitorExportFailing",
        live.FAILED_EXPORTS,
        cat.EXPORTER,
        "Look whether the collector that the job pushes to can be reached.",
    ),
)
