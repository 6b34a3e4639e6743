"""What genmeter raises, and when.

Recording never raises: ``track_*``, ``record_metric`` and ``log_*`` count what they cannot keep.
Building, rendering and exporting do, with one of::

    GenmeterError
    ├── ConfigError (ValueError)          an argument, variable or file that cannot be used
    │   └── EndpointError (OSError)       the scrape endpoint cannot listen where it was asked to
    ├── ExportError (ValueError)          a report or file that cannot be written
    └── MissingExtraError (ImportError)   an optional package is absent; the message is the remedy

Each message names the argument, the value and what to do.
"""

from __future__ import annotations

__all__ = ["ConfigError", "EndpointError", "ExportError", "GenmeterError", "MissingExtraError"]


class GenmeterError(Exception):
    """The root of everything that genmeter raises on purpose."""


class ConfigError(GenmeterError, ValueError):
    """An argument, an environment variable or a file that cannot be used."""


class EndpointError(ConfigError, OSError):
    """The scrape endpoint cannot listen on the address that it was asked to use."""


class ExportError(GenmeterError, ValueError):
    """A report or an export that cannot be written."""


class MissingExtraError(GenmeterError, ImportError):
    """An optional package is not installed.

    Args:
        package: The distribution that is missing, as pip knows it.
        extra: The extra of genmeter that brings it.
        purpose: What the caller wanted, to start the sentence with.
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}; install it with: "
            f'pip install "genmeter[{extra}]"'
        )
        self.package = package
        self.extra = extra
