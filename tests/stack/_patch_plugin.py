"""A pytest plugin that replaces AfterImage's monitor by genmeter's for a whole run.

Its last line has the number of genmeter's monitors, which proves that they were used.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from genmeter import GenerationMonitor, patch

if TYPE_CHECKING:
    import pytest

created = 0


def pytest_configure() -> None:
    """Replace the classes before the first test module is imported."""
    original = GenerationMonitor.__init__

    @functools.wraps(original)
    def counted(self: GenerationMonitor, *args: Any, **kwargs: Any) -> None:
        global created  # noqa: PLW0603 - printed at the end
        created += 1
        original(self, *args, **kwargs)

    GenerationMonitor.__init__ = counted  # type: ignore[method-assign]
    patch.install()


def pytest_unconfigure() -> None:
    """Restore them."""
    patch.uninstall()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of genmeter's monitors."""
    terminalreporter.write_line(f"monitors of genmeter: {created}")
