"""OpenTelemetry's way to replace AfterImage's monitor: ``opentelemetry-instrument``.

``opentelemetry-instrument python job.py`` finds :class:`AfterImageInstrumentor` by its entry point;
``AfterImageInstrumentor().instrument()`` is the same in code. Needs the extra ``instrument``.
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

    ``instrument(meter_provider=...)`` takes a MeterProvider; without one it is the global one.
    Everything else is read from the ``GENMETER_*`` variables; where one cannot be used a warning
    names it, and the defaults hold. ``uninstrument()`` puts AfterImage's monitor back; see
    :mod:`genmeter.patch` for what that reaches.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Name what is instrumented."""
        return ("afterimage >= 0.18.0",)

    def _instrument(self, **kwargs: Any) -> None:
        provider: Any = kwargs.get("meter_provider") or "global"
        config = MonitorConfig(meter_provider=provider)
        try:
            config = MonitorConfig.from_env(meter_provider=provider)
        except ConfigError as error:
            # Raised, it would keep opentelemetry-instrument from loading any other instrumentation.
            _logger.warning("no GENMETER_* variable is used, the defaults hold: %s", error)
        patch.install(config)

    def _uninstrument(self, **kwargs: Any) -> None:  # noqa: ARG002 - the parent's signature
        patch.uninstall()
