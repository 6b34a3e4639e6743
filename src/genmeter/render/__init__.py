"""From the tables to files for Prometheus, Grafana and people."""
