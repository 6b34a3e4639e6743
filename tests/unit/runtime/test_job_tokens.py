"""The token usage of the job, if the other processes cannot be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from _runtimes import monitor_of, record

from genmeter import job_token_usage
from genmeter.job.job import Job, JobError

if TYPE_CHECKING:
    import pytest

    from genmeter import runtime


def test_a_job_that_cannot_be_read_is_logged_once_for_each_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each report says that it is not complete; after one that is, a reason is logged again."""
    reasons: list[str] = []

    def fail(_: Job) -> None:
        raise JobError(reasons[-1])

    with record(monitor_of()) as monitor:

        def reported(reason: str) -> list[str]:
            """Read three times; return what was logged."""
            reasons.append(reason)
            caplog.clear()
            with monkeypatch.context() as patch:
                patch.setattr(Job, "token_usage", fail)
                for _ in range(3):
                    found = job_token_usage()
                    assert not found.complete
                    assert found.total_tokens == 1
            monitor.flush()
            return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]

        begin = "the tokens of the job are those of this process: "
        assert reported("locked") == [f"{begin}locked"]
        assert reported("damaged") == [f"{begin}damaged"]
        assert reported("locked") == []
        assert job_token_usage().complete
        assert reported("locked") == [f"{begin}locked"]


def test_a_process_that_counts_apart_says_so_once(
    process: runtime.Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its failure is for good."""
    monkeypatch.setattr(process.job, "_failure", "no folder")
    with record(monitor_of()) as monitor:
        assert [job_token_usage().complete for _ in range(5)] == [False] * 5
        monitor.flush()
    assert caplog.text.count("the tokens of the job are those of this process: no folder") == 1
