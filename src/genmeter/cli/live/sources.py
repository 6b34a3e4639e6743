"""What the live view reads: endpoints, jobs by name, and Prometheus."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from prometheus_client import Metric

from genmeter.errors import ConfigError
from genmeter.events.values import safe_repr
from genmeter.exporters.prometheus import PrometheusBridge
from genmeter.job.job import JobError
from genmeter.job.reader import JobReader
from genmeter.report.endpoint import endpoint_parts, read_page
from genmeter.report.promapi import PrometheusApi, TooManySamplesError
from genmeter.report.status import PROCESSES, Status
from genmeter.schema import metrics as cat
from genmeter.schema.metrics import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from genmeter.report.promapi import Series
    from genmeter.schema.metrics import Label

__all__ = ["Endpoint", "NamedJob", "Prometheus", "Reading", "Source", "source_of"]


class Reading(NamedTuple):
    """The state of a job as a source has it.

    Attributes:
        name: The job's name in the view, unique in its source.
        at: When the numbers were exposed, in seconds on any clock that is always the same.
        age: How old the numbers are, in seconds.
        status: The numbers.
    """

    name: str
    at: float
    age: float
    status: Status


class Source(Protocol):
    """A source of one or several jobs.

    Attributes:
        name: Its name in the view.
    """

    name: str

    def read(self) -> list[Reading]:
        """Return its current jobs; called once an interval, on a thread of its own.

        Raises:
            ConfigError: It cannot be read; the message says why, and what to do. The cause is an
                OSError if it does not respond.
        """


_PROMETHEUS = "prometheus="
_JOB = "job="  # for names that look like another source
_JOB_NAME = re.compile(r"[^\s/:@=]+")
_FORMS = (
    "HOST:PORT, an address such as http://127.0.0.1:9464/metrics, the name of a job (GENMETER_JOB), or "
    "prometheus=http://HOST:9090"
)


def source_of(text: str) -> Source:
    """Return the source that an argument names.

    Raises:
        ConfigError: It names none.
    """
    if text.startswith(_PROMETHEUS):
        return Prometheus(text.removeprefix(_PROMETHEUS))
    if text.startswith(_JOB) and len(text) > len(_JOB):
        return NamedJob(text.removeprefix(_JOB))
    if "://" in text or ":" in text:
        return Endpoint(text)
    if _JOB_NAME.fullmatch(text) and not text.endswith((".jsonl", ".json", ".parquet")):
        return NamedJob(text)
    raise ConfigError(
        f"SOURCE must be {_FORMS}, got {safe_repr(text)}; genmeter report reads journals and exports"
    )


class NamedJob:
    """The processes of a job of this user on this machine, through the store that they share.

    Args:
        name: The job's name, as in ``GENMETER_JOB``.

    Raises:
        ConfigError: No running job has this name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._reader = JobReader(name)
        bridge = PrometheusBridge(lambda _timeout: self._reader.collect())
        self._families = bridge.collect_families
        self.read()

    def read(self) -> list[Reading]:
        """Read what its processes have published."""
        try:
            families = self._families()
        except JobError as error:
            raise ConfigError(
                f"SOURCE {self.name!r} must be the name of a running job of this machine ({error}); "
                "use its GENMETER_JOB, or the address of its endpoint, such as 127.0.0.1:9464"
            ) from error
        return [Reading(self.name, time.monotonic(), 0.0, Status.of(families))]


class Endpoint:
    """The scrape endpoint of a job.

    Args:
        url: Its address; scheme, login and path are optional.

    Raises:
        ConfigError: It is not an address.
    """

    def __init__(self, url: str) -> None:
        parts, self._shown, _ = endpoint_parts(url)
        self._url = url
        path = parts.path.rstrip("/")
        scheme = "" if parts.scheme == "http" else f"{parts.scheme}://"
        self.name = f"{scheme}{parts.netloc}{'' if path == '/metrics' else path}"

    def read(self) -> list[Reading]:
        """Read its page."""
        try:
            status = read_page(self._url, Status.of)
        except ConfigError as error:
            # The view has the address in front of it.
            message = str(error).removeprefix(f"source={self._shown!r} ")
            raise ConfigError(message) from error.__cause__
        return [Reading(self.name, time.monotonic(), 0.0, status)]


# --- Prometheus --------------------------------------------------------------------------------

_TIMEOUT = 10.0  # seconds of a request
_TARGET = ("job", "instance")
_PARTS: dict[Kind, tuple[str, ...]] = {Kind.HISTOGRAM: ("_count", "_sum", "_bucket")}
_READ = (
    *(cat.GENERATIONS, cat.COST, cat.USAGE_UNREAD, cat.UNPRICED),
    *(cat.INPUT_TOKENS, cat.OUTPUT_TOKENS, cat.TOTAL_TOKENS, cat.INFERENCE_DURATION),
    *(cat.CONVERSATION_DURATION, cat.EVALUATIONS, cat.SAMPLES, cat.SAMPLES_EXPECTED),
    *(cat.ACTIVE, cat.ALERTS_FIRING, cat.MONITOR_EVENTS, cat.JOB_FINISHED, cat.BUILD_INFO),
)
_NAMES = "|".join(
    [
        *(f"{row.prometheus}{part}" for row in _READ for part in _PARTS.get(row.kind, ("",))),
        *(PROCESSES, "target_info"),
    ]
)
# Steps, providers and versions are summed by the server; the view shows none of them.
_LABELS: tuple[Label, ...] = (
    *(cat.MODEL, cat.PHASE, cat.OUTCOME, cat.ERROR_TYPE, cat.ALERT, cat.RESULT),
    *(cat.REJECT_REASON,),  # also that of samples
)
_BY = ", ".join(
    [
        *("__name__", *_TARGET, "le", cat.STATE.prometheus, "service_instance_id"),
        *("otel_metric_overflow", *(label.prometheus for label in _LABELS)),
    ]
)
_SUMS = f'sum by ({_BY}) ({{__name__=~"{_NAMES}"}})'
_TIMES = f"max by ({', '.join(_TARGET)}) (timestamp({cat.BUILD_INFO.prometheus}))"
_RESOURCE = "target_info"


class Prometheus:
    """A server with Prometheus's API, which has the series of any number of jobs.

    A job is what has the same labels ``job`` and ``instance``. Those that ended, and those that the
    server cannot scrape, are missing.

    Args:
        url: Its address; scheme, login and a path prefix are optional. Tokens and certificates are
            those of `genmeter.report.promapi.ENVIRONMENT`, as in a report.

    Raises:
        ConfigError: It is not an address, or a variable is invalid.
    """

    def __init__(self, url: str) -> None:
        # One try: the next reading is the next one.
        self._api = PrometheusApi(url, timeout=_TIMEOUT, total_timeout=math.inf, tries=1)
        self.name = f"{_PROMETHEUS}{self._api.shown}"

    def read(self) -> list[Reading]:
        """Ask for the last value of each series."""
        self._api.warnings.clear()
        try:
            sums = self._api.query(_SUMS)
            now = max((each.samples[-1][0] for each in sums), default=0.0)
            times = self._api.query(_TIMES, now)
        except TooManySamplesError as error:
            cause = error.__cause__
            verb = "does not respond" if isinstance(cause, OSError) else "refuses the query"
            raise ConfigError(f"{verb}: {error}; check its load") from cause
        except ConfigError as error:
            # The view has the address in front of it.
            message = str(error).removeprefix(f"prometheus={self._api.shown!r} ")
            raise ConfigError(message) from error.__cause__
        notes = [f"Prometheus: {warning}" for warning in self._api.warnings]
        exposed = {_target(each.labels): each.samples[-1][1] for each in times}
        readings = []
        for target, series in _by_target(sums).items():
            if (at := exposed.get(target)) is not None:
                status = Status.of(_families(series))
                status.usage.notes += notes
                readings.append(Reading("/".join(target), at, max(0.0, now - at), status))
        return sorted(readings, key=lambda reading: reading.name)


def _target(labels: Mapping[str, str]) -> tuple[str, str]:
    job, instance = (labels.get(name, "-") for name in _TARGET)
    return job, instance


def _by_target(sums: Iterable[Series]) -> dict[tuple[str, str], list[Series]]:
    targets: dict[tuple[str, str], list[Series]] = {}
    for each in sums:
        targets.setdefault(_target(each.labels), []).append(each)
    return targets


def _families(series: Iterable[Series]) -> Iterable[Metric]:
    """Return series as the metrics of a page."""
    for each in series:
        labels = dict(each.labels)
        name = labels.pop("__name__")
        for label in _TARGET:
            labels.pop(label, None)
        metric = Metric(name, "", "untyped")
        metric.add_sample(name, labels, each.samples[-1][1])
        yield metric
