"""Alerts sent from the process directly to Alertmanagers: posts, credentials, TLS and arguments."""

from __future__ import annotations

import base64
import os
import ssl
import time
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from _alertmanagers import LABELS, NOON, alert, at_noon, closed_port
from _posts import PATIENCE, PostServer, eventually
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from urllib3 import HTTPConnectionPool

from genmeter import Alert, AlertmanagerHandler, ConfigError, ExportError, MonitorConfig
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "p:ss wörd"


@pytest.fixture
def server() -> Iterator[PostServer]:
    """Return a server that accepts every post."""
    with PostServer() as made:
        yield made


@pytest.fixture(autouse=True)
def _at_noon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The clock stands at noon, and no thread is left."""
    with at_noon(monkeypatch):
        yield


# --- posts --------------------------------------------------------------------------------


def test_posts_have_the_format_of_api_v2(server: PostServer) -> None:
    """The post has the alert's labels, annotations, start and end."""
    handler = AlertmanagerHandler(
        server.url, labels={"cluster": "a"}, generator_url="https://example.org/d/overview"
    )
    handler(alert(gen_ai_request_model="m"))
    assert handler.flush(PATIENCE)
    (post,) = server.posts
    assert post.path == "/api/v2/alerts"
    assert post.headers["content-type"] == "application/json"
    assert "authorization" not in post.headers
    assert post.alerts == [
        {
            "labels": {**LABELS, "gen_ai_request_model": "m", "cluster": "a"},
            "annotations": {"summary": "too many", "runbook_url": "https://example.org/runbook#a"},
            "startsAt": "2026-03-01T12:00:00+00:00",
            "endsAt": "2026-03-01T12:05:00+00:00",
            "generatorURL": "https://example.org/d/overview",
        }
    ]


def test_alert_without_labels_is_posted(server: PostServer) -> None:
    """An alert with AfterImage's five fields has its name as label and its message as summary."""
    handler = AlertmanagerHandler([server.url])
    handler(Alert("mine", "look", "warning", NOON.replace(tzinfo=None), {}))
    assert handler.flush(PATIENCE)
    (posted,) = server.alerts
    assert posted["labels"] == {"alertname": "mine"}
    assert posted["annotations"] == {"summary": "look"}
    assert datetime.fromisoformat(posted["startsAt"]) == NOON.replace(tzinfo=None).astimezone()


def test_labels_of_the_alert_win(server: PostServer) -> None:
    """If an alert has a label of the same name, its value is kept."""
    handler = AlertmanagerHandler([server.url], labels={"team": "a", "site": "b"})
    handler(alert(team="c"))
    assert handler.flush(PATIENCE)
    assert server.alerts[0]["labels"] == {**LABELS, "team": "c", "site": "b"}


class Word(StrEnum):
    """Texts of a subclass, as settings often have them."""

    TEAM = "team"
    USER = "user"


def test_texts_of_a_subclass_are_texts(server: PostServer) -> None:
    """Names of labels, their values and credentials may be members of an enumeration."""
    handler = AlertmanagerHandler(
        [server.url], labels={Word.TEAM: Word.USER}, username=Word.USER, password=Word.TEAM
    )
    handler(alert())
    assert handler.flush(PATIENCE)
    (post,) = server.posts
    assert post.alerts[0]["labels"] == {**LABELS, "team": "user"}
    login = base64.b64encode(b"user:team").decode()
    assert post.headers["authorization"] == f"Basic {login}"


def test_refresh_outlives_four_evaluations(server: PostServer) -> None:
    """An alert ends ``ends_after`` seconds or four evaluations later, whichever is more."""
    handler = AlertmanagerHandler([server.url], ends_after=100)
    for interval in (10, 50):
        handler.refresh([alert()], interval)
        assert handler.flush(PATIENCE)
    handler(alert())
    assert handler.flush(PATIENCE)
    ends = [each["endsAt"][11:19] for each in server.alerts]
    assert ends == ["12:01:40", "12:03:20", "12:03:20"]


def test_resolved_alert_has_its_end(server: PostServer) -> None:
    """The end of a resolved alert is in the past, and not before its start."""
    handler = AlertmanagerHandler([server.url])
    for minute in (3, -1):
        handler(alert("resolved", minute=minute))
        assert handler.flush(PATIENCE)
    assert [each["startsAt"][11:19] for each in server.alerts] == ["12:00:00"] * 2
    assert [each["endsAt"][11:19] for each in server.alerts] == ["12:03:00", "12:00:00"]


def test_refresh_without_alerts_posts_nothing(server: PostServer) -> None:
    """Without firing alerts there is no post."""
    handler = AlertmanagerHandler([server.url])
    handler.refresh([], 60)
    assert handler.flush(PATIENCE)
    assert server.posts == []


def test_many_alerts_are_posted_in_batches(server: PostServer) -> None:
    """150 alerts arrive in three posts, since some proxies limit the body."""
    handler = AlertmanagerHandler([server.url])
    handler.refresh([alert(model=str(number)) for number in range(150)], 60)
    assert handler.flush(PATIENCE)
    assert [len(post.alerts) for post in server.posts] == [64, 64, 22]
    assert {each["labels"]["model"] for each in server.alerts} == {str(n) for n in range(150)}


def test_prefix_of_an_address_is_kept(server: PostServer) -> None:
    """A path prefix works with and without a trailing slash."""
    handler = AlertmanagerHandler([f"{server.url}/a%20b/alertmanager/", f"{server.url}/c"])
    handler(alert())
    assert handler.flush(PATIENCE)
    assert {post.path for post in server.posts} == {
        "/a%20b/alertmanager/api/v2/alerts",
        "/c/api/v2/alerts",
    }


# --- credentials and TLS ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["arguments", "file", "address"])
def test_basic_authentication(server: PostServer, tmp_path: Path, way: str) -> None:
    """User and password can come from arguments, a file or the address."""
    (tmp_path / "password").write_text(f"{SECRET}\n", encoding="utf-8")
    handler = {
        "arguments": lambda: AlertmanagerHandler([server.url], username="u", password=SECRET),
        "file": lambda: AlertmanagerHandler(
            [server.url], username="u", password_file=tmp_path / "password"
        ),
        "address": lambda: AlertmanagerHandler([f"http://u:p%3Ass%20w%C3%B6rd@{server.host}"]),
    }[way]()
    handler(alert())
    assert handler.flush(PATIENCE)
    expected = base64.b64encode(f"u:{SECRET}".encode()).decode()
    assert server.posts[0].headers["authorization"] == f"Basic {expected}"


def test_rotated_token_is_read_again(server: PostServer, tmp_path: Path) -> None:
    """A token file can be replaced, and be missing for a moment, while the job runs."""
    file = tmp_path / "token"
    file.write_text("first\n", encoding="utf-8")
    handler = AlertmanagerHandler([server.url], bearer_token_file=file)
    handler(alert())
    assert handler.flush(PATIENCE)
    file.unlink()
    handler(alert())
    assert not handler.flush(0.05)
    file.write_text("second", encoding="utf-8")
    with pytest.raises(ExportError, match="timed out with 1 alerts pending"):
        handler.refresh([alert()], 1)
    assert eventually(lambda: len(server.posts) == 2)
    sent = [post.headers["authorization"] for post in server.posts]
    assert sent == ["Bearer first", "Bearer second"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return a certificate authority."""
    return trustme.CA()


def server_context(authority: trustme.CA) -> ssl.SSLContext:
    """Return a server's context with a certificate signed by the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    return context


def test_tls_with_an_authority_and_a_client_certificate(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """``ca_file`` is trusted, and ``cert_file`` and ``key_file`` authenticate the client."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = authority.issue_cert("client")
    client.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    client.private_key_pem.write_to_path(tmp_path / "key.pem")
    context = server_context(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    with PostServer(tls=context) as server:
        stranger = AlertmanagerHandler([server.url], ca_file=tmp_path / "ca.pem")
        stranger(alert())
        assert not stranger.flush(0.2)
        handler = AlertmanagerHandler(
            [server.url],
            ca_file=tmp_path / "ca.pem",
            cert_file=str(tmp_path / "cert.pem"),
            key_file=tmp_path / "key.pem",
        )
        handler(alert())
        assert handler.flush(PATIENCE)
        assert len(server.posts) == 1


def test_untrusted_certificate_is_rejected_unless_verify_is_off(
    authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    """A self-signed certificate is accepted with ``verify=False`` only."""
    with PostServer(tls=server_context(authority)) as server:
        handler = AlertmanagerHandler([server.url])
        handler(alert())
        assert eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text)
        assert not handler.flush(0.01)
        assert server.posts == []
        trusting = AlertmanagerHandler([server.url], verify=False)
        trusting(alert())
        assert trusting.flush(PATIENCE)
        assert len(server.posts) == 1


def test_redirect_is_not_followed(server: PostServer, caplog: pytest.LogCaptureFixture) -> None:
    """Credentials are sent to the given address only; the log has the target of the redirect."""
    with PostServer(307) as gate:
        gate.headers["Location"] = f"{server.url}/api/v2/alerts"
        handler = AlertmanagerHandler([gate.url], username="u", password=SECRET)
        handler(alert())
        with pytest.raises(ExportError, match="it answered 307 to http://127"):
            handler.flush(PATIENCE)
    assert server.posts == []
    assert "redirects are not followed" in caplog.text


def test_proxy_variables_and_netrc_are_ignored(
    server: PostServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings of the job's other traffic do not affect posts."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    (tmp_path / "netrc").write_text("default login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    handler = AlertmanagerHandler([server.url])
    handler(alert())
    assert handler.flush(PATIENCE)
    (post,) = server.posts
    assert "authorization" not in post.headers


def test_only_the_given_authority_is_trusted(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REQUESTS_CA_BUNDLE etc. add no authority to ``ca_file``."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(tmp_path / "ca.pem"))
    with PostServer(tls=server_context(authority)) as server:
        handler = AlertmanagerHandler([server.url], ca_file=tmp_path / "other.pem")
        handler(alert())
        assert not handler.flush(0.2)
        assert server.posts == []


def test_certificate_of_another_name_is_rejected(
    authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A trusted authority is not enough: the certificate must name the server."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)
    with PostServer(tls=context) as server:
        handler = AlertmanagerHandler([server.url], ca_file=tmp_path / "ca.pem")
        handler(alert())
        assert eventually(lambda: "match" in caplog.text)
        assert not handler.flush(0.1)
        assert server.posts == []


def test_replaced_certificates_are_read_after_a_failure(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """Certificates can be rotated while the job runs."""
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    with PostServer(tls=server_context(authority)) as server:
        handler = AlertmanagerHandler([server.url], ca_file=file)
        authority.cert_pem.write_to_path(file)
        handler(alert())
        assert eventually(lambda: server.posts)


def test_posts_create_no_spans(server: PostServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instrumentations of HTTP clients are suppressed, on the posting thread only."""
    seen: list[bool] = []
    urlopen = HTTPConnectionPool.urlopen

    def note(self: HTTPConnectionPool, *args: Any, **options: Any) -> Any:
        seen.append(is_http_instrumentation_enabled())
        return urlopen(self, *args, **options)

    monkeypatch.setattr(HTTPConnectionPool, "urlopen", note)
    handler = AlertmanagerHandler([server.url])
    handler(alert())
    assert handler.flush(PATIENCE)
    assert seen == [False]
    assert is_http_instrumentation_enabled()


@pytest.mark.parametrize("status", [302, 400])
def test_response_bodies_are_read_up_to_a_limit(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """An endless response costs neither memory nor time."""
    with PostServer(status) as server:
        server.headers["Location"] = "http://127.0.0.1:1/"
        server.is_endless = True
        handler = AlertmanagerHandler([server.url], timeout=PATIENCE)
        handler(alert())
        with pytest.raises(ExportError, match=f"it answered {status}"):
            handler.flush(PATIENCE)
    assert len(caplog.text) < 2_000


@pytest.mark.parametrize("header", [("Content-Length", "99"), ("Content-Encoding", "gzip")])
def test_broken_error_body_does_not_hide_the_status(header: tuple[str, str]) -> None:
    """A rejection whose body ends early or cannot be decoded is still final, and is not retried."""
    with PostServer(400) as server:
        server.headers.update([header])
        handler = AlertmanagerHandler([server.url], timeout=PATIENCE)
        handler(alert())
        with pytest.raises(ExportError, match="it answered 400"):
            handler.flush(PATIENCE)
        assert len(server.posts) == 1


def test_slow_response_ends_at_the_timeout() -> None:
    """Reading an error's body byte by byte ends at the timeout of the post."""
    with PostServer(400) as server:
        server.is_slow = True
        handler = AlertmanagerHandler([server.url], timeout=0.2)
        began = time.monotonic()
        handler(alert())
        with pytest.raises(ExportError, match="it answered 400"):
            handler.flush(PATIENCE)
        assert time.monotonic() - began < 5


# --- invalid arguments ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("alertmanager:9093", "urls must be an http or https address .* got 'alertmanager:9093'"),
        ("", "such as 'http://alertmanager:9093'"),
        ("ftp://host", "must be an http"),
        ("http://", "must be an http"),
        ("http://host:99999", "must be an http"),
        ("http://host:0", "must be an http"),
        ("http://ho st", "must be an http"),
        ("http://host/?a=b", "without a query"),
        ("http://host/api/v2/alerts", "without /api/v2/alerts"),
        ("http://user@host", "urls: username must be set together .* got no password"),
        ("http://:word@host", "urls: username must be set together .* got no username"),
        ([], "urls must be an address .* got \\[\\]"),
        (None, "urls must be an address .* got None"),
        (["http://host", 5], r"urls\[1\] must be .* got 5"),
    ],
)
def test_invalid_address_is_an_error(url: Any, hint: str) -> None:
    """The message has the argument, the requirement and the value."""
    with pytest.raises(ConfigError, match=hint):
        AlertmanagerHandler(url)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({"username": "u"}, "username must be set together with password"),
        ({"password": "w"}, "got no username"),
        ({"username": "u:v", "password": "w"}, "username must not contain a colon"),
        ({"username": "u", "password": ""}, "password must be a non-empty"),
        ({"username": 5, "password": "w"}, "username must be .* got 5"),
        ({"username": "u", "password": "w", "bearer_token": "t"}, "must not both be set"),
        ({"username": "u", "password": "w", "password_file": "f"}, "must not both be set"),
        ({"username": "u", "password_file": "/nowhere/f"}, "password_file must .* '/nowhere/f'"),
        ({"bearer_token": "two\nlines"}, "token must be visible ASCII characters"),
        ({"bearer_token_file": "/nowhere/t"}, "bearer_token_file must .* '/nowhere/t'"),
        ({"bearer_token_file": os.devnull}, "which is empty"),
        ({"ca_file": "/nowhere/ca.pem"}, "ca_file must .* '/nowhere/ca.pem'"),
        ({"ca_file": os.devnull}, "ca_file must"),
        ({"cert_file": "/nowhere/cert.pem"}, "cert_file .* must .* '/nowhere/cert.pem'"),
        ({"key_file": "k"}, "key_file must be set together with cert_file, got 'k'"),
        ({"verify": None}, "verify must be True or False, got None"),
        ({"timeout": 0}, "timeout .*0"),
        ({"ends_after": True}, "ends_after .*True"),
        ({"generator_url": None}, "generator_url must be .* got None"),
        ({"labels": ["a"]}, r"labels must be a dict .* got \['a'\]"),
        ({"labels": {"a-b": "c"}}, "labels must .* got 'a-b'"),
        ({"labels": {"job": "c"}}, "labels must .* got 'job'"),
        ({"labels": {"a": ""}}, r"labels\['a'\] must be .* got ''"),
    ],
)
def test_invalid_argument_is_an_error(arguments: Any, hint: str) -> None:
    """The message has the argument, the requirement and the value."""
    with pytest.raises(ConfigError, match=hint):
        AlertmanagerHandler(["https://host"], **arguments)


def test_two_kinds_of_credentials_are_an_error() -> None:
    """A user in the address and a token cannot be combined."""
    with pytest.raises(ConfigError, match="must not name a user"):
        AlertmanagerHandler(["http://u:w@host"], bearer_token="t")


def test_invalid_address_of_the_environment_names_its_variable() -> None:
    """The error has the name of the variable."""
    config = MonitorConfig(alertmanager_urls=("host:9093",))
    with (
        pytest.raises(
            ConfigError, match=r"GENMETER_ALERTMANAGER_URL\): urls\[0\] must .* got 'host:9093'"
        ),
        isolated_monitor(config),
    ):
        pass


@pytest.mark.parametrize("url", ["http://u:s3cret@host/x y", "http://u:s3cret/@host:x"])
def test_secrets_are_not_shown(url: str) -> None:
    """Errors and reprs have no passwords or tokens."""
    with pytest.raises(ConfigError) as raised:
        AlertmanagerHandler([url])
    assert "s3cret" not in str(raised.value)
    handler = AlertmanagerHandler(["https://u:s3cret@host:1/p/"])
    assert repr(handler) == "<AlertmanagerHandler for https://host:1/p>"
    other = AlertmanagerHandler(["http://host"], bearer_token="s3cret")
    assert "s3cret" not in repr(vars(other)) + repr(vars(other._clients[0]))
