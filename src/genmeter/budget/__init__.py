"""Budgets: limits of tokens and USD that a job checks before a call, and reserves from."""
