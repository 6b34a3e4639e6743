"""A client of the HTTP API of Prometheus, which VictoriaMetrics, Thanos and Mimir have too.

It only evaluates expressions at an instant (``/api/v1/query``). A range vector such as
``metric[5m]`` returns the stored samples themselves, which a range query does not.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from genmeter.errors import ConfigError
from genmeter.report.address import Address, split_address

if TYPE_CHECKING:
    import requests

__all__ = ["ENVIRONMENT", "PrometheusApi", "Series", "TooManySamplesError", "server_address"]

ENVIRONMENT = {
    "GENMETER_PROMETHEUS_TOKEN": "bearer token",
    "GENMETER_PROMETHEUS_CERT": "PEM file of the client's certificate, with its key or without",
    "GENMETER_PROMETHEUS_KEY": "PEM file of the key, if it is not in the certificate's file",
}
"""Variables that authenticate requests; ``SSL_CERT_FILE`` has the authorities to trust."""

_EXAMPLE = "http://127.0.0.1:9090"
_API = "/api/v1"
_RETRIED = frozenset({429, 502, 503, 504})
_REFUSALS = frozenset({400, 422, 503})  # of a query that is too large or takes too long
_TRIES = 5
_PAUSE_SECONDS = 0.5  # doubled with each try
_MAX_PAUSE_SECONDS = 30.0
_GRACE_SECONDS = 5.0  # beyond the server's own time-out
_MAX_BYTES = 2**28
_CHUNK = 2**16
_MAX_SHOWN = 300
_LOOPBACK = ("localhost", "127.", "::1")
_TOO_LARGE = re.compile(  # Prometheus: --query.max-samples; VictoriaMetrics: -search.max*
    r"too many|cannot select more than|exceeds|maxSamples|maxUniqueTimeseries|maxExport|time-?out|"
    r"timed out",
    re.IGNORECASE,
)


class Series(NamedTuple):
    """A series in an answer.

    Attributes:
        labels: All labels, with ``__name__`` if the expression keeps it.
        samples: Unix times and values, oldest first; finite values only.
    """

    labels: dict[str, str]
    samples: list[tuple[float, float]]


class TooManySamplesError(Exception):
    """The server or this client refuses an answer for its size or its time."""


class PrometheusApi:
    """Queries a server, within an overall time.

    Args:
        url: ``http://user:password@host:port/prefix``; scheme, login and prefix are optional.
        timeout: Seconds for each request.
        total_timeout: Seconds for all requests together, pauses included.
        tries: How often a request is sent to a server that is busy or cannot be reached.

    Raises:
        ConfigError: The address or a variable is invalid.

    Attributes:
        shown: The address without its password.
        warnings: What the server said about the completeness of its answers, without repetition.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 60.0,
        total_timeout: float = 1800.0,
        tries: int = _TRIES,
    ) -> None:
        address = server_address(url)
        self._parts, self.shown = address.parts, address.shown
        self._tries = tries
        self._timeout = timeout
        self._total_timeout = total_timeout
        self._deadline = time.monotonic() + total_timeout
        self._session = _session(address)
        self.warnings: list[str] = []

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def query(self, expression: str, at: float | None = None) -> list[Series]:
        """Evaluate an expression.

        Args:
            expression: An expression of a range vector, an instant vector or a scalar.
            at: Unix time; None is the server's now.

        Raises:
            ConfigError: The server cannot be asked, or rejects the expression.
            TooManySamplesError: The answer would be too large, or took too long.
        """
        # `nocache`: VictoriaMetrics evaluates half a minute ago otherwise.
        parameters = {"query": expression, "timeout": f"{self._timeout:.0f}s", "nocache": "1"}
        if at is not None:
            parameters["time"] = f"{at:.3f}"
        answer = self._ask("query", parameters)
        for warning in answer.get("warnings") or ():
            self._warn(str(warning))
        if answer.get("isPartial"):
            self._warn("the answer is partial: a storage node did not answer")
        try:
            return _series(answer["data"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._error(
                f"answers in a form that Prometheus does not have ({error!r}); use the address of "
                "a Prometheus or VictoriaMetrics"
            ) from error

    def now(self) -> float:
        """Return the server's Unix time.

        Raises:
            ConfigError: The server cannot be asked.
        """
        try:
            return self.query("time()")[0].samples[0][1]
        except TooManySamplesError as error:
            raise self._error(
                f"does not respond: {error}; check that it is healthy, and that this is its address"
            ) from error
        except IndexError as error:
            raise self._error("has no time; use the address of a Prometheus") from error

    def _warn(self, warning: str) -> None:
        warning = warning[:_MAX_SHOWN]
        if warning not in self.warnings:
            self.warnings.append(warning)

    def _error(self, text: str) -> ConfigError:
        return ConfigError(f"prometheus={self.shown!r} {text}")

    def _ask(self, path: str, parameters: dict[str, str]) -> dict[str, Any]:
        """Ask until there is an answer that another try would not change."""
        for attempt in range(1, self._tries + 1):
            is_last = attempt == self._tries
            pause = _PAUSE_SECONDS * 2.0 ** (attempt - 1)
            try:
                status, headers, body = self._get(path, parameters)
            except OSError as error:  # also every error of requests
                if _is_slow(error):
                    raise TooManySamplesError("no answer in time") from error
                if is_last or not _may_pass(error):
                    raise self._error(_unreachable(error)) from error
                self._pause(pause)
                continue
            answer = _json(body)
            if status == http.client.OK and answer and answer.get("status") == "success":
                return answer
            message = str((answer or {}).get("error") or "")[:_MAX_SHOWN]
            is_timeout = (answer or {}).get("errorType") == "timeout"
            if is_timeout or (status in _REFUSALS and _TOO_LARGE.search(message)):
                raise TooManySamplesError(message)
            if status not in _RETRIED or is_last:
                raise self._error(_refused(status, answer, message))
            self._pause(_retry_after(headers.get("Retry-After")) or pause)
        raise AssertionError  # the last attempt returns or raises

    def _get(self, path: str, parameters: dict[str, str]) -> tuple[int, Any, bytes]:
        import requests

        url = self._parts._replace(path=f"{self._parts.path}{_API}/{path}").geturl()
        # The server's own time-out is answered; this one is for a server that hangs.
        limit = time.monotonic() + min(self._timeout + _GRACE_SECONDS, self._remaining())
        with self._session.get(
            url, params=parameters, timeout=max(0.001, limit - time.monotonic()), stream=True
        ) as response:
            body = bytearray()
            for chunk in response.iter_content(_CHUNK):
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise TooManySamplesError("an answer of more than 256 MiB")
                if time.monotonic() > limit:
                    raise requests.exceptions.Timeout("the answer took too long")
            return response.status_code, response.headers, bytes(body)

    def _remaining(self) -> float:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise self._error(
                f"was not read within {self._total_timeout:g} s; use a shorter window, or a longer "
                "total_timeout"
            )
        return remaining

    def _pause(self, seconds: float) -> None:
        time.sleep(min(seconds, _MAX_PAUSE_SECONDS, self._remaining()))


def server_address(url: str) -> Address:
    """Return a server's address in its parts, without `/api/v1`.

    Raises:
        ConfigError: It is not an address.
    """
    examples = f"{_EXAMPLE} or https://user:password@host/prefix"
    address = split_address("prometheus", url, examples, has_query=False)
    path = address.parts.path.rstrip("/").removesuffix(_API)
    return address._replace(parts=address.parts._replace(path=path))


def _session(address: Address) -> requests.Session:
    import requests

    session = requests.Session()
    # Without .netrc, whose login would replace the token's.
    session.trust_env = False
    host = (address.parts.hostname or "").lower()
    if not host.startswith(_LOOPBACK):  # proxies cannot reach the loopback interface
        session.proxies = requests.utils.get_environ_proxies(address.parts.geturl())
    authorities = os.environ.get("SSL_CERT_FILE")
    session.verify = _file("SSL_CERT_FILE", authorities) if authorities else True
    if certificate := os.environ.get("GENMETER_PROMETHEUS_CERT"):
        _file("GENMETER_PROMETHEUS_CERT", certificate)
        key = os.environ.get("GENMETER_PROMETHEUS_KEY")
        session.cert = (certificate, _file("GENMETER_PROMETHEUS_KEY", key)) if key else certificate
    token = os.environ.get("GENMETER_PROMETHEUS_TOKEN", "").strip()
    if address.authorization is not None:
        session.headers["Authorization"] = address.authorization
    elif token:
        if not token.isascii() or not token.isprintable():
            raise ConfigError(
                "GENMETER_PROMETHEUS_TOKEN must be a token of printable ASCII characters"
            )
        session.headers["Authorization"] = f"Bearer {token}"
    return session


def _file(variable: str, path: str) -> str:
    try:
        with open(path, "rb"):  # noqa: PTH123 - as given
            return path
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{variable}={path!r} cannot be read: {reason}; use the path of a PEM file"
        ) from error


def _may_pass(error: OSError) -> bool:
    """Return whether another try may succeed."""
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        return False
    if isinstance(error, requests.exceptions.ConnectionError):
        # Refused, or an unknown name: it does not change within seconds.
        return "Connection refused" not in str(error) and "resolve" not in str(error)
    return isinstance(error, requests.exceptions.Timeout | requests.exceptions.ChunkedEncodingError)


def _is_slow(error: OSError) -> bool:
    """Return whether a server accepted a request, and did not answer it in time."""
    import requests

    is_timeout = isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error)
    return is_timeout and not isinstance(error, requests.exceptions.ConnectTimeout)


def _unreachable(error: OSError) -> str:
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            remedy = "set SSL_CERT_FILE to the PEM file of the certificate to trust"
            return f"has a certificate that is not trusted; {remedy}"
        return (
            "does not accept the TLS connection; check https:// against http://, and set "
            "GENMETER_PROMETHEUS_CERT if it requires the certificate of a client"
        )
    if isinstance(error, requests.exceptions.Timeout):
        return "does not respond in time; check its address and its load"
    reason = "the connection failed"
    for known in ("Connection refused", "Connection reset", "Name or service not known"):
        if known in str(error):
            reason = known
    return f"does not respond: {reason}; check that it is running and that this is its address"


def _refused(status: int, answer: dict[str, Any] | None, message: str) -> str:
    if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        remedy = (
            "add its login, as in http://user:password@host:9090, or set GENMETER_PROMETHEUS_TOKEN"
        )
        return f"responds with {status}; {remedy}"
    if answer is not None and message:
        return f"responds with {status}: {message}"
    if status == http.client.OK:
        return (
            "responds with something else than JSON; use the address of a Prometheus or "
            "VictoriaMetrics, not of a login page or a dashboard"
        )
    if status == http.client.NOT_FOUND:
        return (
            "responds with 404 to /api/v1/query; add the prefix of its path, as in "
            f"{_EXAMPLE}/prometheus, and check that it is a Prometheus or VictoriaMetrics"
        )
    return f"responds with {status}; check that it is healthy, or try again later"


def _retry_after(header: str | None) -> float | None:
    """Return the seconds of the header; a date is ignored."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None


def _json(body: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(body)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _series(data: dict[str, Any]) -> list[Series]:
    kind, result = data["resultType"], data["result"]
    if kind == "scalar":
        return [Series({}, _finite([result]))]
    # A native histogram has `histograms` instead.
    found = (
        Series(
            dict(item["metric"]),
            _finite(item.get("values") or ([item["value"]] if "value" in item else [])),
        )
        for item in result
    )
    return [series for series in found if series.samples]


def _finite(pairs: list[list[Any]]) -> list[tuple[float, float]]:
    samples = [(at, float(text)) for at, text in pairs]
    if all(math.isfinite(value) for _, value in samples):
        return samples
    return [(at, value) for at, value in samples if math.isfinite(value)]
