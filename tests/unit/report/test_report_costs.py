"""Costs of a report: those that the job recorded, and those that --prices gives each call again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from genmeter import MonitorConfig, PriceTable
from genmeter.report.formats import to_table
from genmeter.report.sources import read_sources
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from pathlib import Path

    from genmeter.report.usage_table import UsageTable
    from genmeter.testing import IsolatedMonitor

PRICES = PriceTable(
    {
        "plain": {"input": 1.0, "output": 2.0, "cached_input": 0.5},
        "written": {"input": 4.0, "output": 8.0, "cache_write": 5.0, "cache_write_1h": 8.0},
        "sized": {
            "input": 1.0,
            "output": 1.0,
            "tiers": [{"above": 1_000, "input": 10.0, "output": 1.0}],
        },
        "batched": {"input": 2.0, "output": 2.0, "batch": 0.5},
        "spoken": {"input": 1.0, "output": 1.0, "input_audio": 100.0, "request": 0.25},
        "seen": {"input": 1.0, "output": 1.0, "input_video": 50.0, "cached_image": 20.0},
        "filmed": {
            "input": 1.0,
            "output": 2.0,
            "input_video": 30.0,
            "output_video": 70.0,
            "cached_image": 0.5,
            "cached_video": 7.0,
        },
    }
)


def call(monitor: IsolatedMonitor, model: str, *responses: Any, **arguments: Any) -> None:
    """Make a call with these billed responses."""
    with monitor.generation(model=model, step="ask", **arguments) as handle:
        for response in responses:
            handle.usage(response, add=True)


def tokens(prompt: int, completion: int, **details: Any) -> dict[str, Any]:
    """Return a response of OpenAI's shape."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {
        "model": "answered",
        "usage": {**counts, "total_tokens": prompt + completion, **details},
    }


def run_job(monitor: IsolatedMonitor) -> dict[str, float]:
    """Record calls of all kinds; return their USD by model."""
    call(monitor, "plain", tokens(1_000, 100, prompt_tokens_details={"cached_tokens": 400}))
    written = {"input_tokens": 100, "output_tokens": 10, "cache_creation_input_tokens": 500}
    split = {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 200}
    call(monitor, "written", {"usage": {**written, "cache_creation": split}})
    for size in (900, 1_100):
        call(monitor, "sized", tokens(size, 0))
    call(monitor, "sized", tokens(600, 0), tokens(700, 0))
    call(monitor, "batched", tokens(1_000, 1_000), batch=True)
    audio = {"prompt_tokens_details": {"audio_tokens": 60, "text_tokens": 40}}
    call(monitor, "spoken", tokens(100, 0, **audio))
    seen = [("VIDEO", 60), ("IMAGE", 40)]
    details = [{"modality": modality, "tokenCount": count} for modality, count in seen]
    cached = {
        "cachedContentTokenCount": 10,
        "cacheTokensDetails": [{**details[1], "tokenCount": 10}],
    }
    google = {"promptTokenCount": 100, "promptTokensDetails": details, **cached}
    call(monitor, "seen", {"usageMetadata": google})
    usage = {
        "prompt_token_count": 100,
        "candidates_token_count": 10,
        "cached_content_token_count": 30,
        "prompt_tokens_details": by_modality(video=60, image=40),
        "cache_tokens_details": by_modality(video=20, image=10),
        "candidates_tokens_details": by_modality(video=10),
    }
    call(monitor, "filmed", {"usage_metadata": usage})
    call(monitor, "billed", tokens(100, 0, cost=0.125))
    with monitor.generation(model="billed", step="ask") as handle:
        handle.usage(tokens(100, 0, cost=0.01), add=True)
        handle.usage(tokens(100, 0), add=True)
        handle.cost(0.5)  # of both
    monitor.track_evaluation(1.0, True, "judge", {}, model_name="plain", prompt_token_count=1_000)
    return {
        "plain": (600 + 400 * 0.5 + 100 * 2 + 1_000) / 1e6,
        "written": (100 * 4 + 300 * 5 + 200 * 8 + 10 * 8) / 1e6,
        "sized": (900 + 1_100 * 10 + 600 + 700) / 1e6,
        "batched": (1_000 * 2 + 1_000 * 2) * 0.5 / 1e6,
        "spoken": 0.25 + (60 * 100 + 40) / 1e6,
        "seen": (60 * 50 + 30 + 10 * 20) / 1e6,
        "billed": 0.125 + 0.5,
        "filmed": (40 * 30 + 20 * 7 + 30 + 10 * 0.5 + 10 * 70) / 1e6,
    }


def by_modality(**counts: int) -> list[dict[str, Any]]:
    """Return details of Google's shape."""
    return [{"modality": name.upper(), "token_count": count} for name, count in counts.items()]


def costs(table: UsageTable) -> dict[str, float]:
    """Return the USD of each model that has any."""
    return {str(model): row.cost for (model,), row in table.group(["model"]).items() if row.cost}


@pytest.mark.parametrize("prices_of_the_job", [PRICES, None], ids=["priced", "without-prices"])
def test_each_call_is_priced_by_itself(tmp_path: Path, prices_of_the_job: Any) -> None:
    """In a journal and in exports as in the job, whether or not the job had the prices."""
    with isolated_monitor(MonitorConfig(prices=prices_of_the_job), log_dir=tmp_path) as monitor:
        expected = run_job(monitor)
        monitor.flush()
        exports = [tmp_path / f"calls.{ending}" for ending in ("json", "parquet")]
        for path in exports:
            monitor.export_metrics(path, path.suffix[1:])
        recorded = monitor.get_total_token_usage().cost()
    assert costs_of(recorded.by_model) == pytest.approx(
        expected if prices_of_the_job else {"billed": 0.625}, rel=1e-12
    )
    for source in (tmp_path, *exports):
        again = read_sources([str(source)], prices=PRICES)
        assert costs(again) == pytest.approx(expected, rel=1e-12), source
        assert again.unpriced == set()
        assert costs(read_sources([str(source)])) == pytest.approx(
            costs_of(recorded.by_model), rel=1e-12
        )


def costs_of(by_model: dict[str, float]) -> dict[str, float]:
    """Return those that are not 0."""
    return {model: usd for model, usd in by_model.items() if usd}


def test_interleaved_calls_of_one_time_are_kept_apart(tmp_path: Path) -> None:
    """Several calls may end within a microsecond, with the same labels and different sizes."""
    lines = []
    for prompt in (900, 1_100):
        for name, value in (("prompt_token_count", prompt), ("total_token_count", prompt)):
            row = {"metric": name, "value": float(value), "phase": "generation"}
            stamp = "2026-11-26T12:00:00+00:00"
            lines.append(json.dumps({**row, "model_name": "sized", "timestamp": stamp}))
    # As two writers would leave them.
    ordered = [lines[0], lines[2], lines[1], lines[3]]
    (tmp_path / "metrics.jsonl").write_text("\n".join(ordered) + "\n")
    table = read_sources([str(tmp_path)], prices=PRICES)
    assert costs(table) == pytest.approx({"sized": (900 + 11_000) / 1e6})


def test_sums_of_an_endpoint_are_estimates() -> None:
    """An endpoint does not have each call, so the report says which costs are not exact."""
    with isolated_monitor() as monitor:
        run_job(monitor)
        table = table_of(monitor)
    table.price_sums(PRICES)
    assert table.estimated == {"sized"}
    assert "Estimated costs, since prices depend on the size of each call: sized." in to_table(
        table, ["model"]
    )


def table_of(monitor: IsolatedMonitor) -> UsageTable:
    """Sum the page of a monitor."""
    from prometheus_client.parser import text_string_to_metric_families

    from genmeter.report.endpoint import sum_families

    return sum_families(text_string_to_metric_families(monitor.page()))


def test_what_is_unknown_is_named_in_every_source(tmp_path: Path) -> None:
    """Calls without usage and cancelled calls are counted, in numbers and in words."""
    with isolated_monitor(MonitorConfig(prices=PRICES), log_dir=tmp_path) as monitor:
        for _ in range(3):
            call(monitor, "plain")
        call(monitor, "nobody-knows", tokens(10, 5))
        with monitor.generation(model="plain") as handle:
            for _ in handle.stream(iter([tokens(10, 1), tokens(10, 2)])):
                break
        monitor.flush()
        monitor.export_metrics(tmp_path / "calls.json")
        tables = [table_of(monitor)]
    tables += [read_sources([str(path)]) for path in (tmp_path, tmp_path / "calls.json")]
    tables.append(read_sources([str(tmp_path)], prices=PRICES))
    for table in tables:
        total = table.total()
        assert (total.calls, total.failures, total.cancelled) == (5, 0, 1)
        assert (total.calls_without_usage, total.prompt_tokens) == (3, 20)
        assert total.success_share() == 1.0
        assert table.unpriced == {"nobody-knows"}
        text = to_table(table, ["model"])
        assert "Calls without usage: 3; their tokens and cost are unknown" in text
        assert "cancelled" in text


def test_a_total_without_its_parts_is_named_in_every_source(tmp_path: Path) -> None:
    """The columns of input and output lack its tokens."""
    with isolated_monitor(log_dir=tmp_path) as monitor:
        monitor.track_generation(0.1, True, model_name="plain", total_token_count=1_500)
        call(monitor, "plain", tokens(10, 5))
        monitor.flush()
        monitor.export_metrics(tmp_path / "calls.json")
        tables = [table_of(monitor)]
    tables += [read_sources([str(path)]) for path in (tmp_path, tmp_path / "calls.json")]
    for table in tables:
        total = table.total()
        assert (total.prompt_tokens, total.completion_tokens, total.total_tokens) == (10, 5, 1_515)
        assert "Tokens in the total only: 1,500; " in to_table(table, ["model"])


def test_billing_that_is_no_object_is_ignored(tmp_path: Path) -> None:
    """A journal may have been changed by hand."""
    rows = []
    for number, billing in enumerate(({"batch": 1}, "x", [1], {"answers": [1, {}]}, {"cost": -1})):
        row = {"phase": "generation", "model_name": "batched", "billing": billing, "success": True}
        stamp = f"2026-11-26T12:00:0{number}+00:00"
        rows.append({"metric": "generation_time", "value": 1.0, **row, "timestamp": stamp})
        del row["billing"], row["success"]
        rows.append({"metric": "total_token_count", "value": 5.0, **row, "timestamp": stamp})
        rows.append({"metric": "prompt_token_count", "value": 5.0, **row, "timestamp": stamp})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read_sources([str(tmp_path)], prices=PRICES)
    # The one with answers has none that can be read.
    assert costs(table) == pytest.approx({"batched": 4 * 5 * 2 / 1e6})
    assert table.skipped == 0
