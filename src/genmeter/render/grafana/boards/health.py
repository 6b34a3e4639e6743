"""The Monitor health dashboard: whether the data of the other dashboards is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genmeter.render.grafana.model import (
    RANGE,
    Dashboard,
    Panel,
    Query,
    Row,
    SeriesRef,
    legend_of,
    lines,
    over_time,
    query,
    rate_panel,
    tile,
)
from genmeter.schema import indicators as ind
from genmeter.schema.metrics import (
    EXPORTER,
    HANDLER,
    HANDLER_REASON,
    OTEL_SDK,
    OVERFLOWED,
    REJECT_REASON,
    STATE,
    VERSION,
)
from genmeter.schema.query import INSTANCE, JOB

if TYPE_CHECKING:
    from genmeter.schema.indicators import Indicator
    from genmeter.schema.metrics import Label

__all__ = ["HEALTH"]

_PROCESS = (JOB, INSTANCE)


def _total(indicator: Indicator, alert: str) -> Panel:
    return tile(
        Query(
            series=(SeriesRef(indicator, RANGE), SeriesRef(ind.EVENTS, RANGE)),
            # The series starts with the first fault; a monitor without faults has no series.
            formula="{0} or 0 * {1}",
            legend=indicator.title,
        ),
        width=4,
        alerts=(alert,),
        decimals=0,
        is_now=True,
    )


_IS_IT_COMPLETE = Row(
    "Is the data complete?",
    (
        tile(query(ind.EVENTS, RANGE, legend="Events recorded"), width=4, is_now=True),
        tile(
            query(ind.PROCESSES, legend="Processes"),
            description="Processes monitored by genmeter.",
            width=4,
        ),
        _total(ind.REJECTED_EVENTS, "monitor_rejects_events"),
        _total(ind.HANDLER_ERRORS, "monitor_handler_failing"),
        _total(ind.OVERFLOWED_LABELS, "monitor_label_overflow"),
        _total(ind.FAILED_EXPORTS, "monitor_export_failing"),
    ),
)


def _faults(indicator: Indicator, *by: Label) -> Panel:
    return rate_panel(indicator, *by, per="minute", width=12, height=6, style="bars", is_fault=True)


_REJECTED = Row(
    "What was rejected?",
    (
        _faults(ind.REJECTED_EVENTS, REJECT_REASON),
        _faults(ind.HANDLER_ERRORS, HANDLER, HANDLER_REASON),
        _faults(ind.OVERFLOWED_LABELS, OVERFLOWED),
        _faults(ind.FAILED_EXPORTS, EXPORTER),
    ),
)


def _of_targets(indicator: Indicator, **style: str) -> Panel:
    return lines(
        Query(
            series=(SeriesRef(indicator), SeriesRef(ind.PROCESSES, RANGE)),
            # Prometheus has these series of all targets, not only of ours.
            formula="{0} and on ({process}) {1}",
            by=_PROCESS,
            legend=legend_of(*_PROCESS),
        ),
        title=indicator.title,
        **style,
    )


_KEEPS_UP = Row(
    "Does the monitor keep up?",
    (
        rate_panel(ind.EVENTS, *_PROCESS, per="second", unit="cps"),
        over_time(ind.INBOX, *_PROCESS),
        over_time(ind.HISTORY_FILL, *_PROCESS, unit="percentunit", axis_max=1),
        _of_targets(ind.TARGETS_UP),
        _of_targets(ind.SCRAPE_TIME, unit="s"),
        over_time(ind.FINISHED, JOB, unit="percentunit", axis_max=1),
    ),
)

_WHAT_RUNS = Row(
    "What is running?",
    (
        over_time(
            ind.PROCESS_STATES,
            *(JOB, STATE),
            width=16,
            height=6,
            no_value="No job of several processes",
        ),
        lines(
            query(ind.LAST_DEATH, formula="time() - {0}", by=(JOB,), legend=legend_of(JOB)),
            title="Time since a process died",
            description="Time since a process of the job was killed or crashed.",
            unit="s",
            height=6,
            alerts=("job_process_died",),
            no_value="No process has died",
        ),
        Panel(
            kind="table",
            queries=(
                query(
                    ind.PROCESSES,
                    RANGE,
                    by=(*_PROCESS, VERSION, OTEL_SDK),
                    legend="Processes",
                    decimals=0,
                ),
            ),
            title="Releases",
            description="Releases of genmeter and of the OpenTelemetry SDK, by process.",
            width=24,
            height=6,
            is_now=True,
        ),
    ),
)

HEALTH = Dashboard(
    name="genmeter-health",
    title="genmeter / Monitor health",
    description="Whether the monitors keep up, and which values they rejected.",
    rows=(_IS_IT_COMPLETE, _REJECTED, _KEEPS_UP, _WHAT_RUNS),
)
