"""The scrape endpoint of a running job."""

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
from genmeter.report.ledger import GENERATION, Key, Ledger, Outcomes, Tally
from genmeter.report.rows import UNKNOWN_MODEL
from genmeter.schema import metrics as cat
from genmeter.schema.prom_names import label_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client.samples import Sample

__all__ = ["read_endpoint", "read_page"]

_TIMEOUT_SECONDS = 10.0
_MOST_BYTES = 2**28
_NO_PROVIDER = "_OTHER"
_LOGIN = re.compile(r"//.*@")  # of a password with a slash in it, too
_FAILURE = "failure"
_OUTCOME = cat.OUTCOME.prometheus
_OVERFLOW = label_name("otel.metric.overflow")

# Sums of a tally, by the counter that has them.
_SUMS = {
    cat.INPUT_TOKENS: "prompt_tokens",
    cat.OUTPUT_TOKENS: "completion_tokens",
    cat.TOTAL_TOKENS: "total_tokens",
    cat.CACHE_READ_TOKENS: "cache_read_tokens",
    cat.CACHE_WRITE_TOKENS: "cache_write_tokens",
    cat.REASONING_TOKENS: "reasoning_tokens",
}


def read_endpoint(url: str) -> Ledger:
    """Scrape an endpoint and sum what it tells.

    Args:
        url: ``http://host:port/metrics``; the scheme and the path may be left out, and a user and
            a password may be in it.

    Raises:
        ConfigError: It does not answer, or with something else than a job's metrics.
    """
    parts, shown = _address(url)
    try:
        return read_page(_fetch(parts))
    except urllib.error.HTTPError as error:
        remedy = (
            "give its user and password, as in http://user:password@host:9464"
            if error.code == http.client.UNAUTHORIZED
            else "is it the endpoint of a job?"
        )
        raise ConfigError(f"source={shown!r} answers {error.code} {error.reason}; {remedy}") from (
            error
        )
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            f"source={shown!r} does not answer: {reason}; {_remedy(reason)}"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"source={shown!r} {error}") from error
    except (ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"source={shown!r} answers with something else than Prometheus text ({error}); give "
            "the endpoint of a job"
        ) from error


def _remedy(reason: object) -> str:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return "name the PEM file of a certificate to trust in the variable SSL_CERT_FILE"
    if isinstance(reason, ConnectionResetError):  # what an endpoint with TLS does to plain HTTP
        return "does it take https://?"
    return "does the job still run, and is it its address?"


def _address(url: str) -> tuple[SplitResult, str]:
    """Give the parts of an address, and how to show it: without its password."""
    full = url if "://" in url else f"http://{url}"
    shown = _LOGIN.sub("//", full)
    try:
        parts = urlsplit(full)
        is_usable = bool(parts.hostname) and parts.port != 0 and " " not in parts.netloc
        is_usable = is_usable and "@" not in parts.path  # of a password with a bare slash
    except ValueError:  # such as a port past 65535
        is_usable = False
    if not is_usable:
        raise ConfigError(
            f"source={shown!r} is no address; give one such as http://127.0.0.1:9464/metrics"
        )
    return parts, shown


def _fetch(parts: SplitResult) -> str:
    target = parts._replace(path=parts.path.rstrip("/") or "/metrics", fragment="")
    host = target.netloc.rpartition("@")[2]
    request = urllib.request.Request(target._replace(netloc=host).geturl())  # noqa: S310 - http or https
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        # Unredirected, so that nobody else is sent the password.
        request.add_unredirected_header(
            "Authorization", f"Basic {base64.b64encode(login).decode()}"
        )
    # Without the proxies of the environment, which do not know this machine's loopback interface.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
        page: bytes = response.read(_MOST_BYTES + 1)
    if len(page) > _MOST_BYTES:
        raise ConfigError("answers with more than 256 MiB; is it the endpoint of a job?")
    return page.decode("utf-8", "replace")


def read_page(page: str) -> Ledger:
    """Sum a page of Prometheus text.

    Args:
        page: What the endpoint of a job answers.

    Raises:
        ConfigError: It has no metrics of genmeter.
        ValueError: It is no Prometheus text.
    """
    ledger = Ledger("endpoint", is_estimated=True)
    readers = _Readers(ledger).by_name
    is_ours = False
    overflown = False
    for family in text_string_to_metric_families(page):
        is_ours = is_ours or family.name == cat.BUILD_INFO.prometheus
        for sample in family.samples:
            if (read := readers.get(sample.name)) is None:
                continue
            overflown = overflown or bool(sample.labels.get(_OVERFLOW) and sample.value)
            read(sample)
    if not is_ours:
        raise ConfigError("answers without any metric of genmeter; give the endpoint of a job")
    ledger.tallies = {key: tally for key, tally in ledger.tallies.items() if not tally.is_empty()}
    if overflown:
        ledger.notes.append(
            "Incomplete: the job has more label sets than its limit, and those past it are not in "
            "the report; raise limits.combinations."
        )
    return ledger


class _Readers:
    """What to do with a sample, by its name."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        duration = cat.INFERENCE_DURATION.prometheus
        conversations, evaluations = ledger.conversations, ledger.evaluations
        self.by_name: dict[str, Callable[[Sample], None]] = {
            cat.GENERATIONS.prometheus: self._calls,
            cat.COST.prometheus: self._cost,
            cat.UNPRICED.prometheus: self._unpriced,
            f"{duration}_bucket": self._bucket,
            f"{duration}_sum": self._sum,
            f"{cat.CONVERSATION_DURATION.prometheus}_count": _outcomes(conversations),
            cat.EVALUATIONS.prometheus: _outcomes(evaluations),
            **{row.prometheus: self._tokens(name) for row, name in _SUMS.items()},
        }

    def _tally(self, labels: Mapping[str, str]) -> Tally | None:
        """Give the sums of a series; None where another instrumentation has made it."""
        phase = labels.get(cat.PHASE.prometheus)
        if not phase:
            return None
        provider = labels.get(cat.PROVIDER.prometheus)
        return self._ledger.tally(
            Key(
                labels.get(cat.MODEL.prometheus) or UNKNOWN_MODEL,
                labels.get(cat.STEP.prometheus),
                None if provider == _NO_PROVIDER else provider,
                phase,
            )
        )

    def _tokens(self, name: str) -> Callable[[Sample], None]:
        def add(sample: Sample) -> None:
            if (tally := self._tally(sample.labels)) is not None:
                setattr(tally, name, getattr(tally, name) + int(sample.value))

        return add

    def _calls(self, sample: Sample) -> None:
        if (tally := self._tally(sample.labels)) is not None:
            count = int(sample.value)
            tally.calls += count
            tally.failures += count if sample.labels.get(_OUTCOME) == _FAILURE else 0

    def _cost(self, sample: Sample) -> None:
        if (tally := self._tally(sample.labels)) is not None:
            tally.cost = (tally.cost or 0.0) + sample.value

    def _unpriced(self, sample: Sample) -> None:
        if sample.value and sample.labels.get(cat.PHASE.prometheus):
            self._ledger.unpriced.add(sample.labels.get(cat.MODEL.prometheus) or UNKNOWN_MODEL)

    def _bucket(self, sample: Sample) -> None:
        if (tally := self._generation(sample)) is not None:
            tally.buckets.add(float(sample.labels["le"]), sample.value)

    def _sum(self, sample: Sample) -> None:
        if (tally := self._generation(sample)) is not None:
            tally.buckets.add_sum(sample.value)

    def _generation(self, sample: Sample) -> Tally | None:
        is_call = sample.labels.get(cat.PHASE.prometheus) == GENERATION
        return self._tally(sample.labels) if is_call else None


def _outcomes(outcomes: Outcomes) -> Callable[[Sample], None]:
    def add(sample: Sample) -> None:
        count = int(sample.value)
        outcomes.count += count
        outcomes.failures += count if sample.labels.get(_OUTCOME) == _FAILURE else 0

    return add
