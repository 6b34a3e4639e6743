"""The tables: metrics, their names in Prometheus, queries, indicators and alerts."""
