"""``genmeter top prometheus=...`` shows what a real Prometheus has of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from _servers import poll

from genmeter import GenerationMonitor, MonitorConfig, cli
from genmeter.config.monitor import EndpointConfig
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    import pytest
    from _prometheus import Prometheus


def fields_of(
    capsys: pytest.CaptureFixture[str], prometheus: Prometheus, name: str, count: int = 1
) -> dict[str, str]:
    """The fields of a job's last line; empty if it has none."""
    source = f"prometheus={prometheus.url}"
    cli.main(["top", source, "--count", str(count), "--interval", "1"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = [dict(each.split("=", 1) for each in line[1:]) for line in lines]
    return next((each for each in reversed(found) if each["source"] == name), {})


def test_the_view_has_the_numbers_of_the_running_job(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its totals, its rates by the times of the scrapes, and later that it is gone."""
    config = MonitorConfig(
        expected_samples=1000,
        prices={"atlas-large": (2.0, 10.0)},
        endpoint=EndpointConfig(enabled=True, port=0),
    )
    with fresh_runtime(), GenerationMonitor(config=config) as monitor:
        assert monitor.endpoint_url is not None
        instance = prometheus.add_target(monitor.endpoint_url, run="top")
        name = f"openmetrics/{instance}"
        for number in range(50):
            monitor.track_generation(
                1.0,
                number % 10 != 0,
                error=TimeoutError() if number % 10 == 0 else None,
                model_name="atlas-large",
                prompt_token_count=1000,
                completion_token_count=100,
            )
            monitor.record_sample(accepted=number % 2 == 0, reason=None if number % 2 == 0 else "x")
        accepted, found = poll(
            lambda: fields_of(capsys, prometheus, name),
            lambda fields: fields.get("calls") == "50",
            30.0,
        )
        assert accepted, found
        report = monitor.get_total_token_usage()
        assert found["state"] == "running"
        assert (found["failed"], found["errors"]) == ("5", "TimeoutError:5")
        assert int(found["tokens"]) == report.total_tokens == 55_000
        assert float(found["usd"]) == round(report.cost().total, 6)
        assert (found["samples"], found["rejected"], found["expected"]) == ("50", "25", "1000")
        steady = fields_of(capsys, prometheus, name, count=3)
        assert (steady["calls_per_s"], steady["tokens_per_s"]) == ("0.00", "0.0")
    prometheus.remove_target(instance)
    accepted, found = poll(
        lambda: fields_of(capsys, prometheus, name), lambda fields: not fields, 30.0
    )
    assert accepted, found
