"""The alerts' settings: the resulting rules, and rejected values."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmeter import AlertOverride, AlertSettings, ConfigError
from genmeter.config.alerts import seconds
from genmeter.schema.alerts import ALERT_RULES, AlertRule
from genmeter.schema.query import duration

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = [math.nan, math.inf, -math.inf, 10**400, True, "0.5", b"1", [1], Decimal("0.5"), 1j]
FILE = """
objective = 0.999
cost_budget = 50
token_budget = 2e6
selector = 'cluster="a"'
jobs = ["one", "two"]
collectors = ["gateway"]
runbook_url = "https://example.org/runbook"
group_by = ["namespace"]
replica_labels = ["replica"]
histograms = "native"
distributions = "recorded"
suffix = "a"

[alerts.high_error_rate]
threshold = 0.5
window = "10m"
for = "90s"
min_samples = 7
severity = "warning"

[alerts.EvaluationScoreDrop]
window = ["30m", "12h"]

[alerts."high_token_usage:total"]
enabled = false
"""


def row(settings: AlertSettings, id_: str) -> AlertRule:
    """Return a rule by its id."""
    (found,) = [rule for rule in settings.rules() if rule.id == id_]
    return found


def ids(settings: AlertSettings) -> set[str]:
    """Return the rules' ids."""
    return {rule.id for rule in settings.rules()}


def written(folder: Path, text: str) -> Path:
    """Write a settings file and return its path."""
    path = folder / "alerts.toml"
    path.write_text(text, encoding="utf-8")
    return path


# --- the rules --------------------------------------------------------------------------


def test_default_rules_are_the_table() -> None:
    """All rows without budgets and jobs, in order and unchanged."""
    without = {
        rule.id for rule in ALERT_RULES if rule.condition.base in ("cost_budget", "token_budget")
    }
    expected = [rule for rule in ALERT_RULES if rule.id not in {*without, "target_absent"}]
    found = AlertSettings().rules()
    assert [rule.id for rule in found] == [rule.id for rule in expected]
    for rule, of_table in zip(found, expected, strict=True):
        if of_table.condition.base is None:
            found_condition = replace(rule.condition, jobs=of_table.condition.jobs)
            assert replace(rule, condition=found_condition) == of_table


@pytest.mark.parametrize("name", ["cost_budget", "token_budget"])
def test_each_budget_adds_its_alerts(name: str) -> None:
    """Each budget has two rows, in its own unit."""
    settings = AlertSettings(**{name: 50.0})  # type: ignore[arg-type]
    assert ids(settings) - ids(AlertSettings()) == {f"{name}_burn:warning", f"{name}_burn:critical"}
    assert row(settings, f"{name}_burn:warning").condition.threshold == 40.0
    assert row(settings, f"{name}_burn:critical").condition.threshold == 50.0


def test_required_jobs_add_an_alert() -> None:
    """Without jobs there is no alert on absent targets."""
    assert "target_absent" not in ids(AlertSettings())
    settings = AlertSettings(jobs=["one", "two"])  # type: ignore[arg-type]
    assert "target_absent" in ids(settings)
    assert settings.jobs == ("one", "two")


@pytest.mark.parametrize(
    ("objective", "thresholds"),
    [
        (0.99, [0.144, 0.06, 0.03, 0.01]),
        (0.9, [1.44, 0.6, 0.3, 0.1]),
        (0.999, [0.0144, 0.006, 0.003, 0.001]),
        (0.999999, [0.0000144, 0.000006, 0.000003, 0.000001]),
        (0.5, [7.2, 3.0, 1.5, 0.5]),
    ],
)
def test_error_budget_is_exact(objective: float, thresholds: list[float]) -> None:
    """Thresholds are exact decimal fractions."""
    burns = [r for r in AlertSettings(objective=objective).rules() if "error_budget" in r.id]
    assert [rule.condition.threshold for rule in burns] == thresholds
    assert all(rule.condition.base is None for rule in burns)


def test_large_thresholds_keep_all_digits() -> None:
    """The threshold equals the setting."""
    threshold = 1_234_567_890_123.5
    override = {"high_token_usage:total": AlertOverride(threshold=threshold)}
    assert (
        row(AlertSettings(alerts=override), "high_token_usage:total").condition.threshold
        == threshold
    )
    budget = AlertSettings(token_budget=123_456_789_012_345)
    assert row(budget, "token_budget_burn:critical").condition.threshold == 123_456_789_012_345.0


def test_infinite_thresholds_are_rejected() -> None:
    """Such an alert would never fire."""
    override = AlertOverride(threshold=1e300)
    with pytest.raises(
        ConfigError, match=r"cost_budget_burn:warning must .*got 1e\+300 times 1e\+300"
    ):
        AlertSettings(cost_budget=1e300, alerts={"cost_budget_burn:warning": override})


def test_overrides_change_only_their_fields() -> None:
    """Each field of one alert can be set on its own."""
    before = AlertSettings()
    plain = row(before, "samples_rejected")

    def of(**changed: Any) -> AlertRule:
        return replace(plain, condition=replace(plain.condition, **changed))

    for override, changed in (
        (AlertOverride(threshold=1), of(threshold=1.0)),
        (AlertOverride(windows=(7,)), of(windows=(7.0,))),
        (AlertOverride(for_=30), replace(plain, for_=30.0)),
        (AlertOverride(min_samples=3), of(min_samples=3)),
        (AlertOverride(severity="info"), replace(plain, severity="info")),
        (AlertOverride(), plain),
    ):
        rules = AlertSettings(alerts={"samples_rejected": override}).rules()
        assert rules == tuple(changed if r.id == plain.id else r for r in before.rules())
        assert all(type(window) is float for rule in rules for window in rule.condition.windows)
        assert all(type(rule.condition.threshold) is type(rule.for_) is float for rule in rules)


def test_zero_overrides_are_used() -> None:
    """0 differs from None, for a threshold and for the wait."""
    override = AlertOverride(threshold=0, for_=0)
    found = row(AlertSettings(alerts={"error_budget_burn:1h": override}), "error_budget_burn:1h")
    assert (found.condition.threshold, found.for_) == (0.0, 0.0)


def test_overrides_by_name_apply_to_all_rows_and_ids_win() -> None:
    """Four rows share the name of the burn; one of them is also set by id."""
    settings = AlertSettings(
        alerts={
            "error_budget_burn:6h": AlertOverride(for_=600.0),
            "GenerationErrorBudgetBurn": AlertOverride(for_=60.0, min_samples=3),
        }
    )
    burns = [rule for rule in settings.rules() if rule.name == "GenerationErrorBudgetBurn"]
    assert [rule.for_ for rule in burns] == [60.0, 600.0, 60.0, 60.0]
    assert {rule.condition.min_samples for rule in burns} == {3}


@pytest.mark.parametrize(
    ("key", "gone"),
    [
        ("RateLimited", {"rate_limited"}),
        ("error_budget_burn:1d", {"error_budget_burn:1d"}),
        ("GenerationErrorBudgetBurn", {f"error_budget_burn:{w}" for w in ("1h", "6h", "1d", "3d")}),
    ],
)
def test_disabled_alerts_are_dropped(key: str, gone: set[str]) -> None:
    """By id, or all rows of a name."""
    settings = AlertSettings(alerts={key: AlertOverride(enabled=False)})
    assert ids(AlertSettings()) - ids(settings) == gone


def test_settings_copy_their_overrides() -> None:
    """Later changes of the caller's dict have no effect."""
    alerts = {"rate_limited": AlertOverride(threshold=0.5)}
    settings = AlertSettings(alerts=alerts)
    alerts.clear()
    assert row(settings, "rate_limited").condition.threshold == 0.5


def test_threshold_arguments_win_over_settings() -> None:
    """An argument replaces the threshold only; None changes nothing."""
    settings = AlertSettings(
        objective=0.9,
        alerts={
            "high_error_rate": AlertOverride(threshold=0.3, for_=60.0),
            "GenerationSlow": AlertOverride(threshold=5.0),
        },
    )
    found = settings.with_thresholds(
        {
            "alert_max_error_rate": 0.4,
            "alert_max_generation_time_seconds": 6.0,
            "alert_min_success_rate": None,
        }
    )
    error_rate = row(found, "high_error_rate")
    assert (error_rate.condition.threshold, error_rate.for_) == (0.4, 60.0)
    assert row(found, "high_generation_time").condition.threshold == 6.0
    assert row(found, "low_success_rate").condition.threshold == 0.8
    assert found.objective == 0.9
    assert row(settings, "high_error_rate").condition.threshold == 0.3
    assert settings.with_thresholds({}) == settings


@pytest.mark.parametrize("value", HOSTILE)
def test_invalid_threshold_argument_is_named(value: Any) -> None:
    """The message has the argument's name."""
    with pytest.raises(ConfigError) as caught:
        AlertSettings().with_thresholds({"alert_max_error_rate": value})
    assert str(caught.value).startswith("alert_max_error_rate must be a finite number, got ")
    assert repr(value) in str(caught.value)


# --- rejected values -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", ["objective", "cost_budget", "token_budget"])
def test_numbers_must_be_finite(name: str, value: Any) -> None:
    """The message has the requirement and the value."""
    with pytest.raises(ConfigError) as caught:
        AlertSettings(**{name: value})
    assert str(caught.value).startswith(f"{name} must be a ")
    assert str(caught.value).endswith(f"got {value!r}")


@pytest.mark.parametrize("value", [0, 1, -0.5, 99, 1.0, 1 - 1e-17])
def test_objective_must_be_between_0_and_1(value: float) -> None:
    """Both bounds and percentages are rejected."""
    with pytest.raises(ConfigError, match="objective must be a share above 0 and below 1"):
        AlertSettings(objective=value)


@pytest.mark.parametrize("name", ["cost_budget", "token_budget"])
@pytest.mark.parametrize("value", [0, -1.0])
def test_budgets_must_be_above_0(name: str, value: float) -> None:
    """None means no budget."""
    with pytest.raises(ConfigError, match=f"{name} must be a finite number above 0"):
        AlertSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"selector": 5}, "selector must be a text, got 5"),
        (
            {"runbook_url": "docs/runbook.md"},
            "runbook_url must be an address that starts with http",
        ),
        ({"runbook_url": 5}, "runbook_url must be an address that starts with http"),
        ({"group_by": "namespace"}, "group_by must be a list of label names, got 'namespace'"),
        ({"suffix": None}, "suffix must be at most 16 lower-case letters, digits and single"),
        ({"jobs": "one"}, "jobs must be a list of texts, got 'one'"),
        ({"jobs": ["one", ""]}, "jobs[1] must be a text that is not empty, got ''"),
        ({"jobs": [5]}, "jobs[0] must be a text that is not empty, got 5"),
        ({"jobs": None}, "jobs must be a list of texts, got None"),
        ({"alerts": None}, "alerts must be a mapping from an alert's id or name to"),
        ({"alerts": [5]}, "alerts must be a mapping"),
        ({"alerts": {"high_error": AlertOverride()}}, "alerts['high_error'] must be one of "),
        ({"alerts": {5: AlertOverride()}}, "alerts[5] must be one of "),
        ({"alerts": {"rate_limited": 0.5}}, "alerts['rate_limited'] must be AlertOverride("),
    ],
)
def test_settings_of_a_wrong_type_are_rejected(arguments: dict[str, Any], message: str) -> None:
    """The message has argument, requirement and value."""
    with pytest.raises(ConfigError) as caught:
        AlertSettings(**arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", HOSTILE)
def test_numbers_of_overrides_must_be_finite(value: Any) -> None:
    """Threshold, windows and wait are checked."""
    arguments: dict[str, Any] = {"threshold": value, "windows": (value,), "for_": value}
    for name, argument in arguments.items():
        with pytest.raises(ConfigError) as caught:
            AlertOverride(**{name: argument})
        assert str(caught.value).startswith(name)
        assert " must be seconds" in str(caught.value) or name == "threshold"
        assert str(caught.value).endswith(f"got {value!r}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"windows": ()}, "windows must be a tuple of seconds, or None, got ()"),
        ({"windows": 300.0}, "windows must be a tuple of seconds, or None, got 300.0"),
        ({"windows": (0,)}, "windows[0] must be seconds from 0.001 to 31622400, got 0"),
        ({"windows": (300.0, -1)}, "windows[1] must be seconds from 0.001 to 31622400, got -1"),
        ({"windows": (4e7,)}, "windows[0] must be seconds from 0.001 to 31622400, got 4"),
        ({"for_": -1}, "for_ must be seconds from 0 to 31622400, or None, got -1"),
        ({"min_samples": 0}, "min_samples must be a whole number of at least 1, or None, got 0"),
        ({"min_samples": 2.0}, "min_samples must be a whole number of at least 1"),
        ({"min_samples": True}, "min_samples must be a whole number of at least 1"),
        ({"severity": "page"}, "severity must be one of critical, warning, info, or None, got 'p"),
        ({"severity": ["info"]}, "severity must be one of critical, warning, info"),
        ({"enabled": 0}, "enabled must be true or false, got 0"),
        ({"enabled": None}, "enabled must be true or false, got None"),
    ],
)
def test_invalid_overrides_are_rejected(arguments: dict[str, Any], message: str) -> None:
    """The message has argument, requirement and value."""
    with pytest.raises(ConfigError) as caught:
        AlertOverride(**arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("key", "windows"),
    [
        ("high_error_rate", (300.0, 60.0)),
        ("GenerationErrorBudgetBurn", (300.0,)),
        ("evaluation_score_drop", (1.0, 2.0, 3.0)),
    ],
)
def test_number_of_windows_is_fixed(key: str, windows: tuple[float, ...]) -> None:
    """The error is raised when the settings are created."""
    with pytest.raises(ConfigError) as caught:
        AlertSettings(alerts={key: AlertOverride(windows=windows)})
    assert "must be as many and in the same order" in str(caught.value)
    assert str(caught.value).endswith(f"got {list(windows)!r}")


# --- files ---------------------------------------------------------------------------------------


def test_file_equals_settings_in_code(tmp_path: Path) -> None:
    """Every argument has a key; durations are in Prometheus's format."""
    assert AlertSettings.from_file(written(tmp_path, FILE)) == AlertSettings(
        objective=0.999,
        cost_budget=50,
        token_budget=2e6,
        selector='cluster="a"',
        jobs=("one", "two"),
        collectors=("gateway",),
        runbook_url="https://example.org/runbook",
        group_by=("namespace",),
        replica_labels=("replica",),
        histograms="native",
        distributions="recorded",
        suffix="a",
        alerts={
            "high_error_rate": AlertOverride(
                threshold=0.5, windows=(600.0,), for_=90.0, min_samples=7, severity="warning"
            ),
            "EvaluationScoreDrop": AlertOverride(windows=(1_800.0, 43_200.0)),
            "high_token_usage:total": AlertOverride(enabled=False),
        },
    )


def test_empty_file_is_the_defaults(tmp_path: Path) -> None:
    """All keys are optional."""
    assert AlertSettings.from_file(str(written(tmp_path, ""))) == AlertSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("treshold = 1", "treshold is unknown; must be one of alerts, collectors, cost_budget, "),
        ("objective = '99'", "objective must be a share above 0 and below 1, got '99'"),
        ("objective = 99", "objective must be a share above 0 and below 1, got 99"),
        ("objective = nan", "objective must be a share above 0 and below 1, got nan"),
        ("cost_budget = inf", "cost_budget must be a finite number above 0"),
        ("token_budget = true", "token_budget must be a finite number above 0"),
        ("cost_budget = 2026-01-01", "cost_budget must be a finite number above 0"),
        ("selector = ['a']", "selector must be a text, got ['a']"),
        ("jobs = 'one'", "jobs must be a list of texts, got 'one'"),
        ("alerts = 5", "alerts must be tables such as [alerts.high_error_rate], got 5"),
        ("alerts.high_error_rate = 0.5", "alerts.high_error_rate must be a table, got 0.5"),
        ("[alerts.nothing]", "alerts['nothing'] must be one of CompletionTokensHigh, "),
        (
            "[alerts.high_token_usage.total]",
            "alerts.high_token_usage.total is unknown; must be one ",
        ),
        (
            "[alerts.rate_limited]\npending = '5m'",
            "alerts.rate_limited.pending is unknown; must be ",
        ),
        (
            "[alerts.rate_limited]\nwindow = '5 minutes'",
            "alerts.rate_limited: window: invalid duration '5 minutes'; use e.g. 5m",
        ),
        (
            "[alerts.rate_limited]\nwindow = 300",
            "alerts.rate_limited: window: invalid duration 300; use e.g. 5m",
        ),
        (
            "[alerts.rate_limited]\nwindow = ['5m', 300]",
            "alerts.rate_limited: window: invalid duration 300; use e.g. 5m",
        ),
        (
            "[alerts.rate_limited]\nwindow = []",
            "alerts.rate_limited: windows must be a tuple of seconds",
        ),
        (
            "[alerts.rate_limited]\nwindow = '0s'",
            "alerts.rate_limited: window must be a duration from 1ms to 366d, got '0s'",
        ),
        (
            "[alerts.rate_limited]\nwindow = '53w'",
            "alerts.rate_limited: window must be a duration from 1ms to 366d, got '53w'",
        ),
        (
            "[alerts.rate_limited]\nwindow = ['5m', '1h']",
            "windows of the alert rate_limited must be as many and in the same order as ",
        ),
        (
            "[alerts.rate_limited]\nfor = -5",
            "alerts.rate_limited: for: invalid duration -5; use e.g. 5m",
        ),
        (
            "[alerts.rate_limited]\nfor = '367d'",
            "alerts.rate_limited: for must be a duration from 0s to 366d, got '367d'",
        ),
        (
            "[alerts.rate_limited]\nthreshold = 'high'",
            "alerts.rate_limited: threshold must be a finite number, or None, got 'high'",
        ),
        (
            "[alerts.rate_limited]\nmin_samples = 1.5",
            "alerts.rate_limited: min_samples must be a whole number of at least 1",
        ),
        (
            "[alerts.rate_limited]\nseverity = 'page'",
            "alerts.rate_limited: severity must be one of critical, warning, info",
        ),
        (
            "[alerts.rate_limited]\nenabled = 'no'",
            "alerts.rate_limited: enabled must be true or false, got 'no'",
        ),
    ],
)
def test_errors_in_a_file_name_file_key_and_value(text: str, message: str, tmp_path: Path) -> None:
    """The message has the place of the error."""
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        AlertSettings.from_file(path)
    assert str(caught.value).startswith(f"the alerts' file {str(path)!r}: {message}")


@pytest.mark.parametrize(
    "content", [b"objective = ", b"\xff\xfe", b"a = 1\na = 2", b"threshold: 5"], ids=repr
)
def test_invalid_toml_is_rejected(content: bytes, tmp_path: Path) -> None:
    """The message has the file and the problem."""
    path = tmp_path / "alerts.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot be read: .*; correct the file") as e:
        AlertSettings.from_file(path)
    assert str(path) in str(e.value)


@pytest.mark.parametrize("path", ["none.toml", ".", "nul\0.toml", ""])
def test_missing_file_is_rejected(path: str) -> None:
    """A missing file, a folder and invalid paths."""
    with pytest.raises(ConfigError, match=r"cannot be read: .*; correct the file"):
        AlertSettings.from_file(path)


def test_coerce_accepts_none_settings_and_paths(tmp_path: Path) -> None:
    """None is the defaults, and a path is its file."""
    path = written(tmp_path, "objective = 0.5")
    settings = AlertSettings(objective=0.5)
    assert AlertSettings.coerce(None) == AlertSettings()
    assert AlertSettings.coerce(settings) is settings
    assert AlertSettings.coerce(path) == AlertSettings.coerce(str(path)) == settings
    values: list[object] = [5, {}, [path], True]
    for value in values:
        with pytest.raises(ConfigError) as caught:
            AlertSettings.coerce(value)
        assert str(caught.value).startswith("alerts must be AlertSettings(...) or a ")


# --- durations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("5m", 300.0), ("90s", 90.0), ("1h30m", 5_400.0), ("250ms", 0.25), ("0s", 0.0)),
        *(("1w", 604_800.0), ("1d12h", 129_600.0), ("1w1d1h1m1s1ms", 694_861.001)),
    ],
)
def test_durations_are_parsed(text: str, value: float) -> None:
    """Whole numbers with units, the largest first."""
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "m", "5 m", " 5m", "5m ", "5m\n", "1.5h", "-5m", "+5m", "5M", "5min"),
        *("30m1h", "5m5m", "5y", "\u0665m", "9" * 400 + "m", None, 5, 5.0, b"5m", ["5m"]),
    ],
)
def test_invalid_durations_are_rejected(text: object) -> None:
    """Other units, a wrong order, a plain number and too many digits."""
    with pytest.raises(ConfigError) as caught:
        seconds(text)
    assert str(caught.value).startswith(f"invalid duration {text!r}; use e.g. 5m")


@given(st.integers(0, 366 * 86_400_000))
def test_durations_round_trip(milliseconds: int) -> None:
    """Rendered durations parse to the same number."""
    assert seconds(duration(milliseconds / 1_000)) == pytest.approx(milliseconds / 1_000)


@pytest.mark.parametrize(
    ("key", "override", "message"),
    [
        ("CostBudgetBurn", AlertOverride(severity="warning"), "must differ"),
        (
            "GenerationErrorBudgetBurn",
            AlertOverride(windows=(9.0, 3.0)),
            "must differ",
        ),
        ("error_budget_burn:1h", AlertOverride(windows=(300.0, 3600.0)), "in the same order as"),
        ("evaluation_score_drop", AlertOverride(windows=(86400.0, 3600.0)), "in the same order as"),
        ("model_unpriced", AlertOverride(min_samples=3), "must be unset .*the alert has none"),
        ("generation_stalled", AlertOverride(threshold=3.0), "the alert has none"),
    ],
)
def test_overrides_that_do_not_fit_an_alert_are_rejected(
    key: str, override: AlertOverride, message: str
) -> None:
    """Equal alerts, windows in a wrong order and unused settings are errors."""
    with pytest.raises(ConfigError, match=message):
        AlertSettings(cost_budget=1.0, alerts={key: override})


def test_window_label_follows_the_window() -> None:
    """The label names the window that is set."""
    settings = AlertSettings(
        alerts={"error_budget_burn:1h": AlertOverride(windows=(7_200.0, 600.0))}
    )
    (rule,) = (each for each in settings.rules() if each.id == "error_budget_burn:1h")
    assert dict(rule.labels) == {"window": "2h"}
