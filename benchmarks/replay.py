"""Replay a trace of requests and compare the totals of a monitor with the sums of the files.

A trace is a folder of CSV files with the columns TIMESTAMP, ContextTokens and GeneratedTokens, like
the Azure LLM inference traces; a file's stem is its model. Without ``--data`` a generated trace is
replayed. Exits with 1 if any total differs::

    python benchmarks/replay.py --data FOLDER
"""

from __future__ import annotations

import argparse
import csv
import heapq
import random
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from genmeter import EndpointConfig, GenerationMonitor, HistoryConfig, MonitorConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from genmeter import TokenUsageReport

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
SECONDS_PER_TOKEN = 0.02
COUNTERS = {
    "gen_ai_client_inference_usage_input_tokens_total": "prompt",
    "gen_ai_client_inference_usage_output_tokens_total": "completion",
    "genmeter_tokens_total": "total",
    "genmeter_generations_total": "requests",
}
GENERATED_REQUESTS = 20_000


class Request(NamedTuple):
    """A row of a trace; rows sort by time."""

    time: str
    model: str
    prompt: int
    completion: int


class Totals(NamedTuple):
    """The usage of one model."""

    requests: int = 0
    prompt: int = 0
    completion: int = 0
    total: int = 0


ByModel = dict[str, Totals]


def read_requests(file: Path) -> Iterator[Request]:
    """Read one file.

    Raises:
        SystemExit: The file has other columns.
    """
    with file.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            sys.exit(f"{file} must have the columns {COLUMNS}, got {rows.fieldnames}")
        for row in rows:
            time, prompt, completion = (row[name] for name in COLUMNS)
            yield Request(time, file.stem, int(prompt), int(completion))


def sums_of(requests: Iterable[Request]) -> ByModel:
    """Sum the requests by model."""
    sums: ByModel = {}
    for each in requests:
        before = sums.get(each.model, Totals())
        sums[each.model] = Totals(
            before.requests + 1,
            before.prompt + each.prompt,
            before.completion + each.completion,
            before.total + each.prompt + each.completion,
        )
    return sums


def of_report(report: TokenUsageReport) -> ByModel:
    """Return the totals of a report."""
    return {
        each.model_name: Totals(
            each.calls, each.prompt_tokens, each.completion_tokens, each.total_tokens
        )
        for each in report.by_model
    }


def of_scrape(url: str) -> ByModel:
    """Return the totals of the endpoint's counters."""
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - our own endpoint
        page = answer.read().decode()
    sums: dict[str, dict[str, int]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in COUNTERS:
                model = sums.setdefault(sample.labels["gen_ai_request_model"], {})
                name = COUNTERS[sample.name]
                model[name] = model.get(name, 0) + int(sample.value)
    return {model: Totals(**row) for model, row in sums.items()}


def replay(files: Sequence[Path]) -> dict[str, ByModel]:
    """Record every request with a monitor, ordered by time.

    Returns:
        The totals by source and model: ``file``, ``report``, ``history`` (a report over a window)
        and ``scrape``.
    """
    truth = sums_of(request for file in files for request in read_requests(file))
    requests = sum(each.requests for each in truth.values())
    config = MonitorConfig(
        endpoint=EndpointConfig(port=0), history=HistoryConfig(capacity=max(1, requests))
    )
    with GenerationMonitor(config=config) as monitor:
        for each in heapq.merge(*(sorted(read_requests(file)) for file in files)):
            monitor.track_generation(
                each.completion * SECONDS_PER_TOKEN,
                True,
                model_name=each.model,
                prompt_token_count=each.prompt,
                completion_token_count=each.completion,
            )
        return {
            "file": truth,
            "report": of_report(monitor.get_total_token_usage()),
            "history": of_report(monitor.get_total_token_usage(timedelta(days=1))),
            "scrape": of_scrape(monitor.endpoint_url or ""),
        }


def differences(totals: dict[str, ByModel]) -> list[str]:
    """Return the sources whose totals differ from those of the files."""
    return [source for source, found in totals.items() if found != totals["file"]]


def generate(folder: Path) -> None:
    """Write a trace of two models."""
    rng = random.Random(0)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for model, prompt, completion in (("code", 4_000, 30), ("conv", 1_000, 200)):
        with (folder / f"{model}.csv").open("w", newline="", encoding="utf-8") as lines:
            writer = csv.writer(lines)
            writer.writerow(COLUMNS)
            for number in range(GENERATED_REQUESTS // 2):
                stamp = (start + timedelta(seconds=number / 5)).strftime("%Y-%m-%d %H:%M:%S.%f")
                tokens = (rng.randrange(2 * prompt), rng.randrange(2 * completion))
                writer.writerow((stamp, *tokens))


def print_totals(totals: dict[str, ByModel]) -> None:
    """Print a line for each model and source."""
    print(f"{'model':<16}{'from':<10}" + "".join(f"{name:>16}" for name in Totals._fields))
    models = sorted({model for found in totals.values() for model in found})
    for model in models:
        for source, found in totals.items():
            row = found.get(model, Totals())
            print(f"{model:<16}{source:<10}" + "".join(f"{count:>16,}" for count in row))


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay a trace, print the totals, and compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="a folder of CSV files")
    folder = parser.parse_args(arguments).data
    with tempfile.TemporaryDirectory() as generated:
        if folder is None:
            folder = Path(generated)
            generate(folder)
        files = sorted(folder.glob("*.csv"))
        if not files:
            parser.error(f"--data must be a folder with CSV files, got {str(folder)!r}")
        started = time.perf_counter()
        totals = replay(files)
        took = time.perf_counter() - started
    print_totals(totals)
    requests = sum(each.requests for each in totals["file"].values())
    wrong = differences(totals)
    verdict = f"differs in: {', '.join(wrong)}" if wrong else "all totals are equal"
    print(f"{requests:,} requests in {took:.1f} s, reading included: {verdict}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
