"""Alertmanagers that fail or hang, and the end of the process."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from _alertmanagers import LABELS, NOON, alert, at_noon, closed_port, no_more_threads, threads
from _posts import PATIENCE, PostServer, eventually

import genmeter.clock
from genmeter import AlertmanagerHandler, ExportError, MonitorConfig
from genmeter.alerting import alertmanager
from genmeter.testing import isolated_monitor

if TYPE_CHECKING:
    from collections.abc import Iterator


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


# --- failures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_transient_statuses_are_retried(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """Three failures log one warning, then the alert arrives and the recovery is logged."""
    caplog.set_level(logging.INFO, "genmeter")
    with PostServer(status, status, status) as server:
        handler = AlertmanagerHandler([server.url])
        handler(alert())
        assert eventually(lambda: len(server.posts) == 4)
        assert eventually(lambda: "accepts alerts again" in caplog.text)
        with pytest.raises(ExportError, match=f"it answered {status}"):
            handler.flush(PATIENCE)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert f'it answered {status} "the body"' in caplog.text


@pytest.mark.parametrize("status", [400, 401, 404])
def test_rejected_post_is_not_retried(status: int, caplog: pytest.LogCaptureFixture) -> None:
    """A rejection is logged once and raised for the monitor to count; the next refresh is sent."""
    with PostServer(status, status) as server:
        handler = AlertmanagerHandler([server.url])
        for _ in range(2):
            handler(alert())
            with pytest.raises(ExportError, match=f"it answered {status}"):
                handler.flush(PATIENCE)
        assert len(server.posts) == 2
        handler.refresh([alert()], 60)
        assert handler.flush(PATIENCE)
        assert len(server.posts) == 3
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == 1


def test_failure_is_raised_by_the_next_call_once(caplog: pytest.LogCaptureFixture) -> None:
    """The call that raises still sends its alert, and the call after it does not raise."""
    with PostServer(400) as server:
        handler = AlertmanagerHandler([server.url])
        handler(alert())
        assert eventually(lambda: "it answered 400" in caplog.text)
        with pytest.raises(ExportError, match="did not reach the Alertmanager at http://127"):
            handler.refresh([alert()], 60)
        assert eventually(lambda: len(server.posts) == 2)
        handler.refresh([alert()], 60)
        assert handler.flush(PATIENCE)


def test_only_the_latest_state_is_sent_after_an_outage() -> None:
    """If an alert fires, is refreshed and resolved during an outage, only its end arrives."""
    with PostServer(503) as server:
        server.gate.clear()
        handler = AlertmanagerHandler([server.url])
        handler(alert())
        assert server.begun.wait(PATIENCE)
        handler.refresh([alert()], 1_000)
        handler(alert("resolved", minute=2))
        handler(alert(gen_ai_request_model="other"))
        server.gate.set()
        assert eventually(lambda: len(server.posts) == 2)
        assert [each["endsAt"][11:19] for each in server.posts[1].alerts] == [
            "12:02:00",
            "13:06:40",
        ]


def test_expired_state_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A firing alert that has expired is dropped after an outage; a resolved one is sent."""
    now = [NOON.timestamp()]
    monkeypatch.setattr(genmeter.clock, "now", lambda: now[0])
    with PostServer(503) as server:
        server.gate.clear()
        handler = AlertmanagerHandler([server.url])
        handler(alert())
        handler(alert("resolved", minute=1, gen_ai_request_model="over"))
        assert server.begun.wait(PATIENCE)
        now[0] += 86_400
        server.gate.set()
        with pytest.raises(ExportError):
            handler.flush(PATIENCE)
        later = [each["labels"] for post in server.posts[1:] for each in post.alerts]
        assert later == [LABELS | {"gen_ai_request_model": "over"}]


def test_unreachable_alertmanager_does_not_delay_others(server: PostServer) -> None:
    """Each peer has its own thread, and the caller waits for none."""
    with PostServer() as hanging:
        hanging.gate.clear()
        dead = f"http://127.0.0.1:{closed_port()}"
        handler = AlertmanagerHandler([hanging.url, dead, server.url], timeout=PATIENCE)
        handler(alert())
        assert eventually(lambda: len(server.posts) == 1)
        assert hanging.begun.wait(PATIENCE)
        assert hanging.posts == []
        assert not handler.flush(0.05)


def test_timeout_is_retried() -> None:
    """A post that exceeds ``timeout`` is retried."""
    with PostServer() as server:
        server.gate.clear()
        handler = AlertmanagerHandler([server.url], timeout=0.05)
        handler(alert())
        assert server.begun.wait(PATIENCE)
        server.begun.clear()
        assert server.begun.wait(PATIENCE)
        server.gate.set()
        with pytest.raises(ExportError, match="TimeoutError"):
            handler.flush(PATIENCE)


def test_retry_delays_grow_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays double from 1 s to 30 s, each reduced at random by up to a half."""
    monkeypatch.undo()
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    for share, expected in ((0.0, [0.5, 1, 2, 4, 8, 15, 15]), (1.0, [1, 2, 4, 8, 16, 30, 30])):
        monkeypatch.setattr(
            alertmanager.random, "uniform", lambda low, high, s=share: low + (high - low) * s
        )
        (client,) = AlertmanagerHandler(["http://127.0.0.1:1"])._clients
        pauses = []
        for _ in expected:
            client._back_off()
            pauses.append(client._retry_at)
        assert pauses == expected


# --- the end ---------------------------------------------------------------------------------------


def test_flush_that_timed_out_pauses_the_queue() -> None:
    """After a flush that timed out, alerts stay queued until the next call."""
    with PostServer(*[503] * 1_000) as server:
        handler = AlertmanagerHandler([server.url])
        handler(alert("resolved", minute=1))
        assert eventually(lambda: server.posts)
        assert not handler.flush(0.05)
        count = len(server.posts)
        time.sleep(0.1)  # ten times the longest delay between retries
        assert len(server.posts) <= count + 1  # one may have been in progress
        server._statuses.clear()
        with pytest.raises(ExportError, match="timed out with 1 alerts pending"):
            handler.refresh([], 60)
        assert handler.flush(PATIENCE)
        assert server.posts[-1].alerts[0]["endsAt"] == "2026-03-01T12:01:00+00:00"


def test_flush_that_timed_out_interrupts_the_post() -> None:
    """A hanging peer does not block the thread after the flush."""
    with PostServer() as server:
        server.gate.clear()
        handler = AlertmanagerHandler([server.url], timeout=PATIENCE)
        handler(alert())
        assert server.begun.wait(PATIENCE)
        assert not handler.flush(0.01)
        server.begun.clear()
        with pytest.raises(ExportError, match="1 alerts pending"):
            handler.refresh([], 60)
        assert server.begun.wait(PATIENCE / 2)  # the first post would take PATIENCE


def test_without_threads_the_caller_sends(
    server: PostServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the interpreter exits, a flush posts on its own thread, and leaves time for all peers."""
    with no_more_threads(monkeypatch):
        dead = f"http://127.0.0.1:{closed_port()}"
        handler = AlertmanagerHandler([dead, server.url])
        handler(alert())
        assert not handler.flush(0.5)
        assert len(server.posts) == 1
        assert not threads()


def test_threads_end_with_a_collected_handler() -> None:
    """The queue is tried once more, then the threads end, also if a peer is down."""
    with PostServer(503, 503, 503) as server:
        handler = AlertmanagerHandler([server.url, f"http://127.0.0.1:{closed_port()}"])
        handler(alert())
        assert eventually(lambda: server.posts)
        del handler
        gc.collect()
        assert eventually(lambda: not threads())


def test_forked_child_starts_with_an_empty_queue(server: PostServer) -> None:
    """Queued alerts stay with the parent; the child's alert is sent by its own thread."""
    with PostServer() as hanging:
        hanging.gate.clear()
        handler = AlertmanagerHandler([hanging.url])
        handler(alert())
        assert hanging.begun.wait(PATIENCE)
        handler._clients += AlertmanagerHandler([server.url])._clients
        child = os.fork()
        if child == 0:
            try:
                first = (
                    handler._clients[0].take_problem() is None and not handler._clients[0]._unsent
                )
                handler._clients.pop(0)
                handler(alert(where="child"))
                os._exit(0 if handler.flush(PATIENCE) and first else 1)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [each["labels"]["where"] for each in server.alerts] == ["child"]
        hanging.gate.set()
        assert eventually(lambda: len(hanging.posts) == 1)


def test_forked_child_does_not_interrupt_the_parents_post() -> None:
    """A flush that times out in the child does not close the parent's connection."""
    with PostServer() as server:
        server.gate.clear()
        handler = AlertmanagerHandler([server.url])
        handler(alert())
        assert server.begun.wait(PATIENCE)
        child = os.fork()
        if child == 0:
            try:
                (client,) = handler._clients
                client._post = lambda *_: time.sleep(PATIENCE)  # type: ignore[method-assign]
                client._unsent[frozenset()] = alertmanager.State("{}", None)
                os._exit(1 if handler.flush(0) else 0)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        server.gate.set()
        assert handler.flush(PATIENCE)
        assert len(server.posts) == 1


def test_logging_handler_that_raises_does_not_stop_the_retries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After an exception of a logging handler the alert is still retried."""

    def leave(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(alertmanager._logger, "warning", leave)
    with PostServer(503) as server:
        handler = AlertmanagerHandler([server.url])
        handler(alert())
        assert eventually(lambda: len(server.posts) == 2)


JOB = """
import sys
from genmeter import AlertmanagerHandler, EndpointConfig, GenerationMonitor, MonitorConfig

monitor = GenerationMonitor(
    alert_handlers=[AlertmanagerHandler([sys.argv[1]], timeout=1_000)],
    shutdown_timeout=0.2,
    config=MonitorConfig(endpoint=EndpointConfig(enabled=False)),
)
for _ in range(50):
    monitor.track_generation(1.0, False, error="boom")
monitor.check_alerts()
print("done")
"""


def test_hanging_alertmanager_does_not_delay_the_exit() -> None:
    """The process exits without waiting for the response to a post."""
    with PostServer() as server:
        server.gate.clear()
        ended = subprocess.run(
            [sys.executable, "-c", JOB, server.url],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "done\n"
    assert server.begun.is_set()
    assert "alerts pending" in ended.stderr


# --- with a monitor --------------------------------------------------------------------------------


def test_monitor_counts_failed_posts(caplog: pytest.LogCaptureFixture) -> None:
    """A rejection is counted in ``genmeter_monitor_handler_errors_total`` by handler."""
    with (
        PostServer(400) as server,
        isolated_monitor(
            alert_handlers=[AlertmanagerHandler([server.url])], metrics_interval=None
        ) as monitor,
    ):
        monitor.track_generation(1.0, False, error="boom")
        monitor.check_alerts()
        assert server.posts
        assert monitor.value(
            "genmeter_monitor_handler_errors_total", genmeter_handler="AlertmanagerHandler"
        )
    assert "it answered 400" in caplog.text
    caplog.clear()  # a stored traceback keeps the handler alive


def test_alertmanagers_can_be_set_by_the_environment(server: PostServer) -> None:
    """``GENMETER_ALERTMANAGER_URL`` is enough, and its password is not shown."""
    urls = f"http://u:{'secret'}@{server.host}, {server.url}/second"
    config = MonitorConfig.from_env({"GENMETER_ALERTMANAGER_URL": urls})
    assert "secret" not in repr(config)
    with isolated_monitor(config, metrics_interval=None) as monitor:
        monitor.track_generation(1.0, False, error="boom")
        monitor.check_alerts()
        assert {post.path for post in server.posts} == {"/api/v2/alerts", "/second/api/v2/alerts"}
        names = {each["labels"]["alertname"] for each in server.alerts}
        assert "GenerationErrorRateHigh" in names
