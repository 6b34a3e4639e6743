"""The configuration: rejected values and environment variables."""

from __future__ import annotations

import dataclasses
import json
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pytest

from genmeter import (
    ConfigError,
    CustomMetric,
    EndpointConfig,
    GenerationMonitor,
    HistoryConfig,
    LabelLimits,
    MonitorConfig,
)
from genmeter.config.alerts import AlertSettings
from genmeter.config.monitor import describe_environment
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from pathlib import Path


class Model(StrEnum):
    """Names of models."""

    SMALL = "small"


def custom(**fields: Any) -> CustomMetric:
    """Return a custom metric, by default with a valid name."""
    return CustomMetric(**{"name": "app.size", **fields})


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    *((EndpointConfig, {"port": port}, "port") for port in (-1, 65_536, "9464", True, 1.5)),
    *((EndpointConfig, {"linger": value}, "linger") for value in (-1, float("nan"), "5", True)),
    (EndpointConfig, {"linger": float("inf")}, "linger"),
    (EndpointConfig, {"linger": 1e300}, "linger"),
    (EndpointConfig, {"enabled": "yes"}, "enabled"),
    (EndpointConfig, {"host": ""}, "host"),
    (EndpointConfig, {"host": 5}, "host"),
    (EndpointConfig, {"keyfile": "key.pem"}, "keyfile"),
    (EndpointConfig, {"client_ca_file": "ca.pem"}, "client_ca_file"),
    (EndpointConfig, {"certfile": "c.pem", "client_ca_file": ""}, "client_ca_file"),
    (EndpointConfig, {"created_series": "no"}, "created_series"),
    (EndpointConfig, {"username": "me"}, "username"),
    (EndpointConfig, {"password": "secret"}, "password"),
    (EndpointConfig, {"username": "a:b", "password": "secret"}, "username"),
    (EndpointConfig, {"username": "me", "password": 5}, "password"),
    *((HistoryConfig, {"capacity": value}, "capacity") for value in (0, -1, 2**21 + 1, "9", 1.5)),
    *((LabelLimits, {"models": value}, "models") for value in (0, 5_001, None, True)),
    (LabelLimits, {"combinations": 1_000_001}, "combinations"),
    *((MonitorConfig, {"models": value}, "models") for value in ("gpt", 5, {"a"}, ["a", ""], [5])),
    *(
        (MonitorConfig, {name: value}, name)
        for name in ("default_model", "provider", "operation")
        for value in ("", " a", "a\nb", "\ud800", "x" * 129, 5, b"a")
    ),
    (MonitorConfig, {"operation": None}, "operation"),
    *((MonitorConfig, {"expected_samples": n}, "expected_samples") for n in (-1, 1.5, 2**40 + 1)),
    (MonitorConfig, {"drain": "later"}, "drain"),
    (MonitorConfig, {"meter_provider": "mine"}, "meter_provider"),
    (MonitorConfig, {"meter_provider": object()}, "meter_provider"),
    (MonitorConfig, {"meter_provider": None}, "meter_provider"),
    (MonitorConfig, {"endpoint": None}, "endpoint"),
    (MonitorConfig, {"history": 5}, "history"),
    (MonitorConfig, {"limits": {}}, "limits"),
    (MonitorConfig, {"prices": 5}, "prices"),
    *(
        (MonitorConfig, {"score_scales": value}, "score_scales")
        for value in (None, [], {"": (0, 1)})
    ),
    *(
        (MonitorConfig, {"score_scales": {"s": scale}}, "score_scales")
        for scale in (5, (1, 0), (1, 1), (0, 1, 2), ("a", "b"), (0, float("inf")), (-1e308, 1e308))
    ),
    *((MonitorConfig, {"custom_metrics": value}, "custom_metrics") for value in (None, "a", ["a"])),
    *(
        (custom, {"name": name}, "name")
        for name in ("", "1a", "a b", "a\u00e9", "a" * 129, 5, None)
    ),
    *((custom, {"kind": kind}, "kind") for kind in ("summary", "observable_gauge", None, [])),
    *((custom, {"unit": unit}, "unit") for unit in ("x" * 64, "\u00b5s", "a\nb", None)),
    *((custom, {"help": text}, "help") for text in (None, 5, "\ud800")),
    *(
        (custom, {"kind": "histogram", "bounds": bounds}, "bounds")
        for bounds in ((), None, (2, 1), (1, 1), (float("nan"),), (0, float("inf")), "ab", ("a",))
    ),
    (custom, {"kind": "gauge", "bounds": (1, 2)}, "bounds"),
    *(
        (custom, {"labels": v}, "labels")
        for v in ("key", ("",), (5,), None, ("a", "a"), ("a.b", "a_b"))
    ),
    *((custom, {"name": name}, "name") for name in ("a_sum", "a.count", "a_bucket", "a_total")),
    (custom, {"name": "genmeter.tokens", "kind": "counter"}, "name"),
    (custom, {"name": "genmeter.tokens", "kind": "counter", "unit": "By"}, "name"),
    (custom, {"name": "GenMeter.Tokens", "unit": "By"}, "name"),
    (custom, {"name": "genmeter_tokens"}, "name"),
    (custom, {"name": "genmeter_evaluation_score_total", "kind": "counter"}, "name"),
    (custom, {"name": "target.info"}, "name"),
]


@pytest.mark.parametrize(("part", "fields", "name"), WRONG)
def test_invalid_values_are_named_with_their_requirement(
    part: Any, fields: dict[str, Any], name: str
) -> None:
    """The message has argument, requirement and value (but no password)."""
    with pytest.raises(ConfigError) as caught:
        part(**fields)
    message = str(caught.value)
    assert name in message
    assert " must " in message
    value = fields[name]
    if name == "password":
        assert "secret" not in message
    elif isinstance(value, str) and len(value) < 50:
        assert repr(value) in message
    message.encode()


@pytest.mark.parametrize(
    "rows",
    [
        (custom(), custom()),
        (custom(name="app.size"), custom(name="App.Size")),
        (custom(name="app.size"), custom(name="app_size")),
        (custom(name="app.size", kind="counter"), custom(name="app.size.total", kind="counter")),
        (custom(name="app.h", kind="histogram", bounds=(1,)), custom(name="app.h.created")),
    ],
    ids=["same", "case", "underscore", "total", "suffix"],
)
def test_custom_metrics_with_shared_series_are_rejected(rows: tuple[CustomMetric, ...]) -> None:
    """Names must be distinct, in OpenTelemetry and in Prometheus."""
    with pytest.raises(ConfigError, match=r"custom_metrics must be distinct.*rename one"):
        MonitorConfig(custom_metrics=rows)


def test_all_configurations_have_defaults_and_are_frozen() -> None:
    """No argument is required."""
    config = MonitorConfig()
    assert config == MonitorConfig.from_env({})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.drain = "inline"  # type: ignore[misc]


def test_values_are_converted_and_copied() -> None:
    """Lists become tuples, Enums their values, numbers floats."""
    scales = {Model.SMALL: [0, 5]}
    config = MonitorConfig(
        models=["a", Model.SMALL],  # type: ignore[arg-type]
        default_model=Model.SMALL,
        score_scales=scales,  # type: ignore[arg-type]
        custom_metrics=[custom(kind="histogram", bounds=[1, 2], labels=["k"])],  # type: ignore[arg-type]
        prices={"a": (1, 2)},
    )
    scales.clear()
    assert config.models == ("a", "small")
    assert type(config.default_model) is str
    assert config.score_scales == {"small": (0.0, 5.0)}
    (row,) = config.custom_metrics
    assert (row.bounds, row.labels) == ((1.0, 2.0), ("k",))
    assert all(type(bound) is float for bound in row.bounds)
    assert config.prices is not None
    assert config.prices.cost("a", 10**6, 0) == 1.0


@pytest.mark.parametrize(
    ("endpoint", "asked"),
    [
        (EndpointConfig(), False),
        (EndpointConfig(enabled=False), False),
        (EndpointConfig(linger=5), False),
        (EndpointConfig(enabled=True), True),
        (EndpointConfig(host="localhost"), True),
        (EndpointConfig(port=0), True),
    ],
)
def test_endpoint_is_explicit_with_a_switch_host_or_port(
    endpoint: EndpointConfig, asked: bool
) -> None:
    """Only then is an address in use an error."""
    assert endpoint.is_explicit is asked


def test_passwords_are_not_shown() -> None:
    """The repr of a configuration has no secret."""
    config = MonitorConfig(endpoint=EndpointConfig(username="me", password="hush"))
    assert "hush" not in repr(config)
    assert "hush" not in str(config)


# Each variable with a text, its field and the value.
VARIABLES: dict[str, tuple[str, str, Any]] = {
    "GENMETER_DEFAULT_MODEL": (" gpt ", "default_model", "gpt"),
    "GENMETER_MODELS": ("a, b,,c", "models", ("a", "b", "c")),
    "GENMETER_PROVIDER": ("openai", "provider", "openai"),
    "GENMETER_OPERATION": ("embeddings", "operation", "embeddings"),
    "GENMETER_JOB": (" nightly ", "job", "nightly"),
    "GENMETER_RESUME": ("true", "resume", True),
    "GENMETER_EXPECTED_SAMPLES": ("500", "expected_samples", 500),
    "GENMETER_BUDGET_TOKENS": ("5000", "budget_tokens", 5000),
    "GENMETER_BUDGET_USD": ("2.5", "budget_usd", 2.5),
    "GENMETER_OLDER_METRIC_NAMES": ("true", "older_metric_names", True),
    "GENMETER_METER_PROVIDER": ("global", "meter_provider", "global"),
    "GENMETER_DRAIN": ("inline", "drain", "inline"),
    "GENMETER_HANDLE_SIGTERM": ("false", "handle_sigterm", False),
    "GENMETER_ENDPOINT_CERTFILE": ("c.pem", "endpoint.certfile", "c.pem"),
    "GENMETER_ENDPOINT_KEYFILE": ("k.pem", "endpoint.keyfile", "k.pem"),
    "GENMETER_ENDPOINT_CLIENT_CA_FILE": ("ca.pem", "endpoint.client_ca_file", "ca.pem"),
    "GENMETER_ENDPOINT_USERNAME": ("me", "endpoint.username", "me"),
    "GENMETER_ENDPOINT_PASSWORD": ("hush", "endpoint.password", "hush"),
    "GENMETER_ENDPOINT_LINGER": ("2.5", "endpoint.linger", 2.5),
    "GENMETER_HISTORY_CAPACITY": ("123", "history.capacity", 123),
    "GENMETER_HISTORY_METADATA_BYTES": ("456", "history.metadata_bytes", 456),
    "GENMETER_JOURNAL_MAX_BYTES": ("789", "journal.max_bytes", 789),
    "GENMETER_JOURNAL_KEEP": ("3", "journal.keep", 3),
    "GENMETER_LOG_DIR": ("runs/a", "log_dir", "runs/a"),
    "GENMETER_EVALUATION_EVENTS": ("true", "evaluation_events", True),
    "GENMETER_ALERT_REPEAT_SECONDS": ("90", "alert_repeat_seconds", 90.0),
    "GENMETER_ALERTMANAGER_URL": (
        "http://a:9093, https://b/c",
        "alertmanager_urls",
        ("http://a:9093", "https://b/c"),
    ),
    **{
        f"GENMETER_MAX_{each.name.upper()}": ("7", f"limits.{each.name}", 7)
        for each in dataclasses.fields(LabelLimits)
    },
}
NEEDS = {
    "GENMETER_ENDPOINT_KEYFILE": "GENMETER_ENDPOINT_CERTFILE",
    "GENMETER_ENDPOINT_CLIENT_CA_FILE": "GENMETER_ENDPOINT_CERTFILE",
    "GENMETER_ENDPOINT_USERNAME": "GENMETER_ENDPOINT_PASSWORD",
    "GENMETER_ENDPOINT_PASSWORD": "GENMETER_ENDPOINT_USERNAME",
    "GENMETER_RESUME": "GENMETER_JOB",
}


@pytest.mark.parametrize("variable", VARIABLES)
def test_every_variable_sets_its_field(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of the process sets the field that declares it."""
    for name in {variable, NEEDS.get(variable, variable)}:
        monkeypatch.setenv(name, VARIABLES[name][0])
    value: Any = MonitorConfig.from_env()
    _, path, expected = VARIABLES[variable]
    for part in path.split("."):
        value = getattr(value, part)
    assert value == expected
    assert type(value) is type(expected)


def test_every_variable_is_tested_and_described() -> None:
    """The variables here are all that are declared, each with help."""
    rows = describe_environment()
    names = [name for name, _, _ in rows]
    assert sorted(names) == sorted([*VARIABLES, "GENMETER_PRICES", "GENMETER_ALERTS"])
    assert all(name.startswith("GENMETER_") and help_ for name, _, help_ in rows)
    defaults = {name: default for name, default, _ in rows}
    assert defaults["GENMETER_HISTORY_CAPACITY"] == "100000"
    assert defaults["GENMETER_DEFAULT_MODEL"] == ""
    assert defaults["GENMETER_METER_PROVIDER"] == "builtin"


def test_prices_can_be_a_file_or_the_price_list(tmp_path: Path) -> None:
    """The variable has a path, or the name of the list."""
    file = tmp_path / "prices.json"
    file.write_text(json.dumps({"m": {"input": 1, "output": 2}}))
    config = MonitorConfig.from_env({"GENMETER_PRICES": str(file)})
    assert config.prices is not None
    assert config.prices.cost("m", 0, 10**6) == 2.0
    listed = MonitorConfig.from_env({"GENMETER_PRICES": "genai-prices"})
    assert listed.prices is not None
    with pytest.raises(ConfigError, match="GENMETER_PRICES"):
        MonitorConfig.from_env({"GENMETER_PRICES": str(tmp_path / "none.json")})


def test_alerts_can_be_a_file(tmp_path: Path) -> None:
    """The variable has the path of a TOML file; errors name file and variable."""
    file = tmp_path / "alerts.toml"
    file.write_text("objective = 0.9")
    assert MonitorConfig.from_env({"GENMETER_ALERTS": str(file)}).alerts.objective == 0.9
    assert MonitorConfig(alerts=file).alerts.objective == 0.9
    assert MonitorConfig().alerts == AlertSettings()
    given = AlertSettings(cost_budget=5.0)
    assert MonitorConfig.from_env({"GENMETER_ALERTS": "none.toml"}, alerts=given).alerts is given
    file.write_text("objective = 99")
    for path in (file, tmp_path / "none.toml"):
        with pytest.raises(ConfigError) as caught:
            MonitorConfig.from_env({"GENMETER_ALERTS": str(path)})
        assert str(caught.value).startswith("GENMETER_ALERTS: ")
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("alerts", [5, {"objective": 0.9}, b"alerts.toml", True])
def test_alerts_of_another_type_are_rejected(alerts: Any) -> None:
    """The error names the accepted types."""
    with pytest.raises(ConfigError) as caught:
        MonitorConfig(alerts=alerts)
    assert str(caught.value).startswith("MonitorConfig.alerts: alerts must be AlertSettings(")
    assert str(caught.value).endswith(f"got {alerts!r}")


@pytest.mark.parametrize("text", ["", "   "])
def test_empty_variables_count_as_unset(text: str) -> None:
    """An empty variable changes nothing."""
    assert MonitorConfig.from_env(dict.fromkeys(VARIABLES, text)) == MonitorConfig()


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("GENMETER_EXPECTED_SAMPLES", "many"),
        ("GENMETER_EXPECTED_SAMPLES", "-1"),
        ("GENMETER_ENDPOINT_LINGER", "long"),
        ("GENMETER_ENDPOINT_LINGER", "nan"),
        ("GENMETER_HISTORY_CAPACITY", "0"),
        ("GENMETER_MAX_MODELS", "1e9"),
        ("GENMETER_MAX_STEPS", "0"),
        ("GENMETER_DRAIN", "later"),
        ("GENMETER_METER_PROVIDER", "mine"),
        ("GENMETER_DEFAULT_MODEL", "a\udcff"),
        ("GENMETER_MODELS", "a,\udcff"),
    ],
)
def test_invalid_variables_are_named(variable: str, text: str) -> None:
    """The message has variable, requirement and value."""
    with pytest.raises(ConfigError) as caught:
        MonitorConfig.from_env({variable: text})
    message = str(caught.value)
    assert message.startswith(variable)
    assert " must be " in message
    assert repr(text.rpartition(",")[2])[1:-1] in message


def test_variables_without_their_partner_are_named() -> None:
    """The error on two settings has the name of the variable."""
    with pytest.raises(ConfigError, match=r"must be set together .*GENMETER_ENDPOINT_KEYFILE"):
        MonitorConfig.from_env({"GENMETER_ENDPOINT_KEYFILE": "key.pem"})


def test_code_wins_over_the_environment() -> None:
    """The variables of an overridden field are not read."""
    environ = {"GENMETER_DEFAULT_MODEL": "env", "GENMETER_HISTORY_CAPACITY": "bad"}
    config = MonitorConfig.from_env(
        environ, default_model="code", history=HistoryConfig(capacity=5)
    )
    assert config.default_model == "code"
    assert config.history.capacity == 5


def test_errors_in_code_name_the_argument() -> None:
    """This holds if the variable is set too."""
    with pytest.raises(ConfigError) as caught:
        MonitorConfig.from_env({"GENMETER_DRAIN": "inline"}, drain="later")
    assert "GENMETER" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"shutdown_timeout": -1}, "shutdown_timeout"),
        ({"shutdown_timeout": "5"}, "shutdown_timeout"),
        ({"shutdown_timeout": float("inf")}, "shutdown_timeout"),
        ({"shutdown_timeout": 1e300}, "shutdown_timeout"),
        ({"alert_max_error_rate": "high"}, "alert_max_error_rate"),
        ({"alert_min_success_rate": float("nan")}, "alert_min_success_rate"),
        ({"token_usage_callback": 5}, "token_usage_callback"),
        (
            {"token_usage_callback": print, "token_usage_callback_interval_seconds": 0},
            "token_usage_callback_interval_seconds",
        ),
        ({"config": {"drain": "inline"}}, "config"),
    ],
)
def test_constructor_rejects_invalid_arguments(arguments: dict[str, Any], name: str) -> None:
    """The error has argument, requirement and value."""
    with pytest.raises(ConfigError) as caught:
        GenerationMonitor(**arguments)
    message = str(caught.value)
    assert message.startswith(name)
    assert " must be " in message
    assert repr(arguments[name]) in message


def test_monitor_without_a_config_reads_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The variables are used if there is no configuration in code."""
    monkeypatch.setenv("GENMETER_HISTORY_CAPACITY", "bad")
    with pytest.raises(ConfigError, match="GENMETER_HISTORY_CAPACITY"):
        GenerationMonitor()
    with isolated_monitor() as monitor:
        assert monitor.value("genmeter_monitor_history_capacity") == 300_000


def test_unknown_variables_log_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The warning suggests the nearest name."""
    MonitorConfig.from_env({"GENMETER_MAX_MODELZ": "3", "GENMETER_QQ": "1", "OTHER_X": "1"})
    assert [record.getMessage() for record in caplog.records] == [
        "ignoring GENMETER_MAX_MODELZ: genmeter has no such variable; did you mean GENMETER_MAX_MODELS?",
        "ignoring GENMETER_QQ: genmeter has no such variable; correct or unset it",
    ]
