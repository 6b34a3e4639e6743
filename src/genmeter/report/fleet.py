"""Reads what the jobs of a fleet counted from a Prometheus or a VictoriaMetrics."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from genmeter.errors import ConfigError
from genmeter.report._fleet_notes import (
    INCOMPLETE,
    Unknown,
    missing_names,
    name_query,
    notes_of,
    other_names,
)
from genmeter.report._lives import SeriesLives
from genmeter.report._series_rows import CALL_SERIES, JOB_SERIES, OVERFLOW, add_series
from genmeter.report._targets import FleetTarget, duplicates
from genmeter.report.promapi import PrometheusApi, Series, TooManySamplesError
from genmeter.report.usage_table import GENERATION, UsageTable
from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import timedelta

    from genmeter.config.prices import PriceTable
    from genmeter.report.details import Details

__all__ = ["read_fleet"]

_FINISHED = cat.JOB_FINISHED.prometheus
_NAME = "__name__"
_SUFFIXES = ("_total", "_bucket", "_sum", "_count")
_SCOPE = "otel_scope_"
_USED = [
    row
    for row in cat.INSTRUMENTS
    if any(name.startswith(row.prometheus) for name in CALL_SERIES | JOB_SERIES)
]
_OWN_LABELS = frozenset(
    {
        *(label.prometheus for row in _USED for label in row.labels),
        *(_NAME, "le", OVERFLOW),
        "vmrange",  # VictoriaMetrics stores exponential histograms with it
    }
)
"""Labels of a metric; all others are those of its target."""
_WEIGHED = frozenset(
    {cat.GENERATIONS.prometheus, cat.EVALUATIONS.prometheus, cat.TOTAL_TOKENS.prometheus}
)

# Prometheus loads at most 50 million samples a query (--query.max-samples), and each is about 25
# bytes of JSON here.
_SAMPLES = 250_000
_FIRST_SLICE_SECONDS = 600.0
_SHORTEST_SLICE_SECONDS = 1.0
_MOST_GROWTH = 8.0
_LOOKBACK_SECONDS = 3600.0, 86_400.0


def read_fleet(
    url: str,
    *,
    window: timedelta,
    end: float | None = None,
    progress: Callable[[int, int], object] | None = None,
    prices: PriceTable | None = None,
    timeout: float = 60.0,
    total_timeout: float = 1800.0,
    details: Details | None = None,
) -> UsageTable:
    """Sum what all jobs counted within a window, from the stored samples.

    The lives of each counter are joined: a process that restarts counts from 0. The key of a row has
    the labels ``job`` and ``instance`` as its job and process. The notes of the table say what is
    not in it.

    Args:
        url: The server, such as ``http://user:password@host:9090/prefix``. The variable
            ``GENMETER_PROMETHEUS_TOKEN`` is a bearer token, ``SSL_CERT_FILE`` the certificates to
            trust, ``GENMETER_PROMETHEUS_CERT`` and ``_KEY`` the client's own.
        window: Time before the end that is included.
        end: Unix time; None is the server's now.
        progress: Called with the milliseconds of the window that were read and with all of them.
        prices: Prices that replace the recorded costs; the sums are priced.
        timeout: Seconds for each request.
        total_timeout: Seconds for all requests together.
        details: What to add the errors and the alerts to, if anything.

    Raises:
        ConfigError: The address is invalid, the server does not answer, or it has no metrics of
            genmeter in the window.
    """
    seconds = window.total_seconds()
    if seconds <= 0:
        raise ConfigError(f"window must be longer than 0, got {window}; use e.g. 24 hours")
    api = PrometheusApi(url, timeout=timeout, total_timeout=total_timeout)
    try:
        until = round(api.now() if end is None else end, 3)
        fleet = _Fleet(api, round(until - seconds, 3), until)
        fleet.read(progress)
        table = UsageTable("prometheus", window)
        fleet.add_to(table, details)
        if details is not None:
            details.kinds.add("prometheus")
            details.fired.update(fleet.fired())
        if prices is not None:
            table.price_sums(prices)
        return table
    finally:
        api.close()


@dataclass(slots=True)
class _Counter:
    labels: dict[str, str]
    target: FleetTarget
    lives: SeriesLives


class _Fleet:
    """The counters and targets of a server within a window."""

    def __init__(self, api: PrometheusApi, since: float, until: float) -> None:
        self._api = api
        self._since = since
        self._until = until
        self._counters: dict[frozenset[tuple[str, str]], _Counter] = {}
        self._targets: dict[frozenset[tuple[str, str]], FleetTarget] = {}
        self._unknown = Unknown()
        has_phase = f'{cat.PHASE.prometheus}!=""'
        self._selectors = [
            _selector(CALL_SERIES, has_phase),
            _selector(JOB_SERIES, also=(_FINISHED,)),
        ]

    def read(self, progress: Callable[[int, int], object] | None) -> None:
        """Read the window in slices, oldest first."""
        self._read_beginning()
        at, width, widest = self._since, _FIRST_SLICE_SECONDS, float("inf")
        total = round((self._until - self._since) * 1000)
        while at < self._until:
            upto = round(min(self._until, at + width), 3)
            try:
                found = [
                    self._query(f"{each}[{_span(upto - at)}]", upto) for each in self._selectors
                ]
            except TooManySamplesError as error:
                width = widest = (upto - at) / 2
                if width < _SHORTEST_SLICE_SECONDS:
                    raise ConfigError(
                        f"prometheus={self._api.shown!r} cannot return one second of samples "
                        f"({error}); raise the limits of the server's queries"
                    ) from error
                continue
            self._add_slice(list(chain(*found)), at, upto)
            count = sum(len(series.samples) for series in chain(*found))
            width *= min(_MOST_GROWTH, max(1 / _MOST_GROWTH, _SAMPLES / max(1, count)))
            width = min(max(width, _SHORTEST_SLICE_SECONDS), widest)
            at = upto
            if progress is not None:
                progress(round((at - self._since) * 1000), total)
        seconds = self._until - self._since
        others = other_names(self._about(name_query(seconds)))
        has_calls = any(counter.labels[_NAME] in CALL_SERIES for counter in self._counters.values())
        if (others and not has_calls) or not (self._counters or self._targets):
            raise ConfigError(missing_names(self._api.shown, others, self._until, seconds))
        self._unknown.other_names = others
        self._read_about()

    def add_to(self, table: UsageTable, details: Details | None = None) -> None:
        """Add the sums to a table, with notes on what it lacks, and to the details."""
        weights: dict[int, float] = defaultdict(float)
        for counter in self._counters.values():
            if counter.labels[_NAME] in _WEIGHED:
                weights[id(counter.target)] += counter.lives.increase()
        targets = [each for each in self._targets.values() if each.last_at > self._since]
        dropped = duplicates(targets, weights)
        for counter in self._counters.values():
            target, lives = counter.target, counter.lives
            target.ends.update(lives.ends)
            target.alternates |= lives.alternates
            if id(target) in dropped:
                continue
            name = counter.labels[_NAME]
            self._unknown.add(name, lives)
            if increase := lives.increase():
                add_series(
                    table, name, counter.labels, increase, job=target.job, process=target.process
                )
                _add_errors(details, name, counter.labels, increase)
        table.rows = {key: row for key, row in table.rows.items() if not row.is_empty()}
        for target in targets:
            table.include_time(target.first_at)
            table.include_time(target.last_at)
        if table.total().calls and not any(row.buckets for row in table.rows.values()):
            self._unknown.lacks_buckets = True
        window = (self._since, self._until)
        _add_notes(table, notes_of(targets, dropped, self._unknown, window, self._api.warnings))

    def fired(self) -> Counter[str]:
        """Return the alerts that fired within the window, with their processes."""
        name, window = cat.ALERTS_FIRING.prometheus, _span(self._until - self._since)
        alerts = self._about(f"max_over_time({name}[{window}]) > 0")
        return Counter(each.labels.get(cat.ALERT.prometheus, "unknown") for each in alerts)

    def _query(self, expression: str, at: float) -> list[Series]:
        return self._api.query(expression, at)

    # --- samples -------------------------------------------------------------------------------

    def _read_beginning(self) -> None:
        """Read the last value of each counter before the window."""
        least, most = _LOOKBACK_SECONDS
        lookback = min(most, max(least, self._until - self._since))
        while True:
            try:
                found = list(
                    chain.from_iterable(
                        self._query(f"last_over_time({each}[{_span(lookback)}])", self._since)
                        for each in self._selectors
                    )
                )
                break
            except TooManySamplesError as error:
                lookback /= 4
                if lookback < _SHORTEST_SLICE_SECONDS:
                    raise ConfigError(
                        f"prometheus={self._api.shown!r} cannot return the values before the window "
                        f"({error}); raise the limits of the server's queries"
                    ) from error
        births, counters, scrapes = _sorted_out(found)
        for series in scrapes:
            target = self._target(series.labels)
            target.include_time(self._since)
            target.set_finished(self._since, is_finished=series.samples[-1][1] > 0)
        for series in counters:
            counter = self._counter(series.labels)
            counter.target.include_time(self._since)
            born = births.get(_birth_key(series.labels))
            birth = born[-1][1] if born else None
            if birth is not None:
                _add_births(counter, {birth})
            counter.lives.seed(series.samples[-1][1], birth)
        self._add_infos(
            (
                self._target(series.labels)
                for series in counters
                if _birth_key(series.labels) not in births
            ),
            lambda selector: self._about(
                f"last_over_time({selector}[{_span(lookback)}])", self._since
            ),
        )
        self._unknown.has_past = bool(found) or bool(
            self._about(f"count(last_over_time(up[{_span(lookback)}]))", self._since)
        )

    def _add_slice(self, found: Iterable[Series], since: float, until: float) -> None:
        births, counters, scrapes = _sorted_out(found)
        for series in scrapes:
            self._target(series.labels).add_scrapes(series.samples)
        known = [(self._counter(series.labels), series.samples) for series in counters]
        born = [births.get(_birth_key(series.labels)) for series in counters]
        for (counter, samples), of_series in zip(known, born, strict=True):
            counter.target.include_time(samples[0][0])
            counter.target.include_time(samples[-1][0])
            if not of_series or len(of_series) < len(samples):
                _find_restarts(counter, samples, dict(of_series or ()))
        self._add_infos(
            (
                counter.target
                for (counter, _), of_series in zip(known, born, strict=True)
                if not of_series
            ),
            lambda selector: self._about(f"{selector}[{_span(until - since)}]", until),
        )
        for (counter, samples), of_series in zip(known, born, strict=True):
            _add_samples(counter, samples, of_series or [])

    def _add_infos(
        self, targets: Iterable[FleetTarget], ask: Callable[[str], list[Series]]
    ) -> None:
        """Add the ids of the processes of targets without births, which show their restarts."""
        by_name = _by_name(targets)
        if not by_name:
            return
        jobs = "|".join(sorted({re.escape(job or "") for job, _ in by_name}))
        infos = ask(f"target_info{{job=~{json.dumps(jobs)}}}")
        for info in sorted(infos, key=lambda each: each.samples[0]):
            for target, each in _targets_of(info, by_name):
                target.add_id(each, [at for at, _ in info.samples])

    def _counter(self, labels: dict[str, str]) -> _Counter:
        key = frozenset(labels.items())
        if key not in self._counters:
            self._counters[key] = _Counter(labels, self._target(labels), SeriesLives(self._since))
        return self._counters[key]

    def _target(self, labels: dict[str, str]) -> FleetTarget:
        own = {
            name: text
            for name, text in labels.items()
            if name not in _OWN_LABELS and not name.startswith(_SCOPE)
        }
        key = frozenset(own.items())
        if key not in self._targets:
            self._targets[key] = FleetTarget(own)
        return self._targets[key]

    # --- about the samples ---------------------------------------------------------------------

    def _about(self, expression: str, at: float | None = None) -> list[Series]:
        try:
            return self._query(expression, self._until if at is None else at)
        except TooManySamplesError:
            self._unknown.unasked = True
            return []

    def _read_about(self) -> None:
        window = _span(self._until - self._since)
        finished = {
            (target.labels.get("job"), target.labels.get("instance"))
            for target in self._targets.values()
            if target.is_finished()
        }
        self._unknown.down = [
            series
            for series in self._about("up == 0")
            if (series.labels.get("job"), series.labels.get("instance")) not in finished
        ]
        self._unknown.died = self._about(
            f'max_over_time(genmeter_job_processes{{genmeter_state="died"}}[{window}]) > 0'
        )
        overflow = f'{OVERFLOW}="true"'
        self._unknown.has_overflow = bool(
            self._about(f"last_over_time({_selector(CALL_SERIES, overflow)}[{window}]) > 0")
        )
        infos = self._about(
            f"last_over_time(target_info[{window}]) and on (job, instance) "
            f"last_over_time({cat.BUILD_INFO.prometheus}[{window}])"
        )
        by_name = _by_name(self._targets.values())
        for info in infos:
            for target, each in _targets_of(info, by_name):
                target.ids.add(each)


_ByName = dict[tuple[str | None, str | None], set[FleetTarget]]


def _by_name(targets: Iterable[FleetTarget]) -> _ByName:
    by_name: _ByName = defaultdict(set)
    for target in targets:
        by_name[target.labels.get("job"), target.labels.get("instance")].add(target)
    return by_name


def _targets_of(info: Series, by_name: _ByName) -> Iterator[tuple[FleetTarget, str]]:
    """Return the targets that a `target_info` describes, each with the id of its process."""
    labels = info.labels
    # Prometheus moves a pushed one to `instance`.
    if each := labels.get("service_instance_id"):
        for target in by_name.get((labels.get("job"), labels.get("instance")), ()):
            if target.labels.items() <= labels.items():
                yield target, each


def _sorted_out(
    found: Iterable[Series],
) -> tuple[
    dict[tuple[str, frozenset[tuple[str, str]]], list[tuple[float, float]]],
    list[Series],
    list[Series],
]:
    """Return the births by their key, the counters, and the gauges of finished jobs."""
    births = {}
    counters, scrapes = [], []
    for series in found:
        name = series.labels.get(_NAME)
        if name is None:  # a server that drops names by mistake
            continue
        if name == _FINISHED:
            scrapes.append(series)
        elif name.endswith("_created"):
            births[_birth_key(series.labels)] = series.samples
        else:
            counters.append(series)
    return births, counters, scrapes


def _birth_key(labels: dict[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
    rest = frozenset(item for item in labels.items() if item[0] not in (_NAME, "le"))
    return _family(labels[_NAME]), rest


def _family(name: str) -> str:
    for suffix in (*_SUFFIXES, "_created"):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def _find_restarts(
    counter: _Counter, samples: list[tuple[float, float]], births: dict[float, float]
) -> None:
    """Add the falls of a counter at samples without a birth to its target."""
    last = counter.lives.last
    for at, value in samples:
        if at <= counter.lives.last_at:
            continue
        if last is not None and value < last and at not in births:
            counter.target.add_restart(at)
        last = value


def _add_samples(
    counter: _Counter, samples: list[tuple[float, float]], births: list[tuple[float, float]]
) -> None:
    lives, target = counter.lives, counter.target
    values = [value for _, value in samples]
    born = {birth for _, birth in births}
    _add_births(counter, born)
    first, last = samples[0][0], samples[-1][0]
    is_one_life = len(born) <= 1 and len(births) in (0, len(samples))
    if is_one_life and not births:
        is_one_life = not target.restarted_within(lives.last_at, last)
    if is_one_life and len(samples) > 2 and values == sorted(values):  # noqa: PLR2004
        samples = [samples[0], samples[-1]]  # the others would change nothing
    birth_at = dict(births)
    for at, value in samples:
        lives.add(
            at,
            value,
            birth_at.get(at),
            is_restart=target.restarted_within(lives.last_at, at),
            is_dated=target.first_at < first,
        )


def _add_births(counter: _Counter, births: set[float]) -> None:
    name = counter.labels[_NAME]
    if name in _WEIGHED:
        target = counter.target
        own = frozenset(counter.labels.items() - target.labels.items())
        target.births.update((own, birth) for birth in births)


def _add_notes(table: UsageTable, notes: Iterable[str]) -> None:
    for note in notes:
        if note.startswith(INCOMPLETE):
            table.note_partial(note)
        else:
            table.notes.append(note)


def _add_errors(
    details: Details | None, name: str, labels: Mapping[str, str], increase: float
) -> None:
    """Add failed calls by type of error, which the last bucket of their durations counts."""
    error = labels.get(cat.ERROR_TYPE.prometheus)
    if (
        details is not None
        and error
        and name == f"{cat.INFERENCE_DURATION.prometheus}_bucket"
        and labels.get(cat.PHASE.prometheus) == GENERATION
        and labels.get("le") == "+Inf"
    ):
        details.errors[error] += round(increase)


def _selector(names: Iterable[str], *matchers: str, also: Iterable[str] = ()) -> str:
    births = {f"{_family(name)}_created" for name in names}
    pattern = "|".join(sorted({*names, *births, *also}))
    return "{" + ",".join((f'__name__=~"{pattern}"', *matchers)) + "}"


def _span(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"
