"""The dashboards for Grafana: tables of rows and panels, and how they become its JSON."""
