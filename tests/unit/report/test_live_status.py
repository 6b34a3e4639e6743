"""The state of a job, from its metrics."""

from __future__ import annotations

import pytest
from _live import page, status
from prometheus_client.parser import text_string_to_metric_families

from genmeter.config.monitor import MonitorConfig
from genmeter.errors import ConfigError
from genmeter.report.status import Status
from genmeter.testing import isolated_monitor


def test_the_status_has_every_number_of_the_page() -> None:
    """Progress, errors by type, alerts, processes and rejected values."""
    found = status(
        firing={"RateLimited": 1, "GenerationSlow": 0},
        processes={"running": 3, "died": 1},
        rejected=5,
    )
    assert (found.samples, found.accepted, found.rejected) == (40, 30, {"duplicate": 10})
    assert (found.expected, found.progress) == (100, 0.4)
    assert found.active == 7
    assert found.errors == {"RateLimitError": 3, "TimeoutError": 1}
    assert found.firing == {"RateLimited": 1}
    assert (found.processes, found.died) == ({"running": 3, "died": 1}, 1)
    assert found.dropped == {"inbox_full": 5}
    assert (found.instance, found.is_finished) == ("one", False)
    assert found.usage.total().calls_without_usage == 2


def test_the_status_of_a_monitor_is_what_it_recorded() -> None:
    """The names of its metrics are those that are read."""
    with isolated_monitor(MonitorConfig(expected_samples=4)) as monitor:
        monitor.track_generation(1.0, True, model_name="a", total_token_count=7)
        monitor.track_generation(1.0, False, model_name="a", error=TimeoutError())
        monitor.record_sample(accepted=True)
        monitor.record_sample(accepted=False, reason="duplicate")
        monitor.record_metric("speed", float("nan"))
        with monitor.generation("b"):
            found = Status.of(text_string_to_metric_families(monitor.page()))
    total = found.usage.total()
    assert (total.calls, total.failures, total.total_tokens) == (2, 1, 7)
    assert (found.errors, found.active) == ({"TimeoutError": 1}, 1)
    assert (found.accepted, found.rejected, found.expected) == (1, {"duplicate": 1}, 4)
    assert found.dropped.total() == 1


def test_the_sum_of_jobs_has_the_sum_of_each_number() -> None:
    """Rows of equal models are added, and counters by their keys."""
    parts = [
        status(100, firing={"RateLimited": 1}, processes={"running": 2}),
        status(50, firing={"RateLimited": 1}, samples=20, expected=60),
        status(10, model="atlas-mini", errors={}, finished=True),
    ]
    total = Status.sum(parts)
    rows = {key[0]: row.calls for key, row in total.usage.group(("model",)).items()}
    assert rows == {"atlas-large": 150, "atlas-mini": 10}
    assert total.usage.total().total_tokens == 120 * 160
    assert total.usage.total().cost == pytest.approx(1.6)
    assert (total.samples, total.expected) == (100, 260)
    assert (total.firing, total.processes) == ({"RateLimited": 2}, {"running": 2})
    assert total.errors == {"RateLimitError": 6, "TimeoutError": 2}
    assert total.active == 21
    assert not total.is_finished
    assert parts[0].usage.total().calls == 100  # the parts are as they were


def test_the_progress_of_jobs_is_unknown_if_one_of_them_is() -> None:
    """A share of some would be wrong for all."""
    assert Status.sum([status(), status(expected=None)]).progress is None
    assert Status.sum([]).expected is None


def test_a_page_of_something_else_is_an_error() -> None:
    """Such as that of a node exporter."""
    with pytest.raises(ConfigError, match="without metrics of genmeter"):
        Status.of(text_string_to_metric_families("up 1\n"))


def test_what_makes_the_numbers_partial_is_noted() -> None:
    """Rejected values, models without a price, and a full table of labels."""
    text = page(rejected=5) + (
        'genmeter_unpriced_generations_total{genmeter_phase="generation",'
        'gen_ai_request_model="atlas-large"} 4\n'
    )
    notes = Status.of(text_string_to_metric_families(text)).notes()
    assert notes == [
        "Without a price, not in the cost: atlas-large.",
        "5 values rejected by the monitor: inbox_full 5.",
    ]
