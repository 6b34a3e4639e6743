"""The page of a simulated process, at any time: the series of a real one, with counters that grow.

A monitor records an hour of calls, and its own page is the template. Each process then counts at its own
pace, and its waves differ, so that neither two series nor two steps of a series are alike.
"""

from __future__ import annotations

import math
import random
import re
from functools import cached_property
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from genmeter import GenerationMonitor, Price, PriceTable
from genmeter.config.monitor import EndpointConfig, MonitorConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["DROPS", "OPENMETRICS", "Page", "Series", "Shape", "read_page"]

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_DURATIONS = "gen_ai_client_inference_duration_seconds_bucket"
DROPS: tuple[dict[str, Any], ...] = (
    {
        "source_labels": ["__name__", "error_type"],
        "regex": f"{_DURATIONS};.+",
        "action": "drop",
    },
    {
        "source_labels": ["__name__", "le"],
        "regex": rf"{_DURATIONS};(0\.0[1248]|327\.68|655\.36)",
        "action": "drop",
    },
)
"""What docs/scaling.md drops of a fleet: relabelling of metrics in a scrape job."""
HOUR = 3_600.0
_CALLS = 7_200  # in the hour of the template: two a second
_WAVE = 600.0  # seconds
_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: #.*)?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_COUNTER_ENDS = ("_total", "_sum", "_count", "_bucket")


class Shape(NamedTuple):
    """What a process has: the numbers of models and of steps."""

    models: int = 2
    steps: int = 2


class Series(NamedTuple):
    """A series of the page.

    Attributes:
        name: The name of its sample.
        labels: Its labels, with bounds of buckets as Prometheus stores them.
        amount: The value after the hour.
        grows: Whether it is a counter.
        is_whole: Whether its values are whole numbers.
    """

    name: str
    labels: dict[str, str]
    amount: float
    grows: bool
    is_whole: bool


def read_page(shape: Shape) -> str:
    """Record an hour of calls of a process, and return its page in OpenMetrics' text."""
    models = [f"model-{number}" for number in range(shape.models)]
    steps = [f"step-{number}" for number in range(shape.steps)]
    prices = PriceTable({name: Price(1.0, 4.0) for name in models})
    config = MonitorConfig(
        models=tuple(models),
        prices=prices,
        expected_samples=_CALLS,
        endpoint=EndpointConfig(enabled=True, port=0, linger=1.0),
    )
    monitor = GenerationMonitor(metric_handlers=[], log_handlers=[], config=config)
    try:
        dice = random.Random(1)
        for number in range(_CALLS):
            model, step = models[number % len(models)], dice.choice(steps)
            _record(monitor, dice, model, step)
        monitor.flush()
        address = urlsplit(str(monitor.endpoint_url))
        connection = HTTPConnection(address.netloc, timeout=30)
        try:
            connection.request("GET", address.path, headers={"Accept": OPENMETRICS})
            text: str = connection.getresponse().read().decode()
        finally:
            connection.close()
        return text
    finally:
        monitor.shutdown()


def _record(monitor: GenerationMonitor, dice: random.Random, model: str, step: str) -> None:
    prompt, completion = dice.randrange(200, 2_000), dice.randrange(20, 600)
    ok = dice.random() < 0.98
    monitor.track_generation(
        dice.lognormvariate(0.7, 0.5),
        ok,
        model_name=model,
        prompt_token_count=prompt,
        completion_token_count=completion,
        total_token_count=prompt + completion,
        finish_reason="stop" if dice.random() < 0.95 else "length",
        error=None if ok else TimeoutError(),
        retries=["rate_limited"] if dice.random() < 0.02 else None,
        metadata={"operation": step},
    )
    if dice.random() < 0.25:
        scores = {"coherence": dice.random()}
        is_read = dice.random() < 0.99
        monitor.track_evaluation(dice.lognormvariate(0, 0.5), is_read, "judge", scores)
    if dice.random() < 0.1:
        monitor.track_generation(9.0, True, conversation_length=dice.randrange(1, 6))
    if dice.random() < 0.1:
        monitor.record_sample(dice.random() < 0.9)


class Page:
    """The page of a process as a function of its number and of the time."""

    def __init__(self, text: str, drops: Sequence[dict[str, Any]] = ()) -> None:
        """Read a real page in OpenMetrics' text, of which the server drops some series."""
        self._drops = drops
        self.source = text
        self._parts: list[str] = []  # the text between two values
        self.series: list[Series] = []
        """All of them, with the births that Prometheus reads without storing them."""
        kept = ""
        for line in text.splitlines():
            found = None if line.startswith("#") else _LINE.fullmatch(line)
            if found is None:
                kept += f"{line}\n"
                continue
            self._parts.append(kept + line[: found.start(3)])
            kept = "\n"
            self.series.append(_series(found[1], found[2] or "", float(found[3])))
        self._parts.append(kept)
        self._format = "%s".join(part.replace("%", "%%") for part in self._parts)

    @cached_property
    def stored(self) -> NDArray[np.intp]:
        """The places of the series that are stored: all but the births and what is dropped."""
        return np.array([at for at, each in enumerate(self.series) if self._is_stored(each)])

    def _is_stored(self, series: Series) -> bool:
        labels = {"__name__": series.name, **series.labels}
        texts = (
            ";".join(labels.get(name, "") for name in each["source_labels"]) for each in self._drops
        )
        dropped = (
            re.fullmatch(each["regex"], text) for each, text in zip(self._drops, texts, strict=True)
        )
        return not series.name.endswith("_created") and not any(dropped)

    @cached_property
    def _columns(self) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        return (
            np.array([each.amount for each in self.series]),
            np.array([each.grows for each in self.series]),
            np.array([each.is_whole for each in self.series]),
        )

    def values(self, number: int, times: NDArray[np.float64], start: float) -> NDArray[np.float64]:
        """Return the values of a process's series, by series and time.

        Args:
            number: The process's number.
            times: Unix times.
            start: The Unix time at which its counters were 0.
        """
        amounts, grows, whole = self._columns
        pace, phase = 0.5 + (number * 0.618034) % 1, number * 2.399963
        waves = np.sin(times * (2 * math.pi / _WAVE) + phase) - math.sin(
            start * (2 * math.pi / _WAVE) + phase
        )
        # The wave's slope is at most 0.6, so that no counter falls.
        elapsed = pace * (times - start + 0.6 * _WAVE / (2 * math.pi) * waves) / HOUR
        grown = amounts[:, None] * elapsed[None, :]
        grown = np.where(whole[:, None], np.floor(grown), grown)
        found = np.where(grows[:, None], grown, amounts[:, None])
        for at, each in enumerate(self.series):
            if each.name == "genmeter_last_generation_timestamp_seconds":
                found[at] = times - 1.0
            elif each.name.endswith("_created"):
                found[at] = start
            elif each.name == "genmeter_generations_active":
                found[at] = np.floor(times / 15 + number) % 7
        return found

    def text(self, number: int, time: float, start: float) -> str:
        """Return a process's page."""
        values = self.values(number, np.array([time]), start)[:, 0]
        return self._format % tuple(map(repr, values.tolist()))


def _series(name: str, text: str, value: float) -> Series:
    labels = dict(_LABEL.findall(text))
    if "le" in labels and labels["le"] != "+Inf":
        labels["le"] = repr(float(labels["le"]))
    grows = name.endswith(_COUNTER_ENDS) and name != "genmeter_job_samples_expected"
    is_whole = float(value).is_integer() and not name.endswith("_sum")
    return Series(name, labels, value, grows, is_whole)
