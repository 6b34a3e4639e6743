"""Check that every page is a consistent snapshot while eight threads record.

The instruments of a page must agree: every label set has as many durations as outcomes, and the
histograms of tokens per call add up to the counters of tokens. The pages are in turn Prometheus
text and OpenMetrics of the public WSGI app, and the collection of an OTLP push. It prints the first
contradictions, and exits with 1 if there are any::

    python benchmarks/pages.py --pages 100000
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import threading
import time
from collections import Counter
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from _subjects import OURS
from _table import Aim, Row, at_most, figure_of, print_aims, print_table

from genmeter import EndpointConfig, GenerationMonitor, MonitorConfig
from genmeter.schema import metrics as cat
from genmeter.testing import fresh_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.sdk.metrics.export import Metric

    Labels = frozenset[tuple[str, str]]
    Samples = dict[str, dict[Labels, float]]  # by name

PAGES = 2_000
THREADS = 8
MODELS = tuple(f"organisation/model-{index}" for index in range(4))
STEPS = ("question", "answer")
EVALUATORS = ("judge", "rouge")
BURST = 5  # events of a thread between two pauses
PAUSE = 0.004  # seconds; otherwise rendering would starve
SHOWN = 10  # contradictions to print
RENDERED = f"Pages, each compared within itself, while {THREADS} threads record"
EVENTS = "The same: events recorded meanwhile"
CONTRADICTIONS = "The same: contradictions"
RATE = "The same: pages per second, comparison included"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

_SAMPLE = re.compile(r"(\w+)(?:\{(.*?)\})? (\S+)(?: # .*)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_NONE: Labels = frozenset()
_BY_CALL: Labels = frozenset({(cat.PHASE.prometheus, "generation")})
_SUCCESSES: Labels = _BY_CALL | {(cat.OUTCOME.prometheus, "success")}
_RECORDED: Labels = frozenset({(cat.RESULT.prometheus, "recorded")})
# Labels of only one side of a rule.
_SUMMED = frozenset(
    label.prometheus for label in (cat.ERROR_TYPE, cat.OUTCOME, cat.MODALITY, cat.FINISH_REASON)
)


class Side(NamedTuple):
    """One side of an equation.

    Attributes:
        name: The name of the samples that are summed.
        only: Labels that a sample must have.
    """

    name: str
    only: Labels = _NONE


RULES = (
    (
        Side(f"{cat.INFERENCE_DURATION.prometheus}_count", _BY_CALL),
        Side(cat.GENERATIONS.prometheus, _BY_CALL),
    ),
    (
        Side(cat.FINISH_REASONS.prometheus, _BY_CALL),
        Side(cat.GENERATIONS.prometheus, _SUCCESSES),
    ),
    (
        Side(f"{cat.INPUT_TOKENS_PER_CALL.prometheus}_sum", _BY_CALL),
        Side(cat.INPUT_TOKENS.prometheus, _BY_CALL),
    ),
    (
        Side(f"{cat.OUTPUT_TOKENS_PER_CALL.prometheus}_sum", _BY_CALL),
        Side(cat.OUTPUT_TOKENS.prometheus, _BY_CALL),
    ),
    (Side(f"{cat.EVALUATION_DURATION.prometheus}_count"), Side(cat.EVALUATIONS.prometheus)),
    (Side(f"{cat.SCORE.prometheus}_count"), Side(cat.SCORES_TOTAL.prometheus)),
)
"""The sides that are equal in every page, for each label set."""

_USED = {side.name for rule in RULES for side in rule} | {cat.MONITOR_EVENTS.prometheus}
_ROWS = {row.name: row for row in cat.INSTRUMENTS}


class Job:
    """Eight threads that record with a monitor.

    Attributes:
        recorded: Number of events by thread; complete after `stop`.
    """

    def __init__(self, monitor: GenerationMonitor) -> None:
        self._monitor = monitor
        self._is_stopped = threading.Event()
        self.recorded: Counter[int] = Counter()
        self._threads = [
            threading.Thread(target=self._work, args=(index,)) for index in range(THREADS)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> int:
        """Stop the threads; return the number of events."""
        self._is_stopped.set()
        for thread in self._threads:
            thread.join()
        return self.recorded.total()

    def _work(self, index: int) -> None:
        rng = random.Random(index)
        while not self._is_stopped.wait(PAUSE):
            for _ in range(BURST):
                rng.choice((self._succeed, self._succeed, self._fail, self._evaluate))(rng)
            self.recorded[index] += BURST

    def _succeed(self, rng: random.Random) -> None:
        self._monitor.track_generation(
            rng.random(),
            True,
            prompt_token_count=rng.randrange(2_000),
            completion_token_count=rng.randrange(500),
            model_name=rng.choice(MODELS),
            finish_reason=rng.choice(("stop", "length")),
            metadata={"operation": rng.choice(STEPS)},
        )

    def _fail(self, rng: random.Random) -> None:
        try:
            with self._monitor.generation(rng.choice(MODELS), rng.choice(STEPS)):
                raise rng.choice((TimeoutError, ConnectionError, ValueError))
        except (OSError, ValueError):
            pass

    def _evaluate(self, rng: random.Random) -> None:
        self._monitor.track_evaluation(
            rng.random(),
            rng.random() < 0.8,
            rng.choice(EVALUATORS),
            {"relevance": rng.random(), "style": rng.random()},
        )


def from_page(monitor: GenerationMonitor, accept: str) -> Samples:
    """Request a page of the WSGI app; return the samples to compare."""
    statuses: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "HTTP_ACCEPT": accept}
    start: Any = lambda status, _headers: statuses.append(status)  # noqa: E731
    body = b"".join(monitor.wsgi_app()(environ, start)).decode()
    if statuses != ["200 OK"]:
        raise RuntimeError(f"the response was {statuses}: {body}")
    samples = _no_samples()
    for line in body.splitlines():
        found = _SAMPLE.fullmatch(line)
        if found is not None and found[1] in _USED:
            samples[found[1]][_labels(found[2] or "")] = float(found[3])
    return samples


def _no_samples() -> Samples:
    return {name: {} for name in _USED}


@cache
def _labels(text: str) -> Labels:
    return frozenset(_LABEL.findall(text))


def from_push(monitor: GenerationMonitor) -> Samples:
    """Collect like an OTLP push; return the samples to compare."""
    exporters = monitor._runtime._exporters
    data = None if exporters is None else exporters._collect_for("otlp")(10.0)
    if data is None:
        raise RuntimeError("there is no data to collect")
    samples = _no_samples()
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for name, labels, value in _points(metric):
                    if name in _USED:
                        samples[name][labels] = value
    return samples


def _points(metric: Metric) -> Iterator[tuple[str, Labels, float]]:
    row = _ROWS[metric.name]
    names = {label.key: label.prometheus for label in row.labels}
    for point in metric.data.data_points:
        each: Any = point
        labels = frozenset((names[key], str(value)) for key, value in each.attributes.items())
        if row.kind is cat.Kind.HISTOGRAM:
            yield f"{row.prometheus}_count", labels, each.count
            yield f"{row.prometheus}_sum", labels, each.sum
        else:
            yield row.prometheus, labels, each.value


def contradictions(samples: Samples, before: Samples) -> list[str]:
    """Describe the contradictions.

    Args:
        samples: The samples of a page.
        before: The samples of the page before; none may be larger.
    """
    found: list[str] = []
    for rule in RULES:
        left, right = (_summed(samples, side) for side in rule)
        found += [
            f"{rule[0].name} is {left[labels]}, {rule[1].name} is {right[labels]}: {labels}"
            for labels in left.keys() | right.keys()
            if left[labels] != right[labels]
        ]
    outcomes = sum(
        sum(samples[row.prometheus].values()) for row in (cat.GENERATIONS, cat.EVALUATIONS)
    )
    if outcomes != _recorded(samples):
        found.append(f"{outcomes} outcomes of {_recorded(samples)} recorded events")
    for name, series in before.items():
        now = samples[name]
        found += [
            f"{name} decreased from {value} to {now.get(labels)}: {labels}"
            for labels, value in series.items()
            if now.get(labels, -1) < value
        ]
    return found


def _recorded(samples: Samples) -> float:
    return samples[cat.MONITOR_EVENTS.prometheus].get(_RECORDED, 0)


def _summed(samples: Samples, side: Side) -> Counter[Labels]:
    sums: Counter[Labels] = Counter()
    for labels, value in samples[side.name].items():
        if side.only <= labels:
            sums[_without(labels)] += value  # type: ignore[assignment] # tokens and counts are whole
    return sums


@cache
def _without(labels: Labels) -> Labels:
    return frozenset(each for each in labels if each[0] not in _SUMMED)


def run(pages: int = PAGES) -> list[Row]:
    """Render and check pages while the threads record.

    Args:
        pages: The number of pages.
    """
    found: list[str] = []
    with fresh_runtime():
        config = MonitorConfig(endpoint=EndpointConfig(enabled=False))
        with GenerationMonitor(config=config) as monitor:
            ways: tuple[Callable[[], Samples], ...] = (
                partial(from_page, monitor, "text/plain"),
                partial(from_page, monitor, OPENMETRICS),
                partial(from_push, monitor),
            )
            job = Job(monitor)
            job.start()
            start = time.monotonic()
            try:
                before = _no_samples()
                for index in range(pages):
                    samples = ways[index % len(ways)]()
                    found += contradictions(samples, before)
                    before = samples
                taken = time.monotonic() - start
            finally:
                recorded = job.stop()
            for way in ways:  # the last page has all events
                seen = _recorded(way())
                if seen != recorded:
                    found.append(f"{seen} events of {recorded} are in the last page")
    for each in found[:SHOWN]:
        print(each, file=sys.stderr)
    return [
        Row(RENDERED, OURS, pages, "count"),
        Row(EVENTS, OURS, recorded, "count"),
        Row(CONTRADICTIONS, OURS, len(found), "count"),
        Row(RATE, OURS, pages / taken, "/s"),
    ]


def aims(rows: list[Row]) -> list[Aim]:
    """Compare the figures with the aims."""
    count = figure_of(rows, CONTRADICTIONS, OURS)
    return [at_most("no page contradicts itself", count, 0, "count")]


def main() -> None:
    """Run it alone; exit with 1 if a page contradicts itself."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pages", type=int, default=PAGES, help=f"default {PAGES:,}")
    measured = run(parser.parse_args().pages)
    results = aims(measured)
    print_table(measured)
    print_aims(results)
    sys.exit(not all(aim.holds for aim in results))


if __name__ == "__main__":
    main()
