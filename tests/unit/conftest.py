"""What a test has logged does not reach the next one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from _waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOG_TIME = 5.0  # seconds; a handler of a test may block


@pytest.fixture(autouse=True)
def _logged_in_time() -> Iterator[None]:
    """Wait for the threads that log the test's lines, off the thread that has them."""
    yield
    eventually(
        lambda: all(each.name != "genmeter-log" for each in threading.enumerate()), _LOG_TIME
    )
