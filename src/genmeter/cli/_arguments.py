"""Types of command-line arguments."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from genmeter.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from genmeter.config.checks import Check

__all__ = ["checked"]


def checked(check: Check) -> Callable[[str], Any]:
    """Return a type for `argparse` that reads and checks a value."""

    def parse(text: str) -> Any:
        try:
            return check("", check.read(text))
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error).strip()) from error

    return parse
