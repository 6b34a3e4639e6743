"""What the job logs, in ``logging`` and in OpenTelemetry logs."""
