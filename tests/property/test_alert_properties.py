"""Alerts: what is sent is what a list of all samples and a list of all judgements say."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import genmeter.clock
from genmeter.outputs.alerts.alerting import Alerting
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from genmeter.outputs.alerts.book import Alert

PATIENCE = 60.0
SETTINGS = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])

RULES = [
    ("low_success_rate", "success_rate", "alert_min_success_rate", 0.8),
    ("high_generation_time", "generation_time", "alert_max_generation_time_seconds", 30),
    ("high_error_rate", "error_rate", "alert_max_error_rate", 0.2),
    ("high_token_usage:prompt", "prompt_token_count", "alert_max_prompt_token_mean", 4096),
    (
        "high_token_usage:completion",
        "completion_token_count",
        "alert_max_completion_token_mean",
        4096,
    ),
    ("high_token_usage:total", "total_token_count", "alert_max_total_token_mean", 8192),
    ("long_conversations", "conversation_length", "alert_max_conversation_length_mean", 2),
]
"""As api-contract.md and AfterImage's docstring have them: alert, metric, argument, default."""


class Clock:
    """The time that calls are told at."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def read(self) -> float:
        """Tell the time."""
        return self.now


class Step(NamedTuple):
    """A pause, then a call that the job tells, or none, and whether the alerts are checked."""

    pause: int
    is_call: bool
    success: bool
    seconds: int
    prompt: int | None
    completion: int | None
    turns: int | None
    extra_error: bool
    is_check: bool


tokens = st.none() | st.sampled_from([0, 4096, 4097, 10_000])
steps = st.builds(
    Step,
    st.sampled_from([0, 0, 0, 1, 50, 100, 100, 299, 300, 301]),
    st.booleans(),
    st.sampled_from([True, True, True, True, False]),
    st.sampled_from([0, 30, 31, 90]),
    tokens,
    tokens,
    st.none() | st.integers(1, 4),
    st.sampled_from([False, False, False, True]),
    st.booleans(),
)
thresholds = st.fixed_dictionaries(
    {}, optional={row[2]: st.sampled_from([None, 0, 0.5, 1.0, 3.0, 5000]) for row in RULES}
)


class Reference:
    """The same alerts by the plainest means: everything is kept, and looked through each time."""

    def __init__(self, thresholds: dict[str, float | None], repeat: float | None) -> None:
        self.thresholds = thresholds
        self.repeat = repeat
        self.samples: list[tuple[float, str, float]] = []
        self.judged: list[dict[str, bool]] = []
        self.sent: list[tuple[float, str]] = []

    def tell(self, now: float, each: Step) -> None:
        """Keep what the call says."""
        parts = [each.prompt, each.completion]
        total = None if parts == [None, None] else sum(part or 0 for part in parts)
        values = {
            "generation_time": each.seconds,
            "success_rate": float(each.success),
            "error_rate": float(not each.success),
            "prompt_token_count": each.prompt,
            "completion_token_count": each.completion,
            "total_token_count": total,
            "conversation_length": each.turns,
        }
        self.samples += [(now, name, v) for name, v in values.items() if v is not None]

    def check(self, now: float) -> list[str]:
        """Judge all rules and give the names of what is to be sent."""
        held = {}
        for alert, metric, argument, default in RULES:
            values = [v for t, name, v in self.samples if name == metric and t >= now - 300]
            limit = self.thresholds.get(argument)
            limit = default if limit is None else limit
            mean = sum(values) / len(values) if values else limit
            held[alert] = mean < limit if alert.startswith("low") else mean > limit
        before = self.judged[-1] if self.judged else {}
        self.judged.append(held)
        news = [
            alert
            for alert, holds in held.items()
            if holds and (not before.get(alert) or self._is_to_be_repeated(alert, now))
        ]
        self.sent += [(now, alert) for alert in news]
        return news

    def _is_to_be_repeated(self, alert: str, now: float) -> bool:
        last = max(when for when, name in self.sent if name == alert)
        return self.repeat is not None and now - last >= self.repeat


@SETTINGS
@given(
    program=st.lists(steps, max_size=40),
    thresholds=thresholds,
    repeat=st.sampled_from([None, 0.0, 100.0, 100.0, 400.0]),
)
def test_what_is_sent_is_what_the_reference_sends(
    program: list[Step], thresholds: dict[str, float | None], repeat: float | None
) -> None:
    """Whatever is told, and whenever it is checked, the same alerts go out in the same order."""
    clock = Clock()
    received: list[Alert] = []
    reference = Reference(thresholds, repeat)
    with (
        mock.patch.object(genmeter.clock, "now", clock.read),
        isolated_monitor() as monitor,
    ):
        alerting = Alerting(
            monitor._pipeline,
            monitor._sink,
            handlers=[received.append],
            thresholds=thresholds,
            interval=0,
            repeat=repeat,
        )
        for each in program:
            clock.now += each.pause
            if each.is_call:
                monitor.track_generation(
                    each.seconds,
                    each.success,
                    prompt_token_count=each.prompt,
                    completion_token_count=each.completion,
                    conversation_length=each.turns,
                )
                reference.tell(clock.now, each)
            if each.extra_error:
                monitor.record_metric("error_rate", 1.0)
                reference.samples.append((clock.now, "error_rate", 1.0))
            if each.is_check:
                received.clear()
                alerting.check(PATIENCE)
                assert [alert.name for alert in received] == reference.check(clock.now)
                assert all(alert.timestamp.timestamp() == clock.now for alert in received)
        alerting.stop(PATIENCE)
