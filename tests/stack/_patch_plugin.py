"""A pytest plugin that puts genmeter's monitor in the place of AfterImage's for a whole run.

Its last line says how many monitors of genmeter's the tests made, so that a run in which nothing
was replaced does not pass for one in which all was.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from genmeter import GenerationMonitor, patch

if TYPE_CHECKING:
    import pytest

made = 0


def pytest_configure() -> None:
    """Replace the classes before the first test module is imported."""
    original = GenerationMonitor.__init__

    @functools.wraps(original)
    def counted(self: GenerationMonitor, *args: Any, **kwargs: Any) -> None:
        global made  # noqa: PLW0603 - told at the end
        made += 1
        original(self, *args, **kwargs)

    GenerationMonitor.__init__ = counted  # type: ignore[method-assign]
    patch.install()


def pytest_unconfigure() -> None:
    """Put them back."""
    patch.uninstall()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many monitors of genmeter's were made."""
    terminalreporter.write_line(f"monitors of genmeter's: {made}")
