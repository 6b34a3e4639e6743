"""Shared by the tests of the live view: pages, statuses and rows with known numbers."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from genmeter.cli.live.rates import Rates
from genmeter.cli.live.watch import RUNNING, Row
from genmeter.report.status import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

__all__ = ["drawn", "page", "row", "status"]

_ERRORS = {"RateLimitError": 3, "TimeoutError": 1}


def page(
    calls: int = 100,
    *,
    model: str = "atlas-large",
    samples: int = 40,
    expected: int | None = 100,
    instance: str = "one",
    finished: bool = False,
    firing: Mapping[str, int] | None = None,
    errors: Mapping[str, int] = _ERRORS,
    processes: Mapping[str, int] | None = None,
    without_usage: int = 2,
    rejected: int = 0,
) -> str:
    """The page of a job with 100 input and 20 output tokens, and 0.01 USD, a call."""
    labels = f'genmeter_phase="generation",gen_ai_request_model="{model}"'
    failed = sum(errors.values())
    tokens = "gen_ai_client_inference_usage"
    lines = [
        'genmeter_build_info{version="1"} 1',
        f"genmeter_job_finished {int(finished)}",
        f'target_info{{service_instance_id="{instance}"}} 1',
        f'genmeter_generations_total{{{labels},genmeter_outcome="success"}} {calls - failed}',
        f'genmeter_generations_total{{{labels},genmeter_outcome="failure"}} {failed}',
        f"genmeter_generations_active{{{labels}}} 7",
        f"{tokens}_input_tokens_total{{{labels}}} {100 * calls}",
        f"{tokens}_output_tokens_total{{{labels}}} {20 * calls}",
        f"genmeter_tokens_total{{{labels}}} {120 * calls}",
        f"genmeter_cost_usd_total{{{labels}}} {0.01 * calls}",
        f'genmeter_usage_unread_total{{{labels},genmeter_reason="no_usage"}} {without_usage}',
        f'genmeter_samples_total{{genmeter_outcome="accepted"}} {samples - 10}',
        'genmeter_samples_total{genmeter_outcome="rejected",genmeter_reason="duplicate"} 10',
        'genmeter_monitor_events_total{genmeter_result="recorded"} 500',
    ]
    if expected is not None:
        lines.append(f"genmeter_job_samples_expected {expected}")
    if rejected:
        lines.append(
            'genmeter_monitor_events_total{genmeter_result="rejected",'
            f'genmeter_reason="inbox_full"}} {rejected}'
        )
    for name, count in errors.items():
        lines.append(
            f'gen_ai_client_inference_duration_seconds_count{{{labels},error_type="{name}"}} {count}'
        )
    for name, value in (firing or {"GenerationSlow": 0}).items():
        lines.append(f'genmeter_alerts_firing{{genmeter_alert="{name}"}} {value}')
    for state, count in (processes or {}).items():
        lines.append(f'genmeter_job_processes{{genmeter_state="{state}"}} {count}')
    return "\n".join([*lines, ""])


def status(calls: int = 100, **changes: Any) -> Status:
    """What a page says."""
    return Status.of(text_string_to_metric_families(page(calls, **changes)))


def row(name: str = "127.0.0.1:9464", state: str = RUNNING, **changes: Any) -> Row:
    """A job of the view, with the rates of a running one."""
    fields: dict[str, Any] = {
        "since": 0.0,
        "age": 0.5,
        "reason": "",
        "status": status(),
        "rates": Rates(10.0, 1200.0, 2.0) if state == RUNNING else Rates(),
        "left": 30.0 if state == RUNNING else None,
    }
    return Row(name, state, **(fields | changes))


def drawn(renderable: RenderableType, width: int) -> list[str]:
    """The lines of a drawing, without trailing spaces."""
    console = Console(file=io.StringIO(), width=width, record=True, highlight=False)
    console.print(renderable)
    return [line.rstrip() for line in console.export_text().splitlines()]
