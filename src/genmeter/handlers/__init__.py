"""Outputs of events besides metrics and history: handlers, journal, logging, OpenTelemetry logs."""
