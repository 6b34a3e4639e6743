"""Alerts in the process: evaluation, states and delivery."""
