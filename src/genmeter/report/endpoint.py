"""Reads the scrape endpoint of a running job."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from genmeter.errors import ConfigError
from genmeter.report._series_rows import OVERFLOW, add_series
from genmeter.report.address import Address, split_address
from genmeter.report.usage_table import UsageTable
from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from prometheus_client import Metric

__all__ = [
    "Page",
    "endpoint_address",
    "endpoint_parts",
    "read_endpoint",
    "read_page",
    "sum_families",
]

_T = TypeVar("_T")

_TIMEOUT_SECONDS = 10.0
_MAX_BYTES = 2**28
_TARGET = "target_info"
_NAMESPACE, _SERVICE, _INSTANCE = "service_namespace", "service_name", "service_instance_id"
_NO_NAME = "unknown_service"  # OpenTelemetry's name for a service without one
_PROCESSES = cat.JOB_PROCESSES.prometheus
_STATE = cat.STATE.prometheus
_DIED = "died"


class Page(NamedTuple):
    """The page of an endpoint.

    Attributes:
        usage: The sums of its job.
        job: The job's name; None if it has none.
        instance: The ``service.instance.id`` of its process; None if the page has none.
        families: Its metrics.
    """

    usage: UsageTable
    job: str | None
    instance: str | None
    families: Sequence[Metric] = ()


def endpoint_parts(url: str) -> Address:
    """Return an endpoint's address in its parts.

    Raises:
        ConfigError: It is not an address.
    """
    return split_address("source", url, "http://127.0.0.1:9464/metrics")


def endpoint_address(url: str) -> str:
    """Return an endpoint's address without its scheme, login and the path ``/metrics``.

    Raises:
        ConfigError: It is not an address.
    """
    parts = endpoint_parts(url).parts
    path = parts.path.rstrip("/")
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.netloc.lower()}{'' if path == '/metrics' else path}{query}"


def read_endpoint(url: str) -> Page:
    """Scrape an endpoint.

    Args:
        url: ``http://user:password@host:port/metrics``; scheme, login and path are optional.

    Raises:
        ConfigError: It does not respond with the metrics of a job.
    """
    return read_page(url, partial(_page_of, address=endpoint_address(url)))


def read_page(url: str, read: Callable[[Iterable[Metric]], _T]) -> _T:
    """Scrape an endpoint, and return what a function reads from its metrics.

    Args:
        url: As for `read_endpoint`.
        read: Reads the metrics of the page.

    Raises:
        ConfigError: It does not respond with the metrics of a job.
    """
    address = endpoint_parts(url)
    try:
        return read(text_string_to_metric_families(_fetch(address)))
    except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError) as error:
        raise ConfigError(f"source={address.shown!r} {_explain(error)}") from error


def _page_of(families: Iterable[Metric], address: str) -> Page:
    families = list(families)
    usage = sum_families(families)
    target = next(
        (each for family in families for each in family.samples if each.name == _TARGET), None
    )
    labels = {} if target is None else target.labels
    job = _job_of(labels)
    usage.rows = {key._replace(job=job, process=address): row for key, row in usage.rows.items()}
    _note_processes(usage, address, families)
    return Page(usage, job, labels.get(_INSTANCE) or None, families)


def _job_of(labels: Mapping[str, str]) -> str | None:
    """Return the job of a page's resource, as Prometheus names it for OTLP; None without a name."""
    name = labels.get(_SERVICE, "")
    if not name or name == _NO_NAME or name.startswith(f"{_NO_NAME}:"):
        return labels.get("job") or None
    namespace = labels.get(_NAMESPACE)
    return f"{namespace}/{name}" if namespace else name


def _note_processes(usage: UsageTable, address: str, families: Iterable[Metric]) -> None:
    """Add a note if processes of the job died."""
    processes: Counter[str] = Counter()
    for family in families:
        for sample in family.samples:
            if sample.name == _PROCESSES and sample.value > 0:
                processes[sample.labels.get(_STATE, "")] += int(sample.value)
    if died := processes[_DIED]:
        usage.note_partial(
            f"Incomplete: {died:,} of {processes.total():,} processes of the job at {address} died; "
            "what they had not published, at most about a second each, is missing."
        )


def _explain(error: Exception) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, urllib.error.HTTPError):
        remedy = "check that it is the endpoint of a job"
        if error.code == http.client.UNAUTHORIZED:
            remedy = "add its login, as in http://user:password@host:9464"
        return f"responds with {error.code} {error.reason}; {remedy}"
    if isinstance(error, OSError | http.client.HTTPException):
        reason = getattr(error, "reason", error)
        remedy = "check that the job is running and that this is its address"
        if isinstance(reason, ssl.SSLCertVerificationError):
            remedy = "set SSL_CERT_FILE to the PEM file of the certificate to trust"
        elif isinstance(reason, ConnectionResetError):  # a TLS server closes on plain HTTP
            remedy = "try https://"
        return f"does not respond: {reason}; {remedy}"
    return f"is not Prometheus text ({error}); use the endpoint of a job"


def _fetch(address: Address) -> str:
    """Return the text that an address responds with.

    Raises:
        ConfigError: It is too large.
        OSError: There is no response, or its status is an error.
    """
    path = address.parts.path.rstrip("/") or "/metrics"
    request = urllib.request.Request(address.parts._replace(path=path, fragment="").geturl())  # noqa: S310 - http or https
    if address.authorization is not None:
        # Not sent to the target of a redirect.
        request.add_unredirected_header("Authorization", address.authorization)
    # Proxies of the environment cannot reach the loopback interface.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
            page: bytes = response.read(_MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        error.close()  # its connection, which it would keep as long as it is referenced
        raise
    if len(page) > _MAX_BYTES:
        raise ConfigError("responds with more than 256 MiB; check that it is the endpoint of a job")
    return page.decode("utf-8", "replace")


def sum_families(families: Iterable[Metric]) -> UsageTable:
    """Sum a scrape.

    Args:
        families: The metrics of a job.

    Raises:
        ConfigError: None of them is genmeter's.
    """
    table = UsageTable("endpoint")
    is_ours = False
    has_overflow = False
    for family in families:
        is_ours = is_ours or family.name == cat.BUILD_INFO.prometheus
        for sample in family.samples:
            is_used = add_series(table, sample.name, sample.labels, sample.value)
            if is_used and sample.labels.get(OVERFLOW) and sample.value:
                has_overflow = True
    if not is_ours:
        raise ConfigError("responds without metrics of genmeter; use the endpoint of a job")
    table.rows = {key: row for key, row in table.rows.items() if not row.is_empty()}
    if has_overflow:
        table.note_partial(
            "Incomplete: the job has exceeded its limit of label combinations, and the report lacks "
            "the excess; raise limits.combinations."
        )
    return table
