"""Alerts equal those of a reference with lists of all calls and all evaluations."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import genmeter.clock
from genmeter.alerting.evaluate import Finding
from genmeter.alerting.state import AlertStates
from genmeter.config.alerts import AlertOverride, AlertSettings
from genmeter.config.monitor import MonitorConfig
from genmeter.schema.alerts import ALERT_RULES
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from genmeter.alerting.state import Alert

PATIENCE = 60.0
SETTINGS = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])

RULES = [
    ("low_success_rate", "success", "alert_min_success_rate", 0.8),
    ("high_generation_time", "seconds", "alert_max_generation_time_seconds", 30),
    ("high_error_rate", "failure", "alert_max_error_rate", 0.2),
    ("high_token_usage:prompt", "prompt", "alert_max_prompt_token_mean", 4096),
    ("high_token_usage:completion", "completion", "alert_max_completion_token_mean", 4096),
    ("high_token_usage:total", "total", "alert_max_total_token_mean", 8192),
    ("long_conversations", "turns", "alert_max_conversation_length_mean", 2),
]
"""As in AfterImage's docstring: alert, samples, argument, default."""
BY_MODEL = {"seconds", "prompt", "completion", "total"}
OTHERS = {row.id: AlertOverride(enabled=False) for row in ALERT_RULES if row.argument is None}

Key = tuple[str, str | None]
"""An alert and the model of its group."""


class Clock:
    """The time that calls are recorded at."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def read(self) -> float:
        """Return the time."""
        return self.now


class Step(NamedTuple):
    """A pause, then a recorded event (nothing, a call or a conversation), and whether to check."""

    pause: int
    kind: str
    model: str
    success: bool
    seconds: int
    prompt: int | None
    completion: int | None
    turns: int
    is_check: bool


tokens = st.none() | st.sampled_from([0, 4096, 4097, 10_000])
steps = st.builds(
    Step,
    st.sampled_from([0, 0, 0, 1, 50, 100, 100, 299, 300, 301]),
    st.sampled_from(["nothing", "call", "call", "conversation"]),
    st.sampled_from("mn"),
    st.sampled_from([True, True, True, True, False]),
    st.sampled_from([0, 30, 31, 90]),
    tokens,
    tokens,
    st.integers(1, 4),
    st.booleans(),
)
thresholds = st.fixed_dictionaries(
    {}, optional={row[2]: st.sampled_from([None, 0, 0.5, 1.0, 3.0, 5000]) for row in RULES}
)
overrides = st.fixed_dictionaries(
    {},
    optional={
        row[0]: st.builds(
            AlertOverride,
            for_=st.sampled_from([None, 0.0, 60.0, 100.0]),
            min_samples=st.sampled_from([None, 1, 2, 3]),
        )
        for row in RULES
    },
)


class States:
    """A simple reference of pending, firing and resolved: it keeps all past conditions."""

    def __init__(self, repeat: float | None) -> None:
        self.repeat = repeat
        self.evaluated: list[tuple[float, dict[Key, float]]] = []
        self.sent: list[tuple[float, Key, str]] = []

    def update(self, now: float, held: dict[Key, float]) -> tuple[list[Key], list[Key]]:
        """Take in what holds, with how long it must; give what is sent as firing and as resolved."""
        self.evaluated.append((now, held))
        firing = [key for key, wait in held.items() if now - self._since(key) >= wait]
        last = {key: (when, status) for when, key, status in self.sent}
        to_send = [key for key in firing if self._is_due(last.get(key), now)]
        over = [key for key, (_, status) in last.items() if status == "firing" and key not in held]
        self.sent += [(now, key, "firing") for key in to_send]
        self.sent += [(now, key, "resolved") for key in over]
        return to_send, over

    def _since(self, key: Key) -> float:
        """Say from which of the last evaluations on it held at each."""
        since = self.evaluated[-1][0]
        for when, held in reversed(self.evaluated):
            if key not in held:
                break
            since = when
        return since

    def _is_due(self, last: tuple[float, str] | None, now: float) -> bool:
        if last is None or last[1] == "resolved":
            return True
        return self.repeat is not None and now - last[0] >= self.repeat


class Reference:
    """A simple reference of the alerts: it keeps all events, and searches them each time."""

    def __init__(
        self,
        thresholds: dict[str, float | None],
        overrides: dict[str, AlertOverride],
        repeat: float | None,
    ) -> None:
        self.thresholds = thresholds
        self.overrides = overrides
        self.states = States(repeat)
        self.samples: list[tuple[float, str, str | None, float]] = []

    def record(self, now: float, each: Step) -> None:
        """Keep what the step says; a conversation has a length only."""
        if each.kind == "conversation":
            self.samples.append((now, "turns", None, each.turns))
        if each.kind != "call":
            return
        parts = [each.prompt, each.completion]
        values = {
            "success": float(each.success),
            "failure": float(not each.success),
            "seconds": each.seconds,
            "prompt": each.prompt,
            "completion": each.completion,
            "total": None if parts == [None, None] else sum(part or 0 for part in parts),
        }
        self.samples += [
            (now, name, each.model if name in BY_MODEL else None, value)
            for name, value in values.items()
            if value is not None
        ]
        if each.success:
            self.samples.append((now, "good", each.model, 1.0))

    def check(self, now: float) -> tuple[list[Key], list[Key]]:
        """Evaluate all rules and return what is to be sent."""
        held: dict[Key, float] = {}
        for alert, metric, argument, default in RULES:
            limit = self.thresholds.get(argument)
            limit = default if limit is None else limit
            given = self.overrides.get(alert, AlertOverride())
            for model in ("m", "n") if metric in BY_MODEL else (None,):
                values = self._recent(metric, model, now)
                # The total is a mean over the calls that were of use.
                counted = values if metric != "total" else self._recent("good", model, now)
                if not counted or len(counted) < (given.min_samples or 1):
                    continue
                mean = sum(values) / len(counted)
                if mean < limit if alert.startswith("low") else mean > limit:
                    held[alert, model] = given.for_ or 0.0
        return self.states.update(now, held)

    def _recent(self, metric: str, model: str | None, now: float) -> list[float]:
        return [
            value
            for when, name, whose, value in self.samples
            if (name, whose) == (metric, model) and when >= now - 300
        ]


def key_of(alert: Alert) -> Key:
    """Return an alert's name and model."""
    return alert.name, alert.data["group"].get("gen_ai_request_model")


@SETTINGS
@given(
    program=st.lists(steps, max_size=40),
    thresholds=thresholds,
    overrides=overrides,
    repeat=st.sampled_from([None, 100.0, 100.0, 400.0]),
)
def test_sent_alerts_equal_the_reference(
    program: list[Step],
    thresholds: dict[str, float | None],
    overrides: dict[str, AlertOverride],
    repeat: float | None,
) -> None:
    """For any events and times of checks, the same alerts are sent in the same order."""
    clock = Clock()
    received: list[Alert] = []
    reference = Reference(thresholds, overrides, repeat)
    config = MonitorConfig(
        alerts=AlertSettings(alerts={**OTHERS, **overrides}), alert_repeat_seconds=repeat
    )
    with (
        mock.patch.object(genmeter.clock, "now", clock.read),
        isolated_monitor(
            config,
            alert_handlers=[received.append],
            metrics_interval=0,
            shutdown_timeout=PATIENCE,
            **thresholds,
        ) as monitor,
    ):
        for each in program:
            clock.now += each.pause
            if each.kind == "call":
                monitor.track_generation(
                    each.seconds,
                    each.success,
                    model_name=each.model,
                    prompt_token_count=each.prompt,
                    completion_token_count=each.completion,
                )
            elif each.kind == "conversation":
                monitor.track_generation(1e6, False, conversation_length=each.turns)
            reference.record(clock.now, each)
            if each.is_check:
                received.clear()
                monitor.check_alerts()
                to_send, over = reference.check(clock.now)
                sent = [(key_of(alert), alert.status) for alert in received]
                assert [key for key, status in sent if status == "firing"] == to_send
                assert {key for key, status in sent if status == "resolved"} == set(over)
                assert len(sent) == len(to_send) + len(over)
                assert all(alert.timestamp.timestamp() == clock.now for alert in received)


RULE = next(row for row in ALERT_RULES if row.id == "high_generation_time")


@SETTINGS
@given(
    course=st.lists(
        st.tuples(st.sampled_from([0, 1, 10, 60]), st.sets(st.sampled_from("abc"))), max_size=60
    ),
    wait=st.sampled_from([0.0, 1.0, 30.0, 60.0]),
    repeat=st.sampled_from([None, 10.0, 60.0]),
)
def test_states_equal_the_reference(
    course: list[tuple[int, set[str]]], wait: float, repeat: float | None
) -> None:
    """For any conditions, the same alerts are pending, firing, sent, repeated and resolved."""
    rule = AlertOverride(for_=wait).apply(RULE)
    alert_states, states, now = AlertStates(AlertSettings(), repeat), States(repeat), 1_000_000.0
    for pause, held in course:
        now += pause
        found = [Finding(rule, (name,), 50.0, 50.0, 1, 50.0, 50.0) for name in sorted(held)]
        sent = alert_states.update(found, now, job="j", has_receivers=True)
        to_send, over = states.update(now, {(rule.id, name): wait for name in sorted(held)})
        assert [key_of(alert) for alert in sent if alert.status == "firing"] == to_send
        assert {key_of(alert) for alert in sent if alert.status == "resolved"} == set(over)
        firing = {name for name in held if now - states._since((rule.id, name)) >= wait}
        assert {key_of(alert)[1] for alert in alert_states.firing(now, "j")} == firing
        assert alert_states.counts([rule]) == {rule.name: len(firing)}
