"""Where events go besides metrics and history: handlers, journal, logging, OpenTelemetry logs."""
