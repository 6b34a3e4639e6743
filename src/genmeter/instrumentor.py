"""What ``opentelemetry-instrument python job.py`` turns on, found by entry points.

:class:`GenAIInstrumentor` records the calls in the spans of the instrumentations that the command turns on,
:class:`AfterImageInstrumentor` replaces AfterImage's monitor. Their ``instrument()`` does the same in code.
Needs the extra ``instrument``. What they use is imported when they are turned on: a list of the installed
instrumentations loads this module too.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from genmeter.errors import ConfigError, MissingExtraError

try:
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "opentelemetry-instrumentation", extra="instrument", purpose="AfterImageInstrumentor"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from genmeter.auto.tracing import SpanFeed
    from genmeter.config.monitor import MonitorConfig

__all__ = ["AfterImageInstrumentor", "GenAIInstrumentor"]

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
        from genmeter import patch

        patch.install(_config(kwargs))

    def _uninstrument(self, **kwargs: Any) -> None:  # noqa: ARG002 - the parent's signature
        from genmeter import patch

        patch.uninstall()


class GenAIInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Records the calls in GenAI spans and log events, on the application's MeterProvider.

    ``instrument(tracer_provider=..., logger_provider=..., meter_provider=...)`` takes providers; by default
    these are the global ones, set already or later. Spans that the sampler drops are recorded too, and not
    exported. What cannot be seen is logged as a warning. Settings are read as by
    :class:`AfterImageInstrumentor`. ``uninstrument()`` ends it.
    """

    _feed: SpanFeed | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the instrumented packages: none, since it reads what instrumentations write."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        from genmeter.auto import afterimage
        from genmeter.auto.tracing import SpanFeed
        from genmeter.spans import monitors

        monitors.configure(_config(kwargs))
        feed = self._feed = SpanFeed()
        afterimage.install()
        feed.install(kwargs.get("tracer_provider"), kwargs.get("logger_provider"))
        for note in feed.notes():
            _logger.warning("%s", note)

    def _uninstrument(self, **kwargs: Any) -> None:  # noqa: ARG002 - the parent's signature
        from genmeter.spans import monitors

        feed, self._feed = self._feed, None
        monitors.configure(None)
        if feed is not None:
            feed.uninstall()


def _config(kwargs: Mapping[str, Any]) -> MonitorConfig:
    from genmeter.config.monitor import MonitorConfig

    provider: Any = kwargs.get("meter_provider") or "global"
    config = MonitorConfig(meter_provider=provider)
    try:
        return MonitorConfig.from_env(meter_provider=provider)
    except ConfigError as error:
        # An exception would stop opentelemetry-instrument from loading other instrumentations.
        _logger.warning("ignoring all GENMETER_* variables: %s", error)
    return config
