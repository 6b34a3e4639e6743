"""The table of alerts: one row for each, for Prometheus's rules and for evaluation in process.

``genmeter render rules`` writes a row's condition (:mod:`genmeter.schema.conditions`) as a Prometheus
rule, and :mod:`genmeter.alerting` evaluates it on a monitor's history. The first seven are
AfterImage's, with its thresholds and no minimum of samples. The windows and factors of the error
budget's burn are those of Google's Site Reliability Workbook, chapter 5 ("Alerting on SLOs"),
table 5-8, plus a pair with a window of one day.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from genmeter.schema import indicators as ind
from genmeter.schema import metrics as cat
from genmeter.schema.conditions import (
    DAY,
    HOUR,
    MINUTE,
    Above,
    Below,
    Drop,
    LabelOverflow,
    ProcessDied,
    Stale,
    value_template,
    value_text,
)
from genmeter.schema.query import ALL_SERIES, JOB
from genmeter.schema.target_conditions import (
    CollectorDown,
    PushStopped,
    TargetAbsent,
    TargetDown,
    TargetLost,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from genmeter.schema.conditions import Condition
    from genmeter.schema.metrics import Label
    from genmeter.schema.query import Selector

__all__ = ["ALERT_RULES", "AlertRule", "Severity"]

Severity = Literal["critical", "warning", "info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    """One alert.

    Args:
        id: ``Alert.name`` in the process; AfterImage's name if it has the alert.
        name: The label ``alertname`` in Prometheus and Alertmanager.
        severity: The label ``severity``. In the process ``critical`` is the level ``error``, all
            others are ``warning``, as in AfterImage.
        condition: When it is active.
        for_: Seconds for which the condition must be active before the alert fires.
        by: The labels that it is grouped by, besides the job.
        labels: Extra labels, which distinguish rows of the same name.
        argument: The argument of ``GenerationMonitor`` that sets the threshold.
        advice: What to look at, in one sentence.
    """

    id: str
    name: str
    severity: Severity = "warning"
    condition: Condition
    for_: float = 0.0
    by: tuple[Label, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    argument: str | None = None
    advice: str

    @property
    def level(self) -> Literal["warning", "error"]:
        """The level for handlers in the process."""
        return "error" if self.severity == "critical" else "warning"

    def promql(self, selector: Selector = ALL_SERIES) -> str:
        """Return its condition in PromQL, on the selected series."""
        return self.condition.promql(self.by, selector)

    def annotations(
        self, runbook_url: str | None, labels: Mapping[str, str], value: float
    ) -> dict[str, str]:
        """Return its annotations for a value.

        Args:
            runbook_url: Address of the runbook, without an anchor; None if there is none.
            labels: The alert's labels, by Prometheus's names: the job and its group.
            value: The value that was compared with the threshold.
        """
        groups = [
            f", {label.short} {labels[label.prometheus]}"
            for label in self.by
            if labels.get(label.prometheus)
        ]
        text = value_text(self.condition, value)
        return self._annotations(labels.get(JOB, "") + "".join(groups), text, runbook_url)

    def templates(self, runbook_url: str | None, group_by: Sequence[str] = ()) -> dict[str, str]:
        """Return its annotations as templates for Prometheus.

        Args:
            runbook_url: Address of the runbook, without an anchor; None if there is none.
            group_by: The labels that it is grouped by besides the job and its own.
        """
        named = [(name, name) for name in group_by]
        named += [(label.prometheus, label.short) for label in self.by]
        groups = [
            f"{{{{ with $labels.{name} }}}}, {short} {{{{ . }}}}{{{{ end }}}}"
            for name, short in named
        ]
        target = f"{{{{ $labels.{JOB} }}}}" + "".join(groups)
        # Braces in an address are not a template.
        url = runbook_url and runbook_url.replace("{{", '{{ "{{" }}')
        return self._annotations(target, value_template(self.condition), url)

    def _annotations(self, target: str, value: str, runbook_url: str | None) -> dict[str, str]:
        runbook = {"runbook_url": f"{runbook_url}#{self.name.lower()}"} if runbook_url else {}
        return {
            "summary": f"{target}: {self.condition.summary(value)}",
            "description": f"{self.condition.finding(value, self.for_)} {self.advice}",
            **runbook,
        }


_ERRORS = "Look at the calls by error type and model."
_LENGTHS = "Look at the tokens by model and step."


def _burn(long: float, short: float, factor: float, severity: Severity, label: str) -> AlertRule:
    return AlertRule(
        id=f"error_budget_burn:{label}",
        name="GenerationErrorBudgetBurn",
        severity=severity,
        condition=Above(ind.FAILURE_SHARE, factor, (long, short), 10, base="error_budget"),
        for_=2 * MINUTE,
        labels=(("window", label),),
        advice=_ERRORS,
    )


def _budget(kind: Literal["cost", "token"], share: float, severity: Severity) -> AlertRule:
    condition = (
        Above(ind.COST, share, (DAY,), base="cost_budget")
        if kind == "cost"
        else Above(ind.TOKENS, share, (DAY,), base="token_budget", subject="total of tokens")
    )
    return AlertRule(
        id=f"{kind}_budget_burn:{severity}",
        name=f"{kind.capitalize()}BudgetBurn",
        severity=severity,
        condition=condition,
        advice=f"Look at {'cost' if kind == 'cost' else 'tokens'} by model and step.",
    )


def _tokens(kind: str, threshold: float, indicator: ind.Indicator, subject: str) -> AlertRule:
    return AlertRule(
        id=f"high_token_usage:{kind}",
        name=f"{kind.capitalize()}TokensHigh",
        severity="info",
        condition=Above(indicator, threshold, subject=subject),
        by=(cat.MODEL,),
        argument=f"alert_max_{kind}_token_mean",
        advice=_LENGTHS,
    )


ALERT_RULES: tuple[AlertRule, ...] = (
    AlertRule(
        id="low_success_rate",
        name="GenerationSuccessRateLow",
        condition=Below(ind.SUCCESS_SHARE, 0.8),
        argument="alert_min_success_rate",
        advice=_ERRORS,
    ),
    AlertRule(
        id="high_generation_time",
        name="GenerationSlow",
        condition=Above(ind.CALL_TIME, 30.0, subject="mean generation time"),
        by=(cat.MODEL,),
        argument="alert_max_generation_time_seconds",
        advice="Look at the durations by model and step.",
    ),
    AlertRule(
        id="high_error_rate",
        name="GenerationErrorRateHigh",
        severity="critical",
        condition=Above(ind.FAILURE_SHARE, 0.2),
        argument="alert_max_error_rate",
        advice=_ERRORS,
    ),
    _tokens("prompt", 4096.0, ind.PROMPT_LENGTH, "mean prompt length"),
    _tokens("completion", 4096.0, ind.COMPLETION_LENGTH, "mean completion length"),
    _tokens("total", 8192.0, ind.CALL_TOKENS, "mean total of tokens a call"),
    AlertRule(
        id="long_conversations",
        name="ConversationsLong",
        severity="info",
        condition=Above(ind.CONVERSATION_LENGTH, 2.0, subject="mean conversation length"),
        argument="alert_max_conversation_length_mean",
        advice="Look at the lengths of the conversations.",
    ),
    _burn(HOUR, 5 * MINUTE, 14.4, "critical", "1h"),
    _burn(6 * HOUR, 30 * MINUTE, 6.0, "critical", "6h"),
    _burn(DAY, 2 * HOUR, 3.0, "warning", "1d"),
    _burn(3 * DAY, 6 * HOUR, 1.0, "warning", "3d"),
    AlertRule(
        id="generation_stalled",
        name="GenerationStalled",
        condition=Stale(windows=(15 * MINUTE,)),
        advice="Look at the active calls and the job's log.",
    ),
    AlertRule(
        id="job_process_died",
        name="JobProcessDied",
        condition=ProcessDied(windows=(10 * MINUTE,)),
        advice="Look at the job's processes by state, and at the log of the one that died.",
    ),
    AlertRule(
        id="rate_limited",
        name="RateLimited",
        condition=Above(
            *(ind.RATE_LIMIT_SHARE, 0.1, (10 * MINUTE,), 10),
            subject="share of retries for rate limits",
        ),
        by=(cat.MODEL,),
        advice="Look at the retries by model and the number of active calls.",
    ),
    AlertRule(
        id="samples_rejected",
        name="SamplesRejected",
        condition=Above(
            ind.REJECTED_SHARE, 0.5, (30 * MINUTE,), 20, subject="share of rejected samples"
        ),
        advice="Look at the rejected samples by reason.",
    ),
    AlertRule(
        id="generation_truncated",
        name="GenerationTruncated",
        condition=Above(
            ind.TRUNCATED_SHARE, 0.1, (15 * MINUTE,), 10, subject="share of truncated completions"
        ),
        by=(cat.MODEL,),
        advice="Look at the finish reasons by model and the limit of the completion length.",
    ),
    AlertRule(
        id="evaluation_score_drop",
        name="EvaluationScoreDrop",
        condition=Drop(ind.MEAN_SCORE, 0.1, (HOUR, DAY), 20, subject="drop of the mean score"),
        by=(cat.SCORE_NAME, cat.EVALUATOR),
        advice="Look at the scores over time and at changes in the last hour.",
    ),
    AlertRule(
        id="evaluation_failures",
        name="EvaluationFailures",
        condition=Above(
            *(ind.EVALUATION_FAILURE_SHARE, 0.2, (15 * MINUTE,), 5),
            subject="share of failed evaluations",
        ),
        by=(cat.EVALUATOR,),
        advice="Look at the evaluations by error type.",
    ),
    _budget("cost", 0.8, "warning"),
    _budget("cost", 1.0, "critical"),
    _budget("token", 0.8, "warning"),
    _budget("token", 1.0, "critical"),
    AlertRule(
        id="model_unpriced",
        name="ModelUnpriced",
        condition=Above(ind.UNPRICED_CALLS, windows=(HOUR,)),
        by=(cat.MODEL,),
        advice="Add the model to the price table: its cost is missing from every total.",
    ),
    AlertRule(
        id="usage_unread",
        name="UsageUnread",
        condition=Above(
            ind.UNREAD_SHARE, 0.1, (HOUR,), 10, subject="share of calls without known usage"
        ),
        by=(cat.MODEL,),
        advice="Look at the calls without usage by reason: their tokens and cost are in no total.",
    ),
    AlertRule(
        id="target_down",
        name="MonitorTargetDown",
        condition=TargetDown(windows=(HOUR,)),
        for_=5 * MINUTE,
        labels=(("target", "down"),),
        advice="Check whether the job is running and its endpoint can be reached.",
    ),
    AlertRule(
        id="target_absent",
        name="MonitorTargetDown",
        condition=TargetAbsent(),
        for_=5 * MINUTE,
        labels=(("target", "absent"),),
        advice="Check whether the job was started and service discovery finds it.",
    ),
    AlertRule(
        id="target_lost",
        name="MonitorTargetDown",
        condition=TargetLost(windows=(15 * MINUTE,)),
        for_=MINUTE,
        labels=(("target", "lost"),),
        advice="Look at the end of their logs. If they end as they should, let their endpoint linger.",
    ),
    AlertRule(
        id="push_stopped",
        name="MonitorPushStopped",
        condition=PushStopped(windows=(HOUR,)),
        for_=2 * MINUTE,
        advice="Check whether the job is running and can reach the receiver of its pushes.",
    ),
    AlertRule(
        id="collector_down",
        name="MonitorCollectorDown",
        condition=CollectorDown(windows=(DAY,)),
        for_=5 * MINUTE,
        advice="Check whether the Collector is running.",
    ),
    AlertRule(
        id="monitor_rejects_events",
        name="MonitorRejectsEvents",
        condition=Above(ind.REJECTED_EVENTS, windows=(10 * MINUTE,)),
        by=(cat.REJECT_REASON,),
        advice="The job's log names the first rejected value of each kind.",
    ),
    AlertRule(
        id="monitor_handler_failing",
        name="MonitorHandlerFailing",
        condition=Above(ind.HANDLER_ERRORS, windows=(10 * MINUTE,)),
        by=(cat.HANDLER,),
        advice="The job's log has the first error of each handler.",
    ),
    AlertRule(
        id="monitor_label_overflow",
        name="MonitorLabelOverflow",
        condition=LabelOverflow(ind.OVERFLOWED_LABELS, windows=(10 * MINUTE,)),
        by=(cat.OVERFLOWED,),
        advice="Raise the label's limit, or record fewer distinct values.",
    ),
    AlertRule(
        id="monitor_export_failing",
        name="MonitorExportFailing",
        condition=Above(ind.FAILED_EXPORTS, windows=(10 * MINUTE,)),
        by=(cat.EXPORTER,),
        advice="Check whether the job's collector can be reached.",
    ),
)
