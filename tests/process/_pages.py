"""Scrapes of a job's page, which show whether a counter falls."""

from __future__ import annotations

import http.client
import re
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from typing import Self

from _ports import free_port

__all__ = ["PER_CALL", "SECONDS", "Page", "Scraper", "free_port", "sums"]

SECONDS = 0.1
"""Duration of a call of ``record()``."""
PER_CALL = 3
"""Tokens of a call of ``record()``."""

_ACCEPT = {"Accept": "application/openmetrics-text; version=1.0.0"}
_SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(\{.*?\})? (\S+)")
_ENDS = ("_total", "_count", "_sum", "_bucket")


def sums(calls: float) -> tuple[float, float, float, float]:
    """Return what `Page.sums` is after so many calls of ``record()``."""
    return calls, calls * PER_CALL, calls, round(calls * SECONDS, 6)


class Page:
    """One scrape.

    Attributes:
        status: The status; None if nobody listened.
        text: The page, or the error.
        samples: The values by name and labels.
        doubles: The samples that are on the page twice.
    """

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        self.status: int | None = None
        self.samples: dict[str, float] = {}
        self.doubles: list[str] = []
        request = urllib.request.Request(url, headers=_ACCEPT)  # noqa: S310, loopback
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
                self.status, self.text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            self.status, self.text = error.code, error.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            self.text = repr(error)
        if self.status == 200:
            self._parse()

    def _parse(self) -> None:
        for line in self.text.splitlines():
            found = _SAMPLE.match(line)
            if found is None:
                continue
            key = found[1] + (found[2] or "")
            if key in self.samples:
                self.doubles.append(key)
            self.samples[key] = float(found[3])

    def total(self, name: str, **labels: str) -> float:
        """Sum the samples of a name that have all these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            value
            for key, value in self.samples.items()
            if key.partition("{")[0] == name and all(each in key for each in wanted)
        )

    def sums(self, **labels: str) -> tuple[float, float, float, float]:
        """Return calls, tokens, durations, and their sum in seconds."""
        duration = "gen_ai_client_inference_duration_seconds"
        return (
            self.total("genmeter_generations_total", **labels),
            self.total("genmeter_tokens_total", **labels),
            self.total(f"{duration}_count", **labels),
            round(self.total(f"{duration}_sum", **labels), 6),
        )

    @property
    def is_whole(self) -> bool:
        """Whether there is one target, and no sample twice."""
        return self.text.count("target_info{") == 1 and not self.doubles

    def processes(self, state: str) -> float:
        """Return the number of processes in a state."""
        return self.total("genmeter_job_processes", genmeter_state=state)

    def counters(self) -> dict[str, float]:
        """Return what never falls: counters, and the parts of histograms."""
        return {
            key: value
            for key, value in self.samples.items()
            if key.partition("{")[0].endswith(_ENDS)
        }

    def births(self) -> dict[str, float]:
        """Return the births of all series."""
        return {
            key: value
            for key, value in self.samples.items()
            if key.partition("{")[0].endswith("_created")
        }


class Scraper:
    """Scrapes again and again within a block, as Prometheus does.

    Attributes:
        statuses: How often each status came; None if nobody listened.
        falls: Series that were lower than before, with both values.
        vanished: Series that were gone at some scrape.
        moved: Series whose birth has changed.
        increase: The increase of the calls, as Prometheus has it: a fall is a restart.
        longest_gap: Seconds of the longest time without an answer.
    """

    def __init__(self, url: str, every: float = 0.1) -> None:
        self.url = url
        self.statuses: Counter[int | None] = Counter()
        self.falls: list[tuple[str, float, float]] = []
        self.vanished: set[str] = set()
        self.moved: set[str] = set()
        self.increase = 0.0
        self.longest_gap = 0.0
        self._every = every
        self._answered = time.monotonic()
        self._last: dict[str, float] = {}
        self._births: dict[str, float] = {}
        self._calls = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            self.scrape()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.scrape()
            self._stop.wait(self._every)

    def scrape(self) -> Page:
        """Scrape once."""
        page = Page(self.url)
        self.statuses[page.status] += 1
        if page.status != 200:
            return page
        now = time.monotonic()
        if len(self._last):
            self.longest_gap = max(self.longest_gap, now - self._answered)
        self._answered = now
        found = page.counters()
        for key, before in self._last.items():
            if key not in found:
                self.vanished.add(key)
            elif found[key] < before:
                self.falls.append((key, before, found[key]))
        self._last |= found
        births = page.births()
        self.moved |= {key for key in births if self._births.get(key, births[key]) != births[key]}
        self._births |= births
        calls = page.sums()[0]
        self.increase += calls - self._calls if calls >= self._calls else calls
        self._calls = calls
        return page

    def check(
        self,
        calls: float,
        statuses: frozenset[int | None] = frozenset({200}),
        *,
        may_move: bool = False,
    ) -> None:
        """Fail unless no counter fell, and the increase is that of so many calls.

        Args:
            calls: Calls that were recorded since before the first scrape.
            statuses: The statuses that may come.
            may_move: Whether births may change, as when a child was scraped before its parent
                has joined, which had the series first.
        """
        assert self.statuses[200] > 0, self.statuses
        assert set(self.statuses) <= statuses, self.statuses
        assert not self.falls, self.falls
        assert not self.vanished, self.vanished
        assert may_move or not self.moved, self.moved
        assert self.increase == calls, (self.increase, calls)
