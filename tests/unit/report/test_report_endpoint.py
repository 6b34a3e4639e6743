"""The report of the endpoint of a running job."""

from __future__ import annotations

import math
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from _report import as_json, record_a_job, report
from genmeter.config.monitor import MonitorConfig
from genmeter.config.prices import PriceTable
from genmeter.exporters._http import ScrapeServer
from genmeter.report import endpoint
from genmeter.report.usage_table import UsageRow
from genmeter.schema import metrics as cat
from genmeter.testing import IsolatedMonitor, isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Capsys = pytest.CaptureFixture[str]


@contextmanager
def serving(monitor: IsolatedMonitor, **arguments: Any) -> Iterator[ScrapeServer]:
    """Serve a monitor like its endpoint."""
    server = ScrapeServer(
        lambda openmetrics: monitor.page(openmetrics=openmetrics).encode(), port=0, **arguments
    )
    server.start()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def answering(body: bytes, status: int = 200, **headers: str) -> Iterator[tuple[str, list[Any]]]:
    """Serve one response; yield the address and the headers of the requests."""
    asked: list[Any] = []

    class _Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_the_report_equals_the_totals_of_the_running_job(capsys: Capsys) -> None:
    """Calls, tokens and outcomes by model and step equal the scrape."""
    with isolated_monitor() as monitor, serving(monitor) as server:
        record_a_job(monitor)
        usage = monitor.get_total_token_usage()
        found = as_json(capsys, server.url)
    assert [
        (row["model"], row["step"], row["calls"], row["failures"]) for row in found["rows"]
    ] == [
        ("atlas-large", "answer_generation", 10, 0),
        ("atlas-large", "question_generation", 10, 0),
        ("judge", None, 0, 0),
        ("sprint-mini", "answer_generation", 13, 3),
        ("sprint-mini", "question_generation", 10, 0),
    ]
    total = found["total"]
    assert total["prompt_tokens"] == usage.total_prompt_tokens
    assert total["completion_tokens"] == usage.total_completion_tokens
    assert total["total_tokens"] == usage.total_tokens
    assert total["cache_read_tokens"] == sum(range(40))
    assert total["duration_mean_seconds"] == pytest.approx((0.1 * sum(range(40)) + 6) / 43)
    assert found["conversations"] == {"count": 2, "failures": 1}
    assert found["evaluations"] == {"count": 2, "failures": 1}
    assert (found["source"], found["quantiles"]) == ("endpoint", "estimated")
    assert (found["since"], found["until"]) == (None, None)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{}", "localhost:{}/", "http://127.0.0.1:{}/metrics/"]
)
def test_scheme_and_path_are_optional(capsys: Capsys, address: str) -> None:
    """Host and port are enough."""
    with isolated_monitor() as monitor, serving(monitor) as server:
        monitor.track_generation(1.0, True, model_name="atlas-large")
        assert as_json(capsys, address.format(server.port))["total"]["calls"] == 1


def test_an_unknown_provider_is_none(capsys: Capsys) -> None:
    """The label value for an unknown provider is not shown."""
    with isolated_monitor() as monitor, serving(monitor) as server:
        monitor.track_generation(1.0, True, model_name="a")
        monitor.track_generation(1.0, True, model_name="a", provider="openai")
        rows = as_json(capsys, server.url, "--by", "provider")["rows"]
    assert [row["provider"] for row in rows] == ["openai", None]


def test_the_cost_is_that_of_the_job_without_prices(capsys: Capsys) -> None:
    """The job's own costs are reported, with the models that it could not price."""
    config = MonitorConfig(prices=PriceTable({"atlas-large": (2.0, 10.0)}))
    with isolated_monitor(config) as monitor, serving(monitor) as server:
        for model in ("atlas-large", "sprint-mini"):
            monitor.track_generation(1.0, True, model_name=model, prompt_token_count=1_000_000)
        found = as_json(capsys, server.url)
        code, out, _ = report(capsys, server.url)
    assert [row["cost_usd"] for row in found["rows"]] == [2.0, None]
    assert found["total"]["cost_usd"] == 2.0
    assert found["unpriced_models"] == ["sprint-mini"]
    assert code == 0
    assert "Models without a price, not in the cost: sprint-mini." in out
    assert "p50 and p95 are estimated" in out


def test_sums_of_an_endpoint_lack_what_is_known_of_single_calls(
    capsys: Capsys, tmp_path: Path
) -> None:
    """Such as a reported cost, which the report says."""
    prices = tmp_path / "prices.json"
    prices.write_text('{"atlas-large": [2, 10]}')
    with isolated_monitor() as monitor, serving(monitor) as server:
        tokens = {"model_name": "atlas-large", "prompt_token_count": 1_000_000}
        monitor.track_generation(1.0, True, **tokens)
        code, plain, _ = report(capsys, server.url, "--prices", str(prices))
        monitor.track_generation(1.0, True, cost=9, **tokens)
        _, out, _ = report(capsys, server.url, "--prices", str(prices))
    assert code == 0
    assert "Costs by the sums of tokens" not in plain
    assert "Costs by the sums of tokens: what providers reported" in out
    assert "4.0000" in out


def test_a_window_is_refused(capsys: Capsys) -> None:
    """An endpoint has no history, and the error names the journal."""
    code, out, err = report(capsys, "127.0.0.1:9464", "--window", "1h")
    assert (code, out) == (2, "")
    assert "window must be omitted for an endpoint" in err


def test_a_login_is_sent_and_never_shown(capsys: Capsys) -> None:
    """User and password of the address are used, and never printed."""
    login = {"username": "reader", "password": "p:@/ß"}
    with isolated_monitor() as monitor, serving(monitor, **login) as server:
        monitor.track_generation(1.0, True, model_name="a")
        address = f"http://{{}}@127.0.0.1:{server.port}"
        assert as_json(capsys, address.format("reader:p%3A%40%2F%C3%9F"))["total"]["calls"] == 1
        for wrong in ("reader:secret", "reader"):
            code, out, err = report(capsys, address.format(wrong))
            assert (code, out) == (2, "")
            assert "responds with 401" in err
            assert "add its login" in err
            assert "secret" not in err


def test_a_redirect_does_not_get_the_login(capsys: Capsys) -> None:
    """A redirect does not carry the password to another server."""
    with (
        answering(b"", 404) as (other, asked),
        answering(b"", 302, Location=f"{other}/metrics") as (address, first),
    ):
        code, _, _ = report(capsys, address.replace("//", "//reader:secret@"))
    assert code == 2
    assert [headers["Authorization"] is not None for headers in first] == [True]
    assert [headers["Authorization"] for headers in asked] == [None]


def test_proxies_of_the_environment_are_ignored(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy cannot reach the loopback interface."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with isolated_monitor() as monitor, serving(monitor) as server:
        assert as_json(capsys, server.url)["rows"] == []


def test_an_endpoint_that_does_not_respond_is_an_error(capsys: Capsys) -> None:
    """The error suggests that the job has ended."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else answers there
        code, out, err = report(capsys, f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}")
    assert (code, out) == (2, "")
    assert "does not respond: " in err
    assert "check that the job is running" in err
    assert "secret" not in err


def test_an_endpoint_with_tls_is_read_or_its_error_explains(
    capsys: Capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error names the missing scheme or certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    issued = tmp_path / "issued.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(issued)
    with isolated_monitor() as monitor, serving(monitor, certfile=str(issued)) as server:
        monitor.track_generation(1.0, True, model_name="a")
        code, _, err = report(capsys, f"127.0.0.1:{server.port}")
        assert code == 2
        assert "try https://" in err
        code, _, err = report(capsys, server.url)
        assert code == 2
        assert "set SSL_CERT_FILE" in err
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        assert as_json(capsys, server.url)["total"]["calls"] == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>Hello</html>", "is not Prometheus text"),
        (b"up 1\n", "without metrics of genmeter"),
        (b"", "without metrics of genmeter"),
        (b'a{le="1"', "is not Prometheus text"),
    ],
)
def test_a_page_of_another_server_is_an_error(capsys: Capsys, body: bytes, message: str) -> None:
    """The error names the address."""
    with answering(body) as (address, _):
        code, out, err = report(capsys, address)
    assert (code, out) == (2, "")
    assert message in err
    assert address in err


def test_an_endless_page_is_an_error(capsys: Capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not fill the memory."""
    monkeypatch.setattr(endpoint, "_MAX_BYTES", 10)
    with answering(b"x" * 11) as (address, _):
        code, out, err = report(capsys, address)
    assert (code, out) == (2, "")
    assert "responds with more than" in err


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http://user:/secret@127.0.0.1:9464",
        "http://user:secret@[::1",
        "http://127.0.0.1:99999",
        "http://a b:80",
    ],
)
def test_an_invalid_address_is_an_error(capsys: Capsys, address: str) -> None:
    """The error has an example."""
    code, out, err = report(capsys, address)
    assert (code, out) == (2, "")
    assert "http://127.0.0.1:9464/metrics" in err
    assert "secret" not in err


def test_a_job_without_a_call_is_an_empty_report(capsys: Capsys) -> None:
    """A configured model without calls has no row."""
    config = MonitorConfig(models=("atlas-large",))
    with isolated_monitor(config) as monitor, serving(monitor) as server:
        code, out, _ = report(capsys, server.url)
    assert (code, out) == (0, "Nothing to report: the endpoint has no calls.\n")


def test_metrics_of_other_instrumentations_do_not_count(capsys: Capsys) -> None:
    """They may use the same names of the semantic conventions."""
    with isolated_monitor() as monitor:
        monitor.track_generation(1.0, True, model_name="a", prompt_token_count=10)
        page = monitor.page()
    line = f'{cat.INPUT_TOKENS.prometheus}{{{cat.MODEL.prometheus}="a"}} 5\n'
    with answering((page + line).encode()) as (address, _):
        assert as_json(capsys, address)["total"]["prompt_tokens"] == 10


def test_a_label_overflow_is_reported(capsys: Capsys) -> None:
    """The report says that it is incomplete."""
    with isolated_monitor() as monitor:
        monitor.track_generation(1.0, True, model_name="a", prompt_token_count=10)
        page = monitor.page()
    line = f'{cat.TOTAL_TOKENS.prometheus}{{otel_metric_overflow="true"}} 5\n'
    with answering((page + line).encode()) as (address, _):
        assert "raise limits.combinations" in report(capsys, address)[1]


def test_quantiles_are_those_of_prometheus() -> None:
    """They are linear within a bucket, and at most the last finite bound."""
    row = UsageRow()
    assert row.quantile(0.5) is None
    assert row.mean() is None
    row.buckets.update({1.0: 4, 2.0: 4, 4.0: 8, math.inf: 10})
    row.duration_sum = 30.0
    assert row.mean() == 3.0
    shares = (0.2, 0.4, 0.5, 0.8, 0.95)
    assert [row.quantile(share) for share in shares] == [0.5, 1.0, 2.5, 4.0, 4.0]
