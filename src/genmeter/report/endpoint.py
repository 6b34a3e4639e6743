"""Reads the scrape endpoint of a running job."""

from __future__ import annotations

import base64
import http.client
import re
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from prometheus_client.parser import text_string_to_metric_families

from genmeter.errors import ConfigError
from genmeter.report._series_rows import OVERFLOW, add_series
from genmeter.report.usage_table import UsageTable
from genmeter.schema import metrics as cat

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

__all__ = ["read_endpoint", "sum_families"]

_TIMEOUT_SECONDS = 10.0
_MAX_BYTES = 2**28
_LOGIN = re.compile(r"//.*@")  # also of a password that contains a slash


def read_endpoint(url: str) -> UsageTable:
    """Scrape an endpoint.

    Args:
        url: ``http://user:password@host:port/metrics``; scheme, login and path are optional.

    Raises:
        ConfigError: It does not respond with the metrics of a job.
    """
    parts, shown = _address(url)
    try:
        return sum_families(text_string_to_metric_families(_fetch(parts)))
    except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError) as error:
        raise ConfigError(f"source={shown!r} {_explain(error)}") from error


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


def _address(url: str) -> tuple[SplitResult, str]:
    """Return the parts of an address, and the address without its password."""
    full = url if "://" in url else f"http://{url}"
    shown = _LOGIN.sub("//", full)
    try:
        parts = urlsplit(full)
        is_usable = bool(parts.hostname) and parts.port != 0 and " " not in parts.netloc
        is_usable = is_usable and "@" not in parts.path  # a password with an unescaped slash
    except ValueError:  # such as a port past 65535
        is_usable = False
    if not is_usable:
        raise ConfigError(
            f"source must be an address such as http://127.0.0.1:9464/metrics, got {shown!r}"
        )
    return parts, shown


def _fetch(parts: SplitResult) -> str:
    target = parts._replace(path=parts.path.rstrip("/") or "/metrics", fragment="")
    host = target.netloc.rpartition("@")[2]
    request = urllib.request.Request(target._replace(netloc=host).geturl())  # noqa: S310 - http or https
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        # Not sent to the target of a redirect.
        request.add_unredirected_header(
            "Authorization", f"Basic {base64.b64encode(login).decode()}"
        )
    # Proxies of the environment cannot reach the loopback interface.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
        page: bytes = response.read(_MAX_BYTES + 1)
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
        table.notes.append(
            "Incomplete: the job has exceeded its limit of label combinations, and the report lacks "
            "the excess; raise limits.combinations."
        )
    return table
