"""Replaces AfterImage's monitor under ``opentelemetry-instrument``.

``opentelemetry-instrument python job.py`` finds :class:`AfterImageInstrumentor` by its entry point;
``AfterImageInstrumentor().instrument()`` does the same in code. Needs the extra ``instrument``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from genmeter import patch
from genmeter.config.monitor import MonitorConfig
from genmeter.errors import ConfigError, MissingExtraError

try:
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "opentelemetry-instrumentation", extra="instrument", purpose="AfterImageInstrumentor"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["AfterImageInstrumentor"]

_logger = logging.getLogger("genmeter")


class AfterImageInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Replaces AfterImage's monitor by genmeter's, on the application's MeterProvider.

    ``instrument(meter_provider=...)`` takes a MeterProvider; the default is the global one. All
    other settings are read from the ``GENMETER_*`` variables; if one is invalid, a warning names
    it and all have their defaults. ``uninstrument()`` restores AfterImage's monitor, as described
    in :mod:`genmeter.patch`.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the instrumented packages."""
        return ("afterimage >= 0.18.0",)

    def _instrument(self, **kwargs: Any) -> None:
        provider: Any = kwargs.get("meter_provider") or "global"
        config = MonitorConfig(meter_provider=provider)
        try:
            config = MonitorConfig.from_env(meter_provider=provider)
        except ConfigError as error:
            # An exception would stop opentelemetry-instrument from loading other instrumentations.
            _logger.warning("ignoring all GENMETER_* variables: %s", error)
        patch.install(config)

    def _uninstrument(self, **kwargs: Any) -> None:  # noqa: ARG002 - the parent's signature
        patch.uninstall()
