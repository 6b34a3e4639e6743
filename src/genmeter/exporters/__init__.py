"""The meter provider, the scrape endpoint, OTLP pushes and their settings."""
